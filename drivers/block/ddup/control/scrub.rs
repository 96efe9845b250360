// SPDX-License-Identifier: GPL-2.0

//! Netlink requests and events about scrubs.

use super::{answer, check_admin, refuse_absent, required_index_of, List, State, LIST};
use crate::{
    content::BLOCK_SIZE,
    device::{Device, Identity},
    engine::{Lbn, ScrubReport, ScrubState},
    error::{refuse, Refusal},
    store::Store,
    uapi,
};
use kernel::{prelude::*, sync::Arc};
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

    announce(
        uapi::DDUP_CMD_SCRUB_FOUND,
        |device| shows(device, store, Some(slot)),
        |message| message.put_uint(uapi::DDUP_A_DEVICE_OFFSET, offset),
    );
}

/// Tells listeners that a scrub has ended. May sleep.
pub(crate) fn scrubbed(store: &Store) {
    let Some(report) = store.scrub_report() else {
        return;
    };

    announce(
        uapi::DDUP_CMD_SCRUBBED,
        |device| shows(device, store, None),
        |message| put_report(&report, message),
    );
}

/// Whether a device shows a volume of the store, that in `slot` if one is named.
fn shows(device: &Device, store: &Store, slot: Option<u32>) -> bool {
    let is_it = |own: &Arc<Store>| core::ptr::eq(&**own, store);
    let own = device.volume().map(|(slot, _)| slot);

    device.store().is_some_and(is_it) && (slot.is_none() || slot == own)
}

/// Tells of the first device of those. Who attaches or detaches it sees for himself.
fn announce(
    cmd: u32,
    such: impl Fn(&Device) -> bool,
    fill: impl FnOnce(&mut Message<'_>) -> Result,
) {
    let mut list = LIST.lock();
    let identity = find(&list, such);

    match identity {
        Some(Ok(identity)) => list.announce(cmd, |message| {
            identity.put(message)?;
            fill(message)
        }),
        // Listeners see the gap in the numbers.
        Some(Err(_)) => list.event_seq = list.event_seq.wrapping_add(1),
        None => {}
    }
}

fn find(list: &List, such: impl Fn(&Device) -> bool) -> Option<Result<Identity>> {
    list.entries.iter().find_map(|entry| match &entry.state {
        State::Attached(device) if such(device) => Some(device.identity().try_clone()),
        _ => None,
    })
}
