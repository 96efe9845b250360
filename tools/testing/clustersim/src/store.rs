// SPDX-License-Identifier: GPL-2.0

//! The naive store below the engine: volumes are lists of contents, an epoch is applied by doing its
//! entries. It is right where it is slow, so that what fails is the protocol.

use ddup_engine::engine::replication::types::{Entry, Op, Position};
use ddup_engine::engine::{BlockContent, Check, Name};
use std::collections::{BTreeMap, BTreeSet};

/// A block's content; 0 is zeroes.
pub type Content = u32;

/// A block that nobody has a good copy of.
pub const BAD: Content = u32::MAX;

/// Volumes of a set.
pub const VOLUMES: u8 = 2;

/// The blocks of all volumes.
pub type Image = Vec<Content>;

/// The digest of a content.
pub fn digest(content: Content) -> [u8; 24] {
    let mut digest = [0x5a; 24];
    digest[..4].copy_from_slice(&content.to_le_bytes());
    digest
}

/// The content with a digest.
pub fn content(digest: &[u8; 24]) -> Content {
    Content::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// The check of a content.
pub fn check(content: Content) -> u64 {
    (u64::from(content).wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 16
}

/// What a shell finds out about a block that came.
pub fn described(content: Content) -> BlockContent {
    BlockContent {
        name: Name(digest(content)),
        check: Check(check(content)),
        zero: false,
    }
}

/// What an entry makes of a block's place in an image.
pub fn apply(image: &mut Image, entry: &Entry, content: Content) {
    let blocks = image.len() as u64 / u64::from(VOLUMES);
    let first = u64::from(entry.volume[0] - 1) * blocks + entry.lbn;
    for at in first..first + entry.count {
        image[at as usize] = match entry.op {
            Op::Write => content,
            Op::Zero => 0,
        };
    }
}

/// What a store was asked to make durable, in order.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Where it leads.
    pub position: Position,
    /// The state then.
    pub image: Image,
    /// A primary's own epoch.
    pub seal: bool,
}

/// A store.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// What a power cut leaves.
    pub durable: Image,
    /// Its position.
    pub tip: Position,
    /// What readers see.
    pub live: Image,
    /// Entries of the open epoch and of those that are not asked to be sealed.
    pub open: Vec<(u64, Entry)>,
    /// On its way to the disk.
    pub pending: Vec<Pending>,
    /// Contents that epochs refer to.
    pub pins: BTreeMap<u64, BTreeSet<Content>>,
    /// Contents of staged entries by token.
    pub staged: BTreeMap<u64, (Entry, Content)>,
    /// Frozen states.
    pub scans: BTreeMap<u64, Image>,
}

impl Store {
    /// An empty store.
    pub fn new(blocks: u64) -> Self {
        let image = vec![0; (blocks * u64::from(VOLUMES)) as usize];
        Store {
            durable: image.clone(),
            live: image,
            ..Store::default()
        }
    }

    /// Whether some good copy of a content is here.
    pub fn holds(&self, content: Content) -> bool {
        content == 0
            || self.durable.contains(&content)
            || self.live.contains(&content)
            || self.pending.iter().any(|p| p.image.contains(&content))
            || self.pins.values().any(|p| p.contains(&content))
            || self.staged.values().any(|s| s.1 == content)
            || self.scans.values().any(|s| s.contains(&content))
    }

    /// The newest state that was asked for, durable or not.
    pub fn newest(&self) -> Image {
        let last = self.pending.last();
        last.map_or_else(|| self.durable.clone(), |p| p.image.clone())
    }

    /// The newest position that was asked for, durable or not.
    pub fn newest_position(&self) -> Position {
        self.pending.last().map_or(self.tip, |p| p.position)
    }

    /// The oldest thing that was asked for is durable.
    pub fn complete(&mut self) {
        let pending = self.pending.remove(0);
        self.durable = pending.image;
        self.tip = pending.position;
    }

    /// The power fails.
    pub fn crash(&mut self) {
        self.live = self.durable.clone();
        self.open.clear();
        self.pending.clear();
        self.pins.clear();
        self.staged.clear();
        self.scans.clear();
    }
}
