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
//! Lock: [`LIST`] alone, a leaf. It is not held while a device is made or removed.

use crate::{
    device::{Device, Options},
    error::{refuse, Refusal},
    store::CheckReport,
    uapi,
};
use kernel::{
    prelude::*,
    sync::{global_lock, Arc},
};
use kstage::{
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
    dump ddup_nl_get_dumpit => get_all;
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

    fn remove(&mut self, index: u32) {
        if let Ok(at) = self.position(index) {
            // Cannot fail: the position is one of an entry.
            let _ = self.entries.remove(at);
        }
    }

    /// Tells listeners that `cmd` happened to what `fill` describes.
    fn announce(&mut self, cmd: u32, fill: impl FnOnce(&mut Message<'_>) -> Result) {
        self.event_seq = self.event_seq.wrapping_add(1);
        let (instance, event_seq) = (self.instance, self.event_seq);

        let sent = genetlink::multicast(&FAMILY, GROUP_EVENTS, cmd, |message| {
            message.put_u32(uapi::DDUP_A_DEVICE_INSTANCE, instance)?;
            message.put_uint(uapi::DDUP_A_DEVICE_EVENT_SEQ, event_seq)?;
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
        {
            let mut list = LIST.lock();

            list.closed = false;
            list.passthrough = passthrough;
            list.instance = kstage::random::u32();
            list.queue = Some(queue);
        }
        Ok(Control {
            registration: Some(Registration::new(&FAMILY)?),
        })
    }

    /// Detaches all devices, none of which is open since the module is unloaded, and takes no more
    /// requests. May sleep.
    pub(crate) fn stop(&mut self) {
        LIST.lock().closed = true;

        loop {
            let device = {
                let mut list = LIST.lock();

                list.entries
                    .iter_mut()
                    .find(|entry| matches!(entry.state, State::Attached(_)))
                    .map(|entry| core::mem::replace(&mut entry.state, State::Detaching))
            };
            match device {
                Some(State::Attached(device)) => remove(device, false),
                _ => break,
            }
        }
        // Waits for requests that work.
        self.registration = None;
        let mut list = LIST.lock();
        let queue = list.queue.take();

        list.entries = KVec::new();
        drop(list);
        // Waits for its items.
        drop(queue);
    }
}

/// Removes a device whose entry is in state `Detaching`, and the entry.
fn remove(device: KBox<Device>, force: bool) {
    let identity = KBox::into_inner(device).detach(force);

    let mut list = LIST.lock();
    list.remove(identity.index);
    list.announce(uapi::DDUP_CMD_DETACHED, |message| identity.put(message));
}

/// Tells listeners that a store failed. May sleep.
pub(crate) fn store_failed(index: u32) {
    let mut list = LIST.lock();
    let told = match list.device(index) {
        Some(device) => {
            if let Some(reason) = device.failure() {
                pr_err!(
                    "ddup{}: the store failed: {}\n",
                    index,
                    format_args!("{reason}")
                );
            }
            device.identity().try_clone()
        }
        // It is not yet, or no longer, in the list: who attaches or detaches it sees it.
        None => return,
    };

    let _ = told.map(|identity| {
        let failure = list.device(index).and_then(Device::failure);

        list.announce(uapi::DDUP_CMD_STORE_FAILED, |message| {
            identity.put(message)?;
            if let Some(reason) = failure {
                crate::device::put_failure(reason, message)?;
            }
            Ok(())
        })
    });
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
    let (index, passthrough, queue) = {
        let mut list = LIST.lock();
        let queue = list.queue.clone().ok_or(ENODEV)?;

        (list.reserve(wish)?, list.passthrough, queue)
    };
    let attached = attach_reserved(info, index, passthrough, queue);
    let mut list = LIST.lock();

    let name = match attached {
        Ok(device) => {
            let identity = device.identity().try_clone();

            match (identity, list.entry_mut(index)) {
                (Ok(identity), Some(entry)) => {
                    entry.state = State::Attached(device);
                    list.announce(uapi::DDUP_CMD_ATTACHED, |message| identity.put(message));
                    identity.name
                }
                (identity, _) => {
                    drop(list);
                    remove(device, false);
                    return Err(identity.err().unwrap_or(ENOMEM).into());
                }
            }
        }
        Err(refusal) => {
            list.remove(index);
            return Err(refusal);
        }
    };
    drop(list);

    info.reply(uapi::DDUP_CMD_ATTACH, |message| {
        message.put_u32(uapi::DDUP_A_DEVICE_INDEX, index)?;
        message.put_string(uapi::DDUP_A_DEVICE_NAME, &name)
    })?;
    Ok(())
}

/// Attaches under a reserved number.
fn attach_reserved(
    info: &Info<'_>,
    index: u32,
    passthrough: bool,
    queue: Arc<OwnedQueue>,
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

    let state = {
        let mut list = LIST.lock();

        let Some(device) = list.device(index) else {
            return Err(refuse_absent(&list, index));
        };
        if !device.close_if_idle() && !force {
            return Err(refuse!(
                EBUSY,
                Some(uapi::DDUP_A_DEVICE_INDEX),
                "ddup{index} is in use: unmount and close it, or detach by force"
            ));
        }
        list.entry_mut(index)
            .map(|entry| core::mem::replace(&mut entry.state, State::Detaching))
    };
    if let Some(State::Attached(device)) = state {
        remove(device, force);
    }
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
