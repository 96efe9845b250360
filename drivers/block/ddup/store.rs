// SPDX-License-Identifier: GPL-2.0

//! The store: runs an engine against a backing device.
//!
//! Whoever brings requests puts them into [`Store::incoming`] and tries to get the lock. Who gets it
//! takes a turn: tells the engine what was completed, gives it requests, and turns its actions into
//! bios, which are submitted when the lock is free again. Who does not get it goes away: the one who
//! has the lock looks into the inbox again after he gave it up. What must wait, and all background
//! work, is done by the [`Worker`].
//!
//! # Context and locks
//!
//! - `inner` is the engine's lock. Below it are only memory allocation (in a `NoIo` scope) and the
//!   inboxes, which are lock-free. It is never taken in a completion.
//! - Completions report to the worker's inbox; see [`crate::io`]. They wake the worker only if
//!   somebody waits for what the engine will do with them ("eager"). Else the next turn finds them,
//!   at the latest at the engine's next deadline.
//! - A turn never reclaims memory, since reclaim may wait for it: it takes from the system's reserves
//!   or fails, which the engine can cope with.
//! - Memory for bios is taken without waiting. If there is none, the action is kept ("stalled"), and
//!   done when a bio of ours has been completed or a few milliseconds have passed; the reserve of
//!   the bio set makes sure that one comes back.

mod member;
mod scrub;

pub(crate) use self::member::Waiting;

use self::{member::Membership, scrub::ScrubNews};
use crate::{
    compared::Compared,
    content::{self, BLOCK_SIZE},
    engine::{
        self,
        replication::types::{BLOCKS_WAIT_MAX, MEMBERS_MAX},
        show::{Object, RequestState, SegmentCounts, SlotCounts},
        types::CLUSTER_SHIFT,
        Action, Buf, Check, Cluster, Config, Counters, DataResult, Durability, Engine, FailReason,
        FingerprintParams, IoToken, Knobs, Lbn, Millis, OpKind, Status, Tag, VolumeChange,
        VolumeInfo,
    },
    io::{Commit, Committed, DataIo, Io, MetaIo, Reader, Then, Work, COMMITTED_MAX},
    queue::{self, Queue},
    recent::Recent,
    trace::{self, DataWork, RequestId},
    uapi,
    worker::Worker,
    write_data::{WriteData, WriteDataPool},
};
use core::fmt;
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, Completion, Mutex,
    },
    time::{delay::fsleep, BootTime, Delta, Instant},
};
use kstage::{
    block::{
        self,
        bdev::BlockDevice,
        bio::{self, Bio, BioList, BioSet, Completed},
        mq::{Part, Request},
        Op, OpFlags, SECTOR_SHIFT,
    },
    genetlink::Message,
    hash,
    llist::{Batch, Inbox},
    mm::{NoReclaim, Wait},
    page_pool::PagePool,
    sync::smp_mb,
    time,
    workqueue::OwnedQueue,
};

/// Requests that the engine has at once.
pub(crate) const SLOTS: u32 = 512;

/// Bios that are there even when memory is not.
const BIO_RESERVE: u16 = 64;

/// Pages for copies of data that go from one write to the next, 2 MiB; two of the largest writes.
/// What more is needed comes from the system, if it has it.
const PAGE_RESERVE: u16 = 512;

/// Writes whose data is held at once, in slots and on the way there: those of the queues of a volume
/// on two processors, and those that are acknowledged early.
const WRITES_MAX: usize = 256 + engine::EARLY_WRITES_MAX;

/// Pages for blocks that come from peers or go to them that are there even when memory is not: two
/// frames of the largest.
const PEER_RESERVE: u16 = 128;
// Those that wait for others to share a frame leave some.
const _: () = assert!(MEMBERS_MAX * BLOCKS_WAIT_MAX < PEER_RESERVE as usize);

/// Pages for comparisons that are there even when memory is not.
const COMPARE_RESERVE: u16 = 32;

/// Requests that one turn gives to the engine.
const TURN_REQUESTS: u32 = 64;

/// With so many requests under way a submitter leaves his to the worker: while that takes them, in
/// batches whose neighbouring bios merge, he brings more. With fewer it would cost more to wake the
/// worker than it helps.
const CROWD: u32 = 8;

/// So many bytes of reads and writes count as one request more.
const CROWD_BYTES: u32 = 32 << 10;

/// A submitter takes no turn if less of his stack is left, in bytes.
const STACK_MIN: usize = 7 << 10;

/// Turns that one submitter takes for others.
const SUBMITTER_TURNS: u32 = 4;

/// Turns of the worker before it queues itself anew.
const WORKER_TURNS: u32 = 64;

/// After this many milliseconds a stalled action is tried again.
const STALL_MS: u32 = 2;

/// Background work that is due, but has nothing to do now, is looked at again after this.
const DUE_MS: u32 = 10;

/// Block changes that wait for one checkpoint at most.
const POINTS_MAX: u32 = 1 << 16;

/// A change of a volume is refused if it could not begin after so many tries, and the time between.
const CHANGE_TRIES: u32 = 100;
const CHANGE_RETRY_MS: i64 = 20;

/// The engine hears of completions after this many milliseconds at the latest.
const REPORT_MS: Millis = 1000;

/// Sectors of a cluster, as a shift.
pub(crate) const CLUSTER_SECTOR_SHIFT: u32 = CLUSTER_SHIFT - SECTOR_SHIFT;

/// A request that the engine has, by its tag.
struct Slot {
    /// The request; None when it is handed over, has ended, or the slot is free.
    part: Option<Part<Queue>>,
    /// What it is called in events.
    request: RequestId,
    /// What a write writes.
    write: Option<Arc<WriteData>>,
    /// How its bios are to be treated.
    hints: OpFlags,
    /// Data bios of which the engine has not heard.
    bios: u32,
    /// What it counts for in the crowd.
    weight: u32,
    hold: Hold,
}

/// Who keeps a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// Nobody.
    Free,
    /// A request. Its slot is free when that is gone, and its bios are.
    Request,
    /// The engine: it has acknowledged the write and is not done with it.
    Engine,
}

/// Neighbouring blocks of a request that are to be read from neighbouring clusters.
#[derive(Clone, Copy)]
struct ReadRun {
    tag: Tag,
    block: u32,
    count: u32,
    cluster: Cluster,
}

/// How far the store is.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Starting,
    Started,
    /// It could not be attached.
    Refused(FailReason),
    Detaching,
    /// Whether all is durable.
    Detached(bool),
}

/// What is left to do at the end of a turn.
enum Settled {
    /// Nothing, until something happens.
    Idle,
    /// Requests wait that the engine could have.
    Requests,
    /// Background work is due.
    Due,
}

/// What the lock guards.
struct Inner {
    engine: Engine,
    slots: KVec<Slot>,
    free: KVec<Tag>,
    /// Where the data of writes that are over goes.
    write_data: Arc<WriteDataPool>,
    /// What the requests in slots count for.
    crowd: u32,
    /// Requests that were taken from the inbox and have no slot yet.
    backlog: Option<Batch<Request<Queue>>>,
    /// Content to compare with.
    compared: Compared,
    /// Content that peers may be sent.
    recent: Recent,
    /// Blocks that are to be read; the next action may add to them.
    run: Option<ReadRun>,
    /// An action that waits for memory.
    stalled: Option<Action>,
    /// Requests that end with the write of the journal that is about to be sent.
    commit: Commit,
    /// A write that a flush has to follow. Only the journal asks for that, for one block at a time.
    flush: Option<MetaIo>,
    /// When the worker's timer will run.
    armed: Option<Millis>,
    phase: Phase,
    /// Why the store failed, after it was attached.
    failure: Option<FailReason>,
    /// Nobody was told of `failure` yet.
    untold: bool,
    /// What the last check from outside said.
    check: Option<CheckReport>,
    /// Who waits for a change of a volume.
    change: Option<Arc<Waiter>>,
    /// A request that was taken from the inbox and waits for a stalled action.
    next: Option<Request<Queue>>,
    /// Somebody is told of the engine's events.
    observed: bool,
    /// What a scrub found that nobody was told of.
    scrub: ScrubNews,
    /// What a member of a replica set has beside the engine.
    member: Membership,
}

/// A store that is attached, or about to be.
#[pin_data]
pub(crate) struct Store {
    #[pin]
    inner: Mutex<Inner>,
    incoming: Inbox<Request<Queue>>,
    /// Requests must stay in the inbox: there is no slot, or an action is stalled.
    blocked: Atomic<i32>,
    /// So many requests are under way that submitters leave theirs to the worker.
    crowded: Atomic<i32>,
    /// The worker will look at the inbox once more before it sleeps.
    awake: Atomic<i32>,
    worker: Arc<Worker>,
    bios: BioSet<Io>,
    pages: PagePool,
    write_data: Arc<WriteDataPool>,
    /// Pages to compare with. Apart from those of requests, which hold theirs until they were
    /// compared.
    compare_pages: PagePool,
    /// Pages of blocks that come from peers or go to them.
    peer_pages: PagePool,
    /// The next handle of a block that came from a peer.
    handles: Atomic<u64>,
    /// The volumes take requests.
    serves: Atomic<i32>,
    /// Key of checks, once it is known.
    check_key: Atomic<u64>,
    can_discard: bool,
    /// The store takes requests.
    live: Atomic<i32>,
    epoch: Instant<BootTime>,
    #[pin]
    started: Completion,
    #[pin]
    detached: Completion,
}

/// Who waits for a change of a volume.
#[pin_data]
struct Waiter {
    #[pin]
    done: Completion,
    /// Whether it was made.
    ok: Atomic<i32>,
}

/// What a check from outside says of itself.
#[derive(Clone, Copy, Default)]
pub(crate) struct CheckReport {
    /// Names the check.
    pub(crate) cookie: u64,
    /// Pages that were examined.
    pub(crate) pages: u64,
    /// Things that are wrong.
    pub(crate) findings: u64,
    /// The segment table was read.
    pub(crate) table_read: bool,
    /// It has ended.
    pub(crate) done: bool,
}

impl CheckReport {
    /// Adds its numbers to a message.
    pub(crate) fn put(&self, message: &mut Message<'_>) -> Result {
        message.put_uint(uapi::DDUP_A_DEVICE_CHECK_PAGES, self.pages)?;
        message.put_uint(uapi::DDUP_A_DEVICE_CHECK_FINDINGS, self.findings)
    }
}

/// What a store is attached with.
pub(crate) struct Options {
    pub(crate) read_only: bool,
    /// Memory for pages of the trees.
    pub(crate) cache_bytes: u64,
    /// Memory for the index.
    pub(crate) index_bytes: u64,
}

impl Store {
    /// Attaches the store on `device`: recovers it, and lets it take requests. May sleep for as long
    /// as recovery takes.
    // In a frame of its own: with its caller's it would be too large for the stack.
    #[inline(never)]
    pub(crate) fn attach(
        device: Arc<BlockDevice>,
        queue: Arc<OwnedQueue>,
        options: &Options,
    ) -> Result<Result<Arc<Store>, FailReason>> {
        let engine = Engine::new(Config {
            store_clusters: device.size_bytes() >> CLUSTER_SHIFT,
            read_only: options.read_only,
            queue_depth: SLOTS,
            cache_pages: u32::try_from(options.cache_bytes >> CLUSTER_SHIFT)?.max(64),
            index_bytes: options.index_bytes,
            fresh: [kstage::random::bytes(), kstage::random::bytes()],
            points_max: POINTS_MAX,
            hash: kstage::hash::xxh64,
            knobs: Knobs::default(),
        })?;
        let mut slots = KVec::with_capacity(SLOTS as usize, GFP_KERNEL)?;
        let mut free = KVec::with_capacity(SLOTS as usize, GFP_KERNEL)?;

        for tag in 0..SLOTS {
            slots.push(
                Slot {
                    part: None,
                    request: RequestId::default(),
                    write: None,
                    hints: OpFlags::NONE,
                    bios: 0,
                    weight: 0,
                    hold: Hold::Free,
                },
                GFP_KERNEL,
            )?;
            free.push(tag, GFP_KERNEL)?;
        }
        let compared = Compared::new()?;
        let recent = Recent::new()?;
        let scrub = ScrubNews::new()?;
        let member = Membership::new()?;
        let write_data = WriteDataPool::new(WRITES_MAX)?;
        let back = write_data.clone();
        // In its place: it is large for the stack.
        let inner = init!(Inner {
            engine,
            slots,
            free,
            write_data: back,
            crowd: 0,
            backlog: None,
            compared,
            recent,
            run: None,
            stalled: None,
            commit: Commit::default(),
            flush: None,
            armed: None,
            phase: Phase::Starting,
            failure: None,
            untold: false,
            check: None,
            change: None,
            next: None,
            observed: false,
            scrub,
            member,
        });

        let can_discard = device.limits().max_discard_sectors > 0;
        let worker = Worker::new(queue, device.devt())?;
        let bios = BioSet::new(device, BIO_RESERVE, worker.clone())?;
        let pages = PagePool::new(PAGE_RESERVE)?;
        let compare_pages = PagePool::new(COMPARE_RESERVE)?;
        let peer_pages = PagePool::new(PEER_RESERVE)?;
        let store = Arc::pin_init(
            pin_init!(Store {
                inner <- new_mutex!(inner, "ddup::Store::inner"),
                incoming: Inbox::new(),
                blocked: Atomic::new(0),
                crowded: Atomic::new(0),
                awake: Atomic::new(0),
                worker,
                bios,
                pages,
                write_data,
                compare_pages,
                peer_pages,
                handles: Atomic::new(0),
                serves: Atomic::new(1),
                check_key: Atomic::new(0),
                can_discard,
                live: Atomic::new(0),
                epoch: Instant::now(),
                started <- Completion::new(),
                detached <- Completion::new(),
            }),
            GFP_KERNEL,
        )?;

        store.worker.start(store.clone());
        {
            let mut inner = store.inner.lock();
            let now = store.now();

            inner.engine.start(now);
        }
        store.worker.kick();
        store.started.wait_for_completion();

        let refused = match store.inner.lock().phase {
            Phase::Refused(reason) => Some(reason),
            _ => None,
        };
        if let Some(reason) = refused {
            store.worker.stop();
            return Ok(Err(reason));
        }
        let params = store.fingerprint().ok_or(EINVAL)?;
        store.check_key.store(params.check_key, Relaxed);
        store.live.store(1, Relaxed);
        store.await_lead();
        Ok(Ok(store))
    }

    /// Detaches the store, whose requests have all ended and whose disk is gone. Returns whether all
    /// of it is durable. May sleep.
    pub(crate) fn detach(self: Arc<Self>) -> bool {
        self.leave_set();
        self.end_sessions();
        {
            let mut inner = self.inner.lock();
            let mut bios = BioList::new();
            let now = self.now();

            self.turn(&mut inner, now, &mut bios);
            inner.phase = Phase::Detaching;
            inner.engine.detach(now);
            drop(inner);
            bios.submit();
        }
        self.worker.kick();
        self.detached.wait_for_completion();
        self.inner.lock().member.fail_commands();
        self.worker.stop();

        let clean = matches!(self.inner.lock().phase, Phase::Detached(true));
        clean
    }

    /// Requests that wait for space fail, now and from here on, and so do FLUSHes that wait for
    /// members of a set: the disk is to go. May sleep.
    pub(crate) fn stop_waiting(&self) {
        self.change_knobs(|knobs| knobs.wait_for_space = false);
        self.leave_set();
    }

    /// Pages for copies of data.
    pub(crate) fn pages(&self) -> &PagePool {
        &self.pages
    }

    /// What holds the data of writes.
    pub(crate) fn write_data(&self) -> &WriteDataPool {
        &self.write_data
    }

    /// Sees to it that the engine hears of completions soon, and gives back what it can. Any context.
    pub(crate) fn look_for_completions(&self) {
        self.worker.kick();
    }

    /// The backing device.
    pub(crate) fn device(&self) -> &BlockDevice {
        self.bios.device()
    }

    /// How content is named and checked. May sleep.
    pub(crate) fn fingerprint(&self) -> Option<FingerprintParams> {
        self.with_engine(|engine| engine.fingerprint())
    }

    /// The volume in a slot. May sleep.
    pub(crate) fn volume(&self, slot: u32) -> Option<VolumeInfo> {
        self.with_engine(|engine| engine.volume(slot))
    }

    /// Slots of volumes; some may be vacant. May sleep.
    pub(crate) fn volume_slots(&self) -> u32 {
        self.with_engine(|engine| engine.volume_slots())
    }

    /// Changes the volumes, and waits until that is durable. Returns the slot of the volume. Errors
    /// are those of `Engine::change_volume`, `EIO` if the store failed, and `EAGAIN` if its replica set
    /// takes no changes for too long. May sleep.
    pub(crate) fn change_volume(&self, change: VolumeChange) -> Result<u32> {
        let waiter = Arc::pin_init(
            pin_init!(Waiter {
                done <- Completion::new(),
                ok: Atomic::new(0),
            }),
            GFP_KERNEL,
        )?;
        let mut tries = 0;
        let slot = loop {
            match self.begin_change(change, &waiter) {
                // The engine may not know yet that requests have ended.
                Err(EBUSY) if tries < CHANGE_TRIES => fsleep(Delta::from_millis(CHANGE_RETRY_MS)),
                begun => break begun?,
            }
            tries += 1;
        };
        waiter.done.wait_for_completion();
        match waiter.ok.load(Relaxed) {
            0 if self.failure().is_some() => Err(EIO),
            0 if self.serves() => Err(EAGAIN),
            0 => Err(EPERM),
            _ => Ok(slot),
        }
    }

    fn begin_change(&self, change: VolumeChange, waiter: &Arc<Waiter>) -> Result<u32> {
        // Reclaim may wait for the engine.
        let _noreclaim = NoReclaim::enter();
        let mut inner = self.inner.lock();
        let mut bios = BioList::new();
        let now = self.now();

        self.turn(&mut inner, now, &mut bios);
        let begun = inner.engine.change_volume(now, change);
        if begun.is_ok() {
            inner.change = Some(waiter.clone());
        }
        drop(inner);
        bios.submit();
        self.worker.kick();
        begun
    }

    /// UUID of the store. May sleep.
    pub(crate) fn uuid(&self) -> Option<[u8; 16]> {
        self.with_engine(|engine| engine.uuid())
    }

    /// Counters and gauges. May sleep.
    pub(crate) fn counters(&self) -> Counters {
        self.with_engine(|engine| engine.counters())
    }

    /// Begins a check: keeps the last checkpoint. Returns what names the check, and the superblock.
    /// May sleep.
    pub(crate) fn begin_check(&self) -> Result<(u64, engine::Buf)> {
        // Reclaim may wait for the engine.
        let _noreclaim = NoReclaim::enter();
        let now = self.now();
        let mut inner = self.inner.lock();
        let begun = inner.engine.pin(now);

        if let Ok((cookie, _)) = begun {
            inner.check = Some(CheckReport {
                cookie,
                ..CheckReport::default()
            });
        }
        drop(inner);
        self.worker.kick();
        begun
    }

    /// A checker says how far it is. Returns whether what it read was one state. May sleep.
    pub(crate) fn go_on_check(&self, report: &CheckReport) -> bool {
        let now = self.now();
        let mut inner = self.inner.lock();
        let held = match report.done {
            true => inner.engine.unpin(now, report.cookie),
            false => {
                let (cookie, table_read) = (report.cookie, report.table_read);

                inner.engine.renew_pin(now, cookie, table_read)
            }
        };

        if held {
            inner.check = Some(*report);
        } else if inner
            .check
            .is_some_and(|c| c.cookie == report.cookie && !c.done)
        {
            inner.check = None;
        }
        drop(inner);
        self.worker.kick();
        held
    }

    /// What the last check said. May sleep.
    pub(crate) fn last_check(&self) -> Option<CheckReport> {
        let check = self.inner.lock().check;

        self.look_again();
        check
    }

    /// Writes what a state object of the engine shows of itself. May sleep.
    pub(crate) fn show(&self, object: Object, out: &mut dyn fmt::Write) -> fmt::Result {
        self.with_engine(|engine| engine.show(object, out))
    }

    /// Writes how far requests and actions are on their way to and from the engine. May sleep.
    pub(crate) fn show_queue(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let (now, inner) = (self.now(), self.inner.lock());
        let flag = |value: bool| u8::from(value);
        let result = (|| {
            writeln!(out, "now: {now}")?;
            writeln!(out, "phase: {:?}", inner.phase)?;
            writeln!(out, "slots: {}", inner.slots.len())?;
            writeln!(out, "slots_free: {}", inner.free.len())?;
            writeln!(out, "crowd: {}", inner.crowd)?;
            writeln!(out, "inbox_empty: {}", flag(self.incoming.is_empty()))?;
            writeln!(out, "reports_empty: {}", flag(self.worker.inbox.is_empty()))?;
            writeln!(out, "backlog: {}", flag(inner.has_backlog()))?;
            writeln!(out, "blocked: {}", self.blocked.load(Relaxed))?;
            writeln!(out, "stalled: {}", flag(inner.is_stalled()))?;
            writeln!(out, "eager: {}", flag(self.worker.is_eager()))?;
            writeln!(out, "timer: {}", inner.armed.unwrap_or(0))?;
            writeln!(out, "compared: {}", inner.compared.len())?;
            writeln!(out, "recent: {}", inner.recent.len())
        })();

        drop(inner);
        self.look_again();
        result
    }

    /// Appends the requests that the engine has, as far as there is room. May sleep.
    pub(crate) fn copy_requests(&self, to: &mut KVec<RequestState>) {
        self.with_engine(|engine| {
            for request in (0..SLOTS).filter_map(|tag| engine.request_state(tag)) {
                let _ = to.push_within_capacity(request);
            }
        });
    }

    /// Counts slots of the metadata cache; see `Engine::count_slots`. May sleep.
    pub(crate) fn count_slots(&self, from: u32, count: u32, sum: &mut SlotCounts) -> bool {
        self.with_engine(|engine| engine.count_slots(from, count, sum))
    }

    /// Counts segments; see `Engine::count_segments`. May sleep.
    pub(crate) fn count_segments(
        &self,
        from: usize,
        count: usize,
        sum: &mut SegmentCounts,
    ) -> bool {
        self.with_engine(|engine| engine.count_segments(from, count, sum))
    }

    /// What can be changed. May sleep.
    pub(crate) fn knobs(&self) -> Knobs {
        self.with_engine(|engine| engine.knobs())
    }

    /// Changes what can be changed. May sleep.
    pub(crate) fn change_knobs(&self, change: impl FnOnce(&mut Knobs)) {
        self.with_engine(|engine| {
            let mut knobs = engine.knobs();

            change(&mut knobs);
            engine.set_knobs(knobs);
        });
        self.worker.kick();
    }

    /// Why the store failed, if it did. May sleep.
    pub(crate) fn failure(&self) -> Option<FailReason> {
        let failure = self.inner.lock().failure;

        self.look_again();
        failure
    }

    /// A turn around inputs that `f` gives to the engine. May sleep, but waits for no I/O of ours.
    fn with_turn<R>(&self, f: impl FnOnce(&mut Inner, Millis) -> R) -> R {
        // Reclaim may wait for the engine.
        let _noreclaim = NoReclaim::enter();
        let mut inner = self.inner.lock();
        let mut bios = BioList::new();
        let now = self.now();

        self.turn(&mut inner, now, &mut bios);
        let result = f(&mut inner, now);
        self.act(&mut inner, now, &mut bios);
        self.turn(&mut inner, now, &mut bios);
        let settled = self.settle(&mut inner, now);
        drop(inner);
        bios.submit();
        if !matches!(settled, Settled::Idle) {
            self.worker.kick();
        }
        self.look_again();
        result
    }

    /// Calls `f` with the engine, which must not get an input.
    fn with_engine<R>(&self, f: impl FnOnce(&mut Engine) -> R) -> R {
        let result = f(&mut self.inner.lock().engine);

        self.look_again();
        result
    }

    /// Milliseconds since the attach began. Any context.
    fn now(&self) -> Millis {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(0)
    }

    /// The time of the engine at so many milliseconds since boot; what is past is now.
    pub(crate) fn time_of(&self, boottime: Millis) -> Millis {
        let left = boottime.saturating_sub(time::boottime_ms());

        self.now().saturating_add(left)
    }

    /// Milliseconds since boot at some time of the engine.
    pub(crate) fn boottime_of(&self, time: Millis) -> Millis {
        let began = time::boottime_ms().saturating_sub(self.now());

        began.saturating_add(time)
    }

    /// Adds a request to the inbox; [`run`](Self::run) must follow. Any context.
    pub(crate) fn push(&self, request: Request<Queue>) {
        self.incoming.push(request);
    }

    /// Whether a turn would find something to do.
    fn has_work(&self) -> bool {
        // Pairs with the full barriers of the inboxes: what was pushed before the lock was tried in
        // vain is seen after the lock was given up.
        smp_mb();
        (!self.incoming.is_empty() && self.blocked.load(Relaxed) == 0)
            || (self.worker.is_eager() && !self.worker.inbox.is_empty())
    }

    /// The lock was given up: whoever tried it meanwhile relies on us.
    fn look_again(&self) {
        if self.has_work() {
            self.worker.kick();
        }
    }

    /// A turn of a submitter, unless somebody else has one or the worker is to take it. May sleep, but
    /// waits for no I/O of ours.
    pub(crate) fn run(&self) {
        if self.crowded.load(Relaxed) != 0 || bio::stack_left() < STACK_MIN {
            // Pushing was a full barrier: either it has yet to look, or we see that it sleeps.
            if self.awake.load(Relaxed) == 0 {
                self.worker.kick();
            }
            return;
        }
        let _noreclaim = NoReclaim::enter();

        for _ in 0..SUBMITTER_TURNS {
            let Some(mut inner) = self.inner.try_lock() else {
                return;
            };
            let mut bios = BioList::new();
            let now = self.now();

            self.turn(&mut inner, now, &mut bios);
            let settled = self.settle(&mut inner, now);
            drop(inner);
            bios.submit();
            if !matches!(settled, Settled::Idle) {
                self.worker.kick();
            }
            if !self.has_work() {
                return;
            }
        }
        self.worker.kick();
    }

    /// A turn of the worker. May sleep.
    pub(crate) fn work(&self) {
        // Recovery allocates caches, and nobody's reclaim waits for it.
        let is_live = self.live.load(Relaxed) != 0;
        let _noreclaim = is_live.then(NoReclaim::enter);

        for _ in 0..WORKER_TURNS {
            self.awake.store(1, Relaxed);
            let mut bios = BioList::new();
            let mut inner = self.inner.lock();

            inner.armed = None;
            // Whoever gave the engine another input has left the actions to us.
            self.act(&mut inner, self.now(), &mut bios);
            self.turn(&mut inner, self.now(), &mut bios);
            let more = !inner.is_stalled() && inner.engine.background(self.now());
            self.act(&mut inner, self.now(), &mut bios);
            self.turn(&mut inner, self.now(), &mut bios);
            let now = self.now();
            let more = match self.settle(&mut inner, now) {
                _ if more => true,
                Settled::Requests => true,
                Settled::Due => {
                    // It is late, but what it waits for is under way.
                    inner.armed = Some(now + u64::from(DUE_MS));
                    self.worker.kick_later(DUE_MS);
                    false
                }
                Settled::Idle => false,
            };
            drop(inner);
            bios.submit();

            self.awake.store(0, Relaxed);
            if !more && !self.has_work() {
                return;
            }
        }
        self.worker.kick();
    }

    /// Tells the engine what was completed, gives it requests, and does what it wants of them.
    fn turn(&self, inner: &mut Inner, now: Millis, bios: &mut BioList<Io>) {
        self.take_requests(inner, now, bios);
        if self.fail_flushes(inner, now) {
            self.act(inner, now, bios);
        }
    }

    fn take_requests(&self, inner: &mut Inner, now: Millis, bios: &mut BioList<Io>) {
        inner.observe(self.worker.devt);
        if !self.report(inner, now, bios) {
            return;
        }
        for _ in 0..TURN_REQUESTS {
            let Some(request) = self.next_request(inner) else {
                return;
            };
            // What was completed before this request came is in the inbox by now.
            if !self.report(inner, now, bios) {
                inner.next = Some(request);
                return;
            }
            // A lease may have ended before this request came, but after the turn began.
            let leased = inner
                .engine
                .set()
                .is_some_and(|set| set.held_lease().is_some());
            let now = if leased { self.now() } else { now };
            inner.submit(now, request);
            if !self.act(inner, now, bios) {
                return;
            }
        }
    }

    /// Tells the engine of all completions. Returns false if an action has to wait for memory.
    fn report(&self, inner: &mut Inner, now: Millis, bios: &mut BioList<Io>) -> bool {
        for bio in self.worker.inbox.take() {
            inner.report(now, bio);
            self.act(inner, now, bios);
        }
        !inner.is_stalled() || self.act(inner, now, bios)
    }

    /// The next request, if there is a slot for it.
    fn next_request(&self, inner: &mut Inner) -> Option<Request<Queue>> {
        if inner.free.is_empty() {
            return None;
        }
        if let Some(request) = inner.next.take() {
            return Some(request);
        }
        if let Some(request) = inner.backlog.as_mut().and_then(Iterator::next) {
            return Some(request);
        }
        let mut batch = self.incoming.take();
        let request = batch.next();
        inner.backlog = Some(batch);
        request
    }

    /// Ends a turn: says who has to be woken for what.
    fn settle(&self, inner: &mut Inner, now: Millis) -> Settled {
        self.settle_member(inner, now);
        if inner.member.take_chores() {
            self.worker.tell();
        }
        let stalled = inner.is_stalled();
        let blocked = stalled || inner.free.is_empty();

        self.blocked.store(i32::from(blocked), Relaxed);
        self.crowded.store(i32::from(inner.crowd >= CROWD), Relaxed);
        self.worker.set_eager(blocked || inner.engine.is_eager());

        let mut deadline = inner.engine.next_deadline();
        if inner.free.len() < inner.slots.len() {
            deadline = Some(deadline.unwrap_or(u64::MAX).min(now + REPORT_MS));
        }
        if let Some(retry) = inner.member.deadline(now) {
            deadline = Some(deadline.unwrap_or(u64::MAX).min(retry));
        }
        if stalled {
            deadline = Some(now + u64::from(STALL_MS));
        }
        match deadline {
            Some(deadline) if deadline <= now => return Settled::Due,
            Some(deadline) if inner.armed.is_none_or(|armed| deadline < armed) => {
                inner.armed = Some(deadline);
                self.worker
                    .kick_later(u32::try_from(deadline - now).unwrap_or(u32::MAX));
            }
            _ => {}
        }
        if !blocked && inner.has_backlog() {
            Settled::Requests
        } else {
            Settled::Idle
        }
    }

    /// Does what the engine wants. Returns false if that has to wait for memory.
    fn act(&self, inner: &mut Inner, now: Millis, bios: &mut BioList<Io>) -> bool {
        loop {
            let next = inner
                .stalled
                .take()
                .or_else(|| inner.engine.poll_action(now));
            let Some(action) = next else {
                return self.send_run(inner, bios) && self.send_flush(inner, bios);
            };

            if let Action::ReadBlock {
                tag,
                block,
                cluster,
                check,
            } = action
            {
                if !inner.extends_run(tag, block, cluster) && !self.send_run(inner, bios) {
                    inner.stalled = Some(action);
                    return false;
                }
                inner.add_to_run(tag, block, cluster, check);
                continue;
            }
            let action = if self.send_run(inner, bios) {
                match self.perform(inner, now, action, bios) {
                    Ok(()) => continue,
                    Err(action) => action,
                }
            } else {
                action
            };
            inner.stalled = Some(action);
            return false;
        }
    }

    /// Sends the reads that were gathered. Returns false if that has to wait for memory.
    fn send_run(&self, inner: &mut Inner, bios: &mut BioList<Io>) -> bool {
        let Some(run) = inner.run else {
            return true;
        };
        let slot = inner.slots.get(run.tag as usize);
        let Some((part, request)) = slot.and_then(|s| Some((s.part.as_ref()?.fork(), s.request)))
        else {
            inner.run = None;
            return true;
        };
        let (offset, bytes) = (run.block * BLOCK_SIZE, run.count * BLOCK_SIZE);
        let segments = {
            let mut cursor = part.cursor();

            cursor.advance(offset);
            cursor.segment_count(bytes)
        };

        let hints = part.flags().hints();
        let work = Work::Read {
            part: Some(part),
            check_key: self.check_key.load(Relaxed),
        };
        let io = Io::Data(DataIo::new(request, run.tag, run.block, run.count, work));

        match self.alloc(Op::Read, hints, run.cluster, segments, io) {
            Ok(mut bio) => {
                inner.tell_data(run.tag, DataWork::Read, run.block, run.count, run.cluster);
                bio.add_request(|io| io.request().map(|part| &**part), offset, bytes);
                inner.run = None;
                inner.sent(run.tag);
                bios.push(bio);
                true
            }
            Err(io) => {
                io.give_back();
                false
            }
        }
    }

    /// Sends the flush that has to follow a write. Returns false if that has to wait for memory.
    fn send_flush(&self, inner: &mut Inner, bios: &mut BioList<Io>) -> bool {
        let Some(written) = inner.flush.take() else {
            return true;
        };

        match self.alloc(Op::Flush, OpFlags::SYNC, Cluster(0), 0, Io::Meta(written)) {
            Ok(bio) => bios.push(bio),
            Err(Io::Meta(written)) => inner.flush = Some(written),
            Err(_) => {}
        }
        inner.flush.is_none()
    }

    /// A bio at a cluster. Without memory the context comes back.
    fn alloc(
        &self,
        op: Op,
        flags: OpFlags,
        cluster: Cluster,
        segments: u32,
        io: Io,
    ) -> Result<Bio<Io>, Io> {
        let sector = cluster.0 << CLUSTER_SECTOR_SHIFT;

        self.bios.alloc(op, flags, sector, segments, io, Wait::No)
    }

    /// Reads into the buffer of a context. Without memory it comes back.
    fn read_buffer(&self, cluster: Cluster, io: Io, bios: &mut BioList<Io>) -> Result<(), Buf> {
        match self.alloc(Op::Read, OpFlags::META | OpFlags::SYNC, cluster, 1, io) {
            Ok(mut bio) => {
                bio.add_buffer_mut(Io::buffer_mut);
                bios.push(bio);
                Ok(())
            }
            Err(io) => Err(io.into_parts().0),
        }
    }

    /// Does one action. Without memory it comes back.
    fn perform(
        &self,
        inner: &mut Inner,
        now: Millis,
        action: Action,
        bios: &mut BioList<Io>,
    ) -> Result<(), Action> {
        match action {
            // Gathered by the caller.
            Action::ReadBlock { .. } => Ok(()),
            Action::ZeroBlocks { tag, block, count } => {
                if let Some(part) = inner.part(tag) {
                    let mut cursor = part.cursor();

                    cursor.advance(block * BLOCK_SIZE);
                    cursor.fill_zero(count * BLOCK_SIZE);
                }
                Ok(())
            }
            Action::WriteRun {
                tag,
                block,
                count,
                cluster,
            } => {
                let Some((request, hints, data)) = inner.write_of(tag) else {
                    return Ok(());
                };
                let io = Io::Data(DataIo::new(request, tag, block, count, Work::Write(data)));

                inner.compared.forget(cluster, count);
                match self.alloc(Op::Write, hints, cluster, count, io) {
                    Ok(mut bio) => {
                        inner.tell_data(tag, DataWork::Write, block, count, cluster);
                        bio.add_pages(Io::pages);
                        inner.sent(tag);
                        inner.keep_for_peers(tag, block, count, cluster);
                        bios.push(bio);
                        Ok(())
                    }
                    Err(_) => Err(action),
                }
            }
            Action::CompareBlock {
                tag,
                block,
                cluster,
            } => {
                if let Some(result) = inner.compare(tag, block, cluster) {
                    inner.engine.data_done(now, tag, block, 1, result);
                    return Ok(());
                }
                let page = match self.compare_pages.alloc(Wait::No) {
                    Ok(page) => page,
                    Err(_) => match inner.compared.give_up() {
                        Some(page) => page,
                        None => return Err(action),
                    },
                };
                let Some((request, _, data)) = inner.write_of(tag) else {
                    return Ok(());
                };
                let work = Work::Compare(data, cluster, page);
                let io = Io::Data(DataIo::new(request, tag, block, 1, work));

                match self.alloc(Op::Read, OpFlags::SYNC, cluster, 1, io) {
                    Ok(mut bio) => {
                        inner.tell_data(tag, DataWork::Compare, block, 1, cluster);
                        bio.add_pages_mut(Io::pages_mut);
                        inner.sent(tag);
                        bios.push(bio);
                        Ok(())
                    }
                    Err(_) => Err(action),
                }
            }
            Action::Acknowledge { tag } => {
                inner.acknowledge(tag);
                Ok(())
            }
            Action::CompleteAfterIo { tag } => {
                inner.complete(tag, Ok(()));
                Ok(())
            }
            Action::Complete { tag, status } => {
                inner.complete(tag, to_block_status(status));
                Ok(())
            }
            Action::ReadMeta {
                token,
                cluster,
                buf,
            } => {
                let io = Io::Meta(MetaIo::new(token, buf, Then::Report));

                self.read_buffer(cluster, io, bios)
                    .map_err(|buf| Action::ReadMeta {
                        token,
                        cluster,
                        buf,
                    })
            }
            Action::VerifyData {
                cluster,
                check,
                check_key,
                buf,
            } => {
                let then = Then::Verify(check, check_key);
                let io = Io::Meta(MetaIo::new(IoToken::Recovery, buf, then));

                self.read_buffer(cluster, io, bios)
                    .map_err(|buf| Action::VerifyData {
                        cluster,
                        check,
                        check_key,
                        buf,
                    })
            }
            Action::WriteMeta {
                token,
                cluster,
                buf,
                durability,
            } => {
                let (durable, then) = match durability {
                    _ if cfg!(ddup_no_disk_flush) => (OpFlags::NONE, Then::Report),
                    Durability::None => (OpFlags::NONE, Then::Report),
                    Durability::Own => (OpFlags::FUA, Then::Report),
                    Durability::AllBefore => (OpFlags::PREFLUSH | OpFlags::FUA, Then::Report),
                    Durability::AllTogether if self.device().fua_flushes() => {
                        (OpFlags::FUA, Then::Report)
                    }
                    Durability::AllTogether => (OpFlags::NONE, Then::Flush),
                };
                let flags = OpFlags::META | OpFlags::SYNC | durable;
                let mut meta = MetaIo::new(token, buf, then);

                meta.commit = inner.take_commit(token);
                match self.alloc(Op::Write, flags, cluster, 1, Io::Meta(meta)) {
                    Ok(mut bio) => {
                        bio.add_buffer(Io::buffer);
                        bios.push(bio);
                        Ok(())
                    }
                    Err(io) => {
                        let (buf, commit) = io.into_parts();

                        inner.commit = commit;
                        Err(Action::WriteMeta {
                            token,
                            cluster,
                            buf,
                            durability,
                        })
                    }
                }
            }
            Action::Flush { token } if cfg!(ddup_no_disk_flush) => {
                inner.engine.meta_done(now, token, KVec::new(), true);
                Ok(())
            }
            Action::Flush { token } => {
                let io = Io::Meta(MetaIo::new(token, KVec::new(), Then::Report));

                match self.alloc(Op::Flush, OpFlags::SYNC, Cluster(0), 0, io) {
                    Ok(bio) => {
                        bios.push(bio);
                        Ok(())
                    }
                    Err(_) => Err(action),
                }
            }
            Action::DiscardRun {
                token,
                cluster,
                count,
            } => {
                let bytes = count
                    .checked_mul(u64::from(BLOCK_SIZE))
                    .and_then(|bytes| u32::try_from(bytes).ok())
                    .filter(|_| self.can_discard);
                let Some(bytes) = bytes else {
                    inner.engine.meta_done(now, token, KVec::new(), false);
                    return Ok(());
                };
                let io = Io::Meta(MetaIo::new(token, KVec::new(), Then::Report));

                match self.alloc(Op::Discard, OpFlags::NONE, cluster, 0, io) {
                    Ok(mut bio) => {
                        bio.set_bytes(cluster.0 << CLUSTER_SECTOR_SHIFT, bytes);
                        bios.push(bio);
                        Ok(())
                    }
                    Err(_) => Err(action),
                }
            }
            Action::VolumeChanged { ok, .. } => {
                match inner.change.take() {
                    Some(waiter) => {
                        waiter.ok.store(i32::from(ok), Relaxed);
                        waiter.done.complete_all();
                    }
                    // The primary of its set has made it, or a compare with that.
                    None => inner.member.volumes_changed(),
                }
                Ok(())
            }
            Action::ScrubBlock {
                tag,
                block,
                cluster,
                check,
            } => self
                .scrub_block((tag, block), cluster, check, bios)
                .map_err(|()| action),
            Action::ScrubFound { slot, lbn } => {
                inner.scrub.found(slot, lbn);
                inner.member.want_chores();
                Ok(())
            }
            Action::ScrubEnded => {
                inner.scrub.ended();
                inner.member.want_chores();
                Ok(())
            }
            Action::StageWrite { .. }
            | Action::StageDrop { .. }
            | Action::FetchBlock { .. }
            | Action::FetchDrop { .. }
            | Action::SetReply { .. }
            | Action::ClosePeer { .. }
            | Action::Role { .. } => self.perform_member(inner, now, action, bios),
            Action::Started => {
                inner.phase = Phase::Started;
                if inner.engine.set().is_some() {
                    self.serves.store(0, Relaxed);
                }
                self.started.complete_all();
                Ok(())
            }
            Action::Failed(reason) => {
                if matches!(inner.phase, Phase::Starting) {
                    inner.phase = Phase::Refused(reason);
                    self.started.complete_all();
                } else if inner.failure.is_none() {
                    inner.failure = Some(reason);
                    inner.untold = true;
                    inner.member.store_failed();
                }
                Ok(())
            }
            Action::Detached(clean) => {
                inner.phase = Phase::Detached(clean);
                self.detached.complete_all();
                Ok(())
            }
        }
    }
}

impl Inner {
    /// Whether something waits for memory.
    fn is_stalled(&self) -> bool {
        self.stalled.is_some() || self.run.is_some() || self.flush.is_some()
    }

    /// Whether requests were taken from the inbox that the engine does not have.
    fn has_backlog(&self) -> bool {
        self.next.is_some() || self.backlog.as_ref().is_some_and(|batch| !batch.is_empty())
    }

    /// Sees to it that the tracepoints that are on get the engine's events.
    fn observe(&mut self, devt: u32) {
        let observer = trace::observer(devt);

        if observer.is_some() || self.observed {
            self.observed = observer.is_some();
            self.engine.observe(observer);
        }
    }

    fn slot(&mut self, tag: Tag) -> Option<&mut Slot> {
        self.slots.get_mut(tag as usize)
    }

    /// The request of a tag.
    fn part(&self, tag: Tag) -> Option<&Part<Queue>> {
        self.slots.get(tag as usize)?.part.as_ref()
    }

    /// What a bio of the write of a tag needs: what it is called, its hints and its data.
    fn write_of(&self, tag: Tag) -> Option<(RequestId, OpFlags, Arc<WriteData>)> {
        let slot = self.slots.get(tag as usize)?;

        Some((slot.request, slot.hints, slot.write.clone()?))
    }

    /// Compares a block of a write with a cluster, if that needs no read.
    fn compare(&self, tag: Tag, block: u32, cluster: Cluster) -> Option<DataResult> {
        let theirs = self.compared.get(cluster)?;
        let own = self.slots.get(tag as usize)?.write.as_ref()?;
        let own = own.pages.get(block as usize)?;

        Some(if own[..] == theirs[..] {
            DataResult::Equal
        } else {
            DataResult::Differs
        })
    }

    /// Keeps what is written to neighbouring clusters, if there are peers that may want it.
    fn keep_for_peers(&mut self, tag: Tag, block: u32, count: u32, cluster: Cluster) {
        let data = self.slots.get(tag as usize).and_then(|s| s.write.as_ref());
        let Some(data) = data.filter(|_| self.member.has_sessions()) else {
            return;
        };
        let blocks = data.pages.iter().zip(data.contents.iter());
        let blocks = blocks.skip(block as usize).take(count as usize);

        for (cluster, (page, content)) in (cluster.0..).zip(blocks) {
            self.recent.insert(Cluster(cluster), content.check, page);
        }
    }

    /// Tells that a data bio of this tag was made.
    fn tell_data(&self, tag: Tag, what: DataWork, block: u32, count: u32, cluster: Cluster) {
        if let Some(slot) = self.slots.get(tag as usize) {
            trace::data_submitted(&slot.request, what, block, count, cluster);
        }
    }

    /// A data bio of this tag was made.
    fn sent(&mut self, tag: Tag) {
        if let Some(slot) = self.slot(tag) {
            slot.bios += 1;
        }
    }

    /// A write ends, and the engine goes on with it.
    fn acknowledge(&mut self, tag: Tag) {
        let Some(slot) = self.slot(tag) else {
            return;
        };

        slot.hold = Hold::Engine;
        if let Some(part) = slot.part.take() {
            part.finish(Ok(()));
        }
    }

    /// The engine is done with a request, but for bios that it has not heard of.
    fn complete(&mut self, tag: Tag, result: Result<(), block::Status>) {
        if let Some(slot) = self.slot(tag) {
            slot.hold = Hold::Request;
            if let Some(part) = slot.part.take() {
                part.finish(result);
            }
        }
        self.release(tag);
    }

    /// Frees a slot if nothing of its request is left.
    fn release(&mut self, tag: Tag) {
        let Some(slot) = self.slot(tag) else {
            return;
        };

        if slot.hold == Hold::Request && slot.part.is_none() && slot.bios == 0 {
            let weight = core::mem::take(&mut slot.weight);
            let write = slot.write.take();

            slot.hold = Hold::Free;
            self.crowd -= weight;
            if let Some(write) = write {
                self.write_data.give_back_shared(write);
            }
            // There is room for all tags.
            let _ = self.free.push_within_capacity(tag);
        }
    }

    /// Gives a request to the engine. There is a slot for it.
    fn submit(&mut self, now: Millis, mut request: Request<Queue>) {
        let write = request.data_mut().write.take();
        let described = match self.describe(&request) {
            Ok(described) => described,
            Err(status) => {
                if let Some(write) = write {
                    self.write_data.give_back(write);
                }
                return queue::complete(request, Err(status));
            }
        };
        let moved = match described.kind {
            OpKind::Read | OpKind::Write => request.bytes(),
            _ => 0,
        };
        let Some(slot) = self.slots.get_mut(described.tag as usize) else {
            return;
        };

        slot.request = RequestId::of(&request);
        slot.write = write.map(Into::into);
        slot.hints = request.flags().hints();
        slot.bios = 0;
        slot.weight = 1 + moved / CROWD_BYTES;
        slot.hold = Hold::Request;
        self.crowd += slot.weight;
        trace::ddup_request_submitted((&*request).into(), described.tag);
        slot.part = Some(request.into_part());

        let contents = slot.write.as_ref().map_or(&[][..], |data| &data.contents);
        self.engine.submit(now, described, contents);
        if self.observed {
            self.engine.name_request(described.tag, slot.request.key);
        }
    }

    /// What the engine is told of a request, in a slot that is taken for it.
    fn describe(&mut self, request: &Request<Queue>) -> Result<engine::Request, block::Status> {
        let kind = match request.op() {
            Op::Read => OpKind::Read,
            Op::Write => OpKind::Write,
            Op::Flush => OpKind::Flush,
            Op::Discard => OpKind::Discard,
            Op::WriteZeroes => OpKind::WriteZeroes,
            Op::Other(_) => return Err(block::Status::NOTSUPP),
        };
        let (volume, number) = {
            let data = request.queue_data();

            (data.slot, data.number)
        };
        // A peer may have removed it, and another one may have its slot by now.
        if !self.engine.is_volume(volume, number) {
            return Err(block::Status::IOERR);
        }
        Ok(engine::Request {
            tag: self.free.pop().ok_or(block::Status::RESOURCE)?,
            kind,
            volume,
            lbn: Lbn(request.sector() >> CLUSTER_SECTOR_SHIFT),
            count: u64::from(request.bytes() / BLOCK_SIZE),
            fua: request.flags().contains(OpFlags::FUA) && !cfg!(ddup_no_flush),
        })
    }

    /// Tells the engine of a bio that is done.
    fn report(&mut self, now: Millis, bio: Completed<Io>) {
        match bio.into_context() {
            Io::Meta(mut meta) => match meta.then {
                Then::Flush if meta.ok => {
                    meta.then = Then::Report;
                    self.flush = Some(meta);
                }
                Then::Verify(check, key) => {
                    let matches = content::check_of(hash::xxh64(&meta.buf, key)) == check;
                    let result = match meta.ok {
                        true if matches => DataResult::Ok,
                        true => DataResult::Mismatch,
                        false => DataResult::Failed,
                    };

                    self.engine.verify_done(now, meta.buf, result);
                }
                _ => {
                    let mut tags = [None; COMMITTED_MAX];

                    for (committed, tag) in meta.commit.into_iter().flatten().zip(&mut tags) {
                        *tag = Some(committed.tag);
                        // It failed: the engine decides.
                        if let (Some(slot), Some(part)) = (self.slot(committed.tag), committed.part)
                        {
                            slot.part = Some(part);
                        }
                    }
                    self.engine.meta_done(now, meta.token, meta.buf, meta.ok);
                    for tag in tags.into_iter().flatten() {
                        self.release(tag);
                    }
                }
            },
            Io::Stage(stage) => self.report_stage(now, stage),
            Io::Checked(io) => match io.reader {
                Reader::Peer(token) => self.report_fetch(now, token, io),
                Reader::Scrub(tag, block) => {
                    self.engine.data_done(now, tag, block, 1, io.result);
                }
            },
            // Its thread takes it.
            Io::Send(_) => {}
            Io::Data(data) => self.report_data(now, data),
        }
    }

    /// Tells the engine of a data bio that is done.
    fn report_data(&mut self, now: Millis, mut data: DataIo) {
        let (tag, result) = (data.tag, data.result);

        if let Some(slot) = self.slot(tag) {
            slot.bios = slot.bios.saturating_sub(1);
            if let Work::Read { part, .. } = &mut data.work {
                match part.take() {
                    // It was handed over, and failed: the engine decides.
                    Some(part) if slot.part.is_none() => slot.part = Some(part),
                    Some(part) => part.finish(Ok(())),
                    None => {}
                }
            }
        }
        self.report_blocks(now, &data);
        // Its slot gives back the data, which nobody else must have then.
        match data.work {
            Work::Compare(own, cluster, page) => {
                drop(own);
                if result == DataResult::Equal {
                    self.compared.insert(cluster, page);
                }
            }
            Work::Write(own) => drop(own),
            Work::Read { .. } => {}
        }
        self.release(tag);
    }

    /// Reports the blocks of a data bio, neighbours with the same result at once.
    fn report_blocks(&mut self, now: Millis, data: &DataIo) {
        let result_of = |at| {
            if data.is_bad(at) {
                DataResult::Mismatch
            } else {
                data.result
            }
        };
        let mut first = 0;

        for at in 1..=data.count {
            if at == data.count || result_of(at) != result_of(first) {
                self.engine.data_done(
                    now,
                    data.tag,
                    data.block + first,
                    at - first,
                    result_of(first),
                );
                first = at;
            }
        }
    }

    /// Whether a block can be read together with those that were gathered.
    fn extends_run(&self, tag: Tag, block: u32, cluster: Cluster) -> bool {
        self.run.is_some_and(|run| {
            run.tag == tag
                && run.block + run.count == block
                && run.cluster.0 + u64::from(run.count) == cluster.0
        })
    }

    /// The requests that end with the metadata write that is being made.
    fn take_commit(&mut self, token: IoToken) -> Commit {
        let mut commit = core::mem::take(&mut self.commit);

        for place in commit.iter_mut().filter(|place| place.is_none()) {
            let Some(tag) = self.engine.hand_over_commit(token) else {
                break;
            };
            *place = Some(Committed {
                tag,
                part: self.slot(tag).and_then(|slot| slot.part.take()),
            });
        }
        commit
    }

    /// Adds a block to those that are to be read, or is the first.
    fn add_to_run(&mut self, tag: Tag, block: u32, cluster: Cluster, check: Check) {
        let wanted = self
            .part(tag)
            .and_then(|part| part.data().checks.get(block as usize));

        if let Some(wanted) = wanted {
            wanted.store(check.0, Relaxed);
        }
        match self.run.as_mut() {
            Some(run) => run.count += 1,
            None => {
                self.run = Some(ReadRun {
                    tag,
                    block,
                    count: 1,
                    cluster,
                })
            }
        }
    }
}

/// What the block layer is told.
fn to_block_status(status: Status) -> Result<(), block::Status> {
    match status {
        Status::Ok => Ok(()),
        Status::Io | Status::ReadOnly => Err(block::Status::IOERR),
        Status::NoSpace => Err(block::Status::NOSPC),
        Status::Medium => Err(block::Status::MEDIUM),
        Status::Range => Err(block::Status::INVAL),
    }
}
