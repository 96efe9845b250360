// SPDX-License-Identifier: GPL-2.0
//! `powercut`: boots a virtual machine on a disk that loses unflushed writes, cuts the power in the
//! middle of its work, boots it again, and so on.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use rustix::process::{kill_process, Pid, Signal};

use lossydisk::bytes::parse_bytes;
use lossydisk::rng::{fresh_seed, Rng};
use lossydisk::scratch::Scratch;
use lossydisk::server::{Server, ServerOptions};

/// Cut the power of a virtual machine in the middle of its work, and see what is left.
///
/// Each round boots the machine; it attaches its disk, checks that everything that was acknowledged
/// as durable is there and nothing is torn or foreign, works on, and loses its power at a moment
/// drawn by chance: first the machine's, which would connect to its disk again and go on, then the
/// disk's. Some cuts come while the machine attaches or checks. The last round only checks.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// What the machine works on
    #[arg(value_enum)]
    mode: Mode,
    /// Power cuts
    #[arg(long, default_value_t = 5)]
    rounds: u64,
    /// Where all chance comes from [default: drawn and printed]
    #[arg(long)]
    seed: Option<u64>,
    /// The longest work before a cut, in seconds
    #[arg(long, default_value_t = 8.0)]
    work: f64,
    /// Of 100 cuts so many come while the machine attaches or checks
    #[arg(long, default_value_t = 20)]
    early: u32,
    /// What is at work when the power fails, as in "blocks fio ext4 xfs trim" [default: a mixture by seed]
    #[arg(long)]
    works: Option<String>,
    /// Size of the disk
    #[arg(long, default_value = "2G", value_parser = parse_bytes)]
    size: u64,
    /// The disk acknowledges flushes and does nothing
    #[arg(long)]
    ignore_flush: bool,
    /// Succeed if data is lost, and fail if not: shows that the test can fail
    #[arg(long)]
    expect_loss: bool,
    /// The module's parameters, as for insmod
    #[arg(long, default_value = "")]
    parameters: String,
    /// Another build of the module
    #[arg(long)]
    module: Option<PathBuf>,
    /// The kernel: stock or debug
    #[arg(long, default_value = "stock")]
    kernel: String,
    /// Seconds that a machine may take until it works
    #[arg(long, default_value_t = 900)]
    patience: u64,
    /// Top of the source tree [default: the folder above this one that holds qemu/vm]
    #[arg(long)]
    top: Option<PathBuf>,
    /// Keep disks and logs here [default: build/log/powercut-<seed>, without the disks]
    #[arg(long)]
    keep: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// the disk itself
    Plain,
    /// a ddup volume that is stored on the disk
    Ddup,
}

/// How a life of the machine ended.
enum End {
    /// By the power cut.
    Cut(String),
    /// The last check found nothing wrong.
    Checked,
    /// Something was lost: the guest's words.
    Lost(String),
}

/// How the guest's script begins a line that says what is wrong.
const FAILED: &str = "powercut: FAILED";

enum Output {
    Line(String),
    End,
    Silence,
}

struct Machine {
    child: Child,
    lines: Receiver<String>,
}

impl Machine {
    /// What the guest says next, if it says it before `until`.
    fn line(&self, until: Instant) -> Output {
        let left = until.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => Output::Line(line),
            Err(RecvTimeoutError::Disconnected) => Output::End,
            Err(RecvTimeoutError::Timeout) => Output::Silence,
        }
    }

    /// Kills QEMU, which is the runner's child, and waits for the runner.
    fn kill(&mut self) -> io::Result<()> {
        for pid in children(self.child.id())? {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Nothing more can be done about one that does not die.
        let _ = self.kill();
    }
}

fn children(parent: u32) -> io::Result<Vec<Pid>> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let Ok(text) = fs::read_to_string(path) else {
        return Ok(Vec::new());
    };
    Ok(text
        .split_whitespace()
        .filter_map(|word| Pid::from_raw(word.parse().ok()?))
        .collect())
}

struct Test {
    cli: Cli,
    seed: u64,
    top: PathBuf,
    /// Logs.
    folder: PathBuf,
    disks: PathBuf,
    server: Server,
    socket: PathBuf,
}

impl Test {
    fn log(&self, name: &str, life: u64) -> PathBuf {
        self.folder.join(format!("{name}-{life}.log"))
    }

    fn boot(&self, life: u64, works: &[&str]) -> io::Result<Machine> {
        let cli = &self.cli;
        let mut command = Command::new(self.top.join("qemu/vm"));
        let stamp = self.top.join("build/cargo/release/stamp");
        command
            .args(["--kernel", &cli.kernel, "--timeout"])
            .arg((cli.patience + cli.work as u64 + 60).to_string())
            .arg("--nbd")
            .arg(&self.socket)
            .arg("--disk")
            .arg(self.disks.join("notes"))
            .arg("--ship")
            .arg(stamp)
            .arg("--log")
            .arg(self.log("console", life))
            .arg("--env")
            .arg(format!("DDUP_MODULE_PARAMETERS={}", cli.parameters));
        if let Some(module) = &cli.module {
            command.arg("--module").arg(module);
        }
        let mode = match cli.mode {
            Mode::Plain => "plain",
            Mode::Ddup => "ddup",
        };
        command
            .arg("--")
            .arg(
                self.top
                    .join("tools/testing/selftests/ddup/powercut/round.sh"),
            )
            .args([mode, &self.seed.to_string()])
            .arg(if life == 0 { "first" } else { "next" })
            .args(works)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(self.log("runner", life))?);
        let mut child = command
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("qemu/vm: {error}")))?;
        let output = child
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("qemu/vm: no output"))?;
        let (sender, lines) = channel();
        let mut log = File::create(self.log("guest", life))?;
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The log is for people; the test goes by the lines.
                let _ = io::Write::write_all(&mut log, format!("{line}\n").as_bytes());
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Machine { child, lines })
    }

    /// Life number `life` of the machine, up to the power cut after it; `last`: only check.
    fn live(&self, life: u64, last: bool, rng: &mut Rng) -> io::Result<End> {
        // Each mixture flushes at another rate: where files are written there is little to lose.
        let mixture: &[&str] = match (rng.below(5), self.cli.mode) {
            (0, Mode::Plain) => &["blocks", "ext4", "xfs"],
            (0, Mode::Ddup) => &["blocks", "fio", "ext4", "xfs", "trim"],
            (1, Mode::Plain) => &["blocks"],
            (1, Mode::Ddup) => &["blocks", "fio"],
            (2, Mode::Plain) => &["ext4"],
            (2, Mode::Ddup) => &["ext4", "trim"],
            (3, Mode::Plain) => &["xfs"],
            (3, Mode::Ddup) => &["xfs", "trim"],
            _ => &["blocks"],
        };
        let works: Vec<&str> = match &self.cli.works {
            Some(works) => works.split_whitespace().collect(),
            None => mixture.to_vec(),
        };
        let mut machine = self.boot(life, &works)?;
        let early = life > 0 && !last && rng.chance(self.cli.early);
        let work = Duration::from_secs_f64(self.cli.work);
        let mut wait = work.mul_f64(rng.below(1 << 20) as f64 / f64::from(1 << 20));
        if early && rng.chance(50) {
            // While it attaches, which is soon over.
            wait /= 8;
        }
        let start = Instant::now();
        let mut until = start + Duration::from_secs(self.cli.patience);
        let mut checked = None;
        // What the machine is at, once the power cut is due.
        let mut moment = None;
        let mut said: Vec<String> = Vec::new();
        loop {
            let line = match machine.line(until) {
                Output::Line(line) => line,
                Output::End => {
                    let status = machine.child.wait()?;
                    let words = said.join("\n");
                    if words.contains(FAILED) {
                        return Ok(End::Lost(words));
                    }
                    let runner = fs::read_to_string(self.log("runner", life))?;
                    return Err(io::Error::other(format!(
                        "life {life}: the machine ended early, {status}; it said:\n{words}\n{runner}"
                    )));
                }
                Output::Silence if moment.is_some() => break,
                Output::Silence => {
                    return Err(io::Error::other(format!(
                        "life {life}: not at work after {} s (--patience); it said:\n{}",
                        self.cli.patience,
                        said.join("\n")
                    )))
                }
            };
            match line.strip_prefix("powercut: ") {
                Some("attaching") if early => {
                    moment = Some("attaching or checking");
                    until = Instant::now() + wait;
                }
                Some("checked") if last => {
                    machine.kill()?;
                    println!("  {line}");
                    return Ok(End::Checked);
                }
                Some("checked") => checked = Some(start.elapsed()),
                Some("working") if moment.is_none() => {
                    moment = Some("working");
                    until = Instant::now() + wait;
                }
                _ => {}
            }
            if line.starts_with("stamp: ") || line.starts_with(FAILED) {
                println!("  {line}");
            }
            said.push(line);
        }
        machine.kill()?;
        let report = self.server.cut()?;
        if let Some(problem) = self.unsound()? {
            return Ok(End::Lost(format!("{report}\n{problem}")));
        }
        let mut text = String::new();
        if let Some(checked) = checked {
            text = format!("checked after {:.1} s, ", checked.as_secs_f64());
        }
        text += &format!(
            "cut after {:.1} s of {} ({}), {report}",
            wait.as_secs_f64(),
            moment.unwrap_or_default(),
            works.join(" ")
        );
        Ok(End::Cut(text))
    }

    /// What is wrong with the store that a cut left, by the engine on a copy in memory.
    fn unsound(&self) -> io::Result<Option<String>> {
        if self.cli.mode == Mode::Plain {
            return Ok(None);
        }
        let output = Command::new(self.top.join("build/cargo/release/storecheck"))
            .arg("--quiet")
            .arg(self.disks.join("disk"))
            .output()
            .map_err(|error| io::Error::new(error.kind(), format!("storecheck: {error}")))?;
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        Ok((!output.status.success()).then(|| text.into_owned()))
    }

    fn run(&self) -> io::Result<Option<String>> {
        let mut rng = Rng::new(self.seed).fork(1);
        for life in 0..=self.cli.rounds {
            let last = life == self.cli.rounds;
            match self.live(life, last, &mut rng)? {
                End::Cut(text) => println!("life {life}: {text}"),
                End::Checked => println!("life {life}: all there"),
                End::Lost(text) => return Ok(Some(format!("life {life}:\n{text}"))),
            }
        }
        Ok(None)
    }
}

fn find_top() -> io::Result<PathBuf> {
    let here = std::env::current_dir()?;
    here.ancestors()
        .find(|folder| folder.join("qemu/vm").is_file())
        .map(Path::to_owned)
        .ok_or_else(|| {
            io::Error::other(format!(
                "{}: not in the source tree, no qemu/vm above: use --top",
                here.display()
            ))
        })
}

fn main_with(mut cli: Cli) -> io::Result<bool> {
    let seed = cli.seed.take().unwrap_or_else(fresh_seed);
    let top = match &cli.top {
        Some(top) => top.clone(),
        None => find_top()?,
    };
    let folder = match &cli.keep {
        Some(folder) => folder.clone(),
        None => top.join(format!("build/log/powercut-{seed}")),
    };
    fs::create_dir_all(&folder)?;
    // Beside the logs only if they are wanted: they are large.
    let scratch = Scratch::new("ddup-powercut");
    let disks = match &cli.keep {
        Some(folder) => folder.clone(),
        None => scratch.folder().to_owned(),
    };
    let socket = scratch.path("socket");
    let mut options = ServerOptions::new(&disks.join("disk"), Some(cli.size), &socket, seed);
    options.disk.ignore_flush = cli.ignore_flush;
    let server = Server::start(options)?;
    File::create(disks.join("notes"))?.set_len(16 << 20)?;
    println!(
        "powercut: seed {seed}, {} cuts, logs in {}",
        cli.rounds,
        folder.display()
    );
    let test = Test {
        cli,
        seed,
        top,
        folder,
        disks,
        server,
        socket,
    };
    let result = test.run();
    test.server.stop()?;
    let mut lost = result?;
    if lost.is_none() {
        lost = test.unsound()?;
    }
    match (lost, test.cli.expect_loss) {
        (None, false) => {
            println!("powercut: {} power cuts, nothing lost", test.cli.rounds);
            Ok(true)
        }
        (Some(text), true) => {
            println!("{text}\npowercut: data was lost, as expected");
            Ok(true)
        }
        (None, true) => {
            println!(
                "powercut: seed {seed}: nothing was lost in {} power cuts, although it was expected",
                test.cli.rounds
            );
            Ok(false)
        }
        (Some(text), false) => {
            println!("{text}\npowercut: seed {seed}: data was lost");
            Ok(false)
        }
    }
}

fn main() -> ExitCode {
    match main_with(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("powercut: {error}");
            ExitCode::from(2)
        }
    }
}
