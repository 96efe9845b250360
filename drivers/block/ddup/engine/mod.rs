// SPDX-License-Identifier: GPL-2.0

//! The engine: all decisions of a store, and no I/O, clock, lock or unsafe code (D1).
//!
//! There is one [`Engine`] per attached store. The shell (the driver, the simulator, the `ddup`
//! tool) calls its inputs, one at a time, and after each of them carries out what
//! [`Engine::poll_action`] yields until it yields nothing:
//!
//! - *inputs*: [`Engine::start`], [`Engine::submit`], [`Engine::data_done`],
//!   [`Engine::meta_done`], [`Engine::verify_done`], [`Engine::background`], [`Engine::detach`];
//! - *outputs*: [`Engine::poll_action`], [`Engine::next_deadline`];
//! - *getters*: everything else.
//!
//! Time is a parameter. The engine sees names, checks and lengths of data, never its bytes;
//! metadata and journal blocks it builds and reads itself, in buffers that change hands with the
//! action and come back with [`Engine::meta_done`].
//!
//! # What the shell owes
//!
//! 1. Before [`Engine::submit`] it reports every completion that already happened, also of
//!    requests that it completed itself. So a read sees, and a FLUSH covers, what was acknowledged.
//! 2. [`Action::CompleteAfterIo`]: all that a read still waits for is its data I/O. When that
//!    has succeeded the shell completes the request at once and reports by [`Engine::data_done`]
//!    when it likes; nothing that the engine does then can fail. If some of it failed the shell
//!    does not complete, reports, and the engine sends what to do instead.
//! 3. [`Action::Acknowledge`]: the shell completes the write at once, whatever its data I/O has come
//!    to, and keeps the data and the tag until [`Action::Complete`]: a try that fails is followed by
//!    another one.
//! 4. When it carries out an [`Action::WriteMeta`] it may take requests that wait for nothing but
//!    that write ([`Engine::hand_over_commit`]). When it has succeeded the shell completes them at
//!    once and reports when it likes; if it failed it keeps them, and the engine sends what to do.
//! 5. A tag is free for a new request when the engine has seen all its completions.
//! 6. No order of I/O is needed among actions: where order matters the engine waits.
//!
//! # The path of a 4 KiB write
//!
//! 1. `admit.rs`: room is promised in journal, overlay, cache of pages to rewrite, and on disk.
//! 2. `write.rs`: the index is asked and its answer confirmed, or the hash lock taken and a cluster
//!    handed out (`space.rs`); it is acknowledged (`early.rs`) while the shell writes the data; then
//!    the record is appended (`journal.rs`) and applied (`overlay.rs`).
//! 3. `flush.rs`: a FLUSH, FUA or the commit interval writes the journal block, with the device's
//!    flush before it, or behind it for both.
//! 4. `checkpoint.rs`: the overlay is merged into the trees, and a superblock makes that durable.
//! 5. `recycle.rs`: clusters that nothing owns any more are retired and handed out again.

#![forbid(unsafe_code)]

pub mod births;
pub mod cache;
#[cfg(not(MODULE))]
pub mod check;
pub mod event;
pub mod format;
pub mod index;
pub mod knob;
pub mod mark;
#[cfg(not(MODULE))]
pub mod mkfs;
pub mod overlay;
pub mod replication;
pub mod ring;
pub mod show;
pub mod sorted;
pub mod space;
pub mod types;

mod admit;
mod buf;
mod checkpoint;
mod discard;
mod early;
mod flush;
mod heal;
mod journal;
mod keep;
mod member;
mod mutant;
mod op;
mod own;
mod pin;
mod read;
mod rebuild;
mod recover;
mod recycle;
mod reshape;
mod resync;
mod saved;
mod scan;
mod scrub;
mod shadow;
mod stage;
mod state;
mod supply;
mod tail;
mod tree;
mod verify;
mod volume;
mod write;

pub use self::buf::Buf;
pub use self::early::EARLY_WRITES_MAX;
pub use self::format::page::Hash;
#[cfg(not(MODULE))]
pub use self::mutant::set_mutant;
pub use self::op::{BlockContent, OpKind, Request};
pub use self::recover::FailReason;
pub use self::scrub::{ScrubReport, ScrubState};
pub use self::state::{Counters, FingerprintParams, IoToken, VolumeInfo};
pub use self::types::{Check, Cluster, FingerprintAlgorithm, Lbn, Millis, Name, Status, Tag};

use self::event::Observer;
use self::recover::Recovery;
use self::replication::{set::Set, types::Id};
use self::show::{Object, RequestState, SegmentCounts, SlotCounts};
use self::state::Store;
use core::fmt;
use kernel::prelude::*;

/// What a store is attached with.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Clusters of the backing device.
    pub store_clusters: u64,
    /// Change nothing on the device.
    pub read_only: bool,
    /// Tags are below this (at most 4096).
    pub queue_depth: u32,
    /// Pages of the metadata cache, 4 KiB each (at least 64).
    pub cache_pages: u32,
    /// Memory of the index, in bytes.
    pub index_bytes: u64,
    /// The most block changes that wait for one checkpoint (1024 to [`types::POINTS_LIMIT`]).
    pub points_max: u32,
    /// XXH64 of this side.
    pub hash: Hash,
    /// Random ids: for what a member of a set may have to begin.
    pub fresh: [Id; 2],
    /// What can be changed while attached.
    pub knobs: Knobs,
}

/// What can be changed while a store is attached; [`knob`] has the ranges.
#[derive(Clone, Copy, Debug)]
pub struct Knobs {
    /// Journal entries of plain writes are durable after this, in milliseconds.
    pub commit_interval: Millis,
    /// Dirty state is checkpointed after this at the latest, in milliseconds.
    pub checkpoint_interval: Millis,
    /// Junk is not retired before it is this old, in attached seconds, unless space is short.
    pub gc_delay: u64,
    /// Junk is retired while fewer clusters than this are ready to be written.
    pub keep_erased: u64,
    /// The recycler rests for so many times as long as its last batch took, unless space is short.
    pub tranquility: u64,
    /// A scrub rests for so many times as long as its last blocks took.
    pub scrub_tranquility: u64,
    /// A full compare rests for so many times as long as its last step took, while requests are served.
    pub resync_tranquility: u64,
    /// Blocks that go to peers are compressed, where that makes them shorter.
    pub compress_wire: bool,
    /// Retired clusters are discarded on the backing device.
    pub discard: bool,
    /// A write that finds no space, when all that could give it some was done, waits until there is
    /// some, this changes, or the store fails. Else it fails.
    pub wait_for_space: bool,
    /// A count from which on a cluster takes no more owners (2^31; less in tests).
    pub count_full: u32,
}

impl Default for Knobs {
    fn default() -> Self {
        Knobs {
            commit_interval: 1000,
            checkpoint_interval: 30_000,
            gc_delay: 30,
            keep_erased: 1 << 16,
            tranquility: 1,
            scrub_tranquility: 1,
            resync_tranquility: 1,
            compress_wire: false,
            discard: false,
            wait_for_space: false,
            count_full: 1 << 31,
        }
    }
}

/// A change of a store's volumes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VolumeChange {
    /// One more volume.
    Create {
        /// Names it.
        uuid: [u8; 16],
        /// Its size.
        blocks: u64,
    },
    /// Another size.
    Resize {
        /// Slot of the volume.
        slot: u32,
        /// Its size from now on.
        blocks: u64,
    },
    /// The volume, or the shadow, goes, and what only it holds.
    Remove {
        /// Its slot.
        slot: u32,
    },
    /// A shadow: a volume that [`Engine::volume`] does not show ([`Engine::shadow`] does), and that
    /// takes requests by its slot as others do.
    Shadow {
        /// UUID of the volume that it is to replace.
        uuid: [u8; 16],
        /// Its size, which that volume will have then.
        blocks: u64,
    },
    /// What the shadow maps becomes what the volume maps, and its size; what the volume mapped
    /// goes, and the shadow with it. [`Engine::replace_volumes`] is for several at once.
    Replace {
        /// Slot of the volume.
        slot: u32,
        /// Slot of its shadow.
        shadow: u32,
    },
}

/// A command of the authority to a member of a set; the clauses are those of the contract.
#[derive(Debug)]
pub enum SetCommand {
    /// Clause 6: refuse terms below this one.
    Fence {
        /// The term.
        term: u64,
    },
    /// Clause 7: the next configuration, if the one in force has version `expect`.
    SetConfig {
        /// That version.
        expect: u64,
        /// The next one.
        config: KBox<replication::config::Config>,
    },
    /// Clause 8: FLUSHes wait for this peer too.
    Join {
        /// The peer.
        peer: Id,
    },
    /// Clause 13: hand everything over and stop being primary.
    Demote,
    /// Clause 13: FLUSHes that wait fail, and what waits for a lease.
    FlushFail,
    /// Clause 13: the own history may be given up.
    Resolve,
    /// Verify a peer.
    Verify {
        /// The peer.
        peer: Id,
        /// Repair what differs.
        repair: bool,
    },
    /// End the verify that goes on.
    VerifyStop,
    /// Clause 14: serve no longer.
    Lease {
        /// In the configuration of this version: that in force, or a later one.
        version: u64,
        /// From then on; `None`: however late it is.
        until: Option<Millis>,
    },
}

/// A frame for a peer.
#[derive(Debug)]
pub struct Sending {
    /// Header and body.
    pub meta: KVec<u8>,
    /// The blocks that follow, 4096 bytes each, or packed if [`replication::wire::is_packed`] says so.
    pub blocks: KVec<SendBlock>,
}

/// A block that is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendBlock {
    /// What [`Action::FetchBlock`] has read under this token. The shell drops it when it was sent, or
    /// will not be.
    Fetched(u64),
    /// A cluster, to be read and held against its check. If it fails, the session must end.
    Cluster(Cluster, Check),
}

/// How a data I/O ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataResult {
    /// Done; a read's content matched its check.
    Ok,
    /// The backing device failed.
    Failed,
    /// The content that was read does not match its check.
    Mismatch,
    /// A comparison found the same bytes.
    Equal,
    /// A comparison found other bytes.
    Differs,
}

/// What is durable when a write of metadata completes, at least.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Nothing yet.
    None,
    /// What was written.
    Own,
    /// What was written, and before it everything that had completed when it was sent.
    AllBefore,
    /// What was written, and everything that had completed when it was sent, in any order.
    AllTogether,
}

/// What the shell has to do.
#[derive(Debug)]
pub enum Action {
    /// Read a cluster into a block of a request and verify it against its check.
    ReadBlock {
        /// The request.
        tag: Tag,
        /// The block, counted from the request's first.
        block: u32,
        /// From where.
        cluster: Cluster,
        /// What the content must match.
        check: Check,
    },
    /// Fill blocks of a request with zeroes. No completion is reported.
    ZeroBlocks {
        /// The request.
        tag: Tag,
        /// The first block.
        block: u32,
        /// Blocks.
        count: u32,
    },
    /// Write neighbouring blocks of a request to neighbouring clusters.
    WriteRun {
        /// The request.
        tag: Tag,
        /// The first block.
        block: u32,
        /// Blocks.
        count: u32,
        /// The first cluster.
        cluster: Cluster,
    },
    /// Compare a block of a request with a cluster, byte by byte.
    CompareBlock {
        /// The request.
        tag: Tag,
        /// The block.
        block: u32,
        /// With what.
        cluster: Cluster,
    },
    /// Complete the request when its data I/O has succeeded (see the module's documentation).
    CompleteAfterIo {
        /// The request.
        tag: Tag,
    },
    /// Complete the write now, with success (see the module's documentation).
    Acknowledge {
        /// The request.
        tag: Tag,
    },
    /// Complete the request, unless it was acknowledged: that is over. None of its I/O is with the
    /// shell.
    Complete {
        /// The request.
        tag: Tag,
        /// How.
        status: Status,
    },
    /// Fill the buffer from this cluster on.
    ReadMeta {
        /// Goes back with the buffer.
        token: IoToken,
        /// From where.
        cluster: Cluster,
        /// To be filled whole.
        buf: Buf,
    },
    /// Write the buffer from this cluster on.
    WriteMeta {
        /// Goes back with the buffer.
        token: IoToken,
        /// To where.
        cluster: Cluster,
        /// To be written whole.
        buf: Buf,
        /// What is durable when it completes.
        durability: Durability,
    },
    /// Read a cluster of data into the buffer and hold it against its check. Ends in
    /// [`Engine::verify_done`]. Only while the store is being attached.
    VerifyData {
        /// From where.
        cluster: Cluster,
        /// What the content must match.
        check: Check,
        /// The key of the check.
        check_key: u64,
        /// Room for the content.
        buf: Buf,
    },
    /// Make everything that completed before durable. Goes back with an empty buffer.
    Flush {
        /// Goes back.
        token: IoToken,
    },
    /// Discard clusters on the backing device. Goes back with an empty buffer; may fail.
    DiscardRun {
        /// Goes back.
        token: IoToken,
        /// The first cluster.
        cluster: Cluster,
        /// Clusters.
        count: u64,
    },
    /// The change of a volume that was begun is durable, or (false) will not be made.
    VolumeChanged {
        /// Slot of the volume.
        slot: u32,
        /// Whether it was made.
        ok: bool,
    },
    /// Read a cluster and verify it against its check; nobody wants the content. Ends in
    /// [`Engine::data_done`].
    ScrubBlock {
        /// The scrub; no request of the shell has this tag.
        tag: Tag,
        /// One of the blocks that it reads at once.
        block: u32,
        /// From where.
        cluster: Cluster,
        /// What the content must match.
        check: Check,
    },
    /// A scrub found a block that is bad and stays so.
    ScrubFound {
        /// Slot of the volume.
        slot: u32,
        /// The block.
        lbn: Lbn,
    },
    /// A scrub has ended; [`Engine::scrub_report`] says how.
    ScrubEnded,
    /// Write a block that came from a peer to a cluster. Ends in [`Engine::data_done`] for block 0
    /// of the tag. The block stays until [`Action::StageDrop`].
    StageWrite {
        /// The block of an epoch that is being staged; no request of the shell has this tag.
        tag: Tag,
        /// The block that came.
        handle: u64,
        /// To where.
        cluster: Cluster,
    },
    /// A block that came from a peer is not needed any more.
    StageDrop {
        /// The block.
        handle: u64,
    },
    /// Read a cluster for a peer and hold it against its check. Ends in [`Engine::fetched`]; the block
    /// stays until it is in a [`Sending`], or [`Action::FetchDrop`].
    FetchBlock {
        /// Names the block from here on.
        token: u64,
        /// From where.
        cluster: Cluster,
        /// What the content must match.
        check: Check,
    },
    /// A block that was read for a peer will not be sent.
    FetchDrop {
        /// The block.
        token: u64,
    },
    /// The answer to [`Engine::set_command`].
    SetReply {
        /// The command.
        command: u64,
        /// The answer.
        reply: replication::action::Reply,
    },
    /// Shut this session's connection; nothing of it is taken any more.
    ClosePeer {
        /// The peer.
        store: replication::types::Id,
        /// The session.
        nonce: u64,
    },
    /// Whether the volumes of a member take requests from here on: at first they do not.
    Role {
        /// They do: this store is primary, and its reign is reconciled.
        serves: bool,
    },
    /// The store is attached; requests may come.
    Started,
    /// The store can't be attached, or (after [`Action::Started`]) is or became read-only.
    Failed(FailReason),
    /// The store is detached; nothing is with the shell. False: not all of it is durable.
    Detached(bool),
}

/// All decisions of one attached store.
pub struct Engine {
    config: Config,
    recovery: Option<KBox<Recovery>>,
    store: Option<KBox<Store>>,
}

impl Engine {
    /// Checks the configuration. Nothing is read before [`Engine::start`].
    pub fn new(config: Config) -> Result<Engine> {
        let points = 1024..=types::POINTS_LIMIT;
        if !(1..=4096).contains(&config.queue_depth) || !points.contains(&config.points_max) {
            return Err(EINVAL);
        }
        Ok(Engine {
            config,
            recovery: Some(KBox::new(Recovery::new(config), GFP_KERNEL)?),
            store: None,
        })
    }

    /// Starts recovery, which ends in [`Action::Started`] or [`Action::Failed`].
    pub fn start(&mut self, now: Millis) {
        if let Some(recovery) = self.recovery.as_mut() {
            recovery.start(now);
        }
    }

    /// A request came. `blocks` tells the content of each block of a write and is empty otherwise.
    pub fn submit(&mut self, now: Millis, request: Request, blocks: &[BlockContent]) {
        if let Some(store) = self.store.as_mut() {
            store.submit(now, request, blocks);
        }
    }

    /// Data I/O of a request ended: a whole run or a part of it, in any order.
    pub fn data_done(&mut self, now: Millis, tag: Tag, block: u32, count: u32, result: DataResult) {
        if let Some(store) = self.store.as_mut() {
            store.now = store.now.max(now);
            store.data_done(tag, block, count, result);
        }
    }

    /// Metadata I/O ended; its buffer comes back.
    pub fn meta_done(&mut self, now: Millis, token: IoToken, buf: Buf, ok: bool) {
        match (self.recovery.as_mut(), self.store.as_mut()) {
            (Some(recovery), _) => recovery.meta_done(now, token, buf, ok),
            (None, Some(store)) => {
                store.now = store.now.max(now);
                store.meta_done(token, buf, ok);
            }
            (None, None) => {}
        }
    }

    /// The answer to [`Action::VerifyData`]: `Ok`, `Mismatch` or `Failed`.
    pub fn verify_done(&mut self, now: Millis, buf: Buf, result: DataResult) {
        if let Some(recovery) = self.recovery.as_mut() {
            recovery.verify_done(now, buf, result);
        }
    }

    /// A request that waits for nothing but this write, which was given out and is not reported yet.
    pub fn hand_over_commit(&mut self, token: IoToken) -> Option<Tag> {
        match token {
            IoToken::Journal => self.store.as_mut()?.hand_over_commit(),
            _ => None,
        }
    }

    /// The next thing to do; `None` until the next input.
    pub fn poll_action(&mut self, now: Millis) -> Option<Action> {
        if let Some(recovery) = self.recovery.as_mut() {
            let action = recovery.poll(now);
            if recovery.is_over() {
                self.store = self.recovery.take().and_then(|mut r| r.take_store());
            }
            if action.is_some() {
                return action;
            }
        }
        let store = self.store.as_mut()?;
        store.now = store.now.max(now);
        store.poll()
    }

    /// One bounded step of checkpoint, recycler, reaper or index rebuild. True: more can be done
    /// now. Call it after each turn from a context in which time matters less than in a request's.
    pub fn background(&mut self, now: Millis) -> bool {
        let Some(store) = self.store.as_mut() else {
            return false;
        };
        store.now = store.now.max(now);
        store.background()
    }

    /// When [`Engine::background`] has to be called at the latest.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.store.as_ref().and_then(|store| store.next_deadline())
    }

    /// Whether somebody waits for a completion that the shell may not have reported yet.
    pub fn is_eager(&self) -> bool {
        self.store.as_ref().is_some_and(|store| store.is_eager())
    }

    /// Makes everything durable and ends in [`Action::Detached`]. No request may be in flight.
    pub fn detach(&mut self, now: Millis) {
        if let Some(store) = self.store.as_mut() {
            store.now = store.now.max(now);
            store.detach();
        }
    }

    /// How the shell names and checks content. After [`Action::Started`].
    pub fn fingerprint(&self) -> Option<FingerprintParams> {
        self.store.as_ref().map(|store| store.fingerprint())
    }

    /// The volume in a slot. After [`Action::Started`].
    pub fn volume(&self, slot: u32) -> Option<VolumeInfo> {
        self.store
            .as_ref()
            .and_then(|store| store.volume_info(slot))
    }

    /// The shadow in a slot, with the UUID of the volume that it is to replace. Of those that a crash
    /// or a detach left the owner has to dispose.
    pub fn shadow(&self, slot: u32) -> Option<VolumeInfo> {
        self.store
            .as_ref()
            .and_then(|store| store.shadow_info(slot))
    }

    /// Slots that volumes and shadows have; some may be vacant.
    pub fn volume_slots(&self) -> u32 {
        self.store
            .as_ref()
            .map_or(0, |store| store.volumes.len() as u32)
    }

    /// Whether a volume is still being shrunk or removed.
    pub fn is_releasing(&self) -> bool {
        self.store
            .as_ref()
            .is_some_and(|store| store.volumes.iter().any(|v| v.keeps.is_some()))
    }

    /// Begins a change of the volumes, which ends in [`Action::VolumeChanged`]. Answers the slot of
    /// the volume. Blocks that go, and a new volume, take no requests from here on.
    ///
    /// A primary makes it part of its set's history, and takes no changes of blocks while it does;
    /// if its reign ends before that, or its writes wait for some seconds, the change is not made.
    ///
    /// `EBUSY`: another change is under way, the volume is still being shrunk, or a request is in
    /// flight where blocks go. `ENOENT`: there is no such volume. `EINVAL`: not such a size, it is
    /// the last volume, or not a shadow of that volume. `EEXIST`: the set has such a volume. `ENOSPC`:
    /// as many as there may be, or no room. `EROFS`: read-only. `EPERM`: the store is a member of a
    /// replica set and does not lead.
    pub fn change_volume(&mut self, now: Millis, change: VolumeChange) -> Result<u32> {
        let store = self.store.as_mut().ok_or(ENODEV)?;
        store.now = store.now.max(now);
        match store.member.is_some() {
            true => store.change_set_volume(change),
            false => store.change_volume(change),
        }
    }

    /// Whether the volume in a slot is the one with this number.
    pub fn is_volume(&self, slot: u32, id: u32) -> bool {
        let volume = |store: &Store| store.present(slot).is_some_and(|v| v.id == id);
        self.store.as_ref().is_some_and(|store| volume(store))
    }

    /// Begins to replace volumes by their shadows, all at one cut: pairs of the slots of both. Ends
    /// in one [`Action::VolumeChanged`], with the slot of the first volume, which this answers.
    ///
    /// From here until then the volumes take only reads, which see the old state, and the shadows
    /// nothing. A crash before it is durable leaves both as they were. Errors are those of
    /// [`Engine::change_volume`]; requests in flight on a shadow, and changes of a volume, are in
    /// the way.
    pub fn replace_volumes(&mut self, now: Millis, pairs: &[(u32, u32)]) -> Result<u32> {
        let store = self.store.as_mut().ok_or(ENODEV)?;
        store.now = store.now.max(now);
        store.replace_volumes(pairs)
    }

    /// Where the history of a member ends, for all that is in its journal; also if it is attached
    /// read-only. After [`Action::Started`].
    pub fn member_position(&self) -> Option<replication::types::Position> {
        let store = self.store.as_ref()?;
        let member = store.member.as_ref().map(|m| m.appended.position());
        member.or(store.read_only_position)
    }

    /// This store's part in its replica set, if it is in one.
    pub fn set(&self) -> Option<&Set> {
        Some(self.store.as_ref()?.member.as_ref()?.set())
    }

    /// A command of the authority, which ends in [`Action::SetReply`] with its number. `ENOENT`: the
    /// store is in no set. `ENOMEM`.
    pub fn set_command(&mut self, now: Millis, number: u64, command: SetCommand) -> Result {
        let store = self.store.as_mut().ok_or(ENODEV)?;
        store.now = store.now.max(now);
        store.set_command(number, command)
    }

    /// There is a connection to a member of the set; both ends were given the same nonce, never used
    /// before. An older session of this peer ends. `ENOENT`: no member. `EIO`: the store failed.
    pub fn peer_connected(&mut self, now: Millis, peer: &Id, nonce: u64) -> Result {
        let store = self.store.as_mut().ok_or(ENODEV)?;
        store.now = store.now.max(now);
        store.peer_connected(peer, nonce)
    }

    /// A connection is gone.
    pub fn peer_lost(&mut self, now: Millis, peer: &Id, nonce: u64) {
        if let Some(store) = self.store.as_mut() {
            store.now = store.now.max(now);
            store.peer_lost(peer, nonce);
        }
    }

    /// A frame came in a session: its header and body, and what its blocks are; their handles follow
    /// each other from `first` on. True: the blocks were taken, and each will be dropped. An error
    /// ends the session.
    pub fn peer_received(
        &mut self,
        now: Millis,
        peer: &Id,
        nonce: u64,
        meta: &[u8],
        first: u64,
        blocks: &[BlockContent],
    ) -> Result<bool> {
        let store = self.store.as_mut().ok_or(ENODEV)?;
        store.now = store.now.max(now);
        store.peer_received(peer, nonce, meta, (first, blocks))
    }

    /// The next frame of a session, if there is one: asked for when its socket has room. `ENOMEM`:
    /// later. `EPIPE`: the session is over.
    pub fn poll_send(&mut self, now: Millis, peer: &Id, nonce: u64) -> Result<Option<Sending>> {
        let store = self.store.as_mut().ok_or(ENODEV)?;
        store.now = store.now.max(now);
        store.poll_send(peer, nonce)
    }

    /// The answer to [`Action::FetchBlock`]: whether the block was read and matches its check.
    pub fn fetched(&mut self, now: Millis, token: u64, ok: bool) {
        if let Some(store) = self.store.as_mut() {
            store.now = store.now.max(now);
            store.fetched(token, ok);
        }
    }

    /// Whether requests wait for a lease.
    pub fn awaits_lease(&self) -> bool {
        self.store.as_ref().is_some_and(|s| s.has_leased())
    }

    /// What happened to the set that was not told yet, with a number that only rises.
    pub fn poll_set_event(&mut self) -> Option<(u64, replication::action::Event)> {
        self.store.as_mut()?.poll_set_event()
    }

    /// Says who is told of events from here on, if anybody.
    pub fn observe(&mut self, observer: Option<Observer>) {
        if let Some(store) = self.store.as_mut() {
            store.observer = observer;
        }
    }

    /// Names a request that was just submitted, for events: not 0. It must not have been polled
    /// for actions since.
    pub fn name_request(&mut self, tag: Tag, key: u64) {
        if let Some(op) = self.store.as_mut().and_then(|s| s.ops.get_mut(tag)) {
            op.key = key;
        }
    }

    /// Why the store is read-only, unless that was asked for.
    pub fn failed(&self) -> Option<FailReason> {
        self.store.as_ref().and_then(|store| store.failed)
    }

    /// UUID of the store. After [`Action::Started`].
    pub fn uuid(&self) -> Option<[u8; 16]> {
        self.store.as_ref().map(|store| store.superblock.uuid)
    }

    /// Writes what a state object shows of itself, if there is one. It is not looked at by programs.
    pub fn show(&self, object: Object, out: &mut dyn fmt::Write) -> fmt::Result {
        match self.store.as_ref() {
            Some(store) => store.show(object, out),
            None => Ok(()),
        }
    }

    /// The request in flight of a tag.
    pub fn request_state(&self, tag: Tag) -> Option<RequestState> {
        self.store.as_ref()?.request_state(tag)
    }

    /// Counts `count` slots of the metadata cache from `from` on; false if there are none.
    pub fn count_slots(&self, from: u32, count: u32, sum: &mut SlotCounts) -> bool {
        let store = self.store.as_ref();
        store.is_some_and(|store| store.count_slots(from, count, sum))
    }

    /// Counts `count` segments from `from` on; false if there are none.
    pub fn count_segments(&self, from: usize, count: usize, sum: &mut SegmentCounts) -> bool {
        let store = self.store.as_ref();
        store.is_some_and(|store| store.count_segments(from, count, sum))
    }

    /// Counters and gauges. After [`Action::Started`].
    pub fn counters(&self) -> Counters {
        self.store
            .as_ref()
            .map(|store| store.counters())
            .unwrap_or_default()
    }

    /// Changes what can be changed while attached.
    pub fn set_knobs(&mut self, knobs: Knobs) {
        self.config.knobs = knobs;
        if let Some(store) = self.store.as_mut() {
            store.set_knobs(knobs);
        }
    }

    /// Words that [`Engine::begin_scrub`] is to be given: a bit for each cluster.
    pub fn scrub_words(&self) -> usize {
        self.store.as_ref().map_or(0, |store| store.scrub_words())
    }

    /// Begins to hold every mapped block against its check, with so many words of zeroes. Ends in
    /// [`Action::ScrubEnded`]. `EBUSY`: one goes on. `EINVAL`: too few words, or too many. `EIO`: the
    /// store failed, or is being detached.
    pub fn begin_scrub(&mut self, now: Millis, words: KVVec<u64>) -> Result {
        let store = self.store.as_mut().ok_or(ENODEV)?;
        store.now = store.now.max(now);
        store.begin_scrub(words)
    }

    /// Ends the scrub that goes on before it has looked at everything. False: there is none.
    pub fn stop_scrub(&mut self, now: Millis) -> bool {
        self.store.as_mut().is_some_and(|store| {
            store.now = store.now.max(now);
            store.stop_scrub()
        })
    }

    /// How far the scrub is that goes on, or what the last one since attach has found.
    pub fn scrub_report(&self) -> Option<ScrubReport> {
        self.store.as_ref()?.scrub_report()
    }

    /// Keeps the last durable checkpoint as it is on the device, to be examined while requests go
    /// on. Answers what names the pin, and the checkpoint's superblock. `EBUSY`: there is a pin.
    pub fn pin(&mut self, now: Millis) -> Result<(u64, Buf)> {
        let store = self.store.as_mut().ok_or(ENODEV)?;
        store.now = store.now.max(now);
        store.pin()
    }

    /// Keeps a pin for another minute. With `table_read` the segment table may be written over.
    /// False: the pin has ended, and what was read since it was renewed last may be no state.
    pub fn renew_pin(&mut self, now: Millis, cookie: u64, table_read: bool) -> bool {
        self.store.as_mut().is_some_and(|store| {
            store.now = store.now.max(now);
            store.renew_pin(cookie, table_read)
        })
    }

    /// Ends a pin. False: it had ended before.
    pub fn unpin(&mut self, now: Millis, cookie: u64) -> bool {
        self.store.as_mut().is_some_and(|store| {
            store.now = store.now.max(now);
            store.unpin(cookie)
        })
    }

    /// What can be changed while attached, as it is.
    pub fn knobs(&self) -> Knobs {
        self.config.knobs
    }
}
