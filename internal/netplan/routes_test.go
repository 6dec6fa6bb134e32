package netplan

import (
	"maps"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/internal/inet"
)

func TestTablesStayAndFillGaps(t *testing.T) {
	nic := func(name string, table int) NIC { return NIC{Name: name, Addrs: pfx("10.0.0.2/24"), Table: table} }
	for _, tt := range []struct {
		name  string
		pod   Pod
		tuned bool
		want  map[string]int
	}{
		{"alone", attached("eth0", nic("eth0", 0)), true, map[string]int{}},
		{"second interface", attached("net1", nic("eth0", 0), nic("net1", 0)), true, map[string]int{"eth0": 100, "net1": 101}},
		{"second interface, untuned", attached("net1", nic("eth0", 0), nic("net1", 0)), false, map[string]int{}},
		{"third interface", attached("net2", nic("eth0", 101), nic("net1", 102), nic("net2", 0)), true, map[string]int{"eth0": 101, "net1": 102, "net2": 100}},
		{"third interface, untuned", attached("net2", nic("eth0", 100), nic("net1", 101), nic("net2", 0)), false, map[string]int{"eth0": 100, "net1": 101}},
		{"first interface after a tuned one", attached("eth0", nic("eth0", 0), nic("net1", 100)), true, map[string]int{"eth0": 101, "net1": 100}},
		{"untuned interface between", attached("net2", nic("eth0", 0), nic("net1", 0), nic("net2", 0)), true, map[string]int{"eth0": 100, "net2": 101}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tablesOf(tt.pod, Settings{TunePodRoutes: tt.tuned}); !maps.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestDefaultRouteFollowsTheWishes(t *testing.T) {
	noGateway := guideNet1
	noGateway.Name, noGateway.Gateways = "net2", nil
	for _, tt := range []struct {
		name     string
		wish     string
		defaults []string
		want     string
	}{
		{"wanted interface", "net1", []string{"eth0"}, "net1"},
		{"wanted interface without a gateway", "net2", []string{"eth0"}, "eth0"},
		{"present default route", "", []string{"net1", "eth0"}, "net1"},
		{"route of the attached interface ranks last", "", []string{"eth0", "net1"}, "net1"},
		{"only the attached interface has one", "", []string{"eth0"}, "eth0"},
		{"no default route", "", nil, "eth0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := attached("eth0", guideEth0, guideNet1, noGateway)
			pod.Defaults = map[inet.Family][]string{inet.IPv4: tt.defaults}
			b := newBuilder(pod, guideNode, Settings{DefaultNIC: tt.wish}, pod.NICs)
			if nic, ok := b.defaultNIC(inet.IPv4); !ok || nic.Name != tt.want {
				t.Errorf("got %q (%v), want %q", nic.Name, ok, tt.want)
			}
		})
	}
	pod := attached("net2", noGateway)
	if nic, ok := newBuilder(pod, guideNode, Settings{}, pod.NICs).defaultNIC(inet.IPv4); ok {
		t.Errorf("without any gateway: got %q", nic.Name)
	}
}

func TestDefaultRouteMovesOffRemovedInterface(t *testing.T) {
	label := calicoEth0 // its gateway is in no subnet
	for _, tt := range []struct {
		name     string
		nics     []NIC
		defaults map[inet.Family][]string
		want     string
	}{
		{"both families", []NIC{guideEth0, guideNet1}, map[inet.Family][]string{inet.IPv4: {"net1"}, inet.IPv6: {"net1"}},
			"route 0.0.0.0/0 via 172.31.16.1 dev eth0 proto 83\nroute ::/0 via 2406:da1e:c4:ed01::1 dev eth0 proto 83\n"},
		{"gateway outside the subnet", []NIC{label, guideNet1}, map[inet.Family][]string{inet.IPv4: {"net1"}, inet.IPv6: {"net1"}},
			"route 0.0.0.0/0 via 169.254.1.1 dev eth0 onlink proto 83\n"},
		{"another one stays", []NIC{guideEth0, guideNet1}, map[inet.Family][]string{inet.IPv4: {"net1", "eth0"}}, ""},
		{"the other one has none", []NIC{guideEth0, guideNet1}, map[inet.Family][]string{inet.IPv4: {"eth0"}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := DefaultsWithout(Pod{NICs: tt.nics, Defaults: tt.defaults}, "net1").String(); got != tt.want {
				t.Errorf("got\n%swant\n%s", got, tt.want)
			}
		})
	}
}

// TestPlanRemovesOnlyItsOwn plans net1, whose table is 101.
func TestPlanRemovesOnlyItsOwn(t *testing.T) {
	plan := func(change func(*Settings), pod Pod) Plan {
		s := guideSettings()
		change(&s)
		p, err := Overlay(pod, guideNode, s, "")
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	tuned := plan(func(*Settings) {}, attached("net1", guideEth0, guideNet1))
	untuned := plan(func(s *Settings) { s.TunePodRoutes = false }, attached("net1", guideEth0, guideNet1))
	overlay := plan(func(*Settings) {}, attached("eth0", guideEth0))
	for _, tt := range []struct {
		item                    string
		tuned, untuned, overlay bool
	}{
		{"addr fd20::99/64 dev net1 learned", true, true, false},
		{"addr fd20::17/64 dev net1", false, false, false},
		{"addr fd20::99/64 dev eth0 learned", false, false, false},
		{"rule ip 2000 from 10.20.0.9/32 lookup 101 proto 83", true, false, false},
		{"rule ip 2000 from 10.20.0.9/32 lookup 101", false, false, false},
		{"rule ip 2000 from 10.20.0.9/32 lookup 100 proto 83", false, false, false},
		{"route ::/0 via fe80::9 dev net1 metric 1024 proto 9", true, true, false},
		{"route ::/0 via fe80::9 dev eth0 metric 1024 proto 9", true, false, false},
		{"route fd99::/64 dev net1 proto 2", true, true, false},
		{"route fd20::/64 dev net1 proto 2", false, false, false},
		{"route 10.99.0.0/24 dev net1 proto 2", false, false, false},
		{"route fd99::/64 via fd20::1 dev net1 proto 2", false, false, false},
		{"route fd99::/64 dev eth0 proto 2", false, false, false},
		{"route 0.0.0.0/0 via 172.31.16.1 dev eth0", true, false, false},
		{"route 0.0.0.0/0 via 10.20.0.9 dev net1 table 101 proto 83", true, false, false},
		{"route 0.0.0.0/0 via 10.20.0.9 dev net1 table 101", false, false, false},
		{"route 10.50.0.0/16 via 10.20.0.9 dev net1 table 101 proto 83", true, false, false},
		{"route 10.50.0.0/16 via 10.20.0.9 dev net1 table 100 proto 83", false, false, false},
		{"route 10.50.0.0/16 via 10.20.0.9 dev net1 proto 83", false, false, false},
		{"up net1", false, false, false},
	} {
		it := parse(t, tt.item)[0]
		for _, c := range []struct {
			name string
			plan Plan
			want bool
		}{{"tuned", tuned, tt.tuned}, {"untuned", untuned, tt.untuned}, {"overlay", overlay, tt.overlay}} {
			if got := c.plan.Removable(it); got != c.want {
				t.Errorf("%s, %s: removable %v, want %v", tt.item, c.name, got, c.want)
			}
		}
	}
}

// TestLaterPlanKeepsEarlierRoutes plans net1 of a pod for which an earlier attachment hijacked 192.0.2.0/24 and
// asked for routes through eth0.
func TestLaterPlanKeepsEarlierRoutes(t *testing.T) {
	pod := attached("net1", guideEth0, guideNet1)
	pod.Managed = parseRoutes(t, `
route 192.0.2.0/24 via 169.254.0.1 dev veth0 onlink proto 83
route 198.51.100.0/24 via 172.31.16.50 dev eth0 proto 83
route 203.0.113.0/24 via 172.31.16.51 dev eth0 proto 83
`)
	s := guideSettings()
	s.PolicyRoutes = []inet.Route{{Dst: pfx("203.0.113.0/24")[0], Via: ips("10.20.0.9")[0]}}
	plan, err := Underlay(pod, guideNode, s, guideVeth)
	if err != nil {
		t.Fatal(err)
	}
	got := State{}
	for _, it := range plan.Pod {
		if r, ok := it.(Route); ok && (r.Dst == pfx("192.0.2.0/24")[0] || r.Dst == pfx("198.51.100.0/24")[0] || r.Dst == pfx("203.0.113.0/24")[0]) {
			got = append(got, r)
		}
	}
	const want = `route 192.0.2.0/24 via 169.254.0.1 dev veth0 src 10.20.0.17 table 101 onlink proto 83
route 192.0.2.0/24 via 169.254.0.1 dev veth0 src 172.31.28.17 onlink proto 83
route 192.0.2.0/24 via 169.254.0.1 dev veth0 src 172.31.28.17 table 100 onlink proto 83
route 198.51.100.0/24 via 172.31.16.50 dev eth0 proto 83
route 198.51.100.0/24 via 172.31.16.50 dev eth0 table 100 proto 83
route 198.51.100.0/24 via 172.31.16.50 dev eth0 table 101 proto 83
route 203.0.113.0/24 via 10.20.0.9 dev net1 proto 83
route 203.0.113.0/24 via 10.20.0.9 dev net1 table 100 proto 83
route 203.0.113.0/24 via 10.20.0.9 dev net1 table 101 proto 83
`
	if got.String() != want {
		t.Errorf("got\n%s", got)
	}
}

func parseRoutes(t *testing.T, text string) (routes []Route) {
	for _, it := range parse(t, text) {
		routes = append(routes, it.(Route))
	}
	return routes
}

// A pod that is the router of the attachment's routes needs no route through itself.
func TestPodIsNotItsOwnRouter(t *testing.T) {
	s := guideSettings()
	s.OwnPolicyRoutes = true
	s.PolicyRoutes = []inet.Route{
		{Dst: pfx("203.0.113.0/24")[0], Via: guideEth0.Addrs[0].Addr()}, {Dst: pfx("198.51.100.0/24")[0], Via: ips("172.31.16.50")[0]},
	}
	plan, err := Underlay(attached("eth0", guideEth0), guideNode, s, guideVeth)
	if err != nil {
		t.Fatal(err)
	}
	text := plan.Pod.String()
	if strings.Contains(text, "203.0.113.0/24") || !strings.Contains(text, "198.51.100.0/24 via 172.31.16.50") {
		t.Error(text)
	}
}
