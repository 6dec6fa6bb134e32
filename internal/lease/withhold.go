package lease

import (
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

// MaxWithheld is the maximum number of addresses that are withheld together: those of
// 16 blocks.
const MaxWithheld = 256

// withholdableBits is the length of an IPv6 prefix with MaxWithheld addresses.
const withholdableBits = 120

// Withholdable returns the addresses of a piece, e.g. a /28 that a cloud has assigned, that a
// pool may hand out if the piece is to be returned later: all, and only the first MaxWithheld of a
// larger piece. A store cannot refuse a block that does not exist yet, so each address that a pool
// has ever handed out must have its own lease then. An IPv6 /80 has 2^44 blocks.
func Withholdable(piece netip.Prefix) inet.Set {
	if all := inet.OfPrefix(piece); all.Count() <= MaxWithheld {
		return all
	}
	bits := withholdableBits - 128 + piece.Addr().BitLen()
	return inet.OfPrefix(netip.PrefixFrom(piece.Masked().Addr(), bits))
}

// Withhold withholds the addresses of the block that mask has, for a SpiderCloudNetwork. It also
// writes addresses anew that the network withholds already: the block then has another version, so
// a late write of another process fails. If an address is not free, Withhold returns its holders and
// the same block; former sandboxes are among them (Former.AsLease).
func (b Block) Withhold(mask inet.Mask, network, pool string, now time.Time) (Block, []Lease) {
	var holders []Lease
	for i := range inet.BlockSize {
		if mask&(1<<i) != 0 {
			holders = append(holders, b.holdersOf(inet.BlockAddr(b.Base, i), network)...)
		}
	}
	if len(holders) > 0 {
		return b, holders
	}
	for i := range inet.BlockSize {
		if mask&(1<<i) == 0 {
			continue
		}
		next := Lease{Addr: inet.BlockAddr(b.Base, i), State: Withheld, Pool: pool, WithheldBy: network, Since: stamp(now)}
		if l, ok := b.Lease(next.Addr); ok && !next.Since.After(l.Since) {
			next.Since = l.Since.Add(time.Second) // the store drops a write without a change
		}
		b = b.With(next)
	}
	return b, nil
}

// holdersOf returns what keeps the network from withholding the address.
func (b Block) holdersOf(a netip.Addr, network string) []Lease {
	var holders []Lease
	if l, ok := b.Lease(a); ok && l.State != Released && (l.State != Withheld || l.WithheldBy != network) {
		holders = append(holders, l)
	}
	for _, f := range b.FormerOf(a) {
		holders = append(holders, f.AsLease())
	}
	return holders
}

// EndWithheld frees the addresses of the block that the network withholds and that mask has. It
// returns false and the same block if there are none.
func (b Block) EndWithheld(mask inet.Mask, network string, now time.Time) (Block, bool) {
	ended := false
	for _, l := range b.Withheld() {
		if l.WithheldBy != network || mask&(1<<inet.BlockIndex(l.Addr)) == 0 {
			continue
		}
		b, ended = b.With(released(l.Addr, now)), true
	}
	return b, ended
}

// Withheld returns the withheld addresses of the block.
func (b Block) Withheld() []Lease {
	return slices.DeleteFunc(slices.Clone(b.Leases), func(l Lease) bool { return l.State != Withheld })
}
