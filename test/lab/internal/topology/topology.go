// Package topology describes the lab's network as data, read from the YAML files in test/lab/topologies.
//
// It parses strictly (the error for an unknown key names it), fills in defaults (a subnet's gateway is its first
// address, a MAC address follows from the IPv4 address), validates, and generates workers. It reads one file and does
// no other I/O. Package vpc builds the network.
//
// The terms are AWS's: an ENI is an interface with assigned addresses, a delegated prefix is a block of addresses
// assigned to an ENI, a route table belongs to subnets.
package topology

import (
	"fmt"
	"net"
	"net/netip"
)

// Kind selects the forwarding rules of the network.
type Kind string

const (
	// KindAWS routes by assigned address and checks sources, like an AWS VPC.
	KindAWS Kind = "aws"
	// KindL2 is one plain Ethernet broadcast domain.
	KindL2 Kind = "l2"
)

// NamespacePrefix begins the name of every network namespace of the lab under /run/netns.
const NamespacePrefix = "splab-"

// Names of the network's own parts. The namespace of a part is HostNamespace(name), as for a host.
const (
	// InternetGatewayName is the internet gateway.
	InternetGatewayName = "internet-gateway"
	// SwitchName is the bridge of a layer-2 network.
	SwitchName = "switch"
)

// RouterName is the name of the VPC's router, which has the forwarding rules.
func (v VPC) RouterName() string { return "vpc-" + v.Name }

// Topology is one network.
type Topology struct {
	Kind        Kind   `yaml:"kind"`
	Description string `yaml:"description"`
	// VPCs and Peerings are for KindAWS only, L2 is for KindL2 only.
	VPCs     []VPC     `yaml:"vpcs"`
	Peerings []Peering `yaml:"peerings"`
	L2       *L2       `yaml:"l2"`

	Internet Internet `yaml:"internet"`
	// Nodes become Kubernetes nodes. The first one represents the control plane.
	Nodes []Host `yaml:"nodes"`
	// NodeTemplates generate workers beyond Nodes, in turn.
	NodeTemplates []NodeTemplate `yaml:"nodeTemplates"`
	// Hosts are machines outside Kubernetes.
	Hosts    []Host   `yaml:"hosts"`
	Registry Registry `yaml:"registry"`
	// CloudAPI is for KindAWS only, and optional.
	CloudAPI     CloudAPI     `yaml:"cloudAPI"`
	LoadBalancer LoadBalancer `yaml:"loadBalancer"`
}

// VPC is a routed network of subnets.
type VPC struct {
	Name string       `yaml:"name"`
	IPv4 netip.Prefix `yaml:"ipv4"`
	IPv6 netip.Prefix `yaml:"ipv6"`
	// InternetGateway allows routes to the internet gateway. At most one VPC has it.
	InternetGateway bool         `yaml:"internetGateway"`
	Subnets         []Subnet     `yaml:"subnets"`
	RouteTables     []RouteTable `yaml:"routeTables"`
	NATGateways     []NATGateway `yaml:"natGateways"`
}

// Subnet is a range of addresses in one zone of a VPC, or on the bridge of a layer-2 network.
type Subnet struct {
	Name string       `yaml:"name"`
	Zone string       `yaml:"zone"`
	IPv4 netip.Prefix `yaml:"ipv4"`
	IPv6 netip.Prefix `yaml:"ipv6"`
	// GatewayIPv4 and GatewayIPv6 default to the first host address of the range.
	GatewayIPv4 netip.Addr `yaml:"gatewayIPv4"`
	GatewayIPv6 netip.Addr `yaml:"gatewayIPv6"`
	// RouteTable is the name of one of the VPC's route tables; empty on a layer-2 network.
	RouteTable string `yaml:"routeTable"`
}

// RouteTable has a VPC's routes for some subnets. The VPC's own ranges are always included.
type RouteTable struct {
	Name   string  `yaml:"name"`
	Routes []Route `yaml:"routes"`
}

// Route sends a destination to a target: "internet-gateway", "nat-gateway/NAME" or "peering/NAME".
type Route struct {
	Destination netip.Prefix `yaml:"destination"`
	Target      Target       `yaml:"target"`
}

// NATGateway translates the IPv4 addresses of private subnets to its own.
type NATGateway struct {
	Name   string     `yaml:"name"`
	Subnet string     `yaml:"subnet"`
	MAC    MAC        `yaml:"mac"`
	IPv4   netip.Addr `yaml:"ipv4"`
	// PublicIPv4 is its address on the internet.
	PublicIPv4 netip.Addr `yaml:"publicIPv4"`
}

// Peering joins two VPCs. The route tables decide which traffic uses it.
type Peering struct {
	Name string   `yaml:"name"`
	VPCs []string `yaml:"vpcs"`
}

// L2 is a plain bridge with a gateway to the internet.
type L2 struct {
	Subnets []Subnet  `yaml:"subnets"`
	Gateway L2Gateway `yaml:"gateway"`
	// PodIPv4 and PodIPv6 are reserved for pods; the lab does not use them.
	PodIPv4 netip.Prefix `yaml:"podIPv4"`
	PodIPv6 netip.Prefix `yaml:"podIPv6"`
}

// L2Gateway is the router of a layer-2 network. It has each subnet's gateway address.
type L2Gateway struct {
	Host       string     `yaml:"host"`
	MAC        MAC        `yaml:"mac"`
	PublicIPv4 netip.Addr `yaml:"publicIPv4"`
}

// Internet is a host on the internet, with the router's addresses on its link.
type Internet struct {
	Host        string       `yaml:"host"`
	IPv4        netip.Prefix `yaml:"ipv4"`
	IPv6        netip.Prefix `yaml:"ipv6"`
	GatewayIPv4 netip.Addr   `yaml:"gatewayIPv4"`
	GatewayIPv6 netip.Addr   `yaml:"gatewayIPv6"`
}

// Host is a machine: a network namespace with one or more interfaces. Its default routes use the first one.
type Host struct {
	Name       string      `yaml:"name"`
	Interfaces []Interface `yaml:"interfaces"`
}

// Interface is an ENI, or a port on the bridge.
type Interface struct {
	Name   string     `yaml:"name"`
	Subnet string     `yaml:"subnet"`
	MAC    MAC        `yaml:"mac"`
	IPv4   netip.Addr `yaml:"ipv4"`
	IPv6   netip.Addr `yaml:"ipv6"`
	// Secondary addresses are configured on the host too.
	Secondary []netip.Addr `yaml:"secondary"`
	// Prefixes are delegated to the ENI at first, for the host's own use (AWS: IPv4 /28, IPv6 /80).
	Prefixes []netip.Prefix `yaml:"prefixes"`
	// PublicIPv4 is translated one-to-one to IPv4 by the internet gateway.
	PublicIPv4 netip.Addr `yaml:"publicIPv4"`
}

// NodeTemplate generates workers. Each takes the next free address and the next free prefix of each range.
type NodeTemplate struct {
	Interface string         `yaml:"interface"`
	Subnet    string         `yaml:"subnet"`
	IPv4      netip.Prefix   `yaml:"ipv4"`
	IPv6      netip.Prefix   `yaml:"ipv6"`
	Prefixes  []PrefixSource `yaml:"prefixes"`
}

// PrefixSource is a range of delegated prefixes of length Bits.
type PrefixSource struct {
	From netip.Prefix `yaml:"from"`
	Bits int          `yaml:"bits"`
}

// Registry is the host and TCP port of the lab's image registry.
type Registry struct {
	Host string `yaml:"host"`
	Port uint16 `yaml:"port"`
}

// CloudAPI is the host and TCP port of the cloud's API, like an interface endpoint of a VPC.
type CloudAPI struct {
	Host string `yaml:"host"`
	Port uint16 `yaml:"port"`
}

// LoadBalancer has the load balancers' addresses and the host whose namespace serves them.
type LoadBalancer struct {
	Host      string     `yaml:"host"`
	Subnet    string     `yaml:"subnet"`
	MAC       MAC        `yaml:"mac"`
	Frontends []Frontend `yaml:"frontends"`
}

// Frontend is the set of addresses of one load balancer.
type Frontend struct {
	IPv4 netip.Addr `yaml:"ipv4"`
	IPv6 netip.Addr `yaml:"ipv6"`
	// PublicIPv4 makes the load balancer reachable from the internet, at this address and over IPv6.
	PublicIPv4 netip.Addr `yaml:"publicIPv4"`
}

// Internal reports whether the frontend is unreachable from the internet.
func (f Frontend) Internal() bool { return !f.PublicIPv4.IsValid() }

// MAC is a hardware address with a text form.
type MAC net.HardwareAddr

// UnmarshalText parses six octets separated by colons.
func (m *MAC) UnmarshalText(text []byte) error {
	hw, err := net.ParseMAC(string(text))
	if err != nil {
		return err
	}
	if len(hw) != 6 || hw[0]&1 == 1 {
		return fmt.Errorf("%s is not a unicast Ethernet address", text)
	}
	*m = MAC(hw)
	return nil
}

func (m MAC) String() string { return net.HardwareAddr(m).String() }

// Namespace is the name of the host's network namespace under /run/netns.
func (h Host) Namespace() string { return HostNamespace(h.Name) }

// HostNamespace is the name of a host's network namespace.
func HostNamespace(host string) string { return NamespacePrefix + host }

// Assigned returns every range of the interface, with addresses as single-address prefixes.
func (i Interface) Assigned() []netip.Prefix {
	var ranges []netip.Prefix
	for _, a := range i.Addresses() {
		ranges = append(ranges, netip.PrefixFrom(a, a.BitLen()))
	}
	return append(ranges, i.Prefixes...)
}

// Addresses returns the configured addresses of the interface, primary ones first.
func (i Interface) Addresses() []netip.Addr {
	var addrs []netip.Addr
	for _, a := range append([]netip.Addr{i.IPv4, i.IPv6}, i.Secondary...) {
		if a.IsValid() {
			addrs = append(addrs, a)
		}
	}
	return addrs
}
