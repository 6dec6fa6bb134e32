package cloudnetwork

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest"
)

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
