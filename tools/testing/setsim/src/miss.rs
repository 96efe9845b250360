// SPDX-License-Identifier: GPL-2.0

//! A primary misses a block, whose last good copy is junk that is about to be erased: its own, or that of
//! a peer which no longer knows that it has it. It must be healed with that.
//!
//! Or its machine fails: then what it missed is in no memory, and the block is healed by its place when it
//! is read once more.

use crate::world::{Verdict, World};
use ddup_engine::engine::OpKind;
use ddup_sim::content::{Content, ZERO};

/// Blocks that are written for an index to forget what came before.
const OTHERS: u64 = 96;
/// How long junk lies, in seconds, on a store that forgets.
pub const GC_DELAY: u64 = 10;

impl World {
    /// Some store forgets what it has, then all copies of a content rot but one that is junk there.
    pub fn miss(&mut self) -> Verdict {
        let faults = self.stop_faults();
        let verdict = self.miss_calmly();
        self.restore_faults(faults);
        verdict
    }

    fn settles(&mut self) -> Result<bool, String> {
        self.until_managed(15_000, |w| w.converged())
    }

    /// Writes some content to a block, and waits until all have it.
    fn spread(&mut self, lbn: u64, contents: Vec<Content>) -> Result<bool, String> {
        let n = self.primary();
        self.submit(n, OpKind::Write, lbn, contents, false)?;
        self.flush()?;
        Ok(self.settles()? && n == self.primary())
    }

    /// Some content that was never written.
    fn unwritten(&mut self) -> Content {
        self.fresh += 1;
        self.fresh
    }

    /// Some content of a primary rots while nobody is connected, and its machine fails.
    pub fn miss_over_a_crash(&mut self) -> Verdict {
        let faults = self.stop_faults();
        let verdict = self.miss_over_a_calm_crash();
        self.restore_faults(faults);
        verdict
    }

    fn miss_over_a_calm_crash(&mut self) -> Verdict {
        let content = self.unwritten();
        if self.nodes.len() == 1 || !self.settles()? || !self.spread(OTHERS, vec![content])? {
            return Ok(());
        }
        self.pass(self.now + 1500)?;
        let n = self.primary();
        let copies = self.nodes[n].sound(self.now, |c| c == content);
        self.isolate(n);
        self.pass(self.now + 100)?;
        if copies.is_empty() || self.serving() != Some(n) {
            return Ok(());
        }
        for cluster in copies {
            let salt = self.draw(u64::MAX);
            self.nodes[n].rot(cluster, salt);
            self.totals.clusters_rotten += 1;
        }
        self.read_missed(n)?;
        // It is durable that the cluster has no name any more.
        self.pass(self.now + 1500)?;
        self.crash_node(n)?;
        if !self.settles()? || self.primary() != n {
            return Ok(());
        }
        let (life, before) = (self.nodes[n].life, self.heals(n));
        self.read_missed(n)?;
        let after = self.heals(n);
        if (self.nodes[n].life, self.serving()) != (life, Some(n)) {
            return Ok(());
        }
        self.totals.misses_over_crashes += 1;
        // The first reads of the reign may have met it.
        match after.0 > 0 && after.1 == before.1 {
            true => Ok(()),
            false => Err(format!("node {n} does not ask for {content:x} any more")),
        }
    }

    /// Reads the block that is missed.
    fn read_missed(&mut self, n: usize) -> Verdict {
        self.submit(n, OpKind::Read, OTHERS, vec![ZERO], false)?;
        self.until(8000, |w| w.nodes[n].asked.is_empty())?;
        Ok(())
    }

    /// How many blocks a node has healed since its attach, and how many heals failed.
    fn heals(&self, n: usize) -> (u64, u64) {
        let counters = self.nodes[n].engine.as_ref().map(|e| e.counters());
        counters.map_or((0, 0), |c| (c.blocks_healed, c.heals_failed))
    }

    fn miss_calmly(&mut self) -> Verdict {
        let target = self.draw(self.nodes.len() as u64) as usize;
        if self.nodes.len() == 1 {
            return Ok(());
        }
        self.crash_node(target)?;
        self.nodes[target].forgets = true;
        if !self.settles()? {
            return Ok(());
        }
        // The first copy, and another one where that was forgotten.
        let content = self.unwritten();
        let others: Vec<Content> = (0..OTHERS).map(|_| self.unwritten()).collect();
        if !self.spread(OTHERS, vec![content])? || !self.spread(0, others)? {
            return Ok(());
        }
        self.pass(self.now + 1500)?;
        let holds = |c: Content| c == content;
        let first = self.nodes[target].sound(self.now, holds);
        if !self.spread(OTHERS + 1, vec![content])? {
            return Ok(());
        }
        self.pass(self.now + 1500)?;
        let both = self.nodes[target].sound(self.now, holds);
        // The other one becomes junk, and is forgotten, too.
        let (gone, others) = (
            self.unwritten(),
            (0..OTHERS).map(|_| self.unwritten()).collect(),
        );
        if !self.spread(OTHERS + 1, vec![gone])? || !self.spread(0, others)? || both.len() != 2 {
            return Ok(());
        }
        self.pass(self.now + 2500)?;
        // From here on no peer may ask for what its window has.
        self.crash_node(target)?;
        self.nodes[target].forgets = true;
        if !self.settles()? {
            return Ok(());
        }
        let (n, life) = (self.primary(), self.nodes[self.primary()].life);
        if !self.converged() || self.nodes[target].sound(self.now, holds) != both {
            return Ok(());
        }
        for at in 0..self.nodes.len() {
            let all = self.nodes[at].sound(self.now, holds);
            for cluster in all
                .into_iter()
                .filter(|c| at != target || first.contains(c))
            {
                let salt = self.draw(u64::MAX);
                self.nodes[at].rot(cluster, salt);
                self.totals.clusters_rotten += 1;
            }
        }
        let before = self.heals(n);
        self.read_missed(n)?;
        if self.heals(n) != (before.0, before.1 + 1) {
            // It was not forgotten.
            return Ok(());
        }
        self.totals.misses += 1;
        let session = self.session_since(n, target);
        let healed = |w: &World| w.heals(n).0 > before.0;
        self.until_managed(1000 * (GC_DELAY + 8), healed)?;
        let same = self.nodes[n].life == life && self.session_since(n, target) == session;
        if !same || self.serving() != Some(n) {
            return Ok(());
        }
        if !healed(self) {
            return Err(format!(
                "node {n} misses {content:x}, and node {target} erased it"
            ));
        }
        self.totals.misses_healed += 1;
        self.read_missed(n)?;
        match self.heals(n).1 == before.1 + 1 {
            true => Ok(()),
            false => Err(format!("node {n} was healed with something else")),
        }
    }
}
