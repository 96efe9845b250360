// SPDX-License-Identifier: GPL-2.0

//! `ddup list`.

use super::print_json;
use crate::{
    cli::ListArgs,
    error::Result,
    family::{Device, Driver},
    table::{self, Column},
    target,
};
use serde::Serialize;

#[derive(Serialize)]
struct Listing {
    devices: Vec<Device>,
}

/// Lists the attached devices.
pub fn run(args: &ListArgs) -> Result {
    let devices = Driver::connect()
        .and_then(|mut driver| driver.devices())
        .and_then(|devices| target::choose(devices, &args.devices))
        .map_err(|error| error.context("cannot list the devices"))?;
    if args.json {
        return print_json(&Listing { devices });
    }
    let columns = if args.output.is_empty() {
        &Column::DEFAULT[..]
    } else {
        &args.output
    };
    let mut rows = Vec::new();
    // As losetup: nothing attached, nothing printed.
    if !args.noheadings && !devices.is_empty() {
        rows.push(columns.iter().map(|column| column.heading()).collect());
    }
    for device in &devices {
        rows.push(
            columns
                .iter()
                .map(|column| column.cell(device, args.bytes))
                .collect(),
        );
    }
    let right_aligned: Vec<_> = columns.iter().map(|c| c.right_aligned()).collect();
    print!("{}", table::set(&right_aligned, &rows));
    Ok(())
}
