package ipam

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
)

// noAddressError says that the pools of a pod have no address left.
type noAddressError struct {
	exhausted *lease.ExhaustedError
	// rejections are the pools that were not even candidates.
	rejections []pool.Rejection
	// wants is the number of addresses that the pod needs for all its interfaces.
	wants int
}

func (e *noAddressError) Error() string {
	text := e.exhausted.Error()
	if slices.ContainsFunc(e.exhausted.Pools, func(p lease.PoolUsage) bool { return p.Free > 0 }) {
		text += fmt.Sprintf("; the pod needs %d addresses for all its interfaces, and gets all of them or none", e.wants)
	}
	if len(e.rejections) > 0 {
		text += "; " + pool.FormatRejections(e.rejections)
	}
	return text
}

// Unwrap returns the allocation's error.
func (e *noAddressError) Unwrap() error { return e.exhausted }

// explain turns an error of ADD into an Error for the user.
func (s *Service) explain(pod Pod, ifname string, err error) *Error {
	var failure *Error
	var annotation *pool.AnnotationError
	var noPool pool.NoPools
	var exhausted *noAddressError
	var superseded *alloc.SupersededError
	subject := fmt.Sprintf("interface %s of pod %s on node %s gets no address", ifname, pod, s.Node)
	if errors.As(err, &failure) {
		return failure
	}
	failure = &Error{Kind: Unavailable, Msg: subject, Details: err.Error(), Err: err}
	switch {
	case errors.As(err, &annotation), errors.As(err, new(*pool.ConfigError)):
		failure.Kind = Invalid
	case errors.As(err, &noPool), errors.As(err, &exhausted):
		failure.Kind = NoAddress
	case errors.As(err, &superseded):
		failure.Msg += ": the pod has a newer sandbox"
	case errors.Is(err, alloc.ErrConflict):
		failure.Msg += fmt.Sprintf(": conflicts with other nodes persisted after %d attempts", alloc.MaxAttempts)
	case errors.Is(err, ErrNotReady), errors.Is(err, alloc.ErrNotReady), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		failure.Msg += " in time"
	default:
		failure.Msg += ": an API server request failed"
	}
	return failure
}

// AppOf returns the application of a pod in the terms of pool affinities.
func AppOf(namespace string, top Controller) *pool.App {
	if top.Kind == "" {
		return nil
	}
	group, version, grouped := strings.Cut(top.APIVersion, "/")
	if !grouped {
		group, version = "", top.APIVersion
	}
	return &pool.App{APIGroup: group, APIVersion: version, Kind: top.Kind, Namespace: namespace, Name: top.Name}
}
