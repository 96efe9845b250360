#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Writes random blocks of 4 KiB to a device, of which a share repeats others of the same run.

  content.py DEVICE MIB PERCENT

The first block of all that repeat is always one of this run: nothing is as it was before. The writes are
of 128 KiB and durable in the end.
"""

import mmap
import os
import random
import sys

BLOCK, BLOCKS = 4096, 32


def main():
    device, mib, percent = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    kept, owed = [], 0
    buffer = mmap.mmap(-1, BLOCK * BLOCKS)
    fd = os.open(device, os.O_WRONLY | os.O_DIRECT)
    for _ in range((mib << 20) // len(buffer)):
        for at in range(BLOCKS):
            owed += percent
            if owed >= 100 and kept:
                owed -= 100
                block = random.choice(kept)
            else:
                block = os.urandom(BLOCK)
                # All of a run would take the guest's memory.
                if len(kept) < 1024:
                    kept.append(block)
            buffer[at * BLOCK:(at + 1) * BLOCK] = block
        if os.write(fd, buffer) != len(buffer):
            sys.exit(f"{device}: a write was cut short")
    os.fsync(fd)


if __name__ == "__main__":
    main()
