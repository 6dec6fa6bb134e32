package agentclient

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

// mirror is a cache.ReflectorStore that passes the objects of a kind on as values. It keeps their names only.
type mirror[T any] struct {
	convert func(object any) *T // nil for an object without effect
	set     func(*T, origin)
	remove  func(key, origin)
	// synced is called after each list.
	synced func()
	names  map[key]bool
}

// mirrored is an object after its conversion.
type mirrored[T any] struct {
	name  key
	value *T
}

// Transformer implements cache.TransformingStore: the reflector never holds a list of whole objects.
func (m *mirror[T]) Transformer() cache.TransformFunc {
	return func(object any) (any, error) { return m.of(object), nil }
}

func (m *mirror[T]) of(object any) mirrored[T] {
	if done, ok := object.(mirrored[T]); ok {
		return done
	}
	return mirrored[T]{keyOf(object), m.convert(object)}
}

func keyOf(object any) key {
	o := object.(metav1.Object)
	return key{o.GetNamespace(), o.GetName()}
}

// Add implements cache.ReflectorStore.
func (m *mirror[T]) Add(object any) error { return m.Update(object) }

// Resync implements cache.ReflectorStore.
func (*mirror[T]) Resync() error { return nil }

// Update implements cache.ReflectorStore.
func (m *mirror[T]) Update(object any) error {
	from := originOf(object)
	m.put(from, m.of(object))
	return nil
}

// Delete implements cache.ReflectorStore.
func (m *mirror[T]) Delete(object any) error {
	m.drop(originOf(object), keyOf(object))
	return nil
}

// Replace implements cache.ReflectorStore.
func (m *mirror[T]) Replace(objects []any, _ string) error {
	listed := make(map[key]bool, len(objects))
	for _, object := range objects {
		is := m.of(object)
		listed[is.name] = true
		m.put(origin{}, is)
	}
	for name := range m.names {
		if !listed[name] {
			m.drop(origin{}, name)
		}
	}
	m.synced()
	return nil
}

func (m *mirror[T]) put(from origin, is mirrored[T]) {
	if is.value == nil {
		m.drop(from, is.name)
		return
	}
	if m.names == nil {
		m.names = map[key]bool{}
	}
	m.names[is.name] = true
	m.set(is.value, from)
}

func (m *mirror[T]) drop(from origin, name key) {
	if m.names[name] {
		delete(m.names, name)
		m.remove(name, from)
	}
}
