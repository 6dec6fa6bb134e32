package walk

import (
	"context"
	"fmt"
	"maps"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// Site describes a topology of the lab for the walk.
type Site struct {
	// Name is the topology's name.
	Name string
	// Manifests is the directory of the manifests, relative to the root.
	Manifests string
	// Attachment is the pods' NetworkAttachmentDefinition.
	Attachment string
	// Nodes are the nodes by name.
	Nodes map[string]Node
	// InternetIPv4 and InternetIPv6 are the addresses of a host on the internet.
	InternetIPv4, InternetIPv6 string
	// NATAddress is the pods' IPv4 address as seen from the internet.
	NATAddress string
	// Routed marks a network that forwards like a VPC, where macvlan fails.
	Routed bool
}

// Node is a node with the ranges of its pods' addresses.
type Node struct {
	IPv4, IPv6       string
	PodIPv4, PodIPv6 netip.Prefix
}

// addresses are the node's own.
func (n Node) addresses() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr(n.IPv4), netip.MustParseAddr(n.IPv6)}
}

var sites = []Site{
	{
		Name: "aws", Manifests: "test/e2e/testdata/aws", Attachment: "kube-system/ipvlan-ens5", Routed: true,
		Nodes: map[string]Node{
			"master": {
				IPv4: "172.31.22.228", IPv6: "2406:da1e:c4:ed01::10",
				PodIPv4: netip.MustParsePrefix("172.31.28.16/28"), PodIPv6: netip.MustParsePrefix("2406:da1e:c4:ed01:c57d::/80"),
			},
			"worker1": {
				IPv4: "172.31.32.18", IPv6: "2406:da1e:c4:ed02::10",
				PodIPv4: netip.MustParsePrefix("172.31.32.176/28"), PodIPv6: netip.MustParsePrefix("2406:da1e:c4:ed02:7a2e::/80"),
			},
		},
		InternetIPv4: "198.51.100.10", InternetIPv6: "2001:db8:100::10", NATAddress: "203.0.113.10",
	},
	{
		Name: "l2", Manifests: "test/e2e/testdata/l2", Attachment: "kube-system/macvlan-ens5",
		Nodes: map[string]Node{
			"master": {
				IPv4: "10.6.0.10", IPv6: "2001:db8:6::10",
				PodIPv4: netip.MustParsePrefix("10.6.128.0/17"), PodIPv6: netip.MustParsePrefix("2001:db8:6::8000:0/113"),
			},
			"worker1": {
				IPv4: "10.6.0.11", IPv6: "2001:db8:6::11",
				PodIPv4: netip.MustParsePrefix("10.6.128.0/17"), PodIPv6: netip.MustParsePrefix("2001:db8:6::8000:0/113"),
			},
		},
		InternetIPv4: "198.51.100.10", InternetIPv6: "2001:db8:100::10", NATAddress: "203.0.113.10",
	},
}

// SiteOf returns the site of a topology.
func SiteOf(topology string) (Site, error) {
	for _, site := range sites {
		if site.Name == topology {
			return site, nil
		}
	}
	return Site{}, fmt.Errorf("topology %q: want aws or l2", topology)
}

// WithNodesOf returns the site with the further nodes of a lab (lab up --nodes), without ranges for their pods.
func (s Site) WithNodesOf(ctx context.Context, lab *Lab) (Site, error) {
	var nodes corev1.NodeList
	if err := lab.Get(ctx, "nodes", &nodes); err != nil {
		return s, err
	}
	s.Nodes = maps.Clone(s.Nodes)
	for _, node := range nodes.Items {
		if _, known := s.Nodes[node.Name]; known {
			continue
		}
		var n Node
		for _, a := range node.Status.Addresses {
			addr, err := netip.ParseAddr(a.Address)
			switch {
			case a.Type != corev1.NodeInternalIP || err != nil:
			case addr.Is4():
				n.IPv4 = addr.String()
			default:
				n.IPv6 = addr.String()
			}
		}
		s.Nodes[node.Name] = n
	}
	return s, nil
}
