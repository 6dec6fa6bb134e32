package cloudnetwork

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
	"spiderpool.dev/spiderpool/internal/inet"
)

// newManagedWire has a node without prefixes, and a controller in the mode Manage.
func newManagedWire(t *testing.T, versions ...int64) *wire {
	t.Helper()
	w := wireOf(newManagedBench(t, versions...), guideVPC, ec2test.Subnet{IPv4: prefix("172.31.16.0/24"), IPv6: prefix("2406:da1e:c4:ed01::/64")})
	w.eni = w.start("worker1", ec2test.Instance{})
	return w
}

// pieces returns the IPv4 prefixes and secondary addresses of the node.
func (w *wire) pieces() (list []string) {
	i, _ := w.ec2.Interface(w.eni)
	for _, p := range i.Prefixes {
		if p.Addr().Is4() {
			list = append(list, p.String())
		}
	}
	for _, a := range i.IPv4[1:] {
		list = append(list, a.String())
	}
	slices.Sort(list)
	return list
}

// pool4 returns the IPv4 addresses of the node's pool.
func (w *wire) pool4() inet.Set {
	w.t.Helper()
	pool := w.pools()["aws-worker1-0-v4"]
	if pool == nil {
		return inet.Set{}
	}
	set, err := inet.Parse(pool.Spec.IPs, inet.Bounds{})
	if err != nil {
		w.t.Fatal(err)
	}
	return set
}

// wantPieces fails unless the node has n IPv4 pieces, all of them in its pool.
func (w *wire) wantPieces(n int) {
	w.t.Helper()
	var sets []inet.Set
	for _, text := range w.pieces() {
		if a, err := netip.ParseAddr(text); err == nil {
			sets = append(sets, inet.OfAddrs(a))
		} else {
			sets = append(sets, inet.OfPrefix(prefix(text)))
		}
	}
	if len(sets) != n || !w.pool4().Equal(inet.Union(sets...)) {
		w.t.Fatalf("the interface has %v, and the pool %s; want %d pieces", w.pieces(), w.pool4(), n)
	}
}

// grow has 20 pods wait, and goes on until the controller has nothing to do.
func (w *wire) grow() {
	w.pods("worker1", 20)
	w.pass(time.Minute)
	w.passes(4)
}

func TestManageOnEC2(t *testing.T) {
	w := newManagedWire(t, 4, 6)
	w.pass(0)
	w.wantPieces(1)
	if got := w.pools()["aws-worker1-0-v6"].Spec.IPs; len(got) != 1 || !strings.HasSuffix(got[0], "::ff") {
		t.Errorf("the IPv6 pool has %v, want 256 addresses", got)
	}
	w.ec2.ResetCalls()
	w.start("worker2", ec2test.Instance{})
	w.pass(time.Second)
	want := map[string]int{"DescribeInstances": 1, "AssignPrivateIpAddresses": 1, "AssignIpv6Addresses": 1}
	if got := w.ec2.Calls(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the calls for a node that joins are %v, want %v", got, want)
	}
	w.grow()
	w.wantPieces(2)
	w.removePods()
	w.passes(20)
	w.wantPieces(1)
	w.condition("PoolsUpToDate", "")
}

func TestHalfDoneAssignmentIsAdopted(t *testing.T) {
	for _, lost := range []string{"", "InternalError"} {
		w := newManagedWire(t, 4)
		w.pass(0)
		w.ec2.ResetCalls()
		w.ec2.Inject(ec2test.Fault{Action: "AssignPrivateIpAddresses", Times: 1, Code: lost, Done: true})
		w.pods("worker1", 20)
		w.pass(time.Minute)
		w.pass(100 * time.Millisecond)
		if open := w.network().Status.Changes; len(open) != 1 || open[0].Action != v2beta1.CloudAssign {
			t.Errorf("the open calls are %v", open)
		}
		w.ec2.StaleReads(1)
		w.lead("eu-central-1") // the successor waits, too
		w.passes(12)
		w.wantPieces(2)
		if n := w.ec2.Calls()["AssignPrivateIpAddresses"]; n != 1 {
			t.Errorf("%d calls to assign", n)
		}
		if open := w.network().Status.Changes; len(open) > 0 {
			t.Errorf("the open calls are %v", open)
		}
	}
}

func TestHalfDoneReturnIsFinished(t *testing.T) {
	w := newManagedWire(t, 4)
	w.pass(0)
	w.grow()
	w.wantPieces(2)
	w.removePods()
	w.ec2.Inject(ec2test.Fault{Action: "UnassignPrivateIpAddresses", Times: 1, Done: true})
	w.passes(20)
	w.wantPieces(1)
	if open := w.network().Status.Changes; len(open) > 0 {
		t.Errorf("the open calls are %v", open)
	}
}

func TestFragmentedEC2GivesSingleAddresses(t *testing.T) {
	w := newManagedWire(t, 4)
	w.pass(0)
	w.ec2.Fragment(w.subnet)
	w.pods("worker1", 15) // with a reserve of three
	w.pass(time.Minute)
	w.passes(6)
	w.wantPieces(3)
	w.condition("PoolsUpToDate", "")
	w.ec2.Defragment(w.subnet)
	w.pass(fragmentedTime)
	for i := range 10 {
		w.create(waitingPod("worker1", fmt.Sprintf("more-%d", i)))
	}
	w.passes(20)
	w.wantPieces(2) // the single addresses go back
	if got := w.pieces(); !strings.HasSuffix(got[1], "/28") {
		t.Errorf("the pieces are %v", got)
	}
}

// TestManagePolicyIsLeast gives the controller the documented policy, then takes each action away.
func TestManagePolicyIsLeast(t *testing.T) {
	policy := documentedPolicy(t, "aws-iam.md", "Manage")
	run := func(t *testing.T, policy string, pods int, versions ...int64) *wire {
		w := newManagedWire(t, versions...)
		if err := w.ec2.SetPolicy(key, policy); err != nil {
			t.Fatal(err)
		}
		w.pods("worker1", pods)
		w.passes(6)
		return w
	}
	t.Run("all", func(t *testing.T) {
		w := run(t, policy, 100, 4, 6)
		w.condition("PoolsUpToDate", "")
		w.removePods()
		w.passes(25)
		w.wantPieces(1)
	})
	for _, action := range regexp.MustCompile(`"(ec2:[A-Za-z0-9]+)"`).FindAllStringSubmatch(policy, -1) {
		t.Run(action[1], func(t *testing.T) {
			pods, versions := 100, []int64{4, 6}
			if action[1] == "ec2:UnassignIpv6Addresses" {
				pods, versions = 300, []int64{6} // more than the addresses of one prefix
			}
			w := run(t, denying(policy, action[1]), pods, versions...)
			if strings.HasPrefix(action[1], "ec2:Unassign") {
				w.removePods()
				w.passes(20)
			}
			w.reported("PermissionMissing", action[1])
		})
	}
}
