package console

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/credentials"
	certutil "k8s.io/client-go/util/cert"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/rpc/hubble"
)

// TestFlowsComeFromHubbleServer follows the agents' own server of flows.
func TestFlowsComeFromHubbleServer(t *testing.T) {
	dir := t.TempDir()
	certificate, key, err := certutil.GenerateSelfSignedCertKey("relay", nil, nil)
	for file, content := range map[string][]byte{"tls.crt": certificate, "tls.key": key, "ca.crt": certificate} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, file), content, 0o600))
	}
	pair, fault := tls.X509KeyPair(certificate, key)
	listener, closed := net.Listen("tcp", "127.0.0.1:0")
	if err := errors.Join(err, fault, closed); err != nil {
		t.Fatal(err)
	}
	ring := flow.NewRing(16)
	web := &flow.End{Pod: lease.PodKey{Namespace: "shop", Name: "web-0"}, UID: "u", Workload: flow.Workload{Kind: "Deployment", Name: "web"}}
	ring.Add(flow.Flow{Event: flow.Event{Time: threeAtNight(), Source: netip.MustParseAddrPort("192.0.2.1:40000"), Destination: netip.MustParseAddrPort("10.6.0.2:80")}, Opener: &flow.End{}, Target: web})
	ctx, stop := context.WithCancel(t.Context())
	server := &hubble.Server{Observer: hubble.NewObserver(ring, func(context.Context, *flow.Flow) {}, hubble.About{Node: "n1"})}
	ended := make(chan error, 2)
	go func() {
		ended <- server.Serve(ctx, listener, credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}))
	}()
	w := newFlowWatch(config.ConsoleFlows{Server: listener.Addr().String(), ServerName: "relay", CertDir: dir}, slog.New(slog.DiscardHandler))
	go func() { ended <- w.run(ctx) }()
	until(t, func() bool {
		flows, fault := w.latest()
		return fault == "" && len(flows) == 1 && flows[0].Destination.Group() == "shop/Deployment/web" && flows[0].Source.Group() == "outside" && flows[0].At.Equal(threeAtNight())
	})
	stop()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestMissingFlowServerIsNamed(t *testing.T) {
	w := newFlowWatch(config.ConsoleFlows{Server: "relay.example:443", CertDir: t.TempDir()}, slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- w.run(ctx) }()
	until(t, func() bool {
		_, fault := w.latest()
		return strings.Contains(fault, "relay.example:443") && strings.Contains(fault, "client certificate")
	})
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestFlowsInMemoryAreBounded(t *testing.T) {
	w := newFlowWatch(config.ConsoleFlows{}, slog.New(slog.DiscardHandler))
	for range maxFlows/7 + 50 {
		someFlows(w)
	}
	flows, _ := w.latest()
	if len(flows) != maxFlows {
		t.Errorf("%d flows in memory", len(flows))
	}
}
