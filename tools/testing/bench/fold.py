#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs in the guest: makes one line of each stack that `perf script -F comm,ip,sym` prints.

  perf script -F comm,ip,sym | fold.py        lines "command;outermost;...;innermost count"
  fold.py --split FILE                        FILE is a trace of ddup's events: where a write's time goes
"""

import collections
import re
import sys


# A processor that has nothing to do; left out, since it would be most of the picture.
IDLE = re.compile(r";(default_idle|acpi_idle_do_entry|cpu_idle_poll|pv_native_safe_halt|intel_idle)$")


def fold(lines):
    counts = collections.Counter()
    command, frames = None, []
    for line in lines:
        line = line.rstrip()
        if not line:
            if command:
                counts[";".join([command, *reversed(frames)])] += 1
            command, frames = None, []
        elif not line[0].isspace():
            # Threads of one kind count together.
            command = re.sub(r"[:/_-]?\d[\w:./-]*$", "", line.strip()) or line.strip()
        else:
            address, _, symbol = line.strip().partition(" ")
            symbol = re.sub(r"\+0x[0-9a-f]+$", "", symbol.strip())
            kernel = int(address, 16) >= 1 << 63
            frames.append((symbol if kernel else f"{symbol} [user]").replace(";", ":"))
    return counts


RANGE = re.compile(r"[a-z-]+ \d+ \+ \d+ ")
EVENT = re.compile(r"\s(\d+\.\d+): ddup_(\w+): (\d+,\d+) (?:tag (\d+) )?(.*)$")
# A request goes through these, in this order; not each through all of them.
STAGES = ("request_queued", "request_fingerprinted", "request_submitted", "request_decided", "data_submitted",
    "data_done", "request_waits", "request_completed")
MEANING = {
    "request_fingerprinted": "wait for a worker, copy and fingerprint",
    "request_submitted": "wait for the engine",
    "request_decided": "the engine's decision, index look-up and compare included",
    "data_submitted": "hand-over of the data",
    "data_done": "the data on the disk",
    "request_waits": "the engine's part behind the data",
    "request_completed": "the journal where it is waited for, and completion",
}


def split(lines):
    """Averages over writes of the time between one stage and the next."""
    open_requests, ranges, spent, counts = {}, {}, collections.Counter(), collections.Counter()
    writes, whole = 0, 0.0
    for line in lines:
        match = EVENT.search(line)
        if not match or match[2] not in STAGES or match[4] is None:
            continue
        moment, stage, key = float(match[1]), match[2], (match[3], match[4])
        if stage == "request_queued":
            if match[5].startswith("write "):
                open_requests[key] = [(stage, moment)]
                ranges[key] = RANGE.match(match[5])[0]
        elif key in open_requests:
            # The data of one that was acknowledged early, whose tag has another one by now.
            if stage == "data_done" and not match[5].startswith(ranges[key]):
                continue
            open_requests[key].append((stage, moment))
            if stage == "request_completed":
                path = open_requests.pop(key)
                writes += 1
                whole += path[-1][1] - path[0][1]
                for (_, before), (stage, moment) in zip(path, path[1:]):
                    spent[stage] += moment - before
                for stage in {stage for stage, _ in path}:
                    counts[stage] += 1
    if not writes:
        sys.exit("fold: no write in the trace")
    print(f"{writes} writes, {1e6 * whole / writes:.0f} us each from the driver's queue to completion:")
    for stage in STAGES[1:]:
        if spent[stage]:
            print(f"  {1e6 * spent[stage] / writes:8.1f} us  {100 * spent[stage] / whole:5.1f} %  to {stage:22} "
                f"{MEANING[stage]} ({100 * counts[stage] / writes:.0f} % of writes)")


if sys.argv[1:2] == ["--split"]:
    with open(sys.argv[2]) as file:
        split(file)
else:
    folded = fold(sys.stdin)
    idle = sum(count for stack, count in folded.items() if IDLE.search(stack))
    print(f"idle: {idle} of {sum(folded.values())} samples", file=sys.stderr)
    for stack, count in sorted(folded.items()):
        if not IDLE.search(stack):
            print(stack, count)
