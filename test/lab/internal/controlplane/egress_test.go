package controlplane

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
)

// connect sends the proxy a request, like the API server.
func connect(t *testing.T, socket, method, address string) (net.Conn, *bufio.Reader, *http.Response) {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: egress\r\n\r\n", method, address)
	r := bufio.NewReader(conn)
	response, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	return conn, r, response
}

func TestEgressConnectsFromTheNode(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "egress.sock")
	asked := make(chan string, 3)
	listener, err := serveEgress(socket, func(_ context.Context, network, address string) (net.Conn, error) {
		asked <- network + " " + address
		if address != "10.96.0.1:443" {
			return nil, errors.New("no route to " + address)
		}
		ours, theirs := net.Pipe()
		go func() { // a server that echoes
			defer theirs.Close()
			_, _ = io.Copy(theirs, theirs)
		}()
		return ours, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()

	conn, r, response := connect(t, socket, http.MethodConnect, "10.96.0.1:443")
	if response.StatusCode != http.StatusOK || <-asked != "tcp 10.96.0.1:443" {
		t.Fatalf("answer %s", response.Status)
	}
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := r.ReadString('\n'); err != nil || line != "hello\n" {
		t.Errorf("the connection returned %q, %v", line, err)
	}

	if _, _, response := connect(t, socket, http.MethodConnect, "172.31.1.1:10250"); response.StatusCode != http.StatusBadGateway {
		t.Errorf("CONNECT to an unreachable address: got %s, want 502", response.Status)
	}
	if _, _, response := connect(t, socket, http.MethodGet, "/"); response.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: got %s, want 405", response.Status)
	}
}
