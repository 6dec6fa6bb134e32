package agentclient

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/lease"
)

// A pod's status changes often, its annotations rarely. The agent follows only these.
func TestChangedPodAnnotationsAreReported(t *testing.T) {
	c := NewCluster(nil, "node", nil)
	reports := 0
	c.OnPodAnnotation(func() { reports++ })
	pod := func(annotations map[string]string, version string) *metav1.PartialObjectMetadata {
		return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "web", UID: "uid", ResourceVersion: version, Annotations: annotations}}
	}
	for _, step := range []struct {
		name        string
		annotations map[string]string
		want        int
	}{
		{"a pod without annotations", nil, 0},
		{"another status", nil, 0},
		{"a bandwidth", map[string]string{names.AnnotationPodEgressBandwidth: "10M"}, 1},
		{"another status", map[string]string{names.AnnotationPodEgressBandwidth: "10M"}, 1},
		{"another bandwidth", map[string]string{names.AnnotationPodEgressBandwidth: "20M"}, 2},
		{"an annotation of others", map[string]string{names.AnnotationPodEgressBandwidth: "20M", "example.org/a": "b"}, 2},
		{"no annotation", nil, 3},
	} {
		c.pods.changed(pod(step.annotations, "1"))
		if reports != step.want {
			t.Errorf("%s: %d reports, want %d", step.name, reports, step.want)
		}
	}
	if err := c.pods.replace(t.Context(), []*metav1.PartialObjectMetadata{pod(map[string]string{names.AnnotationPodIngressBandwidth: "1M"}, "2")}, "2"); err != nil || reports != 4 {
		t.Errorf("a new list: %d reports, %v", reports, err)
	}
	if pods := c.Pods(); len(pods) != 1 || pods[0].Annotations[names.AnnotationPodIngressBandwidth] != "1M" {
		t.Errorf("pods: %+v", pods)
	}
}

// Policies select by labels. A pod of the same name with another UID is another pod.
func TestChangedPodLabelsAreReported(t *testing.T) {
	c := NewCluster(nil, "node", nil)
	var reports []string
	c.OnPodLabels(func(pod lease.PodKey) { reports = append(reports, pod.String()) })
	pod := func(name, uid string, labels map[string]string) *metav1.PartialObjectMetadata {
		return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(uid), Labels: labels}}
	}
	web := map[string]string{"app": "web"}
	for _, step := range []struct {
		name string
		do   func() error
		want []string
	}{
		{"the first list", func() error {
			return c.pods.replace(t.Context(), []*metav1.PartialObjectMetadata{pod("a", "1", nil), pod("b", "1", web)}, "1")
		}, []string{"default/a", "default/b"}},
		{"the same list", func() error {
			return c.pods.replace(t.Context(), []*metav1.PartialObjectMetadata{pod("a", "1", nil), pod("b", "1", web)}, "2")
		}, nil},
		{"another status", func() error { c.pods.changed(pod("a", "1", nil)); return nil }, nil},
		{"a label", func() error { c.pods.changed(pod("a", "1", web)); return nil }, []string{"default/a"}},
		{"a successor", func() error { c.pods.changed(pod("a", "2", web)); return nil }, []string{"default/a"}},
		{"a new pod", func() error { c.pods.changed(pod("c", "1", nil)); return nil }, []string{"default/c"}},
		{"a list with another label", func() error {
			return c.pods.replace(t.Context(), []*metav1.PartialObjectMetadata{pod("a", "2", web), pod("b", "1", nil)}, "3")
		}, []string{"default/b"}},
	} {
		reports = nil
		if err := step.do(); err != nil || !slices.Equal(reports, step.want) {
			t.Errorf("%s: %v (%v), want %v", step.name, reports, err, step.want)
		}
	}
	if seen, ok := c.SeenPod(lease.PodKey{Namespace: "default", Name: "a"}); !ok || seen.UID != "2" {
		t.Errorf("seen: %+v, %v", seen, ok)
	}
	if _, ok := c.SeenPod(lease.PodKey{Namespace: "default", Name: "c"}); ok {
		t.Error("a deleted pod is seen")
	}
}
