package controller

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
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
