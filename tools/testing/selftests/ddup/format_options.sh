#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What a store is formatted with is what it is used with: fingerprint, journal, label.
# vm: disk=1G mem=2048 timeout=300

# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

USAGE=2

# Each way to name blocks finds duplicates in a request, across requests and after another attach.
each_fingerprint_finds_duplicates_and_keeps_data() {
	local name sum
	head -c 4M /dev/urandom >/tmp/ddup-test.data
	defer rm -f /tmp/ddup-test.data /tmp/ddup-test.said
	sum=$(sha256sum </tmp/ddup-test.data)
	for name in xxh64 blake2b sha256; do
		make_store 128M --fingerprint "$name" >/tmp/ddup-test.said
		grep -F "$name fingerprints" /tmp/ddup-test.said
		ddup dump "$device" | grep -i "$name"
		attach "$device"
		dd if=/tmp/ddup-test.data of="$ddup" bs=1M oflag=direct conv=fsync status=none
		dd if=/tmp/ddup-test.data of="$ddup" bs=4k seek=2048 oflag=direct conv=fsync status=none
		wait_for 60 duplicates 1024
		ddup detach "$ddup"
		attach "$device"
		[ "$(dd if="$ddup" bs=1M count=4 iflag=direct status=none | sha256sum)" = "$sum" ]
		[ "$(dd if="$ddup" bs=1M skip=8 count=4 iflag=direct status=none | sha256sum)" = "$sum" ]
		# The index comes back in the background.
		wait_for 60 knows 1024
		dd if=/tmp/ddup-test.data of="$ddup" bs=256k seek=64 oflag=direct conv=fsync status=none
		wait_for 60 duplicates 1024
		[ "$(counter "$ddup" collisions)" = 0 ]
		ddup detach "$ddup"
		ddup check "$device"
		ddup check --json "$device" | jq -e '.mapped_blocks == 3072 and .live_clusters == 1024'
	done
	refused $USAGE 'blake2b, sha256, xxh64' ddup format --force --fingerprint md5 "$device"
}

# What a store calls a block is what anybody else would: the head of its digest.
names_are_those_of_the_standards() {
	local name
	head -c 4096 /dev/urandom >/tmp/ddup-test.block
	defer rm -f /tmp/ddup-test.block
	for name in blake2b sha256; do
		make_store 64M --fingerprint "$name"
		attach "$device"
		dd if=/tmp/ddup-test.block of="$ddup" bs=4k oflag=direct conv=fsync status=none
		ddup detach "$ddup"
		python3 - "$name" "$device" <<-'EOF'
			import hashlib, sys
			block = open("/tmp/ddup-test.block", "rb").read()
			digest = {"blake2b": hashlib.blake2b(block, digest_size=32), "sha256": hashlib.sha256(block)}
			assert digest[sys.argv[1]].digest()[:24] in open(sys.argv[2], "rb").read(), sys.argv[1]
		EOF
	done
}

duplicates() { # blocks
	[ "$(counter "$ddup" duplicate_blocks)" = "$1" ]
}

knows() { # fingerprints
	[ "$(counter "$ddup" index_entries)" -ge "$1" ]
}

the_journal_has_the_size_that_was_asked_for() {
	local size
	for size in 2M 4M 100M 256M; do
		make_store 1G --journal "$size"
		attach "$device"
		[ "$(counter "$ddup" journal_size)" = $((${size%M} << 20)) ]
		dd if=/dev/urandom of="$ddup" bs=1M count=8 oflag=direct conv=fsync status=none
		ddup detach "$ddup"
		ddup check "$device"
	done
	for size in 0 1M 2097153 257M 200G 18446744073709551615; do
		refused $USAGE 'from 2 MiB to 256 MiB' ddup format --force --journal "$size" "$device"
	done
	refused $USAGE 'no size' ddup format --force --journal many "$device"
	make_file 64M
	refused_unchanged "$file" 1 "$file.*the journal takes 256M" ddup format --journal 256M "$file"
}

the_label_is_kept() {
	make_store 64M --label 'Büro 1'
	ddup format --force --json --label 'Büro 1' "$device" | jq -e .
	ddup dump "$device" | grep 'Büro 1'
	ddup probe "$device" | grep 'LABEL'
	refused $USAGE '65 bytes are more than 64' ddup format --force --label "$(printf 'x%.0s' {1..65})" "$device"
	make_store 64M --label "$(printf 'x%.0s' {1..64})"
	attach "$device"
}

load
run_tests each_fingerprint_finds_duplicates_and_keeps_data \
	names_are_those_of_the_standards \
	the_journal_has_the_size_that_was_asked_for \
	the_label_is_kept
