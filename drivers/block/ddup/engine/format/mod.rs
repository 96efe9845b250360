// SPDX-License-Identifier: GPL-2.0

//! The store on disk, byte by byte: the only place where bytes become values and values bytes.
//!
//! `Documentation/block/ddup-format.rst` draws it. Everything is little-endian; every metadata
//! block carries the store's UUID and a checksum. Any byte may be hostile: the worst that it may
//! cause is an error.

pub mod index;
pub mod journal;
pub mod layout;
pub mod le;
pub mod page;
pub mod superblock;
