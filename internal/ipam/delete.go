package ipam

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/wire"
)

// Delete releases the addresses of an interface. It fails only if the release can
// neither be committed nor stored on disk.
func (s *Service) Delete(ctx context.Context, req wire.DeleteRequest) error {
	release := releaseOf(req.Attachment)
	limited, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	err := s.release(limited, release, always)
	if err == nil {
		return nil
	}
	if keepErr := s.Journal.Add(release); keepErr != nil {
		return &Error{
			Kind:    Unavailable,
			Msg:     fmt.Sprintf("could not release the addresses of interface %s of pod %s or store the release on disk", req.Interface, podOf(req.Attachment)),
			Details: fmt.Sprintf("release: %v; journal: %v", err, keepErr),
		}
	}
	s.Log.Warn("could not commit a release; it stays on disk until the API server accepts it",
		"pod", podOf(req.Attachment), "container", req.ContainerID, "interface", req.Interface, "err", err)
	return nil
}

func always() bool { return true }

// release commits a release if wanted returns true at the moment of the decision, and
// updates the endpoint.
func (s *Service) release(ctx context.Context, r Release, wanted func() bool) error {
	held := s.Allocator.Attached(r.Attachment)
	if err := s.Allocator.releaseIf(ctx, wanted, r.Attachment); err != nil {
		return err
	}
	for _, l := range held {
		if l.PodUID != "" {
			r.PodUID = l.PodUID
		}
	}
	s.showRelease(r)
	return nil
}

// showRelease updates the pod's endpoint to the leases that the pod still has. The
// ended leases would not do: a DEL may come twice, or late, when a new sandbox has the
// interface. Addresses retained for the pod's return stay in its endpoint.
func (s *Service) showRelease(r Release) {
	if r.PodUID == "" {
		return
	}
	leases := s.Allocator.OfPod(r.PodUID)
	inUse := func(l lease.Lease) bool { return l.State == lease.InUse }
	ofInterface := func(l lease.Lease) bool { return l.Interface == r.Interface }
	switch {
	case len(leases) == 0:
		s.endpointCache.remove(r.PodUID, "")
		s.Endpoints.Remove(r.Pod.Namespace, r.Pod.Name, r.PodUID)
	case !slices.ContainsFunc(leases, inUse):
		s.endpointCache.remove(r.PodUID, "")
	case !slices.ContainsFunc(leases, ofInterface):
		s.endpointCache.remove(r.PodUID, r.Interface)
		s.Endpoints.Without(r.Pod.Namespace, r.Pod.Name, r.PodUID, r.Interface, endpointUpdateDelay)
	}
}

// Replay commits the releases on disk. It returns the number of those left.
func (s *Service) Replay(ctx context.Context) (left int, err error) {
	releases, unreadable := s.Journal.All()
	for i, r := range releases {
		// Since All, an ADD may have removed the release: the interface is in use again.
		// After that, a DEL may have added a new release, which a later Replay commits.
		current := func() bool { return s.Journal.Generation(r.Attachment) == r.Generation }
		if err := s.release(ctx, r, current); err != nil {
			return len(releases) - i, errors.Join(unreadable, err)
		}
		if err := s.Journal.Remove(r.Attachment, r.Generation); err != nil {
			return len(releases) - i, errors.Join(unreadable, err)
		}
		s.Log.Info("committed a release from disk",
			"pod", r.Pod, "container", r.ContainerID, "interface", r.Interface)
	}
	return 0, unreadable
}

// quarantine is how long an address is out of service after a foreign host answered
// for it. That gives the administrator time to notice; an address in use for longer
// belongs in a SpiderReservedIP.
const quarantine = time.Hour

// Conflict puts an address of the attachment into quarantine because a foreign
// host uses it. The runtime will delete the sandbox, and the next one gets another
// address.
func (s *Service) Conflict(ctx context.Context, req wire.ConflictRequest) error {
	at := lease.Attachment{ContainerID: req.ContainerID, Interface: req.Interface}
	done, err := s.Allocator.Quarantine(ctx, at, req.Address, req.MAC, quarantine)
	if err != nil {
		return notReady(err)
	}
	if !done {
		return nil
	}
	s.Log.Warn("put an address into quarantine", "ip", req.Address, "mac", req.MAC,
		"pod", podOf(req.Attachment), "container", req.ContainerID, "interface", req.Interface)
	s.Events.AddressConflict(Pod{PodKey: podOf(req.Attachment), UID: req.PodUID},
		fmt.Sprintf("%s of interface %s is in use by the host with hardware address %s; it is not handed out for %s, and the pod gets another address",
			req.Address, req.Interface, req.MAC, quarantine))
	return nil
}
