// SPDX-License-Identifier: GPL-2.0

//! The metadata cache: pages of the trees in a bounded number of slots. One per store.
//!
//! Pages are found by what they are (tree, level, index) and reached from their parents, so a
//! look-up starts at the lowest ancestor that is here and reads downwards from there. Only the
//! checkpoint changes pages. A page that it changed stays until it is written; a parent of such a
//! page stays too, since it will hold the new pointer. Other pages leave when a slot is needed,
//! those that were not used lately first (CLOCK).

use super::buf::zeroed;
use super::format::page::{PageId, Pointer, FANOUT};
use super::op::{Ops, WaitList};
use super::types::CLUSTER_SIZE;
use super::Buf;
use kernel::prelude::*;

/// A slot of the cache.
pub type SlotId = u32;
const NIL: u32 = u32::MAX;

/// What a slot's page is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotState {
    /// Holds no page.
    Free,
    /// Its buffer is with the shell, to be filled.
    Reading,
    /// Equals the page on disk.
    Clean,
    /// Changed by the running checkpoint and not written yet; stays.
    Dirty,
    /// A copy of it is being written; may be read, stays.
    Writing,
}

/// One cached page.
pub struct Slot {
    /// Which page.
    pub id: PageId,
    /// Where it lies on disk; null if it was never written.
    pub pointer: Pointer,
    /// Its content; taken out while it is read.
    pub page: Buf,
    /// What it is good for.
    pub state: SlotState,
    /// Tries to read it.
    pub tries: u8,
    used_lately: bool,
    next: u32,
    waiters: WaitList,
}

/// A tree as the cache walks it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tree {
    /// Its id in the pages.
    pub id: u32,
    /// Pointer to its root; null if it is empty.
    pub root: Pointer,
    /// Levels, leaf included.
    pub levels: u8,
    /// Entries of a leaf.
    pub leaf: u64,
    /// Pages and entries with a later birth are owned by this tree.
    pub parent_generation: u32,
}

impl Tree {
    /// The page of `level` on the path to `entry`.
    pub fn page_at(&self, entry: u64, level: u8) -> PageId {
        let mut index = entry.checked_div(self.leaf).unwrap_or(0);
        for _ in 0..level {
            index /= FANOUT;
        }
        PageId {
            tree: self.id,
            level,
            index,
        }
    }

    /// The first entry behind the page of `level` on the path to `entry`.
    pub fn end_of(&self, entry: u64, level: u8) -> u64 {
        let mut span = self.leaf;
        for _ in 0..level {
            span *= FANOUT;
        }
        (entry.checked_div(span).unwrap_or(0) + 1) * span
    }
}

/// How far a look-up came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Walk {
    /// The page is here.
    Here(SlotId),
    /// No page; the tree is empty from the entry looked up to this one, which is not included.
    Absent(u64),
    /// This page has to be read first; it may be on its way already.
    Read(PageId, Pointer),
    /// This slot is being read.
    Reading(SlotId),
}

/// The metadata cache.
pub struct Cache {
    slots: KVVec<Slot>,
    /// Heads of the chains of slots, by hash of the page's id.
    heads: KVVec<u32>,
    limit: usize,
    hand: usize,
    free: u32,
}

fn hash(id: PageId) -> u64 {
    let mixed = id.index ^ u64::from(id.tree) << 32 ^ u64::from(id.level) << 28;
    mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Cache {
    /// A cache of at most `pages` pages (at least 64). Page memory is taken as it is needed.
    pub fn new(pages: u32) -> Result<Cache> {
        let limit = pages.max(64) as usize;
        Ok(Cache {
            slots: KVVec::with_capacity(limit, GFP_KERNEL | __GFP_NOWARN)?,
            heads: KVVec::from_elem(NIL, limit.next_power_of_two(), GFP_KERNEL | __GFP_NOWARN)?,
            limit,
            hand: 0,
            free: NIL,
        })
    }

    /// The most pages that the cache holds.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Pages in the cache.
    pub fn pages(&self) -> usize {
        self.slots.len()
    }

    fn head(&self, id: PageId) -> usize {
        (hash(id) >> 32) as usize & (self.heads.len() - 1)
    }

    /// The slot of a page, in whatever state.
    pub fn find(&self, id: PageId) -> Option<SlotId> {
        let mut at = self.heads.get(self.head(id)).copied().unwrap_or(NIL);
        while let Some(slot) = self.slots.get(at as usize) {
            if slot.id == id {
                return Some(at);
            }
            at = slot.next;
        }
        None
    }

    /// A slot in use.
    pub fn slot(&self, slot: SlotId) -> Option<&Slot> {
        self.slots.get(slot as usize)
    }

    /// A slot in use, to change it.
    pub fn slot_mut(&mut self, slot: SlotId) -> Option<&mut Slot> {
        self.slots.get_mut(slot as usize)
    }

    /// The page in a slot; empty while it is read.
    pub fn page(&self, slot: SlotId) -> &[u8] {
        self.slots.get(slot as usize).map_or(&[], |s| &s.page)
    }

    /// The page in a slot, to change it. Only for the checkpoint.
    pub fn page_mut(&mut self, slot: SlotId) -> &mut [u8] {
        match self.slots.get_mut(slot as usize) {
            Some(s) => &mut s.page,
            None => &mut [],
        }
    }

    /// Walks towards the page of `level` on the path to `entry`.
    pub fn walk(&mut self, tree: &Tree, entry: u64, level: u8) -> Walk {
        for at in level..tree.levels {
            let id = tree.page_at(entry, at);
            let Some(found) = self.find(id) else {
                continue;
            };
            let Some(slot) = self.slots.get_mut(found as usize) else {
                continue;
            };
            if slot.state == SlotState::Reading {
                return Walk::Reading(found);
            }
            slot.used_lately = true;
            if at == level {
                return Walk::Here(found);
            }
            let child = tree.page_at(entry, at - 1);
            let pointer = Pointer::of_child(&slot.page, child.index % FANOUT);
            if pointer.is_null() {
                return Walk::Absent(tree.end_of(entry, at - 1));
            }
            return Walk::Read(child, pointer);
        }
        if tree.root.is_null() {
            return Walk::Absent(u64::MAX);
        }
        Walk::Read(tree.page_at(entry, tree.levels - 1), tree.root)
    }

    /// Gives a page a slot: one that was never used, or that of a page that leaves. `None` if all
    /// must stay, or memory is short. The slot's page has the right length and any content.
    pub fn take_slot(&mut self, id: PageId, state: SlotState, pointer: Pointer) -> Option<SlotId> {
        let slot = self.vacant()?;
        let head = self.head(id);
        let next = self.heads.get(head).copied().unwrap_or(NIL);
        let s = self.slots.get_mut(slot as usize)?;
        s.id = id;
        s.pointer = pointer;
        s.state = state;
        s.used_lately = true;
        s.next = next;
        *self.heads.get_mut(head)? = slot;
        Some(slot)
    }

    fn vacant(&mut self) -> Option<SlotId> {
        if let Some(slot) = self.slots.get(self.free as usize) {
            if !slot.page.is_empty() {
                let found = self.free;
                self.free = slot.next;
                return Some(found);
            }
            // A failed read lost its buffer.
            let page = zeroed(CLUSTER_SIZE).ok()?;
            let found = self.free;
            let slot = self.slots.get_mut(found as usize)?;
            slot.page = page;
            self.free = slot.next;
            return Some(found);
        }
        if self.slots.len() < self.limit {
            if let Some(slot) = self.grow() {
                return Some(slot);
            }
        }
        for _ in 0..2 * self.slots.len() {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = self.slots.get_mut(at)?;
            if slot.state != SlotState::Clean {
                continue;
            }
            if core::mem::take(&mut slot.used_lately) {
                continue;
            }
            self.unlink(at as u32);
            return Some(at as u32);
        }
        None
    }

    fn grow(&mut self) -> Option<SlotId> {
        let page = zeroed(CLUSTER_SIZE).ok()?;
        let slot = Slot {
            id: PageId {
                tree: 0,
                level: 0,
                index: 0,
            },
            pointer: Pointer::NULL,
            page,
            state: SlotState::Free,
            tries: 0,
            used_lately: false,
            next: NIL,
            waiters: WaitList::new(),
        };
        self.slots.push_within_capacity(slot).ok()?;
        Some(self.slots.len() as u32 - 1)
    }

    fn unlink(&mut self, slot: SlotId) {
        let Some((id, next)) = self.slots.get(slot as usize).map(|s| (s.id, s.next)) else {
            return;
        };
        let head = self.head(id);
        let mut at = self.heads.get(head).copied().unwrap_or(NIL);
        if at == slot {
            if let Some(h) = self.heads.get_mut(head) {
                *h = next;
            }
            return;
        }
        while let Some(s) = self.slots.get_mut(at as usize) {
            if s.next == slot {
                s.next = next;
                return;
            }
            at = s.next;
        }
    }

    /// Drops a page that nobody needs any more. It must not be with the shell.
    pub fn release(&mut self, slot: SlotId) {
        self.unlink(slot);
        let free = self.free;
        if let Some(s) = self.slots.get_mut(slot as usize) {
            s.state = SlotState::Free;
            s.id = PageId {
                tree: 0,
                level: u8::MAX,
                index: 0,
            };
            s.next = free;
            self.free = slot;
        }
    }

    /// Lets a request wait until a slot's read ends.
    pub fn wait(&mut self, slot: SlotId, ops: &mut Ops, tag: u32) {
        if let Some(s) = self.slots.get_mut(slot as usize) {
            ops.park(&mut s.waiters, tag);
        }
    }

    /// Those that wait for a slot; the caller runs them.
    pub fn take_waiters(&mut self, slot: SlotId) -> WaitList {
        match self.slots.get_mut(slot as usize) {
            Some(s) => core::mem::take(&mut s.waiters),
            None => WaitList::new(),
        }
    }
}
