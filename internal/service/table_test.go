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
