package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mount describes one mount.
type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
	// file means that the target is an existing file.
	file bool
}

// bind mounts a directory or a file, with all mounts below it, at another path.
func bind(source, target string) mount {
	return mount{source: source, target: target, flags: unix.MS_BIND | unix.MS_REC}
}

// bindFile mounts a file over another one.
func bindFile(source, target string) mount {
	return mount{source: source, target: target, flags: unix.MS_BIND, file: true}
}

// tmpfs is an empty file system in memory; size is as in tmpfs(5).
func tmpfs(target, size string) mount {
	return mount{source: "tmpfs", target: target, kind: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=755,size=" + size}
}

// overlay is lower, with changes in the two directories below changes.
func overlay(lower, changes, target string) mount {
	return mount{source: "overlay", target: target, kind: "overlay",
		data: fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, changes, changes)}
}

// mountAll makes the mounts in order and creates missing mount points.
func mountAll(mounts ...mount) error {
	for _, m := range mounts {
		if !m.file {
			if err := os.MkdirAll(m.target, 0o755); err != nil {
				return err
			}
		}
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.source, m.target, err)
		}
	}
	return nil
}

// propagation sets the propagation of the mounts below target: unix.MS_PRIVATE or
// unix.MS_SHARED.
func propagation(target string, how uintptr) error {
	if err := unix.Mount("", target, "", unix.MS_REC|how, ""); err != nil {
		return fmt.Errorf("set mount propagation of %s: %w", target, err)
	}
	return nil
}

// enterRoot makes dir, a mount point, the root of this mount namespace and unmounts
// the old root.
func enterRoot(dir string) error {
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("enter %s: %w", dir, err)
	}
	// If both arguments are ".", the old root ends up below the new one and can be
	// unmounted there: see pivot_root(2).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("make %s the root: %w", dir, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	return unix.Chdir("/")
}

// remountSys mounts /sys again, so that it shows the network namespace's own devices.
// It keeps the control group mounts there.
func remountSys(root string) error {
	sys := filepath.Join(root, "sys")
	groups := "/sys/fs/cgroup"
	keep, err := unix.OpenTree(unix.AT_FDCWD, groups, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("hold %s: %w", groups, err)
	}
	defer unix.Close(keep)
	if err := mountAll(mount{source: "sysfs", target: sys, kind: "sysfs"}); err != nil {
		return err
	}
	if err := unix.MoveMount(keep, "", unix.AT_FDCWD, filepath.Join(root, groups), unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return errors.Join(fmt.Errorf("put %s back", groups), err)
	}
	return nil
}

// mountBPF mounts a new bpffs, which systemd does on other machines. A kernel without
// eBPF has no such directory.
func mountBPF(target string) error {
	if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return mountAll(mount{source: "bpf", target: target, kind: "bpf"})
}
