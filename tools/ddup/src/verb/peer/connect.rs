// SPDX-License-Identifier: GPL-2.0

//! `ddup peer connect --local`.

use crate::{
    cli::PeerConnectArgs,
    error::{describe, Error, Exit, Result},
    store,
    verb::member::Member,
};
use std::{
    io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsFd,
};

/// Connects two stores that this kernel has, over TCP.
pub fn connect(args: &PeerConnectArgs) -> Result {
    let mut one = Member::open(&args.device)?;
    let other = Member::open(&args.other)?;
    let refused = |words: &str| Err(Error::new(Exit::Usage, words));
    if one.state.store == other.state.store {
        return refused("they are volumes of one store");
    }
    if one.state.set != other.state.set {
        return refused("their stores are not of the same replica set");
    }
    let (near, far) = sockets().map_err(|error| {
        Error::new(
            Exit::Failed,
            format!(
                "no connection through the loopback device: {}",
                describe(&error)
            ),
        )
    })?;
    let nonce = nonce()?;
    let driver = &mut one.driver;
    driver.peer(one.device.index, &other.state.store, near.as_fd(), nonce)?;
    driver.peer(other.device.index, &one.state.store, far.as_fd(), nonce)
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
