package service

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

const (
	manyServices = 10_000
	perService   = 10
)

func scaleAddr(network byte, i int) netip.Addr {
	return netip.AddrFrom4([4]byte{network, byte(i >> 16), byte(i >> 8), byte(i)})
}

func scaleService(i int) *Service {
	s := &Service{
		Name: Name{fmt.Sprintf("namespace-%d", i/50), fmt.Sprintf("service-%d", i)}, Created: time.Unix(int64(i), 0),
		ClusterIPs: []netip.Addr{scaleAddr(11, i)},
		Ports:      []Port{{"http", TCP, 80, 0}},
	}
	if i < 2000 {
		s.Ports[0].NodePort = uint16(30000 + i)
	}
	return s
}

// scaleSlice has perService endpoints. In the state 1, one of them is another.
func scaleSlice(i, state int) *Slice {
	s := &Slice{
		Name:    Name{fmt.Sprintf("namespace-%d", i/50), fmt.Sprintf("service-%d-x7k2p", i)},
		Service: fmt.Sprintf("service-%d", i),
		Ports:   []SlicePort{{"http", TCP, 8080}},
	}
	hints := &Hints{Zones: []string{"zone-a"}}
	for k := range perService {
		addr := scaleAddr(10, i*perService+k)
		if k == 3 && state == 1 {
			addr = scaleAddr(12, i)
		}
		s.Endpoints = append(s.Endpoints, Endpoint{
			Addr: addr, Node: fmt.Sprintf("node-%d", k), Hints: hints, Ready: true, Serving: true,
		})
	}
	return s
}

func scaleTable() *Table {
	t := NewTable(Node{Name: "node-1", Zone: "zone-a", Addrs: []netip.Addr{scaleAddr(13, 1)}}, nil)
	for i := range manyServices {
		t.SetService(scaleService(i))
		t.SetSlice(scaleSlice(i, 0))
	}
	return t
}

func TestUpdateTouchesOneService(t *testing.T) {
	table := scaleTable()
	d := table.SetSlice(scaleSlice(4711, 1))
	want := fmt.Sprintf("+ set %d slot 3 %v:8080\n", table.claims[FrontendKey{scaleAddr(11, 4711), 80, TCP}].owner.sets[0].id, scaleAddr(12, 4711))
	if d.String() != want {
		t.Errorf("got\n%swant\n%s", d, want)
	}
}

// TestLargeTableFitsMemory measures what the table keeps, with all strings of its own.
func TestLargeTableFitsMemory(t *testing.T) {
	const limit = 60 << 20
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	table := scaleTable()
	runtime.GC()
	runtime.ReadMemStats(&after)
	kept := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("%d services with %d endpoints keep %.1f MiB", manyServices, manyServices*perService, float64(kept)/(1<<20))
	if kept > limit {
		t.Errorf("the table keeps %d bytes, more than %d", kept, limit)
	}
	runtime.KeepAlive(table)
}

// TestManyClaimantsOfOneFrontend guards against a tenant whose services all claim one external IP.
func TestManyClaimantsOfOneFrontend(t *testing.T) {
	table := NewTable(Node{Name: "node-1"}, nil)
	contested := FrontendKey{scaleAddr(14, 1), 80, TCP}
	set := func(i int) Diff {
		s := scaleService(i)
		s.ExternalIPs = []netip.Addr{contested.Addr}
		return table.SetService(s)
	}
	const claimants = 1000
	for i := range claimants {
		set(claimants - 1 - i) // each one is older than those before
	}
	if owner := table.claims[contested].owner.service.Created; owner.Unix() != 0 {
		t.Fatalf("the service of %v owns the frontend", owner)
	}
	for i := range claimants {
		table.DeleteService(scaleService(i).Name)
		if owner := table.claims[contested].owner; i+1 < claimants && owner.service.Created.Unix() != int64(i+1) {
			t.Fatalf("after %d deletions, %s owns the frontend", i+1, owner.name)
		}
	}
}

// TestHugeServicePasses guards against a tenant whose service would fill the maps and the memory of all nodes.
func TestHugeServicePasses(t *testing.T) {
	ports := func(n int) (all []Port) {
		for i := range n {
			all = append(all, Port{Name: fmt.Sprint("p", i), Protocol: TCP, Port: uint16(i + 1)})
		}
		return all
	}
	slice := func(ports []Port, endpoints int) *Slice {
		s := &Slice{Name: Name{"ns", "huge-1"}, Service: "huge"}
		for _, p := range ports {
			s.Ports = append(s.Ports, SlicePort{Name: p.Name, Protocol: TCP, Port: p.Port})
		}
		for i := range endpoints {
			s.Endpoints = append(s.Endpoints, Endpoint{Addr: scaleAddr(10, i), Ready: true})
		}
		return s
	}
	huge := func(ports []Port, external int) *Service {
		s := &Service{Name: Name{"ns", "huge"}, ClusterIPs: []netip.Addr{scaleAddr(11, 1)}, Ports: ports}
		for i := range external {
			s.ExternalIPs = append(s.ExternalIPs, scaleAddr(14, i))
		}
		return s
	}
	for name, c := range map[string]struct {
		ports, external, endpoints  int
		frontends, passes, backends int
	}{
		"as many frontends as permitted": {64, 127, 1, 64 * 128, 0, 64},
		"more frontends":                 {64, 128, 1, 64, 64, 0},
		"very many ports":                {60_000, 5, 1, 4096, 4096, 0},
		"as many backends as permitted":  {64, 1, 1024, 128, 0, 65536},
		"more backends":                  {64, 1, 1025, 128, 128, 0},
		"very many ports of the slice":   {1025, 0, 1, 1025, 1025, 0},
	} {
		t.Run(name, func(t *testing.T) {
			table := NewTable(Node{Name: "node-1"}, nil)
			small := ports(c.ports)
			table.SetService(huge(small, c.external))
			table.SetSlice(slice(small, c.endpoints))
			check := func(frontends, wantPasses, backends int) {
				t.Helper()
				all, passes := table.All(), 0
				for _, f := range all.SetFrontends {
					if f.Flags == Pass {
						passes++
					}
				}
				if len(all.SetFrontends) != frontends || passes != wantPasses || len(all.SetBackends) != backends {
					t.Errorf("%d frontends, of them %d pass, %d backends; want %d, %d, %d", len(all.SetFrontends), passes, len(all.SetBackends), frontends, wantPasses, backends)
				}
			}
			check(c.frontends, c.passes, c.backends)
			if passes := table.Explain(Name{"ns", "huge"})[0].Pass; (passes != "") != (c.passes > 0) {
				t.Errorf("explained with %q", passes)
			}
			table.SetSlice(slice(ports(1), 2))
			table.SetService(huge(ports(1), 1))
			check(2, 0, 2)
		})
	}
}

func BenchmarkFirstSync(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		table := scaleTable()
		if got := len(table.All().SetBackends); got != manyServices*perService {
			b.Fatal(got)
		}
	}
}

// BenchmarkUpdate replaces one endpoint of one service.
func BenchmarkUpdate(b *testing.B) {
	for _, services := range []int{10, manyServices} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			table := NewTable(Node{Name: "node-1", Zone: "zone-a", Addrs: []netip.Addr{scaleAddr(13, 1)}}, nil)
			for i := range services {
				table.SetService(scaleService(i))
				table.SetSlice(scaleSlice(i, 0))
			}
			states := [2]*Slice{scaleSlice(7, 0), scaleSlice(7, 1)}
			b.ReportAllocs()
			entries, i := 0, 0
			for b.Loop() {
				i++
				entries += table.SetSlice(states[i%2]).Len()
			}
			b.ReportMetric(float64(entries)/float64(b.N), "entries/op")
		})
	}
}
