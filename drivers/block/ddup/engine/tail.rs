// SPDX-License-Identifier: GPL-2.0

//! The journal's tail: the epochs of a member that the journal holds behind the last checkpoint.
//! Recovery gathers them as it replays their seals, and the window begins with the newest of them. So
//! a peer that is where one of them ends goes on with the stream, and is not compared.
//!
//! Records say what a store did, entries what that means to every store. Here the ones become the
//! others again. The chain proves it: an epoch that does not lead to the chain in its seal is left out,
//! as older versions did not keep where an entry of zeroes ends. So is one that refers to a cluster of
//! which the journal says later that its content was bad, or that it was retired: before the crash the
//! window may have let go of that. With an epoch all before it are left out, as a window has no gaps.
//!
//! A window may as well begin empty: nothing here fails an attach.

use super::format::journal::{self as codec, MapChange, Record};
use super::format::page::VolumeEntry;
use super::mark::mark;
use super::member::{zeroes, Member, WINDOW};
use super::overlay::Overlay;
use super::replication::epoch::{chain_entry, chain_seal, Epoch, Window};
use super::replication::set::WINDOW_EPOCHS_MAX;
use super::replication::types::{Entry, Id, Op, Position};
use super::ring::Ring;
use super::state::Store;
use super::types::{Cluster, Millis, Name};
use super::Hash;
use kernel::prelude::*;

/// Entries that are kept, as in a window that no peer needs.
const ENTRIES_MAX: usize = WINDOW as usize / 2;

/// The newest epochs behind the last checkpoint, and what is to be pinned for them.
///
/// # Invariants
///
/// There is a pin for each entry, in the same order: its epoch, and the cluster that it refers to.
pub(super) struct Tail {
    window: Window,
    pins: Ring<(u64, Cluster)>,
    hash: Hash,
    /// When they became known.
    now: Millis,
}

impl Tail {
    /// None yet.
    pub(super) fn new(hash: Hash, now: Millis) -> Tail {
        Tail {
            window: Window::default(),
            pins: Ring::new(),
            hash,
            now,
        }
    }

    /// Takes an epoch that leads from a chain to a position, whose records were replayed.
    pub(super) fn take(
        &mut self,
        records: &[u8],
        store_clusters: u64,
        volumes: &[VolumeEntry],
        chain: u64,
        position: Position,
    ) {
        let entries = self.entries(records, store_clusters, volumes, position.epoch);
        let taken = entries.and_then(|entries| self.push(entries, chain, position));
        if taken.is_err() {
            mark!(member_tail_left_out);
            self.forget(position.epoch);
        }
        while self.window.entries() > ENTRIES_MAX || self.window.len() > WINDOW_EPOCHS_MAX {
            self.forget(self.window.first().unwrap_or(u64::MAX));
        }
    }

    fn push(&mut self, entries: KVVec<Entry>, chain: u64, position: Position) -> Result {
        let hash = self.hash;
        let chain = entries
            .iter()
            .fold(chain, |chain, entry| chain_entry(chain, entry, hash));
        let Position {
            term, reign, epoch, ..
        } = position;
        if chain_seal(chain, term, &reign, epoch, hash) != position.chain {
            return Err(EINVAL);
        }
        self.window.reserve(1)?;
        self.window
            .push(Epoch::new(epoch, entries, Some(position), self.now));
        Ok(())
    }

    /// The entries of an epoch that these records were made of, with a pin for each.
    fn entries(
        &mut self,
        records: &[u8],
        store_clusters: u64,
        volumes: &[VolumeEntry],
        epoch: u64,
    ) -> Result<KVVec<Entry>> {
        let uuid = |id: u32| {
            let volume = volumes.iter().find(|v| v.id == id);
            volume.map(|v| v.uuid).ok_or(EINVAL)
        };
        let mut entries: KVVec<Entry> = KVVec::new();
        let (mut at, mut goes_on) = (0, false);
        while let Some((record, next)) =
            codec::read_record(records, at, records.len(), store_clusters).map_err(|_| EINVAL)?
        {
            at = next;
            match record {
                Record::Map {
                    volume,
                    lbn,
                    fresh,
                    changes,
                    ..
                } => {
                    let volume = uuid(volume)?;
                    for (lbn, change) in (lbn.0..).zip(changes.iter()) {
                        entries.push(written(volume, lbn, fresh, &change), GFP_KERNEL)?;
                        self.pin(epoch, change.cluster)?;
                    }
                }
                Record::Unmap { count, more, .. } if goes_on => {
                    let whole = entries.last_mut().ok_or(EINVAL)?;
                    whole.count = whole.count.saturating_add(count);
                    goes_on = more;
                }
                Record::Unmap {
                    volume, lbn, count, ..
                }
                | Record::Discard { volume, lbn, count } => {
                    entries.push(zeroes(uuid(volume)?, lbn, count), GFP_KERNEL)?;
                    self.pin(epoch, Cluster::NONE)?;
                    goes_on = matches!(record, Record::Unmap { more: true, .. });
                }
                Record::Retire { .. } | Record::Quarantine { .. } | Record::Seal(_) => {
                    return Err(EINVAL)
                }
            }
        }
        Ok(entries)
    }

    fn pin(&mut self, epoch: u64, cluster: Cluster) -> Result {
        self.pins.reserve(1)?;
        self.pins.push((epoch, cluster)).map_err(|_| ENOMEM)
    }

    /// Leaves out the epochs up to this one.
    fn forget(&mut self, epoch: u64) {
        while self.window.first().is_some_and(|first| first <= epoch) {
            self.window.pop_front();
        }
        while self.pins.first().is_some_and(|(first, _)| *first <= epoch) {
            let _ = self.pins.pop_front();
        }
    }

    /// Leaves out the epochs whose content may be gone: the journal has taken the names of some of their
    /// clusters, or given them others since.
    fn leave_out_gone(&mut self, overlay: &Overlay) {
        let entries = self.window.behind(0).flat_map(|epoch| epoch.entries.iter());
        let is_gone = |(entry, (_, cluster)): &(&Entry, &(u64, Cluster))| {
            let name = overlay.name(*cluster);
            *cluster != Cluster::NONE && name.is_some_and(|name| name.0 != entry.digest)
        };
        let gone = entries.zip(self.pins.iter()).filter(is_gone).last();
        if let Some(epoch) = gone.map(|(_, (epoch, _))| *epoch) {
            mark!(member_tail_is_gone);
            self.forget(epoch);
        }
    }
}

/// The entry of a block that was written.
fn written(volume: Id, lbn: u64, fresh: bool, change: &MapChange) -> Entry {
    Entry {
        op: Op::Write,
        // A block that nobody has is in a cluster of its own, too.
        fresh: fresh && change.name != Name::NONE,
        volume,
        lbn,
        count: 1,
        check: change.check.0,
        digest: change.name.0,
    }
}

impl Store {
    /// The window begins with the journal's tail, which is pinned like all that a window holds.
    pub(super) fn begin_window(&mut self, mut tail: Tail) {
        tail.leave_out_gone(&self.overlay);
        let Tail {
            window, mut pins, ..
        } = tail;
        let room = self.holds.reserve(self.holds.len() + pins.len()).is_ok();
        let begins = |member: &mut KBox<Member>| room && member.set_mut().begin_window(window);
        if !self.member.as_mut().is_some_and(begins) {
            return;
        }
        mark!(member_window_begins_with_tail);
        while let Some((epoch, cluster)) = pins.pop_front() {
            self.pin_entry(epoch, cluster);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::page::Pointer;
    use super::super::types::{Check, Generation, Lbn};
    use super::*;
    extern crate std;
    use kernel::fail_alloc::{self, Policy};
    use std::{vec, vec::Vec};

    const STORE: u64 = 1 << 20;
    const UUID: Id = [8; 16];
    const REIGN: Id = [3; 16];

    fn volume() -> VolumeEntry {
        VolumeEntry {
            id: 1,
            uuid: UUID,
            blocks: 10_000,
            generation: Generation(0),
            parent_generation: Generation(0),
            origin: 0,
            levels: 2,
            root: Pointer::default(),
            keeps: None,
            shadow: false,
            map: 1,
        }
    }

    fn change(cluster: u64, name: u8) -> MapChange {
        MapChange {
            cluster: Cluster(cluster),
            check: Check(name.into()),
            name: Name([name; 24]),
        }
    }

    fn sum(bytes: &[u8], seed: u64) -> u64 {
        bytes.iter().fold(!seed, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    /// An epoch's records, and its entries.
    #[derive(Clone, Default)]
    struct Work {
        records: Vec<u8>,
        entries: Vec<Entry>,
    }

    impl Work {
        fn write(mut self, lbn: u64, fresh: bool, changes: &[MapChange]) -> Work {
            let at = self.records.len();
            self.records.resize(at + 4096, 0);
            let mut all = changes.iter().copied();
            let end = codec::write_map(&mut self.records, at, 1, Lbn(lbn), fresh, false, &mut all);
            self.records.truncate(end);
            for (lbn, change) in (lbn..).zip(changes) {
                self.entries.push(Entry {
                    op: Op::Write,
                    fresh: fresh && change.name != Name::NONE,
                    volume: UUID,
                    lbn,
                    count: 1,
                    check: change.check.0,
                    digest: change.name.0,
                });
            }
            self
        }

        /// Zeroes in records of so many blocks each, which say that they go on, or don't.
        fn zero(mut self, lbn: u64, parts: &[u64], says: bool) -> Work {
            let mut first = lbn;
            for (at, &count) in (1..).zip(parts) {
                let record = Record::Unmap {
                    volume: 1,
                    lbn: Lbn(first),
                    count,
                    more: says && at < parts.len(),
                };
                self = self.small(&record);
                first += count;
            }
            self.entries
                .push(zeroes(UUID, Lbn(lbn), parts.iter().sum()));
            self
        }

        fn small(mut self, record: &Record<'_>) -> Work {
            let at = self.records.len();
            self.records.resize(at + 64, 0);
            let end = codec::write_small(&mut self.records, at, record);
            self.records.truncate(end);
            self
        }
    }

    /// Gives a tail epochs, the first with number 5, each behind the one before.
    fn gather(epochs: &[Work]) -> Tail {
        let (mut tail, mut chain) = (Tail::new(sum, 77), 1234);
        for (epoch, work) in (5..).zip(epochs) {
            let entries = work.entries.iter();
            let end = entries.fold(chain, |chain, entry| chain_entry(chain, entry, sum));
            let position = Position {
                term: 2,
                reign: REIGN,
                epoch,
                chain: chain_seal(end, 2, &REIGN, epoch, sum),
            };
            tail.take(&work.records, STORE, &[volume()], chain, position);
            chain = position.chain;
        }
        tail
    }

    fn numbers(tail: &Tail) -> Vec<u64> {
        assert_eq!(tail.pins.len(), tail.window.entries());
        assert!(tail.window.behind(0).all(|e| e.sealed_at == 77));
        tail.window.behind(0).map(|e| e.number).collect()
    }

    fn one(cluster: u64) -> Work {
        Work::default().write(cluster, true, &[change(cluster, 1)])
    }

    #[test]
    fn records_become_the_entries_that_they_were_made_of() {
        let unknown = MapChange {
            name: Name::NONE,
            ..change(11, 0)
        };
        let work = Work::default()
            .write(7, true, &[change(9, 1), change(10, 2)])
            .zero(240, &[12, 252, 30], true)
            .zero(534, &[5], true)
            .small(&Record::Discard {
                volume: 1,
                lbn: Lbn(900),
                count: 9000,
            })
            .write(7, false, &[change(10, 2)])
            .write(8, true, &[unknown]);
        let mut work = work;
        let discard = zeroes(UUID, Lbn(900), 9000);
        work.entries.insert(4, discard);
        let tail = gather(&[Work::default(), work.clone(), one(12)]);
        assert_eq!(numbers(&tail), [5, 6, 7]);
        assert_eq!(&tail.window.get(6).unwrap().entries[..], &work.entries[..]);
        let pins: Vec<_> = tail.pins.iter().map(|(e, c)| (*e, c.0)).collect();
        let none = Cluster::NONE.0;
        let of_6 = [9, 10, none, none, none, 10, 11].map(|cluster| (6, cluster));
        assert_eq!(pins, [&of_6[..], &[(7, 12)]].concat());
    }

    #[test]
    fn an_epoch_whose_chain_differs_is_left_out_with_all_before() {
        // As an older version has it: nobody can tell that this was one entry.
        let old = Work::default().zero(240, &[12, 252], false);
        assert!(numbers(&gather(&[one(9), one(10), old.clone()])).is_empty());
        assert_eq!(numbers(&gather(&[one(9), old, one(10), one(11)])), [7, 8]);
        let mut of_none = one(9);
        of_none.records[4] = 2;
        assert_eq!(numbers(&gather(&[one(9), of_none, one(10)])), [7]);
    }

    #[test]
    fn the_newest_epochs_are_kept() {
        let many: Vec<_> = (0..WINDOW_EPOCHS_MAX as u64 + 9).map(|_| one(9)).collect();
        let kept = numbers(&gather(&many));
        assert_eq!((kept.len(), kept[0]), (WINDOW_EPOCHS_MAX, 5 + 9));
        let large = || {
            (0..50).fold(Work::default(), |work, _| {
                work.write(0, true, &[change(9, 1); 64])
            })
        };
        let kept = numbers(&gather(&vec![large(); 3]));
        assert_eq!(kept, [7], "{} entries each", 50 * 64);
    }

    #[test]
    fn what_has_lost_its_name_is_left_out_with_all_before() {
        let mut overlay = Overlay::new(STORE);
        overlay.reserve(0, 16, 0).unwrap();
        let epochs = [9, 10, 11, 12].map(one);
        let left = |overlay: &Overlay| {
            let mut tail = gather(&epochs);
            tail.leave_out_gone(overlay);
            numbers(&tail)
        };
        overlay.set_name(Cluster(11), Name([1; 24])).unwrap();
        assert_eq!(left(&overlay), [5, 6, 7, 8]);
        overlay.retire(Cluster(9), true).unwrap();
        assert_eq!(left(&overlay), [6, 7, 8]);
        overlay.set_name(Cluster(9), Name([2; 24])).unwrap();
        assert_eq!(left(&overlay), [6, 7, 8]);
        overlay.set_name(Cluster(9), Name([1; 24])).unwrap();
        assert_eq!(left(&overlay), [5, 6, 7, 8]);
        overlay.quarantine(Cluster(11)).unwrap();
        assert_eq!(left(&overlay), [8]);
    }

    #[test]
    fn without_memory_the_newest_epochs_are_kept_or_none() {
        let epochs: Vec<_> = (0..40).map(one).skip(1).collect();
        let mut lengths = Vec::new();
        for nth in 0.. {
            let tail = fail_alloc::with(Policy::Nth(nth), || gather(&epochs));
            let kept = numbers(&tail);
            let last = 4 + epochs.len() as u64;
            assert!(kept.is_empty() || kept.last() == Some(&last), "{kept:?}");
            lengths.push(kept.len());
            if kept.len() == epochs.len() {
                break;
            }
        }
        assert!(lengths.len() > 40, "{lengths:?}");
        let none = fail_alloc::with(Policy::From(0), || gather(&epochs));
        assert!(numbers(&none).is_empty());
    }
}
