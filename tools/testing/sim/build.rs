// SPDX-License-Identifier: GPL-2.0

//! Finds the marks and mutants in the engine's sources, so that nobody keeps a list of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    println!("cargo:rerun-if-changed={}", folder.display());
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        // Replica sets have simulators of their own.
        if path.file_name().is_some_and(|name| name == "replication") {
            continue;
        }
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            println!("cargo:rerun-if-changed={}", path.display());
            into.push(path);
        }
    }
}

/// Mutants of what only members of a replica set do.
const OF_MEMBERS: [std::ops::Range<u32>; 3] = [70..100, 260..280, 312..322];

/// What stands between `open` and `)`, outside of comments.
fn arguments<'a>(text: &'a str, open: &str) -> Vec<&'a str> {
    let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
    code.flat_map(|line| line.split(open).skip(1))
        .filter_map(|rest| rest.split_once(')').map(|(inside, _)| inside.trim()))
        .collect()
}

/// The slot of a mark; the same as `mark::slot` of the engine.
fn slot(name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ (hash >> 32)) % (1 << 14)
}

fn main() {
    let engine = Path::new("../../../drivers/block/ddup/engine");
    let mut files = Vec::new();
    sources(engine, &mut files);
    let mut marks = BTreeSet::new();
    let mut mutants = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_default();
        for name in arguments(&text, "mark!(") {
            let of_member = name.starts_with("member_");
            if !of_member && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                marks.insert(name.to_string());
            }
        }
        mutants.extend(
            arguments(&text, "mutant!(")
                .iter()
                .filter_map(|n| n.parse::<u32>().ok())
                .filter(|n| !OF_MEMBERS.iter().any(|numbers| numbers.contains(n))),
        );
    }
    let slots: BTreeSet<u64> = marks.iter().map(|m| slot(m)).collect();
    assert_eq!(
        slots.len(),
        marks.len(),
        "two marks share a slot: rename one"
    );
    let out = env::var("OUT_DIR").unwrap_or_default();
    let text = format!(
        "const MARKS: &[&str] = &{marks:?};\nconst MUTANTS: &[u32] = &{mutants:?};\n",
        marks = marks.iter().collect::<Vec<_>>(),
        mutants = mutants.iter().collect::<Vec<_>>(),
    );
    fs::write(Path::new(&out).join("names.rs"), text).expect("write names.rs");
}
