// SPDX-License-Identifier: GPL-2.0

//! What a store does for its replica set: commands and their answers, sessions with peers, blocks that
//! came from peers or go to them, and what listeners are told.
//!
//! [`Membership`] lies beside the engine, under its lock, in every store; it stays empty in those that
//! are no member.
//!
//! # Blocks
//!
//! A block that came lies in `received` under its handle until the engine drops it; while a bio writes
//! it, the page is with the bio. A block that was read because a peer asked lies in `fetched` under
//! its token until it was sent or the engine drops it. Both are bounded by what the engine grants and
//! takes.
//!
//! # Chores
//!
//! What must not happen under the engine's lock, or may wait for those who hold other locks, is left
//! to an item of the worker of its own, [`Store::chores`]: shutting sockets, joining threads that have
//! left, telling listeners. No request waits for it.

use super::{Inner, Store, CLUSTER_SECTOR_SHIFT, DUE_MS};
use crate::{
    content,
    engine::{
        replication::{
            action::{Event, Reply},
            config::Refusal,
            set::Set,
            types::Id,
        },
        Action, BlockContent, Check, Cluster, DataResult, Lbn, Millis, SendBlock, Sending,
        SetCommand, Tag,
    },
    error::errno,
    io::{CheckedIo, Gather, Io, Reader, SendIo, StageIo},
    peer::{Session, Threads},
};
use core::fmt;
use kernel::{
    new_condvar, new_mutex,
    prelude::*,
    rbtree::{RBTree, RBTreeNode},
    sync::{atomic::Relaxed, Arc, CondVar, CondVarTimeoutResult, Mutex},
    time::{delay::fsleep, msecs_to_jiffies, Delta},
};
use kstage::{
    bindings,
    block::{bio::BioList, Op, OpFlags},
    hash,
    mm::{NoReclaim, Wait},
    page_pool::PageBuf,
    socket::Socket,
};

/// Sessions that a store has at most, those included whose threads have not left yet.
const SESSIONS_MAX: usize = 64;

/// Events that wait to be told. As many as the engine keeps.
const EVENTS_MAX: usize = 64;

/// Neighbouring blocks that are read for a frame with one bio.
const GATHER_MAX: usize = 64;

/// Who waits for a command hears at least so often how it stands. Generic netlink holds a lock for
/// as long as it waits, which keeps families from being registered.
const COMMAND_WAIT_MS: u32 = 2000;

/// The time between looks whether all threads have left.
const LEAVE_LOOK_MS: i64 = 2;

/// The only member of a set begins to lead by itself soon after the attach; so long is waited for that.
const LEAD_WAIT_MS: Millis = 10_000;

/// The command that lets FLUSHes fail for a store that is on its way out; nobody waits for it.
const NOBODYS_COMMAND: u64 = 0;

/// Who waits for the answer to a command. His lock is below the engine's.
#[pin_data]
struct Asker {
    #[pin]
    reply: Mutex<Option<Reply>>,
    #[pin]
    done: CondVar,
}

impl Asker {
    fn new() -> Result<Arc<Asker>> {
        Arc::pin_init(
            pin_init!(Asker {
                reply <- new_mutex!(None, "ddup::Asker::reply"),
                done <- new_condvar!("ddup::Asker::done"),
            }),
            GFP_KERNEL,
        )
    }

    fn answer(&self, reply: Reply) {
        *self.reply.lock() = Some(reply);
        self.done.notify_all();
    }

    /// `EINTR` for a signal, `EINPROGRESS` if there is no answer yet.
    fn wait(&self) -> Result<Reply> {
        let mut reply = self.reply.lock();
        let mut left = msecs_to_jiffies(COMMAND_WAIT_MS);

        loop {
            if let Some(reply) = *reply {
                return Ok(reply);
            }
            match self.done.wait_interruptible_timeout(&mut reply, left) {
                CondVarTimeoutResult::Woken { jiffies } => left = jiffies,
                CondVarTimeoutResult::Timeout => {
                    return reply.ok_or_else(|| errno(bindings::EINPROGRESS))
                }
                CondVarTimeoutResult::Signal { .. } => return reply.ok_or(EINTR),
            }
        }
    }
}

/// A command that was not answered yet.
struct Command {
    number: u64,
    /// Several may wait for one demotion.
    is_demotion: bool,
    asker: Arc<Asker>,
}

/// A session and its threads.
struct Seat {
    session: Arc<Session>,
    threads: Threads,
    /// Both threads were started, or one could not be.
    seated: bool,
    /// Threads that have left, or were never there.
    left: u32,
}

impl Seat {
    fn is_left(&self) -> bool {
        self.seated && self.left == 2
    }
}

/// What the lock guards for a member of a set.
pub(super) struct Membership {
    commands: KVec<Command>,
    last_command: u64,
    seats: KVec<Seat>,
    received: RBTree<u64, Option<PageBuf>>,
    fetched: RBTree<u64, Option<PageBuf>>,
    fetched_count: usize,
    events: KVec<Event>,
    /// Events that nobody will be told of.
    events_lost: bool,
    /// Whether the volumes take requests has changed.
    role_changed: bool,
    /// Volumes have changed, and nobody here asked for it.
    volumes_changed: bool,
    /// Devices are to follow them when a change by command has ended.
    follows_later: bool,
    /// A frame could not be made for want of memory.
    retries: bool,
    /// Some chore is to be done.
    chores: bool,
    /// The store is on its way out: no session begins, and no FLUSH waits.
    leaving: bool,
}

/// What [`Store::chores`] does next.
enum Chore {
    End(Arc<Session>),
    Join(Seat),
    Tell(Event),
    Lost,
    Role(bool),
    Volumes,
    Failed,
    ScrubFound(u32, Lbn),
    Scrubbed,
}

/// What holds FLUSHes back.
pub(crate) struct Waiting {
    /// FLUSHes that wait.
    pub(crate) flushes: usize,
    /// A member that they wait for, if it is not only a matter of numbers.
    pub(crate) peer: Option<Id>,
}

impl Membership {
    pub(super) fn new() -> Result<Membership> {
        Ok(Membership {
            commands: KVec::new(),
            last_command: NOBODYS_COMMAND,
            seats: KVec::with_capacity(SESSIONS_MAX, GFP_KERNEL)?,
            received: RBTree::new(),
            fetched: RBTree::new(),
            fetched_count: 0,
            events: KVec::with_capacity(EVENTS_MAX, GFP_KERNEL)?,
            events_lost: false,
            role_changed: false,
            volumes_changed: false,
            follows_later: false,
            retries: false,
            chores: false,
            leaving: false,
        })
    }

    fn seat_mut(&mut self, session: &Session) -> Option<&mut Seat> {
        self.seats
            .iter_mut()
            .find(|seat| core::ptr::eq(&*seat.session, session))
    }

    /// Whether there are sessions with peers.
    pub(super) fn has_sessions(&self) -> bool {
        !self.seats.is_empty()
    }

    fn answer(&mut self, number: u64, reply: Reply) {
        let at = self.commands.iter().position(|c| c.number == number);

        if let Some(Ok(command)) = at.map(|at| self.commands.remove(at)) {
            command.asker.answer(reply);
        }
    }

    /// No command will be answered any more.
    pub(super) fn fail_commands(&mut self) {
        while let Some(command) = self.commands.pop() {
            command.asker.answer(Reply::Refused(Refusal::Failed));
        }
    }

    fn close(&mut self, nonce: u64) {
        for seat in self.seats.iter().filter(|s| s.session.nonce == nonce) {
            seat.session.close();
            self.chores = true;
        }
    }

    fn close_all(&mut self) {
        for seat in self.seats.iter() {
            seat.session.close();
            self.chores = true;
        }
    }

    /// A block was sent, or nobody will ask for it.
    fn drop_fetched(&mut self, token: u64) -> Option<PageBuf> {
        let page = self.fetched.remove(&token)?;

        self.fetched_count = self.fetched_count.saturating_sub(1);
        page
    }

    /// Whether the worker has to look again soon.
    pub(super) fn deadline(&self, now: Millis) -> Option<Millis> {
        self.retries.then_some(now + u64::from(DUE_MS))
    }

    /// Whether [`Store::chores`] has to run; whoever asks lets it run.
    pub(super) fn take_chores(&mut self) -> bool {
        core::mem::take(&mut self.chores)
    }

    /// Some chore is to be done.
    pub(super) fn want_chores(&mut self) {
        self.chores = true;
    }

    /// Volumes have changed, and nobody here asked for it.
    pub(super) fn volumes_changed(&mut self) {
        self.volumes_changed = true;
        self.chores = true;
    }

    /// The store failed.
    pub(super) fn store_failed(&mut self) {
        self.chores = true;
        self.fail_commands();
    }
}

// What the engine wants.

impl Store {
    /// Does an action of a member. Without memory it comes back.
    pub(super) fn perform_member(
        &self,
        inner: &mut Inner,
        now: Millis,
        action: Action,
        bios: &mut BioList<Io>,
    ) -> Result<(), Action> {
        match action {
            Action::StageWrite {
                tag,
                handle,
                cluster,
            } => self
                .stage_write(inner, now, (tag, handle, cluster), bios)
                .map_err(|()| action),
            Action::StageDrop { handle } => {
                drop(inner.member.received.remove(&handle));
                Ok(())
            }
            Action::FetchBlock {
                token,
                cluster,
                check,
            } => self
                .fetch_block(inner, (token, cluster, check), bios)
                .map_err(|()| action),
            Action::FetchDrop { token } => {
                drop(inner.member.drop_fetched(token));
                Ok(())
            }
            Action::SetReply { command, reply } => {
                inner.member.answer(command, reply);
                Ok(())
            }
            Action::ClosePeer { nonce, .. } => {
                inner.member.close(nonce);
                Ok(())
            }
            Action::Role { serves } => {
                self.serves.store(i32::from(serves), Relaxed);
                inner.member.role_changed = true;
                inner.member.chores = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn stage_write(
        &self,
        inner: &mut Inner,
        now: Millis,
        (tag, handle, cluster): (Tag, u64, Cluster),
        bios: &mut BioList<Io>,
    ) -> Result<(), ()> {
        let page = inner
            .member
            .received
            .get_mut(&handle)
            .and_then(Option::take);
        let Some(page) = page else {
            inner.engine.data_done(now, tag, 0, 1, DataResult::Failed);
            return Ok(());
        };
        let io = Io::Stage(StageIo {
            tag,
            handle,
            page,
            ok: false,
        });

        inner.compared.forget(cluster, 1);
        match self.alloc(Op::Write, OpFlags::NONE, cluster, 1, io) {
            Ok(mut bio) => {
                bio.add_pages(Io::pages);
                bios.push(bio);
                Ok(())
            }
            Err(io) => {
                if let Io::Stage(stage) = io {
                    inner.put_back(stage.handle, stage.page);
                }
                Err(())
            }
        }
    }

    fn fetch_block(
        &self,
        inner: &mut Inner,
        (token, cluster, check): (u64, Cluster, Check),
        bios: &mut BioList<Io>,
    ) -> Result<(), ()> {
        let node = RBTreeNode::new(token, None, GFP_NOWAIT).map_err(|_| ())?;
        let page = self.peer_pages.alloc(Wait::No).map_err(|_| ())?;

        self.read_checked(
            Reader::Peer(token),
            (cluster, check),
            page,
            OpFlags::SYNC,
            bios,
        )?;
        inner.member.fetched.insert(node);
        inner.member.fetched_count += 1;
        Ok(())
    }

    /// Ends a turn: brings frames to senders that wait for some, takes over what is to be told, and
    /// lets no FLUSH wait if the store is on its way out.
    pub(super) fn settle_member(&self, inner: &mut Inner, now: Millis) {
        let member = &mut inner.member;

        member.retries = false;
        for seat in member.seats.iter() {
            let session = &seat.session;

            if session.is_closing() || !session.is_waiting() {
                continue;
            }
            match inner.engine.poll_send(now, &session.peer, session.nonce) {
                Ok(Some(frame)) => session.deliver(frame),
                Ok(None) => {}
                Err(error) if error == ENOMEM => member.retries = true,
                Err(_) => {
                    session.close();
                    member.chores = true;
                }
            }
        }
        while let Some((_, event)) = inner.engine.poll_set_event() {
            member.events_lost |= member.events.push_within_capacity(event).is_err();
            member.chores = true;
        }
    }

    /// Whether FLUSHes, and what waits for a lease, were let fail, which wants another look at the
    /// engine.
    pub(super) fn fail_flushes(&self, inner: &mut Inner, now: Millis) -> bool {
        let waits = |set: &Set| set.flushes() > 0;

        inner.member.leaving
            && (inner.engine.set().is_some_and(waits) || inner.engine.awaits_lease())
            && inner
                .engine
                .set_command(now, NOBODYS_COMMAND, SetCommand::FlushFail)
                .is_ok()
    }
}

impl Inner {
    /// The page of a block that came is not with a bio any more.
    fn put_back(&mut self, handle: u64, page: PageBuf) {
        if let Some(place) = self.member.received.get_mut(&handle) {
            *place = Some(page);
        }
    }

    /// A block that came from a peer was written, or could not be.
    pub(super) fn report_stage(&mut self, now: Millis, stage: StageIo) {
        let result = match stage.ok {
            true => DataResult::Ok,
            false => DataResult::Failed,
        };

        self.put_back(stage.handle, stage.page);
        self.engine.data_done(now, stage.tag, 0, 1, result);
    }

    /// A block was read for a peer, or could not be.
    pub(super) fn report_fetch(&mut self, now: Millis, token: u64, io: CheckedIo) {
        let place = self.member.fetched.get_mut(&token);
        let ok = io.result == DataResult::Ok && place.is_some();

        match place {
            Some(place) if ok => *place = Some(io.page),
            _ => drop(self.member.drop_fetched(token)),
        }
        self.engine.fetched(now, token, ok);
    }
}

// What threads of sessions ask for.

impl Store {
    /// The next frame of a session. `None`: one will be delivered. May sleep.
    pub(crate) fn next_frame(&self, session: &Session) -> Result<Option<Sending>> {
        self.with_turn(|inner, now| {
            if session.is_closing() {
                return Err(EPIPE);
            }
            match inner.engine.poll_send(now, &session.peer, session.nonce) {
                Ok(None) => {
                    session.wait();
                    Ok(None)
                }
                Err(error) if error == ENOMEM => {
                    session.wait();
                    Ok(None)
                }
                frame => frame,
            }
        })
    }

    /// A page for a block that comes. May sleep until there is memory.
    pub(crate) fn receive_page(&self) -> Result<PageBuf> {
        self.peer_pages.alloc(Wait::Yes)
    }

    /// Gives a frame that came to the engine, with its blocks and what they are. An error ends the
    /// session. May sleep.
    pub(crate) fn take_frame(
        &self,
        session: &Session,
        meta: &[u8],
        blocks: KVec<PageBuf>,
        contents: &[BlockContent],
    ) -> Result {
        let count = blocks.len() as u64;
        let mut nodes = KVec::with_capacity(blocks.len(), GFP_KERNEL)?;
        let first = self.handles.fetch_add(count, Relaxed);

        for (handle, block) in (first..).zip(blocks) {
            let node = RBTreeNode::new(handle, Some(block), GFP_KERNEL)?;

            nodes.push(node, GFP_KERNEL)?;
        }
        self.with_turn(|inner, now| {
            for node in nodes {
                inner.member.received.insert(node);
            }
            let taken = inner.engine.peer_received(
                now,
                &session.peer,
                session.nonce,
                meta,
                first,
                contents,
            );
            if taken != Ok(true) {
                for handle in first..first + count {
                    drop(inner.member.received.remove(&handle));
                }
            }
            taken.map(|_| ())
        })
    }

    /// The blocks of a frame, in their order. An error ends the session. May sleep.
    pub(crate) fn read_blocks(&self, blocks: &[SendBlock]) -> Result<KVec<PageBuf>> {
        let mut pages = self.kept_blocks(blocks)?;
        let mut whole = KVec::with_capacity(blocks.len(), GFP_KERNEL)?;

        if pages.iter().any(Option::is_none) {
            self.read_rest(blocks, &mut pages)?;
        }
        for page in pages {
            whole.push(page.ok_or(EIO)?, GFP_KERNEL)?;
        }
        Ok(whole)
    }

    /// A frame will not be sent: drops the blocks that were read for it. May sleep.
    pub(crate) fn drop_blocks(&self, blocks: &[SendBlock]) {
        let mut inner = self.inner.lock();

        for block in blocks {
            if let SendBlock::Fetched(token) = block {
                drop(inner.member.drop_fetched(*token));
            }
        }
        drop(inner);
        self.look_again();
    }

    /// Those blocks of a frame that are in memory: that were read for it, or written lately.
    fn kept_blocks(&self, blocks: &[SendBlock]) -> Result<KVec<Option<PageBuf>>> {
        let mut pages = KVec::with_capacity(blocks.len(), GFP_KERNEL)?;

        for block in blocks {
            let page = match block {
                SendBlock::Fetched(_) => None,
                SendBlock::Cluster(..) => Some(self.peer_pages.alloc(Wait::Yes)?),
            };

            pages.push(page, GFP_KERNEL)?;
        }
        if !blocks.is_empty() {
            let mut inner = self.inner.lock();

            for (place, block) in pages.iter_mut().zip(blocks) {
                match *block {
                    SendBlock::Fetched(token) => *place = inner.member.drop_fetched(token),
                    SendBlock::Cluster(cluster, check) => {
                        let copied = |page| inner.recent.copy_to(cluster, check, page);

                        if !place.as_mut().is_some_and(copied) {
                            *place = None;
                        }
                    }
                }
            }
            drop(inner);
            self.look_again();
        }
        Ok(pages)
    }

    /// Reads the blocks of a frame that are not there.
    fn read_rest(&self, blocks: &[SendBlock], pages: &mut [Option<PageBuf>]) -> Result {
        let gather = Gather::new()?;
        let (mut at, mut begun) = (0, Ok(()));

        while let (Some((first, run)), true) = (next_run(blocks, pages, at), begun.is_ok()) {
            at = first + run;
            begun = self.gather(&gather, blocks, first, run);
        }
        gather.wait();

        let key = self.check_key.load(Relaxed);
        for bio in gather.done.take() {
            let ok = bio.result().is_ok();
            let Io::Send(read) = bio.into_context() else {
                continue;
            };

            for (at, page) in (read.first..).zip(read.pages) {
                let good = match blocks.get(at) {
                    Some(SendBlock::Cluster(_, check)) => {
                        ok && content::check_of(hash::xxh64(&page[..], key)) == *check
                    }
                    _ => false,
                };

                match pages.get_mut(at) {
                    Some(place) if good => *place = Some(page),
                    _ => {}
                }
            }
        }
        begun
    }

    /// Begins to read neighbouring clusters.
    fn gather(
        &self,
        gather: &Arc<Gather>,
        blocks: &[SendBlock],
        first: usize,
        run: usize,
    ) -> Result {
        let Some(SendBlock::Cluster(cluster, _)) = blocks.get(first) else {
            return Err(EIO);
        };
        let mut pages = KVec::with_capacity(run, GFP_KERNEL)?;

        for _ in 0..run {
            pages.push(self.peer_pages.alloc(Wait::Yes)?, GFP_KERNEL)?;
        }
        let io = Io::Send(SendIo {
            first,
            pages,
            gather: gather.clone(),
        });
        let sector = cluster.0 << CLUSTER_SECTOR_SHIFT;
        let mut bio = self
            .bios
            .alloc(Op::Read, OpFlags::NONE, sector, run as u32, io, Wait::Yes)
            .map_err(|_| ENOMEM)?;

        bio.add_pages_mut(Io::pages_mut);
        gather.begin();
        bio.submit();
        Ok(())
    }

    /// A thread of a session leaves. May sleep.
    pub(crate) fn leave_session(&self, session: &Session) {
        self.with_turn(|inner, now| {
            inner.engine.peer_lost(now, &session.peer, session.nonce);
            if let Some(seat) = inner.member.seat_mut(session) {
                seat.left += 1;
            }
            inner.member.chores = true;
        });
    }
}

/// Neighbouring clusters among blocks from `at` on that have no page: the first of them and how many.
fn next_run(blocks: &[SendBlock], pages: &[Option<PageBuf>], at: usize) -> Option<(usize, usize)> {
    let cluster = |at: usize| match (blocks.get(at), pages.get(at)) {
        (Some(SendBlock::Cluster(cluster, _)), Some(None)) => Some(cluster.0),
        _ => None,
    };
    let first = (at..blocks.len()).find(|at| cluster(*at).is_some())?;
    let start = cluster(first)?;
    let follows = |n: &usize| cluster(first + n) == Some(start + *n as u64);

    Some((first, (0..GATHER_MAX).take_while(follows).count()))
}

// What control asks for.

impl Store {
    /// Whether the volumes take requests: always, but in a member of a set that does not lead. Any
    /// context.
    pub(crate) fn serves(&self) -> bool {
        self.serves.load(Relaxed) != 0
    }

    /// What `f` says of the store's part in its set; `None` if it is in none. May sleep; `f` must not
    /// wait.
    pub(crate) fn with_set<R>(&self, f: impl FnOnce(&Set) -> R) -> Option<R> {
        // Reclaim may wait for the engine.
        let _noreclaim = NoReclaim::enter();

        self.with_engine(|engine| engine.set().map(f))
    }

    /// The session with a peer, if there is one. May sleep.
    pub(crate) fn session(&self, peer: &Id) -> Option<Arc<Session>> {
        let found = {
            let inner = self.inner.lock();
            let mut seats = inner.member.seats.iter();

            seats
                .find(|s| s.session.peer == *peer && !s.session.is_closing())
                .map(|seat| seat.session.clone())
        };

        self.look_again();
        found
    }

    /// Devices are to follow the volumes, but not now: a change by command is under way. May sleep.
    pub(crate) fn follow_later(&self) {
        self.inner.lock().member.follows_later = true;
        self.look_again();
    }

    /// A change by command has ended. May sleep.
    pub(crate) fn follow_now(&self) {
        let follows = {
            let member = &mut self.inner.lock().member;
            let follows = core::mem::take(&mut member.follows_later);

            member.volumes_changed |= follows;
            follows
        };

        if follows {
            self.worker.tell();
        }
        self.look_again();
    }

    /// What FLUSHes wait for, if some wait. May sleep.
    pub(crate) fn waiting(&self) -> Option<Waiting> {
        self.with_set(|set| {
            let state = set.state();
            let lacks = |id: &Id| {
                set.peer_state(id)
                    .is_some_and(|p| p.acked < state.position.epoch || !p.connected)
            };
            let mut members = state.config.members.iter();
            let peer = members.find(|m| {
                let joins = set.peer_state(&m.store).is_some_and(|p| p.joining);

                (joins || state.config.is_in_sync(&m.store)) && lacks(&m.store)
            });

            (state.flushes > 0).then_some(Waiting {
                flushes: state.flushes,
                peer: peer.map(|m| m.store),
            })
        })
        .flatten()
    }

    /// Gives a command of the authority to the engine and waits for the answer. `ENOENT`: in no set.
    /// `ENODEV`: on its way out. `EIO`: the store failed. `EINTR`: a signal came. `EINPROGRESS`: it
    /// takes long. In both cases the command may still be carried out, and a demotion will be; asking
    /// for one again waits for the same. May sleep.
    pub(crate) fn command(&self, command: SetCommand) -> Result<Reply> {
        let mut asker = Asker::new()?;
        let is_demotion = matches!(command, SetCommand::Demote);
        let number = self.with_turn(|inner, now| {
            let member = &mut inner.member;

            if member.leaving {
                return Err(ENODEV);
            }
            if inner.failure.is_some() {
                return Err(EIO);
            }
            let pending = member.commands.iter().find(|c| c.is_demotion);
            if let (Some(pending), true) = (pending, is_demotion) {
                asker = pending.asker.clone();
                return Ok(None);
            }
            member.last_command += 1;
            let number = member.last_command;
            member.commands.push(
                Command {
                    number,
                    is_demotion,
                    asker: asker.clone(),
                },
                GFP_NOWAIT,
            )?;
            let given = inner.engine.set_command(now, number, command);
            if given.is_err() {
                member.commands.retain(|c| c.number != number);
            }
            given.map(|()| Some(number))
        })?;
        let reply = asker.wait();

        // A demotion is remembered for those who ask again.
        if let (Err(_), Some(number), false) = (&reply, number, is_demotion) {
            let mut inner = self.inner.lock();

            inner.member.commands.retain(|c| c.number != number);
            drop(inner);
            self.look_again();
        }
        reply
    }

    /// Begins a session with a member over `socket`. `ENOENT`: no such member. `EEXIST`: the nonce is
    /// in use. `EBUSY`: too many sessions have not ended yet. `EIO`, `ENODEV` as in
    /// [`command`](Self::command). May sleep, but waits for no peer.
    pub(crate) fn add_peer(self: &Arc<Self>, peer: Id, nonce: u64, socket: Socket) -> Result {
        let session = Session::new(peer, nonce, socket)?;

        self.with_turn(|inner, now| {
            let member = &mut inner.member;

            if member.leaving {
                return Err(ENODEV);
            }
            if member.seats.iter().any(|s| s.session.nonce == nonce) {
                return Err(EEXIST);
            }
            if member.seats.len() >= SESSIONS_MAX {
                return Err(EBUSY);
            }
            inner.engine.peer_connected(now, &peer, nonce)?;
            // The engine takes nothing of an older one any more.
            for old in member.seats.iter().filter(|s| s.session.peer == peer) {
                old.session.close();
                member.chores = true;
            }
            let seat = Seat {
                session: session.clone(),
                threads: [None, None],
                seated: false,
                left: 0,
            };
            // There is room.
            let _ = member.seats.push_within_capacity(seat);
            Ok(())
        })?;
        let (threads, started) = Session::start(&session, self);

        self.with_turn(|inner, _| {
            if let Some(seat) = inner.member.seat_mut(&session) {
                seat.threads = threads;
                seat.seated = true;
            }
            inner.member.chores = true;
        });
        started
    }

    /// Ends the session with a peer. False: there is none. May sleep, but waits for no peer.
    pub(crate) fn drop_peer(&self, peer: &Id) -> bool {
        let Some(session) = self.session(peer) else {
            return false;
        };

        session.end();
        self.with_turn(|inner, now| inner.engine.peer_lost(now, peer, session.nonce));
        true
    }

    /// The store is on its way out: sessions end, FLUSHes that wait fail, now and from here on, and
    /// commands are not taken any more. May sleep.
    pub(super) fn leave_set(&self) {
        self.with_turn(|inner, now| {
            inner.member.leaving = true;
            inner.member.close_all();
            for seat in inner.member.seats.iter() {
                let session = &seat.session;

                inner.engine.peer_lost(now, &session.peer, session.nonce);
            }
            // A demotion that waits ends too.
            let _ = inner
                .engine
                .set_command(now, NOBODYS_COMMAND, SetCommand::FlushFail);
        });
    }

    /// Waits until all threads have left, which nothing that a peer does holds up, and lets go of what
    /// waits for the set. May sleep.
    pub(super) fn end_sessions(&self) {
        loop {
            let gone = self.inner.lock().member.seats.is_empty();

            self.look_again();
            if gone {
                return;
            }
            self.worker.tell();
            fsleep(Delta::from_millis(LEAVE_LOOK_MS));
        }
    }

    /// The only member of a set leads without anybody's command: waits until it does, it failed, or
    /// too much time has passed. May sleep.
    pub(super) fn await_lead(&self) {
        let until = self.now() + LEAD_WAIT_MS;
        let sole = self.with_set(|set| set.is_sole());

        while sole == Some(true) && !self.serves() && self.failure().is_none() && self.now() < until
        {
            fsleep(Delta::from_millis(LEAVE_LOOK_MS));
        }
    }

    /// Writes how the sessions are. May sleep.
    pub(crate) fn show_sessions(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let inner = self.inner.lock();
        let member = &inner.member;
        let flag = |value: bool| u8::from(value);
        let result = (|| {
            writeln!(out, "serves: {}", flag(self.serves()))?;
            writeln!(out, "commands: {}", member.commands.len())?;
            writeln!(out, "received: {}", member.received.iter().count())?;
            writeln!(out, "fetched: {}", member.fetched_count)?;
            writeln!(out, "sessions: {}", member.seats.len())?;
            for seat in member.seats.iter() {
                let session = &seat.session;

                write!(out, "session {:x} peer ", session.nonce)?;
                for byte in session.peer {
                    write!(out, "{byte:02x}")?;
                }
                writeln!(
                    out,
                    " closing {} left {} waits {} sent {} received {}",
                    flag(session.is_closing()),
                    seat.left,
                    flag(session.is_waiting()),
                    session.sent.bytes.load(Relaxed),
                    session.received.bytes.load(Relaxed),
                )?;
            }
            Ok(())
        })();

        drop(inner);
        self.look_again();
        result
    }
}

// Chores.

impl Store {
    /// Does what is not to be done under the engine's lock. One at a time; may sleep, and wait for
    /// whoever holds the list of devices.
    pub(crate) fn chores(&self) {
        while let Some(chore) = self.next_chore() {
            match chore {
                Chore::End(session) => session.end(),
                // Waits for threads that have left already.
                Chore::Join(seat) => drop(seat),
                Chore::Tell(event) => crate::control::set_changed(self, event),
                Chore::Lost => crate::control::event_lost(),
                Chore::Role(serves) => crate::control::role_changed(self, serves),
                Chore::Volumes => crate::control::volumes_changed(self),
                Chore::Failed => crate::control::store_failed(self),
                Chore::ScrubFound(slot, lbn) => crate::control::scrub_found(self, slot, lbn),
                Chore::Scrubbed => crate::control::scrubbed(self),
            }
        }
        self.look_again();
    }

    fn next_chore(&self) -> Option<Chore> {
        let mut inner = self.inner.lock();
        let serves = self.serves();

        if core::mem::take(&mut inner.untold) {
            return Some(Chore::Failed);
        }
        if let Some((slot, lbn)) = inner.scrub.next_found() {
            return Some(Chore::ScrubFound(slot, lbn));
        }
        if inner.scrub.take_ended() {
            return Some(Chore::Scrubbed);
        }
        if inner.scrub.take_lost() {
            return Some(Chore::Lost);
        }
        let member = &mut inner.member;
        if let Some(seat) = member.seats.iter().find(|s| s.session.is_to_end()) {
            return Some(Chore::End(seat.session.clone()));
        }
        if let Some(at) = member.seats.iter().position(Seat::is_left) {
            let seat = member.seats.remove(at).ok()?;

            if !member.has_sessions() {
                inner.recent.clear();
            }
            return Some(Chore::Join(seat));
        }
        if core::mem::take(&mut member.events_lost) {
            return Some(Chore::Lost);
        }
        if let Ok(event) = member.events.remove(0) {
            return Some(Chore::Tell(event));
        }
        if core::mem::take(&mut member.volumes_changed) {
            return Some(Chore::Volumes);
        }
        if core::mem::take(&mut member.role_changed) {
            return Some(Chore::Role(serves));
        }
        None
    }
}
