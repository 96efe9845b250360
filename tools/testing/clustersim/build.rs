// SPDX-License-Identifier: GPL-2.0

//! Finds the marks and mutants of the protocol engine in its sources.

use std::collections::BTreeSet;
use std::{env, fs, path::Path};

/// What stands between `open` and `)`, outside of comments.
fn arguments<'a>(text: &'a str, open: &str) -> Vec<&'a str> {
    let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
    code.flat_map(|line| line.split(open).skip(1))
        .filter_map(|rest| rest.split_once(')').map(|(inside, _)| inside.trim()))
        .collect()
}

fn main() {
    let folder = "../../../drivers/block/ddup/engine/replication";
    println!("cargo:rerun-if-changed={folder}");
    let mut marks = BTreeSet::new();
    let mut mutants = BTreeSet::new();
    for entry in fs::read_dir(folder)
        .expect("the engine's sources")
        .flatten()
    {
        let path = entry.path();
        println!("cargo:rerun-if-changed={}", path.display());
        let text = fs::read_to_string(&path).unwrap_or_default();
        marks.extend(arguments(&text, "mark!(").iter().map(|m| m.to_string()));
        // Those below 100 need a real store: setsim has them.
        let numbers = arguments(&text, "mutant!(")
            .into_iter()
            .filter_map(|n| n.parse::<u32>().ok());
        mutants.extend(numbers.filter(|n| *n >= 100));
    }
    let out = env::var("OUT_DIR").unwrap_or_default();
    let text = format!(
        "/// Names of the marks in the sources.\npub const MARKS: &[&str] = &{:?};\n\
         /// Numbers of the mutants in the sources.\npub const MUTANTS: &[u32] = &{:?};\n",
        marks.iter().collect::<Vec<_>>(),
        mutants.iter().collect::<Vec<_>>(),
    );
    fs::write(Path::new(&out).join("names.rs"), text).expect("write names.rs");
}
