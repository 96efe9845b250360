// SPDX-License-Identifier: GPL-2.0

//! Epochs that an asynchronous peer gets as one: what of those that wait for it is told, and what is
//! left out.
//!
//! An entry is left out if one behind it, in an epoch that is merged too, writes all blocks that it
//! wrote. The others stay in order, so what has the state that the first epoch follows, and applies
//! them at once, has the state behind the last. Nothing is merged across a change of volumes or the
//! end of a reign, and no more than the peer takes in one epoch.

use super::super::mutant::mutant;
use super::super::sorted::SortedMap;
use super::super::types::LBN_LIMIT;
use super::super::Hash;
use super::epoch::{chain_entry, chain_seal, Epoch, Window};
use super::types::{Entry, Id, Position};
use kernel::prelude::*;

/// Entries that are looked at for one merged epoch, at most: requests wait meanwhile.
const LOOKED_AT_MAX: usize = 2048;
/// Ranges of zeroes that may still be left out, at most: each is compared with each that follows.
const RANGES_MAX: usize = 64;
/// The epoch that a block is written in again which is not.
const NEVER: u64 = u64::MAX;

/// Several epochs as one.
#[derive(Debug)]
pub(super) struct Merged {
    /// The position that they follow.
    pub(super) from: Position,
    /// The end of the last one.
    pub(super) to: Position,
    /// The chain behind what is told, from the first position on: it is in no history.
    pub(super) chain: u64,
    /// Where that lies in the window.
    places: KVVec<(u64, u32)>,
}

impl Merged {
    /// The epochs of a window behind a position, up to `last` at most, as one of up to `limit` entries.
    /// `None`: there is nothing to merge.
    pub(super) fn of(
        window: &Window,
        from: &Position,
        last: u64,
        limit: usize,
        hash: Hash,
    ) -> Result<Option<Self>> {
        let limit = if mutant!(306) { usize::MAX } else { limit };
        let mut merging = Merging::default();
        let mut to = None;
        for (epoch, number) in window.behind(from.epoch).zip(from.epoch + 1..=last) {
            let of_reign = |end: &Position| end.is_of_reign(from) || mutant!(301);
            let end = epoch.position.filter(of_reign);
            let changes = epoch.changes_volumes() && !mutant!(302);
            let fits = merging.found.len() + epoch.entries.len() <= LOOKED_AT_MAX;
            if epoch.number != number || end.is_none() || changes || !fits {
                break;
            }
            merging.add_epoch(epoch)?;
            if merging.left > limit {
                break;
            }
            to = end;
        }
        let Some(to) = to.filter(|to| to.epoch > from.epoch + 1) else {
            return Ok(None);
        };
        let mut merged = Merged {
            from: *from,
            to,
            chain: from.chain,
            places: KVVec::with_capacity(merging.left.min(limit), GFP_KERNEL)?,
        };
        for found in merging.found.iter().filter(|found| found.is_told(&to)) {
            let (epoch, index) = found.place;
            let entry = window.entry(epoch, index).ok_or(EINVAL)?;
            merged.chain = chain_entry(merged.chain, entry, hash);
            merged.places.push(found.place, GFP_KERNEL)?;
        }
        merged.chain = chain_seal(merged.chain, to.term, &to.reign, to.epoch, hash);
        Ok(Some(merged))
    }

    /// Epochs that are not told one by one.
    pub(super) fn epochs(&self) -> u64 {
        self.to.epoch - self.from.epoch
    }

    /// Where the entry of this index lies in the window: its epoch, and its index there.
    pub(super) fn place(&self, index: u32) -> Option<(u64, u32)> {
        self.places.get(index as usize).copied()
    }
}

/// An entry of the epochs that are looked at.
#[derive(Clone, Copy, Debug)]
struct Found {
    place: (u64, u32),
    /// The epoch in which all of its blocks were written again.
    again: u64,
}

impl Found {
    /// Whether it is told if the last epoch ends there.
    fn is_told(&self, to: &Position) -> bool {
        self.place.0 <= to.epoch && self.again > to.epoch
    }
}

/// Blocks of a volume, as keys: the one of the first, and the one behind that of the last.
type Span = (u64, u64);

/// What is known of the epochs that were looked at.
#[derive(Debug, Default)]
struct Merging {
    found: KVVec<Found>,
    /// How many of those are not left out.
    left: usize,
    /// A volume's place in here is in the keys of its blocks.
    volumes: KVec<Id>,
    /// The last entry that writes a block, and only that.
    blocks: SortedMap<u32>,
    /// The last ones that write more.
    ranges: KVec<(Span, u32)>,
}

impl Merging {
    fn add_epoch(&mut self, epoch: &Epoch) -> Result {
        self.found.reserve(epoch.entries.len(), GFP_KERNEL)?;
        for (entry, index) in epoch.entries.iter().zip(0..) {
            self.add(entry, (epoch.number, index))?;
        }
        Ok(())
    }

    fn add(&mut self, entry: &Entry, place: (u64, u32)) -> Result {
        let (first, end) = self.span_of(entry)?;
        let at = self.found.len() as u32;
        let again = NEVER;
        self.found.push(Found { place, again }, GFP_KERNEL)?;
        self.left += 1;
        let Merging { found, left, .. } = self;
        let mut leave_out = |gone: u32| {
            let gone = if mutant!(303) { at } else { gone };
            let found = found.get_mut(gone as usize);
            if let Some(found) = found.filter(|found| found.again == NEVER) {
                found.again = place.0;
                *left -= 1;
            }
        };
        if end - first == 1 {
            if let Some(gone) = self.blocks.insert(first, at)? {
                leave_out(gone);
            }
            return Ok(());
        }
        let blocks = &mut self.blocks;
        blocks.remove_range(first, end, |_, gone| leave_out(gone));
        self.ranges.retain(|(range, gone)| {
            let inside = first <= range.0 && (range.1 <= end || mutant!(310));
            if inside {
                leave_out(*gone);
            }
            !inside
        });
        if self.ranges.len() < RANGES_MAX {
            self.ranges.push(((first, end), at), GFP_KERNEL)?;
        }
        Ok(())
    }

    fn span_of(&mut self, entry: &Entry) -> Result<Span> {
        let known = self.volumes.iter().position(|v| *v == entry.volume);
        let volume = match known {
            Some(at) => at,
            None => {
                self.volumes.push(entry.volume, GFP_KERNEL)?;
                self.volumes.len() - 1
            }
        };
        let first = volume as u64 * LBN_LIMIT + entry.lbn;
        Ok((first, first + entry.count))
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::Op;
    use super::super::wire::tests::sum;
    use super::*;
    extern crate std;
    use std::collections::BTreeMap;
    use std::vec::Vec as List;

    /// The content of each block, by volume.
    type State = BTreeMap<(u8, u64), u64>;

    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1);
            (self.0 >> 33) % n
        }
    }

    fn write(volume: u8, lbn: u64, content: u64) -> Entry {
        Entry {
            volume: [volume; 16],
            lbn,
            count: 1,
            check: content,
            ..Entry::default()
        }
    }

    fn zeroes(volume: u8, lbn: u64, count: u64) -> Entry {
        Entry {
            op: Op::Zero,
            count,
            ..write(volume, lbn, 0)
        }
    }

    fn end(epoch: u64) -> Position {
        Position {
            term: 1,
            reign: [1; 16],
            epoch,
            chain: 77 + epoch,
        }
    }

    /// Epochs behind number 4.
    fn window(epochs: &[&[Entry]]) -> Window {
        let mut window = Window::default();
        window.reserve(epochs.len()).unwrap();
        for (entries, number) in epochs.iter().zip(5..) {
            let mut list = KVVec::new();
            list.extend_from_slice(entries, GFP_KERNEL).unwrap();
            window.push(Epoch::new(number, list, Some(end(number)), 0));
        }
        window
    }

    fn merge(window: &Window, last: u64, limit: usize) -> Option<Merged> {
        Merged::of(window, &end(4), last, limit, sum).unwrap()
    }

    fn told(merged: &Merged) -> List<(u64, u32)> {
        (0..).map_while(|index| merged.place(index)).collect()
    }

    fn apply(state: &mut State, entry: &Entry) {
        for lbn in entry.lbn..entry.lbn + entry.count {
            state.insert((entry.volume[0], lbn), entry.check);
        }
    }

    #[test]
    fn what_is_written_again_is_left_out_and_the_order_stays() {
        let window = window(&[
            &[write(1, 7, 1), write(1, 8, 2), zeroes(1, 20, 4)],
            &[write(2, 7, 3), write(1, 7, 4), write(1, 22, 5)],
            &[write(1, 8, 6), zeroes(1, 20, 2), write(1, 7, 7)],
        ]);
        let merged = merge(&window, 7, 64).unwrap();
        assert_eq!((merged.from, merged.to), (end(4), end(7)));
        assert_eq!(merged.epochs(), 3);
        let expected = [(5, 2), (6, 0), (6, 2), (7, 0), (7, 1), (7, 2)];
        assert_eq!(told(&merged), expected);
        let mut chain = end(4).chain;
        for (epoch, index) in expected {
            chain = chain_entry(chain, window.entry(epoch, index).unwrap(), sum);
        }
        assert_eq!(merged.chain, chain_seal(chain, 1, &[1; 16], 7, sum));
    }

    #[test]
    fn it_ends_where_it_must() {
        let create = Entry {
            op: Op::Create,
            ..zeroes(9, 0, 4)
        };
        let (a, b) = ([write(1, 1, 1), write(1, 2, 1)], [write(1, 3, 1)]);
        let all: [&[Entry]; 4] = [&a, &b, &a, &b];
        let to = |window: &Window, last, limit| merge(window, last, limit).map(|m| m.to.epoch);
        assert_eq!(to(&window(&all), u64::MAX, 64), Some(8));
        // At what is committed; a single one is not merged.
        assert_eq!(to(&window(&all), 6, 64), Some(6));
        assert_eq!(to(&window(&all), 5, 64), None);
        // At the most that the peer takes, of what is left.
        assert_eq!(to(&window(&all), 8, 3), Some(8));
        assert_eq!(to(&window(&all), 8, 2), None);
        let more: [&[Entry]; 3] = [&a, &b, &[write(1, 4, 1)]];
        assert_eq!(to(&window(&more), 7, 3), Some(6));
        // Before a change of volumes.
        assert_eq!(to(&window(&[&a, &b, &[create], &a]), 8, 64), Some(6));
        assert_eq!(to(&window(&[&a, &[create], &a]), 7, 64), None);
        // Within a reign.
        let (mut other, same) = (end(4), window(&all));
        other.reign = [2; 16];
        assert!(Merged::of(&same, &other, 8, 64, sum).unwrap().is_none());
        // Where the window begins behind the position.
        let late = Merged::of(&same, &end(3), 8, 64, sum).unwrap();
        assert!(late.is_none());
        // An epoch that is open.
        let mut open = window(&[&a, &b]);
        open.reserve(1).unwrap();
        open.open(7);
        assert_eq!(to(&open, u64::MAX, 64), Some(6));
    }

    #[test]
    fn so_many_entries_are_looked_at_and_no_more() {
        let same = [write(1, 1, 1); LOOKED_AT_MAX / 4];
        let window = window(&[&same, &same, &same, &same, &same]);
        let merged = merge(&window, 9, 64).unwrap();
        assert_eq!((merged.to.epoch, told(&merged).len()), (8, 1));
    }

    #[test]
    fn it_leads_to_the_state_behind_its_last_epoch() {
        for seed in 1..400 {
            let mut random = Random(seed);
            let blocks = 4 + random.below(40);
            let mut epochs: List<List<Entry>> = List::new();
            for _ in 0..2 + random.below(12) {
                let entries = (0..1 + random.below(12)).map(|content| {
                    let (volume, lbn) = (1 + random.below(2) as u8, random.below(blocks));
                    match random.below(4) {
                        0 => zeroes(volume, lbn, 1 + random.below(blocks - lbn)),
                        _ => write(volume, lbn, 1 + content),
                    }
                });
                epochs.push(entries.collect());
            }
            let lists: List<&[Entry]> = epochs.iter().map(|e| &e[..]).collect();
            let window = window(&lists);
            let limit = 1 + random.below(60) as usize;
            let Some(merged) = merge(&window, u64::MAX, limit) else {
                continue;
            };
            let mut state: State = (0..2 * blocks)
                .map(|n| ((1 + (n % 2) as u8, n / 2), 99))
                .collect();
            let mut last = state.clone();
            let all = window.behind(4).take_while(|e| e.number <= merged.to.epoch);
            all.flat_map(|e| e.entries.iter())
                .for_each(|entry| apply(&mut last, entry));
            let told = told(&merged);
            assert!(told.len() <= limit && told.is_sorted(), "seed {seed}");
            let mut alone = BTreeMap::new();
            for (epoch, index) in told {
                let entry = window.entry(epoch, index).unwrap();
                apply(&mut state, entry);
                if entry.count == 1 {
                    let twice = alone.insert((entry.volume, entry.lbn), epoch);
                    assert_eq!(twice, None, "seed {seed}: a block is written twice");
                }
            }
            assert_eq!(state, last, "seed {seed}");
        }
    }
}
