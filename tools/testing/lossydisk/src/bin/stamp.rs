// SPDX-License-Identifier: GPL-2.0
//! `stamp`: writes blocks or files of known content until the power fails, and afterwards says
//! whether all is there that must be, and nothing else.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use lossydisk::rng::fresh_seed;
use lossydisk::stamp::plan::Plan;
use lossydisk::stamp::run::run;
use lossydisk::stamp::state::State;
use lossydisk::stamp::target::{Direct, Files, Target};
use lossydisk::stamp::verify::{begin_next, verify};
use lossydisk::stamp::BLOCK;

/// Write blocks of known content until the power fails, then say what is missing.
///
/// What was acknowledged is noted in STATE, a file or device that must not be on the disk under test.
/// A workload is begun with init on a TARGET of zeroes (a block device, a file, or a folder, in which
/// it writes files); then come rounds of run (until the power fails) and verify.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Begin a workload: write STATE for round 0
    Init(Init),
    /// Do the operations of the current round, until one fails or the time is over
    Run {
        /// A block device, file or folder
        target: PathBuf,
        /// Where notes are kept
        state: PathBuf,
        /// End after so many seconds
        #[arg(long)]
        seconds: Option<u64>,
        /// Print this line before the first operation
        #[arg(long)]
        announce: Option<String>,
    },
    /// Compare TARGET with what STATE allows, and begin the next round
    Verify {
        /// A block device, file or folder
        target: PathBuf,
        /// Where notes are kept
        state: PathBuf,
        /// Only compare; the round stays the current one
        #[arg(long)]
        keep: bool,
        /// Blocks may be torn at sectors of 512 bytes, as on a plain disk
        #[arg(long)]
        torn_sectors: bool,
    },
}

#[derive(Args)]
struct Init {
    /// Where notes are kept
    state: PathBuf,
    /// Blocks of 4096 bytes to use, or files
    #[arg(long, default_value_t = 16384)]
    blocks: u64,
    /// Where all chance comes from [default: drawn and printed]
    #[arg(long)]
    seed: Option<u64>,
    /// Writers
    #[arg(long, default_value_t = 4)]
    threads: u64,
    /// Percentage of blocks whose content others have too
    #[arg(long, default_value_t = 50)]
    duplicates: u32,
    /// Different contents of these
    #[arg(long, default_value_t = 100)]
    classes: u64,
    /// Longest operation in blocks
    #[arg(long, default_value_t = 32)]
    length: u64,
    /// Percentage of operations that are a flush
    #[arg(long, default_value_t = 3)]
    flushes: u32,
    /// Use no DISCARD and no WRITE_ZEROES (in a folder: remove no files)
    #[arg(long)]
    no_discards: bool,
}

fn named<T>(path: &Path, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn open(path: &Path, plan: &Plan) -> io::Result<Box<dyn Target>> {
    if path.is_dir() {
        let owner = plan.clone();
        let thread_of = Box::new(move |block| owner.thread(block));
        let files = named(path, Files::open(path, plan.threads, thread_of))?;
        return Ok(Box::new(files));
    }
    let target = named(path, Direct::open(path, None))?;
    let need = plan.blocks * BLOCK as u64;
    if target.size() < need {
        return Err(io::Error::other(format!(
            "{}: {} bytes, and the workload uses {need}",
            path.display(),
            target.size()
        )));
    }
    Ok(Box::new(target))
}

fn main_with(cli: Cli) -> io::Result<bool> {
    match cli.command {
        Verb::Init(init) => {
            let plan = Plan {
                seed: init.seed.unwrap_or_else(fresh_seed),
                blocks: init.blocks,
                threads: init.threads,
                duplicates: init.duplicates,
                classes: init.classes,
                length: init.length,
                flushes: init.flushes,
                discards: !init.no_discards,
            };
            let seed = plan.seed;
            named(&init.state, State::create(&init.state, plan))?;
            println!("stamp: seed {seed}, {} blocks", init.blocks);
            Ok(true)
        }
        Verb::Run {
            target,
            state,
            seconds,
            announce,
        } => {
            let state = named(&state, State::open(&state))?;
            let target = open(&target, &state.plan)?;
            if let Some(line) = announce {
                println!("{line}");
            }
            let done = run(&*target, &state, seconds.map(Duration::from_secs))?;
            println!(
                "stamp: round {}: {} operations, {} flushes",
                state.round, done.operations, done.flushes
            );
            Ok(true)
        }
        Verb::Verify {
            target: path,
            state,
            keep,
            torn_sectors,
        } => {
            let mut state = named(&state, State::open(&state))?;
            let target = open(&path, &state.plan)?;
            let mut verdict = verify(&*target, &state, torn_sectors)?;
            println!(
                "stamp: {}: seed {} round {}: {} operations acknowledged as durable; {} blocks as acknowledged, {} newer, {} WRONG",
                path.display(),
                state.plan.seed,
                state.round,
                verdict.acknowledged,
                verdict.durable,
                verdict.newer,
                verdict.wrong
            );
            for report in &verdict.reports {
                println!("stamp: {report}");
            }
            if verdict.wrong == 0 && !keep {
                let torn = begin_next(&*target, &mut state, &mut verdict)?;
                if torn > 0 {
                    println!("stamp: {torn} blocks were torn, now zeroes");
                }
            }
            Ok(verdict.wrong == 0)
        }
    }
}

fn main() -> ExitCode {
    match main_with(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("stamp: {error}");
            ExitCode::from(2)
        }
    }
}
