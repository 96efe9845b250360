// SPDX-License-Identifier: GPL-2.0

//! Tracepoints of a module, which C code defines by `TRACE_EVENT`.
//!
//! A tracepoint that is off costs a nop: a branch that the kernel patches when it is switched on. A
//! build with `--cfg kstage_no_tracepoints` has none, to measure that.
//!
//! C header: `include/linux/tracepoint.h`.
//! Upstream replacement: `kernel::tracepoint::declare_trace!`, once it finds the statics of a module
//! and not only those in the kernel's own bindings.

use crate::block::mq::{Operations, RequestRef};
use core::marker::PhantomData;
use kernel::ffi::c_void;

/// A request as an argument of a tracepoint, whose C code reads it.
///
/// # Invariants
///
/// It is a `struct request`, started, that lives for `'a`.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Request<'a>(*mut c_void, PhantomData<&'a ()>);

impl<'a, T: Operations> From<&'a RequestRef<T>> for Request<'a> {
    #[inline]
    fn from(request: &'a RequestRef<T>) -> Self {
        // INVARIANT: By that of `RequestRef`.
        Request(request.as_raw().cast(), PhantomData)
    }
}

/// Gives the tracepoints that C code of this module defines, by the same names, safe functions:
/// `name(...)`, and `name_enabled()` to ask whether somebody listens. Any context.
///
/// The arguments must be those of the C code's `TP_PROTO`: integers, `bool`, and
/// [`Request`](crate::tracepoint::Request) for `struct request *`. The C file defines
/// `CREATE_RUST_TRACE_POINTS`.
#[macro_export]
macro_rules! tracepoints {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?);)*) => {$(
        ::kernel::macros::paste! {
            $(#[$meta])*
            #[inline(always)]
            $vis fn $name($($arg: $type),*) {
                #[cfg(all(CONFIG_TRACEPOINTS, not(kstage_no_tracepoints)))]
                if [<$name _enabled>]() {
                    extern "C" {
                        fn [<rust_do_trace_ $name>]($($arg: $type),*);
                    }

                    // SAFETY: The C code of this module defines it, with these arguments, which it
                    // only reads.
                    unsafe { [<rust_do_trace_ $name>]($($arg),*) };
                }
                #[cfg(not(all(CONFIG_TRACEPOINTS, not(kstage_no_tracepoints))))]
                {
                    $(let _ = $arg;)*
                }
            }

            /// Whether somebody listens.
            #[inline(always)]
            #[allow(dead_code)]
            $vis fn [<$name _enabled>]() -> bool {
                #[cfg(all(CONFIG_TRACEPOINTS, not(kstage_no_tracepoints)))]
                {
                    extern "C" {
                        static [<__tracepoint_ $name>]: $crate::bindings::tracepoint;
                    }

                    // SAFETY: The C code of this module defines it; its key may always be asked.
                    unsafe {
                        ::kernel::jump_label::static_branch_unlikely!(
                            [<__tracepoint_ $name>],
                            $crate::bindings::tracepoint,
                            key
                        )
                    }
                }
                #[cfg(not(all(CONFIG_TRACEPOINTS, not(kstage_no_tracepoints))))]
                false
            }
        }
    )*};
}
