// Package reclaim decides which leases end without a CNI DEL, and why.
//
// It never frees on doubt. An address is freed only if two things hold: its pod has
// no more right to it, and there is proof that no container uses it. Three facts
// are proof: the container runtime of the node does not list the sandbox, the Node
// object does not exist, or an operator has declared the node out of service. An
// unknown fact speaks against freeing.
//
// The package is pure: callers observe the facts and pass them in. Durations come from the
// observer's own clock (lease.Sightings), since a stored time may come from another clock.
// Agents judge the leases of their own node, because only they can ask its runtime.
// The controller judges the leases of nodes without an agent, and retained leases.
package reclaim

import (
	"fmt"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
)

// Defaults of a Policy.
const (
	// DefaultMinAge protects new sandboxes: a runtime may list a sandbox only after
	// its interfaces got addresses. The kubelet allows four minutes for the creation
	// of a sandbox (twice its runtimeRequestTimeout).
	DefaultMinAge = 5 * time.Minute
	// DefaultScaledDownRetention is how long the addresses of a StatefulSet's pod stay
	// reserved after the StatefulSet was scaled down, or its pod runs without them.
	DefaultScaledDownRetention = time.Hour
)

// Policy holds the rules of the installation. The fields name their Helm values.
type Policy struct {
	// Enabled (ipam.gc.enabled): if false, no lease ends without a DEL.
	Enabled bool
	// ZombieOnReadyNode and ZombieOnNotReadyNode (ipam.gc.statelessPod.zombieOn…)
	// allow reclaiming from pods that exceed their grace period, by the condition
	// Ready of the node.
	ZombieOnReadyNode    bool
	ZombieOnNotReadyNode bool
	// RunningPodWithoutAddress
	// (ipam.gc.statelessPod.enableGcRunningPodOnEmptyPodStatusIPs) allows reclaiming
	// from running pods without an address in status.podIPs.
	RunningPodWithoutAddress bool
	// TerminatingDelay (ipam.gc.gcDeletingTimeOutPodDelay) is how long a pod may
	// exceed its grace period.
	TerminatingDelay time.Duration
	// FixedForStatefulSet and FixedForKubeVirt (ipam.enableStatefulSet,
	// ipam.enableKubevirtStaticIP): if false, no address is retained for such owners.
	FixedForStatefulSet bool
	FixedForKubeVirt    bool
	// MinAge is the least age of a lease in use to be judged.
	MinAge time.Duration
	// ScaledDownRetention is how long the addresses of a pod stay reserved after its
	// StatefulSet was scaled down, or after the pod came back without Spiderpool. A
	// negative value means as long as the StatefulSet exists.
	ScaledDownRetention time.Duration
}

// Facts are observations about a lease. Read them after the lease: older facts may
// describe an earlier holder of the address. The zero value of each means unknown.
type Facts struct {
	// Age is for how long the observer has known the holder.
	Age time.Duration
	Pod Pod
	// Terminating is for how long the observer has known that the pod is terminating.
	Terminating time.Duration
	Node        Node
	Sandbox     Sandbox
	// OtherSandbox means that the runtime has another sandbox of the lease's pod.
	OtherSandbox bool
	Owner        Owner // of Lease.FixedFor
	// Unwanted is for how long the observer has known that the owner does not want the
	// address (OwnerScaledDown, OwnerLeft).
	Unwanted time.Duration
	// Replaced means that the owner uses another address of the same IP version for
	// the same interface.
	Replaced bool
	// Request is the request of a user to release the address.
	Request Request
}

// Request is the request of a user to release an address. It never stands for a proof, so it
// matters for retained addresses only.
type Request int

// Requests.
const (
	NoRequest Request = iota
	// Unneeded asks for the release of an address that its owner does not want now.
	Unneeded
	// Forced asks for the release even if the owner may come back for the address.
	Forced
)

// Presence says whether an object exists.
type Presence int

// Presences.
const (
	Unknown Presence = iota // reading it failed
	Gone                    // the API server has no such object
	Exists
)

// Pod describes the pod with the name in the lease. Its UID may differ.
type Pod struct {
	Presence Presence
	UID      string
	Phase    string // status.phase
	// Terminating means that the pod has a metadata.deletionTimestamp, and Grace is its
	// grace period (metadata.deletionGracePeriodSeconds).
	Terminating bool
	Grace       time.Duration
	// HasAddress means that status.podIPs is not empty.
	HasAddress bool
}

// Node describes the node with the name in the lease.
type Node struct {
	Presence Presence
	Ready    bool
	// OutOfService means that the node has the taint
	// node.kubernetes.io/out-of-service. Operators add it after they powered the node
	// off or fenced it.
	OutOfService bool
}

// Sandbox is the state of the sandbox with the lease's container ID, as the node's
// agent sees it.
type Sandbox int

// Sandboxes.
const (
	SandboxUnknown Sandbox = iota // the controller cannot ask the runtime
	Present                       // the runtime lists it, or an ADD for it is running
	NotPresent                    // neither
)

// Owner is the state of the owner of a fixed address (lease.Holder.FixedFor).
type Owner int

// Owners.
const (
	OwnerUnknown Owner = iota
	// OwnerWanted means that the StatefulSet has a replica with this ordinal, or that
	// the virtual machine exists.
	OwnerWanted
	// OwnerScaledDown means that the StatefulSet has no replica with this ordinal.
	OwnerScaledDown
	// OwnerLeft means that the StatefulSet's pod runs without any address of Spiderpool.
	OwnerLeft
	// OwnerGone means that the StatefulSet does not exist, or that neither the virtual
	// machine nor its instance nor any of its pods exists.
	OwnerGone
)

// Action is what to do with a lease.
type Action int

// Actions.
const (
	Keep   Action = iota
	Retain        // reserve the address for its owner (lease.Block.Retain)
	Free          // let any pod have the address (lease.Block.Reclaim)
)

// Reason is the reason for a verdict in CamelCase, for events and the label of metrics.
type Reason string

// Reasons to end a lease.
const (
	PodGone           Reason = "PodGone"
	PodReplaced       Reason = "PodReplaced" // the pod with this name has another UID
	PodSucceeded      Reason = "PodSucceeded"
	PodFailed         Reason = "PodFailed"
	PodTerminating    Reason = "PodTerminatingTooLong"
	PodWithoutAddress Reason = "PodWithoutAddress"
	SandboxGone       Reason = "SandboxGone" // the pod runs in another sandbox
	FixedOwnerGone    Reason = "OwnerGone"
	FixedScaledDown   Reason = "OwnerScaledDown"
	FixedLeft         Reason = "OwnerLeft" // the owner no longer uses Spiderpool
	FixedSwitchedOff  Reason = "FixedAddressesOff"
	FixedReplaced     Reason = "OwnerHasAnother"
	UserRequest       Reason = "UserRequest" // of a retained address
)

// Reasons are all reasons to end a lease.
var Reasons = []Reason{
	PodGone, PodReplaced, PodSucceeded, PodFailed, PodTerminating, PodWithoutAddress, SandboxGone,
	FixedOwnerGone, FixedScaledDown, FixedLeft, FixedSwitchedOff, FixedReplaced,
	UserRequest,
}

// Reasons to keep a lease.
const (
	Disabled     Reason = "Disabled"
	NotHeld      Reason = "NotHeld" // released or quarantined: it expires by itself; or withheld
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
	Message string // for logs and events, with the facts behind the decision
}

// Judge decides about one lease.
func Judge(l lease.Lease, f Facts, p Policy) Verdict {
	if l.State == lease.Retained && requested(f) {
		return Verdict{Free, UserRequest, fmt.Sprintf("a user asked for the release of the address of %s", l.FixedFor)}
	}
	switch {
	case !p.Enabled:
		return Verdict{Keep, Disabled, "ipam.gc.enabled is false"}
	case l.State == lease.Retained:
		return judgeRetained(l, f, p)
	case l.State != lease.InUse:
		return Verdict{Keep, NotHeld, fmt.Sprintf("the lease is %s", l.State)}
	}
	if f.Age < p.MinAge {
		return Verdict{Keep, TooYoung, fmt.Sprintf("the lease is %s old; only leases of %s or more are judged", f.Age, p.MinAge)}
	}
	v := judgePod(l, f, p)
	if v.Action == Keep {
		return v
	}
	if v = prove(v, l, f); v.Action == Free && !l.FixedFor.IsZero() {
		v.Action = endFixed(l, f, p)
	}
	return v
}

// judgePod returns Keep if the pod of a lease in use has, or may have, a
// right to the address. Otherwise it returns Free with the reason; prove must then
// find the proof.
func judgePod(l lease.Lease, f Facts, p Policy) Verdict {
	pod := f.Pod
	switch {
	case pod.Presence == Unknown:
		return Verdict{Keep, PodUnknown, fmt.Sprintf("cannot read pod %s", l.Pod)}
	case pod.Presence == Gone:
		return Verdict{Free, PodGone, fmt.Sprintf("pod %s does not exist", l.Pod)}
	case pod.UID != l.PodUID:
		return Verdict{Free, PodReplaced, fmt.Sprintf("pod %s now has UID %s, not %s as in the lease", l.Pod, pod.UID, l.PodUID)}
	case pod.Phase == "Succeeded":
		return Verdict{Free, PodSucceeded, fmt.Sprintf("pod %s succeeded", l.Pod)}
	case pod.Phase == "Failed":
		return Verdict{Free, PodFailed, fmt.Sprintf("pod %s failed", l.Pod)}
	}
	// The switches of the policy decide alone about the cases that they name, so these
	// come before SandboxGone.
	stateless := l.FixedFor.IsZero()
	switch {
	case stateless && pod.Terminating:
		return terminating(l, f, p)
	case stateless && pod.Phase == "Running" && !pod.HasAddress && p.RunningPodWithoutAddress:
		return Verdict{Free, PodWithoutAddress, fmt.Sprintf("pod %s is running without an address in status.podIPs", l.Pod)}
	case stateless && pod.Phase == "Running" && !pod.HasAddress:
		return Verdict{Keep, PodAlive, fmt.Sprintf("pod %s is running without an address in status.podIPs, and ipam.gc.statelessPod.enableGcRunningPodOnEmptyPodStatusIPs is false", l.Pod)}
	case f.Sandbox == NotPresent && f.OtherSandbox:
		return Verdict{Free, SandboxGone, fmt.Sprintf("pod %s now runs in a sandbox other than %s", l.Pod, l.ContainerID)}
	}
	return Verdict{Keep, PodAlive, fmt.Sprintf("pod %s uses the address", l.Pod)}
}

// terminating returns Free if the pod exceeds its grace period and the policy
// allows reclaiming from such pods. The policy concerns pods without fixed addresses.
func terminating(l lease.Lease, f Facts, p Policy) Verdict {
	allowed, condition := p.ZombieOnNotReadyNode, "NotReady"
	if f.Node.Ready {
		allowed, condition = p.ZombieOnReadyNode, "Ready"
	}
	late := f.Terminating - f.Pod.Grace
	switch {
	case f.Node.Presence == Unknown:
		return Verdict{Keep, PodAlive, fmt.Sprintf("pod %s is terminating, and node %s cannot be read", l.Pod, l.Node)}
	case !allowed:
		return Verdict{Keep, PodAlive, fmt.Sprintf("pod %s is terminating, and reclaiming from such pods is disabled on %s nodes", l.Pod, condition)}
	case late < p.TerminatingDelay:
		return Verdict{Keep, PodAlive, fmt.Sprintf("pod %s is terminating, and may exceed its grace period by %s", l.Pod, p.TerminatingDelay)}
	}
	return Verdict{Free, PodTerminating, fmt.Sprintf("pod %s should have terminated %s ago on %s node %s",
		l.Pod, late.Truncate(time.Second), condition, l.Node)}
}

// prove adds to a verdict Free the proof that no container uses the address. It
// returns Keep if there is no proof.
func prove(v Verdict, l lease.Lease, f Facts) Verdict {
	switch {
	case f.Sandbox == Present: // outweighs every fact about the node
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
		"%s, but nothing proves that sandbox %s of node %s is gone; if the node will not come back, delete it, or power it off and add the taint node.kubernetes.io/out-of-service",
		v.Message, l.ContainerID, l.Node)}
}

// retains reports whether the policy retains addresses for the owner. An unknown
// kind may come from a later release, so its addresses are retained.
func (p Policy) retains(owner lease.Owner) bool {
	switch owner.Kind {
	case lease.KindPod:
		return p.FixedForStatefulSet
	case lease.KindVirtualMachine:
		return p.FixedForKubeVirt
	}
	return true
}

// endFixed decides about a fixed address that its pod no longer needs: Retain while
// its owner may come back, else Free.
func endFixed(l lease.Lease, f Facts, p Policy) Action {
	if f.Owner == OwnerGone || !p.retains(l.FixedFor) {
		return Free
	}
	return Retain
}

// requested reports whether the request of a user ends a retained address, which no container uses.
func requested(f Facts) bool {
	unwanted := f.Owner == OwnerGone || f.Owner == OwnerScaledDown || f.Owner == OwnerLeft || f.Replaced
	return f.Request == Forced || f.Request == Unneeded && unwanted
}

// judgeRetained decides about an address reserved for its owner. No
// container uses it, so no proof is needed.
func judgeRetained(l lease.Lease, f Facts, p Policy) Verdict {
	switch {
	case !p.retains(l.FixedFor):
		return Verdict{Free, FixedSwitchedOff, fmt.Sprintf("fixed addresses are disabled for owners like %s", l.FixedFor)}
	case f.Replaced:
		return Verdict{Free, FixedReplaced, fmt.Sprintf("its owner %s has another %s address for %s", l.FixedFor, inet.FamilyOf(l.Addr), l.Interface)}
	case f.Owner == OwnerGone:
		return Verdict{Free, FixedOwnerGone, fmt.Sprintf("its owner %s no longer exists", l.FixedFor)}
	case f.Owner == OwnerScaledDown || f.Owner == OwnerLeft:
		reason, what := FixedScaledDown, "was scaled down"
		if f.Owner == OwnerLeft {
			reason, what = FixedLeft, "runs without Spiderpool"
		}
		if p.ScaledDownRetention >= 0 && f.Unwanted >= p.ScaledDownRetention {
			return Verdict{Free, reason, fmt.Sprintf("its owner %s %s and has not come back for %s", l.FixedFor, what, f.Unwanted.Truncate(time.Second))}
		}
		return Verdict{Keep, FixedWanted, fmt.Sprintf("its owner %s %s and may come back", l.FixedFor, what)}
	case f.Owner == OwnerWanted:
		return Verdict{Keep, FixedWanted, fmt.Sprintf("reserved for %s", l.FixedFor)}
	}
	return Verdict{Keep, FixedUnknown, fmt.Sprintf("cannot read its owner %s", l.FixedFor)}
}
