package install

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/version"
)

func TestArgoCDPrunesNoDefinition(t *testing.T) {
	for before, want := range map[string]string{
		"":                                    "Prune=false",
		"Prune=false":                         "Prune=false",
		"Prune=true":                          "Prune=false",
		"ServerSideApply=true":                "ServerSideApply=true,Prune=false",
		"Prune=confirm, ServerSideApply=true": "ServerSideApply=true,Prune=false",
	} {
		definition := &unstructured.Unstructured{Object: map[string]any{}}
		if before != "" {
			definition.SetAnnotations(map[string]string{"argocd.argoproj.io/sync-options": before})
		}
		annotate(definition, &unstructured.Unstructured{}, version.MustParseSemantic("v0.1.0"))
		if got := definition.GetAnnotations()["argocd.argoproj.io/sync-options"]; got != want {
			t.Errorf("%q became %q, want %q", before, got, want)
		}
	}
}
