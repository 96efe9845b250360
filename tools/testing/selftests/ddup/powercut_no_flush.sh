#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The power-cut test must be able to fail: a module that acknowledges flushes without a commit, and
# one that commits without flushing the disk, are both caught.
#
# host: timeout=3600

set -u
# shellcheck source=tools/testing/selftests/ddup/powercut/host.sh
. "$(dirname "$0")/powercut/host.sh"

# Builds the module with one configuration option more, and lets the test catch it.
caught()
{
	local name=${1//_/-}
	"$TOP/qemu/kbuild" --out "$name" KRUSTFLAGS="--cfg ddup_$1" modules >"$TOP/build/log/$name.log" 2>&1 || {
		tail "$TOP/build/log/$name.log"
		return 1
	}
	tool powercut ddup --rounds 30 --early 0 --work 4 --works "blocks ext4" --expect-loss \
		--module "$TOP/build/$name/ddup.ko" | tail -n 12
	return "${PIPESTATUS[0]}"
}

mkdir -p "$TOP/build/log"
plan 2
result "a module that does nothing for FLUSH is caught" caught no_flush
result "a module that never flushes its disk is caught" caught no_disk_flush
[ "$failures" = 0 ]
