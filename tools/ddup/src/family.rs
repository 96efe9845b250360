// SPDX-License-Identifier: GPL-2.0

//! The generic netlink family `ddup`, typed: what `Documentation/netlink/specs/ddup.yaml` says.

use crate::{
    error::{describe, describe_errno, Error, Exit, Result},
    loopdev,
    netlink::{Attribute, Attributes, Channel, Failure, Message, Refusal, Request},
};
use serde::Serialize;
use set::SetState;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Name and version of the family.
const NAME: &str = "ddup";
const VERSION: u8 = 1;

/// The family that knows the others (`GENL_ID_CTRL`), and its group of changes.
mod control {
    pub const FAMILY: u16 = 0x10;
    pub const GROUP_NOTIFY: u32 = 0x10;
    pub const DEL_FAMILY: u8 = 2;
    pub const GET_FAMILY: u8 = 3;
    pub const A_FAMILY_ID: u16 = 1;
    pub const A_FAMILY_NAME: u16 = 2;
    pub const A_MCAST_GROUPS: u16 = 7;
    pub const A_MCAST_GROUP_NAME: u16 = 1;
    pub const A_MCAST_GROUP_ID: u16 = 2;
}

macro_rules! numbers {
    ($(#[$doc:meta])* $module:ident: $kind:ty { $($name:ident = $value:literal,)* }) => {
        $(#[$doc])*
        mod $module {
            $(pub const $name: $kind = $value;)*
            #[cfg(test)]
            pub const ALL: &[(&str, u64)] = &[$((stringify!($name), $value),)*];
        }
    };
}

pub mod set;

numbers! {
    /// `DDUP_CMD_*`.
    cmd: u8 {
        ATTACH = 1,
        DETACH = 2,
        GET = 3,
        ATTACHED = 4,
        DETACHED = 5,
        STORE_FAILED = 6,
        CHECK = 7,
        CHECKED = 8,
        CREATE = 9,
        RESIZE = 10,
        RESIZED = 11,
        REMOVE = 12,
        REMOVED = 13,
        SET_GET = 14,
        SET_CONFIG = 15,
        FENCE = 16,
        JOIN = 17,
        DEMOTE = 18,
        FLUSH_FAIL = 19,
        RESOLVE = 20,
        PEER = 21,
        PEER_DROP = 22,
        SET_CHANGED = 23,
        SCRUB = 24,
        SCRUB_FOUND = 25,
        SCRUBBED = 26,
        LEASE = 27,
        VERIFY = 28,
    }
}

numbers! {
    /// `DDUP_A_DEVICE_*`.
    device: u16 {
        INDEX = 1,
        NAME = 2,
        PATH = 3,
        BACKING_MAJOR = 4,
        BACKING_MINOR = 5,
        READ_ONLY = 6,
        FORCE = 7,
        CACHE_BYTES = 8,
        INDEX_BYTES = 9,
        STORE_UUID = 10,
        VOLUME = 11,
        SIZE = 12,
        STATE = 13,
        FAILURE = 14,
        MESSAGE = 15,
        COUNTERS = 16,
        INSTANCE = 17,
        EVENT_SEQ = 18,
        CHECK_COOKIE = 19,
        CHECK_ROOT = 20,
        CHECK_PAGES = 21,
        CHECK_FINDINGS = 22,
        CHECK_TABLE_READ = 23,
        CHECK_DONE = 24,
        VOLUME_UUID = 25,
        RELEASING_BYTES = 26,
        SCRUB = 27,
        SCRUB_STOP = 28,
        OFFSET = 29,
    }
}

numbers! {
    /// `DDUP_A_SCRUB_*`.
    scrub: u16 {
        STATE = 1,
        BLOCKS = 2,
        CHECKED_BLOCKS = 3,
        READ_CLUSTERS = 4,
        BAD_BLOCKS = 5,
        HEALED_BLOCKS = 6,
        TOOK_MS = 7,
    }
}

/// The attributes' names, for messages about them.
const DEVICE_ATTRIBUTES: [&str; 29] = [
    "index",
    "name",
    "path",
    "backing-major",
    "backing-minor",
    "read-only",
    "force",
    "cache-bytes",
    "index-bytes",
    "store-uuid",
    "volume",
    "size",
    "state",
    "failure",
    "message",
    "counters",
    "instance",
    "event-seq",
    "check-cookie",
    "check-root",
    "check-pages",
    "check-findings",
    "check-table-read",
    "check-done",
    "volume-uuid",
    "releasing-bytes",
    "scrub",
    "scrub-stop",
    "offset",
];

/// Largest N of `/dev/ddupN`.
pub const INDEX_MAX: u32 = 65535;
/// Longest path in bytes.
pub const PATH_LEN_MAX: usize = 4095;

/// What a device does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Reads and writes.
    Online,
    /// Reads only.
    ReadOnly,
    /// The store failed.
    Failed,
    /// Being detached.
    Detaching,
    /// The store is in a replica set and does not serve.
    Replica,
    /// One that this tool does not know.
    Unknown,
}

impl State {
    /// Those that there are.
    pub const ALL: [State; 5] = [
        State::Online,
        State::ReadOnly,
        State::Failed,
        State::Detaching,
        State::Replica,
    ];

    fn from_number(number: u32) -> Self {
        match number {
            0 => State::Online,
            1 => State::ReadOnly,
            2 => State::Failed,
            3 => State::Detaching,
            4 => State::Replica,
            _ => State::Unknown,
        }
    }

    /// The state's name in the spec.
    pub fn name(self) -> &'static str {
        match self {
            State::Online => "online",
            State::ReadOnly => "read-only",
            State::Failed => "failed",
            State::Detaching => "detaching",
            State::Replica => "replica",
            State::Unknown => "unknown",
        }
    }
}

/// Why a store failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureReason {
    /// The backing device failed what the store cannot do without.
    DeviceError,
    /// The backing device is gone.
    DeviceGone,
    /// Metadata is damaged.
    Damaged,
    /// The driver met what must not occur.
    Internal,
    /// One that this tool does not know.
    Unknown,
}

impl FailureReason {
    fn from_number(number: u32) -> Self {
        match number {
            0 => FailureReason::DeviceError,
            1 => FailureReason::DeviceGone,
            2 => FailureReason::Damaged,
            3 => FailureReason::Internal,
            _ => FailureReason::Unknown,
        }
    }

    /// The reason's name in the spec.
    pub fn name(self) -> &'static str {
        match self {
            FailureReason::DeviceError => "device-error",
            FailureReason::DeviceGone => "device-gone",
            FailureReason::Damaged => "damaged",
            FailureReason::Internal => "internal",
            FailureReason::Unknown => "unknown",
        }
    }
}

/// What a counter's value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// How much there is now.
    Gauge,
    /// How often it happened since attach.
    Counter,
}

macro_rules! counters {
    ($($field:ident = $number:literal, $kind:ident, $doc:literal;)*) => {
        /// Counters of a store; one that the driver does not keep is absent.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Counters {
            $(
                #[doc = $doc]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $field: Option<u64>,
            )*
        }

        impl Counters {
            /// Name, kind and meaning of each.
            pub const METRICS: &[(&str, MetricKind, &str)] =
                &[$((stringify!($field), MetricKind::$kind, $doc),)*];

            /// The values, in the order of [`Counters::METRICS`].
            pub fn values(&self) -> [Option<u64>; Self::METRICS.len()] {
                [$(self.$field,)*]
            }

            fn read(attributes: Attributes<'_>) -> Self {
                let mut counters = Self::default();
                for attribute in attributes {
                    match attribute.kind {
                        $($number => counters.$field = attribute.number(),)*
                        _ => {}
                    }
                }
                counters
            }

            #[cfg(test)]
            const ALL: &[(&str, u64)] = &[$((stringify!($field), $number),)*];
        }
    };
}

counters! {
    clusters = 1, Gauge, "Clusters of the store, 4 KiB each, in all.";
    fixed_clusters = 2, Gauge, "Clusters of superblocks, journal and segment table.";
    metadata_clusters = 3, Gauge, "Clusters set aside for pages of the trees, in use or not.";
    free_metadata_clusters = 4, Gauge, "Clusters of those that are free.";
    available_clusters = 5, Gauge, "Clusters that new content may take.";
    junk_clusters = 6, Gauge, "Clusters that were released, as of the last checkpoint, and not yet recycled.";
    live_clusters = 7, Gauge, "Clusters that hold content which a volume refers to, as of the last checkpoint.";
    mapped_blocks = 8, Gauge, "Blocks that are mapped to a cluster, as of the last checkpoint.";
    quarantined_clusters = 9, Counter, "Clusters whose content did not match its check since attach.";
    read_blocks = 10, Counter, "Blocks read.";
    written_blocks = 11, Counter, "Blocks written, of any kind.";
    duplicate_blocks = 12, Counter, "Blocks written whose content the store had already.";
    zero_blocks = 13, Counter, "Blocks written that were all zero and took no cluster.";
    discarded_blocks = 14, Counter, "Blocks discarded, or zeroed without data.";
    flushes = 15, Counter, "Requests that asked for durability.";
    commits = 16, Counter, "Blocks of the journal written.";
    checkpoints = 17, Counter, "Checkpoints completed.";
    collisions = 18, Counter, "Blocks whose fingerprint was known and whose content differed.";
    check_errors = 19, Counter, "Times that a block read from the backing device did not match its check.";
    write_retries = 20, Counter, "Blocks whose write the backing device failed, and that were tried elsewhere.";
    no_space = 21, Counter, "Requests that were refused for want of space.";
    journal_bytes = 22, Gauge, "Bytes of the journal in use.";
    journal_size = 23, Gauge, "Bytes of the journal ring.";
    waiting_changes = 24, Gauge, "Block changes that wait for the next checkpoint.";
    cached_pages = 25, Gauge, "Pages of the trees, 4 KiB each, in memory.";
    pages_read = 26, Counter, "Pages of the trees read from the backing device.";
    pages_written = 27, Counter, "Pages of the trees written to the backing device.";
    index_entries = 28, Gauge, "Fingerprints in the index.";
    index_limit = 29, Gauge, "Fingerprints that the index has room for.";
    healed_blocks = 30, Counter, "Blocks whose content did not match its check and was stored anew.";
    failed_heals = 31, Counter, "Blocks that did not match their check and were not healed, with members connected.";
    lost_blocks = 32, Counter, "Blocks of acknowledged writes that the backing device took nowhere.";
}

impl Counters {
    /// Clusters that hold data right now, those of junk not counted.
    pub fn used_clusters(&self) -> Option<u64> {
        let others = self.fixed_clusters? + self.metadata_clusters? + self.junk_clusters?;
        Some(
            self.clusters?
                .saturating_sub(others.saturating_add(self.available_clusters?)),
        )
    }

    /// The part of the mapped blocks that needs no cluster of its own, in percent.
    pub fn saved_percent(&self) -> Option<f64> {
        let (mapped, live) = (self.mapped_blocks?, self.live_clusters?);
        (mapped > 0).then(|| 100.0 * mapped.saturating_sub(live) as f64 / mapped as f64)
    }
}

/// How far a check of an attached store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Pages that were examined.
    pub pages: u64,
    /// Things that are wrong.
    pub findings: u64,
    /// It has ended.
    pub done: bool,
}

/// How far a scrub is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScrubState {
    /// It reads on.
    Running,
    /// All has been looked at.
    Complete,
    /// It ended before that.
    Stopped,
    /// One that this tool does not know.
    #[default]
    Unknown,
}

impl ScrubState {
    fn from_number(number: u32) -> Self {
        match number {
            0 => ScrubState::Running,
            1 => ScrubState::Complete,
            2 => ScrubState::Stopped,
            _ => ScrubState::Unknown,
        }
    }
}

/// What a scrub has done and found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Scrub {
    /// How far it is.
    pub state: ScrubState,
    /// Blocks that were mapped when it began, as of the last checkpoint then.
    pub blocks: u64,
    /// Blocks that it has looked at.
    pub checked_blocks: u64,
    /// Clusters that it has read.
    pub read_clusters: u64,
    /// Blocks that are bad and stay so.
    pub bad_blocks: u64,
    /// Blocks that were bad and were stored anew.
    pub healed_blocks: u64,
    /// Milliseconds from its beginning to its end, or until now.
    pub took_ms: u64,
}

impl Scrub {
    fn read(attributes: Attributes<'_>) -> Self {
        let mut report = Self::default();
        for attribute in attributes {
            let number = attribute.number().unwrap_or(0);
            match attribute.kind {
                scrub::STATE => {
                    report.state = attribute
                        .u32()
                        .map_or(ScrubState::Unknown, ScrubState::from_number);
                }
                scrub::BLOCKS => report.blocks = number,
                scrub::CHECKED_BLOCKS => report.checked_blocks = number,
                scrub::READ_CLUSTERS => report.read_clusters = number,
                scrub::BAD_BLOCKS => report.bad_blocks = number,
                scrub::HEALED_BLOCKS => report.healed_blocks = number,
                scrub::TOOK_MS => report.took_ms = number,
                _ => {}
            }
        }
        report
    }
}

/// What a check tells the driver.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckReport {
    /// Names the check.
    pub cookie: u64,
    /// Pages that were examined.
    pub pages: u64,
    /// Things that are wrong.
    pub findings: u64,
    /// The segment table was read.
    pub table_read: bool,
    /// It has ended.
    pub done: bool,
}

/// One device as the driver describes it, or as an event names it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Device {
    /// N of `/dev/ddupN`.
    pub index: u32,
    /// `ddupN`.
    pub name: String,
    /// The backing device's path, as given at attach.
    #[serde(rename = "backing")]
    pub path: String,
    /// The regular file behind the backing device, if that is a loop device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Major and minor number of the backing device.
    #[serde(skip)]
    pub backing_number: Option<(u32, u32)>,
    /// Whether the block device is read-only.
    pub read_only: bool,
    /// Limit of the page cache in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_bytes: Option<u64>,
    /// Limit of the index in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index_bytes: Option<u64>,
    /// UUID of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_uuid: Option<String>,
    /// Number of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<u32>,
    /// UUID of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_uuid: Option<String>,
    /// Size in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Bytes behind the end that are still to be released.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub releasing_bytes: Option<u64>,
    /// What it does with requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Why the store failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureReason>,
    /// The failure as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The check that goes on, or was the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// The scrub that goes on, or was the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scrub: Option<Scrub>,
    /// Of an event: where it happened in the volume, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Space and work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counters: Option<Counters>,
    /// Which load of the module.
    #[serde(skip)]
    pub instance: Option<u32>,
    /// Number of the last event that this reflects, or of this event.
    #[serde(skip)]
    pub event_seq: Option<u64>,
}

impl Device {
    fn read(attributes: Attributes<'_>) -> Self {
        let mut device = Self::default();
        let (mut major, mut minor) = (None, None);
        for attribute in attributes {
            match attribute.kind {
                device::INDEX => device.index = attribute.u32().unwrap_or_default(),
                device::NAME => device.name = attribute.string(),
                device::PATH => device.path = attribute.string(),
                device::BACKING_MAJOR => major = attribute.u32(),
                device::BACKING_MINOR => minor = attribute.u32(),
                device::READ_ONLY => device.read_only = true,
                device::CACHE_BYTES => device.cache_bytes = attribute.number(),
                device::INDEX_BYTES => device.index_bytes = attribute.number(),
                device::STORE_UUID => device.store_uuid = uuid(&attribute),
                device::VOLUME => device.volume = attribute.u32(),
                device::VOLUME_UUID => device.volume_uuid = uuid(&attribute),
                device::RELEASING_BYTES => device.releasing_bytes = attribute.number(),
                device::SIZE => device.size = attribute.number(),
                device::STATE => device.state = attribute.u32().map(State::from_number),
                device::FAILURE => {
                    device.failure = attribute.u32().map(FailureReason::from_number);
                }
                device::MESSAGE => device.message = Some(attribute.string()),
                device::COUNTERS => device.counters = Some(Counters::read(attribute.nested())),
                device::CHECK_PAGES => check(&mut device).pages = attribute.number().unwrap_or(0),
                device::CHECK_FINDINGS => {
                    check(&mut device).findings = attribute.number().unwrap_or(0);
                }
                device::CHECK_DONE => check(&mut device).done = true,
                device::SCRUB => device.scrub = Some(Scrub::read(attribute.nested())),
                device::OFFSET => device.offset = attribute.number(),
                device::INSTANCE => device.instance = attribute.u32(),
                device::EVENT_SEQ => device.event_seq = attribute.number(),
                _ => {}
            }
        }
        device.backing_number = major.zip(minor);
        device.file = device.backing_number.and_then(loopdev::file_behind);
        device
    }

    /// What is behind it, for a person: the file, else the backing device.
    pub fn backing(&self) -> &str {
        self.file.as_deref().unwrap_or(&self.path)
    }

    /// Path of the block device.
    pub fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }
}

fn check(device: &mut Device) -> &mut Check {
    device.check.get_or_insert_with(Check::default)
}

/// A UUID from its usual form.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let dashes = [8, 13, 18, 23];
    let right = |(at, c): (usize, char)| match dashes.contains(&at) {
        true => c == '-',
        false => c.is_ascii_hexdigit(),
    };
    if text.len() != 36 || !text.char_indices().all(right) {
        return None;
    }
    let digits: String = text.split('-').collect();
    let mut bytes = [0; 16];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// A UUID in its usual form.
pub fn format_uuid(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn uuid(attribute: &Attribute<'_>) -> Option<String> {
    attribute.value.try_into().ok().map(format_uuid)
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A store was attached.
    Attached,
    /// A store was detached.
    Detached,
    /// A store failed.
    StoreFailed,
    /// A check of an attached store has ended.
    Checked,
    /// A volume has another size.
    Resized,
    /// A volume was removed.
    Removed,
    /// A scrub found a block that is bad and stays so.
    ScrubFound,
    /// A scrub has ended.
    Scrubbed,
}

impl EventKind {
    /// The event's name in the spec.
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Attached => "attached",
            EventKind::Detached => "detached",
            EventKind::StoreFailed => "store-failed",
            EventKind::Checked => "checked",
            EventKind::Resized => "resized",
            EventKind::Removed => "removed",
            EventKind::ScrubFound => "scrub-found",
            EventKind::Scrubbed => "scrubbed",
        }
    }
}

/// What comes in on an event channel.
#[derive(Debug)]
pub enum Incoming {
    /// An event of the driver.
    Event(EventKind, Box<Device>),
    /// An event of a replica set.
    Set(Box<SetState>),
    /// The socket's buffer ran over: some events are lost.
    Lost,
    /// The module was unloaded.
    Unloaded,
}

/// What to attach, and how.
#[derive(Clone, Copy, Debug)]
pub struct AttachRequest<'a> {
    /// Path of the backing block device.
    pub path: &'a Path,
    /// The wished N of `/dev/ddupN`.
    pub index: Option<u32>,
    /// Write nothing.
    pub read_only: bool,
    /// Limit of the page cache in bytes.
    pub cache_bytes: Option<u64>,
    /// Limit of the index in bytes.
    pub index_bytes: Option<u64>,
}

/// A connection to the driver.
pub struct Driver {
    channel: Channel,
    family: u16,
    events_group: Option<u32>,
}

impl Driver {
    /// Connects. The module is not loaded for it: that is up to the administrator.
    pub fn connect() -> Result<Self> {
        let mut channel = open_channel()?;
        let request = Request::new(control::FAMILY, control::GET_FAMILY, 1)
            .string(control::A_FAMILY_NAME, NAME.as_bytes());
        let answer = match channel.call(request) {
            Ok(answer) => answer,
            Err(Failure::Refused(refusal)) if refusal.errno == libc::ENOENT => {
                return Err(Error::new(
                    Exit::NotLoaded,
                    "the ddup driver is not loaded: load it with `modprobe ddup`, \
                     or `insmod` with the path of ddup.ko",
                ));
            }
            Err(failure) => return Err(error(failure)),
        };
        let (mut family, mut events_group) = (None, None);
        for attribute in answer.iter().flat_map(Message::attributes) {
            match attribute.kind {
                control::A_FAMILY_ID => family = attribute.u32(),
                control::A_MCAST_GROUPS => {
                    events_group = attribute
                        .nested()
                        .find_map(|group| group_id(group.nested(), "events"));
                }
                _ => {}
            }
        }
        let family = family
            .and_then(|id| u16::try_from(id).ok())
            .ok_or_else(|| error(Failure::Malformed("a family without a number")))?;
        Ok(Self {
            channel,
            family,
            events_group,
        })
    }

    /// The family's number on this system.
    pub fn family(&self) -> u16 {
        self.family
    }

    fn request(&self, command: u8) -> Request {
        Request::new(self.family, command, VERSION)
    }

    /// Attaches a store; returns the block device's name.
    pub fn attach(&mut self, attach: &AttachRequest<'_>) -> Result<String> {
        let path = attach.path.as_os_str().as_bytes();
        if path.len() > PATH_LEN_MAX {
            return Err(Error::new(
                Exit::Usage,
                format!(
                    "the path has {} bytes, more than {PATH_LEN_MAX}",
                    path.len()
                ),
            ));
        }
        let mut request = self.request(cmd::ATTACH).string(device::PATH, path);
        if let Some(index) = attach.index {
            request = request.u32(device::INDEX, index);
        }
        if attach.read_only {
            request = request.flag(device::READ_ONLY);
        }
        if let Some(bytes) = attach.cache_bytes {
            request = request.uint(device::CACHE_BYTES, bytes);
        }
        if let Some(bytes) = attach.index_bytes {
            request = request.uint(device::INDEX_BYTES, bytes);
        }
        self.call_for_name(request)
    }

    /// Sends a request that makes a device; returns its name.
    fn call_for_name(&mut self, request: Request) -> Result<String> {
        let answer = self.channel.call(request).map_err(error)?;
        let device = answer
            .first()
            .map(|message| Device::read(message.attributes()))
            .filter(|device| !device.name.is_empty())
            .ok_or_else(|| error(Failure::Malformed("no name of the new device")))?;
        Ok(device.name)
    }

    /// Creates a volume in the store of a device; returns the new block device's name.
    pub fn create(&mut self, index: u32, bytes: u64) -> Result<String> {
        let request = self.request(cmd::CREATE).u32(device::INDEX, index);
        self.call_for_name(request.uint(device::SIZE, bytes))
    }

    /// Gives the volume of a device another size.
    pub fn resize(&mut self, index: u32, bytes: u64, force: bool) -> Result {
        let mut request = self
            .request(cmd::RESIZE)
            .u32(device::INDEX, index)
            .uint(device::SIZE, bytes);
        if force {
            request = request.flag(device::FORCE);
        }
        self.channel.call(request).map_err(error)?;
        Ok(())
    }

    /// Removes the volume of a device, and the device.
    pub fn remove(&mut self, index: u32) -> Result {
        let request = self.request(cmd::REMOVE).u32(device::INDEX, index);
        self.channel.call(request).map_err(error)?;
        Ok(())
    }

    /// Detaches the device.
    pub fn detach(&mut self, index: u32, force: bool) -> Result {
        let mut request = self.request(cmd::DETACH).u32(device::INDEX, index);
        if force {
            request = request.flag(device::FORCE);
        }
        self.channel.call(request).map_err(error)?;
        Ok(())
    }

    /// Begins a check of an attached store: what names it, and the superblock of what is kept.
    pub fn begin_check(&mut self, index: u32) -> Result<(u64, Vec<u8>)> {
        let request = self.request(cmd::CHECK).u32(device::INDEX, index);
        let answer = self.channel.call(request).map_err(error)?;
        let (mut cookie, mut root) = (None, None);
        for attribute in answer.iter().flat_map(Message::attributes) {
            match attribute.kind {
                device::CHECK_COOKIE => cookie = attribute.number(),
                device::CHECK_ROOT => root = Some(attribute.value.to_vec()),
                _ => {}
            }
        }
        cookie
            .zip(root)
            .ok_or_else(|| error(Failure::Malformed("a check without a superblock")))
    }

    /// Tells how far a check is. False: the store could not keep what is checked.
    pub fn go_on_check(&mut self, index: u32, report: &CheckReport) -> Result<bool> {
        let mut request = self
            .request(cmd::CHECK)
            .u32(device::INDEX, index)
            .uint(device::CHECK_COOKIE, report.cookie)
            .uint(device::CHECK_PAGES, report.pages)
            .uint(device::CHECK_FINDINGS, report.findings);
        if report.table_read {
            request = request.flag(device::CHECK_TABLE_READ);
        }
        if report.done {
            request = request.flag(device::CHECK_DONE);
        }
        match self.channel.call(request) {
            Ok(_) => Ok(true),
            Err(Failure::Refused(refusal)) if refusal.errno == libc::ESTALE => Ok(false),
            Err(failure) => Err(error(failure)),
        }
    }

    /// Begins a scrub of the store of a device.
    pub fn begin_scrub(&mut self, index: u32) -> Result {
        let request = self.request(cmd::SCRUB).u32(device::INDEX, index);
        self.channel.call(request).map_err(error)?;
        Ok(())
    }

    /// Ends the scrub of the store of a device that goes on.
    pub fn stop_scrub(&mut self, index: u32) -> Result {
        let request = self.request(cmd::SCRUB).u32(device::INDEX, index);
        self.channel
            .call(request.flag(device::SCRUB_STOP))
            .map_err(error)?;
        Ok(())
    }

    /// Describes all devices, in the order of their numbers.
    pub fn devices(&mut self) -> Result<Vec<Device>> {
        let (family, command) = (self.family, cmd::GET);
        let answer = self
            .channel
            .dump(|| Request::new(family, command, VERSION))
            .map_err(error)?;
        Ok(answer
            .iter()
            .map(|message| Device::read(message.attributes()))
            .collect())
    }

    /// Joins the group of events, on a socket of its own.
    pub fn subscribe(&self) -> Result<Events> {
        let group = self
            .events_group
            .ok_or_else(|| error(Failure::Malformed("no group of events")))?;
        let mut channel = open_channel()?;
        for group in [group, control::GROUP_NOTIFY] {
            channel
                .join(group)
                .map_err(|failure| error(Failure::Io(failure)).context("cannot join the events"))?;
        }
        Ok(Events {
            channel,
            family: self.family,
            queue: std::collections::VecDeque::new(),
        })
    }
}

/// A subscription.
pub struct Events {
    channel: Channel,
    family: u16,
    queue: std::collections::VecDeque<Incoming>,
}

impl Events {
    /// Waits for what comes next.
    pub fn wait(&mut self) -> Result<Incoming> {
        loop {
            if let Some(incoming) = self.queue.pop_front() {
                return Ok(incoming);
            }
            match self.channel.receive().map_err(error)? {
                None => return Ok(Incoming::Lost),
                Some(messages) => self.queue.extend(
                    messages
                        .iter()
                        .filter_map(|message| incoming(self.family, message)),
                ),
            }
        }
    }
}

fn incoming(family: u16, message: &Message) -> Option<Incoming> {
    if message.family == control::FAMILY && message.command == control::DEL_FAMILY {
        let ours = message.attributes().any(|attribute| {
            attribute.kind == control::A_FAMILY_NAME && attribute.string() == NAME
        });
        return ours.then_some(Incoming::Unloaded);
    }
    if message.family != family {
        return None;
    }
    let kind = match message.command {
        cmd::ATTACHED => EventKind::Attached,
        cmd::DETACHED => EventKind::Detached,
        cmd::STORE_FAILED => EventKind::StoreFailed,
        cmd::CHECKED => EventKind::Checked,
        cmd::RESIZED => EventKind::Resized,
        cmd::REMOVED => EventKind::Removed,
        cmd::SCRUB_FOUND => EventKind::ScrubFound,
        cmd::SCRUBBED => EventKind::Scrubbed,
        cmd::SET_CHANGED => {
            let state = SetState::read(message.attributes());
            return Some(Incoming::Set(Box::new(state)));
        }
        _ => return None,
    };
    let device = Box::new(Device::read(message.attributes()));
    Some(Incoming::Event(kind, device))
}

fn group_id(group: Attributes<'_>, wanted: &str) -> Option<u32> {
    let (mut name, mut id) = (None, None);
    for attribute in group {
        match attribute.kind {
            control::A_MCAST_GROUP_NAME => name = Some(attribute.string()),
            control::A_MCAST_GROUP_ID => id = attribute.u32(),
            _ => {}
        }
    }
    (name.as_deref() == Some(wanted)).then_some(id)?
}

fn open_channel() -> Result<Channel> {
    Channel::open().map_err(|failure| {
        error(Failure::Io(failure)).context("cannot open a generic netlink socket")
    })
}

fn error(failure: Failure) -> Error {
    match failure {
        Failure::Io(error) => Error::new(
            Exit::from_errno(error.raw_os_error().unwrap_or(0)),
            describe(&error),
        ),
        Failure::Malformed(what) => Error::new(
            Exit::Failed,
            format!("the driver sent {what}: this tool and the module do not fit together"),
        ),
        Failure::Refused(refusal) => refused_with(&refusal, &DEVICE_ATTRIBUTES),
    }
}

/// A refusal of a request whose attributes have these names.
fn refused_with(refusal: &Refusal, names: &[&'static str]) -> Error {
    Error::new(
        Exit::from_errno(refusal.errno),
        refusal_sentence(refusal, names),
    )
}

/// The kernel's sentence if there is one, else the errno's; with the attribute to blame.
fn refusal_sentence(refusal: &Refusal, names: &[&'static str]) -> String {
    let attribute_name = |kind: u16| attribute_name(names, kind);
    let mut text = match &refusal.message {
        Some(message) => format!("{message} ({})", describe_errno(refusal.errno)),
        None if refusal.errno == libc::EPERM => {
            "not permitted: this needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN)".to_owned()
        }
        None => describe_errno(refusal.errno),
    };
    if let Some(name) = refusal.attribute.and_then(attribute_name) {
        text.push_str(&format!(" [{name}]"));
    }
    if let Some(name) = refusal.missing.and_then(attribute_name) {
        text.push_str(&format!(" [{name} is missing]"));
    }
    text
}

fn attribute_name(names: &[&'static str], kind: u16) -> Option<&'static str> {
    names.get(usize::from(kind).checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const HEADER: &str = include_str!("../../../drivers/block/ddup/uapi/linux/ddup.h");

    /// The members of the header's enum whose names begin with `prefix`, and their values.
    pub(super) fn members(prefix: &str) -> Vec<(String, u64)> {
        let mut members = Vec::new();
        let mut value = 0;
        for line in HEADER.lines().map(str::trim) {
            let Some(line) = line.strip_suffix(',') else {
                value = if line.starts_with("enum") { 0 } else { value };
                continue;
            };
            let name = match line.split_once(" = ") {
                Some((name, number)) => {
                    value = number.parse().unwrap();
                    name
                }
                None => line,
            };
            if let Some(name) = name.strip_prefix(prefix) {
                members.push((name.to_owned(), value));
            }
            value += 1;
        }
        members
    }

    pub(super) fn same(ours: &[(&str, u64)], prefix: &str) {
        let ours: Vec<_> = ours
            .iter()
            .map(|(name, value)| (name.to_uppercase(), *value))
            .collect();
        assert_eq!(ours, members(prefix), "{prefix}");
    }

    #[test]
    fn numbers_are_those_of_the_uapi_header() {
        same(cmd::ALL, "DDUP_CMD_");
        same(device::ALL, "DDUP_A_DEVICE_");
        same(Counters::ALL, "DDUP_A_COUNTERS_");
        same(scrub::ALL, "DDUP_A_SCRUB_");
        let names = members("DDUP_SCRUB_STATE_");
        for (name, value) in &names {
            let state = format!("{:?}", ScrubState::from_number(*value as u32));
            assert_eq!(state.to_uppercase(), *name);
        }
        let beyond = ScrubState::from_number(names.len() as u32);
        assert_eq!(beyond, ScrubState::Unknown);
        let names: Vec<_> = members("DDUP_STATE_");
        for (name, value) in &names {
            let state = State::from_number(*value as u32);
            assert_eq!(state.name().to_uppercase().replace('-', "_"), *name);
        }
        assert_eq!(State::from_number(names.len() as u32), State::Unknown);
        assert_eq!(State::ALL.len(), names.len());
        let names: Vec<_> = members("DDUP_FAILURE_");
        for (name, value) in &names {
            let reason = FailureReason::from_number(*value as u32);
            assert_eq!(reason.name().to_uppercase().replace('-', "_"), *name);
        }
        assert_eq!(
            FailureReason::from_number(names.len() as u32),
            FailureReason::Unknown
        );
        assert!(HEADER.contains(&format!("DDUP_INDEX_MAX\t\t{INDEX_MAX}\n")));
        assert!(HEADER.contains(&format!("DDUP_PATH_LEN_MAX\t{PATH_LEN_MAX}\n")));
        assert!(HEADER.contains(&format!("DDUP_FAMILY_VERSION\t{VERSION}\n")));
    }

    #[test]
    fn attribute_names_are_in_the_order_of_their_numbers() {
        for (name, value) in device::ALL {
            let spoken = attribute_name(&DEVICE_ATTRIBUTES, *value as u16).unwrap();
            assert_eq!(spoken.to_uppercase().replace('-', "_"), *name);
        }
        assert_eq!(attribute_name(&DEVICE_ATTRIBUTES, 0), None);
        let beyond = device::ALL.len() as u16 + 1;
        assert_eq!(attribute_name(&DEVICE_ATTRIBUTES, beyond), None);
    }

    #[test]
    fn refusals_speak_the_kernels_words() {
        let refusal = Refusal {
            errno: libc::EINVAL,
            message: Some("/dev/vdb holds no store".into()),
            attribute: Some(device::PATH),
            missing: None,
        };
        assert_eq!(
            refusal_sentence(&refusal, &DEVICE_ATTRIBUTES),
            "/dev/vdb holds no store (Invalid argument) [path]"
        );
        let refusal = Refusal {
            message: None,
            attribute: None,
            missing: Some(device::INDEX),
            ..refusal
        };
        assert_eq!(
            refusal_sentence(&refusal, &DEVICE_ATTRIBUTES),
            "Invalid argument [index is missing]"
        );
    }

    #[test]
    fn uuids_are_written_as_usual() {
        let bytes = core::array::from_fn(|i| i as u8 * 17);
        let text = "00112233-4455-6677-8899-aabbccddeeff";
        assert_eq!(format_uuid(&bytes), text);
        assert_eq!(parse_uuid(text), Some(bytes));
        assert_eq!(parse_uuid(&text.to_uppercase()), Some(bytes));
        for wrong in [
            "",
            "x",
            &text[1..],
            &text.replace('-', "0"),
            &text.replace('a', "g"),
        ] {
            assert_eq!(parse_uuid(wrong), None, "{wrong}");
        }
        assert_eq!(parse_uuid(&"é".repeat(18)), None);
    }

    #[test]
    fn savings_are_of_the_mapped_blocks() {
        let mut counters = Counters {
            mapped_blocks: Some(200),
            live_clusters: Some(50),
            ..Counters::default()
        };
        assert_eq!(counters.saved_percent(), Some(75.0));
        counters.live_clusters = Some(300);
        assert_eq!(counters.saved_percent(), Some(0.0));
        counters.mapped_blocks = Some(0);
        assert_eq!(counters.saved_percent(), None);
    }
}
