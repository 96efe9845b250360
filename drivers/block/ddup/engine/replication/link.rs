// SPDX-License-Identifier: GPL-2.0

//! Peers and their sessions: HELLO and what follows from it (clauses 10 and 11), keep-alives, and
//! which frames count.

use super::super::mark::mark;
use super::super::mutant::mutant;
use super::super::types::{BlockContent, CLUSTER_SIZE};
use super::action::{Action, Block, Event, Outgoing};
use super::change::Change;
use super::config::{MemberState, Refusal};
use super::heal::{Asked, Missed, Serve};
use super::pace::Backoff;
use super::receiver::Receiver;
use super::resume::Parked;
use super::sender::{Sender, Takes};
use super::set::Set;
use super::types::{Id, Position};
use super::wire::{decode, encode, Envelope, Frame, Hello};
use kernel::prelude::*;

/// Another store of the set.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) store: Id,
    pub(super) link: Option<Link>,
    pub(super) joining: Option<Joining>,
    /// The newest position that it acknowledged to this reign.
    best: Position,
    /// Full compares that were lost, in whichever session.
    pub(super) compares: Backoff,
    /// The state that it goes on with in its next session.
    pub(super) parked: Option<Parked>,
}

/// FLUSHes wait for a peer that is not in sync yet (clause 8).
#[derive(Clone, Copy, Debug)]
pub(super) struct Joining {
    /// It is joinable once it has this epoch.
    pub(super) epoch: u64,
    /// It was said to be: it may be in sync by now for all that is known here.
    pub(super) joinable: Option<Position>,
}

/// A session.
#[derive(Debug)]
pub(super) struct Link {
    /// Tells it from others; both ends have the same.
    pub(super) nonce: u64,
    /// The shell is to close it.
    closing: bool,
    /// HELLOs that were sent.
    serial: u32,
    hello_due: bool,
    /// The last HELLO of the peer.
    pub(super) hello: Option<KBox<Hello>>,
    /// The HELLO or the own state changed: look what follows.
    due: bool,
    /// The peer rules in the configuration in force, and nothing forbids to follow it.
    follows: bool,
    /// The peer gets what is written here.
    pub(super) sender: Option<Sender>,
    /// Blocks that hold data of which the peer was told.
    pub(super) told: u64,
    /// Epochs that it got merged with others.
    pub(super) merged: u64,
    /// A verify of which the peer is to hear that its state is not kept any more.
    pub(super) thawed: Option<u64>,
    /// Blocks that the peer asks for.
    pub(super) serves: KVec<Serve>,
    /// Blocks that the peer asked for and that are not here.
    pub(super) missed: KVec<Missed>,
    /// Blocks that the peer was asked for.
    pub(super) asked: Asked,
    ack_due: bool,
    ping: Option<u64>,
    ping_due: bool,
    pong: Option<u64>,
    pub(super) heard_at: u64,
    pub(super) asked_at: u64,
}

impl Peer {
    pub(super) fn new(store: Id) -> Self {
        Peer {
            store,
            link: None,
            joining: None,
            best: Position::ZERO,
            compares: Backoff::default(),
            parked: None,
        }
    }
}

/// What a HELLO means to its receiver.
enum Relation {
    /// Both hold the same configuration.
    Same,
    /// The peer's descends from ours.
    Newer,
    /// Ours descends from the peer's.
    Older,
    /// Neither.
    Unrelated,
}

impl Set {
    pub(super) fn link_at(&self, at: usize) -> Option<&Link> {
        let link = self.peers.get(at)?.link.as_ref()?;
        (!link.closing).then_some(link)
    }

    pub(super) fn link_mut(&mut self, at: usize) -> Option<&mut Link> {
        let link = self.peers.get_mut(at)?.link.as_mut()?;
        (!link.closing).then_some(link)
    }

    fn peer_at(&self, store: &Id) -> Option<usize> {
        self.peers.iter().position(|p| p.store == *store)
    }

    /// Clause 10: a connection to a peer; both ends were given the same nonce, never used before.
    /// What an older session of this peer still brings is dropped from now on; the shell closes its
    /// connection.
    pub fn peer(&mut self, store: &Id, nonce: u64) -> Result<(), Refusal> {
        let at = self.peer_at(store).ok_or(Refusal::NoPeer)?;
        if self.failed {
            return Err(Refusal::Failed);
        }
        if let Some(old) = self.link_at(at).map(|l| l.nonce) {
            mark!(replication_session_replaced);
            self.drop_session(old);
        }
        let now = self.now;
        if let Some(peer) = self.peers.get_mut(at) {
            peer.link = Some(Link {
                nonce,
                closing: false,
                serial: 0,
                hello_due: true,
                hello: None,
                due: false,
                follows: false,
                sender: None,
                told: 0,
                merged: 0,
                thawed: None,
                serves: KVec::new(),
                missed: KVec::new(),
                asked: Asked::default(),
                ack_due: false,
                ping: None,
                ping_due: false,
                pong: None,
                heard_at: now,
                asked_at: now,
            });
        }
        Ok(())
    }

    /// The session with a peer.
    pub fn session(&self, store: &Id) -> Option<u64> {
        self.link_at(self.peer_at(store)?).map(|l| l.nonce)
    }

    /// A session's connection is gone.
    pub fn lost(&mut self, store: &Id, nonce: u64) {
        let Some(at) = self.peer_at(store) else {
            return;
        };
        if self.link_at(at).is_some_and(|l| l.nonce == nonce) {
            self.drop_session(nonce);
        }
        if let Some(peer) = self.peers.get_mut(at) {
            if peer.link.as_ref().is_some_and(|l| l.nonce == nonce) {
                peer.link = None;
            }
        }
    }

    /// Ends a session; the shell is told to close its connection.
    pub(super) fn drop_session(&mut self, nonce: u64) {
        let Some(at) =
            (0..self.peers.len()).find(|at| self.link_at(*at).is_some_and(|l| l.nonce == nonce))
        else {
            return;
        };
        if self.receiver.as_ref().is_some_and(|r| r.nonce == nonce) {
            self.stop_receiving();
        }
        let mut lost = None;
        if self.is_compared(at) {
            self.compare_lost(at);
        }
        let streamed = self.is_streaming(at);
        self.end_stream(at);
        if let Some(peer) = self.peers.get_mut(at) {
            if let Some(link) = peer.link.as_mut() {
                if streamed || link.follows {
                    lost = Some(peer.store);
                }
                link.closing = true;
                link.hello = None;
            }
            // Clause 8: until it was said to be joinable nobody counts on it.
            let joinable = |j: &Joining| j.joinable.is_some() && !mutant!(116);
            if !peer.joining.as_ref().is_some_and(joinable) {
                peer.joining = None;
            }
        }
        if let Some(store) = lost {
            self.event(Event::PeerLost(store));
        }
        self.trim();
    }

    pub(super) fn drop_all_sessions(&mut self) {
        for at in 0..self.peers.len() {
            if let Some(nonce) = self.link_at(at).map(|l| l.nonce) {
                self.drop_session(nonce);
            }
        }
    }

    pub(super) fn poll_closing(&mut self) -> Option<Action> {
        let config = &self.record.config;
        let at = self.peers.iter().position(|p| {
            let left = config.member(&p.store).is_none();
            left || p.link.as_ref().is_some_and(|l| l.closing)
        })?;
        let peer = self.peers.get_mut(at)?;
        let (store, link) = (peer.store, peer.link.take());
        if config.member(&store).is_none() {
            let _ = self.peers.remove(at);
        }
        match link {
            Some(link) => Some(Action::Close {
                peer: store,
                session: link.nonce,
            }),
            None => self.poll_closing(),
        }
    }

    /// Lets go of what is staged; nothing more is taken before the next HELLO.
    pub(super) fn stop_receiving(&mut self) {
        if mutant!(105) {
            return;
        }
        if let Some(mut receiver) = self.receiver.take() {
            self.built = receiver.take_built().or(self.built.take());
            self.unbuilds |= self.built.is_none() || mutant!(404);
            receiver.clear(&mut self.dropped);
            self.void = true;
        }
    }

    /// The own state changed: each peer is told, with the position where it can go on.
    pub(super) fn restate_all(&mut self) {
        self.stop_receiving();
        for at in 0..self.peers.len() {
            if let Some(link) = self.link_mut(at) {
                link.hello_due = true;
                link.follows = false;
                link.due = true;
            }
        }
    }

    /// Something changed that the peers' HELLOs may be looked at for.
    pub(super) fn look_again(&mut self) {
        for at in 0..self.peers.len() {
            if let Some(link) = self.link_mut(at) {
                link.due = true;
            }
        }
    }

    /// An acknowledgement is to be sent.
    pub(super) fn ack_due(&mut self) {
        let Some(nonce) = self.receiver.as_ref().map(|r| r.nonce) else {
            return;
        };
        for at in 0..self.peers.len() {
            if let Some(link) = self.link_mut(at).filter(|l| l.nonce == nonce) {
                link.ack_due = true;
            }
        }
    }

    /// Time goes by: silent sessions are asked, dead ones end.
    pub fn tick(&mut self, now: u64) {
        self.now = self.now.max(now);
        let (now, keepalive, timeout) = (self.now, self.params.keepalive, self.params.timeout);
        for at in 0..self.peers.len() {
            let token = self.token + 1;
            let Some(link) = self.link_mut(at) else {
                continue;
            };
            if now >= link.heard_at + timeout {
                mark!(replication_session_silent);
                let nonce = link.nonce;
                self.drop_session(nonce);
            } else if now >= link.heard_at.max(link.asked_at) + keepalive {
                link.asked_at = now;
                link.ping = Some(token);
                link.ping_due = true;
                self.token = token;
            }
        }
    }

    /// Takes a frame that came in a session, and its blocks: the first one's handle, and what they
    /// are. True if they were taken; what is taken comes back with [`Action::Stage`] or
    /// [`Action::StageDrop`]. `ENOMEM` ends the session, and so does a frame that no peer sends.
    pub fn received(
        &mut self,
        store: &Id,
        nonce: u64,
        meta: &[u8],
        data: (u64, &[BlockContent]),
    ) -> Result<bool> {
        let Some(at) = self.peer_at(store) else {
            return Ok(false);
        };
        let current = self.link_at(at).map(|l| l.nonce);
        if current.is_none() || (current != Some(nonce) && !mutant!(118)) {
            mark!(replication_frame_of_old_session);
            return Ok(false);
        }
        let nonce = current.unwrap_or(nonce);
        let taken = self.take_frame(at, meta, data);
        if !matches!(taken, Ok(Some(_))) {
            mark!(replication_session_refused);
            self.refused += 1;
            let receives = self.receiver.as_ref().is_some_and(|r| r.nonce == nonce);
            self.drop_session(nonce);
            if receives {
                self.forget_built();
            }
        }
        Ok(taken?.unwrap_or(false))
    }

    /// `None` for a frame that no peer sends.
    fn take_frame(
        &mut self,
        at: usize,
        meta: &[u8],
        data: (u64, &[BlockContent]),
    ) -> Result<Option<bool>> {
        let bytes = data.1.len() * CLUSTER_SIZE;
        let Ok((envelope, frame)) = decode(meta, bytes, self.params.hash)? else {
            return Ok(None);
        };
        let (now, unpacks) = (self.now, self.params.unpacks);
        let Some(link) = self.link_mut(at) else {
            return Ok(Some(false));
        };
        if (envelope.session != link.nonce && !mutant!(118)) || (envelope.packed && !unpacks) {
            return Ok(None);
        }
        link.heard_at = now;
        match frame {
            Frame::Hello(hello) => {
                // Serials ascend: an older one is none of this session.
                let last = link.hello.as_ref().map_or(0, |h| h.serial);
                if hello.store != self.peers.get(at).map_or([0; 16], |p| p.store)
                    || hello.config.set != self.record.config.set
                    || hello.serial <= last
                {
                    return Ok(None);
                }
                if let Some(link) = self.link_mut(at) {
                    link.hello = Some(hello);
                    link.due = true;
                    link.follows = false;
                }
                Ok(Some(false))
            }
            Frame::Ping(number) => {
                link.pong = Some(number);
                Ok(Some(false))
            }
            Frame::Pong(number) => {
                if link.ping == Some(number) {
                    link.ping = None;
                }
                Ok(Some(false))
            }
            Frame::Ack(_)
            | Frame::Need { .. }
            | Frame::Credit(_)
            | Frame::Equal { .. }
            | Frame::Reached { .. }
            | Frame::Frozen { .. }
            | Frame::Blocks { .. } => {
                let counts = self.counts(at, &envelope, true);
                Ok(if counts {
                    self.take_answer(at, frame)?.map(|()| false)
                } else {
                    Some(false)
                })
            }
            Frame::Ask { .. } | Frame::Found(_) | Frame::Absent(_) => {
                // Either side may ask.
                let answer = self.is_streaming(at);
                match self.counts(at, &envelope, answer) {
                    true => self.take_heal(at, envelope.stream, frame, data),
                    false => Ok(Some(false)),
                }
            }
            Frame::Thawed(_) if self.is_streaming(at) => {
                let counts = self.counts(at, &envelope, true);
                Ok(match counts {
                    true => self.take_answer(at, frame)?.map(|()| false),
                    false => Some(false),
                })
            }
            _ => {
                if !self.counts(at, &envelope, false) {
                    return Ok(Some(false));
                }
                self.take_stream(frame, data)
            }
        }
    }

    /// The stream that what is asked for and answered in a session belongs to.
    pub(super) fn heal_stream(&self, at: usize) -> Option<u32> {
        let link = self.link_at(at)?;
        let receives = self.receiver.as_ref().filter(|r| r.nonce == link.nonce);
        let receives = receives.filter(|_| link.follows).map(|r| r.stream);
        link.sender.as_ref().map(|s| s.stream).or(receives)
    }

    /// Clause 10: whether a frame's numbers are those of the session that it came in.
    fn counts(&self, at: usize, envelope: &Envelope, answer: bool) -> bool {
        let config = &self.record.config;
        let Some(link) = self.link_at(at) else {
            return false;
        };
        let stream = if answer {
            link.sender.as_ref().map(|s| s.stream)
        } else {
            let here = self.receiver.as_ref().filter(|r| r.nonce == link.nonce);
            here.map(|r| r.stream).filter(|_| link.follows)
        };
        let rule = envelope.term == config.term && envelope.version == config.version;
        let counts = stream.is_some()
            && (stream == Some(envelope.stream) || mutant!(119))
            && (rule || mutant!(119))
            && self.transition.is_none()
            && (!self.is_fenced() || mutant!(105));
        if !counts {
            mark!(replication_frame_out_of_date);
        }
        counts
    }

    /// Looks what follows from the peers' HELLOs, if something changed.
    pub(super) fn evaluate_all(&mut self) -> Result {
        for at in 0..self.peers.len() {
            if self.transition.is_some() {
                break;
            }
            if self.link_at(at).is_some_and(|l| l.due) {
                self.evaluate(at)?;
                if let Some(link) = self.link_mut(at).filter(|l| l.hello.is_some()) {
                    link.due = false;
                }
            }
        }
        Ok(())
    }

    fn relation(&self, hello: &Hello) -> Relation {
        let (mine, theirs) = (&self.record.config, &hello.config);
        if mine.id == theirs.id {
            Relation::Same
        } else if theirs.descends_from(&mine.id, &self.params.store) {
            Relation::Newer
        } else if mine.descends_from(&theirs.id, &hello.store) {
            Relation::Older
        } else {
            Relation::Unrelated
        }
    }

    /// Clause 11.
    fn evaluate(&mut self, at: usize) -> Result {
        let Some(hello) = self.link_at(at).and_then(|l| l.hello.as_ref()) else {
            return Ok(());
        };
        let (store, promise, serial) = (hello.store, hello.promise, hello.serial);
        let is_primary = hello.config.primary == store;
        let relation = self.relation(hello);
        let discards = self.discard && hello.reigns && is_primary;
        let adopts = match relation {
            Relation::Newer => is_primary || mutant!(122),
            Relation::Unrelated => discards || (is_primary && mutant!(123)),
            _ => false,
        };
        if adopts
            && self
                .refusal(&hello.config, discards || mutant!(123), false)
                .is_none()
        {
            mark!(replication_adopts);
            let keep = self.keeps(&hello.config) && !self.discard;
            let config = KBox::new(hello.config.try_clone()?, GFP_KERNEL)?;
            self.discard = false;
            return self.begin(Change::Adopt { config, keep }, None);
        }
        if promise > self.record.promise && !mutant!(121) {
            mark!(replication_fenced_by_peer);
            return self.begin(Change::Fence { term: promise }, None);
        }
        match relation {
            Relation::Same => self.meet(at, store, serial),
            Relation::Older => Ok(()),
            Relation::Newer => {
                self.event(Event::Superseded);
                Ok(())
            }
            Relation::Unrelated => {
                mark!(replication_split_brain);
                self.event(Event::SplitBrain(store));
                Ok(())
            }
        }
    }

    /// Both hold one configuration: the stream begins, if one of them rules.
    fn meet(&mut self, at: usize, store: Id, serial: u32) -> Result {
        let Some(hello) = self.link_at(at).and_then(|l| l.hello.as_ref()) else {
            return Ok(());
        };
        if self.is_fenced() {
            return Ok(());
        }
        let config = &self.record.config;
        let is_out = |id: &Id| {
            config
                .member(id)
                .is_none_or(|m| m.state == MemberState::Out)
        };
        if self.is_primary() {
            if is_out(&store) || hello.reigns {
                return Ok(());
            }
            let position = hello.history.position();
            // Stores with an empty history may have been made with other volumes.
            let known = position.epoch > 0 && self.knows(&position);
            let takes = Takes {
                limits: hello.limits,
                diffs: hello.diffs,
                merges: hello.merges || mutant!(311),
                resumes: hello.resumes && self.params.parks > 0,
            };
            let current = self
                .link_at(at)
                .and_then(|l| l.sender.as_ref())
                .map(|s| s.stream);
            // What it has acknowledged since it said that is not in it.
            if current == Some(serial) {
                return Ok(());
            }
            let best = self.peers.get(at).map_or(Position::ZERO, |p| p.best);
            if best != Position::ZERO && best.term == config.term && !hello.history.contains(&best)
            {
                mark!(replication_regressed);
                self.event(Event::Regressed(store));
            }
            let first = self.window.first();
            let sender = Sender::new(serial, takes, &position, known, first)?;
            self.end_stream(at);
            if !sender.is_behind() {
                self.unpark(at);
            }
            if let Some(link) = self.link_mut(at) {
                link.sender = Some(sender);
            }
            self.event(Event::PeerUp(store));
            return Ok(());
        }
        if store != config.primary || !hello.reigns || is_out(&self.params.store) {
            return Ok(());
        }
        let follows = hello.history.contains(&self.history.position());
        if self.record.keep {
            if follows {
                // Nothing of ours is missing there any more.
                return self.begin(Change::Keep(false), None);
            }
            mark!(replication_diverged);
            self.event(Event::Diverged(store));
            return Ok(());
        }
        if let Some(link) = self.link_mut(at) {
            link.follows = true;
        }
        self.event(Event::PeerUp(store));
        Ok(())
    }

    /// Whether the history, with what is sealed and on its way to the disk, went through a position.
    pub(super) fn knows(&self, position: &Position) -> bool {
        let sealed = self.window.get(position.epoch).and_then(|e| e.position);
        self.history.contains(position) || sealed == Some(*position) || mutant!(138)
    }

    /// Whether a session is there in which this primary's entries flow to the peer.
    pub(super) fn is_streaming(&self, at: usize) -> bool {
        self.link_at(at).is_some_and(|l| l.sender.is_some())
    }

    /// Whether a full compare of the peer is under way, or was not acknowledged yet.
    pub(super) fn is_compared(&self, at: usize) -> bool {
        let sender = self.link_at(at).and_then(|l| l.sender.as_ref());
        sender.is_some_and(|s| s.scan.is_some())
    }

    /// The session in which the primary's entries flow to this store, and the stream.
    pub(super) fn followed_stream(&self) -> Option<(u64, u32)> {
        let receiver = self.receiver.as_ref()?;
        let mut links = (0..self.peers.len()).filter_map(|at| self.link_at(at));
        let follows = links.any(|l| l.nonce == receiver.nonce && l.follows);
        follows.then_some((receiver.nonce, receiver.stream))
    }

    /// Whether a session is there in which the peer's entries flow to this store.
    pub(super) fn is_following(&self, at: usize) -> bool {
        self.link_at(at).is_some_and(|l| l.follows)
    }

    /// The last epoch that a peer acknowledged in its session.
    pub(super) fn acked(&self, at: usize) -> u64 {
        if mutant!(141) {
            return self.peers.get(at).map_or(0, |p| p.best.epoch);
        }
        let sender = self.link_at(at).and_then(|l| l.sender.as_ref());
        sender.map_or(0, |s| s.acked)
    }

    /// Whether FLUSHes wait for a peer.
    pub(super) fn must_ack(&self, at: usize) -> bool {
        let Some(peer) = self.peers.get(at) else {
            return false;
        };
        let in_sync = self.record.config.is_in_sync(&peer.store);
        (in_sync && !(mutant!(126) && peer.link.is_none()))
            || (peer.joining.is_some() && !mutant!(115))
    }

    /// Notes what a peer has acknowledged.
    pub(super) fn note_best(&mut self, at: usize, position: Position) {
        if let Some(peer) = self.peers.get_mut(at) {
            peer.best = position;
        }
    }

    // Outputs.

    /// The next frame for a peer, if there is one; the shell asks when the socket has room.
    pub fn poll_send(&mut self, store: &Id) -> Result<Option<Outgoing>> {
        let Some(at) = self.peer_at(store) else {
            return Ok(None);
        };
        let config = &self.record.config;
        let (term, version, hash) = (config.term, config.version, self.params.hash);
        let Some(link) = self.link_at(at) else {
            return Ok(None);
        };
        let nonce = link.nonce;
        let packs = self.packs || mutant!(282);
        let unpacks = link.hello.as_ref().is_some_and(|h| h.unpacks) || mutant!(280);
        let envelope = |stream: u32| Envelope {
            session: nonce,
            term,
            version,
            stream,
            packed: packs && unpacks,
        };
        let plain = |meta: KVec<u8>| {
            Ok(Some(Outgoing {
                meta,
                blocks: KVec::new(),
            }))
        };
        if link.hello_due {
            // What it says of the position has to stay true.
            if self.transition.is_some() || !(self.applying.is_empty() || mutant!(104)) {
                return Ok(None);
            }
            let serial = link.serial + 1;
            let hello = self.own_hello(serial)?;
            let meta = encode(&envelope(serial), &hello, hash)?;
            let receiver = Receiver::new(nonce, serial, self.history.position(), &self.params)?;
            let primary = self.record.config.primary == *store && !self.is_primary();
            if primary && !self.is_fenced() {
                self.stop_receiving();
                self.receiver = Some(receiver);
            }
            if let Some(link) = self.link_mut(at) {
                link.serial = serial;
                link.hello_due = false;
                link.due = true;
            }
            return plain(meta);
        }
        if let Some(number) = link.pong {
            let meta = encode(&envelope(0), &Frame::Pong(number), hash)?;
            if let Some(link) = self.link_mut(at) {
                link.pong = None;
            }
            return plain(meta);
        }
        if let (true, Some(number)) = (link.ping_due, link.ping) {
            let meta = encode(&envelope(0), &Frame::Ping(number), hash)?;
            if let Some(link) = self.link_mut(at) {
                link.ping_due = false;
            }
            return plain(meta);
        }
        if self.transition.is_some() && !mutant!(105) {
            return Ok(None);
        }
        if let Some(stream) = self.heal_stream(at) {
            let frame = self.poll_heal(at, &envelope(stream))?;
            if frame.is_some() {
                return Ok(frame);
            }
            let frame = self.poll_verify_frame(at, &envelope(stream))?;
            if frame.is_some() {
                return Ok(frame);
            }
        }
        let Some(link) = self.link_at(at) else {
            return Ok(None);
        };
        let receives = self.receiver.as_ref().filter(|r| r.nonce == nonce);
        if let (Some(receiver), true) = (receives, link.follows) {
            let stream = receiver.stream;
            if link.ack_due {
                let mut position = self.history.position();
                if let Some(early) = receiver.last_sealed().filter(|_| mutant!(129)) {
                    position = early;
                }
                let meta = encode(&envelope(stream), &Frame::Ack(position), hash)?;
                if let Some(link) = self.link_mut(at) {
                    link.ack_due = false;
                }
                return plain(meta);
            }
            let needs = link.hello.as_ref().map_or(0, |h| h.limits.needs);
            if let Some(receiver) = self.receiver.as_mut() {
                if let Some(frame) = receiver.poll_frame(needs)? {
                    let meta = encode(&envelope(stream), &frame, hash)?;
                    receiver.was_sent(&frame);
                    return plain(meta);
                }
            }
        }
        let Some(stream) = self
            .link_at(at)
            .and_then(|l| l.sender.as_ref())
            .map(|s| s.stream)
        else {
            return Ok(None);
        };
        self.poll_stream(at, &envelope(stream))
    }

    fn own_hello(&self, serial: u32) -> Result<Frame> {
        let hello = Hello {
            store: self.params.store,
            incarnation: self.params.incarnation,
            serial,
            reigns: self.is_ruling(),
            heals: true,
            verifies: true,
            diffs: !self.wants_all,
            unpacks: self.params.unpacks || mutant!(281),
            merges: self.params.merges,
            stands: true,
            resumes: self.params.parks > 0,
            promise: self.record.promise,
            limits: self.params.limits,
            config: self.record.config.try_clone()?,
            history: self.history.try_clone()?,
        };
        Ok(Frame::Hello(KBox::new(hello, GFP_KERNEL)?))
    }

    /// A frame of the stream, and its blocks.
    pub(super) fn outgoing(meta: KVec<u8>, blocks: KVec<Block>) -> Result<Option<Outgoing>> {
        Ok(Some(Outgoing { meta, blocks }))
    }
}
