package pool

import (
	"maps"
	"path"
	"slices"
	"sync"
)

const (
	// maxPattern is the limit for a pattern in bytes.
	maxPattern = 64
	// maxMatches bounds the names that a catalog remembers for its patterns.
	maxMatches = 100_000
)

// matches are the names of a catalog by pattern. All interfaces of a pod have the same
// annotation, and each pattern is compared with all pools, so the result is remembered.
type matches struct {
	mu struct {
		sync.Mutex
		byPattern map[string][]string // sorted; never changed
		total     int
	}
}

// clone returns a copy.
func (m *matches) clone() *matches {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := &matches{}
	out.mu.byPattern, out.mu.total = maps.Clone(m.mu.byPattern), m.mu.total
	return out
}

func (m *matches) get(pattern string) ([]string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	found, ok := m.mu.byPattern[pattern]
	return found, ok
}

func (m *matches) set(pattern string, found []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.byPattern == nil || m.mu.total+len(found)+1 > maxMatches {
		m.mu.byPattern, m.mu.total = map[string][]string{}, 0
	}
	if _, ok := m.mu.byPattern[pattern]; !ok {
		m.mu.byPattern[pattern] = found
		m.mu.total += len(found) + 1
	}
}

// change adds a new name, or removes a former one.
func (m *matches) change(name string, added bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for pattern, found := range m.mu.byPattern {
		if !matchesName(pattern, name) {
			continue
		}
		i, ok := slices.BinarySearch(found, name)
		switch {
		case added && !ok:
			m.mu.byPattern[pattern] = slices.Insert(slices.Clone(found), i, name)
			m.mu.total++
		case !added && ok:
			m.mu.byPattern[pattern] = slices.Delete(slices.Clone(found), i, i+1)
			m.mu.total--
		}
	}
}

// matching returns the names that match the pattern, sorted.
func (c *Catalog) matching(pattern string) []string {
	if found, ok := c.matches.get(pattern); ok {
		return found
	}
	var found []string
	shortest := shortestMatch(pattern)
	for name := range c.entries {
		if len(name) >= shortest && matchesName(pattern, name) {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	c.matches.set(pattern, found)
	return found
}

// matchesName reports a match. Annotations with a malformed pattern are refused before.
func matchesName(pattern, name string) bool {
	ok, _ := path.Match(pattern, name)
	return ok
}

// shortestMatch returns a length that no matching name is below, so that shorter names
// cost nothing.
func shortestMatch(pattern string) int {
	n, inClass := 0, false
	for _, r := range pattern {
		switch {
		case inClass:
			inClass = r != ']'
		case r == '[':
			inClass = true
			n++
		case r != '*' && r != '\\':
			n++
		}
	}
	return n
}
