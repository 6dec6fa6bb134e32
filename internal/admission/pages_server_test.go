//go:build apiserver

package admission_test

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/test/docblocks"
)

// TestManifestsOfPagesAreAccepted gives each of our objects in the Markdown pages to the API server, without storing it:
// the rules of the definitions and the webhooks judge it.
func TestManifestsOfPagesAreAccepted(t *testing.T) {
	c, _ := serve(t)
	blocks, err := docblocks.Read("../..")
	if err != nil {
		t.Fatal(err)
	}
	accepted := 0
	for _, b := range blocks {
		for _, manifest := range b.Manifests() {
			o := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(manifest), &o.Object); err != nil {
				t.Fatalf("%s:%d: %v", b.Page, b.Line, err)
			}
			if !strings.HasPrefix(o.GetAPIVersion(), v2beta1.GroupVersion.Group+"/") {
				continue
			}
			if o.GetKind() == "SpiderMultusConfig" && o.GetNamespace() == "" {
				o.SetNamespace(metav1.NamespaceDefault)
			}
			if err := c.Create(t.Context(), o, client.DryRunAll); err != nil {
				t.Errorf("%s:%d: %v", b.Page, b.Line, err)
			}
			accepted++
		}
	}
	if accepted < 20 {
		t.Errorf("only %d objects; does the test read the pages?", accepted)
	}
}
