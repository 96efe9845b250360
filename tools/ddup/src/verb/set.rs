// SPDX-License-Identifier: GPL-2.0

//! `ddup set`.

use crate::{cli::SetArgs, error::Result, family::Driver, knob, target};

/// Changes knobs of a device, in the given order. All of them were found within their ranges.
pub fn run(args: &SetArgs) -> Result {
    let doing = format!("cannot set knobs of {}", args.device.display());
    set(args).map_err(|error| error.context(doing))
}

fn set(args: &SetArgs) -> Result {
    let devices = Driver::connect()?.devices()?;
    let device = target::find(&devices, &args.device)?;
    args.settings
        .iter()
        .try_for_each(|setting| knob::write(&device.name, setting))
}
