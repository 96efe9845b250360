// SPDX-License-Identifier: GPL-2.0

//! Journal blocks: records come back in order, a chain proves that nothing is missing, and bytes
//! that nobody wrote are refused.

use super::{hash, Random};
use ddup_engine::engine::format::journal::*;
use ddup_engine::engine::format::page::{MAP_LEAF, NAME_LEAF};
use ddup_engine::engine::types::*;

const STORE: u64 = 1 << 20;

#[derive(Debug, PartialEq)]
enum Twin {
    Map {
        volume: u32,
        lbn: Lbn,
        fresh: bool,
        local: bool,
        changes: Vec<MapChange>,
    },
    Small(String),
}

fn twin(record: &Record<'_>) -> Twin {
    match *record {
        Record::Map {
            volume,
            lbn,
            fresh,
            local,
            changes,
        } => Twin::Map {
            volume,
            lbn,
            fresh,
            local,
            changes: changes.iter().collect(),
        },
        _ => Twin::Small(format!("{record:?}")),
    }
}

/// Appends a random record; `None` if the block has no room for the largest.
fn append(random: &mut Random, block: &mut [u8], at: usize) -> Option<(Twin, usize)> {
    if at + map_bytes_max(MAP_RUN_MAX) > BLOCK_BYTES_MAX {
        return None;
    }
    let lbn = Lbn(random.below(LBN_LIMIT - MAP_LEAF));
    let bits = random.below(34);
    let count = 1 + random.below(1 << bits);
    let count = count.min(LBN_LIMIT - lbn.0);
    let volume = random.draw() as u32;
    let small = match random.below(6) {
        0 | 1 => {
            let room = MAP_LEAF - lbn.0 % MAP_LEAF;
            let n = (1 + random.below(MAP_RUN_MAX as u64)).min(room);
            let changes: Vec<MapChange> = (0..n)
                .map(|_| MapChange {
                    cluster: Cluster(1 + random.below(STORE - 1)),
                    check: Check(random.draw() & CHECK_MASK),
                    name: Name(random.bytes()),
                })
                .collect();
            let fresh = random.below(2) == 0;
            let local = random.below(2) == 0;
            let mut all = changes.iter().copied();
            let end = write_map(block, at, volume, lbn, fresh, local, &mut all);
            assert!(
                end - at <= map_bytes_max(n as usize),
                "the promise was too small"
            );
            return Some((
                Twin::Map {
                    volume,
                    lbn,
                    fresh,
                    local,
                    changes,
                },
                end,
            ));
        }
        2 => Record::Unmap {
            volume,
            lbn,
            count,
            more: random.below(2) == 0,
        },
        3 => Record::Discard { volume, lbn, count },
        4 => {
            let cluster = 1 + random.below(STORE - NAME_LEAF - 1);
            let count = 1 + random.below(NAME_LEAF - cluster % NAME_LEAF);
            Record::Retire {
                cluster: Cluster(cluster),
                count,
            }
        }
        _ => Record::Quarantine {
            cluster: Cluster(1 + random.below(STORE - 1)),
        },
    };
    let end = write_small(block, at, &small);
    assert!(end - at <= SMALL_RECORD_MAX, "the promise was too small");
    Some((twin(&small), end))
}

fn block(random: &mut Random, sequence: u64, chain: u64) -> (Vec<u8>, Vec<Twin>, u64) {
    let mut bytes = vec![0; BLOCK_BYTES_MAX];
    let (mut at, mut twins) = (HEADER_BYTES, Vec::new());
    for _ in 0..1 + random.below(60) {
        let Some((record, end)) = append(random, &mut bytes, at) else {
            break;
        };
        twins.push(record);
        at = end;
    }
    bytes.truncate(at.div_ceil(CLUSTER_SIZE) * CLUSTER_SIZE);
    let header = BlockHeader {
        uuid: [9; 16],
        clusters: (bytes.len() / CLUSTER_SIZE) as u64,
        sequence,
        incarnation: 3,
        durable_upto: sequence,
        superblock_generation: 77,
        attached_seconds: 5,
        record_bytes: at - HEADER_BYTES,
    };
    let next = seal(&mut bytes, &header, chain, hash);
    assert_eq!(
        ddup_engine::engine::format::journal::header(&bytes, &[9; 16], hash),
        Some(header)
    );
    (bytes, twins, next)
}

fn records(bytes: &[u8]) -> Result<Vec<Twin>, BadRecord> {
    let h = header(bytes, &[9; 16], hash).ok_or(BadRecord { at: 0 })?;
    let end = HEADER_BYTES + h.record_bytes;
    let (mut at, mut all) = (HEADER_BYTES, Vec::new());
    while let Some((record, next)) = read_record(bytes, at, end, STORE)? {
        assert!(next > at && next <= end, "a record that does not advance");
        all.push(twin(&record));
        at = next;
    }
    Ok(all)
}

#[test]
fn records_come_back_in_order() {
    let mut random = Random(1);
    for sequence in 0..400 {
        let (bytes, twins, _) = block(&mut random, sequence, 1);
        assert_eq!(records(&bytes), Ok(twins));
    }
}

#[test]
fn a_chain_holds_only_in_order_and_undamaged() {
    let mut random = Random(2);
    let mut chain = join_chain(5, 3, hash);
    assert_ne!(chain, join_chain(5, 4, hash));
    let mut former: Option<(Vec<u8>, u64)> = None;
    for sequence in 0..60 {
        let (mut bytes, _, next) = block(&mut random, sequence, chain);
        assert_eq!(follows(&bytes, chain, hash), Some(next));
        if let Some((older, before)) = &former {
            assert_eq!(follows(older, chain, hash), None, "a block twice");
            assert_eq!(follows(&bytes, *before, hash), None, "a block is missing");
        }
        for _ in 0..30 {
            let at = random.below(bytes.len() as u64) as usize;
            let bit = 1 << random.below(8);
            bytes[at] ^= bit;
            assert_eq!(follows(&bytes, chain, hash), None, "byte {at}");
            bytes[at] ^= bit;
        }
        former = Some((bytes, chain));
        chain = next;
    }
}

#[test]
fn another_stores_block_and_a_damaged_header_are_refused() {
    let mut random = Random(3);
    let (mut bytes, _, _) = block(&mut random, 1, 1);
    assert!(header(&bytes, &[8; 16], hash).is_none());
    for at in 8..HEADER_BYTES {
        bytes[at] ^= 4;
        assert!(header(&bytes, &[9; 16], hash).is_none(), "byte {at}");
        bytes[at] ^= 4;
    }
    assert!(header(&bytes[..100], &[9; 16], hash).is_none());
}

#[test]
fn hostile_records_end_in_an_error_or_are_sound() {
    let mut random = Random(4);
    let mut refused = 0;
    for round in 0..2000 {
        let (mut bytes, _, _) = block(&mut random, 1, 1);
        let Some(h) = header(&bytes, &[9; 16], hash) else {
            continue;
        };
        let end = HEADER_BYTES + h.record_bytes;
        for _ in 0..1 + random.below(8) {
            let at = HEADER_BYTES + random.below(h.record_bytes as u64) as usize;
            bytes[at] = if round % 2 == 0 {
                random.draw() as u8
            } else {
                0xff
            };
        }
        let mut at = HEADER_BYTES;
        loop {
            match read_record(&bytes, at, end, STORE) {
                Ok(None) => break,
                Err(bad) => {
                    assert_eq!(bad.at, at);
                    refused += 1;
                    break;
                }
                Ok(Some((record, next))) => {
                    assert!(next > at && next <= end);
                    match record {
                        Record::Map { lbn, changes, .. } => {
                            let n = changes.iter().count() as u64;
                            assert!((1..=MAP_RUN_MAX as u64).contains(&n));
                            assert!(lbn.0 + n <= LBN_LIMIT);
                            assert!(changes.iter().all(|c| (1..STORE).contains(&c.cluster.0)));
                        }
                        Record::Unmap { lbn, count, .. } | Record::Discard { lbn, count, .. } => {
                            assert!(count > 0 && lbn.0 + count <= LBN_LIMIT);
                        }
                        Record::Retire { cluster, count } => {
                            assert!(cluster.0 > 0 && cluster.0 + count <= STORE);
                        }
                        Record::Quarantine { cluster } => {
                            assert!((1..STORE).contains(&cluster.0));
                        }
                        Record::Seal(position) => assert!(position.epoch > 0),
                    }
                    at = next;
                }
            }
        }
    }
    assert!(refused > 300);
}

#[test]
fn blocks_of_a_ring_never_wrap_and_never_overlap_within_a_round() {
    let mut random = Random(5);
    for ring in [512, 513, 1000, 65536] {
        let mut offset = 0;
        for _ in 0..5000 {
            let clusters = 1 + random.below(JOURNAL_BLOCK_CLUSTERS_MAX);
            assert!(offset + clusters <= ring);
            let next = next_offset(offset, clusters, ring);
            assert!(next == 0 || next == offset + clusters);
            assert!(
                next + JOURNAL_BLOCK_CLUSTERS_MAX <= ring,
                "the largest block fits"
            );
            offset = next;
        }
    }
}
