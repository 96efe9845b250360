// SPDX-License-Identifier: GPL-2.0

//! The time since boot, as a number. Any context but NMI.
//!
//! C header: `include/linux/timekeeping.h`.
//! Upstream replacement: `kernel::time::Instant<BootTime>`, once it tells its nanoseconds.

use crate::bindings;

/// Milliseconds since boot, those in which the machine slept included.
pub fn boottime_ms() -> u64 {
    // SAFETY: No preconditions outside of NMI context.
    let nanoseconds = unsafe { bindings::ktime_get_boottime() };

    u64::try_from(nanoseconds / 1_000_000).unwrap_or(0)
}
