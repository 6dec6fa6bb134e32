//go:build apiserver && browser

package console

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

// TestPagesInBrowser runs the tests of test/console against a console with both fixed clusters and a large pool.
func TestPagesInBrowser(t *testing.T) {
	fill(t, addressesCluster)
	fill(t, podCluster)
	c := kubetest.Client(t)
	for _, object := range append(furtherObjects(), largeCluster(20_000)...) {
		if c.Get(t.Context(), client.ObjectKeyFromObject(object), object.DeepCopyObject().(client.Object)) == nil {
			continue
		}
		if pool, ok := object.(*v2beta1.SpiderIPPool); ok {
			pool.Spec.IPs = []string{"10.1.0.0-10.1.78.31"}
		}
		kubetest.Create(t, c, object)
	}
	i := install(t)
	someFlows(i.site.Flows)
	token := kubetest.User(t, "spiderpool-reader").BearerToken
	i.as(t, token).shows(t, "/pools/large", "10.1.78.31 in use")
	change := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pool := &v2beta1.SpiderIPPool{}
		pool.Name, pool.Spec.Subnet, pool.Spec.IPs = "fresh", "10.9.0.0/24", []string{"10.9.0.1-10.9.0.9"}
		if err := c.Create(r.Context(), pool); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(change.Close)
	axe, err := filepath.Abs("../../bin/axe.min.js")
	if err != nil {
		t.Fatal(err)
	}
	tests := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-v", ".")
	tests.Dir = "../../test/console"
	tests.Env = append(os.Environ(), "CONSOLE_URL="+i.url, "CONSOLE_TOKEN="+token, "CONSOLE_CHANGE="+change.URL, "AXE="+axe)
	out, err := tests.CombinedOutput()
	if t.Logf("%s", out); err != nil {
		t.Error(err)
	}
}
