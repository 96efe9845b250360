# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Members of a replica set in one kernel, for a self-test that sources this for lib.sh: store[n] is
# a loop device, dev[n] its volume, uuid[n] its name.

# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

# A formatted member on a loop device.
make_member() { # number format-options...
	local n=$1
	shift
	make_file 256M
	make_loop "$file"
	store[n]=$device
	# Without udev nothing makes these.
	mkdir -p /dev/block
	ln -sf "$device" "/dev/block/$(lsblk -dno MAJ:MIN "$device" | tr -d ' ')"
	ddup format "$@" "$device"
}

# shellcheck disable=SC2034 # The names are for the test.
attach_member() { # number
	attach "${store[$1]}" --number "$1"
	dev[$1]=$ddup
	uuid[$1]=$(ddup status --json "$ddup" | jq -r '.devices[0].store_uuid')
}

connect() { # number number
	ddup peer connect --local "${dev[$1]}" "${dev[$2]}"
}

# The machine of a store fails while nothing is on its way, and the store is attached again: from a copy of
# its disk as it was then, since the kernel stays.
fails() { # number
	local left
	left=$(mktemp /tmp/ddup-test.XXXXXX)
	defer rm -f "$left"
	sleep 2
	cp "$(losetup --noheadings --output BACK-FILE "${store[$1]}")" "$left"
	ddup detach --force "${dev[$1]}"
	make_loop "$left"
	store[$1]=$device
	attach_member "$1"
}
