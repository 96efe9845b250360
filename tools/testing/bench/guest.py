#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The guest's side of the benchmark: makes targets on the disks and runs the cells on each.

The plan comes as JSON in $PLAN: {"phase", "targets", "cells", "seconds", "size_mib", "seed"}, and for
a target with a peer "peers": those of its machine. The n-th target has the n-th disk. Each cell runs
on all targets, one after the other, so that a change of the machine's load meets all of them. For
the host there are lines

  @@ begin TARGET CELL
  @@ end TARGET CELL {"value": ..., "unit": ..., ...}
  @@ verified TARGET
  @@ cut                  the power may go now

Phases: "measure" makes the targets, runs the cells, verifies what was written and ends, or with the
cell "recovery" writes until the power goes; "recover" is the start behind that; "big" is the cell
that needs a large disk; "peer" is the other machine of a pair, which lends its disks.

Writes end with an fsync that counts as time, so nothing is won by acknowledging early.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time

PLAN = json.loads(os.environ.get("PLAN", "{}"))

RANDOM = ["--bs=4k", "--norandommap"]
SEQUENTIAL = ["--bs=128k", "--iodepth=8"]
DUPLICATES = ["--dedupe_mode=working_set", "--dedupe_working_set_percentage=5"]
# fio's words for a cell; the unit is requests a second, or MB (10^6 bytes) for sequential ones.
FIO_CELLS = {
    "randwrite_qd1": ["--rw=randwrite", *RANDOM, "--iodepth=1"],
    "randwrite_qd32": ["--rw=randwrite", *RANDOM, "--iodepth=32"],
    "randwrite_qd32_dup50": ["--rw=randwrite", *RANDOM, "--iodepth=32", "--dedupe_percentage=50", *DUPLICATES],
    "randwrite_qd32_dup90": ["--rw=randwrite", *RANDOM, "--iodepth=32", "--dedupe_percentage=90", *DUPLICATES],
    "randwrite_qd8_jobs4": ["--rw=randwrite", *RANDOM, "--iodepth=8", "--numjobs=4"],
    "seqwrite_128k": ["--rw=write", *SEQUENTIAL],
    "randread_qd1": ["--rw=randread", *RANDOM, "--iodepth=1"],
    "randread_qd32": ["--rw=randread", *RANDOM, "--iodepth=32"],
    "randread_qd8_jobs4": ["--rw=randread", *RANDOM, "--iodepth=8", "--numjobs=4"],
    "seqread_128k": ["--rw=read", *SEQUENTIAL],
    "mix7030_qd32": ["--rw=randrw", "--rwmixread=70", *RANDOM, "--iodepth=32"],
    "mix7030_qd8_jobs4": ["--rw=randrw", "--rwmixread=70", *RANDOM, "--iodepth=8", "--numjobs=4"],
    "fdatasync_qd1": ["--rw=randwrite", *RANDOM, "--ioengine=psync", "--fdatasync=1"],
    "dsync_qd1": ["--rw=randwrite", *RANDOM, "--ioengine=psync", "--sync=dsync"],
}
# As much as there is of sequential writes, and what the network's card moved in both directions meanwhile.
WIRE_CELLS = {"wire_per_byte_dup0": 0, "wire_per_byte_dup50": 50, "wire_per_byte_dup90": 90}
# A peer that was away while half of that was written: until it is whole again, and what that moved.
RESYNC_CELLS = ("resync",)
# What is measured around the others: start, space and memory; a restart; a loss of power; a discard.
LIFE_CELLS = ("set_up", "memory_idle", "space_fixed", "space_per_byte", "attach", "memory_used", "recovery", "trim")
# A volume of 16 GiB that is all mapped, overwritten through a metadata cache of 8 MiB.
BIG_CELLS = ("randwrite_16g", "metadata_16g")
PORT = 7999
# Where a peer takes invitations: from this port on, one for each target.
INVITE = 7950


def run(*command, **more):
    done = subprocess.run(command, text=True, capture_output=True, **more)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def say(*words):
    print(*words, flush=True)


def until(what, condition, patience=180):
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"{what}: not within {patience} s")
        time.sleep(0.05)


def sectors(device):
    return int(run("blockdev", "--getsz", device))


def meminfo():
    with open("/proc/meminfo") as file:
        return {line.split(":")[0]: int(line.split()[1]) for line in file}


def available_mib():
    """Memory that is not taken; what is only cached doesn't count as taken."""
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")
    return meminfo()["MemAvailable"] / 1024


def busy_seconds():
    """Of the guest's processors, all but idle and waiting."""
    with open("/proc/stat") as file:
        fields = [int(word) for word in file.readline().split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def wire_bytes():
    total = 0
    for direction in ("tx", "rx"):
        with open(f"/sys/class/net/eth0/statistics/{direction}_bytes") as file:
            total += int(file.read())
    return total


def quiet_wire():
    """The bytes on the wire, once nothing has moved for a while: a peer may lag behind."""
    before, since = wire_bytes(), time.monotonic()
    while time.monotonic() - since < 1:
        time.sleep(0.1)
        now = wire_bytes()
        if now - before > 20000:
            before, since = now, time.monotonic()
    return wire_bytes()


class Raw:
    """The disk itself."""

    def __init__(self, disk, name="raw"):
        self.disk = self.device = disk
        self.name = name
        self.size_mib = PLAN["size_mib"]

    def make(self):
        """Formats and attaches."""

    def attach(self):
        pass

    def detach(self):
        pass

    def check(self):
        """Examines what is on the disk, detached."""

    def counters(self):
        """written_blocks, duplicate_blocks, metadata_bytes where the target counts these itself."""
        return {}

    def space(self):
        """Bytes that no data can have, and bytes that data takes; None if it has no say in that."""
        return None

    def disk_written(self):
        """Bytes that went to the disk below."""
        with open(f"/sys/block/{os.path.basename(self.disk)}/stat") as file:
            return int(file.read().split()[6]) * 512


class Thin(Raw):
    """dm-thin, chunks of 64 KiB, metadata and data on the same disk."""

    META = 64 << 11

    def make(self):
        run("modprobe", "dm-thin-pool")
        run("dd", "if=/dev/zero", f"of={self.disk}", "bs=4096", "count=1", "oflag=direct")
        self.pool()
        run("dmsetup", "message", "tpool", "0", "create_thin 0")
        self.volume()

    def pool(self):
        data = sectors(self.disk) - self.META
        run("dmsetup", "create", "tmeta", "--table", f"0 {self.META} linear {self.disk} 0")
        run("dmsetup", "create", "tdata", "--table", f"0 {data} linear {self.disk} {self.META}")
        run("dmsetup", "create", "tpool", "--table",
            f"0 {data} thin-pool /dev/mapper/tmeta /dev/mapper/tdata 128 1024")

    def volume(self):
        run("dmsetup", "create", "thin", "--table", f"0 {self.size_mib << 11} thin /dev/mapper/tpool 0")
        self.device = "/dev/mapper/thin"

    def attach(self):
        run("modprobe", "dm-thin-pool")
        self.pool()
        self.volume()

    def detach(self):
        for name in ("thin", "tpool", "tdata", "tmeta"):
            run("dmsetup", "remove", "--retry", name)

    def check(self):
        self.pool()
        run("dmsetup", "remove", "--retry", "tpool")
        run("thin_check", "/dev/mapper/tmeta")
        for name in ("tdata", "tmeta"):
            run("dmsetup", "remove", "--retry", name)

    def space(self):
        used = run("dmsetup", "status", "tpool").split()[5]
        return self.META * 512, int(used.split("/")[0]) * (64 << 10)


class Vdo(Raw):
    """dm-vdo with LVM's default threads, a dense index of 0.25 GiB, no compression."""

    THREADS = "ack 1 bio 4 bioRotationInterval 64 cpu 2 hash 1 logical 1 physical 1"
    LOGICAL_GIB = 4
    CACHE_PAGES = 32768

    def __init__(self, disk, name):
        super().__init__(disk, name)
        self.mapping = name

    def below(self):
        return self.disk

    def make(self):
        run("modprobe", "dm-vdo")
        run("vdoformat", "--force", f"--logical-size={self.LOGICAL_GIB}G", "--uds-memory-size=0.25",
            "--slab-bits=17", self.below())
        self.map()
        self.wait_for_index()

    def map(self):
        below = self.below()
        run("dmsetup", "create", self.mapping, "--table",
            f"0 {self.LOGICAL_GIB << 21} vdo V4 {below} {sectors(below) // 8} 4096 {self.CACHE_PAGES} 16380 "
            f"{self.THREADS} deduplication on compression off")
        self.device = f"/dev/mapper/{self.mapping}"

    def wait_for_index(self):
        until(f"{self.name}: the index", lambda: "normal - online" in run("dmsetup", "status", self.mapping))

    def attach(self):
        run("modprobe", "dm-vdo")
        self.map()

    def detach(self):
        run("dmsetup", "remove", "--retry", self.mapping)

    def stats(self):
        text = run("dmsetup", "message", self.mapping, "0", "stats")
        found = {}
        for name, inner in re.findall(r"(\w+) : \{ ([^{}]*)\}", text):
            found[name] = dict(re.findall(r"(\w+) : (\w+)", inner))
        return found, dict(re.findall(r"(\w+) : (\d+)", text))

    def counters(self):
        nested, _ = self.stats()
        lock = nested["hashLock"]
        return {"written_blocks": int(nested["biosIn"]["write"]),
            "duplicate_blocks": int(lock["dedupeAdviceValid"]) + int(lock["concurrentDataMatches"]),
            "metadata_bytes": 4096 * int(nested["biosMeta"]["write"])}

    def space(self):
        _, flat = self.stats()
        index = sectors(self.below()) * 512 - int(flat["physicalBlocks"]) * 4096
        return int(flat["overheadBlocksUsed"]) * 4096 + index, int(flat["dataBlocksUsed"]) * 4096


class LeanVdo(Vdo):
    """dm-vdo with as few threads as it takes."""

    THREADS = "ack 0 bio 1 cpu 1 hash 0 logical 0 physical 0"


class BigVdo(LeanVdo):
    """dm-vdo with 16 GiB mapped and a block map cache of 8 MiB, which only the fewest threads allow."""

    LOGICAL_GIB = 16
    CACHE_PAGES = 2048


class Ddup(Raw):
    """ddup as `ddup format` makes it."""

    FORMAT = ()
    ATTACH = ()

    def make(self):
        run("ddup", "format", "--force", *self.FORMAT, self.disk)
        self.attach()

    def attach(self):
        self.device = run("ddup", "attach", *self.ATTACH, self.disk).strip()

    def detach(self):
        run("ddup", "detach", self.device)

    def check(self):
        run("ddup", "check", self.disk)

    def status(self):
        return json.loads(run("ddup", "status", "--json", self.device))["devices"][0]["counters"]

    def counters(self):
        found = self.status()
        return {"written_blocks": found["written_blocks"], "duplicate_blocks": found["duplicate_blocks"],
            "metadata_bytes": 4096 * found["pages_written"] + found["journal_bytes"]}

    def space(self):
        found = self.status()
        metadata = found["metadata_clusters"] + found["fixed_clusters"]
        data = found["clusters"] - found["available_clusters"] - metadata
        return 4096 * metadata, 4096 * data


class DdupFast(Ddup):
    """ddup with the fast fingerprint, whose matches are compared."""

    FORMAT = ("--fingerprint", "xxh64")


class DdupSha(Ddup):
    """ddup with SHA-256 as its fingerprint."""

    FORMAT = ("--fingerprint", "sha256")


class BigDdup(Ddup):
    """ddup with 16 GiB mapped and a metadata cache of 8 MiB."""

    FORMAT = ("--size", "16G")
    ATTACH = ("--cache", "8M")


class Passthrough(Raw):
    """The driver's block layer alone; the module is loaded for that."""

    def make(self):
        self.attach()

    def attach(self):
        self.device = run("ddup", "attach", self.disk).strip()

    def detach(self):
        run("ddup", "detach", self.device)


class Drbd(Raw):
    """DRBD with a peer, its metadata on the same disk, resync as fast as it goes."""

    PROTOCOL = "C"

    def __init__(self, disk, name):
        super().__init__(disk, name)
        self.minor = self.resources().index(name)
        self.node = self.device = f"/dev/drbd{self.minor}"

    @staticmethod
    def resources():
        return [name for name in PLAN["peers"] if hasattr(TARGETS.get(name), "PROTOCOL")]

    def configure(self):
        """What both machines say; each has its own disks in its own order."""
        text = "global { usage-count no; }\ncommon { handlers { } disk { c-plan-ahead 0; resync-rate 1000M; } }\n"
        for minor, name in enumerate(self.resources()):
            text += f"resource {name} {{\n net {{ protocol {PAIRED[name].PROTOCOL}; }}\n" \
                f" device /dev/drbd{minor}; meta-disk internal;\n"
            for letter, address in (("a", 1), ("b", 2)):
                disk = disk_of(PLAN["order"][letter].index(name))
                text += f" on ddup-{letter} {{ disk {disk}; address 192.168.7.{address}:{7700 + minor}; }}\n"
            text += "}\n"
        with open("/etc/drbd.conf", "w") as file:
            file.write(text)
        os.makedirs("/var/lib/drbd", exist_ok=True)
        os.makedirs("/run/drbd", exist_ok=True)
        run("modprobe", "drbd")

    def create(self):
        """On both machines, empty and connecting."""
        self.configure()
        run("dd", "if=/dev/zero", f"of={self.disk}", "bs=1M", "count=1", "oflag=direct")
        run("drbdadm", "create-md", "--force", self.name)
        run("drbdadm", "up", self.name)

    def whole(self):
        return "Connected" in run("drbdadm", "cstate", self.name) and \
            run("drbdadm", "dstate", self.name).strip() == "UpToDate/UpToDate"

    def make(self):
        self.create()
        until(f"{self.name}: the peer", lambda: "Connected" in run("drbdadm", "cstate", self.name))
        # Both disks count as equal: nothing to be copied first.
        run("drbdadm", "new-current-uuid", "--clear-bitmap", f"{self.name}/0")
        until(f"{self.name}: both disks", self.whole)
        run("drbdadm", "primary", self.name)

    def attach(self):
        self.configure()
        run("drbdadm", "up", self.name)
        run("drbdadm", "primary", self.name)

    def detach(self):
        run("drbdadm", "secondary", self.name)
        run("drbdadm", "down", self.name)

    def part(self):
        run("drbdadm", "disconnect", self.name)

    def join(self):
        run("drbdadm", "connect", self.name)


class DrbdA(Drbd):
    """DRBD that does not wait for its peer."""

    PROTOCOL = "A"


class VdoOnDrbd(Vdo):
    """dm-vdo with its default threads on DRBD with protocol C."""

    PROTOCOL = "C"

    def __init__(self, disk, name):
        super().__init__(disk, name)
        self.drbd = Drbd(disk, name)

    def below(self):
        return self.drbd.node

    def create(self):
        self.drbd.create()

    def make(self):
        self.drbd.make()
        super().make()

    def attach(self):
        self.drbd.attach()
        super().attach()

    def detach(self):
        super().detach()
        self.drbd.detach()

    def whole(self):
        return self.drbd.whole()

    def part(self):
        self.drbd.part()

    def join(self):
        self.drbd.join()


class DdupSync(Ddup):
    """ddup in a replica set of two, each FLUSH waits for the other one."""

    CONFIG = "/etc/ddup"
    daemon = None

    def __init__(self, disk, name):
        super().__init__(disk, name)
        self.port = INVITE + PLAN["peers"].index(name)

    def set_up_daemon(self, other):
        """One for all stores of a machine, which reads its files anew."""
        address = "192.168.7." + ("1" if os.environ["NODE"] == "a" else "2")
        os.makedirs(self.CONFIG, exist_ok=True)
        with open(f"{self.CONFIG}/{self.name}.toml", "w") as file:
            file.write(f'store = "{self.disk}"\n[set]\nlisten = ["{address}:7789"]\ntransport = "plain"\n'
                f'[[peer]]\nstore = "{other}"\naddress = "{os.environ["PEER"]}:7789"\n')
        DdupSync.stop_daemon()
        DdupSync.start_daemon()

    @classmethod
    def start_daemon(cls):
        DdupSync.daemon = subprocess.Popen(["ddupd", "--interval", "1", "--log", "warn", cls.CONFIG])

    @classmethod
    def stop_daemon(cls):
        if DdupSync.daemon:
            DdupSync.daemon.terminate()
            DdupSync.daemon.wait()
            DdupSync.daemon = None

    def create(self):
        """The peer's store, from an invitation."""
        with socket.create_server(("", self.port)) as server:
            connection = server.accept()[0]
            with connection, connection.makefile("rw") as stream:
                invitation = stream.readline()
                with open("/tmp/invitation", "w") as file:
                    file.write(invitation)
                run("ddup", "format", "--force", "--replica-of", "/tmp/invitation", self.disk)
                Ddup.attach(self)
                self.set_up_daemon(json.loads(stream.readline()))
                stream.write(json.dumps(self.part_in_set()["store_uuid"]) + "\n")
                stream.flush()

    def part_in_set(self):
        return json.loads(run("ddup", "set", "show", "--json", self.device))["sets"][0]

    def other(self):
        return next(member for member in self.part_in_set()["members"] if not member["own"])

    def make(self):
        run("ddup", "format", "--force", "--set", *self.FORMAT, self.disk)
        Ddup.attach(self)
        own = self.part_in_set()["store_uuid"]
        with socket.create_connection((os.environ["PEER"], self.port), 60) as connection, \
                connection.makefile("rw") as stream:
            stream.write(run("ddup", "set", "invite", self.device).strip() + "\n" + json.dumps(own) + "\n")
            stream.flush()
            uuid = json.loads(stream.readline())
        run("ddup", "peer", "add", self.device, uuid)
        self.set_up_daemon(uuid)
        until(f"{self.name}: the peer", self.whole)
        self.settle()

    def attach(self):
        Ddup.attach(self)
        self.set_up_daemon(self.other()["store_uuid"])
        until(f"{self.name}: the peer", lambda: self.other()["link"] != "absent")
        run("ddup", "promote", "--wait", "120", self.device)

    def whole(self):
        other = self.other()
        return other["link"] == "connected" and other.get("lag_epochs") == 0

    def part(self):
        other = self.other()
        if other["state"] == "in-sync":
            run("ddup", "peer", "shrink", "--force", self.device, other["store_uuid"])
        self.stop_daemon()
        run("ddup", "peer", "drop", self.device, other["store_uuid"])

    def join(self):
        self.start_daemon()

    def settle(self):
        """FLUSHes wait for the peer, once it has everything."""
        run("ddup", "peer", "join", "--timeout", "120", self.device, self.other()["store_uuid"])


class DdupAsync(DdupSync):
    """The same, and nothing waits for the other one."""

    def settle(self):
        until(f"{self.name}: the peer", self.whole, 600)


TARGETS = {"raw": Raw, "thin": Thin, "vdo": Vdo, "vdo-lean": LeanVdo, "ddup": Ddup, "ddup-fast": DdupFast,
    "ddup-sha": DdupSha, "passthrough": Passthrough, "drbd-c": Drbd, "drbd-a": DrbdA, "vdo-on-drbd": VdoOnDrbd,
    "ddup-sync": DdupSync, "ddup-async": DdupAsync}
BIG = {"vdo-lean": BigVdo, "ddup": BigDdup}
# Those with a peer. On the peer's machine create() makes what lends the disk; part() and join() end
# and begin the connection, whole() says whether both have everything.
PAIRED = {name: kind for name, kind in TARGETS.items() if hasattr(kind, "part")}


def disk_of(index):
    kind = "ubd" if os.path.exists("/dev/ubda") else "vd"
    return f"/dev/{kind}{'abcdefghijklmnop'[index]}"


def targets_of(kinds):
    return [kinds[name](disk_of(index), name) for index, name in enumerate(PLAN["targets"])]


class Seed:
    """A fresh one for each run: fio's own would write the same content again."""

    value = PLAN.get("seed", 1)

    @classmethod
    def next(cls):
        cls.value += 1
        return cls.value


def fio_command(device, *options):
    return ["fio", "--name=cell", f"--filename={device}", "--direct=1", "--ioengine=libaio",
        f"--size={PLAN['size_mib']}M", "--refill_buffers", f"--randseed={Seed.next()}", "--group_reporting",
        "--output-format=json", *options]


def fio(device, *options):
    out = run(*fio_command(device, *options))
    return json.loads(out[out.index("{"):])["jobs"][0]


def sync(device):
    """Makes all writes durable; the seconds that took."""
    begun = time.monotonic()
    fd = os.open(device, os.O_RDWR)
    os.fsync(fd)
    os.close(fd)
    return time.monotonic() - begun


def first_read(device):
    run("dd", f"if={device}", "of=/dev/null", "bs=4096", "count=1", "iflag=direct")


class Gauge:
    """What a target's counters and its disk gained since this was made."""

    def __init__(self, target):
        self.target = target
        self.before, self.written = target.counters(), target.disk_written()

    def tell(self, result, data):
        """Adds shares to the result of a run that wrote so many bytes of data."""
        after = self.target.counters()
        gained = {name: after[name] - self.before[name] for name in after}
        if gained.get("written_blocks"):
            result["duplicates"] = gained["duplicate_blocks"] / gained["written_blocks"]
            result["metadata_per_byte"] = gained["metadata_bytes"] / (4096 * gained["written_blocks"])
        if data:
            result["disk_per_byte"] = (self.target.disk_written() - self.written) / data


def measure_fio(target, cell):
    gauge, busy = Gauge(target), busy_seconds()
    job = fio(target.device, *FIO_CELLS[cell], "--time_based", f"--runtime={PLAN['seconds']}")
    writes = job["write"]["total_ios"] > 0
    seconds = max(job["read"]["runtime"], job["write"]["runtime"]) / 1000
    seconds += sync(target.device) if writes else 0
    ios = job["read"]["total_ios"] + job["write"]["total_ios"]
    moved = job["read"]["io_bytes"] + job["write"]["io_bytes"]
    sequential = cell.startswith("seq")
    result = {
        "value": moved / seconds / 1e6 if sequential else ios / seconds,
        "unit": "MB/s" if sequential else "IOPS",
        "ios": ios,
        "guest_cpu_us": 1e6 * (busy_seconds() - busy) / max(ios, 1),
    }
    if cell == "fdatasync_qd1":
        percentile = job["sync"]["lat_ns"]["percentile"]
    else:
        percentile = job["write" if writes else "read"]["clat_ns"].get("percentile", {})
    for name, key in (("p50_us", "50.000000"), ("p99_us", "99.000000")):
        if key in percentile:
            result[name] = percentile[key] / 1000
    gauge.tell(result, job["write"]["io_bytes"])
    return result


def measure_wire(target, share):
    sync(target.device)
    before, gauge = quiet_wire(), Gauge(target)
    begun = time.monotonic()
    job = fio(target.device, "--rw=write", *SEQUENTIAL, f"--dedupe_percentage={share}", *DUPLICATES)
    sync(target.device)
    seconds, data = time.monotonic() - begun, job["write"]["io_bytes"]
    result = {"value": (quiet_wire() - before) / data, "unit": "B/B", "mb_per_s": data / seconds / 1e6}
    gauge.tell(result, data)
    return result


def measure_resync(target):
    half = PLAN["size_mib"] << 19
    sync(target.device)
    target.part()
    fio(target.device, "--rw=write", *SEQUENTIAL, f"--size={half >> 20}M")
    sync(target.device)
    before, begun = quiet_wire(), time.monotonic()
    target.join()
    until(f"{target.name}: resync", target.whole, 600)
    seconds = time.monotonic() - begun
    result = {"value": seconds, "unit": "s", "wire_per_byte": (quiet_wire() - before) / half}
    if hasattr(target, "settle"):
        target.settle()
    return result


def tell(target, cell, value, unit, **more):
    if cell in PLAN["cells"]:
        say("@@ end", target.name, cell, json.dumps(dict(more, value=value, unit=unit)))


def start_timed(target):
    """Attaches: the seconds until the first read is answered."""
    begun = time.monotonic()
    target.attach()
    first_read(target.device)
    return time.monotonic() - begun


def load_module():
    wanted = set(PLAN["targets"])
    if any(name.startswith("ddup") or name == "passthrough" for name in wanted):
        run("insmod", os.environ["DDUP_KO"], f"passthrough={int('passthrough' in wanted)}")


def set_up(target):
    before, begun = available_mib(), time.monotonic()
    target.make()
    seconds = time.monotonic() - begun
    tell(target, "set_up", seconds, "s")
    tell(target, "memory_idle", before - available_mib(), "MiB")
    empty = target.space()
    fio(target.device, "--rw=write", *SEQUENTIAL)
    sync(target.device)
    if empty:
        fixed, taken = target.space()
        tell(target, "space_fixed", empty[0] / (1 << 20), "MiB")
        tell(target, "space_per_byte", (fixed + taken - sum(empty)) / (PLAN["size_mib"] << 20), "B/B")


def measure(targets):
    for target in targets:
        set_up(target)
    for cell in PLAN["cells"]:
        for target in targets:
            if cell in FIO_CELLS:
                say("@@ begin", target.name, cell)
                say("@@ end", target.name, cell, json.dumps(measure_fio(target, cell)))
            elif cell in WIRE_CELLS and target.name in PAIRED:
                say("@@ end", target.name, cell, json.dumps(measure_wire(target, WIRE_CELLS[cell])))
            elif cell in RESYNC_CELLS and target.name in PAIRED:
                say("@@ end", target.name, cell, json.dumps(measure_resync(target)))
    for target in targets:
        # What was measured has to hold: write once more, read back, and examine the store.
        fio(target.device, "--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=16M", "--verify=crc32c",
            "--verify_fatal=1")
        sync(target.device)
        before = available_mib()
        target.detach()
        tell(target, "memory_used", available_mib() - before, "MiB")
        target.check()
        say("@@ verified", target.name)
    if {"attach", "recovery"} & set(PLAN["cells"]):
        for target in targets:
            seconds = start_timed(target)
            if type(target) not in (Raw, Passthrough):
                tell(target, "attach", seconds, "s")
    if {"recovery", "trim"} & set(PLAN["cells"]):
        for target in targets:
            if isinstance(target, Vdo):
                target.wait_for_index()
        for target in targets:
            # Until the power goes.
            subprocess.Popen(fio_command(target.device, "--rw=randwrite", *RANDOM, "--iodepth=8", "--time_based",
                "--runtime=600", "--rate_iops=2000", "--fsync=64"), stdout=subprocess.DEVNULL)
        time.sleep(max(3, PLAN["seconds"]))
        say("@@ cut")
        time.sleep(60)
        sys.exit("the power did not go")


def recover(targets):
    for target in targets:
        more, begun = {}, time.monotonic()
        seconds = start_timed(target)
        if target.name in PAIRED:
            until(f"{target.name}: resync", target.whole, 600)
            more["whole_s"] = time.monotonic() - begun
        if type(target) not in (Raw, Passthrough):
            tell(target, "recovery", seconds, "s", **more)
        begun = time.monotonic()
        if "trim" in PLAN["cells"] and target.name not in PAIRED:
            run("blkdiscard", target.device)
            sync(target.device)
            tell(target, "trim", time.monotonic() - begun, "s")
        target.detach()
        target.check()
        say("@@ verified", target.name)


def big(targets):
    (target,) = targets
    target.make()
    fio(target.device, "--rw=write", *SEQUENTIAL)
    sync(target.device)
    overwrite = ["--rw=randwrite", *RANDOM, "--iodepth=32"]
    fio(target.device, *overwrite, f"--io_size={PLAN['warm_mib']}M")
    sync(target.device)
    gauge = Gauge(target)
    say("@@ begin", target.name, "randwrite_16g")
    begun = time.monotonic()
    job = fio(target.device, *overwrite, f"--io_size={PLAN['write_mib']}M")
    sync(target.device)
    seconds, data = time.monotonic() - begun, job["write"]["io_bytes"]
    ios = job["write"]["total_ios"]
    result = {"value": ios / seconds, "unit": "IOPS", "ios": ios}
    gauge.tell(result, data)
    say("@@ end", target.name, "randwrite_16g", json.dumps(result))
    # The end writes what was put off, which belongs to the cost: all but the data itself.
    target.detach()
    unique = data * (1 - result["duplicates"])
    say("@@ end", target.name, "metadata_16g", json.dumps({"unit": "B/B",
        "value": (target.disk_written() - gauge.written - unique) / data,
        "by_counters": result["metadata_per_byte"]}))
    target.check()
    say("@@ verified", target.name)


def peer():
    """Lends its disks until the other machine says that it has ended."""
    load_module()
    for index, name in enumerate(PLAN["targets"]):
        PAIRED[name](disk_of(index), name).create()
    with socket.create_server(("", PORT)) as server:
        server.accept()[0].recv(1)
    for name in PLAN["targets"]:
        say("@@ verified", name)


def tell_peer():
    if "peers" in PLAN:
        with socket.create_connection((os.environ["PEER"], PORT), 10) as connection:
            connection.send(b".")


def main():
    phase = PLAN["phase"]
    if phase == "peer":
        peer()
        return
    load_module()
    {"measure": measure, "recover": recover, "big": big}[phase](targets_of(BIG if phase == "big" else TARGETS))
    tell_peer()


if __name__ == "__main__":
    main()
