package ipamtest

import (
	"testing"

	"spiderpool.dev/spiderpool/internal/ipam/withhold"
)

// MustWithhold fails the test unless all addresses of the piece are withheld.
func MustWithhold(t testing.TB, w *withhold.Withholder, p withhold.Piece) {
	t.Helper()
	if holders, err := w.Withhold(t.Context(), p); err != nil || len(holders) > 0 {
		t.Fatalf("withhold %s: got holders %v, error %v", p.Addrs, holders, err)
	}
}
