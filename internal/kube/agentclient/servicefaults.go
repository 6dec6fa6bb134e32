package agentclient

import (
	"context"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"spiderpool.dev/spiderpool/internal/observe"
	"spiderpool.dev/spiderpool/internal/service"
)

// Authors of Services and EndpointSlices cause faults, so their number is bounded.
const (
	// maxFaulty is the maximum number of objects whose faults are remembered, maxFaults that of the faults in one text,
	// and maxWaiting that of the texts without an event yet.
	maxFaulty, maxFaults, maxWaiting = 1000, 10, 100
	// faultPause is the longest pause before an event. It bounds the rate, and spreads the requests of the agents, which
	// all find the same faults.
	faultPause = 30 * time.Second
)

// TellFault writes an event about an object.
type TellFault func(ctx context.Context, about *corev1.ObjectReference, event observe.Event) error

// serviceFaults tells which Services and EndpointSlices have invalid parts, once until the parts change.
type serviceFaults struct {
	log  *slog.Logger
	tell TellFault // nil to log only

	waiting chan fault
	mu      sync.Mutex
	told    map[objectKey]uint64 // hashes of the texts
}

type fault struct {
	about corev1.ObjectReference
	event observe.Event
}

type objectKey struct {
	kind string
	name service.Name
}

func newServiceFaults(log *slog.Logger, tell TellFault) *serviceFaults {
	return &serviceFaults{log: log, tell: tell, told: map[objectKey]uint64{}, waiting: make(chan fault, maxWaiting)}
}

// forget receives the name of a deleted object.
func (s *serviceFaults) forget(kind string, name service.Name) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.told, objectKey{kind, name})
}

// observe receives the faults of an object; none if all its parts are valid.
func (s *serviceFaults) observe(about corev1.ObjectReference, event func(string) observe.Event, errs field.ErrorList) {
	key := objectKey{about.Kind, service.Name{Namespace: about.Namespace, Name: about.Name}}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(errs) == 0 {
		delete(s.told, key)
		return
	}
	told := event(errs[:min(len(errs), maxFaults)].ToAggregate().Error())
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(told.Text))
	former, known := s.told[key]
	if known && former == hash.Sum64() || !known && len(s.told) == maxFaulty {
		return
	}
	s.told[key] = hash.Sum64()
	s.log.Warn("an object has invalid parts, which get no entries", "kind", about.Kind, "object", about.Namespace+"/"+about.Name, "err", told.Text)
	select {
	case s.waiting <- fault{about, told}:
	default: // the log has it
	}
}

// run writes events until ctx ends.
func (s *serviceFaults) run(ctx context.Context) {
	for s.tell != nil {
		var f fault
		select {
		case <-ctx.Done():
			return
		case f = <-s.waiting:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(rand.N(faultPause)):
		}
		if err := s.tell(ctx, &f.about, f.event); err != nil {
			s.log.Warn("cannot write an event", "kind", f.about.Kind, "object", f.about.Namespace+"/"+f.about.Name, "err", err)
		}
	}
}

// referenceTo returns a reference for events.
func referenceTo(apiVersion, kind string, object metav1.Object) corev1.ObjectReference {
	return corev1.ObjectReference{
		APIVersion: apiVersion, Kind: kind, Namespace: object.GetNamespace(), Name: object.GetName(), UID: object.GetUID(),
	}
}
