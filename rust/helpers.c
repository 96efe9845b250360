// SPDX-License-Identifier: GPL-2.0
/*
 * C side of the kstage crate: see helpers.h. Functions here do not decide
 * anything; they make inline functions, macros and series-dependent fields
 * callable from Rust.
 */
#include "helpers.h"

#include <crypto/sha2.h>
#include <linux/crc32.h>
#include <linux/highmem.h>
#include <linux/net.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>
#include <linux/tcp.h>
#include <linux/wait_bit.h>
#include <net/sock.h>

/* ---- requests ------------------------------------------------------- */

static bool kstage_rq_cursor_get(const struct kstage_rq_cursor *cursor,
				 struct kstage_segment *segment)
{
	struct bio_vec bv;

	if (!cursor->bio || !cursor->iter.bi_size)
		return false;

	bv = mp_bvec_iter_bvec(cursor->bio->bi_io_vec, cursor->iter);
	segment->page = bv.bv_page + bv.bv_offset / PAGE_SIZE;
	segment->offset = bv.bv_offset % PAGE_SIZE;
	segment->len = bv.bv_len;
	return true;
}

void kstage_rq_cursor_advance(struct kstage_rq_cursor *cursor,
			      unsigned int bytes)
{
	while (cursor->bio && bytes) {
		unsigned int step = min(bytes, cursor->iter.bi_size);

		bio_advance_iter(cursor->bio, &cursor->iter, step);
		bytes -= step;
		if (!cursor->iter.bi_size) {
			cursor->bio = cursor->bio->bi_next;
			if (cursor->bio)
				cursor->iter = cursor->bio->bi_iter;
		}
	}
}

/* The contiguous bytes at the position, at most @limit, and moves behind them. */
bool kstage_rq_cursor_next(struct kstage_rq_cursor *cursor, unsigned int limit,
			   struct kstage_segment *segment)
{
	if (!kstage_rq_cursor_get(cursor, segment))
		return false;
	segment->len = min(segment->len, limit);
	kstage_rq_cursor_advance(cursor, segment->len);
	return true;
}

/* Hashes the next @bytes as they are now, and moves behind them. */
u64 kstage_rq_cursor_xxh64(struct kstage_rq_cursor *cursor, unsigned int bytes,
			   u64 seed)
{
	struct kstage_segment segment;
	struct xxh64_state state;

	if (kstage_rq_cursor_get(cursor, &segment) && segment.len >= bytes) {
		u64 hash = xxh64(kstage_segment_address(&segment), bytes, seed);

		kstage_rq_cursor_advance(cursor, bytes);
		return hash;
	}

	xxh64_reset(&state, seed);
	while (bytes && kstage_rq_cursor_get(cursor, &segment)) {
		unsigned int len = min(segment.len, bytes);

		xxh64_update(&state, kstage_segment_address(&segment), len);
		kstage_rq_cursor_advance(cursor, len);
		bytes -= len;
	}
	return xxh64_digest(&state);
}

/* Number of segments that hold the next @bytes. */
unsigned int kstage_rq_cursor_count(const struct kstage_rq_cursor *cursor,
				    unsigned int bytes)
{
	struct kstage_rq_cursor at = *cursor;
	struct kstage_segment segment;
	unsigned int count = 0;

	while (bytes && kstage_rq_cursor_get(&at, &segment)) {
		unsigned int len = min(segment.len, bytes);

		kstage_rq_cursor_advance(&at, len);
		bytes -= len;
		count++;
	}
	return count;
}

void *kstage_segment_address(const struct kstage_segment *segment)
{
	return page_address(segment->page) + segment->offset;
}

unsigned int kstage_rq_nr_segments(const struct request *rq)
{
	const struct bio *bio;
	unsigned int count = 0;

	for (bio = rq->bio; bio; bio = bio->bi_next) {
		struct bvec_iter iter;
		struct bio_vec bv;

		for_each_mp_bvec(bv, bio->bi_io_vec, iter, bio->bi_iter)
			count++;
	}
	return count;
}

unsigned short kstage_rq_ioprio(const struct request *rq)
{
	return req_get_ioprio((struct request *)rq);
}

u64 kstage_rq_identity(struct request *rq)
{
	return (u64)disk_devt(rq->q->disk) << 32 | blk_mq_unique_tag(rq);
}

/* ---- disks ---------------------------------------------------------- */

struct gendisk *kstage_disk_alloc(struct blk_mq_tag_set *set,
				  struct queue_limits *lim, void *queuedata)
{
	return blk_mq_alloc_disk(set, lim, queuedata);
}

void *kstage_disk_private(struct gendisk *disk)
{
	return disk->private_data;
}

void kstage_disk_set_ro(struct gendisk *disk, bool ro)
{
	set_disk_ro(disk, ro);
}

int kstage_disk_set_capacity(struct gendisk *disk, u64 sectors)
{
	return set_capacity_and_notify(disk, sectors);
}

/*
 * Both this and a disk's open() run under open_mutex, so an opener either is
 * seen here or sees *closing.
 */
bool kstage_disk_close_if_idle(struct gendisk *disk, bool *closing)
{
	bool idle;

	mutex_lock(&disk->open_mutex);
	idle = disk_openers(disk) == 0;
	if (idle)
		WRITE_ONCE(*closing, true);
	mutex_unlock(&disk->open_mutex);
	return idle;
}

void kstage_disk_reopen(struct gendisk *disk, bool *closing)
{
	mutex_lock(&disk->open_mutex);
	WRITE_ONCE(*closing, false);
	mutex_unlock(&disk->open_mutex);
}

unsigned int kstage_disk_openers(struct gendisk *disk)
{
	return disk_openers(disk);
}

/* The next open looks for partitions, and userspace is told to open it. */
void kstage_disk_changed(struct gendisk *disk)
{
	set_bit(GD_NEED_PART_SCAN, &disk->state);
	kobject_uevent(&disk_to_dev(disk)->kobj, KOBJ_CHANGE);
}

struct gendisk *kstage_dev_to_disk(struct device *dev)
{
	return dev_to_disk(dev);
}

/* Attributes in allocated memory need a lock class of their own. */
void kstage_device_attr_init(struct device_attribute *attr, const char *name,
			     umode_t mode,
			     ssize_t (*show)(struct device *dev,
					     struct device_attribute *attr,
					     char *buf),
			     ssize_t (*store)(struct device *dev,
					      struct device_attribute *attr,
					      const char *buf, size_t count))
{
	sysfs_attr_init(&attr->attr);
	attr->attr.name = name;
	attr->attr.mode = mode;
	attr->show = show;
	attr->store = store;
}

void kstage_attr_group_init(struct attribute_group *group, const char *name,
			    struct attribute **attrs)
{
	group->name = name;
	group->attrs = attrs;
}

/* ---- debugfs -------------------------------------------------------- */

struct dentry *kstage_debugfs_dir(const char *name, struct dentry *parent)
{
	return debugfs_create_dir(name, parent);
}

void kstage_debugfs_file(const char *name, struct dentry *parent, void *data,
			 const struct file_operations *fops)
{
	debugfs_create_file(name, 0400, parent, data, fops);
}

void kstage_debugfs_remove(struct dentry *dentry)
{
	debugfs_remove(dentry);
}

/* ---- bios ----------------------------------------------------------- */

struct bio *kstage_bio_alloc(struct block_device *bdev, unsigned short nr_vecs,
			     u32 opf, gfp_t gfp, struct bio_set *bs)
{
	return bio_alloc_bioset(bdev, nr_vecs, (__force blk_opf_t)opf, gfp, bs);
}

/* @data: physically contiguous memory of the direct map (kmalloc). */
int kstage_bio_add_virt(struct bio *bio, const void *data, unsigned int len)
{
	return bio_add_page(bio, virt_to_page(data), len, offset_in_page(data));
}

void kstage_bio_list_add(struct bio_list *list, struct bio *bio)
{
	bio_list_add(list, bio);
}

struct bio *kstage_bio_list_pop(struct bio_list *list)
{
	return bio_list_pop(list);
}

/*
 * Submits all bios of @list, so that they have started when this returns.
 *
 * A multi-queue driver may be called inside a submission of another task's
 * bio. Bios that it submits would then be appended to current->bio_list, behind
 * the rest of a bio that was split; that rest may have to wait for a tag or for
 * write-back throttling of our own disk, and so for requests that those very
 * bios are to complete. They would also enter a plug that may just be being
 * flushed. So hide both, and let this be a submission of its own.
 */
void kstage_submit_bios(struct bio_list *list)
{
	struct bio_list *outer_list = current->bio_list;
	struct blk_plug *outer_plug = current->plug;
	struct blk_plug plug;
	struct bio *bio;

	/* The time that the plug remembers is looked at whenever we sleep. */
	if (outer_plug)
		outer_plug->cur_ktime = 0;
	current->flags &= ~PF_BLOCK_TS;
	current->bio_list = NULL;
	current->plug = NULL;
	blk_start_plug(&plug);

	while ((bio = bio_list_pop(list)))
		submit_bio(bio);

	blk_finish_plug(&plug);
	current->bio_list = outer_list;
	current->plug = outer_plug;
}

/* Bytes of the current task's stack that are not in use. */
unsigned long kstage_stack_left(void)
{
	unsigned long here = (unsigned long)__builtin_frame_address(0);
	unsigned long end = (unsigned long)end_of_stack(current);

	return here > end ? here - end : 0;
}

void kstage_count_inc(atomic_t *count)
{
	atomic_inc(count);
}

/* The waiter may free the memory of @count as soon as it is zero. */
void kstage_count_dec_wake(atomic_t *count)
{
	if (atomic_dec_and_test(count))
		wake_up_var(count);
}

void kstage_count_wait_zero(atomic_t *count)
{
	wait_var_event(count, !atomic_read_acquire(count));
}

u8 kstage_errno_to_status(int err)
{
	return (__force u8)errno_to_blk_status(err);
}

int kstage_status_to_errno(u8 status)
{
	return blk_status_to_errno((__force blk_status_t)status);
}

/* ---- block devices -------------------------------------------------- */

static void kstage_holder_mark_dead(struct block_device *bdev, bool surprise)
	__releases(&bdev->bd_holder_lock)
{
	struct kstage_holder *holder = bdev->bd_holder;

	WRITE_ONCE(holder->dead, true);
	mutex_unlock(&bdev->bd_holder_lock);
}

static const struct blk_holder_ops kstage_holder_ops = {
	.mark_dead = kstage_holder_mark_dead,
};

struct file *kstage_bdev_open(const char *path, bool writable,
			      struct kstage_holder *holder)
{
	blk_mode_t mode = BLK_OPEN_READ;

	if (writable)
		mode |= BLK_OPEN_WRITE;
	return bdev_file_open_by_path(path, mode, holder, &kstage_holder_ops);
}

bool kstage_holder_dead(const struct kstage_holder *holder)
{
	return READ_ONCE(holder->dead);
}

void kstage_bdev_limits(struct block_device *bdev,
			struct kstage_bdev_limits *limits)
{
	limits->size_bytes = bdev_nr_bytes(bdev);
	limits->logical_block_size = bdev_logical_block_size(bdev);
	limits->physical_block_size = bdev_physical_block_size(bdev);
	limits->io_min = bdev_io_min(bdev);
	limits->io_opt = bdev_io_opt(bdev);
	limits->max_sectors = queue_max_sectors(bdev_get_queue(bdev));
	limits->max_discard_sectors = bdev_max_discard_sectors(bdev);
	limits->discard_granularity = bdev_discard_granularity(bdev);
	limits->max_write_zeroes_sectors = bdev_write_zeroes_sectors(bdev);
	limits->write_cache = bdev_write_cache(bdev);
	limits->fua = bdev_fua(bdev);
	limits->rotational = bdev_rot(bdev);
	limits->read_only = bdev_read_only(bdev);
}

/*
 * For a device without FUA blk-mq lets a flush follow the write
 * (block/blk-flush.c); what drivers do that stand on bios is their own affair.
 * Asked anew each time: limits may change while the device is open.
 */
bool kstage_bdev_fua_flushes(struct block_device *bdev)
{
	return queue_is_mq(bdev_get_queue(bdev)) && !bdev_fua(bdev);
}

u64 kstage_bdev_size(struct block_device *bdev)
{
	return bdev_nr_bytes(bdev);
}

void kstage_bdev_name(struct block_device *bdev, char *buf, size_t size)
{
	snprintf(buf, size, "%pg", bdev);
}

u32 kstage_bdev_devt(struct block_device *bdev)
{
	return bdev->bd_dev;
}

/* ---- memory --------------------------------------------------------- */

unsigned int kstage_noio_save(void)
{
	return memalloc_noio_save();
}

u64 kstage_ram_bytes(void)
{
	return (u64)totalram_pages() << PAGE_SHIFT;
}

void kstage_noio_restore(unsigned int flags)
{
	memalloc_noio_restore(flags);
}

unsigned int kstage_noreclaim_save(void)
{
	return memalloc_noreclaim_save();
}

void kstage_noreclaim_restore(unsigned int flags)
{
	memalloc_noreclaim_restore(flags);
}

mempool_t *kstage_page_pool_create(int min_nr)
{
	return mempool_create_page_pool(min_nr, 0);
}

struct page *kstage_page_pool_alloc(mempool_t *pool, gfp_t gfp)
{
	return mempool_alloc(pool, gfp);
}

/* Of the reserve first, so that what came back last is used next. */
struct page *kstage_page_pool_reuse(mempool_t *pool, gfp_t gfp)
{
	return mempool_alloc_preallocated(pool) ?: mempool_alloc(pool, gfp);
}

void kstage_page_pool_free(mempool_t *pool, struct page *page)
{
	mempool_free(page, pool);
}

void *kstage_page_address(struct page *page)
{
	return page_address(page);
}

/* ---- work queues ---------------------------------------------------- */

struct workqueue_struct *kstage_alloc_workqueue(const char *name,
						unsigned int flags,
						int max_active)
{
	return alloc_workqueue("%s", flags, max_active, name);
}

bool kstage_mod_delayed_work(struct workqueue_struct *wq,
			     struct delayed_work *work, unsigned long delay)
{
	return mod_delayed_work(wq, work, delay);
}

/* ---- threads -------------------------------------------------------- */

struct task_struct *kstage_kthread_run(int (*threadfn)(void *data), void *data,
				       const char *name)
{
	struct task_struct *task = kthread_run(threadfn, data, "%s", name);

	if (!IS_ERR(task))
		get_task_struct(task);
	return task;
}

/* ---- barriers ------------------------------------------------------- */

void kstage_smp_mb(void)
{
	/* Pairs with whatever the caller says. */
	smp_mb();
}

/* ---- lock-free lists ------------------------------------------------ */

bool kstage_llist_add(struct llist_node *node, struct llist_head *head)
{
	return llist_add(node, head);
}

struct llist_node *kstage_llist_take_fifo(struct llist_head *head)
{
	if (llist_empty(head))
		return NULL;
	return llist_reverse_order(llist_del_all(head));
}

bool kstage_llist_empty(const struct llist_head *head)
{
	return llist_empty(head);
}

/* ---- processor ------------------------------------------------------ */

bool kstage_has_bmi2(void)
{
#ifdef CONFIG_X86_64
	return boot_cpu_has(X86_FEATURE_BMI2);
#else
	return false;
#endif
}

/* ---- hashes --------------------------------------------------------- */

u32 kstage_crc32c(u32 crc, const void *data, size_t len)
{
	return crc32c(crc, data, len);
}

void kstage_sha256(const void *data, size_t len, u8 *out)
{
	sha256(data, len, out);
}

u64 kstage_xxh64(const void *data, size_t len, u64 seed)
{
	return xxh64(data, len, seed);
}

/* ---- LZ4 ------------------------------------------------------------ */

int kstage_lz4_compress(const char *from, int len, char *to, int room,
			void *workspace)
{
	return LZ4_compress_default(from, to, len, room, workspace);
}

int kstage_lz4_decompress(const char *from, int len, char *to, int room)
{
	return LZ4_decompress_safe(from, to, len, room);
}

/* ---- generic netlink ------------------------------------------------ */

int kstage_genl_register(struct genl_family *family)
{
	return genl_register_family(family);
}

void kstage_genl_unregister(struct genl_family *family)
{
	genl_unregister_family(family);
}

/* Walks the message, so that any @type is safe whatever the op's policy. */
const struct nlattr *kstage_genl_find(const struct genl_info *info, int type)
{
	return nlmsg_find_attr(info->nlhdr,
			       GENL_HDRLEN + info->family->hdrsize, type);
}

void kstage_genl_error(struct genl_info *info, const struct nlattr *attr,
		       const char *msg, size_t len)
{
	struct netlink_ext_ack *extack = info->extack;

	if (!extack)
		return;
	if (len >= sizeof(extack->_msg_buf))
		len = sizeof(extack->_msg_buf) - 1;
	memcpy(extack->_msg_buf, msg, len);
	extack->_msg_buf[len] = '\0';
	extack->_msg = extack->_msg_buf;
	extack->bad_attr = attr;
	extack->policy = NULL;
}

struct genl_info *kstage_genl_dump_info(struct netlink_callback *cb)
{
	return (struct genl_info *)genl_info_dump(cb);
}

void *kstage_genl_dump_context(struct netlink_callback *cb)
{
	return cb->ctx;
}

struct sk_buff *kstage_genl_msg_new(size_t payload)
{
	return genlmsg_new(payload, GFP_KERNEL);
}

void *kstage_genl_put_reply(struct sk_buff *skb, struct genl_info *info, u8 cmd)
{
	return genlmsg_put_reply(skb, info, info->family, 0, cmd);
}

void *kstage_genl_put_dump(struct sk_buff *skb, struct netlink_callback *cb,
			   u8 cmd)
{
	void *hdr = genlmsg_put(skb, NETLINK_CB(cb->skb).portid,
				cb->nlh->nlmsg_seq,
				genl_info_dump(cb)->family, NLM_F_MULTI, cmd);

	if (hdr)
		genl_dump_check_consistent(cb, hdr);
	return hdr;
}

void *kstage_genl_put_event(struct sk_buff *skb, struct genl_family *family,
			    u8 cmd)
{
	return genlmsg_put(skb, 0, 0, family, 0, cmd);
}

void kstage_genl_end(struct sk_buff *skb, void *hdr)
{
	genlmsg_end(skb, hdr);
}

void kstage_genl_cancel(struct sk_buff *skb, void *hdr)
{
	genlmsg_cancel(skb, hdr);
}

int kstage_genl_reply(struct sk_buff *skb, struct genl_info *info)
{
	return genlmsg_reply(skb, info);
}

int kstage_genl_multicast(struct genl_family *family, struct sk_buff *skb,
			  unsigned int group)
{
	return genlmsg_multicast(family, skb, 0, group, GFP_KERNEL);
}

void kstage_nlmsg_free(struct sk_buff *skb)
{
	nlmsg_free(skb);
}

int kstage_nla_type(const struct nlattr *nla)
{
	return nla_type(nla);
}

const void *kstage_nla_data(const struct nlattr *nla)
{
	return nla_data(nla);
}

int kstage_nla_len(const struct nlattr *nla)
{
	return nla_len(nla);
}

/* Zero-extends 1, 2, 4 and 8 byte payloads; anything else reads as 0. */
u64 kstage_nla_uint(const struct nlattr *nla)
{
	switch (nla_len(nla)) {
	case sizeof(u8):
		return nla_get_u8(nla);
	case sizeof(u16):
		return nla_get_u16(nla);
	case sizeof(u32):
		return nla_get_u32(nla);
	case sizeof(u64):
		return nla_get_u64(nla);
	}
	return 0;
}

int kstage_nla_put(struct sk_buff *skb, int type, int len, const void *data)
{
	return nla_put(skb, type, len, data);
}

int kstage_nla_put_u64(struct sk_buff *skb, int type, u64 value, int padattr)
{
	return nla_put_u64_64bit(skb, type, value, padattr);
}

int kstage_nla_put_uint(struct sk_buff *skb, int type, u64 value)
{
	return nla_put_uint(skb, type, value);
}

struct nlattr *kstage_nla_nest_start(struct sk_buff *skb, int type)
{
	return nla_nest_start(skb, type);
}

void kstage_nla_nest_end(struct sk_buff *skb, struct nlattr *start)
{
	nla_nest_end(skb, start);
}

void kstage_nla_nest_cancel(struct sk_buff *skb, struct nlattr *start)
{
	nla_nest_cancel(skb, start);
}

/* ---- sockets -------------------------------------------------------- */

/*
 * Only connected TCP sockets: their reads and writes are bounded by the peer,
 * they allocate with GFP_NOIO from here on and never use the page fragment of
 * the task, which reclaim may share.
 */
struct socket *kstage_socket_from_fd(int fd, int *err)
{
	struct socket *sock = sockfd_lookup(fd, err);

	if (!sock)
		return NULL;
	if (!sk_is_tcp(sock->sk)) {
		sockfd_put(sock);
		*err = -EPROTOTYPE;
		return NULL;
	}
	if (sock->sk->sk_state != TCP_ESTABLISHED) {
		sockfd_put(sock);
		*err = -ENOTCONN;
		return NULL;
	}
	sock->sk->sk_allocation = GFP_NOIO;
	sock->sk->sk_use_task_frag = false;
	tcp_sock_set_nodelay(sock->sk);
	return sock;
}

/* Whatever its former owner wanted, receiving waits for ever. */
void kstage_socket_set_timeout(struct socket *sock, unsigned int seconds)
{
	lock_sock(sock->sk);
	sock->sk->sk_rcvtimeo = MAX_SCHEDULE_TIMEOUT;
	release_sock(sock->sk);
	sock_set_sndtimeo(sock->sk, seconds);
}

void kstage_socket_put(struct socket *sock)
{
	sockfd_put(sock);
}

int kstage_socket_send(struct socket *sock, const void *data, size_t len,
		       int flags)
{
	struct msghdr msg = { .msg_flags = flags | MSG_NOSIGNAL };
	struct kvec vec = { .iov_base = (void *)data, .iov_len = len };

	return kernel_sendmsg(sock, &msg, &vec, 1, len);
}

int kstage_socket_recv(struct socket *sock, void *data, size_t len, int flags)
{
	struct msghdr msg = { .msg_flags = flags };
	struct kvec vec = { .iov_base = data, .iov_len = len };

	return kernel_recvmsg(sock, &msg, &vec, 1, len, flags);
}

void kstage_socket_shutdown(struct socket *sock)
{
	kernel_sock_shutdown(sock, SHUT_RDWR);
}
