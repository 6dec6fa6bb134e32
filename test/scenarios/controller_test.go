package scenarios

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/internal/controller/poolstatus"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// controlled is the cluster state read by the controller only.
type controlled struct {
	deleted, fenced map[string]bool // by node
	terminated      map[lease.PodKey]time.Time
}

// ownerUID is the UID of every StatefulSet and VirtualMachineInstance.
const ownerUID = "x"

// status prints the status that the controller writes for a pool, without the
// conditions.
func status(s *stage, a arguments) error {
	o, ok := s.pools[a.name(0)]
	if !ok {
		return fmt.Errorf("unknown pool %q", a.name(0))
	}
	o = o.DeepCopy()
	var leases []lease.Lease
	for _, b := range s.Store.All() {
		for _, l := range b.Leases {
			if l.Pool == o.Name && (l.State == lease.InUse || l.State == lease.Retained) {
				leases = append(leases, l)
			}
		}
	}
	poolstatus.SetStatus(o, s.allReserved(), leases)
	text, err := yaml.Marshal(o.Status)
	if err != nil {
		return err
	}
	for line := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n") {
		s.say("%s", line)
	}
	return nil
}

// policyOf reads the switches of ipam.gc from the options of a command.
func policyOf(a arguments) (reclaim.Policy, error) {
	delay, err := time.ParseDuration(a.or("delay", "0s"))
	if err != nil {
		return reclaim.Policy{}, errUsage
	}
	zombies := a.list("zombies")
	return reclaim.Policy{
		Enabled: true, MinAge: reclaim.DefaultMinAge,
		FixedForStatefulSet: a.or("fixed", "on") == "on", FixedForKubeVirt: a.or("fixed", "on") == "on",
		ScaledDownRetention: reclaim.DefaultScaledDownRetention,
		ZombieOnReadyNode:   slices.Contains(zombies, "ready"), ZombieOnNotReadyNode: slices.Contains(zombies, "notready"),
		TerminatingDelay: delay, RunningPodWithoutAddress: a.or("addressless", "") == "true",
	}, nil
}

func deleteNode(s *stage, a arguments) error {
	s.controlled.deleted[a.name(0)] = true
	return nil
}

func fence(s *stage, a arguments) error {
	s.controlled.fenced[a.name(0)] = true
	return nil
}

func scale(s *stage, a arguments) error {
	replicas, err := strconv.Atoi(a.name(1))
	if err != nil {
		return errUsage
	}
	s.SetStatefulSet("default", a.name(0), ipam.StatefulSet{UID: ownerUID, End: replicas})
	return nil
}

func deleteSet(s *stage, a arguments) error {
	s.DeleteStatefulSet("default", a.name(0))
	return nil
}

func instance(s *stage, a arguments) error {
	var active []string
	for _, name := range a.names[1:] {
		p, err := s.pod(name)
		if err != nil {
			return err
		}
		active = append(active, p.UID)
	}
	s.SetInstance("default", a.name(0), ownerUID, active...)
	return nil
}

// sweep runs one pass of the controller over all blocks. Agents get no
// notification of its writes; their next write conflicts and they read again.
func sweep(s *stage, a arguments) error {
	policy, err := policyOf(a)
	if err != nil {
		return err
	}
	for _, b := range s.Store.All() {
		swept, changes := reclaim.Sweep(b, s.facts, policy, s.Now())
		if len(changes) == 0 {
			continue
		}
		if _, err := s.Store.Put(context.Background(), swept); err != nil {
			return err
		}
		for _, change := range changes {
			s.say("%s", change)
		}
	}
	return nil
}

// facts returns the controller's knowledge about a lease. It needs no agent.
func (s *stage) facts(l lease.Lease) reclaim.Facts {
	f := reclaim.Facts{
		Pod:   reclaim.Pod{Presence: reclaim.Gone},
		Node:  reclaim.Node{Presence: reclaim.Exists, Ready: !s.controlled.fenced[l.Node], OutOfService: s.controlled.fenced[l.Node]},
		Owner: s.owner(l.FixedFor),
		// This controller has watched from the start, and each event at once.
		Age: s.Now().Sub(l.Since), Unwanted: s.Now().Sub(l.Since),
	}
	if p, ok := s.Pod(l.Pod); ok {
		f.Pod, f.Terminating = p.State, s.Now().Sub(s.terminated[l.Pod])
		f.Pod.Presence, f.Pod.UID = reclaim.Exists, p.UID
	}
	if s.controlled.deleted[l.Node] {
		f.Node = reclaim.Node{Presence: reclaim.Gone}
	}
	for _, b := range s.Store.All() {
		for _, other := range b.Leases {
			f.Replaced = f.Replaced || other.State == lease.InUse && !l.FixedFor.IsZero() && other.FixedFor == l.FixedFor &&
				other.Interface == l.Interface && inet.FamilyOf(other.Addr) == inet.FamilyOf(l.Addr)
		}
	}
	return f
}

func (s *stage) owner(owner lease.Owner) reclaim.Owner {
	name, ordinal, ok := owner.StatefulSet()
	if !ok {
		return reclaim.OwnerUnknown
	}
	set, err := s.StatefulSet(context.Background(), owner.Namespace, name)
	switch {
	case err != nil:
		return reclaim.OwnerGone
	case ordinal >= set.End:
		return reclaim.OwnerScaledDown
	}
	return reclaim.OwnerWanted
}
