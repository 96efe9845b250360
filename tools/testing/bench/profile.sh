#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Where the guest's time goes while fio runs one pattern on a fresh store, or with RAW=1 on the disk
# itself: samples of all processors, by symbol, and with FOLDED=1 their stacks; for writes to a
# store also what part of their time each step took, by the driver's tracepoints. PATTERN is fio's
# rw, block size and depth, and what else it shall have. `make profile` draws the stacks.
#
#   qemu/vm --disk FILE --timeout 600 --env PATTERN='write 128k 8' -- tools/testing/bench/profile.sh

set -euo pipefail
read -r rw bs depth more <<<"${PATTERN:-randwrite 4k 32}"
RUNTIME=${RUNTIME:-8}
SIZE=${SIZE:-512M}

insmod "$DDUP_KO"
if [ "${RAW:-}" ]; then
	target=/dev/vda
else
	ddup format --force --fingerprint "${FINGERPRINT:-xxh64}" /dev/vda >/dev/null
	target=$(ddup attach /dev/vda)
fi
job=(--name=x "--filename=$target" --direct=1 --ioengine=libaio --size="$SIZE" --numjobs=1 --refill_buffers)
[[ $rw != *read* ]] || fio "${job[@]}" --rw=write --bs=128k --iodepth=8 --randseed=1 >/dev/null

pattern() { # seconds seed: runs in the background
	# shellcheck disable=SC2086 # words of fio
	fio "${job[@]}" --rw="$rw" --bs="$bs" --iodepth="$depth" --time_based --runtime="$1" \
		--randseed="$2" $more --output-format=json >/tmp/fio.json &
	# fio takes its time to begin, on a busy host some seconds.
	local stat=/sys/block/${target##*/}/stat before
	before=$(awk '{ print $1 + $5 }' "$stat")
	until [ "$(awk '{ print $1 + $5 }' "$stat")" -gt $((before + 32)) ]; do sleep 0.1; done
}

pattern "$RUNTIME" 7
perf record -q -a -e cpu-clock -F 400 -g -o /tmp/perf.data -- sleep $((RUNTIME - 2))
wait
jq -r '.jobs[0] | "\(.read.iops + .write.iops | floor) IOPS, \((.read.bw + .write.bw) / 1024 | floor) MiB/s"' /tmp/fio.json
perf report -i /tmp/perf.data --stdio --no-children -g none --percent-limit 0.6 2>/dev/null | grep -v '^#' | grep .
if [ "${FOLDED:-}" ]; then
	echo "@@ stacks"
	perf script -i /tmp/perf.data -F comm,ip,sym 2>/dev/null | fold.py 2>/tmp/idle
	echo "@@ end"
	cat /tmp/idle
fi
if [ -z "${RAW:-}" ] && [[ $rw == *write* || $rw == *rw* ]] && command -v fold.py >/dev/null; then
	tracing=/sys/kernel/tracing
	echo 16384 >$tracing/buffer_size_kb
	pattern "$RUNTIME" 8
	echo 1 >$tracing/events/ddup/enable
	sleep 1
	echo 0 >$tracing/events/ddup/enable
	wait
	cat $tracing/trace >/tmp/trace
	fold.py --split /tmp/trace
fi
