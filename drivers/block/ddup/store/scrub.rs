// SPDX-License-Identifier: GPL-2.0

//! Scrubs, as the shell sees them: begins and stops them, reads for them, and keeps what they found
//! until listeners are told.
//!
//! Lock: all of it is under the engine's lock. Who is told is done by [`Store::chores`].

use super::Store;
use crate::{
    engine::{Check, Cluster, DataResult, Lbn, ScrubReport, Tag},
    io::{CheckedIo, Io, Reader},
};
use kernel::{prelude::*, sync::atomic::Relaxed};
use kstage::{
    block::{bio::BioList, Op, OpFlags},
    mm::Wait,
    page_pool::PageBuf,
};

/// Bad blocks that wait until listeners are told. They see by a gap that there were more.
const FOUND_MAX: usize = 64;

/// What nobody was told of yet.
pub(super) struct ScrubNews {
    /// Slots and blocks that are bad.
    found: KVec<(u32, Lbn)>,
    /// There were more.
    lost: bool,
    ended: bool,
}

impl ScrubNews {
    pub(super) fn new() -> Result<ScrubNews> {
        Ok(ScrubNews {
            found: KVec::with_capacity(FOUND_MAX, GFP_KERNEL)?,
            lost: false,
            ended: false,
        })
    }

    pub(super) fn found(&mut self, slot: u32, lbn: Lbn) {
        self.lost |= self.found.push_within_capacity((slot, lbn)).is_err();
    }

    pub(super) fn ended(&mut self) {
        self.ended = true;
    }

    /// The oldest bad block.
    pub(super) fn next_found(&mut self) -> Option<(u32, Lbn)> {
        self.found.remove(0).ok()
    }

    pub(super) fn take_lost(&mut self) -> bool {
        core::mem::take(&mut self.lost)
    }

    pub(super) fn take_ended(&mut self) -> bool {
        core::mem::take(&mut self.ended)
    }
}

impl Store {
    /// Begins a scrub. Errors are those of `Engine::begin_scrub`. May sleep.
    pub(crate) fn begin_scrub(&self) -> Result {
        // Not under the lock, for which reclaim may wait: it can be much.
        let count = self.with_engine(|engine| engine.scrub_words());
        let words = KVVec::from_elem(0, count, GFP_KERNEL)?;

        self.with_turn(|inner, now| inner.engine.begin_scrub(now, words))?;
        self.worker.kick();
        Ok(())
    }

    /// Ends the scrub that goes on. False: there is none. May sleep.
    pub(crate) fn stop_scrub(&self) -> bool {
        self.with_turn(|inner, now| inner.engine.stop_scrub(now))
    }

    /// How far the scrub is, or what the last one has found. May sleep.
    pub(crate) fn scrub_report(&self) -> Option<ScrubReport> {
        self.with_engine(|engine| engine.scrub_report())
    }

    /// Reads a block that nobody wants. Fails if that has to wait for memory.
    pub(super) fn scrub_block(
        &self,
        (tag, block): (Tag, u32),
        cluster: Cluster,
        check: Check,
        bios: &mut BioList<Io>,
    ) -> Result<(), ()> {
        let page = self.compare_pages.alloc(Wait::No).map_err(|_| ())?;

        self.read_checked(
            Reader::Scrub(tag, block),
            (cluster, check),
            page,
            OpFlags::NONE,
            bios,
        )
    }

    /// Reads a cluster for `reader` and holds it against its check. Fails if that has to wait for
    /// memory.
    pub(super) fn read_checked(
        &self,
        reader: Reader,
        (cluster, check): (Cluster, Check),
        page: PageBuf,
        flags: OpFlags,
        bios: &mut BioList<Io>,
    ) -> Result<(), ()> {
        let io = Io::Checked(CheckedIo {
            reader,
            check,
            check_key: self.check_key.load(Relaxed),
            page,
            result: DataResult::Failed,
        });
        let mut bio = self
            .alloc(Op::Read, flags, cluster, 1, io)
            .map_err(|_| ())?;

        bio.add_pages_mut(Io::pages_mut);
        bios.push(bio);
        Ok(())
    }
}
