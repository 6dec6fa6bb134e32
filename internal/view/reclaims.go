package view

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// Judges of a lease.
const (
	judgeController = "controller"
	judgeAgent      = "agent" // of the lease's node
)

// actionAsk is the action of an agent that frees the address if its runtime has no such sandbox.
const actionAsk = "AskRuntime"

// Reclaim is the verdict on one lease.
type Reclaim struct {
	Addr   netip.Addr `json:"address"`
	Pool   string     `json:"pool,omitempty"`
	State  string     `json:"state"`
	Holder string     `json:"holder"` // a pod, or the owner of a retained address
	Node   string     `json:"node,omitempty"`
	// Action is Free, Retain, Keep or AskRuntime.
	Action  string `json:"action"`
	Reason  string `json:"reason"` // a reclaim.Reason
	Because string `json:"because"`
	Judge   string `json:"judge"` // controller or agent
}

// Ordinary reports whether the lease is kept because its pod or owner needs it.
func (r Reclaim) Ordinary() bool {
	return r.Reason == string(reclaim.PodAlive) || r.Reason == string(reclaim.FixedWanted)
}

// Reclaims judges all leases in use, retained leases and former sandboxes like the controller, sorted by
// address. ownerOf returns the state of an owner. The durations come from the times in the leases,
// although the controller counts its own; Facts of package reclaim has the difference.
func (s *State) Reclaims(around Surroundings, ownerOf func(lease.Owner) reclaim.Owner, policy reclaim.Policy) []Reclaim {
	j := s.judge(around, ownerOf, policy)
	all := []Reclaim{}
	for block := range s.index.Blocks() {
		for _, l := range block.Leases {
			if l.State == lease.InUse || l.State == lease.Retained {
				all = append(all, j.verdict(l, reclaim.NoRequest))
			}
		}
		for _, f := range block.Former {
			all = append(all, j.verdict(f.AsLease(), reclaim.NoRequest))
		}
	}
	slices.SortStableFunc(all, func(a, b Reclaim) int { return a.Addr.Compare(b.Addr) })
	return all
}

// judge observes the facts for package reclaim in a state.
type judge struct {
	*State
	around  Surroundings
	ownerOf func(lease.Owner) reclaim.Owner
	policy  reclaim.Policy
	used    map[lease.PodKey][]lease.Lease // leases in use, by the pod or its owner
}

func (s *State) judge(around Surroundings, ownerOf func(lease.Owner) reclaim.Owner, policy reclaim.Policy) judge {
	j := judge{s, around, ownerOf, policy, map[lease.PodKey][]lease.Lease{}}
	for block := range s.index.Blocks() {
		for _, l := range block.Leases {
			if l.State != lease.InUse {
				continue
			}
			j.used[l.Pod] = append(j.used[l.Pod], l)
			if key := l.FixedFor.Key(); !l.FixedFor.IsZero() && key != l.Pod {
				j.used[key] = append(j.used[key], l)
			}
		}
	}
	return j
}

func (j judge) verdict(l lease.Lease, request reclaim.Request) Reclaim {
	r := Reclaim{Addr: l.Addr, Pool: l.Pool, State: j.address(l).State, Holder: l.Pod.String(), Node: l.Node, Judge: judgeAgent}
	if l.State == lease.Retained {
		r.Holder = cmp.Or(l.FixedFor.String(), r.Holder)
	}
	if l.State == lease.Retained || j.around.lost(l.Node) {
		r.Judge = judgeController
	}
	facts := j.facts(l)
	facts.Request = request
	v := reclaim.Judge(l, facts, j.policy)
	if v.Reason == reclaim.TooYoung { // the age of a pod's lease says nothing to a reader
		facts.Age = j.policy.MinAge
		if older := reclaim.Judge(l, facts, j.policy); older.Reason == reclaim.PodAlive {
			v = older
		}
	}
	r.Reason, r.Because, r.Action = string(v.Reason), v.Message, actions[v.Action]
	if v.Reason == reclaim.NoProof {
		facts.Sandbox = reclaim.NotPresent
		if v = reclaim.Judge(l, facts, j.policy); v.Action != reclaim.Keep {
			r.Action, r.Reason = actionAsk, string(v.Reason)
			r.Because = fmt.Sprintf("the pod has no right to it (%s), and the agent of node %s frees it once its container runtime has no sandbox %s", v.Reason, l.Node, short(l.ContainerID))
		}
	}
	return r
}

// actions are the names of reclaim.Actions.
var actions = map[reclaim.Action]string{reclaim.Keep: "Keep", reclaim.Retain: "Retain", reclaim.Free: "Free"}

func (j judge) facts(l lease.Lease) reclaim.Facts {
	f := reclaim.Facts{Age: reclaim.DefaultMinAge}
	if !l.FixedFor.IsZero() {
		f.Owner = j.ownerOf(l.FixedFor)
	}
	if !l.Since.IsZero() {
		f.Age = j.now.Sub(l.Since)
		f.Unwanted = f.Age
	}
	key := l.FixedFor.Key()
	if l.State == lease.Retained {
		f.Replaced = slices.ContainsFunc(j.used[key], func(o lease.Lease) bool { return reclaim.Replaces(o, l) })
		uses := func(o lease.Lease) bool { return reclaim.UsedAgain(o, l) }
		if f.Owner == reclaim.OwnerWanted && reclaim.Succeeds(j.around.pod(key), l) && !slices.ContainsFunc(j.used[key], uses) {
			f.Owner = reclaim.OwnerLeft
		}
		return f
	}
	f.Node, f.Pod = j.around.node(l.Node), j.around.pod(l.Pod)
	f.Terminating = j.around.Pods[l.Pod].TerminatingFor
	return f
}
