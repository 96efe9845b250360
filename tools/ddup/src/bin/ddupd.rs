// SPDX-License-Identifier: GPL-2.0

//! The daemon; see [`ddup_tool::daemon`].

use clap::Parser;
use ddup_tool::daemon::{self, Args};
use std::process::ExitCode;

fn main() -> ExitCode {
    match daemon::run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ddupd: {error}");
            ExitCode::from(error.exit as u8)
        }
    }
}
