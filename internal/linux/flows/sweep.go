package flows

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/linux/bpf"
	"spiderpool.dev/spiderpool/internal/service"
)

// perLook is the number of connections that are read from the kernel at once.
const perLook = 1024

// sweep closes the connections that are silent, and those of interfaces that are gone.
func (c *Collector) sweep() error {
	keys, values := make([]connection, perLook), make([]state, perLook)
	var cursor ebpf.MapBatchCursor
	booted, now := bootTime(), monotonic()
	for {
		n, err := c.kernel.Connections.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read the map of connections: %w", err)
		}
		for i := range n {
			c.sweepOne(&record{connection: keys[i], state: values[i]}, now, booted)
		}
		if err != nil {
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for number, n := range c.mu.nics {
		if n.gone {
			delete(c.mu.nics, number)
			c.kernel.pins.forget(number)
		}
	}
	return nil
}

func (c *Collector) sweepOne(r *record, now uint64, booted time.Time) {
	c.mu.Lock()
	at := c.mu.nics[r.NIC]
	c.mu.Unlock()
	if at != nil && !at.gone && (since(now, r.Last) < c.options.Idle || r.open()) {
		return
	}
	if c.kernel.Connections.Delete(&r.connection) != nil || at == nil || r.Reported == 0 {
		return // it has just ended, or never began
	}
	r.Time, r.Kind = r.Last, uint32(flow.Closed)
	c.batch = append(c.batch, r.event(at, booted))
}

// open reports whether the connection may be silent: TCP without a FIN, which ends by packets.
func (r *record) open() bool {
	return service.Protocol(r.Protocol) == service.TCP && r.Answered != 0 && r.Ended == 0
}

// followServices gives the programs the maps of package bpf, which appear when services are translated at the socket.
func (c *Collector) followServices() error {
	if c.options.Services == "" {
		return nil
	}
	found, err := bpf.OpenTranslations(c.options.Services)
	if err != nil || found == nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	former := c.kernel.services
	if former.ID() == found.ID() {
		return found.Close()
	}
	c.kernel.services = found
	errs := []error{former.Close()}
	for _, n := range c.mu.nics {
		if !n.gone {
			errs = append(errs, c.update(n))
		}
	}
	return errors.Join(errs...)
}

func monotonic() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // the clock exists on every Linux
	return uint64(ts.Nano())
}
