#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Tracepoints: the life of a request, of a cluster and of a checkpoint, in order, by tracefs and perf.
# vm: disk=1G mem=2048 timeout=600

# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

TRACING=/sys/kernel/tracing
events=$TRACING/events/ddup

mount_tracefs() {
	mountpoint -q $TRACING || mount -t tracefs tracefs $TRACING
}

listen() { # [event]
	: >$TRACING/trace
	echo 1 >"$events/${1:+$1/}enable"
}

stop_listening() {
	[ ! -d "$events" ] || echo 0 >$events/enable
	: >$TRACING/trace
}

# What python's asserts say of the trace: `events` is a list of dicts with name, time and what a
# request or cluster event has; `of(tag)` are the events of a request.
assert_trace() { # python
	cat $TRACING/trace >/tmp/ddup-test.trace
	defer rm -f /tmp/ddup-test.trace
	tail -n 100 /tmp/ddup-test.trace | cut -c1-150
	python3 - "$1" <<-'EOF2'
		import re, sys, textwrap
		LINE = re.compile(r"\s(\d+\.\d+): ddup_(\w+): (\d+,\d+) (.*)")
		PAIR = re.compile(r"([a-z_]+) (-?\d+|quick|plain)")
		REQUEST = re.compile(r"tag (\d+)(?: ([a-z-]+) (\d+) \+ (\d+))?")
		events = []
		for line in open("/tmp/ddup-test.trace"):
		    match = LINE.search(line)
		    if not match:
		        continue
		    text = match[4]
		    event = {"time": float(match[1]), "name": match[2], "dev": match[3], "text": text}
		    request = REQUEST.match(text)
		    if request:
		        event["tag"] = int(request[1])
		        if request[2]:
		            event["what"], event["lbn"], event["blocks"] = request[2], int(request[3]), int(request[4])
		        text = text[request.end():]
		    run = re.match(r"cluster (\d+) \+ (\d+)", text)
		    if run:
		        event["first"], event["count"] = int(run[1]), int(run[2])
		        text = text[run.end():]
		    for key, value in PAIR.findall(text):
		        event.setdefault(key, int(value) if value.lstrip("-").isdigit() else value)
		    if re.search(r"result (\w+)", text):
		        event["result"] = re.search(r"result (\w+)", text)[1]
		    events.append(event)
		def named(name):
		    return [e for e in events if e["name"] == name]
		def of(request):
		    """The events of a request, from where it was queued to where it was completed."""
		    own = [e for e in events[events.index(request):] if e.get("tag") == request["tag"]
		           and ("lbn" not in e or e["dev"] == request["dev"])]
		    end = [e["name"] for e in own].index("request_completed")
		    return own[:end + 1]
		def names(some):
		    return [e["name"] for e in some]
		exec(textwrap.dedent(sys.argv[1]))
	EOF2
}

# The events that there are: all of trace.h.
EVENTS="ddup_checkpoint_begun ddup_checkpoint_durable ddup_cluster_allocated ddup_cluster_available
ddup_cluster_erased ddup_cluster_junk ddup_cluster_live ddup_cluster_quarantined ddup_cluster_resurrected
ddup_cluster_retired ddup_data_done ddup_data_submitted ddup_journal_done ddup_journal_submitted
ddup_request_completed ddup_request_decided ddup_request_fingerprinted ddup_request_queued
ddup_request_submitted ddup_request_waits"

all_events_are_there_and_off() {
	local event
	mount_tracefs
	[ "$(cd $events && echo ddup_*)" = "${EVENTS//$'\n'/ }" ]
	for event in $EVENTS; do
		[ "$(cat "$events/$event/enable")" = 0 ]
		grep -q 'field:dev_t dev;' "$events/$event/format"
	done
}

a_write_is_seen_from_the_queue_to_its_end() {
	mount_tracefs
	make_store 128M
	attach "$device"
	defer stop_listening
	listen
	dd if=/dev/urandom of=/tmp/ddup-test.block bs=4096 count=1 status=none
	defer rm -f /tmp/ddup-test.block
	dd if=/tmp/ddup-test.block of="$ddup" bs=4096 seek=5 oflag=direct status=none
	sync "$ddup"
	assert_trace '
		dev = "'"$(lsblk -dno MAJ:MIN "$ddup" | tr -d ' ' | tr : ,)"'"
		backing = "'"$(lsblk -dno MAJ:MIN "$device" | tr -d ' ' | tr : ,)"'"
		write, = [e for e in named("request_queued") if e["what"] == "write"]
		life = of(write)
		assert names(life) == ["request_queued", "request_fingerprinted", "request_submitted",
		    "request_decided", "data_submitted", "request_completed"], names(life)
		decided, sent, end = life[3:]
		# It was acknowledged before.
		done, = named("data_done")
		for e in [*life, done]:
		    assert (e["dev"], e["lbn"], e["blocks"]) == (dev, 5, 1), e
		assert events.index(done) > events.index(end)
		assert decided["what"] == "new" and "work write" in sent["text"] and done["result"] == "ok"
		taken, = named("cluster_allocated")
		assert taken["dev"] == backing and taken["count"] == 1
		assert taken["first"] == decided["cluster"] == sent["cluster"], (taken, decided, sent)
		assert end["error"] == 0
		# From the queue to the end is a part of what the block layer counts, in ns.
		own = (end["time"] - write["time"]) * 1e9
		assert own - 2000 <= end["duration"] < own + 1e9, (own, end)
		assert life[1]["zero_blocks"] == 0 and write["fua"] == 0
	'
}

a_duplicate_and_a_zero_are_decided_so() {
	mount_tracefs
	make_store 128M
	attach "$device"
	defer stop_listening
	dd if=/dev/urandom of=/tmp/ddup-test.block bs=4096 count=1 status=none
	defer rm -f /tmp/ddup-test.block
	dd if=/tmp/ddup-test.block of="$ddup" bs=4096 seek=5 oflag=direct status=none
	listen
	dd if=/tmp/ddup-test.block of="$ddup" bs=4096 seek=9 oflag=direct status=none
	dd if=/dev/zero of="$ddup" bs=4096 seek=11 count=1 oflag=direct status=none
	assert_trace '
		twice, zero = [e for e in named("request_queued") if e["what"] == "write"]
		life = of(twice)
		assert names(life) == ["request_queued", "request_fingerprinted", "request_submitted",
		    "data_submitted", "data_done", "request_decided", "request_completed"], names(life)
		sent, done, decided = life[3:6]
		assert "work compare" in sent["text"] and done["result"] == "equal"
		assert decided["what"] == "duplicate" and decided["cluster"] == sent["cluster"]
		life = of(zero)
		assert names(life) == ["request_queued", "request_fingerprinted", "request_submitted",
		    "request_decided", "request_completed"], names(life)
		assert life[1]["zero_blocks"] == 1 and life[3]["what"] == "zero"
		assert not named("cluster_allocated")
	'
}

a_flush_and_fua_are_seen_to_wait_for_their_journal_block() {
	mount_tracefs
	make_store 128M
	attach "$device"
	defer stop_listening
	ddup set "$ddup" commit_interval=3600000
	listen
	dd if=/dev/urandom of="$ddup" bs=4096 count=3 oflag=direct status=none
	sync "$ddup"
	dd if=/dev/urandom of="$ddup" bs=4096 seek=7 count=1 oflag=direct,dsync status=none
	dd if="$ddup" of=/dev/null bs=4096 skip=7 count=1 iflag=direct status=none
	assert_trace '
		flush = [e for e in named("request_queued") if e["what"] == "flush"][0]
		life = of(flush)
		assert names(life) == ["request_queued", "request_submitted", "request_waits",
		    "request_completed"], names(life)
		waits, end = life[2:]
		sent, = [e for e in named("journal_submitted") if e["sequence"] == waits["sequence"]]
		done, = [e for e in named("journal_done") if e["sequence"] == waits["sequence"]]
		assert sent["records"] == 3 and sent["bytes"] == 4096 and sent["text"].endswith("quick"), sent
		assert done["text"].endswith(" ok")
		order = [events.index(e) for e in (flush, waits, sent, done, end)]
		assert order == sorted(order), order
		fua, = [e for e in named("request_queued") if e["what"] == "write" and e["fua"] == 1]
		life = of(fua)
		assert names(life)[-2:] == ["request_waits", "request_completed"], names(life)
		assert [e for e in named("journal_done") if e["sequence"] == life[-2]["sequence"]]
		read, = [e for e in named("request_queued") if e["what"] == "read"]
		assert names(of(read)) == ["request_queued", "request_submitted", "data_submitted", "data_done",
		    "request_completed"], names(of(read))
	'
}

told() { # pattern
	grep -q "$1" $TRACING/trace
}

a_cluster_is_seen_from_its_allocation_to_its_reuse() {
	mount_tracefs
	make_store 128M
	attach "$device"
	defer stop_listening
	ddup set "$ddup" checkpoint_interval=200 commit_interval=100 gc_delay=3600
	dd if=/dev/urandom of=/tmp/ddup-test.block bs=4096 count=1 status=none
	defer rm -f /tmp/ddup-test.block
	listen
	dd if=/tmp/ddup-test.block of="$ddup" bs=4096 seek=1 oflag=direct status=none
	dd if=/tmp/ddup-test.block of="$ddup" bs=4096 seek=2 oflag=direct status=none
	wait_for 60 told 'ddup_cluster_live: .* owners 2'
	blkdiscard -o 4096 -l 8192 "$ddup"
	wait_for 60 told 'ddup_cluster_junk'
	dd if=/tmp/ddup-test.block of="$ddup" bs=4096 seek=7 oflag=direct status=none
	wait_for 60 told 'ddup_cluster_resurrected: .* owners 1'
	blkdiscard -o 28672 -l 4096 "$ddup"
	ddup set "$ddup" gc_delay=0
	wait_for 60 told 'ddup_cluster_erased'
	wait_for 60 told 'ddup_cluster_available'
	assert_trace '
		lives = [e for e in events if e["name"].startswith("cluster_")]
		assert len({(e["dev"], e["first"], e["count"]) for e in lives}) == 1, lives
		found = [e["name"][8:] for e in lives]
		assert found[:6] == ["allocated", "live", "junk", "resurrected", "junk", "retired"], found
		assert sorted(found[6:]) == ["available", "erased"], found
		begun, durable = named("checkpoint_begun"), named("checkpoint_durable")
		assert len(durable) >= 4
		for e in durable:
		    cut, = [b for b in begun if b["number"] == e["number"]]
		    assert events.index(cut) < events.index(e) and e["dev"] == lives[0]["dev"]
		numbers = [e["number"] for e in durable]
		assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), numbers
	'
}

a_damaged_block_is_seen_to_fail_and_to_be_quarantined() {
	mount_tracefs
	make_store 128M
	attach "$device"
	defer stop_listening
	listen
	dd if=/dev/urandom of="$ddup" bs=4096 count=1 oflag=direct,dsync status=none
	local cluster
	cluster=$(sed -n 's/.*ddup_cluster_allocated: .* cluster \([0-9]*\) .*/\1/p' $TRACING/trace)
	dd if=/dev/urandom of="$device" bs=4096 seek="$cluster" count=1 conv=notrunc oflag=direct status=none
	if dd if="$ddup" of=/dev/null bs=4096 count=1 iflag=direct status=none; then
		fail "damaged data was read"
	fi
	assert_trace '
		read = [e for e in named("request_queued") if e["what"] == "read"][0]
		life = of(read)
		assert [e["result"] for e in life if e["name"] == "data_done"] == ["mismatch"] * 3, names(life)
		assert life[-1]["error"] == -61, life[-1]
		bad, = named("cluster_quarantined")
		assert bad["first"] == '"$cluster"'
	'
	detach_if_there "$ddup"
}

perf_counts_and_shows_them() {
	mount_tracefs
	make_store 128M
	attach "$device"
	command -v perf >/dev/null || skip "there is no perf"
	perf stat -a -x ' ' -o /tmp/ddup-test.stat -e ddup:ddup_request_queued -e ddup:ddup_request_completed \
		-- dd if=/dev/urandom of="$ddup" bs=4096 count=100 oflag=direct status=none
	defer rm -f /tmp/ddup-test.stat
	cat /tmp/ddup-test.stat
	[ "$(awk '$1 >= 100 && /ddup:ddup_request/' /tmp/ddup-test.stat | wc -l)" = 2 ]
	perf record -q -a -o /tmp/ddup-test.perf -e 'ddup:*' \
		-- dd if=/dev/urandom of="$ddup" bs=4096 count=10 oflag=direct status=none
	defer rm -f /tmp/ddup-test.perf
	perf script -i /tmp/ddup-test.perf -F event,trace >/tmp/ddup-test.script
	defer rm -f /tmp/ddup-test.script
	head -20 /tmp/ddup-test.script
	[ "$(grep -c 'ddup:ddup_request_completed: .* write .* error 0 duration ' /tmp/ddup-test.script)" -ge 10 ]
	[ "$(grep -c 'ddup:ddup_request_decided: .* new ' /tmp/ddup-test.script)" -ge 10 ]
}

# A program that follows requests by their tag, as bpftrace does, finds a beginning for each end.
under_load_each_end_has_its_beginning() {
	mount_tracefs
	make_store 256M
	attach "$device"
	defer stop_listening
	echo 20000 >$TRACING/buffer_size_kb
	listen ddup_request_queued
	echo 1 >$events/ddup_request_completed/enable
	fio --name=load --filename="$ddup" --ioengine=libaio --direct=1 --rw=randrw --bs=4k --iodepth=32 \
		--size=64M --io_size=16M --fsync=50 --dedupe_percentage=50 --output=/dev/null
	ddup set "$ddup" commit_interval=1
	sleep 1
	# None was lost.
	grep -H '^overrun' $TRACING/per_cpu/cpu*/stats
	if grep -q '^overrun: [1-9]' $TRACING/per_cpu/cpu*/stats; then
		fail "the buffer was too small"
	fi
	assert_trace '
		begun, ended = {}, 0
		for e in sorted(events, key=lambda e: e["time"]):
		    key = (e["dev"], e["tag"])
		    if e["name"] == "request_queued":
		        begun[key] = e
		    else:
		        start = begun.pop(key)
		        assert (start["what"], start["lbn"], start["blocks"]) == (e["what"], e["lbn"], e["blocks"])
		        ended += 1
		assert ended > 4000 and not begun, (ended, begun)
	'
}

the_module_goes_with_events_on_and_off() {
	local i
	mount_tracefs
	defer load
	for i in 1 2 3; do
		load
		make_store 64M
		attach "$device"
		listen
		dd if=/dev/urandom of="$ddup" bs=64k count=16 oflag=direct status=none
		[ "$i" != 2 ] || echo 0 >$events/enable
		[ "$i" != 3 ] || fio --name=load --filename="$ddup" --direct=1 --rw=randwrite --bs=4k --size=8M --output=/dev/null
		# With the device attached it goes as well: the detach is seen.
		rmmod ddup
		[ ! -e $events ]
	done
}

load
run_tests all_events_are_there_and_off \
	a_write_is_seen_from_the_queue_to_its_end \
	a_duplicate_and_a_zero_are_decided_so \
	a_flush_and_fua_are_seen_to_wait_for_their_journal_block \
	a_cluster_is_seen_from_its_allocation_to_its_reuse \
	a_damaged_block_is_seen_to_fail_and_to_be_quarantined \
	perf_counts_and_shows_them \
	under_load_each_end_has_its_beginning \
	the_module_goes_with_events_on_and_off
