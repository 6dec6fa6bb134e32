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
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// statusPatience is the limit for a machine's answer to a status request.
const statusPatience = 10 * time.Second

// Client talks to a running machine, on this kernel or in User Mode Linux.
type Client struct {
	// Connect opens a connection to the machine.
	Connect func(context.Context) (net.Conn, error)
}

// At returns a client for the machine with that socket on this machine.
func At(socket string) Client {
	return Client{Connect: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
}

// Command is a program to run in the lab.
type Command struct {
	// Host is a node, another host, or "" for the machine itself.
	Host string
	// Args are the program, looked up in the host's PATH, and its arguments.
	Args []string
	// Env is added to the host's environment.
	Env    []string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// Terminal requests a terminal if Stdin and Stdout are terminals.
	Terminal bool
}

// Up starts the contents of the machine and writes the progress to out.
func (c Client) Up(ctx context.Context, out io.Writer) error {
	return c.check(c.run(ctx, request{Op: opUp}, nil, out, out))
}

// Daemon runs a verb on a daemon of the lab, named as in Status: "stop" (no restart), "start", or "kill" (a crash,
// followed by a restart). The verb "reboot" restarts a node.
func (c Client) Daemon(ctx context.Context, name, verb string) error {
	return c.check(c.run(ctx, request{Op: opDaemon, Daemon: name, Verb: verb}, nil, io.Discard, io.Discard))
}

func (c Client) check(code int, err error) error {
	if err == nil && code != 0 {
		return fmt.Errorf("exit code %d", code)
	}
	return err
}

// Exec runs a program in the lab and returns its exit code.
func (c Client) Exec(ctx context.Context, cmd Command) (int, error) {
	req := request{Op: opExec, Host: cmd.Host, Command: cmd.Args, Env: cmd.Env}
	in, inIsFile := cmd.Stdin.(*os.File)
	out, outIsFile := cmd.Stdout.(*os.File)
	if cmd.Terminal && inIsFile && outIsFile && term.IsTerminal(int(in.Fd())) && term.IsTerminal(int(out.Fd())) {
		width, height, err := term.GetSize(int(out.Fd()))
		if err != nil {
			return 0, fmt.Errorf("read terminal size: %w", err)
		}
		req.Terminal = &terminal{Rows: uint16(height), Columns: uint16(width), Type: os.Getenv("TERM")}
		before, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return 0, fmt.Errorf("set terminal: %w", err)
		}
		defer term.Restore(int(in.Fd()), before)
	}
	return c.run(ctx, req, cmd.Stdin, cmd.Stdout, cmd.Stderr)
}

// Dial connects to an address from a host of the lab.
func (c Client) Dial(ctx context.Context, host, network, address string) (net.Conn, error) {
	conn, err := c.open(ctx, request{Op: opDial, Host: host, Network: network, Address: address})
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	r := bufio.NewReader(conn)
	var answer reply
	if err := receiveLine(r, &answer); err != nil {
		return nil, errors.Join(fmt.Errorf("dial %s from %s: %w", address, host, err), conn.Close())
	}
	if answer.Error != "" {
		return nil, errors.Join(fmt.Errorf("dial %s from %s: %s", address, host, answer.Error), conn.Close())
	}
	return Buffered{conn, r}, nil
}

// Status returns the state of the machine.
func (c Client) Status(ctx context.Context) (Status, error) {
	var status Status
	ctx, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	conn, err := c.open(ctx, request{Op: opStatus})
	if err != nil {
		return status, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := json.NewDecoder(conn).Decode(&status); err != nil {
		return status, fmt.Errorf("read status: %w", err)
	}
	return status, nil
}

func (c Client) open(ctx context.Context, req request) (net.Conn, error) {
	conn, err := c.Connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("reach the lab (is it up? see `lab status`): %w", err)
	}
	if err := sendLine(conn, req); err != nil {
		return nil, errors.Join(fmt.Errorf("reach the lab: %w", err), conn.Close())
	}
	return conn, nil
}

// run sends a request and carries its streams until the end. If ctx ends, run closes the connection, and the machine
// cancels the request.
func (c Client) run(ctx context.Context, req request, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	conn, err := c.open(ctx, req)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	out := &frames{w: conn}
	if req.Terminal != nil {
		defer forwardResizes(out)()
	}
	// A read of standard input cannot be interrupted. This goroutine ends with the
	// input or the process.
	go sendInput(out, stdin)
	for {
		kind, payload, err := receive(conn)
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err != nil {
			return 0, fmt.Errorf("the lab ended the request: %w", err)
		}
		switch kind {
		case frameStdout:
			_, err = stdout.Write(payload)
		case frameStderr:
			_, err = stderr.Write(payload)
		case frameError:
			return 0, errors.New(string(payload))
		case frameExit:
			return int(int32(binary.BigEndian.Uint32(payload))), nil
		}
		if err != nil {
			return 0, err
		}
	}
}

func sendInput(out *frames, stdin io.Reader) {
	if stdin != nil {
		// An error means that the request has ended; run returns the reason.
		_, _ = io.Copy(stream{out, frameStdin}, stdin)
	}
	_ = out.send(frameEOF, nil)
}

// forwardResizes sends the new size of this terminal after each change.
func forwardResizes(out *frames) (stop func()) {
	changed := make(chan os.Signal, 1)
	done := make(chan struct{})
	signal.Notify(changed, unix.SIGWINCH)
	go func() {
		for {
			select {
			case <-done:
				return
			case <-changed:
				width, height, err := term.GetSize(int(os.Stdout.Fd()))
				if err != nil {
					continue
				}
				size, err := json.Marshal(terminal{Rows: uint16(height), Columns: uint16(width)})
				if err == nil {
					// See sendInput.
					_ = out.send(frameResize, size)
				}
			}
		}
	}()
	return func() { signal.Stop(changed); close(done) }
}
