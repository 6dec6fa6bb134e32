package lease

import (
	"testing"

	"pgregory.net/rapid"
)

func TestClaimsBehaveLikeList(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const most = 12
		var c claims
		var has [most]bool
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			n := rapid.Uint64Range(0, most-1).Draw(t, "n")
			if has[n] = rapid.Bool().Draw(t, "add"); has[n] {
				c.add(n)
			} else {
				c.remove(n)
			}
		}
		var runs []claimed
		for n, is := range has {
			switch last := len(runs) - 1; {
			case is && last >= 0 && runs[last].to == uint64(n)-1:
				runs[last].to++
			case is:
				runs = append(runs, claimed{uint64(n), uint64(n)})
			}
		}
		if len(runs) != len(c.runs) {
			t.Fatalf("runs %v, want %v", c.runs, runs)
		}
		for i := range runs {
			if runs[i] != c.runs[i] {
				t.Fatalf("runs %v, want %v", c.runs, runs)
			}
		}
		start, count := rapid.Uint64Range(0, most+2).Draw(t, "start"), rapid.Uint64Range(0, most).Draw(t, "count")
		var want uint64
		var found bool
		for i := range count {
			if n := (start + i) % count; !has[n] {
				want, found = n, true
				break
			}
		}
		if got, ok := c.firstFree(start, count); got != want || ok != found {
			t.Fatalf("the first free of %d from %d is %d (%v), want %d (%v)", count, start, got, ok, want, found)
		}
	})
}
