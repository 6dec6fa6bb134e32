package pathprobe

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/reach"
)

// Facts reads the state of the network namespace of the calling thread, with the ways to peers.
func Facts(peers []netip.Addr) (reach.Facts, error) {
	facts := reach.Facts{Sysctls: map[string]string{}, NameServers: nameServers("/etc/resolv.conf")}
	var err error
	if facts.Links, err = readLinks(); err != nil {
		return facts, fmt.Errorf("list the interfaces: %w", err)
	}
	if facts.Neighbors, err = readNeighbors(); err != nil {
		return facts, fmt.Errorf("list the neighbors: %w", err)
	}
	for _, peer := range peers {
		way, err := wayTo(peer)
		if err != nil {
			return facts, err
		}
		facts.Ways = append(facts.Ways, way)
	}
	paths := []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/all/rp_filter"}
	for _, l := range facts.Links {
		paths = append(paths, "net/ipv4/conf/"+l.Name+"/rp_filter")
	}
	for _, path := range paths {
		if value, err := os.ReadFile("/proc/sys/" + path); err == nil {
			facts.Sysctls[path] = strings.TrimSpace(string(value))
		}
	}
	return facts, nil
}

// dumpAttempts bounds the repetitions of a dump that a change interrupted.
const dumpAttempts = 5

// dump repeats a dump of the kernel until no change interrupts it.
func dump[T any](list func() (T, error)) (out T, err error) {
	for range dumpAttempts {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return out, err
}

func readLinks() (links []reach.Link, err error) {
	all, err := dump(netlink.LinkList)
	if err != nil {
		return nil, err
	}
	for _, l := range all {
		attrs := l.Attrs()
		link := reach.Link{
			Name: attrs.Name, Kind: l.Type(), Index: attrs.Index, Parent: attrs.ParentIndex, MTU: attrs.MTU, MAC: attrs.HardwareAddr.String(),
			Up: attrs.Flags&net.FlagUp != 0 && (attrs.OperState == netlink.OperUp || attrs.OperState == netlink.OperUnknown),
		}
		if vlan, ok := l.(*netlink.Vlan); ok {
			link.VLAN = vlan.VlanId
		}
		addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_ALL) })
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP); ok {
				ones, _ := a.Mask.Size()
				link.Addrs = append(link.Addrs, netip.PrefixFrom(ip.Unmap(), ones))
			}
		}
		links = append(links, link)
	}
	return links, nil
}

// answered are the states of a neighbor entry whose host answered (neighbor discovery, RFC 4861, 7.3.2).
const answered = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT | netlink.NUD_NOARP

func readNeighbors() (neighbors []reach.Neighbor, err error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all, err := dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, family) })
		if err != nil {
			return nil, err
		}
		for _, n := range all {
			ip, ok := netip.AddrFromSlice(n.IP)
			if !ok || ip.IsMulticast() || n.State&(netlink.NUD_NOARP) != 0 {
				continue
			}
			i, err := net.InterfaceByIndex(n.LinkIndex)
			if err != nil {
				continue // removed since
			}
			entry := reach.Neighbor{Addr: ip.Unmap(), Dev: i.Name}
			if n.State&answered != 0 {
				entry.MAC = n.HardwareAddr.String()
			}
			neighbors = append(neighbors, entry)
		}
	}
	return neighbors, nil
}

// wayTo asks the kernel for its route to an address.
func wayTo(to netip.Addr) (reach.Way, error) {
	way := reach.Way{To: to}
	routes, err := netlink.RouteGet(to.AsSlice())
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES), errors.Is(err, unix.EINVAL), err == nil && len(routes) == 0:
		return way, nil
	case err != nil:
		return way, fmt.Errorf("look up the route to %s: %w", to, err)
	}
	route := routes[0]
	if i, err := net.InterfaceByIndex(route.LinkIndex); err == nil {
		way.Dev = i.Name
	}
	if via, ok := netip.AddrFromSlice(route.Gw); ok {
		way.Via = via.Unmap()
	}
	if from, ok := netip.AddrFromSlice(route.Src); ok {
		way.From = from.Unmap()
	}
	return way, nil
}

func familyOf(addr netip.Addr) inet.Family { return inet.FamilyOf(addr.WithZone("")) }

// nameServers returns the servers in a resolv.conf, none if the file is missing.
func nameServers(file string) (servers []netip.Addr) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, addr)
		}
	}
	return servers
}
