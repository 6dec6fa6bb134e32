package pool

import (
	"fmt"
	"math/rand"
	"net/netip"
	"path"
	"slices"
	"strings"
	"testing"
)

func TestMatchesFollowChangesOfCatalog(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewSource(1))
	patterns := []string{"*", "a*", "?1", "[ab]*", "[^a]?", "b", "*1*", "???", "a[0-2]", strings.Repeat("?", 60)}
	c := NewCatalog()
	for range 2000 {
		name := fmt.Sprintf("%c%d", 'a'+rune(r.Intn(3)), r.Intn(20))
		switch r.Intn(4) {
		case 0:
			c.Delete(name)
		case 1:
			c = c.Clone()
		default:
			c.Set(&Pool{Name: name, Family: 4, Subnet: netip.MustParsePrefix("10.0.0.0/24")})
		}
		pattern := patterns[r.Intn(len(patterns))]
		want := slices.DeleteFunc(c.Names(), func(name string) bool { ok, _ := path.Match(pattern, name); return !ok })
		if got := c.matching(pattern); !slices.Equal(got, want) {
			t.Fatalf("%s: got %v, want %v", pattern, got, want)
		}
		if _, ok := c.matches.get(pattern); !ok {
			t.Fatalf("the matches of %s are forgotten at once", pattern)
		}
		total := 0
		for _, found := range c.matches.mu.byPattern {
			total += len(found) + 1
		}
		if c.matches.mu.total != total {
			t.Fatalf("%d names are counted, and %d remembered", c.matches.mu.total, total)
		}
	}
}

func TestMatchesAreBounded(t *testing.T) {
	t.Parallel()
	c := NewCatalog()
	for i := range 1000 {
		c.Set(&Pool{Name: fmt.Sprint("p", i), Family: 4, Subnet: netip.MustParsePrefix("10.0.0.0/24")})
	}
	for i := range 500 {
		c.matching(strings.Repeat("*", i+1))
		if n := c.matches.mu.total; n > maxMatches {
			t.Fatalf("%d names are remembered", n)
		}
	}
}
