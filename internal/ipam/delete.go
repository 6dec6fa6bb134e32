package ipam

import (
	"context"
	"fmt"

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
	if err := s.Allocator.Release(ctx, attachment); err != nil {
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
	s.Endpoints.Changed(EndpointOf(holder), delay)
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
