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
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
)

// Pools reads SpiderIPPools one by one or in bounded number (ipam.Pools).
type Pools struct{ Client *Client }

// Get implements ipam.Pools. A pool that does not compile is not found.
func (p Pools) Get(ctx context.Context, name string) (*pool.Pool, error) {
	object, err := p.Client.pool(ctx, name)
	if err != nil {
		return nil, err
	}
	return compilePool(object)
}

// List implements ipam.Pools.
func (p Pools) List(ctx context.Context, limit int) ([]*pool.Pool, error) {
	var pools []*pool.Pool
	_, err := p.Client.eachPool(ctx, map[string]string{"limit": fmt.Sprint(limit)}, func(object *v2beta1.SpiderIPPool) {
		if compiled, err := compilePool(object); err == nil {
			pools = append(pools, compiled)
		}
	})
	return pools, err
}

// pool reads a SpiderIPPool, or returns ipam.ErrNotFound.
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

// compilePool returns ipam.ErrNotFound, wrapped with the violations, for an invalid
// pool: a pod cannot use it.
func compilePool(object *v2beta1.SpiderIPPool) (*pool.Pool, error) {
	compiled, errs := compile.Pool(object)
	if len(errs) > 0 {
		return nil, fmt.Errorf("SpiderIPPool %s cannot be used: %w: %w", object.Name, ipam.ErrNotFound, errs.ToAggregate())
	}
	return &compiled, nil
}

// PoolSink takes what Follow learns about pools and blocks.
type PoolSink interface {
	SetPool(p *pool.Pool)
	DeletePool(name string)
	SetReserved(reserved inet.Set)
	// The others are about blocks.
	Knows(base netip.Addr, version string) bool
	ObserveAll(existing map[netip.Addr]bool, version string)
	Observe(b lease.Block)
	ObserveDeleted(base netip.Addr, version string)
}

// PoolSync keeps a PoolSink, which is an ipam.Allocator, in line with the pools,
// the reserved addresses and the blocks that concern one node.
//
// What is watched is metadata alone. The status of a pool, which changes with
// every pod of the cluster and can be megabytes long, thus never comes here: a pool
// is read again when its generation, its labels or its deletion changed. A block is
// read again when somebody other than the sink has written it.
type PoolSync struct {
	client *Client
	node   string
	sink   PoolSink
	log    *slog.Logger

	queue workqueue.TypedRateLimitingInterface[task]

	// mu also keeps what the sink is told about a pool in order.
	mu      sync.Mutex
	pools   map[string]poolState
	waiting map[string]bool // selections that have not been read yet
}

type poolState struct {
	stamp     string
	selection string
}

// task is an object to read again.
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
		waiting: map[string]bool{names.LabelPoolUnbound: true, reservedResource.Resource: true},
	}
	if s.bindable() {
		s.waiting[names.LabelPoolNode] = true
	}
	return s
}

// bindable reports whether the node's name can be the value of a label; pools of
// a node of another name count as unbound (CompletePool).
func (s *PoolSync) bindable() bool { return len(validation.IsValidLabelValue(s.node)) == 0 }

// Ready returns an error until pools and reserved addresses have been read.
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

// Run follows until ctx ends.
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
			s.log.Warn("cannot read a changed object; will try again", "resource", t.resource, "name", t.name, "err", err)
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
	compiled, err := compilePool(object)
	if err != nil {
		s.log.Warn("ignoring an invalid pool", "pool", object.Name, "err", err)
		s.sink.DeletePool(object.Name)
		return
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
			s.log.Warn("a part of the reserved addresses cannot be used as it is written", "spiderreservedip", list.Items[i].Name, "err", errs.ToAggregate())
		}
		sets = append(sets, set)
	}
	s.sink.SetReserved(inet.Union(sets...))
	return nil
}

func (s *PoolSync) readBlock(ctx context.Context, name string) error {
	base, err := compile.ParseBlockName(name)
	if err != nil {
		s.log.Warn("ignoring a block", "err", err)
		return nil
	}
	b, err := NewBlockStore(s.client).Get(ctx, base)
	if errors.Is(err, ipam.ErrNotFound) {
		return nil // its deletion is told separately
	}
	if err != nil {
		return err
	}
	s.sink.Observe(b)
	return nil
}

// poolHandler follows the pools of one label.
type poolHandler struct {
	*PoolSync
	selection string
	labels    string
}

// stampOf changes when what this node needs of a pool does.
func stampOf(object *metav1.PartialObjectMetadata) string {
	return fmt.Sprintf("%s/%d/%t", object.UID, object.Generation, object.DeletionTimestamp != nil)
}

// poolPage bounds what the API server puts into one answer.
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
	known := p.pools[object.Name] == state
	p.pools[object.Name] = state
	p.mu.Unlock()
	if !known {
		p.queue.Add(task{poolResource.Resource, object.Name})
	}
}

// deleted is also called for a pool that no longer has the label. When it has got
// the other one, that selection has it already, or will say so.
func (p *poolHandler) deleted(object *metav1.PartialObjectMetadata) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pools[object.Name].selection == p.selection {
		delete(p.pools, object.Name)
		p.sink.DeletePool(object.Name)
	}
}

// reservedHandler reads all reserved addresses whenever one object changes; there
// are few.
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

// blockHandler reads the node's blocks that others have written.
type blockHandler struct{ *PoolSync }

func (b *blockHandler) replace(_ context.Context, all []*metav1.PartialObjectMetadata, version string) error {
	existing := make(map[netip.Addr]bool, len(all))
	for _, object := range all {
		if base, err := compile.ParseBlockName(object.Name); err == nil {
			existing[base] = true
		}
		b.changed(object)
	}
	b.sink.ObserveAll(existing, version)
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
