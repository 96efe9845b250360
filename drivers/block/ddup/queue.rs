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
    engine::{types::REQUEST_BLOCKS_MAX, BlockContent},
    error::errno,
    store::Store,
    trace,
};
use kernel::{
    prelude::*,
    sync::{atomic::Atomic, Arc, ArcBorrow},
};
use kstage::{
    block::{
        mq::{self, Request},
        Op, Status,
    },
    mm::{NoIo, Wait},
    page_pool::PageBuf,
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

/// Private data of a request. The arrays are as large as the largest request, from the start.
pub(crate) struct RequestData {
    /// Copy of a write's data.
    pub(crate) pages: KVec<PageBuf>,
    /// What the engine wants to know of a write's data.
    pub(crate) contents: KVec<BlockContent>,
    /// What a read's data must match.
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
            pages: KVec::with_capacity(blocks, GFP_KERNEL)?,
            contents: KVec::with_capacity(blocks, GFP_KERNEL)?,
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
            release(&mut request);
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

    fn parts_done(mut request: Request<Self>, result: Result<(), Status>) {
        release(&mut request);
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

/// Gives back what the request's data holds.
fn release(request: &mut Request<Queue>) {
    let data = request.data_mut();

    data.pages.clear();
    data.contents.clear();
}

/// Copies and fingerprints the data of a write.
fn prepare_write(volume: &Volume, request: &mut Request<Queue>) -> Result {
    let blocks = request.bytes() / BLOCK_SIZE;

    release(request);
    for _ in 0..blocks {
        let page = volume.store.pages().reuse(Wait::No)?;

        request.data_mut().pages.push(page, GFP_NOWAIT)?;
    }
    // The pages change hands for as long as the request is read.
    let mut pages = core::mem::take(&mut request.data_mut().pages);
    {
        let mut cursor = request.cursor();

        for page in pages.iter_mut() {
            cursor.copy_to(&mut page[..]);
        }
    }
    let data = request.data_mut();
    let mut result = Ok(());
    for page in pages.iter() {
        let content = volume.fingerprinter.describe(page);

        result = data.contents.push(content, GFP_NOWAIT);
        if result.is_err() {
            break;
        }
    }
    data.pages = pages;
    result?;
    if trace::ddup_request_fingerprinted_enabled() {
        let zero_blocks = request.data().contents.iter().filter(|c| c.zero).count();

        trace::ddup_request_fingerprinted((&**request).into(), zero_blocks as u32);
    }
    Ok(())
}
