package lease

import (
	"testing"

	"pgregory.net/rapid"
)

func TestOrdinalSetBehavesLikeList(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const most = 12
		var s ordinalSet
		var has [most]bool
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			n := rapid.Uint64Range(0, most-1).Draw(t, "n")
			if has[n] = rapid.Bool().Draw(t, "add"); has[n] {
				s.add(n)
			} else {
				s.remove(n)
			}
		}
		var runs []run
		for n, is := range has {
			switch last := len(runs) - 1; {
			case is && last >= 0 && runs[last].to == uint64(n)-1:
				runs[last].to++
			case is:
				runs = append(runs, run{uint64(n), uint64(n)})
			}
		}
		if len(runs) != len(s.runs) {
			t.Fatalf("runs %v, want %v", s.runs, runs)
		}
		for i := range runs {
			if runs[i] != s.runs[i] {
				t.Fatalf("runs %v, want %v", s.runs, runs)
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
		if got, ok := s.firstFree(start, count); got != want || ok != found {
			t.Fatalf("the first free of %d from %d is %d (%v), want %d (%v)", count, start, got, ok, want, found)
		}
	})
}

func TestOrdinalSetIsASet(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const count = 40
		var s ordinalSet
		model := map[uint64]bool{}
		t.Repeat(map[string]func(*rapid.T){
			"add":    func(t *rapid.T) { n := rapid.Uint64Range(0, count-1).Draw(t, "n"); s.add(n); model[n] = true },
			"remove": func(t *rapid.T) { n := rapid.Uint64Range(0, count-1).Draw(t, "n"); s.remove(n); delete(model, n) },
			"": func(t *rapid.T) {
				for from := range uint64(count) {
					want, ok := uint64(0), false
					for i := range uint64(count) {
						if n := (from + i) % count; !model[n] {
							want, ok = n, true
							break
						}
					}
					if got, found := s.firstFree(from, count); found != ok || got != want && from <= want {
						t.Fatalf("first free from %d is %d, %t; want %d, %t of %v", from, got, found, want, ok, s.runs)
					}
				}
				for i := 1; i < len(s.runs); i++ {
					if s.runs[i].from <= s.runs[i-1].to+1 {
						t.Fatalf("runs %v overlap or touch", s.runs)
					}
				}
			},
		})
	})
}
