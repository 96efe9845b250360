// SPDX-License-Identifier: GPL-2.0

//! What two daemons say to each other on a new connection, before the kernel has it: which stores it
//! is between, and the number of the session. `Documentation/block/ddup-protocol.rst` lays it out.
//!
//! Each side says one message of fixed length and reads no byte more, so that whatever the other
//! kernel sends right behind stays in the socket. Who does not say it whole in time is dropped.

use crate::store;
use ddup_engine::engine::replication::{
    codec::Reader,
    types::{Id, NO_ID},
};
use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

/// Bytes of a message.
pub const BYTES: usize = 80;
/// Time for a whole handshake.
pub const PATIENCE: Duration = Duration::from_secs(5);

const MAGIC: [u8; 8] = *b"ddup\x8b\xf7hs";
const VERSION: u64 = 1;
/// Seed of the checksum, and of the session's number.
const SEED: u64 = 0x6464_7570_6861_696c;

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hail {
    /// The replica set.
    pub set: Id,
    /// The store that the sender speaks for.
    pub from: Id,
    /// The store that it wants to reach.
    pub to: Id,
    /// The sender's half of the session's number.
    pub random: u64,
}

/// Why a message is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Something else speaks here.
    Foreign,
    /// Another version.
    Version(u64),
    /// Not whole.
    Damaged,
}

impl Hail {
    /// The message.
    pub fn write(&self) -> [u8; BYTES] {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.set);
        bytes.extend_from_slice(&self.from);
        bytes.extend_from_slice(&self.to);
        bytes.extend_from_slice(&self.random.to_le_bytes());
        let sum = store::hash(&bytes, SEED).to_le_bytes();
        let mut message = [0; BYTES];
        let parts = bytes.iter().chain(&sum);
        message
            .iter_mut()
            .zip(parts)
            .for_each(|(to, from)| *to = *from);
        message
    }

    /// Reads what [`Hail::write`] wrote.
    pub fn read(message: &[u8; BYTES]) -> Result<Self, Wrong> {
        let (said, sum) = message.split_at(BYTES - 8);
        let mut reader = Reader::new(said);
        if reader.bytes(8) != Some(&MAGIC) {
            return Err(Wrong::Foreign);
        }
        match reader.uint::<8>() {
            Some(VERSION) => {}
            version => return Err(Wrong::Version(version.unwrap_or(0))),
        }
        if store::hash(said, SEED).to_le_bytes() != *sum {
            return Err(Wrong::Damaged);
        }
        let mut rest = || {
            Some(Self {
                set: reader.array()?,
                from: reader.array()?,
                to: reader.array()?,
                random: reader.uint::<8>()?,
            })
        };
        let read = rest().ok_or(Wrong::Damaged)?;
        let named = [read.set, read.from, read.to].iter().all(|id| *id != NO_ID);
        match named && read.from != read.to {
            true => Ok(read),
            false => Err(Wrong::Damaged),
        }
    }

    /// The answer of the store that was to be reached.
    fn answer(&self, random: u64) -> Self {
        Self {
            set: self.set,
            from: self.to,
            to: self.from,
            random,
        }
    }
}

/// The number of a session, of which each side has made a half: so none comes twice, whatever one of
/// them says.
fn nonce(caller: u64, called: u64) -> u64 {
    let halves = [caller.to_le_bytes(), called.to_le_bytes()].concat();
    // 0 stands for none.
    store::hash(&halves, SEED).max(1)
}

/// Says who calls whom, and hears that from the other side. The number of the session.
pub fn call(stream: &mut TcpStream, hail: &Hail, patience: Duration) -> io::Result<u64> {
    let until = Instant::now() + patience;
    say(stream, hail, until)?;
    let answer = hear(stream, until)?;
    if answer != hail.answer(answer.random) {
        return Err(other("the other side speaks for other stores"));
    }
    settle(stream)?;
    Ok(nonce(hail.random, answer.random))
}

/// Hears who calls, and answers if `admit` knows them: what that gives, and the session's number.
pub fn answer<T>(
    stream: &mut TcpStream,
    random: u64,
    patience: Duration,
    admit: impl FnOnce(&Hail) -> Option<T>,
) -> io::Result<(Hail, T, u64)> {
    let until = Instant::now() + patience;
    let hail = hear(stream, until)?;
    let admitted = admit(&hail).ok_or_else(|| other("it speaks for stores that are not wanted"))?;
    say(stream, &hail.answer(random), until)?;
    settle(stream)?;
    Ok((hail, admitted, nonce(hail.random, random)))
}

fn say(stream: &mut TcpStream, hail: &Hail, until: Instant) -> io::Result<()> {
    stream.set_write_timeout(Some(left(until)?))?;
    stream.write_all(&hail.write())
}

/// Reads one message and not a byte more, however slowly they trickle in.
fn hear(stream: &mut TcpStream, until: Instant) -> io::Result<Hail> {
    let mut message = [0; BYTES];
    let mut count = 0;
    while count < BYTES {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut message[count..]) {
            Ok(0) => return Err(other("it hung up")),
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(late()),
            Err(error) => return Err(error),
        }
        // Who speaks another language is not listened to any longer.
        let known = count.min(MAGIC.len());
        if message[..known] != MAGIC[..known] {
            return Err(other("it does not speak this protocol"));
        }
    }
    Hail::read(&message).map_err(|wrong| match wrong {
        Wrong::Foreign => other("it does not speak this protocol"),
        Wrong::Version(version) => other(&format!("it speaks version {version}, not {VERSION}")),
        Wrong::Damaged => other("its message is damaged"),
    })
}

/// As the kernel is to have it: without the patience of this side.
fn settle(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    stream.set_nodelay(true)
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(late()),
        false => Ok(left),
    }
}

fn late() -> io::Error {
    other("it does not answer in time")
}

fn other(words: &str) -> io::Error {
    io::Error::other(words.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::TcpListener, thread};

    const HAIL: Hail = Hail {
        set: [0x5e; 16],
        from: [0x0a; 16],
        to: [0x0b; 16],
        random: 0x0102_0304_0506_0708,
    };

    fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    const SOON: Duration = Duration::from_millis(300);

    #[test]
    fn a_message_is_read_as_it_was_written_and_not_if_a_bit_is_wrong() {
        let message = HAIL.write();
        assert_eq!(Hail::read(&message), Ok(HAIL));
        for at in 0..BYTES {
            for bit in 0..8 {
                let mut wrong = message;
                wrong[at] ^= 1 << bit;
                let expected = match at {
                    0..8 => Wrong::Foreign,
                    8..16 => Wrong::Version(u64::from_le_bytes(wrong[8..16].try_into().unwrap())),
                    _ => Wrong::Damaged,
                };
                assert_eq!(Hail::read(&wrong), Err(expected), "{at}");
            }
        }
        for wrong in [
            Hail { set: NO_ID, ..HAIL },
            Hail {
                from: NO_ID,
                ..HAIL
            },
            Hail {
                to: HAIL.from,
                ..HAIL
            },
        ] {
            assert_eq!(Hail::read(&wrong.write()), Err(Wrong::Damaged));
        }
    }

    #[test]
    fn the_table_in_the_document_is_what_is_written() {
        let page = include_str!("../../../../Documentation/block/ddup-protocol.rst");
        let table = page.split(".. table:: Hail").nth(1).unwrap();
        let rows = table
            .lines()
            .skip(1)
            .take_while(|l| l.is_empty() || l.starts_with("   "));
        let message = HAIL.write();
        let fields = [
            ("magic", MAGIC.to_vec()),
            ("version", VERSION.to_le_bytes().to_vec()),
            ("set", HAIL.set.to_vec()),
            ("from", HAIL.from.to_vec()),
            ("to", HAIL.to.to_vec()),
            ("random", HAIL.random.to_le_bytes().to_vec()),
            ("checksum", message[BYTES - 8..].to_vec()),
        ];
        let mut end = 0;
        let mut expected = fields.iter();
        for row in rows {
            let words: Vec<&str> = row.split_whitespace().collect();
            let (Some(Ok(offset)), Some(Ok(len))) = (
                words.first().map(|word| word.parse::<usize>()),
                words.get(1).map(|word| word.parse::<usize>()),
            ) else {
                continue;
            };
            let (name, bytes) = expected.next().unwrap();
            assert_eq!((offset, words[2]), (end, *name));
            end += len;
            assert_eq!(message[offset..end], bytes[..], "{name}");
        }
        assert_eq!(end, BYTES);
        assert!(page.contains(&format!("{SEED:#018x}")));
    }

    #[test]
    fn both_sides_come_to_one_number_and_leave_what_follows_to_the_kernel() {
        let (mut near, mut far) = sockets();
        let called = thread::spawn(move || {
            let answered = answer(&mut far, 99, SOON, |hail| (hail.to == HAIL.to).then_some(7));
            far.write_all(b"frame").unwrap();
            (answered.unwrap(), far)
        });
        let number = call(&mut near, &HAIL, SOON).unwrap();
        let ((hail, admitted, other), far) = called.join().unwrap();
        assert_eq!((hail, admitted, other), (HAIL, 7, number));
        assert_ne!(number, nonce(99, HAIL.random));
        let mut behind = [0; 5];
        near.read_exact(&mut behind).unwrap();
        assert_eq!(&behind, b"frame");
        for stream in [&near, &far] {
            assert_eq!(stream.read_timeout().unwrap(), None);
            assert_eq!(stream.write_timeout().unwrap(), None);
        }
    }

    #[test]
    fn who_is_not_wanted_gets_no_answer() {
        let (mut near, mut far) = sockets();
        let called = thread::spawn(move || answer(&mut far, 1, SOON, |_| None::<()>).unwrap_err());
        let error = call(&mut near, &HAIL, SOON).unwrap_err().to_string();
        assert!(
            error.contains("hung up") || error.contains("reset"),
            "{error}"
        );
        let error = called.join().unwrap().to_string();
        assert!(error.contains("not wanted"), "{error}");
    }

    #[test]
    fn an_answer_for_other_stores_is_refused() {
        for wrong in [
            HAIL,
            Hail {
                set: [1; 16],
                ..HAIL.answer(1)
            },
            Hail {
                from: [1; 16],
                ..HAIL.answer(1)
            },
        ] {
            let (mut near, mut far) = sockets();
            far.write_all(&wrong.write()).unwrap();
            let error = call(&mut near, &HAIL, SOON).unwrap_err().to_string();
            assert!(error.contains("other stores"), "{error}");
        }
    }

    #[test]
    fn babblers_and_sleepers_are_dropped() {
        // One that talks for ever is left after its first bytes, and so is one that says nothing.
        for said in [&b"GET / HTTP/1.1\r\n"[..], b"x", &[0; 4096]] {
            let (mut near, mut far) = sockets();
            near.write_all(said).unwrap();
            let error = answer(&mut far, 1, PATIENCE, |_| Some(())).unwrap_err();
            assert!(error.to_string().contains("protocol"), "{error}");
        }
        let (_near, mut far) = sockets();
        let since = Instant::now();
        let error = answer(&mut far, 1, SOON, |_| Some(())).unwrap_err();
        assert!(error.to_string().contains("in time"), "{error}");
        assert!(since.elapsed() < PATIENCE);
    }

    #[test]
    fn who_trickles_does_not_get_more_time() {
        let (mut near, mut far) = sockets();
        let trickle = thread::spawn(move || {
            for byte in HAIL.write() {
                if near.write_all(&[byte]).is_err() {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        let since = Instant::now();
        let error = answer(&mut far, 1, SOON, |_| Some(())).unwrap_err();
        assert!(error.to_string().contains("in time"), "{error}");
        assert!(since.elapsed() < Duration::from_secs(1));
        drop(far);
        trickle.join().unwrap();
    }
}
