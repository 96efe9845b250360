// SPDX-License-Identifier: GPL-2.0

//! Connected TCP sockets that userspace hands over.
//!
//! C header: `include/linux/net.h`.
//! Upstream replacement: none yet (a `kernel::net::socket`).

use crate::bindings;
use core::ptr::NonNull;
use kernel::prelude::*;

/// A connected TCP socket. Allocates with `GFP_NOIO`, sends without delay. All may sleep, and block
/// for as long as the peer likes: for threads, not for work items.
///
/// # Invariants
///
/// `raw` is a valid socket with a reference that `self` owns.
pub struct Socket {
    raw: NonNull<bindings::socket>,
}

// SAFETY: Sockets may be used from any thread.
unsafe impl Send for Socket {}
// SAFETY: As above.
unsafe impl Sync for Socket {}

impl Socket {
    /// Takes the socket behind file descriptor `fd` of the current task.
    ///
    /// Errors: `EBADF` no such descriptor, `ENOTSOCK` not a socket, `EPROTOTYPE` not TCP,
    /// `ENOTCONN` not connected.
    pub fn from_fd(fd: i32) -> Result<Socket> {
        let mut err = 0;

        // SAFETY: `err` is valid for the call.
        let raw = unsafe { bindings::kstage_socket_from_fd(fd, &mut err) };

        // INVARIANT: The helper took a reference.
        match NonNull::new(raw) {
            Some(raw) => Ok(Socket { raw }),
            None => Err(Error::from_errno(err)),
        }
    }

    /// From here on a send fails with `EAGAIN` when it made no progress for so long. Receiving waits
    /// for ever.
    pub fn set_send_timeout(&self, seconds: u32) {
        // SAFETY: By the type invariant.
        unsafe { bindings::kstage_socket_set_timeout(self.raw.as_ptr(), seconds) };
    }

    /// Sends all of `data`. `more` says that more follows at once.
    pub fn send_all(&self, data: &[u8], more: bool) -> Result {
        let flags = if more { bindings::KSTAGE_MSG_MORE } else { 0 };
        let mut rest = data;

        while !rest.is_empty() {
            // SAFETY: By the type invariant; `rest` is valid.
            let sent = unsafe {
                bindings::kstage_socket_send(
                    self.raw.as_ptr(),
                    rest.as_ptr().cast(),
                    rest.len(),
                    flags,
                )
            };
            match usize::try_from(sent) {
                Ok(0) => return Err(EPIPE),
                Ok(n) => rest = rest.get(n..).ok_or(EIO)?,
                Err(_) => return Err(Error::from_errno(sent)),
            }
        }
        Ok(())
    }

    /// Receives exactly `buf`. `EPIPE` if the peer closed before.
    pub fn recv_exact(&self, buf: &mut [u8]) -> Result {
        let mut rest = buf;

        while !rest.is_empty() {
            // SAFETY: By the type invariant; `rest` is valid.
            let got = unsafe {
                bindings::kstage_socket_recv(
                    self.raw.as_ptr(),
                    rest.as_mut_ptr().cast(),
                    rest.len(),
                    bindings::KSTAGE_MSG_WAITALL,
                )
            };
            match usize::try_from(got) {
                Ok(0) => return Err(EPIPE),
                Ok(n) => rest = rest.get_mut(n..).ok_or(EIO)?,
                Err(_) => return Err(Error::from_errno(got)),
            }
        }
        Ok(())
    }

    /// Ends the connection: blocked calls of other threads return.
    pub fn shutdown(&self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::kstage_socket_shutdown(self.raw.as_ptr()) };
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::kstage_socket_put(self.raw.as_ptr()) };
    }
}
