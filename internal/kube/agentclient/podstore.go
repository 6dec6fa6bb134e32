package agentclient

import (
	"context"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/lease"
)

// podStore stores the pods of the node. It reports the UIDs of ended ones, and changes of
// annotations and labels.
type podStore struct {
	*store[ipam.Pod]
	ends      func(uid string)   // may be nil
	annotated func()             // may be nil
	labeled   func(lease.PodKey) // may be nil
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
	var relabeled []ipam.Pod
	for _, object := range all {
		if pod := podOf(object); s.isRelabeled(pod) {
			relabeled = append(relabeled, pod)
		}
	}
	err := s.store.replace(ctx, all, version)
	for _, pod := range relabeled {
		s.labeled(pod.PodKey)
	}
	if s.annotated != nil {
		s.annotated()
	}
	return err
}

// isRelabeled reports whether the store lacks the pod, or has it with other labels.
func (s *podStore) isRelabeled(pod ipam.Pod) bool {
	if s.labeled == nil {
		return false
	}
	before, ok, _ := s.get(key{pod.Namespace, pod.Name})
	return !ok || before.UID != pod.UID || !maps.Equal(before.Labels, pod.Labels)
}

// pods returns all pods.
func (s *podStore) pods() []ipam.Pod {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Collect(maps.Values(s.objects))
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
	before, _, _ := s.get(key{object.Namespace, object.Name})
	pod := podOf(object)
	relabeled := s.isRelabeled(pod)
	s.store.changed(object)
	if relabeled {
		s.labeled(pod.PodKey)
	}
	if s.annotated != nil && !maps.Equal(before.Annotations, relevant(object.Annotations)) {
		s.annotated()
	}
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
