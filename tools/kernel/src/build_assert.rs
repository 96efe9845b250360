// SPDX-License-Identifier: GPL-2.0

//! Assertions that hold at compile time.

#[doc(inline)]
pub use crate::{const_assert, static_assert};

/// Fails the build if the condition, which may use no generic parameter, is false.
#[macro_export]
macro_rules! static_assert {
    ($condition:expr $(, $arg:literal)?) => {
        const _: () = ::core::assert!($condition $(, $arg)?);
    };
}

/// Fails the build if the condition, which may use generic parameters, is false.
#[macro_export]
macro_rules! const_assert {
    ($condition:expr $(, $arg:literal)?) => {
        const { ::core::assert!($condition $(, $arg)?) };
    };
}
