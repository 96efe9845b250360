// SPDX-License-Identifier: GPL-2.0

//! Proof that the simulator can fail: each deliberate error of the engine has to be caught.

use crate::coverage;
use crate::real::Real;
use crate::runner;
use crate::script::generate;
use std::ops::Range;
use std::time::Instant;

/// What is wrong in each. A number that the sources hold and this table does not fails the hunt.
const NAMES: &[(u32, &str)] = &[
    (
        1,
        "a hit of a fast fingerprint is believed without comparing",
    ),
    (2, "a waiter of the hash lock is forgotten"),
    (3, "FUA does not wait for the journal"),
    (4, "FLUSH does not wait for the journal"),
    (5, "a journal block is written without a flush of its data"),
    (6, "a journal block is written without FUA"),
    (7, "a quick journal block is written without a flush"),
    (8, "the birth of an entry is forgotten"),
    (9, "a page that was replaced keeps its place"),
    (
        10,
        "the segment table is written into the place that counts",
    ),
    (11, "the superblock is written without a flush of its pages"),
    (12, "junk is used again before its retire record is durable"),
    (13, "junk is used again while a read of it is in flight"),
    (14, "junk is retired while a comparison holds it"),
    (
        15,
        "junk is retired although it has owners that are not merged yet",
    ),
    (16, "a retired cluster stays in the index"),
    (17, "a retired cluster has no retire record"),
    (18, "a retired cluster is handed out before its batch ends"),
    (
        19,
        "recovery passes a join and keeps what an older attach left behind",
    ),
    (20, "pages of the durable checkpoint are handed out"),
    (
        21,
        "a commit also completes those who wait for the next block",
    ),
    (
        22,
        "the journal's tail is freed at the cut, before the checkpoint is durable",
    ),
    (23, "the ring never counts as full"),
    (24, "replay counts owners twice"),
    (25, "replay forgets large discards"),
    (26, "a large discard leaves younger changes in place"),
    (27, "a write does not end the large discard that it lies in"),
    (
        28,
        "a checkpoint forgets the large discards that are not finished",
    ),
    (29, "a checkpoint does not wait for its pages"),
    (
        30,
        "a write is acknowledged while a part of it waits for its twin",
    ),
    (31, "a failed write of data counts as done"),
    (32, "a failed write of the journal counts as done"),
    (33, "a failed write of a page counts as done"),
    (
        34,
        "a cluster is handed out though it has changes that are not merged",
    ),
    (35, "an overwritten block keeps its share of the cluster"),
    (
        36,
        "recovery believes the last block without looking at its data",
    ),
    (
        37,
        "a journal block that vouches for its data is flushed only behind it",
    ),
    (
        38,
        "who waits for data I/O that ended waits until something else happens",
    ),
    (
        40,
        "writes are acknowledged early while a FLUSH waits for those before",
    ),
    (
        41,
        "FLUSH does not wait for data of writes acknowledged early",
    ),
    (
        42,
        "a read does not wait for a write acknowledged early of its blocks",
    ),
    (
        43,
        "a write does not wait for one acknowledged early of its blocks",
    ),
    (44, "no FLUSH tells that acknowledged data was lost"),
    (60, "junk is retired while the saved index is being loaded"),
    (
        61,
        "an attach leaves the saved index in the superblock and its clusters to be used",
    ),
    (62, "pages of a pinned checkpoint are handed out"),
    (
        63,
        "a checkpoint writes over a segment table that a check has still to read",
    ),
    (64, "what a shrunk or removed volume loses is not punched"),
    (65, "a change of a volume is told before it is durable"),
    (66, "a shrink ends before what goes has been released"),
    (
        67,
        "an attach leaves a torn copy of the superblock as it is",
    ),
];

fn name(number: u32) -> Option<&'static str> {
    NAMES
        .iter()
        .find(|(n, _)| *n == number)
        .map(|(_, name)| *name)
}

/// Chooses the deliberate error of all stores from now on; 0 is none.
pub fn set(number: u32) {
    ddup_engine::engine::set_mutant(number);
}

/// Plays `seeds` with each mutant until one fails. Prints a table; true if each was caught.
pub fn hunt(seeds: Range<u64>, ops: u32, threads: usize) -> bool {
    let begin = Instant::now();
    let mut survivors = Vec::new();
    println!("{:>6} {:>6} {:>7}", "mutant", "seeds", "seconds");
    for number in coverage::mutants() {
        let Some(name) = name(*number) else {
            println!("{number:>6} has no name in the table of mutants.rs");
            survivors.push(*number);
            continue;
        };
        set(*number);
        let start = Instant::now();
        let play = |seed| runner::run::<Real>(&generate(seed, ops), false);
        let outcomes = runner::run_all(seeds.clone(), threads, 1, &play, &|_| ());
        set(0);
        let seconds = start.elapsed().as_secs_f64();
        let caught = outcomes
            .iter()
            .find_map(|o| o.failure.as_ref().map(|f| (o.seed, f)));
        match caught {
            Some((seed, failure)) => {
                let tries = seed - seeds.start + 1;
                let what: String = failure.what.chars().take(110).collect();
                println!(
                    "{number:>6} {tries:>6} {seconds:>7.1}  {name}\n{:24}seed {seed}: {what}",
                    ""
                );
            }
            None => {
                println!(
                    "{number:>6} {:>6} {seconds:>7.1}  {name}\n{:24}SURVIVED",
                    outcomes.len(),
                    ""
                );
                survivors.push(*number);
            }
        }
    }
    let all = coverage::mutants().len();
    println!(
        "{} of {all} mutants caught in {:.0} s{}",
        all - survivors.len(),
        begin.elapsed().as_secs_f64(),
        if survivors.is_empty() {
            String::new()
        } else {
            format!("; survivors: {survivors:?}")
        }
    );
    survivors.is_empty() && all > 0
}
