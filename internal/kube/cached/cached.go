// Package cached reads the objects of a controller-runtime cache in place.
//
// client.Reader copies each object of a list, even with UnsafeDisableDeepCopy: a Pod has 1.2 kB without its texts, so a
// list of 100,000 pods leaves 120 MB of garbage.
package cached

import (
	"context"
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Each calls f with each object that the reader has, in no order; list is an empty list of their kind. The objects belong to
// the cache; do not change them. A reader without informers, e.g. a fake client, lists the objects.
func Each[T client.Object](ctx context.Context, reader client.Reader, list client.ObjectList, f func(T)) error {
	if informers, ok := reader.(cache.Informers); ok {
		object := reflect.New(reflect.TypeFor[T]().Elem()).Interface().(T)
		informer, err := informers.GetInformer(ctx, object)
		if err != nil {
			return fmt.Errorf("read the cache of %T: %w", object, err)
		}
		if shared, ok := informer.(toolscache.SharedIndexInformer); ok {
			for _, o := range shared.GetStore().List() {
				f(o.(T))
			}
			return nil
		}
	}
	if err := reader.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	return meta.EachListItem(list, func(o runtime.Object) error {
		f(o.(T))
		return nil
	})
}
