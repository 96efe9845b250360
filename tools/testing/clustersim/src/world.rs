// SPDX-License-Identifier: GPL-2.0

//! Plays a script: stores, connections, clocks and crashes.

use crate::miss::Misses;
use crate::net::{Connection, Packet};
use crate::operator::{Authority, Purpose};
use crate::oracle::{short, Oracle, Verdict};
use crate::script::{Class, Op, Script, Setup};
use crate::store::{self, Content, Kind, Pending, Store, BAD, VOLUMES_MAX};
use crate::verify::Freezes;
use ddup_engine::engine::replication::action::{Action, Block, Outgoing, Params};
use ddup_engine::engine::replication::action::{Event as Told, Reply, Shown, Source, StageResult};
use ddup_engine::engine::replication::config::{Config, Member, MemberState};
use ddup_engine::engine::replication::heal::Wanted;
use ddup_engine::engine::replication::history::History;
use ddup_engine::engine::replication::record::{choose, Record, Slots};
use ddup_engine::engine::replication::resume::Reached;
use ddup_engine::engine::replication::set::Set;
use ddup_engine::engine::replication::types::{self, ANCESTORS_MAX};
use ddup_engine::engine::replication::types::{Entry, Id, Limits, Op as EntryOp, Position};
use ddup_engine::engine::replication::wire::{self, Frame};
use ddup_engine::engine::types::{Generation, LBN_LIMIT};
use ddup_sim::rng::Rng;
use ddup_sim::xxh64::xxh64;
use kernel::fail_alloc;
use kernel::prelude::*;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

const KEEPALIVE: u64 = 400;
const TIMEOUT: u64 = 1500;
const TICK: u64 = 100;
/// So long a replica keeps a state at most that nobody verifies any more.
const THAWED: u64 = 1600;
/// A block is LOST after so many tries to read it.
const FETCH_TRIES: u32 = 4;
/// Compares with a peer that may be lost in a second: the first pause is a tenth of that.
const LOST_MAX: usize = 12;
/// Frames of a connection that may be under way in each direction.
const ROOM: usize = 5;

/// A record on its way to the disk.
struct Persist {
    token: u64,
    generation: u64,
    slot: std::vec::Vec<u8>,
    first: usize,
    /// Copies that are durable.
    copies: usize,
}

/// What is known to be durable of a record.
#[derive(Clone, Copy, Default, Debug)]
pub struct Seen {
    /// Promise.
    pub promise: u64,
    /// Version, term and id of the configuration.
    pub version: u64,
    /// Term.
    pub term: u64,
    /// Id.
    pub id: Id,
}

/// An acknowledgement as it arrived.
#[derive(Clone, Default)]
struct Heard {
    nonce: u64,
    /// The newest epoch, by term and version.
    epochs: BTreeMap<(u64, u64), u64>,
    /// Configuration of the last HELLO.
    config: Id,
}

/// A machine with its store.
pub struct Node {
    /// Its number.
    pub number: usize,
    /// Its id.
    pub id: Id,
    /// Its store.
    pub store: Store,
    /// The engine, while it is attached.
    pub set: Option<KBox<Set>>,
    /// How often it was attached.
    pub life: u64,
    slots: [[std::vec::Vec<u8>; 2]; 2],
    persist: Option<Persist>,
    /// Durable, for all to rely on.
    pub seen: Seen,
    /// The highest FENCE that was answered, and the position that was stated.
    fenced: Option<(u64, Position)>,
    /// A person gave this store's own history up.
    pub resolved: bool,
    /// Commands that wait for an answer.
    pub commands: BTreeMap<u64, Purpose>,
    crash_in: Option<u64>,
    /// Its disk failed: it is of no use before the next attach.
    broken: bool,
    /// Newest epoch that a write went to in this reign.
    wrote: u64,
    flushes: BTreeMap<u64, u64>,
    /// Blocks that came or were read, by handle.
    pub blocks: BTreeMap<u64, Content>,
    /// Blocks that peers are asked for.
    asks: BTreeMap<u64, Content>,
    /// What it misses, and what it has of what others miss.
    pub misses: Misses,
    /// Reads for peers that failed: by frozen state, and epoch and entry.
    failed_reads: BTreeMap<(Option<u64>, (u64, u32)), u32>,
    /// When frozen states were lost, in the last second.
    thawed: VecDeque<u64>,
    /// What it freezes for others, and when there was last somebody for whom.
    pub freezes: Freezes,
    lonely: u64,
    /// Leases that it took, by version.
    pub leases: BTreeMap<u64, u64>,
    sessions: BTreeMap<usize, u64>,
    heard: BTreeMap<usize, Heard>,
    /// Configurations that it was commanded to take, or took by right.
    pub told: std::collections::BTreeSet<Id>,
}

/// What is to come.
pub(crate) enum Event {
    Deliver(u64, usize),
    Up(u64, usize),
    Lost(u64, usize),
    Persist(usize, u64),
    Complete(usize, u64),
    Staged(usize, u64, u64, StageResult),
    Fetched(usize, u64, u64, Option<Content>),
    FetchFailed(usize, u64, u64),
    ScanOpened(usize, u64, u64),
    Cut(usize, u64, u64),
    Repair(usize, u64, u64, Entry),
    /// Node, life, scan, volume with the first block and the end, and how many are wanted.
    ShownRange(usize, u64, u64, (Id, u64, u64), u32),
    Thaw(usize, u64, u64),
    /// Node, life, token, volume with the first block and the end, and how many are wanted.
    Owned(usize, u64, u64, (Id, u64, u64), u32),
    /// Node, life, scan, cursor, and how many blocks are wanted that are younger than what.
    Scanned(usize, u64, u64, u64, (u32, Option<Generation>)),
    Tick(usize, u64),
    Manage,
}

/// Counters of a history.
#[derive(Clone, Copy, Default, Debug)]
pub struct Totals {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Changes of volumes.
    pub changes: u64,
    /// FLUSHes that were acknowledged.
    pub flushes: u64,
    /// FLUSHes that failed, as they may.
    pub flushes_failed: u64,
    /// Crashes.
    pub crashes: u64,
    /// Sessions.
    pub sessions: u64,
    /// Reigns.
    pub reigns: u64,
    /// Positions.
    pub epochs: u64,
    /// Compares that ended.
    pub switches: u64,
    /// Those that went on where they were in an earlier session.
    pub resumed: u64,
    /// Epochs that went to a peer merged with others.
    pub merged: u64,
    /// Ranges that were kept in diffs.
    pub kept: u64,
    /// Frames.
    pub frames: u64,
    /// Blocks that went over the wire.
    pub blocks: u64,
    /// Frames whose blocks were packed.
    pub packed: u64,
    /// Blocks that were taken for bad and came from a peer.
    pub blocks_found: u64,
    /// Blocks that primaries missed.
    pub misses: u64,
    /// Those of them that came.
    pub missed_came: u64,
    /// Members that became in sync.
    pub joined: u64,
    /// Configurations.
    pub configs: u64,
    /// Refusals of what is forbidden.
    pub refused: u64,
    /// Split brains and divergences that were told.
    pub splits: u64,
    /// Verifies that are complete.
    pub verifies: u64,
    /// Blocks that came to differ silently.
    pub flaws: u64,
    /// Blocks that verifies found to differ.
    pub differences: u64,
    /// Blocks that were repaired.
    pub repairs: u64,
}

impl Totals {
    /// Counters and their names.
    pub fn rows(&self) -> [(&'static str, u64); 27] {
        [
            ("reads", self.reads),
            ("writes", self.writes),
            ("changes of volumes", self.changes),
            ("FLUSHes acknowledged", self.flushes),
            ("FLUSHes failed", self.flushes_failed),
            ("crashes", self.crashes),
            ("sessions", self.sessions),
            ("reigns", self.reigns),
            ("epochs sealed", self.epochs),
            ("compares", self.switches),
            ("compares resumed", self.resumed),
            ("epochs merged", self.merged),
            ("ranges kept", self.kept),
            ("frames", self.frames),
            ("blocks sent", self.blocks),
            ("frames packed", self.packed),
            ("blocks found", self.blocks_found),
            ("blocks missed", self.misses),
            ("missed blocks that came", self.missed_came),
            ("members joined", self.joined),
            ("configurations", self.configs),
            ("forbidden and refused", self.refused),
            ("split brains told", self.splits),
            ("verifies complete", self.verifies),
            ("blocks made to differ", self.flaws),
            ("differences found", self.differences),
            ("blocks repaired", self.repairs),
        ]
    }
}

/// A whole cluster.
pub struct World {
    /// Its frame.
    pub setup: Setup,
    /// Its stores.
    pub nodes: std::vec::Vec<Node>,
    /// The only source of chance.
    pub rng: Rng,
    /// What must hold.
    pub oracle: Oracle,
    /// Who commands.
    pub authority: Authority,
    /// What a person made all stores follow in the end.
    pub unity: Option<Id>,
    /// Counters.
    pub totals: Totals,
    connections: BTreeMap<u64, (usize, usize, Connection)>,
    /// Nodes with different bits do not hear each other.
    partition: u64,
    queue: BinaryHeap<(Reverse<u64>, Reverse<u64>)>,
    events: BTreeMap<u64, Event>,
    /// Milliseconds.
    pub now: u64,
    /// The last number that was given.
    pub serial: u64,
    calm: bool,
    verbose: bool,
}

fn entry(op: EntryOp, volume: u8, lbn: u64, count: u64, content: Content, fresh: bool) -> Entry {
    let write = op == EntryOp::Write;
    Entry {
        op,
        fresh,
        volume: [volume; 16],
        lbn,
        count,
        check: if write { store::check(content) } else { 0 },
        digest: if write {
            store::digest(content)
        } else {
            [0; 24]
        },
    }
}

/// Adds the mapped blocks of a volume from `at` on to `entries`.
pub fn mapped(
    volume: u8,
    blocks: &[Content],
    at: u64,
    end: u64,
    mut entries: KVec<Entry>,
) -> Result<KVec<Entry>, String> {
    let seen = |at: u64| store::seen(blocks[at as usize]);
    for lbn in (at..end).filter(|at| seen(*at) != 0) {
        let content = seen(lbn);
        let entry = entry(EntryOp::Write, volume, lbn, 1, content, false);
        entries.push(entry, GFP_KERNEL).map_err(|_| "memory")?;
    }
    Ok(entries)
}

/// A block that is as it was.
fn keep(volume: u8, at: u64, mut entries: KVec<Entry>) -> Result<KVec<Entry>, String> {
    match entries.last_mut() {
        Some(last) if last.op == EntryOp::Keep && last.lbn + last.count == at => last.count += 1,
        _ => {
            let entry = entry(EntryOp::Keep, volume, at, 1, 0, false);
            entries.push(entry, GFP_KERNEL).map_err(|_| "memory")?;
        }
    }
    Ok(entries)
}

impl World {
    fn new(setup: &Setup, verbose: bool) -> Result<Self, String> {
        let mut rng = Rng::new(setup.seed);
        let mut members = KVec::new();
        for n in 0..setup.nodes {
            let member = Member {
                store: [n as u8 + 1; 16],
                incarnation: 0,
                state: if n == 0 || rng.chance(2, 3) {
                    MemberState::InSync
                } else {
                    MemberState::Async
                },
                floor: Position::ZERO,
                confirmed: [0; 16],
            };
            members.push(member, GFP_KERNEL).map_err(|_| "memory")?;
        }
        let config = Config {
            set: [0x99; 16],
            version: 1,
            id: [0xc1; 16],
            term: 1,
            reign: [0xe1; 16],
            primary: [1; 16],
            forced: 0,
            min_insync: 1,
            ancestors: KVec::new(),
            members,
        };
        let mut world = World {
            setup: setup.clone(),
            nodes: std::vec::Vec::new(),
            rng,
            oracle: Oracle::default(),
            authority: Authority::new(&config),
            unity: None,
            totals: Totals::default(),
            connections: BTreeMap::new(),
            partition: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            now: 0,
            serial: 0,
            calm: false,
            verbose,
        };
        world.oracle.rot = setup.rot;
        world.oracle.first = Store::new(setup.blocks).durable;
        for n in 0..setup.nodes {
            let id = [n as u8 + 1; 16];
            let record = Record {
                promise: 1,
                keep: false,
                config: config.try_clone().map_err(|_| "memory")?,
            };
            let slot = record.write(&id, 2, xxh64).map_err(|_| "memory")?.to_vec();
            let seen = Seen {
                promise: 1,
                version: 1,
                term: 1,
                id: config.id,
            };
            world.nodes.push(Node {
                number: n,
                id,
                store: Store::new(setup.blocks),
                set: None,
                life: 0,
                slots: [[slot.clone(), slot], [vec![0; 4096], vec![0; 4096]]],
                persist: None,
                seen,
                fenced: None,
                resolved: false,
                commands: BTreeMap::new(),
                crash_in: None,
                broken: false,
                wrote: 0,
                flushes: BTreeMap::new(),
                blocks: BTreeMap::new(),
                asks: BTreeMap::new(),
                misses: Misses::default(),
                failed_reads: BTreeMap::new(),
                freezes: Freezes::default(),
                lonely: 0,
                thawed: VecDeque::new(),
                leases: BTreeMap::new(),
                sessions: BTreeMap::new(),
                heard: BTreeMap::new(),
                told: Default::default(),
            });
        }
        world.at(0, Event::Manage);
        Ok(world)
    }

    /// Says what happens, if somebody listens.
    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>7} {}", self.now, text());
        }
    }

    /// Lets something come.
    pub(crate) fn at(&mut self, after: u64, event: Event) {
        self.serial += 1;
        self.events.insert(self.serial, event);
        self.queue
            .push((Reverse(self.now + after), Reverse(self.serial)));
    }

    /// Whether there are no more faults.
    pub fn calm(&self) -> bool {
        self.calm
    }

    /// How long a disk takes.
    pub fn disk_time(&mut self) -> u64 {
        self.rng.below(self.setup.disk + 1)
    }

    fn number_of(&self, id: &Id) -> usize {
        usize::from(id[0]) - 1
    }

    /// Runs something of a store's engine, with allocations that fail.
    pub fn with<R>(&mut self, n: usize, f: impl FnOnce(&mut Set) -> R) -> Option<R> {
        let per_million = if self.calm { 0 } else { self.setup.memory };
        let seed = self.rng.draw();
        let set = self.nodes[n].set.as_mut()?;
        set.pace(self.now, self.setup.tranquility);
        set.pack(self.setup.packs(n, self.now));
        if per_million == 0 {
            return Some(f(set));
        }
        let policy = fail_alloc::Policy::Random { seed, per_million };
        Some(fail_alloc::with(policy, || f(set)))
    }

    // Life and death.

    fn start(&mut self, n: usize) -> Verdict {
        if self.nodes[n].set.is_some() {
            return Ok(());
        }
        let fresh = [self.id(), self.id()];
        let ends = self.ends_of(&self.nodes[n].store.tip);
        // What one store takes in an epoch is too much for another.
        let entries = (self.setup.entries >> (n % 2)).max(4);
        let window = self.setup.window;
        let hash = xxh64;
        let node = &mut self.nodes[n];
        node.life += 1;
        let copies = [0, 1].map(|slot| [0, 1].map(|copy| Some(&node.slots[slot][copy][..])));
        let chosen = choose(&copies, &node.id, hash).map_err(|_| "memory")?;
        let Slots::Record(found) = chosen else {
            return Err(format!("(2) node {n}: no record in the slots: {chosen:?}"));
        };
        let record = &found.record;
        if record.promise < node.seen.promise || record.config.version < node.seen.version {
            return Err(format!(
                "(2) node {n} fell back to promise {} and version {}, was {:?}",
                record.promise, record.config.version, node.seen
            ));
        }
        let params = Params {
            store: node.id,
            incarnation: node.life,
            hash,
            limits: Limits {
                entries,
                epoch: entries / 4,
                needs: 4,
            },
            window,
            keepalive: KEEPALIVE,
            timeout: TIMEOUT,
            unpacks: self.setup.unpacks(n),
            merges: self.setup.merges(n),
            parks: self.setup.parks(n),
        };
        let history = History::from_ends(&ends).map_err(|_| "memory")?;
        let mut set = Set::attach(params, found, history, fresh).map_err(|_| "memory")?;
        let (all, some) = node.store.windows(self.now)?;
        if set.begin_window(some) {
            return Err(format!(
                "(3) node {n}: a window that ends elsewhere is taken"
            ));
        }
        set.begin_window(all);
        set.tick(self.now);
        node.set = Some(set);
        node.wrote = 0;
        let life = node.life;
        self.oracle.state(
            "after an attach",
            &self.nodes[n].store.tip,
            &self.nodes[n].store.durable,
        )?;
        self.say(|| format!("node {n} attached for the {life}. time"));
        self.at(TICK, Event::Tick(n, life));
        self.pump(n)
    }

    /// The last position of each reign up to one, oldest first.
    pub fn ends_of(&self, tip: &Position) -> std::vec::Vec<Position> {
        let mut ends: std::vec::Vec<Position> = std::vec::Vec::new();
        for position in self.oracle.path(tip) {
            match ends.last_mut() {
                Some(last) if last.reign == position.reign => *last = position,
                _ => ends.push(position),
            }
        }
        ends
    }

    fn crash(&mut self, n: usize) {
        if self.nodes[n].set.is_none() {
            return;
        }
        self.totals.crashes += 1;
        self.say(|| format!("node {n} loses power"));
        let survive = self.rng.below(self.nodes[n].store.pending.len() as u64 + 1);
        let torn = self.rng.below(4);
        let node = &mut self.nodes[n];
        // Of what was on its way any first part may have arrived.
        for _ in 0..survive {
            node.store.complete();
        }
        if let Some(persist) = node.persist.take() {
            let place =
                &mut node.slots[(persist.generation % 2) as usize][persist.first ^ persist.copies];
            match torn {
                0 => {}
                1 => *place = persist.slot,
                2 => place[..512].copy_from_slice(&persist.slot[..512]),
                _ => place[512..].copy_from_slice(&persist.slot[512..]),
            }
        }
        node.store.crash();
        node.set = None;
        node.crash_in = None;
        node.broken = false;
        node.commands.clear();
        node.flushes.clear();
        node.blocks.clear();
        node.asks.clear();
        node.misses.crash();
        node.failed_reads.clear();
        node.freezes.crash();
        node.thawed.clear();
        node.leases.clear();
        node.sessions.clear();
        node.heard.clear();
        let nonces: std::vec::Vec<u64> = self.connections_of(n).collect();
        for nonce in nonces {
            self.cut(nonce);
        }
    }

    fn connections_of(&self, n: usize) -> impl Iterator<Item = u64> + '_ {
        let mine = move |c: &&(usize, usize, Connection)| c.0 == n || c.1 == n;
        self.connections.values().filter(mine).map(|c| c.2.nonce)
    }

    // The network.

    fn cut(&mut self, nonce: u64) {
        let delays = [self.rng.below(3000), self.rng.below(100)];
        let swap = self.rng.chance(1, 2);
        let keep = [self.rng.below(4), self.rng.below(4)];
        let Some((_, _, connection)) = self.connections.get_mut(&nonce) else {
            return;
        };
        if connection.dead {
            return;
        }
        connection.dead = true;
        for (queue, keep) in connection.queues.iter_mut().zip(keep) {
            queue.0.truncate(keep as usize);
        }
        self.at(delays[usize::from(swap)], Event::Lost(nonce, 0));
        self.at(delays[usize::from(!swap)], Event::Lost(nonce, 1));
    }

    fn are_apart(&self, a: usize, b: usize) -> bool {
        (self.partition >> a) & 1 != (self.partition >> b) & 1
    }

    fn connect(&mut self, a: usize, b: usize) {
        self.serial += 1;
        // Nothing tells nonces of a set from each other but that they differ.
        let nonce = self.rng.draw() | 1;
        self.totals.sessions += 1;
        self.connections
            .insert(nonce, (a, b, Connection::new(nonce)));
        for end in 0..2 {
            let delay = self.rng.below(self.setup.delay * 2 + 1);
            self.at(delay, Event::Up(nonce, end));
        }
    }

    fn manage(&mut self) {
        self.connections
            .retain(|_, c| !c.2.dead || !c.2.queues.iter().all(|q| q.0.is_empty()));
        for a in 0..self.nodes.len() {
            for b in a + 1..self.nodes.len() {
                let alive = self.nodes[a].set.is_some() && self.nodes[b].set.is_some();
                let there = |c: &(usize, usize, Connection)| (c.0, c.1) == (a, b) && !c.2.dead;
                let connected = self.connections.values().any(there);
                if alive && !connected && !self.are_apart(a, b) && self.rng.chance(2, 3) {
                    self.connect(a, b);
                }
            }
        }
        self.at(TICK, Event::Manage);
    }

    fn deliver(&mut self, nonce: u64, from: usize) -> Verdict {
        let Some((a, b, connection)) = self.connections.get_mut(&nonce) else {
            return Ok(());
        };
        let (source, target) = if from == 0 { (*a, *b) } else { (*b, *a) };
        let end = 1 - from;
        if self.nodes[target].set.is_none() {
            connection.queues[from].0.clear();
            return Ok(());
        }
        if !connection.open[end] && !connection.dead {
            // Its other end is still to hear of it.
            self.at(5, Event::Deliver(nonce, from));
            return Ok(());
        }
        let Some(mut packet) = connection.queues[from].0.pop_front() else {
            return Ok(());
        };
        if self.setup.noise && !self.calm && !packet.blocks.is_empty() && self.rng.chance(1, 20) {
            let at = self.rng.below(packet.blocks.len() as u64) as usize;
            packet.blocks[at] ^= 1;
        }
        self.hear(target, source, nonce, &packet)?;
        let first = self.serial + 1;
        self.serial += packet.blocks.len() as u64;
        let range = first..first + packet.blocks.len() as u64;
        for (handle, content) in range.clone().zip(&packet.blocks) {
            self.nodes[target].blocks.insert(handle, *content);
        }
        let id = self.nodes[source].id;
        let described = packet.blocks.iter().map(|c| store::described(*c));
        let contents = std::vec::Vec::from_iter(described);
        let taken = self.with(target, |set| {
            set.received(&id, nonce, &packet.meta, (first, &contents))
        });
        if taken.is_some_and(|t| !matches!(t, Ok(true))) {
            for handle in range {
                self.nodes[target].blocks.remove(&handle);
            }
        }
        self.check_refusals(target)?;
        self.pump(target)?;
        // The sender's socket has room again.
        if self.nodes[source].set.is_some() {
            self.pump(source)?;
        }
        Ok(())
    }

    /// Nobody but a damaged wire or want of memory ends sessions for what was said.
    fn check_refusals(&mut self, n: usize) -> Verdict {
        if self.setup.noise || self.setup.memory > 0 {
            return Ok(());
        }
        let refused = self.nodes[n].set.as_ref().map_or(0, |s| s.state().refused);
        if refused > 0 {
            return Err(format!("(12) node {n} was sent what no peer sends"));
        }
        Ok(())
    }

    /// Notes what a frame says, as an outsider sees it.
    fn hear(&mut self, n: usize, from: usize, nonce: u64, packet: &Packet) -> Verdict {
        let data = packet.blocks.len() * 4096;
        let decoded = wire::decode(&packet.meta, data, xxh64).map_err(|_| "memory")?;
        let Ok((envelope, frame)) = decoded else {
            return Ok(());
        };
        let node = &mut self.nodes[n];
        if node.sessions.get(&from) != Some(&nonce) {
            return Ok(());
        }
        let heard = node.heard.entry(from).or_default();
        if heard.nonce != nonce {
            *heard = Heard::default();
            heard.nonce = nonce;
        }
        match frame {
            Frame::Hello(hello) => {
                heard.config = hello.config.id;
                let epoch = hello.history.position().epoch;
                heard
                    .epochs
                    .insert((envelope.term, envelope.version), epoch);
            }
            Frame::Ack(position) => {
                let rule = (envelope.term, envelope.version);
                let epoch = heard.epochs.entry(rule).or_default();
                *epoch = (*epoch).max(position.epoch);
            }
            _ => {}
        }
        Ok(())
    }

    // What engines ask for.

    /// Does what a store's engine asks for until it asks for nothing.
    pub fn pump(&mut self, n: usize) -> Verdict {
        loop {
            let mut quiet = true;
            while let Some(Some(action)) = self.with(n, |set| set.poll_action()) {
                quiet = false;
                if let Some(left) = self.nodes[n].crash_in {
                    self.nodes[n].crash_in = Some(left.saturating_sub(1));
                    if left == 0 {
                        self.crash(n);
                        return Ok(());
                    }
                }
                self.act(n, action)?;
                self.check(n)?;
            }
            while let Some(Some((_, told))) = self.with(n, |set| set.poll_event()) {
                self.hear_event(n, told)?;
            }
            for peer in 0..self.nodes.len() {
                quiet &= !self.send(n, peer)?;
            }
            if quiet {
                return Ok(());
            }
        }
    }

    fn hear_event(&mut self, n: usize, told: Told) -> Verdict {
        self.say(|| format!("node {n} tells {told:?}"));
        match told {
            Told::Reconciled => {
                self.totals.reigns += 1;
                self.check_primary(n)
            }
            Told::Verified(peer) => self.verified(n, &peer),
            Told::SplitBrain(_) | Told::Diverged(_) => {
                self.totals.splits += 1;
                // Ancestry is remembered for so many configurations.
                let latest = self.authority.latest().version;
                let forgotten = |n: &Node| n.seen.version + ANCESTORS_MAX as u64 <= latest;
                let keeps = self.nodes[n].set.as_ref().is_some_and(|s| s.state().keep);
                let rules = self.setup.class == Class::Rules && !keeps;
                if rules && !self.nodes.iter().any(forgotten) {
                    return Err(format!(
                        "(9) node {n} tells {told:?} though nobody was forced"
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Invariant 1 for a primary.
    fn check_primary(&self, n: usize) -> Verdict {
        let config = self.nodes[n].set.as_ref().map(|s| s.state().config.id);
        // Who was replaced and does not know it yet may believe what it likes.
        if self.setup.class == Class::Rules && config == Some(self.authority.latest().id) {
            let tip = &self.nodes[n].store.tip;
            self.oracle.has_acknowledged(&format!("primary {n}"), tip)?;
        }
        Ok(())
    }

    /// Invariants that are asked after each action.
    fn check(&self, n: usize) -> Verdict {
        let Some(set) = &self.nodes[n].set else {
            return Ok(());
        };
        let state = set.state();
        let bound = self.setup.window + 2 * self.setup.entries + 64;
        if state.entries > bound as usize {
            return Err(format!(
                "(11) node {n} has {} entries in memory",
                state.entries
            ));
        }
        if state.promise < self.nodes[n].fenced.map_or(0, |f| f.0) {
            return Err(format!("(2) node {n} forgot its promise"));
        }
        for peer in &self.nodes {
            let compare = set.peer_state(&peer.id).and_then(|p| p.compare);
            if compare.is_some_and(|c| c.of_blocks.is_some_and(|all| c.blocks > all)) {
                return Err(format!("node {n} has compared {compare:?}"));
            }
        }
        Ok(())
    }

    /// Sends what there is to send to a peer; true if there was something.
    fn send(&mut self, n: usize, peer: usize) -> Result<bool, String> {
        let mut sent = false;
        loop {
            let Some(nonce) = self.nodes[n].sessions.get(&peer).copied() else {
                return Ok(sent);
            };
            let end = usize::from(n > peer);
            let room = self
                .connections
                .get(&nonce)
                .is_some_and(|(_, _, c)| c.open[end] && (c.dead || c.queues[end].0.len() < ROOM));
            if !room {
                return Ok(sent);
            }
            let id = self.nodes[peer].id;
            let Some(Ok(Some(outgoing))) = self.with(n, |set| set.poll_send(&id)) else {
                return Ok(sent);
            };
            sent = true;
            self.frame(n, peer, nonce, outgoing)?;
        }
    }

    fn frame(&mut self, n: usize, peer: usize, nonce: u64, outgoing: Outgoing) -> Verdict {
        self.totals.frames += 1;
        self.totals.blocks += outgoing.blocks.len() as u64;
        self.totals.packed += u64::from(wire::is_packed(&outgoing.meta));
        let mut blocks = std::vec::Vec::new();
        for block in &outgoing.blocks {
            blocks.push(match block {
                Block::Fetched(handle) => self.nodes[n].blocks.remove(handle).unwrap_or(BAD),
                Block::Pinned { digest, .. } => {
                    let content = store::content(digest);
                    if !self.nodes[n]
                        .store
                        .pins
                        .values()
                        .any(|p| p.contains(&content))
                    {
                        return Err(format!("(8) node {n} sends {content}, which is not pinned"));
                    }
                    content
                }
            });
        }
        self.check_frame(n, peer, &outgoing.meta, blocks.len())?;
        let slow = match self.is_async(n, peer) && !self.calm {
            true => self.rng.below(self.setup.slow + 1),
            false => 0,
        };
        let (_, _, connection) = match self.connections.get_mut(&nonce) {
            Some(c) if !c.2.dead => c,
            _ => return Ok(()),
        };
        let mut meta = outgoing.meta.to_vec();
        if self.setup.noise && !self.calm {
            if self.rng.chance(1, 300) {
                let at = self.rng.below(meta.len() as u64) as usize;
                meta[at] ^= 1 << self.rng.below(8);
            } else if !blocks.is_empty() && self.rng.chance(1, 50) {
                blocks[0] = 0xbad;
            }
        }
        let from = usize::from(n > peer);
        let delay = self.rng.below(self.setup.delay + 1) + slow;
        let arrival = (self.now + delay).max(connection.queues[from].1);
        connection.queues[from].1 = arrival;
        connection.queues[from].0.push_back(Packet { meta, blocks });
        self.at(arrival - self.now, Event::Deliver(nonce, from));
        Ok(())
    }

    /// What a frame may say, given what is durable.
    fn check_frame(&mut self, n: usize, peer: usize, meta: &[u8], blocks: usize) -> Verdict {
        let node = &self.nodes[n];
        let decoded = wire::decode(meta, blocks * 4096, xxh64).map_err(|_| "memory")?;
        let Ok((envelope, frame)) = decoded else {
            return Err(format!("node {n} sends a frame that is none"));
        };
        let lengths = wire::lengths(meta);
        if lengths != Ok((meta.len(), blocks * 4096)) {
            return Err(format!("node {n} sends a frame of {lengths:?}"));
        }
        self.say(|| format!("node {n} to {peer}: {}", brief(&envelope, &frame)));
        let packs = self.setup.packs(n, self.now) && self.setup.unpacks(peer);
        if envelope.packed != (packs && blocks > 0) {
            return Err(format!(
                "node {n} packs {blocks} blocks for {peer}: {}",
                envelope.packed
            ));
        }
        if envelope.version > node.seen.version || envelope.term > node.seen.term {
            return Err(format!(
                "(2) node {n} speaks of a configuration that is not durable"
            ));
        }
        let fenced = node.fenced.is_some_and(|f| envelope.term < f.0);
        match &frame {
            Frame::Hello(hello) => {
                if hello.promise > node.seen.promise {
                    return Err(format!("(2) node {n} promises what is not durable"));
                }
                if hello.history.position() != node.store.tip {
                    return Err(format!("(4) node {n} states a position that it has not"));
                }
            }
            Frame::Ack(position) => {
                if fenced {
                    return Err(format!("(5) node {n} acknowledges though it was fenced"));
                }
                if !self.oracle.contains(&node.store.tip, position) {
                    return Err(format!(
                        "(4) node {n} acknowledges {} and has {}",
                        short(position),
                        short(&node.store.tip)
                    ));
                }
            }
            Frame::Entries {
                epoch,
                resync,
                first,
                entries,
            } => {
                if fenced {
                    return Err(format!("(5) node {n} sends entries though it was fenced"));
                }
                let changes = entries.iter().any(|e| e.op.changes_volumes());
                if changes && (*resync || *first > 0 || entries.len() > 1) {
                    return Err(format!(
                        "(3) node {n} sends a change of volumes among others"
                    ));
                }
                self.check_async(n, peer, *epoch, *resync)?;
            }
            Frame::Reached { reached, .. } => {
                if self.setup.parks(n) == 0 || self.setup.parks(peer) == 0 {
                    return Err(format!("node {n} says REACHED to {peer}"));
                }
                self.totals.resumed += u64::from(*reached != Reached::NOTHING);
            }
            Frame::Merge { from, to } => {
                if !self.is_async(n, peer) || !self.setup.merges(peer) {
                    return Err(format!("(3) node {n} merges epochs for {peer}"));
                }
                self.oracle.merges(from, to)?;
                self.check_async(n, peer, to.epoch, false)?;
                self.totals.merged += to.epoch - from.epoch;
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether a peer is asynchronous in a store's configuration, and nobody waits for it.
    fn is_async(&self, n: usize, peer: usize) -> bool {
        let id = self.nodes[peer].id;
        self.nodes[n].set.as_ref().is_some_and(|set| {
            let joining = set.peer_state(&id).is_some_and(|p| p.joining);
            let member = set.state().config.member(&id);
            !joining && member.is_some_and(|m| m.state == MemberState::Async)
        })
    }

    /// Who nobody waits for gets only what everybody has that FLUSHes wait for.
    fn check_async(&self, n: usize, peer: usize, epoch: u64, resync: bool) -> Verdict {
        let Some(set) = &self.nodes[n].set else {
            return Ok(());
        };
        let config = set.state().config;
        if resync || !self.is_async(n, peer) {
            return Ok(());
        }
        for member in config
            .members
            .iter()
            .filter(|m| m.state == MemberState::InSync)
        {
            let tip = &self.nodes[self.number_of(&member.store)].store.tip;
            if tip.epoch < epoch {
                return Err(format!(
                    "(9) node {n} sends {peer} epoch {epoch}, not committed"
                ));
            }
        }
        Ok(())
    }

    fn act(&mut self, n: usize, action: Action) -> Verdict {
        let life = self.nodes[n].life;
        self.say(|| format!("node {n}: {}", brief_action(&action)));
        match action {
            Action::Persist {
                token,
                generation,
                slot,
                first,
            } => {
                let id = self.check_record(n, &slot)?;
                self.nodes[n].told.insert(id);
                self.nodes[n].persist = Some(Persist {
                    token,
                    generation,
                    slot: slot.to_vec(),
                    first,
                    copies: 0,
                });
                let time = self.disk_time();
                self.at(time, Event::Persist(n, life));
            }
            Action::Seal(position) => {
                self.end_flaws(n);
                let mut image = self.nodes[n].store.newest();
                let node = &mut self.nodes[n];
                let (now, later): (std::vec::Vec<_>, std::vec::Vec<_>) =
                    std::mem::take(&mut node.store.open)
                        .into_iter()
                        .partition(|(epoch, _)| *epoch == position.epoch);
                node.store.open = later;
                let (entries, mut dates): (std::vec::Vec<_>, _) = (
                    now.into_iter().map(|(_, entry)| entry).collect(),
                    node.store.newest_dates(),
                );
                for entry in &entries {
                    store::apply(&mut image, entry, store::content(&entry.digest))?;
                }
                store::date(&mut dates, &entries, position.epoch);
                let last = self.nodes[n].store.newest_position();
                let forced = self.setup.class == Class::Force;
                self.oracle
                    .seal((n, life), &position, &last, &image, forced)?;
                self.totals.epochs += 1;
                let entries = entries.into_iter();
                let entries = entries.map(|e| (e, store::content(&e.digest))).collect();
                self.pend(n, position, image, dates, Kind::Seal, entries);
            }
            Action::Stage {
                token,
                entry,
                source,
                resync,
            } => self.stage(n, token, entry, source, resync)?,
            Action::Void => self.nodes[n].store.staged.clear(),
            Action::Unbuild => self.nodes[n].store.compare.clear(),
            Action::Apply {
                position,
                token,
                count,
            } => {
                let last = self.nodes[n].store.newest_position();
                let merges = self.may_merge(n);
                self.oracle.follows(&position, &last, merges)?;
                let node = &mut self.nodes[n];
                let (mut image, mut dates) = (node.store.newest(), node.store.newest_dates());
                let mut entries = std::vec::Vec::new();
                for token in token..token + u64::from(count) {
                    let Some((entry, content)) = node.store.staged.remove(&token) else {
                        return Err(format!("(7) node {n} applies what is not staged"));
                    };
                    store::apply(&mut image, &entry, content)?;
                    store::date(&mut dates, &[entry], position.epoch);
                    entries.push((entry, content));
                    let pins = node.store.pins.entry(position.epoch).or_default();
                    pins.insert(content);
                }
                self.oracle.state(&format!("node {n}"), &position, &image)?;
                self.check_stated(n)?;
                self.nodes[n].store.live = image.clone();
                self.pend(n, position, image, dates, Kind::Apply, entries);
            }
            Action::Compare { volumes } => {
                self.nodes[n].store.compare = store::empty(&volumes);
            }
            Action::Switch {
                position,
                token,
                count,
                ..
            } => {
                let node = &mut self.nodes[n];
                let image = std::mem::take(&mut node.store.compare);
                for token in token..token + u64::from(count) {
                    if node.store.staged.remove(&token).is_none() {
                        return Err(format!("(7) node {n} switches to what is not staged"));
                    }
                }
                self.oracle
                    .state(&format!("node {n}, compared,"), &position, &image)?;
                self.check_stated(n)?;
                let last = self.nodes[n].store.newest_position();
                if !self.nodes[n].resolved {
                    self.oracle
                        .gives_up(&format!("node {n}"), &last, &position)?;
                }
                self.totals.switches += 1;
                self.nodes[n].wrote = 0;
                self.nodes[n].store.live = image.clone();
                let dates = store::dated(&image, position.epoch);
                let none = std::vec::Vec::new();
                self.pend(n, position, image, dates, Kind::Switch, none);
            }
            Action::Release(epoch) => {
                self.nodes[n].store.pins.retain(|e, _| *e > epoch);
            }
            Action::ScanOpen { scan } => self.freeze(n, scan, false)?,
            Action::Freeze { scan } => self.freeze(n, scan, true)?,
            Action::ScanRange {
                scan,
                volume,
                first,
                end,
                max,
            } => {
                let time = self.disk_time();
                let range = (volume, first, end);
                self.at(time, Event::ShownRange(n, life, scan, range, max));
            }
            Action::Repair { token, entry } => {
                let time = self.disk_time();
                self.at(time, Event::Repair(n, life, token, entry));
            }
            Action::Scan {
                scan,
                cursor,
                max,
                since,
            } => {
                let time = self.disk_time();
                self.at(time, Event::Scanned(n, life, scan, cursor, (max, since)));
            }
            Action::ScanClose(scan) => {
                self.nodes[n].store.scans.remove(&scan);
                self.nodes[n].freezes.close(scan);
            }
            Action::Own {
                token,
                volume,
                first,
                end,
                max,
            } => {
                let time = self.disk_time();
                let range = (volume, first, end);
                self.at(time, Event::Owned(n, life, token, range, max));
            }
            Action::StageDrop(handle) | Action::FetchDrop(handle) => {
                if self.nodes[n].blocks.remove(&handle).is_none() {
                    return Err(format!("node {n} drops what is not there"));
                }
            }
            Action::Fetch {
                token,
                digest,
                scan,
                pinned,
                ..
            } => {
                let content = store::content(&digest);
                let store = &self.nodes[n].store;
                let keeps = |content: Content| match scan {
                    Some(scan) => {
                        let frozen = store.scans.get(&scan);
                        frozen.is_some_and(|f| store::contents(&f.image).any(|c| c == content))
                    }
                    None => store.pins.values().any(|p| p.contains(&content)),
                };
                // This store itself was told that it is lost.
                let lost = content == BAD || (self.oracle.rot && !keeps(content) && keeps(BAD));
                if !lost && !keeps(content) {
                    return Err(format!(
                        "(8) node {n} let go of {content}, which a peer needs"
                    ));
                }
                let time = self.disk_time();
                if !lost && self.read_fails(n, content, (scan, pinned))? {
                    self.at(time, Event::FetchFailed(n, life, token));
                } else {
                    let found = (!lost).then_some(content);
                    self.at(time, Event::Fetched(n, life, token, found));
                }
            }
            Action::Look { token, wanted } => {
                let content = store::content(&wanted.digest);
                let node = &self.nodes[n];
                let is_here = |c: &Content| node.store.holds(*c) || node.misses.holds(*c);
                let found = Some(content).filter(is_here);
                let time = self.disk_time();
                self.at(time, Event::Fetched(n, life, token, found));
            }
            Action::Answer { number, found } => {
                if let Some((handle, _)) = found {
                    if self.missed_came(n, number, handle)? {
                        return Ok(());
                    }
                }
                let Some(wanted) = self.nodes[n].asks.remove(&number) else {
                    return Err(format!("node {n} is told twice of {number}"));
                };
                if let Some((handle, _)) = found {
                    let came = self.nodes[n].blocks.remove(&handle);
                    if came != Some(wanted) {
                        return Err(format!("(7) node {n} wants {wanted} and gets {came:?}"));
                    }
                    self.totals.blocks_found += 1;
                }
            }
            Action::Flushed { tag, ok } => self.flushed(n, tag, ok)?,
            Action::Reply { command, reply } => self.answered(n, command, reply)?,
            Action::Close { peer, session } => {
                let peer = self.number_of(&peer);
                if self.nodes[n].sessions.get(&peer) == Some(&session) {
                    self.nodes[n].sessions.remove(&peer);
                }
                let end = usize::from(n > peer);
                if let Some((_, _, connection)) = self.connections.get_mut(&session) {
                    connection.open[end] = false;
                    connection.dead = true;
                    connection.queues[1 - end].0.clear();
                    let delay = self.rng.below(self.setup.delay + 50);
                    self.at(delay, Event::Lost(session, 1 - end));
                }
            }
        }
        Ok(())
    }

    /// Whether a store may be sent merged epochs.
    fn may_merge(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        let is_async = node.set.as_ref().is_some_and(|set| {
            let member = set.state().config.member(&node.id);
            member.is_some_and(|m| m.state == MemberState::Async)
        });
        is_async && self.setup.merges(n)
    }

    /// Whether a read for a peer fails. Where nothing rots the last try succeeds.
    fn read_fails(
        &mut self,
        n: usize,
        content: Content,
        place: (Option<u64>, (u64, u32)),
    ) -> Result<bool, String> {
        let rots = self.setup.rot && (content % 10 == 7 || self.rng.chance(1, 10));
        let failed = self.nodes[n].failed_reads.entry(place).or_default();
        let flaky = self.setup.flaky && !self.calm && *failed < FETCH_TRIES - 1;
        let fails = rots || (flaky && self.rng.chance(1, 2));
        *failed += u32::from(fails);
        // Nobody asks for a block of a frozen state twice.
        if place.0.is_some() && *failed > FETCH_TRIES {
            return Err(format!(
                "(11) node {n} reads {content} of {place:?} again and again"
            ));
        }
        Ok(fails)
    }

    /// Clause 6: what a fenced store has stated stays so until it serves a later term.
    fn check_stated(&self, n: usize) -> Verdict {
        let node = &self.nodes[n];
        match node.fenced {
            Some((term, _)) if node.seen.term < term => Err(format!(
                "(4) node {n} changes though it was fenced in term {term}"
            )),
            _ => Ok(()),
        }
    }

    fn pend(
        &mut self,
        n: usize,
        position: Position,
        image: store::Image,
        dates: store::Dates,
        kind: Kind,
        entries: std::vec::Vec<(Entry, Content)>,
    ) {
        let life = self.nodes[n].life;
        self.nodes[n].store.pending.push(Pending {
            position,
            image,
            dates,
            kind,
            entries,
        });
        let time = self.disk_time();
        self.at(time, Event::Complete(n, life));
    }

    fn stage(
        &mut self,
        n: usize,
        token: u64,
        entry: Entry,
        source: Source,
        resync: bool,
    ) -> Verdict {
        let life = self.nodes[n].life;
        let wanted = store::content(&entry.digest);
        let failed = !self.calm && self.rng.chance(1, 4000);
        let node = &mut self.nodes[n];
        let fits = match resync {
            true => store::fits(&node.store.compare, &entry),
            false => store::fits(&node.store.newest(), &entry),
        };
        if !fits {
            return Err(format!(
                "(7) node {n} stages {:?} of {} blocks for volume {}, which is not so",
                entry.op, entry.count, entry.volume[0]
            ));
        }
        let found = match source {
            // Now and then some of it can't be read.
            Source::Held if entry.op == EntryOp::Keep => {
                let range = entry.lbn as usize..(entry.lbn + entry.count) as usize;
                let own = node.store.newest();
                let own = own.get(&entry.volume[0]);
                let known = own.is_some() && (self.calm || !self.rng.chance(1, 40));
                let shadow = node.store.compare.get_mut(&entry.volume[0]);
                if let (Some(own), Some(shadow)) = (own, shadow) {
                    let range = range.start.min(own.len())..range.end.min(own.len());
                    shadow[range.clone()].copy_from_slice(&own[range]);
                }
                self.totals.kept += u64::from(known);
                known.then_some(0)
            }
            Source::Held if entry.op != EntryOp::Write => Some(0),
            Source::Held => (wanted != BAD && node.store.holds(wanted)).then_some(wanted),
            Source::Data(handle) => {
                let Some(content) = node.blocks.remove(&handle) else {
                    return Err(format!("(7) node {n} stages data that did not come"));
                };
                if content != wanted {
                    return Err(format!("(7) node {n} stages {content}, meant is {wanted}"));
                }
                Some(wanted)
            }
            Source::Lost if self.oracle.rot => Some(BAD),
            Source::Lost => return Err(format!("(7) node {n}: {wanted} is lost")),
        };
        let result = match found {
            _ if failed => StageResult::Failed,
            Some(content) => {
                if resync {
                    // At once: it stays when what is staged is void.
                    store::apply(&mut node.store.compare, &entry, content)?;
                }
                node.store.staged.insert(token, (entry, content));
                StageResult::Held
            }
            None => StageResult::Lacks,
        };
        let blocks = self.setup.blocks as usize * usize::from(VOLUMES_MAX);
        if node.store.staged.len() > self.setup.entries as usize + blocks {
            return Err(format!(
                "(11) node {n} has {} staged",
                node.store.staged.len()
            ));
        }
        let time = self.disk_time();
        self.at(time, Event::Staged(n, life, token, result));
        Ok(())
    }

    /// What a record may say, given what was durable and commanded.
    fn check_record(&self, n: usize, slot: &[u8]) -> Result<Id, String> {
        let node = &self.nodes[n];
        let read = Record::read(slot, &node.id, xxh64).map_err(|_| "memory")?;
        let Some((_, record)) = read else {
            return Err(format!("node {n} writes a record that is none"));
        };
        let config = &record.config;
        if record.promise < node.seen.promise
            || config.version < node.seen.version
            || config.term < node.seen.term
        {
            return Err(format!("(2) node {n}: promise, version or term falls"));
        }
        let far = config.version >= node.seen.version + ANCESTORS_MAX as u64;
        let held = node.set.as_ref().is_some_and(|s| s.state().keep);
        if record.keep && !held && !far && self.setup.class == Class::Rules {
            return Err(format!(
                "(9) node {n} clings to its history though nobody was forced"
            ));
        }
        // Clause 9.
        if config.term > node.seen.term && !node.sessions.is_empty() && self.setup.memory == 0 {
            return Err(format!("(5) sessions of node {n} outlive their term"));
        }
        if config.id == node.seen.id || node.told.contains(&config.id) || config.members.len() == 1
        {
            return Ok(config.id);
        }
        // Adopted by itself.
        let primary = self.number_of(&config.primary);
        if node
            .heard
            .get(&primary)
            .is_none_or(|h| h.config != config.id)
        {
            return Err(format!("(2) node {n} adopts what its primary did not say"));
        }
        if !self.oracle.descends(&config.id, &node.seen.id) && !node.resolved {
            return Err(format!(
                "(9) node {n} adopts a configuration that it is not related to"
            ));
        }
        Ok(config.id)
    }

    /// Clause 12, from outside.
    /// Some copy of a block is taken for bad: peers are asked.
    fn want(&mut self, n: usize, number: u64) {
        let node = &self.nodes[n];
        let good = |c: &Content| *c != 0 && *c != BAD && !store::is_flaw(*c);
        let Some(content) = store::contents(&node.store.durable).find(good) else {
            return;
        };
        if number % 2 == 0 && !node.asks.contains_key(&number) {
            let wanted = Wanted {
                volume: [1; 16],
                lbn: 0,
                check: store::check(content),
                digest: store::digest(content),
            };
            if let Some(Ok(())) = self.with(n, |set| set.ask(number, wanted)) {
                self.nodes[n].asks.insert(number, content);
            }
        }
    }

    fn flushed(&mut self, n: usize, tag: u64, ok: bool) -> Verdict {
        let Some(epoch) = self.nodes[n].flushes.remove(&tag) else {
            return Err(format!("(12) node {n} ends a FLUSH twice"));
        };
        if !ok {
            self.totals.flushes_failed += 1;
            return Ok(());
        }
        self.totals.flushes += 1;
        self.check_lease(n, "acknowledges")?;
        let node = &self.nodes[n];
        let path = self.oracle.path(&node.store.tip);
        let position = path.iter().find(|p| p.epoch == epoch).copied();
        let position = match (position, epoch) {
            (_, 0) => Position::ZERO,
            (Some(position), _) => position,
            (None, _) => return Err(format!("(1) node {n} acknowledges before it is durable")),
        };
        let Some(set) = &node.set else {
            return Ok(());
        };
        let state = set.state();
        let config = state.config;
        let short_of = config.in_sync_count() < usize::from(config.min_insync);
        if short_of || node.seen.promise > config.term {
            return Err(format!(
                "(5) node {n} acknowledges though fenced or too few"
            ));
        }
        for member in &config.members {
            let peer = self.number_of(&member.store);
            let joining = set.peer_state(&member.store).is_some_and(|p| p.joining);
            if peer == n || !(member.state == MemberState::InSync || joining) {
                continue;
            }
            if !self.oracle.contains(&self.nodes[peer].store.tip, &position) {
                return Err(format!(
                    "(1) node {n} acknowledges {}, not on {peer}",
                    short(&position)
                ));
            }
            let session = node.sessions.get(&peer);
            let valid = node.heard.get(&peer).is_some_and(|h| {
                Some(&h.nonce) == session
                    && h.epochs.get(&(config.term, config.version)) >= Some(&epoch)
            });
            if !valid {
                return Err(format!(
                    "(5) node {n} counts what {peer} did not say in this session"
                ));
            }
        }
        self.oracle
            .acknowledge(position, self.setup.class == Class::Force)?;
        self.want(n, tag);
        self.miss(n, tag)?;
        self.check_in_sync()
    }

    /// Invariant 1 for all members that the authority counts on.
    pub fn check_in_sync(&self) -> Verdict {
        if self.setup.class == Class::Force {
            return Ok(());
        }
        let config = self.authority.latest();
        for member in config
            .members
            .iter()
            .filter(|m| m.state == MemberState::InSync)
        {
            let n = self.number_of(&member.store);
            self.oracle
                .has_acknowledged(&format!("in-sync node {n}"), &self.nodes[n].store.tip)?;
        }
        Ok(())
    }

    /// A FENCE was answered.
    pub fn note_fenced(&mut self, n: usize, term: u64, position: Position) -> Verdict {
        let node = &mut self.nodes[n];
        if node.seen.promise < term {
            return Err(format!(
                "(2) node {n} answers before its promise is durable"
            ));
        }
        if node.store.newest_position() != position || node.store.tip != position {
            return Err(format!(
                "(4) node {n} states {} when fenced",
                short(&position)
            ));
        }
        if node.fenced.is_none_or(|f| f.0 < term) {
            node.fenced = Some((term, position));
        }
        Ok(())
    }

    /// A random id.
    pub fn id(&mut self) -> Id {
        let (a, b) = (self.rng.draw(), self.rng.draw());
        let mut id = [0; 16];
        id[..8].copy_from_slice(&a.to_le_bytes());
        id[8..].copy_from_slice(&b.to_le_bytes());
        id
    }

    // Steps.

    fn step(&mut self, op: Op) -> Verdict {
        match op {
            Op::Write(r) => self.write(r),
            Op::Flush => {
                for n in 0..self.nodes.len() {
                    if self.nodes[n].set.as_ref().is_some_and(|s| s.state().reigns) {
                        self.flush(n)?;
                    }
                }
                Ok(())
            }
            Op::Crash(r) => {
                let n = r as usize % self.nodes.len();
                self.crash(n);
                Ok(())
            }
            Op::CrashAtAction(r) => {
                let n = r as usize % self.nodes.len();
                if self.nodes[n].set.is_some() {
                    self.nodes[n].crash_in = Some((r >> 32) % 20);
                }
                Ok(())
            }
            Op::Start(r) => {
                let n = r as usize % self.nodes.len();
                if self.nodes[n].broken {
                    self.crash(n);
                }
                self.start(n)
            }
            Op::Cut(r) => {
                let nonces: std::vec::Vec<u64> = self.connections.keys().copied().collect();
                if !nonces.is_empty() {
                    self.cut(nonces[r as usize % nonces.len()]);
                }
                Ok(())
            }
            Op::Reconnect(r) => {
                let count = self.nodes.len();
                let (a, b) = (r as usize % count, (r >> 16) as usize % count);
                let (a, b) = (a.min(b), a.max(b));
                let alive = self.nodes[a].set.is_some() && self.nodes[b].set.is_some();
                if a != b && alive && !self.are_apart(a, b) {
                    self.connect(a, b);
                }
                Ok(())
            }
            Op::Partition(r) => {
                self.partition = r;
                let apart: std::vec::Vec<u64> = self
                    .connections
                    .values()
                    .filter(|c| self.are_apart(c.0, c.1))
                    .map(|c| c.2.nonce)
                    .collect();
                for nonce in apart {
                    self.cut(nonce);
                }
                Ok(())
            }
            Op::Heal => {
                self.partition = 0;
                Ok(())
            }
            Op::Change(r) => self.change(r),
            Op::Verify(r) => self.verify(r),
            Op::Flaw(r) => {
                self.flaw(r);
                Ok(())
            }
            Op::Operate(r) => self.operate(r),
            Op::Forbidden(r) => self.try_forbidden(r),
        }
    }

    /// Whether the authority gives leases now.
    pub fn leases(&self) -> bool {
        self.setup.lease > 0 && self.setup.class == Class::Rules && !self.calm
    }

    /// Clause 14, from outside.
    fn check_lease(&self, n: usize, what: &str) -> Verdict {
        let Some(set) = self.nodes[n].set.as_ref().filter(|_| self.leases()) else {
            return Ok(());
        };
        let version = set.state().config.version;
        let until = self.nodes[n].leases.get(&version);
        if until.is_none_or(|until| *until <= self.now) {
            return Err(format!(
                "(14) node {n} {what} in version {version}, lease {until:?}"
            ));
        }
        let other = (0..self.nodes.len()).find(|m| *m != n && self.is_leading(*m));
        match other {
            Some(other) => Err(format!("(14) node {n} {what} though {other} leads")),
            None => Ok(()),
        }
    }

    /// Reads wherever there is somebody who answers.
    fn read(&mut self) -> Verdict {
        for n in 0..self.nodes.len() {
            if self.with(n, |set| set.leads() && !set.lease_is_over()) == Some(true) {
                self.totals.reads += 1;
                self.check_lease(n, "is read")?;
            }
        }
        Ok(())
    }

    fn write(&mut self, r: u64) -> Verdict {
        let mut rng = Rng::new(r);
        self.read()?;
        for n in 0..self.nodes.len() {
            if !self.nodes[n].set.as_ref().is_some_and(|s| s.serves()) {
                continue;
            }
            let volumes = store::volumes(&self.nodes[n].store.live);
            for _ in 0..rng.skewed(4) {
                let at = rng.below(volumes.len() as u64) as usize;
                let (volume, blocks) = (volumes[at].uuid[0], volumes[at].blocks);
                let lbn = rng.below(blocks);
                let entry = if rng.chance(1, 12) {
                    let count = rng.between(1, blocks - lbn);
                    entry(EntryOp::Zero, volume, lbn, count, 0, false)
                } else {
                    let content = 1 + rng.below(self.setup.contents) as Content;
                    let fresh = !self.nodes[n].store.holds(content);
                    entry(EntryOp::Write, volume, lbn, 1, content, fresh)
                };
                let Some(Ok((epoch, _))) = self.with(n, |set| set.write(entry)) else {
                    break;
                };
                self.totals.writes += 1;
                self.wrote(n, epoch, &entry)?;
            }
            self.pump(n)?;
        }
        Ok(())
    }

    /// A change of a block was taken.
    pub fn wrote(&mut self, n: usize, epoch: u64, entry: &Entry) -> Verdict {
        self.check_reconciled(n)?;
        self.check_lease(n, "is written")?;
        let node = &mut self.nodes[n];
        let content = store::content(&entry.digest);
        store::apply(&mut node.store.live, entry, content)?;
        node.store.open.push((epoch, *entry));
        node.store.pins.entry(epoch).or_default().insert(content);
        node.wrote = epoch;
        Ok(())
    }

    /// Seals what the engine has sealed.
    pub fn append_seals(&mut self, n: usize) -> Verdict {
        while let Some(Some(position)) = self.with(n, |set| set.next_seal()) {
            self.act(n, Action::Seal(position))?;
        }
        Ok(())
    }

    /// A volume of each primary is created, gets another size, or goes.
    fn change(&mut self, r: u64) -> Verdict {
        let mut rng = Rng::new(r);
        for n in 0..self.nodes.len() {
            if !self.nodes[n].set.as_ref().is_some_and(|s| s.serves()) {
                continue;
            }
            let op = rng.pick(&[EntryOp::Create, EntryOp::Resize, EntryOp::Remove]);
            let volume = 1 + rng.below(u64::from(VOLUMES_MAX)) as u8;
            let count = match op {
                EntryOp::Remove => 0,
                _ => rng.between(1, self.setup.blocks),
            };
            let entry = entry(op, volume, 0, count, 0, false);
            if !store::fits(&self.nodes[n].store.live, &entry) {
                continue;
            }
            let Some(Ok(position)) = self.with(n, |set| set.change(entry)) else {
                continue;
            };
            self.totals.changes += 1;
            self.check_reconciled(n)?;
            let node = &mut self.nodes[n];
            store::apply(&mut node.store.live, &entry, 0)?;
            node.store.open.push((position.epoch, entry));
            node.wrote = position.epoch;
            self.pump(n)?;
        }
        Ok(())
    }

    /// Invariant 6.
    fn check_reconciled(&self, n: usize) -> Verdict {
        let Some(set) = &self.nodes[n].set else {
            return Ok(());
        };
        let config = set.state().config;
        for member in config
            .members
            .iter()
            .filter(|m| m.state == MemberState::InSync)
        {
            let node = &self.nodes[self.number_of(&member.store)];
            let path = self.oracle.path(&node.store.tip);
            let agrees = path.iter().any(|p| p.reign == config.reign);
            // By a person's word it may have gone to another primary since.
            if !agrees && !node.resolved {
                return Err(format!(
                    "(6) node {n} takes a write before {:?} agrees",
                    member.store[0]
                ));
            }
        }
        Ok(())
    }

    fn flush(&mut self, n: usize) -> Verdict {
        self.serial += 1;
        let tag = self.serial;
        if self
            .with(n, |set| set.flush(tag))
            .is_some_and(|r| r.is_ok())
        {
            let wrote = self.nodes[n].wrote;
            self.nodes[n].flushes.insert(tag, wrote);
        }
        self.pump(n)
    }

    fn event(&mut self, event: Event) -> Verdict {
        let alive =
            |w: &World, n: usize, life: u64| w.nodes[n].set.is_some() && w.nodes[n].life == life;
        match event {
            Event::Manage => {
                self.manage();
                return self.renew_lease();
            }
            Event::Deliver(nonce, from) => return self.deliver(nonce, from),
            Event::Up(nonce, end) => {
                let Some((a, b, connection)) = self.connections.get_mut(&nonce) else {
                    return Ok(());
                };
                let (n, peer) = if end == 0 { (*a, *b) } else { (*b, *a) };
                if connection.dead || self.nodes[n].set.is_none() {
                    connection.dead = true;
                    return Ok(());
                }
                connection.open[end] = true;
                let id = self.nodes[peer].id;
                if self
                    .with(n, |set| set.peer(&id, nonce))
                    .is_some_and(|r| r.is_ok())
                {
                    // The shell closes the old one; something of it may still be on its way.
                    if let Some(old) = self.nodes[n].sessions.insert(peer, nonce) {
                        self.cut(old);
                    }
                }
                return self.pump(n);
            }
            Event::Lost(nonce, end) => {
                let Some((a, b, connection)) = self.connections.get_mut(&nonce) else {
                    return Ok(());
                };
                let (n, peer) = if end == 0 { (*a, *b) } else { (*b, *a) };
                connection.dead = true;
                connection.open[end] = false;
                connection.queues[1 - end].0.clear();
                if self.nodes[n].sessions.get(&peer) == Some(&nonce) {
                    self.nodes[n].sessions.remove(&peer);
                    let id = self.nodes[peer].id;
                    self.with(n, |set| set.lost(&id, nonce));
                    return self.pump(n);
                }
            }
            Event::Persist(n, life) if alive(self, n, life) => return self.persist_step(n, life),
            Event::Complete(n, life) if alive(self, n, life) && self.breaks(n) => {
                self.say(|| format!("the disk of node {n} fails"));
                let first = self.nodes[n].store.pending.first();
                let seal = first.is_some_and(|p| p.kind == Kind::Seal);
                self.with(n, |set| {
                    if seal {
                        set.sealed(false)
                    } else {
                        set.applied(false)
                    }
                });
                return self.pump(n);
            }
            Event::Complete(n, life) if alive(self, n, life) => {
                let store = &mut self.nodes[n].store;
                let first = store.pending.first();
                let sealing = first.is_some_and(|p| p.kind == Kind::Seal);
                store.complete();
                if self.rng.chance(1, 3) {
                    store.tick();
                }
                self.say(|| format!("node {n} is at {}", short(&self.nodes[n].store.tip)));
                self.with(n, |set| {
                    if sealing {
                        set.sealed(true)
                    } else {
                        set.applied(true)
                    }
                });
                self.check_in_sync()?;
                return self.pump(n);
            }
            Event::Staged(n, life, token, result) if alive(self, n, life) => {
                self.with(n, |set| set.staged(token, result));
                return self.pump(n);
            }
            Event::Fetched(n, life, token, found) if alive(self, n, life) => {
                self.serial += 1;
                let handle = self.serial;
                if let Some(content) = found {
                    self.nodes[n].blocks.insert(handle, content);
                }
                let handle = found.map(|_| handle);
                self.with(n, |set| set.fetched(token, handle));
                return self.pump(n);
            }
            Event::FetchFailed(n, life, token) if alive(self, n, life) => {
                self.with(n, |set| set.fetch_failed(token));
                return self.pump(n);
            }
            Event::ScanOpened(n, life, scan) if alive(self, n, life) => {
                return self.scan_opened(n, scan);
            }
            Event::Cut(n, life, scan) if alive(self, n, life) => {
                return self.cut_checkpoint(n, scan);
            }
            Event::ShownRange(n, life, scan, range, max) if alive(self, n, life) => {
                return self.show_range(n, scan, range, max);
            }
            Event::Repair(n, life, token, entry) if alive(self, n, life) => {
                return self.repair_block(n, token, entry);
            }
            Event::Thaw(n, life, scan) if alive(self, n, life) && !self.calm => {
                if self.nodes[n].store.scans.contains_key(&scan) {
                    return self.thaw(n, scan);
                }
            }
            Event::Scanned(n, life, scan, cursor, wish) if alive(self, n, life) => {
                return self.scanned(n, scan, cursor, wish);
            }
            Event::Owned(n, life, token, range, max) if alive(self, n, life) => {
                return self.owned(n, token, range, max);
            }
            Event::Tick(n, life) if alive(self, n, life) => {
                let now = self.now;
                self.with(n, |set| set.tick(now));
                self.at(TICK, Event::Tick(n, life));
                self.pump(n)?;
                return self.check_parked(n);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether a disk fails now.
    fn breaks(&mut self, n: usize) -> bool {
        let fails = self.setup.failures && !self.calm && self.rng.chance(1, 400);
        self.nodes[n].broken |= fails;
        self.nodes[n].broken
    }

    fn persist_step(&mut self, n: usize, life: u64) -> Verdict {
        let Some(mut persist) = self.nodes[n].persist.take() else {
            return Ok(());
        };
        if self.breaks(n) {
            self.say(|| format!("the disk of node {n} fails"));
            self.with(n, |set| set.persisted(persist.token, false));
            return self.pump(n);
        }
        let slot = (persist.generation % 2) as usize;
        self.nodes[n].slots[slot][persist.first ^ persist.copies] = persist.slot.clone();
        persist.copies += 1;
        if persist.copies < 2 {
            self.nodes[n].persist = Some(persist);
            let time = self.disk_time();
            self.at(time, Event::Persist(n, life));
            return Ok(());
        }
        let id = self.nodes[n].id;
        let read = Record::read(&persist.slot, &id, xxh64).map_err(|_| "memory")?;
        if let Some((_, record)) = read {
            self.nodes[n].seen = Seen {
                promise: record.promise,
                version: record.config.version,
                term: record.config.term,
                id: record.config.id,
            };
        }
        self.with(n, |set| set.persisted(persist.token, true));
        self.pump(n)
    }

    fn scanned(
        &mut self,
        n: usize,
        scan: u64,
        cursor: u64,
        (max, since): (u32, Option<Generation>),
    ) -> Verdict {
        let Some(frozen) = self.nodes[n].store.scans.get(&scan).cloned() else {
            return Ok(());
        };
        if self.setup.thaws && !self.calm && self.rng.chance(1, 8) {
            return self.thaw(n, scan);
        }
        let image = &frozen.image;
        // The volume's place in the image, and the block.
        let (place, first) = (cursor / LBN_LIMIT, cursor % LBN_LIMIT);
        let Some((&volume, blocks)) = image.iter().nth(place as usize) else {
            return Err(format!(
                "node {n} is asked for what lies behind all volumes"
            ));
        };
        let (mut at, mut entries) = (first, KVec::new());
        while at < blocks.len() as u64 && entries.len() < max as usize {
            let date = frozen.dates[&volume][at as usize];
            let kept =
                blocks[at as usize] != 0 && since.is_some_and(|since| date <= u64::from(since.0));
            entries = match kept {
                true => keep(volume, at, entries)?,
                false => mapped(volume, blocks, at, at + 1, entries)?,
            };
            at += 1;
        }
        let shown = Shown {
            volume: [volume; 16],
            range: (first, at),
            entries,
        };
        let next = match at < blocks.len() as u64 {
            true => Some(types::cursor(place as usize, at)),
            false => {
                (place + 1 < image.len() as u64).then_some(types::cursor(place as usize + 1, 0))
            }
        };
        self.with(n, |set| set.scanned(scan, shown, next));
        self.pump(n)
    }

    /// A frozen state is gone: who is compared with it begins anew, and not all the time.
    pub fn thaw(&mut self, n: usize, scan: u64) -> Verdict {
        let (now, peers) = (self.now, self.nodes.len() - 1);
        self.say(|| format!("node {n} loses scan {scan}"));
        let node = &mut self.nodes[n];
        node.store.scans.remove(&scan);
        node.thawed.push_back(now);
        while node.thawed.front().is_some_and(|at| at + 1000 < now) {
            node.thawed.pop_front();
        }
        let lost = node.thawed.len();
        if lost > LOST_MAX * peers {
            return Err(format!("(11) node {n} loses {lost} compares in a second"));
        }
        self.with(n, |set| set.scan_lost(scan));
        self.pump(n)
    }

    /// A state stays frozen for somebody who is there, or a short while for who may come back; at a
    /// replica, while somebody verifies.
    fn check_parked(&mut self, n: usize) -> Verdict {
        let others: std::vec::Vec<Id> = self.nodes.iter().map(|node| node.id).collect();
        let (now, verifies) = (self.now, self.is_verified(n));
        let node = &mut self.nodes[n];
        let reigns = node.set.as_ref().is_some_and(|set| set.state().reigns);
        let flows = |set: &KBox<Set>| {
            let mut states = others.iter().filter_map(|id| set.peer_state(id));
            states.any(|peer| match reigns {
                true => peer.connected,
                false => peer.followed && verifies,
            })
        };
        let over = node.store.scans.is_empty() || node.broken;
        if over || node.set.as_ref().is_some_and(flows) {
            node.lonely = now;
        }
        let most = match reigns {
            true => self.setup.parks(n),
            false => THAWED,
        };
        let kept = now - node.lonely;
        match kept > most + 2 * TICK {
            true => Err(format!(
                "(11) node {n} keeps a state for {kept} ms for nobody"
            )),
            false => Ok(()),
        }
    }

    /// What a store holds in a range, or now and then that it can't say.
    fn owned(&mut self, n: usize, token: u64, range: (Id, u64, u64), max: u32) -> Verdict {
        let (volume, first, end) = range;
        let blocks = self.nodes[n].store.live.get(&volume[0]);
        let known = blocks.is_some() && (self.calm || !self.rng.chance(1, 20));
        let blocks = blocks.map_or(&[][..], |blocks| blocks);
        let end = end.min(blocks.len() as u64);
        let mut entries = mapped(volume[0], blocks, first, end, KVec::new())?;
        entries.truncate(max as usize + 1);
        self.with(n, |set| set.owned(token, known.then_some(&entries[..])));
        self.pump(n)
    }

    /// Lets time go by.
    pub fn advance(&mut self, until: u64) -> Verdict {
        while let Some((Reverse(time), Reverse(serial))) = self.queue.peek().copied() {
            if time > until {
                break;
            }
            self.queue.pop();
            self.now = self.now.max(time);
            if let Some(event) = self.events.remove(&serial) {
                self.event(event)?;
            }
        }
        self.now = self.now.max(until);
        Ok(())
    }

    // The end: no more faults.

    fn settle(&mut self) -> Verdict {
        self.calm = true;
        self.setup.rot = false;
        self.partition = 0;
        self.say(|| "no more faults".into());
        for node in &mut self.nodes {
            node.crash_in = None;
        }
        for n in 0..self.nodes.len() {
            if self.nodes[n].broken {
                self.crash(n);
            }
            self.start(n)?;
        }
        let mut why = String::new();
        for round in 0..80 {
            self.repair(round)?;
            self.advance(self.now + 500)?;
            match self.unsettled() {
                None => return self.miss_at_end(),
                Some(text) => why = text,
            }
        }
        Err(format!("(12) no end: {why}"))
    }

    fn miss_at_end(&mut self) -> Verdict {
        match (0..self.nodes.len()).find(|n| self.is_leading(*n)) {
            Some(primary) => self.miss_at_last(primary),
            None => Ok(()),
        }
    }

    /// The last writes, and a FLUSH of them.
    pub fn finish_with(&mut self, primary: usize) -> Verdict {
        let r = self.rng.draw();
        self.write(r)?;
        self.flush(primary)
    }

    fn unsettled(&mut self) -> Option<String> {
        let Some(primary) = (0..self.nodes.len()).find(|n| self.is_leading(*n)) else {
            return Some("nobody leads".into());
        };
        let tip = self.nodes[primary].store.tip;
        for node in &self.nodes {
            if !node.flushes.is_empty() {
                return Some(format!(
                    "node {} has {} FLUSHes",
                    node.number,
                    node.flushes.len()
                ));
            }
            if !node.blocks.is_empty() {
                let (number, kept) = (node.number, node.blocks.len());
                return Some(format!("node {number} keeps {kept} blocks"));
            }
            if node.store.tip != tip {
                let (here, there) = (short(&node.store.tip), short(&tip));
                return Some(format!(
                    "node {} is at {here}, primary {primary} at {there}",
                    node.number
                ));
            }
        }
        if let Some(node) = self.nodes.iter().find(|n| !n.store.scans.is_empty()) {
            return Some(format!("node {} keeps frozen states", node.number));
        }
        let image = &self.nodes[primary].store.durable;
        if let Some(other) = self.nodes.iter().find(|n| n.store.durable != *image) {
            if !self.oracle.rot {
                return Some(format!("node {} differs", other.number));
            }
        }
        let behind = |set: &Set| {
            let others = self.nodes.iter().filter_map(|n| set.peer_state(&n.id));
            others
                .filter_map(|p| p.lag)
                .find(|l| l.entries + l.bytes > 0)
        };
        if let Some(lag) = self.nodes[primary].set.as_deref().and_then(behind) {
            return Some(format!("all are equal, and a peer is behind by {lag:?}"));
        }
        (self.totals.flushes == 0).then(|| "no FLUSH ever".into())
    }
}

fn brief(envelope: &wire::Envelope, frame: &Frame) -> String {
    let what = match frame {
        Frame::Hello(h) => format!(
            "HELLO {} config {:02x} v{} t{} promise {} at {}{}",
            h.serial,
            h.config.id[0],
            h.config.version,
            h.config.term,
            h.promise,
            short(&h.history.position()),
            if h.reigns { " reigns" } else { "" }
        ),
        Frame::Entries {
            epoch,
            first,
            entries,
            resync,
        } => format!(
            "ENTRIES {epoch}[{first}..+{}] resync {resync}",
            entries.len()
        ),
        Frame::Seal {
            position, resync, ..
        } => format!("SEAL {} resync {resync}", short(position)),
        Frame::Ack(position) => format!("ACK {}", short(position)),
        Frame::Resync { position, .. } => format!("RESYNC {}", short(position)),
        Frame::Merge { from, to } => format!("MERGE {} to {}", short(from), short(to)),
        other => format!("{other:?}"),
    };
    format!(
        "t{} v{} s{} {what}",
        envelope.term, envelope.version, envelope.stream
    )
}

fn brief_action(action: &Action) -> String {
    match action {
        Action::Persist { generation, .. } => format!("persists generation {generation}"),
        Action::Seal(position) => format!("seals {}", short(position)),
        Action::Apply { position, .. } => format!("applies {}", short(position)),
        Action::Switch { position, .. } => format!("switches to {}", short(position)),
        Action::Reply { reply, .. } => format!("{reply:?}"),
        other => format!("{other:?}"),
    }
}

/// What went wrong, and at which step.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The claim that does not hold.
    pub what: String,
    /// The step.
    pub step: usize,
}

/// Plays a script.
fn run(script: &Script, verbose: bool) -> (Totals, Result<(), Failure>) {
    let step = std::cell::Cell::new(0);
    let mut totals = Totals::default();
    let result = (|| {
        let mut world = World::new(&script.setup, verbose)?;
        let play = |world: &mut World| -> Verdict {
            for n in 0..world.nodes.len() {
                world.start(n)?;
            }
            for (i, s) in script.steps.iter().enumerate() {
                step.set(i);
                let until = world.now + s.gap;
                world.advance(until)?;
                world.say(|| format!("step {i}: {:?}", s.op));
                world.step(s.op)?;
            }
            step.set(script.steps.len());
            world.settle()
        };
        let result = play(&mut world);
        totals = world.totals;
        result
    })();
    let failure = result.map_err(|what| Failure {
        what,
        step: step.get(),
    });
    (totals, failure)
}

/// A reply for messages.
pub fn is_done(reply: &Reply) -> bool {
    !matches!(reply, Reply::Refused(_))
}

thread_local! {
    static PANIC: std::cell::RefCell<Option<String>> = const { std::cell::RefCell::new(None) };
}

/// Plays a script; a panic of the engine is a failure like any other.
pub fn play(script: &Script, verbose: bool) -> (Totals, Result<(), Failure>) {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let former = std::panic::take_hook();
        std::panic::set_hook(std::boxed::Box::new(move |info| {
            if PANIC.with(|p| p.borrow().is_some()) {
                PANIC.with(|p| *p.borrow_mut() = Some(info.to_string()));
            } else {
                former(info);
            }
        }));
    });
    PANIC.with(|p| *p.borrow_mut() = Some(String::new()));
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(script, verbose)));
    fail_alloc::set(None);
    let text = PANIC.with(|p| p.borrow_mut().take()).unwrap_or_default();
    caught.unwrap_or_else(|_| {
        let failure = Failure {
            what: text,
            step: script.steps.len(),
        };
        (Totals::default(), Err(failure))
    })
}
