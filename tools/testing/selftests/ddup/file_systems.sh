#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A real tree of files is copied twice onto each file system, is right before and after the device
# was detached, and takes the space of one copy.
# vm: disk=4G mem=2048 tree=yes timeout=3600

# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

FILE_SYSTEMS=${FILE_SYSTEMS:-ext4} # of ext4 and xfs
TREE=/tree/tree
# The second copy may take so many percent of what the first one took: the file system's own
# structures and journal, and the map.
PERCENT=5

# A backing device of 3 GiB that says to the cluster what is allocated of it, in $device.
make_counting_device() {
	mkfs.ext4 -q -F -O ^has_journal -b 4096 /dev/vda
	backing=/tmp/ddup-test.backing
	mkdir $backing
	defer rmdir $backing
	mount /dev/vda $backing
	defer umount $backing
	truncate -s 3G $backing/store
	make_loop $backing/store --direct-io=on
}

# KiB that the backing device has allocated.
allocated() {
	echo $(($(stat -c %b "$backing/store") / 2))
}

# KiB that the store has taken, by its own counters.
taken() {
	ddup status --json "$ddup" | jq '.devices[0].counters |
		4 * (.clusters - .fixed_clusters - .available_clusters - .free_metadata_clusters)'
}

umount_if_mounted() { # folder
	! mountpoint -q "$1" || umount "$1"
}

# Everything on its way to the disk, and checkpointed.
settle() {
	sync -f "$folder"
	sleep 3
}

is_right() { # copy
	echo 3 >/proc/sys/vm/drop_caches
	(cd "$folder/$1" && sha256sum --check --quiet /tree/SHA256SUMS)
	[ "$(find "$folder/$1" -type f | wc -l)" = "$(find "$TREE" -type f | wc -l)" ]
}

less_than_percent() { # what empty first second
	local first=$(($3 - $2)) second=$(($4 - $3))
	figure "$1: the first copy took $first KiB, the second $second KiB"
	[ $((second * 100)) -lt $((first * PERCENT)) ] || fail "the second copy took too much"
}

copy_twice() { # file system
	local files begun=$SECONDS copy
	files=$(find "$TREE" -type f | wc -l)
	figure "$1: $files files, $(du -sm --apparent-size "$TREE" | cut -f1) MiB"
	[ "$files" -ge 10000 ]
	[ "$(du -sm --apparent-size "$TREE" | cut -f1)" -ge 500 ]
	make_counting_device
	ddup format --force "$device"
	attach "$device"
	# What was set aside for superblocks, journal and segment table counts from the start.
	fallocate --length $(($(counter "$ddup" fixed_clusters) * 4096)) $backing/store
	echo 1000 >"/sys/block/${ddup##*/}/ddup/checkpoint_interval"
	make_folder
	case $1 in
	# The journal's content is new each time: a small one, so that it does not hide the rest.
	ext4) mkfs.ext4 -q -E lazy_itable_init=0 -J size=8 "$ddup" ;;
	xfs) mkfs.xfs -q "$ddup" ;;
	esac
	mount "$ddup" "$folder"
	defer umount_if_mounted "$folder"
	settle
	local taken=("$(taken)") allocated=("$(allocated)")
	for copy in first second; do
		cp -a "$TREE" "$folder/$copy"
		settle
		taken+=("$(taken)")
		allocated+=("$(allocated)")
		figure "$1: $copy copied after $((SECONDS - begun)) s"
	done
	less_than_percent "$1, counters of the store" "${taken[@]}"
	less_than_percent "$1, allocated on the disk" "${allocated[@]}"
	for copy in first second; do
		is_right $copy
		./extents.py of "$folder/$copy" >"/tmp/ddup-test.$copy"
		defer rm -f "/tmp/ddup-test.$copy"
	done
	figure "$1: compared after $((SECONDS - begun)) s"
	umount "$folder"
	ddup detach "$ddup"
	ddup check "$device"

	# No block of the second copy's files has a cluster that is not one of the first copy's.
	ddup dump --map "$device" >/tmp/ddup-test.map
	defer rm -f /tmp/ddup-test.map
	local blocks zeroes own
	read -r blocks zeroes own <<<"$(./extents.py compare /tmp/ddup-test.map /tmp/ddup-test.first /tmp/ddup-test.second)"
	figure "$1: of $blocks blocks of the second copy $zeroes are zero, $own have a cluster of their own"
	[ "$own" = 0 ]

	attach "$device"
	mount "$ddup" "$folder"
	for copy in first second; do
		is_right $copy
	done
	umount "$folder"
	case $1 in
	ext4) e2fsck -fn "$ddup" ;;
	xfs) xfs_repair -n "$ddup" ;;
	esac
	[ "$(counter "$ddup" check_errors)" = 0 ]
	ddup detach "$ddup"
	figure "$1: done after $((SECONDS - begun)) s"
}

on_ext4_a_tree_copied_twice_takes_the_space_of_one() {
	copy_twice ext4
}

on_xfs_a_tree_copied_twice_takes_the_space_of_one() {
	copy_twice xfs
}

load
# shellcheck disable=SC2046,SC2086 # words
run_tests $(printf 'on_%s_a_tree_copied_twice_takes_the_space_of_one ' $FILE_SYSTEMS)
