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
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/wire"
)

// policies are the parts that enforce network policies. They are nil with policy.enabled=false.
type policies struct {
	cluster  *agentclient.Cluster
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
		Addrs:         a.addrsOf,
		Open:          a.openFilter,
		OpenNode:      a.openNodeFilter,
		Clear:         clearFilter,
		ClearNode:     clearNodeFilter,
		Records:       filepath.Join(filepath.Dir(a.cfg.SocketPath), "sandboxes"),
		PodNamespaces: podNamespaces,
		Warn:          a.events.PolicyNotEnforced,
		Metrics:       a.metrics.policies,
		Now:           time.Now,
		Log:           a.log,
	}
	changed := func(pod lease.PodKey) { e.Changed([]lease.PodKey{pod}, time.Now()) }
	view := policyview.New(policyview.Options{Client: client, Cluster: a.cluster, Changed: changed, Log: a.log})
	e.View = view
	a.cluster.OnPodLabels(changed)
	a.metrics.policies.Watch(e.States)
	return &policies{cluster: a.cluster, view: view, enforcer: e}
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
func (p *policies) admit(ctx context.Context, at wire.Attachment) error {
	if p == nil || at.Interface != pool.FirstInterface {
		return nil
	}
	pod, err := p.cluster.Pod(ctx, lease.PodKey{Namespace: at.PodNamespace, Name: at.PodName}, at.PodUID)
	if err != nil {
		return podFailure(at, err)
	}
	return p.admitPod(ctx, at, pod)
}

// admitPod is admit for a pod that has been read.
func (p *policies) admitPod(ctx context.Context, at wire.Attachment, pod ipam.Pod) error {
	if p == nil {
		return nil
	}
	return p.enforcer.Admit(ctx, at, pod)
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

// addrsOf returns the leased addresses of a starting sandbox's default interface, or those that another IPAM plugin gave it.
func (a *agent) addrsOf(container, namespace string) (addrs []netip.Addr, err error) {
	for _, l := range a.service.Allocator.Attached(lease.Attachment{ContainerID: container, Interface: pool.FirstInterface}) {
		addrs = append(addrs, l.Addr)
	}
	if len(addrs) > 0 {
		return addrs, nil
	}
	ns, err := linux.Open(namespace)
	if err != nil {
		return nil, nil //nolint:nilerr // a pod that a policy selects fails when its filter is opened, others start
	}
	defer ns.Close()
	return ns.AddrsOf(pool.FirstInterface)
}

// openFilter opens the packet filter of a pod. Its socket keeps the namespace.
func (a *agent) openFilter(namespace string) (enforcer.Filter, error) {
	ns, err := linux.Open(namespace)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	f, err := packetfilter.Open(ns)
	if err != nil {
		return nil, err
	}
	a.logDrops(f)
	return f, nil
}

func (a *agent) openNodeFilter() (enforcer.NodeFilter, error) {
	node, err := linux.Current()
	if err != nil {
		return nil, err
	}
	defer node.Close()
	f, err := packetfilter.OpenNode(node)
	if err != nil {
		return nil, err
	}
	a.logDrops(f)
	return f, nil
}

func clearFilter(namespace string) error {
	ns, err := linux.Open(namespace)
	if errors.Is(err, linux.ErrNoNamespace) {
		return nil // no agent can have opened it
	}
	if err != nil {
		return err
	}
	defer ns.Close()
	_, err = packetfilter.Remove(ns)
	return err
}

func clearNodeFilter() error {
	node, err := linux.Current()
	if err != nil {
		return err
	}
	defer node.Close()
	_, err = packetfilter.Remove(node)
	return err
}
