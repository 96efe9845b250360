// SPDX-License-Identifier: GPL-2.0

//! What the daemon says, on standard error: for the journal with the level before each line, for
//! people with its name.

use super::Level;
use std::{env, fmt, io};
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    filter::LevelFilter,
    fmt::{format::Writer, FmtContext, FormatEvent, FormatFields},
    registry::LookupSpan,
};

/// Starts to say what is at least of this level.
pub fn start(level: Level) {
    let least = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
    };
    let lines = Lines {
        for_journal: env::var_os("JOURNAL_STREAM").is_some(),
    };
    tracing_subscriber::fmt()
        .with_max_level(least)
        .with_writer(io::stderr)
        .with_ansi(false)
        .event_format(lines)
        .init();
}

/// One line for each event.
struct Lines {
    for_journal: bool,
}

impl Lines {
    fn prefix(&self, level: tracing::Level) -> &'static str {
        match (self.for_journal, level) {
            // The levels of syslog, as sd-daemon(3) wants them.
            (true, tracing::Level::ERROR) => "<3>",
            (true, tracing::Level::WARN) => "<4>",
            (true, _) => "<6>",
            (false, tracing::Level::ERROR) => "ddupd: error: ",
            (false, tracing::Level::WARN) => "ddupd: warning: ",
            (false, _) => "ddupd: ",
        }
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str(self.prefix(*event.metadata().level()))?;
        context
            .field_format()
            .format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
