package lease

import (
	"runtime"
	"testing"

	"spiderpool.dev/spiderpool/internal/inet"
)

func TestMemoryIsIndependentOfPoolSize(t *testing.T) {
	small := costOf(t, "192.0.2.0-192.0.2.15")
	for name, addresses := range map[string]string{
		"IPv4 /8":  "11.0.0.0-11.255.255.255",
		"IPv6 /64": "fd00::-fd00::ffff:ffff:ffff:ffff",
	} {
		huge := costOf(t, addresses)
		if huge.allocations > small.allocations+2 || huge.bytes > small.bytes+512 {
			t.Errorf("%s: an address costs %+v, and %+v in a /28", name, huge, small)
		}
	}
}

// cost counts the allocations of one run.
type cost struct {
	allocations, bytes float64
}

// costOf returns the cost of four steps: add a pool, grant an address of a new block,
// release it, and grant it again from the now known block.
func costOf(t *testing.T, addresses string) cost {
	t.Helper()
	usable := set(t, addresses)
	first, _ := usable.First()
	r := request("p", "a")
	r.Wants[0].Family = inet.FamilyOf(first)
	run := func() {
		x := NewIndex(Options{Node: "node", ReuseAfter: -1})
		x.SetPool("a", usable)
		for range 2 {
			plan := x.Choose(start, r)
			if err := plan.Results[0].Err; err != nil {
				t.Fatal(err)
			}
			for _, w := range plan.Writes {
				x.Put(w, start)
			}
			for _, w := range x.Release(start, eth0("p")) {
				x.Put(w, start)
			}
		}
	}
	const runs = 100
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	allocations := testing.AllocsPerRun(runs, run)
	runtime.ReadMemStats(&after)
	return cost{allocations, float64(after.TotalAlloc-before.TotalAlloc) / (runs + 1)}
}
