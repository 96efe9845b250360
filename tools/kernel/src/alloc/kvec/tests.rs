// SPDX-License-Identifier: GPL-2.0

use super::super::flags::GFP_KERNEL;
use super::*;
use crate::fail_alloc::{reset_stats, stats, with, Policy};

fn kvec<const N: usize>(values: [u32; N]) -> KVec<u32> {
    let mut v = KVec::new();
    v.extend_from_slice(&values, GFP_KERNEL).unwrap();
    v
}

#[test]
fn capacity_grows_by_the_kernels_rule() {
    let mut v = KVec::<u8>::new();
    let mut seen = std::vec::Vec::new();
    for i in 0..9 {
        v.push(i, GFP_KERNEL).unwrap();
        if seen.last() != Some(&v.capacity()) {
            seen.push(v.capacity());
        }
    }
    assert_eq!(seen, [1, 2, 4, 8, 16]);
    v.reserve(100, GFP_KERNEL).unwrap();
    assert_eq!(v.capacity(), 109);
}

#[test]
fn a_failed_growth_changes_nothing() {
    let mut v = kvec([1, 2, 3]);
    let capacity = v.capacity();
    with(Policy::From(0), || {
        assert_eq!(v.push(4, GFP_KERNEL), Err(AllocError));
        assert_eq!(v.extend_from_slice(&[4, 5], GFP_KERNEL), Err(AllocError));
        assert_eq!(v.resize(9, 0, GFP_KERNEL), Err(AllocError));
        assert!(KVec::from_elem(0_u8, 1, GFP_KERNEL).is_err());
        assert_eq!(v.resize(2, 0, GFP_KERNEL), Ok(()));
        assert_eq!(v.push(7, GFP_KERNEL), Ok(()));
    });
    assert_eq!(v, [1, 2, 7]);
    assert_eq!(v.capacity(), capacity);
}

#[test]
fn what_does_not_fit_comes_back() {
    let mut v = KVec::with_capacity(1, GFP_KERNEL).unwrap();
    v.push_within_capacity(1_u8).unwrap();
    let PushError(refused) = v.push_within_capacity(2).unwrap_err();
    assert_eq!(refused, 2);
    assert!(matches!(
        v.insert_within_capacity(0, 3),
        Err(InsertError::OutOfCapacity(3))
    ));
    assert!(matches!(
        v.insert_within_capacity(2, 3),
        Err(InsertError::IndexOutOfBounds(3))
    ));
    v.reserve(1, GFP_KERNEL).unwrap();
    v.insert_within_capacity(0, 3).unwrap();
    assert_eq!(v, [3, 1]);
}

#[test]
fn remove_retain_drain_and_truncate_keep_order() {
    let mut v = kvec([0, 1, 2, 3, 4, 5]);
    assert_eq!(v.remove(1).ok(), Some(1));
    assert!(v.remove(5).is_err());
    v.retain(|x| *x % 2 == 0 || *x == 5);
    assert_eq!(v, [0, 2, 4, 5]);
    v.truncate(9);
    v.truncate(3);
    v.swap(0, 2);
    assert_eq!(v.pop(), Some(0));
    assert_eq!(v.drain_all().collect::<std::vec::Vec<_>>(), [4, 2]);
    assert!(v.is_empty() && v.capacity() >= 6);
}

#[test]
fn sizes_beyond_the_allocator_fail() {
    let limit = 4 << 20;
    assert!(KVec::<u8>::with_capacity(limit, GFP_KERNEL).is_ok());
    assert!(KVec::<u8>::with_capacity(limit + 1, GFP_KERNEL).is_err());
    assert!(KVVec::<u8>::with_capacity(limit + 1, GFP_KERNEL).is_ok());
    assert!(VVec::<u64>::with_capacity(usize::MAX, GFP_KERNEL).is_err());
    assert!(VVec::<u64>::with_capacity(usize::MAX / 8, GFP_KERNEL).is_err());
}

#[test]
fn elements_without_size_take_no_memory() {
    reset_stats();
    let mut v = KVec::<()>::from_elem((), 5, GFP_KERNEL).unwrap();
    v.push((), GFP_KERNEL).unwrap();
    assert_eq!(v.capacity(), usize::MAX);
    assert!(v.reserve(usize::MAX, GFP_KERNEL).is_err());
    assert_eq!(v.into_iter().count(), 6);
    assert_eq!(stats().allocations, 0);
}

#[test]
fn every_way_out_gives_the_memory_back() {
    let live = stats().bytes_live;

    let mut iter = kvec([1, 2, 3, 4]).into_iter();
    assert_eq!(iter.next(), Some(1));
    assert_eq!(iter.size_hint(), (3, Some(3)));
    let rest = iter.collect(GFP_KERNEL);
    assert_eq!(rest, [2, 3, 4]);
    assert_eq!(stats().bytes_live, live + 4 * rest.capacity() as i64);
    drop(rest);
    assert_eq!(stats().bytes_live, live);

    drop(kvec([1, 2]).into_iter());
    let boxed = super::super::KBox::new([7_u32; 3], GFP_KERNEL).unwrap();
    let v = KVec::from(boxed);
    assert_eq!(v, [7, 7, 7]);
    drop(v);
    assert_eq!(stats().bytes_live, live);

    let mut v = KVVec::<u8>::from_elem(1, 9000, GFP_KERNEL).unwrap();
    v.truncate(10);
    v.shrink_to(0, GFP_KERNEL).unwrap();
    assert_eq!(v.capacity(), 10);
    v.clear();
    v.shrink_to(0, GFP_KERNEL).unwrap();
    assert_eq!(stats().bytes_live, live);
}
