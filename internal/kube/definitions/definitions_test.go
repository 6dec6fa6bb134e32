package definitions

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// TestEveryFieldHasDescription keeps kubectl explain useful.
func TestEveryFieldHasDescription(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, kind string, version map[string]any) {
		schema, _, err := unstructured.NestedMap(version, "schema", "openAPIV3Schema")
		if err != nil {
			t.Fatal(err)
		}
		if missing := withoutDescription(kind, schema); len(missing) > 0 {
			t.Errorf("fields without a description: %q", missing)
		}
	})
}

// withoutDescription returns the paths of the fields without a description.
func withoutDescription(path string, schema map[string]any) (missing []string) {
	properties, _ := schema["properties"].(map[string]any)
	for name, property := range properties {
		property, at := property.(map[string]any), path+"."+name
		if name == "metadata" && property["properties"] == nil {
			continue // Kubernetes describes it
		}
		if text, _ := property["description"].(string); text == "" {
			missing = append(missing, at)
		}
		missing = append(missing, withoutDescription(at, property)...)
	}
	for _, inner := range []string{"items", "additionalProperties"} {
		if below, ok := schema[inner].(map[string]any); ok {
			missing = append(missing, withoutDescription(path+"[]", below)...)
		}
	}
	return missing
}

// TestEveryTableShowsAge looks at the columns of kubectl get.
func TestEveryTableShowsAge(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, _ string, version map[string]any) {
		columns, _, err := unstructured.NestedSlice(version, "additionalPrinterColumns")
		if err != nil {
			t.Fatal(err)
		}
		age := false
		for _, column := range columns {
			column := column.(map[string]any)
			if text, _ := column["description"].(string); text == "" {
				t.Errorf("column %s has no description", column["name"])
			}
			age = age || column["name"] == "AGE" && column["priority"] == nil
		}
		if !age {
			t.Error("no column AGE")
		}
	})
}

func eachVersion(t *testing.T, check func(t *testing.T, kind string, version map[string]any)) {
	t.Helper()
	all, err := All()
	if err != nil || len(all) == 0 {
		t.Fatalf("%d definitions, error %v", len(all), err)
	}
	for _, definition := range all {
		kind, _, _ := unstructured.NestedString(definition.Object, "spec", "names", "kind")
		versions, _, err := unstructured.NestedSlice(definition.Object, "spec", "versions")
		if err != nil || len(versions) == 0 {
			t.Fatalf("%s: %d versions, error %v", kind, len(versions), err)
		}
		for _, version := range versions {
			version := version.(map[string]any)
			t.Run(fmt.Sprintf("%s %s", kind, version["name"]), func(t *testing.T) { check(t, kind, version) })
		}
	}
}
