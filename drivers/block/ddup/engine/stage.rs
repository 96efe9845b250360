// SPDX-License-Identifier: GPL-2.0

//! The replica's side of an epoch: each entry is *staged* (its content is found, or written to a
//! fresh cluster, and held), and an epoch whose entries are all staged is applied at once.
//!
//! A staged entry is an op like a request of one block, with a tag behind those of the shell. It goes
//! the way of a write up to where its record would be appended, and waits there. So its room is
//! promised, and applying it cannot fail. What is staged and not applied is as if it had never been:
//! its fresh clusters are available after a crash.
//!
//! Blocks of a full compare go on at once: they are written to the shadow of their volume, which
//! nobody reads before the switch (`resync.rs`). A range that a diff keeps is many of them (`keep.rs`).

use super::mark::mark;
use super::member::Member;
use super::mutant::mutant;
use super::op::{block_of, BlockContent, BlockState, OpKind, Phase, Request, NO_TWIN};
use super::recover::FailReason;
use super::replication::action::{Source, StageResult};
use super::replication::types::{Entry, Op, Position};
use super::show::lines;
use super::sorted::SortedMap;
use super::state::Store;
use super::types::{Check, Cluster, Lbn, Name, Status, Tag};
use super::Action;
use core::fmt;
use kernel::prelude::*;

/// Entries that are staged at once.
pub const STAGE_TAGS: u32 = 2048;

/// What an op is that is no request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// It stages an entry of an epoch.
    Entry,
    /// It is of a full compare: its record is appended at once.
    Compare,
    /// So is this, and the content is what the volume holds there (`keep.rs`).
    Keep,
    /// It heals a block: its record is local (`heal.rs`).
    Heal,
}

/// What an op that stages an entry, or heals a block, has beside a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StageOp {
    /// What the set calls the entry.
    pub(super) token: u64,
    /// The block that came with it.
    pub(super) handle: Option<u64>,
    kind: Kind,
    /// There is no good copy of the content.
    lost: bool,
    /// The primary was asked for the content. What was promised stays so: else what comes later in
    /// the stream could take the room that this one waits for.
    lacks: bool,
    /// Nobody wants it any more; it ends when it can.
    pub(super) void: bool,
}

/// Begins the keys of ops that are one of many of their entry; tokens are lower.
const KEYS_OF_KEPT: u64 = 1 << 63;

impl StageOp {
    fn new(token: u64, kind: Kind) -> Self {
        StageOp {
            token,
            handle: None,
            kind,
            lost: false,
            lacks: false,
            void: false,
        }
    }

    /// That of a heal.
    pub(super) fn heal(number: u64) -> Self {
        Self::new(number, Kind::Heal)
    }

    /// That of a block of a range that is kept.
    pub(super) fn keep(token: u64) -> Self {
        Self::new(token, Kind::Keep)
    }

    /// What finds the op, which has this tag.
    fn key(&self, tag: Tag) -> u64 {
        match self.kind {
            Kind::Keep => KEYS_OF_KEPT | u64::from(tag),
            Kind::Entry | Kind::Compare | Kind::Heal => self.token,
        }
    }

    /// Whether it changes its volume without waiting for the end of an epoch.
    pub(super) fn is_local(&self) -> bool {
        self.kind != Kind::Entry
    }

    /// Whether it heals a block.
    pub(super) fn is_heal(&self) -> bool {
        self.kind == Kind::Heal
    }

    /// Its content may be here by now: it is looked for as if that were new.
    pub(super) fn look_again(&mut self) {
        self.lacks = false;
    }

    /// The block has come.
    pub(super) fn give(&mut self, handle: u64) {
        self.handle = Some(handle);
        self.lacks = false;
    }
}

/// What is staged.
pub(super) struct Staging {
    free: KVec<Tag>,
    /// By key.
    tags: SortedMap<Tag>,
    /// Clusters that were written for staged entries and are in no record.
    fresh: SortedMap<()>,
    /// A change of volumes, by its token: nothing else is staged beside it.
    pub(super) change: Option<(u64, Entry)>,
}

impl Staging {
    pub(super) fn new(queue_depth: u32) -> Result<Self> {
        let mut free = KVec::with_capacity(STAGE_TAGS as usize, GFP_KERNEL)?;
        for tag in (queue_depth..queue_depth + STAGE_TAGS).rev() {
            let _ = free.push_within_capacity(tag);
        }
        let (mut tags, mut fresh) = (SortedMap::new(), SortedMap::new());
        tags.reserve(2 * STAGE_TAGS as usize)?;
        fresh.reserve(2 * STAGE_TAGS as usize)?;
        Ok(Staging {
            free,
            tags,
            fresh,
            change: None,
        })
    }
}

impl Store {
    fn staging(&mut self) -> Option<&mut Staging> {
        self.member.as_mut().map(|m| &mut m.staging)
    }

    fn stage_of(&self, tag: Tag) -> Option<StageOp> {
        self.ops.get(tag)?.stage
    }

    /// Begins to stage an entry. False: not now.
    pub(super) fn begin_stage(
        &mut self,
        token: u64,
        entry: &Entry,
        source: Source,
        resync: bool,
    ) -> bool {
        if entry.op.changes_volumes() {
            self.stage_change(token, entry);
            return true;
        }
        if entry.op == Op::Keep {
            return self.begin_keep(token, entry);
        }
        let is_it = |v: &super::format::page::VolumeEntry| v.uuid == entry.volume && v.is_shown();
        let slot = match resync {
            true => match self.shadow_of(&entry.volume) {
                Ok(shadow) => Some(shadow),
                Err(true) => return false,
                Err(false) => None,
            },
            false => self.volumes.iter().position(is_it),
        };
        let end = entry.lbn.saturating_add(entry.count);
        let Some(slot) = slot.filter(|slot| end <= self.blocks_of(*slot)) else {
            mark!(member_stage_of_no_volume);
            self.report_stage(token, StageResult::Failed);
            return true;
        };
        let handle = match source {
            Source::Data(handle) => Some(handle),
            _ => None,
        };
        let known = self.staging().and_then(|s| s.tags.get(token));
        if let Some(op) = known.and_then(|tag| self.ops.get_mut(tag)) {
            if let Some(stage) = op.stage.as_mut() {
                stage.handle = handle;
                stage.lost |= source == Source::Lost;
                stage.lacks = false;
            }
            if let (Source::Lost, Some(b)) = (source, op.blocks.first_mut()) {
                b.content.name = Name::NONE;
            }
            let tag = op.request.tag;
            self.wake(tag);
            return true;
        }
        let request = Request {
            tag: 0,
            kind: match entry.op {
                Op::Write => OpKind::Write,
                _ => OpKind::WriteZeroes,
            },
            volume: slot as u32,
            lbn: Lbn(entry.lbn),
            count: entry.count,
            fua: false,
        };
        // Nobody has a good copy: the block gets a cluster of no name whose content does not match
        // its check, so that reads of it fail.
        let lost = source == Source::Lost || (entry.op == Op::Write && entry.digest == [0; 24]);
        let content = BlockContent {
            name: if lost { Name::NONE } else { Name(entry.digest) },
            check: Check(entry.check),
            zero: false,
        };
        let contents = [content];
        let contents = if entry.op == Op::Write {
            &contents[..]
        } else {
            &[]
        };
        let kind = match resync {
            true => Kind::Compare,
            false => Kind::Entry,
        };
        let stage = StageOp {
            handle,
            lost,
            ..StageOp::new(token, kind)
        };
        self.begin_stage_op(stage, request, contents)
    }

    /// Lets an op begin, with a tag that is free. False: not now.
    pub(super) fn begin_stage_op(
        &mut self,
        stage: StageOp,
        request: Request,
        contents: &[BlockContent],
    ) -> bool {
        let Some(tag) = self.staging().and_then(|s| s.free.pop()) else {
            return false;
        };
        if !self.prepare_op(Request { tag, ..request }, contents) {
            let _ = self.staging().map(|s| s.free.push_within_capacity(tag));
            return false;
        }
        if let Some(op) = self.ops.get_mut(tag) {
            op.stage = Some(stage);
        }
        if let Some(staging) = self.staging() {
            // There is room for all tags.
            let _ = staging.tags.insert(stage.key(tag), tag);
        }
        self.ops.in_flight += 1;
        self.ops.park(&mut self.admission, tag);
        true
    }

    /// Whether a fresh cluster of this op stays as it is.
    pub(super) fn is_lost(&self, tag: Tag) -> bool {
        self.stage_of(tag).is_some_and(|s| s.lost)
    }

    /// Whether this op takes what its volume holds, whatever that is called.
    pub(super) fn takes_own(&self, tag: Tag) -> bool {
        self.stage_of(tag)
            .is_some_and(|s| s.lost || s.kind == Kind::Keep)
    }

    /// Where a block of a full compare lies in the volume that the shadow is to replace, if it has the
    /// same check there. `None`: the op waits for a page.
    pub(super) fn own_copy(&mut self, tag: Tag) -> Option<Cluster> {
        let compares = |s: StageOp| match s.kind {
            Kind::Compare => !mutant!(98),
            Kind::Keep => true,
            Kind::Entry | Kind::Heal => false,
        };
        let Some(op) = self
            .ops
            .get(tag)
            .filter(|op| op.stage.is_some_and(compares))
        else {
            return Some(Cluster::NONE);
        };
        let (request, check) = (op.request, op.blocks.first().map(|b| b.content.check));
        let uuid = self.volumes.get(request.volume as usize).map(|v| v.uuid);
        let is_it = |v: &super::format::page::VolumeEntry| Some(v.uuid) == uuid && v.is_shown();
        let slot = self.volumes.iter().position(is_it);
        let inside = |slot: &usize| request.lbn.0 < self.blocks_of(*slot);
        let Some(slot) = slot.filter(inside) else {
            return Some(Cluster::NONE);
        };
        let entry = self.look_up(tag, slot, request.lbn)?;
        let full = self.config.knobs.count_full;
        let fits = self.overlay.has_headroom(entry.cluster, full);
        if !entry.is_mapped() || Some(entry.check) != check || !fits {
            return Some(Cluster::NONE);
        }
        Some(entry.cluster)
    }

    /// Whether this op may share a cluster that is written and in no record: its own will come
    /// behind the one that names the cluster, or be that.
    pub(super) fn may_share_staged(&self, tag: Tag) -> bool {
        self.stage_of(tag).is_some_and(|s| s.kind == Kind::Entry)
    }

    /// Whether this op heals a block.
    pub(super) fn is_heal(&self, tag: Tag) -> bool {
        self.stage_of(tag).is_some_and(|s| s.is_heal())
    }

    pub(super) fn report_stage(&mut self, token: u64, result: StageResult) {
        if let Some(member) = self.member.as_mut() {
            member.set_mut().staged(token, result);
        }
    }

    /// Whether this op stages an entry that nobody wants any more; then it ends.
    pub(super) fn ends_void(&mut self, tag: Tag) -> bool {
        let void = self.stage_of(tag).is_some_and(|s| s.void);
        // A twin hangs on the one that it waits for, which will let go of it.
        let busy = self
            .ops
            .get(tag)
            .is_some_and(|op| op.io > 0 || op.blocks.iter().any(|b| b.state == BlockState::Twin));
        if void && !busy {
            match self.is_heal(tag) {
                true => self.cancel_heal(tag, false),
                false => self.drop_stage(tag),
            }
        }
        void
    }

    /// The content is not here, and did not come along: the primary has to be asked.
    pub(super) fn lacks(&mut self, tag: Tag) -> bool {
        let stage = self.ops.get_mut(tag).and_then(|op| op.stage.as_mut());
        let Some(stage) = stage.filter(|s| s.handle.is_none() && !s.lost) else {
            return false;
        };
        stage.lacks = true;
        let token = stage.token;
        match stage.kind {
            Kind::Heal => self.ask_for_heal(tag),
            Kind::Entry | Kind::Compare | Kind::Keep => {
                self.report_stage(token, StageResult::Lacks)
            }
        }
        true
    }

    /// Whether this op waits for its content to come.
    pub(super) fn is_lacking(&self, tag: Tag) -> bool {
        self.stage_of(tag).is_some_and(|s| s.lacks)
    }

    /// The block's content is in a cluster. True: it is staged, and its record waits.
    pub(super) fn stage_ready(&mut self, tag: Tag) -> bool {
        if self.heal_waits(tag) {
            return true;
        }
        let Some(stage) = self.stage_of(tag).filter(|s| s.kind == Kind::Entry) else {
            return false;
        };
        let Some(&b) = self.ops.block(tag, 0) else {
            return true;
        };
        let fresh = b.state == BlockState::ReadyFresh;
        if !(fresh || b.state == BlockState::Ready) {
            return true;
        }
        if stage.void {
            if fresh {
                self.give_back(b.cluster);
            }
            self.drop_stage(tag);
            return true;
        }
        // There is room: it was made with the promise.
        self.hold(b.cluster);
        if fresh {
            let _ = self.staging().map(|s| s.fresh.insert(b.cluster.0, ()));
        }
        if let Some(b) = self.ops.block_mut(tag, 0) {
            b.state = BlockState::Staged;
        }
        self.drop_data(tag);
        self.share_staged(tag, b.cluster);
        self.report_stage(stage.token, StageResult::Held);
        true
    }

    /// Those that wait for the same content hold the cluster too.
    fn share_staged(&mut self, tag: Tag, cluster: Cluster) {
        let Some(b) = self.ops.block_mut(tag, 0) else {
            return;
        };
        let mut twin = core::mem::replace(&mut b.twin, NO_TWIN);
        while twin != NO_TWIN {
            let (tag, block) = block_of(twin);
            let Some(b) = self.ops.block_mut(tag, block) else {
                return;
            };
            twin = core::mem::replace(&mut b.twin, NO_TWIN);
            b.state = BlockState::Start;
            self.twins -= 1;
            // A record that comes before the one that names the cluster must not refer to it.
            if self.may_share_staged(tag) {
                if let Some(b) = self.ops.block_mut(tag, block) {
                    b.state = BlockState::Ready;
                    b.cluster = cluster;
                }
            }
            self.wake(tag);
        }
    }

    /// A range of zeroes is staged when it is admitted. True: its record waits.
    pub(super) fn stage_zeroes(&mut self, tag: Tag) -> bool {
        let Some(stage) = self.stage_of(tag) else {
            return false;
        };
        if self.ends_void(tag) {
            return true;
        }
        let failed = self.ops.get(tag).is_none_or(|op| op.status != Status::Ok);
        if failed {
            self.drop_stage(tag);
            self.report_stage(stage.token, StageResult::Failed);
            return true;
        }
        if stage.kind == Kind::Compare {
            // A shadow has nothing where nothing was written.
            self.drop_stage(tag);
            self.report_stage(stage.token, StageResult::Held);
            return true;
        }
        if let Some(op) = self.ops.get_mut(tag) {
            op.todo = 1;
        }
        self.report_stage(stage.token, StageResult::Held);
        true
    }

    /// A write that stages has nothing left to do, or waits. True: it is no request.
    pub(super) fn settle_stage(&mut self, tag: Tag) -> bool {
        let Some(stage) = self.stage_of(tag) else {
            return false;
        };
        if self.ends_void(tag) {
            return true;
        }
        let Some(op) = self.ops.get(tag) else {
            return true;
        };
        if op.todo == 0 && stage.kind == Kind::Heal {
            self.end_heal(tag);
        } else if op.todo == 0 && stage.kind == Kind::Keep {
            let status = op.status;
            self.drop_stage(tag);
            self.kept(stage.token, status);
        } else if op.todo == 0 {
            let result = match op.status {
                Status::Ok => StageResult::Held,
                _ => StageResult::Failed,
            };
            mark!(member_stage_ends_at_once);
            self.drop_stage(tag);
            self.report_stage(stage.token, result);
        } else if op.blocks.iter().any(|b| b.state == BlockState::NoCluster) {
            self.ops.park(&mut self.space_wait, tag);
        }
        true
    }

    /// The set gives up what was not told to be applied.
    pub(super) fn void_stage(&mut self) {
        mark!(member_stage_void);
        if let Some(staging) = self.staging() {
            staging.change = None;
        }
        let mut from = 0;
        while let Some((token, tag)) = self.staging().and_then(|s| s.tags.next_from(from)) {
            from = token + 1;
            let Some(op) = self.ops.get_mut(tag) else {
                continue;
            };
            if let Some(stage) = op.stage.as_mut() {
                stage.void = true;
            }
            let staged = op
                .blocks
                .first()
                .is_some_and(|b| b.state == BlockState::Staged);
            let zeroes = op.phase == Phase::Running && op.blocks.is_empty();
            if staged || zeroes {
                self.drop_stage(tag);
            } else if op.phase == Phase::Running && op.io == 0 {
                self.wake(tag);
            }
        }
        if let Some(member) = self.member.as_mut() {
            member.keeps.clear();
        }
    }

    /// Applies an epoch: its entries are all staged. False: not now.
    pub(super) fn apply_stage(&mut self, position: Position, token: u64, count: u32) -> bool {
        let is_ready = |m: &Member| !m.is_changing() && m.seals() > 0;
        if self.failed.is_some() {
            return true;
        }
        if !self.member.as_ref().is_some_and(|m| is_ready(m)) {
            return false;
        }
        let change = self.member.as_ref().and_then(|m| m.staging.change);
        // An empty epoch has the token of what comes behind it.
        let is_it = |(staged, _): &(u64, Entry)| *staged == token && count > 0;
        if let Some((_, entry)) = change.filter(is_it) {
            return self.apply_change_of_set(position, &entry);
        }
        for token in token..token + u64::from(count) {
            let Some(tag) = self.staging().and_then(|s| s.tags.get(token)) else {
                self.fail(FailReason::Promise);
                return true;
            };
            self.apply_entry(position.epoch, tag);
        }
        mark!(member_epoch_applied);
        self.append_seal(position, true);
        self.journal.want(self.journal.last_sequence());
        true
    }

    /// Appends the record of a staged entry.
    fn apply_entry(&mut self, epoch: u64, tag: Tag) {
        let Some((request, block)) = self
            .ops
            .get(tag)
            .map(|op| (op.request, op.blocks.first().copied()))
        else {
            return;
        };
        let slot = request.volume as usize;
        let Some(b) = block else {
            self.append_zeroes(tag, slot, request.lbn, request.count);
            self.pin_entry(epoch, Cluster::NONE);
            return self.end_stage(tag);
        };
        let fresh = self
            .staging()
            .is_some_and(|s| s.fresh.remove(b.cluster.0).is_some());
        if let Some(b) = self.ops.block_mut(tag, 0) {
            b.state = match fresh && !mutant!(84) {
                true => BlockState::ReadyFresh,
                false => BlockState::Ready,
            };
        }
        self.append_run(tag, slot, request.lbn, 0, 1);
        self.unlock_name(tag, 0, None);
        self.pin_entry(epoch, b.cluster);
        self.unhold(b.cluster);
        self.end_stage(tag);
    }

    /// Ends an op that stages: what it holds is let go of.
    pub(super) fn drop_stage(&mut self, tag: Tag) {
        let Some(&b) = self.ops.block(tag, 0) else {
            return self.end_stage(tag);
        };
        if b.state == BlockState::Staged {
            self.unhold(b.cluster);
            let last = self.holds.get(b.cluster.0).is_none();
            let fresh = last
                && self
                    .staging()
                    .is_some_and(|s| s.fresh.remove(b.cluster.0).is_some());
            if fresh {
                mark!(member_stage_gives_cluster_back);
                self.give_back(b.cluster);
            }
        }
        self.unlock_name(tag, 0, None);
        self.end_stage(tag);
    }

    /// A fresh cluster, with the shell no more and in no record, may be handed out again.
    pub(super) fn give_back(&mut self, cluster: Cluster) {
        self.space.settled(cluster);
        self.space.add_erased(cluster);
    }

    /// The block that came is not needed any more.
    pub(super) fn drop_data(&mut self, tag: Tag) {
        let handle = self
            .ops
            .get_mut(tag)
            .and_then(|op| op.stage.as_mut()?.handle.take());
        if let Some(handle) = handle {
            self.act(Action::StageDrop { handle });
        }
    }

    fn end_stage(&mut self, tag: Tag) {
        self.drop_data(tag);
        let Some(stage) = self.ops.get_mut(tag).and_then(|op| op.stage.take()) else {
            return;
        };
        if stage.kind != Kind::Heal {
            if let Some(staging) = self.staging() {
                staging.tags.remove(stage.key(tag));
                let _ = staging.free.push_within_capacity(tag);
            }
        }
        self.release_reservation(tag);
        if let Some(op) = self.ops.get_mut(tag) {
            op.phase = Phase::Idle;
        }
        self.ops.in_flight -= 1;
        if stage.kind == Kind::Heal {
            self.heal_ended(tag);
        }
    }

    /// What is staged, by how far it is.
    pub(super) fn show_staging(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let tags = self.config.queue_depth..self.config.queue_depth + STAGE_TAGS;
        let busy = || {
            tags.clone()
                .filter_map(|tag| self.ops.get(tag))
                .filter(|op| op.stage.is_some())
        };
        let count = |state| {
            let is = |b: &super::op::Block| b.state == state;
            busy()
                .filter(|op| op.blocks.first().is_some_and(is))
                .count()
        };
        lines!(out,
            "stage_ops": busy().count(),
            "stage_admission": busy().filter(|op| op.phase == Phase::Admission).count(),
            "stage_void": busy().filter(|op| op.stage.is_some_and(|s| s.void)).count(),
            "stage_zeroes": busy().filter(|op| op.blocks.is_empty()).count(),
            "stage_start": count(BlockState::Start),
            "stage_twin": count(BlockState::Twin),
            "stage_no_cluster": count(BlockState::NoCluster),
            "stage_io": count(BlockState::Io),
            "stage_ready": count(BlockState::Ready) + count(BlockState::ReadyFresh),
            "stage_staged": count(BlockState::Staged),
            "stage_fresh": self.member.as_ref().map_or(0, |m| m.staging.fresh.len()),
        );
        Ok(())
    }
}
