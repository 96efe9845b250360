// SPDX-License-Identifier: GPL-2.0

//! Events: what an onlooker may see of the engine's work, at the moment that it happens.
//!
//! They change nothing: an engine that is observed decides as one that is not. The shell says with
//! [`super::Engine::observe`] who is told; as long as nobody is, an event costs one comparison.

use super::state::Store;
use super::types::{Cluster, Lbn, Tag};

/// What was found out about the content of blocks that are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// No cluster is known to hold it: it gets one.
    New,
    /// A cluster holds it.
    Duplicate,
    /// It is all zeroes, and takes no cluster.
    Zero,
}

/// What became of clusters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// Handed out for content that is about to be written.
    Allocated,
    /// A checkpoint merged its first owners.
    Live,
    /// A checkpoint merged its last owner away.
    Junk,
    /// A checkpoint merged new owners of what was junk.
    Resurrected,
    /// The record that ends resurrection was appended to the journal.
    Retired,
    /// It may be handed out again.
    Erased,
    /// A checkpoint shows it as Available.
    Available,
    /// Its content failed its check: it is never used again.
    Quarantined,
}

/// What an onlooker is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// What neighbouring blocks of a write are.
    Decided {
        /// The request, as named by the shell.
        key: u64,
        /// The first block.
        lbn: Lbn,
        /// Blocks.
        count: u32,
        /// What they are.
        decision: Decision,
        /// Where the first one lies or goes; meaningless for zeroes.
        cluster: Cluster,
    },
    /// A request waits until a block of the journal is durable.
    Waits {
        /// The request, as named by the shell.
        key: u64,
        /// Sequence of the block.
        sequence: u64,
    },
    /// A block of the journal is about to be written.
    JournalBlock {
        /// Its sequence.
        sequence: u64,
        /// Its place.
        cluster: Cluster,
        /// Its length.
        bytes: u64,
        /// Records in it.
        records: u32,
        /// It and its data become durable together, by one flush.
        quick: bool,
    },
    /// Something became of neighbouring clusters.
    Clusters {
        /// What.
        life: Life,
        /// The first one.
        first: Cluster,
        /// Clusters.
        count: u64,
        /// Owners that each of them has now, if it was counted.
        owners: u32,
    },
    /// A checkpoint was cut.
    CheckpointBegun {
        /// Its number.
        number: u64,
        /// Blocks that it merges into the maps.
        blocks: u64,
        /// Clusters whose counts it merges.
        clusters: u64,
    },
    /// A checkpoint is durable.
    CheckpointDurable {
        /// Its number.
        number: u64,
        /// Pages of metadata written since attach.
        pages: u64,
    },
}

/// Who is told of events.
#[derive(Clone, Copy, Debug)]
pub struct Observer {
    /// Is called with `store` and the event, and must not block.
    pub tell: fn(store: u64, event: &Event),
    /// The shell's name of the store.
    pub store: u64,
}

/// Neighbouring clusters of which the same became, gathered into one event.
#[derive(Default)]
pub(super) struct LifeRun(Option<(Life, u64, u64, u32)>);

impl LifeRun {
    /// Adds a cluster, behind those that were added before.
    pub(super) fn add(&mut self, store: &Store, life: Life, cluster: u64, owners: u32) {
        match self.0.as_mut() {
            Some((l, first, count, o))
                if *l == life && *first + *count == cluster && *o == owners =>
            {
                *count += 1;
            }
            _ => {
                self.end(store);
                self.0 = Some((life, cluster, 1, owners));
            }
        }
    }

    /// Tells of what was gathered.
    pub(super) fn end(&mut self, store: &Store) {
        if let Some((life, first, count, owners)) = self.0.take() {
            store.tell(Event::Clusters {
                life,
                first: Cluster(first),
                count,
                owners,
            });
        }
    }
}

impl Store {
    /// Tells the onlooker, if there is one.
    #[inline]
    pub(super) fn tell(&self, event: Event) {
        if let Some(observer) = &self.observer {
            (observer.tell)(observer.store, &event);
        }
    }

    /// Tells what became of neighbouring clusters that are not counted.
    #[inline]
    pub(super) fn tell_life(&self, life: Life, first: Cluster, count: u64) {
        self.tell(Event::Clusters {
            life,
            first,
            count,
            owners: 0,
        });
    }

    /// Tells what blocks of a write are, counted from its first. A request that the shell did not
    /// name came before anybody looked on.
    #[inline]
    pub(super) fn tell_decided(
        &self,
        tag: Tag,
        block: u32,
        count: u32,
        decision: Decision,
        cluster: Cluster,
    ) {
        if self.observer.is_none() {
            return;
        }
        if let Some(op) = self.ops.get(tag).filter(|op| op.key != 0) {
            self.tell(Event::Decided {
                key: op.key,
                lbn: Lbn(op.request.lbn.0 + u64::from(block)),
                count,
                decision,
                cluster,
            });
        }
    }
}
