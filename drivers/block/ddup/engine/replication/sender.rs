// SPDX-License-Identifier: GPL-2.0

//! The primary's half of a stream: epochs from the window, as far as the peer's credit goes, those that
//! wait for an asynchronous peer as one; a compare for a peer that is too far behind or went another
//! way; what the peer lacks.
//!
//! A compare is a *diff* if it is known where the peer is, and which generation had ended here by then:
//! what is not younger both hold, and goes without saying. The peer may be farther than it has
//! acknowledged: as long as its history is a part of that of the state it is compared with, what is not
//! younger has not changed there either. Else the compare is *full*.

use super::super::births::{Births, Tick};
use super::super::mark::mark;
use super::super::mutant::mutant;
use super::super::types::NAME_BYTES;
use super::super::Hash;
use super::action::{Action, Block, FrozenState, Outgoing, Shown};
use super::codec::copy;
use super::epoch::{Epoch, Window};
use super::history::History;
use super::link::Link;
use super::merge::Merged;
use super::pace::{Backoff, Pace};
use super::range::Range;
use super::resume::Reached;
use super::set::{Compared, Set};
use super::types::{cursor, range_blocks_of, Entry, Id, Limits, Op, Position, Volume};
use super::types::{BATCH_MAX, BATCH_VOLUMES_MAX, BLOCKS_WAIT_MAX, RANGES_MAX};
use super::wire::{encode, Envelope, Frame};
use kernel::prelude::*;

/// A compare that was lost begins again after this, in milliseconds: twice as long after each that
/// is lost, up to a cap, which is lower for a peer that FLUSHes wait for.
const COMPARE_PAUSE: u64 = 100;
const COMPARE_PAUSE_MAX: u64 = 5000;
const COMPARE_PAUSE_AWAITED: u64 = 1000;
/// Tries to read a block before it is LOST, and the first pause between them, in milliseconds.
const FETCH_TRIES: u32 = 4;
const FETCH_PAUSE: u64 = 100;
/// Lost compares of one stream whose NEEDs may be under way while another one is.
const STALE_MAX: usize = 8;

/// A block that a peer asked for.
#[derive(Clone, Copy, Debug)]
struct Fetch {
    epoch: u64,
    index: u32,
    volume: Id,
    lbn: u64,
    digest: [u8; NAME_BYTES],
    scan: Option<u64>,
    /// Else where the entry lies in the window.
    place: (u64, u32),
    state: FetchState,
    /// Reads of it that failed.
    reads: Backoff,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum FetchState {
    Wanted,
    Asked(u64),
    /// Its read failed; it is read again after a pause.
    Again,
    Read(u64),
    Lost,
}

impl Fetch {
    /// Whether one frame may tell of both, now or once they were read.
    fn is_of_frame(&self, other: &Fetch) -> bool {
        (self.epoch, self.scan) == (other.epoch, other.scan)
    }

    /// Whether others wait to share a frame with it.
    fn is_to_be_read(&self) -> bool {
        matches!(self.state, FetchState::Wanted | FetchState::Asked(_))
    }

    fn is_over(&self) -> bool {
        matches!(self.state, FetchState::Read(_) | FetchState::Lost)
    }

    /// When it is to be read again, if its read failed.
    fn again(&self) -> Option<u64> {
        let again = self.state == FetchState::Again;
        again.then(|| self.reads.until(FETCH_PAUSE, u64::MAX))
    }

    /// Whether one frame answers both.
    fn is_answered_with(&self, first: &Fetch) -> bool {
        let is_lost = |fetch: &Fetch| fetch.state == FetchState::Lost;
        self.is_of_frame(first) && self.is_over() && is_lost(self) == is_lost(first)
    }
}

/// A range that the peer is asked for.
#[derive(Clone, Copy, Debug)]
struct Part {
    range: Range,
    /// Where the store begins to show it.
    cursor: u64,
    /// The peer holds the same.
    equal: bool,
}

/// How far a compare is. In a full one ranges are compared by their sums first, [`RANGES_MAX`] at a
/// time; a peer that has nothing is told of all blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Walk {
    /// All that the store shows is told.
    Plain,
    /// Ranges are being summed up.
    Sums,
    /// The peer is to be asked for them.
    Ask,
    /// It was asked.
    Asked,
    /// It answered: this range is the next whose blocks are told, or kept.
    Tell(usize),
}

/// How a compare begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Start {
    /// The peer is to be told.
    Untold,
    /// It was told, and is to say how far it came before.
    Told,
    /// It is known from where on the peer is to be told.
    Known,
}

/// A compare under way.
#[derive(Debug)]
pub(super) struct Compare {
    position: Position,
    history: History,
    /// It is a diff: only of what is younger than this it is told what it is.
    since: Option<Tick>,
    /// Mapped blocks of the state; of a diff, all that its volumes have.
    blocks: u64,
    /// Blocks of a diff that were passed.
    passed: u64,
    /// All volumes of that state.
    volumes: KVec<Volume>,
    /// When it began, by the store's clock.
    begun_at: u64,
    pace: Pace,
    start: Start,
    /// Blocks that an earlier session brought.
    resumed: u64,
    walk: Walk,
    /// The ranges of this time, and the number of the first of them.
    parts: KVec<Part>,
    first: u32,
    cursor: u64,
    /// Entries that were sent or kept.
    index: u32,
    batch: KVec<Entry>,
    /// The store was asked for the next blocks.
    asked: bool,
    ended: bool,
}

impl Compare {
    /// What the store is to show next: from where on, and how much.
    fn next_scan(&self, range_blocks: u32) -> Option<(u64, u32)> {
        if self.start != Start::Known || self.asked || !self.batch.is_empty() {
            return None;
        }
        match self.walk {
            Walk::Plain => (!self.ended).then_some((self.cursor, BATCH_MAX as u32)),
            Walk::Sums => Some((self.cursor, range_blocks)),
            Walk::Ask | Walk::Asked => None,
            Walk::Tell(at) => {
                let part = self.parts.get(at).filter(|part| !part.equal)?;
                Some((part.cursor, part.range.blocks))
            }
        }
    }

    /// Takes what the store shows. There is room for the part.
    fn take_shown(&mut self, shown: Shown, next: Option<u64>, seed: u64, hash: Hash) {
        self.asked = false;
        let Walk::Sums = self.walk else {
            let (first, end) = shown.range;
            self.passed += end.saturating_sub(first);
            self.batch = shown.entries;
            if let Walk::Plain = self.walk {
                self.go_on(next);
            }
            return;
        };
        let part = Part {
            range: Range::of(shown.volume, shown.range, &shown.entries, seed, hash),
            cursor: self.cursor,
            equal: false,
        };
        if part.range.first < part.range.end {
            let _ = self.parts.push_within_capacity(part);
        }
        self.go_on(next);
        self.walk = match self.parts.is_empty() {
            true if self.ended => Walk::Tell(0),
            false if self.ended || self.parts.len() == RANGES_MAX => Walk::Ask,
            _ => Walk::Sums,
        };
    }

    fn go_on(&mut self, next: Option<u64>) {
        match next {
            Some(cursor) => self.cursor = cursor,
            None => self.ended = true,
        }
    }

    /// Goes on behind ranges of which there is nothing left to say.
    fn pass_over(&mut self) {
        while let Walk::Tell(at) = self.walk {
            match self.parts.get(at) {
                Some(part) if part.range.blocks == 0 => self.walk = Walk::Tell(at + 1),
                None if !self.ended => {
                    self.first += self.parts.len() as u32;
                    self.parts.clear();
                    self.walk = Walk::Sums;
                }
                _ => return,
            }
        }
    }

    /// Whether all has been told.
    fn is_over(&self) -> bool {
        let told = match self.walk {
            Walk::Plain => true,
            Walk::Tell(at) => at >= self.parts.len(),
            Walk::Sums | Walk::Ask | Walk::Asked => false,
        };
        told && self.ended && !self.asked && self.batch.is_empty()
    }

    /// The peer was told that it begins, and says how far it came before if it `resumes`.
    fn was_begun(&mut self, resumes: bool) {
        self.start = match resumes {
            true => Start::Told,
            false => Start::Known,
        };
    }

    /// Goes on from where the peer was; `None` if no peer was there.
    fn begin_at(&mut self, reached: &Reached) -> Option<()> {
        self.start = Start::Known;
        if *reached == Reached::NOTHING {
            return Some(());
        }
        mark!(replication_compare_resumed);
        let is_it = |volume: &Volume| volume.uuid == reached.volume;
        let place = match mutant!(405) {
            true => self.volumes.len() - 1,
            false => self.volumes.iter().position(is_it)?,
        };
        let blocks = self.volumes.get(place)?.blocks;
        self.cursor = cursor(place, (reached.lbn <= blocks).then_some(reached.lbn)?);
        let before: u64 = self.volumes.iter().take(place).map(|v| v.blocks).sum();
        self.resumed = match self.since {
            Some(_) => before + reached.lbn,
            None => reached.entries.min(self.blocks),
        };
        Some(())
    }

    /// A frame of this compare with so many of its entries was sent.
    fn was_sent(&mut self, frame: &Frame, count: usize) {
        self.index += count as u32;
        match (frame, self.walk) {
            (Frame::Ranges { keep: false, .. }, _) => self.walk = Walk::Asked,
            (Frame::Ranges { ranges, .. }, Walk::Tell(at)) => {
                mark!(replication_ranges_kept);
                self.walk = Walk::Tell(at + ranges.len());
            }
            (Frame::Entries { .. }, walk) => {
                let mut left = count;
                self.batch.retain(|_| {
                    let gone = left > 0;
                    left -= usize::from(gone);
                    !gone
                });
                if let (Walk::Tell(at), true) = (walk, self.batch.is_empty()) {
                    self.walk = Walk::Tell(at + 1);
                }
            }
            _ => {}
        }
    }

    /// Ranges that the peer holds, from the next on, whose blocks fit the credit.
    fn kept(&self, credit: u64) -> Result<KVec<Range>> {
        let mut ranges = KVec::new();
        let Walk::Tell(at) = self.walk else {
            return Ok(ranges);
        };
        let mut blocks = 0;
        for part in self.parts.iter().skip(at).take_while(|part| part.equal) {
            blocks += u64::from(part.range.blocks);
            if blocks > credit {
                break;
            }
            ranges.push(part.range, GFP_KERNEL)?;
        }
        Ok(ranges)
    }
}

/// Blocks of which entries say what they are.
fn writes(entries: &[Entry]) -> u64 {
    entries.iter().filter(|e| e.op == Op::Write).count() as u64
}

/// Where a stream is.
#[derive(Debug)]
pub(super) enum At {
    /// The next entry, of an epoch or of a merged one that ends with it.
    Epoch { number: u64, index: u32 },
    /// A compare is to begin.
    Behind,
    /// The store was asked for a frozen state, which is not older than this epoch.
    Opening { since: u64 },
    /// It is under way.
    Compare(KBox<Compare>),
}

/// What a peer says in its HELLO that it takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Takes {
    pub(super) limits: Limits,
    pub(super) diffs: bool,
    pub(super) merges: bool,
    pub(super) resumes: bool,
}

/// A stream to a peer.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) stream: u32,
    pub(super) acked: u64,
    /// All that was told ends there.
    sealed: Position,
    /// Entries of the largest epoch that the peer takes.
    epoch_limit: usize,
    /// Mapped blocks of a range: the credit suffices for them.
    range_blocks: u32,
    /// The peer has nothing yet.
    is_empty: bool,
    /// It takes diffs.
    diffs: bool,
    /// It takes merged epochs.
    merges: bool,
    /// It says how far a compare has come before, and how many it was told to begin.
    resumes: bool,
    resyncs: u32,
    /// Merged epochs that it was told, or is being told, and has not acknowledged, oldest first.
    merged: KVec<Merged>,
    /// The peer is not compared with a state that ends before this epoch.
    least: u64,
    credit: u64,
    sent: u64,
    at: At,
    /// The frozen state that the peer may ask for, until it has acknowledged its position.
    pub(super) scan: Option<(u64, Position)>,
    fetches: KVec<Fetch>,
    /// Compares that were lost: what the peer asked for in them may come while it is compared with the
    /// same state again, and means the same there.
    stale: usize,
}

impl Sender {
    /// A stream to a peer at a position, which is `known` if it is in the history here.
    pub(super) fn new(
        stream: u32,
        takes: Takes,
        position: &Position,
        known: bool,
        first: Option<u64>,
    ) -> Result<Self> {
        let limits = takes.limits;
        let number = position.epoch + 1;
        let at = if known && first.is_some_and(|first| first <= number) {
            mark!(replication_tail);
            At::Epoch { number, index: 0 }
        } else {
            At::Behind
        };
        Ok(Sender {
            stream,
            acked: if known { position.epoch } else { 0 },
            sealed: *position,
            epoch_limit: limits.epoch as usize,
            range_blocks: range_blocks_of(&limits),
            is_empty: position.epoch == 0,
            diffs: takes.diffs,
            merges: takes.merges,
            resumes: takes.resumes,
            resyncs: 0,
            merged: KVec::new(),
            least: if known { position.epoch } else { 0 },
            credit: limits.entries.into(),
            sent: 0,
            at,
            scan: None,
            fetches: KVec::new(),
            stale: 0,
        })
    }

    /// Whether the peer is to be compared before it gets epochs.
    pub(super) fn is_behind(&self) -> bool {
        !matches!(self.at, At::Epoch { .. })
    }

    /// The frozen state that the peer may have built a part of, if it says how far.
    pub(super) fn resumable(&self) -> Option<(u64, Position)> {
        let begun = match &self.at {
            At::Compare(compare) => compare.start == Start::Known,
            At::Epoch { .. } => true,
            At::Behind | At::Opening { .. } => false,
        };
        self.scan.filter(|_| begun && self.resumes)
    }

    /// Whether the peer has still to get an epoch: it has not acknowledged it, and is not being
    /// compared with a later state.
    fn needs(&self, epoch: u64) -> bool {
        let has = self.scan.map_or(0, |(_, p)| p.epoch).max(self.acked);
        match self.at {
            At::Behind => false,
            At::Opening { since } => since < epoch,
            At::Epoch { .. } | At::Compare(_) => has < epoch,
        }
    }

    /// Whether the peer gets an epoch with a full compare, and was or will be told: what it asks for
    /// it does not need any more.
    fn is_over(&self, epoch: u64) -> bool {
        let opens = matches!(self.at, At::Behind | At::Opening { .. });
        opens || self.scan.is_some_and(|(_, p)| epoch <= p.epoch)
    }

    /// The merged epoch that ends with this one, if the peer is told of that.
    fn merged_to(&self, epoch: u64) -> Option<&Merged> {
        self.merged.iter().find(|merged| merged.to.epoch == epoch)
    }

    /// An entry of an epoch as it is told, merged or not, and where it lies in the window.
    fn entry<'a>(
        &self,
        window: &'a Window,
        epoch: u64,
        index: u32,
    ) -> Option<((u64, u32), &'a Entry)> {
        let place = match self.merged_to(epoch) {
            Some(merged) => merged.place(index)?,
            None => (epoch, index),
        };
        Some((place, window.entry(place.0, place.1)?))
    }

    /// Whether the peer was told an entry since it was compared. Before, an epoch may have been merged
    /// with others.
    fn has_told(&self, epoch: u64, index: u32) -> bool {
        match self.at {
            At::Epoch {
                number,
                index: next,
            } => (epoch, index) < (number, next),
            At::Behind | At::Opening { .. } | At::Compare(_) => false,
        }
    }

    /// The peer is compared with a later state: what it was told does not matter any more.
    fn falls_behind(&mut self) {
        self.at = At::Behind;
        self.scan = None;
        self.fetches.clear();
        self.merged.clear();
    }

    /// Whether the next frame begins an epoch, and may as well begin one that stands for those up to
    /// `last`.
    fn may_merge(&self, last: u64) -> bool {
        let next = self.sealed.epoch + 1;
        let begins = matches!(self.at, At::Epoch { number, index: 0 } if number == next);
        begins && next < last && self.merges && self.sent < self.credit
    }

    /// The frame that begins what stands for the epochs up to `last`, or for some of them.
    fn merge(
        &mut self,
        window: &Window,
        last: u64,
        envelope: &Envelope,
        hash: Hash,
    ) -> Result<Option<KVec<u8>>> {
        self.merged.reserve(1, GFP_KERNEL)?;
        let merged = Merged::of(window, &self.sealed, last, self.epoch_limit, hash)?;
        let Some(merged) = merged else {
            return Ok(None);
        };
        let (from, to) = (merged.from, merged.to);
        let meta = encode(envelope, &Frame::Merge { from, to }, hash)?;
        mark!(replication_merged);
        let _ = self.merged.push_within_capacity(merged);
        self.at = At::Epoch {
            number: to.epoch,
            index: 0,
        };
        Ok(Some(meta))
    }

    /// Whether the peer refuses an epoch for its size: it was begun when no such peer was there.
    fn takes_not(&self, epoch: &Epoch) -> bool {
        let alone = self.merged_to(epoch.number).is_none();
        alone && epoch.entries.len() > self.epoch_limit && !mutant!(140)
    }

    /// Where a diff begins for this peer, if it may get one: at the newest generation that had ended
    /// by the epoch that it has acknowledged.
    fn diff_since(&self, births: &Births) -> Option<Tick> {
        let acked = if mutant!(267) { u64::MAX } else { self.acked };
        births.at(acked).filter(|_| self.diffs)
    }

    /// What the next frame answers: the first fetch, and how many. Blocks wait for those that are
    /// being read, so that they share a frame, until [`BLOCKS_WAIT_MAX`] do.
    fn next_answer(&self) -> Option<(Fetch, usize)> {
        let ready = self.fetches.iter().filter(|f| f.is_over()).count();
        self.fetches.iter().find_map(|first| {
            let others = || self.fetches.iter().filter(|f| f.is_of_frame(first));
            if !first.is_over() {
                return None;
            }
            let count = others().filter(|f| f.is_answered_with(first)).count();
            let goes = first.state == FetchState::Lost
                || ready > BLOCKS_WAIT_MAX
                || !others().any(Fetch::is_to_be_read);
            goes.then_some((*first, count.min(BATCH_MAX)))
        })
    }

    /// The frame of [`Sender::next_answer`].
    fn answer(&self, first: &Fetch, count: usize) -> Result<(Frame, KVec<Block>)> {
        let mut indexes = KVec::with_capacity(count, GFP_KERNEL)?;
        let mut blocks = KVec::with_capacity(count, GFP_KERNEL)?;
        let answered = self.fetches.iter().filter(|f| f.is_answered_with(first));
        for fetch in answered.take(count) {
            let _ = indexes.push_within_capacity(fetch.index);
            if let FetchState::Read(handle) = fetch.state {
                let _ = blocks.push_within_capacity(Block::Fetched(handle));
            }
        }
        let (epoch, resync) = (first.epoch, first.scan.is_some());
        let frame = match first.state {
            FetchState::Lost => Frame::Lost {
                epoch,
                resync,
                indexes,
            },
            _ => Frame::Data {
                epoch,
                resync,
                indexes,
            },
        };
        Ok((frame, blocks))
    }

    /// The frame of [`Sender::next_answer`] is on its way.
    fn answered(&mut self, first: &Fetch, count: usize) {
        let mut left = count;
        self.fetches.retain(|fetch| {
            let gone = left > 0 && fetch.is_answered_with(first);
            left -= usize::from(gone);
            !gone
        });
    }

    /// The first entries of `entries` that fit a frame and the credit.
    fn batch<'a>(&self, entries: impl Iterator<Item = &'a Entry>) -> Result<KVec<Entry>> {
        let credit = (self.credit - self.sent.min(self.credit)) as usize;
        let credit = if mutant!(137) { BATCH_MAX } else { credit };
        let mut batch: KVec<Entry> = KVec::with_capacity(BATCH_MAX, GFP_KERNEL)?;
        let mut volumes = 0;
        for entry in entries.take(credit.min(BATCH_MAX)) {
            if !batch.iter().any(|e| e.volume == entry.volume) {
                volumes += 1;
                if volumes > BATCH_VOLUMES_MAX {
                    break;
                }
            }
            let _ = batch.push_within_capacity(*entry);
        }
        Ok(batch)
    }
}

impl Set {
    fn sender_mut(&mut self, at: usize) -> Option<&mut Sender> {
        self.peers.get_mut(at)?.link.as_mut()?.sender.as_mut()
    }

    fn sender_at(&self, at: usize) -> Option<&Sender> {
        self.peers.get(at)?.link.as_ref()?.sender.as_ref()
    }

    /// An epoch was forgotten: who had still to get it is compared in full.
    pub(super) fn fall_behind(&mut self, epoch: u64) {
        for at in 0..self.peers.len() {
            let Some(sender) = self.sender_mut(at) else {
                continue;
            };
            if sender.needs(epoch) {
                mark!(replication_fell_behind);
                let compared = sender.scan.is_some();
                sender.falls_behind();
                if compared {
                    self.compare_lost(at);
                }
            }
        }
    }

    /// A compare of a peer was lost: the next one does not begin at once.
    pub(super) fn compare_lost(&mut self, at: usize) {
        let now = self.now;
        if let Some(peer) = self.peers.get_mut(at) {
            mark!(replication_compare_lost);
            peer.compares.failed(now);
        }
    }

    /// When a compare of a peer may begin.
    fn compare_at(&self, at: usize) -> u64 {
        let most = match self.must_ack(at) {
            true => COMPARE_PAUSE_AWAITED,
            false => COMPARE_PAUSE_MAX,
        };
        let peer = self.peers.get(at);
        peer.map_or(0, |peer| peer.compares.until(COMPARE_PAUSE, most))
    }

    /// Until when a full compare rests before its next step, if it does: as long as requests are
    /// served, and neither FLUSHes wait for the peer nor writes are about to overtake the compare.
    fn rest_of(&self, at: usize) -> Option<u64> {
        let sender = self.sender_at(at)?;
        let At::Compare(compare) = &sender.at else {
            return None;
        };
        let until = compare.pace.rest_until();
        if self.tranquility == 0 || self.now >= until || self.must_ack(at) {
            return None;
        }
        let written = self.window.behind(compare.position.epoch);
        let written: usize = written.map(|e| e.entries.len()).sum();
        (written < self.params.window as usize / 4).then_some(until)
    }

    /// When there is something to do for streams without any input.
    pub(super) fn stream_deadline(&self) -> Option<u64> {
        let peers = (0..self.peers.len()).filter_map(|at| {
            let sender = self.sender_at(at)?;
            let reads = sender.fetches.iter().filter_map(Fetch::again).min();
            let compares = match &sender.at {
                At::Behind => Some(self.compare_at(at)).filter(|begins| *begins > self.now),
                At::Compare(compare) => compare
                    .next_scan(sender.range_blocks)
                    .and_then(|_| self.rest_of(at)),
                At::Epoch { .. } | At::Opening { .. } => None,
            };
            [reads, compares].into_iter().flatten().min()
        });
        peers.min()
    }

    /// Whether a peer has still to get an epoch, or something of it.
    pub(super) fn is_needed(&self, epoch: u64) -> bool {
        let mut senders = (0..self.peers.len()).filter_map(|at| self.sender_at(at));
        senders.any(|s| s.needs(epoch)) || self.is_behind_parked(epoch)
    }

    /// Takes which ranges a peer holds; `None` if it was not asked for those.
    fn take_equal(
        &mut self,
        at: usize,
        compare: u64,
        (first, count): (u32, u32),
        bits: u64,
    ) -> Option<()> {
        let Some(sender) = self.sender_mut(at) else {
            return Some(());
        };
        let current = sender.scan.is_some_and(|(scan, _)| scan == compare);
        let At::Compare(state) = &mut sender.at else {
            return Some(());
        };
        if !current {
            // It is of a compare that was given up.
            return Some(());
        }
        let asked = state.walk == Walk::Asked
            && (first, count as usize) == (state.first, state.parts.len());
        if !asked {
            return None;
        }
        mark!(replication_ranges_compared);
        for (bit, part) in state.parts.iter_mut().enumerate() {
            part.equal = bits >> bit & 1 != 0;
        }
        state.walk = Walk::Tell(0);
        Some(())
    }

    /// Takes how far a replica came before; `None` if it was not asked.
    fn take_reached(&mut self, at: usize, resync: u32, reached: &Reached) -> Option<()> {
        let Some(sender) = self.sender_mut(at) else {
            return Some(());
        };
        let At::Compare(compare) = &mut sender.at else {
            return Some(());
        };
        match compare.start {
            Start::Told if sender.resyncs == resync => compare.begin_at(reached),
            Start::Known if sender.resyncs == resync => None,
            // It is of a compare that was given up.
            _ => Some(()),
        }
    }

    /// Takes what a replica says of its stream; `None` if none says that.
    pub(super) fn take_answer(&mut self, at: usize, frame: Frame) -> Result<Option<()>> {
        match frame {
            Frame::Ack(position) => {
                if !self.knows(&position) && !mutant!(119) {
                    return Ok(None);
                }
                let Some(sender) = self.sender_mut(at) else {
                    return Ok(Some(()));
                };
                sender.acked = sender.acked.max(position.epoch);
                sender.least = sender.least.max(position.epoch);
                if sender.scan.is_some_and(|(_, p)| p.epoch <= position.epoch) {
                    sender.scan = None;
                }
                // What it asked for in a compare that was lost it may have from the next one.
                sender.fetches.retain(|f| f.epoch > position.epoch);
                sender.merged.retain(|m| m.to.epoch > position.epoch);
                let follows = matches!(sender.at, At::Epoch { .. }) && sender.scan.is_none();
                if let Some(peer) = self.peers.get_mut(at).filter(|_| follows) {
                    peer.compares.succeeded();
                }
                self.note_best(at, position);
                self.trim();
                Ok(Some(()))
            }
            Frame::Credit(total) => {
                if let Some(sender) = self.sender_mut(at) {
                    sender.credit = sender.credit.max(total);
                }
                Ok(Some(()))
            }
            frame if self.is_of_verify(&frame) => Ok(self.take_verify_answer(at, frame)),
            Frame::Reached { resync, reached } => Ok(self.take_reached(at, resync, &reached)),
            Frame::Equal {
                compare,
                first,
                count,
                bits,
            } => Ok(self.take_equal(at, compare, (first, count), bits)),
            Frame::Need {
                epoch,
                resync,
                needs,
            } => {
                let limit = self.params.limits.needs as usize;
                if !resync && self.sender_at(at).is_some_and(|s| s.is_over(epoch)) {
                    return Ok(Some(()));
                }
                let opened = |s: &&Sender| !matches!(s.at, At::Opening { .. });
                let scan = self.sender_at(at).filter(opened).and_then(|s| s.scan);
                let scan = scan.filter(|(_, p)| resync && p.epoch == epoch);
                let scan = scan.map(|(scan, _)| scan);
                let window = &self.window;
                let sender = self
                    .peers
                    .get_mut(at)
                    .and_then(|p| p.link.as_mut()?.sender.as_mut());
                let Some(sender) = sender else {
                    return Ok(Some(()));
                };
                if sender.fetches.len() + needs.len() > limit * (1 + sender.stale) {
                    return Ok(None);
                }
                sender.fetches.reserve(needs.len(), GFP_KERNEL)?;
                for need in &needs {
                    let place = (epoch, need.index);
                    let pinned = match mutant!(309) {
                        true => window.entry(place.0, place.1).map(|e| (place, e)),
                        false => sender.entry(window, place.0, place.1),
                    };
                    let told = !resync && sender.has_told(epoch, need.index);
                    let pinned = pinned.filter(|(_, e)| told && e.digest == need.digest);
                    if scan.is_none() && pinned.is_none() {
                        // It has gone meanwhile; a full compare is on its way.
                        continue;
                    }
                    let place = pinned.map_or(place, |(place, _)| place);
                    let _ = sender.fetches.push_within_capacity(Fetch {
                        epoch,
                        index: need.index,
                        volume: need.volume,
                        lbn: need.lbn,
                        digest: need.digest,
                        scan,
                        place,
                        state: FetchState::Wanted,
                        reads: Backoff::default(),
                    });
                }
                Ok(Some(()))
            }
            _ => Ok(None),
        }
    }

    /// The end of an [`Action::Fetch`] whose read failed, or found something else: it is tried again
    /// some times before the block is LOST.
    pub fn fetch_failed(&mut self, token: u64) {
        let now = self.now;
        let senders = self.peers.iter_mut().filter_map(|p| p.link.as_mut());
        let senders = senders.filter_map(|l| l.sender.as_mut());
        let mut again = false;
        for sender in senders {
            let is_it = |f: &&mut Fetch| f.state == FetchState::Asked(token);
            let Some(fetch) = sender.fetches.iter_mut().find(is_it) else {
                continue;
            };
            fetch.reads.failed(now);
            let tries = if mutant!(231) { 1 } else { FETCH_TRIES };
            if fetch.reads.failures() < tries || mutant!(232) {
                mark!(replication_fetches_again);
                fetch.state = FetchState::Again;
                again = true;
            }
            if let (At::Compare(compare), true) = (&mut sender.at, fetch.scan.is_some() && again) {
                compare.pace.end(now);
            }
        }
        match again {
            true => self.fetched.retain(|(t, _)| *t != token),
            false => self.fetched(token, None),
        }
    }

    /// The end of an [`Action::Fetch`]: where the block lies now, `None` if there is no good copy.
    pub fn fetched(&mut self, token: u64, handle: Option<u64>) {
        let now = self.now;
        self.served(token, handle);
        match handle {
            Some(_) => {
                let known = self.fetched.iter_mut().find(|(t, _)| *t == token);
                if let Some((_, place)) = known {
                    *place = handle;
                }
            }
            None => self.fetched.retain(|(t, _)| *t != token),
        }
        for at in 0..self.peers.len() {
            let Some(sender) = self.sender_mut(at) else {
                continue;
            };
            for fetch in &mut sender.fetches {
                if fetch.state == FetchState::Asked(token) {
                    fetch.state = handle.map_or(FetchState::Lost, FetchState::Read);
                    if let (At::Compare(compare), Some(_)) = (&mut sender.at, fetch.scan) {
                        compare.pace.end(now);
                    }
                }
            }
        }
    }

    /// The end of an [`Action::ScanOpen`] or [`Action::Freeze`]: the frozen state, or `None` if there is
    /// none. False: it is not wanted any more. `ENOMEM` changes nothing.
    pub fn scan_opened(&mut self, scan: u64, frozen: Option<FrozenState<'_>>) -> Result<bool> {
        if let Some(wanted) = self.verify_opened(scan, frozen)? {
            if !wanted {
                self.scans.retain(|s| *s != scan);
            }
            return Ok(wanted);
        }
        let history = frozen.map(|state| state.history);
        let (first, now) = (self.window.first(), self.now);
        for at in 0..self.peers.len() {
            let Some(sender) = self.sender_mut(at) else {
                continue;
            };
            let opens = matches!(sender.at, At::Opening { .. });
            if !opens || sender.scan.is_none_or(|(s, _)| s != scan) {
                continue;
            }
            let next = history.map(|h| h.position().epoch + 1);
            let follows = next.filter(|next| first.is_some_and(|first| first <= *next));
            let follows = follows.filter(|next| *next > sender.least);
            let (Some(state), Some(_)) = (frozen, follows) else {
                // What comes behind it is forgotten already, or the peer is past it.
                sender.scan = None;
                sender.at = At::Behind;
                self.scans.retain(|s| *s != scan);
                self.compare_lost(at);
                return Ok(false);
            };
            let (position, history) = (state.history.position(), state.history.try_clone()?);
            let volumes = copy(state.volumes)?;
            let mut parts = KVec::new();
            let since = sender.diff_since(state.births);
            if since.is_some() {
                mark!(replication_diff_sent);
            }
            let walk = match sender.is_empty || since.is_some() {
                true => Walk::Plain,
                false => {
                    parts.reserve(RANGES_MAX, GFP_KERNEL)?;
                    Walk::Sums
                }
            };
            let compare = Compare {
                position,
                history,
                since,
                blocks: match since {
                    Some(_) => state.volumes.iter().map(|v| v.blocks).sum(),
                    None => state.blocks,
                },
                passed: 0,
                volumes,
                begun_at: now,
                pace: Pace::default(),
                start: Start::Untold,
                resumed: 0,
                walk,
                parts,
                first: 0,
                cursor: 0,
                index: 0,
                batch: KVec::new(),
                asked: false,
                ended: false,
            };
            let compare = KBox::new(compare, GFP_KERNEL)?;
            sender.scan = Some((scan, position));
            sender.at = At::Compare(compare);
            self.unpark(at);
            return Ok(true);
        }
        self.scans.retain(|s| *s != scan);
        Ok(false)
    }

    /// Whether a peer that is to be compared needs a state younger than the end of this epoch.
    pub(super) fn waits_for_younger(&self, epoch: u64) -> bool {
        let waits = |s: &Sender| matches!(s.at, At::Opening { .. }) && s.least > epoch;
        let mut senders = (0..self.peers.len()).filter_map(|at| self.sender_at(at));
        senders.any(waits)
    }

    /// Mapped blocks of a range for a peer.
    pub(super) fn blocks_of_range(&self, at: usize) -> u32 {
        self.sender_at(at).map_or(1, |s| s.range_blocks)
    }

    /// How far a compare with a peer is.
    pub(super) fn compared(&self, at: usize) -> Option<Compared> {
        match &self.sender_at(at)?.at {
            At::Epoch { .. } => None,
            At::Behind | At::Opening { .. } => Some(Compared {
                since: None,
                blocks: 0,
                resumed: 0,
                of_blocks: None,
                ms: 0,
            }),
            At::Compare(compare) => Some(Compared {
                since: compare.since.map(|tick| tick.epoch),
                blocks: compare.resumed
                    + match compare.since {
                        Some(_) => compare.passed,
                        None => compare.index.into(),
                    },
                resumed: compare.resumed,
                of_blocks: Some(compare.blocks),
                ms: self.now.saturating_sub(compare.begun_at),
            }),
        }
    }

    /// Whether a scan may be of a state with this end.
    pub fn scan_takes(&self, scan: u64, position: &Position) -> bool {
        (0..self.peers.len())
            .filter_map(|at| self.sender_at(at))
            .find(|s| s.scan.is_some_and(|(s, _)| s == scan))
            .is_none_or(|s| s.least <= position.epoch)
    }

    /// Whether all epochs behind a position are still in memory.
    pub fn keeps_behind(&self, position: &Position) -> bool {
        self.window
            .first()
            .is_some_and(|first| first <= position.epoch + 1)
    }

    /// A frozen state is gone before its time: the compare begins anew, after a pause if others were
    /// lost before.
    pub fn scan_lost(&mut self, scan: u64) {
        self.scans.retain(|s| *s != scan);
        self.verify_scan_lost(scan);
        self.parked_lost(scan);
        for at in 0..self.peers.len() {
            let Some(sender) = self.sender_mut(at) else {
                continue;
            };
            if sender.scan.is_none_or(|(s, _)| s != scan) {
                continue;
            }
            mark!(replication_scan_lost);
            if let At::Epoch { .. } = sender.at {
                // It was told all, but not all that it lacks can be read any more. What came behind
                // that it may have by then.
                mark!(replication_scan_lost_behind_all);
                sender.least = sender.least.max(sender.sealed.epoch);
            }
            sender.falls_behind();
            sender.stale = (sender.stale + 1).min(STALE_MAX);
            self.compare_lost(at);
        }
    }

    /// The end of an [`Action::Scan`], or of an [`Action::ScanRange`]: mapped blocks, and from where to
    /// go on; `None` at the end.
    pub fn scanned(&mut self, scan: u64, shown: Shown, next: Option<u64>) {
        let Some(shown) = self.verify_scanned(scan, shown, next) else {
            return;
        };
        let (hash, now, tranquility) = (self.params.hash, self.now, self.tranquility);
        for peer in &mut self.peers {
            let link = peer.link.as_mut();
            let sender = link.and_then(|l| Some((l.nonce, l.sender.as_mut()?)));
            let Some((nonce, sender)) =
                sender.filter(|(_, s)| s.scan.is_some_and(|(s, _)| s == scan))
            else {
                continue;
            };
            if let At::Compare(compare) = &mut sender.at {
                compare.pace.end_step(now, tranquility);
                return compare.take_shown(shown, next, nonce, hash);
            }
        }
    }

    /// Blocks that were read and are still to be sent.
    fn blocks_to_send(&self) -> impl Iterator<Item = u64> + '_ {
        let senders = (0..self.peers.len()).filter_map(|at| self.sender_at(at));
        let fetches = senders.flat_map(|s| &s.fetches);
        let needed = fetches.filter_map(|f| match f.state {
            FetchState::Read(handle) => Some(handle),
            _ => None,
        });
        // Named whole: the kernel's prelude has another `chain`.
        Iterator::chain(needed, self.blocks_to_serve())
    }

    /// A block that was read and will not be sent.
    fn fetched_in_vain(&mut self) -> Option<u64> {
        let read = || self.fetched.iter().filter_map(|(_, handle)| *handle);
        // All that are to be sent were read.
        if read().count() == self.blocks_to_send().count() || mutant!(144) {
            return None;
        }
        let vain = read().find(|handle| self.blocks_to_send().all(|sent| sent != *handle))?;
        mark!(replication_fetched_in_vain);
        self.fetched.retain(|(_, handle)| *handle != Some(vain));
        Some(vain)
    }

    /// What the store is to do for streams.
    pub(super) fn poll_senders(&mut self) -> Option<Action> {
        let used = |scan: u64| {
            let senders = (0..self.peers.len()).filter_map(|at| self.sender_at(at));
            senders
                .into_iter()
                .any(|s| s.scan.is_some_and(|(s, _)| s == scan))
                || self.verify_uses(scan)
                || self.is_parked(scan)
        };
        if let Some(at) = self.scans.iter().position(|scan| !used(*scan)) {
            return self.scans.remove(at).ok().map(Action::ScanClose);
        }
        if let Some(handle) = self.fetched_in_vain() {
            return Some(Action::FetchDrop(handle));
        }
        for at in 0..self.peers.len() {
            let (position, now) = (self.history.position(), self.now);
            let token = self.token + 1;
            let begins = self.compare_at(at) <= now || mutant!(230);
            let rests = self.rest_of(at).is_some();
            let Some(sender) = self
                .peers
                .get_mut(at)
                .and_then(|p| p.link.as_mut()?.sender.as_mut())
            else {
                continue;
            };
            let due = |f: &Fetch| f.again().is_some_and(|again| again <= now);
            if let Some(fetch) = sender
                .fetches
                .iter_mut()
                .find(|f| f.state == FetchState::Wanted || due(f))
            {
                self.fetched.reserve(1, GFP_KERNEL).ok()?;
                let _ = self.fetched.push_within_capacity((token, None));
                fetch.state = FetchState::Asked(token);
                self.token = token;
                if let (At::Compare(compare), Some(_)) = (&mut sender.at, fetch.scan) {
                    compare.pace.begin(now);
                }
                return Some(Action::Fetch {
                    token,
                    volume: fetch.volume,
                    lbn: fetch.lbn,
                    digest: fetch.digest,
                    scan: fetch.scan,
                    pinned: fetch.place,
                });
            }
            if let At::Epoch { number, .. } = sender.at {
                let refused = self.window.get(number).is_some_and(|e| sender.takes_not(e));
                // A compare of a state that has the epoch, and only when the last one is over.
                if refused && number <= position.epoch && sender.scan.is_none() {
                    mark!(replication_epoch_too_large_for_peer);
                    sender.least = sender.least.max(number);
                    sender.falls_behind();
                }
            }
            match &mut sender.at {
                At::Behind if begins => {
                    self.scans.reserve(1, GFP_KERNEL).ok()?;
                    mark!(replication_compare_sent);
                    sender.scan = Some((token, position));
                    sender.at = At::Opening {
                        since: position.epoch,
                    };
                    self.token = token;
                    let _ = self.scans.push_within_capacity(token);
                    return Some(Action::ScanOpen { scan: token });
                }
                At::Compare(compare) => {
                    compare.pass_over();
                    let wish = compare.next_scan(sender.range_blocks);
                    let wish = wish.filter(|_| !rests);
                    if let (Some((cursor, max)), Some((scan, _))) = (wish, sender.scan) {
                        compare.asked = true;
                        compare.pace.begin_step(now);
                        return Some(Action::Scan {
                            scan,
                            cursor,
                            max,
                            since: compare.since.map(|tick| tick.generation),
                        });
                    }
                }
                At::Behind | At::Epoch { .. } | At::Opening { .. } => {}
            }
        }
        None
    }

    /// The next frame of a stream.
    pub(super) fn poll_stream(
        &mut self,
        at: usize,
        envelope: &Envelope,
    ) -> Result<Option<Outgoing>> {
        let hash = self.params.hash;
        let committed = if mutant!(136) {
            u64::MAX
        } else {
            self.committed()
        };
        let urgent = self.must_ack(at);
        let (window, recovered) = (&self.window, self.recovered);
        let verify = &mut self.verify;
        let Some(Link {
            sender: Some(sender),
            told,
            merged,
            nonce,
            ..
        }) = self.peers.get_mut(at).and_then(|p| p.link.as_mut())
        else {
            return Ok(None);
        };
        if let Some((first, count)) = sender.next_answer() {
            let (frame, blocks) = sender.answer(&first, count)?;
            let meta = encode(envelope, &frame, hash)?;
            sender.answered(&first, count);
            let is_sent = |handle| blocks.contains(&Block::Fetched(handle));
            self.fetched
                .retain(|(_, handle)| !handle.is_some_and(is_sent));
            return Self::outgoing(meta, blocks);
        }
        // Nothing that a peer lacks is committed if FLUSHes wait for it: such a one gets each epoch as it
        // is. And nothing is merged across the place of a VERIFY.
        let marked = verify.as_ref().and_then(|v| v.place(*nonce));
        let marked = marked
            .filter(|_| !mutant!(307))
            .map_or(u64::MAX, |p| p.epoch);
        let last = if mutant!(300) { u64::MAX } else { committed };
        let last = last.min(marked);
        if sender.may_merge(last) {
            // Without memory for that each goes alone.
            if let Ok(Some(meta)) = sender.merge(window, last, envelope, hash) {
                return Self::outgoing(meta, KVec::new());
            }
        }
        match &sender.at {
            At::Behind | At::Opening { .. } => Ok(None),
            At::Epoch { number, index } => {
                let (number, index) = (*number, *index);
                let marker = verify
                    .as_ref()
                    .and_then(|v| v.marker(*nonce, (number, index)));
                if let (Some(frame), Some(verify)) = (marker, verify.as_mut()) {
                    let meta = encode(envelope, &frame, hash)?;
                    verify.was_marked();
                    return Self::outgoing(meta, KVec::new());
                }
                let Some(epoch) = window.get(number) else {
                    return Ok(None);
                };
                if sender.takes_not(epoch) {
                    return Ok(None);
                }
                // Clause 12's other half: who nobody waits for gets what cannot be lost any more.
                if !urgent && number > committed {
                    return Ok(None);
                }
                let rest = || (index..).map_while(|at| sender.entry(window, number, at));
                if rest().next().is_some() {
                    let entries = sender.batch(rest().map(|(_, entry)| entry))?;
                    if entries.is_empty() {
                        mark!(replication_no_credit);
                        return Ok(None);
                    }
                    let (count, told_now) = (entries.len() as u32, writes(&entries));
                    let mut blocks = KVec::with_capacity(BATCH_MAX, GFP_KERNEL)?;
                    let these = rest().take(entries.len());
                    for ((epoch, index), entry) in these.filter(|(_, e)| e.fresh) {
                        let _ = blocks.push_within_capacity(Block::Pinned {
                            epoch,
                            index,
                            digest: entry.digest,
                            check: entry.check,
                        });
                    }
                    let frame = Frame::Entries {
                        epoch: number,
                        first: index,
                        resync: false,
                        entries,
                    };
                    let meta = encode(envelope, &frame, hash)?;
                    sender.sent += u64::from(count);
                    *told += told_now;
                    sender.at = At::Epoch {
                        number,
                        index: index + count,
                    };
                    return Self::outgoing(meta, blocks);
                }
                let Some(position) = epoch.position else {
                    return Ok(None);
                };
                let several = sender.merged_to(number);
                let chain = several.map_or(position.chain, |merged| merged.chain);
                let frame = Frame::Seal {
                    position: Position { chain, ..position },
                    entries: index,
                    resync: false,
                };
                let meta = encode(envelope, &frame, hash)?;
                *merged += several.map_or(0, Merged::epochs);
                sender.sealed = position;
                if number <= recovered {
                    mark!(replication_tail_of_journal);
                }
                sender.at = At::Epoch {
                    number: number + 1,
                    index: 0,
                };
                Self::outgoing(meta, KVec::new())
            }
            At::Compare(_) => Self::poll_compare(sender, envelope, hash, (urgent, committed), told),
        }
    }

    fn poll_compare(
        sender: &mut Sender,
        envelope: &Envelope,
        hash: Hash,
        (urgent, committed): (bool, u64),
        told: &mut u64,
    ) -> Result<Option<Outgoing>> {
        let At::Compare(compare) = &sender.at else {
            return Ok(None);
        };
        let position = compare.position;
        let Some((scan, _)) = sender.scan else {
            return Ok(None);
        };
        let kept = compare.kept(sender.credit.saturating_sub(sender.sent))?;
        let (frame, count) = if compare.start == Start::Untold {
            let mut volumes = copy(&compare.volumes)?;
            if mutant!(154) && volumes.len() > 1 {
                let _ = volumes.pop();
            }
            let frame = Frame::Resync {
                position,
                history: compare.history.try_clone()?,
                volumes,
                since: compare.since.map(|tick| tick.epoch),
            };
            (frame, 0)
        } else if compare.walk == Walk::Ask {
            let mut ranges = KVec::with_capacity(compare.parts.len(), GFP_KERNEL)?;
            for part in &compare.parts {
                let _ = ranges.push_within_capacity(part.range);
            }
            let frame = Frame::Ranges {
                compare: scan,
                first: compare.first,
                keep: false,
                ranges,
            };
            (frame, 0)
        } else if !kept.is_empty() {
            let count = kept.iter().map(|range| range.blocks as usize).sum();
            let frame = Frame::Ranges {
                compare: scan,
                first: compare.index,
                keep: true,
                ranges: kept,
            };
            (frame, count)
        } else if !compare.batch.is_empty() {
            let entries = sender.batch(compare.batch.iter())?;
            if entries.is_empty() {
                return Ok(None);
            }
            let count = entries.len();
            let frame = Frame::Entries {
                epoch: position.epoch,
                first: compare.index,
                resync: true,
                entries,
            };
            (frame, count)
        } else if compare.is_over() && (urgent || position.epoch <= committed) {
            let frame = Frame::Seal {
                position,
                entries: compare.index,
                resync: true,
            };
            (frame, 0)
        } else {
            return Ok(None);
        };
        let meta = encode(envelope, &frame, hash)?;
        sender.sent += count as u64;
        *told += match &frame {
            Frame::Entries { entries, .. } => writes(entries),
            _ => count as u64,
        };
        if let Frame::Seal { .. } = frame {
            sender.sealed = position;
            sender.at = At::Epoch {
                number: position.epoch + 1,
                index: 0,
            };
        } else if let At::Compare(compare) = &mut sender.at {
            match frame {
                Frame::Resync { .. } => {
                    sender.resyncs += 1;
                    compare.was_begun(sender.resumes);
                }
                _ => compare.was_sent(&frame, count),
            }
        }
        Self::outgoing(meta, KVec::new())
    }
}
