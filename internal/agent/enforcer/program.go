package enforcer

import (
	"errors"
	"fmt"
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
	sets, unknown := e.View.Decide(pod)
	if unknown != nil {
		if !e.mustClose(s) {
			return unknownError{unknown}
		}
		sets = isolated
	}
	changed, err := e.program(s, host, sets)
	if err != nil {
		return err
	}
	if unknown != nil {
		return unknownError{unknown}
	}
	s.mu.decided = true
	e.decided(s)
	if changed {
		e.Metrics.applied(e.Now(), arrived)
	}
	return nil
}

// mustClose reports whether a pod must be closed because the view does not know what to allow: a new policy selects a pod that
// was open, and its peers do not arrive. A pod with a filter keeps that one, also one of an earlier agent. A starting pod
// waits in Admit. s.mu is locked.
func (e *Enforcer) mustClose(s *sandbox) bool {
	return s.mu.decided && s.mu.filter == nil && !s.mu.failing.IsZero() && e.Now().Sub(s.mu.failing) >= patience
}

// program makes the filters in the kernel the wanted ones. It reports whether there was anything to do. s.mu is locked.
func (e *Enforcer) program(s *sandbox, host inet.Set, sets policy.Sets) (changed bool, err error) {
	open := sets.Ingress == nil && sets.Egress == nil
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

func (e *Enforcer) install(s *sandbox, host inet.Set, sets policy.Sets) error {
	wanted := packetfilter.Wanted{Interfaces: []packetfilter.Interface{
		{Name: pool.FirstInterface, Addrs: s.Addrs, Always: inet.Union(host, inet.OfAddrs(s.Addrs...)), Sets: sets},
	}}
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
	if errors.Is(err, linux.ErrNoNamespace) && !isNamespace(s.Namespace) {
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
