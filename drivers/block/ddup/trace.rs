// SPDX-License-Identifier: GPL-2.0

//! Tracepoints: what `trace.h` defines, as functions, and the numbers in their arguments.
//!
//! One that is off costs a branch that is never taken. What only the engine sees comes from it as an event, through the
//! observer that [`observer`] makes; the store is named by the number of its backing device.

use crate::{
    content::BLOCK_SIZE,
    engine::{
        event::{Decision, Event, Life, Observer},
        Cluster, DataResult,
    },
    queue::Queue,
    store::CLUSTER_SECTOR_SHIFT,
};
use kstage::{block::mq::RequestRef, tracepoint::Request};

kstage::tracepoints! {
    /// The driver has a request.
    pub(crate) fn ddup_request_queued(rq: Request<'_>);
    /// The data of a write was copied, named and checked.
    pub(crate) fn ddup_request_fingerprinted(rq: Request<'_>, zero_blocks: u32);
    /// The engine has a request.
    pub(crate) fn ddup_request_submitted(rq: Request<'_>, slot: u32);
    fn ddup_request_decided(dev: u32, tag: u32, lbn: u64, blocks: u32, decision: u32, cluster: u64);
    fn ddup_request_waits(dev: u32, tag: u32, sequence: u64);
    /// A request ends.
    pub(crate) fn ddup_request_completed(rq: Request<'_>, error: i32);
    fn ddup_data_submitted(
        key: u64, lbn: u64, blocks: u32, work: u32, block: u32, count: u32, cluster: u64,
    );
    fn ddup_data_done(
        key: u64, lbn: u64, blocks: u32, work: u32, block: u32, count: u32, result: u32,
    );
    fn ddup_journal_submitted(
        dev: u32, sequence: u64, cluster: u64, records: u32, bytes: u32, quick: bool,
    );
    /// A block of the journal is durable, or could not be written.
    pub(crate) fn ddup_journal_done(dev: u32, sequence: u64, ok: bool);
    fn ddup_cluster_allocated(dev: u32, cluster: u64, count: u64, owners: u32);
    fn ddup_cluster_live(dev: u32, cluster: u64, count: u64, owners: u32);
    fn ddup_cluster_junk(dev: u32, cluster: u64, count: u64, owners: u32);
    fn ddup_cluster_resurrected(dev: u32, cluster: u64, count: u64, owners: u32);
    fn ddup_cluster_retired(dev: u32, cluster: u64, count: u64, owners: u32);
    fn ddup_cluster_erased(dev: u32, cluster: u64, count: u64, owners: u32);
    fn ddup_cluster_available(dev: u32, cluster: u64, count: u64, owners: u32);
    fn ddup_cluster_quarantined(dev: u32, cluster: u64, count: u64, owners: u32);
    fn ddup_checkpoint_begun(dev: u32, number: u64, blocks: u64, clusters: u64);
    fn ddup_checkpoint_durable(dev: u32, number: u64, pages: u64);
}

/// What is done with the data of a request.
#[derive(Clone, Copy)]
pub(crate) enum DataWork {
    Read = 0,
    Write = 1,
    Compare = 2,
}

/// What names a request in its events. It may have ended.
#[derive(Clone, Copy, Default)]
pub(crate) struct RequestId {
    /// See [`RequestRef::identity`].
    pub(crate) key: u64,
    lbn: u64,
    blocks: u32,
}

impl RequestId {
    /// Of a request with blocks. Any context.
    pub(crate) fn of(request: &RequestRef<Queue>) -> RequestId {
        RequestId {
            key: request.identity(),
            lbn: request.sector() >> CLUSTER_SECTOR_SHIFT,
            blocks: request.bytes() / BLOCK_SIZE,
        }
    }
}

/// Blocks of a request are sent to clusters, or for them.
#[inline(always)]
pub(crate) fn data_submitted(
    id: &RequestId,
    what: DataWork,
    block: u32,
    count: u32,
    cluster: Cluster,
) {
    if ddup_data_submitted_enabled() {
        let RequestId { key, lbn, blocks } = *id;

        ddup_data_submitted(key, lbn, blocks, what as u32, block, count, cluster.0);
    }
}

/// That is done.
#[inline(always)]
pub(crate) fn data_done(
    id: &RequestId,
    what: DataWork,
    block: u32,
    count: u32,
    result: DataResult,
) {
    if ddup_data_done_enabled() {
        let RequestId { key, lbn, blocks } = *id;
        let result = match result {
            DataResult::Ok => 0,
            DataResult::Failed => 1,
            DataResult::Mismatch => 2,
            DataResult::Equal => 3,
            DataResult::Differs => 4,
        };

        ddup_data_done(key, lbn, blocks, what as u32, block, count, result);
    }
}

/// Who is to be told of the engine's events, for the store on the device `dev`, if somebody listens.
#[inline(always)]
pub(crate) fn observer(dev: u32) -> Option<Observer> {
    let listens = ddup_request_decided_enabled()
        || ddup_request_waits_enabled()
        || ddup_journal_submitted_enabled()
        || ddup_cluster_allocated_enabled()
        || ddup_cluster_live_enabled()
        || ddup_cluster_junk_enabled()
        || ddup_cluster_resurrected_enabled()
        || ddup_cluster_retired_enabled()
        || ddup_cluster_erased_enabled()
        || ddup_cluster_available_enabled()
        || ddup_cluster_quarantined_enabled()
        || ddup_checkpoint_begun_enabled()
        || ddup_checkpoint_durable_enabled();

    listens.then_some(Observer {
        tell,
        store: dev.into(),
    })
}

/// An event of the engine of the store on the device `store`.
fn tell(store: u64, event: &Event) {
    let dev = store as u32;
    let halves = |key: u64| ((key >> 32) as u32, key as u32);

    match *event {
        Event::Decided {
            key,
            lbn,
            count,
            decision,
            cluster,
        } => {
            let (dev, tag) = halves(key);
            let (decision, cluster) = match decision {
                Decision::New => (0, cluster.0),
                Decision::Duplicate => (1, cluster.0),
                Decision::Zero => (2, 0),
            };

            ddup_request_decided(dev, tag, lbn.0, count, decision, cluster);
        }
        Event::Waits { key, sequence } => {
            let (dev, tag) = halves(key);

            ddup_request_waits(dev, tag, sequence);
        }
        Event::JournalBlock {
            sequence,
            cluster,
            bytes,
            records,
            quick,
        } => ddup_journal_submitted(dev, sequence, cluster.0, records, bytes as u32, quick),
        Event::Clusters {
            life,
            first,
            count,
            owners,
        } => match life {
            Life::Allocated => ddup_cluster_allocated(dev, first.0, count, owners),
            Life::Live => ddup_cluster_live(dev, first.0, count, owners),
            Life::Junk => ddup_cluster_junk(dev, first.0, count, owners),
            Life::Resurrected => ddup_cluster_resurrected(dev, first.0, count, owners),
            Life::Retired => ddup_cluster_retired(dev, first.0, count, owners),
            Life::Erased => ddup_cluster_erased(dev, first.0, count, owners),
            Life::Available => ddup_cluster_available(dev, first.0, count, owners),
            Life::Quarantined => ddup_cluster_quarantined(dev, first.0, count, owners),
        },
        Event::CheckpointBegun {
            number,
            blocks,
            clusters,
        } => ddup_checkpoint_begun(dev, number, blocks, clusters),
        Event::CheckpointDurable { number, pages } => ddup_checkpoint_durable(dev, number, pages),
    }
}
