package lab

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// chooseKernel turns "auto" into a kernel that has what the topology is for.
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

// NeedsGuest tells whether some topology needs a guest kernel on this machine.
func NeedsGuest() (bool, error) {
	has, err := hasIPVLAN()
	if err != nil {
		return false, fmt.Errorf("look whether this kernel has ipvlan: %w", err)
	}
	return !has, nil
}

// hasIPVLAN tries: it makes an ipvlan link in a network namespace that goes with
// the thread.
func hasIPVLAN() (bool, error) {
	type answer struct {
		has bool
		err error
	}
	result := make(chan answer, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is in another namespace
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
