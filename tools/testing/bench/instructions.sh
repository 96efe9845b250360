#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The part of tools/testing/bench/instructions in the guest: a pattern, so often, on a store on a RAM
# disk (RAW=1: on that itself), where a request ends in the context that brought it.

set -euo pipefail
modprobe brd rd_nr=1 rd_size=$((1 << 20))
insmod "$DDUP_KO"
target=/dev/ram0
# A RAM disk takes memory when it is written first.
dd if=/dev/zero of=$target bs=1M count=1024 status=none
if [ -z "${RAW:-}" ]; then
	ddup format --force --fingerprint "$FINGERPRINT" $target >/dev/null
	target=$(ddup attach $target)
fi
instructions.py "$target" write 128k 1000
# shellcheck disable=SC2086 # words
instructions.py "$target" $PATTERN 300
# shellcheck disable=SC2086 # words
instructions.py "$target" $PATTERN "$COUNT"
echo "@@ symbols"
awk '$2 ~ /[tT]/ { print $1, $3 }' /proc/kallsyms
