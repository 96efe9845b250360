// SPDX-License-Identifier: GPL-2.0

//! Metrics as OpenMetrics text, from what the driver says of its devices.

use crate::{
    family::{
        format_uuid,
        set::{member_state_name, Link, PeerState, Role, SetState},
        Counters, Device, MetricKind, Scrub, ScrubState, State,
    },
    verb::set::show,
};
use ddup_engine::engine::replication::config::MemberState;
use std::fmt::Write;

/// The media type of [`text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of the devices, and of replica sets; None if the driver did not answer.
pub fn text(devices: Option<&[Device]>, sets: &[SetState]) -> String {
    let mut text = String::new();
    let up = [(String::new(), u64::from(devices.is_some()))];
    family(
        &mut text,
        "ddup_up",
        "gauge",
        "Whether the driver answers.",
        &up,
    );
    let devices = devices.unwrap_or_default();
    let of_each = |value: &dyn Fn(&Device) -> Option<u64>| -> Vec<(String, u64)> {
        devices
            .iter()
            .filter_map(|device| Some((labels(device), value(device)?)))
            .collect()
    };
    let sizes = of_each(&|device| device.size);
    family(
        &mut text,
        "ddup_size_bytes",
        "gauge",
        "Size of the volume.",
        &sizes,
    );
    let states: Vec<_> = devices
        .iter()
        .flat_map(|device| {
            State::ALL.map(|state| {
                let labels = format!("{},ddup_state=\"{}\"", labels(device), state.name());
                (labels, u64::from(device.state == Some(state)))
            })
        })
        .collect();
    let about = "What the device does with requests.";
    family(&mut text, "ddup_state", "stateset", about, &states);
    for (at, (name, kind, about)) in Counters::METRICS.iter().enumerate() {
        let kind = match kind {
            MetricKind::Gauge => "gauge",
            MetricKind::Counter => "counter",
        };
        let values = of_each(&|device| device.counters.as_ref()?.values()[at]);
        family(&mut text, &format!("ddup_{name}"), kind, about, &values);
    }
    for (name, about, value) in OF_SCRUBS {
        let values = of_each(&|device| Some(value(device.scrub.as_ref()?)));
        family(&mut text, name, "gauge", about, &values);
    }
    set_families(&mut text, sets);
    text.push_str("# EOF\n");
    text
}

type OfScrub = fn(&Scrub) -> u64;

/// What is told of the scrub that goes on, or was the last one: name, meaning, value.
const OF_SCRUBS: [(&str, &str, OfScrub); 4] = [
    (
        "ddup_scrub_running",
        "Whether a scrub of the store goes on.",
        |scrub| u64::from(scrub.state == ScrubState::Running),
    ),
    (
        "ddup_scrub_checked_blocks",
        "Blocks that the last scrub has looked at.",
        |scrub| scrub.checked_blocks,
    ),
    (
        "ddup_scrub_bad_blocks",
        "Blocks that the last scrub found to be bad, and that stay so.",
        |scrub| scrub.bad_blocks,
    ),
    (
        "ddup_scrub_healed_blocks",
        "Blocks that the last scrub found to be bad, and that were stored anew.",
        |scrub| scrub.healed_blocks,
    ),
];

/// What is told of a store's part in its set, or of a peer: name, kind, meaning, value.
type Told<T> = (&'static str, &'static str, &'static str, T);
type OfSet = fn(&SetState) -> Option<u64>;
type OfPeer = fn(&SetState, &PeerState) -> Option<u64>;

fn set_families(text: &mut String, sets: &[SetState]) {
    let roles: Vec<_> = sets
        .iter()
        .flat_map(|set| {
            Role::ALL.iter().map(|role| {
                let labels = format!("{},ddup_set_role=\"{}\"", set_labels(set), role.name());
                (labels, u64::from(set.role == Some(*role)))
            })
        })
        .collect();
    let about = "What the store is in its replica set.";
    family(text, "ddup_set_role", "stateset", about, &roles);
    let of_sets: [Told<OfSet>; 9] = [
        (
            "ddup_set_version",
            "gauge",
            "Version of the configuration in force.",
            |set| Some(set.config.as_ref()?.version),
        ),
        (
            "ddup_set_term",
            "gauge",
            "Term of the configuration in force.",
            |set| Some(set.config.as_ref()?.term),
        ),
        (
            "ddup_set_promised_term",
            "gauge",
            "Lower terms are refused.",
            |set| set.promise,
        ),
        (
            "ddup_set_epoch",
            "gauge",
            "Last epoch of the durable history.",
            |set| Some(set.position?.epoch),
        ),
        (
            "ddup_set_in_sync_members",
            "gauge",
            "Members in sync, this store included.",
            |set| Some(set.config.as_ref()?.in_sync_count() as u64),
        ),
        (
            "ddup_set_waiting_flushes",
            "gauge",
            "FLUSHes that wait for members.",
            |set| set.waiting_flushes,
        ),
        (
            "ddup_set_refused_sessions",
            "counter",
            "Sessions ended for what came in them.",
            |set| set.refused_sessions,
        ),
        (
            "ddup_set_history_kept",
            "gauge",
            "1 if the history is kept until it is resolved.",
            |set| Some(set.history_kept.into()),
        ),
        (
            "ddup_set_lease_over",
            "gauge",
            "1 if the lease of this primary is over, 0 while it has one.",
            |set| set.lease_until.map(|_| set.lease_over.into()),
        ),
    ];
    for (name, kind, about, value) in of_sets {
        let samples: Vec<_> = sets
            .iter()
            .filter_map(|set| Some((set_labels(set), value(set)?)))
            .collect();
        family(text, name, kind, about, &samples);
    }
    peer_families(text, sets);
}

fn peer_families(text: &mut String, sets: &[SetState]) {
    let peers: Vec<_> = sets
        .iter()
        .flat_map(|set| set.peers.iter().map(move |peer| (set, peer)))
        .collect();
    let states = [MemberState::InSync, MemberState::Async, MemberState::Out];
    let mut samples = [Vec::new(), Vec::new()];
    for (set, peer) in &peers {
        let labels = peer_labels(set, peer);
        for state in states {
            let name = member_state_name(state);
            let labels = format!("{labels},ddup_peer_state=\"{name}\"");
            samples[0].push((labels, u64::from(peer.state == Some(state))));
        }
        for link in Link::ALL {
            let labels = format!("{labels},ddup_peer_link=\"{}\"", link.name());
            samples[1].push((labels, u64::from(peer.link == *link)));
        }
    }
    let about = "What the other member is in the configuration in force.";
    family(text, "ddup_peer_state", "stateset", about, &samples[0]);
    let about = "How far the connection to the other member is.";
    family(text, "ddup_peer_link", "stateset", about, &samples[1]);
    let of_peers: [Told<OfPeer>; 22] = [
        (
            "ddup_peer_acked_epoch",
            "gauge",
            "Last epoch that it acknowledged.",
            |_, peer| peer.acked_epoch,
        ),
        (
            "ddup_peer_lag_epochs",
            "gauge",
            "Epochs that it has not acknowledged.",
            |set, peer| show::lag(set, &peer.store),
        ),
        (
            "ddup_peer_lag_entries",
            "gauge",
            "Changes in memory that it has not acknowledged.",
            |_, peer| peer.lag_entries,
        ),
        (
            "ddup_peer_lag_bytes",
            "gauge",
            "Bytes of the blocks that changes in memory write which it has not acknowledged.",
            |_, peer| peer.lag_bytes,
        ),
        (
            "ddup_peer_lag_seconds",
            "gauge",
            "Time since the end of the oldest epoch that it has not acknowledged.",
            |_, peer| peer.lag_ms.map(|ms| ms / 1000),
        ),
        (
            "ddup_peer_compared_blocks",
            "gauge",
            "Blocks that are done of a compare under way.",
            |_, peer| peer.compared_blocks,
        ),
        (
            "ddup_peer_resumed_blocks",
            "gauge",
            "How many of them an earlier connection brought, if the compare goes on with that one's.",
            |_, peer| peer.resumed_blocks,
        ),
        (
            "ddup_peer_to_compare_blocks",
            "gauge",
            "Blocks of a compare under way, done or not.",
            |_, peer| peer.to_compare_blocks,
        ),
        (
            "ddup_peer_compare_since_epoch",
            "gauge",
            "Epoch behind which changes are told, if the compare under way is a diff.",
            |_, peer| peer.compare_since_epoch,
        ),
        (
            "ddup_peer_compare_left_seconds",
            "gauge",
            "About how long a compare under way still takes.",
            |_, peer| peer.compare_left_ms().map(|ms| ms.div_ceil(1000)),
        ),
        (
            "ddup_peer_verify_running",
            "gauge",
            "Whether a verify of it goes on.",
            |_, peer| {
                peer.verify
                    .as_ref()
                    .map(|verify| u64::from(verify.state.goes_on()))
            },
        ),
        (
            "ddup_peer_verify_compared_blocks",
            "gauge",
            "Blocks that the last verify of it has compared.",
            |_, peer| peer.verify.as_ref().map(|verify| verify.compared_blocks),
        ),
        (
            "ddup_peer_verify_differing_blocks",
            "gauge",
            "Blocks that the last verify of it found to differ.",
            |_, peer| peer.verify.as_ref().map(|verify| verify.differing_blocks),
        ),
        (
            "ddup_peer_verify_repaired_blocks",
            "gauge",
            "How many of them were repaired.",
            |_, peer| peer.verify.as_ref().map(|verify| verify.repaired_blocks),
        ),
        (
            "ddup_peer_told_blocks",
            "counter",
            "Blocks that hold data of which it was told, with their data or without.",
            |_, peer| peer.told_blocks,
        ),
        (
            "ddup_peer_merged_epochs",
            "counter",
            "Epochs that were merged with others for it since it was connected.",
            |_, peer| peer.merged_epochs,
        ),
        (
            "ddup_peer_sent_bytes",
            "counter",
            "Bytes sent to it since it was connected.",
            |_, peer| peer.sent_bytes,
        ),
        (
            "ddup_peer_sent_blocks",
            "counter",
            "Blocks of data among those sent.",
            |_, peer| peer.sent_blocks,
        ),
        (
            "ddup_peer_sent_uncompressed_bytes",
            "counter",
            "What the bytes sent would be if no block had been compressed.",
            |_, peer| peer.sent_uncompressed_bytes,
        ),
        (
            "ddup_peer_received_bytes",
            "counter",
            "Bytes that came since it was connected.",
            |_, peer| peer.received_bytes,
        ),
        (
            "ddup_peer_received_blocks",
            "counter",
            "Blocks of data among those that came.",
            |_, peer| peer.received_blocks,
        ),
        (
            "ddup_peer_received_uncompressed_bytes",
            "counter",
            "What the bytes that came would be if no block had been compressed.",
            |_, peer| peer.received_uncompressed_bytes,
        ),
    ];
    for (name, kind, about, value) in of_peers {
        let samples: Vec<_> = peers
            .iter()
            .filter_map(|(set, peer)| Some((peer_labels(set, peer), value(set, peer)?)))
            .collect();
        family(text, name, kind, about, &samples);
    }
}

fn set_labels(set: &SetState) -> String {
    format!(
        "device=\"ddup{}\",store=\"{}\",set=\"{}\"",
        set.index,
        format_uuid(&set.store),
        format_uuid(&set.set)
    )
}

fn peer_labels(set: &SetState, peer: &PeerState) -> String {
    format!("{},peer=\"{}\"", set_labels(set), format_uuid(&peer.store))
}

/// One family with its samples: labels and value. Nothing if there are none.
fn family(text: &mut String, name: &str, kind: &str, about: &str, samples: &[(String, u64)]) {
    if samples.is_empty() {
        return;
    }
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "# TYPE {name} {kind}\n# HELP {name} {}\n",
        escape(about)
    );
    let suffix = if kind == "counter" { "_total" } else { "" };
    for (labels, value) in samples {
        let _ = match labels.as_str() {
            "" => writeln!(text, "{name}{suffix} {value}"),
            _ => writeln!(text, "{name}{suffix}{{{labels}}} {value}"),
        };
    }
}

fn labels(device: &Device) -> String {
    format!(
        "device=\"{}\",store=\"{}\",backing=\"{}\"",
        escape(&device.name),
        escape(device.store_uuid.as_deref().unwrap_or_default()),
        escape(device.backing())
    )
}

/// Text as a value of a label, or as help.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::change;
    use ddup_engine::engine::replication::types::Position;
    use openmetrics_parser::openmetrics::parse_openmetrics;

    fn device(index: u32, path: &str) -> Device {
        Device {
            index,
            name: format!("ddup{index}"),
            path: path.to_owned(),
            size: Some(1 << 40),
            state: Some(State::Online),
            store_uuid: Some("00112233-4455-6677-8899-aabbccddeeff".into()),
            counters: Some(Counters {
                clusters: Some(262_144),
                written_blocks: Some(7),
                ..Counters::default()
            }),
            ..Device::default()
        }
    }

    #[test]
    fn a_parser_of_others_reads_it() {
        let devices = [device(0, "/dev/vdb"), device(1, "/srv/a \"b\"\\c\nd")];
        for (devices, families) in [
            (None, 1),
            (Some(&[][..]), 1),
            (Some(&devices[..1]), 5),
            (Some(&devices[..]), 5),
        ] {
            let text = text(devices, &[]);
            let parsed = parse_openmetrics(&text).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
            assert_eq!(parsed.families.len(), families, "{text}");
        }
    }

    #[test]
    fn a_set_and_each_of_its_peers_are_told() {
        let config = change::first([5; 16], [1; 16], [[2; 16], [3; 16]]).unwrap();
        let peer = PeerState {
            store: [9; 16],
            state: Some(MemberState::Async),
            link: Link::Connected,
            acked_epoch: Some(4),
            sent_bytes: Some(4096),
            compared_blocks: Some(300),
            resumed_blocks: Some(100),
            to_compare_blocks: Some(1200),
            compare_ms: Some(2500),
            compare_since_epoch: Some(6),
            ..PeerState::default()
        };
        let sets = [SetState {
            index: 3,
            store: [1; 16],
            set: [5; 16],
            role: Some(Role::Primary),
            config: Some(config),
            position: Some(Position {
                epoch: 7,
                ..Position::ZERO
            }),
            peers: vec![peer],
            ..SetState::default()
        }];
        let text = text(Some(&[]), &sets);
        parse_openmetrics(&text).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
        let set = set_labels(&sets[0]);
        let peer = peer_labels(&sets[0], &sets[0].peers[0]);
        for line in [
            format!("ddup_set_role{{{set},ddup_set_role=\"primary\"}} 1"),
            format!("ddup_set_role{{{set},ddup_set_role=\"replica\"}} 0"),
            format!("ddup_set_epoch{{{set}}} 7"),
            format!("ddup_set_in_sync_members{{{set}}} 1"),
            format!("ddup_peer_link{{{peer},ddup_peer_link=\"connected\"}} 1"),
            format!("ddup_peer_state{{{peer},ddup_peer_state=\"async\"}} 1"),
            format!("ddup_peer_lag_epochs{{{peer}}} 3"),
            format!("ddup_peer_sent_bytes_total{{{peer}}} 4096"),
            format!("ddup_peer_to_compare_blocks{{{peer}}} 1200"),
            format!("ddup_peer_resumed_blocks{{{peer}}} 100"),
            format!("ddup_peer_compare_left_seconds{{{peer}}} 12"),
            format!("ddup_peer_compare_since_epoch{{{peer}}} 6"),
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
    }

    #[test]
    fn values_are_there_with_their_labels() {
        let text = text(Some(&[device(3, "/dev/vdb")]), &[]);
        let labels =
            "device=\"ddup3\",store=\"00112233-4455-6677-8899-aabbccddeeff\",backing=\"/dev/vdb\"";
        for line in [
            "ddup_up 1".to_owned(),
            format!("ddup_clusters{{{labels}}} 262144"),
            format!("ddup_written_blocks_total{{{labels}}} 7"),
            format!("ddup_state{{{labels},ddup_state=\"online\"}} 1"),
            format!("ddup_state{{{labels},ddup_state=\"failed\"}} 0"),
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        // What the driver does not say is absent.
        assert!(!text.contains("ddup_collisions_total{"));
        assert!(text.ends_with("# EOF\n"));
    }
}
