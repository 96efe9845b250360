// SPDX-License-Identifier: GPL-2.0

//! Memory barriers.
//!
//! C header: `include/asm-generic/barrier.h`.
//! Upstream replacement: `kernel::sync::barrier`, whose functions differ from 7.2 to 7.3.

use crate::bindings;

/// Orders all accesses to memory before it with all after it (`smp_mb`). Any context.
#[inline]
pub fn smp_mb() {
    // SAFETY: No preconditions.
    unsafe { bindings::kstage_smp_mb() };
}
