package flowends

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

var (
	noon   = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	client = netip.MustParseAddr("10.6.0.2")
	server = netip.MustParseAddr("10.6.9.7")
	web    = lease.PodKey{Namespace: "shop", Name: "web-7d4-x"}
	frontC = lease.PodKey{Namespace: "shop", Name: "front"}
)

// cluster is a cluster in memory. It counts the questions to the API server.
type cluster struct {
	own      map[lease.PodKey]ipam.Pod
	others   map[lease.PodKey]ipam.Pod
	blocks   map[netip.Addr]lease.Block
	services map[service.FrontendKey]service.Name
	held     []lease.Lease
	now      time.Time
	asked    int
	fault    error
}

func (c *cluster) SeenPod(name lease.PodKey) (ipam.Pod, bool) {
	pod, ok := c.own[name]
	return pod, ok
}

func (c *cluster) PodFacts(_ context.Context, name lease.PodKey) (ipam.Pod, error) {
	c.asked++
	pod, ok := c.others[name]
	if c.fault == nil && !ok {
		return pod, ipam.ErrNotFound
	}
	return pod, c.fault
}

func (c *cluster) TopController(_ context.Context, pod ipam.Pod) (ipam.Controller, error) {
	c.asked++
	if pod.Owner.Kind == "ReplicaSet" {
		return ipam.Controller{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: "d"}, c.fault
	}
	return pod.Owner, c.fault
}

func (c *cluster) owner(key service.FrontendKey) (service.Name, bool) {
	name, ok := c.services[key]
	return name, ok
}

func (c *cluster) Get(_ context.Context, base netip.Addr) (lease.Block, error) {
	c.asked++
	block, ok := c.blocks[base]
	if c.fault == nil && !ok {
		return block, alloc.ErrNotFound
	}
	return block, c.fault
}

func leased(addr netip.Addr, pod lease.PodKey, uid, node string, since time.Time) lease.Lease {
	return lease.Lease{Addr: addr, State: lease.InUse, Pool: "v4", Since: since, Holder: lease.Holder{Pod: pod, PodUID: uid, Node: node}}
}

func newCluster() *cluster {
	return &cluster{
		own:    map[lease.PodKey]ipam.Pod{frontC: {PodKey: frontC, UID: "f", Labels: map[string]string{"app": "front"}}},
		others: map[lease.PodKey]ipam.Pod{web: {PodKey: web, UID: "w", Labels: map[string]string{"app": "web"}, Owner: ipam.Controller{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-7d4", UID: "r"}}},
		blocks: map[netip.Addr]lease.Block{inet.BlockOf(server): {Base: inet.BlockOf(server), Leases: []lease.Lease{leased(server, web, "w", "n2", noon.Add(-time.Hour))}}},
		services: map[service.FrontendKey]service.Name{
			{Addr: netip.MustParseAddr("10.96.0.9"), Port: 8080, Protocol: service.TCP}: {Namespace: "shop", Name: "web"},
		},
		held: []lease.Lease{leased(client, frontC, "f", "n1", noon.Add(-time.Hour))},
		now:  noon,
	}
}

func (c *cluster) directory() *Directory {
	return New(Options{
		Node: "n1", Held: func() []lease.Lease { return c.held }, Cluster: c, Blocks: c, Services: c.owner, Now: func() time.Time { return c.now }, Log: slog.New(slog.DiscardHandler),
	})
}

// event is a connection from the pod of this node to another address.
func event(to netip.Addr) flow.Event {
	return flow.Event{
		Time: noon, Pod: frontC, UID: "f", Direction: policy.Egress, Protocol: service.TCP,
		Source: netip.AddrPortFrom(client, 40000), Destination: netip.AddrPortFrom(to, 80),
	}
}

// completed returns the flow of an event as a client reads it.
func completed(t *testing.T, d *Directory, e flow.Event) flow.Flow {
	t.Helper()
	f := flow.Flow{Event: e}
	*f.Local() = d.Local(&e)
	d.Complete(t.Context(), &f)
	return f
}

func TestBothEndsAreFound(t *testing.T) {
	c := newCluster()
	d := c.directory()
	e := event(server)
	e.Service = netip.MustParseAddrPort("10.96.0.9:8080")
	got := completed(t, d, e)
	if want := (&flow.End{Pod: frontC, UID: "f", Node: "n1", Labels: map[string]string{"app": "front"}}); !cmp.Equal(got.Opener, want) {
		t.Errorf("source: %s", cmp.Diff(want, got.Opener))
	}
	want := &flow.End{
		Pod: web, UID: "w", Node: "n2", Labels: map[string]string{"app": "web"},
		Workload: flow.Workload{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: "d"},
	}
	if !cmp.Equal(got.Target, want) {
		t.Errorf("destination: %s", cmp.Diff(want, got.Target))
	}
	if got.Frontend != (service.Name{Namespace: "shop", Name: "web"}) {
		t.Errorf("service %v", got.Frontend)
	}
	asked := c.asked
	if again := completed(t, d, e); c.asked != asked || !cmp.Equal(again.Target, got.Target) {
		t.Errorf("asked %d times more for the same ends", c.asked-asked)
	}
}

func TestIncomingConnectionHasSource(t *testing.T) {
	c := newCluster()
	e := event(server)
	e.Source, e.Destination, e.Direction = e.Destination, e.Source, policy.Ingress
	if got := completed(t, c.directory(), e); got.Opener == nil || got.Opener.Pod != web || got.Target.Pod != frontC {
		t.Errorf("source %+v, destination %+v", got.Opener, got.Target)
	}
}

func TestOwnPodsNeedNoRequest(t *testing.T) {
	c := newCluster()
	peer := netip.MustParseAddr("10.6.0.3")
	c.held = append(c.held, leased(peer, web, "other", "n1", noon))
	got := completed(t, c.directory(), event(peer))
	if got.Target == nil || got.Target.Pod != web || got.Target.UID != "other" || c.asked != 0 {
		t.Errorf("asked %d times for %+v", c.asked, got.Target)
	}
}

// An address that belongs to nobody, or to a later pod, stays an address.
func TestUnknownAddressStaysAddress(t *testing.T) {
	for name, change := range map[string]func(*cluster){
		"no block":       func(c *cluster) { c.blocks = nil },
		"no lease":       func(c *cluster) { c.blocks[inet.BlockOf(server)] = lease.Block{Base: inet.BlockOf(server)} },
		"a later pod":    func(c *cluster) { c.blocks[inet.BlockOf(server)].Leases[0].Since = noon.Add(time.Minute) },
		"a released one": func(c *cluster) { c.blocks[inet.BlockOf(server)].Leases[0].State = lease.Released },
		"an outage":      func(c *cluster) { c.fault = errors.New("the API server is away") },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster()
			change(c)
			if got := completed(t, c.directory(), event(server)); got.Target != nil {
				t.Errorf("found %+v", got.Target)
			}
		})
	}
}

// The lease names the pod, even if the pod is gone or another one has its name.
func TestLeaseNamesFormerPod(t *testing.T) {
	for name, others := range map[string]map[lease.PodKey]ipam.Pod{"gone": nil, "successor": {web: {PodKey: web, UID: "w2", Labels: map[string]string{"app": "x"}}}} {
		t.Run(name, func(t *testing.T) {
			c := newCluster()
			c.others = others
			if got := completed(t, c.directory(), event(server)).Target; got == nil || got.Pod != web || len(got.Labels) != 0 {
				t.Errorf("found %+v", got)
			}
		})
	}
}

func TestQuestionsAreLimited(t *testing.T) {
	c := newCluster()
	d := c.directory()
	scan := func() {
		for i := range 10 * burst {
			// Each is in another block.
			completed(t, d, event(netip.AddrFrom4([4]byte{172, byte(16 + i/256), byte(i), 1})))
		}
	}
	scan()
	if c.asked > burst {
		t.Errorf("asked %d times at once, want %d at most", c.asked, burst)
	}
	c.asked, c.now = 0, c.now.Add(time.Second)
	scan()
	if c.asked == 0 || c.asked > questions {
		t.Errorf("asked %d times in the next second, want 1 to %d", c.asked, questions)
	}
}

func TestOutageCostsOneQuestion(t *testing.T) {
	c := newCluster()
	c.fault = errors.New("the API server is away")
	d := c.directory()
	for range 50 {
		completed(t, d, event(server))
	}
	if c.asked != 1 {
		t.Errorf("asked %d times during the outage", c.asked)
	}
	c.fault, c.now = nil, c.now.Add(outage)
	if got := completed(t, d, event(server)); got.Target == nil || got.Target.Pod != web {
		t.Errorf("after the outage: %+v", got.Target)
	}
}

// Labels are those of the moment, and flows of one pod share them.
// After its context, a reader gets the remembered answers.
func TestImpatientReaderAsksNothing(t *testing.T) {
	c := newCluster()
	d := c.directory()
	impatient, leave := context.WithCancel(t.Context())
	leave()
	complete := func(ctx context.Context) flow.Flow {
		f := flow.Flow{Event: event(server)}
		d.Complete(ctx, &f)
		return f
	}
	if f := complete(impatient); f.Target.IsPod() || c.asked > 0 {
		t.Errorf("target %+v after %d questions", f.Target, c.asked)
	}
	complete(t.Context())
	asked := c.asked
	c.now = c.now.Add(2 * remembered)
	if f := complete(impatient); !f.Target.IsPod() || c.asked > asked {
		t.Errorf("target %+v after %d more questions", f.Target, c.asked-asked)
	}
}

func TestLocalEndFollowsLabels(t *testing.T) {
	c := newCluster()
	d := c.directory()
	e := event(server)
	first := d.Local(&e)
	c.now = c.now.Add(2 * ownTTL)
	if second := d.Local(&e); second != first {
		t.Error("equal ends are not shared")
	}
	c.own[frontC] = ipam.Pod{PodKey: frontC, UID: "f", Labels: map[string]string{"app": "new"}}
	c.now = c.now.Add(2 * ownTTL)
	if got := d.Local(&e).Labels["app"]; got != "new" || first.Labels["app"] != "front" {
		t.Errorf("label %q, before %q", got, first.Labels["app"])
	}
	c.own[frontC] = ipam.Pod{PodKey: frontC, UID: "g", Labels: map[string]string{"app": "successor"}}
	c.now = c.now.Add(2 * ownTTL)
	if got := d.Local(&e); got.UID != "f" || len(got.Labels) != 0 {
		t.Errorf("end %+v has the labels of a successor", got)
	}
}
