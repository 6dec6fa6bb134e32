//go:build apiserver

package cli

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/multipolicy"
)

// TestPolicyCommandsReadCluster runs the commands against a real API server, with the rights of an agent.
func TestPolicyCommandsReadCluster(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	pod := func(name string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}},
			Spec:       corev1.PodSpec{NodeName: "cli-node", Containers: []corev1.Container{{Name: "c", Image: "registry.example/app:1"}}},
		}
	}
	web, client := pod("web"), pod("client")
	peer := networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "client"}}}
	kubetest.Create(t, c, web, client, &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "allow"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{peer}}},
		},
	})
	for p, addr := range map[*corev1.Pod]string{web: "10.66.0.1", client: "10.66.0.2"} {
		p.Status.PodIP, p.Status.PodIPs = addr, []corev1.PodIP{{IP: addr}}
		if err := c.Status().Update(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	multi := &multipolicy.MultiNetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "multi", Annotations: map[string]string{"k8s.v1.cni.cncf.io/policy-for": "blue"}},
		Spec:       networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}},
	}
	endpoint := &v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web"}}
	endpoint.Status.Current = v2beta1.EndpointAllocation{UID: string(web.UID), Node: "cli-node", IPs: []v2beta1.EndpointIP{
		{Interface: "net1", Network: namespace + "/blue", IPv4: new("10.67.0.1/16")},
	}}
	kubetest.Create(t, c, multi, endpoint)
	file := filepath.Join(t.TempDir(), "policy.yaml")
	const deny = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: allow}\nspec: {podSelector: {}, policyTypes: [Ingress]}\n"
	if err := os.WriteFile(file, []byte(deny), 0o600); err != nil {
		t.Fatal(err)
	}
	prints(t, "policy", []testCase{
		{"show " + namespace + "/web", "pods app=client in its namespace  any    10.66.0.2  " + namespace + "/allow ingress[0]\n"},
		{"trace --from " + namespace + "/client --to " + namespace + "/web:80", "TCP from 10.66.0.2 (" + namespace + "/client) to 10.66.0.1 (" + namespace + "/web) port 80: allowed\n"},
		{"trace --from 192.0.2.1 --to " + namespace + "/web:80", "  ingress  denied: no rule of " + namespace + "/allow allows it\n"},
		{"show " + namespace + "/web --interface net1", "Interface net1, 10.67.0.1, on network " + namespace + "/blue\n\nIngress is isolated by MultiNetworkPolicy " + namespace + "/multi."},
		{"trace --from 192.0.2.1 --to " + namespace + "/web:80 --interface net1", "  ingress  denied: no rule of MultiNetworkPolicy " + namespace + "/multi allows it\n"},
		{"show " + namespace + "/nothing", "there is no running pod " + namespace + "/nothing"},
		{"diff -n " + namespace + " -f " + file, namespace + "/web\n  - ingress any 10.66.0.2\n"},
	})
}
