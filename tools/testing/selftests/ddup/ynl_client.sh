#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The kernel's own netlink client drives every operation of the family by its spec alone.
# host: timeout=600

set -eu
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$here/../../../..
# shellcheck source=qemu/lib.sh
. "$top/qemu/lib.sh"
tree=$(kernel_dir "$(value_of "$REFERENCE" release)")/linux
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The client, its schema and the spec, in the folders where the client looks for them.
mkdir -p "$work/ynl/specs"
cp -r "$tree/tools/net/ynl/pyynl" "$work/ynl/"
cp "$tree/Documentation/netlink/genetlink.yaml" "$work/ynl/"
cp "$top/Documentation/netlink/specs/ddup.yaml" "$work/ynl/specs/"
tar -C "$work" -cf "$work/ynl.tar" ynl
truncate -s 256M "$work/disk"

"${DDUP_VM:-$top/qemu/vm}" --kernel "${DDUP_KERNEL:-stock}" --disk "$work/disk" --ship "$work/ynl.tar" \
	--timeout 540 -- "$here/ynl_client.guest"
