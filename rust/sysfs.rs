// SPDX-License-Identifier: GPL-2.0

//! Attributes of a disk in sysfs: one value a file, in a directory of the driver's own.
//!
//! C header: `include/linux/sysfs.h`.
//! Upstream replacement: none yet (a `kernel::sysfs`).

use crate::bindings;
use core::{
    fmt::{self, Write},
    marker::PhantomData,
};
use kernel::{prelude::*, str::CStr};

/// One file of a disk whose queue data is `D`. Both functions get its name, and may sleep.
pub struct Attribute<D: 'static> {
    /// Name of the file.
    pub name: &'static CStr,
    /// Writes the value, without a newline, which is added.
    pub show: fn(&D, &CStr, &mut Value<'_>) -> fmt::Result,
    /// Takes a new value, with white space at its ends removed; None if the file is read-only.
    pub store: Option<fn(&D, &CStr, &str) -> Result>,
}

impl<D> Clone for Attribute<D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D> Copy for Attribute<D> {}

/// The files of a disk, in some lists.
pub type Lists<D> = &'static [&'static [Attribute<D>]];

/// Where a value is written.
pub struct Value<'a> {
    buf: &'a mut [u8],
    len: usize,
}

impl Write for Value<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let end = self.len.checked_add(s.len()).ok_or(fmt::Error)?;

        self.buf
            .get_mut(self.len..end)
            .ok_or(fmt::Error)?
            .copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// What the kernel gets for an attribute.
#[repr(C)]
struct Entry<D: 'static> {
    raw: bindings::device_attribute,
    definition: &'static Attribute<D>,
}

/// The directory of a disk. Must live as long as the disk.
pub(crate) struct DiskGroup<D: 'static> {
    inner: Pin<KBox<Inner<D>>>,
}

struct Inner<D: 'static> {
    /// NULL-terminated, into `entries`.
    attributes: KVec<*mut bindings::attribute>,
    /// Never changes its length, so its elements stay in place.
    entries: KVec<Entry<D>>,
    group: bindings::attribute_group,
    /// NULL-terminated.
    groups: [*const bindings::attribute_group; 2],
    _pin: core::marker::PhantomPinned,
    _data: PhantomData<fn(&D)>,
}

// SAFETY: It is plain memory that is written once.
unsafe impl<D> Send for DiskGroup<D> {}
// SAFETY: As above.
unsafe impl<D> Sync for DiskGroup<D> {}

impl<D: Send + Sync + 'static> DiskGroup<D> {
    /// Makes the directory `name`. May sleep.
    pub(crate) fn new(name: &'static CStr, lists: Lists<D>) -> Result<Self> {
        let attributes = lists.iter().copied().flatten();
        let count = attributes.clone().count();
        let mut boxed = KBox::new(
            Inner::<D> {
                attributes: KVec::with_capacity(count + 1, GFP_KERNEL)?,
                entries: KVec::with_capacity(count, GFP_KERNEL)?,
                // SAFETY: Optional pointers only, for which zero is None.
                group: unsafe { core::mem::zeroed() },
                groups: [core::ptr::null(); 2],
                _pin: core::marker::PhantomPinned,
                _data: PhantomData,
            },
            GFP_KERNEL,
        )?;
        let inner = &mut *boxed;

        for definition in attributes {
            inner.entries.push(
                Entry {
                    // SAFETY: Optional pointers and numbers only, for which zero is valid.
                    raw: unsafe { core::mem::zeroed() },
                    definition,
                },
                GFP_KERNEL,
            )?;
        }
        for entry in inner.entries.iter_mut() {
            let store = entry.definition.store.is_some();

            // SAFETY: The entry is ours; the name is static.
            unsafe {
                bindings::kstage_device_attr_init(
                    &mut entry.raw,
                    entry.definition.name.as_char_ptr(),
                    if store { 0o644 } else { 0o444 },
                    Some(show::<D>),
                    if store { Some(self::store::<D>) } else { None },
                );
            }
            inner.attributes.push(&mut entry.raw.attr, GFP_KERNEL)?;
        }
        inner.attributes.push(core::ptr::null_mut(), GFP_KERNEL)?;

        // SAFETY: The group is ours; the arrays stay in place as long as it.
        unsafe {
            bindings::kstage_attr_group_init(
                &mut inner.group,
                name.as_char_ptr(),
                inner.attributes.as_mut_ptr(),
            );
        }
        inner.groups[0] = &inner.group;

        Ok(DiskGroup {
            inner: KBox::into_pin(boxed),
        })
    }

    /// As `device_add_disk()` wants it.
    pub(crate) fn as_raw(&self) -> *mut *const bindings::attribute_group {
        self.inner.groups.as_ptr().cast_mut()
    }
}

/// The queue data and definition that a callback is about.
///
/// # Safety
///
/// `dev` is the device of a live disk with queue data `D`, `attr` lies in an [`Entry<D>`].
unsafe fn resolve<'a, D>(
    dev: *mut bindings::device,
    attr: *mut bindings::device_attribute,
) -> (&'a D, &'static Attribute<D>) {
    // SAFETY: By the contract. The attribute is the first member of its entry. The data lives until
    // the disk's attributes are gone.
    unsafe {
        let disk = bindings::kstage_dev_to_disk(dev);

        (
            &*(*(*disk).queue).queuedata.cast::<D>(),
            (*attr.cast::<Entry<D>>()).definition,
        )
    }
}

/// # Safety
///
/// Called by sysfs only, for an attribute of a [`DiskGroup<D>`].
unsafe extern "C" fn show<D: 'static>(
    dev: *mut bindings::device,
    attr: *mut bindings::device_attribute,
    buf: *mut c_char,
) -> isize {
    // SAFETY: By the contract; sysfs passes a page.
    let (data, definition, buf) = unsafe {
        let (data, definition) = resolve::<D>(dev, attr);

        (
            data,
            definition,
            core::slice::from_raw_parts_mut(buf.cast::<u8>(), kernel::page::PAGE_SIZE),
        )
    };
    let mut value = Value { buf, len: 0 };

    match (definition.show)(data, definition.name, &mut value).and_then(|()| value.write_str("\n"))
    {
        Ok(()) => value.len as isize,
        Err(_) => EFBIG.to_errno() as isize,
    }
}

/// # Safety
///
/// Called by sysfs only, for an attribute of a [`DiskGroup<D>`].
unsafe extern "C" fn store<D: 'static>(
    dev: *mut bindings::device,
    attr: *mut bindings::device_attribute,
    buf: *const c_char,
    count: usize,
) -> isize {
    // SAFETY: By the contract; sysfs passes `count` bytes.
    let (data, definition, buf) = unsafe {
        let (data, definition) = resolve::<D>(dev, attr);

        (
            data,
            definition,
            core::slice::from_raw_parts(buf.cast::<u8>(), count),
        )
    };

    let result = match (definition.store, core::str::from_utf8(buf)) {
        (Some(store), Ok(text)) => store(data, definition.name, text.trim()),
        (Some(_), Err(_)) => Err(EINVAL),
        (None, _) => Err(EACCES),
    };
    match result {
        Ok(()) => count as isize,
        Err(err) => err.to_errno() as isize,
    }
}

/// Parses a number in decimal, or in hexadecimal after `0x`, for [`Attribute::store`].
pub fn parse_u64(text: &str) -> Result<u64> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(hex) => (hex, 16),
        None => (text, 10),
    };

    // The parser would take a sign.
    if digits.starts_with('+') {
        return Err(EINVAL);
    }
    u64::from_str_radix(digits, radix).map_err(|_| EINVAL)
}
