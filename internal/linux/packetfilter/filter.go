package packetfilter

import (
	"errors"
	"fmt"
	"net/netip"

	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/policy"
)

// Wanted are the packets that may pass. Interfaces that it does not list are open.
type Wanted struct{ Interfaces []Interface }

// Interface is the policy of one interface of a pod.
type Interface struct {
	// Name is that in the pod, e.g. "eth0".
	Name string
	// Addrs are the pod's addresses on the interface. A Node knows by them which interface a forwarded packet concerns.
	Addrs []netip.Addr
	// Always are the peers of all packets: the addresses of the pod and of its node.
	Always inet.Set
	// Sets without any segment close a direction, e.g. until policies are known.
	Sets policy.Sets
}

// Drops are the packets of an interface that the rules dropped since Open.
type Drops struct {
	// Link is the node's end of the pod's pair. It is empty in the pod.
	Link      string
	Interface string
	Direction policy.Direction
	Packets   uint64
}

func (d Drops) key() string { return fmt.Sprintf("%s %s %s", d.Link, d.Interface, d.Direction) }

// Filter enforces policies in the network namespace of a pod. It must not be used by two goroutines at once.
type Filter struct {
	socket *socket
	links  *vnl.Handle
	stack  table
	// device is without a layer if the kernel cannot judge packet sockets.
	device table
	// silences means that the kernel can drop UDP without an error for the sender.
	silences bool
	// Untracked says why older connections of the pod meet its first policy, nil if they do not.
	Untracked error
}

// Open prepares for the tables of a namespace. Tables of an earlier process work until the first Apply. An open Filter
// keeps the namespace and its interfaces in existence, also behind the end of the pod.
func Open(ns *linux.Namespace) (*Filter, error) {
	s, err := openSocket(ns)
	if err != nil {
		return nil, err
	}
	f := &Filter{socket: s, stack: table{socket: s}}
	if s.tryFrames() == nil {
		f.device = table{socket: s, layer: onInterface{}}
		f.silences = s.trySilence() == nil
	}
	f.stack.layer = inPod{silences: f.silences}
	err = ns.Do(func() (err error) {
		f.links, err = vnl.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open a netlink socket: %w", err), s.close())
	}
	f.Untracked = ns.Do(s.trackConnections)
	return f, nil
}

// Close leaves the rules as they are. The kernel lets other processes change them from now on.
func (f *Filter) Close() error {
	f.links.Close()
	return f.socket.close()
}

// Apply makes the wanted packets pass, and no others. After an error, the rules are the former or the wanted ones, and
// the next Apply repeats the change. The rules for packet sockets need the interface, so an Apply before it exists leaves
// them to a later one.
func (f *Filter) Apply(w Wanted) error {
	var stack, device []side
	for i := range w.Interfaces {
		it := &w.Interfaces[i]
		if len(it.Name) >= unix.IFNAMSIZ {
			return fmt.Errorf("the interface name %q is longer than %d bytes", it.Name, unix.IFNAMSIZ-1)
		}
		for _, s := range sidesOf("", it) {
			if s.direction == policy.Egress && f.device.layer != nil {
				frames := s
				link, err := f.links.LinkByName(it.Name)
				if err == nil {
					frames.index = link.Attrs().Index
					device = append(device, frames)
				} else if !errors.As(err, new(vnl.LinkNotFoundError)) {
					return fmt.Errorf("look up %s: %w", it.Name, err)
				}
			}
			s.entries = []entry{podEntry(s.direction, it.Name)}
			stack = append(stack, s)
		}
	}
	if err := f.applyStack(stack, device); err != nil {
		return err
	}
	if f.device.layer == nil {
		return nil
	}
	if err := f.device.apply("", device, func() []side { return device }); err != nil {
		return fmt.Errorf("set the rules for packet sockets: %w", err)
	}
	return f.applyStack(stack, device)
}

// applyStack applies the rules of the IP stack. They leave the drop of UDP to the interfaces whose rules stand, and are
// to stand.
func (f *Filter) applyStack(stack, device []side) error {
	for i := range stack {
		s := &stack[i]
		s.silent = 0
		for _, d := range device {
			if p := f.device.programs[d.name]; f.silences && d.name == s.name && p != nil && p.index == d.index {
				s.silent = d.index
			}
		}
	}
	if err := f.stack.apply("", stack, func() []side { return stack }); err != nil {
		return fmt.Errorf("set the rules for packets: %w", err)
	}
	return nil
}

// Drops returns the dropped packets by interface and direction.
func (f *Filter) Drops() ([]Drops, error) {
	all, err := f.stack.drops()
	if err != nil {
		return nil, fmt.Errorf("read the counters of dropped packets: %w", err)
	}
	frames, err := f.device.drops()
	if err != nil {
		return nil, fmt.Errorf("read the counters of dropped frames: %w", err)
	}
	for _, d := range frames {
		for i := range all {
			if all[i].key() == d.key() {
				all[i].Packets += d.Packets
			}
		}
	}
	return all, nil
}

// Takeover says what differed in the rules of the former process, or "". It is known after the first Apply.
func (f *Filter) Takeover() string { return f.stack.takeover }
