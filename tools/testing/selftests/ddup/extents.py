#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Where the data of files lies, for file_systems.sh.

  extents.py of FOLDER            each file of a folder with the device's blocks that hold its data
  extents.py compare MAP A B      two such lists of equal folders, against `ddup dump --map`: the
                                  blocks of B that lie in a cluster of their own

Blocks have 4096 bytes. A list has a line for each file: its path, then first-count for each extent.
"""

import fcntl
import os
import re
import struct
import sys

BLOCK = 4096
FIEMAP = 0xC020660B
EXTENTS_MAX = 256
HEAD, EXTENT = "=QQIIII", "=QQQQQIIII"
LAST = 1


def extents(path):
    """The device's blocks that hold a file's data: (first, count), without what lies beyond its end."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        at, found = 0, []
        while at < size:
            request = bytearray(struct.pack(HEAD, at, size - at, 0, 0, EXTENTS_MAX, 0))
            request += bytes(EXTENTS_MAX * struct.calcsize(EXTENT))
            fcntl.ioctl(file, FIEMAP, request)
            mapped = struct.unpack_from(HEAD, request)[3]
            for index in range(mapped):
                offset = struct.calcsize(HEAD) + index * struct.calcsize(EXTENT)
                logical, physical, length, _, _, flags, *_ = struct.unpack_from(EXTENT, request, offset)
                at = logical + length
                found.append((physical // BLOCK, -(-(min(at, size) - logical) // BLOCK)))
                if flags & LAST:
                    return found
            if not mapped:
                return found
    return found


def list_of(folder):
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = f"{parent}/{name}"
            if os.path.isfile(path) and not os.path.islink(path):
                print(os.path.relpath(path, folder), *(f"{first}-{count}" for first, count in extents(path)))


def blocks_of(path):
    """Path of each file and its blocks, in order."""
    with open(path) as file:
        for line in file:
            name, *runs = line.split()
            yield name, [first + index for first, count in (map(int, run.split("-")) for run in runs)
                         for index in range(count)]


def compare(dump, first, second):
    clusters = {}
    with open(dump) as file:
        for line in file:
            match = re.match(r"volume \d+ block (\d+) and (\d+) more from cluster (\d+) on", line)
            if match:
                block, more, cluster = map(int, match.groups())
                clusters.update((block + index, cluster + index) for index in range(more + 1))
    ours, files, blocks, zeroes = set(), {}, 0, 0
    for name, where in blocks_of(first):
        files[name] = where
        ours.update(clusters[block] for block in where if block in clusters)
    own = []
    for name, where in blocks_of(second):
        if len(where) != len(files.pop(name)):
            sys.exit(f"{name} has another number of blocks in the second copy")
        blocks += len(where)
        zeroes += sum(block not in clusters for block in where)
        own += [(name, index) for index, block in enumerate(where)
                if block in clusters and clusters[block] not in ours]
    if files:
        sys.exit(f"{len(files)} files are not in the second copy")
    for name, index in own[:20]:
        print(f"block {index} of {name} has a cluster of its own", file=sys.stderr)
    print(blocks, zeroes, len(own))


if __name__ == "__main__":
    {"of": list_of, "compare": compare}[sys.argv[1]](*sys.argv[2:])
