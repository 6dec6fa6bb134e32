package agentclient

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/observe"
	"spiderpool.dev/spiderpool/internal/service"
)

// ServiceSink receives the map entries of one node. Calls are serialized. After an error, the next call is Replace.
type ServiceSink interface {
	// Replace receives all entries as changes from empty maps: once all objects have been read, and again after an
	// error of either method.
	Replace(all service.Diff) error
	// Change receives the changes since the last call.
	Change(changes service.Diff) error
	// Applied receives the age of an event after its entries. It is not called for the objects of a list.
	Applied(EventAge)
}

// EventAge says how long ago something happened.
type EventAge struct {
	// Received is the time since the API server's event arrived.
	Received time.Duration
	// Caused is the time since the change of a pod or a Service that made the control plane write the EndpointSlice, by
	// that computer's clock; 0 if unknown.
	Caused time.Duration
}

// ServiceSync keeps a ServiceSink in sync with the Services and EndpointSlices of the cluster and with one node.
//
// Every agent watches all Services and EndpointSlices, as kube-proxy does, because every pod may connect to each of
// them. It keeps only the fields that decide about translation, and converts each object as soon as it is decoded.
type ServiceSync struct {
	// ExternalIPs is whether external IPs are frontends; set it before Run.
	ExternalIPs bool

	client *Client
	node   string
	sink   ServiceSink
	log    *slog.Logger
	faults *serviceFaults
	dirty  chan struct{} // has a value if the sink needs a Replace

	mu      sync.Mutex // also serializes the calls of the sink
	table   *service.Table
	waiting map[string]bool // kinds whose first list is not complete
	current bool            // the sink has all entries of the table
	behind  origin          // of the oldest change that the sink lacks
}

// origin has the times of an event; the zero value is that of an object in a list.
type origin struct{ received, caused time.Time }

// originOf returns the origin of an event that has just arrived.
func originOf(object any) origin {
	o := origin{received: time.Now()}
	if meta, ok := object.(metav1.Object); ok {
		// The control plane removes the annotation from a slice that it changes for another reason.
		o.caused, _ = time.Parse(time.RFC3339Nano, meta.GetAnnotations()[corev1.EndpointsLastChangeTriggerTime])
	}
	return o
}

// NewServiceSync returns a ServiceSync for a node; Run does the work. known are the IDs in the maps of an earlier
// process (service.NewTable). tell may be nil.
func NewServiceSync(client *Client, node string, known map[service.FrontendKey]service.ID, sink ServiceSink, tell TellFault, log *slog.Logger) *ServiceSync {
	return &ServiceSync{
		client: client, node: node, sink: sink, log: log, faults: newServiceFaults(log, tell),
		dirty:   make(chan struct{}, 1),
		table:   service.NewTable(service.Node{Name: node}, known),
		waiting: map[string]bool{servicesKind: true, slicesKind: true, nodesKind: true},
	}
}

// retryDelay is the first pause before another attempt to replace the content of the sink.
const retryDelay = 100 * time.Millisecond

const (
	servicesKind = "services"
	slicesKind   = "endpointslices"
	nodesKind    = "nodes"
)

// Run watches until ctx ends.
func (s *ServiceSync) Run(ctx context.Context) {
	ours := metav1.ListOptions{LabelSelector: compile.OurServices}
	self := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, s.node).String()}
	var wg sync.WaitGroup
	wg.Go(func() { watchObjects(ctx, s.log, s.client.core, servicesKind, ours, &corev1.Service{}, s.services()) })
	wg.Go(func() {
		watchObjects(ctx, s.log, s.client.discovery, slicesKind, ours, &discoveryv1.EndpointSlice{}, s.endpointSlices())
	})
	wg.Go(func() { watchObjects(ctx, s.log, s.client.core, nodesKind, self, &corev1.Node{}, s.nodes()) })
	wg.Go(func() { s.faults.run(ctx) })
	s.replaceWhenDirty(ctx)
	wg.Wait()
}

// Owner returns the service that a frontend belongs to: by a ClusterIP of either family, a node port, a load balancer or an
// external IP.
func (s *ServiceSync) Owner(key service.FrontendKey) (service.Name, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table.Owner(key)
}

func (s *ServiceSync) services() cache.ReflectorStore {
	return tableMirror(s, servicesKind, s.compileService, s.table.SetService, func(name service.Name) service.Diff {
		s.faults.forget("Service", name)
		return s.table.DeleteService(name)
	})
}

func (s *ServiceSync) endpointSlices() cache.ReflectorStore {
	return tableMirror(s, slicesKind, s.compileSlice, s.table.SetSlice, func(name service.Name) service.Diff {
		s.faults.forget("EndpointSlice", name)
		return s.table.DeleteSlice(name)
	})
}

// nodes returns the store of the node. A node without an object has no addresses and no zone.
func (s *ServiceSync) nodes() cache.ReflectorStore {
	return tableMirror(s, nodesKind, compileNode,
		func(value *service.Node) service.Diff { return s.table.SetNode(*value) },
		func(service.Name) service.Diff { return s.table.SetNode(service.Node{Name: s.node}) })
}

// tableMirror returns a store that changes the table.
func tableMirror[T any](s *ServiceSync, kind string, compile func(object any) *T, set func(*T) service.Diff, remove func(service.Name) service.Diff) *mirror[T] {
	return &mirror[T]{
		convert: compile,
		set:     func(value *T, from origin) { s.change(from, func() service.Diff { return set(value) }) },
		remove: func(name key, from origin) {
			s.change(from, func() service.Diff { return remove(service.Name{Namespace: name.namespace, Name: name.name}) })
		},
		synced: func() { s.synced(kind) },
	}
}

// replaceWhenDirty replaces the content of the sink at first and after errors, until ctx ends.
func (s *ServiceSync) replaceWhenDirty(ctx context.Context) {
	pauses := wait.Backoff{Duration: retryDelay, Factor: 2, Cap: 30 * time.Second, Steps: math.MaxInt}
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.dirty:
		}
		_ = pauses.DelayFunc().Until(ctx, true, false, func(context.Context) (bool, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			err := s.sink.Replace(s.table.All())
			if err != nil {
				s.log.Warn("cannot write the entries of all services; will retry", "err", err)
			}
			s.current = err == nil
			if s.current {
				s.applied(s.behind)
				s.behind = origin{}
			}
			return s.current, nil
		})
	}
}

// change calls f, which changes the table, and passes its result to the sink.
func (s *ServiceSync) change(from origin, f func() service.Diff) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changes := f()
	if changes.Empty() {
		return
	}
	if s.current {
		err := s.sink.Change(changes)
		if err == nil {
			s.applied(from)
			return
		}
		s.log.Warn("cannot write the entries of a service; will write all", "err", err)
		s.current = false
		s.markDirty()
	}
	if s.behind.received.IsZero() {
		s.behind = from
	}
}

// applied tells the sink the age of an event.
func (s *ServiceSync) applied(from origin) {
	if from.received.IsZero() {
		return
	}
	age := EventAge{Received: time.Since(from.received)}
	if !from.caused.IsZero() {
		age.Caused = max(time.Since(from.caused), 0)
	}
	s.sink.Applied(age)
}

func (s *ServiceSync) markDirty() {
	select {
	case s.dirty <- struct{}{}:
	default: // replaceWhenDirty has not begun with the last value
	}
}

// synced records that the first list of a kind is complete.
func (s *ServiceSync) synced(kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[kind] {
		delete(s.waiting, kind)
		if len(s.waiting) == 0 {
			s.markDirty()
		}
	}
}

func (s *ServiceSync) compileService(object any) *service.Service {
	o := object.(*corev1.Service)
	compiled, _, errs := compile.Service(o)
	s.faults.observe(referenceTo("v1", "Service", o), observe.InvalidService, errs)
	if compiled != nil && !s.ExternalIPs {
		compiled.ExternalIPs = nil
	}
	return compiled
}

func (s *ServiceSync) compileSlice(object any) *service.Slice {
	o := object.(*discoveryv1.EndpointSlice)
	compiled, errs := compile.EndpointSlice(o)
	s.faults.observe(referenceTo("discovery.k8s.io/v1", "EndpointSlice", o), observe.InvalidEndpoints, errs)
	if compiled != nil {
		for i := range compiled.Endpoints {
			compiled.Endpoints[i].Pod = "" // for users only
		}
	}
	return compiled
}

func compileNode(object any) *service.Node {
	node := compile.ServiceNode(object.(*corev1.Node))
	return &node
}

// watchObjects lists and watches the selected objects of a kind until ctx ends.
func watchObjects(ctx context.Context, log *slog.Logger, client rest.Interface, kind string, selected metav1.ListOptions, example runtime.Object, store cache.ReflectorStore) {
	reflect(ctx, log, listWatch(client, kind, selected), kind, example, store)
}

func listWatch(client rest.Interface, kind string, selected metav1.ListOptions) *cache.ListWatch {
	request := func(options metav1.ListOptions) *rest.Request {
		options.LabelSelector, options.FieldSelector = selected.LabelSelector, selected.FieldSelector
		return client.Get().Resource(kind).VersionedParams(&options, foreignParameters)
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return request(options).Do(ctx).Get()
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.Watch = true
			return request(options).Watch(ctx)
		},
	}
}

func reflect(ctx context.Context, log *slog.Logger, lw *cache.ListWatch, kind string, example runtime.Object, store cache.ReflectorStore) {
	logger := logr.FromSlogHandler(log.Handler())
	reflector := cache.NewReflectorWithOptions(lw, example, store,
		cache.ReflectorOptions{Name: "spiderpool", TypeDescription: kind, Logger: &logger})
	reflector.RunWithContext(klog.NewContext(ctx, logger))
}
