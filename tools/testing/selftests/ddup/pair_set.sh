# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# A replica set on two machines (three with NODES=abc), for tests that run on the host: qemu/pair.sh, and
#
#   plan N                       how many results follow
#   check NAME COMMAND...        one result in TAP; what it printed is shown if it fails
#   figure WORDS                 a figure that is shown whatever the test's end
#   boot a [option of qemu/vm]   a machine with the module; its store is to be on /dev/vda
#   serve a                      the store's file and the daemon, which attaches and connects it
#   make_set [option of format]  a set of all nodes' stores, which all join; a leads
#   guest a 'command' [b]        with the functions of pair_guest.sh, about a and b
#   level a b                    waits until b has all that a, which leads, has
#   hand_over a b                from one to the other; what both show is equal
#
# The store of node a is known as $(uuid_of a) on the host, the other one's as $OTHER in `guest`.

# What is in single quotes is for a guest's shell.
# shellcheck disable=SC2016

# shellcheck source=qemu/pair.sh
. "$(cd "$(dirname "${BASH_SOURCE[0]}")/../../../.." && pwd)/qemu/pair.sh"

PORT=7789

number=0
failures=0

plan() {
	echo "TAP version 13"
	echo "1..$1"
}

check() { # name command...
	local name=$1 status=0
	shift
	number=$((number + 1))
	"$@" >"$pair/output" 2>&1 || status=$?
	sed -n 's/^figure: /# /p' "$pair/output"
	if [ "$status" = 0 ]; then
		echo "ok $number - $name"
	else
		echo "not ok $number - $name"
		sed 's/^/# /' "$pair/output"
		failures=$((failures + 1))
	fi
}

figure() {
	echo "figure: $*"
}

others_of() { # node
	grep -o . <<<"${NODES//$1/}"
}

# Of two.
other_of() { # node
	others_of "$1" | head -n 1
}

# A node's address in the network that it has with another.
address_of() { # node other
	local of=([1]=a b c) one other n
	for n in 1 2 3; do
		[ "${of[n]}" != "$1" ] || one=$n
		[ "${of[n]}" != "$2" ] || other=$n
	done
	echo "192.168.$((4 + one + other)).$one"
}

uuid_of() { # node
	cat "$pair/uuid-$1"
}

boot() { # node options of qemu/vm...
	local node=$1
	shift
	node_start "$node" --mem 1024 "$@" && on "$node" '
		insmod "$DDUP_KO"
		modprobe ext4
		mkdir -p /etc/ddup /mnt
	'
}

# The file of a store and the daemon, as after each boot.
serve() { # node
	local node=$1 other listen="" peers=""
	for other in $(others_of "$node"); do
		listen+="${listen:+, }\"$(address_of "$node" "$other"):$PORT\""
		peers+="
[[peer]]
store = \"$(uuid_of "$other")\"
address = \"$(address_of "$other" "$node"):$PORT\""
	done
	on "$node" "
		cat >/etc/ddup/data.toml <<'END'
store = \"/dev/vda\"
[set]
listen = [$listen]
transport = \"plain\"$peers
END
		ddupd --interval 1 /etc/ddup >>/tmp/ddupd.log 2>&1 &
		echo \$! >/tmp/ddupd.pid
		for _ in \$(seq 600); do [ ! -b /dev/ddup0 ] || exit 0; sleep 0.1; done
		cat /tmp/ddupd.log; exit 1
	"
}

make_set() { # options of ddup format...
	local invitation node
	on a "ddup format --set $* /dev/vda && ddup attach /dev/vda" || return
	on a 'ddup list --json | jq -r ".devices[0].store_uuid"' >"$pair/uuid-a" || return
	for node in $(others_of a); do
		invitation=$(on a 'ddup set invite /dev/ddup0') || return
		on "$node" "ddup format --replica-of $invitation /dev/vda && ddup attach /dev/vda" || return
		on "$node" 'ddup list --json | jq -r ".devices[0].store_uuid"' >"$pair/uuid-$node" || return
		on a "ddup peer add /dev/ddup0 $(uuid_of "$node")" || return
	done
	serve a || return
	for node in $(others_of a); do
		serve "$node" && on a "ddup peer join --timeout 300 /dev/ddup0 $(uuid_of "$node")" || return
	done
	on a 'ddup set show'
}

guest() { # node command
	on "$1" "OTHER=$(uuid_of "${3:-$(other_of "$1")}"); . ./pair_guest.sh; $2"
}

# Whoever wrote last may still be seen to flush between the two looks.
level() { # node node
	local one other
	for _ in 1 2 3; do
		guest "$1" 'wait_for 300 is_level && told .position' "$2" >"$pair/position-$1" || { cat "$pair/position-$1"; return 1; }
		guest "$2" 'told .position' >"$pair/position-$2" || { cat "$pair/position-$2"; return 1; }
		one=$(cat "$pair/position-$1") other=$(cat "$pair/position-$2")
		[ -z "$one" ] || [ "$one" != "$other" ] || return 0
		sleep 1
	done
	echo "$1 is at $one, $2 at $other"
	return 1
}

sum_of() { # node
	guest "$1" 'sum_of /dev/ddup0'
}

hand_over() { # from to
	local from=$1 to=$2 before after
	before=$(sum_of "$from") || { echo "$before"; return 1; }
	guest "$from" 'ddup demote /dev/ddup0' || return
	guest "$to" 'ddup promote --wait 300 /dev/ddup0' || return
	after=$(sum_of "$to") || { echo "$after"; return 1; }
	[ "$before" = "$after" ] || { echo "$from held $before, $to holds $after"; return 1; }
}
