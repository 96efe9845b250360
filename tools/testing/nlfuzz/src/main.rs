// SPDX-License-Identifier: GPL-2.0

//! Sends random and broken messages to the driver's netlink family.
//!
//! Each message starts from what the spec says of a command, then goes wrong: values at and beyond
//! their bounds, wrong types, wrong lengths, attributes that are missing, repeated or unknown,
//! strings of odd bytes, headers that lie, flipped bits. The kernel must answer or refuse each, and
//! go on to answer a proper request. What it says in its log is for the caller to look at.
//!
//! The same seed sends the same messages.

mod random;
mod shape;

use clap::Parser;
use ddup_tool::family::Driver;
use netlink_sys::{protocols::NETLINK_GENERIC, Socket, SocketAddr};
use random::Random;
use shape::Known;
use std::{
    collections::BTreeMap,
    io,
    net::{TcpListener, TcpStream},
    process::ExitCode,
};

/// Messages between two proper requests.
const CHECK_EVERY: u64 = 500;

/// Send random and broken messages to the netlink family of ddup
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Messages to send
    #[arg(long, default_value_t = 10_000)]
    messages: u64,
    /// Start of the generator
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Fail if any change succeeds: for a run without privileges
    #[arg(long)]
    unprivileged: bool,
    /// Paths that attach is given, beside odd ones
    path: Vec<String>,
}

/// How often each answer came: an errno, 0 for success.
type Answers = BTreeMap<i32, u64>;

fn main() -> ExitCode {
    let cli = Cli::parse();
    println!("seed {}, {} messages", cli.seed, cli.messages);
    match run(&cli) {
        Ok(answers) => {
            for (errno, count) in answers {
                let words = match errno {
                    0 => "success".to_owned(),
                    errno => io::Error::from_raw_os_error(errno).to_string(),
                };
                println!("{count:>8} {words}");
            }
            ExitCode::SUCCESS
        }
        Err(text) => {
            eprintln!("nlfuzz: seed {}: {text}", cli.seed);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<Answers, String> {
    let mut driver = Driver::connect().map_err(|error| error.to_string())?;
    let family = driver.family();
    let mut socket = open().map_err(|error| format!("cannot open a socket: {error}"))?;
    let mut random = Random::new(cli.seed);
    let mut answers = Answers::new();
    let mut known = Known {
        paths: cli.path.clone(),
        ..Known::default()
    };
    // Sockets to give away, beside what else is open.
    let _sockets = connected().map_err(|error| format!("cannot connect to myself: {error}"))?;
    for number in 0..cli.messages {
        let message = shape::message(&mut random, family, number as u32, &known);
        // What the kernel does not take at all is refused by send: that is an answer too.
        if let Err(error) = socket.send_to(&message.bytes, &SocketAddr::new(0, 0), 0) {
            *answers
                .entry(error.raw_os_error().unwrap_or(0))
                .or_default() += 1;
            continue;
        }
        for answer in drain(&socket).map_err(|error| format!("message {number}: {error}"))? {
            *answers.entry(answer.errno).or_default() += 1;
            let changed = answer.errno == 0 && answer.family == family && message.changes;
            if changed && cli.unprivileged {
                return Err(format!(
                    "message {number} changed something without privileges: {:02x?}",
                    message.bytes
                ));
            }
        }
        if number % CHECK_EVERY == 0 {
            // A socket that a broken message left behind must not matter to a new one.
            driver
                .devices()
                .map_err(|error| format!("after message {number} a dump fails: {error}"))?;
            socket = open().map_err(|error| format!("cannot open a socket: {error}"))?;
            learn(&mut driver, &mut known)
                .map_err(|error| format!("after message {number} a dump of sets fails: {error}"))?;
        }
    }
    driver
        .devices()
        .map_err(|error| format!("at the end a dump fails: {error}"))?;
    Ok(answers)
}

/// What replica sets there are.
fn learn(driver: &mut Driver, known: &mut Known) -> Result<(), String> {
    for set in driver.sets().map_err(|error| error.to_string())? {
        let Some(config) = set.config else {
            continue;
        };
        known.stores = config.members.iter().map(|member| member.store).collect();
        let bytes = config.bytes().map_err(|_| "out of memory")?;
        known.configs = vec![bytes.to_vec()];
    }
    Ok(())
}

/// Two ends of a connection.
fn connected() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    Ok((near, listener.accept()?.0))
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.set_ext_ack(true)?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// An error or acknowledgment.
struct Answer {
    /// 0 for an acknowledgment.
    errno: i32,
    /// Of the message that it answers: bytes behind a header that lies may be one of another.
    family: u16,
}

/// Takes all that has come; requests are handled before `send` returns.
fn drain(socket: &Socket) -> io::Result<Vec<Answer>> {
    let mut answers = Vec::new();
    loop {
        let datagram = match socket.recv_from_full() {
            Ok((datagram, _)) => datagram,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(answers),
            // The answers to one message were more than the socket takes.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => continue,
            Err(error) => return Err(error),
        };
        let mut rest = datagram.as_slice();
        while let Some(answer) = next_answer(&mut rest)? {
            answers.extend(answer);
        }
    }
}

/// Takes a message off a datagram: `Some(None)` if it is neither error nor acknowledgment.
fn next_answer(rest: &mut &[u8]) -> io::Result<Option<Option<Answer>>> {
    if rest.is_empty() {
        return Ok(None);
    }
    let malformed = || io::Error::other("the kernel's answer is malformed");
    let word = |at: usize| -> io::Result<[u8; 4]> {
        let bytes = rest.get(at..at + 4).ok_or_else(malformed)?;
        bytes.try_into().map_err(|_| malformed())
    };
    let len = u32::from_ne_bytes(word(0)?) as usize;
    let kind = u32::from_ne_bytes(word(4)?) & 0xffff;
    if len < 16 || len > rest.len() {
        return Err(malformed());
    }
    let answer = match kind {
        2 => Some(Answer {
            errno: i32::from_ne_bytes(word(16)?).saturating_neg(),
            family: u32::from_ne_bytes(word(24)?) as u16,
        }),
        _ => None,
    };
    *rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    Ok(Some(answer))
}
