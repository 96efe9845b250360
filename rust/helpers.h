/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the kstage crate needs from C: inline functions, macros, accesses to
 * fields whose names or layouts differ between kernel series, and constants
 * that bindgen cannot see. Everything carries the prefix kstage_ (KSTAGE_ for
 * constants), so that nothing collides with names that the kernel's own Rust
 * helpers have in one series and lack in another.
 *
 * Upstream replacement: rust/helpers/ and rust/bindings/bindings_helper.h of
 * the kernel tree, file by file, as each abstraction moves there.
 */
#ifndef _KSTAGE_HELPERS_H
#define _KSTAGE_HELPERS_H

#include <linux/hrtimer_types.h>

#include <linux/bio.h>
#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/debugfs.h>
#include <linux/errname.h>
#include <linux/gfp.h>
#include <linux/kthread.h>
#include <linux/llist.h>
#include <linux/lz4.h>
#include <linux/mempool.h>
#include <linux/net.h>
#include <linux/sched/mm.h>
#include <linux/sysfs.h>
#include <linux/workqueue.h>
#include <linux/xxhash.h>
#include <net/genetlink.h>

/* Constants: block layer. */
static const blk_features_t KSTAGE_FEAT_WRITE_CACHE = BLK_FEAT_WRITE_CACHE;
static const blk_features_t KSTAGE_FEAT_FUA = BLK_FEAT_FUA;
static const blk_features_t KSTAGE_FEAT_ROTATIONAL = BLK_FEAT_ROTATIONAL;
static const blk_features_t KSTAGE_FEAT_STABLE_WRITES = BLK_FEAT_STABLE_WRITES;

static const blk_opf_t KSTAGE_REQ_SYNC = REQ_SYNC;
static const blk_opf_t KSTAGE_REQ_META = REQ_META;
static const blk_opf_t KSTAGE_REQ_PRIO = REQ_PRIO;
static const blk_opf_t KSTAGE_REQ_IDLE = REQ_IDLE;
static const blk_opf_t KSTAGE_REQ_FUA = REQ_FUA;
static const blk_opf_t KSTAGE_REQ_PREFLUSH = REQ_PREFLUSH;
static const blk_opf_t KSTAGE_REQ_NOUNMAP = REQ_NOUNMAP;

static const blk_status_t KSTAGE_STS_NOTSUPP = BLK_STS_NOTSUPP;
static const blk_status_t KSTAGE_STS_TIMEOUT = BLK_STS_TIMEOUT;
static const blk_status_t KSTAGE_STS_NOSPC = BLK_STS_NOSPC;
static const blk_status_t KSTAGE_STS_TARGET = BLK_STS_TARGET;
static const blk_status_t KSTAGE_STS_MEDIUM = BLK_STS_MEDIUM;
static const blk_status_t KSTAGE_STS_PROTECTION = BLK_STS_PROTECTION;
static const blk_status_t KSTAGE_STS_RESOURCE = BLK_STS_RESOURCE;
static const blk_status_t KSTAGE_STS_DEV_RESOURCE = BLK_STS_DEV_RESOURCE;
static const blk_status_t KSTAGE_STS_IOERR = BLK_STS_IOERR;
static const blk_status_t KSTAGE_STS_OFFLINE = BLK_STS_OFFLINE;
static const blk_status_t KSTAGE_STS_INVAL = BLK_STS_INVAL;

static const blk_mode_t KSTAGE_OPEN_WRITE = BLK_OPEN_WRITE;

static const unsigned int KSTAGE_MQ_F_BLOCKING = BLK_MQ_F_BLOCKING;
static const unsigned int KSTAGE_MQ_F_NO_SCHED =
	BLK_MQ_F_NO_SCHED_BY_DEFAULT;

/* Constants: memory and work queues. */
static const gfp_t KSTAGE_GFP_NOIO = GFP_NOIO;
static const gfp_t KSTAGE_GFP_NOWAIT = GFP_NOWAIT;
static const unsigned int KSTAGE_WQ_UNBOUND = WQ_UNBOUND;
static const unsigned int KSTAGE_WQ_PERCPU = WQ_PERCPU;
static const unsigned int KSTAGE_WQ_HIGHPRI = WQ_HIGHPRI;
static const unsigned int KSTAGE_WQ_MEM_RECLAIM = WQ_MEM_RECLAIM;
static const unsigned int KSTAGE_WQ_SYSFS = WQ_SYSFS;

/* Constants: sockets. */
static const int KSTAGE_MSG_NOSIGNAL = MSG_NOSIGNAL;
static const int KSTAGE_MSG_MORE = MSG_MORE;
static const int KSTAGE_MSG_WAITALL = MSG_WAITALL;
static const int KSTAGE_MSG_DONTWAIT = MSG_DONTWAIT;

/**
 * struct kstage_rq_cursor - a position in the data of a request
 * @bio: the bio that holds the position; NULL at the end
 * @iter: the rest of that bio's data
 */
struct kstage_rq_cursor {
	struct bio *bio;
	struct bvec_iter iter;
};

/**
 * struct kstage_segment - physically contiguous bytes of a request
 * @page: the page that holds the first byte
 * @offset: of the first byte in @page; below PAGE_SIZE
 * @len: in bytes; may reach over following pages
 */
struct kstage_segment {
	struct page *page;
	unsigned int offset;
	unsigned int len;
};

/**
 * struct kstage_holder - identity of an exclusive opener of a block device
 * @dead: the device was declared dead (read with READ_ONCE)
 */
struct kstage_holder {
	bool dead;
};

/**
 * struct kstage_bdev_limits - what a block device says of itself
 * @size_bytes: capacity
 * @logical_block_size: bytes
 * @physical_block_size: bytes
 * @io_min: bytes
 * @io_opt: bytes, 0 if unknown
 * @max_sectors: largest request that the device takes without a split
 * @max_discard_sectors: 0 if it cannot discard
 * @discard_granularity: bytes
 * @max_write_zeroes_sectors: 0 if it cannot write zeroes by itself
 * @write_cache: it has a volatile write cache, so flushes mean something
 * @fua: it handles FUA itself
 * @rotational: seeks are dear
 * @read_only: writes are refused
 */
struct kstage_bdev_limits {
	u64 size_bytes;
	u32 logical_block_size;
	u32 physical_block_size;
	u32 io_min;
	u32 io_opt;
	u32 max_sectors;
	u32 max_discard_sectors;
	u32 discard_granularity;
	u32 max_write_zeroes_sectors;
	bool write_cache;
	bool fua;
	bool rotational;
	bool read_only;
};

/* Requests (any context). */
void kstage_rq_cursor_advance(struct kstage_rq_cursor *cursor,
			      unsigned int bytes);
bool kstage_rq_cursor_next(struct kstage_rq_cursor *cursor, unsigned int limit,
			   struct kstage_segment *segment);
u64 kstage_rq_cursor_xxh64(struct kstage_rq_cursor *cursor, unsigned int bytes,
			   u64 seed);
unsigned int kstage_rq_cursor_count(const struct kstage_rq_cursor *cursor,
				    unsigned int bytes);
void *kstage_segment_address(const struct kstage_segment *segment);
unsigned int kstage_rq_nr_segments(const struct request *rq);
unsigned short kstage_rq_ioprio(const struct request *rq);
u64 kstage_rq_identity(struct request *rq);

/* Disks (may sleep unless noted). */
struct gendisk *kstage_disk_alloc(struct blk_mq_tag_set *set,
				  struct queue_limits *lim, void *queuedata);
void *kstage_disk_private(struct gendisk *disk);
void kstage_disk_set_ro(struct gendisk *disk, bool ro);
int kstage_disk_set_capacity(struct gendisk *disk, u64 sectors);
bool kstage_disk_close_if_idle(struct gendisk *disk, bool *closing);
void kstage_disk_reopen(struct gendisk *disk, bool *closing);
unsigned int kstage_disk_openers(struct gendisk *disk);
void kstage_disk_changed(struct gendisk *disk);
struct gendisk *kstage_dev_to_disk(struct device *dev);
void kstage_device_attr_init(struct device_attribute *attr, const char *name,
			     umode_t mode,
			     ssize_t (*show)(struct device *dev,
					     struct device_attribute *attr,
					     char *buf),
			     ssize_t (*store)(struct device *dev,
					      struct device_attribute *attr,
					      const char *buf, size_t count));
void kstage_attr_group_init(struct attribute_group *group, const char *name,
			    struct attribute **attrs);

/* Files in debugfs (may sleep). */
struct dentry *kstage_debugfs_dir(const char *name, struct dentry *parent);
void kstage_debugfs_file(const char *name, struct dentry *parent, void *data,
			 const struct file_operations *fops);
void kstage_debugfs_remove(struct dentry *dentry);

/* Bios. */
struct bio *kstage_bio_alloc(struct block_device *bdev, unsigned short nr_vecs,
			     u32 opf, gfp_t gfp, struct bio_set *bs);
int kstage_bio_add_virt(struct bio *bio, const void *data, unsigned int len);
void kstage_bio_list_add(struct bio_list *list, struct bio *bio);
struct bio *kstage_bio_list_pop(struct bio_list *list);
void kstage_submit_bios(struct bio_list *list);
unsigned long kstage_stack_left(void);
void kstage_count_inc(atomic_t *count);
void kstage_count_dec_wake(atomic_t *count);
void kstage_count_wait_zero(atomic_t *count);
u8 kstage_errno_to_status(int err);
int kstage_status_to_errno(u8 status);

/* Block devices (may sleep). */
struct file *kstage_bdev_open(const char *path, bool writable,
			      struct kstage_holder *holder);
bool kstage_holder_dead(const struct kstage_holder *holder);
void kstage_bdev_limits(struct block_device *bdev,
			struct kstage_bdev_limits *limits);
bool kstage_bdev_fua_flushes(struct block_device *bdev);
u64 kstage_bdev_size(struct block_device *bdev);
void kstage_bdev_name(struct block_device *bdev, char *buf, size_t size);
u32 kstage_bdev_devt(struct block_device *bdev);

/* Memory. */
unsigned int kstage_noio_save(void);
void kstage_noio_restore(unsigned int flags);
unsigned int kstage_noreclaim_save(void);
void kstage_noreclaim_restore(unsigned int flags);
u64 kstage_ram_bytes(void);
mempool_t *kstage_page_pool_create(int min_nr);
struct page *kstage_page_pool_alloc(mempool_t *pool, gfp_t gfp);
struct page *kstage_page_pool_reuse(mempool_t *pool, gfp_t gfp);
void kstage_page_pool_free(mempool_t *pool, struct page *page);
void *kstage_page_address(struct page *page);

/* Work queues. */
struct workqueue_struct *kstage_alloc_workqueue(const char *name,
						unsigned int flags,
						int max_active);
bool kstage_mod_delayed_work(struct workqueue_struct *wq,
			     struct delayed_work *work, unsigned long delay);

/* Threads. */
struct task_struct *kstage_kthread_run(int (*threadfn)(void *data), void *data,
				       const char *name);

/* Barriers (any context). */
void kstage_smp_mb(void);

/* Lock-free lists (any context). */
bool kstage_llist_add(struct llist_node *node, struct llist_head *head);
struct llist_node *kstage_llist_take_fifo(struct llist_head *head);
bool kstage_llist_empty(const struct llist_head *head);

/* Hashes (any context). */
bool kstage_has_bmi2(void);
u32 kstage_crc32c(u32 crc, const void *data, size_t len);
void kstage_sha256(const void *data, size_t len, u8 *out);
u64 kstage_xxh64(const void *data, size_t len, u64 seed);

/* LZ4 (any context). */
static const size_t KSTAGE_LZ4_WORKSPACE = LZ4_MEM_COMPRESS;

int kstage_lz4_compress(const char *from, int len, char *to, int room,
			void *workspace);
int kstage_lz4_decompress(const char *from, int len, char *to, int room);

/* Generic netlink (may sleep). */
int kstage_genl_register(struct genl_family *family);
void kstage_genl_unregister(struct genl_family *family);
const struct nlattr *kstage_genl_find(const struct genl_info *info, int type);
void kstage_genl_error(struct genl_info *info, const struct nlattr *attr,
		       const char *msg, size_t len);
struct genl_info *kstage_genl_dump_info(struct netlink_callback *cb);
void *kstage_genl_dump_context(struct netlink_callback *cb);
struct sk_buff *kstage_genl_msg_new(size_t payload);
void *kstage_genl_put_reply(struct sk_buff *skb, struct genl_info *info,
			    u8 cmd);
void *kstage_genl_put_dump(struct sk_buff *skb, struct netlink_callback *cb,
			   u8 cmd);
void *kstage_genl_put_event(struct sk_buff *skb, struct genl_family *family,
			    u8 cmd);
void kstage_genl_end(struct sk_buff *skb, void *hdr);
void kstage_genl_cancel(struct sk_buff *skb, void *hdr);
int kstage_genl_reply(struct sk_buff *skb, struct genl_info *info);
int kstage_genl_multicast(struct genl_family *family, struct sk_buff *skb,
			  unsigned int group);
void kstage_nlmsg_free(struct sk_buff *skb);
int kstage_nla_type(const struct nlattr *nla);
const void *kstage_nla_data(const struct nlattr *nla);
int kstage_nla_len(const struct nlattr *nla);
u64 kstage_nla_uint(const struct nlattr *nla);
int kstage_nla_put(struct sk_buff *skb, int type, int len, const void *data);
int kstage_nla_put_u64(struct sk_buff *skb, int type, u64 value, int padattr);
int kstage_nla_put_uint(struct sk_buff *skb, int type, u64 value);
struct nlattr *kstage_nla_nest_start(struct sk_buff *skb, int type);
void kstage_nla_nest_end(struct sk_buff *skb, struct nlattr *start);
void kstage_nla_nest_cancel(struct sk_buff *skb, struct nlattr *start);

/* Sockets (may sleep). */
struct socket *kstage_socket_from_fd(int fd, int *err);
void kstage_socket_set_timeout(struct socket *sock, unsigned int seconds);
void kstage_socket_put(struct socket *sock);
int kstage_socket_send(struct socket *sock, const void *data, size_t len,
		       int flags);
int kstage_socket_recv(struct socket *sock, void *data, size_t len, int flags);
void kstage_socket_shutdown(struct socket *sock);

#endif
