// SPDX-License-Identifier: GPL-2.0

//! Generic netlink: a family whose C tables are generated from a YAML spec, with handlers in Rust.
//!
//! The generated C code (`ynl_gen_c.py`) defines a `struct genl_family` whose operations call C
//! functions by fixed names. [`genl_family!`](crate::genl_family) defines these functions over safe
//! handlers, and gives the family a Rust name. [`Registration`] makes it known to the kernel.
//!
//! C header: `include/net/genetlink.h`.
//! Upstream replacement: `kernel::netlink` (7.3: sending only, no handlers yet).

use crate::bindings;
use core::{
    fmt::{self, Write},
    marker::PhantomData,
    ptr::NonNull,
};
use kernel::{error::to_result, prelude::*, str::CStr, types::Opaque};

/// A family that C code defines.
///
/// # Invariants
///
/// It is a static `struct genl_family` of this module.
#[repr(transparent)]
pub struct Family {
    raw: Opaque<bindings::genl_family>,
}

// SAFETY: The kernel locks families.
unsafe impl Sync for Family {}

/// Defines a family: gives the C static a Rust name, and its operations safe handlers.
///
/// `do` handlers are `fn(&mut Info<'_>) -> Result`, `dump` handlers
/// `fn(&mut Dump<'_>) -> Result`. All may sleep.
#[macro_export]
macro_rules! genl_family {
    (
        $(#[$meta:meta])*
        $vis:vis static $name:ident = $c_name:ident;
        $(do $do_c:ident => $do_handler:path;)*
        $(dump $dump_c:ident => $dump_handler:path;)*
    ) => {
        $(#[$meta])*
        $vis static $name: $crate::genetlink::FamilyRef = {
            extern "C" {
                static $c_name: $crate::genetlink::Family;
            }

            // SAFETY: Generated C code of this module defines it, with that type.
            unsafe { $crate::genetlink::FamilyRef::new(&raw const $c_name) }
        };
        $(
            /// # Safety
            ///
            /// Called by generic netlink only.
            #[no_mangle]
            unsafe extern "C" fn $do_c(
                _skb: *mut $crate::bindings::sk_buff,
                info: *mut $crate::bindings::genl_info,
            ) -> ::kernel::ffi::c_int {
                // SAFETY: Generic netlink passes a valid request.
                unsafe { $crate::genetlink::run_do(info, $do_handler) }
            }
        )*
        $(
            /// # Safety
            ///
            /// Called by generic netlink only.
            #[no_mangle]
            unsafe extern "C" fn $dump_c(
                skb: *mut $crate::bindings::sk_buff,
                callback: *mut $crate::bindings::netlink_callback,
            ) -> ::kernel::ffi::c_int {
                // SAFETY: Generic netlink passes a valid dump.
                unsafe { $crate::genetlink::run_dump(skb, callback, $dump_handler) }
            }
        )*
    };
}

/// The address of a [`Family`], as [`genl_family!`](crate::genl_family) stores it.
pub struct FamilyRef(*const Family);

// SAFETY: The kernel locks families.
unsafe impl Sync for FamilyRef {}
// SAFETY: As above.
unsafe impl Send for FamilyRef {}

impl FamilyRef {
    /// # Safety
    ///
    /// `raw` is a static family of this module.
    #[doc(hidden)]
    pub const unsafe fn new(raw: *const Family) -> Self {
        FamilyRef(raw)
    }

    fn as_raw(&self) -> *mut bindings::genl_family {
        self.0.cast_mut().cast()
    }
}

/// A family that the kernel knows, until this is dropped. May sleep.
pub struct Registration(&'static FamilyRef);

impl Registration {
    /// Registers `family`. Operations come from here on. Only while the module is being loaded
    /// (generated families are read-only after).
    pub fn new(family: &'static FamilyRef) -> Result<Registration> {
        // SAFETY: It is a static family of this module.
        to_result(unsafe { bindings::kstage_genl_register(family.as_raw()) })?;
        Ok(Registration(family))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: It is registered. Operations that run are waited for.
        unsafe { bindings::kstage_genl_unregister(self.0.as_raw()) };
    }
}

/// A request of an operation, and where its answer goes.
///
/// # Invariants
///
/// `raw` is valid for `'a`.
pub struct Info<'a> {
    raw: NonNull<bindings::genl_info>,
    _call: PhantomData<&'a ()>,
}

/// Calls a `do` handler.
///
/// # Safety
///
/// `info` is valid for this call.
#[doc(hidden)]
pub unsafe fn run_do(
    info: *mut bindings::genl_info,
    handler: fn(&mut Info<'_>) -> Result,
) -> c_int {
    let mut info = Info {
        // SAFETY: Valid by the contract, so not NULL.
        raw: unsafe { NonNull::new_unchecked(info) },
        _call: PhantomData,
    };

    match handler(&mut info) {
        Ok(()) => 0,
        Err(err) => err.to_errno(),
    }
}

/// Length of the longest message of an extended acknowledgment.
const MESSAGE_MAX: usize = 79;

/// Text that is cut at its capacity.
struct Text {
    buf: [u8; MESSAGE_MAX],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let room = self.buf.len() - self.len;
        let mut n = s.len().min(room);

        while !s.is_char_boundary(n) {
            n -= 1;
        }
        self.buf[self.len..self.len + n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

impl Info<'_> {
    /// The attribute of number `ty`, if the request has it. It was checked against the policy of the
    /// operation.
    pub fn attr(&self, ty: u32) -> Option<Attr<'_>> {
        let ty = i32::try_from(ty).ok()?;

        // SAFETY: By the type invariant.
        let raw = unsafe { bindings::kstage_genl_find(self.raw.as_ptr(), ty) };

        Some(Attr {
            raw: NonNull::new(raw.cast_mut())?,
            _message: PhantomData,
        })
    }

    /// Says why the request is refused, and returns `err` for the handler to return. The message
    /// (no full stop, at most 79 bytes) and the attribute to blame, if any, go to the requester.
    pub fn refuse(&mut self, err: Error, attr: Option<u32>, message: fmt::Arguments<'_>) -> Error {
        let mut text = Text {
            buf: [0; MESSAGE_MAX],
            len: 0,
        };
        // Cannot fail: `Text` cuts.
        let _ = text.write_fmt(message);
        let attr = attr
            .and_then(|ty| self.attr(ty))
            .map_or(core::ptr::null(), |attr| attr.raw.as_ptr().cast_const());

        // SAFETY: By the type invariant; the message is copied.
        unsafe {
            bindings::kstage_genl_error(
                self.raw.as_ptr(),
                attr,
                text.buf.as_ptr().cast(),
                text.len,
            );
        }
        err
    }

    /// Whether the requester has CAP_SYS_ADMIN in the initial user namespace.
    pub fn sender_is_admin(&self) -> bool {
        // SAFETY: Handlers run in the context of the requester.
        unsafe { bindings::capable(bindings::CAP_SYS_ADMIN as i32) }
    }

    /// Sends an answer of command `cmd`, which `fill` fills.
    pub fn reply(&mut self, cmd: u32, fill: impl FnOnce(&mut Message<'_>) -> Result) -> Result {
        let cmd = u8::try_from(cmd)?;
        let skb = Skb::new()?;

        // SAFETY: Both are valid.
        let hdr = unsafe { bindings::kstage_genl_put_reply(skb.as_raw(), self.raw.as_ptr(), cmd) };
        skb.fill(hdr, fill)?;

        // SAFETY: Both are valid; the buffer is given away.
        to_result(unsafe { bindings::kstage_genl_reply(skb.into_raw(), self.raw.as_ptr()) })
    }
}

/// An attribute of a request.
///
/// # Invariants
///
/// `raw` is an attribute whose payload is valid for `'a`.
#[derive(Clone, Copy)]
pub struct Attr<'a> {
    raw: NonNull<bindings::nlattr>,
    _message: PhantomData<&'a ()>,
}

impl<'a> Attr<'a> {
    /// The payload.
    pub fn bytes(self) -> &'a [u8] {
        // SAFETY: By the type invariant.
        unsafe {
            let len = bindings::kstage_nla_len(self.raw.as_ptr());

            core::slice::from_raw_parts(
                bindings::kstage_nla_data(self.raw.as_ptr()).cast(),
                usize::try_from(len).unwrap_or(0),
            )
        }
    }

    /// A number of 1, 2, 4 or 8 bytes, zero-extended; 0 for other payloads.
    pub fn uint(self) -> u64 {
        // SAFETY: By the type invariant.
        unsafe { bindings::kstage_nla_uint(self.raw.as_ptr()) }
    }

    /// A string, which must end with its only NUL.
    pub fn string(self) -> Result<&'a CStr> {
        CStr::from_bytes_with_nul(self.bytes()).map_err(|_| EINVAL)
    }
}

/// A socket buffer that we own.
struct Skb(NonNull<bindings::sk_buff>);

impl Skb {
    /// Payload of the largest message that we send.
    const SIZE: usize = 8192;

    fn new() -> Result<Skb> {
        // SAFETY: No preconditions.
        let raw = unsafe { bindings::kstage_genl_msg_new(Self::SIZE) };

        Ok(Skb(NonNull::new(raw).ok_or(ENOMEM)?))
    }

    fn as_raw(&self) -> *mut bindings::sk_buff {
        self.0.as_ptr()
    }

    fn into_raw(self) -> *mut bindings::sk_buff {
        core::mem::ManuallyDrop::new(self).0.as_ptr()
    }

    /// Fills a message that was begun, and ends it.
    fn fill(&self, hdr: *mut c_void, fill: impl FnOnce(&mut Message<'_>) -> Result) -> Result {
        if hdr.is_null() {
            return Err(EMSGSIZE);
        }
        fill(&mut Message {
            skb: self.as_raw(),
            _skb: PhantomData,
        })?;

        // SAFETY: The message was begun in this buffer.
        unsafe { bindings::kstage_genl_end(self.as_raw(), hdr) };
        Ok(())
    }
}

impl Drop for Skb {
    fn drop(&mut self) {
        // SAFETY: It is ours.
        unsafe { bindings::kstage_nlmsg_free(self.as_raw()) };
    }
}

/// A message that is being filled. All functions fail with `EMSGSIZE` if there is no room.
///
/// # Invariants
///
/// `skb` is valid for `'a`, with a message begun.
pub struct Message<'a> {
    skb: *mut bindings::sk_buff,
    _skb: PhantomData<&'a mut ()>,
}

impl Message<'_> {
    fn put(&mut self, ty: u32, data: &[u8]) -> Result {
        // SAFETY: By the type invariant; `data` is valid.
        to_result(unsafe {
            bindings::kstage_nla_put(
                self.skb,
                i32::try_from(ty)?,
                i32::try_from(data.len())?,
                data.as_ptr().cast(),
            )
        })
    }

    /// Appends bytes.
    pub fn put_bytes(&mut self, ty: u32, data: &[u8]) -> Result {
        self.put(ty, data)
    }

    /// Appends a string with its NUL.
    pub fn put_string(&mut self, ty: u32, data: &CStr) -> Result {
        self.put(ty, data.to_bytes_with_nul())
    }

    /// Appends a 32-bit number (`u32` of the spec).
    pub fn put_u32(&mut self, ty: u32, value: u32) -> Result {
        self.put(ty, &value.to_ne_bytes())
    }

    /// Appends a number in 32 or 64 bits, as it fits (`uint` of the spec).
    pub fn put_uint(&mut self, ty: u32, value: u64) -> Result {
        // SAFETY: By the type invariant.
        to_result(unsafe { bindings::kstage_nla_put_uint(self.skb, i32::try_from(ty)?, value) })
    }

    /// Appends an attribute without payload (`flag` of the spec).
    pub fn put_flag(&mut self, ty: u32) -> Result {
        self.put(ty, &[])
    }

    /// Appends attributes inside another.
    pub fn put_nested(&mut self, ty: u32, fill: impl FnOnce(&mut Message<'_>) -> Result) -> Result {
        // SAFETY: By the type invariant.
        let start = unsafe { bindings::kstage_nla_nest_start(self.skb, i32::try_from(ty)?) };

        if start.is_null() {
            return Err(EMSGSIZE);
        }
        let filled = fill(self);

        // SAFETY: The attribute was begun in this buffer.
        unsafe {
            match filled {
                Ok(()) => bindings::kstage_nla_nest_end(self.skb, start),
                Err(_) => bindings::kstage_nla_nest_cancel(self.skb, start),
            }
        }
        filled
    }
}

/// A dump: a list of messages in as many buffers as it takes. The handler runs once per buffer,
/// with the state of the last time in [`state`](Self::state).
///
/// # Invariants
///
/// Both are valid for `'a`.
pub struct Dump<'a> {
    skb: NonNull<bindings::sk_buff>,
    callback: NonNull<bindings::netlink_callback>,
    _call: PhantomData<&'a ()>,
}

/// Calls a `dump` handler.
///
/// # Safety
///
/// Both pointers are valid for this call.
#[doc(hidden)]
pub unsafe fn run_dump(
    skb: *mut bindings::sk_buff,
    callback: *mut bindings::netlink_callback,
    handler: fn(&mut Dump<'_>) -> Result,
) -> c_int {
    // SAFETY: Valid by the contract.
    unsafe {
        let before = (*skb).len;
        let mut dump = Dump {
            skb: NonNull::new_unchecked(skb),
            callback: NonNull::new_unchecked(callback),
            _call: PhantomData,
        };

        match handler(&mut dump) {
            // The buffer is full; it is sent, and the handler called again.
            Err(err) if err == EMSGSIZE && (*skb).len > before => {
                c_int::try_from((*skb).len).unwrap_or(c_int::MAX)
            }
            Err(err) => err.to_errno(),
            // Nothing new ends the dump.
            Ok(()) => c_int::try_from((*skb).len).unwrap_or(c_int::MAX),
        }
    }
}

impl Dump<'_> {
    /// State that is kept from one call of the handler to the next; zero at first.
    pub fn state(&mut self) -> &mut [u64; 6] {
        // SAFETY: The context is 48 bytes, aligned for pointers, and only used here.
        unsafe { &mut *bindings::kstage_genl_dump_context(self.callback.as_ptr()).cast() }
    }

    /// Sets the number that changes whenever the list does; userspace is told if it changed
    /// meanwhile. To be called first.
    pub fn set_sequence(&mut self, sequence: u32) {
        // SAFETY: By the type invariant. 0 means "not used".
        unsafe { (*self.callback.as_ptr()).seq = sequence.max(1) };
    }

    /// Appends one message of command `cmd`, which `fill` fills. `EMSGSIZE` if it does not fit any
    /// more: to be returned by the handler, and tried again in the next call.
    pub fn entry(&mut self, cmd: u32, fill: impl FnOnce(&mut Message<'_>) -> Result) -> Result {
        let cmd = u8::try_from(cmd)?;

        // SAFETY: By the type invariant.
        unsafe {
            let skb = self.skb.as_ptr();
            let hdr = bindings::kstage_genl_put_dump(skb, self.callback.as_ptr(), cmd);

            if hdr.is_null() {
                return Err(EMSGSIZE);
            }
            let filled = fill(&mut Message {
                skb,
                _skb: PhantomData,
            });
            match filled {
                Ok(()) => bindings::kstage_genl_end(skb, hdr),
                Err(_) => bindings::kstage_genl_cancel(skb, hdr),
            }
            filled
        }
    }
}

/// Sends a message of command `cmd` to all listeners of `group` (its index in the family). Without
/// listeners nothing happens. May sleep.
pub fn multicast(
    family: &'static FamilyRef,
    group: u32,
    cmd: u32,
    fill: impl FnOnce(&mut Message<'_>) -> Result,
) -> Result {
    let cmd = u8::try_from(cmd)?;
    let skb = Skb::new()?;

    // SAFETY: Both are valid.
    let hdr = unsafe { bindings::kstage_genl_put_event(skb.as_raw(), family.as_raw(), cmd) };
    skb.fill(hdr, fill)?;

    // SAFETY: Both are valid; the buffer is given away.
    match to_result(unsafe {
        bindings::kstage_genl_multicast(family.as_raw(), skb.into_raw(), group)
    }) {
        // Nobody listens.
        Err(err) if err == ESRCH => Ok(()),
        result => result,
    }
}
