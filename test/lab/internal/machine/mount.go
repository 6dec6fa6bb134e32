package machine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mount is one mount to make.
type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
	// file says that the target is a file that exists.
	file bool
}

// bind attaches a directory or a file, with all mounted below it, elsewhere.
func bind(source, target string) mount {
	return mount{source: source, target: target, flags: unix.MS_BIND | unix.MS_REC}
}

// bindFile attaches a file in place of another one.
func bindFile(source, target string) mount {
	return mount{source: source, target: target, flags: unix.MS_BIND, file: true}
}

// tmpfs is an empty file system in memory; size is as in tmpfs(5).
func tmpfs(target, size string) mount {
	return mount{source: "tmpfs", target: target, kind: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=755,size=" + size}
}

// overlay is lower, with changes kept in the two directories below changes.
func overlay(lower, changes, target string) mount {
	return mount{source: "overlay", target: target, kind: "overlay",
		data: fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, changes, changes)}
}

// mountAll makes the mounts in order, and directories to mount on.
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

// propagation sets how mounts below target are shared: unix.MS_PRIVATE or
// unix.MS_SHARED.
func propagation(target string, how uintptr) error {
	if err := unix.Mount("", target, "", unix.MS_REC|how, ""); err != nil {
		return fmt.Errorf("set mount propagation of %s: %w", target, err)
	}
	return nil
}

// enterRoot makes dir, a mount point, the root of this mount namespace and lets
// go of the old root.
func enterRoot(dir string) error {
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("enter %s: %w", dir, err)
	}
	// With both arguments "." the old root ends up below the new one, where it
	// can be unmounted: see pivot_root(2).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("make %s the root: %w", dir, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the old root: %w", err)
	}
	return unix.Chdir("/")
}

// remountSys shows the network namespace's own devices below /sys and keeps the
// control groups that were mounted there.
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
