// SPDX-License-Identifier: GPL-2.0

//! Looks at what is there, and does what a [`plan`] says.

use crate::{
    config::Wanted,
    error::Result,
    family::{AttachRequest, Driver},
    knob::{self, Setting, KNOBS},
    plan::{Goal, Present, Step},
    target,
    verb::attach,
};

/// What is wanted, with what each path leads to now.
pub fn goals(wanted: &[Wanted]) -> Vec<Goal> {
    let goal = |wanted: &Wanted| Goal {
        store: target::identity(&wanted.store),
        wanted: wanted.clone(),
    };
    wanted.iter().map(goal).collect()
}

/// What is attached.
pub fn present(driver: &mut Driver) -> Result<Vec<Present>> {
    let devices = driver.devices()?;
    let present = devices.into_iter().map(|device| Present {
        stores: target::stores(&device),
        // One that is just being detached has none any more.
        knobs: KNOBS
            .iter()
            .filter_map(|knob| {
                let value = knob::read(&device.name, knob).ok()?;
                Some(Setting { knob, value })
            })
            .collect(),
        device,
    });
    Ok(present.collect())
}

/// Takes one step. Returns the path of what was attached.
pub fn take(driver: &mut Driver, step: &Step<'_>) -> Result<Option<String>> {
    let doing = |what: &str, subject: &dyn std::fmt::Display| format!("cannot {what} {subject}");
    match step {
        Step::Detach(device) => driver
            .detach(device.index, false)
            .map(|()| None)
            .map_err(|error| error.context(doing("detach", &device.node().display()))),
        Step::Set {
            device, setting, ..
        } => knob::write(&device.name, setting).map(|()| None),
        Step::Attach(wanted) => {
            let (_, name) = attach::attach(driver, &request(wanted))?;
            for setting in &wanted.knobs {
                knob::write(&name, setting)?;
            }
            Ok(Some(format!("/dev/{name}")))
        }
    }
}

fn request(wanted: &Wanted) -> AttachRequest<'_> {
    AttachRequest {
        path: &wanted.store,
        index: wanted.number,
        read_only: wanted.read_only,
        cache_bytes: wanted.cache,
        index_bytes: wanted.index,
    }
}
