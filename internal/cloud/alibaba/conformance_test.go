package alibaba

import (
	"maps"
	"net/netip"
	"os"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/alibabatest"
	"spiderpool.dev/spiderpool/internal/inet"
)

const region = "eu-central-1"

// setEnvironment sets variables, and keeps those of the user away.
func setEnvironment(t *testing.T, variables map[string]string) {
	t.Helper()
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "ALIBABA_CLOUD_") {
			t.Setenv(name, "")
		}
	}
	for name, value := range variables {
		t.Setenv(name, value)
	}
}

// start returns a provider for an empty cloud on the wire.
func start(t *testing.T) (*Provider, *alibabatest.Cloud) {
	t.Helper()
	world := alibabatest.New(region)
	setEnvironment(t, world.Start(t))
	p, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	p.page = world.Page()
	return p, world
}

// lacks is what Alibaba Cloud lacks.
var lacks = cloudtest.Limits{
	Lacking: []string{cloudtest.Moving, cloudtest.ExplicitReservations, cloudtest.TypesWithoutPrefixes}, Layout: cloud.RouterLast,
}

func TestProviderConforms(t *testing.T) {
	cloudtest.Conformance(t, func(t *testing.T) (cloud.Provider, cloudtest.World) { return start(t) }, lacks)
}

var (
	cidrIPv4 = netip.MustParsePrefix("10.0.1.0/24")
	cidrIPv6 = netip.MustParsePrefix("2001:db8:0:1::/64")
	large    = cloud.Limits{Interfaces: 3, IPv4: 10, IPv6: 10, Prefixes: true}
)

// startWithNode returns a cloud with one node.
func startWithNode(t *testing.T) (p *Provider, w *alibabatest.Cloud, instance, subnet string) {
	p, w = start(t)
	w.AddType("ecs.g7.large", large)
	subnet = w.AddSubnet("eu-central-1a", nil, cidrIPv4, cidrIPv6)
	return p, w, w.AddInstance("ecs.g7.large", subnet), subnet
}

// delta returns the calls since a former count.
func delta(before, after map[string]int) map[string]int {
	calls := map[string]int{}
	for action, n := range after {
		if n > before[action] {
			calls[action] = n - before[action]
		}
	}
	return calls
}

// TestNodeJoinTakesThreeCalls is the budget of a node with one IP family: two descriptions and an assignment.
func TestNodeJoinTakesThreeCalls(t *testing.T) {
	p, w, node, _ := startWithNode(t)
	found, err := p.Instances(t.Context(), []string{node})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Assign(t.Context(), cloud.Assignment{Interface: found[0].Interfaces[0].ID, Family: inet.IPv4, Unit: cloud.Prefixes, Count: 2}); err != nil {
		t.Fatal(err)
	}
	if n := w.Requests(); n != 3 {
		t.Errorf("a node took the calls %v, want 3", w.Calls())
	}
}

func TestDescriptionsAreBatched(t *testing.T) {
	p, w, _, _ := startWithNode(t)
	p.page = maxPage
	subnet := w.AddSubnet("eu-central-1a", nil, netip.MustParsePrefix("10.0.16.0/20"))
	var ids []string
	for range 3 * maxIDs {
		ids = append(ids, w.AddInstance("ecs.g7.large", subnet))
	}
	before := w.Calls()
	found, err := p.Instances(t.Context(), ids)
	if err != nil || len(found) != len(ids) {
		t.Fatalf("%d of %d instances, %v", len(found), len(ids), err)
	}
	if got, want := delta(before, w.Calls()), (map[string]int{"DescribeInstances": 3, "DescribeNetworkInterfaces": 3}); !maps.Equal(got, want) {
		t.Errorf("%d instances took the calls %v, want %v", len(ids), got, want)
	}
}

func TestReservationsTakeTwoCalls(t *testing.T) {
	p, w, _, subnet := startWithNode(t)
	other := w.AddSubnet("eu-central-1b", nil, netip.MustParsePrefix("10.0.2.0/24"))
	w.Reserve(other, cloud.Reservation{CIDR: netip.MustParsePrefix("10.0.2.128/25"), Prefixes: true})
	w.Reserve(subnet, cloud.Reservation{CIDR: netip.MustParsePrefix("2001:db8:0:1:8000::/65"), Prefixes: true})
	found, err := p.Subnets(t.Context(), []string{subnet, other}, nil)
	if err != nil || len(found) != 2 || len(found[0].Reserved) != 1 || len(found[1].Reserved) != 1 {
		t.Fatalf("subnets %+v, %v", found, err)
	}
	if got, want := w.Calls(), (map[string]int{"DescribeVSwitches": 2, "ListVSwitchCidrReservations": 2}); !maps.Equal(got, want) {
		t.Errorf("two subnets took the calls %v, want %v", got, want)
	}
}

// TestDeviceComesFromTag shows that an interface without a position of its own gets no pools.
func TestDeviceComesFromTag(t *testing.T) {
	p, w, node, subnet := startWithNode(t)
	attach := func(tags map[string]string, device int) string {
		made, err := w.Fake.Create(t.Context(), cloud.NewInterface{Subnet: subnet, SecurityGroups: []string{w.SecurityGroup()}, Tags: tags})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Fake.Attach(t.Context(), made.ID, node, device); err != nil {
			t.Fatal(err)
		}
		return made.ID
	}
	first, second := attach(map[string]string{DeviceTag: "1"}, 1), attach(nil, 2)
	devices := func() map[string]int {
		t.Helper()
		found, err := p.Instances(t.Context(), []string{node})
		if err != nil {
			t.Fatal(err)
		}
		at := map[string]int{}
		for _, i := range found[0].Interfaces {
			at[i.ID] = i.Device
		}
		return at
	}
	if at := devices(); len(at) != 2 || at[first] != 1 {
		t.Errorf("positions %v, want those of the primary interface and of %s", at, first)
	}
	for tag, want := range map[string]bool{"i-another/2": false, node + "/2": true, "2": true, "0": false, "two": false, "1": false} {
		w.Tag(second, map[string]string{DeviceTag: tag})
		if at := devices(); (at[second] == 2) != want {
			t.Errorf("with the tag %q, the positions are %v", tag, at)
		}
	}
	// Two interfaces with the tag "1": nothing tells which of them is there.
	w.Tag(second, map[string]string{DeviceTag: "1"})
	if at := devices(); len(at) != 1 {
		t.Errorf("positions %v, want that of the primary interface only", at)
	}
}

func TestAttachHealsMissingTag(t *testing.T) {
	p, w, node, subnet := startWithNode(t)
	made, err := p.Create(t.Context(), cloud.NewInterface{Subnet: subnet, SecurityGroups: []string{w.SecurityGroup()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.SetPolicy(alibabatest.AccessKey, without("ecs:TagResources")); err != nil {
		t.Fatal(err)
	}
	if err := p.Attach(t.Context(), made.ID, node, 1); cloud.KindOf(err) != cloud.Permission {
		t.Fatalf("error %v, want the permission for the tag", err)
	}
	w.Allow("")
	if found, err := p.Interfaces(t.Context(), cloud.Query{IDs: []string{made.ID}}); err != nil || found[0].Device != cloud.UnknownDevice {
		t.Fatalf("interface %+v, %v, want one at an unknown position", found, err)
	}
	for range 2 {
		if err := p.Attach(t.Context(), made.ID, node, 1); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := p.Instances(t.Context(), []string{node}); err != nil || len(found[0].Interfaces) != 2 {
		t.Errorf("instance %+v, %v", found, err)
	}
	if err := p.Attach(t.Context(), made.ID, node, 2); cloud.KindOf(err) != cloud.Conflict {
		t.Errorf("error %v, want a conflict with the present position", err)
	}
}

func TestWrongRegionFindsNothing(t *testing.T) {
	_, w, node, _ := startWithNode(t)
	p, err := New("cn-beijing")
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := p.InstanceID(w.ProviderID(node)); ok {
		t.Errorf("a node of %s is the instance %s of cn-beijing", region, id)
	}
	if _, err := p.Instances(t.Context(), []string{node}); cloud.KindOf(err) != cloud.Invalid {
		t.Errorf("error %v, want the refusal of a region that the service does not have", err)
	}
}
