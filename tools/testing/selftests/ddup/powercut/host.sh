# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# For tests that run on the host and start machines themselves: results in KTAP, and the
# programs of build/cargo/release.

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../../../.." && pwd)
# shellcheck source=qemu/lib.sh
. "$TOP/qemu/lib.sh"

# tool NAME [args]: a program that was built in the build root, with the libraries it was built for.
tool()
{
	(tool_exec "$@")
}

# The same in the place of this shell, so that a signal to it reaches the program.
tool_exec()
{
	local name=$1 libraries=$ROOT/usr/lib/x86_64-linux-gnu
	shift
	exec "$ROOT/usr/lib64/ld-linux-x86-64.so.2" --library-path "$libraries" \
		"$TOP/build/cargo/release/$name" "$@"
}

# plan N: how many results follow.
plan()
{
	echo "TAP version 14"
	echo "1..$1"
}

# result TITLE COMMAND [args]: one result, with the command's output as a comment if it fails.
results=0
failures=0
result()
{
	local title=$1 status=0 output
	shift
	results=$((results + 1))
	output=$("$@" 2>&1) || status=$?
	printf '%s\n' "$output" | sed 's/^/# /'
	if [ "$status" = 0 ]; then
		echo "ok $results - $title"
	else
		echo "not ok $results - $title # exit status $status"
		failures=$((failures + 1))
	fi
}
