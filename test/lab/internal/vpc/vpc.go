// Package vpc builds a topology's network on the kernel: namespaces, veth pairs, routes and netfilter rules.
//
// Kind aws forwards like AWS. Each VPC is a router in its own namespace with one veth pair per ENI:
//
//   - a packet from an ENI is accepted only if its source MAC is the ENI's and its source address is assigned to the
//     ENI (primary, secondary, or in a delegated prefix);
//   - a packet is delivered to an ENI only if the destination is assigned to that ENI; a packet to an unassigned
//     address of the VPC is dropped;
//   - broadcast and multicast are dropped; the VPC answers ARP and neighbour solicitations (ServeNeighbours, which must
//     run as long as the network exists) for the subnet's gateway and for addresses assigned to other ENIs of the
//     subnet;
//   - Assign changes what is assigned to an ENI, like the API of the cloud; the change holds at once;
//   - Attach gives running machines further ENIs, and takes them away;
//   - other destinations follow the route table of the ENI's subnet: to the NAT gateway, the internet gateway or a
//     peered VPC.
//
// Security groups and network ACLs are not simulated, as if they allowed everything. Unlike on AWS, the subnet's gateway
// answers pings, and ARP answers have the router's MAC address instead of the target's.
//
// Kind l2 is one bridge, which forwards every frame by its destination MAC, and a gateway.
//
// All namespaces have the prefix topology.NamespacePrefix. Actions can be repeated, and their undo removes everything.
package vpc

import (
	"context"
	"errors"
	"slices"

	"spiderpool.dev/spiderpool/test/lab/internal/action"
	"spiderpool.dev/spiderpool/test/lab/internal/netns"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// Actions returns the steps that build the topology's network, in order. Afterwards every host of the topology has its
// namespace, interfaces, addresses and default routes. A topology of kind aws also needs a running ServeNeighbours.
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

// namespaces creates every namespace. Its undo runs last and removes the namespaces with their contents.
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

// peer connects the routers of two VPCs by a link. Their route tables decide which traffic uses it.
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

// BalancedNamespace is the namespace that can redirect connections to load balancers: all packets to and from their
// addresses pass it, and so do replies to redirected connections. On a layer-2 network this holds only for clients
// behind the gateway; clients within the subnets need source translation too.
func BalancedNamespace(t *topology.Topology) string {
	if t.Kind == topology.KindL2 {
		return topology.HostNamespace(t.L2.Gateway.Host)
	}
	vpc, _ := t.VPC(t.LoadBalancer.Subnet) // validated
	return routerNamespace(vpc.Name)
}
