package pool

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Selector is a label selector with the semantics of Kubernetes: all requirements
// must hold, and a selector without requirements matches everything. We do not use
// labels.Selector of apimachinery because this package must stay pure, and because
// a rejection names the first unmet requirement.
type Selector struct {
	MatchLabels      map[string]string
	MatchExpressions []Requirement
}

// Requirement is one expression of a Selector.
type Requirement struct {
	Key      string
	Operator Operator
	Values   []string // for In and NotIn
}

// Operator relates the value of a label to a Requirement.
type Operator string

// Operators. NotIn also holds for a missing label.
const (
	In           Operator = "In"
	NotIn        Operator = "NotIn"
	Exists       Operator = "Exists"
	DoesNotExist Operator = "DoesNotExist"
)

// unmet returns the first unmet requirement, together with the actual label. The
// order is that of the keys of MatchLabels and then of MatchExpressions. It returns
// false if the labels meet all requirements.
func (s *Selector) unmet(label func(key string) (string, bool)) (string, bool) {
	if s == nil {
		return "", false
	}
	for _, key := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		want := s.MatchLabels[key]
		if got, ok := label(key); !ok || got != want {
			return fmt.Sprintf("%s=%s (%s)", key, want, has(key, got, ok)), true
		}
	}
	for _, r := range s.MatchExpressions {
		got, ok := label(r.Key)
		if !r.met(got, ok) {
			return fmt.Sprintf("%s (%s)", r, has(r.Key, got, ok)), true
		}
	}
	return "", false
}

// met reports whether a label with the value, or its absence, meets r. An unknown
// operator meets nothing.
func (r Requirement) met(value string, present bool) bool {
	switch r.Operator {
	case In:
		return present && slices.Contains(r.Values, value)
	case NotIn:
		return !present || !slices.Contains(r.Values, value)
	case Exists:
		return present
	case DoesNotExist:
		return !present
	}
	return false
}

// String returns the requirement in the syntax of kubectl, e.g. "tier in (a,b)".
func (r Requirement) String() string {
	switch r.Operator {
	case In, NotIn:
		return fmt.Sprintf("%s %s (%s)", r.Key, strings.ToLower(string(r.Operator)), strings.Join(r.Values, ","))
	case DoesNotExist:
		return "!" + r.Key
	}
	return r.Key
}

func has(key, value string, present bool) string {
	if !present {
		return "no label " + key
	}
	return fmt.Sprintf("label is %q", value)
}
