// SPDX-License-Identifier: GPL-2.0

//! Columns of `ddup list`, and how rows of text are set below each other.

use crate::{
    family::{Device, State},
    size,
};
use clap::ValueEnum;

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Column {
    /// Path of the block device
    Name,
    /// Size of the volume
    Size,
    /// Path of the backing device or file
    Backing,
    /// What the device does with requests
    State,
    /// Space that holds data
    Used,
    /// Space that new content may take
    Avail,
    /// Part of the mapped blocks that takes no space of its own, as of the last checkpoint
    Saved,
    /// Whether the device is read-only
    Ro,
    /// UUID of the store
    Store,
    /// Number of the volume in its store
    Volume,
}

impl Column {
    /// What `ddup list` prints if not told otherwise.
    pub const DEFAULT: [Column; 7] = [
        Column::Name,
        Column::Size,
        Column::Used,
        Column::Avail,
        Column::Saved,
        Column::State,
        Column::Backing,
    ];

    /// The column's name.
    pub fn heading(self) -> String {
        format!("{self:?}").to_uppercase()
    }

    /// Whether it holds numbers.
    pub fn right_aligned(self) -> bool {
        matches!(
            self,
            Column::Size | Column::Used | Column::Avail | Column::Saved | Column::Volume
        )
    }

    /// The column's text for a device; `-` for what the driver does not say.
    pub fn cell(self, device: &Device, in_bytes: bool) -> String {
        let bytes = |value: Option<u64>| match value {
            None => "-".to_owned(),
            Some(value) if in_bytes => value.to_string(),
            Some(value) => size::human(value),
        };
        let clusters = |value: Option<u64>| bytes(value.map(|count| count.saturating_mul(4096)));
        let counters = device.counters.as_ref();
        let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        match self {
            Column::Name => device.node().display().to_string(),
            Column::Size => bytes(device.size),
            Column::Backing => device.backing().to_owned(),
            Column::State => text(device.state.map(|state: State| state.name().to_owned())),
            Column::Used => clusters(counters.and_then(|c| c.used_clusters())),
            Column::Avail => clusters(counters.and_then(|c| c.available_clusters)),
            Column::Saved => text(
                counters
                    .and_then(|c| c.saved_percent())
                    .map(|percent| format!("{percent:.0}%")),
            ),
            Column::Ro => if device.read_only { "1" } else { "0" }.to_owned(),
            Column::Store => text(device.store_uuid.clone()),
            Column::Volume => text(device.volume.map(|volume| volume.to_string())),
        }
    }
}

/// Sets rows of cells below each other, some columns aligned to the right; the last one is not
/// padded.
pub fn set(right_aligned: &[bool], rows: &[Vec<String>]) -> String {
    let width = |i: usize| {
        rows.iter()
            .map(|row| row[i].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..right_aligned.len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate() {
            let width = widths[i];
            if i > 0 {
                line.push_str("  ");
            }
            if right_aligned[i] {
                line.push_str(&format!("{cell:>width$}"));
            } else {
                line.push_str(&format!("{cell:<width$}"));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::Counters;

    #[test]
    fn columns_line_up() {
        let device = |index, size| Device {
            name: format!("ddup{index}"),
            path: "/dev/vdb".into(),
            size: Some(size),
            state: Some(State::Online),
            counters: Some(Counters {
                clusters: Some(1024),
                fixed_clusters: Some(128),
                metadata_clusters: Some(64),
                junk_clusters: Some(64),
                available_clusters: Some(512),
                live_clusters: Some(256),
                mapped_blocks: Some(512),
                ..Counters::default()
            }),
            ..Device::default()
        };
        let mut rows = vec![Column::DEFAULT.iter().map(|c| c.heading()).collect()];
        for device in [device(0, 1 << 40), device(10, 5 << 30)] {
            rows.push(
                Column::DEFAULT
                    .iter()
                    .map(|column| column.cell(&device, false))
                    .collect(),
            );
        }
        assert_eq!(
            set(&Column::DEFAULT.map(Column::right_aligned), &rows),
            "\
NAME          SIZE   USED  AVAIL  SAVED  STATE   BACKING
/dev/ddup0   1.00T  1.00M  2.00M    50%  online  /dev/vdb
/dev/ddup10  5.00G  1.00M  2.00M    50%  online  /dev/vdb
"
        );
    }

    #[test]
    fn bytes_are_bytes() {
        let device = Device {
            size: Some(5 << 30),
            ..Device::default()
        };
        assert_eq!(Column::Size.cell(&device, true), "5368709120");
        assert_eq!(Column::Store.cell(&device, true), "-");
    }
}
