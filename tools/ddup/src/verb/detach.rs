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
    let targets: Vec<&Device> = if args.all {
        devices.iter().collect()
    } else {
        let mut found: Vec<&Device> = Vec::new();
        for argument in &args.devices {
            match target::find(&devices, argument) {
                // Two names of one device are one device.
                Ok(device) if found.iter().any(|other| other.index == device.index) => {}
                Ok(device) => found.push(device),
                Err(error) => note(error.context("cannot detach")),
            }
        }
        found
    };
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
