// SPDX-License-Identifier: GPL-2.0

//! The protocol engine of a replica set: what one store does in it, without I/O, clock or sockets.
//!
//! There is one [`set::Set`] for each set that an attached store belongs to; `member.rs` joins it to
//! the store. `tools/testing/clustersim` plays it on a naive store, `setsim` on real ones.
//!
//! | file | what it is |
//! |---|---|
//! | [`types`], [`codec`] | ids, positions, entries, limits; fields of bytes |
//! | [`wire`] | frames |
//! | [`config`] | configurations, and which successor a store refuses |
//! | [`record`] | configuration and promise on disk |
//! | [`history`] | which positions a store went through |
//! | [`epoch`] | epochs in memory, the chain |
//! | [`range`] | sums of what ranges of blocks hold |
//! | [`set`] | commands, requests, FLUSHes; what is asked of the shell |
//! | `change` | promises and configurations: durable, then in force |
//! | `link` | sessions and HELLO |
//! | `sender`, `receiver` | the two halves of a stream |
//! | `merge` | epochs that an asynchronous peer gets as one |
//! | [`resume`] | compares that go on in the next session |
//! | `pace` | rests of a compare; how soon what failed is tried again |
//! | [`verify`], `verified` | whether a peer holds what it should: the primary's half, the replica's |
//! | [`heal`] | blocks whose copy here is bad |
//! | [`lease`] | until when a primary serves |
//!
//! # What the shell owes
//!
//! 1. Inputs come one at a time; after each, [`set::Set::poll_action`] is called until it yields
//!    nothing, and [`set::Set::poll_send`] for each peer whose socket has room.
//! 2. `Persist` writes both copies and flushes each before it reports. `Seal`, `Apply` and `Switch`
//!    report in the order in which they were asked, once they are durable.
//! 3. What an entry of an epoch refers to stays readable until `Release` names the epoch, what is
//!    staged until `Void`, what a compare has built until `Unbuild`, what a scan shows until `ScanClose`.
//! 4. A session's frames come in order; none is left out.
//! 5. What [`set::Set::begin_window`] took is pinned like what was applied.

pub mod action;
pub mod codec;
pub mod config;
pub mod epoch;
pub mod heal;
pub mod history;
pub mod lease;
pub mod range;
pub mod record;
pub mod resume;
pub mod set;
pub mod types;
pub mod verify;
pub mod wire;

mod change;
mod link;
mod merge;
mod pace;
mod receiver;
mod sender;
mod verified;
