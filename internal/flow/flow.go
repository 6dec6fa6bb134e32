package flow

import (
	"net/netip"

	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

// Flow is an event with what the cluster knows about both ends. Flows share their ends, so receivers only read them.
type Flow struct {
	Event
	// Lost is set instead of Event.Kind and all fields after it: so many events were lost at Time.
	Lost uint64
	// Opener and Target are the ends at Source and Destination. Nil means that the end is not known yet.
	Opener, Target *End
	// Frontend is the Service with the address Event.Service; zero if there is none or it is not known.
	Frontend service.Name
}

// End is one end of a flow. An address that belongs to no known pod is the zero value.
type End struct {
	Pod lease.PodKey
	UID string
	// Labels are those of the pod.
	Labels map[string]string
	// Workload is the top controller of the pod, e.g. its Deployment.
	Workload Workload
	// Node is the name of the pod's node.
	Node string
}

// Workload identifies a controller.
type Workload struct{ APIVersion, Kind, Name, UID string }

// IsPod reports whether the end is a known pod.
func (e *End) IsPod() bool { return e != nil && e.Pod.Name != "" }

// Local is the end in the event's own pod.
func (f *Flow) Local() **End { return f.end(f.Direction == policy.Egress) }

// Remote is the other end.
func (f *Flow) Remote() **End { return f.end(f.Direction != policy.Egress) }

func (f *Flow) end(opener bool) **End {
	if opener {
		return &f.Opener
	}
	return &f.Target
}

// RemoteAddr is the address of Remote.
func (f *Flow) RemoteAddr() netip.Addr {
	if f.Direction == policy.Egress {
		return f.Destination.Addr()
	}
	return f.Source.Addr()
}
