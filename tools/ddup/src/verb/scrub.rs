// SPDX-License-Identifier: GPL-2.0

//! `ddup scrub`.

use super::print_json;
use crate::{
    cli::ScrubArgs,
    error::{Error, Exit, Result},
    family::{Device, Driver, EventKind, Events, Incoming, Scrub, ScrubState},
    size, target,
};
use serde::Serialize;
use std::{
    io::{IsTerminal, Write},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

/// How often is asked how far it is.
const INTERVAL: Duration = Duration::from_millis(200);
/// For so long is waited for events of what has ended.
const PATIENCE: Duration = Duration::from_secs(2);
/// Characters of the progress bar.
const BAR: u64 = 40;
/// Bytes of a block.
const BLOCK: u64 = 4096;

/// A block that stays bad.
#[derive(Serialize)]
struct Bad {
    device: String,
    offset: u64,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    scrub: Scrub,
    /// Some are missing if there are very many.
    bad: Vec<Bad>,
}

/// What events say.
enum News {
    Bad(Bad),
    Ended,
}

/// Reads all data of a store and tells what is bad.
pub fn run(args: &ScrubArgs) -> Result {
    let doing = format!("cannot scrub {}", args.device.display());
    let Some(report) = scrub(args).map_err(|error| error.context(&doing))? else {
        return Ok(());
    };
    if args.json {
        print_json(&report)?;
    }
    let name = args.device.display();
    let said = summary(&report.scrub);
    match report.scrub {
        Scrub { bad_blocks, .. } if bad_blocks > 0 => {
            Err(Error::new(Exit::Damaged, format!("{name}: {said}")))
        }
        Scrub {
            state: ScrubState::Complete,
            ..
        } => {
            if !args.json {
                println!("{name}: {said}");
            }
            Ok(())
        }
        _ => Err(Error::new(Exit::Failed, format!("{name}: {said}"))),
    }
}

/// `None`: it was not waited for.
fn scrub(args: &ScrubArgs) -> Result<Option<Report>> {
    let mut driver = Driver::connect()?;
    let devices = driver.devices()?;
    let device = target::find(&devices, &args.device)?;
    let (index, store) = (device.index, device.store_uuid.clone());
    if args.stop {
        driver.stop_scrub(index)?;
        return Ok(None);
    }
    if args.no_wait {
        driver.begin_scrub(index)?;
        return Ok(None);
    }
    let events = driver.subscribe()?;
    driver.begin_scrub(index)?;
    let (sender, news) = mpsc::channel();
    // It waits for events for as long as this process lives.
    thread::spawn(move || listen(events, store, &sender));
    wait(&mut driver, index, &news, !args.json).map(Some)
}

/// Passes on what events say of the store.
fn listen(mut events: Events, store: Option<String>, to: &Sender<News>) {
    while let Ok(incoming) = events.wait() {
        let news = match incoming {
            Incoming::Event(kind, device) if device.store_uuid == store => match kind {
                EventKind::ScrubFound => News::Bad(Bad {
                    offset: device.offset.unwrap_or(0),
                    device: device.name,
                }),
                EventKind::Scrubbed => News::Ended,
                _ => continue,
            },
            _ => continue,
        };
        if to.send(news).is_err() {
            return;
        }
    }
}

/// Waits for the end of a scrub that was begun.
fn wait(driver: &mut Driver, index: u32, news: &Receiver<News>, tell: bool) -> Result<Report> {
    let mut bad = Vec::new();
    let mut until = None;
    loop {
        let devices = driver.devices()?;
        let scrub = report_of(&devices, index)?;
        if scrub.state != ScrubState::Running && until.is_none() {
            until = Some(Instant::now() + PATIENCE);
        }
        show(&scrub, until.is_some());
        loop {
            match news.recv_timeout(INTERVAL) {
                Ok(News::Bad(block)) => {
                    if tell {
                        println!("{}: bad block at byte {}", block.device, block.offset);
                    }
                    bad.push(block);
                }
                // Of an earlier one that was stopped, perhaps.
                Ok(News::Ended) if until.is_some() => return Ok(Report { scrub, bad }),
                Ok(News::Ended) | Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    thread::sleep(INTERVAL);
                    break;
                }
            }
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return Ok(Report { scrub, bad });
        }
    }
}

fn report_of(devices: &[Device], index: u32) -> Result<Scrub> {
    let device = devices.iter().find(|device| device.index == index);
    device.and_then(|device| device.scrub).ok_or_else(|| {
        Error::new(
            Exit::NotFound,
            "it was detached meanwhile, which ended the scrub",
        )
    })
}

/// Shows how far it is, to a person.
fn show(scrub: &Scrub, end: bool) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{}{}", bar(scrub), if end { "\n" } else { "" });
        let _ = std::io::stderr().flush();
    }
}

fn bar(scrub: &Scrub) -> String {
    // What was written since it began makes more blocks than there were.
    let total = scrub.blocks.max(scrub.checked_blocks).max(1);
    let done = match scrub.state {
        ScrubState::Complete => total,
        _ => scrub.checked_blocks,
    };
    let part = |of: u64| (u128::from(done) * u128::from(of) / u128::from(total)) as usize;
    format!(
        "[{:<width$}] {:>3}% of {}, {} bad, {} healed",
        "#".repeat(part(BAR)),
        part(100),
        size::human(total.saturating_mul(BLOCK)),
        scrub.bad_blocks,
        scrub.healed_blocks,
        width = BAR as usize
    )
}

/// What a scrub has done and found, in one line.
pub(crate) fn summary(scrub: &Scrub) -> String {
    let state = match scrub.state {
        ScrubState::Running => "goes on",
        ScrubState::Complete => "complete",
        ScrubState::Stopped => "stopped",
        ScrubState::Unknown => "unknown",
    };
    let bytes = |count: u64| size::human(count.saturating_mul(BLOCK));
    format!(
        "scrub {state}: {} of {} checked in {} s, {} read, {} blocks bad, {} healed",
        bytes(scrub.checked_blocks),
        bytes(scrub.blocks.max(scrub.checked_blocks)),
        scrub.took_ms / 1000,
        bytes(scrub.read_clusters),
        scrub.bad_blocks,
        scrub.healed_blocks
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_full_at_the_end_whatever_was_written_meanwhile() {
        let mut scrub = Scrub {
            state: ScrubState::Running,
            blocks: 1000,
            checked_blocks: 500,
            ..Scrub::default()
        };
        assert!(bar(&scrub).contains(" 50% of 3.91M"), "{}", bar(&scrub));
        scrub.checked_blocks = 1200;
        assert!(bar(&scrub).contains("100% of"), "{}", bar(&scrub));
        scrub.state = ScrubState::Complete;
        scrub.checked_blocks = 900;
        assert!(bar(&scrub).contains("#] 100% of"), "{}", bar(&scrub));
        scrub.blocks = 0;
        scrub.checked_blocks = 0;
        assert!(bar(&scrub).contains("100%"), "{}", bar(&scrub));
    }

    #[test]
    fn what_it_found_is_one_line() {
        let scrub = Scrub {
            state: ScrubState::Complete,
            blocks: 256,
            checked_blocks: 256,
            read_clusters: 128,
            bad_blocks: 2,
            healed_blocks: 1,
            took_ms: 3456,
        };
        assert_eq!(
            summary(&scrub),
            "scrub complete: 1.00M of 1.00M checked in 3 s, 512K read, 2 blocks bad, 1 healed"
        );
    }
}
