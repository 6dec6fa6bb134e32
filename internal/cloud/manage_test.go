package cloud

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spiderpool.dev/spiderpool/internal/inet"
)

// managedNode is a node of the type m5.large in subnet-2, with one pool that equals its interface, and an answer now and a minute ago.
func managedNode(leased string, pieces ...string) Management {
	i := instance("eni-1", "subnet-2", pieces...)
	i.Type, i.Interfaces[0].Primary = "m5.large", []netip.Addr{netip.MustParseAddr("172.31.32.7")}
	m := Management{
		Discovery: Discovery{Now: start.Add(time.Minute), Network: "aws", Devices: []int{0}, Families: []inet.Family{inet.IPv4}, Subnets: subnets, Settled: true, Managed: true},
		Limits:    map[string]Limits{"m5.large": {Interfaces: 3, IPv4: 10, IPv6: 10, Prefixes: true}},
		Reserve:   20, CoolDown: time.Minute,
	}
	m.Members = []Member{{Node: "worker1", Answers: History{}.Add(Answer{At: start, Instance: i}).Add(Answer{At: m.Now, Instance: i})}}
	if len(pieces) > 0 {
		pool := ExistingPool{Pool: Pool{Name: "aws-worker1-0-v4", Node: "worker1", Interface: "eni-1", Subnet: subnets["subnet-2"].CIDRs[0]}}
		for _, p := range pieces {
			pool.IPs = inet.Union(pool.IPs, inet.OfPrefix(prefix(p)))
		}
		pool.Leased = mustSet(leased)
		m.Pools = []ExistingPool{pool}
	}
	return m
}

func mustSet(text string) inet.Set {
	if text == "" {
		return inet.Set{}
	}
	set, err := inet.Parse(strings.Split(text, ", "), inet.Bounds{})
	if err != nil {
		panic(err)
	}
	return set
}

// text describes a plan.
func (p ManagePlan) text() string {
	var lines []string
	for _, g := range p.Assign {
		lines = append(lines, fmt.Sprintf("assign %d %s to %s", g.Count, g.Unit, g.Interface))
	}
	for pool, pieces := range p.Returning {
		lines = append(lines, fmt.Sprintf("%s loses %v", pool, pieces))
	}
	for _, r := range p.Return {
		for _, piece := range r.Pieces {
			lines = append(lines, fmt.Sprintf("return %s of %s", piece.Prefix, r.Interface))
		}
	}
	for _, i := range p.Issues {
		lines = append(lines, string(i.Reason))
	}
	if len(p.Ask) > 0 {
		lines = append(lines, "ask")
	}
	if len(p.Again) > 0 {
		lines = append(lines, "ask again")
	}
	if len(p.Idle) > 0 {
		lines = append(lines, "idle")
	}
	for _, pool := range []string{"aws-worker1-0-v4"} {
		lines = append(lines, fmt.Sprintf("room %d", p.Room[pool]))
	}
	return strings.Join(lines, "\n")
}

const (
	one, two, three = "172.31.32.16/28", "172.31.32.32/28", "172.31.32.48/28"
	node1           = "aws-worker1-0-v4"
)

func TestManagePlans(t *testing.T) {
	waits := func(n int64) func(*Management) {
		return func(m *Management) { m.Waiting = map[string]int64{node1: n} }
	}
	stopped := func(due bool) func(*Management) {
		return func(m *Management) {
			waits(20)(m)
			m.Stops = map[Place]Stop{{"subnet-2", inet.IPv4}: {Issue{Reason: "NoCapacity", Text: "no room"}, due}}
		}
	}
	idle := func(m *Management) {
		m.Idle = map[string]Idle{node1: {Since: start, Pieces: 1}}
	}
	for _, tc := range []struct {
		name   string
		leased string
		pieces []string
		change func(*Management)
		want   []string
	}{
		{"new node", "", nil, nil, []string{"assign 1 Prefix to eni-1", "room 144"}},
		{"nothing to do", "172.31.32.16-172.31.32.28", []string{one}, nil, []string{"room 128"}}, // 13 and 3
		{"the reserve is used", "172.31.32.16-172.31.32.29", []string{one}, nil, []string{"assign 1 Prefix to eni-1", "room 128"}},
		{"pods wait", "", []string{one}, waits(40), []string{"assign 2 Prefix to eni-1", "room 128"}}, // 48 with the reserve
		{"limit of pods", "172.31.32.16-172.31.32.31", []string{one}, func(m *Management) { m.MaxPods = map[string]int64{"worker1": 16} }, []string{"room 128"}},
		{"limit of the type", "", []string{one}, func(m *Management) { m.Limits["m5.large"] = Limits{IPv4: 2, Prefixes: true}; waits(20)(m) }, []string{"TypeLimit", "room 0"}},
		{"fewer than needed", "", []string{one}, func(m *Management) { m.Limits["m5.large"] = Limits{IPv4: 3, Prefixes: true}; waits(60)(m) }, []string{"assign 1 Prefix to eni-1", "room 16"}},
		{"no prefixes", "", []string{one}, func(m *Management) { m.Limits["m5.large"] = Limits{IPv4: 10}; waits(14)(m) }, []string{"assign 1 Address to eni-1", "room 8"}},
		{"fragmented", "", []string{one}, func(m *Management) { m.Fragmented = map[string]bool{"subnet-2": true}; waits(15)(m) }, []string{"assign 2 Address to eni-1", "room 8"}},
		{"unknown type", "", []string{one}, func(m *Management) { m.Limits = nil }, []string{"UnknownType", "room 0"}},
		{"stopped", "", []string{one}, stopped(false), []string{"NoCapacity", "room 0"}},
		{"stopped, try again", "", []string{one}, stopped(true), []string{"assign 1 Prefix to eni-1", "NoCapacity", "room 0"}},
		{"a call is open", "", []string{one}, func(m *Management) { waits(20)(m); m.Busy = map[string]bool{"worker1": true} }, []string{"room 128"}},
		{"old answer", "", []string{one}, func(m *Management) { waits(20)(m); m.Now = m.Now.Add(Apart) }, []string{"ask", "room 128"}},
		{"pool of a user", "", []string{one}, func(m *Management) { waits(20)(m); m.Others = mustSet("172.31.32.20") }, []string{"room 128"}},

		{"too much", "172.31.32.16", []string{one, two}, nil, []string{"idle", "room 112"}},
		{"too much for long", "172.31.32.16", []string{one, two}, idle, []string{node1 + " loses [" + two + "]", "room 112"}},
		{"one piece at least", "", []string{one}, idle, []string{"room 128"}},
		{"in use", "172.31.32.16, 172.31.32.32", []string{one, two}, idle, []string{"room 112"}},
		{"half a piece too much", "172.31.32.16-172.31.32.22", []string{one, two}, idle, []string{"room 112"}}, // 7 and 2
		{"the fewest since", "172.31.32.16", []string{one, two, three}, idle, []string{node1 + " loses [" + three + "]", "room 96"}},
		{"single addresses first", "172.31.32.16", []string{one, two, "172.31.32.200/32"}, idle, []string{node1 + " loses [172.31.32.200/32]", "room 96"}},
		{"old answer for a return", "172.31.32.16", []string{one, two}, func(m *Management) { idle(m); m.Now = m.Now.Add(Apart) }, []string{"ask", "idle", "room 112"}},
		{"a wave at a time", "172.31.32.16", []string{one, two}, func(m *Management) {
			idle(m)
			m.Withheld = map[string]inet.Set{node1: mustSet("172.31.32.48-172.31.32.63")}
			m.Members[0].Answers = m.Members[0].Answers.Assigned("eni-1", []netip.Prefix{prefix(three)})
		}, []string{"return " + three + " of eni-1", "idle", "room 96"}},
		{"the cloud takes nothing", "172.31.32.16", []string{one, two}, func(m *Management) { idle(m); m.KeepAll = true }, []string{"idle", "room 112"}},

		{"fixed addresses, more needed", "", []string{one}, covering(two, waits(20)), []string{"assign 1 Prefix to eni-1", "room 112"}},
		{"fixed addresses, enough", "", []string{one}, covering(two, nil), []string{node1 + " loses [" + two + "]", "return " + two + " of eni-1", "room 112"}},
		{"fixed addresses, with a spare piece", "172.31.32.16", []string{one, three}, covering(two, idle), []string{node1 + " loses [" + two + " " + three + "]", "return " + two + " of eni-1", "room 96"}},
		{"fixed addresses, full", "", []string{one}, covering(two, func(m *Management) { m.Limits["m5.large"] = Limits{IPv4: 3, Prefixes: true}; waits(20)(m) }),
			[]string{node1 + " loses [" + two + "]", "return " + two + " of eni-1", "room 0"}},
		{"fixed addresses, stopped", "", []string{one}, covering(two, stopped(false)), []string{"NoCapacity", node1 + " loses [" + two + "]", "return " + two + " of eni-1", "room 0"}},
		{"fixed addresses, try again", "", []string{one}, covering(two, stopped(true)), []string{"assign 1 Prefix to eni-1", "NoCapacity", "room 0"}},
		{"fixed addresses, a call is open", "", []string{one}, covering(two, func(m *Management) { m.Busy = map[string]bool{"worker1": true} }), []string{"room 112"}},
		{"fixed addresses, the cloud takes nothing", "", []string{one}, covering(two, func(m *Management) { m.KeepAll = true; waits(20)(m) }), []string{"assign 1 Prefix to eni-1", "room 112"}},

		{"still in the pool", "172.31.32.16", []string{one, two}, returning(two), []string{node1 + " loses [" + two + "]", "room 112"}},
		{"in use again", "172.31.32.16, 172.31.32.33", []string{one, two}, returning(two), []string{"room 112"}},
		{"needed again", "172.31.32.16", []string{one, two}, func(m *Management) { returning(two)(m); waits(20)(m) }, []string{"room 112"}},
		{"out of the pool", "172.31.32.16", []string{one, two}, outOfPool, []string{node1 + " loses [" + two + "]", "return " + two + " of eni-1", "room 112"}},
		{"agents need time", "172.31.32.16", []string{one, two}, func(m *Management) { outOfPool(m); m.Settled = false }, []string{node1 + " loses [" + two + "]", "room 112"}},
		{"withheld by a former process", "172.31.32.16", []string{one, two}, func(m *Management) {
			outOfPool(m)
			m.Returning, m.Withheld = nil, map[string]inet.Set{node1: mustSet("172.31.32.32-172.31.32.40")}
			waits(20)(m) // nothing is assigned before the end of the return
		}, []string{"return " + two + " of eni-1", "room 112"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := managedNode(tc.leased, tc.pieces...)
			if tc.change != nil {
				tc.change(&m)
			}
			got, want := strings.Split(Manage(m).text(), "\n"), tc.want
			slices.Sort(got)
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("plan (-want +got)\n%s", diff)
			}
		})
	}
}

// covering assigns a piece with a fixed address, which is in no pool of a node.
func covering(piece string, change func(*Management)) func(*Management) {
	return func(m *Management) {
		m.Members[0].Answers = m.Members[0].Answers.Assigned("eni-1", []netip.Prefix{prefix(piece)})
		m.Fixed = inet.OfAddrs(prefix(piece).Addr())
		m.Others = m.Fixed
		if change != nil {
			change(m)
		}
	}
}

func returning(piece string) func(*Management) {
	return func(m *Management) { m.Returning = map[string][]netip.Prefix{node1: {prefix(piece)}} }
}

// outOfPool takes the second piece out of the pool.
func outOfPool(m *Management) {
	returning(two)(m)
	m.Pools[0].IPs = mustSet("172.31.32.16-172.31.32.31")
}

func TestIPv6NeedsPrefixes(t *testing.T) {
	m := managedNode("")
	i := instance("eni-1", "subnet-1")
	i.Type = "t2.micro"
	m.Limits = map[string]Limits{"t2.micro": {IPv4: 2, IPv6: 2}}
	m.Families = []inet.Family{inet.IPv6}
	m.Members[0].Answers = History{}.Add(Answer{At: m.Now, Instance: i})
	if got := Manage(m); len(got.Assign) > 0 || len(got.Issues) != 1 || !strings.Contains(got.Issues[0].Text, "t2.micro of node worker1 takes no IPv6 prefixes") {
		t.Errorf("the plan is %s with %v", got.text(), got.Issues)
	}
}

func TestManageNeedsAnswersThatAgree(t *testing.T) {
	m := managedNode("", one)
	m.Waiting = map[string]int64{node1: 20}
	i := instance("eni-1", "subnet-2")
	i.Type = "m5.large"
	m.Members[0].Answers = m.Members[0].Answers.Add(Answer{At: m.Now.Add(Apart), Instance: i})
	m.Now = m.Now.Add(Apart)
	if got := Manage(m); len(got.Assign) > 0 || len(got.Again) != 1 {
		t.Errorf("the plan is %s", got.text())
	}
	m = managedNode("", one)
	m.Waiting = map[string]int64{node1: 20}
	m.Members[0].Answers = History{}.Add(*m.Members[0].Answers.latest) // a new leader
	if got := Manage(m); len(got.Assign) > 0 || len(got.Again) != 1 {
		t.Errorf("the plan of a new leader is %s", got.text())
	}
}

func TestReservedAddressesLeaveQuietly(t *testing.T) {
	m := managedNode("", one, two)
	m.Leaving = map[string]inet.Set{node1: mustSet("172.31.32.32-172.31.32.47")}
	plan := Discover(m.Discovery)
	if len(plan.Gone) > 0 || len(plan.Issues) > 0 || len(plan.Again) > 0 || plan.Reserved.String() != "172.31.32.32-172.31.32.47" {
		t.Errorf("the plan is %+v", plan)
	}
}

// A deleted pool would wait for its last pod, and the node would have none meanwhile.
func TestManagedPoolOutlivesItsLastAddresses(t *testing.T) {
	w := newWorld()
	w.d.Managed, w.d.Families = true, []inet.Family{inet.IPv4}
	pool := func(ips string) string { return "aws-worker1-0-v4 172.31.16.0/20 gateway 172.31.16.1: " + ips }
	w.round(0, instance("eni-1", "subnet-1", "172.31.22.16/28"))
	for after := 10 * time.Second; after <= 30*time.Second; after += 10 * time.Second {
		w.round(after, instance("eni-1", "subnet-1"))
	}
	w.want(t, w.again(), pool("172.31.22.16-172.31.22.31"), "reserved: 172.31.22.16-172.31.22.31")
	for after := 40 * time.Second; after <= 60*time.Second; after += 10 * time.Second {
		w.round(after, instance("eni-1", "subnet-1", "172.31.22.64/28"))
	}
	w.want(t, w.again(), pool("172.31.22.64-172.31.22.79"))
	w.round(70*time.Second, instance("eni-2", "subnet-1", "172.31.22.80/28"))
	w.round(80*time.Second, instance("eni-2", "subnet-1", "172.31.22.80/28"))
	w.round(90*time.Second, instance("eni-2", "subnet-1", "172.31.22.80/28"))
	w.want(t, w.again(), pool("172.31.22.80-172.31.22.95")) // of another interface: deleted, and made again
}
