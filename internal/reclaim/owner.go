package reclaim

import (
	"strconv"
	"strings"
)

// Kinds of lease.Holder.FixedFor.
const (
	KindPod            = "Pod"            // of a StatefulSet
	KindVirtualMachine = "VirtualMachine" // of KubeVirt
)

// ParseOwner splits a lease.Holder.FixedFor, "kind/namespace/name", and returns
// false where it is none.
func ParseOwner(fixedFor string) (kind, namespace, name string, ok bool) {
	parts := strings.Split(fixedFor, "/")
	if len(parts) != 3 || parts[0] != KindPod && parts[0] != KindVirtualMachine || parts[1] == "" || parts[2] == "" {
		return "", "", "", false
	}
	return parts[0], parts[1], parts[2], true
}

// StatefulSetOf returns the StatefulSet that a pod of that name is of, and its
// ordinal there; false where no StatefulSet has pods of such names.
func StatefulSetOf(pod string) (set string, ordinal int, ok bool) {
	dash := strings.LastIndexByte(pod, '-')
	if dash < 0 {
		return "", 0, false
	}
	ordinal, err := strconv.Atoi(pod[dash+1:])
	return pod[:dash], ordinal, err == nil
}

// retains reports whether addresses are kept for the owner. One of a kind that is
// not known may be of a later release: its addresses are kept.
func (p Policy) retains(fixedFor string) bool {
	switch kind, _, _, _ := ParseOwner(fixedFor); kind {
	case KindPod:
		return p.FixedForStatefulSet
	case KindVirtualMachine:
		return p.FixedForKubeVirt
	}
	return true
}
