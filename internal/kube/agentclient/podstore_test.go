package agentclient

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/names"
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
