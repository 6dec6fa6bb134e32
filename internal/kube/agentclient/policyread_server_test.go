//go:build apiserver

package agentclient_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	npv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/multipolicy"
)

// TestPolicyObjectsAreRead reads with the rights of an agent.
func TestPolicyObjectsAreRead(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	podIn(t, c, namespace, "web", corev1.PodStatus{PodIP: "10.66.1.1", PodIPs: []corev1.PodIP{{IP: "10.66.1.1"}}})
	kubetest.Create(t, c, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "deny"}})

	cluster := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "policy.networking.k8s.io/v1beta1", "kind": "ClusterNetworkPolicy",
		"metadata": map[string]any{"name": namespace}, "spec": map[string]any{"tier": "Admin", "priority": int64(7), "subject": map[string]any{"namespaces": map[string]any{}}},
	}}
	multi := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "k8s.cni.cncf.io/v1beta1", "kind": "MultiNetworkPolicy", "metadata": map[string]any{"namespace": namespace, "name": "multi"},
		"spec": map[string]any{"ingress": []any{map[string]any{"ports": []any{map[string]any{"port": "http"}, map[string]any{"port": int64(80), "endPort": int64(90)}}}}},
	}}
	endpoint := &v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web"}}
	endpoint.Status.Current = v2beta1.EndpointAllocation{UID: "u", Node: "n", IPs: []v2beta1.EndpointIP{{Interface: "net1", Network: namespace + "/blue"}}}
	kubetest.Create(t, c, cluster, multi, endpoint)

	kubeClient, err := agentclient.NewClient(kubetest.Role(t, "spiderpool-agent", "kube-system", "read-node"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	if err := kubeClient.EachNamespace(t.Context(), func(n *corev1.Namespace) { found[n.Name] = n.Labels[corev1.LabelMetadataName] }); err != nil {
		t.Fatal(err)
	}
	if err := kubeClient.EachPod(t.Context(), func(p *corev1.Pod) { found[p.Namespace+"/"+p.Name] = p.Status.PodIP }); err != nil {
		t.Fatal(err)
	}
	if err := kubeClient.EachNetworkPolicy(t.Context(), func(p *networkingv1.NetworkPolicy) {
		found[p.Namespace+"/"+p.Name] = string(p.Spec.PolicyTypes[0])
	}); err != nil {
		t.Fatal(err)
	}
	if err := kubeClient.EachClusterNetworkPolicy(t.Context(), func(p *npv1beta1.ClusterNetworkPolicy) {
		found["cluster/"+p.Name] = fmt.Sprintf("%s %d", p.Spec.Tier, p.Spec.Priority)
	}); err != nil {
		t.Fatal(err)
	}
	if err := kubeClient.EachMultiNetworkPolicy(t.Context(), func(p *multipolicy.MultiNetworkPolicy) {
		ports := p.Spec.Ingress[0].Ports
		found[p.Namespace+"/"+p.Name] = fmt.Sprintf("%s %d-%d", ports[0].Port.StrVal, ports[1].Port.IntVal, *ports[1].EndPort)
	}); err != nil {
		t.Fatal(err)
	}
	endpoints, err := kubeClient.AllEndpoints(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range endpoints {
		found["endpoint "+e.Namespace+"/"+e.Name] = e.Status.Current.IPs[0].Network
	}
	for key, want := range map[string]string{
		namespace: namespace, namespace + "/web": "10.66.1.1", namespace + "/deny": "Ingress", "cluster/" + namespace: "Admin 7",
		namespace + "/multi": "http 80-90", "endpoint " + namespace + "/web": namespace + "/blue",
	} {
		if found[key] != want {
			t.Errorf("%s: %q, want %q", key, found[key], want)
		}
	}
}
