// SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR BSD-3-Clause)
/* Do not edit directly, auto-generated from: */
/*	Documentation/netlink/specs/ddup.yaml */
/* YNL-GEN kernel source */
/* To regenerate run: tools/net/ynl/ynl-regen.sh */

#include <net/netlink.h>
#include <net/genetlink.h>

#include "netlink_gen.h"

#include <uapi/linux/ddup.h>

/* Integer value ranges */
static const struct netlink_range_validation ddup_a_device_index_range = {
	.max	= DDUP_INDEX_MAX,
};

static const struct netlink_range_validation ddup_a_set_index_range = {
	.max	= DDUP_INDEX_MAX,
};

/* DDUP_CMD_ATTACH - do */
static const struct nla_policy ddup_attach_nl_policy[DDUP_A_DEVICE_INDEX_BYTES + 1] = {
	[DDUP_A_DEVICE_PATH] = { .type = NLA_NUL_STRING, .len = DDUP_PATH_LEN_MAX, },
	[DDUP_A_DEVICE_INDEX] = NLA_POLICY_FULL_RANGE(NLA_U32, &ddup_a_device_index_range),
	[DDUP_A_DEVICE_READ_ONLY] = { .type = NLA_FLAG, },
	[DDUP_A_DEVICE_CACHE_BYTES] = { .type = NLA_UINT, },
	[DDUP_A_DEVICE_INDEX_BYTES] = { .type = NLA_UINT, },
};

/* DDUP_CMD_DETACH - do */
static const struct nla_policy ddup_detach_nl_policy[DDUP_A_DEVICE_FORCE + 1] = {
	[DDUP_A_DEVICE_INDEX] = NLA_POLICY_FULL_RANGE(NLA_U32, &ddup_a_device_index_range),
	[DDUP_A_DEVICE_FORCE] = { .type = NLA_FLAG, },
};

/* DDUP_CMD_GET - do */
static const struct nla_policy ddup_get_nl_policy[DDUP_A_DEVICE_INDEX + 1] = {
	[DDUP_A_DEVICE_INDEX] = NLA_POLICY_FULL_RANGE(NLA_U32, &ddup_a_device_index_range),
};

/* DDUP_CMD_CHECK - do */
static const struct nla_policy ddup_check_nl_policy[DDUP_A_DEVICE_CHECK_DONE + 1] = {
	[DDUP_A_DEVICE_INDEX] = NLA_POLICY_FULL_RANGE(NLA_U32, &ddup_a_device_index_range),
	[DDUP_A_DEVICE_CHECK_COOKIE] = { .type = NLA_UINT, },
	[DDUP_A_DEVICE_CHECK_PAGES] = { .type = NLA_UINT, },
	[DDUP_A_DEVICE_CHECK_FINDINGS] = { .type = NLA_UINT, },
	[DDUP_A_DEVICE_CHECK_TABLE_READ] = { .type = NLA_FLAG, },
	[DDUP_A_DEVICE_CHECK_DONE] = { .type = NLA_FLAG, },
};

/* DDUP_CMD_CREATE - do */
static const struct nla_policy ddup_create_nl_policy[DDUP_A_DEVICE_SIZE + 1] = {
	[DDUP_A_DEVICE_INDEX] = NLA_POLICY_FULL_RANGE(NLA_U32, &ddup_a_device_index_range),
	[DDUP_A_DEVICE_SIZE] = { .type = NLA_UINT, },
};

/* DDUP_CMD_RESIZE - do */
static const struct nla_policy ddup_resize_nl_policy[DDUP_A_DEVICE_SIZE + 1] = {
	[DDUP_A_DEVICE_INDEX] = NLA_POLICY_FULL_RANGE(NLA_U32, &ddup_a_device_index_range),
	[DDUP_A_DEVICE_SIZE] = { .type = NLA_UINT, },
	[DDUP_A_DEVICE_FORCE] = { .type = NLA_FLAG, },
};

/* DDUP_CMD_REMOVE - do */
static const struct nla_policy ddup_remove_nl_policy[DDUP_A_DEVICE_INDEX + 1] = {
	[DDUP_A_DEVICE_INDEX] = NLA_POLICY_FULL_RANGE(NLA_U32, &ddup_a_device_index_range),
};

/* DDUP_CMD_SET_GET - do */
static const struct nla_policy ddup_set_get_nl_policy[DDUP_A_SET_INDEX + 1] = {
	[DDUP_A_SET_INDEX] = NLA_POLICY_FULL_RANGE(NLA_U32, &ddup_a_set_index_range),
};

/* DDUP_CMD_SET_CONFIG - do */
static const struct nla_policy ddup_set_config_nl_policy[DDUP_A_SET_EXPECT_VERSION + 1] = {
	[DDUP_A_SET_INDEX] = NLA_POLICY_FULL_RANGE(NLA_U32, &ddup_a_set_index_range),
	[DDUP_A_SET_EXPECT_VERSION] = { .type = NLA_UINT, },
	[DDUP_A_SET_CONFIG] = NLA_POLICY_MAX_LEN(DDUP_CONFIG_MAX),
};

/* DDUP_CMD_FENCE - do */
static const struct nla_policy ddup_fence_nl_policy[DDUP_A_SET_TERM + 1] = {
	[DDUP_A_SET_INDEX] = NLA_POLICY_FULL_RANGE(NLA_U32, &ddup_a_set_index_range),
	[DDUP_A_SET_TERM] = { .type = NLA_UINT, },
};

/* DDUP_CMD_JOIN - do */
static const struct nla_policy ddup_join_nl_policy[DDUP_A_SET_PEER_STORE + 1] = {
	[DDUP_A_SET_INDEX] = NLA_POLICY_FULL_RANGE(NLA_U32, &ddup_a_set_index_range),
	[DDUP_A_SET_PEER_STORE] = NLA_POLICY_EXACT_LEN(DDUP_UUID_LEN),
};

/* DDUP_CMD_DEMOTE - do */
static const struct nla_policy ddup_demote_nl_policy[DDUP_A_SET_INDEX + 1] = {
	[DDUP_A_SET_INDEX] = NLA_POLICY_FULL_RANGE(NLA_U32, &ddup_a_set_index_range),
};

/* DDUP_CMD_FLUSH_FAIL - do */
static const struct nla_policy ddup_flush_fail_nl_policy[DDUP_A_SET_INDEX + 1] = {
	[DDUP_A_SET_INDEX] = NLA_POLICY_FULL_RANGE(NLA_U32, &ddup_a_set_index_range),
};

/* DDUP_CMD_RESOLVE - do */
static const struct nla_policy ddup_resolve_nl_policy[DDUP_A_SET_INDEX + 1] = {
	[DDUP_A_SET_INDEX] = NLA_POLICY_FULL_RANGE(NLA_U32, &ddup_a_set_index_range),
};

/* DDUP_CMD_PEER - do */
static const struct nla_policy ddup_peer_nl_policy[DDUP_A_SET_NONCE + 1] = {
	[DDUP_A_SET_INDEX] = NLA_POLICY_FULL_RANGE(NLA_U32, &ddup_a_set_index_range),
	[DDUP_A_SET_PEER_STORE] = NLA_POLICY_EXACT_LEN(DDUP_UUID_LEN),
	[DDUP_A_SET_FD] = { .type = NLA_U32, },
	[DDUP_A_SET_NONCE] = { .type = NLA_UINT, },
};

/* DDUP_CMD_PEER_DROP - do */
static const struct nla_policy ddup_peer_drop_nl_policy[DDUP_A_SET_PEER_STORE + 1] = {
	[DDUP_A_SET_INDEX] = NLA_POLICY_FULL_RANGE(NLA_U32, &ddup_a_set_index_range),
	[DDUP_A_SET_PEER_STORE] = NLA_POLICY_EXACT_LEN(DDUP_UUID_LEN),
};

/* DDUP_CMD_SCRUB - do */
static const struct nla_policy ddup_scrub_nl_policy[DDUP_A_DEVICE_SCRUB_STOP + 1] = {
	[DDUP_A_DEVICE_INDEX] = NLA_POLICY_FULL_RANGE(NLA_U32, &ddup_a_device_index_range),
	[DDUP_A_DEVICE_SCRUB_STOP] = { .type = NLA_FLAG, },
};

/* DDUP_CMD_LEASE - do */
static const struct nla_policy ddup_lease_nl_policy[DDUP_A_SET_LEASE_UNTIL + 1] = {
	[DDUP_A_SET_INDEX] = NLA_POLICY_FULL_RANGE(NLA_U32, &ddup_a_set_index_range),
	[DDUP_A_SET_VERSION] = { .type = NLA_UINT, },
	[DDUP_A_SET_LEASE_UNTIL] = { .type = NLA_UINT, },
};

/* DDUP_CMD_VERIFY - do */
static const struct nla_policy ddup_verify_nl_policy[DDUP_A_SET_VERIFY_STOP + 1] = {
	[DDUP_A_SET_INDEX] = NLA_POLICY_FULL_RANGE(NLA_U32, &ddup_a_set_index_range),
	[DDUP_A_SET_PEER_STORE] = NLA_POLICY_EXACT_LEN(DDUP_UUID_LEN),
	[DDUP_A_SET_VERIFY_REPAIR] = { .type = NLA_FLAG, },
	[DDUP_A_SET_VERIFY_STOP] = { .type = NLA_FLAG, },
};

/* Ops table for ddup */
static const struct genl_split_ops ddup_nl_ops[] = {
	{
		.cmd		= DDUP_CMD_ATTACH,
		.doit		= ddup_nl_attach_doit,
		.policy		= ddup_attach_nl_policy,
		.maxattr	= DDUP_A_DEVICE_INDEX_BYTES,
		.flags		= GENL_ADMIN_PERM | GENL_CMD_CAP_DO,
	},
	{
		.cmd		= DDUP_CMD_DETACH,
		.doit		= ddup_nl_detach_doit,
		.policy		= ddup_detach_nl_policy,
		.maxattr	= DDUP_A_DEVICE_FORCE,
		.flags		= GENL_ADMIN_PERM | GENL_CMD_CAP_DO,
	},
	{
		.cmd		= DDUP_CMD_GET,
		.doit		= ddup_nl_get_doit,
		.policy		= ddup_get_nl_policy,
		.maxattr	= DDUP_A_DEVICE_INDEX,
		.flags		= GENL_CMD_CAP_DO,
	},
	{
		.cmd	= DDUP_CMD_GET,
		.dumpit	= ddup_nl_get_dumpit,
		.flags	= GENL_CMD_CAP_DUMP,
	},
	{
		.cmd		= DDUP_CMD_CHECK,
		.doit		= ddup_nl_check_doit,
		.policy		= ddup_check_nl_policy,
		.maxattr	= DDUP_A_DEVICE_CHECK_DONE,
		.flags		= GENL_ADMIN_PERM | GENL_CMD_CAP_DO,
	},
	{
		.cmd		= DDUP_CMD_CREATE,
		.doit		= ddup_nl_create_doit,
		.policy		= ddup_create_nl_policy,
		.maxattr	= DDUP_A_DEVICE_SIZE,
		.flags		= GENL_ADMIN_PERM | GENL_CMD_CAP_DO,
	},
	{
		.cmd		= DDUP_CMD_RESIZE,
		.doit		= ddup_nl_resize_doit,
		.policy		= ddup_resize_nl_policy,
		.maxattr	= DDUP_A_DEVICE_SIZE,
		.flags		= GENL_ADMIN_PERM | GENL_CMD_CAP_DO,
	},
	{
		.cmd		= DDUP_CMD_REMOVE,
		.doit		= ddup_nl_remove_doit,
		.policy		= ddup_remove_nl_policy,
		.maxattr	= DDUP_A_DEVICE_INDEX,
		.flags		= GENL_ADMIN_PERM | GENL_CMD_CAP_DO,
	},
	{
		.cmd		= DDUP_CMD_SET_GET,
		.doit		= ddup_nl_set_get_doit,
		.policy		= ddup_set_get_nl_policy,
		.maxattr	= DDUP_A_SET_INDEX,
		.flags		= GENL_CMD_CAP_DO,
	},
	{
		.cmd	= DDUP_CMD_SET_GET,
		.dumpit	= ddup_nl_set_get_dumpit,
		.flags	= GENL_CMD_CAP_DUMP,
	},
	{
		.cmd		= DDUP_CMD_SET_CONFIG,
		.doit		= ddup_nl_set_config_doit,
		.policy		= ddup_set_config_nl_policy,
		.maxattr	= DDUP_A_SET_EXPECT_VERSION,
		.flags		= GENL_ADMIN_PERM | GENL_CMD_CAP_DO,
	},
	{
		.cmd		= DDUP_CMD_FENCE,
		.doit		= ddup_nl_fence_doit,
		.policy		= ddup_fence_nl_policy,
		.maxattr	= DDUP_A_SET_TERM,
		.flags		= GENL_ADMIN_PERM | GENL_CMD_CAP_DO,
	},
	{
		.cmd		= DDUP_CMD_JOIN,
		.doit		= ddup_nl_join_doit,
		.policy		= ddup_join_nl_policy,
		.maxattr	= DDUP_A_SET_PEER_STORE,
		.flags		= GENL_ADMIN_PERM | GENL_CMD_CAP_DO,
	},
	{
		.cmd		= DDUP_CMD_DEMOTE,
		.doit		= ddup_nl_demote_doit,
		.policy		= ddup_demote_nl_policy,
		.maxattr	= DDUP_A_SET_INDEX,
		.flags		= GENL_ADMIN_PERM | GENL_CMD_CAP_DO,
	},
	{
		.cmd		= DDUP_CMD_FLUSH_FAIL,
		.doit		= ddup_nl_flush_fail_doit,
		.policy		= ddup_flush_fail_nl_policy,
		.maxattr	= DDUP_A_SET_INDEX,
		.flags		= GENL_ADMIN_PERM | GENL_CMD_CAP_DO,
	},
	{
		.cmd		= DDUP_CMD_RESOLVE,
		.doit		= ddup_nl_resolve_doit,
		.policy		= ddup_resolve_nl_policy,
		.maxattr	= DDUP_A_SET_INDEX,
		.flags		= GENL_ADMIN_PERM | GENL_CMD_CAP_DO,
	},
	{
		.cmd		= DDUP_CMD_PEER,
		.doit		= ddup_nl_peer_doit,
		.policy		= ddup_peer_nl_policy,
		.maxattr	= DDUP_A_SET_NONCE,
		.flags		= GENL_ADMIN_PERM | GENL_CMD_CAP_DO,
	},
	{
		.cmd		= DDUP_CMD_PEER_DROP,
		.doit		= ddup_nl_peer_drop_doit,
		.policy		= ddup_peer_drop_nl_policy,
		.maxattr	= DDUP_A_SET_PEER_STORE,
		.flags		= GENL_ADMIN_PERM | GENL_CMD_CAP_DO,
	},
	{
		.cmd		= DDUP_CMD_SCRUB,
		.doit		= ddup_nl_scrub_doit,
		.policy		= ddup_scrub_nl_policy,
		.maxattr	= DDUP_A_DEVICE_SCRUB_STOP,
		.flags		= GENL_ADMIN_PERM | GENL_CMD_CAP_DO,
	},
	{
		.cmd		= DDUP_CMD_LEASE,
		.doit		= ddup_nl_lease_doit,
		.policy		= ddup_lease_nl_policy,
		.maxattr	= DDUP_A_SET_LEASE_UNTIL,
		.flags		= GENL_ADMIN_PERM | GENL_CMD_CAP_DO,
	},
	{
		.cmd		= DDUP_CMD_VERIFY,
		.doit		= ddup_nl_verify_doit,
		.policy		= ddup_verify_nl_policy,
		.maxattr	= DDUP_A_SET_VERIFY_STOP,
		.flags		= GENL_ADMIN_PERM | GENL_CMD_CAP_DO,
	},
};

static const struct genl_multicast_group ddup_nl_mcgrps[] = {
	[DDUP_NLGRP_EVENTS] = { "events", },
};

struct genl_family ddup_nl_family __ro_after_init = {
	.name		= DDUP_FAMILY_NAME,
	.version	= DDUP_FAMILY_VERSION,
	.netnsok	= true,
	.parallel_ops	= true,
	.module		= THIS_MODULE,
	.split_ops	= ddup_nl_ops,
	.n_split_ops	= ARRAY_SIZE(ddup_nl_ops),
	.mcgrps		= ddup_nl_mcgrps,
	.n_mcgrps	= ARRAY_SIZE(ddup_nl_mcgrps),
};
