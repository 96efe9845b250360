# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Where the workloads of a power-cut test have their place on the disk, and the ones that are
# not stamp.
#
# shellcheck disable=SC2034 # used where this is sourced

# Numbers of blocks of 4096 bytes, and of files.
BLOCKS=16384
FILES=512
FIO_MIB=32

# area DISK NAME MIB: in this order, one after the other.
AREAS='
work blocks 64
work fio 32
work ext4 256
work xfs 320
notes notes-blocks 2
notes notes-ext4 1
notes notes-xfs 1
'

area_node()
{
	echo "/dev/mapper/$1"
}

# make_areas WORK NOTES: a device-mapper node for each area.
make_areas()
{
	local disk name size work=0 notes=0
	modprobe -q dm_mod
	while read -r disk name size; do
		[ -n "$disk" ] || continue
		size=$((size * 2048))
		if [ "$disk" = work ]; then
			dmsetup create "$name" --table "0 $size linear $1 $work" || return
			work=$((work + size))
		else
			dmsetup create "$name" --table "0 $size linear $2 $notes" || return
			notes=$((notes + size))
		fi
		dmsetup mknodes "$name" || return
	done <<<"$AREAS"
}

fio_job()
{
	fio --name=powercut --filename="$(area_node fio)" --size="${FIO_MIB}M" --direct=1 \
		--ioengine=libaio --verify=crc32c --verify_interval=4096 "$@"
}

# Each block gets a head with its place and the checksum of its content, and is durable.
fio_lay()
{
	fio_job --rw=write --bs=64k --iodepth=8 --do_verify=0 --end_fsync=1 >/run/fio.log 2>&1 || {
		cat /run/fio.log
		return 1
	}
}

# Overwrites blocks for ever.
fio_work()
{
	fio_job --rw=randwrite --bs=4k --iodepth=16 --do_verify=0 --fsync=512 --randrepeat=0 \
		--time_based --runtime=3600 >/run/fio.log 2>&1
}

# Each block is whole and in its place, the laid or a later one.
fio_check()
{
	fio_job --rw=read --bs=64k --iodepth=8 --verify_header_seed=0 --verify_fatal=1 \
		>/run/fio.log 2>&1 || {
		cat /run/fio.log
		return 1
	}
}
