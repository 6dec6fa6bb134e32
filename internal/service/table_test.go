package service

import (
	"net/netip"
	"testing"
)

func oneBackend(name, clusterIP string) (*Service, *Slice) {
	s := &Service{Name: Name{"x", name}, ClusterIPs: addrsOf(clusterIP), Ports: []Port{{"", TCP, 80, 0}}}
	return s, &Slice{
		Name: Name{"x", name + "-1"}, Service: name, Ports: []SlicePort{{"", TCP, 8080}},
		Endpoints: []Endpoint{{Addr: netip.MustParseAddr("10.6.0.1"), Ready: true}},
	}
}

func TestIDsOfEarlierProcess(t *testing.T) {
	key := func(addr string) FrontendKey { return FrontendKey{netip.MustParseAddr(addr), 80, TCP} }
	// Both frontends had one set, and belong to two services now. A refusing frontend had none.
	known := map[FrontendKey]ID{key("10.96.0.1"): 7, key("10.96.0.2"): 7, key("10.96.0.3"): 0}
	table := NewTable(Node{Name: "n1"}, known)
	for _, step := range []struct {
		name, clusterIP string
		want            ID
	}{
		{"unknown", "10.96.0.9", 8}, // above all known IDs, whose slots may still be in the maps
		{"first", "10.96.0.1", 7},
		{"second", "10.96.0.2", 9},
		{"refused", "10.96.0.3", 10},
	} {
		s, slice := oneBackend(step.name, step.clusterIP)
		table.SetSlice(slice)
		table.SetService(s)
		if got := table.current(key(step.clusterIP)).ID; got != step.want {
			t.Errorf("%s has the set %d, want %d", step.name, got, step.want)
		}
	}
	// The ID of an ended set is not used again: flows and sessions may remember it.
	table.DeleteService(Name{"x", "first"})
	s, _ := oneBackend("first", "10.96.0.1")
	table.SetService(s)
	if got := table.current(key("10.96.0.1")).ID; got != 11 {
		t.Errorf("the service has the set %d after its deletion, want 11", got)
	}
	if len(known) != 3 {
		t.Errorf("the caller's map has %d IDs left", len(known))
	}
}

// TestEachFrontendHasOwner has two services with the same backend: a frontend belongs to the one that it translates for.
func TestEachFrontendHasOwner(t *testing.T) {
	table := NewTable(Node{Name: "n1", Addrs: addrsOf("192.0.2.1")}, nil)
	web, slice := oneBackend("web", "10.96.0.1")
	web.ClusterIPs = addrsOf("10.96.0.1", "fd00::1")
	web.LoadBalancerIPs, web.ExternalIPs = addrsOf("203.0.113.7"), addrsOf("203.0.113.8")
	web.Ports[0].NodePort = 30080
	other, same := oneBackend("other", "10.96.0.2")
	other.ExternalIPs = addrsOf("10.96.0.1", "203.0.113.9") // the first one is a cluster IP already
	table.SetSlice(slice)
	table.SetSlice(same)
	table.SetService(web)
	table.SetService(other)
	for at, want := range map[string]string{
		"10.96.0.1:80": "x/web", "[fd00::1]:80": "x/web", "203.0.113.7:80": "x/web", "203.0.113.8:80": "x/web", "192.0.2.1:30080": "x/web",
		"10.96.0.2:80": "x/other", "203.0.113.9:80": "x/other", "10.96.0.1:81": "", "10.6.0.1:8080": "",
	} {
		to := netip.MustParseAddrPort(at)
		got, ok := table.Owner(FrontendKey{to.Addr(), to.Port(), TCP})
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("%s belongs to %s, %v; want %q", at, got, ok, want)
		}
	}
	table.DeleteService(web.Name)
	if got, ok := table.Owner(FrontendKey{netip.MustParseAddr("10.96.0.1"), 80, TCP}); !ok || got != other.Name {
		t.Errorf("after the deletion: %s, %v", got, ok)
	}
}
