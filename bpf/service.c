// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// Translates the destination of a pod's connection from a service address to a
// backend, in the system call, so that every packet has the backend's address. The
// programs run for the sockets of one control group; internal/linux/bpf loads them
// and fills the maps.
//
// No program uses CO-RE, a loop or a tail call: the oldest kernel with the helpers
// (5.14) and a kernel without BTF and JIT can run them.

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "endpoint.h"

#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define ECONNREFUSED 111
#define NANOSECONDS 1000000000ULL

enum { DENY, ALLOW }; // what a program returns

struct frontend_key {
	__be32 addr[4];
	__be16 port;
	__u8 protocol;
	__u8 zero;
};

enum { AFFINITY = 1, REFUSE = 2, PASS = 4 }; // frontend.flags, as in internal/service

struct frontend {
	__u32 set;     // the set of backends
	__u32 count;   // its size
	__u32 timeout; // of the affinity, in seconds
	__u32 flags;
};

struct slot {
	__u32 set;
	__u32 index; // less than the count of the frontend
};

struct member {
	__u32 set;
	struct endpoint backend;
};

struct client {
	__u64 netns; // cookie of the network namespace: one pod
	__u32 set;
	__u32 zero;
};

struct affinity {
	__u64 used; // time of the last connection: CLOCK_MONOTONIC, in ns
	struct endpoint backend;
	__u32 zero;
};

struct assigned {
	__u32 set;
	struct endpoint backend;
};

// The agent resizes the maps. Each map without preallocation grows with its entries.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct frontend_key);
	__type(value, struct frontend);
} frontends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct slot);
	__type(value, struct endpoint);
} backends SEC(".maps");

// The value is 1 for a backend that serves its present flows and gets no new ones.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct member);
	__type(value, __u32);
} members SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct client);
	__type(value, struct affinity);
} affinities SEC(".maps");

// The backend of an unconnected UDP socket's packets to a service. Without it, each
// packet would go to another backend.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct flow); // remote is the service
	__type(value, struct assigned);
} flows SEC(".maps");

// The cookie of the node's network namespace. Pods on it are left to kube-proxy.
volatile const __u64 host_netns;
// Whether the kernel has bpf_set_retval (5.18). If not, the verifier never sees the
// call, and kube-proxy refuses the connection.
volatile const __u32 has_set_retval;

static __always_inline int on_host(struct bpf_sock_addr *ctx)
{
	return bpf_get_netns_cookie(ctx) == host_netns;
}

static __always_inline const struct frontend *find(const struct endpoint *dst, __u8 protocol)
{
	struct frontend_key key = {
		.addr = { dst->addr[0], dst->addr[1], dst->addr[2], dst->addr[3] },
		.port = dst->port,
		.protocol = protocol,
	};
	return bpf_map_lookup_elem(&frontends, &key);
}

// is_member returns whether the backend still belongs to the set. A draining one counts
// only for a flow that it has already.
static __always_inline int is_member(__u32 set, const struct endpoint *backend, int draining)
{
	struct member key = { .set = set, .backend = *backend };
	const __u32 *drains = bpf_map_lookup_elem(&members, &key);

	return drains && (draining || !*drains);
}

static __always_inline const struct endpoint *any(const struct frontend *f)
{
	struct slot key = { .set = f->set };
	const struct endpoint *backend;

	if (!f->count)
		return 0;
	key.index = bpf_get_prandom_u32() % f->count;
	backend = bpf_map_lookup_elem(&backends, &key);
	if (!backend) {
		// The set became smaller since the frontend was read. Slot 0 is the last to go.
		key.index = 0;
		backend = bpf_map_lookup_elem(&backends, &key);
	}
	return backend;
}

// choose writes the backend of a new connection. It returns 0 if there is none.
static __always_inline int choose(struct bpf_sock_addr *ctx, const struct frontend *f, struct endpoint *out)
{
	struct affinity next = {};
	const struct endpoint *backend;
	struct client client = { .set = f->set };
	struct affinity *last;

	if (!(f->flags & AFFINITY)) {
		backend = any(f);
		if (!backend)
			return 0;
		*out = *backend;
		return 1;
	}
	client.netns = bpf_get_netns_cookie(ctx);
	next.used = bpf_ktime_get_ns();
	last = bpf_map_lookup_elem(&affinities, &client);
	if (last && next.used - last->used < f->timeout * NANOSECONDS && is_member(f->set, &last->backend, 0)) {
		last->used = next.used;
		*out = last->backend;
		return 1;
	}
	backend = any(f);
	if (!backend)
		return 0;
	*out = next.backend = *backend;
	bpf_map_update_elem(&affinities, &client, &next, BPF_ANY);
	return 1;
}

enum verdict { LEAVE, TRANSLATE, REFUSED };

static __always_inline enum verdict refuse(void)
{
	if (!has_set_retval)
		return LEAVE;
	bpf_set_retval(-ECONNREFUSED);
	return REFUSED;
}

static __always_inline void forget(__u64 socket)
{
	if (bpf_map_lookup_elem(&peers, &socket)) // without the lock of a deletion
		bpf_map_delete_elem(&peers, &socket);
}

// connects translates the destination of connect().
static __always_inline enum verdict connects(struct bpf_sock_addr *ctx, struct endpoint *dst)
{
	const struct frontend *f;
	struct peer peer = {};
	__u64 socket;

	if (on_host(ctx))
		return LEAVE;
	socket = bpf_get_socket_cookie(ctx);
	f = find(dst, ctx->protocol);
	if (!f || f->flags & PASS) {
		forget(socket); // an earlier connect()
		return LEAVE;
	}
	if (f->flags & REFUSE)
		return refuse();
	if (!choose(ctx, f, &peer.backend))
		return LEAVE;
	peer.service = *dst;
	peer.set = f->set;
	if (bpf_map_update_elem(&peers, &socket, &peer, BPF_ANY))
		return LEAVE; // kube-proxy can still translate
	*dst = peer.backend;
	return TRANSLATE;
}

// sends translates the destination of a packet of an unconnected UDP socket.
static __always_inline enum verdict sends(struct bpf_sock_addr *ctx, struct endpoint *dst)
{
	struct flow to_service = {}, from_backend = {};
	struct assigned next = {};
	const struct assigned *last;
	const struct endpoint *known;
	const struct frontend *f;

	if (on_host(ctx))
		return LEAVE;
	f = find(dst, IPPROTO_UDP);
	if (!f || f->flags & PASS)
		return LEAVE;
	if (f->flags & REFUSE)
		return refuse();
	to_service.socket = from_backend.socket = bpf_get_socket_cookie(ctx);
	to_service.remote = *dst;
	last = bpf_map_lookup_elem(&flows, &to_service);
	next.set = f->set;
	if (last && last->set == f->set && is_member(f->set, &last->backend, 1)) {
		next.backend = last->backend;
	} else {
		if (!choose(ctx, f, &next.backend) || bpf_map_update_elem(&flows, &to_service, &next, BPF_ANY))
			return LEAVE;
	}
	from_backend.remote = next.backend;
	known = bpf_map_lookup_elem(&replies, &from_backend);
	if ((!known || !same(known, dst)) && bpf_map_update_elem(&replies, &from_backend, dst, BPF_ANY))
		return LEAVE;
	*dst = next.backend;
	return TRANSLATE;
}

// names replaces a backend by the service that the application connected to.
static __always_inline int names(struct bpf_sock_addr *ctx, struct endpoint *remote)
{
	__u64 socket = bpf_get_socket_cookie(ctx);
	const struct peer *peer = bpf_map_lookup_elem(&peers, &socket);

	if (!peer || !same(&peer->backend, remote))
		return 0;
	*remote = peer->service;
	return 1;
}

// receives replaces the source of a UDP packet by the service that it answers for.
static __always_inline int receives(struct bpf_sock_addr *ctx, struct endpoint *remote)
{
	struct flow from_backend = {};
	const struct endpoint *service;

	if (on_host(ctx))
		return 0;
	if (names(ctx, remote))
		return 1;
	from_backend.socket = bpf_get_socket_cookie(ctx);
	from_backend.remote = *remote;
	service = bpf_map_lookup_elem(&replies, &from_backend);
	if (!service)
		return 0;
	*remote = *service;
	return 1;
}

static __always_inline struct endpoint load4(struct bpf_sock_addr *ctx)
{
	struct endpoint e = {
		.addr = { 0, 0, bpf_htonl(0xffff), ctx->user_ip4 },
		.port = ctx->user_port,
	};
	return e;
}

static __always_inline void store4(struct bpf_sock_addr *ctx, const struct endpoint *e)
{
	ctx->user_ip4 = e->addr[3];
	ctx->user_port = e->port;
}

static __always_inline struct endpoint load6(struct bpf_sock_addr *ctx)
{
	struct endpoint e = {
		.addr = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] },
		.port = ctx->user_port,
	};
	return e;
}

static __always_inline void store6(struct bpf_sock_addr *ctx, const struct endpoint *e)
{
	ctx->user_ip6[0] = e->addr[0];
	ctx->user_ip6[1] = e->addr[1];
	ctx->user_ip6[2] = e->addr[2];
	ctx->user_ip6[3] = e->addr[3];
	ctx->user_port = e->port;
}

#define REQUEST(section, name, translate, load, store)    \
	SEC(section) int name(struct bpf_sock_addr *ctx)  \
	{                                                 \
		struct endpoint dst = load(ctx);          \
		enum verdict v = translate(ctx, &dst);    \
		if (v == TRANSLATE)                       \
			store(ctx, &dst);                 \
		return v == REFUSED ? DENY : ALLOW;       \
	}

#define ANSWER(section, name, translate, load, store)     \
	SEC(section) int name(struct bpf_sock_addr *ctx)  \
	{                                                 \
		struct endpoint remote = load(ctx);       \
		if (translate(ctx, &remote))              \
			store(ctx, &remote);              \
		return ALLOW;                             \
	}

REQUEST("cgroup/connect4", spider_connect4, connects, load4, store4)
REQUEST("cgroup/connect6", spider_connect6, connects, load6, store6)
REQUEST("cgroup/sendmsg4", spider_sendmsg4, sends, load4, store4)
REQUEST("cgroup/sendmsg6", spider_sendmsg6, sends, load6, store6)
ANSWER("cgroup/recvmsg4", spider_recvmsg4, receives, load4, store4)
ANSWER("cgroup/recvmsg6", spider_recvmsg6, receives, load6, store6)
ANSWER("cgroup/getpeername4", spider_peername4, names, load4, store4)
ANSWER("cgroup/getpeername6", spider_peername6, names, load6, store6)

SEC("cgroup/sock_release") int spider_release(struct bpf_sock *sk)
{
	forget(bpf_get_socket_cookie(sk));
	return ALLOW;
}

char _license[] SEC("license") = "Dual MIT/GPL";
