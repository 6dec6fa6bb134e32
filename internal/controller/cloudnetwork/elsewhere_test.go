package cloudnetwork

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
)

// second returns a bench of the SpiderCloudNetwork "other" with fixed addresses on device 1 of worker1, and that interface.
func (x *bench) second(ips string) (other *bench, iface string) {
	x.t.Helper()
	made := x.attachSecond("worker1")
	network := &v2beta1.SpiderCloudNetwork{ObjectMeta: metav1.ObjectMeta{Name: "other", UID: "uid-other"}, Spec: x.network().Spec}
	network.Spec.Interfaces = []v2beta1.CloudInterface{{
		Device: 1, MultusName: "kube-system/ipvlan-ens6", Master: "ens6",
		FixedAddresses: []v2beta1.CloudFixedAddresses{{Name: "db", Subnet: x.subnets[1], IPs: []string{ips}}},
	}}
	x.create(network)
	y := *x
	y.name = "other"
	return &y, made.ID
}

// both reconciles both networks n times.
func (x *bench) both(other *bench, n int) {
	x.t.Helper()
	next := time.Duration(0)
	for range n {
		first := x.pass(next)
		next = min(first, other.pass(0))
	}
}

// The cloud assigns a prefix to a node of one network, and another network has fixed addresses in it. The prefix goes back, and growth goes on.
func TestPrefixWithFixedAddressesOfOtherNetworkGoesBack(t *testing.T) {
	for _, tc := range []struct {
		name string
		new  func(x *bench) // after the other network has its pool
	}{
		{"the cache has the pool", func(*bench) {}},
		{"new leader", func(x *bench) { x.restart() }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := newManagedBench(t, 4)
			eni := x.join("worker1", x.subnets[1])
			x.pass(0)
			x.wantAssigned(eni, "172.31.32.16/28")
			const ips, fixed = "172.31.32.32-172.31.32.39", "172.31.32.33"
			other, iface := x.second(ips)
			x.cloud.Deny("Assign") // no prefix for device 1 yet
			other.pass(0)
			x.cloud.Allow("Assign")
			tc.new(x)
			other.r = x.r
			x.pods("worker1", 20)
			x.pass(time.Minute)
			x.passes(2)
			other.lease(fixed, lease.InUse, "db-0", "uid-1", "worker1")
			x.both(other, 40)
			other.wantPlaced(fixed, iface, "uid-1")
			x.wantNoFixedPrefix(ips)
			if pool := x.node4(); pool.Count() != 32 || pool.Overlaps(setOf(t, ips)) {
				t.Errorf("the pool has %s, want two prefixes without fixed addresses", pool)
			}
			x.condition("PoolsUpToDate", "")
			other.degraded("RangeNotReserved", ips)
		})
	}
}

// A single fixed address of another network on an interface neither gets into the pool of its node, nor stops its growth.
func TestFixedAddressOfOtherNetworkStopsNothing(t *testing.T) {
	x := newManagedBench(t, 4)
	eni := x.join("worker1", x.subnets[1])
	x.pass(0)
	const fixed = "172.31.32.200"
	other, _ := x.second(fixed)
	x.both(other, 3)
	if _, err := x.cloud.Assign(t.Context(), cloud.Assignment{Interface: eni, Family: inet.IPv4, Unit: cloud.Addresses, Exact: pieceOf(setOf(t, fixed).Ranges()[0].From())}); err != nil {
		t.Fatal(err)
	}
	x.pods("worker1", 20)
	x.both(other, 20)
	if pool := x.node4(); pool.Count() != 32 || pool.Overlaps(setOf(t, fixed)) {
		t.Errorf("the pool has %s, want two prefixes", pool)
	}
	x.condition("PoolsUpToDate", "")
}

// An address on another interface of the instance moves to its pod, or goes back to the cloud, if the controller manages that interface. A
// former entry at its device index leaves it there, e.g. if the user removed the placements by hand.
func TestFixedAddressOnOtherDevice(t *testing.T) {
	for _, tc := range []struct {
		name    string
		managed bool
		lease   bool
	}{
		{"a pod waits", true, true},
		{"no pod has it", true, false},
		{"the interface of another owner", false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x, eni1, _ := newFixedBench(t)
			two := x.attachSecond("worker1")
			if _, err := x.cloud.Assign(t.Context(), cloud.Assignment{Interface: two.ID, Family: inet.IPv4, Unit: cloud.Addresses, Exact: []netip.Prefix{prefix(fixedIP + "/32")}}); err != nil {
				t.Fatal(err)
			}
			if tc.managed {
				network := x.network()
				network.Spec.Interfaces = append(network.Spec.Interfaces, v2beta1.CloudInterface{Device: 1, MultusName: "kube-system/ipvlan-ens6", Master: "ens6"})
				if err := x.c.Update(t.Context(), network); err != nil {
					t.Fatal(err)
				}
			}
			x.pass(resyncMax)
			x.wantAt(fixedIP, two.ID)
			if !tc.lease {
				x.pass(coolDown)
				x.passes(3)
				x.wantAt(fixedIP)
				return
			}
			x.lease(fixedIP, lease.InUse, "db-0", "uid-1", "worker1")
			x.passes(4)
			if !tc.managed {
				x.condition("AddressInUse", "interface "+two.ID+" of instance "+x.instance("worker1")+" has "+fixedIP+"; unassign it there")
				x.wantAt(fixedIP, two.ID)
				return
			}
			x.wantAt(fixedIP, eni1)
			x.wantPlaced(fixedIP, eni1, "uid-1")
		})
	}
}

// An interface that leaves spec.interfaces is no longer managed, but its fixed addresses are ours: the placements prove it.
func TestRemovedInterfaceLosesFixedAddress(t *testing.T) {
	for _, used := range []bool{false, true} {
		t.Run(fmt.Sprintf("in use %t", used), func(t *testing.T) {
			x, eni1, _ := newFixedBench(t)
			x.lease(fixedIP, lease.InUse, "db-0", "uid-1", "worker1")
			x.passes(3)
			x.wantPlaced(fixedIP, eni1, "uid-1")
			if !used {
				x.lease(fixedIP, lease.Released, "", "", "")
			}
			network := x.network()
			network.Spec.Interfaces = []v2beta1.CloudInterface{{Device: 1, MultusName: "kube-system/ipvlan-ens6", Master: "ens6"}}
			if err := x.c.Update(t.Context(), network); err != nil {
				t.Fatal(err)
			}
			x.passes(20)
			if used {
				x.wantAt(fixedIP, eni1)
			} else {
				x.wantAt(fixedIP)
			}
		})
	}
}
