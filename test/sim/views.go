package sim

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
)

// Watched follows a View with a watch, so that we know when it has caught up without
// polling the API server.
type Watched struct {
	View
	mu      sync.Mutex
	values  map[string]int64 // by object
	sum     int64
	changed chan struct{} // closed and replaced at each change
}

// Watch follows a view until the end of ctx. It returns once existing objects are counted.
func (c *ControlPlane) Watch(ctx context.Context, v View) (*Watched, error) {
	resource, _ := schema.ParseResourceArg(v.Resource)
	if resource == nil {
		return nil, fmt.Errorf("view %q: want plural.version.group", v.Resource)
	}
	objects, err := dynamic.NewForConfig(c.Config())
	if err != nil {
		return nil, err
	}
	w := &Watched{View: v, values: map[string]int64{}, changed: make(chan struct{})}
	informer := dynamicinformer.NewFilteredDynamicInformer(objects, *resource, metav1.NamespaceAll, 0, nil, nil).Informer()
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { w.set(o, true) },
		UpdateFunc: func(_, o any) { w.set(o, true) },
		DeleteFunc: func(o any) { w.set(o, false) },
	})
	if err != nil {
		return nil, err
	}
	go informer.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
		return nil, fmt.Errorf("view %s: %w", v.Resource, context.Cause(ctx))
	}
	return w, nil
}

func (w *Watched) set(object any, exists bool) {
	if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = last.Obj
	}
	o, ok := object.(*unstructured.Unstructured)
	if !ok {
		return
	}
	var n int64
	if exists {
		n = 1
		if w.Field != "" {
			n, _, _ = unstructured.NestedInt64(o.Object, strings.Split(w.Field, ".")...)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	key := o.GetNamespace() + "/" + o.GetName()
	if n == w.values[key] {
		return
	}
	w.sum += n - w.values[key]
	w.values[key] = n
	close(w.changed)
	w.changed = make(chan struct{})
}

// Reach waits until the view counts n, and returns that time.
func (w *Watched) Reach(ctx context.Context, n int) (time.Time, error) {
	for {
		w.mu.Lock()
		sum, changed := w.sum, w.changed
		w.mu.Unlock()
		if sum == int64(n) {
			return time.Now(), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("%s %s counts %d, not %d: %w", w.Resource, w.Field, sum, n, context.Cause(ctx))
		}
	}
}
