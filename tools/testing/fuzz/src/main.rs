// SPDX-License-Identifier: GPL-2.0

//! `fuzz`: feeds damaged bytes to every parser of the disk format.
//!
//! Each iteration follows from its number, so a finding is reproduced by naming it. There is no
//! feedback from the code that runs; instead the engine is given a checksum that is always right,
//! so that every damage reaches the code behind it.

mod hostile;
mod mutate;
mod protocol;
mod target;

use clap::Parser;
use ddup_sim::rng::Rng;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use target::{Corpus, TARGETS};

#[derive(Parser)]
#[command(about = "Feeds damaged bytes to every parser of the disk format")]
struct Arguments {
    /// For so many seconds in all
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only this target: superblock, page, journal or store
    #[arg(long)]
    target: Option<String>,
    /// Begin with this iteration; a run without it goes on where the clock says
    #[arg(long)]
    from: Option<u64>,
    /// Only this iteration
    #[arg(long)]
    only: Option<u64>,
    /// Iterations at once
    #[arg(long)]
    threads: Option<usize>,
}

/// Iterations that found something once: they come first in every run.
const REGRESSIONS: &str = include_str!("../corpus/regressions");

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn attempt(target: &str, corpus: &Corpus, iteration: u64) -> Result<(), String> {
    let mut rng = Rng::new(iteration);
    PANIC.with(|p| *p.borrow_mut() = Some(String::new()));
    let run = || target::run(target, corpus, &mut rng);
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    kernel::fail_alloc::set(None);
    let text = PANIC.with(|p| p.borrow_mut().take()).unwrap_or_default();
    let result = result.unwrap_or(Err(text));
    result.map_err(|e| {
        format!(
            "{target} iteration {iteration}: {e}\n    make fuzz TARGET={target} ONLY={iteration}"
        )
    })
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let former = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if PANIC.with(|p| p.borrow().is_some()) {
            PANIC.with(|p| *p.borrow_mut() = Some(info.to_string()));
        } else {
            former(info);
        }
    }));
    let first = arguments.from.unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |d| d.as_secs() << 20)
    });
    let targets: Vec<&str> = match &arguments.target {
        Some(one) => vec![one.as_str()],
        None => TARGETS.to_vec(),
    };
    let corpora = || Corpus::new().map_err(|e| println!("no corpus: {e}"));
    if let Some(iteration) = arguments.only {
        let Ok(corpus) = corpora() else {
            return ExitCode::FAILURE;
        };
        let failures: Vec<String> = targets
            .iter()
            .filter_map(|t| attempt(t, &corpus, iteration).err())
            .collect();
        for f in &failures {
            println!("FAILED {f}");
        }
        println!("{} targets, {} failures", targets.len(), failures.len());
        return if failures.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let threads = arguments.threads.unwrap_or(2).max(1);
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    let counts: Vec<AtomicU64> = targets.iter().map(|_| AtomicU64::new(0)).collect();
    let failed = AtomicUsize::new(0);
    let next = AtomicU64::new(first);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (targets, counts, failed, next) = (&targets, &counts, &failed, &next);
            scope.spawn(move || {
                // A corpus for each thread: what stores hold is shared within a thread only.
                let Ok(corpus) = corpora() else {
                    failed.fetch_add(1, Ordering::Relaxed);
                    return;
                };
                let fail = |text: String| {
                    println!("FAILED {text}");
                    failed.fetch_add(1, Ordering::Relaxed);
                };
                for line in REGRESSIONS
                    .lines()
                    .filter(|l| !l.starts_with('#') && thread == 0)
                {
                    let Some((target, number)) = line.split_once(' ') else {
                        continue;
                    };
                    let Ok(number) = number.trim().parse() else {
                        continue;
                    };
                    attempt(target, &corpus, number).err().map(fail);
                }
                while Instant::now() < end && failed.load(Ordering::Relaxed) < 10 {
                    let base = next.fetch_add(64, Ordering::Relaxed);
                    for (target, count) in targets.iter().zip(counts) {
                        // A store takes as long as thousands of pages.
                        let few = if *target == "store" { 4 } else { 64 };
                        for iteration in base..base + few {
                            attempt(target, &corpus, iteration).err().map(fail);
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    for (target, count) in targets.iter().zip(&counts) {
        println!(
            "{:>12} iterations of {target}, from {first} on",
            count.load(Ordering::Relaxed)
        );
    }
    let failed = failed.into_inner();
    println!("{failed} failures");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
