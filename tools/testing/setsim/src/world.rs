// SPDX-License-Identifier: GPL-2.0

//! The world: machines, sessions between them, an authority that commits configurations, a workload.
//! All of it follows from one seed.

use crate::node::{described, store_id, Asked, Io, Node, Told, BLOCKS, LOST, TAGS, VOLUME};
use crate::oracle::{Oracle, Table};
use ddup_engine::engine::replication::action::{Event as SetEvent, Reply};
use ddup_engine::engine::replication::config::{Config, Member, MemberState};
use ddup_engine::engine::replication::types::{Id, Position};
use ddup_engine::engine::replication::wire::{self, Frame};
use ddup_engine::engine::show::Object;
use ddup_engine::engine::{OpKind, SendBlock, SetCommand, Status, Tag, VolumeChange};
use ddup_sim::content::{Content, ZERO};
use ddup_sim::rng::{mix, Rng};
use ddup_sim::xxh64::xxh64;
use kernel::prelude::{KBox, KVec, GFP_KERNEL};
use std::collections::{BTreeMap, BTreeSet};

/// The type of a frame with which a compare begins.
const RESYNC: u8 = 11;
/// The type of a frame with which merged epochs begin.
const MERGE: u8 = 22;
/// The type of a frame with which an epoch ends.
const SEAL: u8 = 3;
/// The type of a frame with a block that a peer has found.
const FOUND: u8 = 15;

/// A history ends where more looks at its volume than this failed.
const LOST_LOOKS_MAX: u32 = 20;

/// How a history may end.
pub type Verdict = Result<(), String>;

/// Counters of histories.
#[expect(missing_docs, reason = "fields are named for what they are")]
#[derive(Clone, Default, Debug)]
pub struct Totals {
    pub writes: u64,
    pub volume_changes: u64,
    pub flushes: u64,
    pub flushes_failed: u64,
    pub reads: u64,
    pub power_cuts: u64,
    pub sessions: u64,
    pub tail_epochs: u64,
    pub frames: u64,
    pub blocks_sent: u64,
    pub compares: u64,
    pub diffs: u64,
    pub epochs_merged: u64,
    pub reigns: u64,
    pub configurations: u64,
    pub images_compared: u64,
    pub joined: u64,
    pub clusters_rotten: u64,
    pub blocks_healed: u64,
    pub heals_failed: u64,
    pub reads_failed: u64,
    pub given_up: u64,
    pub verifies: u64,
    pub blocks_repaired: u64,
    pub misses: u64,
    pub misses_healed: u64,
    pub misses_over_crashes: u64,
    pub replicas_repaired: u64,
}

impl Totals {
    /// Adds those of another history.
    pub fn add(&mut self, other: &Totals) {
        self.writes += other.writes;
        self.volume_changes += other.volume_changes;
        self.flushes += other.flushes;
        self.flushes_failed += other.flushes_failed;
        self.reads += other.reads;
        self.power_cuts += other.power_cuts;
        self.sessions += other.sessions;
        self.tail_epochs += other.tail_epochs;
        self.frames += other.frames;
        self.blocks_sent += other.blocks_sent;
        self.compares += other.compares;
        self.diffs += other.diffs;
        self.epochs_merged += other.epochs_merged;
        self.reigns += other.reigns;
        self.configurations += other.configurations;
        self.images_compared += other.images_compared;
        self.joined += other.joined;
        self.clusters_rotten += other.clusters_rotten;
        self.blocks_healed += other.blocks_healed;
        self.heals_failed += other.heals_failed;
        self.reads_failed += other.reads_failed;
        self.given_up += other.given_up;
        self.verifies += other.verifies;
        self.blocks_repaired += other.blocks_repaired;
        self.misses += other.misses;
        self.misses_healed += other.misses_healed;
        self.misses_over_crashes += other.misses_over_crashes;
        self.replicas_repaired += other.replicas_repaired;
    }
}

enum Event {
    /// I/O of a life of a node ends.
    Io(usize, u64, u64),
    /// A frame arrives: session, receiving end, header and body, blocks.
    Frame(u64, usize, Vec<u8>, Vec<Content>),
    /// One end of a session learns that it is gone.
    Lost(u64, usize),
    /// A node's time goes by.
    Tick(usize, u64),
}

struct Session {
    ends: [usize; 2],
    since: u64,
    lives: [u64; 2],
    open: [bool; 2],
    /// When the last frame to each end arrives: they stay in order.
    last: [u64; 2],
}

/// All machines.
pub struct World {
    pub(crate) seed: u64,
    rng: Rng,
    verbose: bool,
    pub(crate) now: u64,
    serial: u64,
    pub(crate) nodes: Vec<Node>,
    events: BTreeMap<(u64, u64), Event>,
    /// I/O under way by serial.
    io: BTreeMap<u64, (usize, Io)>,
    sessions: BTreeMap<u64, Session>,
    handle: u64,
    oracle: Oracle,
    /// What the authority has committed.
    latest: Config,
    /// The primary was told of this version, by this command, in this life.
    telling: Option<(u64, u64, u64)>,
    joining: BTreeSet<usize>,
    /// A change of volumes that was begun: node, life, stamp.
    changing: Option<(usize, u64, u64)>,
    /// Whether the reign's first look at the volume was taken.
    looked: bool,
    /// Looks that failed because nobody has a good copy of some block.
    lost_looks: u32,
    faults: bool,
    /// The longest that a frame is on its way, in milliseconds.
    delay: u64,
    /// The newest version and promise that each store was seen to hold: they never fall.
    held: Vec<(u64, u64)>,
    pub(crate) fresh: Content,
    /// Volumes change; all that is drawn for that and for those that come comes from here.
    volumes: Option<Rng>,
    /// Sockets to asynchronous members have no room most of the time.
    slow: Option<Rng>,
    /// Draws what concerns scrubs, apart from everything else.
    scrubs: Rng,
    /// Draws what concerns verifies.
    pub(crate) verifies: Rng,
    /// Draws when a primary misses a block.
    misses: Rng,
    /// Clusters rot; all that is drawn for that comes from here.
    pub(crate) rots: Option<Rng>,
    /// When a block that was found for a peer was last changed on its way.
    changed_at: u64,
    pub(crate) totals: Totals,
}

/// Plays the history of a seed.
pub fn play(seed: u64, steps: u32, verbose: bool) -> (Totals, Verdict) {
    let mut world = World::new(seed, verbose);
    let verdict = world
        .run(steps)
        .map_err(|what| format!("at {} ms: {what}", world.now));
    (world.totals, verdict)
}

fn member(n: usize, state: MemberState) -> Member {
    Member {
        store: store_id(n),
        incarnation: 0,
        state,
        floor: Position::ZERO,
        confirmed: [0; 16],
    }
}

fn id(rng: &mut Rng) -> Id {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(rng.draw() | 1).to_le_bytes());
    id[8..].copy_from_slice(&rng.draw().to_le_bytes());
    id
}

impl World {
    fn new(seed: u64, verbose: bool) -> World {
        let mut rng = Rng::new(seed);
        // The only member of a set leads by itself.
        let count = rng.pick(&[1, 2, 2, 3, 3]);
        let mut members = KVec::new();
        for n in 0..count {
            let state = match n == 0 || rng.chance(2, 3) {
                true => MemberState::InSync,
                false => MemberState::Async,
            };
            members.push(member(n, state), GFP_KERNEL).expect("memory");
        }
        let latest = Config {
            set: [0x5e; 16],
            version: 1,
            id: id(&mut rng),
            term: 1,
            reign: id(&mut rng),
            primary: store_id(0),
            forced: 0,
            min_insync: 1,
            ancestors: KVec::new(),
            members,
        };
        let nodes = (0..count).map(|n| Node::new(n, &latest)).collect();
        World {
            seed,
            rng,
            verbose,
            now: 1,
            serial: 0,
            nodes,
            events: BTreeMap::new(),
            io: BTreeMap::new(),
            sessions: BTreeMap::new(),
            handle: 0,
            oracle: Oracle::new(),
            latest,
            telling: None,
            joining: BTreeSet::new(),
            changing: None,
            looked: false,
            lost_looks: 0,
            faults: true,
            delay: 8,
            held: vec![(0, 0); count],
            fresh: 1000,
            rots: Some(Rng::new(mix(seed ^ 0x726f_7473))).filter(|_| mix(seed) % 2 == 0),
            volumes: Some(Rng::new(mix(seed ^ 0x766f_6c75)))
                .filter(|_| mix(seed ^ 0x6d65_7300) % 2 == 0),
            slow: Some(Rng::new(mix(seed ^ 0x736c_6f77)))
                .filter(|_| mix(seed ^ 0x6173_796e) % 2 == 0),
            scrubs: Rng::new(mix(seed ^ 0x7363_7275)),
            verifies: Rng::new(mix(seed ^ 0x7665_7269)),
            misses: Rng::new(mix(seed ^ 0x6d69_7373)),
            changed_at: 0,
            totals: Totals::default(),
        }
    }

    pub(crate) fn say(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>8} {}", self.now, text());
        }
    }

    fn at(&mut self, delay: u64, event: Event) {
        self.serial += 1;
        self.events.insert((self.now + delay, self.serial), event);
    }

    fn run(&mut self, steps: u32) -> Verdict {
        for n in 0..self.nodes.len() {
            self.attach(n)?;
        }
        // A slow compare lasts long enough for junk to come and go.
        if self.rng.chance(1, 4) {
            self.delay = self.rng.pick(&[60, 200, 800]);
        }
        // The first reign begins like any other.
        if self.nodes.len() > 1 {
            self.promote(0)?;
        }
        for _ in 0..steps {
            let until = self.now + self.rng.skewed(6);
            self.pass(until)?;
            self.manage()?;
            self.step()?;
            if self.scrubs.chance(1, 30) {
                let n = self.scrubs.below(self.nodes.len() as u64) as usize;
                self.nodes[n].begin_scrub(self.now);
                self.look_at(n)?;
            }
            if let Some(rng) = self.volumes.as_mut() {
                match rng.weighted(&[12, 4, 70]) {
                    Some(0) => self.write_elsewhere()?,
                    Some(1) => self.change()?,
                    _ => {}
                }
            }
            if self.verifies.chance(1, 12) {
                self.verify()?;
            }
            if self.rots.as_mut().is_some_and(|rng| rng.chance(1, 40)) {
                self.rot()?;
            }
            if self.rots.is_some() && self.misses.chance(1, 80) {
                match self.misses.chance(1, 3) {
                    true => self.miss_over_a_crash()?,
                    false => self.miss()?,
                }
            }
            if self.rots.is_some() && self.verifies.chance(1, 40) {
                self.rot_at_replica()?;
            }
        }
        self.finish()
    }

    pub(crate) fn primary(&self) -> usize {
        self.number_of(&self.latest.primary)
    }

    fn number_of(&self, store: &Id) -> usize {
        usize::from(store[0] - 0x10)
    }

    pub(crate) fn serving(&self) -> Option<usize> {
        let n = self.primary();
        (self.nodes[n].serves && self.looked).then_some(n)
    }

    fn is_up(&self, n: usize) -> bool {
        self.nodes[n].started
    }

    fn step(&mut self) -> Verdict {
        match self.rng.weighted(&[40, 8, 4, 5, 8, 2, 3, 2]) {
            Some(0) => self.write(),
            Some(1) => self.flush(),
            Some(2) => self.discard(),
            Some(3) => self.read(),
            Some(4) => self.connect(),
            Some(5) => self.cut(),
            Some(6) => self.crash(),
            _ => Ok(()),
        }
    }

    // The workload.

    fn tag(&self, n: usize) -> Option<Tag> {
        let node = &self.nodes[n];
        (0..TAGS).find(|tag| !node.asked.contains_key(tag) && !node.early.contains_key(tag))
    }

    /// A range in which nothing is under way.
    fn idle_range(&mut self, most: u64) -> Option<(u64, u64)> {
        let count = self.rng.between(1, most);
        let lbn = self.rng.below(BLOCKS - count + 1);
        let busy = |a: &Asked| {
            a.slot == 0 && a.kind != OpKind::Flush && a.lbn < lbn + count && lbn < a.lbn + a.count
        };
        let n = self.primary();
        (!self.nodes[n].asked.values().any(busy)).then_some((lbn, count))
    }

    pub(crate) fn submit(
        &mut self,
        n: usize,
        kind: OpKind,
        lbn: u64,
        contents: Vec<Content>,
        fua: bool,
    ) -> Verdict {
        let Some(tag) = self.tag(n) else {
            return Ok(());
        };
        let changes = !matches!(kind, OpKind::Read | OpKind::Flush);
        let stamp = match changes {
            true => self.oracle.submitted(lbn, &contents),
            false => self.oracle.submitted(0, &[]),
        };
        let asked = Asked {
            kind,
            slot: 0,
            lbn,
            count: contents.len() as u64,
            contents,
            stamp,
            at: self.now,
            raced: false,
        };
        self.say(|| {
            format!(
                "node {n} gets {tag} {kind:?} {lbn} {:x?} fua {fua}",
                asked.contents
            )
        });
        let now = self.now;
        self.nodes[n].submit(now, tag, asked, fua);
        self.pump(n)
    }

    fn write(&mut self) -> Verdict {
        // Now and then more than an epoch of the smallest store takes.
        let most = self.rng.pick(&[8, 8, 8, 96]);
        let (Some(n), Some((lbn, count))) = (self.serving(), self.idle_range(most)) else {
            return Ok(());
        };
        let contents = (0..count)
            .map(|_| match self.rng.below(10) {
                0 => ZERO,
                1..=4 => {
                    self.fresh += 1;
                    self.fresh
                }
                _ => 1 + self.rng.below(30),
            })
            .collect();
        self.totals.writes += 1;
        self.submit(n, OpKind::Write, lbn, contents, false)
    }

    fn discard(&mut self) -> Verdict {
        let (Some(n), Some((lbn, count))) = (self.serving(), self.idle_range(BLOCKS / 2)) else {
            return Ok(());
        };
        self.submit(n, OpKind::Discard, lbn, vec![ZERO; count as usize], false)
    }

    /// A write or discard of another volume, which only other stores are held against.
    fn write_elsewhere(&mut self) -> Verdict {
        let Some(n) = self.serving() else {
            return Ok(());
        };
        let mut volumes = self.nodes[n].volumes();
        volumes.retain(|(_, uuid, _)| *uuid != VOLUME);
        let (Some(tag), false) = (self.tag(n), volumes.is_empty()) else {
            return Ok(());
        };
        let Some(rng) = self.volumes.as_mut() else {
            return Ok(());
        };
        let (slot, uuid, blocks) = rng.pick(&volumes);
        let count = rng.between(1, blocks.min(8));
        let lbn = rng.below(blocks - count + 1);
        let (kind, count) = match rng.chance(1, 8) {
            true => (OpKind::Discard, blocks - lbn),
            false => (OpKind::Write, count),
        };
        let contents: Vec<Content> = (0..count).map(|_| rng.below(40)).collect();
        let asked = Asked {
            kind,
            slot,
            lbn,
            count,
            contents,
            stamp: 0,
            at: self.now,
            raced: false,
        };
        self.say(|| {
            format!(
                "node {n} gets {tag} {kind:?} {lbn} +{count} of {:x}",
                uuid[0]
            )
        });
        let now = self.now;
        self.nodes[n].submit(now, tag, asked, false);
        self.pump(n)
    }

    /// A volume is created, gets another size, or goes.
    fn change(&mut self) -> Verdict {
        let (Some(n), None) = (self.serving(), self.changing) else {
            return Ok(());
        };
        let volumes = self.nodes[n].volumes();
        let mut table: Table = volumes.iter().map(|v| (v.1, v.2)).collect();
        let sizes = [1, 9, 200, 252, 253, 700, 3000];
        let Some(rng) = self.volumes.as_mut() else {
            return Ok(());
        };
        let blocks = rng.pick(&sizes);
        let (slot, uuid, _) = rng.pick(&volumes);
        let what = match rng.below(4) {
            0 | 1 if volumes.len() < 4 => {
                let uuid = [0x80 + rng.below(5) as u8; 16];
                if table.insert(uuid, blocks).is_some() {
                    return Ok(());
                }
                VolumeChange::Create { uuid, blocks }
            }
            2 if uuid != VOLUME => {
                table.remove(&uuid);
                VolumeChange::Remove { slot }
            }
            _ => {
                let blocks = match uuid == VOLUME {
                    true => blocks.max(BLOCKS),
                    false => blocks,
                };
                table.insert(uuid, blocks);
                VolumeChange::Resize { slot, blocks }
            }
        };
        let now = self.now;
        let Some(engine) = self.nodes[n].engine.as_mut() else {
            return Ok(());
        };
        let begun = engine.change_volume(now, what);
        self.say(|| format!("node {n} is to change volumes: {what:x?}: {begun:?}"));
        match begun {
            Ok(_) => {
                let stamp = self.oracle.change_begun(table);
                self.changing = Some((n, self.nodes[n].life, stamp));
            }
            Err(error) if error == kernel::error::code::EBUSY => {}
            Err(error) => return Err(format!("node {n} refuses {what:?}: {error:?}")),
        }
        self.pump(n)
    }

    /// A change of volumes ended, which may be one of those that replicas make by themselves.
    fn changed(&mut self, n: usize, ok: bool) {
        self.say(|| format!("volumes of node {n} changed: {ok}"));
        let life = self.nodes[n].life;
        if let Some((_, _, stamp)) = self.changing.filter(|c| (c.0, c.1) == (n, life)) {
            self.changing = None;
            self.totals.volume_changes += u64::from(ok);
            self.oracle.change_ended(stamp, ok);
        }
    }

    fn table(&self, n: usize) -> Table {
        let volumes = self.nodes[n].volumes();
        volumes.iter().map(|v| (v.1, v.2)).collect()
    }

    pub(crate) fn flush(&mut self) -> Verdict {
        let Some(n) = self.serving() else {
            return Ok(());
        };
        self.submit(n, OpKind::Flush, 0, Vec::new(), false)
    }

    fn read(&mut self) -> Verdict {
        let (Some(n), Some((lbn, count))) = (self.serving(), self.idle_range(16)) else {
            return Ok(());
        };
        self.totals.reads += 1;
        self.submit(n, OpKind::Read, lbn, vec![ZERO; count as usize], false)
    }

    fn ended(&mut self, n: usize, asked: Asked, status: Status) -> Verdict {
        self.say(|| format!("node {n} ends {:?} {} {status:?}", asked.kind, asked.lbn));
        if asked.slot != 0 {
            return Ok(());
        }
        let first = n == self.primary() && asked.count == BLOCKS;
        match (asked.kind, status) {
            (OpKind::Write | OpKind::Discard | OpKind::WriteZeroes, Status::Ok) => {
                self.oracle
                    .acknowledged(asked.lbn, asked.count, asked.stamp);
            }
            (OpKind::Flush, Status::Ok) => {
                self.totals.flushes += 1;
                self.oracle.flushed(asked.stamp);
            }
            (OpKind::Flush, _) => self.totals.flushes_failed += 1,
            (OpKind::Read, Status::Ok) if first && !self.looked => {
                self.looked = true;
                self.totals.reigns += 1;
                let table = self.table(n);
                self.oracle.reign_has(&table)?;
                self.oracle.reign(&asked.contents)?;
            }
            // Who was replaced and does not know may show what is old: there is no lease.
            (OpKind::Read, Status::Ok) if n == self.primary() && !asked.raced => {
                self.oracle.read(asked.lbn, &asked.contents)?
            }
            (OpKind::Read, Status::Medium) => {
                self.totals.reads_failed += 1;
                if self.rots.is_none() {
                    return Err(format!("block {} is lost", asked.lbn));
                }
                // What was written meanwhile says nothing of what was read.
                let peer = match asked.raced {
                    true => None,
                    false => self.good_peer(n, &asked)?,
                };
                if let Some(peer) = peer {
                    return Err(format!(
                        "block {} is lost to node {n}, and node {peer} has it",
                        asked.lbn
                    ));
                }
                self.lost_looks += u32::from(first && !self.looked);
            }
            _ => {}
        }
        Ok(())
    }

    // Machines.

    fn attach(&mut self, n: usize) -> Verdict {
        if self.nodes[n].engine.is_some() {
            return Ok(());
        }
        let now = self.now;
        self.say(|| format!("node {n} is attached"));
        // In half of the histories all compares behind an attach are full.
        if mix(self.seed ^ 0x6269_7274) % 2 == 0 {
            self.nodes[n].forget_births();
        }
        self.nodes[n].attach(now, &mut self.rng);
        let life = self.nodes[n].life;
        self.at(5, Event::Tick(n, life));
        self.pump(n)
    }

    fn crash(&mut self) -> Verdict {
        let n = self.rng.below(self.nodes.len() as u64) as usize;
        self.crash_node(n)
    }

    pub(crate) fn crash_node(&mut self, n: usize) -> Verdict {
        if self.nodes[n].engine.is_none() {
            return Ok(());
        }
        self.totals.power_cuts += 1;
        self.say(|| format!("node {n} loses its power"));
        let serials: Vec<u64> = self
            .io
            .iter()
            .filter(|io| io.1 .0 == n)
            .map(|io| *io.0)
            .collect();
        let under_way = serials
            .iter()
            .filter_map(|s| self.io.remove(s))
            .map(|io| io.1)
            .collect();
        self.count_heals(n);
        self.changing = self.changing.filter(|c| c.0 != n);
        self.nodes[n].crash(under_way, &mut self.rng);
        if n == self.primary() {
            self.looked = false;
        }
        self.joining.clear();
        self.isolate(n);
        self.look_at(n)
    }

    fn count_heals(&mut self, n: usize) {
        if let Some(counters) = self.nodes[n].engine.as_ref().map(|e| e.counters()) {
            self.totals.blocks_healed += counters.blocks_healed;
            self.totals.heals_failed += counters.heals_failed;
        }
    }

    /// Compares what a store holds with what others held at the same position.
    pub(crate) fn look_at(&mut self, n: usize) -> Verdict {
        let (position, image) = self.nodes[n]
            .image(self.seed ^ self.now, self.rots.is_some())
            .map_err(|what| format!("store {n}: {what}"))?;
        self.say(|| {
            format!(
                "node {n} holds epoch {} chain {:x}",
                position.epoch, position.chain
            )
        });
        self.totals.images_compared += 1;
        self.oracle.state(n, position, image)
    }

    /// Carries out all that a node asks for, and sends what it has to send.
    fn pump(&mut self, n: usize) -> Verdict {
        let now = self.now;
        loop {
            let Some(told) = self.nodes[n].poll(now) else {
                break;
            };
            match told {
                Told::Io(io) => {
                    let delay = match self.rng.chance(1, 20) {
                        true => self.rng.below(60),
                        false => self.rng.below(5),
                    };
                    self.serial += 1;
                    let serial = self.serial;
                    self.io.insert(serial, (n, io));
                    let life = self.nodes[n].life;
                    self.at(delay, Event::Io(n, life, serial));
                }
                Told::Ended(_, asked, status) => self.ended(n, asked, status)?,
                Told::Reply(command, reply) => self.replied(n, command, reply),
                Told::Changed(ok) => self.changed(n, ok),
                Told::Close(nonce) => {
                    self.say(|| format!("node {n} closes session {nonce}"));
                    if self
                        .sessions
                        .get(&nonce)
                        .is_some_and(|s| s.ends.contains(&n))
                    {
                        self.break_session(nonce);
                    }
                }
                Told::Role(serves) => {
                    self.say(|| format!("node {n} serves: {serves}"));
                    if n == self.primary() {
                        self.looked = false;
                    }
                    let set = self.nodes[n].engine.as_ref().and_then(|e| e.set());
                    let version = set.map_or(0, |s| s.state().config.version);
                    // It may not have heard yet that another one is to lead.
                    let knows = version >= self.latest.version;
                    if serves && n != self.primary() && knows {
                        return Err(format!("(2) node {n} serves, and is not primary"));
                    }
                    if let (1, true) = (self.nodes.len(), serves) {
                        self.learn()?;
                    }
                    if serves && n == self.primary() {
                        self.submit(n, OpKind::Read, 0, vec![ZERO; BLOCKS as usize], false)?;
                    }
                }
                Told::Started => {
                    let set = self.nodes[n].engine.as_ref().and_then(|e| e.set());
                    self.nodes[n].attached_at = set.map_or(0, |s| s.state().position.epoch);
                    self.say(|| format!("node {n} is up"));
                }
                Told::Failed(reason) => return Err(format!("store {n} failed: {reason}")),
                Told::Detached => {}
            }
        }
        self.check_held(n)?;
        loop {
            let event = self.nodes[n]
                .engine
                .as_mut()
                .and_then(|e| e.poll_set_event());
            let Some((_, event)) = event else {
                break;
            };
            self.say(|| format!("node {n} tells {event:?}"));
            match event {
                SetEvent::Joinable(store, _) => self.joinable(n, &store),
                SetEvent::SplitBrain(_) | SetEvent::Diverged(_) | SetEvent::Regressed(_) => {
                    return Err(format!(
                        "(9) node {n} tells {event:?}, and nobody was forced"
                    ));
                }
                SetEvent::StoreFailed => return Err(format!("the store of node {n} failed")),
                SetEvent::Verified(peer) => self.verified(n, &peer)?,
                _ => {}
            }
        }
        self.send(n)
    }

    /// Invariant 2: what was in force was durable before.
    fn check_held(&mut self, n: usize) -> Verdict {
        let set = self.nodes[n].engine.as_ref().and_then(|e| e.set());
        let Some(now) = set.map(|s| (s.state().config.version, s.state().promise)) else {
            return Ok(());
        };
        let before = self.held[n];
        if now.0 < before.0 || now.1 < before.1 {
            return Err(format!(
                "(2) store {n} held version and promise {before:?}, now {now:?}"
            ));
        }
        self.held[n] = now;
        Ok(())
    }

    fn send(&mut self, n: usize) -> Verdict {
        let now = self.now;
        let nonces: Vec<u64> = self.sessions.keys().copied().collect();
        for nonce in nonces {
            loop {
                let Some(session) = self.sessions.get(&nonce) else {
                    break;
                };
                let Some(end) = session.ends.iter().position(|e| *e == n) else {
                    break;
                };
                if !session.open[end] || session.lives[end] != self.nodes[n].life {
                    break;
                }
                let other = session.ends[1 - end];
                let peer = store_id(other);
                let is_async = self.latest.members[other].state == MemberState::Async;
                let slow = self.slow.as_mut().filter(|_| is_async && self.faults);
                if slow.is_some_and(|rng| rng.chance(9, 10)) {
                    break;
                }
                let Some(engine) = self.nodes[n].engine.as_mut() else {
                    return Ok(());
                };
                let frame = match engine.poll_send(now, &peer, nonce) {
                    Ok(Some(frame)) => frame,
                    Ok(None) => break,
                    Err(error) if error == kernel::error::code::EPIPE => break,
                    Err(error) => return Err(format!("node {n} can't send: {error:?}")),
                };
                let mut blocks = Vec::new();
                for block in &frame.blocks {
                    blocks.push(match block {
                        SendBlock::Fetched(token) => self.nodes[n]
                            .fetched
                            .remove(token)
                            .ok_or("(7) a block is sent that was not read")?,
                        SendBlock::Cluster(cluster, _)
                            if self.nodes[n].rotten.contains_key(&cluster.0) =>
                        {
                            self.break_session(nonce);
                            return Ok(());
                        }
                        SendBlock::Cluster(cluster, check) => {
                            let content = self.nodes[n].disk.read(cluster.0).content();
                            if crate::node::FINGERPRINTS.check(content) != check.0 {
                                return Err(format!(
                                    "(8) node {n}: cluster {} was pinned and has changed",
                                    cluster.0
                                ));
                            }
                            content
                        }
                    });
                }
                if let RESYNC | MERGE | SEAL = frame.meta[20] {
                    let decoded = wire::decode(&frame.meta, 0, xxh64).map_err(|_| "memory")?;
                    match decoded.map(|(_, frame)| frame) {
                        Ok(Frame::Resync { since, .. }) => {
                            self.totals.compares += 1;
                            self.totals.diffs += u64::from(since.is_some());
                        }
                        Ok(Frame::Merge { from, to }) => {
                            self.totals.epochs_merged += to.epoch - from.epoch;
                        }
                        Ok(Frame::Seal {
                            position, resync, ..
                        }) => {
                            let of_tail = position.epoch <= self.nodes[n].attached_at;
                            self.totals.tail_epochs += u64::from(!resync && of_tail);
                        }
                        _ => return Err(format!("node {n} sends a frame that is none")),
                    }
                }
                self.totals.frames += 1;
                self.totals.blocks_sent += blocks.len() as u64;
                let delay = self.rng.below(self.delay);
                let Some(session) = self.sessions.get_mut(&nonce) else {
                    break;
                };
                let arrives = (now + delay).max(session.last[1 - end]);
                session.last[1 - end] = arrives;
                let event = Event::Frame(nonce, 1 - end, frame.meta.to_vec(), blocks);
                self.at(arrives - now, event);
            }
        }
        Ok(())
    }

    pub(crate) fn pass(&mut self, until: u64) -> Verdict {
        while let Some((&key, _)) = self.events.first_key_value() {
            if key.0 > until {
                break;
            }
            self.now = self.now.max(key.0);
            if let Some(event) = self.events.remove(&key) {
                self.happen(event)?;
            }
        }
        self.now = until;
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Verdict {
        let now = self.now;
        match event {
            Event::Io(n, life, serial) => {
                let Some((_, io)) = self.io.remove(&serial) else {
                    return Ok(());
                };
                if self.nodes[n].life != life {
                    return Ok(());
                }
                self.nodes[n].io_done(now, io, &mut self.rng);
                let odd = self.nodes[n].odd.take();
                let rotted = |check: &u64| self.nodes.iter().any(|n| n.rotted.contains(check));
                if let Some((cluster, _)) = odd.filter(|(_, check)| !rotted(check)) {
                    return Err(format!(
                        "(7) cluster {cluster} of node {n} does not match its check"
                    ));
                }
                self.pump(n)
            }
            Event::Tick(n, life) => {
                if self.nodes[n].life != life {
                    return Ok(());
                }
                if self.nodes[n].started {
                    for _ in 0..64 {
                        let more = self.nodes[n]
                            .engine
                            .as_mut()
                            .is_some_and(|e| e.background(now));
                        self.pump(n)?;
                        if !more || self.nodes[n].life != life {
                            break;
                        }
                    }
                }
                let delay = self.rng.between(1, 15);
                self.at(delay, Event::Tick(n, life));
                Ok(())
            }
            Event::Lost(nonce, end) => {
                let Some(session) = self.sessions.get_mut(&nonce) else {
                    return Ok(());
                };
                session.open[end] = false;
                let (n, peer, life) =
                    (session.ends[end], session.ends[1 - end], session.lives[end]);
                if session.open == [false; 2] {
                    self.sessions.remove(&nonce);
                }
                if self.nodes[n].life == life {
                    if let Some(engine) = self.nodes[n].engine.as_mut() {
                        engine.peer_lost(now, &store_id(peer), nonce);
                    }
                    return self.pump(n);
                }
                Ok(())
            }
            Event::Frame(nonce, end, meta, mut blocks) => {
                let Some(session) = self.sessions.get(&nonce) else {
                    return Ok(());
                };
                let (n, peer) = (session.ends[end], session.ends[1 - end]);
                if !session.open[end] || session.lives[end] != self.nodes[n].life {
                    return Ok(());
                }
                self.say(|| {
                    format!(
                        "node {n} gets frame type {} of {} bytes, {} blocks in session {nonce}",
                        meta[20],
                        meta.len(),
                        blocks.len()
                    )
                });
                let mut changed = self.faults && !blocks.is_empty() && self.rng.chance(1, 200);
                if let (FOUND, Some(rng)) = (meta[20], self.rots.as_mut()) {
                    changed |= self.faults && rng.chance(1, 6);
                    self.changed_at = if changed { now } else { self.changed_at };
                }
                if changed {
                    let at = self.rng.below(blocks.len() as u64) as usize;
                    blocks[at] = 1 + (blocks[at] + 1) % 30;
                }
                let first = self.handle;
                self.handle += blocks.len() as u64;
                let node = &mut self.nodes[n];
                for (handle, content) in (first..).zip(&blocks) {
                    node.received.insert(handle, *content);
                }
                let Some(engine) = node.engine.as_mut() else {
                    return Ok(());
                };
                let contents: Vec<_> = blocks.iter().map(|c| described(*c)).collect();
                let peer_id = store_id(peer);
                let taken = engine.peer_received(now, &peer_id, nonce, &meta, first, &contents);
                if !matches!(taken, Ok(true)) {
                    for handle in first..self.handle {
                        node.received.remove(&handle);
                    }
                }
                if taken.is_err() && !changed {
                    return Err(format!("node {n} refuses a frame of node {peer}"));
                }
                self.pump(n)
            }
        }
    }

    // Rot.

    /// All members hold what the primary holds, and are connected with it.
    pub(crate) fn converged(&self) -> bool {
        let n = self.primary();
        let epoch = |n: usize| {
            let set = self.nodes[n].engine.as_ref().and_then(|e| e.set());
            set.map(|s| s.state().position.epoch)
        };
        let here = |at: usize| {
            let joins = |s: &Session| s.ends.contains(&n) && s.ends.contains(&at);
            self.sessions
                .values()
                .any(|s| joins(s) && s.open == [true; 2])
        };
        let same = |at: usize| at == n || (self.is_up(at) && here(at) && epoch(at) == epoch(n));
        self.serving().is_some()
            && self.changing.is_none()
            && self.nodes[n].asked.is_empty()
            && (0..self.nodes.len()).all(same)
    }

    /// A node that was connected with a primary all the time since `at` and has a good copy of all
    /// that rots there.
    fn good_peer(&self, n: usize, asked: &Asked) -> Result<Option<usize>, String> {
        let at = asked.at;
        let here = |peer: &usize| {
            let joins = |s: &Session| s.ends.contains(&n) && s.ends.contains(peer);
            let lasts = |s: &Session| joins(s) && s.open == [true; 2] && s.since + 2000 < at;
            let set = self.nodes[n].engine.as_ref().and_then(|e| e.set());
            self.sessions.values().any(lasts)
                && set
                    .and_then(|s| s.peer_state(&store_id(*peer)))
                    .is_some_and(|p| p.connected)
        };
        let unchanged = self.changed_at < at && n == self.primary();
        let range = asked.lbn as usize..(asked.lbn + asked.count) as usize;
        let (_, own) = self.nodes[n].image(self.seed, true)?;
        let own = &own[&VOLUME];
        let rots = |node: usize, c: Content| self.nodes[node].rotten.values().any(|r| *r == c);
        // A block may have got lost before.
        if !unchanged || own[range.clone()].contains(&LOST) {
            return Ok(None);
        }
        for peer in (0..self.nodes.len()).filter(|peer| *peer != n && self.is_up(*peer)) {
            let (_, image) = self.nodes[peer].image(self.seed, true)?;
            let image = &image[&VOLUME];
            let mut bad = range.clone().filter(|lbn| rots(n, own[*lbn]));
            if here(&peer) && bad.all(|lbn| image[lbn] == own[lbn] && !rots(peer, own[lbn])) {
                return Ok(Some(peer));
            }
        }
        Ok(None)
    }

    pub(crate) fn draw(&mut self, bound: u64) -> u64 {
        self.rots.as_mut().map_or(0, |rng| rng.below(bound))
    }

    /// Lets time pass until something holds, for at most so long.
    pub(crate) fn until(
        &mut self,
        time: u64,
        what: impl Fn(&World) -> bool,
    ) -> Result<bool, String> {
        let end = self.now + time;
        while self.now < end && !what(self) {
            let until = self.now + 5;
            self.pass(until)?;
        }
        Ok(what(self))
    }

    /// The same, while the authority does what it has to do and all are connected.
    pub(crate) fn until_managed(
        &mut self,
        time: u64,
        what: impl Fn(&World) -> bool,
    ) -> Result<bool, String> {
        let end = self.now + time;
        while self.now < end && !what(self) {
            let until = self.now + 20;
            self.pass(until)?;
            self.manage()?;
            let n = self.primary();
            for at in 0..self.nodes.len() {
                self.connect_pair(n, at)?;
            }
        }
        Ok(what(self))
    }

    /// Nothing fails but what is meant to, for a while. Answers what was before.
    pub(crate) fn stop_faults(&mut self) -> (bool, u64) {
        let before = (self.faults, self.delay);
        (self.faults, self.delay) = (false, self.delay.min(8));
        before
    }

    /// Faults are as they were.
    pub(crate) fn restore_faults(&mut self, before: (bool, u64)) {
        (self.faults, self.delay) = before;
    }

    /// Since when two nodes are connected.
    pub(crate) fn session_since(&self, a: usize, b: usize) -> Option<u64> {
        let joins = |s: &&Session| s.ends.contains(&a) && s.ends.contains(&b);
        let open = |s: &&Session| joins(s) && s.open == [true; 2];
        self.sessions.values().find(open).map(|s| s.since)
    }

    /// Some content lies in several blocks, and everywhere. The primary's copy of it rots, and another
    /// one's if there is a third. All blocks must be read well.
    fn rot(&mut self) -> Verdict {
        let n = self.primary();
        for at in 0..self.nodes.len() {
            self.connect_pair(n, at)?;
        }
        let alone = self.nodes.len() == 1;
        if alone
            || self.serving().is_none()
            || !self.until(3000, |w| w.nodes[n].asked.is_empty())?
        {
            return Ok(());
        }
        self.fresh += 1;
        let content = self.fresh;
        let lbns: Vec<u64> = (0..4).map(|_| self.draw(BLOCKS)).collect();
        for lbn in &lbns[..3] {
            self.submit(n, OpKind::Write, *lbn, vec![content], false)?;
        }
        self.flush()?;
        if !self.until(6000, |w| w.primary() == n && w.converged())? {
            return Ok(());
        }
        self.pass(self.now + 1500)?;
        if n != self.primary() || !self.converged() {
            return Ok(());
        }
        self.look_at(n)?;
        let mut clusters = self.nodes[n].sound(self.now, |c| c == content);
        // What rots somewhere already must stay good elsewhere.
        let rots = |c: Content| {
            let mut all = self.nodes.iter().flat_map(|node| node.rotten.values());
            all.any(|rotten| *rotten == c)
        };
        let is_unique = |c: Content| c >= 1000 && c != content && !rots(c);
        let more = self.nodes[n].sound(self.now, is_unique);
        for _ in 0..self.draw(6).min(more.len() as u64) {
            let at = self.draw(more.len() as u64) as usize;
            clusters.push(more[at]);
        }
        // More than is healed at once, if that can be done in time.
        if self.delay < 60 && self.draw(3) == 0 {
            clusters.extend(&more);
        }
        let (nodes, other) = (
            self.nodes.len(),
            self.draw(self.nodes.len() as u64) as usize,
        );
        for cluster in clusters {
            let held = self.nodes[n].written.get(&cluster).map_or(0, |w| w.0);
            self.say(|| format!("cluster {cluster} of node {n} with {held:x} rots"));
            let salt = self.draw(u64::MAX);
            self.nodes[n].rot(cluster, salt);
            self.totals.clusters_rotten += 1;
            if nodes == 3 && other != n {
                for cluster in self.nodes[other].sound(self.now, |c| c == held) {
                    let salt = self.draw(u64::MAX);
                    self.nodes[other].rot(cluster, salt);
                }
            }
        }
        // One more block shares what rots, in an epoch that has not ended.
        let shares = self.draw(2) == 0;
        if shares {
            self.submit(n, OpKind::Write, lbns[3], vec![content], false)?;
            self.pass(self.now + 70)?;
        }
        let before = self.entries(n);
        let races = self.draw(3) == 0;
        for lbn in &lbns {
            self.submit(n, OpKind::Read, *lbn, vec![ZERO], false)?;
        }
        if self.draw(2) == 0 {
            self.submit(n, OpKind::Read, 0, vec![ZERO; BLOCKS as usize - 1], false)?;
        }
        if races {
            let wait = self.draw(40);
            self.pass(self.now + wait)?;
            let lbn = lbns[self.draw(4) as usize];
            for asked in self.nodes[n].asked.values_mut() {
                asked.raced = true;
            }
            self.fresh += 1;
            let content = self.fresh;
            if self.serving() == Some(n) {
                self.submit(n, OpKind::Write, lbn, vec![content], false)?;
            }
        }
        let ended = self.until(12_000, |w| w.nodes[n].asked.is_empty())?;
        if self.serving() == Some(n) && !ended {
            return Err("reads of what rots do not end".into());
        }
        if !races && self.serving() == Some(n) && self.entries(n) > before {
            return Err("a heal is in the set's history".into());
        }
        if self.draw(if shares { 2 } else { 3 }) == 0 {
            let wait = self.draw(300);
            self.pass(self.now + wait)?;
            return self.crash_node(n);
        }
        Ok(())
    }

    /// Entries of a node's window.
    fn entries(&self, n: usize) -> usize {
        let set = self.nodes[n].engine.as_ref().and_then(|e| e.set());
        set.map_or(0, |s| s.state().entries)
    }

    // Sessions.

    fn connect(&mut self) -> Verdict {
        let count = self.nodes.len() as u64;
        let (a, b) = (
            self.rng.below(count) as usize,
            self.rng.below(count) as usize,
        );
        self.connect_pair(a, b)
    }

    pub(crate) fn connect_pair(&mut self, a: usize, b: usize) -> Verdict {
        let joined = self
            .sessions
            .values()
            .any(|s| s.ends.contains(&a) && s.ends.contains(&b) && s.open == [true; 2]);
        if a == b || joined || !self.is_up(a) || !self.is_up(b) {
            return Ok(());
        }
        self.serial += 1;
        let nonce = self.serial;
        self.totals.sessions += 1;
        self.say(|| format!("session {nonce} joins nodes {a} and {b}"));
        let now = self.now;
        for (n, peer) in [(a, b), (b, a)] {
            let engine = self.nodes[n].engine.as_mut().ok_or("no engine")?;
            let connected = engine.peer_connected(now, &store_id(peer), nonce);
            connected.map_err(|e| format!("node {n} does not take a session: {e:?}"))?;
        }
        self.sessions.insert(
            nonce,
            Session {
                ends: [a, b],
                since: now,
                lives: [self.nodes[a].life, self.nodes[b].life],
                open: [true; 2],
                last: [now; 2],
            },
        );
        self.pump(a)?;
        self.pump(b)
    }

    fn cut(&mut self) -> Verdict {
        let nonces: Vec<u64> = self.sessions.keys().copied().collect();
        if !nonces.is_empty() {
            let nonce = self.rng.pick(&nonces);
            self.break_session(nonce);
        }
        Ok(())
    }

    /// Nobody is connected with a node any more.
    pub(crate) fn isolate(&mut self, n: usize) {
        let ends = |s: &Session| s.ends.contains(&n);
        let nonces = self.sessions.iter().filter(|s| ends(s.1)).map(|s| *s.0);
        let nonces: Vec<u64> = nonces.collect();
        for nonce in nonces {
            self.break_session(nonce);
        }
    }

    fn break_session(&mut self, nonce: u64) {
        for end in 0..2 {
            let delay = self.rng.below(30);
            self.at(delay, Event::Lost(nonce, end));
        }
    }

    // The authority.

    fn next(&mut self) -> Config {
        let mut next = self.latest.try_clone().expect("memory");
        next.push_ancestor(next.id).expect("memory");
        next.version += 1;
        next.id = id(&mut self.rng);
        next
    }

    /// The only member has made a configuration by itself.
    fn learn(&mut self) -> Verdict {
        let set = self.nodes[0].engine.as_ref().and_then(|e| e.set());
        let config = set.map(|s| s.state().config.try_clone());
        self.latest = config.ok_or("no role")?.map_err(|e| format!("{e:?}"))?;
        Ok(())
    }

    fn commit(&mut self, config: Config) {
        self.totals.configurations += 1;
        self.say(|| {
            let members: Vec<_> = config.members.iter().map(|m| m.state).collect();
            format!(
                "the authority commits version {} term {} primary {} {members:?}",
                config.version,
                config.term,
                self.number_of(&config.primary)
            )
        });
        self.latest = config;
        self.telling = None;
        self.joining.clear();
    }

    fn promote(&mut self, n: usize) -> Verdict {
        let mut next = self.next();
        next.term += 1;
        next.reign = id(&mut self.rng);
        next.primary = store_id(n);
        for at in 0..next.members.len() {
            if at != n && (!self.is_up(at) || self.faults && self.rng.chance(1, 3)) {
                next.members[at].state = MemberState::Async;
            }
        }
        self.looked = false;
        self.commit(next);
        self.tell()
    }

    /// Tells the primary what was committed, if it does not know.
    fn tell(&mut self) -> Verdict {
        let n = self.primary();
        let life = self.nodes[n].life;
        if self.nodes.len() == 1 || !self.is_up(n) || self.telling.is_some_and(|t| t.1 == life) {
            return Ok(());
        }
        let now = self.now;
        let Some(engine) = self.nodes[n].engine.as_mut() else {
            return Ok(());
        };
        let Some(expect) = engine.set().map(|s| s.state().config.version) else {
            return Err(format!("store {n} has no role"));
        };
        if expect == self.latest.version {
            return Ok(());
        }
        self.serial += 1;
        self.telling = Some((self.serial, life, self.latest.version));
        let config = KBox::new(self.latest.try_clone().expect("memory"), GFP_KERNEL);
        let config = config.expect("memory");
        let command = SetCommand::SetConfig { expect, config };
        let number = self.serial;
        engine
            .set_command(now, number, command)
            .map_err(|e| format!("{e:?}"))?;
        self.pump(n)
    }

    fn replied(&mut self, n: usize, command: u64, reply: Reply) {
        self.say(|| format!("node {n} replies {reply:?}"));
        if self.telling.is_some_and(|t| t.0 == command) {
            self.telling = None;
        }
    }

    fn joinable(&mut self, n: usize, store: &Id) {
        let version = self.nodes[n]
            .engine
            .as_ref()
            .and_then(|e| e.set())
            .map(|s| s.state().config.version);
        if n != self.primary() || version != Some(self.latest.version) {
            return;
        }
        let mut next = self.next();
        let at = self.number_of(store);
        next.members[at].state = MemberState::InSync;
        self.totals.joined += 1;
        self.commit(next);
    }

    fn manage(&mut self) -> Verdict {
        for n in 0..self.nodes.len() {
            let again = !self.faults || self.rng.chance(1, 12);
            if self.nodes[n].engine.is_none() && again {
                self.attach(n)?;
            }
        }
        let n = self.primary();
        // Who is promoted must know that it is in sync.
        let knows = |w: &World, at: usize| {
            let set = w.nodes[at].engine.as_ref().and_then(|e| e.set());
            set.is_some_and(|s| s.state().config.is_in_sync(&store_id(at)))
        };
        let alive = |w: &World, at: usize| {
            let in_sync = w.latest.members[at].state == MemberState::InSync;
            at != n && w.is_up(at) && in_sync && knows(w, at)
        };
        let heir = (0..self.nodes.len()).find(|at| alive(self, *at));
        let wants = self.faults && self.rng.chance(1, 100)
            || !self.is_up(n) && self.faults && self.rng.chance(1, 10);
        if let (true, Some(heir)) = (wants, heir) {
            return self.promote(heir);
        }
        // A primary that comes back leads only if it is told to.
        let set = self.nodes[n].engine.as_ref().and_then(|e| e.set());
        let idle = set.is_some_and(|s| {
            let state = s.state();
            !state.reigns && !state.busy && state.config.version == self.latest.version
        });
        if idle && self.is_up(n) && self.nodes.len() > 1 {
            return self.promote(n);
        }
        let gone = (0..self.nodes.len()).find(|at| {
            *at != n && !self.is_up(*at) && self.latest.members[*at].state == MemberState::InSync
        });
        if let Some(gone) = gone.filter(|_| self.rng.chance(1, 10)) {
            let mut next = self.next();
            next.members[gone].state = MemberState::Async;
            self.commit(next);
        }
        self.tell()?;
        let asks = |a: &Asked| a.count == BLOCKS;
        let set = self.nodes[n].engine.as_ref().and_then(|e| e.set());
        let reigns = set.is_some_and(|s| s.state().config.version == self.latest.version);
        let serves = reigns && self.nodes[n].serves && self.rots.is_some();
        if serves && !self.looked && !self.nodes[n].asked.values().any(asks) {
            self.submit(n, OpKind::Read, 0, vec![ZERO; BLOCKS as usize], false)?;
        }
        if self.serving().is_some()
            && self.telling.is_none()
            && (!self.faults || self.rng.chance(1, 15))
        {
            for at in 0..self.nodes.len() {
                let waits = self.latest.members[at].state == MemberState::Async;
                if waits && self.is_up(at) && self.joining.insert(at) {
                    self.command(n, SetCommand::Join { peer: store_id(at) })?;
                }
            }
        }
        Ok(())
    }

    /// Gives a command to a store, if it is attached.
    pub fn command(&mut self, n: usize, command: SetCommand) -> Verdict {
        self.serial += 1;
        let (now, number) = (self.now, self.serial);
        if let Some(engine) = self.nodes[n].engine.as_mut() {
            engine
                .set_command(now, number, command)
                .map_err(|e| format!("{e:?}"))?;
        }
        self.pump(n)
    }

    /// The faults stop: all members must end with the same.
    fn finish(&mut self) -> Verdict {
        self.faults = false;
        self.delay = 8;
        self.say(|| "the faults stop".into());
        let end = self.now + 60_000;
        let mut flushed = false;
        while self.now < end {
            let until = self.now + 20;
            self.pass(until)?;
            self.manage()?;
            if self.lost_looks > LOST_LOOKS_MAX {
                // Nobody can tell what the volume holds.
                self.totals.given_up += 1;
                return Ok(());
            }
            let n = self.primary();
            for at in 0..self.nodes.len() {
                self.connect_pair(n, at)?;
            }
            if self.now % 400 < 20 {
                self.joining.clear();
            }
            let all = self
                .latest
                .members
                .iter()
                .all(|m| m.state == MemberState::InSync);
            let known = self.nodes.iter().all(|node| {
                let set = node.engine.as_ref().and_then(|e| e.set());
                set.is_some_and(|s| s.state().config.version == self.latest.version)
            });
            if !all || !known || self.serving().is_none() {
                continue;
            }
            let still = self.nodes.iter().all(|node| node.asked.is_empty());
            let idle = still && self.changing.is_none();
            if !flushed {
                if idle {
                    self.change()?;
                    self.write()?;
                    self.flush()?;
                    flushed = true;
                }
                continue;
            }
            let positions: BTreeSet<_> = self
                .nodes
                .iter()
                .filter_map(|node| Some(node.engine.as_ref()?.set()?.state().position.epoch))
                .collect();
            // (11) Whatever came and whatever was read for others goes.
            let kept = |node: &Node| node.received.len() + node.fetched.len();
            if idle && positions.len() == 1 && self.nodes.iter().all(|node| kept(node) == 0) {
                for n in 0..self.nodes.len() {
                    self.count_heals(n);
                    self.look_at(n)?;
                }
                return Ok(());
            }
        }
        let states: Vec<_> = self
            .nodes
            .iter()
            .map(|node| {
                let set = node.engine.as_ref().and_then(|e| e.set());
                set.map(|s| {
                    let s = s.state();
                    (
                        s.config.version,
                        s.position.epoch,
                        s.flushes,
                        s.busy,
                        s.entries,
                    )
                })
            })
            .collect();
        for node in self.nodes.iter().filter(|_| self.verbose) {
            let mut text = String::new();
            for object in [Object::Store, Object::Member] {
                let shown = node.engine.as_ref().map(|e| e.show(object, &mut text));
                shown.transpose().map_err(|e| e.to_string())?;
            }
            println!("store {}:\n{text}", node.number);
        }
        Err(format!(
            "(12) does not converge: {states:?}, asked {:?}, blocks kept {:?}",
            self.nodes.iter().map(|n| n.asked.len()).collect::<Vec<_>>(),
            self.nodes
                .iter()
                .map(|n| (n.received.len(), n.fetched.len()))
                .collect::<Vec<_>>()
        ))
    }
}
