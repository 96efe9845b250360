#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Volumes of a store, and stores, come, go and change their size while others are in use.
# vm: disk=2G mem=2048 timeout=1500

# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

FAILED=1
USAGE=2
NOT_FOUND=3
BUSY=5

# Writes and verifies in the background, again and again, until it is stopped. Nobody else stops it, so
# whatever comes before is under load.
start_load() { # device
	rm -f /tmp/ddup-test.stop
	(
		while [ ! -e /tmp/ddup-test.stop ]; do
			fio --name=load --filename="$1" --rw=randwrite --bs=4k --size=8m --direct=1 --iodepth=16 \
				--ioengine=libaio --verify=crc32c --verify_fatal=1 --dedupe_percentage=50 \
				--output="/tmp/ddup-test.fio" || exit
		done
	) &
	load=$!
	defer rm -f /tmp/ddup-test.stop /tmp/ddup-test.fio
}

stop_load() {
	touch /tmp/ddup-test.stop
	wait "$load" || {
		cat /tmp/ddup-test.fio
		fail "the load failed"
	}
}

size_of() { # device
	blockdev --getsize64 "$1"
}

is_released() { # device
	ddup status --json "$1" | jq -e '.devices[0].releasing_bytes == null'
}

volumes_come_and_go_and_are_attached_together() {
	local second third
	make_store 256M --size 100M
	attach "$device"
	second=$(ddup create "$ddup" --size 1G)
	[ "$second" = /dev/ddup1 ]
	third=$(ddup create "$device" --size 20M --json | jq -r .device)
	[ "$third" = /dev/ddup2 ]
	[ "$(size_of "$second") $(size_of "$third")" = "1073741824 20971520" ]
	[ "$(ddup list -n -b -o name,size,volume | tr -s ' ' | tr '\n' ';')" = \
		"/dev/ddup0 104857600 1;/dev/ddup1 1073741824 2;/dev/ddup2 20971520 3;" ]
	[ "$(ddup status --json | jq '[.devices[].volume_uuid] | unique | length')" = 3 ]
	dd if=/dev/urandom of="$second" bs=1M count=8 oflag=direct status=none
	dd if="$second" of="$third" bs=1M count=8 iflag=direct oflag=direct status=none
	ddup remove "$second"
	[ ! -e "$second" ]
	ddup detach "$third"
	[ -z "$(ddup list)" ]
	ddup check "$device"

	# The numbers of volumes stay, those of devices are the lowest that are free.
	attach "$device"
	[ "$(ddup list -n -b -o name,volume | tr -s ' ' | tr '\n' ';')" = "/dev/ddup0 1;/dev/ddup1 3;" ]
	[ "$(dd if=/dev/ddup1 bs=1M count=8 iflag=direct status=none | tr -d '\0' | wc -c)" -gt 8000000 ]
	ddup create ddup0 --size 4096
	ddup detach --all
	[ -z "$(ddup list)" ]
	ddup check "$device"
}

space_of_what_goes_comes_back() {
	local used
	make_store 256M --size 1G
	attach "$device"
	ddup set "$ddup" gc_delay=0
	local second
	second=$(ddup create "$ddup" --size 1G)
	dd if=/dev/urandom of="$second" bs=1M count=64 oflag=direct status=none
	sync "$second"
	used=$(ddup list -n -b -o used "$ddup")
	[ "$used" -ge 67108864 ]
	ddup resize "$second" 32M
	is_released "$second"
	wait_for 120 used_below "$ddup" 40000000
	ddup remove "$second"
	wait_for 120 used_below "$ddup" 1000000
	ddup detach "$ddup"
	ddup check "$device"
}

used_below() { # device bytes
	[ "$(ddup list -n -b -o used "$1")" -lt "$2" ]
}

a_size_counts_at_once_and_after_an_attach() {
	make_store 256M --size 64M
	attach "$device"
	dd if=/dev/urandom of=/tmp/ddup-test.data bs=1M count=64 status=none
	defer rm -f /tmp/ddup-test.data
	dd if=/tmp/ddup-test.data of="$ddup" bs=1M oflag=direct status=none
	# A map gets levels, and loses them.
	ddup resize "$ddup" 3P
	[ "$(size_of "$ddup")" = $((3 << 50)) ]
	cmp -n $((64 << 20)) /tmp/ddup-test.data "$ddup"
	dd if=/tmp/ddup-test.data of="$ddup" bs=1M count=1 seek=$((2 << 30)) oflag=direct,nonblock \
		conv=notrunc status=none
	ddup resize "$ddup" 32M
	is_released "$ddup"
	[ "$(size_of "$ddup")" = $((32 << 20)) ]
	cmp -n $((32 << 20)) /tmp/ddup-test.data "$ddup"
	refused $FAILED 'space|No space' dd if=/dev/zero of="$ddup" bs=1M seek=32 count=1 oflag=direct
	ddup detach "$ddup"
	ddup check "$device"
	attach "$device"
	[ "$(size_of "$ddup")" = $((32 << 20)) ]
	# What was behind the end is gone.
	ddup resize "$ddup" 64M
	[ "$(dd if="$ddup" bs=1M skip=32 iflag=direct status=none | tr -d '\0' | wc -c)" = 0 ]
	cmp -n $((32 << 20)) /tmp/ddup-test.data "$ddup"
	ddup detach "$ddup"
	ddup check "$device"
}

file_systems_follow() {
	make_store 256M --size 64M
	attach "$device"
	mkfs.ext4 -q "$ddup"
	make_folder
	mount "$ddup" "$folder"
	defer umount -q "$folder"
	dd if=/dev/urandom of="$folder/file" bs=1M count=20 status=none
	ddup resize "$ddup" 128M
	resize2fs "$ddup"
	[ "$(df --output=size -B1M "$folder" | tail -1)" -gt 90 ]
	refused $BUSY 'in use.*by force' ddup resize "$ddup" 64M
	umount "$folder"
	e2fsck -fp "$ddup"
	resize2fs "$ddup" 60M
	ddup resize "$ddup" 64M
	e2fsck -fn "$ddup"
}

under_load_volumes_come_and_go() {
	local i second
	make_store 512M --size 64M
	attach "$device"
	start_load "$ddup"
	for i in $(seq 1 8); do
		second=$(ddup create "$ddup" --size 64M)
		dd if=/dev/urandom of="$second" bs=1M count=16 oflag=direct status=none
		ddup resize "$second" "$((i * 100))G"
		ddup resize "$second" 8M --no-wait
		[ "$(size_of "$second")" = $((8 << 20)) ]
		ddup remove "$second"
	done
	figure "$i volumes came and went while fio ran"
	# Grown and shrunk while it is in use.
	ddup resize "$ddup" 1T
	ddup resize --force "$ddup" 64M
	stop_load
	ddup detach "$ddup"
	ddup check "$device"
}

under_load_stores_come_and_go() {
	local i first open
	make_store 256M
	attach "$device"
	first=$ddup
	start_load "$first"
	for i in 1 2 3; do
		make_store 128M
		attach "$device" --number $((i + 1))
		dd if=/dev/urandom of="$ddup" bs=1M count=16 oflag=direct status=none
		ddup detach "$ddup"
		ddup check "$device"
	done
	exec {open}<"$first"
	refused $BUSY 'in use' ddup detach "$first"
	exec {open}<&-
	stop_load
	ddup detach "$first"
}

what_goes_is_released_after_another_attach() {
	local second
	make_store 512M --size 64M
	attach "$device"
	second=$(ddup create "$ddup" --size 128M)
	dd if=/dev/urandom of="$second" bs=1M count=128 oflag=direct status=none
	ddup remove "$second"
	ddup detach "$ddup"
	ddup check "$device"
	attach "$device"
	ddup set "$ddup" gc_delay=0
	[ "$(ddup list -n | wc -l)" = 1 ]
	wait_for 120 used_below "$ddup" 1000000
	ddup detach "$ddup"
	ddup check "$device"
}

each_change_is_told() {
	make_store 256M --size 64M
	attach "$device"
	ddup events --existing --json --count 4 >/tmp/ddup-test.events &
	local listener=$!
	defer rm -f /tmp/ddup-test.events
	wait_for 120 test -s /tmp/ddup-test.events
	ddup create "$ddup" --size 8M
	ddup resize ddup1 16M
	ddup remove ddup1
	ddup detach "$ddup"
	wait "$listener"
	cat /tmp/ddup-test.events
	jq -se 'map(.event) == ["existing", "attached", "resized", "removed", "detached"]' \
		/tmp/ddup-test.events
	jq -se '.[2].name == "ddup1" and .[2].size == 16777216' /tmp/ddup-test.events
}

wrong_input_changes_nothing() {
	make_store 128M --size 64M
	attach "$device"
	refused $USAGE 'multiple' ddup create "$ddup" --size 1000
	refused $USAGE '4 PiB' ddup resize "$ddup" 5P
	refused $NOT_FOUND 'no attached device' ddup create ddup7 --size 1M
	refused $NOT_FOUND 'no attached device' ddup resize ddup7 1M
	refused $NOT_FOUND 'no attached device' ddup remove ddup7
	refused $FAILED 'last volume' ddup remove "$ddup"
	ddup create "$ddup" --size 1M
	refused $USAGE 'several volumes: name one of /dev/ddup0, /dev/ddup1' ddup remove "$device"
	exec {open}</dev/ddup1
	refused $BUSY 'in use' ddup remove ddup1
	refused $BUSY 'ddup1, of the same store, is in use' ddup detach ddup0
	exec {open}<&-
	ddup list
	[ "$(ddup list -n | wc -l)" = 2 ]
	# Refused, and not closed for others by that.
	dd if="$ddup" of=/dev/null bs=4096 count=1 status=none
	refused 6 'not permitted|CAP_SYS_ADMIN' setpriv --reuid=65534 --clear-groups ddup remove ddup1
	ddup detach ddup1
	attach "$device" --read-only
	refused $FAILED 'read-only' ddup create "$ddup" --size 1M
	refused $FAILED 'read-only' ddup resize "$ddup" 1M
	refused $FAILED 'read-only' ddup remove ddup1
	ddup detach "$ddup"
}

load
run_tests volumes_come_and_go_and_are_attached_together \
	space_of_what_goes_comes_back \
	a_size_counts_at_once_and_after_an_attach \
	file_systems_follow \
	under_load_volumes_come_and_go \
	under_load_stores_come_and_go \
	what_goes_is_released_after_another_attach \
	each_change_is_told \
	wrong_input_changes_nothing
