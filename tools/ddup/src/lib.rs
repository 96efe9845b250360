// SPDX-License-Identifier: GPL-2.0

//! The `ddup` command and the daemon `ddupd`.
//!
//! [`cli`] says what the command line takes; help, man pages and completions all come from it.
//! [`verb`] has one file per verb. They speak with the driver through [`family`], which knows the
//! attributes of the generic netlink family and rests on [`netlink`], which knows the bytes. What
//! files want is in [`config`]; [`plan`] compares it with what is there, and [`adjust`] does it, for
//! the verb of that name and for the [`daemon`]. What needs `unsafe` is in [`sys`].

#![deny(unsafe_code, missing_docs)]

pub mod adjust;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod docs;
pub mod error;
pub mod family;
pub mod knob;
pub mod loopdev;
pub mod netlink;
pub mod plan;
pub mod probe;
pub mod replica;
pub mod size;
pub mod store;
#[expect(unsafe_code, reason = "ioctl has no safe form")]
pub mod sys;
pub mod table;
pub mod target;
pub mod verb;
