package cloud

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

// MaxFixed is the number of addresses of a pool of fixed addresses.
const MaxFixed = 256

// Reasons why a pool of fixed addresses is not all that the user asked for.
const (
	// SubnetUnknown: no interface of the nodes is in the subnet of fixed addresses.
	SubnetUnknown Reason = "SubnetUnknown"
	// FixedInvalid: an entry of fixedAddresses cannot be a pool.
	FixedInvalid Reason = "FixedInvalid"
	// RangeNotReserved: the cloud may give fixed addresses to others, because the subnet has no reservation for them.
	RangeNotReserved Reason = "RangeNotReserved"
)

// FixedEntry asks for pools of fixed addresses.
type FixedEntry struct {
	Name   string
	Device int
	Subnet string // ID
	IPs    inet.Set
}

// FixedWanted is a pool of fixed addresses that the cluster is to have.
type FixedWanted struct {
	Name    string
	Device  int
	Zone    string
	Subnet  netip.Prefix
	Gateway netip.Addr
	IPs     inet.Set
	// SubnetID is the subnet, and Unreserved are those of IPs that it has no explicit reservation for (Subnet.ReserveCommand).
	SubnetID   string
	Unreserved inet.Set
}

// FixPools returns the pools of entries. have are the addresses of the present ones by name. An address that something else has is left
// out, unless the pool has it already. placed are the interfaces where the controller has put addresses: a cloud may show such an address as the
// node's own.
func FixPools(d Discovery, entries []FixedEntry, have map[string]inet.Set, placed map[netip.Addr][]string) (wanted []FixedWanted, issues []Issue) {
	report := func(reason Reason, format string, args ...any) {
		issues = append(issues, Issue{Reason: reason, Text: fmt.Sprintf(format, args...)})
	}
	taken := []inet.Set{d.Others}
	taken = append(taken, ipsOf(d.Pools)...)
	primaries := d.primaries(placed)
	seen := map[string]bool{}
	var risks []Issue // less urgent than the others
	for _, e := range entries {
		where := fmt.Sprintf("fixedAddresses %s of device %d", e.Name, e.Device)
		if seen[e.Name] {
			report(FixedInvalid, "%s: another interface has fixedAddresses of this name; choose another one", where)
			continue
		}
		seen[e.Name] = true
		subnet, ok := d.Subnets[e.Subnet]
		if !ok {
			report(SubnetUnknown, "%s: no interface of the nodes is in subnet %s; check the subnet, spec.nodeSelector and spec.interfaces", where, e.Subnet)
			continue
		}
		if subnet.Zone == "" {
			report(SubnetUnknown, "%s: the cloud does not tell the zone of subnet %s, so no node could get the addresses; a provider behind iaasNetworkProvider has to answer with one", where, e.Subnet)
			continue
		}
		left := e.IPs
		for _, cidr := range subnet.CIDRs {
			family := inet.FamilyOf(cidr.Addr())
			ips := e.IPs.And(inet.OfPrefix(cidr))
			left = left.Minus(ips)
			if ips.IsEmpty() {
				continue
			}
			w := FixedWanted{Name: FixedPoolName(d.Network, e.Name, family), Device: e.Device, Zone: subnet.Zone, Subnet: cidr.Masked(), Gateway: subnet.Gateway(family), SubnetID: e.Subnet}
			foreign := inet.Union(taken...).Minus(have[w.Name])
			foreign = inet.Union(foreign, primaries, inet.OfAddrs(subnet.Layout.Kept(cidr)...))
			if used := ips.And(foreign); !used.IsEmpty() {
				report(Overlap, "%s: other pools, the cloud or interfaces of nodes have %s; take them out of spec.interfaces[].fixedAddresses[].ips", where, used)
			}
			w.IPs = ips.Minus(foreign)
			switch n := ips.Count(); {
			case n > MaxFixed:
				report(FixedInvalid, "%s: %d %s addresses are more than %d; write several entries", where, n, family, MaxFixed)
			case !w.IPs.IsEmpty():
				taken = append(taken, w.IPs)
				if w.Unreserved = subnet.unreserved(w.IPs); !w.Unreserved.IsEmpty() {
					risks = append(risks, Issue{RangeNotReserved, where + ": " + subnet.reserve(w.Unreserved), true})
				}
				wanted = append(wanted, w)
			}
		}
		if !left.IsEmpty() {
			report(FixedInvalid, "%s: %s are outside of subnet %s, which has %v; correct spec.interfaces[].fixedAddresses[].ips", where, left, e.Subnet, subnet.CIDRs)
		}
	}
	return wanted, append(issues, risks...)
}

// unreserved returns those of the addresses that the cloud may give to others.
func (s Subnet) unreserved(ips inet.Set) inet.Set {
	if s.ReserveCommand == "" {
		return inet.Set{}
	}
	for _, r := range s.Reserved {
		if !r.Prefixes {
			ips = ips.Minus(inet.OfPrefix(r.CIDR))
		}
	}
	return ips
}

// reserve says how to reserve addresses. It rounds to blocks of 16, as the cloud assigns /28 prefixes: most ranges then take one command.
func (s Subnet) reserve(ips inet.Set) string {
	var blocks []inet.Set
	for base := range ips.Blocks() {
		blocks = append(blocks, inet.OfPrefix(inet.BlockPrefix(base)))
	}
	before, wanted := "", s.unreserved(inet.Union(blocks...))
	for _, r := range s.Reserved {
		if r.Prefixes && ips.Overlaps(inet.OfPrefix(r.CIDR)) {
			before += fmt.Sprintf("delete the reservation %s for prefixes, or take its addresses out of spec.interfaces[].fixedAddresses[].ips; then ", r.CIDR)
		}
	}
	var cidrs []string
	for _, r := range wanted.Ranges() {
		for _, cidr := range r.Prefixes() {
			cidrs = append(cidrs, cidr.String())
		}
	}
	return fmt.Sprintf("subnet %s has no explicit reservation for %s, so the cloud may give them to others, e.g. in a prefix; %srun %s %s",
		s.ID, ips, before, s.ReserveCommand, strings.Join(cidrs, ", and the same for "))
}

// coversFixed reports whether an assigned prefix has fixed addresses, of this or another network. They are on no other interface as long as it is assigned. So no pool of
// a node gets any of its addresses, and Manage gives it back. A pool that has some of them already keeps those.
func (d Discovery) coversFixed(piece netip.Prefix, have inet.Set) bool {
	all := inet.OfPrefix(piece)
	return d.Managed && d.Fixed.Overlaps(all) && !have.Overlaps(all)
}

// Unassigned returns the addresses of a set that no interface of the members has. It returns none unless two answers about each instance
// lack them, and the last one is fresh.
func Unassigned(now time.Time, ips inet.Set, members []Member) inet.Set {
	shown := []inet.Set{}
	for _, m := range members {
		if m.Instance == "" {
			continue
		}
		if m.Answers.earlier == nil || now.Sub(m.Answers.latest.At) >= Apart {
			return inet.Set{}
		}
		for _, answer := range []*Answer{m.Answers.earlier, m.Answers.latest} {
			if answer.Instance == nil {
				continue
			}
			for _, i := range answer.Instance.Interfaces {
				shown = append(shown, inet.OfAddrs(i.Primary...))
				for _, piece := range i.Assigned {
					shown = append(shown, inet.OfPrefix(piece))
				}
			}
		}
	}
	return ips.Minus(inet.Union(shown...))
}

// primaries returns the nodes' own addresses, without those that the controller has placed there.
func (d Discovery) primaries(placed map[netip.Addr][]string) inet.Set {
	var all []netip.Addr
	for _, m := range d.Members {
		if m.Answers.exists() {
			for _, i := range m.Answers.latest.Instance.Interfaces {
				for _, a := range i.Primary {
					if !slices.Contains(placed[a], i.ID) {
						all = append(all, a)
					}
				}
			}
		}
	}
	return inet.OfAddrs(all...)
}
