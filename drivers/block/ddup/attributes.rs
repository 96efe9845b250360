// SPDX-License-Identifier: GPL-2.0

//! Counters and knobs of a store, for sysfs (`/sys/block/ddupN/ddup/`) and netlink.
//!
//! `Documentation/ABI/testing/sysfs-block-ddup` describes the files.

use crate::{
    engine::{
        knob::{Knob, KNOBS},
        Counters,
    },
    queue::Volume,
    uapi,
};
use core::fmt::{self, Write};
use kernel::{prelude::*, str::CStr};
use kstage::{
    genetlink::Message,
    sysfs::{parse_u64, Attribute, Value},
};

/// A file that shows a counter of the same name.
macro_rules! counter {
    ($name:ident) => {
        Attribute {
            name: c_name!($name),
            show: |volume: &Volume, _, value| write!(value, "{}", volume.store.counters().$name),
            store: None,
        }
    };
}

/// An identifier as a C string.
macro_rules! c_name {
    ($name:ident) => {
        kernel::c_str!(stringify!($name))
    };
}
use c_name;

/// The knob of a file.
fn knob_of(file: &CStr) -> Option<&'static Knob> {
    KNOBS.iter().find(|knob| knob.name == file)
}

fn show_knob(volume: &Volume, file: &CStr, value: &mut Value<'_>) -> fmt::Result {
    let knob = knob_of(file).ok_or(fmt::Error)?;

    write!(value, "{}", knob.get(&volume.store.knobs()))
}

fn set_knob(volume: &Volume, file: &CStr, text: &str) -> Result {
    let knob = knob_of(file).ok_or(ENOENT)?;
    let value = parse_u64(text)?;
    let mut taken = false;

    volume
        .store
        .change_knobs(|knobs| taken = knob.set(knobs, value));
    if taken {
        Ok(())
    } else {
        Err(ERANGE)
    }
}

/// A file for each knob.
static KNOB_FILES: [Attribute<Volume>; KNOBS.len()] = {
    let mut files = [Attribute {
        name: c"",
        show: show_knob,
        store: Some(set_knob),
    }; KNOBS.len()];
    let mut at = 0;

    while at < KNOBS.len() {
        files[at].name = KNOBS[at].name;
        at += 1;
    }
    files
};

/// The files of a store.
pub(crate) static FILES: &[&[Attribute<Volume>]] =
    &[&[STORE_UUID, VOLUME], COUNTER_FILES, &KNOB_FILES];

/// A file with the UUID of the store in its usual form, for udev.
const STORE_UUID: Attribute<Volume> = Attribute {
    name: c"store_uuid",
    show: |volume, _, value| {
        for (at, byte) in volume.store.uuid().iter().flatten().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                value.write_char('-')?;
            }
            write!(value, "{byte:02x}")?;
        }
        Ok(())
    },
    store: None,
};

/// Number of the volume in the store.
const VOLUME: Attribute<Volume> = Attribute {
    name: c"volume",
    show: |volume, _, value| write!(value, "{}", volume.number),
    store: None,
};

/// A file for each counter.
static COUNTER_FILES: &[Attribute<Volume>] = &[
    counter!(blocks_written),
    counter!(blocks_zero),
    counter!(blocks_duplicate),
    counter!(blocks_fresh),
    counter!(blocks_read),
    counter!(blocks_discarded),
    counter!(index_misled),
    counter!(collisions),
    counter!(check_mismatches),
    counter!(clusters_quarantined),
    counter!(blocks_healed),
    counter!(heals_failed),
    counter!(write_retries),
    counter!(blocks_lost),
    counter!(clusters_retired),
    counter!(flushes),
    counter!(journal_blocks),
    counter!(journal_bytes),
    counter!(checkpoints),
    counter!(pages_read),
    counter!(pages_written),
    counter!(no_space),
    counter!(clusters_total),
    counter!(clusters_fixed),
    counter!(clusters_live),
    counter!(blocks_mapped),
    counter!(clusters_junk),
    counter!(clusters_free),
    counter!(metadata_capacity),
    counter!(metadata_free),
    counter!(index_loaded),
    counter!(index_used),
    counter!(index_capacity),
    counter!(index_bytes),
    counter!(cache_pages),
    counter!(overlay_points),
    counter!(journal_used),
    counter!(journal_clusters),
    counter!(punches),
];

/// Adds counters to a message.
pub(crate) fn put_counters(counters: &Counters, message: &mut Message<'_>) -> Result {
    let cluster = 1u64 << crate::engine::types::CLUSTER_SHIFT;

    for (attr, value) in [
        (uapi::DDUP_A_COUNTERS_CLUSTERS, counters.clusters_total),
        (
            uapi::DDUP_A_COUNTERS_FIXED_CLUSTERS,
            counters.clusters_fixed,
        ),
        (
            uapi::DDUP_A_COUNTERS_METADATA_CLUSTERS,
            counters.metadata_capacity,
        ),
        (
            uapi::DDUP_A_COUNTERS_FREE_METADATA_CLUSTERS,
            counters.metadata_free,
        ),
        (
            uapi::DDUP_A_COUNTERS_AVAILABLE_CLUSTERS,
            counters.clusters_free,
        ),
        (uapi::DDUP_A_COUNTERS_JUNK_CLUSTERS, counters.clusters_junk),
        (uapi::DDUP_A_COUNTERS_LIVE_CLUSTERS, counters.clusters_live),
        (uapi::DDUP_A_COUNTERS_MAPPED_BLOCKS, counters.blocks_mapped),
        (
            uapi::DDUP_A_COUNTERS_QUARANTINED_CLUSTERS,
            counters.clusters_quarantined,
        ),
        (uapi::DDUP_A_COUNTERS_READ_BLOCKS, counters.blocks_read),
        (
            uapi::DDUP_A_COUNTERS_WRITTEN_BLOCKS,
            counters.blocks_written,
        ),
        (
            uapi::DDUP_A_COUNTERS_DUPLICATE_BLOCKS,
            counters.blocks_duplicate,
        ),
        (uapi::DDUP_A_COUNTERS_ZERO_BLOCKS, counters.blocks_zero),
        (
            uapi::DDUP_A_COUNTERS_DISCARDED_BLOCKS,
            counters.blocks_discarded,
        ),
        (uapi::DDUP_A_COUNTERS_FLUSHES, counters.flushes),
        (uapi::DDUP_A_COUNTERS_COMMITS, counters.journal_blocks),
        (uapi::DDUP_A_COUNTERS_CHECKPOINTS, counters.checkpoints),
        (uapi::DDUP_A_COUNTERS_COLLISIONS, counters.collisions),
        (
            uapi::DDUP_A_COUNTERS_CHECK_ERRORS,
            counters.check_mismatches,
        ),
        (uapi::DDUP_A_COUNTERS_WRITE_RETRIES, counters.write_retries),
        (uapi::DDUP_A_COUNTERS_NO_SPACE, counters.no_space),
        (
            uapi::DDUP_A_COUNTERS_JOURNAL_BYTES,
            counters.journal_used.saturating_mul(cluster),
        ),
        (
            uapi::DDUP_A_COUNTERS_JOURNAL_SIZE,
            counters.journal_clusters.saturating_mul(cluster),
        ),
        (
            uapi::DDUP_A_COUNTERS_WAITING_CHANGES,
            counters.overlay_points,
        ),
        (uapi::DDUP_A_COUNTERS_CACHED_PAGES, counters.cache_pages),
        (uapi::DDUP_A_COUNTERS_PAGES_READ, counters.pages_read),
        (uapi::DDUP_A_COUNTERS_PAGES_WRITTEN, counters.pages_written),
        (uapi::DDUP_A_COUNTERS_INDEX_ENTRIES, counters.index_used),
        (uapi::DDUP_A_COUNTERS_INDEX_LIMIT, counters.index_capacity),
        (uapi::DDUP_A_COUNTERS_HEALED_BLOCKS, counters.blocks_healed),
        (uapi::DDUP_A_COUNTERS_FAILED_HEALS, counters.heals_failed),
        (uapi::DDUP_A_COUNTERS_LOST_BLOCKS, counters.blocks_lost),
    ] {
        message.put_uint(attr, value)?;
    }
    Ok(())
}
