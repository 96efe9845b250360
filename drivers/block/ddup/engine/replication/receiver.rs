// SPDX-License-Identifier: GPL-2.0

//! The replica's half of a stream: entries are staged as they come, what is lacking is asked for,
//! and an epoch is applied once it is sealed and whole.

use super::super::mark::mark;
use super::super::mutant::mutant;
use super::super::ring::Ring;
use super::super::sorted::SortedMap;
use super::super::types::BlockContent;
use super::super::Hash;
use super::action::{Action, Params, Source, StageResult};
use super::codec::copy;
use super::config::MemberState;
use super::epoch::{chain_entry, chain_seal, Epoch};
use super::history::History;
use super::range::Range;
use super::resume::{Built, Reached};
use super::set::Set;
use super::types::{Entry, Limits, Op, Position, Volume, BATCH_MAX};
use super::wire::{Frame, Need};
use kernel::prelude::*;

/// Epochs that are given to the store at once.
const APPLYING_MAX: usize = 2;

/// What the store was asked to apply.
#[derive(Debug)]
pub(super) enum Applying {
    /// An epoch.
    Epoch(Epoch),
    /// Several as one, with the end of the last.
    Merged { end: Position, entries: u32 },
    /// The state after a full compare, with its history.
    Switch(History),
}

impl Applying {
    /// Where the history ends when it was applied.
    fn end(&self) -> Option<Position> {
        match self {
            Applying::Epoch(epoch) => epoch.position,
            Applying::Merged { end, .. } => Some(*end),
            Applying::Switch(history) => Some(history.position()),
        }
    }

    /// Whether volumes may be others when it was applied.
    fn changes_volumes(&self) -> bool {
        match self {
            Applying::Epoch(epoch) => epoch.changes_volumes() && !mutant!(152),
            Applying::Merged { .. } => false,
            Applying::Switch(_) => !mutant!(153),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// It is of a range that this store holds, and is not known yet.
    Own,
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
    /// Token of the next entry with the same key; 0: there is none.
    next: u64,
}

/// Writes of the same content are found by the beginning of its digest. Other content with the same
/// beginning only costs time.
fn key_of(entry: &Entry) -> Option<u64> {
    let first = entry.digest.first_chunk::<8>()?;
    (entry.op == Op::Write).then_some(u64::from_le_bytes(*first))
}

/// Entries with the same key, linked in their order.
///
/// # Invariants
///
/// The first one is not held. All that are not held are linked.
#[derive(Clone, Copy, Debug)]
struct Same {
    /// Token of the first entry: only it is asked for. One behind it may wait for room that its
    /// epoch holds.
    first: u64,
    last: u64,
    /// How many lack the content.
    lacking: u32,
}

/// What a compare is to make of this store.
#[derive(Debug)]
struct Target {
    /// The history of the state.
    history: History,
    /// It is a diff since this epoch.
    since: Option<u64>,
    /// All volumes of the state.
    volumes: KVec<Volume>,
    /// How far it is built.
    reached: Reached,
}

impl Target {
    /// Whether a store whose history ends there holds all that has not changed since.
    fn may_keep(&self, end: &Position) -> bool {
        let has = |since| since <= end.epoch && self.history.contains(end);
        self.since.is_none_or(has)
    }
}

/// What is being received.
#[derive(Debug)]
enum What {
    /// An epoch.
    Epoch,
    /// Several as one, and the end of the last.
    Merged(Position),
    /// A compare.
    Compare(Target),
}

/// An epoch, or what takes the place of some, that is being received.
#[derive(Debug)]
struct StagedEpoch {
    number: u64,
    /// Token of its first entry; those of the others follow.
    token: u64,
    /// Entries in front that are staged and not kept (of a full compare, which may be of any size).
    base: u32,
    entries: Ring<Staged>,
    /// Entries that are not held yet.
    lacking: usize,
    position: Option<Position>,
    what: What,
    /// It is a change of volumes, and nothing else.
    changes: bool,
}

impl StagedEpoch {
    /// What a compare is to make of this store, if it is one.
    fn compare(&self) -> Option<&Target> {
        match &self.what {
            What::Compare(target) => Some(target),
            What::Epoch | What::Merged(_) => None,
        }
    }

    /// An entry of a compare is held, and so are those before it.
    fn reach(&mut self, entry: &Entry) {
        if let What::Compare(target) = &mut self.what {
            target.reached = Reached {
                volume: entry.volume,
                lbn: entry.lbn.saturating_add(entry.count) + u64::from(mutant!(401)),
                entries: target.reached.entries + 1,
            };
        }
    }

    fn count(&self) -> u32 {
        self.base + self.entries.len() as u32
    }

    /// Token of the first entry that is kept.
    fn first(&self) -> u64 {
        self.token + u64::from(self.base)
    }

    /// Whether volumes may be others when it was applied: what comes behind it is staged then.
    fn changes_volumes(&self) -> bool {
        match self.what {
            What::Compare(_) => !mutant!(153),
            What::Epoch | What::Merged(_) => self.changes && !mutant!(152),
        }
    }
}

/// Ranges of a compare that the primary asks for.
#[derive(Debug)]
struct Sums {
    compare: u64,
    /// Number of the first one.
    first: u32,
    ranges: KVec<Range>,
    /// How many of them were compared, and a bit for each that is equal.
    done: usize,
    bits: u64,
}

/// A range of a compare that this store holds: its entries are those from this token on.
#[derive(Clone, Copy, Debug)]
struct Keep {
    token: u64,
    range: Range,
}

/// A stream that is being received; there is none before this store's HELLO and after any change.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) nonce: u64,
    pub(super) stream: u32,
    limits: Limits,
    /// Numbers and tokens ascend.
    epochs: Ring<StagedEpoch>,
    same: SortedMap<Same>,
    /// Position that the next epoch follows.
    last: Position,
    /// Chain behind the last entry.
    chain: u64,
    /// Entries that may come in all, of which the peer was told, and that came.
    pub(super) granted: u64,
    told: u64,
    used: u64,
    /// Epochs and compares after which volumes may be others.
    changes: usize,
    /// Volumes of the compare that begins, of which the store is to be told.
    volumes: Option<KVec<Volume>>,
    /// How many began, and how far the last had come before, if the primary is to be told.
    resyncs: u32,
    reached: Option<Reached>,
    /// States `New`, `Lacks` and `Needed`.
    fresh: usize,
    lacking: usize,
    needed: usize,
    sums: Option<Sums>,
    keeps: Ring<Keep>,
    /// The store was asked for the blocks of a range: of the first of `keeps`, if there is one, else
    /// of the next of `sums`.
    own: Option<u64>,
    /// No entry before this token is `New`, or `Lacks` and may be asked for.
    stage_from: u64,
    ask_from: u64,
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
            epochs: Ring::new(),
            same: SortedMap::new(),
            last,
            chain: last.chain,
            granted: credit,
            told: credit,
            used: 0,
            changes: 0,
            volumes: None,
            resyncs: 0,
            reached: None,
            fresh: 0,
            lacking: 0,
            needed: 0,
            sums: None,
            keeps: Ring::new(),
            own: None,
            stage_from: 0,
            ask_from: 0,
        })
    }

    /// Entries in memory.
    pub(super) fn entries(&self) -> usize {
        self.epochs.iter().map(|e| e.entries.len()).sum()
    }

    /// The end of all that came, if nothing came behind it.
    pub(super) fn sealed_end(&self) -> Option<Position> {
        (!self.is_open()).then_some(self.last)
    }

    /// The newest sealed position, whole or not.
    pub(super) fn last_sealed(&self) -> Option<Position> {
        (self.last.epoch > 0).then_some(self.last)
    }

    fn open(&mut self, number: u64, token: u64, what: What) -> Result {
        self.epochs.reserve(1)?;
        let epoch = StagedEpoch {
            number,
            token,
            base: 0,
            entries: Ring::new(),
            lacking: 0,
            position: None,
            what,
            changes: false,
        };
        self.changes += usize::from(epoch.changes_volumes());
        let _ = self.epochs.push(epoch);
        Ok(())
    }

    /// The number of the epoch that an entry is in, from the oldest on, and of the entry in it.
    fn place(&self, token: u64) -> Option<(usize, usize)> {
        let after = self.epochs.partition_point(|e| e.token <= token);
        let at = after.checked_sub(1)?;
        let entry = token.checked_sub(self.epochs.get(at)?.first())?;
        Some((at, usize::try_from(entry).ok()?))
    }

    fn entry(&self, token: u64) -> Option<&Staged> {
        let (epoch, at) = self.place(token)?;
        self.epochs.get(epoch)?.entries.get(at)
    }

    fn entry_mut(&mut self, token: u64) -> Option<&mut Staged> {
        let (epoch, at) = self.place(token)?;
        self.epochs.get_mut(epoch)?.entries.get_mut(at)
    }

    /// Token of an entry of an epoch, or of a compare, if it is still kept.
    fn token_of(&self, (number, resync): (u64, bool), index: u32) -> Option<u64> {
        let at = self.epochs.partition_point(|e| e.number < number);
        let is_it = |e: &&StagedEpoch| e.number == number && e.compare().is_some() == resync;
        let epoch = self.epochs.get(at).filter(is_it)?;
        let kept = epoch.base <= index && index < epoch.count();
        kept.then(|| epoch.token + u64::from(index))
    }

    /// The first entry from a token on that is such, with its token.
    fn find(&self, from: u64, is_such: impl Fn(u64, &Staged) -> bool) -> Option<(u64, &Staged)> {
        let after = self.epochs.partition_point(|e| e.token <= from);
        for at in after.saturating_sub(1)..self.epochs.len() {
            let epoch = self.epochs.get(at)?;
            let skipped = usize::try_from(from.saturating_sub(epoch.first()));
            for entry in skipped.unwrap_or(usize::MAX)..epoch.entries.len() {
                let (token, staged) = (epoch.first() + entry as u64, epoch.entries.get(entry)?);
                if is_such(token, staged) {
                    return Some((token, staged));
                }
            }
        }
        None
    }

    /// Gives an entry another state.
    fn set(&mut self, token: u64, state: State) {
        let Some(staged) = self.entry_mut(token) else {
            return;
        };
        let old = core::mem::replace(&mut staged.state, state);
        let same = key_of(&staged.entry).and_then(|key| self.same.get_mut(key));
        match old {
            State::New(_) => self.fresh -= 1,
            State::Lacks => self.lacking -= 1,
            State::Needed => self.needed -= 1,
            State::Own | State::Asked | State::Held => {}
        }
        match state {
            State::New(_) => {
                self.fresh += 1;
                self.stage_from = self.stage_from.min(token);
            }
            State::Lacks => {
                self.lacking += 1;
                self.ask_from = self.ask_from.min(token);
            }
            State::Needed => self.needed += 1,
            State::Own | State::Asked | State::Held => {}
        }
        if let Some(same) = same {
            same.lacking += u32::from(state == State::Lacks);
            same.lacking -= u32::from(old == State::Lacks);
        }
    }

    /// Links a new entry, for which there is room, behind those that come before it.
    fn link(&mut self, token: u64, key: u64) {
        let Some(same) = self.same.get(key) else {
            let same = Same {
                first: token,
                last: token,
                lacking: 0,
            };
            let _ = self.same.insert(key, same);
            return;
        };
        let mut before = (same.last < token).then_some(same.last);
        if before.is_none() && same.first < token {
            // Only what is kept of a compare is known later than what comes behind it.
            let mut at = same.first;
            let is_before = |next: &u64| *next != 0 && *next < token;
            while let Some(next) = self.entry(at).map(|s| s.next).filter(is_before) {
                at = next;
            }
            before = Some(at);
        }
        let next = match before.and_then(|before| self.entry_mut(before)) {
            Some(before) => core::mem::replace(&mut before.next, token),
            None => same.first,
        };
        if let Some(staged) = self.entry_mut(token) {
            staged.next = next;
        }
        if let Some(same) = self.same.get_mut(key) {
            same.first = same.first.min(token);
            same.last = same.last.max(token);
        }
    }

    /// An entry with this key is held: unlinks those in front that are, and lets those that lack
    /// the content look again.
    fn unlink_held(&mut self, key: u64) {
        while let Some(Same { first, lacking, .. }) = self.same.get(key) {
            let staged = self.entry(first).copied();
            match staged.filter(|s| s.state != State::Held) {
                Some(_) if lacking > 0 => {
                    let mut token = first;
                    while let Some(staged) = self.entry(token).copied() {
                        if staged.state == State::Lacks {
                            self.set(token, State::New(Source::Held));
                        }
                        token = staged.next;
                    }
                    return;
                }
                Some(_) => return,
                None => match staged.map_or(0, |s| s.next) {
                    0 => {
                        self.same.remove(key);
                    }
                    next => {
                        if let Some(same) = self.same.get_mut(key) {
                            same.first = next;
                        }
                    }
                },
            }
        }
    }

    /// Forgets what came. Blocks that the store was not told of go to `dropped`, where there is room
    /// for them.
    pub(super) fn clear(&mut self, dropped: &mut KVec<u64>) {
        for staged in self.epochs.iter().flat_map(|e| e.entries.iter()) {
            if let State::New(Source::Data(handle)) = staged.state {
                let _ = dropped.push_within_capacity(handle);
            }
        }
        self.epochs.clear();
        self.same.clear(0);
        self.keeps.clear();
        (self.sums, self.own) = (None, None);
        (self.changes, self.volumes) = (0, None);
        (self.fresh, self.lacking, self.needed) = (0, 0, 0);
    }

    /// What a compare that has not ended has built.
    pub(super) fn take_built(&mut self) -> Option<Built> {
        let epoch = self.epochs.get_mut(0)?;
        if mutant!(402) {
            if let Some(last) = epoch.entries.last().map(|staged| staged.entry) {
                epoch.reach(&last);
            }
        }
        let What::Compare(target) = &mut epoch.what else {
            return None;
        };
        let built = Built {
            position: target.history.position(),
            volumes: core::mem::take(&mut target.volumes),
            reached: target.reached,
        };
        (built.reached != Reached::NOTHING).then_some(built)
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
        hash: Hash,
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
            self.open(number, *token + 1, What::Epoch)?;
        }
        let limit = self.limits.epoch as usize;
        let Some(epoch) = self.epochs.last_mut() else {
            return Ok(None);
        };
        let fits = resync || epoch.entries.len() + entries.len() <= limit;
        let fresh = entries.iter().filter(|e| e.fresh);
        // A frame has as many blocks as fresh entries.
        let is_meant = fresh.zip(blocks).all(|(e, b)| is_content(e, b));
        // A change of volumes is alone in its epoch.
        let changes = entries.iter().any(|e| e.op.changes_volumes());
        let is_epoch = matches!(epoch.what, What::Epoch);
        let is_alone = epoch.count() == 0 && entries.len() == 1 && is_epoch;
        let is_apart = !epoch.changes && (!changes || is_alone);
        let keeps = entries.iter().any(|e| e.op == Op::Keep);
        let is_diff = epoch.compare().is_some_and(|c| c.since.is_some());
        if epoch.number != number
            || epoch.count() != first
            || epoch.compare().is_some() != resync
            || !fits
            || !is_apart
            || (keeps && !is_diff)
            || !(is_meant || mutant!(142))
            || epoch.count() > u32::MAX / 4
        {
            return Ok(None);
        }
        epoch.entries.reserve(entries.len())?;
        self.same.reserve(self.same.len() + entries.len())?;
        if let Some(epoch) = self.epochs.last_mut().filter(|_| changes) {
            epoch.changes = true;
            self.changes += usize::from(epoch.changes_volumes());
        }
        let mut handle = first_block;
        for entry in entries {
            let source = if entry.fresh {
                handle += 1;
                Source::Data(handle - 1)
            } else {
                Source::Held
            };
            *token += 1;
            if let Some(epoch) = self.epochs.last_mut() {
                epoch.lacking += 1;
                let _ = epoch.entries.push(Staged {
                    entry: *entry,
                    state: State::New(source),
                    next: 0,
                });
            }
            self.fresh += 1;
            self.stage_from = self.stage_from.min(*token);
            if let Some(key) = key_of(entry) {
                self.link(*token, key);
            }
            self.chain = chain_entry(self.chain, entry, hash);
        }
        Ok(Some(()))
    }

    /// Takes ranges of a compare that the primary asks for, or (`keep`) that this store said it holds;
    /// `None` if no primary sends these here.
    fn take_ranges(
        &mut self,
        (compare, first, keep): (u64, u32, bool),
        ranges: KVec<Range>,
        token: &mut u64,
    ) -> Result<Option<()>> {
        let is_open = self.is_open();
        let Some(epoch) = self
            .epochs
            .last()
            .filter(|e| is_open && e.compare().is_some())
        else {
            return Ok(None);
        };
        if !keep {
            if self.sums.is_some() {
                return Ok(None);
            }
            self.sums = Some(Sums {
                compare,
                first,
                ranges,
                done: 0,
                bits: 0,
            });
            return Ok(Some(()));
        }
        let blocks: u64 = ranges.iter().map(|range| u64::from(range.blocks)).sum();
        self.used += blocks;
        let fits = self.used <= self.told && epoch.count() == first;
        if !fits || u64::from(first) + blocks > u64::from(u32::MAX / 4) {
            return Ok(None);
        }
        self.keeps.reserve(ranges.len())?;
        self.same.reserve(self.same.len() + blocks as usize)?;
        if let Some(epoch) = self.epochs.last_mut() {
            epoch.entries.reserve(blocks as usize)?;
            epoch.lacking += blocks as usize;
            for _ in 0..blocks {
                let _ = epoch.entries.push(Staged {
                    entry: Entry::default(),
                    state: State::Own,
                    next: 0,
                });
            }
        }
        for range in ranges {
            let keep = Keep {
                token: *token + 1,
                range,
            };
            *token += u64::from(range.blocks);
            if range.blocks > 0 {
                let _ = self.keeps.push(keep);
            }
        }
        Ok(Some(()))
    }

    /// Asks the store for the blocks of the next range.
    fn poll_own(&mut self, token: u64) -> Option<Action> {
        if self.own.is_some() {
            return None;
        }
        let sums = self.sums.as_ref();
        let next = || sums.and_then(|sums| sums.ranges.get(sums.done)).copied();
        let range = self.keeps.first().map(|keep| keep.range).or_else(next)?;
        self.own = Some(token);
        Some(Action::Own {
            token,
            volume: range.volume,
            first: range.first,
            end: range.end,
            max: range.blocks,
        })
    }

    /// Takes the blocks of a range that the store was asked for; `None` if it does not hold what it
    /// said it does.
    fn owned(&mut self, token: u64, entries: Option<&[Entry]>, hash: Hash) -> Option<()> {
        if self.own != Some(token) {
            return Some(());
        }
        self.own = None;
        let nonce = self.nonce;
        let is_equal = |range: &Range| match entries {
            Some(entries) if mutant!(150) => entries.len() == range.blocks as usize,
            Some(entries) => range.is_of(entries, nonce, hash),
            None => false,
        };
        let Some(Keep { token, range }) = self.keeps.pop_front() else {
            let sums = self.sums.as_mut()?;
            let equal = sums.ranges.get(sums.done).is_some_and(is_equal);
            sums.bits |= u64::from(equal) << sums.done;
            sums.done += 1;
            return Some(());
        };
        if !is_equal(&range) {
            return None;
        }
        for (token, entry) in (token..).zip(entries.unwrap_or(&[])) {
            if let Some(staged) = self.entry_mut(token) {
                staged.entry = *entry;
            }
            if let Some(key) = key_of(entry) {
                self.link(token, key);
            }
            self.set(token, State::New(Source::Held));
        }
        Some(())
    }

    /// Takes that epochs follow as one; `None` if they are not the next ones.
    fn take_merge(&mut self, from: &Position, to: Position, token: u64) -> Result<Option<()>> {
        let many = self.epochs.len() > self.limits.entries as usize;
        if self.is_open() || self.last != *from || many {
            return Ok(None);
        }
        mark!(replication_merged_begins);
        self.open(to.epoch, token + 1, What::Merged(to))?;
        Ok(Some(()))
    }

    /// Takes the end of an epoch; `None` if it does not fit what came.
    fn take_seal(
        &mut self,
        position: Position,
        count: u32,
        resync: bool,
        token: u64,
        hash: Hash,
    ) -> Result<Option<()>> {
        if !self.is_open() {
            // Only a reign begins with an empty epoch.
            if resync || self.epochs.len() > self.limits.entries as usize {
                return Ok(None);
            }
            self.open(self.last.epoch + 1, token + 1, What::Epoch)?;
        }
        let last = self.last;
        let follows = position.epoch == last.epoch.wrapping_add(1)
            && (position.term > last.term || position.is_of_reign(&last));
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
        let (fits, end) = match &epoch.what {
            What::Epoch => (follows && chain == position.chain, position),
            // The chain of the epochs themselves can't be known from a part of their entries.
            What::Merged(to) => (chain == position.chain && to.is_of_reign(&position), *to),
            What::Compare(target) => (target.history.position() == position, position),
        };
        if epoch.count() != count
            || epoch.compare().is_some() != resync
            || epoch.number != position.epoch
            || !fits
        {
            mark!(replication_seal_refused);
            return Ok(None);
        }
        epoch.position = Some(end);
        self.last = end;
        self.chain = end.chain;
        Ok(Some(()))
    }

    /// An entry that the primary was asked for, with its token.
    fn needed_entry(&self, epoch: (u64, bool), index: u32) -> Option<(u64, &Staged)> {
        let token = self.token_of(epoch, index)?;
        let staged = self.entry(token)?;
        (staged.state == State::Needed).then_some((token, staged))
    }

    /// Takes what was asked for; what is not wanted any more goes to `dropped`, where there is room
    /// for it. `None`: some of it is something else, and nothing is taken.
    fn take_blocks(
        &mut self,
        epoch: (u64, bool),
        indexes: &[u32],
        (first_block, blocks): (u64, &[BlockContent]),
        dropped: &mut KVec<u64>,
    ) -> Option<()> {
        for (index, block) in indexes.iter().zip(blocks) {
            let needed = self.needed_entry(epoch, *index);
            let is_meant = needed.is_none_or(|(_, staged)| is_content(&staged.entry, block));
            if !is_meant && !mutant!(143) {
                mark!(replication_block_of_another_content);
                return None;
            }
        }
        for (index, handle) in indexes.iter().zip(first_block..) {
            match self.needed_entry(epoch, *index).map(|(token, _)| token) {
                Some(token) => self.set(token, State::New(Source::Data(handle))),
                None => {
                    let _ = dropped.push_within_capacity(handle);
                }
            }
        }
        Some(())
    }

    /// Whether an entry says what is to be kept.
    pub(super) fn is_kept(&self, token: u64) -> bool {
        self.entry(token).is_some_and(|s| s.entry.op == Op::Keep)
    }

    pub(super) fn staged(&mut self, token: u64, result: StageResult) {
        let Some(staged) = self.entry(token).filter(|s| s.state == State::Asked) else {
            return;
        };
        if result == StageResult::Lacks {
            mark!(replication_lacks);
            return self.set(token, State::Lacks);
        }
        let key = key_of(&staged.entry);
        self.set(token, State::Held);
        let place = self.place(token);
        if let Some(epoch) = place.and_then(|(epoch, _)| self.epochs.get_mut(epoch)) {
            epoch.lacking -= 1;
        }
        if let Some(key) = key {
            self.unlink_held(key);
        }
        // A full compare keeps nothing that is staged.
        let Some(epoch) = place.and_then(|(epoch, _)| self.epochs.get_mut(epoch)) else {
            return;
        };
        let is_held = |s: &Staged| s.state == State::Held;
        while epoch.compare().is_some() && epoch.entries.first().is_some_and(is_held) {
            if let Some(staged) = epoch.entries.pop_front() {
                epoch.reach(&staged.entry);
            }
            epoch.base += 1;
            self.granted += 1;
        }
    }

    /// What is to be staged next. `settled`: nothing is being applied.
    fn poll_stage(&mut self, settled: bool) -> Option<Action> {
        if self.fresh == 0 {
            return None;
        }
        let is_new = |_, s: &Staged| matches!(s.state, State::New(_));
        let (token, staged) = self.find(self.stage_from, is_new)?;
        let (entry, state) = (staged.entry, staged.state);
        let (at, _) = self.place(token)?;
        // Its volume may be there, or have that size, only when those before it were applied.
        let before = || self.epochs.iter().take(at);
        if self.changes > 0 && before().any(StagedEpoch::changes_volumes) {
            mark!(replication_stage_waits_for_volumes);
            return None;
        }
        if entry.op == Op::Keep && !settled {
            return None;
        }
        let resync = self.epochs.get(at)?.compare().is_some();
        let State::New(source) = state else {
            return None;
        };
        self.set(token, State::Asked);
        self.stage_from = token + 1;
        Some(Action::Stage {
            token,
            entry,
            source,
            resync,
        })
    }

    /// The oldest epoch, if it is whole; the store gets what comes out.
    fn take_whole(&mut self, now: u64) -> Result<Option<(Action, Applying)>> {
        let Some(epoch) = self.epochs.first() else {
            return Ok(None);
        };
        let Some(position) = epoch.position else {
            return Ok(None);
        };
        if epoch.lacking > 0 && !mutant!(134) {
            return Ok(None);
        }
        if let Some(Target { history, .. }) = epoch.compare() {
            let (told, kept) = (history.try_clone()?, history.try_clone()?);
            let action = Action::Switch {
                position,
                history: told,
                token: epoch.token,
                count: epoch.count(),
            };
            self.pop_epoch();
            return Ok(Some((action, Applying::Switch(kept))));
        }
        let action = Action::Apply {
            position,
            token: epoch.token,
            count: epoch.count(),
        };
        let applying = if let What::Merged(_) = epoch.what {
            Applying::Merged {
                end: position,
                entries: epoch.count(),
            }
        } else {
            let mut entries = KVVec::with_capacity(epoch.entries.len(), GFP_KERNEL)?;
            for staged in epoch.entries.iter() {
                let _ = entries.push_within_capacity(staged.entry);
            }
            Applying::Epoch(Epoch::new(epoch.number, entries, Some(position), now))
        };
        self.pop_epoch();
        Ok(Some((action, applying)))
    }

    /// The store has the oldest epoch.
    fn pop_epoch(&mut self) {
        let epoch = self.epochs.pop_front();
        self.changes -= usize::from(epoch.is_some_and(|e| e.changes_volumes()));
    }

    /// Whether the primary is to be asked for an entry's content.
    fn is_to_ask(&self, token: u64, staged: &Staged) -> bool {
        let first = |key| self.same.get(key).is_none_or(|same| same.first == token);
        staged.state == State::Lacks && key_of(&staged.entry).is_none_or(first)
    }

    /// What the primary is to be told, but for acknowledgements. It answers at most `needs` at once.
    pub(super) fn poll_frame(&mut self, needs: u32) -> Result<Option<Frame>> {
        let quarter = u64::from(self.limits.entries / 4);
        let low = self.told.saturating_sub(self.used) <= quarter;
        if self.granted > self.told && (low || self.granted - self.told >= quarter) {
            return Ok(Some(Frame::Credit(self.granted)));
        }
        if let Some(reached) = self.reached {
            let resync = self.resyncs;
            return Ok(Some(Frame::Reached { resync, reached }));
        }
        if let Some(sums) = self.sums.as_ref().filter(|s| s.done == s.ranges.len()) {
            return Ok(Some(Frame::Equal {
                compare: sums.compare,
                first: sums.first,
                count: sums.ranges.len() as u32,
                bits: sums.bits,
            }));
        }
        let limit = needs.min(self.limits.needs) as usize;
        let quota = limit.saturating_sub(self.needed).min(BATCH_MAX);
        // One by one they would cost more than they say.
        let few = self.needed > 0 && quota < limit / 4;
        if quota == 0 || few || self.lacking == 0 {
            return Ok(None);
        }
        let is_to_ask = |token, staged: &Staged| self.is_to_ask(token, staged);
        let Some((first, _)) = self.find(self.ask_from, is_to_ask) else {
            self.ask_from = u64::MAX;
            return Ok(None);
        };
        let Some(epoch) = self.place(first).and_then(|(e, _)| self.epochs.get(e)) else {
            return Ok(None);
        };
        let mut needs: KVec<Need> = KVec::with_capacity(quota, GFP_KERNEL)?;
        let tokens = first..epoch.token + u64::from(epoch.count());
        let entries = tokens.filter_map(|token| Some((token, self.entry(token)?)));
        for (token, staged) in entries
            .filter(|(token, staged)| self.is_to_ask(*token, staged))
            .take(quota)
        {
            let _ = needs.push_within_capacity(Need {
                index: (token - epoch.token) as u32,
                volume: staged.entry.volume,
                lbn: staged.entry.lbn,
                digest: staged.entry.digest,
            });
        }
        let frame = Frame::Need {
            epoch: epoch.number,
            resync: epoch.compare().is_some(),
            needs,
        };
        mark!(replication_need);
        self.ask_from = first;
        Ok(Some(frame))
    }

    /// A frame of [`Receiver::poll_frame`] was sent.
    pub(super) fn was_sent(&mut self, frame: &Frame) {
        match frame {
            Frame::Credit(total) => self.told = *total,
            Frame::Reached { .. } => self.reached = None,
            Frame::Equal { .. } => self.sums = None,
            Frame::Need {
                epoch,
                resync,
                needs,
            } => {
                for need in needs {
                    if let Some(token) = self.token_of((*epoch, *resync), need.index) {
                        self.set(token, State::Needed);
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
        if self.is_of_verify(&frame) {
            return Ok(self.take_verify(frame).map(|()| false));
        }
        if !matches!(frame, Frame::Resync { .. }) {
            self.forget_built();
        }
        let (hash, term) = (self.params.hash, self.record.config.term);
        let member = self.record.config.member(&self.params.store);
        let is_async = member.is_some_and(|m| m.state == MemberState::Async);
        let may_merge = self.params.merges && is_async;
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
            Frame::Ranges {
                compare,
                first,
                keep,
                ranges,
            } => {
                let token = &mut self.stage_token;
                let taken = receiver.take_ranges((compare, first, keep), ranges, token)?;
                taken.map(|()| false)
            }
            Frame::Merge { from, to } => {
                // Who FLUSHes may wait for gets each epoch as it is.
                if !may_merge || to.term > term {
                    return Ok(None);
                }
                let token = self.stage_token;
                let taken = receiver.take_merge(&from, to, token)?;
                taken.map(|()| false)
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
                resync,
                indexes,
            } => {
                let (epoch, data) = ((epoch, resync), (first_block, blocks));
                let taken = receiver.take_blocks(epoch, &indexes, data, &mut self.dropped);
                taken.map(|()| true)
            }
            Frame::Lost {
                epoch,
                resync,
                indexes,
            } => {
                mark!(replication_lost);
                for index in indexes {
                    if let Some((token, _)) = receiver.needed_entry((epoch, resync), index) {
                        receiver.set(token, State::New(Source::Lost));
                    }
                }
                Some(false)
            }
            Frame::Resync {
                position,
                history,
                volumes,
                since,
            } => {
                // A state that we are already past is never gone back to.
                let back = contains(&history) && position.epoch < own.epoch;
                if back || position.term > term {
                    return Ok(None);
                }
                let nonce = receiver.nonce;
                let links = self.peers.iter().filter_map(|p| p.link.as_ref());
                let hello = links
                    .filter(|l| l.nonce == nonce)
                    .find_map(|l| l.hello.as_ref());
                let resumes = self.params.parks > 0 && hello.is_some_and(|h| h.resumes);
                let mut target = Target {
                    history,
                    since,
                    volumes: copy(&volumes)?,
                    reached: Reached::NOTHING,
                };
                let end = self.applying.last().and_then(Applying::end);
                if !target.may_keep(&end.unwrap_or(own)) {
                    // This store was farther than the primary knew. It will hear of that.
                    mark!(replication_diff_of_another_history);
                    self.drop_session(nonce);
                    return Ok(Some(false));
                }
                mark!(replication_compare_begins);
                let built = receiver.take_built().or(self.built.take());
                let built = built.filter(|b| resumes && b.is_of(&position, &volumes));
                let goes_on = built.is_some();
                target.reached = built.map_or(Reached::NOTHING, |b| b.reached);
                let gone: usize = receiver.epochs.iter().map(|e| e.entries.len()).sum();
                receiver.granted += gone as u64;
                receiver.clear(&mut self.dropped);
                self.void = true;
                receiver.last = position;
                receiver.resyncs += 1;
                receiver.reached = resumes.then_some(target.reached);
                let what = What::Compare(target);
                receiver.open(position.epoch, self.stage_token + 1, what)?;
                match goes_on {
                    true => {
                        mark!(replication_compare_goes_on);
                    }
                    false => receiver.volumes = Some(volumes),
                }
                Some(false)
            }
            _ => None,
        })
    }

    /// The end of an [`Action::Own`]; `None` if the store can't say.
    pub fn owned(&mut self, token: u64, entries: Option<&[Entry]>) {
        let hash = self.params.hash;
        let Some(receiver) = self.receiver.as_mut() else {
            return;
        };
        if receiver.owned(token, entries, hash).is_none() {
            mark!(replication_kept_is_gone);
            let nonce = receiver.nonce;
            self.drop_session(nonce);
        }
    }

    pub(super) fn poll_receiver(&mut self) -> Option<Action> {
        let receiver = self.receiver.as_mut()?;
        if let Some(volumes) = receiver.volumes.take() {
            return Some(Action::Compare { volumes });
        }
        if !self.applying.iter().any(Applying::changes_volumes) {
            if let Some(action) = receiver.poll_stage(self.applying.is_empty()) {
                return Some(action);
            }
        }
        // From then on until the compare ends nothing changes what this store holds.
        if self.applying.is_empty() {
            if let Some(action) = receiver.poll_own(self.token + 1) {
                self.token += 1;
                return Some(action);
            }
        }
        if self.applying.len() >= APPLYING_MAX {
            return None;
        }
        let next = receiver.epochs.first().map_or(0, |epoch| epoch.number);
        if self.holds_epoch(next) {
            mark!(replication_epoch_is_held);
            return None;
        }
        let receiver = self.receiver.as_mut()?;
        self.applying.reserve(1, GFP_KERNEL).ok()?;
        self.window.reserve(APPLYING_MAX + 1).ok()?;
        let (action, applying) = receiver.take_whole(self.now).ok()??;
        let _ = self.applying.push_within_capacity(applying);
        Some(action)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::types::{Check, Name, NAME_BYTES};
    use super::super::types::Id;
    use super::super::wire::tests::sum;
    use super::*;
    extern crate std;
    use std::collections::{BTreeSet, VecDeque};
    use std::vec::Vec as List;

    const NONCE: u64 = 77;
    const VOLUME: Id = [3; 16];

    fn entry(lbn: u64, content: u64) -> Entry {
        Entry {
            op: Op::Write,
            fresh: false,
            volume: VOLUME,
            lbn,
            count: 1,
            check: content,
            digest: [content as u8; NAME_BYTES],
        }
    }

    fn target(history: History, since: Option<u64>) -> Target {
        Target {
            history,
            since,
            volumes: KVec::new(),
            reached: Reached::NOTHING,
        }
    }

    /// A receiver in a full compare, and a store that holds some contents.
    struct Compare {
        receiver: Receiver,
        state: u64,
        token: u64,
        lbn: u64,
        held: BTreeSet<u64>,
        own: VecDeque<(u64, List<Entry>)>,
        kept: VecDeque<List<Entry>>,
        asked: List<(u64, Entry, Source)>,
        needed: List<Need>,
    }

    impl Compare {
        fn new(seed: u64) -> Self {
            let limits = Limits {
                entries: 64,
                epoch: 16,
                needs: 9,
            };
            let params = Params {
                store: [1; 16],
                incarnation: 1,
                hash: sum,
                limits,
                window: 64,
                keepalive: 1,
                timeout: 1,
                unpacks: false,
                merges: true,
                parks: 1,
            };
            let mut receiver = Receiver::new(NONCE, 1, Position::ZERO, &params).unwrap();
            let target = target(History::new().unwrap(), None);
            receiver.open(1, 1, What::Compare(target)).unwrap();
            Compare {
                receiver,
                state: seed,
                token: 0,
                lbn: 0,
                held: BTreeSet::new(),
                own: VecDeque::new(),
                kept: VecDeque::new(),
                asked: List::new(),
                needed: List::new(),
            }
        }

        fn draw(&mut self, n: u64) -> u64 {
            self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(1);
            (self.state >> 33) % n
        }

        fn entries(&mut self) -> List<Entry> {
            let count = 1 + self.draw(6);
            let entries = (0..count).map(|_| {
                self.lbn += 1;
                let content = 1 + self.draw(3) * self.draw(4);
                entry(self.lbn, content)
            });
            entries.collect()
        }

        /// Something that the primary, the store or the socket does, if it is their turn.
        fn step(&mut self, more: bool) {
            let first = self.receiver.epochs.last().unwrap().count();
            let room = self.receiver.told - self.receiver.used >= 6;
            match self.draw(7) {
                0 if more && room => {
                    let entries = self.entries();
                    let at = (1, first, true);
                    let taken =
                        self.receiver
                            .take_entries(at, &entries, (0, &[]), &mut self.token, sum);
                    assert_eq!(taken, Ok(Some(())));
                }
                1 if more && room => {
                    let entries = self.entries();
                    self.held.extend(entries.iter().map(|e| e.check));
                    let range = (entries[0].lbn, self.lbn + 1);
                    let mut ranges = KVec::new();
                    let range = Range::of(VOLUME, range, &entries, NONCE, sum);
                    ranges.push(range, GFP_KERNEL).unwrap();
                    let at = (9, first, true);
                    let taken = self.receiver.take_ranges(at, ranges, &mut self.token);
                    assert_eq!(taken, Ok(Some(())));
                    self.kept.push_back(entries);
                }
                2 => {
                    let token = 1000 + self.token;
                    if let Some(Action::Own { token, .. }) = self.receiver.poll_own(token) {
                        let entries = self.kept.pop_front().unwrap();
                        self.own.push_back((token, entries));
                    }
                }
                3 => {
                    if let Some((token, entries)) = self.own.pop_front() {
                        let taken = self.receiver.owned(token, Some(&entries), sum);
                        assert_eq!(taken, Some(()));
                    }
                }
                4 => {
                    if let Some(Action::Stage {
                        token,
                        entry,
                        source,
                        ..
                    }) = self.receiver.poll_stage(true)
                    {
                        self.asked.push((token, entry, source));
                    }
                }
                5 if !self.asked.is_empty() => {
                    let at = self.draw(self.asked.len() as u64) as usize;
                    let (token, entry, source) = self.asked.remove(at);
                    if source != Source::Held {
                        self.held.insert(entry.check);
                    }
                    // What is held is not always found.
                    let found = source != Source::Held || self.draw(3) > 0;
                    let result = match found && self.held.contains(&entry.check) {
                        true => StageResult::Held,
                        false => StageResult::Lacks,
                    };
                    self.receiver.staged(token, result);
                }
                _ => self.talk(),
            }
        }

        fn talk(&mut self) {
            if let Some(frame) = self.receiver.poll_frame(9).unwrap() {
                self.receiver.was_sent(&frame);
                if let Frame::Need { needs, .. } = frame {
                    for need in &needs {
                        let twice = self.needed.iter().any(|n| n.digest == need.digest);
                        assert!(!twice, "content {} is asked for twice", need.digest[0]);
                        self.needed.push(*need);
                    }
                    assert!(self.needed.len() <= 9);
                }
            } else if !self.needed.is_empty() {
                let (mut indexes, mut blocks) = (List::new(), List::new());
                for _ in 0..1 + self.draw(self.needed.len() as u64) {
                    let at = self.draw(self.needed.len() as u64) as usize;
                    let need = self.needed.remove(at);
                    indexes.push(need.index);
                    blocks.push(BlockContent {
                        name: Name(need.digest),
                        check: Check(u64::from(need.digest[0])),
                        zero: false,
                    });
                }
                let mut dropped = KVec::new();
                let data = (5, &blocks[..]);
                let taken = self
                    .receiver
                    .take_blocks((1, true), &indexes, data, &mut dropped);
                assert_eq!((taken, dropped.len()), (Some(()), 0));
            }
        }
    }

    #[test]
    fn only_who_is_between_both_ends_of_a_diff_may_keep_what_did_not_change() {
        let at = |epoch| Position {
            term: 1,
            reign: [1; 16],
            epoch,
            chain: epoch,
        };
        let mut history = History::new().unwrap();
        (1..=9).for_each(|epoch| history.append(at(epoch)));
        let mut target = target(history, Some(4));
        assert!([4, 5, 9].iter().all(|end| target.may_keep(&at(*end))));
        // Too old; not told of by this history; farther than it; nothing at all.
        let other = Position {
            reign: [2; 16],
            ..at(6)
        };
        for end in [at(3), other, at(10), Position::ZERO] {
            assert!(!target.may_keep(&end), "{end:?}");
        }
        target.since = None;
        assert!(target.may_keep(&at(10)) && target.may_keep(&other));
    }

    #[test]
    fn merged_epochs_lead_from_where_all_ends_to_the_end_that_was_told() {
        let at = |epoch| Position {
            term: 1,
            reign: [1; 16],
            epoch,
            chain: 1000 + epoch,
        };
        let entries = [entry(1, 7), entry(2, 8)];
        let told = entries
            .iter()
            .fold(at(3).chain, |c, e| chain_entry(c, e, sum));
        let seal = |chain| Position {
            chain: chain_seal(chain, 1, &[1; 16], 9, sum),
            ..at(9)
        };
        let elsewhere = Position { chain: 1, ..at(3) };
        for (from, end, good) in [
            (at(3), seal(told), true),
            // From elsewhere; with another entry than was told; with the chain that is the history's.
            (at(2), seal(told), false),
            (elsewhere, seal(told), false),
            (at(3), seal(told + 1), false),
            (at(3), at(9), false),
        ] {
            let mut receiver = Compare::new(1).receiver;
            receiver.clear(&mut KVec::new());
            (receiver.last, receiver.chain) = (at(3), at(3).chain);
            let mut token = 0;
            let begun = receiver.take_merge(&from, at(9), token).unwrap();
            let taken = begun.is_some().then(|| {
                let frame = (9, 0, false);
                let data = (0, &[][..]);
                let taken = receiver.take_entries(frame, &entries, data, &mut token, sum);
                assert_eq!(taken, Ok(Some(())));
                receiver.take_seal(end, 2, false, token, sum).unwrap()
            });
            assert_eq!(taken.flatten().is_some(), good, "{from:?} {end:?}");
            if good {
                assert_eq!(receiver.sealed_end(), Some(at(9)));
                assert_eq!(receiver.token_of((9, false), 1), Some(2));
            }
        }
    }

    #[test]
    fn what_is_built_ends_before_the_first_entry_that_is_not_held() {
        for (held, reached) in [(&[][..], 0), (&[2, 3], 0), (&[1], 11), (&[1, 2, 4], 12)] {
            let mut receiver = Compare::new(1).receiver;
            let entries = [entry(10, 1), entry(11, 2), entry(20, 3), entry(21, 4)];
            let at = (1, 0, true);
            let taken = receiver.take_entries(at, &entries, (0, &[]), &mut 0, sum);
            assert_eq!(taken, Ok(Some(())));
            while receiver.poll_stage(true).is_some() {}
            for token in held {
                receiver.staged(*token, StageResult::Held);
            }
            let built = receiver.take_built().map(|built| built.reached);
            let (volume, lbn) = (VOLUME, reached);
            let entries = held.iter().filter(|token| **token <= 2).count() as u64;
            let reached = Reached {
                volume,
                lbn,
                entries,
            };
            assert_eq!(built, (lbn > 0).then_some(reached), "{held:?}");
        }
    }

    #[test]
    fn ranges_are_kept_in_a_diff_only() {
        for (since, compares) in [(Some(1), true), (None, true), (None, false)] {
            let mut compare = Compare::new(1);
            let receiver = &mut compare.receiver;
            receiver.clear(&mut KVec::new());
            let history = History::new().unwrap();
            let what = match compares {
                true => What::Compare(target(history, since)),
                false => What::Epoch,
            };
            receiver.open(1, 1, what).unwrap();
            let kept = Entry {
                op: Op::Keep,
                volume: VOLUME,
                count: 1 << 20,
                ..Entry::default()
            };
            let at = (1, 0, compares);
            let taken = receiver.take_entries(at, &[kept], (0, &[]), &mut 0, sum);
            assert_eq!(taken, Ok(since.map(|_| ())));
            if since.is_some() {
                // Nothing is kept of a state that is still to change.
                assert!(receiver.poll_stage(false).is_none());
                let action = receiver.poll_stage(true);
                assert!(matches!(action, Some(Action::Stage { token: 1, .. })));
                assert!(receiver.is_kept(1));
            }
        }
    }

    #[test]
    fn each_content_is_asked_for_once_and_all_entries_get_theirs() {
        for seed in 1..200 {
            let mut compare = Compare::new(seed);
            for step in 0..4000 {
                compare.step(step < 2000);
            }
            let receiver = &compare.receiver;
            let epoch = receiver.epochs.first().unwrap();
            assert_eq!((epoch.lacking, epoch.entries.len()), (0, 0), "seed {seed}");
            let left = (receiver.fresh, receiver.lacking, receiver.needed);
            assert_eq!((left, receiver.same.len()), ((0, 0, 0), 0), "seed {seed}");
        }
    }
}
