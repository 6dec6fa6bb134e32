// Package daemon runs programs in the background, like an init system: one log file
// each, restart after every exit, one process group to stop.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/test/lab/internal/action"
	"spiderpool.dev/spiderpool/test/lab/internal/ns"
)

const (
	// restartDelay is the pause before an ended program is restarted.
	restartDelay = time.Second
	// stopGrace is the time between SIGTERM and SIGKILL.
	stopGrace = 5 * time.Second
	// readyPoll is the interval between readiness checks.
	readyPoll = 100 * time.Millisecond
	// readyPatience is the limit for readiness, generous for one slow shared CPU.
	readyPatience = 10 * time.Minute
	// readyRestarts is how often a daemon may exit while it waits for another one.
	readyRestarts = 5
)

// Spec is a program to keep running.
type Spec struct {
	// Name is unique and names the log file, e.g. "worker1/kubelet".
	Name   string
	Target ns.Target
	// Args is the program's path in the target's file system, then its arguments.
	Args []string
	// Env is the whole environment.
	Env []string
}

// Status is the current state of one daemon.
type Status struct {
	Name string `json:"name"`
	// Process is the process ID inside the machine, or 0 if it does not run.
	Process  int       `json:"process"`
	Started  time.Time `json:"started"`
	Restarts int       `json:"restarts"`
	// LastExit describes the last exit; empty if there was none.
	LastExit string `json:"lastExit,omitempty"`
}

// Set is a set of daemons. Its methods may be called concurrently.
type Set struct {
	logs string
	mu   sync.Mutex
	all  map[string]*daemon
}

// NewSet returns an empty set with its log files in the directory.
func NewSet(logs string) *Set {
	return &Set{logs: logs, all: map[string]*daemon{}}
}

type daemon struct {
	spec    Spec
	mu      sync.Mutex
	status  Status
	stopped chan struct{} // closed to end keep
	done    chan struct{} // closed by keep
}

// Start starts a daemon. It does nothing if a daemon of that name runs.
func (s *Set) Start(spec Spec) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.all[spec.Name]; ok && d.running() {
		return nil
	}
	log, err := s.log(spec.Name)
	if err != nil {
		return err
	}
	d := &daemon{spec: spec, status: Status{Name: spec.Name}, stopped: make(chan struct{}), done: make(chan struct{})}
	cmd, err := d.start(log)
	if err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", spec.Name, err), log.Close())
	}
	s.all[spec.Name] = d
	go d.keep(cmd, log)
	return nil
}

// Restart starts a stopped daemon again with its previous Spec.
func (s *Set) Restart(name string) error {
	d, err := s.find(name)
	if err != nil {
		return err
	}
	return s.Start(d.spec)
}

// Stop ends daemons: SIGTERM, then SIGKILL after a grace period or at the end of
// ctx. Restart can start them again.
func (s *Set) Stop(ctx context.Context, names ...string) error {
	var daemons []*daemon
	for _, name := range names {
		d, err := s.find(name)
		if err != nil {
			return err
		}
		daemons = append(daemons, d)
	}
	for _, d := range daemons {
		d.end()
	}
	grace, cancel := context.WithTimeout(ctx, stopGrace)
	defer cancel()
	for _, d := range daemons {
		d.signal(unix.SIGTERM)
	}
	for _, d := range daemons {
		select {
		case <-d.done:
		case <-grace.Done():
			d.signal(unix.SIGKILL)
			<-d.done
		}
	}
	return nil
}

// Kill kills a daemon, like a crash. It is restarted.
func (s *Set) Kill(name string) error {
	d, err := s.find(name)
	if err == nil {
		d.signal(unix.SIGKILL)
	}
	return err
}

// Status lists the daemons by name.
func (s *Set) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Status
	for _, d := range s.all {
		d.mu.Lock()
		list = append(list, d.status)
		d.mu.Unlock()
	}
	slices.SortFunc(list, func(a, b Status) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return list
}

// Action returns the action that starts daemons.
func (s *Set) Action(name string, specs func() ([]Spec, error)) action.Action {
	return action.Action{Name: name, Do: func(context.Context) error {
		list, err := specs()
		if err != nil {
			return err
		}
		for _, spec := range list {
			if err := s.Start(spec); err != nil {
				return err
			}
		}
		return nil
	}}
}

// Await polls ready until it returns nil. It gives up at the end of ctx, after
// readyPatience, or if one of the daemons keeps exiting.
func (s *Set) Await(ctx context.Context, ready func(context.Context) error, names ...string) error {
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		for _, name := range names {
			if err := s.Failed(name, readyRestarts); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up after %s: %w", readyPatience, err)
		case <-tick.C:
		}
	}
}

// Control runs a verb on a daemon: "stop", "start", or "kill", followed by a restart.
func (s *Set) Control(ctx context.Context, name, verb string) error {
	switch verb {
	case "stop":
		return s.Stop(ctx, name)
	case "start":
		return s.Restart(name)
	case "kill":
		return s.Kill(name)
	default:
		return fmt.Errorf("daemon %s: unknown verb %q; known: stop, start, kill", name, verb)
	}
}

// Failed returns an error with the end of the daemon's log if it was restarted more
// often than allowed. It will hardly become ready then.
func (s *Set) Failed(name string, restarts int) error {
	d, err := s.find(name)
	if err != nil {
		return err
	}
	d.mu.Lock()
	last, often := d.status.LastExit, d.status.Restarts
	d.mu.Unlock()
	if often <= restarts {
		return nil
	}
	return fmt.Errorf("%s ended (%s); its log %s ends with:\n%s", name, last, s.logFile(name), tail(s.logFile(name)))
}

func (s *Set) find(name string) (*daemon, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.all[name]; ok {
		return d, nil
	}
	return nil, fmt.Errorf("no daemon %q; `lab status` lists them", name)
}

func (s *Set) logFile(name string) string { return filepath.Join(s.logs, name+".log") }

func (s *Set) log(name string) (*os.File, error) {
	file := s.logFile(name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
}

func (d *daemon) start(log *os.File) (*exec.Cmd, error) {
	cmd := &exec.Cmd{
		Path: d.spec.Args[0], Args: d.spec.Args, Env: d.spec.Env, Dir: "/",
		Stdout: log, Stderr: log,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := d.spec.Target.Start(cmd); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.status.Process, d.status.Started = cmd.Process.Pid, time.Now()
	return cmd, nil
}

// keep waits for the program and restarts it until the daemon is stopped.
func (d *daemon) keep(cmd *exec.Cmd, log *os.File) {
	defer close(d.done)
	defer log.Close()
	for {
		if cmd != nil {
			// ProcessState has the exit status. Wait has no other error, because
			// the log is a file.
			_ = cmd.Wait()
			d.mu.Lock()
			d.status.Process, d.status.LastExit = 0, cmd.ProcessState.String()
			d.mu.Unlock()
		}
		select {
		case <-d.stopped:
			return
		case <-time.After(restartDelay):
		}
		var err error
		if cmd, err = d.start(log); err != nil {
			cmd = nil
			fmt.Fprintf(log, "lab: restart: %v\n", err)
		}
		d.mu.Lock()
		d.status.Restarts++
		d.mu.Unlock()
	}
}

func (d *daemon) running() bool {
	select {
	case <-d.done:
		return false
	default:
		return true
	}
}

// end makes keep return after the program's next exit.
func (d *daemon) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-d.stopped:
	default:
		close(d.stopped)
	}
}

// signal sends a signal to the program if it runs.
func (d *daemon) signal(sig unix.Signal) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.status.Process > 0 {
		// The program may have ended meanwhile; then there is nothing to signal.
		_ = unix.Kill(d.status.Process, sig)
	}
}

// tail returns the last bytes of a file, or the error from reading it.
func tail(file string) string {
	const most = 2000
	content, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(content[max(0, len(content)-most):])
}
