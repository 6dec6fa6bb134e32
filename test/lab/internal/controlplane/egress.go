package controlplane

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"spiderpool.dev/spiderpool/test/lab/internal/machine"
)

const (
	egressSocket = "egress.sock"
	egressConfig = "egress.yaml"
)

// egressYAML sends the API server's connections to the cluster through the socket; see
// https://kubernetes.io/docs/tasks/extend-kubernetes/setup-konnectivity.
const egressYAML = `apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
- name: cluster
  connection:
    proxyProtocol: HTTPConnect
    transport: {uds: {udsName: %q}}
- name: controlplane
  connection: {proxyProtocol: Direct}
`

type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// serveEgress answers HTTP CONNECT requests (RFC 9110, section 9.3.6) on a Unix
// socket until the listener is closed. It opens the connections with dial.
func serveEgress(socket string, dial dialer) (net.Listener, error) {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: dial, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }() // ends when listener closes
	return listener, nil
}

// ServeHTTP implements http.Handler.
func (dial dialer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "this is a proxy: CONNECT host:port", http.StatusMethodNotAllowed)
		return
	}
	to, err := dial(r.Context(), "tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	from, read, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, errors.Join(err, to.Close()).Error(), http.StatusInternalServerError)
		return
	}
	// If this write fails, the API server has gone; Splice notices that too.
	_, _ = io.WriteString(from, "HTTP/1.1 200 Connection established\r\n\r\n")
	machine.Splice(machine.Buffered{Conn: from, Reader: read.Reader}, to)
}
