package cloudtest

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
)

func checkInstanceID(t *testing.T, s scene) {
	if id, ok := s.InstanceID(s.ProviderID(s.instance)); !ok || id != s.instance {
		t.Errorf("the node's instance is %q, %t, want %s", id, ok, s.instance)
	}
	if id, ok := s.InstanceID(""); ok {
		t.Errorf("a node without providerID is the instance %q", id)
	}
}

func checkForeignID(t *testing.T, s scene) {
	for _, foreign := range []string{"kind://docker/kind/worker", "gce://project/zone/name", s.instance} {
		if id, ok := s.InstanceID(foreign); ok {
			t.Errorf("providerID %q has the instance %s, want none", foreign, id)
		}
	}
}

func checkInstance(t *testing.T, s scene) {
	must(t, errorOf(s.Assign(t.Context(), cloud.Assignment{Interface: s.eth0.ID, Family: inet.IPv4, Unit: cloud.Addresses, Count: 3})))
	i := get(s.Instances(t.Context(), []string{s.instance}))(t)[0]
	if i.ID != s.instance || i.Type != typeLarge || i.Zone != "eu-central-1a" || i.Subnet != s.subnet {
		t.Errorf("the instance is described as %+v", i)
	}
	eth0 := i.Interfaces[0]
	if eth0.Device != 0 || eth0.Attached != s.instance || eth0.Subnet != s.subnet {
		t.Errorf("the primary interface is described as %+v", eth0)
	}
	if mac, err := net.ParseMAC(eth0.MAC); err != nil || mac.String() != eth0.MAC {
		t.Errorf("MAC address %q, want one in lower case", eth0.MAC)
	}
	if len(eth0.Primary) == 0 || !cidrIPv4.Contains(eth0.Primary[0]) {
		t.Errorf("primary addresses %v, want one of %s", eth0.Primary, cidrIPv4)
	}
	if len(eth0.Assigned) != 3 || !slices.IsSortedFunc(eth0.Assigned, netip.Prefix.Compare) {
		t.Errorf("assigned addresses %v, want 3 in order", eth0.Assigned)
	}
}

func errorOf[T any](_ T, err error) error { return err }

func checkUnknownIDs(t *testing.T, s scene) {
	ctx := t.Context()
	if found := get(s.Instances(ctx, []string{s.instance, "i-00000000000000bad"}))(t); len(found) != 1 {
		t.Errorf("%d instances, want the known one", len(found))
	}
	if found := get(s.Interfaces(ctx, cloud.Query{IDs: []string{s.eth0.ID, "eni-00000000000000bad"}}))(t); len(found) != 1 {
		t.Errorf("%d interfaces, want the known one", len(found))
	}
	if found := get(s.Interfaces(ctx, cloud.Query{Instances: []string{"i-00000000000000bad"}}))(t); len(found) != 0 {
		t.Errorf("%d interfaces of an unknown instance", len(found))
	}
	if found := get(s.Subnets(ctx, []string{s.subnet, "subnet-00000000000000bad"}, nil))(t); len(found) != 1 {
		t.Errorf("%d subnets, want the known one", len(found))
	}
	if found := get(s.Limits(ctx, []string{typeLarge, "x9.unknown"}))(t); len(found) != 1 {
		t.Errorf("limits of %d types, want the known one", len(found))
	}
}

func checkPages(t *testing.T, s scene) {
	ids := []string{s.instance}
	for range 2 * s.Page() {
		ids = append(ids, s.AddInstance(typeLarge, s.subnet))
	}
	instances := get(s.Instances(t.Context(), ids))(t)
	if len(instances) != len(ids) {
		t.Errorf("%d of %d instances described", len(instances), len(ids))
	}
	interfaces := get(s.Interfaces(t.Context(), cloud.Query{Instances: ids}))(t)
	if len(interfaces) != len(ids) {
		t.Errorf("%d of %d interfaces described", len(interfaces), len(ids))
	}
	for n := range 2 * s.Page() {
		cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(2 + n), 0}), 24)
		s.AddSubnet("eu-central-1b", map[string]string{"many": "yes"}, cidr)
	}
	if found := get(s.Subnets(t.Context(), nil, map[string]string{"many": ""}))(t); len(found) != 2*s.Page() {
		t.Errorf("%d of %d subnets described", len(found), 2*s.Page())
	}
}

func checkEmptyQuery(t *testing.T, s scene) {
	ctx := t.Context()
	if found := get(s.Instances(ctx, nil))(t); len(found) != 0 {
		t.Errorf("%d instances without an ID", len(found))
	}
	if found := get(s.Interfaces(ctx, cloud.Query{}))(t); len(found) != 0 {
		t.Errorf("%d interfaces of the empty query", len(found))
	}
	if found := get(s.Subnets(ctx, nil, nil))(t); len(found) != 0 {
		t.Errorf("%d subnets without ID and tags", len(found))
	}
	if found := get(s.Limits(ctx, nil))(t); len(found) != 0 {
		t.Errorf("limits of %d types without a name", len(found))
	}
}

func checkTerminated(t *testing.T, s scene) {
	s.Terminate(s.instance)
	if found := get(s.Instances(t.Context(), []string{s.instance}))(t); len(found) != 0 {
		t.Errorf("a terminated instance is described: %+v", found)
	}
	if found := get(s.Interfaces(t.Context(), cloud.Query{Instances: []string{s.instance}}))(t); len(found) != 0 {
		t.Errorf("its interfaces are described: %+v", found)
	}
}

func checkSubnets(t *testing.T, s scene) {
	other := s.AddSubnet("eu-central-1b", map[string]string{"role": "nodes"}, netip.MustParsePrefix("10.0.2.0/24"))
	reserved := cloud.Reservation{CIDR: netip.MustParsePrefix("10.0.1.128/25"), Prefixes: true}
	s.Reserve(s.subnet, reserved)
	got := get(s.Subnets(t.Context(), []string{s.subnet}, nil))(t)[0]
	if got.ID != s.subnet || got.Zone != "eu-central-1a" || got.Tags["role"] != "pods" {
		t.Errorf("the subnet is described as %+v", got)
	}
	wantPieces(t, got.CIDRs, cidrIPv4, cidrIPv6)
	if i := get(s.Instances(t.Context(), []string{s.instance}))(t)[0]; i.VPC != got.VPC {
		t.Errorf("the instance is in the VPC %q, and its subnet in %q", i.VPC, got.VPC)
	}
	if len(got.Reserved) != 1 || got.Reserved[0] != reserved {
		t.Errorf("reservations %v, want %v", got.Reserved, reserved)
	}
	for family, gateway := range s.gateways() {
		if got := got.Gateway(family); got != gateway {
			t.Errorf("gateway %s, want %s", got, gateway)
		}
	}
	s.assign(t, s.eth0.ID, inet.IPv4, cloud.Prefixes, 1)
	if after := get(s.Subnets(t.Context(), []string{s.subnet}, nil))(t)[0]; after.Free != got.Free-16 {
		t.Errorf("%d free addresses after a prefix, %d before", after.Free, got.Free)
	}
	for value, want := range map[string][]string{"pods": {s.subnet}, "nodes": {other}, "": {s.subnet, other}, "none": nil} {
		var ids []string
		for _, found := range get(s.Subnets(t.Context(), nil, map[string]string{"role": value}))(t) {
			ids = append(ids, found.ID)
		}
		slices.Sort(ids)
		slices.Sort(want)
		if !slices.Equal(ids, want) {
			t.Errorf("role=%s selects %v, want %v", value, ids, want)
		}
	}
}

// gateways returns the routers of the scene's subnet.
func (s scene) gateways() map[inet.Family]netip.Addr {
	if s.limits.Layout == cloud.RouterLast {
		return map[inet.Family]netip.Addr{
			inet.IPv4: netip.MustParseAddr("10.0.1.253"), inet.IPv6: netip.MustParseAddr("2001:db8:0:1:ffff:ffff:ffff:fffd"),
		}
	}
	return map[inet.Family]netip.Addr{inet.IPv4: netip.MustParseAddr("10.0.1.1"), inet.IPv6: netip.MustParseAddr("2001:db8:0:1::1")}
}

func checkLimits(t *testing.T, s scene) {
	got := get(s.Limits(t.Context(), []string{typeLarge, typeOld}))(t)
	if got[typeLarge] != limitsLarge || got[typeOld] != s.limitsOld() {
		t.Errorf("limits %+v", got)
	}
}

func checkStale(t *testing.T, s scene) {
	s.Freeze()
	pieces := s.assign(t, s.eth0.ID, inet.IPv4, cloud.Addresses, 2)
	if stale := s.describe(t, s.eth0.ID).Assigned; len(stale) != 0 {
		t.Errorf("a stale description shows %v: the provider must add nothing", stale)
	}
	must(t, s.Unassign(t.Context(), s.eth0.ID, pieces[:1]))
	s.Thaw()
	wantPieces(t, s.describe(t, s.eth0.ID).Assigned, pieces[1])
}

func checkTakenAway(t *testing.T, s scene) {
	pieces := s.assign(t, s.eth0.ID, inet.IPv4, cloud.Prefixes, 2)
	s.TakeAway(s.eth0.ID, pieces[0])
	wantPieces(t, s.describe(t, s.eth0.ID).Assigned, pieces[1])
	must(t, s.Unassign(t.Context(), s.eth0.ID, pieces))
	wantPieces(t, s.describe(t, s.eth0.ID).Assigned)
}
