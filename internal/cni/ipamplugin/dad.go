package ipamplugin

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netns"

	"spiderpool.dev/spiderpool/internal/cni/plugin"
	"spiderpool.dev/spiderpool/internal/linux/nsthread"
	"spiderpool.dev/spiderpool/internal/linux/probe"
	"spiderpool.dev/spiderpool/internal/wire"
)

// settleTime bounds the wait for the interface's link-local address. Without detection,
// the kernel needs less than a millisecond.
const settleTime = 50 * time.Millisecond

// skipDAD turns the kernel's duplicate address detection off on the pod's interface and
// sets the interface up, in parameters below net/ipv6/conf
// (https://docs.kernel.org/networking/ip-sysctl.html).
//
// With detection, the main plugin waits for 1 to 2 s (RFC 4862, section 5.4). Our
// addresses are unique, because an address is a key of the API server (ADR 1), and with
// enableIPConflictDetection the plugin itself asks the network. The main plugin also
// waits for the interface's link-local address, in steps of 50 ms. So the interface
// goes up here, and the address is ready when the main plugin looks. The interface
// exists by now; if the main plugin makes it later, or without IPv6 in the kernel,
// skipDAD does nothing.
func skipDAD(call *plugin.Call, reply wire.AddReply) error {
	of6 := func(a wire.Address) bool { return a.Prefix.Addr().Is6() }
	if !slices.ContainsFunc(reply.Addresses, of6) || call.IfName == "all" || call.IfName == "default" {
		return nil // below net/ipv6/conf, these two names mean other interfaces
	}
	return inPod(call, func() error {
		if _, err := os.Stat(filepath.Join(ipv6Conf, call.IfName)); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		err := errors.Join(setNDP(call.IfName, "accept_dad", "0"), setNDP(call.IfName, "dad_transmits", "0"))
		if !slices.ContainsFunc(reply.Addresses, isShared) {
			// The kernel announces the address, so that routers forget its former user.
			err = errors.Join(err, setNDP(call.IfName, "ndisc_notify", "1"))
		}
		if err = errors.Join(err, restartIPv6(call.IfName), setUp(call.IfName)); err != nil {
			return err
		}
		for began := time.Now(); time.Since(began) < settleTime; time.Sleep(200 * time.Microsecond) {
			if tentative, _, err := addressStates(call.IfName); err != nil || !tentative {
				return err
			}
		}
		return nil
	})
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

const ipv6Conf = "/proc/sys/net/ipv6/conf"

// setNDP writes a parameter of the interface in the thread's namespace.
func setNDP(dev, name, value string) error {
	f, err := os.OpenFile(filepath.Join(ipv6Conf, dev, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// announce tells the network about the pod's IPv4 addresses if the interface is up
// already: the kernel announces them only when it goes up (arp_notify), and a router may
// remember the address of an earlier pod. The main plugin assigns them next. Shared
// addresses still belong to the other pod.
func (c *conf) announce(call *plugin.Call, reply wire.AddReply) error {
	own := slices.DeleteFunc(slices.Clone(reply.Addresses), func(a wire.Address) bool { return a.Shared || !a.Prefix.Addr().Is4() })
	if len(own) == 0 || c.withoutARP() {
		return nil
	}
	return inPod(call, func() error {
		ifi, err := net.InterfaceByName(call.IfName)
		if err != nil || ifi.Flags&net.FlagUp == 0 || len(ifi.HardwareAddr) != 6 {
			return nil // no interface yet, or one that is not Ethernet
		}
		for _, a := range own {
			if err := probe.Announce(ifi, a.Prefix.Addr()); err != nil {
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
	tentative, onlyLinkLocal, err := addressStates(dev)
	if err != nil || !tentative || !onlyLinkLocal {
		return err
	}
	return errors.Join(setNDP(dev, "disable_ipv6", "1"), setNDP(dev, "disable_ipv6", "0"))
}

const (
	tentativeFlag  = 0x40 // IFA_F_TENTATIVE of linux/if_addr.h
	linkLocalScope = 0x20 // IPV6_ADDR_LINKLOCAL of net/ipv6.h
)

// addressStates reads /proc/net/if_inet6. A line is address, interface index, prefix
// length, scope and flags in hexadecimal, and the interface, e.g.
// "fe800000000000000042acfffe110002 02 40 20 80 eth0".
func addressStates(dev string) (tentative, onlyLinkLocal bool, err error) {
	f, err := os.Open("/proc/thread-self/net/if_inet6")
	if errors.Is(err, fs.ErrNotExist) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	defer f.Close()
	onlyLinkLocal = true
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 6 || fields[5] != dev {
			continue
		}
		scope, scopeErr := strconv.ParseUint(fields[3], 16, 8)
		flags, flagsErr := strconv.ParseUint(fields[4], 16, 32)
		if err := errors.Join(scopeErr, flagsErr); err != nil {
			return false, false, err
		}
		tentative = tentative || flags&tentativeFlag != 0
		onlyLinkLocal = onlyLinkLocal && scope == linkLocalScope
	}
	return tentative, onlyLinkLocal, lines.Err()
}
