package ipam

import (
	"net/netip"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/internal/lease"
)

func TestManyFixedAddressesFitIntoEvent(t *testing.T) {
	var addrs []netip.Addr
	var interfaces, zones []string
	for a := netip.MustParseAddr("2406:da1e:c4:ed02:aaaa:bbbb:cccc:ddd0"); len(addrs) < 20; a = a.Next() {
		addrs, interfaces, zones = append(addrs, a), append(interfaces, []string{"net1", "eth0"}[len(addrs)%2]), append(zones, "eu-central-1a")
	}
	owner := lease.Owner{Kind: lease.KindPod, Namespace: "default", Name: "db-0"}
	got := elsewhere(owner, "worker1", "eu-central-1b", addrs, interfaces, zones)
	for _, part := range []string{"interfaces eth0, net1 of ", "addresses " + addrs[0].String() + ", ", " and 14 more (spiderpoolctl ip list shows them) work in zone eu-central-1a only", "and 13 more (spiderpoolctl ip list shows them), and the kubelet"} {
		if !strings.Contains(got.Msg+": "+got.Details, part) {
			t.Errorf("%s: %s, want %q", got.Msg, got.Details, part)
		}
	}
	if n := len(got.Msg) + len(got.Details); n > 1000 {
		t.Errorf("the text has %d bytes, and an event takes 1024", n)
	}
}
