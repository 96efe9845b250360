// SPDX-License-Identifier: GPL-2.0

//! Safe kernel abstractions that the `kernel` crate lacks, one module per C subsystem.
//!
//! This is a staging crate: each module is named as upstream would name it and says at its top
//! which upstream abstraction would replace it. It knows nothing of the driver that uses it, and
//! it is the only place of the module with `unsafe` code.
//!
//! Contexts are written as in C documentation: "may sleep", "any context" (down to hard irq).

pub mod bindings;
pub mod block;
pub mod cpu;
pub mod debugfs;
pub mod genetlink;
pub mod hash;
pub mod kthread;
pub mod llist;
pub mod lz4;
pub mod mm;
pub mod page_pool;
pub mod random;
pub mod socket;
pub mod sync;
pub mod sysfs;
pub mod time;
pub mod tracepoint;
pub mod workqueue;

/// Prefix of log messages that this crate prints.
const __LOG_PREFIX: &[u8] = b"ddup\0";

/// The owner of everything that this crate registers with the kernel: the module it is linked in.
///
/// Replaced upstream by `kernel::ThisModule`, once abstractions take it as an argument.
pub(crate) const fn this_module() -> *mut kernel::bindings::module {
    extern "C" {
        // The module loader's object, which modpost defines for every module; only its address is
        // used.
        static mut __this_module: u8;
    }

    (&raw mut __this_module).cast()
}
