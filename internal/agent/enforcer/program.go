package enforcer

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/packetfilter"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/pool"
)

// unknownError means that the view cannot decide about the pod yet.
type unknownError struct{ error }

func (e unknownError) Unwrap() error { return e.error }

// passes reports whether an error passes by itself: the view learns, or another agent, which has the filter, ends.
func passes(err error) bool { return errors.As(err, &unknownError{}) || errors.Is(err, unix.EPERM) }

// isolated lets nothing pass besides the packets of the pod and its node.
var isolated = policy.Sets{Ingress: &policy.Allowed{}, Egress: &policy.Allowed{}}

// bring brings the filter of a sandbox into agreement with the policies. After an error, the kernel has the former filter.
func (e *Enforcer) bring(s *sandbox, pod ipam.Pod) error {
	e.mu.Lock()
	arrived, host, known := s.pending, e.mu.host, e.mu.known
	again := s.again
	s.pending, s.again = time.Time{}, false
	e.mu.Unlock()

	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.doubtful = s.mu.doubtful || again
	if s.mu.gone {
		return nil
	}
	if s.adopted {
		e.refresh(s)
	}
	err := error(unknownError{errors.New("the addresses of this node have not been read yet")})
	if known {
		err = e.decide(s, pod, host, arrived)
	}
	if err != nil && !arrived.IsZero() {
		e.mu.Lock()
		s.measureFrom(arrived) // the next attempt is for the same event
		e.mu.Unlock()
	}
	e.report(s, pod, err)
	return err
}

// decide asks the view, and programs the kernel. s.mu is locked.
func (e *Enforcer) decide(s *sandbox, pod ipam.Pod, host inet.Set, arrived time.Time) error {
	sets, unknown := e.ask(s, pod)
	missing := errors.Join(unknown...)
	if sets == nil {
		return unknownError{missing}
	}
	changed, err := e.program(s, host, sets)
	if err != nil {
		return err
	}
	for i, n := range s.mu.nics {
		n.sets, n.decided = sets[i], n.decided || unknown[i] == nil
	}
	if missing != nil {
		return unknownError{missing}
	}
	e.decided(s)
	if changed {
		e.Metrics.applied(e.Now(), arrived)
	}
	return nil
}

// ask returns what is to be in the kernel for each interface, and what the view does not know. sets is nil if the kernel is to
// keep what it has: a filter of an earlier agent, or none for a starting pod, which waits in Admit. s.mu is locked.
func (e *Enforcer) ask(s *sandbox, pod ipam.Pod) (sets []policy.Sets, unknown []error) {
	var asked []policy.Interface
	began := false
	for _, n := range s.mu.nics {
		began = began || n.decided
		if !n.ended {
			asked = append(asked, n.policy())
		}
	}
	decided, missing := e.View.Decide(pod, asked)
	sets, unknown = make([]policy.Sets, len(s.mu.nics)), make([]error, len(s.mu.nics))
	keep := false
	for i, n := range s.mu.nics {
		if n.ended {
			sets[i] = isolated
			continue
		}
		sets[i], unknown[i] = decided[0], missing[0]
		decided, missing = decided[1:], missing[1:]
		if unknown[i] != nil {
			keep = keep || !began
			sets[i] = e.unknownSets(s, n)
			if n.Name != pool.FirstInterface {
				unknown[i] = fmt.Errorf("interface %s: %w", n.Name, unknown[i])
			}
		}
	}
	if keep {
		return nil, unknown
	}
	return sets, unknown
}

// unknownSets returns the sets of an interface about which the view cannot decide. An interface with a filter keeps that one.
// A new interface is closed, and so is one that was open, if the peers of its first policy do not arrive. s.mu is locked.
func (e *Enforcer) unknownSets(s *sandbox, n *nic) policy.Sets {
	late := !s.mu.failing.IsZero() && e.Now().Sub(s.mu.failing) >= patience
	if !n.decided || isOpen(n.sets) && late {
		return isolated
	}
	return n.sets
}

func isOpen(s policy.Sets) bool { return s.Ingress == nil && s.Egress == nil }

// program makes the filters in the kernel the wanted ones. It reports whether there was anything to do. s.mu is locked.
func (e *Enforcer) program(s *sandbox, host inet.Set, sets []policy.Sets) (changed bool, err error) {
	open := !slices.ContainsFunc(sets, func(s policy.Sets) bool { return !isOpen(s) })
	if open && s.mu.filter == nil && !s.mu.doubtful {
		return false, nil
	}
	began := e.Now()
	if open {
		err = e.remove(s)
	} else {
		err = e.install(s, host, sets)
	}
	e.Metrics.duration.Observe(e.Now().Sub(began).Seconds())
	if err != nil {
		return false, err
	}
	s.mu.doubtful = false
	return true, nil
}

// remove lets all packets of a pod pass.
func (e *Enforcer) remove(s *sandbox) error {
	if s.mu.filter == nil {
		return errors.Join(e.Clear(s.Namespace), e.node.set(s.pair(), packetfilter.Wanted{}))
	}
	if err := s.mu.filter.Apply(packetfilter.Wanted{}); err != nil {
		return err
	}
	filter := s.mu.filter
	s.mu.filter = nil
	return errors.Join(filter.Close(), e.node.set(s.pair(), packetfilter.Wanted{}))
}

// wanted returns the filter with the sets of each interface. s.mu is locked.
func (s *sandbox) wanted(host inet.Set, sets []policy.Sets) (w packetfilter.Wanted) {
	always := inet.Union(host, inet.OfAddrs(s.addrs()...))
	for i, n := range s.mu.nics {
		if !isOpen(sets[i]) {
			w.Interfaces = append(w.Interfaces, packetfilter.Interface{Name: n.Name, Addrs: n.Addrs, Always: always, Sets: sets[i]})
		}
	}
	return w
}

// orphan closes what the node forwards for a sandbox of a former agent whose pod is gone, e.g. deleted by force: its policies
// are unknown, and the former agent's filter of the node is about to be removed. The filter in the pod stays. If only the
// watch of pods is behind, the pod's change follows.
func (e *Enforcer) orphan(s *sandbox) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.adopted && !s.mu.gone && s.mu.filter == nil {
		closed := make([]policy.Sets, len(s.mu.nics))
		for i := range closed {
			closed[i] = isolated
		}
		if err := e.node.set(s.pair(), s.wanted(inet.Set{}, closed)); err != nil {
			return err
		}
	}
	e.decided(s)
	return nil
}

func (e *Enforcer) install(s *sandbox, host inet.Set, sets []policy.Sets) error {
	wanted := s.wanted(host, sets)
	if err := e.openFilter(s); err != nil {
		return err
	}
	if err := e.node.set(s.pair(), wanted); err != nil {
		return err
	}
	if err := s.mu.filter.Apply(wanted); err != nil {
		return err
	}
	if found := s.mu.filter.Takeover(); found != "" && !s.mu.takenOver {
		s.mu.takenOver = true
		e.Log.Warn("the packet filter of a pod differed from the one that the former agent left", "pod", s.Pod.String(), "found", found)
	}
	return nil
}

func (e *Enforcer) openFilter(s *sandbox) error {
	if s.mu.filter != nil {
		return nil
	}
	filter, err := e.Open(s.Namespace)
	if err != nil {
		return fmt.Errorf("open the packet filter in %s: %w", s.Namespace, err)
	}
	s.mu.filter = filter
	return nil
}

// report counts a result, and tells about a pod that stays without its filter. s.mu is locked.
func (e *Enforcer) report(s *sandbox, pod ipam.Pod, err error) {
	if err == nil {
		s.mu.failing, s.mu.fault = time.Time{}, ""
		return
	}
	if errors.Is(err, linux.ErrNoNamespace) && !linux.IsNamespace(s.Namespace) {
		return // the sandbox has ended; Run forgets it
	}
	now := e.Now()
	if s.mu.failing.IsZero() {
		s.mu.failing = now
	}
	if passes(err) && now.Sub(s.mu.failing) < patience {
		return
	}
	e.Metrics.failures.Inc()
	if s.mu.fault == err.Error() {
		return
	}
	s.mu.fault = err.Error()
	e.Log.Warn("the policies of a pod are not in effect", "pod", s.Pod.String(), "err", err)
	e.Warn(pod, s.mu.fault)
}
