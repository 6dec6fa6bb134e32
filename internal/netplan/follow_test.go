package netplan

import (
	"net/netip"
	"os"
	"strings"
	"testing"
)

// podOf returns the pod's half of a plan in testdata.
func podOf(t *testing.T, name string) State {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	_, pod, _ := strings.Cut(string(text), "# pod\n")
	st, err := Parse(pod)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestFollowNodeAddsLaterAddresses(t *testing.T) {
	for name, tc := range map[string]struct{ plan, node, want string }{
		"virtual addresses": {"underlay", "172.31.16.50/32 2406:da1e:c4:ed01::50/128", `
			route 172.31.16.50/32 via 169.254.0.1 dev veth0 src 172.31.28.17 onlink proto 83
			route 2406:da1e:c4:ed01::50/128 via fe80::1 dev veth0 src 2406:da1e:c4:ed01:c57d::1 proto 83`},
		"every table": {"underlay-two-nics", "172.31.16.50/32", `
			route 172.31.16.50/32 via 169.254.0.1 dev veth0 src 10.20.0.17 table 101 onlink proto 83
			route 172.31.16.50/32 via 169.254.0.1 dev veth0 src 172.31.28.17 onlink proto 83
			route 172.31.16.50/32 via 169.254.0.1 dev veth0 src 172.31.28.17 table 100 onlink proto 83`},
		"overlay": {"overlay", "10.20.0.50/24", `
			route 10.20.0.50/32 via 169.254.1.1 dev eth0 src 10.20.0.17 table 101 onlink proto 83
			route 10.20.0.50/32 via 169.254.1.1 dev eth0 src 10.244.0.5 onlink proto 83
			route 10.20.0.50/32 via 169.254.1.1 dev eth0 src 10.244.0.5 table 100 onlink proto 83`},
		"known address":         {"underlay", "172.31.22.228/20", ""},
		"in a hijacked network": {"underlay", "169.254.20.10/32", ""},
		"in a service network":  {"underlay", "10.96.0.1/32", ""},
		"the next hop itself":   {"overlay", "169.254.1.1/32", ""},
		"family without a plan": {"underlay-ipv4-only", "2406:da1e:c4:ed01::50/128", ""},
		"pod without a plan":    {"", "172.31.16.50/32", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var pod State
			if tc.plan != "" {
				pod = podOf(t, tc.plan)
			}
			var node Node
			for _, p := range strings.Fields(tc.node) {
				node.Addrs = append(node.Addrs, netip.MustParsePrefix(p))
			}
			missing := FollowNode(pod, node)
			want, err := Parse(tc.want)
			if err != nil || missing.String() != want.String() {
				t.Errorf("got\n%swant\n%s%v", missing, want, err)
			}
			if again := FollowNode(append(pod, missing...), node); len(again) > 0 {
				t.Errorf("not idempotent:\n%s", again)
			}
		})
	}
}

// A policy route to one address is the user's wish.
func TestFollowNodeKeepsPolicyRoute(t *testing.T) {
	wish, err := Parse("route 172.31.16.50/32 via 172.31.16.9 dev eth0 proto 83")
	if err != nil {
		t.Fatal(err)
	}
	pod := append(podOf(t, "underlay"), wish...)
	if got := FollowNode(pod, Node{Addrs: []netip.Prefix{netip.MustParsePrefix("172.31.16.50/32")}}); len(got) > 0 {
		t.Errorf("got\n%s", got)
	}
}

func TestFollowSourcesReplacesLostSource(t *testing.T) {
	const old = "172.31.28.17/32 dev spv0 src 172.31.22.228 table 500 proto 83"
	for name, tc := range map[string]struct{ node, want string }{
		"kept":            {"172.31.16.50/20 172.31.22.228/20", ""},
		"another address": {"10.0.0.1/24 172.31.16.50/20", "~ route " + old + " => route 172.31.28.17/32 dev spv0 src 172.31.16.50 table 500 proto 83\n"},
		"none left":       {"fd00::1/64", "~ route " + old + " => route 172.31.28.17/32 dev spv0 table 500 proto 83\n"},
	} {
		t.Run(name, func(t *testing.T) {
			st, err := Parse("route " + old)
			if err != nil {
				t.Fatal(err)
			}
			if got := FollowSources([]Route{st[0].(Route)}, Node{Addrs: pfx(strings.Fields(tc.node)...)}).String(); got != tc.want {
				t.Errorf("got  %swant %s", got, tc.want)
			}
		})
	}
}
