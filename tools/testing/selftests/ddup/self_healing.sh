#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Blocks of a primary that rot on its disk are read well from a member that is connected, and are
# good from then on; without one they are an error, and never other data.
#
#	store[0] -> ddup[0], the primary            a session is two sockets of one connection
#	store[1] -> ddup[1], in sync                through lo, an end for each store
#
# vm: disk=64M mem=2048 timeout=900

# shellcheck source=tools/testing/selftests/ddup/members.sh
. "${BASH_SOURCE[0]%/*}/members.sh"

BLOCKS=4096 # of the volume that are written, the last quarter like the first
CONTENT=/tmp/ddup-test.content

# --- making ----------------------------------------------------------------------------------

# Two members in sync that hold known content, each block with its number.
make_set() {
	ip link set lo up
	store=() dev=() uuid=()
	make_member 0 --set --size 64M
	attach_member 0
	make_member 1 --replica-of "$(ddup set invite "${dev[0]}")"
	attach_member 1
	ddup peer add "${dev[0]}" "${uuid[1]}"
	connect 0 1
	ddup peer join --timeout 60 "${dev[0]}" "${uuid[1]}"
	defer rm -f "$CONTENT"
	python3 - "$BLOCKS" >"$CONTENT" <<-'END'
		import os, sys
		count = int(sys.argv[1])
		unique = [b"ddup rot %08d" % n + os.urandom(4096 - 17) for n in range(count * 3 // 4)]
		sys.stdout.buffer.write(b"".join(unique + unique[:count - len(unique)]))
	END
	dd if="$CONTENT" of="${dev[0]}" bs=64k oflag=direct conv=notrunc,fsync status=none
}

# Clusters of a store that hold the content, as "cluster block".
places() { # number
	dd if="${store[$1]}" bs=1M iflag=direct status=none | python3 -c '
import re, sys
cluster = 0
while page := sys.stdin.buffer.read(4096):
    found = re.match(rb"ddup rot (\d{8})", page)
    if found:
        print(cluster, int(found[1]))
    cluster += 1
'
}

# So many clusters of a store rot, evenly spread over the content: the blocks in $rotten.
rot() { # number clusters
	local cluster block
	places "$1" | sort -n -k 2 | awk -v n="$2" '{ line[NR] = $0 }
		END { for (i = 0; i < n; i++) print line[1 + int(i * NR / n)] }' >/tmp/ddup-test.rot
	defer rm -f /tmp/ddup-test.rot
	[ "$(wc -l </tmp/ddup-test.rot)" = "$2" ]
	rotten=()
	while read -r cluster block; do
		rotten+=("$block")
		dd if=/dev/urandom of="${store[$1]}" bs=4096 seek="$cluster" count=1 conv=notrunc \
			oflag=direct status=none
	done </tmp/ddup-test.rot
}

# --- asking ----------------------------------------------------------------------------------

link_to() { # number of-number
	ddup set show --json "${dev[$1]}" |
		jq -r ".sets[0].members[] | select(.store_uuid == \"${uuid[$2]}\") | .link"
}

is_linked() { # number number
	[ "$(link_to "$1" "$2")" = connected ]
}

is_cut() { # number number
	[ "$(link_to "$1" "$2")" = absent ]
}

# A new term ends the session.
leads_when_connected() { # number
	[ "$(state_of "${dev[$1]}")" != online ] || return 0
	is_linked 0 1 || connect 0 1
	sleep 0.5
	[ "$(state_of "${dev[$1]}")" = online ]
}

position_of() { # number
	ddup set show --json "${dev[$1]}" | jq -c '.sets[0].position'
}

in_sysfs() { # number counter
	cat "/sys/block/${dev[$1]##*/}/ddup/$2"
}

# All that was written is read, from several places at once.
all_is_well() { # number
	local at readers=() reader
	for at in 0 1 2 3; do
		dd if="${dev[$1]}" bs=64k skip=$((at * 64)) count=64 iflag=direct status=none |
			cmp -n $((64 << 16)) -i 0:$((at << 22)) - "$CONTENT" &
		readers+=($!)
	done
	for reader in "${readers[@]}"; do
		wait "$reader" || return 1
	done
}

are_healed() { # number blocks
	[ "$(in_sysfs "$1" blocks_healed)" -ge "$2" ]
}

# A block is not read, and what came of it is none of anything.
is_an_error() { # number block
	refused 1 'No data available|Input/output error' \
		dd if="${dev[$1]}" of=/tmp/ddup-test.out bs=4096 skip="$2" count=1 iflag=direct
	[ ! -s /tmp/ddup-test.out ]
	rm -f /tmp/ddup-test.out
}

# --- claims ----------------------------------------------------------------------------------

what_rots_is_read_from_the_other_member() {
	make_set
	local before
	before=$(position_of 0)
	rot 0 50
	all_is_well 0
	figure "healed $(in_sysfs 0 blocks_healed) blocks of $(in_sysfs 0 clusters_quarantined) clusters"
	[ "$(in_sysfs 0 clusters_quarantined)" = 50 ]
	# Some of them have two owners.
	[ "$(in_sysfs 0 blocks_healed)" -ge 60 ]
	[ "$(counter "${dev[0]}" healed_blocks)" = "$(in_sysfs 0 blocks_healed)" ]
	[ "$(in_sysfs 0 heals_failed)" = 0 ]
	# It is nothing that the set's history tells of.
	[ "$(position_of 0)" = "$before" ]
	# From here on they are good, and after an attach too.
	before=$(in_sysfs 0 check_mismatches)
	all_is_well 0
	[ "$(in_sysfs 0 check_mismatches)" = "$before" ]
	ddup detach "${dev[0]}"
	ddup detach "${dev[1]}"
	ddup check "${store[0]}"
	ddup check "${store[1]}"
	attach_member 0
	attach_member 1
	connect 0 1
	ddup promote "${dev[0]}"
	wait_for 30 leads_when_connected 0
	ddup peer drop "${dev[0]}" "${uuid[1]}"
	wait_for 10 is_cut 0 1
	all_is_well 0
	[ "$(in_sysfs 0 check_mismatches)" = 0 ]
}

fio_finds_nothing_while_blocks_are_healed() {
	make_set
	fio --name=fill --filename="${dev[0]}" --offset=32M --size=8M --rw=write --bs=4k --direct=1 \
		--verify=crc32c --do_verify=0 --end_fsync=1 >/dev/null
	rot 0 50
	all_is_well 0 &
	local reader=$!
	fio --name=mixed --filename="${dev[0]}" --offset=48M --size=8M --rw=randrw --bs=4k --direct=1 \
		--iodepth=8 --ioengine=libaio --verify=crc32c --verify_backlog=64 >/dev/null
	fio --name=fill --filename="${dev[0]}" --offset=32M --size=8M --rw=read --bs=4k --direct=1 \
		--verify=crc32c >/dev/null
	wait "$reader"
	[ "$(in_sysfs 0 heals_failed)" = 0 ]
}

without_a_member_it_is_an_error_until_one_is_back() {
	make_set
	ddup peer drop "${dev[0]}" "${uuid[1]}"
	wait_for 10 is_cut 0 1
	rot 0 10
	local block
	for block in "${rotten[@]}"; do
		is_an_error 0 "$block"
	done
	[ "$(in_sysfs 0 blocks_healed)" = 0 ]
	connect 0 1
	wait_for 30 is_linked 0 1
	# What they held is not known any more; where they lie the other member has it.
	wait_for 30 all_is_well 0
	[ "$(in_sysfs 0 blocks_healed)" -ge 10 ]
}

# Blocks of the primary rot while its member is away, and are found to be bad.
miss() { # count
	local block
	make_set
	ddup peer drop "${dev[0]}" "${uuid[1]}"
	wait_for 10 is_cut 0 1
	rot 0 "$1"
	for block in "${rotten[@]}"; do
		is_an_error 0 "$block"
	done
}

# Nobody reads it once more: the member that comes back is told.
what_was_missed_is_healed_when_a_member_is_back() {
	local block before
	miss 10
	connect 0 1
	wait_for 30 are_healed 0 10
	[ "$(in_sysfs 0 clusters_quarantined)" = 10 ]
	before=$(in_sysfs 0 check_mismatches)
	for block in "${rotten[@]}"; do
		dd if="${dev[0]}" bs=4096 skip="$block" count=1 iflag=direct status=none |
			cmp -n 4096 -i "0:$((block * 4096))" - "$CONTENT"
	done
	[ "$(in_sysfs 0 check_mismatches)" = "$before" ]
}

# What is missed is in memory only. Where it lies, and the check that it has to have, are on the disk.
what_was_missed_before_a_power_cut_is_asked_for_by_a_scrub() {
	local block before
	miss 10
	fails 0
	connect 0 1
	ddup promote "${dev[0]}"
	wait_for 30 leads_when_connected 0
	[ "$(in_sysfs 0 blocks_healed)" = 0 ]
	ddup scrub --json "${dev[0]}" | tee /tmp/ddup-test.report
	defer rm -f /tmp/ddup-test.report
	jq -e '.state == "complete" and .healed_blocks >= 10 and .bad_blocks == 0' /tmp/ddup-test.report
	ddup peer drop "${dev[0]}" "${uuid[1]}"
	wait_for 10 is_cut 0 1
	before=$(in_sysfs 0 check_mismatches)
	all_is_well 0
	[ "$(in_sysfs 0 check_mismatches)" = "$before" ]
}

what_rots_everywhere_is_an_error() {
	make_set
	rot 0 10
	rot 1 10
	local block
	for block in "${rotten[@]}"; do
		is_an_error 0 "$block"
	done
	[ "$(in_sysfs 0 heals_failed)" -ge 10 ]
	[ "$(in_sysfs 0 blocks_healed)" = 0 ]
}

# Blocks that nobody reads, some of which share their clusters.
a_scrub_heals_what_nobody_reads() {
	make_set
	rot 0 20
	ddup scrub --json "${dev[0]}" >/tmp/ddup-test.report
	defer rm -f /tmp/ddup-test.report
	cat /tmp/ddup-test.report
	jq -e '.state == "complete" and .healed_blocks >= 24 and .bad_blocks == 0' /tmp/ddup-test.report
	[ "$(in_sysfs 0 clusters_quarantined)" = 20 ]
	[ "$(in_sysfs 0 blocks_healed)" = "$(jq .healed_blocks /tmp/ddup-test.report)" ]
	# A replica is scrubbed as well.
	ddup scrub "${dev[1]}"
	ddup peer drop "${dev[0]}" "${uuid[1]}"
	wait_for 10 is_cut 0 1
	local before
	before=$(in_sysfs 0 check_mismatches)
	all_is_well 0
	[ "$(in_sysfs 0 check_mismatches)" = "$before" ]
	ddup scrub "${dev[0]}" | grep ' 0 blocks bad, 0 healed'
}

load
run_tests what_rots_is_read_from_the_other_member \
	fio_finds_nothing_while_blocks_are_healed \
	without_a_member_it_is_an_error_until_one_is_back \
	what_was_missed_is_healed_when_a_member_is_back \
	what_was_missed_before_a_power_cut_is_asked_for_by_a_scrub \
	a_scrub_heals_what_nobody_reads \
	what_rots_everywhere_is_an_error
