#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Power cuts, one after the other, in the middle of fio and of writers of blocks and files, on a
# disk that loses, tears and reorders what was not flushed: everything that was acknowledged as
# durable is there, nothing is torn or foreign, file systems are clean.
#
# host: timeout=3600

set -u
# shellcheck source=tools/testing/selftests/ddup/powercut/host.sh
. "$(dirname "$0")/powercut/host.sh"

plan 1
result "${ROUNDS:-5} power cuts lose nothing that was flushed" \
	tool powercut ddup --rounds "${ROUNDS:-5}" ${SEED:+--seed "$SEED"}
[ "$failures" = 0 ]
