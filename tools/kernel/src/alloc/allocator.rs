// SPDX-License-Identifier: GPL-2.0

//! The allocators, as types: they differ only in the largest size that they give.

/// An allocator. Sealed: there are the three of the kernel.
pub trait Allocator: sealed::Sealed {
    /// The largest allocation, in bytes.
    const MAX_BYTES: usize;
}

/// `kmalloc`: physically contiguous, at most 4 MiB (KMALLOC_MAX_SIZE of x86-64). Beyond a few
/// pages it may well fail in a kernel whose memory is fragmented: use [`KVmalloc`] there.
pub struct Kmalloc;

/// `vmalloc`: pages mapped side by side; dear for small sizes.
pub struct Vmalloc;

/// `kvmalloc`: tries `kmalloc`, falls back on `vmalloc`. At most INT_MAX bytes.
pub struct KVmalloc;

impl Allocator for Kmalloc {
    const MAX_BYTES: usize = 4 << 20;
}

impl Allocator for Vmalloc {
    const MAX_BYTES: usize = isize::MAX as usize;
}

impl Allocator for KVmalloc {
    const MAX_BYTES: usize = i32::MAX as usize;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Kmalloc {}
    impl Sealed for super::Vmalloc {}
    impl Sealed for super::KVmalloc {}
}
