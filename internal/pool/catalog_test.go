package pool

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"spiderpool.dev/spiderpool/internal/inet"
)

// naive computes the usable addresses of a pool without an index.
func naive(pools map[string]*Pool, reserved inet.Set, name string) inet.Set {
	p, known := pools[name]
	if !known {
		return inet.Set{}
	}
	usable := p.Usable(reserved)
	for _, other := range pools {
		if other.Subnet == p.Subnet {
			usable = usable.Minus(inet.OfAddrs(other.Gateway))
		}
	}
	return usable
}

func TestCatalogHandsOutNoGateway(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(3, 4)) //nolint:gosec // a test that repeats itself
	addr := func() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(random.IntN(2)), byte(random.IntN(8))}) }
	c, pools, reserved := NewCatalog(), map[string]*Pool{}, inet.Set{}
	var snapshots []func() error
	for step := range 4000 {
		before := map[string]inet.Set{}
		for name := range pools {
			before[name] = c.Usable(name)
		}
		name := fmt.Sprint("p", random.IntN(6))
		var changed []string
		switch random.IntN(8) {
		case 0:
			delete(pools, name)
			changed = c.Delete(name)
		case 1:
			reserved = inet.OfAddrs(addr())
			changed = c.SetReserved(reserved)
		default:
			p := &Pool{Name: name, Family: 4, Default: random.IntN(2) == 0}
			p.Subnet, _ = addr().Prefix(24)
			p.IPs = inet.OfPrefix(netip.PrefixFrom(p.Subnet.Addr(), 29))
			if gateway := addr(); random.IntN(3) > 0 && p.Subnet.Contains(gateway) {
				p.Gateway = gateway
			}
			pools[name] = p
			changed = c.Set(p)
		}
		for _, n := range c.Names() {
			want := naive(pools, reserved, n)
			if got := c.Usable(n); !got.Equal(want) {
				t.Fatalf("step %d: usable of %s is %s, want %s", step, n, got, want)
			}
			if former, known := before[n]; (!known || !former.Equal(want)) && !slices.Contains(changed, n) {
				t.Fatalf("step %d: the change of %s is not reported: %v", step, n, changed)
			}
		}
		if len(c.Names()) != len(pools) {
			t.Fatalf("step %d: the pools are %v", step, c.Names())
		}
		if step%400 == 0 {
			snapshots = append(snapshots, unchanged(c.Clone()))
		}
	}
	for _, check := range snapshots {
		if err := check(); err != nil {
			t.Error(err)
		}
	}
}

// unchanged returns a check that the catalog still has the same addresses, also after
// a change of its own.
func unchanged(c *Catalog) func() error {
	was := map[string]inet.Set{}
	for _, name := range c.Names() {
		was[name] = c.Usable(name)
	}
	return func() error {
		c.Set(&Pool{Name: "other", Family: 4, Subnet: netip.MustParsePrefix("10.0.0.0/24")})
		c.Delete("other")
		for name, set := range was {
			if got := c.Usable(name); !got.Equal(set) {
				return fmt.Errorf("usable of %s was %s and is %s", name, set, got)
			}
		}
		return nil
	}
}

func BenchmarkCatalogSet(b *testing.B) {
	for _, n := range []int{100, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := NewCatalog()
			p := func(i int) *Pool {
				first := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
				return &Pool{Name: fmt.Sprint(i), Family: 4, Subnet: netip.MustParsePrefix("10.0.0.0/8"), IPs: inet.OfAddrs(first), Gateway: netip.MustParseAddr("10.255.0.1")}
			}
			for i := range n {
				c.Set(p(i))
			}
			for i := 0; b.Loop(); i++ {
				c.Set(p(i % n))
			}
		})
	}
}
