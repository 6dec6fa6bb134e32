package inet

import (
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

func TestU128CalculatesLikeBigIntegers(t *testing.T) {
	modulus := new(big.Int).Lsh(big.NewInt(1), 128)
	modulo := func(n *big.Int) *big.Int { return n.Mod(n, modulus) }
	// Words near 0 and the maximum make carries and equal halves likely.
	word := rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(0, 2), rapid.Uint64Min(1<<64-2))
	rapid.Check(t, func(t *rapid.T) {
		a := u128{word.Draw(t, "a.hi"), word.Draw(t, "a.lo")}
		b := u128{word.Draw(t, "b.hi"), word.Draw(t, "b.lo")}
		n := rapid.UintRange(1, 63).Draw(t, "n")
		want := a.big().Cmp(b.big())
		if got := a.cmp(b); got != want || a.cmp(a) != 0 {
			t.Fatalf("compares as %d, want %d", got, want)
		}
		results := map[string][2]*big.Int{
			"add": {a.add(b).big(), modulo(new(big.Int).Add(a.big(), b.big()))},
			"shl": {a.shl(n).big(), modulo(new(big.Int).Lsh(a.big(), n))},
			"shr": {a.shr(n).big(), new(big.Int).Rsh(a.big(), n)},
		}
		if want >= 0 {
			results["sub"] = [2]*big.Int{a.sub(b).big(), new(big.Int).Sub(a.big(), b.big())}
		}
		for name, r := range results {
			if r[0].Cmp(r[1]) != 0 {
				t.Errorf("%s is %d, want %d", name, r[0], r[1])
			}
		}
	})
}

func (a u128) big() *big.Int {
	v := new(big.Int).SetUint64(a.hi)
	return v.Lsh(v, 64).Or(v, new(big.Int).SetUint64(a.lo))
}
