#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A peer of a replica set that is up to no good, for replication_local.sh.

Hands one end of a TCP connection to the driver by a raw netlink request, and

  babble INDEX PEER        sends random bytes until the driver closes
  header INDEX PEER        the same behind a sound header of a frame
  packed INDEX PEER        sends a sound header of a frame with packed blocks, and a block that was
                           not packed so; for each way not to
  silent INDEX PEER        says nothing, until the driver closes
  between INDEX PEER OTHER OTHER_PEER
                           joins two stores and lets what they say through, until it gets SIGUSR1:
                           from then on it reads nothing of what the first one sends; or SIGUSR2: of
                           what both do
  older INDEX PEER OTHER OTHER_PEER
                           the same, but neither hears that the other one takes packed blocks; ends
                           when one sends some all the same
  slow INDEX PEER OTHER OTHER_PEER
                           the same as between, but 32 KiB a second at most come through

Prints "ready" when the driver has the socket, and "closed" when it closed it.
"""

import os
import select
import signal
import socket
import struct
import sys
import time
import uuid

NETLINK_GENERIC = 16
GENL_ID_CTRL = 0x10
CTRL_CMD_GETFAMILY = 3
CTRL_ATTR_FAMILY_ID = 1
CTRL_ATTR_FAMILY_NAME = 2
NLM_F_REQUEST, NLM_F_ACK = 1, 4
NLMSG_ERROR = 2
# From uapi/linux/ddup.h.
CMD_PEER = 21
A_INDEX, A_PEER_STORE, A_FD, A_NONCE = 1, 14, 15, 16

# Of the protocol.
HEADER = struct.Struct("<QIIIBBH")
HEADER_BYTES, MAGIC, SEED = 56, 0x77706464, 0x6464757077697265
HELLO, ENTRIES = 1, 2
FLAG_PACKED, OFFER_PACKED = 1, 4


def attribute(kind, payload):
    length = 4 + len(payload)
    return struct.pack("HH", length, kind) + payload + bytes(-length % 4)


def attributes(data):
    while len(data) >= 4:
        length, kind = struct.unpack_from("HH", data)
        yield kind & 0x3fff, data[4:length]
        data = data[(length + 3) & ~3:]


class Netlink:
    def __init__(self):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        self.socket.bind((0, 0))
        name = attribute(CTRL_ATTR_FAMILY_NAME, b"ddup\0")
        reply = self.ask(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, name)
        self.family = struct.unpack("H", dict(attributes(reply))[CTRL_ATTR_FAMILY_ID])[0]

    def ask(self, family, command, payload):
        body = struct.pack("BBH", command, 1, 0) + payload
        header = struct.pack("IHHII", 16 + len(body), family, NLM_F_REQUEST | NLM_F_ACK, 1, 0)
        self.socket.send(header + body)
        answer = b""
        while True:
            message = self.socket.recv(65536)
            kind = struct.unpack_from("IHH", message)[1]
            if kind == NLMSG_ERROR:
                error = struct.unpack_from("i", message, 16)[0]
                if error:
                    sys.exit(f"refused: {os.strerror(-error)}")
                return answer
            answer = message[20:]

    def peer(self, index, store, connection, nonce):
        self.ask(self.family, CMD_PEER,
                 attribute(A_INDEX, struct.pack("I", int(index)))
                 + attribute(A_PEER_STORE, uuid.UUID(store).bytes)
                 + attribute(A_FD, struct.pack("I", connection.fileno()))
                 + attribute(A_NONCE, struct.pack("Q", nonce)))


def pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        return near, server.accept()[0]


def until_closed(ours, say=None):
    """Reads nothing for as long as it has something to say."""
    try:
        while say:
            ours.sendall(say())
        while ours.recv(65536):
            pass
    except OSError:
        pass
    print("closed", flush=True)


def xxh64(data, seed):
    p1, p2, p3, p4, p5 = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9,
                          0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
    mask = (1 << 64) - 1

    def rotated(x, by):
        return (x << by | x >> 64 - by) & mask

    def mixed(lane, value):
        return rotated((lane + value * p2) & mask, 31) * p1 & mask

    length = len(data)
    if length >= 32:
        lanes = [(seed + p1 + p2) & mask, (seed + p2) & mask, seed, (seed - p1) & mask]
        while len(data) >= 32:
            lanes = [mixed(*both) for both in zip(lanes, struct.unpack_from("<4Q", data))]
            data = data[32:]
        total = sum(rotated(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18))) & mask
        for lane in lanes:
            total = ((total ^ mixed(0, lane)) * p1 + p4) & mask
    else:
        total = (seed + p5) & mask
    total = (total + length) & mask
    while len(data) >= 8:
        total ^= mixed(0, struct.unpack_from("<Q", data)[0])
        total, data = (rotated(total, 27) * p1 + p4) & mask, data[8:]
    if len(data) >= 4:
        total ^= struct.unpack_from("<I", data)[0] * p1 & mask
        total, data = (rotated(total, 23) * p2 + p3) & mask, data[4:]
    for byte in data:
        total = rotated(total ^ byte * p5 & mask, 11) * p1 & mask
    total = (total ^ total >> 33) * p2 & mask
    total = (total ^ total >> 29) * p3 & mask
    return total ^ total >> 32


class Older:
    """Frames of one direction, without the word that packed blocks are taken."""

    def __init__(self):
        self.begun, self.rest = b"", 0

    def through(self, data):
        self.begun += data
        out = b""
        while True:
            # The blocks behind a frame are let through as they come.
            out += self.begun[:self.rest]
            self.begun, self.rest = self.begun[self.rest:], max(0, self.rest - len(self.begun))
            if len(self.begun) < HEADER_BYTES:
                return out
            _, magic, length, blocks, kind, _, flags = HEADER.unpack_from(self.begun)
            if magic != MAGIC or flags & FLAG_PACKED:
                sys.exit("packed" if magic == MAGIC else "no frame")
            if len(self.begun) < length:
                return out
            meta, self.begun, self.rest = self.begun[:length], self.begun[length:], blocks
            if kind == HELLO:
                features, offers = struct.unpack_from("<II", meta, HEADER_BYTES)
                if not offers & OFFER_PACKED:
                    sys.exit("it does not take packed blocks")
                meta = (meta[8:HEADER_BYTES] + struct.pack("<II", features, offers & ~OFFER_PACKED)
                        + meta[HEADER_BYTES + 8:])
                meta = struct.pack("<Q", xxh64(meta, SEED)) + meta
            out += meta


class Any:
    """All that comes."""

    def through(self, data):
        return data


class Slow:
    BYTES_PER_SECOND = 1 << 15

    def through(self, data):
        time.sleep(len(data) / self.BYTES_PER_SECOND)
        return data


def packed_blocks():
    """A block that is packed as it should be, and ways not to, by what they are called."""
    def lz4(match, offset=1):
        # A literal, a match that takes so many bytes, and the last five literals.
        more = match - 4 - 15
        return (b"\x1f\0" + struct.pack("<H", offset) + b"\xff" * (more // 255)
                + bytes([more % 255]) + b"\x50" + bytes(5))

    def packed(data):
        return struct.pack("<H", len(data)) + data

    good = lz4(4090)
    return {
        "good": packed(good),
        "no bytes": bytes(2),
        "not shorter": struct.pack("<H", 3585),
        "longer than a block": struct.pack("<H", 4097),
        "endless": struct.pack("<H", 65535),
        "too little": packed(lz4(4089)),
        "too much": packed(lz4(4091)),
        "far too much": packed(lz4(800_000)),
        "from before": packed(lz4(4090, 2)),
        "from far before": packed(lz4(4090, 65535)),
        "cut": packed(good[:-3]),
        "with more behind": packed(good + b"\0"),
        "literals without end": packed(b"\xff" * 3584),
        "match without end": packed(b"\x1f\0\1\0" + b"\xff" * 3580),
        "zeroes": packed(bytes(64)),
        "random": packed(os.urandom(3584)),
    }


def until_refused(netlink, index, peer):
    """Each on a connection of its own, with 63 more blocks to come: good ones are waited for."""
    for name, block in packed_blocks().items():
        theirs, ours = pair()
        netlink.peer(index, peer, theirs, int.from_bytes(os.urandom(7), "little") | 1)
        theirs.close()
        header = HEADER.pack(0, MAGIC, HEADER_BYTES, 262144, ENTRIES, 1, FLAG_PACKED)
        ours.sendall(header.ljust(HEADER_BYTES, b"\0") + block)
        # Sooner than a silent peer is given up.
        until, closed = time.monotonic() + 2, False
        while not closed and (left := until - time.monotonic()) > 0:
            ours.settimeout(left)
            try:
                closed = not ours.recv(65536)
            except TimeoutError:
                pass
            except ConnectionError:
                closed = True
        print("closed" if closed else "waits", name, flush=True)
        ours.close()


def between(one, other, passes=Any):
    deaf = set()

    def stop_reading(number, _frame):
        deaf.add(one)
        if number == signal.SIGUSR2:
            deaf.add(other)

    signal.signal(signal.SIGUSR1, stop_reading)
    signal.signal(signal.SIGUSR2, stop_reading)
    print("ready", flush=True)
    to = {one: (other, passes()), other: (one, passes())}
    while True:
        ready = select.select([end for end in to if end not in deaf], [], [], 0.1)[0]
        for end in ready:
            if end in deaf:
                continue
            try:
                data = end.recv(65536)
                if not data:
                    raise OSError
                there, what = to[end]
                there.sendall(what.through(data))
            except OSError:
                print("closed", flush=True)
                return


PASSES = {"between": Any, "older": Older, "slow": Slow}


def main():
    netlink = Netlink()
    mode, index, peer = sys.argv[1:4]
    if mode == "packed":
        return until_refused(netlink, index, peer)
    nonce = int.from_bytes(os.urandom(7), "little") | 1
    theirs, ours = pair()
    if mode == "slow":
        # What waits, waits in the driver.
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    netlink.peer(index, peer, theirs, nonce)
    theirs.close()
    if mode in PASSES:
        their_other, other = pair()
        netlink.peer(sys.argv[4], sys.argv[5], their_other, nonce)
        their_other.close()
        return between(ours, other, PASSES[mode])
    print("ready", flush=True)
    if mode == "babble":
        return until_closed(ours, lambda: os.urandom(4096))
    if mode == "header":
        # Magic, lengths and version as they should be; then nothing is.
        header = struct.pack("<QIII", 1, 0x77706464, 8192, 262144) + bytes([1, 1]) + bytes(34)
        ours.sendall(header)
        return until_closed(ours, lambda: os.urandom(4096))
    return until_closed(ours)


main()
