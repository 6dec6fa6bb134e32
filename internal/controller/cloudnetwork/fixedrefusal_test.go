package cloudnetwork

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
)

func TestStrangerKeepsAddressOfFormerInterface(t *testing.T) {
	x, _, eni2 := newFixedBench(t)
	x.lease(fixedIP, lease.InUse, "db-0", "uid-1", "worker1")
	x.passes(3)
	x.lease(fixedIP, lease.Retained, "db-0", "uid-1", "worker1")
	x.cloud.Terminate(x.instance("worker1"))
	if err := x.c.Delete(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker1"}}); err != nil {
		t.Fatal(err)
	}
	stranger, err := x.cloud.Create(t.Context(), cloud.NewInterface{Subnet: x.subnets[1], SecurityGroups: []string{x.cloud.SecurityGroup()}, Token: "stranger"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.cloud.Assign(t.Context(), cloud.Assignment{Interface: stranger.ID, Family: inet.IPv4, Unit: cloud.Addresses, Exact: []netip.Prefix{prefix(fixedIP + "/32")}}); err != nil {
		t.Fatal(err)
	}
	x.lease(fixedIP, lease.InUse, "db-0", "uid-2", "worker2")
	x.passes(5)
	x.wantAt(fixedIP, stranger.ID)
	x.condition("AddressInUse", fixedIP)
	if err := x.cloud.Delete(t.Context(), stranger.ID); err != nil {
		t.Fatal(err)
	}
	x.passes(20)
	x.wantPlaced(fixedIP, eni2, "uid-2")
}

func TestNodeKeepsItsIPv6Address(t *testing.T) {
	const ip = "2406:da1e:c4:ed02:0:1:0:10"
	d := cloud.Discovery{Network: "aws", Subnets: map[string]cloud.Subnet{"subnet-2": {ID: "subnet-2", Zone: "z", CIDRs: []netip.Prefix{prefix("2406:da1e:c4:ed02::/64")}}}}
	i := cloud.Interface{ID: "eni-1", Subnet: "subnet-2", Primary: []netip.Addr{netip.MustParseAddr(ip)}}
	d.Members = []cloud.Member{{Node: "worker1", Answers: cloud.History{}.Add(cloud.Answer{Instance: &cloud.Instance{Interfaces: []cloud.Interface{i}}})}}
	ips := inet.OfAddrs(netip.MustParseAddr(ip), netip.MustParseAddr(ip).Next())
	entries, have := []cloud.FixedEntry{{Name: "db", Subnet: "subnet-2", IPs: ips}}, map[string]inet.Set{"aws-db-fixed-v6": ips}
	wanted, issues := cloud.FixPools(d, entries, have, nil)
	if len(issues) != 1 || issues[0].Reason != cloud.Overlap || len(wanted) != 1 || wanted[0].IPs.Count() != 1 {
		t.Errorf("a node with an address of the range: %v, %+v", issues, wanted)
	}
	wanted, issues = cloud.FixPools(d, entries, have, map[netip.Addr][]string{netip.MustParseAddr(ip): {"eni-1"}})
	if len(issues) > 0 || len(wanted) != 1 || !wanted[0].IPs.Equal(ips) {
		t.Errorf("a placed address: %v, %+v", issues, wanted)
	}
}

func TestRefusedMovesAreExplained(t *testing.T) {
	for _, tc := range []struct {
		name, node      string
		before          func(x *bench)
		reason, message string
		after           func(x *bench)
	}{
		{"a stranger has the address", "worker1", func(x *bench) { x.cloud.Occupy(x.subnets[1], prefix(fixedIP+"/32")) }, "AddressInUse", "another interface of the cloud has 172.31.32.192", nil},
		{"permission", "worker1", func(x *bench) { x.cloud.Deny("Assign") }, "PermissionMissing", "Assign", func(x *bench) { x.cloud.Allow("Assign") }},
		{"throttled", "worker1", func(x *bench) { x.cloud.Throttle("Assign") }, "Throttled", "limits the calls", func(*bench) {}},
		{"other subnet", "worker3", func(*bench) {}, "WrongSubnet", "kubectl cordon worker3, and delete the pod. Its successor keeps the address, or gets another one if you run spiderpoolctl release 172.31.32.192 --force", nil}, // of one pod only
	} {
		t.Run(tc.name, func(t *testing.T) {
			x, eni1, _ := newFixedBench(t)
			tc.before(x)
			x.lease(fixedIP, lease.InUse, "db-0", "uid-1", tc.node)
			x.pass(time.Second)
			if tc.reason == "WrongSubnet" {
				x.degraded(tc.reason, tc.message)
			} else {
				x.condition(tc.reason, tc.message)
			}
			if got := x.placement(fixedIP); got.PodUID != "" || !strings.Contains(got.Message, tc.message) {
				t.Errorf("the agent sees %+v", got)
			}
			x.wantAt(fixedIP)
			if tc.after == nil {
				x.lease(fixedIP, lease.Released, "", "", "")
				x.passes(10)
				x.condition("PoolsUpToDate", "")
				if got := x.placement(fixedIP); got.IP != "" {
					t.Errorf("%+v is left", got)
				}
				return
			}
			tc.after(x)
			x.passes(5)
			x.wantPlaced(fixedIP, eni1, "uid-1")
			x.condition("PoolsUpToDate", "")
		})
	}
}

func TestRefusedReturnIsRepeatedLater(t *testing.T) {
	x, eni1, _ := newFixedBench(t)
	x.lease(fixedIP, lease.InUse, "db-0", "uid-1", "worker1")
	x.pass(time.Second)
	x.wantPlaced(fixedIP, eni1, "uid-1")
	x.lease(fixedIP, lease.Released, "", "", "")
	x.pass(time.Second)
	for range 60 {
		x.cloud.Fail(cloudtest.Fault{Method: "Unassign", Kind: cloud.Invalid})
	}
	x.pass(coolDown)
	x.degraded("CloudUnavailable", "the fixed address "+fixedIP+" has no pod, but stays on node worker1: ")
	before := x.cloud.Calls("Unassign")
	for range 60 {
		x.pass(time.Second)
	}
	if n := x.cloud.Calls("Unassign") - before; n < 1 || n > 5 {
		t.Errorf("%d calls in a minute, want 1 to 5", n)
	}
}

func TestFullInterfaceTakesNoFixedAddress(t *testing.T) {
	x, eni1, eni2 := newFixedBench(t)
	if _, err := x.cloud.Assign(t.Context(), cloud.Assignment{Interface: eni1, Family: inet.IPv4, Unit: cloud.Prefixes, Count: 8}); err != nil {
		t.Fatal(err)
	}
	x.lease(fixedIP, lease.InUse, "db-0", "uid-1", "worker1")
	x.pass(time.Second)
	x.pass(time.Second)
	x.degraded("TypeLimit", "interface "+eni1+" of node worker1 has all addresses")
	x.lease(fixedIP, lease.InUse, "db-0", "uid-2", "worker2")
	x.pass(time.Second)
	x.wantPlaced(fixedIP, eni2, "uid-2")
}

func TestUnusableFixedAddressesAreNamed(t *testing.T) {
	for _, tc := range []struct {
		name, reason, text string
		ips                []string
		subnet             int
	}{
		{"outside of the subnet", "FixedInvalid", "172.31.16.192", []string{"172.31.16.192"}, 1},
		{"the router", "Overlap", "172.31.32.1", []string{"172.31.32.1", fixedIP}, 1},
		{"too many", "FixedInvalid", "more than 256", []string{"172.31.20.0-172.31.21.255"}, 0},
		{"unknown subnet", "SubnetUnknown", "subnet-9", []string{fixedIP}, -1},
		{"order", "FixedInvalid", "172.31.32.9-172.31.32.8", []string{"172.31.32.9-172.31.32.8"}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := newManagedBench(t, 4, 6)
			id := "subnet-9"
			if tc.subnet >= 0 {
				id = x.subnets[tc.subnet]
			}
			x.fixedAddresses(v2beta1.CloudFixedAddresses{Name: "db", Subnet: id, IPs: tc.ips})
			x.join("worker1", x.subnets[1])
			x.join("worker3", x.subnets[0])
			x.passes(2)
			x.condition(tc.reason, tc.text)
		})
	}
}
