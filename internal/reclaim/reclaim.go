// Package reclaim decides which leases may be ended although no DEL ended them,
// and why.
//
// It never frees on doubt. An address goes back only if its pod no longer has a
// claim to it, and if there is proof that nothing uses it: the agent of its node
// says that the container runtime has no such sandbox, or the node is gone, or an
// operator has declared it out of service. What is not known counts against
// freeing.
//
// Pure: facts are observed elsewhere and passed in, the time too.
package reclaim

import (
	"fmt"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
)

// Defaults of a Policy.
const (
	// DefaultMinAge covers the time in which a runtime may not list a sandbox yet
	// whose interfaces already have addresses: the kubelet gives the creation of a
	// sandbox four minutes (twice its runtimeRequestTimeout).
	DefaultMinAge = 5 * time.Minute
	// DefaultScaledDownRetention is how long the addresses of a StatefulSet's pod
	// that was scaled away wait for it.
	DefaultScaledDownRetention = time.Hour
)

// Policy is what the installation allows.
type Policy struct {
	// Enabled is ipam.gc.enabled; without it nothing is ended.
	Enabled bool
	// ZombieOnReadyNode and ZombieOnNotReadyNode
	// (ipam.gc.statelessPod.zombieOn…) allow to take the addresses of a pod that
	// terminates for too long, on a node that is ready or that is not.
	ZombieOnReadyNode    bool
	ZombieOnNotReadyNode bool
	// RunningPodWithoutAddress
	// (ipam.gc.statelessPod.enableGcRunningPodOnEmptyPodStatusIPs) allows to take
	// the addresses of a pod that runs and has none in its status.
	RunningPodWithoutAddress bool
	// TerminatingDelay (ipam.gc.gcDeletingTimeOutPodDelay) is how long beyond its
	// grace period a pod may terminate.
	TerminatingDelay time.Duration
	// FixedForStatefulSet and FixedForKubeVirt (ipam.enableStatefulSet,
	// ipam.enableKubevirtStaticIP): where off, nothing is retained for such owners
	// any more.
	FixedForStatefulSet bool
	FixedForKubeVirt    bool
	// MinAge is how old a lease in use must be before it is judged.
	MinAge time.Duration
	// ScaledDownRetention is how long addresses wait for the pod of a StatefulSet
	// that has fewer replicas now; negative means as long as the StatefulSet.
	ScaledDownRetention time.Duration
}

// Facts are what was observed about the lease's pod, node, sandbox and owner. They
// must have been read after the lease. The zero value of each means that it is
// not known.
type Facts struct {
	Pod     Pod
	Node    Node
	Sandbox Sandbox
	// OtherSandbox: the runtime has another sandbox of the lease's pod.
	OtherSandbox bool
	Owner        Owner // of Lease.FixedFor
	// Replaced: the owner has another address in use for the interface and the IP
	// version of the lease.
	Replaced bool
}

// Presence says whether an object exists.
type Presence int

// Presences.
const (
	Unknown Presence = iota // it could not be read
	Gone                    // the API server says that there is none
	Exists
)

// Pod is the pod that has the name in the lease.
type Pod struct {
	Presence Presence
	UID      string
	Phase    string // status.phase
	// Deadline is metadata.deletionTimestamp, which includes the grace period; zero
	// while the pod is not being deleted.
	Deadline time.Time
	// HasAddress: status.podIPs is not empty.
	HasAddress bool
}

// Node is the node that has the name in the lease.
type Node struct {
	Presence Presence
	Ready    bool
	// OutOfService: an operator put the taint node.kubernetes.io/out-of-service on
	// the node, which says that it is powered off or fenced.
	OutOfService bool
}

// Sandbox is what the agent of the lease's node says about the sandbox with the
// lease's container ID.
type Sandbox int

// Sandboxes.
const (
	SandboxUnknown Sandbox = iota // the controller judges, or the runtime cannot be reached
	Present                       // the runtime has it, or the agent is adding an interface to it
	NotPresent                    // neither
)

// Owner is whom an address is fixed for.
type Owner int

// Owners.
const (
	OwnerUnknown Owner = iota
	// OwnerWanted: the StatefulSet exists and has the replica, or the virtual machine
	// exists.
	OwnerWanted
	// OwnerScaledDown: the StatefulSet exists with fewer replicas.
	OwnerScaledDown
	// OwnerGone: the StatefulSet is gone; or the virtual machine, its instance and
	// all of its pods are.
	OwnerGone
)

// Action is what is to be done with a lease.
type Action int

// Actions.
const (
	Keep   Action = iota
	Retain        // keep the address for its owner (lease.Block.Retain)
	Free          // hand the address out again (lease.Block.Reclaim)
)

// Reason says why, in the form of the reasons of events and metrics.
type Reason string

// Reasons to end a lease.
const (
	PodGone           Reason = "PodGone"
	PodReplaced       Reason = "PodReplaced" // a pod of another UID has the name
	PodSucceeded      Reason = "PodSucceeded"
	PodFailed         Reason = "PodFailed"
	PodTerminating    Reason = "PodTerminatingTooLong"
	PodWithoutAddress Reason = "PodWithoutAddress"
	SandboxGone       Reason = "SandboxGone" // the pod has another sandbox now
	FixedOwnerGone    Reason = "OwnerGone"
	FixedScaledDown   Reason = "OwnerScaledDown"
	FixedSwitchedOff  Reason = "FixedAddressesOff"
	FixedReplaced     Reason = "OwnerHasAnother"
)

// Reasons to keep one.
const (
	Disabled     Reason = "Disabled"
	NotHeld      Reason = "NotHeld" // released or quarantined: frees itself
	TooYoung     Reason = "TooYoung"
	PodAlive     Reason = "PodAlive"
	PodUnknown   Reason = "PodUnknown"
	SandboxAlive Reason = "SandboxAlive"
	NoProof      Reason = "NoProof"
	FixedWanted  Reason = "OwnerWanted"
	FixedUnknown Reason = "OwnerUnknown"
)

// Verdict is a decision about a lease.
type Verdict struct {
	Action  Action
	Reason  Reason
	Message string // for logs and events, with what the decision rests on
}

// Judge decides about a lease.
func Judge(l lease.Lease, f Facts, p Policy, now time.Time) Verdict {
	switch {
	case !p.Enabled:
		return Verdict{Keep, Disabled, "ipam.gc.enabled is false"}
	case l.State == lease.Retained:
		return judgeRetained(l, f, p, now)
	case l.State != lease.InUse:
		return Verdict{Keep, NotHeld, fmt.Sprintf("it is %s", l.State)}
	}
	if age := now.Sub(l.Since); age < p.MinAge {
		return Verdict{Keep, TooYoung, fmt.Sprintf("it is in use since %s; leases are judged from an age of %s on", age, p.MinAge)}
	}
	v := claim(l, f, p, now)
	if v.Action == Keep {
		return v
	}
	if v = prove(v, l, f); v.Action == Free && l.FixedFor != "" {
		v.Action = endFixed(l, f, p)
	}
	return v
}

// claim says whether the pod still has a claim to the address of a lease in use:
// Keep where it has one or may have one, else Free and why, for which there is no
// proof yet.
func claim(l lease.Lease, f Facts, p Policy, now time.Time) Verdict {
	pod := f.Pod
	switch {
	case pod.Presence == Unknown:
		return Verdict{Keep, PodUnknown, fmt.Sprintf("pod %s could not be read", l.Pod)}
	case pod.Presence == Gone:
		return Verdict{Free, PodGone, fmt.Sprintf("pod %s does not exist", l.Pod)}
	case pod.UID != l.PodUID:
		return Verdict{Free, PodReplaced, fmt.Sprintf("pod %s now has UID %s, the lease is of %s", l.Pod, pod.UID, l.PodUID)}
	case pod.Phase == "Succeeded":
		return Verdict{Free, PodSucceeded, fmt.Sprintf("pod %s succeeded", l.Pod)}
	case pod.Phase == "Failed":
		return Verdict{Free, PodFailed, fmt.Sprintf("pod %s failed", l.Pod)}
	}
	// What the switches are about is theirs alone to decide.
	stateless := l.FixedFor == ""
	switch {
	case stateless && !pod.Deadline.IsZero():
		return terminating(l, f, p, now)
	case stateless && pod.Phase == "Running" && !pod.HasAddress && p.RunningPodWithoutAddress:
		return Verdict{Free, PodWithoutAddress, fmt.Sprintf("pod %s runs without an address in status.podIPs", l.Pod)}
	case stateless && pod.Phase == "Running" && !pod.HasAddress:
		return Verdict{Keep, PodAlive, fmt.Sprintf("pod %s runs, and addresses of pods without one in status.podIPs are not taken back", l.Pod)}
	case f.Sandbox == NotPresent && f.OtherSandbox:
		return Verdict{Free, SandboxGone, fmt.Sprintf("pod %s has another sandbox than %s now", l.Pod, l.ContainerID)}
	}
	return Verdict{Keep, PodAlive, fmt.Sprintf("pod %s has it", l.Pod)}
}

// terminating says whether the switches allow to take the addresses of a pod that
// is being deleted because it terminates for too long. They are about pods without
// fixed addresses.
func terminating(l lease.Lease, f Facts, p Policy, now time.Time) Verdict {
	allowed, condition := p.ZombieOnNotReadyNode, "not ready"
	if f.Node.Ready {
		allowed, condition = p.ZombieOnReadyNode, "ready"
	}
	late := now.Sub(f.Pod.Deadline)
	switch {
	case f.Node.Presence == Unknown:
		return Verdict{Keep, PodAlive, fmt.Sprintf("pod %s terminates, and node %s could not be read", l.Pod, l.Node)}
	case !allowed:
		return Verdict{Keep, PodAlive, fmt.Sprintf("pod %s terminates, and addresses of such pods are not taken back on nodes that are %s", l.Pod, condition)}
	case late < p.TerminatingDelay:
		return Verdict{Keep, PodAlive, fmt.Sprintf("pod %s terminates, and is given %s beyond its grace period", l.Pod, p.TerminatingDelay)}
	}
	return Verdict{Free, PodTerminating, fmt.Sprintf("pod %s should have terminated %s ago on node %s, which is %s",
		l.Pod, late.Truncate(time.Second), l.Node, condition)}
}

// prove completes a verdict to free: with the proof that nothing uses the
// address, or to keep for the want of one.
func prove(v Verdict, l lease.Lease, f Facts) Verdict {
	switch {
	case f.Sandbox == Present: // whatever is said of its node
		return Verdict{Keep, SandboxAlive, fmt.Sprintf("%s, but node %s still has sandbox %s", v.Message, l.Node, l.ContainerID)}
	case l.Node != "" && f.Node.Presence == Gone:
		v.Message += fmt.Sprintf(", and node %s does not exist", l.Node)
		return v
	case l.Node != "" && f.Node.Presence == Exists && f.Node.OutOfService:
		v.Message += fmt.Sprintf(", and node %s has the taint node.kubernetes.io/out-of-service", l.Node)
		return v
	case f.Sandbox == NotPresent:
		v.Message += fmt.Sprintf(", and node %s has no sandbox %s", l.Node, l.ContainerID)
		return v
	}
	return Verdict{Keep, NoProof, fmt.Sprintf(
		"%s, but the agent of node %s does not say whether sandbox %s is gone; if the node will not come back, delete it, or power it off and give it the taint node.kubernetes.io/out-of-service",
		v.Message, l.Node, l.ContainerID)}
}

// endFixed says what becomes of a fixed address whose pod has no claim to it any
// more.
func endFixed(l lease.Lease, f Facts, p Policy) Action {
	if f.Owner == OwnerGone || !p.retains(l.FixedFor) {
		return Free
	}
	return Retain
}

// judgeRetained decides about an address that waits for its owner. Nothing uses
// it, so there is nothing to prove.
func judgeRetained(l lease.Lease, f Facts, p Policy, now time.Time) Verdict {
	switch {
	case !p.retains(l.FixedFor):
		return Verdict{Free, FixedSwitchedOff, fmt.Sprintf("addresses are no longer fixed for owners such as %s", l.FixedFor)}
	case f.Replaced:
		return Verdict{Free, FixedReplaced, fmt.Sprintf("%s, which it waits for, has another IPv%d address for %s", l.FixedFor, inet.Version(l.Addr), l.Interface)}
	case f.Owner == OwnerGone:
		return Verdict{Free, FixedOwnerGone, fmt.Sprintf("%s, which it waits for, is gone for good", l.FixedFor)}
	case f.Owner == OwnerScaledDown:
		waited := now.Sub(l.Since)
		if p.ScaledDownRetention >= 0 && waited >= p.ScaledDownRetention {
			return Verdict{Free, FixedScaledDown, fmt.Sprintf("%s was scaled away, and did not come back for %s", l.FixedFor, waited.Truncate(time.Second))}
		}
		return Verdict{Keep, FixedWanted, fmt.Sprintf("%s was scaled away and may come back", l.FixedFor)}
	case f.Owner == OwnerWanted:
		return Verdict{Keep, FixedWanted, fmt.Sprintf("it waits for %s", l.FixedFor)}
	}
	return Verdict{Keep, FixedUnknown, fmt.Sprintf("%s could not be read", l.FixedFor)}
}
