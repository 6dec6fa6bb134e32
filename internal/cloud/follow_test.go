package cloud

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

const fixed6 = "2406:da1e:c4:ed02:0:1:0:10"

// followed returns a pool with an address that pod uid-1 uses on worker1. worker1 has eni-0 and eni-1, worker2 has eni-2. All answers show the
// address where at says.
func followed(addr, at string) Following {
	a := netip.MustParseAddr(addr)
	node := func(name string, ifaces ...string) Member {
		instance := &Instance{ID: "i-" + name}
		for device, id := range ifaces {
			i := Interface{ID: id, Device: device, Subnet: "subnet-2"}
			switch {
			case id != at:
			case a.Is6():
				i.Primary = append(i.Primary, a) // as EC2 shows it
			default:
				i.Assigned = append(i.Assigned, netip.PrefixFrom(a, a.BitLen()))
			}
			instance.Interfaces = append(instance.Interfaces, i)
		}
		return Member{Node: name, Instance: instance.ID, Answers: History{}.Add(Answer{start, instance}).Add(Answer{start.Add(time.Minute), instance})}
	}
	return Following{
		Devices: []int{0, 1}, Now: start.Add(time.Minute), CoolDown: time.Minute, Since: start,
		Members: []Member{node("worker1", "eni-0", "eni-1"), node("worker2", "eni-2")},
		Pools: []FixedPool{{
			Name: "db", Subnet: "subnet-2", IPs: inet.OfAddrs(a),
			Leases: []FixedLease{{Addr: a, PodUID: "uid-1", Node: "worker1", InUse: true}},
			Places: map[netip.Addr]Placement{a: {Interface: "eni-0", PodUID: "uid-1"}},
		}},
	}
}

// text describes a plan.
func (p FollowPlan) text() string {
	var lines []string
	for _, a := range p.Lost {
		lines = append(lines, "lost "+a.String())
	}
	for _, m := range p.Moves {
		lines = append(lines, fmt.Sprintf("move to %s from %s, shown %t, strayed %t", m.To, strings.Join(m.From, " "), m.Shown, m.Strayed))
	}
	for _, l := range p.Leaves {
		lines = append(lines, "leave "+l.Interface)
	}
	for _, a := range p.Dropped {
		lines = append(lines, "drop "+a.String())
	}
	for _, i := range p.Issues {
		lines = append(lines, string(i.Reason))
	}
	for _, node := range p.Again {
		lines = append(lines, "ask about "+node)
	}
	return strings.Join(lines, "\n")
}

func TestFollowPlans(t *testing.T) {
	const ip = "172.31.32.192"
	place := func(iface, uid string) func(*Following) {
		return func(f *Following) {
			f.Pools[0].Places[f.Pools[0].Leases[0].Addr] = Placement{Interface: iface, PodUID: uid}
		}
	}
	unleased := func(f *Following) {
		f.Idle = map[netip.Addr]time.Time{f.Pools[0].Leases[0].Addr: start}
		f.Pools[0].Leases = nil
	}
	device1 := func(f *Following) { f.Pools[0].Device = 1 }
	only1 := func(f *Following) { f.Devices = []int{1} }
	comes := func(node string) func(*Following) {
		return func(f *Following) { f.Pools[0].Leases[0].PodUID, f.Pools[0].Leases[0].Node = "uid-2", node }
	}
	out := func(f *Following) { f.Pools[0].IPs = inet.Set{} }
	nowhere := func(f *Following) { f.Pools[0].Places = nil }
	for _, tc := range []struct {
		name, addr, at string
		change         []func(*Following)
		want           []string
	}{
		{"placed", ip, "eni-0", nil, nil},
		{"strayed to the other node", ip, "eni-2", nil, []string{"move to eni-0 from eni-0 eni-2, shown true, strayed true"}},
		{"strayed to a stranger", ip, "", nil, []string{"move to eni-0 from eni-0, shown false, strayed true"}},

		{"the pool has another device index", ip, "eni-0", []func(*Following){device1}, nil},
		{"another device index, strayed", ip, "eni-2", []func(*Following){device1}, []string{"move to eni-0 from eni-0 eni-2, shown true, strayed true"}},
		{"device index without controller, strayed", ip, "eni-2", []func(*Following){device1, only1}, []string{"move to eni-0 from eni-0, shown false, strayed true"}},
		{"on another device index, waiting", ip, "eni-1", []func(*Following){nowhere}, []string{"move to eni-0 from eni-1, shown true, strayed false"}},
		{"on another device index, idle", ip, "eni-1", []func(*Following){nowhere, unleased}, []string{"leave eni-1"}},
		{"on a device index without controller, idle", ip, "eni-0", []func(*Following){nowhere, unleased, only1}, nil},
		{"another device index, next pod", ip, "eni-0", []func(*Following){device1, comes("worker1")}, []string{"move to eni-1 from eni-0, shown true, strayed false"}},

		{"next pod elsewhere", ip, "eni-0", []func(*Following){comes("worker2")}, []string{"move to eni-2 from eni-0, shown true, strayed false"}},
		{"the former interface has gone", ip, "", []func(*Following){place("eni-9", "uid-1"), comes("worker2")}, []string{"move to eni-2 from eni-9, shown false, strayed false"}},

		{"new instance with the name of the node", ip, "", []func(*Following){place("eni-9", "uid-1")}, []string{"lost " + ip, "move to eni-0 from eni-9, shown false, strayed false"}},
		{"new instance during a call", ip, "", []func(*Following){place("eni-9", "uid-1"), func(f *Following) { f.Busy = map[string]bool{"worker1": true} }}, []string{"lost " + ip}},
		{"new instance without the interface", ip, "", []func(*Following){place("eni-9", "uid-1"), func(f *Following) { f.Pools[0].Device = 2 }}, []string{"lost " + ip, "InterfaceMissing", "ask about worker1"}},
		{"placed after the answer", ip, "", []func(*Following){place("eni-9", "uid-1"), func(f *Following) { f.Placed = map[netip.Addr]time.Time{netip.MustParseAddr(ip): f.Now} }}, []string{"ask about worker1"}},

		{"idle", ip, "eni-0", []func(*Following){unleased}, []string{"leave eni-0"}},
		{"out of the entry", ip, "eni-0", []func(*Following){out, unleased}, []string{"drop " + ip}},
		{"out of the entry, in use", ip, "eni-0", []func(*Following){out}, nil},
		{"in another entry now", ip, "eni-0", []func(*Following){func(f *Following) { f.Pools = append(f.Pools, FixedPool{Name: "web", Device: 1, IPs: f.Pools[0].IPs}) }, out, unleased}, []string{"leave eni-0"}},
		{"IPv6 out of the entry", fixed6, "eni-0", []func(*Following){out, unleased}, []string{"leave eni-0"}},
		{"IPv6 placed", fixed6, "eni-0", nil, nil},
		{"IPv6 idle", fixed6, "eni-0", []func(*Following){unleased}, []string{"leave eni-0"}},
		{"IPv6 of the node itself", fixed6, "eni-2", []func(*Following){nowhere, unleased}, nil},
		{"IPv6 of the node itself, in use", fixed6, "eni-2", []func(*Following){nowhere}, []string{"move to eni-0 from , shown false, strayed false"}},
		{"IPv6 after a lost call", fixed6, "eni-2", []func(*Following){nowhere, unleased, func(f *Following) {
			f.Tried = map[netip.Addr][]string{netip.MustParseAddr(fixed6): {"eni-2"}}
		}}, []string{"leave eni-2"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := followed(tc.addr, tc.at)
			for _, change := range tc.change {
				change(&f)
			}
			if got := Follow(f).text(); got != strings.Join(tc.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", got, strings.Join(tc.want, "\n"))
			}
		})
	}
}
