// SPDX-License-Identifier: GPL-2.0

//! `ddupd`: attaches what the files want, at boot and when it comes later, and serves metrics.
//!
//! It holds nothing that I/O needs: it may end, or be killed, at any moment, and whatever is
//! attached goes on. Each store is brought to what its file says once: when the daemon starts, is
//! told to reload, or the driver is loaded anew. So what is detached by hand stays so. A store that
//! is not there, or cannot be attached, is tried again. Stores of replica sets are kept connected to
//! the peers that the files name.

mod log;
pub mod metrics;
mod replication;
mod server;

use crate::{
    adjust, config,
    config::Wanted,
    error::{describe, Error, Exit, Result},
    family::{
        format_uuid,
        set::{SetEventKind, SetState},
        Device, Driver, EventKind, Incoming,
    },
    plan, sys,
    verb::scrub,
};
use clap::{Parser, ValueEnum};
use replication::Replicator;
use sd_notify::NotifyState;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};
use tracing::{error, info, warn};

/// Attach block devices that store equal blocks once, as the files in /etc/ddup say
#[derive(Debug, Parser)]
#[command(
    name = "ddupd",
    version,
    after_help = "\
Each file *.toml in /etc/ddup wants one device; its keys are `store`, `number`, `read-only`, `cache`, \
`index`, a table `knobs`, and for a store of a replica set a table `set` and tables `peer`. `ddup adjust --dry-run` shows what would be done. SIGHUP makes the daemon \
read the files again. Nothing is ever detached, and a device that was detached by hand stays so until \
then. A wrong file is told in the log and left out."
)]
pub struct Args {
    /// Files and folders that say what is to be attached
    #[arg(value_name = "PATH", default_value = config::FOLDER)]
    pub config: Vec<PathBuf>,
    /// Serve metrics for Prometheus at this local address, such as 127.0.0.1:9741
    #[arg(short, long, value_name = "ADDRESS:PORT", value_parser = local_address)]
    pub metrics: Option<SocketAddr>,
    /// Try again every so many seconds what could not be attached
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub interval: u32,
    /// The least that is logged
    #[arg(short, long, value_name = "LEVEL", value_enum, default_value_t = Level::Info)]
    pub log: Level,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// What went wrong
    Error,
    /// And what is odd
    Warn,
    /// And what was done
    Info,
}

/// Metrics tell names of disks: they are not for the network.
fn local_address(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| format!("`{text}` is no address and port, such as 127.0.0.1:9741"))?;
    if !address.ip().is_loopback() {
        return Err(format!(
            "{} is not local: give 127.0.0.1 or [::1]",
            address.ip()
        ));
    }
    Ok(address)
}

/// Runs until a signal ends it.
pub fn run(args: &Args) -> Result {
    log::start(args.log);
    spare_io();
    let signals = signals()?;
    if let Some(address) = args.metrics {
        let listener = TcpListener::bind(address).map_err(|failure| {
            let exit = Exit::from_errno(failure.raw_os_error().unwrap_or(0));
            Error::new(
                exit,
                format!("cannot serve metrics at {address}: {}", describe(&failure)),
            )
        })?;
        info!(%address, "serving metrics");
        thread::spawn(move || server::serve(&listener));
    }
    let interval = Duration::from_secs(args.interval.into());
    let replicator = Replicator::start();
    let woken = replicator.clone();
    thread::spawn(move || follow(interval, &woken));
    let mut daemon = Daemon::new(&args.config, replicator);
    daemon.load();
    daemon.look();
    notify(&[NotifyState::Ready]);
    loop {
        notify(&[NotifyState::Status(&daemon.status())]);
        match signals.recv_timeout(interval) {
            Err(RecvTimeoutError::Timeout) => daemon.look(),
            Ok(SIGHUP) => {
                info!("reading the files again");
                daemon.load();
                daemon.look();
            }
            Ok(_) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    info!("ending; what is attached stays so");
    notify(&[NotifyState::Stopping]);
    Ok(())
}

/// What this process does may be what frees memory, by a connection to a peer that a FLUSH waits for: so
/// it neither waits for memory that only I/O could free, nor for swap. Before any thread is started,
/// since they inherit it.
fn spare_io() {
    for (what, done) in [
        ("lock its memory", sys::lock_memory()),
        ("do without I/O for memory", sys::be_io_flusher()),
    ] {
        if let Err(failure) = done {
            warn!("cannot {what}: {}", describe(&failure));
        }
    }
}

/// Tells systemd, if that has started the daemon.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(failure) = sd_notify::notify(state) {
        warn!(%failure, "systemd does not listen");
    }
}

/// Logs what happens to devices.
fn follow(interval: Duration, replicator: &Replicator) -> ! {
    loop {
        // Why there is nothing to follow is said by who looks for the driver.
        let _ = log_events(replicator);
        thread::sleep(interval);
    }
}

/// Logs stores that failed already, then what happens, until the driver goes.
fn log_events(replicator: &Replicator) -> Result {
    let mut driver = Driver::connect()?;
    let mut events = driver.subscribe()?;
    let failed = |device: &Device| device.failure.is_some();
    driver
        .devices()?
        .iter()
        .filter(|d| failed(d))
        .for_each(log_failure);
    // What happened before there was somebody to follow it.
    replicator.wake();
    loop {
        match events.wait()? {
            Incoming::Event(EventKind::StoreFailed, device) => log_failure(&device),
            Incoming::Event(EventKind::ScrubFound, device) => error!(
                "{}: bad block at byte {}, on {}",
                device.node().display(),
                device.offset.unwrap_or(0),
                device.backing()
            ),
            Incoming::Event(EventKind::Scrubbed, device) => {
                let scrub = device.scrub.unwrap_or_default();
                info!("{}: {}", device.node().display(), scrub::summary(&scrub));
            }
            Incoming::Event(kind, device) => {
                info!(
                    "{} {}: {}",
                    kind.name(),
                    device.node().display(),
                    device.backing()
                );
            }
            Incoming::Set(state) => {
                log_set(&state);
                replicator.wake();
            }
            Incoming::Lost => {
                warn!("some events were lost");
                driver
                    .devices()?
                    .iter()
                    .filter(|d| failed(d))
                    .for_each(log_failure);
            }
            Incoming::Unloaded => return Ok(()),
        }
    }
}

fn log_set(state: &SetState) {
    let what = state.event.map_or("unknown", SetEventKind::name);
    let of = match &state.peer {
        Some(peer) => format!("peer {}", format_uuid(peer)),
        None => format!("replica set {}", format_uuid(&state.set)),
    };
    let device = format!("/dev/ddup{}", state.index);
    match state.event {
        Some(
            SetEventKind::Diverged
            | SetEventKind::SplitBrain
            | SetEventKind::Regressed
            | SetEventKind::StoreFailed,
        ) => error!("{what} {device}: {of}"),
        Some(
            SetEventKind::PeerLost
            | SetEventKind::FlushSuspended
            | SetEventKind::Superseded
            | SetEventKind::LeaseExpired,
        ) => warn!("{what} {device}: {of}"),
        _ => info!("{what} {device}: {of}"),
    }
}

fn log_failure(device: &Device) {
    error!(
        "{}: the store on {} failed, {}: {}",
        device.node().display(),
        device.backing(),
        device.failure.map_or("unknown", |failure| failure.name()),
        device.message.as_deref().unwrap_or("no reason given")
    );
}

/// The signals that come, from a thread that waits for them.
fn signals() -> Result<mpsc::Receiver<i32>> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(|failure| {
        Error::new(Exit::Failed, format!("cannot wait for signals: {failure}"))
    })?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for signal in &mut signals {
            if sender.send(signal).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

struct Daemon<'a> {
    paths: &'a [PathBuf],
    wanted: Vec<Wanted>,
    /// Stores that are as their files want them, or were.
    settled: BTreeSet<PathBuf>,
    /// What was last said about a store, or about the driver under the empty path: to say it once.
    said: BTreeMap<PathBuf, String>,
    /// Number of the family, another one each time that the driver is loaded.
    family: Option<u16>,
    replicator: Replicator,
}

impl<'a> Daemon<'a> {
    fn new(paths: &'a [PathBuf], replicator: Replicator) -> Self {
        Self {
            paths,
            replicator,
            wanted: Vec::new(),
            settled: BTreeSet::new(),
            said: BTreeMap::new(),
            family: None,
        }
    }

    /// Reads the files, and forgets what is settled.
    fn load(&mut self) {
        self.settled.clear();
        self.said.clear();
        match config::load(self.paths) {
            Ok(loaded) => {
                for wrong in &loaded.errors {
                    error!("{wrong}: this file is left out");
                }
                self.wanted = loaded.wanted;
                self.replicator.want(&self.wanted);
            }
            Err(failure) => error!("{failure}: as before"),
        }
    }

    /// Brings what is not settled to what its file says.
    fn look(&mut self) {
        match Driver::connect() {
            Ok(mut driver) => {
                if self.family.replace(driver.family()) != Some(driver.family()) {
                    self.settled.clear();
                }
                self.said.remove(&PathBuf::new());
                if let Err(failure) = self.settle(&mut driver) {
                    self.say(PathBuf::new(), failure.to_string());
                }
            }
            Err(failure) => {
                self.family = None;
                self.settled.clear();
                self.say(PathBuf::new(), failure.to_string());
            }
        }
    }

    fn settle(&mut self, driver: &mut Driver) -> Result {
        let mut open = self.wanted.clone();
        open.retain(|wanted| !self.settled.contains(&wanted.store));
        if open.is_empty() {
            return Ok(());
        }
        let present = adjust::present(driver)?;
        for goal in adjust::goals(&open) {
            let store = goal.wanted.store.clone();
            let goal = [goal];
            let plan = plan::plan(&goal, &present, false);
            for conflict in &plan.conflicts {
                warn!("{conflict}");
            }
            let outcome = plan.steps.iter().try_for_each(|step| {
                let device = adjust::take(driver, step)?;
                info!(device, "{step}");
                Ok(())
            });
            match outcome {
                Ok(()) => {
                    self.said.remove(&store);
                    self.settled.insert(store);
                }
                Err(failure) => {
                    let failure: Error = failure;
                    let words = format!("{}: {failure}; it is tried again", store.display());
                    self.say(store, words);
                }
            }
        }
        Ok(())
    }

    fn say(&mut self, about: PathBuf, words: String) {
        if self.said.get(&about) != Some(&words) {
            warn!("{words}");
            self.said.insert(about, words);
        }
    }

    fn status(&self) -> String {
        match self.family {
            None => "the driver is not loaded".to_owned(),
            Some(_) => format!(
                "{} of {} stores are as wanted",
                self.settled.len(),
                self.wanted.len()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_holds_together() {
        Args::command().debug_assert();
        let args = Args::try_parse_from(["ddupd"]).unwrap();
        assert_eq!(args.config, [PathBuf::from("/etc/ddup")]);
        for (text, words) in [
            ("--metrics=192.0.2.1:9741", "192.0.2.1 is not local"),
            ("--metrics=0.0.0.0:9741", "0.0.0.0 is not local"),
            ("--metrics=localhost", "no address and port"),
            ("--interval=0", "0"),
            ("--log=loud", "loud"),
        ] {
            let error = Args::try_parse_from(["ddupd", text])
                .unwrap_err()
                .to_string();
            assert!(error.contains(words), "{error}");
        }
        for text in ["--metrics=127.0.0.1:0", "--metrics=[::1]:9741"] {
            assert!(Args::try_parse_from(["ddupd", text]).is_ok());
        }
    }
}
