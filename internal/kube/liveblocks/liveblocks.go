// Package liveblocks reads SpiderIPBlocks from the API server, never from a cache, and writes
// them with optimistic concurrency, with the client of controller-runtime.
//
// Agents have package agentclient for the same, without controller-runtime.
package liveblocks

import (
	"context"
	"fmt"
	"net/netip"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
)

// page is the maximum number of blocks in one response.
const page = 500

// Store implements withhold.Blocks.
type Store struct {
	writer client.Writer
	live   client.Reader
}

// New returns a store. live reads from the API server.
func New(writer client.Writer, live client.Reader) *Store { return &Store{writer: writer, live: live} }

// Get implements withhold.Blocks.
func (s *Store) Get(ctx context.Context, base netip.Addr) (lease.Block, error) {
	object := &v2beta1.SpiderIPBlock{}
	err := s.live.Get(ctx, client.ObjectKey{Name: compile.BlockName(base)}, object)
	if apierrors.IsNotFound(err) {
		return lease.Block{}, fmt.Errorf("SpiderIPBlock %s: %w", compile.BlockName(base), alloc.ErrNotFound)
	}
	if err != nil {
		return lease.Block{}, err
	}
	b, _ := compile.StoredBlock(object)
	return b, nil
}

// Put implements withhold.Blocks.
func (s *Store) Put(ctx context.Context, b lease.Block) (version string, err error) {
	object := compile.BlockObject(b)
	if b.Version == "" {
		err = s.writer.Create(ctx, object)
	} else {
		err = s.writer.Update(ctx, object)
	}
	switch {
	case err == nil:
		return object.ResourceVersion, nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err):
		return "", fmt.Errorf("SpiderIPBlock %s: %w: %w", object.Name, alloc.ErrConflict, err)
	case apierrors.IsInvalid(err), apierrors.IsForbidden(err):
		return "", fmt.Errorf("SpiderIPBlock %s: %w: %w", object.Name, alloc.ErrRefused, err)
	}
	return "", err
}

// Withheld implements withhold.Blocks.
func (s *Store) Withheld(ctx context.Context) ([]lease.Block, error) {
	var blocks []lease.Block
	next := ""
	for {
		var list v2beta1.SpiderIPBlockList
		err := s.live.List(ctx, &list, client.HasLabels{names.LabelBlockWithheld}, client.Limit(page), client.Continue(next))
		if err != nil {
			return nil, fmt.Errorf("list SpiderIPBlocks with the label %s: %w", names.LabelBlockWithheld, err)
		}
		for i := range list.Items {
			if b, ok := compile.StoredBlock(&list.Items[i]); ok {
				blocks = append(blocks, b)
			}
		}
		if next = list.Continue; next == "" {
			return blocks, nil
		}
	}
}
