package view

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
)

// Codes of discrepancies, in the order of their danger.
const (
	codeAddressTwice        = "AddressTwice"
	codeAddressOfAnother    = "AddressOfAnother"
	codeAddressWithoutLease = "AddressWithoutLease"
	codeAddressInTwoBlocks  = "AddressInTwoBlocks"
	codeDamagedBlock        = "DamagedBlock"
	codeLeaseWithoutPod     = "LeaseWithoutPod"
	codeLeaseOnGoneNode     = "LeaseOnGoneNode"
	codeFormerSandbox       = "FormerSandbox"
	codeLeaseOutsidePool    = "LeaseOutsidePool"
	codeEndpointDiffers     = "EndpointDiffers"
	codeEndpointWithoutPod  = "EndpointWithoutPod"
	codePoolCountsDiffer    = "PoolCountsDiffer"
)

// codes are all codes.
var codes = []string{
	codeAddressTwice, codeAddressOfAnother, codeAddressWithoutLease, codeAddressInTwoBlocks, codeDamagedBlock, codeLeaseWithoutPod, codeLeaseOnGoneNode,
	codeFormerSandbox, codeLeaseOutsidePool, codeEndpointDiffers, codeEndpointWithoutPod, codePoolCountsDiffer,
}

// Discrepancy is a difference between two objects that should agree.
type Discrepancy struct {
	Code    string `json:"code"`
	Address string `json:"address,omitempty"`
	Finding
	Why string `json:"why"` // it matters
	// Repair names the object that the controller repairs by itself, e.g. "spideripblock/10.6.0.0";
	// empty if only an agent, or a user, can.
	Repair string `json:"repair,omitempty"`
	// Repaired is true after a repair.
	Repaired bool `json:"repaired,omitempty"`

	holder string // whose it is, so that a later one is another discrepancy
}

// Name returns the object as kubectl writes it, e.g. "spideripblock/10.6.0.0" or "pod/shop/web-0", or the address.
func (d Discrepancy) Name() string {
	kind, name, _ := strings.Cut(d.Subject, " ")
	if kind == "address" {
		return name
	}
	return strings.ToLower(kind) + "/" + name
}

// id identifies the discrepancy in a later state.
func (d Discrepancy) id() string {
	return strings.Join([]string{d.Code, d.Address, d.Subject, d.holder}, "|")
}

// Confirmed returns the discrepancies of the later look that the earlier one has, too. Others come
// from a change between two reads, or were repaired.
func Confirmed(earlier, later []Discrepancy) []Discrepancy {
	seen := map[string]bool{}
	for _, d := range earlier {
		seen[d.id()] = true
	}
	kept := []Discrepancy{}
	for _, d := range later {
		if seen[d.id()] {
			kept = append(kept, d)
		}
	}
	return kept
}

// AfterRepair marks the discrepancies that the later look lacks as repaired.
func AfterRepair(earlier, later []Discrepancy) []Discrepancy {
	left := map[string]bool{}
	for _, d := range later {
		left[d.id()] = true
	}
	out := slices.Clone(earlier)
	for i := range out {
		out[i].Repaired = !left[out[i].id()]
	}
	return out
}

// Check compares blocks, endpoints, pools, pods and nodes. The dangerous discrepancies come first.
func (s *State) Check(around Surroundings) []Discrepancy {
	c := &check{State: s, around: around, found: []Discrepancy{}}
	c.pods()
	c.damagedBlocks()
	c.leases()
	c.endpoints()
	c.counts()
	slices.SortStableFunc(c.found, func(a, b Discrepancy) int {
		return cmp.Or(cmp.Compare(slices.Index(codes, a.Code), slices.Index(codes, b.Code)), compareText(a.Address, b.Address), cmp.Compare(a.Subject, b.Subject))
	})
	return c.found
}

// compareText compares addresses by value, and other texts by their bytes.
func compareText(a, b string) int {
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	if errX == nil && errY == nil {
		return x.Compare(y)
	}
	return cmp.Compare(a, b)
}

// check collects the discrepancies of a state.
type check struct {
	*State
	around Surroundings
	found  []Discrepancy
}

func (c *check) add(d Discrepancy) { c.found = append(c.found, d) }

// pods compares the addresses that running pods report with the leases.
func (c *check) pods() {
	var usable []inet.Set
	for _, name := range c.State.pools.Names() {
		usable = append(usable, c.State.pools.Usable(name))
	}
	ours := inet.Union(usable...)
	reporters, strangers := map[netip.Addr][]lease.PodKey{}, map[netip.Addr]bool{}
	for _, key := range sortedPods(c.around.Pods) {
		pod := c.around.Pods[key]
		if pod.Phase != "Running" {
			continue
		}
		for _, addr := range pod.Reports {
			if ours.Contains(addr) {
				reporters[addr] = append(reporters[addr], key)
				strangers[addr] = !c.reported(addr, key, pod) || strangers[addr]
			}
		}
	}
	for addr, keys := range reporters {
		if len(keys) < 2 || !strangers[addr] { // two pods of a migrating virtual machine
			continue
		}
		c.add(Discrepancy{
			Code: codeAddressTwice, Address: addr.String(), holder: fmt.Sprint(keys),
			Finding: Finding{"address " + addr.String(), fmt.Sprintf("the running pods %s report it", joinKeys(keys)),
				"delete all of them but one: spiderpoolctl ip who " + addr.String() + " names the pod with the lease"},
			Why: "both pods lose connections",
		})
	}
}

func sortedPods(pods map[lease.PodKey]ReportingPod) []lease.PodKey {
	keys := make([]lease.PodKey, 0, len(pods))
	for key := range pods {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b lease.PodKey) int { return cmp.Compare(a.String(), b.String()) })
	return keys
}

func joinKeys(keys []lease.PodKey) string {
	var texts []string
	for _, key := range keys {
		texts = append(texts, key.String())
	}
	return strings.Join(texts, " and ")
}

// reported compares one address that a pod reports with its lease, and reports whether the block knows the pod as
// its holder or as the pod of a former sandbox.
func (c *check) reported(addr netip.Addr, key lease.PodKey, pod ReportingPod) (known bool) {
	base := inet.BlockOf(addr)
	if _, damaged := c.damaged[base]; damaged {
		return false
	}
	block, _ := c.index.Block(base)
	l, ok := block.Lease(addr)
	if ok && l.State == lease.InUse && l.PodUID == pod.UID || slices.ContainsFunc(block.FormerOf(addr), func(f lease.Former) bool { return f.PodUID == pod.UID }) {
		return true
	}
	d := Discrepancy{
		Address: addr.String(), holder: pod.UID,
		Finding: Finding{Subject: "pod " + key.String()},
		Why:     "two pods may have one address",
	}
	if ok && l.State == lease.InUse {
		d.Code, d.Problem = codeAddressOfAnother, fmt.Sprintf("it reports the address %s, which is leased to pod %s with UID %s", addr, l.Pod, l.PodUID)
		d.Remedy = fmt.Sprintf("delete pod %s, so that it gets another address: kubectl delete pod -n %s %s", key, key.Namespace, key.Name)
	} else {
		d.Code, d.Problem = codeAddressWithoutLease, fmt.Sprintf("it reports the address %s, which a pool hands out, and has no lease for it", addr)
		d.Remedy = fmt.Sprintf("if the interface is Spiderpool's, the agent of node %s restores the lease within minutes; else add the address to a SpiderReservedIP, or delete the pod: kubectl delete pod -n %s %s", pod.Node, key.Namespace, key.Name)
	}
	c.add(d)
	return false
}

// damagedBlocks reports blocks that no program reads, and addresses in the block of another one.
func (c *check) damagedBlocks() {
	for base, finding := range c.damaged {
		c.add(Discrepancy{Code: codeDamagedBlock, Finding: finding, Why: "its leases are not known, so its addresses are out of service", holder: base.String()})
	}
	for _, object := range c.objects.Blocks {
		for _, l := range object.Spec.Leases {
			addr, err := netip.ParseAddr(l.IP)
			if err != nil {
				continue
			}
			home, _ := c.index.Block(inet.BlockOf(addr))
			if other, ok := home.Lease(addr); ok && object.Name != compile.BlockName(home.Base) && other.State != lease.Released {
				c.add(Discrepancy{
					Code: codeAddressInTwoBlocks, Address: l.IP, holder: other.PodUID,
					Finding: Finding{"SpiderIPBlock " + object.Name, fmt.Sprintf("it has a lease of %s, which belongs into block %s and is leased there to pod %s", l.IP, inet.BlockPrefix(home.Base), other.Pod),
						"remove the lease from SpiderIPBlock " + object.Name + ", with the annotation ipam.spidernet.io/override; pod " + l.Pod + " must not run"},
					Why: "two pods may have one address",
				})
			}
		}
	}
}
