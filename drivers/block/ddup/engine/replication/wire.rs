// SPDX-License-Identifier: GPL-2.0

//! Frames: what goes over a session, byte by byte.
//!
//! `Documentation/block/ddup-protocol.rst` draws it. A frame is a header of [`HEADER_BYTES`], a body,
//! and the data of blocks. Header and body are covered by a checksum, data by the checks of the
//! entries that it belongs to: the engine never sees it. Any byte may be hostile: the worst that
//! it may cause is the end of its session.
//!
//! Blocks may be packed: the engine says in which frames, the shell packs them one by one, and begins
//! each with [`Packed`].

use super::super::format::le;
use super::super::types::{CHECK_MASK, CLUSTER_SIZE, LBN_LIMIT, NAME_BYTES};
use super::super::Hash;
use super::codec::{put, put_id, put_position, put_uint, Reader};
use super::config::Config;
use super::heal::Wanted;
use super::history::History;
use super::range::{Range, RANGE_BYTES};
use super::resume::Reached;
use super::types::{are_volumes, Entry, Id, Limits, Op, Position, Volume};
use super::types::{BATCH_MAX, BATCH_VOLUMES_MAX, RANGES_MAX, RANGE_BLOCKS_MAX, SET_VOLUMES_MAX};
use kernel::prelude::*;

/// Bytes of a frame before its body.
pub const HEADER_BYTES: usize = 56;
/// Bytes of the longest header and body.
pub const META_BYTES_MAX: usize = 8192;
/// Bytes of the most data in a frame.
pub const DATA_BYTES_MAX: usize = BATCH_MAX * CLUSTER_SIZE;
/// Seed of a frame's checksum.
pub const SEED: u64 = 0x6464_7570_7769_7265;
const MAGIC: u64 = 0x7770_6464;
const VERSION: u64 = 1;
/// Features that a peer must know; a HELLO that asks for others ends the session.
const FEATURES_KNOWN: u64 = FEATURE_HEAL | FEATURE_RANGES | FEATURE_VOLUMES;
/// The sender sends ASK, and answers it.
const FEATURE_HEAL: u64 = 1;
/// Full compares begin with sums of ranges.
const FEATURE_RANGES: u64 = 2;
/// Entries may change volumes, and full compares say which there are.
const FEATURE_VOLUMES: u64 = 4;
/// Offers, of which a peer ignores those that it does not know: the sender says VERIFY, and answers it.
const OFFER_VERIFY: u64 = 1;
/// The sender takes diffs in the place of full compares.
const OFFER_DIFF: u64 = 2;
/// The sender takes packed blocks.
const OFFER_PACKED: u64 = 4;
/// The sender takes merged epochs while it is asynchronous.
const OFFER_MERGED: u64 = 8;
/// The sender remembers ASKs that stand.
const OFFER_STAND: u64 = 16;
/// The sender says in REACHED how far a compare has come before.
const OFFER_RESUME: u64 = 32;
/// The blocks behind the frame are packed.
const FLAG_PACKED: u64 = 1;
const FLAG_REIGNS: u64 = 1;
const FLAG_RESYNC: u64 = 1;
const FLAG_FRESH: u64 = 1;
const FLAG_KEEP: u64 = 1;
const FLAG_STANDS: u64 = 1;
/// Bytes of an entry in a frame, but for what neighbours share.
pub const ENTRY_BYTES: usize = 6 + NAME_BYTES;
/// Bytes that neighbours share.
pub const RUN_BYTES: usize = 9;
const RUN_MAX: usize = 64;
/// Bytes of a volume in a full compare.
pub const VOLUME_BYTES: usize = 16 + 6;
/// Bytes of a block that a verify is told of.
pub const SHOWN_BYTES: usize = 5 + 6 + NAME_BYTES;
/// Bytes of a block that is asked for.
pub const NEED_BYTES: usize = 4 + 5 + 16 + NAME_BYTES;

/// What each frame says of its sender; a frame whose numbers are not the receiver's is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Envelope {
    /// The session's nonce.
    pub session: u64,
    /// Term of the sender's configuration.
    pub term: u64,
    /// Version of the sender's configuration.
    pub version: u64,
    /// Serial of the replica's HELLO that this stream of entries, or what answers it, follows from.
    pub stream: u32,
    /// Blocks behind the frame, if there are some, are packed.
    pub packed: bool,
}

/// What a member says of itself when a session begins and when its configuration or state changed.
#[derive(Debug)]
pub struct Hello {
    /// The sender.
    pub store: Id,
    /// Its incarnation.
    pub incarnation: u64,
    /// Rises with each HELLO of a session, from 1.
    pub serial: u32,
    /// It is primary and rules in the configuration's term.
    pub reigns: bool,
    /// It says where a block is that a peer asks for.
    pub heals: bool,
    /// It can be verified.
    pub verifies: bool,
    /// It takes diffs.
    pub diffs: bool,
    /// It takes packed blocks.
    pub unpacks: bool,
    /// It takes merged epochs while it is asynchronous.
    pub merges: bool,
    /// It remembers what a peer asks for and it has not.
    pub stands: bool,
    /// It goes on with compares that an earlier session began.
    pub resumes: bool,
    /// Its promised term.
    pub promise: u64,
    /// What it can hold.
    pub limits: Limits,
    /// Its configuration.
    pub config: Config,
    /// Its durable history, which ends at its position.
    pub history: History,
}

/// A block that a replica lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Need {
    /// Which entry of the epoch.
    pub index: u32,
    /// The volume.
    pub volume: Id,
    /// The block.
    pub lbn: u64,
    /// Digest of its content.
    pub digest: [u8; NAME_BYTES],
}

/// A frame's body.
#[derive(Debug)]
pub enum Frame {
    /// Who speaks, and from where it can go on.
    Hello(KBox<Hello>),
    /// Entries of one epoch in journal order; the data of fresh ones follows in the same order.
    Entries {
        /// The epoch.
        epoch: u64,
        /// Number of the first one in it.
        first: u32,
        /// They are of a full compare and not of an epoch.
        resync: bool,
        /// The entries.
        entries: KVec<Entry>,
    },
    /// Epochs follow as one, which has the number of the last.
    Merge {
        /// The position that they follow: all that the receiver was sent ends there.
        from: Position,
        /// The end of the last, at which the receiver is when it has applied what is told.
        to: Position,
    },
    /// The epoch, or the full compare, is complete.
    Seal {
        /// Its end. The chain of merged ones is that of what was told.
        position: Position,
        /// Its entries.
        entries: u32,
        /// It ends a full compare.
        resync: bool,
    },
    /// All up to here is durable at the sender.
    Ack(Position),
    /// Send these blocks.
    Need {
        /// Epoch of the entries.
        epoch: u64,
        /// They are of a full compare that ends with that epoch.
        resync: bool,
        /// The blocks.
        needs: KVec<Need>,
    },
    /// Blocks that were asked for; 4096 bytes of each follow.
    Data {
        /// Epoch of the entries.
        epoch: u64,
        /// They are of a full compare that ends with that epoch.
        resync: bool,
        /// The entries.
        indexes: KVec<u32>,
    },
    /// Blocks that were asked for have no good copy at the sender.
    Lost {
        /// Epoch of the entries.
        epoch: u64,
        /// They are of a full compare that ends with that epoch.
        resync: bool,
        /// The entries.
        indexes: KVec<u32>,
    },
    /// In all, this many entries may be sent in this stream.
    Credit(u64),
    /// Say this back.
    Ping(u64),
    /// What a PING said.
    Pong(u64),
    /// All that differs from an unknown state follows, ended by a SEAL.
    Resync {
        /// The state that the receiver will then have.
        position: Position,
        /// How it came about.
        history: History,
        /// All of its volumes.
        volumes: KVec<Volume>,
        /// It is a diff: what was not changed behind this epoch is kept and not told.
        since: Option<u64>,
    },
    /// How far the sender has built the state that a RESYNC told of; what is before is not told.
    Reached {
        /// Which RESYNC of the stream, from 1.
        resync: u32,
        /// How far.
        reached: Reached,
    },
    /// What is mapped in these ranges of the state that a full compare is of.
    Ranges {
        /// Names the compare.
        compare: u64,
        /// Number of the first range in it, or of the first entry if they are to be kept.
        first: u32,
        /// The receiver said that it holds the same there: its blocks are entries of the compare.
        /// Else it is to say so.
        keep: bool,
        /// The ranges.
        ranges: KVec<Range>,
    },
    /// Which ranges of a frame hold the same here.
    Equal {
        /// Names the compare.
        compare: u64,
        /// Number of the first range.
        first: u32,
        /// How many ranges.
        count: u32,
        /// A bit for each, from bit 0 on.
        bits: u64,
    },
    /// The sender's copy of a block is bad: send another.
    Ask {
        /// Comes back.
        number: u64,
        /// The block.
        wanted: Wanted,
        /// If there is none it may be sent later, under the same number.
        stands: bool,
    },
    /// The block that was asked for under this number; its 4096 bytes follow.
    Found(u64),
    /// The sender has no good copy of what was asked for under this number.
    Absent(u64),
    /// Freeze the state behind the epoch whose SEAL was the last.
    Verify {
        /// Names the verify.
        number: u64,
        /// The end of that epoch.
        position: Position,
    },
    /// That state is frozen.
    Frozen {
        /// Names the verify.
        number: u64,
        /// All volumes of the state.
        volumes: KVec<Volume>,
    },
    /// The sender keeps no state for the verify of this number any more, or could freeze none.
    Thawed(u64),
    /// Tell what is mapped there in the frozen state.
    Show {
        /// Names the verify.
        number: u64,
        /// The volume.
        volume: Id,
        /// The first block.
        lbn: u64,
        /// How many blocks.
        count: u64,
    },
    /// What is mapped in the first blocks that were asked for.
    Blocks {
        /// Names the verify.
        number: u64,
        /// The first block.
        lbn: u64,
        /// How many blocks were looked at.
        count: u64,
        /// Those that are mapped, in order.
        entries: KVec<Entry>,
    },
}

const HELLO: u64 = 1;
const ENTRIES: u64 = 2;
const SEAL: u64 = 3;
const ACK: u64 = 4;
const NEED: u64 = 5;
const DATA: u64 = 6;
const LOST: u64 = 7;
const CREDIT: u64 = 8;
const PING: u64 = 9;
const PONG: u64 = 10;
const RESYNC: u64 = 11;
const RANGES: u64 = 12;
const EQUAL: u64 = 13;
const ASK: u64 = 14;
const FOUND: u64 = 15;
const ABSENT: u64 = 16;
const VERIFY: u64 = 17;
const FROZEN: u64 = 18;
const THAWED: u64 = 19;
const SHOW: u64 = 20;
const BLOCKS: u64 = 21;
const MERGE: u64 = 22;
const REACHED: u64 = 23;

/// Why a session ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadFrame;

/// Length of header and body, and of the data behind, from a frame's first [`HEADER_BYTES`].
pub fn lengths(header: &[u8]) -> Result<(usize, usize), BadFrame> {
    let length = le::uint::<4>(header, 12) as usize;
    let data = le::uint::<4>(header, 16) as usize;
    let sound = header.len() >= HEADER_BYTES
        && le::uint::<4>(header, 8) == MAGIC
        && le::uint::<1>(header, 21) == VERSION
        && (HEADER_BYTES..=META_BYTES_MAX).contains(&length)
        && data <= DATA_BYTES_MAX
        && data % CLUSTER_SIZE == 0;
    sound.then_some((length, data)).ok_or(BadFrame)
}

/// Whether the blocks behind a frame are packed, from its first [`HEADER_BYTES`].
pub fn is_packed(header: &[u8]) -> bool {
    le::uint::<2>(header, 22) & FLAG_PACKED != 0
}

/// How a block lies behind a frame whose blocks are packed: the bytes that it takes, in front of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packed {
    /// As it is: it would not shrink enough.
    Plain,
    /// As a raw LZ4 block of so many bytes, which has the block's 4096.
    Lz4(usize),
}

impl Packed {
    /// Bytes of this in front of a block.
    pub const BYTES: usize = 2;
    /// The most bytes of a block that shrank enough.
    pub const MAX: usize = CLUSTER_SIZE * 7 / 8;

    /// What goes in front of a block.
    pub fn encode(self) -> [u8; Packed::BYTES] {
        let bytes = match self {
            Packed::Plain => CLUSTER_SIZE,
            Packed::Lz4(bytes) => bytes,
        };
        (bytes as u16).to_le_bytes()
    }

    /// What is in front of a block.
    pub fn decode(bytes: [u8; Packed::BYTES]) -> Result<Self, BadFrame> {
        match u16::from_le_bytes(bytes) as usize {
            CLUSTER_SIZE => Ok(Packed::Plain),
            bytes @ 1..=Packed::MAX => Ok(Packed::Lz4(bytes)),
            _ => Err(BadFrame),
        }
    }
}

/// Builds header and body of a frame.
pub fn encode(envelope: &Envelope, frame: &Frame, hash: Hash) -> Result<KVec<u8>> {
    let mut out = KVec::with_capacity(HEADER_BYTES + 128, GFP_KERNEL)?;
    out.resize(HEADER_BYTES, 0, GFP_KERNEL)?;
    let mut data = 0;
    let kind = match frame {
        Frame::Hello(hello) => {
            put_hello(&mut out, hello)?;
            HELLO
        }
        Frame::Entries {
            epoch,
            first,
            resync,
            entries,
        } => {
            data = entries.iter().map(Entry::data_bytes).sum();
            put_uint::<8>(&mut out, *epoch)?;
            put_uint::<4>(&mut out, u64::from(*first))?;
            put_uint::<1>(&mut out, if *resync { FLAG_RESYNC } else { 0 })?;
            put_entries(&mut out, entries)?;
            ENTRIES
        }
        Frame::Merge { from, to } => {
            put_position(&mut out, from)?;
            put_position(&mut out, to)?;
            MERGE
        }
        Frame::Seal {
            position,
            entries,
            resync,
        } => {
            put_position(&mut out, position)?;
            put_uint::<4>(&mut out, u64::from(*entries))?;
            put_uint::<4>(&mut out, if *resync { FLAG_RESYNC } else { 0 })?;
            SEAL
        }
        Frame::Ack(position) => {
            put_position(&mut out, position)?;
            ACK
        }
        Frame::Need {
            epoch,
            resync,
            needs,
        } => {
            put_list(&mut out, *epoch, needs.len(), *resync)?;
            for need in needs {
                put_uint::<4>(&mut out, need.index.into())?;
                put_id(&mut out, &need.volume)?;
                put_uint::<5>(&mut out, need.lbn)?;
                put(&mut out, &need.digest)?;
            }
            NEED
        }
        Frame::Data {
            epoch,
            resync,
            indexes,
        }
        | Frame::Lost {
            epoch,
            resync,
            indexes,
        } => {
            put_list(&mut out, *epoch, indexes.len(), *resync)?;
            for index in indexes {
                put_uint::<4>(&mut out, (*index).into())?;
            }
            if matches!(frame, Frame::Data { .. }) {
                data = indexes.len() * CLUSTER_SIZE;
                DATA
            } else {
                LOST
            }
        }
        Frame::Credit(number) | Frame::Ping(number) | Frame::Pong(number) => {
            put_uint::<8>(&mut out, *number)?;
            match frame {
                Frame::Credit(_) => CREDIT,
                Frame::Ping(_) => PING,
                _ => PONG,
            }
        }
        Frame::Resync {
            position,
            history,
            volumes,
            since,
        } => {
            put_position(&mut out, position)?;
            history.write(&mut out)?;
            put_volumes(&mut out, volumes)?;
            if let Some(since) = since {
                put_uint::<8>(&mut out, *since)?;
            }
            RESYNC
        }
        Frame::Reached { resync, reached } => {
            put_uint::<4>(&mut out, (*resync).into())?;
            put_id(&mut out, &reached.volume)?;
            put_uint::<6>(&mut out, reached.lbn)?;
            put_uint::<8>(&mut out, reached.entries)?;
            REACHED
        }
        Frame::Ranges {
            compare,
            first,
            keep,
            ranges,
        } => {
            put_uint::<8>(&mut out, *compare)?;
            put_uint::<4>(&mut out, (*first).into())?;
            put_uint::<2>(&mut out, ranges.len() as u64)?;
            put_uint::<2>(&mut out, if *keep { FLAG_KEEP } else { 0 })?;
            for range in ranges {
                range.write(&mut out)?;
            }
            RANGES
        }
        Frame::Equal {
            compare,
            first,
            count,
            bits,
        } => {
            put_uint::<8>(&mut out, *compare)?;
            put_uint::<4>(&mut out, (*first).into())?;
            put_uint::<4>(&mut out, (*count).into())?;
            put_uint::<8>(&mut out, *bits)?;
            EQUAL
        }
        Frame::Ask {
            number,
            wanted,
            stands,
        } => {
            put_uint::<8>(&mut out, *number)?;
            put_id(&mut out, &wanted.volume)?;
            put_uint::<5>(&mut out, wanted.lbn)?;
            put_uint::<6>(&mut out, wanted.check & CHECK_MASK)?;
            put(&mut out, &wanted.digest)?;
            put_uint::<1>(&mut out, if *stands { FLAG_STANDS } else { 0 })?;
            put_uint::<4>(&mut out, 0)?;
            ASK
        }
        Frame::Found(number) => {
            put_uint::<8>(&mut out, *number)?;
            data = CLUSTER_SIZE;
            FOUND
        }
        Frame::Absent(number) => {
            put_uint::<8>(&mut out, *number)?;
            ABSENT
        }
        Frame::Verify { number, position } => {
            put_uint::<8>(&mut out, *number)?;
            put_position(&mut out, position)?;
            VERIFY
        }
        Frame::Frozen { number, volumes } => {
            put_uint::<8>(&mut out, *number)?;
            put_volumes(&mut out, volumes)?;
            FROZEN
        }
        Frame::Thawed(number) => {
            put_uint::<8>(&mut out, *number)?;
            THAWED
        }
        Frame::Show {
            number,
            volume,
            lbn,
            count,
        } => {
            put_uint::<8>(&mut out, *number)?;
            put_id(&mut out, volume)?;
            put_uint::<5>(&mut out, *lbn)?;
            put_uint::<6>(&mut out, *count)?;
            SHOW
        }
        Frame::Blocks {
            number,
            lbn,
            count,
            entries,
        } => {
            put_uint::<8>(&mut out, *number)?;
            put_uint::<5>(&mut out, *lbn)?;
            put_uint::<6>(&mut out, *count)?;
            put_uint::<2>(&mut out, entries.len() as u64)?;
            for entry in entries {
                put_uint::<5>(&mut out, entry.lbn)?;
                put_uint::<6>(&mut out, entry.check & CHECK_MASK)?;
                put(&mut out, &entry.digest)?;
            }
            BLOCKS
        }
    };
    let length = out.len() as u64;
    le::put_uint::<4>(&mut out, 8, MAGIC);
    le::put_uint::<4>(&mut out, 12, length);
    le::put_uint::<4>(&mut out, 16, data as u64);
    le::put_uint::<1>(&mut out, 20, kind);
    le::put_uint::<1>(&mut out, 21, VERSION);
    let packed = envelope.packed && data > 0;
    le::put_uint::<2>(&mut out, 22, if packed { FLAG_PACKED } else { 0 });
    le::put_uint::<8>(&mut out, 24, envelope.session);
    le::put_uint::<8>(&mut out, 32, envelope.term);
    le::put_uint::<8>(&mut out, 40, envelope.version);
    le::put_uint::<4>(&mut out, 48, envelope.stream.into());
    let sum = hash(out.get(8..).unwrap_or(&[]), SEED);
    le::put_uint::<8>(&mut out, 0, sum);
    Ok(out)
}

/// All volumes of a state.
fn put_volumes(out: &mut KVec<u8>, volumes: &[Volume]) -> Result {
    put_uint::<2>(out, volumes.len() as u64)?;
    for volume in volumes {
        put_id(out, &volume.uuid)?;
        put_uint::<6>(out, volume.blocks)?;
    }
    Ok(())
}

/// What begins a frame about entries of one epoch, or of a full compare.
fn put_list(out: &mut KVec<u8>, epoch: u64, count: usize, resync: bool) -> Result {
    put_uint::<8>(out, epoch)?;
    put_uint::<2>(out, count as u64)?;
    put_uint::<2>(out, if resync { FLAG_RESYNC } else { 0 })
}

fn put_hello(out: &mut KVec<u8>, hello: &Hello) -> Result {
    let bit = |is_set: bool, bit: u64| if is_set { bit } else { 0 };
    let features = FEATURE_RANGES | FEATURE_VOLUMES | bit(hello.heals, FEATURE_HEAL);
    let offers = bit(hello.verifies, OFFER_VERIFY)
        | bit(hello.diffs, OFFER_DIFF)
        | bit(hello.unpacks, OFFER_PACKED)
        | bit(hello.merges, OFFER_MERGED)
        | bit(hello.stands, OFFER_STAND)
        | bit(hello.resumes, OFFER_RESUME);
    put_uint::<4>(out, features)?;
    put_uint::<4>(out, offers)?;
    put_id(out, &hello.store)?;
    put_uint::<8>(out, hello.incarnation)?;
    put_uint::<8>(out, hello.promise)?;
    put_uint::<4>(out, hello.serial.into())?;
    put_uint::<4>(out, if hello.reigns { FLAG_REIGNS } else { 0 })?;
    put_uint::<4>(out, hello.limits.entries.into())?;
    put_uint::<4>(out, hello.limits.epoch.into())?;
    put_uint::<4>(out, hello.limits.needs.into())?;
    put_uint::<4>(out, 0)?;
    hello.history.write(out)?;
    hello.config.write(out)
}

/// Whether `next` can be said in the header of the run that `last` ends.
fn shares_run(last: &Entry, next: &Entry) -> bool {
    last.op == Op::Write
        && next.op == Op::Write
        && last.fresh == next.fresh
        && last.volume == next.volume
        && last.lbn + 1 == next.lbn
}

fn put_entries(out: &mut KVec<u8>, entries: &[Entry]) -> Result {
    let mut volumes: KVec<Id> = KVec::new();
    let mut runs = 0u64;
    for (i, entry) in entries.iter().enumerate() {
        if !volumes.contains(&entry.volume) {
            volumes.push(entry.volume, GFP_KERNEL)?;
        }
        let last = i.checked_sub(1).and_then(|i| entries.get(i));
        runs += u64::from(!last.is_some_and(|last| shares_run(last, entry)));
    }
    put_uint::<1>(out, volumes.len() as u64)?;
    put_uint::<2>(out, runs)?;
    for volume in &volumes {
        put_id(out, volume)?;
    }
    let mut count_at = 0;
    let mut count = 0u64;
    for (i, entry) in entries.iter().enumerate() {
        let last = i.checked_sub(1).and_then(|i| entries.get(i));
        if !last.is_some_and(|last| shares_run(last, entry)) {
            let volume = volumes.iter().position(|v| *v == entry.volume);
            put_uint::<1>(out, entry.op as u64)?;
            put_uint::<1>(out, if entry.fresh { FLAG_FRESH } else { 0 })?;
            put_uint::<1>(out, volume.unwrap_or(0) as u64)?;
            count_at = out.len();
            count = 0;
            put_uint::<1>(out, 0)?;
            put_uint::<5>(out, entry.lbn)?;
        }
        count += 1;
        le::put_uint::<1>(out, count_at, count);
        match entry.op {
            Op::Write => {
                put_uint::<6>(out, entry.check & CHECK_MASK)?;
                put(out, &entry.digest)?;
            }
            Op::Zero | Op::Create | Op::Resize | Op::Remove | Op::Keep => {
                put_uint::<6>(out, entry.count)?
            }
        }
    }
    Ok(())
}

/// Reads a frame's header and body. `Err` of the outer kind only for want of memory.
pub fn decode(
    meta: &[u8],
    data: usize,
    hash: Hash,
) -> Result<core::result::Result<(Envelope, Frame), BadFrame>> {
    let bad = Ok(Err(BadFrame));
    let Ok((length, data_said)) = lengths(meta) else {
        return bad;
    };
    if length != meta.len()
        || data_said != data
        || le::uint::<8>(meta, 0) != hash(meta.get(8..).unwrap_or(&[]), SEED)
    {
        return bad;
    }
    let envelope = Envelope {
        session: le::uint::<8>(meta, 24),
        term: le::uint::<8>(meta, 32),
        version: le::uint::<8>(meta, 40),
        stream: le::uint::<4>(meta, 48) as u32,
        packed: is_packed(meta),
    };
    let flags = le::uint::<2>(meta, 22);
    if flags & !FLAG_PACKED != 0 || (envelope.packed && data == 0) {
        return bad;
    }
    let reserved = le::uint::<4>(meta, 52);
    let mut body = Reader::new(meta.get(HEADER_BYTES..).unwrap_or(&[]));
    let frame = decode_body(le::uint::<1>(meta, 20), &mut body)?;
    Ok(match frame {
        Some((frame, expected)) if expected == data && reserved == 0 && body.end().is_some() => {
            Ok((envelope, frame))
        }
        _ => Err(BadFrame),
    })
}

/// A body, and how much data belongs to it.
fn decode_body(kind: u64, body: &mut Reader<'_>) -> Result<Option<(Frame, usize)>> {
    let number = |body: &mut Reader<'_>| body.uint::<8>();
    let frame = match kind {
        HELLO => return Ok(read_hello(body)?.map(|hello| (Frame::Hello(hello), 0))),
        ENTRIES => return read_entries(body),
        NEED => return Ok(read_needs(body)?.map(|frame| (frame, 0))),
        DATA | LOST => return read_blocks(body, kind == DATA),
        RANGES => return Ok(read_ranges(body)?.map(|frame| (frame, 0))),
        RESYNC => return Ok(read_resync(body)?.map(|frame| (frame, 0))),
        FROZEN => return Ok(read_frozen(body)?.map(|frame| (frame, 0))),
        BLOCKS => return Ok(read_shown(body)?.map(|frame| (frame, 0))),
        MERGE => read_merge(body),
        SEAL => read_seal(body),
        EQUAL => read_equal(body),
        REACHED => read_reached(body),
        ACK => body.position().map(Frame::Ack),
        CREDIT => number(body).map(Frame::Credit),
        PING => number(body).map(Frame::Ping),
        PONG => number(body).map(Frame::Pong),
        ASK => read_ask(body),
        FOUND => number(body).map(Frame::Found),
        ABSENT => number(body).map(Frame::Absent),
        VERIFY => read_verify(body),
        THAWED => number(body).map(Frame::Thawed),
        SHOW => read_show(body),
        _ => None,
    };
    let data = if kind == FOUND { CLUSTER_SIZE } else { 0 };
    Ok(frame.map(|frame| (frame, data)))
}

fn read_merge(body: &mut Reader<'_>) -> Option<Frame> {
    let (from, to) = (body.position()?, body.position()?);
    // The beginning is of no reign. Fewer than two are none.
    let several = (1..u64::MAX / 2).contains(&from.epoch)
        && (from.epoch + 2..u64::MAX / 2).contains(&to.epoch);
    (several && to.is_of_reign(&from)).then_some(Frame::Merge { from, to })
}

fn read_seal(body: &mut Reader<'_>) -> Option<Frame> {
    let position = body.position()?;
    let entries = body.uint::<4>()? as u32;
    let flags = body.uint::<4>()?;
    (flags & !FLAG_RESYNC == 0 && position.epoch < u64::MAX / 2).then_some(Frame::Seal {
        position,
        entries,
        resync: flags & FLAG_RESYNC != 0,
    })
}

fn read_resync(body: &mut Reader<'_>) -> Result<Option<Frame>> {
    let Some(position) = body.position() else {
        return Ok(None);
    };
    let history = History::read(body)?.filter(|h| h.position() == position);
    let (Some(history), Some(volumes)) = (history, read_volumes(body)?) else {
        return Ok(None);
    };
    let since = (|| {
        if body.is_empty() {
            return Some(None);
        }
        let since = body.uint::<8>()?;
        (1..=position.epoch).contains(&since).then_some(Some(since))
    })();
    Ok(since.map(|since| Frame::Resync {
        position,
        history,
        volumes,
        since,
    }))
}

fn read_volumes(body: &mut Reader<'_>) -> Result<Option<KVec<Volume>>> {
    let count = body.uint::<2>().map(|count| count as usize);
    let Some(count) = count.filter(|n| *n <= SET_VOLUMES_MAX) else {
        return Ok(None);
    };
    let mut volumes = KVec::with_capacity(count, GFP_KERNEL)?;
    let parsed = (|| {
        for _ in 0..count {
            let volume = Volume {
                uuid: body.array()?,
                blocks: body.uint::<6>()?,
            };
            volumes.push_within_capacity(volume).ok()?;
        }
        are_volumes(&volumes).then_some(())
    })();
    Ok(parsed.map(|()| volumes))
}

fn read_verify(body: &mut Reader<'_>) -> Option<Frame> {
    let (number, position) = (body.uint::<8>()?, body.position()?);
    (position.epoch < u64::MAX / 2).then_some(Frame::Verify { number, position })
}

fn read_frozen(body: &mut Reader<'_>) -> Result<Option<Frame>> {
    let Some(number) = body.uint::<8>() else {
        return Ok(None);
    };
    Ok(read_volumes(body)?.map(|volumes| Frame::Frozen { number, volumes }))
}

/// A first block and how many.
fn read_extent(body: &mut Reader<'_>) -> Option<(u64, u64)> {
    let (lbn, count) = (body.uint::<5>()?, body.uint::<6>()?);
    let sound = lbn < LBN_LIMIT && (1..=LBN_LIMIT - lbn).contains(&count);
    sound.then_some((lbn, count))
}

fn read_show(body: &mut Reader<'_>) -> Option<Frame> {
    let (number, volume) = (body.uint::<8>()?, body.array()?);
    let (lbn, count) = read_extent(body)?;
    Some(Frame::Show {
        number,
        volume,
        lbn,
        count,
    })
}

fn read_shown(body: &mut Reader<'_>) -> Result<Option<Frame>> {
    let head = (|| Some((body.uint::<8>()?, read_extent(body)?, body.uint::<2>()?)))();
    let Some((number, (lbn, count), mapped)) = head else {
        return Ok(None);
    };
    if mapped > u64::from(RANGE_BLOCKS_MAX) {
        return Ok(None);
    }
    let mut entries: KVec<Entry> = KVec::with_capacity(mapped as usize, GFP_KERNEL)?;
    let parsed = (|| {
        let mut next = lbn;
        for _ in 0..mapped {
            let entry = Entry {
                op: Op::Write,
                lbn: body.uint::<5>()?,
                count: 1,
                check: body.uint::<6>()?,
                digest: body.array()?,
                ..Entry::default()
            };
            if !(next..lbn + count).contains(&entry.lbn) {
                return None;
            }
            next = entry.lbn + 1;
            entries.push_within_capacity(entry).ok()?;
        }
        Some(())
    })();
    Ok(parsed.map(|()| Frame::Blocks {
        number,
        lbn,
        count,
        entries,
    }))
}

fn read_equal(body: &mut Reader<'_>) -> Option<Frame> {
    let (compare, first) = (body.uint::<8>()?, body.uint::<4>()? as u32);
    let (count, bits) = (body.uint::<4>()? as u32, body.uint::<8>()?);
    // No bit without a range.
    let sound = (1..=RANGES_MAX as u32).contains(&count) && bits.leading_zeros() >= 64 - count;
    sound.then_some(Frame::Equal {
        compare,
        first,
        count,
        bits,
    })
}

fn read_reached(body: &mut Reader<'_>) -> Option<Frame> {
    let resync = body.uint::<4>()? as u32;
    let reached = Reached {
        volume: body.array()?,
        lbn: body.uint::<6>()?,
        entries: body.uint::<8>()?,
    };
    let sound = reached.lbn <= LBN_LIMIT && reached.entries < u64::MAX / 2;
    sound.then_some(Frame::Reached { resync, reached })
}

fn read_ranges(body: &mut Reader<'_>) -> Result<Option<Frame>> {
    let head = (|| {
        let (compare, first) = (body.uint::<8>()?, body.uint::<4>()?);
        let (count, flags) = (body.uint::<2>()? as usize, body.uint::<2>()?);
        let sound = (1..=RANGES_MAX).contains(&count)
            && flags & !FLAG_KEEP == 0
            && first < u64::from(u32::MAX / 2);
        sound.then_some((compare, first as u32, count, flags & FLAG_KEEP != 0))
    })();
    let Some((compare, first, count, keep)) = head else {
        return Ok(None);
    };
    let mut ranges = KVec::with_capacity(count, GFP_KERNEL)?;
    let parsed = (|| {
        for _ in 0..count {
            ranges.push_within_capacity(Range::read(body)?).ok()?;
        }
        Some(())
    })();
    Ok(parsed.map(|()| Frame::Ranges {
        compare,
        first,
        keep,
        ranges,
    }))
}

/// Epoch, number of entries, whether they are of a full compare.
fn read_list(body: &mut Reader<'_>) -> Option<(u64, usize, bool)> {
    let (epoch, count) = (body.uint::<8>()?, body.uint::<2>()? as usize);
    let flags = body.uint::<2>()?;
    let sound =
        (1..=BATCH_MAX).contains(&count) && epoch < u64::MAX / 2 && flags & !FLAG_RESYNC == 0;
    sound.then_some((epoch, count, flags & FLAG_RESYNC != 0))
}

fn read_blocks(body: &mut Reader<'_>, data: bool) -> Result<Option<(Frame, usize)>> {
    let Some((epoch, count, resync)) = read_list(body) else {
        return Ok(None);
    };
    let mut indexes = KVec::with_capacity(count, GFP_KERNEL)?;
    for _ in 0..count {
        let Some(index) = body.uint::<4>() else {
            return Ok(None);
        };
        let _ = indexes.push_within_capacity(index as u32);
    }
    Ok(Some(if data {
        let frame = Frame::Data {
            epoch,
            resync,
            indexes,
        };
        (frame, count * CLUSTER_SIZE)
    } else {
        let frame = Frame::Lost {
            epoch,
            resync,
            indexes,
        };
        (frame, 0)
    }))
}

fn read_ask(body: &mut Reader<'_>) -> Option<Frame> {
    let number = body.uint::<8>()?;
    let wanted = Wanted {
        volume: body.array()?,
        lbn: body.uint::<5>()?,
        check: body.uint::<6>()?,
        digest: body.array()?,
    };
    let flags = body.uint::<1>()?;
    body.zeroes::<4>()?;
    (flags & !FLAG_STANDS == 0).then_some(Frame::Ask {
        number,
        wanted,
        stands: flags & FLAG_STANDS != 0,
    })
}

fn read_hello(body: &mut Reader<'_>) -> Result<Option<KBox<Hello>>> {
    let head = (|| {
        let (features, offers) = (body.uint::<4>()?, body.uint::<4>()?);
        let store: Id = body.array()?;
        let (incarnation, promise) = (body.uint::<8>()?, body.uint::<8>()?);
        let (serial, flags) = (body.uint::<4>()? as u32, body.uint::<4>()?);
        let limits = Limits {
            entries: body.uint::<4>()? as u32,
            epoch: body.uint::<4>()? as u32,
            needs: body.uint::<4>()? as u32,
        };
        body.zeroes::<4>()?;
        let sound = features & !FEATURES_KNOWN == 0
            && flags & !FLAG_REIGNS == 0
            && limits.are_sound()
            && promise < u64::MAX / 2;
        let bits = (features, offers, flags);
        sound.then_some((store, incarnation, promise, serial, bits, limits))
    })();
    let Some((store, incarnation, promise, serial, (features, offers, flags), limits)) = head
    else {
        return Ok(None);
    };
    let Some(history) = History::read(body)? else {
        return Ok(None);
    };
    let Some(config) = Config::read(body)? else {
        return Ok(None);
    };
    if promise < config.term {
        return Ok(None);
    }
    Ok(Some(KBox::new(
        Hello {
            store,
            incarnation,
            serial,
            reigns: flags & FLAG_REIGNS != 0,
            heals: features & FEATURE_HEAL != 0,
            verifies: offers & OFFER_VERIFY != 0,
            diffs: offers & OFFER_DIFF != 0,
            unpacks: offers & OFFER_PACKED != 0,
            merges: offers & OFFER_MERGED != 0,
            stands: offers & OFFER_STAND != 0,
            resumes: offers & OFFER_RESUME != 0,
            promise,
            limits,
            config,
            history,
        },
        GFP_KERNEL,
    )?))
}

fn read_entries(body: &mut Reader<'_>) -> Result<Option<(Frame, usize)>> {
    let mut entries = KVec::with_capacity(BATCH_MAX, GFP_KERNEL)?;
    let parsed = (|| {
        let (epoch, first) = (body.uint::<8>()?, body.uint::<4>()?);
        let flags = body.uint::<1>()?;
        let (volumes, runs) = (body.uint::<1>()? as usize, body.uint::<2>()?);
        if flags & !FLAG_RESYNC != 0
            || volumes > BATCH_VOLUMES_MAX
            || runs == 0
            || epoch >= u64::MAX / 2
            || first >= u64::from(u32::MAX / 2)
        {
            return None;
        }
        let table = body.bytes(volumes * 16)?;
        for _ in 0..runs {
            read_run(body, table, &mut entries)?;
        }
        Some((epoch, first as u32, flags & FLAG_RESYNC != 0))
    })();
    Ok(parsed.map(|(epoch, first, resync)| {
        let data = entries.iter().map(Entry::data_bytes).sum();
        let frame = Frame::Entries {
            epoch,
            first,
            resync,
            entries,
        };
        (frame, data)
    }))
}

/// Reads a run into `entries`, which have room for [`BATCH_MAX`].
fn read_run(body: &mut Reader<'_>, volumes: &[u8], entries: &mut KVec<Entry>) -> Option<()> {
    let (op, flags) = (body.uint::<1>()?, body.uint::<1>()?);
    let volume = body.uint::<1>()? as usize * 16;
    let volume = Reader::new(volumes.get(volume..)?).array()?;
    let count = body.uint::<1>()?;
    let lbn = body.uint::<5>()?;
    let op = match op {
        1 => Op::Write,
        2 if count == 1 => Op::Zero,
        3 if count == 1 => Op::Create,
        4 if count == 1 => Op::Resize,
        5 if count == 1 => Op::Remove,
        6 if count == 1 => Op::Keep,
        _ => return None,
    };
    if flags & !FLAG_FRESH != 0 || !(1..=RUN_MAX as u64).contains(&count) {
        return None;
    }
    for i in 0..count {
        let mut entry = Entry {
            op,
            fresh: flags & FLAG_FRESH != 0,
            volume,
            lbn: lbn + i,
            count: 1,
            ..Entry::default()
        };
        match op {
            Op::Write => {
                entry.check = body.uint::<6>()?;
                entry.digest = body.array()?;
            }
            Op::Zero | Op::Create | Op::Resize | Op::Remove | Op::Keep => {
                entry.count = body.uint::<6>()?
            }
        }
        if !entry.is_sound() || entries.len() >= BATCH_MAX {
            return None;
        }
        entries.push_within_capacity(entry).ok()?;
    }
    Some(())
}

fn read_needs(body: &mut Reader<'_>) -> Result<Option<Frame>> {
    let Some((epoch, count, resync)) = read_list(body) else {
        return Ok(None);
    };
    let mut needs = KVec::with_capacity(count, GFP_KERNEL)?;
    let parsed = (|| {
        for _ in 0..count {
            let need = Need {
                index: body.uint::<4>()? as u32,
                volume: body.array()?,
                lbn: body.uint::<5>()?,
                digest: body.array()?,
            };
            needs.push_within_capacity(need).ok()?;
        }
        Some(())
    })();
    Ok(parsed.map(|()| Frame::Need {
        epoch,
        resync,
        needs,
    }))
}

const _: () = {
    // A duplicate without neighbours.
    assert!(RUN_BYTES + ENTRY_BYTES <= 48);
    assert!(CLUSTER_SIZE <= u16::MAX as usize);
    assert!(HEADER_BYTES + 12 + BATCH_MAX * NEED_BYTES <= META_BYTES_MAX);
    assert!(HEADER_BYTES + 16 + RANGES_MAX * RANGE_BYTES <= META_BYTES_MAX);
    assert!(RANGES_MAX <= 64);
    assert!(HEADER_BYTES + 21 + RANGE_BLOCKS_MAX as usize * SHOWN_BYTES <= META_BYTES_MAX);
    assert!(
        HEADER_BYTES
            + 40
            + (2 + 40 * super::types::REIGNS_MAX)
            + (2 + SET_VOLUMES_MAX * VOLUME_BYTES)
            + 8
            <= META_BYTES_MAX
    );
    assert!(
        HEADER_BYTES + 16 + BATCH_VOLUMES_MAX * 16 + BATCH_MAX * (RUN_BYTES + ENTRY_BYTES)
            <= META_BYTES_MAX
    );
    assert!(
        HEADER_BYTES + 72 + 2 + 40 * super::types::REIGNS_MAX + super::config::CONFIG_BYTES_MAX
            <= META_BYTES_MAX
    );
};

#[cfg(test)]
pub(super) mod tests {
    use super::super::config::tests::{config, next};
    use super::*;

    pub fn sum(bytes: &[u8], seed: u64) -> u64 {
        let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
        bytes.iter().fold(seed ^ 0xcbf2_9ce4_8422_2325, step)
    }

    const ENVELOPE: Envelope = Envelope {
        session: 0x1122_3344_5566_7788,
        term: 3,
        version: 9,
        stream: 2,
        packed: false,
    };

    fn write(volume: u8, lbn: u64, fresh: bool) -> Entry {
        Entry {
            op: Op::Write,
            fresh,
            volume: [volume; 16],
            lbn,
            count: 1,
            check: lbn * 77,
            digest: [lbn as u8; 24],
        }
    }

    fn batch(entries: &[Entry]) -> Frame {
        Frame::Entries {
            epoch: 5,
            first: 7,
            resync: false,
            entries: super::super::codec::copy(entries).unwrap(),
        }
    }

    fn round(frame: &Frame) -> Frame {
        let meta = encode(&ENVELOPE, frame, sum).unwrap();
        let (length, data) = lengths(&meta).unwrap();
        assert_eq!(length, meta.len());
        for cut in 0..meta.len() {
            assert!(decode(&meta[..cut], data, sum).unwrap().is_err());
        }
        for at in 0..meta.len() {
            let mut other = super::super::codec::copy(&meta).unwrap();
            other[at] ^= 0x10;
            assert!(decode(&other, data, sum).unwrap().is_err(), "byte {at}");
        }
        let (envelope, again) = decode(&meta, data, sum).unwrap().unwrap();
        assert_eq!(envelope, ENVELOPE);
        assert_eq!(encode(&ENVELOPE, &again, sum).unwrap()[..], meta[..]);
        assert!(!is_packed(&meta));
        let packs = Envelope {
            packed: true,
            ..ENVELOPE
        };
        let packed = encode(&packs, frame, sum).unwrap();
        assert_eq!(lengths(&packed), lengths(&meta));
        assert_eq!(is_packed(&packed), data > 0);
        let (envelope, _) = decode(&packed, data, sum).unwrap().unwrap();
        assert_eq!(envelope.packed, data > 0);
        again
    }

    /// Whether a frame is taken if a byte has these bits, too.
    fn is_taken_with(frame: &Frame, at: usize, bits: u8) -> bool {
        let mut meta = encode(&ENVELOPE, frame, sum).unwrap();
        meta[at] |= bits;
        let data = lengths(&meta).unwrap().1;
        let right = sum(&meta[8..], SEED);
        le::put_uint::<8>(&mut meta, 0, right);
        decode(&meta, data, sum).unwrap().is_ok()
    }

    #[test]
    fn a_frame_says_that_its_blocks_are_packed_only_if_it_has_some() {
        assert!(is_taken_with(&Frame::Found(4), 22, 1));
        assert!(!is_taken_with(&Frame::Found(4), 22, 3));
        assert!(!is_taken_with(&Frame::Absent(4), 22, 1));
    }

    #[test]
    fn a_packed_block_is_plain_or_has_shrunk_enough() {
        assert_eq!(Packed::decode(Packed::Plain.encode()), Ok(Packed::Plain));
        for bytes in 0..=u16::MAX {
            let packed = Packed::decode(bytes.to_le_bytes());
            match usize::from(bytes) {
                CLUSTER_SIZE => assert_eq!(packed, Ok(Packed::Plain)),
                n @ 1..=3584 => {
                    assert_eq!(packed, Ok(Packed::Lz4(n)));
                    assert_eq!(Packed::Lz4(n).encode(), bytes.to_le_bytes());
                }
                _ => assert_eq!(packed, Err(BadFrame)),
            }
        }
    }

    #[test]
    fn frames_come_back_and_damaged_ones_do_not() {
        let mut history = History::new().unwrap();
        let position = Position {
            term: 1,
            reign: [1; 16],
            epoch: 1,
            chain: 4,
        };
        history.append(position);
        let hello = Hello {
            store: [1; 16],
            incarnation: 4,
            serial: 2,
            reigns: true,
            heals: true,
            verifies: true,
            diffs: true,
            unpacks: true,
            merges: true,
            stands: true,
            resumes: true,
            promise: 7,
            limits: Limits {
                entries: 64,
                epoch: 16,
                needs: 4,
            },
            config: next(&config(5)),
            history: history.try_clone().unwrap(),
        };
        let hello = Frame::Hello(KBox::new(hello, GFP_KERNEL).unwrap());
        round(&hello);
        // Features that nobody knows, and offers.
        for (at, is_offer) in [(0, false), (3, false), (4, true), (7, true)] {
            let is_taken = is_taken_with(&hello, HEADER_BYTES + at, 0x80);
            assert_eq!(is_taken, is_offer, "byte {at}");
        }
        let resync_since = |volumes: &[Volume], since| Frame::Resync {
            position,
            history: history.try_clone().unwrap(),
            volumes: super::super::codec::copy(volumes).unwrap(),
            since,
        };
        let resync = |volumes: &[Volume]| resync_since(volumes, None);
        let many: [Volume; SET_VOLUMES_MAX] = core::array::from_fn(|n| Volume {
            uuid: (n as u128).to_le_bytes(),
            blocks: 1 << 40,
        });
        round(&resync(&many[..1]));
        round(&resync(&many));
        round(&resync_since(&many, Some(1)));
        for bad in [0, 2, u64::MAX] {
            let meta = encode(&ENVELOPE, &resync_since(&many[..1], Some(bad)), sum).unwrap();
            assert!(decode(&meta, 0, sum).unwrap().is_err(), "since {bad}");
        }
        let none = Volume::default();
        for bad in [&[][..], &[many[0], many[0]], &[many[1], none]] {
            let meta = encode(&ENVELOPE, &resync(bad), sum).unwrap();
            assert!(decode(&meta, 0, sum).unwrap().is_err(), "{bad:?}");
        }
        let reached = |lbn| Frame::Reached {
            resync: 2,
            reached: Reached {
                volume: [4; 16],
                lbn,
                entries: 5,
            },
        };
        round(&reached(LBN_LIMIT));
        let meta = encode(&ENVELOPE, &reached(LBN_LIMIT + 1), sum).unwrap();
        assert!(decode(&meta, 0, sum).unwrap().is_err());
        round(&Frame::Ack(position));
        let after = |epochs| Position {
            epoch: position.epoch + epochs,
            ..position
        };
        let other_reign = Position {
            reign: [2; 16],
            ..after(2)
        };
        for (to, good) in [(after(2), true), (after(1), false), (other_reign, false)] {
            let frame = Frame::Merge { from: position, to };
            let meta = encode(&ENVELOPE, &frame, sum).unwrap();
            assert_eq!(decode(&meta, 0, sum).unwrap().is_ok(), good, "{to:?}");
            if good {
                round(&frame);
            }
        }
        round(&Frame::Seal {
            position,
            entries: 9,
            resync: true,
        });
        let list = |indexes: &[u32]| super::super::codec::copy(indexes).unwrap();
        round(&Frame::Data {
            epoch: 3,
            resync: true,
            indexes: list(&[4, 9, u32::MAX]),
        });
        round(&Frame::Data {
            epoch: 3,
            resync: false,
            indexes: list(&[7; BATCH_MAX]),
        });
        round(&Frame::Lost {
            epoch: 3,
            resync: false,
            indexes: list(&[4]),
        });
        for frame in [Frame::Credit(1), Frame::Ping(2), Frame::Pong(3)] {
            round(&frame);
        }
        for (count, bits) in [(1, 1), (64, u64::MAX), (7, 0)] {
            round(&Frame::Equal {
                compare: 3,
                first: 9,
                count,
                bits,
            });
        }
        let mut ranges = KVec::new();
        let range = Range {
            volume: [3; 16],
            first: 5,
            end: 1 << 39,
            blocks: 128,
            sum: 77,
        };
        for _ in 0..RANGES_MAX {
            ranges.push(range, GFP_KERNEL).unwrap();
        }
        round(&Frame::Ranges {
            compare: 8,
            first: 4,
            keep: true,
            ranges,
        });
        for frame in [Frame::Found(4), Frame::Absent(5), Frame::Thawed(6)] {
            round(&frame);
        }
        round(&Frame::Verify {
            number: 9,
            position,
        });
        round(&Frame::Frozen {
            number: 9,
            volumes: super::super::codec::copy(&many).unwrap(),
        });
        round(&Frame::Show {
            number: 9,
            volume: [7; 16],
            lbn: 1,
            count: (1 << 40) - 1,
        });
        let wanted = Wanted {
            volume: [7; 16],
            lbn: (1 << 40) - 1,
            check: CHECK_MASK,
            digest: [9; NAME_BYTES],
        };
        for stands in [false, true] {
            let asked = Frame::Ask {
                number: 6,
                wanted,
                stands,
            };
            match round(&asked) {
                Frame::Ask {
                    wanted: again,
                    stands: stood,
                    ..
                } => assert_eq!((again, stood), (wanted, stands)),
                other => panic!("{other:?}"),
            }
        }
        let mut needs = KVec::new();
        needs.push(Need::default(), GFP_KERNEL).unwrap();
        round(&Frame::Need {
            epoch: 8,
            resync: true,
            needs,
        });
    }

    #[test]
    fn blocks_that_are_shown_ascend_within_what_was_looked_at() {
        let shown = |lbn: u64, count: u64, entries: &[Entry]| Frame::Blocks {
            number: 3,
            lbn,
            count,
            entries: super::super::codec::copy(entries).unwrap(),
        };
        let all: [Entry; RANGE_BLOCKS_MAX as usize] =
            core::array::from_fn(|n| write(0, n as u64 * 3 + 5, false));
        round(&shown(5, 1 << 30, &all));
        round(&shown(0, 1 << 40, &[]));
        let more: [Entry; RANGE_BLOCKS_MAX as usize + 1] =
            core::array::from_fn(|n| write(0, n as u64, false));
        let bad = [
            shown(6, 9, &all[..1]),
            shown(5, 3, &all[..2]),
            shown(5, 9, &[all[1], all[0]]),
            shown(5, 9, &[all[0], all[0]]),
            shown(5, 0, &[]),
            shown(1, 1 << 40, &[]),
            shown(0, 1 << 30, &more),
        ];
        for bad in bad {
            let meta = encode(&ENVELOPE, &bad, sum).unwrap();
            assert!(decode(&meta, 0, sum).unwrap().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_change_of_a_volume_says_nothing_but_its_size() {
        let good = Entry {
            op: Op::Resize,
            volume: [7; 16],
            count: 9,
            ..Entry::default()
        };
        let bad = [
            Entry { count: 0, ..good },
            Entry { lbn: 1, ..good },
            Entry {
                op: Op::Create,
                count: 0,
                ..good
            },
            Entry {
                op: Op::Create,
                count: (1 << 40) + 1,
                ..good
            },
            Entry {
                op: Op::Remove,
                ..good
            },
        ];
        round(&batch(&[good]));
        for bad in bad {
            let meta = encode(&ENVELOPE, &batch(&[bad]), sum).unwrap();
            assert!(decode(&meta, 0, sum).unwrap().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn entries_keep_their_order_and_duplicates_are_short() {
        let zero = Entry {
            op: Op::Zero,
            volume: [2; 16],
            lbn: 9,
            count: 1 << 30,
            ..Entry::default()
        };
        let change = |op, count| Entry {
            op,
            volume: [7; 16],
            count,
            ..Entry::default()
        };
        let entries = [
            write(1, 4, true),
            write(1, 5, true),
            write(1, 6, false),
            zero,
            write(2, 7, false),
            Entry {
                op: Op::Keep,
                lbn: 5,
                count: (1 << 40) - 5,
                ..change(Op::Keep, 0)
            },
            change(Op::Create, 1 << 40),
            change(Op::Resize, 5),
            change(Op::Remove, 0),
        ];
        match round(&batch(&entries)) {
            Frame::Entries { entries: again, .. } => assert_eq!(again[..], entries),
            other => panic!("{other:?}"),
        }
        let length = |entries: &[Entry]| encode(&ENVELOPE, &batch(entries), sum).unwrap().len();
        let apart: [Entry; 64] = core::array::from_fn(|i| write(1, i as u64 * 2, false));
        let near: [Entry; 64] = core::array::from_fn(|i| write(1, i as u64, false));
        assert!(length(&apart) / 64 <= 48, "{}", length(&apart));
        assert!(length(&near) / 64 <= 32, "{}", length(&near));
    }
}
