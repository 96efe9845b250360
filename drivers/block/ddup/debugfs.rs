// SPDX-License-Identifier: GPL-2.0

//! State objects of a store in debugfs: `/sys/kernel/debug/ddup/ddupN/`, a file for each.
//!
//! They are for people who look for the reason of something; nothing relies on them. All volumes of
//! a store show the same. Nothing here holds the store's lock for longer than it takes to print some
//! lines: what is large is copied or counted in pieces, so its lines need not be of one moment.

use crate::{
    engine::show::{Object, RequestState, SegmentCounts, SlotCounts},
    store::{Store, SLOTS},
};
use core::fmt::{self, Write};
use kernel::prelude::*;
use kstage::debugfs::{File, Text};

/// Slots of the cache, or segments, that are counted under one hold of the lock.
const PIECE: u32 = 4096;

/// The file of an object of the engine.
macro_rules! object {
    ($name:literal, $object:ident) => {
        File {
            name: $name,
            show: |store, text| store.show(Object::$object, text),
        }
    };
}

/// The files of a store.
pub(crate) static FILES: &[File<Store>] = &[
    object!(c"store", Store),
    object!(c"journal", Journal),
    object!(c"checkpoint", Checkpoint),
    object!(c"overlay", Overlay),
    object!(c"space", Space),
    object!(c"index", Index),
    object!(c"recycler", Recycler),
    object!(c"scrub", Scrub),
    object!(c"pin", Pin),
    object!(c"member", Member),
    File {
        name: c"sessions",
        show: |store, text| store.show_sessions(text),
    },
    File {
        name: c"queue",
        show: |store, text| store.show_queue(text),
    },
    File {
        name: c"volumes",
        show: show_volumes,
    },
    File {
        name: c"requests",
        show: show_requests,
    },
    File {
        name: c"cache",
        show: show_cache,
    },
    File {
        name: c"segments",
        show: show_segments,
    },
];

/// A line for each volume.
fn show_volumes(store: &Store, text: &mut Text<'_>) -> fmt::Result {
    for slot in 0..store.volume_slots() {
        if let Some(volume) = store.volume(slot) {
            write!(text, "slot {} number {} uuid ", slot, volume.id)?;
            for byte in volume.uuid {
                write!(text, "{byte:02x}")?;
            }
            writeln!(
                text,
                " blocks {} releasing {}",
                volume.blocks, volume.releasing
            )?;
        }
    }
    Ok(())
}

/// A line for each request that the engine has.
fn show_requests(store: &Store, text: &mut Text<'_>) -> fmt::Result {
    let mut requests: KVec<RequestState> =
        KVec::with_capacity(SLOTS as usize, GFP_KERNEL).map_err(|_| fmt::Error)?;

    store.copy_requests(&mut requests);
    for request in requests.iter() {
        writeln!(text, "{request}")?;
    }
    Ok(())
}

fn show_cache(store: &Store, text: &mut Text<'_>) -> fmt::Result {
    let (mut sum, mut from) = (SlotCounts::default(), 0u32);

    while store.count_slots(from, PIECE, &mut sum) {
        from = from.saturating_add(PIECE);
    }
    let SlotCounts {
        free,
        reading,
        clean,
        dirty,
        writing,
    } = sum;

    writeln!(text, "free: {free}\nreading: {reading}")?;
    writeln!(text, "clean: {clean}\ndirty: {dirty}\nwriting: {writing}")
}

fn show_segments(store: &Store, text: &mut Text<'_>) -> fmt::Result {
    let (mut sum, mut from) = (SegmentCounts::default(), 0usize);

    while store.count_segments(from, PIECE as usize, &mut sum) {
        from = from.saturating_add(PIECE as usize);
    }
    let SegmentCounts {
        fixed,
        metadata,
        fresh,
        part,
        full,
        junk,
        in_flight,
    } = sum;

    writeln!(text, "fixed: {fixed}\nmetadata: {metadata}\nfresh: {fresh}")?;
    writeln!(text, "part: {part}\nfull: {full}\nwith_junk: {junk}")?;
    writeln!(text, "in_flight: {in_flight}")
}
