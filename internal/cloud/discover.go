package cloud

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
)

// Reason says in CamelCase why the pools of a node are not all that the user asked for.
type Reason string

const (
	// NoInstances: the cloud knows none of the nodes, so the question was wrong.
	NoInstances Reason = "NoInstances"
	// InstanceMissing: the cloud does not know the node's instance.
	InstanceMissing Reason = "InstanceMissing"
	// InterfaceMissing: the instance has no interface at a device index.
	InterfaceMissing Reason = "InterfaceMissing"
	// NothingAssigned: an interface has no addresses for pods.
	NothingAssigned Reason = "NothingAssigned"
	// Overlap: addresses of the interface are in another pool.
	Overlap Reason = "Overlap"
	// PoolInTheWay: a pool of a former interface still has the name.
	PoolInTheWay Reason = "PoolInTheWay"
	// AddressesGone: pods use addresses that the cloud has taken away.
	AddressesGone Reason = "AddressesGone"
)

// Issue is a fault of one node, with the way out.
type Issue struct {
	Reason Reason
	Text   string
	// Degrades says that the pools work all the same, and each node has its own: the issue stops growth or a return, keeps a pod from its
	// fixed address, or is a risk. The condition Degraded reports it. All others are in the condition Ready.
	Degrades bool
}

// Member is a node whose pools follow the cloud.
type Member struct {
	Node     string
	Instance string // ID; empty for a node of another cloud
	Answers  History
}

// Pool is a pool that an earlier plan asked for.
type Pool struct {
	Name, Node, Interface string
	Subnet                netip.Prefix
	Gateway               netip.Addr
	IPs                   inet.Set
}

// ExistingPool is a Pool in the cluster.
type ExistingPool struct {
	Pool
	Leased   inet.Set // in use, or retained for an owner
	Deleting bool
}

// Discovery is the input of Discover.
type Discovery struct {
	Now      time.Time
	Network  string // prefix of the pools' names
	Devices  []int
	Families []inet.Family
	Members  []Member
	Subnets  map[string]Subnet // of all interfaces in the answers
	Pools    []ExistingPool    // of this network
	Others   inet.Set          // addresses of all other pools
	Fixed    inet.Set          // addresses of all pools of fixed addresses, also of other networks; they are among Others
	// Reserved are the addresses that this network keeps from all pods.
	Reserved inet.Set
	// Settled says that the agents have had time to read Reserved and Pools. Only then the
	// plan takes reserved addresses out of a pool, or ends the reservation of those in none.
	Settled bool
	// Managed says that the controller assigns the addresses itself (Manage). An interface without any is no issue then, and
	// an IPv6 prefix has only the addresses that can be withheld (lease.Withholdable).
	Managed bool
	// Attached are the device indexes where the controller attaches an interface (Attach), which then reports a missing one.
	Attached map[int]bool
	// Leaving are the addresses that the controller gives back to the cloud, by pool. They leave the pool like addresses that
	// the cloud has taken away, but no pod may use them, so no event names pods.
	Leaving map[string]inet.Set
}

// Device is a pool with the device index of its interface.
type Device struct {
	Pool
	Device int
}

// Plan is what the cluster is to have. Applying it twice changes nothing more.
type Plan struct {
	Pools    []Device            // to create, or to keep with these values; sorted by name
	Delete   []string            // pools without a node, an interface or addresses
	Reserved inet.Set            // addresses to keep from all pods
	Gone     map[string]inet.Set // addresses that were taken away and are not reserved yet, by pool
	Issues   []Issue
	// Again are the nodes to ask the cloud about once more, after Apart: their last answer
	// differs from the pools, or lacks something.
	Again []string
	// Unconfirmed are those of Again whose pool is created as soon as another answer agrees.
	Unconfirmed []string
}

// Discover plans pools that follow what the cloud has assigned to the nodes' interfaces.
// It assigns nothing.
//
// The first answer about a node makes its pools. From then on, a change and a new pool need
// two answers that agree, at least Apart apart: clouds are eventually consistent. Addresses
// that are gone are first reserved; a later plan takes those without a lease out of the
// pool, and a still later one ends the reservation. Pools of other owners are left alone, and their addresses to them.
func Discover(d Discovery) Plan {
	p := &discovery{Discovery: d, existing: map[string]ExistingPool{}, again: map[string]bool{}}
	p.plan.Gone = map[string]inet.Set{}
	for _, pool := range d.Pools {
		p.existing[pool.Name] = pool
	}
	p.taken = inet.Union(append(ipsOf(d.Pools), d.Others)...)
	if fault := p.noInstances(); fault != "" {
		p.plan.Reserved = d.Reserved
		p.issue(NoInstances, fault)
		for _, m := range d.Members {
			if m.Answers.Answered() {
				p.again[m.Node] = true
			}
		}
		return p.result()
	}
	slots := map[string]bool{}
	for _, m := range d.Members {
		for _, device := range d.Devices {
			for _, family := range d.Families {
				s := d.slot(m, device, family)
				slots[s.name] = true
				p.place(s)
			}
		}
	}
	for name := range p.existing {
		if !slots[name] {
			p.delete(name)
		}
	}
	p.reserve()
	return p.result()
}

// slot is the place of one pool.
type slot struct {
	member Member
	device int
	family inet.Family
	name   string
}

func (d Discovery) slot(m Member, device int, family inet.Family) slot {
	return slot{member: m, device: device, family: family, name: PoolName(d.Network, m.Node, device, family)}
}

// supply returns what an answer says about the place of a pool, without the addresses that are leaving.
func (d Discovery) supply(a *Answer, s slot, have Pool) (supply, bool) {
	offered := inet.OfPrefix
	if d.Managed {
		offered = func(piece netip.Prefix) inet.Set {
			if d.coversFixed(piece, have.IPs) {
				return inet.Set{}
			}
			return offeredOf(piece, have.IPs)
		}
	}
	found, ok := supplyOf(a, s.device, s.family, d.Subnets, offered)
	found.ips = found.ips.Minus(d.Leaving[s.name])
	return found, ok
}

// offeredOf returns the addresses of a piece that a pool offers: those that can be withheld, or all if a pool
// of the mode Discover has more of them already.
func offeredOf(piece netip.Prefix, have inet.Set) inet.Set {
	some, all := lease.Withholdable(piece), inet.OfPrefix(piece)
	if have.Overlaps(all.Minus(some)) {
		return all
	}
	return some
}

type discovery struct {
	Discovery
	existing map[string]ExistingPool
	taken    inet.Set   // addresses of pools, existing and planned
	gone     []inet.Set // in pools, although the cloud has taken them away, or may have
	back     []inet.Set // in pools, and assigned by two answers
	again    map[string]bool
	plan     Plan
}

func ipsOf(pools []ExistingPool) []inet.Set {
	var sets []inet.Set
	for _, p := range pools {
		sets = append(sets, p.IPs)
	}
	return sets
}

// noInstances returns the fault if all answers lack their instance. A wrong region or
// account is likelier than the end of all nodes, so the pools stay.
func (p *discovery) noInstances() string {
	asked := 0
	for _, m := range p.Members {
		if m.Answers.exists() {
			return ""
		}
		if m.Answers.Answered() {
			asked++
		}
	}
	if asked == 0 {
		return ""
	}
	return fmt.Sprintf("the cloud knows none of the %d nodes; check spec.region and the account of the credentials", asked)
}

func (p *discovery) issue(reason Reason, text string) {
	p.plan.Issues = append(p.plan.Issues, Issue{Reason: reason, Text: text})
}

func (p *discovery) delete(name string) {
	if !p.existing[name].Deleting {
		p.plan.Delete = append(p.plan.Delete, name)
	}
}

// place plans one pool.
func (p *discovery) place(s slot) {
	if !s.member.Answers.Answered() {
		p.keep(s.name)
		return
	}
	have, exists := p.existing[s.name]
	latest, found := p.supply(s.member.Answers.latest, s, have.Pool)
	if !found && latest.iface != "" {
		p.keep(s.name) // the subnet is not described yet
		p.again[s.member.Node] = true
		return
	}
	if found && !latest.subnet.IsValid() {
		found = false // a subnet without the family
	} else {
		p.missing(s, latest, found)
	}
	switch {
	case exists && have.Deleting:
		p.issue(PoolInTheWay, fmt.Sprintf("node %s waits until the deleted SpiderIPPool %s has no address in use", s.member.Node, s.name))
	case exists:
		p.follow(s, have, latest)
	case found && !latest.ips.IsEmpty():
		p.create(s, latest)
	}
}

// keep leaves a pool as it is.
func (p *discovery) keep(name string) {
	if have, ok := p.existing[name]; ok {
		p.gone = append(p.gone, have.IPs.And(p.Reserved))
	}
}

// missing reports an answer without an instance, interface or addresses.
func (p *discovery) missing(s slot, latest supply, found bool) {
	node := s.member.Node
	switch {
	case !s.member.Answers.exists():
		p.issue(InstanceMissing, fmt.Sprintf("the cloud does not know the instance of node %s; check spec.providerID of the node", node))
	case !found && p.Attached[s.device]:
	case !found:
		p.issue(InterfaceMissing, fmt.Sprintf("the instance of node %s has no interface with device index %d; attach one", node, s.device))
	case latest.ips.IsEmpty() && p.Managed:
		return
	case latest.ips.IsEmpty():
		p.issue(NothingAssigned, fmt.Sprintf("interface %s of node %s has no %s prefix or secondary address; assign one, or leave %d out of spec.ipVersions",
			latest.iface, node, s.family, int(s.family)))
	default:
		return
	}
	p.again[node] = true
}

// create plans a new pool. An earlier answer must agree if there is one: the last one may
// show a prefix that the cloud has taken away.
func (p *discovery) create(s slot, from supply) {
	ips, node := from.ips, s.member.Node
	if s.member.Answers.earlier != nil {
		earlier, _ := p.supply(s.member.Answers.earlier, s, Pool{})
		if earlier.iface != from.iface {
			earlier.ips = inet.Set{}
		}
		ips = ips.And(earlier.ips)
	}
	if !ips.Equal(from.ips) {
		p.again[node] = true
		p.plan.Unconfirmed = append(p.plan.Unconfirmed, node)
	}
	ips = p.free(s, from.iface, ips)
	if ips.IsEmpty() {
		return
	}
	p.put(s, from, ips)
}

// free returns those of the addresses that no pool has, and takes them. It returns none
// if the last answer is old: the cloud may have given them to another interface since.
func (p *discovery) free(s slot, iface string, ips inet.Set) inet.Set {
	_, exists := p.existing[s.name]
	degrades := exists || !ips.Minus(inet.Union(p.Fixed, p.taken)).IsEmpty()
	overlap := func(format string, args ...any) {
		p.plan.Issues = append(p.plan.Issues, Issue{Reason: Overlap, Text: fmt.Sprintf(format, args...), Degrades: degrades})
		p.again[s.member.Node] = true
	}
	if fixed := ips.And(p.Fixed); !fixed.IsEmpty() {
		overlap("interface %s of node %s has %s in a prefix, and spec.interfaces[].fixedAddresses of a SpiderCloudNetwork has them, too; reserve them in the subnet, so that the cloud takes no prefix there, and unassign the prefix", iface, s.member.Node, fixed)
		ips = ips.Minus(fixed)
	}
	if ips.Overlaps(p.taken) {
		overlap("%s of interface %s of node %s are in another SpiderIPPool; take them out of that pool", ips.And(p.taken), iface, s.member.Node)
		ips = ips.Minus(p.taken)
	}
	if p.Now.Sub(s.member.Answers.latest.At) >= Apart {
		p.again[s.member.Node] = true
		return inet.Set{}
	}
	if !ips.IsEmpty() {
		p.taken = inet.Union(p.taken, ips)
	}
	return ips
}

func (p *discovery) put(s slot, from supply, ips inet.Set) {
	pool := Pool{Name: s.name, Node: s.member.Node, Interface: from.iface, Subnet: from.subnet, Gateway: from.gateway, IPs: ips}
	p.plan.Pools = append(p.plan.Pools, Device{pool, s.device})
}

// follow plans the changes of a pool that exists.
func (p *discovery) follow(s slot, have ExistingPool, latest supply) {
	now := latest.of(have)
	leaving := p.Leaving[s.name]
	if !now.Equal(have.IPs.Minus(leaving)) {
		p.again[s.member.Node] = true
	}
	from := supply{iface: have.Interface, subnet: have.Subnet, gateway: have.Gateway}
	if latest.fits(have) {
		from = latest
	} else if latest.iface != "" && latest.subnet.IsValid() {
		p.issue(PoolInTheWay, fmt.Sprintf("interface %s of node %s waits until SpiderIPPool %s of the former interface %s is empty", latest.iface, s.member.Node, s.name, have.Interface))
	}
	if s.member.Answers.earlier == nil {
		if have.IPs.Overlaps(p.Reserved) {
			p.again[s.member.Node] = true // another answer ends the reservation, or goes on with it
		}
		p.keep(s.name)
		p.put(s, from, have.IPs)
		return
	}
	earlier, _ := p.supply(s.member.Answers.earlier, s, have.Pool)
	before := earlier.of(have)
	gone := have.IPs.Minus(inet.Union(now, before))
	back := now.And(before).And(have.IPs)
	doubted := have.IPs.And(p.Reserved).Minus(back) // a reservation needs two answers to end, as it did to begin
	if !doubted.Minus(leaving).IsEmpty() {
		p.again[s.member.Node] = true
	}
	p.gone, p.back = append(p.gone, gone, doubted), append(p.back, back)
	taken := gone.Minus(leaving)
	if news := taken.Minus(p.Reserved); !news.IsEmpty() {
		p.plan.Gone[s.name] = news
	}
	if used := taken.And(have.Leased); !used.IsEmpty() {
		p.issue(AddressesGone, fmt.Sprintf("the cloud has taken %s from interface %s of node %s, and pods of SpiderIPPool %s use them; delete these pods", used, have.Interface, s.member.Node, s.name))
	}
	ips := have.IPs
	if p.Settled {
		ips = ips.Minus(gone.And(p.Reserved).Minus(have.Leased))
	}
	if added := now.And(before).Minus(have.IPs); !added.IsEmpty() {
		ips = inet.Union(ips, p.free(s, have.Interface, added))
	}
	switch {
	case !ips.IsEmpty():
		p.put(s, from, ips)
	case p.Managed && latest.fits(have):
		p.put(s, from, have.IPs) // the addresses stay reserved until the pool gets others
		p.gone = append(p.gone, have.IPs.And(p.Reserved))
	default:
		p.delete(s.name)
	}
}

// fits reports whether the pool is for this interface, or for an unknown one.
func (s supply) fits(have ExistingPool) bool {
	return s.iface != "" && (s.iface == have.Interface || have.Interface == "") && s.subnet == have.Subnet
}

// of returns the addresses that the pool may have: none if the device index has another
// interface now.
func (s supply) of(have ExistingPool) inet.Set {
	if !s.fits(have) {
		return inet.Set{}
	}
	return s.ips
}

// reserve plans the addresses to keep from all pods.
func (p *discovery) reserve() {
	held := inet.Union(p.gone...)
	if !p.Settled {
		held = inet.Union(held, p.Reserved.Minus(inet.Union(p.back...)))
	}
	p.plan.Reserved = held
}

func (p *discovery) result() Plan {
	slices.SortFunc(p.plan.Pools, func(a, b Device) int { return cmp.Compare(a.Name, b.Name) })
	slices.Sort(p.plan.Delete)
	p.plan.Again = slices.Sorted(maps.Keys(p.again))
	return p.plan
}

// maxPoolName is the longest name of an object in Kubernetes.
const maxPoolName = 253

// PoolName returns the name of a pool, e.g. aws-worker1-0-v4 for device index 0. A hash
// replaces the end of a name that is too long.
func PoolName(network, node string, device int, family inet.Family) string {
	name := fmt.Sprintf("%s-%s-%d-v%d", network, node, device, int(family))
	if len(name) <= maxPoolName {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	end := hex.EncodeToString(sum[:8])
	return name[:maxPoolName-len(end)] + end
}
