package agentclient

import (
	"context"
	"log/slog"
	"sync"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// eventHandler receives the metadata of the objects that match a selection. Calls are
// serialized.
type eventHandler interface {
	// replace receives all objects as of a resource version: at the start, and whenever
	// the watch restarts. It is called again after an error.
	replace(ctx context.Context, all []*metav1.PartialObjectMetadata, version string) error
	changed(object *metav1.PartialObjectMetadata)
	deleted(object *metav1.PartialObjectMetadata)
}

// selection selects the objects of a watch. Empty selectors match every object.
type selection struct {
	resource schema.GroupVersionResource
	labels   string
	fields   string
}

// watch lists and watches the metadata of the selected objects until ctx ends.
func (c *Client) watch(ctx context.Context, s selection, to eventHandler, log *slog.Logger) {
	getter := c.metadata.Resource(s.resource)
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.LabelSelector, options.FieldSelector = s.labels, s.fields
			return getter.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.LabelSelector, options.FieldSelector = s.labels, s.fields
			return getter.Watch(ctx, options)
		},
	}
	logger := logr.FromSlogHandler(log.Handler())
	reflector := cache.NewReflectorWithOptions(
		cache.ToListWatcherWithWatchListSemantics(lw, c.metadata), &metav1.PartialObjectMetadata{},
		&handlerStore{ctx: ctx, to: to},
		cache.ReflectorOptions{Name: "spiderpool", TypeDescription: s.resource.Resource, Logger: &logger},
	)
	reflector.RunWithContext(klog.NewContext(ctx, logger))
}

// handlerStore forwards the calls of a reflector to an eventHandler.
type handlerStore struct {
	ctx context.Context
	to  eventHandler
}

func (s *handlerStore) Add(object any) error { return s.Update(object) }
func (s *handlerStore) Resync() error        { return nil }
func (s *handlerStore) Update(object any) error {
	s.to.changed(object.(*metav1.PartialObjectMetadata))
	return nil
}
func (s *handlerStore) Delete(object any) error {
	s.to.deleted(object.(*metav1.PartialObjectMetadata))
	return nil
}
func (s *handlerStore) Replace(objects []any, version string) error {
	all := make([]*metav1.PartialObjectMetadata, 0, len(objects))
	for _, object := range objects {
		all = append(all, object.(*metav1.PartialObjectMetadata))
	}
	return s.to.replace(s.ctx, all, version)
}

// key identifies an object within its kind.
type key struct{ namespace, name string }

// store is an eventHandler that keeps a converted form of each object.
type store[T any] struct {
	convert func(*metav1.PartialObjectMetadata) T

	mu      sync.RWMutex
	objects map[key]T
	synced  bool
}

func newStore[T any](convert func(*metav1.PartialObjectMetadata) T) *store[T] {
	return &store[T]{convert: convert, objects: map[key]T{}}
}

func (s *store[T]) get(k key) (object T, ok, synced bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	object, ok = s.objects[k]
	return object, ok, s.synced
}

func (s *store[T]) replace(_ context.Context, all []*metav1.PartialObjectMetadata, _ string) error {
	objects := make(map[key]T, len(all))
	for _, object := range all {
		objects[key{object.Namespace, object.Name}] = s.convert(object)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects, s.synced = objects, true
	return nil
}

func (s *store[T]) changed(object *metav1.PartialObjectMetadata) {
	converted := s.convert(object)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[key{object.Namespace, object.Name}] = converted
}

func (s *store[T]) deleted(object *metav1.PartialObjectMetadata) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, key{object.Namespace, object.Name})
}
