package lease

import (
	"slices"
	"sort"
)

// ordinalSet is a set of block ordinals, stored as sorted runs without overlaps or
// adjacent runs, e.g. {1-4, 7-7}.
type ordinalSet struct{ runs []run }

type run struct{ from, to uint64 } // inclusive

// after returns the index of the first run beginning after n.
func (s *ordinalSet) after(n uint64) int {
	return sort.Search(len(s.runs), func(i int) bool { return s.runs[i].from > n })
}

// add adds n; n must be less than math.MaxUint64.
func (s *ordinalSet) add(n uint64) {
	i := s.after(n)
	before := i > 0 && s.runs[i-1].to >= n
	if before {
		return
	}
	touchesLeft := i > 0 && s.runs[i-1].to == n-1
	touchesRight := i < len(s.runs) && s.runs[i].from == n+1
	switch {
	case touchesLeft && touchesRight:
		s.runs[i-1].to = s.runs[i].to
		s.runs = slices.Delete(s.runs, i, i+1)
	case touchesLeft:
		s.runs[i-1].to = n
	case touchesRight:
		s.runs[i].from = n
	default:
		s.runs = slices.Insert(s.runs, i, run{n, n})
	}
}

// remove removes n, if present.
func (s *ordinalSet) remove(n uint64) {
	i := s.after(n) - 1
	if i < 0 || s.runs[i].to < n {
		return
	}
	r := s.runs[i]
	switch {
	case r.from == r.to:
		s.runs = slices.Delete(s.runs, i, i+1)
	case r.from == n:
		s.runs[i].from++
	case r.to == n:
		s.runs[i].to--
	default:
		s.runs[i].to = n - 1
		s.runs = slices.Insert(s.runs, i+1, run{n + 1, r.to})
	}
}

// firstFree returns the first ordinal outside the set and below count, searching from
// start to the end and then from 0. It returns false if there is none.
func (s *ordinalSet) firstFree(start, count uint64) (uint64, bool) {
	if count == 0 {
		return 0, false
	}
	for _, n := range []uint64{start % count, 0} {
		if i := s.after(n) - 1; i >= 0 && s.runs[i].to >= n {
			n = s.runs[i].to + 1
		}
		if n < count {
			return n, true
		}
	}
	return 0, false
}
