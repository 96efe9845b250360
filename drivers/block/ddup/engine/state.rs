// SPDX-License-Identifier: GPL-2.0

//! [`Store`]: the state of an attached store, and the loop that runs its requests.
//!
//! One exists from the end of recovery to the end of detach; [`super::Engine`] owns it. The other
//! files of the engine are its methods, a file for each part of a request's way.

use super::admit::Admission;
use super::cache::{Cache, SlotId, Tree};
use super::checkpoint::Checkpointer;
use super::early::Early;
use super::event::Observer;
use super::format::index::SavedIndex;
use super::format::page::{tree, VolumeEntry, COUNT_LEAF, MAP_LEAF, NAME_LEAF};
use super::format::superblock::Superblock;
use super::heal::HEAL_TAGS;
use super::index::Index;
use super::journal::{Identity, Journal};
use super::mark::mark;
use super::member::Member;
use super::mutant::mutant;
use super::op::{Ops, Phase, Request, Reservation, WaitList};
use super::overlay::Overlay;
use super::pin::Pin;
use super::recover::FailReason;
use super::recycle::Recycler;
use super::replication::types::Position;
use super::ring::Ring;
use super::saved::Copier;
use super::scrub::{Scrub, SCRUB_TAGS};
use super::shadow::Replaces;
use super::sorted::SortedMap;
use super::space::Space;
use super::stage::STAGE_TAGS;
use super::types::{Cluster, FingerprintAlgorithm, Millis, Name, Status, Tag};
use super::types::{REQUEST_BLOCKS_MAX, SEGMENT_CLUSTERS};
use super::verify::REPAIR_TAGS;
use super::volume::Change;
use super::{Action, BlockContent, Buf, Config, Knobs, OpKind};
use kernel::prelude::*;

/// Which I/O ended; opaque to the shell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoToken {
    /// A read of recovery.
    Recovery,
    /// A tree page is read into this slot of the cache.
    PageRead(SlotId),
    /// A copy of this slot's page is written.
    PageWrite(SlotId),
    /// A page that is in no slot is written here by the checkpoint.
    LoosePage(Cluster),
    /// A journal block.
    Journal,
    /// A copy of the superblock.
    Superblock(u8),
    /// A copy of a configuration slot.
    ConfigSlot,
    /// A page of a frozen state.
    FrozenPage,
    /// A chunk of the saved index.
    IndexChunk,
    /// A discard of the recycler.
    Discard,
    /// The FLUSH behind the recycler's discards.
    RecyclerFlush,
}

/// How the shell names and checks content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FingerprintParams {
    /// The algorithm of names.
    pub algorithm: FingerprintAlgorithm,
    /// Its key, if it takes one.
    pub name_key: u64,
    /// The key of checks.
    pub check_key: u64,
}

/// A volume as the shell shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VolumeInfo {
    /// Its id in the store.
    pub id: u32,
    /// Its UUID.
    pub uuid: [u8; 16],
    /// Its size in blocks.
    pub blocks: u64,
    /// Blocks behind its end that are still being released.
    pub releasing: u64,
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counters since attach, and gauges.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Counters {
            /// Calls `each` with the name and the value of every field.
            pub fn for_each(&self, mut each: impl FnMut(&'static str, u64)) {
                $(each(stringify!($name), self.$name);)+
            }
        }
    };
}

counters! {
    /// Blocks written, of any content.
    blocks_written,
    /// Blocks written that were all zeroes.
    blocks_zero,
    /// Blocks written that shared a cluster.
    blocks_duplicate,
    /// Blocks written that took a cluster.
    blocks_fresh,
    /// Blocks read.
    blocks_read,
    /// Blocks discarded or zeroed by request, mapped or not.
    blocks_discarded,
    /// Index hits that were not confirmed.
    index_misled,
    /// Fast fingerprints that were equal for other bytes.
    collisions,
    /// Reads whose content did not match its check, each try.
    check_mismatches,
    /// Clusters quarantined.
    clusters_quarantined,
    /// Blocks that were bad and were given another cluster with their content.
    blocks_healed,
    /// Reads of blocks that were bad and could not be healed.
    heals_failed,
    /// Data writes that failed and were tried elsewhere.
    write_retries,
    /// Blocks of acknowledged writes whose data no try got to the disk.
    blocks_lost,
    /// Clusters retired.
    clusters_retired,
    /// FLUSH requests.
    flushes,
    /// Journal blocks written.
    journal_blocks,
    /// Bytes of journal blocks written.
    journal_bytes,
    /// Checkpoints that became durable.
    checkpoints,
    /// Metadata pages read.
    pages_read,
    /// Metadata pages written.
    pages_written,
    /// Requests that failed for want of space.
    no_space,
    /// Gauge: clusters of the store.
    clusters_total,
    /// Gauge: clusters of superblocks, journal ring and segment table.
    clusters_fixed,
    /// Gauge: map entries that own a cluster, as of the last merge.
    blocks_mapped,
    /// Gauge: clusters in use by data, as of the last merge.
    clusters_live,
    /// Gauge: clusters that nothing refers to and that may come back.
    clusters_junk,
    /// Gauge: data clusters that may be handed out now.
    clusters_free,
    /// Gauge: pages of all metadata segments.
    metadata_capacity,
    /// Gauge: pages of metadata segments that are free.
    metadata_free,
    /// Entries of the index that came from the saved one.
    index_loaded,
    /// Gauge: entries of the index.
    index_used,
    /// Gauge: entries that the index has room for.
    index_capacity,
    /// Gauge: bytes of the index.
    index_bytes,
    /// Gauge: pages in the metadata cache.
    cache_pages,
    /// Gauge: block changes that wait for the next checkpoint.
    overlay_points,
    /// Gauge: ring clusters of the journal in use.
    journal_used,
    /// Gauge: ring clusters of the journal.
    journal_clusters,
    /// Gauge: discards that the reaper still has to finish.
    punches,
}

/// Where the store stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Takes requests.
    Attached,
    /// Takes reads only; a reason says why.
    ReadOnly,
    /// Detaching: commits, then checkpoints.
    Detaching,
    /// Detached; the action was sent.
    Detached,
}

/// The most actions that wait for the shell.
const ACTIONS_MAX: usize = 8192;

/// What could not go on for want of memory or room is tried again after this, in milliseconds.
pub(super) const RETRY_INTERVAL: Millis = 10;

/// The state of an attached store.
pub struct Store {
    pub(super) config: Config,
    pub(super) now: Millis,
    /// When this attach began, and the attached seconds then.
    pub(super) attached_at: (Millis, u64),
    pub(super) mode: Mode,
    pub(super) superblock: KBox<Superblock>,
    /// By slot.
    pub(super) volumes: KVec<VolumeEntry>,
    /// A change of them.
    pub(super) change: Option<Change>,
    /// With that, the volumes that change places with shadows.
    pub(super) replaces: Replaces,
    pub(super) names: Tree,
    pub(super) counts: Tree,
    /// Map entries that own a cluster, as of the last merge.
    pub(super) owner_count: u64,
    pub(super) ops: Ops,
    /// Can run.
    pub(super) ready: WaitList,
    /// Wait for room in journal, overlay or metadata.
    pub(super) admission: WaitList,
    /// Wait for a data cluster.
    pub(super) space_wait: WaitList,
    /// Wait for a checkpoint that gives metadata clusters back, since there are none.
    pub(super) metadata_wait: WaitList,
    /// Wait for a slot of the metadata cache, or for memory for one.
    pub(super) page_wait: WaitList,
    /// When they try again even if no page came or went.
    page_retry: Millis,
    /// Wait for a journal block to be durable.
    pub(super) commit_wait: WaitList,
    /// Are completed by the shell when the journal block in flight is durable.
    pub(super) committing: WaitList,
    /// What admitted requests may still add.
    pub(super) reserved: Reservation,
    pub(super) overlay: KBox<Overlay>,
    pub(super) cache: Cache,
    pub(super) space: KBox<Space>,
    pub(super) index: Index,
    /// Reads or writes the saved index.
    pub(super) copier: Copier,
    pub(super) journal: Journal,
    /// Hash locks: names in flight, to the block that writes the content.
    pub(super) locks: SortedMap<u32>,
    /// Blocks that wait for a twin.
    pub(super) twins: u32,
    /// Clusters that are being compared, with the number of comparisons.
    pub(super) holds: SortedMap<u32>,
    /// Writes that were acknowledged before their data was on disk.
    pub(super) early: KBox<Early>,
    /// Requests that the engine ends when it hears of their data I/O.
    pub(super) listeners: u32,
    /// Reads in flight, by epoch.
    pub(super) reads: [u32; 2],
    /// The epoch that new reads are counted in.
    pub(super) read_epoch: usize,
    pub(super) checkpointer: KBox<Checkpointer>,
    pub(super) recycler: Recycler,
    /// The scrub that goes on, or the last one.
    pub(super) scrub: Option<Scrub>,
    /// The checkpoint that is kept for somebody.
    pub(super) pin: Option<Pin>,
    /// Pins so far.
    pub(super) pins: u64,
    /// Where the reaper looks for the next punch.
    pub(super) reaper_cursor: u64,
    /// The next cluster whose name the index rebuild looks at.
    pub(super) rebuild_cursor: u64,
    /// The recycler found nothing; it looks again from here on.
    pub(super) recycle_after: Millis,
    /// A page that background work waits for.
    pub(super) background_page: Option<SlotId>,
    /// When the oldest record of the open journal block was appended, or the block was written that
    /// nothing vouches for.
    pub(super) open_since: Option<Millis>,
    /// When the overlay got its first change since the last cut.
    pub(super) dirty_since: Option<Millis>,
    /// Nothing can be handed out, and nothing was given up since a whole round found nothing.
    pub(super) exhausted: bool,
    /// Rounds of checkpoint and recycler since somebody began to wait for space.
    pub(super) space_rounds: u32,
    /// When the next rounds may begin, for those that wait however long it takes.
    pub(super) space_retry: Millis,
    pub(super) journal_retries: u32,
    /// The journal may not be written before the next checkpoint is durable.
    pub(super) journal_blocked: bool,
    pub(super) failed: Option<FailReason>,
    /// When a request came or ended last.
    pub(super) served_at: Millis,
    /// Its membership in a replica set.
    pub(super) member: Option<KBox<Member>>,
    /// Where the history of a member that is attached read-only ends.
    pub(super) read_only_position: Option<Position>,
    pub(super) stats: Counters,
    /// Who is told of events.
    pub(super) observer: Option<Observer>,
    pub(super) detach_wanted: bool,
    /// Metadata I/O with the shell.
    meta_in_flight: u32,
    actions: Ring<Action>,
}

/// What recovery hands over.
pub struct Parts {
    pub(super) config: Config,
    pub(super) now: Millis,
    pub(super) superblock: KBox<Superblock>,
    pub(super) volumes: KVec<VolumeEntry>,
    pub(super) overlay: KBox<Overlay>,
    pub(super) cache: Cache,
    pub(super) space: KBox<Space>,
    pub(super) journal: Journal,
    /// The index that the last detach saved.
    pub(super) saved: SavedIndex,
    pub(super) blob_places: [KVec<Cluster>; 2],
    pub(super) reason: Option<FailReason>,
    pub(super) journal_blocked: bool,
    /// Its membership in a replica set, if it is in one and may be written.
    pub(super) member: Option<KBox<Member>>,
    /// Else where the history of a member ends.
    pub(super) position: Option<Position>,
}

impl Store {
    /// Puts an attached store together.
    // In a frame of its own: with its caller's it would be too large for the stack.
    #[inline(never)]
    pub(super) fn new(parts: Parts) -> Result<KBox<Store>> {
        let superblock = &parts.superblock;
        let clusters = superblock.layout.clusters;
        let (names, counts) = trees(superblock);
        let generation = superblock.checkpoint.generation;
        let owner_count = superblock.checkpoint.owner_count;
        let mut actions = Ring::new();
        actions.reserve(ACTIONS_MAX)?;
        let read_only = parts.reason.is_some() || parts.config.read_only;
        let mode = if read_only {
            Mode::ReadOnly
        } else {
            Mode::Attached
        };
        let index = Index::new(parts.config.index_bytes)?;
        let stage_tags = match parts.member.is_some() {
            true => STAGE_TAGS + HEAL_TAGS + REPAIR_TAGS,
            false => 0,
        };
        let usable = !read_only && parts.saved.buckets == index.buckets();
        let saved = match usable {
            true => parts.saved,
            false => SavedIndex::default(),
        };
        let rebuild_cursor = saved.named.clamp(1, clusters.max(1));
        let copier = Copier::new(saved, superblock.checkpoint.number);
        let attached_at = (parts.now, superblock.checkpoint.attached_seconds);
        // Also a journal without a change that is left takes room, which a checkpoint frees.
        let dirty = parts.journal.used() > 0 || parts.journal_blocked;
        // In its place: it is too large for the stack.
        KBox::try_init(
            try_init!(Store {
                config: parts.config,
                now: parts.now,
                attached_at,
                mode,
                superblock: parts.superblock,
                volumes: parts.volumes,
                change: None,
                replaces: Replaces::default(),
                names,
                counts,
                owner_count,
                ops: Ops::new(parts.config.queue_depth + stage_tags + SCRUB_TAGS)?,
                ready: WaitList::new(),
                admission: WaitList::new(),
                space_wait: WaitList::new(),
                metadata_wait: WaitList::new(),
                page_wait: WaitList::new(),
                page_retry: 0,
                commit_wait: WaitList::new(),
                committing: WaitList::new(),
                reserved: Reservation::default(),
                dirty_since: dirty.then_some(parts.now),
                journal_blocked: parts.journal_blocked,
                overlay: parts.overlay,
                cache: parts.cache,
                space: parts.space,
                index,
                copier,
                journal: parts.journal,
                locks: with_room(4096)?,
                twins: 0,
                holds: with_room(4096)?,
                early: Early::new()?,
                listeners: 0,
                reads: [0; 2],
                read_epoch: 0,
                checkpointer: Checkpointer::new(generation, parts.now, parts.blob_places)?,
                recycler: Recycler::new()?,
                scrub: None,
                pin: None,
                pins: 0,
                reaper_cursor: 0,
                rebuild_cursor,
                recycle_after: 0,
                background_page: None,
                open_since: None,
                exhausted: false,
                space_rounds: 0,
                space_retry: 0,
                journal_retries: 0,
                failed: parts.reason,
                served_at: 0,
                member: parts.member,
                read_only_position: parts.position,
                stats: Counters::default(),
                observer: None,
                detach_wanted: false,
                meta_in_flight: 0,
                actions,
            }),
            GFP_KERNEL,
        )
    }

    /// Queues an action for the shell.
    pub(super) fn act(&mut self, action: Action) {
        let meta = matches!(
            action,
            Action::ReadMeta { .. }
                | Action::WriteMeta { .. }
                | Action::Flush { .. }
                | Action::DiscardRun { .. }
        );
        match self.actions.push(action) {
            Ok(()) => self.meta_in_flight += u32::from(meta),
            // The shell did not drain: a bug there. Losing an action would lose a request.
            Err(_) => {
                self.failed.get_or_insert(FailReason::Overrun);
            }
        }
    }

    /// The next action; runs requests that can run until there is one.
    pub(super) fn poll(&mut self) -> Option<Action> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Some(action);
            }
            if let Some(tag) = self.next_ready() {
                self.run(tag);
                continue;
            }
            self.member_step();
            self.commit();
            self.end_detach();
            if self.actions.is_empty() {
                // What the set wants staged is in the queue of admission by now.
                let tag = self.next_ready()?;
                self.run(tag);
            }
        }
    }

    fn next_ready(&mut self) -> Option<Tag> {
        if let Some(tag) = self.ops.unpark(&mut self.ready) {
            return Some(tag);
        }
        // The admission queue is served in order, so that nobody starves.
        loop {
            let tag = self.admission.first()?;
            match self.try_admit(tag) {
                Admission::Granted => return self.ops.unpark(&mut self.admission),
                Admission::Later => return None,
                // Those behind it may be what gives space back.
                Admission::NoSpace => {
                    self.ops.unpark(&mut self.admission);
                    self.ops.park(&mut self.metadata_wait, tag);
                }
            }
        }
    }

    fn run(&mut self, tag: Tag) {
        let Some(op) = self.ops.get_mut(tag) else {
            return;
        };
        if op.phase == Phase::Admission {
            op.phase = Phase::Running;
        }
        if op.phase == Phase::Commit {
            // It was woken on its way to waiting for the commit.
            return self.wait_for_commit(tag);
        }
        if op.phase != Phase::Running {
            return;
        }
        match op.request.kind {
            OpKind::Read => self.run_read(tag),
            OpKind::Write => self.run_write(tag),
            OpKind::Flush => self.run_flush(tag),
            OpKind::Discard | OpKind::WriteZeroes => self.run_discard(tag),
        }
    }

    /// A request came.
    pub(super) fn submit(&mut self, now: Millis, request: Request, blocks: &[BlockContent]) {
        self.now = self.now.max(now);
        self.served_at = self.now;
        let tag = request.tag;
        if let Err(status) = self.check_request(&request, blocks) {
            return self.act(Action::Complete { tag, status });
        }
        if !self.prepare_op(request, blocks) {
            return self.act(Action::Complete {
                tag,
                status: Status::Io,
            });
        }
        self.ops.in_flight += 1;
        if !self.follow(&request) {
            self.let_in(tag);
        }
    }

    /// A request begins.
    pub(super) fn let_in(&mut self, tag: Tag) {
        // While it followed others it was none of those that were failed for this.
        if self.is_refusing() {
            mark!(member_refuses_follower);
            return self.finish(tag, Status::Io);
        }
        let Some(op) = self.ops.get_mut(tag) else {
            return;
        };
        let kind = op.request.kind;
        match kind {
            OpKind::Read | OpKind::Flush => {
                op.phase = Phase::Running;
                match kind == OpKind::Read && self.lacks_lease() {
                    true => self.await_lease(tag),
                    false => self.ops.park(&mut self.ready, tag),
                }
            }
            _ => self.ops.park(&mut self.admission, tag),
        }
    }

    fn check_request(&self, request: &Request, blocks: &[BlockContent]) -> Result<(), Status> {
        let kind = request.kind;
        let idle = self
            .ops
            .get(request.tag)
            .is_some_and(|op| op.phase == Phase::Idle);
        if !idle || matches!(self.mode, Mode::Detaching | Mode::Detached) {
            return Err(Status::Io);
        }
        if self.is_refusing() {
            return Err(Status::Io);
        }
        if kind == OpKind::Flush {
            return Ok(());
        }
        let size = self.blocks_of(request.volume as usize);
        let end = request
            .lbn
            .0
            .checked_add(request.count)
            .ok_or(Status::Range)?;
        let too_many = matches!(kind, OpKind::Read | OpKind::Write)
            && request.count > REQUEST_BLOCKS_MAX.into();
        let content_fits = kind != OpKind::Write || blocks.len() as u64 == request.count;
        if request.count == 0 || end > size || too_many || !content_fits {
            return Err(Status::Range);
        }
        if kind != OpKind::Read && self.is_being_replaced(request.volume as usize) {
            return Err(Status::Range);
        }
        if kind != OpKind::Read && self.mode != Mode::Attached {
            return Err(if self.config.read_only {
                Status::ReadOnly
            } else {
                Status::Io
            });
        }
        Ok(())
    }

    pub(super) fn prepare_op(&mut self, request: Request, contents: &[BlockContent]) -> bool {
        use super::op::{Block, BlockState, NO_TWIN};
        let Some(op) = self.ops.get_mut(request.tag) else {
            return false;
        };
        let count = match request.kind {
            OpKind::Read | OpKind::Write => request.count as usize,
            _ => 0,
        };
        op.blocks.clear();
        if op.blocks.reserve(count, GFP_KERNEL).is_err() {
            return false;
        }
        for i in 0..count {
            let block = Block {
                content: contents.get(i).copied().unwrap_or_default(),
                cluster: Cluster::NONE,
                state: BlockState::Start,
                retries: 0,
                alone: false,
                passed: 0,
                lost: false,
                owner: false,
                twin: NO_TWIN,
            };
            let _ = op.blocks.push_within_capacity(block);
        }
        op.request = request;
        op.phase = Phase::Admission;
        op.cursor = 0;
        op.io = 0;
        op.todo = count as u32;
        op.status = Status::Ok;
        op.handed_over = false;
        op.early = false;
        op.listens = false;
        op.sequence = 0;
        op.reservation = Reservation::default();
        op.since = self.now;
        op.heal_since = None;
        op.key = 0;
        op.stage = None;
        if request.kind == OpKind::Read {
            op.epoch = self.read_epoch;
            if let Some(reads) = self.reads.get_mut(self.read_epoch) {
                *reads += 1;
            }
        }
        true
    }

    /// A request is over, as far as the engine is concerned. If the shell was not told to complete
    /// it by itself it is told now, with `status`.
    pub(super) fn finish(&mut self, tag: Tag, status: Status) {
        self.release_reservation(tag);
        self.end_early(tag);
        self.stop_listening(tag);
        let Some(op) = self.ops.get_mut(tag) else {
            return;
        };
        let completed = op.handed_over;
        if op.request.kind == OpKind::Read {
            let epoch = op.epoch;
            if let Some(reads) = self.reads.get_mut(epoch) {
                *reads = reads.saturating_sub(1);
            }
        }
        op.phase = Phase::Idle;
        op.handed_over = false;
        self.ops.in_flight -= 1;
        if tag < self.config.queue_depth {
            self.served_at = self.now;
        }
        if status == Status::NoSpace {
            self.stats.no_space += 1;
        }
        if !completed {
            self.act(Action::Complete { tag, status });
        }
    }

    /// A request waits for nothing but its data I/O, and is ended here and not by the shell.
    pub(super) fn listen(&mut self, tag: Tag) {
        if let Some(op) = self.ops.get_mut(tag).filter(|op| !op.listens) {
            op.listens = true;
            self.listeners += 1;
        }
    }

    /// What it listened for was heard.
    pub(super) fn stop_listening(&mut self, tag: Tag) {
        if let Some(op) = self.ops.get_mut(tag) {
            self.listeners -= u32::from(core::mem::take(&mut op.listens));
        }
    }

    /// Lets a request run again, if it is not in a list already.
    pub(super) fn wake(&mut self, tag: Tag) {
        self.ops.park(&mut self.ready, tag);
    }

    /// Lets all requests of a list run again.
    pub(super) fn wake_all(&mut self, list: WaitList) {
        self.ops.append(&mut self.ready, list);
    }

    /// The map of a volume as the cache walks it.
    pub(super) fn map(&self, slot: usize) -> Option<Tree> {
        let volume = self.volumes.get(slot)?;
        Some(Tree {
            id: volume.map,
            root: volume.root,
            levels: volume.levels,
            leaf: MAP_LEAF,
            parent_generation: volume.parent_generation.0,
        })
    }

    /// What the journal writes into its headers.
    pub(super) fn identity(&self) -> Identity {
        Identity {
            uuid: self.superblock.uuid,
            superblock_generation: self.superblock.generation,
            attached_seconds: self.attached_seconds(),
            hash: self.config.hash,
        }
    }

    /// Seconds for which the store was attached, in all.
    pub(super) fn attached_seconds(&self) -> u64 {
        let (at, before) = self.attached_at;
        before + self.now.saturating_sub(at) / 1000
    }

    /// Metadata I/O ended.
    pub(super) fn meta_done(&mut self, token: IoToken, buf: Buf, ok: bool) {
        self.meta_in_flight = self.meta_in_flight.saturating_sub(1);
        match token {
            IoToken::Recovery => {}
            IoToken::PageRead(slot) => self.page_read_done(slot, buf, ok),
            IoToken::Journal => self.journal_done(buf, ok),
            IoToken::PageWrite(_) | IoToken::LoosePage(_) | IoToken::Superblock(_) => {
                self.checkpoint_io_done(token, buf, ok)
            }
            IoToken::ConfigSlot => self.slot_done(buf, ok),
            IoToken::FrozenPage => self.frozen_page_done(buf, ok),
            IoToken::IndexChunk => self.copier.io_done(buf, ok),
            IoToken::Discard | IoToken::RecyclerFlush => self.recycler_io_done(token, ok),
        }
    }

    /// One bounded step of each background job.
    pub(super) fn background(&mut self) -> bool {
        if !self.page_wait.is_empty() && self.now >= self.page_retry {
            self.page_retry = self.now + RETRY_INTERVAL;
            self.wake_page_waiters();
        }
        self.end_pin_if_due();
        self.member_tick();
        self.heal_tick();
        let scrubs = self.scrub_step();
        if !self.is_writable() {
            return scrubs;
        }
        let mut more = scrubs | self.commit_if_due();
        more |= self.space_step();
        more |= self.checkpoint_step();
        more |= self.recycler_step();
        more |= self.reaper_step();
        more |= self.load_step();
        more |= self.rebuild_step();
        more |= self.space_round_step();
        more
    }

    /// When background work is due without any input.
    pub(super) fn next_deadline(&self) -> Option<Millis> {
        let pages = (!self.page_wait.is_empty()).then_some(self.now + RETRY_INTERVAL);
        if matches!(self.mode, Mode::Detached | Mode::ReadOnly) {
            return match (pages, self.scrub_deadline()) {
                (Some(pages), Some(scrub)) => Some(pages.min(scrub)),
                (pages, scrub) => pages.or(scrub),
            };
        }
        let knobs = &self.config.knobs;
        let commit = self.open_since.map(|at| at + knobs.commit_interval);
        let idle = !self.checkpointer.is_running();
        let held = self.pin_holds_cut();
        let can_cut = idle && self.journal.can_cut() && !held;
        let due = |at| at + knobs.checkpoint_interval;
        let checkpoint = self.dirty_since.filter(|_| can_cut).map(due);
        // Waiting for memory, space, age or room: look again soon.
        let waits = !self.admission.is_empty();
        let starve = (!self.space_wait.is_empty())
            .then_some(self.space_retry.max(self.now + RETRY_INTERVAL));
        let rest = self.recycler_rest();
        let recycles = self.recycler.is_busy() && rest.is_none();
        let retry = (waits || !idle && !held || recycles).then_some(self.now + RETRY_INTERVAL);
        let rest = rest.filter(|_| self.recycler.is_busy());
        let aged =
            (self.space.junk > 0 && self.space.free < knobs.keep_erased).then_some(self.now + 1000);
        let reap = (self.overlay.punches() > 0).then_some(self.now + RETRY_INTERVAL);
        let full = can_cut && self.is_half_full();
        let supply = self.space.wants_next() && self.space.free > 0;
        let load = self.mode == Mode::Attached && self.copier.wants_step();
        let now = (full || load || supply && self.background_page.is_none()).then_some(self.now);
        let pin = self.pin_deadline();
        let at = |deadline: Option<Millis>| deadline.unwrap_or(Millis::MAX);
        let next = at(pages)
            .min(at(pin))
            .min(at(self.member_deadline()))
            .min(at(self.heal_deadline()))
            .min(at(self.scrub_deadline()))
            .min(at(commit))
            .min(at(checkpoint))
            .min(at(retry))
            .min(at(rest))
            .min(at(starve))
            .min(at(aged))
            .min(at(reap))
            .min(at(now));
        (next < Millis::MAX).then_some(next)
    }

    /// Whether a completion that the shell has not reported may hold somebody up.
    pub(super) fn is_eager(&self) -> bool {
        !self.admission.is_empty()
            || !self.space_wait.is_empty()
            || self.twins > 0
            || self.early.is_followed()
            || self.listeners > 0 && !mutant!(38)
            || self.is_quiescing()
            || self.recycler.is_pressed()
            || !self.commit_wait.is_empty()
            || self.journal.has_sealed()
            || self.mode == Mode::Detaching
    }

    /// The end of a detach: nothing is with the shell, and nothing is left to be made durable.
    fn end_detach(&mut self) {
        let clean = self.mode == Mode::Detaching;
        let done = match self.mode {
            Mode::Detaching => self.checkpointer.is_done() && !self.journal.is_busy(),
            Mode::ReadOnly => self.detach_wanted,
            Mode::Attached | Mode::Detached => false,
        };
        if done && self.meta_in_flight == 0 && !self.scrub_reads() {
            self.mode = Mode::Detached;
            let whole = clean || self.failed.is_none() || self.config.read_only;
            let nothing_lost = whole && !self.early.has_lost();
            self.act(Action::Detached(nothing_lost));
        }
    }

    /// Something on disk, or of the disk, makes further changes unsafe: the store becomes
    /// read-only. Requests that wait for a change fail; what was acknowledged and not flushed is
    /// still read, and the next FLUSH fails.
    pub(super) fn fail(&mut self, reason: FailReason) {
        if self.failed.is_some() {
            return;
        }
        self.failed = Some(reason);
        self.mode = Mode::ReadOnly;
        self.checkpointer.stop();
        self.act(Action::Failed(reason));
        self.end_change(false);
        self.fail_member();
        let waiting = [
            &mut self.admission,
            &mut self.space_wait,
            &mut self.metadata_wait,
            &mut self.commit_wait,
        ]
        .map(core::mem::take);
        for list in waiting {
            self.fail_waiting(list);
        }
    }

    /// Lets requests end that wait for what will not come.
    pub(super) fn fail_waiting(&mut self, mut list: WaitList) {
        while let Some(tag) = self.ops.unpark(&mut list) {
            if let Some(op) = self.ops.get_mut(tag) {
                op.status = Status::Io;
                op.phase = Phase::Running;
            }
            self.ops.park(&mut self.ready, tag);
        }
    }

    /// Changes what can be changed. Those that wait for space ask again.
    pub(super) fn set_knobs(&mut self, knobs: Knobs) {
        self.config.knobs = knobs;
        self.space_retry = 0;
        self.exhausted = false;
        self.wake_starved();
        self.wake_metadata_waiters();
    }

    /// Starts to make everything durable.
    pub(super) fn detach(&mut self) {
        self.detach_wanted = true;
        self.shut_member();
        if self.mode == Mode::Attached {
            self.mode = Mode::Detaching;
        }
    }

    /// How the shell names and checks content.
    pub(super) fn fingerprint(&self) -> FingerprintParams {
        FingerprintParams {
            algorithm: self.superblock.fingerprint,
            name_key: self.superblock.name_key,
            check_key: self.superblock.check_key,
        }
    }

    /// The volume in a slot.
    pub(super) fn volume_info(&self, slot: u32) -> Option<VolumeInfo> {
        self.present(slot).filter(|v| v.is_shown())?;
        self.info_of(slot)
    }

    /// The volume or shadow in a slot.
    pub(super) fn info_of(&self, slot: u32) -> Option<VolumeInfo> {
        let volume = self.present(slot)?;
        Some(VolumeInfo {
            id: volume.id,
            uuid: volume.uuid,
            blocks: volume.size(),
            releasing: self.releasing(slot as usize),
        })
    }

    /// Counters and gauges.
    pub(super) fn counters(&self) -> Counters {
        Counters {
            clusters_total: self.superblock.layout.clusters,
            clusters_fixed: self.superblock.layout.fixed_segments() * SEGMENT_CLUSTERS,
            blocks_mapped: self.owner_count,
            clusters_live: self.space.live,
            clusters_junk: self.space.junk,
            clusters_free: self.space.free,
            metadata_capacity: self.space.metadata_capacity(),
            metadata_free: self.space.metadata_free,
            index_used: self.index.used(),
            index_capacity: self.index.capacity(),
            index_bytes: self.index.bytes(),
            cache_pages: self.cache.pages() as u64,
            overlay_points: self.overlay.active.points.len() as u64,
            journal_used: self.journal.used(),
            journal_clusters: self.journal.ring(),
            journal_blocks: self.journal.blocks_written,
            journal_bytes: self.journal.bytes_written,
            punches: self.overlay.punches() as u64,
            ..self.stats
        }
    }

    /// Whether there is room for what the set may ask for next.
    pub(super) fn actions_room(&self) -> bool {
        self.actions.len() < ACTIONS_MAX / 2
    }

    /// Takes a hold on a cluster: it is neither retired nor reused.
    pub(super) fn hold(&mut self, cluster: Cluster) -> bool {
        let count = self.holds.get(cluster.0).unwrap_or(0);
        self.holds.insert(cluster.0, count + 1).is_ok()
    }

    /// Gives a hold back.
    pub(super) fn unhold(&mut self, cluster: Cluster) {
        match self.holds.get(cluster.0) {
            Some(count) if count > 1 => {
                let _ = self.holds.insert(cluster.0, count - 1);
            }
            _ => {
                self.holds.remove(cluster.0);
            }
        }
    }
}

/// The name tree and the count tree of a checkpoint.
pub(super) fn trees(superblock: &Superblock) -> (Tree, Tree) {
    use super::format::page::levels_for;
    let clusters = superblock.layout.clusters;
    let tree = |id, root, leaf| Tree {
        id,
        root,
        levels: levels_for(clusters, leaf),
        leaf,
        parent_generation: 0,
    };
    (
        tree(tree::NAMES, superblock.checkpoint.names, NAME_LEAF),
        tree(tree::COUNTS, superblock.checkpoint.counts, COUNT_LEAF),
    )
}

/// A name that may be looked up: not that of content that nothing shares.
pub(super) fn is_shareable(name: &Name) -> bool {
    *name != Name::NONE
}

fn with_room(entries: usize) -> Result<SortedMap<u32>> {
    let mut map = SortedMap::new();
    map.reserve(entries)?;
    Ok(map)
}
