package aws

import (
	"maps"
	"net/netip"
	"testing"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
)

func TestDescriptionsAreBatched(t *testing.T) {
	p, w := start(t)
	p.page = maxPage
	subnet := w.AddSubnet("eu-central-1a", nil, netip.MustParsePrefix("10.0.16.0/20"))
	var ids []string
	for range 3 * maxIDs {
		ids = append(ids, w.AddInstance("m5.large", subnet))
	}
	w.ResetCalls()
	instances, err := p.Instances(t.Context(), ids)
	if err != nil || len(instances) != len(ids) {
		t.Fatalf("%d of %d instances, %v", len(instances), len(ids), err)
	}
	interfaces, err := p.Interfaces(t.Context(), cloud.Query{Instances: ids})
	if err != nil || len(interfaces) != len(ids) {
		t.Fatalf("%d of %d interfaces, %v", len(interfaces), len(ids), err)
	}
	if got, want := w.Calls(), (map[string]int{"DescribeInstances": 3, "DescribeNetworkInterfaces": 3}); !maps.Equal(got, want) {
		t.Errorf("%d instances took the calls %v, want %v", len(ids), got, want)
	}
}

// TestNodeJoinTakesThreeCalls is the budget of a node: its description, and one assignment
// for each IP family.
func TestNodeJoinTakesThreeCalls(t *testing.T) {
	p, w, node, _ := startWithNode(t)
	w.ResetCalls()
	found, err := p.Instances(t.Context(), []string{node})
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range []inet.Family{inet.IPv4, inet.IPv6} {
		if _, err := p.Assign(t.Context(), cloud.Assignment{Interface: found[0].Interfaces[0].ID, Family: family, Unit: cloud.Prefixes, Count: 2}); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.Requests(); n != 3 {
		t.Errorf("a node took the calls %v, want 3", w.Calls())
	}
}

// Some of the pieces are gone already, and descriptions are stale. The rest leaves without one.
func TestPartlyGonePiecesLeave(t *testing.T) {
	p, w, node, _ := startWithNode(t)
	found, err := p.Instances(t.Context(), []string{node})
	if err != nil {
		t.Fatal(err)
	}
	eth0 := found[0].Interfaces[0].ID
	pieces, err := p.Assign(t.Context(), cloud.Assignment{Interface: eth0, Family: inet.IPv4, Unit: cloud.Addresses, Count: 3})
	if err != nil {
		t.Fatal(err)
	}
	w.Freeze()
	if err := p.Unassign(t.Context(), eth0, pieces[:1]); err != nil {
		t.Fatal(err)
	}
	w.ResetCalls()
	for range 2 { // all of them, then none, and each takes its own call
		if err := p.Unassign(t.Context(), eth0, pieces); err != nil {
			t.Error(err)
		}
	}
	if got, want := w.Calls(), (map[string]int{"UnassignPrivateIpAddresses": 8}); !maps.Equal(got, want) {
		t.Errorf("the calls are %v, want %v", got, want)
	}
	w.Thaw()
	left, err := p.Interfaces(t.Context(), cloud.Query{IDs: []string{eth0}})
	if err != nil || len(left[0].Assigned) > 0 {
		t.Errorf("the interface has %+v, %v", left, err)
	}
}
