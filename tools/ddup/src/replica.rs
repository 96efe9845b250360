// SPDX-License-Identifier: GPL-2.0

//! Replica sets, the part that decides: what new stores are made with, and the configurations that
//! follow from what a person wants.
//!
//! A person is the authority of `Documentation/block/ddup-protocol.rst`, and this is what keeps to its
//! rules for them. There is no log of configurations beside the one in force, so each is made from
//! that of the store that is to take it, by a compare-and-set on its version, and nobody is left out
//! of those in sync without proof, or a person's word, that they do not go on by themselves.

pub mod change;
pub mod handshake;
pub mod invitation;
pub mod statement;
pub mod token;
