// SPDX-License-Identifier: GPL-2.0

//! Writes the man pages and shell completions of `ddup` and `ddupd` into a folder:
//! `man/ddup*.8`, `completions/ddup*.bash`, `_ddup*` and `ddup*.fish`.

use ddup_tool::docs;
use std::{path::Path, process::ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [folder] = &arguments[..] else {
        eprintln!("usage: ddup-docs FOLDER");
        return ExitCode::from(2);
    };
    match docs::write(Path::new(folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "ddup-docs: cannot write to {}: {error}",
                folder.to_string_lossy()
            );
            ExitCode::FAILURE
        }
    }
}
