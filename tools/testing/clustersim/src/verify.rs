// SPDX-License-Identifier: GPL-2.0

//! Verify: replicas come to differ silently, states are frozen by cuts, and what a verify reports is held
//! against what is known to differ.

use crate::operator::Purpose;
use crate::oracle::{short, Verdict};
use crate::store::{self, Content, Frozen, Image};
use crate::world::{mapped, Event, World};
use ddup_engine::engine::replication::action::{FrozenState, Shown};
use ddup_engine::engine::replication::history::History;
use ddup_engine::engine::replication::set::Set;
use ddup_engine::engine::replication::types::{Entry, Id, Op, Position};
use ddup_engine::engine::replication::verify::{VerifyState, FOUND_MAX, HOLD_MAX};
use ddup_sim::rng::Rng;
use kernel::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// So long may pass until a store notices how late it is, in milliseconds.
const SLACK: u64 = 200;

/// A block: number of the volume, and place.
type Place = (u8, u64);

/// What a store is asked to freeze, and has frozen.
#[derive(Default)]
pub struct Freezes {
    /// Scans that wait; the state that was cut for each, once it was.
    wanted: BTreeMap<u64, Option<Frozen>>,
    /// When a state was to be frozen before anything else is applied.
    holds: BTreeMap<u64, u64>,
    /// The newest state that was frozen, and which blocks differed silently in it.
    flaws: Option<(Position, BTreeSet<Place>)>,
    /// Blocks that were repaired in the verify of this primary.
    repaired: BTreeSet<Place>,
}

impl Freezes {
    /// A scan is not wanted any more.
    pub fn close(&mut self, scan: u64) {
        self.wanted.remove(&scan);
        self.holds.remove(&scan);
    }

    /// The power fails. What was told of a state stays true.
    pub fn crash(&mut self) {
        self.wanted.clear();
        self.holds.clear();
    }
}

/// The blocks that differ silently.
fn flaws(image: &Image) -> BTreeSet<Place> {
    let of_volume = |(volume, blocks): (&u8, &std::vec::Vec<Content>)| {
        let volume = *volume;
        let flawed = (0..).zip(blocks.clone());
        flawed
            .filter(|(_, content)| store::is_flaw(*content))
            .map(move |(lbn, _)| (volume, lbn))
    };
    image.iter().flat_map(of_volume).collect()
}

impl World {
    // What replicas hold.

    /// A block of some replica becomes another one, and nobody notices.
    pub fn flaw(&mut self, r: u64) {
        let mut rng = Rng::new(r);
        let n = rng.below(self.nodes.len() as u64) as usize;
        let verifies =
            |node: &crate::world::Node| node.set.as_ref().is_some_and(|set| set.verifies());
        // What rots or is on its way may differ for other reasons, and a primary says what is right.
        let reigns = self.nodes[n].set.as_ref().is_none_or(|s| s.state().reigns);
        let store = &self.nodes[n].store;
        let busy = !store.pending.is_empty() || store.tip == Position::ZERO;
        if self.oracle.rot || reigns || busy || self.nodes.iter().any(verifies) {
            return;
        }
        let volumes = store::volumes(&self.nodes[n].store.durable);
        let volume = volumes[rng.below(volumes.len() as u64) as usize];
        let (number, lbn) = (volume.uuid[0], rng.below(volume.blocks));
        self.say(|| format!("node {n}: block {lbn} of volume {number} differs from here on"));
        let store = &mut self.nodes[n].store;
        for image in [&mut store.durable, &mut store.live] {
            let block = image.get_mut(&number).and_then(|b| b.get_mut(lbn as usize));
            if let Some(block) = block {
                *block = store::flawed(*block);
                self.totals.flaws += 1;
            }
        }
    }

    /// Who leads is right by definition.
    pub fn end_flaws(&mut self, n: usize) {
        let store = &mut self.nodes[n].store;
        let pending = store.pending.iter_mut().map(|p| &mut p.image);
        for image in pending.chain([&mut store.durable, &mut store.live]) {
            for content in image.values_mut().flatten() {
                *content = store::meant(*content);
            }
        }
    }

    // Frozen states.

    /// A store is to freeze a state, now if it is to be that behind the last epoch.
    pub fn freeze(&mut self, n: usize, scan: u64, now: bool) -> Verdict {
        let life = self.nodes[n].life;
        let busy = now && !self.calm() && self.rng.chance(1, 4);
        if busy {
            // Another checkpoint is under way.
            self.with(n, |set| set.scan_lost(scan));
            return Ok(());
        }
        let freezes = &mut self.nodes[n].freezes;
        freezes.wanted.insert(scan, None);
        if now {
            freezes.holds.insert(scan, self.now);
        }
        // Some cuts take longer than a replica may hold epochs back.
        let slow = now && !self.calm() && self.rng.chance(1, 6);
        let time = self.disk_time() + if slow { 2000 } else { 0 };
        let shares = self.shared_state(n, scan).is_some();
        let event = match !now && (self.rng.chance(1, 3) || (shares && self.rng.chance(3, 4))) {
            true => Event::ScanOpened(n, life, scan),
            false => Event::Cut(n, life, scan),
        };
        self.at(time, event);
        Ok(())
    }

    /// A state that is frozen already and serves a scan, too.
    fn shared_state(&self, n: usize, scan: u64) -> Option<Frozen> {
        let set = self.nodes[n].set.as_ref()?;
        let mut frozen = self.nodes[n].store.scans.values();
        let serves =
            |f: &&Frozen| set.keeps_behind(&f.position) && set.scan_takes(scan, &f.position);
        frozen.find(serves).cloned()
    }

    /// A checkpoint is cut, which ends the open epoch.
    pub fn cut_checkpoint(&mut self, n: usize, scan: u64) -> Verdict {
        if !self.nodes[n].freezes.wanted.contains_key(&scan) {
            return Ok(());
        }
        let held = self.nodes[n].freezes.holds.remove(&scan);
        let held = held.map_or(0, |since| self.now - since);
        if held > HOLD_MAX + SLACK {
            return Err(format!("(13) node {n} holds epochs back for {held} ms"));
        }
        let life = self.nodes[n].life;
        let time = 1 + self.disk_time();
        if !matches!(self.with(n, |set| set.seal()), Some(Ok(()))) {
            self.at(time, Event::Cut(n, life, scan));
            return Ok(());
        }
        self.append_seals(n)?;
        let store = &self.nodes[n].store;
        let cut = store.newest_frozen();
        let position = cut.position;
        self.say(|| format!("node {n} cuts at {} for {scan}", short(&position)));
        self.nodes[n].freezes.wanted.insert(scan, Some(cut));
        self.with(n, |set| set.scan_cut(scan, &position));
        self.at(time, Event::ScanOpened(n, life, scan));
        self.pump(n)
    }

    /// The checkpoint is durable, or there was nothing to cut.
    pub fn scan_opened(&mut self, n: usize, scan: u64) -> Verdict {
        let life = self.nodes[n].life;
        let time = 1 + self.disk_time();
        let Some(wanted) = self.nodes[n].freezes.wanted.get(&scan).cloned() else {
            return Ok(());
        };
        let store = &self.nodes[n].store;
        let (tip, is_cut) = (store.tip, wanted.is_some());
        let frozen = wanted.or_else(|| self.shared_state(n, scan));
        let frozen = frozen.unwrap_or_else(|| store.frozen());
        let position = frozen.position;
        if !self.oracle.contains(&tip, &position) && position != Position::ZERO {
            if tip.epoch < position.epoch {
                self.at(time, Event::ScanOpened(n, life, scan));
                return Ok(());
            }
            // It is of a history that was given up.
            self.with(n, |set| set.scan_lost(scan));
            return self.pump(n);
        }
        if is_cut && !self.calm() && self.rng.chance(1, 10) {
            // It could not be pinned: there is another checkpoint.
            self.at(time, Event::Cut(n, life, scan));
            return Ok(());
        }
        let ends = self.ends_of(&position);
        let volumes = store::volumes(&frozen.image);
        let mapped = store::contents(&frozen.image).filter(|c| *c != 0).count() as u64;
        let opened = self.with(n, |set| -> kernel::error::Result<bool> {
            let history = History::from_ends(&ends)?;
            let state = FrozenState {
                history: &history,
                volumes: &volumes,
                births: &frozen.births,
                blocks: mapped,
            };
            set.scan_opened(scan, Some(state))
        });
        match opened {
            Some(Ok(true)) => {
                let freezes = &mut self.nodes[n].freezes;
                freezes.wanted.remove(&scan);
                freezes.flaws = Some((position, flaws(&frozen.image)));
                self.nodes[n].store.scans.insert(scan, frozen);
                if self.setup.thaws {
                    let time = self.rng.below(400);
                    self.at(time, Event::Thaw(n, life, scan));
                }
            }
            Some(Err(_)) => self.at(time, Event::ScanOpened(n, life, scan)),
            _ => self.nodes[n].freezes.close(scan),
        }
        self.pump(n)
    }

    /// What a frozen state has in a range.
    pub fn show_range(
        &mut self,
        n: usize,
        scan: u64,
        (volume, first, end): (Id, u64, u64),
        max: u32,
    ) -> Verdict {
        let Some(frozen) = self.nodes[n].store.scans.get(&scan) else {
            return Ok(());
        };
        let blocks = frozen
            .image
            .get(&volume[0])
            .map_or(&[][..], |blocks| blocks);
        let inside = end.min(blocks.len() as u64);
        let mut entries = mapped(volume[0], blocks, first, inside, KVec::new())?;
        entries.truncate(max as usize);
        if self.setup.thaws && !self.calm() && self.rng.chance(1, 8) {
            return self.thaw(n, scan);
        }
        let shown = Shown {
            volume,
            range: (first, end),
            entries,
        };
        self.with(n, |set| set.scanned(scan, shown, None));
        self.pump(n)
    }

    // The primary.

    /// Somebody verifies a peer, or ends that.
    pub fn verify(&mut self, r: u64) -> Verdict {
        let mut rng = Rng::new(r);
        let peer = rng.below(self.nodes.len() as u64) as usize;
        for n in 0..self.nodes.len() {
            if self.nodes[n].set.as_ref().is_some_and(|s| s.leads()) {
                if rng.chance(1, 8) {
                    self.command(n, Purpose::Any, |set, c| set.verify_stop(c).is_ok())?;
                } else {
                    // Now and then who is about to fall behind, and will be compared.
                    let peer = match rng.chance(1, 3) {
                        true => self.most_behind(n).unwrap_or(peer),
                        false => peer,
                    };
                    self.verify_peer(n, peer, rng.chance(1, 2))?;
                }
            }
        }
        Ok(())
    }

    /// The peer that lacks most of what a primary has in memory.
    fn most_behind(&self, n: usize) -> Option<usize> {
        let set = self.nodes[n].set.as_ref()?;
        let lag = |peer: &usize| set.peer_state(&self.nodes[*peer].id)?.lag;
        let there = (0..self.nodes.len()).filter(|peer| lag(peer).is_some());
        there.max_by_key(|peer| lag(peer).map_or(0, |lag| lag.entries))
    }

    /// Whether some primary verifies a store.
    pub fn is_verified(&self, n: usize) -> bool {
        let id = self.nodes[n].id;
        let of = |set: &KBox<Set>| {
            let report = set.verify_report().ok().flatten();
            report.is_some_and(|r| r.peer == id && r.state.goes_on())
        };
        self.nodes
            .iter()
            .any(|node| node.set.as_ref().is_some_and(of))
    }

    fn verify_peer(&mut self, n: usize, peer: usize, repair: bool) -> Verdict {
        let id = self.nodes[peer].id;
        if !self.nodes[n].set.as_ref().is_some_and(|s| s.verifies()) {
            self.nodes[n].freezes.repaired.clear();
        }
        self.command(n, Purpose::Any, |set, c| set.verify(c, &id, repair).is_ok())
    }

    /// In the end all that differs is repaired.
    pub fn repair_flaws(&mut self, primary: usize) -> Verdict {
        let differs = |node: &&crate::world::Node| !flaws(&node.store.durable).is_empty();
        let peer = self.nodes.iter().find(differs).map(|node| node.number);
        match peer {
            Some(peer) => self.verify_peer(primary, peer, true),
            None => Ok(()),
        }
    }

    /// What a block holds is to be recorded once more, if it still does.
    pub fn repair_block(&mut self, n: usize, token: u64, entry: Entry) -> Verdict {
        let life = self.nodes[n].life;
        let leads = self.nodes[n].set.as_ref().is_some_and(|s| s.leads());
        let volume = entry.volume[0];
        let meant = match entry.op {
            Op::Write => store::content(&entry.digest),
            _ => 0,
        };
        let blocks = self.nodes[n].store.live.get(&volume);
        let now = blocks.and_then(|b| b.get(entry.lbn as usize)).copied();
        if !leads || now != Some(meant) {
            self.with(n, |set| set.repaired(token, None));
            return self.pump(n);
        }
        let Some(Ok((epoch, _))) = self.with(n, |set| set.write(entry)) else {
            // It waits until it is admitted.
            let time = 1 + self.disk_time();
            self.at(time, Event::Repair(n, life, token, entry));
            return Ok(());
        };
        self.totals.repairs += 1;
        self.wrote(n, epoch, &entry)?;
        let freezes = &mut self.nodes[n].freezes;
        freezes.repaired.insert((volume, entry.lbn));
        self.with(n, |set| set.repaired(token, Some(epoch)));
        self.pump(n)
    }

    /// A verify has ended: it found what differs, all of it and nothing else.
    pub fn verified(&mut self, n: usize, peer: &Id) -> Verdict {
        let peer = usize::from(peer[0]) - 1;
        let set = self.nodes[n].set.as_ref();
        let report = set.map(|s| s.verify_report());
        let Some(report) = report.transpose().map_err(|_| "memory")?.flatten() else {
            return Ok(());
        };
        // Events may be told when the next one goes on already.
        if report.state != VerifyState::Complete || report.peer != self.nodes[peer].id {
            return Ok(());
        }
        self.totals.verifies += 1;
        self.totals.differences += report.differing;
        if self.oracle.rot {
            return Ok(());
        }
        let found = report.found.iter().map(|d| (d.volume[0], d.lbn));
        let found: BTreeSet<Place> = found.collect();
        let known = self.nodes[peer].freezes.flaws.as_ref();
        let known = known.filter(|(position, _)| *position == report.position);
        let Some((_, flaws)) = known else {
            return Err(format!(
                "(13) node {n} has verified {peer} at {}, which it did not freeze",
                short(&report.position)
            ));
        };
        let all = flaws.len() as u64 == report.differing;
        let right = found.is_subset(flaws) && found.len() == flaws.len().min(FOUND_MAX);
        if !all || !right || report.compared != report.blocks || report.volumes_differing > 0 {
            return Err(format!(
                "(13) node {n} has verified {peer}: {report:?}, which differs in {flaws:?}"
            ));
        }
        let left = self::flaws(&self.nodes[peer].store.durable);
        let left = left.intersection(&self.nodes[n].freezes.repaired).next();
        match left.filter(|_| report.repair) {
            Some(place) => Err(format!("(13) node {n} says that {place:?} is repaired")),
            None => Ok(()),
        }
    }
}
