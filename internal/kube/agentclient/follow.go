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

// follower is told of the metadata of the objects that a selector selects. The
// calls come one at a time.
type follower interface {
	// replace gets all objects as of a version, at the beginning and whenever the
	// watch had to begin again. After an error it is called again.
	replace(ctx context.Context, all []*metav1.PartialObjectMetadata, version string) error
	changed(object *metav1.PartialObjectMetadata)
	deleted(object *metav1.PartialObjectMetadata)
}

// selection is what is followed.
type selection struct {
	resource schema.GroupVersionResource
	labels   string
	fields   string
}

// follow lists and watches the metadata of the selected objects until ctx ends.
func (c *Client) follow(ctx context.Context, s selection, to follower, log *slog.Logger) {
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
		&followerStore{ctx: ctx, to: to},
		cache.ReflectorOptions{Name: "spiderpool", TypeDescription: s.resource.Resource, Logger: &logger},
	)
	reflector.RunWithContext(klog.NewContext(ctx, logger))
}

// followerStore is what a reflector writes into.
type followerStore struct {
	ctx context.Context
	to  follower
}

func (s *followerStore) Add(object any) error { return s.Update(object) }
func (s *followerStore) Resync() error        { return nil }
func (s *followerStore) Update(object any) error {
	s.to.changed(object.(*metav1.PartialObjectMetadata))
	return nil
}
func (s *followerStore) Delete(object any) error {
	s.to.deleted(object.(*metav1.PartialObjectMetadata))
	return nil
}
func (s *followerStore) Replace(objects []any, version string) error {
	all := make([]*metav1.PartialObjectMetadata, 0, len(objects))
	for _, object := range objects {
		all = append(all, object.(*metav1.PartialObjectMetadata))
	}
	return s.to.replace(s.ctx, all, version)
}

// key identifies an object within its kind.
type key struct{ namespace, name string }

// memory is a follower that keeps what convert makes of each object.
type memory[T any] struct {
	convert func(*metav1.PartialObjectMetadata) T

	mu      sync.RWMutex
	objects map[key]T
	synced  bool
}

func newMemory[T any](convert func(*metav1.PartialObjectMetadata) T) *memory[T] {
	return &memory[T]{convert: convert, objects: map[key]T{}}
}

func (m *memory[T]) get(k key) (object T, ok, synced bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	object, ok = m.objects[k]
	return object, ok, m.synced
}

func (m *memory[T]) replace(_ context.Context, all []*metav1.PartialObjectMetadata, _ string) error {
	objects := make(map[key]T, len(all))
	for _, object := range all {
		objects[key{object.Namespace, object.Name}] = m.convert(object)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects, m.synced = objects, true
	return nil
}

func (m *memory[T]) changed(object *metav1.PartialObjectMetadata) {
	converted := m.convert(object)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[key{object.Namespace, object.Name}] = converted
}

func (m *memory[T]) deleted(object *metav1.PartialObjectMetadata) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key{object.Namespace, object.Name})
}
