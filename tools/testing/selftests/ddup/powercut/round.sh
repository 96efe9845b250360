#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# One life of the machine between two power cuts: attach, check that everything is there that must
# be, then work until the power fails. Run by tools/testing/lossydisk's powercut.
#
#   round.sh plain|ddup SEED first|next WORKLOAD...
#
# The workloads are blocks, ext4, xfs and fio (not on a plain disk, which may tear blocks): all are
# checked, the named ones are at work when the power fails. trim beside them discards what the file
# systems have free, over and over.
#
# /dev/vda is the disk that loses unflushed writes, /dev/vdb keeps the notes of what was
# acknowledged and loses nothing. plain: the workloads run on the disk itself; ddup: on a ddup
# volume that is stored on it.

set -u
mode=$1 seed=$2 life=$3
shift 3
tests=$(dirname "$0")
# shellcheck source=tools/testing/selftests/ddup/powercut/areas.sh
. "$tests/areas.sh"

# What a plain disk promises: whole sectors of 512 bytes. A ddup volume: whole blocks.
torn=()
[ "$mode" = ddup ] || torn=(--torn-sectors)

die()
{
	echo "powercut: FAILED: $*"
	exit 1
}

# The runner keeps a last newline back until something follows it.
step()
{
	printf 'powercut: %s\n\n' "$*"
}

volume()
{
	if [ "$mode" = plain ]; then
		echo /dev/vda
		return
	fi
	# Parameters are words: shellcheck must not have them quoted.
	# shellcheck disable=SC2086
	insmod "$DDUP_KO" ${DDUP_MODULE_PARAMETERS-} || return
	if [ "$life" = first ]; then
		ddup format /dev/vda >&2 || return
	fi
	ddup attach /dev/vda
}

first_life()
{
	stamp init "$(area_node notes-blocks)" --seed "$seed" --blocks "$BLOCKS" --threads 4 \
		--flushes 3 || return
	mkfs.ext4 -q -E lazy_itable_init=0 "$(area_node ext4)" || return
	mkfs.xfs -q "$(area_node xfs)" || return
	for kind in ext4 xfs; do
		stamp init "$(area_node "notes-$kind")" --seed "$seed" --blocks "$FILES" --threads 2 --length 2 \
			--flushes 40 --duplicates 30 --classes 50 || return
	done
	[ "$mode" = plain ] || fio_lay || return
	sync
}

check_files()
{
	local kind=$1 node
	node=$(area_node "$kind")
	mount -t "$kind" "$node" "/run/$kind" || return
	stamp verify "/run/$kind" "$(area_node "notes-$kind")" || return
	umount "/run/$kind" || return
	case $kind in
	ext4) e2fsck -fn "$node" >/run/fsck.log 2>&1 ;;
	xfs) xfs_repair -n "$node" >/run/fsck.log 2>&1 ;;
	esac || {
		cat /run/fsck.log
		return 1
	}
}

# Ranges from a block to the whole free space, while files come and go; what is discarded when a
# file goes is discarded by the mount option.
trim_work()
{
	while fstrim /run/ext4 && fstrim /run/xfs; do
		sleep 0.3
	done
}

mkdir -p /run/ext4 /run/xfs
modprobe -q ext4
modprobe -q xfs
step attaching
device=$(volume) || die "no volume"
make_areas "$device" /dev/vdb || die "no areas on $device"
if [ "$life" = first ]; then
	first_life || die "preparing $device"
else
	step checking
	stamp verify "${torn[@]}" "$(area_node blocks)" "$(area_node notes-blocks)" || die "blocks"
	[ "$mode" = plain ] || fio_check || die "fio's blocks"
	check_files ext4 || die "ext4"
	check_files xfs || die "xfs"
	step checked
fi

mount -o discard "$(area_node ext4)" /run/ext4 || die "ext4 does not mount"
mount -o discard "$(area_node xfs)" /run/xfs || die "xfs does not mount"
for work; do
	case $work in
	blocks) stamp run "$(area_node blocks)" "$(area_node notes-blocks)" & ;;
	ext4 | xfs) stamp run "/run/$work" "$(area_node "notes-$work")" & ;;
	fio) fio_work & ;;
	trim) trim_work & ;;
	*) die "no workload $work" ;;
	esac
done
step working
# The power fails before one of them ends; if not, that is a failure.
wait -n
die "a workload ended with $?"
