// SPDX-License-Identifier: GPL-2.0

//! Control: netlink requests, and the list of attached devices.
//!
//! The list is a static, since netlink handlers have nothing else to find it by. A device is in it
//! under its number from the moment that an attach reserves it until its detach is complete, so that
//! a number is never in use twice. While an attach or detach works, which may take long, the list is
//! not locked and the entry says what goes on.
//!
//! Events get their numbers, and are sent, under the lock that guards what they tell of; so a dump
//! names the last event that it reflects.
//!
//! A store has a device for each of its volumes, and they are attached and detached together. While
//! a volume is created, resized or removed, its store is noted in the list: it is not detached then.
//!
//! What concerns scrubs is in [`scrub`][], replica sets in [`set`][], and devices of volumes that a peer
//! has changed in [`follow`][].
//!
//! Lock: [`LIST`] alone. Below it are the engines' locks. It is not held while a device is made or
//! removed, nor while a command of a set is carried out.

mod follow;
mod scrub;
mod set;
mod verify;

pub(crate) use self::{
    follow::volumes_changed,
    scrub::{put_report, scrub_found, scrubbed},
    set::{event_lost, role_changed, set_changed},
};

use crate::{
    content::BLOCK_SIZE,
    device::{Device, Family, Identity, Options},
    engine::{types::LBN_LIMIT, FailReason, VolumeChange},
    error::{refuse, Refusal},
    store::{CheckReport, Store},
    uapi,
};
use kernel::{
    prelude::*,
    sync::{global_lock, Arc},
    time::{delay::fsleep, Delta},
};
use kstage::{
    debugfs::Root,
    genetlink::{self, Attr, Dump, Info, Message, Registration},
    genl_family,
    workqueue::{Flags, OwnedQueue},
};

/// Number of the multicast group in the family.
const GROUP_EVENTS: u32 = 0;

genl_family! {
    static FAMILY = ddup_nl_family;
    do ddup_nl_attach_doit => attach;
    do ddup_nl_detach_doit => detach;
    do ddup_nl_get_doit => get;
    do ddup_nl_check_doit => check;
    do ddup_nl_create_doit => create;
    do ddup_nl_resize_doit => resize;
    do ddup_nl_remove_doit => remove;
    do ddup_nl_set_get_doit => set::get;
    do ddup_nl_set_config_doit => set::set_config;
    do ddup_nl_fence_doit => set::fence;
    do ddup_nl_join_doit => set::join;
    do ddup_nl_demote_doit => set::demote;
    do ddup_nl_flush_fail_doit => set::flush_fail;
    do ddup_nl_resolve_doit => set::resolve;
    do ddup_nl_peer_doit => set::peer;
    do ddup_nl_peer_drop_doit => set::peer_drop;
    do ddup_nl_scrub_doit => scrub::scrub;
    do ddup_nl_lease_doit => set::lease;
    do ddup_nl_verify_doit => verify::verify;
    dump ddup_nl_get_dumpit => get_all;
    dump ddup_nl_set_get_dumpit => set::get_all;
}

/// What happens to a number.
enum State {
    /// An attach works on it.
    Attaching,
    /// There is a device.
    Attached(KBox<Device>),
    /// A detach works on it.
    Detaching,
}

struct Entry {
    index: u32,
    state: State,
    /// Of the store, as soon as it is known.
    uuid: Option<[u8; 16]>,
}

/// The devices of a store on their way out.
struct Taken {
    devices: KVec<KBox<Device>>,
    /// Room for what they are known by.
    identities: KVec<Identity>,
    store: Option<Arc<Store>>,
}

struct List {
    /// In the order of their numbers.
    entries: KVec<Entry>,
    /// The module is going: no attach any more.
    closed: bool,
    /// New devices map one to one.
    passthrough: bool,
    /// Random number of this load of the module.
    instance: u32,
    /// Number of the last event.
    event_seq: u64,
    /// Where stores work.
    queue: Option<Arc<OwnedQueue>>,
    /// Where devices show their state.
    debugfs: Option<Arc<Root>>,
    /// Stores of which a volume is being changed.
    changing: KVec<Arc<Store>>,
}

global_lock! {
    // SAFETY: `Control::start` initialises it when the module is loaded, before anything uses it.
    unsafe(uninit) static LIST: Mutex<List> = List {
        entries: KVec::new(),
        closed: true,
        passthrough: false,
        instance: 0,
        event_seq: 0,
        queue: None,
        debugfs: None,
        changing: KVec::new(),
    };
}

impl List {
    fn position(&self, index: u32) -> Result<usize, usize> {
        self.entries
            .binary_search_by_key(&index, |entry| entry.index)
    }

    fn entry_mut(&mut self, index: u32) -> Option<&mut Entry> {
        let at = self.position(index).ok()?;

        self.entries.get_mut(at)
    }

    fn device(&self, index: u32) -> Option<&Device> {
        match &self.entries.get(self.position(index).ok()?)?.state {
            State::Attached(device) => Some(device),
            _ => None,
        }
    }

    /// Whether a volume of the store is being changed.
    fn is_changing(&self, store: &Arc<Store>) -> bool {
        self.changing.iter().any(|other| Arc::ptr_eq(other, store))
    }

    /// The devices that are detached together with `index`.
    fn group(&self, index: u32) -> impl Iterator<Item = &Device> {
        let store = self.device(index).and_then(Device::store);

        self.entries.iter().filter_map(move |entry| {
            let State::Attached(device) = &entry.state else {
                return None;
            };
            let belongs = match store {
                Some(store) => device.shares_store(store),
                None => entry.index == index,
            };

            belongs.then_some(&**device)
        })
    }

    /// Takes the devices of a group out of their entries.
    fn take_group(&mut self, index: u32) -> Result<Taken> {
        let count = self.group(index).count();
        let mut taken = Taken {
            devices: KVec::with_capacity(count, GFP_KERNEL)?,
            identities: KVec::with_capacity(count, GFP_KERNEL)?,
            store: self.device(index).and_then(Device::store).cloned(),
        };

        for entry in self.entries.iter_mut() {
            let belongs = match (&entry.state, &taken.store) {
                (State::Attached(device), Some(store)) => device.shares_store(store),
                (State::Attached(_), None) => entry.index == index,
                _ => false,
            };
            if !belongs {
                continue;
            }
            let state = core::mem::replace(&mut entry.state, State::Detaching);
            if let State::Attached(device) = state {
                // There is room: they were counted.
                let _ = taken.devices.push_within_capacity(device);
            }
        }
        Ok(taken)
    }

    /// Reserves the number `wish`, or the lowest that is free.
    fn reserve(&mut self, wish: Option<u32>) -> Result<u32, Refusal> {
        let index_attr = Some(uapi::DDUP_A_DEVICE_INDEX);

        if self.closed {
            return Err(refuse!(ENODEV, None, "the module is being unloaded"));
        }
        let index = match wish {
            Some(index) => index,
            // The first number that is not at its own position.
            None => self
                .entries
                .iter()
                .zip(0..)
                .find(|(entry, index)| entry.index != *index)
                .map_or(u32::try_from(self.entries.len())?, |(_, index)| index),
        };

        if index > uapi::DDUP_INDEX_MAX {
            return Err(refuse!(
                ENOSPC,
                index_attr,
                "all device numbers up to {} are in use",
                uapi::DDUP_INDEX_MAX
            ));
        }
        match self.position(index) {
            Ok(_) => Err(refuse!(EEXIST, index_attr, "ddup{index} exists already")),
            Err(at) => {
                self.entries.reserve(1, GFP_KERNEL)?;
                let entry = Entry {
                    index,
                    state: State::Attaching,
                    uuid: None,
                };
                self.entries
                    .insert_within_capacity(at, entry)
                    .map_err(|_| ENOMEM)?;
                Ok(index)
            }
        }
    }

    /// The first device from number `from` on of a store, and why that failed.
    fn failed_from(&self, from: u32, store: &Store) -> Option<(Identity, Option<FailReason>)> {
        self.entries.iter().find_map(|entry| match &entry.state {
            State::Attached(device)
                if entry.index >= from
                    && device
                        .store()
                        .is_some_and(|own| core::ptr::eq(&**own, store)) =>
            {
                Some((device.identity().try_clone().ok()?, device.failure()))
            }
            _ => None,
        })
    }

    /// Puts a device into the entry that was reserved for it, and tells listeners.
    fn put_device(&mut self, device: KBox<Device>) {
        let identity = device.identity().try_clone();
        let (index, uuid) = (device.identity().index, device.identity().uuid);

        if let Some(entry) = self.entry_mut(index) {
            entry.state = State::Attached(device);
            entry.uuid = uuid;
        }
        match identity {
            Ok(identity) => self.announce(uapi::DDUP_CMD_ATTACHED, |message| identity.put(message)),
            // Listeners see the gap in the numbers.
            Err(_) => self.event_seq = self.event_seq.wrapping_add(1),
        }
    }

    fn remove(&mut self, index: u32) {
        if let Ok(at) = self.position(index) {
            // Cannot fail: the position is one of an entry.
            let _ = self.entries.remove(at);
        }
    }

    /// Tells listeners that `cmd` happened to what `fill` describes.
    fn announce(&mut self, cmd: u32, fill: impl FnOnce(&mut Message<'_>) -> Result) {
        let attrs = (uapi::DDUP_A_DEVICE_INSTANCE, uapi::DDUP_A_DEVICE_EVENT_SEQ);

        self.announce_as(attrs, cmd, fill);
    }

    /// The same, with the attributes that an event of this kind has for instance and number.
    fn announce_as(
        &mut self,
        (instance_attr, seq_attr): (u32, u32),
        cmd: u32,
        fill: impl FnOnce(&mut Message<'_>) -> Result,
    ) {
        self.event_seq = self.event_seq.wrapping_add(1);
        let (instance, event_seq) = (self.instance, self.event_seq);

        let sent = genetlink::multicast(&FAMILY, GROUP_EVENTS, cmd, |message| {
            message.put_u32(instance_attr, instance)?;
            message.put_uint(seq_attr, event_seq)?;
            fill(message)
        });
        if let Err(error) = sent {
            // Listeners see the gap in the numbers.
            pr_warn!("event {} could not be sent: {:?}\n", event_seq, error);
        }
    }

    fn describe(&self, device: &Device, message: &mut Message<'_>) -> Result {
        device.describe(message)?;
        message.put_u32(uapi::DDUP_A_DEVICE_INSTANCE, self.instance)?;
        message.put_uint(uapi::DDUP_A_DEVICE_EVENT_SEQ, self.event_seq)
    }
}

/// Takes requests, until it is stopped.
pub(crate) struct Control {
    registration: Option<Registration>,
}

impl Control {
    /// Starts to take requests. Once per load of the module. May sleep.
    pub(crate) fn start(passthrough: bool) -> Result<Control> {
        #[expect(unsafe_code, reason = "no safe way to initialise a global lock")]
        // SAFETY: Called once, when the module is loaded, before anything uses the list.
        unsafe {
            LIST.init()
        };
        let queue = Arc::new(
            OwnedQueue::new(c"ddup", Flags::UNBOUND | Flags::MEM_RECLAIM, 0)?,
            GFP_KERNEL,
        )?;
        let debugfs = Arc::new(Root::new(c"ddup"), GFP_KERNEL)?;
        {
            let mut list = LIST.lock();

            list.closed = false;
            list.passthrough = passthrough;
            list.instance = kstage::random::u32();
            list.queue = Some(queue);
            list.debugfs = Some(debugfs);
        }
        let registration = Registration::new(&FAMILY).inspect_err(|_| give_back())?;

        Ok(Control {
            registration: Some(registration),
        })
    }

    /// Detaches all devices, none of which is open since the module is unloaded, and takes no more
    /// requests. May sleep.
    pub(crate) fn stop(&mut self) {
        LIST.lock().closed = true;

        loop {
            let taken = {
                let mut list = LIST.lock();
                let first = list.entries.iter().find_map(|entry| match entry.state {
                    State::Attached(_) => Some(entry.index),
                    _ => None,
                });

                match list.changing.is_empty() {
                    true => first.map(|index| list.take_group(index)),
                    // Whoever changes a volume may put a device back.
                    false => Some(Err(EBUSY)),
                }
            };
            match taken {
                Some(Ok(taken)) => detach_taken(taken, false),
                // So little memory is never out for long, nor does a change last.
                Some(Err(_)) => fsleep(Delta::from_millis(10)),
                None => break,
            }
        }
        // Waits for requests that work.
        self.registration = None;
        {
            let mut list = LIST.lock();

            // They are empty, but have memory, and the list is never dropped.
            list.entries = KVec::new();
            list.changing = KVec::new();
        }
        give_back();
    }
}

/// Gives back what [`Control::start`] made for the list, which nobody uses any more. May sleep.
fn give_back() {
    let (queue, debugfs) = {
        let mut list = LIST.lock();

        (list.queue.take(), list.debugfs.take())
    };
    drop(debugfs);
    // Waits for its items.
    drop(queue);
}

/// Removes devices whose entries are in state `Detaching`, lets go of their store, and removes the
/// entries.
fn detach_taken(taken: Taken, force: bool) {
    let Taken {
        devices,
        mut identities,
        store,
    } = taken;

    if let Some(store) = &store {
        store.stop_waiting();
    }
    for device in devices {
        let identity = KBox::into_inner(device).remove_disk(force);

        // There is room.
        let _ = identities.push_within_capacity(identity);
    }
    let durable = store.is_none_or(Store::detach);

    let mut list = LIST.lock();
    for identity in &identities {
        if !durable {
            pr_err!(
                "ddup{}: not all of the store is durable; the next attach recovers it\n",
                identity.index
            );
        }
        list.remove(identity.index);
        list.announce(uapi::DDUP_CMD_DETACHED, |message| identity.put(message));
    }
}

/// Tells listeners that a store failed. May sleep.
pub(crate) fn store_failed(store: &Store) {
    let mut list = LIST.lock();
    // It is not yet, or no longer, in the list: who attaches or detaches it sees it.
    let mut next = 0;

    while let Some((identity, failure)) = list.failed_from(next, store) {
        next = identity.index + 1;
        if let Some(reason) = failure {
            pr_err!(
                "ddup{}: the store failed: {}\n",
                identity.index,
                format_args!("{reason}")
            );
        }
        list.announce(uapi::DDUP_CMD_STORE_FAILED, |message| {
            identity.put(message)?;
            if let Some(reason) = failure {
                crate::device::put_failure(reason, message)?;
            }
            Ok(())
        });
    }
}

/// Runs a handler of a request, and tells the requester why if it refuses.
fn answer(info: &mut Info<'_>, handler: fn(&mut Info<'_>) -> Result<(), Refusal>) -> Result {
    handler(info).map_err(|refusal| {
        info.refuse(
            refusal.error,
            refusal.attr,
            format_args!("{}", refusal.message()),
        )
    })
}

/// Refuses who may not change anything.
fn check_admin(info: &Info<'_>) -> Result<(), Refusal> {
    if info.sender_is_admin() {
        Ok(())
    } else {
        Err(refuse!(EPERM, None, "this needs CAP_SYS_ADMIN"))
    }
}

/// The number of a request, if it names one.
fn index_of(info: &Info<'_>) -> Result<Option<u32>, Refusal> {
    match info.attr(uapi::DDUP_A_DEVICE_INDEX) {
        Some(attr) => Ok(Some(u32::try_from(attr.uint())?)),
        None => Ok(None),
    }
}

/// The number of a request that must name one.
fn required_index_of(info: &Info<'_>) -> Result<u32, Refusal> {
    index_of(info)?.ok_or_else(|| refuse!(EINVAL, None, "the number of the device is missing"))
}

/// There is no such device, or not now.
fn refuse_absent(list: &List, index: u32) -> Refusal {
    let attr = Some(uapi::DDUP_A_DEVICE_INDEX);

    match list.position(index) {
        Ok(_) => refuse!(
            EBUSY,
            attr,
            "ddup{index} is being attached or detached: try again"
        ),
        Err(_) => refuse!(ENOENT, attr, "there is no device ddup{index}"),
    }
}

/// `attach`.
fn attach(info: &mut Info<'_>) -> Result {
    answer(info, try_attach)
}

fn try_attach(info: &mut Info<'_>) -> Result<(), Refusal> {
    check_admin(info)?;

    let wish = index_of(info)?;
    let (index, passthrough, queue, debugfs) = {
        let mut list = LIST.lock();
        let queue = list.queue.clone().ok_or(ENODEV)?;
        let debugfs = list.debugfs.clone().ok_or(ENODEV)?;

        (list.reserve(wish)?, list.passthrough, queue, debugfs)
    };
    let device = attach_reserved(info, index, passthrough, queue, debugfs)
        .inspect_err(|_| LIST.lock().remove(index))?;
    let name = device.identity().try_clone();
    let (siblings, result) = attach_siblings(&device);
    let mut list = LIST.lock();

    list.put_device(device);
    for sibling in siblings {
        list.put_device(sibling);
    }
    let name = match (result, name) {
        (Ok(()), Ok(identity)) => identity.name,
        (result, name) => {
            let taken = list.take_group(index);

            drop(list);
            detach_taken(taken?, false);
            return Err(result
                .err()
                .or(name.err().map(Refusal::from))
                .unwrap_or(ENOMEM.into()));
        }
    };
    drop(list);

    info.reply(uapi::DDUP_CMD_ATTACH, |message| {
        message.put_u32(uapi::DDUP_A_DEVICE_INDEX, index)?;
        message.put_string(uapi::DDUP_A_DEVICE_NAME, &name)
    })?;
    Ok(())
}

/// Makes devices of the other volumes of a store that was just attached. Also returns those that
/// were made before one failed.
fn attach_siblings(device: &Device) -> (KVec<KBox<Device>>, Result<(), Refusal>) {
    let mut siblings = KVec::new();
    let result = try_attach_siblings(device, &mut siblings);

    (siblings, result)
}

fn try_attach_siblings(device: &Device, siblings: &mut KVec<KBox<Device>>) -> Result<(), Refusal> {
    let Some((first, _)) = device.volume() else {
        return Ok(());
    };
    let family = device.family()?;
    let store = &family.store;

    for slot in first + 1..store.volume_slots() {
        if store.volume(slot).is_none() {
            continue;
        }
        siblings.reserve(1, GFP_KERNEL)?;
        let index = LIST.lock().reserve(None)?;
        let sibling = family
            .device(index, slot)
            .inspect_err(|_| LIST.lock().remove(index))?;

        // There is room.
        let _ = siblings.push_within_capacity(sibling);
    }
    Ok(())
}

/// Attaches under a reserved number.
fn attach_reserved(
    info: &Info<'_>,
    index: u32,
    passthrough: bool,
    queue: Arc<OwnedQueue>,
    debugfs: Arc<Root>,
) -> Result<KBox<Device>, Refusal> {
    let path = info
        .attr(uapi::DDUP_A_DEVICE_PATH)
        .ok_or_else(|| refuse!(EINVAL, None, "the path of the backing device is missing"))?
        .string()?;

    let device = Device::attach(&Options {
        index,
        path,
        read_only: info.attr(uapi::DDUP_A_DEVICE_READ_ONLY).is_some(),
        passthrough,
        cache_bytes: info.attr(uapi::DDUP_A_DEVICE_CACHE_BYTES).map(Attr::uint),
        index_bytes: info.attr(uapi::DDUP_A_DEVICE_INDEX_BYTES).map(Attr::uint),
        queue,
        debugfs,
    })?;
    Ok(KBox::new(device, GFP_KERNEL)?)
}

/// Notes the UUID of the store that is being attached under `index`. Refuses that of a store which
/// another number has: it is a copy, or the same device by another way. May sleep.
pub(crate) fn claim(index: u32, uuid: [u8; 16]) -> Result<(), Refusal> {
    let mut list = LIST.lock();

    if let Some(other) = list.entries.iter().find(|entry| entry.uuid == Some(uuid)) {
        return Err(refuse!(
            EBUSY,
            Some(uapi::DDUP_A_DEVICE_PATH),
            "a store with the same UUID is attached as ddup{}",
            other.index
        ));
    }
    if let Some(entry) = list.entry_mut(index) {
        entry.uuid = Some(uuid);
    }
    Ok(())
}

/// `detach`.
fn detach(info: &mut Info<'_>) -> Result {
    answer(info, try_detach)
}

fn try_detach(info: &mut Info<'_>) -> Result<(), Refusal> {
    check_admin(info)?;

    let index = required_index_of(info)?;
    let force = info.attr(uapi::DDUP_A_DEVICE_FORCE).is_some();

    let taken = {
        let mut list = LIST.lock();

        let Some(device) = list.device(index) else {
            return Err(refuse_absent(&list, index));
        };
        if let Some(store) = device.store().filter(|store| list.is_changing(store)) {
            return Err(refuse_change(EBUSY, index, store));
        }
        if let (Some(waiting), false) = (device.store().and_then(|s| s.waiting()), force) {
            return Err(set::refuse_waiting(index, &waiting));
        }
        let open = list.group(index).find(|device| !device.close_if_idle());
        if let (Some(open), false) = (open, force) {
            let open = open.identity().index;

            list.group(index).for_each(Device::reopen);
            return Err(if open == index {
                refuse!(
                    EBUSY,
                    Some(uapi::DDUP_A_DEVICE_INDEX),
                    "ddup{index} is in use: unmount and close it, or detach by force"
                )
            } else {
                refuse!(
                    EBUSY,
                    Some(uapi::DDUP_A_DEVICE_INDEX),
                    "ddup{open}, of the same store, is in use: close it, or detach by force"
                )
            });
        }
        list.take_group(index)?
    };
    detach_taken(taken, force);
    Ok(())
}

/// Why a change of a volume of the store of `ddup<index>` can't be made.
fn refuse_change(error: Error, index: u32, store: &Store) -> Refusal {
    let attr = Some(uapi::DDUP_A_DEVICE_INDEX);

    match error {
        EBUSY => refuse!(
            error,
            attr,
            "a volume of the store is being changed or still shrinks: try again"
        ),
        EROFS => refuse!(error, attr, "ddup{index} is read-only"),
        EINVAL => refuse!(
            error,
            attr,
            "ddup{index} is the last volume of its store: detach it"
        ),
        ENOSPC => refuse!(error, attr, "the store of ddup{index} has no room for that"),
        EPERM => refuse!(
            EROFS,
            attr,
            "ddup{index} is not primary: change volumes on the primary of its replica set"
        ),
        EAGAIN => refuse!(
            error,
            attr,
            "the replica set takes no changes just now, since writes wait: try again"
        ),
        EIO => match store.failure() {
            Some(reason) => refuse!(error, attr, "the store failed: {reason}"),
            None => refuse!(error, attr, "the store failed"),
        },
        _ => error.into(),
    }
}

/// A store that is not detached while this is there, since a volume of it is being changed. Not to be
/// made or dropped under the lock of the list.
struct Changing(Family);

impl Changing {
    fn enter(index: u32) -> Result<Changing, Refusal> {
        let mut list = LIST.lock();
        let Some(device) = list.device(index) else {
            return Err(refuse_absent(&list, index));
        };
        if device.store().is_none() {
            return Err(refuse!(
                EINVAL,
                Some(uapi::DDUP_A_DEVICE_INDEX),
                "ddup{index} maps one to one"
            ));
        }
        let family = device.family()?;

        if device.is_read_only() {
            return Err(refuse_change(EROFS, index, &family.store));
        }
        if !family.store.serves() {
            return Err(refuse_change(EPERM, index, &family.store));
        }
        if list.is_changing(&family.store) {
            return Err(refuse_change(EBUSY, index, &family.store));
        }
        list.changing.push(family.store.clone(), GFP_KERNEL)?;
        Ok(Changing(family))
    }

    /// That the devices of a store may be made those of its volumes, if they are not. If a volume is
    /// being changed by command the store is told to have it looked for later.
    fn follow(store: &Store) -> Option<Changing> {
        let mut list = LIST.lock();
        let family = set::devices_of(&list, store).next()?.family().ok()?;

        follow::difference(&list, store)?;
        if list.closed {
            return None;
        }
        if list.is_changing(&family.store) {
            store.follow_later();
            return None;
        }
        list.changing.push(family.store.clone(), GFP_KERNEL).ok()?;
        Some(Changing(family))
    }

    fn family(&self) -> &Family {
        &self.0
    }

    /// Makes the change. May sleep for as long as three checkpoints take, and some seconds more in a
    /// replica set whose writes wait.
    fn make(&self, index: u32, change: VolumeChange) -> Result<u32, Refusal> {
        let store = &self.0.store;

        store
            .change_volume(change)
            .map_err(|error| refuse_change(error, index, store))
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        let mut list = LIST.lock();

        list.changing
            .retain(|store| !Arc::ptr_eq(store, &self.0.store));
        self.0.store.follow_now();
    }
}

/// The size of a volume that a request asks for, in blocks.
fn blocks_of(info: &Info<'_>) -> Result<u64, Refusal> {
    let attr = Some(uapi::DDUP_A_DEVICE_SIZE);
    let bytes = info
        .attr(uapi::DDUP_A_DEVICE_SIZE)
        .ok_or_else(|| refuse!(EINVAL, None, "the size of the volume is missing"))?
        .uint();
    let blocks = bytes / u64::from(BLOCK_SIZE);

    if blocks == 0 || bytes % u64::from(BLOCK_SIZE) != 0 {
        return Err(refuse!(
            EINVAL,
            attr,
            "{bytes} bytes are no positive multiple of {BLOCK_SIZE}"
        ));
    }
    if blocks > LBN_LIMIT {
        return Err(refuse!(EINVAL, attr, "{bytes} bytes are more than 4 PiB"));
    }
    Ok(blocks)
}

/// `create`.
fn create(info: &mut Info<'_>) -> Result {
    answer(info, try_create)
}

fn try_create(info: &mut Info<'_>) -> Result<(), Refusal> {
    check_admin(info)?;

    let index = required_index_of(info)?;
    let blocks = blocks_of(info)?;
    let changing = Changing::enter(index)?;
    let new = LIST.lock().reserve(None)?;
    let device =
        create_reserved(&changing, index, new, blocks).inspect_err(|_| LIST.lock().remove(new))?;
    let identity = device.identity().try_clone();

    LIST.lock().put_device(device);
    info.reply(uapi::DDUP_CMD_CREATE, |message| {
        message.put_u32(uapi::DDUP_A_DEVICE_INDEX, new)?;
        message.put_string(uapi::DDUP_A_DEVICE_NAME, &identity?.name)
    })?;
    Ok(())
}

fn create_reserved(
    changing: &Changing,
    index: u32,
    new: u32,
    blocks: u64,
) -> Result<KBox<Device>, Refusal> {
    let mut uuid = [0; 16];

    kstage::random::fill(&mut uuid);
    // Version 4, as RFC 9562 says.
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    let slot = changing.make(index, VolumeChange::Create { uuid, blocks })?;

    changing.0.device(new, slot)
}

/// `resize`.
fn resize(info: &mut Info<'_>) -> Result {
    answer(info, try_resize)
}

fn try_resize(info: &mut Info<'_>) -> Result<(), Refusal> {
    check_admin(info)?;

    let index = required_index_of(info)?;
    let blocks = blocks_of(info)?;
    let force = info.attr(uapi::DDUP_A_DEVICE_FORCE).is_some();
    let bytes = blocks * u64::from(BLOCK_SIZE);
    let changing = Changing::enter(index)?;
    let (slot, old) = {
        let list = LIST.lock();
        let Some(device) = list.device(index) else {
            return Err(refuse_absent(&list, index));
        };
        let (slot, old) = device.volume().ok_or(ENOENT)?;

        if bytes < old {
            if device.is_open() && !force {
                return Err(refuse!(
                    EBUSY,
                    Some(uapi::DDUP_A_DEVICE_INDEX),
                    "ddup{index} is in use and would lose blocks: close it, or shrink it by force"
                ));
            }
            device.set_size(bytes);
        }
        (slot, old)
    };
    if bytes != old {
        let changed = changing.make(index, VolumeChange::Resize { slot, blocks });
        let mut list = LIST.lock();

        if let Some(device) = list.device(index) {
            device.set_size(if changed.is_ok() { bytes } else { old });
        }
        changed?;
        if let Some(Ok(identity)) = list.device(index).map(|d| d.identity().try_clone()) {
            list.announce(uapi::DDUP_CMD_RESIZED, |message| {
                identity.put(message)?;
                message.put_uint(uapi::DDUP_A_DEVICE_SIZE, bytes)
            });
        }
    }
    Ok(())
}

/// `remove`.
fn remove(info: &mut Info<'_>) -> Result {
    answer(info, try_remove)
}

fn try_remove(info: &mut Info<'_>) -> Result<(), Refusal> {
    check_admin(info)?;

    let index = required_index_of(info)?;
    let changing = Changing::enter(index)?;
    let (device, slot) = {
        let mut list = LIST.lock();

        if list.group(index).count() == 1 {
            return Err(refuse_change(EINVAL, index, &changing.0.store));
        }
        let Some(device) = list.device(index) else {
            return Err(refuse_absent(&list, index));
        };
        let (slot, _) = device.volume().ok_or(ENOENT)?;

        if !device.close_if_idle() {
            return Err(refuse!(
                EBUSY,
                Some(uapi::DDUP_A_DEVICE_INDEX),
                "ddup{index} is in use: unmount and close it"
            ));
        }
        let state = list
            .entry_mut(index)
            .map(|entry| core::mem::replace(&mut entry.state, State::Detaching));
        let Some(State::Attached(device)) = state else {
            return Err(ENOENT.into());
        };
        (device, slot)
    };
    let identity = KBox::into_inner(device).remove_disk(false);
    let removed = changing.make(index, VolumeChange::Remove { slot });
    // If it was not removed the volume is as it was, so its device comes back.
    let back = removed
        .as_ref()
        .err()
        .and_then(|_| changing.0.device(index, slot).ok());

    let mut list = LIST.lock();
    if let Err(refusal) = removed {
        match back {
            Some(device) => list.put_device(device),
            None => list.remove(index),
        }
        return Err(refusal);
    }
    list.remove(index);
    list.announce(uapi::DDUP_CMD_REMOVED, |message| identity.put(message));
    Ok(())
}

/// `get` of one device.
fn get(info: &mut Info<'_>) -> Result {
    answer(info, try_get)
}

fn try_get(info: &mut Info<'_>) -> Result<(), Refusal> {
    let index = required_index_of(info)?;
    let list = LIST.lock();
    let Some(device) = list.device(index) else {
        return Err(refuse_absent(&list, index));
    };

    info.reply(uapi::DDUP_CMD_GET, |message| list.describe(device, message))?;
    Ok(())
}

/// `get` of all devices.
fn get_all(dump: &mut Dump<'_>) -> Result {
    let list = LIST.lock();

    // Any event changes the list or something that is told of it.
    dump.set_sequence((list.event_seq & u64::from(u32::MAX >> 1)) as u32 + 1);
    loop {
        // The first number that is not yet told.
        let [next, ..] = *dump.state();
        let found = list.entries.iter().find_map(|entry| match &entry.state {
            State::Attached(device) if u64::from(entry.index) >= next => Some(device),
            _ => None,
        });
        let Some(device) = found else {
            return Ok(());
        };

        dump.entry(uapi::DDUP_CMD_GET, |message| list.describe(device, message))?;
        let [next, ..] = dump.state();
        *next = u64::from(device.identity().index) + 1;
    }
}

/// `check`.
fn check(info: &mut Info<'_>) -> Result {
    answer(info, try_check)
}

fn try_check(info: &mut Info<'_>) -> Result<(), Refusal> {
    check_admin(info)?;

    let index = required_index_of(info)?;
    let cookie_attr = Some(uapi::DDUP_A_DEVICE_CHECK_COOKIE);
    let number = |attr| info.attr(attr).map_or(0, Attr::uint);
    let report = info
        .attr(uapi::DDUP_A_DEVICE_CHECK_COOKIE)
        .map(|cookie| CheckReport {
            cookie: cookie.uint(),
            pages: number(uapi::DDUP_A_DEVICE_CHECK_PAGES),
            findings: number(uapi::DDUP_A_DEVICE_CHECK_FINDINGS),
            table_read: info.attr(uapi::DDUP_A_DEVICE_CHECK_TABLE_READ).is_some(),
            done: info.attr(uapi::DDUP_A_DEVICE_CHECK_DONE).is_some(),
        });
    let mut list = LIST.lock();
    let Some(device) = list.device(index) else {
        return Err(refuse_absent(&list, index));
    };
    let Some(store) = device.store() else {
        return Err(refuse!(EINVAL, None, "ddup{index} maps one to one"));
    };

    let Some(report) = report else {
        let (cookie, root) = store.begin_check().map_err(|error| match error {
            EBUSY => refuse!(error, None, "a check of ddup{index} goes on already"),
            _ => refuse!(error, None, "no check can begin now"),
        })?;

        info.reply(uapi::DDUP_CMD_CHECK, |message| {
            message.put_u32(uapi::DDUP_A_DEVICE_INDEX, index)?;
            message.put_uint(uapi::DDUP_A_DEVICE_CHECK_COOKIE, cookie)?;
            message.put_bytes(uapi::DDUP_A_DEVICE_CHECK_ROOT, &root)
        })?;
        return Ok(());
    };
    if !store.go_on_check(&report) {
        return Err(refuse!(
            Error::from_errno(-(kstage::bindings::ESTALE as i32)),
            cookie_attr,
            "that check has ended: the store needed what it kept, or it was silent too long"
        ));
    }
    if report.done {
        let identity = device.identity().try_clone()?;

        list.announce(uapi::DDUP_CMD_CHECKED, |message| {
            identity.put(message)?;
            report.put(message)
        });
    }
    Ok(())
}
