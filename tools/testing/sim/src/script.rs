// SPDX-License-Identifier: GPL-2.0

//! From a seed to a script: the store, its surroundings, and the list of operations.
//!
//! The list is made before anything runs, and each step carries the seed of the scheduling that
//! goes with it. So a step can be left out, and the rest stays what it was: that is what the
//! minimiser lives on.

use crate::content::{Content, Fingerprints, ZERO};
use crate::disk::Loss;
use crate::rng::Rng;

/// What rots on the disk while the store runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rot {
    /// Nothing.
    Nothing,
    /// Sectors of data clusters.
    Data,
    /// Sectors of anything.
    Any,
}

/// What a history is bent towards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theme {
    /// Nothing.
    Swarm,
    /// Commits come faster than a disk that is slow with pages lets checkpoints end: the journal's
    /// ring fills, and comes round while a checkpoint needs what is in it.
    Ring,
    /// The same few contents come and go, checkpoints follow closely, nothing is flushed: clusters
    /// are used again while it is not durable what they held, and then the power fails.
    Reuse,
    /// Each block has a map leaf of its own: metadata fills the store before data does.
    Scattered,
}

/// A store and its surroundings.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The seed that all of it follows from.
    pub seed: u64,
    /// Size of the disk in clusters.
    pub clusters: u64,
    /// Size of the journal ring in clusters; 0 leaves it to the format.
    pub journal_clusters: u64,
    /// Size of the volume in blocks.
    pub volume_blocks: u64,
    /// Requests in flight.
    pub queue_depth: u32,
    /// Metadata cache.
    pub cache_pages: u32,
    /// Memory of the index.
    pub index_bytes: u64,
    /// Block changes that may wait for one checkpoint; 0 leaves it to the engine.
    pub points_max: u32,
    /// Equal names prove equal content; else hits are compared.
    pub cryptographic: bool,
    /// How contents are fingerprinted.
    pub fingerprints: Fingerprints,
    /// The disk is full of zeroes at first; else of garbage.
    pub blank: bool,
    /// The disk was formatted and used before.
    pub prior_life: bool,
    /// The disk takes discards.
    pub discard: bool,
    /// Commit interval.
    pub commit_interval_ms: u64,
    /// How long a cluster stays junk.
    pub gc_delay_s: u64,
    /// Dirty state is checkpointed after this.
    pub checkpoint_interval_ms: u64,
    /// Junk is retired while fewer clusters than this are free.
    pub keep_erased: u64,
    /// The recycler's rest, as a multiple of its work.
    pub tranquility: u64,
    /// Writes that find no space wait for some.
    pub wait_for_space: bool,
    /// Owners from which on a cluster takes no more.
    pub count_full: u32,
    /// One in this many I/Os takes seconds; 0: none.
    pub slow_one_in: u64,
    /// Of data reads, one in this many.
    pub slow_reads_one_in: u64,
    /// Of the other I/O only writes of pages do.
    pub slow_pages: bool,
    /// The store may run full.
    pub full: bool,
    /// Blocks lie far apart, so that maps get three levels and more.
    pub sparse: bool,
    /// The disk fails I/O in some stretches of the script.
    pub io_faults: bool,
    /// Allocations fail in some stretches of the script.
    pub alloc_faults: bool,
    /// What the history is bent towards.
    pub theme: Theme,
    /// Volumes come, go and change their size.
    pub volumes: bool,
    /// What rots.
    pub rot: Rot,
    /// Checksum of metadata.
    pub hash: fn(&[u8], u64) -> u64,
}

/// The first block of a volume as an operation names it: volumes lie one behind the other.
pub fn volume_base(number: u64) -> u64 {
    number << 41
}

/// Volumes of a history, the first included.
const VOLUMES: u64 = 5;

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes one content a block.
    Write {
        /// First block.
        lbn: u64,
        /// One for each block.
        contents: Vec<Content>,
        /// Durable when it completes.
        fua: bool,
    },
    /// Reads blocks.
    Read {
        /// First block.
        lbn: u64,
        /// Blocks.
        count: u64,
    },
    /// Makes durable what was acknowledged.
    Flush,
    /// Unmaps blocks.
    Discard {
        /// First block.
        lbn: u64,
        /// Blocks.
        count: u64,
    },
    /// Makes blocks read as zeroes.
    WriteZeroes {
        /// First block.
        lbn: u64,
        /// Blocks.
        count: u64,
    },
    /// Volume `number` comes, if it is not there.
    Create {
        /// Not 0.
        number: u64,
        /// Its size.
        blocks: u64,
    },
    /// Volume `number`, if it is there, gets another size.
    Resize {
        /// Which.
        number: u64,
        /// Its size.
        blocks: u64,
    },
    /// Volume `number` goes, if it is there.
    Remove(
        /// Which.
        u64,
    ),
    /// Nothing for a while, in milliseconds.
    Idle(u64),
    /// The power fails; then it fails again so many steps into each of the next recoveries.
    PowerCut {
        /// What the disk loses.
        loss: Loss,
        /// Steps into a recovery after which the power fails again.
        again: Vec<u32>,
    },
    /// Waits for all requests, detaches, attaches. `cut`: the power fails in between.
    Detach {
        /// Whether the power fails after the detach.
        cut: bool,
    },
    /// From here on I/Os fail, so many in a million.
    IoFaults {
        /// Reads.
        read_ppm: u32,
        /// Writes, flushes and discards.
        write_ppm: u32,
    },
    /// From here on allocations fail, so many in a million.
    AllocFaults(u32),
    /// A sector rots.
    Rot,
    /// Reads everything back.
    ReadAll,
}

/// An operation and when it comes.
#[derive(Clone, Debug)]
pub struct Step {
    /// Seeds the scheduling from the step before to this one.
    pub seed: u64,
    /// Things that happen before this operation.
    pub gap: u32,
    /// The operation.
    pub op: Op,
}

/// A whole history to be.
#[derive(Clone, Debug)]
pub struct Script {
    /// The store.
    pub setup: Setup,
    /// The operations.
    pub steps: Vec<Step>,
}

/// Where writes go: a stretch of the volume.
#[derive(Clone, Copy)]
struct Region {
    base: u64,
    blocks: u64,
    cursor: u64,
}

/// Makes the script of `seed` with about `ops` operations.
pub fn generate(seed: u64, ops: u32) -> Script {
    generate_with(seed, ops, |_| ())
}

/// The same, with a changed setup.
pub fn generate_with(seed: u64, ops: u32, adjust: impl FnOnce(&mut Setup)) -> Script {
    let mut rng = Rng::new(seed);
    let mut setup = setup(seed, &mut rng);
    adjust(&mut setup);
    let mut maker = Maker::new(&setup, &mut rng);
    let mut steps = Vec::new();
    let eagerness = rng.pick(&[1, 2, 4, 8, 30]);
    let ops = ops / 2 + rng.below(u64::from(ops)) as u32;
    for _ in 0..ops {
        let op = maker.op(&mut rng, &setup);
        let gap = match rng.below(8) {
            0 => 0,
            1 => rng.below(200) as u32,
            _ => rng.below(eagerness) as u32,
        };
        steps.push(Step {
            seed: rng.draw(),
            gap,
            op,
        });
    }
    Script { setup, steps }
}

fn setup(seed: u64, rng: &mut Rng) -> Setup {
    // Every few seeds there is a theme. Of the others some run full, some have deep trees,
    // some both.
    let theme = match seed % 8 {
        3 => Theme::Ring,
        6 => Theme::Reuse,
        5 if seed % 32 == 5 => Theme::Scattered,
        _ => Theme::Swarm,
    };
    let swarm = theme == Theme::Swarm;
    let scattered = theme == Theme::Scattered;
    let full = scattered || swarm && rng.chance(15, 100);
    let sparse = scattered || swarm && rng.chance(20, 100);
    let weak = swarm && rng.chance(12, 100);
    let rot = match rng.below(20) {
        _ if weak => Rot::Nothing,
        0 => Rot::Data,
        1 => Rot::Any,
        _ => Rot::Nothing,
    };
    let mut setup = Setup {
        seed,
        clusters: if full {
            rng.between(4, 6) * 4096
        } else {
            rng.between(6, 24) * 4096
        } + rng.below(4096),
        journal_clusters: rng.pick(&[0, 512, 512, 512, 600, 1024]),
        volume_blocks: if sparse {
            rng.pick(&[1 << 28, 1 << 34, 1 << 40])
        } else {
            rng.pick(&[1 << 15, 1 << 17, 1 << 20])
        },
        queue_depth: rng.pick(&[1, 4, 16, 64, 128]) as u32,
        cache_pages: rng.pick(&[64, 64, 256, 4096]) as u32,
        index_bytes: rng.pick(&[4096, 1 << 16, 1 << 20]),
        points_max: rng.pick(&[0, 1024, 4096, 16384]) as u32,
        cryptographic: !weak && rng.chance(1, 2),
        fingerprints: Fingerprints {
            key: rng.draw(),
            name_bits: if weak { rng.between(2, 8) as u32 } else { 64 },
            tail_bits: if weak { rng.between(0, 3) as u32 } else { 48 },
        },
        blank: rng.chance(1, 2),
        prior_life: rng.chance(1, 8),
        discard: rng.chance(3, 4),
        commit_interval_ms: rng.pick(&[20, 1000, 5000]),
        gc_delay_s: rng.pick(&[0, 0, 1, 10]),
        checkpoint_interval_ms: rng.pick(&[300, 5000, 30_000]),
        keep_erased: rng.pick(&[0, 512, 1 << 16, 1 << 16]),
        tranquility: [0, 1, 20][(seed % 3) as usize],
        wait_for_space: seed % 2 == 1,
        count_full: rng.pick(&[3, 40, 1 << 31, 1 << 31]),
        slow_one_in: rng.pick(&[0, 0, 50, 500]),
        // Enough for a full store to come round to a cluster that is being read.
        slow_reads_one_in: 8,
        slow_pages: false,
        full,
        sparse,
        io_faults: rng.chance(12, 100),
        alloc_faults: rng.chance(12, 100),
        theme,
        volumes: swarm && !full && seed % 4 == 1,
        rot,
        hash: crate::xxh64::xxh64,
    };
    if !full {
        setup.slow_reads_one_in = setup.slow_one_in;
    }
    match theme {
        Theme::Swarm => setup,
        Theme::Scattered => Setup {
            clusters: 4 * 4096,
            volume_blocks: 1 << 34,
            ..setup
        },
        Theme::Ring => Setup {
            journal_clusters: 512,
            slow_one_in: 4,
            slow_reads_one_in: 0,
            slow_pages: true,
            queue_depth: rng.pick(&[1, 4]) as u32,
            checkpoint_interval_ms: 5000,
            ..setup
        },
        Theme::Reuse => Setup {
            cryptographic: true,
            index_bytes: 1 << 16,
            commit_interval_ms: 5000,
            // Junk that is retired at once does not come back after a power cut.
            gc_delay_s: rng.pick(&[0, 1, 1]),
            checkpoint_interval_ms: rng.pick(&[100, 600, 600]),
            keep_erased: 1 << 16,
            discard: false,
            io_faults: false,
            alloc_faults: false,
            ..setup
        },
    }
}

/// Draws operations with the weights and places of one seed.
struct Maker {
    weights: Vec<u32>,
    content_weights: [u32; 5],
    regions: Vec<Region>,
    max_bits: u32,
    full: bool,
    /// Where blocks lie, if they are scattered.
    scattered: Option<Vec<u64>>,
    next_content: Content,
    recent: Vec<Content>,
    popular: Vec<Content>,
    volume_blocks: u64,
    fua_percent: u64,
    cut_one_in: u64,
    faulty: bool,
    starving: bool,
    /// Requests go to volumes other than the first, too.
    volumes: bool,
    /// Blocks that the other volumes have at most.
    others_max: u64,
}

const SWARM: [u32; 5] = [0, 1, 4, 16, 64];

impl Maker {
    fn new(setup: &Setup, rng: &mut Rng) -> Self {
        let mut weights: Vec<u32> = (0..6).map(|_| rng.pick(&SWARM)).collect();
        // Without writes there is nothing to prove; without flushes little.
        weights[0] = weights[0].max(32);
        weights[2] = weights[2].max(rng.pick(&[1, 8, 8]));
        let mut content_weights: [u32; 5] = std::array::from_fn(|_| rng.pick(&SWARM));
        content_weights[0] = content_weights[0].max(4);
        if setup.full {
            weights[0] = 64;
            weights[3] = weights[3].min(4);
            weights[4] = weights[4].min(4);
            content_weights[0] = 64;
        }
        let (mut max_bits, mut fua_percent) = (rng.between(0, 6) as u32, rng.pick(&[0, 2, 20]));
        let mut cut_one_in = rng.pick(&[40, 150, 250, 350, 450]);
        match setup.theme {
            Theme::Swarm => (),
            Theme::Scattered => weights = vec![64, 4, 4, 1, 1, 1],
            Theme::Ring => {
                (max_bits, fua_percent, cut_one_in) = (1, 90, 300);
                weights = vec![64, 1, 16, 0, 0, 0];
            }
            Theme::Reuse => {
                (max_bits, fua_percent, cut_one_in) = (2, 0, 40);
                weights = vec![64, 4, 1, 16, 0, 16];
                content_weights = [0, 64, 0, 4, 0];
            }
        }
        let usable = setup.clusters * 8 / 10;
        let total = match setup.theme {
            Theme::Reuse => rng.between(30, 90),
            _ if setup.full => usable * rng.between(90, 150) / 100,
            _ => usable / 4,
        };
        let count = if setup.sparse {
            rng.between(4, 60)
        } else {
            rng.between(1, 4)
        };
        let mut regions = Vec::new();
        for i in 0..count {
            let share = (total / count).min(setup.volume_blocks / count).max(1);
            let blocks = if setup.full {
                share
            } else {
                rng.between(share.min(64), share)
            };
            let room = setup.volume_blocks / count;
            let base = i * room + rng.below(room - blocks + 1);
            regions.push(Region {
                base,
                blocks,
                cursor: 0,
            });
        }
        Maker {
            weights,
            content_weights,
            regions,
            max_bits: match setup.theme {
                Theme::Scattered => 1,
                _ if setup.full => 6,
                _ => max_bits,
            },
            full: setup.full,
            scattered: (setup.theme == Theme::Scattered).then(Vec::new),
            next_content: 1,
            recent: Vec::new(),
            popular: (0..rng.between(if setup.theme == Theme::Reuse { 48 } else { 1 }, 64))
                .map(|i| (1 << 40) + i)
                .collect(),
            volume_blocks: setup.volume_blocks,
            fua_percent,
            cut_one_in,
            faulty: false,
            starving: false,
            volumes: setup.volumes,
            others_max: (usable / 8).max(2),
        }
    }

    fn place(&mut self, rng: &mut Rng, count: u64) -> (u64, u64) {
        if let Some(places) = self.scattered.as_mut() {
            if places.is_empty() || rng.chance(3, 4) {
                places.push(rng.below(self.volume_blocks - count));
            }
            return (rng.pick(places), count);
        }
        let n = self.regions.len() as u64;
        if self.volumes && rng.chance(1, 2) {
            let at = match rng.below(3) {
                0 => rng.below(self.others_max),
                _ => rng.below(300),
            };
            return (volume_base(rng.between(1, VOLUMES - 1)) + at, count);
        }
        // The first region is hot.
        let i = if rng.chance(1, 3) {
            0
        } else {
            rng.below(n) as usize
        };
        let region = &mut self.regions[i];
        let count = count.min(region.blocks);
        let at = match rng.below(4) {
            0 | 1 => {
                if region.cursor + count > region.blocks {
                    region.cursor = 0;
                }
                let at = region.cursor;
                region.cursor += count;
                at
            }
            2 => rng.below(region.blocks - count + 1),
            _ => rng.below((region.blocks - count + 1).min(16)),
        };
        (region.base + at, count)
    }

    fn content(&mut self, rng: &mut Rng) -> Content {
        let fresh = |m: &mut Self| {
            m.next_content += 1;
            if m.recent.len() < 4096 {
                m.recent.push(m.next_content);
            } else {
                let at = (m.next_content % 4096) as usize;
                m.recent[at] = m.next_content;
            }
            m.next_content
        };
        match rng.weighted(&self.content_weights) {
            Some(1) => rng.pick(&self.popular),
            Some(2) => ZERO,
            Some(3) if !self.recent.is_empty() => rng.pick(&self.recent),
            // A duplicate of what is likely in flight.
            Some(4) if !self.recent.is_empty() => self.next_content,
            _ => fresh(self),
        }
    }

    fn contents(&mut self, rng: &mut Rng, count: u64) -> Vec<Content> {
        let run = rng.chance(1, 3);
        if run && self.recent.len() > 64 && rng.chance(1, 4) {
            // A copy of a run that was written before.
            let at = rng.below(self.recent.len() as u64 - 63) as usize;
            return self.recent[at..at + count.min(64) as usize].to_vec();
        }
        (0..count).map(|_| self.content(rng)).collect()
    }

    fn op(&mut self, rng: &mut Rng, setup: &Setup) -> Op {
        // While things fail anyway the power fails more often: what was promised then counts too.
        let hurry = if self.faulty || self.starving { 6 } else { 1 };
        if rng.chance(hurry, self.cut_one_in) {
            self.faulty = false;
            self.starving = false;
            return self.power_cut(rng);
        }
        if rng.chance(1, 1500) {
            return Op::Detach {
                cut: rng.chance(1, 2),
            };
        }
        if rng.chance(1, 2000) {
            return Op::ReadAll;
        }
        if setup.io_faults && rng.chance(1, if self.faulty { 40 } else { 400 }) {
            self.faulty = !self.faulty;
            return if self.faulty {
                let read_ppm = rng.pick(&[0, 1000, 20_000]) as u32;
                Op::IoFaults {
                    read_ppm,
                    write_ppm: rng.pick(&[0, 300, 3000, 30_000, 200_000, 500_000]) as u32,
                }
            } else {
                Op::IoFaults {
                    read_ppm: 0,
                    write_ppm: 0,
                }
            };
        }
        if setup.alloc_faults && rng.chance(1, if self.starving { 60 } else { 300 }) {
            self.starving = !self.starving;
            let ppm = if self.starving {
                rng.pick(&[100, 2000, 30_000])
            } else {
                0
            };
            return Op::AllocFaults(ppm as u32);
        }
        if setup.rot != Rot::Nothing && rng.chance(1, 200) {
            return Op::Rot;
        }
        if self.volumes && rng.chance(1, 60) {
            return self.change(rng);
        }
        let want = rng.skewed(self.max_bits);
        match rng.weighted(&self.weights) {
            Some(1) => {
                let (lbn, count) = self.place(rng, want);
                Op::Read { lbn, count }
            }
            Some(2) => Op::Flush,
            Some(3) => self.discard(rng, want),
            Some(4) => {
                let (lbn, count) = self.place(rng, want);
                Op::WriteZeroes { lbn, count }
            }
            Some(5) => {
                let bits = if rng.chance(1, 10) { 15 } else { 8 };
                Op::Idle(match setup.theme {
                    Theme::Reuse => rng.between(50, 1500),
                    _ => rng.skewed(bits),
                })
            }
            _ => {
                let (lbn, count) = self.place(rng, want);
                let contents = self.contents(rng, count);
                Op::Write {
                    lbn,
                    contents,
                    fua: rng.chance(self.fua_percent, 100),
                }
            }
        }
    }

    fn change(&mut self, rng: &mut Rng) -> Op {
        let number = rng.below(VOLUMES);
        let blocks = match rng.below(4) {
            // Far beyond what is written, so that maps gain and lose levels.
            0 => rng.between(1, 1 << 40),
            1 => rng.between(1, 600),
            _ => rng.between(1, self.others_max),
        };
        match rng.below(6) {
            0 => Op::Remove(number),
            1 | 2 => Op::Resize { number, blocks },
            _ if number == 0 => Op::Resize {
                number,
                blocks: self.volume_blocks,
            },
            _ => Op::Create { number, blocks },
        }
    }

    fn discard(&mut self, rng: &mut Rng, want: u64) -> Op {
        // What empties the store comes rarely where it is to be full.
        let kind = if self.full && rng.chance(299, 300) {
            9
        } else {
            rng.below(20)
        };
        match kind {
            0 => Op::Discard {
                lbn: 0,
                count: self.volume_blocks,
            },
            1 | 2 => {
                // From the middle of a region far over its end.
                let (lbn, _) = self.place(rng, 1);
                let end = match lbn < volume_base(1) {
                    true => self.volume_blocks,
                    false => (lbn | (volume_base(1) - 1)) + 1,
                };
                let count = rng.skewed(40).min(end - lbn);
                Op::Discard { lbn, count }
            }
            3 | 4 => {
                let i = rng.below(self.regions.len() as u64) as usize;
                Op::Discard {
                    lbn: self.regions[i].base,
                    count: self.regions[i].blocks,
                }
            }
            _ => {
                let (lbn, count) = self.place(rng, want);
                Op::Discard { lbn, count }
            }
        }
    }

    fn power_cut(&mut self, rng: &mut Rng) -> Op {
        let loss = match rng.below(6) {
            0 => Loss::All,
            1 => Loss::None,
            2 | 3 => Loss::Clusters(rng.pick(&[10, 50, 90, 98]) as u8),
            _ => Loss::Sectors(rng.pick(&[50, 90, 98]) as u8),
        };
        let mut again = Vec::new();
        while rng.chance(1, 3) && again.len() < 4 {
            again.push(rng.skewed(8) as u32);
        }
        Op::PowerCut { loss, again }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_script_and_it_stays_inside_the_volume() {
        for seed in 0..60 {
            let s = generate(seed, 2000);
            let t = generate(seed, 2000);
            assert_eq!(s.steps.len(), t.steps.len());
            for (a, b) in s.steps.iter().zip(&t.steps) {
                assert_eq!(a.op, b.op);
                let (lbn, count) = match &a.op {
                    Op::Write { lbn, contents, .. } => (*lbn, contents.len() as u64),
                    Op::Read { lbn, count }
                    | Op::Discard { lbn, count }
                    | Op::WriteZeroes { lbn, count } => (*lbn, *count),
                    _ => continue,
                };
                let outside = lbn >= volume_base(1) && s.setup.volumes;
                assert!(
                    count > 0 && (outside || lbn + count <= s.setup.volume_blocks),
                    "{:?}",
                    a.op
                );
            }
        }
    }

    #[test]
    fn a_fifth_of_the_seeds_is_full_or_deep() {
        let hard = (0..1000).filter(|s| {
            let setup = generate(*s, 1).setup;
            setup.full || setup.sparse
        });
        assert!(hard.count() >= 200);
    }
}
