// SPDX-License-Identifier: GPL-2.0

//! From what is wanted and what is there to what has to be done: a pure function.

use crate::{config::Wanted, family::Device, knob::Setting, size, target::is_sibling};
use serde::Serialize;
use std::fmt;

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A block device, by major and minor number.
    Block(u32, u32),
    /// A regular file, by device and inode number.
    File(u64, u64),
}

/// What is wanted, and what its path leads to now.
#[derive(Clone, Debug)]
pub struct Goal {
    /// As the file says.
    pub wanted: Wanted,
    /// None if the path leads nowhere.
    pub store: Option<Identity>,
}

/// A device that is attached.
#[derive(Clone, Debug)]
pub struct Present {
    /// As the driver describes it.
    pub device: Device,
    /// What is behind it: its backing device, and the file behind that.
    pub stores: Vec<Identity>,
    /// Its knobs.
    pub knobs: Vec<Setting>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step<'a> {
    /// Detach a device that no file names.
    Detach(&'a Device),
    /// Attach a store, then set its knobs.
    Attach(&'a Wanted),
    /// Set a knob of an attached device.
    Set {
        /// The device.
        device: &'a Device,
        /// The value that the knob has.
        from: u64,
        /// What it becomes.
        setting: Setting,
    },
}

/// A difference that only detaching can settle, which is left to the administrator.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict<'a> {
    /// The attached device.
    pub device: &'a Device,
    /// The file that wants it otherwise.
    pub wanted: &'a Wanted,
    /// The key of the file.
    pub key: &'static str,
    /// What it is.
    pub is: String,
    /// What it should be.
    pub should: String,
}

/// What has to be done, in this order, and what cannot be.
#[derive(Debug, Default, PartialEq)]
pub struct Plan<'a> {
    /// Steps.
    pub steps: Vec<Step<'a>>,
    /// Differences that stay.
    pub conflicts: Vec<Conflict<'a>>,
}

/// Plans how to come from `present` to `goals`. What no goal names is detached only if
/// `detach_others`, and stays as it is else.
pub fn plan<'a>(goals: &'a [Goal], present: &'a [Present], detach_others: bool) -> Plan<'a> {
    let mut plan = Plan::default();
    let named = |present: &Present| goals.iter().any(|goal| is_behind(goal, present));
    if detach_others {
        let others = present.iter().filter(|present| !named(present));
        for Present { device, .. } in others {
            let gone = |step: &Step<'_>| matches!(step, Step::Detach(d) if is_sibling(d, device));
            if !plan.steps.iter().any(gone) {
                plan.steps.push(Step::Detach(device));
            }
        }
    }
    for goal in goals {
        match present.iter().find(|present| is_behind(goal, present)) {
            None => plan.steps.push(Step::Attach(&goal.wanted)),
            Some(present) => {
                plan.conflicts
                    .extend(conflicts(&goal.wanted, &present.device));
                plan.steps.extend(changes(&goal.wanted, present));
            }
        }
    }
    plan
}

fn is_behind(goal: &Goal, present: &Present) -> bool {
    goal.store
        .is_some_and(|store| present.stores.contains(&store))
}

fn changes<'a>(wanted: &Wanted, present: &'a Present) -> Vec<Step<'a>> {
    let change = |setting: &Setting| {
        let is = present
            .knobs
            .iter()
            .find(|is| is.knob.name == setting.knob.name)?;
        (is.value != setting.value).then_some(Step::Set {
            device: &present.device,
            from: is.value,
            setting: *setting,
        })
    };
    wanted.knobs.iter().filter_map(change).collect()
}

fn conflicts<'a>(wanted: &'a Wanted, device: &'a Device) -> Vec<Conflict<'a>> {
    let mut found = Vec::new();
    let mut compare = |key, is: String, should: Option<String>| {
        if let Some(should) = should.filter(|should| *should != is) {
            found.push(Conflict {
                device,
                wanted,
                key,
                is,
                should,
            });
        }
    };
    let bytes = |bytes: Option<u64>| bytes.map(|bytes| bytes.to_string());
    compare(
        "number",
        device.index.to_string(),
        wanted.number.map(|number| number.to_string()),
    );
    compare(
        "read-only",
        device.read_only.to_string(),
        Some(wanted.read_only.to_string()),
    );
    for (key, is, should) in [
        ("cache", device.cache_bytes, wanted.cache),
        ("index", device.index_bytes, wanted.index),
    ] {
        if is.is_some() {
            compare(key, bytes(is).unwrap_or_default(), bytes(should));
        }
    }
    found
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Detach(device) => {
                write!(
                    f,
                    "- detach {} ({})",
                    device.node().display(),
                    device.backing()
                )
            }
            Step::Attach(wanted) => {
                write!(f, "+ attach {}", wanted.store.display())?;
                if let Some(number) = wanted.number {
                    write!(f, " as /dev/ddup{number}")?;
                }
                if wanted.read_only {
                    write!(f, ", read-only")?;
                }
                for (key, bytes) in [("cache", wanted.cache), ("index", wanted.index)] {
                    if let Some(bytes) = bytes {
                        write!(f, ", {key} {}", size::human(bytes))?;
                    }
                }
                for setting in &wanted.knobs {
                    write!(f, ", {} {}", setting.knob.name(), setting.value)?;
                }
                Ok(())
            }
            Step::Set {
                device,
                from,
                setting,
            } => write!(
                f,
                "~ {}: {} {from} -> {}",
                device.node().display(),
                setting.knob.name(),
                setting.value
            ),
        }
    }
}

impl fmt::Display for Conflict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "! {}: {} is {}, {} wants {}: detach it first",
            self.device.node().display(),
            self.key,
            self.is,
            self.wanted.file.display(),
            self.should
        )
    }
}

/// A plan for machines: the action, what it is about, and the line that people get.
#[derive(Serialize)]
pub struct Line {
    /// `attach`, `set`, `detach` or `conflict`.
    pub action: &'static str,
    /// The store that is to be attached, else the device.
    pub subject: String,
    /// All of it.
    pub text: String,
}

impl Plan<'_> {
    /// True if there is nothing to do and nothing that differs.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.conflicts.is_empty()
    }

    /// All of it as lines.
    pub fn lines(&self) -> Vec<Line> {
        let node = |device: &Device| device.node().display().to_string();
        let steps = self.steps.iter().map(|step| {
            let (action, subject) = match step {
                Step::Detach(device) => ("detach", node(device)),
                Step::Attach(wanted) => ("attach", wanted.store.display().to_string()),
                Step::Set { device, .. } => ("set", node(device)),
            };
            (action, subject, step.to_string())
        });
        let conflicts = self
            .conflicts
            .iter()
            .map(|conflict| ("conflict", node(conflict.device), conflict.to_string()));
        steps
            .chain(conflicts)
            .map(|(action, subject, text)| Line {
                action,
                subject,
                text,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use std::path::Path;

    fn goal(text: &str, store: Option<Identity>) -> Goal {
        Goal {
            wanted: config::parse(Path::new("/etc/ddup/a.toml"), text).unwrap(),
            store,
        }
    }

    fn present(index: u32, stores: &[Identity]) -> Present {
        Present {
            device: Device {
                index,
                name: format!("ddup{index}"),
                path: "/dev/vdb".into(),
                cache_bytes: Some(64 << 20),
                index_bytes: Some(64 << 20),
                ..Device::default()
            },
            stores: stores.to_vec(),
            knobs: vec![
                Setting::new("gc_delay", 30).unwrap(),
                Setting::new("discard", 0).unwrap(),
            ],
        }
    }

    fn told(goals: &[Goal], present: &[Present], detach_others: bool) -> Vec<String> {
        let plan = plan(goals, present, detach_others);
        let lines = plan.lines().into_iter().map(|line| line.text).collect();
        assert_eq!(plan.is_empty(), Vec::<String>::is_empty(&lines));
        lines
    }

    const VDB: Identity = Identity::Block(254, 16);
    const FILE: Identity = Identity::File(1, 99);

    #[test]
    fn what_is_not_there_is_attached() {
        let goals = [
            goal("store = '/dev/vdb'", Some(VDB)),
            goal(
                "store = '/nowhere'\nnumber = 7\nread-only = true\ncache = '8M'\n[knobs]\ngc_delay = 5",
                None,
            ),
        ];
        let wanted = [
            "+ attach /dev/vdb",
            "+ attach /nowhere as /dev/ddup7, read-only, cache 8.00M, gc_delay 5",
        ];
        assert_eq!(told(&goals, &[], false), wanted);
        // What is attached is something else.
        assert_eq!(told(&goals, &[present(0, &[FILE])], false), wanted);
    }

    #[test]
    fn what_is_there_is_left_alone() {
        let text = "store = '/dev/vdb'\nnumber = 0\ncache = '64M'\n[knobs]\ngc_delay = 30";
        let goals = [goal(text, Some(VDB))];
        assert!(told(&goals, &[present(0, &[VDB])], true).is_empty());
        assert!(told(&[], &[present(0, &[VDB])], false).is_empty());
    }

    #[test]
    fn a_file_is_known_behind_its_loop_device() {
        let behind = [Identity::Block(7, 0), FILE];
        for store in behind {
            let goals = [goal("store = '/srv/store'", Some(store))];
            assert!(told(&goals, &[present(3, &behind)], true).is_empty());
        }
    }

    #[test]
    fn knobs_that_differ_are_set_and_no_others() {
        let text = "store = '/dev/vdb'\n[knobs]\ngc_delay = 5\ndiscard = 0";
        assert_eq!(
            told(&[goal(text, Some(VDB))], &[present(2, &[VDB])], false),
            ["~ /dev/ddup2: gc_delay 30 -> 5"]
        );
    }

    #[test]
    fn what_needs_a_detach_is_told_and_not_done() {
        let text = "store = '/dev/vdb'\nnumber = 1\nread-only = true\nindex = '8M'";
        let goals = [goal(text, Some(VDB))];
        let present = [present(0, &[VDB])];
        assert_eq!(
            told(&goals, &present, true),
            [
                "! /dev/ddup0: number is 0, /etc/ddup/a.toml wants 1: detach it first",
                "! /dev/ddup0: read-only is false, /etc/ddup/a.toml wants true: detach it first",
                "! /dev/ddup0: index is 67108864, /etc/ddup/a.toml wants 8388608: detach it first",
            ]
        );
        assert!(plan(&goals, &present, true).steps.is_empty());
    }

    #[test]
    fn others_go_first_and_only_if_asked() {
        let goals = [goal("store = '/dev/vdc'\nnumber = 0", None)];
        let present = [present(0, &[VDB])];
        assert_eq!(
            told(&goals, &present, true),
            [
                "- detach /dev/ddup0 (/dev/vdb)",
                "+ attach /dev/vdc as /dev/ddup0"
            ]
        );
        assert_eq!(
            told(&goals, &present, false),
            ["+ attach /dev/vdc as /dev/ddup0"]
        );
    }
}
