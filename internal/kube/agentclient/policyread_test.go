package agentclient_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"k8s.io/client-go/rest"
	npv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/multipolicy"
)

// TestForeignPoliciesAreOptional answers like an API server without the definitions, and like one that fails.
func TestForeignPoliciesAreOptional(t *testing.T) {
	status := http.StatusNotFound
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "404 page not found", status) }))
	t.Cleanup(server.Close)
	client, err := agentclient.NewClient(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	count := func(*npv1beta1.ClusterNetworkPolicy) { t.Error("there is none") }
	countMulti := func(*multipolicy.MultiNetworkPolicy) { t.Error("there is none") }
	if err := errors.Join(client.EachClusterNetworkPolicy(t.Context(), count), client.EachMultiNetworkPolicy(t.Context(), countMulti)); err != nil {
		t.Errorf("without the definitions: %v", err)
	}
	status = http.StatusForbidden
	if client.EachClusterNetworkPolicy(t.Context(), count) == nil || client.EachMultiNetworkPolicy(t.Context(), countMulti) == nil {
		t.Error("a refusal counts as no policies")
	}
}
