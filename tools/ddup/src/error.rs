// SPDX-License-Identifier: GPL-2.0

//! What can go wrong, and the exit code that it gives.

use std::{fmt, io, path::Path};

/// The exit codes of `ddup`, as its man page lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The operation failed.
    Failed = 1,
    /// The command line, or a file of the configuration, makes no sense.
    Usage = 2,
    /// The device, store or file does not exist.
    NotFound = 3,
    /// The driver is not loaded.
    NotLoaded = 4,
    /// Someone else is using the device.
    Busy = 5,
    /// The caller may not do this.
    NotPermitted = 6,
    /// The store is damaged.
    Damaged = 7,
    /// A member of the replica set differs from its primary.
    Differs = 8,
}

impl Exit {
    /// Each code with what it means, for the man page.
    pub const ALL: [(Exit, &'static str); 8] = [
        (Exit::Failed, "The operation failed."),
        (
            Exit::Usage,
            "The command line, or a file in /etc/ddup, is wrong.",
        ),
        (Exit::NotFound, "The device, store or file does not exist."),
        (Exit::NotLoaded, "The driver is not loaded."),
        (
            Exit::Busy,
            "The device, or the address for metrics, is in use.",
        ),
        (Exit::NotPermitted, "Not permitted."),
        (Exit::Damaged, "The store is damaged."),
        (
            Exit::Differs,
            "A member of the replica set differs from its primary.",
        ),
    ];

    /// The code that fits an errno.
    pub fn from_errno(errno: i32) -> Exit {
        match errno {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => Exit::NotFound,
            libc::EBUSY | libc::EEXIST | libc::ETXTBSY | libc::EADDRINUSE => Exit::Busy,
            libc::EPERM | libc::EACCES => Exit::NotPermitted,
            _ => Exit::Failed,
        }
    }
}

/// An error for the user: a sentence that names the thing, the value and the remedy.
#[derive(Debug)]
pub struct Error {
    /// The exit code.
    pub exit: Exit,
    text: String,
}

/// A [`Result`](std::result::Result) with an [`Error`].
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with its sentence.
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self {
            exit,
            text: text.into(),
        }
    }

    /// What failed on `path`, for the reason `error`.
    pub fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(0);
        Self::new(
            Exit::from_errno(errno),
            format!("cannot {doing} {}: {}", path.display(), describe(error)),
        )
    }

    /// The same error, with what was being done before its sentence.
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.text = format!("{what}: {}", self.text);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

/// The system's words for an error, without the number that `std` adds.
pub fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// The system's words for an errno.
pub fn describe_errno(errno: i32) -> String {
    describe(&io::Error::from_raw_os_error(errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_path_and_carry_the_code() {
        let error = io::Error::from_raw_os_error(libc::EBUSY);
        let error = Error::io("open", Path::new("/dev/vdb"), &error);
        assert_eq!(error.exit, Exit::Busy);
        assert_eq!(
            error.to_string(),
            "cannot open /dev/vdb: Device or resource busy"
        );
        assert_eq!(
            error.context("attach").to_string(),
            "attach: cannot open /dev/vdb: Device or resource busy"
        );
    }

    #[test]
    fn every_exit_code_is_documented_once_and_in_order() {
        for (i, (exit, words)) in Exit::ALL.iter().enumerate() {
            assert_eq!(*exit as usize, i + 1);
            assert!(!words.is_empty());
        }
    }
}
