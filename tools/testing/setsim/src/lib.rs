// SPDX-License-Identifier: GPL-2.0

//! A deterministic simulator of stores in a replica set: the real engine on disks that lose what was
//! not flushed, sessions that break, an operator who obeys the rules.
//!
//! `clustersim` proves the protocol over a naive store; this proves what lies between the protocol and
//! the disk. The oracle knows what was acknowledged and flushed, and what every store must hold at a
//! position.

mod miss;
pub mod node;
pub mod oracle;
mod verify;
pub mod world;

include!(concat!(env!("OUT_DIR"), "/names.rs"));
