// Package blockindex finds leases in a cache of controller-runtime by pool, holder
// and node.
//
// Agents do not link it: controller-runtime and the types of all of Kubernetes would
// cost each of them about 25 MiB. They read blocks with package agentclient.
package blockindex

import (
	"context"
	"errors"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
)

// Names of the indexes of SpiderIPBlocks in a cache.
const (
	indexBlockPool   = "pool"
	indexBlockHolder = "holder"
	indexBlockNode   = "node"
)

// IndexBlocksByPool adds the index for LeasesOfPool to a cache. Call it before the cache starts.
func IndexBlocksByPool(ctx context.Context, indexer client.FieldIndexer) error {
	err := indexer.IndexField(ctx, &v2beta1.SpiderIPBlock{}, indexBlockPool, func(o client.Object) []string {
		return PoolsOfBlock(o.(*v2beta1.SpiderIPBlock))
	})
	if err != nil {
		return fmt.Errorf("index SpiderIPBlocks by pool: %w", err)
	}
	return nil
}

// IndexBlocksByHolder adds the indexes for BlocksOfHolder and BlocksOfNode to a
// cache. Call it before the cache starts.
func IndexBlocksByHolder(ctx context.Context, indexer client.FieldIndexer) error {
	byHolder := indexer.IndexField(ctx, &v2beta1.SpiderIPBlock{}, indexBlockHolder, func(o client.Object) []string {
		var holders []string
		for _, holder := range HoldersOfBlock(o.(*v2beta1.SpiderIPBlock)) {
			holders = append(holders, holder.String())
		}
		return holders
	})
	byNode := indexer.IndexField(ctx, &v2beta1.SpiderIPBlock{}, indexBlockNode, func(o client.Object) []string {
		var nodes []string
		spec := &o.(*v2beta1.SpiderIPBlock).Spec
		for _, l := range spec.Leases {
			if l.Node != "" {
				nodes = append(nodes, l.Node)
			}
		}
		for _, f := range spec.Former {
			if f.Node != "" {
				nodes = append(nodes, f.Node)
			}
		}
		return nodes
	})
	if err := errors.Join(byHolder, byNode); err != nil {
		return fmt.Errorf("index SpiderIPBlocks by holder: %w", err)
	}
	return nil
}

// HoldersOfBlock returns the SpiderEndpoints that show a lease of
// the block: those of pods, and those of virtual machines with fixed addresses.
func HoldersOfBlock(block *v2beta1.SpiderIPBlock) []lease.PodKey {
	var holders []lease.PodKey
	for i := range block.Spec.Leases {
		l := &block.Spec.Leases[i]
		if !held(l) {
			continue
		}
		holders = append(holders, lease.ParsePodKey(l.Pod))
		if owner := lease.ParseOwner(l.FixedFor); owner.Kind == lease.KindVirtualMachine {
			holders = append(holders, owner.Key())
		}
	}
	return holders
}

// BlocksOfHolder returns the blocks with a lease for a SpiderEndpoint. The objects
// belong to the cache; do not change them.
func BlocksOfHolder(ctx context.Context, reader client.Reader, holder lease.PodKey) ([]v2beta1.SpiderIPBlock, error) {
	return blocksBy(ctx, reader, indexBlockHolder, holder.String())
}

// BlocksOfNode returns the blocks with a lease or a former sandbox of the node. The objects belong to
// the cache; do not change them.
func BlocksOfNode(ctx context.Context, reader client.Reader, node string) ([]v2beta1.SpiderIPBlock, error) {
	return blocksBy(ctx, reader, indexBlockNode, node)
}

func blocksBy(ctx context.Context, reader client.Reader, index, value string) ([]v2beta1.SpiderIPBlock, error) {
	var blocks v2beta1.SpiderIPBlockList
	if err := reader.List(ctx, &blocks, client.MatchingFields{index: value}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list the SpiderIPBlocks of %s %s: %w", index, value, err)
	}
	return blocks.Items, nil
}

// PoolsOfBlock returns the pools of the block's leases in use or retained.
// A pool may appear twice.
func PoolsOfBlock(block *v2beta1.SpiderIPBlock) []string {
	var pools []string
	for i := range block.Spec.Leases {
		if l := &block.Spec.Leases[i]; held(l) && (len(pools) == 0 || pools[len(pools)-1] != l.Pool) {
			pools = append(pools, l.Pool)
		}
	}
	return pools
}

// LeasesOfPool returns the pool's leases in use or retained, in no order. It skips leases that cannot be read, and returns the others of the same
// block. The reader is a cache with the index of IndexBlocksByPool.
func LeasesOfPool(ctx context.Context, reader client.Reader, pool string) ([]lease.Lease, error) {
	var blocks v2beta1.SpiderIPBlockList
	if err := reader.List(ctx, &blocks, client.MatchingFields{indexBlockPool: pool}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	var leases []lease.Lease
	for i := range blocks.Items {
		block := &blocks.Items[i]
		for k := range block.Spec.Leases {
			if l := &block.Spec.Leases[k]; l.Pool != pool || !held(l) {
				continue
			}
			if l, err := compile.LeaseOf(&block.Spec.Leases[k]); err == nil {
				leases = append(leases, l)
			}
		}
	}
	return leases, nil
}

func held(l *v2beta1.Lease) bool {
	return l.Pool != "" && (l.State == v2beta1.LeaseInUse || l.State == v2beta1.LeaseRetained)
}
