//go:build apiserver

package install

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/definitions"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

// hook is a client with the rights of the chart's Job.
func hook(t *testing.T) client.Client {
	t.Helper()
	c, err := client.New(kubetest.Role(t, "spiderpool-init-definitions", "kube-system", ""), client.Options{Scheme: scheme.New()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// update writes the definitions as the release v0.1.0, and returns the log.
func update(t *testing.T) (string, error) {
	t.Helper()
	var out output
	err := UpdateDefinitions(t.Context(), out.logger(), hook(t), "v0.1.0")
	return out.String(), err
}

func definitionOf(t *testing.T, c client.Client, plural string) *unstructured.Unstructured {
	t.Helper()
	definition := &unstructured.Unstructured{}
	definition.SetAPIVersion("apiextensions.k8s.io/v1")
	definition.SetKind("CustomResourceDefinition")
	if err := c.Get(t.Context(), client.ObjectKey{Name: plural + ".spiderpool.spidernet.io"}, definition); err != nil {
		t.Fatal(err)
	}
	return definition
}

// change edits a definition as another client. The end of the test restores all definitions.
func change(t *testing.T, c client.Client, plural string, edit func(annotations, spec map[string]any)) {
	t.Helper()
	t.Cleanup(func() { restore(t, c) })
	definition := definitionOf(t, c, plural)
	metadata := definition.Object["metadata"].(map[string]any)
	annotations, _ := metadata["annotations"].(map[string]any)
	if annotations == nil {
		annotations = map[string]any{}
		metadata["annotations"] = annotations
	}
	spec := definition.Object["spec"].(map[string]any)
	version := spec["versions"].([]any)[0].(map[string]any)
	schema := version["schema"].(map[string]any)["openAPIV3Schema"].(map[string]any)
	edit(annotations, schema["properties"].(map[string]any)["spec"].(map[string]any))
	if err := c.Update(t.Context(), definition, client.FieldOwner("another")); err != nil {
		t.Fatal(err)
	}
}

func restore(t *testing.T, c client.Client) {
	for _, plural := range []string{"spideripblocks", "spidersubnets"} {
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"`+names.AnnotationRelease+`":null}}}`))
		definition := &unstructured.Unstructured{}
		definition.SetAPIVersion("apiextensions.k8s.io/v1")
		definition.SetKind("CustomResourceDefinition")
		definition.SetName(plural + ".spiderpool.spidernet.io")
		if err := client.IgnoreNotFound(c.Patch(context.Background(), definition, patch)); err != nil {
			t.Error(err)
		}
	}
	if err := UpdateDefinitions(context.Background(), slog.New(slog.DiscardHandler), c, "v0.1.0"); err != nil {
		t.Error(err)
	}
}

func specOf(t *testing.T, definition *unstructured.Unstructured) map[string]any {
	t.Helper()
	versions, _, err := unstructured.NestedSlice(definition.Object, "spec", "versions")
	if err != nil {
		t.Fatal(err)
	}
	spec, _, err := unstructured.NestedMap(versions[0].(map[string]any), "schema", "openAPIV3Schema", "properties", "spec")
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func TestDefinitionsGetStamp(t *testing.T) {
	c := kubetest.Client(t)
	if log, err := update(t); err != nil {
		t.Fatal(err, log)
	}
	wanted, err := definitions.All()
	if err != nil || len(wanted) != 9 {
		t.Fatalf("%d definitions, %v", len(wanted), err)
	}
	for _, d := range wanted {
		plural, _, _ := strings.Cut(d.GetName(), ".")
		if stamp := definitionOf(t, c, plural).GetAnnotations()[names.AnnotationRelease]; stamp != "v0.1.0" {
			t.Errorf("%s has the stamp %q", d.GetName(), stamp)
		}
	}
	before := definitionOf(t, c, "spideripblocks").GetResourceVersion()
	if log, err := update(t); err != nil || definitionOf(t, c, "spideripblocks").GetResourceVersion() != before {
		t.Errorf("the second update changed the definition: %v\n%s", err, log)
	}
}

func TestMissingDefinitionIsCreated(t *testing.T) {
	c := kubetest.Client(t)
	t.Cleanup(func() { restore(t, c) })
	if err := c.Delete(t.Context(), definitionOf(t, c, "spidersubnets")); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, func(ctx context.Context) error {
		gone := &unstructured.Unstructured{}
		gone.SetAPIVersion("apiextensions.k8s.io/v1")
		gone.SetKind("CustomResourceDefinition")
		err := c.Get(ctx, client.ObjectKey{Name: "spidersubnets.spiderpool.spidernet.io"}, gone)
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("the definition still exists: %w", errors.Join(err))
		}
		return nil
	})
	if log, err := update(t); err != nil {
		t.Fatal(err, log)
	}
	if err := c.List(t.Context(), &v2beta1.SpiderSubnetList{}); err != nil {
		t.Error(err)
	}
}

func TestOldDefinitionIsReplaced(t *testing.T) {
	c := kubetest.Client(t)
	change(t, c, "spideripblocks", func(_, spec map[string]any) {
		delete(spec["properties"].(map[string]any), "former")
		delete(spec, "x-kubernetes-validations") // they name the field
		spec["maxProperties"] = int64(1)         // a rule that this release does not have
	})
	if log, err := update(t); err != nil {
		t.Fatal(err, log)
	}
	spec := specOf(t, definitionOf(t, c, "spideripblocks"))
	if _, ok := spec["properties"].(map[string]any)["former"]; !ok || spec["maxProperties"] != nil {
		t.Errorf("got former %t and maxProperties %v", ok, spec["maxProperties"])
	}
}

// "helm upgrade" to an older chart.
func TestLaterDefinitionStays(t *testing.T) {
	c := kubetest.Client(t)
	change(t, c, "spideripblocks", func(annotations, spec map[string]any) {
		annotations[names.AnnotationRelease] = "v0.2.0"
		spec["properties"].(map[string]any)["later"] = map[string]any{"type": "string"}
	})
	log, err := update(t)
	if err != nil || !strings.Contains(log, "definition of a later release, unchanged") {
		t.Fatal(err, log)
	}
	definition := definitionOf(t, c, "spideripblocks")
	if _, ok := specOf(t, definition)["properties"].(map[string]any)["later"]; !ok || definition.GetAnnotations()[names.AnnotationRelease] != "v0.2.0" {
		t.Error("an older release changed the definition")
	}
}

func TestUnreadableStampIsAnError(t *testing.T) {
	c := kubetest.Client(t)
	change(t, c, "spideripblocks", func(annotations, _ map[string]any) { annotations[names.AnnotationRelease] = "latest" })
	if _, err := update(t); err == nil || !strings.Contains(err.Error(), `is "latest", not a release such as v0.1.0: remove the annotation`) {
		t.Errorf("got %v", err)
	}
}

func TestDefinitionsInUseByAnotherReleaseStay(t *testing.T) {
	c := kubetest.Client(t)
	pool := takenPool(t, c, "theirs")
	t.Cleanup(func() { kubetest.Remove(t, c, pool) }) // before the definitions are restored
	change(t, c, "spideripblocks", func(_, spec map[string]any) { spec["description"] = "theirs" })
	if _, err := update(t); err == nil || !strings.Contains(err.Error(), "pods of another Spiderpool release have addresses") {
		t.Errorf("got %v", err)
	}
	if got := specOf(t, definitionOf(t, c, "spideripblocks"))["description"]; got != "theirs" {
		t.Errorf("the description is %q", got)
	}
	kubetest.Remove(t, c, pool)
}

func TestHookWritesOurDefinitionsOnly(t *testing.T) {
	hook(t) // binds the role
	// Without the record of Role, because these requests have no rule.
	role, err := client.New(kubetest.Account(t, "kube-system", "spiderpool-init-definitions", ""), client.Options{Scheme: scheme.New()})
	if err != nil {
		t.Fatal(err)
	}
	stranger := definitionOf(t, kubetest.Client(t), "spidersubnets")
	stranger.SetName("widgets.example.org")
	stranger.SetManagedFields(nil)
	stranger.SetResourceVersion("")
	stranger.SetUID("")
	stranger.Object["spec"].(map[string]any)["group"] = "example.org"
	maps.Copy(stranger.Object["spec"].(map[string]any), map[string]any{"names": map[string]any{"kind": "Widget", "plural": "widgets"}})
	delete(stranger.Object, "status")
	text, err := stranger.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"create": role.Create(t.Context(), stranger.DeepCopy()),
		"apply":  role.Patch(t.Context(), stranger.DeepCopy(), client.RawPatch("application/apply-patch+yaml", text), fieldOwner),
		"delete": role.Delete(t.Context(), definitionOf(t, kubetest.Client(t), "spidersubnets")),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
}

// otherDefinition returns the definition of another project.
func otherDefinition(t *testing.T, c client.Client, name string) (*unstructured.Unstructured, error) {
	t.Helper()
	definition := &unstructured.Unstructured{}
	definition.SetAPIVersion("apiextensions.k8s.io/v1")
	definition.SetKind("CustomResourceDefinition")
	return definition, c.Get(t.Context(), client.ObjectKey{Name: name}, definition)
}

func TestDefinitionOfAnotherInstallerStays(t *testing.T) {
	const name = "network-attachment-definitions.k8s.cni.cncf.io"
	c := kubetest.Client(t)
	before, err := otherDefinition(t, c, name)
	if err != nil {
		t.Fatal(err)
	}
	var out output
	if err := UpdateDefinitions(t.Context(), out.logger(), hook(t), "v0.1.0", name); err != nil {
		t.Fatal(err)
	}
	after, err := otherDefinition(t, c, name)
	if err != nil || after.GetResourceVersion() != before.GetResourceVersion() || !strings.Contains(out.String(), "definition of another installer, unchanged") {
		t.Errorf("%v, resource version %s became %s, log %s", err, before.GetResourceVersion(), after.GetResourceVersion(), out.String())
	}
}

func TestMissingDefinitionOfOthersIsCreated(t *testing.T) {
	const name = "multi-networkpolicies.k8s.cni.cncf.io"
	c := kubetest.Client(t)
	if definition, err := otherDefinition(t, c, name); err != nil {
		t.Fatal(err)
	} else if err := c.Delete(t.Context(), definition); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, func(context.Context) error {
		if _, err := otherDefinition(t, c, name); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the definition still exists: %w", errors.Join(err))
		}
		return nil
	})
	for _, edit := range []bool{false, true} {
		if edit { // as the chart of an earlier release
			created, err := otherDefinition(t, c, name)
			if err != nil {
				t.Fatal(err)
			}
			created.SetAnnotations(nil)
			created.SetLabels(map[string]string{"helm.sh/chart": "spiderpool-0.1.0"})
			created.Object["spec"].(map[string]any)["names"].(map[string]any)["shortNames"] = []any{"former"}
			if err := c.Update(t.Context(), created); err != nil {
				t.Fatal(err)
			}
		}
		if err := UpdateDefinitions(t.Context(), slog.New(slog.DiscardHandler), c, "v0.1.0", name); err != nil {
			t.Fatal(err)
		}
		got, err := otherDefinition(t, c, name)
		if err != nil {
			t.Fatal(err)
		}
		short, _, err := unstructured.NestedStringSlice(got.Object, "spec", "names", "shortNames")
		if err != nil || len(short) != 1 || short[0] != "multi-policy" || got.GetAnnotations()[names.AnnotationRelease] != "v0.1.0" {
			t.Errorf("short names %q, annotations %v, %v", short, got.GetAnnotations(), err)
		}
	}
}

func TestUnknownDefinitionOfOthersIsRefused(t *testing.T) {
	err := UpdateDefinitions(t.Context(), slog.New(slog.DiscardHandler), kubetest.Client(t), "v0.1.0", "widgets.example.org")
	if err == nil || !strings.Contains(err.Error(), "widgets.example.org") {
		t.Errorf("got %v", err)
	}
}
