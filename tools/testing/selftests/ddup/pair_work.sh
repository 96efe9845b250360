# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What users do with a replica set on several machines, for tests that source pair_set.sh before:
#
#   work a 1                     files that are fsynced on a, with others and fio beside them
#   everything_is_there b        b shows each file that was ever fsynced, in a clean file system
#   promote_instead_of a b       a's machine is gone: b leads
#   start_again a                a's machine and daemon, with the disk that it had
#   made_equal a b               a gets what b has, and is in sync again

# What is in single quotes is for a guest's shell; $pair is of qemu/pair.sh.
# shellcheck disable=SC2016,SC2154

FILES=${FILES:-12}

# Files that are fsynced, with others and fio beside them; the sums of what is durable are kept here.
work() { # node round
	on "$1" "
		mountpoint -q /mnt || mount /dev/ddup0 /mnt || exit
		fio --name=beside --directory=/mnt --size=24m --rw=randwrite --bs=16k --fsync=16 --time_based \
			--runtime=600 --dedupe_percentage=30 >/tmp/fio.log 2>&1 &
		echo \$! >/tmp/fio.pid
		mkdir -p /mnt/round-$2
		for file in \$(seq $FILES); do
			head -c \$((RANDOM * 20 + 1)) /dev/urandom >/mnt/round-$2/\$file
			sync /mnt/round-$2/\$file /mnt/round-$2 || exit
		done
		cd /mnt && sha256sum round-$2/*
	" >"$pair/sums-$2.out" || { cat "$pair/sums-$2.out"; return 1; }
	grep -c . "$pair/sums-$2.out" | grep -qx "$FILES" || { cat "$pair/sums-$2.out"; return 1; }
	cat "$pair/sums-$2.out" >>"$pair/sums"
}

# The file system is clean, and each file that was ever fsynced is as it was.
everything_is_there() { # node
	on "$1" "
		mount /dev/ddup0 /mnt && cd /mnt || exit
		sha256sum --quiet --check <<'END' || exit
$(cat "$pair/sums")
END
		cd / && umount /mnt && e2fsck -fn /dev/ddup0
	"
}

# Nobody is promoted who cannot know whether the primary goes on, but by force.
promote_instead_of() { # lost node
	local lost=$1
	on "$2" "
		for _ in \$(seq 600); do
			ddup set show --json | jq -e '.sets[0].members[] | select(.store_uuid == \"$(uuid_of "$lost")\" and .link == \"absent\")' && break
			sleep 0.1
		done
		said=\$(ddup promote /dev/ddup0 2>&1) && exit 1
		grep -q '$(uuid_of "$lost") is in sync and not connected' <<<\"\$said\" || { echo \"\$said\"; exit 1; }
		ddup promote --force --wait 120 /dev/ddup0
	"
}

# It is made equal, if need be after a person gave up what only it has.
made_equal() { # node primary
	on "$2" "ddup peer join --timeout 30 /dev/ddup0 $(uuid_of "$1")" && return
	on "$1" 'ddup set show; tail -n 20 /tmp/ddupd.log
		! ddup set show --json | jq -e ".sets[0].history_kept" || ddup peer resolve --discard-local /dev/ddup0' ||
		return
	on "$2" "ddup peer join --timeout 300 /dev/ddup0 $(uuid_of "$1")"
}

start_again() { # node
	boot "$1" --disk "$pair/disk-$1" && serve "$1"
}
