// SPDX-License-Identifier: GPL-2.0

//! [`Box`]: one value on the heap, made fallibly.

use super::{
    allocator::{KVmalloc, Kmalloc, Vmalloc},
    AllocError, Allocator, Flags,
};
use crate::fail_alloc;
use core::{
    borrow::{Borrow, BorrowMut},
    fmt,
    marker::PhantomData,
    mem::{size_of, ManuallyDrop, MaybeUninit},
    ops::{Deref, DerefMut},
    pin::Pin,
};

/// One value of type `T`, allocated with `A`.
///
/// Always sized here: the kernel's also holds slices and trait objects.
pub struct Box<T, A: Allocator>(ManuallyDrop<std::boxed::Box<T>>, PhantomData<A>);

/// [`Box`] from `kmalloc`.
pub type KBox<T> = Box<T, Kmalloc>;
/// [`Box`] from `vmalloc`.
pub type VBox<T> = Box<T, Vmalloc>;
/// [`Box`] from `kvmalloc`.
pub type KVBox<T> = Box<T, KVmalloc>;

impl<T, A: Allocator> Box<T, A> {
    /// Allocates and moves `x` in; `x` is dropped if that fails.
    pub fn new(x: T, flags: Flags) -> Result<Self, AllocError> {
        Self::new_uninit(flags).map(|b| Box::write(b, x))
    }

    /// Allocates without writing a value.
    pub fn new_uninit(_flags: Flags) -> Result<Box<MaybeUninit<T>, A>, AllocError> {
        if size_of::<T>() > A::MAX_BYTES || !fail_alloc::allocate(0, size_of::<T>()) {
            return Err(AllocError);
        }
        Ok(Box::wrap(std::boxed::Box::new_uninit()))
    }

    /// As [`new`](Self::new), pinned.
    pub fn pin(x: T, flags: Flags) -> Result<Pin<Box<T, A>>, AllocError>
    where
        A: 'static,
    {
        Ok(Self::new(x, flags)?.into())
    }

    /// Pins the value where it is.
    pub fn into_pin(this: Self) -> Pin<Self> {
        this.into()
    }

    /// Drops the value and keeps the memory for [`write`](Box::write).
    pub fn drop_contents(this: Self) -> Box<MaybeUninit<T>, A> {
        drop(*Self::unwrap(this));
        // The memory is the host allocator's to reuse, and the counters have not seen it go.
        Box::wrap(std::boxed::Box::new_uninit())
    }

    /// Moves the value out and frees the memory.
    pub fn into_inner(b: Self) -> T {
        fail_alloc::free(size_of::<T>());
        *Self::unwrap(b)
    }

    /// The value for ever; the memory is never given back.
    pub fn leak<'a>(b: Self) -> &'a mut T
    where
        T: 'a,
    {
        std::boxed::Box::leak(Self::unwrap(b))
    }

    fn wrap(b: std::boxed::Box<T>) -> Self {
        Self(ManuallyDrop::new(b), PhantomData)
    }

    /// The host's box, still counted as live.
    pub(super) fn unwrap(b: Self) -> std::boxed::Box<T> {
        let mut b = ManuallyDrop::new(b);
        // SAFETY: `b` is never dropped nor looked at again, so the inner box is taken only once.
        unsafe { ManuallyDrop::take(&mut b.0) }
    }
}

impl<T, A: Allocator> Box<MaybeUninit<T>, A> {
    /// Writes the value.
    pub fn write(self, value: T) -> Box<T, A> {
        let mut b = Self::unwrap(self);
        (*b).write(value);
        // SAFETY: The value was just written.
        Box::wrap(unsafe { b.assume_init() })
    }
}

impl<T, A: Allocator> Drop for Box<T, A> {
    fn drop(&mut self) {
        fail_alloc::free(size_of::<T>());
        // SAFETY: `self` is being dropped, so the inner box is dropped only here.
        unsafe { ManuallyDrop::drop(&mut self.0) }
    }
}

impl<T, A: Allocator> From<Box<T, A>> for Pin<Box<T, A>> {
    fn from(b: Box<T, A>) -> Self {
        // SAFETY: The value stays on the heap where it is until the box is dropped: a
        // `Pin<Box<T, A>>` gives no access by which it could be moved unless `T: Unpin`.
        unsafe { Pin::new_unchecked(b) }
    }
}

impl<T, A: Allocator> Deref for Box<T, A> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T, A: Allocator> DerefMut for Box<T, A> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T, A: Allocator> Borrow<T> for Box<T, A> {
    fn borrow(&self) -> &T {
        self
    }
}

impl<T, A: Allocator> BorrowMut<T> for Box<T, A> {
    fn borrow_mut(&mut self) -> &mut T {
        self
    }
}

impl<T: fmt::Debug, A: Allocator> fmt::Debug for Box<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl<T: fmt::Display, A: Allocator> fmt::Display for Box<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::super::flags::GFP_KERNEL;
    use super::*;
    use crate::fail_alloc::{stats, with, Policy};
    use std::rc::Rc;

    #[test]
    fn values_are_dropped_once_on_every_way_out() {
        let value = Rc::new(());
        let live = stats().bytes_live;

        drop(KBox::new(value.clone(), GFP_KERNEL).unwrap());
        assert_eq!(Rc::strong_count(&value), 1);

        assert!(with(Policy::Nth(0), || KBox::new(value.clone(), GFP_KERNEL)).is_err());
        assert_eq!(Rc::strong_count(&value), 1);

        let b = KBox::new(value.clone(), GFP_KERNEL).unwrap();
        let inner = KBox::into_inner(b);
        assert_eq!(Rc::strong_count(&value), 2);
        drop(inner);

        let empty = KBox::drop_contents(KBox::new(value.clone(), GFP_KERNEL).unwrap());
        assert_eq!(Rc::strong_count(&value), 1);
        drop(KBox::write(empty, value.clone()));
        assert_eq!(Rc::strong_count(&value), 1);

        assert_eq!(stats().bytes_live, live);
    }

    #[test]
    fn more_than_the_allocator_gives_is_refused() {
        assert!(KBox::<[u8; (4 << 20) + 1]>::new_uninit(GFP_KERNEL).is_err());
        assert!(KVBox::<[u8; (4 << 20) + 1]>::new_uninit(GFP_KERNEL).is_ok());
    }

    #[test]
    fn pinned_boxes_keep_their_value() {
        let b = KBox::pin(5_u8, GFP_KERNEL).unwrap();
        assert_eq!(*b, 5);
        assert_eq!(format!("{b:?} {b}"), "5 5");
    }
}
