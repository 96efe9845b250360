// SPDX-License-Identifier: GPL-2.0

//! What verbs about replica sets share: the store that they are about, and who its peers are.

use crate::{
    error::{Error, Exit, Result},
    family::{
        format_uuid, parse_uuid,
        set::{PeerState, SetState},
        Device, Driver,
    },
    replica::change::Base,
    store, target,
};
use ddup_engine::engine::replication::{config::Config, types::Id};
use std::path::Path;

/// Fewest digits of a UUID that name a member.
const PREFIX_MIN: usize = 4;

/// An attached store that is in a replica set.
pub struct Member {
    /// The way to the driver.
    pub driver: Driver,
    /// All devices.
    pub devices: Vec<Device>,
    /// The one that was named.
    pub device: Device,
    /// The store's part in its set.
    pub state: SetState,
}

impl Member {
    /// The one that `path` means.
    pub fn open(path: &Path) -> Result<Self> {
        let mut driver = Driver::connect()?;
        let devices = driver.devices()?;
        let device = target::find(&devices, path)?.clone();
        let state = describe(&mut driver, &device)?;
        Ok(Self {
            driver,
            devices,
            device,
            state,
        })
    }

    /// Asks again.
    pub fn refresh(&mut self) -> Result {
        self.state = describe(&mut self.driver, &self.device)?;
        Ok(())
    }

    /// What the next configuration is made from.
    pub fn base(&self) -> Result<Base<'_>> {
        Base::new(&self.state, [store::random_uuid()?, store::random_uuid()?])
    }

    /// Puts the next configuration in force, if the one that it was made from still is.
    pub fn commit(&mut self, next: &Config) -> Result {
        let expect = self
            .state
            .version
            .or(self.state.config.as_ref().map(|config| config.version))
            .unwrap_or(0);
        self.driver.set_config(self.device.index, expect, next)
    }

    /// Makes the next configuration and puts it in force.
    pub fn change(&mut self, make: impl FnOnce(&Base<'_>) -> Result<Config>) -> Result<Config> {
        let next = make(&self.base()?)?;
        self.commit(&next)?;
        Ok(next)
    }

    /// The store that an argument means: a member by its UUID or the beginning of that, or any
    /// store by its whole UUID, its path, or that of its device.
    pub fn store_named(&self, argument: &str) -> Result<Id> {
        let members = self.state.config.iter().flat_map(|config| &config.members);
        let known: Vec<Id> = members.map(|member| member.store).collect();
        let path = Path::new(argument);
        if let Some(id) = by_uuid(&known, argument)? {
            return Ok(id);
        }
        let attached = target::find(&self.devices, path).ok();
        let attached = attached.and_then(|device| parse_uuid(device.store_uuid.as_deref()?));
        attached.or_else(|| store::uuid_of(path)).ok_or_else(|| {
            let words = format!(
                "`{argument}` names no store: give a UUID as `ddup set show` prints it, or a path of \
                 this machine"
            );
            Error::new(Exit::NotFound, words)
        })
    }

    /// What is known of the peer, which is another member.
    pub fn peer(&self, store: &Id) -> Result<&PeerState> {
        self.state.peer_state(store).ok_or_else(|| {
            let words = format!("store {} is no other member of the set", format_uuid(store));
            Error::new(Exit::NotFound, words)
        })
    }
}

fn by_uuid(known: &[Id], argument: &str) -> Result<Option<Id>> {
    if let Some(id) = parse_uuid(argument) {
        return Ok(Some(id));
    }
    let wanted = argument.to_lowercase();
    let matching: Vec<&Id> = known
        .iter()
        .filter(|id| wanted.len() >= PREFIX_MIN && format_uuid(id).starts_with(&wanted))
        .collect();
    match matching[..] {
        [] => Ok(None),
        [one] => Ok(Some(*one)),
        _ => Err(Error::new(
            Exit::Usage,
            format!("the UUIDs of several members begin with `{argument}`: give more of it"),
        )),
    }
}

fn describe(driver: &mut Driver, device: &Device) -> Result<SetState> {
    driver.set(device.index)?.ok_or_else(|| {
        Error::new(
            Exit::NotFound,
            "its store is in no replica set: stores that are were formatted with --set or \
             --replica-of",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_named_by_the_beginning_of_its_uuid_if_that_is_unique() {
        let known = [[0x11; 16], [0x12; 16], [0xab; 16]];
        assert_eq!(by_uuid(&known, "1111").unwrap(), Some(known[0]));
        assert_eq!(by_uuid(&known, "ABAB").unwrap(), Some(known[2]));
        for unknown in ["1", "111", "2222", "/dev/vdb", "ddup0"] {
            assert_eq!(by_uuid(&known, unknown).unwrap(), None, "{unknown}");
        }
        let other = format_uuid(&[7; 16]);
        assert_eq!(by_uuid(&known, &other).unwrap(), Some([7; 16]));
        let twice = [known[0], known[0]];
        assert_eq!(by_uuid(&twice, "1111").unwrap_err().exit, Exit::Usage);
    }
}
