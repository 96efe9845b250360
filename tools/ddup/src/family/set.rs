// SPDX-License-Identifier: GPL-2.0

//! Replica sets: the operations from `set-get` on.

use self::verify::Verify;
use super::{cmd, error, format_uuid, refused_with, Driver, VERSION};
use crate::{
    error::{Error, Exit, Result},
    netlink::{Attribute, Attributes, Failure, Message, Request},
};
use ddup_engine::engine::replication::{
    codec::Reader,
    config::{Config, MemberState},
    types::{Id, Position},
};
use serde::{Serialize, Serializer};
use std::{
    os::fd::{AsRawFd, BorrowedFd},
    thread,
    time::{Duration, Instant},
};

/// Time that a change waits for another one to end.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);
/// Time that a configuration may take to be written.
const SLOW_DISK: Duration = Duration::from_secs(60);
/// How long a compare goes on, and how much of it is done, before it tells how long the rest takes.
const TELLING_MS: u64 = 2000;
const TELLING_PERCENT: u64 = 1;

numbers! {
    /// `DDUP_A_POSITION_*`.
    position: u16 {
        TERM = 1,
        REIGN = 2,
        EPOCH = 3,
        CHAIN = 4,
    }
}

numbers! {
    /// `DDUP_A_PEER_*`.
    peer: u16 {
        STORE = 1,
        MEMBER_STATE = 2,
        LINK = 3,
        ACKED_EPOCH = 4,
        JOINING = 5,
        JOINABLE = 6,
        SENT_BYTES = 7,
        SENT_BLOCKS = 8,
        RECEIVED_BYTES = 9,
        RECEIVED_BLOCKS = 10,
        TOLD_BLOCKS = 11,
        LAG_ENTRIES = 12,
        LAG_MS = 13,
        COMPARED_BLOCKS = 14,
        COMPARE_MS = 15,
        TO_COMPARE_BLOCKS = 16,
        COMPARE_SINCE_EPOCH = 17,
        SENT_UNCOMPRESSED_BYTES = 18,
        RECEIVED_UNCOMPRESSED_BYTES = 19,
        LAG_BYTES = 20,
        VERIFY = 21,
        MERGED_EPOCHS = 22,
        RESUMED_BLOCKS = 23,
    }
}

numbers! {
    /// `DDUP_A_SET_*`.
    set: u16 {
        INDEX = 1,
        STORE_UUID = 2,
        SET_UUID = 3,
        ROLE = 4,
        CONFIG = 5,
        EXPECT_VERSION = 6,
        VERSION = 7,
        TERM = 8,
        PROMISE = 9,
        CONFIG_ID = 10,
        POSITION = 11,
        COMMITTED = 12,
        PEER = 13,
        PEER_STORE = 14,
        FD = 15,
        NONCE = 16,
        WAITING_FLUSHES = 17,
        WINDOW_ENTRIES = 18,
        APPLYING = 19,
        REFUSED_SESSIONS = 20,
        HISTORY_KEPT = 21,
        EVENT = 22,
        INSTANCE = 23,
        EVENT_SEQ = 24,
        LEASE_UNTIL = 25,
        LEASE_OVER = 26,
        VERIFY_REPAIR = 27,
        VERIFY_STOP = 28,
    }
}

/// The attributes' names, for messages about them.
pub(super) const ATTRIBUTES: [&str; 28] = [
    "index",
    "store-uuid",
    "set-uuid",
    "role",
    "config",
    "expect-version",
    "version",
    "term",
    "promise",
    "config-id",
    "position",
    "committed",
    "peer",
    "peer-store",
    "fd",
    "nonce",
    "waiting-flushes",
    "window-entries",
    "applying",
    "refused-sessions",
    "history-kept",
    "event",
    "instance",
    "event-seq",
    "lease-until",
    "lease-over",
    "verify-repair",
    "verify-stop",
];

/// Bytes of the longest configuration.
pub const CONFIG_MAX: usize = 2016;

macro_rules! named {
    ($(#[$doc:meta])* $kind:ident { $($(#[$of:meta])* $variant:ident = $number:literal $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $kind {
            $($(#[$of])* $variant,)*
            /// One that this tool does not know.
            Unknown,
        }

        impl $kind {
            /// Those that there are.
            pub const ALL: &[$kind] = &[$($kind::$variant,)*];

            pub(super) fn from_number(number: u32) -> Self {
                match number {
                    $($number => $kind::$variant,)*
                    _ => $kind::Unknown,
                }
            }

            /// Its name in the spec.
            pub fn name(self) -> &'static str {
                match self {
                    $($kind::$variant => $name,)*
                    $kind::Unknown => "unknown",
                }
            }
        }
    };
}

pub mod verify;

named! {
    /// What a store is in its set.
    Role {
        /// It follows a primary, or waits for one.
        Replica = 0 "replica",
        /// It is primary, and waits for the members in sync.
        Reconciling = 1 "reconciling",
        /// It is primary and takes requests.
        Primary = 2 "primary",
    }
}

named! {
    /// How far the connection to a peer is.
    Link {
        /// There is none.
        Absent = 0 "absent",
        /// The two stores agree on what they have.
        Greeting = 1 "greeting",
        /// Data may flow.
        Connected = 2 "connected",
    }
}

named! {
    /// What happened to a set.
    SetEventKind {
        /// A configuration is in force.
        Config = 0 "config",
        /// A session with a peer was established.
        PeerUp = 1 "peer-up",
        /// A session with a peer ended.
        PeerLost = 2 "peer-lost",
        /// FLUSHes wait.
        FlushSuspended = 3 "flush-suspended",
        /// They go on.
        FlushResumed = 4 "flush-resumed",
        /// The peer may be committed as in sync.
        Joinable = 5 "joinable",
        /// Others have a newer configuration.
        Superseded = 6 "superseded",
        /// A peer in sync has lost what it acknowledged.
        Regressed = 7 "regressed",
        /// The own history is kept until a person resolves it.
        Diverged = 8 "diverged",
        /// The configurations of the two stores are unrelated.
        SplitBrain = 9 "split-brain",
        /// The reign begins to take requests.
        Reconciled = 10 "reconciled",
        /// The store failed, or has no space.
        StoreFailed = 11 "store-failed",
        /// The store takes no requests any more.
        Demoted = 12 "demoted",
        /// The lease of this primary is over.
        LeaseExpired = 13 "lease-expired",
        /// A verify of a peer has ended.
        Verified = 14 "verified",
    }
}

/// The name of a member's state in the spec.
pub fn member_state_name(state: MemberState) -> &'static str {
    match state {
        MemberState::InSync => "in-sync",
        MemberState::Async => "async",
        MemberState::Out => "out",
    }
}

fn member_state(number: u32) -> Option<MemberState> {
    [MemberState::InSync, MemberState::Async, MemberState::Out]
        .into_iter()
        .find(|state| *state as u32 == number)
}

fn as_uuid<S: Serializer>(id: &Id, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_uuid(id))
}

fn as_state_name<S: Serializer>(
    state: &Option<MemberState>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match state {
        Some(state) => serializer.serialize_str(member_state_name(*state)),
        None => serializer.serialize_none(),
    }
}

fn as_position<S: Serializer>(
    position: &Option<Position>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    position.as_ref().map(Place::from).serialize(serializer)
}

/// A position, as it is printed.
#[derive(Serialize)]
pub struct Place {
    term: u64,
    #[serde(serialize_with = "as_uuid")]
    reign: Id,
    epoch: u64,
    chain: String,
}

impl Place {
    /// The primary's term.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl From<&Position> for Place {
    fn from(position: &Position) -> Self {
        Self {
            term: position.term,
            reign: position.reign,
            epoch: position.epoch,
            chain: format!("{:016x}", position.chain),
        }
    }
}

/// What a store knows of another member.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerState {
    /// The other store.
    #[serde(serialize_with = "as_uuid")]
    pub store: Id,
    /// What it is in the configuration in force.
    #[serde(serialize_with = "as_state_name")]
    pub state: Option<MemberState>,
    /// How far the connection is.
    pub link: Link,
    /// The last epoch that it acknowledged in this session.
    pub acked_epoch: Option<u64>,
    /// FLUSHes wait for it, though it is not in sync yet.
    pub joining: bool,
    /// It may be committed as in sync, with this position as its floor.
    #[serde(serialize_with = "as_position")]
    pub joinable: Option<Position>,
    /// Bytes sent to it since it was connected.
    pub sent_bytes: Option<u64>,
    /// Blocks of data among them.
    pub sent_blocks: Option<u64>,
    /// Bytes that came from it.
    pub received_bytes: Option<u64>,
    /// Blocks of data among them.
    pub received_blocks: Option<u64>,
    /// What the bytes sent would be if no block had been compressed.
    pub sent_uncompressed_bytes: Option<u64>,
    /// The same of those received.
    pub received_uncompressed_bytes: Option<u64>,
    /// Blocks that hold data of which it was told, with their data or without.
    pub told_blocks: Option<u64>,
    /// Epochs that were merged with others for it.
    pub merged_epochs: Option<u64>,
    /// Changes in memory that it has not acknowledged.
    pub lag_entries: Option<u64>,
    /// Bytes of the blocks that those write.
    pub lag_bytes: Option<u64>,
    /// How long it has not acknowledged the oldest of them.
    pub lag_ms: Option<u64>,
    /// Blocks that are done of a compare under way.
    pub compared_blocks: Option<u64>,
    /// How many of them an earlier connection brought.
    pub resumed_blocks: Option<u64>,
    /// How long that goes on.
    pub compare_ms: Option<u64>,
    /// Its blocks, done or not.
    pub to_compare_blocks: Option<u64>,
    /// It is a diff: the peer is told what was changed behind this epoch.
    pub compare_since_epoch: Option<u64>,
    /// The verify of it that goes on, or was the last one.
    pub verify: Option<Verify>,
}

impl Default for PeerState {
    fn default() -> Self {
        Self {
            store: [0; 16],
            state: None,
            link: Link::Absent,
            acked_epoch: None,
            joining: false,
            joinable: None,
            sent_bytes: None,
            sent_blocks: None,
            received_bytes: None,
            received_blocks: None,
            sent_uncompressed_bytes: None,
            received_uncompressed_bytes: None,
            told_blocks: None,
            merged_epochs: None,
            lag_entries: None,
            lag_bytes: None,
            lag_ms: None,
            compared_blocks: None,
            resumed_blocks: None,
            compare_ms: None,
            to_compare_blocks: None,
            compare_since_epoch: None,
            verify: None,
        }
    }
}

/// How much so many are of all, if there are any.
fn percent(some: u64, all: u64) -> Option<u64> {
    let part = u128::from(some.min(all)) * 100;
    part.checked_div(all.into()).map(|percent| percent as u64)
}

impl PeerState {
    /// How much of a compare is done, in percent.
    pub fn compared_percent(&self) -> Option<u64> {
        percent(self.compared_blocks?, self.to_compare_blocks?)
    }

    /// How long a compare still takes if it goes on as it did, in milliseconds, once enough of it
    /// is done to tell.
    pub fn compare_left_ms(&self) -> Option<u64> {
        let (all, ms) = (self.to_compare_blocks?, self.compare_ms?);
        let done = self.compared_blocks?.min(all);
        // What came before took none of this time.
        let since = done.saturating_sub(self.resumed_blocks.unwrap_or(0));
        if ms < TELLING_MS || percent(since, all)? < TELLING_PERCENT {
            return None;
        }
        let left = u128::from(ms) * u128::from(all - done) / u128::from(since);
        u64::try_from(left).ok()
    }

    /// Blocks that hold data of which it was told and that were not sent: it had what they hold.
    pub fn saved_blocks(&self) -> Option<u64> {
        Some(self.told_blocks?.saturating_sub(self.sent_blocks?))
    }

    fn read(attributes: Attributes<'_>) -> Self {
        let mut state = Self::default();
        for attribute in attributes {
            match attribute.kind {
                peer::STORE => state.store = id(&attribute).unwrap_or_default(),
                peer::MEMBER_STATE => state.state = attribute.u32().and_then(member_state),
                peer::LINK => {
                    state.link = attribute.u32().map_or(Link::Unknown, Link::from_number);
                }
                peer::ACKED_EPOCH => state.acked_epoch = attribute.number(),
                peer::JOINING => state.joining = true,
                peer::JOINABLE => state.joinable = Some(read_position(attribute.nested())),
                peer::SENT_BYTES => state.sent_bytes = attribute.number(),
                peer::SENT_BLOCKS => state.sent_blocks = attribute.number(),
                peer::RECEIVED_BYTES => state.received_bytes = attribute.number(),
                peer::RECEIVED_BLOCKS => state.received_blocks = attribute.number(),
                peer::TOLD_BLOCKS => state.told_blocks = attribute.number(),
                peer::MERGED_EPOCHS => state.merged_epochs = attribute.number(),
                peer::LAG_ENTRIES => state.lag_entries = attribute.number(),
                peer::LAG_BYTES => state.lag_bytes = attribute.number(),
                peer::LAG_MS => state.lag_ms = attribute.number(),
                peer::COMPARED_BLOCKS => state.compared_blocks = attribute.number(),
                peer::RESUMED_BLOCKS => state.resumed_blocks = attribute.number(),
                peer::COMPARE_MS => state.compare_ms = attribute.number(),
                peer::TO_COMPARE_BLOCKS => state.to_compare_blocks = attribute.number(),
                peer::COMPARE_SINCE_EPOCH => state.compare_since_epoch = attribute.number(),
                peer::SENT_UNCOMPRESSED_BYTES => {
                    state.sent_uncompressed_bytes = attribute.number();
                }
                peer::RECEIVED_UNCOMPRESSED_BYTES => {
                    state.received_uncompressed_bytes = attribute.number();
                }
                peer::VERIFY => state.verify = Some(Verify::read(attribute.nested())),
                _ => {}
            }
        }
        state
    }
}

/// A store's part in its set, or what happened to it.
#[derive(Debug, Default)]
pub struct SetState {
    /// The lowest N of the store's devices.
    pub index: u32,
    /// The store.
    pub store: Id,
    /// The set.
    pub set: Id,
    /// What the store is in it.
    pub role: Option<Role>,
    /// The configuration in force.
    pub config: Option<Config>,
    /// Its version.
    pub version: Option<u64>,
    /// Lower terms are refused.
    pub promise: Option<u64>,
    /// The end of the durable history.
    pub position: Option<Position>,
    /// The newest position that all members in sync have.
    pub committed: Option<Position>,
    /// The other members.
    pub peers: Vec<PeerState>,
    /// FLUSHes that wait for members.
    pub waiting_flushes: Option<u64>,
    /// Changes in memory for peers.
    pub window_entries: Option<u64>,
    /// Epochs that came and are not durable yet.
    pub applying: Option<u64>,
    /// Sessions that were ended for what came in them.
    pub refused_sessions: Option<u64>,
    /// The history is kept until a person resolves it.
    pub history_kept: bool,
    /// When the lease of this primary ends, in milliseconds since boot.
    pub lease_until: Option<u64>,
    /// It is over, or for another configuration.
    pub lease_over: bool,
    /// In events: what happened.
    pub event: Option<SetEventKind>,
    /// In events: the peer that it is about.
    pub peer: Option<Id>,
    /// Which load of the module.
    pub instance: Option<u32>,
    /// Number of the event.
    pub event_seq: Option<u64>,
}

impl SetState {
    pub(super) fn read(attributes: Attributes<'_>) -> Self {
        let mut state = Self::default();
        for attribute in attributes {
            match attribute.kind {
                set::INDEX => state.index = attribute.u32().unwrap_or_default(),
                set::STORE_UUID => state.store = id(&attribute).unwrap_or_default(),
                set::SET_UUID => state.set = id(&attribute).unwrap_or_default(),
                set::ROLE => state.role = attribute.u32().map(Role::from_number),
                set::CONFIG => state.config = read_config(attribute.value),
                set::VERSION => state.version = attribute.number(),
                set::PROMISE => state.promise = attribute.number(),
                set::POSITION => state.position = Some(read_position(attribute.nested())),
                set::COMMITTED => state.committed = Some(read_position(attribute.nested())),
                set::PEER => state.peers.push(PeerState::read(attribute.nested())),
                set::WAITING_FLUSHES => state.waiting_flushes = attribute.number(),
                set::WINDOW_ENTRIES => state.window_entries = attribute.number(),
                set::APPLYING => state.applying = attribute.number(),
                set::REFUSED_SESSIONS => state.refused_sessions = attribute.number(),
                set::HISTORY_KEPT => state.history_kept = true,
                set::LEASE_UNTIL => state.lease_until = attribute.number(),
                set::LEASE_OVER => state.lease_over = true,
                set::EVENT => state.event = attribute.u32().map(SetEventKind::from_number),
                set::PEER_STORE => state.peer = id(&attribute),
                set::INSTANCE => state.instance = attribute.u32(),
                set::EVENT_SEQ => state.event_seq = attribute.number(),
                _ => {}
            }
        }
        state
    }

    /// Milliseconds until its lease is over, 0 from then on, at so many since boot.
    pub fn lease_left_ms(&self, now: Option<u64>) -> Option<u64> {
        let left = self.lease_until?.saturating_sub(now?);
        Some(if self.lease_over { 0 } else { left })
    }

    /// What is known of a peer.
    pub fn peer_state(&self, store: &Id) -> Option<&PeerState> {
        self.peers.iter().find(|peer| peer.store == *store)
    }

    /// Whether it is primary, reconciled or not.
    pub fn rules(&self) -> bool {
        matches!(self.role, Some(Role::Primary | Role::Reconciling))
    }
}

fn id(attribute: &Attribute<'_>) -> Option<Id> {
    attribute.value.try_into().ok()
}

fn read_position(attributes: Attributes<'_>) -> Position {
    let mut read = Position::ZERO;
    for attribute in attributes {
        match attribute.kind {
            position::TERM => read.term = attribute.number().unwrap_or_default(),
            position::REIGN => read.reign = id(&attribute).unwrap_or_default(),
            position::EPOCH => read.epoch = attribute.number().unwrap_or_default(),
            position::CHAIN => read.chain = attribute.number().unwrap_or_default(),
            _ => {}
        }
    }
    read
}

fn read_config(bytes: &[u8]) -> Option<Config> {
    Config::read(&mut Reader::new(bytes)).ok()?
}

/// What answers FENCE: what the store has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// The configuration in force.
    pub config: Id,
    /// The end of its history.
    pub position: Position,
}

impl Driver {
    fn set_request(&self, command: u8, index: u32) -> Request {
        self.request(command).u32(set::INDEX, index)
    }

    fn set_call(&mut self, request: Request) -> Result<Vec<Message>> {
        self.channel.call(request).map_err(set_error)
    }

    /// The same, of a change: only one goes on at a time, and none takes long.
    fn set_change(&mut self, request: impl Fn(&Self) -> Request) -> Result<Vec<Message>> {
        self.ask_for_change(request).map_err(set_error)
    }

    fn ask_for_change(
        &mut self,
        request: impl Fn(&Self) -> Request,
    ) -> Result<Vec<Message>, Failure> {
        let since = Instant::now();
        loop {
            match self.channel.call(request(self)) {
                Err(Failure::Refused(refusal))
                    if refusal.errno == libc::EBUSY && since.elapsed() < PATIENCE =>
                {
                    thread::sleep(PAUSE);
                }
                answer => return answer,
            }
        }
    }

    /// Describes the part of each attached store that is in a set.
    pub fn sets(&mut self) -> Result<Vec<SetState>> {
        let (family, command) = (self.family, cmd::SET_GET);
        let answer = self
            .channel
            .dump(|| Request::new(family, command, VERSION))
            .map_err(set_error)?;
        Ok(answer
            .iter()
            .map(|message| SetState::read(message.attributes()))
            .collect())
    }

    /// Describes one store's part. `None` if it is in no set.
    pub fn set(&mut self, index: u32) -> Result<Option<SetState>> {
        let request = self.set_request(cmd::SET_GET, index);
        match self.channel.call(request) {
            Ok(answer) => answer
                .first()
                .map(|message| Some(SetState::read(message.attributes())))
                .ok_or_else(|| error(Failure::Malformed("no description of the set"))),
            Err(Failure::Refused(refusal)) if refusal.errno == libc::ENOENT => Ok(None),
            Err(failure) => Err(set_error(failure)),
        }
    }

    /// Puts the next configuration in force, by a compare-and-set on the version.
    pub fn set_config(&mut self, index: u32, expect: u64, config: &Config) -> Result {
        let bytes = config
            .bytes()
            .map_err(|_| Error::new(Exit::Failed, "out of memory"))?;
        let answer = self.ask_for_change(|driver| {
            driver
                .set_request(cmd::SET_CONFIG, index)
                .uint(set::EXPECT_VERSION, expect)
                .binary(set::CONFIG, &bytes)
        });
        match answer {
            // It waits for the disk, behind what the store is writing, and cannot be taken back.
            Err(Failure::Refused(refusal)) if refusal.errno == libc::EINPROGRESS => {
                let in_force = self.await_change(index, expect)?;
                match in_force.is_some_and(|id| id == config.id) {
                    true => Ok(()),
                    false => Err(set_error(Failure::Refused(refusal))),
                }
            }
            answer => answer.map(drop).map_err(set_error),
        }
    }

    /// The configuration that follows the one that is expected, once it is in force; the one that is
    /// if that takes too long.
    fn await_change(&mut self, index: u32, expect: u64) -> Result<Option<Id>> {
        let since = Instant::now();
        loop {
            let config = self.set(index)?.and_then(|state| state.config);
            let is_next = config.as_ref().is_some_and(|c| c.version != expect);
            if is_next || since.elapsed() > SLOW_DISK {
                return Ok(config.map(|config| config.id));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Lets the store refuse terms below `term`.
    pub fn fence(&mut self, index: u32, term: u64) -> Result<Fenced> {
        let answer = self.set_change(|driver| {
            let request = driver.set_request(cmd::FENCE, index);
            request.uint(set::TERM, term)
        })?;
        let (mut config, mut position) = (None, None);
        for attribute in answer.iter().flat_map(Message::attributes) {
            match attribute.kind {
                set::CONFIG_ID => config = id(&attribute),
                set::POSITION => position = Some(read_position(attribute.nested())),
                _ => {}
            }
        }
        match (config, position) {
            (Some(config), Some(position)) => Ok(Fenced { config, position }),
            _ => Err(error(Failure::Malformed(
                "no configuration and position of the fenced store",
            ))),
        }
    }

    /// Lets FLUSHes wait for a peer that is not in sync yet.
    pub fn join(&mut self, index: u32, peer: &Id) -> Result {
        let request = self.set_request(cmd::JOIN, index);
        self.set_call(request.binary(set::PEER_STORE, peer))
            .map(drop)
    }

    /// Hands everything over and ends the reign; waits for the members in sync.
    pub fn demote(&mut self, index: u32) -> Result<Position> {
        // The driver waits for some seconds at a time. Who looks at a device that was just closed, as
        // udev does, has it open for a moment.
        let answer = loop {
            let request = |driver: &Self| driver.set_request(cmd::DEMOTE, index);
            match self.channel.call(request(self)) {
                Err(Failure::Refused(refusal)) if refusal.errno == libc::EINPROGRESS => {}
                Err(Failure::Refused(refusal)) if refusal.errno == libc::EBUSY => {
                    break self.set_change(request)?;
                }
                answer => break answer.map_err(set_error)?,
            }
        };
        answer
            .iter()
            .flat_map(Message::attributes)
            .find(|attribute| attribute.kind == set::POSITION)
            .map(|attribute| read_position(attribute.nested()))
            .ok_or_else(|| error(Failure::Malformed("no position of the demoted store")))
    }

    /// Lets FLUSHes that wait for members fail.
    pub fn flush_fail(&mut self, index: u32) -> Result {
        self.set_call(self.set_request(cmd::FLUSH_FAIL, index))
            .map(drop)
    }

    /// Bounds the time in which a primary serves in a configuration: until so many milliseconds since
    /// boot, or not at all.
    pub fn lease(&mut self, index: u32, version: u64, until: Option<u64>) -> Result {
        self.set_change(|driver| {
            let request = driver.set_request(cmd::LEASE, index);
            let request = request.uint(set::VERSION, version);
            request.uint(set::LEASE_UNTIL, until.unwrap_or(0))
        })
        .map(drop)
    }

    /// Gives up what the store has and its primary has not.
    pub fn resolve(&mut self, index: u32) -> Result {
        self.set_change(|driver| driver.set_request(cmd::RESOLVE, index))
            .map(drop)
    }

    /// Gives the kernel a connection to a peer.
    pub fn peer(&mut self, index: u32, peer: &Id, socket: BorrowedFd<'_>, nonce: u64) -> Result {
        let socket = u32::try_from(socket.as_raw_fd())
            .map_err(|_| Error::new(Exit::Failed, "no socket to hand over"))?;
        let request = self
            .set_request(cmd::PEER, index)
            .binary(set::PEER_STORE, peer)
            .u32(set::FD, socket)
            .uint(set::NONCE, nonce);
        self.set_call(request).map(drop)
    }

    /// Ends the connection to a peer. False if there is none.
    pub fn peer_drop(&mut self, index: u32, peer: &Id) -> Result<bool> {
        let request = self.set_request(cmd::PEER_DROP, index);
        match self.channel.call(request.binary(set::PEER_STORE, peer)) {
            Ok(_) => Ok(true),
            Err(Failure::Refused(refusal)) if refusal.errno == libc::ENOTCONN => Ok(false),
            Err(failure) => Err(set_error(failure)),
        }
    }
}

fn set_error(failure: Failure) -> Error {
    match failure {
        Failure::Refused(refusal) => refused_with(&refusal, &ATTRIBUTES),
        other => error(other),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{members, same, HEADER};
    use super::*;

    #[test]
    fn the_rest_of_a_compare_is_estimated_once_enough_is_done() {
        let peer = |done, all, ms| PeerState {
            compared_blocks: Some(done),
            to_compare_blocks: all,
            compare_ms: Some(ms),
            ..PeerState::default()
        };
        let left = |done, all, ms| peer(done, Some(all), ms).compare_left_ms();
        assert_eq!(left(250, 1000, 5000), Some(15_000));
        assert_eq!(left(1000, 1000, 5000), Some(0));
        // What the driver tells of one state may be more than its checkpoint counted.
        assert_eq!(left(1001, 1000, 5000), Some(0));
        for (done, all, ms) in [(250, 1000, 1999), (9, 1000, 60_000), (0, 0, 60_000)] {
            assert_eq!(left(done, all, ms), None);
        }
        assert_eq!(left(1 << 60, u64::MAX, u64::MAX), None);
        assert_eq!(left(u64::MAX, u64::MAX, u64::MAX), Some(0));
        let resumed = |resumed, ms| {
            let resumed_blocks = Some(resumed);
            let peer = peer(500, Some(1000), ms);
            PeerState {
                resumed_blocks,
                ..peer
            }
            .compare_left_ms()
        };
        assert_eq!(resumed(400, 5000), Some(25_000));
        assert_eq!(resumed(495, 5000), None);
        assert_eq!(resumed(u64::MAX, 5000), None);
        assert_eq!(peer(0, None, 5000).compare_left_ms(), None);
        assert_eq!(peer(0, None, 5000).compared_percent(), None);
        assert_eq!(peer(999, Some(1000), 0).compared_percent(), Some(99));
        assert_eq!(PeerState::default().compared_percent(), None);
    }

    #[test]
    fn numbers_of_sets_are_those_of_the_uapi_header() {
        same(position::ALL, "DDUP_A_POSITION_");
        same(peer::ALL, "DDUP_A_PEER_");
        same(set::ALL, "DDUP_A_SET_");
        let named = |prefix: &str, name: &dyn Fn(u32) -> &'static str| {
            let members = members(prefix);
            assert!(!members.is_empty(), "{prefix}");
            for (spelled, value) in &members {
                let ours = name(*value as u32).to_uppercase().replace('-', "_");
                assert_eq!(ours, *spelled, "{prefix}");
            }
            members.len()
        };
        let roles = named("DDUP_ROLE_", &|n| Role::from_number(n).name());
        assert_eq!(roles, Role::ALL.len());
        let links = named("DDUP_PEER_LINK_", &|n| Link::from_number(n).name());
        assert_eq!(links, Link::ALL.len());
        let events = named("DDUP_SET_EVENT_", &|n| SetEventKind::from_number(n).name());
        assert_eq!(events, SetEventKind::ALL.len());
        let states = named("DDUP_MEMBER_STATE_", &|n| {
            member_state(n).map_or("unknown", member_state_name)
        });
        assert_eq!(states, 3);
        assert!(HEADER.contains(&format!("DDUP_CONFIG_MAX\t{CONFIG_MAX}\n")));
        for (name, value) in set::ALL {
            let spoken = ATTRIBUTES[*value as usize - 1];
            assert_eq!(spoken.to_uppercase().replace('-', "_"), *name);
        }
        assert_eq!(set::ALL.len(), ATTRIBUTES.len());
    }
}
