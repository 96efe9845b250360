// SPDX-License-Identifier: GPL-2.0

//! `ddup get`.

use super::print_json;
use crate::{
    cli::GetArgs,
    error::Result,
    family::Driver,
    knob::{self, Knob, KNOBS},
    table, target,
};
use serde::Serialize;

#[derive(Serialize)]
struct Listing {
    device: String,
    knobs: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    value: u64,
    unit: &'static str,
    default: u64,
    min: u64,
    max: u64,
    about: &'static str,
}

/// Shows knobs of a device, all if none is named.
pub fn run(args: &GetArgs) -> Result {
    let doing = format!("cannot get the knobs of {}", args.device.display());
    let listing = read(args).map_err(|error| error.context(doing))?;
    if args.json {
        return print_json(&listing);
    }
    let headings = ["KNOB", "VALUE", "DEFAULT", "MIN", "MAX", "UNIT"];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    for knob in &listing.knobs {
        rows.push(vec![
            knob.name.to_owned(),
            knob.value.to_string(),
            knob.default.to_string(),
            knob.min.to_string(),
            knob.max.to_string(),
            knob.unit.to_owned(),
        ]);
    }
    let right_aligned = [false, true, true, true, true, false];
    print!("{}", table::set(&right_aligned, &rows));
    Ok(())
}

fn read(args: &GetArgs) -> Result<Listing> {
    let devices = Driver::connect()?.devices()?;
    let device = target::find(&devices, &args.device)?;
    let wanted =
        |knob: &&Knob| args.knobs.is_empty() || args.knobs.iter().any(|n| n == knob.name());
    let row = |knob: &'static Knob| {
        Ok(Row {
            name: knob.name(),
            value: knob::read(&device.name, knob)?,
            unit: knob.unit,
            default: knob.default(),
            min: knob.min,
            max: knob.max,
            about: knob.about,
        })
    };
    Ok(Listing {
        device: device.node().display().to_string(),
        knobs: KNOBS
            .iter()
            .filter(wanted)
            .map(row)
            .collect::<Result<_>>()?,
    })
}
