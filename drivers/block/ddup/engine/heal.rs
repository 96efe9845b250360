// SPDX-License-Identifier: GPL-2.0

//! Self-healing: a block that fails its check is fetched from a peer, and gets a good cluster.
//!
//! ```text
//!  read: Bad --name known, cluster quarantined--> Heal --record appended--> Start: read again
//!                                                  |
//!  heal: admission -> a good copy here, or content from a peer -> fresh cluster -> local record
//! ```
//!
//! A *heal* is an op of one block with a tag of its own, behind those that stage entries. It goes the
//! way of a write: content that another cluster holds is shared, other content is asked for and
//! written to a fresh cluster. Its record changes where the block lies and not what it holds, so it is
//! local: no entry of the set's history. It is appended only while the block has the entry that was
//! found to be bad, and behind the end of an epoch, since it counts by itself: what it refers to and
//! what it replaces must count too.
//!
//! Reads wait for a heal on its block's chain of twins, for a bounded time. Then, and if nobody has a
//! good copy or the store can't write, they fail with a medium error.
//!
//! What is not healed, since nobody has a good copy or nobody is there, is *missed*: the set tells the
//! peers, and what comes later is taken as if it had been asked for. Before junk is retired it is held
//! against what this store and those that are connected miss (`recycle.rs`). What is among it heals the
//! block here, or is sent to who misses it, and is junk for a second more at most.
//!
//! The other side looks for the block where it has to lie, by the volume's map, and then by its
//! digest in the index, as a read that the shell does not know of.

use super::mark::mark;
use super::mutant::mutant;
use super::op::{block_id, block_of, Block, BlockContent, BlockState, OpKind, Phase, Request};
use super::op::{Op, WaitList, NO_TWIN};
use super::replication::heal::{Wanted, ASKS_MAX, LOOKS_MAX, MISSES_MAX};
use super::ring::Ring;
use super::stage::{StageOp, STAGE_TAGS};
use super::state::{is_shareable, Store, RETRY_INTERVAL};
use super::types::{Check, Cluster, Lbn, Millis, Name, Status, Tag, NAME_BYTES};
use super::Action;
use kernel::prelude::*;

/// Tags of heals, and of blocks that peers ask for.
pub(super) const HEAL_TAGS: u32 = (ASKS_MAX + LOOKS_MAX) as u32;
/// A read waits for a heal so long, in milliseconds.
const HEAL_WAIT: Millis = 5000;
/// Heals of one block that a read waits for: what came may be lost again.
const HEALS_PER_BLOCK: u8 = 3;
/// Names of quarantined clusters that are remembered.
const NAMES_MAX: usize = 1024;
/// Junk that this store misses is kept for the heal for so long, in milliseconds.
const SPARED: Millis = 1000;
/// Clusters of which a peer's block is read, one after the other.
const TRIES_MAX: usize = 4;

/// A block that is being healed.
#[derive(Clone, Copy, Debug)]
struct Heal {
    number: u64,
    slot: usize,
    lbn: Lbn,
    /// The entry that was found to be bad.
    cluster: Cluster,
    check: Check,
    /// First of the blocks that wait for it, chained by their twins.
    first: u32,
    /// They wait until then.
    until: Millis,
    /// Nobody waits for it any more: it ends when it can.
    over: bool,
    /// Its record waits for room for the end of an epoch.
    waits: bool,
    /// Whether another store has the block.
    elsewhere: Elsewhere,
}

/// What is known of a heal's block at other stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Elsewhere {
    /// Nobody was asked, or not all have answered.
    Unknown,
    /// Nobody who was asked has it: it waits for another heal of the same content.
    Nowhere,
    /// The same, and it was looked for here once more.
    NowhereNorHere,
}

/// A block that could not be healed.
#[derive(Clone, Copy, Debug)]
struct Miss {
    /// What the set calls it.
    number: u64,
    slot: usize,
    lbn: Lbn,
    /// The entry that was found to be bad.
    cluster: Cluster,
    check: Check,
    /// What it held.
    name: Name,
    /// It is among the junk, which is kept until then at the latest.
    until: Option<Millis>,
}

/// A block that a peer asks for.
#[derive(Clone, Copy, Debug)]
struct Look {
    token: u64,
    wanted: Wanted,
    /// Clusters that were read and are not it.
    tried: [Cluster; TRIES_MAX],
    tries: usize,
}

/// What a member has of this.
pub(super) struct Heals {
    /// By tag.
    heals: KVec<Option<Heal>>,
    looks: KVec<Option<Look>>,
    /// Reads that wait until there can be one more heal.
    waiting: WaitList,
    /// What clusters were found by before they were quarantined: the newest [`NAMES_MAX`].
    names: Ring<(Cluster, Name)>,
    /// What could not be healed, one block of each name: the newest [`MISSES_MAX`].
    misses: Ring<Miss>,
    last_number: u64,
    /// Tag of the first heal.
    first_tag: Tag,
}

impl Heals {
    pub(super) fn new(queue_depth: u32) -> Result<Self> {
        let mut heals = KVec::with_capacity(ASKS_MAX, GFP_KERNEL)?;
        for _ in 0..ASKS_MAX {
            heals.push(None, GFP_KERNEL)?;
        }
        let mut looks = KVec::with_capacity(LOOKS_MAX, GFP_KERNEL)?;
        for _ in 0..LOOKS_MAX {
            looks.push(None, GFP_KERNEL)?;
        }
        let mut names = Ring::new();
        names.reserve(NAMES_MAX)?;
        let mut misses = Ring::new();
        misses.reserve(MISSES_MAX)?;
        Ok(Heals {
            heals,
            looks,
            waiting: WaitList::new(),
            names,
            misses,
            last_number: 0,
            first_tag: queue_depth + STAGE_TAGS,
        })
    }

    fn heal_at(&self, tag: Tag) -> Option<usize> {
        let at = tag.checked_sub(self.first_tag)? as usize;
        (at < ASKS_MAX).then_some(at)
    }

    fn look_at(&self, tag: Tag) -> Option<usize> {
        let at = tag.checked_sub(self.first_tag + ASKS_MAX as u32)? as usize;
        (at < LOOKS_MAX).then_some(at)
    }

    fn heal_mut(&mut self, tag: Tag) -> Option<&mut Heal> {
        let at = self.heal_at(tag)?;
        self.heals.get_mut(at)?.as_mut()
    }

    /// The name that a cluster had when it was quarantined, or that was learnt since.
    fn name(&self, cluster: Cluster) -> Option<Name> {
        let known = self.names.iter().find(|(c, _)| *c == cluster);
        known.map(|(_, name)| *name)
    }

    fn keep_name(&mut self, cluster: Cluster, name: Name) {
        if self.names.len() == NAMES_MAX {
            let _ = self.names.pop_front();
        }
        let _ = self.names.push((cluster, name));
    }
}

impl Store {
    fn heals(&mut self) -> Option<&mut Heals> {
        self.member.as_mut().map(|m| &mut m.heals)
    }

    /// Whether somebody can be asked for a block, and what comes can be written.
    pub(super) fn can_heal(&self) -> bool {
        let asks = self.member.as_ref().is_some_and(|m| m.set().can_ask());
        asks && self.may_miss()
    }

    /// Whether what can't be healed now is healed later, if it comes.
    pub(super) fn may_miss(&self) -> bool {
        self.member.is_some() && self.is_writable() && !self.is_refusing()
    }

    // The reader's side.

    /// A block of a read is bad: its cluster is quarantined and a heal begins, or the read waits for
    /// one that is under way. False: the read waits in a list and tries again.
    pub(super) fn begin_heal(&mut self, tag: Tag, block: u32) -> bool {
        let Some(op) = self.ops.get(tag) else {
            return true;
        };
        let (slot, since) = (op.request.volume as usize, op.heal_since);
        let lbn = Lbn(op.request.lbn.0 + u64::from(block));
        let Some(&b) = op.blocks.get(block as usize) else {
            return true;
        };
        let known = self.heals().and_then(|h| h.name(b.cluster));
        let name = match known {
            Some(name) => name,
            None if b.alone => Name::NONE,
            None => match self.name_of(tag, b.cluster) {
                Some(name) => name,
                None => return false,
            },
        };
        if known.is_none() && self.quarantine(b.cluster) && is_shareable(&name) {
            // From here on nothing but this says what its other owners held.
            self.index.remove(&name, b.cluster);
            if let Some(heals) = self.heals() {
                heals.keep_name(b.cluster, name);
            }
        }
        let now = self.now;
        let late = since.is_some_and(|since| now >= since + HEAL_WAIT);
        // What it was found by is known in this attach only, where it lies in the next one, too.
        let unknown = mutant!(313) && name == Name::NONE && !b.alone;
        if late || unknown || b.passed >= HEALS_PER_BLOCK || !self.can_heal() {
            self.give_up(tag, block);
            return true;
        }
        if let Some(op) = self.ops.get_mut(tag) {
            op.heal_since.get_or_insert(now);
        }
        let same = |h: &Heal| !h.over && h.slot == slot && h.lbn == lbn && h.cluster == b.cluster;
        let Some(heals) = self.member.as_ref().map(|m| &m.heals) else {
            return true;
        };
        let known = heals.heals.iter().position(|h| h.is_some_and(|h| same(&h)));
        let free = || (0..ASKS_MAX).find(|at| self.is_free(heals, *at));
        let at = match known.or_else(free) {
            Some(at) => at,
            None => {
                mark!(member_heal_waits_for_another);
                if let Some(member) = self.member.as_mut() {
                    self.ops.park(&mut member.heals.waiting, tag);
                }
                return false;
            }
        };
        // All heals of a request together have that time.
        let until = since.unwrap_or(now) + HEAL_WAIT;
        let content = BlockContent {
            name,
            check: b.content.check,
            zero: false,
        };
        if known.is_none() && !self.start_heal(at, (slot, lbn), b.cluster, content, until) {
            self.give_up(tag, block);
            return true;
        }
        let id = block_id(tag, block);
        let heal = self.heals().and_then(|h| h.heals.get_mut(at)?.as_mut());
        let twin = match heal {
            Some(heal) => core::mem::replace(&mut heal.first, id),
            None => NO_TWIN,
        };
        if let Some(b) = self.ops.block_mut(tag, block) {
            b.twin = twin;
            b.state = BlockState::Heal;
            b.passed += 1;
        }
        true
    }

    /// A block of a read stays bad.
    fn give_up(&mut self, tag: Tag, block: u32) {
        mark!(member_heal_given_up);
        self.stats.heals_failed += u64::from(self.can_heal());
        self.note_miss(tag, block);
        if let Some(op) = self.ops.get_mut(tag) {
            op.status = Status::Medium;
            if let Some(b) = op.blocks.get_mut(block as usize) {
                b.state = BlockState::Failed;
                op.todo -= 1;
            }
        }
    }

    /// What a block of a read held is missed from here on, if it is known.
    fn note_miss(&mut self, tag: Tag, block: u32) {
        let (Some(op), Some(&b)) = (self.ops.get(tag), self.ops.block(tag, block)) else {
            return;
        };
        let (slot, lbn) = (
            op.request.volume as usize,
            Lbn(op.request.lbn.0 + u64::from(block)),
        );
        let volume = self.volumes.get(slot).map_or([0; 16], |v| v.uuid);
        let Some(heals) = self.heals() else {
            return;
        };
        let name = heals.name(b.cluster).filter(is_shareable);
        let known = |name: &Name| heals.misses.iter().any(|m| m.name == *name);
        let Some(name) = name.filter(|name| !known(name)) else {
            return;
        };
        heals.last_number += 1;
        let miss = Miss {
            number: heals.last_number,
            slot,
            lbn,
            cluster: b.cluster,
            check: b.content.check,
            name,
            until: None,
        };
        let full = heals.misses.len() == MISSES_MAX;
        let gives_way = full.then(|| heals.misses.pop_front()).flatten();
        let _ = heals.misses.push(miss);
        let wanted = Wanted {
            volume,
            lbn: lbn.0,
            check: miss.check.0,
            digest: name.0,
        };
        if let Some(member) = self.member.as_mut() {
            if let Some(oldest) = gives_way {
                member.set_mut().forget_miss(oldest.number);
            }
            // Without memory nobody is told.
            let _ = member.set_mut().miss(miss.number, wanted);
        }
    }

    /// What was missed is here again, or nobody reads it any more.
    fn forget_miss(&mut self, bad: Cluster) {
        let Some(member) = self.member.as_mut() else {
            return;
        };
        for _ in 0..member.heals.misses.len() {
            match member.heals.misses.pop_front() {
                Some(miss) if miss.cluster == bad => member.set_mut().forget_miss(miss.number),
                // There is room: it was there.
                Some(miss) => drop(member.heals.misses.push(miss)),
                None => return,
            }
        }
    }

    /// Begins to heal what is missed, for which nobody waits, with a block that came or with what is
    /// here. False: not now.
    fn heal_miss(&mut self, miss: &Miss, handle: Option<u64>) -> bool {
        let size = self.shown(miss.slot).map_or(0, |v| v.size());
        let Some(heals) = self.member.as_ref().map(|m| &m.heals) else {
            return false;
        };
        let mut places = (0..ASKS_MAX).filter(|at| self.is_free(heals, *at));
        let Some(at) = places
            .next()
            .filter(|_| self.may_miss() && miss.lbn.0 < size)
        else {
            return false;
        };
        let content = BlockContent {
            name: miss.name,
            check: miss.check,
            zero: false,
        };
        let (place, until) = ((miss.slot, miss.lbn), self.now + HEAL_WAIT);
        if self.is_healed(miss) || !self.start_heal(at, place, miss.cluster, content, until) {
            return false;
        }
        let first = self.member.as_ref().map(|m| m.heals.first_tag);
        let op = first.and_then(|first| self.ops.get_mut(first + at as u32));
        if let (Some(stage), Some(handle)) = (op.and_then(|op| op.stage.as_mut()), handle) {
            stage.give(handle);
        }
        true
    }

    /// Whether a heal of what is missed is under way.
    fn is_healed(&self, miss: &Miss) -> bool {
        let heals = self.member.iter().flat_map(|m| m.heals.heals.iter());
        let is_it = |h: &Heal| !h.over && (h.slot, h.lbn) == (miss.slot, miss.lbn);
        heals.flatten().any(is_it)
    }

    /// Whether junk of this name is to be kept now: a block is about to be healed with it, here or at a
    /// peer that is connected. Nobody waits for that longer than for a second.
    pub(super) fn spares_junk(&mut self, name: &Name, cluster: Cluster) -> bool {
        let Some(member) = self.member.as_mut().filter(|_| !mutant!(320)) else {
            return false;
        };
        let spares = is_shareable(name) && member.set_mut().spares(&name.0);
        let misses = &member.heals.misses;
        let at = (0..misses.len()).find(|at| misses.get(*at).is_some_and(|m| m.name == *name));
        let miss = at.and_then(|at| misses.get(at)).copied();
        let heals = miss.is_some_and(|miss| match miss.until {
            None => !mutant!(321) && self.heal_miss(&miss, None),
            Some(until) => self.now < until && self.is_healed(&miss),
        });
        if spares || heals {
            mark!(member_spares_junk);
            // It may be known no more.
            self.index.insert(name, cluster);
        }
        let until = self.now + SPARED;
        let place = self.heals().and_then(|h| h.misses.get_mut(at?));
        if let Some(miss) = place.filter(|_| heals) {
            miss.until.get_or_insert(until);
        }
        spares || heals
    }

    /// Whether this store, or a peer that is connected, misses something.
    pub(super) fn misses_any(&self) -> bool {
        let misses = |m: &super::member::Member| !m.heals.misses.is_empty();
        let member = self.member.as_ref();
        member.is_some_and(|m| misses(m) || m.set().is_missed_any())
    }

    /// Whether there can be another heal with this number.
    fn is_free(&self, heals: &Heals, at: usize) -> bool {
        // One that has just ended may still be in a list.
        let queued = self.ops.is_queued(heals.first_tag + at as u32);
        heals.heals.get(at).is_some_and(|h| h.is_none()) && !queued
    }

    /// Begins a heal. False: there is no memory.
    fn start_heal(
        &mut self,
        at: usize,
        (slot, lbn): (usize, Lbn),
        cluster: Cluster,
        content: BlockContent,
        until: Millis,
    ) -> bool {
        let Some(heals) = self.heals() else {
            return false;
        };
        let tag = heals.first_tag + at as u32;
        heals.last_number += 1;
        let number = heals.last_number;
        let request = Request {
            tag,
            kind: OpKind::Write,
            volume: slot as u32,
            lbn,
            count: 1,
            fua: false,
        };
        if !self.prepare_op(request, &[content]) {
            return false;
        }
        if let Some(op) = self.ops.get_mut(tag) {
            op.stage = Some(StageOp::heal(number));
        }
        if let Some(place) = self.heals().and_then(|h| h.heals.get_mut(at)) {
            *place = Some(Heal {
                number,
                slot,
                lbn,
                cluster,
                check: content.check,
                first: NO_TWIN,
                until,
                over: false,
                waits: false,
                elsewhere: Elsewhere::Unknown,
            });
        }
        mark!(member_heal_begins);
        self.ops.in_flight += 1;
        self.ops.park(&mut self.admission, tag);
        true
    }

    /// Lets those that wait for a heal go on: they read again, or fail. The heal itself ends when it
    /// can.
    fn release_heal(&mut self, tag: Tag, healed: bool) {
        let Some(heal) = self.heals().and_then(|h| h.heal_mut(tag)) else {
            return;
        };
        heal.over = true;
        let number = heal.number;
        let mut twin = core::mem::replace(&mut heal.first, NO_TWIN);
        if let Some(member) = self.member.as_mut() {
            member.set_mut().forget_ask(number);
        }
        while twin != NO_TWIN {
            let (tag, block) = block_of(twin);
            let Some(b) = self.ops.block_mut(tag, block) else {
                return;
            };
            twin = core::mem::replace(&mut b.twin, NO_TWIN);
            if healed {
                b.state = BlockState::Start;
                b.retries = 0;
            } else {
                self.give_up(tag, block);
            }
            self.wake(tag);
        }
    }

    /// A heal is not wanted any more.
    fn void_heal(&mut self, tag: Tag) {
        self.release_heal(tag, false);
        let Some(op) = self.ops.get_mut(tag) else {
            return;
        };
        if let Some(stage) = op.stage.as_mut() {
            stage.void = true;
        }
        if op.phase == Phase::Running && op.io == 0 {
            self.wake(tag);
        }
        // What it waits for may never come.
        let void = |op: &Op| op.stage.is_some_and(|s| s.void && s.is_heal());
        for list in [
            &mut self.admission,
            &mut self.space_wait,
            &mut self.metadata_wait,
        ] {
            self.ops.take_where(list, &mut self.ready, void);
        }
    }

    /// Its content is not here: peers are asked.
    pub(super) fn ask_for_heal(&mut self, tag: Tag) {
        let Some(heal) = self.heals().and_then(|h| h.heal_mut(tag).copied()) else {
            return;
        };
        let volume = self.volumes.get(heal.slot).map_or([0; 16], |v| v.uuid);
        let digest = self
            .ops
            .block(tag, 0)
            .map_or(Name::NONE, |b| b.content.name);
        let wanted = Wanted {
            volume,
            lbn: heal.lbn.0,
            check: heal.check.0,
            digest: digest.0,
        };
        mark!(member_heal_asks);
        let asked = self
            .member
            .as_mut()
            .map(|m| m.set_mut().ask(heal.number, wanted));
        if asked.is_none_or(|asked| asked.is_err()) {
            self.void_heal(tag);
        }
    }

    /// What a heal's bad cluster held has this name: its other owners heal by that.
    fn learn_name(&mut self, tag: Tag, name: Name) {
        let Some(heals) = self.heals() else {
            return;
        };
        if let Some(heal) = heals.heal_mut(tag).copied() {
            mark!(member_heal_learns_name);
            heals.keep_name(heal.cluster, name);
        }
    }

    /// The block came, or nobody has it.
    pub(super) fn heal_answered(&mut self, number: u64, found: Option<(u64, [u8; NAME_BYTES])>) {
        let tag = self.heals().and_then(|heals| {
            let is_it = |h: &Option<Heal>| h.is_some_and(|h| h.number == number && !h.over);
            let at = heals.heals.iter().position(is_it)?;
            Some(heals.first_tag + at as u32)
        });
        match (tag, found) {
            (Some(tag), Some((handle, digest))) => {
                if let Some(op) = self.ops.get_mut(tag) {
                    if let Some(stage) = op.stage.as_mut() {
                        stage.give(handle);
                    }
                    let nameless = |b: &&mut Block| b.content.name == Name::NONE;
                    if let Some(b) = op.blocks.first_mut().filter(nameless) {
                        b.content.name = Name(digest);
                        self.learn_name(tag, Name(digest));
                    }
                }
                self.wake(tag);
            }
            (Some(tag), None) => self.heal_refused(tag),
            (None, Some((handle, _))) => {
                let misses = self.member.iter().flat_map(|m| m.heals.misses.iter());
                let miss = misses.into_iter().find(|m| m.number == number).copied();
                if !miss.is_some_and(|miss| self.heal_miss(&miss, Some(handle))) {
                    self.act(Action::StageDrop { handle });
                }
            }
            (None, None) => {}
        }
    }

    /// Nobody else has a heal's block. Another heal of the same content may have brought it here
    /// meanwhile, or may still do so: where its block lies, others may have it.
    fn heal_refused(&mut self, tag: Tag) {
        let name = self.ops.block(tag, 0).map(|b| b.content.name);
        let Some(name) = name.filter(|name| is_shareable(name) && !mutant!(266)) else {
            return self.void_heal(tag);
        };
        let is_here = self.index.lookup(&name).1 > 0;
        let comes = self.is_asked_for(&name, tag);
        let heal = self.heals().and_then(|h| h.heal_mut(tag));
        let Some(heal) = heal.filter(|h| h.elsewhere != Elsewhere::NowhereNorHere) else {
            return self.void_heal(tag);
        };
        heal.elsewhere = match is_here {
            true => Elsewhere::NowhereNorHere,
            false => Elsewhere::Nowhere,
        };
        if is_here {
            mark!(member_heal_looks_again);
            if let Some(stage) = self.ops.get_mut(tag).and_then(|op| op.stage.as_mut()) {
                stage.look_again();
            }
            self.wake(tag);
        } else if !comes {
            self.void_heal(tag);
        }
    }

    /// Whether a heal other than this one waits for an answer with this content.
    fn is_asked_for(&self, name: &Name, but: Tag) -> bool {
        let Some(heals) = self.member.as_ref().map(|m| &m.heals) else {
            return false;
        };
        let mut others = (heals.first_tag..).zip(&heals.heals);
        others.any(|(tag, heal)| {
            let waits = |h: &Heal| !h.over && h.elsewhere != Elsewhere::Nowhere;
            let block = || self.ops.block(tag, 0);
            tag != but
                && heal.as_ref().is_some_and(waits)
                && block().is_some_and(|b| b.content.name == *name)
        })
    }

    /// Whether a heal's record is not to be appended now: its block has another entry by now, or
    /// what it takes to know that is not here.
    pub(super) fn heal_waits(&mut self, tag: Tag) -> bool {
        if !self.is_heal(tag) {
            return false;
        }
        let Some(&b) = self.ops.block(tag, 0) else {
            return true;
        };
        let fresh = b.state == BlockState::ReadyFresh;
        if !fresh && b.state != BlockState::Ready {
            return true;
        }
        let Some(heal) = self.heals().and_then(|h| h.heal_mut(tag).copied()) else {
            return true;
        };
        let useless = b.cluster == heal.cluster;
        if heal.over || useless || !self.is_writable() || self.is_refusing() {
            self.cancel_heal(tag, false);
            return true;
        }
        let entry = self.look_up(tag, heal.slot, heal.lbn);
        let other =
            |e: super::format::page::MapEntry| e.cluster != heal.cluster || e.check != heal.check;
        if entry.is_some_and(other) && !mutant!(94) {
            mark!(member_heal_cancelled);
            self.forget_miss(heal.cluster);
            self.cancel_heal(tag, true);
            return true;
        }
        // The record counts by itself, also if the open epoch does not.
        let sealed = entry.is_some() && (mutant!(96) || self.seal_epoch());
        if let Some(heal) = self.heals().and_then(|h| h.heal_mut(tag)) {
            heal.waits = entry.is_some() && !sealed;
        }
        if !sealed && !fresh {
            // Nothing keeps a shared cluster while this waits.
            if let Some(b) = self.ops.block_mut(tag, 0) {
                b.state = BlockState::Start;
                b.cluster = Cluster::NONE;
            }
        }
        !sealed
    }

    /// Ends a heal whose record was not appended.
    pub(super) fn cancel_heal(&mut self, tag: Tag, again: bool) {
        if let Some(&b) = self.ops.block(tag, 0) {
            if b.state == BlockState::ReadyFresh {
                self.give_back(b.cluster);
            }
        }
        self.release_heal(tag, again);
        self.drop_stage(tag);
    }

    /// A heal has nothing left to do: its record is in the journal, or it failed.
    pub(super) fn end_heal(&mut self, tag: Tag) {
        let healed = self.ops.get(tag).is_some_and(|op| op.status == Status::Ok);
        let heal = self.heals().and_then(|h| h.heal_mut(tag).copied());
        let now = self.ops.block(tag, 0).map(|b| b.cluster);
        if let (true, Some(heal), Some(cluster)) = (healed, heal, now) {
            mark!(member_healed);
            self.stats.blocks_healed += 1;
            self.forget_miss(heal.cluster);
            self.move_pins(heal.cluster, cluster);
        }
        self.release_heal(tag, healed);
        self.drop_stage(tag);
    }

    /// The op of a heal has ended: there can be another.
    pub(super) fn heal_ended(&mut self, tag: Tag) {
        let Some(heals) = self.heals() else {
            return;
        };
        let at = heals.heal_at(tag);
        if let Some(place) = at.and_then(|at| heals.heals.get_mut(at)) {
            *place = None;
        }
        let (waiting, first) = (core::mem::take(&mut heals.waiting), heals.first_tag);
        self.wake_all(waiting);
        for tag in first..first + ASKS_MAX as u32 {
            let heal = self.heals().and_then(|h| h.heal_mut(tag));
            if heal.is_some_and(|h| !h.over && h.elsewhere == Elsewhere::Nowhere) {
                self.heal_refused(tag);
            }
        }
    }

    /// Nothing is healed any more: the store failed, is detached, or does not lead.
    pub(super) fn void_heals(&mut self) {
        self.void_heals_if(|_| true);
        let waiting = self.heals().map(|h| core::mem::take(&mut h.waiting));
        self.wake_all(waiting.unwrap_or_default());
    }

    fn void_heals_if(&mut self, which: impl Fn(&Heal) -> bool) {
        let Some(first) = self.heals().map(|h| h.first_tag) else {
            return;
        };
        for tag in first..first + ASKS_MAX as u32 {
            let heal = self.heals().and_then(|h| h.heal_mut(tag).copied());
            if heal.is_some_and(|h| !h.over && which(&h)) {
                self.void_heal(tag);
            }
        }
    }

    /// Time goes by: nobody waits for ever.
    pub(super) fn heal_tick(&mut self) {
        let now = self.now;
        let Some(heals) = self.heals() else {
            return;
        };
        let first = heals.first_tag;
        let waiting = core::mem::take(&mut heals.waiting);
        self.wake_all(waiting);
        self.void_heals_if(|h| now >= h.until);
        for tag in first..first + ASKS_MAX as u32 {
            let heal = self.heals().and_then(|h| h.heal_mut(tag));
            if heal.is_some_and(|h| core::mem::take(&mut h.waits)) {
                self.wake(tag);
            }
        }
    }

    /// When [`Store::heal_tick`] has something to do.
    pub(super) fn heal_deadline(&self) -> Option<Millis> {
        let heals = &self.member.as_ref()?.heals;
        let all = || heals.heals.iter().flatten();
        let soon = !heals.waiting.is_empty() || all().any(|h| h.waits);
        let soon = soon.then_some(self.now + RETRY_INTERVAL);
        let until = all().filter(|h| !h.over).map(|h| h.until).min();
        [soon, until].into_iter().flatten().min()
    }

    // The other side.

    /// Begins to look for a block that a peer asks for.
    pub(super) fn begin_look(&mut self, token: u64, wanted: Wanted) {
        let is_it = |v: &super::format::page::VolumeEntry| v.uuid == wanted.volume && v.is_shown();
        let slot = self.volumes.iter().position(is_it);
        let place = self.heals().and_then(|heals| {
            let at = heals.looks.iter().position(|l| l.is_none())?;
            Some((at, heals.first_tag + (ASKS_MAX + at) as u32))
        });
        let (Some(slot), Some((at, tag))) = (slot, place) else {
            return self.fetched(token, false);
        };
        let request = Request {
            tag,
            kind: OpKind::Read,
            volume: slot as u32,
            lbn: Lbn(wanted.lbn),
            count: 1,
            fua: false,
        };
        if self.failed.is_some() || !self.prepare_op(request, &[]) {
            return self.fetched(token, false);
        }
        if let Some(place) = self.heals().and_then(|h| h.looks.get_mut(at)) {
            *place = Some(Look {
                token,
                wanted,
                tried: [Cluster::NONE; TRIES_MAX],
                tries: 0,
            });
        }
        if let Some(op) = self.ops.get_mut(tag) {
            op.phase = Phase::Running;
            // The shell has no request to complete.
            op.handed_over = true;
        }
        mark!(member_looks_for_a_block);
        self.ops.in_flight += 1;
        self.ops.park(&mut self.ready, tag);
    }

    /// Whether a read is what a peer asks for; then it goes on, as far as pages are here.
    pub(super) fn run_look(&mut self, tag: Tag) -> bool {
        let look = self.heals().and_then(|heals| {
            let at = heals.look_at(tag)?;
            Some((at, (*heals.looks.get(at)?)?))
        });
        let Some((at, mut look)) = look else {
            return false;
        };
        match self.ops.block(tag, 0).map(|b| b.state) {
            Some(BlockState::Start) => {}
            Some(BlockState::Io) => return true,
            _ => {
                self.end_look(tag, at, false);
                return true;
            }
        }
        let Some(cluster) = self.find_look(tag, &look) else {
            return true;
        };
        let tries = look.tries;
        match look.tried.get_mut(tries) {
            Some(place) if cluster != Cluster::NONE => {
                *place = cluster;
                look.tries += 1;
            }
            _ => {
                self.end_look(tag, at, false);
                return true;
            }
        }
        if let Some(place) = self.heals().and_then(|h| h.looks.get_mut(at)) {
            *place = Some(look);
        }
        if let Some(op) = self.ops.get_mut(tag) {
            op.io = 1;
            if let Some(b) = op.blocks.first_mut() {
                b.state = BlockState::Io;
                b.cluster = cluster;
            }
        }
        self.act(Action::FetchBlock {
            token: look.token,
            cluster,
            check: Check(look.wanted.check),
        });
        true
    }

    /// A cluster that may hold what a peer asks for, other than those that were tried; none at the
    /// end. `None`: a page is not here.
    fn find_look(&mut self, tag: Tag, look: &Look) -> Option<Cluster> {
        let wanted = &look.wanted;
        let digest = Name(wanted.digest);
        let request = self.ops.get(tag).map(|op| op.request)?;
        let slot = request.volume as usize;
        if wanted.lbn < self.blocks_of(slot) {
            let entry = self.look_up(tag, slot, request.lbn)?;
            let cluster = entry.cluster;
            if entry.is_mapped()
                && entry.check.0 == wanted.check
                && !look.tried.contains(&cluster)
                && (digest == Name::NONE || self.name_of(tag, cluster)? == digest)
            {
                return Some(cluster);
            }
        }
        if digest != Name::NONE {
            let (candidates, count) = self.index.lookup(&digest);
            for &cluster in candidates.iter().take(count) {
                if !look.tried.contains(&cluster) && self.name_of(tag, cluster)? == digest {
                    mark!(member_block_found_by_digest);
                    return Some(cluster);
                }
            }
        }
        Some(Cluster::NONE)
    }

    /// A block that a peer asked for was read, or is not it. False: it is another one's.
    pub(super) fn look_read(&mut self, token: u64, ok: bool) -> bool {
        let found = self.heals().and_then(|heals| {
            let is_it = |l: &Option<Look>| l.is_some_and(|l| l.token == token);
            let at = heals.looks.iter().position(is_it)?;
            Some((at, heals.first_tag + (ASKS_MAX + at) as u32))
        });
        let Some((at, tag)) = found else {
            return false;
        };
        let Some(op) = self.ops.get_mut(tag).filter(|op| op.io > 0) else {
            return false;
        };
        op.io = 0;
        if let Some(b) = op.blocks.first_mut() {
            b.state = BlockState::Start;
        }
        if ok {
            self.end_look(tag, at, true);
        } else {
            mark!(member_block_is_bad_here_too);
            self.wake(tag);
        }
        true
    }

    fn end_look(&mut self, tag: Tag, at: usize, ok: bool) {
        let look = self.heals().and_then(|h| h.looks.get_mut(at)?.take());
        self.finish(tag, Status::Ok);
        if let Some(look) = look {
            self.fetched(look.token, ok);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_quarantined_clusters_are_kept_up_to_a_bound() {
        let mut heals = Heals::new(8).unwrap();
        let all = NAMES_MAX as u64 + 10;
        for cluster in 1..=all {
            heals.keep_name(Cluster(cluster), Name([cluster as u8; NAME_BYTES]));
        }
        assert_eq!(heals.names.len(), NAMES_MAX);
        assert_eq!(heals.name(Cluster(10)), None);
        for cluster in 11..=all {
            let name = Name([cluster as u8; NAME_BYTES]);
            assert_eq!(heals.name(Cluster(cluster)), Some(name));
        }
    }

    #[test]
    fn tags_of_heals_and_looks_are_apart_from_all_others() {
        let heals = Heals::new(8).unwrap();
        let first = 8 + STAGE_TAGS;
        assert_eq!(heals.heal_at(first - 1), None);
        assert_eq!(heals.heal_at(first), Some(0));
        let looks = first + ASKS_MAX as u32;
        assert_eq!(
            (heals.heal_at(looks), heals.look_at(looks)),
            (None, Some(0))
        );
        assert_eq!(heals.look_at(looks - 1), None);
        assert_eq!(heals.look_at(first + HEAL_TAGS), None);
    }
}
