// SPDX-License-Identifier: GPL-2.0

//! What must hold: all positions that were ever sealed, all FLUSHes that were acknowledged, and what
//! follows from them for each durable change. Numbers are those of the invariants in the protocol
//! document.

use crate::store::{meant, volumes, Image, BAD};
use ddup_engine::engine::replication::types::{Id, Position};
use std::collections::BTreeMap;

/// A claim that does not hold.
pub type Verdict = Result<(), String>;

/// A position, as a key.
type Key = (u64, Id, u64, u64);

fn key(p: &Position) -> Key {
    (p.term, p.reign, p.epoch, p.chain)
}

/// A position for messages.
pub fn short(p: &Position) -> String {
    format!("{}.{:02x}/{}", p.term, p.reign[0], p.epoch)
}

/// What is known of a set's past.
#[derive(Default)]
pub struct Oracle {
    /// The volumes at each position, and the position before.
    states: BTreeMap<Key, (Image, Position)>,
    /// Who reigned in a term, and its reign.
    reigns: BTreeMap<u64, (usize, u64, Id)>,
    /// Positions of acknowledged FLUSHes.
    acknowledged: Vec<Position>,
    /// Configurations and the one that each was made from.
    parents: BTreeMap<Id, Id>,
    /// The volumes at the beginning.
    pub first: Image,
    /// Blocks may be lost.
    pub rot: bool,
}

impl Oracle {
    /// Invariants 2 and 3: a primary sealed an epoch.
    pub fn seal(
        &mut self,
        who: (usize, u64),
        position: &Position,
        parent: &Position,
        image: &Image,
        forced: bool,
    ) -> Verdict {
        if position.epoch != parent.epoch + 1 {
            return Err(format!("(3) {} follows {}", short(position), short(parent)));
        }
        let reign = (who.0, who.1, position.reign);
        let known = *self.reigns.entry(position.term).or_insert(reign);
        if known != reign && !forced {
            return Err(format!(
                "(2) two reigns in term {}: {known:?} and {reign:?}",
                position.term
            ));
        }
        let state = (image.clone(), *parent);
        if self.states.insert(key(position), state).is_some() {
            return Err(format!("(2) {} was sealed twice", short(position)));
        }
        Ok(())
    }

    /// Whether the history that ends at `tip` went through `position`.
    pub fn contains(&self, tip: &Position, position: &Position) -> bool {
        let mut at = *tip;
        while at.epoch > position.epoch {
            match self.states.get(&key(&at)) {
                Some((_, parent)) => at = *parent,
                None => return false,
            }
        }
        at == *position
    }

    /// Invariants 3, 4, 7 and 10: a store is about to be in, or is in, the state at a position.
    pub fn state(&self, what: &str, position: &Position, image: &Image) -> Verdict {
        if *position == Position::ZERO {
            return if *image == self.first {
                Ok(())
            } else {
                Err(format!("(4) {what}: not empty at the beginning"))
            };
        }
        let Some((expected, _)) = self.states.get(&key(position)) else {
            return Err(format!("(4) {what}: nobody sealed {}", short(position)));
        };
        if volumes(image) != volumes(expected) {
            return Err(format!(
                "(3) {what} at {}: volumes are {:?}, not {:?}",
                short(position),
                volumes(image),
                volumes(expected)
            ));
        }
        for (number, blocks) in image {
            for (at, (here, there)) in blocks.iter().zip(&expected[number]).enumerate() {
                let lost = self.rot && (*here == BAD || *there == BAD);
                if meant(*here) != *there && !lost {
                    return Err(format!(
                        "(3) {what} at {}: block {at} of volume {number} is {here}, not {there}",
                        short(position)
                    ));
                }
            }
        }
        Ok(())
    }

    /// Invariant 4: epochs are applied in the order of their history, some of a reign as one if they may
    /// be merged.
    pub fn follows(&self, position: &Position, last: &Position, merges: bool) -> Verdict {
        let merged = merges && position.is_of_reign(last) && self.contains(position, last);
        match self.states.get(&key(position)) {
            Some((_, parent)) if parent == last || merged => Ok(()),
            _ => Err(format!(
                "(4) {} was applied on {}",
                short(position),
                short(last)
            )),
        }
    }

    /// Epochs are merged: none between these positions changes volumes.
    pub fn merges(&self, from: &Position, to: &Position) -> Verdict {
        let mut path = self.path(to);
        path.retain(|position| position.epoch >= from.epoch);
        let state = |position: &Position| self.states.get(&key(position)).map(|(i, _)| volumes(i));
        let same = path.windows(2).all(|two| state(&two[0]) == state(&two[1]));
        match path.first() == Some(from) && same {
            true => Ok(()),
            false => Err(format!("(3) {} to {} are merged", short(from), short(to))),
        }
    }

    /// A FLUSH was acknowledged that covers everything up to a position. Without force all that was
    /// acknowledged lies in one history.
    pub fn acknowledge(&mut self, position: Position, forced: bool) -> Verdict {
        let Some(last) = self.acknowledged.last().copied() else {
            self.acknowledged.push(position);
            return Ok(());
        };
        if self.contains(&position, &last) {
            if position != last {
                self.acknowledged.push(position);
            }
        } else if forced {
            self.acknowledged.push(position);
        } else if !self.contains(&last, &position) {
            return Err(format!(
                "(1) {} and {} were both acknowledged",
                short(&last),
                short(&position)
            ));
        }
        Ok(())
    }

    /// Invariant 1: a history has everything that was acknowledged.
    pub fn has_acknowledged(&self, who: &str, tip: &Position) -> Verdict {
        match self.acknowledged.last() {
            Some(last) if !self.contains(tip, last) => Err(format!(
                "(1) {who} at {} lacks the acknowledged {}",
                short(tip),
                short(last)
            )),
            _ => Ok(()),
        }
    }

    /// Invariant 9: nothing acknowledged is given up.
    pub fn gives_up(&self, who: &str, old: &Position, new: &Position) -> Verdict {
        for acknowledged in &self.acknowledged {
            if self.contains(old, acknowledged) && !self.contains(new, acknowledged) {
                return Err(format!(
                    "(9) {who} gives up the acknowledged {} for {}",
                    short(acknowledged),
                    short(new)
                ));
            }
        }
        Ok(())
    }

    /// A configuration was made from another.
    pub fn made(&mut self, id: Id, from: Id) {
        self.parents.insert(id, from);
    }

    /// Whether a configuration was made from another, in any number of steps.
    pub fn descends(&self, id: &Id, from: &Id) -> bool {
        let mut at = *id;
        loop {
            if at == *from {
                return true;
            }
            match self.parents.get(&at) {
                Some(parent) => at = *parent,
                None => return false,
            }
        }
    }

    /// All positions of the history that ends at `tip`, oldest first.
    pub fn path(&self, tip: &Position) -> Vec<Position> {
        let mut path = Vec::new();
        let mut at = *tip;
        while let Some((_, parent)) = self.states.get(&key(&at)) {
            path.push(at);
            at = *parent;
        }
        path.reverse();
        path
    }

    /// Positions that were sealed.
    pub fn positions(&self) -> usize {
        self.states.len()
    }
}
