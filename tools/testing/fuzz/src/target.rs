// SPDX-License-Identifier: GPL-2.0

//! What is fed: each target takes one iteration's generator and does its worst.

use crate::hostile;
use crate::mutate::damage;
use crate::protocol;
use ddup_engine::engine::format::journal::{self, HEADER_BYTES};
use ddup_engine::engine::format::page::*;
use ddup_engine::engine::format::superblock::Superblock;
use ddup_engine::engine::types::*;
use ddup_sim::content::{Image, CLUSTER};
use ddup_sim::disk::Disk;
use ddup_sim::real::Real;
use ddup_sim::rng::Rng;
use ddup_sim::script::{generate_with, Setup};
use ddup_sim::world;

/// A checksum that is always right, so that damage reaches what lies behind the checksums.
pub fn blind(_: &[u8], _: u64) -> u64 {
    0
}

/// Stores that were in use when the power failed, with all their metadata.
pub struct Corpus {
    stores: Vec<(Setup, Disk)>,
    metadata: Vec<Vec<u8>>,
}

impl Corpus {
    /// Makes stores with the simulator, each from its own seed.
    pub fn new() -> Result<Self, String> {
        let mut corpus = Corpus {
            stores: Vec::new(),
            metadata: Vec::new(),
        };
        for seed in 0..6 {
            let script = generate_with(0xf022 + seed, 300, |setup| {
                setup.clusters = 6 * 4096;
                setup.journal_clusters = 0;
                setup.volume_blocks = if seed % 2 == 0 { 1 << 16 } else { 1 << 34 };
                setup.queue_depth = 16;
                setup.cache_pages = 256;
                setup.index_bytes = 1 << 16;
                setup.blank = true;
                setup.prior_life = false;
                setup.io_faults = false;
                setup.alloc_faults = false;
                setup.rot = ddup_sim::script::Rot::Nothing;
                setup.theme = ddup_sim::script::Theme::Swarm;
                setup.hash = blind;
            });
            let disk = world::leave::<Real>(&script).map_err(|f| f.what)?;
            for cluster in disk.touched() {
                if let Image::Meta(bytes) = disk.read(cluster) {
                    corpus.metadata.push(bytes.to_vec());
                }
            }
            corpus.stores.push((script.setup, disk));
        }
        Ok(corpus)
    }

    fn metadata(&self, rng: &mut Rng) -> Vec<u8> {
        self.metadata[rng.below(self.metadata.len() as u64) as usize].clone()
    }
}

/// The names of all targets.
pub const TARGETS: [&str; 7] = [
    "superblock",
    "page",
    "journal",
    "frame",
    "record",
    "session",
    "store",
];

/// One iteration. A panic is what we look for; an error is what we want.
pub fn run(target: &str, corpus: &Corpus, rng: &mut Rng) -> Result<(), String> {
    match target {
        "superblock" => superblock(corpus, rng),
        "page" => page(corpus, rng),
        "journal" => journal_block(corpus, rng),
        "frame" => protocol::frames(rng)?,
        "record" => protocol::slots(rng)?,
        "session" => protocol::session(rng)?,
        "store" => store(corpus, rng)?,
        other => return Err(format!("no target {other:?}; there are {TARGETS:?}")),
    }
    Ok(())
}

fn superblock(corpus: &Corpus, rng: &mut Rng) {
    let (_, disk) = &corpus.stores[rng.below(corpus.stores.len() as u64) as usize];
    let mut block = vec![0; CLUSTER];
    disk.read(rng.below(2)).bytes(&mut block);
    damage(&mut block, rng);
    if let Ok(sb) = Superblock::read(&block, blind) {
        // What was accepted must be fit for use and come back as it is.
        assert!(sb.layout.is_sound());
        let _ = sb.places();
        for page in [0, sb.layout.table_pages() - 1] {
            assert!(sb.layout.table_place(page, true).0 < sb.layout.clusters);
        }
        let mut again = vec![0; CLUSTER];
        sb.write(&mut again, blind);
        assert!(Superblock::read(&again, blind).is_ok());
    }
}

fn page(corpus: &Corpus, rng: &mut Rng) {
    let mut bytes = corpus.metadata(rng);
    damage(&mut bytes, rng);
    for tree in [
        1,
        tree::NAMES,
        tree::COUNTS,
        tree::VOLUMES,
        tree::PUNCHES,
        tree::SEGMENTS,
    ] {
        for level in 0..3 {
            let id = PageId {
                tree,
                level,
                index: 0,
            };
            let _ = verify(&bytes, blind, &[0; 16], id, Cluster(9), None);
            let sound = validate_entries(&bytes, id, 1 << 20).is_ok();
            if sound && tree == 1 && level == 0 {
                for slot in 0..MAP_LEAF {
                    assert!(MapEntry::read(&bytes, slot).cluster.0 < 1 << 20);
                }
            }
        }
    }
    for slot in 0..PUNCH_LEAF {
        if let Ok(Some(p)) = PunchEntry::read(&bytes, slot) {
            assert!(p.start.0 + p.count <= LBN_LIMIT);
        }
    }
    for slot in 0..VOLUME_LEAF {
        if let Ok(Some(v)) = VolumeEntry::read(&bytes, slot) {
            assert!(v.blocks <= LBN_LIMIT && usize::from(v.levels) <= LEVELS_MAX);
        }
    }
    for slot in 0..SEGMENT_PAGE {
        let _ = SegmentEntry::read(&bytes, slot);
    }
}

fn journal_block(corpus: &Corpus, rng: &mut Rng) {
    let mut bytes = corpus.metadata(rng);
    if rng.chance(3, 4) {
        // Nearly a journal block, whatever it was.
        let (_, disk) = &corpus.stores[rng.below(corpus.stores.len() as u64) as usize];
        disk.read(4 + rng.below(64)).bytes(&mut bytes);
    }
    damage(&mut bytes, rng);
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&bytes[16..32]);
    let _ = journal::follows(&bytes, 0, blind);
    let Some(header) = journal::header(&bytes, &uuid, blind) else {
        return;
    };
    let end = (HEADER_BYTES + header.record_bytes).min(bytes.len());
    let mut at = HEADER_BYTES;
    while let Ok(Some((record, next))) = journal::read_record(&bytes, at, end, 1 << 20) {
        assert!(next > at && next <= end);
        if let journal::Record::Map { changes, lbn, .. } = record {
            assert!(lbn.0 + changes.iter().count() as u64 <= LBN_LIMIT);
        }
        at = next;
    }
}

fn store(corpus: &Corpus, rng: &mut Rng) -> Result<(), String> {
    let (setup, disk) = &corpus.stores[rng.below(corpus.stores.len() as u64) as usize];
    let mut disk = disk.clone();
    let metadata: Vec<u64> = disk
        .touched()
        .into_iter()
        .filter(|c| matches!(disk.read(*c), Image::Meta(_)))
        .collect();
    for _ in 0..rng.skewed(3) {
        // The fixed places come first, and are few: half of the damage goes there.
        let bound = if rng.chance(1, 2) {
            24
        } else {
            metadata.len() as u64
        };
        let cluster = metadata[rng.below(bound.min(metadata.len() as u64)) as usize];
        let mut bytes = vec![0; CLUSTER];
        disk.read(cluster).bytes(&mut bytes);
        if rng.chance(1, 16) {
            // A page that is whole, but another one.
            let other = metadata[rng.below(metadata.len() as u64) as usize];
            disk.read(other).bytes(&mut bytes);
        } else {
            damage(&mut bytes, rng);
        }
        disk.write_durable(cluster, Image::meta(&bytes));
    }
    hostile::use_store(setup, disk, rng)
}
