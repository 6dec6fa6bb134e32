package agentclient

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/internal/ipam"
)

// podMemory tells which pods end.
type podMemory struct {
	*memory[ipam.Pod]
	ends func(uid string) // nil: nobody wants to know
}

func (m *podMemory) replace(ctx context.Context, all []*metav1.PartialObjectMetadata, version string) error {
	alive := make(map[string]bool, len(all))
	for _, object := range all {
		alive[uidOf(object)] = object.DeletionTimestamp == nil
	}
	for _, uid := range m.uids() {
		if !alive[uid] {
			m.ended(uid)
		}
	}
	return m.memory.replace(ctx, all, version)
}

func (m *podMemory) uids() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	uids := make([]string, 0, len(m.objects))
	for _, pod := range m.objects {
		uids = append(uids, pod.UID)
	}
	return uids
}

func (m *podMemory) changed(object *metav1.PartialObjectMetadata) {
	m.memory.changed(object)
	if object.DeletionTimestamp != nil {
		m.ended(uidOf(object))
	}
}

func (m *podMemory) deleted(object *metav1.PartialObjectMetadata) {
	m.memory.deleted(object)
	m.ended(uidOf(object))
}

func (m *podMemory) ended(uid string) {
	if m.ends != nil {
		m.ends(uid)
	}
}

// finishedPods tells of the pods that have succeeded or failed, which their metadata
// does not say.
type finishedPods struct{ *podMemory }

func (f finishedPods) replace(_ context.Context, all []*metav1.PartialObjectMetadata, _ string) error {
	for _, object := range all {
		f.changed(object)
	}
	return nil
}

func (f finishedPods) changed(object *metav1.PartialObjectMetadata) { f.ended(uidOf(object)) }

func (finishedPods) deleted(*metav1.PartialObjectMetadata) {} // told by the follower of all pods
