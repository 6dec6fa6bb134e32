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
	"time"

	"google.golang.org/grpc/credentials"
	certutil "k8s.io/client-go/util/cert"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/rpc/hubble"
	"spiderpool.dev/spiderpool/internal/service"
)

// flowServer serves the flows of a ring like an agent until the end of the test, and returns a watch of them.
func flowServer(t *testing.T, ring *flow.Ring) *flowWatch {
	t.Helper()
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
	ctx, stop := context.WithCancel(context.Background())
	server := &hubble.Server{Observer: hubble.NewObserver(ring, func(context.Context, *flow.Flow) {}, hubble.About{Node: "n1"})}
	ended := make(chan error)
	go func() {
		ended <- server.Serve(ctx, listener, credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}))
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return newFlowWatch(config.ConsoleFlows{Server: listener.Addr().String(), ServerName: "relay", CertDir: dir}, slog.New(slog.DiscardHandler))
}

// toWeb is a flow from a port of a host outside the cluster to a pod.
func toWeb(port uint16) flow.Flow {
	web := &flow.End{Pod: lease.PodKey{Namespace: "shop", Name: "web-0"}, UID: "u", Workload: flow.Workload{Kind: "Deployment", Name: "web"}}
	from := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port)
	return flow.Flow{Event: flow.Event{Time: threeAtNight(), Protocol: service.TCP, Source: from, Destination: netip.MustParseAddrPort("10.6.0.2:80")}, Opener: &flow.End{}, Target: web}
}

// until waits for a condition that the stream of flows makes true.
func until(t *testing.T, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for !condition() {
		select {
		case <-ctx.Done():
			t.Fatal("the condition does not come true")
		case <-look.C:
		}
	}
}

// TestFlowsComeFromHubbleServer follows the agents' own server of flows.
func TestFlowsComeFromHubbleServer(t *testing.T) {
	ring := flow.NewRing(16)
	ring.Add(toWeb(40000))
	w := flowServer(t, ring)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- w.run(ctx) }()
	until(t, func() bool {
		flows, fault := w.latest()
		return fault == "" && len(flows) == 1 && flows[0].Destination.Group() == "shop/Deployment/web" && flows[0].Source.Group() == "outside" && flows[0].At.Equal(threeAtNight())
	})
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestNewStreamRepeatsNoFlow connects twice. The second stream begins with the flow of the first one.
func TestNewStreamRepeatsNoFlow(t *testing.T) {
	ring := flow.NewRing(16)
	w := flowServer(t, ring)
	for port := uint16(40000); port < 40002; port++ {
		ring.Add(toWeb(port))
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- w.follow(ctx) }()
		until(t, func() bool {
			flows, _ := w.latest()
			return len(flows) > 0 && flows[0].Source.Port == uint32(port)
		})
		stop()
		<-ended
	}
	if flows, _ := w.latest(); len(flows) != 2 {
		t.Errorf("%d flows after two streams of two flows", len(flows))
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
	for range maxFlows/7*2 + 50 {
		someFlows(w)
	}
	flows, _ := w.latest()
	if len(flows) != maxFlows || len(w.mu.flows) > 2*maxFlows {
		t.Errorf("%d flows for a page, %d in memory", len(flows), len(w.mu.flows))
	}
}
