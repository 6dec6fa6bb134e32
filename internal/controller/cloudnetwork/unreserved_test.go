package cloudnetwork

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
)

// The subnet has no reservation, and the cloud assigns a prefix with fixed addresses to the node. It goes back, and the node gets others.
func TestPrefixWithFixedAddressesGoesBack(t *testing.T) {
	for _, tc := range []struct{ name, ips, fixed string }{
		{"a part of the prefix", "172.31.32.32-172.31.32.39", "172.31.32.33"},
		{"all of it", "172.31.32.32-172.31.32.47", "172.31.32.33"},
		{"three prefixes", "172.31.32.39-172.31.32.70", "172.31.32.64"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := newManagedBench(t, 4)
			eni := x.join("worker1", x.subnets[1])
			x.fixedAddresses(v2beta1.CloudFixedAddresses{Name: "db", Subnet: x.subnets[1], IPs: []string{tc.ips}})
			x.passes(3)
			x.pods("worker1", 20)
			x.pass(time.Minute)
			x.passes(2)
			x.lease(tc.fixed, lease.InUse, "db-0", "uid-1", "worker1")
			x.passes(12)
			x.wantPlaced(tc.fixed, eni, "uid-1")
			x.wantNoFixedPrefix(tc.ips)
			if pool := x.node4(); pool.Count() != 32 || pool.Overlaps(setOf(t, tc.ips)) {
				t.Errorf("the pool has %s, want two prefixes without fixed addresses", pool)
			}
			x.removePods()
			x.pods("worker1", 40) // the same prefixes come, and go back, again
			x.pass(time.Minute)
			x.passes(12)
			x.wantNoFixedPrefix(tc.ips)
			if pool := x.node4(); pool.Count() != 48 || pool.Overlaps(setOf(t, tc.ips)) {
				t.Errorf("the pool has %s, want three prefixes without fixed addresses", pool)
			}
			if n := len(x.network().Status.Changes); n > 0 {
				t.Errorf("%d calls are open", n)
			}
			x.degraded("RangeNotReserved", "subnet "+x.subnets[1]+" has no explicit reservation for "+tc.ips)
		})
	}
}

// The first prefix of a node may come before the pool of fixed addresses exists.
func TestFirstPrefixWithFixedAddressesGoesBack(t *testing.T) {
	x := newManagedBench(t, 4)
	const ips = "172.31.32.20-172.31.32.21"
	x.fixedAddresses(v2beta1.CloudFixedAddresses{Name: "db", Subnet: x.subnets[1], IPs: []string{ips}})
	x.join("worker1", x.subnets[1])
	x.passes(8)
	x.wantNoFixedPrefix(ips)
	x.want("aws-db-fixed-v4: "+ips, "aws-worker1-0-v4: 172.31.32.32-172.31.32.47")
}

// An interface that is full of prefixes with fixed addresses gives them back, and pauses before it asks for others.
func TestFullOfFixedPrefixesPauses(t *testing.T) {
	x := newManagedBench(t, 4)
	x.cloud.AddType("m5.large", cloud.Limits{Interfaces: 3, IPv4: 3, IPv6: 3, Prefixes: true})
	const ips = "172.31.32.16-172.31.32.63"
	x.fixedAddresses(v2beta1.CloudFixedAddresses{Name: "db", Subnet: x.subnets[1], IPs: []string{ips}})
	eni := x.join("worker1", x.subnets[1])
	x.passes(2)
	x.wantAssigned(eni, "172.31.32.16/28", "172.31.32.32/28")
	x.pass(settleTime)
	x.wantAssigned(eni)
	x.degraded("RangeNotReserved", "172.31.32.16-172.31.32.63")
	x.passes(4) // once more
	x.pass(time.Second)
	x.wantAssigned(eni)
	x.condition("RangeNotReserved", "node worker1 needs more IPv4 addresses: the cloud has given interface "+eni+" only pieces with fixed addresses")
	before := x.cloud.Calls("Assign")
	for range 3600 {
		x.pass(time.Second)
	}
	if n := x.cloud.Calls("Assign") - before; n < 10 || n > 60 {
		t.Errorf("%d calls in an hour", n)
	}
	x.cloud.Reserve(x.subnets[1], cloud.Reservation{CIDR: prefix("172.31.32.16/28")})
	x.cloud.Reserve(x.subnets[1], cloud.Reservation{CIDR: prefix("172.31.32.32/27")})
	for range 12 {
		x.pass(time.Minute)
	}
	x.want("aws-db-fixed-v4: "+ips, "aws-worker1-0-v4: 172.31.32.64-172.31.32.79")
	x.condition("PoolsUpToDate", "")
}

// A controller that dies at any step leaves neither a prefix with fixed addresses nor a fixed address in the pool of a node.
func TestReturnOfFixedPrefixKilledAtEachStep(t *testing.T) {
	const ips = "172.31.32.32-172.31.32.39"
	killAtSteps(t, func(t *testing.T, steps int, lost, _ bool) (died bool) {
		x := newManagedBench(t, 4)
		x.join("worker1", x.subnets[1])
		x.fixedAddresses(v2beta1.CloudFixedAddresses{Name: "db", Subnet: x.subnets[1], IPs: []string{ips}})
		x.passes(3)
		x.pods("worker1", 20)
		m := &mortal{Provider: x.cloud, steps: steps, lost: lost}
		x.start(m.client(x.c), m)
		x.r.Live = x.c
		for start := x.clock.Now(); x.clock.Now().Sub(start) < 5*time.Minute; {
			next, err := x.reconcile()
			if pool := x.node4(); pool.Overlaps(setOf(t, ips)) {
				t.Fatalf("after %d steps, the pool of the node has %s", steps, pool)
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
		x.wantNoFixedPrefix(ips)
		if pool := x.node4(); pool.Count() != 32 {
			t.Fatalf("after %d steps, the pool has %s", steps, pool)
		}
		return died
	})
}

func TestReservationEndsCondition(t *testing.T) {
	w := newManagedWire(t, 4)
	w.pass(0)
	w.fixedAddresses(v2beta1.CloudFixedAddresses{Name: "db", Subnet: w.subnet, IPs: []string{"172.31.16.40-172.31.16.47"}})
	w.passes(2)
	command := "run aws ec2 create-subnet-cidr-reservation --region eu-central-1 --subnet-id " + w.subnet + " --reservation-type explicit --cidr 172.31.16.32/28"
	w.degraded("RangeNotReserved", command)
	w.grow()
	w.passes(6)
	w.wantPieces(2)
	if slices.Contains(w.pieces(), "172.31.16.32/28") {
		t.Errorf("the interface has %v", w.pieces())
	}
	w.ec2.ResetCalls()
	w.ec2.Reserve(w.subnet, prefix("172.31.16.32/28"), ec2test.ReservedExplicitly)
	w.pass(resyncMax)
	w.condition("PoolsUpToDate", "")
	want := map[string]int{"DescribeInstances": 1, "DescribeSubnets": 1, "GetSubnetCidrReservations": 1}
	if got := w.ec2.Calls(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the calls are %v, want %v", got, want)
	}
	w.ec2.ResetCalls()
	w.pass(resyncMax) // the reservation is known for an hour
	if got := w.ec2.Calls(); len(got) != 1 {
		t.Errorf("the calls are %v", got)
	}
}

// A cloud that takes nothing back keeps the prefix, and the node gets others.
func TestPrefixThatStaysStopsNothing(t *testing.T) {
	x := newManagedBench(t, 4)
	eni := x.join("worker1", x.subnets[1])
	x.fixedAddresses(v2beta1.CloudFixedAddresses{Name: "db", Subnet: x.subnets[1], IPs: []string{"172.31.32.32"}})
	x.passes(3)
	x.cloud.Deny("Unassign")
	x.pods("worker1", 20)
	x.pass(time.Minute)
	x.passes(20)
	x.wantAssigned(eni, "172.31.32.16/28", "172.31.32.32/28", "172.31.32.48/28")
	x.want("aws-db-fixed-v4: 172.31.32.32", "aws-worker1-0-v4: 172.31.32.16-172.31.32.31, 172.31.32.48-172.31.32.63")
	x.degraded("PermissionMissing", cloudtest.NewFake().Deny("Unassign"))
}

func setOf(t *testing.T, text string) inet.Set {
	t.Helper()
	set, err := inet.Parse([]string{text}, inet.Bounds{})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// node4 returns the IPv4 addresses of the pool of worker1.
func (x *bench) node4() (set inet.Set) {
	x.t.Helper()
	if pool := x.pools()["aws-worker1-0-v4"]; pool != nil {
		for _, text := range pool.Spec.IPs {
			set = inet.Union(set, setOf(x.t, text))
		}
	}
	return set
}

// wantNoFixedPrefix fails if an interface has a prefix with an address of the range.
func (x *bench) wantNoFixedPrefix(ips string) {
	x.t.Helper()
	for _, i := range x.cloud.Present() {
		for _, p := range i.Assigned {
			if !p.IsSingleIP() && inet.OfPrefix(p).Overlaps(setOf(x.t, ips)) {
				x.t.Fatalf("%s of %s has fixed addresses", p, i.ID)
			}
		}
	}
}
