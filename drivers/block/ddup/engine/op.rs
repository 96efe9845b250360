// SPDX-License-Identifier: GPL-2.0

//! Requests in flight: one [`Op`] per tag, allocated at attach, and the lists they wait in.
//!
//! An op is in at most one list: of a page, of the admission queue, of those that wait for space,
//! for a commit, or of those that can run. Blocks that wait for a twin (the same new content in
//! another request) hang on that twin and not in a list.

use super::stage::StageOp;
pub use super::types::BlockContent;
use super::types::{Cluster, Lbn, Millis, Status, Tag};
use kernel::prelude::*;

const NIL: u32 = u32::MAX;

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpKind {
    /// Fill the request's pages.
    Read,
    /// Store the request's pages.
    Write,
    /// Make all acknowledged writes durable.
    Flush,
    /// The blocks may read as zeroes from now on; they do.
    Discard,
    /// The blocks read as zeroes from now on.
    WriteZeroes,
}

/// A request of the shell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Its handle.
    pub tag: Tag,
    /// What it asks for.
    pub kind: OpKind,
    /// Slot of the volume.
    pub volume: u32,
    /// First block.
    pub lbn: Lbn,
    /// Blocks: 1 to [`super::types::REQUEST_BLOCKS_MAX`] for reads and writes, any number for
    /// discards and write-zeroes, not looked at for flushes.
    pub count: u64,
    /// Complete a write only when it is durable.
    pub fua: bool,
}

/// Where a block of a request stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockState {
    /// Nothing was done yet (reads: or the last try failed).
    Start,
    /// A fast fingerprint hit; the shell compares the bytes with `cluster`, which is held.
    Compare,
    /// The same new content is being written by another block; runs when that ends.
    Twin,
    /// The content must be written, but there was no cluster.
    NoCluster,
    /// The shell moves its data to or from `cluster`.
    Io,
    /// `cluster` holds its content and had it before (a duplicate); not journaled yet.
    Ready,
    /// `cluster` holds its content, which this request wrote; not journaled yet.
    ReadyFresh,
    /// The same, of an epoch whose entries are journaled at once; `cluster` is held.
    Staged,
    /// Its cluster does not match its check; a heal is to be begun.
    Bad,
    /// It waits for a heal of its block; runs when that ends.
    Heal,
    /// All is done.
    Done,
    /// It will not be done; the op's status says why.
    Failed,
}

/// A block of a request in flight.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// What is to be written; for a read, `check` is what must be found.
    pub content: BlockContent,
    /// Where it lies or goes; in state Start, a candidate whose bytes differ.
    pub cluster: Cluster,
    /// Where it stands.
    pub state: BlockState,
    /// Tries that failed.
    pub retries: u8,
    /// It does not share: what it would have to know can't be read.
    pub alone: bool,
    /// Candidates of the index whose bytes differ; for a read, heals that it has waited for.
    pub passed: u8,
    /// No try got its data to the disk, and it was acknowledged.
    pub lost: bool,
    /// It owns the hash lock of its name.
    pub owner: bool,
    /// First of the blocks that wait for this one (tag << 9 | block), or the next such block. Those
    /// that wait for a heal are chained the same way.
    pub twin: u32,
}

/// No block.
pub const NO_TWIN: u32 = u32::MAX;

/// The handle of a block of a request.
pub fn block_id(tag: Tag, block: u32) -> u32 {
    tag << 9 | block
}

/// Tag and block of a handle.
pub fn block_of(id: u32) -> (Tag, u32) {
    (id >> 9, id & 511)
}

/// Where an op stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// No request has this tag.
    Idle,
    /// Waits until there is room for what it will change.
    Admission,
    /// Can run, runs, or waits for a page or for I/O.
    Running,
    /// All is done but the commit that makes it durable.
    Commit,
}

/// What an op may still add; promised when it was admitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reservation {
    /// Bytes of journal records.
    pub bytes: usize,
    /// Points of the overlay.
    pub points: usize,
    /// Deltas of the overlay.
    pub deltas: usize,
    /// Punches of the overlay.
    pub punches: usize,
    /// Pages that a checkpoint may rewrite for it.
    pub pages: u64,
    /// Entries of the open epoch of a replica set.
    pub entries: usize,
}

/// A request in flight.
pub struct Op {
    /// What was asked.
    pub request: Request,
    /// Where it stands.
    pub phase: Phase,
    /// Its blocks, for reads and writes.
    pub blocks: KVec<Block>,
    /// The first block that was not looked at yet.
    pub cursor: u32,
    /// Blocks whose data I/O is with the shell.
    pub io: u32,
    /// Blocks that are neither Done nor Failed.
    pub todo: u32,
    /// The worst that happened.
    pub status: Status,
    /// The shell was told to complete it when its I/O ends, and has not reported a failure.
    pub handed_over: bool,
    /// It was acknowledged before its data was on disk.
    pub early: bool,
    /// It waits for nothing but its data I/O, and the engine has to hear of that to go on.
    pub listens: bool,
    /// The journal block that must be durable, in phase Commit.
    pub sequence: u64,
    /// What it may still add.
    pub reservation: Reservation,
    /// Which half of the read counters it is counted in.
    pub epoch: usize,
    /// When it came.
    pub since: Millis,
    /// When a read began to wait for heals.
    pub heal_since: Option<Millis>,
    /// The shell's name of it in events, 0 if it has none.
    pub key: u64,
    /// It is no request, but stages an entry of an epoch, or heals a block.
    pub stage: Option<StageOp>,
    queued: bool,
    next: u32,
}

/// A list of ops in order of arrival.
#[derive(Debug)]
pub struct WaitList {
    head: u32,
    tail: u32,
}

impl Default for WaitList {
    fn default() -> Self {
        Self::new()
    }
}

impl WaitList {
    /// An empty list.
    pub const fn new() -> Self {
        WaitList {
            head: NIL,
            tail: NIL,
        }
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.head == NIL
    }

    /// The first that waits.
    pub fn first(&self) -> Option<Tag> {
        (self.head != NIL).then_some(self.head)
    }
}

/// All ops, by tag.
pub struct Ops {
    ops: KVVec<Op>,
    /// Ops in flight.
    pub in_flight: u32,
}

impl Ops {
    /// Room for tags below `depth`.
    pub fn new(depth: u32) -> Result<Ops> {
        let mut ops = KVVec::with_capacity(depth as usize, GFP_KERNEL)?;
        for _ in 0..depth {
            let op = Op {
                request: Request {
                    tag: 0,
                    kind: OpKind::Flush,
                    volume: 0,
                    lbn: Lbn(0),
                    count: 0,
                    fua: false,
                },
                phase: Phase::Idle,
                blocks: KVec::new(),
                cursor: 0,
                io: 0,
                todo: 0,
                status: Status::Ok,
                handed_over: false,
                early: false,
                listens: false,
                sequence: 0,
                reservation: Reservation::default(),
                epoch: 0,
                since: 0,
                heal_since: None,
                key: 0,
                stage: None,
                queued: false,
                next: NIL,
            };
            ops.push(op, GFP_KERNEL)?;
        }
        Ok(Ops { ops, in_flight: 0 })
    }

    /// Tags are below this.
    pub fn depth(&self) -> u32 {
        self.ops.len() as u32
    }

    /// The op of a tag.
    pub fn get(&self, tag: Tag) -> Option<&Op> {
        self.ops.get(tag as usize)
    }

    /// The op of a tag, to change it.
    pub fn get_mut(&mut self, tag: Tag) -> Option<&mut Op> {
        self.ops.get_mut(tag as usize)
    }

    /// A block of an op.
    pub fn block(&self, tag: Tag, block: u32) -> Option<&Block> {
        self.get(tag)?.blocks.get(block as usize)
    }

    /// A block of an op, to change it.
    pub fn block_mut(&mut self, tag: Tag, block: u32) -> Option<&mut Block> {
        self.get_mut(tag)?.blocks.get_mut(block as usize)
    }

    /// Puts an op at the end of a list; one that is in a list already stays there.
    pub fn park(&mut self, list: &mut WaitList, tag: Tag) {
        let Some(op) = self.ops.get_mut(tag as usize) else {
            return;
        };
        if op.queued {
            return;
        }
        op.queued = true;
        op.next = NIL;
        match self.ops.get_mut(list.tail as usize) {
            Some(last) => last.next = tag,
            None => list.head = tag,
        }
        list.tail = tag;
    }

    /// Whether an op is in a list.
    pub fn is_queued(&self, tag: Tag) -> bool {
        self.get(tag).is_some_and(|op| op.queued)
    }

    /// Takes the first op of a list.
    pub fn unpark(&mut self, list: &mut WaitList) -> Option<Tag> {
        let tag = list.first()?;
        let op = self.ops.get_mut(tag as usize)?;
        op.queued = false;
        list.head = op.next;
        if list.head == NIL {
            list.tail = NIL;
        }
        Some(tag)
    }

    /// Moves a whole list to the end of another.
    pub fn append(&mut self, list: &mut WaitList, mut more: WaitList) {
        while let Some(tag) = self.unpark(&mut more) {
            self.park(list, tag);
        }
    }

    /// Takes all ops of a list for which `ready` holds to the end of another, keeping their order.
    pub fn take_where(
        &mut self,
        list: &mut WaitList,
        to: &mut WaitList,
        ready: impl Fn(&Op) -> bool,
    ) {
        let mut rest = WaitList::new();
        while let Some(tag) = self.unpark(list) {
            if self.get(tag).is_some_and(&ready) {
                self.park(to, tag);
            } else {
                self.park(&mut rest, tag);
            }
        }
        *list = rest;
    }
}
