package kubetest

import (
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Account returns the configuration of a pod that runs on the node under the
// ServiceAccount, with a token bound to the pod, like the one that a kubelet mounts.
// It creates the missing ones. An empty node gives a token bound to nothing.
func Account(tb testing.TB, namespace, name, node string) *rest.Config {
	tb.Helper()
	c := Client(tb)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	createMissing(tb, c, account)
	request := &authenticationv1.TokenRequest{}
	if node != "" {
		createMissing(tb, c, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}})
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: name + "-"},
			Spec: corev1.PodSpec{
				ServiceAccountName: name, NodeName: node, HostNetwork: true,
				Containers: []corev1.Container{{Name: "c", Image: "i"}},
			},
		}
		Create(tb, c, pod)
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID}
	}
	if err := c.SubResource("token").Create(tb.Context(), account, request); err != nil {
		tb.Fatalf("kubetest: request a token of %s/%s: %v", namespace, name, err)
	}
	config := rest.AnonymousClientConfig(Config(tb))
	config.BearerToken = request.Status.Token
	return config
}

func createMissing(tb testing.TB, c client.Client, object client.Object) {
	tb.Helper()
	if err := c.Get(tb.Context(), client.ObjectKeyFromObject(object), object); err == nil {
		return
	}
	Create(tb, c, object)
}
