package netplan

import (
	"strings"
	"testing"
)

func TestPreflightNamesWhatTheNodeLacks(t *testing.T) {
	sysctls := map[string]string{disableIPv6: "1"}
	for _, f := range MinSysctls {
		sysctls[f.Path] = "40000"
	}
	sysctls["net/ipv4/neigh/default/gc_thresh3"] = "1024"
	facts := NodeFacts{Kernel: "4.18.0-553.el8.x86_64", Sysctls: sysctls, Kinds: map[string]bool{"ipvlan": false, "macvlan": true},
		ForwardDrops: []string{"ip filter FORWARD"}, NoBandwidth: "no tbf", NoAntiSpoof: "no egress hook",
		Masters: []Master{{"kube-system/a", "ens5", 9000, 9001}, {"kube-system/b", "ens6", 9000, 1500}, {"kube-system/c", "ens7", 0, 0}}}
	var got []string
	for _, f := range lacks(facts, true) {
		got = append(got, f.What)
	}
	const want = "kernel, link kind ipvlan, bandwidth of pods, antiSpoof of the coordinator, sysctl net/ipv6/conf/all/disable_ipv6, MTU of interface ens6, interface ens7, policy of chain ip filter FORWARD, sysctl net/ipv4/neigh/default/gc_thresh3"
	if text := strings.Join(got, ", "); text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	for _, kernel := range []string{"5.7.0", "6.1.176", "5.10-rc1", "10.0", "unknown"} {
		if f := lacks(NodeFacts{Kernel: kernel}, true); len(f) != 0 {
			t.Errorf("kernel %s: %v", kernel, f)
		}
	}
	if f := lacks(NodeFacts{Kernel: "6.1", Sysctls: map[string]string{disableIPv6: "1"}}, false); len(f) != 0 {
		t.Errorf("a cluster without IPv6: %v", f)
	}
}

func lacks(facts NodeFacts, ipv6 bool) []Finding { return Failed(Preflight(facts, ipv6)) }

func TestRaiseNeverLowers(t *testing.T) {
	got := RaiseSysctls(map[string]string{"net/ipv4/neigh/default/gc_thresh1": "128", "net/ipv4/neigh/default/gc_thresh3": "99999"})
	if got.String() != "sysctl net/ipv4/neigh/default/gc_thresh1 = 4096\n" {
		t.Errorf("got\n%s", got)
	}
}
