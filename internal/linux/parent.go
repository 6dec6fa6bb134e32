package linux

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/netplan"
)

// ErrUnfit means that an existing interface differs from the configuration.
// EnsureVLAN and EnsureBond then change nothing.
var ErrUnfit = errors.New("differs from the configuration")

// VLAN is a VLAN interface of a node.
type VLAN struct {
	Name   string
	Parent string
	ID     int // 1 to 4094, IEEE 802.1Q
}

// Bond is a bond of a node.
type Bond struct {
	Name  string
	Mode  int // the kernel's number, 0 (balance-rr) to 6 (balance-alb)
	Ports []string
	// Options are bonding options of the kernel by name, e.g. "miimon": "100".
	Options map[string]string
}

// EnsureVLAN makes the interface and sets it up, or adopts an existing one with the
// same configuration. Concurrent calls make one interface.
func (n *Namespace) EnsureVLAN(v VLAN) error {
	parent, err := n.upLink(v.Parent)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = v.Name, parent.Attrs().Index
	made := n.nl.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: v.ID, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
	if made != nil && !errors.Is(made, unix.EEXIST) {
		return fmt.Errorf("make VLAN interface %s of %s: %w", v.Name, v.Parent, made)
	}
	l, err := n.nl.LinkByName(v.Name)
	if isLinkNotFound(err) {
		// EEXIST meant the VLAN, not the name.
		return fmt.Errorf("%w: VLAN %d of %s exists under another name than %s", ErrUnfit, v.ID, v.Parent, v.Name)
	}
	if err != nil {
		return fmt.Errorf("look up link %s: %w", v.Name, err)
	}
	if err := fitsVLAN(l, v, parent); err != nil {
		return err
	}
	if made == nil {
		if err := n.mark(l); err != nil {
			return err
		}
	}
	return n.setUp(l)
}

func fitsVLAN(l netlink.Link, v VLAN, parent netlink.Link) error {
	have, ok := l.(*netlink.Vlan)
	switch {
	case !ok:
		return fmt.Errorf("interface %s %w: its kind is %s instead of vlan", v.Name, ErrUnfit, l.Type())
	case have.VlanId != v.ID:
		return fmt.Errorf("interface %s %w: it has VLAN %d instead of %d", v.Name, ErrUnfit, have.VlanId, v.ID)
	case have.ParentIndex != parent.Attrs().Index:
		return fmt.Errorf("interface %s %w: its master is interface %d instead of %d (%s)", v.Name, ErrUnfit, have.ParentIndex, parent.Attrs().Index, v.Parent)
	}
	return nil
}

// EnsureBond makes the bond with its ports and sets it up, or adopts an existing
// one with the same configuration. It refuses a port with addresses: the node would
// lose them, and perhaps its connection to the cluster. If it cannot complete a
// bond, it removes the bond again.
func (n *Namespace) EnsureBond(b Bond) error {
	want, err := parseBond(b)
	if err != nil {
		return err
	}
	ports, err := n.portsFor(b)
	if err != nil {
		return err
	}
	l, err := n.nl.LinkByName(b.Name)
	if isLinkNotFound(err) {
		return n.newBond(b, want, ports)
	}
	if err != nil {
		return fmt.Errorf("look up link %s: %w", b.Name, err)
	}
	if err := n.fitsBond(b, want, l); err != nil {
		return err
	}
	return n.setUp(l)
}

func (n *Namespace) newBond(b Bond, want wantedBond, ports []netlink.Link) error {
	if err := n.nl.LinkAdd(want.link); err != nil {
		return fmt.Errorf("make bond %s with mode %d and options %v: %w", b.Name, b.Mode, b.Options, err)
	}
	err := n.completeBond(want, ports)
	if err == nil {
		return nil
	}
	if e := n.nl.LinkDel(want.link); e != nil {
		err = errors.Join(err, fmt.Errorf("remove bond %s again: %w", b.Name, e))
	}
	for _, p := range ports {
		if p.Attrs().Flags&net.FlagUp == 0 {
			continue
		}
		if e := n.nl.LinkSetUp(p); e != nil { // joining or leaving a bond sets a port down
			err = errors.Join(err, fmt.Errorf("set %s up again: %w", p.Attrs().Name, e))
		}
	}
	return err
}

func (n *Namespace) completeBond(want wantedBond, ports []netlink.Link) error {
	l, err := n.nl.LinkByName(want.link.Name)
	if err != nil {
		return fmt.Errorf("look up link %s: %w", want.link.Name, err)
	}
	if err := n.mark(l); err != nil {
		return err
	}
	for _, p := range ports {
		if err := n.enslave(p, l); err != nil {
			return err
		}
	}
	if err := n.setPrimary(want, l); err != nil {
		return err
	}
	return n.setUp(l)
}

// fitsBond compares an existing bond and its ports with the configuration.
func (n *Namespace) fitsBond(b Bond, want wantedBond, have netlink.Link) error {
	if err := want.fits(have); err != nil {
		return err
	}
	links, err := dump(n.nl.LinkList)
	if err != nil {
		return fmt.Errorf("list the links of %s: %w", n.path, err)
	}
	var ports []string
	primary := ""
	for _, l := range links {
		if l.Attrs().MasterIndex == have.Attrs().Index {
			ports = append(ports, l.Attrs().Name)
		}
		if l.Attrs().Index == have.(*netlink.Bond).Primary {
			primary = l.Attrs().Name
		}
	}
	slices.Sort(ports)
	if wanted := slices.Sorted(slices.Values(b.Ports)); !slices.Equal(ports, wanted) {
		return fmt.Errorf("bond %s %w: its ports are %v instead of %v", b.Name, ErrUnfit, ports, wanted)
	}
	if want.primary != "" && primary != want.primary {
		return fmt.Errorf("bond %s %w: its option primary is %q instead of %q", b.Name, ErrUnfit, primary, want.primary)
	}
	return nil
}

// portsFor finds the bond's ports. It refuses ports in use before anything is
// changed.
func (n *Namespace) portsFor(b Bond) ([]netlink.Link, error) {
	var ports []netlink.Link
	for _, name := range b.Ports {
		l, err := n.nl.LinkByName(name)
		if isLinkNotFound(err) {
			return nil, n.missing(name)
		}
		if err != nil {
			return nil, fmt.Errorf("look up link %s: %w", name, err)
		}
		if m := l.Attrs().MasterIndex; m != 0 {
			master, err := n.nl.LinkByIndex(m)
			if err != nil {
				return nil, fmt.Errorf("look up the master of %s: %w", name, err)
			}
			if master.Attrs().Name != b.Name {
				return nil, fmt.Errorf("interface %s %w: it is already a port of %s", name, ErrUnfit, master.Attrs().Name)
			}
		}
		addrs, err := dump(func() ([]netlink.Addr, error) { return n.nl.AddrList(l, netlink.FAMILY_ALL) })
		if err != nil {
			return nil, fmt.Errorf("list the addresses of %s: %w", name, err)
		}
		for _, a := range addrs {
			if a.Scope == unix.RT_SCOPE_UNIVERSE {
				return nil, fmt.Errorf("interface %s %w: the node would lose its address %s in bond %s", name, ErrUnfit, a.IPNet, b.Name)
			}
		}
		ports = append(ports, l)
	}
	return ports, nil
}

func (n *Namespace) enslave(port, bond netlink.Link) error {
	if port.Attrs().MasterIndex == bond.Attrs().Index {
		return nil
	}
	name := port.Attrs().Name
	if err := n.nl.LinkSetDown(port); err != nil { // a port must be down to join a bond
		return fmt.Errorf("set %s down: %w", name, err)
	}
	if err := n.nl.LinkSetMaster(port, bond); err != nil {
		return fmt.Errorf("add %s to bond %s: %w", name, bond.Attrs().Name, err)
	}
	return n.setUp(port)
}

func (n *Namespace) setPrimary(want wantedBond, have netlink.Link) error {
	if want.primary == "" {
		return nil
	}
	primary, err := n.nl.LinkByName(want.primary)
	if err != nil {
		return fmt.Errorf("look up link %s: %w", want.primary, err)
	}
	change := netlink.NewLinkBond(netlink.LinkAttrs{Name: have.Attrs().Name, Index: have.Attrs().Index})
	change.Primary = primary.Attrs().Index
	if err := n.nl.LinkModify(change); err != nil {
		return fmt.Errorf("make %s the primary port of bond %s: %w", want.primary, have.Attrs().Name, err)
	}
	return nil
}

// upLink sets an interface up and returns it. The interface must exist.
func (n *Namespace) upLink(name string) (netlink.Link, error) {
	l, err := n.nl.LinkByName(name)
	if isLinkNotFound(err) {
		return nil, n.missing(name)
	}
	if err != nil {
		return nil, fmt.Errorf("look up link %s: %w", name, err)
	}
	return l, n.setUp(l)
}

func (n *Namespace) setUp(l netlink.Link) error {
	if l.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	if err := n.nl.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", l.Attrs().Name, err)
	}
	return nil
}

// missing returns an error naming the missing interface and the existing ones.
func (n *Namespace) missing(name string) error {
	links, err := dump(n.nl.LinkList)
	if err != nil {
		return fmt.Errorf("the node has no interface %s", name)
	}
	const enough = 16 // a node can have hundreds, most of them for pods
	var have []string
	for _, l := range links {
		if l.Attrs().Name != "lo" && !strings.HasPrefix(l.Attrs().Name, netplan.HostVethPrefix) && len(have) < enough {
			have = append(have, l.Attrs().Name)
		}
	}
	slices.Sort(have)
	return fmt.Errorf("the node has no interface %s; it has %s", name, strings.Join(have, ", "))
}

// CheckMasters compares the interfaces with their configuration, without changing
// anything. nil means no such interface.
func (n *Namespace) CheckMasters(b *Bond, v *VLAN) error {
	if b != nil {
		want, err := parseBond(*b)
		if err != nil {
			return err
		}
		l, err := n.nl.LinkByName(b.Name)
		if isLinkNotFound(err) {
			return n.missing(b.Name)
		}
		if err != nil {
			return fmt.Errorf("look up link %s: %w", b.Name, err)
		}
		if err := n.fitsBond(*b, want, l); err != nil {
			return err
		}
	}
	if v == nil {
		return nil
	}
	parent, err := n.nl.LinkByName(v.Parent)
	if isLinkNotFound(err) {
		return n.missing(v.Parent)
	}
	if err != nil {
		return fmt.Errorf("look up link %s: %w", v.Parent, err)
	}
	l, err := n.nl.LinkByName(v.Name)
	if isLinkNotFound(err) {
		return n.missing(v.Name)
	}
	if err != nil {
		return fmt.Errorf("look up link %s: %w", v.Name, err)
	}
	return fitsVLAN(l, *v, parent)
}
