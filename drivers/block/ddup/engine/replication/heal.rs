// SPDX-License-Identifier: GPL-2.0

//! Blocks whose copy here is bad: peers are asked for them, one after the other, and are answered.
//!
//! An ASK belongs to a session and to its stream: what is out of date by its envelope is dropped, and
//! asked again. It changes nothing but who holds a good copy, so it is in no history. A block that
//! came is taken only if it is what was wanted; else the next peer is asked.
//!
//! What nobody has a primary *misses*. It asks all peers for that once in each stream, with an ASK that
//! *stands*: a peer that has no good copy then remembers the block, and gives it when it finds one among
//! the junk that it is about to erase. So who misses what is known before junk is retired, and nobody
//! waits for an answer then.

use super::super::mark::mark;
use super::super::mutant::mutant;
use super::super::types::{BlockContent, NAME_BYTES};
use super::action::{Action, Block, Outgoing};
use super::set::Set;
use super::types::Id;
use super::wire::{encode, Envelope, Frame};
use kernel::prelude::*;

/// Blocks that a store wants at once.
pub const ASKS_MAX: usize = 32;
/// Blocks that may be asked for in a session and are not answered.
pub const SERVES_MAX: usize = 16;
/// Blocks that a store looks for at once, whoever asked.
pub const LOOKS_MAX: usize = 16;
/// Blocks that a store misses and tells its peers of, and that it remembers for each peer: the newest.
pub const MISSES_MAX: usize = 64;
/// Junk that a peer misses is kept for it for so long, in milliseconds.
const SPARED: u64 = 1000;
/// Sessions in which a block is asked for.
const TRIES_MAX: usize = 32;
/// A peer that has not answered for so long is not waited for if there is another, in milliseconds.
const PATIENCE: u64 = 1500;

/// A block, and what has to be in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// The volume.
    pub volume: Id,
    /// The block.
    pub lbn: u64,
    /// Check of its content.
    pub check: u64,
    /// Digest of its content; zeroes if that is not known.
    pub digest: [u8; NAME_BYTES],
}

impl Wanted {
    /// Whether a block that came has the content.
    fn is_met(&self, block: &BlockContent) -> bool {
        let named = self.digest == [0; NAME_BYTES] || self.digest == block.name.0;
        named && self.check == block.check.0 && !block.zero
    }
}

/// A block that came, and the digest of its content.
type Found = (u64, [u8; NAME_BYTES]);

/// A block that this store wants.
#[derive(Debug)]
struct Ask {
    number: u64,
    wanted: Wanted,
    /// The session in which it is asked for now.
    session: Option<u64>,
    /// The stream there in which ASK was sent.
    sent: Option<u32>,
    since: u64,
    /// Sessions in which it was or is asked for.
    tried: KVec<u64>,
}

/// How far a block is that a peer wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ServeState {
    Wanted,
    Asked(u64),
    Read(u64),
    Absent,
}

/// A block that a peer wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Serve {
    stream: u32,
    number: u64,
    wanted: Wanted,
    /// The peer wants it later, too.
    stands: bool,
    /// The peer did not ask again: it may be among the junk.
    again: bool,
    state: ServeState,
}

/// A block that a peer misses for all that is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Missed {
    stream: u32,
    number: u64,
    wanted: Wanted,
    /// It is among the junk, which is kept until then at the latest.
    until: Option<u64>,
}

/// What a peer was asked for in a session and has not answered.
#[derive(Debug, Default)]
pub(super) struct Asked {
    stream: u32,
    numbers: KVec<u64>,
    /// The last of the ASKs that stand of which the peer was told.
    stood: u64,
}

/// What a store's part in a set has of this.
#[derive(Debug)]
pub(super) struct Asks {
    asks: KVec<Ask>,
    /// What became of those that ended. There is room for all of `asks`.
    answers: KVec<(u64, Option<Found>)>,
    /// What the store was asked to look for.
    looks: KVec<u64>,
    /// What the store misses, by ascending numbers.
    misses: KVec<(u64, Wanted)>,
}

impl Asks {
    pub(super) fn new() -> Self {
        Asks {
            asks: KVec::new(),
            answers: KVec::new(),
            looks: KVec::new(),
            misses: KVec::new(),
        }
    }

    fn answer(&mut self, at: usize, found: Option<Found>) {
        if let Ok(ask) = self.asks.remove(at) {
            let _ = self.answers.push_within_capacity((ask.number, found));
        }
    }
}

/// A peer misses a block that it asked for. The oldest gives way.
fn remember(missed: &mut KVec<Missed>, serve: &Serve) {
    if missed.len() >= MISSES_MAX {
        let _ = missed.remove(0);
    }
    let miss = Missed {
        stream: serve.stream,
        number: serve.number,
        wanted: serve.wanted,
        until: None,
    };
    // Without memory it is not known.
    let _ = missed.push(miss, GFP_KERNEL);
}

impl Set {
    /// Wants a block, which ends in [`Action::Answer`] with its number. `EBUSY`: too many are wanted.
    pub fn ask(&mut self, number: u64, wanted: Wanted) -> Result {
        if self.asks.asks.len() >= ASKS_MAX {
            return Err(EBUSY);
        }
        let tried = KVec::with_capacity(TRIES_MAX, GFP_KERNEL)?;
        let room = self.asks.asks.len() + 1;
        self.asks.answers.reserve(room, GFP_KERNEL)?;
        let ask = Ask {
            number,
            wanted,
            session: None,
            sent: None,
            since: self.now,
            tried,
        };
        mark!(replication_asks);
        Ok(self.asks.asks.push(ask, GFP_KERNEL)?)
    }

    /// Nobody waits for a block any more.
    pub fn forget_ask(&mut self, number: u64) {
        self.asks.asks.retain(|a| a.number != number);
    }

    /// The store misses a block, which nobody has now: it may come at any time, once, with
    /// [`Action::Answer`]. Numbers ascend; there are at most [`MISSES_MAX`].
    pub fn miss(&mut self, number: u64, wanted: Wanted) -> Result {
        if self.asks.misses.len() >= MISSES_MAX {
            return Err(EBUSY);
        }
        mark!(replication_misses);
        Ok(self.asks.misses.push((number, wanted), GFP_KERNEL)?)
    }

    /// A block is not missed any more.
    pub fn forget_miss(&mut self, number: u64) {
        self.asks.misses.retain(|(n, _)| *n != number);
    }

    /// Whether a peer that is connected misses something.
    pub fn is_missed_any(&self) -> bool {
        let links = (0..self.peers.len()).filter_map(|at| self.link_at(at));
        links.into_iter().any(|link| !link.missed.is_empty())
    }

    /// Whether junk with this digest is to be kept now: a peer that is connected misses it, and is about
    /// to be given it. So it is once for each that does, and for a second at most.
    pub fn spares(&mut self, digest: &[u8; NAME_BYTES]) -> bool {
        let (now, mut spares) = (self.now, false);
        for at in 0..self.peers.len() {
            let stream = self.heal_stream(at);
            let Some(link) = self.link_mut(at) else {
                continue;
            };
            link.missed.retain(|m| Some(m.stream) == stream);
            let (serves, missed) = (&mut link.serves, &mut link.missed);
            let is_it = |m: &Missed| m.wanted.digest == *digest;
            let Some(i) = missed.iter().position(is_it) else {
                continue;
            };
            let Some(miss) = missed.get_mut(i) else {
                continue;
            };
            let again = |s: &Serve| s.again && s.number == miss.number;
            let waits = serves.iter().any(again);
            let serve = Serve {
                stream: miss.stream,
                number: miss.number,
                wanted: miss.wanted,
                stands: false,
                again: true,
                state: ServeState::Wanted,
            };
            match miss.until {
                None if serves.push(serve, GFP_KERNEL).is_ok() => {
                    mark!(replication_junk_is_missed);
                    miss.until = Some(now + SPARED);
                    spares = true;
                }
                Some(until) if waits && now < until || mutant!(324) => spares = true,
                _ => {
                    let _ = missed.remove(i);
                }
            }
        }
        spares
    }

    /// Whether there is a peer to ask.
    pub fn can_ask(&self) -> bool {
        !self.failed && (0..self.peers.len()).any(|at| self.answerer(at).is_some())
    }

    /// The session with a peer that may be asked as soon as there is a stream: a change of the
    /// configuration ends one and begins another.
    fn answerer(&self, at: usize) -> Option<u64> {
        let link = self.link_at(at)?;
        let heals = link.hello.as_ref().is_some_and(|h| h.heals);
        heals.then_some(link.nonce)
    }

    /// Who is asked next, other than in the sessions of `tried`.
    fn next_answerer(&self, tried: &[u64]) -> Option<u64> {
        (0..self.peers.len())
            .filter_map(|at| self.answerer(at))
            .find(|nonce| !tried.contains(nonce))
    }

    /// Looks who is to be asked for what is wanted, and ends what nobody has.
    fn look_asks(&mut self) {
        let mut i = 0;
        while let Some(ask) = self.asks.asks.get(i) {
            let here = |nonce: u64| {
                let answerers = (0..self.peers.len()).filter_map(|at| self.answerer(at));
                answerers.into_iter().any(|n| n == nonce)
            };
            let asked = ask.session.filter(|nonce| here(*nonce));
            let next = self.next_answerer(&ask.tried);
            let slow = self.now >= ask.since + PATIENCE;
            if asked.is_some() && !(slow && next.is_some()) {
                i += 1;
                continue;
            }
            let now = self.now;
            let room = ask.tried.len() < TRIES_MAX;
            let next = next.filter(|_| room);
            let Some(nonce) = next else {
                mark!(replication_nobody_has);
                self.asks.answer(i, None);
                continue;
            };
            if let Some(ask) = self.asks.asks.get_mut(i) {
                ask.session = Some(nonce);
                ask.sent = None;
                ask.since = now;
                let _ = ask.tried.push_within_capacity(nonce);
            }
            i += 1;
        }
    }

    /// What became of a block that was wanted.
    pub(super) fn poll_answer(&mut self) -> Option<Action> {
        if !self.asks.asks.is_empty() {
            self.look_asks();
        }
        let (number, found) = self.asks.answers.pop()?;
        Some(Action::Answer { number, found })
    }

    /// Takes what a peer asks or answers: true if its block was taken, `None` if no peer says that.
    pub(super) fn take_heal(
        &mut self,
        at: usize,
        stream: u32,
        frame: Frame,
        (first_block, blocks): (u64, &[BlockContent]),
    ) -> Result<Option<bool>> {
        let Some(link) = self.link_mut(at) else {
            return Ok(Some(false));
        };
        match frame {
            Frame::Ask {
                number,
                wanted,
                stands,
            } => {
                // What belongs to an older stream is asked again.
                link.serves.retain(|s| s.stream == stream);
                let asked = link.serves.iter().filter(|s| !s.again);
                if asked.count() >= SERVES_MAX {
                    mark!(replication_asked_too_much);
                    return Ok(None);
                }
                let serve = Serve {
                    stream,
                    number,
                    wanted,
                    stands,
                    again: false,
                    state: ServeState::Wanted,
                };
                link.serves.push(serve, GFP_KERNEL)?;
                Ok(Some(false))
            }
            Frame::Found(number) => {
                let nonce = link.nonce;
                link.asked.numbers.retain(|n| *n != number);
                let block = blocks.first().map(|b| (first_block, b));
                Ok(Some(self.take_found(nonce, number, block)))
            }
            Frame::Absent(number) => {
                let nonce = link.nonce;
                link.asked.numbers.retain(|n| *n != number);
                Ok(Some(self.take_found(nonce, number, None)))
            }
            _ => Ok(None),
        }
    }

    /// An answer came. True: its block was taken.
    fn take_found(&mut self, nonce: u64, number: u64, block: Option<(u64, &BlockContent)>) -> bool {
        let is_it = |a: &Ask| a.number == number && a.tried.contains(&nonce);
        let asks = &mut self.asks;
        if let Some((_, wanted)) = asks.misses.iter().find(|(n, _)| *n == number) {
            let met = block.filter(|(_, block)| wanted.is_met(block));
            let Some((handle, block)) = met else {
                return false;
            };
            let found = Some((handle, block.name.0));
            // There has to be room for those that are asked for, too.
            let room = asks.asks.len() + 1;
            let few = asks.answers.len() < MISSES_MAX;
            let taken = few && asks.answers.reserve(room, GFP_KERNEL).is_ok();
            if taken {
                mark!(replication_missed_is_found);
                let _ = asks.answers.push_within_capacity((number, found));
            }
            return taken;
        }
        let Some(i) = asks.asks.iter().position(is_it) else {
            mark!(replication_answer_in_vain);
            return false;
        };
        let Some(ask) = asks.asks.get_mut(i) else {
            return false;
        };
        if let Some((handle, block)) = block {
            if ask.wanted.is_met(block) || mutant!(95) {
                mark!(replication_found);
                asks.answer(i, Some((handle, block.name.0)));
                return true;
            }
            mark!(replication_found_something_else);
        }
        if ask.session == Some(nonce) {
            ask.session = None;
        }
        false
    }

    /// What the store is to look for.
    pub(super) fn poll_serves(&mut self) -> Option<Action> {
        if self.asks.looks.len() >= LOOKS_MAX {
            return None;
        }
        let token = self.token + 1;
        let links = self.peers.iter_mut().filter_map(|p| p.link.as_mut());
        let serve = links
            .flat_map(|l| l.serves.iter_mut())
            .find(|s| s.state == ServeState::Wanted)?;
        self.fetched.reserve(1, GFP_KERNEL).ok()?;
        self.asks.looks.push(token, GFP_KERNEL).ok()?;
        let _ = self.fetched.push_within_capacity((token, None));
        serve.state = ServeState::Asked(token);
        self.token = token;
        Some(Action::Look {
            token,
            wanted: serve.wanted,
        })
    }

    /// The store has looked for a block, if it was asked to under this token.
    pub(super) fn served(&mut self, token: u64, handle: Option<u64>) {
        self.asks.looks.retain(|t| *t != token);
        let links = self.peers.iter_mut().filter_map(|p| p.link.as_mut());
        for serve in links.flat_map(|l| l.serves.iter_mut()) {
            if serve.state == ServeState::Asked(token) {
                serve.state = handle.map_or(ServeState::Absent, ServeState::Read);
            }
        }
    }

    /// Blocks that were read and are still to be sent to who asked for them.
    pub(super) fn blocks_to_serve(&self) -> impl Iterator<Item = u64> + '_ {
        let links = (0..self.peers.len()).filter_map(|at| self.link_at(at));
        links.flat_map(|l| &l.serves).filter_map(|s| match s.state {
            ServeState::Read(handle) => Some(handle),
            _ => None,
        })
    }

    /// The next question or answer for a peer.
    pub(super) fn poll_heal(&mut self, at: usize, envelope: &Envelope) -> Result<Option<Outgoing>> {
        let hash = self.params.hash;
        let Some(link) = self.link_at(at) else {
            return Ok(None);
        };
        let nonce = link.nonce;
        let over = |s: &Serve| matches!(s.state, ServeState::Read(_) | ServeState::Absent);
        if let Some(i) = link.serves.iter().position(over) {
            let Some(serve) = link.serves.get(i).copied() else {
                return Ok(None);
            };
            let mut blocks = KVec::new();
            let frame = match serve.state {
                ServeState::Read(handle) => {
                    blocks.push(Block::Fetched(handle), GFP_KERNEL)?;
                    Frame::Found(serve.number)
                }
                _ => Frame::Absent(serve.number),
            };
            let envelope = Envelope {
                stream: serve.stream,
                ..*envelope
            };
            let meta = encode(&envelope, &frame, hash)?;
            if let ServeState::Read(handle) = serve.state {
                self.fetched.retain(|(_, h)| *h != Some(handle));
            }
            if let Some(link) = self.link_mut(at) {
                let _ = link.serves.remove(i);
                let absent = serve.state == ServeState::Absent;
                if absent && serve.stands && !mutant!(323) {
                    remember(&mut link.missed, &serve);
                }
            }
            return Self::outgoing(meta, blocks);
        }
        if self.answerer(at).is_none() || !self.is_streaming(at) {
            return Ok(None);
        }
        let (stream, now, leads) = (envelope.stream, self.now, self.leads());
        let Some(link) = self.peers.get_mut(at).and_then(|p| p.link.as_mut()) else {
            return Ok(None);
        };
        let tells = leads && link.hello.as_ref().is_some_and(|h| h.stands) && !mutant!(322);
        let asked = &mut link.asked;
        if asked.stream != stream {
            *asked = Asked {
                stream,
                ..Asked::default()
            };
        }
        if asked.numbers.len() >= SERVES_MAX {
            return Ok(None);
        }
        let due = |a: &&mut Ask| a.session == Some(nonce) && a.sent != Some(stream);
        let ask = self.asks.asks.iter_mut().find(due);
        let mut misses = self.asks.misses.iter().filter(|_| tells);
        let (number, wanted) = match &ask {
            Some(ask) => (ask.number, ask.wanted),
            None => match misses.find(|(number, _)| *number > asked.stood) {
                Some(miss) => *miss,
                None => return Ok(None),
            },
        };
        let frame = Frame::Ask {
            number,
            wanted,
            stands: ask.is_none(),
        };
        let meta = encode(envelope, &frame, hash)?;
        asked.numbers.push(number, GFP_KERNEL)?;
        match ask {
            Some(ask) => {
                if ask.sent.is_none() {
                    ask.since = now;
                }
                ask.sent = Some(stream);
            }
            None => asked.stood = number,
        }
        Self::outgoing(meta, KVec::new())
    }

    /// When a peer has had enough time to answer.
    pub(super) fn ask_deadline(&self) -> Option<u64> {
        let asks = self.asks.asks.iter();
        let due = asks.map(|a| a.since + PATIENCE).filter(|d| *d > self.now);
        due.min()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::types::{Check, Name};
    use super::*;

    #[test]
    fn of_what_a_peer_misses_the_newest_is_remembered() {
        let mut missed = KVec::new();
        let all = MISSES_MAX as u64 + 10;
        for number in 1..=all {
            let serve = Serve {
                stream: 1,
                number,
                wanted: Wanted::default(),
                stands: true,
                again: false,
                state: ServeState::Absent,
            };
            remember(&mut missed, &serve);
        }
        assert!(missed.iter().map(|m| m.number).eq(11..=all));
        assert!(missed.iter().all(|m| m.until.is_none()));
    }

    #[test]
    fn a_block_that_came_is_taken_only_if_it_is_what_was_wanted() {
        let wanted = Wanted {
            check: 7,
            digest: [3; NAME_BYTES],
            ..Wanted::default()
        };
        let nameless = Wanted {
            digest: [0; NAME_BYTES],
            ..wanted
        };
        let block = |name: u8, check: u64, zero: bool| BlockContent {
            name: Name([name; NAME_BYTES]),
            check: Check(check),
            zero,
        };
        assert!(wanted.is_met(&block(3, 7, false)));
        assert!(nameless.is_met(&block(4, 7, false)));
        for other in [block(4, 7, false), block(3, 8, false), block(3, 7, true)] {
            assert!(!wanted.is_met(&other));
        }
        for other in [block(3, 8, false), block(3, 7, true)] {
            assert!(!nameless.is_met(&other));
        }
    }
}
