package ipamtest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// nodePort implements the ports of package ipam for one node.
type nodePort struct {
	*FakeCluster
	node string
}

func (p nodePort) Pod(_ context.Context, name lease.PodKey, uid string) (ipam.Pod, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pod, ok := p.pods[name]
	if stale := p.stale[p.node]; stale.PodKey == name && stale.UID == uid {
		return stale, nil
	}
	switch {
	case ok && pod.Node == p.node && (uid == "" || uid == pod.UID):
		return pod.Pod, nil // from memory, also with the API server away
	case p.away:
		return ipam.Pod{}, ErrAway
	case !ok || uid != "" && uid != pod.UID:
		return ipam.Pod{}, fmt.Errorf("pod %s: %w", name, ipam.ErrNotFound)
	}
	return ipam.Pod{}, fmt.Errorf("pod %s: %w", name, ipam.ErrElsewhere)
}

func (p nodePort) PodState(_ context.Context, name lease.PodKey) (reclaim.Pod, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away {
		return reclaim.Pod{}, ErrAway
	}
	pod, ok := p.pods[name]
	if !ok {
		return reclaim.Pod{Presence: reclaim.Gone}, nil
	}
	state := pod.State
	state.Presence, state.UID = reclaim.Exists, pod.UID
	return state, nil
}

func (p nodePort) NodeState(context.Context) (reclaim.Node, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away {
		return reclaim.Node{}, ErrAway
	}
	return reclaim.Node{Presence: reclaim.Exists, Ready: !p.notReady[p.node]}, nil
}

func (p nodePort) Namespace(_ context.Context, name string) (pool.NamespaceFacts, error) {
	if facts, ok := p.namespaces[name]; ok {
		return facts, nil
	}
	return pool.NamespaceFacts{Name: name}, nil
}

func (p nodePort) Node(context.Context) (pool.NodeFacts, error) {
	if facts, ok := p.nodes[p.node]; ok {
		return facts, nil
	}
	return pool.NodeFacts{Name: p.node}, nil
}

func (p nodePort) TopController(_ context.Context, pod ipam.Pod) (ipam.Controller, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known, ok := p.pods[pod.PodKey]; ok && known.Top.Kind != "" {
		return known.Top, nil
	}
	if pod.Owner.Kind != "" {
		return pod.Owner, nil
	}
	return ipam.Controller{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}, nil
}

func (p nodePort) Network(_ context.Context, name pool.NetworkAttachment) (ipam.Network, error) {
	network, ok := p.networks[name]
	if !ok {
		return ipam.Network{}, fmt.Errorf("network attachment %s: %w", name, ipam.ErrNotFound)
	}
	return network, nil
}

func (p nodePort) Subnets(link string) ([]netip.Prefix, error) {
	subnets, ok := p.subnets[p.node+"/"+link]
	if !ok {
		return nil, fmt.Errorf("link %q: no such network interface", link)
	}
	return subnets, nil
}

func (p nodePort) Sandboxes(context.Context) (map[string]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mute[p.node] {
		return nil, fmt.Errorf("the runtime of %s does not answer: %w", p.node, ipam.ErrNotReady)
	}
	return maps.Clone(p.sandboxes[p.node]), nil
}

func (p nodePort) Get(_ context.Context, name string) (*pool.Pool, error) {
	if err := p.reach(); err != nil {
		return nil, err
	}
	found, ok := p.pools[name]
	if !ok {
		return nil, fmt.Errorf("pool %s: %w", name, ipam.ErrNotFound)
	}
	return found, nil
}

func (p nodePort) List(_ context.Context, limit int) ([]*pool.Pool, error) {
	if err := p.reach(); err != nil {
		return nil, err
	}
	var pools []*pool.Pool
	for _, name := range slices.Sorted(maps.Keys(p.pools)) {
		if len(pools) < limit {
			pools = append(pools, p.pools[name])
		}
	}
	return pools, nil
}

// Changed updates the endpoint at once. An update that fails is lost, like that of a
// killed agent.
func (p nodePort) Changed(key ipam.EndpointKey, _ time.Duration) {
	name := key.String()
	p.mu.Lock()
	service := p.services[p.node]
	var stored *ipam.Endpoint
	if e, ok := p.endpoints[name]; ok {
		stored = &e
	}
	p.mu.Unlock()
	if p.reach() != nil {
		return
	}
	want, err := service.Endpoint(context.Background(), key, stored)
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if want == nil {
		delete(p.endpoints, name)
	} else {
		want.New = false
		p.endpoints[name] = *want
	}
}

func (p nodePort) AllocationFailed(pod ipam.Pod, message string) {
	p.event(pod, "Warning FailedAllocateIP", message)
}

func (p nodePort) OwnerNotProven(pod ipam.Pod, doubt string) {
	p.event(pod, "Warning OwnerNotProven", doubt)
}

func (p nodePort) AddressConflict(pod ipam.Pod, message string) {
	p.event(pod, "Warning IPConflict", message)
}

func (p nodePort) NetworkNotTrusted(message string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, fmt.Sprintf("Warning NetworkNotTrusted node %s: %s", p.node, message))
}

func (p nodePort) Reclaimed(pod ipam.Pod, change reclaim.Change) {
	p.event(pod, "Normal ReclaimedIP", change.String())
}

func (p nodePort) LeaseRestored(pod ipam.Pod, message string) {
	p.event(pod, "Warning LeaseRestored", message)
}

func (p nodePort) event(pod ipam.Pod, what, message string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, fmt.Sprintf("%s %s/%s: %s", what, pod.Namespace, pod.Name, message))
}
