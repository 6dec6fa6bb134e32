package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/service"
)

// Cluster is a snapshot of the objects that decide. It remembers the addresses of each selector, so it must not be used
// by two goroutines at once.
type Cluster struct {
	namespaces map[string]map[string]string
	pods       map[Name]*Pod
	policies   map[string][]*Policy // by namespace, sorted by name
	tiers      []*ClusterPolicy     // in the order of evaluation
	resolved   *resolved
}

// resolved has the addresses of pods. Pods on the network of their node are left out.
type resolved struct {
	byNamespace map[string][]*Pod
	at          map[netip.Addr][]place
	groups      map[groupKey]inet.Set
	ports       map[portName][]numbered
}

// place is an interface of a pod.
type place struct {
	pod *Pod
	*Interface
}

// scope is the part of a policy that its peers depend on.
type scope struct {
	namespace string
	networks  []Name // those of a MultiNetworkPolicy, nil for the default interfaces
}

func (s scope) networksKey() string {
	var key strings.Builder
	for _, n := range s.networks {
		key.WriteString(n.String() + ",")
	}
	return key.String()
}

// groupKey names the pods of a peer.
type groupKey struct {
	namespace        string // the only namespace; empty with a selector
	namespaces, pods string // Selector.key
	networks         string // scope.networksKey
}

// portName is a named port.
type portName struct {
	name     string
	protocol service.Protocol
	networks string // scope.networksKey
}

// numbered are the addresses whose pods give a port name one number.
type numbered struct {
	port  uint16
	addrs inet.Set
}

// everyone are all addresses of both IP families.
var everyone = inet.Of(netipx.RangeOfPrefix(inet.IPv4.Everything()), netipx.RangeOfPrefix(inet.IPv6.Everything()))

// NewCluster returns a Cluster. A pod in an unknown namespace matches no namespace selector.
func NewCluster(namespaces []Namespace, pods []*Pod, policies []*Policy, cluster []*ClusterPolicy) *Cluster {
	c := &Cluster{
		namespaces: make(map[string]map[string]string, len(namespaces)), pods: make(map[Name]*Pod, len(pods)), policies: map[string][]*Policy{},
		resolved: &resolved{
			byNamespace: map[string][]*Pod{}, at: map[netip.Addr][]place{}, groups: map[groupKey]inet.Set{}, ports: map[portName][]numbered{},
		},
	}
	for _, n := range namespaces {
		labels := n.Labels
		if labels == nil {
			labels = map[string]string{}
		}
		c.namespaces[n.Name] = labels
	}
	for _, p := range pods {
		c.pods[p.Name] = p
		if p.HostNetwork {
			continue
		}
		c.resolved.byNamespace[p.Name.Namespace] = append(c.resolved.byNamespace[p.Name.Namespace], p)
		c.resolved.place(p)
	}
	for _, p := range policies {
		c.setPolicy(p)
	}
	c.tiers = slices.SortedFunc(slices.Values(cluster), (*ClusterPolicy).compare)
	return c
}

func (r *resolved) place(p *Pod) {
	byDefault := &Interface{Default: true}
	for _, addr := range p.Addrs {
		r.at[addr] = append(r.at[addr], place{p, byDefault})
	}
	for i := range p.Interfaces {
		if at := &p.Interfaces[i]; !at.Default {
			for _, addr := range at.Addrs {
				r.at[addr] = append(r.at[addr], place{p, at})
			}
		}
	}
}

// WithPolicies returns a Cluster in which the policies are added, or replace those of the same names.
func (c *Cluster) WithPolicies(policies []*Policy, cluster []*ClusterPolicy) *Cluster {
	with := *c
	with.policies = maps.Clone(c.policies)
	for _, p := range policies {
		with.policies[p.Name.Namespace] = slices.Clone(with.policies[p.Name.Namespace])
		with.setPolicy(p)
	}
	for _, p := range cluster {
		with.tiers = append(slices.DeleteFunc(slices.Clone(with.tiers), func(old *ClusterPolicy) bool { return old.Name == p.Name }), p)
	}
	slices.SortFunc(with.tiers, (*ClusterPolicy).compare)
	return &with
}

func (c *Cluster) setPolicy(p *Policy) {
	all := c.policies[p.Name.Namespace]
	i, found := slices.BinarySearchFunc(all, p.Name, func(p *Policy, name Name) int { return p.Name.Compare(name) })
	if found {
		all[i] = p
		return
	}
	c.policies[p.Name.Namespace] = slices.Insert(all, i, p)
}

// Pod returns the pod with a name, nil if there is none.
func (c *Cluster) Pod(name Name) *Pod { return c.pods[name] }

// Pods returns all pods, sorted. Pods on the network of their node are left out.
func (c *Cluster) Pods() (pods []*Pod) {
	for _, some := range c.resolved.byNamespace {
		pods = append(pods, some...)
	}
	slices.SortFunc(pods, func(a, b *Pod) int { return a.Name.Compare(b.Name) })
	return pods
}

// peers returns the addresses of a peer in a policy.
func (c *Cluster) peers(of scope, peer *Peer) inet.Set {
	if peer.Block != nil {
		set := inet.OfPrefix(peer.Block.Prefix)
		for _, except := range peer.Block.Except {
			set = set.Minus(inet.OfPrefix(except))
		}
		return set
	}
	if peer.Namespaces == nil && peer.Pods == nil {
		return inet.Set{}
	}
	var pods Selector
	if peer.Pods != nil {
		pods = *peer.Pods
	}
	key := groupKey{pods: pods.key(), networks: of.networksKey()}
	if peer.Namespaces == nil {
		key.namespace = of.namespace
	} else {
		key.namespaces = peer.Namespaces.key()
	}
	group, ok := c.resolved.groups[key]
	if !ok {
		group = c.resolve(of, peer.Namespaces, pods)
		c.resolved.groups[key] = group
	}
	return group
}

func (c *Cluster) resolve(of scope, namespaces *Selector, pods Selector) inet.Set {
	if namespaces == nil {
		return of.addrs(matching(c.resolved.byNamespace[of.namespace], pods))
	}
	var all []*Pod
	for name, labels := range c.namespaces {
		if namespaces.Matches(labels) {
			all = append(all, matching(c.resolved.byNamespace[name], pods)...)
		}
	}
	return of.addrs(all)
}

func matching(pods []*Pod, s Selector) (selected []*Pod) {
	for _, p := range pods {
		if s.Matches(p.Labels) {
			selected = append(selected, p)
		}
	}
	return selected
}

func (s scope) addrs(pods []*Pod) inet.Set {
	addrs := make([]netip.Addr, 0, 2*len(pods))
	for _, p := range pods {
		addrs = append(addrs, s.addrsOf(p)...)
	}
	return inet.OfAddrs(addrs...)
}

// addrsOf returns the addresses of a pod on the networks of the policy.
func (s scope) addrsOf(p *Pod) (addrs []netip.Addr) {
	if s.networks == nil {
		return p.Addrs
	}
	for i := range p.Interfaces {
		if slices.Contains(s.networks, p.Interfaces[i].Network) {
			addrs = append(addrs, p.Interfaces[i].Addrs...)
		}
	}
	return addrs
}

// numbers returns the numbers that pods give a named port, sorted, with the addresses of these pods.
func (c *Cluster) numbers(of scope, name portName) []numbered {
	name.networks = of.networksKey()
	numbers, ok := c.resolved.ports[name]
	if ok {
		return numbers
	}
	addrs := map[uint16][]netip.Addr{}
	for _, pods := range c.resolved.byNamespace {
		for _, p := range pods {
			for _, number := range p.numbers(name) {
				addrs[number] = append(addrs[number], of.addrsOf(p)...)
			}
		}
	}
	for port, a := range addrs {
		numbers = append(numbers, numbered{port, inet.OfAddrs(a...)})
	}
	slices.SortFunc(numbers, func(a, b numbered) int { return cmp.Compare(a.port, b.port) })
	c.resolved.ports[name] = numbers
	return numbers
}

// numbers returns the numbers of a named port in the pod. Two containers may use one name.
func (p *Pod) numbers(name portName) (numbers []uint16) {
	for _, port := range p.Ports {
		if port.Name == name.name && port.Protocol == name.protocol {
			numbers = append(numbers, port.Port)
		}
	}
	return numbers
}
