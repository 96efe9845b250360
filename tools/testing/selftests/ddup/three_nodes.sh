#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A replica set on three machines. The primary's is killed in the middle of work, another one goes on with
# every file that was fsynced and takes the third one along; a replica's is killed and the set goes on
# without it; all come back, are made equal, and show the same to the last block.
#
# host: timeout=3000 cost=proof

# What is in single quotes is for a guest's shell.
# shellcheck disable=SC2016
set -u
NODES=abc
# shellcheck source=tools/testing/selftests/ddup/pair_set.sh
. "$(dirname "$0")/pair_set.sh"
# shellcheck source=tools/testing/selftests/ddup/pair_work.sh
. "$(dirname "$0")/pair_work.sh"

ON_TIMEOUT=${ON_TIMEOUT:-400}
NODE_TIMEOUT=${NODE_TIMEOUT:-2900}
export ON_TIMEOUT NODE_TIMEOUT

verified_writes() { # node
	on "$1" '
		mount /dev/ddup0 /mnt && fio --name=verified --directory=/mnt --size=16m --rw=randwrite --bs=4k --fsync=32 \
			--verify=crc32c --verify_fatal=1 --dedupe_percentage=30 --ioengine=libaio --iodepth=8 >/tmp/fio.log 2>&1 ||
			{ cat /tmp/fio.log; exit 1; }
	'
}

takes_in() { # primary node...
	local primary=$1 node
	shift
	for node in "$@"; do
		made_equal "$node" "$primary" || return
	done
}

# Who leads waits for a member in sync that is gone, until a person lets it go.
goes_on_without() { # primary lost
	guest "$1" '
		wait_for 60 is_cut
		(dd if=/dev/urandom of=/mnt/waits bs=64k count=4 status=none && sync /mnt/waits; echo $? >/tmp/waited) &
		waits() { [ "$(told .waiting_flushes)" -gt 0 ]; }
		wait_for 60 waits
		[ ! -e /tmp/waited ] || fail "a flush ended that a member in sync has not"
		let_go
		wait_for 120 test -s /tmp/waited
		[ "$(cat /tmp/waited)" = 0 ]
	' "$2"
}

# Each leads for a moment, which it can only with all that the others have.
all_show_the_same() { # primary others...
	local from=$1 to
	on "$from" 'kill $(cat /tmp/fio.pid); sleep 2; umount /mnt' || return
	for to in "${@:2}"; do
		level "$from" "$to" && hand_over "$from" "$to" || return
		from=$to
	done
}

pair_begin
truncate -s 1G "$pair"/disk-{a,b,c}
plan 19
for node in a b c; do
	check "node $node starts" boot "$node" --disk "$pair/disk-$node"
done
check "a set of three is made, and all join" make_set --size 192M
check "a file system is made on it" on a 'mkfs.ext4 -q /dev/ddup0'
check "what fio writes on a is read back right" verified_writes a
check "files are fsynced on a beside fio" work a 1
power_cut a
check "a is killed, and b is promoted by force alone" promote_instead_of a b
check "b takes c in" takes_in b c
check "b has every file that was fsynced" everything_is_there b
check "files are fsynced on b beside fio" work b 2
power_cut c
check "c is killed: FLUSHes wait, until b goes on alone" goes_on_without b c
for node in a c; do
	check "$node starts again, and its daemon attaches and connects" start_again "$node"
done
check "b takes a and c in while it works" takes_in b a c
check "all three show the same" all_show_the_same b c a b
for node in a b c; do
	check "node $node ends without trouble" node_stop "$node"
done
[ "$failures" = 0 ]
