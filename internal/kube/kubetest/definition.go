package kubetest

import (
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Definition is that of a kind without namespaces, which accepts any object. plural is the
// name of its resource, e.g. "ippools".
func Definition(kind schema.GroupVersionKind, plural string) *apiextensionsv1.CustomResourceDefinition {
	keep := true
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: plural + "." + kind.Group},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: kind.Group, Scope: apiextensionsv1.ClusterScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Kind: kind.Kind},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: kind.Version, Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &keep}},
			}},
		},
	}
}

// TakeDefinition deletes a definition with its objects, and returns it for another creation.
func TakeDefinition(tb testing.TB, c client.Client, name string) *apiextensionsv1.CustomResourceDefinition {
	tb.Helper()
	if err := apiextensionsv1.AddToScheme(c.Scheme()); err != nil {
		tb.Fatal(err)
	}
	definition := &apiextensionsv1.CustomResourceDefinition{}
	if err := c.Get(tb.Context(), client.ObjectKey{Name: name}, definition); err != nil {
		tb.Fatal(err)
	}
	Remove(tb, c, definition.DeepCopy())
	definition.ResourceVersion, definition.UID, definition.Status = "", "", apiextensionsv1.CustomResourceDefinitionStatus{}
	return definition
}
