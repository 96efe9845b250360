// SPDX-License-Identifier: GPL-2.0

//! Marks: how the simulator learns which states and transitions of the engine it has reached.
//!
//! `mark!(journal_wrap)` counts a visit. It is nothing in the driver: without the cargo feature
//! `marks` no code is left of it. The simulator finds the names in the sources, so nothing is to be
//! listed here.

#[cfg(feature = "marks")]
mod counts {
    use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

    const SLOTS: usize = 1 << 14;
    static COUNTS: [AtomicU64; SLOTS] = [const { AtomicU64::new(0) }; SLOTS];

    /// The slot that a name counts in (FNV-1a); the simulator refuses names that share one.
    pub const fn slot(name: &str) -> usize {
        let bytes = name.as_bytes();
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        let mut i = 0;
        while i < bytes.len() {
            hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
            i += 1;
        }
        ((hash ^ (hash >> 32)) % SLOTS as u64) as usize
    }

    /// Counts one visit.
    pub fn hit(slot: usize) {
        if let Some(count) = COUNTS.get(slot) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// How often a mark was reached, in all threads, since the program began.
    pub fn count(name: &str) -> u64 {
        COUNTS
            .get(slot(name))
            .map_or(0, |count| count.load(Relaxed))
    }
}

#[cfg(feature = "marks")]
pub use counts::{count, hit, slot};

/// Counts that this place was reached.
#[cfg(feature = "marks")]
macro_rules! mark {
    ($name:ident) => {{
        const SLOT: usize = $crate::engine::mark::slot(stringify!($name));
        $crate::engine::mark::hit(SLOT);
    }};
}

/// Counts nothing in this build.
#[cfg(not(feature = "marks"))]
macro_rules! mark {
    ($name:ident) => {};
}

#[allow(unused_imports)]
pub(crate) use mark;
