// SPDX-License-Identifier: GPL-2.0

//! `ddup probe`.

use super::print_json;
use crate::{
    cli::ProbeArgs,
    error::{describe, Error, Exit, Result},
    family::format_uuid,
    store,
};
use serde::Serialize;
use std::{io, path::Path};

/// What a store says of itself.
#[derive(Serialize)]
struct Found {
    uuid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    label: String,
}

/// Says whether there is a store, as `blkid -o udev` does.
pub fn run(args: &ProbeArgs) -> Result {
    let doing = format!("cannot probe {}", args.store.display());
    let found = probe(&args.store).map_err(|error| error.context(doing))?;
    if args.json {
        return print_json(&found);
    }
    for (key, value) in properties(&found) {
        println!("{key}={value}");
    }
    Ok(())
}

fn probe(path: &Path) -> Result<Found> {
    let superblock = store::superblock_of(path).map_err(|error: io::Error| {
        Error::new(
            Exit::from_errno(error.raw_os_error().unwrap_or(0)),
            describe(&error),
        )
    })?;
    let superblock = superblock.ok_or_else(|| Error::new(Exit::NotFound, "no ddup store"))?;
    let label = superblock.label.split(|&byte| byte == 0).next();
    Ok(Found {
        uuid: format_uuid(&superblock.uuid),
        label: String::from_utf8_lossy(label.unwrap_or_default()).into_owned(),
    })
}

/// The properties by the names that udev and lsblk know. A store is no file system: its usage keeps
/// others from mounting it.
fn properties(found: &Found) -> Vec<(&'static str, String)> {
    let mut properties = vec![
        ("ID_FS_TYPE", "ddup".to_owned()),
        ("ID_FS_USAGE", "other".to_owned()),
        ("ID_FS_UUID", found.uuid.clone()),
        ("ID_FS_UUID_ENC", found.uuid.clone()),
    ];
    if !found.label.is_empty() {
        properties.push(("ID_FS_LABEL", safe(&found.label)));
        properties.push(("ID_FS_LABEL_ENC", encode(&found.label)));
    }
    properties
}

/// With `_` for what may not be in a value.
fn safe(text: &str) -> String {
    let keeps = |c: char| c.is_alphanumeric() || "#+-.:=@_".contains(c);
    text.chars()
        .map(|c| if keeps(c) { c } else { '_' })
        .collect()
}

/// As udev encodes what becomes the name of a link: `\x` and two digits for each odd byte.
fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for c in text.chars() {
        if c.is_alphanumeric() || "#+-.:=@_".contains(c) {
            encoded.push(c);
            continue;
        }
        let mut bytes = [0; 4];
        for byte in c.encode_utf8(&mut bytes).bytes() {
            encoded.push_str(&format!("\\x{byte:02x}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Scratch, *};

    #[test]
    fn a_store_is_told_from_what_is_none() {
        let store = Scratch::store("probe", &["--label", "my disk/1"]);
        let found = probe(&store.0).unwrap();
        let text: Vec<String> = properties(&found)
            .into_iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        assert_eq!(text[0], "ID_FS_TYPE=ddup");
        assert_eq!(text[2], format!("ID_FS_UUID={}", found.uuid));
        assert_eq!(text[4], "ID_FS_LABEL=my_disk_1");
        assert_eq!(text[5], "ID_FS_LABEL_ENC=my\\x20disk\\x2f1");

        let blank = Scratch::new("probe-blank", 1 << 20);
        assert_eq!(probe(&blank.0).err().unwrap().exit, Exit::NotFound);
        let short = Scratch::new("probe-short", 100);
        assert_eq!(probe(&short.0).err().unwrap().exit, Exit::NotFound);
        assert_eq!(
            probe(Path::new("/nowhere/store")).err().unwrap().exit,
            Exit::NotFound
        );
    }
}
