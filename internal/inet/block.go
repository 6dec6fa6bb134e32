package inet

import (
	"iter"
	"math"
	"net/netip"
	"sort"

	"go4.org/netipx"
)

// BlockSize is the number of addresses in a block: an aligned IPv4 /28 or IPv6
// /124, e.g. 10.0.0.16/28.
const BlockSize = 16

const blockShift = 4 // log2 of BlockSize

// Mask selects addresses of a block: bit i stands for the first address + i.
type Mask uint16

// run is a maximal sequence of consecutive blocks.
type run struct {
	first  netip.Addr // first address of the first block
	n      uint64     // number of blocks, saturating
	before uint64     // number of blocks in all earlier runs, saturating
}

// BlockOf returns the first address of the block of a: the name of the block. It
// returns the zero address for the zero address.
func BlockOf(a netip.Addr) netip.Addr {
	if !a.IsValid() {
		return netip.Addr{}
	}
	v := toU128(a)
	v.lo &^= BlockSize - 1
	return fromU128(v, a.Is4())
}

// BlockPrefix returns the block named base in CIDR notation.
func BlockPrefix(base netip.Addr) netip.Prefix {
	return netip.PrefixFrom(base, base.BitLen()-blockShift)
}

// BlockIndex returns the position of a in its block, 0 to BlockSize-1.
func BlockIndex(a netip.Addr) int { return int(toU128(a).lo & (BlockSize - 1)) }

// BlockAddr returns the address at position i, 0 to BlockSize-1, of the block
// named base.
func BlockAddr(base netip.Addr, i int) netip.Addr {
	v := toU128(base)
	v.lo |= uint64(i) & (BlockSize - 1) // masked
	return fromU128(v, base.Is4())
}

// Mask selects the addresses of the block named base in the set.
func (s Set) Mask(base netip.Addr) Mask {
	last := BlockAddr(base, BlockSize-1)
	var m Mask
	for i := max(s.upTo(base), 0); i < len(s.ranges); i++ {
		r := overlap(s.ranges[i], netipx.IPRangeFrom(base, last))
		if !r.IsValid() {
			if last.Less(s.ranges[i].From()) {
				break
			}
			continue
		}
		from, to := BlockIndex(r.From()), BlockIndex(r.To())
		m |= Mask(1<<(to+1) - 1<<from)
	}
	return m
}

// BlockCount returns the number of blocks with an address of the set, at most
// math.MaxUint64.
func (s Set) BlockCount() uint64 {
	if len(s.runs) == 0 {
		return 0
	}
	last := s.runs[len(s.runs)-1]
	return addSaturating(last.before, last.n)
}

// NthBlock returns the name of block n of the set, counted from 0, and false if
// the set has only n blocks or fewer.
func (s Set) NthBlock(n uint64) (netip.Addr, bool) {
	i := sort.Search(len(s.runs), func(i int) bool { return s.runs[i].before > n }) - 1
	if i < 0 || n-s.runs[i].before >= s.runs[i].n {
		return netip.Addr{}, false
	}
	r := s.runs[i]
	offset := u128{lo: n - r.before}.shl(blockShift)
	return fromU128(toU128(r.first).add(offset), r.first.Is4()), true
}

// BlockOrdinal is the inverse of NthBlock: it returns the position of the block
// named base among the blocks of the set. It returns false if the set has no
// address in that block, or for a position of math.MaxUint64 or more.
func (s Set) BlockOrdinal(base netip.Addr) (uint64, bool) {
	i := sort.Search(len(s.runs), func(i int) bool { return base.Less(s.runs[i].first) }) - 1
	if i < 0 || s.runs[i].first.Is4() != base.Is4() {
		return 0, false
	}
	r := s.runs[i]
	offset := toU128(base).sub(toU128(r.first)).shr(blockShift).saturate()
	n := addSaturating(r.before, offset)
	if offset >= r.n || n == math.MaxUint64 {
		return 0, false
	}
	return n, true
}

// Blocks yields, in order, the name of each block with an address of the set, and
// the mask of these addresses.
func (s Set) Blocks() iter.Seq2[netip.Addr, Mask] {
	return func(yield func(netip.Addr, Mask) bool) {
		for _, r := range s.runs {
			for i, base := uint64(0), r.first; i < r.n; i++ {
				if !yield(base, s.Mask(base)) {
					return
				}
				base = fromU128(toU128(base).add(u128{lo: BlockSize}), base.Is4())
			}
		}
	}
}

// BlockSpans returns the ranges of the set, widened to block boundaries and
// merged, in order.
func (s Set) BlockSpans() []netipx.IPRange {
	spans := make([]netipx.IPRange, 0, len(s.runs))
	for _, r := range s.runs {
		last := toU128(r.first).add(u128{lo: r.n - 1}.shl(blockShift))
		if r.n == math.MaxUint64 { // saturated: only IPv6 has this many blocks
			last = toU128(s.ranges[len(s.ranges)-1].To())
		}
		spans = append(spans, netipx.IPRangeFrom(r.first, BlockAddr(fromU128(last, r.first.Is4()), BlockSize-1)))
	}
	return spans
}

func runsOf(ranges []netipx.IPRange) []run {
	wide := netipx.IPSetBuilder{}
	for _, r := range ranges {
		wide.AddRange(netipx.IPRangeFrom(BlockOf(r.From()), BlockAddr(BlockOf(r.To()), BlockSize-1)))
	}
	merged, err := wide.IPSet()
	if err != nil {
		return nil // unreachable: the ranges are valid
	}
	var runs []run
	total := uint64(0)
	for _, r := range merged.Ranges() {
		n := toU128(r.To()).sub(toU128(r.From())).shr(blockShift).add(u128{lo: 1}).saturate()
		runs = append(runs, run{first: r.From(), n: n, before: total})
		total = addSaturating(total, n)
	}
	return runs
}
