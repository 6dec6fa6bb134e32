// Package cgroup creates and removes control groups. It handles both the unified
// hierarchy (v2) and one hierarchy per controller (v1).
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const mountPoint = "/sys/fs/cgroup"

// Unified reports whether this machine has only the unified hierarchy.
func Unified() (bool, error) {
	var fsinfo unix.Statfs_t
	if err := unix.Statfs(mountPoint, &fsinfo); err != nil {
		return false, fmt.Errorf("stat %s: %w", mountPoint, err)
	}
	return fsinfo.Type == unix.CGROUP2_SUPER_MAGIC, nil
}

// Create creates the group, e.g. "lab/worker1", and its parents in every hierarchy.
// The group can have child groups.
func Create(group string) error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		dir := root
		for _, elem := range strings.Split(group, "/") {
			if err := delegate(dir); err != nil {
				return err
			}
			parent := dir
			dir = filepath.Join(dir, elem)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("create control group: %w", err)
			}
			if err := inherit(parent, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// weight is the CPU weight of the lab and of each group in it, counted in processes. With
// the kernel's default, one process, the lab starves beside a compiler. In the lab, the
// pods of a node compete with the machine's own programs, which include kubelet and
// containerd: with one process, an agent waits for its turn 2 ms each time that it wakes
// up while pods start. On a node with two processors, kubelet gives the pods twice the
// weight of the system's programs.
const weight = 20

// Weigh gives the group the CPU weight of the lab.
func Weigh(group string) error {
	unified, err := Unified()
	if err != nil {
		return err
	}
	file, unit := filepath.Join(mountPoint, group, "cpu.weight"), 100
	if !unified {
		file, unit = filepath.Join(mountPoint, "cpu", group, "cpu.shares"), 1024
	}
	if err := os.WriteFile(file, []byte(strconv.Itoa(weight*unit)), 0); err != nil {
		return fmt.Errorf("set weight of control group: %w", err)
	}
	return nil
}

// Enter moves a process into the group in every hierarchy.
func Enter(group string, process int) error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		file := filepath.Join(root, group, "cgroup.procs")
		if err := os.WriteFile(file, []byte(strconv.Itoa(process)), 0); err != nil {
			return fmt.Errorf("enter control group: %w", err)
		}
	}
	return nil
}

// Remove removes the group and its children from every hierarchy. It waits up to
// patience for ending processes.
func Remove(group string, patience time.Duration) error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	deadline := time.Now().Add(patience)
	for _, root := range roots {
		for {
			err := removeTree(filepath.Join(root, group))
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
				return fmt.Errorf("remove control group: %w", err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}

// Exists reports whether any hierarchy has the group.
func Exists(group string) (bool, error) {
	roots, err := hierarchies()
	if err != nil {
		return false, err
	}
	for _, root := range roots {
		if _, err := os.Stat(filepath.Join(root, group)); !errors.Is(err, fs.ErrNotExist) {
			return err == nil, err
		}
	}
	return false, nil
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// hierarchies lists the mount points of all hierarchies, without symbolic links to
// others.
func hierarchies() ([]string, error) {
	unified, err := Unified()
	if err != nil {
		return nil, err
	}
	if unified {
		return []string{mountPoint}, nil
	}
	entries, err := os.ReadDir(mountPoint)
	if err != nil {
		return nil, err
	}
	var roots []string
	for _, entry := range entries {
		root := filepath.Join(mountPoint, entry.Name())
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); entry.IsDir() && err == nil {
			roots = append(roots, root)
		}
	}
	if len(roots) == 0 {
		return nil, fmt.Errorf("no control group hierarchy is mounted below %s", mountPoint)
	}
	return roots, nil
}

// delegate enables all controllers of a group for its children (v2 only).
func delegate(dir string) error {
	content, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	control := filepath.Join(dir, "cgroup.subtree_control")
	enabled, err := os.ReadFile(control)
	if err != nil {
		return err
	}
	have := strings.Fields(string(enabled))
	for _, controller := range strings.Fields(string(content)) {
		if slices.Contains(have, controller) {
			continue
		}
		if err := os.WriteFile(control, []byte("+"+controller), 0); err != nil {
			return fmt.Errorf("delegate controller %s: %w", controller, err)
		}
	}
	return nil
}

// inherit copies the parent's settings into a new v1 cpuset. Without them no process
// can enter it.
func inherit(parent, dir string) error {
	if !strings.HasPrefix(dir, mountPoint+"/cpuset/") {
		return nil
	}
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(parent, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), value, 0); err != nil {
			return fmt.Errorf("set %s of control group: %w", name, err)
		}
	}
	return nil
}
