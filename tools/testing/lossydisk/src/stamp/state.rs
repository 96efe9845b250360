// SPDX-License-Identifier: GPL-2.0
//! What a workload writes down, in a file or on a disk that loses nothing that was acknowledged: not
//! on the one under test. (A machine that is killed loses no such write; no flush is sent for notes.)
//!
//! Two copies of the head (the newest valid one counts), then two slots, used by rounds in turn. A slot
//! holds the version of each block when the round began, and a record for each thread: how far
//! each thread's operations were durable when this thread's last flush was acknowledged.

use std::io;
use std::path::Path;

use crate::rng::mix;
use crate::stamp::plan::{Plan, Version};
use crate::stamp::target::{Aligned, Direct};
use crate::stamp::BLOCK;

const MAGIC: u64 = 0x6574_6174_7370_6d74;
/// Words of a head or record: one block.
const WORDS: usize = BLOCK / 8;
/// Records list at most so many synchronous writes; a flush empties the list.
pub const SYNCED_MAX: usize = 256;
/// A head takes one block each.
const HEADS: u64 = 2;

/// What was acknowledged as durable in a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// Whether the round was run at all.
    pub started: bool,
    /// By thread: all operations below this index are durable.
    pub durable: Vec<u64>,
    /// By thread: the index of its own last flush that was acknowledged and noted.
    pub flushed: Vec<Option<u64>>,
    /// By thread: single writes above `durable` that are durable too.
    pub synced: Vec<Vec<u64>>,
}

/// The place where the state is kept.
pub struct State {
    file: Direct,
    /// What the workload is.
    pub plan: Plan,
    /// The current round.
    pub round: u64,
}

impl State {
    /// Bytes that the state of `plan` takes.
    pub fn bytes(plan: &Plan) -> u64 {
        HEADS * BLOCK as u64 + 2 * Self::slot_bytes(plan)
    }

    fn map_bytes(plan: &Plan) -> u64 {
        (plan.blocks * 8).next_multiple_of(BLOCK as u64)
    }

    fn slot_bytes(plan: &Plan) -> u64 {
        Self::map_bytes(plan) + plan.threads * BLOCK as u64
    }

    fn slot(&self, round: u64) -> u64 {
        HEADS * BLOCK as u64 + round % 2 * Self::slot_bytes(&self.plan)
    }

    fn record_at(&self, round: u64, thread: u64) -> u64 {
        self.slot(round) + Self::map_bytes(&self.plan) + thread * BLOCK as u64
    }

    /// Starts a workload on a target of zeroes: round 0.
    pub fn create(path: &Path, plan: Plan) -> io::Result<Self> {
        plan.check().map_err(io::Error::other)?;
        let need = Self::bytes(&plan);
        let file = Direct::open(path, Some(need))?;
        if file.size() < need {
            return Err(io::Error::other(format!(
                "{} bytes, and the state of this workload takes {need}",
                file.size()
            )));
        }
        file.write(0, &Aligned::new(HEADS as usize * BLOCK))?;
        let round = 0;
        let mut state = Self { file, plan, round };
        let versions = vec![0; state.plan.blocks as usize];
        state.begin(0, &versions)?;
        Ok(state)
    }

    /// Continues a workload.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = Direct::open(path, None)?;
        let mut newest: Option<(u64, Plan)> = None;
        for head in 0..HEADS {
            let Some(words) = read_words(&file, head * BLOCK as u64)? else {
                continue;
            };
            let plan = Plan {
                seed: words[2],
                blocks: words[3],
                threads: words[4],
                duplicates: words[5] as u32,
                classes: words[6],
                length: words[7],
                flushes: words[8] as u32,
                discards: words[9] != 0,
            };
            if newest.as_ref().is_none_or(|(round, _)| *round < words[1]) {
                newest = Some((words[1], plan));
            }
        }
        let (round, plan) =
            newest.ok_or_else(|| io::Error::other("it holds no state: run 'stamp init' first"))?;
        plan.check().map_err(io::Error::other)?;
        Ok(Self { file, plan, round })
    }

    /// Begins `round`, in which each block starts with its version in `versions`.
    pub fn begin(&mut self, round: u64, versions: &[Version]) -> io::Result<()> {
        let mut bytes = Aligned::new(Self::map_bytes(&self.plan) as usize);
        for (place, version) in bytes.chunks_exact_mut(8).zip(versions) {
            place.copy_from_slice(&version.to_le_bytes());
        }
        self.file.write(self.slot(round), &bytes)?;
        for thread in 0..self.plan.threads {
            self.file
                .write(self.record_at(round, thread), &Aligned::new(BLOCK))?;
        }
        self.file.sync()?;
        let plan = &self.plan;
        let mut words = [0; WORDS];
        words[..10].copy_from_slice(&[
            MAGIC,
            round,
            plan.seed,
            plan.blocks,
            plan.threads,
            u64::from(plan.duplicates),
            plan.classes,
            plan.length,
            u64::from(plan.flushes),
            u64::from(plan.discards),
        ]);
        write_words(&self.file, &mut words, round % HEADS * BLOCK as u64)?;
        self.file.sync()?;
        self.round = round;
        Ok(())
    }

    /// The version of each block when the current round began.
    pub fn versions(&self) -> io::Result<Vec<Version>> {
        let mut bytes = Aligned::new(Self::map_bytes(&self.plan) as usize);
        self.file.read(self.slot(self.round), &mut bytes)?;
        let versions = bytes.chunks_exact(8).map(word);
        Ok(versions.take(self.plan.blocks as usize).collect())
    }

    /// Notes that a flush of `thread`, its operation `index`, was acknowledged: of each thread the
    /// operations below `durable` are durable. On return this is safe.
    pub fn note_flush(&self, thread: u64, index: u64, durable: &[u64]) -> io::Result<()> {
        self.note(thread, index + 1, durable, &[])
    }

    /// Notes in the same record that the writes `synced` of `thread` are durable, beyond what its last
    /// flush (`flushed`: index + 1, 0 for none; `durable`) made so.
    pub fn note(
        &self,
        thread: u64,
        flushed: u64,
        durable: &[u64],
        synced: &[u64],
    ) -> io::Result<()> {
        let mut words = [0; WORDS];
        let synced = &synced[synced.len().saturating_sub(SYNCED_MAX)..];
        words[..4].copy_from_slice(&[MAGIC, self.round, flushed, synced.len() as u64]);
        words[4..4 + synced.len()].copy_from_slice(synced);
        let at = 4 + SYNCED_MAX;
        words[at..at + durable.len()].copy_from_slice(durable);
        write_words(&self.file, &mut words, self.record_at(self.round, thread))
    }

    /// What was noted in the current round.
    pub fn acknowledged(&self) -> io::Result<Acknowledged> {
        let threads = self.plan.threads as usize;
        let mut out = Acknowledged {
            started: false,
            durable: vec![0; threads],
            flushed: vec![None; threads],
            synced: vec![Vec::new(); threads],
        };
        for thread in 0..threads {
            let Some(words) = read_words(&self.file, self.record_at(self.round, thread as u64))?
            else {
                continue;
            };
            if words[1] != self.round {
                continue;
            }
            out.started = true;
            out.flushed[thread] = words[2].checked_sub(1);
            out.synced[thread] = words[4..4 + (words[3] as usize).min(SYNCED_MAX)].to_vec();
            let durable = &words[4 + SYNCED_MAX..];
            for (known, noted) in out.durable.iter_mut().zip(durable) {
                *known = (*known).max(*noted);
            }
        }
        Ok(out)
    }
}

fn word(bytes: &[u8]) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(bytes);
    u64::from_le_bytes(out)
}

fn checksum(words: &[u64]) -> u64 {
    words[..WORDS - 1]
        .iter()
        .fold(0, |sum, word| mix(sum ^ word).wrapping_add(1))
}

fn write_words(file: &Direct, words: &mut [u64; WORDS], at: u64) -> io::Result<()> {
    words[WORDS - 1] = checksum(words);
    let mut bytes = Aligned::new(BLOCK);
    for (place, word) in bytes.chunks_exact_mut(8).zip(words.iter()) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    file.write(at, &bytes)
}

/// A block of words; `None` if it is not a valid one.
fn read_words(file: &Direct, at: u64) -> io::Result<Option<Vec<u64>>> {
    let mut bytes = Aligned::new(BLOCK);
    file.read(at, &mut bytes)?;
    let words: Vec<u64> = bytes.chunks_exact(8).map(word).collect();
    Ok((words[0] == MAGIC && words[WORDS - 1] == checksum(&words)).then_some(words))
}
