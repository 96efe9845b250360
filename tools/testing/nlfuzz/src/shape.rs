// SPDX-License-Identifier: GPL-2.0

//! Messages: what the spec says of each command, and the ways in which one goes wrong.

use crate::random::Random;

const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;

const CMD_ATTACH: u8 = 1;
const CMD_DETACH: u8 = 2;
const CMD_GET: u8 = 3;
const CMD_CHECK: u8 = 7;
const CMD_CREATE: u8 = 9;
const CMD_RESIZE: u8 = 10;
const CMD_REMOVE: u8 = 12;
const CMD_SET_GET: u8 = 14;
const CMD_SET_CONFIG: u8 = 15;
const CMD_FENCE: u8 = 16;
const CMD_JOIN: u8 = 17;
const CMD_DEMOTE: u8 = 18;
const CMD_FLUSH_FAIL: u8 = 19;
const CMD_RESOLVE: u8 = 20;
const CMD_PEER: u8 = 21;
const CMD_PEER_DROP: u8 = 22;
const CMD_SCRUB: u8 = 24;
const CMD_LEASE: u8 = 27;
/// Beyond the last command.
const CMD_END: u8 = 29;

const A_INDEX: u16 = 1;
const A_PATH: u16 = 3;
const A_READ_ONLY: u16 = 6;
const A_FORCE: u16 = 7;
const A_CACHE_BYTES: u16 = 8;
const A_INDEX_BYTES: u16 = 9;
const A_SIZE: u16 = 12;
const A_COUNTERS: u16 = 16;
const A_SCRUB_STOP: u16 = 28;
/// Beyond the last attribute.
const A_END: u16 = 33;
/// What is set in the attributes of replica sets here, and not in a message.
const OF_SET: u16 = 0x100;
const A_CONFIG: u16 = OF_SET + 5;
const A_EXPECT_VERSION: u16 = OF_SET + 6;
const A_VERSION: u16 = OF_SET + 7;
const A_TERM: u16 = OF_SET + 8;
const A_PEER_STORE: u16 = OF_SET + 14;
const A_FD: u16 = OF_SET + 15;
const A_NONCE: u16 = OF_SET + 16;
const A_LEASE_UNTIL: u16 = OF_SET + 25;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_F_NET_BYTEORDER: u16 = 0x4000;

const ODD_PATHS: [&[u8]; 14] = [
    b"",
    b"/",
    b"/dev/null",
    b"/dev/zero",
    b"/tmp",
    b"/proc/self/mem",
    b"/dev/../dev/./nope",
    b"relative",
    b"/dev/vda\n",
    b"/dev/%s%n%p",
    b"/dev/\xff\xfe\x80",
    b"/dev/vda\0/dev/vdb",
    b"/dev/console",
    b"/sys/block",
];

const EDGES: [u64; 16] = [
    0,
    1,
    2,
    255,
    256,
    4095,
    4096,
    65535,
    65536,
    i32::MAX as u64,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// A message as it goes out.
pub struct Message {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// If it succeeds it changes something.
    pub changes: bool,
}

/// What is there, to be named in messages.
#[derive(Default)]
pub struct Known {
    /// Paths of stores, and others.
    pub paths: Vec<String>,
    /// Configurations of replica sets.
    pub configs: Vec<Vec<u8>>,
    /// Members of theirs.
    pub stores: Vec<[u8; 16]>,
}

/// Makes one.
pub fn message(random: &mut Random, family: u16, sequence: u32, known: &Known) -> Message {
    let of_set = [
        CMD_SET_GET,
        CMD_SET_CONFIG,
        CMD_SET_CONFIG,
        CMD_FENCE,
        CMD_JOIN,
        CMD_DEMOTE,
        CMD_FLUSH_FAIL,
        CMD_RESOLVE,
        CMD_PEER,
        CMD_PEER,
        CMD_PEER_DROP,
        CMD_LEASE,
    ];
    let command = match random.below(14) {
        _ if !known.configs.is_empty() && random.one_in(2) => *random.pick(&of_set),
        0..=3 => CMD_ATTACH,
        4..=6 => CMD_DETACH,
        7..=8 => CMD_GET,
        9 => CMD_CREATE,
        10 => CMD_RESIZE,
        11 => CMD_REMOVE,
        12 => CMD_SCRUB,
        _ => random.below(CMD_END.into()) as u8,
    };
    let mut flags = NLM_F_REQUEST | NLM_F_ACK;
    if random.one_in(8) {
        flags |= NLM_F_DUMP;
    }
    if random.one_in(16) {
        flags = random.next() as u16 | NLM_F_REQUEST;
    }
    let version = if random.one_in(16) {
        random.next() as u8
    } else {
        1
    };
    let mut bytes = vec![0; HEADER];
    bytes.extend_from_slice(&[command, version, 0, 0]);
    if random.one_in(32) {
        bytes[HEADER + 2] = random.next() as u8;
    }
    attributes(random, &mut bytes, command, known);
    bytes[4..6].copy_from_slice(&family.to_ne_bytes());
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    damage(random, &mut bytes);
    let len = if random.one_in(32) {
        *random.pick(&EDGES) as u32
    } else {
        bytes.len() as u32
    };
    bytes[..4].copy_from_slice(&len.to_ne_bytes());
    Message {
        // After damage it may be any command.
        changes: matches!(
            bytes.get(HEADER),
            Some(
                &(CMD_ATTACH
                    | CMD_DETACH
                    | CMD_CHECK
                    | CMD_CREATE
                    | CMD_RESIZE
                    | CMD_REMOVE
                    | CMD_SET_CONFIG..=CMD_PEER_DROP | CMD_SCRUB | CMD_LEASE)
            )
        ),
        bytes,
    }
}

/// What the command takes, some of it, then perhaps more.
fn attributes(random: &mut Random, bytes: &mut Vec<u8>, command: u8, known: &Known) {
    let taken: &[u16] = match command {
        CMD_ATTACH => &[A_PATH, A_INDEX, A_READ_ONLY, A_CACHE_BYTES, A_INDEX_BYTES],
        CMD_DETACH => &[A_INDEX, A_FORCE],
        CMD_GET | CMD_REMOVE => &[A_INDEX],
        CMD_CREATE | CMD_RESIZE => &[A_INDEX, A_SIZE, A_FORCE],
        CMD_SCRUB => &[A_INDEX, A_SCRUB_STOP],
        CMD_SET_GET | CMD_DEMOTE | CMD_FLUSH_FAIL | CMD_RESOLVE => &[A_INDEX],
        CMD_SET_CONFIG => &[A_INDEX, A_EXPECT_VERSION, A_CONFIG],
        CMD_FENCE => &[A_INDEX, A_TERM],
        CMD_JOIN | CMD_PEER_DROP => &[A_INDEX, A_PEER_STORE],
        CMD_PEER => &[A_INDEX, A_PEER_STORE, A_FD, A_NONCE],
        CMD_LEASE => &[A_INDEX, A_VERSION, A_LEASE_UNTIL],
        _ => &[],
    };
    for (i, kind) in taken.iter().enumerate() {
        // The first one is what a command cannot do without.
        let needed = i == 0 || *kind > OF_SET;
        let present = match needed {
            true => !random.one_in(8),
            false => random.one_in(3),
        };
        if present {
            attribute(random, bytes, *kind, known);
        }
    }
    while random.one_in(4) {
        let kind = random.below(A_END.into()) as u16;
        attribute(random, bytes, kind, known);
    }
}

fn attribute(random: &mut Random, bytes: &mut Vec<u8>, kind: u16, known: &Known) {
    let shape = if random.one_in(12) {
        random.below(A_END.into()) as u16
    } else {
        kind
    };
    let value = value(random, shape, known);
    let mut kind = kind & !OF_SET;
    if random.one_in(24) {
        kind |= *random.pick(&[NLA_F_NESTED, NLA_F_NET_BYTEORDER, 0xc000]);
    }
    let mut len = (value.len() + 4) as u16;
    if random.one_in(32) {
        len = *random.pick(&EDGES) as u16;
    }
    bytes.extend_from_slice(&len.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn value(random: &mut Random, kind: u16, known: &Known) -> Vec<u8> {
    if random.one_in(12) {
        let len = random.below(40);
        return random.bytes(len);
    }
    let number = |random: &mut Random| match random.below(3) {
        0 => random.below(8) as u64,
        1 => *random.pick(&EDGES),
        _ => random.next(),
    };
    match kind {
        A_READ_ONLY | A_FORCE | A_SCRUB_STOP => Vec::new(),
        A_PATH => path(random, &known.paths),
        A_CONFIG if !known.configs.is_empty() => config(random, &known.configs),
        A_PEER_STORE if !known.stores.is_empty() && !random.one_in(4) => {
            random.pick(&known.stores).to_vec()
        }
        A_PEER_STORE => random.bytes(16),
        A_FD => (random.below(12) as u32).to_ne_bytes().to_vec(),
        A_EXPECT_VERSION | A_TERM | A_VERSION => (random.below(16) as u64).to_ne_bytes().to_vec(),
        // None, or one that is seldom over.
        A_LEASE_UNTIL if random.one_in(2) => vec![0; 8],
        A_LEASE_UNTIL => random.next().to_ne_bytes().to_vec(),
        A_NONCE => random.next().to_ne_bytes().to_vec(),
        A_CACHE_BYTES | A_INDEX_BYTES | A_SIZE => {
            let number = number(random);
            match u32::try_from(number) {
                Ok(small) if !random.one_in(4) => small.to_ne_bytes().to_vec(),
                _ => number.to_ne_bytes().to_vec(),
            }
        }
        A_COUNTERS => {
            let mut nested = Vec::new();
            for _ in 0..random.below(4) {
                attribute(random, &mut nested, A_INDEX, known);
            }
            nested
        }
        _ => (number(random) as u32).to_ne_bytes().to_vec(),
    }
}

/// One that is in force, with a few bytes changed, or the next one.
fn config(random: &mut Random, configs: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = random.pick(configs).clone();
    // Version and id, which the next one has anew.
    if let (Some(version), false) = (bytes.get_mut(16), random.one_in(4)) {
        *version = version.wrapping_add(1);
    }
    if let (Some(id), false) = (bytes.get_mut(24), random.one_in(4)) {
        *id = id.wrapping_add(1);
    }
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len());
        bytes[at] ^= 1 << random.below(8);
    }
    if random.one_in(16) {
        let len = random.below(bytes.len() + 1);
        bytes.truncate(len);
    }
    bytes
}

fn path(random: &mut Random, paths: &[String]) -> Vec<u8> {
    let mut path = match random.below(8) {
        0..=3 if !paths.is_empty() => random.pick(paths).as_bytes().to_vec(),
        4 => {
            let len = *random.pick(&[1, 30, 31, 32, 4094, 4095, 4096, 4097, 8192]);
            vec![b'/'; len]
        }
        5 => {
            let len = random.below(64);
            random.bytes(len)
        }
        _ => random.pick(&ODD_PATHS).to_vec(),
    };
    // Mostly as it should be: with its end.
    if !random.one_in(8) {
        path.push(0);
    }
    path
}

/// Flips bits, cuts the end off, or adds to it.
fn damage(random: &mut Random, bytes: &mut Vec<u8>) {
    let from = HEADER;
    match random.below(24) {
        0 => {
            for _ in 0..=random.below(4) {
                let at = from + random.below(bytes.len() - from);
                bytes[at] ^= 1 << random.below(8);
            }
        }
        1 => {
            let len = from + random.below(bytes.len() - from + 1);
            bytes.truncate(len);
        }
        2 => {
            let len = random.below(200);
            bytes.extend(random.bytes(len));
        }
        _ => {}
    }
    if bytes.len() < from + GENERIC_HEADER && random.one_in(2) {
        bytes.resize(from + GENERIC_HEADER, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_seeds_differ() {
        let run = |seed| -> Vec<Vec<u8>> {
            let mut random = Random::new(seed);
            let known = Known {
                paths: vec!["/dev/vda".to_owned()],
                configs: vec![vec![7; 300]],
                stores: vec![[7; 16]],
            };
            (0..200)
                .map(|n| message(&mut random, 0x20, n, &known).bytes)
                .collect()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn both_sound_and_broken_messages_come() {
        let mut random = Random::new(3);
        let (mut sound, mut lying, mut changing) = (0, 0, 0);
        for number in 0..10_000 {
            let message = message(&mut random, 0x20, number, &Known::default());
            let len = u32::from_ne_bytes(message.bytes[..4].try_into().unwrap()) as usize;
            if len == message.bytes.len() {
                sound += 1;
            } else {
                lying += 1;
            }
            changing += u32::from(message.changes);
        }
        assert!(sound > 9_000 && lying > 100 && changing > 5_000);
    }
}
