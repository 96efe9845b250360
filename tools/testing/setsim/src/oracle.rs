// SPDX-License-Identifier: GPL-2.0

//! What the volume may hold, as a user sees it, and what each store must hold at a position.

use crate::node::{Volumes, BLOCKS, LOST, VOLUME};
use ddup_engine::engine::replication::types::{Id, Position};
use ddup_sim::content::{Content, ZERO};
use std::collections::{BTreeMap, HashMap};

/// A write of a block.
#[derive(Clone, Copy, Debug)]
struct Written {
    content: Content,
    /// When it was submitted, and when it was acknowledged.
    submitted: u64,
    acknowledged: Option<u64>,
}

/// Volumes and their sizes.
pub type Table = BTreeMap<Id, u64>;

/// A change of volumes.
#[derive(Clone, Debug)]
struct Changed {
    table: Table,
    /// When it was begun, and when it was told.
    submitted: u64,
    acknowledged: Option<u64>,
}

/// What is known of all stores together.
#[derive(Default)]
pub struct Oracle {
    clock: u64,
    /// By block: the write that is surely there, and what came after it.
    blocks: Vec<Vec<Written>>,
    /// The volumes that are surely there, and what they were changed to since.
    tables: Vec<Changed>,
    /// What was seen at each position.
    states: HashMap<(u64, u64), (Position, Volumes)>,
}

impl Oracle {
    /// An empty volume.
    pub fn new() -> Oracle {
        let empty = Written {
            content: ZERO,
            submitted: 0,
            acknowledged: Some(0),
        };
        Oracle {
            clock: 1,
            blocks: vec![vec![empty]; BLOCKS as usize],
            tables: vec![Changed {
                table: Table::from([(VOLUME, BLOCKS)]),
                submitted: 0,
                acknowledged: Some(0),
            }],
            states: HashMap::new(),
        }
    }

    /// A request was submitted: its stamp.
    pub fn submitted(&mut self, lbn: u64, contents: &[Content]) -> u64 {
        self.clock += 1;
        for (lbn, content) in (lbn..).zip(contents) {
            self.blocks[lbn as usize].push(Written {
                content: *content,
                submitted: self.clock,
                acknowledged: None,
            });
        }
        self.clock
    }

    /// A write was acknowledged.
    pub fn acknowledged(&mut self, lbn: u64, count: u64, stamp: u64) {
        self.clock += 1;
        let now = self.clock;
        for lbn in lbn..lbn + count {
            let written = self.blocks[lbn as usize].iter_mut();
            for w in written.filter(|w| w.submitted == stamp) {
                w.acknowledged = Some(now);
            }
        }
    }

    /// A change of volumes was begun: its stamp.
    pub fn change_begun(&mut self, table: Table) -> u64 {
        self.clock += 1;
        self.tables.push(Changed {
            table,
            submitted: self.clock,
            acknowledged: None,
        });
        self.clock
    }

    /// A change of volumes was made, or was not and will not be.
    pub fn change_ended(&mut self, stamp: u64, made: bool) {
        self.clock += 1;
        let now = self.clock;
        if !made {
            self.tables.retain(|t| t.submitted != stamp);
        }
        for changed in self.tables.iter_mut().filter(|t| t.submitted == stamp) {
            changed.acknowledged = Some(now);
        }
    }

    /// A reign began: its primary must have the volumes that were flushed, and its are those that
    /// count from now on.
    pub fn reign_has(&mut self, table: &Table) -> Result<(), String> {
        if !self.tables.iter().any(|t| t.table == *table) {
            return Err(format!(
                "(1) volumes are {table:x?} after a change of primary, not one of {:x?}",
                self.tables
            ));
        }
        self.clock += 1;
        self.tables = vec![Changed {
            table: table.clone(),
            submitted: self.clock,
            acknowledged: Some(self.clock),
        }];
        Ok(())
    }

    /// A FLUSH that was submitted at `stamp` was acknowledged: what was acknowledged before it stays.
    pub fn flushed(&mut self, stamp: u64) {
        let is_sure = |t: &Changed| t.acknowledged.is_some_and(|at| at < stamp);
        if let Some(sure) = self.tables.iter().rposition(is_sure) {
            self.tables.drain(..sure);
        }
        for block in &mut self.blocks {
            let sure = block
                .iter()
                .rposition(|w| w.acknowledged.is_some_and(|at| at < stamp));
            if let Some(sure) = sure {
                block.drain(..sure);
            }
        }
    }

    /// A primary was asked for blocks, none of which was being written.
    pub fn read(&self, lbn: u64, contents: &[Content]) -> Result<(), String> {
        for (lbn, content) in (lbn..).zip(contents) {
            let block = &self.blocks[lbn as usize];
            let newest = block.iter().rposition(|w| w.acknowledged.is_some());
            let allowed = &block[newest.unwrap_or(0)..];
            if !allowed.iter().any(|w| w.content == *content) {
                return Err(format!(
                    "block {lbn} reads as {content:x}, not {allowed:x?}"
                ));
            }
        }
        Ok(())
    }

    /// A reign began: what its primary shows must hold all that was flushed, and is what counts from
    /// now on.
    pub fn reign(&mut self, contents: &[Content]) -> Result<(), String> {
        self.clock += 1;
        for (lbn, content) in contents.iter().enumerate() {
            let block = &self.blocks[lbn];
            if !block.iter().any(|w| w.content == *content) {
                return Err(format!(
                    "(1) block {lbn} is {content:x} after a change of primary, not one of {block:x?}"
                ));
            }
            self.blocks[lbn] = vec![Written {
                content: *content,
                submitted: self.clock,
                acknowledged: Some(self.clock),
            }];
        }
        Ok(())
    }

    /// A store holds this at a position.
    pub fn state(&mut self, who: usize, at: Position, image: Volumes) -> Result<(), String> {
        let key = (at.epoch, at.chain);
        let Some((position, known)) = self.states.get(&key) else {
            self.states.insert(key, (at, image));
            return Ok(());
        };
        if *position != at {
            return Err(format!(
                "two positions share an epoch and a chain: {position:?}, {at:?}"
            ));
        }
        let table = |image: &Volumes| -> Table {
            let size = |(uuid, blocks): (&Id, &Vec<Content>)| (*uuid, blocks.len() as u64);
            image.iter().map(size).collect()
        };
        if table(known) != table(&image) {
            return Err(format!(
                "(3) store {who} has volumes {:x?} at epoch {}, another one had {:x?}",
                table(&image),
                at.epoch,
                table(known)
            ));
        }
        let differs = |(a, b): (&Content, &Content)| a != b && *a != LOST && *b != LOST;
        for (uuid, blocks) in &image {
            let others = &known[uuid];
            if let Some(lbn) = others.iter().zip(blocks).position(differs) {
                return Err(format!(
                    "(3) store {who} holds {:x} in block {lbn} of volume {:x} at epoch {}, \
                     another one held {:x}",
                    blocks[lbn], uuid[0], at.epoch, others[lbn]
                ));
            }
        }
        Ok(())
    }
}
