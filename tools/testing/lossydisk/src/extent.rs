// SPDX-License-Identifier: GPL-2.0
//! A map from ranges of sectors to values, in which the last insertion wins.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges that do not overlap, each with a value. A 1 TiB range costs as much as one sector.
#[derive(Clone, Debug, Default)]
pub struct ExtentMap {
    /// start of a range -> (its end, exclusive; its value)
    extents: BTreeMap<u64, (u64, u64)>,
}

impl ExtentMap {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives all of `range` the value `value`, whatever it had before.
    pub fn insert(&mut self, range: Range<u64>, value: u64) {
        if !range.is_empty() {
            self.remove(range.clone());
            self.extents.insert(range.start, (range.end, value));
        }
    }

    /// Takes the values off `range`.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let before = self.extents.range(..range.start).next_back();
        if let Some((&start, &(end, value))) = before {
            if end > range.start {
                self.extents.insert(start, (range.start, value));
                if end > range.end {
                    self.extents.insert(range.end, (end, value));
                }
            }
        }
        while let Some((&start, &(end, value))) = self.extents.range(range.clone()).next() {
            self.extents.remove(&start);
            if end > range.end {
                self.extents.insert(range.end, (end, value));
            }
        }
    }

    /// Cuts `range` into pieces of one value each, in order, without gaps; `None` is no value.
    pub fn pieces(&self, range: Range<u64>) -> Vec<(Range<u64>, Option<u64>)> {
        let mut out = Vec::new();
        if range.is_empty() {
            return out;
        }
        let mut at = range.start;
        let first = match self.extents.range(..=range.start).next_back() {
            Some((&start, &(end, _))) if end > range.start => start,
            _ => range.start,
        };
        for (&start, &(end, value)) in self.extents.range(first..range.end.max(first)) {
            let (from, to) = (start.max(range.start), end.min(range.end));
            if from > at {
                out.push((at..from, None));
            }
            out.push((from..to, Some(value)));
            at = to;
        }
        if at < range.end {
            out.push((at..range.end, None));
        }
        out
    }

    /// All ranges with their values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Range<u64>, u64)> + '_ {
        self.extents
            .iter()
            .map(|(&start, &(end, value))| (start..end, value))
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.extents.clear();
    }

    /// Whether no range has a value.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn agrees_with_a_naive_array() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut map = ExtentMap::new();
            let mut naive = [None; 64];
            for value in 0..60 {
                let a = rng.below(65);
                let b = rng.below(65);
                let (from, to) = (a.min(b), a.max(b));
                if rng.chance(70) {
                    map.insert(from..to, value);
                    naive[from as usize..to as usize].fill(Some(value));
                } else {
                    map.remove(from..to);
                    naive[from as usize..to as usize].fill(None);
                }
                let a = rng.below(65);
                let b = rng.below(65);
                let query = a.min(b)..a.max(b);
                let mut at = query.start;
                for (piece, found) in map.pieces(query.clone()) {
                    assert_eq!(piece.start, at, "seed {seed}");
                    assert!(!piece.is_empty(), "seed {seed}");
                    for sector in piece.clone() {
                        assert_eq!(found, naive[sector as usize], "seed {seed} sector {sector}");
                    }
                    at = piece.end;
                }
                assert_eq!(at, query.end, "seed {seed}");
            }
        }
    }
}
