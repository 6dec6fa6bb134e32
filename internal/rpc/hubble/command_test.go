//go:build apiserver

package hubble

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/process/httpserver"
)

// The tests run the unmodified programs of Cilium's module; make bin/hubble bin/hubble-relay builds them.

// program returns the path of a program in bin.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "..", "bin", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run make bin/%s", err, name)
	}
	return path
}

// hubble runs the hubble command and returns its output.
func hubble(t *testing.T, server string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t, "hubble"), append([]string{"--server", server}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("hubble %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func TestHubbleCommandReadsFlows(t *testing.T) {
	ring := flow.NewRing(8)
	ring.Add(request(0), denied(1), request(2))
	socket := filepath.Join(t.TempDir(), "hubble.sock")
	start(t, &Server{Observer: NewObserver(ring, complete, About{Node: "n1", Version: "v1", Domain: "cluster.local"})}, listen(t, "unix", socket), nil)
	server := "unix://" + socket

	for name, c := range map[string]struct {
		args []string
		want []string
	}{
		"status":     {[]string{"status"}, []string{"Ok", "3/8"}},
		"nodes":      {[]string{"list", "nodes"}, []string{"n1", "Connected"}},
		"namespaces": {[]string{"list", "namespaces"}, []string{"default"}},
		"all":        {[]string{"observe", "--last", "9", "-o", "compact"}, []string{"default/client:40000", "-> default/nginx:80", "to-network FORWARDED (TCP Flags: SYN; dialled 10.96.0.9:8080)"}},
		"dropped":    {[]string{"observe", "--verdict", "DROPPED", "-o", "compact"}, []string{"[2001:db8::5]:5000 (world)", "DROPPED"}},
		"filters":    {[]string{"observe", "--from-pod", "default/client", "--to-label", "app=nginx", "--to-service", "default/web", "--protocol", "tcp", "--to-port", "80", "--tcp-flags", "SYN", "--node-name", "n1", "--type", "trace", "-o", "compact"}, []string{"default/client:40002"}},
		"table":      {[]string{"observe", "--last", "1"}, []string{"default/nginx:80"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := hubble(t, server, c.args...)
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("hubble %v prints\n%s\nwant %q in it", c.args, got, want)
				}
			}
		})
	}
	if got := hubble(t, server, "observe", "--to-pod", "shop/", "-o", "json"); strings.Contains(got, "flow") {
		t.Errorf("another namespace: %s", got)
	}
}

func TestHubbleCommandFollows(t *testing.T) {
	ring := flow.NewRing(8)
	socket := filepath.Join(t.TempDir(), "hubble.sock")
	start(t, &Server{Observer: NewObserver(ring, complete, About{Node: "n1"})}, listen(t, "unix", socket), nil)
	cmd := exec.CommandContext(t.Context(), program(t, "hubble"), "--server", "unix://"+socket, "observe", "--pod", "default/nginx", "--follow", "--since", "24h", "-o", "json")
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	now := request(0)
	now.Time = time.Now()
	ring.Add(now)
	lines := bufio.NewScanner(out)
	for number := range 2 {
		if !lines.Scan() {
			t.Fatalf("the command ended: %v", lines.Err())
		}
		var line struct {
			Flow struct {
				Verdict     string
				Destination struct{ PodName string } `json:"destination"`
				L4          struct {
					TCP struct {
						Port int `json:"source_port"`
					}
				} `json:"l4"`
			} `json:"flow"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil || line.Flow.Verdict != "FORWARDED" || line.Flow.L4.TCP.Port != 40000+number {
			t.Errorf("line %s: %v", lines.Bytes(), err)
		}
		next := request(1)
		next.Time = time.Now()
		ring.Add(next)
	}
}

// TestRelayJoinsNodes runs hubble-relay on two agents with mutual TLS.
func TestRelayJoinsNodes(t *testing.T) {
	const name = "spiderpool-agent-flows.kube-system.svc"
	var ca authority
	servers := ca.issue(t, x509.ExtKeyUsageServerAuth, name, "hubble-peer.default.hubble-grpc.cilium.io")
	client := ca.issue(t, x509.ExtKeyUsageClientAuth, "relay")
	var members []Member
	peers := NewPeers(func(ctx context.Context, changed func(Member) error) error {
		for _, m := range members {
			if err := changed(m); err != nil {
				return err
			}
		}
		<-ctx.Done()
		return context.Cause(ctx)
	}, name)
	for n := range 2 {
		ring, node := flow.NewRing(8), fmt.Sprint("n", n)
		ring.Add(request(n))
		listener := listen(t, "tcp", "127.0.0.1:0")
		server := &Server{Observer: NewObserver(ring, complete, About{Node: node}), Peers: peers}
		members = append(members, Member{Node: node, Address: listener.Addr().String()})
		start(t, server, listener, credentials.NewTLS(httpserver.NewKeyPair(servers).Mutual()))
	}
	at := freeAddress(t)
	relay := exec.CommandContext(t.Context(), program(t, "hubble-relay"), "serve", "--peer-service", members[0].Address, "--listen-address", at, "--disable-server-tls",
		"--health-listen-address", freeAddress(t), "--gops=false", "--sort-buffer-drain-timeout", "100ms",
		"--tls-hubble-client-cert-file", filepath.Join(client, "tls.crt"), "--tls-hubble-client-key-file", filepath.Join(client, "tls.key"),
		"--tls-hubble-server-ca-files", filepath.Join(servers, "ca.crt"))
	log, err := os.Create(filepath.Join(t.TempDir(), "relay.log"))
	if err != nil {
		t.Fatal(err)
	}
	relay.Stdout, relay.Stderr = log, log
	if err := relay.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = relay.Process.Kill()
		_ = relay.Wait()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("hubble-relay:\n%s", text)
		}
	})
	deadline := time.Now().Add(time.Minute)
	for {
		cmd := exec.CommandContext(t.Context(), program(t, "hubble"), "--server", at, "list", "nodes")
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if err == nil && strings.Count(string(out), "Connected") == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("hubble list nodes: %v\n%s", err, out)
		}
		time.Sleep(100 * time.Millisecond)
	}
	got := hubble(t, at, "observe", "--to-pod", "default/nginx", "--last", "9", "-o", "compact", "--print-node-name")
	for _, want := range []string{"40000", "40001", "n0", "n1"} {
		if !strings.Contains(got, want) {
			t.Errorf("hubble observe prints\n%s\nwant %q in it", got, want)
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener := listen(t, "tcp", "127.0.0.1:0")
	defer listener.Close()
	return listener.Addr().String()
}
