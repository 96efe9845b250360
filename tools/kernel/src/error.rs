// SPDX-License-Identifier: GPL-2.0

//! Kernel errors: a negative errno in a newtype.

use crate::alloc::AllocError;
use core::{fmt, num::NonZeroI32};

/// The largest errno that a kernel function may return.
const MAX_ERRNO: i32 = 4095;

macro_rules! declare_errors {
    ($($name:ident = $errno:literal, $doc:literal;)*) => {
        /// The error codes that the kernel crate of Linux 7.2 declares, and no others: EILSEQ,
        /// EBADMSG and EUCLEAN, for instance, are not among them.
        pub mod code {
            $(
                #[doc = $doc]
                pub const $name: super::Error = super::Error::from_const(-$errno);
            )*
        }

        const NAMES: &[(i32, &str)] = &[$(($errno, stringify!($name)),)*];
    };
}

declare_errors! {
    EPERM = 1, "Operation not permitted.";
    ENOENT = 2, "No such file or directory.";
    ESRCH = 3, "No such process.";
    EINTR = 4, "Interrupted system call.";
    EIO = 5, "I/O error.";
    ENXIO = 6, "No such device or address.";
    E2BIG = 7, "Argument list too long.";
    ENOEXEC = 8, "Exec format error.";
    EBADF = 9, "Bad file number.";
    ECHILD = 10, "No child processes.";
    EAGAIN = 11, "Try again.";
    ENOMEM = 12, "Out of memory.";
    EACCES = 13, "Permission denied.";
    EFAULT = 14, "Bad address.";
    ENOTBLK = 15, "Block device required.";
    EBUSY = 16, "Device or resource busy.";
    EEXIST = 17, "File exists.";
    EXDEV = 18, "Cross-device link.";
    ENODEV = 19, "No such device.";
    ENOTDIR = 20, "Not a directory.";
    EISDIR = 21, "Is a directory.";
    EINVAL = 22, "Invalid argument.";
    ENFILE = 23, "File table overflow.";
    EMFILE = 24, "Too many open files.";
    ENOTTY = 25, "Not a typewriter.";
    ETXTBSY = 26, "Text file busy.";
    EFBIG = 27, "File too large.";
    ENOSPC = 28, "No space left on device.";
    ESPIPE = 29, "Illegal seek.";
    EROFS = 30, "Read-only file system.";
    EMLINK = 31, "Too many links.";
    EPIPE = 32, "Broken pipe.";
    EDOM = 33, "Math argument out of domain of func.";
    ERANGE = 34, "Math result not representable.";
    EOVERFLOW = 75, "Value too large for defined data type.";
    EMSGSIZE = 90, "Message too long.";
    ETIMEDOUT = 110, "Connection timed out.";
    ERESTARTSYS = 512, "Restart the system call.";
    ERESTARTNOINTR = 513, "System call was interrupted by a signal and will be restarted.";
    ERESTARTNOHAND = 514, "Restart if no handler.";
    ENOIOCTLCMD = 515, "No ioctl command.";
    ERESTART_RESTARTBLOCK = 516, "Restart by calling sys_restart_syscall.";
    EPROBE_DEFER = 517, "Driver requests probe retry.";
    EOPENSTALE = 518, "Open found a stale dentry.";
    ENOPARAM = 519, "Parameter not supported.";
    EBADHANDLE = 521, "Illegal NFS file handle.";
    ENOTSYNC = 522, "Update synchronization mismatch.";
    EBADCOOKIE = 523, "Cookie is stale.";
    ENOTSUPP = 524, "Operation is not supported.";
    ETOOSMALL = 525, "Buffer or request is too small.";
    ESERVERFAULT = 526, "An untranslatable error occurred.";
    EBADTYPE = 527, "Type not supported by server.";
    EJUKEBOX = 528, "Request initiated, but will not complete before timeout.";
    EIOCBQUEUED = 529, "iocb queued, will get completion event.";
    ERECALLCONFLICT = 530, "Conflict with recalled state.";
    ENOGRACE = 531, "NFS file lock reclaim refused.";
}

/// A kernel error.
///
/// # Invariants
///
/// The value lies in `-4095..=-1`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Error(NonZeroI32);

impl Error {
    /// Creates an [`Error`] from a negative errno; one outside `-4095..=-1` becomes `EINVAL`.
    pub fn from_errno(errno: i32) -> Error {
        match Self::try_from_errno(errno) {
            Some(error) => error,
            None => code::EINVAL,
        }
    }

    const fn try_from_errno(errno: i32) -> Option<Error> {
        if errno < -MAX_ERRNO || errno >= 0 {
            return None;
        }
        match NonZeroI32::new(errno) {
            // INVARIANT: The range was checked above.
            Some(errno) => Some(Error(errno)),
            None => None,
        }
    }

    /// For the constants of [`code`] only: a bad one fails the build.
    const fn from_const(errno: i32) -> Error {
        match Self::try_from_errno(errno) {
            Some(error) => error,
            None => panic!("errno out of range"),
        }
    }

    /// The negative errno.
    pub fn to_errno(self) -> i32 {
        self.0.get()
    }

    /// The symbolic name, if the code is one of [`code`]. (The kernel returns a `&CStr` here and
    /// knows all codes.)
    pub fn name(&self) -> Option<&'static str> {
        let errno = -self.0.get();
        NAMES
            .iter()
            .find(|(number, _)| *number == errno)
            .map(|(_, name)| *name)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            None => f.debug_tuple("Error").field(&-self.0.get()).finish(),
            Some(name) => f.write_str(name),
        }
    }
}

impl From<AllocError> for Error {
    fn from(_: AllocError) -> Error {
        code::ENOMEM
    }
}

impl From<core::num::TryFromIntError> for Error {
    fn from(_: core::num::TryFromIntError) -> Error {
        code::EINVAL
    }
}

impl From<core::str::Utf8Error> for Error {
    fn from(_: core::str::Utf8Error) -> Error {
        code::EINVAL
    }
}

impl From<fmt::Error> for Error {
    fn from(_: fmt::Error) -> Error {
        code::EINVAL
    }
}

impl From<core::convert::Infallible> for Error {
    fn from(e: core::convert::Infallible) -> Error {
        match e {}
    }
}

/// A [`Result`](core::result::Result) with an [`Error`].
pub type Result<T = (), E = Error> = core::result::Result<T, E>;

/// Turns a C return value into a [`Result`]: negative is an errno, the rest success.
pub fn to_result(err: i32) -> Result {
    if err < 0 {
        Err(Error::from_errno(err))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_round_trips_and_out_of_range_is_einval() {
        assert_eq!(Error::from_errno(-28), code::ENOSPC);
        assert_eq!(code::ENOSPC.to_errno(), -28);
        for bad in [0, 1, i32::MAX, i32::MIN, -4096] {
            assert_eq!(Error::from_errno(bad), code::EINVAL, "{bad}");
        }
        assert_eq!(Error::from_errno(-4095).to_errno(), -4095);
        assert_eq!(to_result(3), Ok(()));
        assert_eq!(to_result(-5), Err(code::EIO));
    }

    #[test]
    fn debug_prints_the_name_or_the_number() {
        assert_eq!(format!("{:?}", code::ENOMEM), "ENOMEM");
        assert_eq!(format!("{:?}", Error::from_errno(-117)), "Error(117)");
    }

    #[test]
    fn conversions_give_the_kernels_codes() {
        assert_eq!(Error::from(AllocError), code::ENOMEM);
        assert_eq!(
            Error::from(u8::try_from(256_u32).unwrap_err()),
            code::EINVAL
        );
    }
}
