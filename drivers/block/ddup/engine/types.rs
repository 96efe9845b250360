// SPDX-License-Identifier: GPL-2.0

//! The numbers of the engine: newtypes, limits, and the relations between limits.
//!
//! Everything here is `Copy` and pure. A limit that another file relies on is related to its
//! neighbours by a compile-time assertion at the end of this file.

/// log2 of the cluster size; fixed at format time and refused if different.
pub const CLUSTER_SHIFT: u32 = 12;
/// Bytes in a cluster and in a block of a volume.
pub const CLUSTER_SIZE: usize = 1 << CLUSTER_SHIFT;
/// Clusters in a segment (16 MiB).
pub const SEGMENT_CLUSTERS: u64 = 4096;
/// Clusters of a store are numbered with 40 bits.
pub const CLUSTER_LIMIT: u64 = 1 << 40;
/// Blocks of a volume are numbered with 40 bits (4 PiB).
pub const LBN_LIMIT: u64 = 1 << 40;
/// Bytes of a fingerprint as stored in the name tree.
pub const NAME_BYTES: usize = 24;
/// A check is the low 48 bits of a keyed hash of a block's content.
pub const CHECK_MASK: u64 = (1 << 48) - 1;
/// Blocks in the largest request (1 MiB).
pub const REQUEST_BLOCKS_MAX: u32 = 256;
/// Clusters in the largest journal block (64 KiB).
pub const JOURNAL_BLOCK_CLUSTERS_MAX: u64 = 16;
/// Volumes (of all kinds) that a store may hold at once.
pub const VOLUMES_MAX: usize = 1 << 10;
/// The longest chain of incarnations that the superblock keeps between two checkpoints.
pub const JOINS_MAX: usize = 32;
/// The most block changes that a checkpoint may be told to wait for.
pub const POINTS_LIMIT: u32 = 1 << 18;
/// Levels of the deepest tree: a leaf and five interior levels reach 4 PiB.
pub const LEVELS_MAX: usize = 7;

/// A cluster of the backing device. Zero is the superblock and stands for "none" in entries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Cluster(pub u64);

impl Cluster {
    /// No cluster: a block that reads as zeroes.
    pub const NONE: Cluster = Cluster(0);

    /// The segment that holds this cluster.
    pub fn segment(self) -> usize {
        (self.0 / SEGMENT_CLUSTERS) as usize
    }
}

/// A block of a volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Lbn(pub u64);

/// What the shell found out about a block that is to be written, or that came from a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BlockContent {
    /// Its name.
    pub name: Name,
    /// Its check.
    pub check: Check,
    /// All its bytes are zero; name and check are not looked at.
    pub zero: bool,
}

/// What names a block's content. All zeroes is [`Name::NONE`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Name(pub [u8; NAME_BYTES]);

impl Name {
    /// The name of content that nothing may share (a collision of a fast fingerprint), and of a
    /// cluster that holds nothing.
    pub const NONE: Name = Name([0; NAME_BYTES]);

    /// The first eight bytes: spread well enough to hash by.
    pub fn hash(&self) -> u64 {
        let mut head = [0u8; 8];
        head.copy_from_slice(&self.0[..8]);
        u64::from_le_bytes(head)
    }
}

/// The short checksum of a block's content that its map entry carries (48 bits).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Check(pub u64);

/// The store-wide counter that dates entries and pages; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Generation(pub u32);

/// Milliseconds of a monotonic clock that the shell owns; its zero is of no importance.
pub type Millis = u64;

/// A request's handle, chosen by the shell: below `Config::queue_depth`, unique while in flight.
pub type Tag = u32;

/// How fingerprints are made; fixed at format time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FingerprintAlgorithm {
    /// The first 192 bits of BLAKE2b-256, keyed with nothing: equal names are equal content.
    Blake2b = 1,
    /// The first 192 bits of SHA-256: equal names are equal content.
    Sha256 = 2,
    /// 64 bits of XXH64 under the store's key, then the 48-bit check: a hit is compared by bytes.
    Xxh64 = 3,
}

impl FingerprintAlgorithm {
    /// The stored number, if it is known.
    pub fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Blake2b),
            2 => Some(Self::Sha256),
            3 => Some(Self::Xxh64),
            _ => None,
        }
    }

    /// Whether equal names prove equal content (else the bytes are compared).
    pub fn is_cryptographic(self) -> bool {
        !matches!(self, Self::Xxh64)
    }
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// All of it was done, as durably as it asked.
    Ok,
    /// The backing device failed.
    Io,
    /// No cluster, or no metadata page, was left for it.
    NoSpace,
    /// The content on disk does not match its check and no good copy exists.
    Medium,
    /// The store is attached read-only or became so.
    ReadOnly,
    /// Beyond the end of the volume, or of no known volume.
    Range,
}

const _: () = {
    assert!(CLUSTER_LIMIT <= 1 << 40);
    assert!(JOURNAL_BLOCK_CLUSTERS_MAX * CLUSTER_SIZE as u64 <= u16::MAX as u64 + 1);
    assert!(REQUEST_BLOCKS_MAX as u64 <= SEGMENT_CLUSTERS);
};
