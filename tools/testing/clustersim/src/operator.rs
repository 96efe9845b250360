// SPDX-License-Identifier: GPL-2.0

//! Who commands: one authority that obeys the rules, persons who see one store each and force, and
//! what both must be refused.

use crate::oracle::Verdict;
use crate::script::Class;
use crate::world::{is_done, World};
use ddup_engine::engine::replication::action::Reply;
use ddup_engine::engine::replication::config::{Config, MemberState};
use ddup_engine::engine::replication::types::{Id, Position, ANCESTORS_MAX};
use ddup_sim::rng::Rng;

/// What a command was for.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// It may be done or refused.
    Any,
    /// It must be refused.
    Forbidden(&'static str),
    /// FENCE in this term.
    Fence(u64),
    /// A lease for this version, until then.
    Lease(u64, u64),
}

/// The authority's log: each configuration is made from the one before, by compare-and-set.
pub struct Authority {
    log: Vec<Config>,
    /// When the last lease ends that it gave.
    granted: u64,
    /// Until then it gives none: it waits for that to promote another store.
    waits_until: u64,
}

impl Authority {
    /// One that knows the first configuration.
    pub fn new(first: &Config) -> Self {
        let log = first.try_clone().map(|c| vec![c]).unwrap_or_default();
        Authority {
            log,
            granted: 0,
            waits_until: 0,
        }
    }

    /// The newest configuration.
    pub fn latest(&self) -> &Config {
        &self.log[self.log.len() - 1]
    }
}

fn clone(config: &Config) -> Result<Config, String> {
    config.try_clone().map_err(|_| "memory".into())
}

impl World {
    fn alive(&self, n: usize) -> bool {
        self.nodes[n].set.is_some()
    }

    /// Sends a command.
    pub fn command(
        &mut self,
        n: usize,
        purpose: Purpose,
        f: impl FnOnce(&mut ddup_engine::engine::replication::set::Set, u64) -> bool,
    ) -> Verdict {
        let number = self.rng.draw();
        self.nodes[n].commands.insert(number, purpose);
        if self.with(n, |set| f(set, number)) != Some(true) {
            // No memory: nothing was done.
            self.nodes[n].commands.remove(&number);
        }
        self.pump(n)
    }

    fn set_config(&mut self, n: usize, expect: u64, config: Config, purpose: Purpose) -> Verdict {
        if !matches!(purpose, Purpose::Forbidden(_)) {
            self.nodes[n].told.insert(config.id);
        }
        self.command(n, purpose, |set, c| {
            set.set_config(c, expect, config).is_ok()
        })
    }

    /// A command was answered.
    pub fn answered(&mut self, n: usize, command: u64, reply: Reply) -> Verdict {
        let Some(purpose) = self.nodes[n].commands.remove(&command) else {
            return Err(format!("node {n} answers what nobody asked"));
        };
        match (purpose, reply) {
            (Purpose::Forbidden(what), reply) if is_done(&reply) => {
                return Err(format!("(2) node {n} took {what}"));
            }
            (Purpose::Forbidden(_), _) => self.totals.refused += 1,
            (Purpose::Fence(term), Reply::Fenced { position, .. }) => {
                self.note_fenced(n, term, position)?;
            }
            (Purpose::Lease(version, until), Reply::Done) => {
                self.nodes[n].leases.insert(version, until);
            }
            _ => {}
        }
        Ok(())
    }

    /// The successor of a configuration, unchanged.
    fn successor(&mut self, base: &Config) -> Result<Config, String> {
        let mut config = clone(base)?;
        config.version += 1;
        config.id = self.id();
        config.push_ancestor(base.id).map_err(|_| "memory")?;
        for member in &mut config.members {
            let n = usize::from(member.store[0]) - 1;
            if let Some(set) = &self.nodes[n].set {
                let id = set.state().config.id;
                if self.oracle.descends(&config.ancestors[0], &id) {
                    member.confirmed = id;
                }
            }
        }
        self.oracle.made(config.id, base.id);
        Ok(config)
    }

    /// The configuration that the operator goes on from, and the one who leads by it.
    fn base(&self, n: usize) -> Result<Option<Config>, String> {
        match self.setup.class {
            Class::Rules => clone(self.authority.latest()).map(Some),
            Class::Force => match &self.nodes[n].set {
                Some(set) => clone(set.state().config).map(Some),
                None => Ok(None),
            },
        }
    }

    /// Compare-and-set: the configuration is the next one.
    fn commit(&mut self, config: &Config) -> Verdict {
        self.totals.configs += 1;
        self.say(|| {
            let members = config.members.iter().map(|m| (m.store[0] - 1, m.state));
            format!(
                "operator: version {}, {:02x}, term {}, primary {}, {:?}",
                config.version,
                config.id[0],
                config.term,
                config.primary[0] - 1,
                members.collect::<Vec<_>>()
            )
        });
        if self.setup.class == Class::Rules {
            self.authority.log.push(clone(config)?);
            self.check_in_sync()?;
        }
        Ok(())
    }

    /// Tells a store the next configuration that it has not.
    fn tell(&mut self, n: usize) -> Verdict {
        let Some(set) = &self.nodes[n].set else {
            return Ok(());
        };
        let own = set.state().config;
        let (version, term, id) = (own.version, own.term, self.nodes[n].id);
        // The newest one if it can be: a store that is to lead must know that it is in sync.
        let latest = self.authority.latest();
        let next = if latest.primary == id && !own.is_in_sync(&id) {
            self.authority.log.iter().find(|c| c.version > version)
        } else {
            Some(latest).filter(|c| c.version > version)
        };
        match next {
            Some(config) => {
                let config = clone(config)?;
                // A reign begins with a lease; in its midst requests wait for one.
                let ahead = config.term > term || self.rng.chance(3, 4);
                if config.primary == id && ahead && !self.lease(n, config.version)? {
                    return Ok(());
                }
                self.set_config(n, version, config, Purpose::Any)
            }
            None => Ok(()),
        }
    }

    /// Gives a store a lease for a configuration in which it is primary. False: it did not take it.
    fn lease(&mut self, n: usize, version: u64) -> Result<bool, String> {
        if !self.leases() {
            return Ok(true);
        }
        let until = self.now + self.setup.lease;
        self.authority.granted = self.authority.granted.max(until);
        let purpose = Purpose::Lease(version, until);
        self.command(n, purpose, |set, c| {
            set.lease(c, version, Some(until)).is_ok()
        })?;
        Ok(self.nodes[n].leases.get(&version) == Some(&until))
    }

    /// What the authority does all the time: the primary's lease is made longer.
    pub fn renew_lease(&mut self) -> Verdict {
        let latest = self.authority.latest();
        let (version, n) = (latest.version, usize::from(latest.primary[0]) - 1);
        if self.setup.lease == 0 || self.setup.class == Class::Force || !self.alive(n) {
            return Ok(());
        }
        if !self.leases() {
            // It is over with leases.
            return self.command(n, Purpose::Any, |set, c| {
                set.lease(c, version, None).is_ok()
            });
        }
        if self.now >= self.authority.waits_until && self.rng.chance(1, 2) {
            self.lease(n, version)?;
        }
        Ok(())
    }

    /// Whether the lease of a primary that another store is to replace has not ended: no other one is
    /// given meanwhile.
    fn awaits_lease(&mut self, n: usize) -> bool {
        let latest = self.authority.latest();
        let is_other = self.setup.class == Class::Rules && latest.primary != self.nodes[n].id;
        let waits = is_other && self.now < self.authority.granted;
        if waits {
            self.authority.waits_until = self.authority.granted + 300;
        }
        waits
    }

    /// Positions that the leading primary knows to be safe become floors.
    fn raise_floors(&self, config: &mut Config) {
        for node in &self.nodes {
            let Some(set) = &node.set else { continue };
            let state = set.state();
            if state.config.id == config.ancestors[0] && state.serves {
                for member in &mut config.members {
                    if member.state == MemberState::InSync {
                        member.floor = state.committed;
                    }
                }
            }
        }
    }

    fn promises(&self) -> u64 {
        let promise = |n: &crate::world::Node| n.set.as_ref().map_or(0, |s| s.state().promise);
        self.nodes.iter().map(promise).max().unwrap_or(0)
    }

    fn promote(&mut self, n: usize, rng: &mut Rng) -> Verdict {
        let Some(base) = self.base(n)? else {
            return Ok(());
        };
        let id = self.nodes[n].id;
        if !self.alive(n) || !base.is_in_sync(&id) || self.awaits_lease(n) {
            return Ok(());
        }
        let promised = match self.setup.class {
            Class::Rules => self.promises(),
            Class::Force => self.nodes[n].set.as_ref().map_or(0, |s| s.state().promise),
        };
        let term = promised.max(base.term) + 1;
        if rng.chance(1, 2) {
            for other in 0..self.nodes.len() {
                if self.alive(other) && rng.chance(2, 3) {
                    self.fence(other, term)?;
                }
            }
        }
        let mut config = self.successor(&base)?;
        config.term = term;
        config.reign = self.id();
        config.primary = id;
        config.forced |= u64::from(self.setup.class == Class::Force);
        for member in &mut config.members {
            let other = usize::from(member.store[0]) - 1;
            let gone = self.nodes[other].set.is_none() && rng.chance(3, 4);
            // Where no majority stands behind it, it is a person's word.
            let force = self.setup.class == Class::Force;
            if other != n
                && (gone || force || rng.chance(1, 6))
                && member.state == MemberState::InSync
            {
                member.state = MemberState::Async;
            }
        }
        self.commit(&config)?;
        if rng.chance(1, 8) {
            return Ok(());
        }
        match self.setup.class {
            Class::Rules => self.tell(n),
            Class::Force => self.set_config(n, base.version, config, Purpose::Any),
        }
    }

    fn fence(&mut self, n: usize, term: u64) -> Verdict {
        self.command(n, Purpose::Fence(term), |set, c| set.fence(c, term).is_ok())
    }

    /// A person makes a store primary, whatever it lacks.
    fn force(&mut self, n: usize, rng: &mut Rng) -> Verdict {
        let Some(base) = self.base(n)? else {
            return Ok(());
        };
        let promise = self.nodes[n].set.as_ref().map_or(0, |s| s.state().promise);
        let mut config = self.successor(&base)?;
        let id = self.nodes[n].id;
        config.term = promise + 1 + rng.below(3);
        config.reign = self.id();
        config.forced |= 1;
        config.primary = id;
        for member in &mut config.members {
            member.floor = Position::ZERO;
            member.state = if member.store == id {
                MemberState::InSync
            } else {
                MemberState::Async
            };
        }
        self.commit(&config)?;
        self.set_config(n, base.version, config, Purpose::Any)
    }

    /// Changes members, told to the primary after it was committed.
    fn change_members(&mut self, n: usize, rng: &mut Rng) -> Verdict {
        let Some(base) = self.base(n)? else {
            return Ok(());
        };
        let mut config = self.successor(&base)?;
        let count = config.members.len() as u64;
        let member = &mut config.members[rng.below(count) as usize];
        if member.store == base.primary {
            return Ok(());
        }
        member.state = match member.state {
            MemberState::InSync => rng.pick(&[MemberState::Async, MemberState::Out]),
            MemberState::Async => MemberState::Out,
            MemberState::Out => MemberState::Async,
        };
        config.min_insync = rng.pick(&[1, 1, 1, 2]);
        config.forced |= u64::from(self.setup.class == Class::Force);
        self.raise_floors(&mut config);
        self.commit(&config)?;
        let primary = usize::from(base.primary[0]) - 1;
        if rng.chance(1, 3) || !self.alive(primary) {
            return Ok(());
        }
        match self.setup.class {
            Class::Rules => self.tell(primary),
            Class::Force if primary == n => self.set_config(n, base.version, config, Purpose::Any),
            Class::Force => Ok(()),
        }
    }

    /// Asks the primary to wait for an asynchronous member.
    fn join(&mut self, n: usize, rng: &mut Rng) -> Verdict {
        let Some(base) = self.base(n)? else {
            return Ok(());
        };
        let primary = usize::from(base.primary[0]) - 1;
        let is_async =
            |m: &&ddup_engine::engine::replication::config::Member| m.state == MemberState::Async;
        let candidates: Vec<Id> = base
            .members
            .iter()
            .filter(is_async)
            .map(|m| m.store)
            .collect();
        if candidates.is_empty() || !self.alive(primary) {
            return Ok(());
        }
        let peer = rng.pick(&candidates);
        self.command(primary, Purpose::Any, |set, c| set.join(c, &peer).is_ok())
    }

    /// Commits as in sync whom the primary says to be joinable, by a compare-and-set on the version
    /// in which it said so.
    fn commit_join(&mut self, n: usize, rng: &mut Rng) -> Verdict {
        let Some(base) = self.base(n)? else {
            return Ok(());
        };
        let primary = usize::from(base.primary[0]) - 1;
        let Some(set) = &self.nodes[primary].set else {
            return Ok(());
        };
        if set.state().config.id != base.id {
            return Ok(());
        }
        let joinable: Vec<(Id, Position)> = base
            .members
            .iter()
            .filter_map(|m| Some((m.store, set.peer_state(&m.store)?.joinable?)))
            .collect();
        if joinable.is_empty() {
            return Ok(());
        }
        let mut config = self.successor(&base)?;
        self.raise_floors(&mut config);
        for member in &mut config.members {
            if let Some((_, position)) = joinable.iter().find(|j| j.0 == member.store) {
                member.state = MemberState::InSync;
                member.floor = *position;
                self.totals.joined += 1;
            }
        }
        self.commit(&config)?;
        if rng.chance(1, 3) {
            return Ok(());
        }
        match self.setup.class {
            Class::Rules => self.tell(primary),
            Class::Force => self.set_config(primary, base.version, config, Purpose::Any),
        }
    }

    /// The operator does something that he may.
    pub fn operate(&mut self, r: u64) -> Verdict {
        let mut rng = Rng::new(r);
        let n = rng.below(self.nodes.len() as u64) as usize;
        let force = self.setup.class == Class::Force;
        match rng.below(16) {
            0..=1 => self.promote(n, &mut rng),
            2..=4 if !force => self.tell(n),
            2 => self.force(n, &mut rng),
            3 if force && rng.chance(1, 3) => self.resolve(n),
            5 => self.change_members(n, &mut rng),
            6..=9 => self.join(n, &mut rng),
            10..=12 => self.commit_join(n, &mut rng),
            13 => self.command(n, Purpose::Any, |set, c| set.demote(c).is_ok()),
            14 if rng.chance(1, 3) => {
                self.command(n, Purpose::Any, |set, c| set.flush_fail(c).is_ok())
            }
            15 if rng.chance(1, 4) => {
                let term = self.promises() + 1;
                self.fence(n, term)
            }
            _ => {
                let Some(primary) = (0..self.nodes.len()).find(|n| self.is_leading(*n)) else {
                    return self.promote(n, &mut rng);
                };
                self.join(primary, &mut rng)
            }
        }
    }

    fn resolve(&mut self, n: usize) -> Verdict {
        if self.alive(n) {
            self.nodes[n].resolved = true;
        }
        self.command(n, Purpose::Any, |set, c| set.resolve(c).is_ok())
    }

    /// The operator tries what must be refused.
    pub fn try_forbidden(&mut self, r: u64) -> Verdict {
        let mut rng = Rng::new(r);
        let n = rng.below(self.nodes.len() as u64) as usize;
        let Some(set) = &self.nodes[n].set else {
            return Ok(());
        };
        let (own, promise) = (clone(set.state().config)?, set.state().promise);
        let id = self.nodes[n].id;
        let mut config = self.successor(&own)?;
        // Nothing is wrong with it but what is made wrong now.
        (config.term, config.reign) = (promise + 1, self.id());
        for member in &mut config.members {
            member.floor = Position::ZERO;
        }
        let mut expect = own.version;
        let what = match rng.below(9) {
            0 => {
                expect += 1 + rng.below(3);
                "a configuration for another version"
            }
            1 if promise > own.term + 1 && own.is_in_sync(&id) => {
                config.term = rng.between(own.term + 1, promise - 1);
                config.primary = id;
                "to reign in a term below its promise"
            }
            2 if !own.is_in_sync(&id) => {
                config.primary = id;
                config.forced = 0;
                for member in &mut config.members {
                    if member.store == id {
                        member.state = MemberState::InSync;
                    }
                }
                "to be primary though it was not in sync"
            }
            3 if own.members.len() > 1 && own.primary != id => {
                config.members.retain(|m| m.store != id);
                "a configuration without it"
            }
            4 => {
                config = clone(&own)?;
                config.min_insync ^= 2;
                config.min_insync = config.min_insync.max(4);
                "other bytes of the same version"
            }
            5 => {
                config.ancestors.clear();
                config.forced = 0;
                for member in &mut config.members {
                    member.confirmed = [0; 16];
                }
                "a configuration of unknown ancestry"
            }
            6 if own.is_in_sync(&id) => {
                for member in &mut config.members {
                    if member.store == id {
                        member.floor = Position {
                            term: promise,
                            reign: [0xee; 16],
                            epoch: 1,
                            chain: 1,
                        };
                    }
                }
                "to be in sync below its floor"
            }
            7 => {
                let term = promise - rng.below(promise.min(3));
                let purpose = Purpose::Forbidden("a FENCE that is not above its promise");
                return self.command(n, purpose, |set, c| set.fence(c, term).is_ok());
            }
            8 => {
                let (version, until) = (own.version - 1, Some(u64::MAX));
                let purpose = Purpose::Forbidden("a lease for an earlier version");
                return self.command(n, purpose, |set, c| set.lease(c, version, until).is_ok());
            }
            _ => return Ok(()),
        };
        self.set_config(n, expect, config, Purpose::Forbidden(what))
    }

    /// Whether a store is the primary that counts.
    pub fn is_leading(&self, n: usize) -> bool {
        let Some(set) = &self.nodes[n].set else {
            return false;
        };
        let state = set.state();
        let latest = match self.setup.class {
            Class::Rules => self.authority.latest().id == state.config.id,
            Class::Force => {
                let term = |n: &crate::world::Node| n.set.as_ref().map_or(0, |s| s.state().promise);
                self.nodes.iter().all(|n| term(n) <= state.config.term)
            }
        };
        state.serves && latest
    }

    /// After the last fault: what a patient operator does, in rounds.
    pub fn repair(&mut self, round: u64) -> Verdict {
        let leading = (0..self.nodes.len()).find(|n| self.is_leading(*n));
        if let Some(primary) = leading {
            if round % 4 == 1 {
                self.finish_with(primary)?;
            }
            self.repair_flaws(primary)?;
        }
        match self.setup.class {
            Class::Rules => self.repair_by_rules(round),
            Class::Force => self.repair_by_force(round, leading),
        }
    }

    fn repair_by_rules(&mut self, round: u64) -> Verdict {
        for n in 0..self.nodes.len() {
            self.tell(n)?;
        }
        let latest = clone(self.authority.latest())?;
        for n in 0..self.nodes.len() {
            // It was away for longer than anybody remembers: a person has to say what it is.
            let seen = self.nodes[n].seen.version;
            if round % 12 == 2 && seen + ANCESTORS_MAX as u64 <= latest.version {
                self.resolve(n)?;
            }
            let keeps = self.nodes[n].set.as_ref().is_some_and(|s| s.state().keep);
            if round % 12 == 2 && keeps {
                self.resolve(n)?;
            }
        }
        let primary = usize::from(latest.primary[0]) - 1;
        let set = self.nodes[primary].set.as_ref();
        let reigns = set.is_some_and(|s| s.state().reigns && s.state().config.id == latest.id);
        let is_out =
            |m: &ddup_engine::engine::replication::config::Member| m.state == MemberState::Out;
        let odd = latest.min_insync > 1 || latest.members.iter().any(is_out);
        if (!reigns && round % 6 == 0) || (odd && round % 6 == 3) {
            let mut config = self.successor(&latest)?;
            if !reigns {
                let in_sync = |m: &&ddup_engine::engine::replication::config::Member| {
                    m.state == MemberState::InSync
                };
                let ids: Vec<Id> = latest
                    .members
                    .iter()
                    .filter(in_sync)
                    .map(|m| m.store)
                    .collect();
                config.primary = ids[(round / 6) as usize % ids.len()];
                if self.awaits_lease(usize::from(config.primary[0]) - 1) {
                    return Ok(());
                }
                config.term = self.promises().max(latest.term) + 1;
                config.reign = self.id();
            }
            config.min_insync = 1;
            for member in &mut config.members {
                if member.state == MemberState::Out {
                    member.state = MemberState::Async;
                }
            }
            self.commit(&config)?;
        }
        Ok(())
    }

    fn repair_by_force(&mut self, round: u64, leading: Option<usize>) -> Verdict {
        let follows = |w: &World, n: usize| {
            let set = w.nodes[n].set.as_ref();
            w.unity.is_some() && set.map(|s| s.state().config.id) == w.unity
        };
        // What was still on its way may have come to be as new.
        let rival = |w: &World, n: usize| {
            let config = w.nodes[n].set.as_ref().map(|s| s.state().config);
            w.nodes.iter().filter_map(|o| o.set.as_ref()).any(|o| {
                let other = o.state().config;
                config.is_none_or(|c| {
                    c.id != other.id && (other.version >= c.version || other.term >= c.term)
                })
            })
        };
        let united = leading.filter(|n| follows(self, *n) && (round % 6 != 0 || !rival(self, *n)));
        let Some(primary) = united else {
            if round % 6 != 0 {
                return Ok(());
            }
            // One of them, for all.
            let Some(base) = self.base(0)? else {
                return Ok(());
            };
            let mut config = self.successor(&base)?;
            let version =
                |n: &crate::world::Node| n.set.as_ref().map_or(0, |s| s.state().config.version);
            config.version = self.nodes.iter().map(version).max().unwrap_or(0) + 1;
            config.term = self.promises() + 1;
            config.reign = self.id();
            config.primary = self.nodes[0].id;
            config.min_insync = 1;
            config.forced |= 1;
            for member in &mut config.members {
                member.floor = Position::ZERO;
                member.state = if member.store == config.primary {
                    MemberState::InSync
                } else {
                    MemberState::Async
                };
            }
            self.commit(&config)?;
            self.unity = Some(config.id);
            return self.set_config(0, base.version, config, Purpose::Any);
        };
        if round % 12 == 2 {
            for n in 0..self.nodes.len() {
                if n != primary {
                    self.resolve(n)?;
                }
            }
        }
        Ok(())
    }
}
