// SPDX-License-Identifier: GPL-2.0

//! `ddup detach`.

use crate::{
    cli::DetachArgs,
    error::{Error, Result},
    family::{Device, Driver},
    target,
};

/// Detaches devices; tries all of them before it fails for one.
pub fn run(args: &DetachArgs) -> Result {
    let mut driver = Driver::connect().map_err(|error| error.context("cannot detach"))?;
    let devices = driver.devices()?;
    let mut last_error = None;
    let mut note = |error: Error| {
        // The last one is printed by the caller of this.
        if let Some(earlier) = last_error.replace(error) {
            eprintln!("ddup: {earlier}");
        }
    };
    let mut named: Vec<&Device> = Vec::new();
    if args.all {
        named.extend(&devices);
    }
    for argument in &args.devices {
        match target::find(&devices, argument) {
            Ok(device) => named.push(device),
            Err(error) => note(error.context("cannot detach")),
        }
    }
    // Two names of one device are one device, and the volumes of a store go together.
    let mut targets: Vec<&Device> = Vec::new();
    for device in named {
        if !targets
            .iter()
            .any(|other| target::is_sibling(other, device))
        {
            targets.push(device);
        }
    }
    for device in targets {
        if let Err(error) = driver.detach(device.index, args.force) {
            note(error.context(format!("cannot detach {}", device.node().display())));
        }
    }
    match last_error {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
