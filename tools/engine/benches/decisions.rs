// SPDX-License-Identifier: GPL-2.0

//! The engine's decisions alone: data is neither copied, nor hashed, nor checked; metadata goes to
//! memory. One core, 4 KiB requests at random places, 32 in flight; and 128 KiB requests
//! one after the other, counted in blocks.
//!
//! `cargo bench -p ddup-engine` prints operations per second, and the bytes that one operation
//! allocates, measured after warming up.

#![allow(missing_docs, reason = "criterion's macros document nothing")]

use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use ddup_engine::engine::mkfs::{self, Params, Step};
use ddup_engine::engine::{
    Action, BlockContent, Check, Config, DataResult, Engine, FingerprintAlgorithm, Knobs, Lbn,
    Name, OpKind, Request,
};
use std::collections::HashMap;
use std::hint::black_box;

const CLUSTERS: u64 = 1 << 22;
const DEPTH: u32 = 32;
const OPS: u64 = 20_000;
/// Pages that the memory disk has touched before anything is measured: the faults of a disk that
/// grows are not the engine's.
const SPARE_PAGES: usize = 1 << 18;
/// Blocks of a sequential request.
const RUN: u64 = 32;

fn hash(bytes: &[u8], seed: u64) -> u64 {
    xxhash_rust::xxh64::xxh64(bytes, seed)
}

struct Bench {
    engine: Engine,
    pages: HashMap<u64, Box<[u8]>>,
    spare: Vec<Box<[u8]>>,
    state: u64,
    serial: u64,
    tag: u32,
    blocks: u64,
    next: u64,
}

impl Bench {
    fn new(blocks: u64, cache_pages: u32) -> Bench {
        let mut pages = HashMap::new();
        let params = Params {
            clusters: CLUSTERS,
            journal_clusters: 0,
            volume_blocks: blocks,
            uuid: [7; 16],
            volume_uuid: [8; 16],
            label: [0; 64],
            fingerprint: FingerprintAlgorithm::Blake2b,
            name_key: 1,
            check_key: 2,
            hash,
            member: None,
        };
        mkfs::format::<()>(&params, &mut |step| {
            if let Step::Write(cluster, bytes) = step {
                pages.insert(cluster.0, bytes.into());
            }
            Ok(())
        })
        .expect("format");
        let config = Config {
            store_clusters: CLUSTERS,
            read_only: false,
            queue_depth: DEPTH,
            cache_pages,
            index_bytes: 256 << 20,
            fresh: [[0; 16]; 2],
            points_max: 131_072,
            hash,
            knobs: Knobs::default(),
        };
        let mut engine = Engine::new(config).expect("configuration");
        engine.start(1);
        let mut bench = Bench {
            engine,
            pages,
            spare: (0..SPARE_PAGES).map(|_| vec![0xff; 4096].into()).collect(),
            state: 42,
            serial: 0,
            tag: 0,
            blocks,
            next: 0,
        };
        bench.turn();
        bench
    }

    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn drain(&mut self) {
        while let Some(action) = self.engine.poll_action(1) {
            match action {
                Action::ReadBlock { tag, block, .. } => {
                    self.engine.data_done(1, tag, block, 1, DataResult::Ok);
                }
                Action::WriteRun {
                    tag, block, count, ..
                } => {
                    self.engine.data_done(1, tag, block, count, DataResult::Ok);
                }
                Action::ReadMeta {
                    token,
                    cluster,
                    mut buf,
                } => {
                    for (i, page) in buf.chunks_mut(4096).enumerate() {
                        match self.pages.get(&(cluster.0 + i as u64)) {
                            Some(stored) => page.copy_from_slice(stored),
                            None => page.fill(0),
                        }
                    }
                    self.engine.meta_done(1, token, buf, true);
                }
                Action::WriteMeta {
                    token,
                    cluster,
                    buf,
                    ..
                } => {
                    for (i, page) in buf.chunks(4096).enumerate() {
                        self.pages
                            .entry(cluster.0 + i as u64)
                            .or_insert_with(|| {
                                let spare = self.spare.pop();
                                spare.unwrap_or_else(|| vec![0; 4096].into())
                            })
                            .copy_from_slice(page);
                    }
                    self.engine.meta_done(1, token, buf, true);
                }
                Action::Flush { token } | Action::DiscardRun { token, .. } => {
                    self.engine.meta_done(1, token, Default::default(), true);
                }
                Action::Failed(reason) => panic!("{reason}"),
                other => {
                    black_box(other);
                }
            }
        }
    }

    fn turn(&mut self) {
        self.drain();
        while self.engine.background(1) {
            self.drain();
        }
        self.drain();
    }

    fn submit(&mut self, kind: OpKind, lbn: u64, count: u64, blocks: &[BlockContent]) {
        self.tag = (self.tag + 1) % DEPTH;
        let request = Request {
            tag: self.tag,
            kind,
            volume: 0,
            lbn: Lbn(lbn),
            count,
            fua: false,
        };
        self.engine.submit(1, request, blocks);
        self.drain();
        if self.tag == 0 {
            self.turn();
        }
    }

    fn content(id: u64) -> BlockContent {
        let mut name = [0x55; 24];
        name[..8].copy_from_slice(&id.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        name[8..16].copy_from_slice(&id.wrapping_mul(0xff51_afd7_ed55_8ccd).to_le_bytes());
        BlockContent {
            name: Name(name),
            check: Check(id),
            zero: false,
        }
    }

    fn write_unique(&mut self) {
        self.serial += 1;
        let content = Self::content(self.serial);
        let lbn = self.random() % self.blocks;
        self.submit(OpKind::Write, lbn, 1, &[content]);
    }

    fn write_duplicate(&mut self) {
        let content = Self::content(1 + self.random() % 1000);
        let lbn = self.random() % self.blocks;
        self.submit(OpKind::Write, lbn, 1, &[content]);
    }

    fn read(&mut self) {
        let lbn = self.random() % self.blocks;
        self.submit(OpKind::Read, lbn, 1, &[]);
    }

    /// The next request of a sequential job.
    fn next_run(&mut self) -> u64 {
        self.next = (self.next + RUN) % self.blocks;
        self.next
    }

    fn write_run(&mut self) {
        let lbn = self.next_run();
        let contents: [BlockContent; RUN as usize] = core::array::from_fn(|_| {
            self.serial += 1;
            Self::content(self.serial)
        });
        self.submit(OpKind::Write, lbn, RUN, &contents);
    }

    fn read_run(&mut self) {
        let lbn = self.next_run();
        self.submit(OpKind::Read, lbn, RUN, &[]);
    }
}

fn decisions(c: &mut Criterion) {
    let mut group = c.benchmark_group("4k_random");
    group.throughput(Throughput::Elements(OPS)).sample_size(20);
    let mut bench = Bench::new(1 << 20, 16_384);
    for lbn in 0..1 << 20 {
        bench.serial += 1;
        let content = Bench::content(bench.serial);
        bench.submit(OpKind::Write, lbn, 1, &[content]);
    }
    let mut run = |name: &str, op: fn(&mut Bench)| {
        kernel::fail_alloc::reset_stats();
        let mut ops = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                ops += OPS;
                for _ in 0..OPS {
                    op(&mut bench);
                }
            })
        });
        let stats = kernel::fail_alloc::stats();
        println!(
            "{name}: {:.1} bytes allocated per operation",
            stats.bytes_total as f64 / ops as f64
        );
    };
    run("read_mapped", Bench::read);
    run("write_unique", Bench::write_unique);
    run("write_duplicate", Bench::write_duplicate);
    group.finish();

    let mut group = c.benchmark_group("128k_sequential");
    group.throughput(Throughput::Elements(RUN)).sample_size(20);
    group.bench_function("write", |b| b.iter(|| bench.write_run()));
    group.bench_function("read", |b| b.iter(|| bench.read_run()));
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);
