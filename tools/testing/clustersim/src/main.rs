// SPDX-License-Identifier: GPL-2.0

//! `clustersim`: plays histories of a replica set against an oracle, one for each seed.

use clap::Parser;
use ddup_clustersim::script::{generate, Script};
use ddup_clustersim::world::{self, Totals};
use ddup_clustersim::{mutants, MARKS};
use ddup_engine::engine::mark;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(about = "Plays histories of a replica set against an oracle, one for each seed")]
struct Arguments {
    /// Play this seed
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Play these seeds: FROM..TO, or N for 0..N
    #[arg(long, value_parser = range)]
    seeds: Option<Range<u64>>,
    /// Steps of a median history
    #[arg(long, default_value_t = 1200)]
    steps: u32,
    /// Play with this deliberate error in the engine
    #[arg(long)]
    mutant: Option<u32>,
    /// Play seeds with each deliberate error until it is caught; fail if one is not
    #[arg(long)]
    mutants: bool,
    /// Make the first failing history short
    #[arg(long)]
    minimise: bool,
    /// Seconds that this may take
    #[arg(long, default_value_t = 60)]
    limit: u64,
    /// Print all that happens
    #[arg(short, long)]
    verbose: bool,
    /// Histories at once
    #[arg(long)]
    threads: Option<usize>,
    /// Stop after so many failures
    #[arg(long, default_value_t = 10)]
    failures: usize,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let number = |s: &str| s.trim().parse::<u64>().map_err(|e| format!("{s:?}: {e}"));
    match text.split_once("..") {
        Some((from, to)) => Ok(number(from)?..number(to)?),
        None => Ok(0..number(text)?),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seeds = match (arguments.seed, arguments.seeds.clone()) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(seeds)) => seeds,
        (None, None) => 0..150,
    };
    let passed = if arguments.mutants {
        mutants::hunt(seeds, arguments.steps, arguments.mutant)
    } else {
        mutants::set(arguments.mutant.unwrap_or(0));
        play(&arguments, seeds)
    };
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn play(arguments: &Arguments, seeds: Range<u64>) -> bool {
    let begin = Instant::now();
    let threads = arguments
        .threads
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1);
    let next = AtomicU64::new(seeds.start);
    let failed = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end || failed.load(Ordering::Relaxed) >= arguments.failures {
                    return;
                }
                let (totals, result) =
                    world::play(&generate(seed, arguments.steps), arguments.verbose);
                if result.is_err() {
                    failed.fetch_add(1, Ordering::Relaxed);
                }
                if let Ok(mut all) = outcomes.lock() {
                    all.push((seed, totals, result.err()));
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_default();
    outcomes.sort_by_key(|o| o.0);
    let rows: Vec<_> = outcomes.iter().map(|o| o.1.rows()).collect();
    for (i, (name, _)) in Totals::default().rows().iter().enumerate() {
        let mut values: Vec<u64> = rows.iter().map(|r| r[i].1).collect();
        values.sort_unstable();
        let median = values.get(values.len() / 2).copied().unwrap_or(0);
        println!("{name:<24}{:>12}{median:>10}", values.iter().sum::<u64>());
    }
    let reached = MARKS.iter().filter(|name| mark::count(name) > 0).count();
    println!("{reached} of {} marks reached", MARKS.len());
    for name in MARKS.iter().filter(|name| mark::count(name) == 0) {
        println!("    never: {name}");
    }
    let mutant = arguments
        .mutant
        .map_or(String::new(), |k| format!(" MUTANT={k}"));
    let failures: Vec<_> = outcomes
        .iter()
        .filter_map(|o| Some((o.0, o.2.as_ref()?)))
        .collect();
    for (seed, failure) in &failures {
        println!(
            "FAILED seed {seed} at step {}: {}",
            failure.step, failure.what
        );
        println!("    make sim-cluster SEED={seed}{mutant}");
    }
    if let (true, Some((seed, failure))) = (arguments.minimise, failures.first()) {
        shorten(arguments, *seed, failure.step);
    }
    println!(
        "{} histories in {:.1} s: {} passed, {} failed",
        outcomes.len(),
        begin.elapsed().as_secs_f64(),
        outcomes.len() - failures.len(),
        failures.len()
    );
    failures.is_empty() && !outcomes.is_empty()
}

/// Leaves out steps as long as the history still fails.
fn shorten(arguments: &Arguments, seed: u64, step: usize) {
    let end = Instant::now() + Duration::from_secs(arguments.limit);
    let mut best = generate(seed, arguments.steps);
    let fails = |s: &Script| world::play(s, false).1.is_err();
    let mut cut = best.clone();
    cut.steps.truncate(step + 1);
    if fails(&cut) {
        best = cut;
    }
    let mut chunk = best.steps.len().div_ceil(2).max(1);
    loop {
        let (mut at, mut shorter) = (0, false);
        while at < best.steps.len() && Instant::now() < end {
            let mut candidate = best.clone();
            candidate
                .steps
                .drain(at..(at + chunk).min(best.steps.len()));
            if fails(&candidate) {
                best = candidate;
                shorter = true;
            } else {
                at += chunk;
            }
        }
        if (chunk == 1 && !shorter) || Instant::now() >= end {
            break;
        }
        chunk = (chunk / 2).max(1);
    }
    println!("shortest history found, {} steps:", best.steps.len());
    if let Err(f) = world::play(&best, true).1 {
        println!("step {}: {}", f.step, f.what);
    }
}
