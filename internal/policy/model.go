package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/internal/service"
)

// Name identifies a pod, a policy or a network. The name of a ClusterNetworkPolicy has no namespace.
type Name struct {
	Namespace, Name string
	// Multi marks a MultiNetworkPolicy: a NetworkPolicy may have the same name.
	Multi bool
}

// String returns e.g. "default/web", "ClusterNetworkPolicy deny-all" or "MultiNetworkPolicy default/web".
func (n Name) String() string {
	switch {
	case n.Namespace == "":
		return "ClusterNetworkPolicy " + n.Name
	case n.Multi:
		return "MultiNetworkPolicy " + n.Namespace + "/" + n.Name
	}
	return n.Namespace + "/" + n.Name
}

// Compare orders names.
func (n Name) Compare(other Name) int {
	if by := cmp.Or(cmp.Compare(n.Namespace, other.Namespace), cmp.Compare(n.Name, other.Name)); by != 0 || n.Multi == other.Multi {
		return by
	}
	if other.Multi {
		return -1
	}
	return 1
}

// Direction is that of the first packet of a connection, as the pod sees it.
type Direction uint8

// The directions.
const (
	Ingress Direction = iota
	Egress
)

// String returns the name of the direction in a NetworkPolicy, e.g. "ingress".
func (d Direction) String() string { return [...]string{"ingress", "egress"}[d] }

// Namespace has the labels that namespace selectors read.
type Namespace struct {
	Name   string
	Labels map[string]string
}

// Pod is the part of a Pod that concerns policies. A finished pod is none: its addresses may belong to another pod.
type Pod struct {
	Name   Name
	Labels map[string]string
	// Addrs are the addresses of the pod's default interface.
	Addrs []netip.Addr
	// Interfaces are those with addresses of Spiderpool. The default one is among them only if it has some.
	Interfaces []Interface
	// HostNetwork means that the pod has the network of its node.
	HostNetwork bool
	// Node is empty before a scheduler has chosen one.
	Node      string
	NodeAddrs []netip.Addr
	Ports     []NamedPort
}

// Interface is an interface of a pod with addresses of Spiderpool.
type Interface struct {
	// Name is e.g. "net1".
	Name string
	// Default is the interface of NetworkPolicies and ClusterNetworkPolicies. MultiNetworkPolicies select the others.
	Default bool
	// Network is the NetworkAttachmentDefinition of the interface. Without one, no MultiNetworkPolicy selects it.
	Network Name
	Addrs   []netip.Addr
}

// own returns the addresses of all interfaces.
func (p *Pod) own() (addrs []netip.Addr) {
	addrs = slices.Clone(p.Addrs)
	for i := range p.Interfaces {
		addrs = append(addrs, p.Interfaces[i].Addrs...)
	}
	return addrs
}

// NamedPort is a named port of a container.
type NamedPort struct {
	Name     string
	Protocol service.Protocol
	Port     uint16
}

// Policy is a NetworkPolicy, or a MultiNetworkPolicy if Name.Multi is set.
type Policy struct {
	Name Name
	// Networks are the NetworkAttachmentDefinitions of a MultiNetworkPolicy, sorted. It selects the interfaces on these
	// networks, and the pods of a peer are their addresses on these networks. Without one, it has no effect.
	Networks []Name
	// Pods selects the pods in the namespace of the policy.
	Pods            Selector
	Ingress, Egress Section
}

// Selects reports whether the policy selects an interface of the pod.
func (p *Policy) Selects(pod *Pod, at *Interface) bool {
	concerns := at.Default && !p.Name.Multi || !at.Default && p.Name.Multi && slices.Contains(p.Networks, at.Network)
	return concerns && p.Name.Namespace == pod.Name.Namespace && !pod.HostNetwork && p.Pods.Matches(pod.Labels)
}

func (p *Policy) section(d Direction) *Section {
	if d == Ingress {
		return &p.Ingress
	}
	return &p.Egress
}

// Section is one direction of a policy.
type Section struct {
	// Isolates means that policyTypes names the direction. Rules have no effect without it.
	Isolates bool
	Rules    []Rule
}

// Rule allows the packets that match one of its peers and one of its ports.
type Rule struct {
	AnyPeer bool
	Peers   []Peer
	AnyPort bool
	Ports   []Port
}

// Tier says when the rules of a ClusterPolicy are evaluated.
type Tier uint8

const (
	// Admin is before NetworkPolicies.
	Admin Tier = iota
	// Baseline is behind them, for pods that no NetworkPolicy isolates.
	Baseline
)

// Action is that of a rule in a ClusterPolicy.
type Action uint8

const (
	// Accept lets a packet pass.
	Accept Action = iota
	// Deny drops it.
	Deny
	// Pass leaves it to the next tier.
	Pass
)

// String returns the name of the action in a ClusterNetworkPolicy, e.g. "Accept".
func (a Action) String() string { return [...]string{"Accept", "Deny", "Pass"}[a] }

// ClusterPolicy is a ClusterNetworkPolicy. The first rule that matches a packet decides; see Cluster.
type ClusterPolicy struct {
	Name     Name
	Tier     Tier
	Priority int32
	// Namespaces and Pods select the pods. Both must hold.
	Namespaces, Pods Selector
	Ingress, Egress  []TierRule
}

func (p *ClusterPolicy) rules(d Direction) []TierRule {
	if d == Ingress {
		return p.Ingress
	}
	return p.Egress
}

// compare orders by tier and priority. Kubernetes leaves the order of equal priorities open; we take the names.
func (p *ClusterPolicy) compare(other *ClusterPolicy) int {
	return cmp.Or(cmp.Compare(p.Tier, other.Tier), cmp.Compare(p.Priority, other.Priority), cmp.Compare(p.Name.Name, other.Name.Name))
}

// TierRule is a rule of a ClusterPolicy.
type TierRule struct {
	Rule
	Action Action
}

// Peer matches addresses: those of Block, or those of pods. The zero value matches none.
type Peer struct {
	Block *Block
	// Namespaces is nil for the namespace of the policy.
	Namespaces *Selector
	// Pods is nil for all pods of the namespaces.
	Pods *Selector
}

// Block is a range of addresses without some parts of it.
type Block struct {
	Prefix netip.Prefix
	Except []netip.Prefix
}

// String describes the peer to users, e.g. "pods app=web in namespaces team=a".
func (p *Peer) String() string {
	switch {
	case p.Block != nil:
		text := p.Block.Prefix.String()
		for i, except := range p.Block.Except {
			text += [...]string{" except ", ", "}[min(i, 1)] + except.String()
		}
		return text
	case p.Namespaces == nil && p.Pods == nil:
		return "nothing (invalid peer)"
	}
	pods, where := "all pods", "in its namespace"
	if p.Pods != nil && len(*p.Pods) > 0 {
		pods = "pods " + p.Pods.String()
	}
	if p.Namespaces != nil {
		where = "in all namespaces"
		if len(*p.Namespaces) > 0 {
			where = "in namespaces " + p.Namespaces.String()
		}
	}
	return pods + " " + where
}

// Port matches a range of ports, or the port with Name of the destination pod. The zero value matches none.
type Port struct {
	Protocol service.Protocol
	Name     string
	From, To uint16
}

// PortRange are the ports From to To of a protocol. Protocol 0 stands for all IP protocols, and Others for those
// besides TCP, UDP and SCTP.
type PortRange struct {
	Protocol service.Protocol
	From, To uint16
}

// maxPort is the highest port number.
const maxPort = 1<<16 - 1

// Others stands for the protocols without ports. IANA reserves the number.
const Others service.Protocol = 255

// anyPorts are all packets, also those of protocols without ports.
var anyPorts = PortRange{To: maxPort}

// String returns e.g. "TCP 80", "UDP 5000-5010", "SCTP" for all ports of a protocol, or "any" for all protocols.
func (r PortRange) String() string {
	switch {
	case r.Protocol == 0:
		return "any"
	case r.Protocol == Others:
		return "other protocols"
	case r.From == 0 && r.To == maxPort:
		return r.Protocol.String()
	case r.From == r.To:
		return fmt.Sprintf("%s %d", r.Protocol, r.From)
	}
	return fmt.Sprintf("%s %d-%d", r.Protocol, r.From, r.To)
}

func (r PortRange) compare(other PortRange) int {
	return cmp.Or(cmp.Compare(r.Protocol, other.Protocol), cmp.Compare(r.From, other.From), cmp.Compare(r.To, other.To))
}

// Operator relates the value of a label to the values of a Requirement.
type Operator uint8

// The operators of label selectors.
const (
	In Operator = iota
	NotIn
	Exists
	DoesNotExist
)

// Requirement is a condition for one label.
type Requirement struct {
	Key      string
	Operator Operator
	// Values are those of In and NotIn.
	Values []string
}

// Compare orders requirements, so that equal selectors have equal texts.
func (r Requirement) Compare(other Requirement) int {
	return cmp.Or(cmp.Compare(r.Key, other.Key), cmp.Compare(r.Operator, other.Operator), slices.Compare(r.Values, other.Values))
}

// Selector selects by labels: all requirements must hold. The empty selector selects everything.
type Selector []Requirement

// Matches reports whether the selector selects an object with the labels.
func (s Selector) Matches(labels map[string]string) bool {
	for _, r := range s {
		if !r.matches(labels) {
			return false
		}
	}
	return true
}

func (r *Requirement) matches(labels map[string]string) bool {
	value, ok := labels[r.Key]
	switch r.Operator {
	case Exists:
		return ok
	case DoesNotExist:
		return !ok
	case NotIn:
		return !ok || !slices.Contains(r.Values, value)
	}
	return ok && slices.Contains(r.Values, value)
}

// key returns a text that only equal selectors share, also those with values that are no label values.
func (s Selector) key() string { return fmt.Sprintf("%q", []Requirement(s)) }

// String returns the selector in the notation of kubectl, e.g. "app=web,tier in (a,b),!old".
func (s Selector) String() string {
	texts := make([]string, len(s))
	for i, r := range s {
		switch {
		case r.Operator == Exists:
			texts[i] = r.Key
		case r.Operator == DoesNotExist:
			texts[i] = "!" + r.Key
		case r.Operator == In && len(r.Values) == 1:
			texts[i] = r.Key + "=" + r.Values[0]
		case r.Operator == In:
			texts[i] = r.Key + " in (" + strings.Join(r.Values, ",") + ")"
		default:
			texts[i] = r.Key + " notin (" + strings.Join(r.Values, ",") + ")"
		}
	}
	return strings.Join(texts, ",")
}
