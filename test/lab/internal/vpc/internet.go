package vpc

import (
	"context"
	"errors"
	"net/netip"

	"spiderpool.dev/spiderpool/test/lab/internal/action"
	"spiderpool.dev/spiderpool/test/lab/internal/netfilter"
	"spiderpool.dev/spiderpool/test/lab/internal/netns"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// internetGateway connects the VPC to the internet host through a namespace. The namespace translates public IPv4
// addresses one-to-one and routes IPv6 unchanged. Traffic of hosts without a public address is dropped.
func (f *fabric) internetGateway(name string) action.Action {
	gateway := topology.HostNamespace(topology.InternetGatewayName)
	inside := end{namespace: gateway, link: vpcLink}
	outside := end{namespace: gateway, link: internetLink}
	router := end{namespace: f.namespace(), link: internetGatewayLink}
	return action.Action{
		Name: name,
		Do: func(ctx context.Context) error {
			if err := netns.Sysctl(gateway, routerSysctls); err != nil {
				return err
			}
			if err := joinRouters(router, inside, internetTransit); err != nil {
				return err
			}
			if err := attachInternetHost(f.t, outside); err != nil {
				return err
			}
			for _, block := range []netip.Prefix{f.vpc.IPv4, f.vpc.IPv6} {
				via := ofFamily(transitAddresses(internetTransit, 0), block)
				if err := inside.addRoute(block, via, 0); err != nil {
					return err
				}
			}
			target := topology.Target{Kind: topology.TargetInternetGateway}
			if err := f.addTransitRoutes(target, router, transitAddresses(internetTransit, 1)); err != nil {
				return err
			}
			var errs []error
			for _, family := range netfilter.Families {
				rules := internetGatewayRules(f.t, f.vpc, family)
				errs = append(errs, netfilter.Replace(ctx, gateway, family, rules))
			}
			return errors.Join(errs...)
		},
		Undo: func(context.Context) error { return errors.Join(inside.remove(), outside.remove()) },
	}
}

// joinRouters creates a link between two routers and assigns its ends the transit addresses of that index.
func joinRouters(a, b end, index int) error {
	if err := ensurePair(a, b); err != nil {
		return err
	}
	return errors.Join(a.setAddresses(transitAddresses(index, 0)...), b.setAddresses(transitAddresses(index, 1)...))
}

// attachInternetHost connects the internet host to a gateway's outer link and assigns both their addresses.
func attachInternetHost(t *topology.Topology, gateway end) error {
	internet := t.Internet
	host := end{namespace: topology.HostNamespace(internet.Host), link: hostLink}
	if err := ensurePair(gateway, host); err != nil {
		return err
	}
	if err := gateway.setAddresses(netip.PrefixFrom(internet.GatewayIPv4, internet.IPv4.Bits()),
		netip.PrefixFrom(internet.GatewayIPv6, internet.IPv6.Bits())); err != nil {
		return err
	}
	if err := host.setAddresses(internet.IPv4, internet.IPv6); err != nil {
		return err
	}
	for _, via := range []netip.Addr{internet.GatewayIPv4, internet.GatewayIPv6} {
		if err := host.addRoute(everything(via), via, 0); err != nil {
			return err
		}
	}
	return nil
}

// addTransitRoutes adds the VPC's routes to a target to their tables. The next hop is the far side's address in the
// destination's family.
func (f *fabric) addTransitRoutes(target topology.Target, link end, far []netip.Prefix) error {
	for _, route := range f.routesTo(target) {
		if err := link.addRoute(route.destination, ofFamily(far, route.destination), route.table); err != nil {
			return err
		}
	}
	return nil
}

// ofFamily selects the address in the destination's family.
func ofFamily(addrs []netip.Prefix, destination netip.Prefix) netip.Addr {
	for _, addr := range addrs {
		if addr.Addr().Is4() == destination.Addr().Is4() {
			return addr.Addr()
		}
	}
	return netip.Addr{}
}
