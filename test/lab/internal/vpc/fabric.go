package vpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"spiderpool.dev/spiderpool/test/lab/internal/action"
	"spiderpool.dev/spiderpool/test/lab/internal/netfilter"
	"spiderpool.dev/spiderpool/test/lab/internal/netns"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// Routing tables and rules of a VPC's router, in order of priority. Assigned addresses of the VPC come first, for all
// route tables alike; then comes the route table of the packet's subnet.
const (
	tableAssigned   = 100 // a route per assigned range, blackholes for the rest of the VPC
	tableFirstRoute = 200 // the first of the VPC's route tables

	priorityAssigned     = 100
	priorityLoadBalanced = 200
	prioritySubnet       = 300
)

// markLoadBalanced marks replies to connections redirected by a load balancer. They are routed as if they came from
// the load balancer's subnet, whatever the target's subnet.
const markLoadBalanced = 0x1

// Names of links.
const (
	internetGatewayLink = "igw"      // router: to the internet gateway
	vpcLink             = "vpc"      // internet gateway: to the router
	internetLink        = "internet" // internet gateway: to the internet host
	hostLink            = "eth0"     // internet host, NAT gateway
)

// eni is an interface of a VPC: the router's port, and the interface in the namespace of its machine.
type eni struct {
	topology.Interface
	owner  string         // for messages: "master/ens5"
	ranges []netip.Prefix // the assigned ones; those of the topology at first
	subnet topology.Subnet
	host   end
	router end
	// first means that the machine's default routes use it.
	first bool
	// sourceCheck is off for a NAT gateway, which forwards packets of other hosts.
	sourceCheck bool
}

// fabric is one VPC.
type fabric struct {
	t    *topology.Topology
	vpc  topology.VPC
	enis []eni
}

func newFabric(t *topology.Topology, vpc topology.VPC) *fabric {
	f := &fabric{t: t, vpc: vpc}
	for _, host := range t.Machines() {
		for i, iface := range host.Interfaces {
			f.add(eni{Interface: iface, first: i == 0, sourceCheck: true}, host.Name)
		}
	}
	for _, nat := range vpc.NATGateways {
		iface := topology.Interface{Name: hostLink, Subnet: nat.Subnet, MAC: nat.MAC, IPv4: nat.IPv4}
		f.add(eni{Interface: iface, first: true}, nat.Name)
	}
	return f
}

// add adds the host's ENI if it belongs to this VPC.
func (f *fabric) add(e eni, host string) {
	if e, ok := f.eniOf(host, e); ok {
		f.enis = append(f.enis, e)
	}
}

// eniOf completes the ENI of a host; ok is false if it belongs to another VPC.
func (f *fabric) eniOf(host string, e eni) (complete eni, ok bool) {
	at := slices.IndexFunc(f.vpc.Subnets, func(s topology.Subnet) bool { return s.Name == e.Subnet })
	if at < 0 {
		return e, false
	}
	e.owner, e.subnet, e.ranges = host+"/"+e.Name, f.vpc.Subnets[at], e.Assigned()
	e.host = end{topology.HostNamespace(host), e.Name, net.HardwareAddr(e.MAC)}
	e.router = end{namespace: f.namespace(), link: eniLink(e.IPv4)}
	return e, true
}

func (f *fabric) namespace() string { return routerNamespace(f.vpc.Name) }

func routerNamespace(vpc string) string {
	return topology.HostNamespace(topology.VPC{Name: vpc}.RouterName())
}

// eniLink is the name of the router's port: the ENI's primary IPv4 address in hexadecimal, to fit IFNAMSIZ.
func eniLink(primary netip.Addr) string { return fmt.Sprintf("eni%x", primary.As4()) }

func peeringLink(index int) string { return fmt.Sprintf("pcx%d", index) }

// transitAddresses returns the addresses of side 0 or 1 of a link between routers. No other link has them.
func transitAddresses(index, side int) []netip.Prefix {
	return []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{169, 254, 100, byte(4*index + 1 + side)}), 30),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: byte(1 + side)}), 64),
	}
}

// internetTransit is the transitAddresses index of the link to the internet gateway. Peerings count from 0.
const internetTransit = 62

func (f *fabric) actions() []action.Action {
	name := "network: VPC " + f.vpc.Name
	actions := []action.Action{{Name: name + ": router", Do: f.makeRouter}}
	for _, e := range f.enis {
		actions = append(actions, action.Action{
			Name: fmt.Sprintf("%s: ENI %s", name, e.owner),
			Do:   func(context.Context) error { return f.attach(e) },
			Undo: func(context.Context) error { return e.router.remove() },
		})
	}
	for _, nat := range f.vpc.NATGateways {
		actions = append(actions, action.Action{
			Name: fmt.Sprintf("%s: NAT gateway %s", name, nat.Name),
			Do:   func(ctx context.Context) error { return f.makeNATGateway(ctx, nat) },
		})
	}
	if f.vpc.InternetGateway {
		actions = append(actions, f.internetGateway(name+": internet gateway"))
	}
	return append(actions, action.Action{Name: name + ": source checks", Do: f.loadRules})
}

// routerSysctls make a namespace forward, without redirects, router advertisements and duplicate address detection.
// They turn off the reverse path filter, because the source check decides by assignments, not by routes.
var routerSysctls = map[string]string{
	"ipv4/ip_forward":                  "1",
	"ipv4/conf/all/rp_filter":          "0",
	"ipv4/conf/default/rp_filter":      "0",
	"ipv4/conf/all/send_redirects":     "0",
	"ipv4/conf/default/send_redirects": "0",
	"ipv6/conf/all/forwarding":         "1",
	"ipv6/conf/default/accept_ra":      "0",
	"ipv6/conf/default/accept_dad":     "0",
}

// makeRouter prepares the router's namespace: gateway addresses, blackholes for unassigned addresses, rules.
func (f *fabric) makeRouter(context.Context) error {
	ns := f.namespace()
	if err := netns.Sysctl(ns, routerSysctls); err != nil {
		return err
	}
	// No link-local addresses, because they would reveal the router on ENIs.
	if err := netns.Sysctl(ns, map[string]string{"ipv6/conf/default/addr_gen_mode": "1"}); err != nil {
		return err
	}
	var gateways []netip.Prefix
	for _, subnet := range f.vpc.Subnets {
		gateways = append(gateways, single(subnet.GatewayIPv4), single(subnet.GatewayIPv6))
	}
	if err := (end{namespace: ns, link: "lo"}).setAddresses(gateways...); err != nil {
		return err
	}
	for _, block := range []netip.Prefix{f.vpc.IPv4, f.vpc.IPv6} {
		if err := addBlackhole(ns, block, tableAssigned); err != nil {
			return err
		}
	}
	rule := netlink.NewRule()
	rule.Priority, rule.Table = priorityAssigned, tableAssigned
	if err := addRule(ns, *rule); err != nil {
		return err
	}
	balancerSubnet, found := f.loadBalancerSubnet()
	if !found {
		return nil
	}
	rule = netlink.NewRule()
	rule.Priority, rule.Table, rule.Mark = priorityLoadBalanced, f.table(balancerSubnet.RouteTable), markLoadBalanced
	return addRule(ns, *rule)
}

func (f *fabric) loadBalancerSubnet() (topology.Subnet, bool) {
	at := slices.IndexFunc(f.vpc.Subnets, func(s topology.Subnet) bool { return s.Name == f.t.LoadBalancer.Subnet })
	if at < 0 {
		return topology.Subnet{}, false
	}
	return f.vpc.Subnets[at], true
}

// table returns the routing table for a route table of the VPC.
func (f *fabric) table(name string) int {
	return tableFirstRoute + slices.IndexFunc(f.vpc.RouteTables, func(r topology.RouteTable) bool { return r.Name == name })
}

// attach connects an ENI. In the machine it creates link, addresses and default routes; in the router, the routes and
// neighbours of the ENI's assigned ranges, and the rule that selects its subnet's route table.
func (f *fabric) attach(e eni) error {
	if err := ensurePair(e.router, e.host); err != nil {
		return err
	}
	if err := configureHost(e); err != nil {
		return err
	}
	for _, assigned := range e.ranges {
		if err := e.route(assigned); err != nil {
			return err
		}
	}
	return f.join(e)
}

// join prepares the router's link to an ENI: its sysctls, the neighbours that its routes name, and its subnet's route table.
func (f *fabric) join(e eni) error {
	if err := netns.Sysctl(e.router.namespace, map[string]string{
		// ServeNeighbours answers, with a source check.
		"ipv4/conf/" + e.router.link + "/arp_ignore": "8",
	}); err != nil {
		return err
	}
	for _, addr := range e.Addresses() {
		if err := e.router.addNeighbour(addr, e.host.mac); err != nil {
			return err
		}
	}
	rule := netlink.NewRule()
	rule.Priority, rule.Table, rule.IifName = prioritySubnet, f.table(e.subnet.RouteTable), e.router.link
	return addRule(e.router.namespace, *rule)
}

// route makes the router deliver an assigned range to the ENI.
func (e eni) route(assigned netip.Prefix) error {
	via := e.IPv4
	if assigned.Addr().Is6() {
		via = e.IPv6
	}
	if assigned == single(via) {
		via = netip.Addr{} // directly on the link
	}
	return e.router.addRoute(assigned, via, tableAssigned)
}

// configureHost assigns the machine's interface its addresses, and the machine its default routes through the first one.
func configureHost(e eni) error {
	gateways := []netip.Addr{e.subnet.GatewayIPv4}
	if e.IPv6.IsValid() {
		gateways = append(gateways, e.subnet.GatewayIPv6)
	}
	if !e.first {
		gateways = nil
	}
	return configurePort(e.host, e.subnet, e.Addresses(), gateways)
}

// configurePort assigns a machine's interface addresses with the subnets' prefix lengths, and default routes.
func configurePort(port end, subnet topology.Subnet, addrs, gateways []netip.Addr) error {
	for _, addr := range addrs {
		length := subnet.IPv4.Bits()
		if addr.Is6() {
			length = subnet.IPv6.Bits()
		}
		if err := port.setAddresses(netip.PrefixFrom(addr, length)); err != nil {
			return err
		}
	}
	for _, gateway := range gateways {
		if err := port.addRoute(everything(gateway), gateway, 0); err != nil {
			return err
		}
	}
	return nil
}

// everything returns the default destination of the address's family.
func everything(addr netip.Addr) netip.Prefix {
	if addr.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// makeNATGateway makes the namespace behind the NAT gateway's ENI forward and translate sources to its address.
func (f *fabric) makeNATGateway(ctx context.Context, nat topology.NATGateway) error {
	ns := topology.HostNamespace(nat.Name)
	if err := netns.Sysctl(ns, forwardingSysctls(hostLink)); err != nil {
		return err
	}
	if err := netfilter.Replace(ctx, ns, netfilter.IPv4, natGatewayRules(f.vpc, nat)); err != nil {
		return err
	}
	port := end{namespace: f.namespace(), link: eniLink(nat.IPv4)}
	for _, route := range f.routesTo(topology.Target{Kind: topology.TargetNATGateway, Name: nat.Name}) {
		if err := port.addRoute(route.destination, nat.IPv4, route.table); err != nil {
			return err
		}
	}
	return nil
}

// tableRoute is a route's destination with its routing table.
type tableRoute struct {
	table       int
	destination netip.Prefix
}

// routesTo returns the VPC's routes to the target.
func (f *fabric) routesTo(target topology.Target) []tableRoute {
	var routes []tableRoute
	for _, table := range f.vpc.RouteTables {
		for _, route := range table.Routes {
			if route.Target == target {
				routes = append(routes, tableRoute{f.table(table.Name), route.Destination})
			}
		}
	}
	return routes
}

// forwardingSysctls make a namespace with existing links forward, without redirects and reverse path filter.
func forwardingSysctls(link string) map[string]string {
	return map[string]string{
		"ipv4/ip_forward":                       "1",
		"ipv4/conf/all/rp_filter":               "0",
		"ipv4/conf/" + link + "/rp_filter":      "0",
		"ipv4/conf/all/send_redirects":          "0",
		"ipv4/conf/" + link + "/send_redirects": "0",
		"ipv6/conf/all/forwarding":              "1",
	}
}

// loadRules loads the source checks and, if there is a load balancer, the mark for its connections' replies.
func (f *fabric) loadRules(ctx context.Context) error {
	_, balanced := f.loadBalancerSubnet()
	var errs []error
	for _, family := range netfilter.Families {
		errs = append(errs, netfilter.Replace(ctx, f.namespace(), family, routerRules(f.enis, family, balanced)))
	}
	return errors.Join(errs...)
}
