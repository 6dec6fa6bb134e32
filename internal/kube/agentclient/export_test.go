//go:build apiserver

package agentclient

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
)

// ControllerOf returns the controller of an object.
var ControllerOf = controllerOf

// Delete removes the block at its version, as the controller does.
func (s *BlockStore) Delete(ctx context.Context, b lease.Block) error {
	return s.client.spiderpool.Delete().Resource("spideripblocks").Name(compile.BlockName(b.Base)).
		Body(&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &b.Version}}).
		Do(ctx).Error()
}

// Update writes one endpoint at once.
func (e *Endpoints) Update(ctx context.Context, key ipam.EndpointKey, want wantedEndpoint) error {
	return e.update(ctx, key, want)
}

// Distrust makes the next update read the endpoint.
func (e *Endpoints) Distrust(key ipam.EndpointKey) { e.stored.Forget(key.PodKey) }
