package ipamtest

import (
	"context"
	"testing"

	"spiderpool.dev/spiderpool/internal/ipam/withhold"
	"spiderpool.dev/spiderpool/internal/lease"
)

// Withholder withholds addresses (withhold.Withholder).
type Withholder interface {
	Withhold(ctx context.Context, p withhold.Piece) (holders []lease.Lease, err error)
}

// MustWithhold fails the test unless all addresses of the piece are withheld.
func MustWithhold(t testing.TB, w Withholder, p withhold.Piece) {
	t.Helper()
	if holders, err := w.Withhold(t.Context(), p); err != nil || len(holders) > 0 {
		t.Fatalf("withhold %s: got holders %v, error %v", p.Addrs, holders, err)
	}
}
