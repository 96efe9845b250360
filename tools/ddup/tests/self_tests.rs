// SPDX-License-Identifier: GPL-2.0

//! The self-tests leave nothing out: each verb with each option, each event of the spec. Those of the
//! spec's operations and of the knobs take their lists from spec and tool themselves.

use clap::Command;
use ddup_tool::cli;
use std::{fs, path::Path};

/// All of the self-tests, a line for each command: what `\` continues is one.
fn scripts() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testing/selftests/ddup");
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "sh" || e == "guest") {
            text += &fs::read_to_string(path).unwrap();
        }
    }
    text.replace("\\\n", " ")
}

/// Lines that call a verb, by its name or by a function of `lib.sh`.
fn calls<'a>(scripts: &'a str, verb: &str) -> Vec<&'a str> {
    let helper = match verb {
        "attach" => "attach ",
        "format" => "make_store ",
        _ => "\0",
    };
    let command = format!("ddup {verb}");
    // `"$(command -v ddup)" set` is another user's.
    let other = format!("ddup)\" {verb}");
    scripts
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter(|line| line.contains(&command) || line.contains(&other) || line.contains(helper))
        .collect()
}

/// Verbs as they are called, with those below them.
fn verbs<'a>(above: &str, command: &'a Command) -> Vec<(String, &'a Command)> {
    let own = command.get_subcommands().filter(|v| v.get_name() != "help");
    own.flat_map(|verb| {
        let name = format!("{above}{}", verb.get_name());
        let below = verbs(&format!("{name} "), verb);
        std::iter::once((name, verb)).chain(below)
    })
    .collect()
}

#[test]
fn every_verb_and_option_is_used() {
    let scripts = scripts();
    let command = cli::command();
    let mut missing = Vec::new();
    for (name, verb) in verbs("", &command) {
        let calls = calls(&scripts, &name);
        if calls.is_empty() {
            missing.push(name.clone());
        }
        for option in verb.get_arguments() {
            let Some(long) = option
                .get_long()
                .filter(|l| !matches!(*l, "help" | "version"))
            else {
                continue;
            };
            let long = format!("--{long}");
            let short = option.get_short().map(|short| format!(" -{short} "));
            let used = |call: &&str| {
                let words = call.split(|c: char| !(c.is_alphanumeric() || "-_".contains(c)));
                words.into_iter().any(|word| word == long)
                    || short.as_ref().is_some_and(|short| call.contains(short))
            };
            if !calls.iter().any(used) {
                missing.push(format!("{name} {long}"));
            }
        }
    }
    assert!(missing.is_empty(), "no self-test uses {missing:?}");
}

#[test]
fn every_event_of_the_spec_is_awaited() {
    let spec =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Documentation/netlink/specs/ddup.yaml");
    let spec = fs::read_to_string(spec).unwrap();
    let operations = spec.split_once("\noperations:").unwrap().1;
    let operations = operations.split_once("\nmcast-groups:").unwrap().0;
    let scripts = scripts();
    let mut events = 0;
    for operation in operations.split("\n      name: ").skip(1) {
        if operation.contains("\n      event:") {
            let name = operation.lines().next().unwrap().trim();
            assert!(
                scripts.contains(&format!("\"{name}\"")),
                "no self-test awaits {name}"
            );
            events += 1;
        }
    }
    assert!(events >= 6, "{events}");
}
