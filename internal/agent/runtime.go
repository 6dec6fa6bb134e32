package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"spiderpool.dev/spiderpool/internal/wire"
)

const (
	// runtimeInterval is the time between two questions to the container runtime when
	// nothing else asks it.
	runtimeInterval = time.Minute
	// runtimePatience is how long the runtime may be silent before an event, e.g. during
	// its upgrade.
	runtimePatience = 30 * time.Second
	// runtimeReminder is the time between two events about a runtime that stays silent.
	// Kubernetes forgets an event after an hour.
	runtimeReminder = 30 * time.Minute
)

// runtimeHealth is the latest answer of the container runtime. Without one, the agent
// stays ready, because ADD and DEL do not need the runtime; but it reclaims no address
// whose DEL was lost (ADR 8).
type runtimeHealth struct {
	now  func() time.Time
	log  *slog.Logger
	warn func(fault string) // writes an event

	mu     sync.Mutex
	socket string    // of the runtime that answered last
	fault  error     // nil if the runtime answers, or nothing has asked it yet
	last   time.Time // time of the last answer; zero if none
	since  time.Time // start of the faults
	warned time.Time // time of the last event since then; zero if none
}

// observe notes an answer (criclient.Runtime.Asked).
func (h *runtimeHealth) observe(socket string, fault error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	switch {
	case fault == nil && h.fault != nil:
		h.log.Info("the container runtime answers again", "socket", socket)
		h.warned = time.Time{}
	case fault != nil && h.fault == nil:
		h.since = now
	}
	h.socket, h.fault = socket, fault
	if fault == nil {
		h.last = now
	}
	if fault == nil || now.Sub(h.since) < runtimePatience || !h.warned.IsZero() && now.Sub(h.warned) < runtimeReminder {
		return
	}
	h.warned = now
	h.log.Warn("cannot ask the container runtime; no address is reclaimed without a DEL", "err", fault)
	h.warn(fault.Error())
}

// answers reports whether the runtime answered last.
func (h *runtimeHealth) answers() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fault == nil
}

// lastAnswer returns the time of the last answer; zero if the runtime has never answered.
func (h *runtimeHealth) lastAnswer() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// reply is the answer for spiderpoolctl.
func (h *runtimeHealth) reply() wire.RuntimeReply {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fault != nil {
		return wire.RuntimeReply{Fault: h.fault.Error()}
	}
	return wire.RuntimeReply{Socket: h.socket}
}

// askRuntime asks the runtime regularly until ctx ends, so that health knows of a silent one
// before an address is missing.
func (a *agent) askRuntime(ctx context.Context) {
	tick := time.NewTicker(runtimeInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		_, _ = a.service.Runtime.Sandboxes(ctx) // runtimeHealth.observe gets the error
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}
