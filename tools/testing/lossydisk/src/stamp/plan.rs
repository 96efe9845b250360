// SPDX-License-Identifier: GPL-2.0
//! Which operations a workload does, and what each block holds after each: all from a seed.

use crate::rng::{mix, Rng};

/// Blocks that belong to one thread in a row; no operation crosses their border.
const STRIPE: u64 = 64;
/// The first word of each stamped sector.
const STAMP_MAGIC: u64 = 0x7473_6b63_6f6c_6273;
const SECTOR: usize = 512;
/// Bits of a version below the round.
const INDEX_BITS: u32 = 40;

/// A version of a block: which operation of which round wrote it. 0 is what was there at first: zeroes.
pub type Version = u64;

/// The version that operation `index` of `round` writes.
pub fn version(round: u64, index: u64) -> Version {
    round << INDEX_BITS | (index + 1)
}

/// A version in words.
pub fn name(version: Version) -> String {
    match version & ((1 << INDEX_BITS) - 1) {
        0 => "the zeroes of the start".into(),
        index => format!("round {} operation {}", version >> INDEX_BITS, index - 1),
    }
}

/// What a workload is made of. Equal plans do equal operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where all chance comes from.
    pub seed: u64,
    /// Blocks of the target that it uses.
    pub blocks: u64,
    /// Threads, each with blocks of its own.
    pub threads: u64,
    /// Of 100 written blocks so many have content that others have too.
    pub duplicates: u32,
    /// Different contents among the duplicates.
    pub classes: u64,
    /// The longest operation in blocks, 1 to 64.
    pub length: u64,
    /// Of 100 operations so many are a flush.
    pub flushes: u32,
    /// Whether to use DISCARD and WRITE_ZEROES.
    pub discards: bool,
}

/// What an operation does to its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Writes a version.
    Write,
    /// Writes a version that is durable when it is acknowledged.
    WriteSync,
    /// Makes zeroes.
    Zero,
    /// Discards; what is discarded reads as zeroes.
    Discard,
    /// Makes what was acknowledged durable; has no blocks.
    Flush,
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What it does.
    pub kind: Kind,
    /// The first of its blocks.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl Plan {
    /// Refuses what makes no sense.
    pub fn check(&self) -> Result<(), String> {
        let stripes = self.blocks / STRIPE;
        match () {
            () if !(1..=64).contains(&self.threads) => {
                Err(format!("{} threads: expected 1 to 64", self.threads))
            }
            () if stripes < self.threads => Err(format!(
                "{} blocks: each of the {} threads needs {STRIPE}",
                self.blocks, self.threads
            )),
            () if !(1..=STRIPE).contains(&self.length) => Err(format!(
                "operations of {} blocks: expected 1 to {STRIPE}",
                self.length
            )),
            () if self.duplicates > 100 => Err(format!("{} % duplicates", self.duplicates)),
            () if !(1..=50).contains(&self.flushes) => Err(format!(
                "{} % flushes: expected 1 to 50, else nothing is ever durable, or nothing is lost",
                self.flushes
            )),
            () if self.classes == 0 => Err("0 different duplicates".into()),
            () => Ok(()),
        }
    }

    /// The thread that alone writes `block`; `None` for the rest at the end that no thread uses.
    pub fn thread(&self, block: u64) -> Option<u64> {
        let stripe = block / STRIPE;
        let per_thread = self.blocks / STRIPE / self.threads;
        (stripe < per_thread * self.threads).then_some(stripe % self.threads)
    }

    /// Operation `index` of `thread` in `round`.
    pub fn operation(&self, round: u64, thread: u64, index: u64) -> Operation {
        let mut rng =
            Rng::new(self.seed).fork(mix(version(round, index)) ^ thread.wrapping_mul(0x9e37_79b9));
        let roll = rng.below(100);
        let kind = match roll {
            // Every other round flushes rarely, and has much to lose.
            _ if rng.chance(self.flushes) && (round % 2 == 0 || rng.chance(20)) => Kind::Flush,
            0 if round % 2 == 0 => Kind::WriteSync,
            5..=9 if self.discards => Kind::Discard,
            10..=12 if self.discards => Kind::Zero,
            _ => Kind::Write,
        };
        if kind == Kind::Flush {
            let (first, count) = (0, 0);
            return Operation { kind, first, count };
        }
        let mut stripes = self.blocks / STRIPE / self.threads;
        // Half of the operations fall on few blocks, so that versions follow each other closely.
        if rng.chance(50) {
            stripes = stripes.div_ceil(32);
        }
        let count = match rng.below(3) {
            0 => 1,
            _ => 1 + rng.below(self.length),
        };
        let within = rng.below(STRIPE - count + 1);
        let stripe = rng.below(stripes) * self.threads + thread;
        Operation {
            kind,
            first: stripe * STRIPE + within,
            count,
        }
    }

    /// Fills `out`, a block, with what `version` of `block` holds.
    pub fn content(&self, block: u64, version: Version, out: &mut [u8]) {
        let index = version & ((1 << INDEX_BITS) - 1);
        if index == 0 {
            return out.fill(0);
        }
        let thread = self.thread(block).unwrap_or(0);
        let operation = self.operation(version >> INDEX_BITS, thread, index - 1);
        self.content_of(operation.kind, block, version, out);
    }

    /// As [`Plan::content`], where the operation that made the version is known.
    pub fn content_of(&self, kind: Kind, block: u64, version: Version, out: &mut [u8]) {
        if matches!(kind, Kind::Zero | Kind::Discard) {
            return out.fill(0);
        }
        let mut rng = Rng::new(self.seed).fork(mix(version) ^ mix(!block));
        if !rng.chance(self.duplicates) {
            return stamp(self.seed, block, version, out);
        }
        match rng.below(self.classes) {
            0 => out.fill(0),
            class => stamp(self.seed, u64::MAX, class, out),
        }
    }
}

fn stamp(seed: u64, block: u64, version: Version, out: &mut [u8]) {
    for (index, sector) in out.chunks_exact_mut(SECTOR).enumerate() {
        let words = [STAMP_MAGIC, block, version, index as u64];
        for (place, word) in sector.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        Rng::new(mix(seed ^ mix(block)) ^ mix(version ^ (index as u64) << 56))
            .fill(&mut sector[32..]);
    }
}

/// Says what `data`, a block or sector, looks like, for a report.
pub fn describe(data: &[u8]) -> String {
    if data.iter().all(|&byte| byte == 0) {
        return "zeroes".into();
    }
    let mut parts: Vec<String> = Vec::new();
    for sector in data.chunks_exact(SECTOR) {
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&sector[at * 8..at * 8 + 8]);
            u64::from_le_bytes(bytes)
        };
        let part = match (word(0), word(1)) {
            (STAMP_MAGIC, u64::MAX) => format!("duplicate content {}", word(2)),
            (STAMP_MAGIC, block) => format!("block {block} of {}", name(word(2))),
            _ if sector.iter().all(|&byte| byte == 0) => "zeroes".into(),
            (first, _) => format!("unknown bytes {first:#018x}"),
        };
        if parts.last() != Some(&part) {
            parts.push(part);
        }
    }
    parts.join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::BLOCK;
    use std::collections::{HashMap, HashSet};

    pub(crate) fn plan(seed: u64) -> Plan {
        Plan {
            seed,
            blocks: 2048 + 17,
            threads: 3,
            duplicates: 40,
            classes: 20,
            length: 16,
            flushes: 5,
            discards: true,
        }
    }

    #[test]
    fn threads_keep_to_their_own_blocks() {
        let plan = plan(1);
        let mut kinds = HashSet::new();
        for thread in 0..plan.threads {
            for index in 0..2000 {
                let operation = plan.operation(2, thread, index);
                kinds.insert(format!("{:?}", operation.kind));
                assert_eq!(operation.count == 0, operation.kind == Kind::Flush);
                for block in operation.first..operation.first + operation.count {
                    assert_eq!(plan.thread(block), Some(thread));
                }
            }
        }
        assert_eq!(kinds.len(), 5, "{kinds:?}");
    }

    #[test]
    fn content_is_shared_as_often_as_planned_and_else_unique() {
        let plan = plan(1);
        let mut seen: HashMap<Vec<u8>, u32> = HashMap::new();
        for index in 0..1000 {
            let mut block = vec![0; BLOCK];
            plan.content_of(Kind::Write, index, version(1, index), &mut block);
            *seen.entry(block).or_default() += 1;
        }
        let shared: u32 = seen.values().filter(|&&count| count > 1).sum();
        assert!((350..450).contains(&shared), "{shared} of 1000");
        assert!(seen.contains_key(&vec![0; BLOCK]));
    }

    #[test]
    fn reports_tell_whose_data_it_is() {
        let mut plan = plan(1);
        plan.duplicates = 0;
        let mut block = vec![0; BLOCK];
        plan.content_of(Kind::Write, 7, version(2, 5), &mut block);
        assert_eq!(describe(&block), "block 7 of round 2 operation 5");
        block[SECTOR..2 * SECTOR].fill(0);
        assert_eq!(describe(&block).matches(" | ").count(), 2);
        assert_eq!(describe(&[0; BLOCK]), "zeroes");
    }

    #[test]
    fn senseless_plans_are_refused() {
        type Change = fn(&mut Plan);
        let changes: [Change; 5] = [
            |plan| plan.threads = 0,
            |plan| plan.blocks = 100,
            |plan| plan.length = 65,
            |plan| plan.flushes = 0,
            |plan| plan.classes = 0,
        ];
        assert_eq!(plan(1).check(), Ok(()));
        for change in changes {
            let mut plan = plan(1);
            change(&mut plan);
            assert!(plan.check().is_err(), "{plan:?}");
        }
    }
}
