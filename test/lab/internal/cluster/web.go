package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"time"

	"spiderpool.dev/spiderpool/test/lab/internal/ns"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// serveInternet starts a web server on the internet host. It answers with the client's
// address, so that tests can tell the NAT gateway's address from a pod's.
func (c *Cluster) serveInternet(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.internet != nil {
		return nil
	}
	target := ns.Target{Net: filepath.Join("/run/netns", topology.HostNamespace(c.Topology.Internet.Host))}
	listener, err := target.Listen(ctx, "tcp", ":80")
	if err != nil {
		return err
	}
	c.internet = listener
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, client.Addr().Unmap())
	})}
	go func() { _ = server.Serve(listener) }() // ends when listener closes
	return nil
}

func (c *Cluster) closeInternet(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.internet == nil {
		return nil
	}
	err := c.internet.Close()
	c.internet = nil
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
