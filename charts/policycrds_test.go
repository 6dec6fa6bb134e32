//go:build apiserver

package charts

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

// policyDefinitions are the values that install a definition, and its file.
var policyDefinitions = map[string]string{
	"policy.installCRDs.clusterNetworkPolicy": "policy.networking.k8s.io_clusternetworkpolicies.yaml",
	"policy.installCRDs.multiNetworkPolicy":   "k8s.cni.cncf.io_multi-networkpolicies.yaml",
}

// policyDefinition returns the definition in a file.
func policyDefinition(t *testing.T, file string) apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	var want apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal([]byte(read(t, "spiderpool/definitions/"+file)), &want); err != nil {
		t.Fatal(err)
	}
	return want
}

func rendered(t *testing.T, args ...string) map[string]apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	return objectsOf[apiextensionsv1.CustomResourceDefinition](t, render(t, args...), "CustomResourceDefinition")
}

func TestPolicyDefinitionsAreOptional(t *testing.T) {
	without := rendered(t)
	for value, file := range policyDefinitions {
		want := policyDefinition(t, file)
		with := rendered(t, "--set", value+"=true")
		if added := len(with) - len(without); added != 1 {
			t.Errorf("%s adds %d definitions", value, added)
		}
		got := with[want.Name]
		if diff := cmp.Diff(want.Spec, got.Spec); diff != "" {
			t.Errorf("%s: %s", value, diff)
		}
		if got.Annotations["helm.sh/resource-policy"] != "keep" {
			t.Errorf("%s: Helm deletes it with the release: %v", value, got.Annotations)
		}
		for key, text := range want.Annotations {
			if got.Annotations[key] != text {
				t.Errorf("%s: annotation %s is %q, want %q", value, key, got.Annotations[key], text)
			}
		}
	}
}

// The API server of the tests has both definitions.
func TestForeignPolicyDefinitionStays(t *testing.T) {
	s := scheme.New()
	if err := apiextensionsv1.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(kubetest.Config(t), client.Options{Scheme: s})
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--kubeconfig", kubeconfig(t), "--dry-run=server", "--set", "policy.installCRDs.clusterNetworkPolicy=true,policy.installCRDs.multiNetworkPolicy=true"}
	for _, file := range policyDefinitions {
		want := policyDefinition(t, file)
		if _, ok := rendered(t, args...)[want.Name]; ok {
			t.Errorf("%s of another installer is overwritten", want.Name)
		}
		existing := &apiextensionsv1.CustomResourceDefinition{}
		if err := c.Get(t.Context(), client.ObjectKey{Name: want.Name}, existing); err != nil {
			t.Fatal(err)
		}
		ours := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"app.kubernetes.io/managed-by":"Helm"},
			"annotations":{"meta.helm.sh/release-name":"spiderpool","meta.helm.sh/release-namespace":"kube-system"}}}`))
		if err := c.Patch(t.Context(), existing, ours); err != nil {
			t.Fatal(err)
		}
		if _, ok := rendered(t, args...)[want.Name]; !ok {
			t.Errorf("%s of this release is not updated", want.Name)
		}
	}
}
