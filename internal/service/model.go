package service

import (
	"cmp"
	"net/netip"
	"time"
)

// Name identifies a Service.
type Name struct{ Namespace, Name string }

// String returns e.g. "default/web".
func (n Name) String() string { return n.Namespace + "/" + n.Name }

func (n Name) compare(other Name) int {
	return cmp.Or(cmp.Compare(n.Namespace, other.Namespace), cmp.Compare(n.Name, other.Name))
}

// Service is the part of a Service that concerns its frontends. Headless services, services of type ExternalName
// and services of another proxy (label service.kubernetes.io/service-proxy-name) have no such part.
type Service struct {
	Name Name
	// Created decides which of two services gets a frontend of both.
	Created time.Time
	// ClusterIPs has at most one address of each IP family. A service has no frontend of a family without one.
	ClusterIPs  []netip.Addr
	ExternalIPs []netip.Addr
	// LoadBalancerIPs are those of the status with the IP mode VIP.
	LoadBalancerIPs []netip.Addr
	// SourceRanges are the only clients of LoadBalancerIPs; empty for all clients.
	SourceRanges []netip.Prefix
	Ports        []Port
	// Affinity is the timeout of the session affinity ClientIP in seconds; 0 for none.
	Affinity uint32
	// InternalLocal is internalTrafficPolicy: Local.
	InternalLocal bool
	// ExternalLocal is externalTrafficPolicy: Local.
	ExternalLocal bool
}

// Port is one port of a Service.
type Port struct {
	Name     string
	Protocol Protocol
	Port     uint16
	// NodePort is 0 if the port has none.
	NodePort uint16
}

// Slice is an EndpointSlice of IPv4 or IPv6 addresses.
type Slice struct {
	Name Name
	// Service is the name of the service, in the namespace of the slice.
	Service   string
	Ports     []SlicePort
	Endpoints []Endpoint
}

// SlicePort gives the number of a named port on the endpoints of one slice.
type SlicePort struct {
	Name     string
	Protocol Protocol
	Port     uint16
}

// Endpoint is a backend, without its port.
type Endpoint struct {
	Addr netip.Addr
	// Node is empty if the endpoint is on no node.
	Node string
	// Pod is the name of the pod, in the namespace of the slice; empty if the endpoint is no pod.
	Pod string
	// Hints is nil without hints. Endpoints may share it.
	Hints       *Hints
	Ready       bool
	Serving     bool
	Terminating bool
}

// Hints name the zones and the nodes whose clients should use an endpoint.
type Hints struct{ Zones, Nodes []string }

func (e *Endpoint) zones() []string {
	if e.Hints == nil {
		return nil
	}
	return e.Hints.Zones
}

func (e *Endpoint) nodes() []string {
	if e.Hints == nil {
		return nil
	}
	return e.Hints.Nodes
}

// Node is the node of the clients.
type Node struct {
	Name string
	// Zone is the label topology.kubernetes.io/zone.
	Zone string
	// Addrs are the node's own addresses for node ports: its status addresses of the types InternalIP and ExternalIP.
	Addrs []netip.Addr
}
