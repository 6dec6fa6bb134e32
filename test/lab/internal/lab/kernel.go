package lab

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// chooseKernel resolves "auto" to a kernel that fits the topology.
func chooseKernel(kernel string, t *topology.Topology) (string, error) {
	switch kernel {
	case KernelHost, KernelUML:
		return kernel, nil
	case KernelAuto:
	default:
		return "", fmt.Errorf("--kernel %q: want %s, %s or %s", kernel, KernelAuto, KernelHost, KernelUML)
	}
	if t.Kind != topology.KindAWS {
		return KernelHost, nil
	}
	guest, err := NeedsGuest()
	if err != nil || !guest {
		return KernelHost, err
	}
	return KernelUML, nil
}

// NeedsGuest reports whether any topology needs a guest kernel on this machine.
func NeedsGuest() (bool, error) {
	has, err := hasIPVLAN()
	if err != nil {
		return false, fmt.Errorf("check this kernel for ipvlan: %w", err)
	}
	return !has, nil
}

// hasIPVLAN creates an ipvlan link in a network namespace, which disappears with
// the thread, and reports whether that worked.
func hasIPVLAN() (bool, error) {
	type answer struct {
		has bool
		err error
	}
	result := make(chan answer, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread stays in the new namespace
		has, err := tryIPVLAN()
		result <- answer{has, err}
	}()
	a := <-result
	return a.has, a.err
}

func tryIPVLAN() (bool, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return false, err
	}
	parent := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "parent"}, PeerName: "peer"}
	if err := netlink.LinkAdd(parent); err != nil {
		return false, err
	}
	link, err := netlink.LinkByName("parent")
	if err != nil {
		return false, err
	}
	err = netlink.LinkAdd(&netlink.IPVlan{LinkAttrs: netlink.LinkAttrs{Name: "child", ParentIndex: link.Attrs().Index}, Mode: netlink.IPVLAN_MODE_L2})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	return err == nil, err
}
