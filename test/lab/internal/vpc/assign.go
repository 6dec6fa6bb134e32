package vpc

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/test/lab/internal/netns"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// Assign gives ENIs exactly these ranges, by MAC address: their VPC delivers packets to them, and accepts packets from
// them. Other ENIs keep theirs. Run the actions of Actions first. Assign can be repeated; after an error, the ENI may have
// a part of the ranges.
//
// The routes are the only record of what is assigned. ServeNeighbours reads them, and sees a change at once.
func Assign(ctx context.Context, t *topology.Topology, assigned map[string][]netip.Prefix) error {
	for _, vpc := range t.VPCs {
		f := newFabric(t, vpc)
		further, err := f.attached()
		if err != nil {
			return err
		}
		f.enis = append(f.enis, further...)
		concerned := false
		for i, e := range f.enis {
			ranges, ok := assigned[e.MAC.String()]
			if !ok {
				continue
			}
			f.enis[i].ranges, concerned = ranges, true
			if err := f.enis[i].replaceRoutes(); err != nil {
				return err
			}
		}
		if concerned {
			if err := f.loadRules(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// replaceRoutes makes the ranges of the ENI the only ones that the router delivers to it.
func (e eni) replaceRoutes() error {
	if err := e.router.with(func(handle *netlink.Handle, link netlink.Link) error {
		routes, err := assignedRoutes(handle, link)
		if err != nil {
			return e.router.errorf("list routes: %w", err)
		}
		for _, route := range routes {
			if assigned, ok := netipx.FromStdIPNet(route.Dst); ok && slices.Contains(e.ranges, assigned) {
				continue
			}
			if err := handle.RouteDel(&route); err != nil {
				return e.router.errorf("delete route %s: %w", route.Dst, err)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for _, assigned := range e.ranges {
		if err := e.route(assigned); err != nil {
			return err
		}
	}
	return nil
}

// assignedRoutes returns the routes to assigned ranges over a link.
func assignedRoutes(handle *netlink.Handle, link netlink.Link) ([]netlink.Route, error) {
	var all []netlink.Route
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := handle.RouteListFiltered(family, &netlink.Route{Table: tableAssigned, LinkIndex: link.Attrs().Index}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
		if err != nil {
			return nil, err
		}
		all = append(all, routes...)
	}
	return all, nil
}

// routes answers from a router's routes which of its links an address is assigned to.
type routes struct{ handle *netlink.Handle }

func openRoutes(namespace string) (routes, error) {
	var r routes
	err := netns.Do(namespace, func() (err error) {
		r.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	return r, err
}

// link returns the index of the link, and 0 for an address that no link has.
func (r routes) link(addr netip.Addr) int {
	found, err := r.handle.RouteGet(addr.AsSlice())
	if err != nil || len(found) == 0 { // EINVAL: a blackhole
		return 0
	}
	return found[0].LinkIndex
}

// MetadataAddress is the address of the instance metadata service
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html).
var MetadataAddress = netip.AddrFrom4([4]byte{169, 254, 169, 254})

// AddMetadataAddress gives MetadataAddress to the router of the nodes' VPC and returns its namespace.
func AddMetadataAddress(t *topology.Topology) (namespace string, err error) {
	owner, ok := t.VPC(t.Nodes[0].Interfaces[0].Subnet)
	if !ok {
		return "", fmt.Errorf("node %s has no VPC", t.Nodes[0].Name)
	}
	namespace = routerNamespace(owner.Name)
	return namespace, end{namespace: namespace, link: "lo"}.setAddresses(single(MetadataAddress))
}
