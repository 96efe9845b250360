// SPDX-License-Identifier: GPL-2.0

//! `ddup set lease`.

use crate::{
    cli::SetLeaseArgs,
    error::{Error, Exit, Result},
    sys,
    verb::member::Member,
};

/// Bounds the time in which a primary serves, or does not any more.
pub fn run(args: &SetLeaseArgs) -> Result {
    // From now on, however long the driver takes to hear of it.
    let now = sys::boottime_ms();
    let doing = format!("cannot give a lease to {}", args.device.display());
    let lease = || {
        let now = now.map_err(|error| Error::new(Exit::Failed, format!("no time: {error}")))?;
        let until = args
            .seconds
            .map(|seconds| now.saturating_add(u64::from(seconds) * 1000));
        let mut member = Member::open(&args.device)?;
        let in_force = member.state.config.as_ref().map(|config| config.version);
        let version = args.for_version.or(in_force).unwrap_or_default();
        member.driver.lease(member.device.index, version, until)
    };
    lease().map_err(|error| error.context(doing))
}
