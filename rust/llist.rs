// SPDX-License-Identifier: GPL-2.0

//! A lock-free inbox: many producers in any context, one consumer that takes all at once.
//!
//! Items bring their own link, so that a push neither allocates nor fails; what can be pushed are
//! owned objects that have room for one: requests, completed bios, boxes of [`Node`].
//!
//! C header: `include/linux/llist.h`.
//! Upstream replacement: none yet (`kernel::list` needs a lock).

use crate::bindings;
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{prelude::*, types::Opaque};

/// An owned object that can hang in an [`Inbox`].
///
/// # Safety
///
/// - `into_node` gives up ownership of `self` and returns the address of a link that lies in memory
///   which stays valid, and is touched by nobody else, until `from_node` is called.
/// - `from_node` returns the same object as the one that was given up.
pub unsafe trait Linked: Send {
    /// Gives up ownership for a link.
    fn into_node(self) -> NonNull<bindings::llist_node>;

    /// Takes ownership back.
    ///
    /// # Safety
    ///
    /// `node` came from `into_node` and was not given to `from_node` since.
    unsafe fn from_node(node: NonNull<bindings::llist_node>) -> Self;
}

/// Many producers, one consumer, first in first out between calls of [`take`](Self::take).
///
/// # Invariants
///
/// All nodes in `head` came from `L::into_node`, and each is owned by the list.
#[repr(transparent)]
pub struct Inbox<L: Linked> {
    head: Opaque<bindings::llist_head>,
    _items: PhantomData<L>,
}

// SAFETY: The list is lock-free and owns items that may go to other threads.
unsafe impl<L: Linked> Send for Inbox<L> {}
// SAFETY: As above; items are only moved in and out.
unsafe impl<L: Linked> Sync for Inbox<L> {}

impl<L: Linked> Inbox<L> {
    /// An empty one.
    pub const fn new() -> Self {
        Inbox {
            head: Opaque::new(bindings::llist_head {
                first: core::ptr::null_mut(),
            }),
            _items: PhantomData,
        }
    }

    /// Appends `item`. Returns whether the inbox was empty, that is, whether the consumer needs to
    /// be woken. Any context.
    pub fn push(&self, item: L) -> bool {
        let node = item.into_node();

        // SAFETY: `node` is valid and ours by the contract of `Linked`; `head` is valid.
        unsafe { bindings::kstage_llist_add(node.as_ptr(), self.head.get()) }
    }

    /// Whether nothing is in it (a hint, as producers may be at work). Any context.
    pub fn is_empty(&self) -> bool {
        // SAFETY: `head` is valid.
        unsafe { bindings::kstage_llist_empty(self.head.get()) }
    }

    /// Takes all that is in it, oldest first. Any context; may be called by several consumers at
    /// once, each of which gets a part.
    pub fn take(&self) -> Batch<L> {
        // SAFETY: `head` is valid.
        let first = unsafe { bindings::kstage_llist_take_fifo(self.head.get()) };

        // INVARIANT: By the invariants of `Inbox`, the batch owns the nodes from here on.
        Batch {
            next: first,
            _items: PhantomData,
        }
    }
}

impl<L: Linked> Default for Inbox<L> {
    fn default() -> Self {
        Self::new()
    }
}

impl<L: Linked> Drop for Inbox<L> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// What [`Inbox::take`] took. What is not consumed is dropped.
///
/// # Invariants
///
/// `next` is the first of a NULL-terminated chain of nodes from `L::into_node` that `self` owns.
pub struct Batch<L: Linked> {
    next: *mut bindings::llist_node,
    _items: PhantomData<L>,
}

// SAFETY: It owns items that may go to other threads.
unsafe impl<L: Linked> Send for Batch<L> {}

impl<L: Linked> Batch<L> {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.next.is_null()
    }
}

impl<L: Linked> Iterator for Batch<L> {
    type Item = L;

    fn next(&mut self) -> Option<L> {
        let node = NonNull::new(self.next)?;

        // SAFETY: By the type invariant, `node` is valid and owned; the link is read before the
        // item, in which it lies, is taken back.
        unsafe {
            self.next = (*node.as_ptr()).next;
            Some(L::from_node(node))
        }
    }
}

impl<L: Linked> Drop for Batch<L> {
    fn drop(&mut self) {
        for item in self {
            drop(item);
        }
    }
}

/// A value with a link, for boxes in an [`Inbox`].
#[repr(C)]
pub struct Node<T> {
    link: Opaque<bindings::llist_node>,
    /// The value.
    pub value: T,
}

// SAFETY: The link is only used by `Inbox`.
unsafe impl<T: Send> Send for Node<T> {}

impl<T> Node<T> {
    /// Boxes `value`. Allocates with `flags`.
    pub fn new(value: T, flags: kernel::alloc::Flags) -> Result<KBox<Self>> {
        Ok(KBox::new(
            Node {
                link: Opaque::uninit(),
                value,
            },
            flags,
        )?)
    }
}

// SAFETY: The link is the first field of a `repr(C)` struct in an owned allocation.
unsafe impl<T: Send> Linked for KBox<Node<T>> {
    fn into_node(self) -> NonNull<bindings::llist_node> {
        let node: *mut Node<T> = KBox::into_raw(self);

        // SAFETY: A box is never NULL.
        unsafe { NonNull::new_unchecked(node.cast()) }
    }

    unsafe fn from_node(node: NonNull<bindings::llist_node>) -> Self {
        // SAFETY: By the contract, `node` came from `into_node`.
        unsafe { KBox::from_raw(node.as_ptr().cast()) }
    }
}
