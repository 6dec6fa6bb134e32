//go:build apiserver

package cli

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

// connectivityCluster has a node and the configuration of an installation, and neither a scheduler nor a kubelet.
func connectivityCluster(t *testing.T) (c client.Client, namespace string) {
	t.Helper()
	c = kubetest.Client(t)
	namespace = kubetest.Namespace(t, c)
	kubetest.Create(t, c, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker-1"}}, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: configMap},
		Data:       map[string]string{configKey: "{apiVersion: config.spiderpool.spidernet.io/v1, kind: SpiderpoolConfiguration}"},
	})
	return c, namespace
}

// withAllRights returns a kubeconfig with all rights.
func withAllRights(t *testing.T, c client.Client, namespace string) string {
	t.Helper()
	config := kubetest.Account(t, namespace, "administrator", "")
	kubetest.Create(t, c, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: namespace}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: "administrator"}},
	})
	return writeKubeconfig(t, config)
}

func TestConnectivityExplainsPodsThatWait(t *testing.T) {
	c, namespace := connectivityCluster(t)
	kubeconfig := withAllRights(t, c, namespace)
	flags := "connectivity test --namespace " + namespace + " --system-namespace " + namespace + " --node worker-1 --image registry.example/agent --attachment kube-system/lan --timeout 1s"
	var out bytes.Buffer
	if err := runView(t, &out, kubeconfig, flags+" --keep"); err != nil {
		t.Fatal(err)
	}
	var pods corev1.PodList
	if err := c.List(t.Context(), &pods, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	if len(pods.Items) != 3 {
		t.Errorf("%d pods, want two and one in the network of the node", len(pods.Items))
	}
	for _, p := range pods.Items {
		if p.Spec.HostNetwork != (p.Name == "host-0") || (p.Annotations["v1.multus-cni.io/default-network"] == "kube-system/lan") == p.Spec.HostNetwork {
			t.Errorf("pod %s: host network %t, annotations %v", p.Name, p.Spec.HostNetwork, p.Annotations)
		}
	}
	for _, want := range []string{"No pod runs, so no path was tested.", "node worker-1: it has no spiderpool-agent, so no new pod gets an address there", "exit code 1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	kubetest.Remove(t, c, &pods.Items[0])
	if err := runView(t, &out, kubeconfig, flags); err == nil || !strings.Contains(err.Error(), "has the pods of an earlier test: leave out --node and --attachment") {
		t.Errorf("again with --node: %v", err)
	}
}

func TestConnectivityLeavesNothing(t *testing.T) {
	c, namespace := connectivityCluster(t)
	var out bytes.Buffer
	err := runView(t, &out, withAllRights(t, c, namespace), "connectivity test --namespace "+namespace+" --system-namespace "+namespace+" --node worker-1 --image registry.example/agent --attachment kube-system/lan --timeout 1s -o json")
	if err != nil {
		t.Fatal(err)
	}
	var pods corev1.PodList
	var services corev1.ServiceList
	if err := errors.Join(c.List(t.Context(), &pods, client.InNamespace(namespace)), c.List(t.Context(), &services, client.InNamespace(namespace))); err != nil {
		t.Fatal(err)
	}
	if len(pods.Items)+len(services.Items) > 0 {
		t.Errorf("%d pods and %d Services remain", len(pods.Items), len(services.Items))
	}
}

func TestConnectivityNamesWayOut(t *testing.T) {
	c, namespace := connectivityCluster(t)
	full := withAllRights(t, c, namespace)
	at := "connectivity test --namespace " + namespace + " --system-namespace " + namespace
	failsWith(t, full, "connectivity test --system-namespace elsewhere", "Spiderpool is not installed in this namespace; name its namespace with --system-namespace")
	failsWith(t, full, at, "name the network of the pods with --attachment")
	failsWith(t, full, at+" --attachment kube-system/lan", "has no agent, so the image is unknown")
	failsWith(t, full, at+" --attachment kube-system/lan --image registry.example/agent --node worker-9", "--node worker-9: there is no such node")
	failsWith(t, full, at+" --attachment kube-system/lan --image registry.example/agent", "no node is ready: kubectl get nodes tells why")
	failsWith(t, writeKubeconfig(t, kubetest.User(t, "")), at, "ask an administrator of the cluster for the rights that docs/guides/connectivity.md lists")
	failsWith(t, writeKubeconfig(t, unreachable(t)), at, "does not answer; check the network and the cluster of the kubeconfig")
}
