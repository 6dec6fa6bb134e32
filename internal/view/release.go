package view

import (
	"fmt"
	"net/netip"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// Release is the answer to the request to release an address.
type Release struct {
	Addr netip.Addr `json:"address"`
	// State is that of the address before the request; see Who.State.
	State       string `json:"state"`
	Block       string `json:"block"` // the name of its SpiderIPBlock
	Holder      string `json:"holder,omitempty"`
	Node        string `json:"node,omitempty"`
	ContainerID string `json:"containerID,omitempty"`
	// Possible means that the controller would release it.
	Possible bool   `json:"possible"`
	Because  string `json:"because"`
	Remedy   string `json:"remedy,omitempty"` // of a refusal
	// Released means that it was released.
	Released bool `json:"released"`
	// Version is the version of the block that the answer is about.
	Version string `json:"-"`
}

// Lease returns the lease of an address, or the zero value.
func (s *State) Lease(addr netip.Addr) lease.Lease {
	block, _ := s.index.Block(inet.BlockOf(addr))
	l, _ := block.Lease(addr)
	return l
}

// Release judges the request to release an address like the controller; forced is a request
// in spite of the owner. around may have only the pods and the node of the lease. See Reclaims for the other parameters.
func (s *State) Release(addr netip.Addr, forced bool, around Surroundings, ownerOf func(lease.Owner) reclaim.Owner, policy reclaim.Policy) Release {
	base := inet.BlockOf(addr)
	block, _ := s.index.Block(base)
	r := Release{Addr: addr, State: StateFree, Block: compile.BlockName(base), Version: block.Version}
	if f, damaged := s.damaged[base]; damaged {
		r.State, r.Because, r.Remedy = StateUnknown, f.Problem, f.Remedy
		return r
	}
	l, ok := block.Lease(addr)
	if !ok || l.State == lease.Released {
		r.withoutLease(block.FormerOf(addr))
		return r
	}
	a := s.address(l)
	r.State, r.Holder, r.Node, r.ContainerID = a.State, a.Pod, a.Node, a.ContainerID
	j := s.judge(around, ownerOf, policy)
	switch l.State {
	case lease.Quarantined, lease.Withheld:
		f := s.holderFindings(a, reclaim.Pod{})[0]
		r.Because, r.Remedy = f.Problem, f.Remedy
	case lease.Retained:
		r.Holder = l.FixedFor.String()
		request := reclaim.Unneeded
		if forced {
			request = reclaim.Forced
		}
		v := j.verdict(l, request)
		r.Because, r.Possible = v.Because, v.Action == actions[reclaim.Free]
		if !r.Possible {
			r.Remedy = "--force releases it nevertheless: the next pod of the owner then gets another address"
		}
	case lease.InUse:
		r.inUse(l, j.verdict(l, reclaim.NoRequest))
	}
	return r
}

// withoutLease refuses the release of an address without a lease.
func (r *Release) withoutLease(former []lease.Former) {
	if len(former) == 0 {
		r.Because = "no pod and no owner has it, so there is nothing to release"
		return
	}
	f := former[0]
	r.State, r.Holder, r.Node, r.ContainerID = StateFormer, f.Pod.String(), f.Node, f.ContainerID
	r.Because = fmt.Sprintf("sandbox %s of pod %s on node %s lost its lease and may still use it", short(f.ContainerID), f.Pod, f.Node)
	r.Remedy = proofOfEnd(f.Node, f.ContainerID)
}

// inUse answers for an address in use by the verdict on its lease.
func (r *Release) inUse(l lease.Lease, v Reclaim) {
	r.Because = v.Because
	switch {
	case v.Action == actions[reclaim.Free] || v.Action == actions[reclaim.Retain]:
		r.Possible = true
	case v.Reason == string(reclaim.PodAlive):
		r.Remedy = fmt.Sprintf("delete the pod: kubectl delete pod -n %s %s", l.Pod.Namespace, l.Pod.Name)
	case v.Reason == string(reclaim.TooYoung):
		r.Remedy = "wait until then: a container runtime lists a new sandbox late"
	case v.Reason == string(reclaim.Disabled):
		r.Remedy = "set the Helm value ipam.gc.enabled to true"
	default:
		r.Remedy = proofOfEnd(l.Node, l.ContainerID)
	}
}

// proofOfEnd tells what proves the end of a sandbox. Silence on the network proves nothing: a
// node that is cut off answers nothing, too.
func proofOfEnd(node, container string) string {
	return fmt.Sprintf("only these prove its end, and not even --force replaces them: the agent of node %s, once its container runtime has no sandbox %s (spiderpoolctl node in that agent shows the runtime), or the end of the node: power it off, then kubectl taint node %s node.kubernetes.io/out-of-service=nodeshutdown:NoExecute, or delete the Node",
		node, short(container), node)
}
