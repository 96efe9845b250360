// SPDX-License-Identifier: GPL-2.0

//! Metrics as OpenMetrics text, from what the driver says of its devices.

use crate::family::{Counters, Device, MetricKind, State};
use std::fmt::Write;

/// The media type of [`text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of the devices; None if the driver did not answer.
pub fn text(devices: Option<&[Device]>) -> String {
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
    text.push_str("# EOF\n");
    text
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
            let text = text(devices);
            let parsed = parse_openmetrics(&text).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
            assert_eq!(parsed.families.len(), families, "{text}");
        }
    }

    #[test]
    fn values_are_there_with_their_labels() {
        let text = text(Some(&[device(3, "/dev/vdb")]));
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
