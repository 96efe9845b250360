// SPDX-License-Identifier: GPL-2.0
//! `replay`: plays a log of all writes back, and runs a check at each moment at which a crash could
//! have come.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;

use lossydisk::bytes::parse_bytes;
use lossydisk::disk::{Disk, DiskOptions};
use lossydisk::file;
use lossydisk::logwrites::{Action, Entry, Reader};
use lossydisk::rng::{fresh_seed, Rng};
use lossydisk::undo::Undo;

/// Play LOG, as the kernel's log-writes target or lossydisk --record makes it, back onto IMAGE.
///
/// At flush marks, when all before is durable, IMAGE is what a crash would leave at that moment; there
/// --run is run. With --cuts it is also run after power cuts between the marks, which keep, drop or
/// tear the writes since the last mark. The first check that fails ends the replay, and IMAGE is left
/// as that check saw it.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The log: a file or device
    log: PathBuf,
    /// Where to play it to: a file, made anew
    image: PathBuf,
    /// Size of the logged device
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    size: u64,
    /// The check: a shell command; $IMAGE is the image. It must not write to it
    #[arg(long, value_name = "COMMAND")]
    run: Option<String>,
    /// Check only so many flush marks, drawn by chance; the last one is among them
    #[arg(long, value_name = "N")]
    marks: Option<u64>,
    /// Check after so many power cuts
    #[arg(long, value_name = "N", default_value_t = 0)]
    cuts: u64,
    /// Begin at the mark with this text: what is logged before is not checked
    #[arg(long, value_name = "TEXT")]
    from: Option<String>,
    /// Decides which moments are checked, and what the power cuts keep [default: drawn and printed]
    #[arg(long)]
    seed: Option<u64>,
    /// Say what is done at each moment
    #[arg(short, long)]
    verbose: bool,
}

/// What a first reading of a log finds: the numbers of the entries at which a check makes sense.
#[derive(Default)]
struct Moments {
    entries: u64,
    /// Entries that are a flush.
    flushes: Vec<u64>,
    /// All entries that write or discard.
    writes: Vec<u64>,
}

fn survey(cli: &Cli) -> io::Result<Moments> {
    let mut moments = Moments::default();
    let mut begun = cli.from.is_none();
    let mut log = Reader::open(&cli.log)?;
    while let Some(entry) = log.next_entry()? {
        match &entry.action {
            Action::Mark(text) => begun |= cli.from.as_ref() == Some(text),
            _ if begun => {
                if entry.flush {
                    moments.flushes.push(moments.entries);
                }
                if !matches!(&entry.action, Action::Write(_, data) if data.is_empty()) {
                    moments.writes.push(moments.entries);
                }
            }
            _ => {}
        }
        moments.entries += 1;
    }
    if !begun {
        return Err(io::Error::other(format!(
            "no mark {:?} in {} entries",
            cli.from.as_deref().unwrap_or_default(),
            moments.entries
        )));
    }
    Ok(moments)
}

/// `count` of `all`, in order, the last one among them.
fn draw(all: &[u64], count: u64, rng: &mut Rng) -> Vec<u64> {
    let mut left = count.min(all.len() as u64);
    let mut out = Vec::new();
    for (index, &moment) in all.iter().enumerate() {
        let rest = (all.len() - index) as u64;
        if index + 1 == all.len() || rng.below(rest - 1) + 1 < left || left == rest {
            if left == 0 {
                break;
            }
            out.push(moment);
            left -= 1;
        }
    }
    out
}

struct Replay<'a> {
    cli: &'a Cli,
    disk: Disk<Undo<File>>,
    checked: u64,
    cuts: u64,
}

impl Replay<'_> {
    fn apply(&mut self, entry: &Entry) -> io::Result<()> {
        match &entry.action {
            Action::Write(offset, data) => self.disk.write(*offset, data, entry.fua),
            Action::Discard(offset, len) => self.disk.trim(*offset, *len, entry.fua),
            Action::Mark(_) => Ok(()),
        }
    }

    fn check(&mut self, what: &str) -> io::Result<()> {
        self.checked += 1;
        if self.cli.verbose {
            println!("replay: {what}");
        }
        let Some(command) = &self.cli.run else {
            return Ok(());
        };
        let output = Command::new("sh")
            .args(["-c", command])
            .env("IMAGE", &self.cli.image)
            .stdin(Stdio::null())
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{what}: the check failed ({}), {} is as it saw it:\n{}{}",
            output.status,
            self.cli.image.display(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )))
    }

    fn run(&mut self, marks: &[u64], cuts: &[u64]) -> io::Result<()> {
        let mut log = Reader::open(&self.cli.log)?;
        let (mut marks, mut cuts) = (marks.iter().peekable(), cuts.iter().peekable());
        let mut index = 0;
        while let Some(entry) = log.next_entry()? {
            if entry.flush {
                self.disk.flush()?;
                if marks.next_if_eq(&&index).is_some() {
                    self.check(&format!("entry {index}, a flush"))?;
                }
            }
            self.apply(&entry)?;
            if cuts.next_if_eq(&&index).is_some() {
                self.cuts += 1;
                self.disk.medium_mut().begin();
                let report = self.disk.rehearse_cut(self.cuts)?;
                self.check(&format!("entry {index}, {report}"))?;
                self.disk.medium_mut().undo()?;
            }
            index += 1;
        }
        self.disk.flush()
    }
}

fn main_with(cli: &Cli) -> io::Result<()> {
    let named = |path: &Path, error: io::Error| {
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    };
    let seed = cli.seed.unwrap_or_else(fresh_seed);
    let moments = survey(cli).map_err(|error| named(&cli.log, error))?;
    let mut rng = Rng::new(seed);
    let all = moments.flushes.len() as u64;
    let marks = draw(&moments.flushes, cli.marks.unwrap_or(all), &mut rng);
    let cuts = draw(&moments.writes, cli.cuts, &mut rng);
    match std::fs::remove_file(&cli.image) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(named(&cli.image, error))
        }
        _ => {}
    }
    let (image, size) =
        file::open(&cli.image, Some(cli.size)).map_err(|error| named(&cli.image, error))?;
    let mut options = DiskOptions::new(size, seed);
    options.cache_bytes = 1 << 30;
    let mut replay = Replay {
        cli,
        disk: Disk::new(Undo::new(image), options),
        checked: 0,
        cuts: 0,
    };
    replay
        .run(&marks, &cuts)
        .map_err(|error| io::Error::other(format!("seed {seed}: {error}")))?;
    println!(
        "replay: seed {seed}: {} entries, {} flush marks, {} of them and {} power cuts checked, all clean",
        moments.entries,
        all,
        marks.len(),
        replay.cuts
    );
    if replay.checked == 0 && cli.run.is_some() {
        return Err(io::Error::other("the log has no moment to check"));
    }
    Ok(())
}

fn main() -> ExitCode {
    match main_with(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("replay: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_wanted_are_drawn_and_the_last_one_is_among_them() {
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let all: Vec<u64> = (0..rng.below(40)).map(|n| n * 3).collect();
            let count = rng.below(50);
            let drawn = draw(&all, count, &mut rng);
            assert_eq!(drawn.len() as u64, count.min(all.len() as u64));
            assert!(drawn.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(drawn.iter().all(|moment| all.contains(moment)));
            assert!(drawn.is_empty() || drawn.last() == all.last());
        }
    }
}
