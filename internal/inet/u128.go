package inet

import (
	"encoding/binary"
	"math"
	"math/bits"
	"net/netip"

	"go4.org/netipx"
)

// u128 is an unsigned 128-bit integer for arithmetic on addresses.
type u128 struct{ hi, lo uint64 }

func toU128(a netip.Addr) u128 {
	if a.Is4() {
		b := a.As4()
		return u128{lo: uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return u128{hi: binary.BigEndian.Uint64(b[:8]), lo: binary.BigEndian.Uint64(b[8:])}
}

// fromU128 returns the address with the number v. With is4, v must fit an IPv4
// address.
func fromU128(v u128, is4 bool) netip.Addr {
	if is4 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(v.lo)) // fits, as documented
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], v.hi)
	binary.BigEndian.PutUint64(b[8:], v.lo)
	return netip.AddrFrom16(b)
}

// add returns a + b modulo 2^128.
func (a u128) add(b u128) u128 {
	lo, carry := bits.Add64(a.lo, b.lo, 0)
	hi, _ := bits.Add64(a.hi, b.hi, carry)
	return u128{hi, lo}
}

// sub returns a - b, for a ≥ b.
func (a u128) sub(b u128) u128 {
	lo, borrow := bits.Sub64(a.lo, b.lo, 0)
	hi, _ := bits.Sub64(a.hi, b.hi, borrow)
	return u128{hi, lo}
}

// shr returns a divided by 2^n, for 0 < n < 64.
func (a u128) shr(n uint) u128 {
	return u128{hi: a.hi >> n, lo: a.lo>>n | a.hi<<(64-n)}
}

// shl returns a times 2^n modulo 2^128, for 0 < n < 64.
func (a u128) shl(n uint) u128 {
	return u128{hi: a.hi<<n | a.lo>>(64-n), lo: a.lo << n}
}

func (a u128) cmp(b u128) int {
	switch {
	case a.hi < b.hi, a.hi == b.hi && a.lo < b.lo:
		return -1
	case a == b:
		return 0
	}
	return 1
}

// saturate returns a, at most math.MaxUint64.
func (a u128) saturate() uint64 {
	if a.hi != 0 {
		return math.MaxUint64
	}
	return a.lo
}

// size returns the number of addresses in r. The whole of IPv6 has 2^128, one too
// many for a u128, and counts one less.
func size(r netipx.IPRange) u128 {
	n := toU128(r.To()).sub(toU128(r.From()))
	if n == (u128{math.MaxUint64, math.MaxUint64}) {
		return n
	}
	return n.add(u128{lo: 1})
}

func addSaturating(a, b uint64) uint64 {
	if sum, carry := bits.Add64(a, b, 0); carry == 0 {
		return sum
	}
	return math.MaxUint64
}
