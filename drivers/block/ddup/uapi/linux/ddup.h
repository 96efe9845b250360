/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR BSD-3-Clause) */
/* Do not edit directly, auto-generated from: */
/*	Documentation/netlink/specs/ddup.yaml */
/* YNL-GEN uapi header */
/* To regenerate run: tools/net/ynl/ynl-regen.sh */

#ifndef _UAPI_LINUX_DDUP_H
#define _UAPI_LINUX_DDUP_H

#define DDUP_FAMILY_NAME	"ddup"
#define DDUP_FAMILY_VERSION	1

#define DDUP_NAME_LEN_MAX	31
#define DDUP_PATH_LEN_MAX	4095
#define DDUP_UUID_LEN		16
#define DDUP_INDEX_MAX		65535

/**
 * enum ddup_state - What a device does with requests.
 * @DDUP_STATE_ONLINE: It reads and writes.
 * @DDUP_STATE_READ_ONLY: It reads, and refuses writes: it was attached so, or
 *   its backing device is read-only.
 * @DDUP_STATE_FAILED: The store failed, for the reason in ``failure``. What
 *   the map in memory and the backing device still allow is read, writes and
 *   flushes fail.
 * @DDUP_STATE_DETACHING: It is on its way out, and takes no new request.
 * @DDUP_STATE_REPLICA: Its store is a member of a replica set and does not
 *   serve: opens are refused until it is primary and its reign is reconciled.
 */
enum ddup_state {
	DDUP_STATE_ONLINE,
	DDUP_STATE_READ_ONLY,
	DDUP_STATE_FAILED,
	DDUP_STATE_DETACHING,
	DDUP_STATE_REPLICA,

	/* private: */
	__DDUP_STATE_MAX,
	DDUP_STATE_MAX = (__DDUP_STATE_MAX - 1)
};

/**
 * enum ddup_scrub_state - How far a scrub is.
 * @DDUP_SCRUB_STATE_RUNNING: It reads on.
 * @DDUP_SCRUB_STATE_COMPLETE: All that was mapped when it began has been
 *   looked at.
 * @DDUP_SCRUB_STATE_STOPPED: It ended before that: somebody stopped it, or the
 *   store was detached or failed.
 */
enum ddup_scrub_state {
	DDUP_SCRUB_STATE_RUNNING,
	DDUP_SCRUB_STATE_COMPLETE,
	DDUP_SCRUB_STATE_STOPPED,

	/* private: */
	__DDUP_SCRUB_STATE_MAX,
	DDUP_SCRUB_STATE_MAX = (__DDUP_SCRUB_STATE_MAX - 1)
};

/**
 * enum ddup_failure - Why a store failed.
 * @DDUP_FAILURE_DEVICE_ERROR: The backing device failed a write or flush of
 *   journal or metadata, or a read of metadata.
 * @DDUP_FAILURE_DEVICE_GONE: The backing device was removed.
 * @DDUP_FAILURE_DAMAGED: Metadata does not fit together, or does not match its
 *   checksum.
 * @DDUP_FAILURE_INTERNAL: The driver met a state that must not occur; the log
 *   has more.
 */
enum ddup_failure {
	DDUP_FAILURE_DEVICE_ERROR,
	DDUP_FAILURE_DEVICE_GONE,
	DDUP_FAILURE_DAMAGED,
	DDUP_FAILURE_INTERNAL,

	/* private: */
	__DDUP_FAILURE_MAX,
	DDUP_FAILURE_MAX = (__DDUP_FAILURE_MAX - 1)
};

#define DDUP_CONFIG_MAX	2016

/**
 * enum ddup_role - What a store is in its replica set.
 * @DDUP_ROLE_REPLICA: It follows a primary, or waits for one, and refuses
 *   requests.
 * @DDUP_ROLE_RECONCILING: It is primary, and takes no requests until all
 *   members in sync have acknowledged the beginning of its reign.
 * @DDUP_ROLE_PRIMARY: It is primary and takes requests.
 */
enum ddup_role {
	DDUP_ROLE_REPLICA,
	DDUP_ROLE_RECONCILING,
	DDUP_ROLE_PRIMARY,

	/* private: */
	__DDUP_ROLE_MAX,
	DDUP_ROLE_MAX = (__DDUP_ROLE_MAX - 1)
};

/**
 * enum ddup_member_state - What a configuration says of a member.
 * @DDUP_MEMBER_STATE_IN_SYNC: Each FLUSH waits for it.
 * @DDUP_MEMBER_STATE_ASYNC: It follows, and nothing waits for it.
 * @DDUP_MEMBER_STATE_OUT: It gets nothing.
 */
enum ddup_member_state {
	DDUP_MEMBER_STATE_IN_SYNC = 1,
	DDUP_MEMBER_STATE_ASYNC,
	DDUP_MEMBER_STATE_OUT,

	/* private: */
	__DDUP_MEMBER_STATE_MAX,
	DDUP_MEMBER_STATE_MAX = (__DDUP_MEMBER_STATE_MAX - 1)
};

/**
 * enum ddup_peer_link - How far the connection to a peer is.
 * @DDUP_PEER_LINK_ABSENT: There is none.
 * @DDUP_PEER_LINK_GREETING: There is one, and the two stores agree on what
 *   they have.
 * @DDUP_PEER_LINK_CONNECTED: Data may flow.
 */
enum ddup_peer_link {
	DDUP_PEER_LINK_ABSENT,
	DDUP_PEER_LINK_GREETING,
	DDUP_PEER_LINK_CONNECTED,

	/* private: */
	__DDUP_PEER_LINK_MAX,
	DDUP_PEER_LINK_MAX = (__DDUP_PEER_LINK_MAX - 1)
};

/**
 * enum ddup_set_event - What happened to a replica set.
 * @DDUP_SET_EVENT_CONFIG: A configuration is in force.
 * @DDUP_SET_EVENT_PEER_UP: A session with a peer was established.
 * @DDUP_SET_EVENT_PEER_LOST: A session with a peer ended.
 * @DDUP_SET_EVENT_FLUSH_SUSPENDED: FLUSHes wait for a member that is away, or
 *   for members.
 * @DDUP_SET_EVENT_FLUSH_RESUMED: They go on.
 * @DDUP_SET_EVENT_JOINABLE: The peer may be committed as in sync, by the
 *   successor of the configuration in force.
 * @DDUP_SET_EVENT_SUPERSEDED: Others have a newer configuration.
 * @DDUP_SET_EVENT_REGRESSED: A peer in sync has lost what it had acknowledged.
 * @DDUP_SET_EVENT_DIVERGED: This store's history is not part of the primary's,
 *   and is kept until a person resolves it.
 * @DDUP_SET_EVENT_SPLIT_BRAIN: The configurations of the peer and of this
 *   store are unrelated.
 * @DDUP_SET_EVENT_RECONCILED: The reign of this store begins to take requests.
 * @DDUP_SET_EVENT_STORE_FAILED: The store failed, or has no space.
 * @DDUP_SET_EVENT_DEMOTED: The store takes no requests any more: it was
 *   demoted or fenced, or another one is primary.
 * @DDUP_SET_EVENT_LEASE_EXPIRED: The lease of this primary is over: requests
 *   and FLUSHes wait for another one.
 * @DDUP_SET_EVENT_VERIFIED: A verify of a peer has ended; ``set-get`` says
 *   how.
 */
enum ddup_set_event {
	DDUP_SET_EVENT_CONFIG,
	DDUP_SET_EVENT_PEER_UP,
	DDUP_SET_EVENT_PEER_LOST,
	DDUP_SET_EVENT_FLUSH_SUSPENDED,
	DDUP_SET_EVENT_FLUSH_RESUMED,
	DDUP_SET_EVENT_JOINABLE,
	DDUP_SET_EVENT_SUPERSEDED,
	DDUP_SET_EVENT_REGRESSED,
	DDUP_SET_EVENT_DIVERGED,
	DDUP_SET_EVENT_SPLIT_BRAIN,
	DDUP_SET_EVENT_RECONCILED,
	DDUP_SET_EVENT_STORE_FAILED,
	DDUP_SET_EVENT_DEMOTED,
	DDUP_SET_EVENT_LEASE_EXPIRED,
	DDUP_SET_EVENT_VERIFIED,

	/* private: */
	__DDUP_SET_EVENT_MAX,
	DDUP_SET_EVENT_MAX = (__DDUP_SET_EVENT_MAX - 1)
};

/**
 * enum ddup_verify_state - How far a verify of a peer is, or how it has ended.
 * @DDUP_VERIFY_STATE_FREEZING: Both stores are to freeze the same state.
 * @DDUP_VERIFY_STATE_COMPARING: They have, and it is compared.
 * @DDUP_VERIFY_STATE_COMPLETE: All was compared, and the peer has acknowledged
 *   what was repaired.
 * @DDUP_VERIFY_STATE_STOPPED: Somebody ended it.
 * @DDUP_VERIFY_STATE_GAVE_WAY: A frozen state gave way: to who needs the
 *   space, or to a full compare.
 * @DDUP_VERIFY_STATE_LOST: The session, its stream or the reign has ended.
 * @DDUP_VERIFY_STATE_NOT_FROZEN: The two did not manage to freeze the same
 *   state.
 */
enum ddup_verify_state {
	DDUP_VERIFY_STATE_FREEZING,
	DDUP_VERIFY_STATE_COMPARING,
	DDUP_VERIFY_STATE_COMPLETE,
	DDUP_VERIFY_STATE_STOPPED,
	DDUP_VERIFY_STATE_GAVE_WAY,
	DDUP_VERIFY_STATE_LOST,
	DDUP_VERIFY_STATE_NOT_FROZEN,

	/* private: */
	__DDUP_VERIFY_STATE_MAX,
	DDUP_VERIFY_STATE_MAX = (__DDUP_VERIFY_STATE_MAX - 1)
};

enum {
	DDUP_A_DEVICE_INDEX = 1,
	DDUP_A_DEVICE_NAME,
	DDUP_A_DEVICE_PATH,
	DDUP_A_DEVICE_BACKING_MAJOR,
	DDUP_A_DEVICE_BACKING_MINOR,
	DDUP_A_DEVICE_READ_ONLY,
	DDUP_A_DEVICE_FORCE,
	DDUP_A_DEVICE_CACHE_BYTES,
	DDUP_A_DEVICE_INDEX_BYTES,
	DDUP_A_DEVICE_STORE_UUID,
	DDUP_A_DEVICE_VOLUME,
	DDUP_A_DEVICE_SIZE,
	DDUP_A_DEVICE_STATE,
	DDUP_A_DEVICE_FAILURE,
	DDUP_A_DEVICE_MESSAGE,
	DDUP_A_DEVICE_COUNTERS,
	DDUP_A_DEVICE_INSTANCE,
	DDUP_A_DEVICE_EVENT_SEQ,
	DDUP_A_DEVICE_CHECK_COOKIE,
	DDUP_A_DEVICE_CHECK_ROOT,
	DDUP_A_DEVICE_CHECK_PAGES,
	DDUP_A_DEVICE_CHECK_FINDINGS,
	DDUP_A_DEVICE_CHECK_TABLE_READ,
	DDUP_A_DEVICE_CHECK_DONE,
	DDUP_A_DEVICE_VOLUME_UUID,
	DDUP_A_DEVICE_RELEASING_BYTES,
	DDUP_A_DEVICE_SCRUB,
	DDUP_A_DEVICE_SCRUB_STOP,
	DDUP_A_DEVICE_OFFSET,

	__DDUP_A_DEVICE_MAX,
	DDUP_A_DEVICE_MAX = (__DDUP_A_DEVICE_MAX - 1)
};

enum {
	DDUP_A_SCRUB_STATE = 1,
	DDUP_A_SCRUB_BLOCKS,
	DDUP_A_SCRUB_CHECKED_BLOCKS,
	DDUP_A_SCRUB_READ_CLUSTERS,
	DDUP_A_SCRUB_BAD_BLOCKS,
	DDUP_A_SCRUB_HEALED_BLOCKS,
	DDUP_A_SCRUB_TOOK_MS,

	__DDUP_A_SCRUB_MAX,
	DDUP_A_SCRUB_MAX = (__DDUP_A_SCRUB_MAX - 1)
};

enum {
	DDUP_A_COUNTERS_CLUSTERS = 1,
	DDUP_A_COUNTERS_FIXED_CLUSTERS,
	DDUP_A_COUNTERS_METADATA_CLUSTERS,
	DDUP_A_COUNTERS_FREE_METADATA_CLUSTERS,
	DDUP_A_COUNTERS_AVAILABLE_CLUSTERS,
	DDUP_A_COUNTERS_JUNK_CLUSTERS,
	DDUP_A_COUNTERS_LIVE_CLUSTERS,
	DDUP_A_COUNTERS_MAPPED_BLOCKS,
	DDUP_A_COUNTERS_QUARANTINED_CLUSTERS,
	DDUP_A_COUNTERS_READ_BLOCKS,
	DDUP_A_COUNTERS_WRITTEN_BLOCKS,
	DDUP_A_COUNTERS_DUPLICATE_BLOCKS,
	DDUP_A_COUNTERS_ZERO_BLOCKS,
	DDUP_A_COUNTERS_DISCARDED_BLOCKS,
	DDUP_A_COUNTERS_FLUSHES,
	DDUP_A_COUNTERS_COMMITS,
	DDUP_A_COUNTERS_CHECKPOINTS,
	DDUP_A_COUNTERS_COLLISIONS,
	DDUP_A_COUNTERS_CHECK_ERRORS,
	DDUP_A_COUNTERS_WRITE_RETRIES,
	DDUP_A_COUNTERS_NO_SPACE,
	DDUP_A_COUNTERS_JOURNAL_BYTES,
	DDUP_A_COUNTERS_JOURNAL_SIZE,
	DDUP_A_COUNTERS_WAITING_CHANGES,
	DDUP_A_COUNTERS_CACHED_PAGES,
	DDUP_A_COUNTERS_PAGES_READ,
	DDUP_A_COUNTERS_PAGES_WRITTEN,
	DDUP_A_COUNTERS_INDEX_ENTRIES,
	DDUP_A_COUNTERS_INDEX_LIMIT,
	DDUP_A_COUNTERS_HEALED_BLOCKS,
	DDUP_A_COUNTERS_FAILED_HEALS,

	__DDUP_A_COUNTERS_MAX,
	DDUP_A_COUNTERS_MAX = (__DDUP_A_COUNTERS_MAX - 1)
};

enum {
	DDUP_A_POSITION_TERM = 1,
	DDUP_A_POSITION_REIGN,
	DDUP_A_POSITION_EPOCH,
	DDUP_A_POSITION_CHAIN,

	__DDUP_A_POSITION_MAX,
	DDUP_A_POSITION_MAX = (__DDUP_A_POSITION_MAX - 1)
};

enum {
	DDUP_A_DIFFERENCE_VOLUME = 1,
	DDUP_A_DIFFERENCE_BLOCK,

	__DDUP_A_DIFFERENCE_MAX,
	DDUP_A_DIFFERENCE_MAX = (__DDUP_A_DIFFERENCE_MAX - 1)
};

enum {
	DDUP_A_VERIFY_STATE = 1,
	DDUP_A_VERIFY_REPAIR,
	DDUP_A_VERIFY_POSITION,
	DDUP_A_VERIFY_BLOCKS,
	DDUP_A_VERIFY_COMPARED_BLOCKS,
	DDUP_A_VERIFY_RANGES,
	DDUP_A_VERIFY_DIFFERING_RANGES,
	DDUP_A_VERIFY_DIFFERING_VOLUMES,
	DDUP_A_VERIFY_DIFFERING_BLOCKS,
	DDUP_A_VERIFY_REPAIRED_BLOCKS,
	DDUP_A_VERIFY_FOUND,
	DDUP_A_VERIFY_TOOK_MS,
	DDUP_A_VERIFY_ENDED,

	__DDUP_A_VERIFY_MAX,
	DDUP_A_VERIFY_MAX = (__DDUP_A_VERIFY_MAX - 1)
};

enum {
	DDUP_A_PEER_STORE = 1,
	DDUP_A_PEER_MEMBER_STATE,
	DDUP_A_PEER_LINK,
	DDUP_A_PEER_ACKED_EPOCH,
	DDUP_A_PEER_JOINING,
	DDUP_A_PEER_JOINABLE,
	DDUP_A_PEER_SENT_BYTES,
	DDUP_A_PEER_SENT_BLOCKS,
	DDUP_A_PEER_RECEIVED_BYTES,
	DDUP_A_PEER_RECEIVED_BLOCKS,
	DDUP_A_PEER_TOLD_BLOCKS,
	DDUP_A_PEER_LAG_ENTRIES,
	DDUP_A_PEER_LAG_MS,
	DDUP_A_PEER_COMPARED_BLOCKS,
	DDUP_A_PEER_COMPARE_MS,
	DDUP_A_PEER_TO_COMPARE_BLOCKS,
	DDUP_A_PEER_COMPARE_SINCE_EPOCH,
	DDUP_A_PEER_SENT_UNCOMPRESSED_BYTES,
	DDUP_A_PEER_RECEIVED_UNCOMPRESSED_BYTES,
	DDUP_A_PEER_LAG_BYTES,
	DDUP_A_PEER_VERIFY,

	__DDUP_A_PEER_MAX,
	DDUP_A_PEER_MAX = (__DDUP_A_PEER_MAX - 1)
};

enum {
	DDUP_A_SET_INDEX = 1,
	DDUP_A_SET_STORE_UUID,
	DDUP_A_SET_SET_UUID,
	DDUP_A_SET_ROLE,
	DDUP_A_SET_CONFIG,
	DDUP_A_SET_EXPECT_VERSION,
	DDUP_A_SET_VERSION,
	DDUP_A_SET_TERM,
	DDUP_A_SET_PROMISE,
	DDUP_A_SET_CONFIG_ID,
	DDUP_A_SET_POSITION,
	DDUP_A_SET_COMMITTED,
	DDUP_A_SET_PEER,
	DDUP_A_SET_PEER_STORE,
	DDUP_A_SET_FD,
	DDUP_A_SET_NONCE,
	DDUP_A_SET_WAITING_FLUSHES,
	DDUP_A_SET_WINDOW_ENTRIES,
	DDUP_A_SET_APPLYING,
	DDUP_A_SET_REFUSED_SESSIONS,
	DDUP_A_SET_HISTORY_KEPT,
	DDUP_A_SET_EVENT,
	DDUP_A_SET_INSTANCE,
	DDUP_A_SET_EVENT_SEQ,
	DDUP_A_SET_LEASE_UNTIL,
	DDUP_A_SET_LEASE_OVER,
	DDUP_A_SET_VERIFY_REPAIR,
	DDUP_A_SET_VERIFY_STOP,

	__DDUP_A_SET_MAX,
	DDUP_A_SET_MAX = (__DDUP_A_SET_MAX - 1)
};

enum {
	DDUP_CMD_ATTACH = 1,
	DDUP_CMD_DETACH,
	DDUP_CMD_GET,
	DDUP_CMD_ATTACHED,
	DDUP_CMD_DETACHED,
	DDUP_CMD_STORE_FAILED,
	DDUP_CMD_CHECK,
	DDUP_CMD_CHECKED,
	DDUP_CMD_CREATE,
	DDUP_CMD_RESIZE,
	DDUP_CMD_RESIZED,
	DDUP_CMD_REMOVE,
	DDUP_CMD_REMOVED,
	DDUP_CMD_SET_GET,
	DDUP_CMD_SET_CONFIG,
	DDUP_CMD_FENCE,
	DDUP_CMD_JOIN,
	DDUP_CMD_DEMOTE,
	DDUP_CMD_FLUSH_FAIL,
	DDUP_CMD_RESOLVE,
	DDUP_CMD_PEER,
	DDUP_CMD_PEER_DROP,
	DDUP_CMD_SET_CHANGED,
	DDUP_CMD_SCRUB,
	DDUP_CMD_SCRUB_FOUND,
	DDUP_CMD_SCRUBBED,
	DDUP_CMD_LEASE,
	DDUP_CMD_VERIFY,

	__DDUP_CMD_MAX,
	DDUP_CMD_MAX = (__DDUP_CMD_MAX - 1)
};

#define DDUP_MCGRP_EVENTS	"events"

#endif /* _UAPI_LINUX_DDUP_H */
