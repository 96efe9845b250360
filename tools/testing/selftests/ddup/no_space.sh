#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What becomes of writes when the store is full: they fail, or wait, as the knob says.
# vm: disk=1G mem=2048 timeout=900

# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

# Blocks of new content that a store of 64 MiB has room for.
ROOM=8192

at_least() { # file number
	[ "$(cat "$1")" -ge "$2" ]
}

# A store that has room for less than what a writer, $writer, is writing to it.
fill() { # wait
	make_store 64M --size 1G
	attach "$device"
	folder=/sys/block/${ddup##*/}/ddup
	ddup set "$ddup" "wait_for_space=$1"
	dd if=/dev/urandom of="$ddup" bs=64k count=640 iflag=fullblock oflag=direct status=none \
		2>/tmp/ddup-test.dd &
	writer=$!
	defer rm -f /tmp/ddup-test.dd
}

waits() {
	wait_for 120 at_least "$folder/blocks_fresh" "$ROOM"
	sleep 3
	kill -0 "$writer" || fail "the writer did not wait"
}

ends_without_space() {
	local status=0
	wait "$writer" || status=$?
	cat /tmp/ddup-test.dd
	[ "$status" != 0 ]
	grep -q 'No space left' /tmp/ddup-test.dd
}

a_full_store_fails_writes_by_default() {
	fill 0
	ends_without_space
	[ "$(cat "$folder/no_space")" -ge 1 ]
	ddup detach "$ddup"
	ddup check "$device"
}

writes_wait_for_space_and_go_on_after_a_discard() {
	fill 1
	waits
	# The rest goes on.
	dd if="$ddup" of=/dev/null bs=4k count=16 iflag=direct status=none
	dd if="$ddup" of="$ddup" bs=4k count=1 seek=100000 iflag=direct oflag=direct status=none
	blkdiscard --length 16M "$ddup"
	wait "$writer"
	[ "$(cat "$folder/no_space")" = 0 ]
	ddup detach "$ddup"
	ddup check "$device"
}

those_that_wait_end_when_they_are_to_fail() {
	fill 1
	waits
	echo 0 >"$folder/wait_for_space"
	ends_without_space
	ddup detach "$ddup"
	ddup check "$device"
}

a_forced_detach_ends_those_that_wait() {
	fill 1
	waits
	timeout 100 ddup detach --force "$ddup"
	if wait "$writer"; then
		fail "a write succeeded that had no space"
	fi
	ddup check "$device"
}

load
run_tests \
	a_full_store_fails_writes_by_default \
	writes_wait_for_space_and_go_on_after_a_discard \
	those_that_wait_end_when_they_are_to_fail \
	a_forced_detach_ends_those_that_wait
