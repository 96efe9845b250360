#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The ceiling of speed: the driver's block layer without deduplication (passthrough=1) against the
# raw disk, by fio in the guest. Each pattern runs on both in turn, ROUNDS times; medians count.
#
#   qemu/vm --disk FILE --timeout 1800 -- tools/testing/bench/passthrough.sh

set -euo pipefail
SECONDS_EACH=${SECONDS_EACH:-10}
ROUNDS=${ROUNDS:-3}

insmod "$DDUP_KO" passthrough=1
ddup=$(ddup attach /dev/vda)
raw=/dev/vda

fio_of() { # device, pattern: IOPS
	local rw bs depth
	IFS=, read -r rw bs depth <<<"$2"
	fio --name=x --filename="$1" --direct=1 --ioengine=io_uring --rw="$rw" --bs="$bs" \
		--iodepth="$depth" --numjobs=1 --size=1G --randrepeat=0 --norandommap \
		--time_based --runtime="$SECONDS_EACH" --output-format=json |
		jq '.jobs[0] | (.read.iops + .write.iops) | floor'
}

median() { printf '%s\n' "$@" | sort -n | sed -n "$((($# + 1) / 2))p"; }

echo "fio, $SECONDS_EACH s a run, median of $ROUNDS; Linux $(uname -r)"
printf '%-22s %12s %12s %8s\n' "pattern" "raw IOPS" "ddup IOPS" "%"
for pattern in randwrite,4k,32 randread,4k,32 randwrite,4k,1 randread,4k,1 write,1m,4 read,1m,4; do
	on_raw=() on_ddup=()
	for ((round = 0; round < ROUNDS; round++)); do
		# The raw disk can only be written while the driver does not hold it.
		ddup detach "$ddup" >/dev/null
		on_raw+=("$(fio_of $raw $pattern)")
		ddup=$(ddup attach /dev/vda)
		on_ddup+=("$(fio_of "$ddup" $pattern)")
	done
	a=$(median "${on_raw[@]}") b=$(median "${on_ddup[@]}")
	printf '%-22s %12d %12d %7d%%\n' "$pattern" "$a" "$b" $((b * 100 / (a ? a : 1)))
done
ddup detach "$ddup" >/dev/null
rmmod ddup
