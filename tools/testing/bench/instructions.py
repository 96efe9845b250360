#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Requests one after the other, durable at the end: instructions.py DEVICE read|write|fdatasync SIZEk COUNT SEED.

The content that is written is new in each call with a SEED of its own, below 1009.
"""

import mmap
import os
import sys

BLOCK = 4096
SPAN = 400 << 20


def main():
    path, what, size, count = sys.argv[1], sys.argv[2], int(sys.argv[3].rstrip("k")) << 10, int(sys.argv[4])
    seed = int(sys.argv[5])
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    buffer = mmap.mmap(-1, size)
    buffer[:] = b"\x5a" * size
    for number in range(count):
        offset = number * size % SPAN
        if what == "read":
            os.preadv(fd, [buffer], offset)
            continue
        for at in range(0, size, BLOCK):
            buffer[at:at + 8] = (((number << 20) + at) * 1009 + seed).to_bytes(8, "little")
        os.pwritev(fd, [buffer], offset)
        if what == "fdatasync":
            os.fdatasync(fd)
    os.fdatasync(fd)


main()
