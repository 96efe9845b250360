// SPDX-License-Identifier: GPL-2.0

//! `ddup status`.

use super::{
    print_json,
    set::show::{self, View},
};
use crate::{
    cli::StatusArgs,
    error::Result,
    family::{Counters, Device, Driver},
    size, target,
};
use serde::Serialize;
use std::{fmt::Write, io::IsTerminal, thread, time::Duration};

#[derive(Serialize)]
struct Status<'a> {
    devices: &'a [Device],
    sets: &'a [View],
}

/// Describes devices, once or again and again.
pub fn run(args: &StatusArgs) -> Result {
    let doing = "cannot tell the status";
    let mut driver = Driver::connect().map_err(|error| error.context(doing))?;
    loop {
        let devices = driver
            .devices()
            .and_then(|devices| target::choose(devices, &args.devices))
            .map_err(|error| error.context(doing))?;
        if args.watch.is_some() && !args.json && std::io::stdout().is_terminal() {
            // Clear the screen and go to its upper left corner.
            print!("\x1b[H\x1b[2J");
        }
        let sets = show::views(&mut driver, &devices).map_err(|error| error.context(doing))?;
        if args.json {
            print_json(&Status {
                devices: &devices,
                sets: &sets,
            })?;
        } else if devices.is_empty() {
            println!("No device is attached.");
        } else {
            let devices = devices.iter().map(describe);
            let texts: Vec<_> = devices.chain(sets.iter().map(show::describe)).collect();
            print!("{}", texts.join("\n"));
        }
        let Some(seconds) = args.watch else {
            return Ok(());
        };
        thread::sleep(Duration::from_secs(seconds.into()));
    }
}

/// A device as lines for a person.
fn describe(device: &Device) -> String {
    let mut text = format!("{} on {}\n", device.node().display(), device.path);
    if let Some(file) = &device.file {
        text.insert_str(text.len() - 1, &format!(" ({file})"));
    }
    let mut line = |label: &str, value: String| {
        if !value.is_empty() {
            // Writing to a string does not fail.
            let _ = writeln!(text, "  {label:<10}{value}");
        }
    };
    if let Some(state) = device.state {
        let mut value = state.name().to_owned();
        if let Some(failure) = device.failure {
            let _ = write!(value, ", {}", failure.name());
        }
        if let Some(message) = &device.message {
            let _ = write!(value, ": {message}");
        }
        line("state", value);
    }
    if let Some(check) = &device.check {
        let state = if check.done {
            "the last one"
        } else {
            "goes on"
        };
        line(
            "check",
            format!(
                "{state}: {} pages examined, {} findings",
                check.pages, check.findings
            ),
        );
    }
    if let Some(scrub) = &device.scrub {
        line("scrub", super::scrub::summary(scrub));
    }
    line("store", device.store_uuid.clone().unwrap_or_default());
    let mut volume = String::new();
    if let Some(bytes) = device.size {
        let _ = write!(volume, "{}", size::human(bytes));
    }
    if let Some(number) = device.volume {
        let _ = write!(volume, ", number {number}");
    }
    if let Some(uuid) = &device.volume_uuid {
        let _ = write!(volume, ", {uuid}");
    }
    if let Some(bytes) = device.releasing_bytes {
        let _ = write!(
            volume,
            ", {} behind its end are released",
            size::human(bytes)
        );
    }
    line("volume", volume);
    if let Some(counters) = &device.counters {
        for (label, value) in describe_counters(counters) {
            line(label, value);
        }
    }
    text
}

/// A list of what is known, separated by commas.
struct Phrases(Vec<String>);

impl Phrases {
    fn clusters(&mut self, value: Option<u64>, words: &str) {
        if let Some(value) = value {
            let bytes = size::human(value.saturating_mul(4096));
            self.0.push(format!("{bytes} {words}"));
        }
    }

    fn bytes(&mut self, value: Option<u64>, words: &str) {
        if let Some(value) = value {
            self.0.push(format!("{} {words}", size::human(value)));
        }
    }

    fn number(&mut self, value: Option<u64>, words: &str) {
        if let Some(value) = value {
            self.0.push(format!("{value} {words}"));
        }
    }

    /// A count of what should not happen: only said if it did.
    fn trouble(&mut self, value: Option<u64>, words: &str) {
        self.number(value.filter(|value| *value > 0), words);
    }
}

/// Clusters that are not for data.
fn metadata(c: &Counters) -> Option<u64> {
    Some(c.fixed_clusters?.saturating_add(c.metadata_clusters?))
}

fn describe_counters(c: &Counters) -> Vec<(&'static str, String)> {
    let phrases = |fill: &dyn Fn(&mut Phrases)| {
        let mut phrases = Phrases(Vec::new());
        fill(&mut phrases);
        phrases.0.join(", ")
    };
    vec![
        (
            "data",
            phrases(&|p| {
                p.clusters(c.mapped_blocks, "mapped");
                p.clusters(c.live_clusters, "stored");
                if let Some(percent) = c.saved_percent() {
                    p.0.push(format!("{percent:.1}% saved (at the last checkpoint)"));
                }
            }),
        ),
        (
            "space",
            phrases(&|p| {
                p.clusters(c.clusters, "in all");
                p.clusters(c.used_clusters(), "data");
                p.clusters(c.junk_clusters, "junk");
                p.clusters(c.available_clusters, "available");
                p.clusters(metadata(c), "metadata");
            }),
        ),
        (
            "written",
            phrases(&|p| {
                p.clusters(c.written_blocks, "in all");
                p.clusters(c.duplicate_blocks, "duplicate");
                p.clusters(c.zero_blocks, "zero");
                p.clusters(c.discarded_blocks, "discarded");
            }),
        ),
        ("read", phrases(&|p| p.clusters(c.read_blocks, "in all"))),
        (
            "journal",
            phrases(&|p| {
                p.bytes(c.journal_size, "in all");
                p.bytes(c.journal_bytes, "used");
                p.number(c.flushes, "flushes");
                p.number(c.commits, "blocks written");
                p.number(c.checkpoints, "checkpoints");
            }),
        ),
        (
            "memory",
            phrases(&|p| {
                p.clusters(c.cached_pages, "of pages");
                p.number(c.waiting_changes, "changes for the next checkpoint");
                p.number(c.index_entries, "fingerprints");
                p.number(c.index_limit, "fit");
            }),
        ),
        (
            "trouble",
            phrases(&|p| {
                p.trouble(c.write_retries, "writes failed and were tried elsewhere");
                p.trouble(c.lost_blocks, "acknowledged blocks lost");
                p.trouble(c.check_errors, "reads that did not match their check");
                p.trouble(c.quarantined_clusters, "clusters quarantined");
                p.trouble(c.healed_blocks, "blocks healed");
                p.trouble(c.failed_heals, "blocks not healed");
                p.trouble(c.no_space, "requests without space");
                p.trouble(c.collisions, "collisions");
            }),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::{FailureReason, State};

    #[test]
    fn a_status_reads_as_a_person_would_write_it() {
        let device = Device {
            name: "ddup0".into(),
            path: "/dev/vdb".into(),
            size: Some(1 << 40),
            volume: Some(1),
            state: Some(State::Failed),
            failure: Some(FailureReason::DeviceGone),
            message: Some("/dev/vdb was removed".into()),
            store_uuid: Some("00112233-4455-6677-8899-aabbccddeeff".into()),
            counters: Some(Counters {
                mapped_blocks: Some(4096),
                live_clusters: Some(1024),
                clusters: Some(262_144),
                check_errors: Some(0),
                write_retries: Some(3),
                ..Counters::default()
            }),
            ..Device::default()
        };
        assert_eq!(
            describe(&device),
            "\
/dev/ddup0 on /dev/vdb
  state     failed, device-gone: /dev/vdb was removed
  store     00112233-4455-6677-8899-aabbccddeeff
  volume    1.00T, number 1
  data      16.0M mapped, 4.00M stored, 75.0% saved (at the last checkpoint)
  space     1.00G in all
  trouble   3 writes failed and were tried elsewhere
"
        );
    }
}
