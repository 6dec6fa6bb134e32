package sim

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// isolated marks a process that Isolate has restarted.
const isolated = "SPIDERPOOL_SIM_ISOLATED"

// Isolated reports whether Isolate has done its work in this process.
func Isolated() bool { return os.Getenv(isolated) != "" }

// Isolate restarts the program in a new network namespace with the loopback
// device up, and returns in the restarted program only. What the program must do
// with the machine's network, such as downloading modules, it does before.
func Isolate() error {
	if Isolated() {
		return loopbackUp()
	}
	if os.Geteuid() != 0 {
		return errors.New("root is needed, for a network namespace and because agents answer root alone; run it with sudo")
	}
	// The namespace is that of one thread. exec keeps the thread that calls it and
	// ends all others, so afterwards it is that of the process.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return fmt.Errorf("restart in the new network namespace: %w", unix.Exec(self, os.Args, append(os.Environ(), isolated+"=1")))
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback device: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("loopback device: %w", err)
	}
	return nil
}

// PodNetNS makes a network namespace that stands for those of the pods, and
// returns its path. It lives until release is called. Plugins refuse a pod's
// namespace that is their own, so one other is needed, and no more than one: IPAM
// does not change it.
func PodNetNS() (path string, release func() error, err error) {
	// The thread goes back to where it was and stays: if it ended, the processes
	// that it has started would be killed with it (PR_SET_PDEATHSIG, prctl(2)).
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return "", nil, err
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return "", nil, fmt.Errorf("make a network namespace for pods: %w", err)
	}
	file, openErr := os.Open("/proc/thread-self/ns/net")
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		// Nothing else may run on this thread, so it stays locked.
		return "", nil, fmt.Errorf("leave the network namespace for pods: %w", errors.Join(err, openErr))
	}
	runtime.UnlockOSThread()
	if openErr != nil {
		return "", nil, openErr
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd()), file.Close, nil
}
