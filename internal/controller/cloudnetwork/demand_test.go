package cloudnetwork

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/names"
)

// Pods of a namespace that names pools of its own wait for no address of a cloud.
func TestNamespaceWithPoolsWaitsForNothing(t *testing.T) {
	x := newManagedBench(t, 4)
	eni := x.join("worker1", x.subnets[1])
	x.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Annotations: map[string]string{names.AnnotationNamespaceDefaultIPv4Pool: `["mine"]`}}})
	x.pods("worker1", 40)
	x.passes(4)
	x.wantAssigned(eni, "172.31.32.16/28")
}
