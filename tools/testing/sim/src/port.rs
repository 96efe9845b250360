// SPDX-License-Identifier: GPL-2.0

//! What the simulator needs of a store: the engine's contract, without the engine.
//!
//! The real engine is joined in `real.rs`; `toy.rs` holds a small store that is right, and a
//! number of ways to make it wrong, by which the simulator itself is tested.

use crate::content::{Content, Fingerprints};
use crate::disk::Disk;
use crate::script::Setup;
use kernel::prelude::KVec;
use std::collections::BTreeMap;

/// Milliseconds of the simulated clock.
pub type Millis = u64;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read blocks.
    Read,
    /// Write blocks.
    Write,
    /// Make durable what was acknowledged.
    Flush,
    /// Unmap blocks.
    Discard,
    /// Make blocks read as zeroes.
    WriteZeroes,
}

/// A request to the store.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Below the queue's depth, unique while in flight.
    pub tag: u32,
    /// What it asks for.
    pub kind: Kind,
    /// Slot of the volume.
    pub volume: u32,
    /// First block.
    pub lbn: u64,
    /// Blocks.
    pub count: u64,
    /// Durable when it completes.
    pub fua: bool,
}

/// How data I/O ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataResult {
    /// It succeeded.
    Ok,
    /// A comparison found equal bytes.
    Equal,
    /// A comparison found different bytes.
    Differs,
    /// A read returned what does not match its check.
    Mismatch,
    /// The disk failed it.
    Failed,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All of it was done.
    Ok,
    /// No space was left.
    NoSpace,
    /// Anything else; the text names it.
    Error(&'static str),
}

/// What is durable when a write of metadata completes, at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing yet.
    None,
    /// What was written.
    Own,
    /// What was written, and before it everything that had completed when it was sent.
    AllBefore,
    /// What was written, and everything that had completed when it was sent, in any order.
    AllTogether,
}

/// A change of a volume. The volumes of a history have numbers, and UUIDs that hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// One more, of this many blocks.
    Create(u64, u64),
    /// The volume in this slot gets this many blocks.
    Resize(u32, u64),
    /// The volume in this slot goes.
    Remove(u32),
}

/// A volume that the store shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its number in the history.
    pub number: u64,
    /// Its slot in the store.
    pub slot: u32,
    /// Its size.
    pub blocks: u64,
}

/// What the store wants done. The fields are those of the engine's contract.
#[allow(missing_docs)]
pub enum Action<T> {
    ReadBlock {
        tag: u32,
        block: u32,
        cluster: u64,
        check: u64,
    },
    ScrubBlock {
        tag: u32,
        block: u32,
        cluster: u64,
        check: u64,
    },
    ScrubFound {
        slot: u32,
        lbn: u64,
    },
    ScrubEnded,
    ZeroBlocks {
        tag: u32,
        block: u32,
        count: u32,
    },
    WriteRun {
        tag: u32,
        block: u32,
        count: u32,
        cluster: u64,
    },
    CompareBlock {
        tag: u32,
        block: u32,
        cluster: u64,
    },
    /// Complete the write now, with success; its tag is taken until `Complete`.
    Acknowledge {
        /// The request.
        tag: u32,
    },
    /// Complete the request when its data I/O has succeeded.
    CompleteAfterIo {
        tag: u32,
    },
    Complete {
        tag: u32,
        status: Status,
    },
    ReadMeta {
        token: T,
        cluster: u64,
        buf: KVec<u8>,
    },
    WriteMeta {
        token: T,
        cluster: u64,
        buf: KVec<u8>,
        durability: Durability,
    },
    VerifyData {
        cluster: u64,
        check: u64,
        buf: KVec<u8>,
    },
    Flush {
        token: T,
    },
    DiscardRun {
        token: T,
        cluster: u64,
        count: u64,
    },
    VolumeChanged {
        slot: u32,
        ok: bool,
    },
    Started,
    Failed {
        reason: String,
    },
    Detached {
        ok: bool,
    },
    Event(String),
}

/// Numbers that the store counts about itself since it was attached.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Counters {
    pub checkpoints: u64,
    pub journal_wraps: u64,
    pub clusters_recycled: u64,
    /// Data clusters that could be written without freeing anything.
    pub clusters_free: u64,
    pub clusters_data: u64,
    /// Pages of metadata segments, and those of them that are free.
    pub metadata_capacity: u64,
    pub metadata_free: u64,
    /// Levels of the deepest map.
    pub levels: u32,
}

/// A store under test.
pub trait Store: Sized {
    /// Names metadata I/O in flight.
    type Token: Copy + std::fmt::Debug;

    /// Writes an empty store to the disk.
    fn format(disk: &mut Disk, setup: &Setup) -> Result<(), String>;
    /// Makes a store; recovery begins with [`Store::start`].
    fn new(setup: &Setup, disk_clusters: u64) -> Result<Self, String>;
    /// Holds the disk's whole state against the format's invariants, after an attach or a detach.
    fn check(disk: &Disk, setup: &Setup) -> Result<(), String>;
    /// The clusters of the journal.
    fn journal(setup: &Setup, clusters: u64) -> std::ops::Range<u64>;
    /// Whether an I/O is for advice, which nobody has to wait for.
    fn is_advice(token: Self::Token) -> bool {
        let _ = token;
        false
    }
    /// Clusters that may rot without a trace, as a clean detach leaves the disk: advice.
    fn advice(disk: &Disk, setup: &Setup) -> Option<std::ops::Range<u64>> {
        let _ = (disk, setup);
        None
    }
    /// The clusters of the newest durable block of the journal.
    fn journal_end(setup: &Setup, disk: &Disk) -> std::ops::Range<u64>;

    /// Begins recovery; ends in `Started` or `Failed`.
    fn start(&mut self, now: Millis);
    /// A request; `contents` has one entry a block for a write.
    fn submit(&mut self, now: Millis, request: Request, contents: &[Content], f: &Fingerprints);
    /// Data I/O ended.
    fn data_done(&mut self, now: Millis, tag: u32, block: u32, count: u32, result: DataResult);
    /// Metadata I/O ended.
    fn meta_done(&mut self, now: Millis, token: Self::Token, buf: KVec<u8>, ok: bool);
    /// A request that ends with this write, which was given out just now.
    fn hand_over_commit(&mut self, token: Self::Token) -> Option<u32> {
        let _ = token;
        None
    }
    /// Data that recovery asked about was looked at.
    fn verify_done(&mut self, now: Millis, buf: KVec<u8>, result: DataResult) {
        let _ = (now, buf, result);
    }
    /// The next thing to be done.
    fn poll_action(&mut self, now: Millis) -> Option<Action<Self::Token>>;
    /// One step of background work; true: there is more.
    fn background(&mut self, now: Millis) -> bool;
    /// When [`Store::background`] has to be called at the latest.
    fn next_deadline(&self) -> Option<Millis>;
    /// Whether it is to be told soon of data I/O that went well; else when there is other news.
    fn is_eager(&self) -> bool {
        true
    }
    /// Whether writes that find no space wait for some, from here on; else they fail.
    fn set_wait_for_space(&mut self, wait: bool) {
        let _ = wait;
    }
    /// Begins a change of a volume; `None`: not now. Ends in `VolumeChanged`.
    fn change_volume(&mut self, now: Millis, change: Change) -> Option<u32> {
        let _ = (now, change);
        None
    }
    /// The volumes that there are, and whether some part of one is still being released. `None`: the
    /// store has always one.
    fn volumes(&self) -> Option<(Vec<Volume>, bool)> {
        None
    }
    /// Keeps the durable checkpoint on the disk; answers what names this pin, and what the check of
    /// it begins with. `None`: not now.
    fn pin(&mut self, now: Millis) -> Option<(u64, Vec<u8>)> {
        let _ = now;
        None
    }
    /// Keeps a pin, of which the segment table need no longer stay. False: it has ended.
    fn keep_pin(&mut self, now: Millis, cookie: u64) -> bool {
        let _ = (now, cookie);
        false
    }
    /// Ends a pin. False: it had ended before.
    fn unpin(&mut self, now: Millis, cookie: u64) -> bool {
        let _ = (now, cookie);
        false
    }
    /// Holds a pinned checkpoint against the format's invariants. What was read of places that may
    /// change is taken from `kept`, which the first check fills.
    fn check_pinned(
        disk: &Disk,
        setup: &Setup,
        root: &[u8],
        kept: &mut Option<BTreeMap<u64, Vec<u8>>>,
    ) -> Result<(), String> {
        let _ = (disk, setup, root, kept);
        Ok(())
    }
    /// Begins a scrub; ends in `ScrubEnded`. False: not now.
    fn begin_scrub(&mut self, now: Millis) -> bool {
        let _ = now;
        false
    }
    /// Ends the scrub that goes on. False: there is none.
    fn stop_scrub(&mut self, now: Millis) -> bool {
        let _ = now;
        false
    }
    /// Begins a clean detach; ends in `Detached`.
    fn detach(&mut self, now: Millis);
    /// The store's own counters.
    fn counters(&self) -> Counters;
}
