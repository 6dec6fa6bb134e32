package cached_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache/informertest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"spiderpool.dev/spiderpool/internal/kube/cached"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
}

func names(t *testing.T, reader client.Reader) (all []string) {
	t.Helper()
	err := cached.Each(t.Context(), reader, &corev1.PodList{}, func(pod *corev1.Pod) { all = append(all, pod.Name) })
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

func TestReaderWithoutInformersLists(t *testing.T) {
	reader := fake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(pod("a"), pod("b")).Build()
	if got := names(t, reader); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %v", got)
	}
}

// A cache whose informer failed, e.g. because the role lacks the right to list pods.
type failing struct{ cache.Cache }

func (failing) GetInformer(context.Context, client.Object, ...cache.InformerGetOption) (cache.Informer, error) {
	return nil, errors.New("forbidden")
}

func TestInformerErrorIsReturned(t *testing.T) {
	err := cached.Each(t.Context(), failing{&informertest.FakeInformers{}}, &corev1.PodList{}, func(*corev1.Pod) {})
	if err == nil || err.Error() != "read the cache of *v1.Pod: forbidden" {
		t.Errorf("got %v", err)
	}
}
