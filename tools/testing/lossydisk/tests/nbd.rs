// SPDX-License-Identifier: GPL-2.0
//! The server as a client sees it: by hand-written bytes, and by QEMU's own client if it is there.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use lossydisk::logwrites::{Action, Reader};
use lossydisk::scratch::Scratch;
use lossydisk::server::{Server, ServerOptions};

const SIZE: u64 = 8 << 20;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;

struct Client(UnixStream);

impl Client {
    fn connect(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        let mut hello = [0; 18];
        stream.read_exact(&mut hello).unwrap();
        assert_eq!(&hello[..16], b"NBDMAGICIHAVEOPT");
        assert_eq!(hello[16..], [0, 3]);
        let mut out = vec![0, 0, 0, 3];
        // An unknown option, then EXPORT_NAME.
        out.extend_from_slice(b"IHAVEOPT\0\0\0\x63\0\0\0\x02hi");
        out.extend_from_slice(b"IHAVEOPT\0\0\0\x01\0\0\0\0");
        stream.write_all(&out).unwrap();
        let mut refusal = [0; 20];
        stream.read_exact(&mut refusal).unwrap();
        assert_eq!(refusal[12..16], [0x80, 0, 0, 1]);
        let mut export = [0; 10];
        stream.read_exact(&mut export).unwrap();
        assert_eq!(export[..8], SIZE.to_be_bytes());
        assert_eq!(export[8..], [0, 0x6d]);
        Self(stream)
    }

    fn request(flags: u16, kind: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
        let mut out = 0x2560_9513_u32.to_be_bytes().to_vec();
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&cookie.to_be_bytes());
        out.extend_from_slice(&offset.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out
    }

    fn reply(&mut self) -> Option<(u64, u32)> {
        let mut head = [0; 16];
        self.0.read_exact(&mut head).ok()?;
        assert_eq!(head[..4], 0x6744_6698_u32.to_be_bytes());
        Some((
            u64::from_be_bytes(head[8..].try_into().unwrap()),
            u32::from_be_bytes(head[4..8].try_into().unwrap()),
        ))
    }

    /// One request, to its end; the error.
    fn call(&mut self, flags: u16, kind: u16, offset: u64, length: u32, data: &[u8]) -> u32 {
        let mut out = Self::request(flags, kind, 77, offset, length);
        out.extend_from_slice(data);
        self.0.write_all(&out).unwrap();
        let (cookie, error) = self.reply().unwrap();
        assert_eq!(cookie, 77);
        error
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> u32 {
        self.call(0, WRITE, offset, data.len() as u32, data)
    }

    fn read(&mut self, offset: u64, length: u32) -> Vec<u8> {
        assert_eq!(self.call(0, READ, offset, length, &[]), 0);
        let mut out = vec![0; length as usize];
        self.0.read_exact(&mut out).unwrap();
        out
    }

    fn flush(&mut self) -> u32 {
        self.call(0, FLUSH, 0, 0, &[])
    }
}

fn options(scratch: &Scratch, seed: u64) -> ServerOptions {
    ServerOptions::new(
        &scratch.path("disk"),
        Some(SIZE),
        &scratch.path("socket"),
        seed,
    )
}

#[test]
fn what_is_flushed_survives_a_cut_and_other_writes_may_not() {
    let mut lost = 0;
    for seed in 0..40 {
        let scratch = Scratch::new("nbd-cut");
        let server = Server::start(options(&scratch, seed)).unwrap();
        let mut client = Client::connect(&scratch.path("socket"));
        assert_eq!(client.write(0, &[1; 4096]), 0);
        assert_eq!(client.flush(), 0);
        assert_eq!(client.call(1, WRITE, 4096, 512, &[2; 512]), 0);
        assert_eq!(client.write(8192, &[3; 4096]), 0);
        assert_eq!(client.read(8192, 4096), [3; 4096]);
        assert_eq!(client.call(0, WRITE_ZEROES, 0, 512, &[]), 0);
        assert_eq!(client.read(0, 1024)[..512], [0; 512]);
        assert_eq!(client.call(0, TRIM, 1024, 512, &[]), 0);
        server.cut().unwrap();
        assert_eq!(client.reply(), None, "a cut closes the connection");
        drop(client);
        let mut client = Client::connect(&scratch.path("socket"));
        assert_eq!(client.read(4096, 512), [2; 512]);
        assert_eq!(client.read(2048, 2048), [1; 2048]);
        let zeroed = client.read(0, 512);
        assert!(zeroed == [0; 512] || zeroed == [1; 512]);
        let found = client.read(8192, 4096);
        for sector in found.chunks(512) {
            assert!(sector == [0; 512] || sector == [3; 512]);
        }
        lost += usize::from(found != [3; 4096]);
        server.stop().unwrap();
    }
    assert!((5..40).contains(&lost), "{lost} of 40 lost the write");
}

#[test]
fn a_flush_covers_only_writes_that_were_acknowledged_before() {
    let mut lost = 0;
    for seed in 0..60 {
        let scratch = Scratch::new("nbd-order");
        let server = Server::start(options(&scratch, seed)).unwrap();
        let mut client = Client::connect(&scratch.path("socket"));
        let mut out = Client::request(0, WRITE, 1, 0, 512);
        out.extend_from_slice(&[9; 512]);
        out.extend_from_slice(&Client::request(0, FLUSH, 2, 0, 0));
        client.0.write_all(&out).unwrap();
        let mut cookies = [client.reply().unwrap().0, client.reply().unwrap().0];
        cookies.sort_unstable();
        assert_eq!(cookies, [1, 2]);
        server.cut().unwrap();
        lost += usize::from(fs::read(scratch.path("disk")).unwrap()[0] != 9);
        server.stop().unwrap();
    }
    assert!((1..50).contains(&lost), "{lost} of 60 lost the write");
}

#[test]
fn leaving_keeps_the_cache_unless_told_to_cut() {
    for cut in [false, true] {
        let mut lost = 0;
        for seed in 0..20 {
            let scratch = Scratch::new("nbd-leave");
            let mut options = options(&scratch, seed);
            options.cut_on_disconnect = cut;
            let server = Server::start(options).unwrap();
            let mut client = Client::connect(&scratch.path("socket"));
            assert_eq!(client.write(0, &[5; 512]), 0);
            client
                .0
                .write_all(&Client::request(0, DISCONNECT, 0, 0, 0))
                .unwrap();
            assert_eq!(client.reply(), None);
            let mut client = Client::connect(&scratch.path("socket"));
            lost += usize::from(client.read(0, 512) != [5; 512]);
            server.stop().unwrap();
        }
        assert_eq!(lost > 0, cut, "{lost} of 20 lost the write");
    }
}

#[test]
fn an_ignored_flush_loses_data() {
    let mut lost = 0;
    for seed in 0..20 {
        let scratch = Scratch::new("nbd-ignore");
        let mut options = options(&scratch, seed);
        options.disk.ignore_flush = true;
        let server = Server::start(options).unwrap();
        let mut client = Client::connect(&scratch.path("socket"));
        assert_eq!(client.write(0, &[5; 512]), 0);
        assert_eq!(client.flush(), 0);
        server.cut().unwrap();
        lost += usize::from(fs::read(scratch.path("disk")).unwrap()[0] != 5);
        server.stop().unwrap();
    }
    assert!(lost > 0);
}

#[test]
fn faults_and_wrong_requests_get_errors_and_the_session_goes_on() {
    let scratch = Scratch::new("nbd-faults");
    let mut options = options(&scratch, 1);
    options.faults = ["write@2", "flush@1", "read:64-71"]
        .map(|text| text.parse().unwrap())
        .into();
    let server = Server::start(options).unwrap();
    let mut client = Client::connect(&scratch.path("socket"));
    assert_eq!(client.write(0, &[1; 512]), 0);
    assert_eq!(client.write(0, &[2; 512]), 5);
    assert_eq!(client.read(0, 512), [1; 512]);
    assert_eq!(client.flush(), 5);
    assert_eq!(client.flush(), 0);
    assert_eq!(client.call(0, READ, 65 * 512, 512, &[]), 5);
    assert_eq!(client.call(0, READ, SIZE, 512, &[]), 22);
    assert_eq!(client.call(0, READ, 0, 100, &[]), 22);
    assert_eq!(client.call(0, 99, 0, 512, &[]), 22);
    assert!(server.command("fail read@1").is_ok());
    assert_eq!(client.call(0, READ, 0, 512, &[]), 5);
    assert!(server.command("fail off").is_ok());
    assert_eq!(client.read(0, 512), [1; 512]);
    assert!(server.command("ignore-flush on").is_ok());
    let stats = server.command("stats").unwrap();
    assert!(stats.contains("flushes 2 "), "{stats}");
    assert!(server.command("fly").is_err());
    // Garbage ends that session, and the next client is served.
    client.0.write_all(&[0xee; 64]).unwrap();
    assert_eq!(client.reply(), None);
    drop(client);
    assert_eq!(
        Client::connect(&scratch.path("socket")).read(0, 1024).len(),
        1024
    );
    server.stop().unwrap();
}

#[test]
fn the_record_can_be_replayed() {
    let scratch = Scratch::new("nbd-record");
    let mut options = options(&scratch, 1);
    options.record = Some(scratch.path("log"));
    let server = Server::start(options).unwrap();
    let mut client = Client::connect(&scratch.path("socket"));
    client.write(512, &[1; 1024]);
    client.flush();
    client.call(1, WRITE, 0, 512, &[2; 512]);
    client.call(0, TRIM, 512, 512, &[]);
    server.stop().unwrap();
    let mut log = Reader::open(&scratch.path("log")).unwrap();
    let mut image = vec![0; SIZE as usize];
    let mut flushes = 0;
    while let Some(entry) = log.next_entry().unwrap() {
        flushes += usize::from(entry.flush);
        match entry.action {
            Action::Write(at, data) => {
                image[at as usize..at as usize + data.len()].copy_from_slice(&data);
            }
            Action::Discard(at, len) => image[at as usize..(at + len) as usize].fill(0),
            Action::Mark(_) => {}
        }
    }
    assert_eq!(flushes, 1);
    assert!(image == fs::read(scratch.path("disk")).unwrap());
}

#[test]
fn a_file_in_use_and_a_place_that_is_taken_are_refused() {
    let scratch = Scratch::new("nbd-refused");
    let server = Server::start(options(&scratch, 1)).unwrap();
    let again = Server::start(options(&scratch, 1)).err().unwrap();
    assert!(again.to_string().contains("in use"), "{again}");
    let mut other = options(&scratch, 1);
    other.file = scratch.path("other");
    let taken = Server::start(other.clone()).err().unwrap();
    assert!(taken.to_string().contains("another server"), "{taken}");
    fs::write(scratch.path("plain"), "x").unwrap();
    other.socket = scratch.path("plain");
    let plain = Server::start(other).err().unwrap();
    assert!(plain.to_string().contains("not a socket"), "{plain}");
    server.stop().unwrap();
}

fn qemu_io(socket: &Path, commands: &[&str]) -> Option<String> {
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let mut qemu = Command::new("qemu-io");
    qemu.args(["-f", "raw", "-t", "none", "-d", "unmap"]);
    for command in commands {
        qemu.args(["-c", command]);
    }
    match qemu.arg(uri).output() {
        Ok(out) => {
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            let errors = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{text}{errors}");
            Some(text)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("qemu-io is not installed: not tested with it");
            None
        }
        Err(error) => panic!("qemu-io: {error}"),
    }
}

#[test]
fn qemu_is_served() {
    let scratch = Scratch::new("nbd-qemu");
    let server = Server::start(options(&scratch, 3)).unwrap();
    let socket = scratch.path("socket");
    let commands = [
        "write -P 0x11 0 1M",
        "aio_write -P 0x22 1M 4M",
        "aio_flush",
        "write -f -P 0x33 64k 4k",
        "write -z 128k 64k",
        "discard 256k 64k",
        "flush",
    ];
    if qemu_io(&socket, &commands).is_none() {
        return;
    }
    server.cut().unwrap();
    let commands = [
        "read -P 0x11 0 64k",
        "read -P 0x33 64k 4k",
        "read -P 0 128k 64k",
        "read -P 0 256k 64k",
        "read -P 0x22 1M 4M",
    ];
    let found = qemu_io(&socket, &commands).unwrap();
    assert!(!found.contains("Pattern verification failed"), "{found}");
    server.stop().unwrap();
}
