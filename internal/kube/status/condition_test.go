package status_test

import (
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/kube/status"
)

func TestOlderObjectWinsConflict(t *testing.T) {
	early, late := time.Unix(1, 0), time.Unix(2, 0)
	for _, tc := range []struct {
		name  string
		a     time.Time
		nameA string
		b     time.Time
		nameB string
		want  bool
	}{
		{"older", early, "b", late, "a", true},
		{"same age, lower name", early, "a", early, "b", true},
		{"same object", early, "a", early, "a", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := status.IsOlder(tc.a, tc.nameA, tc.b, tc.nameB); got != tc.want {
				t.Errorf("A is older: %t, want %t", got, tc.want)
			}
			if got := status.IsOlder(tc.b, tc.nameB, tc.a, tc.nameA); got {
				t.Error("B is older too")
			}
		})
	}
}
