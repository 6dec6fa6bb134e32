// Package ns runs programs and opens sockets inside existing namespaces.
//
// Each call moves a new operating system thread into the namespaces and discards the
// thread afterwards, so no other goroutine ever runs on it. Programs started by the
// thread inherit its namespaces.
package ns

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// Target names namespaces. The zero Target is this process's own.
type Target struct {
	// Net is the file of a network namespace, e.g. /run/netns/a.
	Net string
	// Process is a process ID, unless zero. Target then means all its namespaces except
	// the user, cgroup and time namespaces.
	Process int
}

// kinds lists a process's namespaces in the order of entry. The mount namespace
// comes last, because the files of the others are visible only in the current one.
var kinds = []string{"ipc", "uts", "net", "pid", "mnt"}

// Start starts the program inside the target. A program name without a slash is looked
// up in the target's file system along PATH. The caller must call Wait.
func (t Target) Start(cmd *exec.Cmd) error {
	return t.Do(func() error {
		if filepath.Base(cmd.Path) == cmd.Path {
			file, err := exec.LookPath(cmd.Path)
			if err != nil {
				return err
			}
			cmd.Path, cmd.Err = file, nil
		}
		return cmd.Start()
	})
}

// Dial connects from inside the target. The address must be literal.
func (t Target) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := t.Do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens inside the target. The caller may be in any namespace.
func (t Target) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var listener net.Listener
	err := t.Do(func() (err error) {
		listener, err = new(net.ListenConfig).Listen(ctx, network, address)
		return err
	})
	return listener, err
}

// Do runs f inside the target. Goroutines started by f are outside, so f must not start
// any that depend on the namespaces.
func (t Target) Do(f func() error) error {
	files, err := t.open()
	defer func() {
		for _, file := range files {
			file.Close()
		}
	}()
	if err != nil {
		return err
	}
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the runtime ends the thread with this goroutine.
		runtime.LockOSThread()
		result <- func() error {
			if err := enter(files); err != nil {
				return err
			}
			return f()
		}()
	}()
	return <-result
}

func (t Target) open() ([]*os.File, error) {
	var names []string
	if t.Process != 0 {
		for _, kind := range kinds {
			names = append(names, filepath.Join("/proc", strconv.Itoa(t.Process), "ns", kind))
		}
	} else if t.Net != "" {
		names = []string{t.Net}
	}
	var files []*os.File
	for _, name := range names {
		file, err := os.Open(name)
		if err != nil {
			return files, fmt.Errorf("open namespace: %w", err)
		}
		files = append(files, file)
	}
	return files, nil
}

func enter(files []*os.File) error {
	// setns(2) into a mount namespace needs a thread with its own root and working
	// directory.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare file system context: %w", err)
	}
	for _, file := range files {
		if err := unix.Setns(int(file.Fd()), 0); err != nil {
			return fmt.Errorf("enter namespace %s: %w", file.Name(), err)
		}
	}
	return nil
}
