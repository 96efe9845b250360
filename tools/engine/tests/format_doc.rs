// SPDX-License-Identifier: GPL-2.0

//! The tables of `Documentation/block/ddup-format.rst`, compared with what the code writes: every
//! field of every table, where it lies, how long it is, and that nothing lies between.

use ddup_engine::engine::births::{Births, Tick, BIRTHS_MAX};
use ddup_engine::engine::format::index::{self, ChunkHeader, SavedIndex, CHUNK_BYTES};
use ddup_engine::engine::format::journal::{self, BlockHeader, MapChange, Record};
use ddup_engine::engine::format::layout::{Layout, JOURNAL_START};
use ddup_engine::engine::format::page::{self, tree, CountEntry, MapEntry, PageId, Pointer};
use ddup_engine::engine::format::page::{PunchEntry, SegmentEntry, SegmentKind, VolumeEntry};
use ddup_engine::engine::format::page::{COUNT_LEAF, MAP_LEAF, NAME_LEAF, PUNCH_LEAF};
use ddup_engine::engine::format::page::{HEADER_BYTES, SEGMENT_PAGE, SELECT_PAGE, VOLUME_LEAF};
use ddup_engine::engine::format::superblock::{Checkpoint, Join, Superblock};
use ddup_engine::engine::replication::types::Position;
use ddup_engine::engine::types::{Check, Generation, Lbn, Name, CLUSTER_SIZE};
use ddup_engine::engine::{Cluster, FingerprintAlgorithm};
use kernel::prelude::{KVec, GFP_KERNEL};
use std::collections::BTreeMap;
use xxhash_rust::xxh64::xxh64;

fn document() -> String {
    let folder = env!("CARGO_MANIFEST_DIR");
    let path = format!("{folder}/../../Documentation/block/ddup-format.rst");
    std::fs::read_to_string(path).unwrap()
}

/// The lines of a table, without its indentation.
fn lines(name: &str) -> Vec<String> {
    let document = document();
    let title = format!(".. table:: {name}");
    let mut rest = document.lines().skip_while(|line| *line != title);
    assert!(rest.next().is_some(), "the document has no table {name:?}");
    rest.take_while(|line| line.is_empty() || line.starts_with("   "))
        .map(|line| line.trim_start_matches("   ").to_string())
        .collect()
}

/// A table of fields.
struct Table {
    name: &'static str,
    /// Offset, length, name.
    rows: Vec<(usize, usize, String)>,
}

impl Table {
    fn read(name: &'static str) -> Table {
        let row = |line: String| {
            let mut words = line.split_whitespace();
            let offset = words.next()?.parse().ok()?;
            let length = words.next()?.parse().ok()?;
            // What continues a row begins with white space.
            let is_row = !line.starts_with(' ');
            is_row.then(|| (offset, length, words.next().unwrap().to_string()))
        };
        let rows = lines(name).into_iter().filter_map(row).collect();
        Table { name, rows }
    }

    /// That the bytes are what the table says, whole and without gaps.
    fn compare(&self, bytes: &[u8], fields: &[(&str, Vec<u8>)]) {
        let name = self.name;
        let mut fields: BTreeMap<&str, &Vec<u8>> = fields.iter().map(|f| (f.0, &f.1)).collect();
        let mut end = 0;
        for (offset, length, field) in &self.rows {
            assert_eq!(*offset, end, "{name}: gap or overlap before {field}");
            end += length;
            let stored = &bytes[*offset..end];
            if field == "reserved" {
                assert!(stored.iter().all(|byte| *byte == 0), "{name}: at {offset}");
                continue;
            }
            let expected = fields.remove(field.as_str());
            let expected = expected.unwrap_or_else(|| panic!("{name}: nothing known of {field}"));
            let padding = length.checked_sub(expected.len());
            let padding = padding.unwrap_or_else(|| panic!("{name}: {field} is too short"));
            let padded = [&expected[..], &vec![0; padding]].concat();
            assert_eq!(stored, padded, "{name}: {field}");
        }
        assert_eq!(end, bytes.len(), "{name}: length");
        assert!(fields.is_empty(), "{name} lacks {:?}", fields.keys());
    }
}

/// A number as it is stored, without leading zeroes.
fn n(value: u64) -> Vec<u8> {
    let length = 8 - value.leading_zeros() as usize / 8;
    value.to_le_bytes()[..length].to_vec()
}

fn seed(of: &str) -> u64 {
    let lines = lines("Seeds");
    let line = lines.iter().find(|line| line.ends_with(of)).unwrap();
    let digits = line.split_whitespace().next().unwrap();
    u64::from_str_radix(digits.trim_start_matches("0x"), 16).unwrap()
}

const UUID: [u8; 16] = *b"0123456789abcdef";

fn pointer(n: u64) -> Pointer {
    Pointer {
        place: Cluster(n),
        highest: n + 1,
        sum: 0x0102_0304_0506_0700 + n,
        birth: Generation(0x0a0b_0c0d),
        checkpoint: 0x1111_2222_3333_4444,
    }
}

fn bytes_of(pointer: Pointer) -> Vec<u8> {
    let mut bytes = vec![0; 32];
    pointer.write(&mut bytes, 0);
    bytes
}

fn kvec<T: Clone>(count: usize, entry: T) -> KVec<T> {
    KVec::from_elem(entry, count, GFP_KERNEL).unwrap()
}

/// The first entry of a page.
fn entry(length: usize, write: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut page = vec![0; CLUSTER_SIZE];
    write(&mut page);
    page[HEADER_BYTES..HEADER_BYTES + length].to_vec()
}

#[test]
fn the_superblock_is_as_documented() {
    let layout = Layout::new(123 * 4096, 4096).unwrap();
    let mut joins = kvec(32, Join::default());
    joins[0] = Join {
        incarnation: 0x31,
        sequence: 0x3233_3435,
        offset: 0x36,
        chain: 0x3738_393a_3b3c_3d3e,
    };
    joins[31].chain = 0x41;
    let mut ends = kvec(24, Position::ZERO);
    ends[0] = Position {
        term: 0xc1,
        reign: [0xc2; 16],
        epoch: 0xc3c4,
        chain: 0xc5c6_c7c8_c9ca_cbcc,
    };
    ends[23].chain = 0xd1;
    let mut select = kvec(28, Pointer::NULL);
    select[0] = pointer(0x5100);
    select[27] = pointer(0x5200);
    let ticks: [Tick; BIRTHS_MAX] = std::array::from_fn(|n| Tick {
        generation: Generation(0xe1e2_e300 + n as u32),
        epoch: 0xe4e5_e6e7_e8e9_ea00 + n as u64,
    });
    let mut superblock = Superblock {
        uuid: UUID,
        label: [0x61; 64],
        generation: 0x0807_0605_0403_0201,
        incarnation: 0x1817_1615_1413_1211,
        layout,
        fingerprint: FingerprintAlgorithm::Xxh64,
        name_key: 0x2827_2625_2423_2221,
        check_key: 0x3837_3635_3433_3231,
        clean: true,
        read_only_features: 0x4847_4645_4443_4241,
        checkpoint: Checkpoint {
            number: 0x5857_5655_5453_5251,
            generation: Generation(0x6463_6261),
            attached_seconds: 0x7877_7675_7473_7271,
            next_volume: 0x8483_8281,
            volume_count: 0x9897_9695_9493_9291,
            owner_count: 0x9a99_9897_9695_9492,
            punch_count: 0xa8a7_a6a5_a4a3_a2a1,
            names: pointer(0x7100),
            counts: pointer(0x7200),
            volumes: pointer(0x7300),
            punches: pointer(0x7400),
        },
        index: SavedIndex {
            place: Cluster(0xb001),
            chunks: 0xb2,
            buckets: 0xb3b4_b5b6,
            named: 0xb7,
        },
        select,
        joins,
        member: true,
        ends,
        births: Births::of(ticks.into_iter()).unwrap(),
    };
    let mut block = vec![0; CLUSTER_SIZE];
    superblock.write(&mut block, xxh64);
    let select = superblock.select.iter().copied().map(bytes_of);
    let select = select.collect::<Vec<_>>().concat();
    let table = Table::read("Superblock");
    let joins_at = table.rows.iter().find(|row| row.2 == "joins").unwrap().0;
    let join = Table::read("Join");
    join.compare(
        &block[joins_at..joins_at + 32],
        &[
            ("incarnation", n(0x31)),
            ("sequence", n(0x3233_3435)),
            ("offset", n(0x36)),
            ("chain", n(0x3738_393a_3b3c_3d3e)),
        ],
    );
    let joins = block[joins_at..joins_at + 1024].to_vec();
    assert_eq!(joins[1016], 0x41);
    let history_at = table.rows.iter().find(|row| row.2 == "history").unwrap().0;
    Table::read("End of a reign").compare(
        &block[history_at..history_at + 40],
        &[
            ("term", n(0xc1)),
            ("reign", vec![0xc2; 16]),
            ("epoch", n(0xc3c4)),
            ("chain", n(0xc5c6_c7c8_c9ca_cbcc)),
        ],
    );
    let history = block[history_at..history_at + 960].to_vec();
    assert_eq!(history[952], 0xd1);
    let births_at = table.rows.iter().find(|row| row.2 == "births").unwrap().0;
    Table::read("End of a generation").compare(
        &block[births_at..births_at + 12],
        &[
            ("epoch", n(0xe4e5_e6e7_e8e9_ea00)),
            ("generation", n(0xe1e2_e300)),
        ],
    );
    let births = block[births_at..births_at + 240].to_vec();
    assert_eq!(births[228], 0x13);
    table.compare(
        &block,
        &[
            ("magic", b"ddup\x8b\xf7st".to_vec()),
            ("checksum", n(xxh64(&block[16..], seed("superblock")))),
            ("version", n(1)),
            ("compat", n(0)),
            ("ro_compat", n(superblock.read_only_features)),
            ("incompat", n(1)),
            ("uuid", UUID.to_vec()),
            ("generation", n(superblock.generation)),
            ("incarnation", n(superblock.incarnation)),
            ("clusters", n(123 * 4096)),
            ("journal", n(4096)),
            ("bitmaps", n(layout.bitmaps)),
            ("cluster_shift", n(12)),
            ("fingerprint", n(3)),
            ("name_bytes", n(24)),
            ("check_algorithm", n(1)),
            ("name_key", n(superblock.name_key)),
            ("check_key", n(superblock.check_key)),
            ("device_uuid", UUID.to_vec()),
            ("devices", n(1)),
            ("flags", n(1)),
            ("label", vec![0x61; 64]),
            ("encryption", vec![0; 64]),
            ("checkpoint", n(superblock.checkpoint.number)),
            (
                "attached_seconds",
                n(superblock.checkpoint.attached_seconds),
            ),
            ("store_generation", n(0x6463_6261)),
            ("next_volume", n(0x8483_8281)),
            ("punch_count", n(superblock.checkpoint.punch_count)),
            ("volume_count", n(superblock.checkpoint.volume_count)),
            ("owner_count", n(superblock.checkpoint.owner_count)),
            ("index_place", n(0xb001)),
            ("index_chunks", n(0xb2)),
            ("index_buckets", n(0xb3b4_b5b6)),
            ("index_named", n(0xb7)),
            ("names", bytes_of(pointer(0x7100))),
            ("counts", bytes_of(pointer(0x7200))),
            ("volumes", bytes_of(pointer(0x7300))),
            ("punches", bytes_of(pointer(0x7400))),
            ("birth_count", n(20)),
            ("births", births),
            ("select", select),
            ("join_count", n(32)),
            ("joins", joins),
            ("history_count", n(24)),
            ("history", history),
        ],
    );
    // In a store that is in no replica set these are zeroes.
    let mut block = vec![0; CLUSTER_SIZE];
    superblock.member = false;
    superblock.write(&mut block, xxh64);
    assert_eq!(block[40], 0);
    assert!(block[births_at - 8..births_at + 240]
        .iter()
        .all(|byte| *byte == 0));
    assert!(block[history_at - 8..].iter().all(|byte| *byte == 0));
}

#[test]
fn the_header_of_a_page_is_as_documented() {
    let mut page = vec![7; CLUSTER_SIZE];
    page[13] = 0;
    let id = PageId {
        tree: 0x0102_0304,
        level: 5,
        index: 0x0a0b_0c0d_0e0f,
    };
    let (place, birth) = (Cluster(0x12_3456_789a), Generation(0x2122_2324));
    let sum = page::seal(&mut page, xxh64, &UUID, id, place, birth, 0x3132_3334);
    assert_eq!(sum, xxh64(&page[8..], seed("page")));
    Table::read("Page header").compare(
        &page[..HEADER_BYTES],
        &[
            ("checksum", n(sum)),
            ("magic", b"ddup".to_vec()),
            ("level", n(5)),
            ("version", n(1)),
            ("uuid", UUID.to_vec()),
            ("place", n(place.0)),
            ("checkpoint", n(0x3132_3334)),
            ("tree", n(0x0102_0304)),
            ("birth", n(0x2122_2324)),
            ("index", n(id.index)),
        ],
    );
}

#[test]
fn the_entries_of_pages_are_as_documented() {
    let p = pointer(0x12_3456_789a);
    Table::read("Pointer").compare(
        &entry(32, |page| p.set_child(page, 0)),
        &[
            ("place", n(p.place.0)),
            ("highest", n(p.highest)),
            ("checksum", n(p.sum)),
            ("birth", n(p.birth.0.into())),
            ("checkpoint", n(p.checkpoint)),
        ],
    );
    let map = MapEntry {
        cluster: Cluster(0x12_3456_789a),
        birth: Generation(0x2122_2324),
        check: Check(0x3132_3334_3536),
    };
    Table::read("Map entry").compare(
        &entry(16, |page| map.write(page, 0)),
        &[
            ("cluster", n(map.cluster.0)),
            ("kind", n(1)),
            ("birth", n(map.birth.0.into())),
            ("check", n(map.check.0)),
        ],
    );
    for (count, state, value) in [
        (CountEntry::Available, 0, 0),
        (CountEntry::Live(0x0102_0304), 1, 0x0102_0304),
        (
            CountEntry::Junk {
                since: 0x12_3456_789a,
            },
            2,
            0x12_3456_789a,
        ),
        (CountEntry::Quarantined, 3, 0),
        (CountEntry::LiveQuarantined(9), 4, 9),
    ] {
        Table::read("Count entry").compare(
            &entry(8, |page| count.write(page, 0)),
            &[("value", n(value)), ("state", n(state))],
        );
    }
    let volume = VolumeEntry {
        id: 0x0102_0304,
        uuid: UUID,
        blocks: 0x12_3456_789a,
        generation: Generation(0x2122_2324),
        parent_generation: Generation(0x3132_3334),
        origin: 0x4142_4344,
        levels: 6,
        root: p,
        keeps: Some(0x51_5253_5455_5657),
        shadow: true,
        map: 0x6162_6364,
    };
    Table::read("Volume entry").compare(
        &entry(256, |page| volume.write(page, 0)),
        &[
            ("id", n(volume.id.into())),
            ("uuid", UUID.to_vec()),
            ("blocks", n(volume.blocks)),
            ("generation", n(volume.generation.0.into())),
            ("parent_generation", n(volume.parent_generation.0.into())),
            ("origin", n(volume.origin.into())),
            ("levels", n(6)),
            ("flags", n(3)),
            ("root", bytes_of(p)),
            ("keeps", n(0x51_5253_5455_5657)),
            ("map", n(0x6162_6364)),
        ],
    );
    let punch = PunchEntry {
        volume: 0x0102_0304,
        start: Lbn(0x12_3456_789a),
        count: 0x3132_3334_3536,
    };
    Table::read("Pending discard").compare(
        &entry(16, |page| punch.write(page, 0)),
        &[
            ("volume", n(punch.volume.into())),
            ("start", n(punch.start.0)),
            ("count", n(punch.count)),
        ],
    );
    for (kind, number) in [
        (SegmentKind::Fixed, 1),
        (SegmentKind::Data, 2),
        (SegmentKind::Metadata, 3),
    ] {
        let segment = SegmentEntry {
            kind,
            available: 0x0102,
            junk: 0x0304,
            live: 0x0506,
            bitmap: 0x1112_1314,
        };
        Table::read("Segment entry").compare(
            &entry(16, |page| segment.write(page, 0)),
            &[
                ("kind", n(number)),
                ("available", n(0x0102)),
                ("junk", n(0x0304)),
                ("live", n(0x0506)),
                ("bitmap", n(0x1112_1314)),
            ],
        );
    }
}

#[test]
fn the_trees_are_as_documented() {
    let documented: BTreeMap<u32, u64> = lines("Trees")
        .iter()
        .filter_map(|line| {
            let tree = u32::from_str_radix(line.get(2..10)?, 16).ok()?;
            let leaf = line.get(30..)?.split_whitespace().next()?.parse().ok()?;
            Some((tree, leaf))
        })
        .collect();
    let expected = BTreeMap::from([
        (tree::NAMES, NAME_LEAF),
        (tree::COUNTS, COUNT_LEAF),
        (tree::VOLUMES, VOLUME_LEAF),
        (tree::PUNCHES, PUNCH_LEAF),
        (tree::SELECT, SELECT_PAGE),
        (tree::SEGMENTS, SEGMENT_PAGE),
    ]);
    assert_eq!(documented, expected);
    let map = lines("Trees")
        .into_iter()
        .find(|line| line.starts_with("1 and up"));
    assert!(map.unwrap().contains(&format!(" {MAP_LEAF} ")));
}

#[test]
fn the_places_are_as_documented() {
    let layout = Layout::new(100_000 * 4096, 5000).unwrap();
    let (segments, journal) = (100_000u64, 5000);
    let bitmaps = segments / 16;
    let pages = segments.div_ceil(252) + bitmaps.div_ceil(7);
    assert_eq!(JOURNAL_START, 4);
    assert_eq!((layout.bitmaps, layout.table_pages()), (bitmaps, pages));
    assert_eq!(layout.table_place(3, false).0, 4 + journal + 3);
    assert_eq!(layout.table_place(3, true).0, 4 + journal + pages + 3);
    assert_eq!(Layout::superblock(1, None).0, 1);
    let distant = 4 + journal + 2 * pages;
    assert_eq!(Layout::superblock(1, Some(&layout)).0, distant + 1);
    let text = lines("Fixed places").join(" ");
    for part in [
        "ceil(*segments* / 252) + ceil(*bitmaps* / 7)",
        "4 + *journal* + 2 * *pages*, 2",
    ] {
        assert!(text.contains(part), "{part}");
    }
}

#[test]
fn the_journal_is_as_documented() {
    let mut block = vec![0; 2 * CLUSTER_SIZE];
    block[128..5000].fill(9);
    let header = BlockHeader {
        uuid: UUID,
        clusters: 2,
        sequence: 0x0102_0304_0506_0708,
        incarnation: 0x1112_1314_1516_1718,
        durable_upto: 0x2122_2324_2526_2728,
        superblock_generation: 0x3132_3334_3536_3738,
        attached_seconds: 0x4142_4344_4546_4748,
        record_bytes: 5000 - 128,
    };
    let chain = journal::join_chain(77, 5, xxh64);
    assert_eq!(chain, xxh64(&5u64.to_le_bytes(), 77));
    let sum = journal::seal(&mut block, &header, chain, xxh64);
    assert_eq!(sum, xxh64(&block[8..], chain));
    let own = xxh64(&block[8..120], seed("header of a journal block"));
    Table::read("Journal block").compare(
        &block[..journal::HEADER_BYTES],
        &[
            ("chained_checksum", n(sum)),
            ("magic", b"ddpj".to_vec()),
            ("version", n(1)),
            ("clusters", n(2)),
            ("uuid", UUID.to_vec()),
            ("sequence", n(header.sequence)),
            ("incarnation", n(header.incarnation)),
            ("durable_upto", n(header.durable_upto)),
            ("superblock", n(header.superblock_generation)),
            ("attached_seconds", n(header.attached_seconds)),
            ("record_bytes", n(5000 - 128)),
            ("header_checksum", n(own)),
            ("records", vec![]),
        ],
    );
}

#[test]
fn the_saved_index_is_as_documented() {
    let mut chunk = vec![0; CHUNK_BYTES];
    assert_eq!(chunk.len(), 16 * CLUSTER_SIZE);
    // A bucket with two entries, 130 empty ones, one with one entry.
    let entry = [0x01, 0x02, 0x9a, 0x78, 0x56, 0x34, 0x12];
    let both = [entry, entry].concat();
    let bucket = |number: u64| match number {
        40 => &both[..],
        171 => &entry[..],
        _ => &[],
    };
    assert_eq!(index::write_buckets(&mut chunk, 40, 172, bucket), 172);
    let mut stored = vec![2];
    stored.extend(&both);
    stored.extend([127 + 128, 127 + 2, 1]);
    stored.extend(entry);
    assert_eq!(chunk[80..80 + stored.len()], stored);
    assert!(chunk[80 + stored.len()..].iter().all(|&byte| byte == 0));
    let header = ChunkHeader {
        place: Cluster(0x12_3456_789a),
        checkpoint: 0x2122_2324_2526_2728,
        number: 0x31,
        next: Cluster(0x41_4243_4445),
        first: 40,
        buckets: 132,
    };
    index::seal(&mut chunk, xxh64, &UUID, &header);
    Table::read("Index chunk").compare(
        &chunk[..80],
        &[
            ("checksum", n(xxh64(&chunk[8..], seed("index chunk")))),
            ("magic", b"ddpi".to_vec()),
            ("version", n(1)),
            ("clusters", n(16)),
            ("uuid", UUID.to_vec()),
            ("place", n(header.place.0)),
            ("checkpoint", n(header.checkpoint)),
            ("number", n(header.number)),
            ("next", n(header.next.0)),
            ("first", n(header.first)),
            ("buckets", n(header.buckets)),
            ("entries", vec![]),
        ],
    );
    assert_eq!(index::header(&chunk, xxh64, &UUID), Some(header));
    let mut entries = Vec::new();
    let sound = index::read_entries(&chunk, &header, &mut |bucket, tag, cluster| {
        entries.push((bucket, tag, cluster.0));
    });
    assert!(sound);
    let (tag, cluster) = (0x0201, 0x12_3456_789a);
    assert_eq!(
        entries,
        [(40, tag, cluster), (40, tag, cluster), (171, tag, cluster)]
    );
    Table::read("Index entry").compare(&entry, &[("tag", n(tag.into())), ("cluster", n(cluster))]);
}

#[test]
fn the_records_are_as_documented() {
    let types: BTreeMap<String, u64> = lines("Record types")
        .iter()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let number = words.next()?.parse().ok()?;
            Some((words.next()?.to_string(), number))
        })
        .collect();
    assert_eq!(types.len(), 6);
    let header = |bytes: &[u8], name: &str, flags: u64, table: &'static str| {
        let length = bytes.len() as u64 - 4;
        let fields = [
            ("type", n(types[name])),
            ("flags", n(flags)),
            ("length", n(length)),
        ];
        Table::read("Record header").compare(&bytes[..4], &fields);
        Table::read(table)
    };
    let mut block = vec![0; CLUSTER_SIZE];
    let change = MapChange {
        cluster: Cluster(0x12_3456_789a),
        check: Check(0x3132_3334_3536),
        name: Name([0x51; 24]),
    };
    for (fresh, flags) in [(false, 0), (true, 2)] {
        let mut changes = [change, change].into_iter();
        let lbn = Lbn(0x21_2223_2425);
        let end = journal::write_map(&mut block, 0, 0x0102_0304, lbn, fresh, false, &mut changes);
        let table = header(&block[..end], "map", flags, "Map record");
        let fields = [
            ("volume", n(0x0102_0304)),
            ("lbn", n(lbn.0)),
            ("count", n(2)),
            ("entries", vec![]),
        ];
        table.compare(&block[4..14], &fields);
        let fields = [
            ("cluster", n(change.cluster.0)),
            ("check", n(change.check.0)),
            ("name", vec![0x51; 24]),
        ];
        for entry in block[14..end].chunks(35) {
            Table::read("Map record entry").compare(entry, &fields);
        }
    }
    let (volume, lbn, count) = (0x0102_0304, Lbn(0x21_2223_2425), 0x3132_3334_3536);
    let range = [
        ("volume", n(volume.into())),
        ("lbn", n(lbn.0)),
        ("count", n(count)),
    ];
    let unmap = |more| Record::Unmap {
        volume,
        lbn,
        count,
        more,
    };
    for (record, name, flags) in [
        (unmap(false), "unmap", 0),
        (unmap(true), "unmap", 4),
        (Record::Discard { volume, lbn, count }, "discard", 0),
    ] {
        let end = journal::write_small(&mut block, 0, &record);
        let table = header(&block[..end], name, flags, "Unmap or discard record");
        table.compare(&block[4..end], &range);
    }
    let (cluster, count) = (Cluster(0x12_3456_789a), 0x0102);
    let end = journal::write_small(&mut block, 0, &Record::Retire { cluster, count });
    let table = header(&block[..end], "retire", 1, "Retire record");
    let fields = [("cluster", n(cluster.0)), ("count", n(count))];
    table.compare(&block[4..end], &fields);
    let end = journal::write_small(&mut block, 0, &Record::Quarantine { cluster });
    let table = header(&block[..end], "quarantine", 1, "Quarantine record");
    table.compare(&block[4..end], &[("cluster", n(cluster.0))]);
    let position = Position {
        term: 0x0102,
        reign: [0x53; 16],
        epoch: 0x0304,
        chain: 0x0506,
    };
    let end = journal::write_small(&mut block, 0, &Record::Seal(position));
    let table = header(&block[..end], "seal", 0, "Seal record");
    let fields = [
        ("term", n(position.term)),
        ("reign", vec![0x53; 16]),
        ("epoch", n(position.epoch)),
        ("chain", n(position.chain)),
    ];
    table.compare(&block[4..end], &fields);
}
