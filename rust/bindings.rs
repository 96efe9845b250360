// SPDX-License-Identifier: GPL-2.0

//! Bindings to C: all that the kernel's own bindings have, and the `kstage_` helpers beside them.
//!
//! Types are the kernel's own, so that values pass freely between this crate and `kernel`.
//!
//! Upstream replacement: `kernel::bindings`.

#![allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    non_snake_case,
    improper_ctypes,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unnameable_types
)]

pub use kernel::bindings::*;

use kernel::ffi;

include!(env!("KSTAGE_BINDINGS"));
