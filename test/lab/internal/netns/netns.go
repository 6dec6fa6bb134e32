// Package netns creates, uses and removes named network namespaces in the directory of ip-netns(8).
package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/test/lab/internal/ns"
)

// Dir is the directory of the mount points of named namespaces.
const Dir = "/run/netns"

// Path is the mount point of the namespace.
func Path(name string) string { return filepath.Join(Dir, name) }

// Ensure creates the namespace, unless it exists, and brings its loopback up. It replaces a stale mount point, left by
// a crash.
func Ensure(name string) error {
	if Do(name, func() error { return nil }) == nil {
		return nil
	}
	if err := os.Remove(Path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("network namespace %s: remove the stale mount point: %w", name, err)
	}
	if err := (ns.Target{}).Do(func() error {
		handle, err := netns.NewNamed(name)
		if err != nil {
			return err
		}
		return handle.Close()
	}); err != nil {
		return fmt.Errorf("network namespace %s: create: %w", name, err)
	}
	return Netlink(name, func(handle *netlink.Handle) error {
		loopback, err := handle.LinkByName("lo")
		if err != nil {
			return err
		}
		return handle.LinkSetUp(loopback)
	})
}

// Delete removes the name. The kernel frees the namespace and its links once no process runs in it. Delete of a missing
// namespace succeeds.
func Delete(name string) error {
	if err := netns.DeleteNamed(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		// DeleteNamed fails if nothing is mounted on the file. Remove the file all the same.
		if removed := os.Remove(Path(name)); removed != nil && !errors.Is(removed, fs.ErrNotExist) {
			return fmt.Errorf("network namespace %s: delete: %w", name, errors.Join(err, removed))
		}
	}
	return nil
}

// List returns the names with the prefix.
func List(prefix string) ([]string, error) {
	entries, err := os.ReadDir(Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), prefix) {
			names = append(names, entry.Name())
		}
	}
	return names, err
}

// Exists reports whether the namespace exists.
func Exists(name string) bool {
	_, err := os.Stat(Path(name))
	return err == nil
}

// Do runs f in the namespace. Commands and sockets opened by f itself are in it, goroutines started by f are not.
func Do(name string, f func() error) error {
	if err := (ns.Target{Net: Path(name)}).Do(f); err != nil {
		return fmt.Errorf("network namespace %s: %w", name, err)
	}
	return nil
}

// Netlink calls f with a handle to the namespace's links, addresses, routes, rules and neighbours.
func Netlink(name string, f func(*netlink.Handle) error) error {
	into, err := netns.GetFromPath(Path(name))
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", name, err)
	}
	defer func() { _ = into.Close() }()
	// NETLINK_ROUTE only: User Mode Linux lacks the other families.
	handle, err := netlink.NewHandleAt(into, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("network namespace %s: netlink: %w", name, err)
	}
	defer handle.Close()
	return f(handle)
}

// Run runs a command in the namespace with the input and returns its output. An error contains the command's standard
// error.
func Run(ctx context.Context, name, input string, command ...string) (string, error) {
	var output string
	err := Do(name, func() error {
		cmd := exec.CommandContext(ctx, command[0], command[1:]...)
		cmd.Stdin = strings.NewReader(input)
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		output = stdout.String()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(stderr.String()))
		}
		return nil
	})
	return output, err
}

// Sysctl sets kernel parameters of the namespace. Keys are paths below /proc/sys/net, e.g. "ipv4/ip_forward".
func Sysctl(name string, values map[string]string) error {
	return Do(name, func() error {
		for key, value := range values {
			path := filepath.Join("/proc/sys/net", key)
			if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
				return fmt.Errorf("set %s to %s: %w", path, value, err)
			}
		}
		return nil
	})
}
