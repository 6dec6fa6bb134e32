package vpc

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/test/lab/internal/netns"
)

// end is one end of a veth pair.
type end struct {
	namespace string
	link      string
	mac       net.HardwareAddr // nil: chosen by the kernel
}

// with calls f with a netlink handle to the end's namespace and with the end's link.
func (e end) with(f func(*netlink.Handle, netlink.Link) error) error {
	return netns.Netlink(e.namespace, func(handle *netlink.Handle) error {
		link, err := handle.LinkByName(e.link)
		if err != nil {
			return fmt.Errorf("%s in %s: %w", e.link, e.namespace, err)
		}
		return f(handle, link)
	})
}

func (e end) errorf(format string, args ...any) error {
	return fmt.Errorf("%s in %s: "+format, append([]any{e.link, e.namespace}, args...)...)
}

// ensurePair connects two namespaces by a veth pair and brings both ends up. It keeps an existing pair and replaces
// half a pair.
func ensurePair(a, b end) error {
	if !(a.exists() && b.exists()) {
		if err := errors.Join(a.remove(), b.remove()); err != nil {
			return err
		}
		if err := addPair(a, b); err != nil {
			return err
		}
	}
	for _, e := range []end{a, b} {
		if err := e.with(func(h *netlink.Handle, link netlink.Link) error { return h.LinkSetUp(link) }); err != nil {
			return err
		}
	}
	return nil
}

func addPair(a, b end) error {
	peerNamespace, err := vnetns.GetFromPath(netns.Path(b.namespace))
	if err != nil {
		return b.errorf("%w", err)
	}
	defer func() { _ = peerNamespace.Close() }()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = a.link, a.mac
	pair := &netlink.Veth{
		LinkAttrs: attrs, PeerName: b.link, PeerHardwareAddr: b.mac, PeerNamespace: netlink.NsFd(peerNamespace),
	}
	return netns.Netlink(a.namespace, func(handle *netlink.Handle) error {
		if err := handle.LinkAdd(pair); err != nil {
			return a.errorf("add veth pair with %s in %s: %w", b.link, b.namespace, err)
		}
		return nil
	})
}

func (e end) exists() bool {
	return e.with(func(*netlink.Handle, netlink.Link) error { return nil }) == nil
}

// remove deletes the pair by this end. It succeeds if the pair or the namespace does not exist.
func (e end) remove() error {
	if !netns.Exists(e.namespace) || !e.exists() {
		return nil
	}
	return e.with(func(handle *netlink.Handle, link netlink.Link) error {
		if err := handle.LinkDel(link); err != nil {
			return e.errorf("delete: %w", err)
		}
		return nil
	})
}

// setAddresses adds addresses with their prefix lengths, without duplicate address detection: they are unique.
func (e end) setAddresses(addrs ...netip.Prefix) error {
	return e.with(func(handle *netlink.Handle, link netlink.Link) error {
		for _, addr := range addrs {
			a := &netlink.Addr{IPNet: ipNet(addr)}
			if addr.Addr().Is6() {
				a.Flags = unix.IFA_F_NODAD
			}
			if err := handle.AddrReplace(link, a); err != nil {
				return e.errorf("add address %s: %w", addr, err)
			}
		}
		return nil
	})
}

// addRoute adds a route for the destination over the link, through the gateway if valid, to the table (0: main).
func (e end) addRoute(destination netip.Prefix, via netip.Addr, table int) error {
	return e.with(func(handle *netlink.Handle, link netlink.Link) error {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(destination), Table: table}
		if via.IsValid() {
			route.Gw = via.AsSlice()
			route.Flags = int(netlink.FLAG_ONLINK)
		} else if destination.Addr().Is4() {
			route.Scope = netlink.SCOPE_LINK
		}
		if err := handle.RouteReplace(route); err != nil {
			return e.errorf("route %s via %s in table %d: %w", destination, via, table, err)
		}
		return nil
	})
}

// addBlackhole adds a blackhole route to the table.
func addBlackhole(namespace string, destination netip.Prefix, table int) error {
	return netns.Netlink(namespace, func(handle *netlink.Handle) error {
		route := &netlink.Route{Dst: ipNet(destination), Table: table, Type: unix.RTN_BLACKHOLE}
		if err := handle.RouteReplace(route); err != nil {
			return fmt.Errorf("in %s: blackhole %s in table %d: %w", namespace, destination, table, err)
		}
		return nil
	})
}

// addNeighbour adds a permanent neighbour entry, so that the kernel never sends a request for the address.
func (e end) addNeighbour(addr netip.Addr, mac net.HardwareAddr) error {
	return e.with(func(handle *netlink.Handle, link netlink.Link) error {
		neighbour := &netlink.Neigh{
			LinkIndex: link.Attrs().Index, IP: addr.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT,
		}
		if err := handle.NeighSet(neighbour); err != nil {
			return e.errorf("neighbour %s at %s: %w", addr, mac, err)
		}
		return nil
	})
}

// addRule adds a routing rule for both families if it is missing.
func addRule(namespace string, rule netlink.Rule) error {
	return netns.Netlink(namespace, func(handle *netlink.Handle) error {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			rule.Family = family
			if err := handle.RuleAdd(&rule); err != nil && !errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("in %s: rule %s: %w", namespace, rule, err)
			}
		}
		return nil
	})
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}

// single is the prefix of one address.
func single(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }
