// SPDX-License-Identifier: GPL-2.0

//! Proof that the simulator can fail: each deliberate error of the protocol engine is caught.

use crate::script::generate;
use crate::world;
use crate::MUTANTS;
use std::ops::Range;
use std::time::Instant;

/// What is wrong in each, with the clause of the contract that it breaks.
const NAMES: &[(u32, &str)] = &[
    (
        101,
        "4, 6: a FENCE is answered before the promise is durable",
    ),
    (102, "4: a configuration is acted on before it is durable"),
    (103, "3, 6: a FENCE that is not above the promise is obeyed"),
    (
        104,
        "6, 10: a position is stated before what is being applied has ended",
    ),
    (
        105,
        "6, 9: a fence stops neither intake nor acknowledgements",
    ),
    (106, "7: a configuration for another version is taken"),
    (107, "3, 7: a configuration below the promise is taken"),
    (108, "7: a configuration of unknown ancestry is taken"),
    (109, "7: a store becomes primary that was not in sync"),
    (
        110,
        "7: a configuration is taken that does not name the store",
    ),
    (
        111,
        "7: a floor that the history does not contain is ignored",
    ),
    (112, "3: other bytes of the same version pass for the same"),
    (113, "5: a store resumes as primary by itself"),
    (114, "8: a peer is said to be joinable at once"),
    (115, "8: FLUSHes do not wait for a joining peer"),
    (
        116,
        "8: a peer that was joinable is dropped when it is lost",
    ),
    (117, "9: a new term leaves the sessions open"),
    (118, "10: frames of an old session count"),
    (
        119,
        "10: acknowledgements of an old term, version or stream count",
    ),
    (121, "11: a higher promise of a peer is ignored"),
    (
        122,
        "11: a configuration is taken from who is not its primary",
    ),
    (
        123,
        "11: an unrelated configuration is taken, and with it the data",
    ),
    (
        124,
        "11: what may have been acknowledged is given up after force",
    ),
    (125, "12: a FLUSH does not wait for the local journal"),
    (126, "12: a FLUSH does not wait for a member that is away"),
    (127, "12: a FLUSH does not look at min_insync"),
    (128, "12: a FLUSH completes though fenced"),
    (129, "4: an epoch is acknowledged before it is durable"),
    (130, "a new primary takes requests before it is reconciled"),
    (131, "13: FLUSHes that failed are said to have succeeded"),
    (132, "pins are let go of when an epoch is durable here"),
    (133, "13: a demotion does not wait"),
    (
        134,
        "an epoch is applied before all references are resolved",
    ),
    (136, "asynchronous peers get what is not committed"),
    (137, "credit is not looked at"),
    (
        138,
        "a position is believed without looking into the history",
    ),
    (140, "an epoch goes to a peer that cannot take it"),
    (141, "5, 12: acknowledgements of an earlier session count"),
    (142, "data of another content than its entry says is taken"),
    (
        143,
        "a block of another content than was asked for is taken",
    ),
    (144, "a block that was read in vain is kept for ever"),
    (150, "ranges with as many blocks pass for equal"),
    (151, "a change of volumes is not alone in its epoch"),
    (
        152,
        "what comes behind a change of volumes is staged before that is made",
    ),
    (
        153,
        "what comes behind a full compare is staged before the switch",
    ),
    (154, "a full compare does not tell of all volumes"),
    (230, "a compare that was lost begins again at once"),
    (231, "a block is LOST when its first read fails"),
    (232, "a block that can't be read is tried for ever"),
    (233, "a compare may rest for ever"),
    (243, "13: a replica freezes a state whatever it has applied"),
    (244, "13: VERIFY does not wait for its place in the stream"),
    (245, "13: ranges with as many blocks pass for equal"),
    (246, "13: a block that only the peer has is passed over"),
    (
        247,
        "13: a verify is complete before the peer has what is repaired",
    ),
    (248, "13: a replica holds epochs back for ever"),
    (
        249,
        "13: the next cut is taken for the one that the peer was told of",
    ),
    (240, "14: a lease for an earlier version is taken"),
    (241, "14: a lease outlives its configuration"),
    (242, "14: the end of a lease is not looked at"),
    (267, "a diff begins behind what the peer has"),
    (
        342,
        "pins of what was kept over an attach are let go of at once",
    ),
    (280, "10: blocks are packed for who does not take them so"),
    (281, "10: who does not take packed blocks says so"),
    (282, "blocks are packed though the store is not to"),
    (
        283,
        "11: a peer does not hear that its verify has ended if it is compared next",
    ),
    (300, "what is not committed is merged"),
    (301, "epochs of several reigns are merged"),
    (302, "a change of volumes is merged with what is around it"),
    (303, "what a block was first is told in a merged epoch"),
    (306, "a merged epoch has more entries than the peer takes"),
    (307, "13: epochs are merged across the place of a VERIFY"),
    (309, "what a peer lacks of a merged epoch is not sent"),
    (
        310,
        "zeroes are left out of a merged epoch if a part of them was written again",
    ),
    (311, "merged epochs are told to whom does not take them"),
    (322, "peers are not told of what is missed"),
    (323, "a peer does not remember what it was told of"),
    (400, "a compare goes on in the shadows of another state"),
    (401, "a replica says that it has one block more than it has"),
    (402, "what came and is not built is not told again"),
    (403, "11: a state is parked for ever"),
    (
        404,
        "what is built is dropped, and the replica counts on it",
    ),
    (405, "a compare goes on in another volume"),
    (324, "junk is kept for ever for who misses it"),
];

/// Chooses the deliberate error from now on; 0 is none.
pub fn set(number: u32) {
    ddup_engine::engine::set_mutant(number);
}

/// Plays `seeds` with each mutant until one fails; true if each was caught.
pub fn hunt(seeds: Range<u64>, steps: u32, only: Option<u32>) -> bool {
    let begin = Instant::now();
    let mut survivors = Vec::new();
    for number in MUTANTS.iter().filter(|n| only.is_none_or(|o| o == **n)) {
        let Some((_, name)) = NAMES.iter().find(|(n, _)| n == number) else {
            println!("{number:>6} has no name in the table of mutants.rs");
            survivors.push(*number);
            continue;
        };
        set(*number);
        let mut caught = None;
        for seed in seeds.clone() {
            if let Err(f) = world::play(&generate(seed, steps), false).1 {
                caught = Some((seed, f.what));
                break;
            }
        }
        set(0);
        match caught {
            Some((seed, what)) => {
                let what: String = what.chars().take(100).collect();
                println!("{number:>6} {name}\n       seed {seed}: {what}");
            }
            None => {
                println!("{number:>6} {name}\n       SURVIVED");
                survivors.push(*number);
            }
        }
    }
    let all = MUTANTS
        .iter()
        .filter(|n| only.is_none_or(|o| o == **n))
        .count();
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
