// Package netns makes, uses and removes named network namespaces, where ip-netns(8) keeps them.
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

// Dir is where named namespaces are mounted.
const Dir = "/run/netns"

// Path is where the namespace of that name is mounted.
func Path(name string) string { return filepath.Join(Dir, name) }

// Ensure makes the namespace, unless it is there, with its loopback up. A mount point that a crash left without a
// namespace on it is replaced.
func Ensure(name string) error {
	if Do(name, func() error { return nil }) == nil {
		return nil
	}
	if err := os.Remove(Path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("network namespace %s: cannot replace what is at its mount point: %w", name, err)
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

// Delete removes the name. The kernel frees the namespace, with the links in it, when nothing runs in it any more.
// A namespace that is not there is no error.
func Delete(name string) error {
	if err := netns.DeleteNamed(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		// DeleteNamed fails on the unmount of a name without a mount; the file must go all the same.
		if removed := os.Remove(Path(name)); removed != nil && !errors.Is(removed, fs.ErrNotExist) {
			return fmt.Errorf("network namespace %s: delete: %w", name, errors.Join(err, removed))
		}
	}
	return nil
}

// List returns the names that begin with prefix.
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

// Exists reports whether the name is taken.
func Exists(name string) bool {
	_, err := os.Stat(Path(name))
	return err == nil
}

// Do runs f in the namespace. Goroutines that f starts are not in it; commands and sockets that f makes itself are.
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
	// Of this family only: User Mode Linux has no sockets of the others.
	handle, err := netlink.NewHandleAt(into, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("network namespace %s: netlink: %w", name, err)
	}
	defer handle.Close()
	return f(handle)
}

// Run runs a command in the namespace with the input and returns its output; an error holds what it printed to
// standard error.
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

// Sysctl sets kernel parameters of the namespace; keys are paths below /proc/sys/net, such as "ipv4/ip_forward".
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
