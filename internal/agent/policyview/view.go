// Package policyview decides about the pods of one node, without knowing the pods of the cluster.
//
// A View follows all policies, and the peer groups that the decisions about its pods ask for. It never guesses: while an
// object is missing that decides about a pod, Decide returns an error that names it. A group counts as received once all
// its objects have been received; what the API server or the network lose afterwards changes nothing.
//
// A pod that no policy selects costs a comparison with the policies of its namespace, and no watch.
package policyview

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/policy"
)

// linger is how long a group is followed that no pod needs. The next pod often needs it again.
const linger = time.Minute

// Source reads the cluster: *agentclient.Client.
type Source interface {
	WatchPolicies(ctx context.Context, to agentclient.PolicySink, log *slog.Logger)
	FollowGroup(ctx context.Context, group string, changed func(index int, slice *compile.PeerSlice), log *slog.Logger)
	// NamedPorts reads the named ports of a pod. A pod with another UID is ipam.ErrNotFound.
	NamedPorts(ctx context.Context, pod lease.PodKey, uid string) ([]policy.NamedPort, error)
}

// Namespaces has the labels of the namespaces: *agentclient.Cluster.
type Namespaces interface {
	NamespaceLabels(name string) (map[string]string, bool)
}

// View answers what policies allow the pods of this node. Its methods do not wait for the API server.
type View struct {
	source     Source
	namespaces Namespaces
	changed    func(lease.PodKey)
	log        *slog.Logger
	work       sync.WaitGroup

	mu      sync.Mutex
	ctx     context.Context // that of Run
	ended   bool            // Run waits for the end of its work
	told    []lease.PodKey  // changed is to be called for, after mu is unlocked
	rules   *policy.Rules
	waiting map[string]bool // kinds of policies that have not been read
	pods    map[lease.PodKey]*pod
	groups  map[string]*group // by name
	// decided are decisions by the policies and ports of a pod. They hold until a group of them changes.
	decided map[string]*decision
}

// pod is a pod that Decide has been asked about.
type pod struct {
	policy.Pod
	uid    string
	ports  bool     // Ports are known
	asked  bool     // Ports are being read
	keys   []string // in decided
	groups map[string]bool
}

// decision are the sets of interfaces with equal policies.
type decision struct {
	sets   policy.Sets
	groups map[string]bool
	// filter has the policies that the sets lack, once Denying has needed them. It is that of any of the interfaces, without Always.
	filter *policy.Filter
}

// Unknown is the error of a decision that some objects are missing for. It wraps ipam.ErrNotReady.
type Unknown struct{ Missing []string }

func (u *Unknown) Error() string {
	return fmt.Sprintf("%v: not received yet: %s", ipam.ErrNotReady, strings.Join(u.Missing, ", "))
}

// Unwrap implements errors.Is.
func (u *Unknown) Unwrap() error { return ipam.ErrNotReady }

// Options are the parts that a View needs.
type Options struct {
	Client  *agentclient.Client
	Cluster *agentclient.Cluster
	// Changed is called with each pod whose decision may be another one than before. It must not block.
	Changed func(lease.PodKey)
	Log     *slog.Logger
}

// New returns a View. Call it before Cluster.Run, and then Run.
func New(o Options) *View {
	v := newView(o.Client, o.Cluster, o.Changed, o.Log)
	o.Cluster.OnNamespaceLabels(v.namespaceChanged)
	return v
}

func newView(source Source, namespaces Namespaces, changed func(lease.PodKey), log *slog.Logger) *View {
	return &View{
		source: source, namespaces: namespaces, changed: changed, log: log,
		rules:   policy.NewRules(),
		waiting: map[string]bool{agentclient.NetworkPolicies: true, agentclient.ClusterPolicies: true, agentclient.MultiPolicies: true},
		pods:    map[lease.PodKey]*pod{}, groups: map[string]*group{}, decided: map[string]*decision{},
	}
}

// Run follows policies and groups until ctx ends.
func (v *View) Run(ctx context.Context) {
	v.mu.Lock()
	v.ctx = ctx
	v.start(func(ctx context.Context) { v.source.WatchPolicies(ctx, v, v.log) })
	v.mu.Unlock()
	tick := time.NewTicker(linger / 2)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			v.tidy(time.Now().Add(-linger))
		}
	}
	v.mu.Lock()
	v.ended = true
	v.mu.Unlock()
	v.work.Wait()
}

// start runs f until it returns, stop is called, or Run ends. v.mu is locked.
func (v *View) start(f func(context.Context)) (stop context.CancelFunc) {
	ctx, cancel := context.WithCancel(v.ctx)
	if !v.ended {
		v.work.Go(func() {
			defer cancel()
			f(ctx)
		})
	}
	return cancel
}

// unlock unlocks v.mu and calls changed for the pods of tell.
func (v *View) unlock() {
	told := v.told
	v.told = nil
	v.mu.Unlock()
	for _, name := range told {
		v.changed(name)
	}
}

// Decide returns the packets that may pass each of these interfaces of a pod, and follows what decides about them until
// Forget. unknown has an *Unknown for each interface that something is missing for, and nil for the others; changed is called
// once it has been received. The caller asks again after a change of the pod's labels.
func (v *View) Decide(of ipam.Pod, interfaces []policy.Interface) (sets []policy.Sets, unknown []error) {
	v.mu.Lock()
	defer v.unlock()
	p := v.follow(of)
	p.Interfaces, p.keys = interfaces, make([]string, len(interfaces))
	sets, unknown = make([]policy.Sets, len(interfaces)), make([]error, len(interfaces))
	needed := map[string]bool{}
	for i := range interfaces {
		sets[i], unknown[i] = v.decide(of, p, i, needed)
	}
	v.need(of.PodKey, p, needed)
	return sets, unknown
}

// decide is Decide for one interface. It adds the groups that it needs.
func (v *View) decide(of ipam.Pod, p *pod, i int, needed map[string]bool) (policy.Sets, error) {
	at := &p.Interfaces[i]
	unknown := func(missing ...string) (policy.Sets, error) {
		maps.Copy(needed, p.groups) // the answer may need them again
		return policy.Sets{}, &Unknown{missing}
	}
	if unread := v.unread(at); len(unread) > 0 {
		return unknown(unread...)
	}
	if at.Default && v.rules.HasClusterPolicies() {
		labels, known := v.namespaces.NamespaceLabels(of.Namespace)
		if !known {
			return unknown("namespace " + of.Namespace)
		}
		v.rules.SetNamespace(policy.Namespace{Name: of.Namespace, Labels: labels})
	}
	selected := v.rules.Select(&p.Pod, at)
	if selected.NeedsPorts() && !p.ports {
		v.askPorts(of.PodKey, p)
		return unknown("the named ports of the pod")
	}
	p.keys[i] = selected.Key(&p.Pod)
	if d := v.decided[p.keys[i]]; d != nil {
		maps.Copy(needed, d.groups)
		return d.sets, nil
	}
	from := &received{view: v, groups: map[string]bool{}}
	filter := selected.Filter(&p.Pod, from)
	maps.Copy(needed, from.groups)
	if len(from.missing) > 0 {
		return policy.Sets{}, &Unknown{from.missing}
	}
	d := &decision{sets: filter.Sets(), groups: from.groups}
	v.decided[p.keys[i]] = d
	return d.sets, nil
}

// concerns reports whether policies of a kind may select the interface.
func concerns(kind string, at *policy.Interface) bool {
	return at.Default == (kind != agentclient.MultiPolicies)
}

// unread returns the kinds of policies for the interface that have not been read.
func (v *View) unread(at *policy.Interface) (kinds []string) {
	for kind := range v.waiting {
		if concerns(kind, at) {
			kinds = append(kinds, kind)
		}
	}
	slices.Sort(kinds)
	return kinds
}

// Forget ends what Decide began for a pod.
func (v *View) Forget(name lease.PodKey) {
	v.mu.Lock()
	defer v.unlock()
	if p := v.pods[name]; p != nil {
		v.need(name, p, nil)
		delete(v.pods, name)
	}
}

// follow returns the pod with the present labels.
func (v *View) follow(of ipam.Pod) *pod {
	p := v.pods[of.PodKey]
	if p == nil || p.uid != of.UID {
		fresh := &pod{uid: of.UID, Pod: policy.Pod{Name: policy.Name{Namespace: of.Namespace, Name: of.Name}}}
		if p != nil {
			fresh.groups = p.groups
		}
		p = fresh
		v.pods[of.PodKey] = p
	}
	p.Labels = of.Labels
	return p
}

// need replaces the groups of a pod.
func (v *View) need(name lease.PodKey, p *pod, groups map[string]bool) {
	for g := range groups {
		v.groups[g].users[name] = true
	}
	for g := range p.groups {
		if !groups[g] {
			delete(v.groups[g].users, name)
			v.groups[g].last = time.Now()
		}
	}
	p.groups = groups
}

// askPorts reads the ports of a pod in the background.
func (v *View) askPorts(name lease.PodKey, p *pod) {
	if p.asked {
		return
	}
	p.asked = true
	v.start(func(ctx context.Context) {
		ports, err := v.readPorts(ctx, name, p.uid)
		if err != nil {
			return // ctx has ended, or the pod has: nobody asks again
		}
		v.mu.Lock()
		defer v.unlock()
		p.Ports, p.ports = ports, true
		if v.pods[name] == p {
			v.told = append(v.told, name)
		}
	})
}

// tell has changed called for the pods that f selects.
func (v *View) tell(f func(*pod) bool) {
	for name, p := range v.pods {
		if f(p) {
			v.told = append(v.told, name)
		}
	}
}

// SetPolicy implements agentclient.PolicySink.
func (v *View) SetPolicy(p *policy.Policy) {
	v.mu.Lock()
	defer v.unlock()
	before := v.rules.Policy(p.Name)
	v.rules.SetPolicy(p)
	v.tellOf(before, p)
}

// DeletePolicy implements agentclient.PolicySink.
func (v *View) DeletePolicy(name policy.Name) {
	v.mu.Lock()
	defer v.unlock()
	before := v.rules.Policy(name)
	v.rules.DeletePolicy(name)
	v.tellOf(before, nil)
}

// tellOf reports the pods that one of the policies selects. They may be nil.
func (v *View) tellOf(policies ...*policy.Policy) {
	clear(v.decided)
	v.tell(func(p *pod) bool {
		return slices.ContainsFunc(policies, func(by *policy.Policy) bool {
			return by != nil && p.has(func(at *policy.Interface) bool { return by.Selects(&p.Pod, at) && len(v.unread(at)) == 0 })
		})
	})
}

// has reports whether an interface of the pod has a property.
func (p *pod) has(property func(*policy.Interface) bool) bool {
	return slices.ContainsFunc(p.Interfaces, func(at policy.Interface) bool { return property(&at) })
}

// SetClusterPolicy implements agentclient.PolicySink. There are few, and they concern whole namespaces.
func (v *View) SetClusterPolicy(p *policy.ClusterPolicy) {
	v.mu.Lock()
	defer v.unlock()
	v.rules.SetClusterPolicy(p)
	v.clusterChanged()
}

// DeleteClusterPolicy implements agentclient.PolicySink.
func (v *View) DeleteClusterPolicy(name policy.Name) {
	v.mu.Lock()
	defer v.unlock()
	v.rules.DeleteClusterPolicy(name)
	v.clusterChanged()
}

func (v *View) clusterChanged() {
	clear(v.decided)
	v.tell(func(p *pod) bool {
		return p.has(func(at *policy.Interface) bool { return at.Default && len(v.unread(at)) == 0 })
	})
}

// Synced implements agentclient.PolicySink.
func (v *View) Synced(kind string) {
	v.mu.Lock()
	defer v.unlock()
	if !v.waiting[kind] {
		return
	}
	delete(v.waiting, kind)
	v.tell(func(p *pod) bool {
		return p.has(func(at *policy.Interface) bool { return concerns(kind, at) && len(v.unread(at)) == 0 })
	})
}

func (v *View) namespaceChanged(name string) {
	v.mu.Lock()
	defer v.unlock()
	if v.rules.HasClusterPolicies() {
		v.tell(func(p *pod) bool { return p.Name.Namespace == name })
	}
}
