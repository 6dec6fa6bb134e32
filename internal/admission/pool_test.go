//go:build apiserver

package admission_test

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

// Two pools from before the installation of the webhooks share addresses. They can
// change, but not share more addresses.
func TestOldConflictMayStayButNotGrow(t *testing.T) {
	c := kubetest.Client(t)
	first := newPool("first", "10.10.0.0/24", "10.10.0.10-10.10.0.20")
	second := newPool("second", "10.10.0.0/24", "10.10.0.15-10.10.0.30")
	kubetest.Create(t, c, first, second)
	_, cached := serve(t)
	seen(t, cached, first)
	seen(t, cached, second)
	change := func(ips string) error {
		changed := second.DeepCopy()
		changed.Spec.IPs, changed.Spec.Disable = []string{ips}, new(true)
		return c.Update(t.Context(), changed, client.DryRunAll)
	}
	for _, ips := range []string{"10.10.0.15-10.10.0.30", "10.10.0.16-10.10.0.30"} {
		if err := change(ips); err != nil {
			t.Errorf("%s: %v", ips, err)
		}
	}
	refused(t, change("10.10.0.14-10.10.0.30"), `spec.ips: Invalid value: "10.10.0.14-10.10.0.30": shares 10.10.0.14-10.10.0.20 with SpiderIPPool first`)
}

// warnings collects the warnings of the API server.
type warnings struct {
	mu   sync.Mutex
	said []string
}

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, text)
}

func TestDeletionWarnsOfHolders(t *testing.T) {
	c, cached := serve(t)
	p := newPool("awaited", "10.11.0.0/24", "10.11.0.16-10.11.0.40")
	block := newBlock("10.11.0.16", "10.11.0.20", "awaited")
	kubetest.Create(t, c, p, block)
	seen(t, cached, block)
	config, heard := kubetest.Config(t), &warnings{}
	config.WarningHandler = heard
	warned, err := client.New(config, client.Options{Scheme: scheme.New()})
	if err != nil {
		t.Fatal(err)
	}
	if err := warned.Delete(t.Context(), p, client.DryRunAll); err != nil {
		t.Errorf("the deletion was refused: %v", err)
	}
	const want = "deletion of SpiderIPPool awaited is blocked until its addresses are released: 10.11.0.20 of default/web"
	if !slices.ContainsFunc(heard.said, func(text string) bool { return strings.Contains(text, want) }) {
		t.Errorf("warnings %q, want %q", heard.said, want)
	}
}
