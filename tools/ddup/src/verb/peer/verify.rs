// SPDX-License-Identifier: GPL-2.0

//! `ddup peer verify`.

use crate::{
    cli::PeerVerifyArgs,
    error::{Error, Exit, Result},
    family::{
        format_uuid,
        set::verify::{Verify, VerifyState},
    },
    size,
    verb::{member::Member, print_json},
};
use ddup_engine::engine::replication::types::Id;
use std::{
    io::{IsTerminal, Write},
    thread,
    time::Duration,
};

/// How often is asked how far it is.
const INTERVAL: Duration = Duration::from_millis(200);
/// Characters of the progress bar.
const BAR: u64 = 40;
/// Bytes of a block.
const BLOCK: u64 = 4096;

/// Compares what a peer holds with what it should hold, and repairs it if that is asked for. `doing` says
/// what cannot be done if it can't.
pub fn verify(args: &PeerVerifyArgs, doing: String) -> Result {
    let Some((peer, report)) = compare(args).map_err(|error| error.context(doing))? else {
        return Ok(());
    };
    match args.json {
        true => print_json(&report)?,
        false => tell(&report),
    }
    verdict(&report, &peer)
}

/// `None`: it was not waited for.
fn compare(args: &PeerVerifyArgs) -> Result<Option<(Id, Verify)>> {
    let mut member = Member::open(&args.device)?;
    let peer = member.store_named(&args.peer)?;
    member.peer(&peer)?;
    if args.stop {
        member.driver.stop_verify(member.device.index)?;
        return Ok(None);
    }
    member
        .driver
        .begin_verify(member.device.index, &peer, args.repair)?;
    if args.no_wait {
        return Ok(None);
    }
    let report = wait(&mut member, &peer)?;
    Ok(Some((peer, report)))
}

/// Waits for the end of the verify that was begun.
fn wait(member: &mut Member, peer: &Id) -> Result<Verify> {
    loop {
        member.refresh()?;
        let report = member.peer(peer)?.verify.clone().ok_or_else(|| {
            Error::new(
                Exit::Failed,
                "the driver does not know the verify any more: another one was begun, or memory is short",
            )
        })?;
        show(&report);
        if !report.state.goes_on() {
            return Ok(report);
        }
        thread::sleep(INTERVAL);
    }
}

/// Prints each block that differs, as far as they are known.
fn tell(report: &Verify) {
    for found in &report.found {
        let volume = format_uuid(&found.volume);
        println!("block {} of volume {volume} differs", found.block);
    }
    let told = report.found.len() as u64;
    let more = report.differing_blocks.saturating_sub(told);
    if more > 0 {
        println!("{more} more blocks differ");
    }
}

/// How it has ended, for the exit code.
fn verdict(report: &Verify, peer: &Id) -> Result {
    let words = format!("store {}: {}", format_uuid(peer), summary(report));
    match report.state {
        _ if report.differs() => Err(Error::new(Exit::Differs, words)),
        VerifyState::Complete => {
            eprintln!("{words}");
            Ok(())
        }
        _ => Err(Error::new(Exit::Failed, words)),
    }
}

/// Shows how far it is, to a person.
fn show(report: &Verify) {
    if std::io::stderr().is_terminal() {
        let end = if report.state.goes_on() { "" } else { "\n" };
        eprint!("\r{}{end}", bar(report));
        let _ = std::io::stderr().flush();
    }
}

fn bar(report: &Verify) -> String {
    let total = report.blocks.max(1);
    let done = match report.state {
        VerifyState::Complete => total,
        _ => report.compared_blocks.min(total),
    };
    let part = |of: u64| (u128::from(done) * u128::from(of) / u128::from(total)) as usize;
    format!(
        "[{:<width$}] {:>3}% of {}, {} differ, {} repaired",
        "#".repeat(part(BAR)),
        part(100),
        size::human(report.blocks.saturating_mul(BLOCK)),
        report.differing_blocks,
        report.repaired_blocks,
        width = BAR as usize
    )
}

/// What a verify has done and found, in one line.
pub(crate) fn summary(report: &Verify) -> String {
    let state = match report.state {
        VerifyState::Freezing => "begins",
        VerifyState::Comparing => "goes on",
        VerifyState::Complete => "complete",
        VerifyState::Stopped => "stopped",
        VerifyState::GaveWay => "gave way to who needs the space, or to a resync",
        VerifyState::Lost => "ended with the connection or the reign",
        VerifyState::NotFrozen => {
            "not possible now: the two did not manage to freeze the same state"
        }
        VerifyState::Unknown => "unknown",
    };
    let bytes = |count: u64| size::human(count.saturating_mul(BLOCK));
    let mut text = format!(
        "verify {state}: {} of {} compared in {} s, {} blocks differ, {} repaired",
        bytes(report.compared_blocks),
        bytes(report.blocks),
        report.took_ms / 1000,
        report.differing_blocks,
        report.repaired_blocks
    );
    if report.differing_volumes > 0 {
        text.push_str(&format!(", {} volumes differ", report.differing_volumes));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Verify {
        Verify {
            state: VerifyState::Complete,
            blocks: 512,
            compared_blocks: 512,
            took_ms: 3456,
            ..Verify::default()
        }
    }

    #[test]
    fn the_exit_code_tells_a_difference_from_a_failure() {
        let exit = |report: &Verify| verdict(report, &[1; 16]).map_err(|error| error.exit);
        assert_eq!(exit(&report()), Ok(()));
        let block = Verify {
            differing_blocks: 1,
            ..report()
        };
        let volume = Verify {
            differing_volumes: 1,
            ..report()
        };
        let lost = |report: &Verify| Verify {
            state: VerifyState::Lost,
            ..report.clone()
        };
        assert_eq!(exit(&block), Err(Exit::Differs));
        assert_eq!(exit(&volume), Err(Exit::Differs));
        assert_eq!(exit(&lost(&report())), Err(Exit::Failed));
        // What was found by then is so, however it ended.
        assert_eq!(exit(&lost(&block)), Err(Exit::Differs));
    }

    #[test]
    fn what_it_found_is_one_line() {
        let report = Verify {
            differing_blocks: 2,
            repaired_blocks: 1,
            ..report()
        };
        assert_eq!(
            summary(&report),
            "verify complete: 2.00M of 2.00M compared in 3 s, 2 blocks differ, 1 repaired"
        );
        assert!(bar(&report).contains("100% of 2.00M, 2 differ"));
        let half = Verify {
            state: VerifyState::Comparing,
            compared_blocks: 256,
            ..report
        };
        assert!(bar(&half).contains(" 50% of 2.00M"), "{}", bar(&half));
    }
}
