package pool

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Selector is a label selector with the semantics of Kubernetes: all of its
// requirements must hold, and one without requirements matches everything.
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

// Operators. NotIn also holds where the label is missing.
const (
	In           Operator = "In"
	NotIn        Operator = "NotIn"
	Exists       Operator = "Exists"
	DoesNotExist Operator = "DoesNotExist"
)

// Matches reports whether the labels meet every requirement. A nil Selector
// matches everything.
func (s *Selector) Matches(labels map[string]string) bool {
	_, unmet := s.unmet(func(key string) (string, bool) { v, ok := labels[key]; return v, ok })
	return !unmet
}

// unmet returns the first requirement, in the order of the keys of MatchLabels
// and then of MatchExpressions, that the labels do not meet, and with it what the
// labels have instead; false where they meet all.
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

// met reports whether a label with the value, or its absence, meets r. An
// operator that is none of the four meets nothing.
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

// String returns the requirement as kubectl writes it.
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
