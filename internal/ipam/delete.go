package ipam

import (
	"context"
	"fmt"
	"time"

	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/wire"
)

// Delete releases the addresses of an interface. It fails only if the release can
// neither be committed nor stored on disk.
func (s *Service) Delete(ctx context.Context, req wire.DeleteRequest) error {
	finish := s.Journal.Begin(req.Attachment)
	err := s.releaseInTime(ctx, req.Attachment)
	keepErr := finish(err != nil)
	if err == nil {
		return nil
	}
	if keepErr != nil {
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

// releaseInTime is release, for at most releaseTimeout.
func (s *Service) releaseInTime(ctx context.Context, at wire.Attachment) error {
	limited, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	return s.release(limited, at)
}

// release commits a release and has the endpoint updated.
func (s *Service) release(ctx context.Context, at wire.Attachment) error {
	attachment := lease.Attachment{ContainerID: at.ContainerID, Interface: at.Interface}
	held := s.Allocator.Attached(attachment)
	if err := s.Allocator.release(ctx, attachment); err != nil {
		return err
	}
	holder := lease.Holder{Pod: podOf(at), PodUID: at.PodUID}
	for _, l := range held {
		if l.PodUID != "" {
			holder = l.Holder
		}
	}
	if holder.PodUID == "" {
		return nil
	}
	delay := endpointUpdateDelay
	if len(s.inUse(holder.PodUID)) == 0 {
		delay = 0 // no release can follow
	}
	s.Endpoints.Changed(endpointOf(holder), delay)
	return nil
}

// Replay commits the releases on disk. It returns the number of those left.
func (s *Service) Replay(ctx context.Context) (left int, err error) {
	return s.Journal.Replay(ctx, func(ctx context.Context, at wire.Attachment) error {
		if err := s.releaseInTime(ctx, at); err != nil {
			return err
		}
		s.Log.Info("committed a release from disk",
			"pod", podOf(at), "container", at.ContainerID, "interface", at.Interface)
		return nil
	})
}

// quarantine is how long an address is out of service after a foreign host answered
// for it. That gives the administrator time to notice; an address in use for longer
// belongs in a SpiderReservedIP.
const quarantine = time.Hour

// Conflict puts an address of the attachment into quarantine because a foreign
// host uses it. The runtime will delete the sandbox, and the next one gets another
// address. If a former sandbox may still use the address, e.g. in a live migration, that
// host is no stranger: the address stays in service, and the error names the sandbox.
func (s *Service) Conflict(ctx context.Context, req wire.ConflictRequest) error {
	at := lease.Attachment{ContainerID: req.ContainerID, Interface: req.Interface}
	if former := s.Allocator.formerOf(req.Address); len(former) > 0 {
		f := former[0]
		return &Error{Kind: Unavailable, Msg: fmt.Sprintf("another host answers for %s: sandbox %s of pod %s on node %s may still use the address", req.Address, f.ContainerID, f.Pod, f.Node)}
	}
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
