#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What is wrong is refused with a sentence that says so, and nothing is written.
# vm: disk=1G mem=2048 timeout=900

# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

# Exit statuses of ddup.
FAILED=1
USAGE=2
NOT_FOUND=3
NOT_LOADED=4
BUSY=5
NOT_PERMITTED=6

without_the_driver_the_tool_says_how_to_load_it() {
	unload
	for verb in list status events "attach /dev/vda" "detach ddup0"; do
		# shellcheck disable=SC2086 # words
		refused $NOT_LOADED 'not loaded.*(modprobe|insmod)' ddup $verb
	done
	load
}

# --- format ----------------------------------------------------------------------------------

format_refuses_a_missing_path() {
	refused $NOT_FOUND '/dev/nope.*No such file' ddup format /dev/nope
}

format_refuses_what_is_no_device_and_no_file() {
	refused $FAILED '/tmp.*directory' ddup format /tmp
	refused $FAILED '/dev/null.*block device' ddup format /dev/null
	[ -c /dev/null ]
}

format_refuses_a_small_device() {
	make_file 63M
	refused_unchanged "$file" $FAILED '63.*(too small|at least)' ddup format "$file"
	make_loop "$file"
	refused_unchanged "$device" $FAILED "$device.*(too small|at least)" ddup format "$device"
	make_file 0
	refused $FAILED '(too small|at least)' ddup format "$file"
}

# Nobody may write to $device until the end of the test.
make_read_only() {
	blockdev --setro "$device"
	defer blockdev --setrw "$device"
}

format_refuses_a_read_only_device() {
	make_file 64M
	make_loop "$file" --read-only
	refused_unchanged "$device" $FAILED 'read-only' ddup format "$device"
	make_loop "$file"
	make_read_only
	refused_unchanged "$device" $FAILED 'read-only' ddup format "$device"
}

format_refuses_a_mounted_device() {
	make_file 64M
	make_loop "$file"
	mkfs.ext4 -q "$device"
	make_folder
	mount "$device" "$folder"
	defer umount "$folder"
	refused $BUSY "$device.*(mounted|in use)" ddup format "$device"
	refused $BUSY "$device.*(mounted|in use)" ddup format --force "$device"
	touch "$folder/file"
}

format_refuses_a_device_that_another_holds() {
	make_file 64M
	make_loop "$file"
	make_mapped holder "0 $((32 * 2048)) linear $device 0"
	refused_unchanged "$device" $BUSY "$device.*in use" ddup format "$device"
	refused_unchanged "$device" $BUSY "$device.*in use" ddup format --force "$device"
}

format_refuses_a_file_behind_a_loop_device() {
	make_file 64M
	make_loop "$file"
	refused_unchanged "$file" $BUSY "$file.*$device" ddup format "$file"
	refused_unchanged "$file" $BUSY "$file.*$device" ddup format --force "$file"
}

format_refuses_an_attached_store() {
	make_store 64M
	attach "$device"
	refused $BUSY "$device.*(in use|attached)" ddup format --force "$device"
}

# Puts bytes at an offset of $file.
put() { # offset bytes
	printf '%b' "$2" | dd of="$file" bs=1 seek="$1" conv=notrunc status=none
}

# Makes something that people do not want to lose on $file.
fill() { # what
	case $1 in
	ext4) mkfs.ext4 -q -F "$file" ;;
	xfs) mkfs.xfs -q -f "$file" ;;
	swap) mkswap -q "$file" ;;
	# One partition of type 83 from sector 2048 on.
	mbr) put 446 '\0\0\0\0\x83\0\0\0\0\x8\0\0\0\x8\0\0' && put 510 '\x55\xaa' ;;
	gpt) put 512 'EFI PART' && put $((320 * 1048576 - 512)) 'EFI PART' ;;
	lvm)
		make_loop "$file"
		pvcreate -q -y --config 'devices/use_devicesfile=0' "$device"
		;;
	ddup) ddup format "$file" ;;
	esac
}

format_refuses_what_holds_something() {
	for what in ext4:ext xfs:XFS swap:swap mbr:MBR gpt:GPT lvm:LVM ddup:ddup; do
		make_file 320M
		fill "${what%:*}" >/dev/null
		target=$file
		[ "${what%:*}" != lvm ] || target=$device
		refused_unchanged "$target" $BUSY "${what#*:}.*--force" ddup format "$target"
	done
}

format_overwrites_by_force() {
	make_file 320M
	fill gpt
	make_loop "$file"
	ddup format --force "$device"
	if grep -q 'EFI PART' "$file"; then
		fail "a partition table is left"
	fi
	attach "$device"
}

format_refuses_sizes_that_make_no_sense() {
	make_file 64M
	for size in 0 -1 4097 lots 16E 4095 1.5 8E; do
		refused_unchanged "$file" $USAGE '.' ddup format --size="$size" "$file"
	done
}

# --- attach ----------------------------------------------------------------------------------

attach_refuses_a_missing_path() {
	refused $NOT_FOUND '/dev/nope.*No such file' ddup attach /dev/nope
}

attach_refuses_what_is_no_device_and_no_file() {
	refused $FAILED '/tmp.*directory' ddup attach /tmp
	refused $FAILED '/dev/null.*block device' ddup attach /dev/null
}

attach_refuses_a_device_without_a_store() {
	make_file 64M
	make_loop "$file"
	refused_unchanged "$device" $FAILED "$device.*(no store|not formatted|no ddup)" ddup attach "$device"
	make_file 64M
	mkfs.ext4 -q -F "$file"
	refused_unchanged "$file" $FAILED '(no store|not formatted|no ddup)' ddup attach "$file"
	[ -z "$(losetup -j "$file")" ] || fail "the loop device was left behind"
}

attach_refuses_a_device_that_another_holds() {
	make_store 64M
	make_mapped holder "0 $((32 * 2048)) linear $device 0"
	refused_unchanged "$device" $BUSY "$device.*(in use|busy)" ddup attach "$device"
}

attach_refuses_a_store_that_is_attached() {
	make_store 64M
	attach "$device"
	refused $BUSY "$device.*attached as $ddup" ddup attach "$device"
	refused $BUSY "$file.*attached as $ddup" ddup attach "$file"
	[ "$(ddup list --noheadings | wc -l)" = 1 ]
}

attach_refuses_a_copy_of_an_attached_store() {
	make_store 64M
	store=$device
	copy=/tmp/ddup-test.copy
	defer rm -f "$copy"
	cp --sparse=always "$file" "$copy"
	attach "$store"
	refused_unchanged "$copy" $BUSY "$copy.*copy of.*attached as $ddup" ddup attach "$copy"
}

attach_refuses_a_number_in_use() {
	make_store 64M
	first=$device
	make_store 64M
	attach "$first" --number 7
	[ "$ddup" = /dev/ddup7 ]
	refused_unchanged "$device" $BUSY '7' ddup attach "$device" --number 7
}

attach_refuses_arguments_out_of_range() {
	make_store 64M
	for arguments in --number=65536 --number=-1 --cache=16E --cache=-5 --index=much; do
		refused_unchanged "$device" $USAGE "${arguments#*=}" ddup attach "$device" "$arguments"
	done
	refused_unchanged "$device" $FAILED 'cache' ddup attach "$device" --cache 1
	refused_unchanged "$device" $FAILED 'cache' ddup attach "$device" --cache 8E
	refused_unchanged "$device" $FAILED 'index' ddup attach "$device" --index 8E
}

attach_of_a_read_only_device_asks_for_read_only() {
	make_store 64M
	attach "$device"
	ddup detach "$ddup"
	make_read_only
	refused_unchanged "$device" $FAILED 'read-only' ddup attach "$device"
	before=$(trace_of_writes "$device")
	attach "$device" --read-only
	[ "$(state_of "$ddup")" = read-only ]
	[ "$(blockdev --getro "$ddup")" = 1 ]
	if dd if=/dev/zero of="$ddup" bs=4096 count=1 oflag=direct; then
		fail "a read-only device was written to"
	fi
	ddup detach "$ddup"
	[ "$before" = "$(trace_of_writes "$device")" ]
}

# --- damage ----------------------------------------------------------------------------------

attach_survives_the_loss_of_a_superblock_copy() {
	make_store 64M
	attach "$device"
	head -c 40960 /dev/urandom >/tmp/ddup-test.data
	defer rm -f /tmp/ddup-test.data
	dd if=/tmp/ddup-test.data of="$ddup" bs=4096 conv=fsync status=none
	ddup detach "$ddup"
	for offset in 0 1; do
		dd if=/dev/urandom of="$device" bs=4096 seek=$offset count=1 conv=notrunc status=none
		attach "$device"
		cmp -n 40960 "$ddup" /tmp/ddup-test.data
		ddup detach "$ddup"
	done
}

# Overwrites each 4 KiB block that begins as a superblock does.
damage_superblocks() { # device
	python3 - "$1" <<-'EOF'
		import os, sys
		fd = os.open(sys.argv[1], os.O_RDWR)
		size = os.lseek(fd, 0, os.SEEK_END)
		found = 0
		for at in range(0, size, 4096):
		    if os.pread(fd, 8, at) == b"ddup\x8b\xf7st":
		        os.pwrite(fd, b"\x55" * 64, at + 600)
		        found += 1
		os.fsync(fd)
		print(found, "superblocks damaged")
		sys.exit(found < 2)
	EOF
}

attach_refuses_a_store_without_an_intact_superblock() {
	make_store 64M
	damage_superblocks "$device"
	refused_unchanged "$device" $FAILED "$device.*(damaged|checksum)" ddup attach "$device"
	refused_unchanged "$device" $FAILED "$device.*(damaged|checksum)" ddup attach --read-only "$device"
}

# --- detach ----------------------------------------------------------------------------------

detach_refuses_what_is_not_attached() {
	refused $NOT_FOUND 'ddup9.*ddup list' ddup detach ddup9
	refused $NOT_FOUND '/dev/vda is not attached' ddup detach /dev/vda
	refused $NOT_FOUND '/tmp.*neither' ddup detach /tmp
}

detach_refuses_a_mounted_device() {
	make_store 256M
	attach "$device"
	mkfs.ext4 -q "$ddup"
	make_folder
	mount "$ddup" "$folder"
	defer umount "$folder"
	refused $BUSY "$ddup.*(in use|open|busy)" ddup detach "$ddup"
	echo hello >"$folder/file"
	sync "$folder/file"
	umount "$folder"
	ddup detach "$ddup"
}

detach_by_force_gives_its_users_errors() {
	make_store 256M
	attach "$device"
	mkfs.ext4 -q "$ddup"
	make_folder
	mount "$ddup" "$folder"
	defer umount "$folder"
	timeout 240 ddup detach --force "$ddup"
	[ ! -b "$ddup" ] || fail "$ddup is still there"
	if timeout 240 dd if=/dev/zero of="$folder/file" bs=4096 count=16 conv=fsync; then
		fail "a write to a device that is gone succeeded"
	fi
}

rmmod_refuses_while_a_device_is_open() {
	make_store 64M
	attach "$device"
	exec {hold}<"$ddup"
	refused 1 'in use' rmmod ddup
	[ "$(state_of "$ddup")" = online ]
	exec {hold}<&-
}

rmmod_detaches_what_nobody_has_open() {
	make_store 64M
	attach "$device"
	head -c 1M /dev/urandom >/tmp/ddup-test.data
	defer rm -f /tmp/ddup-test.data
	dd if=/tmp/ddup-test.data of="$ddup" bs=4096 status=none
	wait_for 60 rmmod ddup
	defer load
	[ ! -b "$ddup" ] || fail "$ddup is still there"
	load
	attach "$device"
	cmp -n 1048576 "$ddup" /tmp/ddup-test.data
}

# --- the family ------------------------------------------------------------------------------

unprivileged_users_may_look_and_not_touch() {
	make_store 64M
	attach "$device"
	as_nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all)
	"${as_nobody[@]}" "$(command -v ddup)" list
	refused $NOT_PERMITTED 'not permitted' "${as_nobody[@]}" "$(command -v ddup)" detach "$ddup"
	refused $NOT_PERMITTED '(ermission|not permitted)' "${as_nobody[@]}" "$(command -v ddup)" attach /dev/vda
}

# --- a backing device that fails ---------------------------------------------------------------

a_backing_device_that_fails_gives_errors_and_no_hang() {
	make_store 256M
	sectors=$(blockdev --getsz "$device")
	make_mapped failing "0 $sectors linear $device 0"
	attach "$mapped"
	head -c 1M /dev/urandom | dd of="$ddup" bs=4096 conv=fsync status=none
	dmsetup suspend --noflush --nolockfs failing
	dmsetup load failing --table "0 $sectors error"
	dmsetup resume failing
	if timeout 240 dd if=/dev/urandom of="$ddup" bs=4096 count=64 conv=fsync; then
		fail "an fsync succeeded that nothing can have made durable"
	fi
	[ "$(state_of "$ddup")" = failed ] || [ "$(counter "$ddup" write_retries)" -gt 0 ]
	timeout 240 ddup detach --force "$ddup"
	dmsetup suspend --noflush --nolockfs failing
	dmsetup load failing --table "0 $sectors linear $device 0"
	dmsetup resume failing
	attach "$mapped"
	ddup detach "$ddup"
}

# Replaces the table of `failing`, which is on stdin.
reload() {
	dmsetup suspend --noflush --nolockfs failing
	dmsetup load failing
	dmsetup resume failing
}

acknowledged_data_that_can_not_be_written_fails_the_next_fsync() {
	local at sectors
	make_store 256M
	sectors=$(blockdev --getsz "$device")
	make_mapped failing "0 $sectors linear $device 0"
	attach "$mapped"
	ddup set "$ddup" checkpoint_interval=3600000
	yes 'here is where data lies' | head -c 4096 | dd of="$ddup" bs=4096 oflag=direct iflag=fullblock status=none
	sync "$ddup"
	at=$(($(grep -abo -m 1 'here is where data lies' "$device" | head -n 1 | cut -d: -f1) / 512))
	# The journal is before.
	printf '0 %u linear %s 0\n%u %u error\n' $at "$device" $at $((sectors - at)) | reload
	dd if=/dev/urandom of="$ddup" bs=4096 seek=7 count=1 oflag=direct status=none
	if sync "$ddup"; then
		fail "an fsync succeeded that covers lost data"
	fi
	[ "$(counter "$ddup" lost_blocks)" = 1 ]
	[ "$(counter "$ddup" write_retries)" = 3 ]
	ddup status "$ddup" | grep -q '1 acknowledged blocks\? lost'
	# It is told once, the block stays lost, and a new write mends it.
	sync "$ddup"
	if dd if="$ddup" of=/dev/null bs=4096 skip=7 count=1 iflag=direct status=none; then
		fail "lost data was read"
	fi
	echo "0 $sectors linear $device 0" | reload
	head -c 4096 /dev/urandom >/tmp/ddup-test.data
	defer rm -f /tmp/ddup-test.data
	dd if=/tmp/ddup-test.data of="$ddup" bs=4096 seek=7 oflag=direct,dsync status=none
	ddup detach "$ddup"
	attach "$mapped"
	dd if="$ddup" bs=4096 skip=7 count=1 iflag=direct status=none | cmp - /tmp/ddup-test.data
	ddup detach "$ddup"
	ddup check "$mapped"
}

a_backing_device_that_vanishes_gives_errors_and_no_hang() {
	modprobe scsi_debug dev_size_mb=256 || skip "no scsi_debug"
	defer modprobe -r scsi_debug
	modprobe sd_mod
	wait_for 60 ls /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*/block/
	disk=$(ls /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*/block/)
	wait_for 60 test -b "/dev/$disk"
	ddup format "/dev/$disk"
	attach "/dev/$disk"
	head -c 1M /dev/urandom | dd of="$ddup" bs=4096 conv=fsync status=none
	echo 1 >"/sys/block/$disk/device/delete"
	if timeout 240 dd if=/dev/urandom of="$ddup" bs=4096 count=64 conv=fsync; then
		fail "an fsync succeeded on a device that is gone"
	fi
	timeout 240 ddup detach --force "$ddup"
}

load
run_tests \
	without_the_driver_the_tool_says_how_to_load_it \
	format_refuses_a_missing_path \
	format_refuses_what_is_no_device_and_no_file \
	format_refuses_a_small_device \
	format_refuses_a_read_only_device \
	format_refuses_a_mounted_device \
	format_refuses_a_device_that_another_holds \
	format_refuses_a_file_behind_a_loop_device \
	format_refuses_an_attached_store \
	format_refuses_what_holds_something \
	format_overwrites_by_force \
	format_refuses_sizes_that_make_no_sense \
	attach_refuses_a_missing_path \
	attach_refuses_what_is_no_device_and_no_file \
	attach_refuses_a_device_without_a_store \
	attach_refuses_a_device_that_another_holds \
	attach_refuses_a_store_that_is_attached \
	attach_refuses_a_copy_of_an_attached_store \
	attach_refuses_a_number_in_use \
	attach_refuses_arguments_out_of_range \
	attach_of_a_read_only_device_asks_for_read_only \
	attach_survives_the_loss_of_a_superblock_copy \
	attach_refuses_a_store_without_an_intact_superblock \
	detach_refuses_what_is_not_attached \
	detach_refuses_a_mounted_device \
	detach_by_force_gives_its_users_errors \
	rmmod_refuses_while_a_device_is_open \
	rmmod_detaches_what_nobody_has_open \
	unprivileged_users_may_look_and_not_touch \
	a_backing_device_that_fails_gives_errors_and_no_hang \
	acknowledged_data_that_can_not_be_written_fails_the_next_fsync \
	a_backing_device_that_vanishes_gives_errors_and_no_hang
