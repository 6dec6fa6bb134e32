package pool

import (
	"net/netip"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Request is an interface of a pod that needs an address of one IP version.
type Request struct {
	Pod       PodFacts
	Namespace NamespaceFacts
	Node      NodeFacts

	// Interface is the name of the interface in the pod: eth0, net1, …
	Interface string
	// Position is the place of the interface among the pod's: 0 for the first
	// (eth0), n for the nth of the networks annotation. Entries of the ippools
	// annotation without an interface are taken by position.
	Position int
	// Attachment is the network attachment that configures the interface; the zero
	// value where none does, and then no pool with multusName matches.
	Attachment NetworkAttachment

	// SubnetPools are the pools that the SpiderSubnet annotation of the pod stands
	// for, by IP version; nil where the pod has none.
	SubnetPools *Names
	// Configured are the pools of the CNI configuration (default_ipv4_ippool,
	// default_ipv6_ippool).
	Configured Names
	// CleanGateway is clean_gateway of the CNI configuration.
	CleanGateway bool
	// MatchMasterSubnet drops pools whose subnet is none of MasterSubnets, the
	// networks of the addresses of the interface's master.
	MatchMasterSubnet bool
	MasterSubnets     []netip.Prefix
}

// Names are pool names by IP version; they may hold "*" wildcards.
type Names struct {
	IPv4 []string
	IPv6 []string
}

// Of returns the names for IP version 4 or 6.
func (n Names) Of(family inet.Family) []string {
	if family == 4 {
		return n.IPv4
	}
	return n.IPv6
}

// PodFacts is what the choice needs to know of a pod.
type PodFacts struct {
	Namespace   string
	Name        string
	Labels      map[string]string
	Annotations map[string]string
	// App is the pod's top controller, which the podAffinity of automatic pools
	// names; nil where the pod has none.
	App *App
}

// App identifies the top controller of a pod.
type App struct {
	APIGroup   string
	APIVersion string
	Kind       string
	Namespace  string
	Name       string
}

// NamespaceFacts is what the choice needs to know of the pod's namespace.
type NamespaceFacts struct {
	Name        string
	Labels      map[string]string
	Annotations map[string]string
}

// NodeFacts is what the choice needs to know of the pod's node.
type NodeFacts struct {
	Name   string
	Labels map[string]string
}
