#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A verify finds what a member of a replica set holds that it should not, tells which blocks, and
# repairs them, while both are in use.
#
#	store[0] -> ddup[0], the primary            a session is two sockets of one connection
#	store[1] -> ddup[1], a member               through lo, an end for each store
#
# The member comes to differ as members do: some blocks have no good copy at the primary when it is
# compared in full, so it is told that they are lost. Then the primary's disk has them again.
#
# vm: disk=64M mem=2048 timeout=900

# shellcheck source=tools/testing/selftests/ddup/members.sh
. "${BASH_SOURCE[0]%/*}/members.sh"

BLOCKS=4096 # of the volume that are written
LOST=10     # of them that have no good copy for a while
CONTENT=/tmp/ddup-test.content
REPORT=/tmp/ddup-test.report

# --- making ----------------------------------------------------------------------------------

# A primary with known content, each block with its number.
make_primary() {
	ip link set lo up
	store=() dev=() uuid=()
	make_member 0 --set --size 64M
	attach_member 0
	defer rm -f "$CONTENT" "$REPORT"
	python3 - "$BLOCKS" >"$CONTENT" <<-'END'
		import os, sys
		for n in range(int(sys.argv[1])):
		    sys.stdout.buffer.write(b"ddup verify %08d" % n + os.urandom(4096 - 20))
	END
	dd if="$CONTENT" of="${dev[0]}" bs=64k oflag=direct conv=notrunc,fsync status=none
}

# A second store that follows it, and that FLUSHes wait for.
add_member() {
	make_member 1 --replica-of "$(ddup set invite "${dev[0]}")"
	attach_member 1
	ddup peer add "${dev[0]}" "${uuid[1]}"
	connect 0 1
	ddup peer join --timeout 120 "${dev[0]}" "${uuid[1]}"
}

# Clusters of the primary's store that hold some of the content, evenly spread, as "cluster block".
some_places() { # how-many
	dd if="${store[0]}" bs=1M iflag=direct status=none | python3 -c '
import re, sys
want, found, cluster = int(sys.argv[1]), [], 0
while page := sys.stdin.buffer.read(4096):
    match = re.match(rb"ddup verify (\d{8})", page)
    if match:
        found.append((int(match[1]), cluster))
    cluster += 1
found.sort()
for at in range(want):
    block, cluster = found[at * len(found) // want]
    print(cluster, block)
' "$1"
}

# A member that differs in $LOST blocks, whose numbers are in $lost.
make_member_that_differs() {
	local cluster block
	make_primary
	some_places "$LOST" >/tmp/ddup-test.places
	defer rm -f /tmp/ddup-test.places
	[ "$(wc -l </tmp/ddup-test.places)" = "$LOST" ]
	while read -r cluster block; do
		dd if=/dev/urandom of="${store[0]}" bs=4096 seek="$cluster" count=1 conv=notrunc \
			oflag=direct status=none
	done </tmp/ddup-test.places
	add_member
	lost=()
	while read -r cluster block; do
		lost+=("$block")
		dd if="$CONTENT" of="${store[0]}" bs=4096 skip="$block" seek="$cluster" count=1 \
			conv=notrunc oflag=direct status=none
	done </tmp/ddup-test.places
}

# --- asking ----------------------------------------------------------------------------------

verify() { # options...
	ddup peer verify "$@" "${dev[0]}" "${uuid[1]}"
}

is_going_on() {
	ddup set show --json "${dev[0]}" | jq -e '.sets[0].members[].verify | select(.) | .state == "comparing"'
}

# The blocks that a report tells are those that were lost.
tells_what_was_lost() {
	[ "$(jq '.found[].block' "$REPORT" | sort -n)" = "$(printf '%s\n' "${lost[@]}" | sort -n)" ]
}

write_on() {
	fio --name=on --filename="${dev[0]}" --offset=32M --size=16M --rw=randwrite --bs=4k --direct=1 \
		--fsync=16 --time_based --runtime=600 --output-format=json --output=/tmp/ddup-test.fio &
	writer=$!
	defer rm -f /tmp/ddup-test.fio
	# It takes its time to begin.
	wait_for 60 is_written "$(writes)"
}

writes() {
	awk '{ print $5 }' "/sys/block/${dev[0]##*/}/stat"
}

is_written() { # writes before
	[ "$(writes)" -gt $(($1 + 16)) ]
}

stop_writing() {
	kill -TERM "$writer"
	wait "$writer" || true
}

# --- claims ----------------------------------------------------------------------------------

a_member_that_is_equal_is_found_to_be_while_both_are_written() {
	make_primary
	add_member
	write_on
	local round
	for round in 1 2; do
		ddup peer verify --json "${dev[0]}" "${uuid[1]}" >"$REPORT"
		cat "$REPORT"
		jq -e '.state == "complete" and .differing_blocks == 0 and .differing_ranges == 0' "$REPORT"
		jq -e ".compared_blocks == .blocks and .blocks >= $BLOCKS" "$REPORT"
	done
	stop_writing
	local longest
	# Behind what it says of the signal.
	longest=$(sed -n '/^{/,$p' /tmp/ddup-test.fio | jq '.jobs[0].sync.lat_ns.max / 1000000 | floor')
	figure "the longest FLUSH beside $round verifies took $longest ms"
	# A busy host may hold it up, too.
	[ "$longest" -lt 10000 ]
	# It is nothing that the set's history tells of, and nothing is kept.
	local before
	sync "${dev[0]}"
	before=$(ddup set show --json "${dev[0]}" | jq -c '.sets[0].position')
	verify
	[ "$(ddup set show --json "${dev[0]}" | jq -c '.sets[0].position')" = "$before" ]
	ddup detach "${dev[0]}"
	ddup detach "${dev[1]}"
	ddup check "${store[0]}"
	ddup check "${store[1]}"
}

what_differs_is_told_block_by_block_and_repaired() {
	make_member_that_differs
	# The member's own scrub knows it, too.
	refused 7 "$LOST blocks bad" ddup scrub "${dev[1]}"
	refused 8 "$LOST blocks differ, 0 repaired" verify
	verify --json >"$REPORT" && fail "nothing differs"
	cat "$REPORT"
	tells_what_was_lost
	# To look at it has changed nothing.
	refused 8 "$LOST blocks differ, 0 repaired" verify
	write_on
	refused 8 "$LOST blocks differ, $LOST repaired" \
		ddup peer verify --repair "${dev[0]}" "${uuid[1]}"
	stop_writing
	verify
	ddup scrub "${dev[1]}" | grep ' 0 blocks bad, 0 healed'
	# The content is the right one: this one has it now without the other.
	ddup detach "${dev[0]}" --force
	ddup promote --force --wait 60 "${dev[1]}"
	cmp -n $((BLOCKS * 4096)) "${dev[1]}" "$CONTENT"
}

it_goes_on_by_itself_until_it_is_stopped() {
	make_primary
	add_member
	# Each answer takes more than half a second, so it goes on for a while.
	tc qdisc add dev lo root netem delay 300ms
	defer tc qdisc del dev lo root
	ddup peer verify --no-wait "${dev[0]}" "${uuid[1]}"
	wait_for 60 is_going_on
	refused 5 'goes on already' verify
	ddup peer verify --stop "${dev[0]}" "${uuid[1]}"
	ddup set show "${dev[0]}" | grep 'verify stopped'
	verify
}

what_cannot_be_is_refused() {
	make_primary
	add_member
	refused 1 'not primary' ddup peer verify "${dev[1]}" "${uuid[0]}"
	refused 3 'no verify' verify --stop
	ddup peer drop "${dev[0]}" "${uuid[1]}"
	refused 1 'not connected|no member that is connected' verify
}

load
run_tests a_member_that_is_equal_is_found_to_be_while_both_are_written \
	what_differs_is_told_block_by_block_and_repaired \
	it_goes_on_by_itself_until_it_is_stopped \
	what_cannot_be_is_refused
