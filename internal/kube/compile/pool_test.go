package compile_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
)

func TestPoolCanonicalizesGuidePool(t *testing.T) {
	p, errs := compile.Pool(&v2beta1.SpiderIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: "master-v6"},
		Spec: v2beta1.SpiderIPPoolSpec{
			AddressSpace: v2beta1.AddressSpace{
				Subnet: "2406:da1e:c4:ed01::/64", IPs: []string{"2406:da1e:c4:ed01:c57d::0-2406:da1e:c4:ed01:c57d::f"}, Gateway: new("2406:da1e:c4:ed01::1"), Routes: []v2beta1.Route{{Dst: "2001:db8::7/32", Gw: "2406:da1e:c4:ed01::2"}},
			},
			Default: new(true), NodeName: []string{"master"}, MultusName: []string{"kube-system/ipvlan-ens5"},
		},
	})
	if len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	if got, want := p.IPs.String(), "2406:da1e:c4:ed01:c57d::-2406:da1e:c4:ed01:c57d::f"; got != want {
		t.Errorf("IPs = %s, want %s", got, want)
	}
	if p.Family != 6 || p.Subnet != netip.MustParsePrefix("2406:da1e:c4:ed01::/64") || p.Gateway != netip.MustParseAddr("2406:da1e:c4:ed01::1") {
		t.Errorf("version, subnet, gateway = %d, %s, %s", p.Family, p.Subnet, p.Gateway)
	}
	if got, want := p.Routes[0].Dst, netip.MustParsePrefix("2001:db8::/32"); got != want {
		t.Errorf("destination = %s, want the masked %s", got, want)
	}
	if !p.Default || p.Disabled || p.Terminating || p.NodeNames[0] != "master" || p.MultusNames[0] != "kube-system/ipvlan-ens5" {
		t.Errorf("pool = %+v", p)
	}
}

func TestPoolRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*v2beta1.SpiderIPPoolSpec)
		want   string // the whole error, or "" for none
	}{
		"nothing that is right": {func(*v2beta1.SpiderIPPoolSpec) {}, ""},
		"a missing subnet": {
			func(s *v2beta1.SpiderIPPoolSpec) { s.Subnet = "" },
			`spec.subnet: Required value: write the network of the addresses in CIDR notation, e.g. "10.0.0.0/16" or "fd00::/64"`,
		},
		"a subnet with host bits": {
			func(s *v2beta1.SpiderIPPoolSpec) { s.Subnet = "10.0.0.1/24" },
			`spec.subnet: Invalid value: "10.0.0.1/24": has host bits; the network is 10.0.0.0/24`,
		},
		"an address for a subnet": {
			func(s *v2beta1.SpiderIPPoolSpec) { s.Subnet = "10.0.0.1" },
			`spec.subnet: Invalid value: "10.0.0.1": is not a network in CIDR notation, such as "10.0.0.0/16" or "fd00::/64"`,
		},
		"an IP version that is not the subnet's": {
			func(s *v2beta1.SpiderIPPoolSpec) { s.IPVersion = new(int64(6)) },
			`spec.ipVersion: Invalid value: 6: spec.subnet 10.0.0.0/24 is IPv4; write 4 or leave ipVersion out`,
		},
		"a range outside the subnet": {
			func(s *v2beta1.SpiderIPPoolSpec) { s.IPs = []string{"10.0.0.5", "10.0.0.250-10.0.1.3"} },
			`spec.ips[1]: Invalid value: "10.0.0.250-10.0.1.3": 10.0.1.3 is outside the subnet 10.0.0.0/24 (10.0.0.0-10.0.0.255)`,
		},
		"an inverted range": {
			func(s *v2beta1.SpiderIPPoolSpec) { s.IPs = []string{"10.0.0.9-10.0.0.5"} },
			`spec.ips[0]: Invalid value: "10.0.0.9-10.0.0.5": is inverted: it ends before it begins; write 10.0.0.5-10.0.0.9`,
		},
		"an excluded address of another version": {
			func(s *v2beta1.SpiderIPPoolSpec) { s.ExcludeIPs = []string{"fd00::1"} },
			`spec.excludeIPs[0]: Invalid value: "fd00::1": is IPv6, but this list is for IPv4`,
		},
		"an IPv6 gateway": {
			func(s *v2beta1.SpiderIPPoolSpec) { s.Gateway = new("fd00::1") },
			`spec.gateway: Invalid value: "fd00::1": is IPv6, but spec.subnet 10.0.0.0/24 is IPv4; write a gateway inside the subnet`,
		},
		"a gateway outside the subnet": {
			func(s *v2beta1.SpiderIPPoolSpec) { s.Gateway = new("10.0.1.1") },
			`spec.gateway: Invalid value: "10.0.1.1": is outside spec.subnet 10.0.0.0/24; write a gateway inside the subnet`,
		},
		"a gateway that is no address": {
			func(s *v2beta1.SpiderIPPoolSpec) { s.Gateway = new("gw") },
			`spec.gateway: Invalid value: "gw": is not an IP address, such as "10.0.0.1" or "fd00::1"`,
		},
		"a route of another version": {
			func(s *v2beta1.SpiderIPPoolSpec) { s.Routes = []v2beta1.Route{{Dst: "fd01::/64", Gw: "fd00::1"}} },
			`spec.routes[0].dst: Invalid value: "fd01::/64": is IPv6, but spec.subnet is IPv4; put the route into a pool of its version`,
		},
		"a next hop of another version": {
			func(s *v2beta1.SpiderIPPoolSpec) { s.Routes = []v2beta1.Route{{Dst: "10.9.0.0/16", Gw: "fd00::1"}} },
			`spec.routes[0].gw: Invalid value: "fd00::1": is IPv6, but dst 10.9.0.0/16 is IPv4; write a next hop of that version`,
		},
		"a gateway at the broadcast address": {
			func(s *v2beta1.SpiderIPPoolSpec) { s.Gateway = new("10.0.0.255") },
			`spec.gateway: Invalid value: "10.0.0.255": is the network or the broadcast address of the subnet 10.0.0.0/24`,
		},
		"a gateway without room for pods": {
			func(s *v2beta1.SpiderIPPoolSpec) { s.Subnet, s.Gateway = "10.0.0.1/32", new("10.0.0.1") },
			`spec.gateway: Invalid value: "10.0.0.1": is the only address of the subnet 10.0.0.1/32`,
		},
		"a loopback subnet": {
			func(s *v2beta1.SpiderIPPoolSpec) { s.Subnet = "127.0.0.0/24" },
			`spec.subnet: Invalid value: "127.0.0.0/24": overlaps 127.0.0.0/8 (loopback addresses)`,
		},
		"a next hop outside the subnet": {
			func(s *v2beta1.SpiderIPPoolSpec) { s.Routes = []v2beta1.Route{{Dst: "10.9.0.0/16", Gw: "10.8.0.1"}} },
			`spec.routes[0].gw: Invalid value: "10.8.0.1": is outside the subnet 10.0.0.0/24; write an address in it`,
		},
		"a multicast next hop": {
			func(s *v2beta1.SpiderIPPoolSpec) { s.Routes = []v2beta1.Route{{Dst: "10.9.0.0/16", Gw: "224.0.0.1"}} },
			`spec.routes[0].gw: Invalid value: "224.0.0.1": is a multicast address`,
		},
		"a node name with a slash": {
			func(s *v2beta1.SpiderIPPoolSpec) { s.NodeName = []string{"a/b"} },
			`spec.nodeName[0]: Invalid value: "a/b": is not the name of a node: a lowercase RFC 1123 subdomain must consist of`,
		},
		"an attachment with two slashes": {
			func(s *v2beta1.SpiderIPPoolSpec) { s.MultusName = []string{"a/b/c"} },
			`spec.multusName[0]: Invalid value: "a/b/c": is not the name of a network attachment, "namespace/name" or "name": a lowercase`,
		},
		"a namespace with a dot": {
			func(s *v2beta1.SpiderIPPoolSpec) { s.NamespaceName = []string{"a.b"} },
			`spec.namespaceName[0]: Invalid value: "a.b": is not the name of a namespace: `,
		},
		"a selector without values": {
			func(s *v2beta1.SpiderIPPoolSpec) {
				s.PodAffinity = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: "In"}}}
			},
			"spec.podAffinity.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := &v2beta1.SpiderIPPool{Spec: v2beta1.SpiderIPPoolSpec{AddressSpace: v2beta1.AddressSpace{Subnet: "10.0.0.0/24"}}}
			c.change(&in.Spec)
			_, errs := compile.Pool(in)
			got := ""
			if len(errs) > 0 {
				got = errs.ToAggregate().Error()
			}
			if !strings.HasPrefix(got, c.want) || (c.want == "") != (got == "") {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestRepeatedRoutesBecomeOne(t *testing.T) {
	in := &v2beta1.SpiderIPPool{Spec: v2beta1.SpiderIPPoolSpec{AddressSpace: v2beta1.AddressSpace{
		Subnet: "10.0.0.0/24", IPs: []string{"10.0.0.1-10.0.0.9"},
		Routes: []v2beta1.Route{{Dst: "10.9.0.0/16", Gw: "10.0.0.5"}, {Dst: "10.9.0.7/16", Gw: "10.0.0.5"}, {Dst: "10.9.0.0/16", Gw: "10.0.0.5"}},
	}}}
	got, errs := compile.Pool(in)
	if len(errs) > 0 || len(got.Routes) != 1 || got.Routes[0].String() != "10.9.0.0/16 via 10.0.0.5" {
		t.Errorf("got %v, %v", got.Routes, errs)
	}
	if usable := got.Usable(inet.Set{}); usable.String() != "10.0.0.1-10.0.0.4, 10.0.0.6-10.0.0.9" {
		t.Errorf("usable is %s, want it without the next hop", usable)
	}
	compile.CanonicalizePool(in)
	if want := (v2beta1.Routes{{Dst: "10.9.0.0/16", Gw: "10.0.0.5"}}); !slices.Equal(in.Spec.Routes, want) {
		t.Errorf("written as %v", in.Spec.Routes)
	}
}

func TestReservedAddressesSurviveBadEntry(t *testing.T) {
	set, errs := compile.ReservedIP(&v2beta1.SpiderReservedIP{
		Spec: v2beta1.SpiderReservedIPSpec{IPs: []string{"10.0.0.1", "nonsense", "10.0.0.3-10.0.0.2"}},
	})
	if got := set.String(); got != "10.0.0.1" {
		t.Errorf("reserved = %s, want 10.0.0.1", got)
	}
	if len(errs) != 2 || errs[0].Field != "spec.ips[1]" || errs[1].Field != "spec.ips[2]" {
		t.Errorf("errors = %v, want one for each bad entry", errs)
	}
}
