// SPDX-License-Identifier: GPL-2.0

//! What an onlooker is told of: the life of requests, clusters and checkpoints.

mod memory;

use ddup_engine::engine::event::{Decision, Event, Life, Observer};
use ddup_engine::engine::{Cluster, Lbn, Status};
use memory::{check_disk, Shell};
use std::cell::RefCell;

const CLUSTERS: u64 = 16 * 4096;
const STORE: u64 = 77;

thread_local! {
    static TOLD: RefCell<Vec<Event>> = const { RefCell::new(Vec::new()) };
}

fn tell(store: u64, event: &Event) {
    assert_eq!(store, STORE);
    TOLD.with_borrow_mut(|told| told.push(*event));
}

/// What was told since the last time.
fn told() -> Vec<Event> {
    TOLD.with_borrow_mut(core::mem::take)
}

/// What became of clusters since the last time, cluster by cluster.
fn lives() -> Vec<(Life, u64, u32)> {
    let each = |event| match event {
        Event::Clusters {
            life,
            first,
            count,
            owners,
        } => (first.0..first.0 + count)
            .map(|cluster| (life, cluster, owners))
            .collect(),
        _ => Vec::new(),
    };
    told().into_iter().flat_map(each).collect()
}

fn observed() -> Shell {
    let mut shell = Shell::attach_with(Shell::format(CLUSTERS, 1 << 20), CLUSTERS, |config| {
        config.knobs.gc_delay = 0;
        config.knobs.checkpoint_interval = 300;
    });
    shell.engine.observe(Some(Observer { tell, store: STORE }));
    told();
    shell
}

#[test]
fn a_write_is_told_from_its_decision_to_its_journal_block() {
    let mut shell = observed();
    shell.name_requests = true;
    assert_eq!(shell.write(10, &[1, 2, 0, 1]), Status::Ok);
    shell.flush();
    let events = told();
    let decided: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Decided {
                key,
                lbn,
                count,
                decision,
                cluster,
            } => Some((*key, *lbn, *count, *decision, *cluster)),
            _ => None,
        })
        .collect();
    let key = decided[0].0;
    let first = decided[0].4;
    assert_eq!(decided[0], (key, Lbn(10), 2, Decision::New, first));
    assert_eq!(decided[1].1, Lbn(12));
    assert_eq!(decided[1].3, Decision::Zero);
    assert_eq!(decided[2], (key, Lbn(13), 1, Decision::Duplicate, first));
    assert_eq!(decided.len(), 3);
    // The FLUSH waits for the block that has these records.
    let waited = events.iter().find_map(|event| match event {
        Event::Waits { key: own, sequence } if *own != key => Some(*sequence),
        _ => None,
    });
    let block = events.iter().find_map(|event| match event {
        Event::JournalBlock {
            sequence,
            records,
            bytes,
            quick,
            ..
        } => Some((*sequence, *records, *bytes, *quick)),
        _ => None,
    });
    assert_eq!(block, Some((waited.unwrap(), 3, 4096, true)));
}

#[test]
fn requests_that_were_not_named_are_not_told_of() {
    let mut shell = observed();
    assert_eq!(shell.write(10, &[1]), Status::Ok);
    shell.flush();
    assert!(!told()
        .iter()
        .any(|event| matches!(event, Event::Decided { .. } | Event::Waits { .. })));
}

#[test]
fn the_life_of_a_cluster_is_told_in_order() {
    let mut shell = observed();
    shell.engine.set_knobs(ddup_engine::engine::Knobs {
        gc_delay: u64::MAX / 2,
        checkpoint_interval: 300,
        ..Default::default()
    });
    assert_eq!(shell.write(0, &[1]), Status::Ok);
    assert_eq!(shell.write(1, &[1]), Status::Ok);
    shell.pass(1000);
    let before = lives();
    let cluster = before[0].1;
    assert_eq!(
        before,
        [(Life::Allocated, cluster, 0), (Life::Live, cluster, 2)]
    );
    // Both owners go: junk. One comes back without a write: alive again.
    shell.discard(0, 2);
    shell.pass(1000);
    assert_eq!(lives(), [(Life::Junk, cluster, 0)]);
    assert_eq!(shell.write(5, &[1]), Status::Ok);
    shell.pass(1000);
    assert_eq!(lives(), [(Life::Resurrected, cluster, 1)]);
    // And it goes for good.
    shell.discard(5, 1);
    shell.engine.set_knobs(ddup_engine::engine::Knobs {
        gc_delay: 0,
        checkpoint_interval: 300,
        ..Default::default()
    });
    shell.pass(10_000);
    let mut after = lives();
    assert_eq!(after[0], (Life::Junk, cluster, 0));
    assert_eq!(after[1], (Life::Retired, cluster, 0));
    // The recycler and the checkpoint do not wait for each other.
    after[2..].sort_by_key(|(life, ..)| *life == Life::Available);
    assert_eq!(
        after[2..],
        [(Life::Erased, cluster, 0), (Life::Available, cluster, 0)]
    );
    check_disk(&shell.detach(), CLUSTERS);
}

#[test]
fn a_quarantined_cluster_is_told() {
    let mut shell = observed();
    assert_eq!(shell.write(3, &[9]), Status::Ok);
    shell.flush();
    let cluster = lives()[0].1;
    shell.disk.rotten.insert(cluster);
    assert_eq!(shell.try_read(3, 1), Err(Status::Medium));
    assert_eq!(lives(), [(Life::Quarantined, cluster, 0)]);
}

#[test]
fn neighbours_are_told_of_at_once() {
    let mut shell = observed();
    let ids: Vec<u64> = (1..=100).collect();
    assert_eq!(shell.write(0, &ids), Status::Ok);
    shell.pass(1000);
    let runs: Vec<_> = told()
        .into_iter()
        .filter(|event| matches!(event, Event::Clusters { .. }))
        .collect();
    let first = match runs[0] {
        Event::Clusters { first, .. } => first,
        _ => Cluster(0),
    };
    let run = |life, owners| Event::Clusters {
        life,
        first,
        count: 100,
        owners,
    };
    assert_eq!(runs, [run(Life::Allocated, 0), run(Life::Live, 1)]);
}

#[test]
fn a_checkpoint_is_told_when_it_is_cut_and_when_it_is_durable() {
    let mut shell = observed();
    assert_eq!(shell.write(0, &[1, 2, 3]), Status::Ok);
    shell.pass(1000);
    let of_checkpoints: Vec<_> = told()
        .into_iter()
        .filter(|event| {
            matches!(
                event,
                Event::CheckpointBegun { .. } | Event::CheckpointDurable { .. }
            )
        })
        .collect();
    let Event::CheckpointBegun {
        number,
        blocks,
        clusters,
    } = of_checkpoints[0]
    else {
        panic!("{of_checkpoints:?}");
    };
    assert_eq!((blocks, clusters), (3, 3));
    assert!(matches!(
        of_checkpoints[1],
        Event::CheckpointDurable { number: n, pages } if n == number && pages > 0
    ));
    assert_eq!(of_checkpoints.len(), 2);
}

/// The same requests, with somebody who looks on and without: the same disk.
#[test]
fn an_observed_engine_acts_as_one_that_is_not() {
    let run = |looks_on: bool| {
        let mut shell = observed();
        if !looks_on {
            shell.engine.observe(None);
        }
        shell.name_requests = looks_on;
        for round in 0..300_u64 {
            let ids: Vec<u64> = (0..1 + round % 7).map(|i| (round * i) % 50).collect();
            assert_eq!(shell.write((round * 37) % 200, &ids), Status::Ok);
            match round % 11 {
                0 => shell.flush(),
                1 => shell.discard((round * 13) % 200, 9),
                _ => shell.pass(20),
            }
        }
        assert_eq!(told().is_empty(), !looks_on);
        let disk = shell.detach();
        check_disk(&disk, CLUSTERS);
        let mut pages: Vec<_> = disk.pages.into_iter().collect();
        pages.sort();
        pages
    };
    assert!(run(true) == run(false));
}

/// Names in a file of the repository that stand between `before` and `after`.
fn names_in(path: &str, before: &str, after: char) -> Vec<String> {
    let path = format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let mut names: Vec<String> = text
        .split(before)
        .skip(1)
        .filter_map(|rest| rest.split_once(after))
        .map(|(name, _)| name.to_string())
        .collect();
    names.sort();
    names
}

#[test]
fn every_tracepoint_and_every_file_in_debugfs_is_documented_and_tested() {
    const GUIDE: &str = "Documentation/admin-guide/blockdev/ddup.rst";
    const TESTS: &str = "tools/testing/selftests/ddup";
    let driver = "drivers/block/ddup";

    let mut events = names_in(&format!("{driver}/trace.h"), "\nTRACE_EVENT(", ',');
    events.extend(names_in(
        &format!("{driver}/trace.h"),
        "\nDDUP_TRACE_CLUSTER(",
        ')',
    ));
    events.sort();
    assert!(events.len() >= 20, "{events:?}");
    let mut told: Vec<_> = names_in(GUIDE, "\nddup_", ' ');
    told.iter_mut().for_each(|name| name.insert_str(0, "ddup_"));
    assert_eq!(events, told);
    let tested = names_in(&format!("{TESTS}/tracepoints.sh"), "\nEVENTS=\"", '"').remove(0);
    assert_eq!(events, tested.split_whitespace().collect::<Vec<_>>());

    let mut files = names_in(&format!("{driver}/debugfs.rs"), "(c\"", '"');
    files.extend(names_in(&format!("{driver}/debugfs.rs"), "name: c\"", '"'));
    files.sort();
    assert!(files.len() >= 10, "{files:?}");
    assert_eq!(
        files,
        names_in(&format!("{driver}/../../../{GUIDE}"), "\n``", '`')
            .into_iter()
            .filter(|name| files.contains(name))
            .collect::<Vec<_>>()
    );
    let tested = names_in(&format!("{TESTS}/debugfs.sh"), "\nFILES=\"", '"').remove(0);
    assert_eq!(files, tested.split_whitespace().collect::<Vec<_>>());
}
