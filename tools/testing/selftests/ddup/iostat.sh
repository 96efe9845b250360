#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The block layer's own counters of a device are right: what iostat and others show.
# vm: disk=1G mem=2048 timeout=300

# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

# The fields of /sys/block/*/stat, as Documentation/block/stat.rst has them.
FIELDS=(reads read_merges read_sectors read_ms writes write_merges write_sectors write_ms in_flight busy_ms
	queue_ms discards discard_merges discard_sectors discard_ms flushes flush_ms)

# The counters of $ddup now, as variables of that name.
look() {
	read -r "${FIELDS[@]}" <"/sys/block/${ddup##*/}/stat"
}

# Of what has been done since the last time: field=number ...; all others that count requests are 0.
since() { # field=number...
	local field count before
	declare -A wanted=([reads]=0 [read_merges]=0 [read_sectors]=0 [writes]=0 [write_merges]=0 [write_sectors]=0
		[discards]=0 [discard_merges]=0 [discard_sectors]=0 [flushes]=0)
	for field in "$@"; do
		wanted[${field%=*}]=${field#*=}
	done
	look
	# shellcheck disable=SC2154 # look sets it
	[ "$in_flight" = 0 ]
	for field in "${!wanted[@]}"; do
		before=old_$field
		count=$((${!field} - ${!before}))
		[ "$count" = "${wanted[$field]}" ] || fail "$field: $count, not ${wanted[$field]}"
	done
	remember
}

remember() {
	local field
	look
	for field in "${FIELDS[@]}"; do
		declare -g "old_$field=${!field}"
	done
}

each_operation_is_counted_once() {
	make_store 256M
	attach "$device"
	remember
	dd if=/dev/urandom of="$ddup" bs=64k count=16 oflag=direct status=none
	since writes=16 write_sectors=2048
	dd if="$ddup" of=/dev/null bs=4k count=100 iflag=direct status=none
	since reads=100 read_sectors=800
	dd if=/dev/urandom of="$ddup" bs=512k count=8 oflag=direct iflag=fullblock status=none
	since writes=8 write_sectors=8192
	# By force, else it looks at what it discards.
	blkdiscard --force -o 0 -l 1048576 "$ddup"
	since discards=1 discard_sectors=2048
	blkdiscard --force --zeroout -o 1048576 -l 1048576 "$ddup"
	since writes=1 write_sectors=2048
	dd if=/dev/zero of="$ddup" bs=4k count=7 oflag=direct status=none
	since writes=7 write_sectors=56
	# The block layer counts the empty write that brings a flush, for every disk.
	sync "$ddup"
	since flushes=1 writes=1
	# What is not mapped is read as well.
	dd if="$ddup" of=/dev/null bs=64k count=3 skip=1000 iflag=direct status=none
	since reads=3 read_sectors=384
	# /proc/diskstats and the tool that all use have the same numbers.
	[ "$(awk -v disk="${ddup##*/}" '$3 == disk { $1 = $2 = $3 = ""; print $0 }' /proc/diskstats | xargs)" = \
		"$(xargs <"/sys/block/${ddup##*/}/stat")" ]
}

requests_that_are_merged_are_counted_as_such() {
	make_store 256M
	attach "$device"
	remember
	fio --name=merge --filename="$ddup" --ioengine=libaio --direct=1 --rw=write --bs=4k --iodepth=32 \
		--iodepth_batch_submit=32 --iodepth_batch_complete_min=32 --size=4M --output=/dev/null
	look
	# shellcheck disable=SC2154 # look and remember set them
	{
		echo "$((writes - old_writes)) requests, $((write_merges - old_write_merges)) merged"
		[ $((writes - old_writes + write_merges - old_write_merges)) = 1024 ]
		[ $((write_merges - old_write_merges)) -gt 512 ]
		[ $((write_sectors - old_write_sectors)) = 8192 ]
		[ "$in_flight" = 0 ]
	}
	# The engine hears of what was completed within a second.
	wait_for 60 written 1024
}

written() { # blocks
	[ "$(counter "$ddup" written_blocks)" = "$1" ]
}

a_random_load_adds_up() {
	local begun ended said
	make_store 512M
	attach "$device"
	remember
	begun=$(date +%s%3N)
	fio --name=load --filename="$ddup" --ioengine=libaio --direct=1 --rw=randrw --bsrange=4k-64k --iodepth=16 \
		--numjobs=2 --group_reporting --size=64M --io_size=16M --dedupe_percentage=30 --output-format=json \
		--output=/tmp/ddup-test.fio
	defer rm -f /tmp/ddup-test.fio
	ended=$(date +%s%3N)
	look
	said=$(jq -r '.jobs[0] | "\(.read.total_ios) \(.read.io_bytes / 512) \(.write.total_ios) \(.write.io_bytes / 512)"' \
		/tmp/ddup-test.fio)
	# shellcheck disable=SC2154 # look and remember set them
	{
		echo "fio: $said; busy $((busy_ms - old_busy_ms)) of $((ended - begun)) ms"
		[ "$said" = "$((reads - old_reads + read_merges - old_read_merges)) $((read_sectors - old_read_sectors)) \
$((writes - old_writes + write_merges - old_write_merges)) $((write_sectors - old_write_sectors))" ]
		[ $((busy_ms - old_busy_ms)) -gt 0 ]
		[ $((busy_ms - old_busy_ms)) -le $((ended - begun)) ]
		# The time of all requests is that of reads, writes and flushes together, to a rounding each.
		[ $((read_ms + write_ms + discard_ms + flush_ms - queue_ms)) -le 4 ]
		[ $((read_ms + write_ms + discard_ms + flush_ms - queue_ms)) -ge -4 ]
		[ "$in_flight" = 0 ]
	}
}

# A request that does not end is in flight, and the device is busy for as long.
what_is_in_flight_is_shown_until_it_ends() {
	make_store 128M
	make_mapped held "0 $(blockdev --getsz "$device") linear $device 0"
	attach "$mapped"
	dd if=/dev/urandom of="$ddup" bs=4096 count=1 oflag=direct,dsync status=none
	remember
	dmsetup suspend --noflush --nolockfs held
	defer dmsetup resume held
	dd if="$ddup" of=/dev/null bs=4096 count=1 iflag=direct status=none &
	# A plain write ends at once, the flush behind it does not, with its empty write.
	dd if=/dev/urandom of="$ddup" bs=4096 count=1 seek=9 oflag=direct,dsync status=none &
	wait_for 60 in_flight_are 1 1
	sleep 2
	dmsetup resume held
	wait
	look
	# shellcheck disable=SC2154 # look and remember set them
	{
		[ $((busy_ms - old_busy_ms)) -ge 1900 ]
		[ $((read_ms - old_read_ms)) -ge 1900 ]
		[ $((write_ms - old_write_ms)) -ge 1900 ]
	}
	since reads=1 read_sectors=8 writes=2 write_sectors=8 flushes=1
	in_flight_are 0 0
}

in_flight_are() { # reads writes
	[ "$(xargs <"/sys/block/${ddup##*/}/inflight")" = "$1 $2" ]
}

# What fails is counted as well, and nothing stays in flight.
requests_that_fail_are_counted() {
	make_store 64M --size 1G
	attach "$device"
	remember
	if dd if=/dev/urandom of="$ddup" bs=64k count=4096 oflag=direct status=none; then
		fail "a store of 64M took 256M"
	fi
	look
	# shellcheck disable=SC2154 # look and remember set them
	{
		echo "$((writes - old_writes)) requests of $((write_sectors - old_write_sectors)) sectors"
		[ $((writes - old_writes)) -ge 256 ]
		# Sectors are those that succeeded.
		[ $((write_sectors - old_write_sectors)) -ge $(((writes - old_writes - 1) * 128)) ]
		[ $((write_sectors - old_write_sectors)) -le $(((writes - old_writes) * 128)) ]
		[ "$in_flight" = 0 ]
	}
}

load
run_tests each_operation_is_counted_once \
	requests_that_are_merged_are_counted_as_such \
	a_random_load_adds_up \
	what_is_in_flight_is_shown_until_it_ends \
	requests_that_fail_are_counted
