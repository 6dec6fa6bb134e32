package ipam_test

import (
	"fmt"
	"testing"

	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
)

// A pool that has one address left is exhausted for a pod that wants two. Nodes
// begin their search in different regions, so there are several.
func TestSearchGoesOnWhereAPoolHasSomeButTooFewAddresses(t *testing.T) {
	for n := range 8 {
		store := &ipamtest.Store{}
		p := rangePool(t, "p", "10.0.0.0/16", "10.0.0.16", "10.0.16.0-10.0.16.1", "10.0.32.0")
		other, node := newAllocator(t, "other", store, p), fmt.Sprintf("node-%d", n)
		t.Cleanup(other.Close)
		for i := range 4 {
			if _, err := other.Allocate(t.Context(), request("other", fmt.Sprint(i), want("eth0", 4, "p"))); err != nil {
				t.Fatal(err)
			}
		}
		a := newAllocator(t, node, store, p)
		t.Cleanup(a.Close)
		two := request(node, "two", want("eth0", 4, "p"), want("net1", 4, "p"))
		if _, err := a.Allocate(t.Context(), two); err == nil {
			t.Fatal("got addresses of a pool without any")
		}
		// The node knows all blocks now, and not what happens to them.
		free := func(addr string) {
			for container := range 4 {
				at := lease.Attachment{ContainerID: fmt.Sprint(container), Interface: "eth0"}
				if held := other.Attached(at); len(held) == 1 && held[0].Addr.String() == addr {
					if err := other.Release(t.Context(), at); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		free("10.0.0.16")
		if _, err := a.Allocate(t.Context(), request(node, "one", want("eth0", 4, "p"))); err != nil {
			t.Fatal(err)
		}
		if err := a.Release(t.Context(), lease.Attachment{ContainerID: "one", Interface: "eth0"}); err != nil {
			t.Fatal(err)
		}
		free("10.0.32.0")
		if _, err := a.Allocate(t.Context(), two); err != nil {
			t.Errorf("%s: %v", node, err)
		}
	}
}
