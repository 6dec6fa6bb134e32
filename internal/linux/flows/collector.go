package flows

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/policy"
)

const (
	// interval is the time between two looks at the ring buffer. Its 2 MiB hold 11,000 events, i.e. 110,000 a second.
	interval = 100 * time.Millisecond
	// sweepInterval is the time between two looks for silent connections.
	sweepInterval = 5 * time.Second
	// maxDenied bounds the dropped packets between two looks.
	maxDenied = 4096
	// maxBatch bounds the events of one look.
	maxBatch = 1 << 14
)

// Pod is the pod of a network namespace.
type Pod struct {
	Name lease.PodKey
	UID  string
	// Pair is the node's end of the pod's veth pair, e.g. "spv0123456789ab"; see AttachNode.
	Pair string
}

// Options are those of a Collector.
type Options struct {
	// Sample n reports one of n connections, the same at both ends. 0 and 1 report all. Dropped packets are not sampled.
	Sample uint32
	// Idle is the silence after which a connection without an end of its own counts as closed; 0 for 30 s.
	Idle time.Duration
	// Services is the directory in which package bpf pins its maps; empty for no translation at the socket.
	Services string
	// Pins is a directory in a bpffs, e.g. Directory. The programs go on without the process, and the next Collector with it
	// reads what they noted, as far as the maps have room. If it is empty, nothing outlives the process.
	Pins string
	// Policies returns the policies that drop a packet of a pod's interface, none if they are unknown. It must not block.
	Policies func(pod lease.PodKey, dev string, way policy.Direction, packet policy.Packet) []policy.Name
	Log      *slog.Logger
}

// Collector implements flow.Source. Its methods are safe for concurrent use.
type Collector struct {
	options Options
	kernel  *kernel
	ring    *ringbuf.Reader

	mu struct {
		sync.Mutex
		spaces map[string]*space // by path
		nics   map[uint32]*nic   // also of ended pods, until their connections have been swept
		node   *nflog            // that of AttachNode
		last   uint32            // number of a nic
		denied []flow.Event
		lost   uint64
	}

	// The rest belongs to Run.
	batch      []flow.Event
	verdicts   verdicts
	kernelLost uint64
}

// New loads the programs. It fails if the kernel lacks what they need, and says so.
func New(o Options) (*Collector, error) {
	o.Idle = cmp.Or(o.Idle, 30*time.Second)
	k, err := o.load()
	if err != nil {
		return nil, err
	}
	c := &Collector{options: o, kernel: k, kernelLost: k.pins.lostBefore()}
	if c.ring, err = ringbuf.NewReader(k.Events); err != nil {
		return nil, errors.Join(fmt.Errorf("open the ring buffer: %w", err), k.Close(), k.pins.Close())
	}
	c.ring.SetDeadline(time.Unix(1, 0)) // look without waiting
	c.mu.spaces, c.mu.nics = map[string]*space{}, map[uint32]*nic{}
	if err := c.followServices(); err != nil {
		o.Log.Warn("the services of connections are not observed", "err", err)
	}
	if err := c.restore(); err != nil {
		o.Log.Warn("some connections since the end of the last agent are not observed", "err", err)
	}
	return c, nil
}

// load loads the programs, pinned if possible.
func (o *Options) load() (*kernel, error) {
	if o.Pins == "" {
		return loadKernel(o.Sample, nil)
	}
	p, err := openPins(o.Pins)
	if err == nil {
		var k *kernel
		if k, err = loadKernel(o.Sample, p); err == nil {
			return k, nil
		}
		err = errors.Join(err, p.Close())
	}
	o.Log.Warn("connections are not observed while no agent runs", "directory", o.Pins, "err", err)
	return loadKernel(o.Sample, nil)
}

// Run implements flow.Source.
func (c *Collector) Run(ctx context.Context, to func([]flow.Event, uint64)) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	swept := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		c.batch = c.batch[:0]
		lost := c.takeDenied()
		lost += c.verdicts.released(func(e flow.Event) { c.batch = append(c.batch, e) })
		if err := c.drain(); err != nil {
			return fmt.Errorf("read the ring buffer of connections: %w", err)
		}
		if time.Since(swept) >= min(sweepInterval, c.options.Idle) {
			swept = time.Now()
			if err := errors.Join(c.sweep(), c.followServices()); err != nil {
				c.options.Log.Warn("some connections are not observed to their end", "err", err)
			}
		}
		if total := c.kernel.lost(); total != c.kernelLost {
			lost += total - c.kernelLost
			c.kernelLost = total
			c.kernel.pins.tell(total)
		}
		if len(c.batch) > 0 || lost > 0 {
			to(c.batch, lost)
		}
	}
}

// Close detaches everything that is not pinned.
func (c *Collector) Close() error {
	c.mu.Lock()
	paths, node := slices.Collect(maps.Keys(c.mu.spaces)), c.mu.node
	c.mu.Unlock()
	if node != nil {
		node.close()
	}
	for _, path := range paths {
		c.release(path, c.kernel.pins == nil)
	}
	return errors.Join(c.ring.Close(), c.kernel.services.Close(), c.kernel.Close(), c.kernel.pins.Close())
}

// takeDenied adds the dropped packets since the last look, with all that decide about an event which waits no longer.
func (c *Collector) takeDenied() (lost uint64) {
	for s := range c.verdicts.due() {
		if s.log != nil {
			s.log.catchUp()
		}
	}
	c.mu.Lock()
	denied := c.mu.denied
	lost, c.mu.denied, c.mu.lost = c.mu.lost, nil, 0
	c.mu.Unlock()
	c.verdicts.look(denied)
	for i := range denied {
		e := &denied[i]
		if e.Reason == flow.ByPolicy && c.options.Policies != nil {
			e.Policies = c.options.Policies(e.Pod, e.Interface, e.Direction, policy.Packet{
				From: e.Source.Addr(), To: e.Destination.Addr(), Protocol: e.Protocol, Port: e.Destination.Port(),
			})
		}
	}
	c.batch = append(c.batch, denied...)
	return lost
}

// drain reads the ring buffer.
func (c *Collector) drain() error {
	var read ringbuf.Record
	booted := bootTime()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.ring.AvailableBytes() > 0 && len(c.batch) < maxBatch {
		if err := c.ring.ReadInto(&read); errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		} else if err != nil {
			return err
		}
		r, ok := decode(read.RawSample)
		at := c.mu.nics[r.NIC]
		if !ok || at == nil {
			c.mu.lost++
			continue
		}
		switch {
		case !r.unproven() || !at.hears(r.Time) && c.kernel.isAnswered(&r.connection):
			c.batch = append(c.batch, r.event(at, booted))
		case at.hears(r.Time):
			c.verdicts.hold(r.event(at, booted), at.space)
		default:
			c.mu.lost++ // a filter may have dropped the packet
		}
	}
	return nil
}

// bootTime returns the wall-clock time of CLOCK_MONOTONIC 0.
func bootTime() time.Time {
	return time.Now().Round(0).Add(-time.Duration(monotonic()))
}

// denial adds a dropped packet.
func (c *Collector) denial(e flow.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.mu.denied) >= maxDenied {
		c.mu.lost++
		return
	}
	c.mu.denied = append(c.mu.denied, e)
}

// miss counts dropped packets whose copies did not arrive. The kernel does not say how many.
func (c *Collector) miss() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.lost++
}
