package reclaim

import (
	"context"

	"sigs.k8s.io/controller-runtime/pkg/client"

	domain "spiderpool.dev/spiderpool/internal/reclaim"
)

// LiveOwner is what the reconciler takes from the API server about an owner.
func LiveOwner(ctx context.Context, live client.Reader, fixedFor string) domain.Owner {
	return liveFacts(live).owner(ctx, fixedFor)
}
