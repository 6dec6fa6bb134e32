package lease

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func set(t testing.TB, entries ...string) inet.Set {
	t.Helper()
	s, err := inet.Parse(entries, inet.Bounds{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// request asks for an IPv4 address of the pools for eth0 of a pod.
func request(pod string, pools ...string) Request {
	return Request{
		Pod: ParsePodKey("default/" + pod), PodUID: "uid-" + pod, ContainerID: "container-" + pod, Node: "node",
		Wants: []Want{{Interface: "eth0", Family: 4, Pools: pools}},
	}
}

// newIndex returns an index of node "node" with pools named a, b, … in their order.
// Each argument lists the entries of a pool, separated by commas.
func newIndex(t testing.TB, pools ...string) *Index {
	t.Helper()
	x := NewIndex(Options{Node: "node"})
	for i, entries := range pools {
		x.SetPool(string(rune('a'+i)), set(t, strings.Split(entries, ",")...))
	}
	return x
}

// commit puts the written blocks, as returned by a store.
func commit(x *Index, now time.Time, writes []Block) {
	for _, b := range writes {
		b.Version += "+"
		x.Put(b, now)
	}
}

// mustChoose commits the plan for the requests and returns the addresses of each. All
// requests must be granted.
func mustChoose(t *testing.T, x *Index, now time.Time, requests ...Request) [][]string {
	t.Helper()
	plan := x.Choose(now, requests...)
	granted := make([][]string, len(requests))
	for i, r := range plan.Results {
		if r.Err != nil {
			t.Fatalf("request of %s: %v", requests[i].Pod, r.Err)
		}
		for _, g := range r.Grants {
			granted[i] = append(granted[i], g.Addr.String())
		}
	}
	commit(x, now, plan.Writes)
	return granted
}

func one(t *testing.T, x *Index, now time.Time, r Request) string {
	t.Helper()
	return mustChoose(t, x, now, r)[0][0]
}

func release(t *testing.T, x *Index, now time.Time, at Attachment) {
	t.Helper()
	writes := x.Release(now, at)
	if len(writes) == 0 {
		t.Fatalf("%v holds nothing", at)
	}
	commit(x, now, writes)
}

func eth0(pod string) Attachment { return Attachment{"container-" + pod, "eth0"} }

func mustBeExhausted(t *testing.T, x *Index, now time.Time, r Request) *ExhaustedError {
	t.Helper()
	plan := x.Choose(now, r)
	var exhausted *ExhaustedError
	if !errors.As(plan.Results[0].Err, &exhausted) {
		t.Fatalf("request of %s: granted %v, want it exhausted", r.Pod, plan.Results[0].Grants)
	}
	if len(plan.Writes) > 0 {
		t.Fatalf("a refused request writes %v", plan.Writes)
	}
	return exhausted
}

func TestEveryAddressIsGrantedOnce(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.10-10.0.0.40,10.0.0.100,10.0.1.0-10.0.1.15")
	seen := map[string]bool{}
	for i := range 48 {
		a := one(t, x, start, request(fmt.Sprint(i), "a"))
		if seen[a] {
			t.Fatalf("%s was handed out twice", a)
		}
		seen[a] = true
	}
	err := mustBeExhausted(t, x, start, request("late", "a"))
	if want := "interface eth0: no IPv4 address is left: a: 48 of 48 addresses are taken: 48 in use, 0 retained, 0 quarantined"; err.Error() != want {
		t.Errorf("error is %q, want %q", err, want)
	}
}

func TestRepeatedAddWritesNothing(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0-10.0.0.255")
	a := one(t, x, start, request("p", "a"))
	plan := x.Choose(start.Add(time.Hour), request("p", "a"))
	g := plan.Results[0].Grants[0]
	if g.Addr.String() != a || !g.Held || len(plan.Writes) != 0 || len(plan.Results[0].Blocks) != 0 {
		t.Errorf("repeated: %+v with writes %v, want %s held", plan.Results[0], plan.Writes, a)
	}

	x.DeletePool("a")
	if got := one(t, x, start, request("p", "a")); got != a {
		t.Errorf("after the pool is gone the container has %s, want still %s", got, a)
	}
}

func TestInterfacesGetDifferentAddresses(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.1-10.0.0.2", "fd00::1-fd00::2")
	r := request("p", "a")
	r.Wants = []Want{
		{"eth0", 4, []string{"a"}}, {"eth0", 6, []string{"b"}},
		{"net1", 4, []string{"a"}}, {"net1", 6, []string{"b"}},
	}
	got := mustChoose(t, x, start, r)[0]
	if want := []string{"10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2"}; !slices.Equal(got, want) {
		t.Errorf("granted %v, want %v", got, want)
	}
}

func TestPodGetsAllOrNothing(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.1-10.0.0.9", "fd00::1")
	mustChoose(t, x, start, Request{ContainerID: "c", Wants: []Want{{"eth0", 6, []string{"b"}}}})
	r := request("p", "a")
	r.Wants = append(r.Wants, Want{"eth0", 6, []string{"b"}})
	err := mustBeExhausted(t, x, start, r)
	if err.Family != 6 || err.Interface != "eth0" {
		t.Errorf("the error is about IPv%d of %s, want IPv6 of eth0", err.Family, err.Interface)
	}
	if u := x.Usage("a"); u.Free != 9 {
		t.Errorf("pool a has %d free addresses, want 9 as before", u.Free)
	}
}

func TestRefusedRequestLeavesRestOfBatch(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.1-10.0.0.3", "10.0.1.1")
	two := request("two", "a")
	two.Wants = append(two.Wants, Want{"net1", 4, []string{"b"}})
	plan := x.Choose(start, request("one", "b"), two, request("three", "a"), request("four", "a"), request("five", "a"))
	var errs []bool
	for _, r := range plan.Results {
		errs = append(errs, r.Err != nil)
	}
	if want := []bool{false, true, false, false, false}; !slices.Equal(errs, want) {
		t.Fatalf("refused are %v, want %v", errs, want)
	}
	if len(plan.Writes) != 2 {
		t.Errorf("the batch writes %d blocks, want one for each pool", len(plan.Writes))
	}
	for _, b := range plan.Writes {
		for _, l := range b.Leases {
			if l.ContainerID == "container-two" {
				t.Errorf("the refused request has %s", l.Addr)
			}
		}
	}
	if n := len(slices.Collect(x.Blocks())); n != 0 {
		t.Errorf("Choose left %d blocks in the index", n)
	}
}

func TestBatchIsOneWrite(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0-10.0.255.255")
	var requests []Request
	for i := range 16 {
		requests = append(requests, request(fmt.Sprint(i), "a"))
	}
	plan := x.Choose(start, requests...)
	if len(plan.Writes) != 1 || len(plan.Writes[0].Leases) != 16 || plan.Writes[0].Version != "" || plan.Writes[0].Node != "node" {
		t.Errorf("16 requests write %+v, want one new block of node", plan.Writes)
	}
	for _, r := range plan.Results {
		if want := []netip.Addr{plan.Writes[0].Base}; !slices.Equal(r.Blocks, want) {
			t.Errorf("depends on %v, want %v", r.Blocks, want)
		}
	}
}

func TestRepeatedContainerDependsOnWrite(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0-10.0.0.15")
	plan := x.Choose(start, request("p", "a"), request("p", "a"))
	second := plan.Results[1]
	if !second.Grants[0].Held || !slices.Equal(second.Blocks, []netip.Addr{addr("10.0.0.0")}) {
		t.Errorf("the second of two equal requests is %+v, want it held and dependent on 10.0.0.0", second)
	}
}

func TestWantsShareScarcePools(t *testing.T) {
	t.Parallel()
	// eth0 prefers a; net1 accepts only a, and net2 only a or b.
	x := newIndex(t, "10.0.0.1", "10.0.1.1", "10.0.2.1")
	r := request("p", "a", "b", "c")
	r.Wants = append(r.Wants, Want{"net1", 4, []string{"a"}}, Want{"net2", 4, []string{"a", "b"}})
	got := mustChoose(t, x, start, r)[0]
	if want := []string{"10.0.2.1", "10.0.0.1", "10.0.1.1"}; !slices.Equal(got, want) {
		t.Errorf("granted %v, want %v", got, want)
	}
}

func TestPoolsAreTakenInOrder(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.1", "10.0.1.1")
	if got := one(t, x, start, request("p", "b", "a")); got != "10.0.1.1" {
		t.Errorf("first is %s, want that of b", got)
	}
	if got := one(t, x, start, request("q", "b", "a")); got != "10.0.0.1" {
		t.Errorf("second is %s, want that of a", got)
	}
}

func TestPoolOfOtherFamilyGrantsNothing(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "fd00::1")
	mustBeExhausted(t, x, start, request("p", "a"))
}

func TestOwnBlocksThenNewThenOthers(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0-10.0.0.47")
	full := func(base, node string, in int) Block {
		b := Block{Base: addr(base), Node: node, Version: "1"}
		for i := range in {
			b = b.With(Lease{Addr: inet.BlockAddr(b.Base, i), State: InUse, Pool: "a",
				Holder: Holder{Attachment: Attachment{fmt.Sprint(base, i), "eth0"}}, Since: start})
		}
		return b
	}
	x.Put(full("10.0.0.0", "other", 15), start)
	x.Put(full("10.0.0.32", "node", 14), start)
	var got []string
	for i := range 3 {
		got = append(got, one(t, x, start, request(fmt.Sprint(i), "a")))
	}
	if want := []string{"10.0.0.46", "10.0.0.47", "10.0.0.16"}; !slices.Equal(got, want) {
		t.Fatalf("own first, then unclaimed: %v, want %v", got, want)
	}
	for i := range 15 {
		one(t, x, start, request(fmt.Sprint("fill", i), "a"))
	}
	if last := one(t, x, start, request("last", "a")); last != "10.0.0.15" {
		t.Errorf("the last is %s, want the other node's 10.0.0.15", last)
	}
	if b, _ := x.Block(addr("10.0.0.0")); b.Node != "other" {
		t.Errorf("the other's block now belongs to %s", b.Node)
	}
	mustBeExhausted(t, x, start, request("late", "a"))
}

func TestEmptyBlockOfOtherNodeIsAdopted(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0-10.0.0.15")
	x.Put(Block{Base: addr("10.0.0.0"), Node: "other", Version: "1"}, start)
	one(t, x, start, request("p", "a"))
	if b, _ := x.Block(addr("10.0.0.0")); b.Node != "node" {
		t.Errorf("the block belongs to %s, want node", b.Node)
	}
}

// The node fills a block that it adopted before it creates another one.
func TestAdoptedBlockIsFilledFirst(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0-10.0.0.15")
	x.Put(Block{Base: addr("10.0.0.0"), Node: "other", Version: "1"}, start)
	one(t, x, start, request("p", "a"))
	x.SetPool("a", set(t, "10.0.0.0-10.0.0.31"))
	for i := range inet.BlockSize - 1 {
		if got := addr(one(t, x, start, request(fmt.Sprint("p", i), "a"))); inet.BlockOf(got) != addr("10.0.0.0") {
			t.Fatalf("pod %d got %s of a new block", i, got)
		}
	}
}

func TestReleasedAddressesAreReusedOldestFirst(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0-10.0.0.3")
	for i := range 4 {
		one(t, x, start, request(fmt.Sprint(i), "a"))
	}
	for i, pod := range []string{"2", "0", "3"} {
		release(t, x, start.Add(time.Duration(i)*time.Second), eth0(pod))
	}
	now := start.Add(10 * time.Second)
	got := []string{one(t, x, now, request("x", "a")), one(t, x, now, request("y", "a"))}
	if want := []string{"10.0.0.2", "10.0.0.0"}; !slices.Equal(got, want) {
		t.Errorf("reused %v, want %v: those released first", got, want)
	}
}

func TestFreshAddressesPrecedeReleasedOnes(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0-10.0.0.15", "10.0.1.0-10.0.1.63")
	first := one(t, x, start, request("p", "b"))
	release(t, x, start, eth0("p"))
	seen := map[string]bool{}
	for i := range 63 {
		seen[one(t, x, start.Add(time.Second), request(fmt.Sprint(i), "b"))] = true
	}
	if seen[first] || len(seen) != 63 {
		t.Errorf("the address released a second ago was reused before all others were used")
	}
	if got := one(t, x, start.Add(time.Second), request("last", "b")); got != first {
		t.Errorf("the last is %s, want %s", got, first)
	}
}

func TestReleasedAddressBecomesFreeLater(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0-10.0.0.255")
	first := one(t, x, start, request("p", "a"))
	release(t, x, start, eth0("p"))
	now := start.Add(DefaultReuseAfter)
	if got := one(t, x, now, request("q", "a")); got != first {
		t.Errorf("got %s, want %s again", got, first)
	}
	if b, _ := x.Block(inet.BlockOf(addr(first))); len(b.Leases) != 1 {
		t.Errorf("the block remembers %d leases, want that of q only", len(b.Leases))
	}
}

func TestDelOfOldSandboxKeepsNewAddress(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.1")
	old := request("p", "a")
	a := one(t, x, start, old)
	restarted := old
	restarted.ContainerID = "second sandbox"
	if got := one(t, x, start, restarted); got != a {
		t.Fatalf("the second sandbox of the pod has %s, want %s", got, a)
	}
	if writes := x.Release(start, eth0("p")); len(writes) != 1 || writes[0].Leases[0].ContainerID != "second sandbox" {
		t.Errorf("DEL of the first sandbox writes %v", writes)
	}
	release(t, x, start, Attachment{"second sandbox", "eth0"})
}

func TestDelOfUnknownWritesNothing(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.1")
	one(t, x, start, request("p", "a"))
	if writes := x.Release(start, Attachment{"container-p", "net1"}, Attachment{"", ""}, Attachment{"?", "eth0"}); len(writes) != 0 {
		t.Errorf("DEL of what holds nothing writes %v", writes)
	}
}

func TestDelOfOneInterfaceKeepsOthers(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.1-10.0.0.2")
	r := request("p", "a")
	r.Wants = append(r.Wants, Want{"net1", 4, []string{"a"}})
	mustChoose(t, x, start, r)
	release(t, x, start, eth0("p"))
	if left := x.Attached(Attachment{"container-p", "net1"}); len(left) != 1 {
		t.Errorf("net1 has %v, want its address", left)
	}
}

func TestRestartedPodReplacesItsLease(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.1")
	r := request("web-0", "a")
	r.FixedFor = ParseOwner("Pod/default/web-0")
	a := one(t, x, start, r)
	again := r
	again.PodUID, again.ContainerID = "second uid", "second container"
	var used *InUseError
	if err := x.Choose(start, again).Results[0].Err; !errors.As(err, &used) || used.Lease.PodUID != r.PodUID {
		t.Fatalf("an unchecked pod gets %v, want the lease in use", err)
	}
	again.Replaces = []string{r.PodUID}
	if got := one(t, x, start, again); got != a {
		t.Fatalf("the restarted pod has %s, want %s", got, a)
	}
	if writes := x.Release(start, eth0("web-0")); len(writes) != 1 || writes[0].Leases[0].ContainerID != "second container" {
		t.Errorf("the late DEL of the old sandbox writes %v", writes)
	}
}

func TestNodesStartInDifferentBlocks(t *testing.T) {
	t.Parallel()
	bases := map[netip.Addr]int{}
	for i := range 100 {
		x := NewIndex(Options{Node: fmt.Sprintf("node-%d", i)})
		x.SetPool("a", set(t, "10.0.0.0-10.0.255.255"))
		bases[x.Choose(start, request("p", "a")).Writes[0].Base]++
	}
	if len(bases) < 90 { // of 4,096 blocks
		t.Errorf("100 nodes start in %d blocks", len(bases))
	}
}

func TestNodesRarelyMeetInForeignBlocks(t *testing.T) {
	t.Parallel()
	bases := map[netip.Addr]int{}
	for i := range 20 {
		x := NewIndex(Options{Node: fmt.Sprintf("node-%d", i)})
		x.SetPool("a", set(t, "10.0.0.0-10.0.3.255"))
		for base := range set(t, "10.0.0.0-10.0.3.255").Blocks() {
			held := Lease{Addr: base, State: InUse, Pool: "a", Since: start, Holder: Holder{Attachment: Attachment{"c", "eth0"}}}
			x.Put(Block{Base: base, Node: "elsewhere", Version: "1", Leases: []Lease{held}}, start)
		}
		bases[x.Choose(start, request("p", "a")).Writes[0].Base]++
	}
	if len(bases) < 10 { // of 64 blocks
		t.Errorf("20 nodes go to %d blocks", len(bases))
	}
}
