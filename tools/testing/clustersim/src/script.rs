// SPDX-License-Identifier: GPL-2.0

//! From a seed to a list of steps. What a step means depends on the state that it meets, so steps can
//! be left out of a failing history.

use ddup_sim::rng::Rng;

/// Who commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// One authority, compare-and-set, no force.
    Rules,
    /// Persons who see one store each, and force.
    Force,
}

/// The frame of a history.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Stores.
    pub nodes: usize,
    /// Who commands.
    pub class: Class,
    /// Of delays and everything else that is not a step.
    pub seed: u64,
    /// Entries that a store takes before it has applied them.
    pub entries: u32,
    /// Entries that are kept for peers.
    pub window: u32,
    /// Different contents.
    pub contents: u64,
    /// Blocks of each of the two volumes at the beginning, and of the largest.
    pub blocks: u64,
    /// The longest delay of a frame, in milliseconds.
    pub delay: u64,
    /// The longest time of a disk, in milliseconds.
    pub disk: u64,
    /// Blocks rot, so that a peer that asks for them gets none.
    pub rot: bool,
    /// Bytes on the wire change.
    pub noise: bool,
    /// Allocations fail, of a million.
    pub memory: u32,
    /// Disks fail for good, until the next attach.
    pub failures: bool,
    /// What is read for a peer is not read well at first.
    pub flaky: bool,
    /// Frozen states are gone before their time.
    pub thaws: bool,
    /// A full compare rests so many times as long as it worked.
    pub tranquility: u64,
    /// How long the authority's leases are, in milliseconds; 0: it gives none.
    pub lease: u64,
    /// Which stores take packed blocks, a bit for each.
    pub unpacks: u64,
    /// When which of them is told to pack, as [`Setup::packs`] reads it.
    pub packs: u64,
    /// Which stores take merged epochs, a bit for each.
    pub merges: u64,
    /// How long stores keep a frozen state for a peer that was being compared with it, in milliseconds.
    pub parks: u64,
    /// Which stores do that, a bit for each.
    pub resumes: u64,
    /// How much longer a frame to an asynchronous member takes at most, in milliseconds.
    pub slow: u64,
}

impl Setup {
    /// Whether a store takes packed blocks.
    pub fn unpacks(&self, n: usize) -> bool {
        self.unpacks >> n & 1 != 0
    }

    /// Whether a store takes merged epochs.
    pub fn merges(&self, n: usize) -> bool {
        self.merges >> n & 1 != 0
    }

    /// How long a store keeps a frozen state for a peer that was being compared with it.
    pub fn parks(&self, n: usize) -> u64 {
        self.parks * (self.resumes >> n & 1)
    }

    /// Whether a store is told to pack what it sends, at some time.
    pub fn packs(&self, n: usize, now: u64) -> bool {
        self.packs >> ((now / 500 + 7 * n as u64) % 64) & 1 != 0
    }
}

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// A write, or zeroes for a range.
    Write(u64),
    /// A FLUSH.
    Flush,
    /// A store loses its power.
    Crash(u64),
    /// A store that is off is attached.
    Start(u64),
    /// A connection breaks.
    Cut(u64),
    /// A connection is made anew though there is one.
    Reconnect(u64),
    /// Stores do not hear each other: one bit for each.
    Partition(u64),
    /// All hear each other.
    Heal,
    /// The operator does something that he may.
    Operate(u64),
    /// The operator tries what he must not.
    Forbidden(u64),
    /// The power fails at the next action of a store.
    CrashAtAction(u64),
    /// A volume is created, gets another size, or goes.
    Change(u64),
    /// Somebody verifies a peer, or ends that.
    Verify(u64),
    /// A block of a replica becomes another one, and nobody notices.
    Flaw(u64),
}

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Milliseconds after the one before.
    pub gap: u64,
    /// What happens.
    pub op: Op,
}

/// A history.
#[derive(Clone, Debug)]
pub struct Script {
    /// Its frame.
    pub setup: Setup,
    /// Its steps.
    pub steps: Vec<Step>,
}

/// The script of a seed.
pub fn generate(seed: u64, steps: u32) -> Script {
    let mut rng = Rng::new(seed);
    let entries = rng.pick(&[16, 32, 64]);
    let nodes = if rng.chance(1, 25) {
        1
    } else {
        rng.pick(&[2, 3, 3, 3, 4, 5])
    };
    let setup = Setup {
        nodes,
        // Who is alone changes its configuration by itself: no authority's log has that.
        class: if nodes == 1 || rng.chance(1, 4) {
            Class::Force
        } else {
            Class::Rules
        },
        seed: rng.draw(),
        entries,
        window: entries * rng.pick(&[1, 2, 4]),
        contents: rng.pick(&[6, 40, 1 << 20]),
        blocks: rng.pick(&[8, 24, 64]),
        delay: rng.pick(&[1, 10, 200]),
        disk: rng.pick(&[1, 10, 100]),
        rot: rng.chance(1, 8),
        noise: rng.chance(1, 8),
        memory: if rng.chance(1, 6) { 2000 } else { 0 },
        failures: rng.chance(1, 6),
        flaky: rng.chance(1, 4),
        thaws: rng.chance(1, 5),
        tranquility: rng.pick(&[0, 1, 1000]),
        lease: rng.pick(&[0, 0, 0, 250, 1000]),
        unpacks: rng.draw() | rng.draw(),
        packs: rng.draw() | rng.draw(),
        merges: rng.draw() | rng.draw() | rng.draw(),
        slow: rng.pick(&[0, 0, 100, 400]),
        parks: rng.pick(&[500, 3000, 30_000]),
        resumes: rng.draw() | rng.draw() | rng.draw(),
    };
    let mut weights = [300, 60, 8, 20, 12, 6, 3, 10, 60, 12, 6, 20, 40, 15];
    // Some histories are calm, some hit one thing hard.
    for weight in &mut weights[2..] {
        *weight *= rng.below(4) as u32;
    }
    weights[3] = weights[3].max(10);
    weights[7] = weights[7].max(5);
    weights[8] = weights[8].max(30);
    let count = u64::from(steps) / 2 + rng.below(u64::from(steps));
    let gap = rng.pick(&[2, 20, 60]);
    let steps = (0..count).map(|_| {
        let draw = rng.draw();
        let op = match rng.weighted(&weights).unwrap_or(0) {
            0 => Op::Write(draw),
            1 => Op::Flush,
            2 => Op::Crash(draw),
            3 => Op::Start(draw),
            4 => Op::Cut(draw),
            5 => Op::Reconnect(draw),
            6 => Op::Partition(draw),
            7 => Op::Heal,
            8 => Op::Operate(draw),
            9 => Op::Forbidden(draw),
            10 => Op::CrashAtAction(draw),
            11 => Op::Change(draw),
            12 => Op::Verify(draw),
            _ => Op::Flaw(draw),
        };
        Step {
            gap: rng.below(gap * 2),
            op,
        }
    });
    Script {
        setup,
        steps: steps.collect(),
    }
}
