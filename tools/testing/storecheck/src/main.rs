// SPDX-License-Identifier: GPL-2.0
//! `storecheck`: what a crash left of a store, looked at three times.
//!
//! First the durable checkpoint is checked as it is. Then the store is attached by the engine, on a copy
//! in memory: the journal is replayed as the kernel would, every block of the volume is read and
//! its content compared with its check. Then it is detached, and the checkpoint that recovery
//! wrote is checked: every count, every page. The image is only read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use ddup_engine::engine::check::{check, PageSource, Summary};
use ddup_engine::engine::format::superblock::Superblock;
use ddup_engine::engine::types::{CHECK_MASK, CLUSTER_SIZE, REQUEST_BLOCKS_MAX};
use ddup_engine::engine::{
    Action, Cluster, Config, DataResult, Engine, FailReason, Knobs, Lbn, OpKind, Request, Status,
};
use kernel::prelude::{KBox, Result as KernelResult, EIO};

/// Check what a crash left of the store in IMAGE: as it is, and recovered in memory.
///
/// IMAGE is only read. The exit status is 0 for a store that is sound, 1 for one that is not, 2 if it
/// could not be looked at.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The image of a store: a file or block device
    image: PathBuf,
    /// Say nothing about a sound store
    #[arg(short, long)]
    quiet: bool,
}

/// What of a problem is printed at most.
const PROBLEMS_MAX: usize = 20;
/// Turns of an engine that has nothing to wait for: a store that takes more makes no progress.
const TURNS_MAX: u32 = 100_000;

fn hash(bytes: &[u8], seed: u64) -> u64 {
    xxhash_rust::xxh64::xxh64(bytes, seed)
}

/// The image with what was written to it in memory.
struct Disk {
    file: File,
    clusters: u64,
    written: HashMap<u64, Box<[u8]>>,
}

impl Disk {
    fn open(path: &Path) -> std::io::Result<Self> {
        let mut file = File::open(path)?;
        let clusters = file.seek(SeekFrom::End(0))? / CLUSTER_SIZE as u64;
        Ok(Self {
            file,
            clusters,
            written: HashMap::new(),
        })
    }

    fn fill(&self, cluster: u64, out: &mut [u8]) -> std::io::Result<()> {
        match self.written.get(&cluster) {
            Some(page) => out.copy_from_slice(page),
            None => self
                .file
                .read_exact_at(out, cluster * CLUSTER_SIZE as u64)?,
        }
        Ok(())
    }
}

impl PageSource for &Disk {
    fn read(&mut self, cluster: Cluster, page: &mut [u8]) -> KernelResult {
        self.fill(cluster.0, page).map_err(|_| EIO)
    }
}

/// Runs the engine on the disk, with nothing that fails.
struct Shell {
    engine: Engine,
    disk: Disk,
    check_key: u64,
    now: u64,
    started: bool,
    failed: Option<FailReason>,
    detached: Option<bool>,
    done: Option<Status>,
    blocks_read: u64,
    problems: Vec<String>,
    /// I/O of data, reported when there is nothing else to do: block, blocks, result.
    late: Vec<(u32, u32, u32, DataResult)>,
}

impl Shell {
    fn new(disk: Disk, check_key: u64) -> Result<Self, String> {
        let engine = Engine::new(Config {
            store_clusters: disk.clusters,
            read_only: false,
            queue_depth: 16,
            cache_pages: 4096,
            index_bytes: 16 << 20,
            fresh: [[0; 16]; 2],
            points_max: 65536,
            hash,
            knobs: Knobs::default(),
        })
        .map_err(|error| format!("no engine: {error:?}"))?;
        Ok(Self {
            engine,
            disk,
            check_key,
            now: 1,
            started: false,
            failed: None,
            detached: None,
            done: None,
            blocks_read: 0,
            problems: Vec::new(),
            late: Vec::new(),
        })
    }

    fn turn(&mut self) {
        loop {
            while let Some(action) = self.engine.poll_action(self.now) {
                self.carry_out(action);
            }
            if let Some((tag, block, count, result)) = self.late.pop() {
                self.engine.data_done(self.now, tag, block, count, result);
            } else if !self.engine.background(self.now) {
                return;
            }
        }
    }

    /// Turns until `over`; false if that never comes.
    fn turn_until(&mut self, over: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..TURNS_MAX {
            self.turn();
            if over(self) {
                return true;
            }
            self.now += 1;
        }
        false
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::ReadMeta {
                token,
                cluster,
                mut buf,
            } => {
                let pages = (cluster.0..).zip(buf.chunks_mut(CLUSTER_SIZE));
                let mut ok = true;
                for (place, page) in pages {
                    ok &= self.disk.fill(place, page).is_ok();
                }
                self.engine.meta_done(self.now, token, buf, ok);
            }
            Action::VerifyData {
                cluster,
                check,
                check_key,
                mut buf,
            } => {
                let result = match self.disk.fill(cluster.0, &mut buf) {
                    Err(_) => DataResult::Failed,
                    Ok(()) if hash(&buf, check_key) & CHECK_MASK == check.0 => DataResult::Ok,
                    Ok(()) => DataResult::Mismatch,
                };
                self.engine.verify_done(self.now, buf, result);
            }
            Action::WriteMeta {
                token,
                cluster,
                buf,
                ..
            } => {
                for (place, page) in (cluster.0..).zip(buf.chunks(CLUSTER_SIZE)) {
                    self.disk.written.insert(place, page.into());
                }
                self.engine.meta_done(self.now, token, buf, true);
            }
            Action::Flush { token } => {
                let nothing = Default::default();
                self.engine.meta_done(self.now, token, nothing, true);
            }
            Action::DiscardRun {
                token,
                cluster,
                count,
            } => {
                for place in cluster.0..cluster.0 + count {
                    let zeroes = vec![0; CLUSTER_SIZE].into();
                    self.disk.written.insert(place, zeroes);
                }
                let nothing = Default::default();
                self.engine.meta_done(self.now, token, nothing, true);
            }
            Action::ReadBlock {
                tag,
                block,
                cluster,
                check,
            } => {
                self.blocks_read += 1;
                let mut data = vec![0; CLUSTER_SIZE];
                let result = match self.disk.fill(cluster.0, &mut data) {
                    Err(_) => DataResult::Failed,
                    Ok(()) if hash(&data, self.check_key) & CHECK_MASK == check.0 => DataResult::Ok,
                    Ok(()) => DataResult::Mismatch,
                };
                if result != DataResult::Ok {
                    self.problems
                        .push(format!("cluster {}: data: {result:?}", cluster.0));
                }
                self.late.push((tag, block, 1, result));
            }
            Action::ZeroBlocks { .. } => {}
            Action::Acknowledge { .. } => {}
            Action::CompleteAfterIo { .. } => self.done = Some(Status::Ok),
            Action::Complete { status, .. } => self.done = Some(status),
            Action::WriteRun {
                tag, block, count, ..
            } => {
                self.problems.push("a write that nobody asked for".into());
                self.late.push((tag, block, count, DataResult::Failed));
            }
            Action::CompareBlock { tag, block, .. } => {
                self.problems
                    .push("a comparison that nobody asked for".into());
                self.late.push((tag, block, 1, DataResult::Failed));
            }
            Action::Started => self.started = true,
            Action::Failed(reason) => self.failed = Some(reason),
            Action::Detached(clean) => self.detached = Some(clean),
            Action::VolumeChanged { .. } => {}
            other => self.problems.push(format!("{other:?} is of a replica set")),
        }
    }

    fn read_volume(&mut self, blocks: u64) {
        let mut lbn = 0;
        while lbn < blocks && self.problems.len() < PROBLEMS_MAX {
            let count = u64::from(REQUEST_BLOCKS_MAX).min(blocks - lbn);
            self.done = None;
            let request = Request {
                tag: 0,
                kind: OpKind::Read,
                volume: 0,
                lbn: Lbn(lbn),
                count,
                fua: false,
            };
            self.engine.submit(self.now, request, &[]);
            if !self.turn_until(|shell| shell.done.is_some()) {
                self.problems
                    .push(format!("a read at block {lbn} never ends"));
                return;
            }
            if self.done != Some(Status::Ok) {
                self.problems
                    .push(format!("a read at block {lbn}: {:?}", self.done));
            }
            lbn += count;
        }
    }
}

fn check_all(disk: &Disk, when: &str, problems: &mut Vec<String>) -> Result<Summary, String> {
    let mut source = disk;
    let mut report = |finding| problems.push(format!("{when}: {finding}"));
    check(&mut source, disk.clusters, hash, &mut report)
        .map_err(|error| format!("{when}: {error:?}"))
}

fn newest_superblock(disk: &Disk) -> Option<KBox<Superblock>> {
    let copy = |place| {
        let mut block = vec![0; CLUSTER_SIZE];
        disk.fill(place, &mut block).ok()?;
        Superblock::read(&block, hash).ok()
    };
    let copies = [copy(0), copy(1)];
    copies
        .into_iter()
        .flatten()
        .max_by_key(|copy| copy.generation)
}

fn main_with(cli: &Cli) -> Result<Vec<String>, String> {
    let disk = Disk::open(&cli.image).map_err(|error| error.to_string())?;
    let mut problems = Vec::new();
    check_all(&disk, "as it is", &mut problems)?;
    let Some(superblock) = newest_superblock(&disk) else {
        problems.push("no superblock".into());
        return Ok(problems);
    };
    let mut shell = Shell::new(disk, superblock.check_key)?;
    shell.engine.start(shell.now);
    shell.turn_until(|shell| shell.started || shell.failed.is_some());
    if let Some(reason) = shell.failed {
        problems.push(format!("recovery: {reason}"));
        return Ok(problems);
    }
    if !shell.started {
        problems.push("recovery: it never ends".into());
        return Ok(problems);
    }
    let blocks = shell.engine.volume(0).map_or(0, |volume| volume.blocks);
    shell.read_volume(blocks);
    shell.engine.detach(shell.now);
    if !shell.turn_until(|shell| shell.detached.is_some()) {
        shell.problems.push("detach: it never ends".into());
    }
    if shell.detached == Some(false) || shell.failed.is_some() {
        shell.problems.push("detach: not clean".into());
    }
    problems.append(&mut shell.problems);
    let summary = check_all(&shell.disk, "recovered", &mut problems)?;
    if problems.is_empty() && !cli.quiet {
        println!(
            "storecheck: {}: sound; {} blocks mapped and read, {} clusters live, {} junk, {} pages; recovery wrote {}",
            cli.image.display(),
            shell.blocks_read,
            summary.live,
            summary.junk,
            summary.pages,
            shell.disk.written.len()
        );
    }
    Ok(problems)
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match main_with(&cli) {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(problems) => {
            for problem in problems.iter().take(PROBLEMS_MAX) {
                println!("storecheck: {}: {problem}", cli.image.display());
            }
            if problems.len() > PROBLEMS_MAX {
                println!("storecheck: and {} more", problems.len() - PROBLEMS_MAX);
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("storecheck: {}: {error}", cli.image.display());
            ExitCode::from(2)
        }
    }
}
