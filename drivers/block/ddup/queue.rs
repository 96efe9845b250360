// SPDX-License-Identifier: GPL-2.0

//! Requests of a volume: from the block layer to the store.
//!
//! The context that brings a write copies and fingerprints it, beside all others that do the same;
//! the copy is what is compared and written, since a submitter may change his pages at any time and
//! a cluster must hold what its name says. Then the request goes to the store's inbox, and with the
//! last of a batch the store gets a turn.
//!
//! Nothing here waits for memory: it may come back only with requests that wait behind this one.
//! Without memory the block layer gets the request back and offers it again soon.
//!
//! A build with `--cfg ddup_no_flush` acknowledges FLUSH and FUA and does nothing for them, one with
//! `--cfg ddup_no_disk_flush` carries them out but never flushes the backing device: the power-cut
//! test must catch both.

use crate::{
    content::{Fingerprinter, BLOCK_SIZE},
    engine::types::REQUEST_BLOCKS_MAX,
    error::errno,
    store::Store,
    trace,
    write_data::WriteData,
};
use kernel::{
    prelude::*,
    sync::{atomic::Atomic, Arc, ArcBorrow, UniqueArc},
};
use kstage::{
    block::{
        mq::{self, Request},
        Op, Status,
    },
    mm::{NoIo, Wait},
};

/// What the requests of a volume share.
pub(crate) struct Volume {
    pub(crate) store: Arc<Store>,
    /// Slot of the volume in its store.
    pub(crate) slot: u32,
    /// Number of the volume in its store.
    pub(crate) number: u32,
    /// How content is named and checked.
    pub(crate) fingerprinter: Fingerprinter,
}

/// Private data of a request.
pub(crate) struct RequestData {
    /// The data of a write on its way to the engine.
    pub(crate) write: Option<UniqueArc<WriteData>>,
    /// What a read's data must match. As large as the largest request, from the start.
    pub(crate) checks: KVec<Atomic<u64>>,
}

/// The block driver.
pub(crate) struct Queue;

impl mq::Operations for Queue {
    type QueueData = Volume;
    type RequestData = RequestData;

    fn new_request_data() -> Result<RequestData> {
        let blocks = REQUEST_BLOCKS_MAX as usize;
        let mut checks = KVec::with_capacity(blocks, GFP_KERNEL)?;

        for _ in 0..blocks {
            checks.push(Atomic::new(0), GFP_KERNEL)?;
        }
        Ok(RequestData {
            write: None,
            checks,
        })
    }

    fn open(volume: ArcBorrow<'_, Volume>, write: bool) -> Result {
        match volume.store.serves() {
            true => Ok(()),
            false if write => Err(EROFS),
            // As other replicating drivers say it: it is there, and not to be read.
            false => Err(errno(kstage::bindings::EMEDIUMTYPE)),
        }
    }

    fn queue_rq(
        volume: ArcBorrow<'_, Volume>,
        mut request: Request<Self>,
        last: bool,
    ) -> Result<(), Request<Self>> {
        let _noio = NoIo::enter();

        trace::ddup_request_queued((&*request).into());
        if cfg!(ddup_no_flush) && request.op() == Op::Flush {
            complete(request, Ok(()));
            return Ok(());
        }
        if request.op() == Op::Write && prepare_write(&volume, &mut request).is_err() {
            // Writes that are over may hold what is missing.
            volume.store.look_for_completions();
            return Err(request);
        }
        volume.store.push(request);
        if last {
            volume.store.run();
        }
        Ok(())
    }

    fn commit_rqs(volume: ArcBorrow<'_, Volume>) {
        let _noio = NoIo::enter();

        volume.store.run();
    }

    fn parts_done(request: Request<Self>, result: Result<(), Status>) {
        complete(request, result);
    }
}

/// Ends a request. Any context.
pub(crate) fn complete(request: Request<Queue>, result: Result<(), Status>) {
    if trace::ddup_request_completed_enabled() {
        let error = result.map_or_else(|status| status.to_error().to_errno(), |()| 0);

        trace::ddup_request_completed((&*request).into(), error);
    }
    request.end(result);
}

/// Copies and fingerprints the data of a write.
fn prepare_write(volume: &Volume, request: &mut Request<Queue>) -> Result {
    let mut data = volume.store.write_data().take().ok_or(ENOMEM)?;

    if let Err(error) = fill(volume, request, &mut data) {
        volume.store.write_data().give_back(data);
        return Err(error);
    }
    if trace::ddup_request_fingerprinted_enabled() {
        let zero_blocks = data.contents.iter().filter(|c| c.zero).count();

        trace::ddup_request_fingerprinted((&**request).into(), zero_blocks as u32);
    }
    request.data_mut().write = Some(data);
    Ok(())
}

fn fill(volume: &Volume, request: &Request<Queue>, data: &mut WriteData) -> Result {
    for _ in 0..request.bytes() / BLOCK_SIZE {
        data.pages
            .push(volume.store.pages().reuse(Wait::No)?, GFP_NOWAIT)?;
    }
    let mut cursor = request.cursor();

    for page in data.pages.iter_mut() {
        cursor.copy_to(&mut page[..]);
    }
    for page in data.pages.iter() {
        data.contents
            .push(volume.fingerprinter.describe(page), GFP_NOWAIT)?;
    }
    Ok(())
}
