package lease

import (
	"strconv"
	"strings"
)

// PodKey names a pod.
type PodKey struct{ Namespace, Name string }

// ParsePodKey is the inverse of PodKey.String.
func ParsePodKey(text string) PodKey {
	namespace, name, found := strings.Cut(text, "/")
	if !found {
		return PodKey{Name: text}
	}
	return PodKey{namespace, name}
}

// String returns e.g. "default/web-0", and "" for the zero value.
func (k PodKey) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// MarshalText returns String, for logs.
func (k PodKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (k *PodKey) UnmarshalText(text []byte) error {
	*k = ParsePodKey(string(text))
	return nil
}

// Kinds of owners.
const (
	KindPod            = "Pod"            // a pod of a StatefulSet
	KindVirtualMachine = "VirtualMachine" // a virtual machine of KubeVirt
)

// Owner is the owner of a fixed address. A later release may know more kinds, so an
// owner of an unknown kind is kept as it is. The zero value is no owner.
//
// An owner has no UID: like the volumes of a StatefulSet, its addresses outlive the
// pods and instances with this name.
type Owner struct{ Kind, Namespace, Name string }

// ParseOwner is the inverse of Owner.String.
func ParseOwner(text string) Owner {
	kind, rest, _ := strings.Cut(text, "/")
	namespace, name, _ := strings.Cut(rest, "/")
	return Owner{kind, namespace, name}
}

// String returns e.g. "Pod/default/web-0", and "" for the zero value.
func (o Owner) String() string {
	return strings.TrimRight(o.Kind+"/"+o.Namespace+"/"+o.Name, "/")
}

// MarshalText returns String, for logs.
func (o Owner) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// IsZero reports whether there is no owner.
func (o Owner) IsZero() bool { return o == Owner{} }

// Key returns the owner's namespace and name, which are those of its SpiderEndpoint.
func (o Owner) Key() PodKey { return PodKey{o.Namespace, o.Name} }

// StatefulSet returns the StatefulSet of a pod and the pod's ordinal: "Pod/ns/web-0"
// is pod 0 of "web". It returns false for another kind and for a name without an
// ordinal.
func (o Owner) StatefulSet() (name string, ordinal int, ok bool) {
	dash := strings.LastIndexByte(o.Name, '-')
	if o.Kind != KindPod || dash < 1 {
		return "", 0, false
	}
	ordinal, err := strconv.Atoi(o.Name[dash+1:])
	if err != nil || strconv.Itoa(ordinal) != o.Name[dash+1:] {
		return "", 0, false
	}
	return o.Name[:dash], ordinal, true
}
