package reclaim

import (
	"strconv"
	"strings"
)

// Kinds of owners in lease.Holder.FixedFor.
const (
	KindPod            = "Pod"            // a pod of a StatefulSet
	KindVirtualMachine = "VirtualMachine" // a virtual machine of KubeVirt
)

// ParseOwner splits a lease.Holder.FixedFor, e.g. "Pod/default/web-0", into kind,
// namespace and name. It returns false for any other text and for unknown kinds.
func ParseOwner(fixedFor string) (kind, namespace, name string, ok bool) {
	parts := strings.Split(fixedFor, "/")
	if len(parts) != 3 || parts[0] != KindPod && parts[0] != KindVirtualMachine || parts[1] == "" || parts[2] == "" {
		return "", "", "", false
	}
	return parts[0], parts[1], parts[2], true
}

// StatefulSetOf splits the name of a StatefulSet's pod into the name of the
// StatefulSet and the ordinal: "web-0" is pod 0 of "web". It returns false for a
// name without an ordinal.
func StatefulSetOf(pod string) (set string, ordinal int, ok bool) {
	dash := strings.LastIndexByte(pod, '-')
	if dash < 0 {
		return "", 0, false
	}
	ordinal, err := strconv.Atoi(pod[dash+1:])
	return pod[:dash], ordinal, err == nil
}

// retains reports whether the policy retains addresses for the owner. An unknown
// kind may come from a later release, so its addresses are retained.
func (p Policy) retains(fixedFor string) bool {
	switch kind, _, _, _ := ParseOwner(fixedFor); kind {
	case KindPod:
		return p.FixedForStatefulSet
	case KindVirtualMachine:
		return p.FixedForKubeVirt
	}
	return true
}
