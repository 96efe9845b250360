// SPDX-License-Identifier: GPL-2.0

//! Knobs of an attached device, over sysfs. What there is, and in which range, the engine's own
//! table says; the driver has the last word.

use crate::error::{Error, Exit, Result};
pub use ddup_engine::knob::{Knob, KNOBS};
use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

/// The knob of that name.
pub fn find(name: &str) -> Option<&'static Knob> {
    KNOBS.iter().find(|knob| knob.name() == name)
}

/// What a knob is to become.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The knob.
    pub knob: &'static Knob,
    /// Its value, within its range.
    pub value: u64,
}

impl PartialEq for Setting {
    fn eq(&self, other: &Self) -> bool {
        (self.knob.name, self.value) == (other.knob.name, other.value)
    }
}

impl Setting {
    /// A setting of a knob by its name.
    ///
    /// # Errors
    ///
    /// A sentence that names the knob, the value and the range.
    pub fn new(name: &str, value: u64) -> Result<Self, String> {
        let knob = find(name).ok_or_else(|| format!("there is no knob `{name}`: {}", names()))?;
        if !(knob.min..=knob.max).contains(&value) {
            return Err(refusal(knob, &value.to_string()));
        }
        Ok(Self { knob, value })
    }

    /// Reads `KNOB=VALUE`, where the value is a number or `default`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| format!("`{text}` is not of the form KNOB=VALUE"))?;
        let knob = find(name).ok_or_else(|| format!("there is no knob `{name}`: {}", names()))?;
        if value == "default" {
            return Self::new(name, knob.default());
        }
        // The parser would take a sign.
        if value.starts_with('+') {
            return Err(refusal(knob, value));
        }
        Self::new(name, value.parse().map_err(|_| refusal(knob, value))?)
    }
}

fn names() -> String {
    let names: Vec<_> = KNOBS.iter().map(Knob::name).collect();
    format!("there are {}", names.join(", "))
}

fn refusal(knob: &Knob, value: &str) -> String {
    format!("{} takes {}, not `{value}`", knob.name(), range(knob))
}

/// The range of a knob in words.
pub fn range(knob: &Knob) -> String {
    format!("{} to {} {}", knob.min, knob.max, knob.unit)
        .trim_end()
        .to_owned()
}

/// All knobs, for `--help` and the man pages.
pub fn help() -> String {
    let mut text = String::from("Knobs:");
    for knob in KNOBS {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n  {}: {} ({}, default {})",
            knob.name(),
            knob.about,
            range(knob),
            knob.default()
        );
    }
    text
}

/// The value of a knob of the device of that name.
pub fn read(device: &str, knob: &Knob) -> Result<u64> {
    let path = path(device, knob);
    let text = fs::read_to_string(&path).map_err(|error| failed("read", device, knob, &error))?;
    text.trim().parse().map_err(|_| {
        let words = format!("{} holds no number: {}", path.display(), text.trim());
        Error::new(Exit::Failed, words)
    })
}

/// Sets a knob of the device of that name.
pub fn write(device: &str, setting: &Setting) -> Result {
    fs::write(path(device, setting.knob), setting.value.to_string())
        .map_err(|error| failed("set", device, setting.knob, &error))
}

fn path(device: &str, knob: &Knob) -> PathBuf {
    let folder = Path::new("/sys/block").join(device).join("ddup");
    folder.join(knob.name())
}

fn failed(doing: &str, device: &str, knob: &Knob, error: &std::io::Error) -> Error {
    let name = knob.name();
    let error = Error::io(doing, Path::new(name), error);
    match error.exit {
        Exit::NotFound => Error::new(
            Exit::NotFound,
            format!("{device} has no {name}: it is gone, or its driver is of another version"),
        ),
        Exit::NotPermitted => error.context(format!("{device}: this needs root")),
        _ => error.context(device),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read() {
        for (text, name, value) in [
            ("commit_interval=1", "commit_interval", 1),
            ("commit_interval=default", "commit_interval", 1000),
            ("gc_delay=18446744073709551615", "gc_delay", u64::MAX),
            ("discard=1", "discard", 1),
        ] {
            assert_eq!(Setting::parse(text), Setting::new(name, value), "{text}");
        }
    }

    #[test]
    fn refusals_name_knob_value_and_range() {
        for (text, words) in [
            (
                "commit_interval=0",
                "commit_interval takes 1 to 3600000 ms, not `0`",
            ),
            ("discard=2", "discard takes 0 to 1, not `2`"),
            ("discard=+1", "discard takes 0 to 1, not `+1`"),
            ("discard=", "discard takes 0 to 1, not ``"),
            (
                "gc_delay=18446744073709551616",
                "not `18446744073709551616`",
            ),
            ("colour=1", "there is no knob `colour`: there are commit_"),
            ("discard", "`discard` is not of the form KNOB=VALUE"),
        ] {
            let text = Setting::parse(text).unwrap_err();
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn the_help_names_each_knob_with_its_range_and_default() {
        let help = help();
        for knob in KNOBS {
            let words = format!("({}, default {})", range(knob), knob.default());
            assert!(help.contains(knob.name()) && help.contains(&words));
        }
    }
}
