package pathprobe

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"spiderpool.dev/spiderpool/internal/reach"
)

func TestErrorsAreClassified(t *testing.T) {
	for err, want := range map[error]reach.Fault{
		&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}: reach.Refused,
		os.NewSyscallError("connect", syscall.ENETUNREACH):                                 reach.NoRoute,
		os.NewSyscallError("connect", syscall.EHOSTUNREACH):                                reach.NoNeighbor,
		os.NewSyscallError("write", syscall.EPERM):                                         reach.Prohibited,
		os.NewSyscallError("write", syscall.EMSGSIZE):                                      reach.TooBig,
		fmt.Errorf("read: %w", os.ErrDeadlineExceeded):                                     reach.Silent,
		errors.New("server misbehaves"):                                                    reach.Failed,
	} {
		if got := faultOf(err); got != want {
			t.Errorf("%v: got %q, want %q", err, got, want)
		}
	}
}

func TestForeignAnswerHasNoServer(t *testing.T) {
	for text, want := range map[string]reach.Answer{
		"last-0 10.6.0.5\n":              {Server: "last-0", From: netip.MustParseAddr("10.6.0.5")},
		"last-0 fd00::5\n\x00\x00\x00":   {Server: "last-0", From: netip.MustParseAddr("fd00::5")},
		"":                               {},
		"HTTP/1.1 400 Bad Request\r\n":   {},
		"220 mail.example.org ESMTP\r\n": {},
	} {
		if got := answerIn([]byte(text)); got != want {
			t.Errorf("%q: got %+v, want %+v", text, got, want)
		}
	}
}

func TestAnswerIsAsLongAsQuestion(t *testing.T) {
	s, client := &Server{name: "last-0"}, &net.UDPAddr{IP: net.ParseIP("10.6.0.5"), Port: 4000}
	for _, length := range []int{1, questionLength - 1, questionLength, 1472} {
		question := bytes.Repeat([]byte{'x'}, length)
		answer := s.fill(question, client)
		if length < questionLength {
			if answer != nil {
				t.Errorf("%d bytes: got an answer", length)
			}
			continue
		}
		if len(answer) != length || !bytes.HasPrefix(answer, []byte("last-0 10.6.0.5\n\x00")) || bytes.Contains(answer, []byte("x")) {
			t.Errorf("%d bytes: got %d bytes, %q", length, len(answer), answer[:questionLength])
		}
	}
}

func TestDNSAnswersAreChecked(t *testing.T) {
	for code, ok := range map[dnsmessage.RCode]bool{dnsmessage.RCodeSuccess: true, dnsmessage.RCodeNameError: false, dnsmessage.RCodeServerFailure: false} {
		message := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, Response: true, RCode: code}}
		packed, err := message.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if err := checkDNS(packed, false); (err == nil) != ok {
			t.Errorf("%s: %v", code, err)
		}
		if err := checkDNS(append([]byte{0, byte(len(packed))}, packed...), true); (err == nil) != ok {
			t.Errorf("%s by TCP: %v", code, err)
		}
	}
	for _, garbage := range []string{"", "\x00", "HTTP"} {
		if checkDNS([]byte(garbage), false) == nil || checkDNS([]byte(garbage), true) == nil {
			t.Errorf("%q is no answer", garbage)
		}
	}
}

func TestNameServersOfPod(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("search default.svc.cluster.local\nnameserver 10.96.0.10\nnameserver fd00::a\nnameserver\noptions ndots:5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := nameServers(file), []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00::a")}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := nameServers(filepath.Join(t.TempDir(), "missing")); got != nil {
		t.Errorf("without a file: got %v", got)
	}
}
