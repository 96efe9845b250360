// SPDX-License-Identifier: GPL-2.0

//! Numbers of the netlink family, generated from `uapi/linux/ddup.h`.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    non_upper_case_globals,
    non_camel_case_types
)]

include!(env!("DDUP_UAPI"));
