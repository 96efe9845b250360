// SPDX-License-Identifier: GPL-2.0

//! What primaries miss, and the junk of others that it turns up in.
//!
//! Nobody holds such a content at first. Then it lies among the junk of some store, which is about to
//! erase it: it may be kept for a moment for who misses it, and not for longer. At the end, when all
//! are connected, it must come.

use crate::oracle::Verdict;
use crate::store::{self, Content};
use crate::world::World;
use ddup_engine::engine::replication::heal::{Wanted, MISSES_MAX};
use std::collections::BTreeMap;

/// Contents that nothing was written with.
const UNWRITTEN: Content = 1 << 30;
/// Junk is kept so long for who misses it, in milliseconds.
const SPARED: u64 = 1000;

/// A store's part in this.
#[derive(Debug, Default)]
pub struct Misses {
    /// What it misses, by number.
    missed: BTreeMap<u64, Content>,
    /// What it is about to erase, and since when it is spared.
    junk: BTreeMap<Content, Option<u64>>,
}

impl Misses {
    /// The power fails.
    pub fn crash(&mut self) {
        *self = Misses::default();
    }

    /// Whether a content lies among the junk.
    pub fn holds(&self, content: Content) -> bool {
        self.junk.contains_key(&content)
    }
}

impl World {
    /// A store misses something, if it leads, and what another one misses turns up in its junk.
    pub fn miss(&mut self, n: usize, number: u64) -> Verdict {
        let contents = || self.nodes.iter().flat_map(|n| n.misses.missed.values());
        let count = contents().count() as u64;
        if count > 0 && number % 2 == 0 {
            let at = number / 2 % count;
            if let Some(content) = contents().nth(at as usize).copied() {
                self.nodes[n].misses.junk.entry(content).or_default();
            }
        }
        self.erase(n)?;
        if number % 6 == 3 && self.nodes[n].misses.missed.len() < MISSES_MAX {
            self.begin_to_miss(n, number);
        }
        self.pump(n)
    }

    fn begin_to_miss(&mut self, n: usize, number: u64) -> Content {
        let content = UNWRITTEN + number as Content;
        let wanted = Wanted {
            volume: [1; 16],
            lbn: 0,
            check: store::check(content),
            digest: store::digest(content),
        };
        if let Some(Ok(())) = self.with(n, |set| set.miss(number, wanted)) {
            self.nodes[n].misses.missed.insert(number, content);
            self.totals.misses += 1;
        }
        content
    }

    /// Erases junk, but what is missed elsewhere.
    fn erase(&mut self, n: usize) -> Verdict {
        let junk: Vec<Content> = self.nodes[n].misses.junk.keys().copied().collect();
        for content in junk {
            let digest = store::digest(content);
            let spares = self.with(n, |set| set.spares(&digest)) == Some(true);
            let now = self.now;
            let Some(since) = self.nodes[n].misses.junk.get_mut(&content) else {
                continue;
            };
            if !spares {
                self.nodes[n].misses.junk.remove(&content);
            } else if now > *since.get_or_insert(now) + SPARED {
                // Each of those that miss it has its own second.
                let others = self.nodes.iter().flat_map(|n| n.misses.missed.values());
                if others.filter(|c| **c == content).count() <= 1 {
                    return Err(format!("(11) node {n} keeps junk for a peer for ever"));
                }
            }
        }
        Ok(())
    }

    /// Something came that may be missed. False: it is not.
    pub fn missed_came(&mut self, n: usize, number: u64, handle: u64) -> Result<bool, String> {
        let Some(content) = self.nodes[n].misses.missed.remove(&number) else {
            return Ok(false);
        };
        let came = self.nodes[n].blocks.remove(&handle);
        if came != Some(content) {
            return Err(format!("(7) node {n} misses {content} and gets {came:?}"));
        }
        self.with(n, |set| set.forget_miss(number));
        self.totals.missed_came += 1;
        Ok(true)
    }

    /// All are connected: what the primary misses comes from the junk of a peer.
    pub fn miss_at_last(&mut self, primary: usize) -> Verdict {
        self.serial += 1;
        let number = self.serial;
        let content = self.begin_to_miss(primary, number);
        self.pump(primary)?;
        self.advance(self.now + 2000)?;
        let id = self.nodes[primary].id;
        let hears = |w: &World, n: usize| {
            let set = w.nodes[n].set.as_ref();
            set.and_then(|s| s.peer_state(&id))
                .is_some_and(|p| p.followed)
        };
        let Some(peer) = (0..self.nodes.len()).find(|n| hears(self, *n)) else {
            return Ok(());
        };
        if !self.is_leading(primary) || !self.nodes[primary].misses.missed.contains_key(&number) {
            return Ok(());
        }
        self.nodes[peer].misses.junk.insert(content, None);
        self.erase(peer)?;
        self.pump(peer)?;
        self.advance(self.now + 2000)?;
        if self.nodes[primary].misses.missed.contains_key(&number) && self.is_leading(primary) {
            return Err(format!(
                "node {primary} misses what node {peer} had among its junk"
            ));
        }
        self.erase(peer)?;
        match self.nodes[peer].misses.holds(content) {
            true => Err(format!("(11) node {peer} keeps junk for ever")),
            false => Ok(()),
        }
    }
}
