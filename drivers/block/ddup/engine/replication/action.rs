// SPDX-License-Identifier: GPL-2.0

//! What a set asks of its shell, and what it tells.

use super::super::births::Births;
use super::super::types::{Generation, NAME_BYTES};
use super::config::Refusal;
use super::heal::Wanted;
use super::history::History;
use super::types::{Entry, Id, Limits, Position, Volume};
use kernel::prelude::*;

/// Where a staged entry's content comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// From what this store holds already.
    Held,
    /// From a block that came with a frame; its check is still to be compared.
    Data(u64),
    /// Nobody has it: the block will read as an error.
    Lost,
}

/// How staging an entry ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StageResult {
    /// Its content is held and pinned.
    Held,
    /// There is no such content here, or what came does not match its check.
    Lacks,
    /// The store failed or has no space.
    Failed,
}

/// What is to be done. Each names the input that reports its end, if one does.
#[derive(Debug)]
pub enum Action {
    /// Write a slot of configurations: both copies, each followed by a flush. [`Set::persisted`].
    ///
    /// [`Set::persisted`]: super::set::Set::persisted
    Persist {
        /// Comes back.
        token: u64,
        /// Decides the slot.
        generation: u64,
        /// The slot's cluster.
        slot: KVec<u8>,
        /// The copy that is written before the other.
        first: usize,
    },
    /// Make all of this primary's entries durable, with the end of their epoch.
    /// `Set::sealed`, in order.
    Seal(Position),
    /// Resolve, hold and pin an entry's content; of a change of volumes say whether it can be made.
    /// `Set::staged`.
    Stage {
        /// Comes back; consecutive within an epoch.
        token: u64,
        /// The entry.
        entry: Entry,
        /// Where its content is.
        source: Source,
        /// It is of a full compare, which [`Action::Switch`] ends, and of no epoch.
        resync: bool,
    },
    /// Whatever is staged and was not told to be applied is void: let go of it, and of the data that
    /// came with it. What of it a compare has built stays.
    Void,
    /// What the last compare has built is void.
    Unbuild,
    /// A block that came will not be staged.
    StageDrop(u64),
    /// Apply an epoch's staged entries: journal all or nothing, and flush. `Set::applied`, in order.
    Apply {
        /// The epoch's end.
        position: Position,
        /// Token of its first entry.
        token: u64,
        /// Its entries.
        count: u32,
    },
    /// A full compare begins: the state that is told has these volumes and no others.
    Compare {
        /// All of them.
        volumes: KVec<Volume>,
    },
    /// The state after a full compare takes the place of all volumes, at once or not at all, and
    /// durably: the volumes of [`Action::Compare`] with these staged entries, and all else zeroes.
    /// `Set::applied`.
    Switch {
        /// The state's position.
        position: Position,
        /// Its history.
        history: History,
        /// Token of its first entry.
        token: u64,
        /// Its entries.
        count: u32,
    },
    /// Content that only epochs up to this one refer to may be let go of.
    Release(u64),
    /// Freeze a state that is the end of an epoch, for `Action::Scan`. `Set::scan_cut` if a checkpoint
    /// is cut for it, and `Set::scan_opened`.
    ScanOpen {
        /// Names the scan.
        scan: u64,
    },
    /// Give the next mapped blocks of a frozen state, all of one volume. `Set::scanned`.
    Scan {
        /// The scan.
        scan: u64,
        /// [`cursor`] of the first block in the frozen state's order, or what came with blocks before.
        ///
        /// [`cursor`]: super::types::cursor
        cursor: u64,
        /// At most so many.
        max: u32,
        /// Of what is not younger than this generation only give ranges, to be kept.
        since: Option<Generation>,
    },
    /// Give the mapped blocks of a range as they are in this store, one more than `max` at most; it
    /// is a replica, and nothing is being applied. What was asked before is not wanted any more.
    /// `Set::owned`.
    Own {
        /// Comes back.
        token: u64,
        /// The volume.
        volume: Id,
        /// The first block.
        first: u64,
        /// The block behind the last one.
        end: u64,
        /// So many are wanted.
        max: u32,
    },
    /// Freeze the state as it is, before anything else is applied: cut a checkpoint at once.
    /// `Set::scan_cut`, then `Set::scan_opened`; `Set::scan_lost` if another state is kept.
    Freeze {
        /// Names the scan.
        scan: u64,
    },
    /// Give the first mapped blocks of a range of a frozen state. `Set::scanned`.
    ScanRange {
        /// The scan.
        scan: u64,
        /// The volume; nothing is mapped in one that is not there.
        volume: Id,
        /// The first block.
        first: u64,
        /// The block behind the last one.
        end: u64,
        /// At most so many.
        max: u32,
    },
    /// Record what a block holds once more, if it still does; zeroes, if it still has none.
    /// `Set::repaired`.
    Repair {
        /// Comes back.
        token: u64,
        /// What it is.
        entry: Entry,
    },
    /// The frozen state is not needed any more.
    ScanClose(u64),
    /// Read a block that a peer lacks. `Set::fetched`.
    Fetch {
        /// Comes back.
        token: u64,
        /// The volume.
        volume: Id,
        /// The block.
        lbn: u64,
        /// Its content.
        digest: [u8; NAME_BYTES],
        /// The frozen state that it belongs to.
        scan: Option<u64>,
        /// Else the epoch that pins it, and which of its entries.
        pinned: (u64, u32),
    },
    /// A block that was read is not needed any more: it will not be sent.
    FetchDrop(u64),
    /// Look for a block that a peer asks for, and read it. `Set::fetched`.
    Look {
        /// Comes back.
        token: u64,
        /// The block.
        wanted: Wanted,
    },
    /// The end of `Set::ask`: the block that came and the digest of its content, or nobody has it. Or a
    /// block came that is missed.
    Answer {
        /// As it was numbered.
        number: u64,
        /// It came, and is what was wanted.
        found: Option<(u64, [u8; NAME_BYTES])>,
    },
    /// A FLUSH ended: true if everything before it is where it has to be.
    Flushed {
        /// As in `Set::flush`.
        tag: u64,
        /// Else it failed.
        ok: bool,
    },
    /// Answer a command.
    Reply {
        /// As the command was numbered.
        command: u64,
        /// The answer.
        reply: Reply,
    },
    /// Shut this session's connection.
    Close {
        /// The peer.
        peer: Id,
        /// The session.
        session: u64,
    },
}

/// A frozen state, which is the end of an epoch.
#[derive(Clone, Copy, Debug)]
pub struct FrozenState<'a> {
    /// The history up to there.
    pub history: &'a History,
    /// All volumes.
    pub volumes: &'a [Volume],
    /// Which generations had ended before.
    pub births: &'a Births,
    /// Blocks that are mapped.
    pub blocks: u64,
}

/// Mapped blocks of a frozen state.
#[derive(Debug)]
pub struct Shown {
    /// The volume that they are of.
    pub volume: Id,
    /// The blocks that were looked at: the first, and the one behind the last.
    pub range: (u64, u64),
    /// Those of them that are mapped, in order.
    pub entries: KVec<Entry>,
}

/// The answer to a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Done.
    Done,
    /// Lower terms are refused from now on; nothing more will be taken or acknowledged.
    Fenced {
        /// The configuration in force.
        config: Id,
        /// The end of the history.
        position: Position,
    },
    /// All was handed over: this store is not primary any more.
    Demoted(Position),
    /// Not done.
    Refused(Refusal),
}

/// What happened; hints for who watches, numbered so that a gap shows (clause 15).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A configuration is in force.
    Config,
    /// A session was established.
    PeerUp(Id),
    /// A session ended.
    PeerLost(Id),
    /// FLUSHes wait for a member that is away, or for members.
    FlushSuspended,
    /// They go on.
    FlushResumed,
    /// The peer may be committed as in sync, by the successor of the configuration in force.
    Joinable(Id, Position),
    /// Others have a newer configuration.
    Superseded,
    /// An in-sync peer has lost what it acknowledged.
    Regressed(Id),
    /// This store's history is not part of the primary's, and is kept until a person resolves it.
    Diverged(Id),
    /// The peer's configuration and this one's are unrelated.
    SplitBrain(Id),
    /// The reign begins to take requests.
    Reconciled,
    /// The store failed, or has no space.
    StoreFailed,
    /// This primary serves no more until it is given another lease.
    LeaseExpired,
    /// A verify of this peer has ended.
    Verified(Id),
}

/// A frame to be sent.
#[derive(Debug)]
pub struct Outgoing {
    /// Header and body.
    pub meta: KVec<u8>,
    /// The blocks whose 4096 bytes follow, in this order; packed if [`is_packed`] says so.
    ///
    /// [`is_packed`]: super::wire::is_packed
    pub blocks: KVec<Block>,
}

/// A block that is to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Block {
    /// What a fetch has read.
    Fetched(u64),
    /// Content of an entry of an epoch in the window, which pins it.
    Pinned {
        /// The epoch.
        epoch: u64,
        /// Which of its entries.
        index: u32,
        /// The content.
        digest: [u8; NAME_BYTES],
        /// Its check.
        check: u64,
    },
}

/// What a store runs a set with.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// The store.
    pub store: Id,
    /// Its incarnation, which rises with each attach.
    pub incarnation: u64,
    /// XXH64 of this side.
    pub hash: super::super::Hash,
    /// What it can hold.
    pub limits: Limits,
    /// Entries that are kept for peers which are behind.
    pub window: u32,
    /// A silent session is asked after this, in milliseconds.
    pub keepalive: u64,
    /// A session that nothing came from for so long is lost, in milliseconds.
    pub timeout: u64,
    /// It takes packed blocks.
    pub unpacks: bool,
    /// It takes merged epochs while it is asynchronous.
    pub merges: bool,
    /// Compares go on in the next session; a state stays frozen for that for so long, in milliseconds.
    /// 0: they begin anew.
    pub parks: u64,
}
