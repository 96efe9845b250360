// SPDX-License-Identifier: GPL-2.0

//! What a diff keeps: ranges in which the primary changed nothing since an epoch that this replica has
//! in its history. Their blocks go from the volume to its shadow without a word to the primary.
//!
//! Nothing is applied meanwhile, so the volume stays as it is (`own.rs`). Each block is an op as one
//! that is told (`stage.rs`), and refers to the cluster that the volume refers to. A range that can't
//! be read, or a cluster that takes no more references, ends the diff: a full compare follows.

use super::mark::mark;
use super::mutant::mutant;
use super::op::{BlockContent, OpKind, Request};
use super::own::{Known, PATIENCE};
use super::replication::action::StageResult;
use super::replication::types::Entry;
use super::stage::{StageOp, STAGE_TAGS};
use super::state::Store;
use super::types::{Lbn, Millis, Status};

/// Ops of kept blocks at once: some are left for what is told.
const OPS_MAX: u32 = STAGE_TAGS / 4;
/// Blocks that are looked at before others have a turn.
const LOOKS_MAX: u32 = 2048;

/// A range that is kept.
pub(super) struct Keep {
    /// What the set calls it.
    token: u64,
    /// The volume, and its shadow.
    slot: usize,
    shadow: u32,
    /// The next block, and the one behind the last.
    lbn: u64,
    end: u64,
    /// Blocks that are on their way to the shadow.
    ops: u32,
    until: Millis,
}

impl Store {
    /// Begins to keep a range. False: not now.
    pub(super) fn begin_keep(&mut self, token: u64, entry: &Entry) -> bool {
        let shadow = match self.shadow_of(&entry.volume) {
            Ok(shadow) => shadow,
            Err(true) => return false,
            Err(false) => {
                self.report_stage(token, StageResult::Failed);
                return true;
            }
        };
        let is_it = |slot: &usize| self.shown(*slot).is_some_and(|v| v.uuid == entry.volume);
        let slot = (0..self.volumes.len()).find(is_it);
        let end = entry.lbn.saturating_add(entry.count);
        let Some(slot) = slot.filter(|_| end <= self.blocks_of(shadow)) else {
            mark!(member_keep_of_no_volume);
            self.report_stage(token, StageResult::Lacks);
            return true;
        };
        let keep = Keep {
            token,
            slot,
            shadow: shadow as u32,
            lbn: entry.lbn,
            // It may have become larger since.
            end: end.min(self.blocks_of(slot)),
            ops: 0,
            until: self.now + PATIENCE,
        };
        let keeps = self.member.as_mut().map(|m| &mut m.keeps);
        keeps.is_none_or(|keeps| keeps.reserve(1).is_ok() && keeps.push(keep).is_ok())
    }

    /// Goes on with the ranges, oldest first, until a page has to be read. True: one is done.
    pub(super) fn keep_step(&mut self) -> bool {
        let Some(member) = self.member.as_ref().filter(|m| !m.keeps.is_empty()) else {
            return false;
        };
        let (mut ops, mut looks) = (member.keeps.iter().map(|k| k.ops).sum(), 0);
        for at in 0..member.keeps.len() {
            if !self.keep_blocks(at, &mut ops, &mut looks) {
                break;
            }
        }
        let mut done = false;
        loop {
            let Some(keeps) = self.member.as_mut().map(|m| &mut m.keeps) else {
                return done;
            };
            if keeps.first().is_none_or(|k| k.lbn < k.end || k.ops > 0) {
                return done;
            }
            if let Some(keep) = keeps.pop_front() {
                mark!(member_range_kept);
                self.report_stage(keep.token, StageResult::Held);
                done = true;
            }
        }
    }

    fn keep_at(&mut self, at: usize) -> Option<&mut Keep> {
        self.member.as_mut()?.keeps.get_mut(at)
    }

    /// Begins with blocks of a range. True: with all of them.
    fn keep_blocks(&mut self, at: usize, ops: &mut u32, looks: &mut u32) -> bool {
        while *ops < OPS_MAX && *looks < LOOKS_MAX {
            let Some(&mut Keep {
                token,
                slot,
                shadow,
                lbn,
                end,
                until,
                ..
            }) = self.keep_at(at)
            else {
                return false;
            };
            if lbn >= end {
                return true;
            }
            *looks += 1;
            let mapped = match self.known_at(slot, lbn) {
                Known::Nothing(next) => Some((next, None)),
                Known::Entry(entry) if !entry.is_mapped() || mutant!(265) => Some((lbn + 1, None)),
                Known::Entry(entry) => self.name_now(entry.cluster).map(|name| {
                    let content = BlockContent {
                        name,
                        check: entry.check,
                        zero: false,
                    };
                    (lbn + 1, Some(content))
                }),
                Known::Wait => None,
            };
            let Some((next, content)) = mapped else {
                if self.now >= until {
                    mark!(member_kept_range_unknown);
                    self.report_stage(token, StageResult::Lacks);
                }
                return false;
            };
            if let Some(content) = content {
                let request = Request {
                    tag: 0,
                    kind: OpKind::Write,
                    volume: shadow,
                    lbn: Lbn(lbn),
                    count: 1,
                    fua: false,
                };
                if !self.begin_stage_op(StageOp::keep(token), request, &[content]) {
                    return false;
                }
                *ops += 1;
            }
            let until = self.now + PATIENCE;
            if let Some(keep) = self.keep_at(at) {
                keep.ops += u32::from(content.is_some());
                keep.lbn = next;
                keep.until = until;
            }
        }
        false
    }

    /// A block of a range is in the shadow, or can't be.
    pub(super) fn kept(&mut self, token: u64, status: Status) {
        let keeps = self.member.as_mut().map(|m| &mut m.keeps);
        let Some(keeps) = keeps else {
            return;
        };
        // Tokens ascend.
        let at = keeps.partition_point(|k| k.token < token);
        if let Some(keep) = keeps.get_mut(at).filter(|k| k.token == token) {
            keep.ops = keep.ops.saturating_sub(1);
        }
        if status != Status::Ok {
            self.report_stage(token, StageResult::Failed);
        }
    }
}
