// SPDX-License-Identifier: GPL-2.0

//! Reading pages of the trees into the cache, and what becomes of those that can't be read.

use super::cache::{SlotId, SlotState, Tree, Walk};
use super::format::page::{self, PageError};
use super::mark::mark;
use super::op::{BlockState, OpKind, Phase};
use super::recover::FailReason;
use super::state::{IoToken, Store};
use super::types::{Status, Tag};
use super::{Action, Buf};

/// Where a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Page {
    /// In this slot.
    Here(SlotId),
    /// There is none; the tree is empty up to this entry, which is not included.
    Absent(u64),
    /// On its way into this slot.
    Wait(SlotId),
    /// It needs a slot, and all have to stay; or memory is short.
    Busy,
}

/// Tries to read a page before it counts as lost.
const READ_TRIES: u8 = 3;

impl Store {
    /// The page of `level` on the path to `entry`; starts to read what is missing on the way.
    pub(super) fn page(&mut self, tree: &Tree, entry: u64, level: u8) -> Page {
        match self.cache.walk(tree, entry, level) {
            Walk::Here(slot) => Page::Here(slot),
            Walk::Absent(end) => Page::Absent(end),
            Walk::Reading(slot) => Page::Wait(slot),
            Walk::Read(id, pointer) => {
                let Some(slot) = self.cache.take_slot(id, SlotState::Reading, pointer) else {
                    return Page::Busy;
                };
                if let Some(s) = self.cache.slot_mut(slot) {
                    let buf = core::mem::take(&mut s.page);
                    s.tries = 1;
                    self.stats.pages_read += 1;
                    self.act(Action::ReadMeta {
                        token: IoToken::PageRead(slot),
                        cluster: pointer.place,
                        buf,
                    });
                }
                Page::Wait(slot)
            }
        }
    }

    /// A page came.
    pub(super) fn page_read_done(&mut self, slot: SlotId, buf: Buf, ok: bool) {
        let (hash, uuid) = (self.config.hash, self.superblock.uuid);
        let clusters = self.superblock.layout.clusters;
        let Some(s) = self.cache.slot_mut(slot) else {
            return;
        };
        if s.state != SlotState::Reading {
            return;
        }
        let (id, pointer) = (s.id, s.pointer);
        let result = if ok {
            page::verify(&buf, hash, &uuid, id, pointer.place, Some(pointer.sum))
                .and_then(|()| page::validate_entries(&buf, id, clusters))
        } else {
            Err(PageError::Checksum)
        };
        if result.is_err() && s.tries < READ_TRIES {
            s.tries += 1;
            let token = IoToken::PageRead(slot);
            return self.act(Action::ReadMeta {
                token,
                cluster: pointer.place,
                buf,
            });
        }
        s.page = buf;
        if self.background_page == Some(slot) {
            self.background_page = None;
            if result.is_err() {
                self.fail(FailReason::Page {
                    id,
                    place: pointer.place,
                });
            }
        }
        let mut waiters = self.cache.take_waiters(slot);
        mark!(page_read_ends);
        if result.is_ok() {
            if let Some(s) = self.cache.slot_mut(slot) {
                s.state = SlotState::Clean;
            }
            self.wake_all(waiters);
        } else {
            self.cache.release(slot);
            while let Some(tag) = self.ops.unpark(&mut waiters) {
                self.page_lost(tag, ok);
            }
        }
        self.wake_page_waiters();
    }

    /// A slot became available: those that found none try again.
    pub(super) fn wake_page_waiters(&mut self) {
        let list = core::mem::take(&mut self.page_wait);
        self.wake_all(list);
    }

    /// A request needs a page that can't be read: its remaining blocks fail.
    fn page_lost(&mut self, tag: Tag, was_read: bool) {
        mark!(page_lost);
        let status = if was_read { Status::Medium } else { Status::Io };
        let Some(op) = self.ops.get_mut(tag) else {
            return;
        };
        if op.phase != Phase::Running {
            return;
        }
        if op.request.kind == OpKind::Write {
            // A name leaf: without it nothing is known to be a duplicate, so write.
            for b in op
                .blocks
                .iter_mut()
                .filter(|b| b.state == BlockState::Start)
            {
                b.alone = true;
            }
        } else {
            // What a bad block was found by is not known then.
            for b in op.blocks.iter_mut().filter(|b| b.state == BlockState::Bad) {
                b.alone = true;
            }
            let has = |state| op.blocks.iter().any(|b| b.state == state);
            if has(BlockState::Start) || !has(BlockState::Bad) {
                op.status = status;
            }
            for b in op
                .blocks
                .iter_mut()
                .filter(|b| b.state == BlockState::Start)
            {
                b.state = BlockState::Failed;
                op.todo = op.todo.saturating_sub(1);
            }
        }
        self.wake(tag);
    }
}
