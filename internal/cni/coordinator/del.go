package coordinator

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/cni/plugin"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/wire"
)

// askTime is how long DEL waits for the agent. It also succeeds without.
const askTime = 2 * time.Second

// del removes the state of ADD. With the veth pair go the routes and neighbors of both
// namespaces, and the marking of replies. The pair goes with the first interface, or if
// the pod's namespace is gone. For a further interface of a running pod, DEL deletes the
// node's routes to it and the rules for its addresses.
func del(call *plugin.Call) error {
	first := firstNIC(call.StdinData)
	host, err := linux.Current()
	if err != nil {
		return err
	}
	defer host.Close()
	pod, err := openPod(call.Netns)
	if err != nil {
		return err
	}
	addrs := previousAddrs(call)
	if pod != nil {
		defer pod.Close()
		if call.IfName != first {
			return detach(host, pod, first, call.IfName, addrs)
		}
	}
	err = host.Delete(netplan.State{netplan.Link{Name: netplan.VethPairOf(call.ContainerID).Host, Kind: "veth"}})
	if pod == nil {
		return errors.Join(err, deleteHostRoutes(host, call, addrs))
	}
	return errors.Join(err, pod.Delete(netplan.Replies([]inet.Family{inet.IPv4, inet.IPv6})))
}

// openPod opens the pod's namespace. It returns nil if there is none.
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

// deleteHostRoutes deletes the node's routes to the addresses of a pod without a
// namespace. In overlay mode they lead to a link that stays. Another pod may have
// one of the addresses by now, so we ask the agent whether this pod still holds
// them. If the agent does not confirm, it deletes the routes itself, as soon as no
// pod holds the address.
func deleteHostRoutes(host *linux.Namespace, call *plugin.Call, addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return nil
	}
	routes, err := host.HostRoutes()
	if err != nil {
		return err
	}
	routes = slices.DeleteFunc(routes, func(r linux.HostRoute) bool { return !slices.Contains(addrs, r.Route.Dst.Addr()) })
	attachment, err := call.Attachment()
	if len(routes) == 0 || err != nil {
		return nil // without a pod, no ADD can have succeeded
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	if call.Agent().Check(ctx, wire.CheckRequest{Attachment: attachment, Addresses: addrs}) != nil {
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

// detach removes one interface of a running pod, but not its first.
func detach(host, pod *linux.Namespace, first, ifName string, addrs []netip.Addr) error {
	inPod, err := pod.ReadAll()
	if err != nil {
		return err
	}
	facts := netplan.PodOf(inPod, first)
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
	for _, it := range slices.Backward(inPod) { // redirects before their links
		if (netplan.Limit{Dev: ifName}).Removable(it) {
			gone = append(gone, it)
		}
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
	guards, fault := pod.Guards()
	err = errors.Join(err, fault, pod.ApplyEach(netplan.GuardsWithout(guards, ifName, addrs)))
	return errors.Join(err, detachHost(host, addrs, innerMACs(inPod, first)))
}

// detachHost deletes the node's routes to addrs that lead to the pod. Another
// pod may have got one of the addresses meanwhile; it keeps its route.
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

// innerMACs returns the hardware addresses in the node's routes to the pod: that
// of the veth pair, or that of the first interface in overlay mode.
func innerMACs(inPod netplan.State, first string) []netplan.MAC {
	var out []netplan.MAC
	for _, it := range inPod {
		if l, ok := it.(netplan.Link); ok && (l.Name == netplan.PodVeth || l.Name == first) && !l.MAC.IsZero() {
			out = append(out, l.MAC)
		}
	}
	return out
}

// previousAddrs returns the addresses in prevResult. Only configurations of CNI
// 0.4.0 and later pass it to DEL, so DEL does without if it is missing or invalid.
func previousAddrs(call *plugin.Call) []netip.Addr {
	previous, err := call.Previous()
	if err != nil {
		return nil
	}
	return plugin.Addresses(previous)
}
