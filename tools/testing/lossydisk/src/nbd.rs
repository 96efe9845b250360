// SPDX-License-Identifier: GPL-2.0
//! The NBD protocol, server side: the fixed newstyle handshake and simple replies.

use std::io::{self, Read, Write};

const MAGIC: u64 = 0x4e42_444d_4147_4943;
const MAGIC_OPTION: u64 = 0x4948_4156_454f_5054;
const MAGIC_OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const MAGIC_REQUEST: u32 = 0x2560_9513;
const MAGIC_REPLY: u32 = 0x6744_6698;

const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
const FLAG_NO_ZEROES: u16 = 1 << 1;

const OPTION_EXPORT_NAME: u32 = 1;
const OPTION_ABORT: u32 = 2;
const OPTION_LIST: u32 = 3;
const OPTION_INFO: u32 = 6;
const OPTION_GO: u32 = 7;

const REPLY_ACK: u32 = 1;
const REPLY_SERVER: u32 = 2;
const REPLY_INFO: u32 = 3;
const REPLY_UNSUPPORTED: u32 = (1 << 31) + 1;
const REPLY_INVALID: u32 = (1 << 31) + 3;

const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

/// HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES.
const EXPORT_FLAGS: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6;

const COMMAND_FUA: u16 = 1 << 0;

/// The longest READ and WRITE, in bytes.
pub const PAYLOAD_MAX: u32 = 32 << 20;
/// The longest option that a client may send, in bytes.
const OPTION_MAX: u32 = 64 << 10;

/// Bytes of a request's head.
pub const REQUEST_BYTES: usize = 28;

/// EIO.
pub const ERROR_IO: u32 = 5;
/// EINVAL.
pub const ERROR_INVALID: u32 = 22;
/// ENOSPC.
pub const ERROR_SPACE: u32 = 28;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read; the reply carries data.
    Read,
    /// Write; data follows the head.
    Write,
    /// The client is done; no reply.
    Disconnect,
    /// Make completed writes durable.
    Flush,
    /// Drop content.
    Trim,
    /// Make zeroes.
    WriteZeroes,
    /// Something that was not offered.
    Unknown(u16),
}

/// A request's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// Whether it must be durable when the reply is sent.
    pub fua: bool,
    /// The client's name of the request, repeated in the reply.
    pub cookie: u64,
    /// In bytes.
    pub offset: u64,
    /// In bytes.
    pub length: u32,
}

impl Request {
    /// Reads a head.
    pub fn parse(head: &[u8; REQUEST_BYTES]) -> io::Result<Self> {
        let u16_at = |at| u16::from_be_bytes([head[at], head[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) << 16 | u32::from(u16_at(at + 2));
        let u64_at = |at: usize| u64::from(u32_at(at)) << 32 | u64::from(u32_at(at + 4));
        if u32_at(0) != MAGIC_REQUEST {
            return Err(bad(format!("request magic {:#x}", u32_at(0))));
        }
        let request = Self {
            command: match u16_at(6) {
                0 => Command::Read,
                1 => Command::Write,
                2 => Command::Disconnect,
                3 => Command::Flush,
                4 => Command::Trim,
                6 => Command::WriteZeroes,
                other => Command::Unknown(other),
            },
            fua: u16_at(4) & COMMAND_FUA != 0,
            cookie: u64_at(8),
            offset: u64_at(16),
            length: u32_at(24),
        };
        if request.payload() > PAYLOAD_MAX as usize {
            return Err(bad(format!("a write of {} bytes", request.length)));
        }
        Ok(request)
    }

    /// Bytes of data that follow the head.
    pub fn payload(&self) -> usize {
        match self.command {
            Command::Write => self.length as usize,
            _ => 0,
        }
    }
}

/// Adds the head of a reply to `out`; a READ's data follows it if `error` is 0.
pub fn reply(out: &mut Vec<u8>, cookie: u64, error: u32) {
    out.extend_from_slice(&MAGIC_REPLY.to_be_bytes());
    out.extend_from_slice(&error.to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
}

/// Greets a client and lets it choose the one export, of `size` bytes, by any name. Returns whether
/// the client goes on to send requests.
pub fn handshake<S: Read + Write>(stream: &mut S, size: u64) -> io::Result<bool> {
    let mut hello = Vec::new();
    hello.extend_from_slice(&MAGIC.to_be_bytes());
    hello.extend_from_slice(&MAGIC_OPTION.to_be_bytes());
    hello.extend_from_slice(&(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
    stream.write_all(&hello)?;
    let client = read_u32(stream)?;
    let known = u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
    if client & u32::from(FLAG_FIXED_NEWSTYLE) == 0 || client & !known != 0 {
        return Err(bad(format!("client flags {client:#x}")));
    }
    let no_zeroes = client & u32::from(FLAG_NO_ZEROES) != 0;
    loop {
        let magic = u64::from(read_u32(stream)?) << 32 | u64::from(read_u32(stream)?);
        if magic != MAGIC_OPTION {
            return Err(bad(format!("option magic {magic:#x}")));
        }
        let option = read_u32(stream)?;
        let length = read_u32(stream)?;
        if length > OPTION_MAX {
            return Err(bad(format!("option {option} of {length} bytes")));
        }
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data)?;
        match option {
            OPTION_EXPORT_NAME => {
                let mut out = Vec::new();
                out.extend_from_slice(&size.to_be_bytes());
                out.extend_from_slice(&EXPORT_FLAGS.to_be_bytes());
                if !no_zeroes {
                    out.extend_from_slice(&[0; 124]);
                }
                stream.write_all(&out)?;
                return Ok(true);
            }
            OPTION_ABORT => {
                option_reply(stream, option, REPLY_ACK, &[])?;
                return Ok(false);
            }
            OPTION_LIST if data.is_empty() => {
                // One export, whose name is empty.
                option_reply(stream, option, REPLY_SERVER, &[0; 4])?;
                option_reply(stream, option, REPLY_ACK, &[])?;
            }
            OPTION_INFO | OPTION_GO if names_an_export(&data) => {
                let mut export = Vec::new();
                export.extend_from_slice(&INFO_EXPORT.to_be_bytes());
                export.extend_from_slice(&size.to_be_bytes());
                export.extend_from_slice(&EXPORT_FLAGS.to_be_bytes());
                option_reply(stream, option, REPLY_INFO, &export)?;
                let mut blocks = Vec::new();
                blocks.extend_from_slice(&INFO_BLOCK_SIZE.to_be_bytes());
                for bytes in [512, 4096, PAYLOAD_MAX] {
                    blocks.extend_from_slice(&bytes.to_be_bytes());
                }
                option_reply(stream, option, REPLY_INFO, &blocks)?;
                option_reply(stream, option, REPLY_ACK, &[])?;
                if option == OPTION_GO {
                    return Ok(true);
                }
            }
            OPTION_LIST | OPTION_INFO | OPTION_GO => {
                option_reply(stream, option, REPLY_INVALID, &[])?;
            }
            _ => option_reply(stream, option, REPLY_UNSUPPORTED, &[])?,
        }
    }
}

/// Whether `data` is a well-formed INFO or GO: a name and a list of two-byte items.
fn names_an_export(data: &[u8]) -> bool {
    let Some((name, rest)) = data.split_first_chunk::<4>() else {
        return false;
    };
    let rest = rest.get(u32::from_be_bytes(*name) as usize..);
    let Some((count, items)) = rest.and_then(|rest| rest.split_first_chunk::<2>()) else {
        return false;
    };
    items.len() == 2 * usize::from(u16::from_be_bytes(*count))
}

fn option_reply<S: Write>(stream: &mut S, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let mut out = Vec::new();
    out.extend_from_slice(&MAGIC_OPTION_REPLY.to_be_bytes());
    for field in [option, kind, data.len() as u32] {
        out.extend_from_slice(&field.to_be_bytes());
    }
    out.extend_from_slice(data);
    stream.write_all(&out)
}

fn read_u32<S: Read>(stream: &mut S) -> io::Result<u32> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn bad(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
