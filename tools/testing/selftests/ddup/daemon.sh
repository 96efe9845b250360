#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# ddupd and ddup adjust bring the kernel to what the files say; the daemon may die at any moment.
# vm: disk=1G mem=2048 timeout=1200

# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

USAGE=2
BUSY=5
KILLS=${KILLS:-5}
ADDRESS=127.0.0.1
PORT=9741

# A folder for TOML files, in $config, and what the daemon says, in $log; both go with the test.
make_config() {
	config=$(mktemp -d /tmp/ddup-test.XXXXXX)
	defer rm -rf "$config"
	log=$config/log
}

want() { # name lines...
	local name=$1
	shift
	printf '%s\n' "$@" >"$config/$name.toml"
}

start_daemon() {
	ddupd --interval 1 --metrics "$ADDRESS:$PORT" "$config" 2>>"$log" &
	daemon=$!
}

end_daemon() {
	[ -z "${daemon:-}" ] || kill "$daemon" 2>/dev/null || :
	cat "$log"
}

# What the daemon answers to a scraper.
scrape() {
	exec {scraper}<>"/dev/tcp/$ADDRESS/$PORT" || return
	printf 'GET /metrics HTTP/1.1\r\nHost: %s\r\n\r\n' "$ADDRESS" >&"$scraper"
	cat <&"$scraper"
	exec {scraper}>&-
}

serves() {
	scrape 2>/dev/null | grep -q '^# EOF'
}

said() { # pattern
	grep -Eq -- "$1" "$log"
}

value_of() { # device knob
	ddup get --json "$1" "$2" | jq '.knobs[0].value'
}

the_daemon_attaches_what_the_files_want() {
	make_config
	make_store 64M
	local first=$device
	make_file 64M
	ddup format "$file"
	want a "store = '$first'" "number = 5" "read-only = true"
	want b "store = '$file'" "cache = '8M'" "[knobs]" "gc_delay = 77"
	want c "store = '$first'" "number = -1"
	want d "store = '/dev/nope'"
	defer ddup detach --all
	start_daemon
	defer end_daemon
	wait_for 120 test -b /dev/ddup0
	wait_for 120 said '/dev/nope: .*No such file'
	[ "$(ddup list -n -o name,ro,backing)" = "/dev/ddup0  0  $file
/dev/ddup5  1  $(losetup -n -O BACK-FILE "$first")" ]
	[ "$(value_of ddup0 gc_delay)" = 77 ]
	[ "$(ddup list --json ddup0 | jq '.devices[0].cache_bytes')" = 8388608 ]
	said 'c.toml:2: number: a number is 0 to 65535'
	# It is said once that a store is not there, and attached when it is.
	sleep 3
	[ "$(grep -c /dev/nope "$log")" = 1 ]
	make_store 64M
	ln -s "$device" /dev/nope
	defer rm -f /dev/nope
	wait_for 120 test -b /dev/ddup1
	kill "$daemon"
	wait "$daemon"
	[ "$(ddup list -n | wc -l)" = 3 ]
}

what_is_detached_by_hand_stays_so_until_a_reload() {
	make_config
	make_store 64M
	want a "store = '$device'"
	defer ddup detach --all
	start_daemon
	defer end_daemon
	wait_for 120 test -b /dev/ddup0
	ddup detach ddup0
	sleep 3
	[ ! -b /dev/ddup0 ]
	kill -HUP "$daemon"
	wait_for 120 test -b /dev/ddup0
	# The driver goes and comes; so does the device.
	wait_for 120 rmmod ddup
	wait_for 120 said 'not loaded'
	load
	wait_for 120 test -b /dev/ddup0
	kill "$daemon"
	wait "$daemon"
}

what_happens_is_logged_for_the_journal() {
	make_config
	make_store 128M
	local sectors
	sectors=$(blockdev --getsz "$device")
	make_mapped failing "0 $sectors linear $device 0"
	export JOURNAL_STREAM=1:1
	start_daemon
	defer end_daemon
	wait_for 120 said '^<6>serving metrics'
	wait_for 120 listening
	attach "$mapped"
	wait_for 120 said "^<6>attached $ddup: $mapped"
	dd if=/dev/urandom of="$ddup" bs=4096 count=16 oflag=direct status=none
	dmsetup suspend --noflush --nolockfs failing
	dmsetup load failing --table "0 $sectors error"
	dmsetup resume failing
	if timeout 240 sync "$ddup"; then
		fail "a flush succeeded that nothing can have made durable"
	fi
	wait_for 120 said "^<3>$ddup: the store on $mapped failed, device-error: "
	# One that starts later says it as well.
	kill "$daemon"
	wait "$daemon"
	cat "$log"
	: >"$log"
	start_daemon
	wait_for 120 said "^<3>$ddup: the store on $mapped failed, device-error: "
	timeout 240 ddup detach --force "$ddup"
	wait_for 120 said "^<6>detached $ddup"
	kill "$daemon"
	wait "$daemon"
}

# A generic netlink socket is a member of a group.
listening() {
	awk '$2 == 16 && $4 != "00000000" { found = 1 } END { exit !found }' /proc/net/netlink
}

# The protocol of sd_notify(3): ready when attached, stopping at the end.
systemd_is_told() {
	make_config
	make_store 64M
	want a "store = '$device'" "number = 4"
	defer ddup detach --all
	python3 - "$config" <<-'EOF2'
		import os, signal, socket, subprocess, sys
		path = sys.argv[1] + "/notify"
		server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
		server.bind(path)
		server.settimeout(60)
		daemon = subprocess.Popen(["ddupd", sys.argv[1]], env=dict(os.environ, NOTIFY_SOCKET=path))
		def wait(word):
		    while True:
		        lines = server.recv(4096).decode().splitlines()
		        print(lines, flush=True)
		        if word in lines:
		            return
		wait("READY=1")
		assert os.path.exists("/sys/block/ddup4")
		wait("STATUS=1 of 1 stores are as wanted")
		daemon.send_signal(signal.SIGTERM)
		wait("STOPPING=1")
		assert daemon.wait(60) == 0
	EOF2
	[ -b /dev/ddup4 ]
}

metrics_are_openmetrics_and_tell_what_status_tells() {
	make_config
	make_store 64M
	want a "store = '$device'"
	defer ddup detach --all
	start_daemon
	defer end_daemon
	wait_for 120 test -b /dev/ddup0
	dd if=/dev/urandom of=/dev/ddup0 bs=4096 count=32 oflag=direct conv=fsync status=none
	wait_for 120 serves
	scrape >"$config/answer"
	head -c 1500 "$config/answer"
	ddup status --json ddup0 >"$config/status"
	python3 - "$config" <<-'EOF2'
		import json, re, sys
		head, _, body = open(sys.argv[1] + "/answer", newline="").read().partition("\r\n\r\n")
		assert head.startswith("HTTP/1.1 200 OK\r\n"), head
		assert "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8" in head
		assert f"Content-Length: {len(body.encode())}" in head
		lines = body.split("\n")
		assert lines[-2:] == ["# EOF", ""], lines[-3:]
		label = r'[a-z_]+="(?:[^"\\\n]|\\["\\n])*"'
		sample = re.compile(rf'([a-z_]+)(?:\{{({label}(?:,{label})*)\}})? (\d+)$')
		types, values, family = {}, {}, None
		for line in lines[:-2]:
		    if line.startswith("# TYPE "):
		        _, _, family, kind = line.split(" ")
		        assert family not in types, f"twice: {family}"
		        types[family] = kind
		    elif line.startswith(("# HELP ", "# UNIT ")):
		        assert line.split(" ")[2] == family, line
		    else:
		        match = sample.match(line)
		        assert match, f"no sample: {line}"
		        suffix = "_total" if types[family] == "counter" else ""
		        assert match[1] == family + suffix, line
		        assert (match[1], match[2]) not in values, f"twice: {line}"
		        values[match[1], match[2]] = int(match[3])
		assert values["ddup_up", None] == 1
		device = json.load(open(sys.argv[1] + "/status"))["devices"][0]
		labels = f'device="ddup0",store="{device["store_uuid"]}",backing="{device.get("file", device["backing"])}"'
		for name in ("written_blocks", "clusters", "journal_size", "index_limit", "collisions"):
		    suffix = "_total" if types["ddup_" + name] == "counter" else ""
		    assert values[f"ddup_{name}{suffix}", labels] == device["counters"][name], name
		assert values["ddup_written_blocks_total", labels] >= 32
		assert values["ddup_state", labels + ',ddup_state="online"'] == 1
		assert values["ddup_state", labels + ',ddup_state="failed"'] == 0
		for name in device["counters"]:
		    assert any(key[0].startswith("ddup_" + name) for key in values), name
		print(len(values), "samples of", len(types), "families")
	EOF2
	# Scrapers that misbehave are no trouble.
	exec {scraper}<>"/dev/tcp/$ADDRESS/$PORT"
	head -c 100000 /dev/urandom >&"$scraper" || :
	exec {scraper}>&-
	wait_for 120 serves
	refused $USAGE 'not local' ddupd --metrics 192.0.2.1:80 "$config"
	refused $BUSY 'cannot serve metrics' ddupd --metrics "$ADDRESS:$PORT" "$config"
	kill "$daemon"
	wait "$daemon"
}

load_on() { # device until-file failed-file
	while [ ! -e "$2" ]; do
		fio --name=load --filename="$1" --ioengine=libaio --direct=1 --rw=randwrite --bs=4k --iodepth=16 \
			--size=16M --verify=crc32c --verify_fatal=1 --fsync=64 --output="$3.log" || { touch "$3"; return; }
	done
}

a_daemon_that_is_killed_disturbs_no_io() {
	make_config
	ddup format --force --size 512M /dev/vda
	want a "store = '/dev/vda'" "number = 2"
	defer ddup detach --all
	start_daemon
	defer end_daemon
	wait_for 120 test -b /dev/ddup2
	load_on /dev/ddup2 "$config/enough" "$config/failed" &
	local load=$! before i
	before=$(ddup list -n -o name,backing,state,store)
	for ((i = 0; i < KILLS; i++)); do
		# Anywhere in its life.
		if ((i % 2)); then
			sleep "0.0$((RANDOM % 10))"
		else
			wait_for 120 serves
		fi
		kill -9 "$daemon"
		wait "$daemon" || :
		[ ! -e "$config/failed" ] || fail "I/O failed: $(cat "$config/failed.log")"
		start_daemon
	done
	touch "$config/enough"
	wait "$load"
	[ ! -e "$config/failed" ] || fail "I/O failed: $(cat "$config/failed.log")"
	[ "$before" = "$(ddup list -n -o name,backing,state,store)" ]
	wait_for 120 serves
	kill "$daemon"
	wait "$daemon"
	if dmesg | grep -E 'I/O error, dev (ddup2|vda)'; then
		fail "the kernel saw I/O errors"
	fi
}

adjust_shows_the_difference_first_and_settles_it() {
	make_config
	make_store 64M
	local first=$device
	make_store 64M
	local second=$device
	make_store 64M
	local third=$device before
	attach "$second" --number 1
	attach "$third" --number 2
	want a "store = '$first'" "number = 7" "[knobs]" "discard = 1"
	want b "store = '$second'" "[knobs]" "gc_delay = 5"
	before=$(ddup list; ddup get ddup1)
	ddup adjust --dry-run --detach-others "$config" | tee "$config/difference"
	printf '%s\n' "- detach /dev/ddup2 (" "+ attach $first as /dev/ddup7, discard 1" \
		"~ /dev/ddup1: gc_delay 30 -> 5" >"$config/expected"
	[ "$(cut -d'(' -f1 "$config/difference")" = "$(cut -d'(' -f1 "$config/expected")" ]
	ddup adjust -n --json "$config" | jq -e '.dry_run and (.differences | map(.action) == ["attach", "set"])'
	[ "$before" = "$(ddup list; ddup get ddup1)" ] || fail "a dry run changed something"

	defer detach_if_there /dev/ddup7
	ddup adjust "$config"
	[ "$(value_of ddup7 discard)" = 1 ]
	[ "$(value_of ddup1 gc_delay)" = 5 ]
	[ -b /dev/ddup2 ]
	[ -z "$(ddup adjust "$config")" ]
	# What is in use stays, and that is an error.
	exec {hold}</dev/ddup2
	refused $BUSY 'cannot detach /dev/ddup2.*in use' ddup adjust --detach-others "$config"
	exec {hold}<&-
	ddup adjust --detach-others "$config"
	[ ! -b /dev/ddup2 ]
	[ -z "$(ddup adjust "$config")" ]
	# What only a detach can settle is left to the administrator.
	want b "store = '$second'" "number = 9"
	refused $BUSY '! /dev/ddup1: number is 1, .*b.toml wants 9' ddup adjust "$config"
	[ -b /dev/ddup1 ]
}

adjust_refuses_wrong_files_and_changes_nothing() {
	make_config
	make_store 64M
	want a "store = '$device'"
	want b "store = '/dev/vda'" "[knobs]" "commit_interval = 0"
	refused $USAGE 'b.toml:3: commit_interval: commit_interval takes 1 to 3600000 ms, not .0' \
		ddup adjust "$config"
	want b "store = '$device'"
	refused $USAGE 'b.toml: store is that of .*a.toml' ddup adjust "$config"
	refused 3 '/nowhere.*No such file' ddup adjust /nowhere
	[ -z "$(ddup list)" ]
}

load
run_tests \
	the_daemon_attaches_what_the_files_want \
	what_is_detached_by_hand_stays_so_until_a_reload \
	what_happens_is_logged_for_the_journal \
	systemd_is_told \
	metrics_are_openmetrics_and_tell_what_status_tells \
	a_daemon_that_is_killed_disturbs_no_io \
	adjust_shows_the_difference_first_and_settles_it \
	adjust_refuses_wrong_files_and_changes_nothing
