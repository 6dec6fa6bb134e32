package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"spiderpool.dev/spiderpool/test/sim"
)

// target is a process for faults.
type target struct {
	name    string
	process *sim.Process
	// up is the time between two faults, down the length of a fault. Both are random, up
	// to twice the value.
	up, down time.Duration
	// pause makes every second fault a pause.
	pause bool
	// ready returns an error until the process serves again. The outage lasts until then,
	// however slow the machine is. Nil means ready at once.
	ready func(context.Context) error
	// stays means that the process must never end by itself, even if others are down.
	stays bool
}

// superviseEvery is the interval of supervise.
const superviseEvery = 100 * time.Millisecond

// Names of the control plane's processes in the outages.
const (
	apiServer = "kube-apiserver"
	etcd      = "etcd"
)

func (c *chaos) targets() []target {
	list := []target{
		{name: apiServer, process: c.cluster.APIServer, up: 6 * time.Second, down: 1500 * time.Millisecond, ready: c.cluster.Ready},
		{name: etcd, process: c.cluster.Etcd, up: 10 * time.Second, down: time.Second, ready: c.cluster.Ready},
	}
	for _, p := range c.cluster.Processes {
		list = append(list, target{name: p.Name, process: p.Process, up: 5 * time.Second, down: time.Second, pause: true})
	}
	for _, node := range c.cluster.Nodes {
		for _, p := range node.Processes {
			list = append(list, target{name: node.Name, process: p.Process, up: 3 * time.Second, down: 500 * time.Millisecond, pause: true, stays: true})
		}
	}
	return list
}

// breakThings causes faults in each target until the end of ctx, and then leaves every
// process running.
func (c *chaos) breakThings(ctx context.Context, done *sync.WaitGroup) {
	for i, t := range c.targets() {
		done.Go(func() { c.breakOne(ctx, t, c.random(uint64(i))) })
	}
}

func (c *chaos) breakOne(ctx context.Context, t target, random *rand.Rand) {
	for {
		if !sleep(ctx, upTo(random, 2*t.up)) {
			return
		}
		down := upTo(random, 2*t.down)
		if t.pause && random.IntN(2) == 0 {
			c.pause(ctx, t, down)
		} else {
			c.kill(ctx, t, down)
		}
	}
}

// supervise restarts ended processes, like kubelet, until the end of ctx. A controller
// ends if it loses its election, an API server if it finds no etcd at its start.
func (c *chaos) supervise(ctx context.Context) {
	targets := c.targets()
	for sleep(ctx, superviseEvery) {
		for _, t := range targets {
			if t.process.Running() || !c.outages.beginUnlessDown(t.name) {
				continue
			}
			if t.stays {
				c.refused.add(fmt.Errorf("%s ended by itself; end of %s:\n%s", t.process.Name, t.process.Log, t.process.LastOutput()))
			}
			c.count.restarts.Add(1)
			_ = t.process.Start() // awaitReady notices a failed start
			c.outages.end(t.name)
		}
	}
}

func (c *chaos) pause(ctx context.Context, t target, down time.Duration) {
	c.outages.begin(t.name)
	defer c.outages.end(t.name)
	if t.process.Pause() != nil {
		return // it has just ended; supervise restarts it
	}
	c.count.pauses.Add(1)
	sleep(ctx, down)
	_ = t.process.Resume() // fails only if the process has ended; supervise restarts it
}

// kill kills the process and restarts it.
func (c *chaos) kill(ctx context.Context, t target, down time.Duration) {
	c.outages.begin(t.name)
	defer c.outages.end(t.name)
	t.process.Kill()
	c.count.kills.Add(1)
	sleep(ctx, down)
	_ = t.process.Start() // awaitReady notices a failed start
	if t.ready == nil {
		return
	}
	// The outage lasts until the process is ready. Until then supervise ignores it, since
	// it may end because another process is down.
	_ = sim.WaitFor(ctx, t.name, func(ctx context.Context) error { // fails only at the end of ctx
		if !t.process.Running() {
			return t.process.Start()
		}
		return t.ready(ctx)
	})
}

// sleep returns true after the duration, or false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func upTo(random *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(d)))
}

// outages records the outages of all targets.
type outages struct {
	mu   sync.Mutex
	down map[string]int
	last map[string]time.Time // end of the last outage
}

func newOutages() *outages {
	return &outages{down: map[string]int{}, last: map[string]time.Time{}}
}

func (o *outages) begin(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.down[name]++
}

// beginUnlessDown begins an outage and returns true, unless the target is already down.
func (o *outages) beginUnlessDown(name string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.down[name] > 0 {
		return false
	}
	o.down[name]++
	return true
}

func (o *outages) end(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.down[name]--
	o.last[name] = time.Now()
}

// isDown reports whether the target is down now.
func (o *outages) isDown(name string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.down[name] > 0
}

// downSince reports whether the target was down at any time since then.
func (o *outages) downSince(name string, since time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.down[name] > 0 || o.last[name].After(since)
}
