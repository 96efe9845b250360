#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The guest's side of the benchmark: makes targets on the disks and runs fio's cells on each.

The plan comes as JSON in $PLAN: {"targets": [...], "cells": [...], "seconds", "size_mib", "seed"}.
The n-th target has the n-th disk. Each cell runs on all targets, one after the other, so that a
change of the machine's load meets all of them. For the host there are lines

  @@ begin TARGET CELL
  @@ end TARGET CELL {"value": ..., "unit": ..., ...}

Writes end with an fsync that counts as time, so nothing is won by acknowledging early.
"""

import json
import os
import subprocess
import sys
import time

PLAN = json.loads(os.environ["PLAN"])
SIZE = f"{PLAN['size_mib']}M"

RANDOM = ["--bs=4k", "--norandommap"]
SEQUENTIAL = ["--bs=128k", "--iodepth=8"]
DUPLICATES = ["--dedupe_mode=working_set", "--dedupe_working_set_percentage=5"]
# fio's words for a cell; the unit is requests a second, or MB (10^6 bytes) for sequential ones.
CELLS = {
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
    "fdatasync_qd1": ["--rw=randwrite", *RANDOM, "--ioengine=psync", "--fdatasync=1"],
}


def run(*command, **more):
    return subprocess.run(command, check=True, text=True, capture_output=True, **more).stdout


def sectors(device):
    return int(run("blockdev", "--getsz", device))


def meminfo():
    with open("/proc/meminfo") as file:
        return {line.split(":")[0]: int(line.split()[1]) for line in file}


class Raw:
    """The disk itself."""

    def __init__(self, disk):
        self.disk = self.device = disk

    def counters(self):
        return {}

    def end(self):
        pass


class Thin(Raw):
    """dm-thin, chunks of 64 KiB, metadata and data on the same disk."""

    META = 64 << 11

    def __init__(self, disk):
        super().__init__(disk)
        run("modprobe", "dm-thin-pool")
        data = sectors(disk) - self.META
        run("dd", "if=/dev/zero", f"of={disk}", "bs=4096", "count=1", "oflag=direct")
        run("dmsetup", "create", "tmeta", "--table", f"0 {self.META} linear {disk} 0")
        run("dmsetup", "create", "tdata", "--table", f"0 {data} linear {disk} {self.META}")
        run("dmsetup", "create", "tpool", "--table",
            f"0 {data} thin-pool /dev/mapper/tmeta /dev/mapper/tdata 128 1024")
        run("dmsetup", "message", "tpool", "0", "create_thin 0")
        run("dmsetup", "create", "thin", "--table", f"0 {PLAN['size_mib'] << 11} thin /dev/mapper/tpool 0")
        self.device = "/dev/mapper/thin"

    def end(self):
        for name in ("thin", "tpool", "tdata", "tmeta"):
            run("dmsetup", "remove", "--retry", name)


class Vdo(Raw):
    """dm-vdo with LVM's default threads, a dense index of 0.25 GiB, no compression."""

    NAME = "vdo"
    THREADS = "ack 1 bio 4 bioRotationInterval 64 cpu 2 hash 1 logical 1 physical 1"

    def __init__(self, disk):
        super().__init__(disk)
        run("modprobe", "dm-vdo")
        run("vdoformat", "--force", "--logical-size=4G", "--uds-memory-size=0.25", "--slab-bits=17", disk)
        run("dmsetup", "create", self.NAME, "--table",
            f"0 8388608 vdo V4 {disk} {sectors(disk) // 8} 4096 32768 16380 {self.THREADS} "
            "deduplication on compression off")
        until = time.monotonic() + 120
        while "normal - online" not in run("dmsetup", "status", self.NAME):
            if time.monotonic() > until:
                sys.exit(f"{self.NAME} did not come online")
            time.sleep(0.1)
        self.device = f"/dev/mapper/{self.NAME}"

    def end(self):
        run("dmsetup", "remove", "--retry", self.NAME)


class LeanVdo(Vdo):
    """dm-vdo with as few threads as it takes."""

    NAME = "vdo-lean"
    THREADS = "ack 0 bio 1 cpu 1 hash 0 logical 0 physical 0"


class Ddup(Raw):
    """ddup as `ddup format` makes it."""

    OPTIONS = ()

    def __init__(self, disk):
        super().__init__(disk)
        run("ddup", "format", "--force", *self.OPTIONS, disk)
        self.device = run("ddup", "attach", disk).strip()

    def counters(self):
        status = json.loads(run("ddup", "status", "--json", self.device))
        return status["devices"][0]["counters"]

    def end(self):
        run("ddup", "detach", self.device)
        run("ddup", "check", self.disk)


class DdupSha(Ddup):
    """ddup with SHA-256 as its fingerprint."""

    OPTIONS = ("--fingerprint", "sha256")


class Passthrough(Raw):
    """The driver's block layer alone; the module is loaded for that."""

    def __init__(self, disk):
        super().__init__(disk)
        self.device = run("ddup", "attach", disk).strip()

    def end(self):
        run("ddup", "detach", self.device)


TARGETS = {"raw": Raw, "thin": Thin, "vdo": Vdo, "vdo-lean": LeanVdo, "ddup": Ddup, "ddup-sha": DdupSha,
    "passthrough": Passthrough}


def fio(device, seed, options):
    out = run("fio", "--name=cell", f"--filename={device}", "--direct=1", "--ioengine=libaio",
        f"--size={SIZE}", "--refill_buffers", f"--randseed={seed}", "--group_reporting",
        "--output-format=json", *options)
    return json.loads(out[out.index("{"):])["jobs"][0]


def sync(device):
    """Makes all writes durable; the seconds that took."""
    begun = time.monotonic()
    fd = os.open(device, os.O_RDWR)
    os.fsync(fd)
    os.close(fd)
    return time.monotonic() - begun


def measure(target, cell, seed):
    before = target.counters()
    job = fio(target.device, seed, [*CELLS[cell], "--time_based", f"--runtime={PLAN['seconds']}"])
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
    }
    if cell == "fdatasync_qd1":
        percentile = job["sync"]["lat_ns"]["percentile"]
        result["p50_us"], result["p99_us"] = (percentile[p] / 1000 for p in ("50.000000", "99.000000"))
    after = target.counters()
    gained = {name: after[name] - before[name] for name in after}
    if gained.get("written_blocks"):
        result["duplicates"] = gained["duplicate_blocks"] / gained["written_blocks"]
        result["metadata_per_byte"] = (4096 * gained["pages_written"] + gained["journal_bytes"]) / \
            (4096 * gained["written_blocks"])
    return result


def say(*words):
    print(*words, flush=True)


def main():
    if set(PLAN["targets"]) & {"ddup", "ddup-sha", "passthrough"}:
        passthrough = "passthrough" in PLAN["targets"]
        run("insmod", os.environ["DDUP_KO"], f"passthrough={int(passthrough)}")
    seed = PLAN["seed"]
    targets = []
    for letter, name in zip("abcdefghijklmnop", PLAN["targets"]):
        before = meminfo()["MemAvailable"]
        begun = time.monotonic()
        target = TARGETS[name](f"/dev/vd{letter}")
        seconds = time.monotonic() - begun
        memory = (before - meminfo()["MemAvailable"]) / 1024
        say("@@ end", name, "set_up", json.dumps({"value": seconds, "unit": "s"}))
        say("@@ end", name, "memory_idle", json.dumps({"value": memory, "unit": "MiB"}))
        seed += 1
        fio(target.device, seed, ["--rw=write", *SEQUENTIAL])
        sync(target.device)
        targets.append((name, target))
    for cell in PLAN["cells"]:
        for name, target in targets:
            seed += 1
            say("@@ begin", name, cell)
            result = measure(target, cell, seed)
            say("@@ end", name, cell, json.dumps(result))
    for name, target in targets:
        # What was measured has to hold: write once more, read back, and examine the store.
        seed += 1
        fio(target.device, seed, ["--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=16M", "--verify=crc32c",
            "--verify_fatal=1"])
        target.end()
        say("@@ verified", name)


main()
