//go:build apiserver

package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// TestServiceCommandsReadCluster runs the commands against a real API server.
func TestServiceCommandsReadCluster(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	web := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: ptr.To[int32](8080)}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.6.0.1"}}},
	}
	pod := func(name, node string, hostNetwork bool) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec:       corev1.PodSpec{NodeName: node, HostNetwork: hostNetwork, Containers: []corev1.Container{{Name: "c", Image: "registry.example/app:1"}}},
		}
	}
	kubetest.Create(t, c, web, slice, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "cli-node"}},
		pod("client", "cli-node", false), pod("host", "cli-node", true), pod("pending", "", false))
	name := namespace + "/web"
	prints(t, "service", []testCase{
		{"list -n " + namespace + " --node cli-node", name + "  " + web.Spec.ClusterIP + ":80/TCP  cluster IP  10.6.0.1:8080\n"},
		{"explain " + name + " --node cli-node", "Service " + name + ", for pods on node cli-node\n"},
		{"explain " + name + " --from client", "Service " + name + ", for pod " + namespace + "/client on node cli-node\n"},
		{"explain " + name + " --from " + namespace + "/host", "uses the network of its node cli-node."},
		{"explain " + name + " --from pending", "is on no node yet"},
		{"explain " + name + " --from nobody", "there is no pod " + namespace + "/nobody: kubectl get pods"},
		{"explain " + name + " --node no-node", "there is no node no-node: kubectl get nodes prints all names"},
		{"explain " + namespace + "/nothing --node cli-node", "there is no Service " + namespace + "/nothing"},
	})
}

// prints runs subcommands as an agent's pod would, and compares their outputs or errors.
func prints(t *testing.T, command string, cases []testCase) {
	t.Helper()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, kubetest.Kubeconfig(t, kubetest.Role(t, "spiderpool-agent", "kube-system", "cli-node")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range cases {
		t.Run(tc.command, func(t *testing.T) {
			var out bytes.Buffer
			cmd := newRoot()
			cmd.SetOut(&out)
			cmd.SetArgs(append([]string{command, "--kubeconfig", kubeconfig}, strings.Fields(tc.command)...))
			err := cmd.ExecuteContext(t.Context())
			if err != nil {
				out.WriteString(err.Error())
			}
			if !strings.Contains(out.String(), tc.want) {
				t.Errorf("got\n%s\nwant %q", out.String(), tc.want)
			}
		})
	}
}
