package enforcer

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/linux/packetfilter"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/wire"
)

// sandbox is a sandbox with interfaces of ours.
type sandbox struct {
	identity
	// adopted means that another process served an ADD.
	adopted bool
	// pending is the arrival of the oldest event that the kernel does not follow yet; zero if there is none. Enforcer.mu
	// guards it.
	pending time.Time
	// again means that a former agent may have left a filter since the last look. Enforcer.mu guards it.
	again bool

	// mu is held while the filter changes.
	mu struct {
		sync.Mutex
		nics []*nic
		// filter is nil while no policy selects the pod.
		filter Filter
		// doubtful means that another process may have left a filter.
		doubtful        bool
		gone, takenOver bool
		// failing is the time of the first failed attempt since the last success, and fault the reported reason.
		failing time.Time
		fault   string
	}
}

// nic is an interface of a sandbox.
type nic struct {
	attached
	// ended means that its DEL has come. The link lives for a moment, so an interface with policies is closed from then on
	// until the sandbox ends. Its addresses may already belong to another pod.
	ended bool
	// decided is true after the first decision. sets are those in the kernel then.
	decided bool
	sets    policy.Sets
}

func newSandbox(r record) *sandbox {
	s := &sandbox{identity: r.identity}
	for _, a := range r.Interfaces {
		s.mu.nics = append(s.mu.nics, &nic{attached: a})
	}
	return s
}

// record returns the content of the sandbox's file. s.mu is locked.
func (s *sandbox) record() record {
	r := record{identity: s.identity}
	for _, n := range s.mu.nics {
		if !n.ended {
			r.Interfaces = append(r.Interfaces, n.attached)
		}
	}
	return r
}

// nic returns the present interface with a name, nil if there is none. s.mu is locked.
func (s *sandbox) nic(name string) *nic {
	for _, n := range s.mu.nics {
		if n.Name == name && !n.ended {
			return n
		}
	}
	return nil
}

// addrs returns the addresses of all interfaces. s.mu is locked.
func (s *sandbox) addrs() (all []netip.Addr) {
	for _, n := range s.mu.nics {
		all = append(all, n.Addrs...)
	}
	return all
}

// put adds an interface, or replaces that of its name. s.mu is locked.
func (s *sandbox) put(a attached) {
	s.mu.nics = slices.DeleteFunc(s.mu.nics, func(n *nic) bool { return n.Name == a.Name })
	s.mu.nics = append(s.mu.nics, &nic{attached: a})
}

// end ends an interface. s.mu is locked.
func (s *sandbox) end(n *nic) {
	if isOpen(n.sets) {
		s.mu.nics = slices.DeleteFunc(s.mu.nics, func(other *nic) bool { return other == n })
		return
	}
	n.ended, n.Addrs = true, nil
}

// measureFrom notes the oldest event that the kernel does not follow yet. Enforcer.mu is locked.
func (s *sandbox) measureFrom(arrived time.Time) {
	if s.pending.IsZero() || arrived.Before(s.pending) {
		s.pending = arrived
	}
}

// filtered reports whether a policy selects the pod.
func (s *sandbox) filtered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.filter != nil
}

// pair is the node's end of the pod's veth pair. A pod without the coordinator has none.
func (s *sandbox) pair() string { return netplan.VethPairOf(s.Container).Host }

func (e *Enforcer) sandbox(container string) *sandbox {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mu.sandboxes[container]
}

// path returns the path of a namespace as the agent sees it: runtimes write /var/run/netns, too.
func (e *Enforcer) path(namespace string) string {
	if dir := filepath.Dir(namespace); dir == "/var/run/netns" || dir == "/run/netns" {
		return filepath.Join(e.PodNamespaces, filepath.Base(namespace))
	}
	return namespace
}

// record returns the sandbox of an ADD, and writes its record. It is nil if the interface is none of ours.
func (e *Enforcer) record(at wire.Attachment, pod ipam.Pod) (*sandbox, error) {
	is := identity{Container: at.ContainerID, Namespace: e.path(at.NetNS), Pod: pod.PodKey, UID: pod.UID}
	it, ours, err := e.Interface(at, is.Namespace, pod)
	if err != nil || !ours {
		return nil, err
	}
	s := e.sandbox(is.Container)
	if s == nil || s.identity != is {
		s = e.load(is)
	}
	return s, e.attach(s, attachedOf(it))
}

// load returns a new sandbox. If another process had it before, the sandbox has the interfaces that are on record.
func (e *Enforcer) load(is identity) *sandbox {
	r, err := e.stored(is.Container)
	if err != nil || r.identity != is {
		r = record{identity: is}
	}
	s := newSandbox(r)
	s.adopted = !errors.Is(err, fs.ErrNotExist)
	s.mu.doubtful = s.adopted
	return e.add(s)
}

// attach adds an interface to the record and then to the sandbox. A repeated ADD changes nothing: the network is that of the
// first one, because the pod's annotations may have changed since.
func (e *Enforcer) attach(s *sandbox, a attached) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.nic(a.Name); n != nil && slices.Equal(n.Addrs, a.Addrs) {
		return nil
	}
	r := s.record()
	r.Interfaces = slices.DeleteFunc(r.Interfaces, func(other attached) bool { return other.Name == a.Name })
	r.Interfaces = append(r.Interfaces, a)
	if err := e.write(r); err != nil {
		return err
	}
	s.put(a)
	return nil
}

// detach ends an interface, and reports whether it was the last one.
func (e *Enforcer) detach(s *sandbox, name string) (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nic(name)
	if n == nil {
		return false
	}
	s.end(n)
	r := s.record()
	if len(r.Interfaces) == 0 {
		return true
	}
	if err := e.write(r); err != nil {
		e.Log.Warn("cannot write the record of a sandbox", "container", s.Container, "err", err)
	}
	e.queue.AddAfter(s.Container, settleTime) // the whole pod may end, and then there is nothing to do
	return false
}

// refresh takes the changes of another agent over: it may have served an ADD or a DEL since. s.mu is locked.
func (e *Enforcer) refresh(s *sandbox) {
	r, err := e.stored(s.Container)
	if err != nil || r.identity != s.identity {
		return
	}
	for _, a := range r.Interfaces {
		if n := s.nic(a.Name); n == nil || !slices.Equal(n.Addrs, a.Addrs) {
			s.put(a)
		}
	}
	for _, n := range slices.Clone(s.mu.nics) {
		if !slices.ContainsFunc(r.Interfaces, func(a attached) bool { return a.Name == n.Name }) && !n.ended {
			s.end(n)
		}
	}
}

// add adds a sandbox, or returns the present one with the same record. One with another record is replaced.
func (e *Enforcer) add(s *sandbox) *sandbox {
	e.mu.Lock()
	former := e.mu.sandboxes[s.Container]
	if former != nil && former.identity == s.identity {
		e.mu.Unlock()
		return former
	}
	e.mu.sandboxes[s.Container] = s
	if former != nil {
		delete(e.mu.ofPod[former.Pod], former)
		delete(e.mu.undecided, former)
	}
	if e.mu.ofPod[s.Pod] == nil {
		e.mu.ofPod[s.Pod] = map[*sandbox]bool{}
	}
	e.mu.ofPod[s.Pod][s] = true
	e.mu.Unlock()
	e.close(former)
	return s
}

// close closes the filter of a sandbox, which stays in the kernel as long as its namespace. s may be nil.
func (e *Enforcer) close(s *sandbox) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.gone = true
	if s.mu.filter == nil {
		return
	}
	if err := s.mu.filter.Close(); err != nil {
		e.Log.Warn("cannot close the packet filter of a pod", "pod", s.Pod.String(), "err", err)
	}
	s.mu.filter = nil
}

// Forget ends the work for an interface after its DEL, and for the sandbox with its last one. A namespace that lives on keeps
// its filter.
func (e *Enforcer) Forget(at wire.Attachment) {
	if at.Validate() != nil {
		return
	}
	e.init()
	if r, err := e.read(at.ContainerID); err == nil {
		e.adopt(r) // unless it is known
	}
	if s := e.sandbox(at.ContainerID); s != nil && e.detach(s, at.Interface) {
		e.forget(at.ContainerID)
	}
}

func (e *Enforcer) forget(container string) {
	e.mu.Lock()
	s := e.mu.sandboxes[container]
	last := false
	if s != nil {
		delete(e.mu.sandboxes, container)
		delete(e.mu.undecided, s)
		delete(e.mu.ofPod[s.Pod], s)
		if last = len(e.mu.ofPod[s.Pod]) == 0; last {
			delete(e.mu.ofPod, s.Pod)
		}
	}
	e.mu.Unlock()
	if s != nil {
		e.close(s)
		if err := e.node.set(s.pair(), packetfilter.Wanted{}); err != nil {
			e.Log.Warn("cannot remove a pod's packet filter on the node", "pod", s.Pod.String(), "err", err)
		}
	}
	if last {
		e.View.Forget(s.Pod)
	}
	if err := os.Remove(filepath.Join(e.Records, container)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.Log.Warn("cannot delete the record of a sandbox", "container", container, "err", err)
	}
}

// closeAll leaves the filters to the next agent.
func (e *Enforcer) closeAll() {
	e.mu.Lock()
	all := e.mu.sandboxes
	e.mu.sandboxes, e.mu.ofPod = map[string]*sandbox{}, map[lease.PodKey]map[*sandbox]bool{}
	e.mu.Unlock()
	for _, s := range all {
		e.close(s)
	}
	if err := e.node.close(); err != nil {
		e.Log.Warn("cannot close the packet filter of the node", "err", err)
	}
}
