// SPDX-License-Identifier: GPL-2.0

//! The verbs, one file each.

pub mod adjust;
pub mod attach;
pub mod check;
pub mod create;
pub mod demote;
pub mod detach;
pub mod dump;
pub mod events;
pub mod fence;
pub mod format;
pub mod get;
pub mod list;
pub mod member;
pub mod peer;
pub mod probe;
pub mod promote;
pub mod remove;
pub mod resize;
pub mod scrub;
pub mod set;
pub mod status;

use crate::{
    cli::Verb,
    error::{Error, Exit, Result},
};
use serde::Serialize;

/// Runs what the command line asks for.
pub fn run(verb: &Verb) -> Result {
    match verb {
        Verb::Format(args) => format::run(args),
        Verb::Attach(args) => attach::run(args),
        Verb::Detach(args) => detach::run(args),
        Verb::List(args) => list::run(args),
        Verb::Status(args) => status::run(args),
        Verb::Get(args) => get::run(args),
        Verb::Set(args) => set::run(args),
        Verb::Create(args) => create::run(args),
        Verb::Resize(args) => resize::run(args),
        Verb::Remove(args) => remove::run(args),
        Verb::Peer(args) => peer::run(args),
        Verb::Promote(args) => promote::run(args),
        Verb::Demote(args) => demote::run(args),
        Verb::Fence(args) => fence::run(args),
        Verb::Adjust(args) => adjust::run(args),
        Verb::Events(args) => events::run(args),
        Verb::Scrub(args) => scrub::run(args),
        Verb::Check(args) => check::run(args),
        Verb::Dump(args) => dump::run(args),
        Verb::Probe(args) => probe::run(args),
    }
}

/// Prints a value as JSON, over several lines.
fn print_json(value: &impl Serialize) -> Result {
    let text = serde_json::to_string_pretty(value).map_err(json_error)?;
    println!("{text}");
    Ok(())
}

/// Prints a value as one line of JSON.
fn print_json_line(value: &impl Serialize) -> Result {
    let text = serde_json::to_string(value).map_err(json_error)?;
    println!("{text}");
    Ok(())
}

fn json_error(error: serde_json::Error) -> Error {
    Error::new(Exit::Failed, format!("cannot write JSON: {error}"))
}

#[cfg(test)]
mod testing {
    //! Stores in files that go with the test.

    use crate::{cli, error::Result};
    use clap::Parser;
    use std::{
        ffi::OsString,
        fs,
        path::{Path, PathBuf},
    };

    pub struct Scratch(pub PathBuf);

    impl Scratch {
        pub fn new(name: &str, len: u64) -> Self {
            let path = std::env::temp_dir().join(format!("ddup-{name}-{}", std::process::id()));
            fs::File::create(&path).unwrap().set_len(len).unwrap();
            Self(path)
        }

        pub fn store(name: &str, options: &[&str]) -> Self {
            let scratch = Self::new(name, 64 << 20);
            format(&scratch.0, options).unwrap();
            scratch
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    /// `ddup format --json`: what it prints.
    pub fn format(path: &Path, options: &[&str]) -> Result<String> {
        let arguments = ["ddup", "format"]
            .into_iter()
            .map(OsString::from)
            .chain([path.into()])
            .chain(options.iter().map(OsString::from));
        let cli = cli::Cli::try_parse_from(arguments).unwrap();
        let cli::Verb::Format(args) = &cli.verb else {
            panic!("not format");
        };
        super::format::format(args).map(|formatted| serde_json::to_string(&formatted).unwrap())
    }
}
