package ipam

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/wire"
)

// turnedAway is the outcome of a pod whose pools have no address left.
type turnedAway struct {
	exhausted *lease.ExhaustedError
	// drops are the pools that were not even candidates.
	drops []pool.Drop
	// wants is how many addresses the pod wants in all.
	wants int
}

func (e *turnedAway) Error() string {
	text := e.exhausted.Error()
	if slices.ContainsFunc(e.exhausted.Pools, func(p lease.PoolUsage) bool { return p.Free > 0 }) {
		text += fmt.Sprintf("; the %d addresses that the pod wants for all its interfaces are granted together or not at all", e.wants)
	}
	if len(e.drops) > 0 {
		text += "; " + pool.Explain(e.drops)
	}
	return text
}

// Unwrap returns the allocation's error.
func (e *turnedAway) Unwrap() error { return e.exhausted }

// explain gives an error of ADD its CNI code and its words.
func (s *Service) explain(pod Pod, ifname string, err error) *wire.Error {
	var failure *wire.Error
	var annotation *pool.AnnotationError
	var noPool pool.NoPools
	var away *turnedAway
	var superseded *lease.SupersededError
	subject := fmt.Sprintf("interface %s of pod %s/%s on node %s gets no address", ifname, pod.Namespace, pod.Name, s.Node)
	if errors.As(err, &failure) {
		return failure
	}
	failure = &wire.Error{Msg: subject, Details: err.Error(), Cause: err}
	switch {
	case errors.As(err, &annotation):
		failure.Code = wire.CodeInvalidConfig
	case errors.As(err, &noPool), errors.As(err, &away):
		failure.Code = wire.CodeNoAddress
	case errors.As(err, &superseded):
		failure.Code = wire.CodeTryAgainLater
		failure.Msg += ": the pod has a newer sandbox"
	case errors.Is(err, ErrConflict):
		failure.Code = wire.CodeTryAgainLater
		failure.Msg += ": other nodes were faster, again and again"
	case errors.Is(err, ErrNotReady), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		failure.Code = wire.CodeTryAgainLater
		failure.Msg += " in time"
	default:
		failure.Code = wire.CodeTryAgainLater
		failure.Msg += ": the API server did not do what was asked of it"
	}
	return failure
}

// appOf says in the terms of pool affinities which application a pod belongs to.
func appOf(namespace string, top Controller) *pool.App {
	if top.Kind == "" {
		return nil
	}
	group, version, grouped := strings.Cut(top.APIVersion, "/")
	if !grouped {
		group, version = "", top.APIVersion
	}
	return &pool.App{APIGroup: group, APIVersion: version, Kind: top.Kind, Namespace: namespace, Name: top.Name}
}
