// SPDX-License-Identifier: GPL-2.0

//! `ddup set`: knobs, and the verbs about replica sets.

mod fail_flushes;
mod invite;
mod lease;
mod min_in_sync;
pub mod show;

use crate::{
    cli::{SetArgs, SetVerb},
    error::{Error, Exit, Result},
    family::Driver,
    knob, target,
};

/// Changes knobs of a device, in the given order. All of them were found within their ranges.
pub fn run(args: &SetArgs) -> Result {
    match &args.verb {
        Some(SetVerb::Show(args)) => return show::run(args),
        Some(SetVerb::Invite(args)) => return invite::run(args),
        Some(SetVerb::MinInSync(args)) => return min_in_sync::run(args),
        Some(SetVerb::FailFlushes(args)) => return fail_flushes::run(args),
        Some(SetVerb::Lease(args)) => return lease::run(args),
        None => {}
    }
    let Some(path) = &args.device else {
        return Err(Error::new(Exit::Usage, "no device is given"));
    };
    let doing = format!("cannot set knobs of {}", path.display());
    let set = || {
        let devices = Driver::connect()?.devices()?;
        let device = target::find(&devices, path)?;
        args.settings
            .iter()
            .try_for_each(|setting| knob::write(&device.name, setting))
    };
    set().map_err(|error| error.context(doing))
}
