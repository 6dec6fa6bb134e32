package agentclient

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/internal/ipam"
)

// podStore stores the pods of the node and reports the UIDs of ended ones.
type podStore struct {
	*store[ipam.Pod]
	ends func(uid string) // may be nil
}

func (s *podStore) replace(ctx context.Context, all []*metav1.PartialObjectMetadata, version string) error {
	alive := make(map[string]bool, len(all))
	for _, object := range all {
		alive[uidOf(object)] = object.DeletionTimestamp == nil
	}
	for _, uid := range s.uids() {
		if !alive[uid] {
			s.ended(uid)
		}
	}
	return s.store.replace(ctx, all, version)
}

func (s *podStore) uids() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	uids := make([]string, 0, len(s.objects))
	for _, pod := range s.objects {
		uids = append(uids, pod.UID)
	}
	return uids
}

func (s *podStore) changed(object *metav1.PartialObjectMetadata) {
	s.store.changed(object)
	if object.DeletionTimestamp != nil {
		s.ended(uidOf(object))
	}
}

func (s *podStore) deleted(object *metav1.PartialObjectMetadata) {
	s.store.deleted(object)
	s.ended(uidOf(object))
}

func (s *podStore) ended(uid string) {
	if s.ends != nil {
		s.ends(uid)
	}
}

// finishedPods handles the pods that have succeeded or failed. The phase is not in the
// metadata, so they have a watch of their own with a field selector.
type finishedPods struct{ *podStore }

func (f finishedPods) replace(_ context.Context, all []*metav1.PartialObjectMetadata, _ string) error {
	for _, object := range all {
		f.changed(object)
	}
	return nil
}

func (f finishedPods) changed(object *metav1.PartialObjectMetadata) { f.ended(uidOf(object)) }

func (finishedPods) deleted(*metav1.PartialObjectMetadata) {} // podStore reports it
