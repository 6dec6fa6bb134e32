//go:build apiserver

package agentclient

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
)

// Delete removes the block at its version, as the controller does.
func (s *BlockStore) Delete(ctx context.Context, b lease.Block) error {
	return s.client.spiderpool.Delete().Resource("spideripblocks").Name(compile.BlockName(b.Base)).
		Body(&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &b.Version}}).
		Do(ctx).Error()
}

// Pending returns the number of endpoints with a pending change.
func (e *Endpoints) Pending() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.mu.desired)
}
