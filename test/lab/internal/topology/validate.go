package topology

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"go4.org/netipx"
)

// hostName is a DNS label, short enough for namespaces and nodes.
var hostName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$`)

// maxInterfaceName is IFNAMSIZ minus the terminating zero.
const maxInterfaceName = 15

// assignment is a range of one interface with its field in the topology.
type assignment struct {
	field  string
	prefix netip.Prefix
}

// checker collects errors, each with the field's path.
type checker struct{ errs []error }

func (c *checker) failf(field, format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("%s: "+format, append([]any{field}, args...)...))
}

// Validate reports every error in the topology, each with field and value.
func (t *Topology) Validate() error {
	c := &checker{}
	switch {
	case t.Kind == KindAWS && t.L2 == nil && len(t.VPCs) > 0:
	case t.Kind == KindL2 && t.L2 != nil && len(t.VPCs) == 0 && len(t.Peerings) == 0:
	case t.Kind == KindAWS, t.Kind == KindL2:
		c.failf("kind", "%q needs vpcs (aws) or l2 (l2), and not both", t.Kind)
	default:
		c.failf("kind", "%q is neither %s nor %s", t.Kind, KindAWS, KindL2)
	}
	for i, vpc := range t.VPCs {
		t.checkVPC(c, fmt.Sprintf("vpcs[%d]", i), vpc)
	}
	t.checkVPCSet(c)
	if t.L2 != nil {
		t.checkL2(c)
	}
	t.checkInternet(c)
	t.checkHosts(c)
	t.checkTemplates(c)
	t.checkServices(c)
	if len(c.errs) == 0 { // these checks compare values, so the values must be valid
		t.checkUnique(c)
	}
	return errors.Join(c.errs...)
}

func (c *checker) prefix(field string, prefix netip.Prefix, ipv4 bool) bool {
	family := "IPv6"
	if ipv4 {
		family = "IPv4"
	}
	switch {
	case !prefix.IsValid():
		c.failf(field, "is missing; give an %s range", family)
	case prefix.Addr().Is4() != ipv4:
		c.failf(field, "%s is not an %s range", prefix, family)
	case prefix != prefix.Masked():
		c.failf(field, "%s has host bits; write %s", prefix, prefix.Masked())
	default:
		return true
	}
	return false
}

func (c *checker) addressIn(field string, addr netip.Addr, ranges netip.Prefix) {
	switch {
	case !addr.IsValid():
		c.failf(field, "is missing; give an address of %s", ranges)
	case !ranges.Contains(addr):
		c.failf(field, "%s is not in %s", addr, ranges)
	}
}

func (c *checker) publicIPv4(field string, addr netip.Addr) {
	if !addr.Is4() {
		c.failf(field, "%s is not an IPv4 address", addr)
	}
}

func (t *Topology) checkVPC(c *checker, field string, vpc VPC) {
	if !hostName.MatchString(vpc.Name) {
		c.failf(field+".name", "%q does not match %s", vpc.Name, hostName)
	}
	ok4 := c.prefix(field+".ipv4", vpc.IPv4, true)
	ok6 := c.prefix(field+".ipv6", vpc.IPv6, false)
	tables := map[string]bool{}
	for i, table := range vpc.RouteTables {
		at := fmt.Sprintf("%s.routeTables[%d]", field, i)
		if tables[table.Name] {
			c.failf(at+".name", "%q is there twice", table.Name)
		}
		tables[table.Name] = true
		for r, route := range table.Routes {
			t.checkRoute(c, fmt.Sprintf("%s.routes[%d]", at, r), vpc, route)
		}
	}
	checkSubnets(c, field, vpc.Subnets)
	for i, subnet := range vpc.Subnets {
		at := fmt.Sprintf("%s.subnets[%d]", field, i)
		if ok4 && subnet.IPv4.IsValid() && !contains(vpc.IPv4, subnet.IPv4) {
			c.failf(at+".ipv4", "%s is not in the VPC's %s", subnet.IPv4, vpc.IPv4)
		}
		if ok6 && subnet.IPv6.IsValid() && !contains(vpc.IPv6, subnet.IPv6) {
			c.failf(at+".ipv6", "%s is not in the VPC's %s", subnet.IPv6, vpc.IPv6)
		}
		if !tables[subnet.RouteTable] {
			c.failf(at+".routeTable", "%q is not one of the VPC's route tables", subnet.RouteTable)
		}
	}
	for i, nat := range vpc.NATGateways {
		at := fmt.Sprintf("%s.natGateways[%d]", field, i)
		subnet, found := findSubnet(vpc.Subnets, nat.Subnet)
		if !found {
			c.failf(at+".subnet", "%q is not one of the VPC's subnets", nat.Subnet)
			continue
		}
		c.addressIn(at+".ipv4", nat.IPv4, subnet.IPv4)
		c.publicIPv4(at+".publicIPv4", nat.PublicIPv4)
	}
}

func (t *Topology) checkRoute(c *checker, field string, vpc VPC, route Route) {
	at := field + ".target"
	c.prefix(field+".destination", route.Destination, route.Destination.Addr().Is4())
	switch route.Target.Kind {
	case TargetInternetGateway:
		if !vpc.InternetGateway {
			c.failf(at, "the VPC has no internet gateway; set internetGateway: true")
		}
	case TargetNATGateway:
		if !slices.ContainsFunc(vpc.NATGateways, func(n NATGateway) bool { return n.Name == route.Target.Name }) {
			c.failf(at, "%q is not one of the VPC's natGateways", route.Target.Name)
		}
		if !route.Destination.Addr().Is4() {
			c.failf(field+".destination", "%s: a NAT gateway translates IPv4 only", route.Destination)
		}
	case TargetPeering:
		if !slices.ContainsFunc(t.Peerings, func(p Peering) bool {
			return p.Name == route.Target.Name && slices.Contains(p.VPCs, vpc.Name)
		}) {
			c.failf(at, "%q is not a peering of VPC %s", route.Target.Name, vpc.Name)
		}
	default:
		c.failf(at, "is missing")
	}
}

func (t *Topology) checkVPCSet(c *checker) {
	gateways := 0
	for i, vpc := range t.VPCs {
		if vpc.InternetGateway {
			gateways++
		}
		for _, other := range t.VPCs[:i] {
			if other.Name == vpc.Name {
				c.failf(fmt.Sprintf("vpcs[%d].name", i), "%q is there twice", vpc.Name)
			}
		}
	}
	if gateways > 1 {
		c.failf("vpcs", "%d of them have an internet gateway; one can", gateways)
	}
	for i, peering := range t.Peerings {
		at := fmt.Sprintf("peerings[%d]", i)
		if len(peering.VPCs) != 2 || peering.VPCs[0] == peering.VPCs[1] {
			c.failf(at+".vpcs", "%q must name two VPCs", peering.VPCs)
			continue
		}
		var ends []VPC
		for _, name := range peering.VPCs {
			at := slices.IndexFunc(t.VPCs, func(v VPC) bool { return v.Name == name })
			if at < 0 {
				c.failf(fmt.Sprintf("peerings[%d].vpcs", i), "%q is not a VPC", name)
				continue
			}
			ends = append(ends, t.VPCs[at])
		}
		if len(ends) == 2 && (ends[0].IPv4.Overlaps(ends[1].IPv4) || ends[0].IPv6.Overlaps(ends[1].IPv6)) {
			c.failf(at+".vpcs", "the ranges of %q overlap", peering.VPCs)
		}
	}
}

func checkSubnets(c *checker, field string, subnets []Subnet) {
	if len(subnets) == 0 {
		c.failf(field+".subnets", "there is none; give at least one")
	}
	for i, subnet := range subnets {
		at := fmt.Sprintf("%s.subnets[%d]", field, i)
		if c.prefix(at+".ipv4", subnet.IPv4, true) {
			c.addressIn(at+".gatewayIPv4", subnet.GatewayIPv4, subnet.IPv4)
		}
		if c.prefix(at+".ipv6", subnet.IPv6, false) {
			c.addressIn(at+".gatewayIPv6", subnet.GatewayIPv6, subnet.IPv6)
		}
		for _, other := range subnets[:i] {
			if other.Name == subnet.Name {
				c.failf(at+".name", "%q is there twice", subnet.Name)
			}
			if other.IPv4.Overlaps(subnet.IPv4) || other.IPv6.Overlaps(subnet.IPv6) {
				c.failf(at, "%s, %s overlaps with subnet %s", subnet.IPv4, subnet.IPv6, other.Name)
			}
		}
	}
}

func (t *Topology) checkL2(c *checker) {
	checkSubnets(c, "l2", t.L2.Subnets)
	c.publicIPv4("l2.gateway.publicIPv4", t.L2.Gateway.PublicIPv4)
	for _, pods := range []struct {
		field  string
		prefix netip.Prefix
		ipv4   bool
	}{{"l2.podIPv4", t.L2.PodIPv4, true}, {"l2.podIPv6", t.L2.PodIPv6, false}} {
		if !c.prefix(pods.field, pods.prefix, pods.ipv4) {
			continue
		}
		if !slices.ContainsFunc(t.L2.Subnets, func(s Subnet) bool {
			return contains(s.IPv4, pods.prefix) || contains(s.IPv6, pods.prefix)
		}) {
			c.failf(pods.field, "%s is in none of the subnets", pods.prefix)
		}
	}
}

func (t *Topology) checkInternet(c *checker) {
	internet := t.Internet
	if internet.IPv4.Addr().Is4() {
		c.addressIn("internet.gatewayIPv4", internet.GatewayIPv4, internet.IPv4)
	} else {
		c.failf("internet.ipv4", "%s is not an IPv4 address with its prefix length", internet.IPv4)
	}
	if internet.IPv6.Addr().Is6() {
		c.addressIn("internet.gatewayIPv6", internet.GatewayIPv6, internet.IPv6)
	} else {
		c.failf("internet.ipv6", "%s is not an IPv6 address with its prefix length", internet.IPv6)
	}
}

func (t *Topology) checkHosts(c *checker) {
	if len(t.Nodes) == 0 {
		c.failf("nodes", "there is none; a cluster needs at least 1")
	}
	for n, hosts := range [][]Host{t.Nodes, t.Hosts} {
		for h, host := range hosts {
			at := fmt.Sprintf("%s[%d]", [...]string{"nodes", "hosts"}[n], h)
			if len(host.Interfaces) == 0 {
				c.failf(at+".interfaces", "there is none; give at least one")
			}
			for i, iface := range host.Interfaces {
				t.checkInterface(c, fmt.Sprintf("%s.interfaces[%d]", at, i), iface)
			}
		}
	}
}

func (t *Topology) checkInterface(c *checker, field string, iface Interface) {
	if iface.Name == "" || len(iface.Name) > maxInterfaceName {
		c.failf(field+".name", "%q is not 1 to %d characters long", iface.Name, maxInterfaceName)
	}
	subnet, found := t.Subnet(iface.Subnet)
	if !found {
		c.failf(field+".subnet", "%q is not a subnet", iface.Subnet)
		return
	}
	c.addressIn(field+".ipv4", iface.IPv4, subnet.IPv4)
	c.addressIn(field+".ipv6", iface.IPv6, subnet.IPv6)
	for i, addr := range iface.Secondary {
		if !subnet.IPv4.Contains(addr) && !subnet.IPv6.Contains(addr) {
			c.failf(fmt.Sprintf("%s.secondary[%d]", field, i), "%s is not in subnet %s", addr, subnet.Name)
		}
	}
	for i, prefix := range iface.Prefixes {
		at := fmt.Sprintf("%s.prefixes[%d]", field, i)
		if c.prefix(at, prefix, prefix.Addr().Is4()) && !contains(subnet.IPv4, prefix) && !contains(subnet.IPv6, prefix) {
			c.failf(at, "%s is not in subnet %s", prefix, subnet.Name)
		}
	}
	if iface.PublicIPv4.IsValid() {
		c.publicIPv4(field+".publicIPv4", iface.PublicIPv4)
	}
}

func (t *Topology) checkTemplates(c *checker) {
	for i, template := range t.NodeTemplates {
		at := fmt.Sprintf("nodeTemplates[%d]", i)
		subnet, found := t.Subnet(template.Subnet)
		if !found {
			c.failf(at+".subnet", "%q is not a subnet", template.Subnet)
			continue
		}
		within := func(field string, prefix netip.Prefix, ipv4 bool) {
			if c.prefix(field, prefix, ipv4) && !contains(subnet.IPv4, prefix) && !contains(subnet.IPv6, prefix) {
				c.failf(field, "%s is not in subnet %s", prefix, subnet.Name)
			}
		}
		within(at+".ipv4", template.IPv4, true)
		within(at+".ipv6", template.IPv6, false)
		for p, source := range template.Prefixes {
			field := fmt.Sprintf("%s.prefixes[%d]", at, p)
			within(field+".from", source.From, source.From.Addr().Is4())
			if source.Bits < source.From.Bits() || source.Bits > source.From.Addr().BitLen() {
				c.failf(field+".bits", "/%d does not fit in %s", source.Bits, source.From)
			}
		}
	}
}

// checkCloudAPI checks the cloud's API, if there is one.
func (t *Topology) checkCloudAPI(c *checker) {
	if t.CloudAPI == (CloudAPI{}) {
		return
	}
	if t.Kind != KindAWS {
		c.failf("cloudAPI", "is for kind %s only", KindAWS)
	}
	if _, found := t.Host(t.CloudAPI.Host); !found {
		c.failf("cloudAPI.host", "%q is not one of the hosts", t.CloudAPI.Host)
	}
	if t.CloudAPI.Port == 0 {
		c.failf("cloudAPI.port", "is missing; give a TCP port")
	}
}

// checkServices checks the registry and the load balancer.
func (t *Topology) checkServices(c *checker) {
	if _, found := t.Host(t.Registry.Host); !found {
		c.failf("registry.host", "%q is not one of the hosts", t.Registry.Host)
	}
	if t.Registry.Port == 0 {
		c.failf("registry.port", "is missing; give a TCP port")
	}
	t.checkCloudAPI(c)
	subnet, found := t.Subnet(t.LoadBalancer.Subnet)
	if !found {
		c.failf("loadBalancer.subnet", "%q is not a subnet", t.LoadBalancer.Subnet)
		return
	}
	if t.L2 != nil && t.LoadBalancer.Host != t.L2.Gateway.Host {
		c.failf("loadBalancer.host", "%q: on a layer-2 network it must be the gateway, %q", t.LoadBalancer.Host, t.L2.Gateway.Host)
	}
	for i, frontend := range t.LoadBalancer.Frontends {
		at := fmt.Sprintf("loadBalancer.frontends[%d]", i)
		c.addressIn(at+".ipv4", frontend.IPv4, subnet.IPv4)
		c.addressIn(at+".ipv6", frontend.IPv6, subnet.IPv6)
		if !frontend.Internal() {
			c.publicIPv4(at+".publicIPv4", frontend.PublicIPv4)
		}
	}
}

func findSubnet(subnets []Subnet, name string) (Subnet, bool) {
	at := slices.IndexFunc(subnets, func(s Subnet) bool { return s.Name == name })
	if at < 0 {
		return Subnet{}, false
	}
	return subnets[at], true
}

// contains reports whether inner lies completely within outer.
func contains(outer, inner netip.Prefix) bool {
	return outer.IsValid() && outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr()) &&
		outer.Contains(netipx.PrefixLastIP(inner))
}
