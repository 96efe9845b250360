// SPDX-License-Identifier: GPL-2.0

//! As much of HTTP as a scraper of metrics needs: one request for each connection.

use super::metrics;
use crate::family::Driver;
use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};
use tracing::warn;

/// Longest head of a request.
const HEAD_MAX: usize = 8 << 10;
/// Patience with a scraper that does not go on.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers one request after the other.
pub fn serve(listener: &TcpListener) {
    for stream in listener.incoming() {
        match stream {
            // A scraper that goes away is no trouble of ours.
            Ok(stream) => drop(answer(stream)),
            Err(failure) => {
                warn!(%failure, "cannot take a connection");
                std::thread::sleep(PATIENCE);
            }
        }
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let head = read_head(&mut stream)?;
    let (status, kind, body) = respond(&head, scrape);
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    if !head.starts_with(b"HEAD ") {
        stream.write_all(body.as_bytes())?;
    }
    Ok(())
}

/// The request up to the empty line, or as much of it as is taken.
fn read_head(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < HEAD_MAX {
        match stream.read(&mut buffer)? {
            0 => break,
            count => head.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(head)
}

fn scrape() -> String {
    let seen = Driver::connect().and_then(|mut driver| Ok((driver.devices()?, driver.sets()?)));
    match &seen {
        Ok((devices, sets)) => metrics::text(Some(devices), sets),
        Err(_) => metrics::text(None, &[]),
    }
}

/// Status, content type and body for a request.
fn respond(head: &[u8], scrape: impl Fn() -> String) -> (&'static str, &'static str, String) {
    let plain = |status, words: &str| (status, "text/plain; charset=utf-8", format!("{words}\n"));
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, path, version) = (words.next(), words.next(), words.next());
    if !version.is_some_and(|version| version.starts_with(b"HTTP/1.")) {
        return plain("400 Bad Request", "this is no request of HTTP/1");
    }
    if !matches!(method, Some(b"GET" | b"HEAD")) {
        return plain("405 Method Not Allowed", "there is only GET");
    }
    let path = path.and_then(|path| path.split(|byte| *byte == b'?').next());
    match path {
        Some(b"/metrics") => ("200 OK", metrics::CONTENT_TYPE, scrape()),
        _ => plain("404 Not Found", "there is only /metrics"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_properly_is_answered() {
        for (head, status) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "200"),
            ("GET /metrics?a=b HTTP/1.0\r\n\r\n", "200"),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", "200"),
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("GET /metrics/../x HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("GET /metrics\r\n\r\n", "400"),
            ("GET /metrics HTTP/2\r\n\r\n", "400"),
            ("", "400"),
            ("\r\n\r\n", "400"),
        ] {
            let (said, _, _) = respond(head.as_bytes(), String::new);
            assert!(said.starts_with(status), "{head:?}: {said}");
        }
    }

    #[test]
    fn a_request_without_end_is_not_read_for_ever() {
        let head = read_head(&mut io::repeat(b'x')).unwrap();
        assert!(head.len() < HEAD_MAX + 1024);
        assert_eq!(read_head(&mut io::empty()).unwrap(), b"");
    }
}
