package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/reclaim"
	"spiderpool.dev/spiderpool/internal/wire"
)

// places implements ipam.Placements.
type places struct {
	mu      sync.Mutex
	placed  map[string]bool // "address UID"
	waiting chan struct{}   // if set, receives while a pod waits
}

var errMoving = errors.New("interface eni-1 has all addresses")

func (p *places) put(addr netip.Addr, uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.placed[addr.String()+" "+uid] = true
}

func (p *places) Await(ctx context.Context, _ string, addr netip.Addr, uid string) error {
	for {
		p.mu.Lock()
		placed := p.placed[addr.String()+" "+uid]
		p.mu.Unlock()
		if placed {
			return nil
		}
		select {
		case <-ctx.Done():
			return errMoving
		case p.waiting <- struct{}{}:
		case <-time.After(time.Millisecond):
		}
	}
}

// newZones has nodes n1 and n2 in zone a and n3 in zone b, each zone with a pool of fixed addresses, and the StatefulSet db.
func newZones(t *testing.T) *ipamtest.FakeCluster {
	cluster := newFakeCluster(t)
	cluster.DeletePool("p")
	cluster.Options.FixStatefulSet, cluster.Options.FixVirtualMachine = true, true
	cluster.SetStatefulSet("default", "db", ipam.StatefulSet{UID: "x", End: 3})
	for node, zone := range map[string]string{"n1": "a", "n2": "a", "n3": "b"} {
		cluster.SetNode(pool.NodeFacts{Name: node, Labels: map[string]string{"topology.kubernetes.io/zone": zone}})
	}
	for i, zone := range []string{"a", "b"} {
		p := rangePool(t, "fixed-"+zone, fmt.Sprintf("10.0.%d.0/24", i), fmt.Sprintf("10.0.%d.16-10.0.%d.31", i, i))
		p.Zone, p.Default = zone, false
		p.NodeAffinity = &pool.Selector{MatchLabels: map[string]string{"topology.kubernetes.io/zone": zone}}
		cluster.SetPool(p, true)
	}
	return cluster
}

// comes has pod db-0 with a UID come to a node, in a sandbox of its own. It names the pools of both zones.
func comes(cluster *ipamtest.FakeCluster, node, uid string, owner ipam.Controller) (*ipam.Service, wire.AddRequest) {
	cluster.SetPod(ipamtest.FakePod{
		Pod: ipam.Pod{
			PodKey: lease.PodKey{Namespace: "default", Name: "db-0"}, UID: uid, Owner: owner,
			Annotations: map[string]string{"ipam.spidernet.io/ippool": `{"ipv4":["fixed-*"]}`},
		},
		Node: node, State: reclaim.Pod{Phase: "Running", HasAddress: true},
	})
	at := attachment("db-0")
	at.PodUID, at.ContainerID = uid, "sandbox-"+uid
	return cluster.Service(node), wire.AddRequest{Attachment: at}
}

func addFor(t *testing.T, s *ipam.Service, req wire.AddRequest, limit time.Duration) (wire.AddReply, error) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return s.Add(ctx, req)
}

func TestAddWaitsForPlacement(t *testing.T) {
	cluster, at := newZones(t), &places{placed: map[string]bool{}}
	s, req := comes(cluster, "n1", "uid-1", statefulSet("db", "x"))
	s.Placements = at
	_, err := addFor(t, s, req, 20*time.Millisecond)
	var failure *ipam.Error
	if !errors.As(err, &failure) || failure.Kind != ipam.Unavailable || !strings.Contains(err.Error(), "fixed address 10.0.0.16 on node n1") || !strings.Contains(err.Error(), errMoving.Error()) {
		t.Fatalf("error %v", err)
	}
	first := s.Allocator.OfPod("uid-1")
	if len(first) != 1 || first[0].State != lease.InUse {
		t.Fatalf("leases %v", first)
	}
	if err := s.Delete(t.Context(), wire.DeleteRequest{Attachment: req.Attachment}); err != nil {
		t.Fatal(err)
	}
	req.ContainerID = "second"
	at.waiting = make(chan struct{})
	go func() {
		<-at.waiting
		at.put(first[0].Addr, "uid-1")
	}()
	reply, err := addFor(t, s, req, time.Minute)
	if err != nil || len(reply.Addresses) != 1 || reply.Addresses[0].Prefix.Addr() != first[0].Addr {
		t.Fatalf("%+v, %v, want the first address", reply, err)
	}
}

func TestPlacementOfPredecessorIsNotEnough(t *testing.T) {
	cluster, at := newZones(t), &places{placed: map[string]bool{}}
	s, req := comes(cluster, "n1", "uid-1", statefulSet("db", "x"))
	s.Placements = at
	at.put(netip.MustParseAddr("10.0.0.16"), "uid-1")
	if _, err := addFor(t, s, req, time.Minute); err != nil {
		t.Fatal(err)
	}
	s, req = comes(cluster, "n2", "uid-2", statefulSet("db", "x"))
	s.Placements = at
	if _, err := addFor(t, s, req, 20*time.Millisecond); err == nil || !strings.Contains(err.Error(), "10.0.0.16 on node n2") {
		t.Fatalf("error %v, want to wait for the address of the predecessor", err)
	}
}

// leavesZone has a pod with the fixed address 10.0.0.16 of zone a end, and its successor come to n3 in zone b.
func leavesZone(t *testing.T, cluster *ipamtest.FakeCluster, at *places) (*ipam.Service, wire.AddRequest) {
	t.Helper()
	at.put(netip.MustParseAddr("10.0.0.16"), "uid-1")
	s, req := comes(cluster, "n1", "uid-1", statefulSet("db", "x"))
	s.Placements = at
	if _, err := addFor(t, s, req, time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), wire.DeleteRequest{Attachment: req.Attachment}); err != nil {
		t.Fatal(err)
	}
	s, req = comes(cluster, "n3", "uid-2", statefulSet("db", "x"))
	s.Placements = at
	return s, req
}

func TestFixedAddressIsRefusedInOtherZone(t *testing.T) {
	for name, named := range map[string]string{"another pool there": `{"ipv4":["fixed-*"]}`, "no pool there": `{"ipv4":["fixed-a"]}`} {
		t.Run(name, func(t *testing.T) {
			cluster, at := newZones(t), &places{placed: map[string]bool{}}
			s, req := leavesZone(t, cluster, at)
			pod, _ := cluster.Pod(lease.PodKey{Namespace: "default", Name: "db-0"})
			pod.Annotations["ipam.spidernet.io/ippool"] = named
			_, err := addFor(t, s, req, 20*time.Millisecond)
			for _, part := range []string{"10.0.0.16", "zone a only", `the node is in zone "b"`, "run spiderpoolctl release 10.0.0.16 --force, and the kubelet tries again"} {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("error %v, want %q", err, part)
				}
			}
			if left := s.Allocator.FixedFor(lease.Owner{Kind: lease.KindPod, Namespace: "default", Name: "db-0"}); len(left) != 1 || left[0].State != lease.Retained {
				t.Errorf("leases %v, want the retained one", left)
			}
		})
	}
}

// The refusal names all fixed addresses of the pod: otherwise, the user would release them one after the other.
func TestRefusalNamesAllAddressesOfPod(t *testing.T) {
	cluster, at := newZones(t), &places{placed: map[string]bool{}}
	for i, zone := range []string{"a", "b"} {
		p := rangePool(t, "six-"+zone, fmt.Sprintf("fd00:%d::/64", i+1), fmt.Sprintf("fd00:%d::20-fd00:%d::2f", i+1, i+1))
		p.Zone, p.Default = zone, false
		p.NodeAffinity = &pool.Selector{MatchLabels: map[string]string{"topology.kubernetes.io/zone": zone}}
		cluster.SetPool(p, true)
	}
	const named = `{"ipv4":["fixed-*"],"ipv6":["six-*"]}`
	s, req := comes(cluster, "n1", "uid-1", statefulSet("db", "x"))
	s.Placements = at
	pod, _ := cluster.Pod(lease.PodKey{Namespace: "default", Name: "db-0"})
	pod.Annotations["ipam.spidernet.io/ippool"] = named
	_, err := addFor(t, s, req, 20*time.Millisecond)
	for _, part := range []string{"waits for its fixed addresses 10.0.0.16 and fd00:1::20 on node n1", "10.0.0.16: " + errMoving.Error(), "fd00:1::20: " + errMoving.Error()} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v, want %q", err, part)
		}
	}
	if err := s.Delete(t.Context(), wire.DeleteRequest{Attachment: req.Attachment}); err != nil {
		t.Fatal(err)
	}
	s, req = comes(cluster, "n3", "uid-2", statefulSet("db", "x"))
	s.Placements = at
	pod, _ = cluster.Pod(lease.PodKey{Namespace: "default", Name: "db-0"})
	pod.Annotations["ipam.spidernet.io/ippool"] = named
	_, err = addFor(t, s, req, 20*time.Millisecond)
	for _, part := range []string{
		`its fixed addresses 10.0.0.16 and fd00:1::20 work in zone a only, and the node is in zone "b"`,
		"run spiderpoolctl release 10.0.0.16 --force, the same for fd00:1::20, and the kubelet tries again",
	} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v, want %q", err, part)
		}
	}
}

// The block is of another node, so the agent does not watch it.
func TestReleasedAddressRefusesNoZone(t *testing.T) {
	cluster, at := newZones(t), &places{placed: map[string]bool{}}
	at.put(netip.MustParseAddr("10.0.1.16"), "uid-2")
	s, req := leavesZone(t, cluster, at)
	if _, err := addFor(t, s, req, time.Minute); err == nil {
		t.Fatal("the pod got an address in another zone than its own")
	}
	for _, b := range cluster.Store.All() {
		for _, l := range b.Leases {
			b, _ = b.Reclaim(l, cluster.Now())
		}
		if _, err := cluster.Store.Put(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	reply, err := addFor(t, s, req, time.Minute)
	if err != nil || len(reply.Addresses) != 1 || reply.Addresses[0].Prefix.Addr() != netip.MustParseAddr("10.0.1.16") {
		t.Errorf("%+v, %v, want the first address of the zone", reply, err)
	}
}

func TestMachineGetsNoPoolOfZone(t *testing.T) {
	cluster := newZones(t)
	cluster.SetInstance("default", "vm", "v", "uid-1")
	s, req := comes(cluster, "n1", "uid-1", instance("vm", "v"))
	_, err := addFor(t, s, req, time.Minute)
	var failure *ipam.Error
	if !errors.As(err, &failure) || failure.Kind != ipam.Invalid || !strings.Contains(err.Error(), "live migration") {
		t.Errorf("error %v", err)
	}
}

// In a cloud, each node has a pool of its own. A pod of a StatefulSet that comes to another node gets another address there.
func TestStatefulSetLeavesPoolOfFormerNode(t *testing.T) {
	for name, forced := range map[string]bool{"after its end": false, "by force": true} {
		t.Run(name, func(t *testing.T) {
			cluster := newFakeCluster(t)
			cluster.DeletePool("p")
			cluster.Options.FixStatefulSet = true
			cluster.SetStatefulSet("default", "db", ipam.StatefulSet{UID: "x", End: 1})
			for i, node := range []string{"n1", "n2"} {
				p := rangePool(t, "aws-"+node, fmt.Sprintf("10.0.%d.0/24", i), fmt.Sprintf("10.0.%d.16-10.0.%d.31", i, i))
				p.NodeNames = []string{node}
				cluster.SetPool(p, true)
			}
			s, req := comes(cluster, "n1", "uid-1", statefulSet("db", "x"))
			pod, _ := cluster.Pod(lease.PodKey{Namespace: "default", Name: "db-0"})
			delete(pod.Annotations, "ipam.spidernet.io/ippool")
			mustAdd(t, s, req)
			former := req
			if !forced {
				if err := s.Delete(t.Context(), wire.DeleteRequest{Attachment: former.Attachment}); err != nil {
					t.Fatal(err)
				}
			}
			s2, req := comes(cluster, "n2", "uid-2", statefulSet("db", "x"))
			pod, _ = cluster.Pod(lease.PodKey{Namespace: "default", Name: "db-0"})
			delete(pod.Annotations, "ipam.spidernet.io/ippool")
			cluster.TakeEvents()
			if reply := mustAdd(t, s2, req); reply.Addresses[0].Pool != "aws-n2" {
				t.Fatalf("the pod gets %+v", reply)
			}
			if forced {
				if err := s.Delete(t.Context(), wire.DeleteRequest{Attachment: former.Attachment}); err != nil {
					t.Fatal(err)
				}
			}
			left := s2.Allocator.FixedFor(lease.Owner{Kind: lease.KindPod, Namespace: "default", Name: "db-0"})
			if err := s2.Allocator.ReadFixed(t.Context(), lease.Owner{Kind: lease.KindPod, Namespace: "default", Name: "db-0"}); err != nil {
				t.Fatal(err)
			}
			t.Logf("leases %v, events %v", left, cluster.TakeEvents())
			for _, l := range left {
				if l.Pool == "aws-n1" && !forced {
					t.Errorf("the pod still has %v", l)
				}
			}
		})
	}
}
