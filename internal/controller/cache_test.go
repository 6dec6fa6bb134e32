package controller

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The reconciler of SpiderCloudNetworks selects nodes by label, and finds their instances by provider ID.
func TestCachedNodesKeepCloudFields(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"pods": "aws"}, Annotations: map[string]string{"large": "text"}}}
	node.Spec.ProviderID, node.Status.Images = "aws:///eu-central-1a/i-1", []corev1.ContainerImage{{SizeBytes: 1}}
	want := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"pods": "aws"}}, Spec: corev1.NodeSpec{ProviderID: "aws:///eu-central-1a/i-1"}}
	got, err := stripNode(node)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// The reconciler of offers compares the offers of nodes with the requests of pods.
func TestCacheKeepsOfferedAddresses(t *testing.T) {
	one := resource.MustParse("1")
	all := corev1.ResourceList{"cpu": one, "addresses.ipam.spidernet.io/default.a": one}
	ours := corev1.ResourceList{"addresses.ipam.spidernet.io/default.a": one}
	node, err := stripNode(&corev1.Node{Status: corev1.NodeStatus{Capacity: all, Allocatable: all}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(corev1.NodeStatus{Capacity: ours, Allocatable: ours}, node.(*corev1.Node).Status); diff != "" {
		t.Errorf("status of the node (-want +got):\n%s", diff)
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Resources: corev1.ResourceRequirements{Requests: all}}}}}
	stripped, err := new(podStripper).strip(pod)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]corev1.Container{{Resources: corev1.ResourceRequirements{Requests: ours}}}, stripped.(*corev1.Pod).Spec.Containers); diff != "" {
		t.Errorf("containers of the pod (-want +got):\n%s", diff)
	}
}
