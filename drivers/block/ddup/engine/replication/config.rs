// SPDX-License-Identifier: GPL-2.0

//! The configuration of a replica set: who is primary, who is in sync, and what it descends from.
//!
//! Configurations are made outside (D8), by compare-and-set on the version; here is what a store
//! refuses to take. Clauses are those of the contract in the protocol document.

use super::super::mutant::mutant;
use super::codec::{copy, put, put_id, put_position, put_uint, Reader};
use super::history::History;
use super::types::{Id, Position, ANCESTORS_MAX, MEMBERS_MAX, NO_ID};
use kernel::prelude::*;

/// Bytes of the longest encoding.
pub const CONFIG_BYTES_MAX: usize = 96 + 16 * ANCESTORS_MAX + MEMBER_BYTES * MEMBERS_MAX;
const MEMBER_BYTES: usize = 88;

/// What a member is in a configuration. Numbers are on disk and wire: preserve them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum MemberState {
    /// Each FLUSH waits for it.
    InSync = 1,
    /// It follows, and nothing waits for it.
    Async = 2,
    /// It gets nothing; kept so that the set is not taken for one without others.
    Out = 3,
}

/// One store of a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// The store.
    pub store: Id,
    /// The lowest incarnation that may speak for it.
    pub incarnation: u64,
    /// What it is.
    pub state: MemberState,
    /// A position that it is known to have held; raised by the authority alone.
    pub floor: Position,
    /// The configuration that it was last known to hold; counts as an ancestor.
    pub confirmed: Id,
}

/// A configuration (clause 1).
#[derive(Debug)]
pub struct Config {
    /// The set.
    pub set: Id,
    /// Rises with each configuration.
    pub version: u64,
    /// Random.
    pub id: Id,
    /// The primary's term.
    pub term: u64,
    /// The primary's reign, random.
    pub reign: Id,
    /// The primary's store.
    pub primary: Id,
    /// Bit 0: for this one a check was overridden, or a person's word took the place of a majority
    /// or of the peer's answer to FENCE. Bit `n + 1`: for ancestor `n`.
    pub forced: u64,
    /// FLUSHes wait while fewer members than this are in sync, the primary included.
    pub min_insync: u16,
    /// Ids of those before, newest first.
    pub ancestors: KVec<Id>,
    /// The stores.
    pub members: KVec<Member>,
}

/// Why a configuration or command is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The configuration in force is another one than expected, or the version has other bytes.
    Conflict,
    /// The version does not rise.
    Version,
    /// The term falls, or is below the promise.
    Term,
    /// The same term with another reign or primary, or a new one without a new reign.
    Reign,
    /// The configuration in force is none of its ancestors.
    Ancestry,
    /// It makes this store primary, which was not in sync.
    NotInSync,
    /// It does not name this store, or names a younger incarnation of it.
    NotMember,
    /// It names another set.
    OtherSet,
    /// This store's history does not contain its floor.
    Floor,
    /// A promise or configuration is being made durable; try again.
    Busy,
    /// Only a primary can do this.
    NotPrimary,
    /// There is no such peer, or no connection to it.
    NoPeer,
    /// It failed; what it should have made durable may not be.
    Failed,
    /// There is no session with the peer in which this store's entries flow to it.
    NotConnected,
    /// The peer does not know how.
    PeerTooOld,
    /// The peer is being compared in full.
    Comparing,
    /// A verify goes on.
    Verifying,
    /// None does.
    NoVerify,
    /// Not enough memory.
    Memory,
}

impl Config {
    /// The member that is `store`.
    pub fn member(&self, store: &Id) -> Option<&Member> {
        self.members.iter().find(|m| m.store == *store)
    }

    /// Whether `store` is the only member, which leads without anybody's command. A store made from
    /// an invitation knows the configuration that it was invited with, which may have one member too.
    pub fn is_sole(&self, store: &Id) -> bool {
        self.members.len() == 1 && self.primary == *store
    }

    /// Whether FLUSHes wait for `store`.
    pub fn is_in_sync(&self, store: &Id) -> bool {
        self.member(store)
            .is_some_and(|m| m.state == MemberState::InSync)
    }

    /// Members in sync, the primary included.
    pub fn in_sync_count(&self) -> usize {
        let in_sync = |m: &&Member| m.state == MemberState::InSync;
        self.members.iter().filter(in_sync).count()
    }

    /// Whether this is `other` or made from it; `store` held `other`.
    pub fn descends_from(&self, other: &Id, store: &Id) -> bool {
        let confirmed = || self.member(store).is_some_and(|m| m.confirmed == *other);
        self.id == *other || self.ancestors.iter().any(|a| a == other) || confirmed()
    }

    /// Whether a check was overridden on the way from `other`, which this descends from.
    pub fn is_forced_since(&self, other: &Id) -> bool {
        if self.id == *other {
            return false;
        }
        match self.ancestors.iter().position(|a| a == other) {
            // Bit 0 is this configuration, bits 1 to `n` those between.
            Some(n) => self.forced & (u64::MAX >> (63 - n.min(63))) != 0,
            None => true,
        }
    }

    /// Whether an authority makes such a configuration.
    pub fn is_sound(&self) -> bool {
        let unique = |m: &Member| self.members.iter().filter(|o| o.store == m.store).count() == 1;
        let known = [self.set, self.id, self.primary, self.reign]
            .iter()
            .all(|id| *id != NO_ID);
        known
            && self.term > 0
            && self.version > 0
            && self.version < u64::MAX / 2
            && self.term < u64::MAX / 2
            && self.min_insync > 0
            && self.members.len() <= MEMBERS_MAX
            && self.ancestors.len() <= ANCESTORS_MAX
            && self.members.iter().all(|m| m.store != NO_ID && unique(m))
            && self.is_in_sync(&self.primary)
            && !self.ancestors.iter().any(|a| *a == self.id || *a == NO_ID)
            && self.forced & !(u64::MAX >> (63 - self.ancestors.len())) == 0
    }

    /// A copy.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Config {
            ancestors: copy(&self.ancestors)?,
            members: copy(&self.members)?,
            ..*self
        })
    }

    /// Appends the encoding.
    pub fn write(&self, out: &mut KVec<u8>) -> Result {
        put_id(out, &self.set)?;
        put_uint::<8>(out, self.version)?;
        put_id(out, &self.id)?;
        put_uint::<8>(out, self.term)?;
        put_id(out, &self.reign)?;
        put_id(out, &self.primary)?;
        put_uint::<8>(out, self.forced)?;
        put_uint::<2>(out, self.min_insync.into())?;
        put_uint::<1>(out, self.ancestors.len() as u64)?;
        put_uint::<1>(out, self.members.len() as u64)?;
        put(out, &[0; 4])?;
        for ancestor in &self.ancestors {
            put_id(out, ancestor)?;
        }
        for member in &self.members {
            put_id(out, &member.store)?;
            put_uint::<8>(out, member.incarnation)?;
            put_uint::<1>(out, member.state as u64)?;
            put(out, &[0; 7])?;
            put_position(out, &member.floor)?;
            put_id(out, &member.confirmed)?;
        }
        Ok(())
    }

    /// Reads what [`Config::write`] wrote; `Ok(None)` if that is no sound configuration.
    pub fn read(reader: &mut Reader<'_>) -> Result<Option<Self>> {
        let Some((mut config, ancestors, members)) = Self::read_head(reader) else {
            return Ok(None);
        };
        config.ancestors.reserve(ancestors, GFP_KERNEL)?;
        config.members.reserve(members, GFP_KERNEL)?;
        let rest = (|| {
            for _ in 0..ancestors {
                config
                    .ancestors
                    .push_within_capacity(reader.array()?)
                    .ok()?;
            }
            for _ in 0..members {
                let member = Self::read_member(reader)?;
                config.members.push_within_capacity(member).ok()?;
            }
            Some(())
        })();
        Ok((rest.is_some() && config.is_sound()).then_some(config))
    }

    fn read_head(reader: &mut Reader<'_>) -> Option<(Self, usize, usize)> {
        let config = Config {
            set: reader.array()?,
            version: reader.uint::<8>()?,
            id: reader.array()?,
            term: reader.uint::<8>()?,
            reign: reader.array()?,
            primary: reader.array()?,
            forced: reader.uint::<8>()?,
            min_insync: reader.uint::<2>()? as u16,
            ancestors: KVec::new(),
            members: KVec::new(),
        };
        let ancestors = reader.uint::<1>()? as usize;
        let members = reader.uint::<1>()? as usize;
        reader.zeroes::<4>()?;
        let fits = ancestors <= ANCESTORS_MAX && members <= MEMBERS_MAX;
        fits.then_some((config, ancestors, members))
    }

    fn read_member(reader: &mut Reader<'_>) -> Option<Member> {
        let (store, incarnation) = (reader.array()?, reader.uint::<8>()?);
        let state = match reader.uint::<1>()? {
            1 => MemberState::InSync,
            2 => MemberState::Async,
            3 => MemberState::Out,
            _ => return None,
        };
        reader.zeroes::<7>()?;
        Some(Member {
            store,
            incarnation,
            state,
            floor: reader.position()?,
            confirmed: reader.array()?,
        })
    }

    /// The encoding, to compare by.
    pub fn bytes(&self) -> Result<KVec<u8>> {
        let mut out = KVec::with_capacity(CONFIG_BYTES_MAX, GFP_KERNEL)?;
        self.write(&mut out)?;
        Ok(out)
    }
}

/// Who is asked to take a configuration.
#[derive(Clone, Copy, Debug)]
pub struct Taker<'a> {
    /// The store.
    pub store: &'a Id,
    /// Its incarnation.
    pub incarnation: u64,
    /// The configuration in force.
    pub config: &'a Config,
    /// The promised term.
    pub promise: u64,
    /// Its durable history.
    pub history: &'a History,
    /// The authority says so itself, and not a peer.
    pub commanded: bool,
}

/// Why `taker` refuses `new` as the next configuration (clauses 3, 5, 7), if it does. Nothing but
/// ancestry and having been in sync can be overridden by `force`.
pub fn refusal(taker: Taker<'_>, new: &Config, force: bool) -> Option<Refusal> {
    let old = taker.config;
    if new.set != old.set {
        return Some(Refusal::OtherSet);
    }
    if new.version <= old.version {
        return Some(Refusal::Version);
    }
    let starts = new.primary == *taker.store && new.term > old.term;
    // Below its promise a store may learn from the authority what was decided, for it may have to
    // know that it is in sync; it stays fenced and begins no reign.
    let below = new.term < taker.promise && (starts || !taker.commanded) && !mutant!(107);
    if new.term < old.term || below {
        return Some(Refusal::Term);
    }
    let same_rule = new.reign == old.reign && new.primary == old.primary;
    if (new.term == old.term && !same_rule) || (new.term > old.term && new.reign == old.reign) {
        return Some(Refusal::Reign);
    }
    let mine = match new.member(taker.store) {
        Some(member) => member,
        None if mutant!(110) => return None,
        None => return Some(Refusal::NotMember),
    };
    if mine.incarnation > taker.incarnation {
        return Some(Refusal::NotMember);
    }
    if !new.descends_from(&old.id, taker.store) && !force && !mutant!(108) {
        return Some(Refusal::Ancestry);
    }
    if starts && !old.is_in_sync(taker.store) && !force && !mutant!(109) {
        return Some(Refusal::NotInSync);
    }
    // Who is forced has what it has: the others join before anybody counts on them.
    if starts && new.forced & 1 != 0 && new.in_sync_count() > 1 {
        return Some(Refusal::NotInSync);
    }
    let lacks = !taker.history.reaches(&mine.floor) && mine.state == MemberState::InSync;
    if lacks && !mutant!(111) {
        return Some(Refusal::Floor);
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A configuration of stores 1 to `members`, all in sync, the first one primary.
    pub fn config(members: u8) -> Config {
        let mut config = Config {
            set: [9; 16],
            version: 1,
            id: [0x41; 16],
            term: 1,
            reign: [0x51; 16],
            primary: [1; 16],
            forced: 0,
            min_insync: 1,
            ancestors: KVec::new(),
            members: KVec::new(),
        };
        for n in 1..=members {
            let member = Member {
                store: [n; 16],
                incarnation: 1,
                state: MemberState::InSync,
                floor: Position::ZERO,
                confirmed: NO_ID,
            };
            config.members.push(member, GFP_KERNEL).unwrap();
        }
        config
    }

    /// The next one, unchanged but for version, id and ancestry.
    pub fn next(old: &Config) -> Config {
        let mut new = old.try_clone().unwrap();
        new.version += 1;
        new.id = [0x41 + new.version as u8; 16];
        new.ancestors.reserve(1, GFP_KERNEL).unwrap();
        new.ancestors.insert_within_capacity(0, old.id).unwrap();
        new.ancestors.truncate(ANCESTORS_MAX);
        new.forced = (old.forced << 1) & (u64::MAX >> (63 - new.ancestors.len()));
        new
    }

    fn asked(old: &Config, new: &Config, store: u8, promise: u64, force: bool) -> Option<Refusal> {
        let history = History::new().unwrap();
        let taker = Taker {
            store: &[store; 16],
            incarnation: 3,
            config: old,
            promise,
            history: &history,
            commanded: true,
        };
        refusal(taker, new, force)
    }

    #[test]
    fn a_configuration_comes_back_from_its_bytes() {
        let mut config = next(&next(&config(MEMBERS_MAX as u8)));
        config.members[3].state = MemberState::Out;
        config.members[2].floor.epoch = 77;
        config.forced = 5;
        let bytes = config.bytes().unwrap();
        let mut reader = Reader::new(&bytes);
        let again = Config::read(&mut reader).unwrap().unwrap();
        assert!(reader.end().is_some());
        assert_eq!(again.bytes().unwrap()[..], bytes[..]);
        for cut in 0..bytes.len() {
            assert!(Config::read(&mut Reader::new(&bytes[..cut]))
                .unwrap()
                .is_none());
        }
    }

    #[test]
    fn what_the_contract_forbids_is_refused() {
        let old = config(3);
        let good = next(&old);
        assert_eq!(asked(&old, &good, 1, 1, false), None);
        // Below the promise only a reign is refused.
        assert_eq!(asked(&old, &good, 1, 2, false), None);
        let mut reign = next(&old);
        (reign.primary, reign.term, reign.reign) = ([2; 16], 2, [0x52; 16]);
        assert_eq!(asked(&old, &reign, 2, 2, false), None);
        assert_eq!(asked(&old, &reign, 2, 3, true), Some(Refusal::Term));
        assert_eq!(asked(&old, &reign, 1, 3, false), None);
        assert_eq!(asked(&good, &old, 1, 1, true), Some(Refusal::Version));
        assert_eq!(asked(&old, &good, 4, 1, true), Some(Refusal::NotMember));

        let mut other_reign = next(&old);
        other_reign.reign = [0x77; 16];
        assert_eq!(asked(&old, &other_reign, 1, 1, true), Some(Refusal::Reign));
        other_reign.term = 2;
        assert_eq!(asked(&old, &other_reign, 1, 1, false), None);
        other_reign.reign = old.reign;
        assert_eq!(asked(&old, &other_reign, 1, 1, true), Some(Refusal::Reign));

        let mut stranger = next(&old);
        stranger.ancestors.clear();
        assert_eq!(asked(&old, &stranger, 1, 1, false), Some(Refusal::Ancestry));
        assert_eq!(asked(&old, &stranger, 1, 1, true), None);
        stranger.members[0].confirmed = old.id;
        assert_eq!(asked(&old, &stranger, 1, 1, false), None);
        assert_eq!(asked(&old, &stranger, 2, 1, false), Some(Refusal::Ancestry));

        let mut behind = config(3);
        behind.members[1].state = MemberState::Async;
        let mut promoted = next(&behind);
        (promoted.primary, promoted.term, promoted.reign) = ([2; 16], 2, [0x52; 16]);
        promoted.members[1].state = MemberState::InSync;
        assert_eq!(
            asked(&behind, &promoted, 2, 1, false),
            Some(Refusal::NotInSync)
        );
        assert_eq!(asked(&behind, &promoted, 2, 1, true), None);
        assert_eq!(asked(&behind, &promoted, 1, 1, false), None);

        let mut lost = next(&old);
        lost.members[0].floor.epoch = 5;
        assert_eq!(asked(&old, &lost, 1, 1, true), Some(Refusal::Floor));
        assert_eq!(asked(&old, &lost, 2, 1, false), None);
        lost.members[1].incarnation = 4;
        assert_eq!(asked(&old, &lost, 2, 1, false), Some(Refusal::NotMember));
    }

    #[test]
    fn force_is_seen_from_before_it_and_not_from_behind() {
        let first = config(2);
        let mut second = next(&first);
        second.forced |= 1;
        let third = next(&second);
        let fourth = next(&third);
        assert!(fourth.is_sound());
        assert!(fourth.is_forced_since(&first.id));
        assert!(!fourth.is_forced_since(&second.id));
        assert!(!fourth.is_forced_since(&third.id));
        assert!(second.is_forced_since(&first.id));
        assert!(fourth.is_forced_since(&[0x99; 16]));
    }
}
