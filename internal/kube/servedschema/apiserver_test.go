//go:build apiserver

package servedschema

import (
	"log/slog"
	"testing"

	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// Any account may check, also one without a role.
func TestAPIServerServesEveryField(t *testing.T) {
	account := kubetest.Account(t, "default", "without-role", "")
	if err := check(t.Context(), slog.New(slog.DiscardHandler), account, patience, all); err != nil {
		t.Error(err)
	}
}
