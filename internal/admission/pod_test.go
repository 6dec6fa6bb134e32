package admission

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
)

func config(name, key, value string, spec v2beta1.SpiderMultusConfigSpec) v2beta1.SpiderMultusConfig {
	return v2beta1.SpiderMultusConfig{
		ObjectMeta: metav1.ObjectMeta{Namespace: "net", Name: name, Annotations: map[string]string{key: value}}, Spec: spec,
	}
}

func TestPodGetsTheAttachmentsThatItAsksForAndTheirDevices(t *testing.T) {
	sriov := func(resource string) v2beta1.SpiderMultusConfigSpec {
		return v2beta1.SpiderMultusConfigSpec{Sriov: &v2beta1.SriovConfig{ResourceName: resource}}
	}
	configs := []v2beta1.SpiderMultusConfig{
		config("b", names.AnnotationPodRDMAResourceInject, "gpu", sriov("x.io/vf")),
		config("a", names.AnnotationPodRDMAResourceInject, "gpu", sriov("x.io/vf")),
		config("c", names.AnnotationPodRDMAResourceInject, "gpu", v2beta1.SpiderMultusConfigSpec{Macvlan: &v2beta1.MasterConfig{RDMAResourceName: new("x.io/rdma")}}),
		config("d", names.AnnotationPodRDMAResourceInject, "other", sriov("x.io/other")),
		config("e", names.AnnotationPodNetworkResourceInject, "gpu", sriov("x.io/other")),
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{names.AnnotationPodRDMAResourceInject: "gpu"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "first"}, {Name: "second"}}},
	}
	if err := inject(pod, configs); err != nil {
		t.Fatal(err)
	}
	if got, want := pod.Annotations[names.AnnotationMultusNetworks], "net/a,net/b,net/c"; got != want {
		t.Errorf("networks = %s, want %s", got, want)
	}
	for _, list := range []corev1.ResourceList{pod.Spec.Containers[0].Resources.Limits, pod.Spec.Containers[0].Resources.Requests} {
		vf, rdma := list["x.io/vf"], list["x.io/rdma"]
		if vf.Value() != 2 || rdma.Value() != 1 || len(list) != 2 {
			t.Errorf("resources = %v, want 2 x.io/vf and 1 x.io/rdma", list)
		}
	}
	if len(pod.Spec.Containers[1].Resources.Limits) != 0 {
		t.Errorf("the second container got %v", pod.Spec.Containers[1].Resources.Limits)
	}
}

func TestWhatThePodAlreadySaysStays(t *testing.T) {
	configs := []v2beta1.SpiderMultusConfig{
		config("a", names.AnnotationPodNetworkResourceInject, "n", v2beta1.SpiderMultusConfigSpec{Sriov: &v2beta1.SriovConfig{ResourceName: "x.io/vf"}}),
	}
	for existing, want := range map[string]string{
		"":                             "net/a",
		"mine@net7":                    "mine@net7,net/a",
		` [{"name":"mine","mac":"m"}]`: `[{"mac":"m","name":"mine"},{"name":"a","namespace":"net"}]`,
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{
			names.AnnotationPodNetworkResourceInject: "n", names.AnnotationMultusNetworks: existing,
		}}}
		limits := corev1.ResourceList{"x.io/vf": resource.MustParse("4")}
		pod.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Limits: limits}}}
		if err := inject(pod, configs); err != nil {
			t.Fatal(err)
		}
		if got := pod.Annotations[names.AnnotationMultusNetworks]; got != want {
			t.Errorf("%q became %s, want %s", existing, got, want)
		}
		if vf := pod.Spec.Containers[0].Resources.Limits["x.io/vf"]; vf.Value() != 4 {
			t.Errorf("the limit became %s", vf.String())
		}
	}
}

func TestPodThatAsksForWhatNobodyOffersIsRefused(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{names.AnnotationPodRDMAResourceInject: "gpu"}}}
	want := `metadata.annotations[cni.spidernet.io/rdma-resource-inject]: "gpu": no SpiderMultusConfig has this annotation with this value`
	if err := inject(pod, nil); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	unannotated := &corev1.Pod{}
	if err := inject(unannotated, nil); err != nil || unannotated.Annotations != nil {
		t.Errorf("a pod that asks for nothing: %v, %v", err, unannotated.Annotations)
	}
}
