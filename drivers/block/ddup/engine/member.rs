// SPDX-License-Identifier: GPL-2.0

//! [`Member`]: a store's membership in a replica set. A member store has one, others have none.
//!
//! The protocol is `replication/`, which knows no disk; here is what joins it to the store: entries
//! are recorded in the order of the journal, the end of an epoch is a record (*seal*) behind its
//! entries and before any other, and what is durable is told when the journal block is. `stage.rs`
//! has the replica's side, `resync.rs` frozen states and the switch.
//!
//! After a crash entries count only if their seal follows within the same incarnation. So a seal is
//! appended in the same breath in which the protocol seals, and a checkpoint's cut seals first.

use super::format::journal::{self as codec, Record, SEAL_RECORD_MAX};
use super::format::layout::Layout;
use super::format::superblock::Superblock;
use super::heal::Heals;
use super::keep::Keep;
use super::mark::mark;
use super::mutant::mutant;
use super::op::{BlockContent, BlockState, OpKind, Phase, WaitList};
use super::own::OwnRange;
use super::recover::FailReason;
use super::replication::action::{Action as SetAction, Block, Event, Params, Reply, Source};
use super::replication::config::Refusal;
use super::replication::history::History;
use super::replication::record::Found;
use super::replication::set::Set;
use super::replication::types::{Entry, Id, Limits, Op, Position};
use super::resync::Resync;
use super::ring::Ring;
use super::scan::Scans;
use super::show::lines;
use super::stage::{Staging, STAGE_TAGS};
use super::state::{IoToken, Store};
use super::types::{Check, Cluster, Lbn, Millis, Status, Tag};
use super::verify::Repairs;
use super::{Action, Buf, Config, Durability, SendBlock, Sending, SetCommand};
use core::fmt;
use core::ops::Range;
use kernel::prelude::*;

/// Entries of the largest epoch, on a store that is large enough.
const EPOCH_MAX: u64 = 512;
/// Blocks that a store asks a peer for at once, at most.
const NEEDS_MAX: u32 = 256;
/// Entries that are kept for peers which are behind.
pub(super) const WINDOW: u32 = 8192;
/// Entries that may be pinned: the window's, and what comes before it is trimmed.
const PINS_MAX: usize = 2 * (WINDOW + STAGE_TAGS) as usize;
/// A silent session is asked after this, and lost after that, in milliseconds.
const KEEPALIVE: Millis = 1000;
const TIMEOUT: Millis = 6000;
/// A compare goes on where it was if its peer is back within so long, in milliseconds.
const PARKS: Millis = 30_000;
/// Seals whose room in the journal is promised ahead; more once a request needed more.
const SEALS: usize = 16;
/// The most of them.
const SEALS_MAX: usize = ENDS_MAX / 2;
/// So many there have to be for a change of volumes: for the epoch before, for that one's end, and for
/// the checkpoint's cut.
pub(super) const SEAL_ROOM: usize = 3;
/// Ends of epochs that may be on their way to the disk.
const ENDS_MAX: usize = 256;
/// A store serves requests if one came, or ended, so lately, in milliseconds.
const BUSY: Millis = 100;
/// How often it is looked for more of a compare before others have a turn.
const ROUNDS_MAX: usize = 8;
/// Tries to write a configuration slot before the set stands still.
const PERSIST_TRIES: u32 = 3;

/// The end of an epoch, or of a compare, that is on its way to the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// Of the own reign: its seal is in this journal block.
    Sealed(u64),
    /// Of a primary's stream, in this journal block.
    Applied(u64),
    /// It is in a checkpoint, with the change of volumes that it is.
    Change {
        /// Of a primary's stream, and not of the own reign.
        applied: bool,
        /// That checkpoint is durable.
        durable: bool,
    },
}

/// A configuration slot that is being written.
struct Persist {
    token: u64,
    generation: u64,
    /// The copy that is with the device, and how many were written before it.
    copy: usize,
    written: usize,
    tries: u32,
}

/// Clusters that entries of the window refer to, oldest first.
///
/// # Invariants
///
/// Epochs do not descend. There is room for [`PINS_MAX`].
pub(super) struct Pins(Ring<(u64, Cluster)>);

impl Pins {
    fn new() -> Result<Self> {
        let mut ring = Ring::new();
        ring.reserve(PINS_MAX)?;
        Ok(Pins(ring))
    }

    /// Appends one; the oldest gives way and is answered if there is no room.
    pub(super) fn push(&mut self, epoch: u64, cluster: Cluster) -> Option<Cluster> {
        let full = self.0.len() == PINS_MAX;
        let gives_way = full.then(|| self.0.pop_front()).flatten();
        let _ = self.0.push((epoch, cluster));
        gives_way.map(|(_, cluster)| cluster)
    }

    /// The cluster of entry `index` of an epoch.
    fn find(&self, epoch: u64, index: u32) -> Option<Cluster> {
        let first = self.0.partition_point(|(e, _)| *e < epoch);
        let &(e, cluster) = self.0.get(first + index as usize)?;
        (e == epoch && cluster != Cluster::NONE).then_some(cluster)
    }
}

/// A store's part in its set, and what the store below owes it.
pub struct Member {
    set: KBox<Set>,
    /// Where the history ends for all that is in the journal, durable or not.
    pub(super) appended: History,
    /// Where it ends when the change of volumes that is under way is durable.
    pub(super) changing: Option<History>,
    ends: KVec<End>,
    /// What the set asked for and could not be done yet.
    stuck: Option<SetAction>,
    /// A command that waits until what was admitted has ended.
    quiescing: Option<(u64, SetCommand)>,
    persist: Option<Persist>,
    /// Reads that wait until the primary has a lease again.
    leased: WaitList,
    /// FLUSHes that the set has not heard of, for want of memory or of room for a seal.
    flushes: WaitList,
    /// Seals that there is room for in the journal, and how many there are to be.
    seals: usize,
    seals_wanted: usize,
    pub(super) pins: Pins,
    pub(super) staging: Staging,
    pub(super) heals: Heals,
    pub(super) repairs: Repairs,
    pub(super) resync: Resync,
    pub(super) scans: Scans,
    pub(super) own: Option<OwnRange>,
    pub(super) keeps: Ring<Keep>,
    /// There is more of a compare to look at than was done at once.
    more: bool,
    /// What the shell was told.
    told: bool,
}

impl Member {
    /// The membership that an attach found, with the history that its journal leads to, on a store
    /// of which an entry may have to rewrite so many pages and a checkpoint so many.
    pub(super) fn new(
        config: &Config,
        superblock: &Superblock,
        found: Found,
        history: History,
        (entry_pages, pages_max): (u64, u64),
    ) -> Result<KBox<Member>> {
        let params = Params {
            store: superblock.uuid,
            incarnation: superblock.incarnation,
            hash: config.hash,
            limits: limits(entry_pages, pages_max),
            window: WINDOW,
            keepalive: KEEPALIVE,
            timeout: TIMEOUT,
            unpacks: true,
            merges: true,
            parks: PARKS,
        };
        let appended = history.try_clone()?;
        // In its place: it is too large for the stack.
        KBox::try_init(
            try_init!(Member {
                set: Set::attach(params, found, history, config.fresh)?,
                appended,
                changing: None,
                ends: KVec::with_capacity(ENDS_MAX, GFP_KERNEL)?,
                stuck: None,
                quiescing: None,
                persist: None,
                leased: WaitList::new(),
                flushes: WaitList::new(),
                seals: 0,
                seals_wanted: SEALS,
                pins: Pins::new()?,
                staging: Staging::new(config.queue_depth)?,
                heals: Heals::new(config.queue_depth)?,
                repairs: Repairs::new(config.queue_depth),
                resync: Resync::new(),
                scans: Scans::new(),
                own: None,
                keeps: Ring::new(),
                more: false,
                told: false,
            }),
            GFP_KERNEL,
        )
    }

    /// The protocol's side.
    pub(super) fn set(&self) -> &Set {
        &self.set
    }

    /// The same, for ends of actions.
    pub(super) fn set_mut(&mut self) -> &mut Set {
        &mut self.set
    }

    /// Whether an end was asked for that is not durable.
    pub(super) fn has_ends(&self) -> bool {
        !self.ends.is_empty()
    }

    /// Seals that there is room for.
    pub(super) fn seals(&self) -> usize {
        self.seals
    }

    /// Whether volumes change as the history says: nothing of it is appended until that is durable.
    pub(super) fn is_changing(&self) -> bool {
        self.changing.is_some()
    }

    /// Notes what is on its way. There is room: a seal was promised, or the list was empty.
    pub(super) fn push_end(&mut self, end: End) {
        let _ = self.ends.push_within_capacity(end);
    }
}

impl Store {
    // Inputs.

    /// A command of the authority.
    pub(super) fn set_command(&mut self, number: u64, command: SetCommand) -> Result {
        let member = self.member.as_mut().ok_or(ENOENT)?;
        // What ends a reign waits until what was admitted has ended: it needs only this store.
        let ends = match &command {
            SetCommand::Fence { .. } | SetCommand::Demote => true,
            SetCommand::SetConfig { config, .. } => config.term > member.set.state().config.term,
            _ => false,
        };
        // FLUSHes that wait for others are not what is waited for.
        if member.quiescing.is_some() && !matches!(command, SetCommand::FlushFail) {
            let reply = Reply::Refused(Refusal::Busy);
            self.act(Action::SetReply {
                command: number,
                reply,
            });
            return Ok(());
        }
        if ends {
            member.quiescing = Some((number, command));
            self.quiesce();
            return Ok(());
        }
        self.give_command(number, command)
    }

    fn give_command(&mut self, number: u64, command: SetCommand) -> Result {
        let Some(member) = self.member.as_mut() else {
            return Ok(());
        };
        let set = &mut member.set;
        let fails = matches!(command, SetCommand::FlushFail);
        match command {
            SetCommand::Fence { term } => set.fence(number, term),
            SetCommand::SetConfig { expect, config } => {
                set.set_config(number, expect, KBox::into_inner(config))
            }
            SetCommand::Join { peer } => set.join(number, &peer),
            SetCommand::Demote => set.demote(number),
            SetCommand::FlushFail => set.flush_fail(number),
            SetCommand::Resolve => set.resolve(number),
            SetCommand::Lease { version, until } => set.lease(number, version, until),
            SetCommand::Verify { peer, repair } => set.verify(number, &peer, repair),
            SetCommand::VerifyStop => set.verify_stop(number),
        }?;
        if fails {
            self.fail_leased();
        }
        self.append_seals();
        self.journal.want(self.journal.last_sequence());
        Ok(())
    }

    /// Whether a command waits until requests have ended.
    pub(super) fn is_quiescing(&self) -> bool {
        self.member.as_ref().is_some_and(|m| m.quiescing.is_some())
    }

    /// Gives the command that waits to the set, if nothing of a request is on its way any more.
    fn quiesce(&mut self) {
        if self.reserved.entries > 0 {
            return;
        }
        let Some(member) = self.member.as_mut().filter(|m| m.seals > 0) else {
            return;
        };
        if let Some((number, command)) = member.quiescing.take() {
            if self.give_command(number, command).is_err() {
                let reply = Reply::Refused(Refusal::Memory);
                self.act(Action::SetReply {
                    command: number,
                    reply,
                });
            }
        }
    }

    /// There is a connection to a peer.
    pub(super) fn peer_connected(&mut self, peer: &Id, nonce: u64) -> Result {
        let now = self.now;
        let set = &mut self.member.as_mut().ok_or(ENOENT)?.set;
        set.tick(now);
        set.peer(peer, nonce).map_err(|refusal| match refusal {
            Refusal::NoPeer => ENOENT,
            _ => EIO,
        })
    }

    /// A connection is gone.
    pub(super) fn peer_lost(&mut self, peer: &Id, nonce: u64) {
        if let Some(member) = self.member.as_mut() {
            member.set.lost(peer, nonce);
        }
    }

    /// A frame came.
    pub(super) fn peer_received(
        &mut self,
        peer: &Id,
        nonce: u64,
        meta: &[u8],
        blocks: (u64, &[BlockContent]),
    ) -> Result<bool> {
        let member = self.member.as_mut().ok_or(ENOENT)?;
        member.set.received(peer, nonce, meta, blocks)
    }

    /// The next frame of a session.
    pub(super) fn poll_send(&mut self, peer: &Id, nonce: u64) -> Result<Option<Sending>> {
        let member = self.member.as_mut().ok_or(ENOENT)?;
        if member.set.session(peer) != Some(nonce) {
            return Err(EPIPE);
        }
        member.set.pack(self.config.knobs.compress_wire);
        let Some(outgoing) = member.set.poll_send(peer)? else {
            return Ok(None);
        };
        let mut blocks = KVec::with_capacity(outgoing.blocks.len(), GFP_KERNEL)?;
        for block in &outgoing.blocks {
            let block = match *block {
                Block::Fetched(token) => SendBlock::Fetched(token),
                Block::Pinned {
                    epoch,
                    index,
                    check,
                    ..
                } => {
                    let cluster = member.pins.find(epoch, index).ok_or(EIO)?;
                    SendBlock::Cluster(cluster, Check(check))
                }
            };
            let _ = blocks.push_within_capacity(block);
        }
        Ok(Some(Sending {
            meta: outgoing.meta,
            blocks,
        }))
    }

    /// A block was read for a peer, or there is no good copy.
    pub(super) fn fetched(&mut self, token: u64, ok: bool) {
        if self.look_read(token, ok) {
            return;
        }
        if let Some(member) = self.member.as_mut() {
            match ok {
                true => member.set.fetched(token, Some(token)),
                false => member.set.fetch_failed(token),
            }
        }
    }

    /// What happened to the set.
    pub(super) fn poll_set_event(&mut self) -> Option<(u64, Event)> {
        self.member.as_mut()?.set.poll_event()
    }

    // The primary's side.

    /// Whether requests to volumes are refused: the store is a member, and does not lead.
    pub(super) fn is_refusing(&self) -> bool {
        self.member.as_ref().is_some_and(|m| !m.set.leads())
    }

    /// Whether this primary must not serve now, for want of a lease.
    pub(super) fn lacks_lease(&mut self) -> bool {
        let now = self.now;
        self.member.as_mut().is_some_and(|member| {
            member.set.clock(now);
            member.set.lease_is_over()
        })
    }

    /// Lets a read wait for a lease; until then it is none that the recycler waits for.
    pub(super) fn await_lease(&mut self, tag: Tag) {
        mark!(member_read_waits_for_a_lease);
        let epoch = self.ops.get(tag).map_or(0, |op| op.epoch);
        if let Some(reads) = self.reads.get_mut(epoch) {
            *reads = reads.saturating_sub(1);
        }
        if let Some(member) = self.member.as_mut() {
            self.ops.park(&mut member.leased, tag);
        }
    }

    /// The next read that has waited for a lease, as if it had just come.
    fn next_leased(&mut self) -> Option<Tag> {
        let member = self.member.as_mut()?;
        let tag = self.ops.unpark(&mut member.leased)?;
        let epoch = self.read_epoch;
        if let (Some(op), Some(reads)) = (self.ops.get_mut(tag), self.reads.get_mut(epoch)) {
            op.epoch = epoch;
            *reads += 1;
        }
        Some(tag)
    }

    /// Whether requests wait for a lease.
    pub(super) fn has_leased(&self) -> bool {
        self.member.as_ref().is_some_and(|m| {
            let waits = !m.leased.is_empty() || !self.admission.is_empty();
            waits && m.set.lease_is_over()
        })
    }

    /// Reads that wait for a lease go on if there is one, or there is to be none.
    fn lease_step(&mut self) {
        if self.lacks_lease() {
            return;
        }
        while let Some(tag) = self.next_leased() {
            self.wake(tag);
        }
    }

    /// Lets all fail that waits for a lease.
    fn fail_leased(&mut self) {
        if self.lacks_lease() {
            self.fail_reads();
            let writes = core::mem::take(&mut self.admission);
            self.fail_requests(writes);
        }
    }

    fn fail_reads(&mut self) {
        while let Some(tag) = self.next_leased() {
            self.finish(tag, Status::Io);
        }
    }

    /// Whether `entries` more may be recorded.
    pub(super) fn admit_entries(&mut self, entries: usize) -> bool {
        let now = self.now;
        let holds = self.volumes_hold_requests();
        let Some(member) = self.member.as_mut() else {
            return true;
        };
        member.set.clock(now);
        let (total, limit) = (self.reserved.entries + entries, member.set.epoch_limit());
        // A request that is larger than an epoch goes alone, and ends as many as it fills.
        let fits = self.reserved.entries == 0 || total <= limit;
        let seals = (2 + total.div_ceil(limit.max(1))).min(SEALS_MAX);
        member.seals_wanted = member.seals_wanted.max(seals);
        if member.quiescing.is_some()
            || holds
            || !fits
            || member.seals < seals
            || !member.set.serves()
            || member.set.make_room(total).is_err()
        {
            mark!(member_admission_waits);
            return false;
        }
        true
    }

    /// Before blocks of a request are journaled, all of them mapped or none: records them as entries of
    /// the open epoch. False: the reign has ended, and they must not be journaled.
    pub(super) fn record_run(
        &mut self,
        tag: Tag,
        slot: usize,
        lbn: Lbn,
        blocks: Range<u32>,
    ) -> bool {
        let Some(volume) = self.volumes.get(slot).map(|v| v.uuid) else {
            return false;
        };
        for block in blocks.clone() {
            let Some(&b) = self.ops.block(tag, block) else {
                return false;
            };
            if b.cluster == Cluster::NONE {
                // So are all of them.
                let count = blocks.end - blocks.start;
                let entry = zeroes(volume, lbn, count.into());
                return self.record_entry(entry, Cluster::NONE);
            }
            let entry = Entry {
                op: Op::Write,
                fresh: b.state == BlockState::ReadyFresh,
                volume,
                lbn: lbn.0 + u64::from(block - blocks.start),
                count: 1,
                check: b.content.check.0,
                digest: b.content.name.0,
            };
            if !self.record_entry(entry, b.cluster) {
                if block > blocks.start {
                    // Promised memory was missing: a part is in the history and not in the journal.
                    self.fail(FailReason::Promise);
                }
                return false;
            }
        }
        true
    }

    /// The same for a range that reads as zeroes from here on.
    pub(super) fn record_zeroes(&mut self, slot: usize, lbn: Lbn, count: u64) -> bool {
        if self.member.is_none() {
            return true;
        }
        let Some(volume) = self.volumes.get(slot).map(|v| v.uuid) else {
            return false;
        };
        self.make_epoch_room();
        self.record_entry(zeroes(volume, lbn, count), Cluster::NONE)
    }

    /// Ends the open epoch if it is full. Answers how many blocks of a request may be recorded at
    /// once: entries of one record are of one epoch.
    pub(super) fn make_epoch_room(&mut self) -> usize {
        let Some(member) = self.member.as_mut().filter(|m| m.seals > 0) else {
            return usize::MAX;
        };
        let room = member.set.seal_if_full();
        self.append_seals();
        room
    }

    fn record_entry(&mut self, entry: Entry, cluster: Cluster) -> bool {
        let Some(member) = self.member.as_mut() else {
            return false;
        };
        let Some((epoch, _)) = member.set.record(entry) else {
            mark!(member_reign_ended_before_entry);
            return false;
        };
        self.pin_entry(epoch, cluster);
        true
    }

    /// Keeps a cluster for peers that may ask for it, until its epoch is released.
    pub(super) fn pin_entry(&mut self, epoch: u64, cluster: Cluster) {
        if cluster != Cluster::NONE && !mutant!(80) {
            // There is room: it was made with the promise.
            self.hold(cluster);
        }
        let gives_way = self
            .member
            .as_mut()
            .and_then(|m| m.pins.push(epoch, cluster));
        if let Some(cluster) = gives_way {
            self.unhold(cluster);
        }
    }

    /// Appends the seals of all epochs that the set has sealed: nothing may be appended between an
    /// epoch's last entry and its seal.
    pub(super) fn append_seals(&mut self) {
        while let Some(position) = self.member.as_mut().and_then(|m| m.set.next_seal()) {
            self.append_seal(position, false);
        }
    }

    /// Appends the end of an epoch, whose entries are all in the journal.
    pub(super) fn append_seal(&mut self, position: Position, applied: bool) {
        let identity = self.identity();
        let appended = match mutant!(81) {
            true => Ok(self.journal.last_sequence()),
            false => self.journal.append(&identity, SEAL_RECORD_MAX, |buf, at| {
                codec::write_small(buf, at, &Record::Seal(position))
            }),
        };
        let Some(member) = self.member.as_mut() else {
            return;
        };
        let may_follow = |history: &History| match applied {
            true => history.may_lead_to(&position),
            false => history.is_next(&position),
        };
        match appended {
            Ok(sequence) if may_follow(&member.appended) => {
                member.appended.append(position);
                member.push_end(match applied {
                    true => End::Applied(sequence),
                    false => End::Sealed(sequence),
                });
                member.seals = member.seals.saturating_sub(1);
                self.journal.unreserve(SEAL_RECORD_MAX);
                self.note_change();
            }
            _ => self.fail(FailReason::Promise),
        }
        self.promise_seals();
    }

    /// The room of a seal that is not appended goes back.
    pub(super) fn give_seal_back(&mut self) {
        if let Some(member) = self.member.as_mut() {
            member.seals = member.seals.saturating_sub(1);
            self.journal.unreserve(SEAL_RECORD_MAX);
        }
        self.promise_seals();
    }

    /// Promises room for seals, as far as there is some.
    fn promise_seals(&mut self) {
        let Some(member) = self.member.as_mut() else {
            return;
        };
        while member.seals < member.seals_wanted
            && member.ends.len() + member.seals < ENDS_MAX
            && self.journal.reserve(SEAL_RECORD_MAX, false)
        {
            member.seals += 1;
        }
    }

    /// Seals the open epoch, if there is one with entries. False: not now.
    pub(super) fn seal_epoch(&mut self) -> bool {
        let Some(member) = self.member.as_mut() else {
            return true;
        };
        if member.seals == 0 || member.set.seal().is_err() {
            return false;
        }
        self.append_seals();
        true
    }

    /// A FLUSH, or a write that waits to be durable: all that was recorded before it has to be
    /// wherever the set wants it.
    pub(super) fn flush_set(&mut self, tag: Tag) {
        if self.failed.is_some() {
            return self.finish(tag, Status::Io);
        }
        let Some(member) = self.member.as_mut() else {
            return;
        };
        let given = match member.seals {
            0 => Err(ENOMEM),
            _ => member.set.flush(tag.into()),
        };
        match given {
            Ok(()) => {
                if let Some(op) = self.ops.get_mut(tag) {
                    op.phase = Phase::Commit;
                }
                // Its records are appended. What it waits for may be away.
                self.release_reservation(tag);
                self.append_seals();
                self.journal.want(self.journal.last_sequence());
            }
            Err(error) if error == ENOMEM => {
                mark!(member_flush_waits_for_room);
                self.ops.park(&mut member.flushes, tag);
            }
            Err(_) => self.finish(tag, Status::Io),
        }
    }

    // What the set asks for.

    /// Carries out what the set asks for, as far as there is room.
    pub(super) fn member_step(&mut self) {
        if self.member.is_none() {
            return;
        }
        self.pace_compares();
        self.lease_step();
        self.promise_seals();
        self.quiesce();
        self.reshape_step();
        let waiting = self
            .member
            .as_mut()
            .map(|m| core::mem::take(&mut m.flushes));
        let mut waiting = waiting.unwrap_or_default();
        while let Some(tag) = self.ops.unpark(&mut waiting) {
            self.flush_set(tag);
        }
        self.drop_stuck();
        let mut rounds = 0;
        let mut more = true;
        while more && rounds < ROUNDS_MAX {
            self.carry_out_all();
            self.resync_step();
            // What they find may be what the set waits for.
            let shown = self.frozen_step();
            more = self.own_step() | self.keep_step() | shown;
            rounds += 1;
        }
        if let Some(member) = self.member.as_mut() {
            member.more = more;
        }
        self.tell_role();
    }

    /// Says whether compares are in the way of requests: some are in flight that wait for this store,
    /// or did a moment ago.
    fn pace_compares(&mut self) {
        let (now, knobs) = (self.now, self.config.knobs);
        let scrubs = usize::from(self.scrub_reads());
        let Some(member) = self.member.as_mut() else {
            return;
        };
        let others = scrubs + member.set.flushes() + member.repairs.under_way();
        let busy = self.ops.in_flight as usize > others || now < self.served_at + BUSY;
        let tranquility = match busy {
            true => knobs.resync_tranquility,
            false => 0,
        };
        member.set.pace(now, tranquility);
    }

    fn carry_out_all(&mut self) {
        while self.actions_room() {
            let Some(member) = self.member.as_mut() else {
                return;
            };
            let Some(action) = member.stuck.take().or_else(|| member.set.poll_action()) else {
                break;
            };
            if let Err(action) = self.carry_out(action) {
                if let Some(member) = self.member.as_mut() {
                    member.stuck = Some(action);
                }
                break;
            }
        }
    }

    /// An action that waits for room must not keep the set from looking at what came. If it is to
    /// stage what is void by now it is not needed.
    fn drop_stuck(&mut self) {
        let Some(member) = self.member.as_mut().filter(|m| m.stuck.is_some()) else {
            return;
        };
        // Without memory it is looked at later.
        let _ = member.set.look();
        let void = member.set.voids();
        let Some(SetAction::Stage { source, .. }) = member.stuck.as_ref().filter(|_| void) else {
            return;
        };
        let source = *source;
        member.stuck = None;
        mark!(member_stuck_is_void);
        if let Source::Data(handle) = source {
            self.act(Action::StageDrop { handle });
        }
    }

    /// Carries an action of the set out, or gives it back if there is no room now.
    fn carry_out(&mut self, action: SetAction) -> Result<(), SetAction> {
        match action {
            SetAction::Persist {
                token,
                generation,
                slot,
                first,
            } => {
                if let Some(member) = self.member.as_mut() {
                    member.persist = Some(Persist {
                        token,
                        generation,
                        copy: first & 1,
                        written: 0,
                        tries: 0,
                    });
                }
                self.write_config_slot(slot);
            }
            SetAction::Seal(position) => {
                // Somebody waits for it: it begins a reign, or ends one.
                self.append_seal(position, false);
                self.journal.want(self.journal.last_sequence());
            }
            SetAction::Stage {
                token,
                entry,
                source,
                resync,
            } => {
                if !self.begin_stage(token, &entry, source, resync) {
                    return Err(SetAction::Stage {
                        token,
                        entry,
                        source,
                        resync,
                    });
                }
            }
            SetAction::Void => self.void_stage(),
            SetAction::Unbuild => self.void_resync(),
            SetAction::StageDrop(handle) => self.act(Action::StageDrop { handle }),
            SetAction::Apply {
                position,
                token,
                count,
            } => {
                if !self.apply_stage(position, token, count) {
                    return Err(SetAction::Apply {
                        position,
                        token,
                        count,
                    });
                }
            }
            SetAction::Compare { volumes } => {
                if let Err(volumes) = self.begin_compare(volumes) {
                    return Err(SetAction::Compare { volumes });
                }
            }
            SetAction::Switch {
                position,
                history,
                token,
                count,
            } => {
                if let Err(history) = self.begin_switch(history) {
                    return Err(SetAction::Switch {
                        position,
                        history,
                        token,
                        count,
                    });
                }
            }
            SetAction::Release(epoch) => self.release_pins(epoch),
            SetAction::ScanOpen { scan } => {
                if !self.open_scan(scan) {
                    return Err(SetAction::ScanOpen { scan });
                }
            }
            SetAction::Scan {
                scan,
                cursor,
                max,
                since,
            } => {
                if !self.scan(scan, cursor, max, since) {
                    return Err(SetAction::Scan {
                        scan,
                        cursor,
                        max,
                        since,
                    });
                }
            }
            SetAction::Freeze { scan } => {
                if !self.freeze_now(scan) {
                    return Err(SetAction::Freeze { scan });
                }
            }
            SetAction::ScanRange {
                scan,
                volume,
                first,
                end,
                max,
            } => {
                if !self.scan_range(scan, volume, (first, end), max) {
                    return Err(SetAction::ScanRange {
                        scan,
                        volume,
                        first,
                        end,
                        max,
                    });
                }
            }
            SetAction::Repair { token, entry } => self.begin_repair(token, &entry),
            SetAction::ScanClose(scan) => self.close_scan(scan),
            SetAction::Own {
                token,
                volume,
                first,
                end,
                max,
            } => {
                if !self.begin_own(token, volume, (first, end), max) {
                    return Err(SetAction::Own {
                        token,
                        volume,
                        first,
                        end,
                        max,
                    });
                }
            }
            SetAction::Fetch {
                token,
                volume,
                lbn,
                digest,
                scan,
                pinned: (epoch, index),
            } => match scan {
                Some(scan) => {
                    if !self.fetch_frozen(token, scan, (&volume, lbn)) {
                        return Err(SetAction::Fetch {
                            token,
                            volume,
                            lbn,
                            digest,
                            scan: Some(scan),
                            pinned: (epoch, index),
                        });
                    }
                }
                None => {
                    let check = self.member.as_ref().and_then(|m| {
                        let entry = m.set.entry(epoch, index).filter(|e| e.digest == digest)?;
                        Some((m.pins.find(epoch, index)?, Check(entry.check)))
                    });
                    self.fetch(token, check);
                }
            },
            SetAction::FetchDrop(token) => self.act(Action::FetchDrop { token }),
            SetAction::Look { token, wanted } => self.begin_look(token, wanted),
            SetAction::Answer { number, found } => self.heal_answered(number, found),
            SetAction::Flushed { tag, ok } => {
                let status = if ok { Status::Ok } else { Status::Io };
                self.finish(tag as Tag, status);
            }
            SetAction::Reply { command, reply } => self.act(Action::SetReply { command, reply }),
            SetAction::Close { peer, session } => self.act(Action::ClosePeer {
                store: peer,
                nonce: session,
            }),
        }
        Ok(())
    }

    /// Lets a block be read for a peer; without a place there is no good copy.
    pub(super) fn fetch(&mut self, token: u64, place: Option<(Cluster, Check)>) {
        match place {
            Some((cluster, check)) => self.act(Action::FetchBlock {
                token,
                cluster,
                check,
            }),
            None => {
                if let Some(member) = self.member.as_mut() {
                    member.set.fetched(token, None);
                }
            }
        }
    }

    fn write_config_slot(&mut self, buf: Buf) {
        let Some(persist) = self.member.as_ref().and_then(|m| m.persist.as_ref()) else {
            return;
        };
        let slot = 2 + persist.generation % 2;
        let layout = self.superblock.layout;
        let cluster = Layout::superblock(slot, (persist.copy == 1).then_some(&layout));
        self.act(Action::WriteMeta {
            token: IoToken::ConfigSlot,
            cluster,
            buf,
            durability: match mutant!(82) {
                true => Durability::None,
                false => Durability::AllBefore,
            },
        });
    }

    /// A copy of a configuration slot was written, or could not be.
    pub(super) fn slot_done(&mut self, buf: Buf, ok: bool) {
        let Some(persist) = self.member.as_mut().and_then(|m| m.persist.as_mut()) else {
            return;
        };
        if !ok {
            persist.tries += 1;
        } else {
            persist.written += 1;
            persist.copy = 1 - persist.copy;
        }
        let (token, over) = (persist.token, persist.written == 2);
        if !over && persist.tries < PERSIST_TRIES {
            return self.write_config_slot(buf);
        }
        mark!(member_record_persisted);
        if let Some(member) = self.member.as_mut() {
            member.persist = None;
            member.set.persisted(token, over);
        }
    }

    /// What entries of the window refer to lies elsewhere now: peers that ask for it get that.
    pub(super) fn move_pins(&mut self, from: Cluster, to: Cluster) {
        for index in 0..self.member.as_ref().map_or(0, |m| m.pins.0.len()) {
            let pins = self.member.as_ref().map(|m| &m.pins.0);
            let pinned = pins.and_then(|p| p.get(index)).is_some_and(|p| p.1 == from);
            if pinned && self.hold(to) {
                let pin = self.member.as_mut().and_then(|m| m.pins.0.get_mut(index));
                if let Some((_, cluster)) = pin {
                    *cluster = to;
                }
                self.unhold(from);
            }
        }
    }

    /// Lets go of what entries of epochs up to this one refer to.
    pub(super) fn release_pins(&mut self, epoch: u64) {
        loop {
            let Some(member) = self.member.as_mut() else {
                return;
            };
            if member
                .pins
                .0
                .first()
                .is_none_or(|(first, _)| *first > epoch)
            {
                return;
            }
            let pin = member.pins.0.pop_front();
            if let Some((_, cluster)) = pin.filter(|(_, c)| *c != Cluster::NONE) {
                self.unhold(cluster);
            }
        }
    }

    /// Tells the shell whether requests may come, if that has changed. Those that wait and cannot be
    /// admitted any more fail.
    fn tell_role(&mut self) {
        let Some(member) = self.member.as_mut() else {
            return;
        };
        let serves = member.set.leads();
        if serves == member.told {
            return;
        }
        member.told = serves;
        self.act(Action::Role { serves });
        if !serves {
            mark!(member_stops_serving);
            self.void_heals();
            self.fail_reads();
            for list in [
                core::mem::take(&mut self.admission),
                core::mem::take(&mut self.space_wait),
                core::mem::take(&mut self.metadata_wait),
            ] {
                self.fail_requests(list);
            }
        }
    }

    /// Lets requests of the shell end that wait in a list; what is staged stays there.
    fn fail_requests(&mut self, mut list: WaitList) {
        while let Some(tag) = self.ops.unpark(&mut list) {
            let Some(op) = self.ops.get_mut(tag) else {
                continue;
            };
            if op.stage.is_some() {
                self.ops.park(&mut self.admission, tag);
                continue;
            }
            op.status = Status::Io;
            op.phase = Phase::Running;
            self.ops.park(&mut self.ready, tag);
        }
    }

    // Durable events.

    /// Tells the set which ends have become durable with the journal.
    pub(super) fn ends_durable(&mut self) {
        let durable = self.journal.durable();
        while let Some(member) = self.member.as_mut() {
            let Some(&end) = member.ends.first() else {
                return;
            };
            match end {
                End::Sealed(sequence) if sequence <= durable => member.set.sealed(true),
                End::Applied(sequence) if sequence <= durable => member.set.applied(true),
                End::Change {
                    applied,
                    durable: true,
                } => match applied {
                    true => member.set.applied(true),
                    false => member.set.sealed(true),
                },
                _ => return,
            }
            let _ = member.ends.remove(0);
        }
    }

    /// The change of volumes is durable, or will not be.
    pub(super) fn change_of_set_ended(&mut self, ok: bool) {
        if !ok {
            return self.fail(FailReason::Checkpoint);
        }
        for end in self.member.iter_mut().flat_map(|m| m.ends.iter_mut()) {
            if let End::Change { durable, .. } = end {
                *durable = true;
            }
        }
        self.ends_durable();
    }

    /// The store failed: nothing becomes durable any more.
    pub(super) fn fail_member(&mut self) {
        if let Some(member) = self.member.as_mut() {
            member.set.store_failed();
            let waiting = core::mem::take(&mut member.flushes);
            self.fail_waiting(waiting);
        }
        self.void_heals();
    }

    /// A detach begins: sessions end, and FLUSHes that wait fail.
    pub(super) fn shut_member(&mut self) {
        self.drop_change();
        if let Some(member) = self.member.as_mut() {
            member.set.shut();
        }
        self.void_heals();
    }

    /// Time goes by.
    pub(super) fn member_tick(&mut self) {
        let now = self.now;
        if let Some(member) = self.member.as_mut() {
            member.set.tick(now);
        }
    }

    /// When there is something to do without any input.
    pub(super) fn member_deadline(&self) -> Option<Millis> {
        let member = self.member.as_ref()?;
        let waits = member.stuck.is_some()
            || !member.flushes.is_empty()
            || member.is_changing()
            || self.volumes_wait()
            || member.own.is_some()
            || !member.keeps.is_empty();
        let soon = waits.then_some(self.now + super::state::RETRY_INTERVAL);
        let now = member.more.then_some(self.now);
        [now, soon, member.set.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }
}

impl Store {
    /// What the membership shows of itself.
    pub(super) fn show_member(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let Some(member) = self.member.as_ref() else {
            lines!(out, "member": 0);
            return Ok(());
        };
        let state = member.set.state();
        lines!(out,
            "member": 1,
            "version": state.config.version,
            "term": state.config.term,
            "promise": state.promise,
            "epoch": state.position.epoch,
            "epoch_appended": member.appended.position().epoch,
            "epoch_committed": state.committed.epoch,
            "reigns": u8::from(state.reigns),
            "serves": u8::from(state.serves),
            "busy": u8::from(state.busy),
            "flushes": state.flushes,
            "entries_in_memory": state.entries,
            "entries_promised": self.reserved.entries,
            "applying": state.applying,
            "changes_volumes": u8::from(member.is_changing()),
            "ends": member.ends.len(),
            "stuck": u8::from(member.stuck.is_some()),
            "quiescing": u8::from(member.quiescing.is_some()),
            "persisting": u8::from(member.persist.is_some()),
            "seals_promised": member.seals,
            "pins": member.pins.0.len(),
            "ranges_kept": member.keeps.len(),
            "scans_wanted": member.scans.wanted(),
            "scans_shown": member.scans.shown(),
            "scans_that_wish": member.scans.wishes(),
            "sessions_refused": state.refused,
        );
        self.show_staging(out)
    }
}

/// What a store takes of a stream: the pages that an epoch may have to rewrite are a quarter of
/// those that one checkpoint may, so that an epoch always fits.
fn limits(entry_pages: u64, pages_max: u64) -> Limits {
    let epoch = (pages_max / 4 / entry_pages.max(1)).clamp(4, EPOCH_MAX) as u32;
    Limits {
        entries: 4 * epoch,
        epoch,
        needs: NEEDS_MAX.min(4 * epoch),
    }
}

/// The entry of a range that reads as zeroes from here on.
pub(super) fn zeroes(volume: Id, lbn: Lbn, count: u64) -> Entry {
    Entry {
        op: Op::Zero,
        fresh: false,
        volume,
        lbn: lbn.0,
        count,
        check: 0,
        digest: [0; 24],
    }
}

/// Entries that a request may record.
pub(super) fn entries_of(kind: OpKind, count: u64) -> usize {
    match kind {
        OpKind::Write => count as usize,
        _ => 2,
    }
}
