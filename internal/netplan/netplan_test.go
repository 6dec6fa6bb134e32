package netplan

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"spiderpool.dev/spiderpool/internal/inet"
)

var update = flag.Bool("update", false, "write the plans to testdata")

func pfx(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

func ips(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, t := range texts {
		out = append(out, netip.MustParseAddr(t))
	}
	return out
}

func mac(t string) MAC {
	m, err := parseMAC(t)
	if err != nil {
		panic(err)
	}
	return m
}

var (
	guideEth0 = NIC{Name: "eth0", MAC: mac("02:00:00:00:00:05"), Addrs: pfx("172.31.28.17/20", "2406:da1e:c4:ed01:c57d::1/64"),
		Gateways: ips("172.31.16.1", "2406:da1e:c4:ed01::1")}
	guideNet1 = NIC{Name: "net1", MAC: mac("02:00:00:00:00:06"), Addrs: pfx("10.20.0.17/24", "fd20::17/64"),
		Gateways: ips("10.20.0.1", "fd20::1"), Routes: []inet.Route{{Dst: pfx("10.30.0.0/16")[0], Via: ips("10.20.0.2")[0]}}}
	calicoEth0 = NIC{Name: "eth0", MAC: mac("02:00:00:00:00:07"), Addrs: pfx("10.244.0.5/32"), Gateways: ips("169.254.1.1")}
	guideNode  = Node{Addrs: pfx("172.31.22.228/20", "172.17.0.1/16", "169.254.20.10/32", "2406:da1e:c4:ed01::10/64"), IPv6: true}
	// The interface of the bridge plugin: its gateway is an address of the node. The
	// ptp plugin's has its subnet behind that.
	bridgeEth0 = NIC{Name: "eth0", MAC: mac("02:00:00:00:00:08"), Addrs: pfx("10.245.0.5/24", "fd00:10:245::5/64"),
		Gateways: ips("10.245.0.1", "fd00:10:245::1")}
	bridgeNode = Node{Addrs: append(pfx("10.245.0.1/24", "fd00:10:245::1/64"), guideNode.Addrs...), IPv6: true}
	guideVeth  = VethPairOf(strings.Repeat("0123456789abcdef", 4))
)

// attached is a pod at the ADD of an interface.
func attached(name string, nics ...NIC) Pod {
	p := Pod{NICs: nics, Attached: name, Veth: name != "eth0", Defaults: map[inet.Family][]string{}}
	for _, nic := range slices.Backward(nics) {
		for _, gw := range nic.Gateways {
			p.Defaults[inet.FamilyOf(gw)] = append(p.Defaults[inet.FamilyOf(gw)], nic.Name)
		}
	}
	return p
}

func guideSettings() Settings {
	return Settings{
		Mode: ModeUnderlay, HijackCIDR: pfx("169.254.0.0/16"), ServiceCIDR: pfx("10.96.0.0/16", "fd00:10:96::/112"),
		OverlayPodCIDR: pfx("10.244.0.0/16", "172.31.0.0/16"),
		TunePodRoutes:  true, HostRuleTable: 500, VethMTU: 1500,
	}
}

// TestPlans compares whole plans with their text in testdata; -update writes it.
func TestPlans(t *testing.T) {
	with := func(change func(*Settings)) Settings {
		s := guideSettings()
		change(&s)
		return s
	}
	for name, plan := range map[string]func() (Plan, error){
		"underlay": func() (Plan, error) {
			return Underlay(attached("eth0", guideEth0), guideNode, guideSettings(), guideVeth)
		},
		"underlay-ipv4-only": func() (Plan, error) {
			nic := guideEth0
			nic.Addrs, nic.Gateways = nic.Addrs[:1], nic.Gateways[:1]
			return Underlay(attached("eth0", nic), Node{Addrs: guideNode.Addrs[:1]}, guideSettings(), guideVeth)
		},
		"underlay-ipv6-only": func() (Plan, error) {
			nic := guideEth0
			nic.Addrs, nic.Gateways = nic.Addrs[1:], nic.Gateways[1:]
			return Underlay(attached("eth0", nic), guideNode, guideSettings(), guideVeth)
		},
		"underlay-two-nics": func() (Plan, error) {
			return Underlay(attached("net1", guideEth0, guideNet1), guideNode, guideSettings(), guideVeth)
		},
		"underlay-default-net1": func() (Plan, error) {
			return Underlay(attached("net1", guideEth0, guideNet1), guideNode, with(func(s *Settings) { s.DefaultNIC = "net1" }), guideVeth)
		},
		"underlay-untuned": func() (Plan, error) {
			return Underlay(attached("net1", guideEth0, guideNet1), guideNode, with(func(s *Settings) { s.TunePodRoutes = false }), guideVeth)
		},
		"underlay-options": func() (Plan, error) {
			return Underlay(attached("eth0", guideEth0), guideNode, with(func(s *Settings) {
				s.TxQueueLen, s.RPFilter, s.VethMTU, s.VethLinkAddr = 500, 2, 1400, ips("169.254.200.1")[0]
				s.PolicyRoutes = []inet.Route{{Dst: pfx("198.51.100.0/24")[0], Via: ips("172.31.16.50")[0]}}
			}), guideVeth)
		},
		"overlay": func() (Plan, error) {
			return Overlay(attached("net1", calicoEth0, guideNet1), guideNode, guideSettings(), "cali0")
		},
		"overlay-default-net1": func() (Plan, error) {
			return Overlay(attached("net1", calicoEth0, guideNet1), guideNode, with(func(s *Settings) { s.DefaultNIC = "net1" }), "cali0")
		},
		"overlay-bridge": func() (Plan, error) {
			return Overlay(attached("net1", bridgeEth0, guideNet1), bridgeNode, guideSettings(), "cni0")
		},
		"overlay-ptp": func() (Plan, error) {
			nic := bridgeEth0
			nic.Routes = []inet.Route{{Dst: pfx("10.245.0.0/24")[0], Via: ips("10.245.0.1")[0]}, {Dst: pfx("fd00:10:245::/64")[0], Via: ips("fd00:10:245::1")[0]}}
			return Overlay(attached("net1", nic, guideNet1), bridgeNode, guideSettings(), "veth0123")
		},
		"overlay-alone": func() (Plan, error) {
			return Overlay(attached("eth0", calicoEth0), guideNode, guideSettings(), "cali0")
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := plan()
			if err != nil {
				t.Fatal(err)
			}
			text := "# node\n" + p.Host.String() + "# pod\n" + p.Pod.String()
			golden(t, name, text)
		})
	}
	t.Run("node", func(t *testing.T) {
		golden(t, "node", NodeState(500, []inet.Family{inet.IPv4, inet.IPv6}, map[string]int{"ens5": 1, "ens6": 0, "ens7": 2}).String())
	})
}

func golden(t *testing.T, name, text string) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || string(want) != text {
		t.Errorf("%s differs (%v); have:\n%s", file, err, text)
	}
	if _, err := Parse(text); err != nil {
		t.Errorf("the text does not parse: %v", err)
	}
}

func TestUnderlayNetworkStaysOffTheNode(t *testing.T) {
	p, err := Underlay(attached("eth0", guideEth0), guideNode, guideSettings(), guideVeth)
	if err != nil {
		t.Fatal(err)
	}
	if text := p.Pod.String(); strings.Contains(text, "route 172.31.0.0/16") || !strings.Contains(text, "route 10.244.0.0/16") {
		t.Errorf("want a route to 10.244.0.0/16 and none to 172.31.0.0/16 in\n%s", text)
	}
}

func TestUnusableSettingsNameTheField(t *testing.T) {
	for _, c := range []struct {
		field  string
		change func(*Settings)
	}{
		{"hostRuleTable", func(s *Settings) { s.HostRuleTable = 255 }},
		{"hostRuleTable", func(s *Settings) { s.HostRuleTable = -1 }},
		{"podRPFilter", func(s *Settings) { s.RPFilter = 3 }},
		{"txQueueLen", func(s *Settings) { s.TxQueueLen = -1 }},
		{"vethLinkAddress", func(s *Settings) { s.VethLinkAddr = ips("10.0.0.1")[0] }},
		{"vethMTU", func(s *Settings) { s.VethMTU = 1279 }},
		{"vethMTU", func(s *Settings) { s.VethMTU = 65536 }},
		{"hijackCIDR", func(s *Settings) { s.HijackCIDR = pfx("172.31.30.0/24") }},
		{"serviceCIDR", func(s *Settings) { s.ServiceCIDR = pfx("172.31.28.0/24") }},
		{"serviceCIDR", func(s *Settings) { s.ServiceCIDR = pfx("172.31.16.0/30") }},
		{"policyRoutes[0].dst", func(s *Settings) {
			s.PolicyRoutes = []inet.Route{{Dst: pfx("10.0.0.1/8")[0], Via: ips("172.31.16.2")[0]}}
		}},
		{"policyRoutes", func(s *Settings) {
			s.PolicyRoutes = []inet.Route{{Dst: pfx("10.0.0.0/8")[0], Via: ips("192.0.2.1")[0]}}
		}},
		{"policyRoutes[0].gw", func(s *Settings) {
			s.PolicyRoutes = []inet.Route{{Dst: pfx("10.0.0.0/8")[0], Via: ips("2406:da1e:c4:ed01::2")[0]}}
		}},
	} {
		s := guideSettings()
		s.OwnPolicyRoutes = true
		c.change(&s)
		_, err := Underlay(attached("eth0", guideEth0), guideNode, s, guideVeth)
		var field *FieldError
		if !errors.As(err, &field) || field.Field != c.field {
			t.Errorf("got %v, want an error of field %s", err, c.field)
		}
	}
	node := guideNode
	node.Addrs = pfx("172.31.28.17/20")
	if _, err := Underlay(attached("eth0", guideEth0), node, guideSettings(), guideVeth); err == nil || !strings.Contains(err.Error(), "is an address of the node") {
		t.Errorf("an address of the node: got %v", err)
	}
}

func TestPodIsFoundInItsState(t *testing.T) {
	st, err := Parse(`
link lo mac 00:00:00:00:00:00
link net10 mac 02:00:00:00:00:10
link net2 mac 02:00:00:00:00:02
link eth0 mac 02:00:00:00:00:01
link veth0 mac 02:00:00:00:00:03
link dummy0
addr 10.0.10.2/24 dev net10
addr 10.0.2.2/24 dev net2
addr fd00::2/64 dev eth0
addr 10.0.0.2/24 dev eth0
addr 169.254.200.1/32 dev veth0
route 0.0.0.0/0 via 10.0.0.1 dev eth0
route 10.0.0.0/24 dev eth0 src 10.0.0.2 proto 2
route 10.9.0.0/16 via 10.0.0.9 dev eth0 proto 3
route 10.8.0.0/16 via 10.0.0.8 dev eth0 proto 83
route 0.0.0.0/0 via 10.0.2.1 dev net2 table 101 proto 83
`)
	if err != nil {
		t.Fatal(err)
	}
	pod := PodOf(st, "eth0")
	var names []string
	for _, n := range pod.NICs {
		names = append(names, n.Name)
	}
	if !slices.Equal(names, []string{"eth0", "net2", "net10"}) {
		t.Fatalf("interfaces %v", names)
	}
	eth0 := pod.NICs[0]
	if !slices.Equal(eth0.Addrs, pfx("10.0.0.2/24", "fd00::2/64")) || !slices.Equal(eth0.Gateways, ips("10.0.0.1")) ||
		!slices.Equal(eth0.Routes, []inet.Route{{Dst: pfx("10.9.0.0/16")[0], Via: ips("10.0.0.9")[0]}}) {
		t.Errorf("eth0 is %+v", eth0)
	}
	if !slices.Equal(pod.NICs[1].Gateways, ips("10.0.2.1")) {
		t.Errorf("net2 is %+v", pod.NICs[1])
	}
}

func TestVethNamesAreValidAndDiffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.String().Draw(t, "a"), rapid.String().Draw(t, "b")
		va, vb := VethPairOf(a), VethPairOf(b)
		if len(va.Host) != 15 || !strings.HasPrefix(va.Host, HostVethPrefix) || va.HostMAC[0]&3 != 2 || va.PodMAC[0]&3 != 2 {
			t.Fatalf("%q gives %+v", a, va)
		}
		if a != b && va.Host == vb.Host || va != VethPairOf(a) {
			t.Fatalf("%q and %q both give %s", a, b, va.Host)
		}
	})
	id := strings.Repeat("0123456789abcdef", 4)
	if v := VethPairOf(id); v.Host != "spv0123456789ab" {
		t.Errorf("a runtime's ID gives %s", v.Host)
	}
}

func TestMACWithPrefix(t *testing.T) {
	for addr, want := range map[string]string{"172.31.28.17": "0a:1b:ac:1f:1c:11", "2406:da1e::102:304": "0a:1b:01:02:03:04"} {
		if m, err := MACWithPrefix("0a:1b", netip.MustParseAddr(addr)); err != nil || m.String() != want {
			t.Errorf("%s: got %s, %v; want %s", addr, m, err, want)
		}
	}
	for _, bad := range []string{"", "0a", "0a:1", "0a:1b:2c", "0a1b", "zz:1b", "01:00"} {
		if _, err := MACWithPrefix(bad, netip.MustParseAddr("10.0.0.1")); err == nil {
			t.Errorf("prefix %q was accepted", bad)
		}
	}
}
