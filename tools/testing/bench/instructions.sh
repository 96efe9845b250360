#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The part of tools/testing/bench/instructions in the guest: a pattern, so often, on a store on a RAM
# disk, where a request ends in the context that brought it (RAW=1: on that itself; PEER=1: on a store
# with another one as its synchronous peer).

set -euo pipefail

# Makes a RAM disk take its memory.
fill() { # disk
	dd if=/dev/zero of="$1" bs=1M count=1024 status=none
}

modprobe brd rd_nr=2 rd_size=$((1 << 20))
insmod "$DDUP_KO"
target=/dev/ram0
fill "$target"
if [ -n "${PEER:-}" ]; then
	ip link set lo up
	fill /dev/ram1
	ddup format --force --set --fingerprint "$FINGERPRINT" --size 512M "$target" >/dev/null
	target=$(ddup attach "$target")
	ddup format --force --replica-of "$(ddup set invite "$target")" /dev/ram1 >/dev/null
	peer=$(ddup attach /dev/ram1)
	uuid=$(ddup status --json "$peer" | jq -r '.devices[0].store_uuid')
	ddup peer add "$target" "$uuid"
	ddup peer connect --local "$target" "$peer"
	ddup peer join --timeout 60 "$target" "$uuid"
elif [ -z "${RAW:-}" ]; then
	ddup format --force --fingerprint "$FINGERPRINT" "$target" >/dev/null
	target=$(ddup attach "$target")
fi
instructions.py "$target" write 128k 1000 1
# shellcheck disable=SC2086 # words
instructions.py "$target" $PATTERN 300 2
# shellcheck disable=SC2086 # words
instructions.py "$target" $PATTERN "$COUNT" 3
echo "@@ symbols"
awk '$2 ~ /[tT]/ { print $1, $3 }' /proc/kallsyms
