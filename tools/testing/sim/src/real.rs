// SPDX-License-Identifier: GPL-2.0

//! The real engine behind the simulator's [`Store`].

use crate::content::{Content, Fingerprints, Image, CLUSTER, ZERO};
use crate::disk::Disk;
use crate::port::{self, Counters, Kind, Millis, Store};
use crate::rng::mix;
use crate::script::Setup;
use ddup_engine::engine::format::index::CHUNK_CLUSTERS;
use ddup_engine::engine::format::journal;
use ddup_engine::engine::format::layout::{Layout, JOURNAL_START};
use ddup_engine::engine::format::page::{levels_for, MAP_LEAF};
use ddup_engine::engine::format::superblock::Superblock;
use ddup_engine::engine::types::SEGMENT_CLUSTERS;
use ddup_engine::engine::VolumeChange;
use ddup_engine::engine::{check, mkfs};
use ddup_engine::engine::{Action, BlockContent, Cluster, Config, DataResult, Durability, Engine};
use ddup_engine::engine::{
    Check, FingerprintAlgorithm, IoToken, Knobs, Lbn, Name, OpKind, Request, Status,
};
use kernel::prelude::{KVVec, KVec, GFP_KERNEL};
use std::collections::BTreeMap;

/// An engine and what the simulator counts beside it.
pub struct Real {
    engine: Engine,
    rounds: u64,
    levels: u32,
}

/// How the simulator attaches a store.
pub fn config(setup: &Setup, clusters: u64) -> Config {
    Config {
        store_clusters: clusters,
        read_only: false,
        queue_depth: setup.queue_depth,
        cache_pages: setup.cache_pages,
        index_bytes: setup.index_bytes,
        fresh: [[0; 16]; 2],
        points_max: match setup.points_max {
            0 => 131_072,
            n => n,
        },
        hash: setup.hash,
        knobs: Knobs {
            commit_interval: setup.commit_interval_ms,
            gc_delay: setup.gc_delay_s,
            checkpoint_interval: setup.checkpoint_interval_ms,
            keep_erased: setup.keep_erased,
            tranquility: setup.tranquility,
            scrub_tranquility: setup.tranquility,
            resync_tranquility: setup.tranquility,
            discard: setup.discard,
            compress_wire: false,
            wait_for_space: setup.wait_for_space,
            count_full: setup.count_full,
        },
    }
}

struct Pages<'a>(&'a Disk);

/// Pages for a check of a pinned checkpoint.
struct PinnedPages<'a> {
    disk: &'a Disk,
    /// The segment table as it was read first; what is read is added to it.
    kept: BTreeMap<u64, Vec<u8>>,
    fixed: u64,
}

impl check::PageSource for PinnedPages<'_> {
    fn read(&mut self, cluster: Cluster, page: &mut [u8]) -> kernel::error::Result {
        if let Some(kept) = self.kept.get(&cluster.0) {
            page.copy_from_slice(kept);
            return Ok(());
        }
        self.disk.read(cluster.0).bytes(page);
        if cluster.0 < self.fixed {
            self.kept.insert(cluster.0, page.to_vec());
        }
        Ok(())
    }
}

impl check::PageSource for Pages<'_> {
    fn read(&mut self, cluster: Cluster, page: &mut [u8]) -> kernel::error::Result {
        self.0.read(cluster.0).bytes(page);
        Ok(())
    }
}

fn uuid(setup: &Setup) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&mix(setup.seed).to_le_bytes());
    uuid
}

fn volume_uuid(number: u64) -> [u8; 16] {
    [number as u8 + 7; 16]
}

impl Store for Real {
    type Token = IoToken;

    fn format(disk: &mut Disk, setup: &Setup) -> Result<(), String> {
        let algorithm = match setup.cryptographic {
            true => FingerprintAlgorithm::Blake2b,
            false => FingerprintAlgorithm::Xxh64,
        };
        let params = mkfs::Params {
            clusters: disk.clusters(),
            journal_clusters: setup.journal_clusters,
            volume_blocks: setup.volume_blocks,
            uuid: uuid(setup),
            volume_uuid: volume_uuid(0),
            label: [0; 64],
            fingerprint: algorithm,
            name_key: setup.fingerprints.key,
            check_key: setup.fingerprints.key,
            hash: setup.hash,
            member: None,
        };
        let mut step = |step: mkfs::Step<'_>| -> Result<(), ()> {
            match step {
                mkfs::Step::Write(cluster, bytes) => {
                    for (i, part) in bytes.chunks(CLUSTER).enumerate() {
                        disk.write(cluster.0 + i as u64, Image::meta(part), 0xff);
                    }
                }
                mkfs::Step::Flush => disk.flush(disk.now()),
            }
            Ok(())
        };
        mkfs::format(&params, &mut step)
            .map(|_| ())
            .map_err(|e| format!("format: {e:?}"))
    }

    fn new(setup: &Setup, clusters: u64) -> Result<Self, String> {
        let engine = Engine::new(config(setup, clusters)).map_err(|e| format!("new: {e:?}"))?;
        let levels = levels_for(setup.volume_blocks, MAP_LEAF).into();
        Ok(Real {
            engine,
            rounds: 0,
            levels,
        })
    }

    fn check(disk: &Disk, setup: &Setup) -> Result<(), String> {
        let mut findings = Vec::new();
        let mut report = |finding| findings.push(format!("{finding:?}"));
        let summary = check::check(&mut Pages(disk), disk.clusters(), setup.hash, &mut report)
            .map_err(|e| format!("check: {e:?}"))?;
        if summary.findings == 0 {
            return Ok(());
        }
        findings.truncate(6);
        Err(format!(
            "check: {} findings: {}",
            summary.findings,
            findings.join("; ")
        ))
    }

    fn journal(setup: &Setup, clusters: u64) -> std::ops::Range<u64> {
        let layout = Layout::new(clusters, setup.journal_clusters);
        JOURNAL_START..JOURNAL_START + layout.map_or(0, |l| l.journal_clusters)
    }

    fn is_advice(token: IoToken) -> bool {
        token == IoToken::IndexChunk
    }

    fn advice(disk: &Disk, setup: &Setup) -> Option<std::ops::Range<u64>> {
        let copy = |slot| {
            let mut block = vec![0; CLUSTER];
            disk.read(slot).bytes(&mut block);
            Superblock::read(&block, setup.hash).ok()
        };
        let newest = [copy(0), copy(1)].into_iter().flatten();
        let index = newest.max_by_key(|s| s.generation)?.index;
        // The first chunk: the others may lie in other segments.
        index
            .exists()
            .then(|| index.place.0..index.place.0 + CHUNK_CLUSTERS)
    }

    fn journal_end(setup: &Setup, disk: &Disk) -> std::ops::Range<u64> {
        let mut bytes = [0; CLUSTER];
        let mut blocks = Vec::new();
        for cluster in Self::journal(setup, disk.clusters()) {
            disk.durable(cluster).bytes(&mut bytes);
            if let Some(h) = journal::header(&bytes, &uuid(setup), setup.hash) {
                blocks.push((h.incarnation, h.sequence, cluster, h.clusters));
            }
        }
        let newest = blocks.into_iter().max();
        newest.map_or(0..0, |(_, _, first, count)| first..first + count)
    }

    fn start(&mut self, now: Millis) {
        self.engine.start(now);
    }

    fn submit(&mut self, now: Millis, r: port::Request, contents: &[Content], f: &Fingerprints) {
        let blocks: Vec<BlockContent> = contents
            .iter()
            .map(|c| BlockContent {
                name: Name(f.name(*c)),
                check: Check(f.check(*c)),
                zero: *c == ZERO,
            })
            .collect();
        let kind = match r.kind {
            Kind::Read => OpKind::Read,
            Kind::Write => OpKind::Write,
            Kind::Flush => OpKind::Flush,
            Kind::Discard => OpKind::Discard,
            Kind::WriteZeroes => OpKind::WriteZeroes,
        };
        let request = Request {
            tag: r.tag,
            kind,
            volume: r.volume,
            lbn: Lbn(r.lbn),
            count: r.count,
            fua: r.fua,
        };
        self.engine.submit(now, request, &blocks);
    }

    fn data_done(
        &mut self,
        now: Millis,
        tag: u32,
        block: u32,
        count: u32,
        result: port::DataResult,
    ) {
        let result = self::result(result);
        self.engine.data_done(now, tag, block, count, result);
    }

    fn hand_over_commit(&mut self, token: IoToken) -> Option<u32> {
        self.engine.hand_over_commit(token)
    }

    fn verify_done(&mut self, now: Millis, buf: KVec<u8>, result: port::DataResult) {
        self.engine.verify_done(now, buf, self::result(result));
    }

    fn meta_done(&mut self, now: Millis, token: IoToken, buf: KVec<u8>, ok: bool) {
        self.engine.meta_done(now, token, buf, ok);
    }

    fn poll_action(&mut self, now: Millis) -> Option<port::Action<IoToken>> {
        let action = self.engine.poll_action(now)?;
        Some(match action {
            Action::ReadBlock {
                tag,
                block,
                cluster,
                check,
            } => port::Action::ReadBlock {
                tag,
                block,
                cluster: cluster.0,
                check: check.0,
            },
            Action::ScrubBlock {
                tag,
                block,
                cluster,
                check,
            } => port::Action::ScrubBlock {
                tag,
                block,
                cluster: cluster.0,
                check: check.0,
            },
            Action::ScrubFound { slot, lbn } => port::Action::ScrubFound { slot, lbn: lbn.0 },
            Action::ScrubEnded => port::Action::ScrubEnded,
            Action::ZeroBlocks { tag, block, count } => {
                port::Action::ZeroBlocks { tag, block, count }
            }
            Action::WriteRun {
                tag,
                block,
                count,
                cluster,
            } => port::Action::WriteRun {
                tag,
                block,
                count,
                cluster: cluster.0,
            },
            Action::CompareBlock {
                tag,
                block,
                cluster,
            } => port::Action::CompareBlock {
                tag,
                block,
                cluster: cluster.0,
            },
            Action::Acknowledge { tag } => port::Action::Acknowledge { tag },
            Action::CompleteAfterIo { tag } => port::Action::CompleteAfterIo { tag },
            Action::Complete { tag, status } => port::Action::Complete {
                tag,
                status: self::status(status),
            },
            Action::ReadMeta {
                token,
                cluster,
                buf,
            } => port::Action::ReadMeta {
                token,
                cluster: cluster.0,
                buf,
            },
            Action::WriteMeta {
                token,
                cluster,
                buf,
                durability,
            } => {
                // The first block of the ring begins a new round.
                self.rounds +=
                    u64::from(token == IoToken::Journal && cluster == Cluster(JOURNAL_START));
                port::Action::WriteMeta {
                    token,
                    cluster: cluster.0,
                    buf,
                    durability: match durability {
                        Durability::None => port::Durability::None,
                        Durability::Own => port::Durability::Own,
                        Durability::AllBefore => port::Durability::AllBefore,
                        Durability::AllTogether => port::Durability::AllTogether,
                    },
                }
            }
            Action::VerifyData {
                cluster,
                check,
                buf,
                ..
            } => port::Action::VerifyData {
                cluster: cluster.0,
                check: check.0,
                buf,
            },
            Action::Flush { token } => port::Action::Flush { token },
            Action::DiscardRun {
                token,
                cluster,
                count,
            } => port::Action::DiscardRun {
                token,
                cluster: cluster.0,
                count,
            },
            Action::VolumeChanged { slot, ok } => port::Action::VolumeChanged { slot, ok },
            // The stores of these histories are in no set.
            Action::StageWrite { .. }
            | Action::StageDrop { .. }
            | Action::FetchBlock { .. }
            | Action::FetchDrop { .. }
            | Action::SetReply { .. }
            | Action::ClosePeer { .. }
            | Action::Role { .. } => return self.poll_action(now),
            Action::Started => match self.engine.failed() {
                None => port::Action::Started,
                Some(reason) => port::Action::Failed {
                    reason: format!("read-only: {reason}"),
                },
            },
            Action::Failed(reason) => port::Action::Failed {
                reason: reason.to_string(),
            },
            Action::Detached(ok) => port::Action::Detached { ok },
        })
    }

    fn background(&mut self, now: Millis) -> bool {
        self.engine.background(now)
    }

    fn next_deadline(&self) -> Option<Millis> {
        self.engine.next_deadline()
    }

    fn is_eager(&self) -> bool {
        self.engine.is_eager()
    }

    fn set_wait_for_space(&mut self, wait: bool) {
        let mut knobs = self.engine.knobs();
        knobs.wait_for_space = wait;
        self.engine.set_knobs(knobs);
    }

    fn change_volume(&mut self, now: Millis, change: port::Change) -> Option<u32> {
        let change = match change {
            port::Change::Create(number, blocks) => VolumeChange::Create {
                uuid: volume_uuid(number),
                blocks,
            },
            port::Change::Resize(slot, blocks) => VolumeChange::Resize { slot, blocks },
            port::Change::Remove(slot) => VolumeChange::Remove { slot },
        };
        self.engine.change_volume(now, change).ok()
    }

    fn begin_scrub(&mut self, now: Millis) -> bool {
        let words = KVVec::from_elem(0, self.engine.scrub_words(), GFP_KERNEL);
        words.is_ok_and(|words| self.engine.begin_scrub(now, words).is_ok())
    }

    fn stop_scrub(&mut self, now: Millis) -> bool {
        self.engine.stop_scrub(now)
    }

    fn volumes(&self) -> Option<(Vec<port::Volume>, bool)> {
        let shown = (0..self.engine.volume_slots()).filter_map(|slot| {
            self.engine.volume(slot).map(|v| port::Volume {
                number: u64::from(v.uuid[0] - 7),
                slot,
                blocks: v.blocks,
            })
        });
        Some((shown.collect(), self.engine.is_releasing()))
    }

    fn pin(&mut self, now: Millis) -> Option<(u64, Vec<u8>)> {
        let (cookie, root) = self.engine.pin(now).ok()?;
        Some((cookie, root.to_vec()))
    }

    fn keep_pin(&mut self, now: Millis, cookie: u64) -> bool {
        self.engine.renew_pin(now, cookie, true)
    }

    fn unpin(&mut self, now: Millis, cookie: u64) -> bool {
        self.engine.unpin(now, cookie)
    }

    fn check_pinned(
        disk: &Disk,
        setup: &Setup,
        root: &[u8],
        kept: &mut Option<BTreeMap<u64, Vec<u8>>>,
    ) -> Result<(), String> {
        let superblock = Superblock::read(root, setup.hash).map_err(|e| format!("{e:?}"))?;
        let mut pages = PinnedPages {
            disk,
            kept: kept.take().unwrap_or_default(),
            fixed: superblock.layout.fixed_segments() * SEGMENT_CLUSTERS,
        };
        let mut findings = Vec::new();
        let mut report = |finding| findings.push(format!("{finding:?}"));
        let clusters = disk.clusters();
        let result = check::check_pinned(
            &mut pages,
            root,
            clusters,
            setup.hash,
            &mut report,
            &mut || {},
        );
        *kept = Some(pages.kept);
        result.map_err(|e| format!("check: {e:?}"))?;
        let count = findings.len();
        findings.truncate(6);
        match count {
            0 => Ok(()),
            _ => Err(format!("{count} findings: {}", findings.join("; "))),
        }
    }

    fn detach(&mut self, now: Millis) {
        self.engine.detach(now);
    }

    fn counters(&self) -> Counters {
        let c = self.engine.counters();
        Counters {
            checkpoints: c.checkpoints,
            journal_wraps: self.rounds,
            clusters_recycled: c.clusters_retired,
            clusters_free: c.clusters_free,
            metadata_capacity: c.metadata_capacity,
            metadata_free: c.metadata_free,
            clusters_data: c.clusters_total.saturating_sub(c.metadata_capacity),
            levels: self.levels,
        }
    }
}

fn result(result: port::DataResult) -> DataResult {
    match result {
        port::DataResult::Ok => DataResult::Ok,
        port::DataResult::Equal => DataResult::Equal,
        port::DataResult::Differs => DataResult::Differs,
        port::DataResult::Mismatch => DataResult::Mismatch,
        port::DataResult::Failed => DataResult::Failed,
    }
}

fn status(status: Status) -> port::Status {
    match status {
        Status::Ok => port::Status::Ok,
        Status::NoSpace => port::Status::NoSpace,
        Status::Io => port::Status::Error("Io"),
        Status::Medium => port::Status::Error("Medium"),
        Status::ReadOnly => port::Status::Error("ReadOnly"),
        Status::Range => port::Status::Error("Range"),
    }
}
