// SPDX-License-Identifier: GPL-2.0

//! Runs many seeds on all processors and turns a panic into a failure like any other.

use crate::port::Store;
use crate::report::Totals;
use crate::script::Script;
use crate::world::{self, Failure};
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once};

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the text and place of a panic of the store for the report, instead of printing it.
fn catch_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let former = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let here = PANIC.with(|p| p.borrow().is_some());
            if here {
                PANIC.with(|p| *p.borrow_mut() = Some(info.to_string()));
            } else {
                former(info);
            }
        }));
    });
}

/// Runs one script.
pub fn run<S: Store>(script: &Script, verbose: bool) -> (Totals, Result<(), Failure>) {
    catch_panics();
    PANIC.with(|p| *p.borrow_mut() = Some(String::new()));
    let step = AtomicU64::new(0);
    let result = panic::catch_unwind(AssertUnwindSafe(|| world::run::<S>(script, verbose, &step)));
    kernel::fail_alloc::set(None);
    let text = PANIC.with(|p| p.borrow_mut().take()).unwrap_or_default();
    result.unwrap_or_else(|_| {
        let step = step.load(Ordering::Relaxed) as usize;
        (Totals::default(), Err(Failure { what: text, step }))
    })
}

/// One seed's end.
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What it did.
    pub totals: Totals,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

/// Runs all `seeds` with `threads` threads; stops early after `failures_max` failures. Outcomes
/// come in the order of their seeds.
pub fn run_all(
    seeds: std::ops::Range<u64>,
    threads: usize,
    failures_max: usize,
    one: &(dyn Fn(u64) -> (Totals, Result<(), Failure>) + Sync),
    progress: &(dyn Fn(usize) + Sync),
) -> Vec<Outcome> {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let (totals, result) = one(seed);
                    let Ok(mut all) = outcomes.lock() else { return };
                    all.push(Outcome {
                        seed,
                        totals,
                        failure: result.err(),
                    });
                    let failed = all
                        .iter()
                        .filter(|o: &&Outcome| o.failure.is_some())
                        .count();
                    if failed >= failures_max {
                        stop.store(true, Ordering::Relaxed);
                    }
                    progress(all.len());
                }
            });
        }
    });
    let mut all = outcomes.into_inner().unwrap_or_default();
    all.sort_by_key(|o| o.seed);
    all
}
