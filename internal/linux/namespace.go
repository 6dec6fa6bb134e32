package linux

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/linux/nsthread"
)

// ErrNoNamespace is returned by Open if the path is not a network namespace.
var ErrNoNamespace = errors.New("no network namespace")

// Namespace is an open network namespace.
type Namespace struct {
	path string
	// sysctls is the directory of the parameters of the calling thread's namespace.
	sysctls string
	ns      netns.NsHandle
	nl      *netlink.Handle
	nft     nftConn
}

// CurrentPath is the path of the calling thread's namespace. If the process uses several
// namespaces, the caller must first lock its goroutine to the thread.
const CurrentPath = "/proc/thread-self/ns/net"

// Current opens the namespace at CurrentPath.
func Current() (*Namespace, error) { return Open(CurrentPath) }

// CurrentWith is Current with another mount of /proc/sys, e.g. "/host/proc/sys": in a
// container, /proc/sys is read-only. Like in /proc/sys, the kernel shows each thread the
// parameters of its own namespace there.
func CurrentWith(sysctls string) (*Namespace, error) {
	n, err := Current()
	if err == nil {
		n.sysctls = sysctls
	}
	return n, err
}

// Open opens the namespace at path, e.g. /run/netns/NAME or /proc/PID/ns/net.
func Open(path string) (*Namespace, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("open %s: %w", path, ErrNoNamespace)
		}
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(ns), &fs); err != nil || !holdsNamespaces(&fs) {
		// The mount is gone; the path is the plain file below it.
		_ = ns.Close()
		return nil, fmt.Errorf("open %s: %w", path, ErrNoNamespace)
	}
	nl, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		_ = ns.Close()
		return nil, fmt.Errorf("open a netlink socket in %s: %w", path, err)
	}
	return &Namespace{path: path, sysctls: "/proc/sys", ns: ns, nl: nl}, nil
}

// IsNamespace reports whether a path is a mounted namespace. When its mount is gone, the path is a plain file.
func IsNamespace(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && holdsNamespaces(&fs)
}

func holdsNamespaces(fs *unix.Statfs_t) bool {
	return fs.Type == unix.NSFS_MAGIC || fs.Type == unix.PROC_SUPER_MAGIC
}

// Same reports whether both are the same namespace.
func (n *Namespace) Same(other *Namespace) bool { return n.ns.Equal(other.ns) }

// Cookie identifies the namespace until the next start of the kernel (SO_NETNS_COOKIE, Linux 5.14).
func (n *Namespace) Cookie() (cookie uint64, err error) {
	err = n.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read the cookie of the network namespace %s: %w", n.path, err)
	}
	return cookie, nil
}

// Close frees the namespace's descriptors.
func (n *Namespace) Close() {
	n.nft.mu.Lock()
	n.nft.close()
	n.nft.mu.Unlock()
	n.nl.Close()
	_ = n.ns.Close()
}

// Do runs f on a thread in the namespace. f must not start goroutines: they would
// run in another namespace.
func (n *Namespace) Do(f func() error) error {
	return nsthread.Do(n.ns, f)
}

// OnLink runs f with the interface dev, on a thread in the namespace (see Do).
func (n *Namespace) OnLink(dev string, f func(*net.Interface) error) error {
	return n.Do(func() error {
		ifi, err := net.InterfaceByName(dev)
		if err != nil {
			return fmt.Errorf("look up %s in %s: %w", dev, n.path, err)
		}
		return f(ifi)
	})
}

// dump repeats a dump interrupted by a change (NLM_F_DUMP_INTR).
func dump[T any](list func() (T, error)) (T, error) {
	const tries = 5
	for i := 1; ; i++ {
		v, err := list()
		if i == tries || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return v, err
		}
	}
}

// isLinkNotFound reports whether the interface does not exist.
func isLinkNotFound(err error) bool {
	return errors.As(err, new(netlink.LinkNotFoundError)) || errors.Is(err, unix.ENODEV)
}
