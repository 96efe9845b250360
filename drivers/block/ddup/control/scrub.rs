// SPDX-License-Identifier: GPL-2.0

//! Netlink requests and events about scrubs.

use super::{answer, check_admin, refuse_absent, required_index_of, set::devices_of, LIST};
use crate::{
    content::BLOCK_SIZE,
    device::Device,
    engine::{Lbn, ScrubReport, ScrubState},
    error::{refuse, Refusal},
    store::Store,
    uapi,
};
use kernel::prelude::*;
use kstage::genetlink::{Info, Message};

/// `scrub`.
pub(super) fn scrub(info: &mut Info<'_>) -> Result {
    answer(info, try_scrub)
}

fn try_scrub(info: &mut Info<'_>) -> Result<(), Refusal> {
    check_admin(info)?;

    let index = required_index_of(info)?;
    let attr = Some(uapi::DDUP_A_DEVICE_INDEX);
    let store = {
        let list = LIST.lock();
        let Some(device) = list.device(index) else {
            return Err(refuse_absent(&list, index));
        };

        device.store().cloned()
    };
    let Some(store) = store else {
        return Err(refuse!(EINVAL, attr, "ddup{index} maps one to one"));
    };

    if info.attr(uapi::DDUP_A_DEVICE_SCRUB_STOP).is_some() {
        return match store.stop_scrub() {
            true => Ok(()),
            false => Err(refuse!(
                ENOENT,
                Some(uapi::DDUP_A_DEVICE_SCRUB_STOP),
                "no scrub of the store of ddup{index} goes on"
            )),
        };
    }
    store.begin_scrub().map_err(|error| match error {
        EBUSY => refuse!(
            error,
            attr,
            "a scrub of the store of ddup{index} goes on already"
        ),
        ENOMEM => refuse!(
            error,
            attr,
            "there is no memory for a bit for each cluster of the store"
        ),
        _ => match store.failure() {
            Some(reason) => refuse!(error, attr, "the store failed: {reason}"),
            None => refuse!(error, attr, "ddup{index} is being detached"),
        },
    })
}

/// Adds what a scrub has done and found.
pub(crate) fn put_report(report: &ScrubReport, message: &mut Message<'_>) -> Result {
    let state = match report.state {
        ScrubState::Running => uapi::DDUP_SCRUB_STATE_RUNNING,
        ScrubState::Complete => uapi::DDUP_SCRUB_STATE_COMPLETE,
        ScrubState::Stopped => uapi::DDUP_SCRUB_STATE_STOPPED,
    };

    message.put_nested(uapi::DDUP_A_DEVICE_SCRUB, |message| {
        message.put_u32(uapi::DDUP_A_SCRUB_STATE, state)?;
        for (attr, value) in [
            (uapi::DDUP_A_SCRUB_BLOCKS, report.blocks),
            (uapi::DDUP_A_SCRUB_CHECKED_BLOCKS, report.checked),
            (uapi::DDUP_A_SCRUB_READ_CLUSTERS, report.clusters),
            (uapi::DDUP_A_SCRUB_BAD_BLOCKS, report.bad),
            (uapi::DDUP_A_SCRUB_HEALED_BLOCKS, report.healed),
            (uapi::DDUP_A_SCRUB_TOOK_MS, report.took),
        ] {
            message.put_uint(attr, value)?;
        }
        Ok(())
    })
}

/// Tells listeners of a bad block of the volume in `slot`. May sleep.
pub(crate) fn scrub_found(store: &Store, slot: u32, lbn: Lbn) {
    let offset = lbn.0 * u64::from(BLOCK_SIZE);
    let is_it = |device: &Device| device.volume().is_some_and(|(own, _)| own == slot);

    announce(store, is_it, uapi::DDUP_CMD_SCRUB_FOUND, |message| {
        message.put_uint(uapi::DDUP_A_DEVICE_OFFSET, offset)
    });
}

/// Tells listeners that a scrub has ended. May sleep.
pub(crate) fn scrubbed(store: &Store) {
    let Some(report) = store.scrub_report() else {
        return;
    };

    announce(
        store,
        |_| true,
        uapi::DDUP_CMD_SCRUBBED,
        |message| put_report(&report, message),
    );
}

/// Tells of the first such device of the store. Who attaches or detaches it sees for himself.
fn announce(
    store: &Store,
    such: impl Fn(&Device) -> bool,
    cmd: u32,
    fill: impl FnOnce(&mut Message<'_>) -> Result,
) {
    let mut list = LIST.lock();
    let device = devices_of(&list, store).find(|device| such(device));

    match device.map(|device| device.identity().try_clone()) {
        Some(Ok(identity)) => list.announce(cmd, |message| {
            identity.put(message)?;
            fill(message)
        }),
        // Listeners see the gap in the numbers.
        Some(Err(_)) => list.event_seq = list.event_seq.wrapping_add(1),
        None => {}
    }
}
