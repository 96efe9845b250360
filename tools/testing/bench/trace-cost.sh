#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The part of trace-cost in the guest.

set -euo pipefail
modprobe brd rd_nr=1 rd_size=$((512 << 10))
insmod "$DDUP_KO"
ddup format --force /dev/ram0 >/dev/null
ddup=$(ddup attach /dev/ram0)
# No background work between the requests that are counted.
ddup set "$ddup" checkpoint_interval=86400000
python3 /payload/bin/trace-cost.py "$ddup"
