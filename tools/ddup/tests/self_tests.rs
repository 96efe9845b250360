// SPDX-License-Identifier: GPL-2.0

//! The self-tests leave nothing out: each verb with each option, each event of the spec. Those of the
//! spec's operations and of the knobs take their lists from spec and tool themselves.

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

#[test]
fn every_verb_and_option_is_used() {
    let scripts = scripts();
    let command = cli::command();
    let mut missing = Vec::new();
    for verb in command.get_subcommands().filter(|v| v.get_name() != "help") {
        let calls = calls(&scripts, verb.get_name());
        if calls.is_empty() {
            missing.push(verb.get_name().to_owned());
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
                missing.push(format!("{} {long}", verb.get_name()));
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
