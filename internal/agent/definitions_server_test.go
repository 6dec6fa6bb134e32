//go:build apiserver

package agent

import (
	"context"
	"log/slog"
	"testing"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/servedschema"
)

func TestRestartedAgentSkipsComparison(t *testing.T) {
	server := kubetest.Role(t, "spiderpool-agent", "kube-system", "n1")
	client, err := agentclient.NewClient(server)
	if err != nil {
		t.Fatal(err)
	}
	written, dir, compared := []any{&v2beta1.SpiderIPBlock{}, &v2beta1.SpiderEndpoint{}}, t.TempDir(), 0
	for range 2 {
		d := newDefinitions(definitionsOptions{
			compare: func(ctx context.Context) error {
				compared++
				return servedschema.Check(ctx, slog.New(slog.DiscardHandler), server, written...)
			},
			versions: client.DefinitionVersions,
			fields:   servedschema.Fingerprint(written...),
		}, dir)
		if err := d.run(t.Context(), retry); err != nil || d.ready() != nil {
			t.Fatalf("%v, ready: %v", err, d.ready())
		}
	}
	if compared != 1 {
		t.Errorf("compared %d times, want once", compared)
	}
}
