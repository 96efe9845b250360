// SPDX-License-Identifier: GPL-2.0

//! Space: the segment table in memory, and who gets which cluster. One per store.
//!
//! Data clusters come from one *open* segment at a time, whose free clusters are known as a bitmap,
//! in ascending order, so that what is written together lies together. Fresh segments (all
//! Available) need nothing read; of others the count leaves are read first, in the background.
//!
//! Metadata clusters come from metadata segments, and only a checkpoint takes or gives them back.
//! A page that the last durable checkpoint uses is never handed out, although the running one may
//! have given it back: each segment has two bitmaps, as of now and as of the durable checkpoint.

use super::format::layout::Layout;
use super::format::page::{SegmentEntry, SegmentKind, COUNT_BYTES, COUNT_LEAF, MAP_ENTRY_BYTES};
use super::format::page::{BITMAP_PAGE, SEGMENT_PAGE};
use super::mark::mark;
use super::mutant::mutant;
use super::show::{lines, Maybe};
use super::types::{Cluster, NAME_BYTES, SEGMENT_CLUSTERS};
use core::fmt;
use kernel::prelude::*;

/// A bit for each cluster of a segment.
pub type Bits = [u64; SEGMENT_CLUSTERS as usize / 64];
/// No bitmap slot.
const NO_BITMAP: u32 = u32::MAX;

/// Tests bit `at`.
pub fn bit(bits: &Bits, at: usize) -> bool {
    bits.get(at / 64)
        .is_some_and(|word| word >> (at % 64) & 1 == 1)
}

/// Sets or clears bit `at`.
pub fn set_bit(bits: &mut Bits, at: usize, value: bool) {
    if let Some(word) = bits.get_mut(at / 64) {
        *word = *word & !(1 << (at % 64)) | u64::from(value) << (at % 64);
    }
}

/// The first set bit at or behind `from`.
pub fn next_bit(bits: &Bits, from: usize) -> Option<usize> {
    let mut mask = u64::MAX << (from % 64);
    for (i, word) in bits.iter().enumerate().skip(from / 64) {
        let left = word & mask;
        if left != 0 {
            return Some(i * 64 + left.trailing_zeros() as usize);
        }
        mask = u64::MAX;
    }
    None
}

fn count_ones(bits: &Bits) -> u64 {
    bits.iter().map(|word| u64::from(word.count_ones())).sum()
}

/// A segment as the store knows it now.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// As the trees say: changed by the merges of a checkpoint.
    pub entry: SegmentEntry,
    /// Data clusters that may be handed out now.
    pub free: u16,
    /// Clusters that were handed out and are not in the journal yet.
    pub in_flight: u16,
}

/// A data segment from which clusters are handed out.
pub struct OpenSegment {
    segment: usize,
    free: Bits,
    cursor: usize,
    left: u64,
}

/// A segment whose free clusters are being found out.
struct Opening {
    segment: usize,
    free: Bits,
    /// Clusters of the segment that were looked at.
    known: u64,
}

/// A metadata segment.
pub struct MetadataSegment {
    /// Its number.
    pub segment: usize,
    /// Pages in use now.
    pub used: Bits,
    /// Pages in use as of the last durable checkpoint.
    pub durable: Bits,
    /// Pages in use as of a checkpoint that is kept for somebody.
    pinned: Option<KBox<Bits>>,
}

impl MetadataSegment {
    fn new(segment: usize, bits: Bits) -> Self {
        MetadataSegment {
            segment,
            used: bits,
            durable: bits,
            pinned: None,
        }
    }

    /// Pages that may be handed out.
    fn free_word(&self, word: usize) -> u64 {
        let used = self.used.get(word).copied().unwrap_or(u64::MAX);
        let durable = self.durable.get(word).copied().unwrap_or(u64::MAX);
        let pinned = match mutant!(62) {
            true => 0,
            false => self.pinned_word(word),
        };
        match mutant!(20) {
            true => !used,
            false => !(used | durable | pinned),
        }
    }

    /// Pages that are kept for somebody.
    fn pinned_word(&self, word: usize) -> u64 {
        let bits = self.pinned.as_ref().and_then(|pinned| pinned.get(word));
        bits.copied().unwrap_or(0)
    }
}

/// From where on a checkpoint looks for places for its pages.
#[derive(Clone, Copy)]
struct MetadataSearch {
    slot: usize,
    at: usize,
    /// Free pages of 64 that lie together that make it worth it to begin with them.
    wanted: u32,
}

impl MetadataSearch {
    const FIRST: Self = MetadataSearch {
        slot: 0,
        at: 0,
        wanted: 32,
    };
    const ALL: Self = MetadataSearch {
        wanted: 1,
        ..Self::FIRST
    };
}

/// Who gets which cluster.
pub struct Space {
    layout: Layout,
    segments: KVVec<Segment>,
    /// Pages of the segment table that differ from their place that counts.
    pub table_dirty: KVVec<bool>,
    /// Which place of each page of the segment table counts.
    pub table_place: KVVec<bool>,
    /// The metadata segment that each bitmap belongs to.
    owners: KVVec<u32>,
    /// Metadata segments, by number of their bitmap.
    pub metadata: KVVec<Option<KBox<MetadataSegment>>>,
    metadata_search: MetadataSearch,
    /// Pages that a checkpoint may take now.
    pub metadata_free: u64,
    /// Pages of all metadata segments.
    metadata_capacity: u64,
    /// Data clusters that may be handed out now.
    pub free: u64,
    /// Data segments that are wholly Available.
    fresh: u64,
    /// Clusters of the store that are Junk, as the trees say.
    pub junk: u64,
    /// Clusters of the store that are Live, as the trees say.
    pub live: u64,
    open: Option<OpenSegment>,
    opening: Option<Opening>,
    ready: Option<OpenSegment>,
    hand: usize,
    /// No segment could be opened when last tried, and nothing has changed since.
    barren: bool,
    /// What checkpoints may need at most, beyond what is in use.
    reserve: u64,
}

/// What the shell must do before [`Space::open_next`] can go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenStep {
    /// Nothing: a segment is ready, or none is left.
    Done,
    /// Give the state of the clusters from here on to [`Space::note_free`].
    Need(Cluster),
}

impl Space {
    /// An empty table for this layout; `reserve` in pages.
    pub fn new(layout: Layout, reserve: u64) -> Result<KBox<Space>> {
        let pages = layout.table_pages() as usize;
        let mut metadata = KVVec::with_capacity(layout.bitmaps as usize, GFP_KERNEL)?;
        for _ in 0..layout.bitmaps {
            metadata.push(None, GFP_KERNEL)?;
        }
        let space = try_init!(Space {
            layout,
            segments: KVVec::with_capacity(layout.segments() as usize, GFP_KERNEL)?,
            table_dirty: KVVec::from_elem(false, pages, GFP_KERNEL)?,
            table_place: KVVec::from_elem(false, pages, GFP_KERNEL)?,
            owners: KVVec::from_elem(NO_BITMAP, layout.bitmaps as usize, GFP_KERNEL)?,
            metadata,
            metadata_search: MetadataSearch::FIRST,
            metadata_free: 0,
            metadata_capacity: 0,
            free: 0,
            fresh: 0,
            junk: 0,
            live: 0,
            open: None,
            opening: None,
            ready: None,
            hand: 0,
            barren: false,
            reserve,
        });
        KBox::try_init(space, GFP_KERNEL)
    }

    /// Adds the next segment of the table, read at attach.
    pub fn load(&mut self, entry: SegmentEntry) -> Result {
        if entry.kind == SegmentKind::Metadata {
            let number = self.segments.len() as u32;
            match self.owners.get_mut(entry.bitmap as usize) {
                Some(owner) if *owner == NO_BITMAP => *owner = number,
                _ => return Err(EINVAL),
            }
        }
        let data = entry.kind == SegmentKind::Data;
        let free = if data { entry.available } else { 0 };
        self.segments.push(
            Segment {
                entry,
                free,
                in_flight: 0,
            },
            GFP_KERNEL,
        )?;
        if data {
            self.free += u64::from(free);
            self.fresh += u64::from(u64::from(free) == SEGMENT_CLUSTERS);
            self.junk += u64::from(entry.junk);
            self.live += u64::from(entry.live);
        }
        Ok(())
    }

    /// Adds the bitmap of a metadata segment, read at attach.
    pub fn load_bitmap(&mut self, slot: usize, bits: &Bits) -> Result {
        let segment = match self.owners.get(slot) {
            None | Some(&NO_BITMAP) => return Ok(()),
            Some(&segment) => segment as usize,
        };
        let boxed = KBox::new(MetadataSegment::new(segment, *bits), GFP_KERNEL)?;
        if let Some(place) = self.metadata.get_mut(slot) {
            *place = Some(boxed);
            self.metadata_capacity += SEGMENT_CLUSTERS;
            self.metadata_free += SEGMENT_CLUSTERS - count_ones(bits);
        }
        Ok(())
    }

    /// Which place of a page of the segment table counts; `None` for a page with bitmaps that
    /// belong to no segment (as far as segments were loaded).
    pub fn counts_at(&self, page: u64) -> Option<bool> {
        if let Some(slot) = page.checked_sub(self.layout.entry_pages()) {
            let first = (slot * BITMAP_PAGE) as usize;
            let owners = self.owners.iter().skip(first).take(BITMAP_PAGE as usize);
            if owners.clone().all(|&owner| owner == NO_BITMAP) {
                return None;
            }
        }
        self.table_place.get(page as usize).copied()
    }

    /// The layout of the store.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// A segment.
    pub fn segment(&self, segment: usize) -> Option<&Segment> {
        self.segments.get(segment)
    }

    /// All segments.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether a cluster lies in a data segment.
    pub fn is_data(&self, cluster: Cluster) -> bool {
        self.segment(cluster.segment())
            .is_some_and(|s| s.entry.kind == SegmentKind::Data)
    }

    /// The last segment before `end` all of whose clusters may be handed out.
    pub fn last_fresh(&self, end: usize) -> Option<usize> {
        let fresh = |s: &Segment| {
            s.entry.kind == SegmentKind::Data
                && u64::from(s.free) == SEGMENT_CLUSTERS
                && u64::from(s.entry.available) == SEGMENT_CLUSTERS
                && s.in_flight == 0
        };
        let segments = self.segments.get(..end.min(self.segments.len()))?;
        segments.iter().rposition(fresh)
    }

    /// Pages of all metadata segments.
    pub fn metadata_capacity(&self) -> u64 {
        self.metadata_capacity
    }

    /// What it shows of itself.
    pub(super) fn show(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let of_open = |open: &Option<OpenSegment>| open.as_ref().map(|o| (o.segment, o.left));
        let (open, ready) = (of_open(&self.open), of_open(&self.ready));
        lines!(out,
            "clusters": self.layout.clusters,
            "segments": self.segments.len(),
            "fixed_segments": self.layout.fixed_segments(),
            "available": self.free,
            "fresh_segments": self.fresh,
            "junk": self.junk,
            "live": self.live,
            "metadata_segments": self.metadata.iter().flatten().count(),
            "metadata_clusters": self.metadata_capacity,
            "metadata_free": self.metadata_free,
            "metadata_reserve": self.reserve,
            "open_segment": Maybe(open.map(|(segment, _)| segment)),
            "open_segment_left": Maybe(open.map(|(_, left)| left)),
            "ready_segment": Maybe(ready.map(|(segment, _)| segment)),
            "ready_segment_left": Maybe(ready.map(|(_, left)| left)),
            "opening_segment": Maybe(self.opening.as_ref().map(|o| o.segment)),
            "barren": u8::from(self.barren),
            "table_pages_dirty": self.table_dirty.iter().filter(|&&dirty| dirty).count(),
        );
        Ok(())
    }

    /// Marks the pages of the table that hold a segment's entry and bitmap as changed.
    fn touch(&mut self, segment: usize) {
        let entry_page = segment as u64 / SEGMENT_PAGE;
        if let Some(dirty) = self.table_dirty.get_mut(entry_page as usize) {
            *dirty = true;
        }
        let Some(s) = self.segments.get(segment) else {
            return;
        };
        if s.entry.kind == SegmentKind::Metadata {
            let page = self.layout.entry_pages() + u64::from(s.entry.bitmap) / BITMAP_PAGE;
            if let Some(dirty) = self.table_dirty.get_mut(page as usize) {
                *dirty = true;
            }
        }
    }

    fn add_free(&mut self, segment: usize, change: i32) {
        let Some(s) = self.segments.get_mut(segment) else {
            return;
        };
        if s.entry.kind != SegmentKind::Data {
            return;
        }
        let whole = |free: u16| u64::from(u64::from(free) == SEGMENT_CLUSTERS);
        let before = s.free;
        self.barren &= change <= 0;
        s.free = (i32::from(s.free) + change).clamp(0, SEGMENT_CLUSTERS as i32) as u16;
        self.free = self.free + u64::from(s.free) - u64::from(before);
        self.fresh = self.fresh + whole(s.free) - whole(before);
    }

    /// Recovery found a record of a cluster that was handed out.
    pub fn replay_taken(&mut self, cluster: Cluster) {
        self.add_free(cluster.segment(), -1);
    }

    /// A retired cluster may be handed out.
    pub fn add_erased(&mut self, cluster: Cluster) {
        self.add_free(cluster.segment(), 1);
        for segment in [self.open.as_mut(), self.ready.as_mut()]
            .into_iter()
            .flatten()
        {
            if segment.segment == cluster.segment() {
                let at = (cluster.0 % SEGMENT_CLUSTERS) as usize;
                if !bit(&segment.free, at) {
                    set_bit(&mut segment.free, at, true);
                    segment.left += 1;
                    segment.cursor = segment.cursor.min(at);
                }
            }
        }
        if let Some(opening) = self.opening.as_mut() {
            if opening.segment == cluster.segment() {
                let at = cluster.0 % SEGMENT_CLUSTERS;
                if at < opening.known {
                    set_bit(&mut opening.free, at as usize, true);
                }
            }
        }
    }

    /// Takes up to `count` neighbouring free data clusters; `None` if no open segment has any.
    pub fn take(&mut self, count: u64) -> Option<(Cluster, u64)> {
        if self.open.as_ref().is_none_or(|open| open.left == 0) {
            self.open = self.ready.take();
        }
        let open = self.open.as_mut()?;
        let first = match next_bit(&open.free, open.cursor) {
            Some(first) => first,
            None => {
                open.left = 0;
                self.barren = false;
                return None;
            }
        };
        let mut end = first;
        while end < SEGMENT_CLUSTERS as usize
            && ((end - first) as u64) < count
            && bit(&open.free, end)
        {
            set_bit(&mut open.free, end, false);
            end += 1;
        }
        open.cursor = end;
        let taken = (end - first) as u64;
        open.left = open.left.saturating_sub(taken);
        self.barren &= open.left > 0;
        let segment = open.segment;
        self.add_free(segment, -(taken as i32));
        if let Some(s) = self.segments.get_mut(segment) {
            s.in_flight += taken as u16;
        }
        Some((
            Cluster(segment as u64 * SEGMENT_CLUSTERS + first as u64),
            taken,
        ))
    }

    /// A cluster that was handed out is in the journal now, or will never be.
    pub fn settled(&mut self, cluster: Cluster) {
        if let Some(s) = self.segments.get_mut(cluster.segment()) {
            s.in_flight = s.in_flight.saturating_sub(1);
        }
        self.barren = false;
    }

    /// Whether [`Space::take`] would find a cluster.
    pub fn has_cluster(&self) -> bool {
        let left = |o: &Option<OpenSegment>| o.as_ref().is_some_and(|open| open.left > 0);
        left(&self.open) || left(&self.ready)
    }

    /// Whether the next segment should be looked for.
    pub fn wants_next(&self) -> bool {
        !self.barren
            && self.ready.is_none()
            && self
                .open
                .as_ref()
                .is_none_or(|open| open.left < SEGMENT_CLUSTERS / 4)
    }

    /// Fresh segments that data may not take, so that metadata can still grow: the trees of a full
    /// store with one volume, and the reserve.
    fn headroom(&self) -> u64 {
        let per_cluster = (MAP_ENTRY_BYTES + NAME_BYTES + COUNT_BYTES) as u64;
        let trees = self.layout.clusters * per_cluster / 4000 + 64;
        (trees + self.reserve)
            .saturating_sub(self.metadata_capacity)
            .div_ceil(SEGMENT_CLUSTERS)
    }

    /// Prepares the next segment. Call while it says [`OpenStep::Need`] and the need can be met.
    pub fn open_next(&mut self) -> OpenStep {
        if self.ready.is_some() {
            return OpenStep::Done;
        }
        if let Some(opening) = self.opening.take() {
            if opening.known < SEGMENT_CLUSTERS {
                let next = opening.segment as u64 * SEGMENT_CLUSTERS + opening.known;
                self.opening = Some(opening);
                return OpenStep::Need(Cluster(next));
            }
            let left = count_ones(&opening.free);
            mark!(segment_reopened);
            let change = left as i32
                - self
                    .segments
                    .get(opening.segment)
                    .map_or(0, |s| i32::from(s.free));
            self.add_free(opening.segment, change);
            let Opening { segment, free, .. } = opening;
            self.ready = Some(OpenSegment {
                segment,
                free,
                cursor: 0,
                left,
            });
            return OpenStep::Done;
        }
        let Some(segment) = self.choose() else {
            self.barren = true;
            mark!(no_segment_to_open);
            return OpenStep::Done;
        };
        let fresh = self.segments.get(segment).is_some_and(|s| {
            u64::from(s.entry.available) == SEGMENT_CLUSTERS
                && u64::from(s.free) == SEGMENT_CLUSTERS
        });
        if fresh {
            let free = [u64::MAX; SEGMENT_CLUSTERS as usize / 64];
            let left = SEGMENT_CLUSTERS;
            self.ready = Some(OpenSegment {
                segment,
                free,
                cursor: 0,
                left,
            });
            return OpenStep::Done;
        }
        let free = [0; SEGMENT_CLUSTERS as usize / 64];
        self.opening = Some(Opening {
            segment,
            free,
            known: 0,
        });
        OpenStep::Need(Cluster(segment as u64 * SEGMENT_CLUSTERS))
    }

    /// Tells which of the next clusters of the segment being opened are free.
    pub fn note_free(&mut self, clusters: impl Iterator<Item = bool>) {
        if let Some(opening) = self.opening.as_mut() {
            for free in clusters {
                if opening.known < SEGMENT_CLUSTERS {
                    set_bit(&mut opening.free, opening.known as usize, free);
                    opening.known += 1;
                }
            }
        }
    }

    /// Clusters of the segment being opened that one count leaf, from `cluster` on, tells about.
    pub fn clusters_of_leaf(cluster: Cluster) -> u64 {
        let leaf_end = (cluster.0 / COUNT_LEAF + 1) * COUNT_LEAF;
        let segment_end = (cluster.0 / SEGMENT_CLUSTERS + 1) * SEGMENT_CLUSTERS;
        leaf_end.min(segment_end) - cluster.0
    }

    fn choose(&mut self) -> Option<usize> {
        let busy = self
            .open
            .as_ref()
            .filter(|open| open.left > 0)
            .map(|open| open.segment);
        let may_open_fresh = self.fresh > self.headroom();
        let (count, mut best) = (self.segments.len(), None);
        for step in 0..count {
            let at = (self.hand + step) % count;
            let s = self.segments.get(at)?;
            let fresh = u64::from(s.free) == SEGMENT_CLUSTERS;
            if s.entry.kind != SegmentKind::Data
                || s.free == 0
                || s.in_flight > 0
                || Some(at) == busy
                || (fresh && !may_open_fresh)
            {
                continue;
            }
            if fresh {
                best = Some(at);
                break;
            }
            let better = best
                .and_then(|b: usize| self.segments.get(b))
                .is_none_or(|b| b.free < s.free);
            if better {
                best = Some(at);
            }
            // Half free is good enough; do not walk a whole large table for more.
            if u64::from(s.free) >= SEGMENT_CLUSTERS / 2 && step > 256 {
                break;
            }
        }
        if let Some(best) = best {
            self.hand = best;
        }
        best
    }

    /// Turns a fresh data segment into a metadata segment. False if there is none, or no memory.
    pub fn grow_metadata(&mut self) -> bool {
        let busy = [self.open.as_ref(), self.ready.as_ref()].map(|o| o.map(|o| o.segment));
        let opening = self.opening.as_ref().map(|o| o.segment);
        let found = self.segments.iter().enumerate().position(|(at, s)| {
            s.entry.kind == SegmentKind::Data
                && u64::from(s.free) == SEGMENT_CLUSTERS
                && u64::from(s.entry.available) == SEGMENT_CLUSTERS
                && s.in_flight == 0
                && !busy.contains(&Some(at))
                && opening != Some(at)
        });
        let slot = self.metadata.iter().position(|m| m.is_none());
        let (Some(segment), Some(slot)) = (found, slot) else {
            return false;
        };
        let zero = [0; SEGMENT_CLUSTERS as usize / 64];
        let Ok(boxed) = KBox::new(MetadataSegment::new(segment, zero), GFP_KERNEL) else {
            return false;
        };
        self.add_free(segment, -(SEGMENT_CLUSTERS as i32));
        if let Some(s) = self.segments.get_mut(segment) {
            s.entry = SegmentEntry {
                kind: SegmentKind::Metadata,
                available: 0,
                junk: 0,
                live: 0,
                bitmap: slot as u32,
            };
        }
        if let Some(place) = self.metadata.get_mut(slot) {
            *place = Some(boxed);
        }
        self.metadata_capacity += SEGMENT_CLUSTERS;
        self.metadata_free += SEGMENT_CLUSTERS;
        self.barren = false;
        self.touch(segment);
        true
    }

    /// Whether metadata should get another segment while there is one.
    pub fn wants_metadata(&self, needed: u64) -> bool {
        self.metadata_free < needed
    }

    /// Takes a place for a page. Only for the checkpoint.
    ///
    /// Each checkpoint looks from the front, so that what was used before is used again and no more
    /// of the disk is taken than needed; it passes over words with few free pages while there are
    /// others, so that most of what it writes lies together.
    pub fn take_page(&mut self) -> Option<Cluster> {
        for search in [self.metadata_search, MetadataSearch::ALL] {
            if let Some((slot, at)) = self.find_page(search) {
                self.metadata_search = MetadataSearch {
                    slot,
                    at: at + 1,
                    ..search
                };
                return self.use_page(slot, at);
            }
        }
        None
    }

    /// A free page: its metadata segment and its number there.
    fn find_page(&self, search: MetadataSearch) -> Option<(usize, usize)> {
        let segments = self.metadata.iter().enumerate().skip(search.slot);
        for (slot, m) in segments.filter_map(|(slot, m)| m.as_ref().map(|m| (slot, m))) {
            let first = if slot == search.slot { search.at } else { 0 };
            for word in first / 64..m.used.len() {
                let begun = word == first / 64 && first % 64 != 0;
                let mask = if begun {
                    u64::MAX << (first % 64)
                } else {
                    u64::MAX
                };
                let free = m.free_word(word);
                if free & mask != 0 && (begun || free.count_ones() >= search.wanted) {
                    return Some((slot, word * 64 + (free & mask).trailing_zeros() as usize));
                }
            }
        }
        None
    }

    fn use_page(&mut self, slot: usize, at: usize) -> Option<Cluster> {
        let Some(Some(m)) = self.metadata.get_mut(slot) else {
            return None;
        };
        set_bit(&mut m.used, at, true);
        let segment = m.segment;
        self.metadata_free -= 1;
        self.change_live(segment, 1);
        Some(Cluster(segment as u64 * SEGMENT_CLUSTERS + at as u64))
    }

    /// Gives a page's place back. It is not handed out before the next checkpoint is durable, if
    /// the last durable one uses it. Only for the checkpoint. False if it was not in use.
    pub fn give_page(&mut self, place: Cluster) -> bool {
        let segment = place.segment();
        let Some(slot) = self
            .segments
            .get(segment)
            .filter(|s| s.entry.kind == SegmentKind::Metadata && s.entry.bitmap != NO_BITMAP)
        else {
            return false;
        };
        let slot = slot.entry.bitmap as usize;
        let Some(Some(m)) = self.metadata.get_mut(slot) else {
            return false;
        };
        let at = (place.0 % SEGMENT_CLUSTERS) as usize;
        if !bit(&m.used, at) {
            return false;
        }
        set_bit(&mut m.used, at, false);
        if !bit(&m.durable, at) && m.pinned_word(at / 64) >> (at % 64) & 1 == 0 {
            self.metadata_free += 1;
        }
        self.change_live(segment, -1);
        true
    }

    fn change_live(&mut self, segment: usize, change: i32) {
        if let Some(s) = self.segments.get_mut(segment) {
            let live = i32::from(s.entry.live) + change;
            s.entry.live = live.clamp(0, SEGMENT_CLUSTERS as i32) as u16;
        }
        self.touch(segment);
    }

    /// The running checkpoint is durable: what it gave back may be handed out.
    pub fn checkpoint_durable(&mut self) {
        self.metadata_search = MetadataSearch::FIRST;
        for m in self.metadata.iter_mut().flatten() {
            for word in 0..m.used.len() {
                let pinned = m.pinned_word(word);
                let MetadataSegment { used, durable, .. } = &mut **m;
                if let (Some(durable), Some(used)) = (durable.get_mut(word), used.get(word)) {
                    self.metadata_free += u64::from((*durable & !used & !pinned).count_ones());
                    *durable = *used;
                }
            }
        }
    }

    /// Keeps the pages of the durable checkpoint until [`Space::unpin`]. Fails with `ENOMEM`.
    pub fn pin(&mut self) -> Result {
        for m in self.metadata.iter_mut().flatten() {
            match KBox::new(m.durable, GFP_KERNEL) {
                Ok(pinned) => m.pinned = Some(pinned),
                Err(error) => {
                    self.unpin();
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Pages that were only kept may be handed out.
    pub fn unpin(&mut self) {
        for m in self.metadata.iter_mut().flatten() {
            let Some(pinned) = m.pinned.take() else {
                continue;
            };
            for (word, pinned) in pinned.iter().enumerate() {
                let taken = m.used.get(word).unwrap_or(&0) | m.durable.get(word).unwrap_or(&0);
                self.metadata_free += u64::from((pinned & !taken).count_ones());
            }
        }
    }

    /// A merge changed a data cluster's state. False if the table cannot be right.
    pub fn change(&mut self, cluster: Cluster, available: i32, junk: i32, live: i32) -> bool {
        let segment = cluster.segment();
        let Some(s) = self.segments.get_mut(segment) else {
            return false;
        };
        let sum = |old: u16, change: i32| {
            u16::try_from(i32::from(old) + change)
                .ok()
                .filter(|&n| u64::from(n) <= SEGMENT_CLUSTERS)
        };
        let (Some(a), Some(j), Some(l)) = (
            sum(s.entry.available, available),
            sum(s.entry.junk, junk),
            sum(s.entry.live, live),
        ) else {
            return false;
        };
        if s.entry.kind != SegmentKind::Data {
            return false;
        }
        (s.entry.available, s.entry.junk, s.entry.live) = (a, j, l);
        self.junk = self.junk.saturating_add_signed(junk.into());
        self.live = self.live.saturating_add_signed(live.into());
        self.touch(segment);
        true
    }
}
