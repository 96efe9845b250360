// SPDX-License-Identifier: GPL-2.0

//! Hostile peers: damaged frames for the decoder, and sessions in which everything is sent that a
//! frame can say, with checksums that are right.

use crate::mutate::damage;
use crate::target::blind;
use ddup_engine::engine::births::{Births, Tick};
use ddup_engine::engine::replication::action::{Action, FrozenState, Params, Shown, StageResult};
use ddup_engine::engine::replication::config::{Config, Member, MemberState};
use ddup_engine::engine::replication::heal::Wanted;
use ddup_engine::engine::replication::history::History;
use ddup_engine::engine::replication::range::Range;
use ddup_engine::engine::replication::record::{choose, Found, Record, Slots};
use ddup_engine::engine::replication::resume::Reached;
use ddup_engine::engine::replication::set::Set;
use ddup_engine::engine::replication::types::{Entry, Id, Limits, Op, Position, Volume};
use ddup_engine::engine::replication::wire::{self, Envelope, Frame, Hello, Need};
use ddup_engine::engine::types::Generation;
use ddup_engine::engine::{BlockContent, Check, Name};
use ddup_sim::rng::Rng;
use kernel::prelude::*;

const LIMITS: Limits = Limits {
    entries: 32,
    epoch: 8,
    needs: 4,
};
const WINDOW: u32 = 64;

type Fallible<T> = std::result::Result<T, String>;

fn memory<E>(_: E) -> String {
    "no memory".into()
}

fn store(n: u64) -> Id {
    [n as u8 + 1; 16]
}

fn config(rng: &mut Rng) -> Fallible<Config> {
    let mut members = KVec::new();
    for n in 0..3 {
        let member = Member {
            store: store(n),
            incarnation: 0,
            state: if n == 0 {
                MemberState::InSync
            } else {
                rng.pick(&[MemberState::InSync, MemberState::Async])
            },
            floor: Position::ZERO,
            confirmed: [0; 16],
        };
        members.push(member, GFP_KERNEL).map_err(memory)?;
    }
    Ok(Config {
        set: [9; 16],
        version: 1,
        id: [0xc1; 16],
        term: 1,
        reign: [0xe1; 16],
        primary: store(0),
        forced: 0,
        min_insync: 1,
        ancestors: KVec::new(),
        members,
    })
}

fn successor(old: &Config, rng: &mut Rng, primary: u64) -> Fallible<Config> {
    let mut new = old.try_clone().map_err(memory)?;
    new.version += 1 + rng.below(2);
    new.term += 1;
    new.reign = [rng.draw() as u8 | 1; 16];
    new.id = [rng.draw() as u8 | 2; 16];
    new.primary = store(primary);
    for member in &mut new.members {
        if member.store == new.primary {
            member.state = MemberState::InSync;
        }
    }
    new.push_ancestor(old.id).map_err(memory)?;
    Ok(new)
}

fn position(rng: &mut Rng, set: Option<&Set>) -> Position {
    let state = set.map(|s| s.state());
    let base = state.map_or(Position::ZERO, |s| s.position);
    Position {
        term: rng.pick(&[base.term, base.term + 1, 1, u64::MAX / 2]),
        reign: rng.pick(&[base.reign, [0xe1; 16], [3; 16]]),
        epoch: match rng.below(40) {
            0 => rng.pick(&[u64::MAX, u64::MAX - 1, u64::MAX / 2]),
            _ => base.epoch.wrapping_add(rng.below(4)).wrapping_sub(1),
        },
        // A checksum that is always right.
        chain: 0,
    }
}

fn history(rng: &mut Rng, set: Option<&Set>) -> Fallible<History> {
    let end = position(rng, set);
    let ends: &[Position] = if end.epoch == 0 {
        &[]
    } else {
        std::slice::from_ref(&end)
    };
    History::from_ends(ends).map_err(memory)
}

/// A change of volumes, mostly a sound one.
fn change(rng: &mut Rng) -> Entry {
    let op = rng.pick(&[Op::Create, Op::Resize, Op::Remove]);
    Entry {
        op,
        volume: [1 + rng.below(3) as u8; 16],
        count: match op {
            Op::Remove => rng.below(20) / 19,
            _ => rng.below(20),
        },
        ..Entry::default()
    }
}

fn volumes(rng: &mut Rng) -> Fallible<KVec<Volume>> {
    let mut volumes = KVec::new();
    for n in 0..1 + rng.skewed(4) {
        let volume = Volume {
            uuid: [1 + n as u8; 16],
            blocks: rng.pick(&[1, 20, 64]),
        };
        volumes.push(volume, GFP_KERNEL).map_err(memory)?;
    }
    Ok(volumes)
}

fn entries(rng: &mut Rng) -> Fallible<KVec<Entry>> {
    let mut entries = KVec::new();
    // Alone, as it has to be, or among others.
    if rng.chance(1, 10) {
        entries.push(change(rng), GFP_KERNEL).map_err(memory)?;
        if rng.chance(3, 4) {
            return Ok(entries);
        }
    }
    for _ in 0..rng.skewed(5) {
        if rng.chance(1, 10) {
            let kept = Entry {
                op: Op::Keep,
                volume: [1 + rng.below(3) as u8; 16],
                lbn: rng.below(64),
                count: 1 + rng.below(64),
                ..Entry::default()
            };
            entries.push(kept, GFP_KERNEL).map_err(memory)?;
            continue;
        }
        let entry = Entry {
            op: Op::Write,
            fresh: rng.chance(1, 3),
            volume: [1 + rng.below(3) as u8; 16],
            lbn: rng.below(20),
            count: 1,
            check: rng.below(4),
            digest: [rng.below(6) as u8; 24],
        };
        entries.push(entry, GFP_KERNEL).map_err(memory)?;
    }
    Ok(entries)
}

fn wanted(rng: &mut Rng) -> Wanted {
    Wanted {
        volume: [rng.below(2) as u8; 16],
        lbn: rng.below(1 << 40),
        check: rng.below(2),
        digest: [rng.below(2) as u8; 24],
    }
}

/// Something that a peer could say.
fn frame(rng: &mut Rng, set: Option<&Set>, config: &Config, peer: u64) -> Fallible<Frame> {
    let at = position(rng, set);
    let (epoch, index) = (at.epoch, rng.below(10) as u32);
    let resync = rng.chance(1, 3);
    Ok(match rng.below(26) {
        0 | 1 => {
            let hello = Hello {
                store: store(peer),
                incarnation: rng.below(3),
                serial: 1 + rng.below(6) as u32,
                reigns: rng.chance(3, 4),
                heals: rng.chance(3, 4),
                verifies: rng.chance(3, 4),
                diffs: rng.chance(3, 4),
                unpacks: rng.chance(3, 4),
                merges: rng.chance(3, 4),
                stands: rng.chance(3, 4),
                resumes: rng.chance(3, 4),
                promise: config.term + rng.below(3) / 2,
                limits: LIMITS,
                config: match rng.below(4) {
                    0 => successor(config, rng, peer)?,
                    _ => config.try_clone().map_err(memory)?,
                },
                history: history(rng, set)?,
            };
            Frame::Hello(KBox::new(hello, GFP_KERNEL).map_err(memory)?)
        }
        2..=4 => Frame::Entries {
            epoch,
            first: rng.pick(&[0, 0, 1, index]),
            resync,
            entries: entries(rng)?,
        },
        5 | 6 => Frame::Seal {
            position: at,
            entries: rng.pick(&[0, 1, 2, index]),
            resync,
        },
        7 => Frame::Ack(at),
        8 => {
            let mut needs = KVec::new();
            let need = Need {
                index,
                ..Need::default()
            };
            needs.push(need, GFP_KERNEL).map_err(memory)?;
            Frame::Need {
                epoch,
                resync,
                needs,
            }
        }
        9 | 10 => {
            let mut indexes = KVec::new();
            for i in 0..1 + rng.skewed(4) as u32 {
                let index = rng.pick(&[index, i]);
                indexes.push(index, GFP_KERNEL).map_err(memory)?;
            }
            match rng.chance(1, 2) {
                true => Frame::Data {
                    epoch,
                    resync,
                    indexes,
                },
                false => Frame::Lost {
                    epoch,
                    resync,
                    indexes,
                },
            }
        }
        11 => Frame::Credit(rng.draw()),
        12 if resync => Frame::Ping(7),
        12 => Frame::Pong(7),
        13 => {
            let mut ranges = KVec::new();
            for _ in 0..1 + rng.skewed(5) {
                let first = rng.below(20);
                let range = Range {
                    volume: [1 + rng.below(3) as u8; 16],
                    first,
                    end: first + rng.pick(&[8, 30]),
                    blocks: rng.below(8) as u32,
                    sum: rng.below(2),
                };
                ranges.push(range, GFP_KERNEL).map_err(memory)?;
            }
            Frame::Ranges {
                compare: rng.below(3),
                first: rng.pick(&[0, 0, index]),
                keep: rng.chance(1, 2),
                ranges,
            }
        }
        14 => Frame::Equal {
            compare: rng.below(40),
            first: rng.pick(&[0, 0, index]),
            count: 8,
            bits: rng.draw() & 0xff,
        },
        15 => Frame::Ask {
            number: rng.below(4),
            wanted: wanted(rng),
            stands: rng.chance(1, 2),
        },
        16 => Frame::Found(rng.below(4)),
        17 => Frame::Absent(rng.below(4)),
        18 => Frame::Verify {
            number: rng.below(3),
            position: at,
        },
        19 => Frame::Frozen {
            number: rng.below(40),
            volumes: volumes(rng)?,
        },
        20 => Frame::Thawed(rng.below(40)),
        21 => Frame::Show {
            number: rng.below(3),
            volume: [1 + rng.below(3) as u8; 16],
            lbn: rng.below(20),
            count: 1 + rng.below(64),
        },
        22 => {
            let mut entries = entries(rng)?;
            entries.retain(|e| e.op == Op::Write);
            entries.sort_by_key(|e| e.lbn);
            Frame::Blocks {
                number: rng.below(40),
                lbn: rng.below(4),
                count: rng.pick(&[20, 64]),
                entries,
            }
        }
        23 => Frame::Merge {
            from: at,
            to: Position {
                epoch: epoch.saturating_add(rng.pick(&[1, 2, 5])),
                ..at
            },
        },
        24 => Frame::Reached {
            resync: rng.below(3) as u32,
            reached: Reached {
                volume: [rng.below(3) as u8; 16],
                lbn: rng.below(20),
                entries: rng.below(20),
            },
        },
        _ => {
            let history = history(rng, set)?;
            let position = history.position();
            Frame::Resync {
                position,
                history,
                volumes: volumes(rng)?,
                since: rng.pick(&[None, Some(1), Some(position.epoch)]),
            }
        }
    })
}

/// Damaged frames: what is accepted says the same when it is written again.
pub fn frames(rng: &mut Rng) -> Fallible<()> {
    let config = config(rng)?;
    let envelope = Envelope {
        session: rng.draw(),
        term: rng.below(9),
        version: rng.below(9),
        stream: rng.below(9) as u32,
        packed: rng.chance(1, 2),
    };
    let frame = frame(rng, None, &config, 1)?;
    let mut meta = wire::encode(&envelope, &frame, blind)
        .map_err(memory)?
        .to_vec();
    damage(&mut meta, rng);
    let Ok((length, data)) = wire::lengths(&meta) else {
        return Ok(());
    };
    meta.resize(length, 0);
    if let Ok((envelope, frame)) = wire::decode(&meta, data, blind).map_err(memory)? {
        let again = wire::encode(&envelope, &frame, blind).map_err(memory)?;
        let Ok((length, data)) = wire::lengths(&again) else {
            return Err("a frame that was accepted cannot be sent".into());
        };
        if length != again.len() || wire::decode(&again, data, blind).map_err(memory)?.is_err() {
            return Err("a frame that was accepted is refused when sent again".into());
        }
    }
    Ok(())
}

/// Damaged configuration slots.
pub fn slots(rng: &mut Rng) -> Fallible<()> {
    let record = Record {
        promise: 1 + rng.below(3),
        keep: rng.chance(1, 2),
        config: config(rng)?,
    };
    let mut copies: std::vec::Vec<std::vec::Vec<u8>> = std::vec::Vec::new();
    for copy in 0..4 {
        let slot = record
            .write(&store(0), 2 + copy / 2, blind)
            .map_err(memory)?;
        let mut slot = slot.to_vec();
        if rng.chance(1, 2) {
            damage(&mut slot, rng);
        }
        copies.push(slot);
    }
    let slots = [
        [Some(&copies[0][..]), Some(&copies[1][..])],
        [Some(&copies[2][..]), Some(&copies[3][..])],
    ];
    if let Slots::Record(found) = choose(&slots, &store(0), blind).map_err(memory)? {
        if found.record.promise < found.record.config.term || !found.record.config.is_sound() {
            return Err("a record that no writer writes".into());
        }
    }
    Ok(())
}

/// Where a stream to the store under test would go on, if its peer were honest.
#[derive(Clone, Copy, Default)]
struct Honest {
    stream: u32,
    epoch: u64,
    index: u32,
    /// The epoch is a change of volumes.
    alone: bool,
    /// It stands for several.
    merged: bool,
}

impl Honest {
    /// The next frame of the stream.
    fn frame(&mut self, rng: &mut Rng, config: &Config) -> Fallible<Frame> {
        if self.index == 0 && self.epoch > 1 && !self.merged && rng.chance(1, 6) {
            let position = |epoch| Position {
                term: config.term,
                reign: config.reign,
                epoch,
                chain: 0,
            };
            let from = position(self.epoch - 1);
            self.epoch += rng.pick(&[1, 3]);
            self.merged = true;
            let to = position(self.epoch);
            return Ok(Frame::Merge { from, to });
        }
        if rng.chance(1, 3) || self.index > 4 || std::mem::take(&mut self.alone) {
            let position = Position {
                term: config.term,
                reign: config.reign,
                epoch: self.epoch,
                chain: 0,
            };
            let entries = std::mem::take(&mut self.index);
            self.merged = false;
            self.epoch += 1;
            return Ok(Frame::Seal {
                position,
                entries,
                resync: false,
            });
        }
        let mut entries = entries(rng)?;
        entries.truncate(4);
        let changes = |e: &Entry| e.op.changes_volumes();
        if self.index > 0 || entries.len() > 1 || self.merged {
            entries.retain(|e| !changes(e));
        }
        self.alone = entries.iter().any(changes);
        let first = self.index;
        self.index += entries.len() as u32;
        Ok(Frame::Entries {
            epoch: self.epoch,
            first,
            resync: false,
            entries,
        })
    }
}

/// A store among hostile peers, some of which begin as honest ones.
pub fn session(rng: &mut Rng) -> Fallible<()> {
    let config = config(rng)?;
    let found = Found {
        generation: 2,
        record: Record {
            promise: 1,
            keep: rng.chance(1, 4),
            config: config.try_clone().map_err(memory)?,
        },
        first: [0, 0],
    };
    let params = Params {
        store: store(rng.pick(&[0, 1])),
        incarnation: 1,
        hash: blind,
        limits: LIMITS,
        window: WINDOW,
        keepalive: 100,
        timeout: 1000,
        unpacks: rng.chance(3, 4),
        merges: rng.chance(3, 4),
        parks: rng.pick(&[0, 500]),
    };
    let history = History::new().map_err(memory)?;
    let mut set = Set::attach(params, found, history, [[7; 16]; 2]).map_err(memory)?;
    let mut honest = Honest::default();
    work(&mut set, rng, &mut honest);
    if params.store == store(0) && rng.chance(2, 3) {
        let reign = successor(&config, rng, 0)?;
        set.set_config(1, 1, reign).map_err(memory)?;
        work(&mut set, rng, &mut honest);
    }
    let mut nonce = 100;
    let mut sessions = [0; 3];
    let mut refused = 0;
    let lies = rng.pick(&[8, 60]);
    for _ in 0..rng.skewed(8) {
        let mut peer = rng.pick(&[0, 1, 2]);
        let current = set.state().config.try_clone().map_err(memory)?;
        let ended = set.state().refused > refused;
        refused = set.state().refused;
        if rng.chance(1, 40) || nonce == 100 || ended {
            // The primary, and what it says at first is true.
            nonce += 1;
            peer = rng.pick(&[0, 0, 0, 2]);
            sessions[peer as usize] = nonce;
            let _ = set.peer(&store(peer), nonce);
            let hello = Hello {
                store: store(peer),
                incarnation: 1,
                serial: 1,
                reigns: true,
                heals: true,
                verifies: true,
                diffs: true,
                unpacks: rng.chance(1, 2),
                merges: rng.chance(1, 2),
                stands: rng.chance(1, 2),
                resumes: rng.chance(1, 2),
                promise: current.term,
                limits: LIMITS,
                config: current.try_clone().map_err(memory)?,
                history: History::new().map_err(memory)?,
            };
            let hello = Frame::Hello(KBox::new(hello, GFP_KERNEL).map_err(memory)?);
            let envelope = Envelope {
                session: nonce,
                term: current.term,
                version: current.version,
                stream: 1,
                packed: false,
            };
            let meta = wire::encode(&envelope, &hello, blind).map_err(memory)?;
            let _ = set.received(&store(peer), nonce, &meta, (0, &[]));
            work(&mut set, rng, &mut honest);
        }
        if set.serves() {
            for entry in &entries(rng)? {
                let _ = match entry.op.changes_volumes() {
                    true => set.change(*entry).map(|_| ()),
                    false => set.write(*entry).map(|_| ()),
                };
            }
            let _ = set.flush(rng.draw());
            let repair = rng.chance(1, 2);
            let _ = set.verify(9, &store(rng.pick(&[1, 2])), repair);
        }
        if rng.chance(1, 4) {
            let number = rng.below(4);
            set.forget_ask(number);
            let _ = set.ask(number, wanted(rng));
            let number = rng.below(4);
            set.forget_miss(number);
            let _ = set.miss(number, wanted(rng));
            let _ = set.spares(&wanted(rng).digest);
        }
        let follows = !rng.chance(1, lies);
        let said = if follows {
            peer = 0;
            honest.frame(rng, &current)?
        } else {
            frame(rng, Some(&set), &current, peer)?
        };
        let session = sessions[peer as usize];
        let envelope = Envelope {
            session,
            term: current.term,
            version: current.version,
            stream: if follows {
                honest.stream
            } else {
                rng.pick(&[1, 2, 3])
            },
            packed: rng.chance(1, 8),
        };
        let meta = wire::encode(&envelope, &said, blind).map_err(memory)?;
        let Ok((_, data)) = wire::lengths(&meta) else {
            continue;
        };
        let mut blocks = vec![BlockContent::default(); data / 4096];
        if let (Frame::Entries { entries, .. }, false) = (&said, rng.chance(1, 10)) {
            for (block, entry) in blocks.iter_mut().zip(entries.iter().filter(|e| e.fresh)) {
                (block.name, block.check) = (Name(entry.digest), Check(entry.check));
            }
        }
        let _ = set.received(&store(peer), session, &meta, (1000, &blocks));
        if rng.chance(1, 20) {
            set.tick(rng.below(5000));
        }
        work(&mut set, rng, &mut honest);
        let held = set.state().entries;
        if held > (WINDOW + 2 * LIMITS.entries) as usize + 64 {
            return Err(format!("{held} entries in memory"));
        }
    }
    Ok(())
}

/// Does what the set asks for, in some way; some of it stays undone for a while.
fn work(set: &mut Set, rng: &mut Rng, honest: &mut Honest) {
    for _ in 0..rng.pick(&[2, 20, 200]) {
        let Some(action) = set.poll_action() else {
            send(set, honest);
            break;
        };
        match action {
            Action::Persist { token, .. } => set.persisted(token, true),
            Action::Seal(_) => set.sealed(true),
            Action::Apply { .. } | Action::Switch { .. } => set.applied(true),
            Action::Stage { token, .. } => {
                let result = rng.pick(&[StageResult::Held, StageResult::Held, StageResult::Lacks]);
                set.staged(token, result);
            }
            Action::Freeze { scan } if rng.chance(1, 4) => set.scan_lost(scan),
            Action::ScanOpen { scan } | Action::Freeze { scan } => {
                let end = set.history().position();
                let _ = set.seal();
                set.scan_cut(scan, &end);
                let history = set.history().try_clone().ok().filter(|_| rng.chance(9, 10));
                let volumes = volumes(rng).unwrap_or_default();
                let epoch = set.history().position().epoch;
                let tick = Tick {
                    generation: Generation(1 + rng.below(9) as u32),
                    epoch: 1 + rng.below(epoch + 1),
                };
                let births = Births::of([tick].into_iter()).unwrap_or_default();
                let frozen = history.as_ref().map(|history| FrozenState {
                    history,
                    volumes: &volumes,
                    births: &births,
                    blocks: rng.below(100),
                });
                let _ = set.scan_opened(scan, frozen);
            }
            Action::Scan { scan, .. } => {
                let first = rng.below(64);
                let shown = Shown {
                    volume: [1; 16],
                    range: (first, first + rng.below(64)),
                    entries: entries(rng).unwrap_or_default(),
                };
                set.scanned(scan, shown, rng.pick(&[None, Some(1)]));
            }
            Action::ScanRange {
                scan,
                volume,
                first,
                end,
                ..
            } => {
                let shown = Shown {
                    volume,
                    range: (first, end),
                    entries: entries(rng).unwrap_or_default(),
                };
                set.scanned(scan, shown, None);
            }
            Action::Repair { token, .. } => {
                let epoch = rng.below(9);
                set.repaired(token, rng.pick(&[None, Some(epoch)]));
            }
            Action::Own { token, .. } => {
                let entries = entries(rng).ok().filter(|_| rng.chance(9, 10));
                set.owned(token, entries.as_deref());
            }
            Action::Fetch { token, .. } | Action::Look { token, .. } => match rng.below(3) {
                0 => set.fetch_failed(token),
                n => set.fetched(token, (n > 1).then_some(5)),
            },
            _ => {}
        }
        if rng.chance(1, 2) {
            send(set, honest);
        }
    }
}

/// Takes what the set sends; a HELLO of it begins a stream.
fn send(set: &mut Set, honest: &mut Honest) {
    for peer in 0..3 {
        while let Ok(Some(outgoing)) = set.poll_send(&store(peer)) {
            let data = outgoing.blocks.len() * 4096;
            let decoded = wire::decode(&outgoing.meta, data, blind);
            if let (0, Ok(Ok((_, Frame::Hello(hello))))) = (peer, decoded) {
                honest.stream = hello.serial;
                honest.epoch = hello.history.position().epoch + 1;
                (honest.index, honest.alone, honest.merged) = (0, false, false);
            }
        }
    }
}
