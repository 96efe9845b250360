// SPDX-License-Identifier: GPL-2.0

//! Makes allocations fail on purpose, and counts them. Host only.
//!
//! All state is per thread, so that tests which run beside each other do not meet. What counts as
//! an allocation is what would call the kernel's allocator: a `Vec` that has to grow or a `Box`
//! that is made; not a `push` into spare capacity.

use core::cell::Cell;

/// Which allocations fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The n-th allocation from now on fails, once; 0 is the very next one.
    Nth(u64),
    /// The n-th allocation from now on and all that follow fail.
    From(u64),
    /// Each allocation fails with a probability of `per_million` in 1,000,000, decided by a
    /// generator that starts at `seed`: the same calls fail for the same seed.
    Random {
        /// Start of the generator.
        seed: u64,
        /// Probability, in millionths; 1,000,000 and more is always.
        per_million: u32,
    },
    /// An allocation fails that would take this thread's live bytes beyond this many.
    LiveBytes(u64),
}

/// What this thread has allocated so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Allocations that succeeded.
    pub allocations: u64,
    /// Allocations that the policy made fail.
    pub failures: u64,
    /// Bytes of all allocations that succeeded; a growth counts its whole new size.
    pub bytes_total: u64,
    /// Bytes allocated and not yet freed. What moves to another thread is counted where it was
    /// made and freed where it dies, so this may be negative.
    pub bytes_live: i64,
    /// The highest `bytes_live` since [`reset_stats`].
    pub bytes_peak: i64,
}

thread_local! {
    static POLICY: Cell<Option<Policy>> = const { Cell::new(None) };
    static STATS: Cell<Stats> = const {
        Cell::new(Stats {
            allocations: 0,
            failures: 0,
            bytes_total: 0,
            bytes_live: 0,
            bytes_peak: 0,
        })
    };
}

/// Sets this thread's policy, `None` for no failures, and returns the one before in its present
/// state (counters run down, generators advance).
pub fn set(policy: Option<Policy>) -> Option<Policy> {
    POLICY.replace(policy)
}

/// Runs `f` under `policy`, then puts the former policy back, also when `f` panics.
pub fn with<R>(policy: Policy, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Policy>);
    impl Drop for Restore {
        fn drop(&mut self) {
            set(self.0);
        }
    }

    let _restore = Restore(set(Some(policy)));
    f()
}

/// This thread's counters.
pub fn stats() -> Stats {
    STATS.get()
}

/// Sets this thread's counters to zero, but for the live bytes, which the peak restarts from.
pub fn reset_stats() {
    let live = STATS.get().bytes_live;
    STATS.set(Stats {
        bytes_live: live,
        bytes_peak: live,
        ..Stats::default()
    });
}

/// Accounts for an allocation that takes the place of `old_bytes`; false if it has to fail.
pub(crate) fn allocate(old_bytes: usize, new_bytes: usize) -> bool {
    let mut stats = STATS.get();
    let live = stats.bytes_live + (new_bytes as i64 - old_bytes as i64);
    if refused(live) {
        stats.failures += 1;
        STATS.set(stats);
        return false;
    }
    stats.allocations += 1;
    stats.bytes_total += new_bytes as u64;
    stats.bytes_live = live;
    stats.bytes_peak = stats.bytes_peak.max(live);
    STATS.set(stats);
    true
}

/// Accounts for memory that is given back.
pub(crate) fn free(bytes: usize) {
    // A value may outlive its thread's counters: then nobody is left to read them.
    let _ = STATS.try_with(|cell| {
        let mut stats = cell.get();
        stats.bytes_live -= bytes as i64;
        cell.set(stats);
    });
}

/// Accounts for memory that stays when its former owner counts it as given back.
pub(crate) fn keep(bytes: usize) {
    let mut stats = STATS.get();
    stats.bytes_live += bytes as i64;
    STATS.set(stats);
}

/// Asks the policy about the next allocation, and advances it.
fn refused(live_after: i64) -> bool {
    let Some(policy) = POLICY.get() else {
        return false;
    };
    let (refused, next) = match policy {
        Policy::Nth(0) => (true, None),
        Policy::Nth(n) => (false, Some(Policy::Nth(n - 1))),
        Policy::From(0) => (true, Some(policy)),
        Policy::From(n) => (false, Some(Policy::From(n - 1))),
        Policy::Random { seed, per_million } => {
            let seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let draw = (u128::from(mix(seed)) * 1_000_000) >> 64;
            (
                draw < u128::from(per_million),
                Some(Policy::Random { seed, per_million }),
            )
        }
        Policy::LiveBytes(limit) => (
            u64::try_from(live_after).is_ok_and(|live| live > limit),
            Some(policy),
        ),
    };
    POLICY.set(next);
    refused
}

/// The output function of splitmix64.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prelude::*;

    fn pattern(n: usize) -> std::vec::Vec<bool> {
        (0..n)
            .map(|_| KBox::new(0_u64, GFP_KERNEL).is_ok())
            .collect()
    }

    #[test]
    fn nth_fails_once_and_from_fails_for_ever() {
        with(Policy::Nth(2), || {
            assert_eq!(pattern(5), [true, true, false, true, true]);
        });
        with(Policy::From(2), || {
            assert_eq!(pattern(5), [true, true, false, false, false]);
        });
        assert_eq!(pattern(1), [true]);
    }

    #[test]
    fn random_repeats_for_a_seed_and_meets_its_rate() {
        let policy = Policy::Random {
            seed: 7,
            per_million: 250_000,
        };
        let first = with(policy, || pattern(4000));
        assert_eq!(first, with(policy, || pattern(4000)));
        let failed = first.iter().filter(|ok| !**ok).count();
        assert!((900..1100).contains(&failed), "{failed} of 4000 failed");

        let always = Policy::Random {
            seed: 7,
            per_million: 1_000_000,
        };
        assert!(with(always, || pattern(100)).iter().all(|ok| !ok));
    }

    #[test]
    fn live_bytes_are_a_budget() {
        let start = u64::try_from(stats().bytes_live).unwrap_or(0);
        with(Policy::LiveBytes(start + 64), || {
            let a = KVec::<u8>::with_capacity(40, GFP_KERNEL).unwrap();
            assert!(KVec::<u8>::with_capacity(40, GFP_KERNEL).is_err());
            drop(a);
            assert!(KVec::<u8>::with_capacity(40, GFP_KERNEL).is_ok());
        });
    }

    #[test]
    fn counters_follow_growth_failure_and_free() {
        reset_stats();
        let before = stats();
        let mut v = KVec::<u32>::with_capacity(4, GFP_KERNEL).unwrap();
        assert!(with(Policy::Nth(0), || v.reserve(5, GFP_KERNEL)).is_err());
        v.reserve(5, GFP_KERNEL).unwrap();
        let during = stats();
        assert_eq!(during.allocations, 2);
        assert_eq!(during.failures, 1);
        assert_eq!(during.bytes_total, 16 + 32);
        assert_eq!(during.bytes_live, before.bytes_live + 32);
        drop(v);
        assert_eq!(stats().bytes_live, before.bytes_live);
        assert_eq!(stats().bytes_peak, before.bytes_live + 32);
    }

    #[test]
    fn policy_comes_back_after_a_panic() {
        set(Some(Policy::Nth(9)));
        let caught = std::panic::catch_unwind(|| with(Policy::From(0), || panic!("as planned")));
        assert!(caught.is_err());
        assert_eq!(set(None), Some(Policy::Nth(9)));
    }
}
