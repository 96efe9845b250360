// SPDX-License-Identifier: GPL-2.0

//! Netlink messages: how they are put together and taken apart, and a socket to send them by.
//!
//! The only file that knows bytes. Everything that comes in is checked before it is used.

use netlink_sys::{protocols::NETLINK_GENERIC, Socket, SocketAddr};
use std::io;

/// Attributes and headers start at multiples of this.
const ALIGN: usize = 4;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Length of `struct genlmsghdr`.
const GENERIC_HEADER: usize = 4;
/// Length of `struct nlattr`.
const ATTRIBUTE_HEADER: usize = 4;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
/// In a part of a dump: the set changed meanwhile.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// In an error: the request is not repeated beyond its header.
const NLM_F_CAPPED: u16 = 0x100;
/// In an error: attributes follow.
const NLM_F_ACK_TLVS: u16 = 0x200;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
/// Flag bits in an attribute's type.
const TYPE_MASK: u16 = 0x3fff;

const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;
const NLMSGERR_ATTR_MISS_TYPE: u16 = 5;

/// Times that an interrupted dump is begun again.
const DUMP_RETRIES: u32 = 20;

/// What the kernel answers when it refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The positive errno.
    pub errno: i32,
    /// The extended acknowledgment's sentence.
    pub message: Option<String>,
    /// The type of the attribute to blame, of those directly in the request.
    pub attribute: Option<u16>,
    /// The type of an attribute that is missing.
    pub missing: Option<u16>,
}

/// Why a request has no result.
#[derive(Debug)]
pub enum Failure {
    /// The kernel refused.
    Refused(Refusal),
    /// The socket failed.
    Io(io::Error),
    /// The kernel sent what makes no sense.
    Malformed(&'static str),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

/// A request to a generic netlink family, being put together.
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// Begins a request of command `command`.
    pub fn new(family: u16, command: u8, version: u8) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&family.to_ne_bytes());
        bytes.extend_from_slice(&[command, version, 0, 0]);
        Self { bytes }
    }

    fn attribute(mut self, kind: u16, payload: &[&[u8]]) -> Self {
        let len = ATTRIBUTE_HEADER + payload.iter().map(|part| part.len()).sum::<usize>();
        // Longer ones than a header can say are cut short by the caller's own checks.
        let len = u16::try_from(len).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        for part in payload {
            self.bytes.extend_from_slice(part);
        }
        self.bytes.resize(align(self.bytes.len()), 0);
        self
    }

    /// Adds an attribute without a value.
    pub fn flag(self, kind: u16) -> Self {
        self.attribute(kind, &[])
    }

    /// Adds a 32-bit number.
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &[&value.to_ne_bytes()])
    }

    /// Adds a number in 32 bits if it fits, else in 64.
    pub fn uint(self, kind: u16, value: u64) -> Self {
        match u32::try_from(value) {
            Ok(value) => self.u32(kind, value),
            Err(_) => self.attribute(kind, &[&value.to_ne_bytes()]),
        }
    }

    /// Adds a string with its terminating zero.
    pub fn string(self, kind: u16, value: &[u8]) -> Self {
        self.attribute(kind, &[value, &[0]])
    }

    /// Adds bytes as they are.
    pub fn binary(self, kind: u16, value: &[u8]) -> Self {
        self.attribute(kind, &[value])
    }

    fn finish(mut self, flags: u16, sequence: u32) -> Vec<u8> {
        let len = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// One message of a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The family's number.
    pub family: u16,
    /// The command.
    pub command: u8,
    flags: u16,
    sequence: u32,
    attributes: Vec<u8>,
}

impl Message {
    /// The attributes.
    pub fn attributes(&self) -> Attributes<'_> {
        Attributes(&self.attributes)
    }
}

/// Attributes side by side. Iteration ends at the first that is cut off.
#[derive(Clone, Copy)]
pub struct Attributes<'a>(&'a [u8]);

/// One attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its type, without flag bits.
    pub kind: u16,
    /// Its value.
    pub value: &'a [u8],
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let bytes = self.0;
        let len = usize::from(read_u16(bytes, 0)?);
        let kind = read_u16(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(ATTRIBUTE_HEADER..len)?;
        self.0 = bytes.get(align(len)..).unwrap_or(&[]);
        Some(Attribute { kind, value })
    }
}

impl<'a> Attribute<'a> {
    /// A number of 8, 16, 32 or 64 bits.
    pub fn number(&self) -> Option<u64> {
        match *self.value {
            [a] => Some(a.into()),
            [a, b] => Some(u16::from_ne_bytes([a, b]).into()),
            [a, b, c, d] => Some(u32::from_ne_bytes([a, b, c, d]).into()),
            _ => Some(u64::from_ne_bytes(self.value.try_into().ok()?)),
        }
    }

    /// A number of up to 32 bits.
    pub fn u32(&self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    /// A string; what is no UTF-8 is replaced.
    pub fn string(&self) -> String {
        let bytes = self.value.strip_suffix(&[0]).unwrap_or(self.value);
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// What is nested in it.
    pub fn nested(&self) -> Attributes<'a> {
        Attributes(self.value)
    }
}

/// A datagram's next message, of any kind.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Data(Message),
    /// An acknowledgment.
    Done {
        sequence: u32,
    },
    Refused {
        sequence: u32,
        refusal: Refusal,
    },
    /// The socket's buffer ran over.
    Overrun,
    /// A control message of no interest.
    Other,
}

/// Takes the first message off `bytes`.
fn next_part(bytes: &mut &[u8]) -> Result<Part, &'static str> {
    let all = *bytes;
    let len = read_u32(all, 0).ok_or("a message without header")? as usize;
    let message = all.get(..len).ok_or("a message that is cut off")?;
    let body = message
        .get(HEADER..)
        .ok_or("a message shorter than its header")?;
    let kind = read_u16(message, 4).ok_or("a message without type")?;
    let flags = read_u16(message, 6).ok_or("a message without flags")?;
    let sequence = read_u32(message, 8).ok_or("a message without sequence")?;
    *bytes = all.get(align(len)..).unwrap_or(&[]);
    Ok(match kind {
        NLMSG_ERROR => {
            let error = read_u32(body, 0).ok_or("an error without code")? as i32;
            if error == 0 {
                Part::Done { sequence }
            } else {
                let echoed = match flags & NLM_F_CAPPED {
                    0 => align(read_u32(body, 4).ok_or("an error without request")? as usize),
                    _ => HEADER,
                };
                let tlvs = body.get(4 + echoed..).unwrap_or(&[]);
                Part::Refused {
                    sequence,
                    refusal: refusal(error, flags, tlvs),
                }
            }
        }
        NLMSG_DONE => match read_u32(body, 0).unwrap_or(0) as i32 {
            0 => Part::Done { sequence },
            error => Part::Refused {
                sequence,
                refusal: refusal(error, flags, body.get(4..).unwrap_or(&[])),
            },
        },
        NLMSG_OVERRUN => Part::Overrun,
        0..=15 => Part::Other,
        family => Part::Data(Message {
            family,
            command: *body.first().ok_or("a message without command")?,
            flags,
            sequence,
            attributes: body.get(GENERIC_HEADER..).unwrap_or(&[]).to_vec(),
        }),
    })
}

fn refusal(error: i32, flags: u16, tlvs: &[u8]) -> Refusal {
    let mut refusal = Refusal {
        errno: error.saturating_neg(),
        message: None,
        attribute: None,
        missing: None,
    };
    if flags & NLM_F_ACK_TLVS != 0 {
        for attribute in Attributes(tlvs) {
            match attribute.kind {
                NLMSGERR_ATTR_MSG => refusal.message = Some(attribute.string()),
                // An offset for now; the one who knows the request makes a type of it.
                NLMSGERR_ATTR_OFFS => {
                    refusal.attribute = attribute.u32().and_then(|at| at.try_into().ok());
                }
                NLMSGERR_ATTR_MISS_TYPE => {
                    refusal.missing = attribute.u32().and_then(|kind| kind.try_into().ok());
                }
                _ => {}
            }
        }
    }
    refusal
}

/// A socket for generic netlink.
pub struct Channel {
    socket: Socket,
    sequence: u32,
}

impl Channel {
    /// Opens a socket.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        // Errors then carry a sentence, and do not repeat the request.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Joins a multicast group.
    pub fn join(&mut self, group: u32) -> io::Result<()> {
        self.socket.add_membership(group)
    }

    /// Sends a request and returns what answers it.
    pub fn call(&mut self, request: Request) -> Result<Vec<Message>, Failure> {
        self.transact(request, NLM_F_ACK).map(|(answer, _)| answer)
    }

    /// Asks for a dump and returns all its parts, from one moment: it is begun again if the set
    /// changed meanwhile.
    pub fn dump(&mut self, request: impl Fn() -> Request) -> Result<Vec<Message>, Failure> {
        for _ in 0..DUMP_RETRIES {
            let (answer, interrupted) = self.transact(request(), NLM_F_DUMP)?;
            if !interrupted {
                return Ok(answer);
            }
        }
        Err(Failure::Io(io::Error::from_raw_os_error(libc::EAGAIN)))
    }

    fn transact(&mut self, request: Request, flags: u16) -> Result<(Vec<Message>, bool), Failure> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let request = request.finish(flags, sequence);
        self.socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
        let (mut answer, mut interrupted) = (Vec::new(), false);
        loop {
            let datagram = self.receive_datagram()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                match next_part(&mut rest).map_err(Failure::Malformed)? {
                    Part::Data(message) if message.sequence == sequence => {
                        interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                        answer.push(message);
                    }
                    Part::Done { sequence: of } if of == sequence => {
                        return Ok((answer, interrupted));
                    }
                    Part::Refused {
                        sequence: of,
                        mut refusal,
                    } if of == sequence => {
                        refusal.attribute = refusal
                            .attribute
                            .and_then(|offset| attribute_at(&request, offset));
                        return Err(Failure::Refused(refusal));
                    }
                    // An answer to an earlier request that was given up.
                    _ => {}
                }
            }
        }
    }

    /// Waits for messages that nobody asked for. `None` says that some were lost.
    pub fn receive(&mut self) -> Result<Option<Vec<Message>>, Failure> {
        let datagram = match self.receive_datagram() {
            Ok(datagram) => datagram,
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut messages = Vec::new();
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            match next_part(&mut rest).map_err(Failure::Malformed)? {
                Part::Data(message) => messages.push(message),
                Part::Overrun => return Ok(None),
                _ => {}
            }
        }
        Ok(Some(messages))
    }

    /// The next datagram of the kernel; other senders are not listened to.
    fn receive_datagram(&self) -> io::Result<Vec<u8>> {
        loop {
            match self.socket.recv_from_full() {
                Ok((datagram, from)) if from.port_number() == 0 => return Ok(datagram),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The type of the request's attribute that starts at `offset`.
fn attribute_at(request: &[u8], offset: u16) -> Option<u16> {
    let from = HEADER + GENERIC_HEADER;
    let (mut at, mut rest) = (from, Attributes(request.get(from..)?));
    while at < usize::from(offset) {
        let attribute = rest.next()?;
        at += align(ATTRIBUTE_HEADER + attribute.value.len());
    }
    (at == usize::from(offset)).then(|| rest.next().map(|attribute| attribute.kind))?
}

fn align(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(bytes: &[u8]) -> Result<Vec<Part>, &'static str> {
        let mut rest = bytes;
        let mut parts = Vec::new();
        while !rest.is_empty() {
            parts.push(next_part(&mut rest)?);
        }
        Ok(parts)
    }

    fn error_message(sequence: u32, errno: i32, flags: u16, tlvs: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&(-errno).to_ne_bytes());
        bytes.extend_from_slice(&[0; HEADER]);
        bytes[HEADER + 4..HEADER + 8].copy_from_slice(&(HEADER as u32).to_ne_bytes());
        bytes.extend_from_slice(tlvs);
        let len = bytes.len() as u32;
        bytes[..4].copy_from_slice(&len.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let bytes = Request::new(0x20, 3, 1)
            .flag(6)
            .string(3, b"/dev/vdb")
            .uint(8, 1 << 40)
            .uint(9, 5)
            .finish(NLM_F_ACK, 7);
        assert_eq!(bytes.len(), 20 + 4 + 16 + 12 + 8);
        let [Part::Data(message)] = &parts(&bytes).unwrap()[..] else {
            panic!("not one message");
        };
        assert_eq!(
            (message.family, message.command, message.flags),
            (0x20, 3, 5)
        );
        let attributes: Vec<_> = message.attributes().collect();
        assert_eq!(attributes.len(), 4);
        assert_eq!((attributes[0].kind, attributes[0].value), (6, &[][..]));
        assert_eq!(attributes[1].string(), "/dev/vdb");
        assert_eq!(attributes[2].number(), Some(1 << 40));
        assert_eq!(attributes[3].value.len(), 4);
        assert_eq!(attribute_at(&bytes, 20), Some(6));
        assert_eq!(attribute_at(&bytes, 24), Some(3));
        assert_eq!(attribute_at(&bytes, 52), Some(9));
        assert_eq!(attribute_at(&bytes, 25), None);
        assert_eq!(attribute_at(&bytes, 60), None);
        assert_eq!(attribute_at(&bytes, u16::MAX), None);
    }

    #[test]
    fn refusals_carry_sentence_offset_and_missing_type() {
        let mut tlvs = Request { bytes: Vec::new() }
            .string(NLMSGERR_ATTR_MSG, b"no store there")
            .u32(NLMSGERR_ATTR_OFFS, 24)
            .u32(NLMSGERR_ATTR_MISS_TYPE, 3);
        let bytes = error_message(9, libc::EINVAL, NLM_F_ACK_TLVS | NLM_F_CAPPED, &tlvs.bytes);
        let expected = Refusal {
            errno: libc::EINVAL,
            message: Some("no store there".into()),
            attribute: Some(24),
            missing: Some(3),
        };
        assert_eq!(
            parts(&bytes).unwrap(),
            [Part::Refused {
                sequence: 9,
                refusal: expected.clone()
            }]
        );

        // Without the flag the bytes behind the request are no attributes.
        let bytes = error_message(9, libc::EPERM, NLM_F_CAPPED, &tlvs.bytes);
        let [Part::Refused { refusal, .. }] = &parts(&bytes).unwrap()[..] else {
            panic!("not one refusal");
        };
        assert_eq!((refusal.errno, &refusal.message), (libc::EPERM, &None));

        // An attribute that is cut off ends the list.
        tlvs.bytes.truncate(tlvs.bytes.len() - 2);
        let bytes = error_message(9, libc::EINVAL, NLM_F_ACK_TLVS | NLM_F_CAPPED, &tlvs.bytes);
        let [Part::Refused { refusal, .. }] = &parts(&bytes).unwrap()[..] else {
            panic!("not one refusal");
        };
        assert_eq!(refusal.missing, None);
        assert_eq!(refusal.attribute, Some(24));
    }

    #[test]
    fn an_acknowledgment_is_no_error() {
        let bytes = error_message(4, 0, NLM_F_CAPPED, &[]);
        assert_eq!(parts(&bytes).unwrap(), [Part::Done { sequence: 4 }]);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        // Every prefix, and every single byte changed, of a datagram with all kinds of messages.
        let mut datagram = Request::new(0x20, 3, 1)
            .string(3, b"/dev/vdb")
            .uint(8, u64::MAX)
            .finish(0, 1);
        datagram.extend(error_message(
            1,
            5,
            NLM_F_ACK_TLVS,
            &[8, 0, 1, 0, b'x', 0, 0, 0],
        ));
        datagram.extend(error_message(1, 0, NLM_F_CAPPED, &[]));
        let read_all = |bytes: &[u8]| {
            for part in parts(bytes).unwrap_or_default() {
                if let Part::Data(message) = part {
                    for attribute in message.attributes() {
                        let _ = (attribute.number(), attribute.string());
                        assert!(attribute.nested().count() <= attribute.value.len());
                    }
                }
            }
        };
        for len in 0..datagram.len() {
            read_all(&datagram[..len]);
        }
        for at in 0..datagram.len() {
            for value in 0..=255 {
                let mut changed = datagram.clone();
                changed[at] = value;
                read_all(&changed);
            }
        }
    }
}
