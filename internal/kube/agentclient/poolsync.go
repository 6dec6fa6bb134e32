package agentclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/util/workqueue"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/pool"
)

// Pools implements ipam.Pools: it reads single SpiderIPPools, or a limited list, live.
type Pools struct{ Client *Client }

// Get implements ipam.Pools.
func (p Pools) Get(ctx context.Context, name string) (*pool.Pool, error) {
	object, err := p.Client.pool(ctx, name)
	if err != nil {
		return nil, err
	}
	return compile.StoredPool(object), nil
}

// List implements ipam.Pools.
func (p Pools) List(ctx context.Context, limit int) ([]*pool.Pool, error) {
	var pools []*pool.Pool
	_, err := p.Client.eachPool(ctx, map[string]string{"limit": fmt.Sprint(limit)}, func(object *v2beta1.SpiderIPPool) {
		pools = append(pools, compile.StoredPool(object))
	})
	return pools, err
}

// pool reads a SpiderIPPool. If there is none, it returns ipam.ErrNotFound.
func (c *Client) pool(ctx context.Context, name string) (*v2beta1.SpiderIPPool, error) {
	object := &v2beta1.SpiderIPPool{}
	err := c.spiderpool.Get().Resource(poolResource.Resource).Name(name).Do(ctx).Into(object)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("SpiderIPPool %s: %w", name, ipam.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read SpiderIPPool %s: %w", name, err)
	}
	return object, nil
}

// PoolSink receives pools, reserved addresses and blocks from PoolSync.
type PoolSink interface {
	SetPool(p *pool.Pool)
	DeletePool(name string)
	SetReserved(reserved inet.Set)

	// Knows reports whether the block need not be read: the sink has this version, or
	// is writing the block and reads it again afterwards.
	Knows(base netip.Addr, version string) bool
	// Outdated receives the versions of all blocks of the node and that of the list, and
	// returns the blocks to read.
	Outdated(listed map[netip.Addr]string, version string) []netip.Addr
	// Read reads a block.
	Read(ctx context.Context, base netip.Addr) error
	ObserveDeleted(base netip.Addr, version string)
}

// PoolSync keeps a PoolSink (an alloc.Allocator) in sync with the pools, the reserved
// addresses and the blocks of one node.
//
// It watches metadata only. The status of a pool changes with every pod of the cluster
// and can be megabytes long, so we do not want it in a watch. A pool is read again when
// its generation, its zone or its deletion timestamp changes, and after every change while it has
// allocations of another release. A block is read again when another writer than the
// sink has changed it.
type PoolSync struct {
	client *Client
	node   string
	sink   PoolSink
	log    *slog.Logger

	queue workqueue.TypedRateLimitingInterface[task]

	// mu also serializes the calls of the sink about pools.
	mu      sync.Mutex
	pools   map[string]poolState
	foreign map[string]bool // pools with allocations of another release
	waiting map[string]bool // selections whose first list is not complete
}

type poolState struct {
	stamp     string
	selection string
}

// task names an object to read again. All SpiderReservedIPs are one task without a name.
type task struct {
	resource string
	name     string
}

// NewPoolSync returns a PoolSync for the node; Run does the work.
func NewPoolSync(client *Client, node string, sink PoolSink, log *slog.Logger) *PoolSync {
	s := &PoolSync{
		client: client, node: node, sink: sink, log: log,
		queue:   workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[task]()),
		pools:   map[string]poolState{},
		foreign: map[string]bool{},
		waiting: map[string]bool{names.LabelPoolUnbound: true, reservedResource.Resource: true},
	}
	if s.bindable() {
		s.waiting[names.LabelPoolNode] = true
	}
	return s
}

// bindable reports whether the node's name is a valid label value. Otherwise the pools
// of the node have the label of unbound pools (compile.CompletePool).
func (s *PoolSync) bindable() bool { return len(validation.IsValidLabelValue(s.node)) == 0 }

// Ready returns ipam.ErrNotReady until all pools and reserved addresses have been read.
func (s *PoolSync) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) > 0 {
		return fmt.Errorf("%w: SpiderIPPools and SpiderReservedIPs have not been read yet", ipam.ErrNotReady)
	}
	return nil
}

func (s *PoolSync) markSynced(selection string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, selection)
}

// Run watches until ctx ends.
func (s *PoolSync) Run(ctx context.Context) {
	bound := selection{resource: poolResource, labels: names.LabelPoolNode + "=" + s.node}
	unbound := selection{resource: poolResource, labels: names.LabelPoolUnbound + "=true"}
	var wg sync.WaitGroup
	if s.bindable() {
		wg.Go(func() { s.client.watch(ctx, bound, &poolHandler{s, names.LabelPoolNode, bound.labels}, s.log) })
	}
	wg.Go(func() {
		s.client.watch(ctx, unbound, &poolHandler{s, names.LabelPoolUnbound, unbound.labels}, s.log)
	})
	wg.Go(func() { s.client.watch(ctx, selection{resource: reservedResource}, &reservedHandler{s}, s.log) })
	wg.Go(func() {
		s.client.watch(ctx, selection{resource: blockResource, labels: compile.BlockNodeLabel(s.node)}, &blockHandler{s}, s.log)
	})
	wg.Go(func() { s.work(ctx) })
	<-ctx.Done()
	s.queue.ShutDown()
	wg.Wait()
}

func (s *PoolSync) work(ctx context.Context) {
	for {
		t, stop := s.queue.Get()
		if stop {
			return
		}
		if err := s.perform(ctx, t); err != nil {
			s.log.Warn("cannot read a changed object; will retry", "resource", t.resource, "name", t.name, "err", err)
			s.queue.AddRateLimited(t)
		} else {
			s.queue.Forget(t)
		}
		s.queue.Done(t)
	}
}

func (s *PoolSync) perform(ctx context.Context, t task) error {
	switch t.resource {
	case poolResource.Resource:
		return s.readPool(ctx, t.name)
	case reservedResource.Resource:
		return s.readReserved(ctx)
	default:
		return s.readBlock(ctx, t.name)
	}
}

func (s *PoolSync) readPool(ctx context.Context, name string) error {
	object, err := s.client.pool(ctx, name)
	if errors.Is(err, ipam.ErrNotFound) {
		s.sink.DeletePool(name)
		return nil
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, followed := s.pools[name]; followed {
		s.setPool(object)
	}
	return nil
}

func (s *PoolSync) setPool(object *v2beta1.SpiderIPPool) {
	compiled := compile.StoredPool(object)
	delete(s.foreign, object.Name)
	if compiled.Foreign != "" {
		s.foreign[object.Name] = true
		s.log.Warn("the pool hands out no address, because pods of another Spiderpool release have some", "pool", object.Name, "allocated", compiled.Foreign)
	}
	if compiled.Invalid != "" {
		s.log.Warn("an invalid pool hands out no address", "pool", object.Name, "err", compiled.Invalid)
	}
	s.sink.SetPool(compiled)
}

func (s *PoolSync) readReserved(ctx context.Context) error {
	var list v2beta1.SpiderReservedIPList
	if err := s.client.spiderpool.Get().Resource(reservedResource.Resource).Do(ctx).Into(&list); err != nil {
		return err
	}
	var sets []inet.Set
	for i := range list.Items {
		set, errs := compile.ReservedIP(&list.Items[i])
		if len(errs) > 0 {
			s.log.Warn("ignoring the invalid entries of a SpiderReservedIP", "spiderreservedip", list.Items[i].Name, "err", errs.ToAggregate())
		}
		sets = append(sets, set)
	}
	s.sink.SetReserved(inet.Union(sets...))
	return nil
}

func (s *PoolSync) readBlock(ctx context.Context, name string) error {
	base, err := compile.ParseBlockName(name)
	if err != nil {
		s.log.Warn("ignoring a SpiderIPBlock with an invalid name", "err", err)
		return nil
	}
	return s.sink.Read(ctx, base)
}

// poolHandler handles the pools with one label.
type poolHandler struct {
	*PoolSync
	selection string
	labels    string
}

// stampOf returns a text that changes whenever this node has to read the pool again.
func stampOf(object *metav1.PartialObjectMetadata) string {
	return fmt.Sprintf("%s/%d/%t/%s", object.UID, object.Generation, object.DeletionTimestamp != nil, object.Labels[names.LabelCloudZone])
}

// poolPage is the maximum number of pools in one response.
const poolPage = 500

func (p *poolHandler) replace(ctx context.Context, all []*metav1.PartialObjectMetadata, _ string) error {
	fresh := make(map[string]string, len(all))
	for _, object := range all {
		fresh[object.Name] = stampOf(object)
	}
	for next := ""; ; {
		params := map[string]string{"labelSelector": p.labels, "limit": fmt.Sprint(poolPage), "continue": next}
		var err error
		next, err = p.client.eachPool(ctx, params, func(object *v2beta1.SpiderIPPool) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.pools[object.Name] = poolState{stamp: fresh[object.Name], selection: p.selection}
			p.setPool(object)
		})
		if err != nil {
			return fmt.Errorf("with %s: %w", p.labels, err)
		}
		if next == "" {
			break
		}
	}
	p.mu.Lock()
	for name, state := range p.pools {
		if _, ok := fresh[name]; !ok && state.selection == p.selection {
			delete(p.pools, name)
			p.sink.DeletePool(name)
		}
	}
	p.mu.Unlock()
	p.markSynced(p.selection)
	return nil
}

func (p *poolHandler) changed(object *metav1.PartialObjectMetadata) {
	state := poolState{stamp: stampOf(object), selection: p.selection}
	p.mu.Lock()
	known := p.pools[object.Name] == state && !p.foreign[object.Name]
	p.pools[object.Name] = state
	p.mu.Unlock()
	if !known {
		p.queue.Add(task{poolResource.Resource, object.Name})
	}
}

// deleted is also called for a pool that lost the label. If the pool has the other label
// now, the handler of that selection sets it, before or after this call.
func (p *poolHandler) deleted(object *metav1.PartialObjectMetadata) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pools[object.Name].selection == p.selection {
		delete(p.pools, object.Name)
		p.sink.DeletePool(object.Name)
	}
}

// reservedHandler reads all SpiderReservedIPs whenever one of them changes; there are few.
type reservedHandler struct{ *PoolSync }

func (r *reservedHandler) replace(ctx context.Context, _ []*metav1.PartialObjectMetadata, _ string) error {
	if err := r.readReserved(ctx); err != nil {
		return err
	}
	r.markSynced(reservedResource.Resource)
	return nil
}

func (r *reservedHandler) changed(*metav1.PartialObjectMetadata) {
	r.queue.Add(task{resource: reservedResource.Resource})
}

func (r *reservedHandler) deleted(o *metav1.PartialObjectMetadata) { r.changed(o) }

// blockHandler reads the blocks of the node after a change by another writer.
type blockHandler struct{ *PoolSync }

func (b *blockHandler) replace(_ context.Context, all []*metav1.PartialObjectMetadata, version string) error {
	listed := make(map[netip.Addr]string, len(all))
	for _, object := range all {
		if base, err := compile.ParseBlockName(object.Name); err == nil {
			listed[base] = object.ResourceVersion
		}
	}
	for _, base := range b.sink.Outdated(listed, version) {
		b.queue.Add(task{blockResource.Resource, compile.BlockName(base)})
	}
	return nil
}

func (b *blockHandler) changed(object *metav1.PartialObjectMetadata) {
	base, err := compile.ParseBlockName(object.Name)
	if err != nil || b.sink.Knows(base, object.ResourceVersion) {
		return
	}
	b.queue.Add(task{blockResource.Resource, object.Name})
}

func (b *blockHandler) deleted(object *metav1.PartialObjectMetadata) {
	if base, err := compile.ParseBlockName(object.Name); err == nil {
		b.sink.ObserveDeleted(base, object.ResourceVersion)
	}
}
