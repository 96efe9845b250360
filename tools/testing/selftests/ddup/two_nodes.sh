#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A replica set on two machines, as the admin guide sets it up: the primary's machine is killed in the
# middle of work, the other one goes on with every file that was fsynced, the first comes back, is made
# equal, and takes over again.
#
# host: timeout=3600

# What is in single quotes is for a guest's shell.
# shellcheck disable=SC2016
set -u
# shellcheck source=tools/testing/selftests/ddup/pair_set.sh
. "$(dirname "$0")/pair_set.sh"
# shellcheck source=tools/testing/selftests/ddup/pair_work.sh
. "$(dirname "$0")/pair_work.sh"

ROUNDS=${ROUNDS:-2}
ON_TIMEOUT=${ON_TIMEOUT:-400}
NODE_TIMEOUT=${NODE_TIMEOUT:-3400}
export ON_TIMEOUT NODE_TIMEOUT

the_set_is_made() {
	make_set --size 256M && on a 'mkfs.ext4 -q /dev/ddup0'
}

it_hands_over() { # from to
	on "$1" 'kill $(cat /tmp/fio.pid); sleep 2; umount /mnt && ddup demote /dev/ddup0' &&
		on "$2" 'ddup promote --wait 120 /dev/ddup0'
}

round() { # number primary
	local other
	other=$(other_of "$2")
	check "round $1: files are fsynced on $2 beside fio" work "$2" "$1"
	power_cut "$2"
	check "round $1: $2 is killed, and $other is promoted by force alone" promote_instead_of "$2" "$other"
	check "round $1: $other has every file that was fsynced" everything_is_there "$other"
	check "round $1: $other works on" work "$other" "$1-alone"
	check "round $1: $2 starts again, and its daemon attaches and connects" start_again "$2"
	check "round $1: $2 is made equal and joins while $other works" made_equal "$2" "$other"
	check "round $1: $other hands over to $2" it_hands_over "$other" "$2"
	check "round $1: $2 has every file that was fsynced" everything_is_there "$2"
}

pair_begin
truncate -s 1G "$pair/disk-a" "$pair/disk-b"
plan $((3 + 8 * ROUNDS + 2))
check "node a starts" boot a --disk "$pair/disk-a"
check "node b starts" boot b --disk "$pair/disk-b"
check "a set is made of a store on each" the_set_is_made
for round in $(seq "$ROUNDS"); do
	round "$round" a
done
check "node a ends without trouble" node_stop a
check "node b ends without trouble" node_stop b
[ "$failures" = 0 ]
