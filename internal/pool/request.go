package pool

import (
	"net/netip"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Request asks for the pools of one interface of a pod.
type Request struct {
	Pod       PodFacts
	Namespace NamespaceFacts
	Node      NodeFacts

	// Interface is the name of the interface in the pod: eth0, net1, …
	Interface string
	// Position of the interface in the pod: 0 for eth0, n for entry n of the networks
	// annotation. It selects an entry of the ippools annotation without interfaces.
	Position int
	// Attachment is the network attachment of the interface. Without one (the zero
	// value), no pool with multusName matches.
	Attachment NetworkAttachment

	// SubnetPools are the pools for the SpiderSubnet annotation of the pod; nil
	// without the annotation.
	SubnetPools *Names
	// Configured are the pools of the CNI configuration (default_ipv4_ippool,
	// default_ipv6_ippool).
	Configured Names
	// CleanGateway is clean_gateway of the CNI configuration.
	CleanGateway bool
	// MatchMasterSubnet rejects pools with a subnet outside MasterSubnets, the subnets
	// of the master interface.
	MatchMasterSubnet bool
	MasterSubnets     []netip.Prefix
}

// Names are pool names by IP family, with optional "*" wildcards.
type Names struct {
	IPv4 []string
	IPv6 []string
}

// Of returns the names for the family.
func (n Names) Of(family inet.Family) []string {
	if family == 4 {
		return n.IPv4
	}
	return n.IPv6
}

// PodFacts describe a pod.
type PodFacts struct {
	Namespace   string
	Name        string
	Labels      map[string]string
	Annotations map[string]string
	// App is the pod's top controller, for the podAffinity of automatic pools; nil
	// without one.
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

// NamespaceFacts describe the pod's namespace.
type NamespaceFacts struct {
	Name        string
	Labels      map[string]string
	Annotations map[string]string
}

// NodeFacts describe the pod's node.
type NodeFacts struct {
	Name   string
	Labels map[string]string
}
