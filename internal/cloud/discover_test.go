package cloud

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spiderpool.dev/spiderpool/internal/inet"
)

// start is the time of the first answer of a test.
var start = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

var subnets = map[string]Subnet{
	"subnet-1": {ID: "subnet-1", CIDRs: []netip.Prefix{prefix("172.31.16.0/20"), prefix("2406:da1e:c4:ed01::/64")}},
	"subnet-2": {ID: "subnet-2", CIDRs: []netip.Prefix{prefix("172.31.32.0/24")}},
}

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

// instance has one interface in a subnet, with pieces assigned.
func instance(iface, subnet string, pieces ...string) *Instance {
	i := Interface{ID: iface, Subnet: subnet, Primary: []netip.Addr{netip.MustParseAddr("172.31.22.228")}}
	for _, p := range pieces {
		i.Assigned = append(i.Assigned, prefix(p))
	}
	return &Instance{ID: "i-1", Interfaces: []Interface{i}}
}

// world is a cluster of one node that applies each plan.
type world struct {
	d Discovery
	h History
}

func newWorld() *world {
	return &world{d: Discovery{
		Network: "aws", Devices: []int{0}, Families: []inet.Family{inet.IPv4, inet.IPv6}, Subnets: subnets, Settled: true,
	}}
}

// round plans with an answer some time after start, and applies the plan.
func (w *world) round(after time.Duration, answer *Instance) Plan {
	w.h = w.h.Add(Answer{At: start.Add(after), Instance: answer})
	w.d.Now = start.Add(after)
	w.d.Members = []Member{{Node: "worker1", Answers: w.h}}
	return w.again()
}

// again plans without a new answer, and applies the plan.
func (w *world) again() Plan {
	plan := Discover(w.d)
	w.d = applied(w.d, plan)
	return plan
}

// applied is the cluster after a plan. A deleted pool with leases stays.
func applied(d Discovery, plan Plan) Discovery {
	pools := map[string]ExistingPool{}
	for _, p := range d.Pools {
		if slices.Contains(plan.Delete, p.Name) {
			p.Deleting = true
		}
		if !p.Deleting || !p.Leased.IsEmpty() {
			pools[p.Name] = p
		}
	}
	for _, p := range plan.Pools {
		pools[p.Name] = ExistingPool{Pool: p.Pool, Leased: pools[p.Name].Leased}
	}
	d.Pools = nil
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		d.Pools = append(d.Pools, pools[name])
	}
	d.Reserved = plan.Reserved
	return d
}

// text lists the pools, the reserved addresses and the reasons of the issues.
func (w *world) text(plan Plan) string {
	var lines []string
	for _, p := range w.d.Pools {
		line := fmt.Sprintf("%s %s gateway %s: %s", p.Name, p.Subnet, p.Gateway, p.IPs)
		if p.Deleting {
			line += " deleting"
		}
		lines = append(lines, line)
	}
	if !w.d.Reserved.IsEmpty() {
		lines = append(lines, "reserved: "+w.d.Reserved.String())
	}
	for _, i := range plan.Issues {
		lines = append(lines, string(i.Reason))
	}
	return strings.Join(lines, "\n")
}

func (w *world) want(t *testing.T, plan Plan, lines ...string) {
	t.Helper()
	if diff := cmp.Diff(strings.Join(lines, "\n"), w.text(plan)); diff != "" {
		t.Fatalf("(-want +got)\n%s", diff)
	}
}

const (
	poolV4 = "aws-worker1-0-v4 172.31.16.0/20 gateway 172.31.16.1: "
	poolV6 = "aws-worker1-0-v6 2406:da1e:c4:ed01::/64 gateway 2406:da1e:c4:ed01::1: "
	all6   = "2406:da1e:c4:ed01:c57d::-2406:da1e:c4:ed01:c57d:ffff:ffff:ffff"
)

func TestFirstAnswerMakesPools(t *testing.T) {
	w := newWorld()
	plan := w.round(0, instance("eni-1", "subnet-1", "172.31.28.16/28", "2406:da1e:c4:ed01:c57d::/80"))
	w.want(t, plan, poolV4+"172.31.28.16-172.31.28.31", poolV6+all6)
	w.want(t, w.again(), poolV4+"172.31.28.16-172.31.28.31", poolV6+all6)
}

func TestPoolLacksAddressesOfOthers(t *testing.T) {
	w := newWorld()
	plan := w.round(0, instance("eni-1", "subnet-2", "172.31.32.0/28", "172.31.32.240/28", "172.31.32.77/32", "172.31.22.228/32"))
	w.want(t, plan, "aws-worker1-0-v4 172.31.32.0/24 gateway 172.31.32.1: 172.31.32.4-172.31.32.15, 172.31.32.77, 172.31.32.240-172.31.32.254")
}

func TestChangeNeedsTwoAnswersApart(t *testing.T) {
	one, two := instance("eni-1", "subnet-2", "172.31.32.16/28"), instance("eni-1", "subnet-2", "172.31.32.16/28", "172.31.32.64/28")
	w := newWorld()
	const pool = "aws-worker1-0-v4 172.31.32.0/24 gateway 172.31.32.1: "
	w.want(t, w.round(0, one), pool+"172.31.32.16-172.31.32.31")
	plan := w.round(time.Minute, two)
	w.want(t, plan, pool+"172.31.32.16-172.31.32.31")
	if !slices.Equal(plan.Again, []string{"worker1"}) {
		t.Errorf("nodes to ask again are %v", plan.Again)
	}
	w.want(t, w.round(time.Minute+time.Second, two), pool+"172.31.32.16-172.31.32.31")
	plan = w.round(time.Minute+time.Second+Apart, two)
	w.want(t, plan, pool+"172.31.32.16-172.31.32.31, 172.31.32.64-172.31.32.79")
}

func TestStaleAnswerRemovesNothing(t *testing.T) {
	both := instance("eni-1", "subnet-2", "172.31.32.16/28", "172.31.32.64/28")
	w := newWorld()
	const pool = "aws-worker1-0-v4 172.31.32.0/24 gateway 172.31.32.1: 172.31.32.16-172.31.32.31, 172.31.32.64-172.31.32.79"
	w.round(0, both)
	w.want(t, w.round(time.Minute, nil), pool, "NoInstances")
	w.want(t, w.round(2*time.Minute, both), pool)
	w.want(t, w.round(3*time.Minute, instance("eni-1", "subnet-2", "172.31.32.16/28")), pool)
	w.want(t, w.round(4*time.Minute, both), pool)
}

func TestStaleAnswerBringsNoPoolBack(t *testing.T) {
	w := newWorld()
	w.d.Families = []inet.Family{inet.IPv4}
	full, none := instance("eni-1", "subnet-2", "172.31.32.16/28"), instance("eni-1", "subnet-2")
	w.round(0, full)
	w.round(time.Minute, none)
	w.round(2*time.Minute, none)
	w.again()
	w.want(t, w.again(), "NothingAssigned") // pool and reservation have ended
	plan := w.round(3*time.Minute, full)
	w.want(t, plan, "")
	if !slices.Equal(plan.Unconfirmed, []string{"worker1"}) {
		t.Errorf("unconfirmed nodes are %v", plan.Unconfirmed)
	}
	w.want(t, w.round(3*time.Minute+Apart, full), "aws-worker1-0-v4 172.31.32.0/24 gateway 172.31.32.1: 172.31.32.16-172.31.32.31")
}

func TestGoneAddressesLeaveInSteps(t *testing.T) {
	const pool = "aws-worker1-0-v4 172.31.32.0/24 gateway 172.31.32.1: "
	w := newWorld()
	w.round(0, instance("eni-1", "subnet-2", "172.31.32.16/28", "172.31.32.64/28"))
	w.d.Pools[0].Leased = inet.OfAddrs(netip.MustParseAddr("172.31.32.65"))
	w.d.Settled = false
	less := instance("eni-1", "subnet-2", "172.31.32.16/28")
	w.round(time.Minute, less)
	plan := w.round(2*time.Minute, less)
	full, reserved := pool+"172.31.32.16-172.31.32.31, 172.31.32.64-172.31.32.79", "reserved: 172.31.32.64-172.31.32.79"
	w.want(t, plan, full, reserved, "AddressesGone")
	if got := plan.Gone["aws-worker1-0-v4"].String(); got != "172.31.32.64-172.31.32.79" {
		t.Errorf("the announced addresses are %s", got)
	}
	if plan = w.again(); len(plan.Gone) > 0 {
		t.Errorf("announced again: %v", plan.Gone)
	}
	w.want(t, plan, full, reserved, "AddressesGone") // the agents may not know the reservation yet

	w.d.Settled = true
	w.want(t, w.again(), pool+"172.31.32.16-172.31.32.31, 172.31.32.65", reserved, "AddressesGone")
	w.want(t, w.again(), pool+"172.31.32.16-172.31.32.31, 172.31.32.65", "reserved: 172.31.32.65", "AddressesGone")
	w.d.Pools[0].Leased = inet.Set{}
	w.want(t, w.again(), pool+"172.31.32.16-172.31.32.31", "reserved: 172.31.32.65")
	w.d.Settled = false
	w.want(t, w.again(), pool+"172.31.32.16-172.31.32.31", "reserved: 172.31.32.65") // the agents may not know the pool yet
	w.d.Settled = true
	w.want(t, w.again(), pool+"172.31.32.16-172.31.32.31")
}

func TestMovedPrefixStaysReservedUntilSettled(t *testing.T) {
	const moved = "172.31.32.64/28"
	from, to := History{}, History{}
	d := Discovery{Network: "aws", Devices: []int{0}, Families: []inet.Family{inet.IPv4}, Subnets: subnets, Now: start}
	plan := func(settled bool, piecesFrom, piecesTo []string) Plan {
		d.Now, d.Settled = d.Now.Add(Apart), settled
		from = from.Add(Answer{At: d.Now, Instance: instance("eni-1", "subnet-2", piecesFrom...)})
		to = to.Add(Answer{At: d.Now, Instance: instance("eni-2", "subnet-2", piecesTo...)})
		d.Members = []Member{{Node: "worker1", Answers: from}, {Node: "worker2", Answers: to}}
		plan := Discover(d)
		d = applied(d, plan)
		return plan
	}
	const one, two = "172.31.32.16/28", "172.31.32.32/28"
	plan(false, []string{one, moved}, []string{two})
	for _, step := range []struct {
		settled  bool
		reserved string
	}{
		{false, ""},                          // one answer
		{false, "172.31.32.64-172.31.32.79"}, // two answers
		{true, "172.31.32.64-172.31.32.79"},  // worker1's pool loses them
		{false, "172.31.32.64-172.31.32.79"}, // its agents may not know that yet
		{true, ""},
	} {
		if got := plan(step.settled, []string{one}, []string{two, moved}).Reserved; got.String() != step.reserved {
			t.Fatalf("%s are reserved, want %q", got, step.reserved)
		}
	}
	if got := d.Pools[1].IPs.String(); got != "172.31.32.32-172.31.32.47, 172.31.32.64-172.31.32.79" {
		t.Errorf("the pool of the new interface has %s", got)
	}
}

func TestOneAnswerEndsNoReservation(t *testing.T) {
	const pool = "aws-worker1-0-v4 172.31.32.0/24 gateway 172.31.32.1: 172.31.32.16-172.31.32.31, 172.31.32.64-172.31.32.79"
	both, less := instance("eni-1", "subnet-2", "172.31.32.16/28", "172.31.32.64/28"), instance("eni-1", "subnet-2", "172.31.32.16/28")
	w := newWorld()
	w.round(0, both)
	w.round(time.Minute, less)
	w.want(t, w.round(2*time.Minute, less), pool, "reserved: 172.31.32.64-172.31.32.79")
	plan := w.round(3*time.Minute, both)
	w.want(t, plan, pool, "reserved: 172.31.32.64-172.31.32.79")
	if len(plan.Again) != 1 {
		t.Error("the cloud is not asked again")
	}
	w.want(t, w.round(3*time.Minute+Apart, both), pool)
}

func TestAnswersWithoutInstancesChangeNothing(t *testing.T) {
	w := newWorld()
	w.round(0, instance("eni-1", "subnet-2", "172.31.32.16/28"))
	for minute := range 3 {
		plan := w.round(time.Duration(minute+1)*time.Minute, nil)
		w.want(t, plan, "aws-worker1-0-v4 172.31.32.0/24 gateway 172.31.32.1: 172.31.32.16-172.31.32.31", "NoInstances")
	}
}

func TestPoolsOfGoneNodeAreDeleted(t *testing.T) {
	w := newWorld()
	w.round(0, instance("eni-1", "subnet-2", "172.31.32.16/28"))
	w.d.Members = nil
	w.want(t, w.again(), "")
}

func TestForeignPoolKeepsItsAddresses(t *testing.T) {
	w := newWorld()
	w.d.Others = inet.OfPrefix(prefix("172.31.32.16/29"))
	one := instance("eni-1", "subnet-2", "172.31.32.16/28")
	const pool = "aws-worker1-0-v4 172.31.32.0/24 gateway 172.31.32.1: "
	w.want(t, w.round(0, one), pool+"172.31.32.24-172.31.32.31", "Overlap")
	w.round(Apart, one)
	w.d.Now = w.d.Now.Add(time.Minute) // the report does not end with the age of the answer
	w.want(t, w.again(), pool+"172.31.32.24-172.31.32.31", "Overlap")
	w.d.Others = inet.Set{}
	w.round(time.Minute, one)
	w.want(t, w.again(), pool+"172.31.32.16-172.31.32.31")
}

func TestOldAnswerMakesNoPool(t *testing.T) {
	w := newWorld()
	w.round(0, instance("eni-1", "subnet-2", "172.31.32.16/28"))
	w.d.Pools, w.d.Now = nil, start.Add(Apart)
	plan := w.again()
	w.want(t, plan, "")
	if len(plan.Again) != 1 {
		t.Error("the cloud is not asked again")
	}
}

func TestReplacedInterfaceWaitsForFormerPool(t *testing.T) {
	const name = "aws-worker1-0-v4 172.31.32.0/24 gateway 172.31.32.1: "
	w := newWorld()
	w.round(0, instance("eni-1", "subnet-2", "172.31.32.16/28"))
	next := instance("eni-2", "subnet-1", "172.31.28.16/28", "2406:da1e:c4:ed01:c57d::/80")
	w.d.Families = []inet.Family{inet.IPv4}
	w.want(t, w.round(time.Minute, next), name+"172.31.32.16-172.31.32.31", "PoolInTheWay")
	w.want(t, w.round(2*time.Minute, next), name+"172.31.32.16-172.31.32.31", "reserved: 172.31.32.16-172.31.32.31", "PoolInTheWay")
	w.again()
	w.want(t, w.round(3*time.Minute, next), poolV4+"172.31.28.16-172.31.28.31")
}

func TestMissingPartsAreNamed(t *testing.T) {
	for reason, answer := range map[Reason]*Instance{
		InterfaceMissing: {ID: "i-1"},
		NothingAssigned:  instance("eni-1", "subnet-2"),
	} {
		t.Run(string(reason), func(t *testing.T) {
			w := newWorld()
			w.d.Families = []inet.Family{inet.IPv4}
			plan := w.round(0, answer)
			w.want(t, plan, string(reason))
			if len(plan.Again) != 1 {
				t.Error("the cloud is not asked again")
			}
		})
	}
}

func TestMissingInstanceIsNamed(t *testing.T) {
	w := newWorld()
	one := instance("eni-1", "subnet-2", "172.31.32.16/28")
	w.d.Now, w.d.Families = start, []inet.Family{inet.IPv4}
	w.d.Members = []Member{
		{Node: "worker1", Answers: History{}.Add(Answer{At: start, Instance: one})},
		{Node: "worker2", Answers: History{}.Add(Answer{At: start})},
	}
	plan := w.again()
	w.want(t, plan, "aws-worker1-0-v4 172.31.32.0/24 gateway 172.31.32.1: 172.31.32.16-172.31.32.31", "InstanceMissing")
	if !slices.Equal(plan.Again, []string{"worker2"}) {
		t.Errorf("nodes to ask again are %v", plan.Again)
	}
}

func TestLongPoolNameFits(t *testing.T) {
	long := strings.Repeat("n", 253)
	name, other := PoolName("aws", long, 0, inet.IPv4), PoolName("aws", long, 1, inet.IPv4)
	if len(name) != maxPoolName || name == other {
		t.Errorf("names are %s and %s", name, other)
	}
}
