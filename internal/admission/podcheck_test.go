package admission

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/names"
)

func annotated(annotations map[string]string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Annotations: annotations}}
}

func TestInvalidBandwidthIsRefused(t *testing.T) {
	checks := &podChecks{}
	for name, test := range map[string]struct {
		annotations map[string]string
		want        string // in the error; "" for none
	}{
		"none":    {nil, ""},
		"valid":   {map[string]string{names.AnnotationPodIngressBandwidth: "10M"}, ""},
		"unit":    {map[string]string{names.AnnotationPodIngressBandwidth: "10 MB"}, `annotation kubernetes.io/ingress-bandwidth: "10 MB": is not a number of bits per second`},
		"minus":   {map[string]string{names.AnnotationPodEgressBandwidth: "-1M"}, `annotation kubernetes.io/egress-bandwidth: "-1M": is negative; example: 10M`},
		"foreign": {map[string]string{names.AnnotationPodBandwidth: `[{"interface":"net7","egress":"1M"}]`}, `is for interface net7, and the pod has only eth0`},
		"networks": {map[string]string{names.AnnotationPodBandwidth: `[{"interface":"net1","egress":"1M"}]`,
			names.AnnotationMultusNetworks: "net-a"}, ""},
	} {
		_, err := checks.ValidateCreate(t.Context(), annotated(test.annotations))
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

func TestInvalidPodStaysUpdatable(t *testing.T) {
	checks := &podChecks{}
	invalid := map[string]string{names.AnnotationPodIngressBandwidth: "10 MB"}
	for name, test := range map[string]struct {
		before, after map[string]string
		refused       bool
	}{
		"unchanged": {invalid, invalid, false},
		"removed":   {invalid, nil, false},
		"corrected": {invalid, map[string]string{names.AnnotationPodIngressBandwidth: "10M"}, false},
		"added":     {nil, invalid, true},
		"changed":   {map[string]string{names.AnnotationPodIngressBandwidth: "10M"}, invalid, true},
	} {
		if _, err := checks.ValidateUpdate(t.Context(), annotated(test.before), annotated(test.after)); (err != nil) != test.refused {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
