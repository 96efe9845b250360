// SPDX-License-Identifier: GPL-2.0

//! The overlay: all changes that the trees do not show yet. One per store.
//!
//! The journal's records are applied here and nowhere else, by a running store and by recovery
//! alike; the trees change only when a checkpoint merges the overlay into them, in order of block
//! and cluster. So an overwrite reads no page and writes none, and recovery needs no page either.
//!
//! There are two sets of changes: the *active* one takes records; the *frozen* one, fixed by the
//! last cut, is being merged. Blocks are *points*, clusters have *deltas*. A large discard is one
//! *punch*: an interval in which the trees and all older points are void. A write into it splits
//! it; the reaper turns the rest, leaf by leaf, into points.
//!
//! Look-up order: active point, punch, frozen point, tree. That is right because a punch drops the
//! active points that it covers, and a point cuts itself out of the punches that cover it.

use super::format::page::{
    levels_for, MapEntry, COUNT_LEAF, FANOUT, MAP_LEAF, NAME_LEAF, PUNCH_LEAF,
};
use super::mark::mark;
use super::mutant::mutant;
use super::show::lines;
use super::sorted::SortedMap;
use super::types::{Cluster, Lbn, Name, LBN_LIMIT, POINTS_LIMIT};
use core::fmt;
use kernel::prelude::*;

/// The most unmerged references that one cluster may gain between two cuts: far below what the
/// 32-bit count has room for above its limit.
pub const DELTA_MAX: i32 = 1 << 20;
/// The most punches that a replay of one set's records may come to. After a crash the records of
/// two sets may have to be replayed, and the next checkpoint must be able to hold what is left.
pub const PUNCHES_MAX: usize = (FANOUT * PUNCH_LEAF / 2) as usize;

/// A cluster's unmerged changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Delta {
    /// Owning entries gained less those lost.
    pub count: i32,
    /// It was retired before all else in this set: Junk became Available, its name is void.
    pub retired: bool,
    /// It was retired, and what had to happen before it may be written has happened.
    pub erased: bool,
    /// It was handed out in this set (after being retired, if it was).
    pub fresh: bool,
    /// Its content failed its check.
    pub quarantined: bool,
    /// Its name, if this set gave it one.
    pub name: Name,
}

impl Delta {
    /// Whether it may be handed out although the trees do not show it as Available.
    pub fn is_reusable(&self) -> bool {
        self.erased && !self.fresh && !self.quarantined
    }
}

/// What the trees would have to be read for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// The overlay knows.
    Entry(MapEntry),
    /// The tree knows.
    Tree,
}

/// One set of changes, and the pages that merging it may rewrite.
pub struct Changes {
    /// Block (see [`key`]) to its new entry.
    pub points: SortedMap<MapEntry>,
    /// Cluster to its changes.
    pub deltas: SortedMap<Delta>,
    /// Pages on the paths to the leaves of `points` and of `deltas`.
    pages: u64,
}

/// The key of a block: the volume's slot (24 bits), then the block (40 bits).
pub fn key(slot: usize, lbn: Lbn) -> u64 {
    (slot as u64) << 40 | lbn.0
}

/// The volume's slot and the block of a key.
pub fn key_parts(key: u64) -> (usize, Lbn) {
    ((key >> 40) as usize, Lbn(key & (LBN_LIMIT - 1)))
}

/// Pages of a path to `key` that neither neighbour's path shares.
fn new_pages(key: u64, neighbours: [Option<u64>; 2], leaf: u64, levels: u8) -> u64 {
    let (slot, mut page) = (key >> 40, (key & (LBN_LIMIT - 1)) / leaf.max(1));
    let mut others = neighbours.map(|n| {
        n.filter(|n| n >> 40 == slot)
            .map(|n| (n & (LBN_LIMIT - 1)) / leaf.max(1))
    });
    for shared in 0..u64::from(levels) {
        if others.contains(&Some(page)) {
            return shared;
        }
        page /= FANOUT;
        others = others.map(|other| other.map(|other| other / FANOUT));
    }
    levels.into()
}

impl Changes {
    fn new() -> Self {
        Changes {
            points: SortedMap::new(),
            deltas: SortedMap::new(),
            pages: 0,
        }
    }

    /// Whether there is nothing to merge.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty() && self.deltas.is_empty()
    }

    fn set_point(&mut self, key: u64, entry: MapEntry, levels: u8) -> Result<Option<MapEntry>> {
        let pages = &mut self.pages;
        let mut known = true;
        let point = self.points.entry(key, entry, |around| {
            *pages += new_pages(key, around, MAP_LEAF, levels);
            known = false;
        })?;
        let old = core::mem::replace(point, entry);
        Ok(known.then_some(old))
    }

    fn delta(&mut self, cluster: Cluster, levels: [u8; 2]) -> Result<&mut Delta> {
        let (key, pages) = (cluster.0, &mut self.pages);
        self.deltas.entry(key, Delta::default(), |around| {
            *pages += new_pages(key, around, NAME_LEAF, levels[0])
                + new_pages(key, around, COUNT_LEAF, levels[1]);
        })
    }

    fn clear(&mut self) {
        // Chunks for a few thousand entries stay, so that light load allocates nothing.
        self.points.clear(4096);
        self.deltas.clear(4096);
        self.pages = 0;
    }
}

/// All changes that the trees do not show yet.
pub struct Overlay {
    /// Takes the journal's records.
    pub active: Changes,
    /// Fixed by the last cut; being merged, or empty.
    pub frozen: Changes,
    /// Intervals of blocks ([`key`] of the first, to key behind the last).
    punches: SortedMap<u64>,
    /// An upper bound of the punches that replaying the records of the active set, and of the
    /// frozen one, comes to. The reaper journals nothing, so a replay splits punches that are
    /// long gone.
    exposed: [usize; 2],
    /// Levels of the name tree and of the count tree.
    levels: [u8; 2],
    /// All pages of the count tree.
    count_pages: u64,
}

impl Overlay {
    /// An empty overlay for a store of this size.
    pub fn new(store_clusters: u64) -> Self {
        let leaves = store_clusters.div_ceil(COUNT_LEAF);
        Overlay {
            active: Changes::new(),
            frozen: Changes::new(),
            punches: SortedMap::new(),
            exposed: [0; 2],
            levels: [
                levels_for(store_clusters, NAME_LEAF),
                levels_for(store_clusters, COUNT_LEAF),
            ],
            count_pages: leaves + leaves.div_ceil(FANOUT - 1) + 2,
        }
    }

    /// Makes sure that this much more fits without allocating.
    pub fn reserve(&mut self, points: usize, deltas: usize, punches: usize) -> Result {
        self.active
            .points
            .reserve(self.active.points.len() + points)?;
        self.active
            .deltas
            .reserve(self.active.deltas.len() + deltas)?;
        self.punches.reserve(self.punches.len() + punches)
    }

    /// The most pages that merging a set may rewrite, releases that it finds included.
    pub fn pages(&self, set: &Changes) -> u64 {
        set.pages + self.release_pages(set.points.len() as u64)
    }

    fn release_pages(&self, points: u64) -> u64 {
        (points * u64::from(self.levels[1])).min(self.count_pages)
    }

    /// An upper bound of what `blocks` neighbouring blocks add to [`Overlay::pages`].
    pub fn worst_pages(&self, blocks: u64, map_levels: u8) -> u64 {
        let names = (blocks * u64::from(self.levels[0])).min(3 * self.count_pages + 4);
        let counts = (blocks * u64::from(self.levels[1])).min(self.count_pages);
        let maps = u64::from(map_levels) * 2 + blocks / MAP_LEAF;
        maps + names + counts + self.release_pages(blocks)
    }

    /// The same for blocks that lose what they hold.
    pub fn worst_pages_of_release(&self, blocks: u64, map_levels: u8) -> u64 {
        u64::from(map_levels) * 2 + blocks / MAP_LEAF + self.release_pages(blocks)
    }

    /// Where a block lies, as far as the overlay knows.
    pub fn lookup(&self, slot: usize, lbn: Lbn) -> Lookup {
        let key = key(slot, lbn);
        if let Some(entry) = self.active.points.get(key) {
            return Lookup::Entry(entry);
        }
        if self.punch_over(key).is_some() {
            return Lookup::Entry(MapEntry::NONE);
        }
        match self.frozen.points.get(key) {
            Some(entry) => Lookup::Entry(entry),
            None => Lookup::Tree,
        }
    }

    /// The end of the zeroes that a block is in because of a punch, and of nothing later.
    pub fn zeroes_at(&self, slot: usize, lbn: Lbn) -> Option<u64> {
        let key = key(slot, lbn);
        if self.active.points.get(key).is_some() {
            return None;
        }
        self.punch_over(key).map(|end| lbn.0 + (end - key))
    }

    /// The first block of a volume behind this one that has an entry here; `u64::MAX` if none has.
    pub fn next_point(&self, slot: usize, lbn: Lbn) -> u64 {
        let from = key(slot, lbn) + 1;
        let sets = [&self.active.points, &self.frozen.points];
        let next = sets.map(|points| points.next_from(from).map_or(u64::MAX, |(key, _)| key));
        let (owner, lbn) = key_parts(next[0].min(next[1]));
        match owner == slot {
            true => lbn.0,
            false => u64::MAX,
        }
    }

    /// A cluster's unmerged changes: of the active set, and of the frozen one.
    pub fn deltas(&self, cluster: Cluster) -> [Option<Delta>; 2] {
        [
            self.active.deltas.get(cluster.0),
            self.frozen.deltas.get(cluster.0),
        ]
    }

    /// The name that the overlay gives a cluster: `None` if it says nothing, [`Name::NONE`] if
    /// the cluster was retired or quarantined.
    pub fn name(&self, cluster: Cluster) -> Option<Name> {
        for delta in self.deltas(cluster).into_iter().flatten() {
            if delta.quarantined {
                return Some(Name::NONE);
            }
            if delta.fresh || delta.retired {
                return Some(delta.name);
            }
        }
        None
    }

    /// Whether one more reference to `cluster` may wait for the next checkpoint.
    pub fn has_headroom(&self, cluster: Cluster, count_full: u32) -> bool {
        let limit = DELTA_MAX.min(count_full.min(1 << 30) as i32);
        self.active.deltas.get(cluster.0).map_or(0, |d| d.count) < limit
    }

    /// A block got a new entry. If it refers to a cluster, that gains an owner; what this set gave
    /// the block before loses one.
    pub fn set(&mut self, slot: usize, lbn: Lbn, entry: MapEntry, map_levels: u8) -> Result {
        let key = key(slot, lbn);
        if !mutant!(27) {
            self.cut_punches(key, key + 1)?;
        }
        let old = self.active.set_point(key, entry, map_levels)?;
        if entry.is_mapped() {
            self.active.delta(entry.cluster, self.levels)?.count += 1;
        }
        match old {
            Some(old) if old.is_mapped() && !mutant!(35) => {
                self.active.delta(old.cluster, self.levels)?.count -= 1;
            }
            _ => {}
        }
        Ok(())
    }

    /// A cluster was handed out, and got the name of its content.
    pub fn set_name(&mut self, cluster: Cluster, name: Name) -> Result {
        let delta = self.active.delta(cluster, self.levels)?;
        delta.fresh = true;
        delta.name = name;
        Ok(())
    }

    /// A junk cluster was retired; `erased` if nothing need happen before it is written.
    pub fn retire(&mut self, cluster: Cluster, erased: bool) -> Result {
        let delta = self.active.delta(cluster, self.levels)?;
        delta.retired = true;
        delta.erased = erased;
        Ok(())
    }

    /// What had to happen before a retired cluster is written has happened. True if a set still
    /// holds the retirement.
    pub fn set_erased(&mut self, cluster: Cluster) -> bool {
        for set in [&mut self.active, &mut self.frozen] {
            if let Some(delta) = set.deltas.get_mut(cluster.0) {
                if delta.retired {
                    delta.erased = true;
                    return true;
                }
            }
        }
        false
    }

    /// A cluster's content failed its check.
    pub fn quarantine(&mut self, cluster: Cluster) -> Result {
        self.active.delta(cluster, self.levels)?.quarantined = true;
        Ok(())
    }

    /// An owned entry was dropped by the merge of the frozen set: part of that set's checkpoint.
    pub fn release_in_merge(&mut self, cluster: Cluster) -> Result {
        let levels = self.levels;
        self.frozen.delta(cluster, levels)?.count -= 1;
        Ok(())
    }

    /// Blocks read as zeroes from here on, whatever trees and older points say.
    pub fn punch(&mut self, slot: usize, lbn: Lbn, count: u64) -> Result {
        let (mut from, mut to) = (key(slot, lbn), key(slot, lbn) + count);
        let Changes { points, deltas, .. } = &mut self.active;
        // Each of these clusters has a delta already: the point made it.
        let end = if mutant!(26) { from } else { to };
        points.remove_range(from, end, |_, entry| {
            if let (true, Some(delta)) = (entry.is_mapped(), deltas.get_mut(entry.cluster.0)) {
                delta.count -= 1;
            }
        });
        // Grow over what it touches within the volume, so that punches stay disjoint and few.
        let volume = (key(slot, Lbn(0)), key(slot, Lbn(0)) + LBN_LIMIT);
        if let Some((start, end)) = self.punches.last_before(from) {
            if end >= from && start >= volume.0 {
                from = start;
                mark!(punch_grows);
                to = to.max(end);
            }
        }
        while let Some((start, end)) = self.punches.next_from(from) {
            if start > to || start >= volume.1 {
                break;
            }
            to = to.max(end);
            self.punches.remove(start);
        }
        self.punches.insert(from, to)?;
        self.exposed[0] += 1;
        Ok(())
    }

    /// The map in slot `shadow` has taken the place of the one in slot `volume`, of `blocks` blocks,
    /// all of which are to go from slot `shadow`. Neither has a point. There is room for a punch.
    pub fn exchange(&mut self, volume: usize, shadow: usize, blocks: u64) -> Result {
        let (to, from) = (key(volume, Lbn(0)), key(shadow, Lbn(0)));
        self.punches.remove_range(to, to + LBN_LIMIT, |_, _| {});
        let mut at = from;
        while let Some((start, end)) = self.punches.next_from(at) {
            if start >= from + LBN_LIMIT {
                break;
            }
            self.punches.remove(start);
            self.punches.insert(start - from + to, end - from + to)?;
            mark!(member_punch_follows_its_map);
            at = start + 1;
        }
        self.punches.insert(from, from + blocks)?;
        self.exposed[0] += 1;
        Ok(())
    }

    /// What it shows of itself.
    pub(super) fn show(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        lines!(out,
            "active_points": self.active.points.len(),
            "active_deltas": self.active.deltas.len(),
            "active_pages": self.active.pages,
            "frozen_points": self.frozen.points.len(),
            "frozen_deltas": self.frozen.deltas.len(),
            "frozen_pages": self.frozen.pages,
            "punches": self.punches.len(),
            "punches_exposed_active": self.exposed[0],
            "punches_exposed_frozen": self.exposed[1],
        );
        Ok(())
    }

    /// Number of punches.
    pub fn punches(&self) -> usize {
        self.punches.len()
    }

    /// A record changes neighbouring blocks: a replay may split a punch by it.
    pub fn note_record(&mut self) {
        if self.is_exposed() {
            self.exposed[0] += 1;
        }
    }

    /// Whether a replay of the records since the last checkpoint would meet a punch.
    pub fn is_exposed(&self) -> bool {
        self.exposed != [0; 2]
    }

    /// Whether the active set is what replaying the records of two sets may come to, which is
    /// what a crash leaves at most.
    pub fn is_of_two_sets(&self) -> bool {
        let points_max = POINTS_LIMIT as usize;
        self.active.points.len() <= 2 * points_max
            && self.active.deltas.len() <= 4 * points_max
            && self.punches.len() <= 2 * PUNCHES_MAX
    }

    /// The most punches that replaying the active set's records comes to.
    pub fn exposed(&self) -> usize {
        self.exposed[0]
    }

    /// The first punch at or behind `key`, as keys of its first block and behind its last.
    pub fn next_punch(&self, key: u64) -> Option<(u64, u64)> {
        self.punches.next_from(key)
    }

    /// The end of the punch that covers `key`.
    fn punch_over(&self, key: u64) -> Option<u64> {
        let (_, end) = self.punches.last_before(key + 1)?;
        (key < end).then_some(end)
    }

    /// Takes `from..to` out of the punches.
    pub fn cut_punches(&mut self, from: u64, to: u64) -> Result {
        if self.punches.is_empty() {
            return Ok(());
        }
        if let Some((start, end)) = self.punches.last_before(from) {
            if end > from {
                self.punches.insert(start, from)?;
                if end > to {
                    mark!(punch_split);
                    self.punches.insert(to, end)?;
                    return Ok(());
                }
            }
        }
        while let Some((start, end)) = self.punches.next_from(from) {
            if start >= to {
                break;
            }
            self.punches.remove(start);
            if end > to {
                self.punches.insert(to, end)?;
            }
        }
        Ok(())
    }

    /// Calls `each` with every punch, in order.
    pub fn for_each_punch(&self, mut each: impl FnMut(u64, u64)) {
        self.punches.for_each(|start, end| each(start, *end));
    }

    /// The cut: the active set becomes the frozen one, with room for the releases that the merge
    /// will find; the new one has room for the `points` and `deltas` that were promised. Fails
    /// with `ENOMEM` and changes nothing.
    pub fn freeze(&mut self, points: usize, deltas: usize) -> Result {
        let releases = self.active.deltas.len() + self.active.points.len();
        self.active.deltas.reserve(releases)?;
        self.frozen.points.reserve(points)?;
        self.frozen.deltas.reserve(deltas)?;
        core::mem::swap(&mut self.active, &mut self.frozen);
        self.exposed = [self.punches.len(), self.exposed[0]];
        Ok(())
    }

    /// The trees show the frozen set, durably.
    pub fn thaw(&mut self) {
        self.frozen.clear();
        self.exposed[1] = 0;
    }
}
