// SPDX-License-Identifier: GPL-2.0

//! `ddup resize`.

use crate::{cli::ResizeArgs, error::Result, family::Driver, size, target};
use std::{
    io::{IsTerminal, Write},
    thread,
    time::Duration,
};

/// How often is asked how much is left.
const INTERVAL: Duration = Duration::from_millis(200);
/// Characters of the progress bar.
const BAR: u64 = 40;

/// Gives a volume another size, and waits until what it lost is released.
pub fn run(args: &ResizeArgs) -> Result {
    let doing = format!("cannot resize {}", args.device.display());
    resize(args).map_err(|error| error.context(doing))
}

fn resize(args: &ResizeArgs) -> Result {
    let mut driver = Driver::connect()?;
    let devices = driver.devices()?;
    let index = target::find_volume(&devices, &args.device)?.index;
    driver.resize(index, args.size, args.force)?;
    if args.no_wait {
        return Ok(());
    }
    let mut total = 0;
    loop {
        let devices = driver.devices()?;
        let device = devices.iter().find(|device| device.index == index);
        // Another one may have detached it meanwhile: the rest is done after the next attach.
        let left = device.and_then(|device| device.releasing_bytes);
        if total > 0 || left.is_some() {
            total = total.max(left.unwrap_or(0));
            show(total - left.unwrap_or(0), total, left.is_none());
        }
        if left.is_none() {
            return Ok(());
        }
        thread::sleep(INTERVAL);
    }
}

/// Shows how much of `total` bytes is done, to a person.
fn show(done: u64, total: u64, end: bool) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{}{}", bar(done, total), if end { "\n" } else { "" });
        let _ = std::io::stderr().flush();
    }
}

fn bar(done: u64, total: u64) -> String {
    let part = |of: u64| (u128::from(done) * u128::from(of) / u128::from(total.max(1))) as usize;
    format!(
        "[{:<width$}] {:>3}% of {} released",
        "#".repeat(part(BAR)),
        part(100),
        size::human(total),
        width = BAR as usize
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_goes_from_empty_to_full() {
        assert!(bar(0, 1 << 50).starts_with("[                    "));
        assert!(bar(0, 1 << 50).ends_with("]   0% of 1.00P released"));
        assert_eq!(bar(1 << 51, 1 << 52).matches('#').count(), 20);
        assert!(bar(1 << 52, 1 << 52).ends_with("#] 100% of 4.00P released"));
    }
}
