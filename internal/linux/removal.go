package linux

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// madeByUs is the alias (IFLA_IFALIAS) of each VLAN interface and bond that EnsureVLAN
// or EnsureBond made, e.g. "alias made-by-spiderpool" in `ip link`. RemoveMasters
// removes no other interface: an adopted one belongs to the node's administrator.
const madeByUs = "made-by-spiderpool"

func (n *Namespace) mark(l netlink.Link) error {
	if err := n.nl.LinkSetAlias(l, madeByUs); err != nil {
		return fmt.Errorf("set the alias of %s: %w", l.Attrs().Name, err)
	}
	return nil
}

// NodeLeftovers returns our state on a node in the order of its removal by Delete: the
// pods' veth pairs, the routes to pods, the rules, and the masquerading. Sysctls are
// not part of it, because their former values are unknown and other networks need
// forwarding too.
func (n *Namespace) NodeLeftovers() (netplan.State, error) {
	var out netplan.State
	pairs, err := n.Pairs()
	if err != nil {
		return nil, err
	}
	for _, name := range pairs {
		out = append(out, netplan.Link{Name: name, Kind: "veth"})
	}
	routes, err := n.HostRoutes()
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		if slices.Contains(pairs, r.Route.Dev) {
			continue // it goes with the pair
		}
		out = append(out, r.Route)
		if r.Neighbor.Addr.IsValid() {
			out = append(out, r.Neighbor)
		}
	}
	r := reader{n: n}
	r.rules()
	if r.err != nil {
		return nil, r.err
	}
	for _, it := range r.state {
		if netplan.Owned(it) {
			out = append(out, it)
		}
	}
	families, err := n.masqueraded()
	for _, f := range families {
		out = append(out, netplan.Masquerade{Family: f, Links: netplan.HostVethPrefix})
	}
	return out, err
}

// masqueraded returns the families with our nftables table, also with rules of another
// release.
func (n *Namespace) masqueraded() ([]inet.Family, error) {
	var out []inet.Family
	err := n.withNFT(func(c *nftables.Conn) error {
		tables, err := c.ListTables()
		for _, f := range []inet.Family{inet.IPv4, inet.IPv6} {
			if slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == nftTable && t.Family == nftFamily(f) }) {
				out = append(out, f)
			}
		}
		return err
	})
	if lacksNFT(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the nftables tables of %s: %w", n.path, err)
	}
	return out, nil
}

// RemoveTables removes the nftables tables of all families whose names begin with prefix, and returns their number. A kernel
// without nftables has none.
func (n *Namespace) RemoveTables(prefix string) (removed int, err error) {
	err = n.withNFT(func(c *nftables.Conn) error {
		tables, err := c.ListTables()
		if err != nil {
			return err
		}
		for _, t := range tables {
			if strings.HasPrefix(t.Name, prefix) {
				c.DelTable(t)
				removed++
			}
		}
		if removed == 0 {
			return nil
		}
		return c.Flush()
	})
	if lacksNFT(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("remove the nftables tables %s* of %s: %w", prefix, n.path, err)
	}
	return removed, nil
}

// RemoveMasters removes the VLAN interfaces and bonds with our alias, and sets the ports
// of a removed bond up again. It keeps an interface with a global address or another
// interface above it, and returns both lists. The kernel removes the pods' macvlan and
// ipvlan interfaces with their master, so no pod may use one.
func (n *Namespace) RemoveMasters() (removed, kept []string, err error) {
	var errs []error
	for _, kind := range []string{"vlan", "bond"} { // a VLAN may be above a bond
		links, err := dump(n.nl.LinkList)
		if err != nil {
			return removed, kept, fmt.Errorf("list the links of %s: %w", n.path, err)
		}
		for _, l := range links {
			a := l.Attrs()
			if l.Type() != kind || a.Alias != madeByUs {
				continue
			}
			use, err := n.useOf(l, links)
			switch {
			case err != nil:
				errs = append(errs, err)
			case use != "":
				kept = append(kept, a.Name+" ("+use+")")
			default:
				if err := n.removeMaster(l, links); err != nil {
					errs = append(errs, err)
					continue
				}
				removed = append(removed, a.Name)
			}
		}
	}
	return removed, kept, errors.Join(errs...)
}

// useOf returns how the node itself uses the interface, or "".
func (n *Namespace) useOf(l netlink.Link, links []netlink.Link) (string, error) {
	for _, above := range links {
		a := above.Attrs()
		if a.ParentIndex == l.Attrs().Index && a.NetNsID < 0 {
			return "below " + a.Name, nil
		}
	}
	if m := l.Attrs().MasterIndex; m != 0 {
		return "a port of another interface", nil
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return n.nl.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return "", fmt.Errorf("list the addresses of %s: %w", l.Attrs().Name, err)
	}
	for _, a := range addrs {
		// An address from a router advertisement has a lifetime; the kernel set it.
		if a.Scope == unix.RT_SCOPE_UNIVERSE && a.Flags&unix.IFA_F_PERMANENT != 0 {
			return "has the address " + a.IPNet.String(), nil
		}
	}
	return "", nil
}

func (n *Namespace) removeMaster(l netlink.Link, links []netlink.Link) error {
	if err := n.nl.LinkDel(l); err != nil && !isGone(err) {
		return fmt.Errorf("remove interface %s: %w", l.Attrs().Name, err)
	}
	var errs []error
	for _, port := range links {
		if port.Attrs().MasterIndex != l.Attrs().Index || port.Attrs().Flags&net.FlagUp == 0 {
			continue
		}
		if err := n.nl.LinkSetUp(port); err != nil && !isGone(err) { // leaving a bond sets a port down
			errs = append(errs, fmt.Errorf("set %s up again: %w", port.Attrs().Name, err))
		}
	}
	return errors.Join(errs...)
}
