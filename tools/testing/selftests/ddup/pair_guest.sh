# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What pair_set.sh offers to commands in a guest, whose store is /dev/ddup0; $OTHER is the other store.

set -eu -o pipefail
# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

# What the store says of its set.
told() { # jq-expression
	ddup set show --json /dev/ddup0 | jq -r ".sets[0] | $1"
}

# What it says of the other one.
of_other() { # field
	told ".members[] | select(.store_uuid == \"$OTHER\") | .$1"
}

# The other one has all that is durable here.
is_level() {
	[ "$(of_other lag_epochs)" = 0 ]
}

is_linked() {
	[ "$(of_other link)" = connected ]
}

# It is connected, whoever leads.
is_there() {
	! is_cut
}

is_cut() {
	[ "$(of_other link)" = absent ]
}

# From here on nothing waits for the other one. Asked for until it is so: a busy machine's driver may say
# no more than that it has begun.
let_go() {
	wait_for 60 is_let_go
}

is_let_go() {
	[ "$(of_other state)" = async ] || ddup peer shrink --force /dev/ddup0 "$OTHER"
}

sum_of() { # device
	dd if="$1" bs=1M iflag=direct status=none | sha256sum | cut -d ' ' -f 1 || {
		dmesg | tail -n 3
		return 1
	}
}

# The bytes that the network's card sent and received.
wire() { # tx or rx
	cat "/sys/class/net/eth0/statistics/$1_bytes"
}

# The same, once nothing has moved for two seconds but what asks whether the other one is there.
quiet_wire() {
	local before now quiet=0
	before=$(($(wire tx) + $(wire rx)))
	while [ "$quiet" -lt 4 ]; do
		sleep 0.5
		now=$(($(wire tx) + $(wire rx)))
		quiet=$((now - before < 10000 ? quiet + 1 : 0)) before=$now
	done
}

stop_daemon() {
	kill "$(cat /tmp/ddupd.pid)"
	wait_for 30 has_no_daemon
}

has_no_daemon() {
	! kill -0 "$(cat /tmp/ddupd.pid)" 2>/dev/null
}

start_daemon() {
	ddupd --interval 1 /etc/ddup >>/tmp/ddupd.log 2>&1 &
	echo $! >/tmp/ddupd.pid
}

# Nobody connects the two until the daemon is started again.
part() {
	stop_daemon
	ddup peer drop /dev/ddup0 "$OTHER" || is_cut
	wait_for 30 is_cut
}
