// SPDX-License-Identifier: GPL-2.0
//! A workload that knows after a power cut what must be there, what may be there, and what must not.
//!
//! The workload is a pure function: operation `index` of a thread in a round follows from the seed
//! ([`plan`]), and so does the content of each version of each block. While it runs, only what was
//! acknowledged as durable is written down, on a disk that loses nothing ([`state`]). After a cut
//! [`verify`] replays the operations from the seed and knows for each block which versions are
//! allowed: the last one that was acknowledged as durable, and all that were issued later. Anything
//! else is a lost write, a torn block or somebody else's data.

pub mod plan;
pub mod run;
pub mod state;
pub mod target;
pub mod verify;

/// Bytes of a block: what is written whole or not at all.
pub const BLOCK: usize = 4096;
