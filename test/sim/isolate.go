package sim

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// isolated marks a process restarted by Isolate.
const isolated = "SPIDERPOOL_SIM_ISOLATED"

// Isolated reports whether Isolate has restarted this process.
func Isolated() bool { return os.Getenv(isolated) != "" }

// Isolate restarts the program in a new network namespace with the loopback device up.
// It returns only in the restarted program. Before the call, the program must finish
// everything that needs the machine's network, such as module downloads.
func Isolate() error {
	if Isolated() {
		return loopbackUp()
	}
	if os.Geteuid() != 0 {
		return errors.New("root is required: for a network namespace, and because agents answer only root; use sudo")
	}
	// Only this thread enters the namespace. exec keeps the calling thread and ends all
	// others, so afterwards the namespace is that of the process.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("create a network namespace: %w", err)
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

// PodNetNS creates a network namespace for all pods and returns its path. The namespace
// lives until the call of release. Plugins refuse their own namespace as that of a pod,
// so we need a second one. One is enough, because IPAM does not change it.
func PodNetNS() (path string, release func() error, err error) {
	// The thread returns to its namespace and lives on. If it ended, the processes started
	// by it would be killed too (PR_SET_PDEATHSIG, prctl(2)).
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return "", nil, err
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return "", nil, fmt.Errorf("create a network namespace for pods: %w", err)
	}
	file, openErr := os.Open("/proc/thread-self/ns/net")
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		// This thread is in the wrong namespace, so it stays locked.
		return "", nil, fmt.Errorf("leave the network namespace for pods: %w", errors.Join(err, openErr))
	}
	runtime.UnlockOSThread()
	if openErr != nil {
		return "", nil, openErr
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd()), file.Close, nil
}
