// SPDX-License-Identifier: GPL-2.0

//! Ids, positions and limits of a replica set. Everything here is `Copy` and pure.

use super::super::types::{CLUSTER_SIZE, LBN_LIMIT, NAME_BYTES, VOLUMES_MAX};

/// Names a store, a set, a volume, a configuration or a reign.
pub type Id = [u8; 16];

/// Stands for "none" where an [`Id`] is stored.
pub const NO_ID: Id = [0; 16];

/// The most members of a set, those that are `out` included.
pub const MEMBERS_MAX: usize = 16;
/// The ids of the configurations before, newest first, that a configuration carries.
pub const ANCESTORS_MAX: usize = 32;
/// Reigns that a store remembers; positions of older ones count as unknown.
pub const REIGNS_MAX: usize = 24;
/// The most entries in one frame.
pub const BATCH_MAX: usize = 64;
/// Blocks that a peer asked for and that wait for others to share a frame: at each peer so many at
/// most.
pub const BLOCKS_WAIT_MAX: usize = 7;
/// The most ranges in one frame.
pub const RANGES_MAX: usize = 64;
/// The most mapped blocks of one range.
pub const RANGE_BLOCKS_MAX: u32 = 128;
/// The most volumes that the entries of one frame may belong to.
pub const BATCH_VOLUMES_MAX: usize = 16;
/// The most volumes of a set: a replica that is compared in full has a shadow beside each, and a frame
/// has all of them.
pub const SET_VOLUMES_MAX: usize = 256;

/// A point of a set's history: the end of an epoch.
///
/// Two stores at equal positions hold equal volumes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// The primary's term.
    pub term: u64,
    /// Identity of its rule, random: terms can be equal only if somebody was forced, reigns never.
    pub reign: Id,
    /// Consecutive over all reigns; 0 is the empty history.
    pub epoch: u64,
    /// Checksum of all canonical records up to here.
    pub chain: u64,
}

impl Position {
    /// The beginning: nothing was ever written.
    pub const ZERO: Position = Position {
        term: 0,
        reign: NO_ID,
        epoch: 0,
        chain: 0,
    };

    /// Whether one primary's rule led to both.
    pub fn is_of_reign(&self, other: &Position) -> bool {
        self.term == other.term && self.reign == other.reign
    }
}

/// A volume of a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Volume {
    /// Names it.
    pub uuid: Id,
    /// Its size.
    pub blocks: u64,
}

/// Names a block of a state whose volumes are in some order, by the place of its volume there.
pub const fn cursor(place: usize, lbn: u64) -> u64 {
    place as u64 * LBN_LIMIT + lbn
}

/// Whether a set may have these volumes.
pub fn are_volumes(volumes: &[Volume]) -> bool {
    let is_sound = |(at, volume): (usize, &Volume)| {
        let before = volumes.get(..at).unwrap_or(&[]);
        (1..=LBN_LIMIT).contains(&volume.blocks) && before.iter().all(|v| v.uuid != volume.uuid)
    };
    (1..=SET_VOLUMES_MAX).contains(&volumes.len()) && volumes.iter().enumerate().all(is_sound)
}

/// What an entry does to its volume. Numbers are on the wire and in the chain: preserve them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Op {
    /// One block gets content.
    #[default]
    Write = 1,
    /// A range of blocks reads as zeroes.
    Zero = 2,
    /// There is one more volume.
    Create = 3,
    /// It has another size.
    Resize = 4,
    /// It goes, and all that it holds.
    Remove = 5,
    /// A range of blocks is as the replica holds it. In no epoch: only a diff says that.
    Keep = 6,
}

impl Op {
    /// Whether it changes which volumes there are, or their sizes: such an entry is alone in its
    /// epoch.
    pub fn changes_volumes(self) -> bool {
        matches!(self, Op::Create | Op::Resize | Op::Remove)
    }

    /// Whether it changes blocks of a volume.
    pub fn changes_blocks(self) -> bool {
        matches!(self, Op::Write | Op::Zero)
    }
}

/// One change, as it is replicated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// What is done.
    pub op: Op,
    /// The primary had no copy of the content before: peers cannot have one, the data goes along.
    pub fresh: bool,
    /// The volume.
    pub volume: Id,
    /// First block; 0 if the volume itself changes.
    pub lbn: u64,
    /// Blocks: 1 for a write, the new size if the volume itself changes, 0 if it goes.
    pub count: u64,
    /// Check of the content, under the set's key; 0 without content.
    pub check: u64,
    /// Cryptographic digest of the content; zeroes without content.
    pub digest: [u8; NAME_BYTES],
}

impl Entry {
    /// Whether a writer writes such an entry.
    pub fn is_sound(&self) -> bool {
        let in_range = self.count > 0
            && self.count <= LBN_LIMIT
            && self.lbn < LBN_LIMIT
            && self.lbn + self.count <= LBN_LIMIT;
        let no_content = !self.fresh && self.check == 0 && self.digest == [0; 24];
        match self.op {
            Op::Write => in_range && self.count == 1,
            Op::Zero | Op::Keep => in_range && no_content,
            Op::Create | Op::Resize => in_range && no_content && self.lbn == 0,
            Op::Remove => no_content && self.lbn == 0 && self.count == 0,
        }
    }

    /// Bytes of data that follow in the frame.
    pub fn data_bytes(&self) -> usize {
        if self.fresh {
            CLUSTER_SIZE
        } else {
            0
        }
    }
}

/// What a member can hold; each tells its peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Entries that may be under way to it or staged in it.
    pub entries: u32,
    /// Entries of the largest epoch; at most a quarter of `entries`.
    pub epoch: u32,
    /// Blocks that it may ask for at once.
    pub needs: u32,
}

/// How many mapped blocks a range has at most that is for such a member: its credit suffices for them.
pub(super) fn range_blocks_of(limits: &Limits) -> u32 {
    (limits.entries / 2).clamp(1, RANGE_BLOCKS_MAX)
}

impl Limits {
    /// Whether a set can work with them.
    pub fn are_sound(&self) -> bool {
        (4..=1 << 20).contains(&self.entries)
            && (1..=self.entries / 4).contains(&self.epoch)
            && (1..=1 << 12).contains(&self.needs)
    }
}

const _: () = {
    assert!(NAME_BYTES == 24);
    // Twice as many while they are compared, and as many again that are still being released.
    assert!(3 * SET_VOLUMES_MAX < VOLUMES_MAX);
};
