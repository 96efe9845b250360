// SPDX-License-Identifier: GPL-2.0

//! The check of a store that is attached: the driver keeps its last checkpoint on the backing
//! device, and the same code as for other stores reads that, while the device is in use.

use crate::{
    error::{describe, Error, Exit, Result},
    family::{CheckReport, Device, Driver},
    store::{self, CLUSTER},
    sys,
};
use ddup_engine::engine::{
    check::{self, Finding, PageSource, Summary},
    types::Cluster,
};
use kernel::error::code::EIO;
use std::{
    cell::RefCell,
    fs::{self, File, OpenOptions},
    io::{IsTerminal, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    time::{Duration, Instant},
};

/// The driver is told how far the check is after this.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// How often a check begins anew, if the store needs what it keeps.
const TRIES: u32 = 5;

/// What goes on with the driver.
struct Session<'a> {
    driver: &'a mut Driver,
    index: u32,
    report: CheckReport,
    told: Instant,
    /// False, or why not: nothing more can be read.
    held: Result<bool>,
}

impl Session<'_> {
    fn is_held(&self) -> bool {
        matches!(self.held, Ok(true))
    }

    /// Tells the driver how far the check is.
    fn tell(&mut self) {
        if self.is_held() {
            self.held = self.driver.go_on_check(self.index, &self.report);
            self.told = Instant::now();
        }
        if std::io::stderr().is_terminal() {
            eprint!("\r{} pages ", self.report.pages);
            let _ = std::io::stderr().flush();
        }
    }
}

/// The backing device, read without the page cache, which knows nothing of what the driver writes.
struct Pages<'a, 'd> {
    file: File,
    /// Where an aligned page lies in it.
    buffer: Vec<u8>,
    session: &'a RefCell<Session<'d>>,
}

impl PageSource for Pages<'_, '_> {
    fn read(&mut self, cluster: Cluster, page: &mut [u8]) -> kernel::error::Result {
        let mut session = self.session.borrow_mut();
        session.report.pages += 1;
        if session.told.elapsed() >= REPORT_INTERVAL {
            session.tell();
        }
        if !session.is_held() {
            return Err(EIO);
        }
        drop(session);
        let at = self.buffer.as_ptr().align_offset(CLUSTER as usize);
        let aligned = self.buffer.get_mut(at..at + CLUSTER as usize).ok_or(EIO)?;
        let offset = cluster.0.checked_mul(CLUSTER).ok_or(EIO)?;
        self.file.read_exact_at(aligned, offset).map_err(|_| EIO)?;
        page.copy_from_slice(aligned);
        Ok(())
    }
}

/// Checks the last checkpoint of an attached store.
pub fn run(driver: &mut Driver, device: &Device) -> Result<(Summary, Vec<Finding>)> {
    for _ in 0..TRIES {
        if let Some(done) = attempt(driver, device)? {
            return Ok(done);
        }
    }
    Err(Error::new(
        Exit::Failed,
        "the store needed the space that the check kept, again and again: \
         try it when less is written",
    ))
}

/// `None`: what was read may be no state.
fn attempt(driver: &mut Driver, device: &Device) -> Result<Option<(Summary, Vec<Finding>)>> {
    let backing = backing(device)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(&backing)
        .map_err(|error| Error::io("open", Path::new(&backing), &error))?;
    let size = sys::block_device_size(&file)
        .map_err(|error| Error::new(Exit::Failed, describe(&error)))?;
    let (cookie, root) = driver.begin_check(device.index)?;
    let session = RefCell::new(Session {
        driver,
        index: device.index,
        report: CheckReport {
            cookie,
            ..CheckReport::default()
        },
        told: Instant::now(),
        held: Ok(true),
    });
    let mut pages = Pages {
        file,
        buffer: vec![0; 2 * CLUSTER as usize],
        session: &session,
    };
    let mut findings = Vec::new();
    let mut note = |finding| {
        findings.push(finding);
        session.borrow_mut().report.findings += 1;
    };
    let mut table_read = || {
        let mut session = session.borrow_mut();
        session.report.table_read = true;
        session.tell();
    };
    let clusters = size / CLUSTER;
    let checked = check::check_pinned(
        &mut pages,
        &root,
        clusters,
        store::hash,
        &mut note,
        &mut table_read,
    );
    drop(pages);
    {
        let mut session = session.borrow_mut();
        session.report.done = true;
        session.tell();
    }
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
    let summary = checked.map_err(|_| super::out_of_memory(clusters))?;
    let held = session.into_inner().held?;
    Ok(held.then_some((summary, findings)))
}

/// Path of the backing device, whatever it was attached by.
fn backing(device: &Device) -> Result<String> {
    let (major, minor) = device
        .backing_number
        .ok_or_else(|| Error::new(Exit::Failed, "the driver does not say what is behind it"))?;
    let link = format!("/sys/dev/block/{major}:{minor}");
    let target =
        fs::read_link(&link).map_err(|error| Error::io("read", Path::new(&link), &error))?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    Ok(format!("/dev/{}", name.replace('!', "/")))
}
