// SPDX-License-Identifier: GPL-2.0

//! `ddup peer`: the members of a replica set, and the connections to them.

mod connect;
mod join;
pub(super) mod verify;

use crate::{
    cli::{
        PeerAddArgs, PeerArgs, PeerDropArgs, PeerRemoveArgs, PeerResolveArgs, PeerShrinkArgs,
        PeerVerb,
    },
    error::{Error, Exit, Result},
    family::format_uuid,
    replica::change::{self, Proof},
    verb::member::Member,
};
use ddup_engine::engine::replication::config::MemberState;
use std::path::Path;

/// Does what the command line asks for.
pub fn run(args: &PeerArgs) -> Result {
    let doing = |what: &str, peer: &str, device: &Path| {
        format!(
            "cannot {what} {peer} of the replica set of {}",
            device.display()
        )
    };
    match &args.verb {
        PeerVerb::Add(args) => {
            add(args).map_err(|error| error.context(doing("add member", &args.peer, &args.device)))
        }
        PeerVerb::Join(args) => join::join(args)
            .map_err(|error| error.context(doing("join member", &args.peer, &args.device))),
        PeerVerb::Shrink(args) => shrink(args)
            .map_err(|error| error.context(doing("shrink by member", &args.peer, &args.device))),
        PeerVerb::Remove(args) => remove(args)
            .map_err(|error| error.context(doing("remove member", &args.peer, &args.device))),
        PeerVerb::Drop(args) => drop(args)
            .map_err(|error| error.context(doing("drop member", &args.peer, &args.device))),
        PeerVerb::Resolve(args) => resolve(args).map_err(|error| {
            let doing = format!("cannot resolve the history of {}", args.device.display());
            error.context(doing)
        }),
        PeerVerb::Verify(args) => {
            verify::verify(args, doing("verify member", &args.peer, &args.device))
        }
        PeerVerb::Connect(args) => connect::connect(args).map_err(|error| {
            let (one, other) = (args.device.display(), args.other.display());
            error.context(format!("cannot connect {one} and {other}"))
        }),
    }
}

fn add(args: &PeerAddArgs) -> Result {
    let mut member = Member::open(&args.device)?;
    let peer = member.store_named(&args.peer)?;
    member.change(|base| change::add(base, &peer)).map(|_| ())
}

fn remove(args: &PeerRemoveArgs) -> Result {
    let mut member = Member::open(&args.device)?;
    let peer = member.store_named(&args.peer)?;
    member
        .change(|base| change::remove(base, &peer))
        .map(|_| ())
}

fn shrink(args: &PeerShrinkArgs) -> Result {
    let mut member = Member::open(&args.device)?;
    let peer = member.store_named(&args.peer)?;
    let left = match args.out {
        true => MemberState::Out,
        false => MemberState::Async,
    };
    let proof = Proof {
        statements: args.fenced.as_slice(),
        force: args.force,
    };
    member
        .change(|base| change::shrink(base, &peer, left, proof))
        .map(|_| ())
}

fn drop(args: &PeerDropArgs) -> Result {
    let mut member = Member::open(&args.device)?;
    let peer = member.store_named(&args.peer)?;
    member.peer(&peer)?;
    match member.driver.peer_drop(member.device.index, &peer)? {
        true => Ok(()),
        false => Err(Error::new(
            Exit::NotFound,
            format!("there is no connection to store {}", format_uuid(&peer)),
        )),
    }
}

fn resolve(args: &PeerResolveArgs) -> Result {
    let mut member = Member::open(&args.device)?;
    if member.state.rules() {
        return Err(Error::new(
            Exit::Busy,
            "it is primary, and the others follow it: to give up what it has, demote it first",
        ));
    }
    member.driver.resolve(member.device.index)
}
