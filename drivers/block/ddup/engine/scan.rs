// SPDX-License-Identifier: GPL-2.0

//! Frozen states: the last durable checkpoint of a member, kept as it is while a peer is compared
//! with it, and the walk that shows what is mapped there. At most one is frozen at a time, and all
//! peers that are being compared share it: one of them may wait for what another one acknowledges.
//!
//! The pages of that checkpoint stay because it is *pinned* (`pin.rs`). The clusters stay because
//! nothing is retired while a state is frozen: what the checkpoint refers to was Live in it, so it
//! can become Junk only by a later one, and junk that is not retired is neither written nor loses
//! its name. So the maps are read from the pinned pages, beside the cache, which knows only the
//! newest ones, and names from the trees as they are.
//!
//! A peer whose position is known is shown a *diff*: what may have changed since a generation that had
//! ended there. Of a subtree that is not younger only the range is told, so its pages are not read. In
//! younger ones each block that is not younger is part of such a range, too. An empty slot in a page
//! that changed says nothing of when it became empty: it is in no range, and so empty at the peer.
//!
//! Nobody waits for a frozen state: it ends when space or room for metadata is short, and the
//! compare begins anew.

use super::births::Births;
use super::buf::zeroed;
use super::cache::Tree;
use super::format::page::{self, name_read, MapEntry, Pointer, FANOUT, MAP_LEAF, NAME_LEAF};
use super::mark::mark;
use super::mutant::mutant;
use super::overlay::{key, key_parts};
use super::replication::action::{FrozenState, Shown};
use super::replication::codec::copy;
use super::replication::history::History;
use super::replication::types::{Entry, Id, Op, Volume, MEMBERS_MAX, NO_ID};
use super::ring::Ring;
use super::state::{IoToken, Store};
use super::tree::Page;
use super::types::{Cluster, Generation, Lbn, Name, CLUSTER_SIZE, LEVELS_MAX};
use super::{Action, Buf};
use kernel::prelude::*;

/// Blocks that one entry of a diff keeps: a peer has work for a while with each, and says with credit
/// how far it is.
const KEEP_MAX: u64 = 1 << 13;
/// Tries to read a page.
const READ_TRIES: u8 = 3;

/// A page on the path to the leaf that is being shown.
struct PathPage {
    place: Cluster,
    buf: Buf,
}

/// A page that is being read.
struct Reading {
    /// For which of the paths.
    path: usize,
    pointer: Pointer,
    tree: Tree,
    entry: u64,
    level: u8,
    tries: u8,
}

/// What is to be shown next.
struct Wish {
    /// Where it begins, the next block that is looked at, and where it ends at the latest.
    from: u64,
    cursor: u64,
    end: u64,
    max: usize,
    /// What is not younger than this is only said to be as it was.
    since: Option<Generation>,
    entries: KVec<Entry>,
}

impl Wish {
    /// What lies from the cursor to `end`, or the first part of that, is as it was.
    fn keep(&mut self, volume: Id, end: u64) {
        let (_, first) = key_parts(self.cursor);
        let count = end.saturating_sub(first.0).min(KEEP_MAX);
        self.cursor += count;
        let follows = |e: &&mut Entry| {
            e.op == Op::Keep && e.lbn + e.count == first.0 && e.count + count <= KEEP_MAX
        };
        match self.entries.last_mut().filter(follows) {
            Some(last) => last.count += count,
            None => {
                let _ = self.entries.push_within_capacity(Entry {
                    op: Op::Keep,
                    volume,
                    lbn: first.0,
                    count,
                    ..Entry::default()
                });
            }
        }
    }
}

/// What is known of the path to a block.
enum Path {
    /// Its leaf is here.
    Leaf,
    /// Nothing is mapped before this block.
    Nothing(u64),
    /// Nothing has changed before this block.
    Unchanged(u64),
    /// A page is being read.
    Wait,
}

/// Who is shown a frozen state.
struct Viewer {
    scan: u64,
    wish: Option<Wish>,
}

/// A block that a peer asks for.
#[derive(Clone, Copy)]
struct Asked {
    token: u64,
    /// Which of the maps.
    map: usize,
    lbn: u64,
}

/// The path to what is shown next.
const SHOW_PATH: usize = 0;
/// The path to what a peer asks for.
const ASK_PATH: usize = 1;

/// A state that is frozen.
struct Frozen {
    /// Names the pin.
    cookie: u64,
    /// Where it is in the set's history, and how many blocks it maps.
    history: History,
    births: Births,
    blocks: u64,
    viewers: KVec<Viewer>,
    /// Which of them is shown something now.
    turn: usize,
    maps: KVec<(Tree, Id, u64)>,
    /// The same volumes, as peers are told of them.
    volumes: KVec<Volume>,
    /// Discards that the checkpoint had not finished, by slot in `maps`.
    punches: KVec<(u64, u64)>,
    paths: [[Option<PathPage>; LEVELS_MAX]; 2],
    reading: Option<Reading>,
    asked: Ring<Asked>,
}

/// The frozen state of a member, and who waits for one.
pub(super) struct Scans {
    /// Wanted, in order.
    wanted: KVec<u64>,
    /// The cut of a checkpoint that may serve the first of them has been made.
    cut: bool,
    frozen: Option<KBox<Frozen>>,
}

impl Scans {
    pub(super) fn new() -> Self {
        Scans {
            wanted: KVec::new(),
            cut: false,
            frozen: None,
        }
    }

    /// Scans that wait for a frozen state.
    pub(super) fn wanted(&self) -> usize {
        self.wanted.len()
    }

    /// Scans that are shown the frozen state.
    pub(super) fn shown(&self) -> usize {
        self.frozen.as_ref().map_or(0, |f| f.viewers.len())
    }

    /// Those that wait for the next blocks.
    pub(super) fn wishes(&self) -> usize {
        let viewers = self.frozen.iter().flat_map(|f| &f.viewers);
        viewers.filter(|v| v.wish.is_some()).count()
    }
}

/// Whether what was born then is as it was when a generation ended.
fn is_old(birth: Generation, since: Option<Generation>) -> bool {
    since.is_some_and(|since| birth <= since || mutant!(260) && birth.0 <= since.0 + 1)
}

impl Store {
    fn scans(&mut self) -> Option<&mut Scans> {
        self.member.as_mut().map(|m| &mut m.scans)
    }

    /// Whether a state is frozen: nothing may be retired.
    pub(super) fn is_frozen(&self) -> bool {
        let frozen = self
            .member
            .as_ref()
            .is_some_and(|m| m.scans.frozen.is_some());
        frozen && !mutant!(88)
    }

    /// A frozen state is wanted. False: not now.
    pub(super) fn open_scan(&mut self, scan: u64) -> bool {
        let wanted = self
            .scans()
            .map(|s| s.wanted.push(scan, GFP_KERNEL).is_ok());
        wanted.unwrap_or(true)
    }

    /// The state as it is now is wanted, frozen by a checkpoint that is cut at once: what is to be
    /// applied next waits for that. False: not now.
    pub(super) fn freeze_now(&mut self, scan: u64) -> bool {
        let frozen = self.scans().is_some_and(|s| s.frozen.is_some());
        if !(frozen || self.pin.is_some()) {
            return self.open_scan(scan);
        }
        mark!(member_can_not_freeze_now);
        if let Some(member) = self.member.as_mut() {
            member.set_mut().scan_lost(scan);
        }
        true
    }

    /// A frozen state is not wanted any more.
    pub(super) fn close_scan(&mut self, scan: u64) {
        let Some(scans) = self.scans() else {
            return;
        };
        scans.wanted.retain(|s| *s != scan);
        let Some(frozen) = scans.frozen.as_mut() else {
            return;
        };
        frozen.viewers.retain(|v| v.scan != scan);
        if frozen.viewers.is_empty() {
            let frozen = scans.frozen.take();
            if let Some(frozen) = frozen {
                self.unpin(frozen.cookie);
                self.refuse_asked(&frozen.asked);
            }
        }
    }

    /// What was asked for and not found yet has no good copy, for all that is known.
    fn refuse_asked(&mut self, asked: &Ring<Asked>) {
        for asked in asked.iter() {
            self.fetch(asked.token, None);
        }
    }

    /// The frozen state gives way to who waits for space.
    pub(super) fn end_frozen(&mut self) {
        let Some(scans) = self.scans() else {
            return;
        };
        if let Some(frozen) = scans.frozen.take() {
            mark!(member_frozen_gives_way);
            self.unpin(frozen.cookie);
            self.refuse_asked(&frozen.asked);
            for viewer in &frozen.viewers {
                if let Some(member) = self.member.as_mut() {
                    member.set_mut().scan_lost(viewer.scan);
                }
            }
        }
    }

    /// A checkpoint is being cut: it may serve who waits.
    pub(super) fn scans_at_cut(&mut self) {
        let Some(position) = self.history_at_cut().map(|history| history.position()) else {
            return;
        };
        let Some(member) = self.member.as_mut() else {
            return;
        };
        member.scans.cut = !member.scans.wanted.is_empty();
        for at in 0..member.scans.wanted.len() {
            if let Some(&scan) = member.scans.wanted.get(at) {
                member.set_mut().scan_cut(scan, &position);
            }
        }
    }

    /// A checkpoint is durable.
    pub(super) fn scans_at_durable(&mut self) {
        let may = self.scans().is_some_and(|s| core::mem::take(&mut s.cut));
        if may {
            self.freeze();
        }
    }

    /// One step: makes a checkpoint be cut for who waits, and goes on with what is to be shown. True:
    /// something was.
    pub(super) fn frozen_step(&mut self) -> bool {
        let Some(member) = self.member.as_ref() else {
            return false;
        };
        if let Some(frozen) = &member.scans.frozen {
            let cookie = frozen.cookie;
            if self.renew_pin(cookie, true) {
                self.join_viewers();
                return self.show_step();
            }
            self.end_frozen();
        } else if !member.scans.wanted.is_empty() && self.pin.is_none() {
            match self.dirty_since.is_some() || self.checkpointer.is_running() {
                true => self.checkpointer.want(),
                // Nothing has changed since the last one.
                false => self.freeze(),
            }
        }
        false
    }

    /// Who waits for a frozen state is shown the one that there is.
    fn join_viewers(&mut self) {
        while let Some(member) = self.member.as_mut() {
            let Some(&scan) = member.scans.wanted.first() else {
                return;
            };
            let Some(frozen) = member.scans.frozen.as_ref() else {
                return;
            };
            if !member.set().keeps_behind(&frozen.history.position()) {
                // What comes behind this state is forgotten: all begin anew with a younger one.
                return self.end_frozen();
            }
            if !member.set().scan_takes(scan, &frozen.history.position()) {
                // It waits for a younger one.
                mark!(member_frozen_is_too_old);
                return;
            }
            let copies = (frozen.history.try_clone(), copy(&frozen.volumes));
            let (Ok(history), Ok(volumes)) = copies else {
                return;
            };
            let (births, blocks) = (frozen.births, frozen.blocks);
            let viewer = Viewer { scan, wish: None };
            let Some(frozen) = member.scans.frozen.as_mut() else {
                return;
            };
            if frozen.viewers.reserve(1, GFP_KERNEL).is_err() {
                return;
            }
            let _ = frozen.viewers.push_within_capacity(viewer);
            let shown = FrozenState {
                history: &history,
                volumes: &volumes,
                births: &births,
                blocks,
            };
            match member.set_mut().scan_opened(scan, Some(shown)) {
                Ok(true) => {
                    mark!(member_frozen_is_shared);
                }
                opened => {
                    if let Some(frozen) = member.scans.frozen.as_mut() {
                        let _ = frozen.viewers.pop();
                    }
                    if opened.is_err() {
                        return;
                    }
                }
            }
            let _ = member.scans.wanted.remove(0);
        }
    }

    /// Freezes the checkpoint that has just become durable, or is still all that there is.
    fn freeze(&mut self) {
        let Some(&scan) = self.member.as_ref().and_then(|m| m.scans.wanted.first()) else {
            return;
        };
        let Some(mut frozen) = self.frozen_state(scan) else {
            return;
        };
        let Ok((cookie, _)) = self.pin() else {
            return;
        };
        frozen.cookie = cookie;
        let Some(member) = self.member.as_mut() else {
            return;
        };
        let shown = FrozenState {
            history: &frozen.history,
            volumes: &frozen.volumes,
            births: &frozen.births,
            blocks: frozen.blocks,
        };
        match member.set_mut().scan_opened(scan, Some(shown)) {
            Ok(true) => {
                mark!(member_frozen);
                let _ = member.scans.wanted.remove(0);
                member.scans.frozen = Some(frozen);
                self.renew_pin(cookie, true);
            }
            opened => {
                if opened.is_ok() {
                    let _ = member.scans.wanted.remove(0);
                }
                self.unpin(cookie);
            }
        }
    }

    /// The maps of the durable checkpoint. `None`: no memory.
    fn frozen_state(&self, scan: u64) -> Option<KBox<Frozen>> {
        let slots = self.volumes.len();
        let mut maps = KVec::with_capacity(slots, GFP_KERNEL).ok()?;
        let mut volumes = KVec::with_capacity(slots, GFP_KERNEL).ok()?;
        let mut punches: KVec<(u64, u64)> = KVec::new();
        for slot in 0..slots {
            let Some(volume) = self.shown(slot) else {
                continue;
            };
            let tree = self.map(slot)?;
            let number = maps.len();
            let own = |start: u64| key_parts(start).0 == slot;
            for (start, end) in self.checkpointer.punches().filter(|p| own(p.0)) {
                let first = key(number, key_parts(start).1);
                punches
                    .push((first, first + (end - start)), GFP_KERNEL)
                    .ok()?;
            }
            let (uuid, blocks) = (volume.uuid, volume.size());
            maps.push((tree, uuid, blocks), GFP_KERNEL).ok()?;
            volumes.push(Volume { uuid, blocks }, GFP_KERNEL).ok()?;
        }
        let mut viewers = KVec::with_capacity(MEMBERS_MAX, GFP_KERNEL).ok()?;
        let _ = viewers.push_within_capacity(Viewer { scan, wish: None });
        let frozen = Frozen {
            cookie: 0,
            history: self.superblock.history().ok()?,
            births: self.superblock.births,
            blocks: self.superblock.checkpoint.owner_count,
            viewers,
            turn: 0,
            maps,
            volumes,
            punches,
            paths: [const { [const { None }; LEVELS_MAX] }; 2],
            reading: None,
            asked: Ring::new(),
        };
        KBox::new(frozen, GFP_KERNEL).ok()
    }

    /// The next mapped blocks are wanted. False: not now.
    pub(super) fn scan(
        &mut self,
        scan: u64,
        cursor: u64,
        max: u32,
        since: Option<Generation>,
    ) -> bool {
        self.wish(scan, (cursor, u64::MAX), max, since)
    }

    /// The first mapped blocks of a range are wanted. False: not now.
    pub(super) fn scan_range(
        &mut self,
        scan: u64,
        volume: Id,
        (first, end): (u64, u64),
        max: u32,
    ) -> bool {
        let frozen = self.scans().and_then(|s| s.frozen.as_ref());
        let map = frozen.and_then(|f| f.maps.iter().position(|m| m.1 == volume && first < m.2));
        if let Some(map) = map {
            let range = (key(map, Lbn(first)), key(map, Lbn(0)).saturating_add(end));
            return self.wish(scan, range, max, None);
        }
        // A volume that is not there, or ends before.
        if let Some(member) = self.member.as_mut() {
            let shown = Shown {
                volume,
                range: (first, end),
                entries: KVec::new(),
            };
            member.set_mut().scanned(scan, shown, None);
        }
        true
    }

    fn wish(
        &mut self,
        scan: u64,
        (cursor, end): (u64, u64),
        max: u32,
        since: Option<Generation>,
    ) -> bool {
        let Ok(entries) = KVec::with_capacity(max as usize, GFP_KERNEL) else {
            return false;
        };
        let frozen = self.scans().and_then(|s| s.frozen.as_mut());
        let viewer = frozen.and_then(|f| f.viewers.iter_mut().find(|v| v.scan == scan));
        if let Some(viewer) = viewer {
            viewer.wish = Some(Wish {
                from: cursor,
                cursor,
                end,
                max: max as usize,
                since,
                entries,
            });
        }
        true
    }

    /// Goes on with what is to be shown and what is asked for, until a page has to be read. True:
    /// something was shown.
    fn show_step(&mut self) -> bool {
        while self.answer_asked() {}
        let mut shown = false;
        loop {
            let Some(frozen) = self.scans().and_then(|s| s.frozen.as_mut()) else {
                return shown;
            };
            if frozen.reading.is_some() {
                return shown;
            }
            let wishes =
                |f: &Frozen, at: usize| f.viewers.get(at).is_some_and(|v| v.wish.is_some());
            if !wishes(frozen, frozen.turn) {
                let Some(turn) = (0..frozen.viewers.len()).find(|at| wishes(frozen, *at)) else {
                    return shown;
                };
                frozen.turn = turn;
            }
            let viewer = frozen.viewers.get(frozen.turn);
            let Some(wish) = viewer.and_then(|v| v.wish.as_ref()) else {
                return shown;
            };
            let (since, (slot, lbn)) = (wish.since, key_parts(wish.cursor));
            let Some(&(tree, uuid, size)) = frozen.maps.get(slot) else {
                self.shown_all(true);
                shown = true;
                continue;
            };
            let over = wish.entries.len() >= wish.max || wish.cursor >= wish.end;
            if over || slot != key_parts(wish.from).0 {
                self.shown_all(false);
                shown = true;
                continue;
            }
            if lbn.0 >= size {
                self.go_on(key(slot + 1, Lbn(0)));
                continue;
            }
            match self.frozen_leaf(SHOW_PATH, &tree, lbn.0, since) {
                Path::Leaf => {}
                Path::Nothing(until) => {
                    self.go_on(key(slot, Lbn(0)) + until.min(size));
                    continue;
                }
                Path::Unchanged(until) => {
                    mark!(member_subtree_unchanged);
                    self.keep(uuid, until.min(size));
                    continue;
                }
                Path::Wait => return shown,
            }
            if !self.show_block(uuid, slot, lbn) {
                return shown;
            }
        }
    }

    /// Answers for the oldest block that a peer asks for. False: there is none, or it has to be read.
    fn answer_asked(&mut self) -> bool {
        if !self.actions_room() {
            return false;
        }
        let Some(frozen) = self.scans().and_then(|s| s.frozen.as_ref()) else {
            return false;
        };
        let Some((&asked, None)) = frozen.asked.first().map(|a| (a, frozen.reading.as_ref()))
        else {
            return false;
        };
        let place = match frozen.maps.get(asked.map).copied() {
            Some((tree, _, _)) => match self.frozen_leaf(ASK_PATH, &tree, asked.lbn, None) {
                Path::Leaf => {
                    let entry = self.frozen_entry(ASK_PATH, asked.lbn);
                    entry.is_mapped().then_some((entry.cluster, entry.check))
                }
                Path::Nothing(_) | Path::Unchanged(_) => None,
                Path::Wait => return false,
            },
            None => None,
        };
        if let Some(frozen) = self.scans().and_then(|s| s.frozen.as_mut()) {
            let _ = frozen.asked.pop_front();
        }
        self.fetch(asked.token, place);
        true
    }

    /// Whose turn it is.
    fn viewer(&mut self) -> Option<&mut Viewer> {
        let frozen = self.scans()?.frozen.as_mut()?;
        let turn = frozen.turn;
        frozen.viewers.get_mut(turn)
    }

    fn go_on(&mut self, cursor: u64) {
        if let Some(wish) = self.viewer().and_then(|v| v.wish.as_mut()) {
            wish.cursor = cursor;
        }
    }

    /// What lies before `end` is as it was, but for what a discard has still to take away.
    fn keep(&mut self, volume: Id, end: u64) {
        let Some(frozen) = self.scans().and_then(|s| s.frozen.as_mut()) else {
            return;
        };
        let Frozen {
            viewers,
            punches,
            turn,
            ..
        } = &mut **frozen;
        let viewer = viewers.get_mut(*turn);
        let Some(wish) = viewer.and_then(|v| v.wish.as_mut()) else {
            return;
        };
        let volume_at = key(key_parts(wish.cursor).0, Lbn(0));
        let end = volume_at + end;
        let within = |p: &&(u64, u64)| p.0 <= wish.cursor && wish.cursor < p.1;
        if let Some(punch) = punches.iter().find(within) {
            wish.cursor = punch.1.min(end);
            return;
        }
        let behind = punches.iter().filter(|p| p.0 > wish.cursor);
        let end = behind.map(|p| p.0).fold(end, u64::min);
        wish.keep(volume, end - volume_at);
    }

    /// Sees to it that the leaf of a block is in the path, unless it is not younger than `since`.
    fn frozen_leaf(
        &mut self,
        path: usize,
        tree: &Tree,
        entry: u64,
        since: Option<Generation>,
    ) -> Path {
        let mut pointer = tree.root;
        for level in (0..tree.levels).rev() {
            if pointer.is_null() {
                return Path::Nothing(tree.end_of(entry, level));
            }
            if is_old(pointer.birth, since) {
                return Path::Unchanged(tree.end_of(entry, level));
            }
            let at = usize::from(level);
            let Some(frozen) = self.scans().and_then(|s| s.frozen.as_mut()) else {
                return Path::Wait;
            };
            let known = frozen
                .paths
                .get(path)
                .and_then(|path| path.get(at)?.as_ref());
            let Some(known) = known.filter(|p| p.place == pointer.place) else {
                let Ok(buf) = zeroed(CLUSTER_SIZE) else {
                    return Path::Wait;
                };
                frozen.reading = Some(Reading {
                    path,
                    pointer,
                    tree: *tree,
                    entry,
                    level,
                    tries: 1,
                });
                self.act(Action::ReadMeta {
                    token: IoToken::FrozenPage,
                    cluster: pointer.place,
                    buf,
                });
                return Path::Wait;
            };
            if level > 0 {
                let child = tree.page_at(entry, level - 1).index % FANOUT;
                pointer = Pointer::of_child(&known.buf, child);
            }
        }
        Path::Leaf
    }

    /// A page of the frozen state came.
    pub(super) fn frozen_page_done(&mut self, buf: Buf, ok: bool) {
        let (hash, uuid) = (self.config.hash, self.superblock.uuid);
        let clusters = self.superblock.layout.clusters;
        let Some(frozen) = self.scans().and_then(|s| s.frozen.as_mut()) else {
            return;
        };
        let Some(mut reading) = frozen.reading.take() else {
            return;
        };
        let (id, pointer) = (
            reading.tree.page_at(reading.entry, reading.level),
            reading.pointer,
        );
        let sound = ok
            && page::verify(&buf, hash, &uuid, id, pointer.place, Some(pointer.sum)).is_ok()
            && page::validate_entries(&buf, id, clusters).is_ok();
        if sound {
            let path = frozen.paths.get_mut(reading.path);
            if let Some(place) = path.and_then(|p| p.get_mut(usize::from(reading.level))) {
                *place = Some(PathPage {
                    place: pointer.place,
                    buf,
                });
            }
        } else if reading.tries < READ_TRIES {
            reading.tries += 1;
            frozen.reading = Some(reading);
            self.act(Action::ReadMeta {
                token: IoToken::FrozenPage,
                cluster: pointer.place,
                buf,
            });
        } else {
            mark!(member_frozen_page_lost);
            self.end_frozen();
        }
    }

    /// Shows the block at the cursor, if it is mapped. False: its name is not known yet.
    fn show_block(&mut self, volume: Id, slot: usize, lbn: Lbn) -> bool {
        let Some(frozen) = self.scans().and_then(|s| s.frozen.as_ref()) else {
            return false;
        };
        let place = key(slot, lbn);
        let punched = frozen.punches.iter().any(|p| p.0 <= place && place < p.1);
        let entry = self.frozen_entry(SHOW_PATH, lbn.0);
        let since = self.viewer().and_then(|v| v.wish.as_ref()?.since);
        let shows = entry.is_mapped() || (since.is_some() && mutant!(261));
        if !shows || (punched && !mutant!(89)) {
            self.go_on(place + 1);
            return true;
        }
        if is_old(entry.birth, since) {
            self.keep(volume, lbn.0 + 1);
            return true;
        }
        let Some(name) = self.name_now(entry.cluster) else {
            return false;
        };
        let Some(viewer) = self.viewer() else {
            return false;
        };
        if let Some(wish) = viewer.wish.as_mut() {
            let _ = wish.entries.push_within_capacity(Entry {
                op: Op::Write,
                fresh: false,
                volume,
                lbn: lbn.0,
                count: 1,
                check: entry.check.0,
                digest: name.0,
            });
            wish.cursor = place + 1;
        }
        true
    }

    /// The entry of a block whose leaf is in a path.
    fn frozen_entry(&mut self, path: usize, lbn: u64) -> MapEntry {
        let frozen = self.scans().and_then(|s| s.frozen.as_ref());
        let leaf = frozen.and_then(|f| f.paths.get(path)?.first()?.as_ref());
        leaf.map_or(MapEntry::NONE, |p| MapEntry::read(&p.buf, lbn % MAP_LEAF))
    }

    /// The name of a cluster that nothing can take it from now; `None`: it is not known yet.
    pub(super) fn name_now(&mut self, cluster: Cluster) -> Option<Name> {
        if let Some(known) = self.overlay.name(cluster) {
            return Some(known);
        }
        match self.page(&self.names.clone(), cluster.0, 0) {
            Page::Here(slot) => Some(name_read(self.cache.page(slot), cluster.0 % NAME_LEAF)),
            Page::Absent(_) => Some(Name::NONE),
            // It is looked for again when the page is there.
            Page::Wait(_) | Page::Busy => None,
        }
    }

    fn shown_all(&mut self, ends: bool) {
        let Some(viewer) = self.viewer() else {
            return;
        };
        let (scan, wish) = (viewer.scan, viewer.wish.take());
        let (Some(wish), Some(member)) = (wish, self.member.as_mut()) else {
            return;
        };
        let (slot, first) = key_parts(wish.from);
        let (last, lbn) = key_parts(wish.cursor);
        let frozen = member.scans.frozen.as_ref();
        let map = frozen.and_then(|f| f.maps.get(slot)).copied();
        let (volume, size) = map.map_or((NO_ID, 0), |(_, volume, size)| (volume, size));
        let end = if last == slot { lbn.0.min(size) } else { size };
        let shown = Shown {
            volume,
            range: (first.0.min(end), end),
            entries: wish.entries,
        };
        let next = (!ends).then_some(wish.cursor);
        member.set_mut().scanned(scan, shown, next);
    }

    /// A peer asks for a block of the frozen state. False: not now.
    pub(super) fn fetch_frozen(
        &mut self,
        token: u64,
        scan: u64,
        (volume, lbn): (&Id, u64),
    ) -> bool {
        let frozen = self.scans().and_then(|s| s.frozen.as_mut());
        let frozen = frozen.filter(|f| f.viewers.iter().any(|v| v.scan == scan));
        let known = frozen.and_then(|f| Some((f.maps.iter().position(|m| m.1 == *volume)?, f)));
        match known {
            Some((map, frozen)) if lbn < frozen.maps.get(map).map_or(0, |m| m.2) => {
                let asked = Asked { token, map, lbn };
                frozen.asked.reserve(1).is_ok() && frozen.asked.push(asked).is_ok()
            }
            _ => {
                self.fetch(token, None);
                true
            }
        }
    }
}
