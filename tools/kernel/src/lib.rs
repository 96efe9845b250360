// SPDX-License-Identifier: GPL-2.0

//! Host stand-in for the part of the kernel's `kernel` crate that an engine without I/O needs.
//!
//! The driver's engine uses nothing but `core` and `kernel::prelude`. In the module that is the
//! kernel's own crate; on the host (unit tests, simulator, fuzzers, the `ddup` command) it is this
//! one, which offers the same names, signatures and error types on top of `std`, as of Linux 7.2:
//!
//! - [`alloc`]: fallible [`Vec`](alloc::Vec) and [`Box`](alloc::Box) with their aliases. Growth
//!   follows the kernel's rule, so that a capacity which suffices here suffices there; `Kmalloc`
//!   refuses more than 4 MiB, as there;
//! - [`error`]: [`Error`](error::Error), [`Result`](error::Result) and the codes;
//! - [`init`]: values that are made in their place;
//! - the assertion macros of the prelude.
//!
//! What is missing here and exists there does not compile on the host; what is kept out on purpose
//! is everything that needs `unsafe` to be called.
//!
//! [`fail_alloc`] is the one addition: it makes allocations fail, and counts them. It is not in the
//! prelude, so that engine code cannot reach for it by accident.

#![deny(missing_docs)]

pub mod alloc;
pub mod build_assert;
pub mod error;
pub mod fail_alloc;
pub mod init;
pub mod prelude;
