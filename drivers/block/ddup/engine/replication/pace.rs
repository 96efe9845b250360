// SPDX-License-Identifier: GPL-2.0

//! How fast a primary compares its peers in full, and how soon it tries again what has failed.

use super::super::mark::mark;
use super::super::mutant::mutant;

/// However much a compare is to yield, it takes a step at least this often, in milliseconds: it
/// always ends.
const FLOOR: u64 = 100;
/// The clock shows no less than a millisecond, and a step may take less: it counts as one of so many
/// parts of one at least.
const PARTS: u64 = 16;

/// The work of a full compare, and its rests.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// What the store was asked for and has not answered, and since when it has worked at that.
    asked: u32,
    since: u64,
    /// What it has worked since the last rest, in parts of a millisecond.
    worked: u64,
    /// When the last step began, and until when it is to be rested behind it.
    step_at: u64,
    rest_until: u64,
}

impl Pace {
    /// The store is asked for something.
    pub(super) fn begin(&mut self, now: u64) {
        if self.asked == 0 {
            self.since = now;
        }
        self.asked += 1;
    }

    /// It has answered.
    pub(super) fn end(&mut self, now: u64) {
        let took = now.saturating_sub(self.since);
        self.worked = self.worked.saturating_add(took.saturating_mul(PARTS));
        self.since = now;
        self.asked = self.asked.saturating_sub(1);
    }

    /// A step begins.
    pub(super) fn begin_step(&mut self, now: u64) {
        self.begin(now);
        self.step_at = now;
    }

    /// It has ended: the next one comes after a rest of so many times as long as was worked.
    pub(super) fn end_step(&mut self, now: u64, tranquility: u64) {
        self.end(now);
        let worked = core::mem::take(&mut self.worked).max(1);
        let rest = worked.saturating_mul(tranquility) / PARTS;
        let floor = match mutant!(233) {
            true => u64::MAX,
            false => self.step_at.saturating_add(FLOOR),
        };
        self.rest_until = now.saturating_add(rest).min(floor);
        if self.rest_until > now {
            mark!(replication_compare_rests);
        }
    }

    /// Until when it is to be rested.
    pub(super) fn rest_until(&self) -> u64 {
        self.rest_until
    }
}

/// Tries that have failed, and how long to wait before the next one: twice as long after each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    since: u64,
}

impl Backoff {
    /// A try has failed.
    pub(super) fn failed(&mut self, now: u64) {
        self.failures = self.failures.saturating_add(1);
        self.since = now;
    }

    /// One has succeeded: the next failure is the first.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// How many have failed one after the other.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// When to try again, if the first wait is so long and none longer than `most`.
    pub(super) fn until(&self, first: u64, most: u64) -> u64 {
        let Some(doubled) = self.failures.checked_sub(1) else {
            return 0;
        };
        let wait = first.saturating_mul(1 << doubled.min(32)).min(most);
        self.since.saturating_add(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_as_many_times_as_long_as_the_work_before_it() {
        let mut pace = Pace::default();
        pace.begin_step(1000);
        pace.end_step(1004, 3);
        assert_eq!(pace.rest_until(), 1016);
        // Blocks that were read meanwhile count, those at the same time once.
        pace.begin(1004);
        pace.begin(1006);
        pace.end(1010);
        pace.end(1012);
        pace.begin_step(1020);
        pace.end_step(1021, 3);
        assert_eq!(pace.rest_until(), 1021 + 3 * 9);
        pace.begin_step(1050);
        pace.end_step(1060, 0);
        assert_eq!(pace.rest_until(), 1060);
    }

    #[test]
    fn steps_that_the_clock_does_not_show_count_a_little() {
        let mut pace = Pace::default();
        pace.begin_step(5);
        pace.end_step(5, 1);
        assert_eq!(pace.rest_until(), 5);
        pace.begin_step(5);
        pace.end_step(5, 1000);
        assert_eq!(pace.rest_until(), 5 + 62);
    }

    #[test]
    fn there_is_a_step_in_each_hundred_milliseconds_whatever_is_asked_for() {
        let mut pace = Pace::default();
        for (took, rest) in [(1, 99), (60, 40), (99, 1), (100, 0), (5000, 0)] {
            pace.begin_step(1000);
            pace.end_step(1000 + took, u64::MAX);
            assert_eq!(pace.rest_until().max(1000 + took), 1000 + took + rest);
        }
        // A store that answers more than it was asked does no harm.
        pace.end(u64::MAX);
        pace.end_step(u64::MAX, u64::MAX);
        assert_eq!(pace.rest_until(), 1100);
    }

    #[test]
    fn a_wait_is_twice_the_one_before_up_to_a_cap_and_the_first_again_after_a_success() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.until(100, 5000), 0);
        let mut waits = [0; 8];
        for wait in &mut waits {
            backoff.failed(7);
            *wait = backoff.until(100, 5000) - 7;
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        for _ in 0..100 {
            backoff.failed(7);
        }
        assert_eq!(backoff.until(100, u64::MAX - 100), 7 + (100 << 32));
        backoff.succeeded();
        assert_eq!(backoff.until(100, 5000), 0);
        backoff.failed(u64::MAX);
        assert_eq!(backoff.until(100, 5000), u64::MAX);
    }
}
