// SPDX-License-Identifier: GPL-2.0

//! Keeps the stores of replica sets connected, and nothing else: who is primary and who is in sync is
//! a person's affair.
//!
//! Of two stores the one with the lower UUID calls, so that there is one connection and not two. A
//! connection is made here, agreed upon by a [`handshake`], and handed to the kernel, which keeps it
//! whatever becomes of this process. What there is to connect is looked for again and again, and when
//! the driver says that something has happened; nothing is remembered that the driver knows.

use crate::{
    config::{Peer, Replication, Wanted},
    error::{describe, Result},
    family::{
        format_uuid,
        set::{Link, SetState},
        Driver,
    },
    replica::handshake::{self, Hail, PATIENCE},
    store, sys, target,
};
use ddup_engine::engine::replication::{config::MemberState, types::Id};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    path::PathBuf,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc, Arc, Mutex, MutexGuard, PoisonError,
    },
    thread,
    time::{Duration, Instant},
};
use tracing::{info, warn};

/// The most connections that are listened to at once.
const CALLERS_MAX: usize = 16;
/// Time between two looks, if nothing happens.
const PAUSE: Duration = Duration::from_secs(1);
/// Times between two calls of a peer.
const BACKOFF: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];
/// Time between two complaints about one address.
const QUIET: Duration = Duration::from_secs(60);

/// A store and how it is connected, as its file says.
#[derive(Clone, Debug)]
struct Site {
    path: PathBuf,
    replication: Replication,
}

/// How calling a peer goes.
#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    /// In vain since it was last connected.
    failed: usize,
    /// Not before this.
    next: Option<Instant>,
    /// One goes on.
    running: bool,
}

impl Calls {
    fn are_due(&self, now: Instant) -> bool {
        !self.running && self.next.is_none_or(|next| now >= next)
    }

    /// One has ended. It counts as failed until the driver says that the peer is connected.
    fn ended(&mut self, now: Instant) {
        let pause = BACKOFF[self.failed.min(BACKOFF.len() - 1)];
        *self = Self {
            failed: self.failed + 1,
            next: Some(now + pause),
            running: false,
        };
    }
}

#[derive(Default)]
struct State {
    sites: Vec<Site>,
    /// With a number for each: one that was shut does not take its successor for itself.
    listeners: BTreeMap<SocketAddr, (usize, TcpListener)>,
    listened: usize,
    calls: BTreeMap<(Id, Id), Calls>,
    complaints: BTreeMap<(IpAddr, String), Instant>,
}

/// All of it, shared by the threads.
#[derive(Clone)]
pub struct Replicator {
    state: Arc<Mutex<State>>,
    callers: Arc<AtomicUsize>,
    wake: mpsc::SyncSender<()>,
}

/// A store that is attached, in a set, and wanted to be connected.
struct Seat<'a> {
    site: &'a Site,
    state: &'a SetState,
}

impl Replicator {
    /// Starts with nothing to connect.
    pub fn start() -> Self {
        let (wake, woken) = mpsc::sync_channel(1);
        let replicator = Self {
            state: Arc::default(),
            callers: Arc::default(),
            wake,
        };
        let looking = replicator.clone();
        thread::spawn(move || loop {
            // Why there is nothing to see is said by who looks for the driver.
            let _ = looking.look();
            match woken.recv_timeout(PAUSE) {
                Ok(()) | Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        });
        replicator
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has happened.
    pub fn wake(&self) {
        // One that is on its way is enough.
        let _ = self.wake.try_send(());
    }

    /// What the files want now. Connections that there are stay.
    pub fn want(&self, wanted: &[Wanted]) {
        let site = |wanted: &Wanted| {
            Some(Site {
                path: wanted.store.clone(),
                replication: wanted.replication.clone()?,
            })
        };
        let mut state = self.state();
        state.sites = wanted.iter().filter_map(site).collect();
        state.calls.clear();
        let addresses: BTreeSet<SocketAddr> = state
            .sites
            .iter()
            .flat_map(|site| &site.replication.listen)
            .copied()
            .collect();
        state.listeners.retain(|address, (_, listener)| {
            let stays = addresses.contains(address);
            if !stays {
                info!(%address, "listening no more");
                // The thread that waits in it ends.
                sys::shut(listener.as_fd());
            }
            stays
        });
        drop(state);
        self.listen();
        self.wake();
    }

    /// Listens where it is wanted and not done: an address may come late.
    fn listen(&self) {
        let mut state = self.state();
        // Several stores may be listened for at one.
        let wanted: BTreeSet<SocketAddr> = state
            .sites
            .iter()
            .flat_map(|site| &site.replication.listen)
            .filter(|address| !state.listeners.contains_key(address))
            .copied()
            .collect();
        for address in wanted {
            let listener = TcpListener::bind(address)
                .and_then(|listener| Ok((listener.try_clone()?, listener)));
            match listener {
                Ok((kept, listener)) => {
                    info!(%address, "listening for members of replica sets");
                    state.listened += 1;
                    let number = state.listened;
                    state.listeners.insert(address, (number, kept));
                    let replicator = self.clone();
                    thread::spawn(move || replicator.serve(&listener, address, number));
                }
                Err(failure) => {
                    let words = format!("cannot listen at {address}: {}", describe(&failure));
                    complain(&mut state, address.ip(), words);
                }
            }
        }
    }

    /// Takes connections until the listener is shut.
    fn serve(&self, listener: &TcpListener, address: SocketAddr, number: usize) {
        let is_shut = || {
            let state = self.state();
            state.listeners.get(&address).is_none_or(|l| l.0 != number)
        };
        loop {
            match listener.accept() {
                Ok((stream, from)) => self.take(stream, from),
                Err(_) if is_shut() => return,
                Err(failure) => {
                    let words = format!("cannot take connections: {}", describe(&failure));
                    complain(&mut self.state(), address.ip(), words);
                    thread::sleep(PAUSE);
                }
            }
        }
    }

    /// Answers a connection on a thread of its own, if it comes from a peer.
    fn take(&self, mut stream: TcpStream, from: SocketAddr) {
        let ip = from.ip().to_canonical();
        let is_known = |peer: &Peer| peer.address.ip().to_canonical() == ip;
        let mut state = self.state();
        let mut peers = state.sites.iter().flat_map(|site| &site.replication.peers);
        if !peers.any(is_known) {
            complain(&mut state, ip, "it is the address of no peer".to_owned());
            return;
        }
        if self.callers.fetch_add(1, Ordering::Relaxed) >= CALLERS_MAX {
            self.callers.fetch_sub(1, Ordering::Relaxed);
            complain(&mut state, ip, "too many connections at once".to_owned());
            return;
        }
        drop(state);
        let replicator = self.clone();
        thread::spawn(move || {
            if let Err(failure) = replicator.answer(&mut stream, ip) {
                complain(&mut replicator.state(), ip, failure.to_string());
            }
            replicator.callers.fetch_sub(1, Ordering::Relaxed);
        });
    }

    fn answer(&self, stream: &mut TcpStream, ip: IpAddr) -> Result {
        let sites = self.state().sites.clone();
        let random = u64::from_ne_bytes(store::random()?);
        let admit = |hail: &Hail| admit(&sites, hail, ip).ok().flatten();
        let answered = handshake::answer(stream, random, PATIENCE, admit);
        let (hail, index, nonce) = answered.map_err(|failure| failed(&failure))?;
        Driver::connect()?.peer(index, &hail.from, stream.as_fd(), nonce)?;
        info!(
            "/dev/ddup{index}: peer {} has called from {ip}",
            format_uuid(&hail.from)
        );
        Ok(())
    }

    /// Calls whom this side is to call and who is away.
    fn look(&self) -> Result {
        self.listen();
        let sites = self.state().sites.clone();
        if sites.is_empty() {
            return Ok(());
        }
        let mut driver = Driver::connect()?;
        let sets = driver.sets()?;
        let seats = seats(&mut driver, &sites, &sets)?;
        let now = Instant::now();
        for seat in &seats {
            for peer in &seat.site.replication.peers {
                let key = (seat.state.store, peer.store);
                let mut state = self.state();
                let calls = state.calls.entry(key).or_default();
                match called(seat.state, &peer.store) {
                    Called::Not => {}
                    Called::Connected => *calls = Calls::default(),
                    Called::Away if !calls.are_due(now) => {}
                    Called::Away => {
                        calls.running = true;
                        drop(state);
                        self.call(seat.state, peer);
                    }
                }
            }
        }
        Ok(())
    }

    fn call(&self, state: &SetState, peer: &Peer) {
        let (replicator, peer) = (self.clone(), *peer);
        let (index, own, set) = (state.index, state.store, state.set);
        thread::spawn(move || {
            let connected = connect(index, own, set, &peer);
            let mut state = replicator.state();
            if let Some(calls) = state.calls.get_mut(&(own, peer.store)) {
                calls.ended(Instant::now());
            }
            match connected {
                Ok(()) => info!(
                    "/dev/ddup{index}: called peer {} at {}",
                    format_uuid(&peer.store),
                    peer.address
                ),
                Err(failure) => complain(&mut state, peer.address.ip(), failure.to_string()),
            }
        });
    }
}

fn connect(index: u32, own: Id, set: Id, peer: &Peer) -> Result {
    let hail = Hail {
        set,
        from: own,
        to: peer.store,
        random: u64::from_ne_bytes(store::random()?),
    };
    let session = || {
        let mut stream = TcpStream::connect_timeout(&peer.address, PATIENCE)?;
        let nonce = handshake::call(&mut stream, &hail, PATIENCE)?;
        Ok((stream, nonce))
    };
    let (stream, nonce) = session().map_err(|failure: io::Error| failed(&failure))?;
    Driver::connect()?.peer(index, &peer.store, stream.as_fd(), nonce)
}

fn failed(failure: &io::Error) -> crate::error::Error {
    let exit = crate::error::Exit::from_errno(failure.raw_os_error().unwrap_or(0));
    crate::error::Error::new(exit, describe(failure))
}

/// Says something about an address, if it was not said lately.
fn complain(state: &mut State, ip: IpAddr, words: String) {
    let now = Instant::now();
    state
        .complaints
        .retain(|_, said| now.duration_since(*said) < QUIET);
    let key = (ip, words);
    // What babblers make is bounded.
    if state.complaints.contains_key(&key) || state.complaints.len() >= 256 {
        return;
    }
    warn!("{ip}: {}", key.1);
    state.complaints.insert(key, now);
}

/// What is to be done about a peer.
#[derive(Debug, PartialEq)]
enum Called {
    /// Nothing: it is the other side that calls, or it is no member that gets anything.
    Not,
    /// It is there.
    Connected,
    /// It is to be called.
    Away,
}

fn called(state: &SetState, peer: &Id) -> Called {
    if state.store >= *peer || !is_member(state, peer) {
        return Called::Not;
    }
    match state.peer_state(peer).map(|peer| peer.link) {
        None | Some(Link::Absent) => Called::Away,
        _ => Called::Connected,
    }
}

/// Whether a store is a member that gets something. A store that no configuration names yet knows
/// those that invited it.
fn is_member(state: &SetState, peer: &Id) -> bool {
    let member = state.config.as_ref().and_then(|config| config.member(peer));
    member.is_some_and(|member| member.state != MemberState::Out)
}

/// The device of the store that is called, if that is by a peer of it.
fn admit(sites: &[Site], hail: &Hail, ip: IpAddr) -> Result<Option<u32>> {
    let mut driver = Driver::connect()?;
    let sets = driver.sets()?;
    let seats = seats(&mut driver, sites, &sets)?;
    let wanted = |seat: &&Seat<'_>| is_wanted(&seat.site.replication, seat.state, hail, ip);
    Ok(seats.iter().find(wanted).map(|seat| seat.state.index))
}

fn is_wanted(replication: &Replication, state: &SetState, hail: &Hail, ip: IpAddr) -> bool {
    let known = |peer: &Peer| peer.store == hail.from && peer.address.ip().to_canonical() == ip;
    state.store == hail.to
        && state.set == hail.set
        && hail.from < hail.to
        && replication.peers.iter().any(known)
        && is_member(state, &hail.from)
}

/// The stores of the files that are attached and in a set.
fn seats<'a>(
    driver: &mut Driver,
    sites: &'a [Site],
    sets: &'a [SetState],
) -> Result<Vec<Seat<'a>>> {
    let devices = driver.devices()?;
    let mut seats = Vec::new();
    for site in sites {
        let Some(identity) = target::identity(&site.path) else {
            continue;
        };
        let attached = devices
            .iter()
            .find(|device| target::stores(device).contains(&identity));
        let store = attached.and_then(|device| device.store_uuid.as_deref());
        let state = sets
            .iter()
            .find(|state| Some(format_uuid(&state.store).as_str()) == store);
        seats.extend(state.map(|state| Seat { site, state }));
    }
    Ok(seats)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{family::set::PeerState, replica::change};

    const LOW: Id = [1; 16];
    const HIGH: Id = [2; 16];
    const SET: Id = [5; 16];

    /// A store of the set that LOW and HIGH are members of.
    fn state(own: Id, link: Link) -> SetState {
        let config = change::first(SET, own, [[3; 16], [4; 16]]).unwrap();
        let mut state = SetState {
            store: own,
            set: SET,
            role: Some(crate::family::set::Role::Primary),
            config: Some(config),
            ..SetState::default()
        };
        let other = if own == LOW { HIGH } else { LOW };
        let base = change::Base::new(&state, [[6; 16], [7; 16]]).unwrap();
        state.config = Some(change::add(&base, &other).unwrap());
        state.peers = vec![PeerState {
            store: other,
            link,
            ..PeerState::default()
        }];
        state
    }

    fn out(mut state: SetState, store: &Id) -> SetState {
        if let Some(config) = state.config.as_mut() {
            config
                .members
                .iter_mut()
                .filter(|member| member.store == *store)
                .for_each(|member| member.state = MemberState::Out);
        }
        state
    }

    #[test]
    fn of_two_stores_one_calls_and_only_while_the_other_is_away() {
        assert_eq!(called(&state(LOW, Link::Absent), &HIGH), Called::Away);
        assert_eq!(called(&state(HIGH, Link::Absent), &LOW), Called::Not);
        for link in [Link::Greeting, Link::Connected] {
            assert_eq!(called(&state(LOW, link), &HIGH), Called::Connected);
        }
        assert_eq!(called(&state(LOW, Link::Absent), &[9; 16]), Called::Not);
        let shrunk = out(state(LOW, Link::Absent), &HIGH);
        assert_eq!(called(&shrunk, &HIGH), Called::Not);
    }

    #[test]
    fn only_configured_peers_are_answered() {
        let address: SocketAddr = "192.0.2.1:7789".parse().unwrap();
        let replication = Replication {
            listen: Vec::new(),
            peers: vec![Peer {
                store: LOW,
                address,
            }],
        };
        let hail = Hail {
            set: SET,
            from: LOW,
            to: HIGH,
            random: 1,
        };
        let state = state(HIGH, Link::Absent);
        let wanted = |hail: &Hail, ip: IpAddr| is_wanted(&replication, &state, hail, ip);
        assert!(wanted(&hail, address.ip()));
        assert!(!wanted(&hail, "192.0.2.9".parse().unwrap()));
        for wrong in [
            Hail {
                set: [9; 16],
                ..hail
            },
            Hail {
                from: [0; 16],
                ..hail
            },
            Hail {
                to: [9; 16],
                ..hail
            },
            Hail {
                from: HIGH,
                to: LOW,
                ..hail
            },
        ] {
            assert!(!wanted(&wrong, address.ip()), "{wrong:?}");
        }
        let shrunk = out(state, &LOW);
        assert!(!is_wanted(&replication, &shrunk, &hail, address.ip()));
    }

    #[test]
    fn who_does_not_answer_is_called_less_and_less_often() {
        let mut now = Instant::now();
        let mut calls = Calls::default();
        assert!(calls.are_due(now));
        let mut pauses = Vec::new();
        for _ in 0..8 {
            calls.running = true;
            assert!(!calls.are_due(now + QUIET));
            calls.ended(now);
            assert!(!calls.are_due(now));
            let pause = calls.next.unwrap() - now;
            now += pause;
            assert!(calls.are_due(now));
            pauses.push(pause);
        }
        assert!(pauses.is_sorted() && pauses[0] < pauses[7]);
        assert_eq!(pauses[7], BACKOFF[BACKOFF.len() - 1]);
    }

    #[test]
    fn listeners_follow_the_files_and_strangers_are_hung_up_on() {
        use std::io::Read;
        let replicator = Replicator::start();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let wanted = |peer: &str| {
            let text = format!(
                "store = '/nowhere/store'\n[set]\ntransport = 'plain'\nlisten = ['{address}']\n\
                 [[peer]]\nstore = '{}'\naddress = '{peer}:1'",
                format_uuid(&LOW)
            );
            [crate::config::parse(std::path::Path::new("/etc/ddup/a.toml"), &text).unwrap()]
        };
        let hung_up = || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let hail = Hail {
                set: SET,
                from: LOW,
                to: HIGH,
                random: 1,
            };
            // Who is no peer may be gone before it is written.
            let _ = std::io::Write::write_all(&mut stream, &hail.write());
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            bytes.is_empty()
        };
        // Not from the address of a peer; and from it, for a store that is not there.
        for peer in ["192.0.2.1", "127.0.0.1"] {
            replicator.want(&wanted(peer));
            assert!(hung_up());
        }
        replicator.want(&[]);
        assert!(TcpStream::connect(address).is_err());
        replicator.want(&wanted("127.0.0.1"));
        assert!(hung_up());
    }
}
