//go:build apiserver

package charts

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// guide holds the Helm arguments of the AWS guide.
var guide = []string{"--set", "multus.multusCNI.defaultCniCRName=ipvlan-ens5"}

// helm runs helm with args and returns its output, or its error message in failure.
func helm(t *testing.T, args ...string) (stdout []byte, failure string) {
	t.Helper()
	return helmIn(t, "", args...)
}

// helmIn is helm in a directory.
func helmIn(t *testing.T, dir string, args ...string) (stdout []byte, failure string) {
	t.Helper()
	program := filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "helm")
	if _, err := os.Stat(program); err != nil {
		if program, err = exec.LookPath("helm"); err != nil {
			t.Fatal("helm is neither in KUBEBUILDER_ASSETS nor in PATH: make lab-tools builds it")
		}
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return nil, err.Error() + ": " + errOut.String()
	}
	return out.Bytes(), ""
}

// render renders the chart for namespace kube-system.
func render(t *testing.T, args ...string) []byte {
	t.Helper()
	out, failure := helm(t, append([]string{"template", "spiderpool", "spiderpool", "--namespace", "kube-system"}, args...)...)
	if failure != "" {
		t.Fatal(failure)
	}
	return out
}

// objectsOf decodes the objects of one kind.
func objectsOf[T any](t *testing.T, manifest []byte, kind string) map[string]T {
	t.Helper()
	found := map[string]T{}
	for document := range bytes.SplitSeq(manifest, []byte("\n---\n")) {
		var head struct {
			Kind     string
			Metadata struct{ Name string }
		}
		if err := yaml.Unmarshal(document, &head); err != nil {
			t.Fatal(err)
		}
		if head.Kind != kind {
			continue
		}
		var object T
		if err := yaml.UnmarshalStrict(document, &object); err != nil {
			t.Fatalf("%s %s: %v", kind, head.Metadata.Name, err)
		}
		found[head.Metadata.Name] = object
	}
	return found
}

// kubeconfig writes a kubeconfig file with administrator access to the test's API server.
func kubeconfig(t *testing.T) string {
	t.Helper()
	rest := kubetest.Config(t)
	const name = "test"
	access := clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{name: {Server: rest.Host, CertificateAuthorityData: rest.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{name: {ClientCertificateData: rest.CertData, ClientKeyData: rest.KeyData, Token: rest.BearerToken}},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: name}},
		CurrentContext: name,
	}
	if !strings.Contains(access.Clusters[name].Server, "://") {
		access.Clusters[name].Server = "https://" + access.Clusters[name].Server
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(access, file); err != nil {
		t.Fatal(err)
	}
	return file
}
