// SPDX-License-Identifier: GPL-2.0

//! `ddup demote`.

use crate::{
    cli::DemoteArgs,
    error::{Error, Exit, Result},
    family::{format_uuid, set::Place},
    verb::{member::Member, print_json},
};
use serde::Serialize;

#[derive(Serialize)]
struct Demoted {
    device: String,
    position: Place,
}

/// Ends a reign.
pub fn run(args: &DemoteArgs) -> Result {
    let doing = format!("cannot demote {}", args.device.display());
    let demoted = demote(args).map_err(|error| error.context(doing))?;
    if args.json {
        return print_json(&demoted);
    }
    println!(
        "{} is replica, at epoch {}",
        demoted.device,
        demoted.position.epoch()
    );
    Ok(())
}

fn demote(args: &DemoteArgs) -> Result<Demoted> {
    let mut member = Member::open(&args.device)?;
    if !member.state.rules() {
        let primary = member
            .state
            .config
            .as_ref()
            .map(|c| format_uuid(&c.primary));
        return Err(Error::new(
            Exit::Failed,
            format!(
                "it is not primary; by its configuration store {} is",
                primary.unwrap_or_default()
            ),
        ));
    }
    let index = member.device.index;
    let position = if args.force {
        member.driver.flush_fail(index)?;
        // What flush-fail has ended are FLUSHes; a reign ends by a higher term.
        let promise = member.state.promise.unwrap_or(0);
        member.driver.fence(index, promise + 1)?.position
    } else {
        member.driver.demote(index)?
    };
    Ok(Demoted {
        device: member.device.node().display().to_string(),
        position: Place::from(&position),
    })
}
