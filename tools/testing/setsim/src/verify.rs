// SPDX-License-Identifier: GPL-2.0

//! Verifies of peers: real stores that are equal are found to be, whatever happens meanwhile, and blocks
//! of a replica that its scrub found to be bad are found to differ and are repaired.

use crate::node::{store_id, BLOCKS};
use crate::world::{Verdict, World};
use ddup_engine::engine::replication::types::Id;
use ddup_engine::engine::replication::verify::{VerifyReport, VerifyState};
use ddup_engine::engine::{OpKind, ScrubState, SetCommand};
use ddup_sim::content::Content;

impl World {
    /// Somebody verifies a member, or ends that.
    pub fn verify(&mut self) -> Verdict {
        let Some(n) = self.serving() else {
            return Ok(());
        };
        let at = self.verifies.below(self.nodes.len() as u64) as usize;
        let repair = self.verifies.chance(1, 2);
        match self.verifies.chance(1, 10) {
            true => self.command(n, SetCommand::VerifyStop),
            false => self.verify_member(n, at, repair),
        }
    }

    fn verify_member(&mut self, n: usize, at: usize, repair: bool) -> Verdict {
        let peer = store_id(at);
        self.command(n, SetCommand::Verify { peer, repair })
    }

    fn report(&self, n: usize) -> Option<VerifyReport> {
        let set = self.nodes[n].engine.as_ref()?.set()?;
        set.verify_report().ok().flatten()
    }

    /// A verify has ended.
    pub fn verified(&mut self, n: usize, peer: &Id) -> Verdict {
        let report = self.report(n).filter(|r| r.peer == *peer);
        let Some(report) = report.filter(|r| r.state == VerifyState::Complete) else {
            return Ok(());
        };
        self.say(|| format!("node {n} has verified {:02x}: {report:?}", peer[0]));
        self.totals.verifies += 1;
        self.totals.blocks_repaired += report.repaired;
        let differs = report.differing + report.volumes_differing + report.ranges_differing;
        if self.rots.is_none() && differs > 0 {
            return Err(format!("members at one position differ: {report:?}"));
        }
        Ok(())
    }

    /// Some content of a replica rots, and its scrub finds that: from then on it has no good copy, and a
    /// verify says so. Repaired it has one, and what is written meanwhile stays.
    pub fn rot_at_replica(&mut self) -> Verdict {
        let n = self.primary();
        for at in 0..self.nodes.len() {
            self.connect_pair(n, at)?;
        }
        let at = self.draw(self.nodes.len() as u64) as usize;
        if at == n
            || self.serving().is_none()
            || !self.until(3000, |w| w.nodes[n].asked.is_empty())?
        {
            return Ok(());
        }
        self.fresh += 1;
        let content = self.fresh;
        let lbns = [self.draw(BLOCKS), self.draw(BLOCKS)];
        for lbn in lbns {
            self.submit(n, OpKind::Write, lbn, vec![content], false)?;
        }
        self.flush()?;
        let settled = |w: &World| w.primary() == n && w.converged();
        if !self.until(6000, settled)? {
            return Ok(());
        }
        self.pass(self.now + 1500)?;
        if !settled(self) {
            return Ok(());
        }
        for cluster in self.nodes[at].sound(self.now, |c| c == content) {
            let salt = self.draw(u64::MAX);
            self.say(|| format!("cluster {cluster} of replica {at} with {content:x} rots"));
            self.nodes[at].rot(cluster, salt);
            self.totals.clusters_rotten += 1;
        }
        self.nodes[at].begin_scrub(self.now);
        self.look_at(at)?;
        let scrubbed = |w: &World| {
            let scrub = w.nodes[at].engine.as_ref().and_then(|e| e.scrub_report());
            scrub.is_some_and(|scrub| scrub.state == ScrubState::Complete)
        };
        if !self.until(20_000, scrubbed)? || !settled(self) {
            return Ok(());
        }
        // What has rotten at the primary too can be repaired by nobody.
        let bad = self.nodes[at].bad_but_good_at(&self.nodes[n], self.seed)?;
        let since = self.now;
        self.verify_member(n, at, true)?;
        let races = self.draw(2) == 0;
        if races {
            let wait = self.draw(80);
            self.pass(self.now + wait)?;
            self.fresh += 1;
            let newer: Content = self.fresh;
            if self.serving() == Some(n) {
                self.submit(n, OpKind::Write, lbns[0], vec![newer], false)?;
            }
        }
        let over = |w: &World| w.report(n).is_none_or(|r| !r.state.goes_on());
        self.until(30_000, over)?;
        let complete = |w: &World| {
            // Another one may have gone on already.
            let report = w.report(n).filter(|report| report.repair)?;
            let own = report.ended? >= since + report.took;
            (report.state == VerifyState::Complete && own && settled(w)).then_some(report)
        };
        let Some(report) = complete(self).filter(|_| !races) else {
            return Ok(());
        };
        if report.differing < bad || report.repaired < report.differing {
            return Err(format!(
                "a scrub finds {bad} bad blocks, and then: {report:?}"
            ));
        }
        self.pass(self.now + 1500)?;
        let again = self.nodes[at].sound(self.now, |c| c == content);
        if bad > 0 && again.is_empty() && settled(self) {
            return Err(format!("replica {at} has {content:x} no more: {report:?}"));
        }
        self.totals.replicas_repaired += u64::from(bad > 0);
        Ok(())
    }
}
