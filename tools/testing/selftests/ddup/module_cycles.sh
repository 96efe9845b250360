#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The module comes and goes, with I/O in flight while its device is detached, and takes all of its
# memory along.
# vm: disk=512M mem=1024 timeout=1200

# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

# Cycles to begin with; as long as the noise hides the slope it goes on, to MOST times as many.
CYCLES=${CYCLES:-32}
MOST=4
# The first cycles fill caches that stay.
WARM=12
# What a later cycle must cost less than, in bytes.
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
	ddup remove "$(ddup create "$ddup" --size 8M)"
	local jobs=()
	for _ in 1 2 3 4; do
		load_device "$ddup" &
		jobs+=($!)
	done
	wait_for 120 written "$ddup"
	# With I/O in flight: refused, then by force. Held open here too: the writers close it now and
	# then, and all of them may have.
	exec {hold}<"$ddup"
	refused 5 'in use|open|busy' ddup detach "$ddup"
	ddup detach --force "$ddup"
	exec {hold}<&-
	wait "${jobs[@]}" || true
	wait_for 60 rmmod ddup
	[ ! -d /sys/module/ddup ]
}

written() { # device
	[ "$(awk '{ print $5 }' "/sys/block/${1##*/}/stat")" -gt 100 ]
}

# From samples in KiB, one a line: the median of the slopes between each two of them (Theil-Sen),
# and what the slope is less than with a certainty of 98 % (by the variance of Kendall's rank
# statistic, two deviations), in bytes a cycle.
slope_and_bound() {
	awk '{
		for (i = 1; i < NR; i++)
			print 1024 * ($1 - sample[i]) / (NR - i)
		sample[NR] = $1
	}' | sort -n | awk '
		{ slope[NR] = $1 }
		END {
			n = (1 + sqrt(1 + 8 * NR)) / 2
			rank = int((NR + 2 * sqrt(n * (n - 1) * (2 * n + 5) / 18)) / 2) + 1
			printf "%d %d\n", slope[int((NR + 1) / 2)], slope[rank < NR ? rank : NR]
		}'
}

# What nobody refers to any more. On a debug kernel this is the judge: there memory that was freed
# stays in KASAN's quarantine, and the slope says nothing.
LEAKS=/sys/kernel/debug/kmemleak
# Twice with time between: what is found only once may be a passing pointer.
leaks() {
	for _ in 1 2; do
		sleep 6
		echo scan >$LEAKS
	done
	cat $LEAKS
}

the_module_comes_and_goes_with_io_in_flight() {
	unload
	load
	ddup format --force /dev/vda
	unload
	local cycle samples=() slope bound found
	if [ -e $LEAKS ]; then
		for ((cycle = 1; cycle <= CYCLES; cycle++)); do
			one_cycle
		done
		found=$(leaks)
		[ -z "$found" ] || fail "kmemleak found: $found"
		return
	fi
	for ((cycle = 1; cycle <= CYCLES * MOST; cycle++)); do
		one_cycle
		samples+=("$(memory_in_use)")
		# A look after each half as many: few, so that none succeeds by luck.
		if [ "$cycle" -lt "$CYCLES" ] || [ $((cycle % (CYCLES / 2))) != 0 ]; then
			continue
		fi
		read -r slope bound <<<"$(printf '%s\n' "${samples[@]:WARM}" | slope_and_bound)"
		figure "after $cycle cycles: $slope bytes a cycle, certainly less than $bound"
		[ "$bound" -ge $SLOPE ] || return 0
	done
	echo "KiB in use after each cycle: ${samples[*]}"
	fail "a cycle may take $SLOPE bytes or more"
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
