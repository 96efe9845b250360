#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What fio writes at random, in all sizes, is what it reads, across detach and attach.
# vm: disk=1G mem=2048 timeout=1200

# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

RUNTIME=${RUNTIME:-10}

run_fio() { # options
	fio --name=verify --filename="$ddup" --ioengine=libaio --direct=1 --verify=crc32c \
		--verify_fatal=1 --randrepeat=1 --group_reporting --output-format=terse "$@" >/dev/null
}

prepare() { # volume size
	ddup format --force --size "$1" /dev/vda
	attach /dev/vda
}

random_writes_read_back() {
	prepare 512M
	run_fio --rw=randwrite --bs=4k --iodepth=32 --size=128M
	ddup detach "$ddup"
	attach /dev/vda
	run_fio --rw=randwrite --bs=4k --iodepth=32 --size=128M --verify_only
	[ "$(counter "$ddup" check_errors)" = 0 ]
}

mixed_sizes_read_back() {
	prepare 512M
	run_fio --rw=randwrite --bsrange=4k-1m --bs_unaligned=0 --blockalign=4k --iodepth=16 \
		--size=256M --fsync=64
	ddup detach "$ddup"
	attach /dev/vda
	run_fio --rw=randwrite --bsrange=4k-1m --bs_unaligned=0 --blockalign=4k --iodepth=16 \
		--size=256M --verify_only
}

overwrites_by_several_jobs_read_back() {
	prepare 512M
	run_fio --rw=randrw --bs=4k --iodepth=16 --size=64M --numjobs=4 --offset_increment=64M \
		--time_based --runtime="$RUNTIME" --verify_backlog=256
}

duplicates_are_stored_once() {
	prepare 512M
	fio --name=fill --filename="$ddup" --ioengine=libaio --direct=1 --rw=write --bs=64k \
		--iodepth=16 --size=128M --dedupe_percentage=75 --randrepeat=1 --end_fsync=1 \
		--output=/dev/null
	local written duplicate
	written=$(counter "$ddup" written_blocks)
	duplicate=$(counter "$ddup" duplicate_blocks)
	echo "$duplicate of $written blocks were duplicates"
	[ "$written" -ge 32768 ]
	[ "$duplicate" -ge $((written * 70 / 100)) ]
	[ "$duplicate" -le $((written * 80 / 100)) ]
}

reads_of_disk() {
	awk '{ print $1 }' /sys/block/vda/stat
}

duplicates_that_repeat_need_no_read() {
	prepare 512M
	local before block reads
	head -c 4096 /dev/urandom >/tmp/ddup-test.data
	defer rm -f /tmp/ddup-test.data
	for block in 0 1 2; do
		dd if=/tmp/ddup-test.data of="$ddup" bs=4k seek="$block" oflag=direct,dsync conv=notrunc status=none
	done
	before=$(reads_of_disk)
	for ((block = 100; block < 200; block++)); do
		dd if=/tmp/ddup-test.data of="$ddup" bs=4k seek="$block" oflag=direct conv=notrunc status=none
	done
	reads=$(($(reads_of_disk) - before))
	echo "$reads reads"
	[ "$(counter "$ddup" duplicate_blocks)" = 102 ]
	# Others than comparisons: a page of a tree now and then.
	[ "$reads" -lt 20 ]
}

# Of requests that come one by one none waits for the next one.
what_is_to_be_durable_takes_milliseconds() {
	prepare 512M
	local fs begun size
	for size in 4k 64k 1M; do
		begun=$SECONDS
		dd if=/dev/urandom of="$ddup" bs="$size" count=30 oflag=direct,dsync status=none
		echo "30 writes of $size: $((SECONDS - begun)) s"
		[ $((SECONDS - begun)) -lt 15 ]
	done
	mkdir -p /tmp/ddup-test.mnt
	defer rmdir /tmp/ddup-test.mnt
	modprobe -a ext4 xfs
	for fs in ext4 xfs; do
		"mkfs.$fs" -q "$ddup"
		mount -t "$fs" "$ddup" /tmp/ddup-test.mnt
		defer umount -q /tmp/ddup-test.mnt
		begun=$SECONDS
		for _ in {1..30}; do
			echo hello >>/tmp/ddup-test.mnt/file
			sync /tmp/ddup-test.mnt/file
		done
		echo "30 fsyncs on $fs: $((SECONDS - begun)) s"
		[ $((SECONDS - begun)) -lt 15 ]
		umount /tmp/ddup-test.mnt
		wipefs -qa "$ddup"
	done
}

mapped_is() { # blocks
	[ "$(counter "$ddup" mapped_blocks)" = "$1" ]
}

trimmed_blocks_read_as_zero_and_the_rest_stays() {
	prepare 512M
	echo 200 >"/sys/block/${ddup##*/}/ddup/checkpoint_interval"
	head -c 32M /dev/urandom >/tmp/ddup-test.data
	defer rm -f /tmp/ddup-test.data
	dd if=/tmp/ddup-test.data of="$ddup" bs=1M oflag=direct status=none
	wait_for 120 mapped_is 8192
	blkdiscard --offset 8M --length 8M "$ddup"
	blkdiscard --zeroout --offset 20M --length 4K "$ddup"
	dd if=/dev/zero of=/tmp/ddup-test.data bs=1M seek=8 count=8 conv=notrunc status=none
	dd if=/dev/zero of=/tmp/ddup-test.data bs=4K seek=5120 count=1 conv=notrunc status=none
	cmp -n 33554432 "$ddup" /tmp/ddup-test.data
	wait_for 120 mapped_is $((8192 - 2048 - 1))
	ddup detach "$ddup"
	attach /dev/vda
	mapped_is $((8192 - 2048 - 1))
	cmp -n 33554432 "$ddup" /tmp/ddup-test.data
	run_fio --rw=randtrimwrite --bs=64k --iodepth=1 --size=64M --verify=0
}

zeroes_take_no_space() {
	prepare 512M
	local before
	before=$(counter "$ddup" live_clusters)
	dd if=/dev/zero of="$ddup" bs=1M count=256 oflag=direct conv=fsync status=none
	[ "$(counter "$ddup" zero_blocks)" = 65536 ]
	[ "$(counter "$ddup" live_clusters)" = "$before" ]
	cmp -n 268435456 "$ddup" /dev/zero
}

the_volume_refuses_what_lies_beyond_its_end() {
	prepare 128M
	[ "$(blockdev --getsize64 "$ddup")" = 134217728 ]
	[ "$(blockdev --getss "$ddup")" = 4096 ]
	if dd if=/dev/zero of="$ddup" bs=4096 seek=32768 count=1 oflag=direct; then
		fail "a write beyond the end succeeded"
	fi
}

load
run_tests \
	random_writes_read_back \
	mixed_sizes_read_back \
	overwrites_by_several_jobs_read_back \
	duplicates_are_stored_once \
	duplicates_that_repeat_need_no_read \
	what_is_to_be_durable_takes_milliseconds \
	trimmed_blocks_read_as_zero_and_the_rest_stays \
	zeroes_take_no_space \
	the_volume_refuses_what_lies_beyond_its_end
