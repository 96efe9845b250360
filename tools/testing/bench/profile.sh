#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Where the guest's time goes while fio runs one pattern on a fresh store, or with RAW=1 on the disk
# itself: samples of all processors, by symbol. PATTERN is fio's rw, block size and depth, and what
# else it shall have.
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
# shellcheck disable=SC2086 # words of fio
fio "${job[@]}" --rw="$rw" --bs="$bs" --iodepth="$depth" --time_based --runtime="$RUNTIME" \
	--randseed=7 $more --output-format=json >/tmp/fio.json &
sleep 2
perf record -q -a -e cpu-clock -F 400 -g -o /tmp/perf.data -- sleep $((RUNTIME - 3))
wait
jq -r '.jobs[0] | "\(.read.iops + .write.iops | floor) IOPS, \((.read.bw + .write.bw) / 1024 | floor) MiB/s"' /tmp/fio.json
perf report -i /tmp/perf.data --stdio --no-children -g none --percent-limit 0.6 2>/dev/null | grep -v '^#' | grep .
