package compile

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestRequestsCountLikeSchedulers(t *testing.T) {
	const a, b = "addresses.ipam.spidernet.io/ns.a", "addresses.ipam.spidernet.io/ns.b"
	requesting := func(requests map[string]string) corev1.Container {
		list := corev1.ResourceList{}
		for name, text := range requests {
			list[corev1.ResourceName(name)] = resource.MustParse(text)
		}
		return corev1.Container{Resources: corev1.ResourceRequirements{Requests: list}}
	}
	sidecar := requesting(map[string]string{a: "2"})
	sidecar.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
	for name, test := range map[string]struct {
		init, containers []corev1.Container
		want             map[string]int64
	}{
		"nothing":    {nil, []corev1.Container{requesting(map[string]string{"cpu": "1"})}, map[string]int64{}},
		"one":        {nil, []corev1.Container{requesting(map[string]string{"cpu": "1", a: "1"}), {}}, map[string]int64{a: 1}},
		"sum":        {nil, []corev1.Container{requesting(map[string]string{a: "1", b: "1"}), requesting(map[string]string{a: "3"})}, map[string]int64{a: 4, b: 1}},
		"small init": {[]corev1.Container{requesting(map[string]string{a: "1"})}, []corev1.Container{requesting(map[string]string{a: "3"})}, map[string]int64{a: 3}},
		"large init": {[]corev1.Container{requesting(map[string]string{a: "5"})}, []corev1.Container{requesting(map[string]string{a: "3"})}, map[string]int64{a: 5}},
		"sidecar":    {[]corev1.Container{sidecar}, []corev1.Container{requesting(map[string]string{a: "1"})}, map[string]int64{a: 3}},
	} {
		got := map[string]int64{}
		for name, quantity := range AddressRequests(&corev1.PodSpec{InitContainers: test.init, Containers: test.containers}) {
			got[string(name)] = quantity.Value()
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
