// SPDX-License-Identifier: GPL-2.0

//! The recycler: turns Junk into clusters that may be handed out again. One batch at a time.
//!
//! ```text
//!  Junk --retire record appended--> Retired --record vouched for, older reads ended-->
//!       --[discards, then a FLUSH]--> Erased: handed out again
//! ```
//!
//! What this store misses, or a peer that is connected, is given to who misses it first, unless space is
//! short (`heal.rs`). It is passed over, for a second at most: nothing waits for a peer.
//!
//! Only what the last durable checkpoint shows as Junk is retired, and only without unmerged
//! changes and holds: a cluster with a delta in either set is left alone. From the record on no
//! look-up finds the cluster (its index entry goes and the overlay voids its name), so nothing
//! comes back after Junk. Until the batch ends its clusters are pending: a merge may already show
//! them as Available, but they are not handed out.
//!
//! After a batch the recycler rests for a multiple of the time that it scanned and discarded; it
//! does not rest while anybody waits for space.

use super::event::Life;
use super::format::journal::{self as codec, Record, SMALL_RECORD_MAX};
use super::format::page::{name_read, CountEntry, COUNT_LEAF, NAME_LEAF};
use super::mark::mark;
use super::mutant::mutant;
use super::op::Reservation;
use super::recover::FailReason;
use super::show::{lines, Plain};
use super::state::{IoToken, Mode, Store};
use super::tree::Page;
use super::types::{Cluster, Millis, SEGMENT_CLUSTERS};
use super::Action;
use core::fmt;
use kernel::prelude::*;

/// Runs of clusters in a batch.
const BATCH_RUNS: usize = 512;
/// Discards with the shell at once.
const DISCARDS_MAX: u32 = 16;
/// Stretches of one name leaf and one count leaf that one step looks at.
const STEP_STRETCHES: usize = 16;

/// How far the batch has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// There is none.
    Idle,
    /// Looking for junk, appending retire records.
    Scan,
    /// Waiting until the records up to this journal sequence are vouched for: recovery never ends
    /// the journal before them, even if it finds damaged data.
    Commit(u64),
    /// Waiting for the reads of this epoch.
    Drain(usize),
    /// Discarding, from this run of the batch on.
    Discard(usize),
    /// Waiting for the FLUSH behind the discards.
    Flush,
}

/// The recycler's batch.
pub struct Recycler {
    stage: Stage,
    batch: KVec<(Cluster, u64)>,
    cursor: u64,
    /// Clusters that the scan has still to pass.
    left: u64,
    discards: u32,
    /// Space is short: retire whatever the age, and commit at once.
    pressed: bool,
    /// When its present work began, scanning or discarding.
    since: Millis,
    /// For how long it has worked at this batch.
    worked: Millis,
    /// It rests until then.
    rest_until: Millis,
}

impl Recycler {
    /// An empty batch.
    pub(super) fn new() -> Result<Recycler> {
        Ok(Recycler {
            stage: Stage::Idle,
            batch: KVec::with_capacity(BATCH_RUNS, GFP_KERNEL)?,
            cursor: 0,
            left: 0,
            discards: 0,
            pressed: false,
            since: 0,
            worked: 0,
            rest_until: 0,
        })
    }

    /// Whether it is between two batches.
    fn may_rest(&self) -> bool {
        matches!(self.stage, Stage::Idle | Stage::Scan) && self.batch.is_empty() && !self.pressed
    }

    /// Whether a batch is under way, or one was asked for.
    pub(super) fn is_busy(&self) -> bool {
        self.stage != Stage::Idle || self.pressed
    }

    /// Whether somebody waits for what it does.
    pub(super) fn is_pressed(&self) -> bool {
        self.pressed
    }

    /// What it shows of itself.
    pub(super) fn show(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        lines!(out,
            "stage": Plain(self.stage),
            "batch_runs": self.batch.len(),
            "batch_clusters": self.batch.iter().map(|&(_, count)| count).sum::<u64>(),
            "cursor": self.cursor,
            "left_of_round": self.left,
            "discards": self.discards,
            "pressed": u8::from(self.pressed),
            "worked": self.worked,
            "rests_until": self.rest_until,
        );
        Ok(())
    }

    /// Space is short: retire what can be retired, now.
    pub(super) fn press(&mut self) {
        self.pressed = true;
    }

    /// Whether a cluster was retired by a batch that has not ended.
    pub(super) fn is_pending(&self, cluster: Cluster) -> bool {
        self.batch
            .iter()
            .any(|&(first, count)| cluster.0 >= first.0 && cluster.0 < first.0 + count)
    }
}

impl Store {
    /// One bounded step. True: more can be done now.
    pub(super) fn recycler_step(&mut self) -> bool {
        if self.recycler_rest().is_some() {
            return false;
        }
        match self.recycler.stage {
            Stage::Idle => self.start_batch(),
            Stage::Scan => self.scan_step(),
            Stage::Commit(sequence) => {
                if self.journal.vouched() < sequence && !mutant!(12) {
                    if self.recycler.pressed || self.mode != Mode::Attached {
                        self.journal.want_vouched(sequence);
                        self.commit();
                    }
                    return false;
                }
                let epoch = self.read_epoch;
                self.read_epoch = 1 - epoch;
                self.recycler.stage = Stage::Drain(epoch);
                mark!(batch_drains_reads);
                true
            }
            Stage::Drain(epoch) => {
                if self.reads.get(epoch).is_some_and(|&reads| reads > 0) && !mutant!(13) {
                    return false;
                }
                self.recycler.stage = Stage::Discard(0);
                self.recycler.since = self.now;
                true
            }
            Stage::Discard(next) => self.discard_step(next),
            Stage::Flush => false,
        }
    }

    /// Until when the recycler rests, if it does.
    pub(super) fn recycler_rest(&self) -> Option<Millis> {
        let calm = self.mode == Mode::Attached
            && self.space_wait.is_empty()
            && self.metadata_wait.is_empty()
            && self.recycler.may_rest();
        let until = self.recycler.rest_until;
        (calm && self.now < until).then_some(until)
    }

    /// A part of the recycler's work has ended: the longer it took, the longer is the rest.
    fn note_work(&mut self) {
        let took = self.now.saturating_sub(self.recycler.since);
        self.recycler.since = self.now;
        self.recycler.worked = self.recycler.worked.saturating_add(took);
    }

    fn begin_rest(&mut self) {
        self.note_work();
        let worked = core::mem::take(&mut self.recycler.worked);
        let rest = worked.saturating_mul(self.config.knobs.tranquility);
        self.recycler.rest_until = self.now.saturating_add(rest);
        if rest > 0 {
            mark!(recycler_rests);
        }
        // What follows begins when the rest ends.
        self.recycler.since = self.recycler.rest_until;
    }

    fn start_batch(&mut self) -> bool {
        let short = self.space.free < self.config.knobs.keep_erased;
        if self.mode != Mode::Attached || self.space.junk == 0 || !(short || self.recycler.pressed)
        {
            self.recycler.pressed = false;
            return false;
        }
        if !self.recycler.pressed && self.now < self.recycle_after {
            return false;
        }
        if self.load_keeps_junk(self.recycler.pressed) {
            return false;
        }
        if self.is_frozen() {
            if !self.recycler.pressed {
                return false;
            }
            self.end_frozen();
        }
        self.recycler.stage = Stage::Scan;
        self.recycler.since = self.now;
        self.recycler.left = self.superblock.layout.clusters + SEGMENT_CLUSTERS;
        true
    }

    /// Retires the junk of some stretches; ends when the batch is full or the lap is done.
    fn scan_step(&mut self) -> bool {
        for _ in 0..STEP_STRETCHES {
            if self.recycler.left == 0 || self.recycler.batch.len() + 64 > BATCH_RUNS {
                return self.end_scan();
            }
            let at = self.recycler.cursor;
            let segment = Cluster(at).segment();
            let segment_end = (at / SEGMENT_CLUSTERS + 1) * SEGMENT_CLUSTERS;
            let junk = self.space.segment(segment).map(|s| s.entry.junk);
            let end = match junk {
                None => {
                    self.recycler.cursor = 0;
                    continue;
                }
                Some(0) => segment_end,
                Some(_) => {
                    let end = segment_end
                        .min((at / NAME_LEAF + 1) * NAME_LEAF)
                        .min((at / COUNT_LEAF + 1) * COUNT_LEAF);
                    match self.retire_stretch(at, end) {
                        Some(true) => end,
                        // No room for more records: commit these.
                        Some(false) => return self.end_scan(),
                        None => return false,
                    }
                }
            };
            self.recycler.cursor = end;
            self.recycler.left = self.recycler.left.saturating_sub(end - at);
        }
        true
    }

    /// Retires the junk in `from..to`, which lies in one leaf of each tree. `None`: wait for a
    /// page; false: no room.
    fn retire_stretch(&mut self, from: u64, to: u64) -> Option<bool> {
        // What a frozen state refers to may have become junk since.
        if self.is_frozen() {
            return Some(true);
        }
        let counts = match self.page(&self.counts.clone(), from, 0) {
            Page::Here(slot) => slot,
            Page::Absent(_) => return Some(true),
            Page::Wait(slot) => {
                self.background_page = Some(slot);
                return None;
            }
            Page::Busy => return None,
        };
        let (mut wanted, mut any) = ([false; COUNT_LEAF as usize], false);
        let now = self.attached_seconds();
        for cluster in from..to {
            let entry = CountEntry::read(self.cache.page(counts), cluster % COUNT_LEAF);
            let CountEntry::Junk { since } = entry else {
                continue;
            };
            let old = self.recycler.pressed || since + self.config.knobs.gc_delay <= now;
            let changed = self.overlay.deltas(Cluster(cluster)) != [None, None];
            let held = self.holds.get(cluster).is_some() && !mutant!(14);
            if old && (!changed || mutant!(15)) && !held {
                any = true;
                if let Some(w) = wanted.get_mut((cluster - from) as usize) {
                    *w = true;
                }
            }
        }
        if !any {
            return Some(true);
        }
        let names = match self.page(&self.names.clone(), from, 0) {
            Page::Here(slot) => Some(slot),
            Page::Absent(_) => None,
            Page::Wait(slot) => {
                self.background_page = Some(slot);
                return None;
            }
            Page::Busy => return None,
        };
        if let (Some(names), true) = (names, self.misses_any() && !self.recycler.pressed) {
            for (cluster, wanted) in (from..to).zip(&mut wanted).filter(|(_, wanted)| **wanted) {
                let name = name_read(self.cache.page(names), cluster % NAME_LEAF);
                *wanted = !self.spares_junk(&name, Cluster(cluster));
            }
        }
        let total = (to - from) as usize;
        let want = Reservation {
            deltas: total,
            pages: self.overlay.worst_pages(1, 1),
            ..Reservation::default()
        };
        let deltas = self.reserved.deltas + total;
        if !self.fits_overlay(&want, false)
            || self
                .overlay
                .reserve(self.reserved.points, deltas, self.reserved.punches)
                .is_err()
            || !self.journal.reserve(total * SMALL_RECORD_MAX, false)
        {
            self.checkpointer.want();
            mark!(retire_finds_no_room);
            return Some(false);
        }
        let mut at = 0;
        while at < total {
            if !wanted.get(at).copied().unwrap_or(false) {
                at += 1;
                continue;
            }
            let first = at;
            while wanted.get(at).copied().unwrap_or(false) && at < total {
                let cluster = Cluster(from + at as u64);
                if let Some(names) = names {
                    let name = name_read(self.cache.page(names), cluster.0 % NAME_LEAF);
                    if !mutant!(16) {
                        self.index.remove(&name, cluster);
                    }
                }
                if self.overlay.retire(cluster, false).is_err() {
                    self.fail(FailReason::Promise);
                    return None;
                }
                at += 1;
            }
            let (cluster, count) = (Cluster(from + first as u64), (at - first) as u64);
            let identity = self.identity();
            let record = Record::Retire { cluster, count };
            if !mutant!(17) {
                let _ = self.journal.append(&identity, SMALL_RECORD_MAX, |buf, at| {
                    codec::write_small(buf, at, &record)
                });
            }
            self.open_since.get_or_insert(self.now);
            self.dirty_since.get_or_insert(self.now);
            self.stats.clusters_retired += count;
            let _ = self.recycler.batch.push_within_capacity((cluster, count));
            self.tell_life(Life::Retired, cluster, count);
        }
        self.journal.unreserve(total * SMALL_RECORD_MAX);
        Some(true)
    }

    fn end_scan(&mut self) -> bool {
        if self.recycler.batch.is_empty() {
            self.recycler.stage = Stage::Idle;
            self.recycler.pressed = false;
            self.recycle_after = self.now + 1000;
            self.begin_rest();
            return false;
        }
        self.note_work();
        self.recycler.stage = Stage::Commit(self.journal.last_sequence());
        true
    }

    fn discard_step(&mut self, next: usize) -> bool {
        if self.config.knobs.discard {
            if let Some(&(cluster, count)) = self.recycler.batch.get(next) {
                if self.recycler.discards < DISCARDS_MAX {
                    self.recycler.discards += 1;
                    self.recycler.stage = Stage::Discard(next + 1);
                    mark!(batch_discards);
                    self.act(Action::DiscardRun {
                        token: IoToken::Discard,
                        cluster,
                        count,
                    });
                    return true;
                }
                return false;
            }
            if self.recycler.discards == 0 {
                self.recycler.stage = Stage::Flush;
                self.act(Action::Flush {
                    token: IoToken::RecyclerFlush,
                });
            }
            return false;
        }
        self.end_batch();
        true
    }

    /// A discard or the FLUSH behind them ended. A device that fails a discard keeps old data,
    /// which is no harm.
    pub(super) fn recycler_io_done(&mut self, token: IoToken, ok: bool) {
        match token {
            IoToken::Discard => {
                self.recycler.discards = self.recycler.discards.saturating_sub(1);
            }
            _ if !ok => self.fail(FailReason::Flush),
            _ => self.end_batch(),
        }
    }

    fn end_batch(&mut self) {
        let mut batch = core::mem::take(&mut self.recycler.batch);
        for &(first, count) in batch.iter() {
            for cluster in first.0..first.0 + count {
                self.overlay.set_erased(Cluster(cluster));
                self.space.add_erased(Cluster(cluster));
            }
            self.tell_life(Life::Erased, first, count);
        }
        batch.clear();
        self.recycler.batch = batch;
        mark!(batch_ends);
        self.begin_rest();
        self.exhausted = false;
        let lap_done = self.recycler.left == 0;
        self.recycler.stage = if lap_done { Stage::Idle } else { Stage::Scan };
        if lap_done {
            self.recycler.pressed = false;
        }
    }
}
