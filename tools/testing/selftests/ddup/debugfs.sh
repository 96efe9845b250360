#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# State objects in debugfs: each has a file that says what is so, and reading them harms nobody,
# whatever becomes of the device.
# vm: disk=1G mem=2048 timeout=600

# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

DEBUGFS=/sys/kernel/debug

# All that there are.
FILES="cache checkpoint index journal member overlay pin queue recycler requests scrub segments sessions space store volumes"

mount_debugfs() {
	mountpoint -q $DEBUGFS || mount -t debugfs debugfs $DEBUGFS
}

folder() {
	echo "$DEBUGFS/ddup/${ddup##*/}"
}

# A line of a file.
state() { # file name
	sed -n "s/^$2: //p" "$(folder)/$1"
}

# The same as a file in sysfs.
same() { # file name counter
	local shown counted
	shown=$(state "$1" "$2")
	counted=$(cat "/sys/block/${ddup##*/}/ddup/$3")
	echo "$1 $2: $shown, $3: $counted"
	[ "$shown" = "$counted" ]
}

each_object_has_a_file_for_root() {
	mount_debugfs
	make_store 128M
	[ -z "$(ls $DEBUGFS/ddup)" ]
	attach "$device"
	[ "$(ls "$(folder)")" = "$(echo "$FILES" | tr ' ' '\n')" ]
	[ "$(find "$(folder)" -type f ! -perm 400 | wc -l)" = 0 ]
	local file
	for file in $FILES; do
		echo "--- $file"
		cat "$(folder)/$file"
		case $file in
		requests) ;;
		volumes) [ "$(wc -l <"$(folder)/$file")" = 1 ] ;;
		*)
			[ -s "$(folder)/$file" ] && [ "$(wc -l <"$(folder)/$file")" -ge 1 ]
			if grep -Evq '^[a-z_]+: .+$' "$(folder)/$file"; then
				fail "$file has a line that is not 'name: value'"
			fi
			;;
		esac
	done
	ddup create "$ddup" --size 16M
	[ "$(find $DEBUGFS/ddup -mindepth 1 -type d | wc -l)" = 2 ]
	[ "$(wc -l <"$(folder)/volumes")" = 2 ]
	grep -q '^slot 1 number 2 uuid [0-9a-f]\{32\} blocks 4096 releasing 0$' "$(folder)/volumes"
	ddup detach "$ddup"
	[ -z "$(ls $DEBUGFS/ddup)" ]
}

they_say_what_is_so() {
	mount_debugfs
	make_store 256M
	attach "$device"
	ddup set "$ddup" checkpoint_interval=86400000 commit_interval=3600000
	dd if=/dev/urandom of="$ddup" bs=64k count=32 oflag=direct status=none
	sync "$ddup"
	same journal blocks_written journal_blocks
	same journal used journal_used
	same journal ring journal_clusters
	same overlay active_points overlay_points
	same space available clusters_free
	same space clusters clusters_total
	same space metadata_free metadata_free
	same index entries index_used
	same index bytes index_bytes
	[ "$(state overlay active_points)" = 512 ]
	# The engine hears of what was completed within a second.
	wait_for 60 durable
	[ "$(state store mode)" = Attached ]
	[ "$(state store failed)" = none ]
	[ "$(state checkpoint stage)" = Idle ]
	[ "$(state pin held)" = 0 ]
	[ "$(state queue phase)" = Started ]
	# 256 MiB are 16 segments, of which one MiB of a data segment is not in use.
	[ "$(awk -F': ' '/^(fixed|metadata|fresh|part|full):/ { sum += $2 } END { print sum }' "$(folder)/segments")" = \
		"$(state space segments)" ]
	[ "$(state space segments)" = 16 ]
	ddup set "$ddup" checkpoint_interval=100
	wait_for 60 merged
	same cache clean cache_pages
}

# All blocks of the journal but the open one, which is empty.
durable() {
	[ "$(state journal open_records)" = 0 ] &&
		[ "$(state journal sequence)" = $(($(state journal durable) + 1)) ]
}

merged() {
	[ "$(state overlay active_points)" = 0 ] && [ "$(state checkpoint stage)" = Idle ]
}

has_request() { # pattern
	grep -Eq "$1" "$(folder)/requests"
}

a_request_that_does_not_end_is_shown() {
	mount_debugfs
	make_store 128M
	make_mapped held "0 $(blockdev --getsz "$device") linear $device 0"
	attach "$mapped"
	ddup set "$ddup" commit_interval=3600000
	dd if=/dev/urandom of="$ddup" bs=4096 count=1 oflag=direct status=none
	dmsetup suspend --noflush --nolockfs held
	defer dmsetup resume held
	dd if=/dev/urandom of="$ddup" bs=4096 seek=77 count=1 oflag=direct status=none &
	wait_for 60 has_request '^slot [0-9]+ Write volume 0 lbn 77 count 1 fua 0 phase Running .* io 1 '
	cat "$(folder)/requests" "$(folder)/queue"
	[ "$(state store requests)" = 1 ]
	[ "$(state store early_writes)" = 1 ]
	[ "$(state queue slots)" -gt "$(state queue slots_free)" ]
	sync "$ddup" &
	wait_for 60 has_request ' Flush '
	[ "$(state store waits_for_early_writes)" = 1 ]
	dmsetup resume held
	wait
	# The engine hears of what was completed within a second.
	wait_for 60 idle
}

idle() {
	[ "$(state store requests)" = 0 ]
}

# Reads all files of all devices again and again, until it is killed.
read_all_the_time() {
	while :; do
		cat $DEBUGFS/ddup/*/* >/dev/null 2>&1 || :
	done
}

readers_see_devices_come_and_go() {
	local i
	mount_debugfs
	make_store 256M
	for i in 1 2; do
		read_all_the_time &
		defer kill $!
	done
	for i in 1 2 3 4 5 6 7 8 9 10; do
		attach "$device"
		fio --name=busy --filename="$ddup" --ioengine=libaio --direct=1 --rw=randrw --bs=4k --iodepth=16 \
			--size=64M --io_size=4M --output=/dev/null
		ddup detach "$ddup"
	done
	ddup check "$device"
}

# A file that is open when its device goes shows nothing more, and keeps the module and nothing else.
open_files_keep_the_module_and_not_the_device() {
	mount_debugfs
	local name i status fds=()
	for i in 1 2 3; do
		load
		make_store 64M
		attach "$device"
		fds=()
		for name in $FILES; do
			exec {fd}<"$(folder)/$name"
			fds+=("$fd")
		done
		read -r -n 5 -u "${fds[0]}" _
		ddup detach "$ddup"
		[ -z "$(ls $DEBUGFS/ddup)" ]
		refused 1 'in use' rmmod ddup
		for fd in "${fds[@]}"; do
			status=0
			cat <&"$fd" >/dev/null 2>/tmp/ddup-test.said || status=$?
			grep -q 'Input/output error' /tmp/ddup-test.said
			[ "$status" != 0 ]
			exec {fd}<&-
		done
		rm /tmp/ddup-test.said
		rmmod ddup
		[ ! -e $DEBUGFS/ddup ]
	done
	load
}

# The module is unloaded while readers open its files as fast as they can.
the_module_goes_under_readers() {
	local i
	mount_debugfs
	defer load
	for i in 1 2 3; do
		read_all_the_time &
		defer kill $!
	done
	for i in 1 2 3 4 5 6; do
		load
		make_store 64M
		attach "$device"
		dd if=/dev/urandom of="$ddup" bs=64k count=8 oflag=direct status=none
		# A reader may have it in use at this moment.
		wait_for 60 rmmod ddup
		[ ! -e $DEBUGFS/ddup ]
	done
}

load
run_tests each_object_has_a_file_for_root \
	they_say_what_is_so \
	a_request_that_does_not_end_is_shown \
	readers_see_devices_come_and_go \
	open_files_keep_the_module_and_not_the_device \
	the_module_goes_under_readers
