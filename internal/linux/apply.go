package linux

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// Apply makes the changes in order. peer is the namespace of the other end of new
// veth pairs; it may be nil if the changes make none. If a change fails, Apply
// undoes the earlier ones as far as possible. The error names the failed change
// and every failed undo.
func (n *Namespace) Apply(changes netplan.Changes, peer *Namespace) error {
	a := applier{n: n, peer: peer, index: map[string]int{}}
	for i, c := range changes {
		err := a.apply(c)
		if err == nil {
			continue
		}
		err = fmt.Errorf("%s: %w", c, err)
		for _, back := range changes[:i].Inverse() {
			if e := a.apply(back); e != nil {
				err = errors.Join(err, fmt.Errorf("undo %s: %w", back, e))
			}
		}
		return err
	}
	return nil
}

// ApplyEach makes independent changes: a failure does not stop or undo the others.
// Only sysctls depend on each other: the first failed one stops the rest. The error
// joins all failures.
func (n *Namespace) ApplyEach(changes netplan.Changes) error {
	a := applier{n: n, index: map[string]int{}}
	var errs []error
	stopped := false
	for _, c := range changes {
		_, sysctl := c.New.(netplan.Sysctl)
		if sysctl && stopped {
			continue
		}
		err := a.apply(c)
		if err == nil || sysctl && errors.Is(err, os.ErrNotExist) { // the interface is gone
			continue
		}
		stopped = stopped || sysctl
		errs = append(errs, fmt.Errorf("%s: %w", c, err))
	}
	return errors.Join(errs...)
}

// Delete removes the items that exist. It tries all of them; the error joins all
// failures.
func (n *Namespace) Delete(items netplan.State) error {
	a := applier{n: n, index: map[string]int{}}
	var errs []error
	for _, it := range items {
		if err := a.remove(it); err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", it, err))
		}
	}
	return errors.Join(errs...)
}

type applier struct {
	n, peer *Namespace
	index   map[string]int // link name → interface index
}

func (a *applier) apply(c netplan.Change) error {
	if c.New == nil {
		return a.remove(c.Old)
	}
	switch it := c.New.(type) {
	case netplan.Link:
		return a.link(it, c.Old != nil)
	case netplan.Up:
		l, err := a.n.nl.LinkByName(it.Dev)
		if err != nil {
			return err
		}
		return a.n.nl.LinkSetUp(l)
	case netplan.Addr:
		return a.addr(it)
	case netplan.Route:
		return a.addRoute(it, c.Old != nil)
	case netplan.Rule:
		if err := a.n.nl.RuleAdd(rule(it)); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		return nil
	case netplan.Neighbor:
		return a.neighbor(it, a.n.nl.NeighSet)
	case netplan.Sysctl:
		return a.n.writeSysctl(it)
	case netplan.Masquerade:
		return a.n.addMasquerade(it)
	case netplan.ReplyMark:
		return a.n.addReplyMark(it)
	case netplan.Shaper:
		return a.addShaper(it)
	case netplan.Redirect:
		return a.addRedirect(it)
	case netplan.Guard:
		return a.n.addGuard(it)
	}
	return fmt.Errorf("unknown item type %T", c.New)
}

// remove removes an item. An item already gone, on its own or with its link, is no
// error.
func (a *applier) remove(it netplan.Item) error {
	var err error
	switch it := it.(type) {
	case netplan.Link:
		err = a.removeLink(it)
	case netplan.Up:
		err = a.down(it)
	case netplan.Addr:
		err = a.removeAddr(it)
	case netplan.Route:
		var rt *netlink.Route
		if rt, err = a.route(it); err == nil {
			err = a.n.nl.RouteDel(rt)
		}
	case netplan.Rule:
		err = a.n.nl.RuleDel(rule(it))
	case netplan.Neighbor:
		err = a.neighbor(it, a.n.nl.NeighDel)
	case netplan.Sysctl:
		// Nothing to do: per-link sysctls vanish with the link, node-wide ones stay.
	case netplan.Masquerade:
		err = a.n.removeTable(it.Family)
	case netplan.ReplyMark:
		err = a.n.removeTable(it.Family)
	case netplan.Shaper:
		err = a.removeShaper(it)
	case netplan.Redirect:
		err = a.removeRedirect(it)
	case netplan.Guard:
		err = a.n.removeGuard(it)
	}
	if isGone(err) {
		return nil
	}
	return err
}

// isGone reports whether a removal failed because its object does not exist.
func isGone(err error) bool {
	return isLinkNotFound(err) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) ||
		errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, os.ErrNotExist)
}

func (a *applier) link(want netplan.Link, exists bool) error {
	if !exists && want.Kind == "veth" {
		return a.newVeth(want)
	}
	if !exists && want.Kind == "ifb" {
		return a.newIFB(want)
	}
	l, err := a.n.nl.LinkByName(want.Name)
	if isLinkNotFound(err) {
		return fmt.Errorf("interface %s does not exist", want.Name)
	}
	if err != nil {
		return err
	}
	have := l.Attrs()
	if want.Kind != "" && want.Kind != l.Type() {
		return fmt.Errorf("an interface of kind %s already has this name", l.Type())
	}
	if !want.MAC.IsZero() && have.HardwareAddr.String() != want.MAC.String() {
		if err := a.n.nl.LinkSetHardwareAddr(l, want.MAC[:]); err != nil {
			return fmt.Errorf("set the hardware address: %w", err)
		}
	}
	if want.MTU != 0 && have.MTU != want.MTU {
		if err := a.n.nl.LinkSetMTU(l, want.MTU); err != nil {
			return fmt.Errorf("set the MTU: %w", err)
		}
	}
	if want.TxQueueLen != 0 && have.TxQLen != want.TxQueueLen {
		if err := a.n.nl.LinkSetTxQLen(l, want.TxQueueLen); err != nil {
			return fmt.Errorf("set the length of the transmit queue: %w", err)
		}
	}
	return nil
}

// newVeth makes both ends of a pair in one request, the other end in the peer
// namespace.
func (a *applier) newVeth(want netplan.Link) error {
	if a.peer == nil {
		return errors.New("a veth pair needs the namespace of its other end")
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Group = want.Name, want.MTU, uint32(want.Group)
	attrs.HardwareAddr = hardwareAddr(want.MAC)
	if want.TxQueueLen != 0 {
		attrs.TxQLen = want.TxQueueLen
	}
	v := netlink.NewVeth(attrs)
	v.PeerName = want.Peer
	v.PeerHardwareAddr = hardwareAddr(want.PeerMAC)
	v.PeerNamespace = netlink.NsFd(a.peer.ns)
	err := a.n.nl.LinkAdd(v)
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("another interface already has the name %s on the node or %s in the pod: %w", want.Name, want.Peer, err)
	}
	return err
}

func hardwareAddr(m netplan.MAC) net.HardwareAddr {
	if m.IsZero() {
		return nil
	}
	return m[:]
}

func (a *applier) removeLink(it netplan.Link) error {
	l, err := a.n.nl.LinkByName(it.Name)
	if err != nil {
		return err
	}
	delete(a.index, it.Name)
	return a.n.nl.LinkDel(l)
}

func (a *applier) down(it netplan.Up) error {
	l, err := a.n.nl.LinkByName(it.Dev)
	if err != nil {
		return err
	}
	return a.n.nl.LinkSetDown(l)
}

func (a *applier) addr(it netplan.Addr) error {
	if it.Learned {
		return nil // the next router advertisement brings it back
	}
	l, err := a.n.nl.LinkByName(it.Dev)
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: ipNet(it.Prefix)}
	if it.Prefix.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if it.Prefix.Addr().IsLinkLocalUnicast() {
		addr.Scope = unix.RT_SCOPE_LINK
	}
	return a.n.nl.AddrReplace(l, addr)
}

func (a *applier) removeAddr(it netplan.Addr) error {
	l, err := a.n.nl.LinkByName(it.Dev)
	if err != nil {
		return err
	}
	return a.n.nl.AddrDel(l, &netlink.Addr{IPNet: ipNet(it.Prefix)})
}

// addRoute adds a route next to others with the same destination, so that undoing
// a removal restores them all. With replace, it replaces one of them.
func (a *applier) addRoute(it netplan.Route, replace bool) error {
	rt, err := a.route(it)
	if err != nil {
		return err
	}
	if replace {
		return a.n.nl.RouteReplace(rt)
	}
	if err := a.n.nl.RouteAddEcmp(rt); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

func (a *applier) route(it netplan.Route) (*netlink.Route, error) {
	index, err := a.indexOf(it.Dev)
	if err != nil {
		return nil, err
	}
	rt := &netlink.Route{
		LinkIndex: index, Dst: ipNet(it.Dst), Table: it.Table, Priority: it.Metric,
		Protocol: netlink.RouteProtocol(it.Proto), Type: unix.RTN_UNICAST,
	}
	if it.Table == 0 {
		rt.Table = netplan.TableMain
	}
	if it.Src.IsValid() {
		rt.Src = it.Src.AsSlice()
	}
	if it.Via.IsValid() {
		rt.Gw = it.Via.AsSlice()
	} else if it.Dst.Addr().Is4() {
		rt.Scope = unix.RT_SCOPE_LINK
	}
	if it.OnLink {
		rt.Flags = unix.RTNH_F_ONLINK
	}
	return rt, nil
}

func (a *applier) neighbor(it netplan.Neighbor, set func(*netlink.Neigh) error) error {
	index, err := a.indexOf(it.Dev)
	if err != nil {
		return err
	}
	family := netlink.FAMILY_V4
	if it.Addr.Is6() {
		family = netlink.FAMILY_V6
	}
	return set(&netlink.Neigh{
		LinkIndex: index, Family: family, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST,
		IP: it.Addr.AsSlice(), HardwareAddr: it.MAC[:],
	})
}

func (a *applier) indexOf(dev string) (int, error) {
	if i, ok := a.index[dev]; ok {
		return i, nil
	}
	l, err := a.n.nl.LinkByName(dev)
	if err != nil {
		return 0, err
	}
	a.index[dev] = l.Attrs().Index
	return l.Attrs().Index, nil
}

func rule(it netplan.Rule) *netlink.Rule {
	r := netlink.NewRule()
	r.Family = netlink.FAMILY_V4
	if it.Family == inet.IPv6 {
		r.Family = netlink.FAMILY_V6
	}
	r.Priority, r.Table, r.Protocol = it.Priority, it.Table, uint8(it.Proto)
	if it.Mark != 0 {
		r.Mark, r.Mask = it.Mark, &it.Mark
	}
	if it.From.IsValid() {
		r.Src = ipNet(it.From)
	}
	return r
}
