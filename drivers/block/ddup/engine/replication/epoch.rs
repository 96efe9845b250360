// SPDX-License-Identifier: GPL-2.0

//! Epochs in memory, and the chain of a set's history.

use super::super::ring::Ring;
use super::super::Hash;
use super::types::{Entry, Id, Op, Position};
use kernel::prelude::*;

/// Bytes of a canonical record.
pub const RECORD_BYTES: usize = 41;
const SEAL_OP: u8 = 0xff;

/// The chain behind an entry, of what an entry means to every store: no cluster, no name.
pub fn chain_entry(chain: u64, entry: &Entry, hash: Hash) -> u64 {
    let mut record = [0; RECORD_BYTES];
    let fields: [&[u8]; 5] = [
        &[entry.op as u8],
        &entry.volume,
        &entry.lbn.to_le_bytes(),
        &entry.count.to_le_bytes(),
        &entry.check.to_le_bytes(),
    ];
    fill(&mut record, &fields);
    hash(&record, chain)
}

/// The chain behind an epoch's seal.
pub fn chain_seal(chain: u64, term: u64, reign: &Id, epoch: u64, hash: Hash) -> u64 {
    let mut record = [0; RECORD_BYTES];
    let fields: [&[u8]; 4] = [&[SEAL_OP], reign, &epoch.to_le_bytes(), &term.to_le_bytes()];
    fill(&mut record, &fields);
    hash(&record, chain)
}

fn fill(record: &mut [u8], fields: &[&[u8]]) {
    let mut at = 0;
    for field in fields {
        if let Some(place) = record.get_mut(at..at + field.len()) {
            place.copy_from_slice(field);
        }
        at += field.len();
    }
}

/// An epoch whose entries are in memory.
#[derive(Debug)]
pub struct Epoch {
    /// Its number.
    pub number: u64,
    /// Its entries in journal order.
    pub entries: KVVec<Entry>,
    /// Blocks that they write.
    pub written: u64,
    /// Its end; `None` while a primary adds to it.
    pub position: Option<Position>,
    /// When it ended, in milliseconds of the store's clock.
    pub sealed_at: u64,
}

impl Epoch {
    /// An epoch with these entries.
    pub fn new(
        number: u64,
        entries: KVVec<Entry>,
        position: Option<Position>,
        sealed_at: u64,
    ) -> Self {
        let writes = entries.iter().filter(|e| e.op == Op::Write);
        Epoch {
            number,
            written: writes.count() as u64,
            entries,
            position,
            sealed_at,
        }
    }

    /// Whether it is a change of volumes, and so nothing else.
    pub fn changes_volumes(&self) -> bool {
        self.entries.first().is_some_and(|e| e.op.changes_volumes())
    }
}

/// The newest epochs, for peers that are a little behind. After an attach it begins with those of the
/// journal's tail.
///
/// # Invariants
///
/// Numbers are consecutive; only the last one may be open.
#[derive(Debug, Default)]
pub struct Window {
    epochs: Ring<Epoch>,
    entries: usize,
    /// Room for the entries of the next epochs that are opened.
    spares: KVec<KVVec<Entry>>,
}

impl Window {
    /// Entries of all epochs.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// How many epochs there are.
    pub fn len(&self) -> usize {
        self.epochs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.epochs.is_empty()
    }

    /// Number of the oldest epoch.
    pub fn first(&self) -> Option<u64> {
        self.epochs.first().map(|e| e.number)
    }

    /// The newest epoch.
    pub fn last(&self) -> Option<&Epoch> {
        self.epochs.last()
    }

    /// An epoch.
    pub fn get(&self, number: u64) -> Option<&Epoch> {
        let at = number.checked_sub(self.first()?)?;
        self.epochs.get(usize::try_from(at).ok()?)
    }

    /// An entry of an epoch.
    pub fn entry(&self, number: u64, index: u32) -> Option<&Entry> {
        self.get(number)?.entries.get(index as usize)
    }

    /// Makes room for `count` more epochs.
    pub fn reserve(&mut self, count: usize) -> Result {
        self.epochs.reserve(count)
    }

    /// Makes room for `count` entries in the open epoch and those behind it, which are to have
    /// `limit` entries each at most.
    pub fn reserve_entries(&mut self, count: usize, limit: usize) -> Result {
        let (limit, epochs) = (limit.max(1), count.div_ceil(limit.max(1)));
        self.epochs.reserve(1 + epochs)?;
        self.spares.reserve(epochs, GFP_KERNEL)?;
        while self.spares.len() < epochs {
            let _ = self.spares.push_within_capacity(KVVec::new());
        }
        let open = self.epochs.last_mut().filter(|e| e.position.is_none());
        let open = open.map(|e| &mut e.entries);
        // Named whole: the kernel's prelude has another `chain`.
        for entries in Iterator::chain(self.spares.iter_mut(), open) {
            if entries.capacity() < limit && entries.len() < limit {
                entries.reserve(limit - entries.len(), GFP_KERNEL)?;
            }
        }
        Ok(())
    }

    /// Whether there is room for the entries of one more epoch.
    pub fn has_spare(&self) -> bool {
        !self.spares.is_empty()
    }

    /// The epochs behind one.
    pub fn behind(&self, number: u64) -> impl Iterator<Item = &Epoch> + '_ {
        self.epochs.iter().filter(move |e| e.number > number)
    }

    /// Opens the next epoch, for which there is room.
    pub fn open(&mut self, number: u64) {
        let entries = self.spares.pop().unwrap_or_default();
        self.push(Epoch::new(number, entries, None, 0));
    }

    /// Appends an epoch, for which there is room; forgets the others if it is not the next one.
    pub fn push(&mut self, epoch: Epoch) {
        let next = self.last().map(|e| e.number + 1);
        if next.is_some_and(|next| next != epoch.number) {
            self.clear();
        }
        self.entries += epoch.entries.len();
        let _ = self.epochs.push(epoch);
    }

    /// Adds an entry to the open epoch and gives its index.
    pub fn add(&mut self, entry: Entry) -> Result<u32> {
        let open = self.epochs.last_mut().ok_or(EINVAL)?;
        let index = open.entries.len() as u32;
        open.entries.push(entry, GFP_KERNEL)?;
        open.written += u64::from(entry.op == Op::Write);
        self.entries += 1;
        Ok(index)
    }

    /// Closes the open epoch.
    pub fn seal(&mut self, position: Position, now: u64) {
        let Some(open) = self.epochs.last_mut() else {
            return;
        };
        open.position = Some(position);
        open.sealed_at = now;
        // A short epoch keeps no long buffer, if there is memory for another.
        if open.entries.len() < open.entries.capacity() / 2
            && self.spares.is_empty()
            && self.spares.reserve(1, GFP_KERNEL).is_ok()
        {
            let mut exact = KVVec::new();
            if exact.extend_from_slice(&open.entries, GFP_KERNEL).is_ok() {
                let mut spare = core::mem::replace(&mut open.entries, exact);
                spare.clear();
                let _ = self.spares.push_within_capacity(spare);
            }
        }
    }

    /// Forgets an open epoch without entries.
    pub fn drop_open(&mut self) {
        let is_open = |e: &Epoch| e.position.is_none() && e.entries.is_empty();
        if self.last().is_some_and(is_open) {
            let _ = self.epochs.pop_back();
        }
    }

    /// Forgets the oldest epoch.
    pub fn pop_front(&mut self) {
        if let Some(epoch) = self.epochs.pop_front() {
            self.entries -= epoch.entries.len();
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.epochs.clear();
        self.entries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::tests::sum;
    use super::*;

    fn epoch(number: u64, entries: usize) -> Epoch {
        let entries = KVVec::from_elem(Entry::default(), entries, GFP_KERNEL).unwrap();
        Epoch::new(number, entries, Some(Position::ZERO), 0)
    }

    #[test]
    fn a_window_is_consecutive_and_knows_its_size() {
        let mut window = Window::default();
        window.reserve(8).unwrap();
        for number in 5..9 {
            window.push(epoch(number, 2));
        }
        assert_eq!((window.len(), window.entries()), (4, 8));
        assert!(window.get(4).is_none() && window.get(9).is_none());
        assert_eq!(window.get(7).map(|e| e.number), Some(7));
        window.pop_front();
        assert_eq!((window.first(), window.entries()), (Some(6), 6));
        window.push(epoch(11, 1));
        assert_eq!((window.first(), window.entries()), (Some(11), 1));
    }

    #[test]
    fn an_epoch_counts_what_it_writes_anew() {
        let mut window = Window::default();
        for number in 1..4 {
            window.reserve_entries(4, 4).unwrap();
            window.open(number);
            for op in [Op::Write, Op::Zero, Op::Write] {
                let entry = Entry {
                    op,
                    count: 1,
                    ..Entry::default()
                };
                window.add(entry).unwrap();
            }
            window.seal(Position::ZERO, 0);
        }
        let written = |number| window.behind(number).map(|e| e.written).sum::<u64>();
        assert_eq!((written(0), written(2), written(3)), (6, 2, 0));
    }

    #[test]
    fn the_chain_tells_entries_from_each_other_and_from_a_seal() {
        let mut entry = Entry {
            count: 1,
            ..Entry::default()
        };
        let first = chain_entry(1, &entry, sum);
        assert_ne!(first, chain_entry(2, &entry, sum));
        // Where the data lies and what names it here means nothing to others.
        entry.digest = [7; 24];
        entry.fresh = true;
        assert_eq!(first, chain_entry(1, &entry, sum));
        entry.check = 1;
        assert_ne!(first, chain_entry(1, &entry, sum));
        assert_ne!(
            chain_seal(1, 1, &[1; 16], 1, sum),
            chain_seal(1, 2, &[1; 16], 1, sum)
        );
    }
}
