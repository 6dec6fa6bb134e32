package admission

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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

func TestPodGetsRequestedAttachmentsAndDevices(t *testing.T) {
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

func TestExistingNetworksAndDevicesStay(t *testing.T) {
	configs := []v2beta1.SpiderMultusConfig{
		config("a", names.AnnotationPodNetworkResourceInject, "n", v2beta1.SpiderMultusConfigSpec{Sriov: &v2beta1.SriovConfig{ResourceName: "x.io/vf"}}),
	}
	for existing, want := range map[string]string{
		"":                "net/a",
		"mine@net7":       "mine@net7,net/a",
		"net/a":           "net/a",
		"net/a@gpu0,mine": "net/a@gpu0,mine",
		" net / a , mine": "net / a , mine",
		"a":               "a,net/a", // of the pod's namespace
		`[{"name":"a","namespace":"net","mac":"m"}]`: `[{"name":"a","namespace":"net","mac":"m"}]`,
		`[{"name":"a"}]`:               `[{"name":"a"},{"name":"a","namespace":"net"}]`,
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

func TestAttachmentsAreInjectedOnce(t *testing.T) {
	both := config("a", names.AnnotationPodNetworkResourceInject, "n", v2beta1.SpiderMultusConfigSpec{})
	both.Annotations[names.AnnotationPodRDMAResourceInject] = "n"
	for name, tc := range map[string]struct {
		annotations map[string]string
		namespace   string
		want        string
	}{
		"both requests":     {map[string]string{names.AnnotationPodRDMAResourceInject: "n"}, "", "net/a"},
		"namespace of pod":  {map[string]string{names.AnnotationMultusNetworks: "a@gpu0"}, "net", "a@gpu0"},
		"first interface":   {map[string]string{names.AnnotationMultusDefaultNetwork: "net/a"}, "", ""},
		"network of multus": {map[string]string{names.AnnotationMultusDefaultNetwork: "a"}, "net", "net/a"},
		"called once more":  {map[string]string{names.AnnotationMultusNetworks: "net/a"}, "", "net/a"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: tc.namespace, Annotations: tc.annotations}}
			pod.Annotations[names.AnnotationPodNetworkResourceInject] = "n"
			if err := inject(pod, []v2beta1.SpiderMultusConfig{both}); err != nil {
				t.Fatal(err)
			}
			if got := pod.Annotations[names.AnnotationMultusNetworks]; got != tc.want {
				t.Errorf("networks = %q, want %q", got, tc.want)
			}
		})
	}
}

func TestUnknownRequestIsRejected(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{names.AnnotationPodRDMAResourceInject: "gpu"}}}
	want := `metadata.annotations[cni.spidernet.io/rdma-resource-inject]: "gpu": no SpiderMultusConfig has this annotation with this value`
	if err := inject(pod, nil); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	unannotated := &corev1.Pod{}
	if err := inject(unannotated, nil); err != nil || unannotated.Annotations != nil {
		t.Errorf("pod without request: %v, %v", err, unannotated.Annotations)
	}
}

func TestDefaultReadsConfigsOnlyOnRequest(t *testing.T) {
	offered := config("a", names.AnnotationPodRDMAResourceInject, "gpu", v2beta1.SpiderMultusConfigSpec{})
	requesting := func() *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{names.AnnotationPodRDMAResourceInject: "gpu"}}}
	}
	unread := &podDevices{reader: unreadable(t, &v2beta1.SpiderMultusConfigList{})}
	if err := unread.Default(t.Context(), requesting()); !errors.Is(err, errRead) {
		t.Errorf("request: %v", err)
	}
	if err := unread.Default(t.Context(), &corev1.Pod{}); err != nil {
		t.Errorf("no request: %v", err)
	}
	pod := requesting()
	w := &podDevices{reader: cacheOf(t, &offered)}
	if err := w.Default(t.Context(), pod); err != nil || pod.Annotations[names.AnnotationMultusNetworks] != "net/a" {
		t.Errorf("networks %q, error %v", pod.Annotations[names.AnnotationMultusNetworks], err)
	}
	// The network of this pod has no device, so it gets no resources, and needs no container.
	if len(pod.Spec.Containers) != 0 {
		t.Errorf("containers: %v", pod.Spec.Containers)
	}
}

func TestInvalidNetworkListIsRejected(t *testing.T) {
	configs := []v2beta1.SpiderMultusConfig{config("a", names.AnnotationPodRDMAResourceInject, "gpu", v2beta1.SpiderMultusConfigSpec{})}
	for _, key := range []string{names.AnnotationMultusNetworks, names.AnnotationMultusDefaultNetwork} {
		t.Run(key, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{names.AnnotationPodRDMAResourceInject: "gpu", key: "[{"}}}
			if err := inject(pod, configs); err == nil || !strings.Contains(err.Error(), "is not a JSON list of objects") {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func TestDevicesOfEveryType(t *testing.T) {
	rdma := v2beta1.MasterConfig{RDMAResourceName: new("x.io/rdma")}
	for _, tc := range []struct {
		name string
		spec v2beta1.SpiderMultusConfigSpec
		want corev1.ResourceName
	}{
		{"none", v2beta1.SpiderMultusConfigSpec{}, ""},
		{"sriov", v2beta1.SpiderMultusConfigSpec{Sriov: &v2beta1.SriovConfig{ResourceName: "x.io/vf"}}, "x.io/vf"},
		{"ib-sriov", v2beta1.SpiderMultusConfigSpec{IBSriov: &v2beta1.IBSriovConfig{ResourceName: "x.io/ib"}}, "x.io/ib"},
		{"macvlan", v2beta1.SpiderMultusConfigSpec{Macvlan: &rdma}, "x.io/rdma"},
		{"ipvlan", v2beta1.SpiderMultusConfigSpec{IPvlan: &rdma}, "x.io/rdma"},
		{"vlan", v2beta1.SpiderMultusConfigSpec{Vlan: &v2beta1.VlanConfig{MasterConfig: rdma}}, "x.io/rdma"},
		{"macvlan without RDMA", v2beta1.SpiderMultusConfigSpec{Macvlan: &v2beta1.MasterConfig{}}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{}}}}
			addDevices(pod, []*v2beta1.SpiderMultusConfig{{Spec: tc.spec}})
			want := corev1.ResourceRequirements{}
			if tc.want != "" {
				one := corev1.ResourceList{tc.want: resource.MustParse("1")}
				want = corev1.ResourceRequirements{Requests: one, Limits: one}
			}
			if diff := cmp.Diff(want, pod.Spec.Containers[0].Resources); diff != "" {
				t.Errorf("resources (-want +got):\n%s", diff)
			}
		})
	}
}
