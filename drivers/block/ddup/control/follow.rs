// SPDX-License-Identifier: GPL-2.0

//! Devices follow the volumes of their store. On a replica these come, get other sizes and go as the
//! primary says, and nobody here asked for it.
//!
//! What differs is looked for anew after each step. While it is dealt with the store is noted in the
//! list, as while a volume is changed by command; if one is, this is done when that has ended.

use super::{set::devices_of, Changing, List, State, LIST};
use crate::{content::BLOCK_SIZE, error::Refusal, store::Store, uapi};
use kernel::prelude::*;

/// How the devices of a store differ from its volumes.
pub(super) enum Difference {
    /// The volume in this slot has no device.
    New(u32),
    /// This device has another size than its volume, which has so many bytes.
    Size(u32, u64),
    /// The volume of this device is gone.
    Gone(u32),
}

/// What is to be done first, if something is. A store keeps its last device, by which it is known.
pub(super) fn difference(list: &List, store: &Store) -> Option<Difference> {
    let devices = || devices_of(list, store).filter_map(|device| Some((device, device.shows()?)));
    let mut slots = 0..store.volume_slots();
    let is_new = |slot: &u32| {
        let volume = store.volume(*slot);

        volume.is_some_and(|v| !devices().any(|(_, (of, number, _))| (of, number) == (*slot, v.id)))
    };

    if let Some(slot) = slots.find(is_new) {
        return Some(Difference::New(slot));
    }
    let mut gone = None;
    for (device, (slot, number, shown)) in devices() {
        let index = device.identity().index;
        let volume = store.volume(slot).filter(|volume| volume.id == number);
        let bytes = volume.map(|volume| volume.blocks * u64::from(BLOCK_SIZE));

        match bytes {
            Some(bytes) if bytes != shown => return Some(Difference::Size(index, bytes)),
            Some(_) => {}
            None => gone = Some(Difference::Gone(index)),
        }
    }
    gone.filter(|_| devices().count() > 1)
}

/// Makes the devices of a store those of its volumes. May sleep.
pub(crate) fn volumes_changed(store: &Store) {
    let Some(changing) = Changing::follow(store) else {
        return;
    };

    loop {
        let found = difference(&LIST.lock(), store);
        let done = match found {
            Some(Difference::New(slot)) => add(&changing, slot),
            Some(Difference::Size(index, bytes)) => resize(index, bytes),
            Some(Difference::Gone(index)) => remove(index),
            None => return,
        };

        if let Err(refusal) = done {
            // It is tried again when volumes change, or the store's role.
            pr_err!("a device cannot follow its volume: {}\n", refusal.message());
            return;
        }
    }
}

fn add(changing: &Changing, slot: u32) -> Result<(), Refusal> {
    let index = LIST.lock().reserve(None)?;
    let device = changing
        .family()
        .device(index, slot)
        .inspect_err(|_| LIST.lock().remove(index))?;

    LIST.lock().put_device(device);
    Ok(())
}

fn resize(index: u32, bytes: u64) -> Result<(), Refusal> {
    let mut list = LIST.lock();
    let device = list.device(index).ok_or(ENOENT)?;
    let identity = device.identity().try_clone()?;

    device.set_size(bytes);
    list.announce(uapi::DDUP_CMD_RESIZED, |message| {
        identity.put(message)?;
        message.put_uint(uapi::DDUP_A_DEVICE_SIZE, bytes)
    });
    Ok(())
}

fn remove(index: u32) -> Result<(), Refusal> {
    let state = LIST
        .lock()
        .entry_mut(index)
        .map(|entry| core::mem::replace(&mut entry.state, State::Detaching));
    let Some(State::Attached(device)) = state else {
        return Err(ENOENT.into());
    };
    // Whoever has it open still has it from the time when the store led.
    let identity = KBox::into_inner(device).remove_disk(true);
    let mut list = LIST.lock();

    list.remove(index);
    list.announce(uapi::DDUP_CMD_REMOVED, |message| identity.put(message));
    Ok(())
}
