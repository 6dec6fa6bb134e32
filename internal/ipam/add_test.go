package ipam_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/wire"
)

func TestFailedAddReleasesItsAddresses(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	s := cluster.Service("n1")
	cluster.Store.After = func(netip.Addr) error {
		cluster.Store.After = nil
		cluster.DeletePool("p")
		return nil
	}
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err == nil {
		t.Fatal("an address of a pool that is gone was given")
	}
	if leases := held(t, cluster.Store); len(leases) != 0 {
		t.Errorf("the failed ADD kept %v", leases)
	}
}

func TestFailedAddKeepsEarlierAddresses(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	s := cluster.Service("n1")
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err != nil {
		t.Fatal(err)
	}
	cluster.DeletePool("p")
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err == nil {
		t.Fatal("an address of a pool that is gone was given")
	}
	if leases := held(t, cluster.Store); len(leases) != 1 {
		t.Errorf("after the repeated ADD: %v, want what the sandbox has", leases)
	}
}

// The write of one IP version succeeds, and of the other the last address goes to
// another node in that moment.
func TestPartlyCommittedAddIsRolledBack(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	cluster.SetPool(rangePool(t, "v6", "fd00::/64", "fd00::10"), true)
	cluster.SetPod(ipamtest.FakePod{Pod: ipam.Pod{PodKey: lease.PodKey{Namespace: "default", Name: "b"}, UID: "uid-b"}, Node: "n2"})
	first, other := cluster.Service("n1"), cluster.Service("n2")
	lost := false
	cluster.Store.Before = func(operation string, base netip.Addr) error {
		if operation == "put" && base.Is6() && !lost {
			lost = true
			if _, err := other.Add(t.Context(), wire.AddRequest{Attachment: attachment("b")}); err != nil {
				t.Errorf("the other node: %v", err)
			}
		}
		return nil
	}
	if _, err := first.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err == nil {
		t.Fatal("the last address was given twice")
	}
	for _, l := range held(t, cluster.Store) {
		if l.ContainerID == attachment("a").ContainerID {
			t.Errorf("the failed ADD kept %s", l.Addr)
		}
	}
}

func TestRetainedAddressSurvivesFailedAdd(t *testing.T) {
	cluster := newFakeCluster(t)
	cluster.Options.FixStatefulSet = true
	p := ipam.Pod{PodKey: lease.PodKey{Namespace: "default", Name: "web-0"}, UID: "uid-web-0", Owner: ipam.Controller{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "web", UID: "x"}}
	cluster.SetStatefulSet("default", "web", ipam.StatefulSet{UID: "x", End: 1})
	cluster.SetPod(ipamtest.FakePod{Pod: p, Node: "n1"})
	s := cluster.Service("n1")
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("web-0")}); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), wire.DeleteRequest{Attachment: attachment("web-0")}); err != nil {
		t.Fatal(err)
	}
	cluster.Store.After = func(netip.Addr) error {
		cluster.Store.After = nil
		cluster.DeletePool("p")
		return nil
	}
	next := attachment("web-0")
	next.ContainerID = "next"
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: next}); err == nil {
		t.Fatal("an address of a pool that is gone was given")
	}
	if leases := s.Allocator.OfPod("uid-web-0"); len(leases) != 1 || leases[0].State != lease.InUse {
		t.Errorf("leases %v, want the address that was kept for the pod", leases)
	}
}

// slowPod lets something happen during the first read of a pod.
type slowPod struct {
	ipam.Cluster
	before func()
}

func (s *slowPod) Pod(ctx context.Context, key lease.PodKey, uid string) (ipam.Pod, error) {
	if before := s.before; before != nil {
		s.before = nil
		before()
	}
	return s.Cluster.Pod(ctx, key, uid)
}

// The ADD of a sandbox that the runtime has given up is slow. The clock stands still, so
// only the order of arrival tells the sandboxes apart.
func TestLateAddOfOldSandboxFails(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	s := cluster.Service("n1")
	newer := attachment("a")
	newer.ContainerID = "newer"
	s.Cluster = &slowPod{Cluster: s.Cluster, before: func() {
		if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: newer}); err != nil {
			t.Error(err)
		}
	}}
	_, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")})
	var failure *ipam.Error
	if !errors.As(err, &failure) || failure.Kind != ipam.Unavailable || !strings.Contains(failure.Details, "sandbox newer of pod default/a is newer") {
		t.Errorf("the old sandbox got %v", err)
	}
	if leases := s.Allocator.OfPod("uid-a"); len(leases) != 1 || leases[0].ContainerID != "newer" {
		t.Errorf("leases %v", leases)
	}
}

// An interface is taken away, which cannot be committed, and wanted again, which
// fails: it is still to be taken away.
func TestFailedAddKeepsJournaledRelease(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	s := cluster.Service("n1")
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err != nil {
		t.Fatal(err)
	}
	cluster.SetAway(true)
	if err := s.Delete(t.Context(), wire.DeleteRequest{Attachment: attachment("a")}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err == nil {
		t.Fatal("an ADD without an API server succeeded")
	}
	cluster.SetAway(false)
	if left, err := s.Replay(t.Context()); err != nil || left != 0 {
		t.Fatal(left, err)
	}
	if leases := held(t, cluster.Store); len(leases) != 0 {
		t.Errorf("the release was forgotten: %v", leases)
	}
}

// Reclaim may end the lease of a sandbox that its node still has, when an operator
// declares the node out of service; and the node may not hear of it.
func TestRepeatedAddConfirmsOldLease(t *testing.T) {
	for name, tc := range map[string]struct {
		other  bool // a pod of another node gets the address
		want   string
		holder string
	}{
		"the address is free": {false, "10.1.0.5", "default/a"},
		"another pod has it":  {true, "", "default/b"},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := newFakeCluster(t, "a")
			cluster.SetPool(rangePool(t, "p", "10.1.0.0/24", "10.1.0.5"), true)
			cluster.SetPod(ipamtest.FakePod{Pod: ipam.Pod{PodKey: lease.PodKey{Namespace: "default", Name: "b"}, UID: "uid-b"}, Node: "n2"})
			s := cluster.Service("n1")
			if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err != nil {
				t.Fatal(err)
			}
			cluster.Advance(10 * time.Minute)
			b, err := cluster.Store.Get(t.Context(), netip.MustParseAddr("10.1.0.0"))
			if err != nil {
				t.Fatal(err)
			}
			b, _ = b.Reclaim(b.Leases[0], cluster.Now())
			if _, err := cluster.Store.Put(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			if tc.other {
				if _, err := cluster.Service("n2").Add(t.Context(), wire.AddRequest{Attachment: attachment("b")}); err != nil {
					t.Fatal(err)
				}
			}
			reply, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")})
			got := ""
			if err == nil {
				got = reply.Addresses[0].Prefix.Addr().String()
			}
			if got != tc.want {
				t.Fatalf("the repeated ADD got %q, %v; want %q", got, err, tc.want)
			}
			if l := held(t, cluster.Store)[netip.MustParseAddr("10.1.0.5")]; l.Pod.String() != tc.holder {
				t.Errorf("the store has %+v", l)
			}
		})
	}
}

// The interfaces of a pod are added one after the other within a minute; only the first
// writes. Later, the lease may have ended.
func TestAddOfSecondInterfaceReadsNoBlock(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	s := cluster.Service("n1")
	at := attachment("a")
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: at}); err != nil {
		t.Fatal(err)
	}
	reads := cluster.Store.Count("get") + cluster.Store.Count("list")
	for _, wanted := range []int{0, 1} {
		cluster.Advance(30 * time.Second)
		if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: at}); err != nil {
			t.Fatal(err)
		}
		if more := cluster.Store.Count("get") + cluster.Store.Count("list") - reads; more != wanted {
			t.Errorf("%d reads of blocks, want %d", more, wanted)
		}
	}
}

// The gateway of a route may be in the subnet of an interface with another IPAM plugin,
// or of one that no annotation names.
func TestRouteMayUseInterfaceOfOtherPlugin(t *testing.T) {
	n := pool.NetworkAttachment{Namespace: "default", Name: "n"}
	for name, tc := range map[string]struct {
		network ipam.Network
		ifname  string
		ok      bool
	}{
		"our IPAM on all interfaces": {ipam.Network{IPAM: true, Name: "n"}, "eth0", false},
		"another IPAM plugin":        {ipam.Network{Name: "n"}, "eth0", true},
		"attached by hand":           {ipam.Network{IPAM: true, Name: "n"}, "extra", true},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := newFakeCluster(t)
			cluster.SetNetwork(n, tc.network)
			cluster.SetPod(ipamtest.FakePod{Node: "n1", Pod: ipam.Pod{
				PodKey: lease.PodKey{Namespace: "default", Name: "a"}, UID: "uid-a", Annotations: map[string]string{
					"k8s.v1.cni.cncf.io/networks": "n", "ipam.spidernet.io/routes": `[{"dst":"192.0.2.0/24","gw":"10.9.0.1"}]`,
				},
			}})
			at := attachment("a")
			at.Interface = tc.ifname
			reply, err := cluster.Service("n1").Add(t.Context(), wire.AddRequest{Attachment: at, DefaultIPv4Pools: []string{"p"}})
			if (err == nil) != tc.ok || len(reply.Routes) != 0 {
				t.Errorf("got %+v, %v, want success: %t", reply, err, tc.ok)
			}
		})
	}
}

// A sandbox keeps its address when its pools change, but gets no answer that lacks a
// family that the pod asks for.
func TestRepeatedAddNeedsBothFamilies(t *testing.T) {
	for name, tc := range map[string]struct {
		pools string
		ok    bool
	}{
		"pool deleted":       {`{"ipv4":["gone"]}`, true},
		"IPv6 asked besides": {`{"ipv4":["gone"],"ipv6":["gone-too"]}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := newFakeCluster(t, "a")
			s := cluster.Service("n1")
			first := mustAdd(t, s, wire.AddRequest{Attachment: attachment("a")})
			cluster.SetPod(ipamtest.FakePod{Node: "n1", Pod: ipam.Pod{
				PodKey: lease.PodKey{Namespace: "default", Name: "a"}, UID: "uid-a", Annotations: map[string]string{"ipam.spidernet.io/ippool": tc.pools},
			}})
			reply, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")})
			if (err == nil) != tc.ok || tc.ok && (len(reply.Addresses) != 1 || reply.Addresses[0] != first.Addresses[0]) {
				t.Errorf("got %+v, %v, want success: %t", reply, err, tc.ok)
			}
		})
	}
}
