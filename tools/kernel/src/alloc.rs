// SPDX-License-Identifier: GPL-2.0

//! Fallible containers with the kernel's names.

pub mod allocator;
pub mod kbox;
pub mod kvec;

pub use self::allocator::Allocator;
pub use self::kbox::{Box, KBox, KVBox, VBox};
pub use self::kvec::{IntoIter, KVVec, KVec, VVec, Vec};

/// An allocation failed.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct AllocError;

/// How to allocate; taken and ignored here.
#[derive(Clone, Copy, PartialEq)]
pub struct Flags(u32);

impl Flags {
    /// Whether all of `flags` are set in `self`.
    pub fn contains(self, flags: Flags) -> bool {
        (self & flags) == flags
    }
}

impl core::ops::BitOr for Flags {
    type Output = Self;
    fn bitor(self, rhs: Self) -> Self {
        Self(self.0 | rhs.0)
    }
}

impl core::ops::BitAnd for Flags {
    type Output = Self;
    fn bitand(self, rhs: Self) -> Self {
        Self(self.0 & rhs.0)
    }
}

impl core::ops::Not for Flags {
    type Output = Self;
    fn not(self) -> Self {
        Self(!self.0)
    }
}

/// The flags that the kernel crate declares. GFP_NOIO is not among them: code that may run while
/// the system writes back to free memory enters a memalloc_noio scope instead.
pub mod flags {
    use super::Flags;

    /// Zeroes the memory.
    pub const __GFP_ZERO: Flags = Flags(1 << 0);
    /// Memory may come from high memory.
    pub const __GFP_HIGHMEM: Flags = Flags(1 << 1);
    /// May not sleep, may use the reserves.
    pub const GFP_ATOMIC: Flags = Flags(0b0_1100);
    /// May sleep and reclaim.
    pub const GFP_KERNEL: Flags = Flags(0b1_1000);
    /// As [`GFP_KERNEL`], and accounted to the memory cgroup.
    pub const GFP_KERNEL_ACCOUNT: Flags = Flags(0b11_1000);
    /// May not sleep nor reclaim; fails easily.
    pub const GFP_NOWAIT: Flags = Flags(1 << 3);
    /// No report of a failure in the log.
    pub const __GFP_NOWARN: Flags = Flags(1 << 6);
}
