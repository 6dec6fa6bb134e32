// Package definitions holds the custom resource definitions of this release. The program
// spiderpool-init writes them to the cluster before an installation or an upgrade.
//
// They are no part of the Helm chart. Helm 3 never updates the files of a chart's
// directory crds, and Helm 4 writes those of an older chart over newer ones:
// docs/adr/0023-definitions.md.
package definitions

import (
	"embed"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// files are generated from the types in api/v2beta1: hack/generate.sh.
//
// Those in others belong to other projects.
//
//go:embed crds/*.yaml
//go:embed others/*.yaml
var files embed.FS

// All returns the CustomResourceDefinitions of Spiderpool, sorted by name.
func All() ([]*unstructured.Unstructured, error) { return read("crds") }

// Others returns the definitions of other projects that an installation may create, e.g.
// network-attachment-definitions.k8s.cni.cncf.io, sorted by name.
func Others() ([]*unstructured.Unstructured, error) { return read("others") }

func read(directory string) ([]*unstructured.Unstructured, error) {
	entries, err := files.ReadDir(directory)
	if err != nil {
		return nil, err
	}
	var list []*unstructured.Unstructured
	for _, entry := range entries {
		text, err := files.ReadFile(directory + "/" + entry.Name())
		if err != nil {
			return nil, err
		}
		definition := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(text, &definition.Object); err != nil {
			return nil, fmt.Errorf("read %s: %w", entry.Name(), err)
		}
		list = append(list, definition)
	}
	return list, nil
}
