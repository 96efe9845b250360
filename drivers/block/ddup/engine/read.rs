// SPDX-License-Identifier: GPL-2.0

//! A read: look-up block by block, verified by the shell against the check of the map entry.

use super::event::Life;
use super::format::journal::{self as codec, Record, SMALL_RECORD_MAX};
use super::format::page::{MapEntry, MAP_LEAF};
use super::mark::mark;
use super::op::{BlockState, Phase};
use super::overlay::Lookup;
use super::state::Store;
use super::tree::Page;
use super::types::{Cluster, Lbn, Status, Tag};
use super::{Action, DataResult};

/// Tries to read a block before the request fails.
const READ_TRIES: u8 = 3;

impl Store {
    /// Looks up each block of a read, as far as pages are here.
    pub(super) fn run_read(&mut self, tag: Tag) {
        let Some((request, count)) = self
            .ops
            .get(tag)
            .map(|op| (op.request, op.blocks.len() as u32))
        else {
            return;
        };
        if self.run_look(tag) || self.run_scrub(tag) {
            return;
        }
        let slot = request.volume as usize;
        let mut zeroes = 0;
        for block in 0..count {
            let state = self.ops.block(tag, block).map(|b| b.state);
            if state == Some(BlockState::Bad) {
                self.zero_blocks(tag, block, &mut zeroes);
                if !self.begin_heal(tag, block) {
                    return self.settle_read(tag);
                }
                continue;
            }
            if state != Some(BlockState::Start) {
                self.zero_blocks(tag, block, &mut zeroes);
                continue;
            }
            let lbn = Lbn(request.lbn.0 + u64::from(block));
            let Some(entry) = self.look_up(tag, slot, lbn) else {
                self.zero_blocks(tag, block, &mut zeroes);
                return self.settle_read(tag);
            };
            self.stats.blocks_read += 1;
            let Some(op) = self.ops.get_mut(tag) else {
                return;
            };
            let Some(b) = op.blocks.get_mut(block as usize) else {
                return;
            };
            if entry.is_mapped() {
                b.state = BlockState::Io;
                b.cluster = entry.cluster;
                b.content.check = entry.check;
                op.io += 1;
                self.zero_blocks(tag, block, &mut zeroes);
                let (cluster, check) = (entry.cluster, entry.check);
                self.act(Action::ReadBlock {
                    tag,
                    block,
                    cluster,
                    check,
                });
            } else {
                b.state = BlockState::Done;
                op.todo -= 1;
                zeroes += 1;
            }
        }
        self.zero_blocks(tag, count, &mut zeroes);
        self.settle_read(tag);
    }

    /// The blocks before `end` that read as zeroes.
    fn zero_blocks(&mut self, tag: Tag, end: u32, zeroes: &mut u32) {
        let count = core::mem::take(zeroes);
        if count > 0 {
            self.act(Action::ZeroBlocks {
                tag,
                block: end - count,
                count,
            });
        }
    }

    /// A block's entry, or `None` if the request waits for a page.
    pub(super) fn look_up(&mut self, tag: Tag, slot: usize, lbn: Lbn) -> Option<MapEntry> {
        if let Lookup::Entry(entry) = self.overlay.lookup(slot, lbn) {
            return Some(entry);
        }
        let tree = self.map(slot)?;
        match self.page(&tree, lbn.0, 0) {
            Page::Here(page) => Some(MapEntry::read(self.cache.page(page), lbn.0 % MAP_LEAF)),
            Page::Absent(_) => Some(MapEntry::NONE),
            Page::Wait(page) => {
                self.cache.wait(page, &mut self.ops, tag);
                None
            }
            Page::Busy => {
                self.ops.park(&mut self.page_wait, tag);
                None
            }
        }
    }

    /// A block was read, or not.
    pub(super) fn read_done(&mut self, tag: Tag, block: u32, result: DataResult) {
        let heals = result == DataResult::Mismatch && self.may_miss();
        let Some(op) = self.ops.get_mut(tag) else {
            return;
        };
        let Some(b) = op.blocks.get_mut(block as usize) else {
            return;
        };
        if b.state != BlockState::Io {
            return;
        }
        op.io -= 1;
        if result == DataResult::Ok {
            b.state = BlockState::Done;
            op.todo -= 1;
            return;
        }
        op.handed_over = false;
        b.retries += 1;
        if b.retries < READ_TRIES {
            b.state = BlockState::Start;
        } else if heals {
            b.state = BlockState::Bad;
        } else {
            b.state = BlockState::Failed;
            op.todo -= 1;
            let mismatch = result == DataResult::Mismatch;
            op.status = if mismatch { Status::Medium } else { Status::Io };
            let cluster = b.cluster;
            if mismatch {
                self.quarantine(cluster);
            }
        }
        if result == DataResult::Mismatch {
            self.stats.check_mismatches += 1;
            mark!(check_mismatch);
        }
        self.wake(tag);
    }

    /// A cluster whose content failed its check takes no more owners and is never used again.
    /// Journaled if there is room; else (false) the next read finds it again.
    pub(super) fn quarantine(&mut self, cluster: Cluster) -> bool {
        let known = self
            .overlay
            .deltas(cluster)
            .iter()
            .flatten()
            .any(|d| d.quarantined);
        if known || !self.is_writable() {
            return known;
        }
        let points = self.reserved.points;
        let room = self
            .overlay
            .reserve(points, self.reserved.deltas + 1, self.reserved.punches);
        if room.is_err() || !self.journal.reserve(SMALL_RECORD_MAX, false) {
            return false;
        }
        let identity = self.identity();
        let record = Record::Quarantine { cluster };
        let appended = self.journal.append(&identity, SMALL_RECORD_MAX, |buf, at| {
            codec::write_small(buf, at, &record)
        });
        self.journal.unreserve(SMALL_RECORD_MAX);
        let done = appended.is_ok() && self.overlay.quarantine(cluster).is_ok();
        if done {
            self.note_change();
            self.stats.clusters_quarantined += 1;
            self.tell_life(Life::Quarantined, cluster, 1);
            mark!(cluster_quarantined);
        }
        done
    }

    /// Completes a read, or hands it over.
    pub(super) fn settle_read(&mut self, tag: Tag) {
        if self.settle_scrub(tag) {
            return;
        }
        let Some(op) = self.ops.get_mut(tag) else {
            return;
        };
        if op.phase != Phase::Running {
            return;
        }
        if op.todo == 0 {
            let status = op.status;
            return self.finish(tag, status);
        }
        if op.io == op.todo && !op.handed_over {
            if op.status != Status::Ok {
                return self.listen(tag);
            }
            op.handed_over = true;
            self.act(Action::CompleteAfterIo { tag });
        }
    }
}
