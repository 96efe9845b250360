// SPDX-License-Identifier: GPL-2.0

//! `ddup peer join`: in steps that may be interrupted anywhere and begun again.

use crate::{
    cli::PeerJoinArgs,
    error::{Error, Exit, Result},
    family::{
        format_uuid,
        set::{Link, SetState},
    },
    replica::change,
    verb::{member::Member, set::show},
};
use ddup_engine::engine::replication::{
    config::MemberState,
    types::{Id, Position},
};
use std::{
    thread,
    time::{Duration, Instant},
};

/// Epochs that a member may be behind before FLUSHes are let wait for it.
const LAG_MAX: u64 = 16;
const PAUSE: Duration = Duration::from_millis(100);

/// What is to be done next.
#[derive(Debug, PartialEq)]
enum Step {
    /// It is in sync.
    Done,
    /// Commit it as in sync.
    Commit(Position),
    /// Let FLUSHes wait for it.
    Join,
    /// Wait, for this.
    Wait(String),
}

fn next(state: &SetState, store: &Id) -> Step {
    let config = state.config.as_ref();
    if config.is_some_and(|config| config.is_in_sync(store)) {
        return Step::Done;
    }
    let Some(peer) = state.peer_state(store) else {
        return Step::Wait("it is not known yet".to_owned());
    };
    if let Some(position) = peer.joinable {
        return Step::Commit(position);
    }
    if peer.joining {
        return Step::Wait("it is joining".to_owned());
    }
    if peer.link != Link::Connected {
        return Step::Wait(format!("the connection to it is {}", peer.link.name()));
    }
    match show::lag(state, store) {
        Some(lag) if lag <= LAG_MAX => Step::Join,
        Some(lag) => Step::Wait(format!("it is {lag} epochs behind")),
        None => Step::Wait("it has acknowledged nothing yet".to_owned()),
    }
}

/// Waits until a member has everything, and makes it one in sync.
pub fn join(args: &PeerJoinArgs) -> Result {
    let mut member = Member::open(&args.device)?;
    let store = member.store_named(&args.peer)?;
    let config = member.state.config.as_ref();
    match config.and_then(|config| config.member(&store)) {
        None => {
            let words = format!(
                "store {} is no member: add it first, with `ddup peer add`",
                format_uuid(&store)
            );
            return Err(Error::new(Exit::NotFound, words));
        }
        Some(found) if found.state == MemberState::Out => {
            let words = format!(
                "store {} is out and gets nothing: `ddup peer add` lets it follow again",
                format_uuid(&store)
            );
            return Err(Error::new(Exit::Failed, words));
        }
        Some(_) => {}
    }
    let since = Instant::now();
    let patience = args
        .timeout
        .map(|seconds| Duration::from_secs(seconds.into()));
    loop {
        member.base()?.must_rule()?;
        match next(&member.state, &store) {
            Step::Done => return Ok(()),
            Step::Commit(position) => {
                member.change(|base| change::join(base, &store, &position))?;
            }
            Step::Join => {
                let joined = member.driver.join(member.device.index, &store);
                member.refresh()?;
                // A connection that was lost meanwhile is a thing to wait for.
                let lost = |peer: &crate::family::set::PeerState| peer.link != Link::Connected;
                if !member.state.peer_state(&store).is_some_and(lost) {
                    joined?;
                }
                continue;
            }
            Step::Wait(what) => {
                if patience.is_some_and(|patience| since.elapsed() >= patience) {
                    return Err(Error::new(
                        Exit::Failed,
                        format!("{what}: `ddup set show` says more, and join may be run again"),
                    ));
                }
                thread::sleep(PAUSE);
            }
        }
        member.refresh()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::set::{PeerState, Role};

    const PEER: Id = [2; 16];

    /// A primary at epoch 100 that has a peer of this kind.
    fn state(peer: PeerState) -> SetState {
        let config = change::first([5; 16], [1; 16], [[3; 16], [4; 16]]).unwrap();
        let mut state = SetState {
            store: [1; 16],
            role: Some(Role::Primary),
            position: Some(Position {
                epoch: 100,
                ..Position::ZERO
            }),
            config: Some(config),
            ..SetState::default()
        };
        let base = change::Base::new(&state, [[6; 16], [7; 16]]).unwrap();
        state.config = Some(change::add(&base, &PEER).unwrap());
        state.peers = vec![PeerState {
            store: PEER,
            ..peer
        }];
        state
    }

    fn peer(link: Link, acked: Option<u64>) -> PeerState {
        PeerState {
            link,
            acked_epoch: acked,
            ..PeerState::default()
        }
    }

    #[test]
    fn flushes_wait_for_a_member_only_once_it_is_near() {
        let step = |peer| next(&state(peer), &PEER);
        for (link, acked) in [
            (Link::Absent, None),
            (Link::Greeting, Some(100)),
            (Link::Connected, None),
            (Link::Connected, Some(100 - LAG_MAX - 1)),
        ] {
            assert!(
                matches!(step(peer(link, acked)), Step::Wait(_)),
                "{link:?} {acked:?}"
            );
        }
        assert_eq!(step(peer(Link::Connected, Some(100 - LAG_MAX))), Step::Join);
        assert_eq!(step(peer(Link::Connected, Some(101))), Step::Join);
    }

    #[test]
    fn a_join_that_was_interrupted_goes_on_where_it_was() {
        let joining = PeerState {
            joining: true,
            ..peer(Link::Connected, Some(90))
        };
        assert!(matches!(
            next(&state(joining.clone()), &PEER),
            Step::Wait(_)
        ));
        let joinable = PeerState {
            joinable: Some(Position::ZERO),
            ..joining
        };
        let mut state = state(joinable);
        assert_eq!(next(&state, &PEER), Step::Commit(Position::ZERO));
        let base = change::Base::new(&state, [[8; 16], [9; 16]]).unwrap();
        state.config = Some(change::join(&base, &PEER, &Position::ZERO).unwrap());
        assert_eq!(next(&state, &PEER), Step::Done);
    }
}
