// SPDX-License-Identifier: GPL-2.0

//! `ddup promote`.

use crate::{
    cli::PromoteArgs,
    error::{Error, Exit, Result},
    family::{
        format_uuid,
        set::{Link, Role, SetState},
    },
    replica::change::{self, Proof},
    verb::{member::Member, print_json},
};
use ddup_engine::engine::replication::types::Id;
use serde::Serialize;
use std::{
    thread,
    time::{Duration, Instant},
};

const PAUSE: Duration = Duration::from_millis(100);

#[derive(Serialize)]
struct Promoted {
    device: String,
    role: Option<Role>,
    term: u64,
    version: u64,
    waits_for: Vec<String>,
}

/// Makes a store primary.
pub fn run(args: &PromoteArgs) -> Result {
    let doing = format!("cannot promote {}", args.device.display());
    let promoted = promote(args).map_err(|error| error.context(doing))?;
    if args.json {
        return print_json(&promoted);
    }
    match (promoted.role, promoted.waits_for.join(", ")) {
        (Some(Role::Primary), _) => println!("{} is primary", promoted.device),
        (_, others) if !others.is_empty() => println!(
            "{} is primary, and takes requests when these have acknowledged that: {others}",
            promoted.device
        ),
        _ => println!("{} is primary, and takes requests soon", promoted.device),
    }
    Ok(())
}

fn promote(args: &PromoteArgs) -> Result<Promoted> {
    let mut member = Member::open(&args.device)?;
    if !args.force {
        refuse_beside_a_primary(&mut member)?;
    }
    let proof = Proof {
        statements: &args.fenced,
        force: args.force,
    };
    let next = member.change(|base| change::promote(base, proof))?;
    let since = Instant::now();
    let patience = Duration::from_secs(args.wait.unwrap_or(0).into());
    // A reign that nobody else is needed for begins at once, without --wait as well.
    let least = Duration::from_secs(if next.in_sync_count() == 1 { 5 } else { 0 });
    loop {
        member.refresh()?;
        let waits_for = awaited(&member.state);
        let serves = member.state.role == Some(Role::Primary);
        if !serves && since.elapsed() < patience.max(least) {
            thread::sleep(PAUSE);
            continue;
        }
        if !serves && args.wait.is_some() {
            return Err(Error::new(
                Exit::Failed,
                format!(
                    "it is primary and takes no requests yet: it waits for {}; `ddup set show` says more",
                    waits_for.join(", ")
                ),
            ));
        }
        return Ok(Promoted {
            device: member.device.node().display().to_string(),
            role: member.state.role,
            term: next.term,
            version: next.version,
            waits_for,
        });
    }
}

/// An old primary whose store is here is seen; what is mounted there would fail.
fn refuse_beside_a_primary(member: &mut Member) -> Result {
    let (set, own) = (member.state.set, member.state.store);
    let sets = member.driver.sets()?;
    let rival = sets
        .iter()
        .find(|state| state.set == set && state.store != own && state.rules());
    if let Some(rival) = rival {
        return Err(Error::new(
            Exit::Busy,
            format!(
                "/dev/ddup{} of the same set is primary: `ddup demote` it first",
                rival.index
            ),
        ));
    }
    // A replica follows a primary alone.
    let primary = member.state.config.as_ref().map(|config| config.primary);
    let follows = |store: &Id| {
        let peer = member.state.peer_state(store);
        peer.is_some_and(|peer| peer.link == Link::Connected)
    };
    match primary.filter(|store| *store != own && follows(store)) {
        Some(primary) => Err(Error::new(
            Exit::Busy,
            format!(
                "store {} is primary and connected: `ddup demote` it on its machine first",
                format_uuid(&primary)
            ),
        )),
        None => Ok(()),
    }
}

/// The members in sync that are not connected.
fn awaited(state: &SetState) -> Vec<String> {
    let config = state.config.iter();
    config
        .flat_map(|config| &config.members)
        .map(|member| member.store)
        .filter(|store| *store != state.store)
        .filter(|store| state.config.as_ref().is_some_and(|c| c.is_in_sync(store)))
        .filter(|store| {
            state
                .peer_state(store)
                .is_none_or(|p| p.link != Link::Connected)
        })
        .map(|store| format_uuid(&store))
        .collect()
}
