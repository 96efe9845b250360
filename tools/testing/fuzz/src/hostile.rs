// SPDX-License-Identifier: GPL-2.0

//! Uses a store whose metadata is damaged behind its checksums: attach, requests, detach, check.
//!
//! What it answers does not matter. It may refuse, fail requests, become read-only; it may not
//! panic, hang, reach outside of the disk, or ask for memory without bound.

use ddup_sim::content::{Content, Image, CLUSTER};
use ddup_sim::disk::Disk;
use ddup_sim::port::{Action, Change, DataResult, Kind, Millis, Request, Store};
use ddup_sim::real::Real;
use ddup_sim::rng::Rng;
use ddup_sim::script::Setup;
use kernel::fail_alloc::{self, Policy};
use kernel::prelude::KVec;

/// Actions after which a store that still does something counts as hung.
const PATIENCE: u32 = 300_000;
/// Bytes that a store of the corpus' size may take.
const MEMORY: u64 = 256 << 20;

struct Machine<'a> {
    setup: &'a Setup,
    disk: Disk,
    store: Real,
    now: Millis,
    actions: u32,
    contents: Vec<Content>,
    ended: bool,
    started: bool,
    over: bool,
}

/// Attaches, uses and detaches the store on `disk`, then checks it.
pub fn use_store(setup: &Setup, disk: Disk, rng: &mut Rng) -> Result<(), String> {
    let live = u64::try_from(fail_alloc::stats().bytes_live).unwrap_or(0);
    let former = fail_alloc::set(Some(Policy::LiveBytes(live + MEMORY)));
    let result = life(setup, disk, rng);
    fail_alloc::set(former);
    result
}

fn life(setup: &Setup, disk: Disk, rng: &mut Rng) -> Result<(), String> {
    // The checker reads the same bytes; its verdict may be anything.
    let _ = Real::check(&disk, setup);
    let store = Real::new(setup, disk.clusters())?;
    let mut m = Machine {
        setup,
        disk,
        store,
        now: 1000,
        actions: 0,
        contents: Vec::new(),
        ended: false,
        started: false,
        over: false,
    };
    m.store.start(m.now);
    m.drain(rng)?;
    while !m.started && !m.over {
        m.turn(rng)?;
    }
    for _ in 0..40 {
        if m.over {
            break;
        }
        m.request(rng)?;
    }
    if m.started {
        m.store.detach(m.now);
        m.over = false;
        m.drain(rng)?;
        while !m.over {
            m.turn(rng)?;
        }
    }
    let _ = Real::check(&m.disk, setup);
    Ok(())
}

impl Machine<'_> {
    /// Lets time pass until something happens.
    fn turn(&mut self, rng: &mut Rng) -> Result<(), String> {
        self.actions += 1;
        if self.actions > PATIENCE {
            return Err(format!("hung: {PATIENCE} actions and no end"));
        }
        if !self.store.background(self.now) {
            match self.store.next_deadline() {
                Some(at) => self.now = self.now.max(at) + 1,
                None => self.now += 1000,
            }
        }
        self.drain(rng)
    }

    fn request(&mut self, rng: &mut Rng) -> Result<(), String> {
        let kind = rng.pick(&[
            Kind::Read,
            Kind::Read,
            Kind::Write,
            Kind::Write,
            Kind::Flush,
            Kind::Discard,
            Kind::WriteZeroes,
        ]);
        let count = rng.skewed(6);
        let lbn = match rng.below(3) {
            0 => rng.below(self.setup.volume_blocks - count),
            _ => rng.below(4096),
        };
        let write = kind == Kind::Write;
        self.contents = (0..count * u64::from(write))
            .map(|_| rng.below(500))
            .collect();
        let request = Request {
            tag: 0,
            kind,
            volume: 0,
            lbn,
            count,
            fua: rng.chance(1, 8),
        };
        if rng.chance(1, 8) {
            let change = match rng.below(3) {
                0 => Change::Create(rng.between(1, 9), 1 << rng.below(40)),
                1 => Change::Resize(rng.below(4) as u32, 1 << rng.below(40)),
                _ => Change::Remove(rng.below(4) as u32),
            };
            let _ = self.store.change_volume(self.now, change);
        }
        if rng.chance(1, 16) {
            let _ = self.store.begin_scrub(self.now);
        }
        self.ended = false;
        let contents = self.contents.clone();
        self.store
            .submit(self.now, request, &contents, &self.setup.fingerprints);
        self.drain(rng)?;
        while !self.ended && !self.over {
            self.turn(rng)?;
        }
        Ok(())
    }

    fn drain(&mut self, rng: &mut Rng) -> Result<(), String> {
        while let Some(action) = self.store.poll_action(self.now) {
            self.actions += 1;
            if self.actions > PATIENCE {
                return Err(format!("hung: {PATIENCE} actions and no end"));
            }
            self.act(action, rng)?;
        }
        Ok(())
    }

    fn within(&self, cluster: u64, count: u64, what: &str) -> Result<(), String> {
        match cluster.checked_add(count) {
            Some(end) if end <= self.disk.clusters() => Ok(()),
            _ => Err(format!(
                "{what} of {cluster:#x}+{count} is outside of the disk"
            )),
        }
    }

    /// What the shell is promised of metadata I/O.
    fn within_meta(&self, cluster: u64, buf: &[u8], what: &str) -> Result<(), String> {
        if buf.is_empty() || buf.len() % CLUSTER != 0 || buf.len() > 16 * CLUSTER {
            return Err(format!("{what} of {} bytes at {cluster:#x}", buf.len()));
        }
        self.within(cluster, (buf.len() / CLUSTER) as u64, what)
    }

    fn act(&mut self, action: Action<<Real as Store>::Token>, rng: &mut Rng) -> Result<(), String> {
        let now = self.now;
        match action {
            Action::ReadBlock {
                tag,
                block,
                cluster,
                check,
            }
            | Action::ScrubBlock {
                tag,
                block,
                cluster,
                check,
            } => {
                self.within(cluster, 1, "a read")?;
                let content = self.disk.read(cluster).content();
                let matches = self.setup.fingerprints.check(content) == check;
                let result = if matches {
                    DataResult::Ok
                } else {
                    DataResult::Mismatch
                };
                self.store.data_done(now, tag, block, 1, result);
            }
            Action::WriteRun {
                tag,
                block,
                count,
                cluster,
            } => {
                self.within(cluster, count.into(), "a write")?;
                for i in 0..count {
                    let content = self.contents.get((block + i) as usize).copied();
                    let content = content.ok_or("a write of a block that the request lacks")?;
                    self.disk
                        .write(cluster + u64::from(i), Image::Data(content), 0xff);
                }
                self.store.data_done(now, tag, block, count, DataResult::Ok);
            }
            Action::CompareBlock {
                tag,
                block,
                cluster,
            } => {
                self.within(cluster, 1, "a comparison")?;
                let same = self.contents.get(block as usize).copied()
                    == Some(self.disk.read(cluster).content());
                let result = if same {
                    DataResult::Equal
                } else {
                    DataResult::Differs
                };
                self.store.data_done(now, tag, block, 1, result);
            }
            // Its tag is free when it is complete.
            Action::Acknowledge { .. } => {}
            Action::CompleteAfterIo { .. } | Action::Complete { .. } => self.ended = true,
            Action::ScrubFound { .. } | Action::ScrubEnded => {}
            Action::ReadMeta {
                token,
                cluster,
                mut buf,
            } => {
                self.within_meta(cluster, &buf, "a read of metadata")?;
                for (i, part) in buf.chunks_mut(CLUSTER).enumerate() {
                    self.disk.read(cluster + i as u64).bytes(part);
                }
                self.store.meta_done(now, token, buf, true);
            }
            Action::VerifyData {
                cluster,
                check,
                buf,
            } => {
                self.within(cluster, 1, "a look at data")?;
                let content = self.disk.read(cluster).content();
                let result = match self.setup.fingerprints.check(content) == check {
                    true => DataResult::Ok,
                    false => DataResult::Mismatch,
                };
                self.store.verify_done(now, buf, result);
            }
            Action::WriteMeta {
                token,
                cluster,
                buf,
                ..
            } => {
                self.within_meta(cluster, &buf, "a write of metadata")?;
                for (i, part) in buf.chunks(CLUSTER).enumerate() {
                    self.disk.write(cluster + i as u64, Image::meta(part), 0xff);
                }
                self.store.meta_done(now, token, buf, true);
            }
            Action::Flush { token } => {
                self.disk.flush(self.disk.now());
                self.store.meta_done(now, token, KVec::new(), true);
            }
            Action::DiscardRun {
                token,
                cluster,
                count,
            } => {
                self.within(cluster, count, "a discard")?;
                self.disk.discard(cluster, count, rng);
                self.store.meta_done(now, token, KVec::new(), true);
            }
            Action::Started => self.started = true,
            Action::Failed { .. } if !self.started => self.over = true,
            Action::Detached { .. } => self.over = true,
            Action::VolumeChanged { .. } => (),
            Action::ZeroBlocks { .. } | Action::Failed { .. } | Action::Event(_) => (),
        }
        Ok(())
    }
}
