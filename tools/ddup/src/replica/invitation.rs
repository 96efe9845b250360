// SPDX-License-Identifier: GPL-2.0

//! What a store that is to join a set is made with.

use super::token;
use crate::{
    error::{Error, Exit, Result},
    family::set::CONFIG_MAX,
};
use ddup_engine::engine::{
    mkfs::{Volume, VOLUMES_AT_FORMAT_MAX},
    replication::{codec::Reader, config::Config},
    types::FingerprintAlgorithm,
};
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

const WORD: &str = "ddup-invitation";
const VERSION: u64 = 1;

/// What all stores of a set have in common, and the configuration that a new one begins with.
#[derive(Debug)]
pub struct Invitation {
    /// That of the store that invites; the next one may name the new store.
    pub config: Config,
    /// How content is named, the same in all stores of a set.
    pub fingerprint: FingerprintAlgorithm,
    /// Key of the checks.
    pub check_key: u64,
    /// Volumes of the set, as many as a store may begin with.
    pub volumes: Vec<Volume>,
}

impl Invitation {
    /// As a line of text.
    pub fn write(&self) -> Result<String> {
        if self.volumes.len() > VOLUMES_AT_FORMAT_MAX {
            return Err(Error::new(
                Exit::Failed,
                format!(
                    "the set has {} volumes, and a new member begins with {VOLUMES_AT_FORMAT_MAX} \
                     at most",
                    self.volumes.len()
                ),
            ));
        }
        let config = self
            .config
            .bytes()
            .map_err(|_| Error::new(Exit::Failed, "out of memory"))?;
        let mut bytes = vec![VERSION as u8, self.fingerprint as u8];
        bytes.extend_from_slice(&(self.volumes.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&(config.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&self.check_key.to_le_bytes());
        bytes.extend_from_slice(&config);
        for volume in &self.volumes {
            bytes.extend_from_slice(&volume.uuid);
            bytes.extend_from_slice(&volume.blocks.to_le_bytes());
        }
        Ok(token::write(WORD, &bytes))
    }

    /// Reads what [`Invitation::write`] wrote.
    pub fn read(text: &str) -> Result<Self> {
        let wrong = |words: &str| Error::new(Exit::Usage, format!("no invitation: {words}"));
        let bytes = token::read(WORD, text).map_err(|words| wrong(&words))?;
        Self::parse(&bytes).ok_or_else(|| {
            wrong("it is of another version: use the same version of ddup on all machines")
        })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        (reader.uint::<1>()? == VERSION).then_some(())?;
        let fingerprint = FingerprintAlgorithm::from_u8(reader.uint::<1>()? as u8)?;
        let volume_count = reader.uint::<2>()? as usize;
        let config_len = reader.uint::<2>()? as usize;
        let check_key = reader.uint::<8>()?;
        (config_len <= CONFIG_MAX && volume_count <= VOLUMES_AT_FORMAT_MAX).then_some(())?;
        let mut config = Reader::new(reader.bytes(config_len)?);
        let read = Config::read(&mut config).ok()??;
        config.end()?;
        let mut volumes = Vec::new();
        for _ in 0..volume_count {
            volumes.push(Volume {
                uuid: reader.array()?,
                blocks: reader.uint::<8>()?,
            });
        }
        reader.end()?;
        (!volumes.is_empty()).then_some(Self {
            config: read,
            fingerprint,
            check_key,
            volumes,
        })
    }

    /// From an argument: the line itself, the name of a file that has it, or `-` for standard input.
    pub fn from_argument(argument: &str) -> Result<Self> {
        if argument.starts_with(WORD) {
            return Self::read(argument);
        }
        let read = |input: &mut dyn Read| {
            let mut text = String::new();
            input
                .take(token::LEN_MAX as u64 + 1)
                .read_to_string(&mut text)
                .map(|_| text)
        };
        let path = Path::new(argument);
        let text = match argument {
            "-" => read(&mut io::stdin()),
            _ => File::open(path).and_then(|mut file| read(&mut file)),
        };
        let text = text.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => Error::new(Exit::Usage, "no invitation: it is no text"),
            _ => Error::io("read the invitation", path, &error),
        })?;
        Self::read(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::change::tests::config;
    use super::*;

    fn invitation(volumes: usize) -> Invitation {
        Invitation {
            config: config(3),
            fingerprint: FingerprintAlgorithm::Blake2b,
            check_key: 0x0123_4567_89ab_cdef,
            volumes: (1..=volumes)
                .map(|n| Volume {
                    uuid: [n as u8; 16],
                    blocks: n as u64 * 1000,
                })
                .collect(),
        }
    }

    #[test]
    fn a_new_store_is_told_all_that_the_set_has_in_common() {
        let ours = invitation(2);
        let text = ours.write().unwrap();
        let read = Invitation::read(&text).unwrap();
        assert_eq!(
            &read.config.bytes().unwrap()[..],
            &ours.config.bytes().unwrap()[..]
        );
        assert_eq!(read.fingerprint, ours.fingerprint);
        assert_eq!(
            (read.check_key, &read.volumes),
            (ours.check_key, &ours.volumes)
        );
        assert!(text.len() < token::LEN_MAX);
        let many = invitation(VOLUMES_AT_FORMAT_MAX);
        assert!(Invitation::read(&many.write().unwrap()).is_ok());
        let error = invitation(VOLUMES_AT_FORMAT_MAX + 1).write().unwrap_err();
        assert!(error.to_string().contains("at most"), "{error}");
    }

    #[test]
    fn what_is_no_invitation_is_refused_in_words() {
        let error = Invitation::read("hello").unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
        assert!(error.to_string().contains("no invitation"), "{error}");
        let error = Invitation::from_argument("/nowhere/invitation").unwrap_err();
        assert!(error.to_string().contains("/nowhere/invitation"), "{error}");
        assert!(Invitation::from_argument("/dev/zero").is_err());
        // With a good checksum, and each byte changed: no panic, and nothing unsound.
        let text = invitation(1).write().unwrap();
        let bytes = token::read(WORD, &text).unwrap();
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = value;
                if let Ok(read) = Invitation::read(&token::write(WORD, &changed)) {
                    assert!(read.config.is_sound());
                }
            }
            assert!(Invitation::read(&token::write(WORD, &bytes[..at])).is_err());
        }
    }
}
