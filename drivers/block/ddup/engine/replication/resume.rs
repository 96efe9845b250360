// SPDX-License-Identifier: GPL-2.0

//! A compare whose session has ended goes on in the next one where it was.
//!
//! A replica builds the state that it is compared with beside its own, in the order of the volumes, and
//! keeps what it has *built* when the session ends. RESYNC says which state the next compare is of. If it
//! is the same one, the replica says in REACHED how far it has come, and is told only the rest. What is
//! something else is dropped, and so is all of it if the stream begins with epochs, if the replica comes
//! to lead, or if a session ended because of what came in it.
//!
//! The state can only be the same one if the primary still has it. So it *parks* it: the state stays
//! frozen for a while, and the window keeps what comes behind it as long as there is room. It is the
//! first to give way: to who needs space, a younger state, or a verify, and to the end of the reign.
//! That is all that is remembered; where the peer was, it says itself.

use super::super::mark::mark;
use super::super::mutant::mutant;
use super::set::Set;
use super::types::{Id, Position, Volume, NO_ID};
use kernel::prelude::*;

/// How far a replica has built a state: it has what is mapped before this place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reached {
    /// The volume, behind those that are told before it.
    pub volume: Id,
    /// The first block that it may not have.
    pub lbn: u64,
    /// Entries that led there.
    pub entries: u64,
}

impl Reached {
    /// The beginning: nothing is built.
    pub const NOTHING: Reached = Reached {
        volume: NO_ID,
        lbn: 0,
        entries: 0,
    };
}

/// What a replica keeps of a compare that did not end.
#[derive(Debug)]
pub(super) struct Built {
    /// The state.
    pub(super) position: Position,
    /// Its volumes, in the order in which they are told.
    pub(super) volumes: KVec<Volume>,
    pub(super) reached: Reached,
}

impl Built {
    /// Whether it is of this state.
    pub(super) fn is_of(&self, position: &Position, volumes: &[Volume]) -> bool {
        (self.position == *position || mutant!(400)) && self.volumes[..] == *volumes
    }
}

/// A state that stays frozen for a peer that was being compared with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parked {
    scan: u64,
    position: Position,
    until: u64,
}

impl Set {
    // The primary's half.

    /// Ends the stream to a peer. A state that it was being compared with is parked.
    pub(super) fn end_stream(&mut self, at: usize) {
        let (now, parks) = (self.now, self.params.parks);
        let Some(peer) = self.peers.get_mut(at) else {
            return;
        };
        let sender = peer.link.as_mut().and_then(|link| link.sender.take());
        let Some((scan, position)) = sender.and_then(|s| s.resumable()).filter(|_| parks > 0)
        else {
            return;
        };
        mark!(replication_compare_parked);
        peer.parked = Some(Parked {
            scan,
            position,
            until: now.saturating_add(parks),
        });
    }

    /// Nothing is parked for a peer any more.
    pub(super) fn unpark(&mut self, at: usize) {
        if let Some(peer) = self.peers.get_mut(at) {
            peer.parked = None;
        }
    }

    fn parked(&self) -> impl Iterator<Item = (usize, Parked)> + '_ {
        let peers = self.peers.iter().enumerate();
        peers.filter_map(|(at, peer)| Some((at, peer.parked?)))
    }

    /// Whether a scan is of a state that is parked.
    pub(super) fn is_parked(&self, scan: u64) -> bool {
        self.parked().any(|(_, parked)| parked.scan == scan)
    }

    /// Whether who goes on with what is parked will need an epoch.
    pub(super) fn is_behind_parked(&self, epoch: u64) -> bool {
        self.parked()
            .any(|(_, parked)| parked.position.epoch < epoch)
    }

    /// Until when something is parked.
    pub(super) fn parked_deadline(&self) -> Option<u64> {
        self.parked().map(|(_, parked)| parked.until).min()
    }

    /// Ends what has been parked for long enough, is of no use any more, or is in the way of others.
    pub(super) fn watch_parked(&mut self) {
        for at in 0..self.peers.len() {
            let Some(parked) = self.peers.get(at).and_then(|peer| peer.parked) else {
                continue;
            };
            let late = self.now >= parked.until && !mutant!(403);
            let useless = !self.is_ruling() || !self.keeps_behind(&parked.position);
            let in_the_way = self.verifies() || self.waits_for_younger(parked.position.epoch);
            if late || useless || in_the_way {
                mark!(replication_parked_given_up);
                self.unpark(at);
            }
        }
    }

    /// A parked state is gone before its time.
    pub(super) fn parked_lost(&mut self, scan: u64) {
        for peer in &mut self.peers {
            if peer.parked.is_some_and(|parked| parked.scan == scan) {
                mark!(replication_parked_lost);
                peer.parked = None;
            }
        }
    }

    // The replica's half.

    /// What is built is of no use any more.
    pub(super) fn forget_built(&mut self) {
        if self.built.take().is_some() {
            mark!(replication_built_forgotten);
            self.unbuilds = true;
        }
    }
}
