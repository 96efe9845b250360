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
top=$(cd "$(dirname "$0")/../../../.." && pwd)
# shellcheck source=qemu/pair.sh
. "$top/qemu/pair.sh"

ROUNDS=${ROUNDS:-2}
FILES=${FILES:-12}
ON_TIMEOUT=${ON_TIMEOUT:-400}
NODE_TIMEOUT=${NODE_TIMEOUT:-3400}
export ON_TIMEOUT NODE_TIMEOUT
PORT=7789

number=0
failures=0
check() { # name command...
	local name=$1
	shift
	number=$((number + 1))
	if "$@" >"$pair/output" 2>&1; then
		echo "ok $number - $name"
	else
		echo "not ok $number - $name"
		sed 's/^/# /' "$pair/output"
		failures=$((failures + 1))
	fi
}

other_of() { # node
	case $1 in
	a) echo b ;;
	b) echo a ;;
	esac
}

uuid_of() { # node
	cat "$pair/uuid-$1"
}

# Boots a node; the daemon attaches its store, if that has a file.
start() { # node
	node_start "$1" --mem 1024 --disk "$pair/disk-$1" && on "$1" '
		insmod "$DDUP_KO"
		modprobe ext4
		mkdir -p /etc/ddup /mnt
	'
}

# The file of a store and the daemon, as after each boot.
serve() { # node
	local node=$1 other address peer
	other=$(other_of "$node")
	address=192.168.7.1 peer=192.168.7.2
	[ "$node" = a ] || address=192.168.7.2 peer=192.168.7.1
	on "$node" "
		printf '%s\n' 'store = \"/dev/vda\"' '[set]' 'listen = [\"$address:$PORT\"]' \
			'transport = \"plain\"' '[[peer]]' 'store = \"$(uuid_of "$other")\"' \
			'address = \"$peer:$PORT\"' >/etc/ddup/data.toml
		ddupd --interval 1 /etc/ddup >/tmp/ddupd.log 2>&1 &
		for _ in \$(seq 600); do [ ! -b /dev/ddup0 ] || exit 0; sleep 0.1; done
		cat /tmp/ddupd.log; exit 1
	"
}

the_set_is_made() {
	local invitation
	on a 'ddup format --set --size 256M /dev/vda && ddup attach /dev/vda' || return
	on a 'ddup list --json | jq -r ".devices[0].store_uuid"' >"$pair/uuid-a" || return
	invitation=$(on a 'ddup set invite /dev/ddup0') || return
	on b "ddup format --replica-of $invitation /dev/vda && ddup attach /dev/vda" || return
	on b 'ddup list --json | jq -r ".devices[0].store_uuid"' >"$pair/uuid-b" || return
	on a "ddup peer add /dev/ddup0 $(uuid_of b)" || return
	serve a && serve b || return
	on a "ddup peer join --timeout 300 /dev/ddup0 $(uuid_of b) && ddup set show" &&
		on a 'mkfs.ext4 -q /dev/ddup0'
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
	check "round $1: $2 starts again" start "$2"
	check "round $1: and its daemon attaches and connects" serve "$2"
	check "round $1: $2 is made equal and joins while $other works" the_lost_one_joins_again "$2" "$other"
	check "round $1: $other hands over to $2" it_hands_over "$other" "$2"
	check "round $1: $2 has every file that was fsynced" everything_is_there "$2"
}

pair_begin
truncate -s 1G "$pair/disk-a" "$pair/disk-b"
echo "TAP version 13"
echo "1..$((3 + 9 * ROUNDS + 2))"
check "node a starts" start a
check "node b starts" start b
check "a set is made of a store on each" the_set_is_made
for round in $(seq "$ROUNDS"); do
	round "$round" a
done
check "node a ends without trouble" node_stop a
check "node b ends without trouble" node_stop b
[ "$failures" = 0 ]
