package leasereclaim

import (
	"context"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/internal/reclaim"
)

// LiveOwner is what the reconciler takes from the API server about an owner.
func LiveOwner(ctx context.Context, live client.Reader, fixedFor string) reclaim.Owner {
	return liveFacts(live).owner(ctx, fixedFor)
}
