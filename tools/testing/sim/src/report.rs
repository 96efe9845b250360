// SPDX-License-Identifier: GPL-2.0

//! What histories did, added up.

macro_rules! totals {
    ($($(#[$doc:meta])* $name:ident: $label:literal,)*) => {
        /// Counters of one history, or of many.
        #[derive(Clone, Debug, Default)]
        pub struct Totals {
            $($(#[$doc])* pub $name: u64,)*
            /// Levels of the deepest map.
            pub levels: u32,
        }

        impl Totals {
            /// Adds another history's.
            pub fn add(&mut self, other: &Totals) {
                $(self.$name += other.$name;)*
                self.levels = self.levels.max(other.levels);
            }

            /// One line for each counter, with the median over `each`.
            pub fn table(&self, each: &[Totals]) -> String {
                let mut out = format!("{:<28}{:>14}{:>12}\n", "", "all", "median");
                $(
                    let mut values: Vec<u64> = each.iter().map(|t| t.$name).collect();
                    values.sort_unstable();
                    let median = values.get(values.len() / 2).copied().unwrap_or(0);
                    out += &format!("{:<28}{:>14}{:>12}\n", $label, self.$name, median);
                )*
                out += &format!("{:<28}{:>14}\n", "levels of the deepest map", self.levels);
                out
            }
        }
    };
}

totals! {
    /// Operations of the script.
    ops: "operations",
    /// Power cuts, those in recovery included.
    crashes: "power cuts",
    /// Power cuts in recovery.
    crashes_in_recovery: "  in recovery",
    /// Stores that gave up after a fault, as they may, and were attached again.
    given_up: "stores that gave up",
    /// Clean detaches.
    detaches: "clean detaches",
    /// Volumes that came, went or got another size.
    volume_changes: "changes of volumes",
    /// Checkpoints that became durable.
    checkpoints: "checkpoints",
    /// Times that the journal began again at its first cluster.
    journal_wraps: "journal wraps",
    /// Clusters that were released and became writable.
    clusters_recycled: "clusters recycled",
    /// Checks of the running store that saw one state.
    online_checks: "checks of a running store",
    /// Scrubs that ended.
    scrubs: "scrubs",
    /// Data clusters written.
    data_writes: "data clusters written",
    /// Data clusters read.
    data_reads: "data clusters read",
    /// Metadata clusters written.
    meta_writes: "metadata clusters written",
    /// Metadata clusters read.
    meta_reads: "metadata clusters read",
    /// Blocks compared.
    compares: "blocks compared",
    /// Clusters discarded.
    discarded: "clusters discarded",
    /// Requests that ended with an error, as they may.
    errors: "errors returned",
    /// Requests that ended for lack of space, as they may.
    no_space: "refused for lack of space",
    /// I/O faults injected.
    faults: "I/O faults",
}
