// Package ns runs programs, and opens sockets, inside namespaces that exist
// already.
//
// Each call works on an operating system thread of its own, which it moves into
// the namespaces and then throws away, so no other goroutine ever sees them.
// Programs are started by that thread and inherit them.
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

// Target says in which namespaces to work. The zero Target is this process's own.
type Target struct {
	// Net is the file of a network namespace, for example /run/netns/a.
	Net string
	// Process, if not zero, is a process ID: all its namespaces are meant, but
	// for the user, cgroup and time ones.
	Process int
}

// kinds is the order in which a process's namespaces are entered; the mount
// namespace comes last, because the others' files are found in this one.
var kinds = []string{"ipc", "uts", "net", "pid", "mnt"}

// Start starts the program inside the target. A program name without a slash is
// looked up in the target's file system along PATH. Wait for it as usual.
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

// Listen listens inside the target; the listener can be used from anywhere.
func (t Target) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var listener net.Listener
	err := t.Do(func() (err error) {
		listener, err = new(net.ListenConfig).Listen(ctx, network, address)
		return err
	})
	return listener, err
}

// Do runs f inside the target. f must not start goroutines that touch
// namespaces.
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
		// Never unlocked: the runtime ends the thread with the goroutine.
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
	// A mount namespace can only be entered by a thread that shares its root
	// and working directory with no other.
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
