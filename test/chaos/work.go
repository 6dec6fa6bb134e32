package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/test/history"
	"spiderpool.dev/spiderpool/test/sim"
)

const (
	// retryAfter is the pause of a runtime or client after a failure.
	retryAfter = 100 * time.Millisecond
	// requestLimit bounds one request to the API server. callLimit bounds one call of the
	// plugin; then the runtime kills it, as after kubelet's timeout.
	requestLimit = 5 * time.Second
	callLimit    = 20 * time.Second
	// agentStart is the limit for an agent to listen after its start.
	agentStart = 5 * time.Second
	// holdLimit is the maximum life of a pod.
	holdLimit = 400 * time.Millisecond
)

// problems collects errors from many goroutines.
type problems struct {
	mu   sync.Mutex
	list []error
}

func (p *problems) add(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, err)
}

func (p *problems) all() []error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.list
}

// pod is a pod to create.
type pod struct {
	name string
	// second adds the interface net1 to eth0.
	second bool
	// of is the pod's StatefulSet; nil for none.
	of *appsv1.StatefulSet
}

// sandbox is a pod's sandbox on a node. Its Attachment names the interface of the
// current call.
type sandbox struct {
	node int
	sim.Attachment
	interfaces []string
	results    map[string][]byte       // of ADD, by interface
	addresses  map[string][]netip.Addr // by interface
}

// workAll makes every worker of every node run one pod after the other. No pod starts
// after the end of starting, and the last ones must end before working does.
func (c *chaos) workAll(starting, working context.Context, done *sync.WaitGroup) *problems {
	found := &problems{}
	for node := range c.nodes {
		for w := range c.workers {
			random := c.random(uint64(1000 + node*1000 + w))
			done.Go(func() {
				// One worker per node has a StatefulSet, whose pod has two interfaces.
				keeper := &stateful{name: fmt.Sprintf("fixed-%d", node), second: true}
				for i := 0; starting.Err() == nil; i++ {
					p := pod{name: fmt.Sprintf("pod-%d-%d-%d", node, w, i), second: random.IntN(3) == 0}
					live := func() error { return c.life(working, node, p, random) }
					if w == 0 && random.IntN(2) == 0 {
						p.name = keeper.name
						live = func() error { return c.fixedLife(working, keeper, random) }
					}
					if err := live(); err != nil {
						found.add(fmt.Errorf("%s: %w", p.name, err))
						return
					}
				}
			})
		}
	}
	return found
}

// life is the whole life of a pod, in one of several variants.
func (c *chaos) life(ctx context.Context, node int, p pod, random *rand.Rand) error {
	s, err := c.begin(ctx, node, p)
	if err != nil {
		return err
	}
	if random.IntN(5) == 0 {
		c.count.repeated.Add(1)
		c.add(ctx, s) // it may fail; package history compares the answers
	}
	sleep(ctx, upTo(random, holdLimit))
	c.check(ctx, s)
	switch chance := random.Float64(); {
	case chance < c.lost:
		return c.vanish(ctx, s)
	case chance < 0.20:
		return c.replace(ctx, s, p, random)
	case chance < 0.50:
		// The pod object is deleted first, as in a forced deletion.
		return errors.Join(c.deletePod(ctx, s), c.end(ctx, s))
	default:
		if err := c.end(ctx, s); err != nil {
			return err
		}
		return c.deletePod(ctx, s)
	}
}

// begin creates the pod, and sandboxes until an ADD succeeds.
func (c *chaos) begin(ctx context.Context, node int, p pod) (*sandbox, error) {
	uid, err := c.createPod(ctx, node, p)
	if err != nil {
		return nil, err
	}
	c.count.pods.Add(1)
	interfaces := []string{"eth0"}
	if p.second {
		interfaces = append(interfaces, "net1")
		c.count.second.Add(1)
	}
	for attempt := 0; ; attempt++ {
		s := &sandbox{node: node, interfaces: interfaces, results: map[string][]byte{}, addresses: map[string][]netip.Addr{},
			Attachment: sim.Attachment{
				ContainerID: fmt.Sprintf("%s-%s-%d", p.name, uid[:8], attempt), NetNS: c.netns,
				Namespace: namespace, Pod: p.name, UID: uid,
			}}
		c.runtimes[node].Add(s.Attachment)
		err := c.add(ctx, s)
		if err == nil {
			return s, nil
		}
		if !sleep(ctx, retryAfter) {
			return nil, fmt.Errorf("%s has no address: %w", p.name, errors.Join(context.Cause(ctx), err))
		}
		if err := c.end(ctx, s); err != nil {
			return nil, err
		}
	}
}

// end removes the sandbox. The runtime calls DEL once to stop a sandbox and again to
// remove it.
func (c *chaos) end(ctx context.Context, s *sandbox) error {
	for range 2 {
		for _, ifname := range slices.Backward(s.interfaces) {
			if err := c.delUntilDone(ctx, s, ifname); err != nil {
				return err
			}
		}
	}
	c.runtimes[s.node].Remove(s.ContainerID)
	return nil
}

// delUntilDone repeats DEL until it succeeds, like kubelet.
func (c *chaos) delUntilDone(ctx context.Context, s *sandbox, ifname string) error {
	for {
		err := c.del(ctx, s, ifname)
		if err == nil {
			return nil
		}
		if !sleep(ctx, retryAfter) {
			return fmt.Errorf("DEL of %s on %s: %w", s.ContainerID, c.cluster.Nodes[s.node].Name, errors.Join(context.Cause(ctx), err))
		}
	}
}

// vanish removes the sandbox without a DEL, and its pod too.
func (c *chaos) vanish(ctx context.Context, s *sandbox) error {
	c.count.lost.Add(1)
	now := time.Now()
	for _, ifname := range s.interfaces {
		c.history.Record(history.Event{Kind: history.Lost, Interface: history.Interface{ContainerID: s.ContainerID, Name: ifname},
			Pod: s.Pod, Node: c.cluster.Nodes[s.node].Name, Start: now, End: now})
		c.attached[s.node].remove(s.key(ifname))
	}
	c.runtimes[s.node].Remove(s.ContainerID)
	return c.deletePod(ctx, s)
}

// replace deletes the pod by force, creates one with the same name on any node, and only
// then removes the old sandbox. The new one must keep its address.
func (c *chaos) replace(ctx context.Context, old *sandbox, p pod, random *rand.Rand) error {
	if err := c.deletePod(ctx, old); err != nil {
		return err
	}
	s, err := c.begin(ctx, random.IntN(c.nodes), p)
	if err != nil {
		return errors.Join(err, c.end(ctx, old))
	}
	c.count.lateDels.Add(1)
	if err := c.end(ctx, old); err != nil {
		return err
	}
	sleep(ctx, upTo(random, holdLimit))
	c.check(ctx, s)
	if err := c.end(ctx, s); err != nil {
		return err
	}
	return c.deletePod(ctx, s)
}

// add runs ADD for one interface after the other, like Multus.
func (c *chaos) add(ctx context.Context, s *sandbox) error {
	for _, ifname := range s.interfaces {
		c.attached[s.node].add(s.key(ifname))
		o := c.call(ctx, "ADD", s, ifname)
		if o.Err != nil {
			c.count.failedAdds.Add(1)
			return o.Err
		}
		c.count.adds.Add(1)
		s.results[ifname] = o.Result
		s.addresses[ifname] = nil
		for _, a := range o.Addresses {
			s.addresses[ifname] = append(s.addresses[ifname], a.Addr())
		}
	}
	return nil
}

// key identifies an interface of the sandbox in calls.
func (s *sandbox) key(ifname string) sim.Attachment {
	a := s.Attachment
	a.Interface = ifname
	return a
}

// del runs DEL once. It may fail only if its agent was down.
func (c *chaos) del(ctx context.Context, s *sandbox, ifname string) error {
	node := c.cluster.Nodes[s.node].Name
	withoutAPI := c.outages.isDown(apiServer)
	o := c.call(ctx, "DEL", s, ifname)
	withoutAPI = withoutAPI && c.outages.isDown(apiServer)
	if o.Err == nil {
		c.attached[s.node].remove(s.key(ifname))
		c.count.dels.Add(1)
		if withoutAPI {
			c.count.delsWithoutAPI.Add(1)
		}
		return nil
	}
	c.count.failedDels.Add(1)
	if ctx.Err() == nil && !c.outages.downSince(node, o.Start.Add(-agentStart)) {
		c.refused.add(fmt.Errorf("DEL of %s/%s on %s failed although its agent was up (%s to %s): %w",
			s.ContainerID, ifname, node, o.Start.Format(time.TimeOnly), o.End.Format(time.TimeOnly), o.Err))
	}
	return o.Err
}

// check runs CHECK for each interface. It may fail only if its agent was down, or a
// process that the agent needs at its start.
func (c *chaos) check(ctx context.Context, s *sandbox) {
	node := c.cluster.Nodes[s.node].Name
	for _, ifname := range s.interfaces {
		o := c.call(ctx, "CHECK", s, ifname)
		if o.Err == nil {
			c.count.checks.Add(1)
			continue
		}
		c.count.failedChecks.Add(1)
		since := o.Start.Add(-agentStart)
		if ctx.Err() == nil && !c.outages.downSince(node, since) && !c.outages.downSince(apiServer, since) && !c.outages.downSince(etcd, since) {
			c.refused.add(fmt.Errorf("CHECK of %s/%s with %v on %s failed although its agent and the API server were up (%s to %s): %w",
				s.ContainerID, ifname, s.addresses[ifname], node, o.Start.Format(time.TimeOnly), o.End.Format(time.TimeOnly), o.Err))
		}
	}
}

// call makes one call and records it. No GC call of the node runs meanwhile.
func (c *chaos) call(ctx context.Context, command string, s *sandbox, ifname string) sim.Outcome {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	c.attached[s.node].calls.RLock()
	defer c.attached[s.node].calls.RUnlock()
	node := c.cluster.Nodes[s.node]
	var previous []byte
	if command != "ADD" {
		previous = s.results[ifname]
	}
	o := node.Plugin.Call(ctx, command, s.key(ifname), previous)
	e := history.Event{
		Kind: history.Kind(command), Interface: history.Interface{ContainerID: s.ContainerID, Name: ifname},
		Pod: s.Pod, Node: node.Name, Start: o.Start, End: o.End,
	}
	if o.Err != nil {
		e.Error = o.Err.Error()
	}
	for _, a := range o.Addresses {
		e.Addresses = append(e.Addresses, a.Addr())
	}
	c.history.Record(e)
	return o
}

// createPod creates the pod object, with retries, and returns its UID.
func (c *chaos) createPod(ctx context.Context, node int, p pod) (uid string, err error) {
	object := sim.NewPod(namespace, p.name, sim.NodeName(node))
	if p.second {
		object.Annotations = map[string]string{names.AnnotationMultusNetworks: second}
	}
	if p.of != nil {
		object.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(p.of, appsv1.SchemeGroupVersion.WithKind("StatefulSet"))}
	}
	pods := c.cluster.Kube.CoreV1().Pods(namespace)
	err = c.request(ctx, func(ctx context.Context) error {
		created, err := pods.Create(ctx, object, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			// An earlier attempt succeeded, but its answer was lost.
			created, err = pods.Get(ctx, p.name, metav1.GetOptions{})
		}
		if err == nil {
			uid = string(created.UID)
		}
		return err
	})
	return uid, err
}

// deletePod deletes the pod object, with retries, unless it has another UID by now.
func (c *chaos) deletePod(ctx context.Context, s *sandbox) error {
	options := metav1.NewDeleteOptions(0)
	options.Preconditions = metav1.NewUIDPreconditions(s.UID)
	return c.request(ctx, func(ctx context.Context) error {
		err := c.cluster.Kube.CoreV1().Pods(namespace).Delete(ctx, s.Pod, *options)
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil
		}
		return err
	})
}

// request repeats a request to the API server until it succeeds.
func (c *chaos) request(ctx context.Context, do func(context.Context) error) error {
	for {
		limited, cancel := context.WithTimeout(ctx, requestLimit)
		err := do(limited)
		cancel()
		if err == nil {
			return nil
		}
		if !sleep(ctx, retryAfter) {
			return errors.Join(context.Cause(ctx), err)
		}
	}
}
