// SPDX-License-Identifier: GPL-2.0

//! Control of replica sets: the contract between the kernel and an authority outside of it, as netlink
//! operations. `Documentation/block/ddup-protocol.rst` has its clauses.
//!
//! Nothing here decides: a command is given to the store's engine, and its answer put into words. Those
//! that wait do so without the list's lock, for some seconds at most, and a signal ends it.

use super::{answer, check_admin, refuse_absent, verify, List, State, LIST};
use crate::{
    device::Device,
    engine::{
        replication::{
            action::{Event, Reply},
            codec::Reader,
            config::{Config, MemberState, Refusal as SetRefusal},
            set::PeerState,
            types::{Id, Position},
            verify::VerifyReport,
        },
        SetCommand,
    },
    error::{errno, refuse, Refusal},
    store::{Store, Waiting},
    uapi,
};
use core::fmt;
use kernel::{
    prelude::*,
    sync::{atomic::Relaxed, Arc},
};
use kstage::{
    bindings,
    genetlink::{Attr, Dump, Info, Message},
    socket::Socket,
};

const INDEX: Option<u32> = Some(uapi::DDUP_A_SET_INDEX);

/// Shows an id as UUIDs are written.
struct Uuid<'a>(&'a Id);

impl fmt::Display for Uuid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

// What requests name.

/// The number of the device.
fn index_of(info: &Info<'_>) -> Result<u32, Refusal> {
    let attr = info
        .attr(uapi::DDUP_A_SET_INDEX)
        .ok_or_else(|| refuse!(EINVAL, None, "the number of the device is missing"))?;

    Ok(u32::try_from(attr.uint())?)
}

/// A number that an operation cannot do without.
fn number_of(info: &Info<'_>, attr: u32, what: &str) -> Result<u64, Refusal> {
    info.attr(attr)
        .map(Attr::uint)
        .ok_or_else(|| refuse!(EINVAL, None, "{what} is missing"))
}

/// UUID of the peer's store.
pub(super) fn peer_of(info: &Info<'_>) -> Result<Id, Refusal> {
    let attr = info
        .attr(uapi::DDUP_A_SET_PEER_STORE)
        .ok_or_else(|| refuse!(EINVAL, None, "the UUID of the peer's store is missing"))?;

    Id::try_from(attr.bytes()).map_err(|_| {
        refuse!(
            EINVAL,
            Some(uapi::DDUP_A_SET_PEER_STORE),
            "a UUID has 16 bytes"
        )
    })
}

/// The store behind a device, which is a member of a set.
fn store_of(list: &List, index: u32) -> Result<Arc<Store>, Refusal> {
    let Some(device) = list.device(index) else {
        return Err(refuse_absent(list, index));
    };
    let in_none = || {
        refuse!(
            ENOENT,
            INDEX,
            "the store of ddup{index} is in no replica set, or read-only"
        )
    };
    let store = device.store().ok_or_else(in_none)?;

    store.with_set(|_| ()).ok_or_else(in_none)?;
    Ok(store.clone())
}

/// The store that a mutating request names.
pub(super) fn member_of(info: &Info<'_>) -> Result<(u32, Arc<Store>), Refusal> {
    check_admin(info)?;

    let index = index_of(info)?;
    let store = store_of(&LIST.lock(), index)?;
    Ok((index, store))
}

// Commands.

/// Gives a command to the store and puts what it refuses into words. `blamed` is the attribute to
/// blame if the engine refuses what the command says.
pub(super) fn command(
    index: u32,
    store: &Store,
    command: SetCommand,
    blamed: Option<u32>,
) -> Result<Reply, Refusal> {
    match store.command(command) {
        Ok(Reply::Refused(why)) => Err(refuse_set(index, store, why, blamed)),
        Ok(reply) => Ok(reply),
        Err(error) => Err(refuse_failed(index, store, error)),
    }
}

/// The store could not be asked, or did not answer.
fn refuse_failed(index: u32, store: &Store, error: Error) -> Refusal {
    match error {
        ENODEV => refuse!(error, INDEX, "ddup{index} is being detached"),
        EIO => match store.failure() {
            Some(reason) => refuse!(error, INDEX, "the store failed: {reason}"),
            None => refuse!(error, INDEX, "the store failed"),
        },
        EINTR => refuse!(error, None, "interrupted; it may still be carried out"),
        _ if error == errno(bindings::EINPROGRESS) => match store.waiting().and_then(|w| w.peer) {
            Some(peer) => refuse!(error, None, "still waits for {}: ask again", Uuid(&peer)),
            None => refuse!(error, None, "it is still being carried out: ask again"),
        },
        _ => error.into(),
    }
}

/// Why the engine refuses a command.
fn refuse_set(index: u32, store: &Store, why: SetRefusal, blamed: Option<u32>) -> Refusal {
    let (version, term, promise) = store
        .with_set(|set| {
            let state = set.state();

            (state.config.version, state.config.term, state.promise)
        })
        .unwrap_or_default();
    let stale = errno(bindings::ESTALE);

    match why {
        SetRefusal::Conflict => refuse!(
            stale,
            Some(uapi::DDUP_A_SET_EXPECT_VERSION),
            "the configuration in force has version {version}, or other content"
        ),
        SetRefusal::Version => refuse!(
            EINVAL,
            blamed,
            "the version must rise: that in force is {version}"
        ),
        SetRefusal::Term => refuse!(
            stale,
            blamed,
            "the term is too low: {term} is in force, {promise} promised"
        ),
        SetRefusal::Reign => refuse!(
            EINVAL,
            blamed,
            "a term has one reign and primary, and a new one begins a new term"
        ),
        SetRefusal::Ancestry => refuse!(
            EPERM,
            blamed,
            "it does not descend from the configuration in force, {version}"
        ),
        SetRefusal::NotInSync => refuse!(
            EPERM,
            blamed,
            "the store was not in sync and must not lead unless forced"
        ),
        SetRefusal::NotMember => refuse!(
            EINVAL,
            blamed,
            "it is unsound, or does not name the store of ddup{index}"
        ),
        SetRefusal::OtherSet => refuse!(EINVAL, blamed, "it is of another replica set"),
        SetRefusal::Floor => refuse!(
            EPERM,
            blamed,
            "the store lacks the floor that it names: it has lost data"
        ),
        SetRefusal::Busy => refuse!(
            EBUSY,
            INDEX,
            "another change of the set is under way: try again"
        ),
        SetRefusal::NotPrimary => refuse!(EROFS, INDEX, "ddup{index} is not primary"),
        SetRefusal::NoPeer => refuse!(
            errno(bindings::ENOTCONN),
            blamed,
            "it is no asynchronous member that is connected"
        ),
        SetRefusal::Failed => refuse!(
            EIO,
            INDEX,
            "it failed: the store failed, or FLUSHes were failed meanwhile"
        ),
        SetRefusal::NotConnected => refuse!(
            errno(bindings::ENOTCONN),
            blamed,
            "it is no member that is connected"
        ),
        SetRefusal::PeerTooOld => refuse!(
            errno(bindings::EOPNOTSUPP),
            blamed,
            "it does not know verify: its ddup is older"
        ),
        SetRefusal::Comparing => refuse!(
            EAGAIN,
            blamed,
            "a full compare of it is under way: verify it after that"
        ),
        SetRefusal::Verifying => refuse!(
            EBUSY,
            INDEX,
            "a verify of a peer of ddup{index} goes on already"
        ),
        SetRefusal::NoVerify => {
            refuse!(ENOENT, blamed, "no verify of a peer of ddup{index} goes on")
        }
        SetRefusal::Memory => ENOMEM.into(),
    }
}

/// Why a device is not detached: FLUSHes wait.
pub(super) fn refuse_waiting(index: u32, waiting: &Waiting) -> Refusal {
    match &waiting.peer {
        Some(peer) => refuse!(
            EBUSY,
            INDEX,
            "a FLUSH waits for {}: detach by force",
            Uuid(peer)
        ),
        None => refuse!(
            EBUSY,
            INDEX,
            "{} FLUSHes of ddup{index} wait for members in sync: detach by force",
            waiting.flushes
        ),
    }
}

/// `set-config`.
pub(super) fn set_config(info: &mut Info<'_>) -> Result {
    answer(info, try_set_config)
}

fn try_set_config(info: &mut Info<'_>) -> Result<(), Refusal> {
    let (index, store) = member_of(info)?;
    let attr = uapi::DDUP_A_SET_CONFIG;
    let version = uapi::DDUP_A_SET_EXPECT_VERSION;
    let expect = number_of(info, version, "the version that has to be in force")?;
    let bytes = info
        .attr(attr)
        .ok_or_else(|| refuse!(EINVAL, None, "the configuration is missing"))?
        .bytes();
    let mut reader = Reader::new(bytes);
    let config = Config::read(&mut reader)?.filter(|_| reader.end().is_some());
    let Some(config) = config else {
        return Err(refuse!(
            EINVAL,
            Some(attr),
            "{} bytes that are no sound configuration",
            bytes.len()
        ));
    };
    let config = KBox::new(config, GFP_KERNEL)?;

    command(
        index,
        &store,
        SetCommand::SetConfig { expect, config },
        Some(attr),
    )
    .map(|_| ())
}

/// `fence`.
pub(super) fn fence(info: &mut Info<'_>) -> Result {
    answer(info, try_fence)
}

fn try_fence(info: &mut Info<'_>) -> Result<(), Refusal> {
    let (index, store) = member_of(info)?;
    let term = number_of(info, uapi::DDUP_A_SET_TERM, "the term")?;
    let blamed = Some(uapi::DDUP_A_SET_TERM);

    if let Reply::Fenced { config, position } =
        command(index, &store, SetCommand::Fence { term }, blamed)?
    {
        info.reply(uapi::DDUP_CMD_FENCE, |message| {
            message.put_bytes(uapi::DDUP_A_SET_CONFIG_ID, &config)?;
            put_position(uapi::DDUP_A_SET_POSITION, &position, message)
        })?;
    }
    Ok(())
}

/// `join`.
pub(super) fn join(info: &mut Info<'_>) -> Result {
    answer(info, |info| {
        let (index, store) = member_of(info)?;
        let peer = peer_of(info)?;
        let blamed = Some(uapi::DDUP_A_SET_PEER_STORE);

        command(index, &store, SetCommand::Join { peer }, blamed).map(|_| ())
    })
}

/// `demote`.
pub(super) fn demote(info: &mut Info<'_>) -> Result {
    answer(info, try_demote)
}

fn try_demote(info: &mut Info<'_>) -> Result<(), Refusal> {
    let (index, store) = member_of(info)?;

    {
        let list = LIST.lock();
        let open = list.group(index).find(|device| !device.close_if_idle());

        if let Some(open) = open {
            let open = open.identity().index;

            list.group(index).for_each(Device::reopen);
            return Err(refuse!(
                EBUSY,
                INDEX,
                "ddup{open} is in use: unmount and close it"
            ));
        }
    }
    let reply = command(index, &store, SetCommand::Demote, INDEX);

    // From here on the role refuses opens, or there is no reason to.
    LIST.lock().group(index).for_each(Device::reopen);
    if let Reply::Demoted(position) = reply? {
        info.reply(uapi::DDUP_CMD_DEMOTE, |message| {
            put_position(uapi::DDUP_A_SET_POSITION, &position, message)
        })?;
    }
    Ok(())
}

/// `flush-fail`.
pub(super) fn flush_fail(info: &mut Info<'_>) -> Result {
    answer(info, |info| {
        let (index, store) = member_of(info)?;

        command(index, &store, SetCommand::FlushFail, INDEX).map(|_| ())
    })
}

/// `resolve`.
pub(super) fn resolve(info: &mut Info<'_>) -> Result {
    answer(info, |info| {
        let (index, store) = member_of(info)?;

        command(index, &store, SetCommand::Resolve, INDEX).map(|_| ())
    })
}

/// `lease`.
pub(super) fn lease(info: &mut Info<'_>) -> Result {
    answer(info, try_lease)
}

fn try_lease(info: &mut Info<'_>) -> Result<(), Refusal> {
    let (index, store) = member_of(info)?;
    let attr = uapi::DDUP_A_SET_VERSION;
    let version = number_of(info, attr, "the version of the configuration")?;
    let until = number_of(info, uapi::DDUP_A_SET_LEASE_UNTIL, "the end of the lease")?;
    let until = (until > 0).then(|| store.time_of(until));

    match store.command(SetCommand::Lease { version, until }) {
        Ok(Reply::Refused(SetRefusal::Conflict)) => {
            let in_force = store.with_set(|set| set.state().config.version);

            Err(refuse!(
                errno(bindings::ESTALE),
                Some(attr),
                "the configuration in force has version {}",
                in_force.unwrap_or_default()
            ))
        }
        Ok(Reply::Refused(why)) => Err(refuse_set(index, &store, why, Some(attr))),
        Ok(_) => Ok(()),
        Err(error) => Err(refuse_failed(index, &store, error)),
    }
}

// Sessions.

/// `peer`.
pub(super) fn peer(info: &mut Info<'_>) -> Result {
    answer(info, try_peer)
}

fn try_peer(info: &mut Info<'_>) -> Result<(), Refusal> {
    let (index, store) = member_of(info)?;
    let peer = peer_of(info)?;
    let nonce = number_of(info, uapi::DDUP_A_SET_NONCE, "the number of the session")?;
    let fd = number_of(info, uapi::DDUP_A_SET_FD, "the descriptor of the socket")?;
    let fd_attr = Some(uapi::DDUP_A_SET_FD);
    let peer_attr = Some(uapi::DDUP_A_SET_PEER_STORE);

    if store.uuid() == Some(peer) {
        return Err(refuse!(EINVAL, peer_attr, "a store is no peer of its own"));
    }
    let fd = i32::try_from(fd).map_err(|_| refuse!(EBADF, fd_attr, "no such descriptor"))?;
    let socket = Socket::from_fd(fd).map_err(|error| match error {
        EBADF => refuse!(error, fd_attr, "no such descriptor"),
        _ if error == errno(bindings::ENOTSOCK) => {
            refuse!(error, fd_attr, "the descriptor is no socket")
        }
        _ if error == errno(bindings::EPROTOTYPE) => {
            refuse!(error, fd_attr, "the socket is not of TCP")
        }
        _ if error == errno(bindings::ENOTCONN) => {
            refuse!(error, fd_attr, "the socket is not connected")
        }
        _ => refuse!(error, fd_attr, "the socket cannot be used: {error:?}"),
    })?;

    store
        .add_peer(peer, nonce, socket)
        .map_err(|error| match error {
            ENOENT => refuse!(error, peer_attr, "{} is no member of the set", Uuid(&peer)),
            EEXIST => refuse!(
                error,
                Some(uapi::DDUP_A_SET_NONCE),
                "a session with that number is there"
            ),
            EBUSY => refuse!(
                error,
                INDEX,
                "too many sessions have not ended yet: try again"
            ),
            _ => refuse_failed(index, &store, error),
        })
}

/// `peer-drop`.
pub(super) fn peer_drop(info: &mut Info<'_>) -> Result {
    answer(info, |info| {
        let (_, store) = member_of(info)?;
        let peer = peer_of(info)?;

        match store.drop_peer(&peer) {
            true => Ok(()),
            false => Err(refuse!(
                errno(bindings::ENOTCONN),
                Some(uapi::DDUP_A_SET_PEER_STORE),
                "there is no connection to {}",
                Uuid(&peer)
            )),
        }
    })
}

// What is so.

pub(super) fn put_position(attr: u32, position: &Position, message: &mut Message<'_>) -> Result {
    message.put_nested(attr, |message| {
        message.put_uint(uapi::DDUP_A_POSITION_TERM, position.term)?;
        message.put_bytes(uapi::DDUP_A_POSITION_REIGN, &position.reign)?;
        message.put_uint(uapi::DDUP_A_POSITION_EPOCH, position.epoch)?;
        message.put_uint(uapi::DDUP_A_POSITION_CHAIN, position.chain)
    })
}

/// What the engine knows of another member.
struct Known {
    store: Id,
    member: MemberState,
    has_session: bool,
    state: Option<PeerState>,
    /// The last verify, if it was of this one.
    verify: Option<VerifyReport>,
}

fn put_peer(store: &Store, known: &Known, message: &mut Message<'_>) -> Result {
    let member = match known.member {
        MemberState::InSync => uapi::DDUP_MEMBER_STATE_IN_SYNC,
        MemberState::Async => uapi::DDUP_MEMBER_STATE_ASYNC,
        MemberState::Out => uapi::DDUP_MEMBER_STATE_OUT,
    };
    let flows = known.state.is_some_and(|s| s.connected || s.followed);
    let link = match (known.has_session, flows) {
        (false, _) => uapi::DDUP_PEER_LINK_ABSENT,
        (true, false) => uapi::DDUP_PEER_LINK_GREETING,
        (true, true) => uapi::DDUP_PEER_LINK_CONNECTED,
    };

    message.put_bytes(uapi::DDUP_A_PEER_STORE, &known.store)?;
    message.put_u32(uapi::DDUP_A_PEER_MEMBER_STATE, member)?;
    message.put_u32(uapi::DDUP_A_PEER_LINK, link)?;
    if let Some(state) = &known.state {
        message.put_uint(uapi::DDUP_A_PEER_ACKED_EPOCH, state.acked)?;
        if state.joining {
            message.put_flag(uapi::DDUP_A_PEER_JOINING)?;
        }
        if let Some(lag) = &state.lag {
            message.put_uint(uapi::DDUP_A_PEER_LAG_ENTRIES, lag.entries)?;
            message.put_uint(uapi::DDUP_A_PEER_LAG_BYTES, lag.bytes)?;
            message.put_uint(uapi::DDUP_A_PEER_LAG_MS, lag.ms)?;
        }
        if let Some(compare) = &state.compare {
            message.put_uint(uapi::DDUP_A_PEER_COMPARED_BLOCKS, compare.blocks)?;
            message.put_uint(uapi::DDUP_A_PEER_COMPARE_MS, compare.ms)?;
            if let Some(all) = compare.of_blocks {
                message.put_uint(uapi::DDUP_A_PEER_TO_COMPARE_BLOCKS, all)?;
            }
            if let Some(since) = compare.since {
                message.put_uint(uapi::DDUP_A_PEER_COMPARE_SINCE_EPOCH, since)?;
            }
            if compare.resumed > 0 {
                message.put_uint(uapi::DDUP_A_PEER_RESUMED_BLOCKS, compare.resumed)?;
            }
        }
        if state.connected {
            message.put_uint(uapi::DDUP_A_PEER_TOLD_BLOCKS, state.told)?;
            message.put_uint(uapi::DDUP_A_PEER_MERGED_EPOCHS, state.merged)?;
        }
        if let Some(position) = &state.joinable {
            put_position(uapi::DDUP_A_PEER_JOINABLE, position, message)?;
        }
    }
    if let Some(report) = &known.verify {
        verify::put_report(store, report, message)?;
    }
    if let Some(session) = store.session(&known.store) {
        let (sent, received) = (&session.sent, &session.received);

        message.put_uint(uapi::DDUP_A_PEER_SENT_BYTES, sent.bytes.load(Relaxed))?;
        message.put_uint(uapi::DDUP_A_PEER_SENT_BLOCKS, sent.blocks.load(Relaxed))?;
        message.put_uint(
            uapi::DDUP_A_PEER_RECEIVED_BYTES,
            received.bytes.load(Relaxed),
        )?;
        message.put_uint(
            uapi::DDUP_A_PEER_RECEIVED_BLOCKS,
            received.blocks.load(Relaxed),
        )?;
        message.put_uint(
            uapi::DDUP_A_PEER_SENT_UNCOMPRESSED_BYTES,
            sent.uncompressed.load(Relaxed),
        )?;
        message.put_uint(
            uapi::DDUP_A_PEER_RECEIVED_UNCOMPRESSED_BYTES,
            received.uncompressed.load(Relaxed),
        )?;
    }
    Ok(())
}

/// Describes the part of a store in its set. `ENOENT` if it is in none.
fn describe(list: &List, index: u32, store: &Store, message: &mut Message<'_>) -> Result {
    let own = store.uuid().unwrap_or_default();

    message.put_u32(uapi::DDUP_A_SET_INDEX, index)?;
    message.put_bytes(uapi::DDUP_A_SET_STORE_UUID, &own)?;
    let peers = store
        .with_set(|set| {
            let state = set.state();
            let config = state.config;
            let role = match (set.leads(), state.reigns) {
                (true, _) => uapi::DDUP_ROLE_PRIMARY,
                (false, true) => uapi::DDUP_ROLE_RECONCILING,
                (false, false) => uapi::DDUP_ROLE_REPLICA,
            };
            let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);

            message.put_bytes(uapi::DDUP_A_SET_SET_UUID, &config.set)?;
            message.put_u32(uapi::DDUP_A_SET_ROLE, role)?;
            message.put_uint(uapi::DDUP_A_SET_VERSION, config.version)?;
            message.put_bytes(uapi::DDUP_A_SET_CONFIG_ID, &config.id)?;
            message.put_bytes(uapi::DDUP_A_SET_CONFIG, &config.bytes()?)?;
            message.put_uint(uapi::DDUP_A_SET_PROMISE, state.promise)?;
            put_position(uapi::DDUP_A_SET_POSITION, &state.position, message)?;
            if state.reigns {
                put_position(uapi::DDUP_A_SET_COMMITTED, &state.committed, message)?;
            }
            message.put_u32(uapi::DDUP_A_SET_WAITING_FLUSHES, count(state.flushes))?;
            message.put_u32(uapi::DDUP_A_SET_WINDOW_ENTRIES, count(state.entries))?;
            message.put_u32(uapi::DDUP_A_SET_APPLYING, count(state.applying))?;
            message.put_uint(uapi::DDUP_A_SET_REFUSED_SESSIONS, state.refused)?;
            if state.keep {
                message.put_flag(uapi::DDUP_A_SET_HISTORY_KEPT)?;
            }
            if let Some(lease) = set.held_lease() {
                let until = store.boottime_of(lease.until);

                message.put_uint(uapi::DDUP_A_SET_LEASE_UNTIL, until)?;
                if set.lease_is_over() {
                    message.put_flag(uapi::DDUP_A_SET_LEASE_OVER)?;
                }
            }
            let mut peers = KVec::with_capacity(config.members.len(), GFP_KERNEL)?;
            for member in config.members.iter().filter(|m| m.store != own) {
                let known = Known {
                    store: member.store,
                    member: member.state,
                    has_session: set.session(&member.store).is_some(),
                    state: set.peer_state(&member.store),
                    verify: set.verify_report()?.filter(|v| v.peer == member.store),
                };

                peers.push(known, GFP_KERNEL)?;
            }
            Ok::<_, Error>(peers)
        })
        .ok_or(ENOENT)??;
    for known in peers.iter() {
        message.put_nested(uapi::DDUP_A_SET_PEER, |message| {
            put_peer(store, known, message)
        })?;
    }
    message.put_u32(uapi::DDUP_A_SET_INSTANCE, list.instance)?;
    message.put_uint(uapi::DDUP_A_SET_EVENT_SEQ, list.event_seq)
}

/// The lowest number of a device of the store.
fn first_index(list: &List, store: &Store) -> Option<u32> {
    devices_of(list, store).next().map(|d| d.identity().index)
}

/// All devices of a store.
pub(super) fn devices_of<'a>(list: &'a List, store: &'a Store) -> impl Iterator<Item = &'a Device> {
    list.entries.iter().filter_map(move |entry| {
        let State::Attached(device) = &entry.state else {
            return None;
        };
        let is_it = |own: &Arc<Store>| core::ptr::eq(&**own, store);

        device.store().is_some_and(is_it).then_some(&**device)
    })
}

/// `set-get` of one store.
pub(super) fn get(info: &mut Info<'_>) -> Result {
    answer(info, |info| {
        let index = index_of(info)?;
        let list = LIST.lock();
        let store = store_of(&list, index)?;
        let first = first_index(&list, &store).unwrap_or(index);

        info.reply(uapi::DDUP_CMD_SET_GET, |message| {
            describe(&list, first, &store, message)
        })?;
        Ok(())
    })
}

/// `set-get` of all stores that are in a set.
pub(super) fn get_all(dump: &mut Dump<'_>) -> Result {
    let list = LIST.lock();

    dump.set_sequence((list.event_seq & u64::from(u32::MAX >> 1)) as u32 + 1);
    loop {
        // The first number that is not yet told.
        let [next, ..] = *dump.state();
        let found = list.entries.iter().find_map(|entry| {
            let State::Attached(device) = &entry.state else {
                return None;
            };
            let store = device.store().filter(|_| u64::from(entry.index) >= next)?;
            let is_first = first_index(&list, store) == Some(entry.index);

            (is_first && store.with_set(|_| ()).is_some()).then_some((entry.index, store))
        });
        let Some((index, store)) = found else {
            return Ok(());
        };

        dump.entry(uapi::DDUP_CMD_SET_GET, |message| {
            describe(&list, index, store, message)
        })?;
        let [next, ..] = dump.state();
        *next = u64::from(index) + 1;
    }
}

// What happens.

/// The number of an event, and whom and what it concerns.
fn told(event: Event) -> (u32, Option<Id>, Option<Position>) {
    match event {
        Event::Config => (uapi::DDUP_SET_EVENT_CONFIG, None, None),
        Event::PeerUp(peer) => (uapi::DDUP_SET_EVENT_PEER_UP, Some(peer), None),
        Event::PeerLost(peer) => (uapi::DDUP_SET_EVENT_PEER_LOST, Some(peer), None),
        Event::FlushSuspended => (uapi::DDUP_SET_EVENT_FLUSH_SUSPENDED, None, None),
        Event::FlushResumed => (uapi::DDUP_SET_EVENT_FLUSH_RESUMED, None, None),
        Event::Joinable(peer, position) => {
            (uapi::DDUP_SET_EVENT_JOINABLE, Some(peer), Some(position))
        }
        Event::Superseded => (uapi::DDUP_SET_EVENT_SUPERSEDED, None, None),
        Event::Regressed(peer) => (uapi::DDUP_SET_EVENT_REGRESSED, Some(peer), None),
        Event::Diverged(peer) => (uapi::DDUP_SET_EVENT_DIVERGED, Some(peer), None),
        Event::SplitBrain(peer) => (uapi::DDUP_SET_EVENT_SPLIT_BRAIN, Some(peer), None),
        Event::Reconciled => (uapi::DDUP_SET_EVENT_RECONCILED, None, None),
        Event::StoreFailed => (uapi::DDUP_SET_EVENT_STORE_FAILED, None, None),
        Event::LeaseExpired => (uapi::DDUP_SET_EVENT_LEASE_EXPIRED, None, None),
        Event::Verified(peer) => (uapi::DDUP_SET_EVENT_VERIFIED, Some(peer), None),
    }
}

fn announce(
    list: &mut List,
    store: &Store,
    (event, peer, position): (u32, Option<Id>, Option<Position>),
) {
    // Who attaches or detaches it sees for himself.
    let Some(index) = first_index(list, store) else {
        return;
    };
    let uuid = store.uuid().unwrap_or_default();
    let set = store.with_set(|set| set.state().config.set);
    let attrs = (uapi::DDUP_A_SET_INSTANCE, uapi::DDUP_A_SET_EVENT_SEQ);

    list.announce_as(attrs, uapi::DDUP_CMD_SET_CHANGED, |message| {
        message.put_u32(uapi::DDUP_A_SET_INDEX, index)?;
        message.put_bytes(uapi::DDUP_A_SET_STORE_UUID, &uuid)?;
        message.put_bytes(uapi::DDUP_A_SET_SET_UUID, &set.unwrap_or_default())?;
        message.put_u32(uapi::DDUP_A_SET_EVENT, event)?;
        if let Some(peer) = &peer {
            message.put_bytes(uapi::DDUP_A_SET_PEER_STORE, peer)?;
        }
        if let Some(position) = &position {
            put_position(uapi::DDUP_A_SET_POSITION, position, message)?;
        }
        Ok(())
    });
}

/// Tells listeners what happened to a store's set. May sleep.
pub(crate) fn set_changed(store: &Store, event: Event) {
    announce(&mut LIST.lock(), store, told(event));
}

/// Something happened of which nobody can be told: listeners see the gap in the numbers. May sleep.
pub(crate) fn event_lost() {
    let mut list = LIST.lock();

    list.event_seq = list.event_seq.wrapping_add(1);
}

/// The volumes of a store take requests from here on, or do not any more: users of the devices look
/// again. That it does is told by the engine. May sleep.
pub(crate) fn role_changed(store: &Store, serves: bool) {
    super::volumes_changed(store);

    let mut list = LIST.lock();

    devices_of(&list, store).for_each(Device::announce_change);
    if !serves {
        announce(&mut list, store, (uapi::DDUP_SET_EVENT_DEMOTED, None, None));
    }
}
