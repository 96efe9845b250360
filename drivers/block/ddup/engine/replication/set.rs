// SPDX-License-Identifier: GPL-2.0

//! [`Set`]: one store's part in a replica set.
//!
//! There is one for each set that an attached store belongs to. The shell calls its inputs one at a
//! time, and then carries out what [`Set::poll_action`] and [`Set::poll_send`] yield until they
//! yield nothing. Both look at the state and keep no queue: nothing is lost when memory is short,
//! it is only done at a later poll, and a peer whose socket is full holds nobody back but itself.

use super::super::mark::mark;
use super::super::mutant::mutant;
use super::super::types::CLUSTER_SIZE;
use super::action::{Action, Event, Params, Reply, StageResult};
use super::change::{Change, Stage, Transition};
use super::config::{Config, MemberState, Refusal};
use super::epoch::{chain_entry, chain_seal, Epoch, Window};
use super::heal::Asks;
use super::history::History;
use super::lease::Leases;
use super::link::{Joining, Peer};
use super::receiver::{Applying, Receiver};
use super::record::{Found, Record};
use super::resume::Built;
use super::types::{Entry, Id, Position, MEMBERS_MAX};
use super::verified::Verified;
use super::verify::{Verify, VerifyReport};
use kernel::prelude::*;

/// Events that wait to be told; older ones are dropped, which their numbers show.
const EVENTS_MAX: usize = 64;
/// Epochs that are kept at most.
pub const WINDOW_EPOCHS_MAX: usize = 1024;

/// A FLUSH that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flush {
    pub(super) tag: u64,
    pub(super) epoch: u64,
}

/// What only a primary has.
#[derive(Debug)]
pub(super) struct Rule {
    /// The reign's first epoch, which is empty.
    pub(super) first: u64,
    /// Chain behind the last entry.
    pub(super) chain: u64,
    /// The last epoch that was sealed, durable here or not yet.
    pub(super) sealed: Position,
    /// Epochs up to here were given to the store.
    pub(super) asked: u64,
    /// The whole in-sync set has acknowledged the first epoch.
    pub(super) reconciled: bool,
    pub(super) flushes: KVec<Flush>,
    /// The command that wants this reign to end, and the epoch that it waits for.
    pub(super) demotion: Option<(u64, u64)>,
    /// It was told that FLUSHes wait.
    pub(super) suspended: bool,
}

/// One store's part in a replica set.
#[derive(Debug)]
pub struct Set {
    pub(super) params: Params,
    /// Durable, and in force.
    pub(super) record: Record,
    pub(super) generation: u64,
    /// Which copy of each slot is to be written first.
    pub(super) first: [usize; 2],
    /// Durable.
    pub(super) history: History,
    pub(super) rule: Option<Rule>,
    pub(super) transition: Option<Transition>,
    pub(super) window: Window,
    /// Epochs up to here were in it when it began, right behind the attach.
    pub(super) recovered: u64,
    pub(super) applying: KVec<Applying>,
    pub(super) receiver: Option<Receiver>,
    pub(super) peers: KVec<Peer>,
    events: KVec<(u64, Event)>,
    event_count: u64,
    pub(super) replies: KVec<(u64, Reply)>,
    /// What is staged and not being applied is to be let go of.
    pub(super) void: bool,
    /// What a compare has built whose session has ended.
    pub(super) built: Option<Built>,
    /// What a compare has built is to be let go of.
    pub(super) unbuilds: bool,
    /// Blocks that came and will not be staged.
    pub(super) dropped: KVec<u64>,
    /// Epochs up to here need no pins, and up to there the store was told.
    pub(super) release: (u64, u64),
    /// Scans that the store was asked for.
    pub(super) scans: KVec<u64>,
    /// Blocks that the store was asked to read and that were not sent, and where those lie that it
    /// has read.
    pub(super) fetched: KVec<(u64, Option<u64>)>,
    /// Blocks that peers are asked for, or ask for.
    pub(super) asks: Asks,
    /// The verify of a peer that goes on, and what the last one of this reign has found.
    pub(super) verify: Option<KBox<Verify>>,
    pub(super) verify_report: Option<KBox<VerifyReport>>,
    /// The primary verifies this replica.
    pub(super) verified: Option<Verified>,
    pub(super) token: u64,
    /// Token of the last entry that was staged.
    pub(super) stage_token: u64,
    pub(super) now: u64,
    /// A full compare rests so many times as long as it worked.
    pub(super) tranquility: u64,
    /// Blocks go packed to peers that take them so.
    pub(super) packs: bool,
    pub(super) leases: Leases,
    /// A person said that this store's own history may go.
    pub(super) discard: bool,
    /// What a diff keeps could not be kept: this store wants to be compared in full.
    pub(super) wants_all: bool,
    /// Sessions that ended because of what came in them.
    pub(super) refused: u64,
    pub(super) failed: bool,
}

/// What [`Set::state`] tells of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerState {
    /// The store.
    pub store: Id,
    /// A session is there in which this store's entries flow to it.
    pub connected: bool,
    /// A session is there in which its entries flow to this store.
    pub followed: bool,
    /// The last epoch that it acknowledged in this session.
    pub acked: u64,
    /// FLUSHes wait for it though it is not in sync yet.
    pub joining: bool,
    /// It may be committed as in sync by the next configuration.
    pub joinable: Option<Position>,
    /// What it has not acknowledged, if it is connected.
    pub lag: Option<Lag>,
    /// Blocks that hold data of which it was told in this session, with their data or without.
    pub told: u64,
    /// Epochs that were merged with others for it in this session, and so not sent alone.
    pub merged: u64,
    /// The compare under way.
    pub compare: Option<Compared>,
}

/// What a peer has not acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lag {
    /// Entries in memory. What a full compare is to tell is not among them.
    pub entries: u64,
    /// Bytes of the blocks that those write.
    pub bytes: u64,
    /// Time since the end of the oldest epoch in memory that it lacks, in milliseconds.
    pub ms: u64,
}

/// How far a compare is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compared {
    /// Of a diff: only what was changed behind this epoch is told. Else it is a full compare.
    pub since: Option<u64>,
    /// Of a full compare: mapped blocks of which it is known what the peer has. Of a diff: blocks that
    /// were passed, mapped or not. Those that an earlier session brought are among them.
    pub blocks: u64,
    /// How many those are.
    pub resumed: u64,
    /// All that there are in the state that it is of, once there is one. Of a full compare some may
    /// have been discarded before and be told no more.
    pub of_blocks: Option<u64>,
    /// Time since it began, in milliseconds.
    pub ms: u64,
}

/// Everything that an authority asks for (clause 15).
#[derive(Debug)]
pub struct State<'a> {
    /// The configuration in force.
    pub config: &'a Config,
    /// The promised term.
    pub promise: u64,
    /// The durable position.
    pub position: Position,
    /// The newest position that the in-sync set has, if this store rules.
    pub committed: Position,
    /// This store rules.
    pub reigns: bool,
    /// It takes requests.
    pub serves: bool,
    /// FLUSHes that wait.
    pub flushes: usize,
    /// Entries in memory.
    pub entries: usize,
    /// A promise or configuration is being made durable.
    pub busy: bool,
    /// Its own history is kept until a person resolves it.
    pub keep: bool,
    /// Epochs and states that the store was asked to apply and has not.
    pub applying: usize,
    /// Sessions that ended because of what came in them.
    pub refused: u64,
}

impl Set {
    /// A store's part after an attach: always that of a replica (clause 5). Exempt is the only
    /// member of a set, which begins a reign with the id and reign of `fresh`.
    pub fn attach(
        params: Params,
        found: Found,
        history: History,
        fresh: [Id; 2],
    ) -> Result<KBox<Self>> {
        let Found {
            generation,
            record,
            first,
        } = found;
        let term = record.promise.max(record.config.term) + 1;
        let alone = record.config.is_sole(&params.store) && term < u64::MAX / 2;
        let set = try_init!(Set {
            params,
            generation,
            first,
            history,
            rule: None,
            transition: None,
            window: Window::default(),
            recovered: 0,
            applying: KVec::new(),
            receiver: None,
            peers: KVec::with_capacity(2 * MEMBERS_MAX, GFP_KERNEL)?,
            events: KVec::with_capacity(EVENTS_MAX, GFP_KERNEL)?,
            event_count: 0,
            replies: KVec::new(),
            void: false,
            built: None,
            unbuilds: false,
            dropped: KVec::new(),
            release: (0, 0),
            scans: KVec::new(),
            fetched: KVec::new(),
            asks: Asks::new(),
            verify: None,
            verify_report: None,
            verified: None,
            token: 0,
            stage_token: 0,
            now: 0,
            tranquility: 0,
            packs: false,
            leases: Leases::default(),
            discard: false,
            wants_all: false,
            refused: 0,
            failed: false,
            record,
        });
        let mut set = KBox::try_init(set, GFP_KERNEL)?;
        set.release = (set.history.position().epoch, 0);
        set.window.reserve(4)?;
        set.reset_peers();
        // What is durable in one copy only is made so in both before anybody hears of it.
        let change = if alone {
            mark!(replication_alone);
            let mut config = set.record.config.try_clone()?;
            config.version += 1;
            config.term = term;
            [config.id, config.reign] = fresh;
            config.push_ancestor(set.record.config.id)?;
            Change::Adopt {
                config: KBox::new(config, GFP_KERNEL)?,
                keep: false,
            }
        } else {
            Change::Restate
        };
        set.transition = Some(Transition::new(change, None));
        if mutant!(113) && set.record.config.primary == set.params.store {
            let config = set.record.config.try_clone()?;
            set.begin_reign(&config)?;
        }
        Ok(set)
    }

    /// Lets the window begin with epochs that the store has kept, and pins, right behind an attach. False
    /// if it begins empty: they do not end where the history does, or there is no memory.
    pub fn begin_window(&mut self, mut kept: Window) -> bool {
        let end = kept.last().and_then(|epoch| epoch.position);
        let (Some(first), Some(end)) = (kept.first(), end) else {
            return false;
        };
        if end != self.history.position() || !self.window.is_empty() || kept.reserve(4).is_err() {
            return false;
        }
        if !mutant!(342) {
            self.release.0 = first.saturating_sub(1);
        }
        self.recovered = end.epoch;
        self.window = kept;
        self.trim();
        true
    }

    // Inputs: commands of the authority. Each is answered by `Action::Reply` with its number.

    /// Clause 6: take no lower term than `term` any more, and say where the history ends.
    pub fn fence(&mut self, command: u64, term: u64) -> Result {
        self.replies.reserve(1, GFP_KERNEL)?;
        if self.transition.is_some() {
            self.reply(command, Reply::Refused(Refusal::Busy));
        } else if term <= self.record.promise && !mutant!(103) || term >= u64::MAX / 2 {
            self.reply(command, Reply::Refused(Refusal::Term));
        } else {
            self.begin(Change::Fence { term }, Some(command))?;
        }
        Ok(())
    }

    /// Clause 7: the next configuration, if `expect` is the version in force.
    pub fn set_config(&mut self, command: u64, expect: u64, config: Config) -> Result {
        self.replies.reserve(1, GFP_KERNEL)?;
        if let Some(answer) = self.config_answer(expect, &config)? {
            self.reply(command, answer);
            return Ok(());
        }
        let keep = self.keeps(&config);
        let config = KBox::new(config, GFP_KERNEL)?;
        self.begin(Change::Adopt { config, keep }, Some(command))
    }

    fn config_answer(&self, expect: u64, new: &Config) -> Result<Option<Reply>> {
        let old = &self.record.config;
        let refused = |why| Ok(Some(Reply::Refused(why)));
        if self.failed {
            return refused(Refusal::Failed);
        }
        if self.transition.is_some() {
            return refused(Refusal::Busy);
        }
        if !new.is_sound() {
            return refused(Refusal::NotMember);
        }
        if new.version == old.version {
            let same = new.bytes()?[..] == old.bytes()?[..] || mutant!(112);
            return Ok(Some(if same {
                Reply::Done
            } else {
                Reply::Refused(Refusal::Conflict)
            }));
        }
        if expect != old.version && !mutant!(106) {
            return refused(Refusal::Conflict);
        }
        Ok(self
            .refusal(new, new.forced & 1 != 0, true)
            .map(Reply::Refused))
    }

    /// Clause 8: FLUSHes wait for an asynchronous peer too, from now on.
    pub fn join(&mut self, command: u64, peer: &Id) -> Result {
        self.replies.reserve(1, GFP_KERNEL)?;
        let is_async = |m: &super::config::Member| m.state == MemberState::Async;
        let at = self.peers.iter().position(|p| p.store == *peer);
        let known = self.record.config.member(peer).is_some_and(is_async);
        let answer = match at {
            _ if !self.is_ruling() => Reply::Refused(Refusal::NotPrimary),
            Some(at) if known && self.is_streaming(at) => {
                self.seal_open()?;
                let epoch = self.rule.as_ref().map_or(0, |r| r.sealed.epoch);
                if let Some(peer) = self.peers.get_mut(at) {
                    if peer.joining.is_none() {
                        peer.joining = Some(Joining {
                            epoch,
                            joinable: None,
                        });
                    }
                }
                Reply::Done
            }
            _ => Reply::Refused(Refusal::NoPeer),
        };
        self.reply(command, answer);
        Ok(())
    }

    /// Clause 13: stop taking requests, hand everything over, and stop being primary. Answered when
    /// that is done, or when [`Set::flush_fail`] ends it.
    pub fn demote(&mut self, command: u64) -> Result {
        self.replies.reserve(1, GFP_KERNEL)?;
        let busy = self.rule.as_ref().is_some_and(|r| r.demotion.is_some());
        if !self.is_ruling() || busy {
            let why = if busy {
                Refusal::Busy
            } else {
                Refusal::NotPrimary
            };
            self.reply(command, Reply::Refused(why));
            return Ok(());
        }
        self.seal_open()?;
        if let Some(rule) = self.rule.as_mut() {
            rule.demotion = Some((command, rule.sealed.epoch));
        }
        Ok(())
    }

    /// Clause 13: FLUSHes that wait fail, and so does a demotion.
    pub fn flush_fail(&mut self, command: u64) -> Result {
        self.replies.reserve(2, GFP_KERNEL)?;
        let demotion = self.rule.as_mut().and_then(|rule| {
            for flush in &mut rule.flushes {
                flush.epoch = u64::MAX;
            }
            rule.demotion.take()
        });
        if let Some((command, _)) = demotion {
            self.reply(command, Reply::Refused(Refusal::Failed));
        }
        self.reply(command, Reply::Done);
        Ok(())
    }

    /// Clause 13: this store's own epochs may be given up for those of a primary that it is not
    /// related to, or that lacks what may have been acknowledged.
    pub fn resolve(&mut self, command: u64) -> Result {
        self.replies.reserve(1, GFP_KERNEL)?;
        if self.transition.is_some() {
            self.reply(command, Reply::Refused(Refusal::Busy));
            return Ok(());
        }
        if self.record.keep {
            self.begin(Change::Keep(false), Some(command))?;
        } else {
            self.reply(command, Reply::Done);
            self.look_again();
        }
        self.discard = true;
        Ok(())
    }

    // Inputs: requests of the volumes.

    /// Whether this store takes requests, now or as soon as there is room: it rules, its reign is
    /// reconciled, and nothing is about to end it.
    pub fn leads(&self) -> bool {
        let ends = |t: &Transition| self.ends_term(&t.change);
        self.is_ruling()
            && !self.transition.as_ref().is_some_and(ends)
            && self
                .rule
                .as_ref()
                .is_some_and(|r| r.reconciled && r.demotion.is_none())
    }

    /// An entry of an epoch that is in memory.
    pub fn entry(&self, epoch: u64, index: u32) -> Option<&Entry> {
        self.window.entry(epoch, index)
    }

    /// Whether a write may come now: this store rules, the reign is reconciled, its lease is not over,
    /// nothing is being changed, and there is room.
    pub fn serves(&self) -> bool {
        let takes = |r: &Rule| (r.reconciled || mutant!(130)) && r.demotion.is_none();
        self.is_ruling()
            && self.transition.is_none()
            && self.rule.as_ref().is_some_and(takes)
            && !self.lease_is_over()
            && self.window.entries() < self.params.window as usize
    }

    /// Takes a change of blocks. Answers its epoch and index, `EAGAIN` if none may come now.
    pub fn write(&mut self, entry: Entry) -> Result<(u64, u32)> {
        if !self.serves() || !entry.is_sound() || !entry.op.changes_blocks() {
            return Err(EAGAIN);
        }
        self.make_room(1)?;
        self.seal_if_full();
        self.record(entry).ok_or(EAGAIN)
    }

    /// Takes a change of volumes: it is alone in its epoch, which is sealed, and so is what came
    /// before. Answers the end of its epoch, `EAGAIN` if none may come now. Before its epoch is
    /// durable the store takes no change that comes behind it.
    pub fn change(&mut self, entry: Entry) -> Result<Position> {
        if !self.serves() || !entry.is_sound() || !entry.op.changes_volumes() {
            return Err(EAGAIN);
        }
        self.window.reserve(2)?;
        self.make_room(1)?;
        if !mutant!(151) {
            self.seal_now();
        }
        self.record(entry).ok_or(EAGAIN)?;
        self.seal_now();
        mark!(replication_volumes_change);
        self.rule.as_ref().map(|r| r.sealed).ok_or(EAGAIN)
    }

    /// Makes room for `count` entries in all that are on their way to [`Set::record`].
    pub fn make_room(&mut self, count: usize) -> Result {
        let limit = self.epoch_limit();
        self.window.reserve_entries(limit.max(count), limit)
    }

    /// Seals the open epoch if it takes no more entries and there is room for another. Answers how
    /// many it takes, not 0. It becomes larger than a peer with a lower limit takes only if that
    /// came while entries were on their way; the peer is compared in full then.
    pub fn seal_if_full(&mut self) -> usize {
        let (len, limit) = (self.open_len(), self.epoch_limit());
        if len < limit {
            return limit - len;
        }
        if self.window.has_spare() {
            mark!(replication_epoch_full);
            self.seal_now();
        }
        limit
    }

    pub(super) fn open_len(&self) -> usize {
        let open = self.window.last().filter(|e| e.position.is_none());
        open.map_or(0, |e| e.entries.len())
    }

    /// Takes a change of a volume, for which there is room, and answers its epoch and index. `None`
    /// if the reign ends or has ended: it is no part of the history.
    pub fn record(&mut self, entry: Entry) -> Option<(u64, u32)> {
        let ends = |t: &Transition| self.ends_term(&t.change);
        if !self.is_ruling() || self.transition.as_ref().is_some_and(ends) {
            return None;
        }
        let rule = self.rule.as_mut().filter(|r| r.demotion.is_none())?;
        let index = self.window.add(entry).ok()?;
        rule.chain = chain_entry(rule.chain, &entry, self.params.hash);
        Some((self.window.last().map_or(0, |e| e.number), index))
    }

    /// The newest epoch in memory, which entries that were recorded last are in.
    pub fn newest_epoch(&self) -> u64 {
        self.window.last().map_or(0, |e| e.number)
    }

    /// The next epoch of this reign whose end is to be made durable, after all of its entries and
    /// before any other: [`Set::poll_action`] asks for what was not fetched here.
    pub fn next_seal(&mut self) -> Option<Position> {
        let rule = self.rule.as_mut()?;
        if rule.asked >= rule.sealed.epoch {
            return None;
        }
        let position = self.window.get(rule.asked + 1)?.position?;
        rule.asked += 1;
        Some(position)
    }

    /// The store failed for good: FLUSHes that wait fail.
    pub fn store_failed(&mut self) {
        self.fail();
        self.end_flushes();
    }

    fn end_flushes(&mut self) {
        if let Some(rule) = self.rule.as_mut() {
            for flush in &mut rule.flushes {
                flush.epoch = u64::MAX;
            }
        }
    }

    /// The store is to be detached: sessions end, FLUSHes that wait fail.
    pub fn shut(&mut self) {
        self.drop_all_sessions();
        (0..self.peers.len()).for_each(|at| self.unpark(at));
        self.end_flushes();
    }

    /// Takes a FLUSH, which covers every write before it. `EROFS` if this store does not rule.
    pub fn flush(&mut self, tag: u64) -> Result {
        let Some(rule) = self.rule.as_mut() else {
            return Err(EROFS);
        };
        rule.flushes.reserve(1, GFP_KERNEL)?;
        self.seal_open()?;
        if let Some(rule) = self.rule.as_mut() {
            let epoch = rule.sealed.epoch;
            let _ = rule.flushes.push_within_capacity(Flush { tag, epoch });
        }
        Ok(())
    }

    /// FLUSHes that wait.
    pub fn flushes(&self) -> usize {
        self.rule.as_ref().map_or(0, |r| r.flushes.len())
    }

    /// Says how late it is, and that a full compare is to rest so many times as long as it worked,
    /// since requests are served; 0: it is in nobody's way.
    pub fn pace(&mut self, now: u64, tranquility: u64) {
        self.clock(now);
        self.tranquility = tranquility;
    }

    /// Says whether blocks are to be packed for peers that take them so.
    pub fn pack(&mut self, packs: bool) {
        self.packs = packs;
    }

    /// Says how late it is.
    pub fn clock(&mut self, now: u64) {
        self.now = self.now.max(now);
    }

    /// Seals the open epoch, if it is old enough for the shell's taste and not empty.
    pub fn seal(&mut self) -> Result {
        if self.rule.is_some() {
            self.seal_open()?;
        }
        Ok(())
    }

    // Inputs: ends of actions.

    /// The end of [`Action::Persist`]. If it failed nobody knows what a later attach will find:
    /// the set stands still until then.
    pub fn persisted(&mut self, token: u64, ok: bool) {
        if !ok {
            self.fail();
            return;
        }
        if let Some(transition) = self.transition.as_mut() {
            if transition.stage == Stage::Persisting(token) {
                transition.stage = Stage::Durable;
            }
        }
    }

    /// The end of the oldest [`Action::Seal`].
    pub fn sealed(&mut self, ok: bool) {
        let next = self.history.position().epoch + 1;
        let position = self.window.get(next).and_then(|e| e.position);
        match position {
            Some(position) if ok && self.history.is_next(&position) => {
                self.history.append(position);
                self.trim();
            }
            _ => self.fail(),
        }
    }

    /// The end of an [`Action::Stage`].
    pub fn staged(&mut self, token: u64, result: StageResult) {
        if result == StageResult::Failed {
            mark!(replication_stage_failed);
            self.event(Event::StoreFailed);
            if let Some(nonce) = self.receiver.as_ref().map(|r| r.nonce) {
                self.drop_session(nonce);
            }
            self.forget_built();
        } else if let Some(receiver) = self.receiver.as_mut() {
            if result == StageResult::Lacks && receiver.is_kept(token) {
                mark!(replication_diff_given_up);
                self.wants_all = true;
                let nonce = receiver.nonce;
                return self.drop_session(nonce);
            }
            receiver.staged(token, result);
        }
    }

    /// The end of the oldest [`Action::Apply`] or [`Action::Switch`].
    pub fn applied(&mut self, ok: bool) {
        if !ok {
            self.fail();
            return;
        }
        let Ok(applying) = self.applying.remove(0) else {
            return;
        };
        match applying {
            Applying::Epoch(epoch) => {
                if let Some(position) = epoch.position {
                    self.history.append(position);
                }
                let count = epoch.entries.len() as u64;
                self.window.push(epoch);
                if let Some(receiver) = self.receiver.as_mut() {
                    receiver.granted += count;
                }
            }
            Applying::Merged { end, entries } => {
                self.history.append(end);
                self.forget_window();
                if let Some(receiver) = self.receiver.as_mut() {
                    receiver.granted += u64::from(entries);
                }
            }
            Applying::Switch(history) => {
                self.history = history;
                self.wants_all = false;
                self.forget_window();
            }
        }
        self.ack_due();
        self.trim();
    }

    /// What leads to where this replica is now is no sequence of epochs.
    fn forget_window(&mut self) {
        self.window.clear();
        self.release.0 = self.history.position().epoch;
    }

    /// The store failed for good: nothing is taken, sent or acknowledged any more.
    fn fail(&mut self) {
        mark!(replication_failed);
        if !self.failed {
            self.failed = true;
            self.event(Event::StoreFailed);
        }
        self.drop_all_sessions();
    }

    // What the parts share.

    pub(super) fn next_token(&mut self) -> u64 {
        self.token += 1;
        self.token
    }

    pub(super) fn event(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX {
            let _ = self.events.remove(0);
        }
        self.event_count += 1;
        let _ = self.events.push_within_capacity((self.event_count, event));
    }

    /// Answers a command; there is room since it came.
    pub(super) fn reply(&mut self, command: u64, reply: Reply) {
        let _ = self.replies.push((command, reply), GFP_KERNEL);
    }

    /// A higher term is promised than the configuration's: nothing is done in this one any more.
    pub(super) fn is_fenced(&self) -> bool {
        self.record.promise > self.record.config.term
    }

    /// This store is primary in its configuration's term and not fenced.
    pub(super) fn is_ruling(&self) -> bool {
        self.is_primary() && !self.failed && (!self.is_fenced() || mutant!(128))
    }

    /// Forgets epochs: from half of the window on those that nobody who is there needs, and when it
    /// is full also those that only asynchronous peers need.
    pub(super) fn trim(&mut self) {
        let (soft, hard) = (self.params.window as usize / 2, self.params.window as usize);
        while self.window.entries() > soft || self.window.len() > WINDOW_EPOCHS_MAX {
            let Some(first) = self.window.first() else {
                break;
            };
            let durable = first <= self.history.position().epoch;
            let open = self.window.last().is_some_and(|e| e.number == first);
            let full = self.window.entries() >= hard || self.window.len() > WINDOW_EPOCHS_MAX;
            if !durable || open || self.is_awaited(first) || (self.is_needed(first) && !full) {
                break;
            }
            self.window.pop_front();
            self.release.0 = self.release.0.max(first);
            self.fall_behind(first);
        }
        if let Some(first) = self.window.first() {
            self.release.0 = self.release.0.max(first - 1);
        }
        if mutant!(132) {
            self.release.0 = self.history.position().epoch;
        }
    }

    /// Whether a connected peer that FLUSHes wait for has still to acknowledge this epoch.
    fn is_awaited(&self, epoch: u64) -> bool {
        (0..self.peers.len())
            .any(|at| self.must_ack(at) && self.is_streaming(at) && self.acked(at) < epoch)
    }

    /// Entries of the largest epoch that all members can take.
    pub fn epoch_limit(&self) -> usize {
        let mut limit = self.params.limits.epoch;
        for peer in &self.peers {
            if let Some(hello) = peer.link.as_ref().and_then(|l| l.hello.as_ref()) {
                limit = limit.min(hello.limits.epoch);
            }
        }
        limit as usize
    }

    /// Seals the open epoch if it has entries.
    pub(super) fn seal_open(&mut self) -> Result {
        self.window.reserve(1)?;
        self.seal_now();
        Ok(())
    }

    /// The same; there is room for one more epoch.
    fn seal_now(&mut self) {
        let Some(open) = self.window.last().filter(|e| e.position.is_none()) else {
            return;
        };
        let (number, empty) = (open.number, open.entries.is_empty());
        let config = &self.record.config;
        if let (Some(rule), false) = (self.rule.as_mut(), empty) {
            let hash = self.params.hash;
            rule.chain = chain_seal(rule.chain, config.term, &config.reign, number, hash);
            rule.sealed = Position {
                term: config.term,
                reign: config.reign,
                epoch: number,
                chain: rule.chain,
            };
            self.window.seal(rule.sealed, self.now);
            self.window.open(number + 1);
        }
    }

    /// Begins the reign of `config`, in which this store is primary, with an empty epoch.
    pub(super) fn begin_reign(&mut self, config: &Config) -> Result {
        let mut flushes = KVec::new();
        self.window.reserve(2)?;
        if let Some(rule) = self.rule.as_mut() {
            core::mem::swap(&mut flushes, &mut rule.flushes);
        }
        let last = self.history.position();
        let number = last.epoch + 1;
        let hash = self.params.hash;
        let chain = chain_seal(last.chain, config.term, &config.reign, number, hash);
        let sealed = Position {
            term: config.term,
            reign: config.reign,
            epoch: number,
            chain,
        };
        self.forget_built();
        self.window.drop_open();
        let first = Epoch::new(number, KVVec::new(), Some(sealed), self.now);
        self.window.push(first);
        self.window.open(number + 1);
        self.rule = Some(Rule {
            first: number,
            chain,
            sealed,
            asked: last.epoch,
            reconciled: false,
            flushes,
            demotion: None,
            suspended: false,
        });
        Ok(())
    }

    /// Ends the reign: FLUSHes that wait fail (clause 13).
    pub(super) fn end_reign(&mut self) {
        if let Some(rule) = self.rule.as_mut() {
            for flush in &mut rule.flushes {
                flush.epoch = u64::MAX;
            }
        }
        self.end_lease();
        self.window.drop_open();
        for peer in &mut self.peers {
            peer.joining = None;
            if let Some(link) = peer.link.as_mut() {
                link.sender = None;
            }
        }
    }

    /// The newest epoch that is durable here and acknowledged by all that FLUSHes wait for.
    pub(super) fn committed(&self) -> u64 {
        let sealed = self.rule.as_ref().map_or(0, |r| r.sealed.epoch);
        let mut committed = self.history.position().epoch;
        if mutant!(125) {
            committed = sealed;
        }
        for at in 0..self.peers.len() {
            if self.must_ack(at) {
                committed = committed.min(self.acked(at));
            }
        }
        committed.min(sealed)
    }

    /// The end of an epoch, if it is the newest durable one or in memory.
    fn position_of(&self, epoch: u64) -> Option<Position> {
        let last = Some(self.history.position()).filter(|p| p.epoch == epoch);
        last.or_else(|| self.window.get(epoch).and_then(|e| e.position))
    }

    /// Whether FLUSHes may complete at all.
    fn may_complete(&self) -> bool {
        let enough = self.record.config.in_sync_count() >= self.record.config.min_insync as usize;
        self.is_ruling() && self.transition.is_none() && (enough || mutant!(127))
    }

    // Outputs.

    /// Looks what follows from the HELLOs that came, which [`Set::poll_action`] does too: for a shell
    /// that can't carry out what was polled last. `ENOMEM`: what is due stays due.
    pub fn look(&mut self) -> Result {
        match self.transition.is_none() && !self.failed {
            true => self.evaluate_all(),
            false => Ok(()),
        }
    }

    /// Whether [`Action::Void`] is the next thing to do: what was asked to be staged is void.
    pub fn voids(&self) -> bool {
        self.void
    }

    /// What is to be done next.
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.look().is_err() {
            return None;
        }
        self.watch();
        self.watch_verify();
        self.watch_parked();
        if !self.replies.is_empty() {
            if let Ok((command, reply)) = self.replies.remove(0) {
                return Some(Action::Reply { command, reply });
            }
        }
        if let Some(action) = self.poll_closing() {
            return Some(action);
        }
        if self.void {
            self.void = false;
            return Some(Action::Void);
        }
        if core::mem::take(&mut self.unbuilds) {
            return Some(Action::Unbuild);
        }
        if let Some(handle) = self.dropped.pop() {
            return Some(Action::StageDrop(handle));
        }
        if let Some(action) = self.poll_answer() {
            return Some(action);
        }
        if self.failed {
            return self.poll_flush();
        }
        if let Some(action) = self.poll_seal() {
            return Some(action);
        }
        if let Some(action) = self.poll_transition() {
            return Some(action);
        }
        if let Some(action) = self.poll_receiver() {
            return Some(action);
        }
        if let Some(action) = self.poll_flush() {
            return Some(action);
        }
        if self.release.0 > self.release.1 {
            self.release.1 = self.release.0;
            return Some(Action::Release(self.release.0));
        }
        self.poll_serves()
            .or_else(|| self.poll_verify())
            .or_else(|| self.poll_senders())
    }

    fn poll_seal(&mut self) -> Option<Action> {
        self.next_seal().map(Action::Seal)
    }

    fn poll_flush(&mut self) -> Option<Action> {
        let may = self.may_complete() && !self.lease_is_over();
        let committed = self.committed();
        let ended = !self.is_primary();
        let rule = self.rule.as_mut()?;
        let fails = |f: &Flush| f.epoch == u64::MAX;
        let done = |f: &Flush| (may && f.epoch <= committed) || fails(f);
        if let Some(at) = rule.flushes.iter().position(done) {
            let flush = rule.flushes.remove(at).ok()?;
            return Some(Action::Flushed {
                tag: flush.tag,
                ok: !fails(&flush) || mutant!(131),
            });
        }
        if ended && rule.flushes.is_empty() {
            self.rule = None;
        }
        None
    }

    /// Whether this store began the reign of the configuration in force, and it has not ended.
    pub(super) fn is_primary(&self) -> bool {
        let config = &self.record.config;
        let mine = |r: &Rule| r.sealed.reign == config.reign && r.first > 0;
        config.primary == self.params.store && self.rule.as_ref().is_some_and(mine)
    }

    /// Notices what has become true: reconciled, joinable, suspended, demoted.
    fn watch(&mut self) {
        if self.transition.is_some() || !self.is_ruling() {
            return;
        }
        self.watch_lease();
        let (committed, may) = (self.committed(), self.may_complete());
        let over = self.lease_is_over();
        let away = (0..self.peers.len()).any(|at| self.must_ack(at) && !self.is_streaming(at));
        let position = self.position_of(committed);
        let mut events = [None; 3];
        let mut demoted = None;
        if let Some(rule) = self.rule.as_mut() {
            if !rule.reconciled && committed >= rule.first && may {
                mark!(replication_reconciled);
                rule.reconciled = true;
                events[0] = Some(Event::Reconciled);
            }
            let waits = !rule.flushes.is_empty() && (away || !may || over);
            if waits != rule.suspended {
                mark!(replication_suspended);
                rule.suspended = waits;
                events[1] = Some(if waits {
                    Event::FlushSuspended
                } else {
                    Event::FlushResumed
                });
            }
            match rule.demotion {
                Some((command, epoch))
                    if (may && committed >= epoch && rule.flushes.is_empty()) || mutant!(133) =>
                {
                    mark!(replication_demoted);
                    demoted = Some(command);
                }
                _ => {}
            }
        }
        for at in 0..self.peers.len() {
            let acked = self.acked(at);
            if let Some(peer) = self.peers.get_mut(at) {
                let store = peer.store;
                if let Some(joining) = peer.joining.as_mut() {
                    let there = acked >= joining.epoch && committed >= joining.epoch;
                    let joinable = position.filter(|_| there || mutant!(114));
                    if let (None, Some(position)) = (joining.joinable, joinable) {
                        mark!(replication_joinable);
                        joining.joinable = Some(position);
                        events[2] = Some(Event::Joinable(store, position));
                    }
                }
            }
        }
        for event in events.into_iter().flatten() {
            self.event(event);
        }
        if let Some(command) = demoted {
            let position = self.history.position();
            self.end_reign();
            self.rule = None;
            self.reply(command, Reply::Demoted(position));
            self.restate_all();
        }
    }

    /// The next event that was not told, with its number.
    pub fn poll_event(&mut self) -> Option<(u64, Event)> {
        self.events.remove(0).ok()
    }

    // Getters.

    /// The positions that this store went through, durably.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Whether this store is the only member, which leads without anybody's command.
    pub fn is_sole(&self) -> bool {
        self.record.config.is_sole(&self.params.store)
    }

    /// What is so.
    pub fn state(&self) -> State<'_> {
        State {
            config: &self.record.config,
            promise: self.record.promise,
            position: self.history.position(),
            committed: self.position_of(self.committed()).unwrap_or(Position::ZERO),
            reigns: self.is_ruling(),
            serves: self.serves(),
            flushes: self.flushes(),
            entries: self.window.entries() + self.receiver.as_ref().map_or(0, |r| r.entries()),
            busy: self.transition.is_some(),
            keep: self.record.keep,
            applying: self.applying.len(),
            refused: self.refused,
        }
    }

    /// What is so with a peer.
    pub fn peer_state(&self, store: &Id) -> Option<PeerState> {
        let at = self.peers.iter().position(|p| p.store == *store)?;
        let peer = self.peers.get(at)?;
        let behind = || self.window.behind(self.acked(at));
        let oldest = behind().find_map(|e| e.position.map(|_| e.sealed_at));
        let lag = Lag {
            entries: behind().map(|e| e.entries.len() as u64).sum(),
            bytes: behind().map(|e| e.written * CLUSTER_SIZE as u64).sum(),
            ms: oldest.map_or(0, |sealed_at| self.now.saturating_sub(sealed_at)),
        };
        Some(PeerState {
            store: *store,
            connected: self.is_streaming(at),
            followed: self.is_following(at),
            acked: self.acked(at),
            joining: peer.joining.is_some(),
            joinable: peer.joining.as_ref().and_then(|j| j.joinable),
            lag: self.is_streaming(at).then_some(lag),
            told: self.link_at(at).map_or(0, |l| l.told),
            merged: self.link_at(at).map_or(0, |l| l.merged),
            compare: self.compared(at),
        })
    }

    /// When [`Set::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<u64> {
        let sessions = self.peers.iter().filter_map(|p| p.link.as_ref());
        let silent = sessions
            .map(|l| l.asked_at.max(l.heard_at) + self.params.keepalive)
            .min();
        let leased = self.lease_deadline();
        let streams = self.stream_deadline();
        let (asked, verified) = (self.ask_deadline(), self.verify_deadline());
        let parked = self.parked_deadline();
        [silent, asked, streams, leased, verified, parked]
            .into_iter()
            .flatten()
            .min()
    }
}
