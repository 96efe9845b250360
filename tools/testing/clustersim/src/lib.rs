// SPDX-License-Identifier: GPL-2.0

//! A deterministic simulator of a replica set.
//!
//! From one seed follows a whole history of three to five stores that run the protocol engine: what
//! is written, what the network delays, cuts and damages, who crashes in the midst of which action,
//! and what an operator commands. The oracle knows every position that a primary ever sealed and
//! every FLUSH that was acknowledged, and looks at each durable change, each frame and each answer.
//! Below the engine lies a naive store, which loses at a crash what it had not made durable.
//!
//! | module | what it is |
//! |---|---|
//! | [`script`] | from a seed to a list of steps |
//! | [`store`] | the naive store |
//! | [`net`] | connections |
//! | [`world`] | plays a script |
//! | [`miss`] | what primaries miss, and the junk of others that it turns up in |
//! | [`verify`] | blocks that differ silently, and who finds them |
//! | `operator` | commands, by the rules or by force |
//! | [`oracle`] | what must hold |
//! | [`mutants`] | proof that this can fail |

pub mod miss;
pub mod mutants;
pub mod net;
mod operator;
pub mod oracle;
pub mod script;
pub mod store;
pub mod verify;
pub mod world;

include!(concat!(env!("OUT_DIR"), "/names.rs"));
