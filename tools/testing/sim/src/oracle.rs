// SPDX-License-Identifier: GPL-2.0

//! What a volume may hold: the naive model that every answer of the engine is held against.
//!
//! Each block has a list of *versions*: writes (discards and write-zeroes are writes of zeroes)
//! that a power cut may still leave as the block's content. A version is dropped once a later write
//! is known to be durable. "Later" means: submitted after the earlier one was acknowledged; writes
//! that overlap in time may win in either order, but once a read has shown which one won, it won.

use crate::content::{Content, ZERO};
use std::collections::{BTreeMap, BTreeSet};

/// The model's own clock: every event has a moment of its own.
pub type Moment = u64;
const NEVER: Moment = Moment::MAX;

/// One write of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    content: Content,
    /// The operation that wrote it; 0 for what was there before.
    op: u32,
    start: Moment,
    /// When it was acknowledged, with success or not; [`NEVER`] while in flight.
    ack: Moment,
    /// It was acknowledged with success, so it is later than what was acknowledged before it began.
    ok: bool,
    /// It is durable.
    pinned: bool,
    /// It is one of several that a power cut may have left; the first read decides.
    recovered: bool,
}

/// The versions of one block.
#[derive(Debug)]
struct Block {
    versions: Vec<Version>,
}

impl Block {
    fn new() -> Self {
        let zero = Version {
            content: ZERO,
            op: 0,
            start: 0,
            ack: 0,
            ok: true,
            pinned: true,
            recovered: false,
        };
        Self {
            versions: vec![zero],
        }
    }

    /// The contents that a read may return now.
    fn live(&self) -> impl Iterator<Item = &Version> {
        let newest = self
            .versions
            .iter()
            .filter(|v| v.ok && v.ack != NEVER)
            .map(|v| v.start)
            .max()
            .unwrap_or(0);
        self.versions.iter().filter(move |v| v.ack >= newest)
    }

    /// Drops what is older than something durable.
    fn prune(&mut self) {
        let newest = self
            .versions
            .iter()
            .filter(|v| v.pinned)
            .map(|v| v.start)
            .max();
        let newest = newest.unwrap_or(0);
        self.versions.retain(|v| v.ack >= newest);
    }

    fn settled(&self) -> bool {
        matches!(&self.versions[..], [v] if v.pinned)
    }
}

/// A read in flight: what it may return, per block.
#[derive(Debug)]
struct Reading {
    lbn: u64,
    start: Moment,
    allowed: Vec<Vec<Content>>,
}

/// A write, discard or write-zeroes in flight.
#[derive(Debug)]
struct Writing {
    lbn: u64,
    count: u64,
    start: Moment,
    /// All blocks get zeroes: also those that nobody has written when it begins.
    zeroes: bool,
}

/// The model of one volume.
#[derive(Debug, Default)]
pub struct Oracle {
    blocks: BTreeMap<u64, Block>,
    /// Blocks of which a power cut may change the content.
    unsettled: BTreeSet<u64>,
    reading: BTreeMap<u32, Reading>,
    writing: BTreeMap<u32, Writing>,
    /// FLUSHes in flight, with the moment that they were submitted.
    flushing: BTreeMap<u32, Moment>,
    clock: Moment,
}

impl Oracle {
    fn tick(&mut self) -> Moment {
        self.clock += 1;
        self.clock
    }

    /// The blocks that were ever written, in order.
    pub fn touched(&self) -> Vec<u64> {
        self.blocks.keys().copied().collect()
    }

    /// The blocks of which a power cut may change the content.
    pub fn unsettled(&self) -> Vec<u64> {
        self.unsettled.iter().copied().collect()
    }

    /// How many blocks may hold something else than zeroes.
    pub fn mapped_max(&self) -> u64 {
        let mapped = |b: &&Block| b.versions.iter().any(|v| v.content != ZERO);
        self.blocks.values().filter(mapped).count() as u64
    }

    /// How many blocks hold something else than zeroes whatever happens.
    pub fn mapped_min(&self) -> u64 {
        let mapped = |b: &&Block| b.versions.iter().all(|v| v.content != ZERO);
        self.blocks.values().filter(mapped).count() as u64
    }

    /// Whether the block may hold `content`, now or after a power cut.
    pub fn may_hold(&self, lbn: u64, content: Content) -> bool {
        match self.blocks.get(&lbn) {
            Some(b) => b.versions.iter().any(|v| v.content == content),
            None => content == ZERO,
        }
    }

    /// Whether a read of the block may return `content` now.
    pub fn may_read(&self, lbn: u64, content: Content) -> bool {
        match self.blocks.get(&lbn) {
            Some(b) => b.live().any(|v| v.content == content),
            None => content == ZERO,
        }
    }

    fn version(&mut self, op: u32, lbn: u64, content: Content, start: Moment) {
        let writing = &self.writing;
        let block = self.blocks.entry(lbn).or_insert_with(|| {
            let mut block = Block::new();
            // Zeroes on their way to a range that this block is in.
            for (op, w) in writing {
                if w.zeroes && (w.lbn..w.lbn + w.count).contains(&lbn) {
                    block.versions.push(Version {
                        content: ZERO,
                        op: *op,
                        start: w.start,
                        ack: NEVER,
                        ok: false,
                        pinned: false,
                        recovered: false,
                    });
                }
            }
            block
        });
        block.versions.push(Version {
            content,
            op,
            start,
            ack: NEVER,
            ok: false,
            pinned: false,
            recovered: false,
        });
        self.unsettled.insert(lbn);
        for r in self.reading.values_mut() {
            let at = lbn.wrapping_sub(r.lbn) as usize;
            if let Some(allowed) = r.allowed.get_mut(at) {
                allowed.push(content);
            }
        }
    }

    /// A write of `contents` from `lbn` on was submitted.
    pub fn write(&mut self, op: u32, lbn: u64, contents: &[Content]) {
        let start = self.tick();
        for (i, content) in contents.iter().enumerate() {
            self.version(op, lbn + i as u64, *content, start);
        }
        let count = contents.len() as u64;
        self.writing.insert(
            op,
            Writing {
                lbn,
                count,
                start,
                zeroes: false,
            },
        );
    }

    /// A discard or write-zeroes was submitted.
    pub fn zero(&mut self, op: u32, lbn: u64, count: u64) {
        let start = self.tick();
        let inside: Vec<u64> = self
            .blocks
            .range(lbn..lbn + count)
            .map(|(l, _)| *l)
            .collect();
        for l in inside {
            self.version(op, l, ZERO, start);
        }
        self.writing.insert(
            op,
            Writing {
                lbn,
                count,
                start,
                zeroes: true,
            },
        );
    }

    /// The write, discard or write-zeroes `op` ended. `durable`: it was FUA.
    pub fn written(&mut self, op: u32, ok: bool, durable: bool) {
        let now = self.tick();
        let Some(w) = self.writing.remove(&op) else {
            return;
        };
        for (lbn, block) in self.blocks.range_mut(w.lbn..w.lbn + w.count) {
            for v in block
                .versions
                .iter_mut()
                .filter(|v| v.op == op && v.ack == NEVER)
            {
                v.ack = now;
                v.ok = ok;
                v.pinned |= ok && durable;
            }
            if ok && durable {
                block.prune();
                if block.settled() {
                    self.unsettled.remove(lbn);
                }
            }
        }
    }

    /// A FLUSH was submitted.
    pub fn flush(&mut self, op: u32) {
        let now = self.tick();
        self.flushing.insert(op, now);
    }

    /// The FLUSH `op` ended; a failed one promises nothing.
    pub fn flushed(&mut self, op: u32, ok: bool) {
        self.tick();
        if let (Some(point), true) = (self.flushing.remove(&op), ok) {
            self.pin(point);
        }
    }

    /// All that is acknowledged is durable: a clean detach.
    pub fn pin_all(&mut self) {
        let now = self.tick();
        self.pin(now);
    }

    fn pin(&mut self, point: Moment) {
        let blocks = &mut self.blocks;
        self.unsettled.retain(|lbn| {
            let Some(block) = blocks.get_mut(lbn) else {
                return false;
            };
            for v in block.versions.iter_mut().filter(|v| v.ok && v.ack < point) {
                v.pinned = true;
            }
            block.prune();
            !block.settled()
        });
    }

    /// A read of `count` blocks was submitted.
    pub fn read(&mut self, op: u32, lbn: u64, count: u64) {
        let start = self.tick();
        let allowed = (lbn..lbn + count)
            .map(|l| match self.blocks.get(&l) {
                Some(b) => b.live().map(|v| v.content).collect(),
                None => vec![ZERO],
            })
            .collect();
        self.reading.insert(
            op,
            Reading {
                lbn,
                start,
                allowed,
            },
        );
    }

    /// The read `op` ended; `contents` are what it returned, `None` for a block that failed.
    pub fn was_read(&mut self, op: u32, contents: &[Option<Content>]) -> Result<(), String> {
        let Some(r) = self.reading.remove(&op) else {
            return Err(format!("operation {op} is no read in flight"));
        };
        for (i, content) in contents.iter().enumerate() {
            let Some(content) = *content else { continue };
            let lbn = r.lbn + i as u64;
            if !r.allowed[i].contains(&content) {
                return Err(format!(
                    "block {lbn:#x} read {}, permitted are {}{}",
                    show(content),
                    show_all(&r.allowed[i]),
                    match self.blocks.get(&lbn) {
                        Some(b) => format!("; its versions: {:?}", b.versions),
                        None => String::new(),
                    }
                ));
            }
            self.learn(lbn, content, r.start);
        }
        Ok(())
    }

    /// A read that began at `start` has shown that the block holds `content`.
    fn learn(&mut self, lbn: u64, content: Content, start: Moment) {
        let Some(block) = self.blocks.get_mut(&lbn) else {
            return;
        };
        if block
            .versions
            .iter()
            .any(|v| v.recovered && v.content == content)
            && !block
                .versions
                .iter()
                .any(|v| !v.recovered && v.content == content)
        {
            // What recovery chose stays: the journal that it was chosen by is durable.
            block
                .versions
                .retain(|v| !v.recovered || v.content == content);
            for v in block.versions.iter_mut().filter(|v| v.recovered) {
                v.recovered = false;
                v.ok = true;
                v.pinned = true;
            }
        } else {
            // A write that is still in flight may be the one that was read.
            let same: Vec<&Version> = block.live().filter(|v| v.content == content).collect();
            let (won, won_start) = match same[..] {
                [v] if v.ack < start && v.start != 0 => (v.op, v.start),
                _ => return,
            };
            let live: Vec<Version> = block.live().filter(|v| v.ack < start).cloned().collect();
            for v in block.versions.iter_mut() {
                if v.op == won && v.start == won_start {
                    v.ok = true;
                } else if live.contains(v) {
                    // It lost: from now on it counts as older than the one that won.
                    v.ack = won_start - 1;
                    v.start = v.start.min(v.ack);
                }
            }
            block.prune();
        }
        if block.settled() {
            self.unsettled.remove(&lbn);
        }
    }

    /// The power failed: whatever was in flight is gone, each unsettled block is one of its
    /// versions.
    pub fn power_cut(&mut self) {
        let now = self.tick();
        self.reading.clear();
        self.writing.clear();
        self.flushing.clear();
        for lbn in &self.unsettled {
            let Some(block) = self.blocks.get_mut(lbn) else {
                continue;
            };
            let mut contents: Vec<Content> = block.versions.iter().map(|v| v.content).collect();
            contents.sort_unstable();
            contents.dedup();
            let several = contents.len() > 1;
            block.versions = contents
                .into_iter()
                .map(|content| Version {
                    content,
                    op: 0,
                    start: now,
                    ack: now,
                    ok: !several,
                    pinned: !several,
                    recovered: several,
                })
                .collect();
        }
        let blocks = &self.blocks;
        self.unsettled
            .retain(|lbn| blocks.get(lbn).is_some_and(|b| !b.settled()));
    }

    /// Blocks from `from` to `to` are no more; what comes there later begins with zeroes.
    pub fn forget(&mut self, from: u64, to: u64) {
        self.blocks.retain(|lbn, _| !(from..to).contains(lbn));
        self.unsettled.retain(|lbn| !(from..to).contains(lbn));
    }

    /// Whether anything is in flight.
    pub fn busy(&self) -> bool {
        !(self.reading.is_empty() && self.writing.is_empty() && self.flushing.is_empty())
    }
}

fn show(content: Content) -> String {
    match content {
        ZERO => "zeroes".into(),
        c if c >= crate::content::FOREIGN => format!("what nobody wrote ({c:#x})"),
        c => format!("content {c}"),
    }
}

fn show_all(contents: &[Content]) -> String {
    let all: Vec<String> = contents.iter().map(|c| show(*c)).collect();
    all.join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a read of block 5 right now could return `content`, in a copy of the model's eyes.
    fn reads(o: &mut Oracle, content: Content) -> bool {
        o.may_read(5, content)
    }

    fn done(o: &mut Oracle, op: u32, content: Content) {
        o.write(op, 5, &[content]);
        o.written(op, true, false);
    }

    #[test]
    fn an_acknowledged_write_is_read_and_nothing_else() {
        let mut o = Oracle::default();
        done(&mut o, 1, 71);
        assert!(reads(&mut o, 71) && !reads(&mut o, ZERO));
        o.read(9, 5, 1);
        assert!(o.was_read(9, &[Some(ZERO)]).is_err());
    }

    #[test]
    fn a_read_of_what_two_writes_hold_decides_nothing_while_one_is_in_flight() {
        let mut o = Oracle::default();
        // Both overlap: either may win.
        o.zero(1, 5, 1);
        o.write(2, 5, &[71]);
        o.written(1, true, true);
        o.written(2, true, false);
        // These zeroes may be the ones that are read, and the power cut may undo them.
        o.write(3, 5, &[ZERO]);
        o.read(9, 5, 1);
        assert!(o.was_read(9, &[Some(ZERO)]).is_ok());
        o.power_cut();
        assert!(reads(&mut o, 71) && reads(&mut o, ZERO));
    }

    #[test]
    fn an_unflushed_write_may_be_lost_and_a_flushed_one_not() {
        let mut o = Oracle::default();
        done(&mut o, 1, 71);
        o.flush(2);
        o.flushed(2, true);
        done(&mut o, 3, 72);
        o.power_cut();
        assert!(reads(&mut o, 71) && reads(&mut o, 72) && !reads(&mut o, ZERO));
        o.read(9, 5, 1);
        o.was_read(9, &[Some(71)]).unwrap();
        assert!(!reads(&mut o, 72), "what recovery chose stays");
        o.power_cut();
        assert!(reads(&mut o, 71) && !reads(&mut o, 72));
    }

    #[test]
    fn a_flush_covers_only_what_was_acknowledged_before_it_was_submitted() {
        let mut o = Oracle::default();
        o.write(1, 5, &[71]);
        o.flush(2);
        o.written(1, true, false);
        o.flushed(2, true);
        o.power_cut();
        assert!(reads(&mut o, ZERO) && reads(&mut o, 71));
    }

    #[test]
    fn a_failed_flush_promises_nothing() {
        let mut o = Oracle::default();
        done(&mut o, 1, 71);
        o.flush(2);
        o.flushed(2, false);
        o.power_cut();
        assert!(reads(&mut o, ZERO));
    }

    #[test]
    fn a_fua_write_is_durable_and_covers_no_other_block() {
        let mut o = Oracle::default();
        done(&mut o, 1, 71);
        o.write(2, 6, &[80]);
        o.written(2, true, true);
        o.power_cut();
        assert!(o.may_read(6, 80) && !o.may_read(6, ZERO));
        assert!(reads(&mut o, ZERO));
    }

    #[test]
    fn of_overlapping_writes_either_wins_until_a_read_has_shown_which() {
        let mut o = Oracle::default();
        o.write(1, 5, &[71]);
        o.write(2, 5, &[72]);
        o.written(1, true, false);
        o.written(2, true, false);
        assert!(reads(&mut o, 71) && reads(&mut o, 72) && !reads(&mut o, ZERO));
        o.read(9, 5, 1);
        o.was_read(9, &[Some(71)]).unwrap();
        assert!(reads(&mut o, 71) && !reads(&mut o, 72));
        // Not flushed: the loser may come back, the winner too, and what was there before.
        assert!(o.may_hold(5, 72) && o.may_hold(5, ZERO));
        o.flush(3);
        o.flushed(3, true);
        assert!(!o.may_hold(5, 72) && !o.may_hold(5, ZERO));
    }

    #[test]
    fn a_durable_loser_may_come_back_while_the_winner_is_not_durable() {
        let mut o = Oracle::default();
        o.write(1, 5, &[71]);
        o.zero(2, 0, 100);
        o.written(2, true, false);
        o.flush(3);
        o.flushed(3, true);
        o.written(1, true, false);
        o.read(9, 5, 1);
        o.was_read(9, &[Some(71)]).unwrap();
        assert!(!reads(&mut o, ZERO));
        o.power_cut();
        assert!(reads(&mut o, ZERO) && reads(&mut o, 71));
    }

    #[test]
    fn a_failed_write_leaves_old_or_new() {
        let mut o = Oracle::default();
        done(&mut o, 1, 71);
        o.write(2, 5, &[72]);
        o.written(2, false, false);
        o.flush(3);
        o.flushed(3, true);
        assert!(reads(&mut o, 71) && reads(&mut o, 72) && !reads(&mut o, ZERO));
    }

    #[test]
    fn a_read_beside_a_write_may_see_both() {
        let mut o = Oracle::default();
        done(&mut o, 1, 71);
        o.read(9, 5, 1);
        o.write(2, 5, &[72]);
        o.written(2, true, false);
        o.read(10, 5, 1);
        o.was_read(9, &[Some(72)]).unwrap();
        assert!(o.was_read(10, &[Some(71)]).is_err());
    }

    #[test]
    fn a_discard_in_flight_may_hit_a_block_that_is_written_for_the_first_time() {
        let mut o = Oracle::default();
        o.zero(1, 0, 100);
        done(&mut o, 2, 71);
        assert!(reads(&mut o, ZERO) && reads(&mut o, 71));
        o.written(1, true, false);
        done(&mut o, 3, 72);
        assert!(!reads(&mut o, ZERO) && reads(&mut o, 72));
    }
}
