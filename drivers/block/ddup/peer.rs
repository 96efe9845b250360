// SPDX-License-Identifier: GPL-2.0

//! Sessions with other members of a replica set: what two threads do with one socket.
//!
//! A [`Session`] exists for each connection that userspace handed over. It has a thread that receives
//! and one that sends, so that neither ever waits for the other, nor for another session. Both call
//! the [`Store`], which has the engine; a socket is only touched without its lock.
//!
//! Blocks go packed where the engine says so ([`Packer`]), and come so where the frame says so
//! ([`Unpacker`]): one at a time, in memory that the thread has from its beginning.
//!
//! The receiving thread names and checks the blocks of a frame before the engine hears of them, which
//! holds that against what was meant to come. The engine bounds what it keeps by the credit that it
//! grants; one frame at a time is in the hands of a thread.
//!
//! A session ends by [`Session::end`], which wakes both threads wherever they wait: when the peer
//! closes, sends what no peer sends, takes nothing for [`SEND_TIMEOUT`], when the engine says so (which
//! watches for silence), or when the store is detached. Each thread then leaves through
//! [`Store::leave_session`], and the store joins those that have left.

use crate::{
    content::Fingerprinter,
    engine::{
        replication::{
            types::Id,
            wire::{self, BadFrame, Packed, HEADER_BYTES, META_BYTES_MAX},
        },
        Sending,
    },
    error::errno,
    store::Store,
};
use kernel::{
    new_condvar, new_mutex,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, CondVar, Mutex,
    },
};
use kstage::{kthread::Kthread, lz4, mm::NoIo, page_pool::PageBuf, socket::Socket};

/// A session ends when its peer took nothing for so many seconds.
const SEND_TIMEOUT: u32 = 6;

/// Bytes of a block.
const BLOCK_BYTES: usize = crate::content::BLOCK_SIZE as usize;

/// What the sending thread looks at.
struct Outbox {
    /// A frame that somebody else's turn of the engine has brought.
    frame: Option<Sending>,
    /// The thread sleeps, or is about to: whoever has a turn of the engine looks for a frame.
    waits: bool,
    /// The session is over.
    over: bool,
}

/// Bytes and blocks of one direction. One thread adds, others look.
pub(crate) struct Traffic {
    /// Bytes on the wire.
    pub(crate) bytes: Atomic<u64>,
    /// Blocks of data.
    pub(crate) blocks: Atomic<u64>,
    /// What `bytes` would be if no block were packed.
    pub(crate) uncompressed: Atomic<u64>,
}

impl Traffic {
    const fn new() -> Traffic {
        Traffic {
            bytes: Atomic::new(0),
            blocks: Atomic::new(0),
            uncompressed: Atomic::new(0),
        }
    }

    /// A frame went by whose blocks took `data` bytes.
    fn add(&self, meta: usize, blocks: usize, data: usize) {
        let add = |counter: &Atomic<u64>, n: usize| {
            counter.store(counter.load(Relaxed) + n as u64, Relaxed);
        };

        add(&self.bytes, meta + data);
        add(&self.blocks, blocks);
        add(&self.uncompressed, meta + blocks * BLOCK_BYTES);
    }
}

/// Sends blocks packed.
struct Packer {
    compressor: lz4::Compressor,
    /// [`Packed`], and what shrank.
    out: KVec<u8>,
}

impl Packer {
    /// May sleep.
    fn new() -> Result<Packer> {
        Ok(Packer {
            compressor: lz4::Compressor::new()?,
            out: KVec::from_elem(0, Packed::BYTES + Packed::MAX, GFP_KERNEL)?,
        })
    }

    /// Sends a block: how many bytes it took.
    fn send(&mut self, socket: &Socket, block: &[u8], more: bool) -> Result<usize> {
        let (head, body) = self.out.split_at_mut(Packed::BYTES);
        let shrunk = self.compressor.compress(block, body);

        head.copy_from_slice(&shrunk.map_or(Packed::Plain, Packed::Lz4).encode());
        match shrunk {
            Some(bytes) => {
                let out = self.out.get(..Packed::BYTES + bytes).ok_or(EIO)?;

                socket.send_all(out, more)?;
                Ok(out.len())
            }
            None => {
                socket.send_all(head, true)?;
                socket.send_all(block, more)?;
                Ok(Packed::BYTES + block.len())
            }
        }
    }
}

/// Receives packed blocks.
struct Unpacker {
    shrunk: KVec<u8>,
}

impl Unpacker {
    /// May sleep.
    fn new() -> Result<Unpacker> {
        Ok(Unpacker {
            shrunk: KVec::from_elem(0, Packed::MAX, GFP_KERNEL)?,
        })
    }

    /// Receives a block: how many bytes it took, or that what came is no packed block.
    fn recv(&mut self, socket: &Socket, block: &mut [u8]) -> Result<Result<usize, BadFrame>> {
        let mut head = [0; Packed::BYTES];

        socket.recv_exact(&mut head)?;
        let bytes = match Packed::decode(head) {
            Ok(Packed::Plain) => {
                socket.recv_exact(block)?;
                block.len()
            }
            Ok(Packed::Lz4(bytes)) => {
                let shrunk = self.shrunk.get_mut(..bytes).ok_or(EIO)?;

                socket.recv_exact(shrunk)?;
                if lz4::decompress(shrunk, block) != Some(block.len()) {
                    return Ok(Err(BadFrame));
                }
                bytes
            }
            Err(bad) => return Ok(Err(bad)),
        };
        Ok(Ok(Packed::BYTES + bytes))
    }
}

/// A connection to another member of the set.
#[pin_data]
pub(crate) struct Session {
    /// The other store.
    pub(crate) peer: Id,
    /// Tells it from others; both ends were given the same.
    pub(crate) nonce: u64,
    socket: Socket,
    /// Below the engine's lock.
    #[pin]
    outbox: Mutex<Outbox>,
    #[pin]
    wake: CondVar,
    /// It is to be ended by who may touch the socket.
    closing: Atomic<i32>,
    pub(crate) sent: Traffic,
    pub(crate) received: Traffic,
}

/// What a thread of a session does until an error ends the session.
type Body = fn(&Store, &Session) -> Result;

/// Both, with their names.
const BODIES: [(&CStr, Body); 2] = [(c"ddup_receive", receive), (c"ddup_send", send)];

/// The threads of a session, to be joined when they have left.
pub(crate) type Threads = [Option<Kthread>; 2];

impl Session {
    /// A session over `socket` that does nothing yet. May sleep.
    pub(crate) fn new(peer: Id, nonce: u64, socket: Socket) -> Result<Arc<Session>> {
        socket.set_send_timeout(SEND_TIMEOUT);
        Arc::pin_init(
            pin_init!(Session {
                peer,
                nonce,
                socket,
                outbox <- new_mutex!(
                    Outbox { frame: None, waits: false, over: false },
                    "ddup::Session::outbox"
                ),
                wake <- new_condvar!("ddup::Session::wake"),
                closing: Atomic::new(0),
                sent: Traffic::new(),
                received: Traffic::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// Starts both threads. If one can't be made the session is over; its part is left here. May
    /// sleep.
    pub(crate) fn start(session: &Arc<Session>, store: &Arc<Store>) -> (Threads, Result) {
        let spawn = |name, body: Body| {
            let (theirs, session) = (store.clone(), session.clone());

            Kthread::spawn(name, move |_| {
                let _noio = NoIo::enter();

                let _ = body(&theirs, &session);
                session.end();
                theirs.leave_session(&session);
            })
        };
        let mut threads = [None, None];
        let mut result = Ok(());
        for (thread, (name, body)) in threads.iter_mut().zip(BODIES) {
            match spawn(name, body) {
                Ok(spawned) => *thread = Some(spawned),
                Err(error) => {
                    result = Err(error);
                    session.end();
                    store.leave_session(session);
                }
            }
        }
        (threads, result)
    }

    /// Ends the session: both threads return from whatever they wait for. May sleep; not under the
    /// engine's lock.
    pub(crate) fn end(&self) {
        self.closing.store(1, Relaxed);
        {
            let mut outbox = self.outbox.lock();

            outbox.over = true;
            outbox.waits = false;
        }
        self.wake.notify_all();
        self.socket.shutdown();
    }

    /// Notes that the session is to end; somebody calls [`end`](Self::end). Any context.
    pub(crate) fn close(&self) {
        self.closing.store(1, Relaxed);
    }

    /// Whether it is to end, and [`end`](Self::end) was not called.
    pub(crate) fn is_to_end(&self) -> bool {
        self.is_closing() && !self.outbox.lock().over
    }

    /// Whether it has ended or is about to. Any context.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Relaxed) != 0
    }

    /// The sending thread has nothing to send: the next turn of the engine that has something for it
    /// is to [`deliver`](Self::deliver) that. Under the engine's lock, so that none is missed.
    pub(crate) fn wait(&self) {
        let mut outbox = self.outbox.lock();

        outbox.waits = !outbox.over;
    }

    /// Whether the sending thread waits for a frame.
    pub(crate) fn is_waiting(&self) -> bool {
        self.outbox.lock().waits
    }

    /// Gives a frame to the sending thread, which waits for one.
    pub(crate) fn deliver(&self, frame: Sending) {
        {
            let mut outbox = self.outbox.lock();

            outbox.frame = Some(frame);
            outbox.waits = false;
        }
        self.wake.notify_one();
    }

    /// Waits for what others deliver; `None` if the session is over.
    fn delivered(&self) -> Option<Sending> {
        let mut outbox = self.outbox.lock();

        loop {
            if outbox.over {
                return None;
            }
            if let Some(frame) = outbox.frame.take() {
                return Some(frame);
            }
            // Nobody signals a kernel thread; the state keeps it out of the load average.
            let _ = self.wake.wait_interruptible(&mut outbox);
        }
    }
}

/// The sending thread's work.
fn send(store: &Store, session: &Session) -> Result {
    let mut next = None;
    let ended = send_frames(store, session, &mut next);

    // The engine takes it for sent.
    if let Some(frame) = next {
        store.drop_blocks(&frame.blocks);
    }
    ended
}

/// Sends frames until an error ends the session. It looks for the next one before it sends one: those
/// that follow each other at once go in the same segments. What is not sent stays in `next`.
fn send_frames(store: &Store, session: &Session, next: &mut Option<Sending>) -> Result {
    let mut packer = Packer::new()?;

    *next = store.next_frame(session)?;
    loop {
        let frame = match next.take() {
            Some(frame) => frame,
            None => session.delivered().ok_or(EPIPE)?,
        };
        let blocks = store.read_blocks(&frame.blocks)?;

        *next = store.next_frame(session)?;
        send_frame(session, &mut packer, &frame, &blocks, next.is_some())?;
    }
}

/// Sends a frame and its blocks. `more` says that another one follows at once.
fn send_frame(
    session: &Session,
    packer: &mut Packer,
    frame: &Sending,
    blocks: &[PageBuf],
    more: bool,
) -> Result {
    let socket = &session.socket;
    let count = blocks.len();
    let packed = wire::is_packed(&frame.meta);
    let mut data = 0;

    socket.send_all(&frame.meta, more || count > 0)?;
    for (at, block) in blocks.iter().enumerate() {
        let more = more || at + 1 < count;

        data += if packed {
            packer.send(socket, &block[..], more)?
        } else {
            socket.send_all(&block[..], more)?;
            BLOCK_BYTES
        };
    }
    session.sent.add(frame.meta.len(), count, data);
    Ok(())
}

/// The receiving thread's work.
fn receive(store: &Store, session: &Session) -> Result {
    let mut meta = KVec::with_capacity(META_BYTES_MAX, GFP_KERNEL)?;
    let fingerprinter = Fingerprinter::new(store.fingerprint().ok_or(ENODEV)?);
    let mut unpacker = Unpacker::new()?;

    loop {
        receive_frame(store, session, &fingerprinter, &mut unpacker, &mut meta)?;
    }
}

/// No frame at all, or not its blocks: the engine refuses that, and counts it.
fn refuse(store: &Store, session: &Session, meta: &[u8]) -> Result {
    store.take_frame(session, meta, KVec::new(), &[])?;
    Err(errno(kstage::bindings::EPROTO))
}

/// Receives a frame, names and checks its blocks, and gives all that to the engine. An error ends the
/// session.
fn receive_frame(
    store: &Store,
    session: &Session,
    fingerprinter: &Fingerprinter,
    unpacker: &mut Unpacker,
    meta: &mut KVec<u8>,
) -> Result {
    let socket = &session.socket;

    meta.resize(HEADER_BYTES, 0, GFP_KERNEL)?;
    socket.recv_exact(meta)?;
    let Ok((length, data)) = wire::lengths(meta) else {
        return refuse(store, session, meta);
    };

    meta.resize(length, 0, GFP_KERNEL)?;
    socket.recv_exact(meta.get_mut(HEADER_BYTES..).unwrap_or(&mut []))?;

    let count = data / BLOCK_BYTES;
    let packed = wire::is_packed(meta);
    let mut blocks = KVec::with_capacity(count, GFP_KERNEL)?;
    let mut data = 0;
    for _ in 0..count {
        let mut page = store.receive_page()?;

        data += if packed {
            match unpacker.recv(socket, &mut page[..])? {
                Ok(bytes) => bytes,
                Err(BadFrame) => return refuse(store, session, meta),
            }
        } else {
            socket.recv_exact(&mut page[..])?;
            BLOCK_BYTES
        };
        blocks.push(page, GFP_KERNEL)?;
    }
    session.received.add(length, count, data);
    let mut contents = KVec::with_capacity(count, GFP_KERNEL)?;
    for block in blocks.iter() {
        contents.push(fingerprinter.describe(block), GFP_KERNEL)?;
    }
    store.take_frame(session, meta, blocks, &contents)
}
