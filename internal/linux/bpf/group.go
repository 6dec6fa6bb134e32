package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// PodGroup returns the control group v2 of the node's pods below root, the node's mount
// of all control groups, e.g. "/sys/fs/cgroup/kubepods.slice" for "/sys/fs/cgroup". It is
// the group that this process shares with other pods. name overrides it, e.g.
// "kubepods.slice".
//
// On a machine with v1, the v2 hierarchy at root/unified is often without groups of
// pods; then PodGroup returns the group in which the container runtime left them.
func PodGroup(root, name string) (string, error) {
	hybrid := isType(root, unix.CGROUP2_SUPER_MAGIC, "", "") != nil
	if hybrid {
		root = filepath.Join(root, "unified")
	}
	if name != "" {
		return filepath.Join(root, name), nil
	}
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("read the control group of this process: %w", err)
	}
	own := unifiedPath(string(self))
	if own == "/" && !hybrid {
		// The root of our cgroup namespace is some group of the node.
		if own, err = pathOf(root, "/sys/fs/cgroup"); err != nil {
			return "", err
		}
	}
	for _, path := range groupCandidates(own, hybrid) {
		group := filepath.Join(root, path)
		if st, err := os.Stat(group); err == nil && st.IsDir() {
			return group, nil
		}
	}
	return "", fmt.Errorf("%s has no control group kubepods.slice or kubepods. Set service.cgroup to the group of the node's pods", root)
}

// unifiedPath returns the path of the v2 group in /proc/<pid>/cgroup, or "" (cgroups(7)).
func unifiedPath(cgroup string) string {
	for line := range strings.Lines(cgroup) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return path
		}
	}
	return ""
}

// pathOf returns the path below root of the group that another mount has as its root,
// e.g. "/kubepods.slice/a.scope", or "/" if it is not there.
func pathOf(root, mount string) (string, error) {
	id, err := groupID(mount)
	if err != nil {
		return "", err
	}
	found := "/"
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed meanwhile
			return nil
		case err != nil:
			return err
		case !d.IsDir():
			return nil
		}
		if other, err := groupID(path); err == nil && other == id {
			found = "/" + strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("search the control groups of the node: %w", err)
	}
	return found, nil
}

// groupCandidates returns the possible groups of pods, the best first. own is the group
// of a pod, "/" if unknown, and hybrid whether v1 has the controllers.
func groupCandidates(own string, hybrid bool) []string {
	var out []string
	elements := strings.Split(own, "/")
	for i, e := range elements {
		// kind and others put the kubelet's groups below their own.
		if e == "kubepods" || e == "kubepods.slice" || strings.HasSuffix(e, "-kubepods.slice") {
			out = append(out, strings.Join(elements[:i+1], "/"))
			break
		}
	}
	out = append(out, "/kubepods.slice", "/kubepods")
	if hybrid && own != "" {
		out = append(out, own)
	}
	return out
}
