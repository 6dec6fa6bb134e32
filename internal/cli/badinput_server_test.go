//go:build apiserver

package cli

import (
	"bytes"
	"cmp"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

// byMAC reads other objects than "ip who" of an address.
const byMAC = "ip who 02:42:0a:06:00:05"

// TestBadInputHasWayOut runs every command where it cannot do its work. Each answer has the way out, and an error is one line.
func TestBadInputHasWayOut(t *testing.T) {
	b := newBadCluster(t)
	reader := writeKubeconfig(t, kubetest.User(t, "spiderpool-reader"))
	unknown := writeKubeconfig(t, kubetest.User(t, ""))
	away := writeKubeconfig(t, unreachable(t))
	admin := writeKubeconfig(t, administrator(t))
	b.says(t, unknown, byMAC, "ask an administrator of the cluster for the ClusterRole spiderpool-reader")
	b.says(t, away, byMAC, "does not answer; check the network and the cluster of the kubeconfig")
	for command, input := range badInputs {
		user := reader // who may do it
		if command == "preflight" || strings.HasPrefix(command, "connectivity") {
			user = admin
		}
		t.Run(command, func(t *testing.T) {
			b.says(t, user, command+" "+input.unknown, input.says)
			if input.agentless != "" {
				b.says(t, user, command+" "+input.call, input.agentless)
			}
			if input.local {
				return
			}
			b.says(t, unknown, command+" "+input.call, cmp.Or(input.noRights, "ask an administrator of the cluster for the ClusterRole spiderpool-reader"))
			b.says(t, away, command+" "+input.call, "does not answer; check the network and the cluster of the kubeconfig")
			if input.unconfigured != silent {
				b.says(t, user, command+" "+input.call+" --system-namespace default", cmp.Or(input.unconfigured, "Spiderpool is not installed in this namespace; name its namespace with --system-namespace"))
			}
		})
	}
	t.Run("half an installation", func(t *testing.T) {
		for _, definition := range []string{"spideripblocks", "spiderippools", "spiderendpoints"} {
			removeDefinition(t, definition+".spiderpool.spidernet.io")
		}
		b.says(t, reader, byMAC, "custom resource definitions are not installed in this cluster: helm install spiderpool")
		for command, input := range badInputs {
			if input.local || input.half == silent {
				continue
			}
			b.says(t, reader, command+" "+input.call, cmp.Or(input.half, "custom resource definitions are not installed in this cluster: helm install spiderpool"))
		}
	})
}

// badCluster has a pod that waits on node n1, and the configuration of an installation without programs.
type badCluster struct{ web, dir, dead, file string }

func newBadCluster(t *testing.T) badCluster {
	t.Helper()
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	web := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web-0"},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "registry.example/web"}}},
	}
	kubetest.Create(t, c, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, web, &nadv1.NetworkAttachmentDefinition{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "macvlan"},
		Spec:       nadv1.NetworkAttachmentDefinitionSpec{Config: `{"cniVersion":"1.0.0","name":"macvlan","plugins":[{"type":"macvlan","master":"eth0","ipam":{"type":"spiderpool"}}]}`},
	}, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: configMap},
		Data:       map[string]string{configKey: "{apiVersion: config.spiderpool.spidernet.io/v1, kind: SpiderpoolConfiguration, multus: {defaultNetwork: " + namespace + "/macvlan}}"},
	})
	web.Status.Phase = corev1.PodPending
	if err := c.Status().Update(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	b := badCluster{web: namespace + "/web-0", dir: t.TempDir()}
	b.dead, b.file = filepath.Join(b.dir, "dead.sock"), policyFile(t)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: b.dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	_ = listener.Close()
	return b
}

// policyFile returns a file with a NetworkPolicy.
func policyFile(t *testing.T) string {
	t.Helper()
	const deny = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny}\nspec: {podSelector: {}}\n"
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(deny), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// unreachable is the configuration of an API server that does not listen.
func unreachable(t *testing.T) *rest.Config {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := kubetest.Config(t)
	config.Host = "https://" + listener.Addr().String()
	_ = listener.Close()
	return config
}

// says runs a command, and looks for want in its error or in its output. An error is one line, without an output.
func (b badCluster) says(t *testing.T, kubeconfig, command, want string) {
	t.Helper()
	archive := filepath.Join(b.dir, "bundle.tar.gz")
	_ = os.Remove(archive)
	command = strings.NewReplacer("WEB", b.web, "DEAD", b.dead, "FILE", b.file, "NEW", archive).Replace(command)
	cmd := newRootAt(threeAtNight)
	var out, progress bytes.Buffer
	cmd.SetIn(strings.NewReader(""))
	cmd.SetOut(&out)
	cmd.SetErr(&progress)
	if sub, _, err := cmd.Find(strings.Fields(command)); err == nil && sub.Flag("kubeconfig") != nil {
		command += " --kubeconfig " + kubeconfig
	}
	cmd.SetArgs(strings.Fields(command))
	text := out.String
	if err := cmd.ExecuteContext(t.Context()); err != nil && exitCode(err) == exitFailed {
		if out.Len() > 0 || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: the error has more than one line, or an output:\n%s\n%s", command, err, out.String())
		}
		text = err.Error
	}
	if !strings.Contains(text(), want) {
		t.Errorf("%s: no %q in\n%s", command, want, text())
	}
}
