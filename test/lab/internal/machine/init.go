package machine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/test/lab/internal/state"
)

// Init is the first process of a machine. It prepares the machine's mounts, runs
// the server and reaps orphans. When it ends, the kernel ends every process of the
// machine and removes its namespaces and mounts.
//
// It waits for one byte from ready before any other step, so that the parent can put
// it into its control groups first.
func Init(dir state.Dir, ready *os.File, server *exec.Cmd) error {
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("wait for the parent: %w", err)
	}
	if err := errors.Join(propagation("/", unix.MS_PRIVATE), unix.Sethostname([]byte(dir.Control()))); err != nil {
		return err
	}
	if err := mountAll(mount{source: "proc", target: "/proc", kind: "proc"}); err != nil {
		return err
	}
	if err := errors.Join(mountOwn(dir), remountSys("/")); err != nil {
		return err
	}
	return runServer(server)
}

// GuestInit is Init for a guest kernel. prepare mounts the guest's file systems. At the
// end it writes the reason to log and powers the guest off.
func GuestInit(dir state.Dir, prepare func() error, server *exec.Cmd, log io.Writer) error {
	err := prepare()
	if err == nil {
		err = errors.Join(unix.Sethostname([]byte(dir.Control())), mountOwn(dir))
	}
	if err == nil {
		err = runServer(server)
	}
	fmt.Fprintln(log, "lab: guest:", err)
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// mountOwn mounts the file systems private to every machine.
func mountOwn(dir state.Dir) error {
	return mountAll(tmpfs("/run/netns", "1m"), tmpfs(dir.Volatile(), "75%"))
}

// runServer runs the server and reaps every process until the server ends.
func runServer(server *exec.Cmd) error {
	if err := server.Start(); err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	status, err := reapUntil(server.Process.Pid)
	if err == nil {
		err = fmt.Errorf("server ended with status %d", status.ExitStatus())
	}
	return err
}

// reapUntil reaps processes until the given one ends.
func reapUntil(process int) (unix.WaitStatus, error) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for processes: %w", err)
		case pid == process:
			return status, nil
		}
	}
}

// NodeConfig is the configuration of a node's first process.
type NodeConfig struct {
	Name string `json:"name"`
	// Dir receives all writes on the node. Its file system must be usable as the upper
	// layer of an overlay. Files prepared below Dir/root/upper appear in the node's
	// root.
	Dir string `json:"dir"`
	// Plugins is the source directory for the node's /opt/cni/bin.
	Plugins string `json:"plugins"`
	// Shared directories have the same contents in the node as here.
	Shared []string `json:"shared"`
	// Processor replaces the node's /proc/cpuinfo by this file, unless empty.
	Processor string `json:"processor,omitempty"`
}

// volatileDirs are empty at each start of a node.
var volatileDirs = []string{"/run", "/tmp", "/var/tmp"}

// ownDirs are empty in a new node, whatever they contain on this machine, and survive a restart of the node. An overlay
// cannot be a layer of an overlay, so the directories of containers' file systems and pods' volumes are among them.
var ownDirs = []string{"/var/log", "/etc/cni", "/var/lib/cni", "/var/lib/etcd", "/var/lib/containerd", "/var/lib/kubelet"}

// bootID is read by the kubelet, which reports a restart of the node when it has changed.
const bootID = "/proc/sys/kernel/random/boot_id"

// NodeInit is the first process of a node, in its own namespaces. The node's root is
// an overlay over this machine's root, so a pod's writes to the host's file system
// stay in the node. NodeInit writes one byte to ready once the node can be entered,
// then reaps until it is killed.
func NodeInit(config NodeConfig, ready *os.File) error {
	if err := errors.Join(propagation("/", unix.MS_PRIVATE), unix.Sethostname([]byte(config.Name))); err != nil {
		return err
	}
	root := filepath.Join(config.Dir, "rootfs")
	if err := mountNode(config, root); err != nil {
		return err
	}
	if err := enterRoot(root); err != nil {
		return err
	}
	// Like systemd: pods use mounts that propagate both ways.
	if err := propagation("/", unix.MS_SHARED); err != nil {
		return err
	}
	if _, err := ready.Write([]byte{1}); err != nil {
		return fmt.Errorf("report to the parent: %w", err)
	}
	if err := ready.Close(); err != nil {
		return err
	}
	return reap()
}

// reap reaps orphans forever.
func reap() error {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	for range ended {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG|unix.WALL, nil)
			if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ECHILD) {
				return fmt.Errorf("wait for processes: %w", err)
			}
			if pid <= 0 && !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
	return nil
}

// newBootID writes a new boot ID to a file in the directory, and returns its name.
func newBootID(dir string) (string, error) {
	// Each read gets another one.
	id, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "boot_id")
	return file, os.WriteFile(file, id, 0o444)
}

func mountNode(config NodeConfig, root string) error {
	for _, changes := range []string{"root", "plugins"} {
		for _, layer := range []string{"upper", "work"} {
			if err := os.MkdirAll(filepath.Join(config.Dir, changes, layer), 0o755); err != nil {
				return err
			}
		}
	}
	in := func(path string) string { return filepath.Join(root, path) }
	mounts := []mount{
		overlay("/", filepath.Join(config.Dir, "root"), root),
		{source: "proc", target: in("/proc"), kind: "proc"},
		bind("/dev", in("/dev")),
	}
	for _, dir := range volatileDirs {
		mounts = append(mounts, tmpfs(in(dir), "50%"))
	}
	mounts = append(mounts, overlay(config.Plugins, filepath.Join(config.Dir, "plugins"), in("/opt/cni/bin")))
	for _, dir := range ownDirs {
		own := filepath.Join(config.Dir, "own", dir)
		if err := os.MkdirAll(own, 0o755); err != nil {
			return err
		}
		mounts = append(mounts, bind(own, in(dir)))
	}
	boot, err := newBootID(config.Dir)
	if err != nil {
		return err
	}
	mounts = append(mounts, bindFile(boot, in(bootID)))
	if config.Processor != "" {
		mounts = append(mounts, bindFile(config.Processor, in("/proc/cpuinfo")))
	}
	for _, dir := range config.Shared {
		mounts = append(mounts, bind(dir, in(dir)))
	}
	if err := mountAll(mounts...); err != nil {
		return err
	}
	for _, dir := range []string{"/run/netns", "/run/lock", "/etc/cni/net.d"} {
		if err := os.MkdirAll(in(dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(in("/tmp"), 0o1777); err != nil {
		return err
	}
	if err := remountSys(root); err != nil {
		return err
	}
	return mountBPF(in("/sys/fs/bpf"))
}
