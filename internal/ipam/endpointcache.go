package ipam

import (
	"slices"
	"sync"
)

// endpointCache maps pods of this node to their assigned interfaces: one ADD may cover
// some of a pod's interfaces, but its SpiderEndpoint covers all. The zero value is
// empty. It does not survive a restart; Repair fills it again.
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
