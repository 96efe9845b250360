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

/// Seeds of histories that have shown an error of the engine, or of this, which few show: a block that
/// the peer which was asked had nowhere and another heal had just brought; a scrub and a verify of
/// what has rotten on both sides; a verify that went on before; a cluster of a block that nobody had; a
/// replica that was taken for one that has lost what it acknowledged.
pub const SHOWN: &[u64] = &[5373, 1595, 217, 268, 858, 3776, 6037, 6821];

include!(concat!(env!("OUT_DIR"), "/names.rs"));
