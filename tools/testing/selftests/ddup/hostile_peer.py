#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A peer of a replica set that is up to no good, for replication_local.sh.

Hands one end of a TCP connection to the driver by a raw netlink request, and

  babble INDEX PEER        sends random bytes until the driver closes
  header INDEX PEER        the same behind a sound header of a frame
  silent INDEX PEER        says nothing, until the driver closes
  between INDEX PEER OTHER OTHER_PEER
                           joins two stores and lets what they say through, until it gets SIGUSR1:
                           from then on it reads nothing of what the first one sends; or SIGUSR2: of
                           what both do

Prints "ready" when the driver has the socket, and "closed" when it closed it.
"""

import os
import select
import signal
import socket
import struct
import sys
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


def between(one, other):
    deaf = set()

    def stop_reading(number, _frame):
        deaf.add(one)
        if number == signal.SIGUSR2:
            deaf.add(other)

    signal.signal(signal.SIGUSR1, stop_reading)
    signal.signal(signal.SIGUSR2, stop_reading)
    print("ready", flush=True)
    to = {one: other, other: one}
    while True:
        ready = select.select([end for end in to if end not in deaf], [], [], 0.1)[0]
        for end in ready:
            if end in deaf:
                continue
            try:
                data = end.recv(65536)
                if not data:
                    raise OSError
                to[end].sendall(data)
            except OSError:
                print("closed", flush=True)
                return


def main():
    netlink = Netlink()
    mode, index, peer = sys.argv[1:4]
    nonce = int.from_bytes(os.urandom(7), "little") | 1
    theirs, ours = pair()
    netlink.peer(index, peer, theirs, nonce)
    theirs.close()
    if mode == "between":
        their_other, other = pair()
        netlink.peer(sys.argv[4], sys.argv[5], their_other, nonce)
        their_other.close()
        return between(ours, other)
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
