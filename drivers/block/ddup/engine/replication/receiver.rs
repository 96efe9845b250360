// SPDX-License-Identifier: GPL-2.0

//! The replica's half of a stream: entries are staged as they come, what is lacking is asked for,
//! and an epoch is applied once it is sealed and whole.

use super::super::mark::mark;
use super::super::mutant::mutant;
use super::super::types::BlockContent;
use super::action::{Action, Params, Source, StageResult};
use super::epoch::{chain_entry, chain_seal, Epoch};
use super::history::History;
use super::set::Set;
use super::types::{Entry, Limits, Op, Position, BATCH_MAX};
use super::wire::{Frame, Need};
use kernel::prelude::*;

/// Epochs that are given to the store at once.
const APPLYING_MAX: usize = 2;

/// What the store was asked to apply.
#[derive(Debug)]
pub(super) enum Applying {
    /// An epoch.
    Epoch(Epoch),
    /// The state after a full compare, with its history.
    Switch(History),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The store is to be asked.
    New(Source),
    /// It was asked.
    Asked,
    /// It has the content.
    Held,
    /// It has not.
    Lacks,
    /// The primary was asked.
    Needed,
}

#[derive(Clone, Copy, Debug)]
struct Staged {
    entry: Entry,
    state: State,
}

/// An epoch, or a full compare, that is being received.
#[derive(Debug)]
struct StagedEpoch {
    number: u64,
    /// Token of its first entry; those of the others follow.
    token: u64,
    /// Entries in front that are staged and not kept (of a full compare, which may be of any size).
    base: u32,
    entries: KVec<Staged>,
    /// Entries that are not held yet.
    lacking: usize,
    position: Option<Position>,
    /// It is a full compare, with this history.
    compare: Option<History>,
}

impl StagedEpoch {
    fn count(&self) -> u32 {
        self.base + self.entries.len() as u32
    }

    fn entry(&mut self, index: u32) -> Option<&mut Staged> {
        let at = index.checked_sub(self.base)?;
        self.entries.get_mut(at as usize)
    }
}

/// A stream that is being received; there is none before this store's HELLO and after any change.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) nonce: u64,
    pub(super) stream: u32,
    limits: Limits,
    epochs: KVec<StagedEpoch>,
    /// Position that the next epoch follows.
    last: Position,
    /// Chain behind the last entry.
    chain: u64,
    /// Entries that may come in all, of which the peer was told, and that came.
    pub(super) granted: u64,
    told: u64,
    used: u64,
    /// States `New`.
    fresh: usize,
}

/// Whether a block that came is what an entry says.
fn is_content(entry: &Entry, block: &BlockContent) -> bool {
    block.name.0 == entry.digest && block.check.0 == entry.check && !block.zero
}

impl Receiver {
    pub(super) fn new(nonce: u64, stream: u32, last: Position, params: &Params) -> Result<Self> {
        let credit = params.limits.entries.into();
        Ok(Receiver {
            nonce,
            stream,
            limits: params.limits,
            epochs: KVec::new(),
            last,
            chain: last.chain,
            granted: credit,
            told: credit,
            used: 0,
            fresh: 0,
        })
    }

    /// Entries in memory.
    pub(super) fn entries(&self) -> usize {
        self.epochs.iter().map(|e| e.entries.len()).sum()
    }

    /// The newest sealed position, whole or not.
    pub(super) fn last_sealed(&self) -> Option<Position> {
        (self.last.epoch > 0).then_some(self.last)
    }

    fn open(&mut self, number: u64, token: u64, compare: Option<History>) -> Result {
        self.epochs.push(
            StagedEpoch {
                number,
                token,
                base: 0,
                entries: KVec::new(),
                lacking: 0,
                position: None,
                compare,
            },
            GFP_KERNEL,
        )?;
        Ok(())
    }

    /// Forgets what came. Blocks that the store was not told of go to `dropped`, where there is room
    /// for them.
    pub(super) fn clear(&mut self, dropped: &mut KVec<u64>) {
        for staged in self.epochs.iter().flat_map(|e| &e.entries) {
            if let State::New(Source::Data(handle)) = staged.state {
                let _ = dropped.push_within_capacity(handle);
            }
        }
        self.epochs.clear();
        self.fresh = 0;
    }

    fn is_open(&self) -> bool {
        self.epochs.last().is_some_and(|e| e.position.is_none())
    }

    /// Takes entries; `None` if no primary sends these here.
    fn take_entries(
        &mut self,
        at: (u64, u32, bool),
        entries: &[Entry],
        (first_block, blocks): (u64, &[BlockContent]),
        token: &mut u64,
        hash: super::super::Hash,
    ) -> Result<Option<()>> {
        let (number, first, resync) = at;
        self.used += entries.len() as u64;
        // More than it was told of.
        if self.used > self.told {
            mark!(replication_over_credit);
            return Ok(None);
        }
        if !self.is_open() {
            if resync || first != 0 || number != self.last.epoch + 1 {
                return Ok(None);
            }
            self.open(number, *token + 1, None)?;
        }
        let limit = self.limits.epoch as usize;
        let Some(epoch) = self.epochs.last_mut() else {
            return Ok(None);
        };
        let fits = resync || epoch.entries.len() + entries.len() <= limit;
        let fresh = entries.iter().filter(|e| e.fresh);
        // A frame has as many blocks as fresh entries.
        let is_meant = fresh.zip(blocks).all(|(e, b)| is_content(e, b));
        if epoch.number != number
            || epoch.count() != first
            || epoch.compare.is_some() != resync
            || !fits
            || !(is_meant || mutant!(142))
            || epoch.count() > u32::MAX / 4
        {
            return Ok(None);
        }
        epoch.entries.reserve(entries.len(), GFP_KERNEL)?;
        let mut handle = first_block;
        for entry in entries {
            let source = if entry.fresh {
                handle += 1;
                Source::Data(handle - 1)
            } else {
                Source::Held
            };
            let state = State::New(source);
            let _ = epoch.entries.push_within_capacity(Staged {
                entry: *entry,
                state,
            });
            *token += 1;
            epoch.lacking += 1;
            self.fresh += 1;
            self.chain = chain_entry(self.chain, entry, hash);
        }
        Ok(Some(()))
    }

    /// Takes the end of an epoch; `None` if it does not fit what came.
    fn take_seal(
        &mut self,
        position: Position,
        count: u32,
        resync: bool,
        token: u64,
        hash: super::super::Hash,
    ) -> Result<Option<()>> {
        if !self.is_open() {
            if resync {
                return Ok(None);
            }
            self.open(self.last.epoch + 1, token + 1, None)?;
        }
        let last = self.last;
        let follows = position.epoch == last.epoch.wrapping_add(1)
            && (position.term > last.term
                || (position.term == last.term && position.reign == last.reign));
        let chain = chain_seal(
            self.chain,
            position.term,
            &position.reign,
            position.epoch,
            hash,
        );
        let Some(epoch) = self.epochs.last_mut() else {
            return Ok(None);
        };
        let fits = match &epoch.compare {
            Some(history) => history.position() == position,
            None => follows && chain == position.chain,
        };
        if epoch.count() != count
            || epoch.compare.is_some() != resync
            || epoch.number != position.epoch
            || !fits
        {
            mark!(replication_seal_refused);
            return Ok(None);
        }
        epoch.position = Some(position);
        self.last = position;
        self.chain = position.chain;
        Ok(Some(()))
    }

    /// Takes what was asked for; false if nobody waits for it any more.
    /// Takes what was asked for, or (`None`) that there is no good copy of it. False: it is not
    /// wanted any more. `None`: it is something else.
    fn take_block(
        &mut self,
        (epoch, resync): (u64, bool),
        index: u32,
        block: Option<(u64, &BlockContent)>,
    ) -> Option<bool> {
        let is_it = |e: &&mut StagedEpoch| e.number == epoch && e.compare.is_some() == resync;
        let staged = self.epochs.iter_mut().find(is_it);
        let staged = staged.and_then(|e| e.entry(index));
        let Some(staged) = staged.filter(|s| s.state == State::Needed) else {
            return Some(false);
        };
        let is_meant = block.is_none_or(|(_, b)| is_content(&staged.entry, b));
        if !is_meant && !mutant!(143) {
            mark!(replication_block_of_another_content);
            return None;
        }
        staged.state = State::New(block.map_or(Source::Lost, |(handle, _)| Source::Data(handle)));
        self.fresh += 1;
        Some(true)
    }

    pub(super) fn staged(&mut self, token: u64, result: StageResult) {
        let inside =
            |e: &&mut StagedEpoch| token >= e.token && token - e.token < u64::from(e.count());
        let Some(epoch) = self.epochs.iter_mut().find(inside) else {
            return;
        };
        let index = (token - epoch.token) as u32;
        let Some(staged) = epoch.entry(index).filter(|s| s.state == State::Asked) else {
            return;
        };
        if result == StageResult::Lacks {
            mark!(replication_lacks);
            staged.state = State::Lacks;
            return;
        }
        staged.state = State::Held;
        let entry = staged.entry;
        epoch.lacking -= 1;
        while epoch.compare.is_some()
            && epoch
                .entries
                .first()
                .is_some_and(|s| s.state == State::Held)
        {
            let _ = epoch.entries.remove(0);
            epoch.base += 1;
            self.granted += 1;
        }
        // Who lacked the same content need not ask for it.
        if entry.op == Op::Write {
            for other in self.epochs.iter_mut().flat_map(|e| e.entries.iter_mut()) {
                if other.state == State::Lacks && other.entry.digest == entry.digest {
                    other.state = State::New(Source::Held);
                    self.fresh += 1;
                }
            }
        }
    }

    /// Whether an entry before this one with the same content is being asked for or looked up. One
    /// behind it may wait for room that this one's epoch holds.
    fn is_coming(&self, staged: &Staged) -> bool {
        let all = self.epochs.iter().flat_map(|e| e.entries.iter());
        let mut before = all.take_while(|s| !core::ptr::eq(*s, staged));
        before.any(|s| {
            !matches!(s.state, State::Held | State::Lacks) && s.entry.digest == staged.entry.digest
        })
    }

    fn poll_stage(&mut self) -> Option<Action> {
        if self.fresh == 0 {
            return None;
        }
        for epoch in &mut self.epochs {
            for (at, staged) in epoch.entries.iter_mut().enumerate() {
                if let State::New(source) = staged.state {
                    staged.state = State::Asked;
                    self.fresh -= 1;
                    return Some(Action::Stage {
                        token: epoch.token + u64::from(epoch.base) + at as u64,
                        entry: staged.entry,
                        source,
                        resync: epoch.compare.is_some(),
                    });
                }
            }
        }
        None
    }

    /// The oldest epoch, if it is whole; the store gets what comes out.
    fn take_whole(&mut self) -> Result<Option<(Action, Applying)>> {
        let Some(epoch) = self.epochs.first() else {
            return Ok(None);
        };
        let Some(position) = epoch.position else {
            return Ok(None);
        };
        if epoch.lacking > 0 && !mutant!(134) {
            return Ok(None);
        }
        if let Some(history) = &epoch.compare {
            let (told, kept) = (history.try_clone()?, history.try_clone()?);
            let action = Action::Switch {
                position,
                history: told,
                token: epoch.token,
                count: epoch.count(),
            };
            let _ = self.epochs.remove(0);
            return Ok(Some((action, Applying::Switch(kept))));
        }
        let mut entries = KVVec::with_capacity(epoch.entries.len(), GFP_KERNEL)?;
        for staged in &epoch.entries {
            let _ = entries.push_within_capacity(staged.entry);
        }
        let action = Action::Apply {
            position,
            token: epoch.token,
            count: epoch.count(),
        };
        let whole = Epoch {
            number: epoch.number,
            entries,
            position: Some(position),
        };
        let _ = self.epochs.remove(0);
        Ok(Some((action, Applying::Epoch(whole))))
    }

    /// What the primary is to be told, but for acknowledgements. It answers at most `needs` at once.
    pub(super) fn poll_frame(&self, needs: u32) -> Result<Option<Frame>> {
        let quarter = u64::from(self.limits.entries / 4);
        let low = self.told.saturating_sub(self.used) <= quarter;
        if self.granted > self.told && (low || self.granted - self.told >= quarter) {
            return Ok(Some(Frame::Credit(self.granted)));
        }
        let states = || self.epochs.iter().flat_map(|e| e.entries.iter());
        let sent = states().filter(|s| s.state == State::Needed).count();
        let quota = (needs.min(self.limits.needs) as usize)
            .saturating_sub(sent)
            .min(BATCH_MAX);
        let lacks = |s: &Staged| s.state == State::Lacks && !self.is_coming(s);
        let Some(epoch) = self.epochs.iter().find(|e| e.entries.iter().any(lacks)) else {
            return Ok(None);
        };
        if quota == 0 {
            return Ok(None);
        }
        let mut needs: KVec<Need> = KVec::with_capacity(quota, GFP_KERNEL)?;
        for (at, staged) in epoch.entries.iter().enumerate().filter(|(_, s)| lacks(s)) {
            if needs.len() >= quota {
                break;
            }
            if needs.iter().any(|n| n.digest == staged.entry.digest) {
                continue;
            }
            let _ = needs.push_within_capacity(Need {
                index: epoch.base + at as u32,
                volume: staged.entry.volume,
                lbn: staged.entry.lbn,
                digest: staged.entry.digest,
            });
        }
        mark!(replication_need);
        Ok(Some(Frame::Need {
            epoch: epoch.number,
            resync: epoch.compare.is_some(),
            needs,
        }))
    }

    /// A frame of [`Receiver::poll_frame`] was sent.
    pub(super) fn was_sent(&mut self, frame: &Frame) {
        match frame {
            Frame::Credit(total) => self.told = *total,
            Frame::Need {
                epoch,
                resync,
                needs,
            } => {
                let is_it =
                    |e: &&mut StagedEpoch| e.number == *epoch && e.compare.is_some() == *resync;
                let Some(epoch) = self.epochs.iter_mut().find(is_it) else {
                    return;
                };
                for need in needs {
                    if let Some(staged) = epoch.entry(need.index) {
                        staged.state = State::Needed;
                    }
                }
            }
            _ => {}
        }
    }
}

impl Set {
    /// Takes a frame of the primary's stream: true if its data was taken, `None` if no primary sends
    /// it.
    pub(super) fn take_stream(
        &mut self,
        frame: Frame,
        (first_block, blocks): (u64, &[BlockContent]),
    ) -> Result<Option<bool>> {
        let (hash, term) = (self.params.hash, self.record.config.term);
        let (own, contains) = (self.history.position(), |history: &History| {
            history.contains(&self.history.position())
        });
        let Some(receiver) = self.receiver.as_mut() else {
            return Ok(Some(false));
        };
        self.dropped
            .reserve(receiver.fresh + blocks.len(), GFP_KERNEL)?;
        Ok(match frame {
            Frame::Entries {
                epoch,
                first,
                resync,
                entries,
            } => {
                let at = (epoch, first, resync);
                let token = &mut self.stage_token;
                let data = (first_block, blocks);
                let taken = receiver.take_entries(at, &entries, data, token, hash)?;
                taken.map(|()| !blocks.is_empty())
            }
            Frame::Seal {
                position,
                entries,
                resync,
            } => {
                if position.term > term {
                    return Ok(None);
                }
                let token = self.stage_token;
                let taken = receiver.take_seal(position, entries, resync, token, hash)?;
                taken.map(|()| false)
            }
            Frame::Data {
                epoch,
                index,
                resync,
            } => {
                let block = blocks.first().map(|b| (first_block, b));
                block.and_then(|b| receiver.take_block((epoch, resync), index, Some(b)))
            }
            Frame::Lost {
                epoch,
                index,
                resync,
            } => {
                mark!(replication_lost);
                receiver.take_block((epoch, resync), index, None);
                Some(false)
            }
            Frame::Resync { position, history } => {
                // A state that we are already past is never gone back to.
                let back = contains(&history) && position.epoch < own.epoch;
                if back || position.term > term {
                    return Ok(None);
                }
                mark!(replication_compare_begins);
                let gone: usize = receiver.epochs.iter().map(|e| e.entries.len()).sum();
                receiver.granted += gone as u64;
                receiver.clear(&mut self.dropped);
                self.void = true;
                receiver.last = position;
                receiver.open(position.epoch, self.stage_token + 1, Some(history))?;
                Some(false)
            }
            _ => None,
        })
    }

    pub(super) fn poll_receiver(&mut self) -> Option<Action> {
        let receiver = self.receiver.as_mut()?;
        if let Some(action) = receiver.poll_stage() {
            return Some(action);
        }
        if self.applying.len() >= APPLYING_MAX {
            return None;
        }
        self.applying.reserve(1, GFP_KERNEL).ok()?;
        self.window.reserve(APPLYING_MAX + 1).ok()?;
        let (action, applying) = receiver.take_whole().ok()??;
        let _ = self.applying.push_within_capacity(applying);
        Some(action)
    }
}
