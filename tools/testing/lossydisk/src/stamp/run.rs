// SPDX-License-Identifier: GPL-2.0
//! Doing the operations of a round, until the power fails.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::stamp::plan::{version, Kind, Plan};
use crate::stamp::state::{State, SYNCED_MAX};
use crate::stamp::target::{Aligned, Target};
use crate::stamp::BLOCK;

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Operations that completed.
    pub operations: u64,
    /// Flushes among them.
    pub flushes: u64,
}

/// Runs the current round of `state` on `target`, for `time` or until an operation fails. A round is
/// run once: afterwards comes [`crate::stamp::verify`].
pub fn run(target: &dyn Target, state: &State, time: Option<Duration>) -> io::Result<Done> {
    if state.acknowledged()?.started {
        return Err(io::Error::other(format!(
            "round {} was run before: run 'stamp verify' first",
            state.round
        )));
    }
    let nothing = vec![0; state.plan.threads as usize];
    state.note(0, 0, &nothing, &[])?;
    let shared = Shared {
        target,
        state,
        until: time.map(|time| Instant::now() + time),
        completed: (0..state.plan.threads).map(|_| AtomicU64::new(0)).collect(),
        flushes: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let results = thread::scope(|scope| {
        let threads: Vec<_> = (0..state.plan.threads)
            .map(|thread| {
                let shared = &shared;
                scope.spawn(move || {
                    let result = shared.work(thread);
                    shared.stop.store(true, Ordering::Relaxed);
                    result
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                let died = |_| Err(io::Error::other("a thread panicked"));
                thread.join().unwrap_or_else(died)
            })
            .collect::<Vec<_>>()
    });
    for result in results {
        result?;
    }
    let operations = shared.completed.iter().map(|c| c.load(Ordering::Relaxed));
    Ok(Done {
        operations: operations.sum(),
        flushes: shared.flushes.load(Ordering::Relaxed),
    })
}

struct Shared<'a> {
    target: &'a dyn Target,
    state: &'a State,
    until: Option<Instant>,
    /// By thread: operations that were acknowledged.
    completed: Vec<AtomicU64>,
    flushes: AtomicU64,
    stop: AtomicBool,
}

impl Shared<'_> {
    fn work(&self, thread: u64) -> io::Result<()> {
        let plan: &Plan = &self.state.plan;
        let round = self.state.round;
        let mut flushed = 0;
        let mut durable = vec![0; plan.threads as usize];
        let mut synced = Vec::new();
        for index in 0.. {
            let over = self.until.is_some_and(|until| Instant::now() >= until);
            if over || self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let operation = plan.operation(round, thread, index);
            let (first, count) = (operation.first, operation.count);
            let failed = |error: io::Error| {
                io::Error::new(
                    error.kind(),
                    format!(
                        "round {round} thread {thread} operation {index}, {:?} of {count} blocks at {first}: {error}",
                        operation.kind
                    ),
                )
            };
            match operation.kind {
                Kind::Write | Kind::WriteSync => {
                    let mut data = Aligned::new(count as usize * BLOCK);
                    for (block, out) in (first..).zip(data.chunks_exact_mut(BLOCK)) {
                        plan.content_of(operation.kind, block, version(round, index), out);
                    }
                    let sync = operation.kind == Kind::WriteSync;
                    self.target.write(first, &data, sync).map_err(failed)?;
                    if sync {
                        synced.push(index);
                        if synced.len() > SYNCED_MAX {
                            synced.remove(0);
                        }
                        self.state.note(thread, flushed, &durable, &synced)?;
                    }
                }
                Kind::Zero => self.target.zero(first, count).map_err(failed)?,
                Kind::Discard => self.target.discard(first, count).map_err(failed)?,
                Kind::Flush => {
                    // What was acknowledged before the flush is sent is what it must cover.
                    let before: Vec<u64> = if self.target.flush_is_for_all() {
                        let completed = self.completed.iter();
                        completed
                            .map(|count| count.load(Ordering::Acquire))
                            .collect()
                    } else {
                        let mut own = durable.clone();
                        own[thread as usize] = index;
                        own
                    };
                    self.target.flush(thread).map_err(failed)?;
                    durable = before;
                    flushed = index + 1;
                    synced.clear();
                    self.state.note_flush(thread, index, &durable)?;
                    self.flushes.fetch_add(1, Ordering::Relaxed);
                }
            }
            self.completed[thread as usize].store(index + 1, Ordering::Release);
        }
        Ok(())
    }
}
