package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/test/lab/internal/cgroup"
	"spiderpool.dev/spiderpool/test/lab/internal/machine"
	"spiderpool.dev/spiderpool/test/lab/internal/state"
)

const (
	// apiAddress is the API server's address on this machine. If the port is taken,
	// the kernel chooses another one.
	apiAddress = "127.0.0.1:16443"
	// bootPatience is how long a machine may take to answer its first request.
	bootPatience = time.Minute
	// endPatience is how long killed processes may take to disappear.
	endPatience = 20 * time.Second
)

// startMachine starts the machine's first process in new namespaces. It opens the
// machine's sockets in this machine's network namespace and passes them on.
func (l Lab) startMachine(ctx context.Context, config *state.Config) error {
	api, err := listenAPI(ctx)
	if err != nil {
		return err
	}
	defer api.Close()
	sockets := []inherited{api}
	for _, file := range []string{l.Dir.ControlSocket(), l.Dir.Socket()} {
		socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: file, Net: "unix"})
		if err != nil {
			return err
		}
		defer socket.Close()
		socket.SetUnlinkOnClose(false)
		sockets = append(sockets, socket)
	}
	config.Endpoint = api.Addr().String()
	if err := l.Dir.Save(*config); err != nil {
		return err
	}
	if err := l.spawn(config, sockets); err != nil {
		return err
	}
	return l.Dir.Save(*config)
}

// group is the control group of the machine's own processes. The nodes' groups are
// its siblings.
func (l Lab) group() string { return l.Dir.Control() + "/machine" }

// makeGroups creates the lab's control groups.
func (l Lab) makeGroups(context.Context) error {
	if err := cgroup.Create(l.group()); err != nil {
		return err
	}
	return errors.Join(cgroup.Weigh(l.Dir.Control()), cgroup.Weigh(l.group()))
}

func (l Lab) removeGroups(context.Context) error {
	return cgroup.Remove(l.Dir.Control(), endPatience)
}

// makeDir creates the lab's directory with a copy of this program in it.
func (l Lab) makeDir(context.Context) error {
	if err := os.MkdirAll(l.Dir.Logs(), 0o755); err != nil {
		return err
	}
	if err := copyProgram(l.Dir.Program()); err != nil {
		return fmt.Errorf("copy the lab's program: %w", err)
	}
	return nil
}

// removeDir removes the lab's directory. It keeps the directory while the machine's
// process exists, because config.json has the process ID.
func (l Lab) removeDir(context.Context) error {
	if config, err := l.Dir.Load(); err == nil && l.alive(config) {
		return fmt.Errorf("keep %s: process %d of the machine still exists", l.Dir, config.MachineProcess)
	}
	return os.RemoveAll(string(l.Dir))
}

func listenAPI(ctx context.Context) (*net.TCPListener, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp4", apiAddress)
	if errors.Is(err, unix.EADDRINUSE) {
		listener, err = config.Listen(ctx, "tcp4", "127.0.0.1:0")
	}
	if err != nil {
		return nil, err
	}
	return listener.(*net.TCPListener), nil
}

// inherited is a socket for a child process.
type inherited interface{ File() (*os.File, error) }

// spawn starts the machine's first process inside its control group, so that no
// instruction runs outside the group.
func (l Lab) spawn(config *state.Config, sockets []inherited) error {
	log, err := os.OpenFile(filepath.Join(l.Dir.Logs(), "machine.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	ready, release, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	defer release.Close()
	files := []*os.File{ready}
	for _, socket := range sockets {
		file, err := socket.File()
		if err != nil {
			return err
		}
		defer file.Close()
		files = append(files, file)
	}
	cmd := &exec.Cmd{
		Path: l.Dir.Program(), Args: []string{"lab", "machine"}, Dir: "/", Stdout: log, Stderr: log,
		Env:        append(os.Environ(), state.Environment(l.Dir)),
		ExtraFiles: files,
		SysProcAttr: &syscall.SysProcAttr{
			Setsid:     true,
			Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		},
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the machine (the lab needs root): %w", err)
	}
	config.MachineProcess = cmd.Process.Pid
	if config.MachineStart, err = startTime(cmd.Process.Pid); err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	if err := cgroup.Enter(l.group(), cmd.Process.Pid); err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	if _, err := release.Write([]byte{1}); err != nil {
		return err
	}
	return cmd.Process.Release()
}

// awaitMachine waits for the machine's first answer.
func (l Lab) awaitMachine(ctx context.Context, config state.Config) error {
	ctx, cancel := context.WithTimeout(ctx, bootPatience)
	defer cancel()
	for {
		_, err := machine.At(l.Dir.Socket()).Status(ctx)
		if err == nil {
			return nil
		}
		if !l.alive(config) {
			return fmt.Errorf("the machine ended; see %s", filepath.Join(l.Dir.Logs(), "machine.log"))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the machine does not answer: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// endMachine kills the machine's first process. The kernel then kills all processes
// of the machine and removes their namespaces, mounts and links.
func (l Lab) endMachine(ctx context.Context) error {
	config, err := l.Dir.Load()
	if errors.Is(err, state.ErrNone) || err == nil && !l.alive(config) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := unix.Kill(config.MachineProcess, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end the machine: %w", err)
	}
	return l.awaitEnd(ctx, config)
}

func (l Lab) awaitEnd(ctx context.Context, config state.Config) error {
	ctx, cancel := context.WithTimeout(ctx, endPatience)
	defer cancel()
	for l.alive(config) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d of the machine still exists: %w", config.MachineProcess, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	// If this process is the parent, it must reap the machine; otherwise Wait4 returns
	// ECHILD. Some threads may still be ending in the kernel.
	_, err := unix.Wait4(config.MachineProcess, nil, 0, nil)
	if err != nil && !errors.Is(err, unix.ECHILD) {
		return fmt.Errorf("reap the machine: %w", err)
	}
	return nil
}

// alive reports whether the machine's first process runs. It compares start times,
// because the kernel reuses process IDs.
func (l Lab) alive(config state.Config) bool {
	if config.MachineProcess == 0 {
		return false
	}
	start, err := startTime(config.MachineProcess)
	return err == nil && start == config.MachineStart
}

// startTime returns the start time of a process in clock ticks since boot. It fails
// for an ended process, even one not yet reaped.
func startTime(process int) (uint64, error) {
	content, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(process), "stat"))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may contain spaces and parentheses; see proc(5).
	_, rest, ok := strings.Cut(string(content[max(0, strings.LastIndexByte(string(content), ')')):]), " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0, fs.ErrNotExist
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// copyProgram copies this program, so that a new build of it does not affect the
// running machine.
func copyProgram(to string) error {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer from.Close()
	copied, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(copied, from); err != nil {
		return errors.Join(err, copied.Close())
	}
	return copied.Close()
}
