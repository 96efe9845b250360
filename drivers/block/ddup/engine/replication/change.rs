// SPDX-License-Identifier: GPL-2.0

//! Changes of what a store holds of its set. One at a time: what comes in is refused meanwhile, what
//! was begun is drained or void, the record is made durable, and only then it is in force, answered
//! and told (clause 4).

use super::super::mark::mark;
use super::super::mutant::mutant;
use super::action::{Action, Event, Reply};
use super::config::{refusal, Config, Refusal, Taker};
use super::link::Peer;
use super::record::Record;
use super::set::Set;
use super::types::{Id, ANCESTORS_MAX};
use kernel::prelude::*;

/// What is to change.
#[derive(Debug)]
pub(super) enum Change {
    /// Nothing: what an attach found is made durable once more, in both copies.
    Restate,
    /// The promise rises (clause 6).
    Fence {
        /// To this.
        term: u64,
    },
    /// Another configuration (clauses 7, 9, 11).
    Adopt {
        /// That one.
        config: KBox<Config>,
        /// The own history must not be given up.
        keep: bool,
    },
    /// Whether the own history must not be given up.
    Keep(bool),
}

/// How far a change is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// The record is still to be written.
    Begun,
    /// It is being written.
    Persisting(u64),
    /// It is durable.
    Durable,
}

/// A change under way.
#[derive(Debug)]
pub(super) struct Transition {
    pub(super) change: Change,
    /// Who is to be answered.
    pub(super) command: Option<u64>,
    pub(super) stage: Stage,
}

impl Transition {
    pub(super) fn new(change: Change, command: Option<u64>) -> Self {
        Transition {
            change,
            command,
            stage: Stage::Begun,
        }
    }
}

impl Config {
    /// Puts the id of the configuration that this one is made from in front.
    pub fn push_ancestor(&mut self, id: Id) -> Result {
        self.ancestors.truncate(ANCESTORS_MAX - 1);
        self.ancestors.reserve(1, GFP_KERNEL)?;
        let _ = self.ancestors.insert_within_capacity(0, id);
        self.forced = (self.forced << 1) & (u64::MAX >> (63 - self.ancestors.len()));
        Ok(())
    }
}

impl Set {
    /// Why this store would refuse a configuration.
    pub(super) fn refusal(&self, new: &Config, force: bool, commanded: bool) -> Option<Refusal> {
        let taker = Taker {
            store: &self.params.store,
            incarnation: self.params.incarnation,
            config: &self.record.config,
            promise: self.record.promise,
            history: &self.history,
            commanded,
        };
        refusal(taker, new, force)
    }

    /// Whether taking this configuration must not lead to giving up epochs: somebody was forced since
    /// ours, so what we hold may have been acknowledged and the new primary may lack it.
    pub(super) fn keeps(&self, new: &Config) -> bool {
        let starts = new.primary == self.params.store && new.term > self.record.config.term;
        let forced = new.is_forced_since(&self.record.config.id);
        !starts && (forced || self.record.keep) && !mutant!(124)
    }

    /// Begins a change: stops taking and acknowledging, voids what is staged; a primary that ends or
    /// changes its term seals what it has.
    pub(super) fn begin(&mut self, change: Change, command: Option<u64>) -> Result {
        if self.ends_term(&change) {
            self.seal_open()?;
        }
        let closes = match change {
            Change::Fence { .. } => !mutant!(105),
            _ => self.ends_term(&change) && !mutant!(117),
        };
        self.transition = Some(Transition::new(change, command));
        if closes {
            self.drop_all_sessions();
        }
        self.stop_receiving();
        Ok(())
    }

    pub(super) fn ends_term(&self, change: &Change) -> bool {
        match change {
            Change::Fence { .. } => true,
            Change::Adopt { config, .. } => config.term > self.record.config.term,
            Change::Restate | Change::Keep(_) => false,
        }
    }

    /// Whether what was begun before the change has ended.
    fn is_drained(&self, change: &Change) -> bool {
        let sealed = self.rule.as_ref().map_or(0, |r| r.sealed.epoch);
        let seals = self.history.position().epoch < sealed && self.ends_term(change);
        (self.applying.is_empty() || mutant!(104)) && !seals
    }

    /// The record that a change leads to.
    fn record_after(&self, change: &Change) -> Result<Record> {
        let mut record = match change {
            Change::Adopt { config, keep } => Record {
                promise: self.record.promise,
                keep: *keep,
                config: config.try_clone()?,
            },
            _ => self.record.try_clone()?,
        };
        record.promise = record.promise.max(record.config.term);
        match change {
            Change::Fence { term } => record.promise = *term,
            Change::Keep(keep) => record.keep = *keep,
            _ => {}
        }
        Ok(record)
    }

    pub(super) fn poll_transition(&mut self) -> Option<Action> {
        let transition = self.transition.as_ref()?;
        let early = match transition.change {
            Change::Fence { .. } => mutant!(101),
            Change::Adopt { .. } => mutant!(102),
            _ => false,
        };
        match transition.stage {
            Stage::Begun if early => {
                self.finish().ok()?;
                self.poll_action()
            }
            Stage::Begun => {
                let record = self.record_after(&transition.change).ok()?;
                let generation = self.generation + 1;
                let slot = record.write(&self.params.store, generation, self.params.hash);
                let slot = slot.ok()?;
                let token = self.next_token();
                self.generation = generation;
                let place = self.first.get_mut((generation % 2) as usize);
                let first = place.map_or(0, core::mem::take);
                if let Some(transition) = self.transition.as_mut() {
                    transition.stage = Stage::Persisting(token);
                }
                Some(Action::Persist {
                    token,
                    generation,
                    slot,
                    first,
                })
            }
            Stage::Persisting(_) => None,
            Stage::Durable if self.is_drained(&transition.change) => {
                self.finish().ok()?;
                self.poll_action()
            }
            Stage::Durable => None,
        }
    }

    /// Puts a durable change in force. Changes nothing if there is no memory.
    fn finish(&mut self) -> Result {
        let Some(transition) = self.transition.as_ref() else {
            return Ok(());
        };
        let record = self.record_after(&transition.change)?;
        let starts = match &transition.change {
            Change::Adopt { config, .. } => {
                config.primary == self.params.store && config.term > self.record.config.term
            }
            _ => false,
        };
        let ends = self.ends_term(&transition.change);
        self.window.reserve(2)?;
        let (command, is_fence, adopts) = (
            transition.command,
            matches!(transition.change, Change::Fence { .. }),
            matches!(transition.change, Change::Adopt { .. }),
        );
        if adopts && ends {
            if starts {
                mark!(replication_reign_begins);
                self.begin_reign(&record.config)?;
            } else {
                self.end_reign();
            }
        }
        self.transition = None;
        self.record = record;
        if adopts {
            self.adopt_lease();
            self.reset_peers();
            self.event(Event::Config);
        }
        if let Some(command) = command {
            let reply = if is_fence {
                mark!(replication_fenced);
                Reply::Fenced {
                    config: self.record.config.id,
                    position: self.history.position(),
                }
            } else {
                Reply::Done
            };
            self.reply(command, reply);
        }
        self.restate_all();
        Ok(())
    }

    /// Makes the list of peers that of the configuration. Those that stay keep their sessions; who was
    /// joining is now in sync or left out (clause 8).
    pub(super) fn reset_peers(&mut self) {
        // Who has left goes once its session is closed.
        let (config, own) = (&self.record.config, &self.params.store);
        for member in &config.members {
            let known = self.peers.iter().any(|p| p.store == member.store);
            if !known && member.store != *own {
                let _ = self.peers.push_within_capacity(Peer::new(member.store));
            }
        }
        for at in 0..self.peers.len() {
            self.end_stream(at);
            if let Some(peer) = self.peers.get_mut(at) {
                peer.joining = None;
            }
        }
    }
}
