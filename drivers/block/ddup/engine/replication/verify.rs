// SPDX-License-Identifier: GPL-2.0

//! Verify: whether a peer holds what it has acknowledged, by sums of ranges, while the set serves.
//!
//! ```text
//!  primary: Begin -> Opening --both have frozen it--> Sums -> Ask -> Asked -> Show -> Shown -> Own
//!             \--- not now ---/                         \--------- 64 ranges at a time ---------/
//!           behind the last range: Over, until what is repaired was acknowledged
//! ```
//!
//! Both freeze the state behind the same epoch. The primary cuts a checkpoint, which ends an epoch,
//! and says VERIFY in the stream right behind that epoch's SEAL. The replica, whose half is
//! `verified.rs`, freezes that state, too, or says that it can't. Nothing is staged for a verify, and it
//! changes no history.
//!
//! Ranges are compared by their sums; of one that differs the replica tells the blocks. A block that
//! differs is reported, and repaired if that was asked for: as an entry of the open epoch with the
//! content that the block has now, provided that this is what it had in the frozen state. It belongs to
//! a session and its stream, and ends with them. A frozen state that is needed for something else
//! ends it.

use super::super::mark::mark;
use super::super::mutant::mutant;
use super::super::types::NAME_BYTES;
use super::super::Hash;
use super::action::{Action, Event, FrozenState, Outgoing, Reply, Shown};
use super::codec::copy;
use super::config::Refusal;
use super::pace::{Backoff, Pace};
use super::range::Range;
use super::set::Set;
use super::types::{Entry, Id, Op, Position, Volume};
use super::types::{RANGES_MAX, RANGE_BLOCKS_MAX};
pub use super::verified::HOLD_MAX;
use super::wire::{encode, Envelope, Frame};
use kernel::prelude::*;

/// Blocks that differ and are told one by one.
pub const FOUND_MAX: usize = 32;
/// A state that the peer could not freeze is asked for again after this, in milliseconds: twice as
/// long after each time, up to a cap.
const FREEZE_PAUSE: u64 = 100;
const FREEZE_PAUSE_MAX: u64 = 1000;
/// How often.
const FREEZE_TRIES: u32 = 20;
/// So long both may take to freeze a state, in milliseconds.
const FREEZE_WAIT: u64 = 60_000;
/// Blocks that the store repairs at once.
const REPAIRS_MAX: usize = 8;

/// How far a verify is, or how it has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VerifyState {
    /// Both stores are to freeze the same state.
    Freezing,
    /// They have, and it is compared.
    Comparing,
    /// All was compared, and the peer has what was repaired.
    Complete,
    /// It was told to end.
    Stopped,
    /// A frozen state gave way: to who needs the space, or to a full compare.
    GaveWay,
    /// The session, its stream or the reign has ended.
    Lost,
    /// The two did not manage to freeze the same state.
    NotFrozen,
}

impl VerifyState {
    /// Whether it goes on.
    pub fn goes_on(self) -> bool {
        matches!(self, VerifyState::Freezing | VerifyState::Comparing)
    }
}

/// A block of the peer that is not what it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The volume.
    pub volume: Id,
    /// The block.
    pub lbn: u64,
}

/// What a verify has done and found.
#[derive(Debug)]
pub struct VerifyReport {
    /// The peer.
    pub peer: Id,
    /// What differs is repaired.
    pub repair: bool,
    /// How far it is.
    pub state: VerifyState,
    /// What was frozen, once it is.
    pub position: Position,
    /// Blocks that are mapped there.
    pub blocks: u64,
    /// How many of them were compared.
    pub compared: u64,
    /// Ranges that were compared, and those whose sums differ.
    pub ranges: u64,
    /// How many of those differ.
    pub ranges_differing: u64,
    /// Volumes that only one of the two has, or that have other sizes.
    pub volumes_differing: u64,
    /// Blocks that differ.
    pub differing: u64,
    /// How many of them were recorded again.
    pub repaired: u64,
    /// The first [`FOUND_MAX`] blocks that differ.
    pub found: KVec<Difference>,
    /// For how long it goes on or went on, in milliseconds.
    pub took: u64,
    /// When it ended, by the store's clock.
    pub ended: Option<u64>,
}

/// A range whose sum the peer is asked for.
#[derive(Clone, Copy, Debug)]
struct Part {
    range: Range,
    equal: bool,
}

/// Where the comparison of a range that differs is, block by block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Spot {
    /// Which of the ranges.
    part: usize,
    /// The next block.
    lbn: u64,
}

/// How far the primary is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Walk {
    /// A state is to be frozen.
    Begin,
    /// The store was asked for one. With its end, once it is known; whether VERIFY was said, and whether
    /// it is frozen here.
    Opening {
        cut: Option<Position>,
        told: bool,
        here: bool,
    },
    /// Ranges are being summed up.
    Sums,
    /// The peer is to be asked for them.
    Ask,
    /// It was asked.
    Asked,
    /// The peer is to tell the blocks from here on.
    Show(Spot),
    /// It was asked.
    Shown(Spot),
    /// It has told those up to there; the own ones are to be looked at.
    Own(Spot, u64),
    /// All was compared.
    Over,
}

/// A verify of a peer, at its primary.
#[derive(Debug)]
pub(super) struct Verify {
    began: u64,
    nonce: u64,
    stream: u32,
    /// Names the own scan, and this try to the peer; 0 between two of them.
    number: u64,
    walk: Walk,
    tries: Backoff,
    /// When the try began.
    since: u64,
    pace: Pace,
    /// Of the own frozen state, and of the peer's once it is frozen.
    volumes: KVec<Volume>,
    theirs: Option<KVec<Volume>>,
    cursor: u64,
    ended: bool,
    /// The store was asked for blocks.
    asked: bool,
    /// The ranges of this time, and the number of the first of them.
    parts: KVec<Part>,
    first: u32,
    /// What the peer has told last.
    told: KVec<Entry>,
    /// What is to be recorded again; there is room for what one frame of the peer may bring.
    repairs: KVec<Entry>,
    /// What the store was asked to record.
    repairing: KVec<u64>,
    /// The newest epoch with something that was.
    repaired: u64,
    report: VerifyReport,
}

/// Whether the peer's block is what it should be. Without a digest the primary has lost its good copy:
/// the check is all that it knows.
fn is_same(own: Option<&Entry>, peers: Option<&Entry>) -> bool {
    match (own, peers) {
        (Some(own), Some(peers)) => {
            let nameless = own.digest == [0; NAME_BYTES];
            own.check == peers.check && (nameless || own.digest == peers.digest)
        }
        (None, Some(_)) => mutant!(246),
        (own, _) => own.is_none(),
    }
}

/// The blocks that differ, in order, each with what it should be; `None` stands for zeroes.
fn differing<'a>(
    own: &'a [Entry],
    peers: &'a [Entry],
) -> impl Iterator<Item = (u64, Option<&'a Entry>)> + 'a {
    let (mut own, mut peers) = (own.iter().peekable(), peers.iter().peekable());
    core::iter::from_fn(move || loop {
        let lbn = [own.peek(), peers.peek()]
            .into_iter()
            .flatten()
            .map(|entry| entry.lbn)
            .min()?;
        let pair = (
            own.next_if(|entry| entry.lbn == lbn),
            peers.next_if(|entry| entry.lbn == lbn),
        );
        if !is_same(pair.0, pair.1) {
            return Some((lbn, pair.0));
        }
    })
}

/// Volumes that only one of the two has, or with another size.
fn volumes_differing(own: &[Volume], peers: &[Volume]) -> u64 {
    let same = own.iter().filter(|volume| peers.contains(volume)).count();
    let known = |volume: &&Volume| own.iter().any(|v| v.uuid == volume.uuid);
    let strange = peers.iter().filter(|v| !known(v)).count();
    (own.len() - same + strange) as u64
}

impl Verify {
    /// The own scan, if there is one.
    fn scan(&self) -> Option<u64> {
        let has = !matches!(self.walk, Walk::Begin | Walk::Over);
        has.then_some(self.number)
    }

    /// The epoch behind which the peer of this session is still to be told of it.
    pub(super) fn place(&self, nonce: u64) -> Option<Position> {
        match self.walk {
            Walk::Opening {
                cut, told: false, ..
            } => cut.filter(|_| self.nonce == nonce),
            _ => None,
        }
    }

    /// The frame that is to come before this entry of the stream.
    pub(super) fn marker(&self, nonce: u64, next: (u64, u32)) -> Option<Frame> {
        let position = self.place(nonce)?;
        let due = next == (position.epoch + 1, 0) || mutant!(244);
        due.then_some(Frame::Verify {
            number: self.number,
            position,
        })
    }

    /// [`Verify::marker`] was sent.
    pub(super) fn was_marked(&mut self) {
        if let Walk::Opening { told, .. } = &mut self.walk {
            mark!(verify_told);
            *told = true;
        }
    }

    /// Both have frozen it: it is compared.
    fn begin_if_frozen(&mut self) {
        let (Walk::Opening { here: true, .. }, Some(theirs)) = (self.walk, &self.theirs) else {
            return;
        };
        mark!(verify_begins);
        self.report.volumes_differing = volumes_differing(&self.volumes, theirs);
        self.report.state = VerifyState::Comparing;
        self.walk = Walk::Sums;
    }

    /// The two can't freeze the same state now: another one is tried later. Answers the number of this
    /// try.
    fn again(&mut self, now: u64) -> u64 {
        mark!(verify_tries_again);
        self.tries.failed(now);
        self.theirs = None;
        self.walk = Walk::Begin;
        core::mem::take(&mut self.number)
    }

    fn volume_of(&self, spot: Spot) -> Option<Range> {
        self.parts.get(spot.part).map(|part| part.range)
    }

    /// Goes on with the first range from `from` on that differs.
    fn go_to(&mut self, from: usize) {
        let mut parts = self.parts.iter().enumerate().skip(from);
        let next = parts.find(|(_, part)| !part.equal);
        self.walk = match next {
            Some((at, part)) => Walk::Show(Spot {
                part: at,
                lbn: part.range.first,
            }),
            None if self.ended => Walk::Over,
            None => {
                self.first += self.parts.len() as u32;
                self.parts.clear();
                Walk::Sums
            }
        };
    }

    /// Takes which ranges are equal.
    fn take_equal(&mut self, bits: u64) {
        for (bit, part) in self.parts.iter_mut().enumerate() {
            part.equal = bits >> bit & 1 != 0;
            self.report.ranges += 1;
            match part.equal {
                true => self.report.compared += u64::from(part.range.blocks),
                false => self.report.ranges_differing += 1,
            }
        }
        self.go_to(0);
    }

    /// Takes blocks of the own frozen state.
    fn take_own(&mut self, shown: Shown, next: Option<u64>, hash: Hash) {
        self.asked = false;
        match self.walk {
            Walk::Sums => {
                let range = Range::of(shown.volume, shown.range, &shown.entries, self.nonce, hash);
                if range.first < range.end {
                    let part = Part {
                        range,
                        equal: false,
                    };
                    let _ = self.parts.push_within_capacity(part);
                }
                match next {
                    Some(cursor) => self.cursor = cursor,
                    None => self.ended = true,
                }
                if self.parts.is_empty() && self.ended {
                    self.walk = Walk::Over;
                } else if self.ended || self.parts.len() == RANGES_MAX {
                    self.walk = Walk::Ask;
                }
            }
            Walk::Own(spot, end) => self.compare(spot, end, &shown.entries),
            _ => {}
        }
    }

    /// Compares the blocks of a range up to `end`.
    fn compare(&mut self, spot: Spot, end: u64, own: &[Entry]) {
        let Some(range) = self.volume_of(spot) else {
            return;
        };
        let told = core::mem::take(&mut self.told);
        let is_it = |v: &&Volume| v.uuid == range.volume;
        let theirs = self.theirs.iter().flatten().find(is_it);
        let there = theirs.map_or(0, |volume| volume.blocks);
        self.report.compared += own.len() as u64;
        for (lbn, meant) in differing(own, &told) {
            mark!(verify_finds_a_difference);
            self.report.differing += 1;
            let volume = range.volume;
            let difference = Difference { volume, lbn };
            let _ = self.report.found.push_within_capacity(difference);
            let entry = match meant {
                Some(entry) => Entry {
                    fresh: false,
                    ..*entry
                },
                None => Entry {
                    op: Op::Zero,
                    volume,
                    lbn,
                    count: 1,
                    ..Entry::default()
                },
            };
            // What has no good copy here, and what the peer has no place for, stays as it is.
            let known = entry.op == Op::Zero || entry.digest != [0; NAME_BYTES];
            if self.report.repair && known && lbn < there {
                let _ = self.repairs.push_within_capacity(entry);
            }
        }
        self.told = told;
        match end < range.end {
            true => self.walk = Walk::Show(Spot { lbn: end, ..spot }),
            false => self.go_to(spot.part + 1),
        }
    }
}

impl Set {
    // Inputs.

    /// Begins to verify a peer.
    pub fn verify(&mut self, command: u64, peer: &Id, repair: bool) -> Result {
        self.replies.reserve(1, GFP_KERNEL)?;
        let at = self.peers.iter().position(|p| p.store == *peer);
        let at = at.filter(|at| self.is_streaming(*at));
        let refused = match at {
            _ if !self.leads() => Some(Refusal::NotPrimary),
            None => Some(Refusal::NotConnected),
            Some(_) if self.verify.is_some() => Some(Refusal::Verifying),
            Some(at) if !self.can_verify(at) => Some(Refusal::PeerTooOld),
            Some(at) if self.is_being_compared(at) => Some(Refusal::Comparing),
            Some(_) => None,
        };
        let stream = at.and_then(|at| self.stream_of(at));
        let reply = match (refused, stream) {
            (None, Some((nonce, stream))) => {
                self.verify = Some(self.new_verify(*peer, repair, (nonce, stream))?);
                self.verify_report = None;
                Reply::Done
            }
            (refused, _) => Reply::Refused(refused.unwrap_or(Refusal::NotConnected)),
        };
        self.reply(command, reply);
        Ok(())
    }

    fn new_verify(
        &self,
        peer: Id,
        repair: bool,
        (nonce, stream): (u64, u32),
    ) -> Result<KBox<Verify>> {
        let repairs = 2 * RANGE_BLOCKS_MAX as usize;
        let report = VerifyReport {
            peer,
            repair,
            state: VerifyState::Freezing,
            position: Position::ZERO,
            blocks: 0,
            compared: 0,
            ranges: 0,
            ranges_differing: 0,
            volumes_differing: 0,
            differing: 0,
            repaired: 0,
            found: KVec::with_capacity(FOUND_MAX, GFP_KERNEL)?,
            took: 0,
            ended: None,
        };
        let verify = Verify {
            began: self.now,
            nonce,
            stream,
            number: 0,
            walk: Walk::Begin,
            tries: Backoff::default(),
            since: self.now,
            pace: Pace::default(),
            volumes: KVec::new(),
            theirs: None,
            cursor: 0,
            ended: false,
            asked: false,
            parts: KVec::with_capacity(RANGES_MAX, GFP_KERNEL)?,
            first: 0,
            told: KVec::new(),
            repairs: KVec::with_capacity(repairs, GFP_KERNEL)?,
            repairing: KVec::with_capacity(REPAIRS_MAX, GFP_KERNEL)?,
            repaired: 0,
            report,
        };
        Ok(KBox::new(verify, GFP_KERNEL)?)
    }

    /// Ends the verify that goes on.
    pub fn verify_stop(&mut self, command: u64) -> Result {
        self.replies.reserve(1, GFP_KERNEL)?;
        let reply = match self.verify.is_some() {
            true => Reply::Done,
            false => Reply::Refused(Refusal::NoVerify),
        };
        self.end_verify(VerifyState::Stopped);
        self.reply(command, reply);
        Ok(())
    }

    /// The end of an [`Action::Repair`]: the epoch in which it was recorded, or `None` if the block is
    /// another one by now, or the store could not.
    pub fn repaired(&mut self, token: u64, epoch: Option<u64>) {
        let Some(verify) = self.verify.as_mut() else {
            return;
        };
        let Some(at) = verify.repairing.iter().position(|t| *t == token) else {
            return;
        };
        let _ = verify.repairing.remove(at);
        if let Some(epoch) = epoch {
            mark!(verify_repairs);
            verify.report.repaired += 1;
            verify.repaired = verify.repaired.max(epoch);
        }
    }

    /// The checkpoint is being cut that a scan waits for: its state has this end. Nothing was recorded
    /// behind it, and nothing will be before this returns.
    pub fn scan_cut(&mut self, scan: u64, position: &Position) {
        let is_end = self.ends_at(position);
        if let Some(verify) = self.verify.as_mut().filter(|v| v.scan() == Some(scan)) {
            match &mut verify.walk {
                // The last one was not frozen, but the peer may have heard of it.
                Walk::Opening { cut: Some(_), .. } if !mutant!(249) => self.verify_again(),
                Walk::Opening { cut, .. } if is_end => *cut = Some(*position),
                _ => {}
            }
        }
        self.verified_cut(scan);
    }

    /// What is so with the verify that goes on, or was the last one.
    pub fn verify_report(&self) -> Result<Option<VerifyReport>> {
        let (took, report) = match (&self.verify, &self.verify_report) {
            (Some(verify), _) => (self.now.saturating_sub(verify.began), &verify.report),
            (None, Some(report)) => (report.took, &**report),
            (None, None) => return Ok(None),
        };
        Ok(Some(VerifyReport {
            found: copy(&report.found)?,
            took,
            ..*report
        }))
    }

    /// Whether a verify goes on.
    pub fn verifies(&self) -> bool {
        self.verify.is_some()
    }

    /// Whether all that was recorded is of epochs up to the one that ends there.
    fn ends_at(&self, position: &Position) -> bool {
        let sealed = self.rule.as_ref().map(|r| r.sealed);
        sealed == Some(*position) && self.open_len() == 0
    }

    /// Whether a peer knows what VERIFY is.
    fn can_verify(&self, at: usize) -> bool {
        let hello = self.link_at(at).and_then(|l| l.hello.as_ref());
        hello.is_some_and(|hello| hello.verifies)
    }

    /// The session with a peer, and the stream to it.
    fn stream_of(&self, at: usize) -> Option<(u64, u32)> {
        let link = self.link_at(at)?;
        Some((link.nonce, link.sender.as_ref()?.stream))
    }

    /// Whether a peer is being compared in full, or has not acknowledged that.
    fn is_being_compared(&self, at: usize) -> bool {
        self.compared(at).is_some() || self.is_compared(at)
    }

    // What the parts of the set share.

    /// Whether a verify needs a scan of the store.
    pub(super) fn verify_uses(&self, scan: u64) -> bool {
        let own = self.verify.as_ref().and_then(|v| v.scan());
        own == Some(scan) || self.is_scan_of_verified(scan)
    }

    /// Where the peer is that is verified, if its session and stream last: what it keeps for that it
    /// keeps until it is told, also if the verify can't go on.
    fn verify_peer(&self) -> Option<usize> {
        let verify = self.verify.as_ref()?;
        let is_it = |at: &usize| self.stream_of(*at) == Some((verify.nonce, verify.stream));
        (0..self.peers.len()).find(is_it)
    }

    /// The same, if the verify can go on.
    fn verify_at(&self) -> Option<usize> {
        let goes_on = |at: &usize| self.is_ruling() && !self.is_being_compared(*at);
        self.verify_peer().filter(goes_on)
    }

    /// Ends what has lost its session, waited for too long, or is in the way of a full compare.
    pub(super) fn watch_verify(&mut self) {
        let now = self.now;
        if let Some(verify) = self.verify.as_ref() {
            let opening = matches!(verify.walk, Walk::Opening { .. });
            let (scan, epoch) = (verify.scan(), verify.report.position.epoch);
            let late = opening && now >= verify.since.saturating_add(FREEZE_WAIT);
            let tired = verify.tries.failures() >= FREEZE_TRIES;
            let over = verify.walk == Walk::Over
                && verify.repairs.is_empty()
                && verify.repairing.is_empty();
            let repaired = verify.repaired;
            match self.verify_at() {
                None => self.end_verify(VerifyState::Lost),
                Some(_) if late || tired => self.end_verify(VerifyState::NotFrozen),
                // Who is compared with a younger state would have to wait for the end of this.
                Some(_) if scan.is_some() && !opening && self.waits_for_younger(epoch) => {
                    self.end_verify(VerifyState::GaveWay);
                }
                Some(at) if over && (self.acked(at) >= repaired || mutant!(247)) => {
                    self.end_verify(VerifyState::Complete);
                }
                Some(_) => {}
            }
        }
        self.watch_verified();
    }

    /// Ends the verify that goes on, if one does.
    fn end_verify(&mut self, state: VerifyState) {
        let at = match mutant!(283) {
            true => self.verify_at(),
            false => self.verify_peer(),
        };
        let now = self.now;
        let Some(verify) = self.verify.take() else {
            return;
        };
        mark!(verify_ends);
        if verify.walk != Walk::Over {
            self.say_thawed(at, verify.number);
        }
        let Verify {
            began, mut report, ..
        } = KBox::into_inner(verify);
        let peer = report.peer;
        report.state = state;
        report.took = now.saturating_sub(began);
        report.ended = Some(now);
        // Without memory nothing is kept of it but the event.
        self.verify_report = KBox::new(report, GFP_KERNEL).ok();
        self.event(Event::Verified(peer));
    }

    /// This try to freeze a state is given up.
    fn verify_again(&mut self) {
        let (at, now) = (self.verify_peer(), self.now);
        if let Some(verify) = self.verify.as_mut() {
            let number = verify.again(now);
            self.say_thawed(at, number);
        }
    }

    /// The peer is to hear that a state is not kept any more.
    pub(super) fn say_thawed(&mut self, at: Option<usize>, number: u64) {
        if let Some(link) = at.and_then(|at| self.link_mut(at)) {
            link.thawed = Some(number);
        }
    }

    // Ends of what the store was asked for.

    /// Whether a scan that was opened is that of a verify: then whether it is wanted.
    pub(super) fn verify_opened(
        &mut self,
        scan: u64,
        frozen: Option<FrozenState<'_>>,
    ) -> Result<Option<bool>> {
        if !self.verify_uses(scan) {
            return Ok(None);
        }
        let end = frozen.map(|state| state.history.position());
        let is_end = end.is_some_and(|end| self.ends_at(&end));
        let volumes = copy(frozen.map_or(&[][..], |state| state.volumes))?;
        let blocks = frozen.map_or(0, |state| state.blocks);
        if let Some(verify) = self.verify.as_mut().filter(|v| v.scan() == Some(scan)) {
            let (cut, told) = match verify.walk {
                Walk::Opening { cut, told, .. } => (cut, told),
                _ => return Ok(Some(false)),
            };
            // If nothing was written since the last checkpoint, it is frozen as it is.
            let cut = cut.or_else(|| end.filter(|_| is_end));
            let Some(position) = cut.filter(|cut| Some(*cut) == end) else {
                self.verify_again();
                return Ok(Some(false));
            };
            mark!(verify_frozen);
            verify.volumes = volumes;
            verify.report.position = position;
            verify.report.blocks = blocks;
            verify.walk = Walk::Opening {
                cut: Some(position),
                told,
                here: true,
            };
            verify.begin_if_frozen();
            return Ok(Some(true));
        }
        Ok(Some(self.verified_frozen(end, volumes)))
    }

    /// A frozen state is gone before its time, or will not be.
    pub(super) fn verify_scan_lost(&mut self, scan: u64) {
        let verify = self.verify.as_ref();
        if verify.is_some_and(|v| v.scan() == Some(scan)) {
            self.end_verify(VerifyState::GaveWay);
        }
        if self.is_scan_of_verified(scan) {
            self.thaw();
        }
    }

    /// Takes what is shown of a state, if it is that of a verify; else gives it back.
    pub(super) fn verify_scanned(
        &mut self,
        scan: u64,
        shown: Shown,
        next: Option<u64>,
    ) -> Option<Shown> {
        let (hash, now, tranquility) = (self.params.hash, self.now, self.tranquility);
        if let Some(verify) = self.verify.as_mut().filter(|v| v.scan() == Some(scan)) {
            verify.pace.end_step(now, tranquility);
            verify.take_own(shown, next, hash);
            if verify.walk == Walk::Over {
                // Nobody needs the frozen states any more.
                let number = verify.number;
                let at = self.verify_peer();
                self.say_thawed(at, number);
            }
            return None;
        }
        self.verified_shown(scan, shown)
    }

    // Frames.

    /// Whether a frame is of a verify, and of no full compare.
    pub(super) fn is_of_verify(&self, frame: &Frame) -> bool {
        match frame {
            Frame::Verify { .. } | Frame::Frozen { .. } | Frame::Thawed(_) => true,
            Frame::Show { .. } | Frame::Blocks { .. } => true,
            Frame::Ranges { compare, .. } => self.is_verified(*compare),
            Frame::Equal { compare, .. } => {
                let verify = self.verify.as_ref();
                verify.is_some_and(|v| v.number == *compare)
            }
            _ => false,
        }
    }

    /// Takes what a replica says of a verify; `None` if no replica says that.
    pub(super) fn take_verify_answer(&mut self, at: usize, frame: Frame) -> Option<()> {
        let (now, is_it) = (self.now, self.verify_at() == Some(at));
        let Some(verify) = self.verify.as_mut().filter(|_| is_it) else {
            return Some(());
        };
        match frame {
            Frame::Frozen { number, volumes } if number == verify.number => {
                let told = matches!(verify.walk, Walk::Opening { told: true, .. });
                if !told || verify.theirs.is_some() {
                    return None;
                }
                verify.theirs = Some(volumes);
                verify.begin_if_frozen();
                Some(())
            }
            Frame::Thawed(number) if number == verify.number => {
                match verify.walk {
                    Walk::Opening { .. } if verify.theirs.is_none() => {
                        verify.again(now);
                    }
                    Walk::Begin | Walk::Over => {}
                    _ => self.end_verify(VerifyState::GaveWay),
                }
                Some(())
            }
            Frame::Equal {
                compare: number,
                first,
                count,
                bits,
            } if number == verify.number => {
                let asked = verify.walk == Walk::Asked
                    && (first, count as usize) == (verify.first, verify.parts.len());
                if !asked {
                    return None;
                }
                verify.take_equal(bits);
                if verify.walk == Walk::Over {
                    let number = verify.number;
                    self.say_thawed(Some(at), number);
                }
                Some(())
            }
            Frame::Blocks {
                number,
                lbn,
                count,
                entries,
            } if number == verify.number => {
                let Walk::Shown(spot) = verify.walk else {
                    return None;
                };
                let end = lbn.saturating_add(count);
                let range = verify.volume_of(spot)?;
                if lbn != spot.lbn || end > range.end {
                    return None;
                }
                verify.told = entries;
                verify.walk = Walk::Own(spot, end);
                Some(())
            }
            _ => Some(()),
        }
    }

    // Outputs.

    /// What the store is to do for a verify.
    pub(super) fn poll_verify(&mut self) -> Option<Action> {
        self.poll_verified().or_else(|| self.poll_verifying())
    }

    fn poll_verifying(&mut self) -> Option<Action> {
        let (now, token, rests) = (self.now, self.token + 1, self.verify_rests().is_some());
        let at = self.verify_at()?;
        let range_blocks = self.blocks_of_range(at);
        let free = self.scans.is_empty();
        let verify = self.verify.as_mut()?;
        if verify.repairing.len() < REPAIRS_MAX {
            if let Some(entry) = verify.repairs.pop() {
                // There is room for so many.
                let _ = verify.repairing.push_within_capacity(token);
                self.token = token;
                return Some(Action::Repair { token, entry });
            }
        }
        match verify.walk {
            Walk::Begin if free && verify.tries.until(FREEZE_PAUSE, FREEZE_PAUSE_MAX) <= now => {
                self.scans.reserve(1, GFP_KERNEL).ok()?;
                let _ = self.scans.push_within_capacity(token);
                self.token = token;
                verify.number = token;
                verify.since = now;
                verify.walk = Walk::Opening {
                    cut: None,
                    told: false,
                    here: false,
                };
                Some(Action::ScanOpen { scan: token })
            }
            Walk::Sums if !verify.asked && !rests => {
                verify.asked = true;
                verify.pace.begin_step(now);
                Some(Action::Scan {
                    scan: verify.number,
                    cursor: verify.cursor,
                    max: range_blocks,
                    since: None,
                })
            }
            Walk::Own(spot, end) if !verify.asked && !rests => {
                let volume = verify.volume_of(spot)?.volume;
                verify.asked = true;
                verify.pace.begin_step(now);
                Some(Action::ScanRange {
                    scan: verify.number,
                    volume,
                    first: spot.lbn,
                    end,
                    max: RANGE_BLOCKS_MAX,
                })
            }
            _ => None,
        }
    }

    /// The next frame of a verify for a peer, but for VERIFY, which has its place in the stream.
    pub(super) fn poll_verify_frame(
        &mut self,
        at: usize,
        envelope: &Envelope,
    ) -> Result<Option<Outgoing>> {
        let hash = self.params.hash;
        let Some(link) = self.link_at(at) else {
            return Ok(None);
        };
        let nonce = link.nonce;
        if let Some(number) = link.thawed {
            let meta = encode(envelope, &Frame::Thawed(number), hash)?;
            if let Some(link) = self.link_mut(at) {
                link.thawed = None;
            }
            return Self::outgoing(meta, KVec::new());
        }
        if let Some(meta) = self.poll_verified_frame(nonce, envelope)? {
            return Self::outgoing(meta, KVec::new());
        }
        let is_it = self.verify_at() == Some(at);
        let Some(verify) = self.verify.as_mut().filter(|_| is_it) else {
            return Ok(None);
        };
        let number = verify.number;
        let (frame, next) = match verify.walk {
            Walk::Ask => {
                let mut ranges = KVec::with_capacity(verify.parts.len(), GFP_KERNEL)?;
                for part in &verify.parts {
                    let _ = ranges.push_within_capacity(part.range);
                }
                let frame = Frame::Ranges {
                    compare: number,
                    first: verify.first,
                    keep: false,
                    ranges,
                };
                (frame, Walk::Asked)
            }
            // What the last one found is repaired first: so there is room for what this one does.
            Walk::Show(spot) if verify.repairs.is_empty() => {
                let Some(range) = verify.volume_of(spot) else {
                    return Ok(None);
                };
                let frame = Frame::Show {
                    number,
                    volume: range.volume,
                    lbn: spot.lbn,
                    count: range.end - spot.lbn,
                };
                (frame, Walk::Shown(spot))
            }
            _ => return Ok(None),
        };
        let meta = encode(envelope, &frame, hash)?;
        verify.walk = next;
        Self::outgoing(meta, KVec::new())
    }

    /// Until when a verify rests before its next step, if it does.
    fn verify_rests(&self) -> Option<u64> {
        let verify = self.verify.as_ref()?;
        let until = verify.pace.rest_until();
        (self.tranquility > 0 && self.now < until).then_some(until)
    }

    /// When there is something to do for a verify without any input.
    pub(super) fn verify_deadline(&self) -> Option<u64> {
        let verify = self.verify.as_ref();
        let own = verify.and_then(|verify| match verify.walk {
            Walk::Begin => Some(verify.tries.until(FREEZE_PAUSE, FREEZE_PAUSE_MAX)),
            Walk::Opening { .. } => Some(verify.since.saturating_add(FREEZE_WAIT)),
            Walk::Sums | Walk::Own(..) if !verify.asked => self.verify_rests(),
            _ => None,
        });
        let own = own.filter(|at| *at > self.now);
        let due = [own, self.verified_deadline()];
        due.into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    extern crate std;
    use std::vec::Vec as List;

    fn entry(lbn: u64, content: u8) -> Entry {
        Entry {
            op: Op::Write,
            lbn,
            count: 1,
            check: u64::from(content) + 1,
            digest: [content; NAME_BYTES],
            ..Entry::default()
        }
    }

    fn blocks(own: &[Entry], peers: &[Entry]) -> List<(u64, Option<u64>)> {
        differing(own, peers)
            .map(|(lbn, meant)| (lbn, meant.map(|entry| entry.check)))
            .collect()
    }

    #[test]
    fn a_block_differs_that_only_one_has_or_that_has_another_content() {
        let own = [entry(3, 7), entry(4, 8), entry(9, 7)];
        assert_eq!(blocks(&own, &own), []);
        assert_eq!(
            blocks(&own, &[]),
            [(3, Some(8)), (4, Some(9)), (9, Some(8))]
        );
        assert_eq!(blocks(&[], &own), [(3, None), (4, None), (9, None)]);
        let other = [entry(2, 1), entry(4, 7), entry(9, 7), entry(10, 7)];
        let all = [(2, None), (3, Some(8)), (4, Some(9)), (10, None)];
        assert_eq!(blocks(&own, &other), all);
    }

    #[test]
    fn what_the_primary_has_no_digest_of_differs_only_by_its_check() {
        let nameless = |lbn| Entry {
            digest: [0; NAME_BYTES],
            ..entry(lbn, 7)
        };
        assert_eq!(blocks(&[nameless(3)], &[entry(3, 7)]), []);
        assert_eq!(blocks(&[nameless(3)], &[entry(3, 8)]), [(3, Some(8))]);
        // A peer without one has no good copy.
        assert_eq!(blocks(&[entry(3, 7)], &[nameless(3)]), [(3, Some(8))]);
    }

    #[test]
    fn volumes_differ_that_only_one_has_or_that_have_another_size() {
        let volume = |n: u8, blocks| Volume {
            uuid: [n; 16],
            blocks,
        };
        let own = [volume(1, 5), volume(2, 5), volume(3, 5)];
        assert_eq!(volumes_differing(&own, &own), 0);
        assert_eq!(volumes_differing(&own, &[own[2], own[0]]), 1);
        let other = [volume(1, 5), volume(2, 6), volume(4, 5)];
        assert_eq!(volumes_differing(&own, &other), 3);
    }
}
