#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# All writes of a store are logged by the kernel's log-writes target and played back: at each flush
# mark, and after power cuts between the marks, the store can be recovered and is sound.
#
# host: timeout=3600

set -u
# shellcheck source=tools/testing/selftests/ddup/powercut/host.sh
. "$(dirname "$0")/powercut/host.sh"

MARKS=${MARKS:-50}
SEED=${SEED:-$RANDOM}
work=$(mktemp -d "${TMPDIR:-/tmp}/ddup-replay-XXXXXX")
trap 'rm -rf "$work"' EXIT

# shellcheck disable=SC2317 # run by result
logged_run()
{
	truncate -s 512M "$work/disk"
	truncate -s 8G "$work/log"
	truncate -s 16M "$work/notes"
	"$TOP/qemu/vm" --disk "$work/disk" --disk "$work/log" --disk "$work/notes" \
		--ship "$TOP/build/cargo/release/stamp" --timeout 1200 \
		-- "$TOP/tools/testing/selftests/ddup/powercut/logged.sh" "$SEED" 10
}

# shellcheck disable=SC2317 # run by result
replayed()
{
	tool replay "$work/log" "$work/image" --size 512M --seed "$SEED" --from formatted "$@"
}

# Each moment's store is recovered in memory; its checkpoint, every block and every count are checked.
# shellcheck disable=SC2317 # run by result
sound()
{
	# shellcheck disable=SC2016 # expanded by the replay's shell
	STORECHECK=$TOP/build/cargo/release/storecheck replayed --run '"$STORECHECK" --quiet "$IMAGE"' "$@"
}

# The check must be able to fail: a disk that lost 16 MiB.
# shellcheck disable=SC2317 # run by result
damage_is_found()
{
	replayed --marks 1 || return
	# The first block of each copy of the superblock stays: what is lost are pages and journal.
	dd if=/dev/zero of="$work/image" bs=4096 seek=16 count=4096 conv=notrunc status=none
	if "$TOP/build/cargo/release/storecheck" "$work/image"; then
		echo "16 MiB of the store are gone, and nothing was found"
		return 1
	fi
}

echo "# seed $SEED"
plan 4
result "a store works on a logged disk" logged_run
result "it is sound at $MARKS of its flush marks" sound --marks "$MARKS"
result "it is sound after $MARKS power cuts between them" sound --marks 1 --cuts "$MARKS"
result "a damaged one is not" damage_is_found
[ "$failures" = 0 ]
