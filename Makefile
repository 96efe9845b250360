# SPDX-License-Identifier: GPL-2.0
#
# The verbs of this repository; `make help` lists them. What they need is made by qemu/setup
# and cached outside of the repository.

MAKEFLAGS += --no-print-directory
export KVER KDIR

.DEFAULT_GOAL := help

##@ Building
setup:		## make the build root, the reference kernel's tree and the guest (cached)
	@qemu/setup

modules:	## build/ddup.ko for the reference kernel, or for KDIR=<a prepared kernel tree>
	@qemu/kbuild

tools:		## the userspace tools, in build/cargo/release
	@qemu/setup
	@cd tools && ../qemu/enter cargo build --release --locked

PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/sbin
MANDIR ?= $(PREFIX)/share/man/man8
COMPLETIONS ?= $(PREFIX)/share
UNITDIR ?= /usr/lib/systemd/system
UDEVDIR ?= /usr/lib/udev/rules.d
BUILT := build/cargo/release
PUT := install -D -m
STRIP := $(if $(shell command -v strip),-s)

# Only puts what `make tools` has made into place: root does not build.
install:	## tools, man pages, completions, unit and udev rules: PREFIX=/usr/local, DESTDIR=
	@test -x $(BUILT)/ddup-docs || { echo "make install: run 'make tools' first" >&2; exit 1; }
	@rm -rf build/docs && $(BUILT)/ddup-docs build/docs
	@set -e; for tool in ddup ddupd; do \
		$(PUT) 755 $(STRIP) $(BUILT)/$$tool $(DESTDIR)$(BINDIR)/$$tool; \
		$(PUT) 644 build/docs/completions/$$tool.bash $(DESTDIR)$(COMPLETIONS)/bash-completion/completions/$$tool; \
		$(PUT) 644 build/docs/completions/_$$tool $(DESTDIR)$(COMPLETIONS)/zsh/site-functions/_$$tool; \
		$(PUT) 644 build/docs/completions/$$tool.fish $(DESTDIR)$(COMPLETIONS)/fish/vendor_completions.d/$$tool.fish; \
	done
	@set -e; for page in build/docs/man/*.8; do $(PUT) 644 $$page $(DESTDIR)$(MANDIR)/$${page##*/}; done
	@mkdir -p $(DESTDIR)$(UNITDIR) $(DESTDIR)/etc/ddup
	@sed 's,@bindir@,$(BINDIR),' tools/ddup/systemd/ddupd.service >$(DESTDIR)$(UNITDIR)/ddupd.service
	@chmod 644 $(DESTDIR)$(UNITDIR)/ddupd.service
	@$(PUT) 644 tools/ddup/udev/60-ddup.rules $(DESTDIR)$(UDEVDIR)/60-ddup.rules
	@sed 's,@bindir@,$(BINDIR),' tools/ddup/udev/60-ddup.rules >$(DESTDIR)$(UDEVDIR)/60-ddup.rules
	@$(PUT) 644 tools/ddup/systemd/example.toml $(DESTDIR)$(COMPLETIONS)/doc/ddup/example.toml

##@ Trying it
demo: modules tools	## the main job: a tree copied twice, a power cut, recovery, a report
	@qemu/demo

shell: modules tools	## the same machine, interactive
	@qemu/shell

##@ Testing
check:		## formatting, clippy, shellcheck, checkpatch, generated files, house rules
	@tools/testing/run check

test:		## every claim once; the last line counts what passed and failed
	@tools/testing/run

sim:		## play histories of a store with power cuts: SEED=n, or SEEDS=n or SEEDS=from..to; MUTANT=k, V=1
	@cd tools && ../qemu/enter cargo run -q --profile checked --locked -p ddup-sim -- \
		$(if $(SEED),--seed $(SEED) --minimise,--seeds $(or $(SEEDS),300)) \
		$(if $(MUTANT),--mutant $(MUTANT)) $(if $(V),--verbose)

sim-mutants:	## each deliberate error of the engine has to be caught by the simulator
	@cd tools && ../qemu/enter cargo run -q --profile checked --locked -p ddup-sim -- --mutants

sim-cluster:	## play histories of a replica set: SEED=n, or SEEDS=n or SEEDS=from..to; MUTANT=k, V=1
	@cd tools && ../qemu/enter cargo run -q --profile checked --locked -p ddup-clustersim -- \
		$(if $(SEED),--seed $(SEED) --minimise,--seeds $(or $(SEEDS),300)) \
		$(if $(MUTANT),--mutant $(MUTANT)) $(if $(V),--verbose)

sim-cluster-mutants:	## each deliberate error of the protocol engine has to be caught
	@cd tools && ../qemu/enter cargo run -q --profile checked --locked -p ddup-clustersim -- \
		--mutants --seeds 20000

sim-set:	## play histories of real stores in a replica set: SEED=n, or SEEDS=n or SEEDS=from..to; MUTANT=k, V=1
	@cd tools && ../qemu/enter cargo run -q --profile checked --locked -p ddup-setsim -- \
		$(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),100)) \
		$(if $(MUTANT),--mutant $(MUTANT)) $(if $(V),--verbose)

sim-set-mutants:	## each deliberate error of what joins a set to its store has to be caught
	@cd tools && ../qemu/enter cargo run -q --profile checked --locked -p ddup-setsim -- \
		--seeds $(or $(SEEDS),2000) --mutants

fuzz:		## damaged bytes for every parser of disk format and protocol: T=seconds, TARGET=, ONLY=iteration
	@cd tools && ../qemu/enter cargo run -q --profile checked --locked -p ddup-fuzz -- \
		--seconds $(or $(T),60) $(if $(TARGET),--target $(TARGET)) $(if $(ONLY),--only $(ONLY))

bench: modules tools	## ddup beside the raw disk, dm-thin, dm-vdo and DRBD (two hours at most; goes on where it was)
	@tools/testing/bench/run

bench-quick: modules tools	## the same with fewer targets and cells, some minutes
	@tools/testing/bench/run --quick

bench-uml: tools	## the same in User-Mode Linux: native code without hardware virtualization (built once, 10 minutes)
	@qemu/uml-kernel
	@qemu/kbuild --kernel uml
	@tools/testing/bench/run --uml

profile: modules tools	## a flame graph of the guest while fio runs PATTERN="rw blocksize depth" on ddup
	@tools/testing/bench/profile "$(PATTERN)"

instructions: modules tools	## count the kernel's instructions for a request, by function: PATTERN="read|write|fdatasync size", PEER=1
	@tools/testing/bench/instructions $(if $(PATTERN),"$(PATTERN)") $(if $(PEER),--peer)

proof:		## the same at full numbers (hours; interrupted it goes on where it was)
	@tools/testing/run --proof

test-debug:	## the self-tests on the debug kernel (built once and cached)
	@qemu/setup
	@qemu/debug-kernel
	@tools/testing/run --kernel debug 'vm/*'

##@ Other
clean:		## remove build/ (the cache stays)
	@rm -rf build

help:		## this list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' Makefile)
