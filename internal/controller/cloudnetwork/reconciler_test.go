package cloudnetwork

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/events"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"spiderpool.dev/spiderpool/api/names"
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

func TestNodesGetPoolsOfGuide(t *testing.T) {
	x := newBench(t, 4, 6)
	eni := x.join("master", x.subnets[0], "172.31.28.16/28", "2406:da1e:c4:ed01:c57d::/80")
	x.join("worker1", x.subnets[1], "172.31.32.176/28", "2406:da1e:c4:ed02:7a2e::/80")
	before := x.cloud.Requests()
	x.pass(0)
	x.pass(time.Second)
	x.condition("PoolsUpToDate", "")
	if calls := x.cloud.Requests() - before; calls != 2 {
		t.Errorf("%d calls for both nodes, want one about instances and one about subnets", calls)
	}
	x.want(
		"aws-master-0-v4: 172.31.28.16-172.31.28.31",
		"aws-master-0-v6: 2406:da1e:c4:ed01:c57d::-2406:da1e:c4:ed01:c57d:ffff:ffff:ffff",
		"aws-worker1-0-v4: 172.31.32.176-172.31.32.191",
		"aws-worker1-0-v6: 2406:da1e:c4:ed02:7a2e::-2406:da1e:c4:ed02:7a2e:ffff:ffff:ffff",
	)
	got := x.pools()["aws-master-0-v4"]
	want := v2beta1.SpiderIPPoolSpec{NodeName: []string{"master"}, MultusName: []string{"kube-system/ipvlan-ens5"}, Default: new(true)}
	want.IPVersion, want.Subnet, want.Gateway, want.IPs = new(int64(4)), "172.31.16.0/20", new("172.31.16.1"), v2beta1.AddressRanges{"172.31.28.16-172.31.28.31"}
	if diff := cmp.Diff(want, got.Spec); diff != "" {
		t.Errorf("the pool differs from the guide's (-want +got)\n%s", diff)
	}
	labels := map[string]string{names.LabelPoolNode: "master", names.LabelCloudNetwork: "aws", names.LabelCloudInterface: eni}
	if diff := cmp.Diff(labels, got.Labels); diff != "" {
		t.Errorf("labels (-want +got)\n%s", diff)
	}
	config := &v2beta1.SpiderMultusConfig{}
	if err := x.c.Get(t.Context(), client.ObjectKey{Namespace: "kube-system", Name: "ipvlan-ens5"}, config); err != nil {
		t.Fatal(err)
	}
	if *config.Spec.CNIType != v2beta1.CNIIPvlan || !slices.Equal(config.Spec.IPvlan.Master, []string{"ens5"}) {
		t.Errorf("the attachment is %+v", config.Spec)
	}
}

// blockOf returns a block of a pool with one address, which pod default/web-0 uses.
func blockOf(node, pool, base, addr string, since time.Time) *v2beta1.SpiderIPBlock {
	leased := lease.Lease{
		Addr: netip.MustParseAddr(addr), State: lease.InUse, Pool: pool, Since: since,
		Holder: lease.Holder{Pod: lease.ParsePodKey("default/web-0"), PodUID: "u", Node: node, Attachment: lease.Attachment{ContainerID: "c", Interface: "eth0"}},
	}
	return compile.BlockObject(lease.Block{Base: netip.MustParseAddr(base), Node: node, Leases: []lease.Lease{leased}})
}

func TestTakenPrefixGoesOutOfService(t *testing.T) {
	x := newBench(t, 4)
	eni := x.join("worker1", x.subnets[1], "172.31.32.176/28", "172.31.32.64/28")
	x.join("worker2", x.subnets[1], "172.31.32.16/28")
	x.pass(0)
	block := blockOf("worker1", "aws-worker1-0-v4", "172.31.32.64", "172.31.32.65", x.clock.Now())
	x.create(block)
	full, other := "aws-worker1-0-v4: 172.31.32.64-172.31.32.79, 172.31.32.176-172.31.32.191", "aws-worker2-0-v4: 172.31.32.16-172.31.32.31"
	x.want(full, other)

	x.cloud.TakeAway(eni, prefix("172.31.32.64/28"))
	next := x.pass(resyncMax)
	x.want(full, other)
	if x.reserved() != "" || next > cloud.Apart {
		t.Fatalf("after one answer, %q are reserved, and the next question is in %s", x.reserved(), next)
	}
	x.pass(next)
	if x.want(full, other); x.reserved() != "172.31.32.64-172.31.32.79" {
		t.Fatalf("after two answers, %q are reserved", x.reserved())
	}
	x.condition("AddressesGone", "172.31.32.65 from interface "+eni)
	if event := <-x.events.Events; !strings.Contains(event, "AddressesGone") || !strings.Contains(event, "172.31.32.65 of default/web-0") {
		t.Errorf("the event is %s", event)
	}
	x.pass(settleTime)
	x.want("aws-worker1-0-v4: 172.31.32.65, 172.31.32.176-172.31.32.191", other)
	if err := x.c.Delete(t.Context(), block); err != nil {
		t.Fatal(err)
	}
	x.pass(settleTime)
	x.want("aws-worker1-0-v4: 172.31.32.176-172.31.32.191", other)
	if x.reserved() == "" {
		t.Error("the reservation ended before the agents could know the pool")
	}
	x.pass(settleTime)
	if x.reserved() != "" {
		t.Errorf("%s are still reserved", x.reserved())
	}
	x.condition("PoolsUpToDate", "")
}

func TestLostAddressInUseCausesNoLoop(t *testing.T) {
	x := newBench(t, 4)
	eni := x.join("worker1", x.subnets[1], "172.31.32.176/28", "172.31.32.64/28")
	x.pass(0)
	x.create(blockOf("worker1", "aws-worker1-0-v4", "172.31.32.64", "172.31.32.65", x.clock.Now()))
	x.cloud.TakeAway(eni, prefix("172.31.32.64/28"))
	x.pass(x.pass(resyncMax))
	if x.reserved() == "" {
		t.Fatal("nothing is reserved")
	}
	for range 5 { // the next question about all nodes comes later
		if next := x.pass(settleTime + time.Second); next < time.Second {
			t.Fatalf("the next reconcile is in %s", next)
		}
	}
	x.condition("AddressesGone", "172.31.32.65")
}

func TestSettleTimeBeginsAfterWrites(t *testing.T) {
	x := newBench(t, 4)
	eni := x.join("worker1", x.subnets[1], "172.31.32.176/28", "172.31.32.64/28")
	x.pass(0)
	all := x.ips()
	x.intercept(interceptor.Funcs{Create: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.CreateOption) error {
		x.clock.SetTime(x.clock.Now().Add(settleTime)) // a slow API server
		return c.Create(ctx, o, options...)
	}})
	x.cloud.TakeAway(eni, prefix("172.31.32.64/28"))
	x.pass(x.pass(resyncMax))
	if x.reserved() == "" {
		t.Fatal("nothing is reserved")
	}
	x.pass(settleTime - time.Second)
	x.want(all...)
	x.pass(time.Second)
	x.want("aws-worker1-0-v4: 172.31.32.176-172.31.32.191")
}

func TestNewLeaderTrustsNoSingleAnswer(t *testing.T) {
	x := newBench(t, 4)
	x.join("worker1", x.subnets[1], "172.31.32.176/28")
	eni := x.join("worker2", x.subnets[1], "172.31.32.16/28")
	x.pass(0)
	all := x.ips()
	x.cloud.TakeAway(eni, prefix("172.31.32.16/28"))
	x.cloud.Freeze()
	x.assign(eni, "172.31.32.16/28")
	x.restart()
	x.pass(time.Minute) // stale
	x.want(all...)
	x.cloud.Thaw()
	x.pass(cloud.Apart)
	if x.want(all...); x.reserved() != "" {
		t.Errorf("%s are reserved because of a stale answer", x.reserved())
	}
}

func TestFaultyCloudChangesNoPool(t *testing.T) {
	for _, tc := range []struct {
		name, reason, part string
		fail               func(x *bench)
	}{
		{"throttled", "Throttled", "tries again", func(x *bench) { x.cloud.Throttle("Instances") }},
		{
			"no permission", "PermissionMissing", "fake:Instances; add it to the policy of the controller's role; the pools stay as they are (the cloud said: the test denied the action)",
			func(x *bench) { x.cloud.Deny("Instances") },
		},
		{"no credentials", "CredentialsInvalid", "check its role or keys, and its clock; the pools stay as they are (the cloud said: the test ordered a fault)", func(x *bench) {
			x.cloud.Fail(cloudtest.Fault{Method: "Instances", Kind: cloud.Credentials})
		}},
		{"lost", "CloudUnavailable", "stay as they are", func(x *bench) { x.cloud.Lose("Instances") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := newBench(t, 4)
			eni := x.join("worker1", x.subnets[1], "172.31.32.176/28")
			x.pass(0)
			all := x.ips()
			x.cloud.TakeAway(eni, prefix("172.31.32.176/28"))
			tc.fail(x)
			next := x.pass(resyncMax)
			x.want(all...)
			x.condition(tc.reason, tc.part)
			calls := x.cloud.Requests()
			x.pass(0)
			if x.cloud.Requests() != calls {
				t.Error("the controller asked again without a pause")
			}
			x.cloud.Allow("Instances")
			x.assign(eni, "172.31.32.176/28")
			x.pass(next)
			x.condition("PoolsUpToDate", "")
			x.want(all...)
		})
	}
}

func TestForeignObjectsAreLeftAlone(t *testing.T) {
	x := newBench(t, 4)
	pool := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "mine", Labels: map[string]string{names.LabelCloudNetwork: "aws"}}}
	pool.Spec.Subnet, pool.Spec.IPs = "172.31.32.0/24", []string{"172.31.32.176-172.31.32.179"}
	config := &v2beta1.SpiderMultusConfig{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "ipvlan-ens5"}}
	config.Spec.CNIType, config.Spec.IPvlan = new(v2beta1.CNIIPvlan), &v2beta1.MasterConfig{Master: []string{"eth0"}}
	x.create(pool, config)
	x.join("worker1", x.subnets[1], "172.31.32.176/28")
	x.pass(0)
	x.want("aws-worker1-0-v4: 172.31.32.180-172.31.32.191", "mine: 172.31.32.176-172.31.32.179")
	x.degraded("Overlap", "172.31.32.176-172.31.32.179 of interface")
	if err := x.c.Get(t.Context(), client.ObjectKeyFromObject(config), config); err != nil || config.Spec.IPvlan.Master[0] != "eth0" {
		t.Errorf("the user's attachment is %+v (%v)", config.Spec, err)
	}
}

func TestFailedWriteIsReported(t *testing.T) {
	x := newBench(t, 4)
	eni := x.join("worker1", x.subnets[1], "172.31.32.176/28")
	x.pass(0)
	x.condition("PoolsUpToDate", "")
	x.intercept(interceptor.Funcs{Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
		return apierrors.NewInternalError(errors.New("etcd has no space"))
	}})
	x.cloud.TakeAway(eni, prefix("172.31.32.176/28"))
	next := x.pass(resyncMax)
	x.clock.SetTime(x.clock.Now().Add(next))
	if _, err := x.reconcile(); err == nil {
		t.Error("the controller does not try again")
	}
	x.condition("WriteFailed", "etcd has no space")
}

func TestLateCacheIsNoFault(t *testing.T) {
	x := newBench(t, 4)
	x.join("worker1", x.subnets[1], "172.31.32.176/28")
	x.pass(0)
	hidden := true // the cache has seen no pool yet
	x.intercept(interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			if _, pools := list.(*v2beta1.SpiderIPPoolList); pools && hidden {
				return nil
			}
			return c.List(ctx, list, options...)
		},
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, options ...client.GetOption) error {
			if _, pool := o.(*v2beta1.SpiderIPPool); pool && hidden {
				return apierrors.NewNotFound(v2beta1.GroupVersion.WithResource("spiderippools").GroupResource(), key.Name)
			}
			return c.Get(ctx, key, o, options...)
		},
	})
	if next, err := x.reconcile(); err != nil || next != behindTime {
		t.Errorf("the next attempt is after %s (%v), want %s without an error in the log", next, err, behindTime)
	}
	x.condition("PoolsUpToDate", "")
	before := x.cloud.Calls("Instances")
	x.run(5 * time.Minute) // a broken watch
	if n := x.cloud.Calls("Instances") - before; n > 20 {
		t.Errorf("%d questions in 5 minutes with an old cache", n)
	}
	hidden = false
	x.pass(time.Second)
	x.condition("PoolsUpToDate", "")
}

func TestForeignPoolOfNameIsNamed(t *testing.T) {
	x := newBench(t, 4)
	pool := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "aws-worker1-0-v4"}}
	pool.Spec.Subnet, pool.Spec.IPs = "172.31.99.0/24", []string{"172.31.99.1"}
	x.create(pool)
	x.join("worker1", x.subnets[1], "172.31.32.176/28")
	x.pass(0)
	x.want("aws-worker1-0-v4: 172.31.99.1")
	x.condition("Refused", "create SpiderIPPool aws-worker1-0-v4: another owner has it")
}

func TestForeignReservedIPStays(t *testing.T) {
	x := newBench(t, 4)
	mine := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: "spiderpool-cloud-aws-ipv4", Labels: map[string]string{names.LabelCloudNetwork: "aws"}}}
	mine.Spec.IPVersion, mine.Spec.IPs = new(int64(4)), []string{"172.31.99.1"}
	x.create(mine)
	eni := x.join("worker1", x.subnets[1], "172.31.32.176/28")
	x.pass(0)
	full := "aws-worker1-0-v4: 172.31.32.176-172.31.32.191"
	check := func() {
		t.Helper()
		x.want(full)
		x.condition("Refused", "SpiderReservedIP spiderpool-cloud-aws-ipv4")
		if x.reserved() != "172.31.99.1" {
			t.Fatalf("the user's SpiderReservedIP has %q", x.reserved())
		}
	}
	check()
	x.cloud.TakeAway(eni, prefix("172.31.32.176/28"))
	x.pass(resyncMax)
	for range 3 {
		x.pass(settleTime)
		check()
	}
}

// A user who removes our labels does not take the pool from the controller.
func TestLostLabelsComeBack(t *testing.T) {
	x := newBench(t, 4)
	x.join("worker1", x.subnets[1], "172.31.32.176/28")
	x.pass(0)
	pool := x.pools()["aws-worker1-0-v4"]
	want := pool.Labels
	pool.Labels = nil
	if err := x.c.Update(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	x.pass(time.Second)
	if diff := cmp.Diff(want, x.pools()["aws-worker1-0-v4"].Labels); diff != "" {
		t.Errorf("labels (-want +got)\n%s", diff)
	}
	x.condition("PoolsUpToDate", "")
}

func TestUserKeepsOtherFields(t *testing.T) {
	x := newBench(t, 4)
	x.join("worker1", x.subnets[1], "172.31.32.176/28")
	x.pass(0)
	pool := x.pools()["aws-worker1-0-v4"]
	pool.Spec.Disable, pool.Spec.ExcludeIPs, pool.Spec.Gateway = new(true), []string{"172.31.32.180"}, new("172.31.32.2")
	if err := x.c.Update(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	x.pass(time.Second)
	pool = x.pools()["aws-worker1-0-v4"]
	if !*pool.Spec.Disable || len(pool.Spec.ExcludeIPs) != 1 || *pool.Spec.Gateway != "172.31.32.1" {
		t.Errorf("the pool is %+v", pool.Spec)
	}
}

func TestPrefixOfIdleInterfaceArrivesSoon(t *testing.T) {
	x := newBench(t, 4)
	eni := x.join("worker1", x.subnets[1])
	next, waited := x.pass(0), time.Duration(0)
	for waited < 20*time.Minute { // the pause between questions becomes long
		waited += next
		next = x.pass(next)
	}
	x.want()
	x.assign(eni, "172.31.32.176/28")
	for calls := x.cloud.Requests(); x.cloud.Requests() == calls; {
		next = x.pass(next)
	}
	if next > cloud.Apart {
		t.Errorf("the prefix is confirmed in %s", next)
	}
	x.pass(next)
	x.want("aws-worker1-0-v4: 172.31.32.176-172.31.32.191")
}

func TestNodeLeaves(t *testing.T) {
	x := newBench(t, 4)
	x.join("worker1", x.subnets[1], "172.31.32.176/28")
	x.join("worker2", x.subnets[1], "172.31.32.16/28")
	x.pass(0)
	if err := x.c.Delete(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker2"}}); err != nil {
		t.Fatal(err)
	}
	x.pass(time.Second)
	if pool := x.pools()["aws-worker2-0-v4"]; pool.DeletionTimestamp == nil {
		t.Error("the pool of the node that left stays")
	}
	if pool := x.pools()["aws-worker1-0-v4"]; pool.DeletionTimestamp != nil {
		t.Error("the pool of the other node is deleted")
	}
}

func TestNodeWithoutProviderIDIsNamed(t *testing.T) {
	x := newBench(t, 4)
	x.create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "bare"}})
	x.pass(0)
	x.condition("NodeUnknown", "node bare")
}

func TestFaultyProviderIDsCauseNoLoop(t *testing.T) {
	for _, tc := range []struct {
		name, reason string
		faulty       func(x *bench)
	}{
		{"node of another cloud, and no instance is known", "NoInstances", func(x *bench) {
			x.node("other", "kind://docker/kind/other")
			x.cloud.Terminate("i-3")
		}},
		{"two nodes of one instance", "Overlap", func(x *bench) {
			x.node("worker2", x.cloud.ProviderID("i-3"))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := newBench(t, 4)
			x.join("worker1", x.subnets[1], "172.31.32.176/28")
			tc.faulty(x)
			next := x.pass(0)
			x.condition(tc.reason, "")
			calls, spent := x.cloud.Requests(), time.Duration(0)
			for range 6 { // after 5, 10, 20, 40 seconds, and at least once a minute
				next, spent = x.pass(next), spent+next
			}
			if n := x.cloud.Requests() - calls; spent < time.Minute || n > 6 {
				t.Errorf("6 reconciles took %s and %d calls", spent, n)
			}
		})
	}
}

// slow is a provider that records the time it has for an answer.
type slow struct {
	cloud.Provider
	instances, subnets time.Duration
}

func (p *slow) Instances(ctx context.Context, ids []string) ([]cloud.Instance, error) {
	end, _ := ctx.Deadline()
	p.instances = time.Until(end)
	return p.Provider.Instances(ctx, ids)
}

func (p *slow) Subnets(ctx context.Context, ids []string, tags map[string]string) ([]cloud.Subnet, error) {
	end, _ := ctx.Deadline()
	p.subnets = time.Until(end)
	return p.Provider.Subnets(ctx, ids, tags)
}

func TestLargeQuestionsHaveMoreTime(t *testing.T) {
	x := newBench(t, 4)
	for n := range 2*callInstances + 1 {
		subnet := x.subnets[0]
		if n <= callSubnets {
			subnet = x.cloud.AddSubnet("eu-central-1c", nil, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(n), 0}), 24))
		}
		x.node(fmt.Sprintf("n%d", n), x.cloud.ProviderID(x.cloud.AddInstance("m5.large", subnet)))
	}
	p := &slow{Provider: x.cloud}
	x.r.providers = func(context.Context, v2beta1.CloudProvider, string) (cloud.Provider, error) { return p, nil }
	x.pass(0)
	if p.instances <= 2*callTimeout || p.subnets <= callTimeout {
		t.Errorf("%s for three calls about instances, %s for %d subnets", p.instances, p.subnets, callSubnets+2)
	}
}

// TestCallsStayFew joins 500 nodes, then one, and watches twenty minutes.
func TestCallsStayFew(t *testing.T) {
	x := newBench(t, 4)
	wide := x.cloud.AddSubnet("eu-central-1c", nil, prefix("10.0.0.0/16"))
	for n := range 500 {
		x.join(fmt.Sprintf("n%d", n), wide, fmt.Sprintf("10.0.%d.%d/28", 16+n/16, n%16*16))
	}
	calls := x.cloud.Requests()
	spent := func() int {
		before := calls
		calls = x.cloud.Requests()
		return calls - before
	}
	x.pass(0)
	if n := spent(); n != 2 || len(x.pools()) != 500 {
		t.Errorf("%d calls for 500 nodes, and %d pools", n, len(x.pools()))
	}
	x.join("late", wide, "10.0.200.16/28")
	spent()
	x.pass(time.Second)
	if n := spent(); n != 1 || len(x.pools()) != 501 {
		t.Errorf("%d calls for a node that joins, and %d pools", n, len(x.pools()))
	}
	next := x.pass(0)
	for end := x.clock.Now().Add(20 * time.Minute); x.clock.Now().Before(end); {
		next = x.pass(next)
	}
	if n := spent(); n < 4 || n > 6 {
		t.Errorf("%d calls in twenty minutes, want one each 4 to 5 minutes", n)
	}
}
