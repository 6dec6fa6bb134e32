package topology

import (
	"fmt"
	"net/netip"
	"strings"
)

// Machines returns every host with interfaces in a subnet: nodes first, then the others.
func (t *Topology) Machines() []Host {
	return append(append([]Host(nil), t.Nodes...), t.Hosts...)
}

// Addresses returns the primary addresses of the host's first interface, IPv4 first.
func (h Host) Addresses() []netip.Addr {
	var list []netip.Addr
	for _, addr := range []netip.Addr{h.Interfaces[0].IPv4, h.Interfaces[0].IPv6} {
		if addr.IsValid() {
			list = append(list, addr)
		}
	}
	return list
}

// HostNames returns the names of everything that can run commands: machines, the layer-2 network's gateway, the
// internet host.
func (t *Topology) HostNames() []string {
	var names []string
	for _, host := range t.Machines() {
		names = append(names, host.Name)
	}
	if t.L2 != nil {
		names = append(names, t.L2.Gateway.Host)
	}
	return append(names, t.Internet.Host)
}

// Namespaces returns the names of all network namespaces of the topology.
func (t *Topology) Namespaces() []string {
	var names []string
	for _, name := range append(t.fabricNames(), t.HostNames()...) {
		names = append(names, HostNamespace(name))
	}
	return names
}

// fabricNames returns the names of the network's own namespaces.
func (t *Topology) fabricNames() []string {
	var names []string
	for _, vpc := range t.VPCs {
		names = append(names, vpc.RouterName())
		for _, nat := range vpc.NATGateways {
			names = append(names, nat.Name)
		}
		if vpc.InternetGateway {
			names = append(names, InternetGatewayName)
		}
	}
	if t.L2 != nil {
		names = append(names, SwitchName)
	}
	return names
}

// Host returns the machine of that name; ok is false if there is none.
func (t *Topology) Host(name string) (Host, bool) {
	for _, host := range t.Machines() {
		if host.Name == name {
			return host, true
		}
	}
	return Host{}, false
}

// Subnet returns the subnet of that name; ok is false if there is none.
func (t *Topology) Subnet(name string) (Subnet, bool) {
	for _, subnet := range t.subnets() {
		if subnet.Name == name {
			return subnet, true
		}
	}
	return Subnet{}, false
}

// VPC returns the VPC of the named subnet; ok is false if there is none.
func (t *Topology) VPC(subnet string) (VPC, bool) {
	for _, vpc := range t.VPCs {
		for _, s := range vpc.Subnets {
			if s.Name == subnet {
				return vpc, true
			}
		}
	}
	return VPC{}, false
}

// RegistryAddress is the address of the image registry for nodes.
func (t *Topology) RegistryAddress() netip.AddrPort {
	host, _ := t.Host(t.Registry.Host)
	return netip.AddrPortFrom(host.Interfaces[0].IPv4, t.Registry.Port)
}

// CloudAddress is the address of the cloud's API; ok is false if the topology has none.
func (t *Topology) CloudAddress() (addr netip.AddrPort, ok bool) {
	host, ok := t.Host(t.CloudAPI.Host)
	if !ok {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(host.Interfaces[0].IPv4, t.CloudAPI.Port), true
}

// InstanceID is the node's ID in the cloud, e.g. i-000006d6173746572 for master.
func (h Host) InstanceID() string { return fmt.Sprintf("i-%017x", []byte(fmt.Sprintf("%.8s", h.Name))) }

// PublicAddress is a one-to-one translation.
type PublicAddress struct{ Public, Private netip.Addr }

// PublicAddresses returns the translations of the VPC's internet gateway: NAT gateways, interfaces with a public
// address, and load balancers inside the VPC.
func (t *Topology) PublicAddresses(vpc VPC) []PublicAddress {
	var pairs []PublicAddress
	add := func(public, private netip.Addr) {
		if public.IsValid() {
			pairs = append(pairs, PublicAddress{Public: public, Private: private})
		}
	}
	for _, nat := range vpc.NATGateways {
		add(nat.PublicIPv4, nat.IPv4)
	}
	for _, host := range t.Machines() {
		for _, iface := range host.Interfaces {
			if owner, _ := t.VPC(iface.Subnet); owner.Name == vpc.Name {
				add(iface.PublicIPv4, iface.IPv4)
			}
		}
	}
	if owner, _ := t.VPC(t.LoadBalancer.Subnet); owner.Name == vpc.Name {
		for _, frontend := range t.LoadBalancer.Frontends {
			add(frontend.PublicIPv4, frontend.IPv4)
		}
	}
	return pairs
}

func (t *Topology) subnets() []Subnet {
	var subnets []Subnet
	for _, vpc := range t.VPCs {
		subnets = append(subnets, vpc.Subnets...)
	}
	if t.L2 != nil {
		subnets = append(subnets, t.L2.Subnets...)
	}
	return subnets
}

// TargetKind is the kind of a route's target.
type TargetKind string

// Targets of routes.
const (
	TargetInternetGateway TargetKind = "internet-gateway"
	TargetNATGateway      TargetKind = "nat-gateway"
	TargetPeering         TargetKind = "peering"
)

// Target is the target of a route: a kind, and a name if there can be several of the kind.
type Target struct {
	Kind TargetKind
	Name string
}

// UnmarshalText parses "internet-gateway", "nat-gateway/NAME" or "peering/NAME".
func (t *Target) UnmarshalText(text []byte) error {
	kind, name, named := strings.Cut(string(text), "/")
	*t = Target{Kind: TargetKind(kind), Name: name}
	switch t.Kind {
	case TargetInternetGateway:
		if !named {
			return nil
		}
	case TargetNATGateway, TargetPeering:
		if name != "" {
			return nil
		}
	}
	return fmt.Errorf("target %q is none of internet-gateway, nat-gateway/NAME, peering/NAME", text)
}

func (t Target) String() string {
	if t.Name == "" {
		return string(t.Kind)
	}
	return string(t.Kind) + "/" + t.Name
}
