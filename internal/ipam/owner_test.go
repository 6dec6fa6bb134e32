package ipam_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/reclaim"
	"spiderpool.dev/spiderpool/internal/wire"
)

func statefulSet(name, uid string) ipam.Controller {
	return ipam.Controller{APIVersion: "apps/v1", Kind: "StatefulSet", Name: name, UID: uid}
}

func instance(name, uid string) ipam.Controller {
	return ipam.Controller{APIVersion: "kubevirt.io/v1alpha3", Kind: "VirtualMachineInstance", Name: name, UID: uid}
}

// claim adds a pod on node n1 that names the owner.
func claim(cluster *ipamtest.FakeCluster, name, uid string, owner ipam.Controller) {
	cluster.SetPod(ipamtest.FakePod{
		Pod:  ipam.Pod{PodKey: lease.PodKey{Namespace: "default", Name: name}, UID: uid, Owner: owner},
		Node: "n1", State: reclaim.Pod{Phase: "Running", HasAddress: true},
	})
}

func TestOnlyProvenOwnerHasFixedAddress(t *testing.T) {
	for name, tc := range map[string]struct {
		pod          string
		owner        ipam.Controller
		fixed, event string
	}{
		"replica":              {"web-0", statefulSet("web", "x"), "Pod/default/web-0", ""},
		"last replica":         {"web-2", statefulSet("web", "x"), "Pod/default/web-2", ""},
		"first of a range":     {"late-5", statefulSet("late", "x"), "Pod/default/late-5", ""},
		"before the range":     {"late-4", statefulSet("late", "x"), "", "StatefulSet late has spec.replicas 1 from ordinal 5"},
		"beyond the replicas":  {"web-3", statefulSet("web", "x"), "", "StatefulSet web has spec.replicas 3 from ordinal 0"},
		"other UID":            {"web-0", statefulSet("web", "y"), "", "StatefulSet web has the UID x, not y"},
		"no set":               {"ghost-0", statefulSet("ghost", "x"), "", "there is no StatefulSet ghost"},
		"name of another set":  {"db-0", statefulSet("web", "x"), "", "pods of StatefulSet web are named web-0, web-1, …"},
		"name without ordinal": {"web", statefulSet("web", "x"), "", "pods of StatefulSet web are named web-0, web-1, …"},
		"set of another group": {"web-0", ipam.Controller{APIVersion: "apps.kruise.io/v1beta1", Kind: "StatefulSet", Name: "web", UID: "x"}, "", ""},
		"active pod":           {"launcher", instance("vm", "v"), "VirtualMachine/default/vm", ""},
		"no instance":          {"launcher", instance("ghost", "v"), "", "there is no VirtualMachineInstance ghost"},
		"instance's other UID": {"launcher", instance("vm", "w"), "", "VirtualMachineInstance vm has the UID v, not w"},
		"machine":              {"launcher", ipam.Controller{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachine", Name: "vm", UID: "v"}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := newFakeCluster(t)
			cluster.Options.FixStatefulSet, cluster.Options.FixVirtualMachine = true, true
			cluster.SetStatefulSet("default", "web", ipam.StatefulSet{UID: "x", End: 3})
			cluster.SetStatefulSet("default", "late", ipam.StatefulSet{UID: "x", First: 5, End: 6})
			cluster.SetInstance("default", "vm", "v", "uid-launcher")
			claim(cluster, tc.pod, "uid-"+tc.pod, tc.owner)
			s := cluster.Service("n1")
			if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment(tc.pod)}); err != nil {
				t.Fatal(err)
			}
			if leases := s.Allocator.OfPod("uid-" + tc.pod); len(leases) != 1 || leases[0].FixedFor.String() != tc.fixed {
				t.Errorf("leases %v, want one fixed for %q", leases, tc.fixed)
			}
			if got := strings.Join(cluster.TakeEvents(), "\n"); got != "" && !strings.HasSuffix(got, ": "+tc.event) || (got == "") != (tc.event == "") {
				t.Errorf("event %q, want %q", got, tc.event)
			}
			endpoint := "default/" + tc.pod
			if strings.HasPrefix(tc.fixed, "Virtual") {
				endpoint = "default/vm"
			}
			if _, ok := cluster.Endpoints()[endpoint]; !ok {
				t.Errorf("endpoints %v, want %s", cluster.Endpoints(), endpoint)
			}
		})
	}
}

func TestSwitchedOffOwnersAreNotRead(t *testing.T) {
	for name, owner := range map[string]ipam.Controller{"web-0": statefulSet("web", "x"), "launcher": instance("vm", "v")} {
		cluster := newFakeCluster(t)
		claim(cluster, name, "uid-"+name, owner)
		s := cluster.Service("n1")
		mustAdd(t, s, wire.AddRequest{Attachment: attachment(name)})
		if events := cluster.TakeEvents(); len(events) > 0 {
			t.Errorf("%s: events %v", name, events)
		}
	}
}

func TestUnreadableOwnerFailsAdd(t *testing.T) {
	cluster := newFakeCluster(t)
	cluster.Options.FixStatefulSet = true
	claim(cluster, "web-0", "uid-web-0", statefulSet("web", "x"))
	s := cluster.Service("n1")
	cluster.SetAway(true)
	_, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("web-0")})
	var failure *ipam.Error
	if !errors.As(err, &failure) || failure.Kind != ipam.Unavailable {
		t.Errorf("got %v, want to try again", err)
	}
}

// The agent that missed the deletion of web-0 adds it, while its successor runs.
func TestLateAddLeavesSuccessorsAddress(t *testing.T) {
	cluster := newFakeCluster(t)
	cluster.Options.FixStatefulSet = true
	cluster.SetStatefulSet("default", "web", ipam.StatefulSet{UID: "x", End: 1})
	claim(cluster, "web-0", "uid-new", statefulSet("web", "x"))
	successor := attachment("web-0")
	successor.PodUID = "uid-new"
	s := cluster.Service("n1")
	reply, err := s.Add(t.Context(), wire.AddRequest{Attachment: successor})
	if err != nil {
		t.Fatal(err)
	}
	old := attachment("web-0")
	old.ContainerID, old.PodUID = "old", "uid-old"
	cluster.SetStalePod("n1", ipam.Pod{PodKey: lease.PodKey{Namespace: "default", Name: "web-0"}, UID: "uid-old", Owner: statefulSet("web", "x")})
	_, err = s.Add(t.Context(), wire.AddRequest{Attachment: old})
	var failure *ipam.Error
	if !errors.As(err, &failure) || failure.Kind != ipam.Refused {
		t.Errorf("the deleted pod got %v, want a refusal", err)
	}
	if l := held(t, cluster.Store)[reply.Addresses[0].Prefix.Addr()]; l.PodUID != "uid-new" {
		t.Errorf("the successor's lease became %+v", l)
	}
}

func TestFixedAddressChangesHandsOnProof(t *testing.T) {
	source := ipam.Pod{PodKey: lease.PodKey{Namespace: "default", Name: "source"}, UID: "uid-source", Owner: instance("vm", "v")}
	inPhase := func(phase string) func(*ipamtest.FakeCluster) {
		return func(c *ipamtest.FakeCluster) {
			c.SetPod(ipamtest.FakePod{Pod: source, Node: "n2", State: reclaim.Pod{Phase: phase}})
		}
	}
	for name, tc := range map[string]struct {
		change func(*ipamtest.FakeCluster)
		refuse *ipam.Kind // nil: the target gets the address
	}{
		"live migration": {func(c *ipamtest.FakeCluster) { c.SetInstance("default", "vm", "v", "uid-source", "uid-target") }, nil},
		"source deleted": {func(c *ipamtest.FakeCluster) { c.DeletePod(source.PodKey) }, nil},
		"source replaced": {func(c *ipamtest.FakeCluster) {
			again := source
			again.UID = "uid-again"
			c.SetPod(ipamtest.FakePod{Pod: again, Node: "n2"})
		}, nil},
		"source succeeded": {inPhase("Succeeded"), nil},
		"source failed":    {inPhase("Failed"), nil},
		"source runs":      {inPhase("Running"), new(ipam.Unavailable)},
		"target deleted": {func(c *ipamtest.FakeCluster) {
			c.DeletePod(source.PodKey)
			c.DeletePod(lease.PodKey{Namespace: "default", Name: "target"})
			c.SetStalePod("n1", ipam.Pod{PodKey: lease.PodKey{Namespace: "default", Name: "target"}, UID: "uid-target", Owner: instance("vm", "v")})
		}, new(ipam.Refused)},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := newFakeCluster(t)
			cluster.Options.FixVirtualMachine = true
			cluster.SetInstance("default", "vm", "v", "uid-source")
			inPhase("Running")(cluster)
			first := mustAdd(t, cluster.Service("n2"), wire.AddRequest{Attachment: attachment("source")})
			claim(cluster, "target", "uid-target", instance("vm", "v"))
			cluster.SetInstance("default", "vm", "v", "uid-target")
			tc.change(cluster)
			reply, err := cluster.Service("n1").Add(t.Context(), wire.AddRequest{Attachment: attachment("target")})
			var failure *ipam.Error
			if tc.refuse != nil {
				if !errors.As(err, &failure) || failure.Kind != *tc.refuse {
					t.Errorf("got %+v, %v; want an error of kind %v", reply, err, *tc.refuse)
				}
				if l := held(t, cluster.Store)[first.Addresses[0].Prefix.Addr()]; l.PodUID != "uid-source" {
					t.Errorf("the lease became %+v", l)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := first.Addresses[0]
			if want.Shared = true; reply.Addresses[0] != want {
				t.Errorf("got %+v, want %+v", reply.Addresses[0], want)
			}
		})
	}
}

// unreadablePod is a cluster that cannot read the state of one pod.
type unreadablePod struct {
	ipam.Cluster
	name string
}

func (u unreadablePod) PodState(ctx context.Context, key lease.PodKey) (reclaim.Pod, error) {
	if key.Name == u.name {
		return reclaim.Pod{}, errAway
	}
	return u.Cluster.PodState(ctx, key)
}

func TestUnreadablePodKeepsFixedAddress(t *testing.T) {
	for _, unreadable := range []string{"source", "target"} {
		t.Run(unreadable, func(t *testing.T) {
			cluster := newFakeCluster(t)
			cluster.Options.FixVirtualMachine = true
			cluster.SetInstance("default", "vm", "v", "uid-source")
			cluster.SetPod(ipamtest.FakePod{Node: "n2", Pod: ipam.Pod{
				PodKey: lease.PodKey{Namespace: "default", Name: "source"}, UID: "uid-source", Owner: instance("vm", "v"),
			}})
			first := mustAdd(t, cluster.Service("n2"), wire.AddRequest{Attachment: attachment("source")})
			claim(cluster, "target", "uid-target", instance("vm", "v"))
			cluster.SetInstance("default", "vm", "v", "uid-target")
			s := cluster.Service("n1")
			s.Cluster = unreadablePod{s.Cluster, unreadable}
			if reply, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("target")}); !errors.Is(err, errAway) {
				t.Errorf("got %+v, %v, want the error of the read", reply, err)
			}
			if l := held(t, cluster.Store)[first.Addresses[0].Prefix.Addr()]; l.PodUID != "uid-source" {
				t.Errorf("the lease became %+v", l)
			}
		})
	}
}

func TestAnswerOfFormerSandboxIsNoConflict(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	s := cluster.Service("n1")
	old, current := attachment("a"), attachment("a")
	current.ContainerID = "current"
	mustAdd(t, s, wire.AddRequest{Attachment: old})
	addr := mustAdd(t, s, wire.AddRequest{Attachment: current}).Addresses[0].Prefix.Addr()
	conflict := wire.ConflictRequest{Attachment: current, Address: addr, MAC: "02:00:00:00:00:01"}
	var failure *ipam.Error
	if err := s.Conflict(t.Context(), conflict); !errors.As(err, &failure) || failure.Kind != ipam.Unavailable || !strings.Contains(failure.Msg, old.ContainerID) {
		t.Errorf("got %v, want an error that names the former sandbox", err)
	}
	if l := held(t, cluster.Store)[addr]; l.ContainerID != "current" {
		t.Errorf("the lease became %+v", l)
	}
	if err := s.Delete(t.Context(), wire.DeleteRequest{Attachment: old}); err != nil {
		t.Fatal(err)
	}
	if err := s.Conflict(t.Context(), conflict); err != nil {
		t.Fatal(err)
	}
	if l := held(t, cluster.Store)[addr]; l.State == lease.InUse {
		t.Errorf("the lease is %+v, want it quarantined", l)
	}
}
