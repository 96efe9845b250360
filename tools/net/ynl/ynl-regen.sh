#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Generates the netlink family's C files from Documentation/netlink/specs/ddup.yaml
# with the generator of a kernel source:
#
#	tools/net/ynl/ynl-regen.sh [--check] KERNEL_SOURCE
#
# --check writes nothing and fails if a committed file is not what the generator makes. The
# generators of Linux 7.2 and 7.3 make the same.

set -euo pipefail

SPEC=Documentation/netlink/specs/ddup.yaml
DRIVER=drivers/block/ddup
# file, generator's mode, kind
OUTPUTS=(
	"$DRIVER/uapi/linux/ddup.h uapi header"
	"$DRIVER/netlink_gen.h kernel header"
	"$DRIVER/netlink_gen.c kernel source"
)

die() {
	printf 'ynl-regen: %s\n' "$*" >&2
	exit 1
}

check=
if [ "${1-}" = --check ]; then
	check=yes
	shift
fi
[ $# -eq 1 ] || die "usage: ynl-regen.sh [--check] KERNEL_SOURCE"
ksrc=$1
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)

generator=$ksrc/tools/net/ynl/pyynl/ynl_gen_c.py
[ -f "$generator" ] ||
	die "$generator does not exist: name an unpacked source of Linux 7.2 or newer"
series=$(sed -n 's/^VERSION = //p;s/^PATCHLEVEL = /./p' "$ksrc/Makefile" | tr -d '\n')
python3 -c 'import yaml, jsonschema' 2>/dev/null ||
	die "python3 lacks yaml or jsonschema: install python3-yaml and python3-jsonschema"

# The generator looks for the schema two folders above the spec, and takes the folder that holds
# MAINTAINERS for the kernel's top.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/$(dirname "$SPEC")"
touch "$work/MAINTAINERS"
cp "$ksrc/Documentation/netlink/genetlink.yaml" "$work/Documentation/netlink/"
cp "$top/$SPEC" "$work/$SPEC"

stale=
for output in "${OUTPUTS[@]}"; do
	read -r file mode kind <<<"$output"
	mkdir -p "$work/$(dirname "$file")"
	python3 "$generator" --mode "$mode" "--$kind" --spec "$work/$SPEC" -o "$work/$file"
	cmp -s "$work/$file" "$top/$file" && continue
	if [ -n "$check" ]; then
		diff -u "$top/$file" "$work/$file" >&2 || true
		stale+=" $file"
	else
		mkdir -p "$top/$(dirname "$file")"
		cp "$work/$file" "$top/$file"
		echo "generated $file"
	fi
done
[ -z "$stale" ] || die "stale (by the generator of Linux $series):$stale: run tools/net/ynl/ynl-regen.sh $ksrc and commit the result"
