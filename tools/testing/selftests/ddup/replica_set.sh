#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Replica sets of two and three stores in one machine, driven by the tool and the daemon alone.
# vm: disk=2G mem=3072 timeout=3000

# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

FAILED=1
USAGE=2
NOT_FOUND=3
BUSY=5
PATIENCE=${PATIENCE:-120}
SIZE=${SIZE:-64M}

# --- asking ----------------------------------------------------------------------------------

# What `set show` tells of the set of a device's store.
told() { # device jq-expression
	ddup set show --json "$1" | jq -r ".sets[0] | $2"
}

is() { # device jq-condition
	[ "$(told "$1" "$2")" = true ]
}

uuid_of() { # device
	ddup list --json "$1" | jq -r '.devices[0].store_uuid'
}

# What a device's store knows of a member.
member() { # device uuid field
	told "$1" ".members[] | select(.store_uuid == \"$2\") | .$3"
}

is_member() { # device uuid field value
	[ "$(member "$1" "$2" "$3")" = "$4" ]
}

sum_of() { # device
	dd if="$1" bs=1M iflag=direct status=none | sha256sum
}

fill() { # device seek-in-MiB count-in-MiB
	dd if=/dev/urandom of="$1" bs=1M seek="$2" count="$3" oflag=direct conv=fsync,notrunc status=none
}

# --- making ----------------------------------------------------------------------------------

# A new set: its only store is attached, as $one.
make_set() {
	make_store 192M --set --size "$SIZE"
	attach "$device"
	one=$ddup
	first=$device
	wait_for "$PATIENCE" is "$one" '.role == "primary"'
	one_uuid=$(uuid_of "$one")
}

# A store that is a member of the set of $1 from here on, attached as $ddup.
add_store() { # primary
	local primary=$1
	ddup set invite --json "$primary" | jq -r .invitation >/tmp/ddup-test.invitation
	defer rm -f /tmp/ddup-test.invitation
	make_file 192M
	make_loop "$file"
	ddup format --replica-of /tmp/ddup-test.invitation "$device"
	attach "$device"
	ddup peer add "$primary" "$ddup"
}

# Two stores in sync, connected: $one is primary, $two the other.
make_pair() {
	make_set
	add_store "$one"
	two=$ddup
	second=$device
	two_uuid=$(uuid_of "$two")
	ddup peer connect --local "$one" "$two"
	ddup peer join --timeout "$PATIENCE" "$one" "$two"
}

# Hands over from one store to another, which are both in sync.
hand_over() { # from to
	ddup demote "$1"
	ddup promote "$2"
	ddup peer connect --local "$1" "$2"
	wait_for "$PATIENCE" is "$2" '.role == "primary"'
}

# --- what is claimed -------------------------------------------------------------------------

a_set_begins_with_one_store_that_leads_by_itself() {
	local before
	make_set
	[ "$(told "$one" '.members | length')" = 1 ]
	is "$one" '.members[0] | .own and .primary and .state == "in-sync"'
	[ "$(state_of "$one")" = online ]
	fill "$one" 0 4
	before=$(sum_of "$one")
	ddup detach "$one"
	ddup check "$first"
	attach "$first"
	wait_for "$PATIENCE" is "$ddup" '.role == "primary"'
	[ "$before" = "$(sum_of "$ddup")" ]
	ddup status "$ddup" | grep 'is primary in replica set'
	# A store of no set is none of this.
	make_store 64M
	attach "$device"
	refused $NOT_FOUND 'in no replica set' ddup set show "$ddup"
	refused $NOT_FOUND 'in no replica set.*--set' ddup set invite "$ddup"
	refused $NOT_FOUND 'in no replica set' ddup promote "$ddup"
}

a_second_store_gets_what_the_first_has_and_joins() {
	local before begun
	make_set
	fill "$one" 0 8
	begun=$SECONDS
	add_store "$one"
	# Nobody waits for it to lead.
	[ $((SECONDS - begun)) -lt 8 ]
	two=$ddup
	two_uuid=$(uuid_of "$two")
	# It follows, and shows nothing.
	[ "$(state_of "$two")" = replica ]
	is "$two" '.role == "replica"'
	if dd if="$two" bs=4k count=1 of=/dev/null status=none; then
		fail "a replica was read"
	fi
	[ "$(blockdev --getsize64 "$one")" = "$(($(cat /sys/block/"${two#/dev/}"/size) * 512))" ]
	is_member "$one" "$two_uuid" state async
	refused $FAILED 'connection to it is absent' ddup peer join --timeout 1 "$one" "$two"
	ddup peer connect --local "$one" "$two"
	ddup peer join --timeout "$PATIENCE" "$one" "${two_uuid:0:8}"
	is_member "$one" "$two_uuid" state in-sync
	wait_for "$PATIENCE" is_member "$two" "$two_uuid" state in-sync
	fill "$one" 8 8
	[ "$(member "$one" "$two_uuid" sent_blocks)" -ge 2048 ]
	[ "$(member "$one" "$two_uuid" lag_epochs)" -le 1 ]
	# The same again costs references.
	local sent
	sent=$(member "$one" "$two_uuid" sent_bytes)
	dd if="$one" of="$one" bs=1M count=8 seek=16 iflag=direct oflag=direct conv=fsync,notrunc status=none
	[ $(($(member "$one" "$two_uuid" sent_bytes) - sent)) -lt $((1 << 20)) ]
	before=$(sum_of "$one")
	hand_over "$one" "$two"
	[ "$before" = "$(sum_of "$two")" ]
	# And back.
	fill "$two" 4 2
	before=$(sum_of "$two")
	hand_over "$two" "$one"
	[ "$before" = "$(sum_of "$one")" ]
}

who_is_in_use_is_not_demoted() {
	make_pair
	mkdir -p /tmp/ddup-test.mnt
	defer rmdir /tmp/ddup-test.mnt
	mkfs.ext4 -q "$one"
	mount "$one" /tmp/ddup-test.mnt
	defer umount -q /tmp/ddup-test.mnt
	refused $BUSY 'in use' ddup demote "$one"
	refused $BUSY 'is primary.*demote' ddup promote "$two"
	refused $BUSY 'I/O errors' ddup fence "$one"
	cp -r /usr/share/doc /tmp/ddup-test.mnt/ 2>/dev/null || :
	echo hello >/tmp/ddup-test.mnt/file
	umount /tmp/ddup-test.mnt
	hand_over "$one" "$two"
	e2fsck -fn "$two"
	mount "$two" /tmp/ddup-test.mnt
	[ "$(cat /tmp/ddup-test.mnt/file)" = hello ]
	umount /tmp/ddup-test.mnt
}

flushes_wait_for_who_is_in_sync_until_it_is_left_out() {
	local writer
	make_pair
	fill "$one" 0 1
	ddup peer drop "$one" "$two"
	fill "$one" 1 1 &
	writer=$!
	wait_for "$PATIENCE" is "$one" '.waiting_flushes > 0'
	sleep 2
	kill -0 "$writer" || fail "a flush ended though nobody else had it"
	refused $FAILED "$two_uuid is in sync.*--fenced.*--force" ddup peer shrink "$one" "$two"
	ddup peer shrink --force "$one" "$two"
	wait "$writer"
	is_member "$one" "$two_uuid" state async
	fill "$one" 2 1
	# It comes back by what it lacks.
	ddup peer connect --local "$one" "$two"
	ddup peer join --timeout "$PATIENCE" "$one" "$two"
	local before
	before=$(sum_of "$one")
	hand_over "$one" "$two"
	[ "$before" = "$(sum_of "$two")" ]
}

flushes_that_wait_fail_on_demand() {
	local writer
	make_pair
	ddup peer drop "$one" "$two"
	fill "$one" 0 1 &
	writer=$!
	wait_for "$PATIENCE" is "$one" '.waiting_flushes > 0'
	ddup set fail-flushes "$one"
	if wait "$writer"; then
		fail "a flush succeeded that nobody else has"
	fi
	ddup peer connect --local "$one" "$two"
	wait_for "$PATIENCE" is_member "$one" "$two_uuid" link connected
	fill "$one" 0 1
}

three_stores_hold_the_same_and_one_may_go() {
	local before three
	make_pair
	add_store "$one"
	three=$ddup
	ddup peer connect --local "$one" "$three"
	fill "$one" 0 4
	ddup peer join --timeout "$PATIENCE" "$one" "$three"
	[ "$(told "$one" '[.members[] | select(.state == "in-sync")] | length')" = 3 ]
	fill "$one" 4 4
	before=$(sum_of "$one")
	# The third one becomes primary; both others have to acknowledge that, so it knows that they are there.
	ddup demote "$one"
	refused $FAILED "$two_uuid is in sync and not connected" ddup promote "$three"
	ddup peer connect --local "$two" "$three"
	ddup promote "$three"
	ddup peer connect --local "$three" "$one"
	sleep 1
	is "$three" '.role == "reconciling"'
	ddup peer connect --local "$three" "$two"
	wait_for "$PATIENCE" is "$three" '.role == "primary"'
	[ "$before" = "$(sum_of "$three")" ]
	fill "$three" 8 2
	# One is left out, and goes for good.
	refused $BUSY 'in sync.*shrink' ddup peer remove "$three" "$two"
	ddup peer shrink --force --out "$three" "$two"
	is_member "$three" "$two_uuid" state out
	refused $FAILED 'out and gets nothing' ddup peer join "$three" "$two"
	ddup peer remove "$three" "$two"
	[ "$(told "$three" '.members | length')" = 2 ]
	refused $NOT_FOUND 'no member' ddup peer join "$three" "$two_uuid"
	fill "$three" 10 2
	before=$(sum_of "$three")
	hand_over "$three" "$one"
	[ "$before" = "$(sum_of "$one")" ]
}

who_was_fenced_is_left_out_by_a_new_reign() {
	local statement
	make_pair
	fill "$one" 0 1
	ddup peer drop "$one" "$two"
	statement=$(ddup fence --json "$two" | jq -r .statement)
	refused $FAILED 'is the primary' ddup peer shrink --fenced "$statement" "$one" "$one"
	ddup peer shrink --fenced "$statement" "$one" "$two"
	wait_for "$PATIENCE" is "$one" '.role == "primary"'
	is_member "$one" "$two_uuid" state async
	fill "$one" 1 1
}

a_primary_that_cannot_hand_over_is_demoted_by_force() {
	local writer
	make_pair
	fill "$one" 0 1
	ddup peer drop "$one" "$two"
	fill "$one" 1 1 &
	writer=$!
	wait_for "$PATIENCE" is "$one" '.waiting_flushes > 0'
	[ "$(ddup demote --force --json "$one" | jq .position.epoch)" -gt 0 ]
	if wait "$writer"; then
		fail "a flush succeeded that nobody else has"
	fi
	is "$one" '.role == "replica"'
	ddup peer connect --local "$one" "$two"
	[ "$(ddup promote --json "$two" | jq -r .device)" = "$two" ]
	ddup peer connect --local "$one" "$two"
	wait_for "$PATIENCE" is "$two" '.role == "primary"'
	[ "$(ddup demote --json "$two" | jq .position.epoch)" -gt 0 ]
}

was_told() { # what
	jq -e --arg what "$1" 'select(.event == "set-changed" and .what == $what)' /tmp/ddup-test.events
}

what_happens_to_a_set_is_told() {
	local what
	make_set
	ddup events --json >/tmp/ddup-test.events &
	defer kill $!
	defer rm -f /tmp/ddup-test.events
	wait_for "$PATIENCE" listening
	add_store "$one"
	two=$ddup
	ddup peer connect --local "$one" "$two"
	ddup peer join --timeout "$PATIENCE" "$one" "$two"
	hand_over "$one" "$two"
	ddup peer drop "$one" "$two"
	for what in config peer-up joinable demoted reconciled peer-lost; do
		wait_for "$PATIENCE" was_told "$what"
	done
	# One sequence for all of it.
	jq -s -e '[.[].seq] | . == (sort | unique)' /tmp/ddup-test.events
}

# A generic netlink socket is a member of a group.
listening() {
	awk '$2 == 16 && $4 != "00000000" { found = 1 } END { exit !found }' /proc/net/netlink
}

who_was_fenced_is_left_out_of_a_promotion() {
	local statement term before
	make_pair
	fill "$one" 0 2
	before=$(sum_of "$one")
	ddup demote "$one"
	ddup peer drop "$one" "$two"
	wait_for "$PATIENCE" is_member "$two" "$one_uuid" link absent
	refused $FAILED "$one_uuid is in sync and not connected.*ddup fence --term" ddup promote "$two"
	term=$(ddup promote "$two" 2>&1 | sed -n 's/.*--term \([0-9]*\) .*/\1/p')
	refused $USAGE 'refuses terms below' ddup fence --term 1 "$one"
	statement=$(ddup fence --term "$term" "$one")
	grep -q '^ddup-fenced:' <<<"$statement"
	refused $USAGE 'not whole' ddup promote --fenced "${statement%?}" "$two"
	ddup promote --fenced "$statement" "$two"
	wait_for "$PATIENCE" is "$two" '.role == "primary"'
	is_member "$two" "$one_uuid" state async
	[ "$before" = "$(sum_of "$two")" ]
	fill "$two" 2 2
	ddup peer connect --local "$two" "$one"
	ddup peer join --timeout "$PATIENCE" "$two" "$one"
	before=$(sum_of "$two")
	hand_over "$two" "$one"
	[ "$before" = "$(sum_of "$one")" ]
}

what_only_a_lost_primary_had_is_kept_until_a_person_gives_it_up() {
	local before
	make_pair
	fill "$one" 0 2
	before=$(sum_of "$one")
	# What is written now is acknowledged by nobody else.
	ddup peer drop "$one" "$two"
	dd if=/dev/urandom of="$one" bs=1M seek=4 count=1 oflag=direct conv=notrunc status=none
	sleep 3
	ddup detach --force "$one"
	refused $FAILED "$one_uuid is in sync and not connected" ddup promote "$two"
	ddup promote --force --wait 60 "$two"
	[ "$before" = "$(sum_of "$two")" ]
	fill "$two" 8 1
	attach "$first"
	one=$ddup
	is "$one" '.role == "replica"'
	ddup peer connect --local "$two" "$one"
	wait_for "$PATIENCE" is "$one" '.history_kept'
	sleep 1
	is_member "$two" "$one_uuid" state async
	refused $FAILED 'epochs behind|acknowledged nothing|connection' \
		ddup peer join --timeout 2 "$two" "$one"
	refused $USAGE 'discard-local' ddup peer resolve "$one"
	ddup peer resolve --discard-local "$one"
	ddup peer connect --local "$two" "$one"
	ddup peer join --timeout "$PATIENCE" "$two" "$one"
	before=$(sum_of "$two")
	hand_over "$two" "$one"
	[ "$before" = "$(sum_of "$one")" ]
}

wrong_use_is_refused_in_words() {
	make_pair
	refused $BUSY 'a member already, in-sync' ddup peer add "$one" "$two"
	refused $FAILED "not primary.*$one_uuid" ddup peer add "$two" "$one"
	refused $NOT_FOUND 'names no store' ddup peer add "$one" /nowhere
	refused $NOT_FOUND 'no other member' ddup peer drop "$one" 00112233-4455-6677-8899-aabbccddeeff
	refused $FAILED 'not primary' ddup demote "$two"
	refused $BUSY 'primary already' ddup promote "$one"
	refused $BUSY 'is primary' ddup peer resolve --discard-local "$one"
	refused $USAGE 'volumes of one store' ddup peer connect --local "$one" "$one"
	refused $FAILED 'is the primary' ddup peer shrink --force "$one" "$one"
	refused $FAILED '2 are in sync' ddup set min-in-sync "$one" 3
	ddup set min-in-sync "$one" 2
	is "$one" '.min_insync == 2'
	refused $FAILED '1 would be left in sync.*min-in-sync' ddup peer shrink --force "$one" "$two"
	fill "$one" 0 1
	# Another set.
	local other
	make_store 192M --set --size 64M
	attach "$device"
	other=$ddup
	refused $USAGE 'not of the same replica set' ddup peer connect --local "$one" "$other"
	# Format.
	make_file 192M
	refused_unchanged "$file" $USAGE 'fingerprint=blake2b' ddup format --set --fingerprint=xxh64 "$file"
	refused_unchanged "$file" $USAGE 'no invitation' ddup format --replica-of ddup-invitation:00 "$file"
	refused_unchanged "$file" $USAGE 'by blake2b' \
		ddup format --fingerprint=sha256 --replica-of "$(ddup set invite "$one")" "$file"
	refused_unchanged "$file" $NOT_FOUND '/nowhere' ddup format --replica-of /nowhere "$file"
	: "$second"
}

# --- the daemon ------------------------------------------------------------------------------

PORT=7789

start_daemon() {
	ddupd --interval 1 --metrics 127.0.0.1:9741 "$config" 2>>"$log" &
	daemon=$!
}

end_daemon() {
	[ -z "${daemon:-}" ] || kill "$daemon" 2>/dev/null || :
	cat "$log"
}

said() { # pattern
	grep -Eq -- "$1" "$log"
}

are_connected() {
	is_member "$one" "$two_uuid" link connected
}

# Its memory is locked, and it asks for none that I/O would have to make free (PF_MEMALLOC_NOIO).
spares_io() { # pid
	awk '/^VmLck:/ { exit !($2 > 0) }' "/proc/$1/status" &&
		[ $(($(awk '{ print $9 }' "/proc/$1/stat") & 0x80000)) != 0 ]
}

# What who speaks so from an address is answered before the daemon hangs up.
answer_to() { # address words times
	python3 - "$PORT" "$@" <<-'EOF2'
		import socket, sys
		port, source, words, times = sys.argv[1:]
		peer = socket.create_connection(("127.0.0.1", int(port)), 30, (source, 0))
		try:
		    peer.sendall(words.encode() * int(times))
		    answer = peer.recv(100)
		except ConnectionError:
		    answer = b""
		print(answer or "nothing")
	EOF2
}

the_daemon_connects_and_connects_again() {
	local uuid
	config=$(mktemp -d /tmp/ddup-test.XXXXXX)
	defer rm -rf "$config"
	log=$config/log
	make_set
	add_store "$one"
	two=$ddup
	second=$device
	two_uuid=$(uuid_of "$two")
	for store in "$first $two_uuid" "$second $one_uuid"; do
		uuid=${store#* }
		printf '%s\n' "store = '${store% *}'" '[set]' "listen = ['127.0.0.1:$PORT']" \
			"transport = 'plain'" '[[peer]]' "store = '$uuid'" "address = '127.0.0.1:$PORT'" \
			>"$config/$uuid.toml"
	done
	start_daemon
	defer end_daemon
	wait_for "$PATIENCE" are_connected
	ddup peer join --timeout "$PATIENCE" "$one" "$two"
	# A connection outlives the daemon.
	kill -9 "$daemon"
	wait "$daemon" || :
	fill "$one" 0 1
	are_connected
	start_daemon
	wait_for "$PATIENCE" spares_io "$daemon"
	ddup peer drop "$one" "$two"
	wait_for "$PATIENCE" are_connected
	fill "$one" 1 1
	# Roles change, and the daemon brings them together.
	local before
	before=$(sum_of "$one")
	ddup demote "$one"
	ddup promote --wait "$PATIENCE" "$two"
	[ "$before" = "$(sum_of "$two")" ]
	ddup demote "$two"
	ddup promote --wait "$PATIENCE" "$one"
	# Strangers and babblers.
	[ "$(answer_to 127.0.0.1 'GET / HTTP/1.1' 1)" = nothing ]
	[ "$(answer_to 127.0.0.1 x 100000)" = nothing ]
	wait_for "$PATIENCE" said '127.0.0.1: it does not speak this protocol'
	[ "$(answer_to 127.0.0.1 '' 0)" = nothing ]
	wait_for "$PATIENCE" said '127.0.0.1: it does not answer in time'
	[ "$(answer_to 127.0.0.2 '' 0)" = nothing ]
	wait_for "$PATIENCE" said '127.0.0.2: it is the address of no peer'
	are_connected
	# What metrics tell.
	exec {scraper}<>/dev/tcp/127.0.0.1/9741
	printf 'GET /metrics HTTP/1.1\r\n\r\n' >&"$scraper"
	cat <&"$scraper" >"$config/metrics"
	exec {scraper}>&-
	grep -E "^ddup_peer_link\{.*store=\"$one_uuid\".*peer=\"$two_uuid\",ddup_peer_link=\"connected\"\} 1" \
		"$config/metrics"
	grep -E "^ddup_set_role\{.*store=\"$one_uuid\".*role=\"primary\"\} 1" "$config/metrics"
	# The driver goes and comes. Nobody leads by himself then.
	ddup detach --all --force
	wait_for "$PATIENCE" rmmod ddup
	wait_for "$PATIENCE" said 'not loaded'
	load
	wait_for "$PATIENCE" test -b "$two"
	wait_for "$PATIENCE" test -b "$one"
	# The numbers of devices may be others now.
	one=$(ddup list -n -o name "$first" | tr -d ' ')
	is "$one" '.role == "replica"'
	wait_for "$PATIENCE" is_member "$one" "$two_uuid" link greeting
	ddup promote --wait "$PATIENCE" "$one"
	fill "$one" 2 1
}

if [ "${1:-}" ]; then
	load
	run_tests "$@"
	exit
fi
load
run_tests \
	a_set_begins_with_one_store_that_leads_by_itself \
	a_second_store_gets_what_the_first_has_and_joins \
	who_is_in_use_is_not_demoted \
	flushes_wait_for_who_is_in_sync_until_it_is_left_out \
	flushes_that_wait_fail_on_demand \
	three_stores_hold_the_same_and_one_may_go \
	who_was_fenced_is_left_out_by_a_new_reign \
	who_was_fenced_is_left_out_of_a_promotion \
	a_primary_that_cannot_hand_over_is_demoted_by_force \
	what_happens_to_a_set_is_told \
	what_only_a_lost_primary_had_is_kept_until_a_person_gives_it_up \
	wrong_use_is_refused_in_words \
	the_daemon_connects_and_connects_again
