// SPDX-License-Identifier: GPL-2.0

//! Finds the marks and mutants of what joins a set to its store.

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
    let folder = "../../../drivers/block/ddup/engine";
    println!("cargo:rerun-if-changed={folder}");
    let (mut marks, mut mutants) = (BTreeSet::new(), BTreeSet::new());
    let here = fs::read_dir(folder)
        .expect("the engine's sources")
        .flatten();
    // What a set does to heal blocks is proven here too.
    let heal = Path::new(folder).join("replication/heal.rs");
    for path in here.map(|entry| entry.path()).chain([heal]) {
        if path.extension().is_none_or(|e| e != "rs") {
            continue;
        }
        println!("cargo:rerun-if-changed={}", path.display());
        let text = fs::read_to_string(&path).unwrap_or_default();
        let ours = |name: &&str| name.starts_with("member_");
        marks.extend(
            arguments(&text, "mark!(")
                .into_iter()
                .filter(ours)
                .map(String::from),
        );
        let numbers = arguments(&text, "mutant!(")
            .into_iter()
            .filter_map(|n| n.parse().ok());
        mutants.extend(numbers.filter(|n: &u32| matches!(n, 70..100 | 260..280 | 312..322)));
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
