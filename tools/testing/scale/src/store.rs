// SPDX-License-Identifier: GPL-2.0

//! A store of any size whose pages are made up when they are read for the first time.
//!
//! Three quarters of its clusters are live, each owned by one block of one volume. Where a page of
//! a tree lies follows from what it is, so nothing is stored but what the engine wrote. The hash
//! that the engine is lent answers 0 for everything: a parent then knows the checksums of children
//! that do not exist yet. So this counts pages and bytes, and times nothing that hashes.

use ddup_engine::engine::format::layout::Layout;
use ddup_engine::engine::format::page::{
    self, levels_for, tree, CountEntry, MapEntry, PageId, Pointer, SegmentEntry, SegmentKind,
    VolumeEntry, COUNT_LEAF, FANOUT, MAP_LEAF, NAME_LEAF, SEGMENT_PAGE,
};
use ddup_engine::engine::format::superblock::Superblock;
use ddup_engine::engine::mkfs::{self, Params, Step};
use ddup_engine::engine::types::{Cluster, Generation, SEGMENT_CLUSTERS};
use ddup_engine::engine::{Check, FingerprintAlgorithm, Lbn, Name};
use std::collections::HashMap;

const PAGE: usize = 4096;
/// The only volume.
const VOLUME: u32 = 1;

/// Answers 0.
pub fn no_hash(_: &[u8], _: u64) -> u64 {
    0
}

/// A tree whose pages lie one after the other, leaves first.
#[derive(Clone)]
struct Plan {
    id: u32,
    leaf: u64,
    first: u64,
    /// Pages of each level.
    pages: Vec<u64>,
}

impl Plan {
    fn new(id: u32, entries: u64, leaf: u64, first: u64) -> Plan {
        let mut pages = vec![entries.div_ceil(leaf)];
        for _ in 1..levels_for(entries, leaf) {
            pages.push(pages[pages.len() - 1].div_ceil(FANOUT));
        }
        Plan {
            id,
            leaf,
            first,
            pages,
        }
    }

    fn total(&self) -> u64 {
        self.pages.iter().sum()
    }

    fn place(&self, level: usize, index: u64) -> u64 {
        self.first + self.pages[..level].iter().sum::<u64>() + index
    }

    fn find(&self, place: u64) -> Option<(usize, u64)> {
        let mut index = place.checked_sub(self.first)?;
        for (level, &pages) in self.pages.iter().enumerate() {
            if index < pages {
                return Some((level, index));
            }
            index -= pages;
        }
        None
    }

    fn pointer(&self, level: usize, index: u64) -> Pointer {
        let place = Cluster(self.place(level, index));
        Pointer {
            place,
            highest: 0,
            sum: 0,
            birth: Generation(1),
            checkpoint: 1,
        }
    }

    fn root(&self) -> Pointer {
        self.pointer(self.pages.len() - 1, 0)
    }
}

/// The device below such a store.
pub struct Device {
    pub layout: Layout,
    pub uuid: [u8; 16],
    /// Blocks of the volume, all mapped.
    pub blocks: u64,
    written: HashMap<u64, Box<[u8]>>,
    plans: Vec<Plan>,
    /// Segments of the trees' pages, behind the fixed ones and the one that mkfs took.
    metadata: u64,
    /// First live cluster.
    live: u64,
    pub reads: u64,
    pub writes: u64,
}

impl Device {
    /// A device of this many clusters.
    pub fn new(clusters: u64) -> Device {
        let mut written = HashMap::new();
        let live_clusters = clusters / 4 * 3;
        let params = Params {
            clusters,
            journal_clusters: 0,
            volume_blocks: live_clusters,
            uuid: [7; 16],
            volume_uuid: [8; 16],
            label: [0; 64],
            fingerprint: FingerprintAlgorithm::Blake2b,
            name_key: 1,
            check_key: 2,
            hash: no_hash,
            member: None,
        };
        let superblock = mkfs::format::<()>(&params, &mut |step| {
            if let Step::Write(cluster, bytes) = step {
                written.insert(cluster.0, bytes.into());
            }
            Ok(())
        });
        let Ok(superblock) = superblock else {
            panic!("no store has {clusters} clusters");
        };
        let layout = superblock.layout;
        let mut device = Device {
            layout,
            uuid: superblock.uuid,
            blocks: live_clusters,
            written,
            plans: Vec::new(),
            metadata: 0,
            live: 0,
            reads: 0,
            writes: 0,
        };
        device.make_trees();
        device.patch(superblock);
        device
    }

    fn first_plan_segment(&self) -> u64 {
        self.layout.fixed_segments() + 1
    }

    fn make_trees(&mut self) {
        let clusters = self.layout.clusters;
        let mut first = self.first_plan_segment() * SEGMENT_CLUSTERS;
        for (id, entries, leaf) in [
            (VOLUME, self.blocks, MAP_LEAF),
            (tree::NAMES, clusters, NAME_LEAF),
            (tree::COUNTS, clusters, COUNT_LEAF),
        ] {
            let plan = Plan::new(id, entries, leaf, first);
            first += plan.total();
            self.plans.push(plan);
        }
        let start = self.first_plan_segment() * SEGMENT_CLUSTERS;
        self.metadata = (first - start).div_ceil(SEGMENT_CLUSTERS);
        self.live = start + self.metadata * SEGMENT_CLUSTERS;
        assert!(self.live + self.blocks < clusters, "the store is too small");
    }

    fn patch(&mut self, mut superblock: Superblock) {
        let [map, names, counts] = &self.plans[..] else {
            unreachable!("three trees were made");
        };
        superblock.checkpoint.names = names.root();
        superblock.checkpoint.counts = counts.root();
        let volume = VolumeEntry {
            id: VOLUME,
            uuid: [8; 16],
            blocks: self.blocks,
            generation: Generation(1),
            parent_generation: Generation(0),
            origin: 0,
            levels: map.pages.len() as u8,
            root: map.root(),
            keeps: None,
            shadow: false,
            map: VOLUME,
        };
        let place = superblock.checkpoint.volumes.place.0;
        if let Some(page) = self.written.get_mut(&place) {
            volume.write(page, 0);
        }
        for page in 0..self.layout.table_pages() {
            self.written.remove(&self.layout.table_place(page, false).0);
        }
        let mut block = vec![0; PAGE];
        superblock.write(&mut block, no_hash);
        for place in superblock.places() {
            self.written.insert(place.0, block.clone().into());
        }
    }

    /// Reads a page.
    pub fn read(&mut self, place: u64, page: &mut [u8]) {
        self.reads += 1;
        match self.written.get(&place) {
            Some(stored) => page.copy_from_slice(stored),
            None => self.make_up(place, page),
        }
    }

    /// Writes a page.
    pub fn write(&mut self, place: u64, page: &[u8]) {
        self.writes += 1;
        self.written.insert(place, page.into());
    }

    fn make_up(&self, place: u64, page: &mut [u8]) {
        page.fill(0);
        let table = self.layout.table_place(0, false).0;
        let found = self
            .plans
            .iter()
            .find_map(|plan| Some((plan, plan.find(place)?)));
        let id = match found {
            Some((plan, (level, index))) => {
                self.make_up_page(plan, level, index, page);
                PageId {
                    tree: plan.id,
                    level: level as u8,
                    index,
                }
            }
            None if (table..table + self.layout.table_pages()).contains(&place) => {
                self.make_up_table(place - table, page);
                PageId {
                    tree: tree::SEGMENTS,
                    level: 0,
                    index: place - table,
                }
            }
            None => return,
        };
        page::seal(
            page,
            no_hash,
            &self.uuid,
            id,
            Cluster(place),
            Generation(1),
            1,
        );
    }

    fn make_up_page(&self, plan: &Plan, level: usize, index: u64, page: &mut [u8]) {
        if level > 0 {
            let first = index * FANOUT;
            for slot in 0..FANOUT.min(plan.pages[level - 1] - first) {
                plan.pointer(level - 1, first + slot).set_child(page, slot);
            }
            return;
        }
        for slot in 0..plan.leaf {
            let entry = index * plan.leaf + slot;
            let is_live = (self.live..self.live + self.blocks).contains(&entry);
            match plan.id {
                VOLUME if entry < self.blocks => MapEntry {
                    cluster: Cluster(self.live + entry),
                    birth: Generation(1),
                    check: Check(entry),
                }
                .write(page, slot),
                tree::NAMES if is_live => page::name_write(page, slot, &name(entry)),
                tree::COUNTS if is_live => CountEntry::Live(1).write(page, slot),
                _ => {}
            }
        }
    }

    fn make_up_table(&self, table_page: u64, page: &mut [u8]) {
        if table_page >= self.layout.entry_pages() {
            // Bitmap 0 is that of mkfs's segment, with its first pages in use; then the trees'.
            let first = (table_page - self.layout.entry_pages()) * page::BITMAP_PAGE;
            for slot in 0..page::BITMAP_PAGE {
                let at = page::HEADER_BYTES + slot as usize * page::BITMAP_BYTES;
                match first + slot {
                    0 => page[at] = (1u8 << (1 + self.layout.select_pages())) - 1,
                    n if n <= self.metadata => page[at..at + page::BITMAP_BYTES].fill(0xff),
                    _ => {}
                }
            }
            return;
        }
        let first = table_page * SEGMENT_PAGE;
        for slot in 0..SEGMENT_PAGE.min(self.layout.segments() - first) {
            self.segment(first + slot).write(page, slot);
        }
    }

    fn segment(&self, number: u64) -> SegmentEntry {
        let fixed = self.layout.fixed_segments();
        let trees = self.first_plan_segment();
        let start = number * SEGMENT_CLUSTERS;
        let live = (self.live + self.blocks)
            .clamp(start, start + SEGMENT_CLUSTERS)
            .saturating_sub(self.live.max(start));
        let (kind, available, live, bitmap) = match number {
            n if n < fixed => (SegmentKind::Fixed, 0, 0, 0),
            n if n < trees => (SegmentKind::Metadata, 0, 1 + self.layout.select_pages(), 0),
            n if n < trees + self.metadata => {
                (SegmentKind::Metadata, 0, SEGMENT_CLUSTERS, n - trees + 1)
            }
            _ => (SegmentKind::Data, SEGMENT_CLUSTERS - live, live, 0),
        };
        SegmentEntry {
            kind,
            available: available as u16,
            junk: 0,
            live: live as u16,
            bitmap: bitmap as u32,
        }
    }
}

fn name(cluster: u64) -> Name {
    let mut name = [0x33; 24];
    name[..8].copy_from_slice(&cluster.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    Name(name)
}

/// The block that is `random` taken modulo the volume's size.
pub fn block(random: u64, device: &Device) -> Lbn {
    Lbn(random % device.blocks)
}
