package coordinator

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/skel"

	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/wire"
)

// askTime bounds how long DEL waits for the agent, which it can do without.
const askTime = 2 * time.Second

// del removes what add made. The veth pair takes the routes and neighbors of
// both namespaces with it; the pair itself goes with the first interface or
// when the pod's namespace is gone. For a further interface of a living pod,
// the node's routes to it and the rules for its addresses go.
func del(c *conf, args *skel.CmdArgs) (string, error) {
	host, err := linux.Current()
	if err != nil {
		return "", err
	}
	defer host.Close()
	pod, err := openPod(args.Netns)
	if err != nil {
		return "", err
	}
	addrs := previousAddrs(c)
	if pod != nil {
		defer pod.Close()
		if args.IfName != c.PodDefaultCNINIC {
			return "", detach(host, pod, c, args.IfName, addrs)
		}
	}
	err = host.Delete(netplan.State{netplan.Link{Name: netplan.VethPairOf(args.ContainerID).Host, Kind: "veth"}})
	if pod == nil {
		err = errors.Join(err, forget(host, c, args, addrs))
	}
	return "", err
}

// openPod opens the pod's namespace, nil where there is none any more.
func openPod(path string) (*linux.Namespace, error) {
	if path == "" {
		return nil, nil
	}
	pod, err := linux.Open(path)
	if errors.Is(err, linux.ErrNoNamespace) {
		return nil, nil
	}
	return pod, err
}

// forget removes the node's routes to the addresses of a pod whose namespace is
// gone, in overlay mode, where they lead to a link that stays. Another pod may have
// got an address meanwhile, so the agent is asked whether this one still holds it;
// what it does not confirm now, it removes itself when no pod holds the address.
func forget(host *linux.Namespace, c *conf, args *skel.CmdArgs, addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return nil
	}
	routes, err := host.HostRoutes()
	if err != nil {
		return err
	}
	routes = slices.DeleteFunc(routes, func(r linux.HostRoute) bool { return !slices.Contains(addrs, r.Route.Dst.Addr()) })
	attachment, err := attachmentOf(args)
	if len(routes) == 0 || err != nil {
		return nil // without a pod there is nothing that an ADD could have made
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	if c.agent().Check(ctx, wire.CheckRequest{Attachment: attachment, Addresses: addrs}) != nil {
		return nil
	}
	return deleteAll(host, routes)
}

func deleteAll(host *linux.Namespace, routes []linux.HostRoute) error {
	var errs []error
	for _, r := range routes {
		errs = append(errs, host.DeleteHostRoute(r))
	}
	return errors.Join(errs...)
}

// detach forgets one interface of a living pod.
func detach(host, pod *linux.Namespace, c *conf, ifName string, addrs []netip.Addr) error {
	inPod, err := pod.ReadAll()
	if err != nil {
		return err
	}
	facts := netplan.PodOf(inPod, c.PodDefaultCNINIC)
	table := 0
	for _, nic := range facts.NICs {
		if nic.Name != ifName {
			continue
		}
		table = nic.Table
		for _, a := range nic.Addrs {
			addrs = append(addrs, a.Addr())
		}
	}
	var gone netplan.State
	for _, it := range inPod {
		switch it := it.(type) {
		case netplan.Rule:
			if netplan.Owned(it) && it.From.IsSingleIP() && slices.Contains(addrs, it.From.Addr()) {
				gone = append(gone, it)
			}
		case netplan.Route:
			if netplan.Owned(it) && (it.Dev == ifName || table != 0 && it.Table == table) {
				gone = append(gone, it)
			}
		}
	}
	err = pod.ApplyEach(netplan.Diff(nil, netplan.DefaultsWithout(facts, ifName), nil))
	err = errors.Join(err, pod.Delete(gone))
	return errors.Join(err, detachHost(host, addrs, innerMACs(inPod, c.PodDefaultCNINIC)))
}

// detachHost removes the node's routes to addrs that lead to the pod: an address
// that another pod got meanwhile keeps its route.
func detachHost(host *linux.Namespace, addrs []netip.Addr, pod []netplan.MAC) error {
	if len(addrs) == 0 {
		return nil
	}
	routes, err := host.HostRoutes()
	if err != nil {
		return err
	}
	return deleteAll(host, slices.DeleteFunc(routes, func(r linux.HostRoute) bool {
		return !slices.Contains(addrs, r.Route.Dst.Addr()) || !slices.Contains(pod, r.Neighbor.MAC)
	}))
}

// innerMACs are the hardware addresses by which the node knows the pod: that of
// the veth pair, or that of the first interface in overlay mode.
func innerMACs(inPod netplan.State, first string) []netplan.MAC {
	var out []netplan.MAC
	for _, it := range inPod {
		if l, ok := it.(netplan.Link); ok && (l.Name == netplan.PodVeth || l.Name == first) && !l.MAC.IsZero() {
			out = append(out, l.MAC)
		}
	}
	return out
}

// previousAddrs are the addresses in prevResult, which only configurations from
// CNI 0.4.0 on pass to DEL.
func previousAddrs(c *conf) []netip.Addr {
	if c.RawPrevResult == nil {
		return nil
	}
	previous, err := c.previous()
	if err != nil {
		return nil // DEL does what it can with what it gets
	}
	var out []netip.Addr
	for _, ip := range previous.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			out = append(out, a.Unmap())
		}
	}
	return out
}
