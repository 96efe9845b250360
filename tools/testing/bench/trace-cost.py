#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Instructions from before to behind one system call of 4 KiB, where the clock counts them: what
most calls take, and how many do."""

import collections
import mmap
import os
import sys
import time

COUNT = 4000
BLOCK = 4096


def measure(title, fd, call, prepare=None):
    buffer = mmap.mmap(-1, BLOCK)
    buffer[:] = b"\x5a" * BLOCK
    taken = []
    clock = time.perf_counter_ns
    for number in range(COUNT):
        if prepare:
            prepare(buffer, number)
        offset = number * BLOCK
        begun = clock()
        call(fd, [buffer], offset)
        taken.append(clock() - begun)
    taken = taken[COUNT // 4:]
    (usual, times), = collections.Counter(taken).most_common(1)
    print(f"{title:24} {usual:7} instructions, as {100 * times // len(taken)} % of them; "
          f"least {min(taken)}, median {sorted(taken)[len(taken) // 2]}", flush=True)


def other_content(buffer, number):
    buffer[:8] = (number + 1).to_bytes(8, "little")


def main():
    fd = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
    measure("write, new", fd, os.pwritev, other_content)
    measure("write, duplicate", fd, os.pwritev)
    measure("read", fd, os.preadv)


main()
