// SPDX-License-Identifier: GPL-2.0

//! `setsim`: plays histories of real stores in a replica set against an oracle, one for each seed.

use clap::Parser;
use ddup_engine::engine::{mark, set_mutant};
use ddup_setsim::{world, MARKS, MUTANTS, SHOWN};
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::Instant;

#[derive(Parser)]
#[command(about = "Plays histories of real stores in a replica set against an oracle")]
struct Arguments {
    /// Play this seed
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Play these seeds: FROM..TO, or N for 0..N
    #[arg(long, value_parser = range)]
    seeds: Option<Range<u64>>,
    /// Steps of a history
    #[arg(long, default_value_t = 300)]
    steps: u32,
    /// Play with this deliberate error in the engine
    #[arg(long)]
    mutant: Option<u32>,
    /// Play seeds with each deliberate error until it is caught; fail if one is not
    #[arg(long)]
    mutants: bool,
    /// Print all that happens
    #[arg(short, long)]
    verbose: bool,
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
        (None, None) => 0..100,
    };
    let passed = if arguments.mutants {
        hunt(&arguments, &seeds)
    } else {
        set_mutant(arguments.mutant.unwrap_or(0));
        play(&arguments, seeds)
    };
    match passed {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Plays seeds on all processors, until one fails if that is enough. Answers totals and failures.
fn each_seed(
    arguments: &Arguments,
    seeds: &[u64],
    until: bool,
) -> (world::Totals, Vec<(u64, String)>, u64) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let outcome = Mutex::new((world::Totals::default(), Vec::new(), 0));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| loop {
                let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    return;
                };
                let (totals, result) = world::play(seed, arguments.steps, arguments.verbose);
                let Ok(mut outcome) = outcome.lock() else {
                    return;
                };
                outcome.0.add(&totals);
                outcome.2 += 1;
                if let Err(what) = result {
                    outcome.1.push((seed, what));
                    if until || outcome.1.len() >= 10 {
                        next.store(seeds.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    outcome.into_inner().unwrap_or_default()
}

/// Those seeds, and if they begin with 0 what few histories show.
fn with_shown(seeds: Range<u64>) -> Vec<u64> {
    let is_more = |seed: &&u64| seeds.start == 0 && seeds.end > 1 && !seeds.contains(*seed);
    let more = SHOWN.iter().filter(is_more);
    Iterator::chain(seeds.clone(), more.copied()).collect()
}

fn play(arguments: &Arguments, seeds: Range<u64>) -> bool {
    let begin = Instant::now();
    let seeds = with_shown(seeds);
    let (totals, mut failures, played) = each_seed(arguments, &seeds, false);
    println!("{totals:#?}");
    let never: Vec<_> = MARKS.iter().filter(|name| mark::count(name) == 0).collect();
    println!(
        "{} of {} marks reached",
        MARKS.len() - never.len(),
        MARKS.len()
    );
    for name in never {
        println!("    never: {name}");
    }
    failures.sort();
    let mutant = arguments
        .mutant
        .map_or(String::new(), |k| format!(" MUTANT={k}"));
    for (seed, what) in &failures {
        println!("FAILED seed {seed}: {what}\n    make sim-set SEED={seed}{mutant}");
    }
    println!(
        "{played} histories in {:.1} s: {} passed, {} failed",
        begin.elapsed().as_secs_f64(),
        played - failures.len() as u64,
        failures.len()
    );
    failures.is_empty() && played > 0
}

/// Each deliberate error has to be caught.
fn hunt(arguments: &Arguments, seeds: &Range<u64>) -> bool {
    let (begin, mut caught) = (Instant::now(), 0);
    let seeds = with_shown(seeds.clone());
    for number in MUTANTS {
        set_mutant(*number);
        let (_, mut failures, played) = each_seed(arguments, &seeds, true);
        failures.sort();
        match failures.first() {
            Some((seed, what)) => {
                caught += 1;
                let what: String = what.chars().take(100).collect();
                println!("{number:>6} caught by seed {seed}: {what}");
            }
            None => println!("{number:>6} SURVIVED {played} histories"),
        }
    }
    set_mutant(0);
    println!(
        "{caught} of {} mutants caught in {:.0} s",
        MUTANTS.len(),
        begin.elapsed().as_secs_f64()
    );
    caught == MUTANTS.len()
}
