// SPDX-License-Identifier: GPL-2.0

//! A store that was made once and must stay readable: `golden-v1.img`.
//!
//! It was formatted, written, discarded and checkpointed, lost power twice, and holds journal
//! blocks of two incarnations behind its checkpoint, with every type of record. The file was made
//! by
//!
//! ```text
//! cargo test -p ddup-engine --test golden -- --ignored makes_the_golden_image
//! ```
//!
//! which never replaces it: a store in the field can't be made anew either. A version of the format
//! that can't be read as this one is gets its own file beside it.
//!
//! The file lists the clusters that are not all zeroes, in order: the number of the cluster
//! (8 bytes), then its 512 words of 8 bytes in pieces. A piece is a number of words (2 bytes): that
//! many words follow, or, if the highest bit is set, one word that stands so many times.

mod memory;

use ddup_engine::engine::format::journal::{self, Record};
use ddup_engine::engine::format::layout::JOURNAL_START;
use ddup_engine::engine::format::superblock::Superblock;
use ddup_engine::engine::mkfs::Params;
use ddup_engine::engine::types::CHECK_MASK;
use ddup_engine::engine::{BlockContent, Check, FingerprintAlgorithm, Name, Status};
use kernel::prelude::KBox;
use memory::{findings_of, hash, params, Disk, Shell, PAGE};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

const CLUSTERS: u64 = 4 * 4096;
const BLOCKS: u64 = 1 << 20;
const NAME_KEY: u64 = 0x1122_3344_5566_7788;
const CHECK_KEY: u64 = 0x99aa_bbcc_ddee_ff00;
const UUID: [u8; 16] = *b"ddup golden v1\0\0";
const WORDS: usize = PAGE / 8;
const REPEATED: u16 = 0x8000;

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden-v1.img")
}

/// The word that block number `id` consists of.
fn word(id: u64) -> u64 {
    0x6464_7570_0000_0000 | id
}

fn block(id: u64) -> Vec<u8> {
    word(id).to_le_bytes().repeat(WORDS)
}

/// Name and check of the block, as the format says.
fn content(id: u64) -> BlockContent {
    let bytes = block(id);
    let check = hash(&bytes, CHECK_KEY) & CHECK_MASK;
    let mut name = [0; 24];
    name[..8].copy_from_slice(&hash(&bytes, NAME_KEY).to_le_bytes());
    name[8..16].copy_from_slice(&check.to_le_bytes());
    BlockContent {
        name: Name(name),
        check: Check(check),
        zero: id == 0,
    }
}

fn golden_params() -> Params<'static> {
    let mut label = [0; 64];
    label[..6].copy_from_slice(b"golden");
    Params {
        uuid: UUID,
        volume_uuid: *b"golden volume 1\0",
        label,
        fingerprint: FingerprintAlgorithm::Xxh64,
        name_key: NAME_KEY,
        check_key: CHECK_KEY,
        ..params(CLUSTERS, BLOCKS)
    }
}

/// One step of the store's life.
enum Step {
    Write(u64, Vec<u64>),
    Discard(u64, u64),
    /// Everything before is durable.
    Flush,
    /// Seconds pass: what is due becomes due.
    Pass(u64),
    /// The content of this block rots, which a read finds.
    Rot(u64),
    /// Power fails; the store is attached again.
    PowerCut,
}

/// The block that rots; it has no twin.
const ROTTEN: u64 = 90;

fn story() -> Vec<Step> {
    use Step::*;
    let mut story = vec![
        Write(0, (1..=120).collect()),
        // Twins of the first blocks, and zeroes.
        Write(1000, (1..=40).chain([0; 8]).chain(1..=10).collect()),
        // The ends of leaves, of interior pages and of the volume.
        Write(250, vec![201, 202, 203, 204]),
        Write(252 * 126 - 2, vec![205, 206, 1, 2]),
        Write(BLOCKS - 2, vec![207, 208]),
        Write(300_000, (301..=330).collect()),
        Flush,
        Pass(31),
        // Overwritten in part by the same, in part by other content.
        Write(10, vec![11, 12, 401, 402, 1, 2]),
        Discard(40, 30),
        Pass(31),
        // The content of discarded blocks comes back as long as it is junk.
        Write(45, vec![46, 47]),
        Write(5000, (501..=520).collect()),
        Pass(19),
    ];
    // So many changes that the next checkpoint comes early.
    story.extend((0..33).map(|i| Discard(700_000 + 64 * i, 64)));
    story.extend([
        // A large range, which that checkpoint finds before it was reaped.
        Discard(300_010, 100_000),
        Pass(1),
        // The junk of the checkpoint before is old enough: its retirement is journaled.
        Pass(12),
        Write(60, vec![601, 602, 603, 2, 3, 0, 604]),
        Rot(ROTTEN),
        Flush,
        PowerCut,
        Write(61, vec![605, 1, 2]),
        Discard(1005, 3),
        Flush,
        Discard(5000, 70),
        Write(5010, vec![606]),
        Flush,
        // Nobody asked for these: they may be lost, and are.
        Write(0, vec![901, 902, 903]),
        PowerCut,
    ]);
    story
}

/// What the volume holds in the end: block to content.
fn expected() -> BTreeMap<u64, u64> {
    let (mut durable, mut now) = (BTreeMap::new(), BTreeMap::new());
    for step in story() {
        match step {
            Step::Write(lbn, ids) => now.extend((lbn..).zip(ids)),
            Step::Discard(lbn, count) => now.retain(|&at, _| at < lbn || at >= lbn + count),
            Step::Flush => durable = now.clone(),
            Step::Pass(_) | Step::Rot(_) => {}
            Step::PowerCut => now = durable.clone(),
        }
    }
    durable.retain(|_, id| *id != 0);
    durable
}

fn attach(disk: Disk) -> Shell {
    let shell = Shell::try_attach(disk, CLUSTERS, 256, 4096, content);
    assert_eq!(shell.failed, None);
    assert!(shell.started);
    shell
}

fn make() -> Disk {
    let mut shell = attach(Shell::format_with(&golden_params()));
    for step in story() {
        match step {
            Step::Write(lbn, ids) => assert_eq!(shell.write(lbn, &ids), Status::Ok),
            Step::Discard(lbn, count) => shell.discard(lbn, count),
            Step::Flush => shell.flush(),
            Step::Pass(seconds) => {
                shell.now += seconds * 1000;
                for _ in 0..100 {
                    shell.turn();
                }
            }
            Step::Rot(lbn) => {
                let id = shell.read(lbn, 1)[0];
                let held = shell.disk.data.iter().filter(|held| *held.1 == id);
                let cluster = *held.map(|held| held.0).min().unwrap();
                shell.disk.rotten.insert(cluster);
                assert_eq!(shell.try_read(lbn, 1), Err(Status::Medium));
            }
            Step::PowerCut => shell = attach(shell.disk),
        }
    }
    // The last attach wrote a superblock only; that is part of the image.
    shell.disk
}

fn encode(disk: &Disk) -> Vec<u8> {
    let mut clusters: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for (&cluster, page) in &disk.pages {
        clusters.insert(cluster, page.to_vec());
    }
    for (&cluster, &id) in &disk.data {
        let mut bytes = block(id);
        if disk.rotten.contains(&cluster) {
            bytes[1000] ^= 0x10;
        }
        clusters.insert(cluster, bytes);
    }
    clusters.retain(|_, bytes| bytes.iter().any(|&byte| byte != 0));
    let mut out = Vec::new();
    for (cluster, bytes) in clusters {
        out.extend(cluster.to_le_bytes());
        let words: Vec<&[u8]> = bytes.chunks(8).collect();
        let run = |at: usize| words[at..].iter().take_while(|w| **w == words[at]).count();
        let mut at = 0;
        while at < WORDS {
            let same = run(at);
            let mut end = at + same;
            if same > 1 {
                out.extend((REPEATED | same as u16).to_le_bytes());
                out.extend(words[at]);
            } else {
                while end < WORDS && run(end) < 3 {
                    end += 1;
                }
                out.extend(((end - at) as u16).to_le_bytes());
                out.extend(words[at..end].concat());
            }
            at = end;
        }
    }
    out
}

fn decode(mut file: &[u8]) -> Disk {
    fn take<const N: usize>(file: &mut &[u8]) -> [u8; N] {
        let (head, rest) = file.split_at(N);
        *file = rest;
        head.try_into().unwrap()
    }
    let mut disk = Disk::default();
    while !file.is_empty() {
        let cluster = u64::from_le_bytes(take(&mut file));
        let mut bytes: Vec<u8> = Vec::new();
        while bytes.len() < PAGE {
            let piece = u16::from_le_bytes(take(&mut file));
            let count = usize::from(piece & !REPEATED);
            if piece & REPEATED != 0 {
                bytes.extend(take::<8>(&mut file).repeat(count));
            } else {
                for _ in 0..count {
                    bytes.extend(take::<8>(&mut file));
                }
            }
        }
        assert_eq!(bytes.len(), PAGE);
        // A block of the volume consists of one word; one with a flipped bit has rotted.
        let first = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let id = first & 0xffff_ffff;
        let good = block(id);
        let differ = bytes.iter().zip(&good).filter(|(a, b)| a != b).count();
        if word(id) == first && differ <= 1 {
            disk.data.insert(cluster, id);
            if differ == 1 {
                disk.rotten.insert(cluster);
            }
        } else {
            disk.pages.insert(cluster, bytes.into());
        }
    }
    disk
}

fn newest(disk: &Disk) -> KBox<Superblock> {
    let copy = |slot: u64| Superblock::read(&disk.pages[&slot], hash).ok();
    let copies = [copy(0), copy(1)].into_iter().flatten();
    copies.max_by_key(|s| s.generation).unwrap()
}

/// How often each type of record stands in the journal since the checkpoint.
fn records(disk: &Disk) -> BTreeMap<&'static str, u32> {
    let superblock = newest(disk);
    let ring = superblock.layout.journal_clusters;
    let mut found = BTreeMap::new();
    let mut joins = superblock.joins.iter().peekable();
    let mut at = *joins.next().unwrap();
    loop {
        while let Some(join) = joins.next_if(|join| join.sequence == at.sequence) {
            at = *join;
        }
        let mut bytes = Vec::new();
        for cluster in 0..16 {
            let page = disk.pages.get(&(JOURNAL_START + at.offset + cluster));
            bytes.extend(page.map_or(vec![0; PAGE], |page| page.to_vec()));
        }
        let Some(header) = journal::header(&bytes, &UUID, hash)
            .filter(|h| (h.sequence, h.incarnation) == (at.sequence, at.incarnation))
        else {
            return found;
        };
        bytes.truncate(header.clusters as usize * PAGE);
        at.chain = journal::follows(&bytes, at.chain, hash).unwrap();
        let end = journal::HEADER_BYTES + header.record_bytes;
        let mut byte = journal::HEADER_BYTES;
        while let Some((record, next)) = journal::read_record(&bytes, byte, end, CLUSTERS).unwrap()
        {
            let kind = match record {
                Record::Map { fresh: true, .. } => "fresh",
                Record::Map { fresh: false, .. } => "shared",
                Record::Unmap { .. } => "unmap",
                Record::Discard { .. } => "discard",
                Record::Retire { .. } => "retire",
                Record::Quarantine { .. } => "quarantine",
                Record::Seal(_) => "seal",
            };
            *found.entry(kind).or_default() += 1;
            byte = next;
        }
        at.offset = journal::next_offset(at.offset, header.clusters, ring);
        at.sequence += 1;
    }
}

/// Reads the whole volume and compares each block.
fn assert_reads(shell: &mut Shell) {
    let expected = expected();
    for lbn in (0..BLOCKS).step_by(256) {
        let wanted: Vec<u64> = (lbn..lbn + 256)
            .map(|lbn| expected.get(&lbn).copied().unwrap_or(0))
            .collect();
        match shell.try_read(lbn, 256) {
            Ok(found) => assert_eq!(found, wanted, "from block {lbn} on"),
            Err(status) => {
                assert_eq!((lbn, status), (0, Status::Medium));
                for (lbn, wanted) in (lbn..).zip(wanted) {
                    match lbn {
                        ROTTEN => assert_eq!(shell.try_read(lbn, 1), Err(Status::Medium)),
                        _ => assert_eq!(shell.read(lbn, 1), [wanted], "block {lbn}"),
                    }
                }
            }
        }
    }
}

/// Everything that must hold for an image of this story.
fn assert_sound(disk: &Disk) {
    let superblock = newest(disk);
    assert_eq!(superblock.uuid, UUID);
    assert_eq!(&superblock.label[..7], b"golden\0");
    assert_eq!(superblock.fingerprint, FingerprintAlgorithm::Xxh64);
    assert_eq!(
        (superblock.name_key, superblock.check_key),
        (NAME_KEY, CHECK_KEY)
    );
    assert!(!superblock.clean);
    assert_eq!(superblock.joins.len(), 3);
    assert_eq!(superblock.checkpoint.punch_count, 1);
    let kinds: BTreeSet<_> = records(disk).into_keys().collect();
    let all = [
        "discard",
        "fresh",
        "quarantine",
        "retire",
        "shared",
        "unmap",
    ];
    assert_eq!(kinds, BTreeSet::from(all));

    let (findings, summary) = findings_of(disk, CLUSTERS);
    assert_eq!(findings, []);
    assert!(summary.junk > 0 && summary.live > 0, "{summary:?}");

    let mut shell = attach(disk.clone());
    assert_reads(&mut shell);
    let disk = shell.detach();
    let (findings, summary) = findings_of(&disk, CLUSTERS);
    assert_eq!(findings, []);
    let expected = expected();
    assert_eq!(summary.mapped, expected.len() as u64);
    // Content that is there more than once lies in one cluster.
    let distinct: HashMap<u64, u64> = expected.iter().map(|(lbn, id)| (*id, *lbn)).collect();
    assert_eq!(summary.live, distinct.len() as u64);
    assert_reads(&mut attach(disk));
}

#[test]
fn the_golden_image_is_read() {
    let bytes = std::fs::read(file()).unwrap();
    assert!(bytes.len() < 64 << 10);
    let disk = decode(&bytes);
    assert_eq!(encode(&disk), bytes, "nothing got lost in decoding");
    assert_sound(&disk);
    // What the checkpoint showed on the day when it was made.
    let superblock = newest(&disk);
    let summary = findings_of(&disk, CLUSTERS).1;
    let shown = (superblock.generation, superblock.checkpoint.number);
    assert_eq!(shown, SHOWN.0);
    let shown = (summary.pages, summary.mapped, summary.live, summary.junk);
    assert_eq!(shown, SHOWN.1);
}

/// Generation and checkpoint; pages, mapped blocks, live and junk clusters of the golden image.
const SHOWN: ((u64, u64), (u64, u64, u64, u64)) = ((8, 4), (22, 202, 152, 28));

#[test]
fn a_store_made_today_is_as_sound() {
    let disk = make();
    assert_eq!(encode(&decode(&encode(&disk))), encode(&disk));
    assert_sound(&disk);
}

#[test]
#[ignore = "makes the file once and for all"]
fn makes_the_golden_image() {
    assert!(!file().exists(), "{} is there already", file().display());
    let disk = make();
    let summary = findings_of(&disk, CLUSTERS).1;
    let superblock = newest(&disk);
    println!("{superblock:?}\n{summary:?}\n{:?}", records(&disk));
    assert_sound(&disk);
    std::fs::write(file(), encode(&disk)).unwrap();
}
