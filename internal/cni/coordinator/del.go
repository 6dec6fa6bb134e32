package coordinator

import (
	"errors"
	"net/netip"

	"github.com/containernetworking/cni/pkg/skel"

	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/netplan"
)

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
	veth := netplan.VethPairOf(args.ContainerID)
	pod, err := openPod(args.Netns)
	if err != nil {
		return "", err
	}
	if pod == nil || args.IfName == c.PodDefaultCNINIC {
		if pod != nil {
			pod.Close()
		}
		return "", host.Delete(netplan.State{netplan.Link{Name: veth.Host, Kind: "veth"}})
	}
	defer pod.Close()
	return "", detach(host, pod, c, args.IfName, previousAddrs(c, args.IfName))
}

// openPod opens the pod's namespace, nil where there is none any more. A path
// that leads to the node's own namespace is no pod's.
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

// detach forgets one interface of a living pod.
func detach(host, pod *linux.Namespace, c *conf, ifName string, addrs []netip.Addr) error {
	inPod, err := pod.ReadAll()
	if err != nil {
		return err
	}
	for _, it := range inPod {
		if a, ok := it.(netplan.Addr); ok && a.Dev == ifName {
			addrs = append(addrs, a.Prefix.Addr())
		}
	}
	var gone netplan.State
	for _, it := range inPod {
		switch it := it.(type) {
		case netplan.Rule:
			for _, a := range addrs {
				if netplan.Owned(it) && it.From.IsSingleIP() && it.From.Addr() == a {
					gone = append(gone, it)
				}
			}
		case netplan.Route:
			if netplan.Owned(it) && it.Dev == ifName {
				gone = append(gone, it)
			}
		}
	}
	err = pod.Delete(gone)
	for _, mac := range innerMACs(inPod, c.PodDefaultCNINIC) {
		err = errors.Join(err, host.DeleteHostRoutes(addrs, mac))
	}
	return err
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

// previousAddrs are the addresses of the interface in prevResult, which only
// configurations from CNI 0.4.0 on pass to DEL.
func previousAddrs(c *conf, ifName string) []netip.Addr {
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
