#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The power-cut test tested: a plain disk keeps its promises, and the same disk that acknowledges
# flushes and ignores them is caught losing data.
#
# host: timeout=3600

set -u
# shellcheck source=tools/testing/selftests/ddup/powercut/host.sh
. "$(dirname "$0")/powercut/host.sh"

plan 2
result "a plain disk loses nothing that was flushed" tool powercut plain --rounds 2
result "a disk that ignores flushes is caught" \
	tool powercut plain --rounds 20 --early 0 --ignore-flush --expect-loss
[ "$failures" = 0 ]
