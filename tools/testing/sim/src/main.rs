// SPDX-License-Identifier: GPL-2.0

//! `sim`: plays histories of a ddup store against an oracle, one for each seed.

use clap::Parser;
use ddup_sim::coverage;
use ddup_sim::minimise::minimise;
use ddup_sim::mutants;
use ddup_sim::real::Real;
use ddup_sim::report::Totals;
use ddup_sim::runner::{self, Outcome};
use ddup_sim::script::{generate, Script};
use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(about = "Plays histories of a ddup store against an oracle, one for each seed")]
struct Arguments {
    /// Play this seed
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Play these seeds: FROM..TO, or N for 0..N
    #[arg(long, value_parser = range)]
    seeds: Option<Range<u64>>,
    /// Operations of a median history
    #[arg(long, default_value_t = 12000)]
    ops: u32,
    /// Play with this deliberate error in the engine
    #[arg(long)]
    mutant: Option<u32>,
    /// Play seeds with each deliberate error until it is caught; fail if one is not
    #[arg(long, conflicts_with_all = ["seed", "mutant"])]
    mutants: bool,
    /// Make the first failing history short
    #[arg(long)]
    minimise: bool,
    /// Seconds that this may take
    #[arg(long, default_value_t = 120)]
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
    /// List the marks that were never reached
    #[arg(long)]
    coverage: bool,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let number = |s: &str| s.trim().parse::<u64>().map_err(|e| format!("{s:?}: {e}"));
    match text.split_once("..") {
        Some((from, to)) => Ok(number(from)?..number(to)?),
        None => Ok(0..number(text)?),
    }
}

fn commit() -> String {
    let git = |args: &[&str]| {
        let out = Command::new("git").args(args).output().ok()?;
        out.status
            .success()
            .then(|| String::from_utf8_lossy(&out.stdout).trim().to_string())
    };
    match git(&["rev-parse", "--short", "HEAD"]) {
        Some(head) if git(&["status", "--porcelain", "-uno"]).is_some_and(|s| s.is_empty()) => head,
        Some(head) => format!("{head} with changes"),
        None => "of unknown commit".into(),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let threads = arguments
        .threads
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1);
    if arguments.mutants {
        let seeds = arguments.seeds.unwrap_or(0..200);
        return if mutants::hunt(seeds, arguments.ops, threads) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let number = arguments.mutant.unwrap_or(0);
    mutants::set(number);
    let seeds = match (arguments.seed, arguments.seeds.clone()) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(seeds)) => seeds,
        (None, None) => 0..100,
    };
    let version = commit();
    println!("seeds {}..{}, commit {version}", seeds.start, seeds.end);
    let begin = Instant::now();
    let play = |seed| runner::run::<Real>(&generate(seed, arguments.ops), arguments.verbose);
    let total = seeds.end - seeds.start;
    let progress = |done: usize| {
        if std::io::stderr().is_terminal() && !arguments.verbose {
            let seconds = begin.elapsed().as_secs();
            eprint!("\r{done} of {total} histories, {seconds} s ");
            let _ = std::io::stderr().flush();
        }
    };
    let outcomes = runner::run_all(seeds, threads, arguments.failures, &play, &progress);
    report(&arguments, &outcomes, begin.elapsed(), &version)
}

fn report(arguments: &Arguments, outcomes: &[Outcome], took: Duration, version: &str) -> ExitCode {
    let each: Vec<Totals> = outcomes.iter().map(|o| o.totals.clone()).collect();
    let mut all = Totals::default();
    for t in &each {
        all.add(t);
    }
    println!("\n{}", all.table(&each));
    println!("{}", coverage::report(arguments.coverage));
    let failed: Vec<&Outcome> = outcomes.iter().filter(|o| o.failure.is_some()).collect();
    for o in &failed {
        if let Some(f) = &o.failure {
            println!(
                "FAILED seed {} at step {}, commit {version}: {}",
                o.seed, f.step, f.what
            );
            println!("    make sim SEED={}{}", o.seed, extra(arguments));
        }
    }
    if let (true, Some(first)) = (arguments.minimise, failed.first()) {
        shorten(arguments, first);
    }
    println!(
        "{} histories in {:.1} s: {} passed, {} failed",
        outcomes.len(),
        took.as_secs_f64(),
        outcomes.len() - failed.len(),
        failed.len()
    );
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn extra(arguments: &Arguments) -> String {
    match arguments.mutant {
        Some(k) => format!(" MUTANT={k}"),
        None => String::new(),
    }
}

fn shorten(arguments: &Arguments, outcome: &Outcome) {
    let Some(failure) = &outcome.failure else {
        return;
    };
    let mut script = generate(outcome.seed, arguments.ops);
    script.steps.truncate(failure.step + 1);
    let fails = |s: &Script| runner::run::<Real>(s, false).1.is_err();
    if !fails(&script) {
        println!("the failure comes after the last step: nothing to shorten");
        script = generate(outcome.seed, arguments.ops);
    }
    println!("shortening a history of {} steps", script.steps.len());
    let short = minimise(&script, Duration::from_secs(arguments.limit), &fails);
    println!("shortest history found, {} steps:", short.steps.len());
    for step in &short.steps {
        println!("    after {:>3}: {:?}", step.gap, step.op);
    }
    let (_, result) = runner::run::<Real>(&short, true);
    if let Err(f) = result {
        println!("step {}: {}", f.step, f.what);
    }
}
