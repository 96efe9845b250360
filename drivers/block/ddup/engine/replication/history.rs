// SPDX-License-Identifier: GPL-2.0

//! The history of a store, as far as it is told apart from others': the last position of each reign.
//!
//! Within a reign there is one sequence of epochs, made by one primary between two attaches. So a
//! position lies in a history if its reign does and did not end before it.

use super::codec::{put_position, put_uint, Reader};
use super::types::{Position, NO_ID, REIGNS_MAX};
use kernel::prelude::*;

/// Bytes of an encoded reign.
const REIGN_BYTES: usize = 40;

/// The last positions of the newest reigns, oldest first.
///
/// # Invariants
///
/// - Terms and epochs ascend, epochs strictly.
/// - There is room for one more than [`REIGNS_MAX`]: [`History::append`] needs no memory.
#[derive(Debug)]
pub struct History {
    ends: KVec<Position>,
}

impl History {
    /// The empty history.
    pub fn new() -> Result<Self> {
        Ok(History {
            ends: KVec::with_capacity(REIGNS_MAX + 1, GFP_KERNEL)?,
        })
    }

    /// A copy.
    pub fn try_clone(&self) -> Result<Self> {
        let mut ends = KVec::with_capacity(REIGNS_MAX + 1, GFP_KERNEL)?;
        ends.extend_from_slice(&self.ends, GFP_KERNEL)?;
        Ok(History { ends })
    }

    /// The newest position.
    pub fn position(&self) -> Position {
        self.ends.last().copied().unwrap_or(Position::ZERO)
    }

    /// Last positions of the reigns, oldest first.
    pub fn ends(&self) -> &[Position] {
        &self.ends
    }

    /// Whether `position` is the next one, or the first of a later reign.
    pub fn is_next(&self, position: &Position) -> bool {
        let last = self.position();
        let same = position.is_of_reign(&last);
        position.epoch == last.epoch.wrapping_add(1) && (same || position.term > last.term)
    }

    /// The same for what a replica applies: merged epochs end at a later one of the same reign.
    pub fn may_lead_to(&self, position: &Position) -> bool {
        let last = self.position();
        let merged = position.is_of_reign(&last) && position.epoch > last.epoch;
        self.is_next(position) || merged
    }

    /// Takes a position that [`History::is_next`] or [`History::may_lead_to`] found good.
    pub fn append(&mut self, position: Position) {
        if let Some(last) = self.ends.last_mut() {
            if last.is_of_reign(&position) {
                *last = position;
                return;
            }
        }
        if self.ends.len() >= REIGNS_MAX {
            let _ = self.ends.remove(0);
        }
        let _ = self.ends.push_within_capacity(position);
    }

    /// Whether this history went through `position`. False if that is too long ago to tell.
    pub fn contains(&self, position: &Position) -> bool {
        if position.epoch == 0 {
            return *position == Position::ZERO;
        }
        let mut before = 0;
        for end in &self.ends {
            if end.is_of_reign(position) {
                let inside = position.epoch > before && position.epoch < end.epoch;
                return inside || position == end;
            }
            before = end.epoch;
        }
        false
    }

    /// Whether this history is not below a floor: it went through it, or so many reigns have ended
    /// since that nobody remembers.
    pub fn reaches(&self, floor: &Position) -> bool {
        let forgotten = self.ends.len() >= REIGNS_MAX
            && self
                .ends
                .first()
                .is_some_and(|oldest| floor.term < oldest.term);
        self.contains(floor) || forgotten
    }

    /// Appends the encoding: a count, then 40 bytes a reign.
    pub fn write(&self, out: &mut KVec<u8>) -> Result {
        put_uint::<2>(out, self.ends.len() as u64)?;
        for end in &self.ends {
            put_position(out, end)?;
        }
        Ok(())
    }

    /// Reads what [`History::write`] wrote; `Ok(None)` if no writer writes that.
    pub fn read(reader: &mut Reader<'_>) -> Result<Option<Self>> {
        let mut history = History::new()?;
        let parsed = (|| {
            let count = reader.uint::<2>()? as usize;
            if count > REIGNS_MAX {
                return None;
            }
            let mut bytes = Reader::new(reader.bytes(count * REIGN_BYTES)?);
            for _ in 0..count {
                let end = bytes.position()?;
                if !may_follow(&history.position(), &end) {
                    return None;
                }
                history.ends.push_within_capacity(end).ok()?;
            }
            Some(())
        })();
        Ok(parsed.map(|()| history))
    }

    /// A history from the ends of reigns, as a store keeps them.
    pub fn from_ends(ends: &[Position]) -> Result<Self> {
        let newest = ends.get(ends.len().saturating_sub(REIGNS_MAX)..);
        let mut history = History::new()?;
        history
            .ends
            .extend_from_slice(newest.unwrap_or(&[]), GFP_KERNEL)?;
        Ok(history)
    }
}

/// Whether a reign may end at `end` if the one before it ended at `last`.
fn may_follow(last: &Position, end: &Position) -> bool {
    let ascends = end.epoch > last.epoch && end.term >= last.term;
    let possible = end.epoch < u64::MAX / 2 && end.term < u64::MAX / 2;
    ascends && possible && end.reign != NO_ID && end.reign != last.reign
}

/// Whether a history may consist of reigns that ended so, oldest first.
pub fn are_ends(ends: &[Position]) -> bool {
    let mut last = Position::ZERO;
    ends.iter()
        .all(|end| may_follow(&core::mem::replace(&mut last, *end), end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, epoch: u64) -> Position {
        Position {
            term,
            reign: [term as u8; 16],
            epoch,
            chain: term * 1000 + epoch,
        }
    }

    #[test]
    fn a_position_lies_in_a_history_if_its_reign_had_not_ended() {
        let mut history = History::new().unwrap();
        for position in [at(1, 1), at(1, 2), at(1, 3), at(4, 4), at(4, 5)] {
            assert!(history.is_next(&position));
            history.append(position);
        }
        assert_eq!(history.position(), at(4, 5));
        for inside in [Position::ZERO, at(1, 1), at(1, 3), at(4, 4), at(4, 5)] {
            assert!(history.contains(&inside), "{inside:?}");
        }
        let mut other_chain = at(4, 5);
        other_chain.chain += 1;
        for outside in [at(1, 4), at(4, 3), at(4, 6), at(5, 6), other_chain] {
            assert!(!history.contains(&outside), "{outside:?}");
        }
        for bad in [at(4, 7), at(3, 6), at(4, 5)] {
            assert!(!history.is_next(&bad));
        }
    }

    #[test]
    fn old_reigns_are_forgotten_and_the_rest_comes_back_from_bytes() {
        let mut history = History::new().unwrap();
        let forgotten = 8;
        let last = forgotten + REIGNS_MAX as u64;
        for term in 1..=last {
            history.append(at(term, term));
        }
        assert_eq!(history.ends().len(), REIGNS_MAX);
        let (old, kept, beyond) = (forgotten, forgotten + 1, last + 1);
        assert!(!history.contains(&at(old, old)) && history.contains(&at(kept, kept)));
        assert!(history.reaches(&at(old, old)) && !history.reaches(&at(beyond, beyond)));
        let mut bytes = KVec::new();
        history.write(&mut bytes).unwrap();
        let mut reader = Reader::new(&bytes);
        let again = History::read(&mut reader).unwrap().unwrap();
        assert_eq!(again.ends(), history.ends());
        assert!(reader.end().is_some());
        bytes[2 + 40 * 3] = 0xee;
        assert!(History::read(&mut Reader::new(&bytes)).unwrap().is_none());
    }
}
