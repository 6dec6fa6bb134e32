package lease

import (
	"net/netip"
	"slices"
	"testing"

	"spiderpool.dev/spiderpool/internal/inet"
)

func TestHashSeparatesItsParts(t *testing.T) {
	t.Parallel()
	if hash("a", "bc") == hash("ab", "c") || hash("a") == hash("a", "") {
		t.Error("two different lists have one hash")
	}
}

// TestBlocksOfOthersAreTakenInHashOrder fills three blocks of another node. Each node has its own order, so that two
// nodes seldom write the same block.
func TestBlocksOfOthersAreTakenInHashOrder(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0-10.0.0.47")
	bases := []netip.Addr{addr("10.0.0.0"), addr("10.0.0.16"), addr("10.0.0.32")}
	for _, base := range bases {
		held := Lease{Addr: base, State: InUse, Pool: "a", Since: start, Holder: Holder{Attachment: Attachment{"c", "eth0"}}}
		x.Put(Block{Base: base, Node: "other", Version: "1", Leases: []Lease{held}}, start)
	}
	slices.SortFunc(bases, func(a, b netip.Addr) int {
		if hash("node", a.String()) < hash("node", b.String()) {
			return -1
		}
		return 1
	})
	var got []netip.Addr
	for i := range 3 * (inet.BlockSize - 1) {
		base := inet.BlockOf(addr(one(t, x, start, request(string(rune('A'+i)), "a"))))
		if !slices.Contains(got, base) {
			got = append(got, base)
		}
	}
	if !slices.Equal(got, bases) {
		t.Errorf("took %v, want %v", got, bases)
	}
}

func TestReplacedPoolLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0-10.0.0.15")
	one(t, x, start, request("p", "a"))
	for range 3 {
		x.SetPool("a", set(t, "10.0.0.0-10.0.0.14"))
		x.SetPool("a", set(t, "10.0.0.0-10.0.0.15"))
	}
	if b := x.blocks[addr("10.0.0.0")]; len(b.inPools) != 1 || b.inPools[0].pool != x.pools["a"] {
		t.Errorf("the block belongs to %d pools, want only to the present one", len(b.inPools))
	}
}

func TestPoolCountsKnownBlockWithOneAddress(t *testing.T) {
	t.Parallel()
	held := Lease{Addr: addr("10.0.0.0"), State: InUse, Pool: "a", Since: start, Holder: Holder{Attachment: Attachment{"c", "eth0"}}}
	x := newIndex(t)
	x.Put(Block{Base: addr("10.0.0.0"), Node: "other", Version: "1", Leases: []Lease{held}}, start)
	x.Put(Block{Base: addr("10.0.9.0"), Node: "other", Version: "1"}, start)
	x.SetPool("a", set(t, "10.0.0.0", "10.0.1.0-10.0.1.255"))
	if u := x.Usage("a"); u.Total != 257 || u.Free != 256 {
		t.Errorf("usage is %+v, want 256 of 257 free", u)
	}
	if k := x.blocks[addr("10.0.9.0")]; len(k.inPools) != 0 {
		t.Error("a block without an address of the pool belongs to it")
	}
}

// TestHeldAddressDependsOnlyOnItsOwnWrite repeats a request in a batch that writes the block for another pod.
func TestHeldAddressDependsOnlyOnItsOwnWrite(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0-10.0.0.15")
	one(t, x, start, request("old", "a"))
	block := []netip.Addr{addr("10.0.0.0")}
	plan := x.Choose(start, request("new", "a"), request("old", "a"), request("new", "a"))
	for i, want := range [][]netip.Addr{block, nil, block} {
		if got := plan.Results[i].Blocks; !slices.Equal(got, want) {
			t.Errorf("result %d depends on the writes of %v, want %v", i, got, want)
		}
	}
	if !plan.Results[2].Grants[0].Held || plan.Results[2].Grants[0].Addr != plan.Results[0].Grants[0].Addr {
		t.Errorf("the repeated request got %+v", plan.Results[2].Grants)
	}
}
