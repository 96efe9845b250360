#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# udev names devices, what is on them, and stores; the names go with them.
# vm: disk=1G mem=2048 timeout=900

# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

BY=/dev/disk

start_udev() {
	mkdir -p /run/udev/rules.d
	sed "s,@bindir@,$(dirname "$(command -v ddup)")," /payload/60-ddup.rules \
		>/run/udev/rules.d/60-ddup.rules
	/usr/lib/systemd/systemd-udevd --daemon
	defer stop_udev
	udevadm control --ping --timeout=120
}

stop_udev() {
	udevadm control --exit --timeout=120
	rm -f /run/udev/rules.d/60-ddup.rules
}

settle() {
	udevadm settle --timeout=300
}

leads_to() { # link device
	ls -l "$BY"/*/
	[ "$(readlink -f "$1")" = "$2" ] || fail "$1 does not lead to $2"
}

devices_and_what_is_on_them_have_names() {
	local uuid store second
	start_udev
	make_store 128M --size 64M
	attach "$device"
	settle
	store=$(ddup list -n -o store "$ddup")
	leads_to "$BY/by-id/ddup-$store" "$ddup"
	mkfs.ext4 -q -L shared "$ddup"
	settle
	uuid=$(blkid -p -o value -s UUID "$ddup")
	leads_to "$BY/by-uuid/$uuid" "$ddup"
	leads_to "$BY/by-label/shared" "$ddup"
	second=$(ddup create "$ddup" --size 64M)
	settle
	leads_to "$BY/by-id/ddup-$store-v2" "$second"
	ddup remove "$second"
	settle
	[ ! -e "$BY/by-id/ddup-$store-v2" ]
	ddup detach "$ddup"
	settle
	ls -l "$BY"/*/
	[ ! -e "$BY/by-id/ddup-$store" ] && [ ! -e "$BY/by-uuid/$uuid" ] && [ ! -e "$BY/by-label/shared" ]
}

stores_are_known() {
	local uuid
	start_udev
	make_store 64M --label 'cold spare'
	udevadm trigger --action=change "$device"
	settle
	uuid=$(ddup probe --json "$device" | jq -r .uuid)
	udevadm info "$device" | grep -E 'ID_FS|DEVLINKS'
	[ "$(udevadm info -q property --value --property=ID_FS_TYPE "$device")" = ddup ]
	[ "$(udevadm info -q property --value --property=ID_FS_UUID "$device")" = "$uuid" ]
	leads_to "$BY/by-uuid/$uuid" "$device"
	leads_to "$BY/by-label/cold\x20spare" "$device"
	[ "$(lsblk -dno FSTYPE "$device")" = ddup ]
	ddup=$(ddup attach "$BY/by-uuid/$uuid")
	# Until udev has looked at it, it is in use.
	settle
	ddup detach "$ddup"
	dd if=/dev/zero of="$device" bs=8192 count=1 conv=fsync status=none
	settle
	refused 3 'no ddup store' ddup probe "$device"
	udevadm trigger --action=change "$device"
	settle
	[ ! -e "$BY/by-uuid/$uuid" ]
}

load
run_tests devices_and_what_is_on_them_have_names stores_are_known
