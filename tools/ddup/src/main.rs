// SPDX-License-Identifier: GPL-2.0

//! The `ddup` command; see the library of this crate.

use clap::Parser;
use ddup_tool::{cli::Cli, sys, verb};
use std::process::ExitCode;

fn main() -> ExitCode {
    sys::die_of_closed_pipe();
    match verb::run(&Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ddup: {error}");
            ExitCode::from(error.exit as u8)
        }
    }
}
