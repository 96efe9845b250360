// SPDX-License-Identifier: GPL-2.0
//! What may be found after a power cut, and whether it is.

use std::collections::HashMap;
use std::io;

use crate::stamp::plan::{describe, name, version, Kind, Plan, Version};
use crate::stamp::state::{Acknowledged, State};
use crate::stamp::target::{Aligned, Target};
use crate::stamp::BLOCK;

/// Reports of wrong blocks end after so many.
const REPORTS_MAX: usize = 20;
/// Blocks read at once.
const READ_BLOCKS: u64 = 256;

/// What a verification found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Blocks that hold what was last acknowledged as durable.
    pub durable: u64,
    /// Blocks that hold something younger.
    pub newer: u64,
    /// Blocks that hold what they must not.
    pub wrong: u64,
    /// Operations that were acknowledged as durable in the round.
    pub acknowledged: u64,
    /// A line for each of the first wrong blocks.
    pub reports: Vec<String>,
    /// The version that each block holds.
    pub versions: Vec<Version>,
}

/// The versions that a block may hold, oldest first; the first is the one that was acknowledged as
/// durable last.
struct Allowed {
    base: Vec<Version>,
    /// Only of blocks that have more than one.
    later: HashMap<u64, Vec<Version>>,
}

impl Allowed {
    fn new(plan: &Plan, round: u64, base: Vec<Version>, noted: &Acknowledged) -> Self {
        let mut allowed = Self {
            base,
            later: HashMap::new(),
        };
        // Before a round is run nothing but what it began with can be there.
        for thread in (0..plan.threads).filter(|_| noted.started) {
            let flushed = noted.flushed[thread as usize];
            let durable = noted.durable[thread as usize];
            let synced = &noted.synced[thread as usize];
            for index in 0.. {
                let operation = plan.operation(round, thread, index);
                // A thread goes on only when its flush was noted: nothing beyond the first flush
                // that was not can ever have been sent.
                let noted = flushed.is_some_and(|flushed| index <= flushed);
                if operation.kind == Kind::Flush && !noted && index >= durable {
                    break;
                }
                let is_durable = index < durable || synced.contains(&index);
                for block in operation.first..operation.first + operation.count {
                    allowed.add(block, version(round, index), is_durable);
                }
            }
        }
        allowed
    }

    fn add(&mut self, block: u64, version: Version, is_durable: bool) {
        if is_durable {
            self.base[block as usize] = version;
            self.later.remove(&block);
        } else {
            self.later.entry(block).or_default().push(version);
        }
    }

    fn later(&self, block: u64) -> &[Version] {
        self.later.get(&block).map_or(&[], Vec::as_slice)
    }
}

/// Compares `target` with what the current round of `state` allows.
///
/// With `torn_sectors` each sector of 512 bytes may be of another allowed version, which is what a disk
/// promises that has no atomic writes of whole blocks.
pub fn verify(target: &dyn Target, state: &State, torn_sectors: bool) -> io::Result<Verdict> {
    let plan = &state.plan;
    let noted = state.acknowledged()?;
    let mut verdict = Verdict {
        acknowledged: noted.durable.iter().sum(),
        ..Verdict::default()
    };
    let allowed = Allowed::new(plan, state.round, state.versions()?, &noted);
    let mut buffer = Aligned::new(READ_BLOCKS as usize * BLOCK);
    let mut expected = vec![0; BLOCK];
    let mut first = 0;
    while first < plan.blocks {
        let count = READ_BLOCKS.min(plan.blocks - first);
        if count < READ_BLOCKS {
            buffer = Aligned::new(count as usize * BLOCK);
        }
        target.read(first, &mut buffer)?;
        for (block, found) in (first..first + count).zip(buffer.chunks_exact(BLOCK)) {
            let base = allowed.base[block as usize];
            let later = allowed.later(block);
            let candidates = || later.iter().rev().copied().chain([base]);
            let whole = candidates().find(|&version| {
                plan.content(block, version, &mut expected);
                expected == found
            });
            match whole {
                Some(version) => {
                    if version == base {
                        verdict.durable += 1;
                    } else {
                        verdict.newer += 1;
                    }
                    verdict.versions.push(version);
                }
                None if torn_sectors && sectors_are_allowed(plan, block, found, candidates()) => {
                    verdict.newer += 1;
                    // Made whole before the next round begins.
                    verdict.versions.push(Version::MAX);
                }
                None => {
                    verdict.wrong += 1;
                    verdict.versions.push(base);
                    if verdict.reports.len() < REPORTS_MAX {
                        verdict.reports.push(report(block, found, base, later));
                    }
                }
            }
        }
        first += count;
    }
    Ok(verdict)
}

fn sectors_are_allowed(
    plan: &Plan,
    block: u64,
    found: &[u8],
    candidates: impl Iterator<Item = Version>,
) -> bool {
    let mut left: Vec<usize> = (0..BLOCK).step_by(512).collect();
    let mut expected = vec![0; BLOCK];
    for version in candidates {
        plan.content(block, version, &mut expected);
        left.retain(|&at| expected[at..at + 512] != found[at..at + 512]);
    }
    left.is_empty()
}

fn report(block: u64, found: &[u8], base: Version, later: &[Version]) -> String {
    let mut line = format!(
        "block {block}: holds {}; durable is {}",
        describe(found),
        name(base)
    );
    if let (Some(first), Some(last)) = (later.first(), later.last()) {
        line += &format!(
            ", and {} later ones may be there, {} to {}",
            later.len(),
            name(*first),
            name(*last)
        );
    }
    line
}

/// Makes the target whole and durable as `verdict` found it, and begins the next round from there.
/// Returns the blocks that were torn and are made zeroes.
pub fn begin_next(
    target: &dyn Target,
    state: &mut State,
    verdict: &mut Verdict,
) -> io::Result<u64> {
    let mut torn = 0;
    for (block, version) in (0..).zip(&mut verdict.versions) {
        if *version == Version::MAX {
            target.write(block, &Aligned::new(BLOCK), false)?;
            *version = 0;
            torn += 1;
        }
    }
    for thread in 0..state.plan.threads {
        target.flush(thread)?;
    }
    state.begin(state.round + 1, &verdict.versions)?;
    Ok(torn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, DiskOptions};
    use crate::scratch::Scratch;
    use crate::stamp::run::run;
    use std::sync::Mutex;
    use std::time::Duration;

    fn plan(seed: u64, duplicates: u32) -> Plan {
        Plan {
            seed,
            blocks: 1024,
            threads: 4,
            duplicates,
            classes: 50,
            length: 16,
            flushes: 5,
            discards: true,
        }
    }

    /// A disk, and the operations that it still does until the power fails in the middle of what
    /// threads do.
    struct Memory {
        disk: Mutex<(Disk<Vec<u8>>, u64)>,
    }

    impl Memory {
        fn new(seed: u64, ignore_flush: bool) -> Self {
            let size = 1024 * BLOCK as u64;
            let mut options = DiskOptions::new(size, seed);
            options.ignore_flush = ignore_flush;
            options.cache_bytes = 2 << 20;
            let disk = Disk::new(vec![0; size as usize], options);
            Self {
                disk: Mutex::new((disk, u64::MAX)),
            }
        }

        fn with<T>(
            &self,
            action: impl FnOnce(&mut Disk<Vec<u8>>) -> io::Result<T>,
        ) -> io::Result<T> {
            let mut guard = self.disk.lock().unwrap();
            if guard.1 == 0 {
                return Err(io::Error::other("no power"));
            }
            let result = action(&mut guard.0);
            guard.1 -= 1;
            if guard.1 == 0 {
                guard.0.cut()?;
            }
            result
        }

        fn power(&self, operations: u64) {
            self.disk.lock().unwrap().1 = operations;
        }
    }

    impl Target for Memory {
        fn read(&self, block: u64, out: &mut Aligned) -> io::Result<()> {
            self.with(|disk| disk.read(block * BLOCK as u64, out))
        }
        fn write(&self, block: u64, data: &Aligned, sync: bool) -> io::Result<()> {
            self.with(|disk| disk.write(block * BLOCK as u64, data, sync))
        }
        fn zero(&self, block: u64, count: u64) -> io::Result<()> {
            let (offset, len) = (block * BLOCK as u64, count * BLOCK as u64);
            self.with(|disk| disk.write_zeroes(offset, len, false))
        }
        fn discard(&self, block: u64, count: u64) -> io::Result<()> {
            self.with(|disk| disk.trim(block * BLOCK as u64, count * BLOCK as u64, false))
        }
        fn flush(&self, _: u64) -> io::Result<()> {
            self.with(Disk::flush)
        }
        fn flush_is_for_all(&self) -> bool {
            true
        }
    }

    /// Rounds of work and cuts; returns the wrong blocks of the first round that has any.
    fn rounds(seed: u64, ignore_flush: bool) -> u64 {
        let scratch = Scratch::new("stamp-rounds");
        let path = scratch.path("state");
        State::create(&path, plan(seed, 30)).unwrap();
        let memory = Memory::new(seed, ignore_flush);
        let mut acknowledged = 0;
        for round in 0..6 {
            let mut state = State::open(&path).unwrap();
            assert_eq!(state.round, round);
            memory.power(400 + seed * 67 % 500);
            run(&memory, &state, None).unwrap_err();
            memory.power(u64::MAX);
            let again = run(&memory, &state, None).unwrap_err().to_string();
            assert!(again.contains("verify"), "{again}");
            let mut verdict = verify(&memory, &state, true).unwrap();
            if verdict.wrong > 0 {
                assert!(!verdict.reports.is_empty());
                return verdict.wrong;
            }
            acknowledged += verdict.acknowledged;
            begin_next(&memory, &mut state, &mut verdict).unwrap();
        }
        assert!(acknowledged > 0, "nothing was acknowledged");
        0
    }

    #[test]
    fn an_honest_disk_passes() {
        for seed in 0..6 {
            assert_eq!(rounds(seed, false), 0, "seed {seed}");
        }
    }

    #[test]
    fn a_disk_that_ignores_flushes_is_caught() {
        for seed in 0..4 {
            assert!(rounds(seed, true) > 0, "seed {seed}");
        }
    }

    /// One thread's operations, done by hand, with damage of one kind each.
    #[test]
    fn each_kind_of_damage_is_found() {
        let scratch = Scratch::new("stamp-damage");
        let path = scratch.path("state");
        let mut one = plan(5, 0);
        (one.threads, one.discards) = (1, false);
        let mut state = State::create(&path, one.clone()).unwrap();
        let memory = Memory::new(1, false);
        run(&memory, &state, Some(Duration::from_secs(1))).unwrap();
        let mut verdict = verify(&memory, &state, false).unwrap();
        assert_eq!(verdict.wrong, 0, "{:?}", verdict.reports);
        begin_next(&memory, &mut state, &mut verdict).unwrap();
        let at = |wanted: fn(u64) -> bool| {
            let mut blocks = (0..).zip(&verdict.versions);
            blocks.find(|(_, &v)| wanted(v)).unwrap().0
        };
        let written = at(|version| version != 0);
        let block_of = |number| {
            let mut out = Aligned::new(BLOCK);
            memory.read(number, &mut out).unwrap();
            out
        };
        let good = block_of(written);
        let foreign = {
            let mut out = Aligned::new(BLOCK);
            one.content_of(Kind::Write, written + 1, version(0, 3), &mut out);
            out
        };
        let torn = {
            let mut out = Aligned::new(BLOCK);
            out.copy_from_slice(&good);
            out[1024..1536].fill(0x55);
            out
        };
        let future = {
            let mut out = Aligned::new(BLOCK);
            one.content_of(Kind::Write, written, version(0, 1 << 30), &mut out);
            out
        };
        for (damage, what) in [
            (Aligned::new(BLOCK), "zeroes"),
            (foreign, "another block's data"),
            (torn, "a torn block"),
            (future, "what was never written"),
        ] {
            memory.write(written, &damage, false).unwrap();
            let verdict = verify(&memory, &state, true).unwrap();
            assert_eq!(verdict.wrong, 1, "{what}: {:?}", verdict.reports);
            assert!(verdict.reports[0].contains(&format!("block {written}: ")));
        }
        memory.write(written, &good, false).unwrap();
        assert_eq!(verify(&memory, &state, false).unwrap().wrong, 0);
    }

    #[test]
    fn notes_bound_what_is_allowed() {
        let mut one = plan(9, 0);
        one.threads = 1;
        let first_flush = (0..)
            .find(|&index| one.operation(0, 0, index).kind == Kind::Flush)
            .unwrap();
        let noted = |durable, flushed, synced: &[u64]| Acknowledged {
            started: true,
            durable: vec![durable],
            flushed: vec![flushed],
            synced: vec![synced.to_vec()],
        };
        let none = Allowed::new(&one, 0, vec![0; 1024], &noted(0, None, &[]));
        assert!(none.base.iter().all(|&version| version == 0));
        let top = none.later.values().flatten().max().unwrap();
        assert!(*top <= version(0, first_flush));
        let one_flush = noted(first_flush, Some(first_flush), &[]);
        let all = Allowed::new(&one, 0, vec![0; 1024], &one_flush);
        assert!(all.base.iter().any(|&version| version != 0));
        assert!(all
            .later
            .values()
            .flatten()
            .all(|&v| v > version(0, first_flush)));
        let last = all.later.values().flatten().max().unwrap() - 1;
        let synced = Allowed::new(&one, 0, vec![0; 1024], &noted(0, None, &[1]));
        let operation = one.operation(0, 0, 1);
        assert_ne!(operation.kind, Kind::Flush);
        assert_eq!(synced.base[operation.first as usize], version(0, 1));
        assert!(last > first_flush);
    }
}
