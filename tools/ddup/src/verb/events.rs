// SPDX-License-Identifier: GPL-2.0

//! `ddup events`.

use super::print_json_line;
use crate::{
    cli::EventsArgs,
    error::{Error, Exit, Result},
    family::{
        format_uuid,
        set::{Place, SetEventKind, SetState},
        Device, Driver, Events, Incoming,
    },
    size,
};
use serde::Serialize;
use std::io::Write;

/// What is printed, one a line.
#[derive(Serialize)]
struct Line<'a> {
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(flatten)]
    device: Option<&'a Device>,
}

/// Which events are known already: those up to `seq` of one load of the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    instance: Option<u32>,
    seq: u64,
}

/// What to do with an event.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The list, or an earlier event, has it.
    Known,
    /// It is the next one.
    Next,
    /// Some before it were lost.
    Gap,
}

impl Seen {
    /// What a dump has seen: all of its messages are of one moment.
    fn by(devices: &[Device]) -> Option<Self> {
        let first = devices.first()?;
        Some(Self {
            instance: first.instance,
            seq: first.event_seq?,
        })
    }

    fn judge(&mut self, instance: Option<u32>, seq: Option<u64>) -> Verdict {
        let Some(seq) = seq else {
            return Verdict::Next;
        };
        // Before the first event and without a device to tell, anything is next.
        let fresh = self.instance.is_none();
        if !fresh && self.instance != instance {
            return Verdict::Gap;
        }
        if !fresh && seq <= self.seq {
            return Verdict::Known;
        }
        let verdict = if fresh || seq == self.seq + 1 {
            Verdict::Next
        } else {
            Verdict::Gap
        };
        *self = Self { instance, seq };
        verdict
    }
}

/// Follows the events.
pub fn run(args: &EventsArgs) -> Result {
    let doing = "cannot follow the events";
    let mut driver = Driver::connect().map_err(|error| error.context(doing))?;
    // Joined before the list is taken: what happens in between comes twice, and never not at all.
    let mut events = driver.subscribe().map_err(|error| error.context(doing))?;
    let mut seen = list(&mut driver, args.existing, args.json)?;
    let mut left = args.count;
    while left != Some(0) {
        if follow(&mut driver, &mut events, &mut seen, args.json)? {
            left = left.map(|left| left - 1);
        }
    }
    Ok(())
}

/// Handles what comes next; says whether it was an event that got printed.
fn follow(driver: &mut Driver, events: &mut Events, seen: &mut Seen, json: bool) -> Result<bool> {
    match events.wait()? {
        Incoming::Unloaded => Err(Error::new(
            Exit::NotLoaded,
            "the ddup driver was unloaded: no more events",
        )),
        Incoming::Lost => {
            *seen = relist(driver, json)?;
            Ok(false)
        }
        Incoming::Event(kind, device) => match seen.judge(device.instance, device.event_seq) {
            Verdict::Known => Ok(false),
            Verdict::Next => {
                print_line(kind.name(), Some(&device), json)?;
                Ok(true)
            }
            Verdict::Gap => {
                *seen = relist(driver, json)?;
                Ok(false)
            }
        },
        Incoming::Set(state) => match seen.judge(state.instance, state.event_seq) {
            Verdict::Known => Ok(false),
            Verdict::Next => {
                print_set(&state, json)?;
                Ok(true)
            }
            Verdict::Gap => {
                *seen = relist(driver, json)?;
                Ok(false)
            }
        },
    }
}

/// What happened to a replica set, for machines.
#[derive(Serialize)]
struct SetLine<'a> {
    event: &'static str,
    seq: Option<u64>,
    what: &'a str,
    index: u32,
    store_uuid: String,
    set_uuid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<Place>,
}

fn print_set(state: &SetState, json: bool) -> Result {
    if json {
        print_json_line(&SetLine {
            event: "set-changed",
            seq: state.event_seq,
            what: state.event.map_or("unknown", SetEventKind::name),
            index: state.index,
            store_uuid: format_uuid(&state.store),
            set_uuid: format_uuid(&state.set),
            peer: state.peer.as_ref().map(format_uuid),
            position: state.position.as_ref().map(Place::from),
        })?;
    } else {
        println!("{}", set_line(state));
    }
    let _ = std::io::stdout().flush();
    Ok(())
}

fn set_line(state: &SetState) -> String {
    let seq = state.event_seq.map(|seq| seq.to_string());
    let mut text = format!(
        "{:>6} {:<12} /dev/ddup{} set {}",
        seq.unwrap_or_default(),
        state.event.map_or("unknown", SetEventKind::name),
        state.index,
        format_uuid(&state.set)
    );
    if let Some(peer) = &state.peer {
        text.push_str(&format!(" peer {}", format_uuid(peer)));
    }
    if let Some(position) = &state.position {
        text.push_str(&format!(" epoch {}", position.epoch));
    }
    text
}

fn relist(driver: &mut Driver, json: bool) -> Result<Seen> {
    print_line("lost", None, json)?;
    list(driver, true, json)
}

fn list(driver: &mut Driver, print: bool, json: bool) -> Result<Seen> {
    let devices = driver.devices()?;
    if print {
        for device in &devices {
            print_line("existing", Some(device), json)?;
        }
    }
    Ok(Seen::by(&devices).unwrap_or_default())
}

fn print_line(event: &str, device: Option<&Device>, json: bool) -> Result {
    if json {
        print_json_line(&Line {
            event,
            seq: device.and_then(|device| device.event_seq),
            device,
        })?;
    } else {
        println!("{}", line(event, device));
    }
    // A reader behind a pipe shall not wait for the buffer to fill.
    let _ = std::io::stdout().flush();
    Ok(())
}

fn line(event: &str, device: Option<&Device>) -> String {
    let Some(device) = device else {
        return event.to_owned();
    };
    let seq = device
        .event_seq
        .map(|seq| seq.to_string())
        .unwrap_or_default();
    let mut text = format!(
        "{seq:>6} {event:<12} {} {}",
        device.node().display(),
        device.path
    );
    if let (None, Some(bytes)) = (device.state, device.size) {
        text.push_str(&format!(" {}", size::human(bytes)));
    }
    if let Some(offset) = device.offset {
        text.push_str(&format!(" at byte {offset}"));
    }
    if let (None, Some(scrub)) = (device.state, &device.scrub) {
        text.push_str(&format!(" {}", super::scrub::summary(scrub)));
    }
    if let Some(failure) = device.failure {
        text.push_str(&format!(" {}", failure.name()));
    }
    if let Some(message) = &device.message {
        text.push_str(&format!(": {message}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(instance: u32, seq: u64) -> Device {
        Device {
            instance: Some(instance),
            event_seq: Some(seq),
            ..Device::default()
        }
    }

    #[test]
    fn no_event_is_lost_or_repeated_after_the_list() {
        let mut seen = Seen::by(&[event(7, 4), event(7, 4)]).unwrap();
        assert_eq!(seen.judge(Some(7), Some(3)), Verdict::Known);
        assert_eq!(seen.judge(Some(7), Some(4)), Verdict::Known);
        assert_eq!(seen.judge(Some(7), Some(5)), Verdict::Next);
        assert_eq!(seen.judge(Some(7), Some(5)), Verdict::Known);
        assert_eq!(seen.judge(Some(7), Some(8)), Verdict::Gap);
        assert_eq!(seen.judge(Some(8), Some(9)), Verdict::Gap);
    }

    #[test]
    fn the_first_event_after_an_empty_list_is_next() {
        let mut seen = Seen::by(&[]).unwrap_or_default();
        assert_eq!(seen.judge(Some(7), Some(12)), Verdict::Next);
        assert_eq!(seen.judge(Some(7), Some(13)), Verdict::Next);
    }

    #[test]
    fn what_happens_to_a_set_is_told_in_one_line() {
        let state = SetState {
            index: 3,
            event: Some(SetEventKind::PeerUp),
            event_seq: Some(12),
            peer: Some([0x11; 16]),
            ..SetState::default()
        };
        assert_eq!(
            set_line(&state),
            "    12 peer-up      /dev/ddup3 set 00000000-0000-0000-0000-000000000000 \
             peer 11111111-1111-1111-1111-111111111111"
        );
    }

    #[test]
    fn what_a_scrub_finds_is_told_in_one_line() {
        let device = Device {
            name: "ddup2".into(),
            path: "/dev/vdb".into(),
            offset: Some(8192),
            ..event(1, 3)
        };
        assert_eq!(
            line("scrub-found", Some(&device)),
            "     3 scrub-found  /dev/ddup2 /dev/vdb at byte 8192"
        );
    }

    #[test]
    fn a_failure_is_told_in_one_line() {
        let device = Device {
            name: "ddup0".into(),
            path: "/dev/vdb".into(),
            failure: Some(crate::family::FailureReason::Damaged),
            message: Some("segment table".into()),
            ..event(1, 3)
        };
        assert_eq!(
            line("store-failed", Some(&device)),
            "     3 store-failed /dev/ddup0 /dev/vdb damaged: segment table"
        );
    }
}
