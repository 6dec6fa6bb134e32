package machine

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/test/lab/internal/daemon"
	"spiderpool.dev/spiderpool/test/lab/internal/ns"
)

// Place is a location for programs: namespaces and environment.
type Place struct {
	Target ns.Target
	// Env is the environment at this place.
	Env []string
}

// Status is the state of a machine.
type Status struct {
	Kernel  string          `json:"kernel"`
	Hosts   []string        `json:"hosts"`
	Daemons []daemon.Status `json:"daemons"`
	// Up means that Guest.Up has completed.
	Up bool `json:"up"`
}

// Kernel returns the release of this process's kernel.
func Kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(name.Release[:])
}

// Guest is the content of a machine: the network and the cluster, or the control plane.
type Guest interface {
	Up(ctx context.Context, out io.Writer) error
	// Place returns the place of a host; the empty name is the machine itself.
	Place(host string) (Place, error)
	Status() Status
	// Daemon runs a verb on a daemon: stop, start, kill.
	Daemon(ctx context.Context, name, verb string) error
}

// Serve answers requests on the listener until the end of ctx or the first accept error.
func Serve(ctx context.Context, listener net.Listener, guest Guest) error {
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	var open sync.WaitGroup
	defer open.Wait()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		open.Go(func() { serve(ctx, conn, guest) })
	}
}

func serve(ctx context.Context, conn net.Conn, guest Guest) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	var req request
	if err := receiveLine(r, &req); err != nil {
		return // the peer has gone
	}
	switch req.Op {
	case opDial:
		serveDial(ctx, Buffered{conn, r}, req, guest)
	case opStatus:
		// As above: if this fails, the peer has gone.
		_ = json.NewEncoder(conn).Encode(guest.Status())
	default:
		out := &frames{w: conn}
		code, err := serveFrames(ctx, r, out, req, guest)
		if err != nil {
			_ = out.send(frameError, []byte(err.Error()))
			return
		}
		_ = out.send(frameExit, binary.BigEndian.AppendUint32(nil, uint32(code)))
	}
}

func serveDial(ctx context.Context, conn net.Conn, req request, guest Guest) {
	place, err := guest.Place(req.Host)
	var to net.Conn
	if err == nil {
		to, err = place.Target.Dial(ctx, req.Network, req.Address)
	}
	if err != nil {
		_ = sendLine(conn, reply{Error: err.Error()})
		return
	}
	if err := sendLine(conn, reply{}); err != nil {
		to.Close()
		return
	}
	Splice(conn, to)
}

// serveFrames handles a request that answers in frames. If the peer closes the
// connection, serveFrames cancels the work and returns.
func serveFrames(ctx context.Context, r io.Reader, out *frames, req request, guest Guest) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if req.Op == opExec {
		return execute(ctx, cancel, r, out, req, guest)
	}
	go func() { // ends when the peer closes the connection or serve returns
		for {
			if _, _, err := receive(r); err != nil {
				cancel()
				return
			}
		}
	}()
	switch req.Op {
	case opUp:
		return 0, guest.Up(ctx, stream{out, frameStdout})
	case opDaemon:
		return 0, guest.Daemon(ctx, req.Daemon, req.Verb)
	default:
		return 0, fmt.Errorf("unknown request %q: the running lab has another version; run `lab down` and `lab up`", req.Op)
	}
}

// execute runs a program in its own session and carries its streams.
func execute(ctx context.Context, cancel func(), r io.Reader, out *frames, req request, guest Guest) (int, error) {
	place, err := guest.Place(req.Host)
	if err != nil {
		return 0, err
	}
	if len(req.Command) == 0 {
		return 0, errors.New("no command given")
	}
	cmd := &exec.Cmd{Path: req.Command[0], Args: req.Command, Dir: "/",
		Env:         append(append(os.Environ(), place.Env...), req.Env...),
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
		// Children that keep the output open delay the end by at most a second.
		WaitDelay: time.Second,
	}
	var input io.WriteCloser
	var console *os.File
	if req.Terminal != nil {
		if console, err = startOnTerminal(cmd, place.Target, req.Terminal); err != nil {
			return 0, err
		}
		defer console.Close()
		input = console
	} else {
		cmd.Stdout, cmd.Stderr = stream{out, frameStdout}, stream{out, frameStderr}
		if input, err = cmd.StdinPipe(); err != nil {
			return 0, err
		}
		if err := place.Target.Start(cmd); err != nil {
			return 0, err
		}
	}
	// Kill the whole session if the peer closes the connection.
	stop := context.AfterFunc(ctx, func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	defer stop()
	go func() {
		defer cancel()
		feed(r, input, console)
	}()
	if console != nil {
		// The copy ends with EIO once the program has closed the terminal.
		_, _ = io.Copy(stream{out, frameStdout}, console)
	}
	return waited(cmd)
}

// waited returns the exit code as a shell reports it.
func waited(cmd *exec.Cmd) (int, error) {
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return 0, nil
	case errors.As(err, &exit):
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal()), nil
		}
		return exit.ExitCode(), nil
	default:
		return 0, err
	}
}

func startOnTerminal(cmd *exec.Cmd, target ns.Target, size *terminal) (*os.File, error) {
	console, tty, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	defer tty.Close()
	if err := pty.Setsize(console, &pty.Winsize{Rows: size.Rows, Cols: size.Columns}); err != nil {
		return nil, errors.Join(err, console.Close())
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr.Setctty = true
	cmd.Env = append(cmd.Env, "TERM="+size.Type)
	if err := target.Start(cmd); err != nil {
		return nil, errors.Join(err, console.Close())
	}
	return console, nil
}

// feed passes the peer's input to the program until the peer closes.
func feed(r io.Reader, input io.WriteCloser, console *os.File) {
	for {
		kind, payload, err := receive(r)
		if err != nil {
			return
		}
		switch kind {
		case frameStdin:
			// A program may ignore its input.
			_, _ = input.Write(payload)
		case frameEOF:
			if console == nil {
				_ = input.Close()
			}
		case frameResize:
			var size terminal
			if console != nil && json.Unmarshal(payload, &size) == nil {
				_ = pty.Setsize(console, &pty.Winsize{Rows: size.Rows, Cols: size.Columns})
			}
		}
	}
}

// Relay answers requests on the listener by forwarding them to another machine.
func Relay(ctx context.Context, listener net.Listener, dial func(context.Context) (net.Conn, error)) error {
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			to, err := dial(ctx)
			if err != nil {
				conn.Close() // the peer sees the connection end
				return
			}
			Splice(conn, to)
		}()
	}
}
