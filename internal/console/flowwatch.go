package console

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/process/httpserver"
	"spiderpool.dev/spiderpool/internal/view"
)

const (
	// maxFlows is the number of flows for pages. Twice as many are in memory, so that most new ones move no others.
	maxFlows = 2000
	// flowRetry is the time between two attempts to reach the server of flows.
	flowRetry = 10 * time.Second
)

// flowWatch follows the flows of hubble-relay once for all pages.
type flowWatch struct {
	cfg config.ConsoleFlows
	log *slog.Logger
	mu  struct {
		sync.Mutex
		flows []view.Flow // the oldest first
		// fault says why there are no new flows; "" while connected.
		fault string
	}
}

func newFlowWatch(cfg config.ConsoleFlows, log *slog.Logger) *flowWatch {
	w := &flowWatch{cfg: cfg, log: log}
	w.mu.fault = "not connected yet"
	return w
}

// enabled reports whether there is a server of flows.
func (w *flowWatch) enabled() bool { return w.cfg.Server != "" }

// latest returns the last flows, the newest first, and why there are no new ones; "" if there are.
func (w *flowWatch) latest() (flows []view.Flow, fault string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	flows = slices.Clone(w.mu.flows[max(0, len(w.mu.flows)-maxFlows):])
	slices.Reverse(flows)
	return flows, w.mu.fault
}

// run follows the flows until ctx ends.
func (w *flowWatch) run(ctx context.Context) error {
	if !w.enabled() {
		return nil
	}
	for ctx.Err() == nil {
		err := w.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		w.fault(fmt.Sprintf("no flows from %s: %s", w.cfg.Server, status.Convert(err).Message()))
		w.log.WarnContext(ctx, "cannot follow flows", "server", w.cfg.Server, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(flowRetry):
		}
	}
	return nil
}

func (w *flowWatch) fault(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.fault = text
}

// follow connects and receives flows until an error. It reads the certificate again, because it changes. A new stream begins
// with the last flows, so it replaces those of the last stream.
func (w *flowWatch) follow(ctx context.Context) error {
	tls, err := httpserver.ClientTLS(w.cfg.CertDir, w.cfg.ServerName)
	if err != nil {
		return fmt.Errorf("read the client certificate: %w", err)
	}
	conn, err := grpc.NewClient(w.cfg.Server, grpc.WithTransportCredentials(credentials.NewTLS(tls)))
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := observerpb.NewObserverClient(conn).GetFlows(ctx, &observerpb.GetFlowsRequest{Follow: true, Number: maxFlows})
	for first := true; err == nil; first = false {
		var answer *observerpb.GetFlowsResponse
		if answer, err = stream.Recv(); err != nil {
			break
		}
		if first {
			w.forget()
		}
		w.receive(answer)
	}
	return err
}

func (w *flowWatch) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.flows = nil
}

// receive adds a flow. Other answers tell about lost events and the nodes of hubble-relay.
func (w *flowWatch) receive(answer *observerpb.GetFlowsResponse) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.fault = ""
	f := answer.GetFlow()
	if f == nil {
		return
	}
	if len(w.mu.flows) == 2*maxFlows {
		w.mu.flows = append(w.mu.flows[:0], w.mu.flows[maxFlows:]...)
	}
	w.mu.flows = append(w.mu.flows, view.FlowOf(f))
}
