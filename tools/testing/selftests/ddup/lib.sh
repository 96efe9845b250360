# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What the self-tests share. A test is a shell function named as its claim; a script ends with
#
#	run_tests claim_one claim_two ...
#
# Each runs in a subshell with `set -eu`: the first command that fails fails the test, and what it
# printed is shown. `defer` undoes things at the end of the test, whatever its end; `skip` says
# why it cannot run here. After each test the kernel's log since its start must be clean.

# What the kernel says when something is wrong.
TROUBLE='WARNING|BUG:|Oops|KASAN|UBSAN|cut here|Call Trace|INFO: task|possible .* locking|panicked'

fail() {
	printf 'failed: %s\n' "$*"
	exit 1
}

skip() {
	printf 'SKIP %s\n' "$*"
	exit 4
}

# A figure that is shown whatever the test's end.
exec {figures}>&1
figure() {
	printf '# %s\n' "$*" >&"$figures"
}

# --- undoing ---------------------------------------------------------------------------------

deferred=()

# Runs a command at the end of the test; the last one deferred runs first.
defer() {
	deferred+=("$(printf '%q ' "$@")")
}

undo() {
	local status=$? i
	set +e
	for ((i = ${#deferred[@]} - 1; i >= 0; i--)); do
		eval "${deferred[i]}"
	done
	exit "$status"
}

# --- running ---------------------------------------------------------------------------------

run_tests() {
	local test number=0 failures=0 status output mark
	echo "KTAP version 1"
	echo "1..$#"
	output=$(mktemp)
	for test in "$@"; do
		number=$((number + 1))
		mark="selftest ${0##*/} $test $$.$number"
		echo "$mark" >/dev/kmsg
		(
			trap undo EXIT
			set -eu
			"$test"
		) >"$output" 2>&1
		status=$?
		# A command that happens to exit with 4 is no reason to skip.
		[ "$status" != 4 ] || grep -q '^SKIP ' "$output" || status=1
		if dmesg | sed "1,/$mark/d" | grep -E "$TROUBLE" >>"$output"; then
			echo "failed: the kernel's log has the lines above" >>"$output"
			status=1
		fi
		case $status in
		0) echo "ok $number $test" ;;
		4) echo "ok $number $test # SKIP $(sed -n 's/^SKIP //p' "$output")" ;;
		*)
			sed 's/^/# /' "$output"
			echo "not ok $number $test"
			failures=$((failures + 1))
			;;
		esac
	done
	rm -f "$output"
	[ "$failures" = 0 ]
}

# --- asking ----------------------------------------------------------------------------------

# Waits until a command succeeds, at most so many seconds.
wait_for() { # seconds command...
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || fail "waited in vain for: $*"
		sleep 0.1
	done
}

# A command must fail with this exit status, and say what matches the pattern.
refused() { # status pattern command...
	local wanted=$1 pattern=$2 status=0 said
	shift 2
	said=$("$@" 2>&1) || status=$?
	printf '%s -> %s, %s\n' "$*" "$status" "$said"
	[ "$status" = "$wanted" ] || fail "exit status $status, not $wanted, of: $*"
	grep -Eq -- "$pattern" <<<"$said" || fail "it does not say '$pattern'"
}

# What every write to a file or device changes: of a device the sectors written and discarded, of
# a regular file its times.
trace_of_writes() { # file
	if [ -b "$1" ]; then
		awk '{ print $7, $14 }' "/sys/dev/block/$(lsblk -dno MAJ:MIN "$1" | tr -d ' ')/stat"
	else
		stat -c '%s %y %z' "$1"
	fi
}

# The same, and nothing is written to the file or device.
refused_unchanged() { # file status pattern command...
	local file=$1 before
	shift
	before=$(trace_of_writes "$file")
	refused "$@"
	[ "$before" = "$(trace_of_writes "$file")" ] || fail "$file was written to"
}

# A counter of a device, 0 if the driver does not keep it.
counter() { # device name
	ddup status --json "$1" | jq -r ".devices[0].counters.$2 // 0"
}

state_of() { # device
	ddup status --json "$1" | jq -r '.devices[0].state'
}

# --- making ----------------------------------------------------------------------------------

# An empty folder that goes with the test, in $folder.
make_folder() {
	folder=$(mktemp -d /tmp/ddup-test.XXXXXX)
	defer rmdir "$folder"
}

# A sparse file that goes with the test, in $file.
make_file() { # size
	file=$(mktemp /tmp/ddup-test.XXXXXX)
	defer rm -f "$file"
	truncate -s "$1" "$file"
}

# A loop device before a file, in $device, that goes with the test.
make_loop() { # file [losetup options]
	local backing=$1
	shift
	modprobe loop
	device=$(losetup --find --show "$@" "$backing")
	defer losetup -d "$device"
}

# A formatted store on a loop device: $file and $device.
make_store() { # size [format options]
	local size=$1
	shift
	make_file "$size"
	make_loop "$file"
	ddup format "$@" "$device"
}

load() {
	[ -d /sys/module/ddup ] || insmod "${DDUP_KO:?}"
}

unload() {
	[ ! -d /sys/module/ddup ] || rmmod ddup
}

# Attaches $1 with the further options: the block device is $ddup.
attach() { # store [options]
	ddup=$(ddup attach "$@")
	defer detach_if_there "$ddup"
	[ -b "$ddup" ] || fail "attach printed '$ddup', which is no block device"
}

detach_if_there() { # device
	[ ! -b "$1" ] || ddup detach --force "$1"
}

# A device-mapper device of a table, in $mapped, that goes with the test.
make_mapped() { # name table
	modprobe dm-mod
	dmsetup create "$1" --table "$2"
	# shellcheck disable=SC2034 # for the caller
	mapped=/dev/mapper/$1
	defer dmsetup remove --retry --force "$1"
	dmsetup mknodes "$1"
}
