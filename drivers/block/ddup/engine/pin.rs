// SPDX-License-Identifier: GPL-2.0

//! A pin keeps the last durable checkpoint as it is on the device while requests and younger
//! checkpoints go on, so that it can be examined from outside: the online check. At most one.
//!
//! None of its pages is handed out while it is held. The pages of the segment table have two places
//! each, so the second checkpoint after the pinned one would write over what counted then; it is not
//! cut before the holder has read the table. A pin ends by itself if it is not renewed, at a detach,
//! and when requests wait for that checkpoint or for the pages: nobody waits for a holder, which is
//! told that what it saw may be no state.

use super::buf::zeroed;
use super::mark::mark;
use super::mutant::mutant;
use super::show::lines;
use super::space::Space;
use super::state::{Mode, Store};
use super::types::{Millis, CLUSTER_SIZE};
use super::Buf;
use core::fmt;
use kernel::prelude::*;

/// A pin that is not renewed ends after this, in milliseconds.
pub const LEASE: Millis = 60_000;

/// The checkpoint that is kept.
#[derive(Clone, Copy, Debug)]
pub struct Pin {
    /// Tells this pin from others.
    cookie: u64,
    /// The checkpoint's number.
    checkpoint: u64,
    /// It ends then.
    until: Millis,
    /// The holder has read the segment table.
    table_read: bool,
}

impl Pin {
    /// What it shows of itself.
    pub(super) fn show(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        lines!(out,
            "held": 1,
            "cookie": self.cookie,
            "checkpoint": self.checkpoint,
            "ends": self.until,
            "table_read": u8::from(self.table_read),
        );
        Ok(())
    }
}

impl Store {
    /// Pins the last durable checkpoint. Answers what names the pin, and its superblock. `EBUSY` if
    /// there is a pin, `ENODEV` at a detach.
    pub(super) fn pin(&mut self) -> Result<(u64, Buf)> {
        self.end_pin_if_due();
        if self.pin.is_some() {
            return Err(EBUSY);
        }
        if matches!(self.mode, Mode::Detaching | Mode::Detached) {
            return Err(ENODEV);
        }
        let mut superblock = zeroed(CLUSTER_SIZE)?;
        Space::pin(&mut self.space)?;
        self.superblock.write(&mut superblock, self.config.hash);
        self.pins += 1;
        self.pin = Some(Pin {
            cookie: self.pins,
            checkpoint: self.superblock.checkpoint.number,
            until: self.now + LEASE,
            table_read: false,
        });
        mark!(checkpoint_pinned);
        Ok((self.pins, superblock))
    }

    /// Keeps a pin for another while. `table_read`: the segment table may change from here on.
    /// False: it has ended.
    pub(super) fn renew_pin(&mut self, cookie: u64, table_read: bool) -> bool {
        self.end_pin_if_due();
        let until = self.now + LEASE;
        let Some(pin) = self.pin.as_mut().filter(|pin| pin.cookie == cookie) else {
            return false;
        };
        pin.until = until;
        pin.table_read |= table_read;
        true
    }

    /// Ends a pin. False: it had ended before.
    pub(super) fn unpin(&mut self, cookie: u64) -> bool {
        let held = self.renew_pin(cookie, true);
        if held {
            self.end_pin();
        }
        held
    }

    /// Ends the pin, if there is one.
    pub(super) fn end_pin(&mut self) {
        if self.pin.take().is_some() {
            Space::unpin(&mut self.space);
        }
    }

    /// Ends a pin that nobody renewed, or that a detach can't wait for.
    pub(super) fn end_pin_if_due(&mut self) {
        let over = |pin: &Pin| self.now >= pin.until || self.mode == Mode::Detaching;
        if self.pin.as_ref().is_some_and(over) {
            mark!(pin_ends_by_itself);
            self.end_pin();
        }
    }

    fn cut_breaks_pin(&self) -> bool {
        let reads = |pin: &Pin| {
            !pin.table_read && self.superblock.checkpoint.number > pin.checkpoint && !mutant!(63)
        };
        self.pin.as_ref().is_some_and(reads)
    }

    /// Whether the next checkpoint would write over what the holder of the pin has still to read, and
    /// nobody waits for that checkpoint.
    pub(super) fn pin_holds_cut(&self) -> bool {
        self.cut_breaks_pin()
            && self.admission.is_empty()
            && self.space_wait.is_empty()
            && self.metadata_wait.is_empty()
            && !self.journal_blocked
            && !self.has_change()
    }

    /// The next checkpoint is cut: a pin whose holder has still to read what it writes over ends.
    pub(super) fn end_pin_at_cut(&mut self) {
        if self.cut_breaks_pin() {
            mark!(pin_gives_way);
            self.end_pin();
        }
    }

    /// When the pin ends by itself.
    pub(super) fn pin_deadline(&self) -> Option<Millis> {
        self.pin.as_ref().map(|pin| pin.until)
    }
}
