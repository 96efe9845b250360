// SPDX-License-Identifier: GPL-2.0

//! A shell in memory: carries out actions at once, on a disk that fails only where a test wants it
//! to. Content is a number.

// Each test uses a part of this.
#![allow(dead_code)]

use ddup_engine::engine::check::{check, Finding, PageSource, Summary};
use ddup_engine::engine::mkfs::{self, Params, Step};
use ddup_engine::engine::replication::{action::Reply, types::Id};
use ddup_engine::engine::{
    Action, BlockContent, Buf, Check, Cluster, Config, DataResult, Engine, FailReason,
    FingerprintAlgorithm, IoToken, Knobs, Lbn, Name, OpKind, Request, Status, VolumeChange,
};
use kernel::prelude::{KVVec, Result, GFP_KERNEL};
use std::collections::{HashMap, HashSet, VecDeque};

pub const PAGE: usize = 4096;

/// Tags of requests are below this.
const QUEUE_DEPTH: u32 = 160;

/// The hash of the format.
pub fn hash(bytes: &[u8], seed: u64) -> u64 {
    xxhash_rust::xxh64::xxh64(bytes, seed)
}

/// Number 0 is a block of zeroes.
pub fn content(id: u64) -> BlockContent {
    let mut name = [0x55; 24];
    name[..8].copy_from_slice(&hash(&id.to_le_bytes(), 1).to_le_bytes());
    name[8..16].copy_from_slice(&hash(&id.to_le_bytes(), 2).to_le_bytes());
    let check = Check(hash(&id.to_le_bytes(), 3) & ((1 << 48) - 1));
    BlockContent {
        name: Name(name),
        check,
        zero: id == 0,
    }
}

#[derive(Default, Clone)]
pub struct Disk {
    pub pages: HashMap<u64, Box<[u8]>>,
    pub data: HashMap<u64, u64>,
    /// Clusters whose content is not what it was.
    pub rotten: HashSet<u64>,
}

impl PageSource for &Disk {
    fn read(&mut self, cluster: Cluster, page: &mut [u8]) -> Result {
        match self.pages.get(&cluster.0) {
            Some(stored) => page.copy_from_slice(stored),
            None => page.fill(0),
        }
        Ok(())
    }
}

pub struct Shell {
    pub engine: Engine,
    pub disk: Disk,
    pub now: u64,
    /// Slot of the volume that requests go to.
    pub volume: u32,
    /// How the last change of a volume ended.
    pub changed: Option<bool>,
    writes: HashMap<u32, Vec<u64>>,
    pub reads: HashMap<u32, Vec<Option<u64>>>,
    pub done: HashMap<u32, Status>,
    /// Of those, writes that were acknowledged before their end.
    early: HashSet<u32>,
    /// What names and checks the content of a number.
    content: fn(u64) -> BlockContent,
    /// Requests get names for events, which no two share.
    pub name_requests: bool,
    names: u64,
    pub started: bool,
    pub failed: Option<FailReason>,
    pub detached: bool,
    /// Whether nothing was lost, when it is detached.
    pub clean: bool,
    /// Of a member of a replica set: whether its volume takes requests.
    pub serves: bool,
    /// Blocks that came from peers, by handle, and that were read for them, by token.
    pub received: HashMap<u64, u64>,
    pub fetched: HashMap<u64, u64>,
    pub replies: Vec<(u64, Reply)>,
    pub closed: Vec<(Id, u64)>,
    /// Clusters that a scrub has read, and the blocks that it found to be bad.
    pub scrubbed: Vec<u64>,
    pub found: Vec<(u32, u64)>,
    /// Scrubs that have ended.
    pub scrubs: u32,
    /// How long the disk takes to read metadata, in milliseconds.
    pub page_time: u64,
    /// Pages of trees are not read before they are let go.
    pub hold_pages: bool,
    pub held_pages: Vec<(IoToken, Cluster, Buf)>,
    /// Pages of frozen states that were read.
    pub frozen_pages: u64,
    /// Contents that can't be read for peers, and how often.
    pub unread: HashMap<u64, u32>,
    /// What scrubs read is not there before it is let go.
    pub hold_scrubs: bool,
    /// Data is not written before it is let go: request, first block, blocks, first cluster.
    pub hold_writes: bool,
    pub held_writes: Vec<(u32, u32, u32, u64)>,
    pub held: Vec<(u32, u32)>,
}

/// Ids that no other attach gets.
fn fresh_ids() -> [Id; 2] {
    use std::sync::atomic::{AtomicU8, Ordering};
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let id = NEXT.fetch_add(2, Ordering::Relaxed);
    [[0xf0; 16], [0xf1; 16]].map(|mut known| {
        known[1] = id;
        known
    })
}

/// I/O that is reported when nothing else is left to do: request, first block, blocks, result.
type Late = VecDeque<(u32, u32, u32, DataResult)>;

/// What the tests make a store with.
pub fn params(clusters: u64, volume_blocks: u64) -> Params<'static> {
    Params {
        clusters,
        journal_clusters: 0,
        volume_blocks,
        uuid: [7; 16],
        volume_uuid: [8; 16],
        label: [0; 64],
        fingerprint: FingerprintAlgorithm::Blake2b,
        name_key: 1,
        check_key: 2,
        hash,
        member: None,
    }
}

impl Shell {
    pub fn format(clusters: u64, volume_blocks: u64) -> Disk {
        Self::format_with(&params(clusters, volume_blocks))
    }

    pub fn format_with(params: &Params<'_>) -> Disk {
        let mut disk = Disk::default();
        mkfs::format::<()>(params, &mut |step| {
            if let Step::Write(cluster, bytes) = step {
                for (i, page) in bytes.chunks(PAGE).enumerate() {
                    disk.pages.insert(cluster.0 + i as u64, page.into());
                }
            }
            Ok(())
        })
        .unwrap();
        disk
    }

    pub fn attach(disk: Disk, clusters: u64, cache_pages: u32, points_max: u32) -> Shell {
        let shell = Self::try_attach(disk, clusters, cache_pages, points_max, content);
        assert_eq!(shell.failed, None);
        assert!(shell.started);
        shell
    }

    /// Attaches a store with a configuration of its own.
    pub fn attach_with(disk: Disk, clusters: u64, change: impl FnOnce(&mut Config)) -> Shell {
        let mut config = Self::config(clusters, 256, 4096);
        change(&mut config);
        let shell = Self::try_attach_with(disk, config, content);
        assert_eq!(shell.failed, None);
        assert!(shell.started);
        shell
    }

    pub fn try_attach(
        disk: Disk,
        clusters: u64,
        cache_pages: u32,
        points_max: u32,
        content: fn(u64) -> BlockContent,
    ) -> Shell {
        let config = Self::config(clusters, cache_pages, points_max);
        Self::try_attach_with(disk, config, content)
    }

    fn config(clusters: u64, cache_pages: u32, points_max: u32) -> Config {
        Config {
            store_clusters: clusters,
            read_only: false,
            queue_depth: QUEUE_DEPTH,
            cache_pages,
            index_bytes: 64 << 20,
            fresh: fresh_ids(),
            points_max,
            hash,
            knobs: Knobs::default(),
        }
    }

    fn try_attach_with(disk: Disk, config: Config, content: fn(u64) -> BlockContent) -> Shell {
        let engine = Engine::new(config).unwrap();
        let mut shell = Shell {
            engine,
            disk,
            now: 1,
            volume: 0,
            changed: None,
            writes: HashMap::new(),
            reads: HashMap::new(),
            done: HashMap::new(),
            early: HashSet::new(),
            content,
            name_requests: false,
            names: 0,
            started: false,
            failed: None,
            detached: false,
            clean: false,
            serves: false,
            received: HashMap::new(),
            fetched: HashMap::new(),
            replies: Vec::new(),
            closed: Vec::new(),
            scrubbed: Vec::new(),
            found: Vec::new(),
            scrubs: 0,
            page_time: 0,
            hold_pages: false,
            held_pages: Vec::new(),
            frozen_pages: 0,
            unread: HashMap::new(),
            hold_scrubs: false,
            hold_writes: false,
            held_writes: Vec::new(),
            held: Vec::new(),
        };
        shell.engine.start(1);
        shell.turn();
        shell
    }

    pub fn turn(&mut self) {
        loop {
            self.drain();
            if !self.engine.background(self.now) {
                self.drain();
                break;
            }
        }
    }

    pub fn drain(&mut self) {
        let mut late = VecDeque::new();
        loop {
            while let Some(action) = self.engine.poll_action(self.now) {
                self.carry_out(action, &mut late);
            }
            let Some((tag, block, count, result)) = late.pop_front() else {
                return;
            };
            // Else the driver would tell of it when it likes.
            let is_request = tag < QUEUE_DEPTH && !self.hold_pages;
            if is_request && result == DataResult::Ok && !self.done.contains_key(&tag) {
                assert!(self.engine.is_eager(), "tag {tag} waits for nobody");
            }
            self.engine.data_done(self.now, tag, block, count, result);
        }
    }

    fn carry_out(&mut self, action: Action, late: &mut Late) {
        match action {
            Action::ReadBlock {
                tag,
                block,
                cluster,
                check,
            } => {
                if self.disk.rotten.contains(&cluster.0) {
                    return late.push_back((tag, block, 1, DataResult::Mismatch));
                }
                let id = self.disk.data.get(&cluster.0).copied().unwrap_or(u64::MAX);
                let expected = (self.content)(id).check;
                assert_eq!(check, expected, "block {block} at {cluster:?}");
                self.reads.get_mut(&tag).unwrap()[block as usize] = Some(id);
                late.push_back((tag, block, 1, DataResult::Ok));
            }
            Action::ScrubBlock {
                tag,
                block,
                cluster,
                check,
            } => {
                let id = self.disk.data.get(&cluster.0).copied();
                let rotten = self.disk.rotten.contains(&cluster.0);
                let good = id.is_some_and(|id| (self.content)(id).check == check);
                assert!(good || rotten, "block {block} at {cluster:?}");
                self.scrubbed.push(cluster.0);
                if self.hold_scrubs {
                    return self.held.push((tag, block));
                }
                let result = match rotten {
                    true => DataResult::Mismatch,
                    false => DataResult::Ok,
                };
                late.push_back((tag, block, 1, result));
            }
            Action::ScrubFound { slot, lbn } => self.found.push((slot, lbn.0)),
            Action::ScrubEnded => self.scrubs += 1,
            Action::ZeroBlocks { tag, block, count } => {
                for i in block..block + count {
                    self.reads.get_mut(&tag).unwrap()[i as usize] = Some(0);
                }
            }
            Action::WriteRun {
                tag,
                block,
                count,
                cluster,
            } => {
                if self.hold_writes {
                    return self.held_writes.push((tag, block, count, cluster.0));
                }
                for i in 0..u64::from(count) {
                    let id = self.writes[&tag][block as usize + i as usize];
                    self.disk.data.insert(cluster.0 + i, id);
                }
                late.push_back((tag, block, count, DataResult::Ok));
            }
            Action::CompareBlock {
                tag,
                block,
                cluster,
            } => {
                let id = self.writes[&tag][block as usize];
                let result = match self.disk.data.get(&cluster.0) == Some(&id) {
                    true => DataResult::Equal,
                    false => DataResult::Differs,
                };
                late.push_back((tag, block, 1, result));
            }
            Action::Acknowledge { tag } => {
                self.done.insert(tag, Status::Ok);
                self.early.insert(tag);
            }
            Action::CompleteAfterIo { tag } => {
                self.done.insert(tag, Status::Ok);
            }
            Action::Complete { tag, status } => {
                if !self.early.remove(&tag) {
                    self.done.insert(tag, status);
                }
            }
            Action::ReadMeta {
                token,
                cluster,
                mut buf,
            } => {
                self.now += self.page_time;
                self.frozen_pages += u64::from(token == IoToken::FrozenPage);
                if self.hold_pages && matches!(token, IoToken::PageRead(_)) {
                    return self.held_pages.push((token, cluster, buf));
                }
                for (i, page) in buf.chunks_mut(PAGE).enumerate() {
                    match self.disk.pages.get(&(cluster.0 + i as u64)) {
                        Some(stored) => page.copy_from_slice(stored),
                        None => page.fill(0),
                    }
                }
                self.engine.meta_done(self.now, token, buf, true);
            }
            Action::WriteMeta {
                token,
                cluster,
                buf,
                ..
            } => {
                for (i, page) in buf.chunks(PAGE).enumerate() {
                    self.disk.pages.insert(cluster.0 + i as u64, page.into());
                }
                self.engine.meta_done(self.now, token, buf, true);
            }
            Action::VerifyData {
                cluster,
                check,
                buf,
                ..
            } => {
                let rotten = self.disk.rotten.contains(&cluster.0);
                let id = self.disk.data.get(&cluster.0).copied();
                let result = match id.map(|id| (self.content)(id).check) == Some(check) && !rotten {
                    true => DataResult::Ok,
                    false => DataResult::Mismatch,
                };
                self.engine.verify_done(self.now, buf, result);
            }
            Action::Flush { token } | Action::DiscardRun { token, .. } => {
                self.engine
                    .meta_done(self.now, token, Default::default(), true);
            }
            Action::Started => self.started = true,
            Action::Failed(reason) => self.failed = Some(reason),
            Action::VolumeChanged { ok, .. } => self.changed = Some(ok),
            Action::StageWrite {
                tag,
                handle,
                cluster,
            } => {
                let id = self.received[&handle];
                self.disk.data.insert(cluster.0, id);
                late.push_back((tag, 0, 1, DataResult::Ok));
            }
            Action::StageDrop { handle } => {
                self.received.remove(&handle).expect("dropped once");
            }
            Action::FetchBlock {
                token,
                cluster,
                check,
            } => {
                let id = self.disk.data.get(&cluster.0).copied();
                let fails = id.and_then(|id| self.unread.get_mut(&id));
                let fails = fails.is_some_and(|left| {
                    *left = left.saturating_sub(1);
                    *left > 0
                });
                let good = id.filter(|id| !fails && (self.content)(*id).check == check);
                if let Some(id) = good {
                    self.fetched.insert(token, id);
                }
                self.engine.fetched(self.now, token, good.is_some());
            }
            Action::FetchDrop { token } => {
                self.fetched.remove(&token).expect("dropped once");
            }
            Action::SetReply { command, reply } => self.replies.push((command, reply)),
            Action::ClosePeer { store, nonce } => self.closed.push((store, nonce)),
            Action::Role { serves } => self.serves = serves,
            Action::Detached(ok) => {
                self.clean = ok;
                self.detached = true;
            }
        }
    }

    fn submit(&mut self, kind: OpKind, lbn: u64, count: u64, blocks: &[BlockContent]) -> Status {
        self.submit_as(kind, lbn, count, blocks, false)
    }

    fn submit_as(
        &mut self,
        kind: OpKind,
        lbn: u64,
        count: u64,
        blocks: &[BlockContent],
        fua: bool,
    ) -> Status {
        let request = Request {
            tag: 0,
            kind,
            volume: self.volume,
            lbn: Lbn(lbn),
            count,
            fua,
        };
        self.done.remove(&0);
        self.engine.submit(self.now, request, blocks);
        if self.name_requests {
            self.names += 1;
            self.engine.name_request(0, self.names);
        }
        self.drain();
        for _ in 0..10_000 {
            if self.done.contains_key(&0) {
                break;
            }
            self.now += 1;
            self.turn();
        }
        self.done[&0]
    }

    fn begin(
        &mut self,
        tag: u32,
        kind: OpKind,
        at: (u64, u64),
        blocks: &[BlockContent],
        fua: bool,
    ) {
        let request = Request {
            tag,
            kind,
            volume: self.volume,
            lbn: Lbn(at.0),
            count: at.1,
            fua,
        };
        self.done.remove(&tag);
        self.engine.submit(self.now, request, blocks);
        self.drain();
    }

    fn begin_write_as(&mut self, tag: u32, lbn: u64, ids: &[u64], fua: bool) {
        let blocks: Vec<_> = ids.iter().map(|&id| (self.content)(id)).collect();
        self.writes.insert(tag, ids.to_vec());
        self.begin(tag, OpKind::Write, (lbn, ids.len() as u64), &blocks, fua);
    }

    /// Submits a write, which ends when it ends: see `done`.
    pub fn begin_write(&mut self, tag: u32, lbn: u64, ids: &[u64]) {
        self.begin_write_as(tag, lbn, ids, false);
    }

    /// Submits a write that ends when it is durable.
    pub fn begin_write_durable(&mut self, tag: u32, lbn: u64, ids: &[u64]) {
        self.begin_write_as(tag, lbn, ids, true);
    }

    /// Submits a read, which ends when it ends.
    pub fn begin_read(&mut self, tag: u32, lbn: u64, count: u64) {
        self.reads.insert(tag, vec![None; count as usize]);
        self.begin(tag, OpKind::Read, (lbn, count), &[], false);
    }

    /// Submits a FLUSH, which ends when it ends.
    pub fn begin_flush(&mut self, tag: u32) {
        self.begin(tag, OpKind::Flush, (0, 0), &[], false);
    }

    /// Lets time pass, with background work every few milliseconds.
    pub fn pass(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds;
        while self.now < end {
            self.now += 5;
            self.turn();
        }
    }

    /// Makes a change of the volumes; answers the slot.
    pub fn change(&mut self, change: VolumeChange) -> u32 {
        let slot = self.engine.change_volume(self.now, change).unwrap();
        self.await_change();
        slot
    }

    /// Lets a change of the volumes that was begun come to its end.
    pub fn await_change(&mut self) {
        self.changed = None;
        for _ in 0..10_000 {
            self.turn();
            if let Some(ok) = self.changed {
                assert!(ok);
                return;
            }
            self.now += 1;
        }
        panic!("a change does not end");
    }

    pub fn write(&mut self, lbn: u64, ids: &[u64]) -> Status {
        self.writes.insert(0, ids.to_vec());
        let blocks: Vec<_> = ids.iter().map(|&id| (self.content)(id)).collect();
        self.submit(OpKind::Write, lbn, ids.len() as u64, &blocks)
    }

    /// A write that ends when it is durable.
    pub fn write_durable(&mut self, lbn: u64, ids: &[u64]) -> Status {
        self.writes.insert(0, ids.to_vec());
        let blocks: Vec<_> = ids.iter().map(|&id| (self.content)(id)).collect();
        self.submit_as(OpKind::Write, lbn, ids.len() as u64, &blocks, true)
    }

    pub fn read(&mut self, lbn: u64, count: u64) -> Vec<u64> {
        self.try_read(lbn, count).unwrap()
    }

    pub fn try_read(&mut self, lbn: u64, count: u64) -> Result<Vec<u64>, Status> {
        self.reads.insert(0, vec![None; count as usize]);
        match self.submit(OpKind::Read, lbn, count, &[]) {
            Status::Ok => Ok(self.reads[&0].iter().map(|id| id.unwrap()).collect()),
            status => Err(status),
        }
    }

    pub fn flush(&mut self) {
        assert_eq!(self.try_flush(), Status::Ok);
    }

    pub fn try_flush(&mut self) -> Status {
        self.submit(OpKind::Flush, 0, 0, &[])
    }

    pub fn begin_scrub(&mut self) -> Result {
        let words = KVVec::from_elem(0, self.engine.scrub_words(), GFP_KERNEL)?;
        self.engine.begin_scrub(self.now, words)
    }

    /// Pages of trees are read.
    pub fn let_pages_go(&mut self) {
        self.hold_pages = false;
        for (token, cluster, buf) in std::mem::take(&mut self.held_pages) {
            let action = Action::ReadMeta {
                token,
                cluster,
                buf,
            };
            self.carry_out(action, &mut Late::new());
        }
        self.turn();
    }

    /// What scrubs read is there.
    pub fn let_go(&mut self) {
        self.hold_scrubs = false;
        for (tag, block) in std::mem::take(&mut self.held) {
            self.engine
                .data_done(self.now, tag, block, 1, DataResult::Ok);
        }
        self.turn();
    }

    /// The data that is held gets to the disk, or does not.
    pub fn end_writes(&mut self, result: DataResult) {
        for (tag, block, count, cluster) in std::mem::take(&mut self.held_writes) {
            for i in block..block + count {
                let id = self.writes[&tag][i as usize];
                let cluster = cluster + u64::from(i - block);
                match result {
                    DataResult::Ok => drop(self.disk.data.insert(cluster, id)),
                    _ => drop(self.disk.rotten.insert(cluster)),
                }
            }
            self.engine.data_done(self.now, tag, block, count, result);
        }
        self.drain();
    }

    pub fn discard(&mut self, lbn: u64, count: u64) {
        assert_eq!(self.submit(OpKind::Discard, lbn, count, &[]), Status::Ok);
    }

    pub fn detach(mut self) -> Disk {
        self.engine.detach(self.now);
        for _ in 0..10_000 {
            self.turn();
            self.now += 1;
            if self.detached {
                assert_eq!(self.clean, self.failed.is_none());
                return self.disk;
            }
        }
        panic!("detach does not end");
    }
}

pub fn check_disk(disk: &Disk, clusters: u64) -> Summary {
    let (findings, summary) = findings_of(disk, clusters);
    assert!(findings.is_empty(), "{findings:?}");
    summary
}

pub fn findings_of(disk: &Disk, clusters: u64) -> (Vec<Finding>, Summary) {
    let (mut findings, mut source) = (Vec::new(), disk);
    let mut report = |finding| findings.push(finding);
    let summary = check(&mut source, clusters, hash, &mut report).unwrap();
    assert_eq!(summary.findings, findings.len() as u64);
    (findings, summary)
}
