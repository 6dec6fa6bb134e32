package cloudnetwork

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
)

// coolDown is that of the benches in the mode Manage.
const coolDown = time.Minute

// throttledAssign are a few refusals.
var throttledAssign = cloudtest.Fault{Method: "Assign", Kind: cloud.Throttled, Times: 3}

// newManagedBench has a SpiderCloudNetwork in the mode Manage.
func newManagedBench(t *testing.T, versions ...int64) *bench {
	t.Helper()
	x := newBench(t, versions...)
	x.mode(v2beta1.CloudManage)
	return x
}

func (x *bench) mode(mode v2beta1.CloudMode) {
	x.t.Helper()
	network := x.network()
	network.Spec.Mode, network.Spec.Manage = mode, nil
	if mode == v2beta1.CloudManage {
		network.Spec.Manage = &v2beta1.CloudManagement{CoolDownMinutes: new(int64(coolDown / time.Minute))}
	}
	if err := x.c.Update(x.t.Context(), network); err != nil {
		x.t.Fatal(err)
	}
}

func (x *bench) network() *v2beta1.SpiderCloudNetwork {
	x.t.Helper()
	network := &v2beta1.SpiderCloudNetwork{}
	if err := x.c.Get(x.t.Context(), client.ObjectKey{Name: x.name}, network); err != nil {
		x.t.Fatal(err)
	}
	return network
}

// pods adds pods to a node that wait for their addresses.
func (x *bench) pods(node string, n int) {
	x.t.Helper()
	for i := range n {
		x.create(waitingPod(node, fmt.Sprintf("%s-web-%d", node, i)))
	}
}

func waitingPod(node, name string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}}
	pod.Annotations = map[string]string{names.AnnotationMultusDefaultNetwork: "kube-system/ipvlan-ens5"}
	pod.Spec.NodeName = node
	return pod
}

// removePods deletes all pods and leases.
func (x *bench) removePods() {
	x.t.Helper()
	if err := x.c.DeleteAllOf(x.t.Context(), &corev1.Pod{}, client.InNamespace("default")); err != nil {
		x.t.Fatal(err)
	}
	if err := x.c.DeleteAllOf(x.t.Context(), &v2beta1.SpiderIPBlock{}); err != nil {
		x.t.Fatal(err)
	}
}

// passes reconciles n times, whenever the reconciler wants.
func (x *bench) passes(n int) {
	x.t.Helper()
	next := time.Duration(0)
	for range n {
		next = x.pass(next)
	}
}

// assigned returns the pieces of an interface, whatever descriptions say.
func (x *bench) assigned(iface string) []netip.Prefix {
	x.t.Helper()
	for _, i := range x.cloud.Present() {
		if i.ID == iface {
			return i.Assigned
		}
	}
	x.t.Fatalf("no interface %s", iface)
	return nil
}

func (x *bench) wantAssigned(iface string, want ...string) {
	x.t.Helper()
	if got := fmt.Sprint(x.assigned(iface)); got != "["+strings.Join(want, " ")+"]" {
		x.t.Fatalf("%s has %s, want %v", iface, got, want)
	}
}

func (x *bench) assignable(pool string) int {
	x.t.Helper()
	n, _ := strconv.Atoi(x.pools()[pool].Annotations[names.AnnotationPoolAssignable])
	return n
}

// withheld returns the addresses that are withheld.
func (x *bench) withheld() inet.Set {
	x.t.Helper()
	var blocks v2beta1.SpiderIPBlockList
	if err := x.c.List(x.t.Context(), &blocks); err != nil {
		x.t.Fatal(err)
	}
	var addrs []netip.Addr
	for i := range blocks.Items {
		block, _ := compile.StoredBlock(&blocks.Items[i])
		for _, l := range block.Withheld() {
			addrs = append(addrs, l.Addr)
		}
	}
	return inet.OfAddrs(addrs...)
}

func TestJoiningNodeGetsAddresses(t *testing.T) {
	x := newManagedBench(t, 4, 6)
	x.join("worker1", x.subnets[1])
	x.pass(0)
	x.want("aws-worker1-0-v4: 172.31.32.16-172.31.32.31", "aws-worker1-0-v6: 2406:da1e:c4:ed02:1::-2406:da1e:c4:ed02:1::ff")
	x.condition("PoolsUpToDate", "")
	if got := x.assignable("aws-worker1-0-v4"); got != 8*16 {
		t.Errorf("%d addresses are assignable, want those of 8 more prefixes", got)
	}
	before := x.cloud.Requests()
	x.join("worker2", x.subnets[1])
	x.passes(4)
	if calls := x.cloud.Requests() - before; calls > 3+1 { // join asks the fake once
		t.Errorf("%d calls for a node that joins", calls-1)
	}
	x.condition("PoolsUpToDate", "")
}

func TestWaitingPodsGetPrefixes(t *testing.T) {
	x := newManagedBench(t, 4)
	eni := x.join("worker1", x.subnets[1])
	x.pass(0)
	x.pods("worker1", 20)
	other := waitingPod("worker1", "other") // uses a pool of its own
	other.Annotations[names.AnnotationPodIPPool] = `{"ipv4":["mine"]}`
	host := waitingPod("worker1", "host")
	host.Spec.HostNetwork = true
	x.create(other, host)
	x.pass(time.Minute) // the last answer is old
	x.wantAssigned(eni, "172.31.32.16/28")
	x.pass(100 * time.Millisecond)
	x.wantAssigned(eni, "172.31.32.16/28", "172.31.32.32/28")
	x.want("aws-worker1-0-v4: 172.31.32.16-172.31.32.47")
}

// TestPodsDuringAssignmentDelayNothing changes a pool while the cloud answers, as the count of addresses in its status does.
func TestPodsDuringAssignmentDelayNothing(t *testing.T) {
	x := newManagedBench(t, 4)
	x.join("worker1", x.subnets[1])
	x.pass(0)
	x.pods("worker1", 20)
	x.intercept(interceptor.Funcs{
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, patch client.Patch, options ...client.SubResourcePatchOption) error {
			pool := x.pools()["aws-worker1-0-v4"]
			metav1.SetMetaDataLabel(&pool.ObjectMeta, "count", fmt.Sprint(x.cloud.Requests()))
			if err := x.c.Update(ctx, pool); err != nil {
				t.Error(err)
			}
			return c.SubResource(sub).Patch(ctx, o, patch, options...)
		},
	})
	x.pass(time.Minute) // the last answer is old
	x.pass(100 * time.Millisecond)
	x.want("aws-worker1-0-v4: 172.31.32.16-172.31.32.47")
}

// TestConflictsDelayNoPrefix has a slow controller meet conflicts. The pause before the next question must not grow meanwhile.
func TestConflictsDelayNoPrefix(t *testing.T) {
	x := newManagedBench(t, 4)
	x.join("worker1", x.subnets[1])
	x.pass(0)
	x.pods("worker1", 20)
	conflicts := 3
	x.intercept(interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, patch client.Patch, options ...client.PatchOption) error {
			if _, pool := o.(*v2beta1.SpiderIPPool); pool && conflicts > 0 {
				conflicts--
				return apierrors.NewConflict(v2beta1.GroupVersion.WithResource("spiderippools").GroupResource(), o.GetName(), errors.New("a test"))
			}
			return c.Patch(ctx, o, patch, options...)
		},
	})
	x.pass(time.Minute) // the last answer is old
	x.pass(100 * time.Millisecond)
	for range 3 {
		x.pass(cloud.Apart + time.Second)
	}
	x.want("aws-worker1-0-v4: 172.31.32.16-172.31.32.47")
}

func TestStoppedGrowthNamesReason(t *testing.T) {
	for _, tc := range []struct {
		name, reason, part string
		fail               func(x *bench)
		mend               func(x *bench)
	}{
		{"no permission", "PermissionMissing", "node worker1 needs more IPv4 addresses: the cloud does not allow the action fake:Assign; add it to the policy of the controller's role",
			func(x *bench) { x.cloud.Deny("Assign") }, func(x *bench) { x.cloud.Allow("Assign") }},
		{"throttled", "Throttled", "the cloud limits the calls of fake:Assign", func(x *bench) { x.cloud.Fail(throttledAssign) }, func(*bench) {}},
		{"no capacity", "NoCapacity", "has no free IPv4 address; add a CIDR or use nodes in another subnet",
			func(x *bench) { x.cloud.Occupy(x.subnets[1], prefix("172.31.32.0/24")) }, nil},
		{"limit of the type", "TypeLimit", "has all 10 IPv4 addresses and prefixes that the instance type m5.large allows, and 20 pods wait",
			func(x *bench) { x.pods("worker1", 164-20+20) }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := newManagedBench(t, 4)
			eni := x.join("worker1", x.subnets[1])
			x.pass(0)
			one := x.ips()
			tc.fail(x)
			if tc.name != "limit of the type" {
				x.pods("worker1", 20)
			}
			x.passes(4)
			x.degraded(tc.reason, tc.part)
			if got := x.assignable("aws-worker1-0-v4"); got != 0 {
				t.Errorf("%d addresses are assignable", got)
			}
			if tc.name != "limit of the type" {
				x.want(one...)
			}
			if tc.mend == nil {
				return
			}
			tc.mend(x)
			x.pass(stopMax)
			x.passes(10)
			x.wantAssigned(eni, "172.31.32.16/28", "172.31.32.32/28")
			x.condition("PoolsUpToDate", "")
		})
	}
}

func TestFragmentedSubnetGivesSingleAddresses(t *testing.T) {
	x := newManagedBench(t, 4)
	eni := x.join("worker1", x.subnets[1])
	x.pass(0)
	for block := 2; block < 16; block++ {
		x.cloud.Occupy(x.subnets[1], netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 31, 32, byte(block * 16)}), 32))
	}
	x.pods("worker1", 15) // with a reserve of 3
	x.passes(4)
	x.wantAssigned(eni, "172.31.32.5/32", "172.31.32.6/32", "172.31.32.16/28")
	x.condition("PoolsUpToDate", "")
	x.removePods()
	x.passes(30)
	x.wantAssigned(eni, "172.31.32.16/28")
}

func TestForeignInterfacesStayInManage(t *testing.T) {
	x := newManagedBench(t, 4)
	x.join("worker1", x.subnets[1])
	foreign, err := x.cloud.Create(t.Context(), cloud.NewInterface{Subnet: x.subnets[1]})
	if err != nil {
		t.Fatal(err)
	}
	x.assign(foreign.ID, "172.31.32.128/28")
	x.passes(10)
	x.wantAssigned(foreign.ID, "172.31.32.128/28")
	x.want("aws-worker1-0-v4: 172.31.32.16-172.31.32.31")
}

func TestPoolOfUserStopsGrowth(t *testing.T) {
	x := newManagedBench(t, 4)
	mine := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "mine"}}
	mine.Spec.Subnet, mine.Spec.IPs = "172.31.32.0/24", []string{"172.31.32.0-172.31.32.255"}
	x.create(mine)
	eni := x.join("worker1", x.subnets[1])
	x.passes(10)
	x.condition("Overlap", "take them out of that pool")
	if n := len(x.assigned(eni)); n > 1 {
		t.Errorf("the interface has %d prefixes, all of them in a pool of the user", n)
	}
	x.want("mine: 172.31.32.0-172.31.32.255")
}

// leaseAll has pods use addresses of a block.
func (x *bench) leaseAll(node, pool, base string, n int) {
	x.t.Helper()
	block := lease.Block{Base: netip.MustParseAddr(base), Node: node}
	for i := range n {
		a := inet.BlockAddr(block.Base, i)
		block.Leases = append(block.Leases, lease.Lease{
			Addr: a, State: lease.InUse, Pool: pool, Since: x.clock.Now(),
			Holder: lease.Holder{Pod: lease.ParsePodKey("default/" + a.String()), PodUID: a.String(), Node: node, Attachment: lease.Attachment{ContainerID: a.String(), Interface: "eth0"}},
		})
	}
	x.create(compile.BlockObject(block))
}

func TestReserveIsProportional(t *testing.T) {
	x := newManagedBench(t, 4)
	eni := x.join("worker1", x.subnets[1])
	x.pass(0)
	x.leaseAll("worker1", "aws-worker1-0-v4", "172.31.32.16", 13) // with 20 %, 16 addresses
	x.passes(4)
	x.wantAssigned(eni, "172.31.32.16/28")
	x.pods("worker1", 1)
	x.passes(4)
	x.wantAssigned(eni, "172.31.32.16/28", "172.31.32.32/28")
}

// A pod that waits gets an address although users keep most of a prefix from all pods.
func TestKeptAddressesDoNotCount(t *testing.T) {
	for name, keep := range map[string]func(x *bench){
		"a SpiderReservedIP": func(x *bench) {
			mine := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: "mine"}}
			mine.Spec.IPs = []string{"172.31.32.16-172.31.32.28"}
			x.create(mine)
		},
		"excludeIPs": func(x *bench) {
			pool := x.pools()["aws-worker1-0-v4"]
			pool.Spec.ExcludeIPs = []string{"172.31.32.16-172.31.32.28"}
			if err := x.c.Update(x.t.Context(), pool); err != nil {
				x.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			x := newManagedBench(t, 4)
			eni := x.join("worker1", x.subnets[1])
			x.pass(0)
			keep(x)
			x.pods("worker1", 6)
			x.passes(4)
			x.wantAssigned(eni, "172.31.32.16/28", "172.31.32.32/28")
			x.removePods()
			x.passes(30)
			if got := len(x.assigned(eni)); got != 1 {
				t.Errorf("the interface has %d prefixes for no pods", got)
			}
		})
	}
}

// An interface does not grow for ever if users keep all that the cloud assigns.
func TestKeptSubnetStopsGrowth(t *testing.T) {
	x := newManagedBench(t, 4)
	mine := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: "mine"}}
	mine.Spec.IPs = []string{"172.31.32.0-172.31.32.255"}
	x.create(mine)
	eni := x.join("worker1", x.subnets[1])
	x.passes(10)
	if n := len(x.assigned(eni)); n > 1 {
		t.Errorf("the interface has %d prefixes, all of them kept", n)
	}
}

// The API server has another UID for a static pod than its lease.
func TestStaticPodWithAddressDoesNotWait(t *testing.T) {
	x := newManagedBench(t, 4)
	eni := x.join("worker1", x.subnets[1])
	x.pass(0)
	x.leaseAll("worker1", "aws-worker1-0-v4", "172.31.32.16", 13) // with 20 %, 16 addresses
	static := waitingPod("worker1", "static")
	static.Annotations[corev1.MirrorPodAnnotationKey] = "172.31.32.16" // see leaseAll
	x.create(static)
	x.passes(4)
	x.wantAssigned(eni, "172.31.32.16/28")
}

// The mode Discover has no calls to make.
func TestDiscoverIsNotBusy(t *testing.T) {
	x := newManagedBench(t, 4)
	x.join("worker1", x.subnets[1])
	x.pass(0)
	x.r.sessions["aws"].more = true // calls wait for the next reconcile
	x.mode(v2beta1.CloudDiscover)
	x.passes(10)
	if next := x.pass(time.Second); next < time.Second {
		t.Errorf("the next reconcile is in %s", next)
	}
}

// While the outcome of as many calls as status.changes takes is unknown, there is nothing to do until that is clear.
func TestDoubtsCostNoReconciles(t *testing.T) {
	x := newManagedBench(t, 4)
	eni := x.join("worker1", x.subnets[1])
	x.pass(0)
	for i := range maxChanges {
		x.r.sessions["aws"].doubts[strconv.Itoa(i)] = doubt{CloudChange: v2beta1.CloudChange{Node: "other"}, over: x.clock.Now().Add(callTimeout)}
	}
	x.pods("worker1", 20)
	x.passes(6)
	x.wantAssigned(eni, "172.31.32.16/28", "172.31.32.32/28")
}

// The cloud answers nothing about a node without an instance.
func TestDoubtEndsWithoutInstance(t *testing.T) {
	x := newManagedBench(t, 4)
	x.join("worker1", x.subnets[1])
	x.pass(0)
	x.node("worker2", "") // created anew, and not initialised yet
	x.r.sessions["aws"].doubts["a"] = doubt{CloudChange: v2beta1.CloudChange{Node: "worker2"}, over: x.clock.Now().Add(callTimeout)}
	x.pass(callTimeout)
	if doubts := x.r.sessions["aws"].doubts; len(doubts) > 0 {
		t.Errorf("the doubts are %v", doubts)
	}
}

// late is a cloud that takes longer to answer than an answer is fresh.
type late struct {
	cloud.Provider
	x *bench
}

func (p late) Instances(ctx context.Context, ids []string) ([]cloud.Instance, error) {
	p.x.clock.SetTime(p.x.clock.Now().Add(cloud.Apart + time.Second))
	return p.Provider.Instances(ctx, ids)
}

func TestSlowCloudIsFollowed(t *testing.T) {
	x := newManagedBench(t, 4)
	x.start(x.c, late{x.cloud, x})
	eni := x.join("worker1", x.subnets[0])
	x.passes(3)
	if got := len(x.assigned(eni)); got != 1 {
		t.Fatalf("got %d prefixes, want the first one", got)
	}
	x.pods("worker1", 20)
	x.passes(5)
	if got := len(x.assigned(eni)); got != 2 {
		t.Fatalf("got %d prefixes for 20 pods, want 2", got)
	}
}
