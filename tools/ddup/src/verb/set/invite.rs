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
use ddup_engine::engine::mkfs::Volume;
use serde::Serialize;
use std::path::PathBuf;

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
    let (major, minor) = member
        .device
        .backing_number
        .ok_or_else(|| Error::new(Exit::Failed, "the driver told no backing device"))?;
    // The path at attach may lead elsewhere by now.
    let backing = PathBuf::from(format!("/dev/block/{major}:{minor}"));
    let superblock = store::superblock_of(&backing)
        .map_err(|error| Error::io("read", &backing, &error))?
        .filter(|superblock| superblock.uuid == member.state.store)
        .ok_or_else(|| {
            let words = format!("{} has no intact superblock", backing.display());
            Error::new(Exit::Damaged, words)
        })?;
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
