//go:build apiserver

package charts

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestChartIsWellFormed(t *testing.T) {
	out, failure := helm(t, "lint", "--strict", "spiderpool")
	if failure != "" {
		t.Errorf("%s\n%s", failure, out)
	}
}

func TestRenderedManifests(t *testing.T) {
	tests := map[string][]string{
		"default":    nil,
		"guide":      guide,
		"everything": {"-f", "testdata/everything.values.yaml"},
		"nothing":    {"-f", "testdata/nothing.values.yaml"},
		"provided":   {"-f", "testdata/provided.values.yaml"},
		"secure":     {"-f", "testdata/secure.values.yaml"},
	}
	for name, args := range tests {
		t.Run(name, func(t *testing.T) {
			golden(t, "testdata/"+name+".golden.yaml", render(t, args...))
		})
	}
}

// The guides install the packaged chart.
func TestPackageRendersLikeDirectory(t *testing.T) {
	dir := t.TempDir()
	if _, failure := helm(t, "package", "spiderpool", "--destination", dir); failure != "" {
		t.Fatal(failure)
	}
	packages, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(packages) != 1 {
		t.Fatalf("packages %q, %v", packages, err)
	}
	out, failure := helm(t, append([]string{"template", "spiderpool", packages[0], "--namespace", "kube-system"}, guide...)...)
	if failure != "" {
		t.Fatal(failure)
	}
	golden(t, "testdata/guide.golden.yaml", out)
	if name := "dist/" + filepath.Base(packages[0]); !strings.Contains(read(t, "../docs/guides/install.md"), name) {
		t.Errorf("docs/guides/install.md does not install %s", name)
	}
}

func TestBadValuesAreRejected(t *testing.T) {
	tests := map[string]struct {
		set, want string
	}{
		"unknown key":           {"ipam.enableIPv5=true", "enableIPv5"},
		"unknown group":         {"spiderpoolAgnet.httpPort=1", "spiderpoolAgnet"},
		"unknown key of image":  {"spiderpoolAgent.image.repo=x", "repo"},
		"address provider":      {"iaasNetworkProvider.serverUrl=https://iaas.example", "set cloud.enabled to true, or leave the URL empty"},
		"wrong type":            {"ipam.enableIPv4=yes", "enableIPv4"},
		"mode":                  {"coordinator.mode=fast", "mode"},
		"pool without subnet":   {"clusterDefaultPool.installIPv4IPPool=true", "clusterDefaultPool.ipv4Subnet is empty, but clusterDefaultPool.installIPv4IPPool is true: set the subnet"},
		"tls without files":     {"spiderpoolController.tls.method=provided", "spiderpoolController.tls.provided.tlsC"},
		"monitor but no metric": {"spiderpoolAgent.prometheus.serviceMonitor.install=true", "spiderpoolAgent.prometheus.enabled is false"},
		"monitor far from its CA": {
			"spiderpoolAgent.prometheus.enabled=true,spiderpoolAgent.prometheus.secure=true,spiderpoolAgent.prometheus.serviceMonitor.install=true,spiderpoolAgent.prometheus.serviceMonitor.namespace=monitoring",
			"spiderpoolAgent.prometheus.serviceMonitor.namespace is monitoring",
		},
		"console without certificate": {"console.enabled=true,spiderpoolController.tls.method=certmanager", "console.tls.secretName is empty, but spiderpoolController.tls.method is certmanager"},
		"foreign plugin":              {"plugins.installOvsCNI=true", "it lacks these plugins: ovs. Set plugins.image"},
		"sriov":                       {"sriov.install=true", "does not contain the SR-IOV network operator"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, failure := helm(t, "template", "spiderpool", "spiderpool", "--set", test.set)
			if !strings.Contains(failure, test.want) {
				t.Errorf("failure %q does not say %q", failure, test.want)
			}
		})
	}
}
