// Package flowends finds the pods, workloads and Services of a node's flows, without knowing the pods of the cluster.
//
// The pod of this node is known when the event arrives (Local). The other end is looked for only if a client reads the flow
// (Complete): in the leases of this node, then in the SpiderIPBlock with the address. A lease that began after the flow is
// that of a later pod, so the address stays an address. The same holds for addresses outside of our pools.
//
// Traffic must not make an agent ask the API server without limit: answers are remembered, and new questions have a rate. A
// question beyond the rate, or during an outage, has no answer yet.
package flowends

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/readcache"
	"spiderpool.dev/spiderpool/internal/service"
)

const (
	// remembered is how long an answer serves, and ownTTL how long the leases and pods of this node do.
	remembered = 15 * time.Second
	ownTTL     = time.Second
	// maxRemembered bounds the answers of each kind.
	maxRemembered = 1024
	// questions and burst limit the questions to the API server in a second.
	questions, burst = 20, 100
	// patience limits one question, and outage is the time without questions after a failed one.
	patience = 2 * time.Second
	outage   = 5 * time.Second
	// skew is how far the clocks of two nodes may differ: a lease has the time of its node.
	skew = 2 * time.Second
)

// Cluster answers questions about objects. The methods with a context read from the API server.
type Cluster interface {
	// SeenPod returns a pod of this node.
	SeenPod(name lease.PodKey) (ipam.Pod, bool)
	// PodFacts reads any pod; ipam.ErrNotFound.
	PodFacts(ctx context.Context, name lease.PodKey) (ipam.Pod, error)
	TopController(ctx context.Context, pod ipam.Pod) (ipam.Controller, error)
}

// Blocks reads SpiderIPBlocks; alloc.ErrNotFound.
type Blocks interface {
	Get(ctx context.Context, base netip.Addr) (lease.Block, error)
}

// Directory knows the ends of flows. Its methods are safe for concurrent use.
type Directory struct {
	node    string
	held    func() []lease.Lease
	cluster Cluster
	stored  Blocks
	owner   func(service.FrontendKey) (service.Name, bool)
	now     func() time.Time
	log     *slog.Logger

	limit  *rate.Limiter
	blocks readcache.Cache[netip.Addr, lease.Block]
	pods   readcache.Cache[podKey, ipam.Pod]
	tops   readcache.Cache[podKey, ipam.Controller]

	mu struct {
		sync.Mutex
		local map[string]local // by the UID of a pod
		own   map[netip.Addr]lease.Lease
		read  time.Time // of own
		quiet time.Time // no question before this time
	}
}

// podKey identifies a pod: another pod may have its name later.
type podKey struct {
	lease.PodKey
	uid string
}

type local struct {
	end  *flow.End
	read time.Time
}

// Options are the parts that a Directory needs.
type Options struct {
	Node string
	// Held returns the leases of this node's pods.
	Held    func() []lease.Lease
	Cluster Cluster
	Blocks  Blocks
	// Services returns the Service with a frontend that the programs translate.
	Services func(service.FrontendKey) (service.Name, bool)
	Now      func() time.Time
	Log      *slog.Logger
}

// New returns a directory. It asks nothing before the first flow.
func New(o Options) *Directory {
	d := &Directory{
		node: o.Node, held: o.Held, cluster: o.Cluster, stored: o.Blocks, owner: o.Services, now: o.Now, log: o.Log, limit: rate.NewLimiter(questions, burst),
		blocks: readcache.Cache[netip.Addr, lease.Block]{TTL: remembered, Max: maxRemembered, Now: o.Now},
		pods:   readcache.Cache[podKey, ipam.Pod]{TTL: remembered, Max: maxRemembered, Now: o.Now},
		tops:   readcache.Cache[podKey, ipam.Controller]{Max: maxRemembered, Now: o.Now},
	}
	d.mu.local = map[string]local{}
	return d
}

// Local returns the end of an event in its own pod, with the labels of this moment. It does not wait for the API server.
func (d *Directory) Local(e *flow.Event) *flow.End {
	now := d.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if l, ok := d.mu.local[e.UID]; ok && now.Sub(l.read) < ownTTL && l.end.Pod == e.Pod {
		return l.end
	}
	end := &flow.End{Pod: e.Pod, UID: e.UID, Node: d.node}
	if pod, ok := d.cluster.SeenPod(e.Pod); ok && pod.UID == e.UID {
		end = d.endOf(pod, d.node)
	}
	if before := d.mu.local[e.UID].end; before != nil && before.Pod == end.Pod && before.Workload == end.Workload && maps.Equal(before.Labels, end.Labels) {
		end = before // flows share it
	}
	if len(d.mu.local) >= maxRemembered {
		clear(d.mu.local)
	}
	d.mu.local[e.UID] = local{end, now}
	return end
}

// endOf returns the end in a pod, with the controller of its owner reference.
func (d *Directory) endOf(pod ipam.Pod, node string) *flow.End {
	return &flow.End{Pod: pod.PodKey, UID: pod.UID, Labels: pod.Labels, Workload: flow.Workload(pod.Owner), Node: node}
}

// Complete sets the other end of a flow, the workloads of both, and the Service, as far as they are known. It asks the API
// server until ctx ends, and then uses the remembered answers.
func (d *Directory) Complete(ctx context.Context, f *flow.Flow) {
	if *f.Remote() == nil {
		*f.Remote() = d.endAt(ctx, f.RemoteAddr(), f.Time)
	}
	f.Opener, f.Target = d.withWorkload(ctx, f.Opener), d.withWorkload(ctx, f.Target)
	if at := f.Service; at.IsValid() {
		f.Frontend, _ = d.owner(service.FrontendKey{Addr: at.Addr(), Port: at.Port(), Protocol: f.Protocol})
	}
}

// endAt returns the end that had an address at a time; nil if it is not known.
func (d *Directory) endAt(ctx context.Context, addr netip.Addr, at time.Time) *flow.End {
	if held, ok := d.own(addr); ok && covers(held, at) {
		if pod, ok := d.cluster.SeenPod(held.Pod); ok && pod.UID == held.PodUID {
			return d.endOf(pod, d.node)
		}
		return holder(held)
	}
	base := inet.BlockOf(addr)
	block := ask(ctx, d, &d.blocks, base, func(ctx context.Context) (lease.Block, error) {
		b, err := d.stored.Get(ctx, base)
		if errors.Is(err, alloc.ErrNotFound) {
			return lease.Block{}, nil
		}
		return b, err
	})
	for _, l := range block.Leases {
		if l.Addr != addr || !covers(l, at) {
			continue
		}
		end := holder(l)
		pod := ask(ctx, d, &d.pods, podKey{l.Pod, l.PodUID}, func(ctx context.Context) (ipam.Pod, error) {
			pod, err := d.cluster.PodFacts(ctx, l.Pod)
			if errors.Is(err, ipam.ErrNotFound) {
				return ipam.Pod{}, nil
			}
			return pod, err
		})
		if pod.UID == l.PodUID {
			end = d.endOf(pod, l.Node)
		}
		return end
	}
	return nil
}

// covers reports whether a lease is that of the pod with the address at a time.
func covers(l lease.Lease, at time.Time) bool {
	return l.State == lease.InUse && l.Pod.Name != "" && !l.Since.After(at.Add(skew))
}

// holder returns the end of which only the lease is known.
func holder(l lease.Lease) *flow.End { return &flow.End{Pod: l.Pod, UID: l.PodUID, Node: l.Node} }

// own returns the lease of an address of this node.
func (d *Directory) own(addr netip.Addr) (lease.Lease, bool) {
	now := d.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.own == nil || now.Sub(d.mu.read) >= ownTTL {
		d.mu.own, d.mu.read = map[netip.Addr]lease.Lease{}, now
		for _, l := range d.held() {
			d.mu.own[l.Addr] = l
		}
	}
	l, ok := d.mu.own[addr]
	return l, ok
}

// withWorkload returns the end with the top controller of its pod, e.g. the Deployment of its ReplicaSet.
func (d *Directory) withWorkload(ctx context.Context, e *flow.End) *flow.End {
	if !e.IsPod() || e.Workload.Name == "" {
		return e
	}
	pod := ipam.Pod{PodKey: e.Pod, UID: e.UID, Owner: ipam.Controller(e.Workload)}
	top := ask(ctx, d, &d.tops, podKey{e.Pod, e.UID}, func(ctx context.Context) (ipam.Controller, error) {
		return d.cluster.TopController(ctx, pod)
	})
	if top.Name == "" || flow.Workload(top) == e.Workload {
		return e
	}
	changed := *e
	changed.Workload = flow.Workload(top)
	return &changed
}

// errSilent means that the API server is not asked now.
var errSilent = errors.New("too many questions, or an outage of the API server")

// ask returns the remembered answer to a question, or asks. Without an answer, it returns the last one, or the zero value.
func ask[K comparable, V any](ctx context.Context, d *Directory, cache *readcache.Cache[K, V], key K, read func(context.Context) (V, error)) V {
	answer, err := cache.Get(ctx, key, func(ctx context.Context) (V, error) {
		var none V
		if ctx.Err() != nil || !d.mayAsk() {
			return none, errSilent
		}
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		return read(ctx)
	})
	if err != nil && ctx.Err() == nil && !errors.Is(err, errSilent) {
		d.rest(fmt.Errorf("%v: %w", key, err))
	}
	return answer
}

func (d *Directory) mayAsk() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.now().Before(d.mu.quiet) && d.limit.AllowN(d.now(), 1)
}

// rest asks nothing for a while: during an outage, each question would take its whole time.
func (d *Directory) rest(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.quiet = d.now().Add(outage)
	d.log.Debug("cannot find the ends of flows", "err", err)
}
