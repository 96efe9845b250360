// SPDX-License-Identifier: GPL-2.0

//! `ddup dump`.

mod map;

use super::print_json;
use crate::{
    cli::DumpArgs,
    error::{Error, Exit, Result},
    family::format_uuid,
    store::{self, Device, CLUSTER},
};
use ddup_engine::engine::{
    format::{
        journal::{self, BlockHeader, Record},
        layout::{Layout, JOURNAL_START},
        superblock::{Superblock, SuperblockError},
    },
    types::JOURNAL_BLOCK_CLUSTERS_MAX,
};
use kernel::prelude::KBox;
use serde::Serialize;

#[derive(Serialize)]
struct Dump {
    superblocks: Vec<Copy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<Store>,
    #[serde(skip_serializing_if = "Option::is_none")]
    journal: Option<Vec<Block>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    map: Option<map::Maps>,
}

/// One copy of a superblock.
#[derive(Serialize)]
struct Copy {
    cluster: u64,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
}

/// What the newest intact superblock says.
#[derive(Serialize)]
struct Store {
    uuid: String,
    label: String,
    generation: u64,
    incarnation: u64,
    clean: bool,
    fingerprint: String,
    clusters: u64,
    journal_clusters: u64,
    fixed_segments: u64,
    checkpoint: Checkpoint,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<Index>,
    joins: Vec<Join>,
}

/// Where the index was saved.
#[derive(Serialize)]
struct Index {
    cluster: u64,
    chunks: u64,
    buckets: u64,
    named: u64,
}

#[derive(Serialize)]
struct Checkpoint {
    number: u64,
    generation: u32,
    attached_seconds: u64,
    volumes: u64,
    mapped_blocks: u64,
    pending_discards: u64,
    name_root: u64,
    count_root: u64,
    volume_root: u64,
}

#[derive(Serialize)]
struct Join {
    incarnation: u64,
    sequence: u64,
    offset: u64,
}

/// One block of the journal.
#[derive(Serialize)]
struct Block {
    cluster: u64,
    clusters: u64,
    sequence: u64,
    incarnation: u64,
    durable_upto: u64,
    attached_seconds: u64,
    record_bytes: usize,
    records: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    record_list: Vec<String>,
}

/// Shows a store.
pub fn run(args: &DumpArgs) -> Result {
    let doing = format!("cannot dump {}", args.store.display());
    let device = Device::open(&args.store, false).map_err(|error| error.context(&doing))?;
    let (copies, newest) = superblocks(&device);
    let dump = Dump {
        store: newest.as_deref().map(describe),
        journal: newest
            .as_ref()
            .filter(|_| args.journal)
            .map(|superblock| journal_blocks(&device, superblock, args.records)),
        map: newest
            .as_ref()
            .filter(|_| args.map)
            .map(|superblock| map::maps(&device, superblock)),
        superblocks: copies,
    };
    if args.json {
        print_json(&dump)?;
    } else {
        print!("{}", text(&dump));
    }
    if newest.is_none() {
        return Err(Error::new(
            Exit::Damaged,
            format!("{}: no superblock is intact", args.store.display()),
        ));
    }
    Ok(())
}

/// The four copies, and the newest that is intact.
fn superblocks(device: &Device) -> (Vec<Copy>, Option<KBox<Superblock>>) {
    let mut copies = Vec::new();
    let mut newest: Option<KBox<Superblock>> = None;
    for (distant, slot) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        // Where the distant ones lie an intact one says; without any, the default layout.
        let layout = newest
            .as_ref()
            .map(|superblock| superblock.layout)
            .or_else(|| Layout::new(device.clusters(), 0));
        let place = match (distant, &layout) {
            (false, _) => Layout::superblock(slot, None),
            (true, Some(layout)) => Layout::superblock(slot, Some(layout)),
            (true, None) => continue,
        };
        let mut block = vec![0; CLUSTER as usize];
        let read = device.read(place.0, &mut block);
        let parsed = Superblock::read(&block, store::hash);
        let state = match (&read, &parsed) {
            (Err(_), _) => "can't be read".to_owned(),
            (Ok(()), Ok(_)) => "intact".to_owned(),
            (Ok(()), Err(SuperblockError::Magic)) => "no ddup superblock".to_owned(),
            (Ok(()), Err(SuperblockError::Checksum)) => "its checksum does not match".to_owned(),
            (Ok(()), Err(SuperblockError::Version(version))) => {
                format!("of unknown version {version}")
            }
            (Ok(()), Err(SuperblockError::Features(bits))) => {
                format!("with unknown features {bits:#x}")
            }
            (Ok(()), Err(SuperblockError::Field)) => {
                "intact, but a field holds an impossible value".to_owned()
            }
            (Ok(()), Err(SuperblockError::Memory)) => {
                "not looked at, for want of memory".to_owned()
            }
        };
        copies.push(Copy {
            cluster: place.0,
            state,
            generation: parsed.as_ref().ok().map(|found| found.generation),
        });
        if let Ok(found) = parsed {
            if newest
                .as_ref()
                .is_none_or(|newest| newest.generation < found.generation)
            {
                newest = Some(found);
            }
        }
    }
    (copies, newest)
}

fn describe(superblock: &Superblock) -> Store {
    let c = &superblock.checkpoint;
    let label = superblock.label.split(|byte| *byte == 0).next();
    Store {
        uuid: format_uuid(&superblock.uuid),
        label: String::from_utf8_lossy(label.unwrap_or_default()).into_owned(),
        generation: superblock.generation,
        incarnation: superblock.incarnation,
        clean: superblock.clean,
        fingerprint: format!("{:?}", superblock.fingerprint).to_lowercase(),
        clusters: superblock.layout.clusters,
        journal_clusters: superblock.layout.journal_clusters,
        fixed_segments: superblock.layout.fixed_segments(),
        checkpoint: Checkpoint {
            number: c.number,
            generation: c.generation.0,
            attached_seconds: c.attached_seconds,
            volumes: c.volume_count,
            mapped_blocks: c.owner_count,
            pending_discards: c.punch_count,
            name_root: c.names.place.0,
            count_root: c.counts.place.0,
            volume_root: c.volumes.place.0,
        },
        index: superblock.index.exists().then_some(Index {
            cluster: superblock.index.place.0,
            chunks: superblock.index.chunks,
            buckets: superblock.index.buckets,
            named: superblock.index.named,
        }),
        joins: superblock
            .joins
            .iter()
            .map(|join| Join {
                incarnation: join.incarnation,
                sequence: join.sequence,
                offset: join.offset,
            })
            .collect(),
    }
}

/// The blocks from the checkpoint's join on, as far as one follows the other.
fn journal_blocks(device: &Device, superblock: &Superblock, with_records: bool) -> Vec<Block> {
    let ring = superblock.layout.journal_clusters;
    let mut blocks = Vec::new();
    let Some(first) = superblock.joins.first() else {
        return blocks;
    };
    let (mut offset, mut sequence, mut chain) = (first.offset, first.sequence, first.chain);
    let mut buffer = vec![0; (JOURNAL_BLOCK_CLUSTERS_MAX * CLUSTER) as usize];
    // More blocks than the ring has clusters can't follow each other.
    for _ in 0..ring {
        let join = superblock
            .joins
            .iter()
            .rev()
            .find(|join| join.sequence == sequence && join.offset == offset);
        chain = join.map_or(chain, |join| join.chain);
        let Some((header, sum)) = next_block(device, superblock, offset, chain, &mut buffer) else {
            break;
        };
        if header.sequence != sequence {
            break;
        }
        let (records, record_list) = records(&buffer, &header, superblock, with_records);
        blocks.push(Block {
            cluster: JOURNAL_START + offset,
            clusters: header.clusters,
            sequence,
            incarnation: header.incarnation,
            durable_upto: header.durable_upto,
            attached_seconds: header.attached_seconds,
            record_bytes: header.record_bytes,
            records,
            record_list,
        });
        chain = sum;
        sequence += 1;
        offset = journal::next_offset(offset, header.clusters, ring);
    }
    blocks
}

/// Reads the block at `offset` of the ring if it follows `chain`.
fn next_block(
    device: &Device,
    superblock: &Superblock,
    offset: u64,
    chain: u64,
    buffer: &mut [u8],
) -> Option<(BlockHeader, u64)> {
    let (first, rest) = buffer.split_at_mut(CLUSTER as usize);
    device.read(JOURNAL_START + offset, first).ok()?;
    let header = journal::header(first, &superblock.uuid, store::hash)?;
    let more = (header.clusters as usize - 1) * CLUSTER as usize;
    device
        .read(JOURNAL_START + offset + 1, rest.get_mut(..more)?)
        .ok()?;
    let block = buffer.get(..CLUSTER as usize + more)?;
    let sum = journal::follows(block, chain, store::hash)?;
    Some((header, sum))
}

fn records(
    block: &[u8],
    header: &BlockHeader,
    superblock: &Superblock,
    with_text: bool,
) -> (u64, Vec<String>) {
    let (mut at, end) = (
        journal::HEADER_BYTES,
        journal::HEADER_BYTES + header.record_bytes,
    );
    let (mut count, mut list) = (0, Vec::new());
    loop {
        match journal::read_record(block, at, end, superblock.layout.clusters) {
            Ok(Some((record, next))) => {
                count += 1;
                if with_text {
                    list.push(record_text(&record));
                }
                at = next;
            }
            Ok(None) => return (count, list),
            Err(bad) => {
                list.push(format!("no record at byte {}", bad.at));
                return (count, list);
            }
        }
    }
}

fn record_text(record: &Record<'_>) -> String {
    match record {
        Record::Seal(position) => format!(
            "end of epoch {} of term {}, chain {:016x}",
            position.epoch, position.term, position.chain
        ),
        Record::Map {
            volume,
            lbn,
            fresh,
            local,
            changes,
        } => {
            let clusters: Vec<_> = changes.iter().map(|c| c.cluster.0.to_string()).collect();
            let kind = if *fresh { "new" } else { "shared" };
            let why = if *local { " (local)" } else { "" };
            format!(
                "map volume {volume} block {} to {kind} clusters {}{why}",
                lbn.0,
                clusters.join(" ")
            )
        }
        Record::Unmap {
            volume,
            lbn,
            count,
            more,
        } => {
            let rest = if *more { " (goes on)" } else { "" };
            format!(
                "unmap volume {volume} block {} and {} more{rest}",
                lbn.0,
                count - 1
            )
        }
        Record::Discard { volume, lbn, count } => {
            format!(
                "discard volume {volume} block {} and {} more",
                lbn.0,
                count - 1
            )
        }
        Record::Retire { cluster, count } => {
            format!("retire cluster {} and {} more", cluster.0, count - 1)
        }
        Record::Quarantine { cluster } => format!("quarantine cluster {}", cluster.0),
    }
}

fn text(dump: &Dump) -> String {
    let mut lines = Vec::new();
    for copy in &dump.superblocks {
        let generation = copy
            .generation
            .map(|generation| format!(", generation {generation}"))
            .unwrap_or_default();
        lines.push(format!(
            "superblock at cluster {}: {}{generation}",
            copy.cluster, copy.state
        ));
    }
    if let Some(store) = &dump.store {
        let c = &store.checkpoint;
        lines.push(format!("store {} {:?}", store.uuid, store.label));
        lines.push(format!(
            "  {} clusters, {} of them the journal, {} segments fixed, {} fingerprints",
            store.clusters, store.journal_clusters, store.fixed_segments, store.fingerprint
        ));
        lines.push(format!(
            "  generation {}, incarnation {}, {}",
            store.generation,
            store.incarnation,
            if store.clean {
                "detached in order"
            } else {
                "attached, or not detached in order"
            }
        ));
        lines.push(format!(
            "  checkpoint {}: generation {}, {} s attached, {} volumes, {} blocks mapped, \
             {} discards pending",
            c.number,
            c.generation,
            c.attached_seconds,
            c.volumes,
            c.mapped_blocks,
            c.pending_discards
        ));
        lines.push(format!(
            "  roots: names {}, counts {}, volumes {}",
            c.name_root, c.count_root, c.volume_root
        ));
        if let Some(index) = &store.index {
            lines.push(format!(
                "  saved index: {} chunks from cluster {}, {} buckets, names of clusters below {}",
                index.chunks, index.cluster, index.buckets, index.named
            ));
        }
        for join in &store.joins {
            lines.push(format!(
                "  join: incarnation {} from sequence {} at journal cluster {}",
                join.incarnation, join.sequence, join.offset
            ));
        }
    }
    for block in dump.journal.iter().flatten() {
        lines.push(format!(
            "journal block {} at cluster {}: {} clusters, incarnation {}, {} records in {} bytes, \
             durable up to {}, {} s attached",
            block.sequence,
            block.cluster,
            block.clusters,
            block.incarnation,
            block.records,
            block.record_bytes,
            block.durable_upto,
            block.attached_seconds
        ));
        for record in &block.record_list {
            lines.push(format!("  {record}"));
        }
    }
    if let Some(map) = &dump.map {
        for run in &map.runs {
            lines.push(format!(
                "volume {} block {} and {} more from cluster {} on",
                run.volume,
                run.block,
                run.count - 1,
                run.cluster
            ));
        }
        for page in &map.lost {
            lines.push(format!("not to be believed: {page}"));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verb::testing::Scratch;
    use std::os::unix::fs::FileExt;

    fn dump(file: &Scratch) -> (String, bool) {
        let device = Device::open(&file.0, false).unwrap();
        let (superblocks, newest) = superblocks(&device);
        let dump = Dump {
            store: newest.as_deref().map(describe),
            journal: newest.as_ref().map(|s| journal_blocks(&device, s, true)),
            map: newest.as_ref().map(|s| map::maps(&device, s)),
            superblocks,
        };
        (text(&dump), newest.is_some())
    }

    #[test]
    fn a_new_store_shows_four_copies_and_an_empty_journal() {
        let file = Scratch::store("dump", &["--label", "backup"]);
        let (text, found) = dump(&file);
        assert!(found);
        assert_eq!(text.matches(": intact, generation").count(), 4, "{text}");
        assert!(text.contains("\"backup\""), "{text}");
        assert!(text.contains("detached in order"), "{text}");
        assert!(!text.contains("journal block"), "{text}");
        assert!(!text.contains("not to be believed"), "{text}");
    }

    #[test]
    fn damaged_copies_are_told_from_missing_ones() {
        let file = Scratch::store("dump-damage", &[]);
        let raw = std::fs::OpenOptions::new()
            .write(true)
            .open(&file.0)
            .unwrap();
        raw.write_all_at(&[0x55; 64], 600).unwrap();
        raw.write_all_at(&[0; 4096], 4096).unwrap();
        let (text, found) = dump(&file);
        assert!(found);
        assert!(
            text.contains("cluster 0: its checksum does not match"),
            "{text}"
        );
        assert!(text.contains("cluster 1: no ddup superblock"), "{text}");
        assert_eq!(text.matches(": intact, generation").count(), 2, "{text}");
    }
}
