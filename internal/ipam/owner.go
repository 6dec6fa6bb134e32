package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// Owners reads, live, the objects that pods name as their controllers.
type Owners interface {
	// StatefulSet returns a StatefulSet of the API group apps. ErrNotFound.
	StatefulSet(ctx context.Context, namespace, name string) (StatefulSet, error)
	// VirtualMachineInstance returns an instance of KubeVirt. ErrNotFound, also if the
	// cluster has no KubeVirt.
	VirtualMachineInstance(ctx context.Context, namespace, name string) (VirtualMachineInstance, error)
}

// StatefulSet is the part of a StatefulSet that proves its pods. Their ordinals are
// in the range [First, End).
type StatefulSet struct {
	UID        string
	First, End int
}

// VirtualMachineInstance is the part of an instance that proves its pods.
type VirtualMachineInstance struct {
	UID string
	// ActivePods (status.activePods) are the UIDs of its pods. In a live migration
	// there are two.
	ActivePods map[string]bool
}

// proof is what the API server says about the owner in a pod's owner references.
// Every user that may create pods can write such a reference, so it proves nothing.
type proof struct {
	// owner is the owner of the pod's fixed addresses; zero if they are not fixed.
	owner lease.Owner
	// doubt says why the named owner is not the owner; "" if it is, and if the pod
	// names none.
	doubt string
	// peers are the UIDs of the other pods of the owner.
	peers map[string]bool
}

// prove looks up the owner that the pod names. An owner is proven if it exists, has
// the UID of the reference, and acknowledges the pod.
func (s *Service) prove(ctx context.Context, pod Pod) (proof, error) {
	switch {
	case s.Options.FixStatefulSet && pod.Owner.is("apps", "StatefulSet"):
		set, err := s.Owners.StatefulSet(ctx, pod.Namespace, pod.Owner.Name)
		return proveStatefulSet(pod, set, err)
	case s.Options.FixVirtualMachine && pod.Owner.is("kubevirt.io", "VirtualMachineInstance"):
		instance, err := s.Owners.VirtualMachineInstance(ctx, pod.Namespace, pod.Owner.Name)
		return proveInstance(pod, instance, err)
	}
	return proof{}, nil
}

func proveStatefulSet(pod Pod, set StatefulSet, err error) (proof, error) {
	if doubt, err := pod.Owner.differs(set.UID, err); doubt != "" || err != nil {
		return proof{doubt: doubt}, err
	}
	owner := lease.Owner{Kind: lease.KindPod, Namespace: pod.Namespace, Name: pod.Name}
	switch name, ordinal, ok := owner.StatefulSet(); {
	case !ok || name != pod.Owner.Name:
		return proof{doubt: fmt.Sprintf("pods of StatefulSet %s are named %s-0, %s-1, …", pod.Owner.Name, pod.Owner.Name, pod.Owner.Name)}, nil
	case ordinal < set.First || ordinal >= set.End:
		return proof{doubt: fmt.Sprintf("StatefulSet %s has spec.replicas %d from ordinal %d", name, set.End-set.First, set.First)}, nil
	}
	return proof{owner: owner}, nil
}

// proveInstance proves a pod of a VirtualMachineInstance, which has the name of its
// VirtualMachine. KubeVirt creates a pod before it lists it, so an unlisted pod gets
// no address yet: as an ordinary pod, it would lose its fixed address.
func proveInstance(pod Pod, instance VirtualMachineInstance, err error) (proof, error) {
	if doubt, err := pod.Owner.differs(instance.UID, err); doubt != "" || err != nil {
		return proof{doubt: doubt}, err
	}
	if !instance.ActivePods[pod.UID] {
		return proof{}, &Error{
			Kind: Unavailable, Msg: fmt.Sprintf("VirtualMachineInstance %s/%s does not list pod %s yet", pod.Namespace, pod.Owner.Name, pod.Name),
			Details: fmt.Sprintf("status.activePods lacks the UID %s; virt-controller of KubeVirt adds it", pod.UID),
		}
	}
	peers := maps.Clone(instance.ActivePods)
	delete(peers, pod.UID)
	return proof{owner: lease.Owner{Kind: lease.KindVirtualMachine, Namespace: pod.Namespace, Name: pod.Owner.Name}, peers: peers}, nil
}

// differs compares the controller in an owner reference with the UID of the object
// of its name, or the error of reading it. It returns the difference.
func (c Controller) differs(uid string, err error) (doubt string, _ error) {
	switch {
	case errors.Is(err, ErrNotFound):
		return fmt.Sprintf("there is no %s %s", c.Kind, c.Name), nil
	case err != nil:
		return "", fmt.Errorf("read %s %s, the owner of the pod: %w", c.Kind, c.Name, err)
	case uid != c.UID:
		return fmt.Sprintf("%s %s has the UID %s, not %s", c.Kind, c.Name, uid, c.UID), nil
	}
	return "", nil
}

// mayReplace returns nil if the pod may take over a fixed address that another pod of
// its owner has in use, and else an *Error. Without this live check, the late ADD of a
// deleted pod could take the address from the living pod with its name.
func (s *Service) mayReplace(ctx context.Context, pod Pod, p proof, l lease.Lease) error {
	self, err := s.Cluster.PodState(ctx, pod.PodKey)
	if err != nil {
		return err
	}
	if self.UID != pod.UID {
		return deletedPod(pod.PodKey, pod.UID, fmt.Sprintf("address %s is in use by the pod with UID %s", l.Addr, l.PodUID))
	}
	if p.peers[l.PodUID] {
		return nil // in a live migration, both pods have the address
	}
	holder, err := s.Cluster.PodState(ctx, l.Pod)
	if err != nil {
		return err
	}
	if holder.Presence == reclaim.Gone || holder.UID != l.PodUID || slices.Contains([]string{"Succeeded", "Failed"}, holder.Phase) {
		return nil
	}
	return &Error{Kind: Unavailable, Msg: fmt.Sprintf("address %s of %s is in use by pod %s until it ends", l.Addr, l.FixedFor, l.Pod)}
}

func deletedPod(name lease.PodKey, uid, details string) *Error {
	return &Error{Kind: Refused, Msg: fmt.Sprintf("there is no pod %s with UID %q; it was deleted or replaced", name, uid), Details: details}
}
