#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Power cuts of a replica in the middle of a full compare, on a disk that loses, tears and reorders what
# was not flushed. Each time it holds one state of the primary, all of it durable, while the primary has
# gone on to another: after the cut its store is sound, and it shows the one state or the other. Then it
# gets everything, and shows that.
#
# host: timeout=900

# What is in single quotes is for a guest's shell.
# shellcheck disable=SC2016
set -u
# shellcheck source=tools/testing/selftests/ddup/powercut/host.sh
. "$(dirname "$0")/powercut/host.sh"
# shellcheck source=tools/testing/selftests/ddup/pair_set.sh
. "$(dirname "$0")/pair_set.sh"

CUTS=${CUTS:-2}
SEED=${SEED:-$RANDOM}
NODE_TIMEOUT=${NODE_TIMEOUT:-$((800 + 400 * CUTS))}
export NODE_TIMEOUT
RANDOM=$SEED
# Of a volume of 64 MiB so much changes while the replica is away: more than is kept for it in memory.
MIB=40
BLOCKS=$((MIB * 256))

lossy_disk() {
	tool_exec lossydisk "$pair/disk-b" --size 512M --socket "$pair/disk" --seed "$SEED" >"$pair/lossydisk" 2>&1 &
	lossydisk=$!
	trap 'pair_end; kill "$lossydisk" 2>/dev/null' EXIT
	for _ in $(seq 100); do
		[ ! -S "$pair/disk" ] || return 0
		sleep 0.1
	done
	cat "$pair/lossydisk"
	return 1
}

# Both hold the first state; from here on nothing waits for b.
the_set_is_made() {
	make_set --size 64M &&
		guest a "$(changes)"'; let_go' && level a b &&
		sum_of a >"$pair/old" && guest a part
}

changes() {
	echo "dd if=/dev/urandom of=/dev/ddup0 bs=1M count=$MIB seek=$((RANDOM % (64 - MIB))) iflag=fullblock \
		oflag=direct conv=fsync,notrunc status=none"
}

# The primary goes on while b is away; then b is connected and gets the first blocks of it, up to a
# moment between the first one and the last; all but the first time it may be about the switch as well.
a_compare_is_under_way() {
	local until
	until=$((1 + RANDOM * BLOCKS * (cut > 1 ? 5 : 4) / (4 * 32768)))
	[ "$until" -le "$BLOCKS" ] || until=$BLOCKS
	guest a "$(changes)" && sum_of a >"$pair/new" && guest a start_daemon || return
	figure "the power goes when $until of $BLOCKS blocks are there"
	guest b "
		old=\$(told .position)
		has_blocks() { [ \"\$(of_other received_blocks)\" -ge $until ]; }
		wait_for 120 is_linked
		wait_for 300 has_blocks
		[ \"\$old\" != \"\$(told .position)\" ] || echo under way
	" >"$pair/moment" || { cat "$pair/moment"; return 1; }
}

# First the machine's: it would connect to its disk again, which is back at once, and go on as if what it
# was told to be written still were.
the_power_goes() {
	local lost
	lost=$(wc -l <"$pair/lossydisk")
	power_cut b || return
	kill -USR1 "$lossydisk"
	until [ "$(wc -l <"$pair/lossydisk")" -gt "$lost" ]; do sleep 0.02; done
	tail -n 1 "$pair/lossydisk" | sed 's/^/figure: /'
	guest a part && cp --sparse=always "$pair/disk-b" "$pair/copy"
}

# The copy is promoted by force to be read, as somebody would who lost the primary at this moment.
what_is_left_is_one_state() {
	local sum
	tool ddup check "$pair/copy" && boot b --nbd "$pair/disk" --disk "$pair/copy" || return
	guest b '
		ddup attach --number 7 /dev/vdb
		ddup promote --force --wait 60 /dev/ddup7
		sum_of /dev/ddup7 >/tmp/sum
		ddup detach /dev/ddup7
		ddup check /dev/vdb
	' || return
	sum=$(guest b 'cat /tmp/sum') || { echo "$sum"; return 1; }
	if [ "$sum" = "$(cat "$pair/old")" ]; then
		figure "it holds the state of before"
		! grep -q 'under way' "$pair/moment" || echo "$cut" >>"$pair/in-the-middle"
	elif [ "$sum" = "$(cat "$pair/new")" ]; then
		figure "it holds the state that it was to get"
		cp "$pair/new" "$pair/old"
	else
		echo "$sum is neither $(cat "$pair/old") nor $(cat "$pair/new")"
		return 1
	fi
}

some_were_in_the_middle() {
	figure "$(grep -c . "$pair/in-the-middle") of $CUTS cuts found the compare under way"
	[ -s "$pair/in-the-middle" ]
}

# To the same state of the primary, of which its disk may have much that nothing refers to. Who leads is
# the same in the end, and nothing waits for b.
it_gets_everything() {
	guest a 'start_daemon; wait_for 120 is_linked; ddup peer join --timeout 300 /dev/ddup0 "$OTHER"' && level a b &&
		[ "$(sum_of a)" = "$(cat "$pair/new")" ] && hand_over a b && hand_over b a || return
	guest a 'wait_for 120 is_linked; let_go' && level a b &&
		cp "$pair/new" "$pair/old" && guest a part
}

# By chance the next cut comes before that.
it_attaches_and_gets_everything() {
	serve b && guest b '[ "$(state_of /dev/ddup0)" = replica ]' || return
	if [ "$cut" != "$CUTS" ] && [ $((RANDOM % 3)) = 0 ]; then
		figure "it is left as it is"
		return
	fi
	it_gets_everything
}

pair_begin
truncate -s 512M "$pair/disk-a"
plan $((4 + 4 * CUTS + 3))
check "the disk that loses writes is served (seed $SEED)" lossy_disk
check "node a starts" boot a --disk "$pair/disk-a"
check "node b starts" boot b --nbd "$pair/disk"
check "a set is made of a store on each" the_set_is_made
for cut in $(seq "$CUTS"); do
	check "cut $cut: a full compare is under way" a_compare_is_under_way
	check "cut $cut: the replica loses its power" the_power_goes
	check "cut $cut: what it has is sound, and one state of the primary" what_is_left_is_one_state
	check "cut $cut: it attaches, and gets everything" it_attaches_and_gets_everything
done
check "some cuts came in the middle" some_were_in_the_middle
check "node a ends without trouble" node_stop a
check "node b ends without trouble" node_stop b
[ "$failures" = 0 ]
