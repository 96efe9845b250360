#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The abstractions of rust/ do what they say, also those that the driver does not use: threads,
# sockets, requests that end in part, requests that time out; and LZ4 (rust/test/kstage_test.rs).
# vm: disk=64M mem=1024 timeout=600

# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

KO=${DDUP_KO%/*}/kstage_test.ko
disk=/dev/kstage-test

# Whether the module said this since it was loaded last.
said() {
	dmesg | tac | sed '/kstage_test loads/q' | grep -q "kstage_test: $1"
}

insert() { # [parameters]
	echo "kstage_test loads" >/dev/kmsg
	insmod "$KO" "$@"
	defer rmmod kstage_test
}

what_no_compressor_made_is_decompressed_without_harm() {
	insert
	said 'ok lz4'
}

threads_run_end_and_are_stopped() {
	insert
	said 'ok threads'
}

sockets_send_receive_and_are_shut_down() {
	ip link set lo up
	python3 - <<-'END' &
		import socket
		server = socket.create_server(("127.0.0.1", 7789))
		peer, _ = server.accept()
		while data := peer.recv(65536):
		    peer.sendall(data)
	END
	local tries
	for ((tries = 0; tries < 100; tries++)); do
		{ exec {peer}<>/dev/tcp/127.0.0.1/7789; } 2>/dev/null && break
		sleep 0.1
	done
	insert fd="$peer"
	said 'ok sockets'
	# The peer sees the end of the connection once nobody holds it.
	exec {peer}>&-
	wait $!
}

what_is_no_connected_socket_is_refused() {
	exec {file}</dev/null
	refused 1 'Socket operation on non-socket|Invalid' insmod "$KO" fd="$file"
	exec {file}<&-
	refused 1 'Bad file descriptor|descriptor' insmod "$KO" fd=4095
}

merges() {
	awk '{ print $2 }' "/sys/block/${disk#/dev/}/stat"
}

a_request_that_fails_in_its_middle_serves_what_came_before() {
	insert
	local before result
	before=$(merges)
	# Four reads that become one request, up to and behind the bad block.
	result=$(fio --name=x --filename="$disk" --direct=1 --ioengine=libaio --rw=read --bs=16k \
		--offset=224k --size=64k --iodepth=4 --iodepth_batch=4 --continue_on_error=io \
		--output-format=json 2>&1) || true # two reads fail
	[ "$(($(merges) - before))" = 3 ] || fail "the reads were not merged"
	[ "$(grep -c '^fio: io_u error' <<<"$result")" = 2 ] || fail "$result"
	[ "$(sed -n '/^{/,$p' <<<"$result" | jq '.jobs[0].read.io_kbytes')" = 32 ] || fail "$result"
	refused 1 'Input/output error|No data' dd if="$disk" of=/dev/null bs=4096 skip=64 count=1 iflag=direct
	# What is good is what it should be.
	dd if="$disk" bs=4096 skip=63 count=1 iflag=direct status=none | xxd -p -l 8 | grep -x 3f00000000000000
}

a_request_without_an_answer_is_ended_by_its_time_out() {
	insert
	refused 1 'Input/output error' timeout 240 dd if="$disk" of=/dev/null bs=4096 skip=128 count=1 iflag=direct
	said 'timed out: .*sector: 1024, bytes: 4096'
	# Others go on.
	dd if="$disk" of=/dev/null bs=4096 skip=129 count=8 iflag=direct status=none
}

run_tests what_no_compressor_made_is_decompressed_without_harm \
	threads_run_end_and_are_stopped \
	sockets_send_receive_and_are_shut_down \
	what_is_no_connected_socket_is_refused \
	a_request_that_fails_in_its_middle_serves_what_came_before \
	a_request_without_an_answer_is_ended_by_its_time_out
