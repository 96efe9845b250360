// SPDX-License-Identifier: GPL-2.0

//! Which device an argument means: `/dev/ddup0`, `ddup0`, or its backing device or file.

use crate::{
    error::{Error, Exit, Result},
    family::Device,
    loopdev,
    plan::Identity,
};
use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

/// The one of `devices` that `argument` means.
pub fn find<'a>(devices: &'a [Device], argument: &Path) -> Result<&'a Device> {
    if let Some(device) = by_name(devices, argument) {
        return Ok(device);
    }
    let not_attached = |what: &str| {
        Error::new(
            Exit::NotFound,
            format!(
                "{} is {what}: `ddup list` shows what is attached",
                argument.display()
            ),
        )
    };
    let Ok(metadata) = fs::metadata(argument) else {
        return Err(not_attached("no attached device and no file"));
    };
    let Some(store) = identity_of(&metadata) else {
        return Err(not_attached("neither a block device nor a regular file"));
    };
    devices
        .iter()
        .find(|device| stores(device).contains(&store))
        .ok_or_else(|| not_attached("not attached"))
}

/// The volume that `argument` means; the backing device of several is refused.
pub fn find_volume<'a>(devices: &'a [Device], argument: &Path) -> Result<&'a Device> {
    let device = find(devices, argument)?;
    let siblings: Vec<String> = devices
        .iter()
        .filter(|other| is_sibling(other, device))
        .map(|other| other.node().display().to_string())
        .collect();
    if siblings.len() > 1 && by_name(devices, argument).is_none() {
        return Err(Error::new(
            Exit::Usage,
            format!(
                "{} has several volumes: name one of {}",
                argument.display(),
                siblings.join(", ")
            ),
        ));
    }
    Ok(device)
}

/// Whether both are volumes of one store, or the same.
pub fn is_sibling(one: &Device, other: &Device) -> bool {
    one.index == other.index || one.store_uuid.is_some() && one.store_uuid == other.store_uuid
}

/// What a path leads to; None if that can be no store.
pub fn identity(path: &Path) -> Option<Identity> {
    identity_of(&fs::metadata(path).ok()?)
}

fn identity_of(metadata: &fs::Metadata) -> Option<Identity> {
    let file_type = metadata.file_type();
    if file_type.is_block_device() {
        let (major, minor) = device_number(metadata.rdev());
        return Some(Identity::Block(major, minor));
    }
    file_type
        .is_file()
        .then(|| Identity::File(metadata.dev(), metadata.ino()))
}

/// What is behind a device: its backing device, and the file behind that if it is a loop device.
pub fn stores(device: &Device) -> Vec<Identity> {
    let Some((major, minor)) = device.backing_number else {
        return Vec::new();
    };
    let mut stores = vec![Identity::Block(major, minor)];
    if major == loopdev::MAJOR {
        let file = loopdev::backing_file(&loop_path(minor));
        stores.extend(file.map(|(device, inode)| Identity::File(device, inode)));
    }
    stores
}

/// All of `devices`, or those that `arguments` mean, once each.
pub fn choose(devices: Vec<Device>, arguments: &[PathBuf]) -> Result<Vec<Device>> {
    if arguments.is_empty() {
        return Ok(devices);
    }
    let mut chosen: Vec<Device> = Vec::new();
    for argument in arguments {
        let device = find(&devices, argument)?;
        if chosen.iter().all(|other| other.index != device.index) {
            chosen.push(device.clone());
        }
    }
    Ok(chosen)
}

fn by_name<'a>(devices: &'a [Device], argument: &Path) -> Option<&'a Device> {
    devices
        .iter()
        .find(|device| argument == Path::new(&device.name) || argument == device.node())
}

/// Loop devices may have partitions: then minors are not numbers, but `/sys` knows the name.
fn loop_path(minor: u32) -> std::path::PathBuf {
    let link = format!("/sys/dev/block/{}:{minor}", loopdev::MAJOR);
    match fs::read_link(link) {
        Ok(target) => Path::new("/dev").join(target.file_name().unwrap_or_default()),
        Err(_) => format!("/dev/loop{minor}").into(),
    }
}

/// Major and minor number out of a `dev_t` of the C library.
pub fn device_number(number: u64) -> (u32, u32) {
    (libc::major(number), libc::minor(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Vec<Device> {
        (0..3)
            .map(|index| Device {
                index,
                name: format!("ddup{index}"),
                backing_number: Some((1, index + 3)),
                ..Device::default()
            })
            .collect()
    }

    #[test]
    fn devices_are_found_by_name_and_node() {
        let devices = devices();
        for argument in ["ddup1", "/dev/ddup1"] {
            assert_eq!(find(&devices, Path::new(argument)).unwrap().index, 1);
        }
    }

    #[test]
    fn a_volume_is_not_meant_by_what_it_shares() {
        let mut devices = devices();
        for device in &mut devices[..2] {
            device.store_uuid = Some("one".to_owned());
        }
        assert_eq!(find_volume(&devices, Path::new("ddup1")).unwrap().index, 1);
        assert!(is_sibling(&devices[0], &devices[1]));
        assert!(!is_sibling(&devices[0], &devices[2]));
        assert!(is_sibling(&devices[2], &devices[2]));
    }

    #[test]
    fn what_is_not_attached_says_what_it_is() {
        let devices = devices();
        for (argument, what) in [
            ("ddup3", "no attached device and no file"),
            ("/dev/ddup01", "no attached device and no file"),
            ("/dev/null", "neither a block device nor a regular file"),
            ("/", "neither a block device nor a regular file"),
            ("/proc/self/exe", "not attached"),
        ] {
            let error = find(&devices, Path::new(argument)).unwrap_err();
            assert_eq!(error.exit, Exit::NotFound);
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}
