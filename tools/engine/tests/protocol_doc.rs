// SPDX-License-Identifier: GPL-2.0

//! The tables of `Documentation/block/ddup-protocol.rst`, compared with what the code writes.

use ddup_engine::engine::replication::config::{Config, Member, MemberState};
use ddup_engine::engine::replication::heal::Wanted;
use ddup_engine::engine::replication::history::History;
use ddup_engine::engine::replication::range::Range;
use ddup_engine::engine::replication::record::{self, Record};
use ddup_engine::engine::replication::types::{Entry, Limits, Op, Position, Volume};
use ddup_engine::engine::replication::wire::{self, Envelope, Frame, Hello};
use kernel::prelude::*;
use std::collections::BTreeMap;
use xxhash_rust::xxh64::xxh64;

fn document() -> String {
    let folder = env!("CARGO_MANIFEST_DIR");
    let path = format!("{folder}/../../Documentation/block/ddup-protocol.rst");
    std::fs::read_to_string(path).unwrap()
}

/// That the bytes are what a table says, without gaps.
fn compare(name: &str, bytes: &[u8], fields: &[(&str, &[u8])]) {
    let document = document();
    let title = format!(".. table:: {name}");
    let table = document.lines().skip_while(|line| *line != title).skip(1);
    let mut fields: BTreeMap<&str, &[u8]> = fields.iter().copied().collect();
    let mut end = 0;
    for line in table.take_while(|l| l.is_empty() || l.starts_with("   ")) {
        let words: std::vec::Vec<&str> = line.split_whitespace().collect();
        let (Some(Ok(offset)), Some(Ok(length)), Some(field)) = (
            words.first().map(|w| w.parse::<usize>()),
            words.get(1).map(|w| w.parse::<usize>()),
            words.get(2),
        ) else {
            continue;
        };
        assert_eq!(offset, end, "{name}: gap or overlap before {field}");
        end += length;
        let stored = &bytes[offset..end];
        if *field == "reserved" {
            assert!(stored.iter().all(|b| *b == 0), "{name}: at {offset}");
            continue;
        }
        let expected = fields.remove(field);
        let expected = expected.unwrap_or_else(|| panic!("{name}: nothing known of {field}"));
        assert!(expected.len() <= length, "{name}: {field} is too short");
        let (value, rest) = stored.split_at(expected.len());
        assert_eq!(value, expected, "{name}: {field}");
        assert!(rest.iter().all(|b| *b == 0), "{name}: {field}");
    }
    assert!(end > 0, "the document has no table {name:?}");
    assert_eq!(end, bytes.len(), "{name}: length");
    assert!(fields.is_empty(), "{name} lacks {:?}", fields.keys());
}

const POSITION: Position = Position {
    term: 0x0102_0304_0506_0708,
    reign: [0x22; 16],
    epoch: 0x1112_1314_1516_1718,
    chain: 0x2122_2324_2526_2728,
};

fn position_bytes() -> std::vec::Vec<u8> {
    let mut bytes = POSITION.term.to_le_bytes().to_vec();
    bytes.extend(POSITION.reign);
    bytes.extend(POSITION.epoch.to_le_bytes());
    bytes.extend(POSITION.chain.to_le_bytes());
    bytes
}

fn config() -> Config {
    let mut config = Config {
        set: [0x31; 16],
        version: 0x3233,
        id: [0x34; 16],
        term: 0x35,
        reign: [0x36; 16],
        primary: [0x37; 16],
        forced: 2,
        min_insync: 0x39,
        ancestors: KVec::new(),
        members: KVec::new(),
    };
    config.ancestors.push([0x3a; 16], GFP_KERNEL).unwrap();
    let member = Member {
        store: [0x37; 16],
        incarnation: 0x3b3c,
        state: MemberState::InSync,
        floor: POSITION,
        confirmed: [0x3d; 16],
    };
    config.members.push(member, GFP_KERNEL).unwrap();
    config
}

fn number(name: &str) -> u64 {
    let document = document();
    let at = document.find(name).unwrap();
    let digits = document[..at].rsplit_once("0x").unwrap().1;
    u64::from_str_radix(&digits[..16], 16).unwrap()
}

fn framed(frame: &Frame) -> std::vec::Vec<u8> {
    let envelope = Envelope {
        session: 0x4142,
        term: 0x43,
        version: 0x44,
        stream: 0x45,
        packed: true,
    };
    wire::encode(&envelope, frame, xxh64).unwrap().to_vec()
}

#[test]
fn positions_configurations_and_slots_are_as_documented() {
    let seal = framed(&Frame::Ack(POSITION));
    let fields: [(&str, &[u8]); 4] = [
        ("term", &POSITION.term.to_le_bytes()),
        ("reign", &[0x22; 16]),
        ("epoch", &POSITION.epoch.to_le_bytes()),
        ("chain", &POSITION.chain.to_le_bytes()),
    ];
    compare("Position", &seal[56..], &fields);

    let bytes = config().bytes().unwrap();
    let fields: [(&str, &[u8]); 10] = [
        ("set", &[0x31; 16]),
        ("version", &[0x33, 0x32]),
        ("id", &[0x34; 16]),
        ("term", &[0x35]),
        ("reign", &[0x36; 16]),
        ("primary", &[0x37; 16]),
        ("forced", &[2]),
        ("min_insync", &[0x39]),
        ("ancestors", &[1]),
        ("members", &[1]),
    ];
    compare("Configuration", &bytes[..96], &fields);
    assert_eq!(bytes[96..112], [0x3a; 16]);
    let floor = position_bytes();
    let fields: [(&str, &[u8]); 5] = [
        ("store", &[0x37; 16]),
        ("incarnation", &[0x3c, 0x3b]),
        ("state", &[1]),
        ("floor", &floor),
        ("confirmed", &[0x3d; 16]),
    ];
    compare("Member", &bytes[112..], &fields);

    let kept = Record {
        promise: 0x51,
        keep: true,
        config: config(),
    };
    let slot = kept.write(&[0x52; 16], 0x53, xxh64).unwrap();
    assert_eq!(record::SEED, number(" for a\nconfiguration slot"));
    let sum = xxh64(&slot[16..], record::SEED).to_le_bytes();
    let fields: [(&str, &[u8]); 7] = [
        ("magic", b"ddup\x8b\xf7cf"),
        ("checksum", &sum),
        ("version", &[1]),
        ("store", &[0x52; 16]),
        ("generation", &[0x53]),
        ("promise", &[0x51]),
        ("flags", &[1]),
    ];
    compare("Slot", &slot[..72], &fields);
    assert_eq!(slot[72..72 + bytes.len()], bytes[..]);
}

#[test]
fn frames_are_as_documented() {
    let mut entries = KVec::new();
    let write = Entry {
        op: Op::Write,
        fresh: true,
        volume: [0x61; 16],
        lbn: 0x6263,
        count: 1,
        check: 0x64,
        digest: [0x65; 24],
    };
    entries.push(write, GFP_KERNEL).unwrap();
    let frame = framed(&Frame::Entries {
        epoch: 5,
        first: 6,
        resync: false,
        entries,
    });
    assert_eq!(wire::SEED, number(" for a frame"));
    let sum = xxh64(&frame[8..], wire::SEED).to_le_bytes();
    let length = (frame.len() as u32).to_le_bytes();
    let fields: [(&str, &[u8]); 11] = [
        ("checksum", &sum),
        ("magic", &[0x64, 0x64, 0x70, 0x77]),
        ("length", &length),
        ("data", &[0, 0x10]),
        ("type", &[2]),
        ("version", &[1]),
        ("flags", &[1]),
        ("session", &[0x42, 0x41]),
        ("term", &[0x43]),
        ("config", &[0x44]),
        ("stream", &[0x45]),
    ];
    compare("Frame", &frame[..56], &fields);
    // Epoch, first, flags, volumes, runs, one volume.
    assert_eq!(
        frame[56..72],
        [5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 1, 1, 0]
    );
    assert_eq!(frame[72..88], [0x61; 16]);
    let fields: [(&str, &[u8]); 5] = [
        ("operation", &[1]),
        ("flags", &[1]),
        ("volume", &[0]),
        ("count", &[1]),
        ("lbn", &[0x63, 0x62]),
    ];
    compare("Run", &frame[88..97], &fields);
    assert_eq!(frame[97..103], [0x64, 0, 0, 0, 0, 0]);
    assert_eq!(frame[103..], [0x65; 24]);

    let hello = Hello {
        store: [0x71; 16],
        incarnation: 0x72,
        serial: 0x73,
        reigns: true,
        heals: true,
        verifies: true,
        diffs: true,
        unpacks: true,
        merges: true,
        stands: true,
        resumes: true,
        promise: 0x74,
        limits: Limits {
            entries: 0x75,
            epoch: 0x16,
            needs: 0x17,
        },
        config: config(),
        history: History::new().unwrap(),
    };
    let frame = framed(&Frame::Hello(KBox::new(hello, GFP_KERNEL).unwrap()));
    let fields: [(&str, &[u8]); 10] = [
        ("features", &[0x07]),
        ("offers", &[0x3f]),
        ("store", &[0x71; 16]),
        ("incarnation", &[0x72]),
        ("promise", &[0x74]),
        ("serial", &[0x73]),
        ("flags", &[1]),
        ("entries", &[0x75]),
        ("epoch", &[0x16]),
        ("needs", &[0x17]),
    ];
    compare("HELLO", &frame[56..120], &fields);
    assert_eq!(frame[120..122], [0, 0]);
    assert_eq!(frame[122..], config().bytes().unwrap()[..]);

    let to = Position {
        epoch: POSITION.epoch + 2,
        ..POSITION
    };
    let frame = framed(&Frame::Merge { from: POSITION, to });
    assert_eq!(frame[20], 22);
    let mut last = position_bytes();
    last[24..32].copy_from_slice(&to.epoch.to_le_bytes());
    let fields: [(&str, &[u8]); 2] = [("from", &position_bytes()), ("to", &last)];
    compare("Merge", &frame[56..], &fields);

    let wanted = Wanted {
        volume: [0x81; 16],
        lbn: 0x8283,
        check: 0x8485,
        digest: [0x86; 24],
    };
    let number = 0x87;
    let frame = framed(&Frame::Ask {
        number,
        wanted,
        stands: true,
    });
    let fields: [(&str, &[u8]); 6] = [
        ("number", &[0x87]),
        ("volume", &[0x81; 16]),
        ("lbn", &[0x83, 0x82]),
        ("check", &[0x85, 0x84]),
        ("digest", &[0x86; 24]),
        ("flags", &[1]),
    ];
    compare("ASK", &frame[56..], &fields);

    let range = Range {
        volume: [0x91; 16],
        first: 0x9293,
        end: 0x9293 + 0x9495,
        blocks: 0x17,
        sum: 0x96,
    };
    let mut ranges = KVec::new();
    ranges.push(range, GFP_KERNEL).unwrap();
    let frame = framed(&Frame::Ranges {
        compare: 0x97,
        first: 0x98,
        keep: true,
        ranges,
    });
    assert_eq!(frame[20], 12);
    // Compare, number, ranges, flags.
    assert_eq!(
        frame[56..72],
        [0x97, 0, 0, 0, 0, 0, 0, 0, 0x98, 0, 0, 0, 1, 0, 1, 0]
    );
    let fields: [(&str, &[u8]); 5] = [
        ("volume", &[0x91; 16]),
        ("lbn", &[0x93, 0x92]),
        ("count", &[0x95, 0x94]),
        ("mapped", &[0x17]),
        ("sum", &[0x96]),
    ];
    compare("Range", &frame[72..], &fields);
    // Compare, number, ranges, bits.
    // A change of a volume is an entry of one run.
    let change = Entry {
        op: Op::Resize,
        volume: [0x62; 16],
        count: 0x6768,
        ..Entry::default()
    };
    let mut entries = KVec::new();
    entries.push(change, GFP_KERNEL).unwrap();
    let frame = framed(&Frame::Entries {
        epoch: 5,
        first: 0,
        resync: false,
        entries,
    });
    let fields: [(&str, &[u8]); 5] = [
        ("operation", &[4]),
        ("flags", &[0]),
        ("volume", &[0]),
        ("count", &[1]),
        ("lbn", &[0]),
    ];
    compare("Run", &frame[88..97], &fields);
    assert_eq!(frame[97..], [0x68, 0x67, 0, 0, 0, 0]);
    let numbers = [Op::Write, Op::Zero, Op::Create, Op::Resize, Op::Remove];
    let words: std::vec::Vec<_> = ["write", "zeroes", "create", "resize", "remove"]
        .iter()
        .zip(numbers)
        .map(|(word, op)| format!("{} {word}", op as u8))
        .collect();
    let text = document();
    let text: std::vec::Vec<_> = text.split_whitespace().collect();
    let text = text.join(" ");
    assert!(text.contains(&words.join(", ")), "{words:?}");

    let mut history = History::new().unwrap();
    history.append(POSITION);
    let mut volumes = KVec::new();
    for n in 0..2 {
        let volume = Volume {
            uuid: [0xa0 + n; 16],
            blocks: 0x0102_0304_0506,
        };
        volumes.push(volume, GFP_KERNEL).unwrap();
    }
    let frame = framed(&Frame::Resync {
        position: POSITION,
        history,
        volumes,
        since: Some(3),
    });
    assert_eq!(frame[20], 11);
    assert_eq!(frame[56..96], position_bytes());
    // A history of one reign, and two volumes.
    assert_eq!(frame[96..98], [1, 0]);
    assert_eq!(frame[98..138], position_bytes());
    assert_eq!(frame[138..140], [2, 0]);
    assert_eq!(frame[140..156], [0xa0; 16]);
    assert_eq!(frame[156..162], [6, 5, 4, 3, 2, 1]);
    assert_eq!(frame[140 + 2 * 22..], [3, 0, 0, 0, 0, 0, 0, 0]);
    let frame = framed(&Frame::Equal {
        compare: 0x97,
        first: 0x98,
        count: 2,
        bits: 1,
    });
    assert_eq!(frame[20], 13);
    assert_eq!(frame[56..68], [0x97, 0, 0, 0, 0, 0, 0, 0, 0x98, 0, 0, 0]);
    assert_eq!(frame[68..], [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn frames_of_a_verify_are_as_documented() {
    let number = 0x97;
    let position = POSITION;
    let frame = framed(&Frame::Verify { number, position });
    assert_eq!((frame[20], frame[56]), (17, 0x97));
    assert_eq!(frame[64..], position_bytes());
    let volume = Volume {
        uuid: [0xa1; 16],
        blocks: 0x0102,
    };
    let mut volumes = KVec::new();
    volumes.push(volume, GFP_KERNEL).unwrap();
    let frame = framed(&Frame::Frozen { number, volumes });
    assert_eq!((frame[20], frame[56]), (18, 0x97));
    assert_eq!(frame[64..66], [1, 0]);
    assert_eq!(frame[66..82], [0xa1; 16]);
    assert_eq!(frame[82..], [2, 1, 0, 0, 0, 0]);
    let frame = framed(&Frame::Thawed(number));
    assert_eq!((frame[20], frame[56], frame.len()), (19, 0x97, 64));
    let frame = framed(&Frame::Show {
        number,
        volume: [0xa2; 16],
        lbn: 0xa3,
        count: 0xa4,
    });
    assert_eq!(frame[20], 20);
    let fields: [(&str, &[u8]); 4] = [
        ("number", &[0x97]),
        ("volume", &[0xa2; 16]),
        ("lbn", &[0xa3]),
        ("count", &[0xa4]),
    ];
    compare("SHOW", &frame[56..], &fields);
    let entry = Entry {
        op: Op::Write,
        lbn: 0xa5,
        count: 1,
        check: 0xa6,
        digest: [0xa7; 24],
        ..Entry::default()
    };
    let mut entries = KVec::new();
    entries.push(entry, GFP_KERNEL).unwrap();
    let frame = framed(&Frame::Blocks {
        number,
        lbn: 0xa3,
        count: 0xa4,
        entries,
    });
    assert_eq!(frame[20], 21);
    // Number, lbn, count, blocks.
    let head = [
        0x97, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0, 0, 0, 0, 0xa4, 0, 0, 0, 0, 0, 1, 0,
    ];
    assert_eq!(frame[56..77], head);
    let fields: [(&str, &[u8]); 3] = [
        ("lbn", &[0xa5]),
        ("check", &[0xa6]),
        ("digest", &[0xa7; 24]),
    ];
    compare("Block", &frame[77..], &fields);
}
