// SPDX-License-Identifier: GPL-2.0

//! Why something was refused: an errno, a sentence, and the netlink attribute to blame.

use core::fmt::{self, Write};
use kernel::prelude::*;

/// An error that the kernel crate does not name in all of its versions.
pub(crate) fn errno(number: u32) -> Error {
    Error::from_errno(-(number as i32))
}

/// Longest sentence; what an extended acknowledgment has room for.
const MESSAGE_MAX: usize = 79;

/// A refusal of a netlink request.
pub(crate) struct Refusal {
    pub(crate) error: Error,
    pub(crate) attr: Option<u32>,
    message: [u8; MESSAGE_MAX],
    len: usize,
}

impl Refusal {
    /// Refuses with `error`. `message` says what was wrong and what to do, without a full stop.
    pub(crate) fn new(error: Error, attr: Option<u32>, message: fmt::Arguments<'_>) -> Refusal {
        let mut this = Refusal {
            error,
            attr,
            message: [0; MESSAGE_MAX],
            len: 0,
        };

        // Cannot fail: too long a message is cut.
        let _ = this.write_fmt(message);
        this
    }

    pub(crate) fn message(&self) -> &str {
        self.message
            .get(..self.len)
            .and_then(|bytes| core::str::from_utf8(bytes).ok())
            .unwrap_or("")
    }
}

impl Write for Refusal {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let room = MESSAGE_MAX.saturating_sub(self.len);
        let mut n = s.len().min(room);

        while !s.is_char_boundary(n) {
            n = n.saturating_sub(1);
        }
        let end = self.len.saturating_add(n);
        if let (Some(to), Some(from)) = (self.message.get_mut(self.len..end), s.as_bytes().get(..n))
        {
            to.copy_from_slice(from);
            self.len = end;
        }
        Ok(())
    }
}

/// Shorthand of [`Refusal::new`]: `refuse!(EBUSY, Some(attr), "busy: {n}")`.
macro_rules! refuse {
    ($error:expr, $attr:expr, $($message:tt)*) => {
        $crate::error::Refusal::new($error, $attr, ::core::format_args!($($message)*))
    };
}
pub(crate) use refuse;

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        if error == ENOMEM {
            return refuse!(error, None, "out of memory");
        }
        Refusal::new(error, None, format_args!("{error:?}"))
    }
}

impl From<core::num::TryFromIntError> for Refusal {
    fn from(_: core::num::TryFromIntError) -> Self {
        EOVERFLOW.into()
    }
}

impl From<kernel::alloc::AllocError> for Refusal {
    fn from(_: kernel::alloc::AllocError) -> Self {
        ENOMEM.into()
    }
}
