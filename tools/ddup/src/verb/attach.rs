// SPDX-License-Identifier: GPL-2.0

//! `ddup attach`.

use super::print_json;
use crate::{
    cli::AttachArgs,
    error::{describe, Error, Exit, Result},
    family::{format_uuid, AttachRequest, Driver},
    loopdev::{self, LoopDevice},
    store, sys,
};
use serde::Serialize;
use std::{
    fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

#[derive(Serialize)]
struct Attached<'a> {
    device: &'a str,
    name: &'a str,
    backing: &'a Path,
}

/// Attaches a store and prints the block device's path.
pub fn run(args: &AttachArgs) -> Result {
    let mut driver = Driver::connect()
        .map_err(|error| error.context(format!("cannot attach {}", args.store.display())))?;
    let request = AttachRequest {
        path: &args.store,
        index: args.number,
        read_only: args.read_only,
        cache_bytes: args.cache,
        index_bytes: args.index,
    };
    let (backing, name) = attach(&mut driver, &request)?;
    let device = format!("/dev/{name}");
    if args.json {
        return print_json(&Attached {
            device: &device,
            name: &name,
            backing: &backing,
        });
    }
    println!("{device}");
    Ok(())
}

/// Attaches a store, which may be a regular file. Returns the backing device's path and the block
/// device's name.
pub fn attach(driver: &mut Driver, request: &AttachRequest<'_>) -> Result<(PathBuf, String)> {
    let store = request.path;
    let doing = |error: Error| error.context(format!("cannot attach {}", store.display()));
    refuse_twin(driver, store).map_err(doing)?;
    // The loop device, if one is made, is held until the driver holds it as well.
    let (path, _loop_device) = backing_device(store, request.read_only).map_err(doing)?;
    let request = AttachRequest {
        path: &path,
        ..*request
    };
    let name = driver.attach(&request).map_err(doing)?;
    Ok((path, name))
}

/// The driver refuses a second store of the same UUID too, but it has to attach it to see that.
fn refuse_twin(driver: &mut Driver, store: &Path) -> Result {
    let Some(uuid) = store::uuid_of(store).map(|uuid| format_uuid(&uuid)) else {
        return Ok(());
    };
    let devices = driver.devices()?;
    let twin = devices
        .iter()
        .find(|device| device.store_uuid.as_ref() == Some(&uuid));
    let Some(twin) = twin else {
        return Ok(());
    };
    Err(Error::new(
        Exit::Busy,
        format!(
            "it is, or is a copy of, {}, which is attached as {} (UUID {uuid})",
            twin.backing(),
            twin.node().display()
        ),
    ))
}

/// The block device of a store: itself, or a loop device before a regular file.
fn backing_device(store: &Path, read_only: bool) -> Result<(PathBuf, Option<LoopDevice>)> {
    let metadata =
        fs::metadata(store).map_err(|error| Error::new(exit_of(&error), describe(&error)))?;
    let file_type = metadata.file_type();
    let path =
        std::path::absolute(store).map_err(|error| Error::new(Exit::Failed, describe(&error)))?;
    if file_type.is_block_device() {
        if !read_only && is_read_only(&path) {
            return Err(Error::new(
                Exit::Failed,
                "the device is read-only: attach it with --read-only",
            ));
        }
        return Ok((path, None));
    }
    if !file_type.is_file() {
        let what = if file_type.is_dir() {
            "a directory"
        } else {
            "no block device"
        };
        return Err(Error::new(
            Exit::Failed,
            format!("it is {what}: give a block device or a regular file"),
        ));
    }
    let device = loopdev::attach(&path, read_only)?;
    Ok((device.path.clone(), Some(device)))
}

/// Only for a better sentence than the driver's, which has the last word.
fn is_read_only(path: &Path) -> bool {
    fs::File::open(path)
        .and_then(|device| sys::block_device_read_only(&device))
        .unwrap_or(false)
}

fn exit_of(error: &std::io::Error) -> Exit {
    Exit::from_errno(error.raw_os_error().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_block_devices_and_regular_files_are_stores() {
        for (path, words) in [
            ("/", "a directory"),
            ("/dev/null", "no block device"),
            ("/nowhere/store", "No such file"),
        ] {
            let Err(error) = backing_device(Path::new(path), true) else {
                panic!("{path} was taken for a store");
            };
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
