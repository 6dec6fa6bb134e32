// Package enforcer keeps the packet filters of the node's pods in agreement with their policies.
//
// An interface of a pod is filtered if it is ours and a policy selects it; other pods have no table and cost nothing. The ADD
// of each interface calls Admit, which returns once its isolation stands in the kernel. The pod's first process starts later. Running
// pods follow: Changed names the pods with another decision, and workers bring their filters into agreement, each pod for
// itself.
//
// A filter stays in the kernel while no agent runs. The next agent finds the sandboxes in Records, a directory beside its
// socket that ends with the node's uptime, like the network namespaces, and takes their filters over. The owner of a
// sandbox without a record, e.g. of an earlier release, is the holder of the leases of its addresses.
//
// An open filter keeps its network namespace alive, and with it the interfaces and their addresses. So DEL calls Forget, and
// Run forgets every few seconds the sandboxes whose namespace is gone.
package enforcer

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"k8s.io/client-go/util/workqueue"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/linux/packetfilter"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/wire"
)

const (
	// workers bounds the sandboxes that are changed at once. A change waits for the kernel (synchronize_rcu), not for a
	// processor.
	workers = 8
	// patience is how long an ADD waits for policies that the agent has not read yet.
	patience = 10 * time.Second
	// settleTime is the time after an ADD until the interface of the pod exists.
	settleTime = time.Second
	// pause is the time between two attempts of an ADD while another agent has the filter.
	pause = 100 * time.Millisecond
	// lookInterval is the time between two looks at the records and at the namespaces of pods.
	lookInterval = 10 * time.Second
	// searchTime is how long sandboxes without a record are searched. ADDs of an agent of an earlier release end meanwhile.
	searchTime = 2 * time.Minute
	// firstRetry and lastRetry are the pauses after a failed change; the pause doubles in between.
	firstRetry, lastRetry = 100 * time.Millisecond, 5 * time.Second
)

// View decides about the pods of this node.
type View interface {
	// Decide returns the packets that may pass each interface, besides those of Always. The errors, one for each interface,
	// name what the view has not read yet.
	Decide(pod ipam.Pod, interfaces []policy.Interface) (sets []policy.Sets, unknown []error)
	// Forget says that the pod has ended.
	Forget(lease.PodKey)
}

// Filter is a *packetfilter.Filter: the filter in the namespace of a pod. Close leaves it in the kernel.
type Filter interface {
	Apply(packetfilter.Wanted) error
	Takeover() string
	Drops() ([]packetfilter.Drops, error)
	Close() error
}

// NodeFilter is a *packetfilter.Node: the filter of the packets that the node forwards from and to pods.
type NodeFilter interface {
	Set(pair string, wanted packetfilter.Wanted) error
	// Adopted removes the filters of former agents, because this one has all pods.
	Adopted() error
	Drops() ([]packetfilter.Drops, error)
	Close() error
}

// Enforcer enforces the policies of one node. Set the exported fields, then call Run. Admit may be called before.
type Enforcer struct {
	View View
	// Ready returns an error until Pod and Leases are complete.
	Ready func() error
	// Pod returns a pod of this node from memory.
	Pod func(lease.PodKey) (ipam.Pod, bool)
	// Leases returns the leases of this node.
	Leases func() []lease.Lease
	// Interface returns an interface of a starting sandbox, false if it is not ours. namespace is a path.
	Interface func(at wire.Attachment, namespace string, pod ipam.Pod) (it policy.Interface, ours bool, err error)
	// Networks returns the networks of a running sandbox's interfaces, by name.
	Networks func(lease.Holder) (map[string]policy.Name, error)
	// Open opens the filter of the namespace at a path, and OpenNode that of the node. Clear and ClearNode remove the
	// filters of former agents.
	Open      func(namespace string) (Filter, error)
	OpenNode  func() (NodeFilter, error)
	Clear     func(namespace string) error
	ClearNode func() error
	// Records is the directory with the records of sandboxes.
	Records string
	// PodNamespaces is the directory in which the container runtime mounts the network namespaces of pods, e.g.
	// "/run/netns".
	PodNamespaces string
	// Warn writes an event about a pod.
	Warn    func(pod ipam.Pod, reason string)
	Metrics *Metrics
	Now     func() time.Time
	Log     *slog.Logger

	once  sync.Once
	queue workqueue.TypedRateLimitingInterface[string] // container IDs
	// until is the end of the search for sandboxes without a record. Only Run uses it.
	until       time.Time
	searchEnded bool
	node        pairs

	mu struct {
		sync.Mutex
		sandboxes map[string]*sandbox                // by container ID
		ofPod     map[lease.PodKey]map[*sandbox]bool // a pod may have a former sandbox, too
		// undecided are the sandboxes of former agents without a decision of this one.
		undecided map[*sandbox]bool
		// host are the addresses of the node, known once SetNodeAddrs has been called.
		host  inet.Set
		known bool
		// searched means that all sandboxes of former agents have been found.
		searched bool
		// woken is closed by the next change.
		woken chan struct{}
	}
}

// init makes the parts that calls before Run need.
func (e *Enforcer) init() {
	e.once.Do(func() {
		e.queue = workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, lastRetry))
		e.mu.sandboxes, e.mu.ofPod = map[string]*sandbox{}, map[lease.PodKey]map[*sandbox]bool{}
		e.mu.undecided, e.mu.woken = map[*sandbox]bool{}, make(chan struct{})
		e.node.open, e.node.clear = e.OpenNode, e.ClearNode
	})
}

// Run enforces until ctx ends. Then it leaves the filters in the kernel.
func (e *Enforcer) Run(ctx context.Context) {
	e.init()
	var parts sync.WaitGroup
	for range workers {
		parts.Go(func() {
			for e.next() {
			}
		})
	}
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		e.look()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	e.queue.ShutDown()
	parts.Wait()
	e.closeAll()
}

// adopted removes the node's filter of former agents once this one has decided about all sandboxes. Until then, both judge.
func (e *Enforcer) adopted() {
	e.mu.Lock()
	all := len(e.mu.undecided) == 0 && e.mu.searched
	e.mu.Unlock()
	if !all {
		return
	}
	if err := e.node.adopted(); err != nil {
		e.Log.Warn("cannot remove the packet filters of a former agent on the node", "err", err)
	}
}

// next brings one sandbox into agreement. It returns false at the end.
func (e *Enforcer) next() bool {
	id, shutdown := e.queue.Get()
	if shutdown {
		return false
	}
	defer e.queue.Done(id)
	s := e.sandbox(id)
	if s == nil {
		e.queue.Forget(id)
		return true
	}
	pod, ok := e.Pod(s.Pod)
	switch {
	case e.Ready() != nil:
		e.queue.AddRateLimited(id)
		return true
	case !ok || pod.UID != s.UID:
		if err := e.orphan(s); err != nil {
			e.Log.Warn("cannot close what the node forwards for a sandbox without a pod", "pod", s.Pod.String(), "err", err)
			e.queue.AddRateLimited(id)
			return true
		}
	case e.bring(s, pod) != nil:
		e.queue.AddRateLimited(id)
		return true
	}
	e.queue.Forget(id)
	e.adopted()
	return true
}

// decided says that this agent knows what to do about a sandbox.
func (e *Enforcer) decided(s *sandbox) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.mu.undecided, s)
}

// Changed says that the decision about the pod may be another one since the event that arrived at a time. It does not block.
func (e *Enforcer) Changed(pod lease.PodKey, arrived time.Time) {
	e.init()
	e.mu.Lock()
	defer e.mu.Unlock()
	for s := range e.mu.ofPod[pod] {
		e.enqueue(s, arrived)
	}
	e.wake()
}

// ChangedAll is Changed for all pods, e.g. when the node has other addresses.
func (e *Enforcer) ChangedAll(arrived time.Time) {
	e.init()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.mu.sandboxes {
		e.enqueue(s, arrived)
	}
	e.wake()
}

// SetNodeAddrs sets the addresses of the node, whose packets always pass.
func (e *Enforcer) SetNodeAddrs(addrs []netip.Addr) {
	e.init()
	set := inet.OfAddrs(addrs...)
	e.mu.Lock()
	same := e.mu.known && e.mu.host.Equal(set)
	e.mu.host, e.mu.known = set, true
	e.mu.Unlock()
	if !same {
		e.ChangedAll(e.Now())
	}
}

// enqueue has a worker bring the sandbox into agreement. e.mu is locked.
func (e *Enforcer) enqueue(s *sandbox, arrived time.Time) {
	s.measureFrom(arrived)
	e.queue.Add(s.Container)
}

// wake ends the waits of Admit. e.mu is locked.
func (e *Enforcer) wake() {
	close(e.mu.woken)
	e.mu.woken = make(chan struct{})
}

// Admit returns once the isolation of a starting interface stands in the kernel. It may be called again for the same
// attachment.
//
// While the policies that decide about the pod are unknown, or another agent has the filter, it waits for up to patience.
// The error is an *ipam.Error that names what is missing.
func (e *Enforcer) Admit(ctx context.Context, at wire.Attachment, pod ipam.Pod) error {
	e.init()
	s, err := e.record(at, pod)
	if err != nil {
		return &ipam.Error{Kind: ipam.Internal, Msg: "spiderpool-agent cannot record the sandbox of the pod for its policies", Details: err.Error(), Err: err}
	}
	if s == nil {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for waiting := true; waiting; {
		e.mu.Lock()
		woken := e.mu.woken
		e.mu.Unlock()
		if err = e.bring(s, pod); err == nil {
			if s.filtered() { // its interface may appear later, and without a coordinator, no request follows
				e.queue.AddAfter(s.Container, settleTime)
			}
			return nil
		}
		if !passes(err) {
			break
		}
		select {
		case <-woken:
		case <-time.After(pause):
		case <-limited.Done():
			waiting = false
		}
	}
	return &ipam.Error{Kind: ipam.Unavailable, Details: err.Error(), Err: err,
		Msg: fmt.Sprintf("the network policies of pod %s are not in effect yet, so it does not start", pod.PodKey)}
}
