package inet

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"testing"

	"go4.org/netipx"
	"pgregory.net/rapid"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func parse(t testing.TB, entries ...string) Set {
	t.Helper()
	s, err := Parse(entries, Bounds{})
	if err != nil {
		t.Fatalf("Parse(%q): %v", entries, err)
	}
	return s
}

func TestSetHasCanonicalText(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		in   []string
		want []string
	}{
		{"nothing", nil, []string{}},
		{"one", []string{"10.0.0.1"}, []string{"10.0.0.1"}},
		{"range of one", []string{"10.0.0.1-10.0.0.1"}, []string{"10.0.0.1"}},
		{"sorted", []string{"10.0.0.9", "10.0.0.1-10.0.0.3"}, []string{"10.0.0.1-10.0.0.3", "10.0.0.9"}},
		{"overlapping", []string{"10.0.0.1-10.0.0.5", "10.0.0.3-10.0.0.9"}, []string{"10.0.0.1-10.0.0.9"}},
		{"adjacent", []string{"10.0.0.5", "10.0.0.4", "10.0.0.6-10.0.0.7"}, []string{"10.0.0.4-10.0.0.7"}},
		{"IPv6 in long form", []string{"2406:DA1E:c4:ed01:c57d::0-2406:da1e:c4:ed01:c57d:0:0:f"},
			[]string{"2406:da1e:c4:ed01:c57d::-2406:da1e:c4:ed01:c57d::f"}},
		{"to the end of IPv4", []string{"255.255.255.254-255.255.255.255"}, []string{"255.255.255.254-255.255.255.255"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got := parse(t, tc.in...).Strings()
			if !slices.Equal(got, tc.want) {
				t.Errorf("Strings() = %q, want %q", got, tc.want)
			}
			if again := parse(t, got...).Strings(); !slices.Equal(again, got) {
				t.Errorf("parsed again it is %q, want %q", again, got)
			}
		})
	}
}

func TestWideRangesCountAndIndexWithoutEnumeration(t *testing.T) {
	t.Parallel()
	wide := parse(t, "fd00::1-fd00::ffff:ffff:ffff:ffff", "fd00:0:0:2::-fd00:0:0:2::1")
	if got := wide.Count(); got != math.MaxInt64 {
		t.Errorf("Count() = %d, want it saturated", got)
	}
	if got := wide.BlockCount(); got != 1<<60+1 {
		t.Errorf("BlockCount() = %d, want 2^60+1", got)
	}
	if b, ok := wide.NthBlock(1 << 60); !ok || b != addr("fd00:0:0:2::") {
		t.Errorf("NthBlock(2^60) = %s, %t", b, ok)
	}

	all := OfPrefix(netip.MustParsePrefix("::/0"))
	if got := all.BlockCount(); got != math.MaxUint64 {
		t.Errorf("BlockCount() of ::/0 = %d, want it saturated", got)
	}
	if spans := all.BlockSpans(); len(spans) != 1 || spans[0] != netipx.RangeOfPrefix(netip.MustParsePrefix("::/0")) {
		t.Errorf("BlockSpans() of ::/0 = %v", spans)
	}
	if n, ok := all.BlockOrdinal(addr("::10:0")); !ok || n != 1<<16 {
		t.Errorf("BlockOrdinal(::10:0) = %d, %t", n, ok)
	}
	if _, ok := all.BlockOrdinal(addr("ffff::")); ok {
		t.Error("BlockOrdinal beyond 64 bits should not be known")
	}
}

func TestBlockSpansAreMerged(t *testing.T) {
	t.Parallel()
	got := fmt.Sprint(parse(t, "10.0.0.14-10.0.0.17", "10.0.0.40", "10.0.1.0").BlockSpans())
	if want := "[10.0.0.0-10.0.0.47 10.0.1.0-10.0.1.15]"; got != want {
		t.Errorf("BlockSpans() = %s, want %s", got, want)
	}
}

func TestBlocksOfUnalignedRanges(t *testing.T) {
	t.Parallel()
	s := parse(t, "10.0.0.14-10.0.0.17", "10.0.0.30", "10.0.1.0-10.0.1.15")
	type block struct {
		base string
		mask Mask
	}
	var got []block
	for base, mask := range s.Blocks() {
		got = append(got, block{base.String(), mask})
	}
	want := []block{{"10.0.0.0", 0xc000}, {"10.0.0.16", 0x4003}, {"10.0.1.0", 0xffff}}
	if !slices.Equal(got, want) {
		t.Errorf("Blocks() = %x, want %x", got, want)
	}
	for i, b := range want {
		if base, ok := s.NthBlock(uint64(i)); !ok || base != addr(b.base) {
			t.Errorf("NthBlock(%d) = %s, %t, want %s", i, base, ok, b.base)
		}
		if n, ok := s.BlockOrdinal(addr(b.base)); !ok || n != uint64(i) {
			t.Errorf("BlockOrdinal(%s) = %d, %t, want %d", b.base, n, ok, i)
		}
	}
	for _, other := range []string{"10.0.0.32", "9.255.255.240", "10.0.1.16", "::"} {
		if n, ok := s.BlockOrdinal(addr(other)); ok {
			t.Errorf("BlockOrdinal(%s) = %d, want none", other, n)
		}
		if m := s.Mask(addr(other)); m != 0 {
			t.Errorf("Mask(%s) = %x, want none", other, m)
		}
	}
}

func TestBlockOfAddress(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ in, base, prefix string }{
		{"172.31.28.31", "172.31.28.16", "172.31.28.16/28"},
		{"255.255.255.255", "255.255.255.240", "255.255.255.240/28"},
		{"fd00::ff", "fd00::f0", "fd00::f0/124"},
	} {
		base := BlockOf(addr(tc.in))
		if base != addr(tc.base) || BlockPrefix(base).String() != tc.prefix {
			t.Errorf("BlockOf(%s) = %s (%s), want %s (%s)", tc.in, base, BlockPrefix(base), tc.base, tc.prefix)
		}
		if got := BlockAddr(base, BlockIndex(addr(tc.in))); got != addr(tc.in) {
			t.Errorf("BlockAddr(%s, BlockIndex(%s)) = %s", base, tc.in, got)
		}
	}
}

// naive is the model: a bit for each of 512 addresses around the border of two
// /24s, IPv4, and as many of IPv6.
type naive [2][512]bool

var naiveBase = [2]netip.Addr{netip.MustParseAddr("10.0.0.0"), netip.MustParseAddr("fd00::ff00")}

func (n *naive) addr(family, i int) netip.Addr {
	return fromU128(toU128(naiveBase[family]).add(u128{lo: uint64(i)}), family == 0)
}

func (n *naive) list() []netip.Addr {
	var out []netip.Addr
	for family := range n {
		for i, in := range n[family] {
			if in {
				out = append(out, n.addr(family, i))
			}
		}
	}
	return out
}

func (n *naive) combine(o *naive, f func(a, b bool) bool) *naive {
	out := &naive{}
	for family := range n {
		for i := range n[family] {
			out[family][i] = f(n[family][i], o[family][i])
		}
	}
	return out
}

func drawSet(t *rapid.T, label string) (Set, *naive) {
	model := &naive{}
	var ranges []netipx.IPRange
	for range rapid.IntRange(0, 8).Draw(t, label+" ranges") {
		family := rapid.IntRange(0, 1).Draw(t, "family")
		from := rapid.IntRange(0, 511).Draw(t, "from")
		to := min(511, from+rapid.IntRange(0, 60).Draw(t, "length"))
		for i := from; i <= to; i++ {
			model[family][i] = true
		}
		ranges = append(ranges, netipx.IPRangeFrom(model.addr(family, from), model.addr(family, to)))
	}
	return Of(ranges...), model
}

// addrsOf returns the addresses of a small set in order.
func addrsOf(s Set) []netip.Addr {
	var addrs []netip.Addr
	for _, r := range s.Ranges() {
		for a := r.From(); a.Compare(r.To()) <= 0; a = a.Next() {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

func mustEqualModel(t *rapid.T, what string, s Set, model *naive) {
	want := model.list()
	if got := addrsOf(s); !slices.Equal(got, want) {
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
	if s.Count() != int64(len(want)) || s.IsEmpty() != (len(want) == 0) {
		t.Fatalf("%s: Count %d, IsEmpty %t; want %d", what, s.Count(), s.IsEmpty(), len(want))
	}
	for i, r := range s.ranges {
		if i > 0 && (!s.ranges[i-1].To().Less(r.From()) || s.ranges[i-1].To().Next() == r.From()) {
			t.Fatalf("%s: ranges %v and %v are not disjoint and apart", what, s.ranges[i-1], r)
		}
	}
}

func TestSetsBehaveLikeListsOfAddresses(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, ma := drawSet(t, "a")
		b, mb := drawSet(t, "b")
		union := ma.combine(mb, func(x, y bool) bool { return x || y })
		minus := ma.combine(mb, func(x, y bool) bool { return x && !y })
		and := ma.combine(mb, func(x, y bool) bool { return x && y })
		mustEqualModel(t, "a", a, ma)
		mustEqualModel(t, "union", Union(a, b), union)
		mustEqualModel(t, "minus", a.Minus(b), minus)
		mustEqualModel(t, "and", a.And(b), and)

		if got, want := a.Overlaps(b), len(and.list()) > 0; got != want {
			t.Fatalf("Overlaps = %t, want %t", got, want)
		}
		if got, want := a.ContainsSet(b), len(and.list()) == len(mb.list()); got != want {
			t.Fatalf("ContainsSet = %t, want %t", got, want)
		}
		for family := range ma {
			for i, in := range ma[family] {
				if got := a.Contains(ma.addr(family, i)); got != in {
					t.Fatalf("Contains(%s) = %t", ma.addr(family, i), got)
				}
			}
		}
	})
}

func TestBlocksCoverTheSetExactly(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, model := drawSet(t, "s")
		var addrs []netip.Addr
		n := uint64(0)
		for base, mask := range s.Blocks() {
			if got, ok := s.NthBlock(n); !ok || got != base {
				t.Fatalf("NthBlock(%d) = %s, %t, want %s", n, got, ok, base)
			}
			if got, ok := s.BlockOrdinal(base); !ok || got != n {
				t.Fatalf("BlockOrdinal(%s) = %d, %t, want %d", base, got, ok, n)
			}
			if mask == 0 || mask != s.Mask(base) {
				t.Fatalf("mask of %s is %x, Mask says %x", base, mask, s.Mask(base))
			}
			for i := range BlockSize {
				if mask&(1<<i) != 0 {
					addrs = append(addrs, BlockAddr(base, i))
				}
			}
			n++
		}
		if want := model.list(); !slices.Equal(addrs, want) {
			t.Fatalf("blocks hold %v, want %v", addrs, want)
		}
		if s.BlockCount() != n {
			t.Fatalf("BlockCount = %d, want %d", s.BlockCount(), n)
		}
		if _, ok := s.NthBlock(n); ok {
			t.Fatalf("NthBlock(%d) exists", n)
		}
		spans := Of(s.BlockSpans()...)
		if !spans.ContainsSet(s) || spans.Count() != int64(n)*BlockSize {
			t.Fatalf("BlockSpans %s do not cover %s", spans, s)
		}
	})
}

func BenchmarkLookups(b *testing.B) {
	for name, entries := range map[string][]string{
		"28":   {"172.31.28.16-172.31.28.31"},
		"8":    {"10.0.0.0-10.255.255.255"},
		"2^64": {"fd00::-fd00::ffff:ffff:ffff:ffff"},
	} {
		b.Run(name, func(b *testing.B) {
			s := parse(b, entries...)
			base, _ := s.NthBlock(s.BlockCount() / 2)
			b.ReportAllocs()
			for b.Loop() {
				_ = s.Contains(base)
				_ = s.Mask(base)
				_, _ = s.BlockOrdinal(base)
			}
		})
	}
}
