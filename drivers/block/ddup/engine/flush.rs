// SPDX-License-Identifier: GPL-2.0

//! FLUSH, FUA and the commit interval: when the journal is written, and who that completes.
//!
//! All that arrive while a block is being written share the next one.

use super::event::Event;
use super::journal::Commit;
use super::mark::mark;
use super::mutant::mutant;
use super::op::{Phase, WaitList};
use super::recover::FailReason;
use super::state::{IoToken, Mode, Store};
use super::types::{Status, Tag};
use super::{Action, Buf, Cluster, Durability};

/// Tries to write a journal block before the store becomes read-only.
const JOURNAL_TRIES: u32 = 3;

impl Store {
    /// A FLUSH: everything that was acknowledged before it came has its record appended by now.
    pub(super) fn run_flush(&mut self, tag: Tag) {
        self.stats.flushes += 1;
        if self.failed.is_some() && !self.config.read_only {
            return self.finish(tag, Status::Io);
        }
        let volume = self.ops.get(tag).map_or(0, |op| op.request.volume);
        if self.tells_lost(volume) {
            return self.finish(tag, Status::Io);
        }
        if self.member.is_some() {
            return self.flush_set(tag);
        }
        let last = self.journal.last_sequence();
        if last <= self.journal.durable() || mutant!(4) {
            mark!(flush_without_news);
            return self.finish(tag, Status::Ok);
        }
        if let Some(op) = self.ops.get_mut(tag) {
            op.sequence = last;
        }
        self.wait_for_commit(tag);
    }

    /// Lets a request wait until the journal block that it names is durable.
    pub(super) fn wait_for_commit(&mut self, tag: Tag) {
        self.stop_listening(tag);
        if self.member.is_some() {
            return self.flush_set(tag);
        }
        let Some(op) = self.ops.get_mut(tag) else {
            return;
        };
        if self.failed.is_some() {
            return self.finish(tag, Status::Io);
        }
        let sequence = op.sequence;
        if sequence <= self.journal.durable() {
            return self.finish(tag, Status::Ok);
        }
        op.phase = Phase::Commit;
        let key = op.key;
        if key != 0 {
            self.tell(Event::Waits { key, sequence });
        }
        self.journal.want(sequence);
        self.ops.park(&mut self.commit_wait, tag);
    }

    /// Writes the next journal block, if somebody wants one.
    pub(super) fn commit(&mut self) {
        if !self.is_writable() {
            return;
        }
        if self.journal_blocked {
            return self.checkpointer.want();
        }
        let identity = self.identity();
        match self.journal.commit(&identity) {
            Commit::Write(cluster, buf, durability) => {
                if !self.journal.has_open_records() {
                    // What is written quickly has still to be vouched for.
                    let quick = durability == Durability::AllTogether;
                    self.open_since = quick.then_some(self.now);
                }
                self.journal_retries = 0;
                self.write_journal(cluster, buf, durability);
            }
            Commit::RingFull => self.checkpointer.want(),
            Commit::Idle => {}
        }
    }

    fn write_journal(&mut self, cluster: Cluster, buf: Buf, durability: Durability) {
        if durability == Durability::AllTogether {
            mark!(journal_written_quickly);
        }
        self.tell(Event::JournalBlock {
            sequence: self.journal.sequence_in_flight().unwrap_or(0),
            cluster,
            bytes: buf.len() as u64,
            records: self.journal.records_in_flight(),
            quick: durability == Durability::AllTogether,
        });
        self.act(Action::WriteMeta {
            token: IoToken::Journal,
            cluster,
            buf,
            durability,
        });
    }

    /// A request that waits for nothing but the block in flight.
    pub(super) fn hand_over_commit(&mut self) -> Option<Tag> {
        let sequence = self.journal.sequence_in_flight()?;
        let tag = self.commit_wait.first()?;
        let op = self.ops.get_mut(tag)?;
        if op.sequence > sequence {
            return None;
        }
        op.handed_over = true;
        mark!(commit_handed_over);
        let tag = self.ops.unpark(&mut self.commit_wait)?;
        self.ops.park(&mut self.committing, tag);
        Some(tag)
    }

    /// A journal block is durable, or its write failed.
    pub(super) fn journal_done(&mut self, buf: Buf, ok: bool) {
        if !ok && !mutant!(32) {
            while let Some(tag) = self.ops.unpark(&mut self.committing) {
                if let Some(op) = self.ops.get_mut(tag) {
                    op.handed_over = false;
                }
                self.ops.park(&mut self.commit_wait, tag);
            }
            self.journal_retries += 1;
            if self.journal_retries < JOURNAL_TRIES {
                if let Some((cluster, durability)) = self.journal.in_flight() {
                    mark!(journal_write_retried);
                    return self.write_journal(cluster, buf, durability);
                }
            }
            self.journal.lost(buf);
            mark!(journal_given_up);
            self.fail(FailReason::Journal);
            let waiting = core::mem::take(&mut self.commit_wait);
            return self.fail_waiting(waiting);
        }
        self.journal.written(buf);
        while let Some(tag) = self.ops.unpark(&mut self.committing) {
            self.finish(tag, Status::Ok);
        }
        self.ends_durable();
        let durable = self.journal.durable();
        let mut waiting = core::mem::take(&mut self.commit_wait);
        let mut done = WaitList::new();
        self.ops.take_where(&mut waiting, &mut done, |op| {
            op.sequence <= durable + u64::from(mutant!(21))
        });
        self.commit_wait = waiting;
        while let Some(tag) = self.ops.unpark(&mut done) {
            if self
                .ops
                .get(tag)
                .is_some_and(|op| op.phase == Phase::Commit)
            {
                self.finish(tag, Status::Ok);
            }
        }
    }

    /// The commit interval: entries of plain writes become durable at last, and what was written
    /// quickly is vouched for.
    pub(super) fn commit_if_due(&mut self) -> bool {
        let due = self
            .open_since
            .is_some_and(|at| self.now >= at + self.config.knobs.commit_interval);
        if due {
            // What is not sealed would not count.
            self.seal_epoch();
            self.open_since = None;
            self.journal.want_vouched(self.journal.last_sequence());
            mark!(commit_interval_ends);
            self.commit();
        }
        due
    }

    /// A record was appended and applied.
    pub(super) fn note_change(&mut self) {
        self.open_since.get_or_insert(self.now);
        self.dirty_since.get_or_insert(self.now);
        self.exhausted = false;
    }

    /// Whether the store may change anything on disk.
    pub(super) fn is_writable(&self) -> bool {
        matches!(self.mode, Mode::Attached | Mode::Detaching)
    }
}
