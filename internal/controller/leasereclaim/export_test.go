package leasereclaim

import (
	"context"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// LiveOwner returns the state of an owner according to the API server.
func LiveOwner(ctx context.Context, live client.Reader, owner lease.Owner) reclaim.Owner {
	return liveFacts(live).owner(ctx, owner)
}
