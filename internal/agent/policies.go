package agent

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"time"

	"spiderpool.dev/spiderpool/internal/agent/enforcer"
	"spiderpool.dev/spiderpool/internal/agent/policyview"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/packetfilter"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/wire"
)

// endpointTimeout bounds a read of a SpiderEndpoint.
const endpointTimeout = 5 * time.Second

// policies are the parts that enforce network policies. They are nil with policy.enabled=false.
type policies struct {
	view     *policyview.View
	enforcer *enforcer.Enforcer
}

// newPolicies returns the parts, or nil if policies are not enforced.
func (a *agent) newPolicies(client *agentclient.Client) *policies {
	if !a.cfg.Policy.Enabled {
		return nil
	}
	e := &enforcer.Enforcer{
		Ready:         a.ready,
		Pod:           a.cluster.SeenPod,
		Leases:        func() []lease.Lease { return a.service.Allocator.HeldFor(0) },
		Interface:     a.policyInterface,
		Networks:      a.storedNetworks,
		Open:          func(path string) (enforcer.Filter, error) { return inNamespace(path, a.openFilter) },
		OpenNode:      func() (enforcer.NodeFilter, error) { return inNamespace(linux.CurrentPath, a.openNodeFilter) },
		Clear:         clearFilter,
		ClearNode:     func() error { return clearFilter(linux.CurrentPath) },
		Records:       filepath.Join(filepath.Dir(a.cfg.SocketPath), "sandboxes"),
		PodNamespaces: podNamespaces,
		Warn:          a.events.PolicyNotEnforced,
		Metrics:       a.metrics.policies,
		Now:           time.Now,
		Log:           a.log,
	}
	changed := func(pod lease.PodKey) { e.Changed(pod, time.Now()) }
	view := policyview.New(policyview.Options{Client: client, Cluster: a.cluster, Changed: changed, Log: a.log})
	e.View = view
	a.cluster.OnPodLabels(changed)
	a.metrics.policies.Watch(e.States)
	return &policies{view: view, enforcer: e}
}

// enforcePolicies enforces policies until ctx ends. Without enforcement, it removes the filters of an agent that enforced.
func (a *agent) enforcePolicies(ctx context.Context) {
	if a.policies != nil {
		a.policies.enforcer.Run(ctx)
		return
	}
	a.retry(ctx, "remove the packet filters of network policies", func(context.Context) error {
		node, err := linux.Current()
		if err != nil {
			return err
		}
		defer node.Close()
		removed, err := packetfilter.RemoveAll(node, podNamespaces)
		if removed > 0 {
			a.log.Info("removed the packet filters of network policies, because policy.enabled is false", "count", removed)
		}
		return err
	})
}

// followPolicies reads the policies of the cluster until ctx ends.
func (a *agent) followPolicies(ctx context.Context) {
	if a.policies != nil {
		a.policies.view.Run(ctx)
	}
}

// admit returns once the policies of a starting pod are in the kernel.
func (p *policies) admit(ctx context.Context, at wire.Attachment, pod ipam.Pod) error {
	if p == nil {
		return nil
	}
	return p.enforcer.Admit(ctx, at, pod)
}

// denying returns the policies that drop a packet; see policyview.View.
func (p *policies) denying(pod lease.PodKey, dev string, way policy.Direction, packet policy.Packet) []policy.Name {
	if p == nil {
		return nil
	}
	return p.view.Denying(pod, dev, way, packet)
}

func (p *policies) forget(at wire.Attachment) {
	if p != nil {
		p.enforcer.Forget(at)
	}
}

func (p *policies) setNodeAddrs(addrs []netip.Addr) {
	if p != nil {
		p.enforcer.SetNodeAddrs(addrs)
	}
}

// policyInterface returns an interface of a starting sandbox with its leased addresses. A default interface may have those of
// another IPAM plugin.
func (a *agent) policyInterface(at wire.Attachment, namespace string, pod ipam.Pod) (it policy.Interface, ours bool, err error) {
	it = policy.Interface{Name: at.Interface, Default: at.Interface == pool.FirstInterface}
	for _, l := range a.service.Allocator.Attached(lease.Attachment{ContainerID: at.ContainerID, Interface: at.Interface}) {
		it.Addrs = append(it.Addrs, l.Addr)
	}
	if it.Default {
		if len(it.Addrs) == 0 {
			it.Addrs, err = addrsIn(namespace)
		}
		return it, true, err
	}
	it.Network = a.networks(pod)[it.Name]
	return it, len(it.Addrs) > 0, nil
}

// addrsIn returns the addresses of the default interface in a namespace.
func addrsIn(namespace string) ([]netip.Addr, error) {
	ns, err := linux.Open(namespace)
	if err != nil {
		return nil, nil //nolint:nilerr // a pod that a policy selects fails when its filter is opened, others start
	}
	defer ns.Close()
	return ns.AddrsOf(pool.FirstInterface)
}

// networks returns the networks in the pod's annotations by interface. The ADD has judged the annotations.
func (a *agent) networks(pod ipam.Pod) map[string]policy.Name {
	interfaces, _ := pool.Interfaces(pod.Namespace, pod.Annotations, a.service.Options.ClusterNetwork)
	networks := make(map[string]policy.Name, len(interfaces))
	for _, i := range interfaces {
		networks[i.Name] = policy.Name{Namespace: i.Attachment.Namespace, Name: i.Attachment.Name}
	}
	return networks
}

// storedNetworks returns the networks of a running pod's interfaces from its SpiderEndpoint, because the pod may have changed
// its annotations since its ADD. An interface of an earlier release has no network there before the agent repairs it.
func (a *agent) storedNetworks(holder lease.Holder) (map[string]policy.Name, error) {
	ctx, cancel := context.WithTimeout(context.Background(), endpointTimeout)
	defer cancel()
	networks := map[string]policy.Name{}
	if pod, ok := a.cluster.SeenPod(holder.Pod); ok && pod.UID == holder.PodUID {
		networks = a.networks(pod)
	}
	stored, err := a.endpoints.Stored(ctx, ipam.EndpointOf(holder))
	if err != nil || stored == nil || stored.PodUID != holder.PodUID {
		return networks, err
	}
	for _, i := range stored.Interfaces {
		if i.Network != (pool.NetworkAttachment{}) {
			networks[i.Interface] = policy.Name{Namespace: i.Network.Namespace, Name: i.Network.Name}
		}
	}
	return networks, nil
}

// inNamespace calls f with the namespace at a path. What f opens there may outlive the call.
func inNamespace[T any](path string, f func(*linux.Namespace) (T, error)) (opened T, err error) {
	ns, err := linux.Open(path)
	if err != nil {
		return opened, err
	}
	defer ns.Close()
	return f(ns)
}

// openFilter opens the packet filter of a pod.
func (a *agent) openFilter(ns *linux.Namespace) (enforcer.Filter, error) {
	f, err := packetfilter.Open(ns)
	if err != nil {
		return nil, err
	}
	if f.Untracked != nil {
		a.log.Warn("the older connections of a pod meet its first policy", "err", f.Untracked)
	}
	a.logDrops(f)
	return f, nil
}

func (a *agent) openNodeFilter(ns *linux.Namespace) (enforcer.NodeFilter, error) {
	f, err := packetfilter.OpenNode(ns)
	if err != nil {
		return nil, err
	}
	a.logDrops(f)
	return f, nil
}

// clearFilter removes the filters in a namespace. Without a namespace, no agent can have made one.
func clearFilter(path string) error {
	_, err := inNamespace(path, packetfilter.Remove)
	if errors.Is(err, linux.ErrNoNamespace) {
		return nil
	}
	return err
}
