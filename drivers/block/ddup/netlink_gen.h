/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR BSD-3-Clause) */
/* Do not edit directly, auto-generated from: */
/*	Documentation/netlink/specs/ddup.yaml */
/* YNL-GEN kernel header */
/* To regenerate run: tools/net/ynl/ynl-regen.sh */

#ifndef _LINUX_DDUP_GEN_H
#define _LINUX_DDUP_GEN_H

#include <net/netlink.h>
#include <net/genetlink.h>

#include <uapi/linux/ddup.h>

int ddup_nl_attach_doit(struct sk_buff *skb, struct genl_info *info);
int ddup_nl_detach_doit(struct sk_buff *skb, struct genl_info *info);
int ddup_nl_get_doit(struct sk_buff *skb, struct genl_info *info);
int ddup_nl_get_dumpit(struct sk_buff *skb, struct netlink_callback *cb);
int ddup_nl_check_doit(struct sk_buff *skb, struct genl_info *info);
int ddup_nl_create_doit(struct sk_buff *skb, struct genl_info *info);
int ddup_nl_resize_doit(struct sk_buff *skb, struct genl_info *info);
int ddup_nl_remove_doit(struct sk_buff *skb, struct genl_info *info);
int ddup_nl_set_get_doit(struct sk_buff *skb, struct genl_info *info);
int ddup_nl_set_get_dumpit(struct sk_buff *skb, struct netlink_callback *cb);
int ddup_nl_set_config_doit(struct sk_buff *skb, struct genl_info *info);
int ddup_nl_fence_doit(struct sk_buff *skb, struct genl_info *info);
int ddup_nl_join_doit(struct sk_buff *skb, struct genl_info *info);
int ddup_nl_demote_doit(struct sk_buff *skb, struct genl_info *info);
int ddup_nl_flush_fail_doit(struct sk_buff *skb, struct genl_info *info);
int ddup_nl_resolve_doit(struct sk_buff *skb, struct genl_info *info);
int ddup_nl_peer_doit(struct sk_buff *skb, struct genl_info *info);
int ddup_nl_peer_drop_doit(struct sk_buff *skb, struct genl_info *info);
int ddup_nl_scrub_doit(struct sk_buff *skb, struct genl_info *info);
int ddup_nl_lease_doit(struct sk_buff *skb, struct genl_info *info);
int ddup_nl_verify_doit(struct sk_buff *skb, struct genl_info *info);

enum {
	DDUP_NLGRP_EVENTS,
};

extern struct genl_family ddup_nl_family;

#endif /* _LINUX_DDUP_GEN_H */
