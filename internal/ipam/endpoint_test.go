package ipam_test

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/wire"
)

func mustAdd(t *testing.T, s *ipam.Service, req wire.AddRequest) wire.AddReply {
	t.Helper()
	reply, err := s.Add(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

func TestRepairRestoresEndpointOfAdd(t *testing.T) {
	cluster := newFakeCluster(t)
	cluster.SetPod(ipamtest.FakePod{Node: "n1", Pod: ipam.Pod{PodKey: lease.PodKey{Namespace: "default", Name: "a"}, UID: "uid-a", Annotations: map[string]string{
		"ipam.spidernet.io/ippools": `[{"interface":"eth0","ipv4":["p"],"cleangateway":true}]`,
		"ipam.spidernet.io/routes":  `[{"dst":"192.0.2.0/24","gw":"10.0.0.9"}]`,
	}}})
	mustAdd(t, cluster.Service("n1"), wire.AddRequest{Attachment: attachment("a")})
	want := cluster.Endpoints()["default/a"]
	cluster.DeleteEndpoint("default/a")
	cluster.Restart("n1").Repair()
	got := cluster.Endpoints()["default/a"]
	if !reflect.DeepEqual(got, want) || !got.Interfaces[0].CleanGateway || len(got.Interfaces[0].Routes) != 1 {
		t.Errorf("repaired:\n%#v\nwritten by ADD:\n%#v", got, want)
	}
}

// The CNI configuration says clean_gateway, and later the pool gets another gateway.
// Neither is in the leases.
func TestRepairKeepsFactsOfAdd(t *testing.T) {
	for name, repair := range map[string]func(*ipamtest.FakeCluster){
		"restarted agent":  func(c *ipamtest.FakeCluster) { c.Restart("n1").Repair() },
		"running agent":    func(c *ipamtest.FakeCluster) { c.Service("n1").Repair() },
		"deleted endpoint": func(c *ipamtest.FakeCluster) { c.DeleteEndpoint("default/a"); c.Service("n1").Repair() },
	} {
		t.Run(name, func(t *testing.T) {
			cluster := newFakeCluster(t, "a")
			mustAdd(t, cluster.Service("n1"), wire.AddRequest{Attachment: attachment("a"), CleanGateway: true})
			want := cluster.Endpoints()["default/a"]
			changed := rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31")
			changed.Gateway = netip.MustParseAddr("10.0.0.1")
			cluster.SetPool(changed, true)
			repair(cluster)
			if got := cluster.Endpoints()["default/a"]; !reflect.DeepEqual(got, want) || !got.Interfaces[0].CleanGateway {
				t.Errorf("repaired:\n%#v\nwritten by ADD:\n%#v", got, want)
			}
		})
	}
}

// text returns an endpoint such as "uid-a on n1: eth0 10.0.0.16", or "none".
func text(e *ipam.Endpoint) string {
	if e == nil {
		return "none"
	}
	out := e.PodUID + " on " + e.Node + ":"
	for _, i := range e.Interfaces {
		out += " " + i.Interface
		for _, a := range i.Addresses {
			out += " " + a.Prefix.Addr().String()
		}
	}
	return out
}

// showing returns a stored endpoint with one address per interface.
func showing(uid, node string, interfaces ...string) *ipam.Endpoint {
	e := &ipam.Endpoint{Node: node, Owner: ipam.Controller{Kind: "Pod", Name: "a"}}
	e.PodUID = uid
	for _, i := range interfaces {
		name, addr, _ := strings.Cut(i, "=")
		e.Interfaces = append(e.Interfaces, ipam.EndpointInterface{Interface: name, Addresses: []ipam.EndpointAddress{{Prefix: netip.PrefixFrom(netip.MustParseAddr(addr), 24), Pool: "p"}}})
	}
	return e
}

func TestEndpointFollowsLeases(t *testing.T) {
	const held = "eth0=10.0.0.16"
	kept := func(c *ipamtest.FakeCluster) {}
	for name, tc := range map[string]struct {
		change func(*ipamtest.FakeCluster) // after ADD of eth0
		stored *ipam.Endpoint
		want   string
	}{
		"missing":               {kept, nil, "uid-a on n1: eth0 10.0.0.16"},
		"equal":                 {kept, showing("uid-a", "n1", held), "uid-a on n1: eth0 10.0.0.16"},
		"interface released":    {kept, showing("uid-a", "n1", held, "net1=10.0.0.17"), "uid-a on n1: eth0 10.0.0.16"},
		"another address":       {kept, showing("uid-a", "n1", "eth0=10.0.0.30"), "uid-a on n1: eth0 10.0.0.16"},
		"former pod":            {kept, showing("uid-0", "n1", "eth0=10.0.0.30"), "uid-a on n1: eth0 10.0.0.16"},
		"former node":           {kept, showing("uid-a", "n0", "eth0=10.0.0.30"), "uid-a on n1: eth0 10.0.0.16"},
		"next pod":              {replaced, showing("uid-next", "n2", "eth0=10.0.0.30"), "uid-next on n2: eth0 10.0.0.30"},
		"next pod's is missing": {replaced, nil, "none"},
		"pod gone":              {gone, showing("uid-0", "n1", "eth0=10.0.0.30"), "uid-0 on n1: eth0 10.0.0.30"},
		"released":              {released, showing("uid-a", "n1", held), "none"},
		"released and deleted":  {released, nil, "none"},
		"released, next pod":    {released, showing("uid-next", "n1", held), "uid-next on n1: eth0 10.0.0.16"},
		"released, other node":  {released, showing("uid-a", "n0", held), "uid-a on n0: eth0 10.0.0.16"},
	} {
		for _, restarted := range []bool{false, true} {
			t.Run(name+map[bool]string{true: " after restart"}[restarted], func(t *testing.T) {
				cluster := newFakeCluster(t, "a")
				mustAdd(t, cluster.Service("n1"), wire.AddRequest{Attachment: attachment("a")})
				tc.change(cluster)
				if restarted {
					cluster.Restart("n1")
				}
				pod := lease.PodKey{Namespace: "default", Name: "a"}
				got, err := cluster.Service("n1").Endpoint(t.Context(), ipam.EndpointKey{PodKey: pod, Pod: pod, PodUID: "uid-a"}, tc.stored)
				if err != nil || text(got) != tc.want {
					t.Errorf("got %s, %v; want %s", text(got), err, tc.want)
				}
			})
		}
	}
}

func replaced(c *ipamtest.FakeCluster) {
	c.SetPod(ipamtest.FakePod{Pod: ipam.Pod{PodKey: lease.PodKey{Namespace: "default", Name: "a"}, UID: "uid-next"}, Node: "n2"})
}

func released(c *ipamtest.FakeCluster) {
	if err := c.Service("n1").Delete(context.Background(), wire.DeleteRequest{Attachment: attachment("a")}); err != nil {
		panic(err)
	}
}

// A StatefulSet pod gets its addresses back, so its endpoint stays.
func TestEndpointStaysForRetainedAddresses(t *testing.T) {
	cluster := newFakeCluster(t)
	cluster.Options.FixStatefulSet = true
	cluster.SetStatefulSet("default", "web", ipam.StatefulSet{UID: "x", End: 1})
	claim(cluster, "web-0", "uid-web-0", statefulSet("web", "x"))
	s := cluster.Service("n1")
	mustAdd(t, s, wire.AddRequest{Attachment: attachment("web-0")})
	want := cluster.Endpoints()["default/web-0"]
	if err := s.Delete(t.Context(), wire.DeleteRequest{Attachment: attachment("web-0")}); err != nil {
		t.Fatal(err)
	}
	if got := cluster.Endpoints()["default/web-0"]; want.PodUID != "uid-web-0" || !reflect.DeepEqual(got, want) {
		t.Errorf("after the DEL %s, want %s", text(&got), text(&want))
	}
}

// Before the agent has read the leases, an endpoint would seem to have none.
func TestEndpointWaitsForLeases(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	mustAdd(t, cluster.Service("n1"), wire.AddRequest{Attachment: attachment("a")})
	cluster.SetAway(true)
	s := cluster.Restart("n1")
	if got, err := s.Endpoint(t.Context(), ipam.EndpointKey{PodUID: "uid-a"}, showing("uid-a", "n1", "eth0=10.0.0.16")); !errors.Is(err, ipam.ErrNotReady) {
		t.Errorf("got %s, %v", text(got), err)
	}
}

// The first ADD of a pod without Multus annotations covers one interface. Its endpoint
// shows the later ones, too, and without them again after their DEL.
func TestEndpointCoversSeveralAdds(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	s := cluster.Service("n1")
	second := attachment("a")
	second.Interface = "net1"
	for _, at := range []wire.Attachment{attachment("a"), second} {
		mustAdd(t, s, wire.AddRequest{Attachment: at, DefaultIPv4Pools: []string{"p"}})
	}
	if e, want := cluster.Endpoints()["default/a"], "uid-a on n1: eth0 10.0.0.16 net1 10.0.0.17"; text(&e) != want {
		t.Errorf("after two ADDs %s, want %s", text(&e), want)
	}
	if err := s.Delete(t.Context(), wire.DeleteRequest{Attachment: attachment("a")}); err != nil {
		t.Fatal(err)
	}
	if e, want := cluster.Endpoints()["default/a"], "uid-a on n1: net1 10.0.0.17"; text(&e) != want {
		t.Errorf("after the DEL %s, want %s", text(&e), want)
	}
}

// The annotations of a running pod are a claim: its policies follow the network that it got.
func TestNetworkIsThatOfAdd(t *testing.T) {
	const networks = "k8s.v1.cni.cncf.io/networks"
	for name, tc := range map[string]struct {
		change func(*ipamtest.FakeCluster, *ipam.Endpoint)
		want   string
	}{
		"same agent":      {func(*ipamtest.FakeCluster, *ipam.Endpoint) {}, "default/blue"},
		"restarted agent": {func(c *ipamtest.FakeCluster, _ *ipam.Endpoint) { c.Restart("n1") }, "default/blue"},
		"of an earlier release": {func(c *ipamtest.FakeCluster, stored *ipam.Endpoint) {
			stored.Interfaces[1].Network = pool.NetworkAttachment{}
			c.Restart("n1")
		}, "default/red"},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := newFakeCluster(t)
			set := func(network string) {
				cluster.SetPod(ipamtest.FakePod{Node: "n1", Pod: ipam.Pod{
					PodKey: lease.PodKey{Namespace: "default", Name: "a"}, UID: "uid-a", Annotations: map[string]string{networks: network},
				}})
			}
			set("blue")
			second := attachment("a")
			second.Interface = "net1"
			for _, at := range []wire.Attachment{attachment("a"), second} {
				mustAdd(t, cluster.Service("n1"), wire.AddRequest{Attachment: at, DefaultIPv4Pools: []string{"p"}})
			}
			stored := cluster.Endpoints()["default/a"]
			set("red,ns/green@net7")
			tc.change(cluster, &stored)
			got, err := cluster.Service("n1").Endpoint(t.Context(), stored.EndpointKey, &stored)
			if err != nil || got.Interfaces[1].Network.String() != tc.want || got.Interfaces[0].Network.String() != "" {
				t.Errorf("got %+v, %v; want net1 on %s", got, err, tc.want)
			}
		})
	}
}

func gone(c *ipamtest.FakeCluster) { c.DeletePod(lease.PodKey{Namespace: "default", Name: "a"}) }

// staleMemory has not seen yet that the pod was replaced.
type staleMemory struct {
	ipam.Cluster
	former ipam.Pod
}

func (m staleMemory) Pod(context.Context, lease.PodKey, string) (ipam.Pod, error) {
	return m.former, nil
}

func TestLateUpdateKeepsNextPod(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	s := cluster.Service("n1")
	mustAdd(t, s, wire.AddRequest{Attachment: attachment("a")})
	pod := lease.PodKey{Namespace: "default", Name: "a"}
	s.Cluster = staleMemory{s.Cluster, ipam.Pod{PodKey: pod, UID: "uid-a"}}
	replaced(cluster)
	next := showing("uid-next", "n2", "eth0=10.0.0.30")
	if got, err := s.Endpoint(t.Context(), ipam.EndpointKey{PodKey: pod, Pod: pod, PodUID: "uid-a"}, next); err != nil || got != next {
		t.Errorf("got %s, %v; want the endpoint of the next pod", text(got), err)
	}
}

// delays records for how long updates may wait.
type delays struct {
	ipam.Endpoints
	seen []time.Duration
}

func (d *delays) Changed(key ipam.EndpointKey, delay time.Duration) {
	d.seen = append(d.seen, delay)
	d.Endpoints.Changed(key, delay)
}

// The DELs of a pod's interfaces follow each other, and the last one needs no wait.
func TestOnlyLastReleaseIsShownAtOnce(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	s := cluster.Service("n1")
	second := attachment("a")
	second.Interface = "net1"
	for _, at := range []wire.Attachment{attachment("a"), second} {
		mustAdd(t, s, wire.AddRequest{Attachment: at, DefaultIPv4Pools: []string{"p"}})
	}
	d := &delays{Endpoints: s.Endpoints}
	s.Endpoints = d
	for _, at := range []wire.Attachment{second, attachment("a")} {
		if err := s.Delete(t.Context(), wire.DeleteRequest{Attachment: at}); err != nil {
			t.Fatal(err)
		}
	}
	if len(d.seen) != 2 || d.seen[0] == 0 || d.seen[1] != 0 {
		t.Errorf("delays %v, want one and then none", d.seen)
	}
}

// A former sandbox has no endpoint, even if its pod's record was the last one.
func TestRepairSkipsFormerSandboxes(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	s := cluster.Service("n1")
	current := attachment("a")
	current.ContainerID = "current"
	mustAdd(t, s, wire.AddRequest{Attachment: attachment("a")})
	mustAdd(t, s, wire.AddRequest{Attachment: current})
	d := &delays{Endpoints: s.Endpoints}
	s.Endpoints = d
	s.Repair()
	if held := s.Allocator.HeldFor(0); len(held) != 2 || len(d.seen) != 1 {
		t.Errorf("%d updates of %v, want one of the lease in use", len(d.seen), held)
	}
}

// unwritten writes no endpoint.
type unwritten struct{}

func (unwritten) Changed(ipam.EndpointKey, time.Duration) {}

// The endpoint of a new pod is created without a read. Later updates read first, until the
// pod has no address any more.
func TestEndpointIsNewOnce(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	s := cluster.Service("n1")
	s.Endpoints = unwritten{}
	mustAdd(t, s, wire.AddRequest{Attachment: attachment("a")})
	key := ipam.EndpointKey{PodKey: lease.PodKey{Namespace: "default", Name: "a"}, Pod: lease.PodKey{Namespace: "default", Name: "a"}, PodUID: "uid-a"}
	wantNew := func(isNew bool) {
		t.Helper()
		got, err := s.Endpoint(t.Context(), key, nil)
		if err != nil || got == nil || got.New != isNew {
			t.Errorf("got %+v, %v, want New to be %t", got, err, isNew)
		}
	}
	wantNew(true)
	wantNew(false)
	if err := s.Delete(t.Context(), wire.DeleteRequest{Attachment: attachment("a")}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Endpoint(t.Context(), key, nil); got != nil || err != nil {
		t.Errorf("after the DEL: got %+v, %v", got, err)
	}
	mustAdd(t, s, wire.AddRequest{Attachment: attachment("a")})
	wantNew(true)
}
