package reach

import (
	"net/netip"
	"slices"
	"testing"

	"spiderpool.dev/spiderpool/internal/inet"
)

func TestPlanHasEveryPath(t *testing.T) {
	want := []string{
		PathSameNode, PathOtherNode, PathOwnHost, PathOtherHost, PathHostPod, PathHostOther, PathService, PathServiceFar, PathServiceSelf, PathHostService,
		PathHostFar, PathNodePort, PathNodePortFar, PathGateway, PathFull, PathDNS, PathAPIServer,
	}
	got := map[string]int{}
	for _, p := range nodes(2).Probes {
		got[p.Path]++
	}
	for _, path := range want {
		if got[path] == 0 {
			t.Errorf("no probe of %q", path)
		}
	}
	if len(got) != len(want) {
		t.Errorf("paths %v", got)
	}
}

func TestOneNodeHasNoOther(t *testing.T) {
	for _, p := range nodes(1).Probes {
		if betweenNodes(&p) || p.Path == PathHostOther || p.Path == PathHostFar || p.Path == PathNodePortFar {
			t.Errorf("one node, but a probe of %q", p.Path)
		}
	}
}

func TestProbesGrowWithNodes(t *testing.T) {
	if three, six := len(nodes(3).Probes), len(nodes(6).Probes); six != 2*three {
		t.Errorf("3 nodes have %d probes, 6 nodes %d, want twice as many", three, six)
	}
}

func TestPlanAsksEveryInterface(t *testing.T) {
	w := healthy()
	second := netip.MustParseAddr("fd00:7::11")
	for i := range w.Parties {
		if p := &w.Parties[i]; !p.Host {
			p.Interfaces = append(p.Interfaces, Interface{Name: "net1", Network: "kube-system/storage", Leases: []Leased{{Addr: second, Gateway: netip.MustParseAddr("fe80::1"), Pool: "storage"}}})
			p.Facts.Links = append(p.Facts.Links, Link{Name: "net1", MTU: 9000})
			second = second.Next()
		}
	}
	var kinds []Kind
	for _, p := range Plan(&w.Cluster) {
		if p.Interface == "net1" && (p.From == "first-0" || p.Path == PathGateway && p.From == "last-0") {
			kinds = append(kinds, p.Question.Kind)
			if p.Family != inet.IPv6 || p.Question.Kind == Full && p.Question.Size != 9000 || p.Question.Kind == Gateway && p.Question.To.Addr().Zone() != "net1" {
				t.Errorf("got %+v", p)
			}
		}
	}
	for _, kind := range []Kind{TCP, UDP, Full, Gateway} {
		if !slices.Contains(kinds, kind) {
			t.Errorf("no question of kind %s over net1: %v", kind, kinds)
		}
	}
}

func TestAnswerOfAnotherServerIsFault(t *testing.T) {
	p := Probe{Server: "last-0"}
	for server, want := range map[string]Fault{"last-0": "", "last-1": OtherServer, "": OtherServer} {
		if p.Judge(Answer{Server: server}); p.Answer.Fault != want {
			t.Errorf("answer of %q: fault %q, want %q", server, p.Answer.Fault, want)
		}
	}
}
