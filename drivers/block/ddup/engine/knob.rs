// SPDX-License-Identifier: GPL-2.0

//! The knobs by name: the one table from which sysfs, `ddup get`, `ddup set` and their help know
//! what there is, in which unit and range.
//!
//! A new knob is a field of [`Knobs`] with its default, and one line of [`KNOBS`].

use super::Knobs;
use core::ffi::CStr;

/// One knob. Its value outside of the engine is a number, 0 or 1 for a switch.
#[derive(Debug)]
pub struct Knob {
    /// Its name: that of the field and of the file in sysfs.
    pub name: &'static CStr,
    /// What is counted: `ms`, `s`, `clusters`, `times`; empty for a switch.
    pub unit: &'static str,
    /// Least value that is taken.
    pub min: u64,
    /// Largest value that is taken.
    pub max: u64,
    /// What it does, in one phrase.
    pub about: &'static str,
    get: fn(&Knobs) -> u64,
    set: fn(&mut Knobs, u64),
}

impl Knob {
    /// The name as text.
    pub fn name(&self) -> &'static str {
        self.name.to_str().unwrap_or_default()
    }

    /// Its value.
    pub fn get(&self, knobs: &Knobs) -> u64 {
        (self.get)(knobs)
    }

    /// Its value at attach.
    pub fn default(&self) -> u64 {
        self.get(&Knobs::default())
    }

    /// Sets it. False, and nothing is changed, if the value is out of range.
    pub fn set(&self, knobs: &mut Knobs, value: u64) -> bool {
        let in_range = (self.min..=self.max).contains(&value);

        if in_range {
            (self.set)(knobs, value);
        }
        in_range
    }
}

/// What a knob's field may be.
trait Value: Copy {
    fn to_number(self) -> u64;
    fn from_number(number: u64) -> Self;
}

impl Value for u64 {
    fn to_number(self) -> u64 {
        self
    }

    fn from_number(number: u64) -> u64 {
        number
    }
}

impl Value for bool {
    fn to_number(self) -> u64 {
        self.into()
    }

    fn from_number(number: u64) -> bool {
        number != 0
    }
}

macro_rules! knob {
    ($name:ident, $unit:literal, $min:expr, $max:expr, $about:literal) => {
        Knob {
            name: match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => c"",
            },
            unit: $unit,
            min: $min,
            max: $max,
            about: $about,
            get: |knobs| knobs.$name.to_number(),
            set: |knobs, value| knobs.$name = Value::from_number(value),
        }
    };
}

/// All knobs, in the order in which they are shown.
#[rustfmt::skip]
pub const KNOBS: &[Knob] = &[
    knob!(commit_interval, "ms", 1, 3_600_000, "plain writes are made durable after this"),
    knob!(checkpoint_interval, "ms", 1, 86_400_000, "changes are checkpointed after this at the latest"),
    knob!(gc_delay, "s", 0, u64::MAX, "released clusters stay junk for this time, unless space is short"),
    knob!(keep_erased, "clusters", 0, u64::MAX, "junk is retired while fewer than this are ready to be written"),
    knob!(tranquility, "times", 0, 1000, "the recycler rests so many times as long as it worked, unless space is short"),
    knob!(scrub_tranquility, "times", 0, 1000, "a scrub rests so many times as long as it read"),
    knob!(resync_tranquility, "times", 0, 1000, "a primary that compares a peer in full rests so many times as long as that took, while it serves requests"),
    knob!(compress_wire, "", 0, 1, "blocks that go to peers are compressed, where that makes them shorter"),
    knob!(wait_for_space, "", 0, 1, "writes that find no space wait for some instead of failing"),
    knob!(discard, "", 0, 1, "retired clusters are discarded on the backing device"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_knob_takes_its_range_and_no_more() {
        for knob in KNOBS {
            let mut knobs = Knobs::default();

            assert!((knob.min..=knob.max).contains(&knob.default()));
            for value in [knob.min, knob.max, knob.default()] {
                assert!(knob.set(&mut knobs, value));
                assert_eq!(knob.get(&knobs), value);
            }
            let beyond = [knob.min.checked_sub(1), knob.max.checked_add(1)];
            for value in beyond.into_iter().flatten() {
                assert!(!knob.set(&mut knobs, value));
                assert_eq!(knob.get(&knobs), knob.default());
            }
        }
    }

    #[test]
    fn names_are_the_fields_and_differ() {
        for (i, knob) in KNOBS.iter().enumerate() {
            assert!(!knob.name().is_empty());
            assert!(KNOBS[..i].iter().all(|other| other.name != knob.name));
        }
    }
}
