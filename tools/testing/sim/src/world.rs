// SPDX-License-Identifier: GPL-2.0

//! One simulated machine: a disk, a store on it, requests in flight, a clock, and the power.
//!
//! The world does what the driver's shell does, in an order drawn from the script's seeds: it
//! submits requests, carries out actions, completes I/O in any order, tells the store late, lets
//! its background work run now and then. It holds each answer against the [`Oracle`], and after
//! each attach the whole disk against the store's own check.

use crate::content::{Content, Image, CLUSTER, ZERO};
use crate::disk::{Disk, Loss};
use crate::oracle::Oracle;
use crate::port::{Action, Change, Counters, DataResult, Durability, Kind, Millis, Request};
use crate::port::{Status, Store, Volume};
use crate::report::Totals;
use crate::rng::Rng;
use crate::script::{volume_base, Op, Rot, Script, Setup};
use kernel::fail_alloc;
use kernel::prelude::KVec;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a history fails.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was seen, against what was promised.
    pub what: String,
    /// The step of the script at which it was seen.
    pub step: usize,
}

/// Steps that a request may take before the store counts as stuck.
const PATIENCE: u32 = 400_000;
/// Steps after which those that wait for space are made to fail, if nothing else goes on.
const WAIT_STEPS: u32 = 400;
/// Calls for a deadline that has passed before that counts as a busy loop.
const SPINS_MAX: u32 = 1000;
/// Blocks in the largest read that verifies.
const VERIFY_RUN: u64 = 64;

/// I/O that the disk works on.
enum Io<T> {
    Read {
        tag: u32,
        block: u32,
        cluster: u64,
        checks: Vec<u64>,
        early: Option<Vec<Image>>,
    },
    Write {
        tag: u32,
        block: u32,
        cluster: u64,
        count: u32,
    },
    Compare {
        tag: u32,
        block: u32,
        cluster: u64,
    },
    Scrub {
        tag: u32,
        block: u32,
        cluster: u64,
        check: u64,
    },
    ReadMeta {
        token: T,
        cluster: u64,
        buf: KVec<u8>,
    },
    WriteMeta {
        token: T,
        cluster: u64,
        buf: KVec<u8>,
        durability: Durability,
        /// When it was sent, by the disk's clock.
        point: u64,
        /// Requests that end with it.
        completes: Vec<u32>,
    },
    Verify {
        cluster: u64,
        check: u64,
        buf: KVec<u8>,
    },
    Flush {
        token: T,
        point: u64,
    },
    Discard {
        token: T,
        cluster: u64,
        count: u64,
    },
}

impl<T: std::fmt::Debug> std::fmt::Display for Io<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Io::Read { tag, cluster, .. } => write!(f, "tag {tag} read of {cluster:#x}"),
            Io::Write { tag, cluster, .. } => write!(f, "tag {tag} write of {cluster:#x}"),
            Io::Compare { tag, cluster, .. } => write!(f, "tag {tag} compare with {cluster:#x}"),
            Io::Scrub { cluster, .. } => write!(f, "scrub of {cluster:#x}"),
            Io::ReadMeta { token, cluster, .. } => write!(f, "{token:?} read of {cluster:#x}"),
            Io::WriteMeta { token, cluster, .. } => write!(f, "{token:?} write of {cluster:#x}"),
            Io::Verify { cluster, .. } => write!(f, "look at the data in {cluster:#x}"),
            Io::Flush { token, .. } => write!(f, "{token:?} flush"),
            Io::Discard { token, cluster, .. } => write!(f, "{token:?} discard of {cluster:#x}"),
        }
    }
}

/// I/O in flight.
struct InFlight<T> {
    io: Io<T>,
    not_before: Millis,
}

/// Something that happened and that the store was not yet told.
struct News {
    tag: u32,
    block: u32,
    count: u32,
    result: DataResult,
}

/// A request in flight.
struct Slot {
    op: u32,
    request: Request,
    contents: Vec<Content>,
    results: Vec<Option<Content>>,
    /// Data I/Os at the disk.
    at_disk: u32,
    /// Data I/Os that ended and that the store was not yet told.
    untold: u32,
    /// Of those, failures.
    untold_failures: u32,
    /// It completes when no data I/O is at the disk.
    after_io: bool,
    completed: bool,
    /// It completed early, before the operation of this number came; the store will say when its
    /// tag is free.
    acknowledged: Option<u32>,
    /// Blocks whose data did not get to the disk by the last try.
    unwritten: BTreeSet<u32>,
    /// It may fail for want of space: the policy was so at some time since it came.
    may_fail: bool,
    patience: u32,
}

/// What a step of the world came to.
enum Progress {
    Some,
    /// Nothing can happen before this time.
    Wait(Millis),
    /// Nothing can happen any more.
    None,
}

/// A check of a pinned checkpoint that goes on beside everything else.
struct Online {
    cookie: u64,
    /// What the check begins with.
    root: Vec<u8>,
    /// What was read of places that may change meanwhile.
    kept: Option<BTreeMap<u64, Vec<u8>>>,
    /// Operations until the next thing happens to it.
    left: u64,
}

/// A change of a volume that the store works on.
#[derive(Clone, Copy, Debug)]
struct Changing {
    number: u64,
    /// What it will have; 0: nothing.
    blocks: u64,
}

/// Where the store is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Life {
    Starting,
    Running,
    Failed(String),
    Detaching,
    Detached(bool),
}

/// The machine.
pub struct World<'a, S: Store> {
    setup: &'a Setup,
    rng: Rng,
    disk: Disk,
    store: S,
    life: Life,
    oracle: Oracle,
    now: Millis,
    in_flight: Vec<InFlight<S::Token>>,
    news: VecDeque<News>,
    slots: BTreeMap<u32, Slot>,
    next_op: u32,
    /// The store said that there is more background work, or something happened since.
    background: bool,
    read_ppm: u32,
    write_ppm: u32,
    alloc_ppm: u32,
    /// Calls of background work for a deadline that has passed, without effect.
    spins: u32,
    online: Option<Online>,
    /// The volumes by number: slot, and size as far as it is durable.
    volumes: BTreeMap<u64, (u32, u64)>,
    changing: Option<Changing>,
    /// Draws what concerns checks, apart from everything else.
    online_rng: Rng,
    /// Draws what concerns scrubs, apart from everything else.
    scrub_rng: Rng,
    /// Writes that find no space wait, as of now.
    wait_for_space: bool,
    /// A fault was injected since the store was attached, so errors are fair.
    faulted: bool,
    rotten: bool,
    /// A block of the journal rotted since the store was attached.
    journal_rots: bool,
    /// Data that was written since the store was idle or attached: without it the last block of the
    /// journal may not count.
    young: BTreeSet<u64>,
    /// Data that was acknowledged before the operation of this number did not get to the disk, and no
    /// FLUSH has failed since.
    untold_loss: Option<u32>,
    /// Such data was lost at some time: reads of it fail.
    holed: bool,
    /// So much rotted that the store can't be attached any more: the history ends.
    lost: bool,
    step: usize,
    verbose: bool,
    /// What this history did.
    pub totals: Totals,
}

macro_rules! say {
    ($w:expr, $($arg:tt)*) => {
        if $w.verbose {
            println!("{:>6} {:>8} ms  {}", $w.step, $w.now, format_args!($($arg)*));
        }
    };
}

/// Runs a script to its end or its failure.
///
/// `at` follows the step, for the report of a panic.
pub fn run<S: Store>(
    script: &Script,
    verbose: bool,
    at: &AtomicU64,
) -> (Totals, Result<(), Failure>) {
    fail_alloc::set(None);
    let setup = &script.setup;
    let failure = |what: String| Failure { what, step: 0 };
    let mut disk = Disk::new(setup.clusters, setup.blank);
    if setup.prior_life {
        match former_life::<S>(setup, disk) {
            Ok(used) => disk = used,
            Err(f) => return (Totals::default(), Err(f)),
        }
    }
    let mut world = match World::<S>::new(setup, disk, verbose) {
        Ok(world) => world,
        Err(what) => return (Totals::default(), Err(failure(what))),
    };
    let result = world.play(script, at);
    fail_alloc::set(None);
    world.collect();
    let what = result.map_err(|what| Failure {
        what,
        step: world.step,
    });
    (world.totals, what)
}

/// Plays a script and leaves the disk as a power cut leaves it.
pub fn leave<S: Store>(script: &Script) -> Result<Disk, Failure> {
    let setup = &script.setup;
    let failure = |what: String, step: usize| Failure { what, step };
    let disk = Disk::new(setup.clusters, setup.blank);
    let mut world = World::<S>::new(setup, disk, false).map_err(|what| failure(what, 0))?;
    let mut body = || {
        world.attach(&[])?;
        for (i, step) in script.steps.iter().enumerate() {
            world.step = i;
            world.operation(&step.op)?;
        }
        Ok(())
    };
    body().map_err(|what| failure(what, world.step))?;
    world.cut(Loss::None);
    Ok(world.disk)
}

/// A disk that another store was on.
fn former_life<S: Store>(setup: &Setup, disk: Disk) -> Result<Disk, Failure> {
    let mut former = setup.clone();
    former.seed ^= 0x0f0f;
    former.fingerprints.key ^= 0x77;
    let mut world = World::<S>::new(&former, disk, false).map_err(|what| Failure {
        what: format!("former life: {what}"),
        step: 0,
    })?;
    let mut rng = Rng::new(former.seed);
    let mut body = || {
        world.attach(&[])?;
        for i in 0..200 {
            let lbn = rng.below(setup.volume_blocks.min(4000));
            let count = rng.between(1, 8).min(setup.volume_blocks - lbn);
            let contents = (0..count).map(|j| (1 << 50) + i * 8 + j).collect();
            let fua = rng.chance(1, 8);
            world.operation(&Op::Write { lbn, contents, fua })?;
        }
        Ok(())
    };
    body().map_err(|what: String| Failure {
        what: format!("former life: {what}"),
        step: 0,
    })?;
    let mut disk = world.disk;
    disk.power_cut(Loss::Sectors(90), &mut rng);
    Ok(disk)
}

impl<'a, S: Store> World<'a, S> {
    fn new(setup: &'a Setup, mut disk: Disk, verbose: bool) -> Result<Self, String> {
        S::format(&mut disk, setup)?;
        let store = S::new(setup, disk.clusters())?;
        Ok(World {
            setup,
            rng: Rng::new(setup.seed),
            disk,
            store,
            life: Life::Starting,
            oracle: Oracle::default(),
            now: 1000,
            in_flight: Vec::new(),
            news: VecDeque::new(),
            slots: BTreeMap::new(),
            next_op: 1,
            background: true,
            read_ppm: 0,
            write_ppm: 0,
            alloc_ppm: 0,
            spins: 0,
            online: None,
            volumes: BTreeMap::from([(0, (0, setup.volume_blocks))]),
            changing: None,
            online_rng: Rng::new(setup.seed ^ 0x0411),
            scrub_rng: Rng::new(setup.seed ^ 0x5c4b),
            wait_for_space: setup.wait_for_space,
            faulted: false,
            rotten: false,
            journal_rots: false,
            young: BTreeSet::new(),
            untold_loss: None,
            holed: false,
            lost: false,
            step: 0,
            verbose,
            totals: Totals::default(),
        })
    }

    fn play(&mut self, script: &Script, at: &AtomicU64) -> Result<(), String> {
        say!(self, "{:?}", self.setup);
        self.attach(&[])?;
        for (i, step) in script.steps.iter().enumerate() {
            self.step = i;
            at.store(i as u64, Ordering::Relaxed);
            self.rng = Rng::new(step.seed);
            for _ in 0..step.gap {
                if !matches!(self.step_once()?, Progress::Some) {
                    break;
                }
            }
            self.operation(&step.op)?;
            self.check_online()?;
            self.scrub()?;
            self.totals.ops += 1;
            if self.ruined() {
                say!(self, "the store gave up, as it may: attach again");
                self.totals.given_up += 1;
                self.start_again(Loss::None, &[])?;
            }
            if self.lost {
                return Ok(());
            }
        }
        self.step = script.steps.len();
        self.finish()
    }

    /// The end of each history: all is read, detached, checked, attached, read again.
    fn finish(&mut self) -> Result<(), String> {
        self.calm();
        self.quiesce()?;
        if self.faulted {
            self.start_again(Loss::None, &[])?;
        }
        if self.lost {
            return Ok(());
        }
        self.read_back(usize::MAX)?;
        if self.lost {
            return Ok(());
        }
        if self.setup.volumes && !self.errors_are_fair() {
            self.idle(120_000)?;
            if self.store.volumes().is_some_and(|(_, releasing)| releasing) {
                return Err("what a volume lost was not released in two minutes".into());
            }
        }
        self.detach(true)?;
        self.read_back(usize::MAX)?;
        self.quiesce()
    }

    fn calm(&mut self) {
        self.read_ppm = 0;
        self.write_ppm = 0;
        self.alloc_ppm = 0;
    }

    /// The store can do no more, and a fault is the reason.
    fn ruined(&self) -> bool {
        self.errors_are_fair() && matches!(self.life, Life::Failed(_))
    }

    /// Begins a scrub of a running store, or stops one, now and then.
    fn scrub(&mut self) -> Result<(), String> {
        if self.life != Life::Running {
            return Ok(());
        }
        if self.scrub_rng.chance(1, 1500) {
            let begun = self.with_store(|s, now| s.begin_scrub(now))?;
            say!(self, "scrub: begun {begun}");
            self.background = true;
        } else if self.scrub_rng.chance(1, 5000) {
            let stopped = self.with_store(|s, now| s.stop_scrub(now))?;
            say!(self, "scrub: stopped {stopped}");
        }
        Ok(())
    }

    /// Begins a check of a running store, or goes on with it: pin, read the segment table, read the
    /// rest. In between everything goes on.
    fn check_online(&mut self) -> Result<(), String> {
        if self.life != Life::Running || self.rotten {
            self.online = None;
            return Ok(());
        }
        let mut rng = Rng::new(self.online_rng.draw());
        let Some(mut online) = self.online.take() else {
            if rng.chance(1, 200) {
                let pinned = self.with_store(|s, now| s.pin(now))?;
                self.online = pinned.map(|(cookie, root)| Online {
                    cookie,
                    root,
                    kept: None,
                    left: rng.pick(&[0, 0, 10, 200]),
                });
            }
            return Ok(());
        };
        if online.left > 0 {
            online.left -= 1;
            self.online = Some(online);
            return Ok(());
        }
        let (cookie, first) = (online.cookie, online.kept.is_none());
        let found = S::check_pinned(&self.disk, self.setup, &online.root, &mut online.kept);
        let held = self.with_store(|s, now| match first {
            true => s.keep_pin(now, cookie),
            false => s.unpin(now, cookie),
        })?;
        if !held {
            return Ok(());
        }
        found.map_err(|e| format!("check of the running store: {e}"))?;
        self.totals.online_checks += u64::from(!first);
        if first {
            online.left = rng.pick(&[1, 20, 200, 1000]);
            self.online = Some(online);
        }
        Ok(())
    }

    fn operation(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::Write { lbn, contents, fua } => self.request(
                Kind::Write,
                *lbn,
                contents.len() as u64,
                contents.clone(),
                *fua,
            ),
            Op::Read { lbn, count } => self.request(Kind::Read, *lbn, *count, Vec::new(), false),
            Op::Flush => self.request(Kind::Flush, 0, 0, Vec::new(), false),
            Op::Discard { lbn, count } => {
                self.request(Kind::Discard, *lbn, *count, Vec::new(), false)
            }
            Op::WriteZeroes { lbn, count } => {
                self.request(Kind::WriteZeroes, *lbn, *count, Vec::new(), false)
            }
            Op::Create { number, blocks } => match self.volumes.contains_key(number) {
                true => Ok(()),
                false => self.change(*number, Change::Create(*number, *blocks), *blocks),
            },
            Op::Resize { number, blocks } => match self.volumes.get(number) {
                Some((slot, _)) => self.change(*number, Change::Resize(*slot, *blocks), *blocks),
                None => Ok(()),
            },
            Op::Remove(number) => match self.volumes.get(number) {
                Some((slot, _)) => self.change(*number, Change::Remove(*slot), 0),
                None => Ok(()),
            },
            Op::Idle(ms) => self.idle(*ms),
            Op::PowerCut { loss, again } => {
                self.calm();
                self.power_cut(*loss, again)
            }
            Op::Detach { cut } => {
                self.calm();
                self.quiesce()?;
                self.detach(*cut)
            }
            Op::IoFaults {
                read_ppm,
                write_ppm,
            } => {
                say!(
                    self,
                    "I/O faults: reads {read_ppm}, writes {write_ppm} in a million"
                );
                self.read_ppm = *read_ppm;
                self.write_ppm = *write_ppm;
                Ok(())
            }
            Op::AllocFaults(ppm) => {
                say!(self, "allocation faults: {ppm} in a million");
                self.alloc_ppm = *ppm;
                Ok(())
            }
            Op::Rot => {
                self.rot();
                Ok(())
            }
            Op::ReadAll => {
                self.read_back(usize::MAX)?;
                self.quiesce()
            }
        }
    }

    // ---- the store's inputs ----------------------------------------------------------------

    /// Calls the store with allocations failing as the script says, then takes its actions.
    fn with_store<R>(&mut self, f: impl FnOnce(&mut S, Millis) -> R) -> Result<R, String> {
        if self.alloc_ppm > 0 {
            let before = fail_alloc::stats().failures;
            let seed = self.rng.draw();
            fail_alloc::set(Some(fail_alloc::Policy::Random {
                seed,
                per_million: self.alloc_ppm,
            }));
            let r = f(&mut self.store, self.now);
            fail_alloc::set(None);
            if fail_alloc::stats().failures > before {
                self.faulted = true;
            }
            self.drain()?;
            Ok(r)
        } else {
            let r = f(&mut self.store, self.now);
            self.drain()?;
            Ok(r)
        }
    }

    // ---- volumes ---------------------------------------------------------------------------

    /// Begins a change, unless another is under way or the store refuses it.
    fn change(&mut self, number: u64, change: Change, blocks: u64) -> Result<(), String> {
        if self.lost || self.changing.is_some() || self.ruined() {
            return Ok(());
        }
        while self.tell()? {}
        // The action may come before the call returns.
        self.changing = Some(Changing { number, blocks });
        let begun = self.with_store_quietly(|s, now| s.change_volume(now, change));
        say!(self, "volume {number}: {change:?}: slot {begun:?}");
        match begun {
            Some(slot) => {
                self.volumes.entry(number).or_insert((slot, 0));
                self.background = true;
                self.totals.volume_changes += 1;
            }
            None => self.changing = None,
        }
        self.drain()
    }

    /// A change is durable, or was given up.
    fn changed(&mut self, ok: bool) -> Result<(), String> {
        let Some(Changing { number, blocks }) = self.changing else {
            return Err("the end of a change that nobody asked for".into());
        };
        say!(self, "  volume {number}: has {blocks} blocks, ok {ok}");
        if !ok {
            // Whether it was made shows the next attach: a write that fails may reach the disk.
            return match self.errors_are_fair() {
                true => Ok(()),
                false => Err("a change was given up, and nothing had failed".into()),
            };
        }
        self.changing = None;
        let base = volume_base(number);
        self.oracle.forget(base + blocks, volume_base(number + 1));
        match blocks {
            0 => drop(self.volumes.remove(&number)),
            _ => {
                if let Some((_, size)) = self.volumes.get_mut(&number) {
                    *size = blocks;
                }
            }
        }
        Ok(())
    }

    /// After an attach: what volumes there are must be what was told, or what was on its way.
    fn compare_volumes(&mut self) -> Result<(), String> {
        let Some((shown, _)) = self.store.volumes() else {
            return Ok(());
        };
        let changing = self.changing.take();
        let mut before = std::mem::take(&mut self.volumes);
        for Volume {
            number,
            slot,
            blocks,
        } in shown.iter().copied()
        {
            let old = before.remove(&number).map_or(0, |(_, size)| size);
            let new = changing.filter(|c| c.number == number).map(|c| c.blocks);
            if blocks != old && Some(blocks) != new {
                return Err(format!(
                    "volume {number} has {blocks} blocks, and {old} or {new:?} were told"
                ));
            }
            if blocks != old {
                let end = volume_base(number + 1);
                self.oracle.forget(volume_base(number) + blocks, end);
            }
            self.volumes.insert(number, (slot, blocks));
        }
        for (number, (_, blocks)) in before {
            // It never came, or was on its way out.
            let gone = blocks == 0 || changing.is_some_and(|c| c.number == number && c.blocks == 0);
            if !gone {
                return Err(format!("volume {number} of {blocks} blocks is not there"));
            }
            self.oracle
                .forget(volume_base(number), volume_base(number + 1));
        }
        Ok(())
    }

    /// The part of a range that a volume has now and will have: slot, block, blocks.
    fn within(&self, lbn: u64, count: u64) -> Option<(u32, u64, u64)> {
        let number = lbn / volume_base(1);
        let (slot, size) = *self.volumes.get(&number)?;
        let new = self.changing.filter(|c| c.number == number);
        let size = size.min(new.map_or(u64::MAX, |c| c.blocks));
        let at = lbn - volume_base(number);
        let count = count.min(size.checked_sub(at)?);
        (count > 0).then_some((slot, at, count))
    }

    fn with_store_quietly<R>(&mut self, f: impl FnOnce(&mut S, Millis) -> R) -> R {
        f(&mut self.store, self.now)
    }

    fn request(
        &mut self,
        kind: Kind,
        lbn: u64,
        mut count: u64,
        mut contents: Vec<Content>,
        fua: bool,
    ) -> Result<(), String> {
        if self.lost {
            return Ok(());
        }
        let mut steps = 0;
        while self.slots.len() >= self.setup.queue_depth as usize {
            steps += 1;
            if steps > WAIT_STEPS {
                self.set_wait_for_space(false)?;
            }
            self.must_step("waiting for a free request")?;
        }
        self.set_wait_for_space(self.setup.wait_for_space)?;
        // The shell tells all that has completed before it submits.
        while self.tell()? {}
        if self.ruined() {
            return Ok(());
        }
        let (mut volume, mut at) = (0, 0);
        if kind != Kind::Flush {
            let Some(inside) = self.within(lbn, count) else {
                return Ok(());
            };
            (volume, at, count) = inside;
            contents.truncate(count as usize);
        }
        let depth = u64::from(self.setup.queue_depth);
        let mut tag = self.rng.below(depth) as u32;
        while self.slots.contains_key(&tag) {
            tag = (tag + 1) % self.setup.queue_depth;
        }
        let op = self.next_op;
        self.next_op += 1;
        match kind {
            Kind::Read => self.oracle.read(op, lbn, count),
            Kind::Write => self.oracle.write(op, lbn, &contents),
            Kind::Flush => self.oracle.flush(op),
            Kind::Discard | Kind::WriteZeroes => self.oracle.zero(op, lbn, count),
        }
        let request = Request {
            tag,
            kind,
            volume,
            lbn: at,
            count,
            fua,
        };
        say!(
            self,
            "op {op} tag {tag}: {kind:?} {lbn:#x}+{count}{}{}",
            if fua { " FUA" } else { "" },
            if contents.is_empty() {
                String::new()
            } else {
                format!(" {contents:?}")
            }
        );
        let results = if kind == Kind::Read {
            vec![None; count as usize]
        } else {
            Vec::new()
        };
        self.slots.insert(
            tag,
            Slot {
                op,
                request,
                contents: contents.clone(),
                results,
                at_disk: 0,
                untold: 0,
                untold_failures: 0,
                after_io: false,
                completed: false,
                acknowledged: None,
                unwritten: BTreeSet::new(),
                may_fail: !self.wait_for_space,
                patience: PATIENCE,
            },
        );
        let fingerprints = self.setup.fingerprints;
        self.with_store(|s, now| s.submit(now, request, &contents, &fingerprints))?;
        self.background = true;
        Ok(())
    }

    /// Tells the store one piece of news; false if there is none.
    fn tell(&mut self) -> Result<bool, String> {
        let Some(n) = self.news.pop_front() else {
            return Ok(false);
        };
        if let Some(slot) = self.slots.get_mut(&n.tag) {
            slot.untold -= 1;
            if matches!(n.result, DataResult::Failed | DataResult::Mismatch) {
                slot.untold_failures -= 1;
            }
        }
        self.with_store(|s, now| s.data_done(now, n.tag, n.block, n.count, n.result))?;
        self.free_slot(n.tag);
        self.background = true;
        Ok(true)
    }

    fn free_slot(&mut self, tag: u32) {
        let free =
            |s: &Slot| s.completed && s.acknowledged.is_none() && s.at_disk == 0 && s.untold == 0;
        if self.slots.get(&tag).is_some_and(free) {
            self.slots.remove(&tag);
        }
    }

    // ---- the store's actions ---------------------------------------------------------------

    fn drain(&mut self) -> Result<(), String> {
        loop {
            if self.alloc_ppm > 0 {
                let seed = self.rng.draw();
                let per_million = self.alloc_ppm;
                let before = fail_alloc::stats().failures;
                fail_alloc::set(Some(fail_alloc::Policy::Random { seed, per_million }));
                let action = self.store.poll_action(self.now);
                fail_alloc::set(None);
                self.faulted |= fail_alloc::stats().failures > before;
                match action {
                    Some(action) => self.act(action)?,
                    None => return Ok(()),
                }
            } else {
                match self.store.poll_action(self.now) {
                    Some(action) => self.act(action)?,
                    None => return Ok(()),
                }
            }
        }
    }

    fn act(&mut self, action: Action<S::Token>) -> Result<(), String> {
        match action {
            Action::ReadBlock {
                tag,
                block,
                cluster,
                check,
            } => {
                self.in_range(cluster, 1, "ReadBlock")?;
                let checks = vec![check];
                self.slot(tag, block, 1, "ReadBlock")?.at_disk += 1;
                say!(self, "  tag {tag}: read block {block} from {cluster:#x}");
                // Neighbours become one I/O, as in the shell.
                if self.rng.chance(7, 8) {
                    if let Some(InFlight {
                        io:
                            Io::Read {
                                tag: t,
                                block: b,
                                cluster: c,
                                checks,
                                early,
                            },
                        ..
                    }) = self.in_flight.last_mut()
                    {
                        let n = checks.len() as u64;
                        if *t == tag
                            && u64::from(*b) + n == u64::from(block)
                            && *c + n == cluster
                            && early.is_none()
                        {
                            checks.push(check);
                            if let Some(slot) = self.slots.get_mut(&tag) {
                                slot.at_disk -= 1;
                            }
                            return Ok(());
                        }
                    }
                }
                let early = self.rng.chance(1, 4).then(|| vec![self.disk.read(cluster)]);
                self.put(Io::Read {
                    tag,
                    block,
                    cluster,
                    checks,
                    early,
                });
            }
            Action::ScrubBlock {
                tag,
                block,
                cluster,
                check,
            } => {
                self.in_range(cluster, 1, "ScrubBlock")?;
                if self.slots.contains_key(&tag) {
                    return Err(format!("a scrub has tag {tag}, as a request has"));
                }
                say!(self, "  scrub: block {block} from {cluster:#x}");
                self.put(Io::Scrub {
                    tag,
                    block,
                    cluster,
                    check,
                });
            }
            Action::ScrubFound { slot, lbn } => {
                say!(self, "  scrub: block {lbn} of slot {slot} is bad");
                if !self.errors_are_fair() {
                    return Err(format!(
                        "a scrub found block {lbn} of slot {slot} to be bad"
                    ));
                }
            }
            Action::ScrubEnded => {
                say!(self, "  scrub: it has ended");
                self.totals.scrubs += 1;
            }
            Action::ZeroBlocks { tag, block, count } => {
                say!(self, "  tag {tag}: zeroes for blocks {block}+{count}");
                let slot = self.slot(tag, block, count, "ZeroBlocks")?;
                if slot.request.kind == Kind::Read {
                    slot.results[block as usize..(block + count) as usize].fill(Some(ZERO));
                }
            }
            Action::WriteRun {
                tag,
                block,
                count,
                cluster,
            } => {
                self.in_range(cluster, u64::from(count), "WriteRun")?;
                let slot = self.slot(tag, block, count, "WriteRun")?;
                slot.at_disk += 1;
                if slot.request.kind != Kind::Write {
                    return Err(format!("tag {tag}: WriteRun for a {:?}", slot.request.kind));
                }
                say!(
                    self,
                    "  tag {tag}: write blocks {block}+{count} to {cluster:#x}"
                );
                self.unread(cluster, u64::from(count))?;
                self.totals.data_writes += u64::from(count);
                self.put(Io::Write {
                    tag,
                    block,
                    cluster,
                    count,
                });
            }
            Action::CompareBlock {
                tag,
                block,
                cluster,
            } => {
                self.in_range(cluster, 1, "CompareBlock")?;
                self.slot(tag, block, 1, "CompareBlock")?.at_disk += 1;
                say!(self, "  tag {tag}: compare block {block} with {cluster:#x}");
                self.totals.compares += 1;
                self.put(Io::Compare {
                    tag,
                    block,
                    cluster,
                });
            }
            Action::CompleteAfterIo { tag } => {
                say!(self, "  tag {tag}: complete after I/O");
                let slot = self.slot(tag, 0, 0, "CompleteAfterIo")?;
                if slot.untold_failures == 0 {
                    slot.after_io = true;
                    if slot.at_disk == 0 {
                        self.complete(tag, Status::Ok)?;
                    }
                }
            }
            Action::Acknowledge { tag } => {
                say!(self, "  tag {tag}: acknowledge");
                let next_op = self.next_op;
                let slot = self.slot(tag, 0, 0, "Acknowledge")?;
                if slot.request.kind != Kind::Write || slot.request.fua {
                    return Err(format!("tag {tag}: Acknowledge of a {:?}", slot.request));
                }
                slot.acknowledged = Some(next_op);
                self.complete(tag, Status::Ok)?;
            }
            Action::Complete { tag, status } => {
                let slot = self.slot(tag, 0, 0, "Complete")?;
                if slot.at_disk > 0 || slot.untold > 0 {
                    return Err(format!(
                        "tag {tag}: Complete while {} data I/Os are at the disk and {} untold",
                        slot.at_disk, slot.untold
                    ));
                }
                let volume = slot.request.volume;
                if let Some(before) = slot.acknowledged.take() {
                    let lost = status != Status::Ok || !slot.unwritten.is_empty();
                    say!(
                        self,
                        "  tag {tag}: was acknowledged, ends {status:?}, lost: {lost}"
                    );
                    // Those of other volumes are not told to the one that is flushed.
                    if lost && volume == 0 {
                        self.untold_loss = Some(before);
                    }
                    self.holed |= lost;
                    self.free_slot(tag);
                } else {
                    self.complete(tag, status)?;
                }
            }
            Action::ReadMeta {
                token,
                cluster,
                buf,
            } => {
                self.in_range(cluster, (buf.len() / CLUSTER) as u64, "ReadMeta")?;
                say!(
                    self,
                    "  {token:?}: read metadata {cluster:#x}+{}",
                    buf.len() / CLUSTER
                );
                self.totals.meta_reads += (buf.len() / CLUSTER) as u64;
                self.put(Io::ReadMeta {
                    token,
                    cluster,
                    buf,
                });
            }
            Action::WriteMeta {
                token,
                cluster,
                buf,
                durability,
            } => {
                let count = (buf.len() / CLUSTER) as u64;
                self.in_range(cluster, count, "WriteMeta")?;
                if buf.is_empty() || buf.len() % CLUSTER != 0 {
                    return Err(format!("WriteMeta of {} bytes", buf.len()));
                }
                say!(
                    self,
                    "  {token:?}: write metadata {cluster:#x}+{count}, durable: {durability:?}"
                );
                self.unread(cluster, count)?;
                self.totals.meta_writes += count;
                let point = self.disk.now();
                let mut completes = Vec::new();
                while let Some(tag) = self.store.hand_over_commit(token) {
                    self.slot(tag, 0, 0, "hand-over")?;
                    say!(self, "  tag {tag}: complete after {token:?}");
                    completes.push(tag);
                    if self.rng.chance(1, 4) {
                        break;
                    }
                }
                self.put(Io::WriteMeta {
                    token,
                    cluster,
                    buf,
                    durability,
                    point,
                    completes,
                });
            }
            Action::VerifyData {
                cluster,
                check,
                buf,
            } => {
                self.in_range(cluster, 1, "VerifyData")?;
                if self.life != Life::Starting {
                    return Err("VerifyData of a running store".into());
                }
                say!(self, "  look at the data in {cluster:#x}");
                self.put(Io::Verify {
                    cluster,
                    check,
                    buf,
                });
            }
            Action::Flush { token } => {
                say!(self, "  {token:?}: flush");
                let point = self.disk.now();
                self.put(Io::Flush { token, point });
            }
            Action::DiscardRun {
                token,
                cluster,
                count,
            } => {
                self.in_range(cluster, count, "DiscardRun")?;
                say!(self, "  {token:?}: discard {cluster:#x}+{count}");
                if !self.setup.discard {
                    return Err("DiscardRun on a disk that takes none".into());
                }
                self.unread(cluster, count)?;
                self.totals.discarded += count;
                self.put(Io::Discard {
                    token,
                    cluster,
                    count,
                });
            }
            Action::VolumeChanged { ok, .. } => self.changed(ok)?,
            Action::Started => {
                say!(self, "  started");
                self.life = Life::Running;
            }
            Action::Failed { reason } => {
                say!(self, "  failed: {reason}");
                match self.life {
                    Life::Starting => self.life = Life::Failed(reason),
                    _ if !self.errors_are_fair() => {
                        return Err(format!(
                            "the store gave up, and nothing had failed: {reason}"
                        ));
                    }
                    Life::Running => self.life = Life::Failed(reason),
                    // `Detached` follows.
                    _ => (),
                }
            }
            Action::Detached { ok } => {
                say!(self, "  detached: {ok}");
                if ok && self.untold_loss.is_some() {
                    return Err("a clean detach, and acknowledged data is lost".into());
                }
                self.life = Life::Detached(ok);
            }
            Action::Event(text) => say!(self, "  event: {text}"),
        }
        Ok(())
    }

    fn put(&mut self, io: Io<S::Token>) {
        let slow = match &io {
            Io::ReadMeta { token, .. } if S::is_advice(*token) => 3,
            Io::WriteMeta {
                durability: Durability::None,
                ..
            } => self.setup.slow_one_in,
            Io::Read { .. } | Io::Scrub { .. } => self.setup.slow_reads_one_in,
            _ if self.setup.slow_pages => 0,
            _ => self.setup.slow_one_in,
        };
        let not_before = if slow > 0 && self.rng.chance(1, slow) {
            self.now + self.rng.between(1, 5000)
        } else {
            self.now
        };
        self.in_flight.push(InFlight { io, not_before });
    }

    fn in_range(&self, cluster: u64, count: u64, what: &str) -> Result<(), String> {
        match cluster.checked_add(count) {
            Some(end) if count > 0 && end <= self.disk.clusters() => Ok(()),
            _ => Err(format!(
                "{what} of clusters {cluster:#x}+{count} on a disk of {:#x}",
                self.disk.clusters()
            )),
        }
    }

    /// What is written or discarded must not be read at the same time: who reads holds a reference.
    fn unread(&self, cluster: u64, count: u64) -> Result<(), String> {
        let range = cluster..cluster + count;
        for f in &self.in_flight {
            let (at, n, what) = match &f.io {
                Io::Read {
                    cluster, checks, ..
                } => (*cluster, checks.len() as u64, "read"),
                Io::Compare { cluster, .. } => (*cluster, 1, "compared"),
                Io::Scrub { cluster, .. } => (*cluster, 1, "scrubbed"),
                Io::Write { cluster, count, .. } => (*cluster, u64::from(*count), "written"),
                Io::WriteMeta { cluster, buf, .. } => {
                    (*cluster, (buf.len() / CLUSTER) as u64, "written")
                }
                Io::Discard { cluster, count, .. } => (*cluster, *count, "discarded"),
                Io::ReadMeta { .. } | Io::Verify { .. } | Io::Flush { .. } => continue,
            };
            if at < range.end && range.start < at + n {
                return Err(format!(
                    "clusters {cluster:#x}+{count} are reused while {at:#x}+{n} is being {what}"
                ));
            }
        }
        Ok(())
    }

    fn slot(&mut self, tag: u32, block: u32, count: u32, what: &str) -> Result<&mut Slot, String> {
        match self.slots.get_mut(&tag) {
            None => Err(format!("{what} for tag {tag}, which is not in use")),
            Some(slot) if slot.completed && slot.acknowledged.is_none() => Err(format!(
                "{what} for tag {tag} (op {}), which has completed",
                slot.op
            )),
            Some(slot) if u64::from(block) + u64::from(count) > slot.request.count => Err(format!(
                "{what} for blocks {block}+{count} of tag {tag}, which has {}",
                slot.request.count
            )),
            Some(slot) => Ok(slot),
        }
    }

    // ---- completions -----------------------------------------------------------------------

    fn errors_are_fair(&self) -> bool {
        self.faulted || self.rotten || self.holed
    }

    /// The submitter sees its request end.
    fn complete(&mut self, tag: u32, status: Status) -> Result<(), String> {
        let Some(slot) = self.slots.get_mut(&tag) else {
            return Ok(());
        };
        slot.completed = true;
        let (op, request) = (slot.op, slot.request);
        let results = std::mem::take(&mut slot.results);
        say!(self, "op {op} tag {tag}: ends {status:?}");
        let ok = status == Status::Ok;
        match status {
            Status::Ok => (),
            Status::NoSpace => self.no_space_is_fair(request)?,
            Status::Error(name) => {
                if !self.errors_are_fair() {
                    return Err(format!(
                        "op {op}: {:?} {:#x}+{} ended with {name}, and nothing had failed",
                        request.kind, request.lbn, request.count
                    ));
                }
                self.totals.errors += 1;
            }
        }
        match request.kind {
            Kind::Read => {
                if ok {
                    if let Some(at) = results.iter().position(Option::is_none) {
                        return Err(format!("op {op}: read ended well without its block {at}"));
                    }
                    self.oracle.was_read(op, &results)
                } else {
                    self.oracle.was_read(op, &vec![None; results.len()])
                }
            }
            Kind::Write | Kind::Discard | Kind::WriteZeroes => {
                self.oracle.written(op, ok, ok && request.fua);
                Ok(())
            }
            Kind::Flush => {
                let told = self.untold_loss.is_some_and(|before| op >= before);
                if ok && told {
                    return Err(format!(
                        "op {op}: no word of acknowledged data that is lost"
                    ));
                }
                self.untold_loss = self.untold_loss.filter(|_| !told);
                self.oracle.flushed(op, ok);
                Ok(())
            }
        }
        .map_err(|e| format!("op {op}: {e}"))?;
        self.free_slot(tag);
        Ok(())
    }

    fn no_space_is_fair(&mut self, request: Request) -> Result<(), String> {
        self.totals.no_space += 1;
        if matches!(request.kind, Kind::Read | Kind::Flush) {
            return Err(format!("a {:?} ended with NoSpace", request.kind));
        }
        if self.slots.get(&request.tag).is_some_and(|s| !s.may_fail) {
            return Err(format!(
                "{:?} {:#x}+{} ended with NoSpace, and it should have waited",
                request.kind, request.lbn, request.count
            ));
        }
        let c = self.store.counters();
        let held = self.oracle.mapped_max();
        // Scattered blocks fill the metadata segments: a store keeps a part of them for frees.
        let metadata_full = c.metadata_free < c.metadata_capacity / 4;
        let full = c.clusters_data == 0 || held >= c.clusters_data / 2;
        if !self.setup.full || !(full || metadata_full) {
            return Err(format!(
                "{:?} {:#x}+{} ended with NoSpace though at most {held} blocks are mapped in a \
                 store of {} data clusters",
                request.kind, request.lbn, request.count, c.clusters_data
            ));
        }
        Ok(())
    }

    /// One thing happens, drawn from all that can.
    fn step_once(&mut self) -> Result<Progress, String> {
        let ready = self.ready_io();
        let deadline = self.store.next_deadline();
        let due = deadline.is_some_and(|d| d <= self.now);
        let weights = [
            if ready.is_some() { 8 } else { 0 },
            if self.news.is_empty() { 0 } else { 4 },
            if self.background { 3 } else { 0 },
            if due { 2 } else { 0 },
        ];
        if weights == [0, 4, 0, 0] && self.in_flight.is_empty() {
            self.news_is_wanted()?;
        }
        match self.rng.weighted(&weights) {
            Some(0) => {
                self.spins = 0;
                if let Some(i) = ready {
                    let io = self.in_flight.swap_remove(i).io;
                    self.io_ends(io)?;
                }
                if self.rng.chance(1, 16) {
                    self.now += self.rng.below(3);
                }
            }
            Some(1) => {
                self.spins = 0;
                self.tell()?;
            }
            Some(_) => {
                self.background = self.with_store(|s, now| s.background(now))?;
                self.spins = if self.background || !due {
                    0
                } else {
                    self.spins + 1
                };
                if self.spins > SPINS_MAX {
                    return Err(format!(
                        "the deadline {deadline:?} has passed at {}, and nothing is done about it; \
                         in flight are {}",
                        self.now,
                        self.waiting()
                    ));
                }
            }
            None => {
                let io = self.in_flight.iter().map(|f| f.not_before).min();
                return Ok(match (io, deadline) {
                    (Some(a), Some(b)) => Progress::Wait(a.min(b)),
                    (Some(a), None) | (None, Some(a)) => Progress::Wait(a),
                    (None, None) => Progress::None,
                });
            }
        }
        if self.slots.values_mut().any(|s| {
            s.patience = s.patience.saturating_sub(1);
            s.patience == 0
        }) {
            return Err(format!(
                "stuck: {} steps did not end {}",
                PATIENCE,
                self.waiting()
            ));
        }
        Ok(Progress::Some)
    }

    /// Nothing but news is left: a driver tells of good data I/O at once only if the store says so.
    fn news_is_wanted(&self) -> Result<(), String> {
        let good = self.news.iter().all(|n| n.result == DataResult::Ok);
        let listens = |s: &&Slot| !s.completed && s.untold > 0;
        match self.slots.values().find(listens) {
            Some(slot) if good && !self.store.is_eager() => Err(format!(
                "op {} waits for data I/O that ended, and the store is in no hurry to hear of it",
                slot.op
            )),
            _ => Ok(()),
        }
    }

    fn ready_io(&mut self) -> Option<usize> {
        let n = self.in_flight.len();
        let at = self.rng.below(n as u64) as usize;
        (at..n)
            .chain(0..at)
            .find(|i| self.in_flight[*i].not_before <= self.now)
    }

    /// A step that has to come about, if need be by waiting.
    fn must_step(&mut self, why: &str) -> Result<(), String> {
        match self.step_once()? {
            Progress::Some => Ok(()),
            Progress::Wait(until) => {
                self.now = self.now.max(until);
                self.background = true;
                Ok(())
            }
            Progress::None if self.wait_for_space => self.set_wait_for_space(false),
            Progress::None => Err(format!(
                "deadlock: {why}, and nothing is left that could happen; in flight are {}",
                self.waiting()
            )),
        }
    }

    fn waiting(&self) -> String {
        let all: Vec<String> = self
            .slots
            .values()
            .filter(|s| !s.completed)
            .take(8)
            .map(|s| {
                let r = &s.request;
                format!("op {} {:?} {:#x}+{}", s.op, r.kind, r.lbn, r.count)
            })
            .collect();
        if all.is_empty() {
            "no requests".into()
        } else {
            all.join(", ")
        }
    }

    fn news(&mut self, tag: u32, block: u32, count: u32, result: DataResult) {
        if let Some(slot) = self.slots.get_mut(&tag) {
            slot.untold += 1;
            if matches!(result, DataResult::Failed | DataResult::Mismatch) {
                slot.untold_failures += 1;
                slot.after_io = false;
            }
        }
        self.news.push_back(News {
            tag,
            block,
            count,
            result,
        });
    }

    /// Data I/O of a request has left the disk.
    fn data_ended(&mut self, tag: u32) -> Result<(), String> {
        if let Some(slot) = self.slots.get_mut(&tag) {
            slot.at_disk -= 1;
            if slot.at_disk == 0 && slot.after_io && !slot.completed {
                self.complete(tag, Status::Ok)?;
            }
        }
        Ok(())
    }

    fn fault(&mut self, ppm: u32) -> bool {
        let hit = ppm > 0 && self.rng.chance(u64::from(ppm), 1_000_000);
        if hit {
            self.faulted = true;
            self.totals.faults += 1;
        }
        hit
    }

    fn io_ends(&mut self, io: Io<S::Token>) -> Result<(), String> {
        match io {
            Io::Read {
                tag,
                block,
                cluster,
                checks,
                early,
            } => {
                self.read_ends(tag, block, cluster, &checks, early);
                self.data_ended(tag)
            }
            Io::Write {
                tag,
                block,
                cluster,
                count,
            } => {
                let failed = self.fault(self.write_ppm);
                let written = self.contents_of(tag, block, count);
                for (i, content) in written.into_iter().enumerate() {
                    let mask = self.written_mask(failed);
                    if mask != 0 {
                        self.disk
                            .write(cluster + i as u64, Image::Data(content), mask);
                        self.young.insert(cluster + i as u64);
                    }
                }
                let result = if failed {
                    DataResult::Failed
                } else {
                    DataResult::Ok
                };
                say!(
                    self,
                    "  tag {tag}: wrote blocks {block}+{count}: {result:?}"
                );
                if let Some(slot) = self.slots.get_mut(&tag) {
                    match failed {
                        true => slot.unwritten.extend(block..block + count),
                        false => slot
                            .unwritten
                            .retain(|b| !(block..block + count).contains(b)),
                    }
                }
                self.news(tag, block, count, result);
                self.data_ended(tag)
            }
            Io::Compare {
                tag,
                block,
                cluster,
            } => {
                let result = if self.fault(self.read_ppm) {
                    DataResult::Failed
                } else if self.contents_of(tag, block, 1) == [self.disk.read(cluster).content()] {
                    DataResult::Equal
                } else {
                    DataResult::Differs
                };
                say!(self, "  tag {tag}: compared block {block}: {result:?}");
                self.news(tag, block, 1, result);
                self.data_ended(tag)
            }
            Io::Scrub {
                tag,
                block,
                cluster,
                check,
            } => {
                let content = self.disk.read(cluster).content();
                let result = match self.setup.fingerprints.check(content) == check {
                    _ if self.fault(self.read_ppm) => DataResult::Failed,
                    true => DataResult::Ok,
                    false => DataResult::Mismatch,
                };
                say!(
                    self,
                    "  scrub: {cluster:#x} is content {content:#x}: {result:?}"
                );
                self.news(tag, block, 1, result);
                Ok(())
            }
            Io::ReadMeta {
                token,
                cluster,
                mut buf,
            } => {
                let ok = !self.fault(self.read_ppm);
                if ok {
                    for (i, part) in buf.chunks_mut(CLUSTER).enumerate() {
                        self.disk.read(cluster + i as u64).bytes(part);
                    }
                }
                say!(self, "  {token:?}: read, ok {ok}");
                self.meta_ended(token, buf, ok)
            }
            Io::WriteMeta {
                token,
                cluster,
                buf,
                durability,
                point,
                completes,
            } => {
                let failed = self.fault(self.write_ppm);
                let flush_failed = failed && self.rng.chance(1, 2);
                if durability == Durability::AllBefore {
                    if flush_failed {
                        say!(self, "  {token:?}: the flush before it failed");
                        return self.meta_ended(token, buf, false);
                    }
                    self.disk.flush(point);
                }
                if durability == Durability::AllTogether && !failed {
                    self.disk.flush(point);
                }
                for (i, part) in buf.chunks(CLUSTER).enumerate() {
                    let image = Image::meta(part);
                    if durability != Durability::None && !failed {
                        self.disk.write_durable(cluster + i as u64, image);
                        continue;
                    }
                    let together = durability == Durability::AllTogether;
                    let mask = self.written_mask(failed && !(together && flush_failed));
                    if mask != 0 {
                        self.disk.write(cluster + i as u64, image, mask);
                    }
                }
                say!(self, "  {token:?}: written, ok {}", !failed);
                for tag in completes.into_iter().filter(|_| !failed) {
                    self.complete(tag, Status::Ok)?;
                }
                self.meta_ended(token, buf, !failed)
            }
            Io::Verify {
                cluster,
                check,
                buf,
            } => {
                let content = self.disk.read(cluster).content();
                let result = match self.setup.fingerprints.check(content) == check {
                    _ if self.fault(self.read_ppm) => DataResult::Failed,
                    true => DataResult::Ok,
                    false => DataResult::Mismatch,
                };
                say!(
                    self,
                    "  the data in {cluster:#x} is content {content:#x}: {result:?}"
                );
                self.background = true;
                self.with_store(|s, now| s.verify_done(now, buf, result))
            }
            Io::Flush { token, point } => {
                let ok = !self.fault(self.write_ppm);
                if ok {
                    self.disk.flush(point);
                }
                say!(self, "  {token:?}: flushed, ok {ok}");
                self.meta_ended(token, KVec::new(), ok)
            }
            Io::Discard {
                token,
                cluster,
                count,
            } => {
                let ok = !self.fault(self.write_ppm);
                if ok {
                    self.disk.discard(cluster, count, &mut self.rng);
                }
                say!(self, "  {token:?}: discarded, ok {ok}");
                self.meta_ended(token, KVec::new(), ok)
            }
        }
    }

    fn meta_ended(&mut self, token: S::Token, buf: KVec<u8>, ok: bool) -> Result<(), String> {
        self.background = true;
        self.with_store(|s, now| s.meta_done(now, token, buf, ok))
    }

    fn contents_of(&self, tag: u32, block: u32, count: u32) -> Vec<Content> {
        match self.slots.get(&tag) {
            Some(s) => s.contents[block as usize..(block + count) as usize].to_vec(),
            None => Vec::new(),
        }
    }

    fn written_mask(&mut self, failed: bool) -> u8 {
        match failed {
            false => 0xff,
            true => match self.rng.below(3) {
                0 => 0,
                1 => 0xff,
                _ => self.rng.draw() as u8,
            },
        }
    }

    /// A read of neighbours ends; its blocks are told in as few pieces as their results allow.
    fn read_ends(
        &mut self,
        tag: u32,
        block: u32,
        cluster: u64,
        checks: &[u64],
        early: Option<Vec<Image>>,
    ) {
        self.totals.data_reads += checks.len() as u64;
        let failed = self.fault(self.read_ppm);
        let mut results = Vec::with_capacity(checks.len());
        for (i, check) in checks.iter().enumerate() {
            let content = match &early {
                Some(images) => images[i].content(),
                None => self.disk.read(cluster + i as u64).content(),
            };
            let matches = self.setup.fingerprints.check(content) == *check;
            results.push(match (failed, matches) {
                (true, _) => DataResult::Failed,
                (false, true) => DataResult::Ok,
                (false, false) => DataResult::Mismatch,
            });
            if let (DataResult::Ok, Some(slot)) = (results[i], self.slots.get_mut(&tag)) {
                if let Some(r) = slot.results.get_mut(block as usize + i) {
                    *r = Some(content);
                }
            }
            say!(
                self,
                "  tag {tag}: block {} is content {content:#x}: {:?}",
                block as usize + i,
                results[i]
            );
        }
        let mut from = 0;
        while from < results.len() {
            let same = results[from..]
                .iter()
                .take_while(|r| **r == results[from])
                .count();
            self.news(tag, block + from as u32, same as u32, results[from]);
            from += same;
        }
    }

    // ---- the life of the store -------------------------------------------------------------

    fn idle(&mut self, ms: Millis) -> Result<(), String> {
        let end = self.now + ms;
        let mut spins = 0;
        while self.now < end {
            match self.step_once()? {
                Progress::Some => {
                    spins += 1;
                    if spins > PATIENCE {
                        return Err(format!("an idle store was still busy after {spins} steps"));
                    }
                }
                Progress::Wait(until) if until <= end => {
                    self.now = until.max(self.now);
                    self.background = true;
                }
                // Nothing was to be done for so long that nothing has still to be vouched for.
                _ if end - self.now > self.setup.commit_interval_ms
                    && self.slots.is_empty()
                    && self.in_flight.is_empty() =>
                {
                    self.young.clear();
                    self.now = end;
                }
                _ => self.now = end,
            }
        }
        Ok(())
    }

    /// Waits for all requests.
    fn quiesce(&mut self) -> Result<(), String> {
        if self.lost {
            return Ok(());
        }
        let mut steps = 0;
        while !self.slots.is_empty() {
            steps += 1;
            if steps > WAIT_STEPS {
                self.set_wait_for_space(false)?;
            }
            self.must_step("waiting for all requests")?;
        }
        self.set_wait_for_space(self.setup.wait_for_space)
    }

    /// Changes what becomes of writes that find no space, as an administrator may.
    fn set_wait_for_space(&mut self, wait: bool) -> Result<(), String> {
        if wait == self.wait_for_space {
            return Ok(());
        }
        say!(self, "writes that find no space wait: {wait}");
        self.wait_for_space = wait;
        self.background = true;
        if !wait {
            self.slots
                .values_mut()
                .for_each(|slot| slot.may_fail = true);
        }
        self.with_store(|s, _| s.set_wait_for_space(wait))
    }

    fn detach(&mut self, cut: bool) -> Result<(), String> {
        self.quiesce()?;
        if self.ruined() {
            return self.start_again(Loss::None, &[]);
        }
        say!(self, "detach");
        self.life = Life::Detaching;
        self.with_store(|s, now| s.detach(now))?;
        self.background = true;
        let mut steps = 0;
        while self.life == Life::Detaching {
            steps += 1;
            if steps > PATIENCE {
                return Err(format!("stuck: detach did not end in {steps} steps"));
            }
            self.must_step("waiting for a detach")?;
        }
        match self.life {
            Life::Detached(true) => self.oracle.pin_all(),
            Life::Detached(false) if self.errors_are_fair() => (),
            ref other => return Err(format!("a detach without any fault ended in {other:?}")),
        }
        let clean = self.life == Life::Detached(true);
        if clean && !self.in_flight.is_empty() {
            let what: Vec<String> = self.in_flight.iter().map(|f| f.io.to_string()).collect();
            return Err(format!("detached with I/O in flight: {}", what.join(", ")));
        }
        self.totals.detaches += 1;
        self.collect();
        if cut || !clean {
            self.disk.power_cut(Loss::All, &mut self.rng);
            self.oracle.power_cut();
        }
        if clean && !self.rotten {
            S::check(&self.disk, self.setup).map_err(|e| format!("after a detach: {e}"))?;
        }
        let mut rng = Rng::new(self.setup.seed ^ self.now);
        if clean && rng.chance(1, 4) {
            self.rot_advice(&mut rng);
        }
        self.forget();
        self.renew()?;
        self.attach(&[])?;
        if clean && rng.chance(1, 6) {
            say!(self, "and once more, before anything happens");
            return self.detach(cut);
        }
        self.read_back(200)
    }

    /// A sector of what is only advice rots, which nobody may notice.
    fn rot_advice(&mut self, rng: &mut Rng) {
        let Some(clusters) = S::advice(&self.disk, self.setup) else {
            return;
        };
        let cluster = rng.between(clusters.start, clusters.end - 1);
        say!(self, "cluster {cluster:#x} of the advice rots");
        let sector = rng.below(8) as usize;
        self.disk.rot(cluster, sector, rng);
    }

    /// Adds the store's counters to the totals, before it is dropped.
    fn collect(&mut self) {
        let c: Counters = self.store.counters();
        self.totals.checkpoints += c.checkpoints;
        self.totals.journal_wraps += c.journal_wraps;
        self.totals.clusters_recycled += c.clusters_recycled;
        self.totals.levels = self.totals.levels.max(c.levels);
    }

    fn renew(&mut self) -> Result<(), String> {
        self.store = S::new(self.setup, self.disk.clusters())?;
        self.wait_for_space = self.setup.wait_for_space;
        self.online = None;
        self.life = Life::Starting;
        self.background = true;
        Ok(())
    }

    fn forget(&mut self) {
        self.in_flight.clear();
        self.news.clear();
        self.slots.clear();
    }

    /// The power fails now.
    fn cut(&mut self, loss: Loss) {
        say!(self, "POWER CUT, {loss:?}");
        self.collect();
        let mut rng = Rng::new(self.rng.draw());
        for f in std::mem::take(&mut self.in_flight) {
            if loss == Loss::All || rng.chance(1, 2) {
                continue;
            }
            match f.io {
                Io::Write {
                    tag,
                    block,
                    cluster,
                    count,
                } => {
                    for (i, c) in self.contents_of(tag, block, count).into_iter().enumerate() {
                        self.disk.write(cluster + i as u64, Image::Data(c), 0xff);
                    }
                }
                Io::WriteMeta {
                    cluster,
                    buf,
                    durability,
                    point,
                    ..
                } => {
                    if durability == Durability::AllBefore {
                        self.disk.flush(point);
                        if rng.chance(1, 3) {
                            continue;
                        }
                    }
                    let ended = durability == Durability::AllTogether && rng.chance(1, 3);
                    if ended {
                        self.disk.flush(point);
                    }
                    for (i, part) in buf.chunks(CLUSTER).enumerate() {
                        match ended {
                            true => self
                                .disk
                                .write_durable(cluster + i as u64, Image::meta(part)),
                            false => self.disk.write(cluster + i as u64, Image::meta(part), 0xff),
                        }
                    }
                }
                Io::Flush { point, .. } => self.disk.flush(point),
                Io::Discard { cluster, count, .. } => self.disk.discard(cluster, count, &mut rng),
                // The disk does not change.
                Io::Read { .. }
                | Io::Compare { .. }
                | Io::Scrub { .. }
                | Io::ReadMeta { .. }
                | Io::Verify { .. } => {}
            }
        }
        self.disk.power_cut(loss, &mut rng);
        self.oracle.power_cut();
        self.forget();
    }

    fn power_cut(&mut self, loss: Loss, again: &[u32]) -> Result<(), String> {
        self.totals.crashes += 1;
        self.start_again(loss, again)
    }

    fn start_again(&mut self, loss: Loss, again: &[u32]) -> Result<(), String> {
        self.cut(loss);
        self.renew()?;
        self.attach(again)?;
        self.read_back(200)
    }

    /// Recovery; the power fails again after so many steps of each of the first ones.
    fn attach(&mut self, again: &[u32]) -> Result<(), String> {
        let mut again = again.iter();
        self.faulted = false;
        self.untold_loss = None;
        'recovery: loop {
            let budget = again.next().copied().unwrap_or(u32::MAX);
            self.with_store(|s, now| s.start(now))?;
            let mut steps = 0;
            while self.life == Life::Starting {
                if steps >= budget {
                    let loss = match self.rng.below(3) {
                        0 => Loss::All,
                        1 => Loss::Clusters(60),
                        _ => Loss::Sectors(80),
                    };
                    self.totals.crashes += 1;
                    self.totals.crashes_in_recovery += 1;
                    self.cut(loss);
                    self.renew()?;
                    continue 'recovery;
                }
                steps += 1;
                if steps > PATIENCE {
                    return Err(format!("stuck: recovery did not end in {steps} steps"));
                }
                self.must_step("waiting for recovery")?;
            }
            match &self.life {
                Life::Running => {
                    // What rotted in the journal is needed no more, or it would not be running.
                    self.journal_rots = false;
                    self.young.clear();
                    break;
                }
                Life::Failed(_) if self.faulted => {
                    self.calm();
                    self.cut(Loss::None);
                    self.renew()?;
                    self.faulted = false;
                    self.untold_loss = None;
                }
                Life::Failed(_) if self.rotten => {
                    self.lost = true;
                    return Ok(());
                }
                Life::Failed(reason) => return Err(format!("recovery failed: {reason}")),
                other => return Err(format!("recovery ended in {other:?}")),
            }
        }
        if self.setup.volumes {
            self.compare_volumes()?;
        }
        if !self.rotten {
            S::check(&self.disk, self.setup).map_err(|e| format!("after recovery: {e}"))?;
        }
        Ok(())
    }

    /// Reads back the blocks that a power cut may have changed, and some of the others.
    fn read_back(&mut self, sample: usize) -> Result<(), String> {
        let touched = self.oracle.touched();
        let mut wanted = self.oracle.unsettled();
        let others = touched.len().min(sample);
        if others == touched.len() {
            wanted = touched;
        } else {
            for _ in 0..others {
                wanted.push(touched[self.rng.below(touched.len() as u64) as usize]);
            }
            wanted.sort_unstable();
            wanted.dedup();
        }
        let mut at = 0;
        while at < wanted.len() {
            let lbn = wanted[at];
            let near = wanted[at..]
                .iter()
                .take_while(|l| **l - lbn < VERIFY_RUN)
                .enumerate()
                .take_while(|(i, l)| **l - lbn < 2 * *i as u64 + 2)
                .count();
            let count = wanted[at + near - 1] - lbn + 1;
            self.request(Kind::Read, lbn, count, Vec::new(), false)?;
            at += near;
        }
        self.quiesce()
    }

    fn rot(&mut self) {
        let touched = self.disk.touched();
        if touched.is_empty() {
            return;
        }
        let cluster = touched[self.rng.below(touched.len() as u64) as usize];
        if self.young.contains(&cluster) {
            return;
        }
        let data = matches!(self.disk.read(cluster), Image::Data(c) if c != ZERO);
        // A journal block shows the loss of the one before it, and the newest one has no other.
        let spared = S::journal(self.setup, self.disk.clusters()).contains(&cluster)
            && (self.journal_rots || S::journal_end(self.setup, &self.disk).contains(&cluster));
        if data || (self.setup.rot == Rot::Any && !spared) {
            say!(self, "cluster {cluster:#x} rots");
            self.rotten = true;
            self.journal_rots |= S::journal(self.setup, self.disk.clusters()).contains(&cluster);
            let sector = self.rng.below(8) as usize;
            let mut rng = Rng::new(self.rng.draw());
            self.disk.rot(cluster, sector, &mut rng);
        }
    }
}
