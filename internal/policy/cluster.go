package policy

import (
	"maps"
	"net/netip"
	"slices"

	"go4.org/netipx"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/service"
)

// Cluster is a snapshot of the objects that decide. It remembers the addresses of each group, so it must not be used by
// two goroutines at once.
type Cluster struct {
	Rules
	pods     map[Name]*Pod
	resolved *resolved
}

// resolved is a Resolver by all pods. Pods on the network of their node are left out.
type resolved struct {
	namespaces  map[string]map[string]string
	byNamespace map[string][]*Pod
	at          map[netip.Addr][]place
	groups      map[string]Resolved // by Group.key
}

// place is an interface of a pod.
type place struct {
	pod *Pod
	*Interface
}

// everyone are all addresses of both IP families.
var everyone = inet.Of(netipx.RangeOfPrefix(inet.IPv4.Everything()), netipx.RangeOfPrefix(inet.IPv6.Everything()))

// NewCluster returns a Cluster. A pod in an unknown namespace matches no namespace selector.
func NewCluster(namespaces []Namespace, pods []*Pod, policies []*Policy, cluster []*ClusterPolicy) *Cluster {
	c := &Cluster{Rules: *NewRules(), pods: make(map[Name]*Pod, len(pods))}
	c.resolved = &resolved{
		namespaces: c.namespaces, byNamespace: map[string][]*Pod{}, at: map[netip.Addr][]place{}, groups: map[string]Resolved{},
	}
	for _, n := range namespaces {
		c.SetNamespace(n)
	}
	for _, p := range pods {
		c.pods[p.Name] = p
		if p.HostNetwork {
			continue
		}
		c.resolved.byNamespace[p.Name.Namespace] = append(c.resolved.byNamespace[p.Name.Namespace], p)
		c.resolved.place(p)
	}
	c.set(policies, cluster)
	return c
}

// byDefault is a default interface, also without addresses of Spiderpool.
var byDefault = &Interface{Default: true}

func (r *resolved) place(p *Pod) {
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
	for namespace, all := range with.policies {
		with.policies[namespace] = slices.Clone(all)
	}
	with.tiers = slices.Clone(c.tiers)
	with.set(policies, cluster)
	return &with
}

func (c *Cluster) set(policies []*Policy, cluster []*ClusterPolicy) {
	for _, p := range policies {
		c.SetPolicy(p)
	}
	for _, p := range cluster {
		c.SetClusterPolicy(p)
	}
}

// Decide returns the filter of a pod's default interface.
func (c *Cluster) Decide(pod *Pod) Filter { return c.Select(pod, byDefault).Filter(pod, c.resolved) }

// DecideInterface returns the filter of an interface: that of Decide for the default one, and by
// the MultiNetworkPolicies of its network for another.
func (c *Cluster) DecideInterface(pod *Pod, at *Interface) Filter {
	if at.Default {
		return c.Decide(pod)
	}
	f := c.Select(pod, at).Filter(pod, c.resolved)
	f.Interface = at.Name
	return f
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

// Resolve implements Resolver.
func (r *resolved) Resolve(g Group) Resolved {
	key := g.key()
	group, ok := r.groups[key]
	if !ok {
		group = ResolvedOf(r.members(&g))
		r.groups[key] = group
	}
	return group
}

func (r *resolved) members(g *Group) (all []Member) {
	add := func(namespace string) {
		for _, p := range r.byNamespace[namespace] {
			all = append(all, g.Members(p)...)
		}
	}
	if g.Namespace != "" {
		add(g.Namespace)
		return all
	}
	for name, labels := range r.namespaces {
		if g.SelectsNamespace(name, labels) {
			add(name)
		}
	}
	return all
}

// portName is a named port.
type portName struct {
	name     string
	protocol service.Protocol
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
