// SPDX-License-Identifier: GPL-2.0

//! A write: from the look-up of its content to the record in the journal.
//!
//! Functions stand in the order in which a block meets them. A plain write is acknowledged
//! (`early.rs`) when all that is missing is its data on disk; then its records are appended without
//! fail. The record of a block is appended only when its data is there, or will never be.

use super::event::{Decision, Life};
use super::format::journal::{self as codec, map_bytes_max, MapChange, Record};
use super::format::journal::{MAP_RUN_MAX, SMALL_RECORD_MAX};
use super::format::page::{name_read, MapEntry, MAP_LEAF, NAME_LEAF};
use super::mark::mark;
use super::mutant::mutant;
use super::op::{block_id, block_of, BlockState, OpKind, Phase, NO_TWIN};
use super::state::{is_shareable, Store};
use super::tree::Page;
use super::types::{Cluster, Generation, Lbn, Name, Status, Tag};
use super::{Action, DataResult};

/// Tries to write a block's data before the request fails.
const WRITE_TRIES: u8 = 3;

/// What became of a block.
enum Step {
    /// Go on with the next one.
    Next,
    /// The request waits for a page.
    Wait,
}

/// What a candidate of the index turned out to be.
enum Confirmed {
    /// It holds the content.
    Same,
    /// It does not.
    Other,
    /// The bytes have to be compared.
    Compare,
    /// The request waits for a page.
    Wait,
}

/// Neighbouring blocks that go to neighbouring clusters.
#[derive(Clone, Copy, Default)]
struct Run {
    block: u32,
    count: u32,
    cluster: Cluster,
}

impl Store {
    /// Takes each block of a write as far as it gets.
    pub(super) fn run_write(&mut self, tag: Tag) {
        if self.run_repair(tag) || self.ends_void(tag) || self.is_lacking(tag) {
            return;
        }
        let count = self.ops.get(tag).map_or(0, |op| op.blocks.len() as u32);
        let refuses = self.failed.is_some()
            || self.is_refusing() && self.ops.get(tag).is_some_and(|op| op.stage.is_none());
        let mut run = Run::default();
        for block in 0..count {
            let state = self.ops.block(tag, block).map(|b| b.state);
            let step = match state {
                Some(BlockState::Start | BlockState::NoCluster) if refuses => {
                    self.fail_block(tag, block, Status::Io);
                    Step::Next
                }
                Some(BlockState::Start) => self.place(tag, block, &mut run),
                Some(BlockState::NoCluster) => self.write_fresh(tag, block, &mut run),
                _ => Step::Next,
            };
            if matches!(step, Step::Wait) {
                break;
            }
        }
        self.emit_run(tag, run);
        self.append_ready(tag);
        self.settle_write(tag);
    }

    /// Finds a cluster that holds a block's content, or takes the hash lock and a fresh one.
    fn place(&mut self, tag: Tag, block: u32, run: &mut Run) -> Step {
        if !self.judge_candidate(tag, block) {
            return Step::Wait;
        }
        let Some(&b) = self.ops.block(tag, block) else {
            return Step::Next;
        };
        if b.content.zero {
            self.set_state(tag, block, BlockState::Ready, Cluster::NONE);
            return Step::Next;
        }
        let name = b.content.name;
        if !b.alone {
            // In a full compare it is most likely the same as before.
            let Some(own) = self.own_copy(tag) else {
                return Step::Wait;
            };
            let same = match own {
                Cluster::NONE => Confirmed::Other,
                // Nobody else has a good copy, for all that the primary knows.
                _ if self.takes_own(tag) => Confirmed::Same,
                _ => self.confirm(tag, &name, own),
            };
            match same {
                Confirmed::Same => {
                    mark!(member_keeps_its_own_copy);
                    self.set_state(tag, block, BlockState::Ready, own);
                    return Step::Next;
                }
                Confirmed::Wait => return Step::Wait,
                Confirmed::Other | Confirmed::Compare => {}
            }
        }
        if b.alone || !is_shareable(&name) {
            if self.lacks(tag) {
                return Step::Wait;
            }
            return self.write_fresh(tag, block, run);
        }
        let (candidates, count) = self.index.lookup(&name);
        for &cluster in candidates.iter().take(count).skip(b.passed.into()) {
            match self.confirm(tag, &name, cluster) {
                Confirmed::Same => {
                    self.index.hit(&name, cluster);
                    self.set_state(tag, block, BlockState::Ready, cluster);
                    return Step::Next;
                }
                Confirmed::Compare => {
                    if self.hold(cluster) {
                        self.set_state(tag, block, BlockState::Compare, cluster);
                        mark!(compare_begins);
                        self.act(Action::CompareBlock {
                            tag,
                            block,
                            cluster,
                        });
                        return Step::Next;
                    }
                }
                Confirmed::Other => self.stats.index_misled += 1,
                Confirmed::Wait => return Step::Wait,
            }
        }
        self.lock_name(tag, block, run)
    }

    /// Whether a cluster holds the content of this name, as far as names can tell.
    fn confirm(&mut self, tag: Tag, name: &Name, cluster: Cluster) -> Confirmed {
        if !self
            .overlay
            .has_headroom(cluster, self.config.knobs.count_full)
        {
            return Confirmed::Other;
        }
        let fast = !self.superblock.fingerprint.is_cryptographic();
        // The index holds no retired cluster, so the bytes of a hit may be compared.
        if fast && self.overlay.name(cluster).is_none() {
            return Confirmed::Compare;
        }
        let Some(known) = self.name_of(tag, cluster) else {
            return Confirmed::Wait;
        };
        if known != *name {
            // The entry of a name that looks the same there stays.
            if !self.index.confuses(name, &known) {
                self.index.remove(name, cluster);
                mark!(index_entry_stale);
            }
            Confirmed::Other
        } else if fast && !mutant!(1) {
            Confirmed::Compare
        } else {
            Confirmed::Same
        }
    }

    /// The name of a cluster, or `None` if the request waits for a page.
    pub(super) fn name_of(&mut self, tag: Tag, cluster: Cluster) -> Option<Name> {
        if let Some(known) = self.overlay.name(cluster) {
            return Some(known);
        }
        match self.page(&self.names.clone(), cluster.0, 0) {
            Page::Here(slot) => Some(name_read(self.cache.page(slot), cluster.0 % NAME_LEAF)),
            Page::Absent(_) => Some(Name::NONE),
            Page::Wait(slot) => {
                self.cache.wait(slot, &mut self.ops, tag);
                None
            }
            Page::Busy => {
                self.ops.park(&mut self.page_wait, tag);
                None
            }
        }
    }

    /// The bytes of a cluster that the index offered differ. If its name is the block's own, the
    /// names collide, and nothing may share the block; else only the index took them for equal.
    /// False: the request waits for a page.
    fn judge_candidate(&mut self, tag: Tag, block: u32) -> bool {
        let Some(&b) = self.ops.block(tag, block) else {
            return true;
        };
        if b.cluster == Cluster::NONE || b.alone {
            return true;
        }
        let Some(known) = self.name_of(tag, b.cluster) else {
            return false;
        };
        let collides = known == b.content.name;
        if let Some(b) = self.ops.block_mut(tag, block) {
            b.cluster = Cluster::NONE;
            b.passed = b.passed.saturating_add(1);
            if collides {
                b.content.name = Name::NONE;
            }
        }
        if collides {
            self.stats.collisions += 1;
            mark!(names_collide);
        } else {
            self.stats.index_misled += 1;
            mark!(index_entries_confused);
        }
        true
    }

    /// Content that no cluster holds: waits for the block that is writing it, or becomes that.
    fn lock_name(&mut self, tag: Tag, block: u32, run: &mut Run) -> Step {
        let id = block_id(tag, block);
        let Some(name) = self.ops.block(tag, block).map(|b| b.content.name) else {
            return Step::Next;
        };
        if let Some(owner_id) = self.locks.get(name.hash()) {
            let (owner_tag, owner_block) = block_of(owner_id);
            if let Some(owner) = self.ops.block_mut(owner_tag, owner_block) {
                let staged = (owner.state == BlockState::Staged).then_some(owner.cluster);
                if let (true, Some(cluster)) = (owner.content.name == name, staged) {
                    if self.may_share_staged(tag) {
                        mark!(member_stage_shares_staged);
                        self.set_state(tag, block, BlockState::Ready, cluster);
                        return Step::Next;
                    }
                } else if owner.content.name == name {
                    mark!(hash_lock_waits);
                    let next = core::mem::replace(&mut owner.twin, id);
                    if let Some(b) = self.ops.block_mut(tag, block) {
                        b.twin = next;
                        b.state = BlockState::Twin;
                        self.twins += 1;
                    }
                    return Step::Next;
                }
            }
            // Another name with the same hash, or what no record may refer to yet: this one does
            // without the lock.
            if self.lacks(tag) {
                return Step::Wait;
            }
        } else if self.lacks(tag) {
            return Step::Wait;
        } else if self.locks.insert(name.hash(), id).is_ok() {
            if let Some(b) = self.ops.block_mut(tag, block) {
                b.owner = true;
            }
        }
        self.write_fresh(tag, block, run)
    }

    /// Takes a cluster for a block and lets its data be written there.
    fn write_fresh(&mut self, tag: Tag, block: u32, run: &mut Run) -> Step {
        // A write that was acknowledged has kept that of a try that failed.
        let failed = match self.ops.get(tag).filter(|op| op.early) {
            Some(op) => op
                .blocks
                .get(block as usize)
                .map_or(Cluster::NONE, |b| b.cluster),
            None => Cluster::NONE,
        };
        let Some(cluster) = self.allocate() else {
            let patient = self.config.knobs.wait_for_space && failed == Cluster::NONE;
            if self.exhausted && !patient {
                mark!(no_cluster_at_all);
                self.give_up_block(tag, block, Status::NoSpace);
            } else {
                self.set_state(tag, block, BlockState::NoCluster, failed);
            }
            return Step::Next;
        };
        if failed != Cluster::NONE {
            self.space.settled(failed);
        }
        if self.is_lost(tag) {
            self.set_state(tag, block, BlockState::ReadyFresh, cluster);
            return Step::Next;
        }
        self.set_state(tag, block, BlockState::Io, cluster);
        if let Some(op) = self.ops.get_mut(tag) {
            op.io += 1;
        }
        let follows = run.count > 0
            && run.block + run.count == block
            && run.cluster.0 + u64::from(run.count) == cluster.0;
        if follows {
            run.count += 1;
        } else {
            self.emit_run(tag, *run);
            *run = Run {
                block,
                count: 1,
                cluster,
            };
        }
        Step::Next
    }

    fn emit_run(&mut self, tag: Tag, run: Run) {
        if run.count > 0 {
            let Run {
                block,
                count,
                cluster,
            } = run;
            self.tell_life(Life::Allocated, cluster, count.into());
            let handle = self.ops.get(tag).and_then(|op| op.stage?.handle);
            if let Some(handle) = handle {
                return self.act(Action::StageWrite {
                    tag,
                    handle,
                    cluster,
                });
            }
            self.tell_decided(tag, block, count, Decision::New, cluster);
            self.act(Action::WriteRun {
                tag,
                block,
                count,
                cluster,
            });
        }
    }

    /// A free data cluster.
    fn allocate(&mut self) -> Option<Cluster> {
        for _ in 0..4 {
            if let Some((cluster, _)) = self.space.take(1) {
                return Some(cluster);
            }
            self.space_step();
            if !self.space.has_cluster() {
                break;
            }
        }
        None
    }

    /// Data I/O of a request ended.
    pub(super) fn data_done(&mut self, tag: Tag, block: u32, count: u32, result: DataResult) {
        match self.ops.get(tag).map(|op| (op.request.kind, op.phase)) {
            Some((OpKind::Read, Phase::Running)) => {
                for block in block..block.saturating_add(count) {
                    self.read_done(tag, block, result);
                }
                self.settle_read(tag);
            }
            Some((OpKind::Write, Phase::Running)) => {
                for block in block..block.saturating_add(count) {
                    self.write_done(tag, block, result);
                }
                self.append_ready(tag);
                self.settle_write(tag);
            }
            _ => {}
        }
    }

    fn write_done(&mut self, tag: Tag, block: u32, result: DataResult) {
        let Some(&b) = self.ops.block(tag, block) else {
            return;
        };
        match (b.state, result) {
            (BlockState::Io, result) => {
                if let Some(op) = self.ops.get_mut(tag) {
                    op.io -= 1;
                }
                if result == DataResult::Ok || mutant!(31) {
                    return self.set_state(tag, block, BlockState::ReadyFresh, b.cluster);
                }
                self.stats.write_retries += 1;
                mark!(data_write_fails);
                let early = self.ops.get(tag).is_some_and(|op| op.early);
                if !early {
                    self.space.settled(b.cluster);
                }
                if let Some(op) = self.ops.get_mut(tag) {
                    op.handed_over = false;
                }
                if b.retries + 1 >= WRITE_TRIES {
                    mark!(data_write_given_up);
                    return self.give_up_block(tag, block, Status::Io);
                }
                // A write that was acknowledged keeps it until it has another one.
                let kept = if early { b.cluster } else { Cluster::NONE };
                if let Some(b) = self.ops.block_mut(tag, block) {
                    b.retries += 1;
                }
                self.set_state(tag, block, BlockState::NoCluster, kept);
                self.wake(tag);
            }
            (BlockState::Compare, result) => {
                self.unhold(b.cluster);
                if result == DataResult::Equal {
                    self.index.hit(&b.content.name, b.cluster);
                    return self.set_state(tag, block, BlockState::Ready, b.cluster);
                }
                if let Some(b) = self.ops.block_mut(tag, block) {
                    b.state = BlockState::Start;
                    // Of a cluster that can't be read nothing is known.
                    b.alone = result != DataResult::Differs;
                }
                self.wake(tag);
            }
            _ => {}
        }
    }

    /// Journals and applies all blocks whose content is in a cluster, in runs that share a map
    /// leaf and a name leaf.
    pub(super) fn append_ready(&mut self, tag: Tag) {
        if self.stage_ready(tag) {
            return;
        }
        let Some((first, volume_slot)) = self
            .ops
            .get(tag)
            .map(|op| (op.request.lbn, op.request.volume as usize))
        else {
            return;
        };
        let count = self.ops.get(tag).map_or(0, |op| op.blocks.len() as u32);
        let mut block = 0;
        while block < count {
            let Some(&head) = self.ops.block(tag, block) else {
                return;
            };
            if !matches!(head.state, BlockState::Ready | BlockState::ReadyFresh) {
                block += 1;
                continue;
            }
            let request = self.ops.get(tag).is_some_and(|op| op.stage.is_none());
            let room = match request {
                true => self.make_epoch_room(),
                false => usize::MAX,
            };
            let mut end = block + 1;
            while end < count && ((end - block) as usize) < MAP_RUN_MAX.min(room) {
                let Some(&next) = self.ops.block(tag, end) else {
                    break;
                };
                let lbn = first.0 + u64::from(end);
                let together = next.state == head.state
                    && lbn % MAP_LEAF != 0
                    && next.lost == head.lost
                    && (next.cluster == Cluster::NONE) == (head.cluster == Cluster::NONE)
                    && next.cluster.0 / NAME_LEAF == head.cluster.0 / NAME_LEAF;
                if !together {
                    break;
                }
                end += 1;
            }
            self.append_run(
                tag,
                volume_slot,
                Lbn(first.0 + u64::from(block)),
                block,
                end,
            );
            block = end;
        }
    }

    pub(super) fn append_run(&mut self, tag: Tag, slot: usize, lbn: Lbn, block: u32, end: u32) {
        let Some((volume, levels)) = self.volumes.get(slot).map(|v| (v.id, v.levels)) else {
            return;
        };
        let Some(&head) = self.ops.block(tag, block) else {
            return;
        };
        let fresh = head.state == BlockState::ReadyFresh;
        let count = end - block;
        let request = self.ops.get(tag).is_some_and(|op| op.stage.is_none());
        let local = self.is_heal(tag);
        let request = request || local && mutant!(97);
        if request && self.member.is_some() && !self.record_run(tag, slot, lbn, block..end) {
            return self.refuse_run(tag, block, end);
        }
        let identity = self.identity();
        let ops = &self.ops;
        let appended = if head.cluster == Cluster::NONE {
            let record = Record::Unmap {
                volume,
                lbn,
                count: count.into(),
                more: false,
            };
            self.journal.append(&identity, SMALL_RECORD_MAX, |buf, at| {
                codec::write_small(buf, at, &record)
            })
        } else {
            let mut changes = (block..end).filter_map(|i| {
                ops.block(tag, i).map(|b| MapChange {
                    cluster: b.cluster,
                    check: b.content.check,
                    name: b.content.name,
                })
            });
            self.journal
                .append(&identity, map_bytes_max(count as usize), |buf, at| {
                    codec::write_map(buf, at, volume, lbn, fresh, local, &mut changes)
                })
        };
        let Ok(sequence) = appended else {
            return self.fail(super::FailReason::Promise);
        };
        if fresh && (self.is_lost(tag) || head.lost) {
            self.journal.make_plain();
        }
        if !fresh {
            let decision = match head.cluster {
                Cluster::NONE => Decision::Zero,
                _ => Decision::Duplicate,
            };
            self.tell_decided(tag, block, count, decision, head.cluster);
        }
        self.note_change();
        self.overlay.note_record();
        let birth = match mutant!(8) {
            true => Generation(0),
            false => self.checkpointer.generation(),
        };
        for i in block..end {
            let Some(&b) = self.ops.block(tag, i) else {
                return;
            };
            let entry = match b.cluster {
                // A leaf of nothing else has no page.
                Cluster::NONE => MapEntry::NONE,
                cluster => MapEntry {
                    cluster,
                    birth,
                    check: b.content.check,
                },
            };
            let lbn = Lbn(lbn.0 + u64::from(i - block));
            let mut applied = self.overlay.set(slot, lbn, entry, levels);
            if applied.is_ok() && fresh {
                applied = self.overlay.set_name(b.cluster, b.content.name);
            }
            if applied.is_err() {
                return self.fail(super::FailReason::Promise);
            }
            if let Some(op) = self.ops.get_mut(tag) {
                op.sequence = sequence;
                op.todo -= 1;
                if let Some(b) = op.blocks.get_mut(i as usize) {
                    b.state = BlockState::Done;
                }
            }
            self.stats.blocks_written += 1;
            if fresh {
                self.stats.blocks_fresh += 1;
                self.space.settled(b.cluster);
                if is_shareable(&b.content.name) && !b.lost {
                    self.index.insert(&b.content.name, b.cluster);
                }
            } else if b.cluster == Cluster::NONE {
                self.stats.blocks_zero += 1;
            } else {
                self.stats.blocks_duplicate += 1;
            }
        }
        // Only now: blocks of this very request may be among the twins.
        for i in block..end {
            if fresh {
                let cluster = self.ops.block(tag, i).map(|b| b.cluster);
                self.unlock_name(tag, i, cluster.filter(|_| !head.lost));
                if let Some(cluster) = cluster.filter(|_| head.lost) {
                    self.quarantine(cluster);
                }
            }
        }
    }

    /// The reign has ended: blocks whose content is in clusters are part of no epoch. Those that were
    /// written for them may be handed out again.
    fn refuse_run(&mut self, tag: Tag, block: u32, end: u32) {
        mark!(member_write_after_the_reign);
        for i in block..end {
            let Some(&b) = self.ops.block(tag, i) else {
                return;
            };
            self.fail_block(tag, i, Status::Io);
            if b.state == BlockState::ReadyFresh {
                self.give_back(b.cluster);
            }
        }
    }

    /// The owner of a hash lock is done with it: its content is in `cluster`, or will not be.
    pub(super) fn unlock_name(&mut self, tag: Tag, block: u32, cluster: Option<Cluster>) {
        let Some(b) = self.ops.block_mut(tag, block) else {
            return;
        };
        let mut twin = core::mem::replace(&mut b.twin, NO_TWIN);
        let name = b.content.name;
        if !core::mem::take(&mut b.owner) {
            return;
        }
        self.locks.remove(name.hash());
        let fast = !self.superblock.fingerprint.is_cryptographic();
        while twin != NO_TWIN {
            let (tag, block) = block_of(twin);
            let Some(b) = self.ops.block_mut(tag, block) else {
                return;
            };
            twin = core::mem::replace(&mut b.twin, NO_TWIN);
            self.twins -= 1;
            b.state = BlockState::Start;
            match cluster {
                // What was just written is known to be equal; bytes are compared by the look-up.
                // Journaled at once: until then nothing would keep the cluster.
                Some(cluster) if !fast => {
                    b.state = BlockState::Ready;
                    b.cluster = cluster;
                    self.append_ready(tag);
                }
                _ => {}
            }
            if !mutant!(2) {
                self.wake(tag);
            }
        }
    }

    /// A block will not be written. Those that wait for its content try by themselves.
    pub(super) fn fail_block(&mut self, tag: Tag, block: u32, status: Status) {
        self.unlock_name(tag, block, None);
        let Some(op) = self.ops.get_mut(tag) else {
            return;
        };
        op.status = status;
        let (early, volume) = (op.early, op.request.volume);
        if let Some(b) = op.blocks.get_mut(block as usize) {
            if !matches!(b.state, BlockState::Done | BlockState::Failed) {
                b.state = BlockState::Failed;
                op.todo -= 1;
                if early {
                    self.note_lost(volume);
                }
            }
        }
    }

    /// Completes a write, hands it over, or lets it wait.
    fn settle_write(&mut self, tag: Tag) {
        if self.settle_stage(tag) {
            return;
        }
        let Some(op) = self.ops.get_mut(tag) else {
            return;
        };
        if op.phase != Phase::Running {
            return;
        }
        let (todo, io, status, fua) = (op.todo, op.io, op.status, op.request.fua);
        if todo == 0 {
            if status == Status::Ok && fua && op.sequence > self.journal.durable() && !mutant!(3) {
                return self.wait_for_commit(tag);
            }
            return self.finish(tag, status);
        }
        let waits = io != todo && !(mutant!(30) && io > 0);
        if !waits {
            let early = op.early || (!fua && status == Status::Ok && self.acknowledge(tag));
            if !early {
                self.listen(tag);
            }
            return;
        }
        let starved = op.blocks.iter().any(|b| b.state == BlockState::NoCluster);
        if starved {
            if self.exhausted {
                self.release_starved(tag);
            }
            self.ops.park(&mut self.space_wait, tag);
        }
    }

    /// A write that only waits for clusters gives back its promise, and its hash locks, so that
    /// others of the same content wait by themselves. It will start anew with what is left of it.
    pub(super) fn release_starved(&mut self, tag: Tag) {
        let waits = |state| matches!(state, BlockState::NoCluster);
        if self.ops.get(tag).is_some_and(|op| op.early) {
            return;
        }
        let over = |state| matches!(state, BlockState::Done | BlockState::Failed);
        let Some(op) = self.ops.get_mut(tag) else {
            return;
        };
        let only = op.blocks.iter().all(|b| waits(b.state) || over(b.state));
        if !only || op.phase != Phase::Running {
            return;
        }
        op.phase = Phase::Admission;
        for block in 0..op.blocks.len() as u32 {
            if self.ops.block(tag, block).is_some_and(|b| waits(b.state)) {
                self.unlock_name(tag, block, None);
                self.set_state(tag, block, BlockState::Start, Cluster::NONE);
            }
        }
        self.release_reservation(tag);
    }

    /// Fails all blocks that wait for a cluster: there is none to be had.
    pub(super) fn fail_starved(&mut self) {
        let mut list = core::mem::take(&mut self.space_wait);
        while let Some(tag) = self.ops.unpark(&mut list) {
            let count = self.ops.get(tag).map_or(0, |op| op.blocks.len() as u32);
            for block in 0..count {
                if self
                    .ops
                    .block(tag, block)
                    .is_some_and(|b| b.state == BlockState::NoCluster)
                {
                    self.give_up_block(tag, block, Status::NoSpace);
                }
            }
            self.wake(tag);
        }
    }

    fn set_state(&mut self, tag: Tag, block: u32, state: BlockState, cluster: Cluster) {
        if let Some(b) = self.ops.block_mut(tag, block) {
            b.state = state;
            b.cluster = cluster;
        }
    }
}
