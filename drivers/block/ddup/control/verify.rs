// SPDX-License-Identifier: GPL-2.0

//! Verifies of peers: the netlink request, and what is told of one.

use super::{
    answer,
    set::{command, member_of, peer_of, put_position},
};
use crate::{
    engine::{
        replication::{
            types::Position,
            verify::{VerifyReport, VerifyState},
        },
        SetCommand,
    },
    store::Store,
    uapi,
};
use kernel::prelude::*;
use kstage::genetlink::{Info, Message};

/// `verify`.
pub(super) fn verify(info: &mut Info<'_>) -> Result {
    answer(info, |info| {
        let (index, store) = member_of(info)?;
        let is_there = |attr| info.attr(attr).is_some();
        let stop = uapi::DDUP_A_SET_VERIFY_STOP;
        let (what, blamed) = match is_there(stop) {
            true => (SetCommand::VerifyStop, stop),
            false => {
                let peer = peer_of(info)?;
                let repair = is_there(uapi::DDUP_A_SET_VERIFY_REPAIR);

                (
                    SetCommand::Verify { peer, repair },
                    uapi::DDUP_A_SET_PEER_STORE,
                )
            }
        };

        command(index, &store, what, Some(blamed)).map(|_| ())
    })
}

/// Adds what a verify has done and found.
pub(super) fn put_report(
    store: &Store,
    report: &VerifyReport,
    message: &mut Message<'_>,
) -> Result {
    let state = match report.state {
        VerifyState::Freezing => uapi::DDUP_VERIFY_STATE_FREEZING,
        VerifyState::Comparing => uapi::DDUP_VERIFY_STATE_COMPARING,
        VerifyState::Complete => uapi::DDUP_VERIFY_STATE_COMPLETE,
        VerifyState::Stopped => uapi::DDUP_VERIFY_STATE_STOPPED,
        VerifyState::GaveWay => uapi::DDUP_VERIFY_STATE_GAVE_WAY,
        VerifyState::Lost => uapi::DDUP_VERIFY_STATE_LOST,
        VerifyState::NotFrozen => uapi::DDUP_VERIFY_STATE_NOT_FROZEN,
    };

    message.put_nested(uapi::DDUP_A_PEER_VERIFY, |message| {
        message.put_u32(uapi::DDUP_A_VERIFY_STATE, state)?;
        if report.repair {
            message.put_flag(uapi::DDUP_A_VERIFY_REPAIR)?;
        }
        if report.position != Position::ZERO {
            put_position(uapi::DDUP_A_VERIFY_POSITION, &report.position, message)?;
        }
        for (attr, value) in [
            (uapi::DDUP_A_VERIFY_BLOCKS, report.blocks),
            (uapi::DDUP_A_VERIFY_COMPARED_BLOCKS, report.compared),
            (uapi::DDUP_A_VERIFY_RANGES, report.ranges),
            (
                uapi::DDUP_A_VERIFY_DIFFERING_RANGES,
                report.ranges_differing,
            ),
            (
                uapi::DDUP_A_VERIFY_DIFFERING_VOLUMES,
                report.volumes_differing,
            ),
            (uapi::DDUP_A_VERIFY_DIFFERING_BLOCKS, report.differing),
            (uapi::DDUP_A_VERIFY_REPAIRED_BLOCKS, report.repaired),
            (uapi::DDUP_A_VERIFY_TOOK_MS, report.took),
        ] {
            message.put_uint(attr, value)?;
        }
        if let Some(ended) = report.ended {
            message.put_uint(uapi::DDUP_A_VERIFY_ENDED, store.boottime_of(ended))?;
        }
        for found in report.found.iter() {
            message.put_nested(uapi::DDUP_A_VERIFY_FOUND, |message| {
                message.put_bytes(uapi::DDUP_A_DIFFERENCE_VOLUME, &found.volume)?;
                message.put_uint(uapi::DDUP_A_DIFFERENCE_BLOCK, found.lbn)
            })?;
        }
        Ok(())
    })
}
