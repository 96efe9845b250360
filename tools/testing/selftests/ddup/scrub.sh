#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A scrub reads all data of a store, each cluster once, tells what is bad and that it has ended, and
# is in nobody's way. What it heals in a replica set: self_healing.sh.
# vm: disk=1G mem=2048 timeout=600

# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

BUSY=5
NOT_FOUND=3
NOT_PERMITTED=6
DAMAGED=7
BLOCKS=4096 # that are written, the second half like the first

# A store with known content, each block with its number; it is attached.
make_full_store() {
	make_store 128M
	attach "$device"
	python3 - "$BLOCKS" >/tmp/ddup-test.content <<-'END'
		import os, sys
		half = [b"ddup rot %08d" % n + os.urandom(4096 - 17) for n in range(int(sys.argv[1]) // 2)]
		sys.stdout.buffer.write(b"".join(half + half))
	END
	defer rm -f /tmp/ddup-test.content
	dd if=/tmp/ddup-test.content of="$ddup" bs=64k oflag=direct conv=fsync status=none
}

# Clusters with the content of these blocks rot.
rot() { # block...
	dd if="$device" bs=1M iflag=direct status=none | python3 -c '
import re, sys
wanted, cluster = set(map(int, sys.argv[1:])), 0
while page := sys.stdin.buffer.read(4096):
    found = re.match(rb"ddup rot (\d{8})", page)
    if found and int(found[1]) in wanted:
        print(cluster)
    cluster += 1
' "$@" >/tmp/ddup-test.rot
	defer rm -f /tmp/ddup-test.rot
	[ "$(wc -l </tmp/ddup-test.rot)" = $# ]
	local cluster
	while read -r cluster; do
		dd if=/dev/urandom of="$device" bs=4096 seek="$cluster" count=1 conv=notrunc oflag=direct \
			status=none
	done </tmp/ddup-test.rot
}

scrub_state() {
	ddup status --json "$ddup" | jq -r '.devices[0].scrub.state'
}

is_in_state() { # state
	[ "$(scrub_state)" = "$1" ]
}

a_sound_store_is_read_once() {
	make_full_store
	ddup status --json "$ddup" | jq -e '.devices[0] | has("scrub") | not'
	ddup scrub --json "$ddup" >/tmp/ddup-test.report
	defer rm -f /tmp/ddup-test.report
	cat /tmp/ddup-test.report
	jq -e ".state == \"complete\" and .checked_blocks == $BLOCKS and .bad_blocks == 0 and .bad == []" \
		/tmp/ddup-test.report
	jq -e ".read_clusters >= $BLOCKS / 2 and .read_clusters <= $BLOCKS / 2 + 32" /tmp/ddup-test.report
	ddup scrub "$ddup" | grep 'scrub complete: 16.0M of 16.0M checked'
	ddup status "$ddup" | grep 'scrub complete: 16.0M of 16.0M checked'
	# After an attach nothing is known of it, and everything is read from the disk.
	ddup detach "$ddup"
	attach "$device"
	ddup status --json "$ddup" | jq -e '.devices[0] | has("scrub") | not'
	ddup scrub --json "$ddup" | jq -e ".state == \"complete\" and .checked_blocks == $BLOCKS"
}

each_bad_block_is_printed_and_an_event_until_it_is_written_anew() {
	make_full_store
	ddup detach "$ddup"
	rot 7 100 1999
	attach "$device"
	local half=$((BLOCKS / 2)) block offsets=()
	for block in 7 100 1999 $((half + 7)) $((half + 100)) $((half + 1999)); do
		offsets+=($((block * 4096)))
	done
	ddup events --json --count 7 >/tmp/ddup-test.events &
	local listener=$! status=0
	defer rm -f /tmp/ddup-test.events
	sleep 1
	ddup scrub "$ddup" >/tmp/ddup-test.out 2>&1 || status=$?
	defer rm -f /tmp/ddup-test.out
	cat /tmp/ddup-test.out
	[ $status = $DAMAGED ]
	[ "$(sed -n 's/.*bad block at byte //p' /tmp/ddup-test.out | xargs)" = "${offsets[*]}" ]
	grep 'scrub complete: .*, 6 blocks bad, 0 healed' /tmp/ddup-test.out
	wait "$listener"
	[ "$(jq 'select(.event == "scrub-found").offset' /tmp/ddup-test.events | xargs)" = "${offsets[*]}" ]
	jq -s -e '.[6] | .event == "scrubbed" and .scrub.bad_blocks == 6' /tmp/ddup-test.events
	[ "$(counter "$ddup" quarantined_clusters)" = 3 ]
	for block in 7 100 1999 $((half + 7)) $((half + 100)); do
		dd if=/dev/urandom of="$ddup" bs=4096 seek="$block" count=1 conv=notrunc oflag=direct status=none
	done
	refused $DAMAGED "byte ${offsets[5]}" ddup scrub "$ddup"
	blkdiscard --offset "${offsets[5]}" --length 4096 "$ddup"
	ddup scrub "$ddup"
	ddup detach "$ddup"
	ddup check "$device"
}

it_goes_on_beside_fio_and_changes_of_volumes() {
	make_store 512M --size 128M
	attach "$device"
	local second
	fio --name=busy --filename="$ddup" --ioengine=libaio --direct=1 --rw=randwrite --bs=4k --iodepth=8 \
		--size=64M --io_size=96M --verify=crc32c --verify_fatal=1 --dedupe_percentage=30 \
		--output=/tmp/ddup-test.fio &
	local writer=$! rounds=0
	defer rm -f /tmp/ddup-test.fio
	while kill -0 $writer 2>/dev/null; do
		ddup scrub --no-wait "$ddup"
		second=$(ddup create "$ddup" --size 64M)
		dd if=/dev/urandom of="$second" bs=64k count=64 oflag=direct status=none
		ddup resize "$second" 32M
		ddup remove "$second"
		wait_for 120 is_in_state complete
		ddup status --json "$ddup" | jq -e '.devices[0].scrub.bad_blocks == 0'
		rounds=$((rounds + 1))
	done
	wait $writer
	figure "$rounds scrubs beside fio"
	ddup scrub "$ddup"
	ddup detach "$ddup"
	ddup check "$device"
}

there_is_one_and_it_is_stopped_by_command_and_by_a_detach() {
	make_full_store
	refused $NOT_FOUND 'no scrub of the store of ddup.* goes on' ddup scrub --stop "$ddup"
	# It rests a thousand times as long as it reads.
	ddup set "$ddup" scrub_tranquility=1000
	ddup scrub --no-wait "$ddup"
	is_in_state running
	refused $BUSY 'goes on already' ddup scrub "$ddup"
	ddup status "$ddup" | grep 'scrub goes on: '
	ddup scrub --stop "$ddup"
	is_in_state stopped
	refused $NOT_FOUND 'no scrub' ddup scrub --stop "$ddup"
	# Once what it was reading has come.
	wait_for 10 ddup scrub --no-wait "$ddup"
	ddup detach "$ddup"
	ddup check "$device"
	attach "$device"
	ddup set "$ddup" scrub_tranquility=1000
	ddup scrub "$ddup" >/tmp/ddup-test.out 2>&1 &
	local waits=$! status=0
	defer rm -f /tmp/ddup-test.out
	wait_for 10 is_in_state running
	ddup detach "$ddup"
	wait $waits || status=$?
	cat /tmp/ddup-test.out
	[ $status = $NOT_FOUND ]
	grep 'detached meanwhile' /tmp/ddup-test.out
}

what_is_attached_read_only_is_scrubbed_and_not_changed() {
	make_full_store
	ddup detach "$ddup"
	rot 5
	local before
	before=$(sha256sum "$file")
	attach --read-only "$device"
	refused $DAMAGED '2 blocks bad' ddup scrub "$ddup"
	ddup detach "$ddup"
	[ "$(sha256sum "$file")" = "$before" ]
}

wrong_requests_are_refused() {
	make_full_store
	refused $NOT_FOUND 'ddup77' ddup scrub ddup77
	refused 2 'DEVICE' ddup scrub
	refused $NOT_PERMITTED 'root' setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all "$(command -v ddup)" scrub "$ddup"
}

load
run_tests a_sound_store_is_read_once \
	each_bad_block_is_printed_and_an_event_until_it_is_written_anew \
	it_goes_on_beside_fio_and_changes_of_volumes \
	there_is_one_and_it_is_stopped_by_command_and_by_a_detach \
	what_is_attached_read_only_is_scrubbed_and_not_changed \
	wrong_requests_are_refused
