// SPDX-License-Identifier: GPL-2.0

//! `ddup set invite`.

use crate::{
    cli::SetInviteArgs,
    error::{Error, Exit, Result},
    family::{format_uuid, parse_uuid, Device},
    replica::invitation::Invitation,
    store::{self, CLUSTER},
    target,
    verb::{member::Member, print_json},
};
use ddup_engine::engine::{
    format::superblock::Superblock,
    mkfs::{Volume, VOLUMES_AT_FORMAT_MAX},
    replication::types::Id,
};
use serde::Serialize;
use std::{fs, path::PathBuf};

#[derive(Serialize)]
struct Invited {
    set_uuid: String,
    invitation: String,
}

/// Prints what a new member is formatted with.
pub fn run(args: &SetInviteArgs) -> Result {
    let doing = format!(
        "cannot invite to the replica set of {}",
        args.device.display()
    );
    let (set_uuid, invitation) = invite(args).map_err(|error| error.context(doing))?;
    if args.json {
        return print_json(&Invited {
            set_uuid,
            invitation,
        });
    }
    println!("{invitation}");
    Ok(())
}

fn invite(args: &SetInviteArgs) -> Result<(String, String)> {
    let member = Member::open(&args.device)?;
    let base = member.base()?;
    let superblock = superblock_of(&member.device, &member.state.store)?;
    let volume = |device: &Device| {
        Some(Volume {
            uuid: parse_uuid(device.volume_uuid.as_deref()?)?,
            blocks: device.size? / CLUSTER,
        })
    };
    let volumes = member
        .devices
        .iter()
        .filter(|device| target::is_sibling(device, &member.device))
        .map(volume)
        // The others come with all that is in them.
        .take(VOLUMES_AT_FORMAT_MAX)
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| Error::new(Exit::Failed, "the driver told no UUID or size of a volume"))?;
    let config = base
        .config
        .try_clone()
        .map_err(|_| Error::new(Exit::Failed, "out of memory"))?;
    let set = format_uuid(&config.set);
    let invitation = Invitation {
        config,
        fingerprint: superblock.fingerprint,
        check_key: superblock.check_key,
        volumes,
    };
    Ok((set, invitation.write()?))
}

/// The superblock of an attached store.
fn superblock_of(device: &Device, store: &Id) -> Result<Superblock> {
    // The path at attach may lead elsewhere by now, but the kernel has a name for the device.
    let number = device.backing_number.unwrap_or_default();
    let link = fs::read_link(format!("/sys/dev/block/{}:{}", number.0, number.1));
    let name = link
        .ok()
        .and_then(|link| Some(link.file_name()?.to_owned()));
    let named = name.map(|name| PathBuf::from("/dev").join(name));
    let mut paths = [Some(PathBuf::from(&device.path)), named]
        .into_iter()
        .flatten();
    paths
        .find_map(|path| {
            let superblock = store::superblock_of(&path).ok()??;
            (superblock.uuid == *store).then_some(superblock)
        })
        .ok_or_else(|| {
            let words = format!("no superblock of the store can be read on {}", device.path);
            Error::new(Exit::Damaged, words)
        })
}
