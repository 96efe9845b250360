// SPDX-License-Identifier: GPL-2.0

//! Until when a primary serves, if the authority bounds that (clause 14).
//!
//! ```text
//!  none --LEASE--> held --its end, or another configuration--> over --LEASE--> held
//!    ^---------------+------------ LEASE(none) ------------------+
//! ```
//!
//! A primary that was given one serves only while it holds one for the configuration in force, until
//! its reign ends. One for a later configuration can be given before that comes into force, so a reign
//! can begin with one, and a change of members needs no pause.

use super::super::mark::mark;
use super::super::mutant::mutant;
use super::action::{Event, Reply};
use super::config::Refusal;
use super::set::Set;
use kernel::prelude::*;

/// The time in which a primary may serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Of the configuration that it is for.
    pub version: u64,
    /// Its end, by the store's clock in milliseconds.
    pub until: u64,
}

/// The leases that a store was given.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Leases {
    held: Option<Lease>,
    /// For a configuration that is not in force yet.
    next: Option<Lease>,
    /// It was told that the one it held is over.
    told: bool,
}

impl Set {
    /// Clause 14: from `until` on this primary serves no more in the configuration of this version,
    /// which is the one in force or a later one. `None`: however late it is.
    pub fn lease(&mut self, command: u64, version: u64, until: Option<u64>) -> Result {
        self.replies.reserve(1, GFP_KERNEL)?;
        let in_force = self.record.config.version;
        let version = if mutant!(240) { in_force } else { version };
        let lease = until.map(|until| Lease { version, until });
        let answer = if self.transition.is_some() {
            Reply::Refused(Refusal::Busy)
        } else if version < in_force {
            Reply::Refused(Refusal::Conflict)
        } else if version > in_force {
            mark!(replication_lease_ahead);
            self.leases.next = lease;
            Reply::Done
        } else if !self.is_ruling() {
            Reply::Refused(Refusal::NotPrimary)
        } else {
            mark!(replication_lease);
            self.leases.held = lease;
            Reply::Done
        };
        self.reply(command, answer);
        Ok(())
    }

    /// The lease that bounds this reign, over or not.
    pub fn held_lease(&self) -> Option<Lease> {
        self.leases.held
    }

    /// Whether this primary must not serve now, since its lease has ended or is for another
    /// configuration. [`Set::clock`] says how late it is.
    pub fn lease_is_over(&self) -> bool {
        let version = self.record.config.version;
        let is_void = |lease: &Lease| lease.version != version && !mutant!(241);
        let has_ended = |lease: &Lease| self.now >= lease.until && !mutant!(242);
        let held = self.leases.held.as_ref();
        held.is_some_and(|lease| is_void(lease) || has_ended(lease))
    }

    /// Another configuration is in force.
    pub(super) fn adopt_lease(&mut self) {
        let version = self.record.config.version;
        if let Some(next) = self.leases.next.filter(|next| next.version <= version) {
            self.leases.next = None;
            if next.version == version {
                self.leases.held = Some(next);
            }
        }
        if !self.is_primary() {
            self.end_lease();
        }
    }

    /// The reign that it bounded has ended.
    pub(super) fn end_lease(&mut self) {
        self.leases.held = None;
    }

    /// Notices that the lease is over, or is not any more.
    pub(super) fn watch_lease(&mut self) {
        let is_over = self.lease_is_over();
        if is_over && !self.leases.told {
            mark!(replication_lease_expired);
            self.event(Event::LeaseExpired);
        }
        self.leases.told = is_over;
    }

    /// When the lease ends.
    pub(super) fn lease_deadline(&self) -> Option<u64> {
        let lease = self.leases.held.filter(|_| !self.lease_is_over());
        lease.map(|lease| lease.until)
    }
}
