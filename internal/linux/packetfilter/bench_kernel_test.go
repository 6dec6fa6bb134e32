//go:build kernel

package packetfilter

import (
	"fmt"
	"net/netip"
	"testing"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

// scattered returns n addresses that do not touch each other, and the peer of the benchmarks.
func scattered(n int, peer string) inet.Set {
	addrs := []netip.Addr{netip.MustParseAddr(peer)}
	for i := range n - 1 {
		addrs = append(addrs, netip.AddrFrom4([4]byte{10, byte(100 + i>>15), byte(i >> 7), byte(2 * i)}))
	}
	return inet.OfAddrs(addrs...)
}

func wantedPeers(n int) Wanted {
	segment := policy.Segment{PortRange: policy.PortRange{Protocol: service.UDP, From: 80, To: 80}, Peers: scattered(n, peerAddrs[0])}
	allowed := &policy.Allowed{Segments: []policy.Segment{segment}}
	return Wanted{Interfaces: []Interface{{Name: "eth0", Sets: policy.Sets{Ingress: allowed, Egress: allowed}}}}
}

// BenchmarkApply replaces everything, and adds and removes one peer.
func BenchmarkApply(b *testing.B) {
	for _, peers := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprintf("all/peers=%d", peers), func(b *testing.B) {
			f := newNetwork(b).open(b)
			wanted := wantedPeers(peers)
			for b.Loop() {
				f.stack.leave()
				f.device.leave()
				if err := f.Apply(wanted); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("one/peers=%d", peers), func(b *testing.B) {
			f := newNetwork(b).open(b)
			both := []Wanted{wantedPeers(peers), wantedPeers(peers + 1)}
			i := 0
			for b.Loop() {
				i++
				if err := f.Apply(both[i%2]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
