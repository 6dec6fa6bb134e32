//go:build kernel

package bpf

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
)

// request is one use of a socket by a client.
type request struct {
	Name    string
	Type    int    // SOCK_STREAM or SOCK_DGRAM
	Connect bool   // connect() instead of sendto()
	Silent  bool   // no packet, only connect() and getpeername()
	To      string // IPv4, IPv6, or IPv4-mapped IPv6
	Then    string // a second connect()
	Keep    bool   // leave the socket open
	Again   bool   // ask with the open socket of the last request with Keep
	Packets int    // of an unconnected socket; 0 means 1
	Timeout time.Duration
}

// response is what the client saw.
type response struct {
	Error   string
	Peer    string   // by getpeername()
	Answers []string // e.g. "web1 10.0.0.9"
	Sources []string // by recvfrom(); the peer for TCP
}

// client is a process in a control group and the network namespace of a machine. The
// control group of a socket is that of the process that makes it.
type client struct {
	out *json.Encoder
	in  *json.Decoder
}

const (
	clientVariable = "SPIDERPOOL_TEST_CLIENT"
	loaderVariable = "SPIDERPOOL_TEST_LOADER"
)

// TestMain is also the program of a client and of a loader.
func TestMain(m *testing.M) {
	if at, ok := os.LookupEnv(loaderVariable); ok {
		loaderMain(at)
	}
	if os.Getenv(clientVariable) == "" {
		os.Exit(m.Run())
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	var kept int
	for {
		var r request
		if err := in.Decode(&r); err == io.EOF {
			return
		} else if err != nil {
			panic(err)
		}
		if err := out.Encode(r.run(&kept)); err != nil {
			panic(err)
		}
	}
}

// loaderMain is an agent: it loads the programs for "directory group", prints a line and
// waits for its end.
func loaderMain(at string) {
	dir, group, _ := strings.Cut(at, " ")
	p, err := Load(dir, group)
	if err == nil {
		err = errors.Join(p.Replace(both(2)), p.Attach())
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	select {}
}

// runLoader starts a loader, waits until it is ready, and kills it.
func runLoader(t *testing.T, n *node) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), loaderVariable+"="+n.dir+" "+n.group)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if line != "ready\n" {
		t.Fatalf("the loader said %q, %v", line, err)
	}
}

// startClient starts a client on the machine, or on the host for nil.
func startClient(t *testing.T, on *linuxtest.Machine, group string) *client {
	t.Helper()
	dir, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command("/proc/self/exe")
	// Go's signals for preemption would interrupt system calls.
	cmd.Env = append(os.Environ(), clientVariable+"=1", "GODEBUG=asyncpreemptoff=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start := cmd.Start
	if on != nil {
		start = func() error { return on.Do(cmd.Start) }
	}
	if err := start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return &client{json.NewEncoder(in), json.NewDecoder(out)}
}

func (c *client) do(t *testing.T, r request) (out response) {
	t.Helper()
	if err := c.out.Encode(r); err != nil {
		t.Fatal(err)
	}
	if err := c.in.Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

func (r request) run(kept *int) (out response) {
	var err error
	if r.Again {
		err = r.ask(*kept, netip.MustParseAddrPort(r.To), &out)
	} else {
		err = r.exchange(&out, kept)
	}
	if err != nil {
		out.Error = err.Error()
	}
	return out
}

func (r request) exchange(out *response, kept *int) error {
	to := netip.MustParseAddrPort(r.To)
	family := unix.AF_INET6
	if to.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, r.Type, 0)
	if err != nil {
		return err
	}
	if r.Keep {
		*kept = fd
	} else {
		defer unix.Close(fd)
	}
	timeout := r.Timeout
	if timeout == 0 {
		timeout = 5 * time.Second
	}
	limit := unix.NsecToTimeval(int64(timeout))
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &limit); err != nil {
			return err
		}
	}
	if r.Connect {
		if err := unix.Connect(fd, address(to)); err != nil {
			return err
		}
		if r.Then != "" {
			if err := unix.Connect(fd, address(netip.MustParseAddrPort(r.Then))); err != nil {
				return err
			}
		}
		peer, err := unix.Getpeername(fd)
		if err != nil {
			return err
		}
		out.Peer = text(peer)
	}
	if r.Silent {
		return nil
	}
	for range max(1, r.Packets) {
		if err := r.ask(fd, to, out); err != nil {
			return err
		}
	}
	return nil
}

// ask sends a question, unless the server speaks first, and reads one answer.
func (r request) ask(fd int, to netip.AddrPort, out *response) error {
	var err error
	switch {
	case r.Type == unix.SOCK_STREAM:
	case r.Connect:
		_, err = unix.Write(fd, []byte("?"))
	default:
		err = unix.Sendto(fd, []byte("?"), 0, address(to))
	}
	if err != nil {
		return err
	}
	b := make([]byte, 128)
	n, from, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return err
	}
	out.Answers = append(out.Answers, string(b[:n]))
	if r.Type == unix.SOCK_STREAM {
		out.Sources = append(out.Sources, out.Peer)
	} else {
		out.Sources = append(out.Sources, text(from))
	}
	return nil
}

func address(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func text(a unix.Sockaddr) string {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)).String()
	}
	return fmt.Sprintf("%T", a)
}

func contains(err error, part string) bool { return strings.Contains(err.Error(), part) }
