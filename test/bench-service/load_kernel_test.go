//go:build kernel

package benchservice

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
)

// The first byte of a connection tells the server what to do with the rest.
const (
	stream = 's' // read and count
	echo   = 'e' // send back each message
	once   = 'o' // send back the byte, then end
)

const (
	serverPort  = 9000
	messageSize = 64 // bytes
	// loadVariable makes the test binary a server or a client.
	loadVariable = "SPIDERPOOL_BENCH_LOAD"
)

// figures are one measurement of one path.
type figures struct {
	Gbit        float64 // of one TCP stream, per second
	P50         float64 // µs for a request of 64 bytes and its answer
	Connections float64 // per second, one after the other, each with one byte and its answer
}

// TestMain is also the program of servers and clients.
func TestMain(m *testing.M) {
	switch load := os.Getenv(loadVariable); load {
	case "":
		os.Exit(m.Run())
	case "server":
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin) // until the end of the benchmark, also by a signal
			os.Exit(0)
		}()
		fmt.Fprintln(os.Stderr, serve())
		os.Exit(1)
	default:
		if load[0] != '{' {
			if err := runHelper(load); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
		var o order
		if err := json.Unmarshal([]byte(load), &o); err != nil {
			panic(err)
		}
		f, err := o.run()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		_ = json.NewEncoder(os.Stdout).Encode(f)
	}
}

// serve answers with blocking sockets: Go's poller would be part of the time. One
// connection after the other is answered at once; others have a thread each.
func serve() error {
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = errors.Join(unix.Bind(l, &unix.SockaddrInet4{Port: serverPort}), unix.Listen(l, 128))
	b := make([]byte, 1)
	for err == nil {
		var fd int
		if fd, _, err = unix.Accept4(l, unix.SOCK_CLOEXEC); err != nil {
			return err
		}
		if n, _ := unix.Read(fd, b); n == 1 && b[0] != once {
			go answer(fd, b[0])
			continue
		}
		_, _ = unix.Write(fd, b)
		unix.Close(fd)
	}
	return err
}

func answer(fd int, kind byte) {
	runtime.LockOSThread()
	defer unix.Close(fd)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	b := make([]byte, 1<<17)
	for {
		n, err := unix.Read(fd, b)
		if err != nil || n == 0 {
			return
		}
		if kind == echo { // a message is one segment
			if _, err := unix.Write(fd, b[:n]); err != nil {
				return
			}
		}
	}
}

// order is what a client measures.
type order struct {
	Address  [4]byte
	Port     int
	Duration time.Duration // of each figure
	CPU      int           // of the client
}

// dial connects with a blocking socket: Go's poller would be part of the time.
func (o order) dial(kind byte) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		// The end of a connection is a reset. TIME_WAIT would use up the client's ports, and connection
		// tracking keeps a reset connection for 10 s instead of 120 s.
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 5}),
	)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: o.Port, Addr: o.Address})
	}
	if err == nil {
		_, err = unix.Write(fd, []byte{kind})
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect: %w", err)
	}
	return fd, nil
}

func (o order) run() (f figures, err error) {
	if f.Connections, err = o.connections(); err == nil {
		if f.P50, err = o.latency(); err == nil {
			f.Gbit, err = o.throughput()
		}
	}
	return f, err
}

func (o order) connections() (float64, error) {
	began, n := time.Now(), 0
	b := make([]byte, 1)
	for ; time.Since(began) < o.Duration; n++ {
		fd, err := o.dial(once)
		if err != nil {
			return 0, err
		}
		got, err := unix.Read(fd, b)
		unix.Close(fd)
		if err != nil || got != 1 {
			return 0, fmt.Errorf("answer %d bytes, %w", got, err)
		}
	}
	return float64(n) / time.Since(began).Seconds(), nil
}

func (o order) latency() (float64, error) {
	fd, err := o.dial(echo)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	b := make([]byte, messageSize)
	var took []time.Duration
	for began := time.Now(); time.Since(began) < o.Duration; {
		sent := time.Now()
		if _, err := unix.Write(fd, b); err != nil {
			return 0, err
		}
		for got := 0; got < len(b); {
			n, err := unix.Read(fd, b[got:])
			if err != nil || n == 0 {
				return 0, fmt.Errorf("answer ends after %d bytes: %w", got, err)
			}
			got += n
		}
		took = append(took, time.Since(sent))
	}
	slices.Sort(took)
	return float64(took[len(took)/2].Nanoseconds()) / 1000, nil
}

func (o order) throughput() (float64, error) {
	fd, err := o.dial(stream)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	b := make([]byte, 1<<17)
	began, sent := time.Now(), 0
	for time.Since(began) < o.Duration {
		n, err := unix.Write(fd, b)
		if err != nil {
			return 0, err
		}
		sent += n
	}
	return float64(sent) * 8 / time.Since(began).Seconds() / 1e9, nil
}

// lastCPU is the machine's last processor. Clients and servers of services share it:
// otherwise the scheduler decides how long a request takes, because a processor of a
// virtual machine wakes up slowly.
func lastCPU() int { return runtime.NumCPU() - 1 }

// pinned is this program on one processor.
func pinned(cpu int) *exec.Cmd {
	return exec.Command("taskset", "--cpu-list", strconv.Itoa(cpu), "/proc/"+strconv.Itoa(os.Getpid())+"/exe")
}

// startServer runs a server in the pod until the end of the test.
func startServer(tb testing.TB, pod *linuxtest.Machine) {
	tb.Helper()
	cmd := pinned(lastCPU())
	cmd.Env = append(os.Environ(), loadVariable+"=server", "GODEBUG=asyncpreemptoff=1")
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	start(tb, pod, cmd)
}

// start starts a program in the machine and kills it at the end of the test.
func start(tb testing.TB, on *linuxtest.Machine, cmd *exec.Cmd) {
	tb.Helper()
	if err := on.Do(cmd.Start); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// measure runs a client in the pod, in a control group unless it is "".
func (o order) measure(pod *linuxtest.Machine, group string) (f figures, err error) {
	text, err := json.Marshal(o)
	if err != nil {
		return f, err
	}
	cmd := pinned(o.CPU)
	cmd.Env = append(os.Environ(), loadVariable+"="+string(text), "GODEBUG=asyncpreemptoff=1")
	cmd.Stderr = os.Stderr
	if group != "" {
		dir, err := os.Open(group)
		if err != nil {
			return f, err
		}
		defer dir.Close()
		cmd.SysProcAttr = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	}
	var out []byte
	err = pod.Do(func() (err error) {
		out, err = cmd.Output()
		return err
	})
	if err != nil {
		return f, err
	}
	return f, json.Unmarshal(out, &f)
}
