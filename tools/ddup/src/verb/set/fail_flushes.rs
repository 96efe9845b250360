// SPDX-License-Identifier: GPL-2.0

//! `ddup set fail-flushes`.

use crate::{cli::SetFailFlushesArgs, error::Result, verb::member::Member};

/// Lets FLUSHes that wait for members fail.
pub fn run(args: &SetFailFlushesArgs) -> Result {
    let doing = format!("cannot fail the FLUSHes of {}", args.device.display());
    let fail = || {
        let mut member = Member::open(&args.device)?;
        member.driver.flush_fail(member.device.index)
    };
    fail().map_err(|error| error.context(doing))
}
