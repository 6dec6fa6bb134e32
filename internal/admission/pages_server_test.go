//go:build apiserver

package admission_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
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

// TestPagesShowRefusals applies the faulty pools of TestSymptoms in test/e2e. The kubelet's part is a block.
func TestPagesShowRefusals(t *testing.T) {
	c, cached := serve(t)
	full, block := newPool("symptom-full", "10.6.0.0/16", "10.6.131.50"), newBlock("10.6.131.48", "10.6.131.50", "symptom-full")
	block.Spec.Leases[0].Pod = "default/symptom-holder"
	kubetest.Create(t, c, full, block)
	seen(t, cached, full)
	seen(t, cached, block)
	for file, output := range map[string]string{"30-overlap.yaml": "overlapping-pool", "40-faulty.yaml": "faulty-pools"} {
		content, err := os.ReadFile("../../test/e2e/testdata/l2/symptoms/" + file)
		if err != nil {
			t.Fatal(err)
		}
		var printed strings.Builder
		for document := range bytes.SplitSeq(content, []byte("\n---\n")) {
			o := &unstructured.Unstructured{}
			if err := yaml.Unmarshal(document, &o.Object); err != nil {
				t.Fatal(err)
			}
			err := c.Create(t.Context(), o, client.DryRunAll)
			if err == nil {
				t.Fatalf("%s: %s is accepted", file, o.GetName())
			}
			printed.WriteString(err.Error() + "\n")
		}
		if err := docblocks.Shows(output, printed.String()); err != nil {
			t.Error(err)
		}
	}
}
