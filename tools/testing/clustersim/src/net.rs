// SPDX-License-Identifier: GPL-2.0

//! Connections: frames in order, late, cut short, and sometimes changed.

use crate::store::Content;
use std::collections::VecDeque;

/// A frame under way.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Header and body.
    pub meta: Vec<u8>,
    /// Its blocks.
    pub blocks: Vec<Content>,
}

/// A connection between two stores.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Given to both ends.
    pub nonce: u64,
    /// Which ends know of it and have not closed it.
    pub open: [bool; 2],
    /// From each end: what is under way, and when the last of it arrives.
    pub queues: [(VecDeque<Packet>, u64); 2],
    /// Nothing more gets through.
    pub dead: bool,
}

impl Connection {
    /// A new one, of which the ends are still to be told.
    pub fn new(nonce: u64) -> Self {
        Connection {
            nonce,
            open: [false; 2],
            queues: Default::default(),
            dead: false,
        }
    }
}
