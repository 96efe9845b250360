// SPDX-License-Identifier: GPL-2.0

//! `ddup peer connect --local`.

use crate::{
    cli::PeerConnectArgs,
    error::{describe, Error, Exit, Result},
    family::set::Link,
    store,
    verb::member::Member,
};
use std::{
    io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

/// Times that the stores are connected: whoever learns of a new reign ends its sessions.
const ATTEMPTS: u32 = 5;
/// Time for two stores to agree on what they have.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

/// Connects two stores that this kernel has, over TCP.
pub fn connect(args: &PeerConnectArgs) -> Result {
    let mut one = Member::open(&args.device)?;
    let mut other = Member::open(&args.other)?;
    let refused = |words: &str| Err(Error::new(Exit::Usage, words));
    if one.state.store == other.state.store {
        return refused("they are volumes of one store");
    }
    if one.state.set != other.state.set {
        return refused("their stores are not of the same replica set");
    }
    for _ in 0..ATTEMPTS {
        join(&mut one, &mut other)?;
        if stays(&mut one, &mut other)? {
            return Ok(());
        }
    }
    Err(Error::new(
        Exit::Failed,
        "the connection ends as soon as it is made: `ddup events` and the kernel's log say more",
    ))
}

/// Gives each kernel's store one end of a connection.
fn join(one: &mut Member, other: &mut Member) -> Result {
    let (near, far) = sockets().map_err(|error| {
        let words = describe(&error);
        Error::new(
            Exit::Failed,
            format!("no connection through the loopback device: {words}"),
        )
    })?;
    let nonce = nonce()?;
    let (near, far) = (near.as_fd(), far.as_fd());
    one.driver
        .peer(one.device.index, &other.state.store, near, nonce)?;
    other
        .driver
        .peer(other.device.index, &one.state.store, far, nonce)
}

/// Waits until data may flow, or the connection has ended. Without a primary, or with a history that
/// is kept, they stay at the greeting, which is as far as they get.
fn stays(one: &mut Member, other: &mut Member) -> Result<bool> {
    let since = Instant::now();
    loop {
        one.refresh()?;
        other.refresh()?;
        let links = [
            one.peer(&other.state.store)?.link,
            other.peer(&one.state.store)?.link,
        ];
        if links.contains(&Link::Absent) {
            return Ok(false);
        }
        if links == [Link::Connected; 2] || since.elapsed() >= PATIENCE {
            return Ok(true);
        }
        thread::sleep(PAUSE);
    }
}

/// Two ends of one connection.
fn sockets() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let address = near.local_addr()?;
    loop {
        // Somebody else might have been faster.
        let (far, from) = listener.accept()?;
        if from == address {
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            return Ok((near, far));
        }
    }
}

/// The number of a session; never 0.
fn nonce() -> Result<u64> {
    Ok(u64::from_ne_bytes(store::random()?) | 1)
}
