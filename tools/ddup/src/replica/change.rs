// SPDX-License-Identifier: GPL-2.0

//! The next configuration, for each thing that a person may want: pure functions.
//!
//! What makes them safe without a log: who is primary by a new configuration takes no requests before
//! all members in sync have acknowledged its reign, each of which refuses a configuration that its own
//! is no ancestor of. So two persons who promote two stores at once end with none of them. Who is left
//! out of those in sync could go on by themselves, therefore each has stated that it was fenced, or a
//! person says that it is off, which the configuration carries on as *forced*.

use super::statement::{self, Statement};
use crate::{
    error::{Error, Exit, Result},
    family::{
        format_uuid,
        set::{member_state_name, Link, SetState},
    },
};
use ddup_engine::engine::replication::{
    config::{Config, Member, MemberState},
    types::{Id, Position, MEMBERS_MAX, NO_ID},
};
use kernel::prelude::GFP_KERNEL;

/// How far the version is ahead of a store's own if it is promoted by force: the primary that it was
/// cut off from may have made some meanwhile, and is to take this one in the end.
const FORCED_VERSIONS: u64 = 256;

/// What a configuration is made from.
#[derive(Clone, Copy, Debug)]
pub struct Base<'a> {
    /// What the store says that is to take it.
    pub state: &'a SetState,
    /// That store's configuration.
    pub config: &'a Config,
    /// Two random ids.
    pub fresh: [Id; 2],
}

/// A person's reasons to leave members out of those in sync.
#[derive(Clone, Copy, Debug, Default)]
pub struct Proof<'a> {
    /// What fenced stores have stated.
    pub statements: &'a [Statement],
    /// A person's word: who does not answer is off, or is never to go on.
    pub force: bool,
}

fn memory() -> Error {
    Error::new(Exit::Failed, "out of memory")
}

fn refused(words: impl Into<String>) -> Error {
    Error::new(Exit::Failed, words)
}

impl<'a> Base<'a> {
    /// From what the driver says, with two random ids.
    pub fn new(state: &'a SetState, fresh: [Id; 2]) -> Result<Self> {
        let config = state.config.as_ref().ok_or_else(|| {
            refused(
                "the driver sent no configuration: this tool and the module do not fit together",
            )
        })?;
        Ok(Self {
            state,
            config,
            fresh,
        })
    }

    fn promise(&self) -> u64 {
        self.state.promise.unwrap_or(0).max(self.config.term)
    }

    /// Other members in sync.
    fn others_in_sync(&self) -> Vec<Id> {
        let other = |m: &&Member| m.state == MemberState::InSync && m.store != self.state.store;
        self.config
            .members
            .iter()
            .filter(other)
            .map(|m| m.store)
            .collect()
    }

    fn is_connected(&self, store: &Id) -> bool {
        self.state
            .peer_state(store)
            .is_some_and(|peer| peer.link == Link::Connected)
    }

    /// The successor, with nothing changed but what a primary knows for sure.
    fn successor(&self) -> Result<Config> {
        let mut next = self.config.try_clone().map_err(|_| memory())?;
        next.version += 1;
        next.id = self.fresh[0];
        next.push_ancestor(self.config.id).map_err(|_| memory())?;
        // What all in sync have acknowledged is a floor below which nobody can come back as in sync.
        let floor = self.state.committed.filter(|_| self.state.rules());
        for member in &mut next.members {
            let own = member.store == self.state.store;
            if own || self.is_connected(&member.store) {
                member.confirmed = self.config.id;
            }
            if let (Some(floor), MemberState::InSync) = (floor, member.state) {
                if floor.epoch > member.floor.epoch {
                    member.floor = floor;
                }
            }
        }
        Ok(next)
    }

    /// The primary alone changes members: another store's configuration may be an old one.
    pub fn must_rule(&self) -> Result {
        if self.state.rules() {
            return Ok(());
        }
        Err(refused(format!(
            "it is not primary: do this on the machine of the primary, store {}, or promote this one",
            format_uuid(&self.config.primary)
        )))
    }
}

fn member<'c>(config: &'c mut Config, store: &Id) -> Result<&'c mut Member> {
    config
        .members
        .iter_mut()
        .find(|member| member.store == *store)
        .ok_or_else(|| {
            let words = format!("store {} is no member of the set", format_uuid(store));
            Error::new(Exit::NotFound, words)
        })
}

/// A new member, or one that was out: it follows, and nothing waits for it.
pub fn add(base: &Base<'_>, store: &Id) -> Result<Config> {
    base.must_rule()?;
    let mut next = base.successor()?;
    if let Ok(known) = member(&mut next, store) {
        if known.state != MemberState::Out {
            let words = format!(
                "store {} is a member already, {}",
                format_uuid(store),
                member_state_name(known.state)
            );
            return Err(Error::new(Exit::Busy, words));
        }
        known.state = MemberState::Async;
        return Ok(next);
    }
    if next.members.len() >= MEMBERS_MAX {
        return Err(refused(format!(
            "the set has {MEMBERS_MAX} members, and no room for more: remove one that is out"
        )));
    }
    let new = Member {
        store: *store,
        incarnation: 0,
        state: MemberState::Async,
        floor: Position::ZERO,
        confirmed: NO_ID,
    };
    next.members.push(new, GFP_KERNEL).map_err(|_| memory())?;
    Ok(next)
}

/// Without a member that nothing waits for.
pub fn remove(base: &Base<'_>, store: &Id) -> Result<Config> {
    base.must_rule()?;
    let mut next = base.successor()?;
    let state = member(&mut next, store)?.state;
    if *store == next.primary {
        return Err(refused(
            "it is the primary: demote it, and promote another member first",
        ));
    }
    if state == MemberState::InSync {
        return Err(Error::new(
            Exit::Busy,
            format!(
                "store {} is in sync: take it out of those in sync first, with `ddup peer shrink`",
                format_uuid(store)
            ),
        ));
    }
    next.members.retain(|member| member.store != *store);
    Ok(next)
}

/// With a member in sync that the primary says to be joinable.
pub fn join(base: &Base<'_>, store: &Id, floor: &Position) -> Result<Config> {
    base.must_rule()?;
    let mut next = base.successor()?;
    let joining = member(&mut next, store)?;
    joining.state = MemberState::InSync;
    joining.floor = *floor;
    Ok(next)
}

/// With a member in sync no more; it is `left` as asynchronous or out.
pub fn shrink(base: &Base<'_>, store: &Id, left: MemberState, proof: Proof<'_>) -> Result<Config> {
    base.must_rule()?;
    let mut next = base.successor()?;
    let promise = base.promise();
    let shrunk = member(&mut next, store)?;
    if *store == base.config.primary {
        return Err(refused("it is the primary: demote it instead"));
    }
    let from = shrunk.state;
    shrunk.state = left;
    if from == left {
        let words = format!(
            "store {} is {} already",
            format_uuid(store),
            member_state_name(left)
        );
        return Err(Error::new(Exit::Busy, words));
    }
    if from != MemberState::InSync {
        return Ok(next);
    }
    let (count, least) = (next.in_sync_count(), next.min_insync);
    if count < usize::from(least) {
        return Err(refused(format!(
            "{count} would be left in sync, the primary included, and FLUSHes wait while there are fewer \
             than {least}: `ddup set min-in-sync` changes that"
        )));
    }
    statement::check(proof.statements, &base.config.set, &[*store])?;
    match statement::find(proof.statements, store) {
        Some(statement) => {
            accept(base, statement, promise + 1)?;
            // It takes nothing of the term so far any more.
            next.term = statement.term;
            next.reign = base.fresh[1];
        }
        None if proof.force => next.forced |= 1,
        None => return Err(unproven(store, promise + 1)),
    }
    Ok(next)
}

/// With another number of members in sync below which FLUSHes wait.
pub fn min_insync(base: &Base<'_>, least: u16) -> Result<Config> {
    base.must_rule()?;
    let mut next = base.successor()?;
    let count = next.in_sync_count();
    if usize::from(least) > count {
        return Err(refused(format!(
            "{count} are in sync, the primary included, so every FLUSH would wait: let more members join \
             first, with `ddup peer join`"
        )));
    }
    next.min_insync = least;
    Ok(next)
}

/// With this store as primary.
pub fn promote(base: &Base<'_>, proof: Proof<'_>) -> Result<Config> {
    let own = base.state.store;
    if base.state.rules() {
        return Err(Error::new(Exit::Busy, "it is primary already"));
    }
    let mut next = base.successor()?;
    let term = base.promise() + 1;
    next.primary = own;
    next.reign = base.fresh[1];
    next.term = term;
    if proof.force {
        next.version += FORCED_VERSIONS;
        next.forced |= 1;
        // Who is forced has what it has: the others join before anybody counts on them.
        for member in &mut next.members {
            member.floor = Position::ZERO;
            member.state = match member.state {
                _ if member.store == own => MemberState::InSync,
                MemberState::Out => MemberState::Out,
                _ => MemberState::Async,
            };
        }
        member(&mut next, &own)?;
        return Ok(next);
    }
    if !base.config.is_in_sync(&own) {
        return Err(refused(format!(
            "it is not in sync, so it may lack what was acknowledged: promote a store that is, \
             or, if what it lacks may be lost, this one with --force; the primary was store {}",
            format_uuid(&base.config.primary)
        )));
    }
    let others = base.others_in_sync();
    statement::check(proof.statements, &base.config.set, &others)?;
    for store in &others {
        if let Some(statement) = statement::find(proof.statements, store) {
            accept(base, statement, term)?;
            next.term = next.term.max(statement.term);
            member(&mut next, store)?.state = MemberState::Async;
        } else if !may_answer(base, store) {
            return Err(unproven(store, term));
        }
    }
    Ok(next)
}

/// Whether a member is there to acknowledge a reign.
fn may_answer(base: &Base<'_>, store: &Id) -> bool {
    base.state
        .peer_state(store)
        .is_some_and(|peer| peer.link != Link::Absent)
}

/// Whether a statement proves that a store does not go on below `term`, and that it made no
/// configuration that this store does not know of.
fn accept(base: &Base<'_>, statement: &Statement, term: u64) -> Result {
    let store = format_uuid(&statement.store);
    if statement.term < term {
        return Err(refused(format!(
            "the statement of store {store} is for term {}, which is too low by now: \
             run `ddup fence --term {term}` there again",
            statement.term
        )));
    }
    let config = base.config;
    if !config.descends_from(&statement.config, &statement.store) {
        return Err(refused(format!(
            "store {store} has a configuration that this store does not know of, so this one may be \
             out of sync by now: connect the two, or promote that one"
        )));
    }
    Ok(())
}

fn unproven(store: &Id, term: u64) -> Error {
    refused(format!(
        "store {} is in sync and not connected: if its machine runs, run `ddup fence --term {term} \
         DEVICE` there and give what it prints with --fenced; if you are sure that it is off and \
         will not be used on its own, --force",
        format_uuid(store)
    ))
}

/// A configuration for a store that is made as the first of a new set.
pub fn first(set: Id, store: Id, fresh: [Id; 2]) -> Result<Config> {
    let mut config = Config {
        set,
        version: 1,
        id: fresh[0],
        term: 1,
        reign: fresh[1],
        primary: store,
        forced: 0,
        min_insync: 1,
        ancestors: kernel::prelude::KVec::new(),
        members: kernel::prelude::KVec::new(),
    };
    let own = Member {
        store,
        incarnation: 0,
        state: MemberState::InSync,
        floor: Position::ZERO,
        confirmed: NO_ID,
    };
    config.members.push(own, GFP_KERNEL).map_err(|_| memory())?;
    Ok(config)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::family::set::{PeerState, Role};
    use ddup_engine::engine::replication::{
        config::{refusal, Refusal, Taker},
        history::History,
    };

    fn store(n: u8) -> Id {
        [n; 16]
    }

    /// Members 1 to `count`, all in sync, 1 is primary.
    pub fn config(count: u8) -> Config {
        let mut config = first(store(0x5e), store(1), [store(0xc1), store(0xe1)]).unwrap();
        for n in 2..=count {
            let new = Member {
                store: store(n),
                ..config.members[0]
            };
            config.members.push(new, GFP_KERNEL).unwrap();
        }
        config
    }

    fn state(own: u8, config: Config, links: &[(u8, Link)]) -> SetState {
        let rules = config.primary == store(own);
        SetState {
            store: store(own),
            set: config.set,
            role: Some(if rules { Role::Primary } else { Role::Replica }),
            promise: Some(config.term),
            version: Some(config.version),
            peers: links
                .iter()
                .map(|(n, link)| PeerState {
                    store: store(*n),
                    link: *link,
                    ..PeerState::default()
                })
                .collect(),
            config: Some(config),
            ..SetState::default()
        }
    }

    fn base(state: &SetState) -> Base<'_> {
        Base::new(state, [store(0xc2), store(0xe2)]).unwrap()
    }

    /// What the engine says to it as the next configuration of `taker`.
    fn taken(taker: &SetState, new: &Config) -> Option<Refusal> {
        assert!(new.is_sound());
        let history = History::new().unwrap();
        let taker = Taker {
            store: &taker.store,
            incarnation: 1,
            config: taker.config.as_ref().unwrap(),
            promise: taker.promise.unwrap(),
            history: &history,
            commanded: true,
        };
        refusal(taker, new, new.forced & 1 != 0)
    }

    fn state_of(config: &Config, n: u8) -> Option<MemberState> {
        config.member(&store(n)).map(|member| member.state)
    }

    fn statement(n: u8, term: u64, config: Id) -> Statement {
        Statement {
            set: store(0x5e),
            store: store(n),
            term,
            config,
            position: Position::ZERO,
        }
    }

    #[test]
    fn a_new_member_follows_and_takes_the_configuration_from_its_invitation_on() {
        let primary = state(1, config(1), &[]);
        let next = add(&base(&primary), &store(2)).unwrap();
        assert_eq!(taken(&primary, &next), None);
        assert_eq!(state_of(&next, 2), Some(MemberState::Async));
        // The new store begins with the configuration before, which does not name it.
        let invited = state(2, config(1), &[]);
        assert_eq!(taken(&invited, &next), None);
        let again = state(1, next, &[]);
        assert_eq!(add(&base(&again), &store(2)).unwrap_err().exit, Exit::Busy);
    }

    #[test]
    fn members_are_changed_on_the_primary_alone() {
        let replica = state(2, config(2), &[(1, Link::Greeting)]);
        let base = base(&replica);
        for result in [
            add(&base, &store(3)),
            remove(&base, &store(1)),
            join(&base, &store(1), &Position::ZERO),
            shrink(&base, &store(1), MemberState::Async, Proof::default()),
        ] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("not primary"), "{error}");
            assert!(error.contains(&format_uuid(&store(1))), "{error}");
        }
    }

    #[test]
    fn who_is_in_sync_is_neither_removed_nor_left_out_without_proof() {
        let primary = state(1, config(2), &[(2, Link::Absent)]);
        let base = base(&primary);
        assert!(remove(&base, &store(2)).is_err());
        assert!(remove(&base, &store(1)).is_err());
        assert_eq!(remove(&base, &store(9)).unwrap_err().exit, Exit::NotFound);
        let error = shrink(&base, &store(2), MemberState::Async, Proof::default()).unwrap_err();
        assert!(error.to_string().contains("--fenced"), "{error}");
        assert!(error.to_string().contains("--term 2"), "{error}");
        let forced = Proof {
            force: true,
            ..Proof::default()
        };
        let next = shrink(&base, &store(2), MemberState::Out, forced).unwrap();
        assert_eq!(state_of(&next, 2), Some(MemberState::Out));
        assert_eq!((next.forced, next.term), (1, 1));
        assert_eq!(taken(&primary, &next), None);
        // The member stays until a person removes it.
        let shrunk = state(1, next, &[]);
        let base = self::base(&shrunk);
        assert_eq!(remove(&base, &store(2)).unwrap().members.len(), 1);
        // The word that was given stays with the ancestor.
        assert_eq!(add(&base, &store(2)).unwrap().forced, 2);
    }

    #[test]
    fn flushes_are_not_made_to_wait_for_ever_by_a_number() {
        let primary = state(1, config(2), &[]);
        for least in [1, 2] {
            let next = min_insync(&base(&primary), least).unwrap();
            assert_eq!((next.min_insync, taken(&primary, &next)), (least, None));
        }
        let error = min_insync(&base(&primary), 3).unwrap_err().to_string();
        assert!(error.contains("2 are in sync"), "{error}");
        let two = min_insync(&base(&primary), 2).unwrap();
        let forced = Proof {
            force: true,
            ..Proof::default()
        };
        let primary = state(1, two, &[]);
        let error = shrink(&base(&primary), &store(2), MemberState::Async, forced).unwrap_err();
        assert!(error.to_string().contains("min-in-sync"), "{error}");
    }

    #[test]
    fn who_was_fenced_is_left_out_by_a_new_reign() {
        let primary = state(1, config(2), &[]);
        let base = base(&primary);
        let shrink = |statement: Statement| {
            let proof = Proof {
                statements: &[statement],
                force: false,
            };
            shrink(&base, &store(2), MemberState::Async, proof)
        };
        let next = shrink(statement(2, 5, store(0xc1))).unwrap();
        assert_eq!((next.term, next.forced), (5, 0));
        assert_ne!(next.reign, base.config.reign);
        assert_eq!(taken(&primary, &next), None);
        for wrong in [
            statement(2, 1, store(0xc1)),
            statement(2, 5, store(0xcf)),
            statement(3, 5, store(0xc1)),
            Statement {
                set: store(1),
                ..statement(2, 5, store(0xc1))
            },
        ] {
            assert!(shrink(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn who_joins_has_what_the_primary_said_as_floor_and_floors_never_fall() {
        let mut primary = state(1, config(1), &[]);
        primary.config = Some(add(&base(&primary), &store(2)).unwrap());
        let at = |epoch| Position {
            term: 1,
            reign: store(0xe1),
            epoch,
            chain: epoch,
        };
        primary.committed = Some(at(40));
        primary.peers = vec![PeerState {
            store: store(2),
            link: Link::Connected,
            ..PeerState::default()
        }];
        let next = join(&base(&primary), &store(2), &at(38)).unwrap();
        assert_eq!(state_of(&next, 2), Some(MemberState::InSync));
        assert_eq!(next.members[1].floor, at(38));
        assert_eq!(next.members[1].confirmed, next.ancestors[0]);
        assert_eq!(next.members[0].floor, at(40));
        primary.config = Some(next);
        primary.committed = Some(at(39));
        let next = shrink(
            &base(&primary),
            &store(2),
            MemberState::Async,
            Proof {
                force: true,
                ..Proof::default()
            },
        )
        .unwrap();
        assert_eq!(next.members[0].floor, at(40));
    }

    #[test]
    fn a_store_in_sync_is_promoted_by_those_who_are_there() {
        let replica = state(2, config(3), &[(1, Link::Greeting), (3, Link::Greeting)]);
        let next = promote(&base(&replica), Proof::default()).unwrap();
        assert_eq!((next.primary, next.term, next.forced), (store(2), 2, 0));
        assert_eq!(next.in_sync_count(), 3);
        assert_eq!(taken(&replica, &next), None);
        let primary = state(1, config(3), &[]);
        assert_eq!(taken(&primary, &next), None);
        assert_eq!(
            promote(&base(&primary), Proof::default()).unwrap_err().exit,
            Exit::Busy
        );
    }

    #[test]
    fn who_is_not_there_is_left_out_of_a_promotion_by_statement_or_force_alone() {
        let replica = state(2, config(3), &[(1, Link::Absent), (3, Link::Greeting)]);
        let base = base(&replica);
        let error = promote(&base, Proof::default()).unwrap_err().to_string();
        assert!(error.contains(&format_uuid(&store(1))), "{error}");
        assert!(error.contains("--force"), "{error}");
        let by = |statements: &[Statement]| {
            let proof = Proof {
                statements,
                force: false,
            };
            promote(&base, proof)
        };
        let next = by(&[statement(1, 4, store(0xc1))]).unwrap();
        assert_eq!((next.term, next.forced, next.in_sync_count()), (4, 0, 2));
        assert_eq!(state_of(&next, 1), Some(MemberState::Async));
        assert_eq!(taken(&replica, &next), None);
        // Too low a term: it may have come to reign again since. An unknown configuration: it may
        // have left this store out.
        assert!(by(&[statement(1, 1, store(0xc1))]).is_err());
        assert!(by(&[statement(1, 4, store(0xcf))]).is_err());

        let forced = Proof {
            force: true,
            ..Proof::default()
        };
        let next = promote(&base, forced).unwrap();
        assert_eq!((next.in_sync_count(), next.forced, next.term), (1, 1, 2));
        assert!(next.version > base.config.version + 1);
        assert_eq!(taken(&replica, &next), None);
    }

    #[test]
    fn who_is_not_in_sync_is_promoted_by_force_alone() {
        let mut set = config(2);
        set.members[1].state = MemberState::Async;
        let replica = state(2, set, &[(1, Link::Greeting)]);
        let error = promote(&base(&replica), Proof::default()).unwrap_err();
        assert!(error.to_string().contains("not in sync"), "{error}");
        let forced = Proof {
            force: true,
            ..Proof::default()
        };
        let next = promote(&base(&replica), forced).unwrap();
        assert_eq!(taken(&replica, &next), None);
        assert_eq!(state_of(&next, 2), Some(MemberState::InSync));
        assert_eq!(state_of(&next, 1), Some(MemberState::Async));
        // A store that no configuration names yet is none that can be promoted.
        let stranger = state(9, config(1), &[]);
        let error = promote(&base(&stranger), forced).unwrap_err();
        assert!(error.to_string().contains("no member"), "{error}");
    }
}
