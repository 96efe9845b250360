// SPDX-License-Identifier: GPL-2.0

//! [`Ring`]: a queue whose memory can be promised beforehand, and whose items have numbers from the
//! oldest on.

use kernel::prelude::*;

/// A queue of `T`.
///
/// # Invariants
///
/// The `len` slots from `head` on, round the end, are those that hold something.
#[derive(Debug)]
pub struct Ring<T> {
    slots: KVVec<Option<T>>,
    head: usize,
    len: usize,
}

impl<T> Default for Ring<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Ring<T> {
    /// An empty queue; allocates nothing.
    pub const fn new() -> Self {
        Ring {
            slots: KVVec::new(),
            head: 0,
            len: 0,
        }
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes room for `count` more items. Memory at least doubles, so that this costs little.
    pub fn reserve(&mut self, count: usize) -> Result {
        let wanted = self.len.checked_add(count).ok_or(ENOMEM)?;
        if wanted <= self.slots.len() {
            return Ok(());
        }
        let capacity = wanted.max(2 * self.slots.len()).max(4);
        let mut slots = KVVec::with_capacity(capacity, GFP_KERNEL)?;
        for at in 0..self.len {
            let item = self.slot_mut(at).and_then(Option::take);
            let _ = slots.push_within_capacity(item);
        }
        while slots.len() < capacity {
            let _ = slots.push_within_capacity(None);
        }
        (self.slots, self.head) = (slots, 0);
        Ok(())
    }

    fn place(&self, at: usize) -> usize {
        let place = self.head + at;
        match place < self.slots.len() {
            true => place,
            false => place - self.slots.len(),
        }
    }

    fn slot_mut(&mut self, at: usize) -> Option<&mut Option<T>> {
        let place = self.place(at);
        self.slots.get_mut(place)
    }

    /// The item with a number; 0 is the oldest.
    pub fn get(&self, at: usize) -> Option<&T> {
        let slot = (at < self.len).then(|| self.slots.get(self.place(at)))?;
        slot?.as_ref()
    }

    /// The same.
    pub fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        let slot = (at < self.len).then(|| self.slot_mut(at))?;
        slot?.as_mut()
    }

    /// The oldest item.
    pub fn first(&self) -> Option<&T> {
        self.get(0)
    }

    /// The newest item.
    pub fn last(&self) -> Option<&T> {
        self.get(self.len.checked_sub(1)?)
    }

    /// The same.
    pub fn last_mut(&mut self) -> Option<&mut T> {
        self.get_mut(self.len.checked_sub(1)?)
    }

    /// All items, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        (0..self.len).filter_map(|at| self.get(at))
    }

    /// How many of the oldest items are such; all of those are before all others.
    pub fn partition_point(&self, is_such: impl Fn(&T) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.get(middle).is_some_and(&is_such) {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }

    /// Appends an item; gives it back if no room was made for it.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.len == self.slots.len() {
            return Err(item);
        }
        if let Some(slot) = self.slot_mut(self.len) {
            *slot = Some(item);
            self.len += 1;
        }
        Ok(())
    }

    /// Takes the oldest item.
    pub fn pop_front(&mut self) -> Option<T> {
        if self.len == 0 {
            return None;
        }
        let item = self.slot_mut(0).and_then(Option::take);
        self.head = self.place(1);
        self.len -= 1;
        item
    }

    /// Takes the newest item.
    pub fn pop_back(&mut self) -> Option<T> {
        let last = self.len.checked_sub(1)?;
        let item = self.slot_mut(last).and_then(Option::take);
        self.len = last;
        item
    }

    /// Forgets all items and keeps the memory.
    pub fn clear(&mut self) {
        while self.pop_front().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::collections::VecDeque;

    /// A number below `n` from a sequence that only `state` decides.
    fn draw(state: &mut u64, n: u64) -> u64 {
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
        (*state >> 33) % n
    }

    #[test]
    fn a_ring_does_what_a_queue_does() {
        let (mut ring, mut twin, mut state) = (Ring::new(), VecDeque::new(), 1);
        for number in 0..10_000u64 {
            match draw(&mut state, 7) {
                0..=2 => {
                    ring.reserve(1).unwrap();
                    ring.push(number).unwrap();
                    twin.push_back(number);
                }
                3 | 4 => assert_eq!(ring.pop_front(), twin.pop_front()),
                5 => assert_eq!(ring.pop_back(), twin.pop_back()),
                _ if draw(&mut state, 200) == 0 => {
                    ring.clear();
                    twin.clear();
                }
                _ => {
                    let at = draw(&mut state, 40) as usize;
                    assert_eq!(ring.get(at), twin.get(at));
                    let below = number.saturating_sub(draw(&mut state, 40));
                    assert_eq!(
                        ring.partition_point(|n| *n < below),
                        twin.partition_point(|n| *n < below)
                    );
                }
            }
            assert_eq!((ring.len(), ring.last()), (twin.len(), twin.back()));
            assert!(ring.iter().eq(twin.iter()));
        }
    }

    #[test]
    fn what_there_is_no_room_for_comes_back() {
        let mut ring = Ring::new();
        assert_eq!(ring.push(7), Err(7));
        ring.reserve(1).unwrap();
        let room = (0..).take_while(|n| ring.push(*n).is_ok()).count();
        assert!(room >= 1);
        assert_eq!((ring.len(), ring.pop_back()), (room, Some(room as i32 - 1)));
    }
}
