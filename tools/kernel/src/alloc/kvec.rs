// SPDX-License-Identifier: GPL-2.0

//! [`Vec`]: a growable array whose growth may fail.

use super::{
    allocator::{KVmalloc, Kmalloc, Vmalloc},
    AllocError, Allocator, Box, Flags,
};
use crate::fail_alloc;
use core::{
    borrow::{Borrow, BorrowMut},
    fmt,
    marker::PhantomData,
    mem::{size_of, MaybeUninit},
    ops::{Deref, DerefMut, Index, IndexMut},
    slice::{self, SliceIndex},
};

mod errors;
pub use self::errors::{InsertError, PushError, RemoveError};

/// A growable array of `T`, allocated with `A`.
///
/// It offers what the kernel's offers and nothing of what only `std`'s has.
pub struct Vec<T, A: Allocator> {
    inner: std::vec::Vec<T>,
    allocator: PhantomData<A>,
}

/// [`Vec`] from `kmalloc`.
pub type KVec<T> = Vec<T, Kmalloc>;
/// [`Vec`] from `vmalloc`.
pub type VVec<T> = Vec<T, Vmalloc>;
/// [`Vec`] from `kvmalloc`.
pub type KVVec<T> = Vec<T, KVmalloc>;

impl<T, A: Allocator> Vec<T, A> {
    /// An empty array; does not allocate.
    pub const fn new() -> Self {
        Self::wrap(std::vec::Vec::new())
    }

    /// An empty array with room for `capacity` elements.
    pub fn with_capacity(capacity: usize, flags: Flags) -> Result<Self, AllocError> {
        let mut v = Self::new();
        v.reserve(capacity, flags)?;
        Ok(v)
    }

    /// How many elements fit without allocating; `usize::MAX` for elements without size.
    pub fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.inner.len()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements.
    pub fn as_slice(&self) -> &[T] {
        self
    }

    /// The elements.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        self
    }

    /// The first element's place.
    pub fn as_ptr(&self) -> *const T {
        self.inner.as_ptr()
    }

    /// The first element's place.
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.inner.as_mut_ptr()
    }

    /// The room between length and capacity.
    pub fn spare_capacity_mut(&mut self) -> &mut [MaybeUninit<T>] {
        self.inner.spare_capacity_mut()
    }

    /// Makes room for `additional` more elements; grows to at least twice the capacity. Nothing
    /// changes if it fails.
    pub fn reserve(&mut self, additional: usize, _flags: Flags) -> Result<(), AllocError> {
        let (len, cap) = (self.len(), self.capacity());
        if cap - len >= additional {
            return Ok(());
        }
        if size_of::<T>() == 0 {
            return Err(AllocError);
        }
        let new_cap = core::cmp::max(cap * 2, len.checked_add(additional).ok_or(AllocError)?);
        let new_bytes = new_cap.checked_mul(size_of::<T>()).ok_or(AllocError)?;
        if new_bytes > A::MAX_BYTES || !fail_alloc::allocate(cap * size_of::<T>(), new_bytes) {
            return Err(AllocError);
        }
        if self.inner.try_reserve_exact(new_cap - len).is_err() {
            fail_alloc::free(new_bytes - cap * size_of::<T>());
            return Err(AllocError);
        }
        debug_assert_eq!(self.capacity(), new_cap);
        Ok(())
    }

    /// Appends `v`, growing if need be; `v` is dropped if that fails.
    pub fn push(&mut self, v: T, flags: Flags) -> Result<(), AllocError> {
        self.reserve(1, flags)?;
        self.inner.push(v);
        Ok(())
    }

    /// Appends `v` without growing; gives it back if there is no room.
    pub fn push_within_capacity(&mut self, v: T) -> Result<(), PushError<T>> {
        if self.len() >= self.capacity() {
            return Err(PushError(v));
        }
        self.inner.push(v);
        Ok(())
    }

    /// Inserts `element` at `index` without growing; gives it back if there is no room or `index`
    /// is beyond the length.
    pub fn insert_within_capacity(
        &mut self,
        index: usize,
        element: T,
    ) -> Result<(), InsertError<T>> {
        if index > self.len() {
            return Err(InsertError::IndexOutOfBounds(element));
        }
        if self.len() >= self.capacity() {
            return Err(InsertError::OutOfCapacity(element));
        }
        self.inner.insert(index, element);
        Ok(())
    }

    /// Takes the last element.
    pub fn pop(&mut self) -> Option<T> {
        self.inner.pop()
    }

    /// Takes the element at `i`; those behind it move up.
    pub fn remove(&mut self, i: usize) -> Result<T, RemoveError> {
        if i >= self.len() {
            return Err(RemoveError);
        }
        Ok(self.inner.remove(i))
    }

    /// Drops all elements, keeps the capacity.
    pub fn clear(&mut self) {
        self.inner.clear();
    }

    /// Drops the elements from `len` on, keeps the capacity.
    pub fn truncate(&mut self, len: usize) {
        self.inner.truncate(len);
    }

    /// Empties the array, which keeps its capacity, and gives its elements one by one.
    pub fn drain_all(&mut self) -> DrainAll<'_, T> {
        DrainAll {
            elements: self.inner.drain(..),
        }
    }

    /// Keeps the elements for which `f` is true, in their order.
    pub fn retain(&mut self, f: impl FnMut(&mut T) -> bool) {
        self.inner.retain_mut(f);
    }

    const fn wrap(inner: std::vec::Vec<T>) -> Self {
        Self {
            inner,
            allocator: PhantomData,
        }
    }

    fn capacity_bytes(&self) -> usize {
        // Elements without size have a capacity without memory.
        self.capacity().saturating_mul(size_of::<T>())
    }
}

impl<T> Vec<T, KVmalloc> {
    /// Gives memory back down to a capacity of `min_capacity` or the length, whichever is more.
    /// The kernel's does so only where it frees at least a page.
    pub fn shrink_to(&mut self, min_capacity: usize, _flags: Flags) -> Result<(), AllocError> {
        let target = core::cmp::max(self.len(), min_capacity);
        if size_of::<T>() == 0 || self.capacity() <= target {
            return Ok(());
        }
        let new_bytes = target * size_of::<T>();
        if target > 0 && !fail_alloc::allocate(self.capacity_bytes(), new_bytes) {
            return Err(AllocError);
        }
        if target == 0 {
            fail_alloc::free(self.capacity_bytes());
        }
        self.inner.shrink_to(target);
        debug_assert_eq!(self.capacity(), target);
        Ok(())
    }
}

impl<T: Clone, A: Allocator> Vec<T, A> {
    /// Appends `n` clones of `value`.
    pub fn extend_with(&mut self, n: usize, value: T, flags: Flags) -> Result<(), AllocError> {
        if n == 0 {
            return Ok(());
        }
        self.reserve(n, flags)?;
        self.inner.resize(self.inner.len() + n, value);
        Ok(())
    }

    /// Appends clones of all of `other`.
    pub fn extend_from_slice(&mut self, other: &[T], flags: Flags) -> Result<(), AllocError> {
        self.reserve(other.len(), flags)?;
        self.inner.extend_from_slice(other);
        Ok(())
    }

    /// `n` clones of `value`.
    pub fn from_elem(value: T, n: usize, flags: Flags) -> Result<Self, AllocError> {
        let mut v = Self::with_capacity(n, flags)?;
        v.extend_with(n, value, flags)?;
        Ok(v)
    }

    /// Appends clones of `value` up to `new_len`, or truncates to it.
    pub fn resize(&mut self, new_len: usize, value: T, flags: Flags) -> Result<(), AllocError> {
        match new_len.checked_sub(self.len()) {
            Some(n) => self.extend_with(n, value, flags),
            None => {
                self.truncate(new_len);
                Ok(())
            }
        }
    }
}

impl<T, A: Allocator> Drop for Vec<T, A> {
    fn drop(&mut self) {
        if size_of::<T>() != 0 && self.capacity() != 0 {
            fail_alloc::free(self.capacity_bytes());
        }
    }
}

impl<T, A: Allocator, const N: usize> From<Box<[T; N], A>> for Vec<T, A> {
    fn from(b: Box<[T; N], A>) -> Self {
        let array: std::boxed::Box<[T; N]> = Box::unwrap(b);
        let slice: std::boxed::Box<[T]> = array;
        Self::wrap(slice.into_vec())
    }
}

impl<T, A: Allocator> Default for Vec<T, A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug, A: Allocator> fmt::Debug for Vec<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl<T, A: Allocator> Deref for Vec<T, A> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.inner
    }
}

impl<T, A: Allocator> DerefMut for Vec<T, A> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.inner
    }
}

impl<T, A: Allocator> Borrow<[T]> for Vec<T, A> {
    fn borrow(&self) -> &[T] {
        self
    }
}

impl<T, A: Allocator> BorrowMut<[T]> for Vec<T, A> {
    fn borrow_mut(&mut self) -> &mut [T] {
        self
    }
}

impl<T, I: SliceIndex<[T]>, A: Allocator> Index<I> for Vec<T, A> {
    type Output = I::Output;
    fn index(&self, index: I) -> &Self::Output {
        Index::index(&**self, index)
    }
}

impl<T, I: SliceIndex<[T]>, A: Allocator> IndexMut<I> for Vec<T, A> {
    fn index_mut(&mut self, index: I) -> &mut Self::Output {
        IndexMut::index_mut(&mut **self, index)
    }
}

impl<T: Eq, A: Allocator> Eq for Vec<T, A> {}

macro_rules! impl_slice_eq {
    ($([$($vars:tt)*] $lhs:ty, $rhs:ty,)*) => {
        $(
            impl<T: PartialEq<U>, U, $($vars)*> PartialEq<$rhs> for $lhs {
                fn eq(&self, other: &$rhs) -> bool {
                    self[..] == other[..]
                }
            }
        )*
    };
}

impl_slice_eq! {
    [A1: Allocator, A2: Allocator] Vec<T, A1>, Vec<U, A2>,
    [A: Allocator] Vec<T, A>, &[U],
    [A: Allocator] Vec<T, A>, &mut [U],
    [A: Allocator] &[T], Vec<U, A>,
    [A: Allocator] &mut [T], Vec<U, A>,
    [A: Allocator] Vec<T, A>, [U],
    [A: Allocator] [T], Vec<U, A>,
    [A: Allocator, const N: usize] Vec<T, A>, [U; N],
    [A: Allocator, const N: usize] Vec<T, A>, &[U; N],
}

impl<'a, T, A: Allocator> IntoIterator for &'a Vec<T, A> {
    type Item = &'a T;
    type IntoIter = slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, T, A: Allocator> IntoIterator for &'a mut Vec<T, A> {
    type Item = &'a mut T;
    type IntoIter = slice::IterMut<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl<T, A: Allocator> IntoIterator for Vec<T, A> {
    type Item = T;
    type IntoIter = IntoIter<T, A>;
    fn into_iter(mut self) -> Self::IntoIter {
        let bytes = self.capacity_bytes();
        // What is left in `self` has no capacity, so its drop counts nothing.
        IntoIter {
            inner: core::mem::take(&mut self.inner).into_iter(),
            bytes: if size_of::<T>() == 0 { 0 } else { bytes },
            allocator: PhantomData,
        }
    }
}

/// The elements of a [`Vec`], by value.
pub struct IntoIter<T, A: Allocator> {
    inner: std::vec::IntoIter<T>,
    bytes: usize,
    allocator: PhantomData<A>,
}

impl<T, A: Allocator> IntoIter<T, A> {
    /// The elements that were not yet taken, as a [`Vec`] again; never fails, reuses the memory.
    pub fn collect(mut self, _flags: Flags) -> Vec<T, A> {
        let rest = core::mem::replace(&mut self.inner, std::vec::Vec::new().into_iter());
        let v = Vec::wrap(rest.collect::<std::vec::Vec<T>>());
        if size_of::<T>() != 0 {
            // `self` gives back all of its memory below; what `v` kept is live again.
            fail_alloc::keep(v.capacity_bytes());
        }
        v
    }
}

impl<T, A: Allocator> Iterator for IntoIter<T, A> {
    type Item = T;
    fn next(&mut self) -> Option<T> {
        self.inner.next()
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.size_hint()
    }
}

impl<T, A: Allocator> Drop for IntoIter<T, A> {
    fn drop(&mut self) {
        if self.bytes != 0 {
            fail_alloc::free(self.bytes);
        }
    }
}

/// The elements that [`Vec::drain_all`] takes out.
pub struct DrainAll<'vec, T> {
    elements: std::vec::Drain<'vec, T>,
}

impl<T> Iterator for DrainAll<'_, T> {
    type Item = T;
    fn next(&mut self) -> Option<T> {
        self.elements.next()
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.elements.size_hint()
    }
}

#[cfg(test)]
mod tests;
