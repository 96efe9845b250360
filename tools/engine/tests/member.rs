// SPDX-License-Identifier: GPL-2.0

//! Stories of stores that are members of a replica set: the real engine on both sides, and a
//! network in memory that loses nothing.

mod memory;

use ddup_engine::engine::births::Births;
use ddup_engine::engine::format::superblock::Superblock;
use ddup_engine::engine::mkfs::{MemberParams, Params};
use ddup_engine::engine::replication::action::{Event, Reply};
use ddup_engine::engine::replication::config::{Config, Member, MemberState, Refusal};
use ddup_engine::engine::replication::record::Record;
use ddup_engine::engine::replication::set::Compared;
use ddup_engine::engine::replication::types::{Id, Position};
use ddup_engine::engine::show::Object;
use ddup_engine::engine::VolumeChange::{self, Create, Remove, Resize};
use ddup_engine::engine::{DataResult, Knobs, SendBlock, SetCommand, Status};
use kernel::error::code::{EEXIST, EINVAL, ENOENT, EPERM};
use kernel::prelude::{KBox, KVec, GFP_KERNEL};
use memory::{check_disk, content, hash, params, Disk, Shell};

const SET: Id = [0x5e; 16];
const CLUSTERS: u64 = 16 * 4096;
const BLOCKS: u64 = 4096;

fn store(n: usize) -> Id {
    [0x10 + n as u8; 16]
}

fn member(n: usize, state: MemberState) -> Member {
    Member {
        store: store(n),
        incarnation: 0,
        state,
        floor: Position::ZERO,
        confirmed: [0; 16],
    }
}

/// A configuration in which store 0 is primary.
fn config(version: u64, members: &[Member]) -> Config {
    let mut list = KVec::new();
    list.extend_from_slice(members, GFP_KERNEL).unwrap();
    let mut config = Config {
        set: SET,
        version: 1,
        id: [1; 16],
        term: 1,
        reign: [0xaa; 16],
        primary: store(0),
        forced: 0,
        min_insync: 1,
        ancestors: KVec::new(),
        members: list,
    };
    for version in 2..=version {
        config.push_ancestor(config.id).unwrap();
        config.version = version;
        config.id = [version as u8; 16];
    }
    config
}

fn format(n: usize, config: &Config) -> Disk {
    let record = Record {
        promise: config.term,
        keep: false,
        config: config.try_clone().unwrap(),
    };
    Shell::format_with(&Params {
        uuid: store(n),
        member: Some(MemberParams {
            record: &record,
            volumes: &[],
        }),
        ..params(CLUSTERS, BLOCKS)
    })
}

fn attach(disk: Disk) -> Shell {
    Shell::attach(disk, CLUSTERS, 512, 4096)
}

/// Stores that are connected to each other.
struct Net {
    shells: Vec<Shell>,
    nonce: u64,
    commands: u64,
    handle: u64,
    /// Bytes of frames and their blocks.
    bytes: u64,
    blocks: u64,
}

impl Net {
    fn new(shells: Vec<Shell>) -> Net {
        Net {
            shells,
            nonce: 0,
            commands: 0,
            handle: 0,
            bytes: 0,
            blocks: 0,
        }
    }

    fn id(&self, n: usize) -> Id {
        self.shells[n].engine.uuid().unwrap()
    }

    fn connect(&mut self, a: usize, b: usize) {
        self.nonce += 1;
        let (ida, idb) = (self.id(a), self.id(b));
        for (n, peer) in [(a, idb), (b, ida)] {
            let now = self.shells[n].now;
            self.shells[n]
                .engine
                .peer_connected(now, &peer, self.nonce)
                .unwrap();
        }
        self.run(5);
    }

    /// Everybody does what there is to do, until nothing moves.
    fn run(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds {
            loop {
                for shell in &mut self.shells {
                    shell.turn();
                }
                if !self.exchange() {
                    break;
                }
            }
            for shell in &mut self.shells {
                shell.now += 1;
            }
            self.reconnect();
        }
    }

    /// A new term closes sessions; whoever connects the stores does it again.
    fn reconnect(&mut self) {
        let closed: Vec<_> = self
            .shells
            .iter_mut()
            .flat_map(|s| s.closed.drain(..))
            .collect();
        if closed.iter().all(|(_, nonce)| *nonce != self.nonce) {
            return;
        }
        self.disconnect(0, 1);
        self.connect(0, 1);
    }

    fn disconnect(&mut self, a: usize, b: usize) {
        let (ida, idb, nonce) = (self.id(a), self.id(b), self.nonce);
        for (n, peer) in [(a, idb), (b, ida)] {
            let now = self.shells[n].now;
            self.shells[n].engine.peer_lost(now, &peer, nonce);
        }
    }

    fn exchange(&mut self) -> bool {
        let mut moved = false;
        for from in 0..self.shells.len() {
            for to in 0..self.shells.len() {
                if from == to {
                    continue;
                }
                let (sender, receiver) = (self.id(from), self.id(to));
                loop {
                    let shell = &mut self.shells[from];
                    let polled = shell.engine.poll_send(shell.now, &receiver, self.nonce);
                    let Some(frame) = polled.unwrap_or(None) else {
                        break;
                    };
                    moved = true;
                    self.bytes += frame.meta.len() as u64 + 4096 * frame.blocks.len() as u64;
                    self.blocks += frame.blocks.len() as u64;
                    let ids: Vec<u64> = frame
                        .blocks
                        .iter()
                        .map(|block| match block {
                            SendBlock::Fetched(token) => shell.fetched.remove(token).unwrap(),
                            SendBlock::Cluster(cluster, _) => shell.disk.data[&cluster.0],
                        })
                        .collect();
                    let first = self.handle;
                    self.handle += ids.len() as u64;
                    let contents: Vec<_> = ids.iter().map(|id| content(*id)).collect();
                    let shell = &mut self.shells[to];
                    for (handle, id) in (first..).zip(&ids) {
                        shell.received.insert(handle, *id);
                    }
                    let taken = shell
                        .engine
                        .peer_received(
                            shell.now,
                            &sender,
                            self.nonce,
                            &frame.meta,
                            first,
                            &contents,
                        )
                        .unwrap();
                    if !taken {
                        for handle in first..self.handle {
                            shell.received.remove(&handle);
                        }
                    }
                    shell.turn();
                    self.shells[from].turn();
                }
            }
        }
        moved
    }

    fn command(&mut self, n: usize, command: SetCommand) -> Reply {
        let shell = &mut self.shells[n];
        self.commands += 1;
        let number = self.commands;
        shell
            .engine
            .set_command(shell.now, number, command)
            .unwrap();
        for _ in 0..1000 {
            self.run(1);
            let replies = &mut self.shells[n].replies;
            if let Some(at) = replies.iter().position(|r| r.0 == number) {
                return replies.remove(at).1;
            }
        }
        panic!("no answer")
    }

    fn set_config(&mut self, n: usize, config: &Config) -> Reply {
        let expect = self.state_version(n);
        let config = KBox::new(config.try_clone().unwrap(), GFP_KERNEL).unwrap();
        self.command(n, SetCommand::SetConfig { expect, config })
    }

    fn state_version(&self, n: usize) -> u64 {
        self.shells[n].engine.set().unwrap().state().config.version
    }

    fn position(&self, n: usize) -> Position {
        self.shells[n].engine.set().unwrap().state().position
    }

    /// The next configuration as store `n` sees it.
    fn next(&self, n: usize) -> Config {
        let config = &self.shells[n].engine.set().unwrap().state();
        let mut next = config.config.try_clone().unwrap();
        next.push_ancestor(next.id).unwrap();
        next.version += 1;
        next.id = [0x80 + next.version as u8; 16];
        next
    }

    fn write(&mut self, n: usize, lbn: u64, ids: &[u64]) {
        self.shells[n].begin_write(1, lbn, ids);
        for _ in 0..1000 {
            self.run(1);
            if let Some(status) = self.shells[n].done.get(&1) {
                assert_eq!(*status, Status::Ok);
                return;
            }
        }
        panic!("a write does not end");
    }

    /// Changes the volumes of a set; answers the slot.
    fn change(&mut self, n: usize, change: VolumeChange) -> u32 {
        let shell = &mut self.shells[n];
        let slot = shell.engine.change_volume(shell.now, change).unwrap();
        self.await_change(n);
        slot
    }

    fn await_change(&mut self, n: usize) {
        self.shells[n].changed = None;
        for _ in 0..1000 {
            self.run(1);
            if let Some(ok) = self.shells[n].changed {
                assert!(ok);
                return;
            }
        }
        panic!("a change of volumes does not end");
    }

    /// Both hold the same volumes with the same content, and position and check say so.
    fn assert_same(&self) {
        assert_eq!(self.position(0), self.position(1));
        let [first, second] = [0, 1].map(|n| volumes_on(&self.shells[n].disk));
        assert_eq!(first, second);
    }

    fn flush(&mut self, n: usize) -> Status {
        self.shells[n].begin_flush(2);
        for _ in 0..200 {
            self.run(1);
            if let Some(status) = self.shells[n].done.get(&2) {
                return *status;
            }
        }
        panic!("a FLUSH does not end");
    }
}

fn insync(n: usize) -> Member {
    member(n, MemberState::InSync)
}

/// UUIDs, sizes and first blocks of the volumes that a disk holds, durably.
fn volumes_on(disk: &Disk) -> Vec<(Id, u64, Vec<u64>)> {
    check_disk(disk, CLUSTERS);
    let mut shell = Shell::attach_with(disk.clone(), CLUSTERS, |config| config.read_only = true);
    let slots = 0..shell.engine.volume_slots();
    let shown = slots.filter_map(|slot| Some((slot, shell.engine.volume(slot)?)));
    let mut volumes: Vec<_> = shown.collect();
    volumes.sort_by_key(|(_, volume)| volume.uuid);
    let mut read = |slot: u32, blocks: u64| {
        shell.volume = slot;
        shell.read(0, blocks.min(100))
    };
    volumes
        .iter()
        .map(|(slot, v)| (v.uuid, v.blocks, read(*slot, v.blocks)))
        .collect()
}

/// Two stores in sync from the beginning.
fn pair() -> Net {
    let config = config(1, &[insync(0), insync(1)]);
    let mut shells: Vec<_> = (0..2).map(|n| attach(format(n, &config))).collect();
    for shell in &mut shells {
        shell.turn();
        assert!(!shell.serves, "nobody is primary by itself");
    }
    let mut net = Net::new(shells);
    net.run(10);
    let mut next = net.next(0);
    next.term += 1;
    next.reign = [0xbb; 16];
    assert_eq!(net.set_config(0, &next), Reply::Done);
    assert!(!net.shells[0].serves, "the reign is not reconciled");
    net.connect(0, 1);
    net.run(50);
    assert!(net.shells[0].serves);
    net
}

#[test]
fn the_only_member_of_a_set_begins_a_reign_and_keeps_what_was_flushed() {
    let disk = format(0, &config(1, &[insync(0)]));
    let mut shell = attach(disk);
    shell.pass(50);
    assert!(shell.serves);
    assert_eq!(shell.write(3, &[5, 6, 0, 5]), Status::Ok);
    shell.flush();
    assert_eq!(shell.write(9, &[9]), Status::Ok);
    // A power cut: what was written and not sealed is void.
    let disk = shell.disk.clone();
    let mut shell = attach(disk);
    shell.pass(50);
    assert!(shell.serves);
    assert_eq!(shell.read(3, 4), [5, 6, 0, 5]);
    let before = shell.engine.set().unwrap().state().position;
    shell.discard(0, 4);
    let disk = shell.detach();
    check_disk(&disk, CLUSTERS);
    let mut shell = attach(disk);
    shell.pass(50);
    assert!(shell.engine.set().unwrap().history().contains(&before));
    assert_eq!(shell.read(0, 7), [0, 0, 0, 0, 6, 0, 5]);
}

#[test]
fn a_flush_ends_when_the_replica_has_it_and_the_replica_holds_the_same() {
    let mut net = pair();
    net.write(0, 0, &[1, 2, 3, 1, 0, 2]);
    net.write(0, 100, &[7; 8]);
    assert_eq!(net.flush(0), Status::Ok);
    assert_eq!(net.position(0), net.position(1));
    // Four contents: each crossed the wire once.
    assert_eq!(net.blocks, 4);
    let replica = net.shells.pop().unwrap();
    let disk = replica.detach();
    check_disk(&disk, CLUSTERS);
}

#[test]
fn without_its_peer_a_flush_waits_until_the_peer_is_back() {
    let mut net = pair();
    net.write(0, 0, &[1]);
    assert_eq!(net.flush(0), Status::Ok);
    net.disconnect(0, 1);
    net.write(0, 1, &[2]);
    net.shells[0].begin_flush(2);
    net.run(100);
    assert!(!net.shells[0].done.contains_key(&2), "the peer is away");
    let events: Vec<_> = std::iter::from_fn(|| net.shells[0].engine.poll_set_event()).collect();
    assert!(
        events.iter().any(|e| e.1 == Event::FlushSuspended),
        "{events:?}"
    );
    net.connect(0, 1);
    net.run(100);
    assert_eq!(net.shells[0].done.get(&2), Some(&Status::Ok));
    assert_eq!(net.position(0), net.position(1));
}

#[test]
fn the_replica_is_promoted_and_shows_what_was_flushed() {
    let mut net = pair();
    net.write(0, 0, &[1, 2, 3]);
    net.write(0, 2, &[4]);
    assert_eq!(net.flush(0), Status::Ok);
    let fence = net.command(1, SetCommand::Fence { term: 3 });
    assert!(matches!(fence, Reply::Fenced { .. }), "{fence:?}");
    let mut next = net.next(1);
    next.primary = store(1);
    next.term = 4;
    next.reign = [0xcc; 16];
    for member in &mut next.members {
        if member.store == store(0) {
            member.state = MemberState::Async;
        }
    }
    assert_eq!(net.set_config(1, &next), Reply::Done);
    net.run(20);
    assert!(net.shells[1].serves);
    assert_eq!(net.shells[1].read(0, 4), [1, 2, 4, 0]);
    net.write(1, 0, &[8]);
    assert_eq!(net.flush(1), Status::Ok);
    // The old primary learns of it and follows.
    net.connect(0, 1);
    net.run(100);
    assert!(!net.shells[0].serves);
    assert_eq!(net.position(0), net.position(1));
}

/// A primary whose volume is full of different content, and an asynchronous member that is not
/// connected and too far behind for what is in memory.
fn late() -> Net {
    let config = config(1, &[insync(0), member(1, MemberState::Async)]);
    let shells: Vec<_> = (0..2).map(|n| attach(format(n, &config))).collect();
    let mut net = Net::new(shells);
    net.run(10);
    begin_reign(&mut net);
    fall_behind(&mut net, 0);
    net
}

/// Store 0 becomes primary in a new term.
fn begin_reign(net: &mut Net) {
    let mut next = net.next(0);
    next.term += 1;
    next.reign = [0xb0 + next.term as u8; 16];
    assert_eq!(net.set_config(0, &next), Reply::Done);
    net.run(50);
}

/// Writes more than is kept in memory for who is behind.
fn fall_behind(net: &mut Net, salt: u64) {
    for lbn in (0..2 * BLOCKS).step_by(64) {
        let ids: Vec<_> = (lbn..lbn + 64).map(|id| 1 + salt + id).collect();
        net.write(0, lbn % BLOCKS, &ids);
    }
    assert_eq!(net.flush(0), Status::Ok);
}

fn set_tranquility(net: &mut Net, resync_tranquility: u64) {
    let engine = &mut net.shells[0].engine;
    engine.set_knobs(Knobs {
        resync_tranquility,
        ..engine.knobs()
    });
}

fn compare(net: &Net) -> Option<Compared> {
    let state = net.shells[0].engine.set().unwrap().peer_state(&store(1));
    state.unwrap().compare
}

/// Lets time pass until store 1 has all, with a request of store 0 in each millisecond or none.
/// Answers how long that took by the clock of store 0.
fn until_level(net: &mut Net, requests: bool) -> u64 {
    let begin = net.shells[0].now;
    for _ in 0..20_000 {
        if requests {
            let _ = net.shells[0].try_read(0, 1);
        }
        net.run(1);
        if net.position(0) == net.position(1) {
            return net.shells[0].now - begin;
        }
    }
    panic!("it does not become level: {:?}", compare(net));
}

/// Zeroes the table of births in each superblock, as a version that does not know it would.
fn forget_births(disk: &mut Disk) {
    let slots = disk.pages.clone();
    for (place, page) in slots {
        let Ok(mut superblock) = Superblock::read(&page, hash) else {
            continue;
        };
        superblock.births = Births::default();
        let mut page = vec![0; page.len()];
        superblock.write(&mut page, hash);
        disk.pages.insert(place, page.into());
    }
}

/// A primary and an asynchronous member with the same volume, full of different content.
fn level() -> Net {
    let config = config(1, &[insync(0), member(1, MemberState::Async)]);
    let shells: Vec<_> = (0..2).map(|n| attach(format(n, &config))).collect();
    let mut net = Net::new(shells);
    net.run(10);
    begin_reign(&mut net);
    net.connect(0, 1);
    for lbn in (0..BLOCKS).step_by(64) {
        let ids: Vec<_> = (lbn..lbn + 64).map(|id| 1 + id).collect();
        net.write(0, lbn, &ids);
    }
    // A generation ends with a checkpoint, and lasts for a second at least.
    net.run(1500);
    net.write(0, 0, &[1]);
    assert_eq!(net.flush(0), Status::Ok);
    until_level(&mut net, false);
    net.run(31_000);
    net.assert_same();
    net
}

/// Store 0 is attached, of which this is the disk, and leads again.
fn leads_again(net: &mut Net, disk: Disk) {
    // Few points: what a discard releases takes several checkpoints.
    let attached = Shell::attach_with(disk, CLUSTERS, |config| config.points_max = 1024);
    net.shells.insert(0, attached);
    net.run(20);
    begin_reign(net);
    assert!(net.shells[0].serves);
}

/// The same; then the member is away, something is changed, and the primary is attached anew.
fn attached_anew(births: bool, change: impl Fn(&mut Net)) -> Net {
    let mut net = level();
    net.disconnect(0, 1);
    change(&mut net);
    assert_eq!(net.flush(0), Status::Ok);
    let mut disk = net.shells.remove(0).detach();
    if !births {
        forget_births(&mut disk);
    }
    leads_again(&mut net, disk);
    net
}

/// Store 1 is connected and becomes level without a compare. Answers the bytes and blocks that crossed.
fn follows_without_a_compare(net: &mut Net) -> (u64, u64) {
    let (bytes, blocks) = (net.bytes, net.blocks);
    net.connect(0, 1);
    for _ in 0..1000 {
        assert_eq!(compare(net), None);
        if net.position(0) == net.position(1) {
            break;
        }
        net.run(1);
    }
    assert_eq!(compare(net), None);
    net.assert_same();
    assert_eq!(net.shells[0].frozen_pages, 0);
    (net.bytes - bytes, net.blocks - blocks)
}

fn entries(net: &Net) -> usize {
    net.shells[0].engine.set().unwrap().state().entries
}

#[test]
fn after_a_crash_of_the_primary_a_peer_goes_on_with_the_stream() {
    let mut net = level();
    net.write(0, 1, &[9001]);
    assert_eq!(net.flush(0), Status::Ok);
    net.run(50);
    net.disconnect(0, 1);
    net.write(0, 2, &[9002, 9003, 1]);
    // Over the ends of leaves.
    net.write(0, 240, &[0; 40]);
    net.shells[0].discard(700, 600);
    assert_eq!(net.flush(0), Status::Ok);
    // What was overwritten meanwhile is junk, and nothing else would keep it.
    net.write(0, 2, &[9004]);
    assert_eq!(net.flush(0), Status::Ok);
    // This is void.
    net.write(0, 9, &[9005]);
    let (position, mut disk) = (net.position(0), net.shells[0].disk.clone());
    drop(net.shells.remove(0));
    // A diff is not possible either.
    forget_births(&mut disk);
    leads_again(&mut net, disk);
    assert_eq!(net.position(0).epoch, position.epoch + 1);
    // Its journal had them: five blocks that were written, two ranges of zeroes, a discard.
    assert!(entries(&net) >= 8);
    // Checkpoints come and go, and the recycler takes what nobody needs.
    for salt in 0..20 {
        net.write(0, 3000 + salt, &[20_000 + salt]);
        assert_eq!(net.flush(0), Status::Ok);
        net.run(4000);
    }
    let crossed = follows_without_a_compare(&mut net);
    println!("bytes and blocks of what was missed {crossed:?}");
    assert_eq!(crossed.1, 3 + 20);
    assert!(crossed.0 < 23 * 4096 + 9000, "{crossed:?}");
    let volume = &volumes_on(&net.shells[1].disk)[0].2;
    assert_eq!(volume[..10], [1, 9001, 9004, 9003, 1, 6, 7, 8, 9, 10]);
}

#[test]
fn a_peer_that_missed_nothing_is_not_compared_after_an_attach_of_the_primary() {
    for crashes in [false, true] {
        let mut net = level();
        net.write(0, 5, &[9001]);
        assert_eq!(net.flush(0), Status::Ok);
        net.run(50);
        let shell = net.shells.remove(0);
        let mut disk = match crashes {
            true => shell.disk.clone(),
            false => shell.detach(),
        };
        forget_births(&mut disk);
        leads_again(&mut net, disk);
        let crossed = follows_without_a_compare(&mut net);
        println!("bytes and blocks of nothing {crossed:?}");
        assert_eq!(crossed.1, 0);
        assert!(crossed.0 < 3000, "{crossed:?}");
    }
}

#[test]
fn who_was_a_replica_before_a_crash_streams_to_others_as_primary() {
    let mut net = pair();
    net.write(0, 0, &[1, 2, 3, 0, 0, 4]);
    assert_eq!(net.flush(0), Status::Ok);
    let behind = net.shells[0].disk.clone();
    net.write(0, 250, &[5, 0, 0, 0, 6]);
    net.shells[0].discard(300, 3000);
    assert_eq!(net.flush(0), Status::Ok);
    net.assert_same();
    // Both fail; store 0 comes back as it was a while ago, as if store 1 had led meanwhile.
    let disks = [behind, net.shells[1].disk.clone()];
    net.shells = disks.map(attach).into();
    net.run(20);
    let mut next = net.next(1);
    (next.term, next.reign, next.primary) = (9, [0xcc; 16], store(1));
    next.members[0].state = MemberState::Async;
    assert_eq!(net.set_config(1, &next), Reply::Done);
    net.run(20);
    assert!(net.shells[1].serves);
    net.connect(0, 1);
    for _ in 0..1000 {
        let state = net.shells[1].engine.set().unwrap().peer_state(&store(0));
        assert_eq!(state.unwrap().compare, None);
        net.run(1);
    }
    net.assert_same();
}

#[test]
fn after_an_attach_of_the_primary_a_peer_is_told_what_changed_and_no_more() {
    let [diff, full] = [true, false].map(|births| {
        let mut net = attached_anew(births, |net| {
            net.write(0, 2, &[9001]);
            net.write(0, 2000, &[9002, 9003]);
            net.shells[0].discard(7, 30);
        });
        let (bytes, pages) = (net.bytes, net.shells[0].frozen_pages);
        net.connect(0, 1);
        let since = std::iter::from_fn(|| {
            let compare = compare(&net);
            net.run(1);
            compare
        });
        let shown: Vec<_> = since.filter(|c| c.of_blocks.is_some()).collect();
        assert!(
            shown.iter().all(|c| c.since.is_some() == births),
            "{shown:?}"
        );
        until_level(&mut net, false);
        net.assert_same();
        assert_eq!(
            volumes_on(&net.shells[1].disk)[0].2[..8],
            [1, 2, 9001, 4, 5, 6, 7, 0]
        );
        let pages = net.shells[0].frozen_pages - pages;
        (net.bytes - bytes, pages)
    });
    println!("bytes and pages of a diff {diff:?}, of a full compare {full:?}");
    // Three blocks with their data, and HELLOs. Of 17 leaves two have changed; the path to a leaf is
    // read for the walk, and for the blocks that are asked for.
    assert!(diff.0 < 3 * 4096 + 3000 && full.0 > 3 * diff.0);
    assert!(diff.1 <= 6 && full.1 >= 18);
}

#[test]
fn a_diff_keeps_nothing_that_a_discard_has_still_to_take_away() {
    let mut net = attached_anew(true, |net| net.shells[0].discard(BLOCKS - 1, 1));
    // The maps are not read yet: what is discarded there is still to be released.
    net.shells[0].hold_pages = true;
    net.shells[0].discard(1, BLOCKS - 2);
    assert_eq!(net.flush(0), Status::Ok);
    net.connect(0, 1);
    until_level(&mut net, false);
    assert!(!net.shells[0].held_pages.is_empty());
    assert_eq!(volumes_on(&net.shells[1].disk)[0].2[..3], [1, 0, 0]);
    net.shells[0].let_pages_go();
    net.assert_same();
}

#[test]
fn a_store_that_was_compared_tells_others_what_changed_since() {
    let mut net = attached_anew(false, |net| net.write(0, 3, &[9001]));
    net.connect(0, 1);
    until_level(&mut net, false);
    // Store 1 has switched to that, and becomes primary.
    let fence = net.command(1, SetCommand::Fence { term: 9 });
    assert!(matches!(fence, Reply::Fenced { .. }), "{fence:?}");
    net.disconnect(0, 1);
    let mut next = net.next(1);
    next.primary = store(1);
    next.term = 10;
    next.reign = [0xcc; 16];
    next.forced = 1;
    next.members = KVec::new();
    let members = [member(0, MemberState::Async), insync(1)];
    next.members
        .extend_from_slice(&members, GFP_KERNEL)
        .unwrap();
    assert_eq!(net.set_config(1, &next), Reply::Done);
    net.run(50);
    net.write(1, 1000, &[9002]);
    assert_eq!(net.flush(1), Status::Ok);
    let disk = net.shells.remove(1).detach();
    net.shells.push(attach(disk));
    net.run(20);
    let mut again = net.next(1);
    (again.term, again.reign) = (11, [0xcd; 16]);
    assert_eq!(net.set_config(1, &again), Reply::Done);
    let (bytes, pages) = (net.bytes, net.shells[1].frozen_pages);
    net.connect(0, 1);
    for _ in 0..5000 {
        net.run(1);
        if net.position(0) == net.position(1) {
            break;
        }
    }
    net.assert_same();
    let told = (net.bytes - bytes, net.shells[1].frozen_pages - pages);
    println!("bytes and pages {told:?}");
    assert!(told.0 < 4096 + 5000 && told.1 <= 6, "{told:?}");
}

/// Steps of the compare of a store that has nothing: 64 blocks each.
const STEPS: u64 = BLOCKS / 64;

/// A primary and an asynchronous member that was level with it and is away, and what it lacks since: 40
/// times the same 4 blocks with other content, and one block more in every tenth. Then the disk of the
/// primary before it discards two of the blocks, in the last epoch.
fn overwritten() -> (Net, Disk) {
    let config = config(1, &[insync(0), member(1, MemberState::Async)]);
    let shells: Vec<_> = (0..2).map(|n| attach(format(n, &config))).collect();
    let mut net = Net::new(shells);
    net.run(10);
    begin_reign(&mut net);
    net.connect(0, 1);
    net.write(0, 0, &[1]);
    assert_eq!(net.flush(0), Status::Ok);
    until_level(&mut net, false);
    net.disconnect(0, 1);
    for round in 0..40 {
        let ids: Vec<_> = (0..4).map(|n| 1000 + 4 * round + n).collect();
        net.write(0, 10, &ids);
        if round % 10 == 0 {
            net.write(0, 50 + round, &[2]);
        }
        assert_eq!(net.flush(0), Status::Ok);
    }
    let disk = net.shells[0].disk.clone();
    net.shells[0].discard(10, 2);
    assert_eq!(net.flush(0), Status::Ok);
    (net, disk)
}

#[test]
fn epochs_that_wait_for_an_asynchronous_peer_go_as_one() {
    let (mut net, _) = overwritten();
    let (bytes, blocks) = (net.bytes, net.blocks);
    let epochs = net.position(0).epoch - net.position(1).epoch;
    net.connect(0, 1);
    until_level(&mut net, false);
    net.assert_same();
    let state = net.shells[0].engine.set().unwrap().peer_state(&store(1));
    assert_eq!(state.map(|state| state.merged), Some(epochs));
    // Two blocks as they were written last, and one content for those beside them.
    let (bytes, blocks) = (net.bytes - bytes, net.blocks - blocks);
    println!("{epochs} epochs that write 164 blocks: {blocks} blocks, {bytes} bytes");
    assert_eq!((epochs, blocks), (41, 3));
    assert!(bytes < 3 * 4096 + 3000);
    // Alone again, behind the end of what was merged, and that is what the journal says, too.
    net.write(0, 11, &[5]);
    assert_eq!(net.flush(0), Status::Ok);
    until_level(&mut net, false);
    net.assert_same();
    let shell = attach(net.shells[1].disk.clone());
    let state = shell.engine.set().unwrap().state();
    assert_eq!(state.position, net.position(0));
}

#[test]
fn who_was_sent_merged_epochs_compares_those_that_lack_some_of_them() {
    let (mut net, disk) = overwritten();
    net.connect(0, 1);
    until_level(&mut net, false);
    let fence = net.command(1, SetCommand::Fence { term: 9 });
    assert!(matches!(fence, Reply::Fenced { .. }), "{fence:?}");
    net.disconnect(0, 1);
    let mut next = net.next(1);
    next.primary = store(1);
    (next.term, next.reign) = (10, [0xcc; 16]);
    next.forced = 1;
    next.members = KVec::new();
    let members = [member(0, MemberState::Async), insync(1)];
    next.members
        .extend_from_slice(&members, GFP_KERNEL)
        .unwrap();
    assert_eq!(net.set_config(1, &next), Reply::Done);
    net.run(50);
    net.write(1, 200, &[9]);
    assert_eq!(net.flush(1), Status::Ok);
    // Store 0 lacks the last of them: the store that leads has it as a part of all.
    net.shells[0] = attach(disk);
    net.run(20);
    net.connect(0, 1);
    for _ in 0..5000 {
        net.run(1);
        if net.position(0) == net.position(1) {
            break;
        }
    }
    net.assert_same();
    let refused = net.shells[0].engine.set().unwrap().state().refused;
    assert_eq!(refused, 0);
}

#[test]
fn what_was_staged_outlives_neither_its_session_nor_a_power_cut() {
    let mut net = pair();
    net.write(0, 0, &[1, 2, 3]);
    assert_eq!(net.flush(0), Status::Ok);
    let staged = |net: &Net| {
        let mut text = String::new();
        let engine = &net.shells[1].engine;
        engine.show(Object::Member, &mut text).unwrap();
        let figure = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap()
                .trim_matches([':', ' '])
                .parse::<u64>()
                .unwrap()
        };
        (figure("stage_ops"), figure("stage_fresh"))
    };
    let position = net.position(1);
    net.write(0, 10, &[50, 51, 52, 1]);
    net.run(20);
    assert_eq!((staged(&net), net.position(1)), ((4, 3), position));
    // Nothing refers to it after a power cut: its clusters are available.
    let mut shell = attach(net.shells[1].disk.clone());
    shell.pass(20);
    assert_eq!(shell.engine.set().unwrap().state().position, position);
    let summary = check_disk(&shell.detach(), CLUSTERS);
    assert_eq!((summary.live, summary.junk), (3, 0));
    net.disconnect(0, 1);
    net.run(20);
    assert_eq!(staged(&net), (0, 0));
    // The next session begins anew with it.
    net.connect(0, 1);
    net.run(20);
    assert_eq!((staged(&net), net.position(1)), ((4, 3), position));
    assert_eq!(net.flush(0), Status::Ok);
    net.assert_same();
}

#[test]
fn a_power_cut_leaves_an_acknowledged_epoch_with_a_block_that_nobody_had() {
    let mut net = late();
    let unreadable = 2 * BLOCKS - 7;
    net.shells[0].unread.insert(unreadable, u32::MAX);
    net.connect(0, 1);
    until_level(&mut net, false);
    // The replica has no copy that this could refer to, and is told that there is none.
    net.write(0, 5, &[unreadable, 1_000_000]);
    assert_eq!(net.flush(0), Status::Ok);
    until_level(&mut net, false);
    let position = net.position(1);
    let mut shell = attach(net.shells[1].disk.clone());
    shell.pass(20);
    assert_eq!(shell.engine.set().unwrap().state().position, position);
}

#[test]
fn a_compare_rests_while_requests_are_served_and_only_then() {
    let mut net = late();
    set_tranquility(&mut net, 1000);
    net.connect(0, 1);
    let idle = until_level(&mut net, false);
    assert!(idle < 1000, "{idle} ms though nobody wants anything");

    let mut net = late();
    set_tranquility(&mut net, 1000);
    net.connect(0, 1);
    // A sixteenth of a millisecond for each step that took less, a thousand times.
    let busy = until_level(&mut net, true);
    assert!(busy > STEPS * 60, "{busy} ms");
    assert!(busy < STEPS * 100, "{busy} ms");

    let mut net = late();
    set_tranquility(&mut net, 0);
    net.connect(0, 1);
    let busy = until_level(&mut net, true);
    assert!(busy < 1000, "{busy} ms though it is not to rest");
}

#[test]
fn a_compare_goes_on_at_least_every_tenth_of_a_second() {
    let mut net = late();
    set_tranquility(&mut net, 1000);
    net.connect(0, 1);
    // One step in five reads a page, after which it would have to rest for 30 seconds.
    net.shells[0].page_time = 30;
    let busy = until_level(&mut net, true);
    assert!(busy > STEPS * 60, "{busy} ms");
    assert!(busy < STEPS * 110 + 1000, "{busy} ms");
}

#[test]
fn a_peer_that_flushes_wait_for_is_compared_at_full_speed() {
    let mut net = late();
    set_tranquility(&mut net, 1000);
    net.connect(0, 1);
    for _ in 0..500 {
        let _ = net.shells[0].try_read(0, 1);
        net.run(1);
    }
    let before = compare(&net).unwrap();
    assert_eq!(before.of_blocks, Some(BLOCKS));
    assert!(before.blocks < BLOCKS / 4, "{before:?}");
    assert_eq!(
        net.command(0, SetCommand::Join { peer: store(1) }),
        Reply::Done
    );
    let busy = until_level(&mut net, true);
    assert!(busy < 1000, "{busy} ms though it joins");
    assert_eq!(compare(&net), None);
}

#[test]
fn writes_that_are_about_to_overtake_a_compare_end_its_rests() {
    let mut net = late();
    set_tranquility(&mut net, 1000);
    net.connect(0, 1);
    for lbn in 0..BLOCKS / 2 + 100 {
        net.write(0, lbn, &[1_000_000 + lbn]);
    }
    let busy = until_level(&mut net, true);
    assert!(busy < 1000, "{busy} ms");
}

/// Breaks the connection whenever store 1 is compared, and makes it anew at once. Answers the times
/// between, over so many milliseconds.
fn break_compares(net: &mut Net, milliseconds: u64) -> Vec<u64> {
    let (begin, mut last, mut gaps) = (net.shells[0].now, net.shells[0].now, Vec::new());
    while net.shells[0].now < begin + milliseconds {
        let _ = net.shells[0].try_read(0, 1);
        net.run(1);
        let is_compared = compare(net).is_some_and(|c| c.of_blocks.is_some());
        if is_compared {
            gaps.push(net.shells[0].now - last);
            last = net.shells[0].now;
            net.disconnect(0, 1);
            net.connect(0, 1);
        }
    }
    gaps
}

#[test]
fn a_compare_that_is_lost_begins_again_after_pauses_that_grow() {
    let mut net = late();
    // Each takes a while, so that it can be broken.
    set_tranquility(&mut net, 1000);
    net.connect(0, 1);
    let gaps = break_compares(&mut net, 20_000);
    for (gap, least) in gaps.iter().skip(1).zip([100, 200, 400, 800, 1600, 3200]) {
        assert!((least..least + 200).contains(gap), "{gaps:?}");
    }
    assert!((8..=9).contains(&gaps.len()), "{gaps:?}");
    assert!(gaps[0] < 100 && gaps[7] >= 5000, "{gaps:?}");

    // One that succeeds ends that.
    until_level(&mut net, false);
    net.disconnect(0, 1);
    fall_behind(&mut net, 100_000);
    net.connect(0, 1);
    assert!(until_level(&mut net, false) < 1000);
}

/// Lets time pass with requests of store 0, until so many blocks of a compare are done.
fn until_compared(net: &mut Net, blocks: u64) -> Compared {
    for _ in 0..20_000 {
        let _ = net.shells[0].try_read(0, 1);
        net.run(1);
        let compare = compare(net).filter(|c| c.of_blocks.is_some() && c.blocks >= blocks);
        if let Some(compare) = compare {
            return compare;
        }
    }
    panic!("it does not get there: {:?}", compare(net));
}

#[test]
fn an_interrupted_compare_goes_on_where_it_was_unless_the_replica_has_failed() {
    // A replica that has nothing, a diff, and sums of ranges some of which are equal.
    let nothing = late;
    let diff = || {
        let mut net = level();
        net.disconnect(0, 1);
        fall_behind(&mut net, 100_000);
        net
    };
    let sums = || {
        attached_anew(false, |net| {
            (0..BLOCKS)
                .step_by(600)
                .for_each(|lbn| net.write(0, lbn, &[100_000 + lbn]));
        })
    };
    for (case, make) in [nothing as fn() -> Net, diff, sums].iter().enumerate() {
        for fails in [false, true] {
            let mut net = make();
            set_tranquility(&mut net, 1000);
            net.connect(0, 1);
            let before = until_compared(&mut net, BLOCKS / 2);
            assert_eq!((before.since.is_some(), before.resumed), (case == 1, 0));
            net.disconnect(0, 1);
            if fails {
                net.shells[1] = attach(net.shells[1].disk.clone());
                net.run(20);
            }
            net.connect(0, 1);
            let after = until_compared(&mut net, 1);
            println!("case {case}: {before:?}, {after:?}");
            assert_eq!(after.since.is_some(), case == 1);
            // Nothing was on its way.
            assert_eq!(after.resumed, if fails { 0 } else { before.blocks });
            assert!(after.blocks - after.resumed < BLOCKS / 4);
            until_level(&mut net, false);
            net.assert_same();
        }
    }
}

#[test]
fn a_block_that_can_not_be_read_at_first_is_read_again_and_holds_up_no_other() {
    for (failures, lost) in [(3, false), (4, true)] {
        let mut net = late();
        let last = 2 * BLOCKS;
        net.shells[0].unread.insert(last - 7, failures + 1);
        net.connect(0, 1);
        net.run(60);
        let contents = |net: &Net| -> Vec<u64> {
            let mut all: Vec<_> = net.shells[1].disk.data.values().copied().collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        let mut wanted: Vec<_> = (last - BLOCKS + 1..=last).collect();
        wanted.retain(|id| *id != last - 7);
        assert_eq!(contents(&net), wanted);
        assert_ne!(net.position(0), net.position(1));
        let took = until_level(&mut net, false);
        assert!((100..1000).contains(&took), "{took} ms");
        assert_eq!(contents(&net).contains(&(last - 7)), !lost);
    }
}

fn events(net: &mut Net) -> Vec<Event> {
    std::iter::from_fn(|| net.shells[0].engine.poll_set_event())
        .map(|(_, event)| event)
        .collect()
}

/// A read, a write and a FLUSH of store 0, as tags 3, 4 and 2.
fn begin_all(net: &mut Net) {
    let shell = &mut net.shells[0];
    shell.begin_read(3, 0, 2);
    shell.begin_write(4, 5, &[9]);
    shell.begin_flush(2);
}

fn ended(net: &Net) -> [Option<Status>; 3] {
    [3, 4, 2].map(|tag| net.shells[0].done.get(&tag).copied())
}

#[test]
fn a_primary_serves_no_longer_than_its_lease() {
    let mut net = pair();
    net.write(0, 0, &[1, 2]);
    assert_eq!(net.flush(0), Status::Ok);
    let version = net.state_version(0);
    let until = net.shells[0].now + 100;
    let lease = |version, until| SetCommand::Lease { version, until };
    let held = net.command(0, lease(version, Some(until)));
    assert_eq!(held, Reply::Done);
    assert_eq!(net.shells[0].read(0, 2), [1, 2]);
    while net.shells[0].now + 1 < until {
        net.run(1);
    }
    assert_eq!(net.shells[0].read(0, 2), [1, 2]);
    events(&mut net);
    net.run(1);
    begin_all(&mut net);
    net.run(2000);
    assert_eq!(ended(&net), [None; 3]);
    assert!(net.shells[0].serves && net.shells[0].engine.awaits_lease());
    let told = events(&mut net);
    for event in [Event::LeaseExpired, Event::FlushSuspended] {
        let count = told.iter().filter(|told| **told == event).count();
        assert_eq!(count, 1, "{told:?}");
    }

    // Another one, which must not be for a version of before.
    let next = net.shells[0].now + 100_000;
    let old = net.command(0, lease(version - 1, Some(next)));
    assert_eq!(old, Reply::Refused(Refusal::Conflict));
    let replica = net.command(1, lease(version, Some(next)));
    assert_eq!(replica, Reply::Refused(Refusal::NotPrimary));
    assert_eq!(ended(&net), [None; 3]);
    assert_eq!(net.command(0, lease(version, Some(next))), Reply::Done);
    net.run(100);
    assert_eq!(ended(&net), [Some(Status::Ok); 3]);
    assert_eq!(net.shells[0].reads[&3], [Some(1), Some(2)]);

    // A new configuration makes it void, unless one was given for that before.
    assert_eq!(net.command(0, lease(version + 1, Some(next))), Reply::Done);
    for waits in [false, true] {
        let config = net.next(0);
        assert_eq!(net.set_config(0, &config), Reply::Done);
        net.run(100);
        begin_all(&mut net);
        net.run(100);
        assert_eq!(ended(&net)[0].is_none(), waits);
    }
    assert_eq!(net.command(0, SetCommand::FlushFail), Reply::Done);
    net.run(10);
    assert_eq!(ended(&net), [Some(Status::Io); 3]);
    let version = net.state_version(0);
    assert_eq!(net.command(0, lease(version, None)), Reply::Done);
    begin_all(&mut net);
    net.run(100);
    assert_eq!(ended(&net), [Some(Status::Ok); 3]);
}

#[test]
fn a_reign_ends_with_its_lease_and_what_waits_for_one_fails() {
    let mut net = pair();
    let version = net.state_version(0);
    let until = Some(net.shells[0].now);
    let over = SetCommand::Lease { version, until };
    assert_eq!(net.command(0, over), Reply::Done);
    begin_all(&mut net);
    net.run(100);
    assert_eq!(ended(&net), [None; 3]);
    let fence = net.command(0, SetCommand::Fence { term: 9 });
    assert!(matches!(fence, Reply::Fenced { .. }), "{fence:?}");
    net.run(10);
    assert!(!net.shells[0].serves);
    assert_eq!(ended(&net)[..2], [Some(Status::Io); 2]);
}

#[test]
fn what_follows_a_write_that_was_acknowledged_early_ends_with_the_reign() {
    let mut net = pair();
    net.shells[0].hold_writes = true;
    net.shells[0].begin_write(4, 5, &[9]);
    assert_eq!(ended(&net)[1], Some(Status::Ok));
    net.shells[0].begin_read(3, 5, 1);
    net.shells[0].begin_write(5, 5, &[8]);
    let now = net.shells[0].now;
    let fence = SetCommand::Fence { term: 9 };
    net.shells[0].engine.set_command(now, 99, fence).unwrap();
    net.run(50);
    assert!(!net.shells[0].done.contains_key(&3));
    net.shells[0].hold_writes = false;
    net.shells[0].end_writes(DataResult::Ok);
    net.run(50);
    let shell = &net.shells[0];
    assert!(!shell.serves && shell.replies.iter().any(|r| r.0 == 99));
    assert_eq!(shell.reads[&3], [Some(9)]);
    assert_eq!(shell.done[&3], Status::Ok);
    assert_eq!(shell.done[&5], Status::Io);
}

const OTHER: Id = [0x77; 16];

#[test]
fn volumes_come_change_and_go_on_all_members() {
    let mut net = pair();
    net.write(0, 0, &[1, 2, 3]);
    let epoch = net.position(0).epoch;
    let blocks = 700;
    let slot = net.change(
        0,
        Create {
            uuid: OTHER,
            blocks,
        },
    );
    // What was written before has an epoch of its own.
    assert_eq!(
        net.shells[0].engine.member_position().unwrap().epoch,
        epoch + 2
    );
    net.shells[0].volume = slot;
    net.write(0, 5, &[4, 1, 5]);
    assert_eq!(net.flush(0), Status::Ok);
    net.assert_same();
    let there = volumes_on(&net.shells[1].disk);
    assert_eq!((there[1].0, there[1].1), (OTHER, 700));
    assert_eq!(there[1].2[..9], [0, 0, 0, 0, 0, 4, 1, 5, 0]);
    // More levels, and fewer.
    for blocks in [1 << 30, 6] {
        net.change(0, Resize { slot, blocks });
        net.write(0, blocks - 1, &[blocks]);
        assert_eq!(net.flush(0), Status::Ok);
        net.assert_same();
        let there = volumes_on(&net.shells[1].disk);
        assert_eq!(there[1].1, blocks);
        net.run(40_000);
    }
    net.change(0, Remove { slot });
    assert_eq!(net.flush(0), Status::Ok);
    net.assert_same();
    assert_eq!(volumes_on(&net.shells[1].disk).len(), 1);
    net.run(40_000);
    for shell in net.shells.drain(..) {
        assert!(!shell.engine.is_releasing());
        assert_eq!(check_disk(&shell.detach(), CLUSTERS).mapped, 3);
    }
}

#[test]
fn only_who_leads_changes_volumes_and_only_what_there_is() {
    let mut net = pair();
    let blocks = 9;
    let (create, now) = (
        Create {
            uuid: OTHER,
            blocks,
        },
        net.shells[0].now,
    );
    let resize = Resize { slot: 0, blocks };
    let replica = &mut net.shells[1].engine;
    for change in [create, resize, Remove { slot: 0 }] {
        assert_eq!(replica.change_volume(now, change), Err(EPERM));
    }
    let engine = &mut net.shells[0].engine;
    let uuid = engine.volume(0).unwrap().uuid;
    for (change, why) in [
        (Create { uuid, blocks }, EEXIST),
        (
            Create {
                uuid: OTHER,
                blocks: 0,
            },
            EINVAL,
        ),
        (Resize { slot: 3, blocks }, ENOENT),
        (Resize { slot: 0, blocks: 0 }, EINVAL),
        (Remove { slot: 0 }, EINVAL),
        (VolumeChange::Shadow { uuid, blocks }, EINVAL),
    ] {
        assert_eq!(engine.change_volume(now, change), Err(why), "{change:?}");
    }
    net.change(0, create);
}

#[test]
fn a_flush_covers_a_change_of_volumes() {
    let mut net = pair();
    let uuid = OTHER;
    net.disconnect(0, 1);
    // It is told when it is durable here.
    net.change(0, Create { uuid, blocks: 9 });
    net.shells[0].begin_flush(2);
    net.run(100);
    assert!(!net.shells[0].done.contains_key(&2), "the peer lacks it");
    net.connect(0, 1);
    net.run(100);
    assert_eq!(net.shells[0].done.get(&2), Some(&Status::Ok));
    net.assert_same();
}

#[test]
fn a_change_is_not_made_if_the_reign_ends_before() {
    let mut net = pair();
    let (uuid, now) = (OTHER, net.shells[0].now);
    let create = Create { uuid, blocks: 9 };
    let epoch = net.position(0).epoch;
    net.shells[0].engine.change_volume(now, create).unwrap();
    let command = SetCommand::Fence { term: 7 };
    net.shells[0].engine.set_command(now, 99, command).unwrap();
    net.run(50);
    assert_eq!(net.shells[0].changed, Some(false));
    assert_eq!(net.position(0).epoch, epoch);
    assert_eq!(volumes_on(&net.shells[0].disk).len(), 1);
}

#[test]
fn a_power_cut_finds_a_change_and_its_epoch_or_neither() {
    let mut net = pair();
    net.write(0, 0, &[1, 2]);
    assert_eq!(net.flush(0), Status::Ok);
    let (uuid, slot) = (OTHER, 1);
    let first = net.position(0).epoch;
    // The sizes of the volumes behind each epoch.
    let sizes = [&[BLOCKS][..], &[BLOCKS, 300], &[BLOCKS, 40], &[BLOCKS]];
    let changes = [
        Create { uuid, blocks: 300 },
        Resize { slot, blocks: 40 },
        Remove { slot },
    ];
    let mut seen = [[0; 2]; 2];
    for (before, change) in changes.into_iter().enumerate() {
        let now = net.shells[0].now;
        net.shells[0].engine.change_volume(now, change).unwrap();
        net.shells[0].changed = None;
        while net.shells[0].changed.is_none() || net.position(1) != net.position(0) {
            // A step at a time: what it leaves on the disk is what a power cut finds.
            for shell in &mut net.shells {
                shell.drain();
                shell.engine.background(shell.now);
            }
            net.exchange();
            for (n, shell) in net.shells.iter_mut().enumerate() {
                shell.now += 1;
                let found = attach(shell.disk.clone());
                let position = found.engine.member_position().unwrap();
                let made = (position.epoch - first) as usize;
                let there = volumes_on(&shell.disk);
                let there: Vec<_> = there.iter().map(|volume| volume.1).collect();
                assert_eq!(there, sizes[made], "{change:?} on store {n}");
                seen[n][made - before] += 1;
            }
        }
    }
    assert!(seen.iter().flatten().all(|times| *times >= 3), "{seen:?}");
}

#[test]
fn a_compare_ends_with_the_volumes_of_the_primary() {
    let mut net = pair();
    let [grows, goes, shrinks, comes] = [0x71, 0x72, 0x73, 0x74].map(|n| [n; 16]);
    let blocks = 400;
    let mut slots = Vec::new();
    for uuid in [grows, goes, shrinks] {
        slots.push(net.change(0, Create { uuid, blocks }));
    }
    for (n, slot) in slots.iter().enumerate() {
        net.shells[0].volume = *slot;
        net.write(0, 3, &[n as u64 + 1, 9, 8]);
    }
    assert_eq!(net.flush(0), Status::Ok);
    net.assert_same();
    net.disconnect(0, 1);
    let slot = slots[0];
    net.change(0, Resize { slot, blocks: 900 });
    net.change(0, Remove { slot: slots[1] });
    let slot = slots[2];
    net.change(0, Resize { slot, blocks: 5 });
    let uuid = comes;
    let slot = net.change(0, Create { uuid, blocks: 70 });
    net.shells[0].volume = slot;
    net.write(0, 69, &[7]);
    // The window goes with the attach: the replica is too far behind.
    net.run(3000);
    let disk = net.shells[0].disk.clone();
    net.shells[0] = attach(disk);
    net.run(20);
    let mut next = net.next(0);
    next.term += 1;
    next.reign = [0xdd; 16];
    assert_eq!(net.set_config(0, &next), Reply::Done);
    net.connect(0, 1);
    net.run(200);
    assert!(net.shells[0].serves);
    net.assert_same();
    let there = volumes_on(&net.shells[1].disk);
    let there: Vec<_> = there.iter().map(|v| (v.0, v.1)).collect();
    let expected = [([8; 16], BLOCKS), (grows, 900), (shrinks, 5), (comes, 70)];
    assert_eq!(there, expected);
    // What comes behind goes to the volumes that came.
    let slots = 0..net.shells[0].engine.volume_slots();
    let is_it = |slot: &u32| {
        let volume = net.shells[0].engine.volume(*slot);
        volume.is_some_and(|v| v.uuid == comes)
    };
    net.shells[0].volume = slots.into_iter().find(is_it).unwrap();
    net.write(0, 0, &[6]);
    assert_eq!(net.flush(0), Status::Ok);
    net.assert_same();
    net.run(40_000);
    for shell in net.shells.drain(..) {
        assert!(!shell.engine.is_releasing());
        check_disk(&shell.detach(), CLUSTERS);
    }
}
