// SPDX-License-Identifier: GPL-2.0

//! `ddup format`.

use super::print_json;
use crate::{
    cli::{Fingerprint, FormatArgs},
    error::{describe, Error, Exit, Result},
    family::format_uuid,
    probe::{self, ReadAt},
    replica::{change, invitation::Invitation},
    size,
    store::{self, Device, CLUSTER},
};
use ddup_engine::engine::{
    format::layout::STORE_CLUSTERS_MIN,
    mkfs::{self, MemberParams, MkfsError, Params, Step, Volume, VOLUMES_AT_FORMAT_MAX},
    replication::record::Record,
    types::FingerprintAlgorithm,
};
use serde::Serialize;
use std::{io, path::Path};

/// What is wiped at both ends of a device that held something: more than any signature needs.
const WIPE_BYTES: u64 = 1 << 20;

/// What was made.
#[derive(Serialize)]
pub(super) struct Formatted<'a> {
    store: &'a Path,
    store_uuid: String,
    label: &'a str,
    store_bytes: u64,
    volume_bytes: u64,
    journal_bytes: u64,
    fingerprint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    set_uuid: Option<String>,
}

/// Makes a store.
pub fn run(args: &FormatArgs) -> Result {
    let formatted = format(args)
        .map_err(|error| error.context(format!("cannot format {}", args.store.display())))?;
    if args.json {
        return print_json(&formatted);
    }
    println!(
        "{}: a store of {}, with a volume of {}, a journal of {}, {} fingerprints; UUID {}",
        args.store.display(),
        size::human(formatted.store_bytes),
        size::human(formatted.volume_bytes),
        size::human(formatted.journal_bytes),
        formatted.fingerprint,
        formatted.store_uuid
    );
    if let Some(set) = &formatted.set_uuid {
        match args.set {
            true => println!("It is the primary of the new replica set {set}."),
            false => println!(
                "It is to join the replica set {set}: attach it, and on the primary's machine run \
                 `ddup peer add DEVICE {}`.",
                formatted.store_uuid
            ),
        }
    }
    Ok(())
}

/// What makes a store a member, and what it has in common with the others.
struct Membership {
    record: Record,
    volumes: Vec<Volume>,
    check_key: u64,
    fingerprint: FingerprintAlgorithm,
}

impl Membership {
    fn new(args: &FormatArgs, store: [u8; 16]) -> Result<Option<Self>> {
        if let Some(argument) = &args.replica_of {
            let invitation = Invitation::from_argument(argument)?;
            let ours = invitation.fingerprint;
            if args
                .fingerprint
                .is_some_and(|given| algorithm(given) != ours)
            {
                return Err(Error::new(
                    Exit::Usage,
                    format!(
                        "all stores of a replica set name blocks alike, this one by {}: leave \
                         --fingerprint out",
                        name(ours)
                    ),
                ));
            }
            return Ok(Some(Self {
                record: Record {
                    promise: invitation.config.term,
                    keep: false,
                    config: invitation.config,
                },
                volumes: invitation.volumes,
                check_key: invitation.check_key,
                fingerprint: ours,
            }));
        }
        if !args.set {
            return Ok(None);
        }
        let fresh = [store::random_uuid()?, store::random_uuid()?];
        let config = change::first(store::random_uuid()?, store, fresh)?;
        Ok(Some(Self {
            record: Record {
                promise: config.term,
                keep: false,
                config,
            },
            volumes: Vec::new(),
            check_key: u64::from_ne_bytes(store::random()?),
            fingerprint: args
                .fingerprint
                .map_or(FingerprintAlgorithm::Blake2b, algorithm),
        }))
    }
}

fn algorithm(given: Fingerprint) -> FingerprintAlgorithm {
    match given {
        Fingerprint::Blake2b => FingerprintAlgorithm::Blake2b,
        Fingerprint::Sha256 => FingerprintAlgorithm::Sha256,
        Fingerprint::Xxh64 => FingerprintAlgorithm::Xxh64,
    }
}

fn name(algorithm: FingerprintAlgorithm) -> String {
    format!("{algorithm:?}").to_lowercase()
}

pub(super) fn format(args: &FormatArgs) -> Result<Formatted<'_>> {
    let uuid = store::random_uuid()?;
    let membership = Membership::new(args, uuid)?;
    let fingerprint = match &membership {
        Some(membership) => membership.fingerprint,
        None => args
            .fingerprint
            .map_or(FingerprintAlgorithm::Xxh64, algorithm),
    };
    let device = Device::open(&args.store, true)?;
    if device.clusters() < STORE_CLUSTERS_MIN {
        return Err(too_small(&device));
    }
    let found = probe::probe(device.file(), device.size).map_err(|error| read_failed(&error))?;
    if let Some(found) = found {
        if !args.force {
            return Err(Error::new(
                Exit::Busy,
                format!("it holds {found}: overwrite that with --force"),
            ));
        }
        wipe(&device).map_err(|error| write_failed(&error))?;
    }
    let mut label = [0; 64];
    for (to, from) in label.iter_mut().zip(args.label.bytes()) {
        *to = from;
    }
    let check_key = match &membership {
        Some(membership) => membership.check_key,
        None => u64::from_ne_bytes(store::random()?),
    };
    let params = Params {
        clusters: device.clusters(),
        journal_clusters: args.journal.unwrap_or(0) / CLUSTER,
        volume_blocks: args.size.unwrap_or(0) / CLUSTER,
        uuid,
        volume_uuid: store::random_uuid()?,
        label,
        fingerprint,
        // With one key a fast fingerprint and the check are one pass over a block: who shares is
        // compared byte by byte, so 64 bits suffice to find him.
        name_key: check_key,
        check_key,
        hash: store::hash,
        member: membership.as_ref().map(|membership| MemberParams {
            record: &membership.record,
            volumes: &membership.volumes,
        }),
    };
    let superblock = mkfs::format(&params, &mut |step| match step {
        Step::Write(cluster, bytes) => device.write(cluster.0, bytes),
        Step::Flush => device.flush(),
    })
    .map_err(|error| match error {
        MkfsError::Size { .. } if device.clusters() < STORE_CLUSTERS_MIN => too_small(&device),
        MkfsError::Size { .. } => Error::new(
            Exit::Failed,
            format!(
                "no store fits: the device has {}, and the journal takes {}",
                size::human(device.size),
                args.journal.map_or("a part of it".into(), size::human)
            ),
        ),
        MkfsError::VolumeSize => Error::new(Exit::Usage, "the volume is too large"),
        MkfsError::Fingerprint => Error::new(
            Exit::Usage,
            "a member of a replica set needs a cryptographic fingerprint, which names content \
             between stores: give --fingerprint=blake2b or --fingerprint=sha256",
        ),
        MkfsError::Volumes => Error::new(
            Exit::Usage,
            format!("a replica begins with {VOLUMES_AT_FORMAT_MAX} volumes at most"),
        ),
        MkfsError::Record => Error::new(
            Exit::Usage,
            "the configuration of the replica set is none that a store believes",
        ),
        MkfsError::Memory => Error::new(Exit::Failed, "out of memory"),
        MkfsError::Device(error) => write_failed(&error),
    })?;
    let layout = superblock.layout;
    let data_clusters =
        layout.clusters - layout.fixed_segments() * ddup_engine::engine::types::SEGMENT_CLUSTERS;
    Ok(Formatted {
        store: &args.store,
        store_uuid: format_uuid(&uuid),
        label: &args.label,
        store_bytes: layout.clusters * CLUSTER,
        volume_bytes: membership
            .as_ref()
            .and_then(|membership| membership.volumes.first())
            .map(|volume| volume.blocks.saturating_mul(CLUSTER))
            .or(args.size)
            .unwrap_or(data_clusters * CLUSTER),
        journal_bytes: layout.journal_clusters * CLUSTER,
        fingerprint: name(fingerprint),
        set_uuid: membership
            .as_ref()
            .map(|membership| format_uuid(&membership.record.config.set)),
    })
}

/// Overwrites what signatures there may be at both ends.
fn wipe(device: &Device) -> io::Result<()> {
    let clusters = WIPE_BYTES / CLUSTER;
    let zeroes = vec![0; WIPE_BYTES as usize];
    device.write(0, &zeroes)?;
    // The end need not be a multiple of a cluster.
    let tail = device.size.saturating_sub(WIPE_BYTES).max(WIPE_BYTES);
    let len = device.size.saturating_sub(tail).min(WIPE_BYTES) as usize;
    std::os::unix::fs::FileExt::write_all_at(device.file(), &zeroes[..len], tail)?;
    debug_assert!(device.clusters() >= 2 * clusters);
    device.flush()
}

fn too_small(device: &Device) -> Error {
    Error::new(
        Exit::Failed,
        format!(
            "it is too small: it has {}, and a store needs {} at least",
            size::human(device.size),
            size::human(STORE_CLUSTERS_MIN * CLUSTER)
        ),
    )
}

fn read_failed(error: &io::Error) -> Error {
    Error::new(
        Exit::Failed,
        format!("reading it failed: {}", describe(error)),
    )
}

fn write_failed(error: &io::Error) -> Error {
    Error::new(
        Exit::Failed,
        format!("writing it failed: {}", describe(error)),
    )
}

// The probe reads from what is being formatted.
const _: fn() = || {
    fn readable<T: ReadAt>() {}
    readable::<std::fs::File>();
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verb::testing::Scratch;
    use ddup_engine::engine::{
        format::{layout::Layout, superblock::Superblock},
        replication::record::{choose, Slots},
    };
    use std::fs;

    fn format_with(path: &Path, more: &[&str]) -> Result<String> {
        crate::verb::testing::format(path, more)
    }

    #[test]
    fn a_store_is_made_once_and_again_by_force() {
        let file = Scratch::new("format", 64 << 20);
        let first = format_with(&file.0, &[]).unwrap();
        assert!(first.contains("\"store_bytes\":67108864"), "{first}");
        let error = format_with(&file.0, &[]).unwrap_err();
        assert!(error.to_string().contains("a ddup store"), "{error}");
        assert_eq!(error.exit, Exit::Busy);
        let second = format_with(&file.0, &["--force", "--size", "1T", "--label", "λ"]).unwrap();
        assert!(second.contains("\"volume_bytes\":1099511627776"));
        assert_ne!(first, second);
    }

    #[test]
    fn force_leaves_no_signature_behind() {
        let file = Scratch::new("wipe", (64 << 20) + 512);
        let raw = fs::OpenOptions::new().write(true).open(&file.0).unwrap();
        use std::os::unix::fs::FileExt;
        raw.write_all_at(b"EFI PART", 512).unwrap();
        raw.write_all_at(b"EFI PART", 64 << 20).unwrap();
        raw.write_all_at(b"_BHRfS_M", 0x10040).unwrap();
        assert!(format_with(&file.0, &[]).is_err());
        format_with(&file.0, &["--force"]).unwrap();
        let device = fs::File::open(&file.0).unwrap();
        assert_eq!(
            probe::probe(&device, (64 << 20) + 512).unwrap(),
            Some("a ddup store")
        );
        let mut bytes = [0; 8];
        device.read_exact_at(&mut bytes, 64 << 20).unwrap();
        assert_eq!(bytes, [0; 8]);
    }

    /// The superblock of a store, and what its configuration slots say.
    fn member_at(path: &Path) -> (Superblock, Slots) {
        let superblock = store::superblock_of(path).unwrap().unwrap();
        let device = Device::open(path, false).unwrap();
        let slots = [2, 3].map(|slot| {
            [None, Some(&superblock.layout)].map(|layout| {
                let mut block = vec![0; CLUSTER as usize];
                let place = Layout::superblock(slot, layout);
                device.read(place.0, &mut block).unwrap();
                block
            })
        });
        let copies = slots.each_ref().map(|s| s.each_ref().map(|b| Some(&b[..])));
        let slots = choose(&copies, &superblock.uuid, store::hash).unwrap();
        (superblock, slots)
    }

    #[test]
    fn the_first_store_of_a_set_is_its_primary_and_only_member() {
        let file = Scratch::new("set", 64 << 20);
        let text = format_with(&file.0, &["--set"]).unwrap();
        assert!(
            text.contains("blake2b") && text.contains("set_uuid"),
            "{text}"
        );
        let (superblock, slots) = member_at(&file.0);
        assert!(superblock.member);
        let Slots::Record(found) = slots else {
            panic!("{slots:?}");
        };
        let config = &found.record.config;
        assert_eq!((config.primary, config.members.len()), (superblock.uuid, 1));
        assert!(config.is_in_sync(&superblock.uuid));
        let error = format_with(&file.0, &["--set", "--force", "--fingerprint=xxh64"]).unwrap_err();
        assert!(
            error.to_string().contains("--fingerprint=blake2b"),
            "{error}"
        );
        assert_eq!(error.exit, Exit::Usage);
        // A store of no set has none of it.
        format_with(&file.0, &["--force"]).unwrap();
        let (superblock, slots) = member_at(&file.0);
        assert!(!superblock.member && matches!(slots, Slots::Empty));
    }

    #[test]
    fn a_store_that_is_to_join_has_in_common_what_all_stores_of_the_set_have() {
        let config = change::first([5; 16], [1; 16], [[2; 16], [3; 16]]).unwrap();
        let invitation = Invitation {
            config,
            fingerprint: FingerprintAlgorithm::Sha256,
            check_key: 77,
            volumes: vec![
                Volume {
                    uuid: [8; 16],
                    blocks: 1000,
                },
                Volume {
                    uuid: [9; 16],
                    blocks: 1 << 30,
                },
            ],
        };
        let line = invitation.write().unwrap();
        let file = Scratch::new("replica", 64 << 20);
        let note = Scratch::new("invitation", 0);
        fs::write(&note.0, format!("{line}\n")).unwrap();
        for argument in [line.as_str(), note.0.to_str().unwrap()] {
            let text = format_with(&file.0, &["--force", "--replica-of", argument]).unwrap();
            assert!(
                text.contains("sha256") && text.contains("4096000"),
                "{text}"
            );
            assert!(text.contains(&format_uuid(&[5; 16])), "{text}");
            let (superblock, slots) = member_at(&file.0);
            assert!(superblock.member && superblock.check_key == 77);
            assert_eq!(superblock.checkpoint.volume_count, 2);
            let Slots::Record(found) = slots else {
                panic!("{slots:?}");
            };
            // It is none of the members yet, so it leads nothing.
            assert!(found.record.config.member(&superblock.uuid).is_none());
            assert_eq!(found.record.promise, 1);
        }
        for (more, words) in [
            (
                ["--fingerprint=blake2b", "--replica-of", &line],
                "by sha256",
            ),
            (["--force", "--replica-of", &line[..99]], "not whole"),
            (["--force", "--replica-of", "/nowhere"], "/nowhere"),
        ] {
            let error = format_with(&file.0, &more).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_small_device_is_refused_with_both_sizes() {
        let file = Scratch::new("small", (64 << 20) - 1);
        let error = format_with(&file.0, &[]).unwrap_err();
        assert!(error.to_string().contains("64.0M at least"), "{error}");
        let file = Scratch::new("journal", 64 << 20);
        let error = format_with(&file.0, &["--journal", "256M"]).unwrap_err();
        assert!(error.to_string().contains("the journal takes"), "{error}");
    }
}
