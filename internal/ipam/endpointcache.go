package ipam

import (
	"slices"
	"sync"
)

// endpointCache remembers what the pods of this node were given, because an ADD may be
// about some of a pod's interfaces only and its endpoint is about all. The zero
// value is empty. It does not outlive the process; Repair makes up for that.
type endpointCache struct {
	mu   sync.Mutex
	pods map[string][]EndpointInterface // by UID
}

// merge adds the interfaces to those of the pod, or replaces them, and returns all.
func (s *endpointCache) merge(podUID string, assigned []EndpointInterface) []EndpointInterface {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pods == nil {
		s.pods = map[string][]EndpointInterface{}
	}
	all := slices.Clone(s.pods[podUID])
	for _, i := range assigned {
		at := slices.IndexFunc(all, func(old EndpointInterface) bool { return old.Interface == i.Interface })
		if at < 0 {
			all = append(all, i)
		} else {
			all[at] = i
		}
	}
	s.pods[podUID] = all
	return all
}

// remove forgets an interface, or the pod where ifname is "".
func (s *endpointCache) remove(podUID, ifname string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := slices.DeleteFunc(slices.Clone(s.pods[podUID]), func(i EndpointInterface) bool {
		return ifname == "" || i.Interface == ifname
	})
	if len(rest) == 0 {
		delete(s.pods, podUID)
		return
	}
	s.pods[podUID] = rest
}
