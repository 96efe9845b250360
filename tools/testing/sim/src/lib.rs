// SPDX-License-Identifier: GPL-2.0

//! A deterministic simulator for a ddup store.
//!
//! From one seed follows a whole history: the store's size and options, the requests, the order in
//! which the disk completes its work, what it loses when the power fails, which allocations and
//! I/Os fail. The [`oracle`] knows what was acknowledged and what was flushed, and is asked at each
//! answer; after each attach the store's own check walks all trees.
//!
//! | module | what it is |
//! |---|---|
//! | [`rng`] | the only source of chance |
//! | [`content`], [`disk`] | blocks without their bytes, and a disk that loses what was not flushed |
//! | [`oracle`] | what a volume may hold |
//! | [`script`] | from a seed to a list of operations |
//! | [`world`] | the machine that plays a script |
//! | [`minimise`] | makes a failing script short |
//! | [`port`] | what a store has to offer |
//! | [`real`] | the engine behind that |
//! | [`mutants`], [`coverage`] | proof that this can fail, and what it never reached |
//! | `toy` | a small store, and how it can be wrong: the simulator's own test |

pub mod content;
pub mod coverage;
pub mod disk;
pub mod minimise;
pub mod mutants;
pub mod oracle;
pub mod port;
pub mod real;
pub mod report;
pub mod rng;
pub mod runner;
pub mod script;
#[cfg(test)]
mod toy;
pub mod world;
pub mod xxh64;
