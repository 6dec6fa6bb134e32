// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// Reports the connections of one interface of a pod: when they open, end or are refused.
// internal/linux/flows attaches both programs to the interface (tcx, Linux 6.6) and reads
// the ring buffer. The programs change no packet and delay none.
//
// A TCP segment without SYN, FIN or RST costs a look at its header and nothing else. The
// counters of a connection come from its socket when it ends, and from sequence numbers.
// Packets of other protocols are counted one by one.
//
// No program uses CO-RE, a loop or a tail call, so a kernel without BTF and JIT can run
// them.

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "endpoint.h"
#include "packet.h"

#define NEXT (-1) // TCX_NEXT: the next program, or the next step of the packet
#define PACKET_OTHERHOST 3
#define SOCK_STREAM 1

#define BOTH (1 << OUT | 1 << IN)

enum { OPENED, CLOSED, REFUSED }; // event.kind, as flow.Kind

struct traffic {
	__u64 packets;
	__u64 bytes;
};

struct state {
	__u64 first; // packet; CLOCK_MONOTONIC, in ns
	__u64 answered; // time of the first packet the other way, or 0
	__u64 last;
	struct traffic count[2]; // by OUT and IN
	__u32 start[2];          // the sequence numbers of the SYNs
	__u32 end[2];            // those of the FINs
	__u32 retransmits;
	__u32 rtt; // in µs
	__u32 ended; // 1 << OUT | 1 << IN after the FINs
	__u8 opener; // OUT or IN
	__u8 reported;
	__u8 type; // of ICMP
	__u8 code;
	struct endpoint service;
	__u32 zero;
};

struct event { // CLOSED or REFUSED
	__u64 time;
	struct connection c;
	struct state s;
	__u32 kind;
	__u32 flags;
};

// OPENED has half the size: what the ring buffer costs are its cache lines.
struct opening {
	__u64 time;
	struct connection c;
	struct endpoint service;
	__u8 opener;
	__u8 answered;
	__u8 type;
	__u8 code;
	__u32 flags;
	__u32 zero;
};

// An old connection makes room for a new one, so a flood in one pod hides no other pod.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct connection);
	__type(value, struct state);
} connections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 21);
} events SEC(".maps");

// The number of events that found no room.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

// The interface, as the agent numbers them.
volatile const __u32 nic;
// One of how many connections is reported. 1 is all.
volatile const __u32 sample;
// Whether services are translated at the socket, so that peers and replies have entries.
volatile const __u32 translated;

static __always_inline void lose(void)
{
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&lost, &zero);

	if (count)
		*count += 1;
}

static __always_inline void report_opening(const struct connection *c, const struct state *s, __u32 flags)
{
	struct opening *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		lose();
		return;
	}
	e->time = s->first;
	e->c = *c;
	e->service = s->service;
	e->opener = s->opener;
	e->answered = s->answered != 0;
	e->type = s->type;
	e->code = s->code;
	e->flags = flags;
	e->zero = 0;
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP); // the agent looks by itself
}

static __always_inline void report(const struct connection *c, const struct state *s, __u32 kind, __u32 flags, __u64 time)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		lose();
		return;
	}
	e->time = time;
	e->c = *c;
	e->s = *s;
	e->kind = kind;
	e->flags = flags;
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
}

// sampled reports whether the connection is one of those to report: the same at both ends.
static __always_inline int sampled(const struct connection *c)
{
	__u32 hash;

	if (sample <= 1)
		return 1;
	hash = (c->local[3] ^ c->remote[3] ^ (__u32)(c->local_port ^ c->remote_port)) * 2654435761U;
	return (hash >> 8) % sample == 0;
}

// service_of returns the service that the pod's socket asked for, or 0.
static __always_inline const struct endpoint *service_of(struct __sk_buff *skb, const struct connection *c)
{
	struct flow from_backend = {};
	const struct peer *connected;

	if (!translated)
		return 0;
	from_backend.socket = bpf_get_socket_cookie(skb);
	if (!from_backend.socket)
		return 0;
	__builtin_memcpy(from_backend.remote.addr, c->remote, sizeof(c->remote));
	from_backend.remote.port = c->remote_port;
	connected = bpf_map_lookup_elem(&peers, &from_backend.socket);
	if (connected)
		return same(&connected->backend, &from_backend.remote) ? &connected->service : 0;
	if (c->protocol != UDP)
		return 0;
	return bpf_map_lookup_elem(&replies, &from_backend);
}

// open adds a connection. One from the pod is reported at once, because its packet has
// passed all packet filters. One to the pod has not.
static __always_inline int open(struct __sk_buff *skb, const struct connection *c, struct state *s, int at_once, __u32 flags)
{
	const struct endpoint *service = s->opener == OUT ? service_of(skb, c) : 0;

	if (service)
		s->service = *service;
	s->first = s->last = bpf_ktime_get_ns();
	s->reported = at_once;
	// Of two first packets on two processors, one opens.
	if (bpf_map_update_elem(&connections, c, s, BPF_NOEXIST))
		return 0;
	if (at_once)
		report_opening(c, s, flags);
	return 1;
}

// answer notes the first packet of the other end.
static __always_inline void answer(const struct connection *c, struct state *s, __u32 flags)
{
	s->answered = bpf_ktime_get_ns();
	if (s->reported)
		return;
	s->reported = 1;
	report_opening(c, s, flags);
}

static __always_inline void close(const struct connection *c, struct state *s, __u32 kind, __u32 flags)
{
	report(c, s, kind, flags, s->last);
	bpf_map_delete_elem(&connections, c);
}

// read_socket takes the counters of the pod's socket.
static __always_inline void read_socket(struct __sk_buff *skb, struct state *s)
{
	struct bpf_sock *sk = skb->sk;
	struct bpf_tcp_sock *tp;

	if (!sk)
		return;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return;
	// The kernel answers strays from a raw socket.
	if (sk->type != SOCK_STREAM)
		return;
	tp = bpf_tcp_sock(sk);
	if (!tp)
		return;
	s->count[OUT].packets = tp->segs_out;
	s->count[IN].packets = tp->segs_in;
	s->count[OUT].bytes = tp->bytes_acked;
	s->count[IN].bytes = tp->bytes_received;
	s->retransmits = tp->total_retrans;
	s->rtt = tp->srtt_us >> 3;
}

// correct returns the bytes between SYN and end. The socket counts 64 bits, but with SYN
// or FIN and without what is still on its way. A sequence number has 32 bits.
static __always_inline __u64 correct(__u64 counted, __u32 start, __u32 end)
{
	if (!counted)
		return (__u32)(end - start - 1);
	return counted + (__s32)(end - start - 1 - (__u32)counted);
}

static __always_inline void correct_both(struct state *s)
{
	s->count[OUT].bytes = correct(s->count[OUT].bytes, s->start[OUT], s->end[OUT]);
	s->count[IN].bytes = correct(s->count[IN].bytes, s->start[IN], s->end[IN]);
}

// opens_out notes the first packet of a connection from the pod.
static __always_inline void opens_out(struct __sk_buff *skb, const struct connection *c, __u32 seq)
{
	struct state next = { .opener = OUT, .start[OUT] = seq };
	struct state *s;

	if (open(skb, c, &next, 1, SYN)) // before any look: most connections are new
		return;
	s = bpf_map_lookup_elem(&connections, c);
	if (!s || !s->answered)
		return; // a retransmission
	close(c, s, CLOSED, 0); // its end was not seen
	open(skb, c, &next, 1, SYN);
}

// opens_in notes the pod's answer to the first packet of a connection. That packet itself costs nothing: the filters of
// the pod may drop it, and a flood of such packets fills no map.
static __always_inline void opens_in(struct __sk_buff *skb, const struct connection *c, __u32 seq, __u32 ack)
{
	struct state next = { .opener = IN, .start[OUT] = seq, .start[IN] = ack - 1, .answered = bpf_ktime_get_ns() };
	struct state *s;

	if (open(skb, c, &next, 1, SYN))
		return;
	s = bpf_map_lookup_elem(&connections, c);
	if (!s || s->start[OUT] == seq || !s->answered)
		return; // a retransmission, or both ends have sent a SYN
	close(c, s, CLOSED, 0);
	open(skb, c, &next, 1, SYN);
}

// refuses notes that the pod's kernel resets a connection without a listener: such a packet has the sequence number 0 (RFC
// 9293, section 3.5.2).
static __always_inline void refuses(const struct connection *c, __u32 flags)
{
	struct state next = { .opener = IN }, *s;

	s = bpf_map_lookup_elem(&connections, c);
	if (s)
		close(c, s, CLOSED, 0); // its end was not seen
	next.first = next.last = bpf_ktime_get_ns();
	report(c, &next, REFUSED, flags, next.last);
}

static __always_inline void of_tcp(struct __sk_buff *skb, struct connection *c, const struct head *h, int way, const struct tcp *t)
{
	__u32 flags = t->flags, seq = bpf_ntohl(t->seq);
	struct state *s;
	__u32 ended;

	if (!sampled(c))
		return;
	if (way == OUT && flags & SYN) {
		if (flags & ACK)
			opens_in(skb, c, seq, bpf_ntohl(t->ack));
		else
			opens_out(skb, c, seq);
		return;
	}
	if (way == OUT && (flags & (RST | ACK)) == (RST | ACK) && !seq) {
		refuses(c, flags);
		return;
	}
	if ((flags & (SYN | ACK)) == SYN)
		return; // the pod has not answered yet
	s = bpf_map_lookup_elem(&connections, c);
	if (!s)
		return;
	s->last = bpf_ktime_get_ns();
	if (flags & SYN) {
		if (s->answered)
			return;
		s->start[IN] = seq;
		s->answered = s->last;
		return;
	}
	if (!s->answered) {
		close(c, s, flags & RST ? REFUSED : CLOSED, flags);
		return;
	}
	if (way == OUT)
		read_socket(skb, s);
	if (flags & RST) {
		if (!(s->ended & 1 << (way & 1)))
			s->end[way & 1] = seq;
		if (!(s->ended & 1 << !way))
			s->end[!way] = flags & ACK ? bpf_ntohl(t->ack) : s->start[!way] + 1;
		correct_both(s);
		close(c, s, CLOSED, flags);
		return;
	}
	s->end[way & 1] = seq + h->length - h->at - (t->offset >> 4) * 4;
	ended = __sync_fetch_and_or(&s->ended, 1 << (way & 1));
	if (ended == BOTH || (ended | 1 << (way & 1)) != BOTH)
		return;
	correct_both(s);
	close(c, s, CLOSED, flags);
}

// What a packet of another protocol than TCP does to its connection.
enum step { PLAIN, OPENS, ANSWERS, ENDS, ABORTS };

static __always_inline void of_others(struct __sk_buff *skb, struct connection *c, const struct head *h, int way, enum step step, __u8 type, __u8 code)
{
	__u32 packets = skb->gso_segs ? skb->gso_segs : 1;
	struct state *s = bpf_map_lookup_elem(&connections, c);
	const struct endpoint *service;
	struct state next = {};

	if (s && way == OUT && s->opener == OUT && c->protocol == UDP) {
		// Several services may have the backend. The socket may ask each of them.
		service = service_of(skb, c);
		if (service && !same(service, &s->service)) {
			close(c, s, CLOSED, 0);
			s = 0;
		}
	}
	if (!s) {
		if (step >= ANSWERS || !sampled(c))
			return;
		next.opener = way;
		next.type = type;
		next.code = code;
		next.count[way & 1].packets = packets;
		next.count[way & 1].bytes = h->length;
		open(skb, c, &next, way == OUT || step == PLAIN, 0);
		return;
	}
	s->last = bpf_ktime_get_coarse_ns();
	__sync_fetch_and_add(&s->count[way & 1].packets, packets);
	__sync_fetch_and_add(&s->count[way & 1].bytes, h->length);
	if (step == ABORTS && !s->answered) {
		close(c, s, REFUSED, 0);
		return;
	}
	if (s->opener != way && !s->answered)
		answer(c, s, 0);
	if (step >= ENDS)
		close(c, s, CLOSED, 0);
}

static __always_inline void of_icmp(struct __sk_buff *skb, struct connection *c, const struct head *h, int way)
{
	struct {
		__u8 type, code;
		__be16 checksum;
		__be16 id;
		__be16 sequence;
	} m;
	__u8 request = c->protocol == ICMP ? 8 : 128, reply = c->protocol == ICMP ? 0 : 129;
	enum step step = PLAIN;

	if (bpf_skb_load_bytes_relative(skb, h->at, &m, sizeof(m), BPF_HDR_START_NET))
		return;
	if (c->protocol == ICMPV6 && ((m.type >= 130 && m.type <= 137) || m.type == 143))
		return; // multicast listener and neighbor discovery
	if (m.type == request || m.type == reply) {
		step = m.type == request ? OPENS : ANSWERS;
		c->local_port = c->remote_port = m.id;
	} else {
		c->local_port = c->remote_port = bpf_htons(m.type << 8 | m.code);
	}
	of_others(skb, c, h, way, step, m.type, m.code);
}

static __always_inline void of_ports(struct __sk_buff *skb, struct connection *c, const struct head *h, int way)
{
	struct tcp t = {};
	enum step step = PLAIN;
	__u8 chunk;

	// SCTP has its ports in the same place, and its first chunk at byte 12.
	if (c->protocol == TCP) {
		if (read(skb, h->at, &t, sizeof(t)))
			return;
		if (!(t.flags & (SYN | FIN | RST)))
			return;
	} else if (bpf_skb_load_bytes_relative(skb, h->at, &t, 8, BPF_HDR_START_NET)) {
		return;
	}
	c->local_port = way == OUT ? t.source : t.destination;
	c->remote_port = way == OUT ? t.destination : t.source;
	if (c->protocol == TCP) {
		of_tcp(skb, c, h, way, &t);
		return;
	}
	if (c->protocol == SCTP) {
		if (bpf_skb_load_bytes_relative(skb, h->at + 12, &chunk, 1, BPF_HDR_START_NET))
			return;
		step = ANSWERS; // data of an association that was not seen opens none
		if (chunk == 1) // INIT
			step = OPENS;
		if (chunk == 6) // ABORT
			step = ABORTS;
		if (chunk == 14) // SHUTDOWN COMPLETE
			step = ENDS;
	}
	of_others(skb, c, h, way, step, 0, 0);
}

static __always_inline int look(struct __sk_buff *skb, int way)
{
	struct connection c = { .nic = nic };
	struct head h = {};
	int known = 0;

	if (is_plain(skb))
		return NEXT;
	// A shaped packet comes again from the ifb of its interface.
	if (way == OUT && skb->ingress_ifindex == skb->ifindex)
		return NEXT;
	if (way == IN && skb->pkt_type == PACKET_OTHERHOST)
		return NEXT;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		known = parse_ipv4(skb, &c, &h, way);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		known = parse_ipv6(skb, &c, &h, way);
	if (!known)
		return NEXT;
	if (c.protocol == TCP || c.protocol == UDP || c.protocol == SCTP)
		of_ports(skb, &c, &h, way);
	else if (c.protocol == ICMP || c.protocol == ICMPV6)
		of_icmp(skb, &c, &h, way);
	return NEXT;
}

SEC("tcx/egress") int spider_out(struct __sk_buff *skb) { return look(skb, OUT); }
SEC("tcx/ingress") int spider_in(struct __sk_buff *skb) { return look(skb, IN); }

char _license[] SEC("license") = "Dual MIT/GPL";
