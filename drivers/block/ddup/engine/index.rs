// SPDX-License-Identifier: GPL-2.0

//! The index: fingerprint to cluster, in bounded memory. One per store.
//!
//! It is advice. A lost entry costs a missed duplicate; a wrong one is found when the hit is
//! confirmed. What it must not hold is a cluster that was retired, which the recycler sees to.
//!
//! Buckets of one cache line hold nine entries of seven bytes (16 bits of tag, 40 of cluster), the
//! most useful first: a hit moves an entry one place forward, a new one enters in the middle and
//! pushes out the last. 7.1 bytes an entry are 1.8 GiB for each TiB of unique data.

use super::format::index::ENTRY_BYTES;
pub use super::format::index::WAYS;
use super::types::{Cluster, Name};
use kernel::prelude::*;

const BUCKET_BYTES: usize = 64;
/// Where a new entry enters its bucket.
const ENTRY_WAY: usize = 3;

type Bucket = [u8; BUCKET_BYTES];

/// Fingerprint to cluster.
pub struct Index {
    buckets: VVec<Bucket>,
    used: u64,
}

fn entry(bucket: &Bucket, way: usize) -> (u16, Cluster) {
    let at = way * ENTRY_BYTES;
    let mut raw = [0; 8];
    raw[..ENTRY_BYTES].copy_from_slice(&bucket[at..at + ENTRY_BYTES]);
    let raw = u64::from_le_bytes(raw);
    ((raw & 0xffff) as u16, Cluster(raw >> 16))
}

fn set_entry(bucket: &mut Bucket, way: usize, tag: u16, cluster: Cluster) {
    let at = way * ENTRY_BYTES;
    let raw = (u64::from(tag) | cluster.0 << 16).to_le_bytes();
    bucket[at..at + ENTRY_BYTES].copy_from_slice(&raw[..ENTRY_BYTES]);
}

/// What tells the names of a bucket apart, mostly.
pub fn tag(name: &Name) -> u16 {
    u16::from_le_bytes([name.0[8], name.0[9]])
}

/// The bucket of a name, of so many.
pub fn bucket_of(name: &Name, buckets: u64) -> u64 {
    (u128::from(name.hash()) * u128::from(buckets) >> 64) as u64
}

impl Index {
    /// An empty index of at most `bytes` bytes, one bucket at least.
    pub fn new(bytes: u64) -> Result<Index> {
        let count = (bytes / BUCKET_BYTES as u64).max(1) as usize;
        Ok(Index {
            // May be larger than what kvmalloc takes, and than what there is.
            buckets: VVec::from_elem([0; BUCKET_BYTES], count, GFP_KERNEL | __GFP_NOWARN)?,
            used: 0,
        })
    }

    /// Memory of the index, in bytes.
    pub fn bytes(&self) -> u64 {
        (self.buckets.len() * BUCKET_BYTES) as u64
    }

    /// Entries in use.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Entries that there is room for.
    pub fn capacity(&self) -> u64 {
        (self.buckets.len() * WAYS) as u64
    }

    fn bucket(&mut self, name: &Name) -> Option<&mut Bucket> {
        let at = bucket_of(name, self.buckets());
        self.buckets.get_mut(at as usize)
    }

    /// Whether the entries of two names look the same.
    pub fn confuses(&self, a: &Name, b: &Name) -> bool {
        let bucket = |name| bucket_of(name, self.buckets());
        bucket(a) == bucket(b) && tag(a) == tag(b)
    }

    /// Buckets.
    pub fn buckets(&self) -> u64 {
        self.buckets.len() as u64
    }

    /// The entries of a bucket as they are saved.
    pub fn entries(&self, bucket: u64) -> &[u8] {
        let Some(bucket) = self.buckets.get(bucket as usize) else {
            return &[];
        };
        let used = (0..WAYS).take_while(|&way| entry(bucket, way).1 != Cluster::NONE);
        bucket.get(..used.count() * ENTRY_BYTES).unwrap_or(&[])
    }

    /// Puts a saved entry behind those of its bucket. False: there is no room, or it is there.
    pub fn restore(&mut self, bucket: u64, tag: u16, cluster: Cluster) -> bool {
        let Some(bucket) = self.buckets.get_mut(bucket as usize) else {
            return false;
        };
        for way in 0..WAYS {
            match entry(bucket, way) {
                (t, c) if t == tag && c == cluster => return false,
                (_, Cluster::NONE) => {
                    set_entry(bucket, way, tag, cluster);
                    self.used += 1;
                    return true;
                }
                _ => {}
            }
        }
        false
    }

    /// The clusters that may hold the content of this name, the most useful first.
    pub fn lookup(&mut self, name: &Name) -> ([Cluster; WAYS], usize) {
        let mut found = [Cluster::NONE; WAYS];
        let mut count = 0;
        if let Some(bucket) = self.bucket(name) {
            for way in 0..WAYS {
                let (t, cluster) = entry(bucket, way);
                if cluster != Cluster::NONE && t == tag(name) {
                    found[count] = cluster;
                    count += 1;
                }
            }
        }
        (found, count)
    }

    /// Notes that `cluster` holds the content of `name`. The last of the bucket gives way.
    pub fn insert(&mut self, name: &Name, cluster: Cluster) {
        let tag = tag(name);
        let Some(bucket) = self.bucket(name) else {
            return;
        };
        let mut free = None;
        for way in 0..WAYS {
            match entry(bucket, way) {
                (t, c) if t == tag && c == cluster => return,
                (_, Cluster::NONE) => {
                    free = Some(way);
                    break;
                }
                _ => {}
            }
        }
        let last = free.unwrap_or(WAYS - 1);
        for way in (ENTRY_WAY.min(last)..last).rev() {
            let (t, c) = entry(bucket, way);
            set_entry(bucket, way + 1, t, c);
        }
        set_entry(bucket, ENTRY_WAY.min(last), tag, cluster);
        self.used += u64::from(free.is_some());
    }

    /// Notes that an entry served: it moves one place forward.
    pub fn hit(&mut self, name: &Name, cluster: Cluster) {
        let Some(bucket) = self.bucket(name) else {
            return;
        };
        for way in 1..WAYS {
            let (t, c) = entry(bucket, way);
            if t == tag(name) && c == cluster {
                let (before_tag, before) = entry(bucket, way - 1);
                set_entry(bucket, way, before_tag, before);
                set_entry(bucket, way - 1, t, c);
                return;
            }
        }
    }

    /// Forgets that `cluster` holds the content of `name`.
    pub fn remove(&mut self, name: &Name, cluster: Cluster) {
        let mut gone = false;
        if let Some(bucket) = self.bucket(name) {
            for way in 0..WAYS {
                let (t, c) = entry(bucket, way);
                if t == tag(name) && c == cluster && c != Cluster::NONE {
                    for later in way + 1..WAYS {
                        let (t, c) = entry(bucket, later);
                        set_entry(bucket, later - 1, t, c);
                    }
                    set_entry(bucket, WAYS - 1, 0, Cluster::NONE);
                    gone = true;
                    break;
                }
            }
        }
        self.used -= u64::from(gone && self.used > 0);
    }
}

const _: () = assert!(WAYS * ENTRY_BYTES <= BUCKET_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u64) -> Name {
        let mut name = [1; 24];
        name[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        name[8..16].copy_from_slice(&n.to_le_bytes());
        Name(name)
    }

    #[test]
    fn what_was_inserted_is_found_until_removed() {
        let mut index = Index::new(1 << 20).unwrap();
        for n in 1..50_000 {
            index.insert(&name(n), Cluster(n));
            index.insert(&name(n), Cluster(n));
        }
        assert_eq!(index.used(), 49_999);
        for n in 1..50_000 {
            let (found, count) = index.lookup(&name(n));
            assert!(found[..count].contains(&Cluster(n)));
            index.remove(&name(n), Cluster(n));
            assert!(!index.lookup(&name(n)).0.contains(&Cluster(n)));
        }
        assert_eq!(index.used(), 0);
    }

    #[test]
    fn a_full_bucket_keeps_what_served_and_drops_what_did_not() {
        let mut index = Index::new(1).unwrap();
        index.insert(&name(7), Cluster(7));
        for n in 100..200 {
            index.hit(&name(7), Cluster(7));
            index.insert(&name(n), Cluster(n));
        }
        assert!(index.lookup(&name(7)).0.contains(&Cluster(7)));
        assert_eq!(index.used(), WAYS as u64);
        assert_eq!(index.capacity(), WAYS as u64);
    }
}
