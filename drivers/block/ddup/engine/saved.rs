// SPDX-License-Identifier: GPL-2.0

//! The saved index: written by the last checkpoint of a clean detach, read in the background after
//! the next attach. A store has one [`Copier`] for both, with one chunk on its way at a time.
//!
//! It is advice like the index itself, and it takes no space from anybody: it lies in data segments
//! that are wholly Available, the last ones of the store, and stays Available space. The superblock
//! of the detach refers to it. That of the next attach for writing no longer does, and is durable
//! before a cluster is handed out, so nothing that a durable state refers to is overwritten; what is
//! overwritten before it was read no longer has its checksum. Anything unexpected ends the load, and
//! the index is rebuilt from the name tree.
//!
//! The index may hold no cluster that was retired. So nothing is retired while the load runs, and if
//! space is short the load is given up.

use super::format::index::{self as codec, ChunkHeader, SavedIndex, CHUNK_BYTES, CHUNK_CLUSTERS};
use super::mark::mark;
use super::mutant::mutant;
use super::show::{lines, Plain};
use super::state::{IoToken, Mode, Store};
use super::types::{Cluster, SEGMENT_CLUSTERS};
use super::{Action, Buf, Durability};
use core::fmt;
use kernel::prelude::*;

/// What the copier does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nothing.
    Idle,
    /// The next chunk is to be read.
    Read,
    /// A chunk is on its way from the device.
    Reading,
    /// A chunk was read, well or not, and is to be taken into the index.
    Loaded(bool),
    /// The next chunk is to be written.
    Write,
    /// A chunk is on its way to the device.
    Writing,
}

/// Reads or writes the saved index.
pub struct Copier {
    stage: Stage,
    buf: Option<Buf>,
    /// What is being read, or what was written so far.
    saved: SavedIndex,
    /// The checkpoint that it belongs to.
    checkpoint: u64,
    /// The next chunk.
    place: Cluster,
    /// Its number.
    number: u64,
    /// The next bucket.
    bucket: u64,
}

impl Copier {
    /// Will load what was saved with this checkpoint, if anything was. May allocate.
    pub(super) fn new(saved: SavedIndex, checkpoint: u64) -> Copier {
        let buf = KVec::from_elem(0, CHUNK_BYTES, GFP_KERNEL | __GFP_NOWARN).ok();
        let loads = saved.exists() && buf.is_some();
        Copier {
            stage: if loads { Stage::Read } else { Stage::Idle },
            buf,
            saved,
            checkpoint,
            place: saved.place,
            number: 0,
            bucket: 0,
        }
    }

    /// What it shows of itself.
    pub(super) fn show(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        lines!(out,
            "copier_stage": Plain(self.stage),
            "copier_chunk": self.number,
            "copier_bucket": self.bucket,
        );
        Ok(())
    }

    /// Whether the index is being loaded.
    pub(super) fn is_loading(&self) -> bool {
        matches!(self.stage, Stage::Read | Stage::Reading | Stage::Loaded(_))
    }

    /// Whether a step could do something now.
    pub(super) fn wants_step(&self) -> bool {
        matches!(self.stage, Stage::Read | Stage::Loaded(_))
    }

    /// The index will not be loaded. A chunk that is on its way is dropped when it comes.
    fn stop(&mut self) {
        self.stage = Stage::Idle;
    }

    /// A chunk was read or written.
    pub(super) fn io_done(&mut self, buf: Buf, ok: bool) {
        self.buf = Some(buf);
        self.stage = match self.stage {
            Stage::Reading => Stage::Loaded(ok),
            Stage::Writing if ok => Stage::Write,
            stage => stage,
        };
    }
}

impl Store {
    /// Gives the load up: the rebuild begins anew, with what was loaded.
    pub(super) fn cancel_load(&mut self) {
        if self.copier.is_loading() {
            self.copier.stop();
            self.rebuild_cursor = 1;
            mark!(index_load_given_up);
        }
    }

    /// One chunk at most. True: more can be done now.
    pub(super) fn load_step(&mut self) -> bool {
        if self.mode != Mode::Attached {
            return false;
        }
        match self.copier.stage {
            Stage::Read => {
                if let Some(buf) = self.copier.buf.take() {
                    self.copier.stage = Stage::Reading;
                    let (token, cluster) = (IoToken::IndexChunk, self.copier.place);
                    self.act(Action::ReadMeta {
                        token,
                        cluster,
                        buf,
                    });
                }
                false
            }
            Stage::Loaded(ok) => {
                let buf = self.copier.buf.take();
                let next = buf.as_ref().filter(|_| ok).and_then(|b| self.load_chunk(b));
                self.copier.buf = buf;
                match next {
                    None => self.cancel_load(),
                    Some(Cluster::NONE) => {
                        self.copier.stop();
                        mark!(index_loaded);
                    }
                    Some(next) => {
                        self.copier.place = next;
                        self.copier.number += 1;
                        self.copier.stage = Stage::Read;
                    }
                }
                true
            }
            _ => false,
        }
    }

    /// Takes a chunk into the index. Answers the place of the next one, [`Cluster::NONE`] after the
    /// last; `None` if it can't be believed.
    fn load_chunk(&mut self, chunk: &[u8]) -> Option<Cluster> {
        let c = &self.copier;
        let header = codec::header(chunk, self.config.hash, &self.superblock.uuid)?;
        let end = header.first.checked_add(header.buckets)?;
        let last = c.number + 1 == c.saved.chunks;
        let expected = header.place == c.place
            && header.checkpoint == c.checkpoint
            && header.number == c.number
            && header.first == c.bucket
            && end <= c.saved.buckets
            && last == (header.next == Cluster::NONE)
            && last == (end == c.saved.buckets)
            && header.next.0 <= self.superblock.layout.clusters - CHUNK_CLUSTERS;
        if !expected {
            return None;
        }
        let (index, space, loaded) = (&mut self.index, &self.space, &mut self.stats.index_loaded);
        let sound = codec::read_entries(chunk, &header, &mut |bucket, tag, cluster| {
            if space.is_data(cluster) && index.restore(bucket, tag, cluster) {
                *loaded += 1;
            }
        });
        self.copier.bucket = end;
        sound.then_some(header.next)
    }

    /// The last checkpoint of a detach begins to save the index. False: there is no room.
    pub(super) fn begin_save(&mut self) -> bool {
        self.cancel_load();
        let segment = self.space.last_fresh(usize::MAX);
        let (Some(segment), true) = (segment, self.copier.buf.is_some()) else {
            mark!(index_not_saved);
            return false;
        };
        let place = Cluster(segment as u64 * SEGMENT_CLUSTERS);
        let c = &mut self.copier;
        c.stage = Stage::Write;
        c.checkpoint = self.superblock.checkpoint.number + 1;
        c.place = place;
        c.number = 0;
        c.bucket = 0;
        c.saved = SavedIndex {
            place,
            chunks: 0,
            buckets: self.index.buckets(),
            named: self.rebuild_cursor.min(self.superblock.layout.clusters),
        };
        true
    }

    /// Saves the next chunk. `None`: one is on its way; else what was saved in all, which is nothing
    /// if the room does not suffice or the device fails.
    pub(super) fn save_step(&mut self) -> Option<SavedIndex> {
        match self.copier.stage {
            Stage::Write => {}
            Stage::Writing if self.copier.buf.is_none() => return None,
            // The write failed.
            _ => return Some(self.end_save(SavedIndex::default())),
        }
        let c = &self.copier;
        let (saved, first, place) = (c.saved, c.bucket, c.place);
        if first >= saved.buckets {
            mark!(index_saved);
            return Some(self.end_save(saved));
        }
        let mut buf = self.copier.buf.take()?;
        buf.as_mut_slice().fill(0);
        let index = &self.index;
        let end = codec::write_buckets(&mut buf, first, saved.buckets, |b| index.entries(b));
        let next = match end < saved.buckets {
            true => self.next_chunk(place),
            false => Some(Cluster::NONE),
        };
        let Some(next) = next else {
            self.copier.buf = Some(buf);
            mark!(index_not_saved);
            return Some(self.end_save(SavedIndex::default()));
        };
        let header = ChunkHeader {
            place,
            checkpoint: self.copier.checkpoint,
            number: self.copier.number,
            next,
            first,
            buckets: end - first,
        };
        codec::seal(&mut buf, self.config.hash, &self.superblock.uuid, &header);
        let c = &mut self.copier;
        c.saved.chunks += 1;
        c.number += 1;
        c.bucket = end;
        c.place = next;
        c.stage = Stage::Writing;
        self.act(Action::WriteMeta {
            token: IoToken::IndexChunk,
            cluster: place,
            buf,
            durability: Durability::None,
        });
        None
    }

    /// Behind this chunk, or in the next segment before it that is wholly Available.
    fn next_chunk(&self, place: Cluster) -> Option<Cluster> {
        let next = place.0 + CHUNK_CLUSTERS;
        if next % SEGMENT_CLUSTERS != 0 {
            return Some(Cluster(next));
        }
        let segment = self.space.last_fresh(place.segment())?;
        Some(Cluster(segment as u64 * SEGMENT_CLUSTERS))
    }

    fn end_save(&mut self, saved: SavedIndex) -> SavedIndex {
        self.copier.stop();
        saved
    }

    /// Whether the recycler has to wait for the load. If it may not wait, the load is given up.
    pub(super) fn load_keeps_junk(&mut self, pressed: bool) -> bool {
        if pressed {
            self.cancel_load();
        }
        self.copier.is_loading() && !mutant!(60)
    }
}
