//go:build apiserver

package agentclient_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/wire"
)

// endpointOf returns the endpoint of a pod with one address per interface.
func endpointOf(name, uid string, interfaces ...string) ipam.Endpoint {
	key := lease.PodKey{Namespace: "default", Name: name}
	e := ipam.Endpoint{EndpointKey: ipam.EndpointKey{PodKey: key, Pod: key, PodUID: uid}, Node: "n1"}
	for i, ifname := range interfaces {
		e.Interfaces = append(e.Interfaces, ipam.EndpointInterface{Interface: ifname, Addresses: []ipam.EndpointAddress{
			{Prefix: netip.MustParsePrefix(fmt.Sprintf("10.9.0.%d/24", i+1)), Pool: "p"},
		}})
	}
	return e
}

// shown returns the stored endpoint, e.g. "u1 eth0 net1", or "none".
func shown(ctx context.Context, c client.Client, name string) (string, error) {
	var object v2beta1.SpiderEndpoint
	err := c.Get(ctx, client.ObjectKey{Namespace: "default", Name: name}, &object)
	if apierrors.IsNotFound(err) {
		return "none", nil
	}
	words := []string{object.Status.Current.UID}
	for _, i := range object.Status.Current.IPs {
		words = append(words, i.Interface)
	}
	return strings.Join(words, " "), err
}

// node is a node whose pods and leases are in memory and whose endpoints are in the API
// server.
type node struct {
	t       *testing.T
	cluster *ipamtest.FakeCluster
	service *ipam.Service
	pod     lease.PodKey
	changed []ipam.EndpointKey
}

func newNode(t *testing.T, pod string) *node {
	t.Helper()
	subnet := netip.MustParsePrefix("10.9.0.0/24")
	ips, err := inet.Parse([]string{"10.9.0.16-10.9.0.31"}, inet.Bounds{Family: 4, Subnet: subnet})
	if err != nil {
		t.Fatal(err)
	}
	cluster := ipamtest.NewFakeCluster(time.Date(2026, 11, 29, 10, 0, 0, 0, time.UTC))
	t.Cleanup(cluster.Close)
	cluster.SetPool(&pool.Pool{
		Name: "p", Family: 4, Subnet: subnet, IPs: ips, Default: true, Gateway: netip.MustParseAddr("10.9.0.1"),
		Routes: []inet.Route{{Dst: netip.MustParsePrefix("192.0.2.0/24"), Via: netip.MustParseAddr("10.9.0.2")}},
	}, true)
	n := &node{t: t, cluster: cluster, service: cluster.Service("n1"), pod: lease.PodKey{Namespace: "default", Name: pod}}
	n.service.Endpoints = n
	return n
}

// Changed implements ipam.Endpoints.
func (n *node) Changed(key ipam.EndpointKey, _ time.Duration) {
	if !slices.Contains(n.changed, key) {
		n.changed = append(n.changed, key)
	}
}

func (n *node) at(uid, ifname string) wire.Attachment {
	return wire.Attachment{ContainerID: "c-" + uid, Interface: ifname, PodNamespace: n.pod.Namespace, PodName: n.pod.Name, PodUID: uid}
}

// add replaces the pod by one with the UID, and adds its interfaces.
func (n *node) add(uid string, interfaces ...string) {
	n.t.Helper()
	n.cluster.SetPod(ipamtest.FakePod{Pod: ipam.Pod{PodKey: n.pod, UID: uid}, Node: "n1"})
	for _, ifname := range interfaces {
		if _, err := n.service.Add(n.t.Context(), wire.AddRequest{Attachment: n.at(uid, ifname), DefaultIPv4Pools: []string{"p"}}); err != nil {
			n.t.Fatal(err)
		}
	}
}

func (n *node) del(uid string, interfaces ...string) {
	n.t.Helper()
	for _, ifname := range interfaces {
		if err := n.service.Delete(n.t.Context(), wire.DeleteRequest{Attachment: n.at(uid, ifname)}); err != nil {
			n.t.Fatal(err)
		}
	}
}

// Changes that arrive before the first one is written must not undo each other, in
// whatever order they are written.
func TestPendingChangesOfOneEndpoint(t *testing.T) {
	kubeClient, err := agentclient.NewClient(kubetest.Role(t, "spiderpool-agent", "kube-system", ""))
	if err != nil {
		t.Fatal(err)
	}
	c := kubetest.Client(t)
	endpoints := agentclient.NewEndpoints(kubeClient, slog.New(slog.DiscardHandler))
	for name, tc := range map[string]struct {
		before ipam.Endpoint // nothing is stored without interfaces
		change func(*node)
		want   string
	}{
		"first write": {endpointOf("first", "u1"), func(n *node) { n.add("u1", "eth0") }, "u1 eth0"},
		"late removal keeps next pod": {endpointOf("late", "u1", "eth0"), func(n *node) {
			n.add("u1", "eth0")
			n.add("u2", "eth0")
			n.del("u1", "eth0")
		}, "u2 eth0"},
		"late write keeps next pod": {endpointOf("old", "u2", "eth0"), func(n *node) {
			n.add("u1", "eth0", "net1")
			n.add("u2")
		}, "u2 eth0"},
		"late write after pod's end": {endpointOf("ended", "u2", "eth0"), func(n *node) {
			n.add("u1", "eth0", "net1")
			n.cluster.DeletePod(n.pod)
		}, "u2 eth0"},
		"two removed interfaces": {endpointOf("two", "u1", "eth0", "net1", "net2"), func(n *node) {
			n.add("u1", "eth0", "net1", "net2")
			n.del("u1", "net1", "net2")
		}, "u1 eth0"},
		"removed before written": {endpointOf("early", "u1", "eth0"), func(n *node) {
			n.add("u1", "eth0")
			n.add("u2", "eth0", "net1")
			n.del("u2", "net1")
			n.del("u1", "eth0")
		}, "u2 eth0"},
		"removal of two pods": {endpointOf("hidden", "u1", "eth0"), func(n *node) {
			n.del("u1", "eth0")
			n.del("u0", "eth0")
		}, "none"},
		"removal wins over interface": {endpointOf("all", "u1", "eth0", "net1"), func(n *node) {
			n.add("u1", "eth0", "net1")
			n.del("u1", "net1", "eth0")
		}, "none"},
		"interface of another pod": {endpointOf("other", "u1", "eth0"), func(n *node) {
			n.add("u1", "eth0")
			n.del("u0", "eth0")
		}, "u1 eth0"},
	} {
		for order, sorted := range map[string]func([]ipam.EndpointKey){"in order": func([]ipam.EndpointKey) {}, "backward": slices.Reverse[[]ipam.EndpointKey]} {
			t.Run(name+" "+order, func(t *testing.T) {
				before := tc.before
				before.Name += "-" + strings.Fields(order)[0]
				t.Cleanup(func() { kubetest.Remove(t, c, agentclient.EndpointObject(before)) })
				if len(before.Interfaces) > 0 {
					kubetest.Create(t, c, agentclient.EndpointObject(before))
				}
				n := newNode(t, before.Name)
				tc.change(n)
				sorted(n.changed)
				for _, key := range n.changed {
					if err := endpoints.Update(t.Context(), key, n.service.Endpoint); err != nil {
						t.Error(err)
					}
				}
				if got, err := shown(t.Context(), c, before.Name); err != nil || got != tc.want {
					t.Errorf("stored %q, %v; want %q", got, err, tc.want)
				}
			})
		}
	}
}

// A restarted agent compares all endpoints of its node, so an equal one must cost no
// write.
func TestEqualEndpointIsNotWritten(t *testing.T) {
	kubeClient, err := agentclient.NewClient(kubetest.Role(t, "spiderpool-agent", "kube-system", ""))
	if err != nil {
		t.Fatal(err)
	}
	c := kubetest.Client(t)
	endpoints := agentclient.NewEndpoints(kubeClient, slog.New(slog.DiscardHandler))
	n := newNode(t, "equal")
	n.add("u1", "eth0", "net1")
	var versions []string
	for range 2 {
		if err := endpoints.Update(t.Context(), n.changed[0], n.service.Endpoint); err != nil {
			t.Fatal(err)
		}
		var object v2beta1.SpiderEndpoint
		if err := c.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "equal"}, &object); err != nil {
			t.Fatal(err)
		}
		versions = append(versions, object.ResourceVersion)
		n.service = n.cluster.Restart("n1")
		endpoints = agentclient.NewEndpoints(kubeClient, slog.New(slog.DiscardHandler))
	}
	if versions[0] != versions[1] {
		t.Errorf("the restarted agent wrote the endpoint: version %s, then %s", versions[0], versions[1])
	}
}

// A user labels the endpoint while the agent updates it.
func TestEndpointUpdateKeepsConcurrentChange(t *testing.T) {
	kubeClient, err := agentclient.NewClient(kubetest.Role(t, "spiderpool-agent", "kube-system", ""))
	if err != nil {
		t.Fatal(err)
	}
	c := kubetest.Client(t)
	endpoints := agentclient.NewEndpoints(kubeClient, slog.New(slog.DiscardHandler))
	object := agentclient.EndpointObject(endpointOf("labelled", "u0", "eth0"))
	kubetest.Create(t, c, object)
	n := newNode(t, "labelled")
	n.add("u1", "eth0")
	label := sync.OnceValue(func() error {
		object.Labels = map[string]string{"mine": "yes"}
		return c.Update(t.Context(), object)
	})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		endpoints.Run(ctx, func(ctx context.Context, key ipam.EndpointKey, stored *ipam.Endpoint) (*ipam.Endpoint, error) {
			if err := label(); err != nil {
				return nil, err
			}
			return n.service.Endpoint(ctx, key, stored)
		})
	})
	defer running.Wait()
	defer cancel()
	endpoints.Changed(n.changed[0], 0)
	kubetest.Eventually(t, func(ctx context.Context) error {
		var got v2beta1.SpiderEndpoint
		if err := c.Get(ctx, client.ObjectKeyFromObject(object), &got); err != nil {
			return err
		}
		if got.Status.Current.UID != "u1" || got.Labels["mine"] != "yes" {
			return fmt.Errorf("shows pod %s with labels %v", got.Status.Current.UID, got.Labels)
		}
		return nil
	})
}

func TestDeletedEndpointIsWrittenAgain(t *testing.T) {
	kubeClient, err := agentclient.NewClient(kubetest.Role(t, "spiderpool-agent", "kube-system", ""))
	if err != nil {
		t.Fatal(err)
	}
	c := kubetest.Client(t)
	endpoints := agentclient.NewEndpoints(kubeClient, slog.New(slog.DiscardHandler))
	n := newNode(t, "deleted")
	object := agentclient.EndpointObject(endpointOf("deleted", ""))
	t.Cleanup(func() { kubetest.Remove(t, c, object) })
	update := func() error { return endpoints.Update(t.Context(), n.changed[0], n.service.Endpoint) }
	n.add("u1", "eth0")
	if err := update(); err != nil {
		t.Fatal(err)
	}

	kubetest.Remove(t, c, object)
	n.add("u1", "eth0", "net1") // its update starts from the deleted endpoint, and fails
	if err := update(); err == nil {
		t.Error("an update of a deleted endpoint succeeded")
	}
	if err := update(); err != nil {
		t.Error(err)
	}
	if got, err := shown(t.Context(), c, "deleted"); got != "u1 eth0 net1" {
		t.Errorf("after an update: %q, %v", got, err)
	}

	kubetest.Remove(t, c, object)
	endpoints.Distrust(n.changed[0]) // time passes
	if err := update(); err != nil {
		t.Error(err)
	}
	if got, err := shown(t.Context(), c, "deleted"); got != "u1 eth0 net1" {
		t.Errorf("after the repair: %q, %v", got, err)
	}
}
