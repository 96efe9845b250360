// SPDX-License-Identifier: GPL-2.0

//! Blocks whose copy here is bad: peers are asked for them, one after the other, and are answered.
//!
//! An ASK belongs to a session and to its stream: what is out of date by its envelope is dropped, and
//! asked again. It changes nothing but who holds a good copy, so it is in no history. A block that
//! came is taken only if it is what was wanted; else the next peer is asked.

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
    state: ServeState,
}

/// What a peer was asked for in a session and has not answered.
#[derive(Debug, Default)]
pub(super) struct Asked {
    stream: u32,
    numbers: KVec<u64>,
}

/// What a store's part in a set has of this.
#[derive(Debug)]
pub(super) struct Asks {
    asks: KVec<Ask>,
    /// What became of those that ended. There is room for all of `asks`.
    answers: KVec<(u64, Option<Found>)>,
    /// What the store was asked to look for.
    looks: KVec<u64>,
}

impl Asks {
    pub(super) fn new() -> Self {
        Asks {
            asks: KVec::new(),
            answers: KVec::new(),
            looks: KVec::new(),
        }
    }

    fn answer(&mut self, at: usize, found: Option<Found>) {
        if let Ok(ask) = self.asks.remove(at) {
            let _ = self.answers.push_within_capacity((ask.number, found));
        }
    }
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
            Frame::Ask { number, wanted } => {
                // What belongs to an older stream is asked again.
                link.serves.retain(|s| s.stream == stream);
                if link.serves.len() >= SERVES_MAX {
                    mark!(replication_asked_too_much);
                    return Ok(None);
                }
                let serve = Serve {
                    stream,
                    number,
                    wanted,
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
            }
            return Self::outgoing(meta, blocks);
        }
        if self.answerer(at).is_none() || !self.is_streaming(at) {
            return Ok(None);
        }
        let (stream, now) = (envelope.stream, self.now);
        let due = |a: &&mut Ask| a.session == Some(nonce) && a.sent != Some(stream);
        let Some(ask) = self.asks.asks.iter_mut().find(due) else {
            return Ok(None);
        };
        let link = self.peers.get_mut(at).and_then(|p| p.link.as_mut());
        let Some(asked) = link.map(|l| &mut l.asked) else {
            return Ok(None);
        };
        if asked.stream != stream {
            asked.numbers.clear();
            asked.stream = stream;
        }
        if asked.numbers.len() >= SERVES_MAX {
            return Ok(None);
        }
        let frame = Frame::Ask {
            number: ask.number,
            wanted: ask.wanted,
        };
        let meta = encode(envelope, &frame, hash)?;
        asked.numbers.push(ask.number, GFP_KERNEL)?;
        if ask.sent.is_none() {
            ask.since = now;
        }
        ask.sent = Some(stream);
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
