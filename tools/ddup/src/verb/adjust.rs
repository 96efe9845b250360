// SPDX-License-Identifier: GPL-2.0

//! `ddup adjust`.

use super::print_json;
use crate::{
    adjust,
    cli::AdjustArgs,
    config,
    error::{Error, Exit, Result},
    family::Driver,
    plan::{self, Line},
};
use serde::Serialize;

#[derive(Serialize)]
struct Difference {
    dry_run: bool,
    differences: Vec<Line>,
}

/// Shows how what is attached differs from what the files say, and settles it.
pub fn run(args: &AdjustArgs) -> Result {
    let doing = "cannot adjust";
    let loaded = config::load(&args.config).map_err(|error| error.context(doing))?;
    let wrong = loaded.errors.len();
    // With a file that is not understood, what is meant is not known: nothing is done.
    let mut errors = loaded.errors.into_iter().rev();
    if let Some(last) = errors.next() {
        errors.rev().for_each(|error| eprintln!("ddup: {error}"));
        return Err(last.context(format!("nothing is changed, {wrong} files are wrong")));
    }
    let mut driver = Driver::connect().map_err(|error| error.context(doing))?;
    let goals = adjust::goals(&loaded.wanted);
    let present = adjust::present(&mut driver).map_err(|error| error.context(doing))?;
    let plan = plan::plan(&goals, &present, args.detach_others);
    if args.json {
        print_json(&Difference {
            dry_run: args.dry_run,
            differences: plan.lines(),
        })?;
    } else {
        plan.lines()
            .iter()
            .for_each(|line| println!("{}", line.text));
    }
    if args.dry_run {
        return Ok(());
    }
    let mut failed = Vec::new();
    for step in &plan.steps {
        if let Err(error) = adjust::take(&mut driver, step) {
            failed.push(error);
        }
    }
    if let Some(last) = failed.pop() {
        failed.iter().for_each(|error| eprintln!("ddup: {error}"));
        return Err(last);
    }
    match plan.conflicts.len() {
        0 => Ok(()),
        count => Err(Error::new(
            Exit::Busy,
            format!("{count} differences stay as long as the device is attached"),
        )),
    }
}
