package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/test/history"
	"spiderpool.dev/spiderpool/test/sim"
)

// retryAfter is a runtime's pause after a failed ADD.
const retryAfter = 100 * time.Millisecond

// pod is a pod with its current sandbox.
type pod struct {
	node       *sim.Node
	attachment sim.Attachment
	sandbox    int // counts the sandboxes; each failed ADD needs a new one
	result     []byte
}

// phase is the result of one command for all pods.
type phase struct {
	// latencies has one entry per pod, including its failed attempts.
	latencies []time.Duration
	failed    int
	calls     int
	pluginCPU time.Duration
	// answered is the time until the last answer, caughtUp until all views agree too.
	answered, caughtUp time.Duration
	counters           sim.Counters
	cpu                map[string]time.Duration
}

// quietPhase is a phase with all API requests that it caused, up to the last straggler.
func (r *runner) quietPhase(ctx context.Context, command string, pods []*pod) (phase, error) {
	if err := r.quiet(ctx); err != nil {
		return phase{}, err
	}
	before, err := r.cluster.Counters(ctx)
	if err != nil {
		return phase{}, err
	}
	cpu, err := r.cpu()
	if err != nil {
		return phase{}, err
	}
	out, err := r.phase(ctx, command, pods)
	if err != nil {
		return phase{}, err
	}
	after, err := r.cpu()
	if err != nil {
		return phase{}, err
	}
	out.cpu = map[string]time.Duration{"plugin": out.pluginCPU}
	for name, total := range after {
		out.cpu[name] = total - cpu[name]
	}
	if err := r.quiet(ctx); err != nil {
		return phase{}, err
	}
	counters, err := r.cluster.Counters(ctx)
	out.counters = counters.Since(before)
	return out, err
}

// phase runs the command for all pods and waits for the views.
func (r *runner) phase(ctx context.Context, command string, pods []*pod) (phase, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, phaseLimit, fmt.Errorf("not done after %s", phaseLimit))
	defer cancel()
	var out phase
	var mu sync.Mutex
	var done atomic.Int64
	stopShow := show(r.scenario.name+" "+command, &done, len(pods))
	defer stopShow()

	start := time.Now()
	err := r.spread(ctx, pods, func(ctx context.Context, p *pod) error {
		began := time.Now()
		for attempt := 0; ; attempt++ {
			o := r.call(ctx, command, p)
			mu.Lock()
			out.calls++
			out.pluginCPU += o.CPU
			if o.Err == nil {
				out.latencies = append(out.latencies, o.End.Sub(began))
			} else {
				out.failed++
			}
			mu.Unlock()
			if o.Err == nil {
				done.Add(1)
				return nil
			}
			if err := r.again(ctx, command, p, o.Err); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return phase{}, err
	}
	out.answered = time.Since(start)
	want := map[string]int{"pods": 0, "addresses": r.scenario.leases}
	if command == "ADD" {
		want = map[string]int{"pods": len(pods), "addresses": r.scenario.leases + len(pods)*r.scenario.addresses()}
	}
	for _, v := range r.views {
		if _, err := v.Reach(ctx, want[v.Of]); err != nil {
			return phase{}, err
		}
	}
	out.caughtUp = time.Since(start)
	return out, nil
}

// again prepares the next attempt like a runtime: it removes the failed sandbox and
// creates a new one.
func (r *runner) again(ctx context.Context, command string, p *pod, cause error) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("%s of pod %s on %s: %w", command, p.attachment.Pod, p.node.Name, errors.Join(context.Cause(ctx), cause))
	case <-time.After(retryAfter):
	}
	if command == "ADD" {
		if o := r.call(ctx, "DEL", p); o.Err != nil {
			return fmt.Errorf("DEL after a failed ADD of pod %s on %s: %w", p.attachment.Pod, p.node.Name, o.Err)
		}
		p.sandbox++
	}
	return nil
}

// call makes one call and records the result.
func (r *runner) call(ctx context.Context, command string, p *pod) sim.Outcome {
	p.attachment.ContainerID = fmt.Sprintf("%s-%s-%d", p.attachment.Pod, p.attachment.UID, p.sandbox)
	var previous []byte
	if command == "DEL" {
		previous = p.result
	}
	o := p.node.Plugin.Call(ctx, command, p.attachment, previous)
	e := history.Event{
		Kind: history.Kind(command), Interface: history.Interface{ContainerID: p.attachment.ContainerID, Name: p.attachment.Interface},
		Pod: p.attachment.Pod, Node: p.node.Name, Start: o.Start, End: o.End,
	}
	if o.Err != nil {
		e.Error = o.Err.Error()
	}
	if command == "ADD" {
		p.result = nil
	}
	if command == "ADD" && o.Err == nil {
		p.result = o.Result
		for _, a := range o.Addresses {
			e.Addresses = append(e.Addresses, a.Addr())
		}
	}
	r.log.Record(e)
	return o
}

// spread makes the workers of each node handle its pods, or one worker handle all pods.
func (r *runner) spread(ctx context.Context, pods []*pod, work func(context.Context, *pod) error) error {
	if r.scenario.sequential {
		return parallel(ctx, 1, pods, work)
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, node := range r.cluster.Nodes {
		var own []*pod
		for _, p := range pods {
			if p.node == node {
				own = append(own, p)
			}
		}
		g.Go(func() error { return parallel(ctx, r.workers, own, work) })
	}
	return g.Wait()
}

// parallel handles the items in order, with a number of workers, until the first error.
func parallel[T any](ctx context.Context, workers int, items []T, work func(context.Context, T) error) error {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range workers {
		g.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(items) || ctx.Err() != nil {
					return nil
				}
				if err := work(ctx, items[i]); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// cpu returns the CPU time used by each kind of process.
func (r *runner) cpu() (map[string]time.Duration, error) {
	used := map[string]time.Duration{}
	add := func(name string, p *sim.Process) error {
		usage, err := p.Usage()
		used[name] += usage.CPU
		return err
	}
	errs := []error{add("etcd", r.cluster.Etcd), add("kube-apiserver", r.cluster.APIServer)}
	for _, p := range r.cluster.Processes {
		errs = append(errs, add("cluster", p.Process))
	}
	for _, node := range r.cluster.Nodes {
		for _, p := range node.Processes {
			errs = append(errs, add("agents", p.Process))
		}
	}
	var self unix.Rusage
	errs = append(errs, unix.Getrusage(unix.RUSAGE_SELF, &self))
	used["bench"] = time.Duration(self.Utime.Nano() + self.Stime.Nano())
	return used, errors.Join(errs...)
}
