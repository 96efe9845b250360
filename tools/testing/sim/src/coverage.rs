// SPDX-License-Identifier: GPL-2.0

//! Which of the engine's marks were reached.

use ddup_engine::engine::mark;

include!(concat!(env!("OUT_DIR"), "/names.rs"));

/// A line with what was reached, and with `list` a line for each mark.
pub fn report(list: bool) -> String {
    let reached = MARKS.iter().filter(|name| mark::count(name) > 0).count();
    let mut out = format!("{reached} of {} marks reached", MARKS.len());
    for name in MARKS {
        let count = mark::count(name);
        if count == 0 {
            out += &format!("\n    never: {name}");
        } else if list {
            out += &format!("\n{count:>14} {name}");
        }
    }
    out
}

/// The numbers of the mutants that the engine's sources hold.
pub fn mutants() -> &'static [u32] {
    MUTANTS
}
