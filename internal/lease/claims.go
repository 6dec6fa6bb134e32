package lease

import (
	"slices"
	"sort"
)

// claims is a set of ordinals of blocks, as sorted runs that neither overlap nor
// touch.
type claims struct{ runs []claimed }

type claimed struct{ from, to uint64 } // both included

// after returns the index of the first run that begins after n.
func (c *claims) after(n uint64) int {
	return sort.Search(len(c.runs), func(i int) bool { return c.runs[i].from > n })
}

// add adds n, which is less than math.MaxUint64.
func (c *claims) add(n uint64) {
	i := c.after(n)
	before := i > 0 && c.runs[i-1].to >= n
	if before {
		return
	}
	touchesLeft := i > 0 && c.runs[i-1].to == n-1
	touchesRight := i < len(c.runs) && c.runs[i].from == n+1
	switch {
	case touchesLeft && touchesRight:
		c.runs[i-1].to = c.runs[i].to
		c.runs = slices.Delete(c.runs, i, i+1)
	case touchesLeft:
		c.runs[i-1].to = n
	case touchesRight:
		c.runs[i].from = n
	default:
		c.runs = slices.Insert(c.runs, i, claimed{n, n})
	}
}

// remove removes n, if it is there.
func (c *claims) remove(n uint64) {
	i := c.after(n) - 1
	if i < 0 || c.runs[i].to < n {
		return
	}
	r := c.runs[i]
	switch {
	case r.from == r.to:
		c.runs = slices.Delete(c.runs, i, i+1)
	case r.from == n:
		c.runs[i].from++
	case r.to == n:
		c.runs[i].to--
	default:
		c.runs[i].to = n - 1
		c.runs = slices.Insert(c.runs, i+1, claimed{n + 1, r.to})
	}
}

// firstFree returns the first ordinal below count that is not in the set, looking
// from start to the end and then from 0; false where there is none.
func (c *claims) firstFree(start, count uint64) (uint64, bool) {
	if count == 0 {
		return 0, false
	}
	for _, n := range []uint64{start % count, 0} {
		if i := c.after(n) - 1; i >= 0 && c.runs[i].to >= n {
			n = c.runs[i].to + 1
		}
		if n < count {
			return n, true
		}
	}
	return 0, false
}
