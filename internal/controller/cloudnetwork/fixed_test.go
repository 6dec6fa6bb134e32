package cloudnetwork

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// fixedRange is the range of the pool aws-db-fixed-v4 of the benches.
const (
	fixedRange = "172.31.32.192-172.31.32.223"
	fixedIP    = "172.31.32.192"
	fixedV4    = "aws-db-fixed-v4"
)

// newFixedBench has worker1 and worker2 in the subnet of fixed addresses, and worker3 in another one. It returns the interfaces of
// the first two.
func newFixedBench(t *testing.T, ips ...string) (x *bench, eni1, eni2 string) {
	t.Helper()
	x = newManagedBench(t, 4, 6)
	for _, cidr := range []string{"172.31.32.192/27", "2406:da1e:c4:ed02:0:1:0:10/124"} {
		x.cloud.Reserve(x.subnets[1], cloud.Reservation{CIDR: prefix(cidr)})
	}
	x.fixedAddresses(v2beta1.CloudFixedAddresses{Name: "db", Subnet: x.subnets[1], IPs: append(ips, fixedRange)})
	eni1, eni2 = x.join("worker1", x.subnets[1]), x.join("worker2", x.subnets[1])
	x.join("worker3", x.subnets[0])
	x.passes(3)
	return x, eni1, eni2
}

func (x *bench) fixedAddresses(entries ...v2beta1.CloudFixedAddresses) {
	x.t.Helper()
	network := x.network()
	network.Spec.Interfaces[0].FixedAddresses = entries
	if err := x.c.Update(x.t.Context(), network); err != nil {
		x.t.Fatal(err)
	}
}

// lease writes the lease of a fixed address, and removes it for the state Released.
func (x *bench) lease(addr string, state lease.State, pod, uid, node string) {
	x.t.Helper()
	a := netip.MustParseAddr(addr)
	object := &v2beta1.SpiderIPBlock{}
	exists := x.c.Get(x.t.Context(), client.ObjectKey{Name: compile.BlockName(inet.BlockOf(a))}, object) == nil
	block := lease.Block{Base: inet.BlockOf(a)}
	if exists {
		block, _ = compile.StoredBlock(object)
	}
	l := lease.Lease{Addr: a, State: state, Since: x.clock.Now()}
	if state != lease.Released {
		l.Pool = cloud.FixedPoolName(x.name, "db", inet.FamilyOf(a))
		l.Holder = lease.Holder{
			Pod: lease.ParsePodKey("default/" + pod), PodUID: uid, Node: node, Attachment: lease.Attachment{ContainerID: uid, Interface: "eth0"},
			FixedFor: lease.Owner{Kind: lease.KindPod, Namespace: "default", Name: pod},
		}
	}
	object = compile.BlockObject(block.With(l))
	err := x.c.Update(x.t.Context(), object)
	if !exists {
		err = x.c.Create(x.t.Context(), object)
	}
	if err != nil {
		x.t.Fatal(err)
	}
}

// placement returns what agents see about an address, e.g. "eni-1 uid-1".
func (x *bench) placement(addr string) v2beta1.CloudPlacement {
	x.t.Helper()
	for name, pool := range x.pools() {
		if i := slices.IndexFunc(pool.Status.Placements, func(p v2beta1.CloudPlacement) bool { return p.IP == addr }); i >= 0 && strings.Contains(name, "-fixed-") {
			return pool.Status.Placements[i]
		}
	}
	return v2beta1.CloudPlacement{}
}

func (x *bench) wantPlaced(addr, iface, uid string) {
	x.t.Helper()
	if diff := cmp.Diff(v2beta1.CloudPlacement{IP: addr, Interface: iface, PodUID: uid}, x.placement(addr)); diff != "" {
		x.t.Fatalf("placement (-want +got)\n%s", diff)
	}
}

// at returns the interfaces with a single address.
func (x *bench) at(addr string) (ifaces []string) {
	a := netip.MustParseAddr(addr)
	for _, i := range x.cloud.Present() {
		if slices.Contains(i.Assigned, netip.PrefixFrom(a, a.BitLen())) {
			ifaces = append(ifaces, i.ID)
		}
	}
	return ifaces
}

func (x *bench) wantAt(addr string, ifaces ...string) {
	x.t.Helper()
	if got := x.at(addr); !slices.Equal(got, ifaces) {
		x.t.Fatalf("%s is on %v, want %v", addr, got, ifaces)
	}
}

func TestFixedPoolBelongsToZone(t *testing.T) {
	x, _, _ := newFixedBench(t, "2406:da1e:c4:ed02:0:1::10")
	x.condition("PoolsUpToDate", "")
	pool := x.pools()[fixedV4]
	if pool == nil {
		t.Fatalf("there is no pool; %v", x.ips())
	}
	if got := pool.Labels[names.LabelCloudZone]; got != "eu-central-1b" || !slices.Equal(pool.Spec.IPs, []string{fixedRange}) || len(pool.Spec.NodeName) > 0 || *pool.Spec.Default {
		t.Errorf("zone %s, %+v", got, pool.Spec)
	}
	if got := pool.Spec.NodeAffinity.MatchLabels; len(got) != 1 || got["topology.kubernetes.io/zone"] != "eu-central-1b" {
		t.Errorf("the pool is for nodes with %v", got)
	}
	if pool := x.pools()["aws-db-fixed-v6"]; pool == nil || !slices.Equal(pool.Spec.IPs, []string{"2406:da1e:c4:ed02:0:1:0:10"}) {
		t.Errorf("IPv6: %+v", pool)
	}
	x.passes(5)
	x.wantAt(fixedIP)
	x.fixedAddresses()
	x.passes(3)
	if pool := x.pools()[fixedV4]; pool != nil && pool.DeletionTimestamp == nil {
		t.Error("the pool stays without an entry")
	}
}

func TestAddressFollowsItsPod(t *testing.T) {
	for _, tc := range []struct{ name, ip string }{{"IPv4", fixedIP}, {"IPv6", "2406:da1e:c4:ed02:0:1:0:10"}} {
		t.Run(tc.name, func(t *testing.T) {
			x, eni1, eni2 := newFixedBench(t, "2406:da1e:c4:ed02:0:1::10")
			x.lease(tc.ip, lease.InUse, "db-0", "uid-1", "worker1")
			x.pass(time.Second)
			x.wantAt(tc.ip, eni1)
			x.wantPlaced(tc.ip, eni1, "uid-1")
			x.lease(tc.ip, lease.Retained, "db-0", "uid-1", "worker1")
			x.passes(5)
			x.wantAt(tc.ip, eni1)
			x.lease(tc.ip, lease.InUse, "db-0", "uid-2", "worker2")
			x.pass(time.Second)
			x.wantAt(tc.ip, eni2)
			x.wantPlaced(tc.ip, eni2, "uid-2")
			x.lease(tc.ip, lease.Released, "", "", "")
			x.pass(time.Second)
			x.pass(coolDown / 2)
			x.wantAt(tc.ip, eni2)
			x.pass(coolDown / 2)
			x.wantAt(tc.ip)
			if got := x.placement(tc.ip); got.IP != "" {
				t.Errorf("the placement %+v is left", got)
			}
			x.condition("PoolsUpToDate", "")
			if n := len(x.network().Status.Changes); n > 0 {
				t.Errorf("%d calls are open", n)
			}
		})
	}
}

// A fixed address is no address of the node's own pool, and takes a slot of its interface.
func TestFixedAddressStaysOutOfNodePools(t *testing.T) {
	x, eni1, _ := newFixedBench(t)
	before := x.ips()
	room := x.assignable("aws-worker1-0-v4")
	x.lease(fixedIP, lease.InUse, "db-0", "uid-1", "worker1")
	for range 20 {
		x.pass(coolDown)
		x.wantAt(fixedIP, eni1)
	}
	if diff := cmp.Diff(before, x.ips()); diff != "" {
		t.Errorf("pools (-before +after)\n%s", diff)
	}
	if got := x.assignable("aws-worker1-0-v4"); got != room-inet.BlockSize {
		t.Errorf("the interface takes %d further addresses, before %d", got, room)
	}
	x.condition("PoolsUpToDate", "")
}

func TestStrayedAddressComesBack(t *testing.T) {
	x, eni1, eni2 := newFixedBench(t)
	x.lease(fixedIP, lease.InUse, "db-0", "uid-1", "worker1")
	x.pass(time.Second)
	x.wantAt(fixedIP, eni1)
	x.passes(3)
	move := cloud.Assignment{Interface: eni2, Family: inet.IPv4, Unit: cloud.Addresses, Exact: []netip.Prefix{prefix(fixedIP + "/32")}, Move: true}
	if _, err := x.cloud.Assign(t.Context(), move); err != nil {
		t.Fatal(err)
	}
	x.pass(resyncMax)
	x.passes(4)
	x.wantAt(fixedIP, eni1)
	x.wantPlaced(fixedIP, eni1, "uid-1")
	x.wantEvent("FixedAddressReturned the cloud showed the fixed address " + fixedIP)
}

// attachSecond attaches another interface to a node, in the second subnet, with device index 1.
func (x *bench) attachSecond(node string) cloud.Interface {
	x.t.Helper()
	two, err := x.cloud.Create(x.t.Context(), cloud.NewInterface{Subnet: x.subnets[1], SecurityGroups: []string{x.cloud.SecurityGroup()}, Token: "two"})
	if err != nil {
		x.t.Fatal(err)
	}
	if err := x.cloud.Attach(x.t.Context(), two.ID, x.instance(node), 1); err != nil {
		x.t.Fatal(err)
	}
	return two
}

// A pod keeps its interface if the user moves the entry to another one.
func TestEntryMovesNoRunningPod(t *testing.T) {
	x, eni1, _ := newFixedBench(t)
	two := x.attachSecond("worker1")
	x.lease(fixedIP, lease.InUse, "db-0", "uid-1", "worker1")
	x.pass(time.Second)
	x.wantPlaced(fixedIP, eni1, "uid-1")
	network := x.network()
	network.Spec.Interfaces = append(network.Spec.Interfaces, v2beta1.CloudInterface{Device: 1, MultusName: "kube-system/ipvlan-ens6", Master: "ens6", FixedAddresses: network.Spec.Interfaces[0].FixedAddresses})
	network.Spec.Interfaces[0].FixedAddresses = nil
	if err := x.c.Update(t.Context(), network); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		x.pass(time.Minute)
		x.wantAt(fixedIP, eni1)
	}
	x.wantPlaced(fixedIP, eni1, "uid-1")
	x.lease(fixedIP, lease.InUse, "db-0", "uid-2", "worker1")
	x.pass(time.Second)
	x.wantAt(fixedIP, two.ID)
	x.wantPlaced(fixedIP, two.ID, "uid-2")
}

// The agent grants an address to its former pod again while the controller takes it away. That pod has started with its UID.
func TestGrantDuringMoveKeepsAddress(t *testing.T) {
	for _, tc := range []struct {
		name  string
		state lease.State
	}{{"move", lease.InUse}, {"leave", lease.Released}} {
		t.Run(tc.name, func(t *testing.T) {
			x, eni1, _ := newFixedBench(t)
			x.lease(fixedIP, lease.InUse, "db-0", "uid-1", "worker1")
			x.passes(3)
			x.lease(fixedIP, tc.state, "db-0", "uid-2", "worker2")
			if tc.state == lease.Released {
				x.pass(time.Second)
				x.clock.SetTime(x.clock.Now().Add(coolDown))
			}
			granted := false
			x.intercept(interceptor.Funcs{SubResourcePatch: func(ctx context.Context, c client.Client, name string, o client.Object, p client.Patch, options ...client.SubResourcePatchOption) error {
				if o.GetName() == fixedV4 && !granted {
					granted = true
					x.lease(fixedIP, lease.InUse, "db-0", "uid-1", "worker1")
				}
				return c.SubResource(name).Patch(ctx, o, p, options...)
			}})
			x.pass(time.Second)
			if !granted {
				t.Fatal("the controller has not erased the UID")
			}
			for range 5 {
				x.wantAt(fixedIP, eni1)
				x.pass(time.Second)
			}
			x.wantPlaced(fixedIP, eni1, "uid-1")
		})
	}
}

// A new instance with the name of its node has none of its addresses, and the pods still have their UIDs.
func TestNewInstanceGetsAddressFirst(t *testing.T) {
	x, _, _ := newFixedBench(t)
	x.lease(fixedIP, lease.InUse, "db-0", "uid-1", "worker1")
	x.passes(3)
	x.clock.SetTime(x.clock.Now().Add(time.Minute))
	x.cloud.Terminate(x.instance("worker1"))
	if err := x.c.Delete(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker1"}}); err != nil {
		t.Fatal(err)
	}
	eni := x.join("worker1", x.subnets[1])
	x.cloud.Deny("Assign")
	x.pass(time.Second)
	if got := x.placement(fixedIP); got.PodUID != "" {
		t.Errorf("the agent sees %+v", got)
	}
	x.cloud.Allow("Assign")
	x.passes(5)
	x.wantAt(fixedIP, eni)
	x.wantPlaced(fixedIP, eni, "uid-1")
}

// An address that the user takes out of its entry may get into the pool of its node, so it leaves as that pool's: withheld.
func TestAddressOutOfEntryIsWithheldFirst(t *testing.T) {
	x, eni1, _ := newFixedBench(t)
	x.lease(fixedIP, lease.InUse, "db-0", "uid-1", "worker1")
	x.pass(time.Second)
	x.lease(fixedIP, lease.Released, "", "", "")
	x.fixedAddresses(v2beta1.CloudFixedAddresses{Name: "db", Subnet: x.subnets[1], IPs: []string{"172.31.32.200-172.31.32.223"}})
	x.passes(3)
	if got := x.placement(fixedIP); got.IP != "" {
		t.Errorf("the placement %+v is left", got)
	}
	x.wantAt(fixedIP, eni1)
	for range 20 {
		x.pass(coolDown)
		x.pass(time.Second)
		if a := netip.MustParseAddr(fixedIP); len(x.at(fixedIP)) == 0 && !x.withheld().Contains(a) {
			t.Fatalf("%s left its interface, and was not withheld", a)
		}
	}
	x.wantAt(fixedIP)
	x.condition("PoolsUpToDate", "")
}

// The user makes fixed addresses of a range that the controller has given back.
func TestReturnedAddressesBecomeFixed(t *testing.T) {
	x, eni := returnedBench(t)
	x.passes(20)
	x.wantAssigned(eni, "172.31.32.16/28")
	if got := x.withheld(); got.IsEmpty() {
		t.Fatal("nothing is withheld")
	}
	x.fixedAddresses(v2beta1.CloudFixedAddresses{Name: "db", Subnet: x.subnets[1], IPs: []string{"172.31.32.32-172.31.32.40"}})
	for range 3 {
		x.pass(resyncMax)
	}
	if got := x.withheld().String(); got != "172.31.32.41-172.31.32.47" {
		t.Errorf("%s are withheld", got)
	}
}

// A former sandbox may still use its address. It delays that address only.
func TestFormerSandboxDelaysItsAddressOnly(t *testing.T) {
	x, _, _ := newFixedBench(t)
	first := netip.MustParseAddr(fixedIP)
	block := lease.Block{Base: inet.BlockOf(first)}
	plan := cloud.FollowPlan{}
	for a := range 3 {
		addr := netip.AddrFrom4([4]byte{172, 31, 32, byte(192 + a)})
		plan.Leaves = append(plan.Leaves, cloud.Leave{Pool: fixedV4, Addr: addr, Interface: "eni", Node: "worker1"})
		if a < 2 {
			block.Former = append(block.Former, lease.Former{Addr: addr, Holder: lease.Holder{
				Pod: lease.ParsePodKey("default/db-0"), PodUID: "uid-1", Node: "worker1", Attachment: lease.Attachment{ContainerID: "c", Interface: "eth0"},
			}})
		}
	}
	if err := x.c.Create(t.Context(), compile.BlockObject(block)); err != nil {
		t.Fatal(err)
	}
	changes, more, err := x.r.confirm(t.Context(), plan, 1)
	if err != nil || more || len(changes) != 1 || changes[0].Addr != plan.Leaves[2].Addr {
		t.Errorf("the changes are %v, more: %v, %v; want that of %s only", changes, more, err, plan.Leaves[2].Addr)
	}
	if _, more, _ = x.r.confirm(t.Context(), plan, 0); !more {
		t.Error("a change without room is forgotten")
	}
}

// A lost answer moves nothing twice: the successor waits until the call can have ended.
func TestSuccessorWaitsForUnknownMove(t *testing.T) {
	x, eni1, eni2 := newFixedBench(t)
	x.cloud.Fail(cloudtest.Fault{Method: "Assign", Kind: cloud.Unknown, Done: true})
	x.lease(fixedIP, lease.InUse, "db-0", "uid-1", "worker1")
	x.pass(time.Second)
	if changes := x.network().Status.Changes; len(changes) != 1 || changes[0].Address != fixedIP || changes[0].Action != v2beta1.CloudMove {
		t.Fatalf("the status has %+v", changes)
	}
	x.restart()
	x.lease(fixedIP, lease.InUse, "db-0", "uid-2", "worker2")
	x.pass(time.Second)
	x.wantAt(fixedIP, eni1)
	if got := x.placement(fixedIP); got.PodUID != "" {
		t.Errorf("the agent sees %+v", got)
	}
	for start := x.clock.Now(); x.clock.Now().Sub(start) < 2*callTimeout; {
		x.pass(5 * time.Second)
	}
	x.wantAt(fixedIP, eni2)
	x.wantPlaced(fixedIP, eni2, "uid-2")
}

// TestMoveKilledAtEachStep moves an address between two nodes, with a controller that dies after each of its writes and calls.
func TestMoveKilledAtEachStep(t *testing.T) { killAtSteps(t, moveKilledAt) }

func moveKilledAt(t *testing.T, steps int, lost, _ bool) (died bool) {
	x, eni1, eni2 := newFixedBench(t)
	m := &mortal{Provider: x.cloud, steps: steps, lost: lost}
	x.start(m.client(x.c), m)
	x.r.Live = x.c
	run := func(node, eni, uid string) {
		x.lease(fixedIP, lease.InUse, "db-0", uid, node)
		for start := x.clock.Now(); x.clock.Now().Sub(start) < 3*callTimeout; {
			next, err := x.reconcile()
			if got := x.placement(fixedIP).PodUID; got != "" && (got != uid || !slices.Equal(x.at(fixedIP), []string{eni})) {
				if got == uid || slices.Equal(x.at(fixedIP), []string{eni}) {
					t.Fatalf("after %d steps, %s may use %s, which is on %v", steps, got, fixedIP, x.at(fixedIP))
				}
			}
			if err != nil {
				next = time.Second
			}
			x.clock.SetTime(x.clock.Now().Add(min(next, 5*time.Second)))
			if m.dead && !died {
				died = true
				x.restart()
			}
		}
		x.wantAt(fixedIP, eni)
		x.wantPlaced(fixedIP, eni, uid)
	}
	run("worker1", eni1, "uid-1")
	run("worker2", eni2, "uid-2")
	if n := len(x.network().Status.Changes); n > 0 {
		t.Fatalf("after %d steps, %d calls are open", steps, n)
	}
	return died
}
