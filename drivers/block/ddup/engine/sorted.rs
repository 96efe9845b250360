// SPDX-License-Identifier: GPL-2.0

//! [`SortedMap`]: an ordered map from 64-bit keys, whose memory can be promised beforehand.
//!
//! Two levels: a directory of chunks of up to [`CHUNK`] ascending entries. A full chunk splits in
//! halves, and neighbours that together fit a half are merged, so a map of `n` entries never needs
//! more than `n / 16 + 2` chunks. [`SortedMap::reserve`] allocates those before a request is
//! admitted; inserting then needs no memory. Keys stand apart from their values, so that a search
//! touches few cache lines.

use kernel::prelude::*;

/// Entries of a chunk.
const CHUNK: usize = 64;

/// Ascending keys, and the value of each.
///
/// # Invariants
///
/// Both have the same length, [`CHUNK`] at most, and capacity for [`CHUNK`].
#[derive(Debug)]
struct Chunk<V> {
    keys: KVec<u64>,
    values: KVec<V>,
}

impl<V: Copy> Chunk<V> {
    fn new() -> Result<Self> {
        Ok(Self {
            keys: KVec::with_capacity(CHUNK, GFP_KERNEL)?,
            values: KVec::with_capacity(CHUNK, GFP_KERNEL)?,
        })
    }

    fn len(&self) -> usize {
        self.keys.len()
    }

    fn key(&self, at: usize) -> Option<u64> {
        self.keys.get(at).copied()
    }

    fn entry(&self, at: usize) -> Option<(u64, V)> {
        Some((self.key(at)?, *self.values.get(at)?))
    }

    /// Where `key` is, or where it would be inserted.
    fn search(&self, key: u64) -> Result<usize, usize> {
        self.keys.binary_search(&key)
    }

    /// How many keys are below `key`.
    fn below(&self, key: u64) -> usize {
        self.keys.partition_point(|&k| k < key)
    }

    /// There is room.
    fn insert(&mut self, at: usize, key: u64, value: V) {
        let _ = self.keys.insert_within_capacity(at, key);
        let _ = self.values.insert_within_capacity(at, value);
    }

    fn remove(&mut self, at: usize) -> Option<V> {
        self.keys.remove(at).ok()?;
        self.values.remove(at).ok()
    }

    /// Takes over what `other` holds from position `from` on; there is room.
    fn append(&mut self, other: &Self, from: usize) {
        for (&key, &value) in other.keys.iter().zip(other.values.iter()).skip(from) {
            let _ = self.keys.push_within_capacity(key);
            let _ = self.values.push_within_capacity(value);
        }
    }

    fn truncate(&mut self, len: usize) {
        self.keys.truncate(len);
        self.values.truncate(len);
    }
}

/// An ordered map from `u64` to `V`.
///
/// # Invariants
///
/// - Chunks are not empty, their entries ascend, and so do the chunks.
/// - `firsts[i]` is the first key of `chunks[i]`.
/// - Two neighbouring chunks hold more than `CHUNK / 2` entries together.
/// - `spare` chunks are empty and have a capacity of [`CHUNK`].
#[derive(Debug)]
pub struct SortedMap<V> {
    firsts: KVVec<u64>,
    chunks: KVVec<Chunk<V>>,
    spare: KVVec<Chunk<V>>,
    len: usize,
    /// The chunk that an insertion found last: the next one is often near. Only a guess.
    near: usize,
}

/// A place in a map that does not change meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    chunk: usize,
    at: usize,
}

impl<V: Copy> Default for SortedMap<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: Copy> SortedMap<V> {
    /// An empty map; allocates nothing.
    pub fn new() -> Self {
        Self {
            firsts: KVVec::new(),
            chunks: KVVec::new(),
            spare: KVVec::new(),
            len: 0,
            near: 0,
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes sure that the map can grow to `total` entries without allocating.
    pub fn reserve(&mut self, total: usize) -> Result {
        let wanted = total.max(self.len) / 16 + 2;
        let have = self.chunks.len() + self.spare.len();
        if wanted <= have {
            return Ok(());
        }
        // Ahead by a quarter, so that growing by single requests rarely comes here.
        let wanted = wanted + wanted / 4;
        self.firsts
            .reserve(wanted.saturating_sub(self.firsts.len()), GFP_KERNEL)?;
        self.chunks
            .reserve(wanted.saturating_sub(self.chunks.len()), GFP_KERNEL)?;
        self.spare
            .reserve(wanted.saturating_sub(self.spare.len()), GFP_KERNEL)?;
        for _ in have..wanted {
            self.spare.push(Chunk::new()?, GFP_KERNEL)?;
        }
        Ok(())
    }

    /// Index of the chunk that holds, or would take, `key`.
    fn chunk_of(&self, key: u64) -> usize {
        self.firsts
            .partition_point(|&first| first <= key)
            .saturating_sub(1)
    }

    /// The same, for a key that is likely to be near the one before.
    fn chunk_near(&mut self, key: u64) -> usize {
        let is_it = |at: usize| {
            self.firsts.get(at).is_some_and(|&first| first <= key)
                && self.firsts.get(at + 1).is_none_or(|&next| key < next)
        };
        if !is_it(self.near) {
            self.near = self.chunk_of(key);
        }
        self.near
    }

    fn find(&self, key: u64) -> Option<(usize, usize)> {
        let c = self.chunk_of(key);
        Some((c, self.search(c, key).ok()?))
    }

    /// The value of `key`.
    pub fn get(&self, key: u64) -> Option<V> {
        let (c, at) = self.find(key)?;
        self.chunks.get(c)?.values.get(at).copied()
    }

    /// The value of `key`, to change it.
    pub fn get_mut(&mut self, key: u64) -> Option<&mut V> {
        let (c, at) = self.find(key)?;
        self.chunks.get_mut(c)?.values.get_mut(at)
    }

    /// The entry with the lowest key not below `key`.
    pub fn next_from(&self, key: u64) -> Option<(u64, V)> {
        let c = self.chunk_of(key);
        let chunk = self.chunks.get(c)?;
        match chunk.entry(chunk.below(key)) {
            Some(entry) => Some(entry),
            None => self.chunks.get(c + 1)?.entry(0),
        }
    }

    /// The entry with the highest key below `key`.
    pub fn last_before(&self, key: u64) -> Option<(u64, V)> {
        let chunk = self.chunks.get(self.chunk_of(key.checked_sub(1)?))?;
        chunk.entry(chunk.below(key).checked_sub(1)?)
    }

    /// Where the first entry with a key not below `key` is. Good until the map changes.
    pub fn seek(&self, key: u64) -> Cursor {
        let chunk = self.chunk_of(key);
        let at = self
            .chunks
            .get(chunk)
            .map_or(0, |entries| entries.below(key));
        Cursor { chunk, at }
    }

    /// The entry at a cursor, which moves to the next one; `None` behind the last.
    pub fn next(&self, cursor: &mut Cursor) -> Option<(u64, V)> {
        loop {
            let chunk = self.chunks.get(cursor.chunk)?;
            if let Some(entry) = chunk.entry(cursor.at) {
                cursor.at += 1;
                return Some(entry);
            }
            cursor.chunk += 1;
            cursor.at = 0;
        }
    }

    /// The value of `key`, to change it; if there is none, `value` is inserted and the keys around
    /// it are told to `inserted`. Needs memory as [`SortedMap::insert`] does.
    pub fn entry(
        &mut self,
        key: u64,
        value: V,
        inserted: impl FnOnce([Option<u64>; 2]),
    ) -> Result<&mut V> {
        let mut c = self.chunk_near(key);
        let mut at = match self.search(c, key) {
            Ok(at) => return self.value_at(c, at),
            Err(at) => at,
        };
        let before = match at.checked_sub(1) {
            Some(before) => self.key_at(c, before),
            None => c
                .checked_sub(1)
                .and_then(|c| self.chunks.get(c)?.keys.last().copied()),
        };
        let after = self.key_at(c, at).or_else(|| self.key_at(c + 1, 0));
        if self.chunks.get(c).is_none_or(|chunk| chunk.len() >= CHUNK) {
            self.insert(key, value)?;
            c = self.chunk_of(key);
            at = self.search(c, key).unwrap_or(0);
        } else {
            self.insert_at(c, at, key, value);
        }
        inserted([before, after]);
        self.value_at(c, at)
    }

    fn key_at(&self, c: usize, at: usize) -> Option<u64> {
        self.chunks.get(c)?.key(at)
    }

    fn value_at(&mut self, c: usize, at: usize) -> Result<&mut V> {
        let chunk = self.chunks.get_mut(c).ok_or(ENOMEM)?;
        chunk.values.get_mut(at).ok_or(ENOMEM)
    }

    /// Inserts into a chunk that has room.
    fn insert_at(&mut self, c: usize, at: usize, key: u64, value: V) {
        if let (Some(chunk), Some(first)) = (self.chunks.get_mut(c), self.firsts.get_mut(c)) {
            chunk.insert(at, key, value);
            if at == 0 {
                *first = key;
            }
            self.len += 1;
        }
    }

    /// Sets the value of `key` and returns the one before. Needs no memory within what
    /// [`SortedMap::reserve`] promised; beyond, fails with `ENOMEM` and changes nothing.
    pub fn insert(&mut self, key: u64, value: V) -> Result<Option<V>> {
        if self.chunks.is_empty() {
            let mut chunk = self.take_spare()?;
            chunk.insert(0, key, value);
            self.place(0, key, chunk)?;
            self.len += 1;
            return Ok(None);
        }
        let mut c = self.chunk_near(key);
        let mut at = match self.search(c, key) {
            Ok(at) => {
                let slot = self.value_at(c, at)?;
                return Ok(Some(core::mem::replace(slot, value)));
            }
            Err(at) => at,
        };
        if self.chunks.get(c).is_some_and(|chunk| chunk.len() >= CHUNK) {
            self.split(c)?;
            if self.firsts.get(c + 1).is_some_and(|&first| key >= first) {
                c += 1;
            }
            at = self.search(c, key).unwrap_or_else(|at| at);
        }
        self.insert_at(c, at, key, value);
        Ok(None)
    }

    /// Takes `key` out.
    pub fn remove(&mut self, key: u64) -> Option<V> {
        let (c, at) = self.find(key)?;
        let value = self.chunks.get_mut(c)?.remove(at)?;
        self.len -= 1;
        self.after_removal(c);
        Some(value)
    }

    /// Takes out all keys of `from..to` and hands them to `each`, in ascending order.
    pub fn remove_range(&mut self, from: u64, to: u64, mut each: impl FnMut(u64, V)) {
        while let Some((key, value)) = self.next_from(from) {
            if key >= to {
                return;
            }
            self.remove(key);
            each(key, value);
        }
    }

    /// Empties the map; keeps chunks for `keep` entries.
    pub fn clear(&mut self, keep: usize) {
        self.firsts.clear();
        while let Some(mut chunk) = self.chunks.pop() {
            if self.spare.len() < keep / 16 + 2 {
                chunk.truncate(0);
                let _ = self.spare.push_within_capacity(chunk);
            }
        }
        self.spare.truncate(keep / 16 + 2);
        self.len = 0;
    }

    /// Calls `each` for every entry in ascending order.
    pub fn for_each(&self, mut each: impl FnMut(u64, &V)) {
        for chunk in self.chunks.iter() {
            for (key, value) in chunk.keys.iter().zip(chunk.values.iter()) {
                each(*key, value);
            }
        }
    }

    /// Calls `each` for every entry in ascending order, to change its value.
    pub fn for_each_mut(&mut self, mut each: impl FnMut(u64, &mut V)) {
        for chunk in self.chunks.iter_mut() {
            for (key, value) in chunk.keys.iter().zip(chunk.values.iter_mut()) {
                each(*key, value);
            }
        }
    }

    fn search(&self, c: usize, key: u64) -> Result<usize, usize> {
        match self.chunks.get(c) {
            Some(chunk) => chunk.search(key),
            None => Err(0),
        }
    }

    fn take_spare(&mut self) -> Result<Chunk<V>> {
        match self.spare.pop() {
            Some(chunk) => Ok(chunk),
            None => Chunk::new(),
        }
    }

    /// Puts `chunk` at position `c` of the directory.
    fn place(&mut self, c: usize, first: u64, chunk: Chunk<V>) -> Result {
        self.firsts.reserve(1, GFP_KERNEL)?;
        self.chunks.reserve(1, GFP_KERNEL)?;
        let _ = self.firsts.insert_within_capacity(c, first);
        let _ = self.chunks.insert_within_capacity(c, chunk);
        Ok(())
    }

    fn split(&mut self, c: usize) -> Result {
        let mut upper = self.take_spare()?;
        let Some(lower) = self.chunks.get_mut(c) else {
            return Ok(());
        };
        upper.append(lower, CHUNK / 2);
        let Some(first) = upper.key(0) else {
            return Ok(());
        };
        self.place(c + 1, first, upper)?;
        if let Some(lower) = self.chunks.get_mut(c) {
            lower.truncate(CHUNK / 2);
        }
        Ok(())
    }

    /// Restores the invariants around a chunk that lost an entry.
    fn after_removal(&mut self, c: usize) {
        match self.key_at(c, 0) {
            None => return self.drop_chunk(c),
            Some(first) => {
                if let Some(slot) = self.firsts.get_mut(c) {
                    *slot = first;
                }
            }
        }
        let size = |c: usize| self.chunks.get(c).map_or(CHUNK, |chunk| chunk.len());
        let lower = if size(c) + size(c + 1) <= CHUNK / 2 {
            c
        } else if c > 0 && size(c - 1) + size(c) <= CHUNK / 2 {
            c - 1
        } else {
            return;
        };
        let Some(upper) = self.take_chunk(lower + 1) else {
            return;
        };
        if let Some(target) = self.chunks.get_mut(lower) {
            target.append(&upper, 0);
        }
        self.keep_spare(upper);
    }

    fn drop_chunk(&mut self, c: usize) {
        if let Some(chunk) = self.take_chunk(c) {
            self.keep_spare(chunk);
        }
    }

    fn take_chunk(&mut self, c: usize) -> Option<Chunk<V>> {
        let _ = self.firsts.remove(c);
        self.chunks.remove(c).ok()
    }

    fn keep_spare(&mut self, mut chunk: Chunk<V>) {
        chunk.truncate(0);
        let _ = self.spare.push_within_capacity(chunk);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::BTreeMap;

    fn check(map: &SortedMap<u64>, twin: &BTreeMap<u64, u64>) {
        assert_eq!(map.len(), twin.len());
        let mut seen = std::vec::Vec::new();
        map.for_each(|k, v| seen.push((k, *v)));
        assert!(seen.iter().copied().eq(twin.iter().map(|(k, v)| (*k, *v))));
        assert!(map.chunks.len() <= map.len() / 16 + 2);
    }

    #[test]
    fn behaves_like_a_btree_map_under_random_operations() {
        let mut random = 88172645463325252u64;
        let mut next = |bound: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % bound
        };
        for round in 0..20 {
            let (mut map, mut twin) = (SortedMap::new(), BTreeMap::new());
            let span = [50, 500, 5000, 1 << 40][round % 4];
            for step in 0..4000 {
                let key = if round % 5 == 0 { step } else { next(span) };
                match next(20) {
                    0..=11 => assert_eq!(map.insert(key, step).unwrap(), twin.insert(key, step)),
                    12..=15 => assert_eq!(map.remove(key), twin.remove(&key)),
                    16 => {
                        let to = key + next(span / 10 + 1);
                        let mut gone = std::vec::Vec::new();
                        map.remove_range(key, to, |k, v| gone.push((k, v)));
                        let expected: std::vec::Vec<_> =
                            twin.range(key..to).map(|(k, v)| (*k, *v)).collect();
                        assert_eq!(gone, expected);
                        twin.retain(|k, _| !(key..to).contains(k));
                    }
                    17 if key % 2 == 0 => {
                        let around = [
                            twin.range(..key).next_back().map(|e| *e.0),
                            twin.range(key..).next().map(|e| *e.0),
                        ];
                        let known = twin.contains_key(&key);
                        let mut told = None;
                        let value = map.entry(key, step, |around| told = Some(around)).unwrap();
                        assert_eq!(*value, *twin.entry(key).or_insert(step));
                        assert_eq!(told, (!known).then_some(around));
                        let mut cursor = map.seek(key);
                        assert_eq!(map.next(&mut cursor).map(|e| e.0), Some(key));
                        let next = twin.range(key + 1..).next().map(|(k, v)| (*k, *v));
                        assert_eq!(map.next(&mut cursor), next);
                    }
                    17 => {
                        let expected = twin.range(key..).next().map(|(k, v)| (*k, *v));
                        assert_eq!(map.next_from(key), expected);
                    }
                    18 => {
                        let expected = twin.range(..key).next_back().map(|(k, v)| (*k, *v));
                        assert_eq!(map.last_before(key), expected);
                    }
                    _ => assert_eq!(map.get(key), twin.get(&key).copied()),
                }
            }
            check(&map, &twin);
        }
    }

    #[test]
    fn inserts_within_the_reservation_need_no_memory() {
        let mut map = SortedMap::new();
        map.reserve(5000).unwrap();
        let before = (map.chunks.len() + map.spare.len(), map.firsts.capacity());
        for i in 0..5000u64 {
            map.insert(i.wrapping_mul(0x9e37_79b9_7f4a_7c15), i)
                .unwrap();
        }
        assert_eq!(
            before,
            (map.chunks.len() + map.spare.len(), map.firsts.capacity())
        );
    }
}
