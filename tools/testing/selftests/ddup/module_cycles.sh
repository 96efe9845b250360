#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The module comes and goes, with I/O in flight while its device is detached, and takes all of its
# memory along.
# vm: disk=512M mem=1024 timeout=400

# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

CYCLES=${CYCLES:-32}
# The first cycles fill caches that stay.
WARM=12
# Most that a later cycle may cost, in bytes.
SLOPE=4096

# Slab, vmalloc and percpu memory that is in use, in KiB: caches emptied, and the least of some
# moments, since threads of others come and go.
memory_in_use() {
	local cache
	sync
	echo 3 >/proc/sys/vm/drop_caches
	for cache in /sys/kernel/slab/*/shrink; do
		echo 1 >"$cache" || true # some refuse
	done 2>/dev/null
	for _ in 1 2 3 4 5; do
		sleep 0.05
		awk '/^(SUnreclaim|VmallocUsed|Percpu):/ { sum += $2 } END { print sum }' /proc/meminfo
	done | sort -n | head -1
}

# Writes to the device until that fails.
load_device() { # device
	while dd if=/dev/urandom of="$1" bs=64k count=64 oflag=direct conv=notrunc,nocreat status=none; do
		:
	done
} 2>/dev/null

one_cycle() {
	insmod "$DDUP_KO"
	local ddup
	ddup=$(ddup attach /dev/vda)
	local jobs=()
	for _ in 1 2 3 4; do
		load_device "$ddup" &
		jobs+=($!)
	done
	wait_for 30 written "$ddup"
	# With I/O in flight: refused, then by force.
	refused 5 'in use|open|busy' ddup detach "$ddup" >/dev/null
	ddup detach --force "$ddup"
	wait "${jobs[@]}" || true
	wait_for 10 rmmod ddup
	[ ! -d /sys/module/ddup ]
}

written() { # device
	[ "$(awk '{ print $5 }' "/sys/block/${1##*/}/stat")" -gt 100 ]
}

the_module_comes_and_goes_with_io_in_flight() {
	unload
	load
	ddup format --force /dev/vda
	unload
	local cycle samples=()
	for ((cycle = 1; cycle <= CYCLES; cycle++)); do
		one_cycle
		samples+=("$(memory_in_use)")
	done
	echo "KiB in use after each cycle: ${samples[*]}"
	# Least squares over the later cycles.
	printf '%s\n' "${samples[@]:WARM}" | awk -v limit=$SLOPE '
		{ n++; sx += n; sy += $1; sxx += n * n; sxy += n * $1 }
		END {
			slope = 1024 * (n * sxy - sx * sy) / (n * sxx - sx * sx)
			printf "slope: %.0f bytes a cycle\n", slope
			exit slope >= limit
		}'
}

nothing_is_left_behind() {
	unload
	[ ! -e /sys/fs/ddup ]
	[ -z "$(ls -d /sys/block/ddup* 2>/dev/null)" ]
	# The backing device is free again.
	exec {hold}<>/dev/vda
	exec {hold}>&-
	if grep -w ddup /proc/modules /proc/slabinfo /proc/devices; then
		fail "the lines above are left"
	fi
}

run_tests the_module_comes_and_goes_with_io_in_flight nothing_is_left_behind
