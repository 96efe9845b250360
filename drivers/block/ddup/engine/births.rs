// SPDX-License-Identifier: GPL-2.0

//! [`Births`]: which generations of a member had ended at which epochs of its set's history.
//!
//! What came into the history behind an epoch of this table was born in a later generation than that
//! which ended there. So what is younger than that generation is all that may have changed since, and
//! a peer that is not behind that epoch holds the rest as it is here.
//!
//! The table is small. When it is full an entry goes whose neighbours lie closest together for their
//! age, so that a peer that was away for a time is told of little more than what changed in that time.

use super::types::Generation;

/// Entries of the table.
pub const BIRTHS_MAX: usize = 20;

/// The end of a generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tick {
    /// The generation that ended.
    pub generation: Generation,
    /// The last epoch whose entries were born in it or before, and in no later one.
    pub epoch: u64,
}

/// Ends of generations, oldest first.
///
/// # Invariants
///
/// Generations ascend, and so do epochs, from 1 on. The epochs are of the history of the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Births {
    ticks: [Tick; BIRTHS_MAX],
    count: usize,
}

impl Births {
    /// A table of these entries; `None` if no table has those.
    pub fn of(entries: impl Iterator<Item = Tick>) -> Option<Self> {
        let mut births = Births::default();
        for tick in entries {
            let last = births.ticks().last().copied().unwrap_or_default();
            let ascends = births.count == 0 || tick.generation > last.generation;
            if tick.epoch <= last.epoch || !ascends {
                return None;
            }
            *births.ticks.get_mut(births.count)? = tick;
            births.count += 1;
        }
        Some(births)
    }

    /// Its entries.
    pub fn ticks(&self) -> &[Tick] {
        self.ticks.get(..self.count).unwrap_or(&[])
    }

    /// Notes that a generation ended behind an epoch: both are not below the last ones.
    pub fn note(&mut self, tick: Tick) {
        let last = self.ticks().last().copied().unwrap_or_default();
        if tick.epoch == 0 || tick.epoch < last.epoch || tick.generation <= last.generation {
            return;
        }
        if tick.epoch == last.epoch {
            // Nothing was changed meanwhile: the later one says more.
            self.count -= 1;
        } else if self.count == BIRTHS_MAX {
            self.thin_out(tick.generation);
        }
        if let Some(place) = self.ticks.get_mut(self.count) {
            *place = tick;
            self.count += 1;
        }
    }

    /// Lets the entry go that is missed least by `now`, but not the oldest.
    fn thin_out(&mut self, now: Generation) {
        let age = |at: usize| match self.ticks().get(at) {
            Some(tick) => u64::from(now.0.saturating_sub(tick.generation.0)) + 1,
            None => 1,
        };
        // By how much a peer of that age would be told more: its neighbour's age over its own.
        let worse = |at: usize, than: usize| {
            age(at - 1).saturating_mul(age(than + 1)) >= age(than - 1).saturating_mul(age(at + 1))
        };
        let goes = (1..self.count).reduce(|least, at| if worse(at, least) { least } else { at });
        if let Some(goes) = goes {
            self.ticks.copy_within(goes + 1.., goes);
            self.count -= 1;
        }
    }

    /// The newest generation that had ended when the history was at this epoch.
    pub fn at(&self, epoch: u64) -> Option<Tick> {
        let count = self.ticks().partition_point(|tick| tick.epoch <= epoch);
        self.ticks().get(count.checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec as List;

    fn of(ticks: &[Tick]) -> Option<Births> {
        Births::of(ticks.iter().copied())
    }

    fn tick(generation: u32, epoch: u64) -> Tick {
        Tick {
            generation: Generation(generation),
            epoch,
        }
    }

    #[test]
    fn the_newest_generation_that_had_ended_is_found() {
        let mut births = Births::default();
        assert_eq!(births.at(u64::MAX), None);
        // A store without any history has nothing to tell of.
        births.note(tick(1, 0));
        assert_eq!(births.ticks(), []);
        for entry in [tick(2, 5), tick(3, 9), tick(7, 30)] {
            births.note(entry);
        }
        assert_eq!(births.at(4), None);
        for (epoch, found) in [(5, (2, 5)), (8, (2, 5)), (9, (3, 9)), (31, (7, 30))] {
            assert_eq!(births.at(epoch), Some(tick(found.0, found.1)));
        }
        // Nothing has changed since: less is told.
        births.note(tick(8, 30));
        assert_eq!(births.ticks(), [tick(2, 5), tick(3, 9), tick(8, 30)]);
        // What no history leads to is not believed.
        births.note(tick(8, 31));
        births.note(tick(9, 29));
        assert_eq!(births.ticks().len(), 3);
    }

    #[test]
    fn only_what_ascends_is_a_table() {
        let good = [tick(0, 1), tick(4, 2), tick(5, 9)];
        assert_eq!(of(&good).unwrap().ticks(), good);
        assert_eq!(of(&[]), Some(Births::default()));
        for bad in [
            [tick(1, 0), tick(4, 2)],
            [tick(4, 1), tick(4, 2)],
            [tick(3, 2), tick(4, 2)],
            [tick(5, 1), tick(4, 2)],
        ] {
            assert_eq!(of(&bad), None, "{bad:?}");
        }
        let many: List<Tick> = (1..=BIRTHS_MAX as u32 + 1)
            .map(|n| tick(n, n.into()))
            .collect();
        assert!(of(&many[1..]).is_some() && of(&many).is_none());
    }

    #[test]
    fn of_each_age_one_stays_that_is_not_much_older() {
        let mut births = Births::default();
        for generation in 1..=30_000 {
            let newest = tick(generation, 3 * u64::from(generation));
            births.note(newest);
            let ticks = births.ticks();
            assert!(of(ticks).is_some());
            assert_eq!(
                (ticks.first(), ticks.last()),
                (Some(&tick(1, 3)), Some(&newest))
            );
            if generation % 1000 > 1 {
                continue;
            }
            for peer in 1..=generation {
                let found = births.at(3 * u64::from(peer)).unwrap().generation.0;
                let (age, told) = (generation - peer, generation - found);
                assert!(
                    told <= 4 * age + 4,
                    "{told} generations of {age} at {generation}"
                );
            }
        }
    }
}
