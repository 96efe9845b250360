// SPDX-License-Identifier: GPL-2.0
//! `lossydisk`: serves a file over NBD as a disk that loses unflushed writes when its power is cut.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use clap::{Parser, ValueEnum};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use lossydisk::bytes::parse_bytes;
use lossydisk::disk::{DiskOptions, Trim};
use lossydisk::fault::{Delay, Fault};
use lossydisk::server::{Server, ServerOptions};

/// Serve FILE over NBD as a disk with a volatile write cache.
///
/// Writes stay in memory until the client flushes. A power cut keeps, drops or tears (at sectors of
/// 512 bytes) each write since the last flush, as the seed says, closes the connection, and the disk
/// is back at once. It comes by SIGUSR1, by "cut" on the control socket, or when the client leaves
/// (--cut-on-disconnect). SIGTERM and SIGINT write everything out and end the server.
///
/// The control socket takes one command a line: cut, flush, stats, fail KIND@N, fail off,
/// ignore-flush on|off, quit.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The file that holds what is durable
    file: PathBuf,
    /// Serve at this unix socket
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Make the file with this size (K, M, G, T: powers of 1024) if it is not there
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    size: Option<u64>,
    /// Decides what a power cut keeps [default: drawn and printed]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Answer commands at this unix socket
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Cut the power when the client leaves
    #[arg(long)]
    cut_on_disconnect: bool,
    /// End after the first power cut
    #[arg(long)]
    once: bool,
    /// Acknowledge FLUSH and FUA, and do nothing: a disk that lies
    #[arg(long)]
    ignore_flush: bool,
    /// Keep at most so many bytes unflushed; above, some are written out early
    #[arg(long, value_name = "BYTES", default_value = "256M", value_parser = parse_bytes)]
    cache: u64,
    /// What TRIM does
    #[arg(long, value_enum, default_value_t = TrimMode::Zeroes)]
    trim: TrimMode,
    /// Carry requests out in the order in which they come
    #[arg(long)]
    in_order: bool,
    /// Fail requests with EIO: KIND@N (the N-th), KIND@N+ (from it on), KIND:FIRST-LAST (sectors); KIND is read, write, flush or trim
    #[arg(long, value_name = "FAULT")]
    fail: Vec<Fault>,
    /// Delay requests of a kind, as in flush=5 (milliseconds)
    #[arg(long, value_name = "KIND=MS")]
    delay: Vec<Delay>,
    /// Log all writes and flushes to this file, in the format of the kernel's log-writes target
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum TrimMode {
    /// the range reads as zeroes
    Zeroes,
    /// each piece reads as zeroes or keeps its content, by seed
    Mixed,
    /// the range keeps its content
    Keep,
}

fn run(cli: Cli) -> std::io::Result<()> {
    let seed = cli.seed.unwrap_or_else(lossydisk::rng::fresh_seed);
    let mut options = ServerOptions::new(&cli.file, cli.size, &cli.socket, seed);
    options.disk = DiskOptions {
        cache_bytes: cli.cache,
        ignore_flush: cli.ignore_flush,
        trim: match cli.trim {
            TrimMode::Zeroes => Trim::Zeroes,
            TrimMode::Mixed => Trim::Mixed,
            TrimMode::Keep => Trim::Keep,
        },
        ..DiskOptions::new(0, seed)
    };
    options.in_order = cli.in_order;
    options.cut_on_disconnect = cli.cut_on_disconnect;
    options.faults = cli.fail;
    options.delays = cli.delay;
    options.record = cli.record;
    // Before the socket is there: whoever sees it may send a signal.
    let mut signals = Signals::new([SIGUSR1, SIGTERM, SIGINT])?;
    let server = Server::start(options)?;
    if let Some(control) = &cli.control {
        server.control(control)?;
    }
    println!(
        "lossydisk: {} of {} bytes at {}, seed {seed}",
        cli.file.display(),
        server.size(),
        cli.socket.display()
    );
    let signalled = server.clone();
    thread::spawn(move || {
        for signal in signals.forever() {
            if signal == SIGUSR1 {
                match signalled.cut() {
                    Ok(report) => println!("lossydisk: {report}"),
                    Err(error) => eprintln!("lossydisk: power cut: {error}"),
                }
            } else if let Err(error) = signalled.stop() {
                eprintln!("lossydisk: {error}");
                std::process::exit(1);
            }
        }
    });
    server.wait(cli.once.then_some(1))?;
    if let Some(control) = &cli.control {
        // Gone is gone.
        let _ = std::fs::remove_file(control);
    }
    server.stop()
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lossydisk: {error}");
            ExitCode::FAILURE
        }
    }
}
