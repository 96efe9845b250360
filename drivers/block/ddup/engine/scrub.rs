// SPDX-License-Identifier: GPL-2.0

//! A scrub: every mapped block of all volumes is read and held against its check.
//!
//! ```text
//!  Running --behind the last block of the last volume--> Complete
//!     \---- it is stopped, the store is detached or fails ---> Stopped
//! ```
//!
//! There is one at most, and what the last one found is kept until the next begins; [`Store`] owns
//! it. It reads as a request does, by an op of kind Read with a tag of its own, the last one: so what
//! is bad is tried again, quarantined and healed as for every reader (`read.rs`, `heal.rs`). Only the
//! data goes nowhere: there is no request, and the shell gives the pages up
//! ([`Action::ScrubBlock`]).
//!
//! Clusters that were found to be good are not read again for other blocks that share them. What is
//! written meanwhile may be looked at or not. After each run of blocks it rests for so many times as
//! long as that took as `scrub_tranquility` says.

use super::mark::mark;
use super::op::{BlockState, OpKind, Phase, Request};
use super::own::Known;
use super::show::{lines, Plain};
use super::state::{Mode, Store, RETRY_INTERVAL};
use super::types::{Cluster, Lbn, Millis, Status, Tag};
use super::Action;
use core::fmt;
use kernel::prelude::*;

/// Tags of scrubs.
pub(super) const SCRUB_TAGS: u32 = 1;
/// Blocks that are read at once, at most.
const RUN_BLOCKS: u64 = 32;
/// Blocks that one step looks for something mapped in, at most.
const STEP_BLOCKS: u32 = 1024;

/// How far a scrub is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScrubState {
    /// It goes on.
    Running,
    /// All was read.
    Complete,
    /// It ended before all was read.
    Stopped,
}

/// What a scrub has done and found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubReport {
    /// How far it is.
    pub state: ScrubState,
    /// Blocks that were mapped when it began, as of the last checkpoint then.
    pub blocks: u64,
    /// Blocks that it has looked at.
    pub checked: u64,
    /// Clusters that it has read for them, each try.
    pub clusters: u64,
    /// Blocks that can't be read, or are not what was written, and stay so.
    pub bad: u64,
    /// Blocks that were bad, and were given another cluster with their content.
    pub healed: u64,
    /// For how long it has worked and rested, in milliseconds.
    pub took: Millis,
}

/// The scrub of a store.
pub(super) struct Scrub {
    report: ScrubReport,
    began: Millis,
    /// The next block.
    slot: usize,
    lbn: u64,
    /// When the run under way began.
    run_began: Millis,
    rest_until: Millis,
    /// A bit for each cluster of the store: it was found to be good.
    good: KVVec<u64>,
}

impl Scrub {
    fn is_running(&self) -> bool {
        self.report.state == ScrubState::Running
    }

    fn is_good(&self, cluster: Cluster) -> bool {
        let word = self.good.get((cluster.0 / 64) as usize);
        word.is_some_and(|word| word >> (cluster.0 % 64) & 1 != 0)
    }

    fn set_good(&mut self, cluster: Cluster) {
        if let Some(word) = self.good.get_mut((cluster.0 / 64) as usize) {
            *word |= 1 << (cluster.0 % 64);
        }
    }

    /// What it shows of itself.
    pub(super) fn show(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        lines!(out,
            "state": Plain(self.report.state),
            "blocks": self.report.blocks,
            "checked": self.report.checked,
            "clusters": self.report.clusters,
            "bad": self.report.bad,
            "healed": self.report.healed,
            "slot": self.slot,
            "lbn": self.lbn,
            "rests_until": self.rest_until,
        );
        Ok(())
    }
}

impl Store {
    /// Words with a bit for each cluster.
    pub(super) fn scrub_words(&self) -> usize {
        self.superblock.layout.clusters.div_ceil(64) as usize
    }

    /// Begins a scrub. `EBUSY`: one goes on, or has not quite ended. `EINVAL`: not as many words as
    /// there are to be. `EIO`: the store failed, or is being detached.
    pub(super) fn begin_scrub(&mut self, good: KVVec<u64>) -> Result {
        let scrub = self.scrub.as_ref();
        if scrub.is_some_and(|scrub| scrub.is_running()) || self.scrub_reads() {
            return Err(EBUSY);
        }
        if !self.may_scrub() {
            return Err(EIO);
        }
        if good.len() != self.scrub_words() {
            return Err(EINVAL);
        }
        let report = ScrubReport {
            state: ScrubState::Running,
            blocks: self.owner_count,
            checked: 0,
            clusters: 0,
            bad: 0,
            healed: 0,
            took: 0,
        };
        let scrub = Scrub {
            report,
            began: self.now,
            slot: 0,
            lbn: 0,
            run_began: self.now,
            rest_until: self.now,
            good,
        };
        self.scrub = Some(scrub);
        Ok(())
    }

    /// Ends the scrub that goes on. False: there is none.
    pub(super) fn stop_scrub(&mut self) -> bool {
        let goes_on = self.scrub.as_ref().is_some_and(|scrub| scrub.is_running());
        if goes_on {
            self.end_scrub(ScrubState::Stopped);
        }
        goes_on
    }

    /// What the last scrub has found, if there was one since attach.
    pub(super) fn scrub_report(&self) -> Option<ScrubReport> {
        let scrub = self.scrub.as_ref()?;
        let took = match scrub.is_running() {
            true => self.now.saturating_sub(scrub.began),
            false => scrub.report.took,
        };
        Some(ScrubReport {
            took,
            ..scrub.report
        })
    }

    /// One bounded step: the next run of blocks is looked for and begun. True: more can be done now.
    pub(super) fn scrub_step(&mut self) -> bool {
        let Some(scrub) = self.scrub.as_ref().filter(|scrub| scrub.is_running()) else {
            return false;
        };
        if !self.may_scrub() {
            self.end_scrub(ScrubState::Stopped);
            return false;
        }
        // What volumes there are is about to change.
        if self.scrub_reads() || self.now < scrub.rest_until || self.change.is_some() {
            return false;
        }
        let (mut slot, mut lbn) = (scrub.slot, scrub.lbn);
        let mut found = None;
        for _ in 0..STEP_BLOCKS {
            if slot >= self.volumes.len() {
                break;
            }
            let end = self.shown(slot).map_or(0, |volume| volume.size());
            if lbn >= end {
                (slot, lbn) = (slot + 1, 0);
                continue;
            }
            match self.known_at(slot, lbn) {
                Known::Entry(entry) if entry.is_mapped() => {
                    found = Some(RUN_BLOCKS.min(end - lbn));
                    break;
                }
                Known::Entry(_) => lbn += 1,
                Known::Nothing(until) => lbn = until.max(lbn + 1),
                // It is looked for again when the page is there.
                Known::Wait => break,
            }
        }
        let ends = slot >= self.volumes.len();
        let moved = scrub_moved(self.scrub.as_mut(), slot, lbn);
        match found {
            Some(count) => self.begin_run(slot, lbn, count),
            None if ends => self.end_scrub(ScrubState::Complete),
            None => return moved,
        }
        false
    }

    /// When [`Store::scrub_step`] has something to do.
    pub(super) fn scrub_deadline(&self) -> Option<Millis> {
        let scrub = self.scrub.as_ref().filter(|scrub| scrub.is_running())?;
        let until = match scrub.rest_until > self.now {
            true => scrub.rest_until,
            // It waits for a page, or for a change to end.
            false => self.now + RETRY_INTERVAL,
        };
        (!self.scrub_reads()).then_some(until)
    }

    fn may_scrub(&self) -> bool {
        matches!(self.mode, Mode::Attached | Mode::ReadOnly)
            && self.failed.is_none()
            && !self.detach_wanted
    }

    fn scrub_tag(&self) -> Tag {
        self.ops.depth() - SCRUB_TAGS
    }

    /// Whether this op is the scrub's.
    pub(super) fn is_scrub(&self, tag: Tag) -> bool {
        tag == self.scrub_tag()
    }

    /// Whether a run of blocks is being read.
    pub(super) fn scrub_reads(&self) -> bool {
        let op = self.ops.get(self.scrub_tag());
        op.is_some_and(|op| op.phase != Phase::Idle)
    }

    fn begin_run(&mut self, slot: usize, lbn: u64, count: u64) {
        let tag = self.scrub_tag();
        let request = Request {
            tag,
            kind: OpKind::Read,
            volume: slot as u32,
            lbn: Lbn(lbn),
            count,
            fua: false,
        };
        // Without memory it is tried again.
        if !self.prepare_op(request, &[]) {
            return;
        }
        if let Some(op) = self.ops.get_mut(tag) {
            op.phase = Phase::Running;
        }
        if let Some(scrub) = self.scrub.as_mut() {
            scrub.run_began = self.now;
        }
        self.ops.in_flight += 1;
        self.ops.park(&mut self.ready, tag);
    }

    /// Goes on with a run, as far as pages are here. False: the op is not the scrub's.
    pub(super) fn run_scrub(&mut self, tag: Tag) -> bool {
        if !self.is_scrub(tag) {
            return false;
        }
        let Some((request, count)) = self
            .ops
            .get(tag)
            .map(|op| (op.request, op.blocks.len() as u32))
        else {
            return true;
        };
        for block in 0..count {
            let Some(&b) = self.ops.block(tag, block) else {
                return true;
            };
            let goes_on = self.may_scrub() && self.scrub.as_ref().is_some_and(|s| s.is_running());
            match b.state {
                BlockState::Start | BlockState::Bad if !goes_on => self.pass_block(tag, block),
                BlockState::Bad => {
                    if !self.begin_heal(tag, block) {
                        return true;
                    }
                }
                BlockState::Start => {
                    let lbn = Lbn(request.lbn.0 + u64::from(block));
                    let Some(entry) = self.look_up(tag, request.volume as usize, lbn) else {
                        return true;
                    };
                    let scrub = self.scrub.as_mut();
                    let scrub = scrub.filter(|_| entry.is_mapped());
                    let known = scrub.is_none_or(|scrub| {
                        let known = scrub.is_good(entry.cluster);
                        scrub.report.checked += u64::from(known);
                        // Its content was found in a cluster that another block was healed with.
                        scrub.report.healed += u64::from(known && b.passed > 0);
                        scrub.report.clusters += u64::from(!known);
                        known
                    });
                    if known {
                        mark!(scrub_passes_over_a_block);
                        self.pass_block(tag, block);
                        continue;
                    }
                    if let Some(op) = self.ops.get_mut(tag) {
                        op.io += 1;
                        if let Some(b) = op.blocks.get_mut(block as usize) {
                            b.state = BlockState::Io;
                            b.cluster = entry.cluster;
                            b.content.check = entry.check;
                        }
                    }
                    self.act(Action::ScrubBlock {
                        tag,
                        block,
                        cluster: entry.cluster,
                        check: entry.check,
                    });
                }
                _ => {}
            }
        }
        self.settle_scrub(tag)
    }

    /// A block that is not read.
    fn pass_block(&mut self, tag: Tag, block: u32) {
        if let Some(op) = self.ops.get_mut(tag) {
            op.todo -= 1;
            if let Some(b) = op.blocks.get_mut(block as usize) {
                b.state = BlockState::Done;
                b.cluster = Cluster::NONE;
            }
        }
    }

    /// Ends a run of which nothing is left to be read. False: the op is not the scrub's.
    pub(super) fn settle_scrub(&mut self, tag: Tag) -> bool {
        if !self.is_scrub(tag) {
            return false;
        }
        let over = |op: &&mut super::op::Op| op.phase == Phase::Running && op.todo == 0;
        let Some(op) = self.ops.get_mut(tag).filter(over) else {
            return true;
        };
        // There is no request to complete.
        op.handed_over = true;
        let (slot, first, count) = (op.request.volume, op.request.lbn.0, op.blocks.len() as u32);
        if let Some(scrub) = self.scrub.as_mut().filter(|scrub| scrub.is_running()) {
            for b in &op.blocks {
                match b.state {
                    BlockState::Failed => scrub.report.bad += 1,
                    BlockState::Done if b.cluster != Cluster::NONE => {
                        scrub.report.healed += u64::from(b.passed > 0);
                        scrub.set_good(b.cluster);
                    }
                    _ => continue,
                }
                scrub.report.checked += 1;
            }
            scrub.lbn = first + u64::from(count);
            let took = self.now.saturating_sub(scrub.run_began);
            let rest = took.saturating_mul(self.config.knobs.scrub_tranquility);
            scrub.rest_until = self.now.saturating_add(rest);
            if rest > 0 {
                mark!(scrub_rests);
            }
        }
        for block in 0..count {
            let state = self.ops.block(tag, block).map(|b| b.state);
            if state == Some(BlockState::Failed) {
                mark!(scrub_finds_a_bad_block);
                let lbn = Lbn(first + u64::from(block));
                self.act(Action::ScrubFound { slot, lbn });
            }
        }
        self.finish(tag, Status::Ok);
        true
    }

    fn end_scrub(&mut self, state: ScrubState) {
        let now = self.now;
        let Some(scrub) = self.scrub.as_mut() else {
            return;
        };
        mark!(scrub_ends);
        scrub.report.state = state;
        scrub.report.took = now.saturating_sub(scrub.began);
        scrub.good = KVVec::new();
        self.act(Action::ScrubEnded);
    }
}

/// Notes which block is next. Whether that is another one.
fn scrub_moved(scrub: Option<&mut Scrub>, slot: usize, lbn: u64) -> bool {
    scrub.is_some_and(|scrub| {
        let before = core::mem::replace(&mut scrub.lbn, lbn);
        core::mem::replace(&mut scrub.slot, slot) != slot || before != lbn
    })
}
