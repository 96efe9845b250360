// SPDX-License-Identifier: GPL-2.0
//! The server: one disk, at most one client at a time, and a way to cut the power at any moment.
//!
//! Requests that are in the socket at the same time are in flight together, and are carried out in
//! an order drawn by chance: a FLUSH covers only writes whose reply was sent before it came, which
//! is all that the protocol promises.
//!
//! One lock guards the disk. A power cut takes it, empties the cache and closes the client's socket;
//! requests that wait for the lock at that moment find that their session is over.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::disk::{CutReport, Disk, DiskOptions, SECTOR};
use crate::fault::{Delay, Fault, Faults, Kind};
use crate::file;
use crate::logwrites::{Action, Entry, Writer};
use crate::nbd::{self, Command, Request, REQUEST_BYTES};
use crate::rng::Rng;

/// At most so many requests are carried out in an order drawn by chance.
const BATCH_MAX: usize = 64;

/// How a server is made.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The backing file.
    pub file: PathBuf,
    /// Where clients connect. What is there is replaced if it is a socket.
    pub socket: PathBuf,
    /// The disk; its size is replaced by the file's.
    pub disk: DiskOptions,
    /// Size of the file in bytes, if it is to be made.
    pub size: Option<u64>,
    /// Carry requests out in the order in which they come.
    pub in_order: bool,
    /// The power fails when a client leaves.
    pub cut_on_disconnect: bool,
    /// Requests that fail.
    pub faults: Vec<Fault>,
    /// Requests that take longer.
    pub delays: Vec<Delay>,
    /// A log of all writes, as the kernel's log-writes target makes it.
    pub record: Option<PathBuf>,
}

impl ServerOptions {
    /// An honest disk in `file`, of `size` bytes if it is not there yet.
    pub fn new(file: &Path, size: Option<u64>, socket: &Path, seed: u64) -> Self {
        Self {
            file: file.to_owned(),
            socket: socket.to_owned(),
            disk: DiskOptions::new(0, seed),
            size,
            in_order: false,
            cut_on_disconnect: false,
            faults: Vec::new(),
            delays: Vec::new(),
            record: None,
        }
    }
}

struct State {
    disk: Disk<File>,
    faults: Faults,
    record: Option<Writer<BufWriter<File>>>,
    /// Rises with each session and each cut: a session with an older one is over.
    session: u64,
    client: Option<UnixStream>,
    cuts: u64,
    error: Option<String>,
    stopping: bool,
}

/// A running server. Dropping it does not stop it: see [`Server::stop`].
#[derive(Clone)]
pub struct Server {
    state: Arc<Mutex<State>>,
    changed: Arc<Condvar>,
    socket: PathBuf,
    size: u64,
}

impl Server {
    /// Opens the file and serves it from a thread.
    pub fn start(options: ServerOptions) -> io::Result<Self> {
        let named = |path: &Path, error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        };
        let (file, size) =
            file::open(&options.file, options.size).map_err(|e| named(&options.file, e))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
            |_| {
                io::Error::other(format!(
                    "{}: in use by another disk",
                    options.file.display()
                ))
            },
        )?;
        let listener = listen(&options.socket).map_err(|e| named(&options.socket, e))?;
        let record = match &options.record {
            Some(path) => Some(Writer::create(path).map_err(|e| named(path, e))?),
            None => None,
        };
        let mut disk = options.disk.clone();
        disk.size = size;
        let server = Self {
            state: Arc::new(Mutex::new(State {
                disk: Disk::new(file, disk),
                faults: Faults::new(options.faults.clone(), options.delays.clone()),
                record,
                session: 0,
                client: None,
                cuts: 0,
                error: None,
                stopping: false,
            })),
            changed: Arc::new(Condvar::new()),
            socket: options.socket.clone(),
            size,
        };
        let serving = server.clone();
        thread::spawn(move || serving.serve(&listener, &options));
        Ok(server)
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Cuts the power. When this returns nothing that the client sends reaches the disk any more; the
    /// disk is back at once, for the next client.
    pub fn cut(&self) -> io::Result<CutReport> {
        let mut state = self.lock();
        let report = state.cut();
        self.changed.notify_all();
        report
    }

    /// Writes everything out, as a disk does that is told to stop, and serves no more.
    pub fn stop(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.stopping = true;
        state.end_session();
        let result = state.disk.write_all_out();
        state.sync_record()?;
        self.changed.notify_all();
        // Whoever made the socket removes it; if it is gone already, so much the better.
        let _ = fs::remove_file(&self.socket);
        result
    }

    /// Carries out a command of the control socket and gives the answer, one line.
    pub fn command(&self, line: &str) -> Result<String, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let state = || self.lock();
        match words[..] {
            ["cut"] => self
                .cut()
                .map(|report| report.to_string())
                .map_err(|error| error.to_string()),
            ["flush"] => {
                let result = state().disk.write_all_out();
                result.map(|()| "flushed".into()).map_err(|e| e.to_string())
            }
            ["stats"] => {
                let state = state();
                let [reads, writes, flushes, trims] = state.faults.counts();
                Ok(format!(
                    "reads {reads} writes {writes} flushes {flushes} trims {trims} cuts {} pending {} writes {} bytes",
                    state.cuts,
                    state.disk.pending_writes(),
                    state.disk.pending_bytes()
                ))
            }
            ["fail", "off"] => {
                state().faults.clear();
                Ok("no faults".into())
            }
            ["fail", fault] => {
                let fault: Fault = fault.parse()?;
                let answer = format!("will fail {fault:?}");
                state().faults.add(fault);
                Ok(answer)
            }
            ["ignore-flush", mode @ ("on" | "off")] => {
                state().disk.set_ignore_flush(mode == "on");
                Ok(format!("ignore-flush {mode}"))
            }
            ["quit"] => self
                .stop()
                .map(|()| "stopped".into())
                .map_err(|error| error.to_string()),
            _ => Err(format!(
                "{line:?}: expected cut, flush, stats, fail KIND@N, fail off, ignore-flush on|off or quit"
            )),
        }
    }

    /// Answers commands, one a line, at the socket `path`, from a thread.
    pub fn control(&self, path: &Path) -> io::Result<()> {
        let listener = listen(path)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        let server = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                thread::spawn(move || server.answer(stream));
            }
        });
        Ok(())
    }

    fn answer(&self, stream: UnixStream) -> io::Result<()> {
        let mut output = stream.try_clone()?;
        for line in io::BufRead::lines(io::BufReader::new(stream)) {
            let answer = match self.command(&line?) {
                Ok(answer) => {
                    println!("lossydisk: {answer}");
                    answer
                }
                Err(error) => format!("error: {error}"),
            };
            writeln!(output, "{answer}")?;
        }
        Ok(())
    }

    /// Waits until there were `cuts` cuts, or the server was stopped. An error is one that ended the
    /// service.
    pub fn wait(&self, cuts: Option<u64>) -> io::Result<()> {
        let mut state = self.lock();
        loop {
            if let Some(error) = &state.error {
                return Err(io::Error::other(error.clone()));
            }
            if state.stopping || cuts.is_some_and(|cuts| state.cuts >= cuts) {
                return Ok(());
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, listener: &UnixListener, options: &ServerOptions) {
        let mut rng = Rng::new(options.disk.seed).fork(u64::MAX - 1);
        for stream in listener.incoming() {
            let result = stream.and_then(|stream| self.session(stream, options, &mut rng));
            let mut state = self.lock();
            if state.stopping {
                return;
            }
            if let Err(error) = result {
                eprintln!("lossydisk: client: {error}");
            }
            if let Err(error) = state.sync_record() {
                state.error = Some(format!("record: {error}"));
                self.changed.notify_all();
                return;
            }
            // A client that was cut off had its cut.
            if options.cut_on_disconnect && state.client.is_some() {
                match state.cut() {
                    Ok(report) => println!("lossydisk: {report}"),
                    Err(error) => state.error = Some(error.to_string()),
                }
                self.changed.notify_all();
            }
            state.client = None;
        }
    }

    /// Serves one client until it leaves or is cut off.
    fn session(
        &self,
        mut stream: UnixStream,
        options: &ServerOptions,
        rng: &mut Rng,
    ) -> io::Result<()> {
        if !nbd::handshake(&mut stream, self.size)? {
            return Ok(());
        }
        let session = {
            let mut state = self.lock();
            state.session += 1;
            state.client = Some(stream.try_clone()?);
            state.session
        };
        let mut input = Input::new(stream.try_clone()?);
        let mut batch = Vec::new();
        let mut out = Vec::new();
        loop {
            batch.clear();
            let open = match input.requests(&mut batch) {
                Ok(open) => open,
                // A client that is killed leaves without a word.
                Err(error) if is_gone(&error) => false,
                Err(error) => return Err(error),
            };
            if !options.in_order {
                shuffle(&mut batch, rng);
            }
            for (request, data) in &batch {
                if request.command == Command::Disconnect {
                    continue;
                }
                let start = out.len();
                nbd::reply(&mut out, request.cookie, 0);
                match self.handle(session, request, input.data(data), &mut out)? {
                    None => return Ok(()),
                    Some(0) => {}
                    Some(error) => {
                        out.truncate(start);
                        nbd::reply(&mut out, request.cookie, error);
                    }
                }
            }
            match stream.write_all(&out) {
                Ok(()) => out.clear(),
                Err(error) if is_gone(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
            let leaves = |request: &Request| request.command == Command::Disconnect;
            if !open || batch.iter().any(|(request, _)| leaves(request)) {
                return Ok(());
            }
        }
    }

    /// Carries out one request and gives the error to reply, 0 for none; a READ's data is added to
    /// `out`. `None` if the session is over.
    fn handle(
        &self,
        session: u64,
        request: &Request,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> io::Result<Option<u32>> {
        let kind = match request.command {
            Command::Read => Kind::Read,
            Command::Write | Command::WriteZeroes => Kind::Write,
            Command::Flush => Kind::Flush,
            Command::Trim => Kind::Trim,
            Command::Disconnect | Command::Unknown(_) => return Ok(Some(nbd::ERROR_INVALID)),
        };
        let delay = self.lock().faults.delay(kind);
        if !delay.is_zero() {
            thread::sleep(delay);
        }
        let mut state = self.lock();
        if state.session != session || state.stopping {
            return Ok(None);
        }
        let sectors = u64::from(request.length).div_ceil(SECTOR);
        if state.faults.next(kind, request.offset / SECTOR, sectors) {
            return Ok(Some(nbd::ERROR_IO));
        }
        let (offset, length) = (request.offset, u64::from(request.length));
        let start = out.len();
        let result = match request.command {
            Command::Read if request.length > nbd::PAYLOAD_MAX => {
                return Ok(Some(nbd::ERROR_INVALID))
            }
            Command::Read => {
                out.resize(start + length as usize, 0);
                state.disk.read(offset, &mut out[start..])
            }
            Command::Write => state.disk.write(offset, data, request.fua),
            Command::WriteZeroes => state.disk.write_zeroes(offset, length, request.fua),
            Command::Trim => state.disk.trim(offset, length, request.fua),
            _ => state.disk.flush(),
        };
        if let Err(error) = result {
            out.truncate(start);
            let code = match error.kind() {
                io::ErrorKind::InvalidInput => nbd::ERROR_INVALID,
                io::ErrorKind::StorageFull => nbd::ERROR_SPACE,
                _ => nbd::ERROR_IO,
            };
            eprintln!("lossydisk: {:?}: {error}", request.command);
            return Ok(Some(code));
        }
        state.record(request, data)?;
        Ok(Some(0))
    }
}

impl State {
    fn end_session(&mut self) {
        self.session += 1;
        if let Some(client) = self.client.take() {
            // It may have gone by itself.
            let _ = client.shutdown(Shutdown::Both);
        }
    }

    fn cut(&mut self) -> io::Result<CutReport> {
        self.end_session();
        self.sync_record()?;
        self.cuts += 1;
        self.disk.cut()
    }

    fn record(&mut self, request: &Request, data: &[u8]) -> io::Result<()> {
        let Some(record) = &mut self.record else {
            return Ok(());
        };
        let (offset, length) = (request.offset, u64::from(request.length));
        let action = match request.command {
            Command::Write => Action::Write(offset, data.to_vec()),
            // The log knows no zeroes but those of a discard.
            Command::WriteZeroes | Command::Trim => Action::Discard(offset, length),
            Command::Flush => Action::Write(0, Vec::new()),
            _ => return Ok(()),
        };
        record.add(&Entry {
            flush: request.command == Command::Flush,
            fua: request.fua,
            action,
        })
    }

    fn sync_record(&mut self) -> io::Result<()> {
        match &mut self.record {
            Some(record) => record.sync(),
            None => Ok(()),
        }
    }
}

/// A place in [`Input`]'s buffer.
type Place = std::ops::Range<usize>;

/// What came from the client and was not yet carried out.
struct Input {
    stream: UnixStream,
    buffer: Vec<u8>,
    from: usize,
    to: usize,
}

impl Input {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            buffer: vec![0; 1 << 20],
            from: 0,
            to: 0,
        }
    }

    /// Adds all requests that are there whole, at least one, to `batch`; waits for it if need be.
    /// Returns false if the client closed the connection.
    fn requests(&mut self, batch: &mut Vec<(Request, Place)>) -> io::Result<bool> {
        self.buffer.copy_within(self.from..self.to, 0);
        self.to -= self.from;
        self.from = 0;
        loop {
            let mut wanted = REQUEST_BYTES;
            while batch.len() < BATCH_MAX {
                let rest = &self.buffer[self.from..self.to];
                let Some((head, _)) = rest.split_first_chunk::<REQUEST_BYTES>() else {
                    break;
                };
                let request = Request::parse(head)?;
                wanted = REQUEST_BYTES + request.payload();
                if rest.len() < wanted {
                    break;
                }
                let end = self.from + wanted;
                batch.push((request, self.from + REQUEST_BYTES..end));
                self.from = end;
            }
            if !batch.is_empty() {
                return Ok(true);
            }
            if self.buffer.len() < wanted {
                self.buffer.resize(wanted, 0);
            }
            match self.stream.read(&mut self.buffer[self.to..]) {
                Ok(0) => return Ok(false),
                Ok(count) => self.to += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn data(&self, place: &Place) -> &[u8] {
        &self.buffer[place.clone()]
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

fn shuffle<T>(items: &mut [T], rng: &mut Rng) {
    for index in (1..items.len()).rev() {
        items.swap(index, rng.below(index as u64 + 1) as usize);
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    if let Ok(metadata) = fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err(io::Error::other("there is a file that is not a socket"));
        }
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::other("another server listens there"));
        }
        fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}
