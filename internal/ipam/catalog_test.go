package ipam_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/wire"
)

// countedPools counts the reads of pools, none of which ends before the gate is open.
type countedPools struct {
	ipam.Pools
	reads atomic.Int64
	gate  chan struct{}
}

func (p *countedPools) Get(ctx context.Context, name string) (*pool.Pool, error) {
	p.reads.Add(1)
	<-p.gate
	return p.Pools.Get(ctx, name)
}

// Pools of other nodes are named beside the node's own, so that one annotation serves
// pods wherever they run.
func TestWaitingPodsSharePoolReads(t *testing.T) {
	cluster := newFakeCluster(t)
	cluster.SetPool(rangePool(t, "full", "10.1.0.0/24", "10.1.0.5"), true)
	elsewhere := rangePool(t, "elsewhere", "10.2.0.0/24", "10.2.0.5")
	elsewhere.NodeNames = []string{"n2"}
	cluster.SetPool(elsewhere, true)
	s := cluster.Service("n1")
	pools := &countedPools{Pools: s.Catalog.Pools, gate: make(chan struct{})}
	s.Catalog.Pools = pools
	add := func(name string) error {
		_, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment(name)})
		return err
	}
	for i := range 22 {
		cluster.SetPod(ipamtest.FakePod{Node: "n1", Pod: ipam.Pod{
			PodKey: lease.PodKey{Namespace: "default", Name: fmt.Sprint("pod-", i)}, UID: fmt.Sprint("uid-pod-", i),
			Annotations: map[string]string{"ipam.spidernet.io/ippool": `{"ipv4":["full","elsewhere"]}`},
		}})
	}
	if err := add("pod-0"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := add(fmt.Sprint("pod-", i+1)); err == nil {
				t.Error("got an address of a full pool")
			}
		})
	}
	for pools.reads.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	close(pools.gate)
	wg.Wait()
	if reads := pools.reads.Load(); reads != 1 {
		t.Errorf("20 pods that waited: %d reads of the pool that they name besides", reads)
	}
	cluster.Advance(time.Second)
	elsewhere = rangePool(t, "elsewhere", "10.2.0.0/24", "10.2.0.5") // for every node now
	cluster.SetPool(elsewhere, false)
	if err := add("pod-21"); err != nil {
		t.Errorf("what was read is trusted for too long: %v", err)
	}
}

func TestNodeKeepsItsOwnAddress(t *testing.T) {
	cluster := newFakeCluster(t)
	cluster.SetPool(rangePool(t, "p", "10.1.0.0/24", "10.1.0.5-10.1.0.6"), true)
	s := cluster.Service("n1")
	own := netip.MustParseAddr("10.1.0.5")
	s.Catalog.SetNodeAddrs(inet.OfAddrs(own))
	cluster.SetReserved(inet.Set{}) // a later change of the reserved addresses
	for i, wanted := range []bool{true, false} {
		name := fmt.Sprint("pod-", i)
		cluster.SetPod(ipamtest.FakePod{Node: "n1", Pod: ipam.Pod{PodKey: lease.PodKey{Namespace: "default", Name: name}, UID: "uid-" + name}})
		reply, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment(name)})
		if (err == nil) != wanted {
			t.Fatalf("%s: got %v, %v", name, reply, err)
		}
		if wanted && reply.Addresses[0].Prefix.Addr() == own {
			t.Errorf("the pod got the node's address %s", own)
		}
	}
	s.Catalog.SetNodeAddrs(inet.Set{}) // the node lost the address
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("pod-1")}); err != nil {
		t.Errorf("the address is free again: %v", err)
	}
}
