// SPDX-License-Identifier: GPL-2.0

//! Files in debugfs that show an object's state as text.
//!
//! C header: `include/linux/debugfs.h`.
//! Upstream replacement: `kernel::debugfs`, once its files have an owner: they do not pin the module
//! (7.3), so that closing one after the module was unloaded calls what is gone.

use crate::bindings;
use core::{
    fmt::{self, Write},
    marker::PhantomData,
    ptr::NonNull,
};
use kernel::{prelude::*, str::CStr, sync::Arc};

/// One file of a directory about a `D`.
pub struct File<D: 'static> {
    /// Its name.
    pub name: &'static CStr,
    /// Writes what is shown. May sleep; is called again, from the start, if the text was longer than
    /// the memory that it was given.
    pub show: fn(&D, &mut Text<'_>) -> fmt::Result,
}

/// Where the text goes.
pub struct Text<'a> {
    raw: NonNull<bindings::seq_file>,
    _call: PhantomData<&'a mut ()>,
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: The file is valid while it is shown, and the text is as long as it says. What does
        // not fit is no error: the file is shown again.
        unsafe { bindings::seq_write(self.raw.as_ptr(), text.as_ptr().cast(), text.len()) };
        Ok(())
    }
}

/// What debugfs answers: a directory, or an error, which is one that stays empty.
struct Dentry(*mut bindings::dentry);

// SAFETY: debugfs may be used by any thread.
unsafe impl Send for Dentry {}
// SAFETY: As above.
unsafe impl Sync for Dentry {}

impl Drop for Dentry {
    fn drop(&mut self) {
        // SAFETY: It is ours, or an error, which is ignored. Readers of files in it are waited for.
        unsafe { bindings::kstage_debugfs_remove(self.0) };
    }
}

/// A directory at the root of debugfs. Without debugfs it is nowhere, and so is what is in it.
pub struct Root(Dentry);

impl Root {
    /// Makes it. May sleep.
    pub fn new(name: &CStr) -> Root {
        // SAFETY: The name is valid; without a parent it is the root.
        Root(Dentry(unsafe {
            bindings::kstage_debugfs_dir(name.as_char_ptr(), core::ptr::null_mut())
        }))
    }
}

/// What a file's inode refers to.
struct Entry<D: 'static> {
    data: *const D,
    file: &'static File<D>,
}

/// A directory with files about a `D`. Dropping it removes them and waits for those who read one;
/// who has one open reads `EIO` from then on. A file that is open keeps the module. May sleep.
///
/// # Invariants
///
/// The inodes of the files refer to `entries`, and those to `data`; both stay in place.
pub struct Directory<D: Send + Sync + 'static> {
    // Removed first.
    _dentry: Dentry,
    _entries: KVec<Entry<D>>,
    _data: Arc<D>,
    root: Arc<Root>,
}

// SAFETY: The pointers in `entries` are to the data, which is `Send` and `Sync`.
unsafe impl<D: Send + Sync + 'static> Send for Directory<D> {}
// SAFETY: As above.
unsafe impl<D: Send + Sync + 'static> Sync for Directory<D> {}

impl<D: Send + Sync + 'static> Directory<D> {
    /// Makes the directory `name`, readable by root. May sleep.
    pub fn new(
        root: Arc<Root>,
        name: &CStr,
        data: Arc<D>,
        files: &'static [File<D>],
    ) -> Result<Directory<D>> {
        let mut entries = KVec::with_capacity(files.len(), GFP_KERNEL)?;
        for file in files {
            entries.push(
                Entry {
                    data: &raw const *data,
                    file,
                },
                GFP_KERNEL,
            )?;
        }
        // SAFETY: The name is valid, and the parent is a directory or an error.
        let dentry = Dentry(unsafe { bindings::kstage_debugfs_dir(name.as_char_ptr(), root.0 .0) });

        for entry in entries.iter() {
            // SAFETY: As above. The entry and the table stay until the files are removed.
            unsafe {
                bindings::kstage_debugfs_file(
                    entry.file.name.as_char_ptr(),
                    dentry.0,
                    (&raw const *entry).cast_mut().cast(),
                    &Table::<D>::FOPS,
                );
            }
        }
        // INVARIANT: The entries are not touched any more.
        Ok(Directory {
            _dentry: dentry,
            _entries: entries,
            _data: data,
            root,
        })
    }

    /// The directory that this one is in.
    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }
}

/// The C table of the files about a `D`.
struct Table<D>(PhantomData<D>);

impl<D: Send + Sync + 'static> Table<D> {
    const FOPS: bindings::file_operations = bindings::file_operations {
        // Without an owner a module could be unloaded while its files are open.
        owner: crate::this_module(),
        open: Some(Self::open),
        read: Some(bindings::seq_read),
        llseek: Some(bindings::seq_lseek),
        release: Some(bindings::single_release),
        // SAFETY: All other members are optional pointers and numbers, for which zero is valid.
        ..unsafe { core::mem::zeroed() }
    };

    /// # Safety
    ///
    /// Called by debugfs only, for a file of a [`Directory<D>`].
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: Both are valid by the contract. Debugfs lets nobody show a file that was removed.
        unsafe { bindings::single_open(file, Some(Self::show), (*inode).i_private) }
    }

    /// # Safety
    ///
    /// Called by the C code of sequential files only, for one that `open` made.
    unsafe extern "C" fn show(seq: *mut bindings::seq_file, _: *mut c_void) -> c_int {
        // SAFETY: `private` is what `open` gave: an entry, which lives as long as its file does, and
        // debugfs keeps the file while it is read.
        let (entry, raw) = unsafe {
            (
                &*(*seq).private.cast::<Entry<D>>(),
                NonNull::new_unchecked(seq),
            )
        };
        // SAFETY: The data lives as long as the entry.
        let data = unsafe { &*entry.data };
        let mut text = Text {
            raw,
            _call: PhantomData,
        };

        match (entry.file.show)(data, &mut text) {
            Ok(()) => 0,
            Err(_) => ENOMEM.to_errno(),
        }
    }
}
