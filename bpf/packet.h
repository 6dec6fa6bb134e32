// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// The headers of a packet, as flows.c reads them.

#pragma once

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd

#define ICMP 1
#define TCP 6
#define UDP 17
#define ICMPV6 58
#define SCTP 132

enum { OUT, IN }; // seen from the pod

enum { FIN = 1, SYN = 2, RST = 4, ACK = 16 };

// A connection, the same for its packets in both directions. ICMP has the identifier of
// an echo as both ports, and the type and code of other messages.
struct connection {
	__be32 local[4]; // as in struct endpoint
	__be32 remote[4];
	__be16 local_port;
	__be16 remote_port;
	__u32 nic;
	__u8 protocol;
	__u8 zero[7];
};

struct tcp {
	__be16 source, destination;
	__be32 seq, ack;
	__u8 offset; // of the data, in units of 4 bytes, in the upper half
	__u8 flags;
	__u16 window;
	__u16 checksum;
	__u16 urgent;
};

// head is the part of a packet that the programs read.
struct head {
	__u32 length; // of the IP packet
	__u32 at;     // offset of the transport header in it
};

// read copies a part of the packet from an offset behind its link header on. A header that lies in one piece behind that
// of Ethernet is read where it lies, which costs less than a helper.
static __always_inline int read(struct __sk_buff *skb, __u32 offset, void *to, const __u32 size)
{
	const int ether = 14;
	const __u8 *p = (const __u8 *)(long)skb->data, *end = (const __u8 *)(long)skb->data_end;

	if (p + ether <= end && *(const __be16 *)(p + 12) == (__be16)skb->protocol) {
		p += ether + offset;
		if (p + size <= end) {
			__builtin_memcpy(to, (const __u32 *)p, size);
			return 0;
		}
	}
	return bpf_skb_load_bytes_relative(skb, offset, to, size, BPF_HDR_START_NET);
}

// parse_ipv4 returns whether the packet is one of IPv4 with a transport header.
static __always_inline int parse_ipv4(struct __sk_buff *skb, struct connection *c, struct head *h, int way)
{
	struct {
		__u8 version_length, tos;
		__be16 total;
		__be16 id, fragment;
		__u8 ttl, protocol;
		__be16 checksum;
		__be32 source, destination;
	} ip;

	if (read(skb, 0, &ip, sizeof(ip)))
		return 0;
	if (ip.version_length >> 4 != 4 || ip.fragment & bpf_htons(0x1fff))
		return 0; // a further fragment has no ports
	h->at = (ip.version_length & 15) * 4;
	h->length = bpf_ntohs(ip.total);
	c->protocol = ip.protocol;
	c->local[2] = c->remote[2] = bpf_htonl(0xffff);
	c->local[3] = way == OUT ? ip.source : ip.destination;
	c->remote[3] = way == OUT ? ip.destination : ip.source;
	return 1;
}

// parse_ipv6 does the same for IPv6. It skips packets with extension headers.
static __always_inline int parse_ipv6(struct __sk_buff *skb, struct connection *c, struct head *h, int way)
{
	struct {
		__be32 version_class_label;
		__be16 payload;
		__u8 next, hops;
		__be32 source[4], destination[4];
	} ip;

	if (read(skb, 0, &ip, sizeof(ip)))
		return 0;
	if ((bpf_ntohl(ip.version_class_label) >> 28) != 6)
		return 0;
	h->at = sizeof(ip);
	h->length = sizeof(ip) + bpf_ntohs(ip.payload);
	c->protocol = ip.next;
	__builtin_memcpy(c->local, way == OUT ? ip.source : ip.destination, sizeof(c->local));
	__builtin_memcpy(c->remote, way == OUT ? ip.destination : ip.source, sizeof(c->remote));
	return 1;
}

// is_plain reports whether a packet is a TCP segment without SYN, FIN and RST, as most are. It reads them where they lie, which costs less
// than a helper. A packet with options, another link layer or a header in several parts is left to the helpers.
static __always_inline int is_plain(struct __sk_buff *skb)
{
	const __u8 *p = (const __u8 *)(long)skb->data, *end = (const __u8 *)(long)skb->data_end;
	const int ether = 14, flags = 13;

	if (p + ether + 20 + flags + 1 > end || *(const __be16 *)(p + 12) != (__be16)skb->protocol)
		return 0;
	if (p[ether] == 0x45) // IPv4 without options, and not a further fragment
		return p[ether + 9] == TCP && !(p[ether + 6] & 0x1f) && !p[ether + 7] && !(p[ether + 20 + flags] & (SYN | FIN | RST));
	if (p[ether] >> 4 != 6 || p + ether + 40 + flags + 1 > end)
		return 0;
	return p[ether + 6] == TCP && !(p[ether + 40 + flags] & (SYN | FIN | RST));
}
