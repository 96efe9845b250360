/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints on the life of a request, of a cluster, and of the two things
 * that make both durable: the journal and the checkpoint.
 *
 * A request is named by dev and tag in all of its events, a store by the number
 * of its backing device. Numbers are those of Documentation/admin-guide/
 * blockdev/ddup.rst, which is what users rely on; trace.rs passes them.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM ddup

#if !defined(_DDUP_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _DDUP_TRACE_H

#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/kdev_t.h>
#include <linux/timekeeping.h>
#include <linux/tracepoint.h>

/* Numbers of enum req_op, which tools can't look up. */
#define DDUP_TRACE_OPS			\
	{ 0, "read" },			\
	{ 1, "write" },			\
	{ 2, "flush" },			\
	{ 3, "discard" },		\
	{ 9, "write-zeroes" }

#define DDUP_TRACE_DECISIONS		\
	{ 0, "new" },			\
	{ 1, "duplicate" },		\
	{ 2, "zero" }

#define DDUP_TRACE_WORKS		\
	{ 0, "read" },			\
	{ 1, "write" },			\
	{ 2, "compare" }

#define DDUP_TRACE_RESULTS		\
	{ 0, "ok" },			\
	{ 1, "failed" },		\
	{ 2, "mismatch" },		\
	{ 3, "equal" },			\
	{ 4, "differs" }

/* What names a request and what it asks for, from its blocks of 4 KiB. */
#define DDUP_TRACE_REQUEST_FIELDS			\
		__field(dev_t, dev)			\
		__field(u32, tag)			\
		__field(u32, op)			\
		__field(u32, blocks)			\
		__field(u64, lbn)

#define DDUP_TRACE_REQUEST_ASSIGN(rq)				\
		__entry->dev = disk_devt((rq)->q->disk);	\
		__entry->tag = blk_mq_unique_tag(rq);		\
		__entry->op = (__force u32)req_op(rq);		\
		__entry->blocks = blk_rq_bytes(rq) >> 12;	\
		__entry->lbn = req_op(rq) == REQ_OP_FLUSH ? 0 :	\
			blk_rq_pos(rq) >> (12 - SECTOR_SHIFT);

#define DDUP_TRACE_REQUEST_FORMAT	"%d,%d tag %u %s %llu + %u"

#define DDUP_TRACE_REQUEST_ARGS						\
	MAJOR(__entry->dev), MINOR(__entry->dev), __entry->tag,		\
	__print_symbolic(__entry->op, DDUP_TRACE_OPS),			\
	__entry->lbn, __entry->blocks

/* The driver has a request of a volume. */
TRACE_EVENT(ddup_request_queued,
	TP_PROTO(struct request *rq),
	TP_ARGS(rq),
	TP_STRUCT__entry(
		DDUP_TRACE_REQUEST_FIELDS
		__field(bool, fua)
	),
	TP_fast_assign(
		DDUP_TRACE_REQUEST_ASSIGN(rq)
		__entry->fua = rq->cmd_flags & REQ_FUA;
	),
	TP_printk(DDUP_TRACE_REQUEST_FORMAT " fua %d",
		DDUP_TRACE_REQUEST_ARGS, __entry->fua)
);

/* The data of a write was copied, named and checked. */
TRACE_EVENT(ddup_request_fingerprinted,
	TP_PROTO(struct request *rq, u32 zero_blocks),
	TP_ARGS(rq, zero_blocks),
	TP_STRUCT__entry(
		DDUP_TRACE_REQUEST_FIELDS
		__field(u32, zero_blocks)
	),
	TP_fast_assign(
		DDUP_TRACE_REQUEST_ASSIGN(rq)
		__entry->zero_blocks = zero_blocks;
	),
	TP_printk(DDUP_TRACE_REQUEST_FORMAT " zero_blocks %u",
		DDUP_TRACE_REQUEST_ARGS, __entry->zero_blocks)
);

/* The engine has it, in this slot. */
TRACE_EVENT(ddup_request_submitted,
	TP_PROTO(struct request *rq, u32 slot),
	TP_ARGS(rq, slot),
	TP_STRUCT__entry(
		DDUP_TRACE_REQUEST_FIELDS
		__field(u32, slot)
	),
	TP_fast_assign(
		DDUP_TRACE_REQUEST_ASSIGN(rq)
		__entry->slot = slot;
	),
	TP_printk(DDUP_TRACE_REQUEST_FORMAT " slot %u",
		DDUP_TRACE_REQUEST_ARGS, __entry->slot)
);

/* The engine knows what neighbouring blocks of a write are. */
TRACE_EVENT(ddup_request_decided,
	TP_PROTO(u32 dev, u32 tag, u64 lbn, u32 blocks, u32 decision,
		 u64 cluster),
	TP_ARGS(dev, tag, lbn, blocks, decision, cluster),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(u32, tag)
		__field(u32, decision)
		__field(u32, blocks)
		__field(u64, lbn)
		__field(u64, cluster)
	),
	TP_fast_assign(
		__entry->dev = dev;
		__entry->tag = tag;
		__entry->decision = decision;
		__entry->blocks = blocks;
		__entry->lbn = lbn;
		__entry->cluster = cluster;
	),
	TP_printk("%d,%d tag %u %s %llu + %u cluster %llu",
		MAJOR(__entry->dev), MINOR(__entry->dev), __entry->tag,
		__print_symbolic(__entry->decision, DDUP_TRACE_DECISIONS),
		__entry->lbn, __entry->blocks, __entry->cluster)
);

/* All that it waits for is a block of the journal. */
TRACE_EVENT(ddup_request_waits,
	TP_PROTO(u32 dev, u32 tag, u64 sequence),
	TP_ARGS(dev, tag, sequence),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(u32, tag)
		__field(u64, sequence)
	),
	TP_fast_assign(
		__entry->dev = dev;
		__entry->tag = tag;
		__entry->sequence = sequence;
	),
	TP_printk("%d,%d tag %u sequence %llu",
		MAJOR(__entry->dev), MINOR(__entry->dev), __entry->tag,
		__entry->sequence)
);

/* It ends: with this error, after this time since the block layer made it. */
TRACE_EVENT(ddup_request_completed,
	TP_PROTO(struct request *rq, int error),
	TP_ARGS(rq, error),
	TP_STRUCT__entry(
		DDUP_TRACE_REQUEST_FIELDS
		__field(int, error)
		__field(u64, duration)
	),
	TP_fast_assign(
		DDUP_TRACE_REQUEST_ASSIGN(rq)
		__entry->error = error;
		/* A queue without statistics takes no times. */
		__entry->duration = rq->start_time_ns ?
			ktime_get_ns() - rq->start_time_ns : 0;
	),
	TP_printk(DDUP_TRACE_REQUEST_FORMAT " error %d duration %llu",
		DDUP_TRACE_REQUEST_ARGS, __entry->error, __entry->duration)
);

/* A request that may have ended, by the dev and tag in its key. */
#define DDUP_TRACE_DATA_ASSIGN					\
		__entry->dev = key >> 32;			\
		__entry->tag = key;				\
		__entry->op = (__force u32)(work == 0 ?		\
			REQ_OP_READ : REQ_OP_WRITE);		\
		__entry->blocks = blocks;			\
		__entry->lbn = lbn;

/* Blocks of a request, counted from its first, go to or come from clusters. */
TRACE_EVENT(ddup_data_submitted,
	TP_PROTO(u64 key, u64 lbn, u32 blocks, u32 work, u32 block, u32 count,
		 u64 cluster),
	TP_ARGS(key, lbn, blocks, work, block, count, cluster),
	TP_STRUCT__entry(
		DDUP_TRACE_REQUEST_FIELDS
		__field(u32, work)
		__field(u32, block)
		__field(u32, count)
		__field(u64, cluster)
	),
	TP_fast_assign(
		DDUP_TRACE_DATA_ASSIGN
		__entry->work = work;
		__entry->block = block;
		__entry->count = count;
		__entry->cluster = cluster;
	),
	TP_printk(DDUP_TRACE_REQUEST_FORMAT
		" work %s block %u count %u cluster %llu",
		DDUP_TRACE_REQUEST_ARGS,
		__print_symbolic(__entry->work, DDUP_TRACE_WORKS),
		__entry->block, __entry->count, __entry->cluster)
);

/* That is done; the request may have ended before. */
TRACE_EVENT(ddup_data_done,
	TP_PROTO(u64 key, u64 lbn, u32 blocks, u32 work, u32 block, u32 count,
		 u32 result),
	TP_ARGS(key, lbn, blocks, work, block, count, result),
	TP_STRUCT__entry(
		DDUP_TRACE_REQUEST_FIELDS
		__field(u32, work)
		__field(u32, block)
		__field(u32, count)
		__field(u32, result)
	),
	TP_fast_assign(
		DDUP_TRACE_DATA_ASSIGN
		__entry->work = work;
		__entry->block = block;
		__entry->count = count;
		__entry->result = result;
	),
	TP_printk(DDUP_TRACE_REQUEST_FORMAT
		" work %s block %u count %u result %s",
		DDUP_TRACE_REQUEST_ARGS,
		__print_symbolic(__entry->work, DDUP_TRACE_WORKS),
		__entry->block, __entry->count,
		__print_symbolic(__entry->result, DDUP_TRACE_RESULTS))
);

/* A block of the journal is about to be written. */
TRACE_EVENT(ddup_journal_submitted,
	TP_PROTO(u32 dev, u64 sequence, u64 cluster, u32 records, u32 bytes,
		 bool quick),
	TP_ARGS(dev, sequence, cluster, records, bytes, quick),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(u32, records)
		__field(u32, bytes)
		__field(bool, quick)
		__field(u64, sequence)
		__field(u64, cluster)
	),
	TP_fast_assign(
		__entry->dev = dev;
		__entry->records = records;
		__entry->bytes = bytes;
		__entry->quick = quick;
		__entry->sequence = sequence;
		__entry->cluster = cluster;
	),
	TP_printk("%d,%d sequence %llu cluster %llu records %u bytes %u %s",
		MAJOR(__entry->dev), MINOR(__entry->dev), __entry->sequence,
		__entry->cluster, __entry->records, __entry->bytes,
		__entry->quick ? "quick" : "plain")
);

/* It is durable, or could not be written. */
TRACE_EVENT(ddup_journal_done,
	TP_PROTO(u32 dev, u64 sequence, bool ok),
	TP_ARGS(dev, sequence, ok),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(bool, ok)
		__field(u64, sequence)
	),
	TP_fast_assign(
		__entry->dev = dev;
		__entry->ok = ok;
		__entry->sequence = sequence;
	),
	TP_printk("%d,%d sequence %llu %s",
		MAJOR(__entry->dev), MINOR(__entry->dev), __entry->sequence,
		__entry->ok ? "ok" : "failed")
);

/*
 * Something became of neighbouring clusters. Owners are those of each of them
 * where a checkpoint has counted them, else 0.
 */
DECLARE_EVENT_CLASS(ddup_cluster,
	TP_PROTO(u32 dev, u64 cluster, u64 count, u32 owners),
	TP_ARGS(dev, cluster, count, owners),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(u32, owners)
		__field(u64, cluster)
		__field(u64, count)
	),
	TP_fast_assign(
		__entry->dev = dev;
		__entry->owners = owners;
		__entry->cluster = cluster;
		__entry->count = count;
	),
	TP_printk("%d,%d cluster %llu + %llu owners %u",
		MAJOR(__entry->dev), MINOR(__entry->dev), __entry->cluster,
		__entry->count, __entry->owners)
);

#define DDUP_TRACE_CLUSTER(name)					\
DEFINE_EVENT(ddup_cluster, name,					\
	TP_PROTO(u32 dev, u64 cluster, u64 count, u32 owners),		\
	TP_ARGS(dev, cluster, count, owners))

DDUP_TRACE_CLUSTER(ddup_cluster_allocated);
DDUP_TRACE_CLUSTER(ddup_cluster_live);
DDUP_TRACE_CLUSTER(ddup_cluster_junk);
DDUP_TRACE_CLUSTER(ddup_cluster_resurrected);
DDUP_TRACE_CLUSTER(ddup_cluster_retired);
DDUP_TRACE_CLUSTER(ddup_cluster_erased);
DDUP_TRACE_CLUSTER(ddup_cluster_available);
DDUP_TRACE_CLUSTER(ddup_cluster_quarantined);

/* A checkpoint was cut: it merges the changes of so many blocks and clusters. */
TRACE_EVENT(ddup_checkpoint_begun,
	TP_PROTO(u32 dev, u64 number, u64 blocks, u64 clusters),
	TP_ARGS(dev, number, blocks, clusters),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(u64, number)
		__field(u64, blocks)
		__field(u64, clusters)
	),
	TP_fast_assign(
		__entry->dev = dev;
		__entry->number = number;
		__entry->blocks = blocks;
		__entry->clusters = clusters;
	),
	TP_printk("%d,%d number %llu blocks %llu clusters %llu",
		MAJOR(__entry->dev), MINOR(__entry->dev), __entry->number,
		__entry->blocks, __entry->clusters)
);

/* It is durable; so many pages were written since attach. */
TRACE_EVENT(ddup_checkpoint_durable,
	TP_PROTO(u32 dev, u64 number, u64 pages),
	TP_ARGS(dev, number, pages),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(u64, number)
		__field(u64, pages)
	),
	TP_fast_assign(
		__entry->dev = dev;
		__entry->number = number;
		__entry->pages = pages;
	),
	TP_printk("%d,%d number %llu pages %llu",
		MAJOR(__entry->dev), MINOR(__entry->dev), __entry->number,
		__entry->pages)
);

#endif /* _DDUP_TRACE_H */

/* This part must be outside protection. */
#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
