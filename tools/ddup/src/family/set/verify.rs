// SPDX-License-Identifier: GPL-2.0

//! Verifies of peers.

use super::{as_position, as_uuid, cmd, id, read_position, set, Driver};
use crate::{error::Result, netlink::Attributes};
use ddup_engine::engine::replication::types::{Id, Position};
use serde::Serialize;

numbers! {
    /// `DDUP_A_VERIFY_*`.
    verify: u16 {
        STATE = 1,
        REPAIR = 2,
        POSITION = 3,
        BLOCKS = 4,
        COMPARED_BLOCKS = 5,
        RANGES = 6,
        DIFFERING_RANGES = 7,
        DIFFERING_VOLUMES = 8,
        DIFFERING_BLOCKS = 9,
        REPAIRED_BLOCKS = 10,
        FOUND = 11,
        TOOK_MS = 12,
        ENDED = 13,
    }
}

numbers! {
    /// `DDUP_A_DIFFERENCE_*`.
    difference: u16 {
        VOLUME = 1,
        BLOCK = 2,
    }
}

named! {
    /// How far a verify is, or how it has ended.
    VerifyState {
        /// Both stores are to freeze the same state.
        Freezing = 0 "freezing",
        /// They have, and it is compared.
        Comparing = 1 "comparing",
        /// All was compared, and the peer has what was repaired.
        Complete = 2 "complete",
        /// Somebody ended it.
        Stopped = 3 "stopped",
        /// A frozen state gave way.
        GaveWay = 4 "gave-way",
        /// The session, its stream or the reign has ended.
        Lost = 5 "lost",
        /// The two did not manage to freeze the same state.
        NotFrozen = 6 "not-frozen",
    }
}

impl VerifyState {
    /// Whether it goes on.
    pub fn goes_on(self) -> bool {
        matches!(self, VerifyState::Freezing | VerifyState::Comparing)
    }
}

/// A block of a peer that is not what it should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// UUID of the volume.
    #[serde(serialize_with = "as_uuid")]
    pub volume: Id,
    /// Number of the block.
    pub block: u64,
}

/// What a verify of a peer has done and found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verify {
    /// How far it is, or how it has ended.
    pub state: VerifyState,
    /// What differs is repaired.
    pub repair: bool,
    /// What was frozen.
    #[serde(serialize_with = "as_position")]
    pub position: Option<Position>,
    /// Blocks that are mapped there.
    pub blocks: u64,
    /// How many of them were compared.
    pub compared_blocks: u64,
    /// Ranges whose sums were compared.
    pub ranges: u64,
    /// How many of the sums differ.
    pub differing_ranges: u64,
    /// Volumes that only one of the two has, or that have other sizes.
    pub differing_volumes: u64,
    /// Blocks that differ.
    pub differing_blocks: u64,
    /// How many of them were recorded again.
    pub repaired_blocks: u64,
    /// The first blocks that differ.
    pub found: Vec<Difference>,
    /// For how long it goes on or went on.
    pub took_ms: u64,
    /// When it ended, in milliseconds since boot.
    pub ended: Option<u64>,
}

impl Default for Verify {
    fn default() -> Self {
        Self {
            state: VerifyState::Unknown,
            repair: false,
            position: None,
            blocks: 0,
            compared_blocks: 0,
            ranges: 0,
            differing_ranges: 0,
            differing_volumes: 0,
            differing_blocks: 0,
            repaired_blocks: 0,
            found: Vec::new(),
            took_ms: 0,
            ended: None,
        }
    }
}

impl Verify {
    /// Whether the peer is not what it should be.
    pub fn differs(&self) -> bool {
        self.differing_blocks > 0 || self.differing_volumes > 0
    }

    pub(super) fn read(attributes: Attributes<'_>) -> Self {
        let mut report = Self::default();
        for attribute in attributes {
            let number = attribute.number().unwrap_or(0);
            match attribute.kind {
                verify::STATE => {
                    let state = attribute.u32().map(VerifyState::from_number);
                    report.state = state.unwrap_or(VerifyState::Unknown);
                }
                verify::REPAIR => report.repair = true,
                verify::POSITION => report.position = Some(read_position(attribute.nested())),
                verify::BLOCKS => report.blocks = number,
                verify::COMPARED_BLOCKS => report.compared_blocks = number,
                verify::RANGES => report.ranges = number,
                verify::DIFFERING_RANGES => report.differing_ranges = number,
                verify::DIFFERING_VOLUMES => report.differing_volumes = number,
                verify::DIFFERING_BLOCKS => report.differing_blocks = number,
                verify::REPAIRED_BLOCKS => report.repaired_blocks = number,
                verify::FOUND => report.found.push(Difference::read(attribute.nested())),
                verify::TOOK_MS => report.took_ms = number,
                verify::ENDED => report.ended = Some(number),
                _ => {}
            }
        }
        report
    }
}

impl Difference {
    fn read(attributes: Attributes<'_>) -> Self {
        let mut found = Self::default();
        for attribute in attributes {
            match attribute.kind {
                difference::VOLUME => found.volume = id(&attribute).unwrap_or_default(),
                difference::BLOCK => found.block = attribute.number().unwrap_or(0),
                _ => {}
            }
        }
        found
    }
}

impl Driver {
    /// Begins to verify a peer.
    pub fn begin_verify(&mut self, index: u32, peer: &Id, repair: bool) -> Result {
        let request = self.set_request(cmd::VERIFY, index);
        let request = request.binary(set::PEER_STORE, peer);
        let request = match repair {
            true => request.flag(set::VERIFY_REPAIR),
            false => request,
        };
        self.set_call(request).map(drop)
    }

    /// Ends the verify that goes on.
    pub fn stop_verify(&mut self, index: u32) -> Result {
        let request = self.set_request(cmd::VERIFY, index);
        self.set_call(request.flag(set::VERIFY_STOP)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{members, same};
    use super::*;

    #[test]
    fn numbers_of_verifies_are_those_of_the_uapi_header() {
        same(verify::ALL, "DDUP_A_VERIFY_");
        same(difference::ALL, "DDUP_A_DIFFERENCE_");
        let states = members("DDUP_VERIFY_STATE_");
        for (spelled, value) in &states {
            let name = VerifyState::from_number(*value as u32).name();
            assert_eq!(name.to_uppercase().replace('-', "_"), *spelled);
        }
        assert_eq!(states.len(), VerifyState::ALL.len());
    }
}
