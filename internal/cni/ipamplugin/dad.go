package ipamplugin

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netns"

	"spiderpool.dev/spiderpool/internal/cni/plugin"
	"spiderpool.dev/spiderpool/internal/linux/nsthread"
	"spiderpool.dev/spiderpool/internal/wire"
)

// skipDAD turns the kernel's duplicate address detection off on the pod's interface, in
// parameters below net/ipv6/conf (https://docs.kernel.org/networking/ip-sysctl.html).
//
// With detection, the main plugin waits for 1 to 2 s (RFC 4862, section 5.4). Our
// addresses are unique, because an address is a key of the API server (ADR 1), and with
// enableIPConflictDetection the plugin itself asks the network. The interface exists by
// now, and the main plugin sets it up later. Without IPv6 in the kernel, or if the main
// plugin makes the interface later, skipDAD does nothing.
func skipDAD(call *plugin.Call, reply wire.AddReply) error {
	of6 := func(a wire.Address) bool { return a.Prefix.Addr().Is6() }
	shared := func(a wire.Address) bool { return a.Shared }
	if !slices.ContainsFunc(reply.Addresses, of6) || call.IfName == "all" || call.IfName == "default" {
		return nil // below net/ipv6/conf, these two names mean other interfaces
	}
	pod, err := netns.GetFromPath(call.Netns)
	if err != nil {
		return fmt.Errorf("open the pod's network namespace %s: %w", call.Netns, err)
	}
	defer pod.Close()
	return nsthread.Do(pod, func() error {
		err := errors.Join(setNDP(call.IfName, "accept_dad", "0"), setNDP(call.IfName, "dad_transmits", "0"))
		if !slices.ContainsFunc(reply.Addresses, shared) {
			// The kernel announces the address, so that routers forget its former user.
			err = errors.Join(err, setNDP(call.IfName, "ndisc_notify", "1"))
		}
		return errors.Join(err, restartIPv6(call.IfName))
	})
}

// setNDP writes a parameter of the interface in the thread's namespace.
func setNDP(dev, name, value string) error {
	f, err := os.OpenFile(filepath.Join("/proc/sys/net/ipv6/conf", dev, name), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
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
