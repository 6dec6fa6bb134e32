// Package blockindex asks a cache of controller-runtime about leases, by pool, holder
// and node, and about subnets.
//
// It is apart from package kube because an agent links that one, and does without
// controller-runtime and the types of the whole of Kubernetes that come with it.
package blockindex

import (
	"context"
	"errors"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/reclaim"
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

// Indexes of SpiderIPBlocks in a cache.
const (
	indexBlockHolder = "holder"
	indexBlockNode   = "node"
)

// IndexBlocksByHolder adds the indexes that BlocksOfHolder and BlocksOfNode need
// to a cache, before it starts.
func IndexBlocksByHolder(ctx context.Context, indexer client.FieldIndexer) error {
	byHolder := indexer.IndexField(ctx, &v2beta1.SpiderIPBlock{}, indexBlockHolder, func(o client.Object) []string {
		return HoldersOfBlock(o.(*v2beta1.SpiderIPBlock))
	})
	byNode := indexer.IndexField(ctx, &v2beta1.SpiderIPBlock{}, indexBlockNode, func(o client.Object) []string {
		var nodes []string
		for _, l := range o.(*v2beta1.SpiderIPBlock).Spec.Leases {
			if l.Node != "" {
				nodes = append(nodes, l.Node)
			}
		}
		return nodes
	})
	if err := errors.Join(byHolder, byNode); err != nil {
		return fmt.Errorf("index SpiderIPBlocks by holder: %w", err)
	}
	return nil
}

// HoldersOfBlock returns the "namespace/name" of the endpoints that show a lease
// of the block: of its pods, and of the virtual machines that addresses are fixed
// for.
func HoldersOfBlock(block *v2beta1.SpiderIPBlock) []string {
	var holders []string
	for i := range block.Spec.Leases {
		l := &block.Spec.Leases[i]
		if !held(l) {
			continue
		}
		holders = append(holders, l.Pod)
		if _, namespace, name, ok := reclaim.ParseOwner(l.FixedFor); ok && namespace+"/"+name != l.Pod {
			holders = append(holders, namespace+"/"+name)
		}
	}
	return holders
}

// BlocksOfHolder returns the blocks with a lease that the endpoint of that
// "namespace/name" shows. The objects are the cache's and must not be changed.
func BlocksOfHolder(ctx context.Context, reader client.Reader, holder string) ([]v2beta1.SpiderIPBlock, error) {
	return blocksBy(ctx, reader, indexBlockHolder, holder)
}

// BlocksOfNode returns the blocks with a lease of the node. The objects are the
// cache's and must not be changed.
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
// pool, or has it kept (states InUse and Retained), in no order. Of a block that
// somebody damaged, what can be read counts. The reader is a cache with the index
// of IndexBlocksByPool.
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
