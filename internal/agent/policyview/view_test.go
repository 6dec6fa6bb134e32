package policyview

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

// cluster is a Source under the control of a test.
type cluster struct {
	mu         sync.Mutex
	sink       agentclient.PolicySink
	followed   map[string]func(int, *compile.PeerSlice)
	namespaces map[string]map[string]string
	ports      map[string][]policy.NamedPort // by UID
	portReads  int
	told       []string
}

func (c *cluster) WatchPolicies(ctx context.Context, to agentclient.PolicySink, _ *slog.Logger) {
	c.mu.Lock()
	c.sink = to
	c.mu.Unlock()
	<-ctx.Done()
}

func (c *cluster) FollowGroup(ctx context.Context, group string, changed func(int, *compile.PeerSlice), _ *slog.Logger) {
	c.mu.Lock()
	c.followed[group] = changed
	c.mu.Unlock()
	<-ctx.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.followed, group)
}

func (c *cluster) NamedPorts(_ context.Context, name lease.PodKey, uid string) ([]policy.NamedPort, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.portReads++
	if ports, ok := c.ports[uid]; ok {
		return ports, nil
	}
	return nil, errors.New("the API server is away")
}

func (c *cluster) NamespaceLabels(name string) (map[string]string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	labels, ok := c.namespaces[name]
	return labels, ok
}

// groups returns the followed groups.
func (c *cluster) groups() []string {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.followed))
}

// send sends objects of a group: an index with its addresses, and behind the first one the number of objects.
func (c *cluster) send(group string, index, counted int, addrs ...string) {
	synctest.Wait()
	c.mu.Lock()
	changed := c.followed[group]
	c.mu.Unlock()
	slice := &compile.PeerSlice{Group: group, Index: index, Slices: counted}
	for _, text := range addrs {
		slice.Members = append(slice.Members, policy.Member{Addr: netip.MustParseAddr(text)})
	}
	changed(index, slice)
}

func (c *cluster) remove(group string, index int) {
	c.mu.Lock()
	changed := c.followed[group]
	c.mu.Unlock()
	changed(index, nil)
}

// takeTold returns the pods for which changed was called.
func (c *cluster) takeTold() string {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.Sort(c.told)
	told := strings.Join(slices.Compact(c.told), " ")
	c.told = nil
	return told
}

// run runs a test with a View of a cluster in a bubble.
func run(t *testing.T, test func(t *testing.T, c *cluster, v *View)) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{followed: map[string]func(int, *compile.PeerSlice){}, namespaces: map[string]map[string]string{}, ports: map[string][]policy.NamedPort{}}
		v := newView(c, c, func(pod lease.PodKey) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.told = append(c.told, pod.String())
		}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			v.Run(ctx)
			close(ended)
		}()
		synctest.Wait()
		test(t, c, v)
		cancel()
		<-ended
	})
}

func (c *cluster) synced() {
	c.sink.Synced(agentclient.NetworkPolicies)
	c.sink.Synced(agentclient.ClusterPolicies)
	c.sink.Synced(agentclient.MultiPolicies)
}

// decide decides about an interface of a pod with eth0, net1 on the network storage, and net2 on backup.
func decide(v *View, p ipam.Pod, name string) (policy.Sets, error) {
	interfaces := []policy.Interface{{Name: "eth0", Default: true}}
	if name != "eth0" {
		for i, network := range []string{"storage", "backup"} {
			interfaces = append(interfaces, policy.Interface{Name: fmt.Sprint("net", i+1), Network: policy.Name{Namespace: "shop", Name: network}})
		}
	}
	sets, unknown := v.Decide(p, interfaces)
	at := slices.IndexFunc(interfaces, func(i policy.Interface) bool { return i.Name == name })
	return sets[at], unknown[at]
}

func podOf(name string, labels ...string) ipam.Pod {
	p := ipam.Pod{PodKey: lease.PodKey{Namespace: "shop", Name: name}, UID: name, Labels: map[string]string{}}
	for _, l := range labels {
		key, value, _ := strings.Cut(l, "=")
		p.Labels[key] = value
	}
	return p
}

func label(text string) policy.Selector {
	key, value, _ := strings.Cut(text, "=")
	return policy.Selector{{Key: key, Values: []string{value}}}
}

// from returns a policy that lets pods with a label reach pods with another one.
func from(name, selected, peers string) *policy.Policy {
	pods := label(peers)
	return &policy.Policy{Name: policy.Name{Namespace: "shop", Name: name}, Pods: label(selected), Ingress: policy.Section{
		Isolates: true, Rules: []policy.Rule{{AnyPort: true, Peers: []policy.Peer{{Pods: &pods}}}},
	}}
}

func groupOf(p *policy.Policy) string { return p.Groups()[0].Name() }

// expect compares a decision: "?" with a part of the error, or the text of the sets in one line.
func expect(t *testing.T, v *View, p ipam.Pod, want string) {
	t.Helper()
	expectOn(t, v, p, "eth0", want)
}

// expectOn is expect for an interface.
func expectOn(t *testing.T, v *View, p ipam.Pod, name, want string) {
	t.Helper()
	synctest.Wait()
	sets, err := decide(v, p, name)
	got := oneLine(sets)
	if err != nil {
		if got = "? " + err.Error(); !errors.Is(err, ipam.ErrNotReady) {
			t.Errorf("%s: the error is not ErrNotReady: %v", p.Name, err)
		}
	}
	if known := !strings.HasPrefix(want, "?"); known && got != want || !known && (err == nil || !strings.Contains(got, strings.TrimPrefix(want, "? "))) {
		t.Errorf("%s: %s, want %s", p.Name, got, want)
	}
}

func oneLine(s policy.Sets) string {
	return strings.ReplaceAll(strings.TrimSpace(s.String()), "\n", "; ")
}

const open = "ingress open; egress open"

func TestNothingIsDecidedBeforePolicies(t *testing.T) {
	run(t, func(t *testing.T, c *cluster, v *View) {
		expect(t, v, podOf("web"), "? ClusterNetworkPolicies, NetworkPolicies")
		c.sink.Synced(agentclient.NetworkPolicies)
		expect(t, v, podOf("web"), "? ClusterNetworkPolicies")
		if told := c.takeTold(); told != "" {
			t.Errorf("told about %s too early", told)
		}
		c.sink.Synced(agentclient.ClusterPolicies)
		if told := c.takeTold(); told != "shop/web" {
			t.Errorf("told about %q", told)
		}
		expect(t, v, podOf("web"), open)
		c.synced() // a watch that begins again
		if told := c.takeTold(); told != "" {
			t.Errorf("told about %s", told)
		}
	})
}

func TestOnlyNeededGroupsAreFollowed(t *testing.T) {
	run(t, func(t *testing.T, c *cluster, v *View) {
		web, db := from("web", "app=web", "app=client"), from("db", "app=db", "app=web")
		c.sink.SetPolicy(web)
		c.sink.SetPolicy(db)
		c.synced()
		expect(t, v, podOf("other", "app=other"), open)
		if got := c.groups(); len(got) != 0 {
			t.Errorf("groups of no pod are followed: %v", got)
		}
		expect(t, v, podOf("web", "app=web"), "? "+groupOf(web))
		expect(t, v, podOf("web-2", "app=web"), "? app=client in its namespace shop")
		if got := c.groups(); !slices.Equal(got, []string{groupOf(web)}) {
			t.Errorf("followed: %v", got)
		}
		c.takeTold()
		c.send(groupOf(web), 0, 1, "10.0.0.1")
		if told := c.takeTold(); told != "shop/web shop/web-2" {
			t.Errorf("told about %q", told)
		}
		expect(t, v, podOf("web", "app=web"), "ingress isolated; ingress any 10.0.0.1; egress open")
		// The pod gets another label.
		expect(t, v, podOf("web", "app=db"), "? "+groupOf(db))
		c.send(groupOf(db), 0, 1)
		expect(t, v, podOf("web", "app=db"), "ingress isolated; egress open")
		c.takeTold()
		c.send(groupOf(web), 0, 1, "10.0.0.1", "10.0.0.2")
		if told := c.takeTold(); told != "shop/web-2" {
			t.Errorf("told about %q", told)
		}
		v.Forget(podOf("web-2").PodKey)
		time.Sleep(3 * linger)
		if got := c.groups(); !slices.Equal(got, []string{groupOf(db)}) {
			t.Errorf("followed at the end: %v", got)
		}
		if len(v.decided) != 2 { // one is that of the pod without a policy
			t.Errorf("%d decisions are kept", len(v.decided))
		}
	})
}

// The objects of a group arrive in any order. The state is that before or after a change, and never less than both.
func TestHalfAGroupIsUnknown(t *testing.T) {
	run(t, func(t *testing.T, c *cluster, v *View) {
		web := from("web", "app=web", "app=client")
		group, isolated := groupOf(web), "ingress isolated; ingress any %s; egress open"
		c.sink.SetPolicy(web)
		c.synced()
		p := podOf("web", "app=web")
		for _, step := range []struct {
			what string
			do   func()
			want string
		}{
			{"nothing", func() {}, "? peer group"},
			{"the second object", func() { c.send(group, 1, 0, "10.0.0.5") }, "? peer group"},
			{"the first of three", func() { c.send(group, 0, 3, "10.0.0.1") }, "? peer group"},
			{"the third", func() { c.send(group, 2, 0, "10.0.0.9") }, fmt.Sprintf(isolated, "10.0.0.1, 10.0.0.5, 10.0.0.9")},
			{"the third is deleted before the first says so", func() { c.remove(group, 2) }, fmt.Sprintf(isolated, "10.0.0.1, 10.0.0.5, 10.0.0.9")},
			{"the first says so", func() { c.send(group, 0, 2, "10.0.0.1") }, fmt.Sprintf(isolated, "10.0.0.1, 10.0.0.5")},
			{"the first counts another third", func() { c.send(group, 0, 3, "10.0.0.1", "10.0.0.3") }, fmt.Sprintf(isolated, "10.0.0.1, 10.0.0.5")},
			{"it arrives", func() { c.send(group, 2, 0, "10.0.0.7") }, fmt.Sprintf(isolated, "10.0.0.1, 10.0.0.3, 10.0.0.5, 10.0.0.7")},
			{"a fourth before the first counts it", func() { c.send(group, 3, 0, "10.0.0.11") }, fmt.Sprintf(isolated, "10.0.0.1, 10.0.0.3, 10.0.0.5, 10.0.0.7")},
			{"the first counts it", func() { c.send(group, 0, 4, "10.0.0.3") }, fmt.Sprintf(isolated, "10.0.0.3, 10.0.0.5, 10.0.0.7, 10.0.0.11")},
			{"the first is deleted", func() { c.remove(group, 0) }, "? peer group"},
			{"it comes back", func() { c.send(group, 0, 4) }, fmt.Sprintf(isolated, "10.0.0.5, 10.0.0.7, 10.0.0.11")},
			{"all are deleted", func() {
				for at := range 4 {
					c.remove(group, at)
				}
			}, "? peer group"},
			{"a group of one object", func() { c.send(group, 0, 1, "10.0.0.1") }, fmt.Sprintf(isolated, "10.0.0.1")},
		} {
			_, _ = decide(v, p, "eth0")
			synctest.Wait()
			step.do()
			t.Log(step.what)
			expect(t, v, p, step.want)
		}
	})
}

func TestPolicyConcernsItsPodsOnly(t *testing.T) {
	run(t, func(t *testing.T, c *cluster, v *View) {
		c.namespaces["shop"] = map[string]string{"team": "a"}
		c.synced()
		expect(t, v, podOf("web", "app=web"), open)
		expect(t, v, podOf("db", "app=db"), open)
		c.takeTold()
		for _, step := range []struct {
			what       string
			do         func()
			told, want string
		}{
			{"a policy", func() {
				c.sink.SetPolicy(&policy.Policy{Name: policy.Name{Namespace: "shop", Name: "p"}, Pods: label("app=web"), Ingress: policy.Section{Isolates: true}})
			},
				"shop/web", "ingress isolated; egress open"},
			{"one of another namespace", func() {
				c.sink.SetPolicy(&policy.Policy{Name: policy.Name{Namespace: "n", Name: "p"}, Egress: policy.Section{Isolates: true}})
			},
				"", "ingress isolated; egress open"},
			{"another selector", func() {
				c.sink.SetPolicy(&policy.Policy{Name: policy.Name{Namespace: "shop", Name: "p"}, Pods: label("app=db"), Ingress: policy.Section{Isolates: true}})
			},
				"shop/db shop/web", open},
			{"its end", func() { c.sink.DeletePolicy(policy.Name{Namespace: "shop", Name: "p"}) }, "shop/db", open},
			{"a ClusterNetworkPolicy", func() {
				c.sink.SetClusterPolicy(&policy.ClusterPolicy{Name: policy.Name{Name: "c"}, Namespaces: label("team=a"), Egress: []policy.TierRule{
					{Rule: policy.Rule{AnyPeer: true, AnyPort: true}, Action: policy.Deny}}})
			}, "shop/db shop/web", "ingress open; egress isolated"},
			{"another label of the namespace", func() {
				c.mu.Lock()
				c.namespaces["shop"] = map[string]string{"team": "b"}
				c.mu.Unlock()
				v.namespaceChanged("shop")
			}, "shop/db shop/web", open},
			{"an unknown namespace", func() { delete(c.namespaces, "shop") }, "", "? namespace shop"},
			{"its end", func() { c.sink.DeleteClusterPolicy(policy.Name{Name: "c"}) }, "shop/db shop/web", open},
		} {
			step.do()
			if told := c.takeTold(); told != step.told {
				t.Errorf("%s: told about %q, want %q", step.what, told, step.told)
			}
			t.Log(step.what)
			expect(t, v, podOf("web", "app=web"), step.want)
		}
	})
}

func TestNamedPortsAreReadOnce(t *testing.T) {
	run(t, func(t *testing.T, c *cluster, v *View) {
		c.sink.SetPolicy(&policy.Policy{Name: policy.Name{Namespace: "shop", Name: "p"}, Pods: label("app=web"), Ingress: policy.Section{
			Isolates: true, Rules: []policy.Rule{{AnyPeer: true, Ports: []policy.Port{{Protocol: service.TCP, Name: "http"}}}}}})
		c.synced()
		expect(t, v, podOf("web", "app=web"), "? named ports")
		expect(t, v, podOf("db", "app=db"), open)
		time.Sleep(time.Minute) // the API server is away
		c.mu.Lock()
		c.ports["web"] = []policy.NamedPort{{Name: "http", Protocol: service.TCP, Port: 8080}}
		c.mu.Unlock()
		time.Sleep(time.Minute)
		if told := c.takeTold(); told != "shop/web" {
			t.Errorf("told about %q", told)
		}
		reads := c.portReads
		expect(t, v, podOf("web", "app=web"), "ingress isolated; ingress TCP 8080 0.0.0.0/0, ::/0; egress open")
		expect(t, v, podOf("web", "app=web", "other=label"), "ingress isolated; ingress TCP 8080 0.0.0.0/0, ::/0; egress open")
		if c.portReads != reads {
			t.Error("the ports are read again")
		}
		// Another pod with the name.
		c.mu.Lock()
		c.ports["second"] = []policy.NamedPort{{Name: "http", Protocol: service.TCP, Port: 80}}
		c.mu.Unlock()
		successor := podOf("web", "app=web")
		successor.UID = "second"
		expect(t, v, successor, "? named ports")
		expect(t, v, successor, "ingress isolated; ingress TCP 80 0.0.0.0/0, ::/0; egress open")
	})
}
