// SPDX-License-Identifier: GPL-2.0

//! What a state object shows of itself: text, a line of `name: value` for each thing.
//!
//! For people who look for the reason of something, not for programs: what there is may change with
//! the code. Each object writes its own lines, in its own file; nothing here takes longer than
//! printing some lines, so the shell may call it under its lock. What is large ([`requests`], slots
//! of the cache, segments) is copied or counted in pieces instead.
//!
//! [`requests`]: super::Engine::request_state

use super::cache::SlotState;
use super::op::{BlockState, OpKind, Phase};
use super::state::Store;
use super::types::{Lbn, Millis, Tag, SEGMENT_CLUSTERS};
use core::fmt::{self, Write};

/// A state object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Object {
    /// The store as a whole, and who waits for what.
    Store,
    /// The refcount journal.
    Journal,
    /// The checkpoint that runs, and the last one.
    Checkpoint,
    /// Changes that the trees do not show yet.
    Overlay,
    /// Space: who gets which cluster.
    Space,
    /// The index, and its load and rebuild.
    Index,
    /// The recycler.
    Recycler,
    /// The scrub that goes on, or the last one.
    Scrub,
    /// The checkpoint that is kept for somebody.
    Pin,
    /// The membership in a replica set.
    Member,
}

/// A request in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestState {
    /// Its handle.
    pub tag: Tag,
    /// What it asks for.
    pub kind: OpKind,
    /// Slot of the volume.
    pub volume: u32,
    /// First block.
    pub lbn: Lbn,
    /// Blocks.
    pub count: u64,
    /// Only durable it is done.
    pub fua: bool,
    /// Where it stands.
    pub phase: Phase,
    /// The shell completes it when its I/O ends.
    pub handed_over: bool,
    /// Blocks that are neither done nor failed.
    pub todo: u32,
    /// Blocks whose data I/O is with the shell.
    pub io: u32,
    /// Blocks that wait for a cluster.
    pub starved: u32,
    /// The journal block that it waits for, 0 if none.
    pub sequence: u64,
    /// Since when it is there.
    pub since: Millis,
}

impl fmt::Display for RequestState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "slot {} {:?} volume {} lbn {} count {} fua {} phase {:?} handed_over {} todo {} io {} \
             starved {} sequence {} since {}",
            self.tag,
            self.kind,
            self.volume,
            self.lbn.0,
            self.count,
            u8::from(self.fua),
            self.phase,
            u8::from(self.handed_over),
            self.todo,
            self.io,
            self.starved,
            self.sequence,
            self.since
        )
    }
}

/// Slots of the metadata cache, by what their pages are good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SlotCounts {
    /// Hold no page.
    pub free: u64,
    /// Are being read.
    pub reading: u64,
    /// Equal the page on disk.
    pub clean: u64,
    /// Were changed by the running checkpoint.
    pub dirty: u64,
    /// Are being written.
    pub writing: u64,
}

/// Segments by kind and state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SegmentCounts {
    /// Superblocks, journal, segment table.
    pub fixed: u64,
    /// For pages of the trees.
    pub metadata: u64,
    /// For data, all of it free.
    pub fresh: u64,
    /// For data, some of it free.
    pub part: u64,
    /// For data, none of it free.
    pub full: u64,
    /// Those of data that have junk.
    pub junk: u64,
    /// Those of data with clusters that were handed out and not journaled yet.
    pub in_flight: u64,
}

/// Writes lines of `name: value`.
macro_rules! lines {
    ($out:expr, $($name:literal: $value:expr),+ $(,)?) => {{
        $(core::writeln!($out, core::concat!($name, ": {}"), $value)?;)+
    }};
}
pub(super) use lines;

/// A value that may be missing, as text.
pub(super) struct Maybe<T>(pub(super) Option<T>);

impl<T: fmt::Display> fmt::Display for Maybe<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("none"),
        }
    }
}

/// Text of what can only be debugged.
pub(super) struct Plain<T>(pub(super) T);

impl<T: fmt::Debug> fmt::Display for Plain<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Store {
    /// Writes what an object shows of itself.
    pub(super) fn show(&self, object: Object, out: &mut dyn Write) -> fmt::Result {
        match object {
            Object::Store => self.show_itself(out),
            Object::Journal => self.journal.show(out),
            Object::Checkpoint => {
                let last = &self.superblock.checkpoint;
                lines!(out,
                    "durable": last.number,
                    "durable_generation": last.generation.0,
                    "superblock_generation": self.superblock.generation,
                    "dirty_since": Maybe(self.dirty_since),
                );
                self.checkpointer.show(out)
            }
            Object::Overlay => self.overlay.show(out),
            Object::Space => self.space.show(out),
            Object::Index => {
                lines!(out,
                    "bytes": self.index.bytes(),
                    "buckets": self.index.buckets(),
                    "entries": self.index.used(),
                    "room": self.index.capacity(),
                    "loaded": self.stats.index_loaded,
                    "misled": self.stats.index_misled,
                    "rebuild_cursor": self.rebuild_cursor,
                );
                self.copier.show(out)
            }
            Object::Recycler => {
                lines!(out,
                    "junk": self.space.junk,
                    "retired": self.stats.clusters_retired,
                    "looks_again": self.recycle_after,
                );
                self.recycler.show(out)
            }
            Object::Member => self.show_member(out),
            Object::Scrub => match &self.scrub {
                Some(scrub) => scrub.show(out),
                None => {
                    lines!(out, "state": "none");
                    Ok(())
                }
            },
            Object::Pin => match &self.pin {
                Some(pin) => pin.show(out),
                None => {
                    lines!(out, "held": 0);
                    Ok(())
                }
            },
        }
    }

    fn show_itself(&self, out: &mut dyn Write) -> fmt::Result {
        lines!(out,
            "now": self.now,
            "mode": Plain(self.mode),
            "failed": Maybe(self.failed),
            "attached_seconds": self.attached_seconds(),
            "requests": self.ops.in_flight,
            "waits_for_admission": u8::from(!self.admission.is_empty()),
            "waits_for_space": u8::from(!self.space_wait.is_empty()),
            "waits_for_metadata": u8::from(!self.metadata_wait.is_empty()),
            "waits_for_page": u8::from(!self.page_wait.is_empty()),
            "waits_for_commit": u8::from(!self.commit_wait.is_empty()),
            "waits_for_twin": self.twins,
            "waits_for_early_writes": u8::from(self.early.is_followed()),
            "early_writes": self.early.writes(),
            "hash_locks": self.locks.len(),
            "holds": self.holds.len(),
            "reads": self.reads.iter().sum::<u32>(),
            "read_epoch": self.read_epoch,
            "promised_bytes": self.reserved.bytes,
            "promised_points": self.reserved.points,
            "promised_deltas": self.reserved.deltas,
            "promised_punches": self.reserved.punches,
            "promised_pages": self.reserved.pages,
            "pages_max": self.pages_max(),
            "exhausted": u8::from(self.exhausted),
            "space_rounds": self.space_rounds,
            "open_since": Maybe(self.open_since),
            "next_deadline": Maybe(self.next_deadline()),
            "eager": u8::from(self.is_eager()),
            "change_of_volumes": u8::from(self.change.is_some()),
            "observed": u8::from(self.observer.is_some()),
        );
        Ok(())
    }

    /// The request of a tag, if there is one in flight.
    pub(super) fn request_state(&self, tag: Tag) -> Option<RequestState> {
        let op = self.ops.get(tag).filter(|op| op.phase != Phase::Idle)?;
        let starved = |b: &&super::op::Block| b.state == BlockState::NoCluster;
        Some(RequestState {
            tag,
            kind: op.request.kind,
            volume: op.request.volume,
            lbn: op.request.lbn,
            count: op.request.count,
            fua: op.request.fua,
            phase: op.phase,
            handed_over: op.handed_over,
            todo: op.todo,
            io: op.io,
            starved: op.blocks.iter().filter(starved).count() as u32,
            sequence: if op.phase == Phase::Commit {
                op.sequence
            } else {
                0
            },
            since: op.since,
        })
    }

    /// Counts some slots of the cache, from `from` on; false if there are none.
    pub(super) fn count_slots(&self, from: u32, count: u32, sum: &mut SlotCounts) -> bool {
        for slot in from..from.saturating_add(count) {
            let Some(slot) = self.cache.slot(slot) else {
                return slot > from;
            };
            let place = match slot.state {
                SlotState::Free => &mut sum.free,
                SlotState::Reading => &mut sum.reading,
                SlotState::Clean => &mut sum.clean,
                SlotState::Dirty => &mut sum.dirty,
                SlotState::Writing => &mut sum.writing,
            };
            *place += 1;
        }
        true
    }

    /// Counts some segments, from `from` on; false if there are none.
    pub(super) fn count_segments(
        &self,
        from: usize,
        count: usize,
        sum: &mut SegmentCounts,
    ) -> bool {
        use super::format::page::SegmentKind;
        let segments = self.space.segments();
        let end = segments.len().min(from.saturating_add(count));
        let Some(some) = segments.get(from..end).filter(|some| !some.is_empty()) else {
            return false;
        };
        for s in some {
            let place = match (s.entry.kind, u64::from(s.free)) {
                (SegmentKind::Metadata, _) => &mut sum.metadata,
                (SegmentKind::Data, 0) => &mut sum.full,
                (SegmentKind::Data, SEGMENT_CLUSTERS) => &mut sum.fresh,
                (SegmentKind::Data, _) => &mut sum.part,
                _ => &mut sum.fixed,
            };
            *place += 1;
            sum.junk += u64::from(s.entry.kind == SegmentKind::Data && s.entry.junk > 0);
            sum.in_flight += u64::from(s.in_flight > 0);
        }
        true
    }
}
