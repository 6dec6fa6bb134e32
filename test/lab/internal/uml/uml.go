// Package uml boots User Mode Linux: a Linux kernel that is a process of this
// machine, with what this machine's own kernel lacks. Its root file system is
// this machine's, so every program is there; it shares nothing else but one
// network link.
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
	// memory is what the guest can use; it takes from this machine what it
	// has used.
	memory = "8G"
	// tap is the link's name in the machine's network namespace, vector the
	// one in the guest.
	tap    = "tap0"
	vector = "vec0"
	// port is where the guest answers requests.
	port = 7700
)

// The link's addresses. They are link-local, so nothing routes them.
var (
	outerAddress = netip.MustParsePrefix("169.254.77.1/30")
	guestAddress = netip.MustParsePrefix("169.254.77.2/30")
)

// Config is what a guest is booted with.
type Config struct {
	// Kernel is the program.
	Kernel string
	// Dir takes the guest's memory and the kernel's own files. Its file system
	// must be in memory and allow programs.
	Dir string
	// Init is the guest's first process, and its arguments.
	Init []string
	// Env is added to the environment of Init.
	Env []string
}

// Start makes the link in this network namespace and boots the kernel. Its
// console goes to log. The guest lives as long as the process.
func Start(config Config, log *os.File) (*exec.Cmd, error) {
	if err := makeTap(); err != nil {
		return nil, fmt.Errorf("link to the guest: %w", err)
	}
	ram, err := mountMemory(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("memory of the guest: %w", err)
	}
	// The programs in the guest are trusted, so that seccomp will do to catch their
	// system calls: it takes fewer turns than ptrace.
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

// startOnOneProcessor starts a program that never leaves the last processor that
// this process may use. User Mode Linux has one processor and is several
// processes that take turns with every system call and page fault: on two
// processors each turn is an interrupt from one to the other.
func startOnOneProcessor(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread keeps to the processor
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

// mountMemory mounts a file system for the guest's memory, in huge pages if this
// machine's kernel can: every page that the guest touches first is one less to
// get from the kernel then.
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

// Outside is the address of this machine in the guest.
func Outside() netip.Addr { return outerAddress.Addr() }

// Dial connects to the guest. It fails until the guest listens.
func Dial(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(guestAddress.Addr(), port).String())
}

// Listen, in the guest, makes the link and listens on it.
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

// setAddress gives a link its address and sets it up.
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

// WriteProcessor writes the description of this machine's first processor, which
// the guest's own lacks the clock speed of, in the form of /proc/cpuinfo.
func WriteProcessor(file string) error {
	content, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(content), "\n\n")
	return os.WriteFile(file, []byte(first+"\n\n"), 0o644)
}

// MountSystem, in the guest, mounts what a kernel offers, but for control groups
// of which it has the unified hierarchy alone.
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
		// The kernel may have mounted some by itself: that is EBUSY.
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
