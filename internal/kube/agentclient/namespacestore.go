package agentclient

import (
	"context"
	"maps"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/internal/pool"
)

// namespaceStore stores the namespaces. It reports changes of labels.
type namespaceStore struct {
	*store[pool.NamespaceFacts]
	labeled func(name string) // may be nil
}

func (s *namespaceStore) replace(ctx context.Context, all []*metav1.PartialObjectMetadata, version string) error {
	var changed []string
	for _, object := range all {
		if s.isRelabeled(object) {
			changed = append(changed, object.Name)
		}
	}
	err := s.store.replace(ctx, all, version)
	for _, name := range changed {
		s.labeled(name)
	}
	return err
}

func (s *namespaceStore) isRelabeled(object *metav1.PartialObjectMetadata) bool {
	if s.labeled == nil {
		return false
	}
	before, known, _ := s.get(key{"", object.Name})
	return !known || !maps.Equal(before.Labels, object.Labels)
}

func (s *namespaceStore) changed(object *metav1.PartialObjectMetadata) {
	relabeled := s.isRelabeled(object)
	s.store.changed(object)
	if relabeled {
		s.labeled(object.Name)
	}
}
