// SPDX-License-Identifier: GPL-2.0

//! A store so small that it is right by inspection, and ways to make it wrong.
//!
//! Clusters 0 to 3 are two slots for the map, which is written whole, in turns, at each FLUSH and
//! FUA; data goes to fresh clusters, and a cluster is used again once no durable map names it. No
//! dedup. It takes little, but all that the simulator has to prove about itself: that the right
//! store passes, and that each wrong one is caught.

use crate::content::{Content, Fingerprints, Image, CLUSTER, ZERO};
use crate::disk::Disk;
use crate::port::*;
use crate::script::{Op, Script, Setup};
use kernel::prelude::{KVec, GFP_KERNEL};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const BLOCKS: u64 = 600;
const SLOT: usize = 2;

/// Block to cluster and check.
type Map = BTreeMap<u64, (u64, u64)>;

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    Nothing,
    AckBeforeMap,
    NoPreflush,
    OneSlot,
    NoChecksum,
    ReuseAtOnce,
    LoseFlush,
    WriteInPlace,
    ForgetDiscard,
    AckWriteEarly,
    IgnoreFailedFlush,
    ShiftedRead,
}

const ALL: [Wrong; 11] = [
    Wrong::AckBeforeMap,
    Wrong::NoPreflush,
    Wrong::OneSlot,
    Wrong::NoChecksum,
    Wrong::ReuseAtOnce,
    Wrong::LoseFlush,
    Wrong::WriteInPlace,
    Wrong::ForgetDiscard,
    Wrong::AckWriteEarly,
    Wrong::IgnoreFailedFlush,
    Wrong::ShiftedRead,
];

thread_local! {
    static WRONG: Cell<Wrong> = const { Cell::new(Wrong::Nothing) };
}

fn wrong(w: Wrong) -> bool {
    WRONG.get() == w
}

struct Pending {
    request: Request,
    checks: Vec<u64>,
    runs: u32,
    cluster: u64,
    failed: bool,
}

struct Toy {
    clusters: u64,
    map: Map,
    free: BTreeSet<u64>,
    /// Clusters that are free once the map that follows is durable.
    released: Vec<u64>,
    releasing: Vec<u64>,
    /// Held by reads in flight, by cluster.
    held: BTreeMap<u64, u32>,
    generation: u64,
    pending: BTreeMap<u32, Pending>,
    waiting: Vec<u32>,
    committing: Vec<u32>,
    actions: VecDeque<Action<u32>>,
    loaded: u32,
    detaching: bool,
    read_only: bool,
    slots: [Option<(u64, Vec<u8>)>; 2],
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(7, |h, b| crate::rng::mix(h ^ u64::from(*b)))
}

impl Toy {
    fn image(&self) -> Vec<u8> {
        let mut out = vec![0; SLOT * CLUSTER];
        out[8..16].copy_from_slice(&self.generation.to_le_bytes());
        out[16..24].copy_from_slice(&(self.map.len() as u64).to_le_bytes());
        for (i, (lbn, (cluster, check))) in self.map.iter().enumerate() {
            let at = 24 + i * 12;
            out[at..at + 2].copy_from_slice(&(*lbn as u16).to_le_bytes());
            out[at + 2..at + 6].copy_from_slice(&(*cluster as u32).to_le_bytes());
            out[at + 6..at + 12].copy_from_slice(&check.to_le_bytes()[..6]);
        }
        let sum = checksum(&out[8..]);
        out[..8].copy_from_slice(&sum.to_le_bytes());
        out
    }

    fn parse(bytes: &[u8]) -> Option<(u64, Map)> {
        let word =
            |at: usize, n: usize| (0..n).fold(0, |v, i| v | (u64::from(bytes[at + i]) << (8 * i)));
        if word(0, 8) != checksum(&bytes[8..]) && !wrong(Wrong::NoChecksum) {
            return None;
        }
        let count = word(16, 8);
        if count > BLOCKS || word(8, 8) > 1 << 32 {
            return None;
        }
        let entry = |i: usize| {
            let at = 24 + i * 12;
            (word(at, 2), (word(at + 2, 4), word(at + 6, 6)))
        };
        Some((word(8, 8), (0..count as usize).map(entry).collect()))
    }

    fn commit(&mut self) {
        if !self.committing.is_empty() || self.waiting.is_empty() {
            return;
        }
        self.committing = std::mem::take(&mut self.waiting);
        self.releasing = std::mem::take(&mut self.released);
        self.generation += 1;
        let slot = if wrong(Wrong::OneSlot) {
            0
        } else {
            self.generation % 2
        };
        let image = self.image();
        let mut buf = KVec::new();
        buf.extend_from_slice(&image, GFP_KERNEL).unwrap();
        if wrong(Wrong::AckBeforeMap) {
            for tag in std::mem::take(&mut self.committing) {
                self.end(tag, Status::Ok);
            }
        }
        self.actions.push_back(Action::WriteMeta {
            token: 2,
            cluster: slot * SLOT as u64,
            buf,
            durability: match wrong(Wrong::NoPreflush) {
                true => Durability::Own,
                false => Durability::AllBefore,
            },
        });
    }

    fn end(&mut self, tag: u32, status: Status) {
        self.pending.remove(&tag);
        self.actions.push_back(Action::Complete { tag, status });
    }

    fn unmap(&mut self, lbn: u64) {
        if let Some((cluster, _)) = self.map.remove(&lbn) {
            if wrong(Wrong::ReuseAtOnce) {
                self.free.insert(cluster);
            } else {
                self.released.push(cluster);
            }
        }
    }

    fn recycle(&mut self) {
        let held = &self.held;
        let (stay, go): (Vec<u64>, Vec<u64>) = std::mem::take(&mut self.releasing)
            .into_iter()
            .partition(|c| held.contains_key(c));
        self.free.extend(go);
        self.released.extend(stay);
    }
}

impl Store for Toy {
    type Token = u32;

    fn format(disk: &mut Disk, setup: &Setup) -> Result<(), String> {
        let mut toy = Toy::new(setup, disk.clusters())?;
        for generation in 0..2 {
            toy.generation = generation;
            for (i, part) in toy.image().chunks(CLUSTER).enumerate() {
                disk.write_durable(generation * SLOT as u64 + i as u64, Image::meta(part));
            }
        }
        Ok(())
    }

    fn new(_: &Setup, clusters: u64) -> Result<Self, String> {
        Ok(Toy {
            clusters,
            map: BTreeMap::new(),
            free: BTreeSet::new(),
            released: Vec::new(),
            releasing: Vec::new(),
            held: BTreeMap::new(),
            generation: 0,
            pending: BTreeMap::new(),
            waiting: Vec::new(),
            committing: Vec::new(),
            actions: VecDeque::new(),
            loaded: 0,
            detaching: false,
            read_only: false,
            slots: [None, None],
        })
    }

    fn check(_: &Disk, _: &Setup) -> Result<(), String> {
        Ok(())
    }

    fn journal(_: &Setup, _: u64) -> std::ops::Range<u64> {
        0..0
    }

    fn journal_end(_: &Setup, _: &Disk) -> std::ops::Range<u64> {
        0..0
    }

    fn start(&mut self, _: Millis) {
        for token in 0..2 {
            let mut buf = KVec::new();
            buf.resize(SLOT * CLUSTER, 0, GFP_KERNEL).unwrap();
            let cluster = u64::from(token) * SLOT as u64;
            self.actions.push_back(Action::ReadMeta {
                token,
                cluster,
                buf,
            });
        }
    }

    fn submit(&mut self, _: Millis, r: Request, contents: &[Content], f: &Fingerprints) {
        let tag = r.tag;
        let mut p = Pending {
            request: r,
            checks: Vec::new(),
            runs: 0,
            cluster: 0,
            failed: false,
        };
        if self.read_only && r.kind != Kind::Read {
            self.actions.push_back(Action::Complete {
                tag,
                status: Status::Error("ReadOnly"),
            });
            return;
        }
        match r.kind {
            Kind::Read => {
                for i in 0..r.count {
                    let shift = u64::from(wrong(Wrong::ShiftedRead) && i == 7);
                    match self.map.get(&(r.lbn + i - shift)) {
                        Some((cluster, check)) => {
                            *self.held.entry(*cluster).or_default() += 1;
                            let (cluster, check, block) = (*cluster, *check, i as u32);
                            p.runs += 1;
                            self.actions.push_back(Action::ReadBlock {
                                tag,
                                block,
                                cluster,
                                check,
                            });
                        }
                        None => {
                            let block = i as u32;
                            self.actions.push_back(Action::ZeroBlocks {
                                tag,
                                block,
                                count: 1,
                            });
                        }
                    }
                    p.checks.push(self.map.get(&(r.lbn + i)).map_or(0, |e| e.0));
                }
                if p.runs == 0 {
                    self.actions.push_back(Action::Complete {
                        tag,
                        status: Status::Ok,
                    });
                } else {
                    self.actions.push_back(Action::CompleteAfterIo { tag });
                    self.pending.insert(tag, p);
                }
            }
            Kind::Write => {
                let old = self.map.get(&r.lbn).map(|e| e.0);
                let in_place = wrong(Wrong::WriteInPlace) && r.count == 1 && old.is_some();
                let start = match old {
                    Some(cluster) if in_place && !self.held.contains_key(&cluster) => Some(cluster),
                    _ => self
                        .free
                        .iter()
                        .copied()
                        .find(|c| (0..r.count).all(|i| self.free.contains(&(c + i)))),
                };
                let Some(start) = start else {
                    self.actions.push_back(Action::Complete {
                        tag,
                        status: Status::NoSpace,
                    });
                    return;
                };
                for c in start..start + r.count {
                    self.free.remove(&c);
                }
                p.cluster = start;
                p.checks = contents.iter().map(|c| f.check(*c)).collect();
                p.runs = 1;
                let count = r.count as u32;
                if wrong(Wrong::AckWriteEarly) && !r.fua && r.count > 8 {
                    p.runs = 2;
                    let half = count / 2;
                    let (block, cluster) = (half, start + u64::from(half));
                    self.actions.push_back(Action::WriteRun {
                        tag,
                        block: 0,
                        count: half,
                        cluster: start,
                    });
                    self.actions.push_back(Action::WriteRun {
                        tag,
                        block,
                        count: count - half,
                        cluster,
                    });
                } else {
                    self.actions.push_back(Action::WriteRun {
                        tag,
                        block: 0,
                        count,
                        cluster: start,
                    });
                }
                self.pending.insert(tag, p);
            }
            Kind::Discard | Kind::WriteZeroes => {
                if !(wrong(Wrong::ForgetDiscard) && r.count > 5) {
                    let inside: Vec<u64> = self
                        .map
                        .range(r.lbn..r.lbn + r.count)
                        .map(|(l, _)| *l)
                        .collect();
                    for lbn in inside {
                        self.unmap(lbn);
                    }
                }
                self.actions.push_back(Action::Complete {
                    tag,
                    status: Status::Ok,
                });
            }
            Kind::Flush => {
                self.pending.insert(tag, p);
                self.waiting.push(tag);
                if wrong(Wrong::LoseFlush) && self.committing.len() > 1 {
                    self.waiting.pop();
                }
                self.commit();
            }
        }
    }

    fn data_done(&mut self, _: Millis, tag: u32, block: u32, count: u32, result: DataResult) {
        let Some(p) = self.pending.get_mut(&tag) else {
            return;
        };
        p.failed |= result != DataResult::Ok;
        if p.request.kind == Kind::Read {
            for i in block..block + count {
                p.runs -= 1;
                let cluster = p.checks[i as usize];
                if let Some(n) = self.held.get_mut(&cluster) {
                    *n -= 1;
                    if *n == 0 {
                        self.held.remove(&cluster);
                    }
                }
            }
            if p.runs == 0 {
                let failed = p.failed;
                self.pending.remove(&tag);
                if failed {
                    let status = Status::Error("Io");
                    self.actions.push_back(Action::Complete { tag, status });
                }
            }
            return;
        }
        p.runs -= 1;
        if p.runs > 0 {
            return;
        }
        let (r, cluster, failed) = (p.request, p.cluster, p.failed);
        if failed {
            self.released.extend(cluster..cluster + r.count);
            self.end(tag, Status::Error("Io"));
            return;
        }
        let checks = std::mem::take(&mut p.checks);
        for (i, check) in checks.into_iter().enumerate() {
            let lbn = r.lbn + i as u64;
            if self.map.get(&lbn).map(|e| e.0) != Some(cluster + i as u64) {
                self.unmap(lbn);
            }
            self.map.insert(lbn, (cluster + i as u64, check));
        }
        if r.fua {
            self.waiting.push(tag);
            self.commit();
        } else {
            self.end(tag, Status::Ok);
        }
    }

    fn meta_done(&mut self, _: Millis, token: u32, buf: KVec<u8>, ok: bool) {
        if token < 2 {
            self.loaded += 1;
            if ok {
                self.slots[token as usize] = Some((0, buf.to_vec()));
            }
            if self.loaded == 2 {
                let newest = self
                    .slots
                    .iter()
                    .flatten()
                    .filter_map(|(_, bytes)| Toy::parse(bytes))
                    .max_by_key(|(generation, _)| *generation);
                let Some((generation, map)) = newest else {
                    let reason = "no slot is whole".into();
                    self.actions.push_back(Action::Failed { reason });
                    return;
                };
                self.generation = generation;
                let used: BTreeSet<u64> = map.values().map(|e| e.0).collect();
                self.free = (4..self.clusters).filter(|c| !used.contains(c)).collect();
                self.map = map;
                self.actions.push_back(Action::Started);
            }
            return;
        }
        if !ok && !wrong(Wrong::IgnoreFailedFlush) {
            self.read_only = true;
            self.actions.push_back(Action::Failed {
                reason: "a map was not written".into(),
            });
        }
        let status = if self.read_only {
            Status::Error("Io")
        } else {
            Status::Ok
        };
        for tag in std::mem::take(&mut self.committing) {
            if tag == u32::MAX {
                self.actions.push_back(Action::Detached {
                    ok: !self.read_only,
                });
            } else {
                self.end(tag, status);
            }
        }
        self.recycle();
        self.commit();
    }

    fn poll_action(&mut self, _: Millis) -> Option<Action<u32>> {
        if wrong(Wrong::AckWriteEarly) {
            // Half of a long write is enough for it.
            let early = self
                .pending
                .iter()
                .find(|(_, p)| p.request.kind == Kind::Write && p.request.count > 8 && p.runs == 1);
            if let Some(tag) = early.map(|(tag, _)| *tag) {
                if let Some(mut p) = self.pending.remove(&tag) {
                    for (i, check) in std::mem::take(&mut p.checks).into_iter().enumerate() {
                        self.unmap(p.request.lbn + i as u64);
                        self.map
                            .insert(p.request.lbn + i as u64, (p.cluster + i as u64, check));
                    }
                    self.actions.push_back(Action::CompleteAfterIo { tag });
                }
            }
        }
        self.actions.pop_front()
    }

    fn background(&mut self, _: Millis) -> bool {
        false
    }

    fn next_deadline(&self) -> Option<Millis> {
        None
    }

    fn detach(&mut self, _: Millis) {
        self.detaching = true;
        self.waiting.push(u32::MAX);
        self.commit();
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

/// A script that fits the toy's small volume.
fn script(seed: u64) -> Script {
    let mut script = crate::script::generate_with(seed, 600, |setup| {
        setup.clusters = 8000;
        setup.full = true;
        setup.io_faults = seed % 2 == 0;
        setup.alloc_faults = false;
        setup.rot = crate::script::Rot::Nothing;
        setup.prior_life = false;
        setup.theme = crate::script::Theme::Swarm;
    });
    for step in &mut script.steps {
        match &mut step.op {
            Op::Write { lbn, contents, .. } => {
                contents.truncate(BLOCKS as usize);
                *lbn %= BLOCKS - contents.len() as u64;
                for c in contents.iter_mut().filter(|c| **c == ZERO) {
                    *c = 3;
                }
            }
            Op::Read { lbn, count } | Op::WriteZeroes { lbn, count } => *lbn %= BLOCKS - *count,
            Op::Discard { lbn, count } => {
                *count = (*count).min(BLOCKS / 2);
                *lbn %= BLOCKS - *count;
            }
            _ => (),
        }
    }
    script
}

#[test]
fn the_right_toy_passes() {
    WRONG.set(Wrong::Nothing);
    for seed in 0..100 {
        let (_, result) = crate::runner::run::<Toy>(&script(seed), false);
        if let Err(f) = result {
            panic!("seed {seed}, step {}: {}", f.step, f.what);
        }
    }
}

#[test]
fn each_wrong_toy_is_caught() {
    for w in ALL {
        WRONG.set(w);
        let caught =
            (0..2000).find(|seed| crate::runner::run::<Toy>(&script(*seed), false).1.is_err());
        assert!(caught.is_some(), "{w:?} survived");
        println!("{w:?}: seed {}", caught.unwrap_or(0));
    }
}

#[test]
fn a_history_repeats_for_its_seed() {
    WRONG.set(Wrong::NoPreflush);
    for seed in 0..20 {
        let a = crate::runner::run::<Toy>(&script(seed), false);
        let b = crate::runner::run::<Toy>(&script(seed), false);
        assert_eq!(format!("{:?}", a), format!("{:?}", b));
    }
}
