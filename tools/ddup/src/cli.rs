// SPDX-License-Identifier: GPL-2.0

//! The command line, the one source of help, man pages and completions.

use crate::{
    config,
    family::INDEX_MAX,
    knob::{self, Knob, Setting, KNOBS},
    replica::statement::Statement,
    size,
    table::Column,
};
use clap::{builder::PossibleValuesParser, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Attach, watch and detach block devices that store equal blocks once
#[derive(Debug, Parser)]
#[command(
    name = "ddup",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "See `man ddup` and `ddup VERB --help`."
)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a store of a block device or file; what is on it is lost
    Format(FormatArgs),
    /// Make a block device of a store and print its path
    Attach(AttachArgs),
    /// Remove block devices and let go of their stores
    Detach(DetachArgs),
    /// List the attached devices, one a line
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Describe attached devices: state, space, savings, work done
    Status(StatusArgs),
    /// Show knobs of an attached device: value, default, range and unit
    Get(GetArgs),
    /// Change knobs of an attached device; look at replica sets
    Set(SetArgs),
    /// Create one more volume in an attached store and print its block device's path
    Create(CreateArgs),
    /// Give the volume of an attached device another size
    Resize(ResizeArgs),
    /// Remove a volume from an attached store; what only it holds is lost
    Remove(RemoveArgs),
    /// Change the members of a replica set, and their connections
    Peer(PeerArgs),
    /// Make a member of a replica set its primary
    Promote(PromoteArgs),
    /// Let a primary hand everything over and stop being primary
    Demote(DemoteArgs),
    /// Let a member of a replica set refuse earlier primaries, and print proof of that
    Fence(FenceArgs),
    /// Attach stores and set knobs as the files in /etc/ddup say
    Adjust(AdjustArgs),
    /// Print what happens to devices, as it happens
    Events(EventsArgs),
    /// Read all data of an attached store, tell what is bad, and heal what can be healed
    Scrub(ScrubArgs),
    /// Check a store, all of it, attached or not; nothing is written
    Check(CheckArgs),
    /// Show the superblocks, the journal and the maps of a store that is not attached
    Dump(DumpArgs),
    /// Tell a store from other devices, in the words of udev
    Probe(ProbeArgs),
}

/// How blocks are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fingerprint {
    /// A cryptographic hash; equal names are taken for equal content
    Blake2b,
    /// The same, another hash
    Sha256,
    /// A fast hash under a secret key; equal names are compared byte by byte
    Xxh64,
}

/// Arguments of `ddup format`.
#[derive(Args, Debug)]
#[command(after_help = "\
A device that is in use is refused, by force as well. One that holds something well known is \
refused unless forced. Whether a store is of a replica set is fixed when it is made; one that is to \
join begins with nothing but the set's volumes, and is sent the rest after `ddup peer add`.")]
pub struct FormatArgs {
    /// The block device or regular file that becomes a store, of 64 MiB at least
    pub store: PathBuf,
    /// Size of the volume, a multiple of 4096; without it that of the store's space for data
    #[arg(short, long, value_name = "SIZE", value_parser = volume_size)]
    pub size: Option<u64>,
    /// How blocks are named; without it xxh64, in a new replica set blake2b, and else as the set does
    #[arg(long, value_name = "HASH", value_enum)]
    pub fingerprint: Option<Fingerprint>,
    /// Size of the journal, 2M to 256M; without it 1/256 of the store within these bounds
    #[arg(long, value_name = "SIZE", value_parser = journal_size)]
    pub journal: Option<u64>,
    /// A name for the store, of 64 bytes at most
    #[arg(short, long, value_name = "NAME", value_parser = label, default_value = "", hide_default_value = true)]
    pub label: String,
    /// Begin a replica set, whose primary and only member the store is
    #[arg(long)]
    pub set: bool,
    /// Make a store that is to join a replica set: what `ddup set invite` printed, a file with that,
    /// or - for standard input
    #[arg(long, value_name = "INVITATION", conflicts_with_all = ["set", "size"])]
    pub replica_of: Option<String>,
    /// Also if the device holds something
    #[arg(short, long)]
    pub force: bool,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// Bytes of a block, as every size on disk is a multiple of it.
const BLOCK: u64 = 4096;
/// Largest volume.
const VOLUME_MAX: u64 = 4 << 50;

fn volume_size(text: &str) -> Result<u64, String> {
    let bytes = size::parse(text)?;
    if bytes == 0 || bytes % BLOCK != 0 {
        return Err(format!("{bytes} bytes are no positive multiple of {BLOCK}"));
    }
    if bytes > VOLUME_MAX {
        return Err("a volume has 4 PiB at most".to_owned());
    }
    Ok(bytes)
}

fn journal_size(text: &str) -> Result<u64, String> {
    let bytes = size::parse(text)?;
    if bytes % BLOCK != 0 || !((2 << 20)..=(256 << 20)).contains(&bytes) {
        return Err(format!(
            "{bytes} bytes are no multiple of {BLOCK} from 2 MiB to 256 MiB"
        ));
    }
    Ok(bytes)
}

fn label(text: &str) -> Result<String, String> {
    if text.len() > 64 {
        return Err(format!("{} bytes are more than 64", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err("a label has no control characters".to_owned());
    }
    Ok(text.to_owned())
}

/// Arguments of `ddup attach`.
#[derive(Args, Debug)]
#[command(after_help = "\
The path of the new block device is printed; of a store with several volumes that of the first, and \
the others get the lowest numbers that are free. A regular file gets a loop device, which goes \
when the store is detached.")]
pub struct AttachArgs {
    /// The store: a block device, or a regular file
    pub store: PathBuf,
    /// Write nothing to the store; the block device is read-only
    #[arg(short, long)]
    pub read_only: bool,
    /// N of /dev/ddupN; without it the lowest that is free
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(INDEX_MAX)))]
    pub number: Option<u32>,
    /// Most memory for cached pages of the trees, without it 64 MiB
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub cache: Option<u64>,
    /// Most memory for the index of fingerprints, without it 4 MiB for each GiB of the store up to 64
    /// MiB; with less, fewer duplicates are found
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub index: Option<u64>,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// Arguments of `ddup detach`.
#[derive(Args, Debug)]
#[command(after_help = "The devices of all volumes of a store go together.")]
pub struct DetachArgs {
    /// The device: /dev/ddupN, ddupN, or the path of its backing device or file
    #[arg(required_unless_present = "all", value_name = "DEVICE")]
    pub devices: Vec<PathBuf>,
    /// Detach all devices
    #[arg(short, long, conflicts_with = "devices")]
    pub all: bool,
    /// Also if a device is open: its users get I/O errors, and lose what they did not flush
    #[arg(short, long)]
    pub force: bool,
}

/// Arguments of `ddup list`.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// The device: /dev/ddupN, ddupN, or the path of its backing device or file; without it all
    #[arg(value_name = "DEVICE")]
    pub devices: Vec<PathBuf>,
    /// Columns to print, separated by commas
    #[arg(
        short,
        long,
        value_name = "COLUMN",
        value_delimiter = ',',
        ignore_case = true
    )]
    pub output: Vec<Column>,
    /// Print no line of column names
    #[arg(short, long)]
    pub noheadings: bool,
    /// Print sizes in bytes
    #[arg(short, long)]
    pub bytes: bool,
    /// Print JSON, always with all columns
    #[arg(short, long, conflicts_with_all = ["output", "noheadings", "bytes"])]
    pub json: bool,
}

/// Arguments of `ddup status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// The device: /dev/ddupN, ddupN, or the path of its backing device or file; without it all
    #[arg(value_name = "DEVICE")]
    pub devices: Vec<PathBuf>,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
    /// Print again every so many seconds, until interrupted
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub watch: Option<u32>,
}

/// Arguments of `ddup get`.
#[derive(Args, Debug)]
#[command(after_help = knob::help())]
pub struct GetArgs {
    /// The device: /dev/ddupN, ddupN, or the path of its backing device or file
    pub device: PathBuf,
    /// The knobs; without them all
    #[arg(value_name = "KNOB", value_parser = PossibleValuesParser::new(KNOBS.iter().map(Knob::name)), hide_possible_values = true)]
    pub knobs: Vec<String>,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// Arguments of `ddup set`.
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = format!("\
Nothing is changed if one of the values is out of range; the exit status is 2 then. What is set \
lasts until the device is detached.\n\n{}", knob::help()))]
pub struct SetArgs {
    /// What to do with a replica set
    #[command(subcommand)]
    pub verb: Option<SetVerb>,
    /// The device: /dev/ddupN, ddupN, or the path of its backing device or file
    #[arg(required = true)]
    pub device: Option<PathBuf>,
    /// A knob and its value: a number, or `default`
    #[arg(required = true, value_name = "KNOB=VALUE", value_parser = Setting::parse)]
    pub settings: Vec<Setting>,
}

/// Verbs about replica sets as a whole.
#[derive(Debug, Subcommand)]
pub enum SetVerb {
    /// Describe replica sets: role, configuration, members, their connections
    Show(SetShowArgs),
    /// Print what `ddup format --replica-of` makes a new member with
    Invite(SetInviteArgs),
    /// Let FLUSHes wait while fewer members than this are in sync
    MinInSync(SetMinInSyncArgs),
    /// Let FLUSHes that wait for members fail with an I/O error, and what waits for a lease
    FailFlushes(SetFailFlushesArgs),
    /// Bound the time in which a primary serves
    Lease(SetLeaseArgs),
}

/// Arguments of `ddup set lease`.
#[derive(Args, Debug)]
#[command(after_help = "\
For whoever decides which member is primary. When the lease is over, reads and writes wait and FLUSHes are \
not acknowledged, until there is another one: so nobody reads old data from a primary that is cut off, once \
its lease has ended and before another member is promoted. It holds for one version of the configuration; \
give one for the next version before that comes into force, and nothing waits. `ddup set fail-flushes` \
lets what waits fail.")]
pub struct SetLeaseArgs {
    /// A device of the primary: /dev/ddupN, ddupN, or the path of its backing device or file
    pub device: PathBuf,
    /// How long from now on, in seconds
    #[arg(value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400), required_unless_present = "none")]
    pub seconds: Option<u32>,
    /// It serves however late it is, as without a lease
    #[arg(long, conflicts_with = "seconds")]
    pub none: bool,
    /// Version of the configuration, the one in force if it is not given
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
    pub for_version: Option<u64>,
}

/// Arguments of `ddup set min-in-sync`.
#[derive(Args, Debug)]
#[command(after_help = "\
Run it on the machine of the primary. It is no number of acknowledgements: each FLUSH waits for all \
members in sync, and this keeps `ddup peer shrink` from leaving too few of them.")]
pub struct SetMinInSyncArgs {
    /// A device of the primary: /dev/ddupN, ddupN, or the path of its backing device or file
    pub device: PathBuf,
    /// Members in sync, the primary included
    #[arg(value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16))]
    pub least: u16,
}

/// Arguments of `ddup set show`.
#[derive(Args, Debug)]
pub struct SetShowArgs {
    /// A device of the store: /dev/ddupN, ddupN, or the path of its backing device or file; without
    /// it all that are in a replica set
    #[arg(value_name = "DEVICE")]
    pub devices: Vec<PathBuf>,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// Arguments of `ddup set invite`.
#[derive(Args, Debug)]
#[command(after_help = "\
The line says nothing of what is in the volumes, but the key of the checks. It is good until 32 more \
configurations were made.")]
pub struct SetInviteArgs {
    /// A device of the store: /dev/ddupN, ddupN, or the path of its backing device or file
    pub device: PathBuf,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// Arguments of `ddup set fail-flushes`.
#[derive(Args, Debug)]
#[command(after_help = "\
A demotion that waits fails as well. What was not flushed may be lost if another member is promoted; \
a file system will treat its disk as failed.")]
pub struct SetFailFlushesArgs {
    /// A device of the store: /dev/ddupN, ddupN, or the path of its backing device or file
    pub device: PathBuf,
}

/// Arguments of `ddup peer`.
#[derive(Args, Debug)]
pub struct PeerArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: PeerVerb,
}

/// Verbs about one other member.
#[derive(Debug, Subcommand)]
pub enum PeerVerb {
    /// Add a store as a member that follows and that nothing waits for; or one back that was out
    Add(PeerAddArgs),
    /// Wait until a member has all that is durable, and let each FLUSH wait for it from then on
    Join(PeerJoinArgs),
    /// Take a member out of those that each FLUSH waits for
    Shrink(PeerShrinkArgs),
    /// Remove a member that is not in sync
    Remove(PeerRemoveArgs),
    /// Give up what this store has and its primary has not
    Resolve(PeerResolveArgs),
    /// End the connection to a member; ddupd connects again
    Drop(PeerDropArgs),
    /// Compare what a member holds with what it should hold, and repair it
    Verify(PeerVerifyArgs),
    /// Connect two stores that are both attached here, for tests: ddupd connects those of machines
    Connect(PeerConnectArgs),
}

/// Arguments of `ddup peer add`.
#[derive(Args, Debug)]
#[command(after_help = "\
Run it on the machine of the primary. The new store is formatted with `ddup format --replica-of`, and \
sent all that is in the volumes once it is connected; `ddup peer join` makes it one in sync.")]
pub struct PeerAddArgs {
    /// A device of the primary: /dev/ddupN, ddupN, or the path of its backing device or file
    pub device: PathBuf,
    /// UUID of the store to add; or, if that is on this machine, its path
    #[arg(value_name = "STORE")]
    pub peer: String,
}

/// Arguments of `ddup peer join`.
#[derive(Args, Debug)]
#[command(after_help = "\
Run it on the machine of the primary. It may be interrupted and run again.")]
pub struct PeerJoinArgs {
    /// A device of the primary: /dev/ddupN, ddupN, or the path of its backing device or file
    pub device: PathBuf,
    /// The member: UUID of its store, the beginning of that, or a path on this machine
    pub peer: String,
    /// Give up after so many seconds
    #[arg(short, long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub timeout: Option<u32>,
}

/// Arguments of `ddup peer shrink`.
#[derive(Args, Debug)]
#[command(after_help = "\
Run it on the machine of the primary. A member that is left out could be promoted elsewhere; so it \
has to have stated that it was fenced, or you say that it will not go on by itself.")]
pub struct PeerShrinkArgs {
    /// A device of the primary: /dev/ddupN, ddupN, or the path of its backing device or file
    pub device: PathBuf,
    /// The member: UUID of its store, the beginning of that, or a path on this machine
    pub peer: String,
    /// Send it nothing any more; without it, it goes on to follow
    #[arg(long)]
    pub out: bool,
    /// What `ddup fence` printed on the machine of the member
    #[arg(long, value_name = "STATEMENT")]
    pub fenced: Option<Statement>,
    /// The member is off, or will not be promoted: you are sure of that
    #[arg(short, long, conflicts_with = "fenced")]
    pub force: bool,
}

/// Arguments of `ddup peer remove`.
#[derive(Args, Debug)]
#[command(after_help = "\
Run it on the machine of the primary, and only for a store that is not to come back: one whose set names \
no other member is primary by itself when it is attached.")]
pub struct PeerRemoveArgs {
    /// A device of the primary: /dev/ddupN, ddupN, or the path of its backing device or file
    pub device: PathBuf,
    /// The member: UUID of its store, the beginning of that, or a path on this machine
    pub peer: String,
}

/// Arguments of `ddup peer resolve`.
#[derive(Args, Debug)]
#[command(after_help = "\
Run it on the machine of the store that is to lose what it has on its own. The next session with the \
primary makes it equal to that.")]
pub struct PeerResolveArgs {
    /// A device of the store: /dev/ddupN, ddupN, or the path of its backing device or file
    pub device: PathBuf,
    /// What this store has on its own is lost: you are sure of that
    #[arg(long, required = true)]
    pub discard_local: bool,
}

/// Arguments of `ddup peer drop`.
#[derive(Args, Debug)]
pub struct PeerDropArgs {
    /// A device of the store: /dev/ddupN, ddupN, or the path of its backing device or file
    pub device: PathBuf,
    /// The member: UUID of its store, the beginning of that, or a path on this machine
    pub peer: String,
}

/// Arguments of `ddup peer verify`.
#[derive(Args, Debug)]
#[command(after_help = "\
Run it on the machine of the primary. What the member holds is compared with what it should hold at one \
position, by sums of ranges and then by check and digest of each block, while the volumes are in use; no \
data is read. Blocks that differ are printed, up to a bound, and the exit status is 8 if there are any, \
repaired or not. With --repair what each of them holds is recorded again, as a change of the set that \
goes to all members; those that were written meanwhile are on their way anyway. It goes on in the kernel \
if this command is interrupted; `ddup set show` says how far it is. It ends without a result if space \
runs short, or the connection is lost. The knob resync_tranquility says how much of the time it rests. \
`ddup scrub`, on the machine of the member, finds data that has rotted there.")]
pub struct PeerVerifyArgs {
    /// A device of the primary: /dev/ddupN, ddupN, or the path of its backing device or file
    pub device: PathBuf,
    /// The member: UUID of its store, the beginning of that, or a path on this machine
    pub peer: String,
    /// Repair what differs
    #[arg(long, conflicts_with = "stop")]
    pub repair: bool,
    /// Begin, and do not wait for the end
    #[arg(long, conflicts_with_all = ["stop", "json"])]
    pub no_wait: bool,
    /// End the one that goes on
    #[arg(long, conflicts_with = "json")]
    pub stop: bool,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// Arguments of `ddup peer connect`.
#[derive(Args, Debug)]
pub struct PeerConnectArgs {
    /// The stores are on this machine: connect them over TCP through its loopback device
    #[arg(long, required = true)]
    pub local: bool,
    /// A device of one store: /dev/ddupN, ddupN, or the path of its backing device or file
    pub device: PathBuf,
    /// A device of the other store
    pub other: PathBuf,
}

/// Arguments of `ddup promote`.
#[derive(Args, Debug)]
#[command(after_help = "\
The new primary takes requests when all members in sync have acknowledged its reign, for which they \
have to be connected. Demote the old primary first, so that nothing fails there. A member in sync that \
does not answer has to have stated that it was fenced. With --force nobody is waited for: what only \
others have is lost, and they join again afterwards.")]
pub struct PromoteArgs {
    /// A device of the store: /dev/ddupN, ddupN, or the path of its backing device or file
    pub device: PathBuf,
    /// What `ddup fence` printed on the machine of a member that is to be left out
    #[arg(long, value_name = "STATEMENT")]
    pub fenced: Vec<Statement>,
    /// All members that do not answer are off, and what this store lacks may be lost: you are sure
    #[arg(short, long, conflicts_with = "fenced")]
    pub force: bool,
    /// Wait so many seconds until it takes requests
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "60", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub wait: Option<u32>,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// Arguments of `ddup demote`.
#[derive(Args, Debug)]
#[command(after_help = "\
Refused while a device of the store is open. Waits until all members in sync have everything. With \
--force nothing is waited for: FLUSHes that wait fail.")]
pub struct DemoteArgs {
    /// A device of the store: /dev/ddupN, ddupN, or the path of its backing device or file
    pub device: PathBuf,
    /// Do not wait for members: what they have not acknowledged was not made durable
    #[arg(short, long)]
    pub force: bool,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// Arguments of `ddup fence`.
#[derive(Args, Debug)]
#[command(after_help = "\
The line that is printed is what --fenced takes. It tells for good that this store goes on with no \
primary of a lower term. Of the members that it is connected to, a primary stops as well.")]
pub struct FenceArgs {
    /// A device of the store: /dev/ddupN, ddupN, or the path of its backing device or file
    pub device: PathBuf,
    /// The lowest term that is still taken; without it one more than now
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub term: Option<u64>,
    /// Also if the store is primary: what uses its devices gets I/O errors
    #[arg(short, long)]
    pub force: bool,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// Arguments of `ddup create`.
#[derive(Args, Debug)]
#[command(after_help = "\
All volumes of a store share its space, and are attached and detached together. The primary of a \
replica set creates, resizes and removes volumes for all members.")]
pub struct CreateArgs {
    /// A device of the store: /dev/ddupN, ddupN, or the path of its backing device or file
    pub device: PathBuf,
    /// Size of the volume, a multiple of 4096
    #[arg(short, long, value_name = "SIZE", value_parser = volume_size)]
    pub size: u64,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// Arguments of `ddup resize`.
#[derive(Args, Debug)]
#[command(after_help = "\
The new size counts at once, and for good when the command ends. A file system on the volume is not \
changed: shrink it before the volume, grow it after. What was behind a new end is lost; its space comes \
back in the background, which is waited for unless --no-wait is given.")]
pub struct ResizeArgs {
    /// The device: /dev/ddupN or ddupN, or the path of its backing device or file if it has one volume
    pub device: PathBuf,
    /// Its new size, a multiple of 4096
    #[arg(value_parser = volume_size)]
    pub size: u64,
    /// Shrink it although it is open
    #[arg(short, long)]
    pub force: bool,
    /// Do not wait until the space behind a new end has come back
    #[arg(long)]
    pub no_wait: bool,
}

/// Arguments of `ddup remove`.
#[derive(Args, Debug)]
#[command(after_help = "\
The last volume of a store is not removed, nor one that is open. The space comes back in the \
background, also after another attach.")]
pub struct RemoveArgs {
    /// The device of the volume: /dev/ddupN or ddupN
    pub device: PathBuf,
}

/// Arguments of `ddup adjust`.
#[derive(Args, Debug)]
#[command(after_help = "\
Each file *.toml wants one device; its keys are `store`, `number`, `read-only`, `cache`, `index`, a \
table `knobs`, and for ddupd `set` and `peer`. What differs is printed in lines: `+` is attached, `~` is set, `-` is detached, `!` stays \
until the device is detached (exit status 5). If a file is wrong nothing is changed.")]
pub struct AdjustArgs {
    /// Files and folders that say what is wanted
    #[arg(value_name = "PATH", default_value = config::FOLDER)]
    pub config: Vec<PathBuf>,
    /// Show the difference and change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Also detach the devices that no file names, unless they are in use
    #[arg(long)]
    pub detach_others: bool,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// Arguments of `ddup events`.
#[derive(Args, Debug)]
#[command(after_help = "\
No event between the list of --existing and the first one printed is lost. Should events come \
faster than they are printed, a line `lost` says so, and the attached devices are listed anew.")]
pub struct EventsArgs {
    /// Print the attached devices first
    #[arg(short, long)]
    pub existing: bool,
    /// End after so many events
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Print one JSON object a line
    #[arg(short, long)]
    pub json: bool,
}

/// Arguments of `ddup scrub`.
#[derive(Args, Debug)]
#[command(after_help = "\
Every mapped block of all volumes of the store is read and held against its check, each cluster once, \
while the devices are in use. What is bad is fetched from another member of the replica set, if there \
is one that has it. Each block that stays bad is printed, and the exit status is 7 if there is any. It \
goes on in the kernel if this command is interrupted; `ddup status` says how far it is. The knob \
scrub_tranquility says how much of the time it rests. `ddup check` examines the metadata.")]
pub struct ScrubArgs {
    /// A device of the store: /dev/ddupN, ddupN, or the path of its backing device or file
    pub device: PathBuf,
    /// Begin, and do not wait for the end
    #[arg(long, conflicts_with_all = ["stop", "json"])]
    pub no_wait: bool,
    /// End the one that goes on
    #[arg(long, conflicts_with = "json")]
    pub stop: bool,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// Arguments of `ddup check`.
#[derive(Args, Debug)]
#[command(after_help = "\
Each thing that is wrong is printed in a line of its own, and the exit status is 7 if there is any. Of \
a store that is attached the last checkpoint is checked, while the device is in use; of one that is \
not, also whether the journal can be followed. Needs about five bytes of memory for each 4 KiB of the \
store.")]
pub struct CheckArgs {
    /// The store, or the device that it is attached as
    pub store: PathBuf,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// Arguments of `ddup dump`.
#[derive(Args, Debug)]
pub struct DumpArgs {
    /// The block device or regular file
    pub store: PathBuf,
    /// Also list the journal's blocks since the last checkpoint
    #[arg(long)]
    pub journal: bool,
    /// Also list the records of those blocks
    #[arg(long, requires = "journal")]
    pub records: bool,
    /// Also list where the blocks of volumes lie, as of the last checkpoint
    #[arg(long)]
    pub map: bool,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// Arguments of `ddup probe`.
#[derive(Args, Debug)]
#[command(after_help = "\
Prints ID_FS_TYPE=ddup, the UUID and the label as KEY=VALUE, for rules of udev. The exit status is 3 if \
it is no store. Reads two blocks, and disturbs nobody who uses the device.")]
pub struct ProbeArgs {
    /// The block device or regular file
    pub store: PathBuf,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// The whole command line, for what is generated from it.
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(arguments: &[&str]) -> String {
        let arguments = std::iter::once("ddup").chain(arguments.iter().copied());
        Cli::try_parse_from(arguments).unwrap_err().to_string()
    }

    #[test]
    fn the_definition_holds_together() {
        command().debug_assert();
    }

    #[test]
    fn sets_of_knobs_and_of_replicas_are_told_apart() {
        let parse = |words: &[&str]| {
            let words = std::iter::once("ddup").chain(words.iter().copied());
            match Cli::try_parse_from(words).unwrap().verb {
                Verb::Set(args) => args,
                verb => panic!("{verb:?}"),
            }
        };
        let knobs = parse(&["set", "ddup0", "gc_delay=1"]);
        assert!(knobs.verb.is_none() && knobs.device.is_some() && knobs.settings.len() == 1);
        let show = parse(&["set", "show"]);
        assert!(matches!(show.verb, Some(SetVerb::Show(_))) && show.device.is_none());
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (arguments, word) in [
            (&["format"][..], "STORE"),
            (&["format", "/dev/vdb", "--size", "0"], "positive"),
            (&["format", "/dev/vdb", "--size", "4095"], "multiple"),
            (&["format", "/dev/vdb", "--size", "5P"], "4 PiB"),
            (&["format", "/dev/vdb", "--journal", "1M"], "2 MiB"),
            (&["format", "/dev/vdb", "--label", "a\nb"], "control"),
            (&["format", "/dev/vdb", "--fingerprint", "md5"], "md5"),
            (&["attach"][..], "STORE"),
            (&["attach", "/dev/vdb", "--number", "65536"], "65536"),
            (&["attach", "/dev/vdb", "--number", "-1"], "-1"),
            (&["attach", "/dev/vdb", "--cache", "lots"], "lots"),
            (&["attach", "/dev/vdb", "--index", "16E"], "16E"),
            (&["detach"], "DEVICE"),
            (&["detach", "--all", "ddup0"], "--all"),
            (&["list", "-o", "colour"], "colour"),
            (&["list", "--json", "--bytes"], "--bytes"),
            (&["status", "--watch", "0"], "0"),
            (&["events", "--count", "0"], "0"),
            (&["get"], "DEVICE"),
            (&["get", "ddup0", "colour"], "colour"),
            (&["set", "ddup0"], "KNOB=VALUE"),
            (&["set", "ddup0", "gc_delay"], "KNOB=VALUE"),
            (&["set", "ddup0", "discard=2"], "0 to 1"),
            (&["set", "show", "--bytes"], "--bytes"),
            (&["set", "invite"], "DEVICE"),
            (&["set", "min-in-sync", "ddup0", "0"], "1..=16"),
            (&["set", "lease", "ddup0"], "SECONDS"),
            (&["set", "lease", "ddup0", "0"], "1..=86400"),
            (&["set", "lease", "ddup0", "5", "--none"], "--none"),
            (
                &["format", "/dev/vdb", "--set", "--replica-of", "x"],
                "--replica-of",
            ),
            (&["peer"], "add"),
            (&["peer", "add", "ddup0"], "STORE"),
            (&["peer", "resolve", "ddup0"], "--discard-local"),
            (&["peer", "verify", "ddup0"], "PEER"),
            (
                &["peer", "verify", "ddup0", "1234", "--stop", "--repair"],
                "--repair",
            ),
            (&["peer", "connect", "ddup0", "ddup1"], "--local"),
            (
                &["peer", "shrink", "ddup0", "1234", "--fenced", "x"],
                "ddup-fenced:",
            ),
            (&["promote"], "DEVICE"),
            (&["fence", "ddup0", "--term", "0"], "0"),
            (&["create", "ddup0"], "--size"),
            (&["create", "ddup0", "--size", "100"], "multiple"),
            (&["resize", "ddup0"], "SIZE"),
            (&["resize", "ddup0", "0"], "positive"),
            (&["resize", "ddup0", "5P"], "4 PiB"),
            (&["remove"], "DEVICE"),
            (&["scrub"], "DEVICE"),
            (&["scrub", "ddup0", "--stop", "--no-wait"], "--no-wait"),
            (&["check"], "STORE"),
            (&["dump", "/dev/vdb", "--records"], "--journal"),
            (&["frobnicate"], "frobnicate"),
        ] {
            let text = refused(arguments);
            assert!(text.contains(word), "{arguments:?}: {text}");
        }
    }
}
