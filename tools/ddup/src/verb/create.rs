// SPDX-License-Identifier: GPL-2.0

//! `ddup create`.

use super::print_json;
use crate::{cli::CreateArgs, error::Result, family::Driver, target};
use serde::Serialize;

#[derive(Serialize)]
struct Created<'a> {
    device: &'a str,
    name: &'a str,
}

/// Creates a volume in an attached store and prints its block device's path.
pub fn run(args: &CreateArgs) -> Result {
    let doing = format!("cannot create a volume in {}", args.device.display());
    let name = create(args).map_err(|error| error.context(doing))?;
    let device = format!("/dev/{name}");
    if args.json {
        return print_json(&Created {
            device: &device,
            name: &name,
        });
    }
    println!("{device}");
    Ok(())
}

fn create(args: &CreateArgs) -> Result<String> {
    let mut driver = Driver::connect()?;
    let devices = driver.devices()?;
    let device = target::find(&devices, &args.device)?;
    driver.create(device.index, args.size)
}
