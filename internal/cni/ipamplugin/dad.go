package ipamplugin

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/cni/plugin"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/linux/dad"
	"spiderpool.dev/spiderpool/internal/linux/nsthread"
	"spiderpool.dev/spiderpool/internal/linux/probe"
	"spiderpool.dev/spiderpool/internal/wire"
)

// settleTime bounds the wait for the interface's link-local address. Without detection,
// the kernel needs less than a millisecond.
const settleTime = 50 * time.Millisecond

// skipDAD turns the kernel's duplicate address detection off on the pod's interface, in
// parameters below net/ipv6/conf
// (https://docs.kernel.org/networking/ip-sysctl.html).
//
// With detection, the main plugin waits for 1 to 2 s (RFC 4862, section 5.4). Our
// addresses are unique, because an address is a key of the API server (ADR 1), and with
// enableIPConflictDetection the plugin itself asks the network. If the main plugin
// makes the interface later (ptp), skipDAD turns detection off for each new interface of
// the pod. Without IPv6 in the kernel, it does nothing.
func (c *conf) skipDAD(call *plugin.Call, reply wire.AddReply) error {
	of6 := func(a wire.Address) bool { return a.Prefix.Addr().Is6() }
	if !slices.ContainsFunc(reply.Addresses, of6) || call.IfName == "all" || call.IfName == "default" {
		return nil // below net/ipv6/conf, these two names mean other interfaces
	}
	return inPod(call, func() error {
		if exists, err := hasIPv6(call.IfName); err != nil {
			return err
		} else if !exists {
			if exists, err = hasIPv6("default"); err != nil || !exists {
				return err
			}
			return errors.Join(setNDP("default", "accept_dad", "0"), setNDP("default", "dad_transmits", "0"))
		}
		err := errors.Join(setNDP(call.IfName, "accept_dad", "0"), setNDP(call.IfName, "dad_transmits", "0"))
		if !slices.ContainsFunc(reply.Addresses, isShared) {
			// The kernel announces the address, so that routers forget its former user.
			err = errors.Join(err, setNDP(call.IfName, "ndisc_notify", "1"))
		}
		if err = errors.Join(err, restartIPv6(call.IfName)); err != nil || c.onlyConfigures() {
			return err
		}
		return settleLinkLocal(call.IfName)
	})
}

// onlyConfigures reports whether the main plugin does nothing with the gateways of the
// result except in ConfigureIface of containernetworking. Other plugins, e.g. bridge and
// ptp, give a gateway's address to the node.
func (c *conf) onlyConfigures() bool {
	return slices.Contains([]string{"macvlan", "ipvlan", "vlan", "tap", "dummy", "host-device", "sriov", "ovs"}, c.Type)
}

// withoutSettling leaves IPv6 gateways out of the reply that are next hops of its default
// route. With a gateway, ConfigureIface looks whether the kernel has made the addresses
// usable, and sleeps for 50 ms if it has not, though it would take microseconds: half of
// the pods waited. Without one, it adds the routes of the result and goes on.
func withoutSettling(reply wire.AddReply) wire.AddReply {
	reply.Addresses = slices.Clone(reply.Addresses)
	for i, a := range reply.Addresses {
		isDefault := func(r inet.Route) bool { return r.Via == a.Gateway && r.Dst == inet.IPv6.Everything() }
		if a.Gateway.Is6() && slices.ContainsFunc(reply.Routes, isDefault) {
			reply.Addresses[i].Gateway = netip.Addr{}
		}
	}
	return reply
}

// settleLinkLocal sets the interface up and waits for its link-local address, before
// the main plugin waits for it in steps of 50 ms.
func settleLinkLocal(dev string) error {
	if err := setUp(dev); err != nil {
		return err
	}
	for began := time.Now(); time.Since(began) < settleTime; time.Sleep(200 * time.Microsecond) {
		addrs, err := dad.Addrs(dev)
		if err != nil || !slices.ContainsFunc(addrs, isTentative) {
			return err
		}
	}
	return nil
}

func isTentative(a dad.Addr) bool { return a.Tentative }

// hasIPv6 reports whether IPv6 of the kernel has the interface.
func hasIPv6(dev string) (bool, error) {
	_, err := os.Stat(filepath.Join(ipv6Conf, dev))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func isShared(a wire.Address) bool { return a.Shared }

// inPod runs f in the pod's network namespace.
func inPod(call *plugin.Call, f func() error) error {
	pod, err := netns.GetFromPath(call.Netns)
	if err != nil {
		return fmt.Errorf("open the pod's network namespace %s: %w", call.Netns, err)
	}
	defer pod.Close()
	return nsthread.Do(pod, f)
}

// Directories of the interfaces' parameters, in the thread's namespace.
const (
	ipv4Conf = "/proc/sys/net/ipv4/conf"
	ipv6Conf = "/proc/sys/net/ipv6/conf"
)

// setNDP writes an IPv6 parameter of the interface.
func setNDP(dev, name, value string) error { return set(filepath.Join(ipv6Conf, dev, name), value) }

func set(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// announce tells the network about the pod's IPv4 addresses, because a router may
// remember the address of an earlier pod. If the interface is down, the kernel does it
// when the main plugin sets it up. If it is up already, the main plugin assigns the
// addresses next, and the kernel is silent. Shared addresses still belong to the other
// pod, so the interface goes up before it has them.
func (c *conf) announce(call *plugin.Call, reply wire.AddReply) error {
	var own, shared []netip.Addr
	for _, a := range reply.Addresses {
		switch addr := a.Prefix.Addr(); {
		case addr.Is6():
		case a.Shared:
			shared = append(shared, addr)
		default:
			own = append(own, addr)
		}
	}
	if len(own)+len(shared) == 0 || c.withoutARP() {
		return nil
	}
	return inPod(call, func() error {
		isUp, err := isUp(call.IfName)
		switch {
		case errors.Is(err, unix.ENODEV):
			return nil // the main plugin makes the interface later
		case err != nil:
			return err
		case !isUp && len(shared) == 0:
			return set(filepath.Join(ipv4Conf, call.IfName, "arp_notify"), "1")
		case !isUp:
			if err := setUp(call.IfName); err != nil {
				return err
			}
		}
		ifi, err := net.InterfaceByName(call.IfName)
		if err != nil || len(ifi.HardwareAddr) != 6 {
			return err // or not Ethernet
		}
		for _, a := range own {
			if err := probe.Announce(ifi, a); err != nil {
				return err
			}
		}
		return nil
	})
}

// restartIPv6 ends a detection that already runs, because the main plugin has set the
// interface up before it called us (SR-IOV): the kernel makes the link-local address
// again, without detection. Other addresses are not ours to remove.
func restartIPv6(dev string) error {
	addrs, err := dad.Addrs(dev)
	others := slices.ContainsFunc(addrs, func(a dad.Addr) bool { return !a.IsLinkLocalUnicast() })
	if err != nil || others || !slices.ContainsFunc(addrs, isTentative) {
		return err
	}
	return errors.Join(setNDP(dev, "disable_ipv6", "1"), setNDP(dev, "disable_ipv6", "0"))
}
