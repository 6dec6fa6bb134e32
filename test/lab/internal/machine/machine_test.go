package machine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fakeGuest is a guest with a single place, this process's own.
type fakeGuest struct {
	upStarted   chan struct{}
	upCancelled chan struct{}
}

func (g fakeGuest) Up(ctx context.Context, out io.Writer) error {
	if _, err := io.WriteString(out, "step one\n"); err != nil {
		return err
	}
	if g.upStarted == nil {
		return errors.New("step two: broken")
	}
	close(g.upStarted)
	<-ctx.Done()
	close(g.upCancelled)
	return ctx.Err()
}

func (fakeGuest) Place(host string) (Place, error) {
	if host != "here" {
		return Place{}, errors.New("no host " + host)
	}
	return Place{Env: []string{"LAB_HOST=" + host}}, nil
}

func (fakeGuest) Status() Status { return Status{Kernel: "6.1", Hosts: []string{"here"}, Up: true} }

func (fakeGuest) Daemon(_ context.Context, name, verb string) error {
	return errors.New(verb + " " + name)
}

// serving serves a guest behind a relay, as with User Mode Linux, and returns a
// client for it.
func serving(t *testing.T, guest Guest) Client {
	t.Helper()
	inner, outer := filepath.Join(t.TempDir(), "in"), filepath.Join(t.TempDir(), "out")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	for path, serve := range map[string]func(net.Listener) error{
		inner: func(l net.Listener) error { return Serve(ctx, l, guest) },
		outer: func(l net.Listener) error { return Relay(ctx, l, At(inner).Connect) },
	} {
		listener, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		go func() { ended <- serve(listener) }()
	}
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Errorf("ended with %v, want the listener closed", err)
			}
		}
	})
	return At(outer)
}

// run runs a command at the fake guest's place.
func run(t *testing.T, c Client, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	code, err := c.Exec(t.Context(), Command{Host: "here", Args: args, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errOut})
	if err != nil {
		t.Fatalf("exec %q: %v", args, err)
	}
	return code, out.String(), errOut.String()
}

func TestExecCarriesStreamsAndExitCode(t *testing.T) {
	t.Parallel()
	c := serving(t, fakeGuest{})
	code, stdout, stderr := run(t, c, "hello", "sh", "-c", "cat; echo $LAB_HOST; echo problem >&2; exit 3")
	if code != 3 || stdout != "hellohere\n" || stderr != "problem\n" {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestExecReportsSignalLikeAShell(t *testing.T) {
	t.Parallel()
	if code, _, _ := run(t, serving(t, fakeGuest{}), "", "sh", "-c", "kill -TERM $$"); code != 128+15 {
		t.Errorf("exit code %d, want 143", code)
	}
}

func TestExecCarriesMoreThanAFrame(t *testing.T) {
	t.Parallel()
	input := strings.Repeat("0123456789abcdef", 3*maxFrame/16)
	if _, stdout, _ := run(t, serving(t, fakeGuest{}), input, "cat"); stdout != input {
		t.Errorf("%d of %d bytes came back", len(stdout), len(input))
	}
}

func TestExecDoesNotWaitForChildren(t *testing.T) {
	t.Parallel()
	start := time.Now()
	if code, _, _ := run(t, serving(t, fakeGuest{}), "", "sh", "-c", "sleep 30 & exit 4"); code != 4 {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("took %s: it waited for the child", took)
	}
}

func TestProgramDiesWithItsCaller(t *testing.T) {
	t.Parallel()
	c := serving(t, fakeGuest{})
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := c.Exec(ctx, Command{Host: "here", Args: []string{"sh", "-c", "echo $$; exec sleep 300"}, Stdout: w, Stderr: io.Discard})
		done <- err
	}()
	pid := make([]byte, 16)
	n, err := r.Read(pid)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("exec ended with %v", err)
	}
	const ended = "for i in $(seq 100); do kill -0 $1 2>/dev/null || exit 0; sleep 0.1; done; exit 1"
	check := []string{"sh", "-c", ended, "sh", strings.TrimSpace(string(pid[:n]))}
	if code, _, _ := run(t, c, "", check...); code != 0 {
		t.Error("the program is still running")
	}
}

func TestUnknownHostAndProgramAreErrors(t *testing.T) {
	t.Parallel()
	c := serving(t, fakeGuest{})
	for _, cmd := range []Command{{Host: "moon", Args: []string{"true"}}, {Host: "here", Args: []string{"no-such-program"}}, {Host: "here"}} {
		cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
		if _, err := c.Exec(t.Context(), cmd); err == nil {
			t.Errorf("exec %+v succeeded", cmd)
		}
	}
}

func TestUpReportsProgressAndError(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	err := serving(t, fakeGuest{}).Up(t.Context(), &out)
	if err == nil || err.Error() != "step two: broken" || out.String() != "step one\n" {
		t.Errorf("error %v after %q", err, out.String())
	}
}

func TestUpIsCancelledWithItsCaller(t *testing.T) {
	t.Parallel()
	guest := fakeGuest{upStarted: make(chan struct{}), upCancelled: make(chan struct{})}
	c := serving(t, guest)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-guest.upStarted
		cancel()
	}()
	if err := c.Up(ctx, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("up ended with %v", err)
	}
	<-guest.upCancelled
}

func TestDialConnectsBothWays(t *testing.T) {
	t.Parallel()
	c := serving(t, fakeGuest{})
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		conn, err := server.Accept()
		if err != nil {
			return
		}
		request, err := io.ReadAll(conn) // until the client closes its half
		if err == nil {
			_, err = conn.Write(append([]byte("echo "), request...))
		}
		if err != nil {
			t.Error(err)
		}
		conn.Close()
	}()
	conn, err := c.Dial(t.Context(), "here", "tcp", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := closeWrite(conn); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); err != nil || string(answer) != "echo hello" {
		t.Errorf("answer %q, %v", answer, err)
	}
}

func TestDialReturnsTheReason(t *testing.T) {
	t.Parallel()
	c := serving(t, fakeGuest{})
	if _, err := c.Dial(t.Context(), "here", "unix", "/no/such/socket"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v", err)
	}
	if _, err := c.Dial(t.Context(), "moon", "tcp", "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "no host moon") {
		t.Errorf("got %v", err)
	}
}

func TestStatusAndDaemonAreAnswered(t *testing.T) {
	t.Parallel()
	c := serving(t, fakeGuest{})
	if status, err := c.Status(t.Context()); err != nil || status.Kernel != "6.1" || !status.Up {
		t.Errorf("status %+v, %v", status, err)
	}
	if err := c.Daemon(t.Context(), "etcd", "kill"); err == nil || err.Error() != "kill etcd" {
		t.Errorf("daemon: %v", err)
	}
}

func TestTooLargeFrameIsRefused(t *testing.T) {
	t.Parallel()
	if _, _, err := receive(bytes.NewReader([]byte{frameStdout, 0xff, 0xff, 0xff, 0xff})); err == nil {
		t.Error("accepted")
	}
}
