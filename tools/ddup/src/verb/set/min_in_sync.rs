// SPDX-License-Identifier: GPL-2.0

//! `ddup set min-in-sync`.

use crate::{cli::SetMinInSyncArgs, error::Result, replica::change, verb::member::Member};

/// Changes the number of members in sync below which FLUSHes wait.
pub fn run(args: &SetMinInSyncArgs) -> Result {
    let doing = format!("cannot change the replica set of {}", args.device.display());
    let set = || {
        let mut member = Member::open(&args.device)?;
        member
            .change(|base| change::min_insync(base, args.least))
            .map(|_| ())
    };
    set().map_err(|error| error.context(doing))
}
