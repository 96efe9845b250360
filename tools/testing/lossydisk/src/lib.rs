// SPDX-License-Identifier: GPL-2.0
//! A disk with a volatile write cache, for power-cut tests.
//!
//! [`disk`] is the disk and what a power cut does to it; [`server`] exports it over NBD ([`nbd`]);
//! [`fault`] fails requests; [`logwrites`] reads and writes logs of all writes; [`stamp`] is a workload
//! that knows what must be there after a cut.

pub mod bytes;
pub mod disk;
pub mod extent;
pub mod fault;
pub mod file;
pub mod logwrites;
pub mod nbd;
pub mod rng;
pub mod scratch;
pub mod server;
pub mod stamp;
pub mod undo;
