package walk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

const (
	// checkEvery is the time between two looks at the addresses of pods.
	checkEvery = time.Second
	// routesLag is the longest time until a change of routes reaches this program.
	routesLag = 2 * time.Second
)

var errUnrouted = errors.New("a pod has an address that the VPC does not route")

// routeWatch checks all the time that the VPC routes the addresses of pods. It follows the routes as the cloud changes them.
type routeWatch struct {
	*manage
	mu struct {
		sync.Mutex
		states []routesAt // in their order; old ones end up forgotten
	}
	changed                 chan struct{} // receives after a change of routes
	assigned, returned      int           // pieces
	checks, addresses, most int
	pods                    map[string]bool // by UID
}

// routesAt are the routes since a time.
type routesAt struct {
	cloudState
	since time.Time
}

// holding is an address that a pod has.
type holding struct {
	addr      netip.Addr
	node, pod string
}

func newRouteWatch(m *manage) *routeWatch {
	return &routeWatch{manage: m, pods: map[string]bool{}, changed: make(chan struct{}, 1)}
}

// String tells what the watch has seen.
func (w *routeWatch) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("%d checks of %d addresses, at most %d at a time, of %d pods; the cloud assigned %d pieces and took %d back", w.checks, w.addresses, w.most, len(w.pods), w.assigned, w.returned)
}

// follow reads the routes until the end of ctx.
func (w *routeWatch) follow(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, w.Binary, "exec", cloudHost, "--", "curl", "-sSN", cloudURL+"lab/state?follow")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return err
	}
	for lines := json.NewDecoder(out); ; {
		var state cloudState
		if err := lines.Decode(&state); err != nil {
			return errors.Join(fmt.Errorf("follow the routes of the cloud: %w", err), cmd.Wait())
		}
		w.add(state)
	}
}

func (w *routeWatch) add(state cloudState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.mu.states); n > 0 {
		former := w.mu.states[n-1].Routes
		w.assigned += missingFrom(former, state.Routes)
		w.returned += missingFrom(state.Routes, former)
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
	w.mu.states = append(w.mu.states, routesAt{state, time.Now()})
	// Only the states of the last checks matter.
	for len(w.mu.states) > 1 && time.Since(w.mu.states[1].since) > time.Minute {
		w.mu.states = w.mu.states[1:]
	}
}

// missingFrom counts the routes of other that routes lacks.
func missingFrom(routes, other []cloudRoute) (n int) {
	for _, r := range other {
		if !slices.Contains(routes, r) {
			n++
		}
	}
	return n
}

// check looks at the addresses of pods until the end of ctx. It judges each look after routesLag.
func (w *routeWatch) check(ctx context.Context) error {
	var errs []error
	for pause(ctx, checkEvery) {
		from := time.Now()
		held, err := w.holdings(ctx)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			return err
		}
		if !pause(ctx, routesLag) {
			break
		}
		for _, h := range held {
			if !w.routedSince(from.Add(-routesLag), h) {
				errs = append(errs, fmt.Errorf("%w: %s of pod %s on node %s", errUnrouted, h.addr, h.pod, h.node))
			}
		}
		if len(errs) > 0 {
			return errors.Join(errs...)
		}
		w.checks, w.addresses, w.most = w.checks+1, w.addresses+len(held), max(w.most, len(held))
	}
	return nil
}

// routedSince reports whether the VPC has routed an address to the node of its pod at any time since another. Before the first
// routes are known, all are.
func (w *routeWatch) routedSince(since time.Time, h holding) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, s := range w.mu.states {
		if ended := i+1 < len(w.mu.states) && w.mu.states[i+1].since.Before(since); !ended && s.routed(w.instances[h.node], h.addr) {
			return true
		}
	}
	return len(w.mu.states) == 0
}

// holdings returns the addresses in use by the leases, and those in the status of running pods.
func (w *routeWatch) holdings(ctx context.Context) ([]holding, error) {
	var list struct{ Items []json.RawMessage }
	if err := w.Get(ctx, "spideripblocks,pods --all-namespaces", &list); err != nil {
		return nil, err
	}
	var held []holding
	for _, raw := range list.Items {
		var kind struct{ Kind string }
		var block v2beta1.SpiderIPBlock
		var pod corev1.Pod
		err := json.Unmarshal(raw, &kind)
		switch {
		case err != nil:
		case kind.Kind == "Pod":
			err = json.Unmarshal(raw, &pod)
		default:
			err = json.Unmarshal(raw, &block)
		}
		if err != nil {
			return nil, err
		}
		held = append(append(held, leased(block)...), w.shown(pod)...)
	}
	return held, nil
}

// leased returns the addresses in use of a block.
func leased(block v2beta1.SpiderIPBlock) (held []holding) {
	for _, l := range block.Spec.Leases {
		if addr, err := netip.ParseAddr(l.IP); err == nil && l.State == v2beta1.LeaseInUse {
			held = append(held, holding{addr, l.Node, l.Pod + " (lease)"})
		}
	}
	return held
}

// shown returns the addresses of a pod that runs, and is not about to end: a kubelet shows them a while longer than the pod has them.
func (w *routeWatch) shown(pod corev1.Pod) (held []holding) {
	if pod.Spec.HostNetwork || pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodRunning {
		return nil
	}
	w.pods[string(pod.UID)] = true
	for _, ip := range pod.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			held = append(held, holding{addr, pod.Spec.NodeName, pod.Namespace + "/" + pod.Name + " (status)"})
		}
	}
	return held
}
