// SPDX-License-Identifier: GPL-2.0

//! Where the blocks of volumes lie, as of the durable checkpoint.

use crate::store::{self, Device, CLUSTER};
use ddup_engine::engine::format::{
    page::{self, tree, MapEntry, PageId, Pointer, VolumeEntry, FANOUT, MAP_LEAF, VOLUME_LEAF},
    superblock::Superblock,
};
use serde::Serialize;

/// Blocks that follow each other on a volume and lie in clusters that follow each other.
#[derive(Serialize, PartialEq, Eq, Debug)]
pub struct Run {
    pub volume: u32,
    pub block: u64,
    pub cluster: u64,
    pub count: u64,
}

/// The runs of all volumes in order, and the pages that can't be believed: what lies below those is
/// missing.
#[derive(Default, Serialize)]
pub struct Maps {
    pub runs: Vec<Run>,
    pub lost: Vec<String>,
}

/// Reads the maps of all volumes.
pub fn maps(device: &Device, superblock: &Superblock) -> Maps {
    let mut walk = Walk {
        device,
        superblock,
        lost: Vec::new(),
    };
    let mut volumes = Vec::new();
    let checkpoint = &superblock.checkpoint;
    let levels = if checkpoint.volume_count > VOLUME_LEAF {
        2
    } else {
        1
    };
    walk.tree(tree::VOLUMES, checkpoint.volumes, levels, &mut |_, page| {
        let entries = (0..VOLUME_LEAF).filter_map(|slot| VolumeEntry::read(page, slot).ok()?);
        volumes.extend(entries);
    });
    let mut runs = Vec::new();
    for volume in volumes {
        walk.tree(
            volume.map,
            volume.root,
            volume.levels,
            &mut |index, page| {
                for slot in 0..MAP_LEAF {
                    let entry = MapEntry::read(page, slot);
                    if entry.is_mapped() {
                        add(
                            &mut runs,
                            volume.id,
                            index * MAP_LEAF + slot,
                            entry.cluster.0,
                        );
                    }
                }
            },
        );
    }
    Maps {
        runs,
        lost: walk.lost,
    }
}

/// Adds a block to the last run, if it goes on there, or as a new one.
fn add(runs: &mut Vec<Run>, volume: u32, block: u64, cluster: u64) {
    match runs.last_mut() {
        Some(last)
            if last.volume == volume
                && last.block + last.count == block
                && last.cluster + last.count == cluster =>
        {
            last.count += 1;
        }
        _ => runs.push(Run {
            volume,
            block,
            cluster,
            count: 1,
        }),
    }
}

struct Walk<'a> {
    device: &'a Device,
    superblock: &'a Superblock,
    lost: Vec<String>,
}

impl Walk<'_> {
    /// Shows each leaf of a tree, with its index.
    fn tree(&mut self, tree: u32, root: Pointer, levels: u8, visit: &mut dyn FnMut(u64, &[u8])) {
        let id = PageId {
            tree,
            level: levels.saturating_sub(1),
            index: 0,
        };
        self.page(id, root, visit);
    }

    fn page(&mut self, id: PageId, pointer: Pointer, visit: &mut dyn FnMut(u64, &[u8])) {
        if pointer.is_null() {
            return;
        }
        let (place, sum) = (pointer.place, Some(pointer.sum));
        let mut block = vec![0; CLUSTER as usize];
        let read = self.device.read(place.0, &mut block).is_ok();
        let uuid = &self.superblock.uuid;
        if !read || page::verify(&block, store::hash, uuid, id, place, sum).is_err() {
            let PageId { tree, level, index } = id;
            self.lost.push(format!(
                "tree {tree:#x}, level {level}, page {index} at cluster {}",
                place.0
            ));
        } else if id.level == 0 {
            visit(id.index, &block);
        } else {
            for slot in 0..FANOUT {
                let child = PageId {
                    level: id.level - 1,
                    index: id.index * FANOUT + slot,
                    ..id
                };
                self.page(child, Pointer::of_child(&block, slot), visit);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_follow_each_other_are_one_run() {
        let mut runs = Vec::new();
        for (volume, block, cluster) in [
            (1, 0, 100),
            (1, 1, 101),
            (1, 2, 103),
            (1, 4, 104),
            (2, 5, 105),
            (2, 6, 106),
        ] {
            add(&mut runs, volume, block, cluster);
        }
        let run = |volume, block, cluster, count| Run {
            volume,
            block,
            cluster,
            count,
        };
        assert_eq!(
            runs,
            [
                run(1, 0, 100, 2),
                run(1, 2, 103, 1),
                run(1, 4, 104, 1),
                run(2, 5, 105, 2)
            ]
        );
    }
}
