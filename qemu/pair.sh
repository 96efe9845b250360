# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Two machines (or three, with NODES=abc) with a network between each two, driven by a script on the
# host that sources this file:
#
#   pair_begin                      a folder for all, in $pair; what is left ends with the script
#   node_start a --disk FILE ...    boots node a (or b, c) with qemu/vm's options, and waits for it
#   on a 'command'                  runs it there as root: its output, its exit status
#   power_cut a                     kills the machine as it is; the others go on
#   node_stop a                     orderly end; the status is qemu/vm's verdict on the whole run
#
# Node a is 192.168.7.1 and called ddup-a, b is .2 and ddup-b; $PEER is the other's address, $NODE
# the own letter. Of three, a and c meet in 192.168.8.0/24 (.1 and .3), b and c in 192.168.9.0/24.
# A network is back as soon as both machines are. A node that is started again has its disks and
# nothing else. $ON_TIMEOUT bounds a command, NODE_TIMEOUT a machine (seconds).
# Console logs are build/log/pair-<script>-<node>-<start>.log, output is in $pair/<node>.out.

pair_top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
declare -A pair_pid=() pair_input=() pair_starts=()
pair_number=0
NODES=${NODES:-ab}

pair_begin() {
	pair=$(mktemp -d /tmp/ddup-pair.XXXXXX)
	trap pair_end EXIT
	trap 'exit 143' TERM
	trap 'exit 130' INT
}

pair_end() {
	local node
	for node in "${!pair_pid[@]}"; do
		power_cut "$node"
	done
	rm -rf "$pair"
}

node_start() { # node options of qemu/vm...
	local node=$1 input output log
	shift
	pair_starts[$node]=$((${pair_starts[$node]:-0} + 1))
	log=$pair_top/build/log/pair-$(basename "$0" .sh)-$node-${pair_starts[$node]}.log
	input=$pair/$node.in output=$pair/$node.out
	rm -f "$input"
	mkfifo "$input"
	"$pair_top/qemu/vm" --pair "$pair:$node:$NODES" --input --log "$log" --timeout "${NODE_TIMEOUT:-600}" "$@" \
		-- "$pair_top/qemu/guest/agent" <"$input" >"$output" 2>"$pair/$node.err" &
	pair_pid[$node]=$!
	exec {pair_fd}>"$input"
	pair_input[$node]=$pair_fd
	pair_answer "$node" 0
}

# Waits for the answer to a command, prints what came before it, and returns its status.
pair_answer() { # node number
	local node=$1 number=$2 from=${pair_from:-0} until=$((SECONDS + ${ON_TIMEOUT:-180})) line
	until line=$(tail -c "+$((from + 1))" "$pair/$node.out" | grep -a -m 1 $'\037'"$number "); do
		if ! kill -0 "${pair_pid[$node]}" 2>/dev/null; then
			echo "node $node has ended: $(grep '^vm:' "$pair/$node.err")" >&2
			return 255
		elif [ $SECONDS -ge $until ]; then
			echo "node $node: no answer within ${ON_TIMEOUT:-180} s" >&2
			return 254
		fi
		sleep 0.05
	done
	# The output may not end in a newline.
	tail -c "+$((from + 1))" "$pair/$node.out" |
		sed -e "s/\r\$//; /^"$'\037'"$number /,\$d" -e "/"$'\037'"$number /{s/"$'\037'".*//;q}"
	line=${line%$'\r'}
	return "${line##* }"
}

on() { # node command...
	local node=$1 pair_from
	shift
	[ -n "${pair_pid[$node]:-}" ] || { echo "node $node is not started" >&2; return 255; }
	pair_number=$((pair_number + 1))
	pair_from=$(stat -c %s "$pair/$node.out")
	echo "$pair_number $(base64 -w 0 <<<"$*")" >&"${pair_input[$node]}"
	pair_answer "$node" "$pair_number"
}

pair_wait() { # node: the machine's verdict, with what it has to say
	local node=$1 fd=${pair_input[$1]} status=0
	wait "${pair_pid[$node]}" || status=$?
	exec {fd}>&-
	unset "pair_pid[$node]" "pair_input[$node]"
	[ "$status" = 0 ] || sed "s/^/$node: /" "$pair/$node.err" >&2
	return "$status"
}

power_cut() { # node
	kill -USR1 "${pair_pid[$1]}"
	pair_wait "$1"
}

node_stop() { # node
	echo end >&"${pair_input[$1]}"
	pair_wait "$1"
}
