package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/service"
)

// Group are the pods that a peer of a rule selects. Equal peers of many policies are one group.
type Group struct {
	// Namespace is the only namespace of the pods. If it is empty, Namespaces selects them.
	Namespace  string
	Namespaces Selector
	Pods       Selector
	// Networks are those of a MultiNetworkPolicy, sorted: the group has the addresses of the pods on these networks. It is
	// nil for those of the default interface.
	Networks []Name
	// Port, if set, limits the group to the pods with a named port.
	Port string
}

// key returns a text that only equal groups share.
func (g *Group) key() string {
	var networks []string
	for _, n := range g.Networks {
		networks = append(networks, n.Namespace+"/"+n.Name)
	}
	return fmt.Sprintf("%q %s %s %q %q", g.Namespace, g.Namespaces.key(), g.Pods.key(), networks, g.Port)
}

// nameBytes is the length of the hash in a name. An author of policies must not find two groups with one name.
const nameBytes = 20

// Name returns a name for the objects of the group, 40 hexadecimal digits. Programs of all releases must agree on it.
func (g *Group) Name() string {
	sum := sha256.Sum256([]byte(g.key()))
	return hex.EncodeToString(sum[:nameBytes])
}

// String describes the group to users, e.g. "pods app=web in namespaces team=a", or "all pods in its namespace shop".
func (g *Group) String() string {
	peer := Peer{Pods: &g.Pods, Namespaces: &g.Namespaces}
	if g.Namespace != "" {
		peer.Namespaces = nil
	}
	text := peer.String()
	if g.Namespace != "" {
		text += " " + g.Namespace
	}
	if g.Port != "" {
		text += " with port " + g.Port
	}
	for i, n := range g.Networks {
		text += [...]string{" on networks ", ", "}[min(i, 1)] + n.String()
	}
	return text
}

// SelectsNamespace reports whether pods of the namespace may be in the group.
func (g *Group) SelectsNamespace(name string, labels map[string]string) bool {
	if g.Namespace != "" {
		return g.Namespace == name
	}
	return g.Namespaces.Matches(labels)
}

// Member is an address of a group. In a group with Port, it has one of the numbers that the pod gives the port.
type Member struct {
	Addr     netip.Addr
	Protocol service.Protocol
	Port     uint16
}

// Members returns the part of a pod in the group. The caller has compared the namespace.
func (g *Group) Members(p *Pod) (members []Member) {
	if p.HostNetwork || !g.Pods.Matches(p.Labels) {
		return nil
	}
	for _, addr := range g.addrs(p) {
		if g.Port == "" {
			members = append(members, Member{Addr: addr})
			continue
		}
		for _, port := range p.Ports {
			if port.Name == g.Port {
				members = append(members, Member{addr, port.Protocol, port.Port})
			}
		}
	}
	return members
}

// addrs returns the addresses of a pod on the networks of the group.
func (g *Group) addrs(p *Pod) (addrs []netip.Addr) {
	if g.Networks == nil {
		return p.Addrs
	}
	for i := range p.Interfaces {
		if slices.Contains(g.Networks, p.Interfaces[i].Network) {
			addrs = append(addrs, p.Interfaces[i].Addrs...)
		}
	}
	return addrs
}

// Resolved are the addresses of a group.
type Resolved struct {
	// All are the addresses of a group without Port.
	All inet.Set
	// Numbered are those of a group with Port, sorted.
	Numbered []Numbered
}

// Numbered are the addresses of the pods that give a named port one number.
type Numbered struct {
	Protocol service.Protocol
	Port     uint16
	Addrs    inet.Set
}

// ResolvedOf sorts the members of a group. Equal members count once.
func ResolvedOf(members []Member) (a Resolved) {
	slices.SortFunc(members, func(a, b Member) int { return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port)) })
	for len(members) > 0 {
		first := members[0]
		end := slices.IndexFunc(members, func(m Member) bool { return m.Protocol != first.Protocol || m.Port != first.Port })
		if end < 0 {
			end = len(members)
		}
		addrs := make([]netip.Addr, end)
		for i, m := range members[:end] {
			addrs[i] = m.Addr
		}
		if first.Port == 0 {
			a.All = inet.OfAddrs(addrs...)
		} else {
			a.Numbered = append(a.Numbered, Numbered{first.Protocol, first.Port, inet.OfAddrs(addrs...)})
		}
		members = members[end:]
	}
	return a
}

// Resolver has the addresses of groups.
type Resolver interface {
	Resolve(Group) Resolved
}

// noter is a Resolver that notes the groups. All of them are empty.
type noter struct{ groups map[string]Group }

func (n noter) Resolve(g Group) Resolved {
	n.groups[g.key()] = g
	return Resolved{}
}

// Groups returns the groups of the rules that have an effect.
func (p *Policy) Groups() []Group {
	in := scope{p.Name.Namespace, p.Networks}
	var rules [2][]Rule
	for _, d := range bothWays {
		if section := p.section(d); section.Isolates {
			rules[d] = section.Rules
		}
	}
	return in.groups(rules)
}

// Groups returns the groups of the rules. No policy, nil, has none.
func (p *ClusterPolicy) Groups() []Group {
	if p == nil {
		return nil
	}
	var rules [2][]Rule
	for _, d := range bothWays {
		for _, r := range p.rules(d) {
			rules[d] = append(rules[d], r.Rule)
		}
	}
	return scope{}.groups(rules)
}

// groups returns the groups that a decision by the rules, which are by direction, asks for.
func (s scope) groups(rules [2][]Rule) (all []Group) {
	asked := noter{map[string]Group{}}
	for _, d := range bothWays {
		e := evaluation{from: asked, pod: &Pod{}, way: d}
		for i := range rules[d] {
			e.matches(Match{}, s, &rules[d][i])
		}
	}
	for _, g := range asked.groups {
		all = append(all, g)
	}
	return all
}
