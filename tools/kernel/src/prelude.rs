// SPDX-License-Identifier: GPL-2.0

//! The `kernel` prelude: the names that `use kernel::prelude::*` brings in.

pub use core::{
    mem::{align_of, align_of_val, size_of, size_of_val},
    pin::Pin,
};

pub use crate::{
    alloc::{flags::*, Box, KBox, KVBox, KVVec, KVec, VBox, VVec, Vec},
    build_assert::{const_assert, static_assert},
    error::{code::*, Error, Result},
    init::{InPlaceInit, Init},
    try_init,
};
