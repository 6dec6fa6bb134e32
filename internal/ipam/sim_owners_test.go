package ipam_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/lease"
)

// simClaim is the kind of owner that a pod names.
type simClaim string

const (
	claimsSet      simClaim = "StatefulSet"
	claimsInstance simClaim = "VirtualMachineInstance"
	claimsGhost    simClaim = "ghost" // or the machine, which never lists this pod
)

// simOwners are the owners as the simulated API server has them.
type simOwners struct {
	set      string // UID of StatefulSet p; "": it does not exist
	replicas int
	instance string   // UID of VirtualMachineInstance vm; "": it does not exist
	active   []string // UIDs in its status.activePods
	// formerSet and formerInstance are the UIDs of the last ones that existed.
	formerSet, formerInstance string
	// proven are the owners that acknowledged a pod during one of its ADDs, by pod UID.
	proven map[string]map[lease.Owner]bool
}

// ownedPods are pods of a StatefulSet and of a virtual machine, and pods that only say so.
func ownedPods() []*simPod {
	return []*simPod{
		{name: "p-0", claim: claimsSet}, {name: "p-1", claim: claimsSet}, {name: "q-0", claim: claimsSet},
		{name: "vm-a", claim: claimsInstance}, {name: "vm-b", claim: claimsInstance},
		{name: "evil", claim: claimsGhost}, {name: "plain"},
	}
}

// claimed returns the owner reference of a new pod.
func (s *sim) claimed(p *simPod) ipam.Controller {
	forged := s.r.Intn(6) == 0
	switch p.claim {
	case claimsSet:
		uid := s.owners.formerSet
		if forged {
			uid = "forged"
		}
		return statefulSet("p", uid)
	case claimsInstance:
		uid := s.owners.formerInstance
		if forged {
			uid = "forged"
		}
		return instance("vm", uid)
	case claimsGhost:
		if s.r.Intn(2) == 0 {
			return instance("vm", s.owners.formerInstance)
		}
		return instance("ghost", "ghost")
	}
	return ipam.Controller{}
}

// prove returns the owner that acknowledges the pod now. An unlisted pod of a machine gets
// no address yet.
func (s *sim) prove(pod ipam.Pod) (owner lease.Owner, unlisted bool) {
	uid, name := s.owners.instance, "vm"
	if pod.Owner.Kind == string(claimsSet) {
		uid, name = s.owners.set, "p"
	}
	switch {
	case pod.Owner.Kind == "":
	case pod.Owner.Name != name || uid == "":
		s.note("owner does not exist")
	case pod.Owner.UID != uid:
		s.note("owner has another UID")
	case pod.Owner.Kind == string(claimsInstance) && slices.Contains(s.owners.active, pod.UID):
		s.note("owner proven")
		return lease.Owner{Kind: lease.KindVirtualMachine, Namespace: "default", Name: "vm"}, false
	case pod.Owner.Kind == string(claimsInstance):
		s.note("owner does not acknowledge the pod")
		return lease.Owner{}, true
	case !strings.HasPrefix(pod.Name, "p-"):
		s.note("owner does not acknowledge the pod")
	case int(pod.Name[2]-'0') >= s.owners.replicas:
		s.note("ordinal beyond the replicas")
	default:
		s.note("owner proven")
		return lease.Owner{Kind: lease.KindPod, Namespace: "default", Name: pod.Name}, false
	}
	return lease.Owner{}, false
}

// checkGrants checks what an ADD gave to a sandbox. before are the blocks before the ADD.
func (s *sim) checkGrants(sandbox *simSandbox, ifname string, addrs []netip.Addr, before map[netip.Addr]lease.Block, owner lease.Owner, unlisted bool) {
	s.t.Helper()
	uid, at := sandbox.pod.UID, lease.Attachment{ContainerID: sandbox.id, Interface: ifname}
	s.acknowledge(sandbox, owner, unlisted)
	after := s.blocks()
	for _, a := range addrs {
		l, _ := after[inet.BlockOf(a)].Lease(a)
		was, _ := before[inet.BlockOf(a)].Lease(a)
		if l.Attachment != at {
			continue // a former sandbox; check looks at these
		}
		if !s.owners.proven[uid][l.FixedFor] {
			s.fail("%s of %s is fixed for %s, which has not acknowledged the pod", a, sandbox.id, l.FixedFor)
		}
		if !before[inet.BlockOf(a)].Holds(l) && !s.usable[l.Pool].Contains(a) {
			s.fail("%s of %s is not in pool %s", a, sandbox.id, l.Pool)
		}
		switch {
		case was.State == lease.Withheld:
			s.fail("%s was withheld, and %s got it", a, sandbox.id)
		case was.State == lease.Retained && was.FixedFor != owner && was.PodUID != uid:
			s.fail("%s was retained for %s, and %s got it", a, was.FixedFor, sandbox.id)
		case was.State == lease.Retained:
			s.note("retained address comes back")
		case was.State == lease.InUse && was.PodUID != uid:
			s.checkSuccession(a, was, sandbox)
		}
	}
	// A former sandbox gets another address if it asks again without its owner's
	// acknowledgement. After a restore of etcd, any sandbox may be a former one.
	isHolder := func(a netip.Addr) bool {
		l, _ := before[inet.BlockOf(a)].Lease(a)
		return l.State == lease.InUse && l.Attachment == at
	}
	if was := sandbox.addrs[ifname]; was != nil && !slices.Equal(was, addrs) && !s.restored && !slices.ContainsFunc(was, func(a netip.Addr) bool { return !isHolder(a) }) {
		s.fail("the repeated ADD of %s %s gave %v after %v", sandbox.id, ifname, addrs, was)
	}
}

// acknowledge notes the owner of a pod that got addresses.
func (s *sim) acknowledge(sandbox *simSandbox, owner lease.Owner, unlisted bool) {
	s.t.Helper()
	uid := sandbox.pod.UID
	if unlisted {
		s.fail("%s got addresses, but no VirtualMachineInstance lists its pod", sandbox.id)
	}
	if s.owners.proven[uid] == nil {
		s.owners.proven[uid] = map[lease.Owner]bool{{}: true}
	}
	s.owners.proven[uid][owner] = true
}

// checkSuccession checks that the sandbox may have taken a lease in use from another pod.
func (s *sim) checkSuccession(a netip.Addr, was lease.Lease, sandbox *simSandbox) {
	s.t.Helper()
	exists := func(uid string) bool {
		return slices.ContainsFunc(s.pods, func(p *simPod) bool { return p.uid == uid })
	}
	active := func(uid string) bool { return slices.Contains(s.owners.active, uid) }
	switch self := sandbox.pod.UID; {
	case exists(was.PodUID) && exists(self) && active(was.PodUID) && active(self):
		s.note("address shared in a migration")
	case exists(was.PodUID):
		s.fail("%s took %s from the living pod %s", sandbox.id, a, was.Pod)
	case slices.ContainsFunc(s.living, func(other *simSandbox) bool { return other.id == was.ContainerID }):
		s.note("address shared with a former sandbox")
	}
}

// sameOwner reports whether one owner has acknowledged both pods.
func (s *sim) sameOwner(a, b *simSandbox) bool {
	if a.pod.UID == b.pod.UID {
		return true
	}
	for owner := range s.owners.proven[a.pod.UID] {
		if !owner.IsZero() && s.owners.proven[b.pod.UID][owner] {
			return true
		}
	}
	return false
}

// changeOwners deletes, creates or scales an owner, or lets KubeVirt list the pods of the
// machine.
func (s *sim) changeOwners() {
	if s.owners.formerSet == "" {
		return
	}
	switch s.r.Intn(10) {
	case 0:
		s.owners.set = ""
		s.cluster.DeleteStatefulSet("default", "p")
		s.note("owner deleted")
	case 1:
		s.createSet()
	case 2:
		s.owners.replicas = s.r.Intn(3)
		s.tellSet()
		s.note("StatefulSet scaled")
	case 3:
		s.owners.instance = ""
		s.cluster.DeleteInstance("default", "vm")
		s.note("owner deleted")
	case 4:
		s.createInstance()
	default:
		s.listActive()
	}
	s.say("StatefulSet %q with %d replicas, VirtualMachineInstance %q with %v", s.owners.set, s.owners.replicas, s.owners.instance, s.owners.active)
}

// listActive lets KubeVirt list the pods of the machine, or some of them.
func (s *sim) listActive() {
	s.owners.active = nil
	for _, p := range s.pods {
		if p.claim == claimsInstance && p.uid != "" && p.object.Owner.UID == s.owners.instance && s.r.Intn(6) > 0 {
			s.owners.active = append(s.owners.active, p.uid)
		}
	}
	s.tellInstance()
}

func (s *sim) createSet() {
	s.uids++
	s.owners.set, s.owners.replicas = fmt.Sprint("set", s.uids), 2
	if s.owners.formerSet != "" {
		s.note("owner created again")
	}
	s.owners.formerSet = s.owners.set
	s.tellSet()
}

func (s *sim) tellSet() {
	if s.owners.set != "" {
		s.cluster.SetStatefulSet("default", "p", ipam.StatefulSet{UID: s.owners.set, End: s.owners.replicas})
	}
}

func (s *sim) createInstance() {
	s.uids++
	s.owners.instance, s.owners.active = fmt.Sprint("instance", s.uids), nil
	if s.owners.formerInstance != "" {
		s.note("owner created again")
	}
	s.owners.formerInstance = s.owners.instance
	s.tellInstance()
}

func (s *sim) tellInstance() {
	if s.owners.instance != "" {
		s.cluster.SetInstance("default", "vm", s.owners.instance, s.owners.active...)
	}
}
