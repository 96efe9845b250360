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

ROUNDS=${ROUNDS:-2}
FILES=${FILES:-12}
ON_TIMEOUT=${ON_TIMEOUT:-400}
NODE_TIMEOUT=${NODE_TIMEOUT:-3400}
export ON_TIMEOUT NODE_TIMEOUT

the_set_is_made() {
	make_set --size 256M && on a 'mkfs.ext4 -q /dev/ddup0'
}

# Files that are fsynced, with others and fio beside them; the sums of what is durable are kept here.
work() { # node round
	on "$1" "
		mountpoint -q /mnt || mount /dev/ddup0 /mnt || exit
		fio --name=beside --directory=/mnt --size=24m --rw=randwrite --bs=16k --fsync=16 --time_based \
			--runtime=600 --dedupe_percentage=30 >/tmp/fio.log 2>&1 &
		echo \$! >/tmp/fio.pid
		mkdir -p /mnt/round-$2
		for file in \$(seq $FILES); do
			head -c \$((RANDOM * 20 + 1)) /dev/urandom >/mnt/round-$2/\$file
			sync /mnt/round-$2/\$file /mnt/round-$2 || exit
		done
		cd /mnt && sha256sum round-$2/*
	" >"$pair/sums-$2.out" || { cat "$pair/sums-$2.out"; return 1; }
	grep -c . "$pair/sums-$2.out" | grep -qx "$FILES" || { cat "$pair/sums-$2.out"; return 1; }
	cat "$pair/sums-$2.out" >>"$pair/sums"
}

# The file system is clean, and each file that was ever fsynced is as it was.
everything_is_there() { # node
	on "$1" "
		mount /dev/ddup0 /mnt && cd /mnt || exit
		sha256sum --quiet --check <<'END' || exit
$(cat "$pair/sums")
END
		cd / && umount /mnt && e2fsck -fn /dev/ddup0
	"
}

the_other_one_goes_on() { # node
	local lost
	lost=$(other_of "$1")
	on "$1" "
		for _ in \$(seq 600); do
			ddup set show --json | jq -e '.sets[0].members[] | select(.link == \"absent\")' && break
			sleep 0.1
		done
		said=\$(ddup promote /dev/ddup0 2>&1) && exit 1
		grep -q '$(uuid_of "$lost") is in sync and not connected' <<<\"\$said\" || { echo \"\$said\"; exit 1; }
		ddup promote --force --wait 120 /dev/ddup0
	"
}

# It is made equal, if need be after a person gave up what only it has.
the_lost_one_joins_again() { # node primary
	on "$2" "ddup peer join --timeout 30 /dev/ddup0 $(uuid_of "$1")" && return
	on "$1" 'ddup set show; tail -n 20 /tmp/ddupd.log
		ddup set show --json | jq -e ".sets[0].history_kept" &&
		ddup peer resolve --discard-local /dev/ddup0' || return
	echo "what only node $1 had was given up"
	on "$2" "ddup peer join --timeout 300 /dev/ddup0 $(uuid_of "$1")"
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
	check "round $1: $2 is killed, and $other is promoted by force alone" the_other_one_goes_on "$other"
	check "round $1: $other has every file that was fsynced" everything_is_there "$other"
	check "round $1: $other works on" work "$other" "$1-alone"
	check "round $1: $2 starts again" boot "$2" --disk "$pair/disk-$2"
	check "round $1: and its daemon attaches and connects" serve "$2"
	check "round $1: $2 is made equal and joins while $other works" the_lost_one_joins_again "$2" "$other"
	check "round $1: $other hands over to $2" it_hands_over "$other" "$2"
	check "round $1: $2 has every file that was fsynced" everything_is_there "$2"
}

pair_begin
truncate -s 1G "$pair/disk-a" "$pair/disk-b"
plan $((3 + 9 * ROUNDS + 2))
check "node a starts" boot a --disk "$pair/disk-a"
check "node b starts" boot b --disk "$pair/disk-b"
check "a set is made of a store on each" the_set_is_made
for round in $(seq "$ROUNDS"); do
	round "$round" a
done
check "node a ends without trouble" node_stop a
check "node b ends without trouble" node_stop b
[ "$failures" = 0 ]
