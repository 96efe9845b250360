// SPDX-License-Identifier: GPL-2.0
/*
 * A plugin for QEMU: counts how often each block of the guest kernel's code runs, and writes
 * "address instructions times" to the file out=FILE when the machine ends. In a machine that counts
 * instructions (-icount) the same work gives the same numbers, whatever else the host does.
 *
 * Declared here is what it uses of <qemu-plugin.h>, version 4, which Debian does not ship.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define KERNEL (UINT64_C(1) << 63)
#define CHAINS (1 << 18)

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_info;

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
					   void (*cb)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb,
					  void (*cb)(unsigned int, void *),
					  int flags, void *data);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id,
				    void (*cb)(qemu_plugin_id_t, void *), void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);

EXPORT int qemu_plugin_version = 4;

/* A block of code, which may be translated more than once. */
struct block {
	uint64_t address;
	uint64_t times;
	size_t instructions;
	struct block *next;
};

static struct block *chains[CHAINS];
static const char *path;

static void on_run(unsigned int cpu, void *data)
{
	struct block *block = data;

	(void)cpu;
	block->times++;
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	uint64_t address = qemu_plugin_tb_vaddr(tb);
	size_t instructions = qemu_plugin_tb_n_insns(tb);
	struct block **chain, *block;

	(void)id;
	if (!(address & KERNEL))
		return;
	chain = &chains[(address * UINT64_C(0x9e3779b97f4a7c15)) >> 46];
	for (block = *chain; block; block = block->next)
		if (block->address == address && block->instructions == instructions)
			break;
	if (!block) {
		block = calloc(1, sizeof(*block));
		if (!block)
			return;
		block->address = address;
		block->instructions = instructions;
		block->next = *chain;
		*chain = block;
	}
	qemu_plugin_register_vcpu_tb_exec_cb(tb, on_run, 0, block);
}

static void on_end(qemu_plugin_id_t id, void *data)
{
	FILE *file = fopen(path, "w");
	struct block *block;
	size_t at;

	(void)id;
	(void)data;
	if (!file) {
		perror(path);
		return;
	}
	for (at = 0; at < CHAINS; at++)
		for (block = chains[at]; block; block = block->next)
			fprintf(file, "%" PRIx64 " %zu %" PRIu64 "\n", block->address,
				block->instructions, block->times);
	if (fclose(file))
		perror(path);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int argc,
			       char **argv)
{
	(void)info;
	if (argc != 1 || strncmp(argv[0], "out=", 4)) {
		fputs("instructions: wants out=FILE\n", stderr);
		return -1;
	}
	path = strdup(argv[0] + 4);
	if (!path)
		return -1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
	qemu_plugin_register_atexit_cb(id, on_end, NULL);
	return 0;
}
