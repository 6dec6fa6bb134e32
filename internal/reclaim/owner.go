package reclaim

import "spiderpool.dev/spiderpool/internal/lease"

// StatefulSetPod returns the state of the owner of an address that is fixed for a pod. find returns the ordinals [first, end) of
// a StatefulSet in the namespace of the pod, and false if it does not exist. Only StatefulSets give pods the same name again.
func StatefulSetPod(pod lease.Owner, find func(name string) (first, end int, exists bool)) Owner {
	name, ordinal, ok := pod.StatefulSet()
	if !ok {
		return OwnerGone
	}
	switch first, end, exists := find(name); {
	case !exists:
		return OwnerGone
	case ordinal < first || ordinal >= end:
		return OwnerScaledDown
	}
	return OwnerWanted
}
