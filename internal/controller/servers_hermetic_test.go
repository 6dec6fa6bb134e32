package controller

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// A client that sends nothing, or half a request, does not keep its connection. The
// servers of controller-runtime close it after 32 seconds.
func TestSilentConnectionsAreClosed(t *testing.T) {
	discard := slog.New(slog.DiscardHandler)
	noCertificate := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("none") }
	health, err := newHealthServer(t.Context(), "127.0.0.1:0", nil, discard)
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := newMetricsServer(t.Context(), "127.0.0.1:0", false, nil, &rest.Config{}, discard)
	if err != nil {
		t.Fatal(err)
	}
	secure, err := newMetricsServer(t.Context(), "127.0.0.1:0", true, noCertificate, &rest.Config{}, discard)
	if err != nil {
		t.Fatal(err)
	}
	webhooks, err := newWebhookServer("127.0.0.1:0", noCertificate, discard).listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, server := range map[string]*manager.Server{"health": health, "metrics": metrics, "secure metrics": secure, "webhooks": webhooks} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			go func() { ended <- server.Start(ctx) }()
			t.Cleanup(func() {
				cancel()
				if err := <-ended; err != nil && !errors.Is(err, http.ErrServerClosed) {
					t.Error(err)
				}
			})
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetReadDeadline(time.Now().Add(25 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, conn); err != nil {
				t.Errorf("the connection is still open: %v", err)
			}
		})
	}
}
