#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What replication moves over the network, as the primary's card counts it in both directions: writes
# that are flushed one by one, and a peer that is made equal after it was away. In bytes for each byte
# that was written.
#
# WIRE_MIB is what is written while the peer is away.
#
# host: timeout=900 cost=proof

# What is in single quotes is for a guest's shell.
# shellcheck disable=SC2016
set -u
# shellcheck source=tools/testing/selftests/ddup/pair_set.sh
. "$(dirname "$0")/pair_set.sh"

WIRE_MIB=${WIRE_MIB:-64}
NODE_TIMEOUT=${NODE_TIMEOUT:-$((400 + 16 * WIRE_MIB))}
ON_TIMEOUT=${ON_TIMEOUT:-$((180 + 4 * WIRE_MIB))}
export NODE_TIMEOUT ON_TIMEOUT
# In millionths of a byte for each byte that was written, or is mapped.
LIMIT_FLUSHED=1300000
LIMIT_AWAY=([0]=1060000 [50]=540000 [90]=115000)
LIMIT_UNCHANGED=1000

counted='
	begin() { quiet_wire; tx=$(wire tx) rx=$(wire rx); }
	end() { quiet_wire; tx=$(($(wire tx) - tx)) rx=$(($(wire rx) - rx)); }
'

# Millionths as a decimal.
decimal() { # number
	printf '%d.%06d' $(($1 / 1000000)) $(($1 % 1000000))
}

# Shows what was counted, and holds it against a limit.
holds() { # what bytes limit, and "tx rx" from stdin
	local what=$1 bytes=$2 limit=$3 sent received all
	read -r sent received || return
	sent=$((sent * 1000000 / bytes)) received=$((received * 1000000 / bytes))
	all=$((sent + received))
	figure "$what: $(decimal "$all") of $((bytes >> 20)) MiB; $(decimal "$sent") sent, $(decimal "$received") received"
	[ "$all" -le "$limit" ] || { echo "more than $(decimal "$limit")"; return 1; }
}

# The last line that a guest says.
last_of() { # node command
	local said
	said=$(guest "$1" "$counted $2") || { echo "$said" >&2; return 1; }
	tail -n 1 <<<"$said"
}

flushed_one_by_one() {
	local mib=4
	last_of a "
		begin
		fio --name=wire --filename=/dev/ddup0 --direct=1 --ioengine=psync --rw=randwrite --bs=4k \
			--size=${WIRE_MIB}m --io_size=${mib}m --fdatasync=1 --refill_buffers --randseed=\$RANDOM >/tmp/fio.log 2>&1 || {
			cat /tmp/fio.log
			exit 1
		}
		end
		echo \"\$tx \$rx\"
	" >"$pair/counted" && holds "4 KiB, flushed" $((mib << 20)) "$LIMIT_FLUSHED" <"$pair/counted"
}

after_it_was_away() { # percent of duplicates
	last_of a "
		part
		./content.py /dev/ddup0 $WIRE_MIB $1
		begin
		start=\$(date +%s%3N)
		start_daemon
		wait_for $((120 + 2 * WIRE_MIB)) is_level
		echo \"figure: equal after \$((\$(date +%s%3N) - start)) ms\"
		end
		echo \"\$tx \$rx\"
	" >"$pair/counted" && holds "away, $1 % duplicates" $((WIRE_MIB << 20)) "${LIMIT_AWAY[$1]}" <"$pair/counted"
}

# What is the same is written once more while a is away. Behind an attach of the primary changes of before are
# not in memory, but of what age blocks are is known: a is told of those that were written, and has them.
when_nothing_differs() {
	last_of b '
		let_go
		part
		dd if=/dev/ddup0 of=/tmp/same bs=1M count=1 iflag=direct status=none
		dd if=/tmp/same of=/dev/ddup0 bs=1M oflag=direct conv=fsync,notrunc status=none
		ddup detach /dev/ddup0
		ddup attach /dev/vda
		ddup promote --wait 120 /dev/ddup0
		begin
		start_daemon
		wait_for 300 is_level
		end
		echo "$tx $rx"
	' >"$pair/counted" && holds "nothing differs" $((WIRE_MIB << 20)) "$LIMIT_UNCHANGED" <"$pair/counted"
}

all_is_there() {
	guest a 'ddup peer join --timeout 300 /dev/ddup0 "$OTHER"' && level a b && hand_over a b
}

pair_begin
truncate -s $((WIRE_MIB * 8))M "$pair/disk-a" "$pair/disk-b"
plan 12
check "node a starts" boot a --disk "$pair/disk-a"
check "node b starts" boot b --disk "$pair/disk-b"
check "a set is made of a store on each" make_set --size "${WIRE_MIB}M"
check "writes of 4 KiB, each flushed" flushed_one_by_one
check "from here on nothing waits for b" guest a let_go
for percent in 0 50 90; do
	check "$WIRE_MIB MiB were written while b was away, $percent % duplicates" after_it_was_away "$percent"
done
check "b has all of it, and leads" all_is_there
check "a resync of $WIRE_MIB MiB in which nothing differs" when_nothing_differs
check "node a ends without trouble" node_stop a
check "node b ends without trouble" node_stop b
[ "$failures" = 0 ]
