package flows

import (
	"errors"
	"fmt"
	"net"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/linux"
)

// space is the network namespace of a pod.
type space struct {
	pod    Pod
	path   string
	cookie uint64       // of the namespace
	nics   map[int]*nic // by index
	log    *nflog
	heard  uint64 // when nflog was opened; CLOCK_MONOTONIC, in ns; 0 before
}

// nic is an interface of a pod.
type nic struct {
	*space
	number uint32
	index  int
	name   string
	links  []link.Link
	gone   bool
}

// hears reports whether dropped packets were read at a time.
func (n *nic) hears(at uint64) bool { return n.heard != 0 && at >= n.heard }

// Attach watches the interfaces of a pod, besides loopback and those of queues. path names the namespace. Attach may be
// called again, e.g. when the pod has got another interface; the pod stays that of the first call until Detach, also for the
// next process with the same Options.Pins.
func (c *Collector) Attach(ns *linux.Namespace, path string, pod Pod) error {
	cookie, err := ns.Cookie()
	if err != nil {
		return err
	}
	c.mu.Lock()
	s := c.mu.spaces[path]
	c.mu.Unlock()
	if s != nil && s.cookie != cookie {
		c.Detach(path) // another namespace has the path since the last process
		s = nil
	}
	if s == nil {
		s = &space{pod: pod, path: path, cookie: cookie, nics: map[int]*nic{}}
	}
	c.hear(ns, s)
	return ns.Do(func() error { return c.attachAll(s) })
}

// hear opens nflog of a namespace, once, and has the collector know the namespace. It comes before the programs, because an
// event of an incoming packet waits for the verdict from nflog.
func (c *Collector) hear(ns *linux.Namespace, s *space) {
	if s.heard != 0 {
		return
	}
	log, err := listen(ns, func(_ flow.Logged, e flow.Event) {
		e.Pod, e.UID = s.pod.Name, s.pod.UID
		c.denial(e)
	}, c.miss)
	if err != nil {
		c.options.Log.Warn("dropped packets of a pod are not observed", "pod", s.pod.Name.String(), "err", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.log, s.heard = log, monotonic()
	c.mu.spaces[s.path] = s
}

// AttachNode watches the packets that the node drops between the pods' pairs and the network (packetfilter.Node), behind the
// translation of services. ns is the namespace of the node. It may be called again, and then does nothing.
func (c *Collector) AttachNode(ns *linux.Namespace) error {
	c.mu.Lock()
	attached := c.mu.node != nil
	c.mu.Unlock()
	if attached {
		return nil
	}
	log, err := listen(ns, func(met flow.Logged, e flow.Event) {
		pod, ok := c.podOf(met.Link)
		if !ok {
			c.miss() // the pod has just ended
			return
		}
		e.Pod, e.UID = pod.Name, pod.UID
		c.denial(e)
	}, c.miss)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.node = log
	return nil
}

// podOf returns the pod with a pair.
func (c *Collector) podOf(pair string) (Pod, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.mu.spaces {
		if s.pod.Pair == pair && pair != "" {
			return s.pod, true
		}
	}
	return Pod{}, false
}

// attachAll attaches to the interfaces in the network namespace of the calling thread.
func (c *Collector) attachAll(s *space) error {
	found, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list the interfaces: %w", err)
	}
	present := map[int]bool{}
	var errs []error
	for _, l := range found {
		if !observed(l) {
			continue
		}
		present[l.Attrs().Index] = true
		if err := c.attach(s, l.Attrs()); err != nil {
			errs = append(errs, fmt.Errorf("observe %s: %w", l.Attrs().Name, err))
		}
	}
	if err != nil {
		return errors.Join(errs...) // not all have been found
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for index, n := range s.nics {
		if !present[index] {
			n.leave()
			delete(s.nics, index)
		}
	}
	return errors.Join(errs...)
}

// observed reports whether packets of the pod pass the interface. An ifb is a queue of another interface (ADR 28).
func observed(l netlink.Link) bool {
	a := l.Attrs()
	return a.Flags&net.FlagLoopback == 0 && l.Type() != "ifb" && (a.EncapType == "ether" || a.EncapType == "infiniband")
}

func (c *Collector) attach(s *space, a *netlink.LinkAttrs) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := s.nics[a.Index]; n != nil {
		n.name = a.Name
		return nil
	}
	c.mu.last++
	n := &nic{space: s, number: c.mu.last, index: a.Index, name: a.Name}
	var err error
	if n.links, err = c.kernel.attach(n.number, n.index); err != nil {
		return err
	}
	if err := c.kernel.pins.keep(n.number, c.kept(n), n.links); err != nil {
		c.options.Log.Warn("the connections of a pod are not observed while no agent runs", "pod", s.pod.Name.String(), "interface", n.name, "err", err)
	}
	s.nics[a.Index], c.mu.nics[n.number] = n, n
	return nil
}

// leave detaches the programs. The events of the interface are still to be read.
func (n *nic) leave() {
	detach(n.links)
	n.links, n.gone = nil, true
}

// Detach ends the observation of a namespace. Until then, the namespace lives on.
func (c *Collector) Detach(path string) { c.release(path, true) }

// release forgets a namespace. With detach, its observation ends, and otherwise the next process takes it over.
func (c *Collector) release(path string, detach bool) {
	c.mu.Lock()
	s := c.mu.spaces[path]
	delete(c.mu.spaces, path)
	if s != nil {
		for _, n := range s.nics {
			if detach {
				n.leave()
			} else {
				closeAll(n.links)
			}
		}
	}
	c.mu.Unlock()
	if s != nil && s.log != nil {
		s.log.close()
	}
}

// Attached returns the paths of the observed namespaces.
func (c *Collector) Attached() (paths []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for path := range c.mu.spaces {
		paths = append(paths, path)
	}
	return paths
}
