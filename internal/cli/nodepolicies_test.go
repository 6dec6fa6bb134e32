package cli

import (
	"errors"
	"testing"
)

func TestNodeSaysWhatPoliciesWithstand(t *testing.T) {
	lacking := errors.New("the kernel lacks the hook")
	for name, c := range map[string]struct {
		enabled            bool
		sockets, ownership error
		is                 []string
	}{
		"off":                  {false, nil, nil, []string{"not enforced"}},
		"complete":             {true, nil, nil, []string{"enforced", "hold", "hold"}},
		"no hook":              {true, lacking, nil, []string{"enforced", "do not hold: the kernel lacks the hook", "hold"}},
		"no hook and no owner": {true, lacking, lacking, []string{"enforced", "do not hold: the kernel lacks the hook", "do not hold: the kernel lacks the hook"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := judgePolicies(c.enabled, c.sockets, c.ownership)
			if len(got) != len(c.is) {
				t.Fatalf("got %+v", got)
			}
			for i, f := range got {
				if f.Is != c.is[i] || !f.OK {
					t.Errorf("got %+v, want %s", f, c.is[i])
				}
			}
		})
	}
}
