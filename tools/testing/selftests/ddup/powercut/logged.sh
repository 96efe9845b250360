#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A store on a disk all of whose writes are logged by the kernel's log-writes target, for
# ../powercut_replay.sh.
#
#   logged.sh SEED SECONDS
#
# /dev/vda is the disk, /dev/vdb the log, /dev/vdc keeps notes.

set -u
seed=$1 seconds=$2

die()
{
	echo "logged: $*"
	exit 1
}

modprobe -q dm_mod
modprobe -q dm_log_writes || die "the kernel has no dm-log-writes"
dmsetup create logged --table "0 $(blockdev --getsz /dev/vda) log-writes /dev/vda /dev/vdb" ||
	die "no logged device"
dmsetup mknodes logged
ddup format /dev/mapper/logged || die "format"
sync
dmsetup message logged 0 mark formatted || die "mark"
# Parameters are words.
# shellcheck disable=SC2086
insmod "$DDUP_KO" ${DDUP_MODULE_PARAMETERS-} || die "insmod"
volume=$(ddup attach /dev/mapper/logged) || die "attach"
stamp init /dev/vdc --seed "$seed" --blocks 16384 --threads 4 --flushes 3 || die "stamp init"
stamp run "$volume" /dev/vdc --seconds "$seconds" || die "stamp run"
stamp verify "$volume" /dev/vdc --keep || die "stamp verify"
ddup detach "$volume" >/dev/null || die "detach"
rmmod ddup || die "rmmod"
dmsetup remove logged || die "dmsetup remove"
sync
echo "logged: done"
