//go:build apiserver

package agentclient_test

import (
	"errors"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

type owned struct {
	*agentclient.Client
	client    client.Client
	namespace string
}

func (o owned) CreateStatefulSet(t *testing.T, name string, start, replicas int) (uid string) {
	labels := map[string]string{"app": name}
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: o.namespace, Name: name},
		Spec: appsv1.StatefulSetSpec{
			Replicas: new(int32(replicas)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "registry.example/app:1"}}}},
		},
	}
	if start > 0 {
		set.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: int32(start)}
	}
	kubetest.Create(t, o.client, set)
	return string(set.UID)
}

func (o owned) CreateInstance(t *testing.T, name string, activePods ...string) (uid string) {
	instance := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance"}}
	instance.SetNamespace(o.namespace)
	instance.SetName(name)
	for _, pod := range activePods {
		if err := unstructured.SetNestedField(instance.Object, "n1", "status", "activePods", pod); err != nil {
			t.Fatal(err)
		}
	}
	kubetest.Create(t, o.client, instance)
	return string(instance.GetUID())
}

func TestOwnersKeepTheContract(t *testing.T) {
	kubeClient, err := agentclient.NewClient(kubetest.Config(t))
	if err != nil {
		t.Fatal(err)
	}
	c := kubetest.Client(t)
	if _, err := kubeClient.VirtualMachineInstance(t.Context(), "default", "vm"); !errors.Is(err, ipam.ErrNotFound) {
		t.Fatalf("without KubeVirt: got %v, want not found", err)
	}
	if _, err := envtest.InstallCRDs(kubetest.Config(t), envtest.CRDInstallOptions{
		Paths: []string{"../../controller/leasereclaim/testdata/kubevirt.yaml"}, ErrorIfPathMissing: true,
	}); err != nil {
		t.Fatal(err)
	}
	namespace := kubetest.Namespace(t, c)
	ipamtest.OwnersContract(t, owned{kubeClient, c, namespace}, namespace)
}
