// SPDX-License-Identifier: GPL-2.0

//! ddup: a block device that stores equal blocks once.
//!
//! - [`engine`][]: all decisions of a store, without I/O.
//! - [`queue`][]: requests of a volume; [`write_data`][]: what writes write; [`content`][]: its
//!   fingerprints, with [`blake2b`][].
//! - [`store`][]: runs an engine against a backing device, with [`io`][], [`worker`][] and
//!   [`compared`][]; [`peer`][]: sessions with other members of a replica set.
//! - [`control`][]: netlink requests; the list of attached devices.
//! - [`device`][]: one attached device.
//! - [`error`][]: refusals.
//! - [`trace`][]: tracepoints; [`debugfs`][]: state objects in debugfs.
//! - [`passthrough`][]: a device that maps one to one, to measure what the block layer costs.
//! - [`uapi`][]: numbers of the netlink family.

#![deny(unsafe_code)]

mod attributes;
mod blake2b;
mod compared;
mod content;
mod control;
mod debugfs;
mod device;
#[allow(
    unreachable_pub,
    unused_imports,
    dead_code,
    reason = "other users of the engine need more of it"
)]
mod engine;
mod error;
mod io;
mod passthrough;
mod peer;
mod queue;
mod recent;
mod store;
mod trace;
mod uapi;
mod worker;
mod write_data;

use kernel::prelude::*;

module! {
    type: Ddup,
    name: "ddup",
    authors: ["The ddup authors"],
    description: "Block device that stores equal blocks once",
    license: "GPL",
    params: {
        passthrough: u8 {
            default: 0,
            description: "1: map devices one to one and store nothing of our own, to measure",
        },
    },
}

/// The loaded module.
struct Ddup {
    control: control::Control,
}

impl kernel::Module for Ddup {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // A reference in 7.2, a value in 7.3.
        let passthrough = module_parameters::passthrough.value();
        let passthrough: &u8 = core::borrow::Borrow::borrow(&passthrough);

        Ok(Ddup {
            control: control::Control::start(*passthrough != 0)?,
        })
    }
}

impl Drop for Ddup {
    fn drop(&mut self) {
        self.control.stop();
    }
}
