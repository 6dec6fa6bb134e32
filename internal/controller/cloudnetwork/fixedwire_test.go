package cloudnetwork

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
	"spiderpool.dev/spiderpool/internal/lease"
)

// has reports whether an interface of the fake EC2 has the address.
func (w *wire) has(iface, addr string) bool {
	i, _ := w.ec2.Interface(iface)
	return slices.Contains(slices.Concat(i.IPv4, i.IPv6), netip.MustParseAddr(addr))
}

// reserve makes an explicit reservation for an address.
func (w *wire) reserve(addr string) {
	a := netip.MustParseAddr(addr)
	w.ec2.Reserve(w.subnet, netip.PrefixFrom(a, a.BitLen()), ec2test.ReservedExplicitly)
}

func TestFixedAddressMovesOnEC2(t *testing.T) {
	for _, tc := range []struct{ name, ip, action string }{
		{"IPv4", "172.31.16.200", "AssignPrivateIpAddresses"}, {"IPv6", "2406:da1e:c4:ed01:0:1:0:10", "AssignIpv6Addresses"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newManagedWire(t, 4, 6)
			second := w.start("worker2", ec2test.Instance{})
			w.reserve(tc.ip)
			w.fixedAddresses(v2beta1.CloudFixedAddresses{Name: "db", Subnet: w.subnet, IPs: []string{tc.ip}})
			w.passes(3)
			w.lease(tc.ip, lease.InUse, "db-0", "uid-1", "worker1")
			w.pass(time.Second)
			if !w.has(w.eni, tc.ip) {
				t.Fatal("the first node lacks the address")
			}
			w.wantPlaced(tc.ip, w.eni, "uid-1")
			w.passes(10) // the description of EC2 makes no other pool of it
			w.condition("PoolsUpToDate", "")
			w.ec2.ResetCalls()
			w.lease(tc.ip, lease.InUse, "db-0", "uid-2", "worker2")
			w.pass(time.Second)
			if w.has(w.eni, tc.ip) || !w.has(second, tc.ip) {
				t.Fatal("the address did not move")
			}
			w.wantPlaced(tc.ip, second, "uid-2")
			want := map[string]int{tc.action: 1}
			if tc.name == "IPv6" {
				want["UnassignIpv6Addresses"] = 1
			}
			if got := w.ec2.Calls(); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("the calls are %v, want %v", got, want)
			}
			w.lease(tc.ip, lease.Released, "", "", "")
			w.pass(time.Second)
			w.pass(coolDown)
			w.pass(time.Second)
			if w.has(second, tc.ip) {
				t.Error("the address is left")
			}
			w.condition("PoolsUpToDate", "")
		})
	}
}

// EC2 shows an assigned IPv6 address like the node's own. A controller that dies before it writes the placement leaves the call in status.changes,
// so its successor knows whose the address is.
func TestSuccessorKnowsAssignedIPv6OnEC2(t *testing.T) {
	const ip = "2406:da1e:c4:ed01:0:1:0:10"
	w := newManagedWire(t, 4, 6)
	w.reserve(ip)
	w.fixedAddresses(v2beta1.CloudFixedAddresses{Name: "db", Subnet: w.subnet, IPs: []string{ip}})
	w.passes(3)
	w.lease(ip, lease.InUse, "db-0", "uid-1", "worker1")
	former := w.r
	w.intercept(interceptor.Funcs{SubResourcePatch: func(ctx context.Context, c client.Client, name string, o client.Object, p client.Patch, options ...client.SubResourcePatchOption) error {
		if w.has(w.eni, ip) {
			return errDead
		}
		return c.SubResource(name).Patch(ctx, o, p, options...)
	}})
	_, _ = w.reconcile()
	if !w.has(w.eni, ip) || w.placement(ip).Interface != "" {
		t.Fatalf("the controller did not die between the call and the placement: %+v", w.placement(ip))
	}
	w.bench.start(w.c, former.sessions["aws"].provider)
	w.lease(ip, lease.Released, "", "", "")
	for range 20 {
		w.pass(10 * time.Second)
	}
	w.pass(coolDown)
	w.pass(time.Second)
	if w.has(w.eni, ip) {
		t.Error("the address is left")
	}
	w.condition("PoolsUpToDate", "")
}
