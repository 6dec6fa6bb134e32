package kube

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/lease"
)

// indexBlockPool finds the SpiderIPBlocks with a lease of a pool in a cache.
const indexBlockPool = "pool"

// IndexBlocksByPool adds the index that LeasesOfPool needs to a cache, before it starts.
func IndexBlocksByPool(ctx context.Context, indexer client.FieldIndexer) error {
	err := indexer.IndexField(ctx, &v2beta1.SpiderIPBlock{}, indexBlockPool, func(o client.Object) []string {
		return PoolsOfBlock(o.(*v2beta1.SpiderIPBlock))
	})
	if err != nil {
		return fmt.Errorf("index SpiderIPBlocks by pool: %w", err)
	}
	return nil
}

// PoolsOfBlock returns the pools that addresses of the block are held of.
func PoolsOfBlock(block *v2beta1.SpiderIPBlock) []string {
	var pools []string
	for i := range block.Spec.Leases {
		if l := &block.Spec.Leases[i]; held(l) && (len(pools) == 0 || pools[len(pools)-1] != l.Pool) {
			pools = append(pools, l.Pool)
		}
	}
	return pools
}

// LeasesOfPool returns the leases by which somebody holds an address of the
// pool, or has it kept (states InUse and Retained), in no order. The reader is a
// cache with the index of IndexBlocksByPool.
func LeasesOfPool(ctx context.Context, reader client.Reader, pool string) ([]lease.Lease, error) {
	var blocks v2beta1.SpiderIPBlockList
	if err := reader.List(ctx, &blocks, client.MatchingFields{indexBlockPool: pool}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	var leases []lease.Lease
	for i := range blocks.Items {
		block, err := BlockOf(&blocks.Items[i])
		if err != nil {
			return nil, err
		}
		for _, l := range block.Leases {
			if l.Pool == pool && (l.State == lease.InUse || l.State == lease.Retained) {
				leases = append(leases, l)
			}
		}
	}
	return leases, nil
}

func held(l *v2beta1.Lease) bool {
	return l.Pool != "" && (l.State == v2beta1.LeaseInUse || l.State == v2beta1.LeaseRetained)
}
