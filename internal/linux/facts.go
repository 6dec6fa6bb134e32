package linux

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/linux/dad"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// ipvsDummy holds the addresses of all services in kube-proxy's ipvs mode. They are
// not addresses of the node.
const ipvsDummy = "kube-ipvs0"

// NodeAddrs returns the global addresses of every link in state up, in the order
// of the links.
func (n *Namespace) NodeAddrs() ([]netip.Prefix, error) {
	return n.globalAddrs(func(link *netlink.LinkAttrs, a netlink.Addr) bool {
		usable := a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED|unix.IFA_F_DEPRECATED|unix.IFA_F_TEMPORARY) == 0
		return usable && link.Flags&net.FlagUp != 0 && !strings.HasPrefix(link.Name, netplan.HostVethPrefix)
	})
}

// AddrsOf returns the global addresses of a link, and none if it does not exist.
func (n *Namespace) AddrsOf(dev string) (addrs []netip.Addr, err error) {
	prefixes, err := n.globalAddrs(func(link *netlink.LinkAttrs, _ netlink.Addr) bool { return link.Name == dev })
	for _, p := range prefixes {
		addrs = append(addrs, p.Addr())
	}
	return addrs, err
}

// globalAddrs returns the node's global addresses that keep selects, in the order of
// the links.
func (n *Namespace) globalAddrs(keep func(*netlink.LinkAttrs, netlink.Addr) bool) ([]netip.Prefix, error) {
	links, err := dump(n.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the links of %s: %w", n.path, err)
	}
	byIndex := map[int]*netlink.LinkAttrs{}
	for _, l := range links {
		byIndex[l.Attrs().Index] = l.Attrs()
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return n.nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the addresses of %s: %w", n.path, err)
	}
	slices.SortStableFunc(addrs, func(a, b netlink.Addr) int { return a.LinkIndex - b.LinkIndex })
	var out []netip.Prefix
	for _, a := range addrs {
		link := byIndex[a.LinkIndex]
		if p, ok := prefixOf(a.IPNet); ok && link != nil && link.Name != ipvsDummy && a.Scope == unix.RT_SCOPE_UNIVERSE && keep(link, a) {
			out = append(out, p)
		}
	}
	return out, nil
}

// FollowAddrs calls f with all global addresses of the node, also those of links that
// are down, at once and after every change. It returns when ctx ends, or with an error
// if the kernel's notifications fail.
func (n *Namespace) FollowAddrs(ctx context.Context, f func([]netip.Prefix)) error {
	ctx, cancel := context.WithCancel(ctx)
	updates, failed := make(chan netlink.AddrUpdate, 64), make(chan error, 1)
	err := netlink.AddrSubscribeWithOptions(updates, ctx.Done(), netlink.AddrSubscribeOptions{
		Namespace: &n.ns,
		ErrorCallback: func(err error) {
			select {
			case failed <- err:
			default:
			}
		},
	})
	if err != nil {
		cancel()
		return fmt.Errorf("follow the addresses of %s: %w", n.path, err)
	}
	defer func() {
		cancel()
		for range updates { // its sender ends with ctx
		}
	}()
	for {
		addrs, err := n.globalAddrs(func(*netlink.LinkAttrs, netlink.Addr) bool { return true })
		if err != nil {
			return err
		}
		f(addrs)
		select {
		case <-updates:
		case <-ctx.Done():
			return nil
		case err := <-failed:
			if ctx.Err() != nil {
				return nil // the subscription ended with ctx
			}
			return fmt.Errorf("follow the addresses of %s: %w", n.path, err)
		}
	}
}

// HasLink returns the kind of an interface and whether the interface exists.
func (n *Namespace) HasLink(name string) (kind string, ok bool, err error) {
	l, err := n.nl.LinkByName(name)
	if isLinkNotFound(err) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("look up link %s in %s: %w", name, n.path, err)
	}
	return l.Type(), true, nil
}

// LinkGroup returns the group of an interface (IFLA_GROUP) and whether the interface
// exists.
func (n *Namespace) LinkGroup(name string) (group int, ok bool, err error) {
	l, err := n.nl.LinkByName(name)
	if isLinkNotFound(err) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("look up link %s in %s: %w", name, n.path, err)
	}
	return int(l.Attrs().Group), true, nil
}

// MTU returns the MTU of an interface, or 0 if the interface does not exist.
func (n *Namespace) MTU(name string) (int, error) {
	l, err := n.nl.LinkByName(name)
	if isLinkNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look up link %s in %s: %w", name, n.path, err)
	}
	return l.Attrs().MTU, nil
}

// HostEnd returns the host's interface for packets to link dev of the pod: the
// other end of a veth pair, or its bridge. It returns "" if dev is not one end of a
// pair.
func (n *Namespace) HostEnd(dev string, host *Namespace) (string, error) {
	l, err := n.nl.LinkByName(dev)
	if err != nil {
		return "", fmt.Errorf("look up link %s in %s: %w", dev, n.path, err)
	}
	if l.Attrs().ParentIndex == 0 || l.Type() != "veth" && l.Type() != "netkit" {
		return "", nil
	}
	peer, err := host.nl.LinkByIndex(l.Attrs().ParentIndex)
	if isLinkNotFound(err) || err == nil && peer.Attrs().ParentIndex != l.Attrs().Index {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look up the other end of %s: %w", dev, err)
	}
	if peer.Attrs().MasterIndex == 0 {
		return peer.Attrs().Name, nil
	}
	master, err := host.nl.LinkByIndex(peer.Attrs().MasterIndex)
	if err != nil {
		return "", fmt.Errorf("look up the bridge of %s: %w", peer.Attrs().Name, err)
	}
	return master.Attrs().Name, nil
}

// TakenError means that another machine defends the address.
type TakenError struct {
	Addr netip.Addr
	Dev  string
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("address %s of %s is in use by another machine (duplicate address detection)", e.Addr, e.Dev)
}

// settlePoll is short, because without detection the kernel needs less than a millisecond.
const settlePoll = time.Millisecond

// SettleAddrs waits until no IPv6 address of the link is tentative, because the kernel
// refuses routes with a tentative source address. It does not wait for the link-local
// address, which is the source of no route of ours. If another machine defends an
// address, the error is a *TakenError.
func (n *Namespace) SettleAddrs(ctx context.Context, dev string) error {
	tick := time.NewTicker(settlePoll)
	defer tick.Stop()
	for {
		tentative, taken := false, error(nil)
		err := n.Do(func() error {
			addrs, err := dad.Addrs(dev)
			for _, a := range addrs {
				switch {
				case a.IsLinkLocalUnicast():
				case a.Failed:
					taken = &TakenError{Addr: a.Addr, Dev: dev}
				default:
					tentative = tentative || a.Tentative
				}
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("list the addresses of %s in %s: %w", dev, n.path, err)
		}
		if !tentative {
			return taken
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("wait for duplicate address detection on %s", dev), ctx.Err())
		}
	}
}

// HostRoute is the node's route to an address of a pod, with its neighbor entry.
// The neighbor has the zero address if the entry is gone.
type HostRoute struct {
	Route    netplan.Route
	Neighbor netplan.Neighbor
}

// HostRoutes returns our routes to single addresses (protocol netplan.Protocol),
// with their neighbor entries.
func (n *Namespace) HostRoutes() ([]HostRoute, error) {
	links, err := dump(n.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the links of %s: %w", n.path, err)
	}
	r := reader{n: n, names: map[int]string{}}
	for _, l := range links {
		r.names[l.Attrs().Index] = l.Attrs().Name
	}
	r.routes(func(rt netplan.Route, _ int) bool { return netplan.Owned(rt) && rt.Dst.IsSingleIP() })
	routes := r.state
	if len(routes) == 0 || r.err != nil {
		return nil, r.err
	}
	r.neighbors(0)
	behind := map[string]netplan.Neighbor{}
	for _, it := range r.state[len(routes):] {
		behind[it.Key()] = it.(netplan.Neighbor)
	}
	var out []HostRoute
	for _, it := range routes {
		rt := it.(netplan.Route)
		out = append(out, HostRoute{Route: rt, Neighbor: behind[netplan.Neighbor{Addr: rt.Dst.Addr(), Dev: rt.Dev}.Key()]})
	}
	return out, r.err
}

// DeleteHostRoute removes a route and its neighbor entry, if they exist.
func (n *Namespace) DeleteHostRoute(h HostRoute) error {
	gone := netplan.State{h.Route}
	if h.Neighbor.Addr.IsValid() {
		gone = append(gone, h.Neighbor)
	}
	return n.Delete(gone)
}
