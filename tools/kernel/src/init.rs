// SPDX-License-Identifier: GPL-2.0

//! Values that are made where they are to lie.
//!
//! In the kernel they never lie on the stack, which is small there. Here they are made and moved: an
//! initializer is a closure that makes its value.

use crate::alloc::{AllocError, Allocator, Box, Flags};

/// Makes a `T`, or fails with an `E`.
pub trait Init<T, E>: Sized {
    /// Makes it.
    fn make(self) -> Result<T, E>;
}

impl<T, E, F: FnOnce() -> Result<T, E>> Init<T, E> for F {
    fn make(self) -> Result<T, E> {
        self()
    }
}

/// What can be made with a value in its place.
pub trait InPlaceInit<T>: Sized {
    /// Allocates, and makes the value there.
    fn try_init<E: From<AllocError>>(init: impl Init<T, E>, flags: Flags) -> Result<Self, E>;
}

impl<T, A: Allocator> InPlaceInit<T> for Box<T, A> {
    fn try_init<E: From<AllocError>>(init: impl Init<T, E>, flags: Flags) -> Result<Self, E> {
        let place = Box::new_uninit(flags)?;
        Ok(Box::write(place, init.make()?))
    }
}

/// An initializer of a struct: `try_init!(Type { field: expression, field, ... })`, which fails with
/// [`Error`](crate::error::Error), or with `E` if `? E` follows. The expressions may use `?`.
#[macro_export]
macro_rules! try_init {
    ($type:ident { $($fields:tt)* }) => {
        $crate::try_init!($type { $($fields)* }? $crate::error::Error)
    };
    ($type:ident { $($fields:tt)* }? $error:ty) => {
        move || -> ::core::result::Result<$type, $error> { Ok($type { $($fields)* }) }
    };
}

#[cfg(test)]
mod tests {
    use crate::fail_alloc::{self, Policy};
    use crate::prelude::*;

    #[derive(Debug, PartialEq)]
    struct Pair {
        first: u32,
        second: u32,
    }

    fn pair(first: Result<u32>) -> Result<KBox<Pair>> {
        let second = 2;
        let pair = try_init!(Pair {
            first: first?,
            second,
        });
        KBox::try_init(pair, GFP_KERNEL)
    }

    #[test]
    fn a_value_is_made_or_what_failed_is_said() {
        let made = Pair {
            first: 1,
            second: 2,
        };
        assert_eq!(*pair(Ok(1)).unwrap(), made);
        assert_eq!(pair(Err(EBUSY)).err(), Some(EBUSY));
        let short = fail_alloc::with(Policy::LiveBytes(0), || pair(Ok(1)));
        assert_eq!(short.err(), Some(ENOMEM));
    }
}
