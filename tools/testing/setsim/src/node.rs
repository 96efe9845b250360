// SPDX-License-Identifier: GPL-2.0

//! One machine: a disk that loses what was not flushed, and, while it is up, a store on it.

use crate::miss::GC_DELAY;
use ddup_engine::engine::births::Births;
use ddup_engine::engine::check::{check, Finding, PageSource};
use ddup_engine::engine::format::layout::Layout;
use ddup_engine::engine::format::superblock::Superblock;
use ddup_engine::engine::mkfs::{self, MemberParams, Params, Step};
use ddup_engine::engine::replication::action::Reply;
use ddup_engine::engine::replication::config::Config as SetConfig;
use ddup_engine::engine::replication::record::Record;
use ddup_engine::engine::replication::types::{Id, Position};
use ddup_engine::engine::{
    Action, BlockContent, Check, Cluster, Config, DataResult, Durability, Engine, FailReason,
    FingerprintAlgorithm, IoToken, Knobs, Lbn, Name, OpKind, Request, Status, Tag,
};
use ddup_sim::content::{Content, Fingerprints, Image, CLUSTER, ZERO};
use ddup_sim::disk::{kept, Disk, Loss};
use ddup_sim::rng::{mix, Rng};
use ddup_sim::xxh64::xxh64;
use kernel::prelude::{KVVec, KVec, GFP_KERNEL};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Clusters of the disks: what one store takes in an epoch is too much for another.
const CLUSTERS: [u64; 3] = [48 * 4096, 16 * 4096, 24 * 4096];
/// Blocks of the volume that every history has, at the least.
pub const BLOCKS: u64 = 192;
/// Its UUID. It has slot 0 everywhere.
pub const VOLUME: Id = [8; 16];

/// The blocks of all volumes of a store.
pub type Volumes = BTreeMap<Id, Vec<Content>>;
/// Tags of requests.
pub const TAGS: u32 = 16;
/// Blocks that are read at once.
const READ_MAX: u64 = 256;

/// How content is named and checked, the same everywhere.
pub const FINGERPRINTS: Fingerprints = Fingerprints {
    key: 77,
    name_bits: 64,
    tail_bits: 64,
};

/// What names and checks a content.
pub fn described(content: Content) -> BlockContent {
    BlockContent {
        name: Name(FINGERPRINTS.name(content)),
        check: Check(FINGERPRINTS.check(content)),
        zero: content == ZERO,
    }
}

/// The UUID of store `n`.
pub fn store_id(n: usize) -> Id {
    [0x10 + n as u8; 16]
}

/// I/O of the store that is under way.
#[expect(missing_docs, reason = "fields are named for what they are")]
#[derive(Debug)]
pub enum Io {
    /// Blocks that are written to neighbouring clusters.
    Write {
        tag: Tag,
        block: u32,
        cluster: u64,
        contents: Vec<Content>,
    },
    /// A block that is read.
    Read {
        tag: Tag,
        block: u32,
        cluster: u64,
        check: u64,
    },
    /// Metadata that is written; the moment at which it was sent.
    WriteMeta {
        token: IoToken,
        cluster: u64,
        buf: KVec<u8>,
        durability: Durability,
        sent: u64,
    },
    /// Metadata that is read.
    ReadMeta {
        token: IoToken,
        cluster: u64,
        buf: KVec<u8>,
    },
    /// A FLUSH of the device.
    Flush { token: IoToken, sent: u64 },
    /// A discard.
    Discard {
        token: IoToken,
        cluster: u64,
        count: u64,
    },
    /// Data of the last journal block that recovery looks at.
    Verify {
        cluster: u64,
        check: u64,
        buf: KVec<u8>,
    },
    /// A block for a peer.
    Fetch {
        token: u64,
        cluster: u64,
        check: u64,
    },
}

/// A request of the workload.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What.
    pub kind: OpKind,
    /// Slot of the volume.
    pub slot: u32,
    /// First block.
    pub lbn: u64,
    /// Blocks.
    pub count: u64,
    /// What is written, or was read.
    pub contents: Vec<Content>,
    /// The oracle's number of it.
    pub stamp: u64,
    /// When it was submitted.
    pub at: u64,
    /// Blocks that it reads were written meanwhile.
    pub raced: bool,
}

/// What a node tells the world.
#[derive(Debug)]
pub enum Told {
    /// I/O began.
    Io(Io),
    /// A request ended.
    Ended(Tag, Asked, Status),
    /// A command was answered.
    Reply(u64, Reply),
    /// A connection is to be closed.
    Close(u64),
    /// It takes requests, or does not any more.
    Role(bool),
    /// A change of volumes was made, or will not be.
    Changed(bool),
    /// It is attached.
    Started,
    /// It failed.
    Failed(FailReason),
    /// It is detached.
    Detached,
}

/// A machine.
#[expect(missing_docs, reason = "fields are named for what they are")]
pub struct Node {
    /// Which.
    pub number: usize,
    pub disk: Disk,
    pub engine: Option<Engine>,
    /// Counts attaches; what an older life began is void.
    pub life: u64,
    pub started: bool,
    /// The epoch at which its history ended then.
    pub attached_at: u64,
    pub serves: bool,
    pub asked: BTreeMap<Tag, Asked>,
    /// Writes that were acknowledged and whose tags are not free.
    pub early: BTreeMap<Tag, Asked>,
    /// Blocks that came from peers.
    pub received: BTreeMap<u64, Content>,
    /// Blocks that were read for peers.
    pub fetched: BTreeMap<u64, Content>,
    /// Data clusters that were written: what, and when.
    pub written: BTreeMap<u64, (Content, u64)>,
    /// Clusters that rot: what they should hold.
    pub rotten: BTreeMap<u64, Content>,
    /// Checks of all that has ever rotten here: others may have been told that nobody has it, and then
    /// have a cluster for it without that content.
    pub rotted: BTreeSet<u64>,
    /// A cluster that does not rot was read and did not match this check.
    pub odd: Option<(u64, u64)>,
    /// Scrubs that ended.
    pub scrubs: u64,
    /// The volume's slot and the number of each block that the last scrub found to be bad.
    found_bad: Vec<(u32, u64)>,
    /// In its next life its index knows next to nothing, and junk lies for some time.
    pub forgets: bool,
    /// Data I/O of requests that is under way.
    ios: BTreeMap<Tag, u32>,
    /// Requests that end with their I/O.
    handed: BTreeSet<Tag>,
    ended: VecDeque<(Tag, Asked)>,
}

struct Pages<'a>(&'a Disk);

impl PageSource for Pages<'_> {
    fn read(&mut self, cluster: Cluster, page: &mut [u8]) -> kernel::error::Result {
        self.0.read(cluster.0).bytes(page);
        Ok(())
    }
}

fn engine_config(number: usize, read_only: bool, rng: &mut Rng, small: bool) -> Config {
    let id = |rng: &mut Rng| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(rng.draw() | 1).to_le_bytes());
        id[8..].copy_from_slice(&rng.draw().to_le_bytes());
        id
    };
    Config {
        store_clusters: CLUSTERS[number % 3],
        read_only,
        queue_depth: TAGS,
        cache_pages: 128,
        index_bytes: 1 << 16,
        fresh: [id(rng), id(rng)],
        points_max: if small { 1024 } else { 4096 },
        hash: xxh64,
        knobs: Knobs {
            commit_interval: rng.between(20, 300),
            checkpoint_interval: rng.between(50, 2000),
            gc_delay: 0,
            keep_erased: 1 << 16,
            tranquility: 0,
            discard: rng.chance(1, 2),
            resync_tranquility: rng.pick(&[0, 1, 1000]),
            compress_wire: rng.chance(1, 2),
            ..Knobs::default()
        },
    }
}

/// Stands for a block of which a store has no good copy.
pub const LOST: Content = Content::MAX;

impl Node {
    /// A machine whose disk holds an empty member of a set.
    pub fn new(number: usize, config: &SetConfig) -> Node {
        let mut disk = Disk::new(CLUSTERS[number % 3], true);
        let record = Record {
            promise: config.term,
            keep: false,
            config: config.try_clone().expect("memory"),
        };
        let params = Params {
            clusters: CLUSTERS[number % 3],
            journal_clusters: 0,
            volume_blocks: BLOCKS,
            uuid: store_id(number),
            volume_uuid: VOLUME,
            label: [0; 64],
            fingerprint: FingerprintAlgorithm::Blake2b,
            name_key: 1,
            check_key: 2,
            hash: xxh64,
            member: Some(MemberParams {
                record: &record,
                volumes: &[],
            }),
        };
        mkfs::format::<()>(&params, &mut |step| {
            if let Step::Write(cluster, bytes) = step {
                for (cluster, page) in (cluster.0..).zip(bytes.chunks(CLUSTER)) {
                    disk.write_durable(cluster, Image::meta(page));
                }
            }
            Ok(())
        })
        .expect("a store is made");
        Node {
            number,
            disk,
            engine: None,
            life: 0,
            started: false,
            attached_at: 0,
            serves: false,
            asked: BTreeMap::new(),
            early: BTreeMap::new(),
            received: BTreeMap::new(),
            fetched: BTreeMap::new(),
            written: BTreeMap::new(),
            rotten: BTreeMap::new(),
            rotted: BTreeSet::new(),
            odd: None,
            scrubs: 0,
            found_bad: Vec::new(),
            forgets: false,
            ios: BTreeMap::new(),
            handed: BTreeSet::new(),
            ended: VecDeque::new(),
        }
    }

    /// Takes the births out of the superblocks, as a version does that knows none.
    pub fn forget_births(&mut self) {
        let mut layout = None;
        for distant in [false, true] {
            for slot in [0, 1] {
                let place = Layout::superblock(slot, layout.as_ref().filter(|_| distant)).0;
                let mut page = vec![0; CLUSTER];
                self.disk.read(place).bytes(&mut page);
                if let Ok(mut superblock) = Superblock::read(&page, xxh64) {
                    layout = Some(superblock.layout);
                    superblock.births = Births::default();
                    page.fill(0);
                    superblock.write(&mut page, xxh64);
                    self.disk.write_durable(place, Image::meta(&page));
                }
            }
        }
    }

    /// Begins to attach the store.
    pub fn attach(&mut self, now: u64, rng: &mut Rng) {
        let small = rng.chance(1, 3);
        let mut config = engine_config(self.number, false, rng, small);
        if std::mem::take(&mut self.forgets) {
            config.index_bytes = 64;
            config.knobs.gc_delay = GC_DELAY;
            config.knobs.keep_erased = u64::MAX;
        }
        let mut engine = Engine::new(config).expect("memory");
        engine.start(now);
        self.engine = Some(engine);
        self.life += 1;
        self.started = false;
        self.serves = false;
    }

    /// The power fails. `under_way` are writes that the disk may have begun.
    pub fn crash(&mut self, under_way: Vec<Io>, rng: &mut Rng) {
        let loss = match rng.below(5) {
            0 => Loss::All,
            1 => Loss::None,
            2 => Loss::Clusters(rng.between(1, 99) as u8),
            _ => Loss::Sectors(rng.between(1, 99) as u8),
        };
        for io in under_way {
            match io {
                Io::Write {
                    cluster, contents, ..
                } => {
                    for (cluster, content) in (cluster..).zip(contents) {
                        let mask = kept(loss, rng);
                        self.disk.write(cluster, Image::Data(content), mask);
                        self.rotten.remove(&cluster);
                        self.written.remove(&cluster);
                    }
                }
                Io::WriteMeta {
                    cluster,
                    buf,
                    durability,
                    sent,
                    ..
                } => {
                    // Nothing of it is written before what it has to follow is durable.
                    if durability == Durability::AllBefore {
                        if rng.chance(1, 2) {
                            continue;
                        }
                        self.disk.flush(sent);
                    }
                    for (cluster, page) in (cluster..).zip(buf.chunks(CLUSTER)) {
                        let mask = kept(loss, rng);
                        self.disk.write(cluster, Image::meta(page), mask);
                    }
                }
                _ => {}
            }
        }
        self.disk.power_cut(loss, rng);
        self.engine = None;
        self.life += 1;
        self.started = false;
        self.serves = false;
        self.asked.clear();
        self.early.clear();
        self.received.clear();
        self.fetched.clear();
        self.ios.clear();
        self.handed.clear();
        self.ended.clear();
    }

    /// I/O ended well.
    pub fn io_done(&mut self, now: u64, io: Io, rng: &mut Rng) {
        let Some(engine) = self.engine.as_mut() else {
            return;
        };
        let disk = &mut self.disk;
        let matches = |disk: &Disk, cluster: u64, check: u64| {
            let content = disk.read(cluster).content();
            (FINGERPRINTS.check(content) == check).then_some(content)
        };
        match io {
            Io::Write {
                tag,
                block,
                cluster,
                contents,
            } => {
                let count = contents.len() as u32;
                for (cluster, content) in (cluster..).zip(contents) {
                    disk.write(cluster, Image::Data(content), 0xff);
                    self.rotten.remove(&cluster);
                    self.written.insert(cluster, (content, now));
                }
                self.ios.entry(tag).and_modify(|n| *n -= 1);
                self.end_handed(tag, true);
                let Some(engine) = self.engine.as_mut() else {
                    return;
                };
                engine.data_done(now, tag, block, count, DataResult::Ok);
            }
            Io::Read {
                tag,
                block,
                cluster,
                check,
            } => {
                let found = matches(disk, cluster, check);
                if let (Some(content), Some(asked)) = (found, self.asked.get_mut(&tag)) {
                    asked.contents[block as usize] = content;
                }
                let result = match found {
                    Some(_) => DataResult::Ok,
                    None => DataResult::Mismatch,
                };
                if found.is_none() && !self.rotten.contains_key(&cluster) {
                    self.odd = Some((cluster, check));
                }
                self.ios.entry(tag).and_modify(|n| *n -= 1);
                self.end_handed(tag, found.is_some());
                let Some(engine) = self.engine.as_mut() else {
                    return;
                };
                engine.data_done(now, tag, block, 1, result);
            }
            Io::WriteMeta {
                token,
                cluster,
                buf,
                durability,
                sent,
            } => {
                if durability == Durability::AllBefore {
                    disk.flush(sent);
                }
                for (cluster, page) in (cluster..).zip(buf.chunks(CLUSTER)) {
                    match durability {
                        Durability::None => disk.write(cluster, Image::meta(page), 0xff),
                        _ => disk.write_durable(cluster, Image::meta(page)),
                    }
                }
                if durability == Durability::AllTogether {
                    disk.flush(sent);
                }
                engine.meta_done(now, token, buf, true);
            }
            Io::ReadMeta {
                token,
                cluster,
                mut buf,
            } => {
                for (cluster, page) in (cluster..).zip(buf.chunks_mut(CLUSTER)) {
                    disk.read(cluster).bytes(page);
                }
                engine.meta_done(now, token, buf, true);
            }
            Io::Flush { token, sent } => {
                disk.flush(sent);
                engine.meta_done(now, token, KVec::new(), true);
            }
            Io::Discard {
                token,
                cluster,
                count,
            } => {
                disk.discard(cluster, count, rng);
                for cluster in cluster..cluster + count {
                    self.rotten.remove(&cluster);
                    self.written.remove(&cluster);
                }
                engine.meta_done(now, token, KVec::new(), true);
            }
            Io::Verify {
                cluster,
                check,
                buf,
            } => {
                let result = match matches(disk, cluster, check) {
                    Some(_) => DataResult::Ok,
                    None => DataResult::Mismatch,
                };
                engine.verify_done(now, buf, result);
            }
            Io::Fetch {
                token,
                cluster,
                check,
            } => {
                let found = matches(disk, cluster, check);
                if let Some(content) = found {
                    self.fetched.insert(token, content);
                }
                engine.fetched(now, token, found.is_some());
            }
        }
    }

    /// The shell completes a request that was handed over when its I/O ends, before the store hears
    /// of it.
    fn end_handed(&mut self, tag: Tag, ok: bool) {
        if !ok {
            self.handed.remove(&tag);
        } else if self.ios.get(&tag) == Some(&0) && self.handed.remove(&tag) {
            if let Some(asked) = self.asked.remove(&tag) {
                self.ended.push_back((tag, asked));
            }
        }
    }

    /// Begins a scrub, if none goes on.
    pub fn begin_scrub(&mut self, now: u64) {
        self.found_bad.clear();
        if let Some(engine) = self.engine.as_mut() {
            let words = KVVec::from_elem(0, engine.scrub_words(), GFP_KERNEL).expect("memory");
            let _ = engine.begin_scrub(now, words);
        }
    }

    /// Gives a request to the store.
    pub fn submit(&mut self, now: u64, tag: Tag, asked: Asked, fua: bool) {
        let Some(engine) = self.engine.as_mut() else {
            return;
        };
        let request = Request {
            tag,
            kind: asked.kind,
            volume: asked.slot,
            lbn: Lbn(asked.lbn),
            count: asked.count,
            fua,
        };
        let blocks: Vec<_> = match asked.kind {
            OpKind::Write => asked.contents.iter().map(|c| described(*c)).collect(),
            _ => Vec::new(),
        };
        self.asked.insert(tag, asked);
        engine.submit(now, request, &blocks);
    }

    /// The next thing that the store tells, if it has something to tell.
    pub fn poll(&mut self, now: u64) -> Option<Told> {
        if let Some((tag, asked)) = self.ended.pop_front() {
            return Some(Told::Ended(tag, asked, Status::Ok));
        }
        let engine = self.engine.as_mut()?;
        let sent = self.disk.now();
        Some(match engine.poll_action(now)? {
            Action::ReadBlock {
                tag,
                block,
                cluster,
                check,
            } => {
                *self.ios.entry(tag).or_default() += 1;
                Told::Io(Io::Read {
                    tag,
                    block,
                    cluster: cluster.0,
                    check: check.0,
                })
            }
            Action::ScrubBlock {
                tag,
                block,
                cluster,
                check,
            } => Told::Io(Io::Read {
                tag,
                block,
                cluster: cluster.0,
                check: check.0,
            }),
            Action::ScrubFound { slot, lbn } => {
                self.found_bad.push((slot, lbn.0));
                return self.poll(now);
            }
            Action::ScrubEnded => {
                self.scrubs += 1;
                return self.poll(now);
            }
            Action::ZeroBlocks { tag, block, count } => {
                if let Some(asked) = self.asked.get_mut(&tag) {
                    asked.contents[block as usize..(block + count) as usize].fill(ZERO);
                }
                return self.poll(now);
            }
            Action::WriteRun {
                tag,
                block,
                count,
                cluster,
            } => {
                *self.ios.entry(tag).or_default() += 1;
                let contents = self
                    .asked
                    .get(&tag)
                    .or_else(|| self.early.get(&tag))
                    .map(|a| a.contents[block as usize..(block + count) as usize].to_vec());
                Told::Io(Io::Write {
                    tag,
                    block,
                    cluster: cluster.0,
                    contents: contents.unwrap_or_default(),
                })
            }
            Action::StageWrite {
                tag,
                handle,
                cluster,
            } => {
                *self.ios.entry(tag).or_default() += 1;
                Told::Io(Io::Write {
                    tag,
                    block: 0,
                    cluster: cluster.0,
                    contents: vec![self.received.get(&handle).copied().unwrap_or(u64::MAX)],
                })
            }
            Action::StageDrop { handle } => {
                self.received.remove(&handle);
                return self.poll(now);
            }
            Action::FetchBlock {
                token,
                cluster,
                check,
            } => Told::Io(Io::Fetch {
                token,
                cluster: cluster.0,
                check: check.0,
            }),
            Action::FetchDrop { token } => {
                self.fetched.remove(&token);
                return self.poll(now);
            }
            Action::CompleteAfterIo { tag } => {
                self.handed.insert(tag);
                if self.ios.get(&tag).copied().unwrap_or(0) == 0 {
                    self.ios.insert(tag, 0);
                    self.end_handed(tag, true);
                }
                return self.poll(now);
            }
            Action::Acknowledge { tag } => match self.asked.remove(&tag) {
                Some(asked) => {
                    self.early.insert(tag, asked.clone());
                    Told::Ended(tag, asked, Status::Ok)
                }
                None => return self.poll(now),
            },
            Action::Complete { tag, status } => {
                if self.early.remove(&tag).is_some() {
                    return self.poll(now);
                }
                match self.asked.remove(&tag) {
                    Some(asked) => Told::Ended(tag, asked, status),
                    None => return self.poll(now),
                }
            }
            Action::ReadMeta {
                token,
                cluster,
                buf,
            } => Told::Io(Io::ReadMeta {
                token,
                cluster: cluster.0,
                buf,
            }),
            Action::WriteMeta {
                token,
                cluster,
                buf,
                durability,
            } => Told::Io(Io::WriteMeta {
                token,
                cluster: cluster.0,
                buf,
                durability,
                sent,
            }),
            Action::VerifyData {
                cluster,
                check,
                buf,
                ..
            } => Told::Io(Io::Verify {
                cluster: cluster.0,
                check: check.0,
                buf,
            }),
            Action::Flush { token } => Told::Io(Io::Flush { token, sent }),
            Action::DiscardRun {
                token,
                cluster,
                count,
            } => Told::Io(Io::Discard {
                token,
                cluster: cluster.0,
                count,
            }),
            Action::CompareBlock { .. } => panic!("a cryptographic name is compared by bytes"),
            Action::SetReply { command, reply } => Told::Reply(command, reply),
            Action::ClosePeer { nonce, .. } => Told::Close(nonce),
            Action::Role { serves } => {
                self.serves = serves;
                Told::Role(serves)
            }
            Action::VolumeChanged { ok, .. } => Told::Changed(ok),
            Action::Started => {
                self.started = true;
                Told::Started
            }
            Action::Failed(reason) => Told::Failed(reason),
            Action::Detached(_) => Told::Detached,
        })
    }

    /// A cluster rots: what it holds is not what was written there.
    pub fn rot(&mut self, cluster: u64, salt: u64) {
        if let Some((content, _)) = self.written.get(&cluster) {
            self.rotten.insert(cluster, *content);
            self.rotted.insert(FINGERPRINTS.check(*content));
            self.disk.write_durable(cluster, Image::garbage(salt));
        }
    }

    /// Clusters that hold what `is_it` says, have done so durably for a while, and do not rot.
    pub fn sound(&self, now: u64, is_it: impl Fn(Content) -> bool) -> Vec<u64> {
        let holds = |cluster: u64, content: Content| {
            self.disk.durable(cluster).content() == content
                && self.disk.read(cluster).content() == content
        };
        let written = self.written.iter();
        written
            .filter(|(_, (content, at))| is_it(*content) && at + 1000 <= now)
            .filter(|(cluster, (content, _))| holds(**cluster, *content))
            .map(|(cluster, _)| *cluster)
            .collect()
    }

    /// How many blocks that its last scrub found to be bad hold what is good at `source`, whose volumes
    /// are equal.
    pub fn bad_but_good_at(&self, source: &Node, seed: u64) -> Result<u64, String> {
        let (_, image) = source.image(seed, true)?;
        let volumes = self.volumes();
        let is_good = |(slot, lbn): &&(u32, u64)| {
            let volume = volumes.iter().find(|(at, ..)| at == slot);
            let content = volume.and_then(|(_, uuid, _)| image.get(uuid)?.get(*lbn as usize));
            content.is_some_and(|c| *c != LOST && !source.rotten.values().any(|rots| rots == c))
        };
        Ok(self.found_bad.iter().filter(is_good).count() as u64)
    }

    /// Slots, UUIDs and sizes of the volumes that it shows.
    pub fn volumes(&self) -> Vec<(u32, Id, u64)> {
        let Some(engine) = self.engine.as_ref() else {
            return Vec::new();
        };
        let volume = |slot| engine.volume(slot).map(|v| (slot, v.uuid, v.blocks));
        (0..engine.volume_slots()).filter_map(volume).collect()
    }

    /// What is durable, if the machine fails now and its disk loses nothing more: the position, and
    /// each block of each volume. The store's own check must find nothing. What rots counts as what it
    /// was, and where blocks may be `lost` those are [`LOST`].
    pub fn image(&self, seed: u64, lost: bool) -> Result<(Position, Volumes), String> {
        let mut findings = Vec::new();
        // A power cut may tear one copy; an attach mends it.
        let torn =
            |f: &Finding| matches!(f, Finding::Superblock { .. } | Finding::ConfigSlot { .. });
        let mut report = |finding| {
            if !torn(&finding) {
                findings.push(format!("{finding:?}"));
            }
        };
        let clusters = CLUSTERS[self.number % 3];
        check(&mut Pages(&self.disk), clusters, xxh64, &mut report)
            .map_err(|e| format!("{e:?}"))?;
        if let Some(first) = findings.first() {
            return Err(format!("{} findings: {first}", findings.len()));
        }
        let mut rng = Rng::new(mix(seed));
        let mut reader = Node {
            number: self.number,
            disk: self.disk.clone(),
            engine: None,
            life: 0,
            started: false,
            attached_at: 0,
            serves: false,
            asked: BTreeMap::new(),
            early: BTreeMap::new(),
            received: BTreeMap::new(),
            fetched: BTreeMap::new(),
            written: BTreeMap::new(),
            rotten: BTreeMap::new(),
            rotted: BTreeSet::new(),
            odd: None,
            scrubs: 0,
            found_bad: Vec::new(),
            forgets: false,
            ios: BTreeMap::new(),
            handed: BTreeSet::new(),
            ended: VecDeque::new(),
        };
        for (cluster, content) in &self.rotten {
            let image = Image::Data(*content);
            reader.disk.write_durable(*cluster, image);
        }
        let mut engine =
            Engine::new(engine_config(self.number, true, &mut rng, false)).expect("memory");
        engine.start(1);
        reader.engine = Some(engine);
        reader.settle(&mut rng)?;
        let shown = reader.volumes();
        let mut read = |slot: u32, lbn: u64, count: u64| {
            let asked = Asked {
                kind: OpKind::Read,
                slot,
                lbn,
                count,
                contents: vec![ZERO; count as usize],
                stamp: 0,
                at: 1,
                raced: false,
            };
            reader.submit(1, 0, asked, false);
            reader.settle(&mut rng)
        };
        let mut image = Volumes::new();
        for (slot, uuid, blocks) in shown {
            let contents = image.entry(uuid).or_default();
            for first in (0..blocks).step_by(READ_MAX as usize) {
                let count = READ_MAX.min(blocks - first);
                match read(slot, first, count) {
                    Err(what) if lost && what == format!("{:?}", Status::Medium) => {
                        contents.extend((first..first + count).map(|lbn| {
                            match read(slot, lbn, 1) {
                                Err(_) => LOST,
                                Ok(read) => read.map_or(LOST, |read| read[0]),
                            }
                        }));
                    }
                    read => contents.extend(read?.ok_or("a read does not end")?),
                }
            }
        }
        let engine = reader.engine.as_ref().ok_or("no engine")?;
        let position = engine.member_position().ok_or("it is no member")?;
        Ok((position, image))
    }

    /// Does all I/O at once until nothing is left to do; answers what was read.
    fn settle(&mut self, rng: &mut Rng) -> Result<Option<Vec<Content>>, String> {
        let mut read = None;
        let mut ios = VecDeque::new();
        for _ in 0..1_000_000 {
            match self.poll(1) {
                Some(Told::Io(io)) => ios.push_back(io),
                Some(Told::Failed(reason)) => return Err(reason.to_string()),
                Some(Told::Ended(_, asked, Status::Ok)) => read = Some(asked.contents),
                Some(Told::Ended(_, _, status)) => return Err(format!("{status:?}")),
                Some(_) => {}
                None if !ios.is_empty() => {
                    if let Some(io) = ios.pop_front() {
                        self.io_done(1, io, rng);
                    }
                }
                None if self.engine.as_mut().is_some_and(|e| e.background(1)) => {}
                None => return Ok(read),
            }
        }
        Err("it does not settle".into())
    }
}
