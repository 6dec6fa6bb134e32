// Package vpc builds a topology's network on the kernel: namespaces, veth pairs, routes and netfilter rules.
//
// Of kind aws it forwards as AWS does. Each VPC is a router in a namespace of its own with one veth pair per ENI:
//
//   - a packet is taken from an ENI only if its source MAC is the ENI's and its source address is assigned to the ENI
//     (primary, secondary, or in a delegated prefix);
//   - a packet reaches an ENI only for an address that is assigned to it; for an address of the VPC that is assigned
//     to nobody it vanishes;
//   - broadcast and multicast are delivered to nobody; ARP and neighbour solicitations are answered by the VPC
//     (ServeNeighbours, which has to run as long as the network does), for the subnet's gateway and for what is
//     assigned to other ENIs of the subnet;
//   - other destinations follow the route table of the ENI's subnet: to the NAT gateway, the internet gateway or a
//     peered VPC.
//
// Security groups and network ACLs are not simulated: they are as if they allowed everything. Unlike on AWS the
// subnet's gateway answers pings, and ARP answers carry the router's MAC address, not the target's.
//
// Of kind l2 it is one bridge, on which every frame goes where its destination MAC is, and a gateway.
//
// Everything is in namespaces named after topology.NamespacePrefix. Actions can be repeated, and their undo leaves
// nothing behind.
package vpc

import (
	"context"
	"errors"
	"slices"

	"spiderpool.dev/spiderpool/test/lab/internal/action"
	"spiderpool.dev/spiderpool/test/lab/internal/netns"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// Actions returns the steps that build the topology's network, in order. After them every host of the topology has its
// namespace, interfaces, addresses and default routes. A topology of kind aws also needs ServeNeighbours running.
func Actions(t *topology.Topology) []action.Action {
	actions := []action.Action{namespaces(t)}
	if t.Kind == topology.KindL2 {
		return append(actions, layer2(t)...)
	}
	for _, vpc := range t.VPCs {
		actions = append(actions, newFabric(t, vpc).actions()...)
	}
	for i, peering := range t.Peerings {
		actions = append(actions, peer(t, i, peering))
	}
	return actions
}

// namespaces makes every namespace. Its undo comes after all others' and removes them with all that is in them.
func namespaces(t *topology.Topology) action.Action {
	return action.Action{
		Name: "network: namespaces",
		Do: func(context.Context) error {
			for _, name := range t.Namespaces() {
				if err := netns.Ensure(name); err != nil {
					return err
				}
			}
			return nil
		},
		Undo: func(context.Context) error {
			var errs []error
			for _, name := range t.Namespaces() {
				errs = append(errs, netns.Delete(name))
			}
			return errors.Join(errs...)
		},
	}
}

// peer joins the routers of two VPCs by a link of their own. What goes over it is up to their route tables.
func peer(t *topology.Topology, index int, peering topology.Peering) action.Action {
	link := peeringLink(index)
	target := topology.Target{Kind: topology.TargetPeering, Name: peering.Name}
	ends := [2]end{}
	for i, name := range peering.VPCs {
		ends[i] = end{namespace: routerNamespace(name), link: link}
	}
	return action.Action{
		Name: "network: peering " + peering.Name,
		Do: func(context.Context) error {
			if err := joinRouters(ends[0], ends[1], index); err != nil {
				return err
			}
			for i, name := range peering.VPCs {
				if err := newFabric(t, t.VPCs[slices.IndexFunc(t.VPCs, named(name))]).
					addTransitRoutes(target, ends[i], transitAddresses(index, 1-i)); err != nil {
					return err
				}
			}
			return nil
		},
		Undo: func(context.Context) error { return ends[0].remove() },
	}
}

func named(name string) func(topology.VPC) bool {
	return func(vpc topology.VPC) bool { return vpc.Name == name }
}

// BalancedNamespace is where connections to load balancers can be redirected: every packet to and from their addresses
// passes there, and replies to redirected connections are routed there. On a layer-2 network that is so for clients
// behind the gateway only, so that those within the subnets need their source translated, too.
func BalancedNamespace(t *topology.Topology) string {
	if t.Kind == topology.KindL2 {
		return topology.HostNamespace(t.L2.Gateway.Host)
	}
	vpc, _ := t.VPC(t.LoadBalancer.Subnet) // validated
	return routerNamespace(vpc.Name)
}
