package vpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"spiderpool.dev/spiderpool/test/lab/internal/action"
	"spiderpool.dev/spiderpool/test/lab/internal/netfilter"
	"spiderpool.dev/spiderpool/test/lab/internal/netns"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// bridgeLink is the layer-2 network's bridge, in the switch's namespace.
const bridgeLink = "bridge"

// gatewayChain has the gateway's translations. The load balancer has its own chains.
const gatewayChain = "GATEWAY"

var switchNamespace = topology.HostNamespace(topology.SwitchName)

// layer2 returns the steps that build a plain layer-2 network.
func layer2(t *topology.Topology) []action.Action {
	bridge := end{namespace: switchNamespace, link: bridgeLink}
	actions := []action.Action{{
		Name: "network: bridge",
		Do:   func(context.Context) error { return ensureBridge() },
		Undo: func(context.Context) error { return bridge.remove() },
	}}
	for _, host := range t.Machines() {
		for i, iface := range host.Interfaces {
			subnet, _ := t.Subnet(iface.Subnet) // validated
			gateways := []netip.Addr{subnet.GatewayIPv4, subnet.GatewayIPv6}
			if i > 0 {
				gateways = nil
			}
			port := end{host.Namespace(), iface.Name, net.HardwareAddr(iface.MAC)}
			actions = append(actions, action.Action{
				Name: fmt.Sprintf("network: port %s/%s", host.Name, iface.Name),
				Do: func(context.Context) error {
					if err := plug(port, eniLink(iface.IPv4)); err != nil {
						return err
					}
					return configurePort(port, subnet, iface.Addresses(), gateways)
				},
				Undo: func(context.Context) error { return port.remove() },
			})
		}
	}
	return append(actions, gateway(t))
}

// ensureBridge creates the switch: no spanning tree, no snooping, no addresses of its own.
func ensureBridge() error {
	if err := netns.Sysctl(switchNamespace, map[string]string{"ipv6/conf/default/disable_ipv6": "1"}); err != nil {
		return err
	}
	bridge := end{namespace: switchNamespace, link: bridgeLink}
	return netns.Netlink(switchNamespace, func(handle *netlink.Handle) error {
		if !bridge.exists() {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = bridgeLink
			noSnooping := false
			if err := handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &noSnooping}); err != nil {
				return bridge.errorf("add: %w", err)
			}
		}
		link, err := handle.LinkByName(bridgeLink)
		if err != nil {
			return bridge.errorf("%w", err)
		}
		return handle.LinkSetUp(link)
	})
}

// plug connects a machine's interface to a port of the bridge.
func plug(host end, port string) error {
	switchPort := end{namespace: switchNamespace, link: port}
	if err := ensurePair(switchPort, host); err != nil {
		return err
	}
	return switchPort.with(func(handle *netlink.Handle, link netlink.Link) error {
		bridge, err := handle.LinkByName(bridgeLink)
		if err != nil {
			return switchPort.errorf("bridge: %w", err)
		}
		return handle.LinkSetMaster(link, bridge)
	})
}

// gateway creates the router of the layer-2 network. It translates IPv4 to the internet to its public address and
// routes IPv6. It has the load balancer's addresses, internal and public.
func gateway(t *topology.Topology) action.Action {
	ns := topology.HostNamespace(t.L2.Gateway.Host)
	inside := end{ns, hostLink, net.HardwareAddr(t.L2.Gateway.MAC)}
	outside := end{namespace: ns, link: internetLink}
	return action.Action{
		Name: "network: gateway",
		Do: func(ctx context.Context) error {
			if err := netns.Sysctl(ns, routerSysctls); err != nil {
				return err
			}
			if err := plug(inside, "gateway"); err != nil {
				return err
			}
			if err := attachInternetHost(t, outside); err != nil {
				return err
			}
			for _, subnet := range t.L2.Subnets {
				addrs := []netip.Addr{subnet.GatewayIPv4, subnet.GatewayIPv6}
				if err := configurePort(inside, subnet, addrs, nil); err != nil {
					return err
				}
			}
			var owned []netip.Prefix
			for _, frontend := range t.LoadBalancer.Frontends {
				owned = append(owned, single(frontend.IPv4), single(frontend.IPv6))
				if !frontend.Internal() {
					owned = append(owned, single(frontend.PublicIPv4))
				}
			}
			if err := inside.setAddresses(append(owned, single(t.L2.Gateway.PublicIPv4))...); err != nil {
				return err
			}
			for _, family := range netfilter.Families {
				if err := netfilter.Replace(ctx, ns, family, gatewayGuard(t, family)); err != nil {
					return err
				}
			}
			return netfilter.ReplaceChains(ctx, ns, netfilter.IPv4, "nat", gatewayRules(t.L2),
				netfilter.Jump{From: "POSTROUTING", To: gatewayChain})
		},
		Undo: func(context.Context) error { return errors.Join(inside.remove(), outside.remove()) },
	}
}
