//go:build apiserver

package agentclient_test

import (
	"errors"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/lease"
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
	kubeClient, err := agentclient.NewClient(kubetest.Role(t, "spiderpool-agent", "kube-system", ""))
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

// A pod names a ReplicaSet of its namespace with the UID of another one.
func TestForgedReferenceKeepsTopController(t *testing.T) {
	c, cluster := kubetest.Client(t), clusterOf(t, "n1")
	namespace, other := kubetest.Namespace(t, c), kubetest.Namespace(t, c)
	replicaSet := func(namespace, deployment string) *appsv1.ReplicaSet {
		labels := map[string]string{"app": "web"}
		set := &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web", OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "apps/v1", Kind: "Deployment", Name: deployment, UID: "d", Controller: new(true),
			}}},
			Spec: appsv1.ReplicaSetSpec{Replicas: new(int32(0)), Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
					Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "registry.example/app:1"}}}}},
		}
		kubetest.Create(t, c, set)
		return set
	}
	victim := replicaSet(namespace, "mine")
	replicaSet(other, "theirs")
	for _, tc := range []struct{ namespace, want string }{{other, "web"}, {namespace, "mine"}} {
		top, err := cluster.TopController(t.Context(), ipam.Pod{
			PodKey: lease.PodKey{Namespace: tc.namespace, Name: "p"},
			Owner:  ipam.Controller{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: string(victim.UID)},
		})
		if err != nil || top.Name != tc.want {
			t.Errorf("pod in %s: got %+v, %v; want %s", tc.namespace, top, err, tc.want)
		}
	}
}

func TestCronJobIsTopController(t *testing.T) {
	c, cluster := kubetest.Client(t), clusterOf(t, "n1")
	namespace := kubetest.Namespace(t, c)
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "backup-1", OwnerReferences: []metav1.OwnerReference{{
			APIVersion: "batch/v1", Kind: "CronJob", Name: "backup", UID: "c", Controller: new(true),
		}}},
		Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "main", Image: "registry.example/app:1"}},
		}}},
	}
	kubetest.Create(t, c, job)
	top, err := cluster.TopController(t.Context(), ipam.Pod{
		PodKey: lease.PodKey{Namespace: namespace, Name: "backup-1-x"},
		Owner:  ipam.Controller{APIVersion: "batch/v1", Kind: "Job", Name: job.Name, UID: string(job.UID)},
	})
	if err != nil || top.Kind != "CronJob" || top.Name != "backup" {
		t.Errorf("got %+v, %v", top, err)
	}
}

func TestLongReferenceIsNoController(t *testing.T) {
	for length, want := range map[int]int{317: 317, 318: 0} {
		object := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{{
			APIVersion: "apps/v1", Kind: "StatefulSet", Name: strings.Repeat("n", length), UID: "u", Controller: new(true),
		}}}}
		if got := agentclient.ControllerOf(object); len(got.Name) != want {
			t.Errorf("a name of %d letters gives one of %d, want %d", length, len(got.Name), want)
		}
	}
}
