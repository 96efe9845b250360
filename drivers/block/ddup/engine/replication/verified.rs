// SPDX-License-Identifier: GPL-2.0

//! The replica's half of a verify: it freezes the state that its primary asks for, and tells of it.
//!
//! ```text
//!  Wait -> Asked --the checkpoint is cut--> Cut --it is durable--> Frozen
//!     \-------------- not now --------------/\---- it gave way ----/--> Gone
//! ```
//!
//! When it has applied the epoch that VERIFY came behind, it cuts a checkpoint before it applies the
//! next one. It holds epochs back for no longer than that: if another state is kept, or the cut does not
//! come in time, it says that it can't. What it has frozen it shows by sums of ranges and block by block.

use super::super::mark::mark;
use super::super::mutant::mutant;
use super::super::Hash;
use super::action::{Action, Shown};
use super::codec::copy;
use super::range::Range;
use super::set::Set;
use super::types::{range_blocks_of, Entry, Id, Position, Volume};
use super::wire::{encode, Envelope, Frame};
use kernel::prelude::*;

/// A replica holds epochs back for so long at most, in milliseconds.
pub const HOLD_MAX: u64 = 500;

/// Ranges that the primary asks for.
#[derive(Debug)]
struct Sums {
    first: u32,
    ranges: KVec<Range>,
    /// How many of them were compared, and a bit for each that is equal.
    done: usize,
    bits: u64,
}

/// Blocks that the primary asks for.
#[derive(Debug)]
struct Show {
    volume: Id,
    lbn: u64,
    count: u64,
    /// What they are.
    entries: Option<KVec<Entry>>,
}

/// How far a replica is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Freeze {
    /// It has still to apply what is to be frozen.
    Wait,
    /// The store is to cut a checkpoint until then.
    Asked(u64),
    /// It has.
    Cut,
    /// The state is frozen; whether that was told.
    Frozen(bool),
    /// It is not kept any more, or could not be. The primary may not have heard of that.
    Gone,
}

/// A replica's part in a verify.
#[derive(Debug)]
pub(super) struct Verified {
    nonce: u64,
    stream: u32,
    /// As the primary calls it.
    number: u64,
    position: Position,
    /// As the own store calls it.
    scan: Option<u64>,
    freeze: Freeze,
    volumes: KVec<Volume>,
    sums: Option<Sums>,
    show: Option<Show>,
    /// The store was asked for blocks.
    asked: bool,
    /// So many blocks are told at once, at most.
    blocks_max: u32,
}

impl Verified {
    /// Takes blocks of the own frozen state.
    fn take_shown(&mut self, shown: Shown, hash: Hash) {
        self.asked = false;
        if let Some(show) = self.show.as_mut().filter(|show| show.entries.is_none()) {
            show.entries = Some(shown.entries);
            return;
        }
        let nonce = self.nonce;
        let Some(sums) = self.sums.as_mut() else {
            return;
        };
        let range = sums.ranges.get(sums.done);
        let equal = range.is_some_and(|range| match mutant!(245) {
            true => range.blocks as usize == shown.entries.len(),
            false => range.is_of(&shown.entries, nonce, hash),
        });
        sums.bits |= u64::from(equal) << sums.done;
        sums.done += 1;
    }

    /// What the store is to show next: volume, first block, the one behind the last, and how many are
    /// wanted.
    fn next_scan(&self) -> Option<(Id, u64, u64, u32)> {
        if self.asked {
            return None;
        }
        if let Some(show) = self.show.as_ref().filter(|show| show.entries.is_none()) {
            let end = show.lbn + show.count;
            return Some((show.volume, show.lbn, end, self.blocks_max));
        }
        let sums = self.sums.as_ref()?;
        let range = sums.ranges.get(sums.done)?;
        // One more shows that there are too many.
        Some((range.volume, range.first, range.end, range.blocks + 1))
    }

    /// What the primary is to be told.
    fn next_frame(&self) -> Result<Option<Frame>> {
        let number = self.number;
        if self.freeze == Freeze::Frozen(false) {
            let volumes = copy(&self.volumes)?;
            return Ok(Some(Frame::Frozen { number, volumes }));
        }
        if let Some(sums) = self.sums.as_ref().filter(|s| s.done == s.ranges.len()) {
            return Ok(Some(Frame::Equal {
                compare: number,
                first: sums.first,
                count: sums.ranges.len() as u32,
                bits: sums.bits,
            }));
        }
        let show = self.show.as_ref();
        let Some((show, entries)) = show.and_then(|show| Some((show, show.entries.as_ref()?)))
        else {
            return Ok(None);
        };
        let full = entries.len() >= self.blocks_max as usize;
        let last = entries.last().filter(|_| full);
        Ok(Some(Frame::Blocks {
            number,
            lbn: show.lbn,
            count: last.map_or(show.count, |last| (last.lbn + 1).saturating_sub(show.lbn)),
            entries: copy(entries)?,
        }))
    }

    /// That was sent.
    fn was_sent(&mut self, frame: &Frame) {
        match frame {
            Frame::Frozen { .. } => self.freeze = Freeze::Frozen(true),
            Frame::Equal { .. } => self.sums = None,
            _ => self.show = None,
        }
    }
}

impl Set {
    /// Takes what the primary says of a verify; `None` if no primary says that.
    pub(super) fn take_verify(&mut self, frame: Frame) -> Option<()> {
        let Some(receiver) = self.receiver.as_ref() else {
            return Some(());
        };
        let (nonce, stream) = (receiver.nonce, receiver.stream);
        if let Frame::Verify { number, position } = frame {
            if receiver.sealed_end() != Some(position) {
                return None;
            }
            mark!(verify_asked);
            self.verified = Some(Verified {
                nonce,
                stream,
                number,
                position,
                scan: None,
                freeze: Freeze::Wait,
                volumes: KVec::new(),
                sums: None,
                show: None,
                asked: false,
                blocks_max: range_blocks_of(&self.params.limits),
            });
            return Some(());
        }
        let Some(verified) = self.verified.as_mut() else {
            return Some(());
        };
        // What it asks of a state that is gone by now has its answer in THAWED.
        let is_gone = verified.freeze == Freeze::Gone;
        match frame {
            Frame::Ranges { .. } | Frame::Show { .. } if is_gone => Some(()),
            Frame::Ranges {
                compare: number,
                first,
                keep: false,
                ranges,
            } if number == verified.number => {
                let may = verified.freeze == Freeze::Frozen(true) && verified.sums.is_none();
                verified.sums = Some(Sums {
                    first,
                    ranges,
                    done: 0,
                    bits: 0,
                });
                may.then_some(())
            }
            Frame::Show {
                number,
                volume,
                lbn,
                count,
            } if number == verified.number => {
                let may = verified.freeze == Freeze::Frozen(true) && verified.show.is_none();
                verified.show = Some(Show {
                    volume,
                    lbn,
                    count,
                    entries: None,
                });
                may.then_some(())
            }
            Frame::Thawed(number) => {
                if number == verified.number {
                    self.verified = None;
                }
                Some(())
            }
            _ => Some(()),
        }
    }

    /// Whether the next epoch is not to be applied before the state behind another one is cut.
    pub(super) fn holds_epoch(&self, next: u64) -> bool {
        let holds = |v: &Verified| {
            let uncut = matches!(v.freeze, Freeze::Wait | Freeze::Asked(_));
            uncut && next > v.position.epoch
        };
        self.verified.as_ref().is_some_and(holds) && !mutant!(243)
    }

    /// This replica keeps no state for its primary any more, or can't.
    pub(super) fn thaw(&mut self) {
        let Some(verified) = self.verified.as_mut() else {
            return;
        };
        (verified.freeze, verified.scan) = (Freeze::Gone, None);
        (verified.sums, verified.show) = (None, None);
        let (nonce, number) = (verified.nonce, verified.number);
        let is_it = |at: &usize| self.link_at(*at).is_some_and(|l| l.nonce == nonce);
        let at = (0..self.peers.len()).find(is_it);
        self.say_thawed(at, number);
    }

    /// Whether a number is that of the primary's verify.
    pub(super) fn is_verified(&self, number: u64) -> bool {
        let verified = self.verified.as_ref();
        verified.is_some_and(|v| v.number == number)
    }

    /// Whether a scan is of the state that is frozen for the primary.
    pub(super) fn is_scan_of_verified(&self, scan: u64) -> bool {
        let verified = self.verified.as_ref();
        verified.is_some_and(|v| v.scan == Some(scan))
    }

    /// Ends what has lost its stream, and holds no epoch back for too long.
    pub(super) fn watch_verified(&mut self) {
        let now = self.now;
        // A primary that was demoted says nothing in the stream any more.
        let stream = self.followed_stream();
        let Some(verified) = self.verified.as_ref() else {
            return;
        };
        if stream != Some((verified.nonce, verified.stream)) {
            self.verified = None;
        } else if matches!(verified.freeze, Freeze::Asked(until) if now >= until) {
            mark!(verify_holds_no_longer);
            self.thaw();
        }
    }

    /// When epochs are held back no longer.
    pub(super) fn verified_deadline(&self) -> Option<u64> {
        match self.verified.as_ref()?.freeze {
            Freeze::Asked(until) => Some(until),
            _ => None,
        }
    }

    /// The checkpoint is cut: what comes behind it may be applied.
    pub(super) fn verified_cut(&mut self, scan: u64) {
        let verified = self.verified.as_mut();
        if let Some(verified) = verified.filter(|v| v.scan == Some(scan)) {
            if let Freeze::Asked(_) = verified.freeze {
                verified.freeze = Freeze::Cut;
            }
        }
    }

    /// A state is frozen that ends there. False: it is not the one that was asked for.
    pub(super) fn verified_frozen(&mut self, end: Option<Position>, volumes: KVec<Volume>) -> bool {
        let Some(verified) = self.verified.as_mut() else {
            return false;
        };
        if end != Some(verified.position) && !mutant!(243) {
            self.thaw();
            return false;
        }
        mark!(verify_frozen_at_replica);
        verified.volumes = volumes;
        verified.freeze = Freeze::Frozen(false);
        true
    }

    /// Takes what is shown of the frozen state, or gives it back if it is of another one.
    pub(super) fn verified_shown(&mut self, scan: u64, shown: Shown) -> Option<Shown> {
        let hash = self.params.hash;
        let verified = self.verified.as_mut();
        let Some(verified) = verified.filter(|v| v.scan == Some(scan)) else {
            return Some(shown);
        };
        verified.take_shown(shown, hash);
        None
    }

    /// What the store is to do for the primary's verify.
    pub(super) fn poll_verified(&mut self) -> Option<Action> {
        let (now, token, free) = (self.now, self.token + 1, self.scans.is_empty());
        let position = self.history.position();
        let verified = self.verified.as_mut()?;
        let reached = position == verified.position && self.applying.is_empty();
        if verified.freeze == Freeze::Wait && free && (reached || mutant!(243)) {
            self.scans.reserve(1, GFP_KERNEL).ok()?;
            let _ = self.scans.push_within_capacity(token);
            self.token = token;
            verified.scan = Some(token);
            let until = match mutant!(248) {
                true => u64::MAX,
                false => now.saturating_add(HOLD_MAX),
            };
            verified.freeze = Freeze::Asked(until);
            return Some(Action::Freeze { scan: token });
        }
        let (volume, first, end, max) = verified.next_scan()?;
        verified.asked = true;
        Some(Action::ScanRange {
            scan: verified.scan?,
            volume,
            first,
            end,
            max,
        })
    }

    /// The next frame of the session, if it is the primary's.
    pub(super) fn poll_verified_frame(
        &mut self,
        nonce: u64,
        envelope: &Envelope,
    ) -> Result<Option<KVec<u8>>> {
        let hash = self.params.hash;
        let Some(verified) = self.verified.as_mut().filter(|v| v.nonce == nonce) else {
            return Ok(None);
        };
        let Some(frame) = verified.next_frame()? else {
            return Ok(None);
        };
        let meta = encode(envelope, &frame, hash)?;
        verified.was_sent(&frame);
        Ok(Some(meta))
    }
}
