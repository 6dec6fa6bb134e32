package cloudnetwork

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/events"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam/withhold"
	"spiderpool.dev/spiderpool/internal/kube/blockindex"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/liveblocks"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
	"spiderpool.dev/spiderpool/internal/kube/status"
	"spiderpool.dev/spiderpool/internal/lease"
)

// indexer adds indexes to a fake client before it is built.
type indexer struct{ *fake.ClientBuilder }

func (x indexer) IndexField(_ context.Context, o client.Object, field string, values client.IndexerFunc) error {
	x.WithIndex(o, field, values)
	return nil
}

// bench is a reconciler with a cluster and a cloud in memory.
type bench struct {
	t       *testing.T
	name    string // of the SpiderCloudNetwork
	c       client.WithWatch
	cloud   *cloudtest.Fake
	subnets []string
	clock   *clocktesting.FakePassiveClock
	events  *events.FakeRecorder
	r       *Reconciler
}

// newBench has the subnets and the SpiderCloudNetwork "aws" of the guide, with pools of these IP versions.
func newBench(t *testing.T, versions ...int64) *bench {
	t.Helper()
	types := scheme.New()
	// The builder's own tracker manages fields, and makes a mapper of all types at each write for that: that would be most of a test's time.
	tracker := clienttesting.NewObjectTracker(types, serializer.NewCodecFactory(types).UniversalDecoder())
	b := fake.NewClientBuilder().WithScheme(types).WithObjectTracker(tracker).WithStatusSubresource(&v2beta1.SpiderCloudNetwork{}, &v2beta1.SpiderIPPool{})
	if err := blockindex.IndexBlocksByPool(t.Context(), indexer{b}); err != nil {
		t.Fatal(err)
	}
	x := &bench{
		t: t, name: "aws", c: b.Build(), cloud: cloudtest.NewFake(), clock: clocktesting.NewFakePassiveClock(time.Now()), events: events.NewFakeRecorder(100),
	}
	x.restart()
	x.cloud.AddType("m5.large", cloud.Limits{Interfaces: 3, IPv4: 10, IPv6: 10, Prefixes: true})
	x.subnets = []string{
		x.cloud.AddSubnet("eu-central-1a", nil, prefix("172.31.16.0/20"), prefix("2406:da1e:c4:ed01::/64")),
		x.cloud.AddSubnet("eu-central-1b", nil, prefix("172.31.32.0/24"), prefix("2406:da1e:c4:ed02::/64")),
	}
	network := &v2beta1.SpiderCloudNetwork{ObjectMeta: metav1.ObjectMeta{Name: x.name, UID: "uid-aws"}}
	network.Spec = v2beta1.SpiderCloudNetworkSpec{
		Provider: v2beta1.CloudAWS, Mode: v2beta1.CloudDiscover, IPVersions: versions, Default: new(true),
		Interfaces: []v2beta1.CloudInterface{{Device: 0, MultusName: "kube-system/ipvlan-ens5", Master: "ens5"}},
	}
	x.create(network)
	return x
}

// restart begins with an empty memory, like a new leader.
func (x *bench) restart() {
	x.start(x.c, x.cloud)
}

// start begins with an empty memory, and with this client and cloud.
func (x *bench) start(c client.WithWatch, provider cloud.Provider) {
	w, log := status.Writer{Client: c, Recorder: status.Recorder{EventRecorder: x.events}}, slog.New(slog.DiscardHandler)
	o := Options{
		Withholder: withhold.New(liveblocks.New(c, c), x.clock.Now, log),
		Cluster:    func(context.Context) (string, error) { return "uid-cluster", nil },
		Live:       c,
	}
	x.r = New(w, func(context.Context, v2beta1.CloudProvider, string) (cloud.Provider, error) { return provider, nil }, o, log)
	x.r.clock = x.clock
}

// intercept puts functions between the reconciler and the API server.
func (x *bench) intercept(funcs interceptor.Funcs) { x.r.client = interceptor.NewClient(x.c, funcs) }

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

func (x *bench) create(objects ...client.Object) {
	x.t.Helper()
	for _, o := range objects {
		if err := x.c.Create(x.t.Context(), o); err != nil {
			x.t.Fatal(err)
		}
	}
}

func (x *bench) node(name, providerID string) {
	x.t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	node.Spec.ProviderID = providerID
	x.create(node)
}

// join adds a node with pieces on its primary interface, and returns the interface.
func (x *bench) join(name, subnet string, pieces ...string) string {
	x.t.Helper()
	id := x.cloud.AddInstance("m5.large", subnet)
	x.node(name, x.cloud.ProviderID(id))
	instances, err := x.cloud.Instances(x.t.Context(), []string{id})
	if err != nil {
		x.t.Fatal(err)
	}
	iface := instances[0].Interfaces[0].ID
	x.assign(iface, pieces...)
	return iface
}

func (x *bench) assign(iface string, pieces ...string) {
	x.t.Helper()
	for _, p := range pieces {
		a := cloud.Assignment{Interface: iface, Family: inet.FamilyOf(prefix(p).Addr()), Unit: cloud.Prefixes, Exact: []netip.Prefix{prefix(p)}}
		if _, err := x.cloud.Assign(x.t.Context(), a); err != nil {
			x.t.Fatal(err)
		}
	}
}

// pass lets time go by and reconciles. It returns the time until the next reconcile.
func (x *bench) pass(after time.Duration) time.Duration {
	x.t.Helper()
	x.clock.SetTime(x.clock.Now().Add(after))
	next, err := x.reconcile()
	if err != nil {
		x.t.Fatal(err)
	}
	return next
}

func (x *bench) reconcile() (next time.Duration, err error) {
	result, err := x.r.Reconcile(x.t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Name: x.name}})
	return result.RequeueAfter, err
}

func (x *bench) pools() map[string]*v2beta1.SpiderIPPool {
	x.t.Helper()
	var list v2beta1.SpiderIPPoolList
	if err := x.c.List(x.t.Context(), &list); err != nil {
		x.t.Fatal(err)
	}
	pools := map[string]*v2beta1.SpiderIPPool{}
	for i := range list.Items {
		pools[list.Items[i].Name] = &list.Items[i]
	}
	return pools
}

// ips returns spec.ips of all pools, as "name: range, range".
func (x *bench) ips() []string {
	var lines []string
	for name, pool := range x.pools() {
		lines = append(lines, name+": "+strings.Join(pool.Spec.IPs, ", "))
	}
	slices.Sort(lines)
	return lines
}

func (x *bench) want(lines ...string) {
	x.t.Helper()
	if diff := cmp.Diff(lines, x.ips()); diff != "" {
		x.t.Fatalf("pools (-want +got)\n%s", diff)
	}
}

// reserved returns the addresses that are kept from all pods.
func (x *bench) reserved() string {
	x.t.Helper()
	var list v2beta1.SpiderReservedIPList
	if err := x.c.List(x.t.Context(), &list); err != nil {
		x.t.Fatal(err)
	}
	var all []string
	for _, r := range list.Items {
		all = append(all, r.Spec.IPs...)
	}
	return strings.Join(all, ", ")
}

// blockOf returns a block of a pool with one address, which pod default/web-0 uses.
func blockOf(node, pool, base, addr string, since time.Time) *v2beta1.SpiderIPBlock {
	leased := lease.Lease{
		Addr: netip.MustParseAddr(addr), State: lease.InUse, Pool: pool, Since: since,
		Holder: lease.Holder{Pod: lease.ParsePodKey("default/web-0"), PodUID: "u", Node: node, Attachment: lease.Attachment{ContainerID: "c", Interface: "eth0"}},
	}
	return compile.BlockObject(lease.Block{Base: netip.MustParseAddr(base), Node: node, Leases: []lease.Lease{leased}})
}
