// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// What service.c and flows.c know of a service's translation.

#pragma once

// An address is IPv6 or IPv4-mapped IPv6 (::ffff:a.b.c.d), in network byte order. So
// a socket of family AF_INET6 with an IPv4-mapped destination needs no code of its own.
struct endpoint {
	__be32 addr[4];
	__be16 port;
	__u16 zero;
};

struct flow {
	__u64 socket; // cookie
	struct endpoint remote;
	__u32 zero;
};

struct peer {
	struct endpoint service;
	struct endpoint backend;
	__u32 set;
};

// The service whose backend answers an unconnected UDP socket.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct flow); // remote is the backend
	__type(value, struct endpoint);
} replies SEC(".maps");

// The service of a connected socket, by cookie. The entry ends with the socket, so the
// map drops others only if more sockets are open. BPF_MAP_TYPE_SK_STORAGE would do
// without a limit, but kernels without a double-word compare-and-exchange, such as User
// Mode Linux, cannot allocate its entries.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct peer);
} peers SEC(".maps");

static __always_inline int same(const struct endpoint *a, const struct endpoint *b)
{
	return a->addr[0] == b->addr[0] && a->addr[1] == b->addr[1] && a->addr[2] == b->addr[2] &&
	       a->addr[3] == b->addr[3] && a->port == b->port;
}
