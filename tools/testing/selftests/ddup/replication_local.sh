#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Member stores of one replica set in one kernel, joined over TCP: what one writes the others have,
# FLUSHes wait for members in sync and for nobody else, and no peer holds anything up.
#
#	store[0] -> ddup[0], the first primary      a session is two sockets of one connection
#	store[1] -> ddup[1], in sync                through lo, an end for each store
#	store[2] -> ddup[2], in sync or not
#
# vm: disk=64M mem=2048 timeout=3000

# shellcheck source=tools/testing/selftests/ddup/members.sh
. "${BASH_SOURCE[0]%/*}/members.sh"

HOSTILE=${BASH_SOURCE[0]%/*}/hostile_peer.py

# --- making ----------------------------------------------------------------------------------

# A set whose first member is primary; the others are in sync unless named async.
make_set() { # state of each further member: in-sync or async
	local n=0 state invitation
	ip link set lo up
	store=() dev=() uuid=()
	make_member 0 --set --size 64M
	attach_member 0
	invitation=$(ddup set invite "${dev[0]}")
	for state in "$@"; do
		n=$((n + 1))
		make_member "$n" --replica-of "$invitation"
		attach_member "$n"
		ddup peer add "${dev[0]}" "${uuid[n]}"
		connect 0 "$n"
		[ "$state" = async ] || ddup peer join --timeout 60 "${dev[0]}" "${uuid[n]}"
	done
}

# --- asking ----------------------------------------------------------------------------------

# What a store says of its set.
shown() { # number jq-expression
	ddup set show --json "${dev[$1]}" | jq -r ".sets[0] | $2"
}

# What a store says of another one.
of_peer() { # number of-number field
	shown "$1" ".members[] | select(.store_uuid == \"${uuid[$2]}\") | .$3"
}

is_linked() { # number number
	[ "$(of_peer "$1" "$2" link)" = connected ]
}

# It is known about how long a full compare still takes.
is_estimated() { # number of-number
	[ "$(of_peer "$1" "$2" compare.left_ms)" != null ]
}

# So many blocks of a compare are done.
has_compared() { # number of-number blocks
	[ "$(of_peer "$1" "$2" 'compare.blocks // 0')" -ge "$3" ]
}

# A compare goes on where an earlier connection was.
goes_on() { # number of-number
	[ "$(of_peer "$1" "$2" compare.resumed_blocks)" != null ]
}

is_cut() { # number number
	[ "$(of_peer "$1" "$2" link)" = absent ]
}

# A primary's peer has all that is durable there.
is_level() { # number of-number
	[ "$(of_peer "$1" "$2" lag_epochs)" = 0 ] && [ "$(shown "$1" .position)" = "$(shown "$2" .position)" ]
}

role_of() { # number
	shown "$1" .role
}

is_primary() { # number
	[ "$(role_of "$1")" = primary ]
}

waits() { # number
	[ "$(shown "$1" .waiting_flushes)" -gt 0 ]
}

content_of() { # number
	dd if="${dev[$1]}" bs=1M iflag=direct status=none | sha256sum
}

# In blocks of 4 KiB; in large writes where all are. A last write that is smaller would be flushed.
scribble() { # number first-block blocks
	local size=1
	[ $(($2 % 16 + $3 % 16)) != 0 ] || size=16
	dd if=/dev/urandom of="${dev[$1]}" bs=$((size * 4096)) seek=$(($2 / size)) count=$(($3 / size)) \
		iflag=fullblock oflag=direct conv=notrunc status=none
}

# Reads all the time in the background, as $reader.
read_on() { # number
	while dd if="${dev[$1]}" of=/dev/null bs=64k count=16 iflag=direct status=none; do :; done &
	reader=$!
	defer stop_reading
}

stop_reading() {
	! kill "$reader" 2>/dev/null || wait "$reader" 2>/dev/null || :
}

# UUIDs and sizes of the volumes of a store.
volumes_of() { # number
	ddup status --json | jq -r ".devices[] | select(.store_uuid == \"${uuid[$1]}\")
		| \"\(.volume_uuid) \(.size)\"" | sort
}

volume_of() { # device
	ddup status --json "$1" | jq -r '.devices[0].volume_uuid'
}

# The device of a volume in a store.
device_of() { # number volume
	ddup status --json | jq -r ".devices[]
		| select(.store_uuid == \"${uuid[$1]}\" and .volume_uuid == \"$2\") | \"/dev/\" + .name"
}

have_same_volumes() { # number number
	[ "$(volumes_of "$1")" = "$(volumes_of "$2")" ]
}

contents_of() { # number
	local volume size
	volumes_of "$1" | while read -r volume size; do
		echo "$volume $size"
		dd if="$(device_of "$1" "$volume")" bs=1M iflag=direct status=none | sha256sum
	done
}

# Of a replica too, which is not opened.
size_of() { # device
	echo $(($(cat "/sys/class/block/${1#/dev/}/size") * 512))
}

fill() { # device MiB [first-MiB]
	dd if=/dev/urandom of="$1" bs=1M count="$2" seek="${3:-0}" iflag=fullblock oflag=direct \
		conv=notrunc status=none
}

milliseconds() {
	date +%s%3N
}

# A FLUSH in the background that waits, as $waiter. Its status is in /tmp/flushed when it ended.
begin_flush() { # number
	scribble "$1" 0 1
	begin_sync "$1"
}

# The same, of what was written before.
begin_sync() { # number
	rm -f /tmp/flushed
	(
		ended=failed
		! sync "${dev[$1]}" || ended=ok
		echo "$ended" >/tmp/flushed
	) &
	waiter=$!
	wait_for 30 waits "$1"
	[ ! -e /tmp/flushed ] || fail "a FLUSH ended that nobody else has"
}

flush_ended() { # ok or failed
	wait "$waiter"
	[ "$(cat /tmp/flushed)" = "$1" ] || fail "the FLUSH ended: $(cat /tmp/flushed)"
}

# A new term ends sessions, so its members are connected until it leads.
leads_when_connected() { # number
	local n
	! is_primary "$1" || return 0
	for n in "${!dev[@]}"; do
		[ "$n" = "$1" ] || is_linked "$1" "$n" || connect "$1" "$n"
	done
	sleep 0.5
	is_primary "$1"
}

# The primary hands over to another one.
hand_over() { # from to
	local n
	for n in "${!dev[@]}"; do
		[ "$n" = "$2" ] || [ "$n" = "$1" ] || connect "$2" "$n"
	done
	ddup demote "${dev[$1]}"
	ddup promote "${dev[$2]}"
	wait_for 30 leads_when_connected "$2"
}

# All stores are sound, and detached.
close_and_check() {
	local n
	for n in "${!dev[@]}"; do
		ddup detach "${dev[n]}"
	done
	for n in "${!store[@]}"; do
		ddup check "${store[n]}"
	done
}

threads() {
	cat /proc/[0-9]*/comm 2>/dev/null | grep -c '^ddup_' || true
}

has_threads() { # number
	[ "$(threads)" = "$1" ]
}

# --- claims ----------------------------------------------------------------------------------

what_one_writes_the_other_has() {
	make_set in-sync
	scribble 0 0 2000
	scribble 0 1000 100
	blkdiscard --offset 40960 --length 409600 "${dev[0]}"
	dd if=/dev/zero of="${dev[0]}" bs=64k count=4 seek=20 oflag=direct conv=notrunc status=none
	sync "${dev[0]}"
	is_level 0 1
	local before
	before=$(content_of 0)
	hand_over 0 1
	[ "$before" = "$(content_of 1)" ]
	# And back, with more.
	scribble 1 4992 320
	sync "${dev[1]}"
	before=$(content_of 1)
	hand_over 1 0
	[ "$before" = "$(content_of 0)" ]
	close_and_check
}

a_file_system_moves_from_one_to_the_other() {
	make_set in-sync
	make_folder
	mkfs.ext4 -q "${dev[0]}"
	defer umount -q "$folder"
	mount "${dev[0]}" "$folder"
	cp -r /usr/share/perl* /usr/lib/python3*/json "$folder" 2>/dev/null || cp -r /etc "$folder"
	(cd "$folder" && find . -type f -exec sha256sum {} + | sort) >/tmp/sums
	[ -s /tmp/sums ]
	refused 5 'in use' ddup demote "${dev[0]}"
	umount "$folder"
	hand_over 0 1
	fsck.ext4 -fn "${dev[1]}"
	mount "${dev[1]}" "$folder"
	(cd "$folder" && sha256sum --quiet -c /tmp/sums)
	umount "$folder"
	close_and_check
}

a_late_member_gets_all_and_three_are_equal() {
	make_set in-sync async
	# More than is kept in memory for those who are behind.
	ddup peer drop "${dev[0]}" "${uuid[2]}"
	wait_for 10 is_cut 0 2
	scribble 0 0 10000
	scribble 0 2000 160
	sync "${dev[0]}"
	# It makes room for who reads meanwhile, so there is time to look at it.
	ddup set "${dev[0]}" resync_tranquility=1000
	read_on 0
	connect 0 2
	is_compared() { [ "$(of_peer 0 2 compare.blocks)" != null ]; }
	wait_for 60 is_compared
	wait_for 120 is_estimated 0 2
	ddup set show "${dev[0]}" | tee /tmp/shown
	# In full, or of what changed since it was here: then all blocks are passed, mapped or not.
	local all='(39|40)\.[0-9]M'
	[ "$(of_peer 0 2 compare.since_epoch)" = null ] || all='64\.0M'
	grep -Eq ", resync( of changes)? [0-9]+%, [0-9.]+[KM] of $all, [0-9ms]+ left," /tmp/shown
	[ "$(of_peer 0 2 compare.of_blocks)" -ge 10000 ]
	[ "$(of_peer 0 2 compare.percent)" -lt 100 ]
	stop_reading
	ddup set "${dev[0]}" resync_tranquility=default
	wait_for 600 is_level 0 2
	if is_compared; then
		fail "a compare goes on of what is equal"
	fi
	[ "$(of_peer 0 2 lag_entries)" = 0 ]
	is_level 0 1
	local before
	before=$(content_of 0)
	ddup peer join --timeout 60 "${dev[0]}" "${uuid[2]}"
	hand_over 0 2
	[ "$before" = "$(content_of 2)" ]
	close_and_check
}

# A member was away for longer than its primary remembers. It is compared, slowly since somebody reads, and
# in the middle it is cut off: $seen blocks of $all were done just before.
interrupt_a_compare() {
	all=10000
	make_set async
	ddup peer drop "${dev[0]}" "${uuid[1]}"
	wait_for 10 is_cut 0 1
	scribble 0 0 "$all"
	sync "${dev[0]}"
	ddup set "${dev[0]}" resync_tranquility=1000
	read_on 0
	connect 0 1
	wait_for 120 has_compared 0 1 $((all * 2 / 3))
	[ "$(of_peer 0 1 compare.resumed_blocks)" = null ]
	seen=$(of_peer 0 1 compare.blocks)
	ddup peer drop "${dev[0]}" "${uuid[1]}"
	wait_for 10 is_cut 0 1
	[ "$(shown 0 .position)" != "$(shown 1 .position)" ] || fail "it was over before it was cut"
}

# Lets the compare end, and holds the member against its primary.
end_the_compare() {
	local before
	stop_reading
	ddup set "${dev[0]}" resync_tranquility=default
	wait_for 300 is_level 0 1
	before=$(content_of 0)
	told=$(of_peer 0 1 'saved_bytes / 4096 + .sent_blocks')
	sent=$(of_peer 0 1 sent_blocks)
	figure "it was told of $told blocks of $all in $(of_peer 0 1 sent_bytes) bytes, $sent with their data"
	ddup peer join --timeout 60 "${dev[0]}" "${uuid[1]}"
	hand_over 0 1
	[ "$before" = "$(content_of 1)" ]
	close_and_check
}

an_interrupted_compare_goes_on_where_it_was() {
	local all seen resumed told sent
	interrupt_a_compare
	connect 0 1
	wait_for 20 goes_on 0 1
	ddup set show "${dev[0]}" | tee /tmp/shown
	grep -Eq ', resync( of changes)? [0-9]+%, [0-9.]+M of [0-9.]+M, resumed at [0-9.]+M' /tmp/shown
	resumed=$(of_peer 0 1 compare.resumed_blocks)
	figure "cut off after $seen blocks, it went on at $resumed"
	# But for what was on its way: that is four of the largest epochs at most.
	[ "$resumed" -ge $((seen - 4 * 512)) ]
	[ "$resumed" -lt "$all" ]
	end_the_compare
	[ "$told" = $((all - resumed)) ]
}

after_an_attach_of_the_replica_a_compare_begins_anew() {
	local all seen told sent
	interrupt_a_compare
	ddup detach "${dev[1]}"
	attach_member 1
	connect 0 1
	wait_for 20 has_compared 0 1 1
	[ "$(of_peer 0 1 compare.resumed_blocks)" = null ]
	[ "$(of_peer 0 1 compare.blocks)" -lt "$seen" ]
	end_the_compare
	[ "$told" = "$all" ]
	# What came before the cut is found again.
	[ "$sent" -le $((all - seen + 4 * 512)) ]
}

volumes_come_change_and_go_on_all_members() {
	make_set in-sync
	local second third there gone before
	refused 1 'not primary' ddup create "${dev[1]}" --size 4M
	refused 1 'not primary' ddup resize "${dev[1]}" 128M
	second=$(ddup create "${dev[0]}" --size 20M)
	third=$(ddup create "${dev[0]}" --size 8M)
	fill "$second" 20
	fill "$third" 8
	sync "$second"
	wait_for 10 have_same_volumes 0 1
	[ "$(volumes_of 1 | wc -l)" = 3 ]
	there=$(device_of 1 "$(volume_of "$second")")
	gone=$(device_of 1 "$(volume_of "$third")")
	[ "$(size_of "$there") $(size_of "$gone")" = "$((20 << 20)) $((8 << 20))" ]
	refused 1 'Wrong medium type' dd if="$there" of=/dev/null bs=4096 count=1
	refused 1 'not primary' ddup remove "$there"
	# Behind the old end, where the map gets more levels; and back.
	ddup resize "$second" 1G
	fill "$second" 4 1000
	sync "$second"
	wait_for 10 have_same_volumes 0 1
	[ "$(size_of "$there")" = $((1 << 30)) ]
	ddup resize "$second" 12M
	ddup remove "$third"
	sync "$second"
	wait_for 10 have_same_volumes 0 1
	[ "$(size_of "$there")" = $((12 << 20)) ]
	[ ! -e "$gone" ]
	is_level 0 1
	before=$(contents_of 0)
	hand_over 0 1
	[ "$before" = "$(contents_of 1)" ]
	# And the other way round.
	wait_for 30 is_linked 1 0
	ddup remove "$there"
	third=$(ddup create "${dev[1]}" --size 6M)
	fill "$third" 6
	sync "$third"
	wait_for 10 have_same_volumes 1 0
	[ ! -e "$second" ] || [ "$(volume_of "$second")" = "$(volume_of "$third")" ]
	before=$(contents_of 1)
	hand_over 1 0
	[ "$before" = "$(contents_of 0)" ]
	close_and_check
}

a_compare_ends_with_the_volumes_of_the_primary() {
	make_set async
	local stays goes comes before
	stays=$(ddup create "${dev[0]}" --size 16M)
	goes=$(ddup create "${dev[0]}" --size 4M)
	fill "$stays" 16
	fill "$goes" 4
	sync "$stays"
	wait_for 60 is_level 0 1
	wait_for 10 have_same_volumes 0 1
	ddup peer drop "${dev[0]}" "${uuid[1]}"
	wait_for 10 is_cut 0 1
	ddup resize "$stays" 5M
	ddup remove "$goes"
	comes=$(ddup create "${dev[0]}" --size 30M)
	fill "$comes" 20 7
	ddup resize "${dev[0]}" 128M
	# More than is kept in memory for those who are behind.
	scribble 0 0 10000
	scribble 0 20000 160
	sync "${dev[0]}"
	[ "$(volumes_of 1)" != "$(volumes_of 0)" ]
	connect 0 1
	wait_for 600 is_level 0 1
	wait_for 10 have_same_volumes 0 1
	[ "$(volumes_of 1 | wc -l)" = 3 ]
	[ "$(size_of "${dev[1]}")" = $((128 << 20)) ]
	before=$(contents_of 0)
	ddup peer join --timeout 60 "${dev[0]}" "${uuid[1]}"
	hand_over 0 1
	[ "$before" = "$(contents_of 1)" ]
	close_and_check
}

duplicates_cross_as_references() {
	make_set in-sync
	local blocks bytes
	dd if=/dev/urandom of=/tmp/content bs=1M count=4 status=none
	defer rm -f /tmp/content
	dd if=/tmp/content of="${dev[0]}" bs=64k oflag=direct conv=notrunc,fsync status=none
	[ "$(of_peer 0 1 sent_blocks)" -ge 1024 ]
	[ "$(of_peer 1 0 received_blocks)" = "$(of_peer 0 1 sent_blocks)" ]
	blocks=$(of_peer 0 1 sent_blocks) bytes=$(of_peer 0 1 sent_bytes)
	dd if=/tmp/content of="${dev[0]}" bs=64k seek=128 oflag=direct conv=notrunc,fsync status=none
	[ "$(of_peer 0 1 sent_blocks)" = "$blocks" ] || fail "data of duplicates was sent"
	[ "$(of_peer 0 1 saved_bytes)" -ge $((4 << 20)) ]
	bytes=$(($(of_peer 0 1 sent_bytes) - bytes))
	figure "1024 duplicates took $bytes bytes on the wire"
	[ "$bytes" -lt $((1024 * 100)) ]
	local before
	before=$(content_of 0)
	hand_over 0 1
	[ "$before" = "$(content_of 1)" ]
}

# The bytes that went through lo.
through_lo() {
	cat /sys/class/net/lo/statistics/tx_bytes
}

# The bytes that compression has kept off the wire, as who sends and who receives counts them.
kept_off() { # from to
	of_peer "$1" "$2" 'sent_uncompressed_bytes - .sent_bytes'
}

kept_off_by() { # to from
	of_peer "$1" "$2" 'received_uncompressed_bytes - .received_bytes'
}

# A frame is counted when it was sent, which its receiver may have answered by then.
have_counted_the_same() { # from to
	[ "$(kept_off "$1" "$2")" = "$(kept_off_by "$2" "$1")" ]
}

# Files, with hardly a block twice.
real_files() { # MiB
	tar -c /usr/lib/python3* /usr/share/perl* 2>/dev/null | head -c "$1M"
}

blocks_cross_compressed_where_that_makes_them_shorter() {
	make_set in-sync async
	local before whole kept wire
	real_files 12 >/tmp/content
	dd if=/dev/urandom of=/tmp/noise bs=1M count=4 status=none
	defer rm -f /tmp/content /tmp/noise
	ddup peer drop "${dev[0]}" "${uuid[2]}"
	wait_for 10 is_cut 0 2
	# Off: as they are.
	ddup set "${dev[0]}" compress_wire=0
	dd if=/tmp/content of="${dev[0]}" bs=64k count=64 oflag=direct conv=notrunc,fsync status=none
	[ "$(of_peer 0 1 sent_blocks)" -ge 1000 ]
	[ "$(kept_off 0 1)" = 0 ]
	# On: from the next frame on.
	ddup set "${dev[0]}" compress_wire=1
	whole=$(of_peer 0 1 sent_uncompressed_bytes) wire=$(through_lo)
	dd if=/tmp/content of="${dev[0]}" bs=64k skip=64 seek=64 oflag=direct conv=notrunc,fsync status=none
	wire=$(($(through_lo) - wire))
	wait_for 10 have_counted_the_same 0 1
	whole=$(($(of_peer 0 1 sent_uncompressed_bytes) - whole)) kept=$(kept_off 0 1)
	figure "$whole bytes of files took $((whole - kept)), $wire with headers of TCP and answers"
	[ "$whole" -ge $((7 << 20)) ]
	[ $((kept * 10)) -ge $((whole * 4)) ]
	[ $((wire * 10)) -le $((whole * 7)) ]
	ddup set show "${dev[0]}" | grep 'sent with .* compressed from'
	# What does not shrink costs two bytes more for each block.
	dd if=/tmp/noise of="${dev[0]}" bs=64k seek=256 oflag=direct conv=notrunc,fsync status=none
	wait_for 10 have_counted_the_same 0 1
	[ "$(kept_off 0 1)" = $((kept - 2048)) ]
	# And blocks that are asked for: more is written than is kept in memory for who was away.
	scribble 0 6000 9008
	sync "${dev[0]}"
	connect 0 2
	wait_for 300 is_level 0 2
	figure "compression kept $(kept_off 0 2) of $(of_peer 0 2 sent_uncompressed_bytes) bytes of a resync off the wire"
	[ "$(kept_off 0 2)" -ge $((4 << 20)) ]
	ddup peer join --timeout 60 "${dev[0]}" "${uuid[2]}"
	before=$(content_of 0)
	hand_over 0 1
	[ "$before" = "$(content_of 1)" ]
	hand_over 1 2
	[ "$before" = "$(content_of 2)" ]
	close_and_check
}

a_peer_that_takes_no_compressed_blocks_gets_none() {
	make_set in-sync
	local before
	real_files 4 >/tmp/content
	defer rm -f /tmp/content
	ddup set "${dev[0]}" compress_wire=1
	"$HOSTILE" older 0 "${uuid[1]}" 1 "${uuid[0]}" >/tmp/hostile 2>&1 &
	defer kill $!
	wait_for 10 grep -q ready /tmp/hostile
	wait_for 30 is_linked 0 1
	dd if=/tmp/content of="${dev[0]}" bs=64k oflag=direct conv=notrunc,fsync status=none
	is_level 0 1
	[ "$(cat /tmp/hostile)" = ready ]
	[ "$(of_peer 0 1 sent_blocks)" -ge 1000 ]
	[ "$(kept_off 0 1)" = 0 ]
	before=$(content_of 0)
	hand_over 0 1
	[ "$before" = "$(content_of 1)" ]
}

a_slow_asynchronous_peer_is_sent_what_was_written_last() {
	make_set in-sync async
	local rounds=60 round before sent merged written
	written=$((rounds * 8 * 4096))
	"$HOSTILE" slow 0 "${uuid[2]}" 2 "${uuid[0]}" >/tmp/hostile &
	local proxy=$!
	defer kill "$proxy"
	wait_for 60 grep -q ready /tmp/hostile
	wait_for 30 is_linked 0 2
	wait_for 60 is_level 0 2
	before=$(of_peer 0 2 sent_bytes)
	# The same blocks again and again, each time an epoch; few, so that any member takes several as one.
	for ((round = 0; round < rounds; round++)); do
		scribble 0 128 8
		sync "${dev[0]}"
	done
	is_level 0 1
	[ "$(of_peer 0 1 merged_epochs)" = 0 ]
	wait_for 60 is_level 0 2
	sent=$(($(of_peer 0 2 sent_bytes) - before)) merged=$(of_peer 0 2 merged_epochs)
	figure "of $rounds epochs that write $written bytes $merged were merged, and $sent bytes sent"
	[ "$merged" -gt 0 ]
	[ "$sent" -lt "$written" ]
	ddup set show "${dev[0]}" | grep -q " $merged epochs merged"
	kill "$proxy"
	wait_for 20 is_cut 0 2
	connect 0 2
	ddup peer join --timeout 60 "${dev[0]}" "${uuid[2]}"
	before=$(content_of 0)
	hand_over 0 2
	[ "$before" = "$(content_of 2)" ]
	close_and_check
}

# A read of one block in the background, as $reader. Its status is in /tmp/was_read when it ended.
begin_read() { # number
	rm -f /tmp/was_read
	(
		ended=failed
		! dd if="${dev[$1]}" of=/dev/null bs=4096 count=1 iflag=direct status=none || ended=ok
		echo "$ended" >/tmp/was_read
	) &
	reader=$!
	sleep 1
	[ ! -e /tmp/was_read ] || fail "it was read without a lease"
}

read_ended() { # ok or failed
	wait "$reader"
	[ "$(cat /tmp/was_read)" = "$1" ] || fail "the read ended: $(cat /tmp/was_read)"
}

is_over() { # number
	[ "$(shown "$1" .lease_ms)" = 0 ]
}

a_primary_serves_no_longer_than_its_lease() {
	make_set in-sync
	[ "$(shown 0 .lease_ms)" = null ]
	ddup set lease "${dev[0]}" 3
	[ "$(shown 0 .lease_ms)" -gt 0 ]
	scribble 0 0 16
	refused 1 'not primary' ddup set lease "${dev[1]}" 3
	wait_for 30 is_over 0
	ddup set show "${dev[0]}" | grep 'lease .*over'
	begin_read 0
	begin_sync 0
	ddup set lease "${dev[0]}" 60
	read_ended ok
	flush_ended ok
	# It is for one version.
	local version
	version=$(shown 0 .version)
	ddup set lease "${dev[0]}" 60 --for-version $((version + 1))
	ddup set min-in-sync "${dev[0]}" 2
	scribble 0 0 16
	ddup set min-in-sync "${dev[0]}" 1
	is_over 0
	begin_read 0
	refused 1 'has version' ddup set lease "${dev[0]}" 60 --for-version "$version"
	ddup set fail-flushes "${dev[0]}"
	read_ended failed
	ddup set lease "${dev[0]}" --none
	[ "$(shown 0 .lease_ms)" = null ]
	scribble 0 0 16
	# A detach by force fails what waits.
	ddup set lease "${dev[0]}" 1
	wait_for 30 is_over 0
	begin_read 0
	ddup detach --force "${dev[0]}"
	read_ended failed
	ddup check "${store[0]}"
}

a_flush_waits_for_a_member_in_sync_until_it_is_back() {
	make_set in-sync
	ddup peer drop "${dev[0]}" "${uuid[1]}"
	wait_for 10 is_cut 0 1
	begin_flush 0
	# Reads and plain writes do not wait.
	scribble 0 100 10
	dd if="${dev[0]}" of=/dev/null bs=4096 count=8 iflag=direct status=none
	sleep 1
	[ ! -e /tmp/flushed ]
	connect 0 1
	flush_ended ok
	is_level 0 1
}

a_flush_goes_on_when_the_member_is_shrunk() {
	make_set in-sync
	ddup peer drop "${dev[0]}" "${uuid[1]}"
	begin_flush 0
	ddup peer shrink --force "${dev[0]}" "${uuid[1]}"
	flush_ended ok
	# It follows again once it is connected.
	connect 0 1
	wait_for 30 is_level 0 1
}

a_forced_detach_fails_flushes_within_a_second() {
	make_set in-sync
	ddup peer drop "${dev[0]}" "${uuid[1]}"
	begin_flush 0
	refused 5 "waits for ${uuid[1]}" ddup detach "${dev[0]}"
	local start took
	start=$(milliseconds)
	ddup detach --force "${dev[0]}" &
	wait "$waiter"
	took=$(($(milliseconds) - start))
	figure "a FLUSH that waits fails $took ms after the command"
	# The debug kernel's time says nothing.
	[ -e /sys/kernel/debug/kmemleak ] || [ "$took" -lt 1000 ] || fail "it took $took ms"
	[ "$(cat /tmp/flushed)" = failed ]
	wait_for 10 has_no_device "${dev[0]}"
}

has_no_device() { # device
	[ ! -e "$1" ]
}

flushes_fail_by_command_and_a_demotion_with_them() {
	make_set in-sync
	ddup peer drop "${dev[0]}" "${uuid[1]}"
	begin_flush 0
	ddup set fail-flushes "${dev[0]}"
	flush_ended failed
	# A demotion waits for the member too; it can be interrupted, and asked for again.
	timeout --signal INT 1 ddup demote "${dev[0]}" && fail "nobody took over"
	[ "$(state_of "${dev[0]}")" = replica ]
	ddup set fail-flushes "${dev[0]}"
	wait_for 10 is_primary 0
	[ "$(state_of "${dev[0]}")" = online ]
	connect 0 1
	ddup demote "${dev[0]}"
}

who_does_not_lead_is_not_opened() {
	make_set in-sync
	[ "$(state_of "${dev[0]}")" = online ]
	[ "$(state_of "${dev[1]}")" = replica ]
	local mark
	refused 1 'Read-only file system' dd if=/dev/zero of="${dev[1]}" bs=4096 count=1 conv=notrunc
	refused 1 'Wrong medium type' dd if="${dev[1]}" of=/dev/null bs=4096 count=1
	refused 32 '.' mount "${dev[1]}" /mnt
	# What looks at all devices says nothing in the log.
	mark="blkid $$"
	echo "$mark" >/dev/kmsg
	blkid -p "${dev[1]}" || true
	blockdev --getsize64 "${dev[1]}" || true
	! dmesg | sed "1,/$mark/d" | grep -E 'ddup|I/O error|Buffer' || fail "the log has the lines above"
	# One that is fenced while it is open gets errors.
	exec 9<>"${dev[0]}"
	ddup fence --force "${dev[0]}"
	refused 1 'Input/output error' dd of=/dev/null bs=4096 count=1 iflag=direct <&9
	exec 9>&-
	refused 1 'Wrong medium type' dd if="${dev[0]}" of=/dev/null bs=4096 count=1
}

a_peer_that_babbles_is_closed_and_counted() {
	make_set in-sync
	local mode refused_before
	for mode in babble header; do
		refused_before=$(shown 0 .refused_sessions)
		timeout 60 "$HOSTILE" "$mode" 0 "${uuid[1]}" >/tmp/hostile
		grep -x closed /tmp/hostile
		[ "$(shown 0 .refused_sessions)" -gt "$refused_before" ]
	done
	connect 0 1
	scribble 0 0 10
	sync "${dev[0]}"
}

compressed_blocks_that_are_none_end_the_session() {
	make_set in-sync
	local refused_before
	refused_before=$(shown 0 .refused_sessions)
	timeout 300 "$HOSTILE" packed 0 "${uuid[1]}" | tee /tmp/hostile
	grep -x 'waits good' /tmp/hostile
	[ "$(grep -c '^waits' /tmp/hostile)" = 1 ] || fail "what is no compressed block was taken"
	# Each was counted; the good one's connection was closed from here.
	[ "$(shown 0 .refused_sessions)" = $((refused_before + $(grep -c '^closed' /tmp/hostile))) ]
	connect 0 1
	scribble 0 0 10
	sync "${dev[0]}"
}

a_silent_peer_is_given_up() {
	make_set in-sync async
	"$HOSTILE" silent 0 "${uuid[2]}" >/tmp/hostile &
	defer kill $!
	wait_for 10 grep -q ready /tmp/hostile
	# It holds nobody up.
	scribble 0 0 10
	sync "${dev[0]}"
	wait_for 20 grep -q closed /tmp/hostile
	wait_for 10 is_cut 0 2
}

a_peer_that_stops_reading_holds_up_nobody() {
	make_set in-sync async
	local signal start took
	for signal in USR1 USR2; do
		"$HOSTILE" between 0 "${uuid[2]}" 2 "${uuid[0]}" >/tmp/hostile &
		local proxy=$!
		defer kill "$proxy"
		wait_for 10 grep -q ready /tmp/hostile
		wait_for 10 is_linked 0 2
		kill -s "$signal" "$proxy"
		start=$(milliseconds)
		# None of it is acknowledged. Asked at once: the peer will be given up.
		scribble 0 0 800
		[ -e /sys/kernel/debug/kmemleak ] || [ "$(of_peer 0 2 lag_bytes)" -ge $((800 * 4096)) ]
		# Far more than sockets hold.
		scribble 0 0 4000
		sync "${dev[0]}"
		scribble 0 4000 4000
		sync "${dev[0]}"
		took=$(($(milliseconds) - start))
		is_level 0 1
		# Control and other stores go on.
		timeout 5 ddup set show "${dev[0]}" >/dev/null
		make_store 64M
		timeout 20 ddup attach --number 7 "$device"
		timeout 20 ddup detach /dev/ddup7
		figure "32 MiB were durable after $took ms with a peer that is stuck ($signal)"
		wait_for 20 is_cut 0 2
		wait_for 20 is_cut 2 0
		kill "$proxy" || true
	done
	connect 0 2
	wait_for 60 is_level 0 2
}

a_stuck_peer_does_not_hold_up_a_detach() {
	make_set in-sync
	"$HOSTILE" between 0 "${uuid[1]}" 1 "${uuid[0]}" >/tmp/hostile &
	local proxy=$! start took
	defer kill "$proxy"
	wait_for 10 grep -q ready /tmp/hostile
	wait_for 10 is_linked 0 1
	kill -s USR2 "$proxy"
	dd if=/dev/urandom of="${dev[0]}" bs=1M count=32 oflag=direct conv=notrunc status=none
	start=$(milliseconds)
	ddup detach --force "${dev[0]}"
	ddup detach --force "${dev[1]}"
	took=$(($(milliseconds) - start))
	figure "two stores with 32 MiB of changes and a stuck connection were detached in $took ms"
	# Less than what it takes to give up a silent peer; a debug kernel takes its time for the rest.
	[ -e /sys/kernel/debug/kmemleak ] || [ "$took" -lt 5000 ] || fail "it took $took ms"
	has_threads 0
}

sessions_come_and_go() {
	make_set in-sync
	local n sockets
	wait_for 10 has_threads 4
	sockets=$(awk '/^TCP:/ { print $3 }' /proc/net/sockstat)
	for ((n = 0; n < 100; n++)); do
		connect 0 1
		[ $((n % 10)) != 0 ] || scribble 0 "$n" 10
	done
	wait_for 20 is_linked 0 1
	wait_for 20 has_threads 4
	sync "${dev[0]}"
	is_level 0 1
	[ "$(awk '/^TCP:/ { print $3 }' /proc/net/sockstat)" -le "$((sockets + 2))" ] ||
		fail "sockets are left: $(cat /proc/net/sockstat)"
	cat /sys/kernel/debug/ddup/ddup*/sessions
	grep -h '^received: \|^fetched: ' /sys/kernel/debug/ddup/ddup*/sessions | sort -u | tee /tmp/left
	[ "$(cat /tmp/left)" = $'fetched: 0\nreceived: 0' ]
}

wrong_requests_are_refused_with_a_reason() {
	make_set in-sync
	make_store 64M
	attach "$device" --number 8
	refused 3 'replica set' ddup set show /dev/ddup8
	refused 1 'Invalid' "$HOSTILE" silent 0 "${uuid[0]}"
	refused 1 'No such' "$HOSTILE" silent 0 00000000-0000-4000-8000-000000000001
	refused 1 'No such' "$HOSTILE" silent 9 "${uuid[1]}"
	refused 1 'No such' "$HOSTILE" silent 8 "${uuid[1]}"
	ddup peer drop "${dev[0]}" "${uuid[1]}"
	wait_for 10 is_cut 0 1
	refused 3 'no connection' ddup peer drop "${dev[0]}" "${uuid[1]}"
}

after_the_primary_failed_its_peers_go_on_with_the_stream() {
	make_set in-sync async
	local before n
	# So that the journal holds it all, and a diff would have to tell of all.
	ddup set "${dev[0]}" checkpoint_interval=3600000
	scribble 0 0 1600
	sync "${dev[0]}"
	wait_for 60 is_level 0 2
	ddup peer drop "${dev[0]}" "${uuid[2]}"
	wait_for 10 is_cut 0 2
	scribble 0 1001 50
	sync "${dev[0]}"
	is_level 0 1
	before=$(content_of 0)
	fails 0
	connect 0 1
	ddup promote "${dev[0]}"
	wait_for 30 leads_when_connected 0
	for n in 1 2; do
		is_linked 0 "$n" || connect 0 "$n"
		wait_for 30 is_level 0 "$n"
		[ "$(of_peer 0 "$n" compare)" = null ]
		figure "$(of_peer 0 "$n" sent_bytes) bytes went to member $n, $(of_peer 0 "$n" sent_blocks) blocks among them"
	done
	[ "$(of_peer 0 1 sent_blocks)" = 0 ]
	[ "$(of_peer 0 1 sent_bytes)" -lt 20000 ]
	[ "$(of_peer 0 2 sent_blocks)" = 50 ]
	[ "$(of_peer 0 2 sent_bytes)" -lt $((50 * 4096 + 20000)) ]
	[ "$before" = "$(content_of 0)" ]
	hand_over 0 1
	[ "$before" = "$(content_of 1)" ]
	ddup peer join --timeout 60 "${dev[1]}" "${uuid[2]}"
	hand_over 1 2
	[ "$before" = "$(content_of 2)" ]
	close_and_check
}

the_module_goes_with_sessions_open() {
	make_set in-sync async
	scribble 0 0 100
	sync "${dev[0]}"
	rmmod ddup
	has_threads 0
	load
	attach_member 0
	attach_member 1
	# Nobody leads by itself.
	[ "$(role_of 0)" = replica ]
	connect 0 1
	ddup promote "${dev[0]}"
	wait_for 30 leads_when_connected 0
}

load
mount -t debugfs none /sys/kernel/debug 2>/dev/null || true
run_tests what_one_writes_the_other_has \
	a_file_system_moves_from_one_to_the_other \
	a_late_member_gets_all_and_three_are_equal \
	an_interrupted_compare_goes_on_where_it_was \
	after_an_attach_of_the_replica_a_compare_begins_anew \
	volumes_come_change_and_go_on_all_members \
	a_compare_ends_with_the_volumes_of_the_primary \
	duplicates_cross_as_references \
	blocks_cross_compressed_where_that_makes_them_shorter \
	a_peer_that_takes_no_compressed_blocks_gets_none \
	a_slow_asynchronous_peer_is_sent_what_was_written_last \
	a_primary_serves_no_longer_than_its_lease \
	a_flush_waits_for_a_member_in_sync_until_it_is_back \
	a_flush_goes_on_when_the_member_is_shrunk \
	a_forced_detach_fails_flushes_within_a_second \
	flushes_fail_by_command_and_a_demotion_with_them \
	who_does_not_lead_is_not_opened \
	a_peer_that_babbles_is_closed_and_counted \
	compressed_blocks_that_are_none_end_the_session \
	a_silent_peer_is_given_up \
	a_peer_that_stops_reading_holds_up_nobody \
	a_stuck_peer_does_not_hold_up_a_detach \
	sessions_come_and_go \
	wrong_requests_are_refused_with_a_reason \
	after_the_primary_failed_its_peers_go_on_with_the_stream \
	the_module_goes_with_sessions_open
