package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopPatience is the time between SIGTERM and SIGKILL.
const stopPatience = 5 * time.Second

// clockTick is the unit of CPU times in /proc (USER_HZ, proc(5)).
const clockTick = time.Second / 100

// Process is a program that can be killed and restarted. Its log file survives restarts.
type Process struct {
	// Name is the name for messages.
	Name string
	// Argv is the program and its arguments.
	Argv []string
	// Env is added to this program's environment.
	Env []string
	// Dir is the working directory. The log is this path plus ".log" unless Log is set.
	Dir string
	// Log is the file for standard output and error.
	Log string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
	// spent is the CPU time of earlier runs.
	spent time.Duration
}

// Start starts the program. It fails if the program already runs.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running() {
		return fmt.Errorf("%s already runs, with process ID %d", p.Name, p.cmd.Process.Pid)
	}
	if err := os.MkdirAll(filepath.Dir(p.Log), 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.Argv[0], p.Argv[1:]...)
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.Dir = p.Dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	done := make(chan struct{})
	p.cmd, p.done = cmd, done
	go func() {
		_ = cmd.Wait() // ProcessState has the exit status
		close(done)
	}()
	return nil
}

// running reports whether the program runs. The caller holds p.mu.
func (p *Process) running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Running reports whether the program runs.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running()
}

// Kill kills the program (SIGKILL) and waits for its end.
func (p *Process) Kill() { p.end(syscall.SIGKILL) }

// Stop sends SIGTERM, and SIGKILL after five seconds. It reports whether the program
// ended by itself.
func (p *Process) Stop() bool { return p.end(syscall.SIGTERM) }

func (p *Process) end(signal syscall.Signal) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return true
	}
	// The signal fails if the process has ended already; that is fine.
	_ = p.cmd.Process.Signal(signal)
	obeyed := true
	select {
	case <-p.done:
	case <-time.After(stopPatience):
		obeyed = false
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	p.spent += p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	p.cmd = nil
	return obeyed
}

// Pause suspends the program (SIGSTOP) until Resume.
func (p *Process) Pause() error { return p.signal(syscall.SIGSTOP) }

// Resume resumes a paused program.
func (p *Process) Resume() error { return p.signal(syscall.SIGCONT) }

func (p *Process) signal(signal syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return fmt.Errorf("%s does not run", p.Name)
	}
	return p.cmd.Process.Signal(signal)
}

// LastOutput returns the end of the log for error messages.
func (p *Process) LastOutput() string {
	content, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	const shown = 2000
	if len(content) > shown {
		content = content[len(content)-shown:]
	}
	return string(bytes.TrimSpace(content))
}

// Usage is the resource usage of a process.
type Usage struct {
	// CPU is the user and system time of all runs.
	CPU time.Duration
	// RSS and PeakRSS are the current and the maximum resident memory in bytes.
	RSS, PeakRSS int64
}

// Usage reads /proc. If the process does not run, the memory values are zero.
func (p *Process) Usage() (Usage, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return Usage{CPU: p.spent}, nil
	}
	dir := fmt.Sprintf("/proc/%d", p.cmd.Process.Pid)
	cpu, err := cpuTime(dir)
	if err != nil {
		return Usage{}, err
	}
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return Usage{}, err
	}
	return Usage{CPU: p.spent + cpu, RSS: kibibytes(status, "VmRSS:"), PeakRSS: kibibytes(status, "VmHWM:")}, nil
}

// cpuTime returns utime and stime of /proc/PID/stat.
func cpuTime(dir string) (time.Duration, error) {
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return 0, err
	}
	// The second field is the program's name in parentheses, which may contain spaces.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const utime, stime = 11, 12 // fields 14 and 15 of proc(5), minus the cut-off ones
	if len(fields) <= stime {
		return 0, errors.New(dir + "/stat is too short")
	}
	var ticks int64
	for _, i := range []int{utime, stime} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s/stat: %w", dir, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

func kibibytes(status []byte, key string) int64 {
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err == nil {
				return n << 10
			}
		}
	}
	return 0
}

// WaitFor calls the condition every 20 ms until it returns nil. If ctx ends first, it
// returns the condition's last error. If one of the processes ends meanwhile, it returns
// an error with the end of its log.
func WaitFor(ctx context.Context, what string, condition func(ctx context.Context) error, needs ...*Process) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	var last error
	for {
		err := condition(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err // an error caused by the end of ctx says nothing
		}
		for _, p := range needs {
			if !p.Running() {
				return fmt.Errorf("wait for %s: %s has ended; end of %s:\n%s", what, p.Name, p.Log, p.LastOutput())
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, errors.Join(context.Cause(ctx), last))
		case <-ticker.C:
		}
	}
}
