// Package uml boots User Mode Linux: a Linux kernel in a process of this machine, with
// features that this machine's own kernel lacks. Its root file system is this
// machine's, so it has the same programs. Otherwise the two share only one network
// link.
package uml

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// memory is the guest's limit. The guest occupies only the memory used so far.
	memory = "8G"
	// tap and vector are the link's names in the machine's network namespace and in the
	// guest.
	tap    = "tap0"
	vector = "vec0"
	// port is the guest's port for requests.
	port = 7700
)

// The link's addresses. They are link-local and therefore never routed.
var (
	outerAddress = netip.MustParsePrefix("169.254.77.1/30")
	guestAddress = netip.MustParsePrefix("169.254.77.2/30")
)

// Config is the configuration of a guest.
type Config struct {
	// Kernel is the path of the kernel.
	Kernel string
	// Dir is for the guest's memory and the kernel's own files. Its file system must be
	// in memory and allow programs.
	Dir string
	// Init is the guest's first process with its arguments.
	Init []string
	// Env is added to the environment of Init.
	Env []string
}

// Start creates the link in this network namespace and boots the kernel. The guest's
// console goes to log. The guest ends with the returned process.
func Start(config Config, log *os.File) (*exec.Cmd, error) {
	if err := makeTap(); err != nil {
		return nil, fmt.Errorf("link to the guest: %w", err)
	}
	ram, err := mountMemory(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("memory of the guest: %w", err)
	}
	// The guest's programs are trusted, so seccomp is enough to catch their system
	// calls. It needs fewer context switches than ptrace.
	args := []string{"linux", "seccomp=on",
		"root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw",
		"mem=" + memory, "uml_dir=" + config.Dir + "/uml", "umid=lab",
		"con=null", "con0=null,fd:1",
		vector + ":transport=tap,ifname=" + tap + ",depth=128,gro=1",
		"init=" + config.Init[0],
	}
	args = append(args, config.Env...)
	args = append(append(args, "--"), config.Init[1:]...)
	cmd := &exec.Cmd{
		Path: config.Kernel, Args: args, Dir: "/", Stdout: log, Stderr: log,
		Env:         append(os.Environ(), "TMPDIR="+ram, "HOME="+config.Dir),
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := startOnOneProcessor(cmd); err != nil {
		return nil, fmt.Errorf("boot User Mode Linux: %w", err)
	}
	return cmd, nil
}

// startOnOneProcessor starts a program pinned to the last processor available to this
// process. User Mode Linux has one processor and consists of several processes that
// switch at every system call and page fault. On two processors, each switch would cost
// an interrupt between them.
func startOnOneProcessor(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread stays pinned
		result <- func() error {
			var allowed, one unix.CPUSet
			if err := unix.SchedGetaffinity(0, &allowed); err != nil {
				return err
			}
			for processor := range 64 * len(allowed) {
				if allowed.IsSet(processor) {
					one.Zero()
					one.Set(processor)
				}
			}
			if err := unix.SchedSetaffinity(0, &one); err != nil {
				return err
			}
			return cmd.Start()
		}()
	}()
	return <-result
}

// mountMemory mounts a file system for the guest's memory, with huge pages if this
// machine's kernel supports them. Huge pages make the guest's first access to a page
// cheaper.
func mountMemory(dir string) (string, error) {
	target := filepath.Join(dir, "memory")
	if err := os.MkdirAll(target, 0o700); err != nil {
		return "", err
	}
	err := unix.Mount("tmpfs", target, "tmpfs", 0, "mode=700,huge=always,size="+memory)
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("tmpfs", target, "tmpfs", 0, "mode=700,size="+memory)
	}
	return target, err
}

// Outside is this machine's address as seen from the guest.
func Outside() netip.Addr { return outerAddress.Addr() }

// Dial connects to the guest. It fails until the guest listens.
func Dial(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(guestAddress.Addr(), port).String())
}

// Listen creates the link inside the guest and listens on it.
func Listen(ctx context.Context) (net.Listener, error) {
	if err := setAddress(vector, guestAddress); err != nil {
		return nil, fmt.Errorf("link to the machine: %w", err)
	}
	return new(net.ListenConfig).Listen(ctx, "tcp", netip.AddrPortFrom(guestAddress.Addr(), port).String())
}

func makeTap() error {
	device := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: tap}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR}
	if err := netlink.LinkAdd(device); err != nil {
		return err
	}
	return setAddress(tap, outerAddress)
}

// setAddress assigns a link its address and brings it up.
func setAddress(name string, address netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	parsed, err := netlink.ParseAddr(address.String())
	if err != nil {
		return err
	}
	if err := netlink.AddrReplace(link, parsed); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// WriteProcessor writes the description of this machine's first processor in the format
// of /proc/cpuinfo. The guest's own description lacks the clock speed.
func WriteProcessor(file string) error {
	content, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(content), "\n\n")
	return os.WriteFile(file, []byte(first+"\n\n"), 0o644)
}

// MountSystem mounts the kernel's file systems inside the guest. Of the control groups
// it mounts only the unified hierarchy.
func MountSystem() error {
	for _, m := range []struct{ kind, target, data string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"devtmpfs", "/dev", ""},
		{"devpts", "/dev/pts", "ptmxmode=666,mode=620"},
		{"tmpfs", "/dev/shm", "mode=1777"},
		{"cgroup2", "/sys/fs/cgroup", ""},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		// EBUSY: the kernel has mounted it already.
		if err := unix.Mount(m.kind, m.target, m.kind, 0, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(loopback)
}
