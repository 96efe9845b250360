// SPDX-License-Identifier: GPL-2.0

//! A module that exercises what the driver does not use, or not on every path: threads, sockets,
//! requests that end in part and requests that time out; LZ4 with data that no compressor made; and
//! rotations.
//!
//! Rotations, LZ4, threads, and a socket if one is given as `fd`, are tried while the module is
//! loaded: it refuses to load if one of them fails. The rest is seen from userspace on
//! `/dev/kstage-test`, whose blocks of 4 KiB read as their number. Of a request that reaches
//! [`BAD_BLOCK`] only what lies before it succeeds; one that begins at [`LOST_BLOCK`] is kept until
//! its time is over.

#![deny(unsafe_code)]

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, ArcBorrow, Mutex,
    },
};
use kstage::{
    block::{
        mq::{self, Disk, Limits, Request, TagSet, TimedOut},
        Op, Status, SECTOR_SHIFT,
    },
    cpu::Bmi2,
    kthread::Kthread,
    lz4,
    socket::Socket,
};

module! {
    type: KstageTest,
    name: "kstage_test",
    authors: ["The ddup authors"],
    description: "Exercises the abstractions of kstage",
    license: "GPL",
    params: {
        fd: i32 {
            default: -1,
            description: "a connected TCP socket whose peer echoes what it gets",
        },
    },
}

/// Bytes of a block.
const BLOCK_SIZE: u32 = 4096;

/// Blocks of the disk.
const BLOCKS: u64 = 256;

/// This block and those behind it can't be read, up to [`LOST_BLOCK`].
const BAD_BLOCK: u64 = 64;

/// Requests that begin here get no answer.
const LOST_BLOCK: u64 = 128;

/// The time that a request has.
const TIMEOUT_MS: u32 = 1000;

/// Bytes that go through the socket: more than it buffers.
const ECHO_BYTES: usize = 8 << 20;

/// Bytes that the socket gets at once.
const CHUNK: usize = 64 << 10;

/// Compressed blocks that are damaged, and checked to be harmless.
const DAMAGED: u64 = 5_000;

/// Room for a compressed block.
const SHRUNK_BYTES: usize = 3584;

/// Bytes behind a buffer that nobody may write to.
const GUARD: usize = 64;

/// The next number of a sequence that looks random (xorshift).
fn draw(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 16) as usize
}

/// The processor's rotation is the language's.
fn try_rotations() -> Result {
    let Some(bmi2) = Bmi2::get() else {
        return Ok(());
    };
    let mut state = 0x6464_7570;

    for _ in 0..100 {
        let word = draw(&mut state) as u64 ^ (draw(&mut state) as u64) << 24;
        let same = bmi2.rotate_right::<1>(word) == word.rotate_right(1)
            && bmi2.rotate_right::<24>(word) == word.rotate_right(24)
            && bmi2.rotate_right::<32>(word) == word.rotate_right(32)
            && bmi2.rotate_right::<63>(word) == word.rotate_right(63);

        if !same {
            return Err(EIO);
        }
    }
    Ok(())
}

/// What shrinks comes back the same, what does not is refused, and whatever is decompressed writes
/// nothing outside of its buffer.
fn try_lz4() -> Result {
    let block = BLOCK_SIZE as usize;
    let mut state = 0x6464_7570;
    let mut compressor = lz4::Compressor::new()?;
    let mut shrunk = KVec::from_elem(0u8, SHRUNK_BYTES, GFP_KERNEL)?;
    let mut plain = KVec::from_elem(0u8, block, GFP_KERNEL)?;
    let mut again = KVec::from_elem(0xa5u8, block + GUARD, GFP_KERNEL)?;

    for byte in plain.iter_mut() {
        *byte = draw(&mut state) as u8;
    }
    if compressor.compress(&plain, &mut shrunk).is_some() {
        return Err(EINVAL);
    }
    let (mut shrank, mut refused) = (0, 0);
    for round in 0..DAMAGED {
        if round % 16 == 0 {
            // From one letter to many: long and short matches, few and many literals.
            let letters = 1 + (round / 16 % 8) as usize;

            for byte in plain.iter_mut() {
                *byte = (draw(&mut state) % letters) as u8;
            }
        }
        let Some(bytes) = compressor.compress(&plain, &mut shrunk) else {
            continue;
        };
        shrank += 1;
        let (room, guard) = again.split_at_mut(block);
        let compressed = shrunk.get_mut(..bytes).ok_or(EIO)?;
        if lz4::decompress(compressed, room) != Some(block) || *room != plain[..] {
            return Err(EIO);
        }
        for _ in 0..1 + draw(&mut state) % 8 {
            let at = draw(&mut state) % bytes;

            if let Some(byte) = compressed.get_mut(at) {
                *byte = draw(&mut state) as u8;
            }
        }
        let short = draw(&mut state) % bytes;
        for damaged in [&compressed[..], compressed.get(..short).unwrap_or(&[])] {
            match lz4::decompress(damaged, room) {
                Some(bytes) if bytes > block => return Err(EOVERFLOW),
                Some(_) => {}
                None => refused += 1,
            }
        }
        if guard.iter().any(|&byte| byte != 0xa5) {
            return Err(EOVERFLOW);
        }
    }
    // Else hardly anything was tried, or damaged.
    if shrank < DAMAGED / 2 || refused < shrank {
        pr_err!("lz4: {shrank} shrank, {refused} refused\n");
        return Err(EINVAL);
    }
    pr_info!("ok lz4: {shrank} shrank, {refused} refused\n");
    Ok(())
}

/// A thread runs and ends by itself; another runs until it is told to stop.
fn try_threads() -> Result {
    let ran = Arc::new(Atomic::new(0), GFP_KERNEL)?;
    let in_thread = ran.clone();
    let ends = Kthread::spawn(c"kstage-test-ends", move |_| in_thread.store(1, Relaxed))?;

    ends.wait();
    if ran.load(Relaxed) != 1 {
        return Err(EINVAL);
    }
    drop(ends);

    let in_thread = ran.clone();
    let runs = Kthread::spawn(c"kstage-test-runs", move |stop| {
        while !stop.is_set() {
            kernel::time::delay::fsleep(kernel::time::Delta::from_millis(1));
        }
        in_thread.store(2, Relaxed);
    })?;

    drop(runs);
    if ran.load(Relaxed) != 2 {
        return Err(EINVAL);
    }
    pr_info!("ok threads\n");
    Ok(())
}

/// What is sent comes back, and a thread that waits for more is woken by a shutdown.
fn try_socket(fd: i32) -> Result {
    let socket = Arc::new(Socket::from_fd(fd)?, GFP_KERNEL)?;
    let sender = socket.clone();
    let sends = Kthread::spawn(c"kstage-test-send", move |_| {
        for at in 0..ECHO_BYTES / CHUNK {
            let sent = KVec::from_elem(at as u8, CHUNK, GFP_KERNEL)
                .map_err(Error::from)
                .and_then(|data| sender.send_all(&data, at % 2 == 0));

            if let Err(err) = sent {
                pr_err!("send: {err:?}\n");
                return sender.shutdown();
            }
        }
    })?;
    let mut got = KVec::from_elem(0, CHUNK, GFP_KERNEL)?;

    for at in 0..ECHO_BYTES / CHUNK {
        socket.recv_exact(&mut got)?;
        if got.iter().any(|&byte| byte != at as u8) {
            return Err(EIO);
        }
    }
    drop(sends);

    let woken = Arc::new(Atomic::new(0), GFP_KERNEL)?;
    let (receiver, in_thread) = (socket.clone(), woken.clone());
    let receives = Kthread::spawn(c"kstage-test-recv", move |_| {
        let result = receiver.recv_exact(&mut [0; 1]);

        in_thread.store(1 + i32::from(result.is_err()), Relaxed);
    })?;

    kernel::time::delay::fsleep(kernel::time::Delta::from_millis(100));
    if woken.load(Relaxed) != 0 {
        return Err(EIO);
    }
    socket.shutdown();
    receives.wait();
    if woken.load(Relaxed) != 2 {
        return Err(EINVAL);
    }
    pr_info!("ok sockets\n");
    Ok(())
}

/// What requests of the disk share.
#[pin_data]
struct Shared {
    /// The request that gets no answer.
    #[pin]
    lost: Mutex<Option<Request<Queue>>>,
}

/// The block driver.
struct Queue;

impl mq::Operations for Queue {
    type QueueData = Shared;
    type RequestData = ();

    fn new_request_data() -> Result {
        Ok(())
    }

    fn queue_rq(
        shared: ArcBorrow<'_, Shared>,
        request: Request<Self>,
        _last: bool,
    ) -> Result<(), Request<Self>> {
        if request.op() != Op::Read {
            request.end(Err(Status::NOTSUPP));
            return Ok(());
        }
        let first = request.sector() << SECTOR_SHIFT >> BLOCK_SIZE.trailing_zeros();
        let count = u64::from(request.bytes() / BLOCK_SIZE);

        if first == LOST_BLOCK {
            // The one before, if it is still there, fails by being dropped.
            *shared.lost.lock() = Some(request);
            return Ok(());
        }
        let mut cursor = request.cursor();

        for block in first..first + count {
            for _ in 0..BLOCK_SIZE / 8 {
                cursor.copy_from(&block.to_le_bytes());
            }
        }
        let good = match (first..first + count).find(|b| (BAD_BLOCK..LOST_BLOCK).contains(b)) {
            Some(bad) => (bad - first) as u32 * BLOCK_SIZE,
            None => request.bytes(),
        };
        request.end_partial(good, Status::MEDIUM);
        Ok(())
    }

    fn timed_out(shared: ArcBorrow<'_, Shared>, request: TimedOut) {
        pr_info!("timed out: {:?}\n", request);
        if let Some(lost) = shared.lost.lock().take() {
            lost.end(Err(Status::IOERR));
        }
    }
}

/// The loaded module.
struct KstageTest {
    _disk: Disk<Queue>,
}

impl kernel::Module for KstageTest {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // A reference in 7.2, a value in 7.3.
        let fd = module_parameters::fd.value();
        let fd: &i32 = core::borrow::Borrow::borrow(&fd);

        try_rotations()?;
        try_lz4()?;
        try_threads()?;
        if *fd >= 0 {
            try_socket(*fd)?;
        }
        let limits = Limits {
            capacity_bytes: BLOCKS * u64::from(BLOCK_SIZE),
            logical_block_size: BLOCK_SIZE,
            physical_block_size: BLOCK_SIZE,
            io_min: BLOCK_SIZE,
            io_opt: 0,
            max_bytes: 64 * BLOCK_SIZE,
            max_segments: 64,
            max_discard_bytes: 0,
            discard_granularity: 0,
            max_write_zeroes_bytes: 0,
            write_cache: false,
            fua: false,
            stable_writes: false,
            rotational: false,
            read_only: true,
        };
        let shared = Arc::pin_init(
            pin_init!(Shared {
                lost <- new_mutex!(None, "kstage_test::lost"),
            }),
            GFP_KERNEL,
        )?;
        let tags = TagSet::new(1, 16, TIMEOUT_MS)?;

        Ok(KstageTest {
            _disk: Disk::add(c"kstage-test", tags, &limits, shared, None)?,
        })
    }
}
