# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# shellcheck disable=SC2034 # used by the scripts that read this file
#
# Shared by the scripts of this folder: where things are cached, how a step is
# reported, and how a command is run inside the build root.
#
# Everything that takes long to make lives under $DDUP_CACHE and is keyed by what
# it was made from, so that two checkouts share it and a change of a package list
# makes a new one beside the old.

SUITE=trixie
SRC=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DDUP_CACHE=${DDUP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ddup}

# Packages of the build root: the toolchain that Debian builds this kernel with,
# the checkers, and QEMU, so that every host runs the same ones.
ROOT_PACKAGES=(
	gcc-14 gcc libc6-dev make bc bison flex cpio kmod xz-utils zstd rsync patch perl
	libelf-dev libssl-dev libdw-dev dwarves pkgconf python3 python3-yaml python3-jsonschema
	rustc cargo rustfmt rust-clippy bindgen libclang-dev
	shellcheck file ca-certificates git
	qemu-system-x86 qemu-utils seabios erofs-utils busybox-static
	e2fsprogs xfsprogs
)
# On top of it for the debug kernel alone (KASAN with Rust wants clang).
DEBUG_PACKAGES=(clang lld llvm)
# Packages of the guest's file system.
GUEST_PACKAGES=(
	kmod udev iproute2 iputils-ping procps util-linux e2fsprogs xfsprogs fio dmsetup lvm2
	thin-provisioning-tools vdo drbd-utils python3 python3-yaml jq strace rsync file xxd linux-perf
)

key_of() { printf '%s\n' "$@" | sha256sum | cut -c1-10; }

BASE=$DDUP_CACHE/base-$SUITE
ROOT=$DDUP_CACHE/root-$SUITE-$(key_of "${ROOT_PACKAGES[@]}")
GUEST_KEY=$SUITE-$(key_of "${GUEST_PACKAGES[@]}")
# Written by qemu/setup: the kernels that were resolved, one "name=value" a line.
REFERENCE=$DDUP_CACHE/reference${KVER:+-$KVER}
NEXT=$DDUP_CACHE/next${KVER:+-$KVER}

SECONDS=0
say() { printf '[%4d s] %s\n' "$SECONDS" "$*" >&2; }
die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# Reads one value of a file of "name=value" lines.
value_of() { # file name
	[ -r "$1" ] && sed -n "s/^$2=//p" "$1"
}

# Where a kernel lives: its tree is used under the same absolute path inside and
# outside of the build root, since Rust metadata and .cmd files hold that path.
kernel_dir() { # release
	echo "$DDUP_CACHE/kernel/$1-$(value_of "$ROOT/.ddup-stamp" rustc)"
}

# Runs a command in a root directory with the host's /proc, /dev, /tmp, resolver and trusted
# certificates, and the cache, the checkout and the working directory at their own paths (more
# of them: DDUP_BIND=dir:dir). The mounts live in a mount namespace of the command's own:
# whatever ends it, none is left behind.
in_root() { # root command...
	local root=$1 dir bundle=/etc/ssl/certs/ca-certificates.crt binds=()
	shift
	[ "$(id -u)" = 0 ] || die "the build root needs root for chroot and mounts: run as root (sudo)"
	for dir in "$DDUP_CACHE" "$SRC" "$PWD" ${DDUP_BIND:+${DDUP_BIND//:/ }}; do
		case $dir in
		/ | /tmp | /tmp/* | /proc | /dev | /usr | /usr/*) ;;
		*) binds+=("$dir") ;;
		esac
	done
	[ -r "${SSL_CERT_FILE:-}" ] && bundle=$SSL_CERT_FILE
	# shellcheck disable=SC2016 # expanded by the inner shell
	unshare --mount --propagation private bash -c '
		set -e
		root=$1 pwd=$2 bundle=$3 count=$4
		shift 4
		for dir in /proc /dev /tmp "${@:1:count}"; do
			mkdir -p "$root$dir"
			mount --rbind "$dir" "$root$dir"
		done
		shift "$count"
		! [ -e /etc/resolv.conf ] || mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
		! [ -e "$bundle" ] || mount --bind "$bundle" "$root/etc/ssl/host-bundle.crt"
		exec chroot "$root" /usr/bin/env --chdir="$pwd" "$@"
	' in_root "$root" "$PWD" "$bundle" "${#binds[@]}" "${binds[@]}" \
		-i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		HOME=/root LANG=C.UTF-8 LC_ALL=C.UTF-8 TERM="${TERM:-dumb}" \
		DEBIAN_FRONTEND=noninteractive DDUP_CACHE="$DDUP_CACHE" \
		CARGO_HOME="$DDUP_CACHE/cargo" CARGO_HTTP_CAINFO=/etc/ssl/host-bundle.crt \
		SSL_CERT_FILE=/etc/ssl/host-bundle.crt \
		${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
		"$@"
}

# A kernel as the guest boots it: vmlinuz, initramfs, modules. It hangs on how they are packed.
image_dir() { # kernel-dir
	echo "$1/image-$(key_of "$(cat "$SRC/qemu/modules-image" "$SRC/qemu/guest/init")")"
}

# A real tree of more than 10,000 files and 500 MiB for demo and tests: TREE_DIRS of the reference
# kernel's source, as a read-only image with its SHA256SUMS.
TREE_DIRS=(drivers/gpu fs)
tree_image() {
	echo "$DDUP_CACHE/tree-$(value_of "$REFERENCE" version)-$(key_of "${TREE_DIRS[@]}").erofs"
}

# Where the debug kernel is built: it hangs on the source, the toolchain and its configuration.
debug_dir() {
	echo "$DDUP_CACHE/kernel/debug-$(value_of "$REFERENCE" version)-$(key_of "$(cat "$SRC/qemu/debug.config")")"
}

# The same source as User-Mode Linux, and that as the guest boots it.
uml_dir() {
	echo "$DDUP_CACHE/kernel/uml-$(value_of "$REFERENCE" version)-$(key_of "$(cat "$SRC/qemu/uml.config")")"
}
uml_image_dir() {
	echo "$(uml_dir)/image-$(key_of "$(cat "$SRC/qemu/uml-kernel" "$SRC/qemu/guest/init")")"
}

# Builds a kernel of our own configuration from the reference kernel's source, on top of allnoconfig.
# Interrupted it goes on where it was; whole it has the file .whole.
build_kernel() { # name directory configuration make-arguments...
	local name=$1 dir=$2 config=$3 tree=$2/linux log=$DDUP_CACHE/log/${2##*/}.log missing before build
	shift 3
	mkdir -p "$dir"
	exec 9>"$dir/lock"
	flock -n 9 || { say "$name: another build is under way, waiting for it"; flock 9; }
	if ! [ -e "$dir/.source" ]; then
		say "$name: unpacking the source"
		"$SRC/qemu/setup" source "$tree" >"$log" 2>&1 9>&- || die "$name: no source (log: $log)"
		touch "$dir/.source"
	fi
	if ! [ -e "$dir/.configured" ]; then
		say "$name: configuring"
		cp "$config" "$tree/ddup.config"
		in_root "$ROOT" make -C "$tree" "$@" KCONFIG_ALLCONFIG=ddup.config allnoconfig \
			>"$log" 2>&1 9>&- || die "$name: not configured (log: $log)"
		# What could not be had is dropped silently by kconfig; here it is an error.
		missing=$(grep -E '^CONFIG_[A-Z0-9_]+=' "$config" | grep -vxFf "$tree/.config" || :)
		[ -z "$missing" ] || die "$name: kconfig dropped: ${missing//$'\n'/ }"
		touch "$dir/.configured"
	fi
	if ! [ -e "$dir/.whole" ]; then
		say "$name: building ($(nproc) jobs, log: $log)"
		before=$SECONDS
		set -m # a process group of its own, so that all of it ends with this script
		in_root "$ROOT" nice -n 19 make -C "$tree" -j"$(nproc)" "$@" all >>"$log" 2>&1 9>&- &
		build=$!
		set +m
		# shellcheck disable=SC2064 # this very process
		trap "kill -- -$build 2>/dev/null || :" EXIT
		while kill -0 "$build" 2>/dev/null; do
			sleep 2
			[ $((SECONDS - before)) -lt 60 ] || {
				before=$SECONDS
				say "$name: $(grep -cE '^  [A-Z]' "$log") steps done"
			}
		done
		wait "$build" || { tail -n 12 "$log" >&2; die "$name: not built (log: $log)"; }
		trap - EXIT
		[ -s "$tree/Module.symvers" ] || die "$name: no Module.symvers (log: $log)"
		touch "$dir/.whole"
	fi
}
