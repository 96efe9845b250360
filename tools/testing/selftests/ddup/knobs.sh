#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Each knob takes its default, its least and its largest value, and nothing beyond, by sysfs and by the
# tool; and each memory limit of an attach.
# vm: disk=1G mem=2048 timeout=600

# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

USAGE=2

# Calls a function with name, default, least and largest value of each knob.
for_each_knob() { # function
	local name default least largest
	ddup get --json "$ddup" >/tmp/ddup-test.knobs
	defer rm -f /tmp/ddup-test.knobs
	# jq rounds numbers beyond 2^53.
	python3 - >/tmp/ddup-test.lines <<-'EOF2'
		import json
		with open("/tmp/ddup-test.knobs") as file:
		    for knob in json.load(file)["knobs"]:
		        print(knob["name"], knob["default"], knob["min"], knob["max"])
	EOF2
	[ "$(wc -l </tmp/ddup-test.lines)" -ge 7 ]
	while read -r name default least largest; do
		"$1" "$name" "$default" "$least" "$largest"
	done </tmp/ddup-test.lines
	rm /tmp/ddup-test.lines
}

file_of() { # knob
	echo "/sys/block/${ddup##*/}/ddup/$1"
}

value_of() { # knob
	cat "$(file_of "$1")"
}

# A write must fail with one of these errors and change nothing.
write_fails() { # errors knob value
	local before said
	before=$(value_of "$2")
	said=$(python3 - "$(file_of "$2")" "$3" <<-'EOF2'
		import errno, os, sys
		fd = os.open(sys.argv[1], os.O_WRONLY)
		try:
		    os.write(fd, sys.argv[2].encode())
		    print("taken")
		except OSError as error:
		    print(errno.errorcode[error.errno])
	EOF2
	)
	echo "$2 = $3: $said"
	grep -Eqx "$1" <<<"$said"
	[ "$(value_of "$2")" = "$before" ]
}

check_file() { # knob default least largest
	local value beyond
	[ "$(value_of "$1")" = "$2" ]
	for value in "$3" "$4" "$2"; do
		echo "$value" >"$(file_of "$1")"
		[ "$(value_of "$1")" = "$value" ]
	done
	beyond=$(python3 -c 'import sys; print(int(sys.argv[1]) + 1)' "$4")
	# What has no 64 bits is no number.
	write_fails 'ERANGE|EINVAL' "$1" "$beyond"
	write_fails EINVAL "$1" 18446744073709551616
	if [ "$3" -gt 0 ]; then
		write_fails ERANGE "$1" $(($3 - 1))
	fi
	for value in -1 many 1K '1 2' 0x; do
		write_fails EINVAL "$1" "$value"
	done
}

check_tool() { # knob default least largest
	local beyond
	ddup set "$ddup" "$1=$3"
	[ "$(value_of "$1")" = "$3" ]
	ddup set "$ddup" "$1=$4"
	[ "$(value_of "$1")" = "$4" ]
	beyond=$(python3 -c 'import sys; print(int(sys.argv[1]) + 1)' "$4")
	for value in "$beyond" -1 many ''; do
		refused $USAGE "$1" ddup set "$ddup" "$1=$value"
		[ "$(value_of "$1")" = "$4" ]
	done
	ddup set "$ddup" "$1=default"
	[ "$(value_of "$1")" = "$2" ]
}

files_take_the_range_and_nothing_beyond() {
	make_store 64M
	attach "$device"
	for_each_knob check_file
}

the_tool_takes_the_range_and_nothing_beyond() {
	make_store 64M
	attach "$device"
	for_each_knob check_tool
}

# The limits that an attach takes: of the metadata cache and of the index.
memory_takes_the_range_and_nothing_beyond() {
	local option ram
	make_store 64M
	ram=$(awk '/^MemTotal/ { print $2 * 1024 }' /proc/meminfo)
	attach "$device"
	[ "$(ddup status --json | jq -c '.devices[0] | [.cache_bytes, .index_bytes]')" = "[67108864,1048576]" ]
	ddup detach "$ddup"
	for option in --cache --index; do
		attach "$device" $option 1M
		ddup detach "$ddup"
		refused 1 'too few: give at least 1048576' ddup attach "$device" $option 1048575
		refused 1 'too many: give .*half of the RAM' ddup attach "$device" $option "$((ram * 2))"
		refused 1 'too many' ddup attach "$device" $option 18446744073709551615
		refused $USAGE '16 EiB' ddup attach "$device" $option 18446744073709551616
		refused $USAGE 'no size' ddup attach "$device" $option=-1
		attach "$device" $option "$((ram / 4))"
		ddup detach "$ddup"
	done
	[ -z "$(ddup list)" ]
}

load
run_tests files_take_the_range_and_nothing_beyond \
	the_tool_takes_the_range_and_nothing_beyond \
	memory_takes_the_range_and_nothing_beyond
