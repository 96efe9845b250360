// SPDX-License-Identifier: GPL-2.0

//! `ddup set show`, and what `ddup status` says of replica sets.

use crate::{
    cli::SetShowArgs,
    error::{Error, Exit, Result},
    family::{
        format_uuid,
        set::{member_state_name, verify::Verify, Link, PeerState, Place, Role, SetState},
        Device, Driver,
    },
    size, sys, target,
    verb::{peer::verify, print_json},
};
use ddup_engine::engine::replication::types::Id;
use serde::Serialize;
use std::fmt::Write;

/// Bytes of a block.
const BLOCK: u64 = 4096;

#[derive(Serialize)]
struct Shown {
    sets: Vec<View>,
}

/// A store's part in its set, for people and machines.
#[derive(Serialize)]
pub struct View {
    /// A device of the store.
    pub device: String,
    /// The store.
    pub store_uuid: String,
    /// The set.
    pub set_uuid: String,
    /// What the store is in it.
    pub role: Option<Role>,
    /// Of the configuration in force.
    pub version: Option<u64>,
    /// The primary's.
    pub term: Option<u64>,
    /// Lower ones are refused.
    pub promise: Option<u64>,
    /// The primary by the configuration.
    pub primary: Option<String>,
    /// FLUSHes wait while fewer are in sync.
    pub min_insync: Option<u16>,
    /// The end of the history.
    pub position: Option<Place>,
    /// What all in sync have.
    pub committed: Option<Place>,
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
    /// Milliseconds until the lease of this primary is over, 0 from then on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// All members.
    pub members: Vec<MemberView>,
}

/// A member; what is of a connection is absent for the store itself.
#[derive(Serialize)]
pub struct MemberView {
    /// Its store.
    pub store_uuid: String,
    /// What it is in the configuration.
    pub state: &'static str,
    /// It is this store.
    pub own: bool,
    /// It is the primary by the configuration.
    pub primary: bool,
    /// How far the connection is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
    /// The last epoch that it acknowledged in this session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acked_epoch: Option<u64>,
    /// Epochs that are durable here and that it has not acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_epochs: Option<u64>,
    /// FLUSHes wait for it, though it is not in sync yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joining: Option<bool>,
    /// It may be committed as in sync.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joinable: Option<bool>,
    /// Bytes sent to it since it was connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_bytes: Option<u64>,
    /// Blocks of data among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_blocks: Option<u64>,
    /// What `sent_bytes` would be if no block had been compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_uncompressed_bytes: Option<u64>,
    /// Bytes that came from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_bytes: Option<u64>,
    /// Blocks of data among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_blocks: Option<u64>,
    /// What `received_bytes` would be if no block had been compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_uncompressed_bytes: Option<u64>,
    /// Bytes of blocks that it was told of and that were not sent, since it had what they hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saved_bytes: Option<u64>,
    /// Epochs that were merged with others for it: what was written again in them was not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merged_epochs: Option<u64>,
    /// Changes in memory that it has not acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_entries: Option<u64>,
    /// Bytes of the blocks that those write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,
    /// How long it has not acknowledged the oldest epoch that it lacks, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_ms: Option<u64>,
    /// The compare under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compare: Option<CompareView>,
    /// The verify that goes on, or was the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
}

/// How far a compare is.
#[derive(Serialize)]
pub struct CompareView {
    /// It is a diff, of what was changed behind this epoch. Else it is full, or has not begun yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_epoch: Option<u64>,
    /// Mapped blocks that are done; of a diff, all blocks.
    pub blocks: u64,
    /// How many of them an earlier connection brought, if it goes on with that one's compare.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed_blocks: Option<u64>,
    /// All that there are, once it is known in which state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of_blocks: Option<u64>,
    /// How much that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u64>,
    /// Milliseconds since it began.
    pub ms: u64,
    /// Milliseconds until it ends, if it goes on as it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
}

impl CompareView {
    fn of(peer: &PeerState) -> Option<Self> {
        Some(Self {
            since_epoch: peer.compare_since_epoch,
            blocks: peer.compared_blocks?,
            resumed_blocks: peer.resumed_blocks,
            of_blocks: peer.to_compare_blocks,
            percent: peer.compared_percent(),
            ms: peer.compare_ms?,
            left_ms: peer.compare_left_ms(),
        })
    }
}

impl View {
    /// What is known of a set.
    pub fn of(state: &SetState) -> Self {
        let config = state.config.as_ref();
        let members = config.iter().flat_map(|config| &config.members);
        Self {
            device: format!("/dev/ddup{}", state.index),
            store_uuid: format_uuid(&state.store),
            set_uuid: format_uuid(&state.set),
            role: state.role,
            version: config.map(|config| config.version).or(state.version),
            term: config.map(|config| config.term),
            promise: state.promise,
            primary: config.map(|config| format_uuid(&config.primary)),
            min_insync: config.map(|config| config.min_insync),
            position: state.position.as_ref().map(Place::from),
            committed: state.committed.as_ref().map(Place::from),
            waiting_flushes: state.waiting_flushes,
            window_entries: state.window_entries,
            applying: state.applying,
            refused_sessions: state.refused_sessions,
            history_kept: state.history_kept,
            lease_ms: state.lease_left_ms(sys::boottime_ms().ok()),
            members: members
                .map(|member| {
                    let peer = state.peer_state(&member.store);
                    MemberView {
                        store_uuid: format_uuid(&member.store),
                        state: member_state_name(member.state),
                        own: member.store == state.store,
                        primary: config.is_some_and(|config| config.primary == member.store),
                        link: peer.map(|peer| peer.link),
                        acked_epoch: peer.and_then(|peer| peer.acked_epoch),
                        lag_epochs: lag(state, &member.store),
                        joining: peer.map(|peer| peer.joining),
                        joinable: peer.map(|peer| peer.joinable.is_some()),
                        sent_bytes: peer.and_then(|peer| peer.sent_bytes),
                        sent_blocks: peer.and_then(|peer| peer.sent_blocks),
                        sent_uncompressed_bytes: peer.and_then(|peer| peer.sent_uncompressed_bytes),
                        received_bytes: peer.and_then(|peer| peer.received_bytes),
                        received_blocks: peer.and_then(|peer| peer.received_blocks),
                        received_uncompressed_bytes: peer
                            .and_then(|peer| peer.received_uncompressed_bytes),
                        saved_bytes: peer
                            .and_then(PeerState::saved_blocks)
                            .map(|blocks| blocks.saturating_mul(BLOCK)),
                        merged_epochs: peer.and_then(|peer| peer.merged_epochs),
                        lag_entries: peer.and_then(|peer| peer.lag_entries),
                        lag_bytes: peer.and_then(|peer| peer.lag_bytes),
                        lag_ms: peer.and_then(|peer| peer.lag_ms),
                        compare: peer.and_then(CompareView::of),
                        verify: peer.and_then(|peer| peer.verify.clone()),
                    }
                })
                .collect(),
        }
    }
}

/// How far a connected peer is behind a primary, in epochs.
pub fn lag(state: &SetState, store: &Id) -> Option<u64> {
    let peer = state.peer_state(store)?;
    let acked = peer
        .acked_epoch
        .filter(|_| state.rules() && peer.link == Link::Connected)?;
    Some(state.position?.epoch.saturating_sub(acked))
}

/// The sets of the stores that `devices` are of.
pub fn views(driver: &mut Driver, devices: &[Device]) -> Result<Vec<View>> {
    let is_meant = |state: &&SetState| {
        let store = format_uuid(&state.store);
        let mut of = devices.iter().map(|device| device.store_uuid.as_deref());
        of.any(|uuid| uuid == Some(store.as_str()))
    };
    Ok(driver
        .sets()?
        .iter()
        .filter(is_meant)
        .map(View::of)
        .collect())
}

/// Shows replica sets.
pub fn run(args: &SetShowArgs) -> Result {
    let sets = show(args).map_err(|error| error.context("cannot show replica sets"))?;
    if args.json {
        return print_json(&Shown { sets });
    }
    if sets.is_empty() {
        println!("No attached store is in a replica set.");
    }
    let texts: Vec<_> = sets.iter().map(describe).collect();
    print!("{}", texts.join("\n"));
    Ok(())
}

fn show(args: &SetShowArgs) -> Result<Vec<View>> {
    let mut driver = Driver::connect()?;
    let devices = target::choose(driver.devices()?, &args.devices)?;
    let sets = views(&mut driver, &devices)?;
    if let ([only], true) = (&devices[..], sets.is_empty() && !args.devices.is_empty()) {
        return Err(Error::new(
            Exit::NotFound,
            format!(
                "the store of {} is in no replica set",
                only.node().display()
            ),
        ));
    }
    Ok(sets)
}

/// A set as lines for a person.
pub fn describe(view: &View) -> String {
    let role = view.role.map_or("unknown", Role::name);
    let mut text = format!(
        "{} is {role} in replica set {}\n",
        view.device, view.set_uuid
    );
    for (label, value) in lines(view) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {label:<9} {value}");
    }
    for member in &view.members {
        let _ = writeln!(text, "  {:<9} {}", "member", describe_member(member));
    }
    text
}

fn lines(view: &View) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let number = |value: Option<u64>| value.map_or("?".to_owned(), |value| value.to_string());
    let mut config = format!(
        "version {}, term {}",
        number(view.version),
        number(view.term)
    );
    if view.promise > view.term {
        let _ = write!(config, ", fenced below term {}", number(view.promise));
    }
    if let Some(least) = view.min_insync.filter(|least| *least > 1) {
        let _ = write!(config, ", {least} in sync at least");
    }
    lines.push(("config", config));
    if let Some(position) = &view.position {
        let mut history = format!("epoch {} of term {}", position.epoch(), position.term());
        if let Some(committed) = view
            .committed
            .as_ref()
            .filter(|_| matches!(view.role, Some(Role::Primary | Role::Reconciling)))
        {
            let _ = write!(history, ", all in sync have {}", committed.epoch());
        }
        if view.history_kept {
            history.push_str(", kept until `ddup peer resolve`");
        }
        lines.push(("history", history));
    }
    match view.lease_ms {
        Some(0) => lines.push(("lease", "over: requests wait for another one".to_owned())),
        Some(left) => lines.push(("lease", format!("{} left", describe_time(left / 1000)))),
        None => {}
    }
    let waiting = [
        (view.waiting_flushes, "FLUSHes wait for members"),
        (view.window_entries, "changes in memory for peers"),
        (view.applying, "epochs being applied"),
        (view.refused_sessions, "sessions refused"),
    ]
    .iter()
    .filter_map(|(value, words)| {
        let value = value.filter(|value| *value > 0)?;
        Some(format!("{value} {words}"))
    })
    .collect::<Vec<_>>();
    if !waiting.is_empty() {
        lines.push(("work", waiting.join(", ")));
    }
    lines
}

fn describe_member(member: &MemberView) -> String {
    let mut phrases = vec![format!("{} {}", member.store_uuid, member.state)];
    if member.primary {
        phrases.push("primary".to_owned());
    }
    if member.own {
        phrases.push("this store".to_owned());
    }
    if let Some(link) = member.link {
        phrases.push(link.name().to_owned());
    }
    if member.joining == Some(true) {
        phrases.push("joining".to_owned());
    }
    if let Some(lag) = member.lag_epochs {
        phrases.push(format!("{lag} epochs behind"));
    }
    let waits = member
        .lag_ms
        .filter(|ms| *ms >= 1000 && member.lag_epochs > Some(0));
    if let (Some(ms), Some(entries)) = (waits, member.lag_entries) {
        let bytes = size::human(member.lag_bytes.unwrap_or(0));
        phrases.push(format!(
            "{entries} changes of {bytes} since {} s",
            ms / 1000
        ));
    }
    if let Some(compare) = &member.compare {
        phrases.push(describe_compare(compare));
    }
    if let Some(report) = &member.verify {
        phrases.push(verify::summary(report));
    }
    for (bytes, blocks, whole, word) in [
        (
            member.sent_bytes,
            member.sent_blocks,
            member.sent_uncompressed_bytes,
            "sent",
        ),
        (
            member.received_bytes,
            member.received_blocks,
            member.received_uncompressed_bytes,
            "received",
        ),
    ] {
        if let Some(bytes) = bytes.filter(|bytes| *bytes > 0) {
            let data = blocks.map_or(String::new(), |blocks| format!(" with {blocks} blocks"));
            let whole = whole
                .filter(|whole| *whole > bytes)
                .map_or(String::new(), |whole| {
                    format!(" compressed from {}", size::human(whole))
                });
            phrases.push(format!("{} {word}{data}{whole}", size::human(bytes)));
        }
    }
    if let Some(bytes) = member.saved_bytes.filter(|bytes| *bytes > 0) {
        phrases.push(format!("{} it had already", size::human(bytes)));
    }
    if let Some(epochs) = member.merged_epochs.filter(|epochs| *epochs > 0) {
        phrases.push(format!("{epochs} epochs merged"));
    }
    phrases.join(", ")
}

fn describe_compare(compare: &CompareView) -> String {
    let bytes = |blocks: u64| size::human(blocks.saturating_mul(BLOCK));
    let (Some(percent), Some(all)) = (compare.percent, compare.of_blocks) else {
        return "resync begins".to_owned();
    };
    let done = bytes(compare.blocks);
    let what = match compare.since_epoch {
        Some(_) => "resync of changes",
        None => "resync",
    };
    let mut text = format!("{what} {percent}%, {done} of {}", bytes(all));
    if let Some(blocks) = compare.resumed_blocks {
        let _ = write!(text, ", resumed at {}", bytes(blocks));
    }
    if let Some(left) = compare.left_ms {
        let _ = write!(text, ", {} left", describe_time(left.div_ceil(1000)));
    }
    text
}

/// Seconds as a person writes them, by the two largest units.
fn describe_time(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::change;
    use ddup_engine::engine::replication::types::Position;

    #[test]
    fn a_set_reads_as_a_person_would_write_it() {
        let config = change::first([5; 16], [1; 16], [[2; 16], [3; 16]]).unwrap();
        let mut state = SetState {
            index: 4,
            store: [1; 16],
            set: [5; 16],
            role: Some(Role::Primary),
            promise: Some(1),
            waiting_flushes: Some(2),
            position: Some(Position {
                term: 1,
                reign: [3; 16],
                epoch: 9,
                chain: 1,
            }),
            committed: Some(Position {
                epoch: 8,
                ..Position::ZERO
            }),
            config: Some(config),
            ..SetState::default()
        };
        let next = change::add(
            &change::Base::new(&state, [[6; 16], [7; 16]]).unwrap(),
            &[0x0b; 16],
        );
        state.config = Some(next.unwrap());
        state.peers = vec![PeerState {
            store: [0x0b; 16],
            link: Link::Connected,
            acked_epoch: Some(7),
            sent_bytes: Some(1 << 20),
            sent_blocks: Some(200),
            sent_uncompressed_bytes: Some(3 << 20),
            received_bytes: Some(0),
            told_blocks: Some(456),
            merged_epochs: Some(31),
            lag_entries: Some(12),
            lag_bytes: Some(40 << 10),
            lag_ms: Some(3400),
            compared_blocks: Some(250),
            to_compare_blocks: Some(1000),
            compare_ms: Some(27_000),
            ..PeerState::default()
        }];
        assert_eq!(
            describe(&View::of(&state)),
            "\
/dev/ddup4 is primary in replica set 05050505-0505-0505-0505-050505050505
  config    version 2, term 1
  history   epoch 9 of term 1, all in sync have 8
  work      2 FLUSHes wait for members
  member    01010101-0101-0101-0101-010101010101 in-sync, primary, this store
  member    0b0b0b0b-0b0b-0b0b-0b0b-0b0b0b0b0b0b async, connected, 2 epochs behind, \
12 changes of 40.0K since 3 s, resync 25%, 1000K of 3.91M, 1m21s left, 1.00M sent with 200 blocks compressed from 3.00M, \
1.00M it had already, 31 epochs merged
"
        );
    }

    #[test]
    fn a_resync_is_told_as_far_as_it_is_known() {
        let mut peer = PeerState {
            compared_blocks: Some(0),
            compare_ms: Some(0),
            ..PeerState::default()
        };
        let told = |peer: &PeerState| CompareView::of(peer).map(|view| describe_compare(&view));
        assert_eq!(told(&PeerState::default()), None);
        assert_eq!(told(&peer).as_deref(), Some("resync begins"));
        peer.to_compare_blocks = Some(512);
        assert_eq!(told(&peer).as_deref(), Some("resync 0%, 0B of 2.00M"));
        (peer.compared_blocks, peer.compare_ms) = (Some(256), Some(1500));
        assert_eq!(told(&peer).as_deref(), Some("resync 50%, 1.00M of 2.00M"));
        peer.compare_ms = Some(2000);
        assert_eq!(
            told(&peer).as_deref(),
            Some("resync 50%, 1.00M of 2.00M, 2s left")
        );
        (peer.compare_since_epoch, peer.compare_ms) = (Some(7), Some(0));
        assert_eq!(
            told(&peer).as_deref(),
            Some("resync of changes 50%, 1.00M of 2.00M")
        );
        peer.resumed_blocks = Some(128);
        assert_eq!(
            told(&peer).as_deref(),
            Some("resync of changes 50%, 1.00M of 2.00M, resumed at 512K")
        );
    }

    #[test]
    fn a_time_has_its_two_largest_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (80, "1m20s"),
            (3600, "1h00m"),
            (86399, "23h59m"),
            (90_000, "1d01h"),
        ] {
            assert_eq!(describe_time(seconds), text);
        }
    }
}
