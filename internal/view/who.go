package view

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// States of an address without a holder.
const (
	StateFree       = "Free"       // a pool hands it out
	StateNotForPods = "NotForPods" // a pool's subnet has it, but no pool hands it out
	StateUnknown    = "Unknown"    // no pool's subnet has it
)

// Who is the answer to the question who has an address.
type Who struct {
	Addr netip.Addr `json:"address"`
	// State is that of the first holder, or StateFree, StateNotForPods or StateUnknown.
	State string `json:"state"`
	// Holders are the lease, and the former sandboxes.
	Holders []Address `json:"holders,omitempty"`
	// Pools say for each pool with the address in its subnet whether it hands out the address.
	Pools    []PoolRole `json:"pools,omitempty"`
	Findings []Finding  `json:"findings,omitempty"`
}

// PoolRole is the part of one pool in the fate of an address.
type PoolRole struct {
	Pool    string `json:"pool"`
	HasIt   bool   `json:"handsOut"`
	Because string `json:"because"`
}

// WhoHas returns the user of an address. podOf returns the facts of a pod; it is called for
// the pods of the holders.
func (s *State) WhoHas(addr netip.Addr, podOf func(lease.PodKey) reclaim.Pod) Who {
	w := Who{Addr: addr, State: StateUnknown}
	for _, name := range s.pools.Names() {
		p, _ := s.pools.Get(name)
		if !p.Subnet.Contains(addr) {
			continue
		}
		role := s.role(p, addr)
		w.Pools = append(w.Pools, role)
		if role.HasIt {
			w.State = StateFree
		} else if w.State == StateUnknown {
			w.State = StateNotForPods
		}
	}
	block, _ := s.index.Block(inet.BlockOf(addr))
	if l, ok := block.Lease(addr); ok && l.State != lease.Released {
		w.Holders = append(w.Holders, s.address(l))
	}
	for _, former := range block.FormerOf(addr) {
		w.Holders = append(w.Holders, s.address(former.AsLease()))
	}
	if len(w.Holders) > 0 {
		w.State = w.Holders[0].State
	}
	for _, holder := range w.Holders {
		w.Findings = append(w.Findings, s.holderFindings(holder, podOf(lease.ParsePodKey(holder.Pod)))...)
	}
	if f, ok := s.damaged[block.Base]; ok {
		w.Findings = append(w.Findings, f)
	}
	return w
}

// role explains whether the pool hands out an address of its subnet.
func (s *State) role(p *pool.Pool, addr netip.Addr) PoolRole {
	r := PoolRole{Pool: p.Name}
	switch {
	case p.Invalid != "":
		r.Because = "the pool is invalid: " + p.Invalid
	case p.Gateway == addr:
		r.Because = "it is spec.gateway"
	case !p.IPs.Contains(addr):
		r.Because = "spec.ips does not have it"
	case p.Exclude.Contains(addr):
		r.Because = "spec.excludeIPs has it"
	case s.reservedBy(addr) != "":
		r.Because = fmt.Sprintf("SpiderReservedIP %s has it", s.reservedBy(addr))
	case !s.pools.Usable(p.Name).Contains(addr):
		r.Because = "it is the gateway of another pool of this subnet, a next hop of spec.routes, or the subnet's network or broadcast address"
	case p.Terminating:
		r.Because = "the pool is being deleted"
	case p.Disabled:
		r.Because = "spec.disable is true"
	default:
		r.HasIt, r.Because = true, "spec.ips has it"
	}
	return r
}

func (s *State) reservedBy(addr netip.Addr) string {
	for _, name := range slices.Sorted(maps.Keys(s.reserved)) {
		if s.reserved[name].Contains(addr) {
			return name
		}
	}
	return ""
}

// holderFindings compares the holder of an address with the facts of the pod of that name.
func (s *State) holderFindings(a Address, pod reclaim.Pod) []Finding {
	subject := "address " + a.Addr.String()
	switch a.State {
	case StateFormer:
		return []Finding{{subject,
			fmt.Sprintf("sandbox %s of pod %s on node %s lost its lease and may still use the address", short(a.ContainerID), a.Pod, a.Node),
			fmt.Sprintf("the agent of node %s ends this once its container runtime has no such sandbox; if the node is lost, power it off and delete the Node", a.Node)}}
	case string(lease.Quarantined):
		return []Finding{{subject, fmt.Sprintf("the foreign host %s answered for it; no pod gets it until %s", cmp.Or(a.MAC, "with an unknown MAC address"), a.Until.Format("15:04:05 MST")),
			"find the host by this MAC address in the tables of your switches, or add the address to a SpiderReservedIP"}}
	case string(lease.Withheld):
		return []Finding{{subject, fmt.Sprintf("SpiderCloudNetwork %s withholds it from pods, because the controller returns it to the cloud, or has returned it", a.WithheldBy),
			"kubectl describe spidercloudnetwork " + a.WithheldBy + " shows what the controller does; if the SpiderCloudNetwork is deleted, the address is free a few minutes later"}}
	case string(lease.InUse):
		if problem := podProblem(a, pod); problem != "" {
			return []Finding{{subject, problem,
				fmt.Sprintf("the agent of node %s frees it once its container runtime has no sandbox %s; if the node is lost, power it off and delete the Node", a.Node, short(a.ContainerID))}}
		}
	}
	return nil
}

// podProblem returns why a pod has no right to the address any more, "" if it has or nothing is known.
func podProblem(a Address, pod reclaim.Pod) string {
	switch {
	case pod.Presence == reclaim.Gone:
		return fmt.Sprintf("it is leased to pod %s, and there is no such pod", a.Pod)
	case pod.Presence == reclaim.Exists && a.PodUID != "" && pod.UID != a.PodUID:
		return fmt.Sprintf("it is leased to an earlier pod %s with UID %s; the pod of that name now has UID %s", a.Pod, a.PodUID, pod.UID)
	case pod.Presence == reclaim.Exists && (pod.Phase == "Succeeded" || pod.Phase == "Failed"):
		return fmt.Sprintf("it is leased to pod %s, which has ended: %s", a.Pod, pod.Phase)
	}
	return ""
}

// short returns the first 13 characters of a container ID, as crictl prints it.
func short(container string) string { return container[:min(len(container), 13)] }

// WithMAC returns the addresses with a hardware address: those of interfaces with it, and
// the quarantined ones of a foreign host with it.
func (s *State) WithMAC(mac net.HardwareAddr) []Address {
	found := []Address{}
	for _, a := range s.Addresses(Filter{}) {
		if other, err := net.ParseMAC(a.MAC); err == nil && slices.Equal(other, mac) {
			found = append(found, a)
		}
	}
	return found
}
