// SPDX-License-Identifier: GPL-2.0

//! Prints what the engine costs against the size of the store, as reStructuredText tables for
//! `Documentation/block/ddup-scale.rst`.

mod store;

use clap::Parser;
use ddup_engine::engine::{
    Action, BlockContent, Check, Config, DataResult, Engine, Knobs, Name, OpKind, Request, Status,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use store::{no_hash, Device};

const PAGE: usize = 4096;
const DEPTH: u32 = 32;
const GIB: u64 = 1 << 18;

/// Measures the engine on stores of any size, whose pages are made up as they are read.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Sizes of the store, in GiB.
    #[arg(long, value_delimiter = ',', default_value = "64,1024,10240,65536")]
    sizes: Vec<u64>,
    /// Random 4 KiB overwrites to measure at each size.
    #[arg(long, default_value_t = 300_000)]
    writes: u64,
    /// Metadata cache, in MiB.
    #[arg(long, default_value_t = 64)]
    cache: u32,
    /// Block changes since the last checkpoint when power fails, for the recovery table; no more
    /// than the dirty-page cap lets in.
    #[arg(long, value_delimiter = ',', default_value = "0,1000,5000,1000000")]
    changes: Vec<u64>,
}

struct Shell {
    engine: Engine,
    device: Device,
    now: u64,
    started: bool,
    serial: u64,
    random: u64,
    /// Requests in flight, by tag.
    busy: [bool; DEPTH as usize + 1],
    quiet: bool,
}

fn config(clusters: u64, cache_mib: u32) -> Config {
    Config {
        store_clusters: clusters,
        read_only: false,
        queue_depth: DEPTH + 1,
        cache_pages: cache_mib * 256,
        index_bytes: 64 << 20,
        fresh: [[0; 16]; 2],
        points_max: 131_072,
        hash: no_hash,
        knobs: Knobs {
            checkpoint_interval: u64::MAX / 2,
            keep_erased: 0,
            ..Knobs::default()
        },
    }
}

impl Shell {
    fn attach(device: Device, cache_mib: u32) -> Shell {
        let config = config(device.layout.clusters, cache_mib);
        let engine = Engine::new(config).expect("the configuration is valid");
        let mut shell = Shell {
            engine,
            device,
            now: 1,
            started: false,
            serial: 0,
            random: 0x1234_5678_9abc_def1,
            busy: [false; DEPTH as usize + 1],
            quiet: true,
        };
        shell.engine.start(1);
        shell.drain();
        assert!(shell.started, "the store is attached");
        shell
    }

    fn drain(&mut self) {
        while let Some(action) = self.engine.poll_action(self.now) {
            match action {
                Action::WriteRun {
                    tag, block, count, ..
                } => {
                    self.engine
                        .data_done(self.now, tag, block, count, DataResult::Ok);
                }
                Action::ReadMeta {
                    token,
                    cluster,
                    mut buf,
                } => {
                    for (at, page) in (cluster.0..).zip(buf.chunks_mut(PAGE)) {
                        self.device.read(at, page);
                    }
                    self.engine.meta_done(self.now, token, buf, true);
                }
                Action::WriteMeta {
                    token,
                    cluster,
                    buf,
                    ..
                } => {
                    for (at, page) in (cluster.0..).zip(buf.chunks(PAGE)) {
                        self.device.write(at, page);
                    }
                    self.engine.meta_done(self.now, token, buf, true);
                }
                Action::Flush { token } | Action::DiscardRun { token, .. } => {
                    self.engine
                        .meta_done(self.now, token, Default::default(), true);
                }
                // Its tag is free when it is complete.
                Action::Acknowledge { .. } => {}
                Action::CompleteAfterIo { tag } => self.busy[tag as usize] = false,
                Action::Complete { tag, status } => {
                    assert_eq!(status, Status::Ok);
                    self.busy[tag as usize] = false;
                }
                Action::Started => self.started = true,
                Action::Failed(reason) => panic!("the store failed: {reason}"),
                _ => {}
            }
        }
    }

    fn turn(&mut self) {
        self.drain();
        for _ in 0..8 {
            if self.quiet || !self.engine.background(self.now) {
                break;
            }
            self.drain();
        }
    }

    /// Overwrites a random block. False: only a checkpoint would make room, and none may run.
    fn overwrite(&mut self) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.serial += 1;
        let mut name = [0x55; 24];
        name[..8].copy_from_slice(
            &self
                .serial
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .to_le_bytes(),
        );
        let content = BlockContent {
            name: Name(name),
            check: Check(self.serial),
            zero: false,
        };
        let tag = (self.serial % u64::from(DEPTH)) as u32;
        while self.busy[tag as usize] {
            if self.quiet {
                return false;
            }
            self.turn();
        }
        self.busy[tag as usize] = true;
        let lbn = store::block(self.random, &self.device);
        let request = Request {
            tag,
            kind: OpKind::Write,
            volume: 0,
            lbn,
            count: 1,
            fua: false,
        };
        self.engine.submit(self.now, request, &[content]);
        self.drain();
        if tag == 0 {
            self.turn();
        }
        true
    }
}

fn size(gib: u64) -> String {
    if gib >= 1024 {
        format!("{} TiB", gib / 1024)
    } else {
        format!("{gib} GiB")
    }
}

/// Counts what is allocated; what the engine has taken is the difference.
struct Counting;

static ALLOCATED: AtomicU64 = AtomicU64::new(0);

// SAFETY: `System` does all of it; the sizes are only counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: The caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: The caller's promise is the same.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocated() -> u64 {
    ALLOCATED.load(Ordering::Relaxed)
}

fn overwrites(arguments: &Arguments) {
    let mut checkpoints = String::new();
    println!(
        "Metadata per uniform random 4 KiB overwrite, a cache of {} MiB:\n",
        arguments.cache
    );
    println!(
        "========  ==========  =============  ==============  =============  ===================="
    );
    println!("store     overwrites  pages read     pages written   journal bytes  metadata bytes");
    println!(
        "                      each           each            each           for each data byte"
    );
    println!(
        "========  ==========  =============  ==============  =============  ===================="
    );
    for &gib in &arguments.sizes {
        let mut shell = Shell::attach(Device::new(gib * GIB), arguments.cache);
        shell.quiet = false;
        // The first checkpoint starts from a cold cache.
        let warm = arguments.writes / 3;
        for _ in 0..warm {
            shell.overwrite();
        }
        let before = shell.engine.counters();
        let begun = cpu_time();
        for _ in 0..arguments.writes {
            shell.overwrite();
        }
        let took = cpu_time() - begun;
        let after = shell.engine.counters();
        let each = |a: u64, b: u64| (b - a) as f64 / arguments.writes as f64;
        let read = each(before.pages_read, after.pages_read);
        let written = each(before.pages_written, after.pages_written);
        let journal = each(before.journal_bytes, after.journal_bytes);
        println!(
            "{:8}  {:10}  {read:13.2}  {written:14.2}  {journal:13.1}  {:20.2}",
            size(gib),
            arguments.writes,
            written + journal / PAGE as f64,
        );
        let count = after.checkpoints - before.checkpoints;
        let pages = after.pages_written - before.pages_written;
        let per = |value: u64| value as f64 / count.max(1) as f64;
        let _ = writeln!(
            checkpoints,
            "{:8}  {:11}  {:15.0}  {:13.0}  {:14.1}  {:13.1}",
            size(gib),
            count,
            per(arguments.writes),
            per(pages),
            per(pages) * PAGE as f64 / (1 << 20) as f64,
            took.as_secs_f64() * 1e6 / arguments.writes as f64,
        );
    }
    println!(
        "========  ==========  =============  ==============  =============  ===================="
    );
    let line =
        "========  ===========  ===============  =============  ==============  =============";
    println!("\nCheckpoints meanwhile, and CPU time of one core, checkpoints included:\n");
    println!("{line}");
    println!("store     checkpoints  overwrites for   pages written  MiB written    CPU time for");
    println!(
        "                       each             by each        by each        an overwrite, us"
    );
    println!("{line}");
    print!("{checkpoints}");
    println!("{line}");
}

fn recoveries(arguments: &Arguments) {
    println!("\nAttach after a loss of power:\n");
    println!(
        "========  ===============  ==============  ==============  ==========  ============="
    );
    println!("store     changes in the   segment table   journal read,   CPU time,   memory, MiB");
    println!("          journal          read, MiB       MiB             ms");
    println!(
        "========  ===============  ==============  ==============  ==========  ============="
    );
    for &gib in &arguments.sizes {
        let mut clean_reads = 0;
        for &changes in &arguments.changes {
            let mut shell = Shell::attach(Device::new(gib * GIB), arguments.cache);
            let mut done = 0;
            while done < changes && shell.overwrite() {
                done += 1;
            }
            let flush = Request {
                tag: DEPTH,
                kind: OpKind::Flush,
                volume: 0,
                lbn: Default::default(),
                count: 0,
                fua: false,
            };
            shell.engine.submit(shell.now, flush, &[]);
            shell.drain();
            let mut device = shell.device;
            device.reads = 0;
            let memory = allocated();
            let begun = cpu_time();
            let shell = Shell::attach(device, arguments.cache);
            let took = cpu_time() - begun;
            if changes == 0 {
                clean_reads = shell.device.reads;
            }
            let mib = |pages: u64| pages as f64 * PAGE as f64 / (1 << 20) as f64;
            println!(
                "{:8}  {done:15}  {:14.1}  {:14.1}  {:10.1}  {:13.1}",
                size(gib),
                mib(clean_reads),
                mib(shell.device.reads.saturating_sub(clean_reads)),
                took.as_secs_f64() * 1e3,
                allocated().saturating_sub(memory) as f64 / (1 << 20) as f64,
            );
        }
    }
    println!(
        "========  ===============  ==============  ==============  ==========  ============="
    );
}

/// CPU time of this process: other load on the machine does not count.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanos = text
        .split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    Duration::from_nanos(nanos)
}

fn main() {
    let arguments = Arguments::parse();
    let begun = Instant::now();
    overwrites(&arguments);
    recoveries(&arguments);
    eprintln!("{:.0} s", begun.elapsed().as_secs_f64());
}
