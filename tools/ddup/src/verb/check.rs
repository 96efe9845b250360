// SPDX-License-Identifier: GPL-2.0

//! `ddup check`.

mod online;

use super::print_json;
use crate::{
    cli::CheckArgs,
    error::{Error, Exit, Result},
    family::Driver,
    size,
    store::{self, Device, CLUSTER},
    target,
};
use ddup_engine::engine::{
    check::{self, Finding, PageSource, Summary},
    types::Cluster,
};
use kernel::error::code::EIO;
use serde::Serialize;

#[derive(Serialize)]
struct Report {
    clean: bool,
    findings: Vec<String>,
    pages: u64,
    mapped_blocks: u64,
    live_clusters: u64,
    junk_clusters: u64,
}

impl PageSource for Device {
    fn read(&mut self, cluster: Cluster, page: &mut [u8]) -> kernel::error::Result {
        // What can't be read is a finding, not the end of the check.
        Device::read(self, cluster.0, page).map_err(|_| EIO)
    }
}

/// Checks a store and prints what is wrong. One that is attached is checked as it is at its last
/// checkpoint.
pub fn run(args: &CheckArgs) -> Result {
    let doing = format!("cannot check {}", args.store.display());
    let (summary, findings) = examine(args).map_err(|error| error.context(&doing))?;
    let findings: Vec<String> = findings.iter().map(Finding::to_string).collect();
    let clean = findings.is_empty();
    let count = findings.len();
    if args.json {
        print_json(&Report {
            clean,
            findings,
            pages: summary.pages,
            mapped_blocks: summary.mapped,
            live_clusters: summary.live,
            junk_clusters: summary.junk,
        })?;
    } else {
        findings.iter().for_each(|finding| println!("{finding}"));
    }
    if !clean {
        return Err(Error::new(
            Exit::Damaged,
            format!("{}: {count} things are wrong", args.store.display()),
        ));
    }
    if !args.json {
        println!(
            "{}: clean; {} mapped, {} stored, {} junk, {} pages of metadata",
            args.store.display(),
            size::human(summary.mapped * CLUSTER),
            size::human(summary.live * CLUSTER),
            size::human(summary.junk * CLUSTER),
            summary.pages
        );
    }
    Ok(())
}

fn examine(args: &CheckArgs) -> Result<(Summary, Vec<Finding>)> {
    // Without the driver nothing is attached.
    if let Ok(mut driver) = Driver::connect() {
        let devices = driver.devices()?;
        if let Ok(device) = target::find(&devices, &args.store) {
            return online::run(&mut driver, device);
        }
    }
    let mut device = Device::open(&args.store, false)?;
    let mut findings = Vec::new();
    let summary = check_device(&mut device, &mut |finding| findings.push(finding))?;
    Ok((summary, findings))
}

fn check_device(device: &mut Device, report: &mut dyn FnMut(Finding)) -> Result<Summary> {
    let clusters = device.clusters();
    check::check(device, clusters, store::hash, report).map_err(|_| out_of_memory(clusters))
}

fn out_of_memory(clusters: u64) -> Error {
    Error::new(
        Exit::Failed,
        format!(
            "out of memory: a check needs about {}",
            size::human(clusters.saturating_mul(5))
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verb::testing::Scratch;
    use std::os::unix::fs::FileExt;

    fn findings(file: &Scratch) -> Vec<String> {
        let mut device = Device::open(&file.0, false).unwrap();
        let mut findings = Vec::new();
        check_device(&mut device, &mut |finding| {
            findings.push(finding.to_string())
        })
        .unwrap();
        findings
    }

    #[test]
    fn a_new_store_is_clean_and_damage_is_named() {
        let file = Scratch::store("check", &[]);
        assert_eq!(findings(&file), [""; 0]);
        let raw = std::fs::OpenOptions::new()
            .write(true)
            .open(&file.0)
            .unwrap();
        raw.write_all_at(&[0x55; 64], 600).unwrap();
        let findings = findings(&file);
        assert!(
            findings
                .iter()
                .any(|f| f.starts_with("superblock at cluster 0: checksum")),
            "{findings:?}"
        );
    }

    #[test]
    fn what_is_no_store_has_findings_too() {
        let file = Scratch::new("check-none", 64 << 20);
        assert!(!findings(&file).is_empty());
    }
}
