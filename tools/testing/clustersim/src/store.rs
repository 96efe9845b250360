// SPDX-License-Identifier: GPL-2.0

//! The naive store below the engine: volumes are lists of contents, an epoch is applied by doing its
//! entries. It is right where it is slow, so that what fails is the protocol.

use ddup_engine::engine::births::{Births, Tick};
use ddup_engine::engine::replication::epoch::{Epoch, Window};
use ddup_engine::engine::replication::types::{Entry, Op, Position, Volume};
use ddup_engine::engine::types::Generation;
use ddup_engine::engine::{BlockContent, Check, Name};
use kernel::prelude::{KVVec, GFP_KERNEL};
use std::collections::{BTreeMap, BTreeSet};

/// A block's content; 0 is zeroes.
pub type Content = u32;

/// A block that nobody has a good copy of.
pub const BAD: Content = u32::MAX;

/// A block with this bit is silently another one than it should be.
const FLAW: Content = 1 << 30;

/// Whether a block is silently another one.
pub fn is_flaw(content: Content) -> bool {
    content != BAD && content & FLAW != 0
}

/// The block becomes another one.
pub fn flawed(content: Content) -> Content {
    match content {
        BAD => BAD,
        _ => content | FLAW,
    }
}

/// What a block should be.
pub fn meant(content: Content) -> Content {
    match is_flaw(content) {
        true => content & !FLAW,
        false => content,
    }
}

/// What a block is, for who looks at it: zeroes where there should be some content, content where there
/// should be zeroes, or other content.
pub fn seen(content: Content) -> Content {
    match meant(content) {
        meant if !is_flaw(content) => meant,
        meant if meant % 3 == 1 => 0,
        meant => meant ^ 0x0800_0000,
    }
}

/// Volumes that a set begins with.
pub const VOLUMES: u8 = 2;
/// The most volumes that it gets.
pub const VOLUMES_MAX: u8 = 5;

/// The blocks of each volume, by its number, which is each byte of its UUID.
pub type Image = BTreeMap<u8, Vec<Content>>;

/// The epoch in which each block of each volume got its content, or lost it.
pub type Dates = BTreeMap<u8, Vec<u64>>;

/// Notes what entries of an epoch change.
pub fn date(dates: &mut Dates, entries: &[Entry], epoch: u64) {
    for entry in entries {
        let (number, count) = (entry.volume[0], entry.count as usize);
        let blocks = dates.entry(number).or_default();
        match entry.op {
            Op::Write | Op::Zero => blocks[entry.lbn as usize..][..count].fill(epoch),
            Op::Create | Op::Resize => blocks.resize(count, epoch),
            Op::Remove => drop(dates.remove(&number)),
            Op::Keep => {}
        }
    }
}

/// All blocks of an image have the content that an epoch gave them.
pub fn dated(image: &Image, epoch: u64) -> Dates {
    let blocks = |(number, blocks): (&u8, &Vec<Content>)| (*number, vec![epoch; blocks.len()]);
    image.iter().map(blocks).collect()
}

/// Empty volumes.
pub fn empty(volumes: &[Volume]) -> Image {
    let blocks = |v: &Volume| (v.uuid[0], vec![0; v.blocks as usize]);
    volumes.iter().map(blocks).collect()
}

/// The volumes of an image.
pub fn volumes(image: &Image) -> Vec<Volume> {
    let volume = |(number, blocks): (&u8, &Vec<Content>)| Volume {
        uuid: [*number; 16],
        blocks: blocks.len() as u64,
    };
    image.iter().map(volume).collect()
}

/// All blocks.
pub fn contents(image: &Image) -> impl Iterator<Item = Content> + '_ {
    image.values().flatten().copied()
}

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

/// Whether an entry can be applied to an image.
pub fn fits(image: &Image, entry: &Entry) -> bool {
    let volume = image.get(&entry.volume[0]);
    match entry.op {
        Op::Create => volume.is_none(),
        Op::Resize => volume.is_some(),
        Op::Remove => volume.is_some() && image.len() > 1,
        Op::Write | Op::Zero | Op::Keep => {
            volume.is_some_and(|blocks| entry.lbn + entry.count <= blocks.len() as u64)
        }
    }
}

/// What an entry that fits makes of an image.
pub fn apply(image: &mut Image, entry: &Entry, content: Content) -> Result<(), String> {
    if !fits(image, entry) {
        return Err(format!(
            "(3) {:?} {:?} does not fit",
            entry.op, entry.volume[0]
        ));
    }
    let (number, count) = (entry.volume[0], entry.count as usize);
    let blocks = image.entry(number).or_default();
    let range = entry.lbn as usize..entry.lbn as usize + count;
    match entry.op {
        Op::Write => blocks[range].fill(content),
        Op::Zero => blocks[range].fill(0),
        Op::Create | Op::Resize => blocks.resize(count, 0),
        Op::Remove => drop(image.remove(&number)),
        // The blocks came when it was staged.
        Op::Keep => {}
    }
    Ok(())
}

/// What a store was asked to make durable, in order.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Where it leads.
    pub position: Position,
    /// The state then.
    pub image: Image,
    /// When its blocks changed.
    pub dates: Dates,
    /// What it is.
    pub kind: Kind,
    /// The entries of an epoch, and what content each was given.
    pub entries: Vec<(Entry, Content)>,
}

/// What a store is asked to make durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A primary's own epoch.
    Seal,
    /// An epoch of a primary's stream.
    Apply,
    /// The state that a compare leads to.
    Switch,
}

/// An epoch that is durable: its end, its entries, and what content each was given.
pub type Durable = (Position, Vec<(Entry, Content)>);

/// A frozen state.
#[derive(Clone, Debug)]
pub struct Frozen {
    /// Where it is in the history.
    pub position: Position,
    /// Its blocks.
    pub image: Image,
    /// When they changed.
    pub dates: Dates,
    /// Which generations had ended where.
    pub births: Births,
}

fn window_of(tail: &[Durable], now: u64) -> kernel::error::Result<Window> {
    let mut window = Window::default();
    for (position, epoch) in tail {
        let mut entries = KVVec::new();
        for (entry, _) in epoch {
            entries.push(*entry, GFP_KERNEL)?;
        }
        window.reserve(1)?;
        window.push(Epoch::new(position.epoch, entries, Some(*position), now));
    }
    Ok(window)
}

/// A store.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// What a power cut leaves.
    pub durable: Image,
    /// Its position.
    pub tip: Position,
    /// When its blocks changed.
    pub dates: Dates,
    /// Which generations ended where.
    pub births: Births,
    /// Epochs that a power cut leaves for the window.
    pub tail: Vec<Durable>,
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
    pub scans: BTreeMap<u64, Frozen>,
    /// What the compare that goes on, or was interrupted, has built.
    pub compare: Image,
}

impl Store {
    /// An empty store.
    pub fn new(blocks: u64) -> Self {
        let volume = |number| (number, vec![0; blocks as usize]);
        let image: Image = (1..=VOLUMES).map(volume).collect();
        Store {
            durable: image.clone(),
            dates: dated(&image, 0),
            live: image,
            ..Store::default()
        }
    }

    /// Whether some good copy of a content is here.
    pub fn holds(&self, content: Content) -> bool {
        let has = |image: &Image| contents(image).any(|c| c == content);
        content == 0
            || has(&self.durable)
            || has(&self.live)
            || has(&self.compare)
            || self.pending.iter().any(|p| has(&p.image))
            || self.pins.values().any(|p| p.contains(&content))
            || self.staged.values().any(|s| s.1 == content)
            || self.scans.values().any(|frozen| has(&frozen.image))
    }

    /// The newest state that was asked for, durable or not.
    pub fn newest(&self) -> Image {
        let last = self.pending.last();
        last.map_or_else(|| self.durable.clone(), |p| p.image.clone())
    }

    /// When the blocks of that changed.
    pub fn newest_dates(&self) -> Dates {
        let last = self.pending.last();
        last.map_or_else(|| self.dates.clone(), |p| p.dates.clone())
    }

    /// The newest position that was asked for, durable or not.
    pub fn newest_position(&self) -> Position {
        self.pending.last().map_or(self.tip, |p| p.position)
    }

    /// The oldest thing that was asked for is durable.
    pub fn complete(&mut self) {
        let pending = self.pending.remove(0);
        self.durable = pending.image;
        self.dates = pending.dates;
        self.tip = pending.position;
        // A checkpoint holds what is done at once.
        let changes = |(entry, _): &(Entry, Content)| entry.op.changes_volumes();
        let at_once = pending.kind == Kind::Switch || pending.entries.iter().any(changes);
        match at_once {
            true => self.tail.clear(),
            false => self.tail.push((pending.position, pending.entries)),
        }
        if pending.kind == Kind::Switch {
            self.births = Births::default();
        }
    }

    /// A generation ends. They are numbered by the epochs at which they do.
    pub fn tick(&mut self) {
        self.births.note(Tick {
            generation: Generation(self.tip.epoch as u32),
            epoch: self.tip.epoch,
        });
        // Now and then with a checkpoint, behind which the journal begins anew.
        if self.tip.epoch % 4 == 0 {
            self.tail.clear();
        }
    }

    /// The tail for the window of an attach, which pins it, and one that lacks its end.
    pub fn windows(&mut self, now: u64) -> Result<(Window, Window), String> {
        for (position, epoch) in &self.tail {
            let pins = self.pins.entry(position.epoch).or_default();
            pins.extend(epoch.iter().map(|(_, content)| *content));
        }
        let before = self.tail.len().saturating_sub(1);
        let memory = |_| "memory".to_string();
        Ok((
            window_of(&self.tail, now).map_err(memory)?,
            window_of(&self.tail[..before], now).map_err(memory)?,
        ))
    }

    /// The durable state, frozen.
    pub fn frozen(&self) -> Frozen {
        Frozen {
            position: self.tip,
            image: self.durable.clone(),
            dates: self.dates.clone(),
            births: self.births,
        }
    }

    /// The newest state, frozen as soon as it is durable.
    pub fn newest_frozen(&self) -> Frozen {
        Frozen {
            position: self.newest_position(),
            image: self.newest(),
            dates: self.newest_dates(),
            births: self.births,
        }
    }

    /// The power fails.
    pub fn crash(&mut self) {
        self.live = self.durable.clone();
        self.open.clear();
        self.pending.clear();
        self.pins.clear();
        self.staged.clear();
        self.scans.clear();
        self.compare.clear();
    }
}
