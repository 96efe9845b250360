// SPDX-License-Identifier: GPL-2.0

//! The engine of ddup as a host crate.
//!
//! The sources are the driver's own, `drivers/block/ddup/engine/`: this crate adds nothing to them.
//! What they take from `kernel::prelude` comes from the crate of that name beside this one.

#![no_std]

#[path = "../../../drivers/block/ddup/engine/mod.rs"]
pub mod engine;

pub use engine::*;
