#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Random and broken netlink messages are answered or refused, and change nothing without privileges.
# vm: disk=512M mem=1024 timeout=900

# shellcheck source=tools/testing/selftests/ddup/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

MESSAGES=${MESSAGES:-20000}
SEED=${SEED:-1}

broken_messages_from_root_do_no_harm() {
	ddup format --force /dev/vda
	ddup-nlfuzz --messages "$MESSAGES" --seed "$SEED" /dev/vda /dev/nope
	ddup detach --all --force
	# What was attached and detached so often still is a store.
	attach /dev/vda
	ddup status
}

broken_messages_about_a_replica_set_do_no_harm() {
	ddup format --force --set /dev/vda
	attach /dev/vda
	ddup-nlfuzz --messages "$((MESSAGES / 4))" --seed "$SEED" /dev/vda /dev/nope
	ddup detach --all --force
	attach /dev/vda
	ddup set show
}

broken_messages_from_nobody_change_nothing() {
	ddup format --force /dev/vda
	attach /dev/vda --number 5
	local before
	before=$(ddup list -o name,size,backing,state,store)
	setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all \
		"$(command -v ddup-nlfuzz)" --messages "$MESSAGES" --seed "$SEED" --unprivileged /dev/vda
	[ "$before" = "$(ddup list -o name,size,backing,state,store)" ]
}

load
run_tests broken_messages_from_root_do_no_harm broken_messages_about_a_replica_set_do_no_harm \
	broken_messages_from_nobody_change_nothing
