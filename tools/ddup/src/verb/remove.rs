// SPDX-License-Identifier: GPL-2.0

//! `ddup remove`.

use crate::{cli::RemoveArgs, error::Result, family::Driver, target};

/// Removes a volume and its block device.
pub fn run(args: &RemoveArgs) -> Result {
    let doing = format!("cannot remove {}", args.device.display());
    remove(args).map_err(|error| error.context(doing))
}

fn remove(args: &RemoveArgs) -> Result {
    let mut driver = Driver::connect()?;
    let devices = driver.devices()?;
    let device = target::find_volume(&devices, &args.device)?;
    driver.remove(device.index)
}
