package cloudnetwork

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest"
)

// podSubnets are the tags of the subnets for attached interfaces.
var podSubnets = map[string]string{"pods": "yes"}

// withAttach has the controller attach device 1 instead of using device 0.
func (x *bench) withAttach() {
	x.t.Helper()
	network := x.network()
	network.Spec.Interfaces[0].Device = 1
	network.Spec.Interfaces[0].Attach = &v2beta1.CloudAttachment{SubnetTags: podSubnets}
	if err := x.c.Update(x.t.Context(), network); err != nil {
		x.t.Fatal(err)
	}
}

// newAttachBench has a subnet for pods in the zone of x.subnets[1].
func newAttachBench(t *testing.T) *bench {
	t.Helper()
	x := newManagedBench(t, 4)
	x.withAttach()
	x.subnets = append(x.subnets, x.cloud.AddSubnet("eu-central-1b", podSubnets, prefix("172.31.48.0/24")))
	return x
}

// instance returns the ID of a node's instance.
func (x *bench) instance(node string) string {
	x.t.Helper()
	n := &corev1.Node{}
	if err := x.c.Get(x.t.Context(), client.ObjectKey{Name: node}, n); err != nil {
		x.t.Fatal(err)
	}
	return n.Spec.ProviderID[strings.LastIndexByte(n.Spec.ProviderID, '/')+1:]
}

// own returns the interfaces with our tags, as "instance/device of the tags: attached or free".
func (x *bench) own() (list []string) {
	for _, i := range x.cloud.Present() {
		if i.Tags[cloud.TagNetwork] != "aws" || i.Tags[cloud.TagCluster] != "uid-cluster" {
			continue
		}
		text := fmt.Sprintf("%s/%s: free", i.Tags[cloud.TagInstance], i.Tags[cloud.TagIndex])
		if i.Attached != "" {
			text = fmt.Sprintf("%s/%s: %s/%d", i.Tags[cloud.TagInstance], i.Tags[cloud.TagIndex], i.Attached, i.Device)
		}
		list = append(list, text)
	}
	slices.Sort(list)
	return list
}

func (x *bench) wantOwn(want ...string) {
	x.t.Helper()
	if diff := cmp.Diff(want, x.own()); diff != "" {
		x.t.Fatalf("our interfaces (-want +got)\n%s", diff)
	}
}

// leave ends the instance of a node, and deletes the node.
func (x *bench) leave(node string) {
	x.t.Helper()
	x.cloud.Terminate(x.instance(node))
	if err := x.c.Delete(x.t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}); err != nil {
		x.t.Fatal(err)
	}
}

// run reconciles until some time has passed, or the network has gone.
func (x *bench) run(within time.Duration) {
	x.t.Helper()
	for end := x.clock.Now().Add(within); x.clock.Now().Before(end); {
		next, err := x.reconcile()
		if err != nil {
			x.t.Fatal(err)
		}
		if next == 0 {
			return
		}
		x.clock.SetTime(x.clock.Now().Add(next))
	}
}

func TestJoiningNodeGetsInterface(t *testing.T) {
	x := newAttachBench(t)
	x.join("worker1", x.subnets[1])
	x.run(20 * time.Second) // a new leader lists twice
	one := x.instance("worker1")
	x.wantOwn(one + "/1: " + one + "/1")
	x.want("aws-worker1-1-v4: 172.31.48.16-172.31.48.31")
	x.condition("PoolsUpToDate", "")
	if !slices.Contains(x.network().Finalizers, v2beta1.Finalizer) || len(x.network().Status.Changes) > 0 {
		t.Errorf("the finalizers are %v, and the calls %v open", x.network().Finalizers, x.network().Status.Changes)
	}
	x.join("worker2", x.subnets[1])
	before := maps.Clone(x.calls())
	x.run(3 * time.Second)
	x.want("aws-worker1-1-v4: 172.31.48.16-172.31.48.31", "aws-worker2-1-v4: 172.31.48.32-172.31.48.47")
	want := map[string]int{"Instances": 1, "Create": 1, "Attach": 1, "Assign": 1}
	if diff := cmp.Diff(want, difference(before, x.calls())); diff != "" {
		t.Errorf("the calls for a node that joins (-want +got)\n%s", diff)
	}
	before = maps.Clone(x.calls())
	x.run(4 * resyncMax)
	if got := difference(before, x.calls()); got["Interfaces"] > 5 || got["Create"]+got["Attach"]+got["Delete"] > 0 {
		t.Errorf("the calls in 20 minutes of nothing are %v", got)
	}
}

// calls counts the calls by method.
func (x *bench) calls() map[string]int {
	calls := map[string]int{}
	for _, method := range []string{"Instances", "Interfaces", "Subnets", "Limits", "Assign", "Unassign", "Create", "Attach", "Detach", "Delete"} {
		calls[method] = x.cloud.Calls(method)
	}
	return calls
}

func difference(before, after map[string]int) map[string]int {
	more := map[string]int{}
	for method, n := range after {
		if n > before[method] {
			more[method] = n - before[method]
		}
	}
	return more
}

// A refusal names its reason, and stops nothing else: device 0 still gets addresses.
func TestRefusedInterfaceStopsNothingElse(t *testing.T) {
	for _, tc := range []struct {
		name, reason, part string
		fail, mend         func(x *bench)
	}{
		{"no permission to create", "PermissionMissing", "node worker1 needs a network interface: the cloud does not allow the action fake:Create; add it to the policy of the controller's role",
			func(x *bench) { x.cloud.Deny("Create") }, func(x *bench) { x.cloud.Allow("Create") }},
		{"no permission to attach", "PermissionMissing", "fake:Attach", func(x *bench) { x.cloud.Deny("Attach") }, func(x *bench) { x.cloud.Allow("Attach") }},
		{"no permission to list", "PermissionMissing", "fake:Interfaces", func(x *bench) { x.cloud.Deny("Interfaces") }, func(x *bench) { x.cloud.Allow("Interfaces") }},
		{"throttled", "Throttled", "the cloud limits the calls of fake:Create", func(x *bench) { x.cloud.Fail(cloudtest.Fault{Method: "Create", Kind: cloud.Throttled, Times: 3}) }, func(*bench) {}},
		{"full subnet", "NoCapacity", "has a free address; tag a further subnet", func(x *bench) { x.cloud.Occupy(x.subnets[2], prefix("172.31.48.0/24")) },
			func(x *bench) { x.cloud.AddSubnet("eu-central-1b", podSubnets, prefix("172.31.64.0/24")) }},
		{"subnet fills up", "NoCapacity", "has no free address for a network interface of node worker1", func(x *bench) { x.cloud.Fail(cloudtest.Fault{Method: "Create", Kind: cloud.NoCapacity, Times: 3}) }, func(*bench) {}},
		{"quota of the account", "NoCapacity", "raise the quota", func(x *bench) { x.cloud.Fail(cloudtest.Fault{Method: "Create", Kind: cloud.Quota, Times: 3}) }, func(*bench) {}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := newAttachBench(t)
			network := x.network()
			zero := v2beta1.CloudInterface{Device: 0, MultusName: "kube-system/ipvlan-ens4", Master: "ens4"}
			network.Spec.Interfaces = append(network.Spec.Interfaces, zero)
			if err := x.c.Update(t.Context(), network); err != nil {
				t.Fatal(err)
			}
			tc.fail(x)
			eni := x.join("worker1", x.subnets[1])
			x.run(15 * time.Second)
			x.condition(tc.reason, tc.part)
			x.wantAssigned(eni, "172.31.32.16/28")
			before := maps.Clone(x.calls())
			x.pods("worker1", 1) // wakes the controller
			for range 50 {
				x.pass(time.Second / 10)
			}
			if got := difference(before, x.calls()); got["Create"]+got["Attach"]+got["Interfaces"]+got["Subnets"] > 5 {
				t.Errorf("the calls in 5 s after a refusal are %v", got)
			}
			tc.mend(x)
			x.run(2 * stopMax)
			one := x.instance("worker1")
			x.wantOwn(one + "/1: " + one + "/1")
			x.condition("PoolsUpToDate", "")
		})
	}
}

func TestImpossibleInterfaceIsReported(t *testing.T) {
	for _, tc := range []struct {
		name, reason, part string
		change             func(x *bench)
	}{
		{"limit of the type", "TypeLimit", "node worker1 has all 1 network interfaces that its instance type m5.large allows, and none with device index 1",
			func(x *bench) { x.cloud.AddType("m5.large", cloud.Limits{Interfaces: 1, IPv4: 10, Prefixes: true}) }},
		{"no subnet in the zone", "SubnetMissing", "no subnet of its VPC in its zone eu-central-1b has the tags nodes=none, pods; tag one", func(x *bench) {
			network := x.network()
			network.Spec.Interfaces[0].Attach.SubnetTags = map[string]string{"pods": "", "nodes": "none"}
			if err := x.c.Update(x.t.Context(), network); err != nil {
				x.t.Fatal(err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := newAttachBench(t)
			tc.change(x)
			x.join("worker1", x.subnets[1])
			x.run(15 * time.Second)
			x.condition(tc.reason, tc.part)
			before := maps.Clone(x.calls())
			for range 50 {
				x.pass(time.Second)
			}
			if got := difference(before, x.calls()); got["Interfaces"]+got["Subnets"] > 0 {
				t.Errorf("the calls in 50 s are %v", got)
			}
			if x.wantOwn(); x.cloud.Calls("Create") > 0 {
				t.Error("an interface was created")
			}
		})
	}
}

func TestForeignInterfaceIsUsedAndStays(t *testing.T) {
	x := newAttachBench(t)
	x.join("worker1", x.subnets[1])
	theirs, err := x.cloud.Create(t.Context(), cloud.NewInterface{Subnet: x.subnets[2]})
	if err != nil {
		t.Fatal(err)
	}
	one := x.instance("worker1")
	if err := x.cloud.Attach(t.Context(), theirs.ID, one, 1); err != nil {
		t.Fatal(err)
	}
	var free []string
	for _, tags := range []map[string]string{
		nil,
		{cloud.TagCluster: "other", cloud.TagNetwork: "aws", cloud.TagInstance: "i-9", cloud.TagIndex: "1"},
		{cloud.TagCluster: "uid-cluster", cloud.TagNetwork: "other", cloud.TagInstance: "i-9", cloud.TagIndex: "1"},
		{cloud.TagCluster: "uid-cluster", cloud.TagNetwork: "aws"},
	} {
		i, err := x.cloud.Create(t.Context(), cloud.NewInterface{Subnet: x.subnets[2], Tags: tags})
		if err != nil {
			t.Fatal(err)
		}
		free = append(free, i.ID)
	}
	before := x.cloud.Calls("Create")
	x.run(20 * time.Minute)
	x.wantAssigned(theirs.ID, "172.31.48.16/28")
	for _, id := range free {
		x.assigned(id) // fails if it has gone
	}
	if n := x.cloud.Calls("Create") - before; n > 0 {
		t.Errorf("%d interfaces were created", n)
	}
	x.condition("PoolsUpToDate", "")
}

// A refusal forgets the listings. The other attachments of the batch are remembered all the same.
func TestAttachmentIsRememberedAfterRefusal(t *testing.T) {
	x := newAttachBench(t)
	s := newSession("aws/", x.cloud, x.clock.Now(), x.r.jitter)
	s.own.found = s.own.found.Add(cloud.Listing{At: x.clock.Now(), Interfaces: []cloud.Interface{{ID: "eni-1"}, {ID: "eni-2"}}})
	at := func(iface string) step {
		return s.attachStep(x.clock.Now, cloud.Attachment{Interface: iface, Position: cloud.Position{Instance: "i-1", Device: 1}})
	}
	one, two := at("eni-1"), at("eni-2")
	one.fails(cloud.Conflict)
	two.done()
	if got := s.own.results["eni-2"]; got.ID != "eni-2" || got.Attached != "i-1" || len(s.own.results) != 1 {
		t.Errorf("the results are %v", s.own.results)
	}
}

// TestTwoLeadersMakeOneInterface has a former leader act on what it has read before its successor wrote.
func TestTwoLeadersMakeOneInterface(t *testing.T) {
	x := newAttachBench(t)
	x.join("worker1", x.subnets[1])
	x.run(6 * time.Second) // the first leader has two listings
	x.restart()
	second := x.r
	x.start(x.c, x.cloud)
	first := x.r
	for range 400 {
		x.clock.SetTime(x.clock.Now().Add(100 * time.Millisecond))
		for _, x.r = range []*Reconciler{first, second} {
			_, _ = x.reconcile() // conflicts are expected
		}
	}
	one := x.instance("worker1")
	x.wantOwn(one + "/1: " + one + "/1")
	if n := x.cloud.Calls("Create"); n != 1 {
		t.Errorf("%d calls to create", n)
	}
}

// More nodes than status.changes takes calls at once get their interfaces.
func TestManyNodesGetInterfaces(t *testing.T) {
	x := newAttachBench(t)
	x.cloud.AddSubnet("eu-central-1a", podSubnets, prefix("172.31.64.0/19"))
	x.cloud.AddSubnet("eu-central-1a", podSubnets, prefix("172.31.96.0/19"))
	var want []string
	for n := range maxChanges + 10 {
		name := fmt.Sprintf("worker%d", n)
		x.join(name, x.subnets[0])
		id := x.instance(name)
		want = append(want, id+"/1: "+id+"/1")
	}
	before := maps.Clone(x.calls())
	x.run(15 * time.Second)
	slices.Sort(want)
	x.wantOwn(want...)
	x.condition("PoolsUpToDate", "")
	n := len(want)
	if got := difference(before, x.calls()); got["Create"] != n || got["Attach"] != n || got["Interfaces"] > 4 || got["Instances"] > 12 {
		t.Errorf("the calls for %d nodes are %v", n, got)
	}
	count := map[string]int{}
	for _, i := range x.cloud.Present() {
		if i.Device == 1 {
			count[i.Subnet]++
		}
	}
	for subnet, got := range count {
		if len(count) != 2 || got != n/2 {
			t.Errorf("%d of %d interfaces are in %s", got, n, subnet)
		}
	}
}

// TestAttachKilledAtEachStep lets nodes join and leave, and deletes the network, with a controller that dies after each of its writes and calls.
func TestAttachKilledAtEachStep(t *testing.T) { killAtSteps(t, attachKilledAt) }

// attachKilledAt returns false if the controller did not die.
func attachKilledAt(t *testing.T, steps int, lost, stale bool) (died bool) {
	x := newAttachBench(t)
	x.join("worker1", x.subnets[1])
	m := &mortal{Provider: x.cloud, steps: steps, lost: lost}
	x.start(m.client(x.c), m)
	settle := func(within time.Duration) {
		t.Helper()
		if stale && !died {
			x.cloud.Freeze() // for a part of the time; a new leader cannot know of it
		}
		for end := x.clock.Now().Add(within); x.clock.Now().Before(end); {
			if m.dead && !died {
				died = true
				x.restart()
			}
			if end.Sub(x.clock.Now()) < within-25*time.Second {
				x.cloud.Thaw()
			}
			next, err := x.reconcile()
			if err != nil {
				next = 100 * time.Millisecond // the work queue tries again
			}
			x.clock.SetTime(x.clock.Now().Add(max(next, 100*time.Millisecond)))
		}
		x.cloud.Thaw()
	}
	settle(4 * time.Minute)
	one := x.instance("worker1")
	x.wantOwn(one + "/1: " + one + "/1")
	if got := x.ips(); len(got) != 1 || !strings.HasPrefix(got[0], "aws-worker1-1-v4: 172.31.48.") {
		t.Fatalf("after %d steps, the pools are %v", steps, got)
	}
	x.condition("PoolsUpToDate", "")
	x.cloud.Deny("Attach")
	x.join("worker2", x.subnets[1])
	settle(3 * time.Minute)
	two := x.instance("worker2")
	x.wantOwn(one+"/1: "+one+"/1", two+"/1: free")
	x.leave("worker2")
	settle(5 * time.Minute)
	x.wantOwn(one + "/1: " + one + "/1")
	x.join("worker3", x.subnets[1])
	settle(time.Minute)
	if err := x.c.Delete(t.Context(), x.network()); err != nil {
		t.Fatal(err)
	}
	settle(6 * time.Minute)
	x.wantOwn(one + "/1: " + one + "/1")
	if err := x.c.Get(t.Context(), client.ObjectKey{Name: "aws"}, &v2beta1.SpiderCloudNetwork{}); !apierrors.IsNotFound(err) {
		t.Fatalf("after %d steps, the network is not deleted: %v", steps, err)
	}
	return died
}
