package lease

import (
	"fmt"
	"net/netip"
	"testing"

	"spiderpool.dev/spiderpool/internal/inet"
)

// BenchmarkAddDelete allocates, commits and releases one address, in pools of
// different size and occupancy. The leases of a full pool belong to 100 nodes.
func BenchmarkAddDelete(b *testing.B) {
	for _, bc := range []struct {
		name, addresses string
		leases          int
	}{
		{"empty", "10.0.0.0-10.0.255.255", 0},
		{"60000 leases", "10.0.0.0-10.0.255.255", 60000},
		{"full but one", "10.0.0.0-10.0.234.96", 60000},
		{"empty slash 8", "11.0.0.0-11.255.255.255", 0},
		{"empty 2^64", "fd00::-fd00::ffff:ffff:ffff:ffff", 0},
	} {
		b.Run(bc.name, func(b *testing.B) {
			usable := set(b, bc.addresses)
			x := NewIndex(Options{Node: "node-0", ReuseAfter: -1})
			x.SetPool("a", usable)
			fill(x, usable, bc.leases)
			first, _ := usable.First()
			r := request("p", "a")
			r.Wants[0].Family = inet.FamilyOf(first)
			b.ReportAllocs()
			for b.Loop() {
				plan := x.Choose(start, r)
				if plan.Results[0].Err != nil {
					b.Fatal(plan.Results[0].Err)
				}
				for _, w := range plan.Writes {
					x.Put(w, start)
				}
				for _, w := range x.Release(start, eth0("p")) {
					x.Put(w, start)
				}
			}
		})
	}
}

// BenchmarkBatch decides 16 dual-stack pods with two interfaces together.
func BenchmarkBatch(b *testing.B) {
	x := newIndex(b, "10.0.0.0-10.0.255.255", "fd00::-fd00::ffff:ffff:ffff:ffff")
	var requests []Request
	for i := range 16 {
		r := request(fmt.Sprint(i), "a")
		r.Wants = []Want{{"eth0", 4, []string{"a"}}, {"eth0", 6, []string{"b"}}, {"net1", 4, []string{"a"}}, {"net1", 6, []string{"b"}}}
		requests = append(requests, r)
	}
	b.ReportAllocs()
	for b.Loop() {
		x.Choose(start, requests...)
	}
}

// BenchmarkPools adds 20,000 pools and a block in each.
func BenchmarkPools(b *testing.B) {
	for b.Loop() {
		x := NewIndex(Options{Node: "node"})
		first := addr("10.0.0.0")
		for i := range 20000 {
			base := plusBlocks(first, i)
			x.SetPool(fmt.Sprint(i), inet.OfPrefix(inet.BlockPrefix(base)))
		}
		for i := range 20000 {
			x.Put(Block{Base: plusBlocks(first, i), Node: "node"}, start)
		}
	}
}

func fill(x *Index, usable inet.Set, leases int) {
	n := 0
	for base, mask := range usable.Blocks() {
		b := Block{Base: base, Node: fmt.Sprintf("node-%d", n/16%100), Version: "1"}
		for i := range inet.BlockSize {
			if mask&(1<<i) == 0 || n == leases {
				continue
			}
			n++
			b.Leases = append(b.Leases, Lease{Addr: inet.BlockAddr(base, i), State: InUse, Pool: "a", Since: start, Holder: Holder{
				Attachment: Attachment{fmt.Sprintf("container-%d", n), "eth0"}, Pod: PodKey{"ns", fmt.Sprint(n)}, PodUID: fmt.Sprint("uid-", n), Node: b.Node,
			}})
		}
		if len(b.Leases) == 0 {
			return
		}
		x.Put(b, start)
	}
}

func plusBlocks(a netip.Addr, n int) netip.Addr {
	base, _ := inet.OfPrefix(netip.PrefixFrom(a, 8)).NthBlock(uint64(n))
	return base
}

// BenchmarkPodOfManyPools refuses a pod with 64 interfaces, each with 10,000 pools, that
// have 63 free addresses in all. The allocator's lock is held meanwhile.
func BenchmarkPodOfManyPools(b *testing.B) {
	x := NewIndex(Options{Node: "node-0"})
	var pools []string
	for i := range 10000 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 12), byte(i >> 4), byte(i << 4)})
		name := fmt.Sprintf("pool-%05d", i)
		pools = append(pools, name)
		x.SetPool(name, inet.OfAddrs(a))
		if i < 10000-63 {
			x.Put(Block{Base: a, Leases: []Lease{{Addr: a, State: InUse, Pool: name, Holder: Holder{Attachment: Attachment{"c", "eth0"}}}}}, start)
		}
	}
	r := Request{PodUID: "u", ContainerID: "c0", Node: "node-0"}
	for i := range 64 {
		r.Wants = append(r.Wants, Want{Interface: fmt.Sprint("net", i), Family: 4, Pools: pools})
	}
	for b.Loop() {
		if x.Choose(start, r).Results[0].Err == nil {
			b.Fatal("64 of 63 addresses were granted")
		}
	}
}
