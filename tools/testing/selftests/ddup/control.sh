#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What the verbs print and do: names, columns, JSON, loop devices, events, knobs, check and dump.
# vm: disk=1G mem=2048 timeout=900

# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

FAILED=1
USAGE=2
BUSY=5
DAMAGED=7

list_prints_columns_bytes_and_json() {
	make_store 64M --size 1T
	[ -z "$(ddup list)" ]
	attach "$device" --number 3
	ddup list
	ddup list | head -1 | grep -Eq '^NAME +SIZE +USED +AVAIL +SAVED +STATE +BACKING$'
	[ "$(ddup list --noheadings --bytes --output name,size,ro,backing ddup3)" = \
		"/dev/ddup3  1099511627776  0  $file" ]
	ddup list --json | jq -e ".devices | length == 1 and .[0].name == \"ddup3\" and
		.[0].size == 1099511627776 and .[0].state == \"online\" and .[0].file == \"$file\""
	[ "$(blkid -o value -s TYPE "$ddup" || true)" = "" ]
	[ "$(blockdev --getsize64 "$ddup")" = 1099511627776 ]
}

devices_are_meant_by_name_node_backing_and_file() {
	make_store 64M
	for name in ddup0 /dev/ddup0 "$device" "$file"; do
		attach "$device"
		[ "$ddup" = /dev/ddup0 ]
		ddup status "$name" | head -1 | grep -Fq "/dev/ddup0 on $device ($file)"
		ddup detach "$name"
		[ ! -e /dev/ddup0 ]
	done
}

a_regular_file_gets_a_loop_device_and_loses_it() {
	modprobe loop
	make_file 64M
	ddup format "$file"
	[ -z "$(losetup --noheadings -j "$file")" ]
	attach "$file"
	losetup -j "$file" | grep -q .
	dd if=/dev/urandom of="$ddup" bs=4096 count=64 conv=fsync status=none
	refused $BUSY "$file.*attached as" ddup attach "$file"
	ddup detach "$file"
	[ -z "$(losetup --noheadings -j "$file")" ] || fail "the loop device is still there"
	ddup check "$file"
}

many_stores_are_attached_at_once() {
	local i
	for i in 0 1 2 3 4 5 6 7; do
		make_store 64M
		attach "$device"
		[ "$ddup" = "/dev/ddup$i" ]
	done
	# A hole is filled first.
	ddup detach ddup3
	make_store 64M
	attach "$device"
	[ "$ddup" = /dev/ddup3 ]
	for i in 0 1 2 3 4 5 6 7; do
		dd if=/dev/urandom of="/dev/ddup$i" bs=64k count=16 oflag=direct status=none &
	done
	wait
	[ "$(ddup list --noheadings | wc -l)" = 8 ]
	ddup detach --all
	[ -z "$(ddup list)" ]
}

# A FLUSH of the one on top ends in the completion of a FLUSH of the one below it, and so on: under
# the locks of the flush queues of all of them, which lockdep on the debug kernel must not mistake
# for one lock.
a_store_can_lie_on_a_volume_of_another() {
	local stack=() level
	make_store 512M --size 400M
	attach "$device"
	for level in 300M 200M; do
		stack+=("$ddup")
		ddup format "$ddup" --size "$level"
		attach "$ddup"
	done
	stack+=("$ddup")
	fio --name=top --filename="$ddup" --ioengine=libaio --direct=1 --rw=randwrite --bs=8k \
		--iodepth=8 --numjobs=4 --fsync=4 --size=2M --offset_increment=2M --verify=crc32c \
		--output=/tmp/ddup-test.fio
	defer rm -f /tmp/ddup-test.fio
	refused $BUSY 'in use' ddup detach "${stack[1]}"
	for level in 2 1; do
		ddup detach "${stack[level]}"
		ddup check "${stack[level - 1]}"
	done
	ddup detach "${stack[0]}"
	ddup check "$device"
}

lines_of() { # file lines
	[ "$(wc -l <"$1")" -ge "$2" ]
}

events_follow_the_list_without_a_gap() {
	make_store 64M
	attach "$device"
	ddup events --existing --json --count 4 >/tmp/ddup-test.events &
	local listener=$!
	defer rm -f /tmp/ddup-test.events
	wait_for 120 lines_of /tmp/ddup-test.events 1
	ddup detach "$ddup"
	attach "$device" --number 5
	ddup detach "$ddup"
	attach "$device"
	wait "$listener"
	cat /tmp/ddup-test.events
	jq -se 'map(.event) == ["existing", "attached", "detached", "attached", "detached"] or
		map(.event) == ["existing", "detached", "attached", "detached", "attached"]' /tmp/ddup-test.events
	jq -se '[.[1:][].seq] as $s | $s == [range(.[0].seq + 1; .[0].seq + 5)]' /tmp/ddup-test.events
}

events_end_when_the_driver_goes() {
	ddup events >/tmp/ddup-test.events 2>&1 &
	local listener=$! status=0
	defer rm -f /tmp/ddup-test.events
	wait_for 120 listening
	rmmod ddup
	defer load
	wait "$listener" || status=$?
	[ "$status" = 4 ]
	grep -q 'unloaded' /tmp/ddup-test.events
}

# A generic netlink socket is a member of a group.
listening() {
	awk '$2 == 16 && $4 != "00000000" { found = 1 } END { exit !found }' /proc/net/netlink
}

a_store_that_fails_is_told_and_shown() {
	make_store 128M
	local sectors
	sectors=$(blockdev --getsz "$device")
	make_mapped failing "0 $sectors linear $device 0"
	attach "$mapped"
	ddup events --json --count 1 >/tmp/ddup-test.events &
	local listener=$!
	defer rm -f /tmp/ddup-test.events
	wait_for 120 listening
	# What is written must not become durable by itself before the disk fails.
	ddup set "$ddup" commit_interval=3600000
	dd if=/dev/urandom of="$ddup" bs=4096 count=16 oflag=direct status=none
	dmsetup suspend --noflush --nolockfs failing
	dmsetup load failing --table "0 $sectors error"
	dmsetup resume failing
	# What is acknowledged can't be made durable any more.
	if timeout 240 sync "$ddup"; then
		fail "a flush succeeded that nothing can have made durable"
	fi
	wait_for 120 test -s /tmp/ddup-test.events
	wait "$listener"
	cat /tmp/ddup-test.events
	jq -e '.event == "store-failed" and .failure == "device-error" and (.message | length > 0)' \
		/tmp/ddup-test.events
	[ "$(state_of "$ddup")" = failed ]
	ddup status "$ddup" | grep -q 'state *failed, device-error: '
	timeout 240 ddup detach --force "$ddup"
}

# What `ddup get` says of each knob holds: name, value, default, least, largest.
knobs_take_their_range_and_refuse_the_rest() {
	make_store 64M
	attach "$device"
	local folder=/sys/block/${ddup##*/}/ddup name min max default value
	ddup get "$ddup"
	ddup get --json "$ddup" | jq -r '.knobs[] | "\(.name) \(.value) \(.default) \(.min) \(.max)"' >/tmp/ddup-test.knobs
	defer rm -f /tmp/ddup-test.knobs
	# Every file that can be written is a knob, and everything else a counter that takes nothing.
	[ "$(find "$folder" -type f -perm 644 -printf '%f\n' | sort)" = \
		"$(cut -d' ' -f1 /tmp/ddup-test.knobs | sort)" ]
	[ "$(find "$folder" -type f ! -perm 644 ! -perm 444 | wc -l)" = 0 ]
	[ "$(wc -l </tmp/ddup-test.knobs)" -ge 5 ]
	while read -r name value default min max; do
		[ "$value" = "$default" ]
		for value in "$min" "$max" "$default"; do
			ddup set "$ddup" "$name=$value"
			[ "$(cat "$folder/$name")" = "$value" ]
			[ "$(value_of "$name")" = "$value" ]
			ddup set "$ddup" "$name=default"
			[ "$(cat "$folder/$name")" = "$default" ]
			echo "$value" >"$folder/$name"
			[ "$(cat "$folder/$name")" = "$value" ]
		done
		for value in -1 "" lots 0x 0x+1 +1 1e3 99999999999999999999999 "$((min - 1))" "$(beyond "$max")"; do
			refused $USAGE "$name takes $min to $max.*not .${value/+/[+]}" ddup set "$ddup" "$name=$value"
			if echo "$value" >"$folder/$name"; then
				fail "$name took '$value'"
			fi
			[ "$(cat "$folder/$name")" = "$default" ]
		done
	done </tmp/ddup-test.knobs
}

# The value of a knob, as `ddup get` says it.
value_of() { # knob
	ddup get --json "$ddup" "$1" | jq '.knobs | select(length == 1)[0].value'
}

wrong_settings_change_nothing_and_say_why() {
	make_store 64M
	attach "$device"
	local nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all)
	refused $USAGE 'no knob .colour' ddup set "$ddup" colour=1
	refused $USAGE 'KNOB=VALUE' ddup set "$ddup" gc_delay
	refused $USAGE 'discard takes 0 to 1' ddup set "$ddup" gc_delay=5 discard=2
	refused $USAGE 'colour' ddup get "$ddup" colour
	refused 3 'ddup9' ddup set ddup9 gc_delay=5
	refused 3 'ddup9' ddup get ddup9
	refused 6 "$ddup.*root" "${nobody[@]}" "$(command -v ddup)" set "$ddup" gc_delay=5
	[ "$(value_of gc_delay)" = 30 ]
	"${nobody[@]}" "$(command -v ddup)" get "$ddup"
	# The device may be named by its backing device; several are set at once.
	ddup set "$device" gc_delay=5 discard=1
	[ "$(value_of gc_delay)" = 5 ]
	[ "$(value_of discard)" = 1 ]
}

status_is_shown_again_and_again() {
	make_store 64M
	attach "$device"
	ddup status --watch=1 "$ddup" >/tmp/ddup-test.status &
	local watcher=$!
	defer rm -f /tmp/ddup-test.status
	defer kill "$watcher"
	wait_for 120 told_thrice
}

told_thrice() {
	[ "$(grep -c "^$ddup on $device " /tmp/ddup-test.status)" -ge 3 ]
}

# One more than a number that may have 64 bits.
beyond() { # number
	python3 -c "print($1 + 1)"
}

check_is_clean_after_use_and_names_damage() {
	make_store 128M
	attach "$device"
	mkfs.ext4 -q "$ddup"
	refused $BUSY "$device.*in use" ddup dump "$device"
	ddup detach "$ddup"
	ddup check "$device"
	ddup check --json "$device" | jq -e '.clean and .mapped_blocks > 10'
	ddup dump --journal --records "$device" | grep -q 'detached in order'
	# A page of a tree.
	local root
	root=$(ddup dump --json "$device" | jq .store.checkpoint.count_root)
	dd if=/dev/urandom of="$device" bs=4096 seek="$root" count=1 conv=notrunc status=none
	refused $DAMAGED "at cluster $root: checksum" ddup check "$device"
	refused $DAMAGED 'things are wrong' ddup check --json "$device"
}

# A store is checked while fio writes to it, and the result is told.
check_works_while_the_device_is_in_use() {
	make_store 256M
	attach "$device"
	local folder=/sys/block/${ddup##*/}/ddup writer i
	ddup set "$ddup" checkpoint_interval=300
	ddup events --json --count 1 >/tmp/ddup-test.events &
	local listener=$!
	defer rm -f /tmp/ddup-test.events
	wait_for 10 listening
	fio --name=busy --filename="$ddup" --ioengine=libaio --direct=1 --rw=randwrite --bs=4k \
		--iodepth=8 --size=64M --time_based --runtime=600 --output=/dev/null &
	writer=$!
	defer kill "$writer"
	wait_for 60 at_least "$folder/checkpoints" 2
	for i in 1 2 3 4; do
		ddup check "$ddup"
	done
	ddup check --json "$device" | jq -e '.clean and .pages > 10'
	kill -0 "$writer" || fail "the writer ended"
	wait "$listener"
	jq -e '.event == "checked" and .check.pages > 10 and .check.findings == 0' /tmp/ddup-test.events
	ddup status --json "$ddup" | jq -e '.devices[0].check | .done and .findings == 0'
	# Damage that is there: a page of the count tree.
	kill "$writer"
	wait "$writer" || true
	ddup set "$ddup" checkpoint_interval=86400000
	ddup detach --force "$ddup"
	local root
	root=$(ddup dump --json "$device" | jq .store.checkpoint.count_root)
	dd if=/dev/urandom of="$device" bs=4096 seek="$root" count=1 conv=notrunc oflag=direct status=none
	attach "$device"
	refused $DAMAGED "at cluster $root: checksum" ddup check "$ddup"
	ddup status --json "$ddup" | jq -e '.devices[0].check | .done and .findings > 0'
	ddup detach --force "$ddup"
}

at_least() { # file number
	[ "$(cat "$1")" -ge "$2" ]
}

a_detach_saves_the_index_and_the_next_attach_loads_it() {
	make_store 256M
	make_file 16M
	dd if=/dev/urandom of="$file" bs=1M count=16 conv=notrunc status=none
	attach "$device"
	dd if="$file" of="$ddup" bs=1M oflag=direct status=none
	ddup detach "$ddup"
	ddup dump "$device" | grep -q 'saved index: '
	ddup check "$device"
	attach "$device"
	local folder=/sys/block/${ddup##*/}/ddup
	wait_for 60 at_least "$folder/index_loaded" 4096
	# All of it is known, without a name tree that was read.
	dd if="$file" of="$ddup" bs=1M seek=16 oflag=direct conv=fsync status=none
	[ "$(cat "$folder/blocks_duplicate")" = 4096 ]
	ddup detach "$ddup"
	ddup check "$device"
}

check_and_dump_of_no_store_say_so() {
	make_file 64M
	refused $DAMAGED 'superblock' ddup check "$file"
	refused $DAMAGED 'no superblock is intact' ddup dump "$file"
	refused $FAILED 'directory' ddup check /tmp
	refused 3 'No such file' ddup dump /dev/nope
}

load
run_tests \
	list_prints_columns_bytes_and_json \
	devices_are_meant_by_name_node_backing_and_file \
	a_regular_file_gets_a_loop_device_and_loses_it \
	a_store_can_lie_on_a_volume_of_another \
	many_stores_are_attached_at_once \
	events_follow_the_list_without_a_gap \
	events_end_when_the_driver_goes \
	a_store_that_fails_is_told_and_shown \
	knobs_take_their_range_and_refuse_the_rest \
	wrong_settings_change_nothing_and_say_why \
	status_is_shown_again_and_again \
	check_is_clean_after_use_and_names_damage \
	check_works_while_the_device_is_in_use \
	a_detach_saves_the_index_and_the_next_attach_loads_it \
	check_and_dump_of_no_store_say_so
