#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A replica set of two whose network is late, lossy, out of order, cut, or mute in one direction: writes
# that are flushed go on, or wait and go on when the other one is back, or fail when they are told to;
# then both are at the same epoch and show the same. The one that leads changes each time.
#
# host: timeout=1200 cost=proof

# What is in single quotes is for a guest's shell.
# shellcheck disable=SC2016
set -u
# shellcheck source=tools/testing/selftests/ddup/pair_set.sh
. "$(dirname "$0")/pair_set.sh"

ROUNDS=${ROUNDS:-1}
NODE_TIMEOUT=${NODE_TIMEOUT:-$((850 * ROUNDS))}
export NODE_TIMEOUT
SEED=${SEED:-$RANDOM}

leads=a
follows=b

# --- the network -----------------------------------------------------------------------------

# Of both directions, for what a node sends.
both_ways() { # netem-options...
	on a "tc qdisc replace dev eth0 root netem $*" && on b "tc qdisc replace dev eth0 root netem $*"
}

one_way() { # node
	on "$1" 'tc qdisc replace dev eth0 root netem loss 100%'
}

unplug() {
	on "$leads" 'ip link set eth0 down'
}

mend() {
	on "$leads" 'ip link set eth0 up' &&
		on a 'tc qdisc del dev eth0 root 2>/dev/null; true' && on b 'tc qdisc del dev eth0 root 2>/dev/null; true'
}

# --- the work --------------------------------------------------------------------------------

# Blocks that are flushed one by one, and read back.
work() { # writes
	SEED=$((SEED + 1))
	guest "$leads" "
		start=\$(date +%s%3N)
		fio --name=work --filename=/dev/ddup0 --direct=1 --ioengine=psync --rw=randwrite --bs=4k --size=16m \
			--io_size=$(($1 * 4))k --fdatasync=1 --randseed=$SEED --verify=crc32c --verify_fatal=1 \
			--dedupe_percentage=20 >/tmp/fio.log 2>&1 || { cat /tmp/fio.log; exit 1; }
		echo \"figure: $1 writes that were flushed and read took \$((\$(date +%s%3N) - start)) ms\"
	"
}

# One that cannot end yet.
begin_write() {
	guest "$leads" '
		rm -f /tmp/ended
		(
			ended=failed
			dd if=/dev/urandom of=/dev/ddup0 bs=4k count=16 oflag=direct conv=notrunc status=none
			! sync --data /dev/ddup0 || ended=ok
			echo "$ended" >/tmp/ended
		) >/tmp/sync.log 2>&1 &
		waits() { [ "$(told .waiting_flushes)" -gt 0 ]; }
		wait_for 60 waits
	'
}

still_waits() {
	guest "$leads" '[ ! -e /tmp/ended ] || fail "a flush ended that nobody else has: $(cat /tmp/ended)"'
}

fail_flushes() {
	guest "$leads" 'ddup set fail-flushes /dev/ddup0'
}

ends() { # ok or failed
	guest "$leads" "wait_for 120 test -s /tmp/ended; cat /tmp/sync.log; [ \"\$(cat /tmp/ended)\" = $1 ]"
}

# --- what is claimed -------------------------------------------------------------------------

goes_on() { # writes netem-options...
	local writes=$1 status=0
	shift
	both_ways "$*" || return
	work "$writes" || status=$?
	on "$leads" 'tc -s qdisc show dev eth0'
	mend && return "$status"
}

waits_and_goes_on() { # seconds command...
	local seconds=$1 status=0
	shift
	{ "$@" && begin_write && sleep "$seconds" && still_waits; } || status=$?
	mend && [ "$status" = 0 ] && ends ok
}

fails_when_told() {
	local status=0
	{ both_ways loss 100% && begin_write && still_waits && fail_flushes && ends failed; } || status=$?
	mend && [ "$status" = 0 ] && guest "$leads" 'wait_for 120 is_linked' && work 8
}

# The driver has a connection whose other end takes and says nothing, and the daemon a peer to call.
gives_up_a_peer_that_reads_nothing() {
	guest "$leads" '
		./hostile_peer.py silent 0 "$OTHER" >/tmp/hostile 2>&1 &
		wait_for 30 grep -q ready /tmp/hostile
		dd if=/dev/urandom of=/dev/ddup0 bs=1M count=8 oflag=direct conv=fdatasync,notrunc status=none
		wait_for 60 grep -q closed /tmp/hostile
	'
}

both_are_equal() {
	level "$leads" "$follows" && hand_over "$leads" "$follows" &&
		guest "$follows" '
			[ "$(told .refused_sessions)" = 0 ] || fail "what came was refused"
			wait_for 60 is_linked
		' || return
	leads=$follows follows=$(other_of "$leads")
}

claim() { # name command...
	check "round $round: $1" "${@:2}"
	check "round $round: both are equal then, and hand over" both_are_equal
}

pair_begin
truncate -s 512M "$pair/disk-a" "$pair/disk-b"
plan $((3 + 2 * 9 * ROUNDS + 2))
check "node a starts" boot a --disk "$pair/disk-a"
check "node b starts" boot b --disk "$pair/disk-b"
check "a set is made of a store on each" make_set --size 64M
for round in $(seq "$ROUNDS"); do
	claim "writes go on with a delay of 50 ms each way" goes_on 32 delay 50ms
	claim "and with 5 % of all packets lost" goes_on 64 loss 5%
	claim "and out of order" goes_on 64 delay 10ms reorder 25% 50%
	claim "a flush waits for 3 s without a network, and goes on" waits_and_goes_on 3 both_ways loss 100%
	claim "and with the card down until the connection is given up" waits_and_goes_on 10 unplug
	claim "a flush fails when it is told to, and the next ones do not" fails_when_told
	claim "the other one hears all and is not heard" waits_and_goes_on 8 one_way "$follows"
	claim "and is heard and hears nothing" waits_and_goes_on 8 one_way "$leads"
	claim "a peer that reads nothing is given up, and the real one is back" gives_up_a_peer_that_reads_nothing
done
check "node a ends without trouble" node_stop a
check "node b ends without trouble" node_stop b
[ "$failures" = 0 ]
